//! The lease of a shard on the sessions it has in one sub-cluster.
//!
//! ```text
//!  write ─▶ acknowledged: held for three quarters of the time-out, from when it was sent ─▶ write again …
//!              ├─ nobody knows ─▶ read: ours by its nonce, not stored, or ─┐
//!              └─ refused: another has taken it ◀─────────────────────────┘ ─▶ everything is lost; a new name
//! ```
//! A key that its shard replaces every few seconds, and whose last one is old by the servers' clocks
//! once the shard is dead: then another shard replaces it, and looks after the sessions. Both are a
//! compare-and-set of the same key, so a shard whose lease was taken hears of it, whatever it did
//! meanwhile. It has no time to live: it must not go by itself before somebody has looked.
//!
//! A server that has lost its power has an earlier one of the same owner, or none if all of them were
//! lost: then it is written again.

use super::super::direct_get::Start;
use super::entry::{RETRY, SURE_FOR, Written};
use super::value::{Input, Owner};
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// How long leases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// How often a lease is renewed.
    pub renew: Duration,
    /// How old a lease is when its shard counts as dead: several times `renew`.
    pub timeout: Duration,
}

/// What is at the key of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseValue {
    pub(super) owner: Owner,
    /// Of the write.
    pub(super) nonce: u64,
    /// The records of the owner are here or later; 0 for behind this very message.
    pub(super) first: Sequence,
    /// The owner has ended and left something to be looked after: nobody needs to wait.
    pub(super) is_released: bool,
    /// The owner is dead, and another shard looks after what it had.
    pub(super) is_taken: bool,
}

const FORMAT_VERSION: u8 = 1;
const FLAG_RELEASED: u8 = 1;
const FLAG_TAKEN: u8 = 2;

impl LeaseValue {
    /// Wire shape, little endian: version, flags, nonce (u64), first (u64), then the owner as in a
    /// session's record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.is_released, FLAG_RELEASED) | flag(self.is_taken, FLAG_TAKEN);
        let mut out = vec![FORMAT_VERSION, flags];
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        self.owner.encode(&mut out);
        out
    }

    /// Reads a value; `None` for one of another version, a damaged one, or none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != FORMAT_VERSION {
            return None;
        }
        let flags = input.byte()?;
        let (nonce, first) = (input.u64()?, Sequence(input.u64()?));
        let owner = Owner::decode(&mut input)?;
        let (is_released, is_taken) = (flags & FLAG_RELEASED != 0, flags & FLAG_TAKEN != 0);
        Some(Self { owner, nonce, first, is_released, is_taken })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    /// Who this shard is to this sub-cluster, until its lease is taken.
    pub(super) owner: Owner,
    limits: LeaseLimits,
    /// Of what is at the key, 0 for nothing.
    sequence: Sequence,
    first: Sequence,
    nonce: u64,
    step: Step,
    sent_at: Timestamp,
    /// It was sent before, and what became of that is not known.
    is_doubted: bool,
    /// What the server said is at the key instead of what the write expected.
    refused: Option<Sequence>,
    /// The server may have lost what it acknowledged: an earlier one of its own at the key is no other's.
    may_be_lost: bool,
    /// That nothing is at the key does not say that it is lost.
    may_have_ended: bool,
    held_until: Timestamp,
    /// From then on there was no doubt that it was held.
    held_since: Option<Timestamp>,
    due: Timestamp,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rest,
    Sent,
    /// Whether it is stored is to be looked up.
    ToRead,
    Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    None,
    Wanted,
    Reached,
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LeaseAction {
    Write {
        /// Empty to end it.
        value: Vec<u8>,
        expected: Sequence,
    },
    Read,
}

/// What a shard knows of its records when it writes its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lowest {
    /// There is none.
    Nothing,
    /// The lowest sequence of those it has; what is on its way is behind its lease.
    At(Sequence),
    /// Of some writes nobody knows what became.
    Unknown,
}

/// Another shard has the lease, and what was under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken;

impl Lease {
    pub(super) fn new(owner: Owner, limits: LeaseLimits) -> Self {
        Self {
            nonce: owner.boot,
            owner,
            limits,
            sequence: Sequence::ZERO,
            first: Sequence::ZERO,
            step: Step::Rest,
            sent_at: Timestamp::START,
            is_doubted: false,
            refused: None,
            may_be_lost: false,
            may_have_ended: false,
            held_until: Timestamp::START,
            held_since: None,
            due: Timestamp::START,
            end: End::None,
        }
    }

