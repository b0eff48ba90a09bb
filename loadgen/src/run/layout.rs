//! Who is there and who gets whose messages: a workload laid out over the members of a lane.
//!
//! A lane is one thread with its own devices, back ends, topics and books. With several workers each
//! has such a lane, a part of the whole in everything: what is published in one is owed in that one
//! only, so that books never have to be compared between processes.

use std::ops::Range;

use gateway::proto::mqtt::{ProtocolVersion, QoS};

use super::scenario::{Scenario, Workload};
use crate::{
    client::{ClientOptions, Publication, Topics, WillOptions},
    ledger::StreamKey,
    profile::Profile,
    random::Random,
};

/// Kinds of things that draw from the seed, for [`Random::of`].
pub(super) mod seeds {
    pub(in crate::run) const DEVICE: u64 = 1;
    pub(in crate::run) const CLEAN_START: u64 = 2;
    pub(in crate::run) const SITE: u64 = 3;
    pub(in crate::run) const FAULT: u64 = 4;
}

/// The members of a lane and the streams between them.
///
/// Members are numbered: first the back ends, then the probes, the monitor of wills, the devices, and
/// the auditor of retained messages. Publishers are numbered by topic: the workload's, then the
/// probes'; a will's is that of its member behind these.
#[derive(Debug)]
pub(super) struct Layout {
    workload: Workload,
    lane: u32,
    run: u32,
    seed: u64,
    qos: QoS,
    version: ProtocolVersion,
    payload_bytes: u32,
    window: u16,
    retain: bool,
    wills: bool,
    /// Index over all lanes of this lane's first device.
    first_device: u32,
    pub(super) back_ends: u32,
    pub(super) probes: u32,
    pub(super) devices: u32,
    /// Topics of the workload, without those of probes and wills.
    pub(super) topics: u32,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A program in a data centre: number.
    BackEnd(u32),
    /// A client on a wire that listens to itself, to see how fast the broker is: number.
    Probe(u32),
    /// Listens to all wills.
    Monitor,
    /// A device of the fleet: number in the lane.
    Device(u32),
    /// Comes at the end and looks at all retained messages.
    Auditor,
}

impl Layout {
    /// The part of `lane` of `lanes` in `scenario`; `run` tells its names from those of other runs.
    pub(super) fn new(scenario: &Scenario, run: u32, lane: u32, lanes: u32) -> Self {
        let devices = part(scenario.devices, lane, lanes);
        let first_device = (0..lane).map(|before| part(scenario.devices, before, lanes)).sum();
        let needs_back_ends = match scenario.workload {
            Workload::FanIn | Workload::FanOut | Workload::Shared => true,
            Workload::Commands | Workload::Persistent | Workload::Storm => true,
            Workload::Connect | Workload::Idle | Workload::P2p => false,
        };
        let back_ends =
            if needs_back_ends { part(scenario.back_ends, lane, lanes).max(1) } else { 0 };
        let topics = match scenario.workload {
            Workload::Connect | Workload::Idle => 0,
            Workload::FanIn | Workload::Shared | Workload::P2p => devices,
            Workload::Commands | Workload::Persistent | Workload::Storm => devices,
            Workload::FanOut => back_ends,
        };
        Self {
            workload: scenario.workload,
            lane,
            run,
            seed: scenario.seed,
            qos: scenario.qos(),
            version: scenario.version(),
            payload_bytes: scenario.payload_bytes,
            window: scenario.window,
            retain: scenario.retain,
            wills: scenario.wills,
            first_device,
            back_ends,
            probes: part(scenario.probes, lane, lanes),
            devices,
            topics,
        }
    }

    /// Members of the lane.
    pub(super) fn members(&self) -> u32 {
        self.devices_from() + self.devices + u32::from(self.retain)
    }

    /// The member that looks at retained messages, if one does; it is the last.
    pub(super) fn auditor(&self) -> Option<u32> {
        self.retain.then(|| self.members() - 1)
    }

