//! Results: a table for people, JSON for programs.

use std::fmt::{self, Display, Formatter};

use gateway::proto::mqtt::QoS;
use serde::Serialize;

use crate::{
    args::BenchArguments,
    ledger::{Breach, Settlement},
    result::{Outcome, VerdictRecord},
    stats::TimesSummary,
    watch::Usage,
};

/// What a run says about the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The QoS contract was held.
    Held,
    /// It was broken.
    Broken(Breach),
    /// The run says nothing.
    Invalid(Invalidity),
}

/// Why a run says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Invalidity {
    /// The generator got round to too many messages too late.
    GeneratorLate,
    /// Connections ended that should not have.
    ConnectionsLost,
    /// Nothing was delivered in the measured window.
    NothingDelivered,
}

impl Verdict {
    /// The verdict on a run. A broken contract is one even if the generator was late.
    pub(crate) fn of(report: &BenchReport, ledger: &Settlement, qos: QoS, late_share: f64) -> Self {
        if let Some(breach) = ledger.breach(qos) {
            Self::Broken(breach)
        } else if report.connections_lost > 0 {
            Self::Invalid(Invalidity::ConnectionsLost)
        } else if ratio(report.late, report.due) > late_share {
            Self::Invalid(Invalidity::GeneratorLate)
        } else if report.delivered == 0 {
            Self::Invalid(Invalidity::NothingDelivered)
        } else {
            Self::Held
        }
    }

    /// What it comes to.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Held => Outcome::Held,
            Self::Broken(_) => Outcome::Broken,
            Self::Invalid(_) => Outcome::Invalid,
        }
    }
}

/// What a process used between two moments.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ProcessReport {
    /// User and system time, in steps of 10 ms.
    pub(crate) cpu_s: f64,
    /// Deliveries within the window by that.
    pub(crate) deliveries_per_cpu_s: f64,
    /// Microseconds of it a delivery.
    pub(crate) cpu_us_per_delivery: f64,
    /// Context switches.
    pub(crate) context_switches: u64,
    /// At the end.
    pub(crate) after: Usage,
}

impl ProcessReport {
    /// The difference of two usages, in which `deliveries` were made.
    pub(crate) fn between(before: &Usage, after: &Usage, deliveries: u64) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu);
        let cpu_s = cpu.as_secs_f64();
        let deliveries = as_f64(deliveries);
        Self {
            cpu_s,
            deliveries_per_cpu_s: if cpu_s > 0.0 { deliveries / cpu_s } else { 0.0 },
            cpu_us_per_delivery: if deliveries > 0.0 { cpu_s * 1e6 / deliveries } else { 0.0 },
            context_switches: after.context_switches.saturating_sub(before.context_switches),
            after: *after,
        }
    }
}

/// The result of `bench`.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport {
    /// What was run.
    pub(crate) workload: Workload,
    /// What it says.
    pub(crate) verdict: Verdict,
    /// Length of the measured window, seconds.
    pub(crate) window_s: f64,
    /// Messages sent within the window.
    pub(crate) published: u64,
    /// First deliveries within the window.
    pub(crate) delivered: u64,
    /// Messages the schedule wanted sent within the window; 0 when saturating.
    pub(crate) due: u64,
    /// Of those, how many the generator got round to late.
    pub(crate) late: u64,
    /// Messages never sent: the broker did not take them in time.
    pub(crate) held_at_the_end: u64,
    /// Connections that ended before they should.
    pub(crate) connections_lost: u64,
    /// The first faults of connections.
    pub(crate) faults: Vec<String>,
    /// From the intended send time to delivery.
    pub(crate) latency: TimesSummary,
    /// From the actual send time to delivery.
    pub(crate) latency_uncorrected: TimesSummary,
    /// From the intended send time to when the generator got round to it.
    pub(crate) lag: TimesSummary,
    /// Of the whole run.
    pub(crate) ledger: Settlement,
    /// The watched process, if one was.
    pub(crate) broker: Option<ProcessReport>,
    /// The generator itself.
    pub(crate) generator: ProcessReport,
}

/// The arguments a result depends on, named and documented as in [`BenchArguments`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    pub(crate) pattern: String,
    pub(crate) mqtt: String,
    pub(crate) qos: u8,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) payload_bytes: usize,
    /// `None`: saturating.
    pub(crate) rate_per_s: Option<u64>,
    pub(crate) window: u16,
    pub(crate) seconds: u64,
    pub(crate) warmup: u64,
    pub(crate) threads: u32,
}

