//! What is kept of a run: `result.json`, its schema, and how the results of several workers become
//! one.
//!
//! The doc comments of the types here are the documentation of the file: `loadgen/RESULT.md` is
//! made from them, and a test holds the two together. Times within a run count from its start on
//! the generator's monotonic clock. A field is added with `#[serde(default)]` and
//! without changing [`SCHEMA_VERSION`]; it goes up when one changes its meaning or goes away.
//!
//! Nothing is averaged when results are merged: counts are summed, histograms added, so the parts
//! say exactly what the whole would have said.

mod fleet;
mod folder;
mod histogram;
mod host;
mod merge;
mod recorder;
mod series;

use serde::{Deserialize, Serialize};

pub(crate) use fleet::{FleetCounts, FleetRecord, PhaseRecord};
pub(crate) use folder::{read, write, write_file};
pub(crate) use host::{Host, HostPoint};
pub(crate) use merge::merge;
pub(crate) use recorder::{Recorded, Recorder, Tally};
pub(crate) use series::{Point, Series};

use gateway::proto::mqtt::ProtocolVersion;

use crate::{
    args::{TargetArguments, Version},
    ledger::Settlement,
    stats::Times,
    transport::TlsSettings,
};

/// The version of the schema that this program writes and reads.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The result of a run, as in `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RunResult {
    /// The version of this schema: 1.
    pub(crate) schema_version: u32,
    /// What was run.
    pub(crate) run: Run,
    /// What it says about the broker.
    pub(crate) verdict: VerdictRecord,
    /// Counts of the measured phases.
    pub(crate) totals: Totals,
    /// Times, as histograms. Those of messages are of the measured phases.
    pub(crate) times: Distributions,
    /// What was owed and what came, over the whole run.
    pub(crate) ledger: LedgerRecord,
    /// Mass reconnects, in order.
    pub(crate) storms: Vec<Storm>,
    /// The phases of the run, in order.
    pub(crate) phases: Vec<Phase>,
    /// What happened when.
    pub(crate) series: Series,
    /// The processes that were watched: the broker, and the generator itself.
    pub(crate) processes: Vec<Process>,
    /// The machines that generated the load, the first worker's first.
    pub(crate) hosts: Vec<Host>,
    /// What `loadgen run` adds.
    #[serde(default)]
    pub(crate) fleet: Option<FleetRecord>,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Run {
    /// The name of the scenario: `bench one-to-one`, `idle`, `storm`, or that of a scenario file.
    pub(crate) scenario: String,
    /// The command line, the program's name first.
    pub(crate) command: Vec<String>,
    /// What the random numbers of the run came from.
    pub(crate) seed: u64,
    /// The address of the broker, as a URL: `mqtt://HOST:PORT`, `mqtts://`, `ws://`, `wss://`.
    pub(crate) broker_url: String,
    /// How devices spoke TLS; `null`: they did not.
    #[serde(default)]
    pub(crate) tls: Option<TlsSettings>,
    /// What the broker is called in reports, if it was given a name.
    pub(crate) broker_name: Option<String>,
    /// The version of loadgen.
    pub(crate) loadgen_version: String,
    /// When it started, milliseconds since 1970-01-01 UTC by the wall clock.
    pub(crate) started_unix_ms: u64,
    /// How long it took, seconds.
    pub(crate) duration_s: f64,
    /// How many workers generated the load.
    pub(crate) workers: u32,
    /// The devices, by kind.
    pub(crate) groups: Vec<Group>,
}

