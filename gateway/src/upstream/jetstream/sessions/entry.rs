//! One session that this shard has, or is about to have: what is known of its record, and what is to
//! be done next.
//!
//! ```text
//!  ask ─▶ Read ─┬─ another has it ─▶ AskOwner ─▶ Read again ─┬─ let go ─────────────────▶ Owned
//!               │                                            └─ it did not: ReadFloor ──▶ Owned
//!               └─ nobody has it ─────────────────────────────────────────────────────▶ Owned
//!  Owned ─▶ write the claim ─▶ answer ─▶ one write at a time ─▶ write without owner ─▶ gone
//!               └─ refused: another was faster ─▶ Read
//! ```
//!
//! A CONNECT is answered when a write is acknowledged that was made after it came, also where this shard
//! has the session, and may have it in memory: another gateway may have had the client meanwhile.

mod write;

use super::super::inbox::Token;
use super::lease::Lowest;
use super::let_go::LetGo;
use super::value::{Owner, SessionValue, State, fold};
use crate::proto::mqtt::PacketId;
use crate::proto::partition::Sequence;
use crate::proto::record::{MessageId, Record};
use crate::proto::session::record::Floor;
use crate::proto::session::{StoredWill, Ticket};
use crate::proto::shard_state::{Due, SessionUse, SessionUser, StoredSession};
use crate::proto::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;
use write::{Check, Write};

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    /// Of the partition in whose sub-cluster the record is.
    pub(super) place: usize,
    pub(super) stage: Stage,
    question: Option<Question>,
    /// Of what is at the key, 0 for nothing.
    sequence: Sequence,
    /// What is at the key is a value.
    is_stored: bool,
    epoch: u64,
    /// Of the last write that was acknowledged.
    nonce: u64,
    /// The server may have lost that, and have given its place to something else.
    may_be_lost: bool,
    /// If nothing is at the key then, it may be as another has ended the session.
    may_have_ended: bool,
    /// The last write that was acknowledged names this shard.
    is_claimed: bool,
    /// One did.
    was_claimed: bool,
    check: Check,
    /// What the record is to say.
    state: Option<State>,
    /// And does not.
    is_dirty: bool,
    /// The shard's session has appended something since it was asked for.
    is_touched: bool,
    /// There was no session, or one that has ended: `state` is that of a new one.
    is_new: bool,
    /// The answer is on its way to the shard, which may append something when it has it.
    is_answered: bool,
    /// Appends that are in no acknowledged write, in order.
    open: VecDeque<u64>,
    write: Option<Write>,
    /// See [`SessionValue::wills`], and whether each is on its way from here.
    wills: Vec<(StoredWill, bool)>,
    /// Messages of the client with QoS 2 that are not released: where each is to be stored, and under
    /// which token.
    intents: Vec<(PacketId, usize, Token)>,
    /// The last write that was acknowledged, if it names no owner.
    let_go: Option<Box<LetGo>>,
    /// Where gateways wait to hear that the session is let go.
    pub(super) waiters: Vec<Box<[u8]>>,
    /// The owner that was asked, and did not let go before.
    asked: Option<Owner>,
    /// How often another was faster.
    tries: u32,
    /// Nothing is done before.
    retry_at: Timestamp,
    is_will_told: bool,
    /// Its will is looked at again then, as this shard may have lost the session unawares.
    will_not_before: Timestamp,
    pub(super) adoption: Adopted,
    /// Its place in the timers.
    pub(super) timer: Timestamp,
    /// It stands in the queue of its home.
    pub(super) is_queued: bool,
}

/// The session of a dead owner, which is to be written as offline, with its will to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adopted {
    /// It is not, or that is done.
    No,
    /// That is being written.
    Writing,
    /// Something else was there: it has to be read once more.
    Refused,
}

/// What the entry waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// The record, for the first time or again.
    Read { is_asked: bool },
    /// The owner's word that it lets go: the number of the question and until when.
    AskOwner { owner: Owner, asked: Option<(u64, Timestamp)> },
    /// The floor of an owner that does not answer.
    ReadFloor { found: Box<Found>, is_asked: bool },
    /// Nothing but its writes.
    Owned,
}

/// A CONNECT waits for the session.
#[derive(Debug)]
struct Question {
    ticket: Ticket,
    session_use: SessionUse,
    user: SessionUser,
    deadline: Timestamp,
    found: Option<StoredSession>,
}

