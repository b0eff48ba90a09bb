//! How long something took, counted by powers of two: adding one costs a shift and two additions.

use std::time::Duration;

/// Buckets with an upper bound; one more holds what is longer.
const BOUNDED: usize = 17;
/// The first bound is 2^6 = 64 microseconds, the last 2^22: 4.2 s.
const FIRST_SHIFT: u32 = 6;

/// Durations since the start, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDED + 1],
    sum_us: u64,
}

impl Histogram {
    /// Adds `count` durations of `micros` each.
    pub fn add(&mut self, micros: u64, count: u64) {
        // The lowest bucket whose bound is not below `micros`.
        let shift = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let place = (shift.saturating_sub(FIRST_SHIFT) as usize).min(BOUNDED);
        if let Some(bucket) = self.counts.get_mut(place) {
            *bucket += count;
        }
        self.sum_us = self.sum_us.saturating_add(micros.saturating_mul(count));
    }

    /// Adds everything in `other`.
    pub fn merge(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own += more;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// Each bound with how many are no longer than it, ascending; what is longer is in
    /// [`Histogram::count`] only.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        let bounds = (FIRST_SHIFT..).map(|shift| Duration::from_micros(1 << shift));
        bounds.zip(self.counts).take(BOUNDED).map(move |(bound, count)| {
            below += count;
            (bound, below)
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_lowest_bucket_that_holds_it() {
        for (micros, bound_us) in [
            (0, 64),
            (1, 64),
            (64, 64),
            (65, 128),
            (128, 128),
            (1_000, 1_024),
            (4_194_304, 4_194_304),
        ] {
            let mut histogram = Histogram::default();
            histogram.add(micros, 2);
            let first = histogram.cumulative().find(|(_, count)| *count > 0);
            assert_eq!(first, Some((Duration::from_micros(bound_us), 2)), "{micros}");
            assert_eq!(histogram.sum(), Duration::from_micros(2 * micros));
        }
    }

    #[test]
    fn what_is_longer_than_every_bound_is_counted() {
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX, 3);
        histogram.add(5, 1);
        assert_eq!(histogram.cumulative().last().map(|(_, count)| count), Some(1));
        assert_eq!(histogram.count(), 4);
        let mut twice = histogram;
        twice.merge(&histogram);
        assert_eq!(twice.count(), 8);
    }
}
