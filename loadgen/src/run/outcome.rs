//! What a run says: a result with a verdict, and its text.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use super::{
    args::RunArguments,
    lane::{LaneOutcome, Part},
    layout::Layout,
    scenario::{PhaseKind, Scenario, Workload},
};
use crate::{
    args::Version,
    clock::duration_ns,
    ledger::Settlement,
    report::{as_f64, line},
    result::{
        Distributions, Findings, FleetRecord, Group, LedgerRecord, Outcome, PhaseRecord, Recorded,
        Run, RunResult, Storm, Totals, VerdictRecord,
    },
    transport::Broker,
};

/// The result of a run that began at `start_ns`.
pub(super) fn result(
    arguments: &RunArguments,
    broker: &Broker,
    part: &Part,
    start_ns: u64,
    outcome: LaneOutcome,
    recorded: Recorded,
) -> RunResult {
    let scenario = &part.scenario;
    let run = Run {
        scenario: scenario.name.clone(),
        command: std::env::args().collect(),
        seed: scenario.seed,
        broker_url: broker.url.to_string(),
        tls: broker.tls.clone(),
        broker_name: arguments.broker_name.clone(),
        loadgen_version: env!("CARGO_PKG_VERSION").to_owned(),
        workers: 1,
        groups: groups(broker, part),
        ..Run::default()
    };
    let totals = totals(arguments, scenario, &outcome);
    let phases = named_phases(scenario, start_ns, outcome.phases);
    let findings = Findings {
        verdict: judge(arguments, scenario, &totals, &outcome.settlement, &phases, outcome.counts),
        times: times(scenario, &phases),
        ledger: LedgerRecord::from(&outcome.settlement),
        storms: storms(scenario, &phases),
        totals,
        fleet: Some(FleetRecord { compress: scenario.compress, counts: outcome.counts, phases }),
    };
    RunResult::new(run, recorded, findings)
}

/// Who was there.
fn groups(broker: &Broker, part: &Part) -> Vec<Group> {
    let scenario = &part.scenario;
    let layout = Layout::new(scenario, part.run, part.lane, part.lanes);
    let version = if scenario.mqtt == 5 { Version::V5 } else { Version::V3_1_1 };
    let devices_publish =
        matches!(scenario.workload, Workload::FanIn | Workload::Shared | Workload::P2p);
    let rate_per_s = as_f64(scenario.rate_per_s) / f64::from(part.lanes);
    let group = |name: &str, count: u32, publishes: bool, subscribes: bool| Group {
        name: name.to_owned(),
        qos: Some(scenario.qos),
        subscriptions_each: u32::from(subscribes),
        publish_rate_per_s: publishes.then_some(rate_per_s),
        payload_bytes: publishes.then_some(scenario.payload_bytes.into()),
        persistent: true,
        transport: broker.transport_name().to_owned(),
        ..Group::of(version, count.into())
    };
    let mut groups = vec![Group {
        profile: Some(part.profile.name.clone()),
        keep_alive_s: keep_alive_s(part.profile.session.keep_alive_s),
        persistent: part.profile.session.clean_start < 0.5,
        ..group(
            "devices",
            layout.devices,
            devices_publish,
            !matches!(scenario.workload, Workload::Connect | Workload::FanIn | Workload::Shared),
        )
    }];
    if layout.back_ends > 0 {
        groups.push(group("back ends", layout.back_ends, !devices_publish, devices_publish));
    }
    groups
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and the profile allows no negative times"
)]
fn keep_alive_s(seconds: f64) -> u16 {
    seconds.ceil() as u16
}

fn measured<'a>(
    scenario: &'a Scenario,
    phases: &'a [PhaseRecord],
) -> impl Iterator<Item = &'a PhaseRecord> {
    let pairs = scenario.phases.iter().zip(phases);
    pairs.filter(|(phase, _)| phase.kind != PhaseKind::Ramp).map(|(_, record)| record)
}