impl Question {
    fn goes_on(&self) -> bool {
        matches!(self.session_use, SessionUse::GoesOn { .. } | SessionUse::Stays)
    }

    /// The session is in the shard's memory: the answer says only that it is still the shard's.
    fn stays(&self) -> bool {
        self.session_use == SessionUse::Stays
    }

    /// The session ends with its connection, and nothing that is stored is wanted.
    fn is_brief(&self) -> bool {
        self.session_use == SessionUse::StartsOver { expiry_s: 0 }
    }

    /// What the session is before it has appended anything.
    fn initial(&self, now: Timestamp) -> Option<State> {
        match self.session_use {
            SessionUse::GoesOn { expiry_s } | SessionUse::StartsOver { expiry_s } => {
                State::new(expiry_s, &self.user, now)
            }
            SessionUse::Stays | SessionUse::Looks => None,
        }
    }
}

/// What was read at the key.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) sequence: Sequence,
    pub(super) value: SessionValue,
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    ReadFloor(Owner),
    /// Ask the owner to let go; with `ends` the session is not to go on.
    AskOwner {
        owner: Owner,
        ends: bool,
    },
    Write {
        nonce: u64,
        bytes: Vec<u8>,
        expected: Sequence,
        time_to_live_s: Option<u32>,
    },
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Stored(Sequence),
    /// Something else is at the key, there.
    Refused(Sequence),
    /// Nobody knows.
    Unknown,
}

/// What an event has led to, beside what [`Entry::action`] says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) answer: Option<(Ticket, Result<Option<StoredSession>, ()>)>,
    /// Appends that are done.
    pub(super) done: Vec<u64>,
    /// The client is here now. Others may have a connection of it without record, or have had the
    /// record and not noticed.
    pub(super) announce: Option<SessionUser>,
    /// Another gateway has the session.
    pub(super) is_lost: bool,
    pub(super) due: Option<Due>,
    /// To be published: whoever was to do that is gone.
    pub(super) wills: Vec<StoredWill>,
}

/// How long a CONNECT waits for its session.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an owner is waited for.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often another may be faster before it is taken to have won.
const TRIES_MAX: u32 = 8;
/// After something failed, when to try again.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// Seconds for which the place of a deleted record stays taken.
pub(super) const TOMBSTONE_S: u32 = 180;
/// So long after this shard has last known what is at a key, the mark of what another has deleted since is there: if
/// nothing is, the server has lost it.
pub(super) const SURE_FOR: Duration = Duration::from_secs(120);
const _: () = assert!(SURE_FOR.as_secs() < TOMBSTONE_S as u64);
/// Seconds a record outlives its session, as clocks differ and somebody may be reading it.
const GRACE_S: u64 = 60;

impl Entry {
    /// Of a client of which nothing is known.
    pub(super) fn new(place: usize) -> Self {
        Self {
            place,
            stage: Stage::Read { is_asked: false },
            question: None,
            sequence: Sequence::ZERO,
            is_stored: false,
            epoch: 0,
            nonce: 0,
            may_be_lost: false,
            may_have_ended: false,
            is_claimed: false,
            was_claimed: false,
            check: Check::Done,
            state: None,
            is_dirty: false,
            is_touched: false,
            is_new: false,
            is_answered: false,
            open: VecDeque::new(),
            write: None,
            wills: Vec::new(),
            intents: Vec::new(),
            let_go: None,
            waiters: Vec::new(),
            asked: None,
            tries: 0,
            retry_at: Timestamp::START,
            is_will_told: false,
            will_not_before: Timestamp::START,
            adoption: Adopted::No,
            timer: Timestamp::NEVER,
            is_queued: false,
        }
    }

    /// A CONNECT asks. What it asks for, if that is known already.
    pub(super) fn ask(
        &mut self,
        ticket: Ticket,
        session_use: SessionUse,
        user: SessionUser,
        now: Timestamp,
    ) -> Outcome {
        let deadline = now.after(QUESTION_TIMEOUT);
        let question = Question { ticket, session_use, user, deadline, found: None };
        let (goes_on, stays) = (question.goes_on(), question.stays());
        self.is_touched &= stays;
        self.question = Some(question);
        if let Some(write) = &mut self.write {
            write.answers = false;
        }
        if stays && !self.is_claimed {
            // The shard is about to hear that it is lost.
            return self.end();
        }
        if !matches!(self.stage, Stage::Owned) {
            return Outcome::default();
        }
        let found = self.state.as_ref().map(|state| stored_at(state, now));
        if !stays && self.is_stolen(self.state.as_ref()) {
            return Outcome { announce: None, ..self.answer(found, Outcome::default()) };
        }
        self.is_dirty = true;
        if let Some(question) = self.question.as_mut().filter(|_| !stays) {
            self.is_new = !goes_on || self.state.is_none();
            self.state = self.state.take().filter(|_| goes_on).or_else(|| question.initial(now));
            question.found = found;
        }
        Outcome::default()
    }

