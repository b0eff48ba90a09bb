//! From measured runs to what things cost: CPU and memory, each with its interval and its range.

use std::collections::BTreeSet;

use serde::Serialize;

use super::fit::{self, Fit, FitError, Observation};
use crate::{
    report::as_f64,
    result::{Group, Outcome, Phase, RunResult},
};

/// Something that costs CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// Being there: a gateway with nothing to do.
    Idle,
    /// A connection made: TCP, CONNECT, and SUBSCRIBE where there is one.
    Connect,
    /// A PINGREQ answered.
    Ping,
    /// A message taken at this QoS.
    MessageIn(u8),
    /// A message delivered at this QoS.
    MessageOut(u8),
}

impl Work {
    /// In words.
    pub(super) fn name(self) -> String {
        match self {
            Self::Idle => "a gateway that idles".to_owned(),
            Self::Connect => "a connect".to_owned(),
            Self::Ping => "a ping".to_owned(),
            Self::MessageIn(qos) => format!("a message in, QoS {qos}"),
            Self::MessageOut(qos) => format!("a message out, QoS {qos}"),
        }
    }

    /// The runs that tell what it costs.
    pub(super) fn how_to_measure(self) -> String {
        let target = "--target ADDRESS --watch-pid PID --out DIR";
        match self {
            Self::Idle => format!("loadgen idle --connections 100 --seconds 20 {target}"),
            Self::Connect => {
                format!("loadgen storm {target}, with --connections 2000, 5000 and 10000")
            }
            Self::Ping => format!(
                "loadgen idle --keep-alive-s 2 --seconds 20 {target}, with --connections 2000 and 10000"
            ),
            Self::MessageIn(qos) | Self::MessageOut(qos) => format!(
                "loadgen bench --qos {qos} {target}, with --pattern one-to-one, --pattern fan-in \
                 --subscribers 1 and --pattern fan-out --publishers 1, each at two rates"
            ),
        }
    }
}

/// What a run shows of CPU in one of its phases.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CpuWindow {
    /// Times a second each kind of work was done; [`Work::Idle`] is 1.
    pub(super) rates: Vec<(Work, f64)>,
    /// Cores busy.
    pub(super) cores: f64,
    /// How long, seconds.
    pub(super) seconds: f64,
}

/// What a run shows of memory at the end of one of its phases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MemoryPoint {
    /// Connections that stand.
    pub(super) connections: f64,
    /// Their subscriptions.
    pub(super) subscriptions: f64,
    /// Messages had been published by then.
    pub(super) had_messages: bool,
    /// Resident memory of the broker, bytes.
    pub(super) user_bytes: f64,
    /// Growth of the kernel's memory since the run began, bytes; none where the broker is on
    /// another machine.
    pub(super) kernel_bytes: Option<f64>,
}

/// All that was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// CPU.
    pub(super) cpu: Vec<CpuWindow>,
    /// Memory.
    pub(super) memory: Vec<MemoryPoint>,
    /// Payloads that were measured, bytes.
    pub(super) payload_bytes: BTreeSet<u64>,
    /// What connections ran over: `tcp`, `tls`.
    pub(super) transports: BTreeSet<String>,
    /// The fastest mass reconnect: connects a second until 99 % were back.
    pub(super) storm_connects_max: f64,
}

/// A coefficient with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Coefficient {
    /// What costs.
    pub(super) of: String,
    /// Its value.
    pub(super) value: f64,
    /// Half of its 95 % confidence interval.
    pub(super) half_width: f64,
    /// In what: `CPU us`, `bytes`, `cores`.
    pub(super) unit: &'static str,
    /// The measured range of what it is multiplied with, lowest above 0 to highest.
    pub(super) measured: (f64, f64),
    /// Observations in which it took part.
    pub(super) observations: usize,
    /// Whether it came out below 0 and was taken as 0, which the interval allows.
    pub(super) taken_as_zero: bool,
}

/// Fits of CPU and memory.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// The kinds of work that were measured, in the order of the fit.
    pub(super) works: Vec<Work>,
    cpu: Fit,
    /// As `works`.
    pub(super) cpu_coefficients: Vec<Coefficient>,
    user: Fit,
    with_subscriptions: bool,
    messages_bytes: f64,
    kernel: Option<Fit>,
    /// Of memory: base, connection, subscription and messages if they were measured, then the kernel's.
    pub(super) memory_coefficients: Vec<Coefficient>,
}

/// What is missing, and which run gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// What cannot be told.
    pub(super) what: String,
    /// Why.
    pub(super) why: String,
    /// What to run.
    pub(super) run: String,
}

