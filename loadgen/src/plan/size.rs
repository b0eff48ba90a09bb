//! How many gateways a fleet needs, and why.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    coefficients::{Measured, Model, Work},
    fleet::{Devices, Fleet},
};
use crate::report::as_f64;

/// Bytes of Ethernet, IPv4 and TCP with time stamps around what MQTT sends, a segment: preamble and
/// gap 20, frame 18, IP 20, TCP 32. Source: IEEE 802.3, RFC 791, RFC 9293, RFC 7323.
const SEGMENT_BYTES: f64 = 90.0;
/// Bytes of a TLS 1.3 record beside its content. Source: RFC 8446 §5.2, with AES-GCM.
const TLS_RECORD_BYTES: f64 = 22.0;
/// More gateways than this are no answer.
const GATEWAYS_MAX: u32 = 10_000;

/// What the whole fleet does, a second where it is a rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Load {
    /// Devices that exist.
    pub(super) devices: f64,
    /// Devices connected at a time.
    pub(super) connections: f64,
    /// Their subscriptions.
    pub(super) subscriptions: f64,
    /// Work a second.
    pub(super) rates: Vec<(Work, f64)>,
    /// Messages a second that have to be stored: QoS 1 and 2.
    pub(super) stored_per_s: f64,
    /// Network to the gateways, bit a second.
    pub(super) in_bit_s: f64,
    /// Network from them.
    pub(super) out_bit_s: f64,
}

/// One resource of one gateway, with `gateways` less the spare ones at work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Resource {
    /// What.
    pub(super) name: &'static str,
    /// In what.
    pub(super) unit: &'static str,
    /// How much one gateway needs, expected.
    pub(super) expected: f64,
    /// How much by the upper end of the interval: what is planned with.
    pub(super) planned: f64,
    /// How much there is, headroom taken off.
    pub(super) available: f64,
    /// What it rests on.
    pub(super) ground: Ground,
    /// How many gateways it alone would take.
    pub(super) gateways: u32,
}

/// What a figure of a plan rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ground {
    /// On runs that reached as much.
    Measured,
    /// On runs that reached less: how many times less.
    Extrapolated(f64),
    /// On sizes of packets.
    Calculated,
}

impl Ground {
    /// The ground of `value` when `most` was measured. 5 % more is still the same.
    fn of(value: f64, most: f64) -> Self {
        if value > most * 1.05 {
            Self::Extrapolated(value / most.max(f64::MIN_POSITIVE))
        } else {
            Self::Measured
        }
    }
}

impl Resource {
    /// How far beyond what was measured the plan goes, if it does.
    pub(super) fn beyond(&self) -> Option<f64> {
        match self.ground {
            Ground::Extrapolated(times) => Some(times),
            Ground::Measured | Ground::Calculated => None,
        }
    }
}

/// What it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Size {
    /// Gateways, the spare ones among them.
    pub(super) gateways: u32,
    /// Cores of all.
    pub(super) cores: u32,
    /// What demands the most gateways.
    pub(super) bound_by: &'static str,
    /// Of one gateway, while the spare ones are away.
    pub(super) resources: Vec<Resource>,
    /// Everybody back after so many seconds, with all but the spare gateways.
    pub(super) storm_s: f64,
    /// Connects a second of one gateway then.
    pub(super) storm_connects_per_s: f64,
    /// Sub-clusters, if it is known what one stores.
    pub(super) sub_clusters: Option<u32>,
}