impl BenchReport {
    /// A report of `arguments` in which nothing happened.
    pub(crate) fn new(arguments: &BenchArguments, threads: u32) -> Self {
        let nothing =
            TimesSummary { count: 0, p50_us: 0.0, p99_us: 0.0, p999_us: 0.0, max_us: 0.0 };
        Self {
            workload: Workload {
                pattern: format!("{:?}", arguments.pattern),
                mqtt: format!("{:?}", arguments.target.mqtt),
                qos: QoS::from(arguments.qos) as u8,
                publishers: arguments.publishers,
                subscribers: arguments.subscribers,
                payload_bytes: arguments.payload_bytes,
                rate_per_s: (!arguments.saturate).then_some(arguments.rate),
                window: arguments.window,
                seconds: arguments.seconds,
                warmup: arguments.warmup,
                threads,
            },
            verdict: Verdict::Invalid(Invalidity::NothingDelivered),
            window_s: 0.0,
            published: 0,
            delivered: 0,
            due: 0,
            late: 0,
            held_at_the_end: 0,
            connections_lost: 0,
            faults: Vec::new(),
            latency: nothing,
            latency_uncorrected: nothing,
            lag: nothing,
            ledger: Settlement::default(),
            broker: None,
            generator: ProcessReport::default(),
        }
    }
}

impl BenchReport {
    /// The verdict with its reasons, in sentences.
    pub(crate) fn verdict_record(&self) -> VerdictRecord {
        let reason = match self.verdict {
            Verdict::Held => None,
            Verdict::Broken(breach) => Some(self.ledger.sentence(breach)),
            Verdict::Invalid(Invalidity::GeneratorLate) => Some(format!(
                "the generator was late with {} of {} messages: give it more cores or less to do",
                self.late, self.due
            )),
            Verdict::Invalid(Invalidity::ConnectionsLost) => Some(format!(
                "{} connections were refused or ended before they should: {}",
                self.connections_lost,
                self.faults.first().map_or("no reason is known", String::as_str)
            )),
            Verdict::Invalid(Invalidity::NothingDelivered) => {
                Some("nothing was delivered in the measured time".to_owned())
            }
        };
        VerdictRecord { outcome: self.verdict.outcome(), reasons: reason.into_iter().collect() }
    }
}

impl Settlement {
    /// What was broken, in a sentence.
    pub(crate) fn sentence(&self, breach: Breach) -> String {
        match breach {
            Breach::Lost => format!(
                "{} of {} messages were lost, {} of them after the broker had acknowledged them",
                self.lost, self.owed, self.acknowledged_then_lost
            ),
            Breach::Reordered => {
                format!("{} messages came after a later one of their stream", self.reordered)
            }
            Breach::Duplicated => {
                format!("{} deliveries at QoS 2 had come before", self.duplicated)
            }
            Breach::Corrupted => format!("{} deliveries were corrupted", self.corrupted),
            Breach::Foreign => {
                format!("{} deliveries were not published or not asked for", self.foreign)
            }
            Breach::SessionLost => {
                format!("{} sessions were gone that the broker had to keep", self.sessions_lost)
            }
            Breach::WillWrong => format!(
                "{} wills never came, {} came that should not have",
                self.wills_missing, self.wills_unexpected
            ),
            Breach::RetainedWrong => {
                format!("{} topics do not have their last message retained", self.retained_wrong)
            }
        }
    }
}

