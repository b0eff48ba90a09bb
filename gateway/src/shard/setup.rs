//! Connections whose transport has layers: from accept until the handler hears of them, and the way
//! of their bytes.
//!
//! TLS handshakes cost a hundred times what a message costs. So a shard does them one after the other
//! in a slice of each sweep, and looks after the connections that are set up between two slices.

use super::buffers::Filled;
use super::connections::State;
use super::engine::Shard;
use super::lifecycle::{NOT_READING, offer, peer_address};
use super::transport::{Layers, Progress};
use crate::config::Scheme;
use crate::proto::handler::{CloseReason, Handler, TransportKind};
use crate::proto::output::ConnectionId;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Handshakes whose next bytes are there.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Those that were begun: what was spent on them should not be in vain.
    begun: VecDeque<ConnectionId>,
    new: VecDeque<ConnectionId>,
}

impl Handshakes {
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.new.is_empty()
    }

    fn push(&mut self, id: ConnectionId, has_begun: bool) {
        let queue = if has_begun { &mut self.begun } else { &mut self.new };
        queue.push_back(id);
    }

    fn pop(&mut self) -> Option<ConnectionId> {
        self.begun.pop_front().or_else(|| self.new.pop_front())
    }
}

/// The most room for plain bytes that is kept from one connection to the next.
const PLAIN_KEPT_BYTES_MAX: usize = 256 * 1_024;

impl<H: Handler> Shard<H> {
    /// What is between the wire and the handler on this listener; `None` on plain TCP.
    pub(super) fn layers_for(&self, peer: SocketAddr, listener: usize) -> Option<Layers> {
        let listen = self.config.listen.get(listener)?;
        let tls = self.config.tls.as_ref().map(|tls| tls.load_full());
        let layers = Layers::begin(listen, peer, tls);
        layers.expect("the configuration of TLS was used when it was checked")
    }

    /// Whether `peer` may connect to this listener at all: one for balancers takes nobody else, who
    /// could say to be anyone.
    pub(super) fn may_connect(&self, peer: SocketAddr, listener: usize) -> bool {
        let proxied = self.config.listen.get(listener).is_some_and(|one| one.proxied);
        let ip = peer.ip().to_canonical();
        !proxied || self.config.balancers.iter().any(|balancer| balancer.contains(&ip))
    }

    /// Whether the layers of a connection from `peer` are to be set up. Behind a balancer that shows
    /// with its header, and on plain TCP with CONNECT, which costs no handshake.
    pub(super) fn admits(&mut self, peer: SocketAddr, listener: usize) -> bool {
        let is_known_later = self
            .config
            .listen
            .get(listener)
            .is_none_or(|listen| listen.proxied || listen.scheme == Scheme::Mqtt);
        is_known_later || self.handler.admits(peer, self.io.now)
    }

    /// A connection whose layers have to be set up.
    pub(super) fn begin_setup(&mut self, id: ConnectionId, layers: Layers) {
        self.connections.put_layers(id.index, Box::new(layers));
        self.set_state(id, State::SETTING_UP);
        self.setting_up.push_back((self.io.now.after(self.config.handshake_timeout), id));
    }

