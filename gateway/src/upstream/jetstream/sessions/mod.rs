//! Sessions in JetStream, where any gateway can go on with them: one shard's part.
//!
//! A record a client id, in the stream of the sub-cluster that a hash of the id picks. It names its
//! owner, one shard of one gateway, and every change of it is a compare-and-set: whoever has written
//! it last has the session. What [`ShardState`](crate::proto::shard_state::ShardState) appends is
//! folded into the record; a session has one write on its way, and what is appended meanwhile goes
//! with the next. An append is committed when a write that holds it is acknowledged.
//!
//! ```text
//! CONNECT ─▶ read the record ─▶ ask its owner to let go ─▶ write the claim ─▶ CONNACK
//! append ─▶ fold, mark ─▶ write ─▶ acknowledged: committed, in the order of the line
//!                              └─▶ refused: another gateway has the session; the connection ends
//! connection lost ─▶ write without owner ─▶ forgotten here
//! ```
//!
//! A write of which nobody knows whether it is stored is looked up, and known by its nonce. An owner
//! that does not answer is not waited for: the claim is written over its name, and its own next write
//! is refused. What follows the floor of such an owner goes on from there: floors are keys, too.
//!
//! All this holds as long as the shard renews its lease, one in each sub-cluster: see `lease.rs`. The
//! sessions of a shard that does not are looked after by another: with `Sessions::adopt` they become
//! offline, and their wills are published.
//!
//! A client whose session ends with its connection has no record. That another gateway may have it
//! connected, it hears from an announcement of each CONNECT.
//!
//! [`Sessions`] does no I/O; [`wire`] puts its actions on the links.

mod entry;
mod lease;
mod let_go;
mod line;
mod value;
pub(super) mod wire;

pub use lease::LeaseLimits;
pub use value::{Owner, STATE_BYTES_MAX};
pub use wire::SessionRequest;

use super::inbox::Token;
use crate::proto::mqtt::PacketId;
use crate::proto::partition::Sequence;
use crate::proto::record::{MessageId, Record};
use crate::proto::session::record::Floor as StoredFloor;
use crate::proto::session::{StoredWill, Ticket};
use crate::proto::shard_state::{Due, SessionUse, SessionUser, StoredSession};
use crate::proto::time::Timestamp;
use ahash::RandomState;
use entry::{Action, Adopted, Entry, Outcome, Written};
use lease::{Adoption, AdoptionAction, Lease, LeaseAction, LeaseValue, Lowest, Taken};
use let_go::Lately;
use line::Line;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use value::SessionValue;

/// What came of it, for the shard's state; in this order.
#[derive(Debug, Default)]
pub struct SessionsOut {
    /// Sessions that another gateway has.
    pub lost: Vec<Arc<str>>,
    /// Sessions that another gateway wants.
    pub wanted: Vec<SessionWanted>,
    /// Answers to CONNECTs and timers.
    pub answers: Vec<SessionAnswer>,
    /// Timers of sessions that are offline here.
    pub due: Vec<(Arc<str>, Due)>,
    /// Wills that others were about to publish when they died.
    pub wills: Vec<(Arc<str>, StoredWill)>,
}

/// What is stored of a session.
#[derive(Debug)]
pub struct SessionAnswer {
    /// Of the request.
    pub ticket: Ticket,
    /// Whose session.
    pub client_id: Arc<str>,
    /// What is stored; an error when nobody can say, or others are faster again and again.
    pub found: Result<Option<StoredSession>, ()>,
}

/// Another gateway has a CONNECT of a client.
#[derive(Debug)]
pub struct SessionWanted {
    /// Which.
    pub client_id: Arc<str>,
    /// Its session here is not to go on.
    pub ends: bool,
    /// Who wants it, as far as that is still to be asked.
    pub user: SessionUser,
}

impl SessionsOut {
    /// Nothing came of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { lost, wanted, answers, due, wills } = self;
        lost.is_empty()
            && wanted.is_empty()
            && answers.is_empty()
            && due.is_empty()
            && wills.is_empty()
    }

    pub(super) fn append(&mut self, later: Self) {
        self.lost.extend(later.lost);
        self.wanted.extend(later.wanted);
        self.answers.extend(later.answers);
        self.due.extend(later.due);
        self.wills.extend(later.wills);
    }
}

