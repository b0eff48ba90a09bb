//! What a shard's part of the JetStream upstream looks like from outside, for metrics.

use super::partition::Partition;
use super::shard::{JetStream, JetStreamCounters};
use crate::proto::histogram::Histogram;
use crate::proto::partition::PartitionId;

/// A shard's links and what is on its way over them.
#[derive(Clone, Debug)]
pub struct JetStreamReport {
    /// Since the start.
    pub counters: JetStreamCounters,
    /// In the order of the ring.
    pub partitions: Vec<PartitionReport>,
    /// Publishes held while their topics move.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
}

/// One partition as a shard has it.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// Which.
    pub partition: PartitionId,
    /// Of which sub-cluster.
    pub sub_cluster: String,
    /// The link is there and subscribed.
    pub is_linked: bool,
    /// From a publish to its acknowledgement, attempts that failed included.
    pub acknowledgements: Histogram,
    /// Publishes on their way.
    pub unacknowledged: u64,
    /// Their bytes.
    pub unacknowledged_bytes: u64,
    /// Publishers of its topics are held.
    pub is_congested: bool,
    /// Bytes that the link's socket has not taken.
    pub pending_bytes: u64,
    /// Messages stored that this shard may not have been given yet.
    pub feed_lag: u64,
    /// Bytes of messages kept for sessions: the last ones, and pages for those further behind.
    pub kept_bytes: u64,
}

impl JetStream {
    /// What there is now. Work: a few steps a partition.
    #[must_use]
    pub fn report(&self) -> JetStreamReport {
        let partitions = self.partitions.iter().map(PartitionReport::from).collect();
        let sessions = self.sessions.as_ref();
        let counters = JetStreamCounters {
            sessions_adopted: sessions.map_or(0, |sessions| sessions.adopted),
            leases_lost: sessions.map_or(0, |sessions| sessions.leases_lost),
            ..self.counters
        };
        let (held, held_bytes) = self.held.load();
        let (held, held_bytes) = (held as u64, held_bytes as u64);
        JetStreamReport { counters, partitions, held, held_bytes }
    }
}

impl From<&Partition> for PartitionReport {
    fn from(partition: &Partition) -> Self {
        let (unacknowledged, unacknowledged_bytes) = partition.lane.load();
        let stored_to = partition.status.as_ref().map_or(0, |status| status.last.next().0);
        Self {
            partition: partition.id,
            sub_cluster: partition.sub_cluster.clone(),
            is_linked: partition.ready,
            acknowledgements: partition.lane.acknowledgements(),
            unacknowledged: unacknowledged as u64,
            unacknowledged_bytes: unacknowledged_bytes as u64,
            is_congested: partition.lane.is_full(0),
            pending_bytes: partition.pending_bytes as u64,
            feed_lag: stored_to.saturating_sub(partition.feed.fed.0),
            kept_bytes: (partition.tail.bytes() + partition.replays.page_bytes()) as u64,
        }
    }
}