    /// A link goes on in TLS, as the client, with the settings of this number. What came in plain before
    /// and was not consumed is forgotten: nobody knows whose it is.
    pub(super) fn start_tls(&mut self, id: ConnectionId, number: u16) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.state.any(NOT_READING.or(State::LAYERED)) {
            return;
        }
        let all = self.config.link_tls.load();
        let tls = all.get(usize::from(number)).and_then(Option::as_ref);
        let tls = tls.expect("who asks knows that there are settings");
        let layers = peer_address(connection.socket())
            .ok()
            .and_then(|peer| Layers::secure(tls, peer, &mut self.scratch).ok());
        let Some(layers) = layers else {
            self.finish(id, CloseReason::Tls);
            return;
        };
        drop(self.connections.take_partial(id.index));
        self.connections.put_layers(id.index, Box::new(layers));
        self.follow_layers(id);
    }

    /// Closes what was not set up in time. Returns whether anything was.
    pub(super) fn give_up_setups(&mut self) -> bool {
        let mut busy = false;
        while let Some(&(deadline, id)) = self.setting_up.front() {
            if deadline > self.io.now {
                break;
            }
            self.setting_up.pop_front();
            if self.connections.state(id).is_some_and(|state| state.any(State::SETTING_UP)) {
                self.finish(id, CloseReason::Handshake);
                busy = true;
            }
        }
        busy
    }

    /// Closes all connections the handler does not know: the node is stopping.
    pub(super) fn drop_setups(&mut self) {
        for (_, id) in std::mem::take(&mut self.setting_up) {
            if self.connections.state(id).is_some_and(|state| state.any(State::SETTING_UP)) {
                self.finish(id, CloseReason::Requested);
            }
        }
    }

    /// Bytes from the wire of a connection with layers.
    pub(super) fn offer_wire(&mut self, id: ConnectionId, filled: Filled) {
        let wire = self.ring.bytes(&filled);
        self.counters.received_bytes += wire.len() as u64;
        let state = self.connections.state(id).unwrap_or_default();
        let Some(layers) = self.connections.layers(id.index) else {
            self.ring.give_back(filled);
            return;
        };
        if state.any(NOT_READING) {
            // Closed: what still comes is dropped.
            self.ring.give_back(filled);
            return;
        }
        if layers.is_transparent() {
            let paused = self.is_paused();
            let Self { ring, handler, connections, io, .. } = self;
            let kept = offer(handler, connections, io, id, ring.bytes(&filled), paused);
            self.ring.give_back(filled);
            self.offered(id, kept);
            return;
        }
        if state.any(State::SETTING_UP) {
            layers.count_setup(wire.len());
        }
        let mut rest = Vec::new();
        let mut wire = wire;
        if layers.expects_header() {
            layers.take_header(wire, &mut rest);
            wire = &rest;
            let origin = layers.origin();
            let is_known = !layers.expects_header() && origin.transport != TransportKind::Tcp;
            if is_known && !self.handler.admits(origin.peer, self.io.now) {
                self.ring.give_back(filled);
                self.finish(id, CloseReason::Requested);
                return;
            }
        }
        if layers.is_costly() {
            layers.keep(wire);
            let has_begun = layers.has_begun();
            self.ring.give_back(filled);
            if !state.any(State::QUEUED) {
                self.handshakes.push(id, has_begun);
                self.set_state(id, State::QUEUED);
            }
            return;
        }
        let mut plain = std::mem::take(&mut self.plain);
        let limits = &self.config.websocket;
        let progress = layers.receive(wire, limits, &mut self.scratch, &mut plain);
        self.ring.give_back(filled);
        self.advance(id, &progress, plain);
    }

    /// Takes steps of handshakes for as long as a slice lasts. Returns whether there was any.
    pub(super) fn take_handshake_steps(&mut self) -> bool {
        if self.handshakes.is_empty() {
            return false;
        }
        let slice_us = u64::try_from(self.config.handshake_slice.as_micros()).unwrap_or(u64::MAX);
        let until = self.clock.micros().saturating_add(slice_us);
        while let Some(id) = self.handshakes.pop() {
            self.take_handshake_step(id);
            if self.clock.micros() >= until {
                break;
            }
        }
        true
    }

    fn take_handshake_step(&mut self, id: ConnectionId) {
        // Gone meanwhile, as a client that has waited too long.
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.state.unset(State::QUEUED);
        if connection.state.any(NOT_READING) {
            return;
        }
        let Some(layers) = self.connections.layers(id.index) else { return };
        let mut plain = std::mem::take(&mut self.plain);
        let limits = &self.config.websocket;
        let progress = layers.receive(&[], limits, &mut self.scratch, &mut plain);
        self.advance(id, &progress, plain);
        self.settle(id);
    }

    /// Whether a connection whose bytes wait for their turn may send more of them.
    pub(super) fn may_send_more(&mut self, id: ConnectionId) -> bool {
        let max = self.config.handshake_bytes_max;
        self.connections.layers(id.index).is_none_or(|layers| layers.kept_bytes() < max)
    }

    /// Does what bytes from the wire led to.
    fn advance(&mut self, id: ConnectionId, progress: &Progress, mut plain: Vec<u8>) {
        let is_link = self.connections.state(id).is_some_and(|state| state.any(State::LINK));
        match progress.handshake.filter(|_| !is_link) {
            Some(true) => self.counters.tls_resumed += 1,
            Some(false) => self.counters.tls_full += 1,
            None => {}
        }
        if progress.opened
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.state.unset(State::SETTING_UP);
            if let Some(layers) = self.connections.layers(id.index) {
                let origin = layers.origin().clone();
                tracing::debug!(
                    peer = %origin.peer,
                    transport = ?origin.transport,
                    server_name = origin.server_name.as_deref(),
                    identity = origin.certificate_identity.as_deref(),
                    "transport set up"
                );
                if is_link {
                    self.handler.secured(id, &mut self.io);
                } else {
                    self.handler.opened(id, origin, &mut self.io);
                }
                self.perform_actions();
            }
        }
        if !plain.is_empty() {
            self.offer_plain(id, &plain);
        }
        if plain.capacity() <= PLAIN_KEPT_BYTES_MAX {
            plain.clear();
            self.plain = plain;
        }
        self.follow_layers(id);
    }

    /// Does what the layers of a connection call for: sends what they have to say, ends it when they
    /// are at an end.
    pub(super) fn follow_layers(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        let Some(layers) = self.connections.layers(id.index) else { return };
        let bytes_max = self.config.handshake_bytes_max;
        if state.any(State::SETTING_UP) && layers.setup_bytes() > bytes_max {
            layers.fail(CloseReason::Handshake);
        }
        let (is_broken, is_peer_done) = (layers.fault().is_some(), layers.is_peer_done());
        if layers.has_output() {
            self.unsent.push(id.index);
        }
        if is_broken {
            self.begin_close(id, State::CLOSE_REQUESTED);
        } else if is_peer_done && !state.any(State::PEER_DONE) {
            self.handle_peer_done(id);
        }
    }

    /// The wire's bytes for what is queued for connection `index`, `None` if there are none.
    pub(super) fn wrap(&mut self, index: u32) -> Option<Vec<u8>> {
        let layers = self.connections.layers(index)?;
        // A link writes nothing before it is secured; if it did, it would not be in plain.
        let plain = if layers.is_setting_up() { None } else { self.io.outbox.take(index) };
        if layers.is_transparent() {
            return plain;
        }
        if plain.is_none() && !layers.has_output() {
            return None;
        }
        let mut wire = self.io.outbox.spare();
        layers.send(plain.as_deref().unwrap_or_default(), &mut self.scratch, &mut wire);
        if let Some(plain) = plain {
            self.io.outbox.give_back(plain);
        }
        if wire.is_empty() {
            // Broken: nothing can be said any more.
            self.io.outbox.sent(index, wire);
            return None;
        }
        Some(wire)
    }

    /// Sends what the layers have to say last. Returns whether something is under way.
    pub(super) fn say_goodbye(&mut self, id: ConnectionId) -> bool {
        let state = self.connections.state(id).unwrap_or_default();
        let Some(layers) = self.connections.layers(id.index) else { return false };
        if state.any(State::OUR_END_SENT) {
            return false;
        }
        layers.end();
        if !layers.has_output() {
            return false;
        }
        self.start_send(id.index);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_was_begun_comes_before_new_ones() {
        let mut handshakes = Handshakes::default();
        let id = |index| ConnectionId { index, generation: 0 };
        for (index, has_begun) in [(0, false), (1, false), (2, true), (3, true), (4, false)] {
            handshakes.push(id(index), has_begun);
        }
        let order: Vec<_> = std::iter::from_fn(|| handshakes.pop()).map(|id| id.index).collect();
        assert_eq!(order, [2, 3, 0, 1, 4]);
        assert!(handshakes.is_empty());
    }
}
