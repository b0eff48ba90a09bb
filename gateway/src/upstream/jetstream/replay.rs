//! Sessions that are behind read on in the stream.
//!
//! ```text
//! Request::Replay ─▶ mark ─▶ few literal filters: Direct Get of each subject ─┐
//!                            else: pages, shared by all who are behind here ──┴▶ up to the mark ─▶ tail ─▶ live
//! ```
//! A replay ends where the live feed takes over: at the mark, everything before which is in the
//! stream and everything behind which came by itself, into the tail, since the filters were
//! subscribed to before the mark was sent.

use super::direct_get::Start;
use super::partition::{FeedStage, Kept, Partition, RETRY, message_of};
use super::place::{inside, outside};
use super::requests::{Purpose, Scan};
use super::stored::StoreTime;
use super::tail::Tail;
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::{filter_matches, has_wildcard};
use crate::proto::session::Ticket;
use crate::proto::shard_state::Replayed;
use crate::proto::time::Timestamp;
use std::collections::HashMap;
use std::num::NonZeroU16;

/// A message as it was read: its place and its record body.
pub(super) type Found = (Sequence, Box<[u8]>);

/// The answer to [`crate::proto::shard_state::Request::Fetch`].
pub(super) type Fetched = (Ticket, PartitionId, Vec<(Sequence, Option<Box<[u8]>>)>);

/// A session with so many filters without wildcards, or fewer, reads each by itself.
const SUBJECTS_MAX: usize = 8;

/// Messages in one answer, and places in one page.
const BATCH: u16 = 1_000;

/// Pages a replay looks through before it gives way, and all of a partition together.
const PAGES_A_TURN: usize = 8;
const PAGES_A_FLUSH: usize = 32;

/// Pages kept, whatever their bytes.
const PAGES_MAX: usize = 256;

/// What sessions read back. See the module.
#[derive(Debug)]
pub(super) struct Replays {
    replays: Vec<Replay>,
    fetches: Vec<Fetch>,
    pages: Pages,
    next_id: u64,
    retry_at: Timestamp,
    /// Something may go on without an answer.
    pub(super) has_turns: bool,
    /// Pages that may still be looked through before others have their turn.
    pages_left: usize,
}

#[derive(Debug)]
pub(super) struct Replay {
    id: u64,
    ticket: Ticket,
    /// It is not known where it begins, only when.
    since: Option<StoreTime>,
    first: Sequence,
    next: Sequence,
    filters: Vec<Box<str>>,
    count_max: usize,
    /// The mark sent after the filters were subscribed to, and where it says that the stream ends.
    mark: u64,
    end: Option<Sequence>,
    /// The subjects of the filters; empty when pages are read.
    subjects: Vec<SubjectRead>,
    /// Questions that are not answered.
    asked: usize,
    found: Vec<Found>,
}

#[derive(Debug)]
struct SubjectRead {
    subject: Box<[u8]>,
    found: Vec<Found>,
    /// Behind the last message that came.
    reached: Sequence,
    /// Everything before it was read.
    complete_to: Sequence,
    /// The end of the stream, at least, when it was asked.
    end: Sequence,
}

#[derive(Debug)]
pub(super) struct Fetch {
    id: u64,
    ticket: Ticket,
    wanted: Vec<Wanted>,
    /// Which of them are not answered.
    asked: usize,
    sent: bool,
}

#[derive(Debug)]
struct Wanted {
    /// What the session calls it.
    name: Sequence,
    /// `None` for what no stream has.
    sequence: Option<Sequence>,
    body: Option<Box<[u8]>>,
    /// Behind the last message that came to the question for this one: servers lag differently.
    reached: Sequence,
}

#[derive(Debug)]
struct Pages {
    pages: HashMap<u64, Page, ahash::RandomState>,
    bytes: usize,
    bytes_max: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Page {
    messages: Vec<Found>,
    bytes: usize,
    complete_to: Sequence,
    /// Behind the last message that came, those of the next page among them.
    reached: Sequence,
    /// Being read; the end of the stream, at least, when it was asked for.
    asked: Option<Sequence>,
    used: u64,
}

impl Replays {
    pub(super) fn new(page_bytes_max: usize) -> Self {
        let pages =
            Pages { pages: HashMap::default(), bytes: 0, bytes_max: page_bytes_max, clock: 0 };
        Self {
            replays: Vec::new(),
            fetches: Vec::new(),
            pages,
            next_id: 0,
            retry_at: Timestamp::START,
            has_turns: false,
            pages_left: 0,
        }
    }

