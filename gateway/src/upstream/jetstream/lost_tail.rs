//! A server has lost the end of a stream, or the stream was made anew: its sequences are used again.
//!
//! ```text
//! link to another process ─▶ mark ─▶ the first message that was stored later than the last one known
//!                                    └─ in front of it nothing is lost; from it on everything is new
//! ```
//! What was stored before what was lost is there, as only an end can be lost; and what was stored behind
//! it was stored later. So one question by time tells exactly what of all that is known is gone, however
//! far the stream has grown meanwhile.

use super::control::PartitionStatus;
use super::direct_get::Start;
use super::feed::READ_AGAIN_MAX;
use super::partition::{FeedStage, Kept, Partition};
use super::place::outside;
use super::requests::{Purpose, Scan};
use super::shard::{Deliver, JetStream};
use super::stored::{StoreTime, Stored};
use crate::proto::nats::Info;
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

/// So far the feed may be ahead of the last message that is known, with its time, before one is asked for
/// out of turn: so much is read again, in vain, when the server was restarted.
const UNKNOWN_MAX: u64 = 10_000;

/// What is known of the process that has the stream, and of what earlier ones had.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// Of the process whose messages are known.
    now: Option<u32>,
    /// Of the one of the link, before it is known what it has.
    next: u32,
    /// It is to be found out what of `known` is still there. Until then nothing is read.
    pub(super) is_due: bool,
    /// Something shows that the same process has lost something.
    is_doubted: bool,
    /// The last message that is known.
    known: Option<(Sequence, StoreTime)>,
    /// Up to there a last one was asked for.
    asked_to: Sequence,
    /// The stream was looked at since: it is time to ask for one.
    is_turn: bool,
    ended: Vec<(u32, Ended)>,
    /// A life in which places were used twice, as a backup was put back under a running server, and the first
    /// of them: what a place of that life stands for, its time tells.
    twice: Option<(u32, Sequence)>,
    checks: Checks,
    /// Sessions are asked for after this.
    retry_at: Timestamp,
}

/// What is there of what a process had that is no more.
#[derive(Clone, Copy, Debug)]
struct Ended {
    intact_below: Sequence,
    lost_from: Option<Sequence>,
}

/// A session that names places of an earlier process.
#[derive(Clone, Copy, Debug)]
struct Check {
    number: u64,
    /// Its sequence is a name.
    anchor: Anchor,
}

/// The sessions that are asked about. After a restart these may be all that there are, and each is looked up
/// whenever it reads.
#[derive(Debug, Default)]
struct Checks {
    by_session: BTreeMap<u32, Check>,
    /// Those that are still to be asked for, by number, in order; some are done with by now.
    waiting: VecDeque<u64>,
    count: u64,
}

impl Checks {
    /// A session is asked about, and in no other place than this.
    fn add(&mut self, session: u32, anchor: Anchor) {
        self.count += 1;
        let number = (self.count << u32::BITS) | u64::from(session);
        self.by_session.insert(session, Check { number, anchor });
        self.waiting.push_back(number);
        // Clients may come and go for as long as the partition is away, and each time anew.
        if self.waiting.len() > 2 * self.by_session.len() + DONE_MAX {
            let waiting = std::mem::take(&mut self.waiting);
            self.waiting = waiting.into_iter().filter(|one| self.find(*one).is_some()).collect();
        }
    }

    fn session_of(number: u64) -> u32 {
        u32::try_from(number & u64::from(u32::MAX)).expect("32 bits")
    }

    fn find(&self, number: u64) -> Option<Check> {
        let check = self.by_session.get(&Self::session_of(number))?;
        (check.number == number).then_some(*check)
    }

    /// The next to be asked for.
    fn next(&mut self) -> Option<Check> {
        loop {
            let number = self.waiting.pop_front()?;
            if let Some(check) = self.find(number) {
                return Some(check);
            }
        }
    }

    /// Nothing that was asked is answered.
    fn lose_answers(&mut self) {
        let mut all: Vec<u64> = self.by_session.values().map(|check| check.number).collect();
        all.sort_unstable();
        self.waiting = all.into();
    }
}

/// What has become of the places that a session names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whose.
    pub session: u32,
    /// Of which partition.
    pub partition: PartitionId,
    /// What was asked.
    pub anchor: Anchor,
    /// From here on they are used again.
    pub from: Option<Sequence>,
}

