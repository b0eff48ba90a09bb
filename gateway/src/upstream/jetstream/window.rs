//! Publishes on their way: acknowledged in any order, released in the order they were sent.

use super::inbox::Token;
use crate::proto::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The publishes of one link to one stream that wait for their acknowledgement.
///
/// A publish gets a [`Token`], which stands in its reply subject, and keeps it through every
/// attempt, as it keeps its message id: then an acknowledgement is one whichever attempt it
/// answers, and a second one is nothing. `T` is what the caller keeps of a publish to send it
/// again and to answer whoever waits for it.
///
/// ```text
///              push                    acknowledge              release
///   (nothing) ──────▶ sent, waiting ──────────────▶ acknowledged ─────▶ (nothing)
///                      │      ▲
///       time-out, lost │      │ sent again by the caller
///                      ▼      │
///                   handed out by take_due
/// ```
///
/// The window never gives up by itself: a publish that was sent may be stored, so only an
/// acknowledgement ends it. Order: two publishes in one window may be stored the other way round
/// when the first is tried again, so a caller that needs an order between them pushes the second
/// after the first was acknowledged ([`Window::acknowledge`] says so at once).
///
/// Limit: `capacity` publishes; a full window takes no more and the publishers wait. Cost: some
/// 40 bytes and `T` each.
#[derive(Debug)]
pub struct Window<T> {
    /// Of the publishes that have not been released, in the order of their tokens.
    slots: VecDeque<Slot<T>>,
    /// The token of the first slot.
    first: u64,
    capacity: usize,
    timeout: Duration,
    waiting_count: usize,
    /// No publish times out before this; it may be that none does at it either.
    next_timeout: Timestamp,
}

#[derive(Debug)]
struct Slot<T> {
    publish: T,
    state: SlotState,
    attempt_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// Not sent yet.
    Held,
    /// Times out at this time.
    Waiting(Timestamp),
    Acknowledged(Outcome),
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored at this sequence.
    Stored(u64),
    /// The server refused it for good, with this error of its API.
    Refused(u32),
}

/// A publish that ended, in the order in which it was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Released<T> {
    /// Its token.
    pub token: Token,
    /// What the caller kept.
    pub publish: T,
    /// How it ended.
    pub outcome: Outcome,
}

