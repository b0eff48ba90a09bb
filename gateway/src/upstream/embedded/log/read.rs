//! Reading back: what a session missed, from memory where it is recent and from disk otherwise.
//!
//! A [`Replay`] keeps its place between calls of [`Log::poll_replay`], so any number of sessions
//! read at once, each holding a few hundred bytes, and those close together share pieces.

use super::commit::Log;
use super::frame::{self, Header};
use super::heads::Topics;
use super::index::{self, PAGE_BYTES};
use super::io::{LogFile, LogIo};
use super::pieces::piece_of;
use super::segment::{PIECE_BYTES, SEGMENT_HEADER_BYTES, Segment, SegmentId};
use crate::proto::partition::{Chunk, FRAME_HEADER_BYTES, Sequence};
use std::collections::{BinaryHeap, VecDeque};

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRequest {
    /// The first sequence wanted.
    pub from: Sequence,
    /// Where to stop, exclusive; `None` for the committed end at the time it is reached.
    pub to: Option<Sequence>,
    /// Which records.
    pub topics: ReplayTopics,
    /// An answer is given once it has at least this many bytes.
    pub max_bytes: usize,
}

/// Which records to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayTopics {
    /// All of them.
    All,
    /// Messages whose topic has one of these hashes ([`topic_hash`](super::topic_hash)). Costs a
    /// read a match and one a segment, not one a record. Compare the topics of what comes.
    Literal(Vec<u64>),
}

/// A reader and its place.
#[derive(Debug)]
pub struct Replay {
    next: Sequence,
    to: Option<Sequence>,
    max_bytes: usize,
    source: Source,
    clamped: bool,
    skipped: u64,
    /// The beginning of a frame that goes on in the next piece.
    partial: Vec<u8>,
    answer: Vec<Chunk>,
}

#[derive(Debug)]
enum Source {
    All,
    Literal(Vec<u64>, Option<Plan>),
    Positions(VecDeque<Sequence>),
}

/// How the matches of a literal request are found in one segment.
#[derive(Debug)]
struct Plan {
    segment: SegmentId,
    /// Matches from here on belong to the next plan.
    end: Sequence,
    /// Hashes whose heads are still to be looked up.
    lookups: Vec<u64>,
    /// The next frame of each chain, going back.
    frontier: BinaryHeap<Sequence>,
    /// Matches found, the latest first.
    found: Vec<Sequence>,
    /// The index is damaged or there are too many matches: look at every record instead.
    scan: bool,
}

/// Where a replay stands.
#[derive(Debug)]
pub enum ReadStep {
    /// Poll again after the next [`Log::handle_io`] of a read.
    Wait,
    /// Some records, or the end.
    Ready(ReplayAnswer),
}

/// Records read.
#[derive(Clone, Debug)]
pub struct ReplayAnswer {
    /// In order. With [`ReplayTopics::Literal`] and [`Log::fetch`] one record each.
    pub chunks: Vec<Chunk>,
    /// Where the next answer goes on.
    pub next: Sequence,
    /// All there is up to `next` was given.
    pub end: bool,
    /// The request began below the first retained record: what is between is gone.
    pub clamped: bool,
    /// Damaged stretches left out so far.
    pub skipped: u64,
}

/// Matches collected before they are read forward; more make a scan the cheaper way.
const MATCHES_MAX: usize = 65_536;

/// A frame that was looked for.
enum Found {
    Frame(Chunk),
    Damaged,
    Wait,
}

impl Replay {
    fn new(source: Source, from: Sequence, to: Option<Sequence>, max_bytes: usize) -> Self {
        Self {
            next: from,
            to,
            max_bytes,
            source,
            clamped: false,
            skipped: 0,
            partial: Vec::new(),
            answer: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.answer.iter().map(|chunk| chunk.bytes.len()).sum::<usize>() >= self.max_bytes
    }

    fn push(&mut self, chunk: Chunk) {
        self.answer.push(chunk);
    }
}

impl Log {
    /// A reader for `request`.
    #[must_use]
    pub fn replay(&self, request: ReplayRequest) -> Replay {
        let source = match request.topics {
            ReplayTopics::All => Source::All,
            ReplayTopics::Literal(hashes) => Source::Literal(hashes, None),
        };
        Replay::new(source, request.from, request.to, request.max_bytes)
    }

    /// A reader for single records. Those that are gone or damaged are left out and counted.
    #[must_use]
    pub fn fetch(&self, sequences: Vec<Sequence>, max_bytes: usize) -> Replay {
        Replay::new(Source::Positions(sequences.into()), Sequence::ZERO, None, max_bytes)
    }

