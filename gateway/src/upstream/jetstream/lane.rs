//! Durable publishes of a shard to one partition: in order a topic, each until it is acknowledged.

use super::inbox::Token;
use super::window::{Outcome, Window};
use crate::proto::histogram::Histogram;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::MessageId;
use crate::proto::time::Timestamp;
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// A message on its way to its partition.
#[derive(Debug)]
pub struct Append {
    /// The body of its record.
    pub body: Vec<u8>,
    /// See [`MessageId`].
    pub id: MessageId,
    /// The server is told this name, and stores what has it once. What is not named is sent once a link, as
    /// nobody would know a second copy.
    pub named: bool,
    /// Of its topic.
    pub topic_hash: u64,
    /// It is for applications only, and in a stream of its own.
    pub is_uplink: bool,
    /// It may be sent: what must be recorded before is.
    pub ready: bool,
    /// It was sent at least once, and is at or behind this if it was stored; 0 where only its time tells. `None`
    /// again once it is known that it was not.
    pub sent: Option<Sequence>,
    /// Where it is stored, once that is known and something else is still to be done: the partition, which
    /// is another one if its topic has moved since, and the place there.
    pub stored: Option<(PartitionId, Sequence)>,
    /// When it was taken in; set by [`Lane::push`].
    pub pushed_at: Timestamp,
}

/// Limits of one lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Publishes that wait for their acknowledgement before publishers are held.
    pub count_max: usize,
    /// Their bytes before publishers are held.
    pub bytes_max: usize,
    /// How long one waits for its acknowledgement before it is sent again, or, if it is sent once a link,
    /// before that is given up.
    pub timeout: Duration,
}

/// See the module.
///
/// A topic has at most one publish that was sent and is not acknowledged; the next one follows the
/// acknowledgement. Otherwise a publish that is tried again could be stored behind a later one.
/// A full lane still takes what it is given, and says that it is full.
#[derive(Debug)]
pub struct Lane {
    window: Window<Append>,
    /// Of each topic with publishes on their way: the first, and those behind it.
    lines: HashMap<u64, Line, RandomState>,
    count: usize,
    bytes: usize,
    limits: LaneLimits,
    /// From [`Lane::push`] to [`Lane::end`].
    pub acknowledgements: Histogram,
}

#[derive(Debug)]
struct Line {
    first: Token,
    behind: VecDeque<Token>,
}

impl Lane {
    /// An empty one.
    #[must_use]
    pub fn new(limits: LaneLimits) -> Self {
        Self {
            window: Window::new(usize::MAX, limits.timeout, Token(1)),
            lines: HashMap::default(),
            count: 0,
            bytes: 0,
            limits,
            acknowledgements: Histogram::default(),
        }
    }

    /// Takes in a publish. The second value says whether it is to be sent now.
    pub fn push(&mut self, mut append: Append, now: Timestamp) -> (Token, bool) {
        append.pushed_at = now;
        let token = self.window.next_token();
        self.count += 1;
        self.bytes += append.body.len();
        let is_first = match self.lines.get_mut(&append.topic_hash) {
            Some(line) => {
                line.behind.push_back(token);
                false
            }
            None => {
                let line = Line { first: token, behind: VecDeque::new() };
                self.lines.insert(append.topic_hash, line);
                true
            }
        };
        let send = is_first && append.ready;
        let pushed = if send { self.window.push(append, now) } else { self.window.hold(append) };
        pushed.expect("the window has no capacity of its own");
        (token, send)
    }

    /// What had to be recorded before `token` is. Whether it is to be sent now.
    pub fn make_ready(&mut self, token: Token, now: Timestamp) -> bool {
        let Some(append) = self.window.get_mut(token) else {
            return false;
        };
        append.ready = true;
        let line = self.lines.get(&append.topic_hash);
        line.is_some_and(|line| line.first == token) && self.window.start(token, now).is_some()
    }

    /// A publish on its way.
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&Append> {
        self.window.get(token)
    }