impl Load {
    /// What `fleet` does.
    pub(super) fn of(fleet: &Fleet) -> Self {
        let sum = |of: fn(&Devices) -> f64| fleet.devices.iter().map(of).sum::<f64>();
        let mut rates = vec![
            (Work::Connect, sum(Devices::connects_per_s)),
            (Work::Ping, sum(Devices::pings_per_s)),
        ];
        for qos in 0..=2 {
            let mut published = 0.0;
            let mut delivered = 0.0;
            for devices in fleet.devices.iter().filter(|devices| devices.qos == qos) {
                // What devices get, applications publish.
                published += devices.published_per_s() + devices.received_per_s();
                delivered +=
                    devices.published_per_s() * devices.deliveries + devices.received_per_s();
            }
            rates.extend([(Work::MessageIn(qos), published), (Work::MessageOut(qos), delivered)]);
        }
        rates.retain(|(_, rate)| *rate > 0.0);
        let stored = fleet.devices.iter().filter(|devices| devices.qos > 0);
        let (in_bit_s, out_bit_s) = network(fleet);
        Self {
            devices: sum(Devices::number),
            connections: sum(Devices::standing),
            subscriptions: sum(|devices| devices.standing() * devices.subscriptions),
            stored_per_s: stored.map(|d| d.published_per_s() + d.received_per_s()).sum(),
            rates,
            in_bit_s,
            out_bit_s,
        }
    }

    /// The kinds of work a plan needs to know the cost of: connects always, for the storm.
    pub(super) fn works(&self) -> BTreeSet<Work> {
        self.rates.iter().map(|(work, _)| *work).chain([Work::Connect]).collect()
    }

    /// The share of one of so many gateways.
    fn share(&self, gateways: f64) -> Vec<(Work, f64)> {
        self.rates.iter().map(|(work, rate)| (*work, rate / gateways)).collect()
    }
}

/// Bits a second to and from the gateways, every packet in a segment of its own.
fn network(fleet: &Fleet) -> (f64, f64) {
    let segment = SEGMENT_BYTES + if fleet.demand.tls { TLS_RECORD_BYTES } else { 0.0 };
    let (mut to, mut from) = (0.0, 0.0);
    for devices in &fleet.devices {
        // Fixed header 3, topic with its length, packet id. Source: MQTT 3.1.1 §3.3.
        let publish = segment + as_f64(devices.payload_bytes + devices.topic_bytes) + 7.0;
        // The answers of each side: PUBACK; PUBREC and PUBCOMP against PUBREL; at QoS 0 TCP's own.
        let (answer, back) = match devices.qos {
            0 => (SEGMENT_BYTES, 0.0),
            1 => (segment + 4.0, 0.0),
            _ => (2.0 * (segment + 4.0), segment + 4.0),
        };
        let published = devices.published_per_s() + devices.received_per_s();
        let delivered = devices.published_per_s() * devices.deliveries + devices.received_per_s();
        // CONNECT, SUBSCRIBE, two segments of TCP each way.
        let connect = 4.0 * segment + 2.0 * as_f64(devices.topic_bytes);
        let steady = devices.connects_per_s() * connect + devices.pings_per_s() * (segment + 2.0);
        to += published * (publish + back) + delivered * answer + steady;
        from += delivered * (publish + back) + published * answer + steady;
    }
    (to * 8.0, from * 8.0)
}

