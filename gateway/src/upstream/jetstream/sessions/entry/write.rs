//! The record of a session, as this shard writes it: one write at a time, each of which expects what the last one
//! has left; and what is found out where nobody knows what became of one.
//!
//! ```text
//! ToSend ─▶ Sent ─┬─ acknowledged
//!                 ├─ refused: another has written it
//!                 └─ nobody knows ─▶ ToRead ─▶ Reading ─┬─ its nonce: it is stored
//!                                                       ├─ not yet: ToSend
//!                                                       └─ another has written it
//! ```

use super::super::let_go::LetGo;
use super::super::value::{Owner, SessionValue};
use super::{Action, Entry, Outcome, RETRY, Stage, State, TOMBSTONE_S, Written, outlives};
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;

/// A write that is not acknowledged.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) nonce: u64,
    /// Empty to delete.
    pub(super) bytes: Vec<u8>,
    pub(super) time_to_live_s: Option<u32>,
    /// So many of the first open appends are in it.
    pub(super) covers: usize,
    pub(super) claims: bool,
    /// It was made after the CONNECT that waits.
    pub(super) answers: bool,
    pub(super) step: WriteStep,
    /// It was sent before, and what became of that is not known.
    pub(super) is_doubted: bool,
    /// What the server said is at the key instead of what the write expected.
    pub(super) refused: Option<Sequence>,
}

/// Whether the record is still as this shard left it: while nothing is written, nothing else would say
/// that another has taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Due,
    Reading,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteStep {
    ToSend,
    Sent,
    /// Whether it is stored is to be looked up.
    ToRead,
    Reading,
}

impl Entry {
    pub(super) fn next_write(
        &mut self,
        owner: &Owner,
        nonce: u64,
        now: Timestamp,
    ) -> Option<Action> {
        if self.write.is_none() {
            // Where a write would have its place, something else may be by now.
            let is_read_first = self.may_be_lost && self.check != Check::Done;
            if !self.is_dirty || is_read_first {
                let is_due = self.check == Check::Due && (self.is_claimed || is_read_first);
                self.check = if is_due { Check::Reading } else { self.check };
                return is_due.then_some(Action::Read);
            }
            self.is_dirty = false;
            self.write = Some(self.encode(owner, nonce, now));
        }
        let write = self.write.as_mut()?;
        match write.step {
            WriteStep::ToSend => {
                write.step = WriteStep::Sent;
                Some(Action::Write {
                    nonce: write.nonce,
                    bytes: write.bytes.clone(),
                    expected: self.sequence,
                    time_to_live_s: write.time_to_live_s,
                })
            }
            WriteStep::ToRead => {
                write.step = WriteStep::Reading;
                Some(Action::Read)
            }
            WriteStep::Sent | WriteStep::Reading => None,
        }
    }

    fn encode(&self, owner: &Owner, nonce: u64, now: Timestamp) -> Write {
        let is_needed = |state: &State| {
            state.is_online() || state.has_will_to_come() && self.waiters.is_empty()
        };
        let has_wills = !self.wills.is_empty();
        // Whoever waits gets the session when such a will is stored: from a record that is let go of nobody would take
        // it, and a client that comes back much later would publish it again.
        let is_storing = self.wills.iter().any(|(_, is_on_its_way)| *is_on_its_way);
        // A session that stays may have lost its connection meanwhile.
        let question = self.question.as_ref();
        let claims = question.is_some_and(|question| !question.stays())
            || self.state.as_ref().is_some_and(is_needed)
            || has_wills && (self.waiters.is_empty() || is_storing);
        let (bytes, time_to_live_s) = match &self.state {
            None if !claims && !has_wills => (Vec::new(), Some(TOMBSTONE_S)),
            state => {
                let wills = self.wills.iter().map(|(will, _)| will.clone()).collect();
                let owner = claims.then(|| owner.clone());
                let (epoch, state) = (self.epoch, state.clone());
                let time_to_live_s = match &state {
                    _ if claims => None,
                    // Whoever waits for it has it by then.
                    None => Some(TOMBSTONE_S),
                    Some(state) => outlives(state, now),
                };
                let value = SessionValue { owner, epoch, nonce, state, wills };
                (value.encode(), time_to_live_s)
            }
        };
        Write {
            nonce,
            bytes,
            time_to_live_s,
            covers: self.open.len(),
            claims,
            answers: question.is_some(),
            step: WriteStep::ToSend,
            is_doubted: false,
            refused: None,
        }
    }