/// What is to be done on the links.
#[derive(Debug, Default)]
struct SessionsDo {
    /// Committed, by the place of the partition.
    committed: Vec<(usize, u64)>,
    /// Appends that are done although they are written nowhere: what was to follow must not.
    cancelled: Vec<(usize, u64)>,
    /// Messages of sessions that are no more here: what was not sent is for their next owners.
    abandoned: Vec<(usize, Token)>,
    /// Reply subjects of gateways that hear that a session is let go.
    replies: Vec<(usize, Box<[u8]>)>,
    /// Clients of which others may have a connection.
    announcements: Vec<(usize, Arc<str>, SessionUser)>,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    /// As this shard was named when it started: what it is to each sub-cluster is in its lease there.
    owner: Owner,
    entries: HashMap<Arc<str>, Entry, RandomState>,
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    lately: Lately,
    /// By the place of the partition.
    homes: Vec<Home>,
    lease: LeaseLimits,
    next_nonce: u64,
    next_question: u64,
    /// Owners that were asked to let go, by the number of the question.
    asked: HashMap<u64, Arc<str>, RandomState>,
    /// Sessions in memory, or on their way there or away, at most.
    count_max: u64,
    out: SessionsOut,
    to_do: SessionsDo,
    /// Records that could not be read. Counted since the start.
    pub unreadable: u64,
    /// Brief sessions that began although their home was away, so that what is stored under their
    /// client ids, if anything is, has not ended. Counted since the start.
    pub unknown: u64,
    /// Sessions of dead gateways looked after. Counted since the start.
    pub adopted: u64,
    /// Leases that other gateways have taken. Counted since the start.
    pub leases_lost: u64,
}

/// The records of one sub-cluster.
#[derive(Debug)]
struct Home {
    lease: Lease,
    adoption: Adoption,
    /// Sessions of a dead owner that are being written.
    adopting: usize,
    line: Line,
    /// Clients with something to do.
    queue: VecDeque<Arc<str>>,
    /// Reads and writes not answered.
    under_way: usize,
    floor: Floor,
    entry_count: usize,
    /// The process of the server to which the link is, or was: see `lost_tail.rs`.
    life: Option<u32>,
    /// Since then.
    attached_at: Timestamp,
    /// It is not there, since then.
    lost_at: Option<Timestamp>,
}

/// The floor of this shard, as it is to be kept in one sub-cluster.
#[derive(Debug, Default)]
struct Floor {
    /// To be written, once everything appended before it is committed.
    next: Option<(u64, Vec<u8>)>,
    /// On its way.
    sent: Option<Vec<u8>>,
    /// What was written last.
    last: Option<Vec<u8>>,
}

/// Reads and writes of one sub-cluster that are not answered; further ones wait.
const UNDER_WAY_MAX: usize = 1_000;
/// Sessions of dead owners that are being written at a time, in one sub-cluster.
const ADOPTING_MAX: usize = 500;
/// So long after a link to a server is there, others' may not be: an owner that nobody listens for may be on its way.
const OTHERS_COME: Duration = Duration::from_secs(2);
/// Questions without answer that are remembered beside those that wait for one.
const ASKED_SPARE: usize = 64;

impl Floor {
    /// It is not known to be written: it is written again, unless there is a newer one.
    fn fail(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.next.get_or_insert((0, sent));
        }
    }

    /// The server may have lost what was written last.
    fn begin_life(&mut self) {
        if let Some(last) = self.last.take() {
            self.next.get_or_insert((0, last));
        }
    }
}

impl Sessions {
    /// For at most `count_max` sessions at a time; without homes so far.
    #[must_use]
    pub fn new(owner: Owner, count_max: u64, lease: LeaseLimits) -> Self {
        Self {
            entries: HashMap::default(),
            timers: BTreeSet::new(),
            lately: Lately::default(),
            homes: Vec::new(),
            lease,
            next_nonce: owner.boot,
            next_question: 0,
            asked: HashMap::default(),
            count_max,
            out: SessionsOut::default(),
            to_do: SessionsDo::default(),
            unreadable: 0,
            unknown: 0,
            adopted: 0,
            leases_lost: 0,
            owner,
        }
    }