/// A phase shorter than this says nothing of memory or of a steady load.
const STEADY_S: f64 = 1.0;
/// A phase is not steady when one in so many of the connections was made in it.
const CONNECTS_SHARE: u64 = 20;
/// How far a sample of the process may be from the edge of a phase.
const EDGE_S: f64 = 0.1;
/// A step of CPU time, seconds.
const TICK_S: f64 = 0.01;
/// Noise of CPU and memory beside what can be read exactly, as a share.
const NOISE: f64 = 0.05;

impl Measured {
    /// Adds what a run shows. One that is invalid or broken shows nothing.
    ///
    /// # Errors
    ///
    /// A sentence, when it cannot be used.
    pub(super) fn add(&mut self, result: &RunResult) -> Result<(), String> {
        if result.verdict.outcome != Outcome::Held {
            return Err(format!(
                "its verdict is not `held`: {}",
                result.verdict.reasons.join("; ")
            ));
        }
        if result.broker().is_none_or(|broker| broker.points.len() < 2) {
            return Err("the broker was not watched (--watch-pid)".to_owned());
        }
        for phase in result.phases.iter().filter(|phase| phase.measured) {
            self.cpu.extend(cpu_window(result, phase));
            self.memory.extend(memory_point(result, phase));
        }
        for group in result.run.groups.iter().filter(|group| publishes(group)) {
            self.payload_bytes.extend(group.payload_bytes);
        }
        self.transports.extend(result.run.groups.iter().map(|group| group.transport.clone()));
        for storm in &result.storms {
            if let Some(seconds) = storm.t99_s.filter(|seconds| *seconds > 0.0) {
                let rate = as_f64(storm.devices) * 0.99 / seconds;
                self.storm_connects_max = self.storm_connects_max.max(rate);
            }
        }
        Ok(())
    }

    /// Without the CPU of phases in which other than `needed` work was done.
    fn only(&self, needed: &BTreeSet<Work>) -> Self {
        let wanted = |(work, rate): &(Work, f64)| {
            *rate <= 0.0 || *work == Work::Idle || needed.contains(work)
        };
        let mut measured = self.clone();
        measured.cpu.retain(|window| window.rates.iter().all(wanted));
        measured
    }

    /// The most connections at once.
    pub(super) fn connections_max(&self) -> f64 {
        self.memory.iter().map(|point| point.connections).fold(0.0, f64::max)
    }

    /// The highest rate of some work.
    pub(super) fn rate_max(&self, work: Work) -> f64 {
        let rates = self.cpu.iter().filter_map(|window| window.rate(work));
        rates.fold(0.0, f64::max)
    }

    /// The most cores the broker kept busy.
    pub(super) fn cores_max(&self) -> f64 {
        self.cpu.iter().map(|window| window.cores).fold(0.0, f64::max)
    }
}

impl CpuWindow {
    fn rate(&self, work: Work) -> Option<f64> {
        self.rates.iter().find(|(of, _)| *of == work).map(|(_, rate)| *rate)
    }
}

fn publishes(group: &Group) -> bool {
    group.saturating || group.publish_rate_per_s.is_some()
}

/// The QoS at which a run publishes.
fn published_qos(result: &RunResult) -> BTreeSet<u8> {
    result
        .run
        .groups
        .iter()
        .filter(|group| publishes(group))
        .filter_map(|group| group.qos)
        .collect()
}

fn cpu_window(result: &RunResult, phase: &Phase) -> Option<CpuWindow> {
    let points = &result.broker()?.points;
    let near = |at_s: f64| {
        let distance = |point: &&crate::result::ProcessPoint| (point.at_s - at_s).abs();
        points
            .iter()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .filter(|p| distance(p) < EDGE_S)
    };
    let (first, last) = (near(phase.start_s)?, near(phase.end_s)?);
    let seconds = last.at_s - first.at_s;
    // What happens in less is lost in the steps of CPU time.
    if seconds < 10.0 * TICK_S {
        return None;
    }
    let qos = published_qos(result);
    // Counts are of all QoS together, so nobody knows which message was of which.
    if qos.len() > 1 && phase.published + phase.delivered > 0 {
        return None;
    }
    let qos = qos.first().copied().unwrap_or(0);
    let rate = |count: u64| as_f64(count) / seconds;
    let rates = [
        (Work::Idle, 1.0),
        (Work::Connect, rate(phase.connects)),
        (Work::Ping, rate(phase.pings)),
        (Work::MessageIn(qos), rate(phase.published)),
        (Work::MessageOut(qos), rate(phase.delivered)),
    ];
    Some(CpuWindow { rates: rates.to_vec(), cores: (last.cpu_s - first.cpu_s) / seconds, seconds })
}

