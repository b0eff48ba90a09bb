//! The event loop of one shard.
//!
//! ```text
//!   wait ──▶ reap ──▶ events ──▶ mesh ──▶ timers ──▶ swept ──▶ flush ─┐
//!    ▲                 (handler is called, leaves work in Io)         │
//!    └──────────── one io_uring_enter: submit all, wait ◀─────────────┘
//! ```
//!
//! The loop is the only task of its glommio executor, so it sleeps on its own ring: one system call
//! submits and waits. Sleeping in the executor, on an eventfd that the ring signals, costs two more and
//! lost wake-ups on Linux 6.18.

use super::clock::Clock;
use super::connections::{Connections, State};
use super::dial::Dialing;
use super::gather::Gather;
use super::hand_over::{Control, Ended, HandingOver, ListeningSocket, Parting, Phase};
use super::mesh::{Moving, Parcel, Port};
use super::node::EngineConfig;
use super::ring::{Event, Ring, same_generation};
use super::setup::Handshakes;
use super::silence::{PeerWatch, Silence};
use super::strangers::Strangers;
use super::told::Told;
use super::transport::Scratch;
use crate::proto::engine_counters::{EngineCounters, EngineReport};
use crate::proto::handler::{CloseReason, FileOp, Handler, Io, Sender};
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::time::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A shard: its ring, its connections and its handler.
pub(super) struct Shard<H: Handler> {
    pub(super) config: Arc<EngineConfig>,
    pub(super) handler: H,
    pub(super) io: Io<H::Message>,
    pub(super) ring: Ring,
    pub(super) connections: Connections,
    /// Connections of the node; one that is on its way between shards counts.
    pub(super) open_count: Arc<AtomicU32>,
    pub(super) port: Port<H::Message>,
    pub(super) counters: EngineCounters,
    /// Receives that found no buffer, in the order they did.
    pub(super) starved: VecDeque<ConnectionId>,
    /// Connections being closed, by deadline: all have the same time, so this is their order.
    pub(super) closing: VecDeque<(Timestamp, ConnectionId)>,
    /// Where connections that still have something in flight will go.
    pub(super) leaving: HashMap<u32, ShardIndex>,
    /// Connections that wait for room in another shard's queue.
    pub(super) departing: VecDeque<(ShardIndex, Parcel<H::Message>)>,
    /// From other shards, taken in by the next sweep: behind what had come to sockets here before they
    /// were sent. A client that says DISCONNECT and connects again is heard in this order. At most
    /// `mesh_slots` a shard.
    arriving: Vec<Moving>,
    /// Connections with more to send than the send that just ended.
    pub(super) unsent: Vec<u32>,
    /// Connections whose transport is being set up, by deadline: all have the same time.
    pub(super) setting_up: VecDeque<(Timestamp, ConnectionId)>,
    pub(super) handshakes: Handshakes,
    /// Where layers put what they unwrapped.
    pub(super) plain: Vec<u8>,
    pub(super) scratch: Scratch,
    pub(super) dialing: Dialing,
    pub(super) clock: Clock,
    pub(super) control: Arc<Control>,
    pub(super) handing_over: HandingOver,
    pub(super) told: Told,
    pub(super) silence: Silence,
    pub(super) strangers: Strangers,
    listeners: Vec<Listener>,
    stop: Arc<AtomicBool>,
    /// Set once the node is stopping: when connections still open are reset.
    stop_deadline: Option<Timestamp>,
    mesh_pending: bool,
    gather: Gather,
    /// Completions of sends that the last submission is sure to bring.
    expected: usize,
    /// What the last wait brought: completions that were not expected, and parcels.
    arrived: usize,
    dirty: Vec<u32>,
    files: Vec<FileOp>,
}

/// What a shard is made of.
pub(super) struct Parts<H: Handler> {
    pub(super) config: Arc<EngineConfig>,
    pub(super) handler: H,
    pub(super) shard: ShardIndex,
    pub(super) port: Port<H::Message>,
    pub(super) listeners: Vec<ListeningSocket>,
    pub(super) clock: Clock,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) control: Arc<Control>,
    pub(super) open_count: Arc<AtomicU32>,
    /// What strangers hold, of the node.
    pub(super) stranger_bytes: Arc<AtomicU64>,
    /// Connections of another process, to begin with.
    pub(super) connections: Vec<Parting>,
}