    /// Bytes of the pages kept.
    pub(super) fn page_bytes(&self) -> usize {
        self.pages.bytes
    }

    /// The link is lost: everything is asked again.
    pub(super) fn lose_answers(&mut self) {
        for replay in &mut self.replays {
            replay.asked = 0;
            replay.end = None;
            replay.mark = 0;
        }
        for fetch in &mut self.fetches {
            fetch.sent = false;
        }
        self.pages.pages.clear();
        self.pages.bytes = 0;
    }

    /// What places were is gone for some sessions, `from` on: none of them begins behind.
    pub(super) fn lose_from(&mut self, from: impl Fn(u32) -> Option<Sequence>) {
        for replay in &mut self.replays {
            let Some(from) = from(replay.ticket.session) else {
                continue;
            };
            replay.first = from.min(replay.first);
            replay.next = from.min(replay.next);
            replay.found.retain(|(sequence, _)| *sequence < from);
            for read in &mut replay.subjects {
                read.found.clear();
            }
        }
        for fetch in &mut self.fetches {
            let Some(from) = from(fetch.ticket.session) else {
                continue;
            };
            for one in &mut fetch.wanted {
                let is_lost = one.sequence.is_some_and(|sequence| sequence >= from);
                one.sequence = one.sequence.filter(|_| !is_lost);
                one.body = one.body.take().filter(|_| !is_lost);
            }
        }
    }

    /// A question was not answered for now: asked again later.
    pub(super) fn fail(&mut self, purpose: Purpose, retry_at: Timestamp) {
        self.retry_at = retry_at;
        match purpose {
            Purpose::Subject { replay, .. } => {
                if let Some(replay) = self.find(replay) {
                    replay.asked = replay.asked.saturating_sub(1);
                    replay.subjects.iter_mut().for_each(|read| read.complete_to = replay.next);
                }
            }
            Purpose::Page(page) => drop(self.pages.forget(page)),
            Purpose::Fetch { fetch, .. } => {
                // Answers to what else was asked of it are to another attempt.
                let id = self.next_id;
                self.next_id += 1;
                if let Some(fetch) = self.fetches.iter_mut().find(|one| one.id == fetch) {
                    (fetch.id, fetch.sent) = (id, false);
                }
            }
            Purpose::First { replay: Some(replay) } => {
                if let Some(replay) = self.find(replay) {
                    replay.asked = 0;
                }
            }
            Purpose::Feed
            | Purpose::First { replay: None }
            | Purpose::Retained(_)
            | Purpose::Known
            | Purpose::RetainedLast(_)
            | Purpose::RetainedPlace(_)
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::Stored(_) => {}
        }
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        let waits = self.replays.iter().any(|replay| replay.asked == 0)
            || self.fetches.iter().any(|fetch| !fetch.sent);
        match (self.has_turns, waits) {
            (true, _) => Timestamp::START,
            // Those that wait for a mark or a page are woken by its answer.
            (false, true) if self.retry_at > Timestamp::START => self.retry_at,
            (false, _) => Timestamp::NEVER,
        }
    }

    /// The first message from the time on at which a replay begins, `None` if there is none.
    pub(super) fn begin(&mut self, replay: u64, first: Option<Sequence>) {
        if let Some(replay) = self.find(replay) {
            let behind_all = replay.end.map(Sequence::next);
            let Some(next) = first.or(behind_all) else {
                return;
            };
            (replay.first, replay.next) = (next, next);
            (replay.since, replay.asked) = (None, 0);
        }
    }

