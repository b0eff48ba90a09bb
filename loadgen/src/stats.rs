//! Latency and lag in histograms of three significant digits, values in nanoseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::payload::Stamp;

/// The longest time told apart: 10 minutes; longer ones count as that.
const LONGEST_NS: u64 = 600_000_000_000;
/// The shortest time told apart.
const SHORTEST_NS: u64 = 1_000;
/// Digits of [`Times::new`] and of [`Times::coarse`].
const DIGITS: [u8; 2] = [3, 2];

/// Times of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl Times {
    /// No times yet, told apart to 0.1 %.
    pub(crate) fn new() -> Self {
        Self::with_digits(DIGITS[0])
    }

    /// No times yet, told apart to 1 %, in an eighth of the memory: for one second of many.
    pub(crate) fn coarse() -> Self {
        Self::with_digits(DIGITS[1])
    }

    fn with_digits(digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, digits)
            .expect("the bounds above are in the order hdrhistogram asks for");
        Self(histogram)
    }

    /// The times in `histogram`, of nanoseconds.
    ///
    /// # Errors
    ///
    /// A sentence, when it has other bounds than this program writes: it could not be merged.
    pub(crate) fn from_histogram(histogram: Histogram<u64>) -> Result<Self, &'static str> {
        let bounds = (histogram.low(), histogram.high());
        if bounds == (SHORTEST_NS, LONGEST_NS) && DIGITS.contains(&histogram.sigfig()) {
            Ok(Self(histogram))
        } else {
            Err("a histogram with other bounds than loadgen's")
        }
    }

    /// All of it.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Adds a time.
    pub(crate) fn record_ns(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Adds all times of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("every histogram here has the same bounds");
    }

    /// How many times there are above `limit_ns`, within the precision of the histogram.
    pub(crate) fn count_above(&self, limit_ns: u64) -> u64 {
        self.0.count_between(limit_ns.saturating_add(1), u64::MAX)
    }

    /// How many times there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `quantile` (0 to 1) of them do not exceed, microseconds; 0 if there are none.
    pub(crate) fn at_quantile_us(&self, quantile: f64) -> f64 {
        micros(self.0.value_at_quantile(quantile))
    }

    /// The shortest, microseconds; 0 if there are none.
    pub(crate) fn min_us(&self) -> f64 {
        micros(self.0.min())
    }

    /// The longest, microseconds; 0 if there are none.
    pub(crate) fn max_us(&self) -> f64 {
        micros(self.0.max())
    }

    /// Their mean, microseconds; 0 if there are none.
    pub(crate) fn mean_us(&self) -> f64 {
        self.0.mean() / 1_000.0
    }

    /// The time by which `count` of them had come, seconds; `None` if fewer came at all.
    pub(crate) fn time_of_count_s(&self, count: u64) -> Option<f64> {
        let mut so_far = 0;
        let bins = self.0.iter_recorded();
        let mut reached = bins.filter(|bin| {
            so_far += bin.count_since_last_iteration();
            so_far >= count
        });
        // The highest value of a bin may be above the highest recorded.
        let nanos = reached.next()?.value_iterated_to().min(self.0.max());
        Some(micros(nanos) / 1e6)
    }

    /// The figures to report.
    pub(crate) fn summary(&self) -> TimesSummary {
        let at = |quantile| self.at_quantile_us(quantile);
        TimesSummary {
            count: self.count(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.max_us(),
        }
    }
}

/// Figures of a [`Times`], in microseconds; 0 when there are none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct TimesSummary {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// The times a run measures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    /// From the intended send time to the delivery: what a user of the broker waits.
    pub(crate) latency: Times,
    /// From the actual send time to the delivery: hides the wait of what was sent late.
    pub(crate) latency_uncorrected: Times,
    /// From the actual send time to the acknowledgement of the broker.
    pub(crate) acknowledgement: Times,
    /// From the start of a connection to when it is ready.
    pub(crate) connect: Times,
    /// From the intended send time to the moment the generator got round to it, for messages that
    /// nothing but the generator held up.
    pub(crate) lag: Times,
}

impl Stats {
    /// No times yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds the delivery of a message at `now_ns`.
    pub(crate) fn delivered(&mut self, stamp: &Stamp, now_ns: u64) {
        self.latency.record_ns(now_ns.saturating_sub(stamp.intended_ns));
        self.latency_uncorrected.record_ns(now_ns.saturating_sub(stamp.sent_ns));
    }

    /// Adds all times of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.latency_uncorrected.merge(&other.latency_uncorrected);
        self.acknowledgement.merge(&other.acknowledgement);
        self.connect.merge(&other.connect);
        self.lag.merge(&other.lag);
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most LONGEST_NS, below 2^53")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(got_us: f64, expected_us: f64) {
        assert!((got_us - expected_us).abs() <= expected_us / 500.0, "{got_us} for {expected_us}");
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut times = Times::new();
        for micros in 1..=1_000 {
            times.record_ns(micros * 1_000);
        }
        let summary = times.summary();
        assert_eq!(summary.count, 1_000);
        assert_near(summary.p50_us, 500.0);
        assert_near(summary.p99_us, 990.0);
        assert_near(summary.p999_us, 999.0);
        assert_near(summary.max_us, 1_000.0);
    }

    #[test]
    fn counts_what_is_above_a_limit() {
        let mut times = Times::new();
        for millis in [1, 5, 10, 20, 700_000] {
            times.record_ns(millis * 1_000_000);
        }
        assert_eq!(times.count_above(11_000_000), 2);
        assert_eq!(times.count_above(0), 5);
    }

    #[test]
    fn a_message_sent_late_has_the_longer_corrected_latency() {
        let mut stats = Stats::new();
        let stamp = Stamp {
            publisher: 0,
            epoch: 0,
            sequence: 0,
            intended_ns: 1_000_000,
            sent_ns: 51_000_000,
        };
        stats.delivered(&stamp, 52_000_000);
        assert_near(stats.latency.summary().max_us, 51_000.0);
        assert_near(stats.latency_uncorrected.summary().max_us, 1_000.0);
    }

    #[test]
    fn tells_when_so_many_had_come() {
        let mut times = Times::new();
        for seconds in [1, 1, 2, 7] {
            times.record_ns(seconds * 1_000_000_000);
        }
        let at = |count| times.time_of_count_s(count).map(f64::round);
        assert_eq!([at(2), at(3), at(4), at(5)], [Some(1.0), Some(2.0), Some(7.0), None]);
        assert_eq!(Times::new().time_of_count_s(1), None);
    }

    #[test]
    fn merging_adds_counts() {
        let mut stats = Stats::new();
        stats.lag.record_ns(1_000_000);
        let mut other = Stats::new();
        other.lag.record_ns(3_000_000);
        stats.merge(&other);
        assert_eq!(stats.lag.summary().count, 2);
    }
}
