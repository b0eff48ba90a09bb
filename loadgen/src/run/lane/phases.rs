//! What happens to the devices of a lane when: phases, their faults, and when the run is over.

use std::io;

use super::{Fleet, NEVER};
use crate::{
    device::{Action, Device},
    engine::Engine,
    random::Random,
    run::{
        layout::{Role, seeds},
        load::Load,
        scenario::{Fault, FaultKind, PhaseKind},
        seconds_ns,
    },
};

/// While settling, the books are looked at when nothing came for so long.
const SETTLE_LOOK_NS: u64 = 200_000_000;
/// A run that does not settle within so many of its quiet times is over all the same. Bytes that a
/// slow link loses again and again come minutes later.
const SETTLE_QUIETS_MAX: u64 = 24;
/// After everything owed came, duplicates may still come for this long.
const DUPLICATES_NS: u64 = 300_000_000;

impl Fleet<'_> {
    /// Index of the settling, behind the last phase.
    pub(super) fn settling(&self) -> usize {
        self.part.scenario.phases.len()
    }

    pub(super) fn follow_phases(
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
    pub(super) fn is_over(&mut self, now_ns: u64) -> bool {
        if self.books.phase < self.settling() || now_ns < self.settle_look_ns {
            return false;
        }
        self.settle_look_ns = now_ns + SETTLE_LOOK_NS / 4;
        let silent_ns = now_ns.saturating_sub(self.books.last_sign_ns);
        let quiet_ns = seconds_ns(self.part.scenario.quiet_s);
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
}