    /// Forgets pages while there are too many, but none that a replay is at: two that are at different pages
    /// would take them from each other before they are looked through, for ever.
    fn forget_pages(&mut self) {
        let Self { replays, pages, .. } = self;
        while pages.is_too_much() {
            let is_awaited = |number: u64| replays.iter().any(|one| page_of(one.next) == number);
            if !pages.forget_oldest(is_awaited) {
                return;
            }
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Replay> {
        self.replays.iter_mut().find(|replay| replay.id == id)
    }

    /// A message that was asked for.
    pub(super) fn take_message(&mut self, purpose: Purpose, sequence: Sequence, body: Vec<u8>) {
        let body = body.into_boxed_slice();
        match purpose {
            Purpose::Subject { replay, place } => {
                let read = self.find(replay).and_then(|one| one.subjects.get_mut(place as usize));
                if let Some(read) = read {
                    read.found.push((sequence, body));
                }
            }
            Purpose::Page(page) => self.pages.add(page, sequence, body),
            Purpose::Fetch { fetch, sequence: wanted } if sequence == wanted => {
                let fetch = self.fetches.iter_mut().find(|one| one.id == fetch);
                let is_it = |one: &&mut Wanted| one.sequence == Some(sequence);
                if let Some(one) = fetch.and_then(|one| one.wanted.iter_mut().find(is_it)) {
                    one.body = Some(body);
                }
            }
            Purpose::Fetch { .. }
            | Purpose::Feed
            | Purpose::First { .. }
            | Purpose::Retained(_)
            | Purpose::Known
            | Purpose::RetainedLast(_)
            | Purpose::RetainedPlace(_)
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::Stored(_) => {}
        }
    }

    /// A message that was asked for is none that is delivered: it was read all the same.
    pub(super) fn pass_over(&mut self, purpose: Purpose, sequence: Sequence) {
        match purpose {
            Purpose::Subject { replay, place } => {
                let read = self.find(replay).and_then(|one| one.subjects.get_mut(place as usize));
                if let Some(read) = read {
                    read.reached = sequence.next().max(read.reached);
                }
            }
            Purpose::Page(page) => {
                if let Some(page) = self.pages.pages.get_mut(&page) {
                    page.reached = sequence.next().max(page.reached);
                }
            }
            Purpose::Fetch { fetch, sequence: wanted } => {
                let fetch = self.fetches.iter_mut().find(|one| one.id == fetch);
                let is_it = |one: &&mut Wanted| one.sequence == Some(wanted);
                if let Some(one) = fetch.and_then(|one| one.wanted.iter_mut().find(is_it)) {
                    one.reached = sequence.next().max(one.reached);
                }
            }
            Purpose::Feed
            | Purpose::First { .. }
            | Purpose::Retained(_)
            | Purpose::Known
            | Purpose::RetainedLast(_)
            | Purpose::RetainedPlace(_)
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::Stored(_) => {}
        }
    }

    /// Whether not everything has come that was in the stream when it was asked for.
    pub(super) fn falls_short(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Page(number) => self.pages.pages.get(&number).is_some_and(|page| {
                page.asked.is_some_and(|known_end| page.reached <= known_end)
                    && page.reached < Pages::end(number)
            }),
            // Something behind it says that it is gone, not that it is yet to come.
            Purpose::Fetch { fetch, sequence } => {
                let fetch = self.fetches.iter().find(|one| one.id == fetch);
                let falls_short =
                    |one: &Wanted| one.sequence == Some(sequence) && one.reached <= sequence;
                fetch.is_some_and(|fetch| fetch.wanted.iter().any(falls_short))
            }
            _ => false,
        }
    }

    /// Everything that was asked for has come. With `more` the stream has more of it.
    pub(super) fn take_end(&mut self, purpose: Purpose, more: bool) {
        match purpose {
            Purpose::Subject { replay, place } => {
                let Some(replay) = self.find(replay) else {
                    return;
                };
                replay.asked = replay.asked.saturating_sub(1);
                if let Some(read) = replay.subjects.get_mut(place as usize) {
                    let last = read.reached.max(replay.next);
                    read.complete_to = if more { last } else { last.max(read.end.next()) };
                }
                if replay.asked == 0 {
                    replay.merge_subjects();
                }
            }
            Purpose::Page(page) => {
                self.pages.complete(page, more);
                self.forget_pages();
            }
            Purpose::Fetch { fetch, .. } => {
                if let Some(fetch) = self.fetches.iter_mut().find(|one| one.id == fetch) {
                    fetch.asked = fetch.asked.saturating_sub(1);
                }
            }
            Purpose::Feed
            | Purpose::First { .. }
            | Purpose::Retained(_)
            | Purpose::Known
            | Purpose::RetainedLast(_)
            | Purpose::RetainedPlace(_)
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::Stored(_) => {}
        }
    }
}

impl Replay {
    /// What the subjects brought, in order, as far as all of them were read.
    fn merge_subjects(&mut self) {
        let complete_to = self.subjects.iter().map(|read| read.complete_to).min();
        let Some(complete_to) = complete_to else {
            return;
        };
        let read = self.subjects.iter_mut().flat_map(|read| std::mem::take(&mut read.found));
        self.found.extend(read.filter(|(sequence, _)| *sequence < complete_to));
        self.found.sort_unstable_by_key(|(sequence, _)| *sequence);
        self.next = complete_to.max(self.next);
        self.cut();
    }