fn memory_point(result: &RunResult, phase: &Phase) -> Option<MemoryPoint> {
    if phase.end_s - phase.start_s < STEADY_S {
        return None;
    }
    let before_end = |at_s: f64| at_s > phase.start_s && at_s <= phase.end_s + EDGE_S;
    let broker = result.broker()?.points.iter().rfind(|point| before_end(point.at_s))?;
    let interval_s = f64::from(result.series.interval_s);
    let ends = (1_u32..).zip(&result.series.points);
    let whole = ends.filter(|(number, _)| {
        let end_s = f64::from(*number) * interval_s;
        end_s > phase.start_s && end_s <= phase.end_s
    });
    let connected = whole.map(|(_, point)| point.connected).last()?;
    // While many connect, nobody knows how many stood when the memory was read.
    if phase.connects * CONNECTS_SHARE > connected || connected == 0 {
        return None;
    }
    let devices: u64 = result.run.groups.iter().map(|group| group.devices).sum();
    let each = result.run.groups.iter().map(|g| g.devices * u64::from(g.subscriptions_each));
    let subscriptions = as_f64(each.sum()) * as_f64(connected) / as_f64(devices.max(1));
    let broker_here =
        result.hosts.iter().find(|h| Some(&h.hostname) == result.broker().map(|b| &b.hostname));
    let kernel_bytes = broker_here.and_then(|host| {
        let start = host.points.first()?;
        let end = host.points.iter().rfind(|point| before_end(point.at_s))?;
        Some(as_f64(end.kernel_bytes) - as_f64(start.kernel_bytes))
    });
    let until_end = result.phases.iter().filter(|before| before.start_s <= phase.start_s);
    Some(MemoryPoint {
        connections: as_f64(connected),
        subscriptions,
        had_messages: until_end.map(|phase| phase.published).sum::<u64>() > 0,
        user_bytes: as_f64(broker.rss_bytes),
        kernel_bytes,
    })
}

impl Model {
    /// Fits what was measured. `needed` must be among what comes out.
    ///
    /// # Errors
    ///
    /// All that is missing at once, with the runs that give it.
    pub(super) fn fit(measured: &Measured, needed: &BTreeSet<Work>) -> Result<Self, Vec<Missing>> {
        let mut missing = Vec::new();
        // Runs of work that the fleet does not do help where they can, and must not be in the way.
        let cpu = fit_cpu(measured, needed)
            .or_else(|_| fit_cpu(&measured.only(needed), needed))
            .map_err(|faults| missing.extend(faults))
            .ok();
        let memory = fit_memory(measured).map_err(|fault| missing.push(fault)).ok();
        match (cpu, memory) {
            (Some((works, cpu, cpu_coefficients)), Some(memory)) => {
                let Memory { user, with_subscriptions, messages_bytes, kernel, coefficients } =
                    memory;
                let memory_coefficients = coefficients;
                Ok(Self {
                    works,
                    cpu,
                    cpu_coefficients,
                    user,
                    with_subscriptions,
                    messages_bytes,
                    kernel,
                    memory_coefficients,
                })
            }
            _ => Err(missing),
        }
    }

    /// Cores that `rates` of work keep busy on one gateway, and the upper end of the interval.
    pub(super) fn cores(&self, rates: &[(Work, f64)]) -> fit::Estimate {
        let input = |work: &Work| {
            let given = rates.iter().find(|(of, _)| of == work).map_or(0.0, |(_, rate)| *rate);
            if *work == Work::Idle { 1.0 } else { given }
        };
        self.cpu.predict(&self.works.iter().map(input).collect::<Vec<_>>())
    }

    /// CPU-seconds of a connect, the upper end of its interval.
    pub(super) fn connect_s(&self) -> f64 {
        let mut inputs = vec![0.0; self.works.len()];
        for (input, work) in inputs.iter_mut().zip(&self.works) {
            *input = f64::from(u8::from(*work == Work::Connect));
        }
        self.cpu.predict(&inputs).upper()
    }

    /// Resident bytes of a gateway.
    pub(super) fn user_bytes(&self, connections: f64, subscriptions: f64) -> fit::Estimate {
        let mut inputs = vec![1.0, connections];
        inputs.extend(self.with_subscriptions.then_some(subscriptions));
        let idle = self.user.predict(&inputs);
        fit::Estimate { value: idle.value + self.messages_bytes, ..idle }
    }

    /// Bytes of the kernel of a gateway's machine for its connections; `None`: not measured.
    pub(super) fn kernel_bytes(&self, connections: f64) -> Option<fit::Estimate> {
        Some(self.kernel.as_ref()?.predict(&[connections]))
    }

