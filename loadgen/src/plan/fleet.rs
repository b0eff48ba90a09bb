//! The fleet to plan for: devices and their traffic, the machine, what is demanded.

use std::{fs, path::Path};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// What is planned for, as in a TOML file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// The machine of one gateway.
    #[serde(default)]
    pub(crate) machine: Machine,
    /// What is demanded.
    #[serde(default)]
    pub(crate) demand: Demand,
    /// The devices, by kind.
    #[serde(default)]
    pub(crate) devices: Vec<Devices>,
}

/// The machine of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Machine {
    /// Cores, of the kind that was measured.
    pub(crate) cores: u32,
    /// Memory, GiB.
    pub(crate) memory_gib: f64,
    /// Network in one direction, Gbit a second.
    pub(crate) network_gbit_s: f64,
    /// Connections a gateway may hold: its configuration, or descriptors.
    pub(crate) connections_max: u64,
}

/// What is demanded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Demand {
    /// Share of cores, memory and network kept free in steady operation.
    pub(crate) headroom: f64,
    /// After everybody lost the connection, all are to be back in this time, seconds.
    pub(crate) storm_s: f64,
    /// Gateways that may be away without the demands being missed.
    pub(crate) spare_gateways: u32,
    /// Messages a second that one sub-cluster stores; without it their number is not told.
    pub(crate) sub_cluster_messages_per_s: Option<f64>,
    /// TLS: bytes more on the network. Its CPU is part of what was measured, or not.
    pub(crate) tls: bool,
}

/// Devices of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Devices {
    /// What they are called.
    pub(crate) name: String,
    /// How many.
    pub(crate) count: u64,
    /// A message from each every so many seconds; 0: they publish nothing.
    #[serde(default)]
    pub(crate) publish_every_s: f64,
    /// A message to each every so many seconds, commands and the like; 0: none.
    #[serde(default)]
    pub(crate) receive_every_s: f64,
    /// Subscribers, applications mostly, that get each of their messages.
    #[serde(default = "one")]
    pub(crate) deliveries: f64,
    /// QoS of their messages.
    #[serde(default = "at_least_once")]
    pub(crate) qos: u8,
    /// Payload, bytes.
    #[serde(default = "payload")]
    pub(crate) payload_bytes: u64,
    /// Length of their topics, bytes.
    #[serde(default = "topic")]
    pub(crate) topic_bytes: u64,
    /// Keep Alive, seconds: with silence in between, a ping as often; 0: none.
    #[serde(default)]
    pub(crate) keep_alive_s: f64,
    /// Subscriptions of each.
    #[serde(default = "one")]
    pub(crate) subscriptions: f64,
    /// Each connects anew every so many seconds; 0: never but in storms.
    #[serde(default)]
    pub(crate) connect_every_s: f64,
    /// Share of them that is connected at a time.
    #[serde(default = "one")]
    pub(crate) connected: f64,
}

fn one() -> f64 {
    1.0
}

fn at_least_once() -> u8 {
    1
}

fn payload() -> u64 {
    256
}

fn topic() -> u64 {
    32
}

impl Default for Machine {
    fn default() -> Self {
        Self { cores: 8, memory_gib: 32.0, network_gbit_s: 10.0, connections_max: 1_000_000 }
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            headroom: 0.3,
            storm_s: 120.0,
            spare_gateways: 1,
            sub_cluster_messages_per_s: None,
            tls: false,
        }
    }
}

/// Traffic of the profiles by name: what a device of this kind is assumed to do when nothing else is
/// said. It is printed with the plan, and a file replaces it.
///
/// Columns: publish every, receive every (seconds), payload, Keep Alive, connect every (seconds),
/// share connected.
const PROFILES: [(&str, f64, f64, u64, f64, f64, f64); 6] = [
    // Wakes, connects, says its register, leaves; a PSM cycle of hours.
    ("meter-nbiot", 14_400.0, 0.0, 64, 0.0, 14_400.0, 0.05),
    // A position every two minutes of the Nordic asset tracker's kind; NAT needs 270 s or less.
    ("tracker-ltem", 120.0, 86_400.0, 120, 240.0, 43_200.0, 0.95),
    // Telemetry every ten seconds, tunnels and handovers.
    ("car-lte", 10.0, 600.0, 512, 60.0, 1_800.0, 0.9),
    // Lamps and thermostats: seldom a change, a command now and then.
    ("home-wifi", 300.0, 1_800.0, 128, 60.0, 86_400.0, 0.98),
    // Each carries the uplinks of a few thousand sensors.
    ("lorawan-gateway", 0.5, 30.0, 300, 60.0, 604_800.0, 0.99),
    // Sensors on a wire, twice a second.
    ("factory-wired", 0.5, 60.0, 128, 30.0, 604_800.0, 1.0),
];

