//! The command line. What is written here in doc comments is the help text.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use gateway::proto::mqtt::{ProtocolVersion, QoS};

use crate::{
    compare::Broker,
    payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN},
    plan::Devices,
    run::RunArguments,
    transport::BrokerArguments,
    watch::WatchArguments,
};

/// Load generator and checker for MQTT brokers.
///
/// Exit code: 0 the QoS contract was held; 2 it was broken (QoS 1: something was lost or came out
/// of order; QoS 2: also duplicates; any QoS: something came corrupted or unasked for); 3 the run
/// says nothing, because the generator could not keep its schedule or connections were lost;
/// 1 the run could not be made. `merge` and `compare` end with the worst of their runs.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish and subscribe: rates, latency, the ledger, messages per CPU-second of the broker
    Bench(BenchArguments),
    /// Hold idle connections: memory per connection and CPU while nothing happens
    Idle(IdleArguments),
    /// Connect as fast as possible: CONNECT/s and CPU-seconds per 1,000 connects
    Storm(StormArguments),
    /// A fleet of devices with a profile, a workload in phases, and a verdict
    Run(Box<RunArguments>),
    /// List the device profiles, or print one
    Profiles(ProfilesArguments),
    /// Make one result of those of several workers of the same run
    Merge(MergeArguments),
    /// Run the same scenarios against several brokers in turn
    Compare(CompareArguments),
    /// Plan the capacity for a fleet from measured runs
    Plan(PlanArguments),
    /// Write the report of a run: `report.html`, which needs nothing else
    Report(ReportArguments),
    /// Write manual pages and completions of shells into a directory, for packages
    #[command(hide = true)]
    Documents {
        /// The directory
        directory: PathBuf,
    },
}

/// Brokers and scenarios to compare them with.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArguments {
    /// A broker: NAME=ADDRESS, and `,pid=PID` to watch it or `,start=COMMAND` to start it for each run
    ///
    /// Several times; ratios are to the first.
    #[arg(long, required = true, value_parser = Broker::parse)]
    pub(crate) broker: Vec<Broker>,

    /// A scenario: a command of loadgen without the broker, --watch-pid and --out; several times
    ///
    /// `NAME: COMMAND` gives it a name for the tables.
    #[arg(long, required = true, value_name = "[NAME: ]COMMAND")]
    pub(crate) scenario: Vec<String>,

    /// How often each scenario is run against each broker
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,

    /// Folder for report.html, summary.md, compare.json, raw.jsonl, and the runs
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Runs to plan with, and the fleet to plan for.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlanArguments {
    /// Folders with a `result.json` of runs at several loads, the broker watched
    #[arg(required = true, value_name = "DIR")]
    pub(crate) runs: Vec<PathBuf>,

    /// So many devices of a profile, with the traffic that is assumed of it; several times
    #[arg(long, value_name = "N:PROFILE", value_parser = Devices::parse)]
    pub(crate) fleet: Vec<Devices>,

    /// Fleet, machine and demands from a TOML file; loadgen/examples/fleet.toml shows its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) spec: Option<PathBuf>,

    /// Cores of a gateway's machine [default: 8, or the file's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) cores: Option<u32>,

    /// Memory of a gateway's machine, GiB [default: 32, or the file's]
    #[arg(long)]
    pub(crate) memory_gib: Option<f64>,

    /// Share of cores, memory and network kept free [default: 0.3, or the file's]
    #[arg(long)]
    pub(crate) headroom: Option<f64>,

    /// Seconds after which everybody is to be back from a storm [default: 120, or the file's]
    #[arg(long)]
    pub(crate) storm_s: Option<f64>,

    /// Messages a second that one sub-cluster stores, as measured on it
    #[arg(long)]
    pub(crate) sub_cluster_messages_per_s: Option<f64>,

    /// Write plan.html, plan.json and plan.txt into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// A result to show.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReportArguments {
    /// Folder with a `result.json`
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,

    /// File to write instead of DIR/report.html
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Results to put together.
#[derive(Clone, Debug, Args)]
pub(crate) struct MergeArguments {
    /// Folders with a `result.json`, one a worker
    #[arg(required = true, value_name = "DIR")]
    pub(crate) parts: Vec<PathBuf>,

    /// Folder to write the whole into
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// The device profiles.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProfilesArguments {
    /// Print this one as TOML, a start for one of your own
    pub(crate) name: Option<String>,
}

/// What all measurements have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArguments {
    /// Address of the broker
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) target: SocketAddr,

    /// Protocol version to speak
    #[arg(long, value_enum, default_value_t = Version::V3_1_1)]
    pub(crate) mqtt: Version,

    #[command(flatten)]
    pub(crate) watch: WatchArguments,

    /// Write the table of figures as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Keep the whole result in this folder: `result.json` (see RESULT.md) and `times.hlog`
    ///
    /// What `loadgen report`, `plan` and `compare` read.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// No line a second on standard error
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Give up when the connections do not stand after this many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) connect_timeout_s: u64,
}

