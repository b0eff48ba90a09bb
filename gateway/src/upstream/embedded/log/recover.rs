//! Recovery: from the files a crash left to a log that can be appended to.

use super::commit::Log;
use super::files::{Files, write_all};
use super::frame::{self, Scan};
use super::heads::{Heads, Topics};
use super::index;
use super::io::LogFile;
use super::limits::{Durability, LogLimits};
use super::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentId};
use crate::proto::partition::{FRAME_HEADER_BYTES, PartitionId, Sequence};
use crate::proto::time::Timestamp;
use std::collections::VecDeque;
use std::io;

/// A log after a restart.
#[derive(Debug)]
pub struct Recovered {
    /// Ready to be appended to, in a new boot generation.
    pub log: Log,
    /// What was found.
    pub report: RecoveryReport,
}

/// What recovery found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments with records.
    pub segment_count: u64,
    /// Bytes of records.
    pub retained_bytes: u64,
    /// Bytes cut off after the last intact record of the newest segment: a write that was under
    /// way. Nothing in them was acknowledged with [`Durability::Fsync`].
    pub cut_bytes: u64,
    /// Damaged stretches between intact records, left out. After a power cut the last write may
    /// leave some in the newest segment; anywhere else records are lost and the disk is suspect.
    pub flaws: u64,
    /// Bytes in those stretches.
    pub flawed_bytes: u64,
    /// Segments of which neither copy of the header is intact. Left on the disk, not read.
    pub unreadable_segments: u64,
    /// Index files that were missing or bad and were built again.
    pub rebuilt_indexes: u64,
}

/// Opens the log of `partition` in `files` and starts a new boot generation. Blocks.
///
/// Creates the log when there is none.
///
/// # Errors
///
/// The files cannot be listed, read, cut or created. Damage is no error: see
/// [`RecoveryReport`].
pub fn recover(
    files: &mut dyn Files,
    partition: PartitionId,
    durability: Durability,
    limits: LogLimits,
    now: Timestamp,
) -> io::Result<Recovered> {
    let mut report = RecoveryReport::default();
    let ids = segment_ids(files, partition)?;
    let headers = read_headers(files, &ids, &mut report)?;
    let mut segments = VecDeque::new();
    for (place, header) in headers.iter().enumerate() {
        let next = headers.get(place + 1).filter(|n| n.id.generation == header.id.generation);
        let segment = recover_segment(files, *header, next.map(|next| next.first), &mut report)?;
        segments.push_back(segment);
    }
    report.segment_count = segments.len() as u64;
    report.retained_bytes = segments.iter().map(Segment::bytes).sum();
    let generation = ids.iter().map(|id| id.generation).max().unwrap_or(0) + 1;
    let id = SegmentId { partition, generation, number: 1 };
    files.create(&LogFile::Segment(id).name())?;
    files.sync_directory()?;
    segments.push_back(Segment::new(id, Sequence::embedded(generation, 0), now));
    Ok(Recovered { log: Log::over(durability, limits, segments, now), report })
}

/// Visits the records of a recovered log from sequence `from` on, in order. Blocks.
///
/// # Errors
///
/// A file cannot be read.
pub fn for_each_record(
    files: &mut dyn Files,
    log: &Log,
    from: Sequence,
    mut visit: impl FnMut(Sequence, &[u8]),
) -> io::Result<()> {
    for segment in log.segments.iter().filter(|s| s.end > from && s.bytes() > 0) {
        let bytes = frames_of(files, segment.id, Some(segment.bytes()))?;
        frame::scan(&bytes, segment.first, |sequence, _, frame| {
            if sequence >= from {
                visit(sequence, frame.get(FRAME_HEADER_BYTES..).unwrap_or_default());
            }
        });
    }
    Ok(())
}

