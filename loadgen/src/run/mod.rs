//! `loadgen run`: a fleet with a profile, a workload in phases, a ledger, a verdict.
//!
//! ```text
//! scenario + profile + seed ─▶ lane (thread or worker process) ─▶ books ─▶ merged ─▶ verdict
//! ```
//!
//! [`scenario`] says what happens, [`layout`] who is there, [`lane`] makes it happen, [`books`] keeps
//! count, [`site`] switches the power, [`workers`] does it in several processes. After the last phase the run settles: impairments end, every
//! device comes back, and what is owed has to arrive.

mod args;
mod books;
mod lane;
mod layout;
mod load;
mod outcome;
mod scenario;
mod site;
mod slots;
mod workers;

use std::{
    iter::once,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

pub(crate) use args::RunArguments;
pub(crate) use outcome::Said;

use crate::{
    clock::{Clock, duration_ns},
    profile::Profile,
    progress::Progress,
    result::{Recorder, RunResult},
    transport::{self, Broker},
};
use lane::{LaneOutcome, Part};
use layout::Layout;
use scenario::{PhaseKind, Scenario};

/// From the decision to start until the run starts.
const HEAD_START: Duration = Duration::from_millis(50);
/// Descriptors that are no connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Runs what the arguments say.
///
/// # Errors
///
/// When the run cannot be made: what is wrong, and what to change.
pub(crate) fn run(arguments: &RunArguments) -> anyhow::Result<RunResult> {
    let scenario = arguments.resolve().map_err(|faults| anyhow!(faults.join("\n")))?;
    let profile = Profile::load(&scenario.profile).map_err(|faults| anyhow!(faults.join("\n")))?;
    let brokers = brokers(arguments, &scenario)?;
    let broker = brokers.first().context("there is always one")?;
    let watch = arguments.watch.reach()?;
    let place = &arguments.worker;
    let run = place.worker_run.unwrap_or_else(run_number);
    let lane = place.worker.unwrap_or(0);
    // What devices are told to connect to; the result names the first.
    let here = brokers.get(lane as usize % brokers.len()).unwrap_or(broker);
    let mut part = Part {
        profile: profile.compressed(scenario.compress),
        scenario,
        run,
        lane,
        lanes: arguments.workers,
        target: here.address,
        transport: here.transport.clone(),
        sources: arguments.source.clone(),
        connections_max: 0,
    };
    part.connections_max = connections_max(&part)?;
    if place.worker.is_none() {
        for broker in &brokers {
            transport::reach(broker).map_err(|fault| anyhow!(fault))?;
        }
    }
    if arguments.workers > 1 && place.worker.is_none() {
        return workers::run(arguments.workers, run);
    }
    workers::wait_until(place.worker_begin.unwrap_or(0));
    let clock = Clock::start();
    let start_ns = clock.now_ns() + duration_ns(HEAD_START);
    let recorder = Recorder::start(clock, watch, Progress::new(arguments.quiet || part.lane > 0))
        .context("cannot start a thread")?;
    let outcome = run_here(&part, start_ns, clock, &recorder)?;
    let recorded = recorder.finish(clock);
    Ok(outcome::result(arguments, broker, &part, start_ns, outcome, recorded))
}

/// The brokers that workers go to in turn.
fn brokers(arguments: &RunArguments, scenario: &Scenario) -> anyhow::Result<Vec<Broker>> {
    let first = arguments.target.over(&scenario.broker);
    let others = arguments.and_broker.iter().map(|url| first.at(url));
    let keys: Vec<_> = once(first.clone()).chain(others).collect();
    ensure!(
        keys.len() <= arguments.workers as usize,
        "--and-broker makes {0} brokers, which {1} workers cannot all go to: give --workers {0} or \
         a multiple of it",
        keys.len(),
        arguments.workers
    );
    let resolved = keys.into_iter().map(|keys| keys.resolve());
    let resolved: Result<_, _> = resolved.collect();
    resolved.map_err(|faults| anyhow!(faults.join("\n")))
}

/// Runs the one lane of this process.
fn run_here(
    part: &Part,
    start_ns: u64,
    clock: Clock,
    recorder: &Recorder,
) -> anyhow::Result<LaneOutcome> {
    let (sender, outcomes) = channel();
    let (lane, tally) = (part.clone(), recorder.tally(clock));
    thread::Builder::new()
        .name("lane".to_owned())
        .spawn(move || {
            // The receiver is gone only when the run was given up.
            let _ = sender.send(lane::run(&lane, start_ns, clock, tally));
        })
        .context("cannot start a thread")?;
    let mut at_ns = start_ns;
    for phase in &part.scenario.phases {
        recorder.phase(&phase.name, at_ns, phase.kind != PhaseKind::Ramp);
        at_ns += phase.duration_ns();
        let left_ns = at_ns.saturating_sub(clock.now_ns());
        match outcomes.recv_timeout(Duration::from_nanos(left_ns)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Err(error)) => return Err(error).context("the run ended early"),
            Ok(Ok(_)) | Err(RecvTimeoutError::Disconnected) => bail!("the run ended early"),
        }
    }
    recorder.phase("settle", at_ns, false);
    let outcome = outcomes.recv().context("the lane ended without a result")?;
    outcome.context("the run failed")
}

