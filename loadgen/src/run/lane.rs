//! One thread of a run: its devices, its engine, its part of the load.
//!
//! ```text
//!            due messages ─┐
//! timers ─▶ Device ◀───────┴── bytes ── Engine ── io_uring ── broker
//!              └── bytes, actions ────────▲
//! ```

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    mem::take,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    books::{LaneBooks, MemberBooks},
    layout::{Layout, Role, seeds},
    load::Load,
    scenario::{Fault, FaultKind, PhaseKind, Scenario},
    site::Sites,
    slots::Slots,
};
use crate::{
    client::Scratch,
    clock::Clock,
    device::{Action, Context, Device, Output},
    engine::{Driver, Engine, Flow},
    ledger::Settlement,
    profile::Profile,
    random::Random,
    result::{FleetCounts, PhaseRecord, Tally},
    schedule::Schedule,
    transport::{Layers, Transport},
};

const NEVER: u64 = u64::MAX;
/// No connection, no member.
const NONE: u32 = u32::MAX;
/// How long a sweep waits at most.
const NAP: Duration = Duration::from_millis(5);
/// What is due within this time is gathered into one system call.
const TICK: Duration = Duration::from_micros(250);
/// While settling, the books are looked at when nothing came for so long.
const SETTLE_LOOK_NS: u64 = 200_000_000;
/// A run that does not settle within so many of its quiet times is over all the same. Bytes that a
/// slow link loses again and again come minutes later.
const SETTLE_QUIETS_MAX: u64 = 24;
/// After everything owed came, duplicates may still come for this long.
const DUPLICATES_NS: u64 = 300_000_000;
/// Devices get this long to say goodbye.
const GOODBYE_NS: u64 = 3_000_000_000;

/// The part of a run that one lane has.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The whole.
    pub(super) scenario: Scenario,
    /// What the devices are.
    pub(super) profile: Profile,
    /// Tells this run from others.
    pub(super) run: u32,
    /// Which lane.
    pub(super) lane: u32,
    /// Of how many.
    pub(super) lanes: u32,
    /// The broker.
    pub(super) target: SocketAddr,
    /// What carries MQTT to it; `None`: TCP alone.
    pub(super) transport: Option<Arc<Transport>>,
    /// Addresses to come from, in turn; empty: those of 127.0.0.0/8, one a device, if the broker is
    /// there, else what the system chooses.
    pub(super) sources: Vec<Ipv4Addr>,
    /// Connections the process may have open.
    pub(super) connections_max: u32,
}

/// What a lane brings home.
pub(super) struct LaneOutcome {
    pub(super) settlement: Settlement,
    /// By phase; the last is the settling.
    pub(super) phases: Vec<PhaseRecord>,
    pub(super) counts: FleetCounts,
    pub(super) faults: Vec<String>,
}

/// Runs the part from `start_ns` on.
///
/// # Errors
///
/// What io_uring says, and that no socket can be made.
pub(super) fn run(
    part: &Part,
    start_ns: u64,
    clock: Clock,
    tally: Tally,
) -> io::Result<LaneOutcome> {
    let mut fleet = Fleet::new(part, start_ns, tally);
    let slots = fleet.slots.count();
    let mut engine = Engine::new(part.target, slots, 0, clock)?;
    let mut load = Load::new(part);
    loop {
        let now_ns = clock.now_ns();
        fleet.follow_phases(now_ns, &mut engine, &mut load)?;
        if fleet.is_over(now_ns) {
            break;
        }
        fleet.begin_members(now_ns, &mut engine)?;
        fleet.publish_due(now_ns, &mut load, &mut engine)?;
        fleet.run_sites(now_ns, &mut engine)?;
        fleet.run_timers(now_ns, &mut engine)?;
        let next_ns = load.next_due_ns().min(fleet.next_due_ns());
        let wait = Duration::from_nanos(next_ns.saturating_sub(clock.now_ns())).clamp(TICK, NAP);
        engine.sweep(wait, &mut fleet)?;
        fleet.perform_commands(&mut engine)?;
        fleet.show(clock.now_ns());
    }
    fleet.take_stock();
    fleet.audit(&mut engine, clock)?;
    let settlement = fleet.books.settle();
    fleet.say_goodbye(&mut engine, clock)?;
    let books = fleet.books;
    Ok(LaneOutcome { settlement, phases: books.phases, counts: books.counts, faults: books.faults })
}