    /// Leaves what is too much for one answer to the next.
    fn cut(&mut self) {
        if let Some((sequence, _)) = self.found.get(self.count_max) {
            self.next = *sequence;
            self.found.truncate(self.count_max);
        }
    }

    fn wants(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| filter_matches(filter, topic))
    }

    /// Adds what came live behind the end; false when the tail does not reach back so far.
    fn add_tail(&mut self, end: Sequence, tail: &Tail) -> bool {
        let Some(later) = tail.from(end.next()) else {
            return false;
        };
        self.found.retain(|(sequence, _)| *sequence <= end);
        for (sequence, body) in later {
            if self.wants(message_of(body).topic) {
                self.found.push((*sequence, body.as_ref().into()));
            }
        }
        true
    }
}

/// What a turn of a replay came to.
enum Turn {
    /// An answer of a server is needed first.
    Waits,
    /// It is another's turn.
    Yields,
    Answers(Replayed),
}

impl Partition {
    /// A session reads on.
    pub(super) fn start_replay(
        &mut self,
        ticket: Ticket,
        from: Start,
        filters: Vec<Box<str>>,
        count_max: u32,
        stored: &TopicPrefix,
    ) {
        let (from, since) = match from {
            Start::At(from) => (from, None),
            Start::Since(time) => (Sequence::ZERO, Some(time)),
        };
        let mut subjects = Vec::new();
        if filters.len() <= SUBJECTS_MAX && !filters.iter().any(|filter| has_wildcard(filter)) {
            for filter in &filters {
                let mut subject = Vec::new();
                if stored.subject(filter, &mut subject).is_ok() {
                    let (found, end) = (Vec::new(), Sequence::ZERO);
                    let (reached, complete_to) = (Sequence::ZERO, from);
                    let subject = subject.into_boxed_slice();
                    subjects.push(SubjectRead { subject, found, reached, complete_to, end });
                }
            }
        }
        // What the session asked on an earlier connection nobody waits for.
        self.replays.replays.retain(|one| one.ticket.session != ticket.session);
        let id = self.replays.next_id;
        self.replays.next_id += 1;
        let mark = self.marks.want();
        self.replays.replays.push(Replay {
            id,
            ticket,
            since,
            first: from,
            next: from.max(Sequence(1)),
            filters,
            count_max: (count_max as usize).max(1),
            mark,
            end: None,
            subjects,
            asked: 0,
            found: Vec::new(),
        });
    }

    /// A session wants single messages again.
    pub(super) fn start_fetch(&mut self, ticket: Ticket, sequences: Vec<Sequence>) {
        let is_of_before =
            |one: &Fetch| one.ticket.session == ticket.session && one.ticket.epoch != ticket.epoch;
        self.replays.fetches.retain(|one| !is_of_before(one));
        let id = self.replays.next_id;
        self.replays.next_id += 1;
        let wanted = sequences.into_iter().map(|name| {
            let sequence = match inside(name) {
                Start::At(sequence) => Some(sequence),
                Start::Since(_) => None,
            };
            let body = sequence.and_then(|sequence| self.tail.get(sequence));
            let (body, reached) = (body.map(|body| body[..].into()), Sequence::ZERO);
            Wanted { name, sequence, body, reached }
        });
        let wanted = wanted.collect();
        self.replays.fetches.push(Fetch { id, ticket, wanted, asked: 1, sent: false });
    }