    /// Another name, under which nothing was ever written: the former one is somebody else's.
    pub(super) fn renamed(&self) -> Self {
        // Any that was not there before will do; an odd factor leaves none out.
        let boot = self.owner.boot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Self::new(Owner { boot, ..self.owner.clone() }, self.limits)
    }

    /// Nobody else can have taken it: by the servers' clocks it is younger than the time-out.
    pub(super) fn is_held(&self, now: Timestamp) -> bool {
        now < self.held_until && self.end == End::None
    }

    /// It was held all the time for so long that whoever is alive has renewed its own: a sub-cluster that
    /// was away, or a shard that was, knows of nobody whether it is.
    fn has_watched(&self, now: Timestamp) -> bool {
        self.is_held(now)
            && self.held_since.is_some_and(|since| now >= since.after(self.limits.timeout))
    }

    /// What is to be sent now.
    pub(super) fn action(&mut self, now: Timestamp, lowest: Lowest) -> Option<LeaseAction> {
        if now < self.due || self.end == End::Reached {
            return None;
        }
        match self.step {
            Step::Rest => {
                (self.step, self.sent_at) = (Step::Sent, now);
                if !self.is_doubted {
                    self.nonce = self.nonce.wrapping_add(1);
                }
                Some(LeaseAction::Write { value: self.value(lowest), expected: self.sequence })
            }
            Step::ToRead => {
                self.step = Step::Reading;
                Some(LeaseAction::Read)
            }
            Step::Sent | Step::Reading => None,
        }
    }

    fn value(&mut self, lowest: Lowest) -> Vec<u8> {
        let is_released = self.end == End::Wanted;
        match lowest {
            Lowest::Nothing if is_released => return Vec::new(),
            Lowest::Nothing => self.first = self.sequence.max(self.first),
            Lowest::At(lowest) => self.first = lowest.min(self.sequence).max(self.first),
            Lowest::Unknown => {}
        }
        let (owner, nonce, first) = (self.owner.clone(), self.nonce, self.first);
        LeaseValue { owner, nonce, first, is_released, is_taken: false }.encode()
    }

    /// What became of the write.
    pub(super) fn handle_written(&mut self, written: Written, now: Timestamp) -> Option<Taken> {
        if self.step != Step::Sent {
            return None;
        }
        match written {
            Written::Stored(sequence) => self.stored(sequence),
            Written::Refused(sequence) if self.may_be_lost => {
                (self.refused, self.step) = (Some(sequence), Step::ToRead);
            }
            // Not there any more: another has taken it, and is done with it.
            Written::Refused(sequence) if self.is_doubted && sequence > self.sequence => {
                (self.refused, self.step) = (Some(sequence), Step::ToRead);
            }
            Written::Refused(_) => return Some(Taken),
            Written::Unknown => self.doubt(now.after(RETRY)),
        }
        None
    }

    fn stored(&mut self, sequence: Sequence) {
        if self.first == Sequence::ZERO {
            self.first = sequence;
        }
        (self.sequence, self.step, self.is_doubted) = (sequence, Step::Rest, false);
        (self.refused, self.may_be_lost) = (None, false);
        if self.held_since.is_none() || self.sent_at >= self.held_until {
            self.held_since = Some(self.sent_at);
        }
        self.held_until = self.sent_at.after(self.limits.timeout * 3 / 4);
        self.due = self.sent_at.after(self.limits.renew);
        if self.end == End::Wanted {
            self.end = End::Reached;
        }
    }