/// A listening socket. Without one, the shard has stopped accepting.
struct Listener {
    /// Of its address in the configuration.
    number: usize,
    socket: Option<OwnedFd>,
    accepting: bool,
    /// When to accept again after an error.
    retry_at: Timestamp,
    failing: bool,
}

/// How long accepting pauses after an error that will not go away by itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How soon a full queue of another shard is tried again: it does not tell when it has room.
const MESH_RETRY: Duration = Duration::from_millis(1);

/// The longest sleep, for the clock's sake; a shard with nothing to do wakes that often.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// The longest wait for the completions of sends that were just submitted.
const EXPECTED_WAIT: Duration = Duration::from_millis(1);

/// Events that end a gathering wait early.
const GATHER_EVENTS: usize = 64;

/// Completion queue entries per submission queue entry.
const COMPLETIONS_PER_SUBMISSION: u32 = 8;

impl<H: Handler> Shard<H> {
    /// Sets the shard up on the thread that will run it.
    pub(super) fn new(parts: Parts<H>) -> io::Result<Self> {
        let config = parts.config;
        let entries = config.ring_entries;
        let mut ring = Ring::new(
            entries,
            entries.saturating_mul(COMPLETIONS_PER_SUBMISSION),
            config.receive_buffers,
            config.receive_buffer_bytes,
        )?;
        ring.watch_doorbell(parts.port.doorbell().waiting());
        let listener = |listening: ListeningSocket| Listener {
            number: listening.number,
            socket: Some(listening.socket),
            accepting: false,
            retry_at: Timestamp::START,
            failing: false,
        };
        let now = parts.clock.now();
        let gather = Gather::new(parts.shard, config.shards, config.gather_wait, now);
        let watch = PeerWatch::new(config.tcp_user_timeout, config.tcp_keepalive);
        let silence = Silence::new(watch, now);
        let strangers = Strangers::new(parts.stranger_bytes, config.strangers_bytes_max);
        let mut shard = Self {
            io: Io::new(parts.shard, config.shards, now),
            config,
            handler: parts.handler,
            ring,
            connections: Connections::default(),
            open_count: parts.open_count,
            port: parts.port,
            counters: EngineCounters::default(),
            starved: VecDeque::new(),
            closing: VecDeque::new(),
            leaving: HashMap::new(),
            departing: VecDeque::new(),
            arriving: Vec::new(),
            unsent: Vec::new(),
            setting_up: VecDeque::new(),
            handshakes: Handshakes::default(),
            plain: Vec::new(),
            scratch: Scratch::default(),
            dialing: Dialing::default(),
            told: Told::default(),
            silence,
            strangers,
            listeners: parts.listeners.into_iter().map(listener).collect(),
            clock: parts.clock,
            control: parts.control,
            handing_over: HandingOver::default(),
            stop: parts.stop,
            stop_deadline: None,
            mesh_pending: true,
            gather,
            expected: 0,
            arrived: 0,
            dirty: Vec::new(),
            files: Vec::new(),
        };
        shard.io.outbox.now = now;
        for parting in parts.connections {
            shard.join(parting);
        }
        Ok(shard)
    }

    /// Runs until the node stops.
    ///
    /// # Errors
    ///
    /// The kernel's, when it takes no more requests: the shard cannot go on.
    pub(super) async fn run(mut self) -> io::Result<Ended> {
        let (mut completions, mut events) = (Vec::new(), Vec::new());
        loop {
            let reaped = self.ring.reap(&mut completions, &mut events);
            self.counters.completions += reaped as u64;
            let expected = std::mem::take(&mut self.expected);
            self.arrived = reaped.saturating_sub(expected);
            let busy = self.sweep(&mut events);
            if self.arrived > 0 || expected == 0 {
                self.gather.woke(self.arrived, self.io.now);
            }
            self.counters.sweeps.add(self.io.turn_us, 1);
            if self.is_over() {
                break;
            }
            self.wait(busy || reaped > 0 || self.has_backlog())?;
        }
        self.counters.enters = self.ring.enters();
        self.handing_over.gone.counters = self.counters;
        Ok(self.handing_over.gone)
    }