/// Places that are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostTail {
    /// Of which partition.
    pub partition: PartitionId,
    /// The first.
    pub from: Sequence,
    /// Something that was known was there.
    pub is_certain: bool,
}

impl Lives {
    /// A message is there. What comes of a new life says nothing of an earlier one.
    pub(super) fn note(&mut self, sequence: Sequence, stored_at: StoreTime) {
        if !self.is_due && self.known.is_none_or(|(known, _)| known < sequence) {
            self.known = Some((sequence, stored_at));
        }
    }

    /// A link to process `life` is there.
    fn begin(&mut self, life: u32) {
        let is_same = self.now.is_none_or(|now| now == life) && !self.is_doubted;
        self.next = life;
        if is_same || self.known.is_none() {
            // What it had of which nothing is known is asked for by sessions.
            self.is_doubted = false;
            self.now = Some(life);
        } else {
            self.is_due = true;
        }
        self.lose_answers();
    }

    /// The process to which the link is.
    pub(super) fn of_link(&self) -> u32 {
        self.next
    }

    /// The control thread says what the last message is, to a shard that knows of none: its feed begins behind that,
    /// or behind what an earlier look has told.
    fn begin_behind(&mut self, life: u32, last: Sequence, stored_at: StoreTime) {
        if self.known.is_none() && self.now.is_none_or(|now| now == life) {
            (self.now, self.known) = (Some(life), Some((last, stored_at)));
        }
    }

    /// The stream was looked at, which is done once a second.
    pub(super) fn look(&mut self) {
        self.is_turn = true;
    }

    /// No message is known.
    pub(super) fn knows_nothing(&self) -> bool {
        self.known.is_none()
    }

    /// Whether a message that came shows that places are used again: it is later than the last one known, and
    /// not behind it.
    pub(super) fn shows_loss(&self, stored: &Stored<'_>) -> bool {
        let is_earlier = |(known, at)| stored.sequence <= known && stored.stored_at > at;
        !self.is_due && self.known.is_some_and(is_earlier)
    }

    /// Nobody could say.
    pub(super) fn ask_again(&mut self, retry_at: Timestamp) {
        self.lose_answers();
        self.retry_at = retry_at;
    }

    fn lose_answers(&mut self) {
        self.checks.lose_answers();
        self.asked_to = Sequence::ZERO;
    }

    /// The process of the link has everything before `from`, and what is behind is new. The last message
    /// known that is gone, if one is.
    fn take(&mut self, from: Sequence) -> Option<Sequence> {
        let (known, stored_at) = self.known?;
        let is_lost = from <= known;
        let before = Sequence(from.0.saturating_sub(1)).min(known);
        let ended = Ended { intact_below: before.next(), lost_from: is_lost.then_some(from) };
        self.ended.clear();
        match self.now.replace(self.next) {
            Some(now) if now != self.next => self.ended.push((now, ended)),
            Some(now) if is_lost => {
                let earlier = self.twice.filter(|(life, _)| *life == now);
                self.twice = Some((now, earlier.map_or(from, |(_, earlier)| earlier.min(from))));
            }
            _ => {}
        }
        (self.is_due, self.is_doubted) = (false, false);
        // Nothing at or before that place was stored later, so it will do.
        self.known = Some((before, stored_at));
        is_lost.then_some(known)
    }