impl Display for BenchReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let w = &self.workload;
        let rate = w.rate_per_s.map_or_else(|| "saturated".to_owned(), |rate| format!("{rate}/s"));
        writeln!(
            f,
            "{} {}:{} QoS {} {} B {rate} {}",
            w.pattern, w.publishers, w.subscribers, w.qos, w.payload_bytes, w.mqtt
        )?;
        let per_s = |count| as_f64(count) / self.window_s.max(f64::MIN_POSITIVE);
        line(f, "published", format_args!("{} ({:.0}/s)", self.published, per_s(self.published)))?;
        line(f, "delivered", format_args!("{} ({:.0}/s)", self.delivered, per_s(self.delivered)))?;
        line(f, "latency", format_args!("{}", self.latency))?;
        line(f, "  uncorrected", format_args!("{}", self.latency_uncorrected))?;
        line(f, "generator lag", format_args!("{}", self.lag))?;
        let (late, due, held) = (self.late, self.due, self.held_at_the_end);
        line(f, "schedule", format_args!("due {due}, late {late}, never sent {held}"))?;
        line(f, "ledger", format_args!("{}", self.ledger))?;
        if let Some(broker) = &self.broker {
            line(f, "broker", format_args!("{broker}"))?;
        }
        line(f, "generator", format_args!("{}", self.generator))?;
        if self.connections_lost > 0 {
            line(f, "connections", format_args!("{} lost", self.connections_lost))?;
        }
        for fault in &self.faults {
            line(f, "fault", format_args!("{fault}"))?;
        }
        line(f, "verdict", format_args!("{:?}", self.verdict))
    }
}

impl Display for TimesSummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )
    }
}

impl Display for Settlement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "owed {}, delivered {}, lost {} (acknowledged {}), duplicated {}, reordered {}, \
             corrupted {}, foreign {}, sessions lost {}, wills missing {}, unexpected {}, \
             retained wrong {}",
            self.owed,
            self.delivered,
            self.lost,
            self.acknowledged_then_lost,
            self.duplicated,
            self.reordered,
            self.corrupted,
            self.foreign,
            self.sessions_lost,
            self.wills_missing,
            self.wills_unexpected,
            self.retained_wrong
        )
    }
}

impl Display for ProcessReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} CPU-s, {:.0} deliveries per CPU-s ({:.2} us each), {} KiB RSS, {} fds, \
             {} context switches",
            self.cpu_s,
            self.deliveries_per_cpu_s,
            self.cpu_us_per_delivery,
            self.after.rss_bytes / 1024,
            self.after.fds,
            self.context_switches
        )
    }
}

/// One line of a table.
pub(crate) fn line(f: &mut Formatter<'_>, key: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "  {key:<16}{value}")
}

/// `count` as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts of a run stay far below 2^53")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { as_f64(part) / as_f64(whole) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn good_run() -> BenchReport {
        let Command::Bench(arguments) =
            Arguments::try_parse_from(["loadgen", "bench"]).unwrap().command
        else {
            panic!("bench was asked for");
        };
        BenchReport { due: 1_000, delivered: 1_000, ..BenchReport::new(&arguments, 1) }
    }

    #[track_caller]
    fn check(report: &BenchReport, ledger: &Settlement, qos: QoS, expected: Verdict, code: u8) {
        let verdict = Verdict::of(report, ledger, qos, 0.01);
        assert_eq!((verdict, verdict.outcome().exit_code()), (expected, code));
    }

    #[test]
    fn each_outcome_has_its_exit_code() {
        let clean = Settlement::default();
        check(&good_run(), &clean, QoS::AtLeastOnce, Verdict::Held, 0);
        let lossy = Settlement { lost: 1, ..Settlement::default() };
        check(&good_run(), &lossy, QoS::AtMostOnce, Verdict::Held, 0);
        check(&good_run(), &lossy, QoS::AtLeastOnce, Verdict::Broken(Breach::Lost), 2);
        let late = BenchReport { late: 11, ..good_run() };
        let invalid = Verdict::Invalid(Invalidity::GeneratorLate);
        check(&late, &clean, QoS::AtMostOnce, invalid, 3);
        check(&late, &lossy, QoS::AtLeastOnce, Verdict::Broken(Breach::Lost), 2);
        let idle = BenchReport { delivered: 0, ..good_run() };
        let nothing = Verdict::Invalid(Invalidity::NothingDelivered);
        check(&idle, &clean, QoS::AtMostOnce, nothing, 3);
    }

    #[test]
    fn efficiency_is_deliveries_by_cpu_time() {
        let before = Usage { cpu: Duration::from_secs(1), ..Usage::default() };
        let after = Usage { cpu: Duration::from_secs(3), ..Usage::default() };
        let report = ProcessReport::between(&before, &after, 100_000);
        assert!((report.deliveries_per_cpu_s - 50_000.0).abs() < 1e-6);
        assert!((report.cpu_us_per_delivery - 20.0).abs() < 1e-9);
        assert_eq!(ProcessReport::between(&before, &before, 5).deliveries_per_cpu_s.to_bits(), 0);
    }
}