    /// As [`Lane::get`], of one that is being sent while the feed is at `fed`.
    pub fn sent(&mut self, token: Token, fed: Sequence) -> Option<&Append> {
        let append = self.window.get_mut(token)?;
        append.sent.get_or_insert(fed);
        Some(append)
    }

    /// Notes that `token` is stored, although something else is to be done before it ends: that, and
    /// not the publish, is what is tried again from now on.
    pub fn note_stored(&mut self, token: Token, at: (PartitionId, Sequence), now: Timestamp) {
        if let Some(append) = self.window.get_mut(token) {
            append.stored = Some(at);
            // It may have been found stored before its turn.
            self.window.start(token, now);
        }
    }

    /// `token` is done with. The next publish of its topic, if it is to be sent now.
    pub fn end(&mut self, token: Token, sequence: Sequence, now: Timestamp) -> Option<Token> {
        let append = self.window.acknowledge(token, Outcome::Stored(sequence.0))?;
        let topic_hash = append.topic_hash;
        let micros = now.millis_since(append.pushed_at).saturating_mul(1_000);
        self.acknowledgements.add(micros, 1);
        let line = self.lines.get_mut(&topic_hash)?;
        if line.first != token {
            // It never had its turn, and needs none.
            line.behind.retain(|behind| *behind != token);
            return None;
        }
        let Some(next) = line.behind.pop_front() else {
            self.lines.remove(&topic_hash);
            return None;
        };
        line.first = next;
        let is_ready = self.window.get(next).is_some_and(|append| append.ready);
        (is_ready && self.window.start(next, now).is_some()).then_some(next)
    }

    /// Forgets what is done with, in order. The last token of it, if there was any.
    pub fn release(&mut self) -> Option<Token> {
        let mut last = None;
        while let Some(released) = self.window.release() {
            self.count -= 1;
            self.bytes -= released.publish.body.len();
            last = Some(released.token);
        }
        last
    }

    /// `token` is to be tried again at `at`.
    pub fn retry_at(&mut self, token: Token, at: Timestamp) {
        self.window.retry_at(token, at);
    }

    /// The server says that `token` is not stored: it is to be sent again at `at`.
    pub fn refuse(&mut self, token: Token, at: Timestamp) {
        if let Some(append) = self.window.get_mut(token) {
            // One with a name may have been sent twice, and the other copy be stored.
            append.sent = append.sent.filter(|_| append.named);
        }
        self.window.retry_at(token, at);
    }

    /// The link was lost. What was sent and is not acknowledged waits for [`Lane::make_ready`] again, as
    /// what became of it is to be found out first: its tokens, and from where on it may be stored. What
    /// was to be sent is due at once.
    pub fn doubt(&mut self) -> Vec<(Token, Sequence)> {
        let mut doubted = Vec::new();
        self.window.hold_if(|token, append| {
            let Some(from) = append.sent.filter(|_| append.stored.is_none()) else {
                return false;
            };
            append.ready = false;
            doubted.push((token, from));
            true
        });
        self.window.retry_all_at(Timestamp::START);
        doubted
    }

    /// Places from `from` on are used again: what was sent before may be stored there.
    pub fn lose_from(&mut self, from: Sequence) {
        self.window.for_each_waiting(|append| append.sent = append.sent.map(|sent| sent.min(from)));
    }

    /// Calls `send` with what is to be sent again, in order; the feed is at `fed`. True when the link is to
    /// be given up, as something that is sent once was not answered for too long.
    #[must_use]
    pub fn take_due(
        &mut self,
        now: Timestamp,
        fed: Sequence,
        mut send: impl FnMut(Token, &Append),
    ) -> bool {
        let mut is_silent = false;
        self.window.take_due(now, |token, _, append| {
            if append.stored.is_none() {
                if append.sent.is_some() && !append.named {
                    is_silent = true;
                    return;
                }
                append.sent.get_or_insert(fed);
            }
            send(token, append);
        });
        is_silent
    }

