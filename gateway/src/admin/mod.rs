//! What an operator sees and does: metrics, health, API, status page. Off the data path.
//!
//! One thread with a small runtime serves HTTP/1.1 on the admin address. Whatever it needs of a
//! shard it asks by message ([`NodeHandle`]); a shard answers between sweeps from what it counts
//! anyway. So a scrape costs a shard one message and a copy of some kilobytes, and nothing at all
//! is paid where nobody looks: counters are plain numbers of the shard's own, no atomics.
//!
//! Read `server` (who may ask), then `metrics` (the families).

mod exposition;
mod metrics;
mod process;
mod server;

pub use server::{AdminError, AdminServer};

use crate::config::Config;
use crate::node::NodeHandle;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

/// What requests are answered from.
struct AdminState {
    config: Config,
    /// Set once the node runs.
    node: OnceLock<NodeHandle>,
    /// The node takes no more clients.
    draining: AtomicBool,
}
