//! What threads beside the shards may ask a shard, and what it answers.
//!
//! A shard answers between sweeps, from what it counts anyway, and never waits for who asked.

use super::embedded::report::EmbeddedReport;
use super::jetstream::report::JetStreamReport;
use crate::proto::engine_counters::EngineReport;
use crate::proto::packet_counts::SentCounts;
use crate::proto::shard_state::inspect::{
    SessionRow, SessionView, SessionsPage, SessionsQuery, SubscribersPage,
};
use crate::proto::shard_state::{Counters, Gauges};
use crate::proto::time::Timestamp;
use crate::proto::trace::TraceLine;
use tokio::sync::oneshot;

/// A question to one shard. An answer channel that is dropped means that the shard had too many.
#[derive(Debug)]
pub enum Inquiry {
    /// Everything that is counted.
    Report(oneshot::Sender<Box<ShardReport>>),
    /// A page of its sessions.
    Sessions(SessionsQuery, oneshot::Sender<SessionsPage>),
    /// One session in full.
    Session(Box<str>, oneshot::Sender<Option<Box<SessionView>>>),
    /// Who gets messages of a topic.
    Subscribers(Box<str>, oneshot::Sender<SubscribersPage>),
    /// The sessions that are furthest behind or have most on their way, slowest first.
    Slowest(oneshot::Sender<Vec<SessionRow>>),
    /// Those that publish most, with messages and bytes a second.
    Talkers(oneshot::Sender<Vec<(SessionRow, f64, f64)>>),
    /// Ends the connection of a client; whether it had one.
    Kick(Box<str>, oneshot::Sender<bool>),
    /// Sends clients to other gateways; how many, about.
    Rebalance {
        /// Of a million clients.
        share_ppm: u32,
        /// At most, over all shards.
        per_s: u32,
        /// Of this shard.
        answer: oneshot::Sender<u64>,
    },
    /// Shows the packets of a client.
    Trace(TraceRequest),
}

/// Shows the packets of a client until `until`, or until nobody takes them.
#[derive(Debug)]
pub struct TraceRequest {
    /// Whose.
    pub client_id: Box<str>,
    /// When it ends by itself.
    pub until: Timestamp,
    /// Where lines go. What does not fit is left out.
    pub lines: flume::Sender<TraceLine>,
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
