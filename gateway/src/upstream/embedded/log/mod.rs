//! The log of one partition: append, group commit, read back, recover.
//!
//! [`Log`] is a state machine without I/O: [`Log::append`] frames a record into the open group,
//! [`Log::flush`] closes the group and says what to do to the files, [`Log::handle_io`] takes
//! the outcome and hands out what became durable.
//!
//! ```text
//! append ─▶ open group ─flush▶ pending ─Write▶ unsynced ─Sync▶ committed ─▶ tail (memory)
//!                                 ▲                │ failed                └▶ pieces (disk)
//!                                 └── new segment ─┘
//! ```
//!
//! At most one write or sync is in flight; whatever is appended meanwhile is the next group.

pub mod commit;
pub mod faulty_files;
pub mod files;
pub mod frame;
pub mod index;
pub mod io;
pub mod limits;
pub mod read;
pub mod recover;
pub mod segment;

mod distrust;
mod heads;
mod pieces;
mod spare;
mod tail;
mod trim;

#[cfg(test)]
mod tests;

pub use commit::{Health, Log};
pub use frame::topic_hash;
pub use io::{IoDone, IoFault, IoToken, LogFile, LogIo};
pub use limits::{Durability, LogLimits};
pub use read::{ReadStep, Replay, ReplayAnswer, ReplayRequest, ReplayTopics};
pub use recover::{Recovered, RecoveryReport, recover};
pub use segment::SegmentId;
