//! The command line of `loadgen run`.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    scenario::{Scenario, Workload},
    workers::WorkerArguments,
};
use crate::{
    args::{QosLevel, Version},
    transport::BrokerArguments,
    watch::WatchArguments,
};

/// A fleet, a workload, a verdict.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// A scenario file (TOML); flags change what it says
    pub(crate) scenario: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) target: BrokerArguments,

    /// What the devices are: a name of `loadgen profiles`, or a file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) profile: Option<String>,

    /// Devices of the fleet
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) devices: Option<u32>,

    /// Who sends what to whom
    #[arg(long, value_enum)]
    pub(crate) workload: Option<Workload>,

    /// Length of the run after the ramp, such as 90s, 10m or 2h
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<std::time::Duration>,

    /// QoS of publishes and subscriptions
    #[arg(long, value_enum)]
    pub(crate) qos: Option<QosLevel>,

    /// Payload size in bytes, at least 36
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(36..=67_108_864))]
    pub(crate) payload: Option<u32>,

    /// Messages a second over all publishers, on a schedule that waits for nobody
    #[arg(long, value_name = "MSG_PER_S", value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub(crate) rate: Option<u64>,

    /// Connections begun a second in the ramp
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) connect_rate: Option<u64>,

    /// Back ends, on a wire, for workloads that have such
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) back_ends: Option<u32>,

    /// Protocol version
    #[arg(long, value_enum)]
    pub(crate) mqtt: Option<Version>,

    /// Publish with RETAIN, and look at the end whether the broker has each topic's last message
    #[arg(long)]
    pub(crate) retain: bool,

    /// Give each device a will, and check that it comes when it must and only then
    #[arg(long)]
    pub(crate) wills: bool,

    /// Divide the profile's times in seconds by this: outages, sleep, keep alive, retries
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub(crate) compress: Option<f64>,

    /// Multiply devices, back ends and rates of the scenario
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub(crate) scale: f64,

    /// What everything random comes from: the same seed, the same fates
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Processes; each has a part of the devices, back ends and topics of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) workers: u32,

    /// Another broker of the same system, such as a second gateway: workers go to --broker and to
    /// these in turn, so there must be a worker for each
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) and_broker: Vec<String>,

    #[command(flatten)]
    pub(crate) worker: WorkerArguments,

    /// Addresses to connect from, in turn; without, one of 127.0.0.0/8 a device if the broker is there
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) source: Vec<Ipv4Addr>,

    #[command(flatten)]
    pub(crate) watch: WatchArguments,

    /// No line a second on standard error
    #[arg(long)]
    pub(crate) quiet: bool,

    /// What the broker is called in reports
    #[arg(long, value_name = "NAME")]
    pub(crate) broker_name: Option<String>,

    /// Keep the result in this folder: `result.json` (see RESULT.md) and `times.hlog`
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// A message the generator gets round to this much after its time counts as late
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) late_ms: u64,

    /// The run is invalid when more than this share of the messages was late
    #[arg(long, default_value_t = 0.01, value_parser = crate::args::share)]
    pub(crate) late_share: f64,
}

