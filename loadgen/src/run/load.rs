//! When the messages of a lane are due: its part of an open-loop schedule, phase by phase.

use super::{lane::Part, scaled_rate};
use crate::schedule::Schedule;

const NEVER: u64 = u64::MAX;
/// Messages a second of each probe.
const PROBES_PER_S: u64 = 10;

/// When messages are due.
pub(super) struct Load {
    schedule: Option<Schedule>,
    probes: Option<Schedule>,
    end_ns: u64,
    /// Messages so far, over all phases: publishers take turns.
    turn: u64,
    lane: u64,
    lanes: u64,
    rate_per_s: u64,
}

impl Load {
    /// Nothing is due yet.
    pub(super) fn new(part: &Part) -> Self {
        Self {
            schedule: None,
            probes: None,
            end_ns: 0,
            turn: 0,
            lane: u64::from(part.lane),
            lanes: u64::from(part.lanes),
            rate_per_s: part.scenario.rate_per_s,
        }
    }

    /// A phase begins with this part of the rate, and so many probes.
    pub(super) fn enter(&mut self, start_ns: u64, end_ns: u64, load: f64, probes: u32) {
        self.end_ns = end_ns;
        self.probes =
            (probes > 0).then(|| Schedule::new(start_ns, u64::from(probes) * PROBES_PER_S, 0, 1));
        let rate_per_s = scaled_rate(self.rate_per_s, load);
        self.schedule =
            (rate_per_s > 0).then(|| Schedule::new(start_ns, rate_per_s, self.lane, self.lanes));
    }

    /// Whether a phase was entered.
    pub(super) fn has_begun(&self) -> bool {
        self.end_ns > 0
    }

    /// Nothing more is due.
    pub(super) fn stop(&mut self) {
        (self.schedule, self.probes) = (None, None);
    }

    /// The next message that is due: how many were before, and when it was.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let until_ns = now_ns.min(self.end_ns.saturating_sub(1));
        let (due_ns, _) = self.schedule.as_mut()?.take_due(until_ns)?;
        self.turn += 1;
        Some((self.turn - 1, due_ns))
    }

    /// The same of the probes.
    pub(super) fn take_probe_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let until_ns = now_ns.min(self.end_ns.saturating_sub(1));
        let (due_ns, turn) = self.probes.as_mut()?.take_due(until_ns)?;
        Some((turn, due_ns))
    }

    /// When something is due or the phase ends.
    pub(super) fn next_due_ns(&self) -> u64 {
        let due_ns = |schedule: &Option<Schedule>| {
            schedule
                .as_ref()
                .map(Schedule::next_due_ns)
                .filter(|due_ns| *due_ns < self.end_ns)
                .unwrap_or(NEVER)
        };
        due_ns(&self.schedule).min(due_ns(&self.probes)).min(self.end_ns.max(1))
    }
}
