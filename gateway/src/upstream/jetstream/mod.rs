//! The JetStream upstream: so far what it says and understands, without a connection.
//!
//! [`publish`], [`batch`] and [`direct_get`] build requests as bytes and read answers from bytes,
//! [`stored`] reads what a server adds to a stored message, [`Window`] keeps publishes that wait
//! for their acknowledgement, [`Backoff`] says when to try again. Nothing here does I/O or knows
//! the time by itself; links, replay, records and control are to be built on it.
//!
//! Source: JetStream as nats-server 2.12.0 and 2.15.1 speak it; ADR-31 (Direct Get).

pub mod batch;
pub mod control;
pub mod direct_get;
pub mod forward;
pub mod interest;
pub mod lane;
pub mod link;
pub mod publish;
pub mod requests;
pub mod shard;
pub mod stored;
pub mod tail;

mod backoff;
mod inbox;
mod partition;
mod replay;
mod retained;
mod window;

pub use backoff::Backoff;
pub use inbox::{Inbox, Token};
pub use partition::PartitionLimits;
pub use window::{Outcome, Released, Window};
