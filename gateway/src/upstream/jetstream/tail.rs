//! The messages that came last on a link: for sessions that only noted them, and to join what was
//! read from the stream to what comes by itself.

use crate::proto::partition::Sequence;
use bytes::Bytes;
use std::collections::VecDeque;

/// The last messages of one partition that concerned this shard, as record bodies.
///
/// Limit: `bytes_max` bytes; the oldest go first.
#[derive(Debug)]
pub struct Tail {
    messages: VecDeque<(Sequence, Bytes)>,
    bytes: usize,
    bytes_max: usize,
    /// Everything from here on that came is still here.
    complete_from: Sequence,
}

impl Tail {
    /// An empty one.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, bytes_max, complete_from: Sequence::ZERO }
    }

    /// Adds a message; one that is not later than the last is nothing new.
    pub fn push(&mut self, sequence: Sequence, body: Bytes) {
        if self.messages.back().is_some_and(|(last, _)| *last >= sequence) {
            return;
        }
        self.bytes += body.len();
        self.messages.push_back((sequence, body));
        while self.bytes > self.bytes_max
            && let Some((oldest, body)) = self.messages.pop_front()
        {
            self.bytes -= body.len();
            self.complete_from = Sequence(oldest.0 + 1);
        }
    }

    /// Bytes of the messages kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops everything: what comes from `sequence` on will be complete.
    pub fn restart(&mut self, sequence: Sequence) {
        self.messages.clear();
        self.bytes = 0;
        self.complete_from = sequence;
    }

    /// The message at `sequence`.
    #[must_use]
    pub fn get(&self, sequence: Sequence) -> Option<Bytes> {
        let place = self.messages.binary_search_by_key(&sequence, |(at, _)| *at).ok()?;
        self.messages.get(place).map(|(_, body)| body.clone())
    }

    /// The messages from `from` on, `None` when some of them may be gone.
    pub fn from(&self, from: Sequence) -> Option<impl Iterator<Item = &(Sequence, Bytes)>> {
        if from < self.complete_from {
            return None;
        }
        let place = self.messages.partition_point(|(at, _)| *at < from);
        Some(self.messages.range(place..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_last_and_knows_from_where_on_it_is_complete() {
        let mut tail = Tail::new(4);
        for sequence in [3, 3, 5, 7] {
            tail.push(Sequence(sequence), Bytes::from_static(b"ab"));
        }
        let from = |tail: &Tail, from| {
            let messages = tail.from(Sequence(from))?;
            Some(messages.map(|(sequence, _)| sequence.0).collect::<Vec<_>>())
        };
        assert_eq!(from(&tail, 3), None);
        assert_eq!(from(&tail, 4), Some(vec![5, 7]));
        assert_eq!(from(&tail, 6), Some(vec![7]));
        assert_eq!(from(&tail, 9), Some(vec![]));
        assert_eq!((tail.get(Sequence(3)), tail.get(Sequence(6))), (None, None));
        assert_eq!(tail.get(Sequence(5)).as_deref(), Some(&b"ab"[..]));
        tail.restart(Sequence(20));
        assert_eq!((from(&tail, 19), from(&tail, 20)), (None, Some(vec![])));
    }
}
