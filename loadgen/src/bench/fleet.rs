//! The devices of one thread and the books they keep.

use std::{ops::Range, sync::atomic::Ordering};

use super::{control::Control, plan::Plan};
use crate::{
    client::{Client, Event, Fault},
    engine::{Driver, Flow},
    ledger::{Delivery, Ledger, Published},
    payload::Stamp,
    result::Tally,
    stats::Stats,
};

/// Faults kept by name; more are only counted.
const FAULTS_KEPT: usize = 5;

/// Devices by the index of their connection.
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    pub(super) books: Books,
}

/// A device and its place in the run.
pub(super) struct Member {
    pub(super) client: Client,
    /// What it published.
    pub(super) published: Published,
    /// Index among the subscribers of the run.
    pub(super) subscriber: Option<u32>,
    pub(super) connected: bool,
    /// When its connection was started.
    pub(super) started_ns: u64,
}

/// What is counted.
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) stats: Stats,
    /// The second at hand.
    pub(super) tally: Tally,
    /// The measured window; empty until the load starts.
    pub(super) window: Range<u64>,
    /// First deliveries that arrived within the window.
    pub(super) delivered_in_window: u64,
    /// First deliveries since the last [`Books::share`].
    delivered_unshared: u64,
    /// Devices that are ready.
    pub(super) ready: u32,
    /// Connections that ended before they should.
    pub(super) connections_lost: u64,
    pub(super) faults: Vec<String>,
    /// Deliveries by publisher since the last [`Books::share`]; only when the load is closed.
    by_publisher: Vec<u64>,
    touched: Vec<u32>,
    closed_loop: bool,
    pub(super) stopping: bool,
}

impl Fleet {
    /// The devices of `thread`.
    pub(super) fn new(plan: &Plan, thread: u32, tally: Tally) -> Self {
        let members: Vec<Member> = plan
            .members_of(thread)
            .map(|(options, subscriber)| Member {
                client: Client::new(options),
                published: Published::default(),
                subscriber,
                connected: false,
                started_ns: 0,
            })
            .collect();
        Self { members, books: Books::new(plan, tally) }
    }

    /// Whether every device is ready.
    pub(super) fn is_ready(&self) -> bool {
        usize::try_from(self.books.ready).is_ok_and(|ready| ready == self.members.len())
    }
}

impl Books {
    fn new(plan: &Plan, tally: Tally) -> Self {
        let publishers = if plan.saturate { plan.publishers as usize } else { 0 };
        Self {
            ledger: Ledger::new(plan.epoch),
            stats: Stats::new(),
            tally,
            window: 0..0,
            delivered_in_window: 0,
            delivered_unshared: 0,
            ready: 0,
            connections_lost: 0,
            faults: Vec::new(),
            by_publisher: vec![0; publishers],
            touched: Vec::new(),
            closed_loop: plan.saturate,
            stopping: false,
        }
    }

    /// Adds what came since the last call to the counts of the run.
    pub(super) fn share(&mut self, control: &Control) {
        if self.delivered_unshared == 0 {
            return;
        }
        control.delivered.fetch_add(self.delivered_unshared, Ordering::Relaxed);
        self.delivered_unshared = 0;
        for publisher in self.touched.drain(..) {
            let index = publisher as usize;
            if let (Some(count), Some(total)) =
                (self.by_publisher.get_mut(index), control.delivered_of.get(index))
            {
                total.fetch_add(std::mem::take(count), Ordering::Relaxed);
            }
        }
    }

    /// Enters a payload that `subscriber` got.
    fn delivered(&mut self, subscriber: Option<u32>, payload: &[u8], now_ns: u64) {
        let (Some(stamp), Some(subscriber)) = (Stamp::read(payload), subscriber) else {
            self.ledger.corrupted();
            return;
        };
        if self.ledger.delivered(subscriber, &stamp) != Delivery::First {
            return;
        }
        self.delivered_unshared += 1;
        self.tally.point.delivered += 1;
        self.tally.point.latency.record_ns(now_ns.saturating_sub(stamp.intended_ns));
        if self.window.contains(&now_ns) {
            self.delivered_in_window += 1;
        }
        if self.window.contains(&stamp.intended_ns) {
            self.stats.delivered(&stamp, now_ns);
        }
        if self.closed_loop
            && let Some(count) = self.by_publisher.get_mut(stamp.publisher as usize)
        {
            if *count == 0 {
                self.touched.push(stamp.publisher);
            }
            *count += 1;
        }
    }

    /// Enters that a connection started at `started_ns` is ready.
    fn ready(&mut self, started_ns: u64, now_ns: u64) {
        self.ready += 1;
        self.stats.connect.record_ns(now_ns.saturating_sub(started_ns));
        let point = &mut self.tally.point;
        point.connects += 1;
        point.connected += 1;
        point.connecting = point.connecting.saturating_sub(1);
    }

    /// Enters that the broker took responsibility for a message.
    fn acknowledged(&mut self, stamp: &Stamp, now_ns: u64) {
        self.tally.point.acknowledged += 1;
        if self.window.contains(&stamp.intended_ns) {
            self.stats.acknowledgement.record_ns(now_ns.saturating_sub(stamp.sent_ns));
        }
    }

    /// Keeps a fault for the report.
    pub(super) fn fault(&mut self, index: u32, fault: &dyn std::fmt::Debug) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(format!("connection {index}: {fault:?}"));
        }
    }
}

impl Driver for Fleet {
    fn connected(&mut self, index: u32, now_ns: u64, outbox: &mut Vec<u8>) {
        if let Some(member) = self.members.get_mut(index as usize) {
            member.client.handle_connected(now_ns, outbox);
        }
    }

    fn received(&mut self, index: u32, now_ns: u64, bytes: &[u8], outbox: &mut Vec<u8>) -> Flow {
        let books = &mut self.books;
        let Some(member) = self.members.get_mut(index as usize) else { return Flow::Close };
        let Member { client, published, subscriber, started_ns, .. } = member;
        books.tally.point.received_bytes += bytes.len() as u64;
        let mut on_event = |event: Event<'_>| match event {
            Event::Ready { .. } => books.ready(*started_ns, now_ns),
            Event::Acknowledged(stamp) => {
                published.acknowledged.insert(stamp.sequence);
                books.acknowledged(&stamp, now_ns);
            }
            Event::SessionBegan { .. } | Event::Subscribed | Event::Discarded(_) => {}
            Event::Delivered { payload, .. } => books.delivered(*subscriber, payload, now_ns),
        };
        match client.handle_received(now_ns, bytes, outbox, &mut on_event) {
            Ok(()) => Flow::Continue,
            Err(fault) => self.give_up(index, fault),
        }
    }

    fn closed(&mut self, index: u32, now_ns: u64, errno: i32) {
        let Some(member) = self.members.get_mut(index as usize) else { return };
        member.connected = false;
        let was_ready = member.client.is_ready();
        member.client.handle_closed(now_ns);
        let point = &mut self.books.tally.point;
        let gauge = if was_ready { &mut point.connected } else { &mut point.connecting };
        *gauge = gauge.saturating_sub(1);
        if !self.books.stopping {
            self.books.connections_lost += 1;
            self.books.tally.point.connections_lost += 1;
            let error = std::io::Error::from_raw_os_error(errno);
            self.books.fault(index, &error);
        }
    }
}

impl Fleet {
    fn give_up(&mut self, index: u32, fault: Fault) -> Flow {
        self.books.fault(index, &fault);
        Flow::Close
    }
}
