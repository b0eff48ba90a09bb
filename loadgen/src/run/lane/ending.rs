//! The end of a lane: what is open, the look at retained messages, and goodbye.

use std::io;

use super::{Fleet, Member, NAP};
use crate::{clock::Clock, device::Device, engine::Engine, run::seconds_ns};

/// Devices get this long to say goodbye.
const GOODBYE_NS: u64 = 3_000_000_000;

impl Fleet<'_> {
    /// What is open at the end.
    pub(super) fn take_stock(&mut self) {
        let complete = self.books.is_complete();
        let members = self.begun_members().map(|member| &member.device);
        let ready =
            members.filter(|device| device.is_ready() && (complete || device.is_heard())).count();
        let unfinished: usize = self.begun_members().map(|member| member.device.unfinished()).sum();
        self.books.counts.away_at_the_end = u64::from(self.to_begin()) - ready as u64;
        self.books.counts.unfinished = unfinished as u64;
    }

    /// Lets the auditor come and look at all retained messages.
    pub(super) fn audit(&mut self, engine: &mut Engine, clock: Clock) -> io::Result<()> {
        let Some(auditor) = self.books.layout.auditor() else { return Ok(()) };
        let now_ns = clock.now_ns();
        self.begun = self.books.layout.members();
        self.act(auditor, now_ns, engine, |device, context| device.power_on(0, context))?;
        self.books.last_sign_ns = now_ns;
        let quiet_ns = seconds_ns(self.part.scenario.quiet_s);
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
    pub(super) fn to_begin(&self) -> u32 {
        let layout = &self.books.layout;
        layout.auditor().unwrap_or_else(|| layout.members())
    }

    pub(super) fn begun_members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().take(self.begun as usize)
    }

    /// Everybody says DISCONNECT; sessions that this does not end are ended by a clean start.
    pub(super) fn say_goodbye(&mut self, engine: &mut Engine, clock: Clock) -> io::Result<()> {
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
}
