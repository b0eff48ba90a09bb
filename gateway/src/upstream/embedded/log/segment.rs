//! A segment: one file of a log, and what is known of it.

use super::heads::Topics;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::time::Timestamp;
use std::fmt;

/// Names a segment. Ids of one partition are never used twice.
///
/// The name cannot hold the first sequence: files are created ahead of need, when that is not
/// known yet. It is in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// Whose log.
    pub partition: PartitionId,
    /// The boot generation of its sequences.
    pub generation: u32,
    /// Counts the segments of a generation in the order of their creation.
    pub number: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:05}-{:08}-{:08}", self.partition.0, self.generation, self.number)
    }
}

impl SegmentId {
    /// The id in a file name's stem, `None` when it is none.
    #[must_use]
    pub fn parse(stem: &str) -> Option<Self> {
        let mut parts = stem.split('-');
        let id = Self {
            partition: PartitionId(parts.next()?.parse().ok()?),
            generation: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && id.to_string() == stem).then_some(id)
    }
}

/// What is known of a segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// Of its first frame.
    pub(super) first: Sequence,
    /// After its last committed frame.
    pub(super) end: Sequence,
    /// When the file began to be used, or for recovered ones when its header says so.
    pub(super) created_at: Timestamp,
    /// When its last frame was committed, at the latest.
    pub(super) newest_at: Timestamp,
    /// The first frame that starts in each piece of the file: where reading may begin.
    pub(super) marks: Vec<u32>,
    /// Where its topics are.
    pub(super) topics: Topics,
}

impl Segment {
    pub(super) fn new(id: SegmentId, first: Sequence, now: Timestamp) -> Self {
        Self {
            id,
            first,
            end: first,
            created_at: now,
            newest_at: now,
            marks: Vec::new(),
            topics: Topics::default(),
        }
    }

    /// Committed bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.end.0 - self.first.0
    }

    /// Whether `sequence` lies in its committed part.
    pub(super) fn contains(&self, sequence: Sequence) -> bool {
        self.first <= sequence && sequence < self.end
    }

    /// Notes that a frame starts at `sequence`; called in order.
    pub(super) fn mark(&mut self, sequence: Sequence) {
        let offset = sequence.0 - self.first.0;
        let piece = usize::try_from(offset / PIECE_BYTES).unwrap_or(usize::MAX);
        if self.marks.len() <= piece
            && let Ok(offset) = u32::try_from(offset)
        {
            // A frame longer than a piece leaves pieces in which none starts: they point on.
            self.marks.resize(piece + 1, offset);
        }
    }

    /// The first known start of a frame in a piece after that of `sequence`, or the end.
    pub(super) fn mark_after(&self, sequence: Sequence) -> Sequence {
        let piece =
            usize::try_from((sequence.0 - self.first.0) / PIECE_BYTES).unwrap_or(usize::MAX);
        self.marks
            .get(piece.saturating_add(1))
            .map_or(self.end, |&offset| Sequence(self.first.0 + u64::from(offset)).min(self.end))
    }
}

/// Files are read in pieces of this size, counted from the first frame.
pub(super) const PIECE_BYTES: u64 = 256 * 1024;

/// Bytes of a segment's file before its first frame.
pub const SEGMENT_HEADER_BYTES: usize = 4_096;

/// The header is there twice, in different sectors, so that no single flaw costs a segment.
const HEADER_COPY_AT: usize = SEGMENT_HEADER_BYTES / 2;
const HEADER_COPY_BYTES: usize = 36;
const MAGIC: [u8; 4] = *b"mqsg";
const FORMAT_VERSION: u16 = 1;

/// The header of a segment's file.
///
/// Wire shape, little endian, at 0 and again at 2048 of 4096 bytes: magic (4); format version
/// (u16); partition (u16); generation (u32); number (u32); first sequence (u64); created at
/// (u64); CRC-32C of all before it (u32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: SegmentId,
    pub(super) first: Sequence,
    pub(super) created_at: Timestamp,
}

impl SegmentHeader {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_COPY_BYTES);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy.extend_from_slice(&self.id.partition.0.to_le_bytes());
        copy.extend_from_slice(&self.id.generation.to_le_bytes());
        copy.extend_from_slice(&self.id.number.to_le_bytes());
        copy.extend_from_slice(&self.first.0.to_le_bytes());
        copy.extend_from_slice(&self.created_at.0.to_le_bytes());
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        let mut header = copy.clone();
        header.resize(HEADER_COPY_AT, 0);
        header.extend_from_slice(&copy);
        header.resize(SEGMENT_HEADER_BYTES, 0);
        header
    }

    /// Reads the header of `id`'s file, `None` when neither copy is intact.
    pub(super) fn decode(bytes: &[u8], id: SegmentId) -> Option<Self> {
        [0, HEADER_COPY_AT].into_iter().find_map(|at| {
            let copy = bytes.get(at..at + HEADER_COPY_BYTES)?;
            let (fields, crc) = copy.split_at_checked(HEADER_COPY_BYTES - 4)?;
            let word = |at: usize| -> Option<u64> {
                Some(u64::from_le_bytes(fields.get(at..at + 8)?.try_into().ok()?))
            };
            let header = Self { id, first: Sequence(word(16)?), created_at: Timestamp(word(24)?) };
            let intact = crc32c::crc32c(fields).to_le_bytes() == *crc;
            (intact && header.encode().get(..HEADER_COPY_BYTES) == Some(copy)).then_some(header)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SegmentId = SegmentId { partition: PartitionId(7), generation: 3, number: 12 };

    #[test]
    fn names_read_back_and_others_do_not() {
        assert_eq!(SegmentId::parse(&ID.to_string()), Some(ID));
        for stem in ["", "00007-00000003", "7-3-12", "00007-00000003-00000012-1", "a-b-c"] {
            assert_eq!(SegmentId::parse(stem), None, "{stem}");
        }
    }

    #[test]
    fn a_header_survives_any_flaw_in_one_copy() {
        let header = SegmentHeader { id: ID, first: Sequence(9), created_at: Timestamp(8) };
        let clean = header.encode();
        assert_eq!(clean.len(), SEGMENT_HEADER_BYTES);
        for flaw in (0..HEADER_COPY_BYTES).chain(HEADER_COPY_AT..HEADER_COPY_AT + 8) {
            let mut bytes = clean.clone();
            bytes[flaw] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&bytes, ID), Some(header), "flaw at {flaw}");
        }
        let other = SegmentId { number: 13, ..ID };
        assert_eq!(SegmentHeader::decode(&clean, other), None);
        assert_eq!(SegmentHeader::decode(&clean[..20], ID), None);
    }
}
