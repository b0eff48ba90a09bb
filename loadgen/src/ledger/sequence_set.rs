//! A set of sequence numbers that are nearly all there.

use std::collections::VecDeque;

const WORD_BITS: u64 = u64::BITS as u64;

/// Which of 0, 1, 2, ... are in; a bit each from the first missing one on, nothing below it.
///
/// Numbers that come roughly in order cost a few words, however many they are; after a loss the
/// set grows by a bit a number.
#[derive(Clone, Debug, Default)]
pub(crate) struct SequenceSet {
    /// Everything below is in; a multiple of [`WORD_BITS`].
    full_below: u64,
    /// Bits of `full_below` and up.
    words: VecDeque<u64>,
    /// Nothing below counts; a multiple of [`WORD_BITS`].
    base: u64,
    count: u64,
}

impl SequenceSet {
    /// How far above the first missing number the set reaches: 32 MiB of bits.
    pub(crate) const REACH: u64 = 1 << 28;

    /// A set of numbers from `first` on, rounded down: what is below is not kept.
    pub(crate) fn starting_at(first: u64) -> Self {
        let base = first - first % WORD_BITS;
        Self { full_below: base, base, ..Self::default() }
    }

    /// Puts `sequence` in.
    pub(crate) fn insert(&mut self, sequence: u64) -> Insertion {
        let Some(offset) = sequence.checked_sub(self.full_below) else {
            let before = sequence < self.base;
            return if before { Insertion::Before } else { Insertion::AlreadyIn };
        };
        if offset >= Self::REACH {
            return Insertion::OutOfReach;
        }
        let index = word_index(offset);
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let Some(word) = self.words.get_mut(index) else {
            return Insertion::OutOfReach;
        };
        let bit = 1 << (offset % WORD_BITS);
        if *word & bit != 0 {
            return Insertion::AlreadyIn;
        }
        *word |= bit;
        self.count += 1;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.full_below += WORD_BITS;
        }
        Insertion::New
    }

    /// Whether `sequence` is in.
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        let Some(offset) = sequence.checked_sub(self.full_below) else {
            return sequence >= self.base;
        };
        offset < Self::REACH
            && self
                .words
                .get(word_index(offset))
                .is_some_and(|word| word & (1 << (offset % WORD_BITS)) != 0)
    }

    /// How many are in.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

/// What [`SequenceSet::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// It was missing and is in now.
    New,
    /// It was in before.
    AlreadyIn,
    /// It is below where the set starts.
    Before,
    /// It is more than [`SequenceSet::REACH`] above the first missing number, and was not put in.
    OutOfReach,
}

/// The word of a number `offset` above the lowest; `offset` is below [`SequenceSet::REACH`].
fn word_index(offset: u64) -> usize {
    usize::try_from(offset / WORD_BITS).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_numbers_need_no_room() {
        let mut set = SequenceSet::default();
        for sequence in 0..100_000 {
            assert_eq!(set.insert(sequence), Insertion::New);
        }
        assert!(set.words.len() <= 1, "{} words", set.words.len());
        assert_eq!(set.count(), 100_000);
        assert!(set.contains(0) && set.contains(99_999) && !set.contains(100_000));
    }

    #[test]
    fn a_second_time_is_noticed_on_both_sides_of_the_full_part() {
        let mut set = SequenceSet::default();
        for sequence in (0..130).chain([200]) {
            set.insert(sequence);
        }
        for sequence in [0, 63, 64, 129, 200] {
            assert_eq!(set.insert(sequence), Insertion::AlreadyIn, "{sequence}");
        }
        assert_eq!(set.insert(199), Insertion::New);
        assert_eq!(set.count(), 132);
    }

    #[test]
    fn a_set_may_start_anywhere() {
        let mut set = SequenceSet::starting_at(1_000);
        assert_eq!(set.insert(959), Insertion::Before);
        assert!(!set.contains(959) && !set.contains(960));
        for sequence in 960..1_100 {
            assert_eq!(set.insert(sequence), Insertion::New);
        }
        assert_eq!(set.insert(960), Insertion::AlreadyIn);
        assert_eq!(set.count(), 140);
    }

    #[test]
    fn an_absurd_number_takes_no_memory() {
        let mut set = SequenceSet::default();
        assert_eq!(set.insert(u64::MAX), Insertion::OutOfReach);
        assert_eq!(set.insert(SequenceSet::REACH), Insertion::OutOfReach);
        assert!(set.words.is_empty() && !set.contains(u64::MAX));
    }
}
