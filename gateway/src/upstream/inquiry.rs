//! What threads beside the shards may ask a shard, and what it answers.
//!
//! A shard answers between sweeps, from what it counts anyway, and never waits for who asked.

use super::embedded::report::EmbeddedReport;
use super::jetstream::report::JetStreamReport;
use crate::proto::engine_counters::EngineReport;
use crate::proto::packet_counts::SentCounts;
use crate::proto::shard_state::{Counters, Gauges};
use tokio::sync::oneshot;

/// A question to one shard. An answer channel that is dropped means that the shard had too many.
#[derive(Debug)]
pub enum Inquiry {
    /// Everything that is counted.
    Report(oneshot::Sender<Box<ShardReport>>),
}

/// What one shard counted since its start, and what it has now.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Of the engine.
    pub engine: EngineReport,
    /// Of MQTT, inbound.
    pub counters: Counters,
    /// Of MQTT, outbound.
    pub sent: SentCounts,
    /// Connections, sessions, messages on their way.
    pub gauges: Gauges,
    /// Bytes written for clients and with the kernel.
    pub outbox_bytes: u64,
    /// Its own log, and what it has of others'.
    pub embedded: EmbeddedReport,
    /// Its links, if messages are in JetStream.
    pub jetstream: Option<JetStreamReport>,
}
