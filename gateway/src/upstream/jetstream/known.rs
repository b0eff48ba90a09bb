//! What a shard knows of the retained messages of a partition, so that a subscription that matches none
//! of them need not ask for them.
//!
//! ```text
//! questions ─▶ waiting ─▶ one look at what is behind `next` ─▶ nothing more ─▶ answered for all who waited
//!                 │                                          └▶ too much to read ─▶ each asks by itself
//!                 └ a topic that is known to be there, or too much to read: it asks by itself at once
//! ```
//! Nothing is pushed to a shard, and nothing is believed that was not looked up after the question had
//! come: whatever was retained by then is in the answer. Reading never costs a server more than answering
//! each question would have: a question brings one message of credit, and reading takes it.
//!
//! Source: ARCHITECTURE.md, "Retained messages: nothing to find".

use crate::proto::nats::subject_matches;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    /// The subjects that had a message, each with the place of its last.
    topics: BTreeMap<Box<[u8]>, Sequence>,
    topic_bytes: usize,
    /// What is before it is in `topics`, or is no more.
    next: Sequence,
    /// When `topics` was begun.
    began_at: Timestamp,
    /// Questions numbered up to this one had come when it was last seen that nothing is behind `next`.
    complete_for: u64,
    /// Messages behind `next`, when that was last said.
    backlog: u64,
    /// Messages that may be read.
    credit: u64,
    waiting: Vec<u64>,
    /// The look that is under way: the last question that had come when it was sent.
    under_way: Option<u64>,
    sent_at: Timestamp,
    /// After a failure, or where there is too much, not before.
    not_before: Timestamp,
}

/// What is known for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing that it asks for was there after it had come.
    Nothing,
    /// There may be something.
    Something,
    /// The next look tells.
    Wait,
}

/// What became of a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// There is more to read, and it is worth it.
    More,
    /// Who waited: to be asked about again.
    Over(Vec<u64>),
}

impl Default for Known {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            topic_bytes: 0,
            next: Sequence(1),
            began_at: Timestamp::START,
            complete_for: 0,
            backlog: 0,
            credit: CREDIT_FIRST,
            waiting: Vec::new(),
            under_way: None,
            sent_at: Timestamp::START,
            not_before: Timestamp::START,
        }
    }
}

impl Known {
    /// From where on nothing was looked at.
    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// A question came: what it would cost to answer it may be spent on knowing.
    pub(super) fn earn(&mut self) {
        self.credit = self.credit.saturating_add(1).min(CREDIT_MAX);
    }

    /// What is known for question `id`, which wants what `subject` matches from `from` on.
    pub(super) fn word(&self, id: u64, subject: &[u8], from: Sequence, now: Timestamp) -> Word {
        if self.has(subject, from) {
            Word::Something
        } else if self.complete_for >= id {
            Word::Nothing
        } else if self.is_open(id, now) {
            Word::Wait
        } else {
            Word::Something
        }
    }

    /// Whether question `id` may be answered with the next look.
    pub(super) fn is_open(&self, id: u64, now: Timestamp) -> bool {
        self.complete_for < id && (self.under_way.is_some() || self.is_worth_it(now))
    }

    /// Question `id` is answered with the next look.
    pub(super) fn wait(&mut self, id: u64) {
        self.waiting.push(id);
    }