    /// Goes on with `replay` until it has an answer or must wait for a read.
    pub fn poll_replay(&mut self, replay: &mut Replay, out: &mut Vec<LogIo>) -> ReadStep {
        let step = match &replay.source {
            Source::Positions(_) => self.poll_positions(replay, out),
            Source::All | Source::Literal(..) => self.poll_range(replay, out),
        };
        let Some(end) = step else { return ReadStep::Wait };
        ReadStep::Ready(ReplayAnswer {
            chunks: std::mem::take(&mut replay.answer),
            next: replay.next,
            end,
            clamped: replay.clamped,
            skipped: replay.skipped,
        })
    }

    /// Damaged stretches and failed reads are counted here, over all readers.
    #[must_use]
    pub fn read_failures(&self) -> u64 {
        self.pieces.failures
    }

    /// Whether everything was read, `None` to wait.
    fn poll_positions(&mut self, replay: &mut Replay, out: &mut Vec<LogIo>) -> Option<bool> {
        loop {
            let Source::Positions(positions) = &replay.source else { return Some(true) };
            let Some(&sequence) = positions.front() else { return Some(true) };
            if replay.is_full() {
                return Some(false);
            }
            match self.frame_at(sequence, &mut replay.partial, out) {
                Found::Wait => return None,
                Found::Damaged => replay.skipped += 1,
                Found::Frame(chunk) => replay.push(chunk),
            }
            replay.next = Sequence(sequence.0 + 1);
            if let Source::Positions(positions) = &mut replay.source {
                positions.pop_front();
            }
        }
    }

    fn poll_range(&mut self, replay: &mut Replay, out: &mut Vec<LogIo>) -> Option<bool> {
        loop {
            if replay.next < self.first_sequence() {
                // Nothing was lost when the log simply begins later than a cursor of zero.
                replay.clamped |= replay.next > Sequence::ZERO;
                replay.next = self.first_sequence();
                replay.partial.clear();
                if let Source::Literal(_, plan) = &mut replay.source {
                    *plan = None;
                }
            }
            let end = replay.to.map_or(self.committed, |to| to.min(self.committed));
            let segment = self.segment_from(replay.next);
            let start = segment.map_or(end, |segment| segment.first.max(replay.next));
            if start >= end {
                replay.next = replay.next.max(end);
                return Some(true);
            }
            if replay.is_full() {
                return Some(false);
            }
            replay.next = start;
            let stop = segment.map_or(end, |segment| segment.end.min(end));
            match &replay.source {
                Source::Literal(..) => self.step_literal(replay, stop, out)?,
                Source::All | Source::Positions(_) => self.step_all(replay, stop, out)?,
            }
        }
    }

    /// Reads the run of frames at `replay.next`.
    fn step_all(
        &mut self,
        replay: &mut Replay,
        stop: Sequence,
        out: &mut Vec<LogIo>,
    ) -> Option<()> {
        if let Some(run) = self.run_at(replay, stop, out)? {
            replay.push(run);
        }
        Some(())
    }

    /// The frames from `replay.next` that lie together, at most up to `stop`, and moves on past
    /// them. `Some(None)` when damage was skipped instead.
    fn run_at(
        &mut self,
        replay: &mut Replay,
        stop: Sequence,
        out: &mut Vec<LogIo>,
    ) -> Option<Option<Chunk>> {
        let from = replay.next;
        if let Some(chunk) = self.tail.chunk(from) {
            let run = slice(chunk, from, chunk.end().min(stop));
            replay.next = run.end();
            return Some(Some(run));
        }
        let piece = if replay.partial.is_empty() { Some(self.piece(from, out)?) } else { None };
        if let Some(piece) = piece
            && let Some(run) = intact_run(&piece, stop, replay.max_bytes)
        {
            replay.next = run.end();
            return Some(Some(run));
        }
        match self.frame_at(from, &mut replay.partial, out) {
            Found::Wait => None,
            Found::Frame(chunk) => {
                replay.next = chunk.end();
                Some(Some(chunk))
            }
            Found::Damaged => {
                replay.skipped += 1;
                replay.next = self.after_damage(from, out)?.min(stop);
                Some(None)
            }
        }
    }

    /// Where the next intact frame after the damaged one at `from` may be.
    fn after_damage(&mut self, from: Sequence, out: &mut Vec<LogIo>) -> Option<Sequence> {
        let mark = self.segment_from(from).map_or(self.committed, |s| s.mark_after(from));
        let piece = self.piece(from, out)?;
        let inside = frame::next_intact(&piece.bytes, piece.first, 1)
            .map(|at| Sequence(piece.first.0 + at as u64));
        Some(inside.map_or(mark, |inside| inside.min(mark)))
    }

