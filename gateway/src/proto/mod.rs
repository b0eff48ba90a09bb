//! What the gateway thinks: protocol, sessions, routing, cursors.
//!
//! Everything here is a value: bytes, events and time go in, bytes and actions come out. Nothing
//! below this module knows a socket, a file, a clock, a thread or a runtime, which is what lets
//! the simulation drive several whole shards from one seed.
#![forbid(unsafe_code)]

pub mod access;
pub mod bridge;
pub mod bucket;
pub mod engine_counters;
pub mod handler;
pub mod histogram;
pub mod limits;
pub mod mqtt;
pub mod nats;
pub mod output;
pub mod packet_counts;
pub mod partition;
pub mod proxy_protocol;
pub mod record;
pub mod routing;
pub mod sampled;
pub mod session;
pub mod shard_state;
pub mod tenant;
pub mod time;
pub mod trace;
pub mod websocket;
pub mod wheel;