/// The members of a lane and what connects them to their engine.
struct Fleet<'p> {
    part: &'p Part,
    wire: Profile,
    members: Vec<Member>,
    books: LaneBooks,
    sites: Sites,
    slots: Slots,
    /// Members that wait for a free connection.
    pending: VecDeque<(u32, u16)>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    /// What members wanted while the engine was busy telling them something.
    commands: Vec<(u32, Action)>,
    output: Output,
    scratch: Scratch,
    /// Members that were switched on, in their order, and when the next ones are.
    begun: u32,
    begin: Schedule,
    settle_look_ns: u64,
    complete_since_ns: u64,
}

struct Member {
    device: Device,
    /// Its connection, or [`NONE`].
    slot: u32,
    /// The earliest of its timers.
    timer_ns: u64,
}

impl<'p> Fleet<'p> {
    fn new(part: &'p Part, start_ns: u64, tally: Tally) -> Self {
        let layout = Layout::new(&part.scenario, part.run, part.lane, part.lanes);
        let wire = Profile::wire();
        let members: Vec<Member> = (0..layout.members())
            .map(|index| {
                let profile = match layout.role(index) {
                    Role::Device(_) => &part.profile,
                    Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => &wire,
                };
                let options = layout.client(index, profile);
                let mut device = Device::new(options, profile, layout.random(index));
                if let Some(transport) = &part.transport {
                    device = device.over(|seed| Layers::new(Arc::clone(transport), seed));
                }
                Member { device, slot: NONE, timer_ns: NEVER }
            })
            .collect();
        let mut starts_ns = vec![start_ns];
        let mut at_ns = start_ns;
        for phase in &part.scenario.phases {
            at_ns += phase.duration_ns();
            starts_ns.push(at_ns);
        }
        let lanes = u64::from(part.lanes);
        Self {
            sites: Sites::new(part, &layout, start_ns),
            books: LaneBooks::new(layout, part.run, starts_ns, tally),
            members,
            wire,
            slots: Slots::new(part.connections_max),
            pending: VecDeque::new(),
            timers: BinaryHeap::new(),
            commands: Vec::new(),
            output: Output::default(),
            scratch: Scratch::default(),
            begun: 0,
            begin: Schedule::new(
                start_ns,
                part.scenario.connect_per_s,
                u64::from(part.lane),
                lanes,
            ),
            settle_look_ns: 0,
            complete_since_ns: NEVER,
            part,
        }
    }

    /// Says how things are, once a second.
    fn show(&mut self, now_ns: u64) {
        let in_use = self.slots.in_use();
        let ready = u64::from(self.books.ready);
        let point = &mut self.books.tally.point;
        point.connected = ready;
        point.connecting = (in_use as u64).saturating_sub(ready);
        self.books.tally.tick(now_ns);
    }

    /// Index of the settling, behind the last phase.
    fn settling(&self) -> usize {
        self.part.scenario.phases.len()
    }

    fn follow_phases(
        &mut self,
        now_ns: u64,
        engine: &mut Engine,
        load: &mut Load,
    ) -> io::Result<()> {
        if self.books.phase == 0 && !load.has_begun() {
            self.enter_phase(now_ns, engine, load)?;
        }
        while self.books.phase < self.settling()
            && self.books.phase_starts_ns.get(self.books.phase + 1).is_some_and(|at| *at <= now_ns)
        {
            self.leave_phase(now_ns, engine)?;
            self.books.phase += 1;
            self.enter_phase(now_ns, engine, load)?;
        }
        Ok(())
    }

