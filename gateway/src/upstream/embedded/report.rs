//! What a shard's part of the embedded upstream looks like from outside, for metrics.

use super::log::{Health, Log};
use super::shard::Embedded;
use crate::proto::histogram::Histogram;
use crate::proto::partition::PartitionId;

/// A shard's logs and what it keeps beside them.
#[derive(Clone, Debug)]
pub struct EmbeddedReport {
    /// Its own log first, then those of partitions that no shard appends to any more.
    pub logs: Vec<LogReport>,
    /// From the sweep a message came in to the one in which it was committed.
    pub commits: Histogram,
    /// QoS 0 messages dropped because another shard took nothing.
    pub mesh_dropped: u64,
    /// Requests that wait for room in the storage thread's queue.
    pub store_waiting: u64,
    /// Publishers of this shard are held.
    pub is_congested: bool,
    /// Bytes of other shards' logs kept in memory.
    pub remote_tail_bytes: u64,
}

/// One log.
#[derive(Clone, Copy, Debug)]
pub struct LogReport {
    /// Whose.
    pub partition: PartitionId,
    /// Committed bytes in all segments.
    pub retained_bytes: u64,
    /// Appended and not committed.
    pub uncommitted_bytes: u64,
    /// Committed bytes that are still in memory.
    pub tail_bytes: u64,
    /// How it fares with its files.
    pub health: Health,
    /// Damaged stretches and failed reads since the start.
    pub read_failures: u64,
}

impl From<&Log> for LogReport {
    fn from(log: &Log) -> Self {
        Self {
            partition: log.partition(),
            retained_bytes: log.retained_bytes(),
            uncommitted_bytes: log.uncommitted_bytes() as u64,
            tail_bytes: log.tail_bytes() as u64,
            health: log.health(),
            read_failures: log.read_failures(),
        }
    }
}

impl Embedded {
    /// What there is now. Work: a few steps a log and segment.
    #[must_use]
    pub fn report(&self) -> EmbeddedReport {
        EmbeddedReport {
            logs: self.logs().map(LogReport::from).collect(),
            commits: self.commits,
            mesh_dropped: self.mesh_dropped,
            store_waiting: self.out.store.len() as u64,
            is_congested: self.holds_publishers(),
            remote_tail_bytes: self.remote_tail_bytes() as u64,
        }
    }
}
