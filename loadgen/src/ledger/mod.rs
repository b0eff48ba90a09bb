//! What is owed and what came: the books of a run, per subscription and publisher.
//!
//! A publisher keeps one [`Published`]; a thread keeps one [`Ledger`] for the subscribers it runs.
//! After the run [`Ledger::settle`] holds the two against each other. Nothing is sampled: every
//! sequence number of every stream is accounted for.

mod sequence_set;
pub(crate) mod wills;

use ahash::AHashMap;
use gateway::proto::mqtt::QoS;
use serde::Serialize;

pub(crate) use sequence_set::{Insertion, SequenceSet};

use crate::payload::Stamp;

/// Deliveries received by some subscribers.
#[derive(Debug)]
pub(crate) struct Ledger {
    epoch: u32,
    streams: AHashMap<StreamKey, Stream>,
    corrupted: u64,
    foreign: u64,
    /// Members of shared subscriptions get their messages in no order.
    ordered: bool,
    /// What is known of sessions that ended.
    ended: Settlement,
}

/// One publisher's messages as one subscriber gets them: the unit in which MQTT promises order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    /// Index of the subscriber in the run.
    pub(crate) subscriber: u32,
    /// Index of the publisher in the run; it publishes to one topic at one QoS.
    pub(crate) publisher: u32,
}

/// What a publisher did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// Sequences 0 to `count - 1` were handed to the broker.
    pub(crate) count: u64,
    /// Those the broker took responsibility for: PUBACK, or PUBREC at QoS 2. Empty at QoS 0.
    pub(crate) acknowledged: SequenceSet,
    /// Those that were given up before an answer, ascending: the broker may have them or not.
    pub(crate) discarded: Vec<u64>,
}

impl Published {
    /// Whether nobody owes `sequence` to anybody.
    fn is_open(&self, sequence: u64) -> bool {
        self.discarded.binary_search(&sequence).is_ok() && !self.acknowledged.contains(sequence)
    }
}

/// What a delivery is in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The first of its sequence number.
    First,
    /// Its sequence number had come before.
    Duplicate,
    /// From another run, or a number nobody can have published yet.
    Foreign,
    /// Published before the subscription, and delivered all the same.
    Early,
}

impl Ledger {
    /// Books for messages of `epoch`; those of any other count as foreign.
    pub(crate) fn new(epoch: u32) -> Self {
        Self {
            epoch,
            streams: AHashMap::new(),
            corrupted: 0,
            foreign: 0,
            ordered: true,
            ended: Settlement::default(),
        }
    }

    /// The same books for streams without an order.
    pub(crate) fn unordered(self) -> Self {
        Self { ordered: false, ..self }
    }

    /// A new subscription: `publisher`'s messages from `first` on are owed.
    ///
    /// What it sent before may still come, and is then held against the order only.
    pub(crate) fn subscribed(&mut self, key: StreamKey, first: u64) {
        if first > 0 {
            let base = first.saturating_sub(EARLY_KEPT);
            let stream = self.streams.entry(key).or_insert_with(|| Stream {
                received: SequenceSet::starting_at(base),
                ..Stream::default()
            });
            stream.first = first;
        }
    }

    /// Whether all that is owed in the stream `key` has come.
    pub(crate) fn is_complete(&self, key: StreamKey, published: &Published) -> bool {
        let Some(stream) = self.streams.get(&key) else { return published.count == 0 };
        (stream.first == 0 && stream.received.count() == published.count)
            || (stream.first..published.count)
                .all(|n| stream.received.contains(n) || published.is_open(n))
    }

    /// The session of `key`'s subscriber is gone, with what the broker had not delivered.
    ///
    /// What is missing below the last delivery was lost before, for messages come in order: counted
    /// if the broker had acknowledged it.
    pub(crate) fn session_ended(&mut self, key: StreamKey, published: &Published) {
        let Some(stream) = self.streams.remove(&key) else { return };
        let lost = (stream.first..stream.next)
            .filter(|sequence| !stream.received.contains(*sequence))
            .filter(|sequence| self.ordered && published.acknowledged.contains(*sequence));
        let lost = Missing::of(lost);
        let came = (stream.first..stream.next).filter(|n| stream.received.contains(*n)).count();
        self.ended.acknowledged_then_lost += lost.count;
        self.ended.enter(key, &stream, came as u64, &lost);
    }

