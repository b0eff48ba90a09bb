//! The text format of Prometheus. Source: Prometheus, "Exposition formats", version 0.0.4.

use crate::proto::histogram::Histogram;
use std::fmt::{Display, Write as _};

/// What a family's values are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Only rises, from the start of the process on.
    Counter,
    /// May fall.
    Gauge,
    /// Durations in buckets, seconds.
    Histogram,
}

/// Text that grows family by family.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
}

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a dyn Display)];

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        debug_assert!(!help.contains(['\n', '\\']), "it would have to be escaped");
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value of the family.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, &value);
    }

    /// One histogram of the family.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            self.line("_bucket", labels, Some(&bound.as_secs_f64()), &count);
        }
        self.line("_bucket", labels, Some(&"+Inf"), &histogram.count());
        self.line("_sum", labels, None, &histogram.sum().as_secs_f64());
        self.line("_count", labels, None, &histogram.count());
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        bound: Option<&dyn Display>,
        value: &dyn Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            let value = escaped(&value.to_string());
            self.put(format_args!("{before}{name}=\"{value}\""));
            before = ',';
        }
        let end = if before == '{' { "" } else { "}" };
        self.put(format_args!("{end} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a string does not fail");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let mut exposition = Exposition::default();
        exposition.family("a_total", Kind::Counter, "Things.");
        exposition.sample(&[], 3);
        exposition.sample(&[("shard", &0), ("name", &"a \"b\"\\\n")], 4);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
                        a_total{shard=\"0\",name=\"a \\\"b\\\"\\\\\\n\"} 4\n";
        assert_eq!(exposition.into_text(), expected);
    }

    #[test]
    fn a_histogram_has_its_bounds_in_seconds() {
        let (mut exposition, mut histogram) = (Exposition::default(), Histogram::default());
        histogram.add(100, 2);
        histogram.add(10_000_000, 1);
        exposition.family("a_seconds", Kind::Histogram, "Time.");
        exposition.histogram(&[("shard", &1)], &histogram);
        let text = exposition.into_text();
        for line in [
            "a_seconds_bucket{shard=\"1\",le=\"0.000064\"} 0",
            "a_seconds_bucket{shard=\"1\",le=\"0.000128\"} 2",
            "a_seconds_bucket{shard=\"1\",le=\"4.194304\"} 2",
            "a_seconds_bucket{shard=\"1\",le=\"+Inf\"} 3",
            "a_seconds_sum{shard=\"1\"} 10.0002",
            "a_seconds_count{shard=\"1\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
