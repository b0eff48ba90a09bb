//! The control thread: what a gateway decides about its sub-clusters beside the data path.
//!
//! One thread with async-nats. It finds or makes the ring, sees that each member's servers can do
//! what is needed and its streams are as they should be, and looks about once a second how each
//! partition is. What it finds it tells as [`ControlNews`]; it neither publishes a message of a
//! client nor reads one.
//!
//! ```text
//! ring_key ──table──▶ ring_watch ──one task a member──▶ member: servers, streams, status
//!                        └──────────── tell(ControlNews) ◀───────┘
//! ```
//! [`change_ring`] is no part of the thread: a command that changes the ring, which the threads of all
//! gateways follow and say so (`registration`).

mod api;
mod change;
mod examine;
mod fault;
mod member;
mod moved_retained;
mod names;
mod permissions;
mod registration;
mod requirement;
mod ring_key;
mod ring_watch;
mod server_names;
mod settings;
mod show;
mod stream_info;
mod stream_settings;
mod streams;
mod sub_cluster;
mod thread;

use super::stored::StoreTime;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_table::RingTable;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::time::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;

pub use change::{ChangeRing, change_ring, forget_gateway};
pub use examine::{Examined, ServerFacts, ServerFault, StreamFacts, examine};
pub use names::{
    UPLINK_PREFIX, live_prefix, retained_prefix, retained_stream_name, sessions_prefix,
    sessions_stream_name, stream_name, uplink_stream_name,
};
pub use settings::{ControlSettings, Extras, SubClusterSettings};
pub use show::show_ring;
pub use thread::ControlThread;

/// What the control thread tells every shard.
#[derive(Clone, Debug)]
pub enum ControlNews {
    /// The ring in force, and what follows from it; said before any partition of it, and again when its
    /// epoch changes.
    Ring(Arc<RingTable>, Ring),
    /// How a partition is; said when something of it changes, and about once a second.
    Partition(PartitionStatus),
}

/// How a partition is, as the leader of its stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which one.
    pub partition: PartitionId,
    /// Where its leader accepts clients; `None` while it has none that is known.
    pub leader: Option<SocketAddr>,
    /// INFO's `server_name` of the leader.
    pub leader_name: String,
    /// Since when it leads; `None` where the servers do not say.
    pub leader_since: Option<StoreTime>,
    /// What time it was there when it said so; `None` where the servers do not say.
    pub server_time: Option<Timestamp>,
    /// When the stream was created: another time means that sequences started over.
    pub created: StoreTime,
    /// The first sequence still kept (`state.first_seq`).
    pub first: Sequence,
    /// The last sequence (`state.last_seq`).
    pub last: Sequence,
    /// When that was stored (`state.last_ts`); `None` before anything was.
    pub last_at: Option<StoreTime>,
    /// INFO's `server_id` of the process that said so; `None` where it is not certain which that was.
    pub server_id: Option<String>,
    /// How many replicas the stream has (`num_replicas`).
    pub replicas: u8,
}