    /// Enters a delivery of a message that is intact.
    pub(crate) fn delivered(&mut self, subscriber: u32, stamp: &Stamp) -> Delivery {
        if stamp.epoch != self.epoch {
            self.foreign += 1;
            return Delivery::Foreign;
        }
        let key = StreamKey { subscriber, publisher: stamp.publisher };
        let stream = self.streams.entry(key).or_default();
        match stream.received.insert(stamp.sequence) {
            Insertion::New => {
                if stamp.sequence < stream.next && self.ordered {
                    stream.reordered += 1;
                }
                stream.next = stream.next.max(stamp.sequence + 1);
                if stamp.sequence < stream.first { Delivery::Early } else { Delivery::First }
            }
            Insertion::Before => Delivery::Early,
            Insertion::AlreadyIn => {
                stream.duplicated += 1;
                Delivery::Duplicate
            }
            Insertion::OutOfReach => {
                self.foreign += 1;
                Delivery::Foreign
            }
        }
    }

    /// Enters a delivery whose checksum is wrong.
    pub(crate) fn corrupted(&mut self) {
        self.corrupted += 1;
    }

    /// Holds what came against what was `published` (by publisher index).
    ///
    /// `owed` are the streams that should exist. A stream that is not in it, or a sequence beyond
    /// what its publisher sent, is foreign: the broker delivered what nobody asked it to.
    pub(crate) fn settle(
        self,
        published: &[Published],
        owed: impl IntoIterator<Item = StreamKey>,
    ) -> Settlement {
        let mut settlement = self.ended;
        settlement.corrupted += self.corrupted;
        settlement.foreign += self.foreign;
        let mut streams = self.streams;
        for key in owed {
            let stream = streams.remove(&key).unwrap_or_default();
            if let Some(published) =
                usize::try_from(key.publisher).ok().and_then(|publisher| published.get(publisher))
            {
                settlement.add(key, &stream, published);
            }
        }
        settlement.foreign +=
            streams.values().map(|s| s.received.count() + s.duplicated).sum::<u64>();
        settlement
    }
}

/// What came in one stream.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// The first sequence that is owed.
    first: u64,
    received: SequenceSet,
    /// One above the highest sequence received.
    next: u64,
    duplicated: u64,
    reordered: u64,
}

/// The outcome of a run, summed over its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Settlement {
    /// Messages published, once for each subscription that should get them.
    pub(crate) owed: u64,
    /// Of those, how many came at least once.
    pub(crate) delivered: u64,
    /// Of those, how many never came.
    pub(crate) lost: u64,
    /// Lost although the broker had acknowledged the publish; part of `lost`.
    pub(crate) acknowledged_then_lost: u64,
    /// Deliveries of what had come before.
    pub(crate) duplicated: u64,
    /// First deliveries after that of a later message of the same stream.
    pub(crate) reordered: u64,
    /// Deliveries with a wrong checksum.
    pub(crate) corrupted: u64,
    /// Deliveries of what was not published in this run or not subscribed to.
    pub(crate) foreign: u64,
    /// CONNECTs answered without a session that the broker should have kept.
    pub(crate) sessions_lost: u64,
    /// Wills of connections that were lost, which never came.
    pub(crate) wills_missing: u64,
    /// Wills of connections that ended with DISCONNECT, or not at all.
    pub(crate) wills_unexpected: u64,
    /// Topics whose retained message is missing, or is not the last one.
    pub(crate) retained_wrong: u64,
    /// The first streams with a fault, at most [`FAULTY_STREAMS_MAX`].
    pub(crate) faulty_streams: Vec<StreamFault>,
}

/// A stream in which something was lost, duplicated or reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StreamFault {
    /// Index of the subscriber in the run.
    pub(crate) subscriber: u32,
    /// Index of the publisher in the run.
    pub(crate) publisher: u32,
    /// As in [`Settlement`].
    pub(crate) lost: u64,
    /// As in [`Settlement`].
    pub(crate) duplicated: u64,
    /// As in [`Settlement`].
    pub(crate) reordered: u64,
    /// The lowest sequence lost.
    pub(crate) first_lost: Option<u64>,
}

/// Below the first sequence owed, so many are told apart: a publisher has fewer under way.
const EARLY_KEPT: u64 = 256;
/// How many faulty streams a settlement names.
pub(crate) const FAULTY_STREAMS_MAX: usize = 20;

