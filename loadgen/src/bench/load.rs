//! When the publishers of one thread publish: on schedule, or as fast as deliveries come back.

use std::{collections::VecDeque, sync::atomic::Ordering};

use super::{control::Control, fleet::Fleet, plan::Plan};
use crate::{client::Scratch, engine::Engine, payload::Stamp, schedule::Schedule};

/// A publisher whose connection has this much unsent holds its messages: the broker reads slower
/// than they come.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// A closed loop without a delivery for this long counts what is missing as lost, and goes on.
const STALL_NS: u64 = 500_000_000;

/// The publishers of a thread; connection `n` of the engine is publisher `n` of the load.
pub(super) struct Load {
    publishers: Vec<Publisher>,
    /// Whose turn it is on schedule: publishers take turns, so only one can be next.
    turn: usize,
    mode: Mode,
    scratch: Scratch,
    epoch: u32,
    /// Deliveries each message leads to.
    deliveries_per_message: u64,
    /// Intended times held by all publishers.
    held: u64,
    /// Messages sent since the last [`Load::share_sent`].
    sent_unshared: u64,
    /// Exchanges not finished, as last told to the others.
    unfinished_shared: u64,
    /// Messages whose turn came within the measured window.
    pub(super) due_in_window: u64,
    /// Messages sent within the measured window.
    pub(super) sent_in_window: u64,
}

enum Mode {
    Scheduled(Vec<Schedule>),
    Saturate { window: u64 },
}

struct Publisher {
    /// Index in the run.
    publisher: u32,
    /// Intended times of messages that could not be sent yet.
    held: VecDeque<u64>,
    sent: u64,
    /// Deliveries that will not come, as far as a closed loop is concerned.
    forgiven: u64,
    /// Deliveries seen, and since when there was none more.
    delivered: u64,
    delivered_since_ns: u64,
}

impl Load {
    /// The load of `thread`, which starts at `from_ns`.
    pub(super) fn new(plan: &Plan, thread: u32, from_ns: u64) -> Self {
        let arguments = plan.arguments();
        let lanes = u64::from(arguments.publishers);
        let publishers = plan.publishers_of(thread).map(Publisher::new).collect();
        let mode = if plan.saturate {
            Mode::Saturate { window: u64::from(arguments.window) }
        } else {
            let lane =
                |publisher| Schedule::new(from_ns, arguments.rate, u64::from(publisher), lanes);
            Mode::Scheduled(plan.publishers_of(thread).map(lane).collect())
        };
        Self {
            publishers,
            turn: 0,
            mode,
            scratch: Scratch::default(),
            epoch: plan.epoch,
            deliveries_per_message: arguments.deliveries_per_message(),
            held: 0,
            sent_unshared: 0,
            unfinished_shared: 0,
            due_in_window: 0,
            sent_in_window: 0,
        }
    }

    /// Publishes all that is due and possible at `now_ns`.
    pub(super) fn publish(
        &mut self,
        now_ns: u64,
        engine: &mut Engine,
        fleet: &mut Fleet,
        control: &Control,
    ) {
        if let Mode::Saturate { window } = self.mode {
            self.fill_windows(window, now_ns, engine, fleet, control);
            return;
        }
        self.send_held(now_ns, engine, fleet);
        while let Some((index, due_ns)) = self.take_due(now_ns, fleet.books.window.end) {
            if fleet.books.window.contains(&due_ns) {
                fleet.books.stats.lag.record_ns(now_ns - due_ns);
                self.due_in_window += 1;
            }
            let point = &mut fleet.books.tally.point;
            point.lag_max_us = point.lag_max_us.max((now_ns - due_ns) / 1_000);
            let held = self.publishers.get(index).is_some_and(|p| !p.held.is_empty());
            if (held || !self.send(index, due_ns, now_ns, engine, fleet))
                && let Some(publisher) = self.publishers.get_mut(index)
            {
                publisher.held.push_back(due_ns);
                self.held += 1;
            }
        }
    }

