//! What a log may use, and when it calls a record durable.

use std::time::Duration;

/// When a record counts as committed, which is when it may be acknowledged and delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After `fdatasync`: survives a power cut.
    Fsync,
    /// After the write: survives a crash of the process. `fdatasync` follows once an interval, so
    /// a power cut may take what was acknowledged in the last one.
    Interval(Duration),
    /// At once, with no file at all: nothing survives the process.
    Memory,
}

/// The limits of one log. Bytes are frame bytes, headers of frames included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A segment is left for the next one once it holds this much. Default 64 MiB, at most
    /// [`LogLimits::SEGMENT_BYTES_MAX`]. Costs memory only through the topic index of the segment
    /// being written, 12 to 24 bytes a topic.
    pub segment_bytes: u64,
    /// [`is_full`](super::Log::is_full) from here on. Default 8 GiB.
    pub retention_bytes: u64,
    /// A segment older than this goes even when a session still needs it. Default 7 days.
    pub retention_age: Duration,
    /// Committed chunks kept in memory for readers close to the end. Default 16 MiB. What is not
    /// synced yet is kept in any case.
    pub tail_bytes_max: usize,
    /// Pieces of files kept in memory for readers further back. Default 4 MiB.
    pub piece_cache_bytes_max: usize,
    /// [`is_behind`](super::Log::is_behind) from here on: the disk is slower than the
    /// publishers. Default 8 MiB.
    pub uncommitted_bytes_max: usize,
    /// With [`Durability::Interval`], sync before the interval is over once this much is
    /// unsynced: it stays in memory until then. Default 16 MiB.
    pub unsynced_bytes_max: usize,
}

impl LogLimits {
    /// The largest [`LogLimits::segment_bytes`]: back links are 32 bits wide.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            retention_bytes: 8 << 30,
            retention_age: Duration::from_secs(7 * 24 * 3_600),
            tail_bytes_max: 16 << 20,
            piece_cache_bytes_max: 4 << 20,
            uncommitted_bytes_max: 8 << 20,
            unsynced_bytes_max: 16 << 20,
        }
    }
}
