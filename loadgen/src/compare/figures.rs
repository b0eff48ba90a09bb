//! What is compared, and how: medians of figures, and ratios within a repetition.

use serde::Serialize;

use crate::{
    report::as_f64,
    result::{Outcome, Phase, Process, RunResult},
};

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    /// First deliveries a second.
    DeliveredPerS,
    /// First deliveries a CPU-second of the broker.
    DeliveredPerCpuS,
    /// Median latency, milliseconds.
    MedianMs,
    /// 99 % of the latencies are within, milliseconds.
    Within99Ms,
    /// Connections made a second.
    ConnectsPerS,
    /// CPU of the broker a connection made, microseconds.
    CpuUsPerConnect,
    /// Growth of the broker's resident memory a connection held, bytes.
    BytesPerConnection,
    /// The most resident memory, MiB.
    MemoryMib,
}

impl Figure {
    /// All, in the order of tables.
    pub(super) const ALL: [Self; 8] = [
        Self::DeliveredPerS,
        Self::DeliveredPerCpuS,
        Self::MedianMs,
        Self::Within99Ms,
        Self::ConnectsPerS,
        Self::CpuUsPerConnect,
        Self::BytesPerConnection,
        Self::MemoryMib,
    ];

    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeliveredPerS => "delivered/s",
            Self::DeliveredPerCpuS => "delivered/CPU-s",
            Self::MedianMs => "median latency, ms",
            Self::Within99Ms => "99 % within, ms",
            Self::ConnectsPerS => "connects/s",
            Self::CpuUsPerConnect => "CPU a connect, us",
            Self::BytesPerConnection => "bytes a connection",
            Self::MemoryMib => "peak memory, MiB",
        }
    }

    /// Whether more of it is better.
    pub(super) fn more_is_better(self) -> bool {
        matches!(self, Self::DeliveredPerS | Self::DeliveredPerCpuS | Self::ConnectsPerS)
    }
}

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RunFigures {
    /// What it says.
    pub(super) outcome: Outcome,
    /// Why not more.
    pub(super) reasons: Vec<String>,
    /// What there is; empty when the run did not hold: a figure of a broken contract is none.
    pub(super) values: Vec<(Figure, f64)>,
}

/// Middle and ends of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The median.
    pub(super) median: f64,
    /// The lowest.
    pub(super) low: f64,
    /// The highest.
    pub(super) high: f64,
    /// How many.
    pub(super) count: usize,
}

/// Figures of all runs: by scenario, broker, repetition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Comparison {
    /// The brokers; ratios are to the first.
    pub(super) brokers: Vec<String>,
    /// The scenarios, as given.
    pub(super) scenarios: Vec<String>,
    /// Runs of each with each.
    pub(super) repetitions: u32,
    /// The machine, in a line.
    pub(super) machine: String,
    /// When it began.
    pub(super) started_unix_ms: u64,
    cells: Vec<Vec<Vec<Option<RunFigures>>>>,
}

impl RunFigures {
    /// Those of a run.
    pub(super) fn of(result: &RunResult) -> Self {
        let (outcome, reasons) = (result.verdict.outcome, result.verdict.reasons.clone());
        let values = if outcome == Outcome::Held { values(result) } else { Vec::new() };
        Self { outcome, reasons, values }
    }

    /// Those of a run that could not be made.
    pub(super) fn failed(why: &str) -> Self {
        Self { outcome: Outcome::Invalid, reasons: vec![why.to_owned()], values: Vec::new() }
    }

    fn value(&self, figure: Figure) -> Option<f64> {
        self.values.iter().find(|(of, _)| *of == figure).map(|(_, value)| *value)
    }
}