impl Size {
    /// The fewest gateways that do it, or `None` if not even ten thousand do.
    pub(super) fn of(
        fleet: &Fleet,
        load: &Load,
        model: &Model,
        measured: &Measured,
    ) -> Option<Self> {
        let fewest = |enough: &dyn Fn(&Resource) -> bool| {
            let mut working = 1..=GATEWAYS_MAX;
            working.find(|working| {
                resources(fleet, load, model, measured, *working).iter().all(enough)
            })
        };
        let working = fewest(&|resource| resource.planned <= resource.available)?;
        let mut resources = resources(fleet, load, model, measured, working);
        for resource in &mut resources {
            let name = resource.name;
            let alone = |other: &Resource| other.name != name || other.planned <= other.available;
            resource.gateways = fewest(&alone)?;
        }
        let tightest =
            |resource: &&Resource| (resource.gateways, resource.planned / resource.available);
        let bound_by = resources.iter().max_by(|a, b| {
            tightest(a).partial_cmp(&tightest(b)).unwrap_or(std::cmp::Ordering::Equal)
        })?;
        let bound_by = bound_by.name;
        let gateways = working + fleet.demand.spare_gateways;
        let (storm_s, storm_connects_per_s) = storm(fleet, load, model, f64::from(working));
        let stored = load.stored_per_s / (1.0 - fleet.demand.headroom);
        let sub_clusters =
            fleet.demand.sub_cluster_messages_per_s.map(|most| whole(stored / most).max(1));
        Some(Self {
            gateways,
            cores: gateways * fleet.machine.cores,
            bound_by,
            resources,
            storm_s,
            storm_connects_per_s,
            sub_clusters,
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(value: f64) -> u32 {
    value.ceil() as u32
}

/// Seconds until everybody is back with so many gateways at work, and the connects a second of one.
///
/// What steady operation leaves of the cores connects devices; that of those already back is
/// counted in full from the start, which is on the safe side.
pub(super) fn storm(fleet: &Fleet, load: &Load, model: &Model, gateways: f64) -> (f64, f64) {
    let steady = model.cores(&load.share(gateways)).upper();
    let free = f64::from(fleet.machine.cores) - steady;
    let connect_s = model.connect_s();
    if free <= 0.0 {
        return (f64::INFINITY, 0.0);
    }
    let rate = if connect_s > 0.0 { free / connect_s } else { f64::INFINITY };
    (load.connections / gateways / rate, rate)
}

fn resources(
    fleet: &Fleet,
    load: &Load,
    model: &Model,
    measured: &Measured,
    working: u32,
) -> Vec<Resource> {
    let (machine, gateways) = (&fleet.machine, f64::from(working));
    let usable = 1.0 - fleet.demand.headroom;
    let connections = load.connections / gateways;
    let subscriptions = load.subscriptions / gateways;
    let cores = model.cores(&load.share(gateways));
    let user = model.user_bytes(connections, subscriptions);
    let kernel = model.kernel_bytes(connections);
    let gib = |bytes: f64| bytes / 1_073_741_824.0;
    let memory = |pick: fn(&super::fit::Estimate) -> f64| {
        gib(pick(&user) + kernel.as_ref().map_or(0.0, pick))
    };
    let (storm_s, storm_rate) = storm(fleet, load, model, gateways);
    let storm_measured = measured.storm_connects_max.max(measured.rate_max(Work::Connect));
    let connections_max = measured.connections_max();
    let memory_measured = model.user_bytes(connections_max, 0.0).value
        + model.kernel_bytes(connections_max).map_or(0.0, |kernel| kernel.value);
    let (cores_expected, memory_expected) =
        (cores.value.max(0.0), memory(|estimate| estimate.value.max(0.0)));
    let plain = |name, unit, value, available, ground| Resource {
        name,
        unit,
        expected: value,
        planned: value,
        available,
        ground,
        gateways: 0,
    };
    let network = load.in_bit_s.max(load.out_bit_s) / gateways / 1e9;
    vec![
        Resource {
            planned: cores.upper(),
            ..plain(
                "CPU",
                "cores",
                cores_expected,
                f64::from(machine.cores) * usable,
                Ground::of(cores_expected, measured.cores_max()),
            )
        },
        Resource {
            planned: memory(super::fit::Estimate::upper),
            ..plain(
                "memory",
                "GiB",
                memory_expected,
                machine.memory_gib * usable,
                Ground::of(memory_expected, gib(memory_measured)),
            )
        },
        plain(
            "connections",
            "",
            connections,
            as_f64(machine.connections_max),
            Ground::of(connections, connections_max),
        ),
        plain("network", "Gbit/s", network, machine.network_gbit_s * usable, Ground::Calculated),
        plain(
            "storm, all back",
            "s",
            storm_s,
            fleet.demand.storm_s,
            Ground::of(storm_rate, storm_measured),
        ),
    ]
}
