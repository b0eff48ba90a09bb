//! Who connects, publishes and subscribes, and on which thread.

use gateway::proto::mqtt::QoS;

use crate::{
    args::{BenchArguments, Pattern},
    client::{ClientOptions, Publication, Topics},
    ledger::StreamKey,
    report::as_f64,
    result::Group,
};

/// A run, decided.
#[derive(Debug)]
pub(super) struct Plan {
    arguments: BenchArguments,
    /// Tells this run's client ids, topics and payloads from those of others.
    pub(super) epoch: u32,
    pub(super) publishers: u32,
    pub(super) threads: u32,
    pub(super) saturate: bool,
    topics: Topics,
}

impl Plan {
    /// The plan of `arguments` for the run `epoch`.
    pub(super) fn new(arguments: BenchArguments, epoch: u32) -> Self {
        let topics = match arguments.pattern {
            Pattern::OneToOne | Pattern::FanIn => {
                Topics::Numbered(format!("bench/{epoch:08x}/").into())
            }
            Pattern::FanOut => Topics::Same(format!("bench/{epoch:08x}/all").into()),
        };
        Self {
            topics,
            epoch,
            publishers: arguments.publishers,
            // A thread without a device would only wake up for nothing.
            threads: arguments.threads.min(arguments.publishers.max(arguments.subscribers)),
            saturate: arguments.saturate,
            arguments,
        }
    }

    /// What was asked for.
    pub(super) fn arguments(&self) -> &BenchArguments {
        &self.arguments
    }

    /// The publishers of `thread`, by their index in the run. Their connections come first.
    pub(super) fn publishers_of(&self, thread: u32) -> impl Iterator<Item = u32> + use<> {
        spread(self.arguments.publishers, thread, self.threads)
    }

    /// The subscribers of `thread`, by their index in the run.
    ///
    /// With one-to-one and several threads, a subscriber is on the thread after its publisher's.
    pub(super) fn subscribers_of(&self, thread: u32) -> impl Iterator<Item = u32> + use<> {
        spread(self.arguments.subscribers, (thread + 1) % self.threads, self.threads)
    }

    /// The devices of `thread`: its publishers, then its subscribers with their index.
    pub(super) fn members_of(
        &self,
        thread: u32,
    ) -> impl Iterator<Item = (ClientOptions, Option<u32>)> + '_ {
        let publishers = self.publishers_of(thread).map(|index| (self.publisher(index), None));
        let subscribers =
            self.subscribers_of(thread).map(|index| (self.subscriber(index), Some(index)));
        publishers.chain(subscribers)
    }

    /// The streams the subscribers of `thread` should get.
    pub(super) fn streams_of(&self, thread: u32) -> impl Iterator<Item = StreamKey> + '_ {
        self.subscribers_of(thread).flat_map(|subscriber| {
            let publishers = match self.arguments.pattern {
                Pattern::OneToOne => subscriber..subscriber + 1,
                Pattern::FanIn | Pattern::FanOut => 0..self.arguments.publishers,
            };
            publishers.map(move |publisher| StreamKey { subscriber, publisher })
        })
    }

    /// The QoS of everything.
    pub(super) fn qos(&self) -> QoS {
        self.arguments.qos.into()
    }

    /// What the run is called.
    pub(super) fn scenario(&self) -> &'static str {
        match self.arguments.pattern {
            Pattern::OneToOne => "bench one-to-one",
            Pattern::FanIn => "bench fan-in",
            Pattern::FanOut => "bench fan-out",
        }
    }

    /// The devices, as a result describes them.
    pub(super) fn groups(&self) -> Vec<Group> {
        let arguments = &self.arguments;
        let every = Group::of(arguments.target.mqtt, u64::from(arguments.publishers));
        let every = Group { qos: Some(self.qos() as u8), ..every };
        let publishers = Group {
            name: "publishers".to_owned(),
            publish_rate_per_s: (!self.saturate).then_some(as_f64(arguments.rate)),
            saturating: self.saturate,
            payload_bytes: Some(arguments.payload_bytes as u64),
            ..every.clone()
        };
        let subscribers = Group {
            name: "subscribers".to_owned(),
            devices: u64::from(arguments.subscribers),
            subscriptions_each: 1,
            ..every
        };
        vec![publishers, subscribers]
    }

    fn publisher(&self, index: u32) -> ClientOptions {
        let epoch = self.epoch;
        let publication = Publication {
            topics: self.topics.clone(),
            qos: self.qos(),
            retain: false,
            payload_bytes: u32::try_from(self.arguments.payload_bytes).unwrap_or(u32::MAX),
            window: self.arguments.window,
            retransmit_after_ms: 0,
        };
        self.client(format!("p{epoch:08x}-{index}"), None, Some(publication))
    }

    fn subscriber(&self, index: u32) -> ClientOptions {
        let epoch = self.epoch;
        let filter = match self.arguments.pattern {
            Pattern::OneToOne => format!("bench/{epoch:08x}/{index}"),
            Pattern::FanIn => format!("bench/{epoch:08x}/+"),
            Pattern::FanOut => format!("bench/{epoch:08x}/all"),
        };
        self.client(format!("s{epoch:08x}-{index}"), Some((filter.into(), self.qos())), None)
    }

    fn client(
        &self,
        client_id: String,
        subscription: Option<(Box<str>, QoS)>,
        publication: Option<Publication>,
    ) -> ClientOptions {
        ClientOptions {
            version: self.arguments.target.mqtt.into(),
            client_id: client_id.into(),
            clean_start: true,
            session_expiry_interval_s: 0,
            keep_alive_s: 0,
            subscription,
            publication,
            will: None,
        }
    }
}

/// The share of `thread` of 0 to `count - 1`, dealt out in turn.
fn spread(count: u32, thread: u32, threads: u32) -> impl Iterator<Item = u32> + use<> {
    (thread..count).step_by(threads as usize)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn plan(arguments: &[&str]) -> Plan {
        let all = ["loadgen", "bench"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Bench(bench) => Plan::new(bench, 1),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_device_is_on_exactly_one_thread() {
        let plan = plan(&[
            "--publishers",
            "7",
            "--subscribers",
            "3",
            "--pattern",
            "fan-in",
            "--threads",
            "2",
        ]);
        let mut publishers: Vec<_> = (0..2).flat_map(|t| plan.publishers_of(t)).collect();
        publishers.sort_unstable();
        assert_eq!(publishers, (0..7).collect::<Vec<_>>());
        let streams: usize = (0..2).map(|t| plan.streams_of(t).count()).sum();
        assert_eq!(streams, 21);
    }

    #[test]
    fn one_to_one_pairs_share_a_topic_of_their_own() {
        let plan = plan(&["--publishers", "4", "--subscribers", "4"]);
        for index in 0..4 {
            let mut topic = String::new();
            plan.publisher(index).publication.unwrap().topics.write(index, &mut topic);
            assert_eq!(*plan.subscriber(index).subscription.unwrap().0, *topic);
        }
        assert_eq!(plan.streams_of(0).count(), 4);
    }

    #[test]
    fn there_are_no_more_threads_than_devices() {
        assert_eq!(plan(&["--publishers", "1", "--subscribers", "1", "--threads", "8"]).threads, 1);
    }
}
