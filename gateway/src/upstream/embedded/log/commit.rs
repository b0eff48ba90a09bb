//! Append and group commit.

use super::frame;
use super::heads::{self, Topics};
use super::index;
use super::io::{IoDone, IoFault, IoToken, LogIo};
use super::limits::{Durability, LogLimits};
use super::pieces::Pieces;
use super::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentId};
use super::tail::Tail;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::time::Timestamp;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// The log of one partition.
///
/// The caller performs every [`LogIo`] and answers each exactly once. It flushes after it has
/// appended, after [`Log::handle_io`], and when [`Log::next_timeout`] has come.
#[derive(Debug)]
pub struct Log {
    pub(super) partition: PartitionId,
    pub(super) durability: Durability,
    pub(super) limits: LogLimits,
    /// Oldest first; the last one takes the open group. Never empty.
    pub(super) segments: VecDeque<Segment>,
    pub(super) tail: Tail,
    pub(super) pieces: Pieces,
    /// Everything below is committed.
    pub(super) committed: Sequence,
    /// Everything below is synced.
    pub(super) synced: Sequence,
    /// The frames appended since the last group was closed, and the sequence of the first.
    pub(super) open: Vec<u8>,
    pub(super) open_first: Sequence,
    /// Closed and not written yet, in order.
    pub(super) pending: VecDeque<Group>,
    /// Written and not synced yet, in order.
    pub(super) unsynced: VecDeque<Group>,
    pub(super) stage: Stage,
    /// The file being written and where its next group goes.
    pub(super) file: Option<(SegmentId, u64)>,
    pub(super) spare: Spare,
    /// The newest segment when [`Log::wants_trim`] was asked last.
    pub(super) last_seen: Option<SegmentId>,
    pub(super) next_number: u32,
    pub(super) next_token: u64,
    /// Requests that need no order: what to do when they are done.
    pub(super) others: HashMap<IoToken, Other>,
    pub(super) retry_after: Duration,
    pub(super) next_sync: Timestamp,
    pub(super) health: Health,
    pub(super) now: Timestamp,
}

/// How the log fares with its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should.
    Good,
    /// No room on the disk. Nothing is acknowledged until there is; tried again by itself.
    Full,
    /// The last write, sync or create failed otherwise. Tried again in a new file by itself.
    Failing(io::ErrorKind),
}

/// Closed frames on their way to the disk.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) chunk: Chunk,
    pub(super) segment: SegmentId,
    /// Handed out already ([`Durability::Interval`]), then moved to another segment.
    pub(super) committed: bool,
}

/// What the writer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A group to write or a time to sync.
    Idle,
    /// The header of the file; so many bytes are written.
    Header(IoToken, usize),
    /// The first pending group; so many bytes are written.
    Write(IoToken, usize),
    /// The sync of the file.
    Sync(IoToken),
    /// The time to try again.
    Retry(Timestamp),
    /// A spare segment to move the unsynced groups to.
    ExpectSpare,
}

/// The segment created ahead of need, so that no append waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spare {
    None,
    Creating(IoToken, SegmentId),
    Ready(SegmentId),
    Retry(Timestamp),
}

#[derive(Clone, Debug)]
pub(super) enum Other {
    /// The index of the segment, with the first hash of each page.
    Index(SegmentId, Vec<u64>),
    Remove,
    Ignore,
}

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// An empty group buffer grows to what groups need; one that is mostly air is shrunk.
const GROUP_CAPACITY_MIN: usize = 1_024;

impl Log {
    /// An empty log kept in memory, or one over `segments` of which the last is new and empty.
    pub(super) fn over(
        durability: Durability,
        limits: LogLimits,
        segments: VecDeque<Segment>,
        now: Timestamp,
    ) -> Self {
        let newest = segments.back().expect("the caller made at least one segment");
        let (id, first) = (newest.id, newest.first);
        Self {
            partition: id.partition,
            durability,
            limits,
            segments,
            tail: Tail::default(),
            pieces: Pieces::new(limits.piece_cache_bytes_max),
            committed: first,
            synced: first,
            open: Vec::new(),
            open_first: first,
            pending: VecDeque::new(),
            unsynced: VecDeque::new(),
            stage: Stage::Idle,
            file: None,
            spare: Spare::None,
            last_seen: Some(id),
            next_number: id.number + 1,
            next_token: 1,
            others: HashMap::new(),
            retry_after: RETRY_FIRST,
            next_sync: Timestamp::NEVER,
            health: Health::Good,
            now,
        }
    }

    /// A log that is kept in memory only and does no I/O.
    #[must_use]
    pub fn in_memory(partition: PartitionId, limits: LogLimits, now: Timestamp) -> Self {
        let id = SegmentId { partition, generation: 1, number: 1 };
        let first = Segment::new(id, Sequence::embedded(1, 0), now);
        Self::over(Durability::Memory, limits, VecDeque::from([first]), now)
    }