fn values(result: &RunResult) -> Vec<(Figure, f64)> {
    let (totals, latency) = (&result.totals, &result.times.latency);
    let broker = result.broker();
    let mut values = Vec::new();
    let mut add = |figure: Figure, value: Option<f64>| {
        values.extend(value.filter(|value| value.is_finite() && *value > 0.0).map(|v| (figure, v)));
    };
    if totals.delivered > 0 {
        let measured = result.phases.iter().filter(|phase| phase.measured);
        let cpu_s = broker
            .and_then(|broker| measured.map(|phase| cpu_of(broker, phase)).sum::<Option<f64>>());
        add(Figure::DeliveredPerS, Some(as_f64(totals.delivered) / totals.measured_s));
        add(Figure::DeliveredPerCpuS, cpu_s.map(|cpu_s| as_f64(totals.delivered) / cpu_s));
        add(Figure::MedianMs, Some(latency.at_quantile_us(0.5) / 1e3));
        add(Figure::Within99Ms, Some(latency.at_quantile_us(0.99) / 1e3));
    } else {
        let made = result.phases.iter().filter(|phase| phase.measured && phase.connects > 0);
        let (mut connects, mut seconds, mut cpu_s) = (0, 0.0, Some(0.0));
        for phase in made {
            connects += phase.connects;
            seconds += phase.end_s - phase.start_s;
            cpu_s = cpu_s.zip(broker.and_then(|b| cpu_of(b, phase))).map(|(sum, more)| sum + more);
        }
        add(Figure::ConnectsPerS, Some(as_f64(connects) / seconds));
        add(Figure::CpuUsPerConnect, cpu_s.map(|cpu_s| cpu_s * 1e6 / as_f64(connects)));
        add(
            Figure::BytesPerConnection,
            broker.and_then(|broker| bytes_a_connection(result, broker)),
        );
    }
    let peak = broker.and_then(|broker| broker.points.iter().map(|point| point.rss_bytes).max());
    add(Figure::MemoryMib, peak.map(|peak| as_f64(peak) / 1_048_576.0));
    values
}

/// CPU-seconds of a process in a phase; `None` when nobody looked at its edges.
fn cpu_of(process: &Process, phase: &Phase) -> Option<f64> {
    let near = |at_s: f64| process.points.iter().find(|point| (point.at_s - at_s).abs() < 0.1);
    Some(near(phase.end_s)?.cpu_s - near(phase.start_s)?.cpu_s)
}

/// Growth of the first round: later ones use memory again.
fn bytes_a_connection(result: &RunResult, broker: &Process) -> Option<f64> {
    let hold = result.phases.iter().find(|phase| phase.name == "hold")?;
    let connects: u64 =
        result.phases.iter().take_while(|phase| phase.name != "hold").map(|p| p.connects).sum();
    let start = broker.points.first()?;
    let held = broker.points.iter().rfind(|point| point.at_s <= hold.end_s + 0.1)?;
    Some((as_f64(held.rss_bytes) - as_f64(start.rss_bytes)) / as_f64(connects.max(1)))
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = values.get((values.len() - 1) / 2).copied()?;
        Some(Self { median: f64::midpoint(lower, upper), low, high, count: values.len() })
    }
}

impl Comparison {
    /// Of nothing yet.
    pub(super) fn new(brokers: Vec<String>, scenarios: Vec<String>, repetitions: u32) -> Self {
        let runs = vec![None; repetitions as usize];
        let cells = vec![vec![runs; brokers.len()]; scenarios.len()];
        Self { brokers, scenarios, repetitions, machine: String::new(), started_unix_ms: 0, cells }
    }

    /// Takes from the first run where and when it was.
    pub(super) fn describe(&mut self, result: &RunResult) {
        if let (true, Some(host)) = (self.machine.is_empty(), result.hosts.first()) {
            self.machine = format!(
                "{} cores of {}, {} GiB, Linux {}",
                host.cores,
                host.cpu,
                host.memory_bytes >> 30,
                host.kernel
            );
            self.started_unix_ms = result.run.started_unix_ms;
        }
    }

    /// Enters a run.
    pub(super) fn add(&mut self, scenario: usize, broker: usize, repetition: u32, run: RunFigures) {
        let cell = self.cells.get_mut(scenario).and_then(|brokers| brokers.get_mut(broker));
        if let Some(slot) = cell.and_then(|runs| runs.get_mut(repetition as usize)) {
            *slot = Some(run);
        }
    }

    /// The runs of a scenario with a broker, by repetition.
    fn runs(&self, scenario: usize, broker: usize) -> &[Option<RunFigures>] {
        self.cells.get(scenario).and_then(|brokers| brokers.get(broker)).map_or(&[], Vec::as_slice)
    }

