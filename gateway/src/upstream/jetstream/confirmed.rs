//! How far a feed is known to be complete where the leader may change.
//!
//! Only the leader republishes. When another takes over, what the old one had stored and not yet sent
//! is sent by nobody, while messages, acknowledgements and marks of the new one come over the old
//! link: they raise the feed past what is missing. So the feed counts as complete only up to where it
//! was at a look at the leader that was followed by another, with the same leader and the same link; a
//! new link reads on from there, and what was given to the shard before is not given again.

use crate::proto::partition::Sequence;
use std::collections::BTreeSet;

/// See the module. For streams with replicas only.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    /// Everything below was given.
    below: Sequence,
    /// Where the feed was at the last look, if it was at this link's server that led.
    seen: Option<Sequence>,
    /// What was given and is not below: a second or two of messages.
    given: BTreeSet<Sequence>,
}

impl Confirmed {
    /// The leader was looked at while the feed was at `fed`, and had stored up to `last`; `is_linked`
    /// if the link is to it.
    pub(super) fn look(&mut self, fed: Sequence, last: Sequence, is_linked: bool) {
        if !is_linked {
            self.seen = None;
            return;
        }
        if let Some(seen) = self.seen.replace(fed) {
            // A shard that is late with looks may be further by then than the leader was.
            self.below = seen.min(last.next()).max(self.below);
            self.given = self.given.split_off(&self.below);
        }
    }

    /// A message is to be given to the shard; false if it was before.
    pub(super) fn give(&mut self, sequence: Sequence) -> bool {
        if sequence < self.below || !self.given.insert(sequence) {
            return false;
        }
        // Nobody looks at the leader any more: what is oldest counts as complete.
        if self.given.len() > GIVEN_MAX
            && let Some(oldest) = self.given.pop_first()
        {
            self.below = oldest.next();
        }
        true
    }

    /// Whether a message was given to the shard, or counts as given.
    pub(super) fn was_given(&self, sequence: Sequence) -> bool {
        sequence < self.below || self.given.contains(&sequence)
    }

    /// A new link: from where to read, the feed having been at `fed`.
    pub(super) fn go_back(&mut self, fed: Sequence) -> Sequence {
        self.seen = None;
        if self.below == Sequence::ZERO {
            // Nothing was ever confirmed: what came before is nobody's.
            self.below = fed;
        }
        self.below.min(fed)
    }

    /// The feed begins at `fed`: what came before is nobody's.
    pub(super) fn begin(&mut self, fed: Sequence) {
        self.below = fed;
    }

    /// Places from `from` on are used again: nothing of what is there was given.
    pub(super) fn lose_from(&mut self, from: Sequence) {
        self.below = from.min(self.below);
        self.seen = None;
        self.given.split_off(&from);
    }

    /// Nothing from here on was given.
    pub(super) fn given_to(&self) -> Sequence {
        self.given.last().map_or(self.below, |last| last.next().max(self.below))
    }

    /// Everything below is complete.
    #[must_use]
    pub(super) fn below(&self) -> Sequence {
        self.below
    }
}

/// Messages remembered; some 16 MB.
const GIVEN_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_looks_in_a_row_at_the_same_link_confirm() {
        let mut confirmed = Confirmed::default();
        assert_eq!(confirmed.go_back(Sequence(5)), Sequence(5));
        for sequence in [6, 8, 12] {
            assert!(confirmed.give(Sequence(sequence)));
        }
        confirmed.look(Sequence(9), Sequence(20), true);
        assert_eq!(confirmed.below(), Sequence(5));
        confirmed.look(Sequence(13), Sequence(20), true);
        assert_eq!(confirmed.below(), Sequence(9));
        assert_eq!(confirmed.given.iter().map(|one| one.0).collect::<Vec<_>>(), [12]);
        confirmed.look(Sequence(20), Sequence(20), false);
        confirmed.look(Sequence(21), Sequence(21), true);
        assert_eq!(confirmed.below(), Sequence(9), "another led between");
        assert_eq!(confirmed.go_back(Sequence(21)), Sequence(9));
        assert!(!confirmed.give(Sequence(12)), "it was given before");
        assert!(!confirmed.give(Sequence(8)), "it is below");
        assert!(confirmed.give(Sequence(10)), "it was missed");
        assert_eq!(confirmed.given_to(), Sequence(13), "however far the feed went back");
        confirmed.look(Sequence(30), Sequence(24), true);
        assert_eq!(confirmed.below(), Sequence(9), "the first look at the new link");
        confirmed.look(Sequence(30), Sequence(24), true);
        assert_eq!(confirmed.below(), Sequence(25), "the leader was not further when it said so");
        assert!(confirmed.was_given(Sequence(24)) && !confirmed.was_given(Sequence(25)));
        confirmed.give(Sequence(26));
        confirmed.lose_from(Sequence(26));
        assert!(confirmed.was_given(Sequence(24)) && confirmed.give(Sequence(26)), "another one");
    }
}
