//! The JetStream upstream: messages in the streams of several small clusters.
//!
//! ```text
//! Forward ─▶ shard (JetStream) ─▶ partition: lane, feed, tail, replay, retained, requests ─▶ link ─▶ bytes
//!                                 control thread ─ ControlNews ─▶ shard
//! ```
//! Start with [`shard`]. [`publish`] and [`direct_get`] build requests as bytes and read answers
//! from bytes, [`stored`] reads what a server adds to a stored message, [`Window`] keeps publishes that
//! wait for their acknowledgement, `held` those whose topics move, [`Backoff`] says when to try again. Only [`control`] does I/O, on its
//! own thread; nothing else here knows the time by itself.
//!
//! Source: JetStream as nats-server 2.12.0 and 2.15.1 speak it; ADR-31 (Direct Get).

pub mod consumer;
pub mod control;
pub mod direct_get;
pub mod forward;
pub mod interest;
pub mod lane;
pub mod link;
mod lost_tail;
pub mod members;
pub mod publish;
pub mod report;
pub mod requests;
pub mod sessions;
pub mod shard;
pub mod stored;
pub mod tail;

mod absent;
mod append;
mod backoff;
mod confirmed;
mod events;
mod feed;
mod former;
mod group_inbox;
mod held;
mod inbox;
mod intents;
mod known;
mod lanes;
mod moving;
mod partition;
mod place;
mod refusals;
mod replay;
mod retained;
mod scans;
mod searches;
mod shared;
mod stream_end;
mod window;

pub use backoff::Backoff;
pub use events::EVENTS_PREFIX;
pub use inbox::{Inbox, Token};
pub use lost_tail::{Checked, LostTail};
pub use moving::ShardReport;
pub use partition::PartitionLimits;
pub use shared::SharedLimits;
pub use window::{Outcome, Released, Window};