    /// What is recorded beside places.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        let (sequence, StoreTime(stored_at)) = self.known?;
        Some(Anchor { life: self.now?, sequence: outside(sequence), stored_at })
    }

    /// When sessions may be asked for again.
    pub(super) fn next_timeout(&self) -> Timestamp {
        let waits = self.retry_at > Timestamp::START && !self.checks.waiting.is_empty();
        if waits { self.retry_at } else { Timestamp::NEVER }
    }

    /// Whether nothing may be read for a session yet.
    pub(super) fn is_unchecked(&self, session: u32) -> bool {
        self.is_due || self.checks.by_session.contains_key(&session)
    }

    /// Whether an anchor may be of before or after places were used again in its life.
    fn is_of_either(&self, anchor: Anchor) -> bool {
        let sequence = Sequence(anchor.sequence.offset());
        self.twice.is_some_and(|(life, from)| life == anchor.life && sequence >= from)
    }

    /// What is known of the places behind which an anchor is: from where on they are used again.
    fn verdict(&self, anchor: Anchor) -> Option<Option<Sequence>> {
        if self.is_of_either(anchor) {
            return None;
        }
        if self.now == Some(anchor.life) {
            return Some(None);
        }
        let (_, ended) = self.ended.iter().find(|(life, _)| *life == anchor.life)?;
        let sequence = Sequence(anchor.sequence.offset());
        match ended.lost_from {
            Some(from) if sequence >= from => Some(Some(from)),
            _ if sequence < ended.intact_below => Some(Some(ended.intact_below)),
            _ => None,
        }
    }

    /// What was recorded is known here, too, as far as it is there.
    fn note_anchor(&mut self, anchor: Anchor, from: Option<Sequence>) {
        let sequence = Sequence(anchor.sequence.offset());
        let last = from.map_or(sequence, |from| Sequence(from.0.saturating_sub(1)).min(sequence));
        if last > Sequence::ZERO {
            self.note(last, StoreTime(anchor.stored_at));
        }
    }

    /// Messages that were stored later than the last of `anchor` begin at `from`.
    fn note_verdict(&mut self, anchor: Anchor, from: Sequence) {
        let sequence = Sequence(anchor.sequence.offset());
        let is_lost = from <= sequence;
        if self.is_of_either(anchor) {
            return;
        }
        if !self.ended.iter().any(|(life, _)| *life == anchor.life) {
            let nothing = Ended { intact_below: Sequence::ZERO, lost_from: None };
            self.ended.push((anchor.life, nothing));
        }
        let ended = self.ended.iter_mut().find(|(life, _)| *life == anchor.life);
        let Some((_, ended)) = ended else {
            return;
        };
        if is_lost {
            ended.lost_from = Some(ended.lost_from.map_or(from, |known| known.min(from)));
        } else {
            ended.intact_below = sequence.next().max(ended.intact_below);
        }
        if self.ended.len() > ENDED_MAX {
            self.ended.remove(0);
        }
    }
}

