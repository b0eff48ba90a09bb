//! A token bucket: so much a second, with a second's worth at once.

use super::time::Timestamp;

/// What may be taken, in thousandths. Below zero is what was taken beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    tokens: i64,
    at: Timestamp,
}

/// One token.
const ONE: i64 = 1_000;

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(rate: u32, now: Timestamp) -> Self {
        Self { tokens: i64::from(rate) * ONE, at: now }
    }

    /// Milliseconds until one may be taken, 0 for now. `rate` is not 0.
    pub fn wait_ms(&mut self, rate: u32, now: Timestamp) -> u64 {
        let earned = now.millis_since(self.at).min(u64::from(u32::MAX)).saturating_mul(rate.into());
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(earned).min(i64::from(rate) * ONE);
        self.at = self.at.max(now);
        let missing = u64::try_from(ONE - self.tokens).unwrap_or(0);
        missing.div_ceil(u64::from(rate.max(1)))
    }

    /// Takes `count`, whatever is there: what is larger than a second's worth passes, and is paid for
    /// by those behind it.
    pub fn take(&mut self, count: u32) {
        self.tokens = self.tokens.saturating_sub(i64::from(count) * ONE);
    }

    /// Takes one if it is there.
    pub fn try_take(&mut self, rate: u32, now: Timestamp) -> bool {
        let is_there = self.wait_ms(rate, now) == 0;
        if is_there {
            self.take(1);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_its_rate_and_a_second_at_once() {
        for rate in [1, 10, 999, 5_000] {
            let mut bucket = Bucket::full(rate, Timestamp(0));
            let mut taken = 0;
            for ms in 0..10_000 {
                while bucket.try_take(rate, Timestamp(ms)) {
                    taken += 1;
                }
            }
            let expected = 11 * rate;
            assert!(taken <= expected && taken + rate / 100 + 1 >= expected, "{rate}: {taken}");
        }
    }

    #[test]
    fn what_is_larger_than_all_passes_and_is_paid_for() {
        let mut bucket = Bucket::full(100, Timestamp(0));
        assert_eq!(bucket.wait_ms(100, Timestamp(0)), 0);
        bucket.take(1_000);
        assert_eq!(bucket.wait_ms(100, Timestamp(0)), 9_010);
        assert_eq!(bucket.wait_ms(100, Timestamp(9_009)), 1);
        assert!(bucket.try_take(100, Timestamp(9_010)));
    }
}