    /// Frames the record that `write` appends to the buffer it is given and returns its sequence.
    ///
    /// `topic_hash` is that of a message's topic ([`topic_hash`](super::topic_hash)), `None` for
    /// any other record. `write` must only append, and less than 4 GiB.
    pub fn append(
        &mut self,
        topic_hash: Option<u64>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Sequence {
        let starts_group = self.open.is_empty();
        if starts_group {
            self.open_group();
        }
        let at = frame::begin(&mut self.open);
        write(&mut self.open);
        let sequence = Sequence(self.open_first.0 + at as u64);
        let segment = self.segments.back_mut().expect("there is always a segment");
        segment.mark(sequence);
        let link = match (topic_hash, &mut segment.topics) {
            (Some(hash), Topics::Heads(heads)) => heads::link(heads, hash, sequence),
            _ => 0,
        };
        let checked = self.durability != Durability::Memory;
        frame::finish(&mut self.open, at, sequence, (link, starts_group), checked);
        sequence
    }

    /// Closes the open group when nothing is in flight and says what to do with it.
    ///
    /// In memory the group is committed here: it is appended to `committed`.
    pub fn flush(&mut self, now: Timestamp, out: &mut Vec<LogIo>, committed: &mut Vec<Chunk>) {
        self.now = self.now.max(now);
        if self.durability == Durability::Memory {
            if let Some(group) = self.close_group() {
                self.commit(group.chunk, committed);
            }
            return;
        }
        if let Stage::Retry(at) = self.stage
            && at <= self.now
        {
            self.stage = Stage::Idle;
        }
        self.want_spare(out);
        if self.stage == Stage::Idle {
            self.start(out);
        }
    }

    /// Takes the outcome of a request. What became committed is appended to `committed`.
    ///
    /// A token this log did not give out is ignored.
    pub fn handle_io(
        &mut self,
        token: IoToken,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
        committed: &mut Vec<Chunk>,
    ) {
        match self.stage {
            Stage::Header(t, done) if t == token => self.header_written(done, result, out),
            Stage::Write(t, done) if t == token => self.group_written(done, result, out, committed),
            Stage::Sync(t) if t == token => self.file_synced(result, out, committed),
            _ => self.handle_other(token, result, out),
        }
    }

    /// When [`Log::flush`] is to be called at the latest, `None` when only for new records.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let stage = match self.stage {
            Stage::Retry(at) => Some(at),
            Stage::Idle if !self.unsynced.is_empty() => Some(self.next_sync),
            _ => None,
        };
        let spare = match self.spare {
            Spare::Retry(at) if self.wants_spare() => Some(at),
            _ => None,
        };
        stage.into_iter().chain(spare).min()
    }

    /// How the log fares with its files.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Bytes appended and not committed.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        let waiting = self.pending.iter().chain(&self.unsynced).filter(|group| !group.committed);
        let closed: usize = match self.durability {
            Durability::Fsync => waiting.map(|group| group.chunk.bytes.len()).sum(),
            _ => self.pending.iter().filter(|g| !g.committed).map(|g| g.chunk.bytes.len()).sum(),
        };
        self.open.len() + closed
    }

    /// Whether publishers must be held because the disk is behind them.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.uncommitted_bytes() >= self.limits.uncommitted_bytes_max
    }

    /// Whether publishers must be held because retention is full of what is still needed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.retained_bytes() >= self.limits.retention_bytes
    }

    /// Committed bytes in all segments.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// The end of what is committed.
    #[must_use]
    pub fn committed_end(&self) -> Sequence {
        self.committed
    }

    /// The body of a committed record, if it is still in memory.
    #[must_use]
    pub fn recent(&self, sequence: Sequence) -> Option<Bytes> {
        self.tail.chunk(sequence)?.body_bytes(sequence)
    }

    /// Committed bytes that are still in memory.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.tail.bytes()
    }

    /// Whose log this is.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The sequence below which nothing is retained.
    #[must_use]
    pub fn first_sequence(&self) -> Sequence {
        self.segments.front().map_or(self.committed, |segment| segment.first)
    }

    /// Begins a group, in the next segment when this one is full and the next is there.
    fn open_group(&mut self) {
        let segment = self.segments.back().expect("there is always a segment");
        if self.open_first.0 - segment.first.0 >= self.limits.segment_bytes {
            let next = match self.spare {
                Spare::Ready(id) => Some(id),
                _ if self.durability == Durability::Memory => Some(self.next_segment_id()),
                _ => None,
            };
            if let Some(id) = next {
                self.spare = Spare::None;
                if id.generation != self.open_first.generation() {
                    self.open_first = Sequence::embedded(id.generation, 0);
                }
                self.segments.push_back(Segment::new(id, self.open_first, self.now));
            }
        }
        self.open.reserve(GROUP_CAPACITY_MIN);
    }

    fn close_group(&mut self) -> Option<Group> {
        if self.open.is_empty() {
            return None;
        }
        let mut frames = std::mem::take(&mut self.open);
        if frames.len() < frames.capacity() / 2 {
            frames.shrink_to_fit();
        } else {
            self.open.reserve(frames.len());
        }
        let chunk =
            Chunk { partition: self.partition, first: self.open_first, bytes: Bytes::from(frames) };
        self.open_first = chunk.end();
        let segment = self.segments.back().expect("there is always a segment").id;
        Some(Group { chunk, segment, committed: false })
    }

    /// Starts the next write or sync, if there is one.
    fn start(&mut self, out: &mut Vec<LogIo>) {
        self.stage = Stage::Idle;
        let has_room = !self.is_oversize() || matches!(self.spare, Spare::Ready(_));
        if self.pending.is_empty() && has_room {
            let group = self.close_group();
            self.pending.extend(group);
        }
        let unsynced_bytes: usize = self.unsynced.iter().map(|g| g.chunk.bytes.len()).sum();
        let sync_due = !self.unsynced.is_empty()
            && (self.next_sync <= self.now || unsynced_bytes >= self.limits.unsynced_bytes_max);
        let Some(group) = self.pending.front() else {
            if sync_due {
                self.start_sync(out);
            }
            return;
        };
        let segment = group.segment;
        if self.file.is_none_or(|(id, _)| id != segment) {
            if self.unsynced.is_empty() {
                self.start_file(segment, out);
            } else {
                self.start_sync(out);
            }
        } else if sync_due {
            self.start_sync(out);
        } else {
            self.write_group(0, out);
        }
    }

    fn start_file(&mut self, id: SegmentId, out: &mut Vec<LogIo>) {
        self.file = Some((id, 0));
        self.write_header(0, out);
    }

    fn write_header(&mut self, done: usize, out: &mut Vec<LogIo>) {
        let Some((id, _)) = self.file else { return };
        let segment = self.segments.iter().find(|segment| segment.id == id);
        let segment = segment.expect("the file being written is one of the segments");
        let header = SegmentHeader { id, first: segment.first, created_at: segment.created_at };
        let bytes = Bytes::from(header.encode()).slice(done..);
        let token = self.token();
        self.stage = Stage::Header(token, done);
        out.push(LogIo::Write { token, segment: id, offset: done as u64, bytes });
    }

    fn header_written(
        &mut self,
        done: usize,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
    ) {
        match wrote(result) {
            Ok(count) if done + count >= SEGMENT_HEADER_BYTES => {
                self.file = self.file.map(|(id, _)| (id, SEGMENT_HEADER_BYTES as u64));
                self.start(out);
            }
            Ok(count) => self.write_header(done + count, out),
            Err(fault) => self.write_failed(fault, out),
        }
        // A header that is tried again is written from its start.
        if matches!(self.stage, Stage::Retry(_)) {
            self.file = None;
        }
    }

    fn write_group(&mut self, done: usize, out: &mut Vec<LogIo>) {
        let (Some((segment, at)), Some(group)) = (self.file, self.pending.front()) else {
            return;
        };
        let bytes = group.chunk.bytes.slice(done..);
        let token = self.token();
        self.stage = Stage::Write(token, done);
        out.push(LogIo::Write { token, segment, offset: at + done as u64, bytes });
    }

    fn group_written(
        &mut self,
        done: usize,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
        committed: &mut Vec<Chunk>,
    ) {
        let count = match wrote(result) {
            Ok(count) => count,
            Err(fault) => return self.write_failed(fault, out),
        };
        let length = self.pending.front().map_or(0, |group| group.chunk.bytes.len());
        if done + count < length {
            return self.write_group(done + count, out);
        }
        let Some(mut group) = self.pending.pop_front() else { return };
        self.file = self.file.map(|(id, at)| (id, at + length as u64));
        if self.unsynced.is_empty() {
            self.next_sync = match self.durability {
                Durability::Interval(interval) => self.now.after(interval),
                _ => self.now,
            };
        }
        if matches!(self.durability, Durability::Interval(_)) {
            self.works();
            if !group.committed {
                group.committed = true;
                self.commit(group.chunk.clone(), committed);
            }
        }
        self.unsynced.push_back(group);
        self.start(out);
    }

    fn start_sync(&mut self, out: &mut Vec<LogIo>) {
        let Some((segment, _)) = self.file else { return };
        let token = self.token();
        self.stage = Stage::Sync(token);
        out.push(LogIo::Sync { token, segment });
    }

    fn file_synced(
        &mut self,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
        committed: &mut Vec<Chunk>,
    ) {
        match result {
            Ok(_) => {}
            // fdatasync was not begun, so nothing was reported as lost.
            Err(IoFault::TryAgain) => return self.start_sync(out),
            Err(fault) => {
                self.report(fault);
                return self.distrust(out);
            }
        }
        self.works();
        while let Some(group) = self.unsynced.pop_front() {
            self.synced = group.chunk.end();
            if !group.committed {
                self.commit(group.chunk, committed);
            }
        }
        self.tail.shrink(self.limits.tail_bytes_max, self.synced);
        self.start(out);
        self.seal(out);
    }

    /// Hands out a durable group.
    fn commit(&mut self, chunk: Chunk, committed: &mut Vec<Chunk>) {
        self.committed = chunk.end();
        let holder = self.segments.iter_mut().rev().find(|segment| segment.first <= chunk.first);
        let holder = holder.expect("groups lie in segments");
        holder.end = chunk.end();
        holder.newest_at = self.now;
        self.tail.push(chunk.clone());
        if self.durability != Durability::Memory {
            self.tail.shrink(self.limits.tail_bytes_max, self.synced);
        }
        committed.push(chunk);
    }

    /// A write failed: no room is waited for, anything else spoils the file.
    fn write_failed(&mut self, fault: IoFault, out: &mut Vec<LogIo>) {
        self.report(fault);
        match fault {
            IoFault::NoSpace | IoFault::TryAgain => {
                self.stage = Stage::Retry(self.now.after(self.retry_after));
                self.back_off();
            }
            IoFault::Failed(_) => self.distrust(out),
        }
    }

    /// Writes the index of segments that take no more groups.
    fn seal(&mut self, out: &mut Vec<LogIo>) {
        let synced = self.synced;
        let writing = self.file.map(|(id, _)| id);
        let mut sealed = Vec::new();
        for segment in self.segments.iter_mut().rev().skip(1) {
            let Topics::Heads(heads) = &segment.topics else { break };
            let busy = Some(segment.id) == writing || segment.end > synced;
            let asked =
                self.others.values().any(|o| matches!(o, Other::Index(id, _) if *id == segment.id));
            if !busy && !asked {
                sealed.push((segment.id, index::encode(segment, heads)));
            }
        }
        for (segment, index) in sealed {
            let token = self.token();
            self.others.insert(token, Other::Index(segment, index.fences));
            out.push(LogIo::WriteIndex { token, segment, bytes: index.bytes });
        }
    }

    fn handle_other(
        &mut self,
        token: IoToken,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
    ) {
        if let Spare::Creating(expected, id) = self.spare
            && expected == token
        {
            return self.spare_created(id, result, out);
        }
        match self.others.remove(&token) {
            Some(Other::Index(id, fences)) if result.is_ok() => {
                if let Some(segment) = self.segments.iter_mut().find(|segment| segment.id == id) {
                    segment.topics = Topics::Pages(fences);
                }
            }
            // Without its index file the segment keeps its heads in memory, and the next start
            // builds the file. A file that could not be removed is found by the next start, too.
            Some(_) => {}
            None => self.pieces.handle_read(token, result),
        }
    }

    pub(super) fn token(&mut self) -> IoToken {
        self.next_token += 1;
        IoToken(self.next_token)
    }

    /// Asks for the removal of a segment's files.
    pub(super) fn remove(&mut self, segment: SegmentId, out: &mut Vec<LogIo>) {
        let token = self.token();
        self.others.insert(token, Other::Remove);
        self.others.values_mut().for_each(|other| {
            // An index still being written is of no use any more.
            if matches!(other, Other::Index(id, _) if *id == segment) {
                *other = Other::Ignore;
            }
        });
        out.push(LogIo::Remove { token, segment });
    }

    pub(super) fn report(&mut self, fault: IoFault) {
        match fault {
            IoFault::NoSpace => self.health = Health::Full,
            IoFault::Failed(kind) => self.health = Health::Failing(kind),
            IoFault::TryAgain => {}
        }
    }

    fn works(&mut self) {
        self.health = Health::Good;
        self.retry_after = RETRY_FIRST;
    }

    pub(super) fn back_off(&mut self) {
        self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
    }
}

/// How many bytes were written. None at all means that there is no room.
fn wrote(result: Result<IoDone, IoFault>) -> Result<usize, IoFault> {
    match result? {
        IoDone::Wrote(0) => Err(IoFault::NoSpace),
        IoDone::Wrote(count) => Ok(count),
        IoDone::Done | IoDone::Read(_) => Err(IoFault::Failed(io::ErrorKind::InvalidData)),
    }
}
