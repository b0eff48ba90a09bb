//! The end of the log in memory: the chunks committed last.

use crate::proto::partition::{Chunk, Sequence};
use std::collections::VecDeque;

/// Committed chunks in order, without a gap between the first and the last of a segment.
#[derive(Debug, Default)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes.len();
        self.chunks.push_back(chunk);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops the oldest chunks while there are more than `bytes_max`, but none that ends after
    /// `synced`.
    pub(super) fn shrink(&mut self, bytes_max: usize, synced: Sequence) {
        while self.bytes > bytes_max && self.chunks.front().is_some_and(|c| c.end() <= synced) {
            self.drop_front();
        }
    }

    /// Drops what lies below `first`.
    pub(super) fn trim(&mut self, first: Sequence) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= first) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.bytes -= chunk.bytes.len();
        }
    }

    /// The chunk that holds `sequence`.
    pub(super) fn chunk(&self, sequence: Sequence) -> Option<&Chunk> {
        let after = self.chunks.partition_point(|chunk| chunk.end() <= sequence);
        self.chunks.get(after).filter(|chunk| chunk.first <= sequence)
    }
}