/// Names a process and a stream of it.
fn life_of(server_id: &str, created: StoreTime) -> u32 {
    let bytes = created.0.to_le_bytes().into_iter().chain(server_id.bytes());
    // FNV-1a.
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Questions kept in line that are done with, beside one for each session that is asked about.
const DONE_MAX: usize = 64;

/// Processes that are no more of which something is remembered.
const ENDED_MAX: usize = 64;

impl Partition {
    /// The link is to a process of a server. With replicas one is asked after each election, too: all may
    /// have lost their power.
    pub(super) fn begin_life(&mut self, info: &Info) {
        let created = self.status.as_ref().map_or(StoreTime(0), |status| status.created);
        self.lives.begin(life_of(&info.server_id, created));
    }

    /// The stream was looked at, before a link is there or beside it.
    pub(super) fn note_last(&mut self, status: &PartitionStatus) {
        if let (Some(stored_at), Some(server_id)) = (status.last_at, &status.server_id) {
            let life = life_of(server_id, status.created);
            self.lives.begin_behind(life, status.last, stored_at);
        }
    }

    /// Whether a server that has nothing that was stored later may be behind its leader, which ends at `until`. A full
    /// stream takes no mark, so there may be nothing.
    pub(super) fn may_be_behind(&self) -> bool {
        let FeedStage::Checking { until } = self.feed.stage else {
            return false;
        };
        self.lives.known.is_some_and(|(known, _)| until > known.next())
    }

    /// Asks for the first message that was stored later.
    fn ask_later(&mut self, purpose: Purpose, stored_at: u64, now: Timestamp) {
        let (from, batch) = (Start::Since(StoreTime(stored_at + 1)), NonZeroU16::MIN);
        let scan = Scan { purpose, from, subject: None, batch, last_only: false };
        self.ask(scan, Kept::Messages, now);
    }

    /// Asks for a message to know, if the feed has come on without one: on this link, so that what is known
    /// is of its life.
    fn ask_newest(&mut self, now: Timestamp) {
        let known = self.lives.known.map_or(Sequence::ZERO, |(known, _)| known);
        let known = known.max(self.lives.asked_to);
        let fed = self.feed.fed;
        let is_far = fed.0 > known.0 + UNKNOWN_MAX || (known == Sequence::ZERO && fed.0 > 1);
        let is_due = is_far || (self.lives.is_turn && fed > known.next());
        if self.feed.stage != FeedStage::Live || !is_due {
            return;
        }
        (self.lives.asked_to, self.lives.is_turn) = (fed, false);
        let (from, batch) = (Start::At(Sequence(fed.0 - 1)), NonZeroU16::MIN);
        let purpose = Purpose::Newest;
        let scan = Scan { purpose, from, subject: None, batch, last_only: false };
        self.ask(scan, Kept::Messages, now);
    }

    /// Places of `from` and behind, if it is given, are not what the session of `check` had. What it reads is
    /// for the caller to lower.
    fn end_check(&mut self, check: Check, from: Option<Sequence>) -> Checked {
        let Check { number, anchor } = check;
        let session = Checks::session_of(number);
        self.lives.checks.by_session.remove(&session);
        self.lives.note_anchor(anchor, from);
        Checked { session, partition: self.id, anchor, from: from.map(outside) }
    }
}

impl JetStream {
    /// See [`crate::proto::shard_state::Upstream::anchor`].
    pub(super) fn anchor(&self, partition: PartitionId) -> Option<Anchor> {
        self.partitions.get(self.place(partition)?)?.lives.anchor()
    }

    /// See [`crate::proto::shard_state::Upstream::check_places`].
    pub(super) fn check_places(
        &mut self,
        session: u32,
        partition: PartitionId,
        anchor: Anchor,
    ) -> bool {
        let Some(place) = self.place(partition) else {
            return false;
        };
        let found = self.partitions.get_mut(place);
        // Of one that is not configured nothing is read.
        let Some(partition) = found.filter(|partition| partition.is_configured) else {
            return false;
        };
        let lives = &mut partition.lives;
        lives.checks.by_session.remove(&session);
        if partition.ready && !lives.is_due && lives.verdict(anchor) == Some(None) {
            lives.note_anchor(anchor, None);
            return false;
        }
        lives.checks.add(session, anchor);
        true
    }

    /// Finds out what has become of places, if that can be.
    pub(super) fn drive_checks(&mut self, place: usize) {
        let Self { partitions, out, now, .. } = self;
        let now = *now;
        let Some(partition) = partitions.get_mut(place).filter(|one| one.ready) else {
            return;
        };
        partition.ask_newest(now);
        let can_ask = match partition.feed.stage {
            FeedStage::Reading { .. } | FeedStage::Live => true,
            FeedStage::Gated => partition.marks.is_answered(),
            FeedStage::Detached | FeedStage::ExpectMark(_) | FeedStage::Checking { .. } => false,
        };
        let lives = &mut partition.lives;
        if lives.retry_at <= now {
            lives.retry_at = Timestamp::START;
        }
        let waits = lives.is_due || lives.retry_at > now;
        if waits || !can_ask {
            return;
        }
        let mut lowered = BTreeMap::new();
        while !partition.requests.is_full()
            && let Some(check) = partition.lives.checks.next()
        {
            let verdict = partition.lives.verdict(check.anchor);
            if let Some(from) = verdict {
                lowered.extend(from.map(|from| (Checks::session_of(check.number), from)));
                out.checked.push(partition.end_check(check, from));
            } else {
                partition.ask_later(Purpose::Check(check.number), check.anchor.stored_at, now);
            }
        }
        if !lowered.is_empty() {
            partition.replays.lose_from(|session| lowered.get(&session).copied());
        }
    }

    /// The first message that was stored later than what was asked about, `None` if there is none.
    pub(super) fn end_check(&mut self, place: usize, number: u64, first: Option<Sequence>) {
        let Self { partitions, out, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let Some(check) = partition.lives.checks.find(number) else {
            return;
        };
        // Nothing was stored since the link is there.
        let from = first.unwrap_or_else(|| partition.marks.end.next());
        partition.lives.note_verdict(check.anchor, from);
        let checked = partition.end_check(check, Some(from));
        partition.replays.lose_from(|session| (session == checked.session).then_some(from));
        out.checked.push(checked);
    }

    /// Something shows that the process of the link has lost something.
    pub(super) fn doubt_life(&mut self, place: usize) {
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.lives.is_doubted = true;
            partition.has_lost_end = true;
        }
    }

    /// The mark of a new link is answered: what is known is looked at before anything is read. Whether
    /// it is.
    pub(super) fn ask_lost(&mut self, place: usize, until: Sequence) -> bool {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        let Some((_, StoreTime(stored_at))) =
            partition.lives.known.filter(|_| partition.lives.is_due)
        else {
            return false;
        };
        partition.feed.stage = FeedStage::Checking { until };
        partition.ask_later(Purpose::Lost, stored_at, now);
        true
    }

    /// The first message that was stored later than the last one known, `None` if there is none.
    pub(super) fn end_lost(
        &mut self,
        place: usize,
        first: Option<Sequence>,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let FeedStage::Checking { until } = partition.feed.stage else {
            return;
        };
        let from = first.unwrap_or(until);
        let lost_to = partition.lives.take(from);
        let id = partition.id;
        if let Some(to) = lost_to {
            self.counters.tails_lost += 1;
            self.counters.messages_lost += to.0 + 1 - from.0;
            tracing::error!(
                partition = id.0,
                from = from.0,
                to = to.0,
                "the server has lost the end of the stream: acknowledged messages are gone, and their \
                 sequences are used again"
            );
        }
        self.lose_tail(place, from, lost_to.is_some());
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.feed.read_to(until, READ_AGAIN_MAX);
        }
        self.read_on(place, deliver);
    }

    /// Places from `from` on are used again, if the feed is beyond.
    pub(super) fn lose_tail(&mut self, place: usize, from: Sequence, is_certain: bool) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if from >= partition.feed.fed && !is_certain {
            return;
        }
        let id = partition.id;
        // The tail is that of the new link.
        partition.feed.fed = from.min(partition.feed.fed);
        partition.feed.confirmed.lose_from(from);
        partition.feed.gates.iter_mut().for_each(|gate| gate.from = from.min(gate.from));
        partition.feed.late_below = from.min(partition.feed.late_below);
        // What those name that are asked about by themselves may be known elsewhere.
        let Partition { replays, lives, .. } = partition;
        replays.lose_from(|session| (!lives.is_unchecked(session)).then_some(from));
        partition.lane.lose_from(from);
        partition.searches.lose_from(from);
        partition.feed.told = Sequence::ZERO;
        self.lower_gates(id, from);
        self.out.lost_tails.push(LostTail { partition: id, from: outside(from), is_certain });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(sequence: u64) -> Anchor {
        Anchor { life: 1, sequence: Sequence(sequence), stored_at: sequence }
    }

    #[test]
    fn a_session_is_asked_about_once_and_for_its_last_anchor() {
        let mut checks = Checks::default();
        for session in [7, 3, 7, u32::MAX] {
            checks.add(session, anchor(u64::from(session)));
        }
        let asked = |checks: &mut Checks| {
            let next = std::iter::from_fn(|| checks.next());
            next.map(|check| check.number).collect::<Vec<_>>()
        };
        let numbers = asked(&mut checks);
        let sessions: Vec<_> = numbers.iter().map(|number| Checks::session_of(*number)).collect();
        assert_eq!(sessions, [3, 7, u32::MAX], "what 7 had before is asked about no more");
        assert_eq!(asked(&mut checks), [0; 0]);
        checks.by_session.remove(&3);
        assert!(checks.find(numbers[0]).is_none() && checks.find(numbers[1]).is_some());
        checks.add(7, anchor(9));
        assert!(checks.find(numbers[1]).is_none(), "the answer is to a former question");
        checks.lose_answers();
        let again = asked(&mut checks);
        assert_eq!(again.len(), 2);
        assert_eq!(again[0], numbers[2], "in the order in which they came");
    }

    #[test]
    fn who_comes_and_goes_while_nobody_can_be_asked_waits_once() {
        let mut checks = Checks::default();
        for time in 0..10_000 {
            checks.add(1 + time % 3, anchor(7));
            assert!(checks.waiting.len() <= 2 * 3 + DONE_MAX);
        }
        let next = std::iter::from_fn(|| checks.next());
        assert_eq!(next.count(), 3);
    }
}