    /// Another partition, behind those there are.
    pub(in crate::upstream::jetstream) fn add_home(&mut self) {
        self.homes.push(Home {
            lease: Lease::new(self.owner.clone(), self.lease),
            adoption: Adoption::default(),
            adopting: 0,
            line: Line::default(),
            queue: VecDeque::new(),
            under_way: 0,
            floor: Floor::default(),
            entry_count: 0,
            life: None,
            attached_at: Timestamp::START,
            lost_at: None,
        });
    }

    /// There are not too many, the one that is asked for included.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() as u64 <= self.count_max
    }

    /// Everything appended is committed.
    pub(super) fn is_idle(&self) -> bool {
        self.homes.iter().all(|home| home.line.is_empty())
            && self.entries.values().all(Entry::is_idle)
    }

    /// What came of it since the last call.
    pub(super) fn take_out(&mut self) -> SessionsOut {
        std::mem::take(&mut self.out)
    }

    /// Something of a client's session is here.
    pub(super) fn has(&self, client_id: &str) -> bool {
        self.entries.contains_key(client_id)
    }

    /// Whether a session, if it has a record, cannot be another's by now without this shard knowing.
    pub(super) fn is_held(&self, client_id: &str, now: Timestamp) -> bool {
        let entry = self.entries.get(client_id);
        entry.is_none_or(|entry| self.is_home_held(entry.place, now))
    }

    fn is_home_held(&self, place: usize, now: Timestamp) -> bool {
        self.homes.get(place).is_some_and(|home| home.lease.is_held(now))
    }

    /// Who this shard is to a sub-cluster.
    fn owner_at(&self, place: usize) -> &Owner {
        &self.homes.get(place).expect("each partition has a home").lease.owner
    }

    /// The shard ends, and all its sessions are written: its leases end, or what is left for others to
    /// look after is theirs at once.
    pub(super) fn finish(&mut self) {
        self.homes.iter_mut().for_each(|home| home.lease.finish());
    }

    /// Whether that is done in a sub-cluster.
    pub(super) fn has_finished(&self, place: usize) -> bool {
        self.homes.get(place).is_none_or(|home| home.lease.has_ended())
    }

    /// A CONNECT goes on although nobody can say whether there was a session before.
    pub(super) fn answer_unknown(&mut self, ticket: Ticket, client_id: &str) {
        self.unknown += 1;
        let answer = SessionAnswer { ticket, client_id: client_id.into(), found: Ok(None) };
        self.out.answers.push(answer);
    }

    /// A CONNECT asks for the session of a client.
    pub(super) fn ask(
        &mut self,
        ticket: Ticket,
        client_id: &str,
        (session_use, user): (SessionUse, SessionUser),
        place: usize,
        now: Timestamp,
    ) {
        let client_id = self.enter(client_id, place);
        self.with(&client_id, now, |entry, _| entry.ask(ticket, session_use, user, now));
    }

    /// What is known of a session that is offline here.
    pub(super) fn look(&mut self, ticket: Ticket, client_id: &str) {
        let found = self.entries.get(client_id).and_then(Entry::look);
        let answer = SessionAnswer { ticket, client_id: client_id.into(), found: Ok(found) };
        self.out.answers.push(answer);
    }

    /// The shard has heard the answer for `client_id`.
    pub(super) fn settle_answer(&mut self, client_id: &Arc<str>, now: Timestamp) {
        self.with(client_id, now, |entry, _| {
            entry.settle_answer();
            Outcome::default()
        });
    }

    /// The session that another gateway wants is not here.
    pub(super) fn give_up(&mut self, client_id: &Arc<str>, now: Timestamp) {
        self.with(client_id, now, |entry, _| {
            entry.give_up(now);
            Outcome::default()
        });
    }

    /// Folds a record of a session. The number is committed when that is written.
    pub(super) fn append(
        &mut self,
        record: &Record<'_>,
        client_id: &str,
        place: usize,
        now: Timestamp,
    ) -> u64 {
        let number = self.line(place).push();
        let Some((client_id, _)) = self.entries.get_key_value(client_id) else {
            // It ends with its connection, or another gateway has it and the shard is about to hear
            // so: then what was to follow must not.
            if !client_id.is_empty() {
                self.to_do.cancelled.push((place, number));
            }
            self.line(place).finish(number);
            self.release(place);
            return number;
        };
        let client_id = client_id.clone();
        self.with(&client_id, now, |entry, _| {
            entry.append(record, number);
            Outcome::default()
        });
        number
    }

    /// A message of the session is on its way to partition `place` under `token`: a record says so
    /// until it is released. Whoever has the session next looks after it.
    pub(super) fn note_intent(
        &mut self,
        client_id: &str,
        packet_id: PacketId,
        place: usize,
        token: Token,
    ) {
        if let Some(entry) = self.entries.get_mut(client_id) {
            entry.note_intent(packet_id, place, token);
        }
    }

    /// A will is on its way to be stored; the record of its client has it until then. Whether there is one.
    pub(super) fn note_will(&mut self, client_id: &str, will: &StoredWill, now: Timestamp) -> bool {
        let Some((client_id, _)) = self.entries.get_key_value(client_id) else {
            return false;
        };
        let client_id = client_id.clone();
        self.with(&client_id, now, |entry, _| {
            entry.note_will(will);
            Outcome::default()
        });
        true
    }

    /// It was not sent, and is published again when the record is known to be this owner's. Whether it has
    /// one.
    pub(super) fn hold_back_will(
        &mut self,
        client_id: &str,
        id: MessageId,
        now: Timestamp,
    ) -> bool {
        let Some((client_id, _)) = self.entries.get_key_value(client_id) else {
            return false;
        };
        let client_id = client_id.clone();
        let mut is_held_back = false;
        self.with(&client_id, now, |entry, _| {
            is_held_back = entry.hold_back_will(id);
            Outcome::default()
        });
        is_held_back
    }

    /// It is stored.
    pub(super) fn forget_will(&mut self, client_id: &str, id: MessageId, now: Timestamp) {
        if let Some((client_id, _)) = self.entries.get_key_value(client_id) {
            let client_id = client_id.clone();
            self.with(&client_id, now, |entry, _| {
                entry.forget_will(id);
                Outcome::default()
            });
        }
    }

    /// Takes in how far sessions are that follow the floor.
    pub(super) fn append_floor(&mut self, cursors: &[u8]) {
        for home in self.homes.iter_mut().filter(|home| home.entry_count > 0) {
            home.floor.next = Some((home.line.last(), cursors.to_vec()));
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((at, client_id)) = self.timers.first().cloned()
            && at <= now
        {
            self.timers.remove(&(at, client_id.clone()));
            let is_held = self.is_held(&client_id, now);
            self.with(&client_id, now, |entry, _| {
                entry.timer = Timestamp::NEVER;
                entry.handle_timeout(is_held, now)
            });
        }
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        self.timers.first().map_or(Timestamp::NEVER, |(at, _)| *at)
    }

    /// When a sub-cluster to which there is a link is to be written to because of leases.
    pub(super) fn lease_timeout(&self, place: usize, now: Timestamp) -> Timestamp {
        let Some(Home { lease, adoption, .. }) = self.homes.get(place) else {
            return Timestamp::NEVER;
        };
        // What is due by now waits for something else.
        let times = [lease.next_timeout(), adoption.next_timeout()].into_iter();
        times.filter(|at| *at > now).min().unwrap_or(Timestamp::NEVER)
    }

    /// What is to be done for the lease of this shard.
    fn next_lease_action(&mut self, place: usize, now: Timestamp) -> Option<LeaseAction> {
        let is_due = self.homes.get(place)?.lease.next_timeout() <= now;
        let lowest = if is_due { self.lowest(place) } else { Lowest::Unknown };
        self.homes.get_mut(place)?.lease.action(now, lowest)
    }

    /// Where the records of this shard begin in a sub-cluster.
    fn lowest(&self, place: usize) -> Lowest {
        let of_place = self.entries.values().filter(|entry| entry.place == place);
        of_place.map(Entry::lowest).fold(Lowest::Nothing, |lowest, one| match (lowest, one) {
            (Lowest::Unknown, _) | (_, Lowest::Unknown) => Lowest::Unknown,
            (Lowest::At(lowest), Lowest::At(one)) => Lowest::At(lowest.min(one)),
            (Lowest::At(one), Lowest::Nothing) | (Lowest::Nothing, Lowest::At(one)) => {
                Lowest::At(one)
            }
            (Lowest::Nothing, Lowest::Nothing) => Lowest::Nothing,
        })
    }

    /// What is to be done for those of others.
    fn next_adoption_action(&mut self, place: usize, now: Timestamp) -> Option<AdoptionAction> {
        let Home { lease, adoption, adopting, .. } = self.homes.get_mut(place)?;
        if !lease.is_held(now) {
            return None;
        }
        adoption.action(lease, *adopting < ADOPTING_MAX, *adopting == 0, now)
    }

    /// What became of a write of this shard's lease, or what is at its key.
    fn with_lease(
        &mut self,
        place: usize,
        now: Timestamp,
        call: impl FnOnce(&mut Lease) -> Option<Taken>,
    ) -> Option<Taken> {
        let taken = call(&mut self.homes.get_mut(place)?.lease)?;
        self.lose_home(place, now);
        Some(taken)
    }

    /// Another shard has taken the lease of this one: it has all sessions that were here, and this
    /// shard is somebody else from now on.
    fn lose_home(&mut self, place: usize, now: Timestamp) {
        let Some(home) = self.homes.get_mut(place) else {
            return;
        };
        let owner = &home.lease.owner;
        tracing::error!(
            place,
            shard = owner.shard,
            "sessions: the lease was taken by another gateway, which has published the wills; the \
             clients are disconnected and may connect again"
        );
        self.leases_lost += 1;
        home.lease = home.lease.renamed();
        home.adoption.give_up();
        for client_id in self.clients_at(place) {
            self.with(&client_id, now, |entry, _| entry.lose_lease());
        }
    }

    /// In an order, so that a simulation can be repeated.
    fn clients_at(&self, place: usize) -> Vec<Arc<str>> {
        let of_place = self.entries.iter().filter(|(_, entry)| entry.place == place);
        let mut clients: Vec<Arc<str>> = of_place.map(|(client, _)| client.clone()).collect();
        clients.sort_unstable();
        clients
    }

    /// A lease, as it is stored in a sub-cluster.
    fn note_lease(&mut self, place: usize, sequence: Sequence, bytes: &[u8], age: Duration) {
        if let (Some(Home { lease, adoption, .. }), Some(value)) =
            (self.homes.get_mut(place), LeaseValue::decode(bytes))
        {
            adoption.note_lease(sequence, value, age, lease);
        }
    }

    fn end_look(&mut self, place: usize) {
        if let Some(Home { lease, adoption, .. }) = self.homes.get_mut(place) {
            adoption.end_look(lease);
        }
    }

    fn fail_adoption(&mut self, place: usize, now: Timestamp) {
        if let Some(adoption) = self.adoption(place) {
            adoption.fail(now);
        }
    }

    fn adoption(&mut self, place: usize) -> Option<&mut Adoption> {
        self.homes.get_mut(place).map(|home| &mut home.adoption)
    }

    /// A record, as it is stored where a dead owner has its own: one of those is taken. Whether it
    /// could not be yet.
    fn adopt(
        &mut self,
        place: usize,
        client_id: &str,
        (sequence, bytes): (Sequence, &[u8]),
        now: Timestamp,
    ) -> bool {
        let dead = self.homes.get(place).and_then(|home| home.adoption.dead());
        let (Some((owner, floor)), Some(value)) = (dead, SessionValue::decode(bytes)) else {
            return false;
        };
        if value.owner.as_ref() != Some(owner) {
            return false;
        }
        if self.entries.contains_key(client_id) {
            return true;
        }
        let floor = StoredFloor::decode(floor);
        let client_id = self.enter(client_id, place);
        if let Some(home) = self.homes.get_mut(place) {
            home.adopting += 1;
        }
        self.adopted += 1;
        self.with(&client_id, now, |entry, _| {
            entry.adopt(sequence, value, &floor, now);
            Outcome::default()
        });
        false
    }

    /// The link to a sub-cluster is lost: what was on its way is to be found out.
    fn lose(&mut self, place: usize, now: Timestamp) {
        if let Some(home) = self.homes.get_mut(place) {
            home.under_way = 0;
            // Attempts to connect fail in the same way.
            home.lost_at.get_or_insert(now);
            home.floor.fail();
            home.lease.doubt(Timestamp::START);
            home.adoption.give_up();
        }
        for client_id in self.clients_at(place) {
            self.with(&client_id, now, |entry, _| {
                entry.doubt(Timestamp::START);
                Outcome::default()
            });
        }
    }

    /// The link to a sub-cluster is there, to process `life` of a server. Another one may have lost what the
    /// last had acknowledged: what is stored of that is looked up, and written again where it is not.
    fn attach(&mut self, place: usize, life: u32, now: Timestamp) {
        let Some(home) = self.homes.get_mut(place) else {
            return;
        };
        let lost_at = home.lost_at.take();
        if home.life.replace(life) == Some(life) {
            return;
        }
        home.attached_at = now;
        let may_have_ended = lost_at.is_some_and(|at| now >= at.after(entry::SURE_FOR));
        home.lease.begin_life(now);
        home.floor.begin_life();
        for client_id in self.clients_at(place) {
            self.with(&client_id, now, |entry, _| {
                entry.begin_life(may_have_ended);
                Outcome::default()
            });
        }
        for (client_id, let_go) in self.lately.due(place, Some(life), now) {
            // Of one that is asked for it is known what is earlier.
            if !self.entries.contains_key(&client_id) {
                let client_id = self.enter(&client_id, place);
                self.with(&client_id, now, |entry, _| {
                    entry.let_go_again(let_go);
                    Outcome::default()
                });
            }
        }
    }

    /// The next thing to do at a home, and for whom.
    fn next_action(&mut self, place: usize, now: Timestamp) -> Option<(Arc<str>, Action)> {
        loop {
            let home = self.homes.get_mut(place)?;
            if home.under_way >= UNDER_WAY_MAX || !home.lease.is_held(now) {
                return None;
            }
            let client_id = home.queue.pop_front()?;
            let Some(entry) = self.entries.get_mut(&client_id) else {
                continue;
            };
            entry.is_queued = false;
            self.next_nonce = self.next_nonce.wrapping_add(1);
            let action = entry.action(&home.lease.owner, self.next_nonce, now);
            if let Some(action) = action {
                if !matches!(action, Action::AskOwner { .. }) {
                    home.under_way += 1;
                }
                return Some((client_id, action));
            }
        }
    }

    /// The floor, if it may be written now.
    fn next_floor(&mut self, place: usize) -> Option<Vec<u8>> {
        let Home { line, floor, .. } = self.homes.get_mut(place)?;
        let is_due = |(after, _): &mut (u64, Vec<u8>)| line.is_released(*after);
        let (_, cursors) = floor.next.take_if(|next| floor.sent.is_none() && is_due(next))?;
        floor.sent = Some(cursors.clone());
        Some(cursors)
    }

    fn handle_floor_written(&mut self, place: usize, is_stored: bool) {
        if let Some(home) = self.homes.get_mut(place) {
            match is_stored {
                true => home.floor.last = home.floor.sent.take(),
                false => home.floor.fail(),
            }
        }
    }

    /// Something that was asked at a home is answered.
    fn note_answered(&mut self, place: usize) {
        if let Some(home) = self.homes.get_mut(place) {
            home.under_way = home.under_way.saturating_sub(1);
        }
    }

    /// A number under which an owner is asked to let go.
    fn note_asked(&mut self, client_id: &Arc<str>, now: Timestamp) -> u64 {
        self.next_question += 1;
        let Self { asked, entries, .. } = self;
        if asked.len() > 2 * entries.len() + ASKED_SPARE {
            asked.retain(|number, client| {
                entries.get(client).is_some_and(|entry| entry.is_asking(*number))
            });
        }
        let number = self.next_question;
        self.asked.insert(number, client_id.clone());
        self.with(client_id, now, |entry, _| {
            entry.note_asked(number, now);
            Outcome::default()
        });
        number
    }

    /// The answer to such a question, `is_nobody` if nobody listens.
    fn handle_let_go(&mut self, number: u64, is_nobody: bool, now: Timestamp) {
        let Some(client_id) = self.asked.remove(&number) else {
            return;
        };
        let place = self.entries.get(&client_id).map(|entry| entry.place);
        let home = place.and_then(|place| self.homes.get(place));
        let may_come = home.is_some_and(|home| now < home.attached_at.after(OTHERS_COME));
        self.with(&client_id, now, |entry, _| {
            match is_nobody && may_come {
                true => entry.ask_owner_again(number, now),
                false => entry.handle_let_go(number),
            }
            Outcome::default()
        });
    }

    /// What is at the key of a client; empty for nothing. `None` when nobody could say.
    fn handle_read(
        &mut self,
        client_id: &Arc<str>,
        read: Option<(Sequence, &[u8])>,
        now: Timestamp,
    ) {
        let entry = self.entries.get(client_id).filter(|entry| entry.is_being_read());
        let home = entry.and_then(|entry| self.homes.get(entry.place));
        let let_go = home.and_then(|home| self.lately.find(client_id, home.life, now)).cloned();
        let mut is_unreadable = false;
        self.with(client_id, now, |entry, owner| {
            let Some((sequence, bytes)) = read else {
                entry.doubt(now.after(entry::RETRY));
                return Outcome::default();
            };
            let mut value = SessionValue::decode(bytes);
            if value.is_none() && !bytes.is_empty() {
                is_unreadable = true;
                return entry.handle_unreadable(sequence, now);
            }
            if let Some(later) = let_go.filter(|one| one.is_behind(sequence, value.as_ref())) {
                // The server has lost it.
                value = Some(later.value());
            }
            entry.handle_read(sequence, value, owner, now)
        });
        self.unreadable += u64::from(is_unreadable);
    }

    /// The floor of an owner that is gone. `None` when nobody could say.
    fn handle_floor(&mut self, client_id: &Arc<str>, floor: Option<&StoredFloor>, now: Timestamp) {
        self.with(client_id, now, |entry, _| match floor {
            Some(floor) => entry.handle_floor(floor, now),
            None => {
                entry.doubt(now.after(entry::RETRY));
                Outcome::default()
            }
        });
    }

    fn handle_written(
        &mut self,
        client_id: &Arc<str>,
        nonce: u64,
        written: Written,
        now: Timestamp,
    ) {
        self.with(client_id, now, |entry, _| entry.handle_written(nonce, written, now));
    }

    /// Another gateway asks for the session of a client, and waits at `reply_to`.
    fn handle_wanted(
        &mut self,
        place: usize,
        client_id: &str,
        ends: bool,
        reply_to: Box<[u8]>,
        now: Timestamp,
    ) {
        let Some((client_id, _)) = self.entries.get_key_value(client_id) else {
            self.to_do.replies.push((place, reply_to));
            return;
        };
        let client_id = client_id.clone();
        let mut is_here = false;
        self.with(&client_id, now, |entry, _| {
            is_here = entry.can_let_go();
            entry.waiters.push(reply_to);
            Outcome::default()
        });
        if is_here {
            // The other has asked who it is.
            let user = SessionUser::default();
            self.out.wanted.push(SessionWanted { client_id, ends, user });
        } else {
            // Both want it: the compare-and-set decides.
            self.reply(&client_id);
        }
    }

    /// A client has connected to another gateway. A connection without record it may have here ends;
    /// where there is a record, that decides.
    fn handle_announced(
        &mut self,
        owner: &Owner,
        client_id: &str,
        user: SessionUser,
        now: Timestamp,
    ) {
        // Whatever it was called when it said so.
        if (&owner.gateway, owner.shard) == (&self.owner.gateway, self.owner.shard) {
            return;
        }
        let client_id: Arc<str> = client_id.into();
        if self.entries.contains_key(&client_id) {
            self.with(&client_id, now, |entry, _| {
                entry.verify();
                Outcome::default()
            });
        } else {
            self.out.wanted.push(SessionWanted { client_id, ends: true, user });
        }
    }

    fn line(&mut self, place: usize) -> &mut Line {
        &mut self.homes.get_mut(place).expect("each partition has a home").line
    }

    fn release(&mut self, place: usize) {
        if let Some(number) = self.line(place).release() {
            self.to_do.committed.push((place, number));
        }
    }

    fn enter(&mut self, client_id: &str, place: usize) -> Arc<str> {
        if let Some((client_id, _)) = self.entries.get_key_value(client_id) {
            return client_id.clone();
        }
        let client_id: Arc<str> = client_id.into();
        self.entries.insert(client_id.clone(), Entry::new(place));
        if let Some(home) = self.homes.get_mut(place) {
            home.entry_count += 1;
        }
        client_id
    }

    fn reply(&mut self, client_id: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(client_id) {
            let place = entry.place;
            let replies = entry.waiters.drain(..).map(|reply_to| (place, reply_to));
            self.to_do.replies.extend(replies);
        }
    }

    /// Lets something happen to an entry, and does what follows from it.
    fn with(
        &mut self,
        client_id: &Arc<str>,
        now: Timestamp,
        call: impl FnOnce(&mut Entry, &Owner) -> Outcome,
    ) {
        let Some(entry) = self.entries.get_mut(client_id) else {
            return;
        };
        let place = entry.place;
        let home = self.homes.get_mut(place).expect("each partition has a home");
        let outcome = call(entry, &home.lease.owner);
        if entry.adoption != Adopted::No && (entry.is_idle() || entry.adoption == Adopted::Refused)
        {
            let adoption = std::mem::replace(&mut entry.adoption, Adopted::No);
            home.adopting -= 1;
            if adoption == Adopted::Refused {
                home.adoption.note_skipped();
            }
        }
        let (is_over, timer) = (entry.is_over(), entry.next_timeout(now));
        let due =
            std::mem::replace(&mut entry.timer, if is_over { Timestamp::NEVER } else { timer });
        if due != entry.timer {
            self.timers.remove(&(due, client_id.clone()));
            if entry.timer != Timestamp::NEVER {
                self.timers.insert((timer, client_id.clone()));
            }
        }
        if !is_over
            && !std::mem::replace(&mut entry.is_queued, true)
            && let Some(home) = self.homes.get_mut(place)
        {
            home.queue.push_back(client_id.clone());
        }
        let Outcome { answer, done, announce, is_lost, due, wills } = outcome;
        self.out.wills.extend(wills.into_iter().map(|will| (client_id.clone(), will)));
        for number in done {
            if is_lost {
                self.to_do.cancelled.push((place, number));
            }
            self.line(place).finish(number);
        }
        self.release(place);
        if is_lost {
            self.out.lost.push(client_id.clone());
        }
        let announced = announce.map(|user| (place, client_id.clone(), user));
        self.to_do.announcements.extend(announced);
        self.out.answers.extend(answer.map(|(ticket, found)| SessionAnswer {
            ticket,
            client_id: client_id.clone(),
            found,
        }));
        self.out.due.extend(due.map(|due| (client_id.clone(), due)));
        if is_over {
            self.reply(client_id);
            let rest = self.entries.remove(client_id).map(Entry::into_rest);
            let (intents, let_go) = rest.unwrap_or_default();
            self.to_do.abandoned.extend(intents);
            if let Some(home) = self.homes.get_mut(place) {
                home.entry_count -= 1;
                if let Some(let_go) = let_go {
                    self.lately.keep(client_id, let_go, (place, home.life), now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
