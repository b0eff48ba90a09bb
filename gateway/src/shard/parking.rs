//! How an idle shard sleeps: it awaits, through glommio, the eventfd that its own ring signals.

use glommio::io::BufferedFile;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

/// An eventfd read through glommio.
pub(super) struct Parking {
    file: BufferedFile,
}

/// An eventfd's count is read in one piece.
const COUNT_BYTES: usize = 8;

impl Parking {
    /// Sleeps on a duplicate of `eventfd`.
    pub(super) fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let copy = eventfd.try_clone_to_owned()?.into_raw_fd();
        // JUSTIFICATION: glommio takes a foreign descriptor no other way; awaiting the ring's own
        // descriptor hangs when completions are deferred.
        // SAFETY: `copy` is a descriptor of its own, given up by `into_raw_fd` and owned by the
        // file from here on.
        let file = unsafe { BufferedFile::from_raw_fd(copy) };
        Ok(Self { file })
    }

    /// Sleeps until the eventfd was signalled; returns at once when it was since the last call.
    pub(super) async fn sleep(&self) -> io::Result<()> {
        self.file.read_at(0, COUNT_BYTES).await.map(drop).map_err(io::Error::from)
    }

    /// Closes the duplicate.
    pub(super) async fn close(self) -> io::Result<()> {
        self.file.close().await.map_err(io::Error::from)
    }
}
