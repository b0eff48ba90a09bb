//! The index file of a full segment: topic hash -> the topic's last frame.
//!
//! Wire shape, little endian: pages of `PAGE_BYTES`, each a CRC-32C of the rest of the page
//! (u32), a count (u32) and that many entries, sorted over all pages: hash (u64), offset of the
//! frame from the first one (u32). Then the marks (u32 each). Then the footer: magic (4), page
//! count (u32), mark count (u32), first sequence (u64), end (u64), last commit (u64), CRC-32C of
//! marks and footer (u32).
//!
//! The file is a copy of what the segment holds: when it is bad or missing it is built again.

use super::heads::Heads;
use super::segment::Segment;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use bytes::Bytes;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4_096;
const PAGE_HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 12;
const ENTRIES_PER_PAGE: usize = (PAGE_BYTES - PAGE_HEADER_BYTES) / ENTRY_BYTES;
const FOOTER_BYTES: usize = 40;
const MAGIC: [u8; 4] = *b"mqix";

/// An index to be written.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    /// The first hash of each page.
    pub(super) fences: Vec<u64>,
}

/// What an index file says of its segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) first: Sequence,
    pub(super) end: Sequence,
    pub(super) newest_at: Timestamp,
    pub(super) marks: Vec<u32>,
    /// The first hash of each page.
    pub(super) fences: Vec<u64>,
}

/// The index file of `segment`, whose topics are `heads`.
pub(super) fn encode(segment: &Segment, heads: &Heads) -> Encoded {
    let mut entries: Vec<(u64, u32)> = heads
        .iter()
        .filter(|(_, head)| segment.contains(**head))
        .filter_map(|(&hash, head)| Some((hash, u32::try_from(head.0 - segment.first.0).ok()?)))
        .collect();
    entries.sort_unstable();
    let mut bytes = Vec::with_capacity((entries.len() / ENTRIES_PER_PAGE + 2) * PAGE_BYTES);
    let mut fences = Vec::new();
    for page in entries.chunks(ENTRIES_PER_PAGE) {
        fences.extend(page.first().map(|(hash, _)| *hash));
        let mut body = Vec::with_capacity(PAGE_BYTES);
        put_u32(&mut body, page.len());
        for (hash, offset) in page {
            body.extend_from_slice(&hash.to_le_bytes());
            body.extend_from_slice(&offset.to_le_bytes());
        }
        body.resize(PAGE_BYTES - 4, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    let pages_end = bytes.len();
    for mark in &segment.marks {
        bytes.extend_from_slice(&mark.to_le_bytes());
    }
    bytes.extend_from_slice(&MAGIC);
    put_u32(&mut bytes, fences.len());
    put_u32(&mut bytes, segment.marks.len());
    bytes.extend_from_slice(&segment.first.0.to_le_bytes());
    bytes.extend_from_slice(&segment.end.0.to_le_bytes());
    bytes.extend_from_slice(&segment.newest_at.0.to_le_bytes());
    let crc = crc32c::crc32c(bytes.get(pages_end..).unwrap_or_default());
    bytes.extend_from_slice(&crc.to_le_bytes());
    Encoded { bytes: Bytes::from(bytes), fences }
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("a segment has fewer than 2^32 topics and pieces");
    out.extend_from_slice(&value.to_le_bytes());
}

/// Reads a whole index file, `None` when anything in it is wrong.
pub(super) fn decode(bytes: &[u8]) -> Option<Decoded> {
    let (rest, footer) = bytes.split_at_checked(bytes.len().checked_sub(FOOTER_BYTES)?)?;
    let pages_end = u32_at(footer, 4)?.checked_mul(PAGE_BYTES)?;
    let (pages, marks) = rest.split_at_checked(pages_end)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(marks), footer.get(..FOOTER_BYTES - 4)?);
    let intact = footer.starts_with(&MAGIC)
        && footer.ends_with(&crc.to_le_bytes())
        && marks.len() == u32_at(footer, 8)?.checked_mul(4)?;
    if !intact {
        return None;
    }
    let fences: Option<Vec<u64>> = pages
        .chunks_exact(PAGE_BYTES)
        .map(|page| entries_of(page).and_then(|entries| u64_at(entries, 0)))
        .collect();
    Some(Decoded {
        first: Sequence(u64_at(footer, 12)?),
        end: Sequence(u64_at(footer, 20)?),
        newest_at: Timestamp(u64_at(footer, 28)?),
        marks: marks
            .chunks_exact(4)
            .filter_map(|mark| Some(u32::from_le_bytes(mark.try_into().ok()?)))
            .collect(),
        fences: fences?,
    })
}

/// A page of an index is damaged: the segment has to be scanned instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadPage;

/// Finds `hash` in `page` and returns the offset of its last frame.
pub(super) fn find(page: &[u8], hash: u64) -> Result<Option<u32>, BadPage> {
    let entries = entries_of(page).ok_or(BadPage)?;
    let (mut low, mut high) = (0, entries.len() / ENTRY_BYTES);
    while low < high {
        let middle = low.midpoint(high);
        if u64_at(entries, middle * ENTRY_BYTES).ok_or(BadPage)? < hash {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let found = u64_at(entries, low * ENTRY_BYTES).filter(|found| *found == hash);
    let offset = found.and_then(|_| u32_at(entries, low * ENTRY_BYTES + 8));
    Ok(offset.and_then(|offset| u32::try_from(offset).ok()))
}

fn entries_of(page: &[u8]) -> Option<&[u8]> {
    let (crc, body) = page.split_at_checked(4)?;
    if page.len() != PAGE_BYTES || crc32c::crc32c(body).to_le_bytes() != *crc {
        return None;
    }
    body.get(4..4 + u32_at(body, 0)?.checked_mul(ENTRY_BYTES)?)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::segment::SegmentId;
    use super::*;
    use crate::proto::partition::PartitionId;

    #[test]
    fn finds_every_topic_and_notices_every_flaw() {
        let id = SegmentId { partition: PartitionId(0), generation: 1, number: 1 };
        let mut segment = Segment::new(id, Sequence(1 << 40), Timestamp(5));
        segment.end = Sequence(segment.first.0 + 100_000);
        segment.marks = vec![0, 7];
        let heads: Heads =
            (0..1_000_u64).map(|i| (i * 3, Sequence(segment.first.0 + i * 100))).collect();
        let encoded = encode(&segment, &heads);
        let decoded = decode(&encoded.bytes).expect("just written");
        assert_eq!((decoded.end, &decoded.marks), (segment.end, &segment.marks));
        assert_eq!(decoded.fences, encoded.fences);
        for hash in 0..3_000_u64 {
            let page = encoded.fences.partition_point(|fence| *fence <= hash) - 1;
            let page = &encoded.bytes[page * PAGE_BYTES..][..PAGE_BYTES];
            let expected = (hash % 3 == 0).then(|| u32::try_from(hash / 3 * 100).unwrap());
            assert_eq!(find(page, hash), Ok(expected));
        }
        for flaw in (0..encoded.bytes.len()).step_by(37) {
            let mut bytes = encoded.bytes.to_vec();
            bytes[flaw] ^= 1;
            assert_eq!(decode(&bytes), None, "flaw at {flaw}");
        }
    }
}