    /// Lets sessions read on as far as possible.
    pub(super) fn advance_replays(
        &mut self,
        now: Timestamp,
        replayed: &mut Vec<(Ticket, Replayed)>,
        fetched: &mut Vec<Fetched>,
    ) {
        self.replays.has_turns = false;
        self.replays.pages_left = PAGES_A_FLUSH;
        if !self.ready || now < self.replays.retry_at {
            return;
        }
        self.replays.retry_at = Timestamp::START;
        if self.lives.is_due {
            return;
        }
        self.advance_fetches(now, fetched);
        let mut replays = std::mem::take(&mut self.replays.replays);
        // Who is furthest behind first: then all come to a page while it is kept.
        replays.sort_by_key(|replay| replay.next);
        replays.retain_mut(|replay| match self.advance_replay(replay, now) {
            Turn::Waits => true,
            Turn::Yields => {
                self.replays.has_turns = true;
                true
            }
            Turn::Answers(answer) => {
                replayed.push((replay.ticket, answer));
                false
            }
        });
        replays.append(&mut self.replays.replays);
        self.replays.replays = replays;
    }

    fn advance_fetches(&mut self, now: Timestamp, fetched: &mut Vec<Fetched>) {
        let mut fetches = std::mem::take(&mut self.replays.fetches);
        fetches.retain_mut(|fetch| {
            if self.lives.is_unchecked(fetch.ticket.session) {
                return true;
            }
            if !fetch.sent {
                fetch.sent = true;
                let missing = fetch.wanted.iter().filter(|one| one.body.is_none());
                let missing: Vec<Sequence> = missing.filter_map(|one| one.sequence).collect();
                fetch.asked = missing.len();
                for sequence in missing {
                    let purpose = Purpose::Fetch { fetch: fetch.id, sequence };
                    let batch = NonZeroU16::MIN;
                    let from = Start::At(sequence);
                    let scan = Scan { purpose, from, subject: None, batch, last_only: false };
                    self.ask(scan, Kept::Messages, now);
                }
            }
            if fetch.asked > 0 {
                return true;
            }
            let bodies = std::mem::take(&mut fetch.wanted).into_iter();
            fetched.push((fetch.ticket, self.id, bodies.map(|one| (one.name, one.body)).collect()));
            false
        });
        fetches.append(&mut self.replays.fetches);
        self.replays.fetches = fetches;
    }

    fn advance_replay(&mut self, replay: &mut Replay, now: Timestamp) -> Turn {
        if replay.asked > 0 || self.lives.is_unchecked(replay.ticket.session) {
            return Turn::Waits;
        }
        if self.is_replicated() {
            // A server that lags would not be known by what it says of one subject.
            replay.subjects.clear();
        }
        if replay.mark == 0 {
            replay.mark = self.marks.want();
        }
        if replay.end.is_none() && self.marks.answered >= replay.mark {
            replay.end = Some(self.marks.end);
        }
        if let Some(time) = replay.since {
            // What is not found lies behind the end, which is to be known first.
            if replay.end.is_some() {
                replay.asked = 1;
                self.ask_first(time, Some(replay.id), now);
            }
            return Turn::Waits;
        }
        let first_kept = self.status.as_ref().map_or(Sequence::ZERO, |status| status.first);
        replay.next = replay.next.max(first_kept);
        for _ in 0..PAGES_A_TURN {
            if self.replays.pages_left == 0 || self.requests.is_full() {
                return if self.requests.is_full() { Turn::Waits } else { Turn::Yields };
            }
            if let Some(limit) = self.feed.limit().filter(|limit| replay.next >= *limit) {
                return self.stop_replay(replay, limit);
            }
            if replay.found.len() >= replay.count_max {
                return Turn::Answers(self.answer(replay));
            }
            // So far the stream is known to reach.
            let known_end = replay.end.unwrap_or(self.marks.end);
            if replay.next > known_end {
                return self.finish_replay(replay);
            }
            if replay.subjects.is_empty() {
                if !self.read_page(replay, known_end, now) {
                    return Turn::Waits;
                }
            } else if replay.found.is_empty() {
                self.ask_subjects(replay, known_end, now);
                return Turn::Waits;
            } else {
                return Turn::Answers(self.answer(replay));
            }
        }
        Turn::Yields
    }