    /// When [`Lane::take_due`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        self.window.next_timeout().unwrap_or(Timestamp::NEVER)
    }

    /// Publishers must wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count >= self.limits.count_max || self.bytes >= self.limits.bytes_max
    }

    /// All that is on its way.
    pub fn appends(&self) -> impl Iterator<Item = &Append> {
        self.window.waiting()
    }

    /// What is on its way: how many, and how many bytes.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.count, self.bytes)
    }

    /// Nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn lane() -> Lane {
        let timeout = Duration::from_secs(5);
        Lane::new(LaneLimits { count_max: 4, bytes_max: 100, timeout })
    }

    fn append(topic_hash: u64, ready: bool) -> Append {
        let id = MessageId { origin: 1, number: 2 };
        let (sent, stored, pushed_at) = (None, None, Timestamp::START);
        let body = vec![0; 10];
        Append {
            body,
            id,
            named: true,
            topic_hash,
            is_uplink: false,
            ready,
            sent,
            stored,
            pushed_at,
        }
    }

    #[test]
    fn a_topic_has_one_publish_on_its_way() {
        let mut lane = lane();
        assert_eq!(lane.push(append(7, true), NOW), (Token(1), true));
        assert_eq!(lane.push(append(7, true), NOW), (Token(2), false));
        assert_eq!(lane.push(append(8, true), NOW), (Token(3), true));
        assert_eq!(lane.end(Token(3), Sequence(10), NOW), None);
        assert_eq!(lane.release(), None, "the first comes first");
        assert_eq!(lane.end(Token(1), Sequence(9), NOW), Some(Token(2)));
        assert_eq!(lane.end(Token(1), Sequence(9), NOW), None, "a second acknowledgement");
        assert_eq!(lane.release(), Some(Token(1)));
        assert_eq!(lane.end(Token(2), Sequence(11), NOW), None);
        assert_eq!(lane.release(), Some(Token(3)));
        assert!(lane.is_empty() && lane.lines.is_empty());
    }

    #[test]
    fn what_is_not_recorded_yet_keeps_its_place() {
        let mut lane = lane();
        assert_eq!(lane.push(append(7, false), NOW), (Token(1), false));
        assert_eq!(lane.push(append(7, false), NOW), (Token(2), false));
        assert_eq!(lane.push(append(7, true), NOW), (Token(3), false));
        assert!(lane.make_ready(Token(1), NOW));
        assert_eq!(lane.end(Token(1), Sequence(9), NOW), None, "the second is not recorded");
        assert!(lane.make_ready(Token(2), NOW));
        assert_eq!(lane.end(Token(2), Sequence(10), NOW), Some(Token(3)));
    }

    #[test]
    fn what_was_stored_before_needs_no_turn() {
        let mut lane = lane();
        lane.push(append(7, true), NOW);
        assert_eq!(lane.push(append(7, false), NOW), (Token(2), false));
        assert_eq!(lane.push(append(7, true), NOW), (Token(3), false));
        assert_eq!(lane.end(Token(2), Sequence(5), NOW), None);
        assert_eq!(lane.end(Token(1), Sequence(9), NOW), Some(Token(3)));
        assert_eq!(lane.release(), Some(Token(2)));
    }

    #[test]
    fn what_is_doubted_keeps_its_turn() {
        let mut lane = lane();
        lane.push(append(7, true), NOW);
        lane.push(append(7, true), NOW);
        lane.push(append(8, true), NOW);
        lane.push(append(9, true), NOW);
        for token in [1, 3] {
            assert!(lane.sent(Token(token), Sequence(2)).is_some());
        }
        assert_eq!(lane.doubt(), [(Token(1), Sequence(2)), (Token(3), Sequence(2))]);
        let mut sent = Vec::new();
        assert!(!lane.take_due(NOW, Sequence(3), |token, _| sent.push(token)));
        assert_eq!(sent, [Token(4)], "it was never sent");
        assert!(lane.make_ready(Token(1), NOW));
        assert_eq!(lane.end(Token(3), Sequence(4), NOW), None);
        assert_eq!(lane.end(Token(1), Sequence(5), NOW), Some(Token(2)));
    }

    #[test]
    fn what_is_stored_is_tried_again_and_not_doubted() {
        let mut lane = lane();
        lane.push(append(7, true), NOW);
        assert_eq!(lane.push(append(7, false), NOW), (Token(2), false));
        assert!(lane.sent(Token(1), Sequence(2)).is_some());
        let at = |place| (PartitionId(1), Sequence(place));
        lane.note_stored(Token(1), at(5), NOW);
        lane.note_stored(Token(2), at(4), NOW);
        assert_eq!(lane.doubt(), []);
        let mut due = Vec::new();
        assert!(!lane.take_due(NOW, Sequence(2), |token, append| due.push((token, append.stored))));
        assert_eq!(due, [(Token(1), Some(at(5))), (Token(2), Some(at(4)))]);
    }

    #[test]
    fn it_is_full_by_count_and_by_bytes_and_takes_more() {
        let mut lane = lane();
        for place in 0..4 {
            assert!(!lane.is_full(), "{place}");
            lane.push(append(place, true), NOW);
        }
        assert!(lane.is_full());
        assert_eq!(lane.push(append(9, true), NOW), (Token(5), true));
        let timeout = Duration::from_secs(5);
        let mut lane = Lane::new(LaneLimits { count_max: 4, bytes_max: 11, timeout });
        lane.push(append(1, true), NOW);
        assert!(!lane.is_full());
        lane.push(append(2, true), NOW);
        assert!(lane.is_full());
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_is_sent_again_in_order() {
        let mut lane = lane();
        lane.push(append(7, true), NOW);
        lane.push(append(7, true), NOW);
        lane.push(append(8, true), NOW);
        let due = |lane: &mut Lane, now| {
            let mut sent = Vec::new();
            let _ = lane.take_due(now, Sequence(3), |token, _| sent.push(token.0));
            sent
        };
        assert!(due(&mut lane, NOW).is_empty());
        assert_eq!(due(&mut lane, NOW.after(Duration::from_secs(5))), [1, 3]);
        assert_eq!(lane.doubt(), [(Token(1), Sequence(3)), (Token(3), Sequence(3))]);
    }

    #[test]
    fn what_is_not_named_is_sent_once_a_link_unless_it_was_refused() {
        let mut lane = lane();
        lane.push(Append { named: false, ..append(7, true) }, NOW);
        lane.push(Append { named: false, ..append(8, true) }, NOW);
        let due = |lane: &mut Lane, seconds| {
            let mut sent = Vec::new();
            let now = NOW.after(Duration::from_secs(seconds));
            let is_silent = lane.take_due(now, Sequence(3), |token, _| sent.push(token.0));
            (sent, is_silent)
        };
        for token in [1, 2] {
            assert!(lane.sent(Token(token), Sequence(2)).is_some());
        }
        lane.refuse(Token(2), NOW.after(Duration::from_secs(4)));
        assert_eq!(due(&mut lane, 4), (vec![2], false), "it is nowhere");
        assert_eq!(due(&mut lane, 5), (vec![], true), "the first is not answered");
        assert_eq!(lane.doubt(), [(Token(1), Sequence(2)), (Token(2), Sequence(3))]);
        assert!(lane.make_ready(Token(2), NOW.after(Duration::from_secs(5))));
        assert_eq!(due(&mut lane, 9), (vec![], false));
        assert_eq!(due(&mut lane, 10), (vec![], true));
    }

    #[test]
    fn what_is_named_is_doubted_though_it_was_refused() {
        let mut lane = lane();
        lane.push(append(7, true), NOW);
        assert!(lane.sent(Token(1), Sequence(2)).is_some());
        lane.refuse(Token(1), NOW);
        assert_eq!(lane.doubt(), [(Token(1), Sequence(2))]);
    }
}