    /// The CONNECT is that of a user who may not have the session: nothing of it changes.
    fn is_stolen(&self, state: Option<&State>) -> bool {
        let question = self.question.as_ref();
        question.zip(state).is_some_and(|(question, state)| !state.is_for(&question.user))
    }

    /// What is known of the session, for who looks after its timers.
    pub(super) fn look(&self) -> Option<StoredSession> {
        let is_ours = matches!(self.stage, Stage::Owned) && self.is_claimed;
        self.state.as_ref().filter(|_| is_ours).map(State::stored)
    }

    /// Folds a record of the session; `number` is done when that is written.
    pub(super) fn append(&mut self, record: &Record<'_>, number: u64) {
        fold(&mut self.state, record);
        match record {
            Record::Qos2Released { packet_id, .. } => {
                self.intents.retain(|(other, ..)| other != packet_id);
            }
            Record::SessionDelete { .. } => self.intents.clear(),
            _ => {}
        }
        self.open.push_back(number);
        (self.is_touched, self.is_dirty, self.is_will_told) = (true, true, false);
    }

    /// See [`super::Sessions::note_intent`].
    pub(super) fn note_intent(&mut self, packet_id: PacketId, place: usize, token: Token) {
        self.intents.retain(|(other, ..)| *other != packet_id);
        self.intents.push((packet_id, place, token));
    }

    /// A will is on its way to be stored.
    pub(super) fn note_will(&mut self, will: &StoredWill) {
        match self.wills.iter_mut().find(|(known, _)| known.id == will.id) {
            Some((_, is_on_its_way)) => *is_on_its_way = true,
            None => {
                self.wills.push((will.clone(), true));
                self.is_dirty |= matches!(self.stage, Stage::Owned);
            }
        }
    }

    /// It is not on its way any more: the next write of the record, if it is ours, publishes it.
    pub(super) fn hold_back_will(&mut self, id: MessageId) -> bool {
        let Some((_, is_on_its_way)) = self.wills.iter_mut().find(|(will, _)| will.id == id) else {
            return false;
        };
        *is_on_its_way = false;
        self.is_dirty |= self.is_claimed;
        true
    }

    /// It is stored.
    pub(super) fn forget_will(&mut self, id: MessageId) {
        let before = self.wills.len();
        self.wills.retain(|(will, _)| will.id != id);
        self.is_dirty |= self.wills.len() < before && self.is_claimed;
    }

    /// What the record says was on its way to be stored from elsewhere.
    fn take_wills(&mut self, wills: Vec<StoredWill>) {
        for will in wills {
            if self.wills.iter().all(|(known, _)| known.id != will.id) {
                self.wills.push((will, false));
            }
        }
    }

    /// What is left when it is over: messages on their way, and what was written last, unless that is another's.
    pub(super) fn into_rest(self) -> (Vec<(usize, Token)>, Option<LetGo>) {
        let intents = self.intents.into_iter().map(|(_, place, token)| (place, token));
        (intents.collect(), self.let_go.map(|let_go| *let_go))
    }

    /// The answer was given to the shard. If nothing was appended since, nobody wanted it.
    pub(super) fn settle_answer(&mut self) {
        self.is_answered = false;
        self.let_go_unless_wanted();
    }

    fn let_go_unless_wanted(&mut self) {
        let is_wanted = self.is_touched || self.is_answered || self.question.is_some();
        let is_watched =
            self.state.as_ref().is_some_and(State::has_will_to_come) || !self.wills.is_empty();
        if self.is_claimed && !is_wanted && !is_watched {
            self.is_dirty = true;
            self.state = self.state.take().filter(|_| !self.is_new);
        }
    }

    /// There is no session here that has this one, which is to be let go of.
    pub(super) fn give_up(&mut self, now: Timestamp) {
        if matches!(self.stage, Stage::Owned) && self.is_claimed {
            self.is_dirty = true;
            self.state = self.state.take().map(|state| state.orphaned(&Floor::default(), now));
        }
    }