/// Devices of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Group {
    /// What they are called: `publishers`.
    pub(crate) name: String,
    /// The profile they follow, if one.
    pub(crate) profile: Option<String>,
    /// How many they are.
    pub(crate) devices: u64,
    /// The protocol version: `3.1.1` or `5.0`.
    pub(crate) mqtt: String,
    /// `tcp`, `tls`, `ws` (WebSocket) or `wss` (WebSocket over TLS).
    pub(crate) transport: String,
    /// QoS of what they publish and subscribe to; `null` if they do neither.
    pub(crate) qos: Option<u8>,
    /// Subscriptions of each.
    pub(crate) subscriptions_each: u32,
    /// Messages a second published by all of them together; `null` if they do not publish on a
    /// schedule.
    pub(crate) publish_rate_per_s: Option<f64>,
    /// Whether they publish as fast as the broker takes it.
    pub(crate) saturating: bool,
    /// Payload of a message, bytes; `null` if they do not publish.
    pub(crate) payload_bytes: Option<u64>,
    /// Keep Alive, seconds; 0: none.
    pub(crate) keep_alive_s: u16,
    /// Whether their sessions outlive their connections.
    pub(crate) persistent: bool,
}

/// What a run says about the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct VerdictRecord {
    /// What it says.
    pub(crate) outcome: Outcome,
    /// Why, a sentence each; empty when the contract was held.
    pub(crate) reasons: Vec<String>,
}

/// What a run can say, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The QoS contract was held. Exit code 0.
    Held,
    /// The run says nothing: the generator was late, or connections were lost. Exit code 3.
    Invalid,
    /// The QoS contract was broken. Exit code 2.
    Broken,
}

impl Outcome {
    /// The exit code of the process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Broken => 2,
            Self::Invalid => 3,
        }
    }
}

/// Counts of the measured phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Totals {
    /// How long the measured phases took together, seconds.
    pub(crate) measured_s: f64,
    /// Messages sent.
    pub(crate) published: u64,
    /// First deliveries.
    pub(crate) delivered: u64,
    /// Messages the schedule wanted sent; 0 when saturating.
    pub(crate) due: u64,
    /// Of those, how many the generator got round to too late.
    pub(crate) late: u64,
    /// Messages never sent in the run, because the broker did not take them in time.
    pub(crate) never_sent: u64,
    /// Connections that were refused, or ended before they should; of the whole run.
    pub(crate) connections_lost: u64,
    /// The first faults of connections, by name.
    pub(crate) faults: Vec<String>,
}

/// Times, as histograms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Distributions {
    /// From when a message was due to its delivery: what a user of the broker waits.
    pub(crate) latency: Times,
    /// From when it was really sent: leaves out the wait behind what was slow.
    pub(crate) latency_uncorrected: Times,
    /// From the send of a PUBLISH to PUBACK, or to PUBREC at QoS 2.
    pub(crate) acknowledgement: Times,
    /// From the start of a connection to CONNACK, or to SUBACK where it subscribes; of the whole
    /// run.
    pub(crate) connect: Times,
    /// From when a TCP connection stood to the end of its TLS handshake, of those with certificates;
    /// this and the next three of the whole run.
    #[serde(default)]
    pub(crate) tls_full: Times,
    /// The same of those that resumed a session.
    #[serde(default)]
    pub(crate) tls_resumed: Times,
    /// From when the request for a WebSocket was written to when it stood.
    #[serde(default)]
    pub(crate) upgrade: Times,
    /// From when CONNECT was written to CONNACK.
    #[serde(default)]
    pub(crate) connack: Times,
    /// From when a device lost its connection, or a storm began, to when it was ready again.
    pub(crate) recovery: Times,
    /// From when a message was due to when the generator got round to it: its own lateness.
    pub(crate) lag: Times,
}

/// What was owed and what came, summed over all streams (a publisher's messages to a subscriber).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LedgerRecord {
    /// Messages published, once for each subscription that should get them.
    pub(crate) owed: u64,
    /// Of those, how many came at least once.
    pub(crate) delivered: u64,
    /// Of those, how many never came.
    pub(crate) lost: u64,
    /// Lost although the broker had acknowledged the publish; part of `lost`.
    pub(crate) acknowledged_then_lost: u64,
    /// Deliveries of what had come before.
    pub(crate) duplicated: u64,
    /// First deliveries after that of a later message of the same stream.
    pub(crate) reordered: u64,
    /// Deliveries with a wrong checksum.
    pub(crate) corrupted: u64,
    /// Deliveries of what was not published in this run, or not subscribed to.
    pub(crate) foreign: u64,
    /// CONNECTs answered without a session that the broker should have kept.
    #[serde(default)]
    pub(crate) sessions_lost: u64,
    /// Wills of connections that were lost, which never came.
    #[serde(default)]
    pub(crate) wills_missing: u64,
    /// Wills of connections that ended with DISCONNECT, or not at all.
    #[serde(default)]
    pub(crate) wills_unexpected: u64,
    /// Topics whose retained message is missing, or is not the last one.
    #[serde(default)]
    pub(crate) retained_wrong: u64,
    /// The first streams with a fault, at most 20.
    pub(crate) examples: Vec<Violation>,
}