fn totals(arguments: &RunArguments, scenario: &Scenario, outcome: &LaneOutcome) -> Totals {
    let limit_ns = duration_ns(Duration::from_millis(arguments.late_ms));
    let mut totals = Totals {
        connections_lost: outcome.counts.ended_by_broker + outcome.counts.refused,
        never_sent: outcome.counts.given_up,
        faults: outcome.faults.clone(),
        ..Totals::default()
    };
    for phase in &scenario.phases {
        if phase.kind != PhaseKind::Ramp {
            totals.measured_s += phase.duration_s;
        }
    }
    for phase in measured(scenario, &outcome.phases) {
        totals.published += phase.counts.published;
        totals.delivered += phase.counts.delivered;
        totals.due += phase.counts.due;
        totals.late += phase.lag.count_above(limit_ns);
    }
    totals
}

fn named_phases(
    scenario: &Scenario,
    start_ns: u64,
    mut records: Vec<PhaseRecord>,
) -> Vec<PhaseRecord> {
    let mut start_s = Duration::from_nanos(start_ns).as_secs_f64();
    for (index, record) in records.iter_mut().enumerate() {
        record.start_s = start_s;
        let phase = scenario.phases.get(index);
        record.name = phase.map_or("settle", |phase| phase.name.as_str()).to_owned();
        start_s += phase.map_or(0.0, |phase| phase.duration_s);
    }
    records
}

fn times(scenario: &Scenario, phases: &[PhaseRecord]) -> Distributions {
    let mut times = Distributions::default();
    for phase in measured(scenario, phases) {
        times.latency.merge(&phase.latency);
        times.latency_uncorrected.merge(&phase.latency_uncorrected);
        times.acknowledgement.merge(&phase.acknowledgement);
        times.lag.merge(&phase.lag);
        times.recovery.merge(&phase.recovery);
    }
    for phase in phases {
        times.connect.merge(&phase.connect);
        times.tls_full.merge(&phase.tls_full);
        times.tls_resumed.merge(&phase.tls_resumed);
        times.upgrade.merge(&phase.upgrade);
        times.connack.merge(&phase.connack);
    }
    times
}

/// A phase whose fault hit devices is a storm when it is over.
fn storms(scenario: &Scenario, phases: &[PhaseRecord]) -> Vec<Storm> {
    scenario
        .phases
        .iter()
        .zip(phases)
        .filter(|(_, record)| record.counts.hit > 0)
        .map(|(phase, record)| {
            let lasts = phase.fault.is_some_and(|fault| fault.what.lasts());
            let over_s = record.start_s + if lasts { phase.duration_s } else { 0.0 };
            Storm::new(over_s, record.counts.hit, record.recovery.clone())
        })
        .collect()
}

/// A broken contract is one even if the generator was late. Devices that did not come back make
/// what they are owed impossible to judge: their losses say nothing.
fn judge(
    arguments: &RunArguments,
    scenario: &Scenario,
    totals: &Totals,
    settlement: &Settlement,
    phases: &[PhaseRecord],
    counts: crate::result::FleetCounts,
) -> VerdictRecord {
    let connects: u64 = phases.iter().map(|phase| phase.counts.connects).sum();
    let late_share = as_f64(totals.late) / as_f64(totals.due.max(1));
    let breaches = settlement.breaches(scenario.qos());
    let broken: Vec<String> = breaches.map(|breach| settlement.sentence(breach)).collect();
    let mut invalid = Vec::new();
    if counts.away_at_the_end > 0 {
        invalid.push(format!(
            "{} devices were not connected at the end, or had bytes on the air: {}",
            counts.away_at_the_end,
            totals.faults.first().map_or("no reason is known", String::as_str)
        ));
    }
    if late_share > arguments.late_share {
        invalid.push(format!(
            "the generator was late with {} of {} messages: give it more cores or less to do",
            totals.late, totals.due
        ));
    }
    if connects == 0 || (totals.due > 0 && settlement.delivered == 0) {
        invalid.push("nothing was delivered, or nobody connected".to_owned());
    }
    let outcome = if counts.away_at_the_end == 0 && !broken.is_empty() {
        Outcome::Broken
    } else if invalid.is_empty() {
        Outcome::Held
    } else {
        Outcome::Invalid
    };
    VerdictRecord { outcome, reasons: broken.into_iter().chain(invalid).collect() }
}

