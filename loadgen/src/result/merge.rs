//! Several workers' results become one.

use std::fmt::{self, Display, Formatter};

use super::{
    Distributions, EXAMPLES_MAX, Group, Host, LedgerRecord, Phase, Process, RunResult, Storm,
    Totals, VerdictRecord,
};
use crate::stats::Times;

/// Faults of connections a merged result names.
const FAULTS_MAX: usize = 20;

/// Why results cannot become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MergeError {
    /// There are none.
    Nothing,
    /// They are not parts of the same run: what differs, and both values.
    Different { what: &'static str, first: String, other: String },
}

impl Display for MergeError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "there is no result to merge"),
            Self::Different { what, first, other } => {
                write!(
                    f,
                    "not parts of one run: {what} is {first:?} in one and {other:?} in another"
                )
            }
        }
    }
}

impl std::error::Error for MergeError {}

/// Merges the results of the workers of one run, whose clocks started together.
///
/// The first gives the command line and the phases. What describes the same thing twice (a process
/// or a machine that two workers watched) is kept once.
///
/// # Errors
///
/// When there are none, or when they are of different scenarios, brokers or seeds.
pub(crate) fn merge(parts: Vec<RunResult>) -> Result<RunResult, MergeError> {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or(MergeError::Nothing)?;
    for part in parts {
        same("scenario", &whole.run.scenario, &part.run.scenario)?;
        same("broker", &whole.run.broker_url, &part.run.broker_url)?;
        same("seed", &whole.run.seed, &part.run.seed)?;
        whole.absorb(part);
    }
    Ok(whole)
}

fn same<T: PartialEq + ToString>(
    what: &'static str,
    first: &T,
    other: &T,
) -> Result<(), MergeError> {
    if first == other {
        return Ok(());
    }
    Err(MergeError::Different { what, first: first.to_string(), other: other.to_string() })
}

impl RunResult {
    fn absorb(&mut self, part: Self) {
        self.run.workers += part.run.workers;
        self.run.duration_s = self.run.duration_s.max(part.run.duration_s);
        self.run.started_unix_ms = self.run.started_unix_ms.min(part.run.started_unix_ms);
        for group in part.run.groups {
            add_group(&mut self.run.groups, group);
        }
        self.verdict.absorb(part.verdict);
        self.totals.absorb(part.totals);
        self.times.absorb(&part.times);
        self.ledger.absorb(part.ledger);
        absorb_storms(&mut self.storms, part.storms);
        absorb_phases(&mut self.phases, &part.phases);
        if let (Some(fleet), Some(part)) = (&mut self.fleet, part.fleet) {
            fleet.absorb(part);
        }
        self.series.merge(part.series);
        for process in part.processes {
            add_process(&mut self.processes, process);
        }
        for host in part.hosts {
            add_host(&mut self.hosts, host);
        }
    }
}

/// Groups that differ only in their number and rate are one.
fn add_group(groups: &mut Vec<Group>, part: Group) {
    let kind = |group: &Group| Group { devices: 0, publish_rate_per_s: None, ..group.clone() };
    match groups.iter_mut().find(|group| kind(group) == kind(&part)) {
        None => groups.push(part),
        Some(group) => {
            group.devices += part.devices;
            let rates = [group.publish_rate_per_s, part.publish_rate_per_s];
            group.publish_rate_per_s = rates.into_iter().flatten().reduce(|a, b| a + b);
        }
    }
}

impl VerdictRecord {
    /// The worst of both, with the reasons of both.
    fn absorb(&mut self, part: Self) {
        self.outcome = self.outcome.max(part.outcome);
        for reason in part.reasons {
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }
}

impl Totals {
    fn absorb(&mut self, part: Self) {
        self.measured_s = self.measured_s.max(part.measured_s);
        self.published += part.published;
        self.delivered += part.delivered;
        self.due += part.due;
        self.late += part.late;
        self.never_sent += part.never_sent;
        self.connections_lost += part.connections_lost;
        let room = FAULTS_MAX.saturating_sub(self.faults.len());
        self.faults.extend(part.faults.into_iter().take(room));
    }
}

impl Distributions {
    fn absorb(&mut self, part: &Self) {
        let pairs: [(&mut Times, &Times); 10] = [
            (&mut self.latency, &part.latency),
            (&mut self.latency_uncorrected, &part.latency_uncorrected),
            (&mut self.acknowledgement, &part.acknowledgement),
            (&mut self.connect, &part.connect),
            (&mut self.tls_full, &part.tls_full),
            (&mut self.tls_resumed, &part.tls_resumed),
            (&mut self.upgrade, &part.upgrade),
            (&mut self.connack, &part.connack),
            (&mut self.recovery, &part.recovery),
            (&mut self.lag, &part.lag),
        ];
        for (whole, part) in pairs {
            whole.merge(part);
        }
    }
}

impl LedgerRecord {
    fn absorb(&mut self, part: Self) {
        self.owed += part.owed;
        self.delivered += part.delivered;
        self.lost += part.lost;
        self.acknowledged_then_lost += part.acknowledged_then_lost;
        self.duplicated += part.duplicated;
        self.reordered += part.reordered;
        self.corrupted += part.corrupted;
        self.foreign += part.foreign;
        self.sessions_lost += part.sessions_lost;
        self.wills_missing += part.wills_missing;
        self.wills_unexpected += part.wills_unexpected;
        self.retained_wrong += part.retained_wrong;
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(part.examples.into_iter().take(room));
    }
}

/// The workers go through the same phases, each at times of its own; those of the first stay.
fn absorb_phases(whole: &mut [Phase], parts: &[Phase]) {
    for (phase, part) in whole.iter_mut().zip(parts) {
        if phase.name == part.name {
            phase.connects += part.connects;
            phase.published += part.published;
            phase.delivered += part.delivered;
            phase.pings += part.pings;
        }
    }
}

/// The workers' shares of the first storm are one storm, and so on.
fn absorb_storms(whole: &mut Vec<Storm>, parts: Vec<Storm>) {
    let more = parts.len().saturating_sub(whole.len());
    for (storm, part) in whole.iter_mut().zip(&parts) {
        let mut recovery = storm.recovery.clone();
        recovery.merge(&part.recovery);
        *storm =
            Storm::new(storm.start_s.min(part.start_s), storm.devices + part.devices, recovery);
    }
    let known = parts.len() - more;
    whole.extend(parts.into_iter().skip(known));
}

fn add_process(processes: &mut Vec<Process>, part: Process) {
    let same = |process: &&mut Process| {
        (process.role, process.pid, &process.hostname) == (part.role, part.pid, &part.hostname)
    };
    match processes.iter_mut().find(same) {
        None => processes.push(part),
        Some(process) if process.points.len() < part.points.len() => *process = part,
        Some(_) => {}
    }
}

fn add_host(hosts: &mut Vec<Host>, part: Host) {
    match hosts.iter_mut().find(|host| host.hostname == part.hostname) {
        None => hosts.push(part),
        Some(host) if host.points.len() < part.points.len() => *host = part,
        Some(_) => {}
    }
}
