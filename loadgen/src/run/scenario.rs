//! What a run does: who, how many, what they send, and what happens when.

use std::{fs, path::Path, time::Duration};

use gateway::proto::mqtt::{ProtocolVersion, QoS};
use serde::{Deserialize, Serialize};

use crate::{
    payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN},
    profile::{FileFault, Section},
    transport::BrokerKeys,
};

/// Connections that one process makes at most.
const DEVICES_MAX: u64 = 10_000_000;
const DAY_S: f64 = 86_400.0;

/// A run, as the operator wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: String,
    /// Where the broker is and how devices speak to it, where flags do not say it.
    pub(crate) broker: BrokerKeys,
    /// The profile of the devices: a name, or a file.
    pub(crate) profile: String,
    /// Who sends what to whom.
    pub(crate) workload: Workload,
    /// Devices of the fleet.
    pub(crate) devices: u32,
    /// Programs in the data centre, on a wire, where the workload has such.
    pub(crate) back_ends: u32,
    /// Clients on a wire that listen to themselves, ten times a second, spread over the workers.
    pub(crate) probes: u32,
    /// QoS of publishes and subscriptions.
    pub(crate) qos: u8,
    /// MQTT version: 4 is 3.1.1, 5 is 5.0.
    pub(crate) mqtt: u8,
    /// Size of every payload.
    pub(crate) payload_bytes: u32,
    /// Messages a second over all publishers.
    pub(crate) rate_per_s: u64,
    /// Connections begun a second in the ramp.
    pub(crate) connect_per_s: u64,
    /// Publishes of a client under way at most.
    pub(crate) window: u16,
    /// Whether publishes are retained.
    pub(crate) retain: bool,
    /// Whether devices have wills.
    pub(crate) wills: bool,
    /// Times in seconds of the profile are divided by this.
    pub(crate) compress: f64,
    /// What everything random comes from.
    pub(crate) seed: u64,
    /// After the last phase, wait for missing deliveries until none came for so long.
    pub(crate) quiet_s: f64,
    /// What happens, in this order.
    pub(crate) phases: Vec<Phase>,
}

/// Who sends what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Connections only
    Connect,
    /// Each device subscribes to its own topic, and nothing is sent
    Idle,
    /// Devices publish, every back end gets everything
    FanIn,
    /// Back ends publish, every device gets everything
    FanOut,
    /// Devices publish in pairs to each other
    P2p,
    /// Devices publish, back ends share the messages
    Shared,
    /// Back ends publish to a topic of each device; half of the devices is away for a while
    Persistent,
    /// As commands; then all devices lose power and come back at once
    Storm,
    /// Back ends publish to a topic of each device
    Commands,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Its name in the result.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) kind: PhaseKind,
    /// How long.
    pub(crate) duration_s: f64,
    /// The load in it, as a part of the rate; 0 for none.
    pub(crate) load: f64,
    /// What happens at its beginning and, if it can be undone, is over at its end.
    pub(crate) fault: Option<Fault>,
}

/// What a phase is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PhaseKind {
    /// Devices are switched on.
    Ramp,
    /// What is measured.
    Steady,
    /// Something happens.
    Fault,
    /// And is over.
    Recover,
}

/// What happens to a share of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// What.
    pub(crate) what: FaultKind,
    /// To which share; sites are hit as a whole.
    pub(crate) share: f64,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// Power is cut, and back at the end of the phase.
    PowerCut,
    /// The link is away, and back at the end of the phase.
    LinkOutage,
    /// Connections are reset.
    Reset,
    /// Connections are left half open, and the devices come back.
    Vanish,
    /// Devices say DISCONNECT, and come back at once.
    Disconnect,
}