/// The text of the result of a run.
pub(crate) struct Said<'a>(pub(crate) &'a RunResult);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let result = self.0;
        let run = &result.run;
        writeln!(f, "{} on {}, seed {}", run.scenario, run.broker_url, run.seed)?;
        for group in &run.groups {
            let profile = group.profile.as_deref().unwrap_or("wire");
            let Group { devices, name, mqtt, transport, .. } = group;
            writeln!(f, "  {devices} {name}, {profile}, MQTT {mqtt} over {transport}")?;
        }
        let Some(fleet) = &result.fleet else { return Ok(()) };
        for phase in &fleet.phases {
            phase_lines(f, phase)?;
        }
        let c = &fleet.counts;
        line(
            f,
            "connections",
            format_args!(
                "ended by DISCONNECT {}, without a word {}, by the broker {}, unclear {}",
                c.ended_gracefully, c.ended_ungracefully, c.ended_by_broker, c.ended_unknown
            ),
        )?;
        line(
            f,
            "",
            format_args!(
                "refused {}, unanswered {}, given up {}, TLS or WebSocket failed {}; sessions \
                 resumed {}",
                c.refused, c.unanswered, c.faults, c.layer_faults, c.sessions_resumed
            ),
        )?;
        line(
            f,
            "messages",
            format_args!(
                "store full {}, discarded {}, unfinished {}, early {}, retained {}",
                c.given_up, c.discarded, c.unfinished, c.early, c.retained
            ),
        )?;
        ledger_lines(f, &result.ledger, c.wills_owed)?;
        for fault in &result.totals.faults {
            line(f, "fault", format_args!("{fault}"))?;
        }
        line(f, "verdict", format_args!("{:?}", result.verdict.outcome))?;
        for reason in &result.verdict.reasons {
            line(f, "", format_args!("{reason}"))?;
        }
        Ok(())
    }
}

fn ledger_lines(f: &mut Formatter<'_>, ledger: &LedgerRecord, wills: u64) -> fmt::Result {
    let l = ledger;
    line(
        f,
        "ledger",
        format_args!(
            "owed {}, delivered {}, lost {} (acknowledged {}), duplicated {}, reordered {}",
            l.owed, l.delivered, l.lost, l.acknowledged_then_lost, l.duplicated, l.reordered
        ),
    )?;
    line(
        f,
        "",
        format_args!(
            "corrupted {}, foreign {}, sessions lost {}, retained wrong {}, wills owed {wills}, \
             missing {}, unexpected {}",
            l.corrupted,
            l.foreign,
            l.sessions_lost,
            l.retained_wrong,
            l.wills_missing,
            l.wills_unexpected
        ),
    )
}

fn phase_lines(f: &mut Formatter<'_>, phase: &PhaseRecord) -> fmt::Result {
    let c = &phase.counts;
    writeln!(
        f,
        "{}: due {}, published {}, acknowledged {}, delivered {}, connects {}",
        phase.name, c.due, c.published, c.acknowledged, c.delivered, c.connects
    )?;
    for (key, times) in [
        ("latency", &phase.latency),
        ("  uncorrected", &phase.latency_uncorrected),
        ("probes", &phase.probe),
        ("acknowledgement", &phase.acknowledgement),
        ("connect", &phase.connect),
        ("  TLS, full", &phase.tls_full),
        ("  TLS, resumed", &phase.tls_resumed),
        ("  WebSocket", &phase.upgrade),
        ("  CONNACK", &phase.connack),
        ("generator lag", &phase.lag),
        ("recovery", &phase.recovery),
    ] {
        if times.count() > 0 {
            line(f, key, format_args!("{}", times.summary()))?;
        }
    }
    if c.hit > 0 {
        line(f, "fault", format_args!("{} devices hit, {} back", c.hit, c.recovered))?;
    }
    Ok(())
}