    /// What is at the key; `None` when nobody could say.
    pub(super) fn handle_read(
        &mut self,
        read: Option<(Sequence, &[u8])>,
        now: Timestamp,
    ) -> Option<Taken> {
        if self.step != Step::Reading {
            return None;
        }
        let Some((sequence, bytes)) = read else {
            (self.step, self.due) = (Step::ToRead, now.after(RETRY));
            return None;
        };
        let value = LeaseValue::decode(bytes);
        let own = value.filter(|value| value.owner == self.owner && !value.is_taken);
        if own.as_ref().is_some_and(|own| own.nonce == self.nonce) {
            self.stored(sequence);
        } else if self.refused.is_some_and(|refused| sequence < refused) {
            // A server that lags: what the leader has is not there yet.
            (self.step, self.due) = (Step::ToRead, now.after(RETRY));
        } else if self.may_be_lost
            && (own.is_some() || sequence == Sequence::ZERO && !self.may_have_ended)
        {
            // Of what was written since, nothing is there. What was when it was written was before what it
            // says, or behind it; nothing if it is not there itself.
            self.first = own.map_or(Sequence::ZERO, |own| own.first);
            if self.first == Sequence::ZERO {
                self.first = sequence;
            }
            (self.sequence, self.step, self.refused) = (sequence, Step::Rest, None);
        } else if !self.may_be_lost && sequence <= self.sequence {
            // Not stored as far as this server knows; if another knows better, it will refuse.
            (self.step, self.refused) = (Step::Rest, None);
        } else {
            return Some(Taken);
        }
        None
    }

    /// The link is lost, or the server could not say.
    pub(super) fn doubt(&mut self, retry_at: Timestamp) {
        self.held_since = None;
        if self.step != Step::Rest {
            (self.step, self.is_doubted, self.due) = (Step::ToRead, true, retry_at);
        }
        if self.end == End::Wanted {
            // It was tried: if it is not stored, the lease grows old.
            self.end = End::Reached;
        }
    }

    /// The link is to another process of a server, which may have lost what it acknowledged: until it is
    /// known to be there, the lease is not held.
    pub(super) fn begin_life(&mut self, now: Timestamp) {
        // If there is none, another may have taken and ended it.
        self.may_have_ended = now >= self.sent_at.after(SURE_FOR);
        if self.end == End::None && (self.sequence, self.step) != (Sequence::ZERO, Step::Rest) {
            (self.step, self.due, self.may_be_lost) = (Step::ToRead, Timestamp::START, true);
            (self.refused, self.held_until) = (None, Timestamp::START);
        }
    }

    /// The shard ends, and has written all it had to.
    pub(super) fn finish(&mut self) {
        if self.end == End::None {
            (self.end, self.due) = (End::Wanted, Timestamp::START);
            if self.sequence == Sequence::ZERO {
                self.end = End::Reached;
            }
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end == End::Reached
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        match self.step {
            Step::Rest | Step::ToRead if self.end != End::Reached => self.due,
            _ => Timestamp::NEVER,
        }
    }
}

/// A dead shard's lease is being taken, and its sessions are looked after, or none is.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    look_at: Timestamp,
    step: AdoptionStep,
}

#[derive(Debug, Default)]
enum AdoptionStep {
    #[default]
    Rest,
    /// The oldest leases are being read; those that are too old.
    Looking(Vec<(Sequence, LeaseValue)>),
    Dead(Box<Dead>),
}