/// Publishers and subscribers.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,

    /// Publishing connections, each with its own client id
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) publishers: u32,

    /// Subscribing connections
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: u32,

    /// Who gets whose messages
    #[arg(long, value_enum, default_value_t = Pattern::OneToOne)]
    pub(crate) pattern: Pattern,

    /// QoS of publishes and subscriptions
    #[arg(long, value_enum, default_value_t = QosLevel::AtMostOnce)]
    pub(crate) qos: QosLevel,

    /// Payload size; at least 36, which publisher, epoch, sequence, times and checksum take
    #[arg(long, default_value_t = 256, value_parser = payload_bytes)]
    pub(crate) payload_bytes: usize,

    /// Messages per second, over all publishers, on an open-loop schedule
    #[arg(long, default_value_t = 10_000, conflicts_with = "saturate",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: u64,

    /// Publish as fast as the broker delivers: each publisher keeps a full window
    ///
    /// The window is closed by deliveries, and for QoS 1 and 2 by acknowledgements too, so that
    /// the broker never has reason to drop and the ledger stays exact. Latency then says how long
    /// a full window takes, not what a user would see.
    #[arg(long)]
    pub(crate) saturate: bool,

    /// Messages of a publisher under way: unacknowledged, or (saturated) not delivered
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) window: u16,

    /// Length of the measured window
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,

    /// Seconds of the same load before it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(crate) warmup: u64,

    /// After the load, wait for missing deliveries until none came for this many seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) drain_quiet_s: u64,

    /// Threads, each with its own io_uring; connections are spread over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,

    /// Gather what is due within this many microseconds into one system call
    ///
    /// Costs up to that much latency, which is reported as lag, and saves the CPU of a wake-up a
    /// message. 0 wakes for each.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub(crate) tick_us: u64,

    /// A message the generator gets round to this much after its time counts as late
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) late_ms: u64,

    /// The run is invalid when more than this share of the messages was late
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub(crate) late_share: f64,
}

/// Connections that do nothing.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("idle_at").args(["target", "broker"])))]
pub(crate) struct IdleArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,

    #[command(flatten)]
    pub(crate) broker: BrokerArguments,

    /// Connections to hold; the limit of open files (`ulimit -n`) must allow them
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,

    /// Whether each subscribes to a topic of its own, at QoS 1
    #[arg(long, value_enum, default_value_t = IdleSubscription::None)]
    pub(crate) subscribe: IdleSubscription,

    /// Connections started per second
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) connect_rate: u64,

    /// Connections in the making at any time, for a broker that may not keep up with the rate
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) concurrency: u32,

    /// How long to hold them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,

    /// How often to connect, hold and disconnect; from the second on, freed memory is used again
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,

    /// Keep Alive of the connections; 0 turns it off
    #[arg(long, default_value_t = 0)]
    pub(crate) keep_alive_s: u16,
}

/// A rush of connections.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("storm_at").args(["target", "broker"])))]
pub(crate) struct StormArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,

    #[command(flatten)]
    pub(crate) broker: BrokerArguments,

    /// Connections to make
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,

    /// Connections in the making at any time
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) concurrency: u32,

    /// How often to connect all and disconnect
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
}

/// Who gets whose messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Subscriber n gets the messages of publisher n, each pair has its own topic
    OneToOne,
    /// Every publisher has its own topic, every subscriber gets all of them by a wildcard
    FanIn,
    /// All publishers use one topic, which every subscriber subscribes to
    FanOut,
}

/// QoS on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "the names are the specification's own")]
pub(crate) enum QosLevel {
    /// At most once
    #[value(name = "0")]
    AtMostOnce,
    /// At least once
    #[value(name = "1")]
    AtLeastOnce,
    /// Exactly once
    #[value(name = "2")]
    ExactlyOnce,
}

/// Protocol version on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1
    #[value(name = "3.1.1")]
    V3_1_1,
    /// MQTT 5.0
    #[value(name = "5")]
    V5,
}

/// Subscriptions of idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdleSubscription {
    /// No subscription
    None,
    /// One topic of its own, QoS 1
    Own,
}

impl From<QosLevel> for QoS {
    fn from(level: QosLevel) -> Self {
        match level {
            QosLevel::AtMostOnce => Self::AtMostOnce,
            QosLevel::AtLeastOnce => Self::AtLeastOnce,
            QosLevel::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<Version> for ProtocolVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V3_1_1 => Self::V3_1_1,
            Version::V5 => Self::V5,
        }
    }
}

impl TargetArguments {
    /// How long connecting may take.
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s)
    }
}

impl BenchArguments {
    /// What no single argument can be blamed for.
    ///
    /// # Errors
    ///
    /// One sentence for the operator.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        if self.pattern == Pattern::OneToOne && self.publishers != self.subscribers {
            return Err("one-to-one needs as many --publishers as --subscribers");
        }
        Ok(())
    }

    /// How many subscribers get each message.
    pub(crate) fn deliveries_per_message(&self) -> u64 {
        match self.pattern {
            Pattern::OneToOne => 1,
            Pattern::FanIn | Pattern::FanOut => u64::from(self.subscribers),
        }
    }
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    if (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{bytes} is not in {PAYLOAD_BYTES_MIN}..={PAYLOAD_BYTES_MAX}"))
    }
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("not a share from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bench(arguments: &[&str]) -> Result<BenchArguments, clap::Error> {
        let all = ["loadgen", "bench"].iter().chain(arguments);
        match Arguments::try_parse_from(all)?.command {
            Command::Bench(bench) => Ok(bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_payload_too_small_for_the_stamp_is_refused() {
        assert!(bench(&["--payload-bytes", "35"]).is_err());
        assert_eq!(bench(&["--payload-bytes", "36"]).unwrap().payload_bytes, 36);
    }

    #[test]
    fn a_rate_and_saturation_exclude_each_other() {
        assert!(bench(&["--rate", "5", "--saturate"]).is_err());
        assert!(bench(&["--saturate"]).unwrap().saturate);
    }

    #[test]
    fn one_to_one_needs_pairs() {
        assert!(bench(&["--publishers", "2"]).unwrap().validate().is_err());
        assert!(bench(&["--publishers", "2", "--pattern", "fan-in"]).unwrap().validate().is_ok());
    }

    #[test]
    fn a_share_is_between_0_and_1() {
        assert!(bench(&["--late-share", "1.1"]).is_err());
        assert!(bench(&["--late-share", "nan"]).is_err());
    }
}
