//! What the threads of a run tell each other: a phase, a window of time, and counts.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Shared by all threads of a run.
///
/// Counts are added up once a sweep, and read with a delay of at most one sweep.
#[derive(Debug, Default)]
pub(super) struct Control {
    phase: AtomicU8,
    load_from_ns: AtomicU64,
    measure_from_ns: AtomicU64,
    measure_until_ns: AtomicU64,
    /// Deliveries the publishes so far must lead to.
    pub(super) owed: AtomicU64,
    /// First deliveries so far.
    pub(super) delivered: AtomicU64,
    /// Exchanges of publishers not finished, and messages not sent yet; kept up while draining.
    pub(super) unfinished: AtomicU64,
    /// First deliveries so far by publisher; kept up only when the load is closed by them.
    pub(super) delivered_of: Box<[AtomicU64]>,
}

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Connect and subscribe.
    Connect = 0,
    /// Publish, until the measured window ends.
    Load = 1,
    /// Publish nothing more, wait for what is owed.
    Drain = 2,
    /// Disconnect.
    Stop = 3,
}

impl Control {
    /// The state before a run with so many publishers.
    pub(super) fn new(publishers: u32) -> Self {
        let delivered_of = (0..publishers).map(|_| AtomicU64::new(0)).collect();
        Self { delivered_of, ..Self::default() }
    }

    /// The phase now.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::Load,
            2 => Phase::Drain,
            _ => Phase::Stop,
        }
    }

    /// Starts the load, with the times that go with it.
    pub(super) fn start_load(&self, from_ns: u64, measure_from_ns: u64, measure_until_ns: u64) {
        self.load_from_ns.store(from_ns, Ordering::Relaxed);
        self.measure_from_ns.store(measure_from_ns, Ordering::Relaxed);
        self.measure_until_ns.store(measure_until_ns, Ordering::Relaxed);
        self.enter(Phase::Load);
    }

    /// Goes on to `phase`.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// When the load starts; valid from [`Phase::Load`] on.
    pub(super) fn load_from_ns(&self) -> u64 {
        self.load_from_ns.load(Ordering::Relaxed)
    }

    /// The measured window; valid from [`Phase::Load`] on.
    pub(super) fn window(&self) -> std::ops::Range<u64> {
        self.measure_from_ns.load(Ordering::Relaxed)..self.measure_until_ns.load(Ordering::Relaxed)
    }

    /// Whether all that is owed came and every exchange of a publisher is finished.
    pub(super) fn is_settled(&self) -> bool {
        self.delivered.load(Ordering::Relaxed) >= self.owed.load(Ordering::Relaxed)
            && self.unfinished.load(Ordering::Relaxed) == 0
    }
}
