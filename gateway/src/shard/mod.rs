//! What moves bytes: one event loop a shard, over its own io_uring.
//!
//! Read `engine` first (the loop), then `lifecycle` (a connection from accept to close), `ring`
//! (the kernel's side, where the `unsafe` is) and `mesh` (between shards). Nothing here knows MQTT:
//! the loop drives any [`Handler`](crate::proto::handler::Handler).

#[expect(unsafe_code, reason = "memory shared with the kernel; the crate has no safe interface")]
mod buffers;
pub mod clock;
#[expect(unsafe_code, reason = "a system call that no crate has a safe interface for")]
pub mod clock_status;
mod connections;
mod dial;
mod engine;
mod gather;
mod hand_over;
mod lifecycle;
pub mod listener;
mod mesh;
mod node;
pub mod requirements;
#[expect(
    unsafe_code,
    reason = "io_uring requests point to memory; the file owns what they point to"
)]
mod ring;
mod setup;
mod silence;
mod strangers;
mod tls;
mod told;
mod transport;

pub use crate::proto::engine_counters::EngineCounters;
pub use hand_over::{Ended, ListeningSocket, Parting, Restless};
pub use mesh::MeshSender;
pub use node::{BoundNode, EngineConfig, Node, StartError};
