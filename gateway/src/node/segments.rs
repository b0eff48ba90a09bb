//! The files of a shard's logs, opened when first used, and the operations under way on them.

use crate::proto::handler::{FileDone, FileOp};
use crate::proto::partition::PartitionId;
use crate::upstream::embedded::log::LogIo;
use crate::upstream::embedded::log::io::{IoDone, IoFault, IoToken, LogFile};
use crate::upstream::embedded::log::segment::SegmentId;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Files one shard keeps open; the one not used longest is closed first.
const OPEN_FILES_MAX: usize = 64;

/// A request that could not be started.
type Failed = (PartitionId, IoToken, IoFault);

/// See the module.
#[derive(Debug)]
pub struct Segments {
    directory: PathBuf,
    open: HashMap<LogFile, OpenFile>,
    uses: u64,
    under_way: HashMap<u64, UnderWay>,
    last_token: u64,
    failed: Vec<Failed>,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    last_use: u64,
}

/// Keeps the file open until the kernel is done with it.
#[derive(Debug)]
struct UnderWay {
    partition: PartitionId,
    token: IoToken,
    written_bytes: usize,
    _file: Arc<File>,
}

impl Segments {
    /// Files in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            open: HashMap::new(),
            uses: 0,
            under_way: HashMap::new(),
            last_token: 0,
            failed: Vec::new(),
        }
    }

    /// Turns a write, sync or read into an operation for the ring.
    pub fn start(&mut self, partition: PartitionId, request: LogIo, ops: &mut Vec<FileOp>) {
        let (token, file) = match &request {
            LogIo::Write { token, segment, .. } | LogIo::Sync { token, segment } => {
                (*token, LogFile::Segment(*segment))
            }
            LogIo::Read { token, file, .. } => (*token, *file),
            LogIo::Create { .. } | LogIo::WriteIndex { .. } | LogIo::Remove { .. } => {
                unreachable!("requests that block go to the storage thread")
            }
        };
        let opened = match self.file(file) {
            Ok(opened) => opened,
            Err(error) => {
                self.failed.push((partition, token, IoFault::from(&error)));
                return;
            }
        };
        self.last_token += 1;
        let (ring_token, fd) = (self.last_token, opened.as_raw_fd());
        let mut written_bytes = 0;
        ops.push(match request {
            LogIo::Write { offset, bytes, .. } => {
                written_bytes = bytes.len();
                FileOp::Write { token: ring_token, fd, offset, bytes }
            }
            LogIo::Read { offset, length, .. } => {
                FileOp::Read { token: ring_token, fd, offset, length }
            }
            _ => FileOp::SyncData { token: ring_token, fd },
        });
        let under_way = UnderWay { partition, token, written_bytes, _file: opened };
        self.under_way.insert(ring_token, under_way);
    }

    /// An operation ended: whose it was, and how.
    pub fn finish(
        &mut self,
        ring_token: u64,
        result: io::Result<FileDone>,
    ) -> Option<(PartitionId, IoToken, Result<IoDone, IoFault>)> {
        let UnderWay { partition, token, written_bytes, .. } =
            self.under_way.remove(&ring_token)?;
        let result = match result {
            Ok(FileDone::Written) => Ok(IoDone::Wrote(written_bytes)),
            Ok(FileDone::Synced) => Ok(IoDone::Done),
            Ok(FileDone::Read(bytes)) => Ok(IoDone::Read(Bytes::from(bytes))),
            Err(error) => Err(IoFault::from(&error)),
        };
        Some((partition, token, result))
    }

    /// Requests whose file cannot be opened.
    pub fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// The segment is about to be removed.
    pub fn forget(&mut self, segment: SegmentId) {
        self.open.remove(&LogFile::Segment(segment));
        self.open.remove(&LogFile::Index(segment));
    }

    /// Opening a file that exists is a look into a directory the kernel has in memory.
    fn file(&mut self, file: LogFile) -> io::Result<Arc<File>> {
        self.uses += 1;
        let last_use = self.uses;
        if let Some(known) = self.open.get_mut(&file) {
            known.last_use = last_use;
            return Ok(Arc::clone(&known.file));
        }
        let path = self.directory.join(file.name());
        let opened = Arc::new(OpenOptions::new().read(true).write(true).open(path)?);
        if self.open.len() >= OPEN_FILES_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last_use);
            if let Some(oldest) = oldest.map(|(name, _)| *name) {
                self.open.remove(&oldest);
            }
        }
        self.open.insert(file, OpenFile { file: Arc::clone(&opened), last_use });
        Ok(opened)
    }
}