    fn has(&self, subject: &[u8], from: Sequence) -> bool {
        let literal = match memchr::memchr2(b'*', b'>', subject) {
            None => return self.topics.get(subject).is_some_and(|place| *place >= from),
            Some(place) => subject.get(..place).unwrap_or_default(),
        };
        let mut alike = self
            .topics
            .range::<[u8], _>((std::ops::Bound::Included(literal), std::ops::Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(literal));
        alike
            .by_ref()
            .take(COMPARED_MAX)
            .any(|(topic, place)| *place >= from && subject_matches(subject, topic))
            || alike.next().is_some()
    }

    fn is_worth_it(&self, now: Timestamp) -> bool {
        now >= self.not_before && self.backlog <= self.credit
    }

    fn wants_look(&self) -> bool {
        !self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Whether to look now.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.wants_look() && now >= self.next_timeout()
    }

    /// When a look is due.
    pub(super) fn next_timeout(&self) -> Timestamp {
        if !self.wants_look() {
            return Timestamp::NEVER;
        }
        let wait = if self.waiting.len() >= WAITING_MANY { Duration::ZERO } else { INTERVAL };
        self.sent_at.after(wait)
    }

    /// A look is sent; `last` is the last question that has come. From where on, and how many messages at
    /// most.
    pub(super) fn look(&mut self, last: u64, now: Timestamp) -> (Sequence, u16) {
        if now.millis_since(self.began_at) >= AGE_MAX_MS {
            self.begin(now);
        }
        self.sent_at = now;
        self.under_way.get_or_insert(last);
        let count = self.credit.clamp(1, BATCH_MAX.into());
        (self.next, u16::try_from(count).unwrap_or(BATCH_MAX))
    }

    /// A message of the look.
    pub(super) fn take(
        &mut self,
        subject: &[u8],
        sequence: Sequence,
        is_cleared: bool,
        bytes: usize,
    ) {
        self.next = sequence.next().max(self.next);
        self.credit = self.credit.saturating_sub(1 + bytes as u64 / BYTES_A_MESSAGE);
        if is_cleared {
            if self.topics.remove(subject).is_some() {
                self.topic_bytes -= subject.len();
            }
        } else if self.topics.insert(subject.into(), sequence).is_none() {
            self.topic_bytes += subject.len();
        }
    }

    /// Everything that the look asked for has come; `pending_count` more is there.
    pub(super) fn note_backlog(&mut self, pending_count: u64) {
        self.backlog = pending_count;
    }

    /// The look is over; without `more` nothing is behind what it read.
    pub(super) fn looked(&mut self, more: bool, now: Timestamp) -> Looked {
        let Some(covers) = self.under_way else {
            return Looked::Over(Vec::new());
        };
        let count = self.topics.len() as u64 + self.backlog;
        if count > TOPICS_MAX || self.topic_bytes > TOPIC_BYTES_MAX {
            self.begin(now);
            self.not_before = now.after(TOO_MUCH_WAIT);
        } else if more && self.backlog <= self.credit {
            return Looked::More;
        } else if !more {
            self.backlog = 0;
            self.complete_for = covers;
        }
        self.under_way = None;
        Looked::Over(std::mem::take(&mut self.waiting))
    }

    /// The look was not answered: who waited.
    pub(super) fn fail(&mut self, retry_at: Timestamp) -> Vec<u64> {
        self.under_way = None;
        self.not_before = retry_at;
        std::mem::take(&mut self.waiting)
    }

    /// The link is lost: the next may be to a server that has less.
    pub(super) fn forget(&mut self) {
        let credit = self.credit;
        *self = Self { credit, ..Self::default() };
    }

    fn begin(&mut self, now: Timestamp) {
        self.topics.clear();
        (self.topic_bytes, self.backlog) = (0, 0);
        (self.next, self.complete_for) = (Sequence(1), 0);
        self.began_at = now;
    }
}

/// Looks at a partition are so far apart, unless many wait.
const INTERVAL: Duration = Duration::from_millis(100);
/// So many are not kept waiting.
const WAITING_MANY: usize = 256;
/// Messages that a look reads at most.
const BATCH_MAX: u16 = 500;
/// Messages that may be read before anybody has asked.
const CREDIT_FIRST: u64 = 64;
/// And at most.
const CREDIT_MAX: u64 = TOPICS_MAX;
/// Bytes that cost as much as another message.
const BYTES_A_MESSAGE: u64 = 1_024;
/// Topics that are known, a shard and partition, and their bytes. When there are more, none is, and
/// questions are asked one by one.
const TOPICS_MAX: u64 = 16_384;
const TOPIC_BYTES_MAX: usize = 1_048_576;
/// Until it is looked again whether there are still so many.
const TOO_MUCH_WAIT: Duration = Duration::from_secs(60);
/// Then everything is read anew. What was read goes by sequences, and a stream that somebody has made anew
/// by hand uses them again.
const AGE_MAX_MS: u64 = 60_000;
/// Topics compared with a filter with wildcards; where more begin like it, there may be something.
const COMPARED_MAX: usize = 64;

#[cfg(test)]
mod tests;
