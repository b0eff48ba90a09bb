//! One thread of a run: its devices, its engine, its part of the load.
//!
//! ```text
//!            due messages ─┐
//! timers ─▶ Device ◀───────┴── bytes ── Engine ── io_uring ── broker
//!              └── bytes, actions ────────▲
//! ```

mod ending;
mod phases;

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
    layout::{Layout, Role},
    load::Load,
    scenario::Scenario,
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

/// The part of a run that one lane has.
#[derive(Clone, Debug)]
pub(in crate::run) struct Part {
    /// The whole.
    pub(in crate::run) scenario: Scenario,
    /// What the devices are.
    pub(in crate::run) profile: Profile,
    /// Tells this run from others.
    pub(in crate::run) run: u32,
    /// Which lane.
    pub(in crate::run) lane: u32,
    /// Of how many.
    pub(in crate::run) lanes: u32,
    /// The broker.
    pub(in crate::run) target: SocketAddr,
    /// What carries MQTT to it; `None`: TCP alone.
    pub(in crate::run) transport: Option<Arc<Transport>>,
    /// Addresses to come from, in turn; empty: those of 127.0.0.0/8, one a device, if the broker is
    /// there, else what the system chooses.
    pub(in crate::run) sources: Vec<Ipv4Addr>,
    /// Connections the process may have open.
    pub(in crate::run) connections_max: u32,
}

/// What a lane brings home.
pub(in crate::run) struct LaneOutcome {
    pub(in crate::run) settlement: Settlement,
    /// By phase; the last is the settling.
    pub(in crate::run) phases: Vec<PhaseRecord>,
    pub(in crate::run) counts: FleetCounts,
    pub(in crate::run) faults: Vec<String>,
}

/// Runs the part from `start_ns` on.
///
/// # Errors
///
/// What io_uring says, and that no socket can be made.
pub(in crate::run) fn run(
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
