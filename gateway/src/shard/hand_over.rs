//! Shards stand still and give their connections away, for another process to go on with them.
//!
//! ```text
//! Run ─▶ Drain ─▶ Pause ─▶ Part, then the shard ends
//!  ▲       │        │
//!  └───────┴────────┘        until a shard parts it can go on as if nothing had been
//! ```
//! *Drain*: listeners whose connections cannot move accept no more; those connections are told. *Pause*:
//! no client is read, none is accepted; what is under way ends. *Part*: sends in flight are called
//! back, and every connection leaves with the bytes on both sides of it.
//!
//! Whether all shards stand still cannot be seen by looking at each alone: a message may be between
//! two of them. So the node asks in rounds, and believes it when in two of them in a row every shard
//! was still, and as many parcels had arrived as were sent.

use super::connections::State;
use super::engine::Shard;
use super::node::Node;
use crate::proto::engine_counters::EngineCounters;
use crate::proto::handler::{CloseReason, Handler, Origin};
use crate::proto::output::ConnectionId;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// A client's connection between two processes.
#[derive(Debug)]
pub struct Parting {
    /// The socket.
    pub socket: OwnedFd,
    /// The client's address.
    pub peer: SocketAddr,
    /// Received and not consumed.
    pub received: Vec<u8>,
    /// Written and not sent.
    pub queued: Vec<u8>,
    /// What the handler gave along: see [`Handler::hand_over`].
    pub state: Vec<u8>,
}

/// A listening socket, with the number of its address in the configuration.
#[derive(Debug)]
pub struct ListeningSocket {
    /// Place in [`EngineConfig::listen`](super::EngineConfig::listen).
    pub number: usize,
    /// The socket.
    pub socket: OwnedFd,
}

/// What a shard leaves when it ends.
#[derive(Debug, Default)]
pub struct Ended {
    /// What it counted.
    pub counters: EngineCounters,
    /// The connections it parted with, if it was asked to.
    pub connections: Vec<Parting>,
    /// Its listening sockets, if it was asked for them.
    pub listeners: Vec<ListeningSocket>,
}

/// How far a node is on the way to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Run,
    Drain,
    Pause,
    Part,
}

const PHASES: [Phase; 4] = [Phase::Run, Phase::Drain, Phase::Pause, Phase::Part];

/// What a node and its shards say to each other about that.
#[derive(Debug)]
pub(super) struct Control {
    phase: AtomicU8,
    round: AtomicU64,
    shards: Vec<Look>,
}

/// What a shard said in a round.
#[derive(Debug, Default)]
struct Look {
    /// The round; written last.
    round: AtomicU64,
    phase: AtomicU8,
    unsettled: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Control {
    pub(super) fn new(shards: usize) -> Self {
        let shards = (0..shards).map(|_| Look::default()).collect();
        Self { phase: AtomicU8::new(0), round: AtomicU64::new(0), shards }
    }

    fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Acquire);
        PHASES.get(usize::from(phase)).copied().unwrap_or_default()
    }
}

/// A shard's part of it.
#[derive(Debug, Default)]
pub(super) struct HandingOver {
    pub(super) phase: Phase,
    /// Parcels given to and taken from other shards.
    pub(super) parcels_sent: u64,
    pub(super) parcels_received: u64,
    /// What the handler gave along with connections that are about to leave, by index.
    states: ahash::AHashMap<u32, Vec<u8>>,
    pub(super) gone: Ended,
    /// Those still to be looked after in this phase; at first, those that came from another process
    /// and are not read yet.
    left: VecDeque<ConnectionId>,
}

impl<H: Handler> Shard<H> {
    /// Whether nobody is read.
    pub(super) fn is_paused(&self) -> bool {
        self.handing_over.phase >= Phase::Pause
    }

    /// Whether listener `number` accepts.
    pub(super) fn accepts(&self, number: usize) -> bool {
        match self.handing_over.phase {
            Phase::Run => true,
            Phase::Drain => self.config.listen.get(number).is_none_or(|listen| listen.is_plain()),
            Phase::Pause | Phase::Part => false,
        }
    }

    /// Does what the node wants by now.
    pub(super) fn follow_phase(&mut self) {
        let wanted = self.control.phase();
        if wanted == self.handing_over.phase {
            return;
        }
        self.handing_over.phase = wanted;
        match wanted {
            Phase::Run => {
                self.handler.stay(&mut self.io);
                self.perform_actions();
                self.handing_over.left = self.connections.ids().into();
            }
            Phase::Drain => {
                self.stop_accepting();
                self.handler.prepare_to_move(&mut self.io);
                self.perform_actions();
            }
            Phase::Pause => {
                self.stop_accepting();
                self.drop_setups();
                self.handler.pause(&mut self.io);
                self.perform_actions();
                self.handing_over.left = self.connections.ids().into();
            }
            Phase::Part => self.handing_over.left = self.connections.ids().into(),
        }
        self.take_hand_over_steps();
    }