    /// What became of the write with this nonce.
    pub(in super::super) fn handle_written(
        &mut self,
        nonce: u64,
        written: Written,
        now: Timestamp,
    ) -> Outcome {
        let Some(write) = self.write.as_mut().filter(|write| write.nonce == nonce) else {
            return Outcome::default();
        };
        match written {
            Written::Stored(sequence) => self.written(sequence),
            Written::Refused(_) if !write.is_doubted && !self.may_be_lost => self.lose(),
            Written::Refused(Sequence::ZERO) if !self.may_be_lost => self.lose(),
            Written::Refused(sequence) => {
                (write.refused, write.step) = (Some(sequence), WriteStep::ToRead);
                Outcome::default()
            }
            Written::Unknown => {
                self.doubt(now.after(RETRY));
                Outcome::default()
            }
        }
    }

    pub(super) fn written(&mut self, sequence: Sequence) -> Outcome {
        let Some(write) = self.write.take() else {
            return Outcome::default();
        };
        (self.sequence, self.nonce) = (sequence, write.nonce);
        (self.check, self.may_be_lost) = (Check::Done, false);
        self.is_stored = !write.bytes.is_empty();
        self.let_go = (!write.claims).then(|| {
            let Write { nonce, bytes, time_to_live_s, .. } = write;
            Box::new(LetGo { sequence, epoch: self.epoch, nonce, bytes, time_to_live_s })
        });
        self.is_claimed = write.claims;
        self.was_claimed |= write.claims;
        let done = self.open.drain(..write.covers.min(self.open.len())).collect();
        let mut outcome = Outcome { done, ..Outcome::default() };
        if let Some(question) = self.question.as_mut().filter(|_| write.answers) {
            let found = question.found.take();
            outcome = self.answer(found, outcome);
            outcome.announce = outcome.announce.filter(|_| self.is_claimed);
        }
        if self.is_claimed {
            for (will, is_on_its_way) in &mut self.wills {
                if !std::mem::replace(is_on_its_way, true) {
                    outcome.wills.push(will.clone());
                }
            }
        }
        self.let_go_unless_wanted();
        outcome
    }

    /// What is at the key says whether a doubted write is stored.
    pub(super) fn look_up(
        &mut self,
        sequence: Sequence,
        value: Option<&SessionValue>,
        now: Timestamp,
    ) -> Outcome {
        let is_another = self.may_be_lost && self.is_anothers(sequence, value);
        let Some(write) = self.write.as_mut().filter(|one| one.step == WriteStep::Reading) else {
            return self.handle_checked(sequence, value, is_another);
        };
        let is_it = match value {
            Some(value) => value.nonce == write.nonce,
            // A mark has no nonce; behind what the write expected there is nothing but ours.
            None => write.bytes.is_empty() && sequence > self.sequence,
        };
        if is_it {
            return self.written(sequence);
        }
        if write.refused.is_some_and(|refused| sequence < refused) {
            // A server that lags: what the leader has is not there yet.
            write.step = WriteStep::ToRead;
            self.retry_at = now.after(RETRY);
            return Outcome::default();
        }
        let is_there = if self.may_be_lost { !is_another } else { sequence <= self.sequence };
        if is_there {
            // Not stored as far as this server knows; if another knows better, it will refuse.
            (write.step, write.refused) = (WriteStep::ToSend, None);
            self.sequence = if self.may_be_lost { sequence } else { self.sequence };
            return Outcome::default();
        }
        self.lose()
    }