    fn enter_phase(&mut self, now_ns: u64, engine: &mut Engine, load: &mut Load) -> io::Result<()> {
        let phase = self.books.phase;
        let starts_ns = &self.books.phase_starts_ns;
        let start_ns = starts_ns.get(phase).copied().unwrap_or(now_ns);
        let end_ns = starts_ns.get(phase + 1).copied().unwrap_or(start_ns);
        let Some(scenario) = self.part.scenario.phases.get(phase) else {
            load.stop();
            self.books.last_sign_ns = now_ns;
            return self.for_each_begun(now_ns, engine, |device, context| {
                device.power_on(0, context);
                device.settle(context);
            });
        };
        let topics = self.books.layout.topics;
        let ramp = scenario.kind == PhaseKind::Ramp;
        let probes = if ramp { 0 } else { self.books.layout.probes };
        load.enter(start_ns, end_ns, if topics > 0 { scenario.load } else { 0.0 }, probes);
        match scenario.fault {
            Some(fault) => self.hit(fault, now_ns, engine),
            None => Ok(()),
        }
    }

    fn leave_phase(&mut self, now_ns: u64, engine: &mut Engine) -> io::Result<()> {
        let phase = self.part.scenario.phases.get(self.books.phase);
        let Some(fault) = phase.and_then(|phase| phase.fault) else { return Ok(()) };
        match fault.what {
            FaultKind::PowerCut => {
                self.books.recovery_from_ns = now_ns;
                self.sites.release(now_ns);
                let profile = &self.part.profile;
                self.for_each_begun(now_ns, engine, |device, context| {
                    let boot_ns = device.boot_ns(profile);
                    device.power_on(boot_ns, context);
                })
            }
            FaultKind::LinkOutage => {
                self.books.recovery_from_ns = now_ns;
                for index in self.hit_members(fault) {
                    self.act(index, now_ns, engine, Device::link_back)?;
                }
                Ok(())
            }
            FaultKind::Reset | FaultKind::Vanish | FaultKind::Disconnect => Ok(()),
        }
    }

    fn hit(&mut self, fault: Fault, now_ns: u64, engine: &mut Engine) -> io::Result<()> {
        let members = self.hit_members(fault);
        self.books.now().counts.hit = members.len() as u64;
        self.books.recovery_from_ns = now_ns;
        if fault.what == FaultKind::PowerCut {
            self.sites.hold();
        }
        for index in members {
            if let Some(recovering) = self.books.recovering.get_mut(index as usize) {
                *recovering = true;
            }
            self.act(index, now_ns, engine, |device, context| match fault.what {
                FaultKind::PowerCut => device.power_off(context),
                FaultKind::LinkOutage => device.link_away(context),
                FaultKind::Reset => device.break_connection(Action::Reset, context),
                FaultKind::Vanish => device.break_connection(Action::Abandon, context),
                FaultKind::Disconnect => device.break_connection(Action::Finish, context),
            })?;
        }
        Ok(())
    }

    /// The begun devices that the fault of the phase at hand hits: whole sites, from the seed.
    fn hit_members(&self, fault: Fault) -> Vec<u32> {
        let layout = &self.books.layout;
        let site = self.part.profile.site.as_ref().map_or(1, |site| site.devices);
        let kind = seeds::FAULT | (self.books.phase as u64) << 8;
        (0..self.begun)
            .filter(|index| match layout.role(*index) {
                Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => false,
                Role::Device(device) => {
                    let site = layout.global_device(device) / site;
                    Random::of(self.part.scenario.seed, kind, u64::from(site)).happens(fault.share)
                }
            })
            .collect()
    }