/// A stream in which something was lost, duplicated or reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Violation {
    /// Which stream: who published, who should have got it.
    pub(crate) stream: String,
    /// Messages of it that never came.
    pub(crate) lost: u64,
    /// Deliveries of it that had come before.
    pub(crate) duplicated: u64,
    /// Deliveries of it that came after a later one.
    pub(crate) reordered: u64,
    /// The lowest sequence number lost.
    pub(crate) first_lost: Option<u64>,
}

/// Violations a result names.
pub(crate) const EXAMPLES_MAX: usize = 20;

impl From<&Settlement> for LedgerRecord {
    fn from(settlement: &Settlement) -> Self {
        let violation = |fault: &crate::ledger::StreamFault| Violation {
            stream: format!("publisher {} to subscriber {}", fault.publisher, fault.subscriber),
            lost: fault.lost,
            duplicated: fault.duplicated,
            reordered: fault.reordered,
            first_lost: fault.first_lost,
        };
        Self {
            owed: settlement.owed,
            delivered: settlement.delivered,
            lost: settlement.lost,
            acknowledged_then_lost: settlement.acknowledged_then_lost,
            duplicated: settlement.duplicated,
            reordered: settlement.reordered,
            corrupted: settlement.corrupted,
            foreign: settlement.foreign,
            sessions_lost: settlement.sessions_lost,
            wills_missing: settlement.wills_missing,
            wills_unexpected: settlement.wills_unexpected,
            retained_wrong: settlement.retained_wrong,
            examples: settlement.faulty_streams.iter().take(EXAMPLES_MAX).map(violation).collect(),
        }
    }
}

/// A mass reconnect: how long the broker took to have everybody back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Storm {
    /// When it began, seconds from the start of the run.
    pub(crate) start_s: f64,
    /// Devices that had to come back.
    pub(crate) devices: u64,
    /// Seconds until half of them were ready again; `null` if it never came to that.
    pub(crate) t50_s: Option<f64>,
    /// Until 90 % were.
    pub(crate) t90_s: Option<f64>,
    /// Until 99 % were.
    pub(crate) t99_s: Option<f64>,
    /// Until all were.
    pub(crate) t100_s: Option<f64>,
    /// From the beginning to each device's return.
    pub(crate) recovery: Times,
}

impl Storm {
    /// A storm that began at `start_s`, of `devices`, whose returns are in `recovery`.
    pub(crate) fn new(start_s: f64, devices: u64, recovery: Times) -> Self {
        let at = |percent: u64| recovery.time_of_count_s((devices * percent).div_ceil(100));
        Self {
            start_s,
            devices,
            t50_s: at(50),
            t90_s: at(90),
            t99_s: at(99),
            t100_s: at(100),
            recovery,
        }
    }
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Phase {
    /// What happens in it: `connect`, `warm-up`, `measure`, `hold`, `drain`, ...
    pub(crate) name: String,
    /// Seconds from the start of the run.
    pub(crate) start_s: f64,
    /// Seconds from the start of the run.
    pub(crate) end_s: f64,
    /// Whether what happens in it is in [`Totals`] and [`Distributions`].
    pub(crate) measured: bool,
    /// Connections that became ready in it. Here and below: to within a sweep of the generator's
    /// threads, some milliseconds.
    #[serde(default)]
    pub(crate) connects: u64,
    /// Messages sent in it.
    #[serde(default)]
    pub(crate) published: u64,
    /// First deliveries in it.
    #[serde(default)]
    pub(crate) delivered: u64,
    /// PINGREQs sent in it.
    #[serde(default)]
    pub(crate) pings: u64,
}

impl Phase {
    /// A phase that begins at `at_s`, in which nothing happened yet.
    pub(crate) fn new(name: &str, at_s: f64, measured: bool) -> Self {
        Self {
            name: name.to_owned(),
            start_s: at_s,
            end_s: at_s,
            measured,
            connects: 0,
            published: 0,
            delivered: 0,
            pings: 0,
        }
    }
}

/// A process that was watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Process {
    /// What it is.
    pub(crate) role: Role,
    /// Its process id; 0 for one on another machine, which told its usage as metrics.
    pub(crate) pid: u32,
    /// Its command line, or its name where that cannot be read; the address of its metrics.
    pub(crate) command: String,
    /// The name of its machine.
    pub(crate) hostname: String,
    /// Once a second.
    pub(crate) points: Vec<ProcessPoint>,
}