    /// When [`Load::publish`] has something to do again, apart from what arrives.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        match &self.mode {
            Mode::Scheduled(schedules) => schedules.get(self.turn).map(Schedule::next_due_ns),
            Mode::Saturate { .. } => None,
        }
    }

    /// Messages whose turn came and which the broker did not let us send.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Adds what was sent since the last call to the counts of the run.
    pub(super) fn share_sent(&mut self, control: &Control) {
        if self.sent_unshared > 0 {
            let owed = self.sent_unshared * self.deliveries_per_message;
            control.owed.fetch_add(owed, Ordering::Relaxed);
            self.sent_unshared = 0;
        }
    }

    /// Tells the others how much is still under way; needed while the run drains only.
    pub(super) fn share_unfinished(&mut self, fleet: &Fleet, control: &Control) {
        let publishers = fleet.members.iter().take(self.publishers.len());
        let exchanges: u64 = publishers.map(|member| member.client.unfinished() as u64).sum();
        let unfinished = exchanges + self.held;
        // The difference wraps when it falls; the sum over all threads does not.
        let change = unfinished.wrapping_sub(self.unfinished_shared);
        control.unfinished.fetch_add(change, Ordering::Relaxed);
        self.unfinished_shared = unfinished;
    }

    fn take_due(&mut self, now_ns: u64, end_ns: u64) -> Option<(usize, u64)> {
        let Mode::Scheduled(schedules) = &mut self.mode else { return None };
        let index = self.turn;
        let (due_ns, _) =
            schedules.get_mut(index)?.take_due(now_ns.min(end_ns.saturating_sub(1)))?;
        self.turn = (index + 1) % schedules.len();
        Some((index, due_ns))
    }

    fn send_held(&mut self, now_ns: u64, engine: &mut Engine, fleet: &mut Fleet) {
        if self.held == 0 {
            return;
        }
        for index in 0..self.publishers.len() {
            while let Some(intended_ns) =
                self.publishers.get(index).and_then(|p| p.held.front().copied())
            {
                if !self.send(index, intended_ns, now_ns, engine, fleet) {
                    break;
                }
                if let Some(publisher) = self.publishers.get_mut(index) {
                    publisher.held.pop_front();
                    self.held -= 1;
                }
            }
        }
    }

    fn fill_windows(
        &mut self,
        window: u64,
        now_ns: u64,
        engine: &mut Engine,
        fleet: &mut Fleet,
        control: &Control,
    ) {
        if now_ns >= fleet.books.window.end {
            return;
        }
        for index in 0..self.publishers.len() {
            let deliveries = self.deliveries_per_message;
            let Some(publisher) = self.publishers.get_mut(index) else { return };
            let room = publisher.room(window, deliveries, now_ns, control);
            for _ in 0..room {
                if !self.send(index, now_ns, now_ns, engine, fleet) {
                    break;
                }
            }
        }
    }

    /// Sends one message of a publisher, if its window and its connection take it.
    fn send(
        &mut self,
        index: usize,
        intended_ns: u64,
        now_ns: u64,
        engine: &mut Engine,
        fleet: &mut Fleet,
    ) -> bool {
        let (Ok(connection), Some(publisher), Some(member)) =
            (u32::try_from(index), self.publishers.get_mut(index), fleet.members.get_mut(index))
        else {
            return false;
        };
        if !member.client.can_publish() || engine.unsent_bytes(connection) > UNSENT_BYTES_MAX {
            return false;
        }
        let Some(outbox) = engine.outbox(connection) else { return false };
        let stamp = Stamp {
            publisher: publisher.publisher,
            epoch: self.epoch,
            sequence: member.published.count,
            intended_ns,
            sent_ns: now_ns,
        };
        if !member.client.publish(stamp, now_ns, &mut self.scratch, outbox) {
            return false;
        }
        member.published.count += 1;
        publisher.sent += 1;
        self.sent_unshared += 1;
        let point = &mut fleet.books.tally.point;
        point.published += 1;
        point.owed += self.deliveries_per_message;
        if fleet.books.window.contains(&now_ns) {
            self.sent_in_window += 1;
        }
        true
    }
}

impl Publisher {
    fn new(publisher: u32) -> Self {
        Self {
            publisher,
            held: VecDeque::new(),
            sent: 0,
            forgiven: 0,
            delivered: 0,
            delivered_since_ns: 0,
        }
    }

    /// Messages a closed loop may send now.
    fn room(&mut self, window: u64, deliveries: u64, now_ns: u64, control: &Control) -> u64 {
        let delivered = control
            .delivered_of
            .get(self.publisher as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed));
        if delivered != self.delivered || self.delivered_since_ns == 0 {
            self.delivered = delivered;
            self.delivered_since_ns = now_ns;
        }
        let owed = self.sent * deliveries;
        let missing = owed.saturating_sub(delivered + self.forgiven);
        let room = window.saturating_sub(missing.div_ceil(deliveries));
        if room == 0 && now_ns - self.delivered_since_ns > STALL_NS {
            self.forgiven = owed.saturating_sub(delivered);
            self.delivered_since_ns = now_ns;
            return window;
        }
        room
    }
}