    fn step_literal(
        &mut self,
        replay: &mut Replay,
        stop: Sequence,
        out: &mut Vec<LogIo>,
    ) -> Option<()> {
        let Source::Literal(hashes, plan) = &mut replay.source else { return Some(()) };
        let mut plan = match plan.take() {
            Some(plan) if plan.end > replay.next => plan,
            _ => self.plan(replay.next, stop, hashes)?,
        };
        let step = if plan.scan {
            self.step_scan(replay, &plan, out)
        } else {
            self.step_plan(replay, &mut plan, out)
        };
        if let Source::Literal(_, kept) = &mut replay.source {
            *kept = Some(plan);
        }
        step
    }

    fn plan(&self, from: Sequence, end: Sequence, hashes: &[u64]) -> Option<Plan> {
        let segment = self.segment_from(from)?.id;
        Some(Plan {
            segment,
            end,
            lookups: hashes.to_vec(),
            frontier: BinaryHeap::new(),
            found: Vec::new(),
            scan: false,
        })
    }

    fn step_plan(
        &mut self,
        replay: &mut Replay,
        plan: &mut Plan,
        out: &mut Vec<LogIo>,
    ) -> Option<()> {
        self.look_up(plan, out)?;
        self.walk_chains(replay, plan, out)?;
        while let Some(&sequence) = plan.found.last()
            && !plan.scan
        {
            if replay.is_full() {
                return Some(());
            }
            match self.frame_at(sequence, &mut replay.partial, out) {
                Found::Wait => return None,
                Found::Frame(chunk) => {
                    replay.next = chunk.end();
                    replay.push(chunk);
                }
                Found::Damaged => replay.skipped += 1,
            }
            plan.found.pop();
        }
        if !plan.scan {
            replay.next = plan.end;
        }
        Some(())
    }

    /// Finds the last frame of each hash of the plan.
    fn look_up(&mut self, plan: &mut Plan, out: &mut Vec<LogIo>) -> Option<()> {
        while let Some(&hash) = plan.lookups.last() {
            let segment = self.segments.iter().find(|segment| segment.id == plan.segment);
            let head = match segment.map(|segment| (&segment.topics, segment.first)) {
                None => None,
                Some((Topics::Heads(heads), _)) => heads.get(&hash).copied(),
                Some((Topics::Pages(fences), first)) => {
                    match fences.partition_point(|fence| *fence <= hash).checked_sub(1) {
                        None => None,
                        Some(page) => match self.page(plan.segment, page, hash, out)? {
                            Ok(offset) => offset.map(|at| Sequence(first.0 + u64::from(at))),
                            Err(index::BadPage) => {
                                plan.scan = true;
                                None
                            }
                        },
                    }
                }
            };
            plan.frontier.extend(head);
            plan.lookups.pop();
        }
        Some(())
    }

    fn page(
        &mut self,
        segment: SegmentId,
        page: usize,
        hash: u64,
        out: &mut Vec<LogIo>,
    ) -> Option<Result<Option<u32>, index::BadPage>> {
        let (offset, within) = piece_of((page * PAGE_BYTES) as u64);
        let bytes = self.cached(LogFile::Index(segment), offset, PIECE_BYTES, out)?;
        let page = bytes.get(within..within + PAGE_BYTES).unwrap_or_default();
        let found = index::find(page, hash);
        if found.is_err() {
            self.pieces.failures += 1;
        }
        Some(found)
    }

    /// Follows all chains back to `replay.next`, always the latest frame first, so that every
    /// piece is passed once.
    fn walk_chains(
        &mut self,
        replay: &mut Replay,
        plan: &mut Plan,
        out: &mut Vec<LogIo>,
    ) -> Option<()> {
        while let Some(&at) = plan.frontier.peek()
            && !plan.scan
        {
            if at < replay.next {
                plan.frontier.clear();
                break;
            }
            let link = if at >= self.committed {
                self.uncommitted_link(at)
            } else {
                match self.frame_at(at, &mut replay.partial, out) {
                    Found::Wait => return None,
                    Found::Damaged => None,
                    Found::Frame(chunk) => Header::read(&chunk.bytes).map(|header| header.link),
                }
            };
            plan.frontier.pop();
            match link {
                None => plan.scan = true,
                Some(0) => {}
                Some(link) => plan.frontier.extend(at.0.checked_sub(link.into()).map(Sequence)),
            }
            if at < plan.end {
                plan.found.push(at);
            }
            plan.scan |= plan.found.len() > MATCHES_MAX;
        }
        Some(())
    }

