//! Publishes that may be stored already: each is looked for before it is sent.
//!
//! ```text
//! fenced ──former links are read to their end──▶ due ─▶ asked ─▶ found, or nowhere
//!                                                 ▲        │ more to look through, no answer
//!                                                 └────────┘
//! ```
//! Which of them there are after a lost link, how many are asked for at once, and why some are fenced is
//! in [`former`](super::former) and [`append`](super::append).

use super::direct_get::Start;
use super::partition::Kept;
use super::requests::Publish;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};

/// How far one publish was looked for in a partition.
#[derive(Debug)]
pub(super) struct Search {
    /// Where to look next.
    pub(super) next: Start,
    /// In which stream.
    pub(super) kept: Kept,
    /// What is still on its way there would be stored a second time: nothing is asked before it has come.
    pub(super) is_fenced: bool,
    /// Where to look if it is not here: places of partitions, and from where on.
    pub(super) later: Vec<(usize, Start)>,
    pub(super) is_asked: bool,
}

impl Search {
    pub(super) fn new(next: Start, kept: Kept) -> Self {
        Self { next, kept, is_fenced: false, later: Vec::new(), is_asked: false }
    }
}

/// Searches kept in line that have ended, beside those there are.
const ENDED_MAX: usize = 64;

/// Those of one partition; see the module.
#[derive(Debug, Default)]
pub(super) struct Searches {
    all: BTreeMap<Publish, Search>,
    /// To be asked for, in order. Some may have ended.
    due: VecDeque<Publish>,
    /// The server could not say: nothing is asked before this.
    retry_at: Timestamp,
}

impl Searches {
    pub(super) fn push(&mut self, publish: Publish, search: Search) {
        if !search.is_fenced {
            self.due.push_back(publish);
        }
        self.all.insert(publish, search);
        // Publishes may be given up for as long as the partition is away.
        if self.due.len() > 2 * self.all.len() + ENDED_MAX {
            let Self { all, due, .. } = self;
            due.retain(|publish| all.contains_key(publish));
        }
    }

    pub(super) fn get(&self, publish: Publish) -> Option<&Search> {
        self.all.get(&publish)
    }

    /// What a stream has before `next` was looked through.
    pub(super) fn reach(&mut self, publish: Publish, next: Sequence) {
        if let Some(search) = self.all.get_mut(&publish) {
            search.next = Start::At(next);
        }
    }

    /// Places from `from` on are used again.
    pub(super) fn lose_from(&mut self, from: Sequence) {
        for search in self.all.values_mut().filter(|search| search.kept == Kept::Messages) {
            if let Start::At(next) = &mut search.next {
                *next = from.min(*next);
            }
        }
    }

    /// The next to be asked for, which counts as asked.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<(Publish, Start, Kept)> {
        if now < self.retry_at {
            return None;
        }
        while let Some(publish) = self.due.pop_front() {
            if let Some(search) = self.all.get_mut(&publish).filter(|one| !one.is_asked) {
                search.is_asked = true;
                return Some((publish, search.next, search.kept));
            }
        }
        None
    }

    /// There is more to look through.
    pub(super) fn ask_again(&mut self, publish: Publish) {
        if let Some(search) = self.all.get_mut(&publish) {
            search.is_asked = false;
            self.due.push_back(publish);
        }
    }

    /// The server could not say.
    pub(super) fn fail(&mut self, publish: Publish, retry_at: Timestamp) {
        self.retry_at = retry_at;
        self.ask_again(publish);
    }

    /// Nobody looks for it any more.
    pub(super) fn end(&mut self, publish: Publish) -> Option<Search> {
        self.all.remove(&publish)
    }

    /// Some wait for what is on its way to a stream.
    pub(super) fn has_fenced(&self, kept: Kept) -> bool {
        self.all.values().any(|search| search.is_fenced && search.kept == kept)
    }

    /// Nothing that was sent before is on its way to a stream any more.
    pub(super) fn unfence(&mut self, kept: Kept) {
        let Self { all, due, .. } = self;
        let fenced = all.iter_mut().filter(|(_, one)| one.is_fenced && one.kept == kept);
        for (publish, search) in fenced {
            search.is_fenced = false;
            due.push_back(*publish);
        }
    }

    /// The link is lost, and whatever was asked with it.
    pub(super) fn lose_answers(&mut self) {
        self.retry_at = Timestamp::START;
        self.due.clear();
        let Self { all, due, .. } = self;
        for (publish, search) in all {
            search.is_asked = false;
            if !search.is_fenced {
                due.push_back(*publish);
            }
        }
    }

    /// When [`Searches::take_due`] may have something.
    pub(super) fn next_timeout(&self) -> Timestamp {
        if self.due.is_empty() { Timestamp::NEVER } else { self.retry_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::jetstream::Token;

    const NOW: Timestamp = Timestamp(1_000);

    fn publish(token: u64) -> Publish {
        Publish { home: 0, token: Token(token) }
    }

    fn search(next: u64, kept: Kept, is_fenced: bool) -> Search {
        Search { is_fenced, ..Search::new(Start::At(Sequence(next)), kept) }
    }

    fn due(searches: &mut Searches, now: Timestamp) -> Vec<u64> {
        std::iter::from_fn(|| searches.take_due(now)).map(|(one, ..)| one.token.0).collect()
    }

    #[test]
    fn what_is_fenced_is_asked_for_when_its_stream_is_not_any_more() {
        let mut searches = Searches::default();
        searches.push(publish(1), search(1, Kept::Messages, true));
        searches.push(publish(2), search(1, Kept::Messages, false));
        searches.push(publish(3), search(1, Kept::Uplink, true));
        assert_eq!(due(&mut searches, NOW), [2]);
        assert_eq!(searches.next_timeout(), Timestamp::NEVER);
        searches.unfence(Kept::Messages);
        assert!(!searches.has_fenced(Kept::Messages) && searches.has_fenced(Kept::Uplink));
        assert_eq!(due(&mut searches, NOW), [1], "and not what is asked for already");
        searches.unfence(Kept::Uplink);
        assert_eq!(due(&mut searches, NOW), [3]);
    }

    #[test]
    fn what_is_given_up_while_nobody_can_be_asked_does_not_stay() {
        let mut searches = Searches::default();
        for token in 0..10_000 {
            searches.push(publish(token), search(1, Kept::Messages, false));
            assert!(searches.due.len() <= 2 * 2 + ENDED_MAX);
            if token > 0 {
                searches.end(publish(token));
            }
        }
        assert_eq!(due(&mut searches, NOW), [0]);
    }

    #[test]
    fn what_was_not_answered_is_asked_for_again() {
        let mut searches = Searches::default();
        for token in [1, 2, 3] {
            searches.push(publish(token), search(5, Kept::Messages, token == 3));
        }
        assert_eq!(due(&mut searches, NOW), [1, 2]);
        searches.fail(publish(1), Timestamp(1_250));
        assert_eq!((due(&mut searches, NOW), searches.next_timeout()), (vec![], Timestamp(1_250)));
        assert_eq!(due(&mut searches, Timestamp(1_250)), [1]);
        searches.reach(publish(2), Sequence(9));
        searches.ask_again(publish(2));
        searches.lose_from(Sequence(7));
        searches.lose_answers();
        assert!(searches.end(publish(1)).is_some());
        let next = searches.take_due(Timestamp(1_250));
        assert_eq!(next, Some((publish(2), Start::At(Sequence(7)), Kept::Messages)));
        assert_eq!(due(&mut searches, Timestamp(1_250)), [0; 0], "the last one is fenced still");
    }
}