    /// Nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_idle() && self.question.is_none() && !self.is_answered && !self.is_claimed
    }

    /// Nothing is on its way or waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.write.is_none() && !self.is_dirty
    }

    /// A session is here, or is about to be, which can be asked to let go.
    pub(super) fn can_let_go(&self) -> bool {
        matches!(self.stage, Stage::Owned) && self.question.is_none()
    }

    /// What is to be sent now.
    pub(super) fn action(&mut self, owner: &Owner, nonce: u64, now: Timestamp) -> Option<Action> {
        if now < self.retry_at {
            return None;
        }
        match &mut self.stage {
            Stage::Read { is_asked } => {
                (!std::mem::replace(is_asked, true)).then_some(Action::Read)
            }
            Stage::AskOwner { owner, asked: None } => {
                let ends = self.question.as_ref().is_some_and(|question| !question.goes_on());
                Some(Action::AskOwner { owner: owner.clone(), ends })
            }
            Stage::ReadFloor { found, is_asked: is_asked @ false } => {
                *is_asked = true;
                found.value.owner.clone().map(Action::ReadFloor)
            }
            Stage::AskOwner { .. } | Stage::ReadFloor { .. } => None,
            Stage::Owned => self.next_write(owner, nonce, now),
        }
    }

    /// The owner was asked under this number.
    pub(super) fn note_asked(&mut self, number: u64, now: Timestamp) {
        if let Stage::AskOwner { asked, .. } = &mut self.stage {
            *asked = Some((number, now.after(RELEASE_TIMEOUT)));
        }
    }

    /// What is at the key was read; `None` for nothing, and for the mark of what was deleted.
    pub(super) fn handle_read(
        &mut self,
        sequence: Sequence,
        value: Option<SessionValue>,
        me: &Owner,
        now: Timestamp,
    ) -> Outcome {
        if let Stage::Owned = self.stage {
            return self.look_up(sequence, value.as_ref(), now);
        }
        if !matches!(self.stage, Stage::Read { .. }) {
            return Outcome::default();
        }
        let Some(value) = value else {
            self.is_stored = false;
            return self.acquire(sequence, 0, None, now);
        };
        self.is_stored = true;
        let mut value = value;
        if self.is_stolen(value.state.as_ref()) {
            let found = value.state.as_ref().map(State::stored);
            return Outcome { announce: None, ..self.answer(found, Outcome::default()) };
        }
        match &value.owner {
            // Left behind by an entry that was given up.
            Some(owner) if owner == me => self.take_over(sequence, value, &Floor::default(), now),
            Some(owner) if self.asked.as_ref() != Some(owner) => {
                self.asked = Some(owner.clone());
                self.stage = Stage::AskOwner { owner: owner.clone(), asked: None };
                Outcome::default()
            }
            Some(_) if value.state.as_ref().is_some_and(State::follows_floor) => {
                let found = Box::new(Found { sequence, value });
                self.stage = Stage::ReadFloor { found, is_asked: false };
                Outcome::default()
            }
            Some(_) => self.take_over(sequence, value, &Floor::default(), now),
            None => {
                self.take_wills(std::mem::take(&mut value.wills));
                self.acquire(sequence, value.epoch, value.state, now)
            }
        }
    }

    /// The floor of an owner that is gone; empty where there is none.
    pub(super) fn handle_floor(&mut self, floor: &Floor, now: Timestamp) -> Outcome {
        let stage = std::mem::replace(&mut self.stage, Stage::Read { is_asked: false });
        match stage {
            Stage::ReadFloor { found, .. } => {
                self.take_over(found.sequence, found.value, floor, now)
            }
            other => {
                self.stage = other;
                Outcome::default()
            }
        }
    }

    /// It waits for the answer to question `number`.
    pub(super) fn is_asking(&self, number: u64) -> bool {
        matches!(&self.stage, Stage::AskOwner { asked: Some((asked, _)), .. } if *asked == number)
    }

    /// The owner answered question `number`, or there is no such owner.
    pub(super) fn handle_let_go(&mut self, number: u64) {
        if self.is_asking(number) {
            self.stage = Stage::Read { is_asked: false };
        }
    }

    /// Takes a session whose owner does not answer.
    fn take_over(
        &mut self,
        sequence: Sequence,
        value: SessionValue,
        floor: &Floor,
        now: Timestamp,
    ) -> Outcome {
        self.take_wills(value.wills);
        let state = value.state.map(|state| state.orphaned(floor, now));
        self.acquire(sequence, value.epoch, state, now)
    }

    fn acquire(
        &mut self,
        sequence: Sequence,
        epoch: u64,
        state: Option<State>,
        now: Timestamp,
    ) -> Outcome {
        self.stage = Stage::Owned;
        self.sequence = sequence;
        self.epoch = (epoch + 1).max(now.0);
        let mut outcome = Outcome::default();
        let found = state.as_ref().map(|state| stored_at(state, now));
        match &mut self.question {
            // What goes on, and what has ended, is so for everyone before the client hears of it.
            Some(question) if !self.is_touched && (!question.is_brief() || self.is_stored) => {
                question.found = found;
                self.state = state.filter(|_| question.goes_on());
                self.is_new = self.state.is_none();
                self.state = self.state.take().or_else(|| question.initial(now));
                self.is_dirty = true;
            }
            Some(_) => outcome = self.answer(found, outcome),
            // The CONNECT is gone, and nothing was appended: the record stays as it is.
            None => self.is_dirty &= self.is_touched || !self.open.is_empty(),
        }
        // Where nothing is there and nothing is to be there, nothing is written.
        if self.question.is_none() && self.state.is_none() && !self.is_stored {
            self.is_dirty = false;
            outcome.done.extend(self.open.drain(..));
        }
        outcome
    }

    fn answer(&mut self, found: Option<StoredSession>, mut outcome: Outcome) -> Outcome {
        if let Some(question) = self.question.take() {
            self.is_answered = true;
            outcome.answer = Some((question.ticket, Ok(found)));
            outcome.announce = Some(question.user);
        }
        outcome
    }

    /// It was not let go of by this shard while something of it was here.
    pub(super) fn is_being_read(&self) -> bool {
        matches!(self.stage, Stage::Read { .. })
    }

    /// Nobody listens for the owner that was asked, as servers were away: it may be back soon.
    pub(super) fn ask_owner_again(&mut self, number: u64, now: Timestamp) {
        if self.is_asking(number)
            && let Stage::AskOwner { asked, .. } = &mut self.stage
        {
            *asked = None;
            self.retry_at = now.after(RETRY);
        }
    }

    /// Takes the session of an owner that is dead, as it was read. `floor` is the owner's.
    pub(super) fn adopt(
        &mut self,
        sequence: Sequence,
        value: SessionValue,
        floor: &Floor,
        now: Timestamp,
    ) {
        (self.stage, self.adoption) = (Stage::Owned, Adopted::Writing);
        (self.sequence, self.is_stored) = (sequence, true);
        self.epoch = (value.epoch + 1).max(now.0);
        self.take_wills(value.wills);
        self.state = value.state.map(|state| state.orphaned(floor, now));
        self.is_dirty = true;
    }

    /// The lease under which the session was this shard's is another's.
    pub(super) fn lose_lease(&mut self) -> Outcome {
        let has_any = self.was_claimed || !self.is_idle();
        if !matches!(self.stage, Stage::Owned) || !has_any {
            return Outcome::default();
        }
        // What was on its way may be stored under a name that nobody looks for any more: a CONNECT
        // begins anew.
        let is_lost = self.adoption == Adopted::No;
        self.adoption = Adopted::No;
        Outcome { is_lost, ..self.end() }
    }

    /// What is known of where its record is.
    pub(super) fn lowest(&self) -> Lowest {
        match &self.write {
            Some(write) if write.is_doubted => Lowest::Unknown,
            // An earlier record of this shard may be there.
            _ if self.may_be_lost => Lowest::Unknown,
            _ if self.is_claimed => Lowest::At(self.sequence),
            _ => Lowest::Nothing,
        }
    }

    /// Another has written the record.
    fn lose(&mut self) -> Outcome {
        if self.adoption == Adopted::Writing && self.question.is_none() {
            self.adoption = Adopted::Refused;
            return Outcome { is_lost: false, ..self.end() };
        }
        self.tries += 1;
        let is_ours = self.was_claimed && self.question.as_ref().is_none_or(Question::stays);
        if is_ours || self.tries > TRIES_MAX {
            return self.end();
        }
        self.begin_anew();
        Outcome::default()
    }

    /// It was not ours yet: once more from the beginning, if anyone still wants it.
    fn begin_anew(&mut self) {
        self.write = None;
        (self.may_be_lost, self.let_go) = (false, None);
        self.wills.retain(|(_, is_on_its_way)| *is_on_its_way);
        self.is_dirty = self.is_touched || !self.open.is_empty();
        if !self.is_touched {
            self.state = None;
        }
        (self.is_claimed, self.was_claimed, self.asked) = (false, false, None);
        self.stage = Stage::Read { is_asked: false };
    }

    /// Nothing of this session is ours any more.
    fn end(&mut self) -> Outcome {
        // Of one that stays the shard hears that it is lost, and asks anew.
        let question = self.question.take().filter(|question| !question.stays());
        let answer = question.map(|question| (question.ticket, Err(())));
        let is_lost = answer.is_none();
        (self.is_dirty, self.is_claimed, self.is_touched) = (false, false, false);
        self.write = None;
        (self.may_be_lost, self.let_go) = (false, None);
        self.wills.clear();
        self.stage = Stage::Owned;
        let done = self.open.drain(..).collect();
        Outcome { answer, done, is_lost, ..Outcome::default() }
    }

    /// What was read cannot be understood: a gateway of a later version wrote it.
    pub(super) fn handle_unreadable(&mut self, sequence: Sequence, now: Timestamp) -> Outcome {
        if matches!(self.stage, Stage::Owned) {
            return self.lose();
        }
        if self.question.as_ref().is_some_and(Question::goes_on) {
            return self.end();
        }
        // A clean start has no use for it.
        self.is_stored = true;
        self.acquire(sequence, 0, None, now)
    }

    /// When [`Entry::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self, now: Timestamp) -> Timestamp {
        let question = self.question.as_ref().map(|question| question.deadline);
        let asked = match &self.stage {
            Stage::AskOwner { asked: Some((_, deadline)), .. } => Some(*deadline),
            _ => None,
        };
        let retry = (self.retry_at > now).then_some(self.retry_at);
        let will = self.state.as_ref().filter(|_| self.watches_will());
        let will = will.map(|one| one.will_at.max(self.will_not_before));
        [question, asked, retry, will].into_iter().flatten().min().unwrap_or(Timestamp::NEVER)
    }

    /// The will of the session, which is offline, is this shard's to publish when it is due.
    fn watches_will(&self) -> bool {
        let is_offline = self.state.as_ref().is_some_and(|state| !state.is_online());
        let is_at_rest = self.question.is_none() && self.is_idle();
        is_offline && is_at_rest && self.is_claimed && !self.is_will_told
    }

    /// `is_held` says whether the lease under which the session is this shard's cannot be another's.
    pub(super) fn handle_timeout(&mut self, is_held: bool, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        if let Stage::AskOwner { asked: Some((_, deadline)), .. } = &self.stage
            && *deadline <= now
        {
            self.stage = Stage::Read { is_asked: false };
        }
        if self.question.as_ref().is_some_and(|question| question.deadline <= now) {
            let question = self.question.take().expect("it was just looked at");
            // Who needs nothing that is stored goes on without it.
            let found = if question.is_brief() { Ok(None) } else { Err(()) };
            outcome.answer = Some((question.ticket, found));
            if !matches!(self.stage, Stage::Owned) && self.state.is_none() {
                // Nothing is to be there; whether something is, nobody can say.
                self.is_dirty = false;
                outcome.done.extend(self.open.drain(..));
            }
            self.let_go_unless_wanted();
        }
        if self.watches_will()
            && let Some(state) = self.state.as_ref().filter(|state| state.will_at <= now)
        {
            if !is_held {
                self.will_not_before = now.after(RETRY);
                return outcome;
            }
            self.is_will_told = true;
            outcome.due = Some(match state.expires_at <= now {
                true => Due::Expiry,
                false => Due::Will,
            });
        }
        outcome
    }
}

/// What a CONNECT finds. A will that is due and was not published yet is for it to publish.
fn stored_at(state: &State, now: Timestamp) -> StoredSession {
    let stored = state.stored();
    StoredSession { is_orphan: stored.is_orphan || stored.will_at <= now, ..stored }
}

/// Seconds for which a record is kept that nobody has; `None` for ever.
fn outlives(state: &State, now: Timestamp) -> Option<u32> {
    if state.expires_at == Timestamp::NEVER {
        return None;
    }
    let seconds = state.expires_at.millis_since(now).div_ceil(1_000) + GRACE_S;
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