    /// Whether the run has settled, or nothing moves any more.
    fn is_over(&mut self, now_ns: u64) -> bool {
        if self.books.phase < self.settling() || now_ns < self.settle_look_ns {
            return false;
        }
        self.settle_look_ns = now_ns + SETTLE_LOOK_NS / 4;
        let silent_ns = now_ns.saturating_sub(self.books.last_sign_ns);
        let quiet_ns = super::seconds_ns(self.part.scenario.quiet_s);
        let started_ns = self.books.phase_starts_ns.last().copied().unwrap_or_default();
        if now_ns > started_ns + quiet_ns * SETTLE_QUIETS_MAX {
            return true;
        }
        if silent_ns > quiet_ns {
            // What is on the air will come, or the device will notice that it does not.
            return self.begun_members().all(|member| member.device.is_heard());
        }
        if silent_ns < SETTLE_LOOK_NS {
            return false;
        }
        let all_back = self.begun == self.to_begin()
            && self
                .begun_members()
                .all(|member| member.device.is_ready() && member.device.unfinished() == 0);
        if !all_back || !self.books.is_complete() || !self.books.wills.is_complete() {
            self.complete_since_ns = NEVER;
            return false;
        }
        self.complete_since_ns = self.complete_since_ns.min(now_ns);
        now_ns - self.complete_since_ns >= DUPLICATES_NS
    }

    /// Switches on what is due.
    fn begin_members(&mut self, now_ns: u64, engine: &mut Engine) -> io::Result<()> {
        while self.begun < self.to_begin() && self.begin.take_due(now_ns).is_some() {
            let index = self.begun;
            self.begun += 1;
            if self.sites.has_power(index) {
                self.act(index, now_ns, engine, |device, context| device.power_on(0, context))?;
            }
        }
        Ok(())
    }

    fn publish_due(&mut self, now_ns: u64, load: &mut Load, engine: &mut Engine) -> io::Result<()> {
        let topics = u64::from(self.books.layout.topics);
        while let Some((turn, due_ns)) = load.take_due(now_ns) {
            let publisher = u32::try_from(turn % topics).unwrap_or(0);
            self.publish(publisher, due_ns, now_ns, engine)?;
        }
        let probes = u64::from(self.books.layout.probes);
        while let Some((turn, due_ns)) = load.take_probe_due(now_ns) {
            let probe = u32::try_from(turn % probes).unwrap_or(0);
            self.publish(self.books.layout.topics + probe, due_ns, now_ns, engine)?;
        }
        Ok(())
    }

    fn publish(
        &mut self,
        publisher: u32,
        due_ns: u64,
        now_ns: u64,
        engine: &mut Engine,
    ) -> io::Result<()> {
        let lag_ns = now_ns.saturating_sub(due_ns);
        let point = &mut self.books.tally.point;
        point.lag_max_us = point.lag_max_us.max(lag_ns / 1_000);
        let phase = self.books.at(due_ns);
        phase.lag.record_ns(lag_ns);
        phase.counts.due += 1;
        let owner = self.books.layout.owner(publisher);
        self.act(owner, now_ns, engine, |device, context| {
            device.publish(publisher, due_ns, context);
        })
    }

    /// Cuts and restores the power of sites as their profile says.
    fn run_sites(&mut self, now_ns: u64, engine: &mut Engine) -> io::Result<()> {
        if self.books.phase >= self.settling() {
            return Ok(());
        }
        while let Some((site, powered)) = self.sites.take_change(now_ns) {
            let profile = &self.part.profile;
            for index in self.sites.members(site) {
                if index >= self.begun {
                    continue;
                }
                self.act(index, now_ns, engine, |device, context| {
                    if powered {
                        let boot_ns = device.boot_ns(profile);
                        device.power_on(boot_ns, context);
                    } else {
                        device.power_off(context);
                    }
                })?;
            }
        }
        Ok(())
    }

