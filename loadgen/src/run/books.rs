//! What a lane counts: the ledger, the times and what happened to connections, by phase.

use ahash::AHashMap;

use super::layout::{Layout, Role};
use crate::{
    client::Event,
    device::{self, Ending, Told},
    ledger::{Delivery, Ledger, Published, Settlement, StreamKey, wills::Wills},
    payload::Stamp,
    result::{FleetCounts, PhaseRecord, Tally},
};

/// Faults of connections kept by name.
const FAULTS_KEPT: usize = 8;

/// The books of a lane.
pub(super) struct LaneBooks {
    pub(super) layout: Layout,
    /// The second at hand.
    pub(super) tally: Tally,
    pub(super) run: u32,
    pub(super) ledger: Ledger,
    /// By publisher, those of probes included.
    pub(super) published: Vec<Published>,
    pub(super) wills: Wills,
    /// Sequence of the retained message of each topic, as the auditor got it.
    pub(super) retained: AHashMap<u32, u64>,
    /// By phase; the last is the settling.
    pub(super) phases: Vec<PhaseRecord>,
    /// When each phase begins.
    pub(super) phase_starts_ns: Vec<u64>,
    pub(super) phase: usize,
    pub(super) counts: FleetCounts,
    pub(super) sessions_lost: u64,
    /// A member of the shared subscription has SUBACK.
    group_subscribed: bool,
    pub(super) faults: Vec<String>,
    /// When each member dialed last.
    pub(super) dialed_ns: Vec<u64>,
    /// Members that were hit by the fault at hand and are not back.
    pub(super) recovering: Vec<bool>,
    /// When the fault was over.
    pub(super) recovery_from_ns: u64,
    /// Members that are ready.
    pub(super) ready: u32,
    /// Anything that shows the broker works: a delivery, an acknowledgement, a connection.
    pub(super) last_sign_ns: u64,
}

/// The books of a lane as one of its members uses them.
pub(super) struct MemberBooks<'a> {
    pub(super) lane: &'a mut LaneBooks,
    pub(super) member: u32,
    pub(super) now_ns: u64,
}

impl LaneBooks {
    /// Books in which nothing happened, for phases that begin at `phase_starts_ns`.
    pub(super) fn new(layout: Layout, run: u32, phase_starts_ns: Vec<u64>, tally: Tally) -> Self {
        let ledger = Ledger::new(run);
        let members = layout.members() as usize;
        Self {
            ledger: if layout.is_ordered() { ledger } else { ledger.unordered() },
            published: vec![Published::default(); layout.publishers() as usize],
            wills: Wills::default(),
            retained: AHashMap::new(),
            phases: vec![PhaseRecord::default(); phase_starts_ns.len()],
            phase_starts_ns,
            phase: 0,
            counts: FleetCounts::default(),
            sessions_lost: 0,
            group_subscribed: false,
            faults: Vec::new(),
            dialed_ns: vec![0; members],
            recovering: vec![false; members],
            recovery_from_ns: 0,
            ready: 0,
            last_sign_ns: 0,
            layout,
            tally,
            run,
        }
    }

    /// The phase at hand.
    pub(super) fn now(&mut self) -> &mut PhaseRecord {
        let phase = self.phase.min(self.phases.len() - 1);
        self.phases.get_mut(phase).expect("there is at least the settling phase")
    }

    /// The phase in which something was intended.
    pub(super) fn at(&mut self, intended_ns: u64) -> &mut PhaseRecord {
        let after = self.phase_starts_ns.partition_point(|start_ns| *start_ns <= intended_ns);
        let phase = after.saturating_sub(1).min(self.phases.len() - 1);
        self.phases.get_mut(phase).expect("there is at least the settling phase")
    }

    /// Whether everything owed has come.
    pub(super) fn is_complete(&self) -> bool {
        self.layout.streams().all(|key| {
            self.published
                .get(key.publisher as usize)
                .is_none_or(|published| self.ledger.is_complete(key, published))
        })
    }

    /// Holds what came against what was sent.
    pub(super) fn settle(&mut self) -> Settlement {
        let ledger = std::mem::replace(&mut self.ledger, Ledger::new(self.run));
        let mut settlement = ledger.settle(&self.published, self.layout.streams());
        settlement.sessions_lost = self.sessions_lost;
        if self.layout.auditor().is_some() {
            settlement.retained_wrong = self.retained_wrong();
        }
        let wills = self.wills.settle();
        settlement.wills_missing = wills.missing;
        settlement.wills_unexpected = wills.unexpected;
        self.counts.wills_owed = wills.owed;
        self.counts.wills_duplicated = wills.duplicated;
        settlement
    }