    /// The first member that is a device.
    pub(super) fn devices_from(&self) -> u32 {
        self.back_ends + self.probes + u32::from(self.wills)
    }

    /// Publishers of the lane, those of probes included.
    pub(super) fn publishers(&self) -> u32 {
        self.topics + self.probes
    }

    /// What member `index` is.
    pub(super) fn role(&self, index: u32) -> Role {
        if index < self.back_ends {
            Role::BackEnd(index)
        } else if index < self.back_ends + self.probes {
            Role::Probe(index - self.back_ends)
        } else if index < self.devices_from() {
            Role::Monitor
        } else if index < self.devices_from() + self.devices {
            Role::Device(index - self.devices_from())
        } else {
            Role::Auditor
        }
    }

    /// The member that publishes what `publisher` is stamped on.
    pub(super) fn owner(&self, publisher: u32) -> u32 {
        if publisher >= self.topics {
            return self.back_ends + (publisher - self.topics);
        }
        match self.workload {
            Workload::FanIn | Workload::Shared | Workload::P2p => self.devices_from() + publisher,
            Workload::FanOut => publisher,
            Workload::Commands | Workload::Persistent | Workload::Storm => {
                publisher % self.back_ends
            }
            Workload::Connect | Workload::Idle => 0,
        }
    }

    /// Whether `publisher` is a probe's.
    pub(super) fn is_probe(&self, publisher: u32) -> bool {
        publisher >= self.topics
    }

    /// The publishers whose messages member `index` is owed.
    pub(super) fn interest(&self, index: u32) -> Range<u32> {
        match (self.role(index), self.workload) {
            (Role::Probe(probe), _) => self.topics + probe..self.topics + probe + 1,
            (Role::BackEnd(_), Workload::FanIn | Workload::Shared)
            | (Role::Device(_), Workload::FanOut) => 0..self.topics,
            (Role::Device(device), Workload::P2p) => {
                let peer = self.peer(device);
                peer..peer + 1
            }
            (Role::Device(device), Workload::Commands | Workload::Persistent | Workload::Storm) => {
                device..device + 1
            }
            (Role::BackEnd(_) | Role::Device(_) | Role::Monitor | Role::Auditor, _) => 0..0,
        }
    }

    /// In whose name member `index` is owed messages: members of a shared subscription share one.
    pub(super) fn subscriber(&self, index: u32) -> u32 {
        match (self.role(index), self.workload) {
            (Role::BackEnd(_), Workload::Shared) => 0,
            _ => index,
        }
    }

    /// Whether messages come to members in the order they were published.
    pub(super) fn is_ordered(&self) -> bool {
        self.workload != Workload::Shared
    }