    /// The stream was read up to its end: the live feed goes on from there, or has.
    fn finish_replay(&mut self, replay: &mut Replay) -> Turn {
        let Some(end) = replay.end else {
            return Turn::Waits;
        };
        if self.feed.stage == FeedStage::Gated && !replay.found.is_empty() {
            // The rest may have to wait for long.
            replay.found.retain(|(sequence, _)| *sequence <= end);
            replay.next = end.next();
            return Turn::Answers(self.answer(replay));
        }
        if self.feed.stage != FeedStage::Live {
            return Turn::Waits;
        }
        if replay.add_tail(end, &self.tail) {
            replay.next = self.feed.fed;
            return Turn::Answers(self.answer_up_to(replay, end.next(), true));
        }
        // So much has come since that it is to be read from the stream.
        replay.found.retain(|(sequence, _)| *sequence <= end);
        replay.next = end.next();
        replay.end = None;
        replay.mark = self.marks.want();
        Turn::Waits
    }

    /// What comes from `limit` on waits until the shard was given what comes before it.
    fn stop_replay(&mut self, replay: &mut Replay, limit: Sequence) -> Turn {
        if replay.first < limit {
            replay.next = limit;
            replay.found.retain(|(sequence, _)| *sequence < limit);
            if !replay.found.is_empty() {
                return Turn::Answers(self.answer(replay));
            }
        }
        Turn::Waits
    }

    /// What was read so far; there is more.
    fn answer(&self, replay: &mut Replay) -> Replayed {
        self.answer_up_to(replay, replay.next, false)
    }

    /// What was read, the stream itself up to `read_to`.
    fn answer_up_to(&self, replay: &mut Replay, read_to: Sequence, end: bool) -> Replayed {
        let first_kept = self.status.as_ref().map_or(Sequence::ZERO, |status| status.first);
        let seen = match self.is_replicated() {
            true => self.feed.confirmed.below(),
            false => self.feed.fed,
        };
        Replayed {
            partition: self.id,
            messages: std::mem::take(&mut replay.found)
                .into_iter()
                .map(|(sequence, body)| (outside(sequence), body))
                .collect(),
            next: outside(replay.next),
            end,
            // Where nothing was ever confirmed it says nothing.
            seen: if seen == Sequence::ZERO { seen } else { outside(seen) },
            read_to: self.is_replicated().then(|| outside(read_to)),
            alone: true,
            clamped: replay.first > Sequence::ZERO && replay.first < first_kept,
        }
    }

    fn ask_subjects(&mut self, replay: &mut Replay, known_end: Sequence, now: Timestamp) {
        let wanted = u16::try_from(replay.count_max).unwrap_or(BATCH).min(BATCH);
        let batch = NonZeroU16::new(wanted).expect("at least one");
        replay.asked = replay.subjects.len();
        for (place, read) in (0..).zip(&mut replay.subjects) {
            read.found.clear();
            (read.reached, read.end) = (Sequence::ZERO, known_end);
            let purpose = Purpose::Subject { replay: replay.id, place };
            let subject = Some(read.subject.clone());
            let from = Start::At(replay.next);
            let scan = Scan { purpose, from, subject, batch, last_only: false };
            self.ask(scan, Kept::Messages, now);
        }
    }

