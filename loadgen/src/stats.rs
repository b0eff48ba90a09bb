//! Latency and lag in histograms of three significant digits, values in nanoseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::payload::Stamp;

/// The longest time told apart: 10 minutes; longer ones count as that.
const LONGEST_NS: u64 = 600_000_000_000;
/// The shortest time told apart.
const SHORTEST_NS: u64 = 1_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Times of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    /// No times yet.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, SIGNIFICANT_DIGITS)
            .expect("the bounds above are in the order hdrhistogram asks for");
        Self(histogram)
    }

    /// Adds a time.
    pub(crate) fn record_ns(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Adds all times of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both histograms have the bounds of Times::new");
    }

    /// How many times there are above `limit_ns`, within the precision of the histogram.
    pub(crate) fn count_above(&self, limit_ns: u64) -> u64 {
        self.0.count_between(limit_ns.saturating_add(1), u64::MAX)
    }

    /// The figures to report.
    pub(crate) fn summary(&self) -> TimesSummary {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        TimesSummary {
            count: self.0.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
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
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    /// From the intended send time to the delivery: what a user of the broker waits.
    pub(crate) latency: Times,
    /// From the actual send time to the delivery: hides the wait of what was sent late.
    pub(crate) latency_uncorrected: Times,
    /// From the intended send time to the moment the generator got round to it, for messages that
    /// nothing but the generator held up.
    pub(crate) lag: Times,
}

impl Stats {
    /// No times yet.
    pub(crate) fn new() -> Self {
        Self { latency: Times::new(), latency_uncorrected: Times::new(), lag: Times::new() }
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
    fn merging_adds_counts() {
        let mut stats = Stats::new();
        stats.lag.record_ns(1_000_000);
        let mut other = Stats::new();
        other.lag.record_ns(3_000_000);
        stats.merge(&other);
        assert_eq!(stats.lag.summary().count, 2);
    }
}