    /// Every stream in which something is owed.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamKey> + '_ {
        let shared = self.workload == Workload::Shared;
        (0..self.members())
            .filter(move |index| !(shared && (1..self.back_ends).contains(index)))
            .flat_map(|index| {
                let subscriber = self.subscriber(index);
                self.interest(index).map(move |publisher| StreamKey { subscriber, publisher })
            })
    }

    /// How many members get each message of `publisher`.
    pub(super) fn deliveries(&self, publisher: u32) -> u64 {
        match self.workload {
            _ if self.is_probe(publisher) => 1,
            Workload::FanIn => u64::from(self.back_ends),
            Workload::FanOut => u64::from(self.devices),
            _ => 1,
        }
    }

    /// What decides all that happens to member `index`: the same in every run of a seed, however
    /// many workers there are.
    pub(super) fn random(&self, index: u32) -> Random {
        match self.role(index) {
            Role::Device(device) => {
                Random::of(self.seed, seeds::DEVICE, u64::from(self.first_device + device))
            }
            Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => {
                let place = u64::from(self.lane) << 32 | u64::from(index);
                Random::of(self.seed, seeds::DEVICE, u64::MAX - place)
            }
        }
    }

    /// Index over all lanes of the device `device` of this one.
    pub(super) fn global_device(&self, device: u32) -> u32 {
        self.first_device + device
    }

    /// The MQTT client of member `index`, whose kind is `profile`.
    pub(super) fn client(&self, index: u32, profile: &Profile) -> ClientOptions {
        let role = self.role(index);
        let (run, lane) = (self.run, self.lane);
        let clean_start = match role {
            Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => false,
            Role::Device(device) => {
                let global = u64::from(self.first_device + device);
                Random::of(self.seed, seeds::CLEAN_START, global)
                    .happens(profile.session.clean_start)
            }
        };
        ClientOptions {
            version: self.version,
            client_id: format!("{run:08x}-{lane}-{index}").into(),
            clean_start,
            session_expiry_interval_s: if clean_start {
                0
            } else {
                whole(profile.session.expiry_s)
            },
            keep_alive_s: u16::try_from(whole(profile.session.keep_alive_s)).unwrap_or(u16::MAX),
            subscription: self.filter(index).map(|filter| (filter.into(), self.qos)),
            publication: self.publishes(role).then(|| self.publication(role, profile)),
            will: self.has_will(index).then(|| self.will(index)),
        }
    }

    /// Whether member `index` has a will.
    pub(super) fn has_will(&self, index: u32) -> bool {
        self.wills && matches!(self.role(index), Role::Device(_))
    }

    /// The publisher that the will of member `index` is stamped with.
    pub(super) fn will_publisher(&self, index: u32) -> u32 {
        self.publishers() + index
    }

    fn will(&self, index: u32) -> Box<WillOptions> {
        let topics = Topics::Numbered(format!("{}will/", self.prefix()).into());
        let publisher = self.will_publisher(index);
        Box::new(WillOptions { topics, publisher, epoch: self.run })
    }

    fn publishes(&self, role: Role) -> bool {
        match (role, self.workload) {
            (Role::Probe(_), _)
            | (Role::Device(_), Workload::FanIn | Workload::Shared | Workload::P2p) => true,
            (
                Role::BackEnd(_),
                Workload::FanOut | Workload::Commands | Workload::Persistent | Workload::Storm,
            ) => true,
            (Role::Device(_) | Role::BackEnd(_) | Role::Monitor | Role::Auditor, _) => false,
        }
    }

    fn publication(&self, role: Role, profile: &Profile) -> Publication {
        let prefix = self.prefix();
        let topics = match role {
            Role::Probe(_) => format!("{prefix}probe/"),
            Role::BackEnd(_) | Role::Device(_) | Role::Monitor | Role::Auditor => {
                format!("{prefix}d/")
            }
        };
        let old = self.version != ProtocolVersion::V5;
        Publication {
            topics: Topics::Numbered(topics.into()),
            qos: self.qos,
            retain: self.retain && !matches!(role, Role::Probe(_)),
            payload_bytes: self.payload_bytes,
            window: self.window,
            retransmit_after_ms: if old { profile.retransmit_after_ms } else { 0 },
        }
    }

    fn filter(&self, index: u32) -> Option<String> {
        let prefix = self.prefix();
        match (self.role(index), self.workload) {
            (Role::Probe(probe), _) => Some(format!("{prefix}probe/{}", self.topics + probe)),
            (Role::BackEnd(_), Workload::FanIn) | (Role::Device(_), Workload::FanOut) => {
                Some(format!("{prefix}d/+"))
            }
            (Role::BackEnd(_), Workload::Shared) => {
                Some(format!("$share/g{:08x}-{}/{prefix}d/+", self.run, self.lane))
            }
            (Role::Device(device), Workload::P2p) => {
                Some(format!("{prefix}d/{}", self.peer(device)))
            }
            (
                Role::Device(device),
                Workload::Commands | Workload::Persistent | Workload::Storm | Workload::Idle,
            ) => Some(format!("{prefix}d/{device}")),
            (Role::Monitor, _) => Some(format!("{prefix}will/+")),
            (Role::Auditor, _) => Some(format!("{prefix}d/+")),
            (Role::BackEnd(_) | Role::Device(_), _) => None,
        }
    }

    /// Whom device `device` listens to: pairs talk to each other, a last one alone to itself.
    fn peer(&self, device: u32) -> u32 {
        let peer = device ^ 1;
        if peer < self.devices { peer } else { device }
    }

    fn prefix(&self) -> String {
        format!("fleet/{:08x}/{}/", self.run, self.lane)
    }
}