    /// The typical error of the CPU fit, as a share, and its degrees of freedom.
    pub(super) fn cpu_quality(&self) -> (f64, usize) {
        (self.cpu.typical_error, self.cpu.freedom)
    }
}

type CpuFit = (Vec<Work>, Fit, Vec<Coefficient>);

fn fit_cpu(measured: &Measured, needed: &BTreeSet<Work>) -> Result<CpuFit, Vec<Missing>> {
    let seen = |work: &Work| measured.rate_max(*work) > 0.0;
    let never: Vec<_> = needed.iter().filter(|work| **work != Work::Idle && !seen(work)).collect();
    if !never.is_empty() {
        let missing = |work: &&Work| Missing {
            what: format!("CPU of {}", work.name()),
            why: "no run did it".to_owned(),
            run: work.how_to_measure(),
        };
        return Err(never.iter().map(missing).collect());
    }
    let mut works: Vec<Work> = measured
        .cpu
        .iter()
        .flat_map(|window| window.rates.iter().map(|(work, _)| *work))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(seen)
        .collect();
    if !works.contains(&Work::Idle) {
        works.insert(0, Work::Idle);
    }
    let mut zeros = BTreeSet::new();
    loop {
        let kept: Vec<Work> = works.iter().copied().filter(|work| !zeros.contains(work)).collect();
        let fit = fit::fit(&cpu_observations(measured, &kept), kept.len())
            .map_err(|fault| vec![cpu_fault(&fault, &kept, measured)])?;
        // Nothing costs less than nothing. The lowest goes first: the others may then be right.
        let lowest = kept.iter().zip(&fit.estimates).min_by(|a, b| a.1.value.total_cmp(&b.1.value));
        if let Some((work, estimate)) = lowest
            && estimate.value < 0.0
        {
            zeros.insert(*work);
            continue;
        }
        let coefficients = works.iter().map(|work| {
            let place = kept.iter().position(|kept| kept == work);
            let estimate = place.and_then(|place| fit.estimates.get(place)).copied();
            cpu_coefficient(*work, estimate, measured)
        });
        let coefficients = coefficients.collect();
        return Ok((kept, fit, coefficients));
    }
}

fn cpu_observations(measured: &Measured, works: &[Work]) -> Vec<Observation> {
    let observation = |window: &CpuWindow| Observation {
        inputs: works.iter().map(|work| window.rate(*work).unwrap_or(0.0)).collect(),
        output: window.cores,
        deviation: (TICK_S / window.seconds).hypot(NOISE * window.cores),
    };
    measured.cpu.iter().map(observation).collect()
}

