//! What is owed and what came: the books of a run, per subscription and publisher.
//!
//! A publisher keeps one [`Published`]; a thread keeps one [`Ledger`] for the subscribers it runs.
//! After the run [`Ledger::settle`] holds the two against each other. Nothing is sampled: every
//! sequence number of every stream is accounted for.

mod sequence_set;

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
}

impl Ledger {
    /// Books for messages of `epoch`; those of any other count as foreign.
    pub(crate) fn new(epoch: u32) -> Self {
        Self { epoch, streams: AHashMap::new(), corrupted: 0, foreign: 0 }
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
                if stamp.sequence < stream.next {
                    stream.reordered += 1;
                }
                stream.next = stream.next.max(stamp.sequence + 1);
                Delivery::First
            }
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
        let mut settlement = Settlement {
            corrupted: self.corrupted,
            foreign: self.foreign,
            ..Settlement::default()
        };
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
        let room = FAULTY_STREAMS_MAX.saturating_sub(self.faulty_streams.len());
        self.faulty_streams.extend(other.faulty_streams.into_iter().take(room));
    }

    /// The promise of `qos` that was broken, if one was.
    ///
    /// At QoS 0 a loss is none. What is corrupted or foreign breaks every QoS.
    /// Source: MQTT 5.0 §4.3 (delivery), §4.6 (order); MQTT 3.1.1 §4.3, §4.6.
    pub(crate) fn breach(&self, qos: QoS) -> Option<Breach> {
        let at_least_once = qos >= QoS::AtLeastOnce;
        [
            (self.corrupted > 0, Breach::Corrupted),
            (self.foreign > 0, Breach::Foreign),
            (at_least_once && self.lost > 0, Breach::Lost),
            (at_least_once && self.reordered > 0, Breach::Reordered),
            (qos == QoS::ExactlyOnce && self.duplicated > 0, Breach::Duplicated),
        ]
        .into_iter()
        .find_map(|(broken, breach)| broken.then_some(breach))
    }

    fn add(&mut self, key: StreamKey, stream: &Stream, published: &Published) {
        let missing = (0..published.count).filter(|sequence| !stream.received.contains(*sequence));
        let mut first_lost = None;
        let mut lost = 0;
        for sequence in missing {
            first_lost.get_or_insert(sequence);
            lost += 1;
            if published.acknowledged.contains(sequence) {
                self.acknowledged_then_lost += 1;
            }
        }
        let delivered = published.count - lost;
        self.owed += published.count;
        self.delivered += delivered;
        self.lost += lost;
        self.duplicated += stream.duplicated;
        self.reordered += stream.reordered;
        self.foreign += stream.received.count().saturating_sub(delivered);
        let faulty = lost > 0 || stream.duplicated > 0 || stream.reordered > 0;
        if faulty && self.faulty_streams.len() < FAULTY_STREAMS_MAX {
            self.faulty_streams.push(StreamFault {
                subscriber: key.subscriber,
                publisher: key.publisher,
                lost,
                duplicated: stream.duplicated,
                reordered: stream.reordered,
                first_lost,
            });
        }
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
}

#[cfg(test)]
mod tests;