    /// Handles everything that came. Returns whether it did anything.
    fn sweep(&mut self, events: &mut Vec<Event>) -> bool {
        self.io.now = self.clock.now();
        self.io.outbox.now = self.io.now;
        let began_us = self.clock.micros();
        let mut busy = !events.is_empty();
        for event in events.drain(..) {
            self.handle(event);
        }
        for moving in std::mem::take(&mut self.arriving) {
            self.arrive(moving);
        }
        busy |= self.handle_mesh();
        self.take_hand_over_steps();
        busy |= self.handle_deadlines();
        busy |= self.take_handshake_steps();
        self.handler.swept(&mut self.io);
        self.perform_actions();
        if std::mem::take(&mut self.io.wants_report) {
            self.counters.enters = self.ring.enters();
            let open = self.connections.count() as u64;
            self.handler.report(&EngineReport { counters: self.counters, open }, &mut self.io);
        }
        self.flush();
        self.answer_round();
        self.io.turn_us = self.clock.micros().saturating_sub(began_us);
        busy
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, result, more } => {
                self.handle_accepted(listener, result, more);
            }
            Event::Received { index, generation, result, more } => {
                match self.connections.at(index) {
                    Some(id) if same_generation(id, generation) => {
                        self.handle_received(id, result, more);
                    }
                    _ => {
                        if let Ok(Some(filled)) = result {
                            self.ring.give_back(filled);
                        }
                    }
                }
            }
            Event::Sent { connection, buffer, result } => {
                self.handle_sent(connection, buffer, result);
            }
            Event::File { token, result } => {
                self.handler.file_done(token, result, &mut self.io);
                self.perform_actions();
            }
            Event::Connected { place } => self.handle_connected(place),
            Event::Doorbell { more } => {
                // What it announces is counted where it is taken.
                self.arrived = self.arrived.saturating_sub(1);
                if !more {
                    self.ring.watch_doorbell(self.port.doorbell().waiting());
                }
            }
            Event::Other => {}
        }
    }

    fn handle_accepted(&mut self, place: u32, result: io::Result<OwnedFd>, more: bool) {
        let now = self.io.now;
        let Some(listener) = self.listeners.get_mut(place as usize) else { return };
        listener.accepting = more;
        let number = listener.number;
        match result {
            Ok(socket) => {
                if std::mem::take(&mut listener.failing) {
                    tracing::info!(listener = number, "accepting connections again");
                }
                self.open(socket, number);
            }
            // The peer gave up while it waited in the backlog.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                listener.retry_at = now.after(ACCEPT_PAUSE);
                if !std::mem::replace(&mut listener.failing, true) {
                    tracing::warn!(listener = number, %error, "cannot accept connections");
                }
            }
        }
    }

    fn handle_mesh(&mut self) -> bool {
        if self.port.doorbell().answer() {
            self.counters.doorbells += 1;
            self.mesh_pending = true;
        }
        if !std::mem::take(&mut self.mesh_pending) {
            return false;
        }
        if self.stop.load(Ordering::Acquire) && self.stop_deadline.is_none() {
            self.begin_stop();
        }
        self.follow_phase();
        for from in 0..self.port.shard_count() {
            self.receive_parcels(from);
        }
        self.receive_from_threads();
        true
    }

    /// Takes at most what one queue holds; the rest waits for the next sweep.
    fn receive_parcels(&mut self, from: usize) {
        let sender = Sender::Shard(ShardIndex(u16::try_from(from).expect("shards are few")));
        for _ in 0..self.config.mesh_slots {
            match self.port.receive(from) {
                None => return,
                Some(Parcel::Connection(moving)) => {
                    self.handing_over.parcels_received += 1;
                    self.arrived += 1;
                    self.arriving.push(*moving);
                }
                Some(Parcel::Messages(batch)) => {
                    self.handing_over.parcels_received += 1;
                    self.arrived += 1;
                    for message in batch {
                        self.handler.message(sender, message, &mut self.io);
                        self.perform_actions();
                    }
                }
            }
        }
        self.mesh_pending = true;
    }

    fn receive_from_threads(&mut self) {
        for _ in 0..self.config.mesh_slots {
            let Some(message) = self.port.receive_from_threads() else { return };
            self.arrived += 1;
            self.handler.message(Sender::Thread, message, &mut self.io);
            self.perform_actions();
        }
        self.mesh_pending = true;
    }

    fn handle_deadlines(&mut self) -> bool {
        let now = self.io.now;
        let mut busy = false;
        if self.handler.next_timeout() <= now {
            self.handler.timeout(&mut self.io);
            self.perform_actions();
            busy = true;
        }
        while let Some(&(deadline, id)) = self.closing.front() {
            if deadline > now {
                break;
            }
            self.closing.pop_front();
            self.finish(id, CloseReason::CloseDeadline);
            busy = true;
        }
        if self.handler.is_saying_goodbye() {
            self.stop_deadline = Some(now.after(self.config.stop_deadline));
        }
        if self.stop_deadline.is_some_and(|deadline| deadline <= now) {
            self.stop_deadline = Some(Timestamp::NEVER);
            for id in self.connections.ids() {
                self.finish(id, CloseReason::CloseDeadline);
            }
        }
        busy |= self.give_up_dialing();
        busy |= self.give_up_setups();
        self.silence.step(&mut self.connections, now);
        self.accept_again();
        busy
    }

    /// Starts accepting where it is not going on and its pause, if any, is over.
    fn accept_again(&mut self) {
        for place in 0..self.listeners.len() {
            let Some(listener) = self.listeners.get(place) else { return };
            if listener.accepting
                || listener.retry_at > self.io.now
                || !self.accepts(listener.number)
            {
                continue;
            }
            let Some(listener) = self.listeners.get_mut(place) else { return };
            if let Some(socket) = &listener.socket {
                listener.accepting = true;
                let place = u32::try_from(place).expect("listeners are few");
                self.ring.accept(socket.as_fd(), place);
            }
        }
    }

    /// The next sweep comes at once.
    pub(super) fn look_again(&mut self) {
        self.mesh_pending = true;
    }

    /// Whether the shard ends.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop_deadline.is_some()
    }

    /// Ends accepting where that is not to be.
    pub(super) fn stop_accepting(&mut self) {
        for (place, listener) in self.listeners.iter().enumerate() {
            if listener.socket.is_some() && listener.accepting && !self.accepts(listener.number) {
                self.ring.cancel_accept(u32::try_from(place).expect("listeners are few"));
            }
        }
    }

    /// Whether something is on its way in this shard, or between it and the kernel's files.
    pub(super) fn is_anything_moving(&self) -> bool {
        !self.arriving.is_empty()
            || !self.departing.is_empty()
            || self.mesh_pending
            || self.io.mesh.is_any_congested()
            || self.ring.files_in_flight() > 0
            || self.listeners.iter().any(|listener| listener.accepting)
    }

    /// Stops accepting and lets the handler say goodbye.
    pub(super) fn begin_stop(&mut self) {
        self.stop_deadline = Some(self.io.now.after(self.config.stop_deadline));
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if listener.socket.is_some() && listener.accepting {
                self.ring.cancel_accept(u32::try_from(number).expect("listeners are few"));
            }
            listener.retry_at = Timestamp::NEVER;
        }
        self.drop_setups();
        self.handler.shutdown(&mut self.io);
        self.perform_actions();
    }

    /// Whether the node is stopping and nothing is left to do here.
    fn is_over(&mut self) -> bool {
        if self.stop_deadline.is_none() {
            return false;
        }
        let is_parting = self.handing_over.phase == Phase::Part;
        for listener in &mut self.listeners {
            if !listener.accepting
                && let Some(socket) = listener.socket.take()
                && is_parting
            {
                let listening = ListeningSocket { number: listener.number, socket };
                self.handing_over.gone.listeners.push(listening);
            }
        }
        self.connections.count() == 0
            && self.arriving.is_empty()
            && self.ring.files_in_flight() == 0
            && self.departing.is_empty()
            && self.listeners.iter().all(|listener| listener.socket.is_none())
    }

    /// Starts everything the sweep left to do: messages, files, receives, sends.
    fn flush(&mut self) {
        self.flush_mesh();
        std::mem::swap(&mut self.files, &mut self.io.files);
        for operation in self.files.drain(..) {
            self.ring.file(operation);
        }
        for dial in std::mem::take(&mut self.io.dials) {
            self.dial(dial);
        }
        self.flush_sends();
        self.ring.commit_buffers();
        while let Some(id) = self.starved.pop_front() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.state.unset(State::STARVED);
                self.settle(id);
            }
        }
    }

    fn flush_mesh(&mut self) {
        for _ in 0..self.departing.len() {
            let Some((to, parcel)) = self.departing.pop_front() else { break };
            self.depart_parcel(to, parcel);
        }
        for to in 0..self.config.shards {
            let to = ShardIndex(to);
            if to == self.io.shard {
                continue;
            }
            let Some(batch) = self.io.mesh.take(to) else { continue };
            match self.port.send(to, Parcel::Messages(batch)) {
                Some(Parcel::Messages(batch)) => self.io.mesh.put_back(to, batch),
                Some(Parcel::Connection(_)) | None => self.handing_over.parcels_sent += 1,
            }
        }
    }

    fn flush_sends(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.io.outbox.take_dirty(&mut dirty);
        dirty.append(&mut self.unsent);
        for index in dirty.drain(..) {
            self.start_send(index);
        }
        self.dirty = dirty;
    }

    /// Whether something waits that no completion will announce.
    fn has_backlog(&self) -> bool {
        self.mesh_pending || !self.departing.is_empty() || self.io.mesh.is_any_congested()
    }

    /// Submits, and sleeps on the ring until something comes or is due. `busy`: something came just
    /// now, so that more may be on its way.
    fn wait(&mut self, busy: bool) -> io::Result<()> {
        let until = self.next_deadline().millis_since(self.io.now);
        let mut wait = SLEEP_MAX.min(Duration::from_millis(until));
        if !self.departing.is_empty() || self.io.mesh.is_any_congested() {
            wait = wait.min(MESH_RETRY);
        }
        // Sends complete while they are submitted, nearly always: they are no reason to wake.
        self.expected = self.ring.take_sends_started();
        if !self.arriving.is_empty() || self.has_hand_over_steps() {
            // With a wait, although for no time: what came to sockets meanwhile is to be found first.
            return self.ring.enter(Some((1, Duration::ZERO)));
        }
        if self.mesh_pending || wait.is_zero() {
            return self.ring.enter(None);
        }
        if !self.handshakes.is_empty() {
            // In the same way: those connected are not to wait for handshakes.
            return self.ring.enter(Some((1, Duration::ZERO)));
        }
        if self.arrived > 0 && self.gather.is_on() {
            // Not announced to the doorbell: who has something need not wake a shard that soon wakes
            // by itself.
            let wait = wait.min(self.gather.wait(self.clock.micros()));
            return self.ring.enter(Some((self.expected + GATHER_EVENTS, wait)));
        }
        if !self.port.doorbell().may_wait() {
            return self.ring.enter(None);
        }
        if self.expected > 0 {
            // One that does not complete at once must not keep what else comes waiting for long.
            // Taken first, so that the sleep that follows is as long as it may be.
            return self.ring.enter(Some((self.expected, wait.min(EXPECTED_WAIT))));
        }
        self.counters.parks += u64::from(!busy);
        self.ring.enter(Some((1, wait)))
    }

    fn next_deadline(&self) -> Timestamp {
        let first = |queue: &VecDeque<(Timestamp, ConnectionId)>| {
            queue.front().map_or(Timestamp::NEVER, |&(deadline, _)| deadline)
        };
        let closing = first(&self.closing).min(first(&self.setting_up));
        let accepting = self
            .listeners
            .iter()
            .filter(|listener| listener.socket.is_some() && !listener.accepting)
            .filter(|listener| self.accepts(listener.number))
            .map(|listener| listener.retry_at)
            .min();
        self.handler
            .next_timeout()
            .min(closing)
            .min(self.dialing.next_deadline())
            .min(self.silence.next_deadline(&self.connections))
            .min(accepting.unwrap_or(Timestamp::NEVER))
            .min(self.stop_deadline.unwrap_or(Timestamp::NEVER))
    }
}
