//! Publishes that are held while their topics move: taken in, in order, and sent nowhere yet.
//!
//! ```text
//! append ─▶ held ──the change is complete, or called off──▶ lane of who has the topic then ─▶ acknowledged
//! ```
//! They have a lane of their own, so that whoever waits for them waits for that and not for a partition
//! that is not known yet. A publisher is held with its first such publish; with so many bytes of them that
//! they are full, before it.

use super::inbox::Token;
use super::lane::Append;
use super::lanes::LaneNumber;
use super::partition::message_of;
use super::shard::JetStream;
use crate::proto::bridge::ring::Ring;
use crate::proto::partition::{Lane, Sequence};
use crate::proto::shard_state::AppendToken;
use std::collections::{HashMap, VecDeque};

/// The lane of publishes that are or were held.
pub(super) const HELD_LANE: Lane = Lane(2);
/// Stands for the place of a partition where a publish is held.
pub(super) const HELD_PLACE: usize = usize::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    /// In order; those at the front that have ended are gone.
    publishes: VecDeque<Publish>,
    /// The token of the first.
    first: u64,
    /// How many of them are held.
    waiting: usize,
    /// Their bytes.
    bytes: usize,
    bytes_max: usize,
    /// Where those are that were let go: place and token there, and the token here.
    let_go: HashMap<(usize, Token), u64, ahash::RandomState>,
}

#[derive(Debug)]
enum Publish {
    Held {
        append: Append,
        /// Of the lane that it will be in.
        number: LaneNumber,
        /// It may have been stored before, at or behind this.
        from: Option<Sequence>,
    },
    /// In a lane: place and token there.
    LetGo(usize, Token),
    Ended,
}

impl Held {
    /// Full with `bytes_max` bytes of publishes that are held; one may go beyond.
    pub(super) fn new(bytes_max: usize) -> Self {
        let (publishes, let_go) = (VecDeque::new(), HashMap::default());
        // Before the first token everything is committed.
        Self { publishes, first: 1, waiting: 0, bytes: 0, bytes_max, let_go }
    }

    /// Takes in a publish.
    pub(super) fn push(
        &mut self,
        append: Append,
        number: LaneNumber,
        from: Option<Sequence>,
    ) -> Token {
        self.bytes += append.body.len();
        self.publishes.push_back(Publish::Held { append, number, from });
        self.waiting += 1;
        Token(self.first + self.publishes.len() as u64 - 1)
    }

    /// Nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// No more is taken in of what can wait.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// What is held: how many, and how many bytes.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.waiting, self.bytes)
    }

    fn get_mut(&mut self, token: Token) -> Option<&mut Publish> {
        let place = usize::try_from(token.0.checked_sub(self.first)?).ok()?;
        self.publishes.get_mut(place)
    }

    /// Where a publish is that was taken in at `place`; `None` while it is held.
    pub(super) fn where_is(&self, place: usize, token: Token) -> Option<(usize, Token)> {
        if place != HELD_PLACE {
            return Some((place, token));
        }
        let at = usize::try_from(token.0.checked_sub(self.first)?).ok()?;
        match self.publishes.get(at) {
            Some(Publish::LetGo(place, token)) => Some((*place, *token)),
            Some(Publish::Held { .. } | Publish::Ended) | None => None,
        }
    }

    /// As [`Held::where_is`], of one that may be sent from now on.
    pub(super) fn make_ready(&mut self, place: usize, token: Token) -> Option<(usize, Token)> {
        if place == HELD_PLACE
            && let Some(Publish::Held { append, .. }) = self.get_mut(token)
        {
            append.ready = true;
        }
        self.where_is(place, token)
    }

    /// A publish has ended in a lane; what is done with is told. Where it was when it was taken in.
    pub(super) fn end(
        &mut self,
        place: usize,
        token: Token,
        appended: &mut Vec<AppendToken>,
    ) -> (usize, Token) {
        let Some(number) = self.let_go.remove(&(place, token)) else {
            return (place, token);
        };
        self.end_here(Token(number), appended);
        (HELD_PLACE, Token(number))
    }

    fn end_here(&mut self, token: Token, appended: &mut Vec<AppendToken>) {
        self.replace(token, Publish::Ended);
        let first = self.first;
        while matches!(self.publishes.front(), Some(Publish::Ended)) {
            self.publishes.pop_front();
            self.first += 1;
        }
        if self.first > first {
            appended.push(AppendToken { lane: HELD_LANE, number: self.first - 1 });
        }
    }

    /// The next publish at `next` or behind it whose topic is not held any more, and its token.
    fn take(
        &mut self,
        next: Token,
        ring: &Ring,
    ) -> Option<(Token, Append, LaneNumber, Option<Sequence>)> {
        let is_free = |publish: &Publish| match publish {
            Publish::Held { append, .. } => !ring.is_held(message_of(&append.body).topic),
            Publish::LetGo(..) | Publish::Ended => false,
        };
        let skipped = usize::try_from(next.0.saturating_sub(self.first)).ok()?;
        let at = self.publishes.iter().skip(skipped).position(is_free)? + skipped;
        let token = Token(self.first + at as u64);
        // It has not ended: it is nowhere until it is noted.
        match self.replace(token, Publish::LetGo(HELD_PLACE, token)) {
            Some(Publish::Held { append, number, from }) => Some((token, append, number, from)),
            Some(Publish::LetGo(..) | Publish::Ended) | None => None,
        }
    }

    fn note_let_go(&mut self, token: Token, at: (usize, Token)) {
        self.replace(token, Publish::LetGo(at.0, at.1));
        self.let_go.insert(at, token.0);
    }

    /// What was there, if anything was.
    fn replace(&mut self, token: Token, by: Publish) -> Option<Publish> {
        let was = std::mem::replace(self.get_mut(token)?, by);
        if let Publish::Held { append, .. } = &was {
            self.waiting -= 1;
            self.bytes -= append.body.len();
        }
        Some(was)
    }
}

