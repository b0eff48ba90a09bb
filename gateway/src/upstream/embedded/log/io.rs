//! What a log asks to be done to its files, and how the answer is given.

use super::segment::SegmentId;
use bytes::Bytes;
use std::io;

/// Names one request of one log. Never used twice by the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoToken(pub u64);

/// A file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogFile {
    /// The records.
    Segment(SegmentId),
    /// Where the topics are in the segment, written when it is full.
    Index(SegmentId),
}

impl LogFile {
    /// The file's name in the directory of the logs.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Segment(id) => format!("{id}.log"),
            Self::Index(id) => format!("{id}.index"),
        }
    }
}

/// Something to do to a file. The outcome goes to [`Log::handle_io`](super::Log::handle_io) with
/// the token; requests may finish in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogIo {
    /// Create the empty file and sync the directory. Done: [`IoDone::Done`].
    Create {
        /// To answer with.
        token: IoToken,
        /// What to create.
        segment: SegmentId,
    },
    /// Write; fewer bytes than given may be written. Done: [`IoDone::Wrote`].
    Write {
        /// To answer with.
        token: IoToken,
        /// Where to.
        segment: SegmentId,
        /// From the start of the file.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// `fdatasync`. Done: [`IoDone::Done`].
    Sync {
        /// To answer with.
        token: IoToken,
        /// Which file.
        segment: SegmentId,
    },
    /// Read; fewer bytes than asked for may come at the end of the file. Done: [`IoDone::Read`].
    Read {
        /// To answer with.
        token: IoToken,
        /// Where from.
        file: LogFile,
        /// From the start of the file.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
    /// Create or replace the segment's index file; it need not be synced, a bad one is rebuilt.
    /// Done: [`IoDone::Done`].
    WriteIndex {
        /// To answer with.
        token: IoToken,
        /// Whose index.
        segment: SegmentId,
        /// The whole file.
        bytes: Bytes,
    },
    /// Remove the segment and its index. Done: [`IoDone::Done`], also when they did not exist.
    Remove {
        /// To answer with.
        token: IoToken,
        /// What to remove.
        segment: SegmentId,
    },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoDone {
    /// All of it.
    Done,
    /// So many bytes, perhaps fewer than asked for.
    Wrote(usize),
    /// These bytes, fewer than asked for at the end of the file only.
    Read(Bytes),
}

/// Why it was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFault {
    /// No room on the disk or in the quota. Room may come: tried again later.
    NoSpace,
    /// Interrupted or not ready: tried again.
    TryAgain,
    /// Anything else. What was being written is no longer trusted.
    Failed(io::ErrorKind),
}

impl From<&io::Error> for IoFault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Self::TryAgain,
            kind => Self::Failed(kind),
        }
    }
}