    /// Says how far it is, if it is asked. At the end of a sweep.
    pub(super) fn answer_round(&mut self) {
        let round = self.control.round.load(Ordering::Acquire);
        let Some(look) = self.control.shards.get(usize::from(self.io.shard.0)) else { return };
        if look.round.load(Ordering::Relaxed) == round {
            return;
        }
        let HandingOver { phase, parcels_sent, parcels_received, .. } = self.handing_over;
        look.phase.store(phase as u8, Ordering::Relaxed);
        look.unsettled.store(self.unsettled(), Ordering::Relaxed);
        look.sent.store(parcels_sent, Ordering::Relaxed);
        look.received.store(parcels_received, Ordering::Relaxed);
        look.round.store(round, Ordering::Release);
    }

    /// How much there is to wait for until the next phase.
    fn unsettled(&self) -> u64 {
        let count = |wanted: &dyn Fn(State) -> bool| {
            let ids = self.connections.ids().into_iter();
            let states = ids.filter_map(|id| self.connections.state(id));
            states.filter(|state| !state.any(State::LINK) && wanted(*state)).count() as u64
        };
        match self.handing_over.phase {
            Phase::Run | Phase::Part => 0,
            Phase::Drain => {
                u64::from(self.handler.is_preparing_to_move())
                    + count(&|state| state.any(State::CLOSING.or(State::DEAD)))
            }
            Phase::Pause => {
                let moves = !self.handing_over.left.is_empty()
                    || self.is_anything_moving()
                    || !self.handler.is_still(&self.io);
                match moves {
                    true => 1,
                    // Those that end are waited for: they may have wills.
                    false => count(&|state| {
                        let ends = State::CLOSING.or(State::DEAD);
                        state.any(State::RECEIVING.or(State::LEAVING).or(ends))
                    }),
                }
            }
        }
    }

    /// Looks after the next connections. Few at a time: each may bring several completions, and there
    /// must be room for them.
    pub(super) fn take_hand_over_steps(&mut self) {
        for _ in 0..SLICE {
            let Some(id) = self.handing_over.left.pop_front() else { break };
            match self.handing_over.phase {
                Phase::Run | Phase::Drain => {
                    self.offer_kept(id);
                    self.settle(id);
                }
                Phase::Pause => self.pause_one(id),
                Phase::Part => self.part_with(id),
            }
        }
        self.perform_actions();
        if !self.handing_over.left.is_empty() {
            self.look_again();
        } else if self.handing_over.phase == Phase::Part && !self.is_stopping() {
            self.begin_stop();
        }
    }

    /// Whether connections are still to be looked after.
    pub(super) fn has_hand_over_steps(&self) -> bool {
        !self.handing_over.left.is_empty()
    }

    fn pause_one(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        if state.any(State::LINK.or(State::CLOSING).or(State::DEAD).or(State::LEAVING)) {
            return;
        }
        if !self.is_plain(id) || !self.handler.can_move(id) {
            // It was told, or has just come.
            self.finish(id, CloseReason::Requested);
        } else if state.any(State::RECEIVING) {
            self.ring.cancel_receive(id);
        }
    }

    /// Whether what passes on the wire is MQTT.
    fn is_plain(&mut self, id: ConnectionId) -> bool {
        let is_layered = self.connections.state(id).is_some_and(|state| state.any(State::LAYERED));
        !is_layered
            || self.connections.layers(id.index).is_some_and(|layers| layers.is_transparent())
    }

    fn part_with(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        if state.any(State::LINK.or(State::DEAD)) {
            return;
        }
        let is_going = state.any(State::CLOSING.or(State::LEAVING));
        let given = match !is_going && self.is_plain(id) {
            true => self.handler.hand_over(id, &mut self.io),
            false => None,
        };
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.state.any(State::RECEIVING) {
            self.ring.cancel_receive(id);
        }
        if connection.state.any(State::SENDING) {
            self.ring.cancel_send(id);
        }
        match given {
            Some(given) => {
                connection.state.set(State::LEAVING);
                self.handing_over.states.insert(id.index, given);
            }
            // Its end is for the next process to see, as after a crash: what this one would do about
            // it now, such as to publish a will, those that have left would miss.
            None => connection.state.set(State::DEAD),
        }
        self.settle(id);
    }

    /// Whether the connection leaves for another process.
    pub(super) fn is_parting(&self, id: ConnectionId) -> bool {
        self.handing_over.states.contains_key(&id.index)
    }