    /// Looks through the page that `replay` is at; false when it has to be read first.
    fn read_page(&mut self, replay: &mut Replay, known_end: Sequence, now: Timestamp) -> bool {
        let number = page_of(replay.next);
        self.replays.pages_left -= 1;
        let pages = &mut self.replays.pages;
        pages.clock += 1;
        let clock = pages.clock;
        let may_ask = pages.may_ask();
        if !may_ask && !pages.pages.contains_key(&number) {
            return false;
        }
        let page = pages.pages.entry(number).or_default();
        page.used = clock;
        if replay.next < page.complete_to {
            let next = page.complete_to;
            // What is behind it came of a batch that is still being read, for somebody else.
            let [from, to] = [replay.next, next]
                .map(|place| page.messages.partition_point(|(sequence, _)| *sequence < place));
            let wanted = page.messages.get(from..to).unwrap_or_default().iter();
            let wanted = wanted.filter(|(_, body)| replay.wants(message_of(body).topic));
            let wanted: Vec<Found> = wanted.cloned().collect();
            replay.found.extend(wanted);
            replay.next = next;
            replay.cut();
            return true;
        }
        if page.asked.is_none() && may_ask {
            page.asked = Some(known_end);
            let first = Sequence(number * u64::from(BATCH)).max(Sequence(1));
            let from = page.complete_to.max(first);
            let batch = NonZeroU16::new(BATCH).expect("not 0");
            let (purpose, from) = (Purpose::Page(number), Start::At(from));
            let scan = Scan { purpose, from, subject: None, batch, last_only: false };
            self.ask(scan, Kept::Messages, now);
        }
        false
    }
}

fn page_of(sequence: Sequence) -> u64 {
    sequence.0 / u64::from(BATCH)
}

impl Pages {
    fn end(number: u64) -> Sequence {
        Sequence((number + 1) * u64::from(BATCH))
    }

    fn add(&mut self, number: u64, sequence: Sequence, body: Box<[u8]>) {
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        page.reached = sequence.next().max(page.reached);
        if sequence < Self::end(number) && page.asked.is_some() {
            page.bytes += body.len();
            self.bytes += body.len();
            page.messages.push((sequence, body));
        }
    }

    fn complete(&mut self, number: u64, more: bool) {
        let end = Self::end(number);
        if let Some(page) = self.pages.get_mut(&number)
            && let Some(known_end) = page.asked.take()
        {
            let complete_to = if more { page.reached } else { page.reached.max(known_end.next()) };
            page.complete_to = complete_to.min(end).max(page.complete_to);
        }
    }

    fn is_too_much(&self) -> bool {
        (self.bytes > self.bytes_max || self.pages.len() > PAGES_MAX) && self.pages.len() > 1
    }

    /// Whether a page may be read now. As long as those kept are too much, and cannot be forgotten as they
    /// are awaited, one is read after the other: its answer wakes who waits for the next.
    fn may_ask(&self) -> bool {
        !self.is_too_much() || self.pages.values().all(|page| page.asked.is_none())
    }

    /// Forgets the page that was not used for longest, of those that are neither being read nor
    /// awaited. Whether there was one.
    fn forget_oldest(&mut self, is_awaited: impl Fn(u64) -> bool) -> bool {
        let idle = self.pages.iter().filter(|(_, page)| page.asked.is_none());
        let idle = idle.filter(|(number, _)| !is_awaited(**number));
        let oldest = idle.min_by_key(|(_, page)| page.used).map(|(number, _)| *number);
        oldest.and_then(|oldest| self.forget(oldest)).is_some()
    }

    fn forget(&mut self, number: u64) -> Option<Page> {
        let page = self.pages.remove(&number)?;
        self.bytes -= page.bytes;
        Some(page)
    }
}

impl Partition {
    /// When what could not be answered is asked again.
    pub(super) fn retry_scan(&mut self, purpose: Purpose, now: Timestamp) {
        self.replays.fail(purpose, now.after(RETRY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_awaited_is_kept_until_it_was_looked_through() {
        let mut pages = Pages { pages: HashMap::default(), bytes: 0, bytes_max: 10, clock: 0 };
        for number in [0, 1] {
            pages.pages.entry(number).or_default().asked = Some(Sequence(1_500));
            let first = Sequence(number * u64::from(BATCH) + 1);
            pages.add(number, first, Box::from([0; 8]));
            pages.complete(number, false);
        }
        assert!(pages.is_too_much());
        assert!(!pages.forget_oldest(|_| true), "both are awaited");
        assert!(pages.may_ask(), "nobody else would wake who waits");
        pages.pages.entry(2).or_default().asked = Some(Sequence(2_500));
        assert!(!pages.may_ask(), "one after the other");
        pages.forget(2);
        assert!(pages.forget_oldest(|number| number == 0));
        assert!(pages.pages.contains_key(&0) && !pages.is_too_much());
        assert_eq!(pages.bytes, 8);
        pages.pages.entry(2).or_default().asked = Some(Sequence(2_500));
        assert!(pages.may_ask(), "there is room again");
    }
}