impl RunArguments {
    /// Where to keep the result, if anywhere.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.worker.worker_out.as_deref().or(self.out.as_deref())
    }

    /// The scenario they make, from the file if there is one.
    ///
    /// # Errors
    ///
    /// A line for each fault.
    pub(crate) fn resolve(&self) -> Result<Scenario, Vec<String>> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::load(path)?,
            None => self.default_scenario()?,
        };
        scenario = scenario.scaled(self.scale);
        if let Some(profile) = &self.profile {
            scenario.profile.clone_from(profile);
        }
        if let Some(workload) = self.workload {
            scenario.workload = workload;
        }
        if let Some(devices) = self.devices {
            scenario.devices = devices;
        }
        if let Some(qos) = self.qos {
            scenario.qos = gateway::proto::mqtt::QoS::from(qos) as u8;
        }
        if let Some(payload_bytes) = self.payload {
            scenario.payload_bytes = payload_bytes;
        }
        if let Some(rate_per_s) = self.rate {
            scenario.rate_per_s = rate_per_s;
        }
        if let Some(connect_per_s) = self.connect_rate {
            scenario.connect_per_s = connect_per_s;
        }
        if let Some(back_ends) = self.back_ends {
            scenario.back_ends = back_ends;
        }
        if let Some(version) = self.mqtt {
            scenario.mqtt = if version == Version::V5 { 5 } else { 4 };
        }
        if let Some(compress) = self.compress {
            scenario.compress = compress;
        }
        if let Some(seed) = self.seed {
            scenario.seed = seed;
        }
        scenario.retain |= self.retain;
        scenario.wills |= self.wills;
        if let Some(duration) = self.duration {
            let ramp_s = f64::from(scenario.devices) / as_f64(scenario.connect_per_s) + 1.0;
            if self.scenario.is_some() {
                return Err(vec!["--duration: the scenario file has its own phases".to_owned()]);
            }
            scenario.phases = scenario.workload.phases(ramp_s, duration);
        }
        Ok(scenario)
    }

    fn default_scenario(&self) -> Result<Scenario, Vec<String>> {
        let missing = |flag: &str| vec![format!("{flag}: needed, or a scenario file")];
        let workload = self.workload.ok_or_else(|| missing("--workload"))?;
        let devices = self.devices.ok_or_else(|| missing("--devices"))?;
        let text = format!(
            "name = \"{name}\"\nworkload = \"{name}\"\ndevices = {devices}\n\
             rate_per_s = {rate}\n[[phase]]\nkind = \"ramp\"\nduration_s = 0\n",
            name = workload.name(),
            rate = u64::from(devices).div_ceil(10),
        );
        let mut scenario = Scenario::parse(&text)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let connect_per_s = self.connect_rate.unwrap_or(scenario.connect_per_s);
        let ramp_s = f64::from(devices) / as_f64(connect_per_s) + 1.0;
        let duration = self.duration.unwrap_or(std::time::Duration::from_secs(60));
        scenario.phases = workload.phases(ramp_s, duration);
        Ok(scenario)
    }
}

fn as_f64(count: u64) -> f64 {
    crate::report::as_f64(count)
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (1e-6..=1e6).contains(&factor) => Ok(factor),
        _ => Err("not a factor from 0.000001 to 1000000".to_owned()),
    }
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "not a duration such as 90s, 10m or 2h".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => number,
        "m" => number.saturating_mul(60),
        "h" => number.saturating_mul(3_600),
        _ => return Err(wrong()),
    };
    if (1..=604_800).contains(&seconds) {
        Ok(std::time::Duration::from_secs(seconds))
    } else {
        Err("not from 1s to 168h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn resolve(arguments: &[&str]) -> Result<Scenario, Vec<String>> {
        let all = ["loadgen", "run"].iter().chain(arguments);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Run(run) => run.resolve(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_alone_make_a_scenario() {
        let scenario =
            resolve(&["--workload", "p2p", "--devices", "2000", "--duration", "2m"]).unwrap();
        assert_eq!((scenario.devices, scenario.rate_per_s), (2_000, 200));
        let lengths: Vec<_> = scenario.phases.iter().map(|phase| phase.duration_s).collect();
        assert_eq!(lengths, [3.0, 120.0]);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(
            resolve(&["--devices", "5"]).unwrap_err(),
            ["--workload: needed, or a scenario file"]
        );
    }

    #[test]
    fn more_brokers_than_workers_are_refused() {
        let run = |workers: &'static str| {
            let urls = "mqtt://127.0.0.1:1,mqtt://127.0.0.1:2";
            let all = ["loadgen", "run", "--workload", "idle", "--devices", "9", "--and-broker"];
            let all = all.into_iter().chain([urls, "--workers", workers]);
            match Arguments::try_parse_from(all).unwrap().command {
                Command::Run(run) => super::super::run(&run).unwrap_err().to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert!(run("2").contains("give --workers 3"), "{}", run("2"));
        assert!(run("3").contains("no broker at 127.0.0.1:"), "{}", run("3"));
    }

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("90"), Ok(std::time::Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(std::time::Duration::from_secs(7_200)));
        assert!(duration("2 weeks").is_err());
        assert!(duration("0s").is_err());
    }
}