/// The shard whose sessions are looked after.
#[derive(Debug)]
struct Dead {
    owner: Owner,
    /// Of its lease.
    sequence: Sequence,
    nonce: u64,
    first: Sequence,
    step: DeadStep,
    renew_at: Timestamp,
    retry_at: Timestamp,
    floor: Option<Vec<u8>>,
    /// Its records are looked through from here on, up to where its lease was first taken.
    from: Sequence,
    until: Sequence,
    /// So many were passed over since something else was being done with them here.
    skipped: usize,
    rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeadStep {
    ToTake,
    Taking,
    ToReadFloor,
    ReadingFloor,
    ToScan,
    Scanning,
    ToEnd,
    Ending,
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AdoptionAction {
    /// Read the oldest leases.
    Look,
    /// Write the lease of a dead owner; empty when nothing of it is left.
    Write { owner: Owner, value: Vec<u8>, expected: Sequence },
    /// Read the floor of a dead owner.
    ReadFloor(Owner),
    /// Read what is stored from there on.
    Scan(Start),
}

/// Of those passed over, how often they are looked at again.
const ROUNDS_MAX: u32 = 8;

impl Adoption {
    /// What is to be sent now, by `me`, who may adopt further sessions if `has_room`.
    pub(super) fn action(
        &mut self,
        me: &Lease,
        has_room: bool,
        is_done: bool,
        now: Timestamp,
    ) -> Option<AdoptionAction> {
        match &mut self.step {
            AdoptionStep::Rest if now >= self.look_at && me.has_watched(now) => {
                self.look_at = next_look(me, now);
                self.step = AdoptionStep::Looking(Vec::new());
                Some(AdoptionAction::Look)
            }
            AdoptionStep::Rest | AdoptionStep::Looking(_) => None,
            AdoptionStep::Dead(dead) => {
                if now < dead.retry_at {
                    return None;
                }
                if now >= dead.renew_at && dead.step == DeadStep::ToScan {
                    dead.step = DeadStep::ToTake;
                }
                dead.action(me.limits, has_room, is_done, now)
            }
        }
    }

    /// A lease that is not this shard's own; it was stored so long ago, at least.
    pub(super) fn note_lease(
        &mut self,
        sequence: Sequence,
        value: LeaseValue,
        age: Duration,
        me: &Lease,
    ) {
        let AdoptionStep::Looking(found) = &mut self.step else {
            return;
        };
        if value.owner != me.owner && (value.is_released || age >= me.limits.timeout) {
            found.push((sequence, value));
        }
    }

    /// All leases that were asked for have come.
    pub(super) fn end_look(&mut self, me: &Lease) {
        let AdoptionStep::Looking(found) = &mut self.step else {
            return;
        };
        let mut found = std::mem::take(found);
        if found.is_empty() {
            self.step = AdoptionStep::Rest;
            return;
        }
        // Many look at the same time: each begins with another one.
        let count = found.len() as u64;
        let place = usize::try_from((me.owner.boot >> 8) % count).expect("less than the count");
        let (sequence, value) = found.swap_remove(place);
        let first = if value.first == Sequence::ZERO { sequence } else { value.first };
        tracing::info!(
            gateway = &*value.owner.gateway,
            shard = value.owner.shard,
            "sessions: their gateway is gone, they are looked after here"
        );
        self.step = AdoptionStep::Dead(Box::new(Dead {
            owner: value.owner,
            sequence,
            nonce: value.nonce.wrapping_add(1),
            first,
            step: DeadStep::ToTake,
            renew_at: Timestamp::START,
            retry_at: Timestamp::START,
            floor: None,
            from: first,
            until: Sequence::ZERO,
            skipped: 0,
            rounds: 0,
        }));
    }

    /// Whose sessions are looked after, if they are being looked through, and its floor.
    pub(super) fn dead(&self) -> Option<(&Owner, &[u8])> {
        match &self.step {
            AdoptionStep::Dead(dead) => {
                Some((&dead.owner, dead.floor.as_deref().unwrap_or_default()))
            }
            AdoptionStep::Rest | AdoptionStep::Looking(_) => None,
        }
    }

    /// What became of the write of its lease.
    pub(super) fn handle_written(&mut self, written: Written, now: Timestamp) {
        let AdoptionStep::Dead(dead) = &mut self.step else {
            return;
        };
        let Written::Stored(sequence) = written else {
            // Another looks after it, or it is not dead; or it will be found again.
            self.step = AdoptionStep::Rest;
            return;
        };
        match dead.step {
            DeadStep::Taking => {
                dead.sequence = sequence;
                if dead.until == Sequence::ZERO {
                    dead.until = sequence;
                }
                dead.step = match dead.floor {
                    None => DeadStep::ToReadFloor,
                    Some(_) => DeadStep::ToScan,
                };
            }
            DeadStep::Ending => {
                // There may be more: a gateway has several shards.
                (self.step, self.look_at) = (AdoptionStep::Rest, now);
            }
            _ => {}
        }
    }

    /// Its floor, empty where it has none; `None` when nobody could say.
    pub(super) fn handle_floor(&mut self, floor: Option<&[u8]>, now: Timestamp) {
        let AdoptionStep::Dead(dead) = &mut self.step else {
            return;
        };
        if dead.step != DeadStep::ReadingFloor {
            return;
        }
        match floor {
            Some(floor) => (dead.floor, dead.step) = (Some(floor.to_vec()), DeadStep::ToScan),
            None => (dead.step, dead.retry_at) = (DeadStep::ToReadFloor, now.after(RETRY)),
        }
    }

    /// Something that is stored was looked at; `is_skipped` if it has to be once more.
    pub(super) fn note_scanned(&mut self, sequence: Sequence, is_skipped: bool) {
        if let AdoptionStep::Dead(dead) = &mut self.step {
            dead.from = sequence.next().max(dead.from);
            dead.skipped += usize::from(is_skipped);
        }
    }

    /// Something that was read could not be taken: it is to be read once more.
    pub(super) fn note_skipped(&mut self) {
        if let AdoptionStep::Dead(dead) = &mut self.step {
            dead.skipped += 1;
        }
    }

    /// All that was asked for was looked at; with `more` there is more of it.
    pub(super) fn end_scan(&mut self, more: bool, now: Timestamp) {
        let AdoptionStep::Dead(dead) = &mut self.step else {
            return;
        };
        if dead.step != DeadStep::Scanning {
            return;
        }
        dead.step = DeadStep::ToScan;
        if dead.from > dead.until {
            dead.step = DeadStep::ToEnd;
        } else if !more {
            // A server that lags: the lease is there.
            dead.retry_at = now.after(RETRY);
        }
    }

    /// A server could not say what was asked.
    pub(super) fn fail(&mut self, now: Timestamp) {
        match &mut self.step {
            AdoptionStep::Rest => {}
            AdoptionStep::Looking(_) => self.step = AdoptionStep::Rest,
            AdoptionStep::Dead(dead) => {
                dead.retry_at = now.after(RETRY);
                dead.step = match dead.step {
                    DeadStep::ReadingFloor => DeadStep::ToReadFloor,
                    DeadStep::Scanning => DeadStep::ToScan,
                    step => step,
                };
            }
        }
    }

    /// The link is lost, or this shard's own lease: whoever comes next begins anew.
    pub(super) fn give_up(&mut self) {
        self.step = AdoptionStep::Rest;
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        match &self.step {
            // Too early, it is called with the next renewal.
            AdoptionStep::Rest => self.look_at,
            AdoptionStep::Looking(_) => Timestamp::NEVER,
            AdoptionStep::Dead(dead) => match dead.step {
                DeadStep::Taking
                | DeadStep::ReadingFloor
                | DeadStep::Scanning
                | DeadStep::Ending => Timestamp::NEVER,
                // What makes room for more wakes it.
                _ => dead.retry_at,
            },
        }
    }
}

impl Dead {
    /// Some were passed over: everything is looked through once more, later each time.
    fn look_again(&mut self, now: Timestamp) {
        (self.step, self.from, self.skipped) = (DeadStep::ToScan, self.first, 0);
        self.rounds += 1;
        self.retry_at = now.after(RETRY * 2_u32.pow(self.rounds.min(5)));
    }

    fn action(
        &mut self,
        limits: LeaseLimits,
        has_room: bool,
        is_done: bool,
        now: Timestamp,
    ) -> Option<AdoptionAction> {
        let (action, next) = match self.step {
            DeadStep::ToTake => {
                self.renew_at = now.after(limits.renew);
                self.nonce = self.nonce.wrapping_add(1);
                let value = LeaseValue {
                    owner: self.owner.clone(),
                    nonce: self.nonce,
                    first: self.first,
                    is_released: false,
                    is_taken: true,
                };
                let (owner, value) = (self.owner.clone(), value.encode());
                let expected = self.sequence;
                (AdoptionAction::Write { owner, value, expected }, DeadStep::Taking)
            }
            DeadStep::ToReadFloor => {
                (AdoptionAction::ReadFloor(self.owner.clone()), DeadStep::ReadingFloor)
            }
            DeadStep::ToScan if has_room => {
                let from = self.from.max(Sequence(1));
                (AdoptionAction::Scan(Start::At(from)), DeadStep::Scanning)
            }
            DeadStep::ToEnd if is_done && self.skipped > 0 && self.rounds < ROUNDS_MAX => {
                self.look_again(now);
                return None;
            }
            DeadStep::ToEnd if is_done => {
                let (owner, expected) = (self.owner.clone(), self.sequence);
                let value = Vec::new();
                (AdoptionAction::Write { owner, value, expected }, DeadStep::Ending)
            }
            _ => return None,
        };
        self.step = next;
        Some(action)
    }
}

/// Shards look at different times.
fn next_look(me: &Lease, now: Timestamp) -> Timestamp {
    let timeout_ms = u64::try_from(me.limits.timeout.as_millis()).unwrap_or(u64::MAX).max(4);
    let jitter_ms = me.owner.boot % (timeout_ms / 4);
    now.after(Duration::from_millis(timeout_ms / 4 + jitter_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LeaseLimits =
        LeaseLimits { renew: Duration::from_secs(5), timeout: Duration::from_secs(20) };

    fn owner(gateway: &str) -> Owner {
        Owner { gateway: gateway.into(), shard: 3, boot: 77 }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + 1_000 * seconds)
    }

    fn write(lease: &mut Lease, seconds: u64) -> (Vec<u8>, Sequence) {
        match lease.action(at(seconds), Lowest::Nothing) {
            Some(LeaseAction::Write { value, expected }) => (value, expected),
            other => panic!("{other:?}"),
        }
    }

    fn held() -> Lease {
        let mut lease = Lease::new(owner("me"), LIMITS);
        let (value, expected) = write(&mut lease, 0);
        assert_eq!(expected, Sequence::ZERO);
        assert_eq!(LeaseValue::decode(&value).unwrap().owner, owner("me"));
        assert!(!lease.is_held(at(0)), "not before it is acknowledged");
        assert_eq!(lease.handle_written(Written::Stored(Sequence(9)), at(2)), None);
        lease
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let value = LeaseValue {
            owner: owner("g"),
            nonce: 5,
            first: Sequence(8),
            is_released: false,
            is_taken: true,
        };
        let bytes = value.encode();
        assert_eq!(LeaseValue::decode(&bytes), Some(value));
        for length in 0..bytes.len() {
            assert_eq!(LeaseValue::decode(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn it_is_held_for_less_than_the_timeout_from_when_it_was_sent() {
        let mut lease = held();
        assert!(lease.is_held(at(14)) && !lease.is_held(at(15)));
        assert_eq!(lease.action(at(4), Lowest::Nothing), None);
        let (value, expected) = write(&mut lease, 5);
        assert_eq!(
            (LeaseValue::decode(&value).unwrap().first, expected),
            (Sequence(9), Sequence(9))
        );
        lease.handle_written(Written::Stored(Sequence(20)), at(6));
        assert!(lease.is_held(at(19)) && !lease.is_held(at(20)));
        assert!(!lease.has_watched(at(19)), "others may not have renewed theirs");
        write(&mut lease, 19);
        lease.handle_written(Written::Stored(Sequence(21)), at(19));
        assert!(lease.has_watched(at(20)), "in one piece since the first");
        lease.doubt(Timestamp::START);
        assert!(lease.is_held(at(20)) && !lease.has_watched(at(20)), "the link was away");
    }

    #[test]
    fn a_lease_that_another_has_written_is_taken() {
        let mut lease = held();
        write(&mut lease, 30);
        assert_eq!(lease.handle_written(Written::Refused(Sequence(40)), at(30)), Some(Taken));
        let renamed = lease.renamed();
        assert_ne!(renamed.owner.boot, lease.owner.boot);
        assert!(!renamed.is_held(at(30)));
    }

    #[test]
    fn what_became_of_a_renewal_is_looked_up() {
        let mut lease = held();
        let (value, _) = write(&mut lease, 5);
        lease.doubt(Timestamp::START);
        assert_eq!(lease.action(at(6), Lowest::Nothing), Some(LeaseAction::Read));
        assert_eq!(lease.handle_read(Some((Sequence(9), b"")), at(6)), None, "not stored so far");
        let (again, expected) = write(&mut lease, 7);
        assert_eq!((&again, expected), (&value, Sequence(9)), "under the same nonce");
        // The first was stored after all.
        assert_eq!(lease.handle_written(Written::Refused(Sequence(11)), at(7)), None);
        assert_eq!(lease.action(at(7), Lowest::Nothing), Some(LeaseAction::Read));
        assert_eq!(lease.handle_read(Some((Sequence(9), b"")), at(7)), None, "it lags");
        assert_eq!(lease.action(at(7), Lowest::Nothing), None, "not at once");
        assert_eq!(lease.action(at(8), Lowest::Nothing), Some(LeaseAction::Read));
        assert_eq!(lease.handle_read(Some((Sequence(11), &value)), at(8)), None);
        assert!(lease.is_held(at(21)), "from when it was sent last");
        // Or another has it.
        write(&mut lease, 12);
        lease.doubt(Timestamp::START);
        assert_eq!(lease.action(at(12), Lowest::Nothing), Some(LeaseAction::Read));
        let other = LeaseValue {
            owner: owner("me"),
            nonce: 1,
            first: Sequence(9),
            is_released: false,
            is_taken: true,
        };
        let read = Some((Sequence(50), &other.encode()[..]));
        assert_eq!(lease.handle_read(read, at(12)), Some(Taken));
    }

    #[test]
    fn a_lease_that_another_has_taken_and_ended_is_taken() {
        let mut lease = held();
        write(&mut lease, 5);
        lease.doubt(Timestamp::START);
        assert_eq!(lease.action(at(90), Lowest::Nothing), Some(LeaseAction::Read));
        assert_eq!(lease.handle_read(Some((Sequence::ZERO, b"")), at(90)), None);
        write(&mut lease, 90);
        assert_eq!(lease.handle_written(Written::Refused(Sequence::ZERO), at(90)), Some(Taken));
    }

    fn read(lease: &mut Lease, found: (u64, &[u8]), seconds: u64) -> Option<Taken> {
        assert_eq!(lease.action(at(seconds), Lowest::Nothing), Some(LeaseAction::Read));
        lease.handle_read(Some((Sequence(found.0), found.1)), at(seconds))
    }

    /// It is written anew behind what is there, and its records are looked for where those were by then.
    #[test]
    fn a_lease_that_the_server_has_lost_is_written_again() {
        let mut lease = held();
        let first = write(&mut lease, 5).0;
        lease.handle_written(Written::Stored(Sequence(20)), at(5));
        lease.action(at(10), Lowest::At(Sequence(20)));
        lease.handle_written(Written::Stored(Sequence(30)), at(10));
        lease.begin_life(at(11));
        assert!(!lease.is_held(at(11)), "somebody may have taken it by now");
        assert_eq!(read(&mut lease, (20, &first), 11), None);
        let (value, expected) = write(&mut lease, 11);
        let value = LeaseValue::decode(&value).unwrap();
        assert_eq!((value.first, expected), (Sequence(20), Sequence(20)));
        assert!(!lease.is_held(at(11)));
        lease.handle_written(Written::Stored(Sequence(22)), at(11));
        assert!(lease.is_held(at(12)));
        // With all that there was.
        lease.begin_life(at(12));
        assert_eq!(read(&mut lease, (0, b""), 12), None);
        let (value, expected) = write(&mut lease, 12);
        let value = LeaseValue::decode(&value).unwrap();
        assert_eq!((value.first, expected), (Sequence::ZERO, Sequence::ZERO));
        lease.handle_written(Written::Stored(Sequence(3)), at(12));
        // Or nothing is lost.
        let value = write(&mut lease, 17).0;
        lease.handle_written(Written::Stored(Sequence(7)), at(17));
        lease.begin_life(at(18));
        assert_eq!(read(&mut lease, (7, &value), 18), None);
        assert!(lease.is_held(at(31)) && !lease.is_held(at(32)), "from when it was sent");
    }

    #[test]
    fn a_server_that_lags_has_lost_nothing() {
        let mut lease = held();
        let first = write(&mut lease, 5).0;
        lease.handle_written(Written::Stored(Sequence(20)), at(5));
        let second = write(&mut lease, 10).0;
        lease.handle_written(Written::Stored(Sequence(30)), at(10));
        lease.begin_life(at(11));
        assert_eq!(read(&mut lease, (20, &first), 11), None);
        assert_eq!(write(&mut lease, 11).1, Sequence(20));
        assert_eq!(lease.handle_written(Written::Refused(Sequence(30)), at(11)), None);
        assert_eq!(read(&mut lease, (20, &first), 11), None);
        assert_eq!(read(&mut lease, (30, &second), 12), None);
        assert!(!lease.is_held(at(12)), "what was refused is not what is there");
        assert_eq!(write(&mut lease, 12).1, Sequence(30));
        lease.handle_written(Written::Stored(Sequence(31)), at(12));
        assert!(lease.is_held(at(26)));
    }

    #[test]
    fn a_lease_that_was_lost_may_be_taken_by_now() {
        let taken = |is_taken| LeaseValue {
            owner: owner("me"),
            nonce: 99,
            first: Sequence(9),
            is_released: false,
            is_taken,
        };
        for (sequence, value) in [(10, taken(true).encode()), (10, Vec::new())] {
            let mut lease = held();
            lease.begin_life(at(6));
            assert_eq!(read(&mut lease, (sequence, &value), 6), Some(Taken));
        }
        // So long after it was renewed there is no mark any more.
        let mut lease = held();
        lease.begin_life(at(120));
        assert_eq!(read(&mut lease, (0, b""), 120), Some(Taken));
    }

    #[test]
    fn a_lease_ends_with_its_shard_or_is_left_to_others() {
        let mut lease = held();
        lease.finish();
        assert!(!lease.is_held(at(1)));
        let (value, _) = write(&mut lease, 1);
        assert!(value.is_empty());
        lease.handle_written(Written::Stored(Sequence(30)), at(1));
        assert!(lease.has_ended());
        assert_eq!(lease.action(at(60), Lowest::Nothing), None);

        let mut lease = held();
        lease.finish();
        let action = lease.action(at(1), Lowest::At(Sequence(25)));
        let Some(LeaseAction::Write { value, .. }) = action else { panic!("{action:?}") };
        assert!(LeaseValue::decode(&value).unwrap().is_released);
    }

    #[test]
    fn the_oldest_that_nobody_renews_is_taken_and_looked_through_to_its_end() {
        let me = {
            let mut lease = held();
            for seconds in [5, 10, 15, 20] {
                write(&mut lease, seconds);
                lease.handle_written(Written::Stored(Sequence(10 + seconds)), at(seconds));
            }
            lease
        };
        let mut adoption = Adoption::default();
        let act = |adoption: &mut Adoption, seconds| adoption.action(&me, true, true, at(seconds));
        assert_eq!(act(&mut adoption, 19), None, "it has not watched for long enough");
        assert_eq!(act(&mut adoption, 21), Some(AdoptionAction::Look));
        let lease = |gateway: &str| LeaseValue {
            owner: owner(gateway),
            nonce: 1,
            first: Sequence(4),
            is_released: false,
            is_taken: false,
        };
        let note = |adoption: &mut Adoption, gateway, age_s| {
            adoption.note_lease(Sequence(8), lease(gateway), Duration::from_secs(age_s), &me);
        };
        note(&mut adoption, "alive", 19);
        note(&mut adoption, "me", 100);
        note(&mut adoption, "dead", 20);
        adoption.end_look(&me);
        let taken = act(&mut adoption, 21);
        let Some(AdoptionAction::Write { owner: dead, value, expected }) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!((dead, expected), (owner("dead"), Sequence(8)));
        assert!(LeaseValue::decode(&value).unwrap().is_taken);
        adoption.handle_written(Written::Stored(Sequence(90)), at(21));
        assert_eq!(act(&mut adoption, 21), Some(AdoptionAction::ReadFloor(owner("dead"))));
        adoption.handle_floor(Some(b""), at(21));
        let scan = |from| Some(AdoptionAction::Scan(Start::At(Sequence(from))));
        assert_eq!(act(&mut adoption, 21), scan(4));
        adoption.note_scanned(Sequence(50), false);
        adoption.end_scan(false, at(21));
        assert_eq!(act(&mut adoption, 21), None, "a server that lags: the lease is at 90");
        assert_eq!(act(&mut adoption, 22), scan(51));
        adoption.note_scanned(Sequence(90), true);
        adoption.end_scan(false, at(22));
        assert_eq!(act(&mut adoption, 22), None, "one is looked at once more, later");
        assert_eq!(act(&mut adoption, 23), scan(4));
        adoption.note_scanned(Sequence(91), false);
        adoption.end_scan(false, at(23));
        let ended = act(&mut adoption, 23);
        let Some(AdoptionAction::Write { value, expected: Sequence(90), .. }) = ended else {
            panic!("{ended:?}");
        };
        assert!(value.is_empty());
    }
}