/// The partitions that have segments among `names`, for a start with another number of shards.
#[must_use]
pub fn partitions_in(names: &[String]) -> Vec<PartitionId> {
    let mut partitions: Vec<PartitionId> =
        names.iter().filter_map(|name| segment_id(name)).map(|id| id.partition).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

fn segment_id(name: &str) -> Option<SegmentId> {
    SegmentId::parse(name.strip_suffix(".log")?)
}

/// The segments on the disk in the order of their creation.
fn segment_ids(files: &mut dyn Files, partition: PartitionId) -> io::Result<Vec<SegmentId>> {
    let names = files.list()?;
    let mut ids: Vec<SegmentId> = names
        .iter()
        .filter_map(|name| segment_id(name))
        .filter(|id| id.partition == partition)
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The headers of the segments in use. Files never written to are removed.
fn read_headers(
    files: &mut dyn Files,
    ids: &[SegmentId],
    report: &mut RecoveryReport,
) -> io::Result<Vec<SegmentHeader>> {
    let mut headers: Vec<SegmentHeader> = Vec::new();
    let mut without = Vec::new();
    for &id in ids {
        let name = LogFile::Segment(id).name();
        let bytes = files.read_at(&name, 0, SEGMENT_HEADER_BYTES)?;
        match SegmentHeader::decode(&bytes, id) {
            Some(header) => headers.push(header),
            None => without.push(id),
        }
    }
    for id in without {
        // A spare, or one whose first sync was cut short: in both cases the last of its boot.
        let newest = !headers
            .iter()
            .any(|header| header.id.generation == id.generation && header.id.number > id.number);
        if newest {
            files.remove(&LogFile::Segment(id).name())?;
        } else {
            report.unreadable_segments += 1;
        }
    }
    headers.sort_unstable_by_key(|header| (header.first, header.id));
    Ok(headers)
}

/// One segment, of which what lies at or after `next` is in the next one.
fn recover_segment(
    files: &mut dyn Files,
    header: SegmentHeader,
    next: Option<Sequence>,
    report: &mut RecoveryReport,
) -> io::Result<Segment> {
    let mut segment = Segment::new(header.id, header.first, header.created_at);
    let index_name = LogFile::Index(header.id).name();
    let index = match files.length(&index_name) {
        Ok(length) => files.read_at(&index_name, 0, usize::try_from(length).unwrap_or(0))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if let Some(index) = index::decode(&index).filter(|index| index.first == header.first) {
        segment.end = index.end;
        segment.newest_at = index.newest_at;
        segment.marks = index.marks;
        segment.topics = Topics::Pages(index.fences);
        return Ok(segment);
    }
    let found = scan_segment(files, &mut segment, next, report)?;
    if next.is_none() {
        cut_tail(files, header.id, found, report)?;
    }
    report.rebuilt_indexes += 1;
    if let Topics::Heads(heads) = &segment.topics {
        let encoded = index::encode(&segment, heads);
        files.create(&index_name)?;
        write_all(files, &index_name, &encoded.bytes)?;
        files.sync(&index_name)?;
        segment.topics = Topics::Pages(encoded.fences);
    }
    Ok(segment)
}

/// Reads every frame of `segment` and fills in its end, marks and heads.
fn scan_segment(
    files: &mut dyn Files,
    segment: &mut Segment,
    next: Option<Sequence>,
    report: &mut RecoveryReport,
) -> io::Result<Scan> {
    // After a failed sync the records went on in another segment: what is left of them here is
    // not trusted.
    let wanted = next.map(|next| next.0.saturating_sub(segment.first.0));
    let mut bytes = frames_of(files, segment.id, wanted)?;
    if next.is_none() {
        // Of a write that was under way a power cut may leave any part. A record without those
        // before it is worth less than none: they were written in order to be read in order.
        let found = frame::scan(&bytes, segment.first, |_, _, _| ());
        bytes.truncate(found.sure_end);
    }
    let mut heads = Heads::default();
    let mut newest_at = segment.created_at;
    let first = segment.first;
    let found = frame::scan(&bytes, first, |sequence, _, frame| {
        segment.mark(sequence);
        let body = frame.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        if let Some((hash, received_at)) = frame::topic_of(body) {
            heads.insert(hash, sequence);
            newest_at = newest_at.max(received_at);
        }
    });
    segment.end = Sequence(first.0 + found.end as u64);
    segment.newest_at = newest_at;
    segment.topics = Topics::Heads(heads);
    report.flaws += found.flaws;
    report.flawed_bytes += found.flawed_bytes;
    if next.is_some() && bytes.len() > found.end {
        report.flaws += 1;
        report.flawed_bytes += (bytes.len() - found.end) as u64;
    }
    Ok(found)
}

fn cut_tail(
    files: &mut dyn Files,
    id: SegmentId,
    found: Scan,
    report: &mut RecoveryReport,
) -> io::Result<()> {
    let name = LogFile::Segment(id).name();
    let end = (SEGMENT_HEADER_BYTES + found.end) as u64;
    let cut = files.length(&name)?.saturating_sub(end);
    if cut > 0 {
        files.truncate(&name, end)?;
    }
    report.cut_bytes += cut;
    // What was found may never have been synced; from now on it is served, so it must stay.
    files.sync(&name)
}

/// The frames of a segment, all of them or the first `bytes`.
fn frames_of(files: &mut dyn Files, id: SegmentId, bytes: Option<u64>) -> io::Result<Vec<u8>> {
    let name = LogFile::Segment(id).name();
    let there = files.length(&name)?.saturating_sub(SEGMENT_HEADER_BYTES as u64);
    let wanted = usize::try_from(bytes.map_or(there, |bytes| bytes.min(there)));
    files.read_at(&name, SEGMENT_HEADER_BYTES as u64, wanted.unwrap_or(usize::MAX))
}