    /// Nothing is in flight any more: the connection is no longer this shard's.
    pub(super) fn leave_process(&mut self, id: ConnectionId, peer: Option<SocketAddr>) {
        let Some(state) = self.handing_over.states.remove(&id.index) else { return };
        let received = self.connections.take_partial(id.index);
        let queued = self.io.outbox.take(id.index).unwrap_or_default();
        self.io.outbox.clear(id.index);
        if let Some((socket, layers)) = self.connections.remove(id.index) {
            let peer = layers.map(|layers| layers.origin().peer).or(peer).unwrap_or(NO_PEER);
            let parting = Parting { socket, peer, received, queued, state };
            self.handing_over.gone.connections.push(parting);
        }
    }

    /// Takes a connection over from another process. It is read once the shard runs.
    pub(super) fn join(&mut self, parting: Parting) {
        let Parting { socket, peer, received, queued, state } = parting;
        // More than there may be now, where that was lowered: those that are there may stay.
        self.open_count.fetch_add(1, Ordering::Relaxed);
        self.counters.arrived += 1;
        let id = self.connections.insert(socket);
        if let Some(connection) = self.connections.get_mut(id) {
            self.silence.taken_over(connection);
        }
        self.io.outbox.clear(id.index);
        if !queued.is_empty() {
            self.io.outbox.buffer(id.index).extend_from_slice(&queued);
        }
        self.handler.take_over(id, Origin::tcp(peer), &state, &mut self.io);
        self.perform_actions();
        self.connections.keep_partial(id.index, received);
        self.handing_over.left.push_back(id);
    }
}

/// Why shards cannot be brought to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Restless {
    /// Connections that were told to go have not gone.
    #[error("clients that cannot move did not go in time")]
    Lingering,
    /// Something is under way for longer than it may be.
    #[error(
        "what is under way (a disk, a server or the store that does not answer) did not end in time"
    )]
    Busy,
}

impl<M: Send + 'static> Node<M> {
    /// Lets those go that cannot move, then brings all shards to stand still: no client is read. Blocks,
    /// for at most each of the two times. After an error, and after [`Node::go_on`], all goes on.
    ///
    /// # Errors
    ///
    /// See [`Restless`].
    pub fn stand_still(&self, drain: Duration, pause: Duration) -> Result<(), Restless> {
        let result = self.reach(Phase::Drain, drain).and_then(|()| self.reach(Phase::Pause, pause));
        if result.is_err() {
            self.go_on();
        }
        result
    }

    /// Ends [`Node::stand_still`].
    pub fn go_on(&self) {
        self.set_phase(Phase::Run);
    }

    /// Ends all shards, which stand still, and returns what they had.
    ///
    /// # Errors
    ///
    /// The first shard that could not go on, with the kernel's answer.
    pub fn part(self) -> Result<Vec<Ended>, super::StartError> {
        self.set_phase(Phase::Part);
        self.ended()
    }

    fn set_phase(&self, phase: Phase) {
        self.control().phase.store(phase as u8, Ordering::Release);
        self.ring_all();
    }

    fn reach(&self, phase: Phase, patience: Duration) -> Result<(), Restless> {
        self.set_phase(phase);
        let clock = super::clock::Clock::start();
        let patience_us = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let mut before = None;
        let mut round = self.control().round.load(Ordering::Relaxed);
        loop {
            round += 1;
            self.control().round.store(round, Ordering::Release);
            self.ring_all();
            let now = loop {
                if let Some(seen) = self.seen(round, phase) {
                    break seen;
                }
                if clock.micros() > patience_us {
                    return Err(self.restless(phase));
                }
                std::thread::park_timeout(LOOK_PAUSE);
            };
            let is_settled = now.is_some_and(|(sent, received)| sent == received);
            // While they drain, messages go on.
            if is_settled && (before == now) || (phase == Phase::Drain && now.is_some()) {
                return Ok(());
            }
            before = now;
            if clock.micros() > patience_us {
                return Err(self.restless(phase));
            }
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// What all shards said in `round`, if they have: parcels sent and received by all of them, if
    /// none has anything to wait for.
    #[expect(clippy::option_option, reason = "not all have answered; all have; and are settled")]
    fn seen(&self, round: u64, phase: Phase) -> Option<Option<(u64, u64)>> {
        let (mut sent, mut received, mut is_settled) = (0, 0, true);
        for look in &self.control().shards {
            if look.round.load(Ordering::Acquire) != round {
                return None;
            }
            is_settled &= look.phase.load(Ordering::Relaxed) == phase as u8
                && look.unsettled.load(Ordering::Relaxed) == 0;
            sent += look.sent.load(Ordering::Relaxed);
            received += look.received.load(Ordering::Relaxed);
        }
        Some(is_settled.then_some((sent, received)))
    }

    fn restless(&self, phase: Phase) -> Restless {
        match phase {
            Phase::Drain => Restless::Lingering,
            Phase::Run | Phase::Pause | Phase::Part => Restless::Busy,
        }
    }
}

/// Of a connection whose peer is gone, as the next process will find.
const NO_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Connections looked after in one go: with two completions each, far less than a ring has room for.
const SLICE: usize = 512;

/// Between looks at what shards say.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