impl<T> Window<T> {
    /// What is not acknowledged, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        let is_waiting = |slot: &&Slot<T>| !matches!(slot.state, SlotState::Acknowledged(_));
        self.slots.iter().filter(is_waiting).map(|slot| &slot.publish)
    }

    /// Changes all that is not acknowledged.
    pub fn for_each_waiting(&mut self, change: impl FnMut(&mut T)) {
        let is_waiting = |slot: &&mut Slot<T>| !matches!(slot.state, SlotState::Acknowledged(_));
        self.slots.iter_mut().filter(is_waiting).map(|slot| &mut slot.publish).for_each(change);
    }

    /// A window for `capacity` publishes, at least 1, that waits `timeout` for each attempt.
    ///
    /// `first` is the first token; whoever makes a window anew with the inbox of an old one goes on
    /// where that one ended ([`Window::next_token`]).
    #[must_use]
    pub fn new(capacity: usize, timeout: Duration, first: Token) -> Self {
        Self {
            slots: VecDeque::new(),
            first: first.0,
            capacity: capacity.max(1),
            timeout,
            waiting_count: 0,
            next_timeout: Timestamp::NEVER,
        }
    }

    /// Takes in a publish that is sent now, with [`Window::next_token`] in its reply subject.
    ///
    /// # Errors
    ///
    /// The publish itself, when the window is full.
    pub fn push(&mut self, publish: T, now: Timestamp) -> Result<Token, T> {
        if self.is_full() {
            return Err(publish);
        }
        let token = self.next_token();
        let due = self.due(now);
        self.slots.push_back(Slot { publish, state: SlotState::Waiting(due), attempt_count: 1 });
        self.waiting_count += 1;
        Ok(token)
    }

    /// Takes in a publish that is not sent yet, because an earlier one has to be acknowledged first;
    /// [`Window::start`] sends it. The same limit.
    ///
    /// # Errors
    ///
    /// The publish itself, when the window is full.
    pub fn hold(&mut self, publish: T) -> Result<Token, T> {
        if self.is_full() {
            return Err(publish);
        }
        let token = self.next_token();
        self.slots.push_back(Slot { publish, state: SlotState::Held, attempt_count: 0 });
        Ok(token)
    }

    /// A publish that was held is sent now; `None` when it is not there or was sent before.
    pub fn start(&mut self, token: Token, now: Timestamp) -> Option<&mut T> {
        let due = self.due(now);
        let slot = self.slots.get_mut(place(self.first, token)?)?;
        if slot.state != SlotState::Held {
            return None;
        }
        slot.state = SlotState::Waiting(due);
        slot.attempt_count = 1;
        self.waiting_count += 1;
        Some(&mut slot.publish)
    }

    /// The publish `token`, as long as it has not ended.
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slots.get(place(self.first, token)?)?;
        matches!(slot.state, SlotState::Waiting(_) | SlotState::Held).then_some(&slot.publish)
    }

    /// As [`Window::get`].
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(place(self.first, token)?)?;
        matches!(slot.state, SlotState::Waiting(_) | SlotState::Held).then_some(&mut slot.publish)
    }

    /// Notes how the publish `token` ended, and returns what the caller kept of it.
    ///
    /// `None` when it had ended before, or was never pushed: an answer to an earlier attempt.
    pub fn acknowledge(&mut self, token: Token, outcome: Outcome) -> Option<&mut T> {
        let slot = self.slots.get_mut(place(self.first, token)?)?;
        match slot.state {
            SlotState::Waiting(_) => self.waiting_count -= 1,
            // It turned out to be stored already.
            SlotState::Held => {}
            SlotState::Acknowledged(_) => return None,
        }
        slot.state = SlotState::Acknowledged(outcome);
        Some(&mut slot.publish)
    }

    /// The first publish, if it has ended; call until `None`.
    pub fn release(&mut self) -> Option<Released<T>> {
        let SlotState::Acknowledged(outcome) = self.slots.front()?.state else { return None };
        let slot = self.slots.pop_front()?;
        let token = Token(self.first);
        self.first += 1;
        Some(Released { token, publish: slot.publish, outcome })
    }

    /// Calls `send` with every publish that is to be sent again, in the order of tokens, with the
    /// number of attempts before. Each then waits anew.
    ///
    /// Looks at nothing before [`Window::next_timeout`], then at every slot.
    pub fn take_due(&mut self, now: Timestamp, mut send: impl FnMut(Token, u32, &mut T)) {
        if now < self.next_timeout {
            return;
        }
        self.next_timeout = Timestamp::NEVER;
        let again = now.after(self.timeout);
        for (token, slot) in (self.first..).zip(&mut self.slots) {
            let SlotState::Waiting(due) = &mut slot.state else { continue };
            if *due <= now {
                send(Token(token), slot.attempt_count, &mut slot.publish);
                slot.attempt_count = slot.attempt_count.saturating_add(1);
                *due = again;
            }
            self.next_timeout = self.next_timeout.min(*due);
        }
    }

    /// Makes the publish `token` due at `at`: the server said that it cannot store it now (503).
    pub fn retry_at(&mut self, token: Token, at: Timestamp) {
        let Some(place) = place(self.first, token) else { return };
        let Some(slot) = self.slots.get_mut(place) else { return };
        if let SlotState::Waiting(due) = &mut slot.state {
            *due = at;
            self.next_timeout = self.next_timeout.min(at);
        }
    }

    /// Makes every publish that still waits due at `at`: the connection was lost, and nobody knows
    /// what arrived. Acknowledgements of the old connection do not count any more if the inbox
    /// changes with it; those that come by the new one do.
    pub fn retry_all_at(&mut self, at: Timestamp) {
        for slot in &mut self.slots {
            if let SlotState::Waiting(due) = &mut slot.state {
                *due = at;
                self.next_timeout = self.next_timeout.min(at);
            }
        }
    }

    /// Makes publishes that wait for their acknowledgement wait for [`Window::start`] again, where
    /// `is_held` says so.
    pub fn hold_if(&mut self, mut is_held: impl FnMut(Token, &mut T) -> bool) {
        for (token, slot) in (self.first..).zip(&mut self.slots) {
            if let SlotState::Waiting(_) = slot.state
                && is_held(Token(token), &mut slot.publish)
            {
                slot.state = SlotState::Held;
                self.waiting_count -= 1;
            }
        }
    }

    /// When [`Window::take_due`] may have something to send; `None` while nothing waits.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        (self.waiting_count > 0).then_some(self.next_timeout)
    }

    /// The token of the next push.
    #[must_use]
    pub fn next_token(&self) -> Token {
        Token(self.first + self.slots.len() as u64)
    }

    /// Whether a push would be refused. What has ended counts until it is released.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.capacity
    }

    /// Publishes that have not ended.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    fn due(&mut self, now: Timestamp) -> Timestamp {
        let due = now.after(self.timeout);
        self.next_timeout = self.next_timeout.min(due);
        due
    }
}

fn place(first: u64, token: Token) -> Option<usize> {
    usize::try_from(token.0.checked_sub(first)?).ok()
}

#[cfg(test)]
mod tests;