    /// Whether what is at the key was written by another since this shard has claimed the session. Places say
    /// little of that where they were used twice.
    fn is_anothers(&self, sequence: Sequence, value: Option<&SessionValue>) -> bool {
        match value {
            Some(value) => value.epoch > self.epoch,
            // It would not be there without all that was before it.
            None if sequence > Sequence::ZERO => sequence > self.sequence,
            None => self.may_have_ended,
        }
    }

    /// Another gateway has claimed the session, or a former one: whether this one still has it is to
    /// be looked up, unless a write is about to tell.
    pub(in super::super) fn verify(&mut self) {
        if matches!(self.stage, Stage::Owned) {
            self.check = Check::Due;
        }
    }

    /// What is at the key after the link was away, or another has claimed the session.
    fn handle_checked(
        &mut self,
        sequence: Sequence,
        value: Option<&SessionValue>,
        is_another: bool,
    ) -> Outcome {
        let is_of_use = self.is_claimed || self.may_be_lost;
        if std::mem::replace(&mut self.check, Check::Done) != Check::Reading
            || self.write.is_some()
            || !is_of_use
        {
            return Outcome::default();
        }
        if is_another {
            return self.lose();
        }
        if self.may_be_lost {
            // What the server has lost is written again, in the place of what it has.
            self.may_be_lost = value.is_none_or(|value| value.nonce != self.nonce);
            self.is_dirty |= self.may_be_lost && self.is_claimed;
            (self.sequence, self.is_stored) = (sequence, value.is_some());
            return Outcome::default();
        }
        // A server that knows less may lag; a write tells.
        self.is_dirty |= sequence < self.sequence;
        if sequence > self.sequence { self.lose() } else { Outcome::default() }
    }

    /// The link is lost, or the server could not say: what was on its way is to be found out.
    pub(in super::super) fn doubt(&mut self, retry_at: Timestamp) {
        self.retry_at = retry_at;
        match &mut self.stage {
            Stage::Read { is_asked } | Stage::ReadFloor { is_asked, .. } => *is_asked = false,
            Stage::AskOwner { asked, .. } => *asked = None,
            Stage::Owned => {
                self.check = Check::Due;
                if let Some(write) = &mut self.write
                    && write.step != WriteStep::ToSend
                {
                    (write.step, write.is_doubted) = (WriteStep::ToRead, true);
                }
            }
        }
    }

    /// The link is to another process of a server, which may have lost what it acknowledged. With `may_have_ended`
    /// the link was away for so long that there may be no mark any more of what another has deleted.
    pub(in super::super) fn begin_life(&mut self, may_have_ended: bool) {
        self.may_have_ended = may_have_ended;
        match self.stage {
            // What was read for a claim may have been behind what the server had.
            Stage::Owned if !self.was_claimed => self.begin_anew(),
            Stage::Owned => {
                (self.may_be_lost, self.check) = (true, Check::Due);
                if let Some(write) = &mut self.write {
                    (write.step, write.refused) = (WriteStep::ToRead, None);
                }
            }
            // What was found has no place any more.
            Stage::ReadFloor { .. } => self.stage = Stage::Read { is_asked: false },
            Stage::Read { .. } | Stage::AskOwner { .. } => {}
        }
    }

    /// What was written when it was let go of may be lost: that is looked up, and it is written again.
    pub(in super::super) fn let_go_again(&mut self, let_go: LetGo) {
        let value = let_go.value();
        let LetGo { sequence, epoch, nonce, bytes, time_to_live_s } = let_go;
        (self.state, self.is_stored) = (value.state, true);
        self.take_wills(value.wills);
        (self.stage, self.was_claimed) = (Stage::Owned, true);
        (self.sequence, self.epoch, self.may_be_lost) = (sequence, epoch, true);
        self.write = Some(Write {
            nonce,
            bytes,
            time_to_live_s,
            covers: 0,
            claims: false,
            answers: false,
            step: WriteStep::ToRead,
            is_doubted: true,
            refused: None,
        });
    }
}