impl JetStream {
    /// Sends what is held of topics that are not any more to who has them now, in order.
    pub(super) fn let_go_held(&mut self) {
        let mut next = Token(0);
        while let Some((token, append, number, from)) = self.held.take(next, &self.ring) {
            next = Token(token.0 + 1);
            let (at, send) = self.push_owned(append, number, from);
            self.held.note_let_go(token, at);
            let Self { partitions, stored, now, .. } = self;
            if let Some(partition) = partitions.get_mut(at.0).filter(|one| send && one.ready) {
                partition.send(at.1, stored, *now);
            }
        }
    }

    /// A publish that is held is not to be stored: its session is another gateway's.
    pub(super) fn cancel_held(&mut self, token: Token) {
        self.held.end_here(token, &mut self.out.appended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::record::MessageId;
    use crate::proto::time::Timestamp;

    fn append() -> Append {
        let id = MessageId { origin: 1, number: 2 };
        let (sent, stored, pushed_at) = (None, None, Timestamp::START);
        let (is_uplink, ready) = (false, false);
        Append {
            body: Vec::new(),
            id,
            named: true,
            topic_hash: 1,
            is_uplink,
            ready,
            sent,
            stored,
            pushed_at,
        }
    }

    #[test]
    fn what_is_held_ends_in_the_order_in_which_it_came() {
        let mut held = Held::new(1_000);
        let tokens = [held.push(append(), 0, None), held.push(append(), 0, None)];
        assert_eq!((tokens, held.is_empty()), ([Token(1), Token(2)], false));
        assert_eq!(held.make_ready(HELD_PLACE, Token(2)), None);
        assert!(matches!(&held.publishes[1], Publish::Held { append, .. } if append.ready));
        assert_eq!(held.where_is(3, Token(1)), Some((3, Token(1))), "it was never held");
        for token in tokens {
            held.note_let_go(token, (4, Token(7 + token.0)));
        }
        assert!(held.is_empty());
        assert_eq!(held.where_is(HELD_PLACE, Token(2)), Some((4, Token(9))));
        let mut told = Vec::new();
        assert_eq!(held.end(4, Token(9), &mut told), (HELD_PLACE, Token(2)));
        assert_eq!(told, [], "the first comes first");
        assert_eq!(held.end(4, Token(10), &mut told), (4, Token(10)), "another publish");
        assert_eq!(held.end(4, Token(8), &mut told), (HELD_PLACE, Token(1)));
        assert_eq!(told, [AppendToken { lane: HELD_LANE, number: 2 }]);
        assert_eq!(held.push(append(), 0, None), Token(3));
    }

    #[test]
    fn it_is_full_with_so_many_bytes_until_one_is_let_go_or_ends() {
        let mut held = Held::new(20);
        let append = |bytes| Append { body: vec![0; bytes], ..append() };
        let first = held.push(append(19), 0, None);
        assert!(!held.is_full());
        let second = held.push(append(1), 0, None);
        assert!(held.is_full() && held.load() == (2, 20));
        held.note_let_go(first, (4, Token(1)));
        assert!(!held.is_full() && held.load() == (1, 1));
        held.end_here(second, &mut Vec::new());
        assert_eq!(held.load(), (0, 0));
    }
}