    /// Topics whose retained message is older than the last one acknowledged, or not there.
    pub(super) fn retained_wrong(&self) -> u64 {
        let is_wrong = |(publisher, published): (u32, &Published)| {
            let last = (0..published.count).rev().find(|n| published.acknowledged.contains(*n));
            match (last, self.retained.get(&publisher)) {
                (Some(last), Some(got)) => !(last..published.count).contains(got),
                (Some(_), None) => true,
                (None, Some(got)) => *got >= published.count,
                (None, None) => false,
            }
        };
        let topics = self.published.iter().take(self.layout.topics as usize);
        (0..).zip(topics).filter(|topic| is_wrong(*topic)).count() as u64
    }

    /// The last of `connects` connections of `member` was closed when its broker had closed it, too:
    /// whether the broker had read the DISCONNECT, or had given up and published the will, nobody
    /// can say.
    pub(super) fn doubt_goodbye(&mut self, member: u32, connects: u32) {
        let Some(connect) = connects.checked_sub(1) else { return };
        if self.layout.has_will(member) && self.wills.doubt(member, connect) {
            self.counts.ended_gracefully -= 1;
            self.counts.ended_unknown += 1;
        }
    }

    fn keep_fault(&mut self, member: u32, fault: &dyn std::fmt::Debug) {
        self.counts.faults += 1;
        self.name_fault(member, &format_args!("{fault:?}"));
    }

    fn name_fault(&mut self, member: u32, fault: &dyn std::fmt::Display) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(format!("{:?}: {fault}", self.layout.role(member)));
        }
    }
}

impl device::Books for MemberBooks<'_> {
    fn stamp(&mut self, publisher: u32, intended_ns: u64, now_ns: u64) -> Stamp {
        let epoch = self.lane.run;
        let mut sequence = 0;
        if let Some(published) = self.lane.published.get_mut(publisher as usize) {
            sequence = published.count;
            published.count += 1;
        }
        self.lane.now().counts.published += 1;
        let owed = self.lane.layout.deliveries(publisher);
        let point = &mut self.lane.tally.point;
        point.published += 1;
        point.owed += owed;
        Stamp { publisher, epoch, sequence, intended_ns, sent_ns: now_ns }
    }

    fn hear(&mut self, told: Told<'_>) {
        match told {
            Told::Event(event) => self.hear_event(event),
            Told::Secured(secured) => {
                let phase = self.lane.now();
                let times =
                    if secured.resumed { &mut phase.tls_resumed } else { &mut phase.tls_full };
                times.record_ns(secured.after_ns);
            }
            Told::Upgraded { after_ns } => self.lane.now().upgrade.record_ns(after_ns),
            Told::Accepted { after_ns } => self.lane.now().connack.record_ns(after_ns),
            Told::LayerFault(fault) => {
                self.lane.counts.layer_faults += 1;
                self.lane.tally.point.connections_lost += 1;
                self.lane.name_fault(self.member, &fault);
            }
            Told::Fault(fault) => self.lane.keep_fault(self.member, &fault),
            Told::Unanswered => self.lane.counts.unanswered += 1,
            Told::Refused => {
                self.lane.counts.refused += 1;
                self.lane.tally.point.connections_lost += 1;
            }
            Told::GivenUp { .. } => self.lane.counts.given_up += 1,
            Told::Ended { connect, ending } => self.ended(connect, ending),
        }
    }
}