impl Workload {
    /// All there are, with their names.
    pub(crate) const NAMES: [(&'static str, Self); 9] = [
        ("connect", Self::Connect),
        ("idle", Self::Idle),
        ("fan-in", Self::FanIn),
        ("fan-out", Self::FanOut),
        ("p2p", Self::P2p),
        ("shared", Self::Shared),
        ("persistent", Self::Persistent),
        ("storm", Self::Storm),
        ("commands", Self::Commands),
    ];

    /// All there are.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Connect,
        Self::Idle,
        Self::FanIn,
        Self::FanOut,
        Self::P2p,
        Self::Shared,
        Self::Persistent,
        Self::Storm,
        Self::Commands,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, workload)| *workload == self).map_or("", |(name, _)| name)
    }

    /// What happens in `duration` of this workload, after a ramp of `ramp_s`.
    pub(crate) fn phases(self, ramp_s: f64, duration: Duration) -> Vec<Phase> {
        let whole_s = duration.as_secs_f64();
        let loaded = if matches!(self, Self::Connect | Self::Idle) { 0.0 } else { 1.0 };
        let ramp = Phase::new(PhaseKind::Ramp, ramp_s, 0.0);
        let steady = |share: f64| Phase::new(PhaseKind::Steady, whole_s * share, loaded);
        let fault = |share_of_time: f64, what, share| Phase {
            fault: Some(Fault { what, share }),
            ..Phase::new(PhaseKind::Fault, whole_s * share_of_time, loaded)
        };
        let recover = |share: f64| Phase::new(PhaseKind::Recover, whole_s * share, loaded);
        match self {
            Self::Persistent => {
                vec![ramp, steady(0.25), fault(0.4, FaultKind::PowerCut, 0.5), recover(0.35)]
            }
            Self::Storm => {
                vec![ramp, steady(0.25), fault(0.15, FaultKind::PowerCut, 1.0), recover(0.6)]
            }
            _ => vec![ramp, steady(1.0)],
        }
    }
}

impl Phase {
    fn new(kind: PhaseKind, duration_s: f64, load: f64) -> Self {
        Self { name: kind.name().to_owned(), kind, duration_s, load, fault: None }
    }

    /// How long, in nanoseconds.
    pub(crate) fn duration_ns(&self) -> u64 {
        crate::clock::duration_ns(Duration::from_secs_f64(self.duration_s))
    }
}

impl FaultKind {
    /// Whether it goes on until the end of its phase.
    pub(crate) fn lasts(self) -> bool {
        match self {
            Self::PowerCut | Self::LinkOutage => true,
            Self::Reset | Self::Vanish | Self::Disconnect => false,
        }
    }
}

impl PhaseKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ramp => "ramp",
            Self::Steady => "steady",
            Self::Fault => "fault",
            Self::Recover => "recover",
        }
    }
}

impl Scenario {
    /// Reads a scenario from a file.
    ///
    /// # Errors
    ///
    /// A line for each fault.
    pub(crate) fn load(path: &Path) -> Result<Self, Vec<String>> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| vec![format!("cannot read the scenario {name}: {error}")])?;
        Self::parse(&text)
            .map_err(|faults| faults.iter().map(|fault| format!("{name}: {fault}")).collect())
    }

    /// Reads the text of a scenario.
    ///
    /// # Errors
    ///
    /// Every fault in it.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<FileFault>> {
        let mut faults = Vec::new();
        let mut file = Section::file(text, &mut faults);
        let payload = PAYLOAD_BYTES_MIN as u64..=PAYLOAD_BYTES_MAX as u64;
        let mut scenario = Self {
            name: file.text("name", None),
            broker: BrokerKeys::read(&mut file),
            profile: file.text("profile", Some("factory-wired")),
            workload: file.choice("workload", &Workload::NAMES, None).unwrap_or(Workload::Connect),
            devices: narrow(file.whole("devices", 1..=DEVICES_MAX, None)),
            back_ends: narrow(file.whole("back_ends", 1..=1_000_000, Some(1))),
            probes: narrow(file.whole("probes", 0..=1_000, Some(2))),
            qos: u8::try_from(file.whole("qos", 0..=2, Some(1))).unwrap_or(0),
            mqtt: file.choice("mqtt", &[("3.1.1", 4), ("5", 5)], Some(5)).unwrap_or(5),
            payload_bytes: narrow(file.whole("payload_bytes", payload, Some(256))),
            rate_per_s: file.whole("rate_per_s", 0..=100_000_000, Some(0)),
            connect_per_s: file.whole("connect_per_s", 1..=1_000_000, Some(1_000)),
            window: u16::try_from(file.whole("window", 1..=65_000, Some(100))).unwrap_or(1),
            retain: file.flag("retain", false),
            wills: file.flag("wills", false),
            compress: file.number("compress", 1.0..=1_000_000.0, Some(1.0)),
            seed: file.whole("seed", 0..=i64::MAX as u64, Some(1)),
            quiet_s: file.number("quiet_s", 0.1..=3_600.0, Some(10.0)),
            phases: Vec::new(),
        };
        file.each("phase", |section| scenario.phases.push(read_phase(section)));
        if scenario.phases.is_empty() {
            let nothing = toml::Value::Array(Vec::new());
            file.fault("phase", &nothing, "at least one [[phase]]");
        }
        file.finish();
        if faults.is_empty() { Ok(scenario) } else { Err(faults) }
    }

    /// The same shape with `factor` times the devices, back ends, connections and messages a second.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        let scale = |count: u64| scaled_count(count, factor);
        self.devices = narrow(scale(u64::from(self.devices)));
        self.back_ends = narrow(scale(u64::from(self.back_ends)));
        self.connect_per_s = scale(self.connect_per_s);
        if self.rate_per_s > 0 {
            self.rate_per_s = scale(self.rate_per_s);
        }
        self
    }

    /// QoS of publishes and subscriptions.
    pub(crate) fn qos(&self) -> QoS {
        match self.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// The protocol version that all speak.
    pub(crate) fn version(&self) -> ProtocolVersion {
        if self.mqtt == 5 { ProtocolVersion::V5 } else { ProtocolVersion::V3_1_1 }
    }

    /// A small scenario for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self::parse("name = \"example\"\nworkload = \"p2p\"\ndevices = 10\n[[phase]]\nkind = \"ramp\"\nduration_s = 1.0\n")
            .unwrap()
    }
}