impl Settlement {
    /// Sums up settlements of different subscribers.
    pub(crate) fn merge(&mut self, other: Self) {
        self.owed += other.owed;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.acknowledged_then_lost += other.acknowledged_then_lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.foreign += other.foreign;
        self.sessions_lost += other.sessions_lost;
        self.wills_missing += other.wills_missing;
        self.wills_unexpected += other.wills_unexpected;
        self.retained_wrong += other.retained_wrong;
        let room = FAULTY_STREAMS_MAX.saturating_sub(self.faulty_streams.len());
        self.faulty_streams.extend(other.faulty_streams.into_iter().take(room));
    }

    /// The promise of `qos` that was broken, if one was.
    ///
    /// At QoS 0 a loss is none. What is corrupted or foreign breaks every QoS.
    /// Source: MQTT 5.0 §4.3 (delivery), §4.6 (order); MQTT 3.1.1 §4.3, §4.6.
    pub(crate) fn breach(&self, qos: QoS) -> Option<Breach> {
        self.breaches(qos).next()
    }

    /// All promises of `qos` that were broken.
    pub(crate) fn breaches(&self, qos: QoS) -> impl Iterator<Item = Breach> + use<> {
        let at_least_once = qos >= QoS::AtLeastOnce;
        [
            (self.corrupted > 0, Breach::Corrupted),
            (self.foreign > 0, Breach::Foreign),
            (self.sessions_lost > 0, Breach::SessionLost),
            (at_least_once && self.lost > 0, Breach::Lost),
            (at_least_once && self.reordered > 0, Breach::Reordered),
            (qos == QoS::ExactlyOnce && self.duplicated > 0, Breach::Duplicated),
            (self.wills_missing > 0 || self.wills_unexpected > 0, Breach::WillWrong),
            (self.retained_wrong > 0, Breach::RetainedWrong),
        ]
        .into_iter()
        .filter_map(|(broken, breach)| broken.then_some(breach))
    }

    fn add(&mut self, key: StreamKey, stream: &Stream, published: &Published) {
        let owed = stream.first..published.count;
        let missing = owed
            .clone()
            .filter(|sequence| !stream.received.contains(*sequence))
            .filter(|sequence| !published.is_open(*sequence));
        let missing = Missing::of(missing.inspect(|sequence| {
            if published.acknowledged.contains(*sequence) {
                self.acknowledged_then_lost += 1;
            }
        }));
        let came = owed.filter(|sequence| stream.received.contains(*sequence)).count() as u64;
        let early = (stream.first.saturating_sub(EARLY_KEPT + 64)..stream.first)
            .filter(|sequence| stream.received.contains(*sequence))
            .count() as u64;
        self.foreign += stream.received.count().saturating_sub(came + early);
        self.enter(key, stream, came, &missing);
    }

    fn enter(&mut self, key: StreamKey, stream: &Stream, came: u64, missing: &Missing) {
        self.owed += came + missing.count;
        self.delivered += came;
        self.lost += missing.count;
        self.duplicated += stream.duplicated;
        self.reordered += stream.reordered;
        let faulty = missing.count > 0 || stream.duplicated > 0 || stream.reordered > 0;
        if faulty && self.faulty_streams.len() < FAULTY_STREAMS_MAX {
            self.faulty_streams.push(StreamFault {
                subscriber: key.subscriber,
                publisher: key.publisher,
                lost: missing.count,
                duplicated: stream.duplicated,
                reordered: stream.reordered,
                first_lost: missing.first,
            });
        }
    }
}

/// Sequences that never came.
struct Missing {
    count: u64,
    first: Option<u64>,
}

impl Missing {
    fn of(sequences: impl Iterator<Item = u64>) -> Self {
        sequences.fold(Self { count: 0, first: None }, |missing, sequence| Self {
            count: missing.count + 1,
            first: missing.first.or(Some(sequence)),
        })
    }
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Breach {
    /// A message never came, QoS 1 and 2.
    Lost,
    /// A message came first after a later one, QoS 1 and 2.
    Reordered,
    /// A message came twice, QoS 2.
    Duplicated,
    /// A message came changed.
    Corrupted,
    /// A message came that was not published or not subscribed to.
    Foreign,
    /// The broker forgot a session that it had to keep.
    SessionLost,
    /// A will did not come, or came although its client said DISCONNECT.
    WillWrong,
    /// A retained message is missing, or is not the last one.
    RetainedWrong,
}

#[cfg(test)]
mod tests;
