//! How long to wait before the next attempt: exponential, with full jitter.

use std::time::Duration;

/// The waits between attempts to connect, or to publish again.
///
/// The n-th wait is drawn evenly from 1 ms to `base` doubled n times, at most `max`. Even from
/// the bottom, so that a thousand links that lost the same server do not come back together.
/// The draws follow from the seed: the same seed waits the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base_ms: u64,
    max_ms: u64,
    attempt_count: u32,
    state: u64,
}

impl Backoff {
    /// Waits that start at up to `base` and grow to up to `max`; both at least 1 ms.
    #[must_use]
    pub fn new(base: Duration, max: Duration, seed: u64) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let base_ms = millis(base).max(1);
        Self { base_ms, max_ms: millis(max).max(base_ms), attempt_count: 0, state: seed }
    }

    /// How long to wait now, one attempt having failed.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self.base_ms.checked_shl(self.attempt_count).unwrap_or(u64::MAX);
        // A shift that drops bits is smaller than what was shifted.
        let is_whole = doubled >> self.attempt_count.min(63) == self.base_ms;
        let ceiling_ms = if is_whole { doubled.min(self.max_ms) } else { self.max_ms };
        self.attempt_count = self.attempt_count.saturating_add(1);
        Duration::from_millis(1 + self.draw() % ceiling_ms)
    }

    /// Starts again from the shortest wait: an attempt succeeded and has lasted.
    pub fn reset(&mut self) {
        self.attempt_count = 0;
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014): one addition and two multiplications.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(10), seed)
    }

    #[test]
    fn waits_grow_to_the_longest_and_are_spread_evenly() {
        let mut ceilings = [0; 12];
        let mut sums = [0; 12];
        for seed in 0..1_000 {
            let mut backoff = backoff(seed);
            for (ceiling, sum) in ceilings.iter_mut().zip(&mut sums) {
                let wait_ms = backoff.next_wait().as_millis();
                assert!(wait_ms >= 1);
                *ceiling = wait_ms.max(*ceiling);
                *sum += wait_ms;
            }
        }
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000];
        for (attempt, ceiling_ms) in expected.into_iter().enumerate() {
            let (highest, mean) = (ceilings[attempt], sums[attempt] / 1_000);
            assert!(highest <= ceiling_ms && highest > ceiling_ms * 95 / 100, "{attempt}");
            assert!(mean.abs_diff(ceiling_ms / 2) < ceiling_ms / 20, "{attempt}: {mean}");
        }
    }

    #[test]
    fn the_same_seed_waits_the_same_and_a_reset_starts_again() {
        let waits = |seed| {
            let mut backoff = backoff(seed);
            std::array::from_fn::<_, 5, _>(|_| backoff.next_wait())
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
        let mut backoff = backoff(7);
        let longest = (0..10_000).map(|_| backoff.next_wait()).max();
        assert!(longest <= Some(Duration::from_secs(10)));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }

    #[test]
    fn any_durations_will_do() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::ZERO, 0);
        assert!(backoff.next_wait() >= Duration::from_millis(1));
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO, 0);
        (0..100).for_each(|_| assert_eq!(backoff.next_wait(), Duration::from_millis(1)));
    }
}
