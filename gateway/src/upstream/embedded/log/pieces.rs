//! Pieces of files in memory, shared by all readers of a log.

use super::io::{IoDone, IoFault, IoToken, LogFile, LogIo};
use super::segment::{PIECE_BYTES, SegmentId};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A file and a place in it.
type Key = (LogFile, u64);

/// The pieces read last, first in, first out.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: HashMap<Key, Piece>,
    order: VecDeque<Key>,
    asked: HashMap<IoToken, (Key, u32)>,
    bytes: usize,
    bytes_max: usize,
    /// Reads that failed.
    pub(super) failures: u64,
}

#[derive(Clone, Debug)]
struct Piece {
    bytes: Bytes,
    /// How much was asked for. Less may have come: then the rest is damaged.
    asked_bytes: u32,
}

impl Pieces {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            pieces: HashMap::new(),
            order: VecDeque::new(),
            asked: HashMap::new(),
            bytes: 0,
            bytes_max,
            failures: 0,
        }
    }

    /// The first `length` bytes of the piece at `offset` of `file`, `None` when they have to be
    /// read first: then they are asked for. Fewer bytes come when the file is damaged.
    pub(super) fn get(
        &mut self,
        file: LogFile,
        offset: u64,
        length: u32,
        token: impl FnOnce() -> IoToken,
        out: &mut Vec<LogIo>,
    ) -> Option<Bytes> {
        let key = (file, offset);
        if let Some(piece) = self.pieces.get(&key)
            && piece.asked_bytes >= length
        {
            return Some(piece.bytes.clone());
        }
        let under_way = self.asked.values().any(|(asked, bytes)| *asked == key && *bytes >= length);
        if !under_way {
            let token = token();
            self.asked.insert(token, (key, length));
            out.push(LogIo::Read { token, file, offset, length });
        }
        None
    }

    pub(super) fn handle_read(&mut self, token: IoToken, result: Result<IoDone, IoFault>) {
        let Some((key, asked_bytes)) = self.asked.remove(&token) else { return };
        let bytes = match result {
            Ok(IoDone::Read(bytes)) => bytes,
            Ok(IoDone::Done | IoDone::Wrote(_)) | Err(_) => {
                self.failures += 1;
                Bytes::new()
            }
        };
        self.bytes += bytes.len();
        match self.pieces.insert(key, Piece { bytes, asked_bytes }) {
            Some(replaced) => self.bytes -= replaced.bytes.len(),
            None => self.order.push_back(key),
        }
        // The piece that just came stays, or its reader would ask for it for ever.
        while self.bytes > self.bytes_max
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            self.drop_piece(oldest);
        }
    }

    /// Drops what is known of a segment's files.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        let of_segment = |key: &Key| match key.0 {
            LogFile::Segment(id) | LogFile::Index(id) => id == segment,
        };
        let gone: Vec<Key> = self.order.iter().copied().filter(of_segment).collect();
        self.order.retain(|key| !of_segment(key));
        for key in gone {
            self.drop_piece(key);
        }
    }

    fn drop_piece(&mut self, key: Key) {
        if let Some(piece) = self.pieces.remove(&key) {
            self.bytes -= piece.bytes.len();
        }
    }
}

/// Where in its file the piece with `offset` begins, and how far into the piece that is.
pub(super) fn piece_of(offset: u64) -> (u64, usize) {
    let within = offset % PIECE_BYTES;
    (offset - within, usize::try_from(within).unwrap_or(usize::MAX))
}
