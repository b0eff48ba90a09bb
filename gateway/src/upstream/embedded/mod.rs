//! The embedded upstream: a log a shard on the local disk, and keyed state folded from the logs.

pub mod disk_watch;
pub mod ends;
pub mod groups;
pub mod log;
pub mod message;
pub mod quota;
pub mod replays;
pub mod report;
pub mod shard;
pub mod store;