fn read_phase(mut section: Section<'_>) -> Phase {
    let kinds = [
        ("ramp", PhaseKind::Ramp),
        ("steady", PhaseKind::Steady),
        ("fault", PhaseKind::Fault),
        ("recover", PhaseKind::Recover),
    ];
    let kind = section.choice("kind", &kinds, None).unwrap_or(PhaseKind::Steady);
    let loaded = if kind == PhaseKind::Ramp { 0.0 } else { 1.0 };
    let phase = Phase {
        name: section.text("name", Some(kind.name())),
        kind,
        duration_s: section.number("duration_s", 0.0..=DAY_S, None),
        load: section.number("load", 0.0..=1_000.0, Some(loaded)),
        fault: section.has("fault").then(|| read_fault(&mut section)).flatten(),
    };
    section.finish();
    phase
}

fn read_fault(section: &mut Section<'_>) -> Option<Fault> {
    let kinds = [
        ("power-cut", FaultKind::PowerCut),
        ("link-outage", FaultKind::LinkOutage),
        ("reset", FaultKind::Reset),
        ("vanish", FaultKind::Vanish),
        ("disconnect", FaultKind::Disconnect),
    ];
    let what = section.choice("fault", &kinds, None);
    let share = section.number("share", 0.0..=1.0, Some(1.0));
    what.map(|what| Fault { what, share })
}

/// A number whose range was checked.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A count times a factor, at least 1.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a scenario, and neither they nor the factor are negative"
)]
fn scaled_count(count: u64, factor: f64) -> u64 {
    ((count as f64 * factor).round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        name = \"evening\"
        profile = \"home-wifi\"
        workload = \"commands\"
        devices = 1000
        rate_per_s = 100
        [[phase]]
        kind = \"ramp\"
        duration_s = 10
        [[phase]]
        name = \"the street goes dark\"
        kind = \"fault\"
        fault = \"power-cut\"
        share = 0.5
        duration_s = 20
    ";

    #[test]
    fn a_scenario_is_read_with_its_phases() {
        let scenario = Scenario::parse(TEXT).unwrap();
        assert_eq!(scenario.workload, Workload::Commands);
        let fault = Fault { what: FaultKind::PowerCut, share: 0.5 };
        assert_eq!(scenario.phases[1].fault, Some(fault));
        assert_eq!(scenario.phases[1].name, "the street goes dark");
    }

    #[test]
    fn a_fault_in_a_phase_is_named_with_its_place() {
        let faults = Scenario::parse(&TEXT.replace("share = 0.5", "share = 2")).unwrap_err();
        assert_eq!(faults[0].to_string(), "phase[1].share = 2: expected a number from 0 to 1");
    }

    #[test]
    fn every_scenario_of_the_crate_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            let scenario = Scenario::load(&file).unwrap();
            assert_eq!(file.file_stem().unwrap().to_str().unwrap(), scenario.name);
            crate::profile::Profile::load(&scenario.profile).unwrap();
        }
    }

    #[test]
    fn a_scenario_without_phases_is_a_fault() {
        let text = "name = \"a\"\nworkload = \"idle\"\ndevices = 1\n";
        assert_eq!(Scenario::parse(text).unwrap_err()[0].key, "phase");
    }

    #[test]
    fn scaling_keeps_the_shape() {
        let scenario = Scenario::parse(TEXT).unwrap().scaled(0.1);
        assert_eq!((scenario.devices, scenario.rate_per_s, scenario.back_ends), (100, 10, 1));
    }
}