impl Devices {
    /// What `N:PROFILE` stands for.
    ///
    /// # Errors
    ///
    /// A sentence, with the names there are.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (count, name) =
            text.split_once(':').ok_or("expected N:PROFILE, as in 100000:car-lte")?;
        let count =
            count.replace('_', "").parse().map_err(|_| format!("{count:?} is no number"))?;
        let profile = PROFILES.iter().find(|profile| profile.0 == name);
        let Some(&(_, publish, receive, payload_bytes, keep_alive_s, connect, connected)) = profile
        else {
            let names: Vec<_> = PROFILES.iter().map(|profile| profile.0).collect();
            return Err(format!("no profile {name:?}; there are {}", names.join(", ")));
        };
        Ok(Self {
            name: name.to_owned(),
            count,
            publish_every_s: publish,
            receive_every_s: receive,
            deliveries: one(),
            qos: at_least_once(),
            payload_bytes,
            topic_bytes: topic(),
            keep_alive_s,
            subscriptions: one(),
            connect_every_s: connect,
            connected,
        })
    }

    /// How often a second all of them do what each does every `every_s`.
    fn rate(&self, every_s: f64) -> f64 {
        if every_s > 0.0 { self.number() / every_s } else { 0.0 }
    }

    /// Their number.
    pub(super) fn number(&self) -> f64 {
        crate::report::as_f64(self.count)
    }

    /// Those that are connected at a time.
    pub(super) fn standing(&self) -> f64 {
        self.number() * self.connected
    }

    /// Messages a second they publish.
    pub(super) fn published_per_s(&self) -> f64 {
        self.rate(self.publish_every_s)
    }

    /// Messages a second they get.
    pub(super) fn received_per_s(&self) -> f64 {
        self.rate(self.receive_every_s)
    }

    /// Connects a second.
    pub(super) fn connects_per_s(&self) -> f64 {
        self.rate(self.connect_every_s)
    }

    /// Pings a second: those of a device that says something more often than its Keep Alive need
    /// none.
    pub(super) fn pings_per_s(&self) -> f64 {
        let talks = self.publish_every_s > 0.0 && self.publish_every_s < self.keep_alive_s;
        if self.keep_alive_s <= 0.0 || talks { 0.0 } else { self.standing() / self.keep_alive_s }
    }
}

impl Fleet {
    /// Reads a fleet from a TOML file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or says what makes no sense.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} describes no fleet", path.display()))
    }

    /// Refuses what no plan can be made for.
    ///
    /// # Errors
    ///
    /// The first fault, in a sentence.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!(!self.devices.is_empty(), "there are no devices: give --fleet N:PROFILE or a file");
        let (machine, demand) = (&self.machine, &self.demand);
        ensure!((0.0..0.95).contains(&demand.headroom), "headroom is not from 0 to 0.95");
        ensure!(demand.storm_s > 0.0, "storm_s is not above 0");
        ensure!(machine.cores > 0 && machine.memory_gib > 0.0, "a machine has cores and memory");
        ensure!(
            machine.network_gbit_s > 0.0 && machine.connections_max > 0,
            "a machine has a network"
        );
        for devices in &self.devices {
            let name = &devices.name;
            ensure!(devices.qos <= 2, "{name}: there is no QoS {}", devices.qos);
            ensure!((0.0..=1.0).contains(&devices.connected), "{name}: connected is not a share");
            let times = [
                devices.publish_every_s,
                devices.receive_every_s,
                devices.keep_alive_s,
                devices.connect_every_s,
                devices.deliveries,
                devices.subscriptions,
            ];
            if times.iter().any(|time| !time.is_finite() || *time < 0.0) {
                bail!("{name}: a time or a number is negative");
            }
        }
        Ok(())
    }
}