    /// Looks at every record up to the end of the plan.
    fn step_scan(&mut self, replay: &mut Replay, plan: &Plan, out: &mut Vec<LogIo>) -> Option<()> {
        let Some(run) = self.run_at(replay, plan.end, out)? else { return Some(()) };
        let Source::Literal(hashes, _) = &replay.source else { return Some(()) };
        let matches = |body: &[u8]| frame::topic_hash_of(body).is_some_and(|h| hashes.contains(&h));
        let chunks: Vec<Chunk> = run
            .bodies()
            .filter(|(_, body)| matches(body))
            .map(|(at, body)| {
                let bytes = FRAME_HEADER_BYTES + body.len();
                slice(&run, at, Sequence(at.0 + bytes as u64))
            })
            .collect();
        replay.answer.extend(chunks);
        Some(())
    }

    /// The frame at `sequence`. `partial` keeps what was read of it while the rest is awaited.
    fn frame_at(
        &mut self,
        sequence: Sequence,
        partial: &mut Vec<u8>,
        out: &mut Vec<LogIo>,
    ) -> Found {
        if let Some(chunk) = self.tail.chunk(sequence) {
            let bytes = chunk.body(sequence).map_or(0, |body| body.len() + FRAME_HEADER_BYTES);
            partial.clear();
            if bytes == 0 {
                return Found::Damaged;
            }
            return Found::Frame(slice(chunk, sequence, Sequence(sequence.0 + bytes as u64)));
        }
        loop {
            let next = Sequence(sequence.0 + partial.len() as u64);
            if self.segment_from(sequence).is_none_or(|s| !s.contains(sequence) || next >= s.end) {
                partial.clear();
                return Found::Damaged;
            }
            let Some(piece) = self.piece(next, out) else { return Found::Wait };
            if partial.is_empty()
                && let Some((_, frame)) = frame::intact_frame(&piece.bytes, sequence)
            {
                let end = Sequence(sequence.0 + frame.len() as u64);
                return Found::Frame(slice(&piece, sequence, end));
            }
            let wanted = self.segment_from(sequence).map_or(0, |s| s.end.0 - sequence.0);
            partial.extend_from_slice(&piece.bytes);
            let header = Header::read(partial);
            let whole = header.map(Header::frame_bytes);
            let complete = whole.is_some_and(|whole| whole <= partial.len() as u64);
            if !complete && !piece.bytes.is_empty() && whole.is_none_or(|whole| whole <= wanted) {
                continue;
            }
            let bytes = std::mem::take(partial);
            return match frame::intact_frame(&bytes, sequence) {
                Some((_, frame)) => Found::Frame(Chunk {
                    partition: self.partition,
                    first: sequence,
                    bytes: frame.to_vec().into(),
                }),
                None => Found::Damaged,
            };
        }
    }

    /// The bytes from `sequence` to the end of its piece, `None` to wait.
    fn piece(&mut self, sequence: Sequence, out: &mut Vec<LogIo>) -> Option<Chunk> {
        let segment = self.segment_from(sequence)?;
        let (id, first, bytes) = (segment.id, segment.first, segment.bytes());
        let (offset, within) = piece_of(sequence.0 - first.0);
        let length = PIECE_BYTES.min(bytes - offset);
        let file_offset = offset + SEGMENT_HEADER_BYTES as u64;
        let piece = self.cached(LogFile::Segment(id), file_offset, length, out)?;
        let to = piece.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let bytes = piece.slice(within.min(to)..to);
        Some(Chunk { partition: self.partition, first: sequence, bytes })
    }

    fn cached(
        &mut self,
        file: LogFile,
        offset: u64,
        length: u64,
        out: &mut Vec<LogIo>,
    ) -> Option<bytes::Bytes> {
        let token = self.token();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.pieces.get(file, offset, length, || token, out)
    }

    /// The segment that holds `sequence`, or else the next one with anything in it.
    fn segment_from(&self, sequence: Sequence) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.end <= sequence);
        self.segments.range(after..).find(|segment| segment.bytes() > 0)
    }
}

/// The part of `chunk` between two of its sequences.
fn slice(chunk: &Chunk, from: Sequence, to: Sequence) -> Chunk {
    let at = |sequence: Sequence| {
        usize::try_from(sequence.0.saturating_sub(chunk.first.0)).unwrap_or(usize::MAX)
    };
    let end = at(to).min(chunk.bytes.len());
    let bytes = chunk.bytes.slice(at(from).min(end)..end);
    Chunk { partition: chunk.partition, first: from, bytes }
}

/// The intact frames at the start of `piece`, up to `stop` and about `max_bytes`; `None` when
/// there is none.
fn intact_run(piece: &Chunk, stop: Sequence, max_bytes: usize) -> Option<Chunk> {
    let mut at = 0;
    while at < max_bytes
        && let sequence = Sequence(piece.first.0 + at as u64)
        && sequence < stop
        && let Some((_, frame)) = frame::intact_frame(piece.bytes.get(at..)?, sequence)
    {
        at += frame.len();
    }
    (at > 0).then(|| slice(piece, piece.first, Sequence(piece.first.0 + at as u64)))
}