/// How many connections this process may have, half-open ones included; raises its limit of open
/// files as far as it may.
fn connections_max(part: &Part) -> anyhow::Result<u32> {
    let layout = Layout::new(&part.scenario, part.run, part.lane, part.lanes);
    let members = u64::from(layout.members());
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What it is then is looked at below.
    let _ = setrlimit(Resource::Nofile, raised);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(most);
    let needed = members + OTHER_DESCRIPTORS;
    if allowed < needed {
        let workers = u64::from(part.lanes) * needed.div_ceil(allowed.max(1));
        bail!(
            "{members} connections in a process need {needed} descriptors, and the limit is \
             {allowed}: raise it (ulimit -n {needed}), or use --workers {workers}"
        );
    }
    check_ports(part, members)?;
    let half_open = members.max(100);
    let connections = (members + half_open).min(allowed - OTHER_DESCRIPTORS);
    Ok(u32::try_from(connections).unwrap_or(u32::MAX))
}

/// Whether the addresses to come from have ports for all.
fn check_ports(part: &Part, members: u64) -> anyhow::Result<()> {
    let loopback = part.target.ip().is_loopback() && part.target.is_ipv4();
    if part.sources.is_empty() && loopback {
        return Ok(());
    }
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let mut bounds = range.iter().flat_map(|text| text.split_whitespace()).map(str::parse::<u64>);
    let ports = match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => last.saturating_sub(first) + 1,
        _ => 28_232,
    };
    let addresses = part.sources.len().max(1) as u64;
    let wanted = members * u64::from(part.lanes);
    if wanted > ports * addresses {
        bail!(
            "{wanted} connections from {addresses} addresses, which have {ports} ports each: give \
             {} with --source, or widen net.ipv4.ip_local_port_range",
            wanted.div_ceil(ports)
        );
    }
    Ok(())
}

/// A number that no other run has at the same time.
fn run_number() -> u32 {
    let mut random =
        crate::random::Random::of(crate::clock::unix_ms(), u64::from(std::process::id()), 0);
    u32::try_from(random.next_u64() >> 32).unwrap_or_default()
}

/// Seconds in nanoseconds, saturating.
fn seconds_ns(seconds: f64) -> u64 {
    duration_ns(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// A rate in a phase with this much load.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate of a scenario, and neither it nor the load is negative"
)]
fn scaled_rate(rate_per_s: u64, load: f64) -> u64 {
    (rate_per_s as f64 * load).round() as u64
}