    /// A figure over the runs that held.
    pub(super) fn spread(&self, scenario: usize, broker: usize, figure: Figure) -> Option<Spread> {
        let runs = self.runs(scenario, broker).iter().flatten();
        Spread::of(runs.filter_map(|run| run.value(figure)).collect())
    }

    /// How many times better than the first broker, in repetitions in which both held. Where less
    /// is better it is turned round, so that above 1 is always the better.
    pub(super) fn ratio(&self, scenario: usize, broker: usize, figure: Figure) -> Option<Spread> {
        let pairs = self.runs(scenario, broker).iter().zip(self.runs(scenario, 0));
        let ratio = |(run, base): (&Option<RunFigures>, &Option<RunFigures>)| {
            let (value, base) = (run.as_ref()?.value(figure)?, base.as_ref()?.value(figure)?);
            Some(if figure.more_is_better() { value / base } else { base / value })
        };
        Spread::of(pairs.filter_map(ratio).collect())
    }

    /// Runs that did not hold: how many were broken, how many said nothing, and the first reason.
    pub(super) fn failures(&self, scenario: usize, broker: usize) -> (usize, usize, Option<&str>) {
        let runs = || self.runs(scenario, broker).iter().flatten();
        let count = |outcome| runs().filter(|run| run.outcome == outcome).count();
        let reason =
            runs().filter(|run| run.outcome != Outcome::Held).find_map(|run| run.reasons.first());
        (count(Outcome::Broken), count(Outcome::Invalid), reason.map(String::as_str))
    }

    /// Runs made so far.
    pub(super) fn made(&self) -> usize {
        self.cells.iter().flatten().flatten().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outcome: Outcome, values: &[(Figure, f64)]) -> RunFigures {
        RunFigures { outcome, reasons: vec!["because".to_owned()], values: values.to_vec() }
    }

    #[test]
    fn a_median_has_its_ends() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        let of = |median, low, high, count| Some(Spread { median, low, high, count });
        assert_eq!(spread(&[3.0, 1.0, 2.0]), of(2.0, 1.0, 3.0, 3));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), of(2.5, 1.0, 4.0, 4));
    }

    #[test]
    fn ratios_are_of_the_same_repetition_and_above_1_is_better() {
        let mut comparison =
            Comparison::new(vec!["a".to_owned(), "b".to_owned()], vec!["bench".to_owned()], 3);
        // The machine gets slower and slower; b is always twice as good.
        for (repetition, speed) in [(0, 8.0), (1, 4.0), (2, 2.0)] {
            let figures = |factor: f64| {
                [
                    (Figure::DeliveredPerCpuS, speed * factor),
                    (Figure::Within99Ms, 16.0 / speed / factor),
                ]
            };
            comparison.add(0, 0, repetition, run(Outcome::Held, &figures(1.0)));
            comparison.add(0, 1, repetition, run(Outcome::Held, &figures(2.0)));
        }
        for figure in [Figure::DeliveredPerCpuS, Figure::Within99Ms] {
            let ratio = comparison.ratio(0, 1, figure).unwrap();
            assert_eq!(ratio, Spread { median: 2.0, low: 2.0, high: 2.0, count: 3 });
        }
        assert_eq!(
            comparison.spread(0, 1, Figure::DeliveredPerCpuS).unwrap().low.to_bits(),
            4.0_f64.to_bits()
        );
        assert_eq!(comparison.made(), 6);
    }

    #[test]
    fn a_broken_run_counts_as_one_and_gives_no_ratio() {
        let mut comparison =
            Comparison::new(vec!["a".to_owned(), "b".to_owned()], vec!["bench".to_owned()], 2);
        comparison.add(0, 0, 0, run(Outcome::Held, &[(Figure::MedianMs, 1.0)]));
        comparison.add(0, 1, 0, run(Outcome::Broken, &[]));
        comparison.add(0, 1, 1, RunFigures::failed("nobody is there"));
        assert_eq!(comparison.ratio(0, 1, Figure::MedianMs), None);
        assert_eq!(comparison.failures(0, 1), (1, 1, Some("because")));
        assert_eq!(comparison.failures(0, 0), (0, 0, None));
    }
}