impl MemberBooks<'_> {
    fn hear_event(&mut self, event: Event<'_>) {
        let lane = &mut *self.lane;
        match event {
            Event::SessionBegan { lost } => self.session_began(lost),
            Event::Subscribed => self.subscribed(),
            Event::Ready { session_present } => self.ready(session_present),
            Event::Acknowledged(stamp) => {
                if let Some(published) = lane.published.get_mut(stamp.publisher as usize) {
                    published.acknowledged.insert(stamp.sequence);
                }
                lane.last_sign_ns = self.now_ns;
                lane.now().counts.acknowledged += 1;
                lane.tally.point.acknowledged += 1;
                let took_ns = self.now_ns.saturating_sub(stamp.sent_ns);
                lane.at(stamp.intended_ns).acknowledgement.record_ns(took_ns);
            }
            Event::Discarded(stamp) => {
                lane.counts.discarded += 1;
                if let Some(published) = lane.published.get_mut(stamp.publisher as usize)
                    && let Err(place) = published.discarded.binary_search(&stamp.sequence)
                {
                    published.discarded.insert(place, stamp.sequence);
                }
            }
            Event::Delivered { payload, retain } => self.delivered(payload, retain),
        }
    }

    /// What is published from now on is owed. A shared subscription begins with its first member, and
    /// its session does not end: its members are on a wire.
    fn subscribed(&mut self) {
        let lane = &mut *self.lane;
        let begins = lane.layout.is_ordered() || !lane.group_subscribed;
        if !begins {
            return;
        }
        let subscriber = lane.layout.subscriber(self.member);
        for publisher in lane.layout.interest(self.member) {
            let first = lane.published.get(publisher as usize).map_or(0, |sent| sent.count);
            lane.ledger.subscribed(StreamKey { subscriber, publisher }, first);
        }
        let is_back_end = matches!(lane.layout.role(self.member), Role::BackEnd(_));
        lane.group_subscribed |= is_back_end;
    }

    fn session_began(&mut self, lost: bool) {
        let lane = &mut *self.lane;
        if lost {
            lane.sessions_lost += 1;
        }
        if !lane.layout.is_ordered() {
            return;
        }
        let subscriber = lane.layout.subscriber(self.member);
        for publisher in lane.layout.interest(self.member) {
            if let Some(published) = lane.published.get(publisher as usize) {
                lane.ledger.session_ended(StreamKey { subscriber, publisher }, published);
            }
        }
    }

    fn ready(&mut self, session_present: bool) {
        let lane = &mut *self.lane;
        lane.last_sign_ns = self.now_ns;
        lane.counts.sessions_resumed += u64::from(session_present);
        let dialed_ns = lane.dialed_ns.get(self.member as usize).copied().unwrap_or_default();
        let now_ns = self.now_ns;
        let phase = lane.now();
        phase.counts.connects += 1;
        phase.connect.record_ns(now_ns.saturating_sub(dialed_ns));
        lane.tally.point.connects += 1;
        if let Some(recovering) = lane.recovering.get_mut(self.member as usize)
            && std::mem::take(recovering)
        {
            let from_ns = lane.recovery_from_ns;
            if let Some(fault) = lane.fault_phase() {
                fault.counts.recovered += 1;
                fault.recovery.record_ns(now_ns.saturating_sub(from_ns));
            }
        }
    }

    fn delivered(&mut self, payload: &[u8], retain: bool) {
        let lane = &mut *self.lane;
        let Some(stamp) = Stamp::read(payload) else {
            lane.ledger.corrupted();
            return;
        };
        lane.last_sign_ns = self.now_ns;
        match lane.layout.role(self.member) {
            Role::Monitor => {
                let member = stamp.publisher.wrapping_sub(lane.layout.publishers());
                lane.wills.came(member, u32::try_from(stamp.sequence).unwrap_or(u32::MAX));
                return;
            }
            Role::Auditor => {
                lane.retained.insert(stamp.publisher, stamp.sequence);
                return;
            }
            Role::BackEnd(_) | Role::Probe(_) | Role::Device(_) => {}
        }
        if retain {
            lane.counts.retained += 1;
            return;
        }
        let subscriber = lane.layout.subscriber(self.member);
        match lane.ledger.delivered(subscriber, &stamp) {
            Delivery::First => {}
            Delivery::Early => {
                lane.counts.early += 1;
                return;
            }
            Delivery::Duplicate | Delivery::Foreign => return,
        }
        let now_ns = self.now_ns;
        lane.now().counts.delivered += 1;
        lane.tally.point.delivered += 1;
        let is_probe = lane.layout.is_probe(stamp.publisher);
        let phase = lane.at(stamp.intended_ns);
        let waited_ns = now_ns.saturating_sub(stamp.intended_ns);
        if is_probe {
            phase.probe.record_ns(waited_ns);
        } else {
            phase.latency.record_ns(waited_ns);
            phase.latency_uncorrected.record_ns(now_ns.saturating_sub(stamp.sent_ns));
            lane.tally.point.latency.record_ns(waited_ns);
        }
    }

    fn ended(&mut self, connect: u32, ending: Ending) {
        let counts = &mut self.lane.counts;
        match ending {
            Ending::Graceful => counts.ended_gracefully += 1,
            Ending::Ungraceful => counts.ended_ungracefully += 1,
            Ending::ByBroker => {
                counts.ended_by_broker += 1;
                self.lane.tally.point.connections_lost += 1;
            }
            Ending::Unknown => counts.ended_unknown += 1,
        }
        if self.lane.layout.has_will(self.member) {
            self.lane.wills.ended(self.member, connect, ending);
        }
    }
}

impl LaneBooks {
    /// The last phase with a fault.
    fn fault_phase(&mut self) -> Option<&mut PhaseRecord> {
        let until = (self.phase + 1).min(self.phases.len());
        self.phases.get_mut(..until)?.iter_mut().rev().find(|phase| phase.counts.hit > 0)
    }
}