    fn run_timers(&mut self, now_ns: u64, engine: &mut Engine) -> io::Result<()> {
        while let Some(Reverse((due_ns, index))) = self.timers.peek().copied() {
            if due_ns > now_ns {
                break;
            }
            self.timers.pop();
            let Some(member) = self.members.get_mut(index as usize) else { continue };
            if member.timer_ns == due_ns {
                member.timer_ns = NEVER;
                self.act(index, now_ns, engine, Device::handle_timeout)?;
            }
        }
        Ok(())
    }

    fn next_due_ns(&self) -> u64 {
        let timer_ns = self.timers.peek().map_or(NEVER, |Reverse((due_ns, _))| *due_ns);
        let begin_ns = if self.begun == self.to_begin() { NEVER } else { self.begin.next_due_ns() };
        timer_ns.min(begin_ns).min(self.sites.next_change_ns())
    }

    /// Lets a member do something, and does what it wants done.
    fn act(
        &mut self,
        index: u32,
        now_ns: u64,
        engine: &mut Engine,
        act: impl FnOnce(&mut Device, &mut Context<'_>),
    ) -> io::Result<()> {
        let slot = self.members.get(index as usize).map_or(NONE, |member| member.slot);
        self.call(index, now_ns, engine.unsent_bytes(slot), act);
        if !self.output.send.is_empty()
            && let Some(outbox) = engine.outbox(slot)
        {
            outbox.append(&mut self.output.send);
        }
        self.output.send.clear();
        for action in take(&mut self.output.actions) {
            self.command(index, action, now_ns, engine)?;
        }
        Ok(())
    }

    fn for_each_begun(
        &mut self,
        now_ns: u64,
        engine: &mut Engine,
        mut act: impl FnMut(&mut Device, &mut Context<'_>),
    ) -> io::Result<()> {
        for index in 0..self.begun {
            self.act(index, now_ns, engine, &mut act)?;
        }
        Ok(())
    }

    /// Lets a member do something; what it wants is in `output` then.
    fn call(
        &mut self,
        index: u32,
        now_ns: u64,
        unsent_bytes: usize,
        act: impl FnOnce(&mut Device, &mut Context<'_>),
    ) {
        let Some(member) = self.members.get_mut(index as usize) else { return };
        let profile = match self.books.layout.role(index) {
            Role::Device(_) => &self.part.profile,
            Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => &self.wire,
        };
        let was_ready = member.device.is_ready();
        let mut context = Context {
            now_ns,
            profile,
            unsent_bytes,
            books: &mut MemberBooks { lane: &mut self.books, member: index, now_ns },
            scratch: &mut self.scratch,
            out: &mut self.output,
        };
        act(&mut member.device, &mut context);
        match (was_ready, member.device.is_ready()) {
            (false, true) => self.books.ready += 1,
            (true, false) => self.books.ready -= 1,
            (true, true) | (false, false) => {}
        }
        let next_ns = member.device.next_timeout_ns().max(now_ns + 1);
        if next_ns < member.timer_ns {
            member.timer_ns = next_ns;
            self.timers.push(Reverse((next_ns, index)));
        }
    }

    fn command(
        &mut self,
        index: u32,
        action: Action,
        now_ns: u64,
        engine: &mut Engine,
    ) -> io::Result<()> {
        if let Action::Connect { address } = action {
            return self.connect(index, address, now_ns, engine);
        }
        let Some(member) = self.members.get_mut(index as usize) else { return Ok(()) };
        let slot = std::mem::replace(&mut member.slot, NONE);
        let connects = member.device.client().connects();
        if slot == NONE {
            return Ok(());
        }
        self.slots.detach(slot);
        match action {
            Action::Connect { .. } => Ok(()),
            Action::Finish => {
                if !engine.is_open_at_both_ends(slot) {
                    self.books.doubt_goodbye(index, connects);
                }
                engine.close(slot);
                Ok(())
            }
            Action::Reset => engine.reset(slot),
            Action::Abandon => {
                self.slots.abandon(slot);
                engine.abandon(slot)
            }
        }
    }

    fn connect(
        &mut self,
        index: u32,
        address: u16,
        now_ns: u64,
        engine: &mut Engine,
    ) -> io::Result<()> {
        let Some(slot) = self.slots.take(index) else {
            self.pending.push_back((index, address));
            // Makes room: half-open connections are the first to go.
            return self.slots.oldest_abandoned().map_or(Ok(()), |slot| engine.reset(slot));
        };
        if let Some(member) = self.members.get_mut(index as usize) {
            member.slot = slot;
        }
        if let Some(dialed_ns) = self.books.dialed_ns.get_mut(index as usize) {
            *dialed_ns = now_ns;
        }
        engine.connect_from(slot, self.source(index, address))
    }

    /// The address a member comes from when it has had `address` others before.
    fn source(&self, index: u32, address: u16) -> Option<Ipv4Addr> {
        let layout = &self.books.layout;
        let number = match layout.role(index) {
            Role::Device(device) => layout.global_device(device),
            Role::BackEnd(_) | Role::Probe(_) | Role::Monitor | Role::Auditor => {
                u32::MAX - index - (self.part.lane << 12)
            }
        };
        let number = number.wrapping_add(u32::from(address).wrapping_mul(65_537));
        if !self.part.sources.is_empty() {
            let place = number as usize % self.part.sources.len();
            return self.part.sources.get(place).copied();
        }
        let loopback = self.part.target.is_ipv4() && self.part.target.ip().is_loopback();
        loopback.then(|| loopback_address(number))
    }

    /// Does what members wanted while the engine told them something.
    fn perform_commands(&mut self, engine: &mut Engine) -> io::Result<()> {
        let now_ns = engine.now_ns();
        for (index, action) in take(&mut self.commands) {
            self.command(index, action, now_ns, engine)?;
        }
        while self.slots.has_free()
            && let Some((index, address)) = self.pending.pop_front()
        {
            self.connect(index, address, now_ns, engine)?;
        }
        Ok(())
    }

    /// What is open at the end.
    fn take_stock(&mut self) {
        let complete = self.books.is_complete();
        let members = self.begun_members().map(|member| &member.device);
        let ready =
            members.filter(|device| device.is_ready() && (complete || device.is_heard())).count();
        let unfinished: usize = self.begun_members().map(|member| member.device.unfinished()).sum();
        self.books.counts.away_at_the_end = u64::from(self.to_begin()) - ready as u64;
        self.books.counts.unfinished = unfinished as u64;
    }

    /// Lets the auditor come and look at all retained messages.
    fn audit(&mut self, engine: &mut Engine, clock: Clock) -> io::Result<()> {
        let Some(auditor) = self.books.layout.auditor() else { return Ok(()) };
        let now_ns = clock.now_ns();
        self.begun = self.books.layout.members();
        self.act(auditor, now_ns, engine, |device, context| device.power_on(0, context))?;
        self.books.last_sign_ns = now_ns;
        let quiet_ns = super::seconds_ns(self.part.scenario.quiet_s);
        let mut wrong = u64::MAX;
        while clock.now_ns() < self.books.last_sign_ns + quiet_ns && wrong > 0 {
            self.run_timers(clock.now_ns(), engine)?;
            engine.sweep(NAP, self)?;
            self.perform_commands(engine)?;
            wrong = self.books.retained_wrong();
        }
        Ok(())
    }

    /// Members that are there from the beginning.
    fn to_begin(&self) -> u32 {
        let layout = &self.books.layout;
        layout.auditor().unwrap_or_else(|| layout.members())
    }

    fn begun_members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().take(self.begun as usize)
    }

    /// Everybody says DISCONNECT; sessions that this does not end are ended by a clean start.
    fn say_goodbye(&mut self, engine: &mut Engine, clock: Clock) -> io::Result<()> {
        let now_ns = clock.now_ns();
        self.for_each_begun(now_ns, engine, Device::say_goodbye)?;
        self.sweep_until_gone(engine, clock)?;
        let remain: Vec<u32> = (0..self.begun)
            .filter(|index| {
                self.members.get(*index as usize).is_some_and(|member| {
                    member.device.client().has_session() && self.part.scenario.mqtt != 5
                })
            })
            .collect();
        if remain.is_empty() {
            return Ok(());
        }
        let now_ns = clock.now_ns();
        for index in &remain {
            self.act(*index, now_ns, engine, Device::come_back_clean)?;
        }
        let deadline_ns = now_ns + GOODBYE_NS;
        while clock.now_ns() < deadline_ns {
            let now_ns = clock.now_ns();
            self.run_timers(now_ns, engine)?;
            engine.sweep(NAP, self)?;
            self.perform_commands(engine)?;
            let members = &self.members;
            if remain.iter().all(|index| {
                members.get(*index as usize).is_none_or(|member| member.device.is_ready())
            }) {
                break;
            }
        }
        let now_ns = clock.now_ns();
        self.for_each_begun(now_ns, engine, Device::say_goodbye)?;
        self.sweep_until_gone(engine, clock)
    }

    fn sweep_until_gone(&mut self, engine: &mut Engine, clock: Clock) -> io::Result<()> {
        let deadline_ns = clock.now_ns() + GOODBYE_NS;
        loop {
            let now_ns = clock.now_ns();
            self.run_timers(now_ns, engine)?;
            engine.sweep(NAP, self)?;
            self.perform_commands(engine)?;
            let open = self.slots.in_use() > 0
                && self.members.iter().any(|member| !member.device.is_gone());
            if !open || now_ns > deadline_ns {
                return Ok(());
            }
        }
    }

    /// Hands a member's bytes to its connection and keeps what else it wants for later.
    fn hand_out(&mut self, index: u32, outbox: &mut Vec<u8>) {
        outbox.append(&mut self.output.send);
        self.commands.extend(self.output.actions.drain(..).map(|action| (index, action)));
    }
}

impl Driver for Fleet<'_> {
    fn connected(&mut self, slot: u32, now_ns: u64, outbox: &mut Vec<u8>) {
        if let Some(index) = self.slots.member_of(slot) {
            self.call(index, now_ns, 0, Device::handle_connected);
            self.hand_out(index, outbox);
        }
    }

    fn received(&mut self, slot: u32, now_ns: u64, bytes: &[u8], outbox: &mut Vec<u8>) -> Flow {
        if let Some(index) = self.slots.member_of(slot) {
            self.books.tally.point.received_bytes += bytes.len() as u64;
            self.call(index, now_ns, outbox.len(), |device, context| {
                device.handle_received(bytes, context);
            });
            self.hand_out(index, outbox);
        }
        Flow::Continue
    }

    fn closed(&mut self, slot: u32, now_ns: u64, _errno: i32) {
        if let Some(index) = self.slots.closed(slot) {
            if let Some(member) = self.members.get_mut(index as usize) {
                member.slot = NONE;
            }
            self.call(index, now_ns, 0, Device::handle_closed);
            self.output.send.clear();
            self.commands.extend(self.output.actions.drain(..).map(|action| (index, action)));
        }
    }
}

/// An address of 127.0.0.0/8 of its own for each of 16 million devices, from 127.1.0.1 on.
fn loopback_address(number: u32) -> Ipv4Addr {
    const FIRST: u32 = Ipv4Addr::new(127, 1, 0, 1).to_bits();
    const COUNT: u32 = Ipv4Addr::new(127, 255, 255, 254).to_bits() - FIRST;
    Ipv4Addr::from_bits(FIRST + number % COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_from_addresses_of_their_own() {
        assert_eq!(loopback_address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(loopback_address(1_000_000), Ipv4Addr::new(127, 16, 66, 65));
        assert!(loopback_address(u32::MAX).is_loopback());
    }
}