fn cpu_coefficient(
    work: Work,
    estimate: Option<fit::Estimate>,
    measured: &Measured,
) -> Coefficient {
    let rates: Vec<f64> = measured
        .cpu
        .iter()
        .filter_map(|window| window.rate(work))
        .filter(|rate| *rate > 0.0)
        .collect();
    let (factor, unit) = if work == Work::Idle { (1.0, "cores") } else { (1e6, "CPU us") };
    Coefficient {
        of: work.name(),
        value: estimate.map_or(0.0, |estimate| estimate.value * factor),
        half_width: estimate.map_or(0.0, |estimate| estimate.half_width * factor),
        unit,
        measured: range(&rates),
        observations: rates.len(),
        taken_as_zero: estimate.is_none(),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (if low.is_finite() { low } else { 0.0 }, values.iter().copied().fold(0.0, f64::max))
}

fn cpu_fault(fault: &FitError, works: &[Work], measured: &Measured) -> Missing {
    match fault {
        FitError::TooFew { got, needed } => {
            // More of what there is least of.
            let seldom = works.iter().min_by_key(|work| {
                measured
                    .cpu
                    .iter()
                    .filter(|w| w.rate(**work).is_some_and(|rate| rate > 0.0))
                    .count()
            });
            Missing {
                what: "CPU".to_owned(),
                why: format!("{got} measured phases are too few, it takes {needed} or more"),
                run: seldom.map_or_else(String::new, |work| work.how_to_measure()),
            }
        }
        FitError::Entangled { column } => {
            let work = works.get(*column).copied().unwrap_or(Work::Idle);
            Missing {
                what: format!("CPU of {}", work.name()),
                why: "in every run it goes along with other work in the same proportion".to_owned(),
                run: work.how_to_measure(),
            }
        }
    }
}

struct Memory {
    user: Fit,
    with_subscriptions: bool,
    messages_bytes: f64,
    kernel: Option<Fit>,
    coefficients: Vec<Coefficient>,
}

/// Whether a line can be laid through these numbers of connections.
fn are_apart(points: &[MemoryPoint]) -> bool {
    let numbers: Vec<f64> = points.iter().map(|point| point.connections).collect();
    let (low, high) = range(&numbers);
    points.len() >= 3 && high >= low * 2.0
}

/// What connections take where nothing was published yet. Buffers and caches of messages do not go
/// with connections: few that publish much have more than many that do not. The most of that is added
/// to every gateway.
fn fit_memory(measured: &Measured) -> Result<Memory, Missing> {
    let (busy, idle): (Vec<_>, Vec<_>) =
        measured.memory.iter().copied().partition(|point| point.had_messages);
    let idle_tells = are_apart(&idle);
    let points = if idle_tells { &idle } else { &measured.memory };
    let numbers: Vec<f64> = points.iter().map(|point| point.connections).collect();
    let (low, high) = range(&numbers);
    if !are_apart(points) {
        return Err(Missing {
            what: "memory of a connection".to_owned(),
            why: format!(
                "there are {} steady phases, of {low:.0} to {high:.0} connections",
                points.len()
            ),
            run:
                "loadgen idle --target ADDRESS --watch-pid PID --out DIR, with --connections 1000, \
                  5000 and 10000"
                    .to_owned(),
        });
    }
    let observation = |point: &MemoryPoint, inputs: Vec<f64>| Observation {
        inputs,
        output: point.user_bytes,
        deviation: 1.0,
    };
    let rows = |with: bool| -> Vec<Observation> {
        let row = |point: &MemoryPoint| {
            let mut inputs = vec![1.0, point.connections];
            inputs.extend(with.then_some(point.subscriptions));
            observation(point, inputs)
        };
        points.iter().map(row).collect()
    };
    // Where every connection subscribes, a subscription is part of what a connection costs.
    let apart = fit::fit(&rows(true), 3).ok();
    let apart = apart.filter(|fit| fit.estimates.iter().all(|estimate| estimate.value >= 0.0));
    let with_subscriptions = apart.is_some();
    let together = || fit::fit(&rows(false), 2);
    let user = apart.map_or_else(together, Ok).map_err(|_| Missing {
        what: "memory of a connection".to_owned(),
        why: "the measured phases have nearly the same number of connections".to_owned(),
        run: "loadgen idle with --connections 1000, 5000 and 10000".to_owned(),
    })?;
    let kernel_rows: Vec<_> = points
        .iter()
        .filter_map(|point| {
            // Both ends of a loopback connection are on the machine.
            let bytes = point.kernel_bytes? / 2.0;
            Some(Observation { inputs: vec![point.connections], output: bytes, deviation: 1.0 })
        })
        .collect();
    let kernel = fit::fit(&kernel_rows, 1).ok();
    let names = ["a gateway, empty", "a connection, resident", "a subscription, resident"];
    let columns = [
        vec![1.0; points.len()],
        numbers,
        points.iter().map(|point| point.subscriptions).collect::<Vec<_>>(),
    ];
    let of = |name: &str, estimate: &fit::Estimate, values: &[f64]| Coefficient {
        of: name.to_owned(),
        value: estimate.value,
        half_width: estimate.half_width,
        unit: "bytes",
        measured: range(values),
        observations: values.iter().filter(|value| **value > 0.0).count(),
        taken_as_zero: false,
    };
    let mut coefficients: Vec<_> = names
        .iter()
        .zip(&user.estimates)
        .zip(&columns)
        .map(|((name, estimate), values)| of(name, estimate, values))
        .collect();
    if let (Some(kernel), [_, numbers, _]) = (&kernel, &columns) {
        let estimates = kernel.estimates.first();
        coefficients
            .extend(estimates.map(|estimate| of("a connection, kernel", estimate, numbers)));
    }
    let beyond_idle = |point: &MemoryPoint| {
        let mut inputs = vec![1.0, point.connections];
        inputs.extend(with_subscriptions.then_some(point.subscriptions));
        point.user_bytes - user.predict(&inputs).value
    };
    let most = busy.iter().map(beyond_idle).fold(0.0, f64::max);
    let messages_bytes = if idle_tells { most } else { 0.0 };
    if idle_tells && !busy.is_empty() {
        let place = coefficients.len() - usize::from(kernel.is_some());
        let estimate = fit::Estimate { value: messages_bytes, half_width: 0.0 };
        let of_messages = of("buffers and caches of messages", &estimate, &vec![1.0; busy.len()]);
        coefficients.insert(place, of_messages);
    }
    Ok(Memory { user, with_subscriptions, messages_bytes, kernel, coefficients })
}