/// The share of lane `lane` of `whole`.
fn part(whole: u32, lane: u32, lanes: u32) -> u32 {
    whole / lanes + u32::from(lane < whole % lanes)
}

/// A number of seconds whose range was checked.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and the profile allows no negative times"
)]
fn whole(seconds: f64) -> u32 {
    seconds.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(workload: Workload, devices: u32, lane: u32, lanes: u32) -> Layout {
        let scenario =
            Scenario { workload, devices, back_ends: 2, probes: lanes, ..Scenario::example() };
        Layout::new(&scenario, 1, lane, lanes)
    }

    #[test]
    fn every_device_is_in_exactly_one_lane_and_keeps_its_fate() {
        let whole = layout(Workload::P2p, 7, 0, 1);
        let mut fates: Vec<_> = (1..8).map(|index| whole.random(index)).collect();
        for lane in (0..3).rev() {
            let part = layout(Workload::P2p, 7, lane, 3);
            for index in (1..=part.devices).rev() {
                assert_eq!(fates.pop(), Some(part.random(index)), "lane {lane}");
            }
        }
        assert_eq!(fates, []);
    }

    #[test]
    fn probes_are_spread_over_the_lanes() {
        let scenario = Scenario { probes: 2, ..Scenario::example() };
        let probes = (0..3).map(|lane| Layout::new(&scenario, 1, lane, 3).probes);
        assert_eq!(probes.collect::<Vec<_>>(), [1, 1, 0]);
    }

    #[test]
    fn what_is_subscribed_to_is_what_is_owed() {
        for workload in Workload::ALL {
            let layout = layout(workload, 5, 0, 1);
            let profile = Profile::wire();
            let topic = |publisher: u32| {
                let owner = layout.client(layout.owner(publisher), &profile);
                let mut topic = String::new();
                owner.publication.unwrap().topics.write(publisher, &mut topic);
                topic
            };
            for index in 0..layout.members() {
                let interest = layout.interest(index);
                if matches!(layout.role(index), Role::Monitor | Role::Auditor) {
                    continue;
                }
                let filter = layout.client(index, &profile).subscription.map(|(filter, _)| filter);
                let Some(filter) = filter else {
                    assert_eq!(interest.len(), 0, "{workload:?} {index}");
                    continue;
                };
                let plain = filter.rsplit_once("fleet/").unwrap().1;
                for publisher in 0..layout.publishers() {
                    let topic = topic(publisher);
                    let topic = topic.strip_prefix("fleet/").unwrap();
                    let matches = match plain.strip_suffix('+') {
                        Some(prefix) => topic.starts_with(prefix),
                        None => topic == plain,
                    };
                    assert_eq!(matches, interest.contains(&publisher), "{workload:?} {index}");
                }
            }
        }
    }

    #[test]
    fn pairs_listen_to_each_other() {
        let layout = layout(Workload::P2p, 5, 0, 1);
        let heard: Vec<_> = (1..6).map(|index| layout.interest(index).start).collect();
        assert_eq!(heard, [1, 0, 3, 2, 4]);
    }

    #[test]
    fn a_shared_subscription_is_owed_each_message_once() {
        let layout = layout(Workload::Shared, 5, 0, 1);
        assert_eq!(layout.streams().filter(|key| !layout.is_probe(key.publisher)).count(), 5);
    }
}