/// What a watched process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The broker under test.
    Broker,
    /// A loadgen.
    Generator,
}

/// What a process used up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ProcessPoint {
    /// Seconds from the start of the run.
    pub(crate) at_s: f64,
    /// User and system time since the process started, seconds; steps of 10 ms.
    pub(crate) cpu_s: f64,
    /// Resident memory (VmRSS), bytes.
    pub(crate) rss_bytes: u64,
    /// Resident memory that is neither file nor shared (RssAnon), bytes.
    pub(crate) rss_anonymous_bytes: u64,
    /// Open file descriptors; 0 if it cannot be read.
    pub(crate) fds: u64,
    /// Context switches of its living threads since they started.
    pub(crate) context_switches: u64,
    /// Living threads.
    pub(crate) threads: u64,
}

/// What a run found out, beside what was recorded while it went.
#[derive(Debug)]
pub(crate) struct Findings {
    /// As in [`RunResult`].
    pub(crate) verdict: VerdictRecord,
    /// As in [`RunResult`].
    pub(crate) totals: Totals,
    /// As in [`RunResult`].
    pub(crate) times: Distributions,
    /// As in [`RunResult`].
    pub(crate) ledger: LedgerRecord,
    /// As in [`RunResult`].
    pub(crate) storms: Vec<Storm>,
    /// As in [`RunResult`].
    pub(crate) fleet: Option<FleetRecord>,
}

impl Run {
    /// A run of this process, alone.
    pub(crate) fn of_this_process(
        scenario: &str,
        target: &TargetArguments,
        groups: Vec<Group>,
    ) -> Self {
        Self {
            scenario: scenario.to_owned(),
            command: std::env::args().collect(),
            broker_url: format!("mqtt://{}", target.target),
            loadgen_version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: 1,
            groups,
            ..Self::default()
        }
    }
}

impl Group {
    /// So many devices that only connect, over TCP.
    pub(crate) fn of(version: Version, devices: u64) -> Self {
        let mqtt = match ProtocolVersion::from(version) {
            ProtocolVersion::V3_1 => "3.1",
            ProtocolVersion::V3_1_1 => "3.1.1",
            ProtocolVersion::V5 => "5.0",
        };
        Self { devices, mqtt: mqtt.to_owned(), transport: "tcp".to_owned(), ..Self::default() }
    }
}

impl RunResult {
    /// The watched broker, if there was one.
    pub(crate) fn broker(&self) -> Option<&Process> {
        self.processes.iter().find(|process| process.role == Role::Broker)
    }

    /// The result of `run`.
    pub(crate) fn new(run: Run, recorded: Recorded, findings: Findings) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            run: Run {
                started_unix_ms: recorded.started_unix_ms,
                duration_s: recorded.duration_s,
                ..run
            },
            verdict: findings.verdict,
            totals: findings.totals,
            times: findings.times,
            ledger: findings.ledger,
            storms: findings.storms,
            phases: recorded.phases,
            series: recorded.series,
            processes: recorded.processes,
            hosts: vec![recorded.host],
            fleet: findings.fleet,
        }
    }
}

#[cfg(test)]
mod tests;
