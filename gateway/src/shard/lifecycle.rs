//! A connection from accept to close.
//!
//! Every change ends in [`Shard::settle`], which looks at the connection's state and starts what is
//! due: a receive, our end of stream, the departure, the release. A socket is closed in one place,
//! when nothing of it is in flight any more, so neither a buffer nor a late completion can outlive
//! its connection.

use super::buffers::Filled;
use super::connections::{Connections, State};
use super::engine::Shard;
use super::mesh::{Moving, Parcel};
use super::ring::Receive;
use crate::proto::handler::{CloseReason, Handler, Io, Origin};
use crate::proto::output::{Action, ConnectionId, ShardIndex};
use rustix::net::{self, Shutdown, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<H: Handler> Shard<H> {
    /// A client connected.
    pub(super) fn open(&mut self, socket: OwnedFd, listener: usize) {
        // Gone already: nobody to serve.
        let Ok(peer) = peer_address(&socket) else { return };
        if !self.may_connect(peer, listener) {
            self.counters.refused_no_balancer += 1;
            self.tell_no_balancer(peer);
            return;
        }
        if !self.admits(peer, listener) {
            return;
        }
        if !self.takes_place() {
            self.counters.refused += 1;
            self.tell_full(peer);
            return;
        }
        self.counters.accepted += 1;
        let id = self.connections.insert(socket);
        self.io.outbox.clear(id.index);
        match self.layers_for(peer, listener) {
            None => {
                self.handler.opened(id, Origin::tcp(peer), &mut self.io);
                self.perform_actions();
            }
            Some(layers) => self.begin_setup(id, layers),
        }
        self.settle(id);
    }

    /// Counts one more connection of the node, unless that is one too many.
    fn takes_place(&self) -> bool {
        let max = self.config.connections_max;
        let one_more = |count: u32| (count < max).then_some(count + 1);
        self.open_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// A connection comes from another shard.
    pub(super) fn arrive(&mut self, moving: Moving) {
        let Moving { socket, peer, layers, received, queued } = moving;
        self.counters.arrived += 1;
        let id = self.connections.insert(socket);
        self.io.outbox.clear(id.index);
        if !queued.is_empty() {
            self.io.outbox.buffer(id.index).extend_from_slice(&queued);
        }
        let mut origin = Origin::tcp(peer);
        let is_layered = layers.is_some();
        if let Some(layers) = layers {
            origin = layers.origin().clone();
            self.connections.put_layers(id.index, layers);
        }
        self.handler.opened(id, origin, &mut self.io);
        self.perform_actions();
        self.connections.keep_partial(id.index, received);
        self.offer_kept(id);
        if is_layered {
            self.follow_layers(id);
        }
        self.settle(id);
    }

    /// Does what the handler asked for, and what it asks for meanwhile.
    pub(super) fn perform_actions(&mut self) {
        while !self.io.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.io.actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
            if self.io.actions.is_empty() {
                self.io.actions = actions;
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Adopt(id) => {
                self.set_state(id, State::ADOPTED);
                self.strangers.release(id.index);
            }
            Action::Keep { connection, bytes } => {
                if self.strangers.keep(connection.index, bytes) {
                    self.finish(connection, CloseReason::StrangersTooLarge);
                }
            }
            Action::Hold(id) => {
                if let Some(state) = self.set_state(id, State::HELD)
                    && state.any(State::RECEIVING)
                {
                    self.ring.cancel_receive(id);
                }
            }
            Action::Resume(id) => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.state.unset(State::HELD);
                    self.offer_kept(id);
                    self.settle(id);
                }
            }
            Action::Close(id) => {
                self.begin_close(id, State::CLOSE_REQUESTED);
                self.settle(id);
            }
            Action::Abort(id) => {
                if let Some(connection) = self.connections.get_mut(id) {
                    // Reset instead of FIN: the kernel frees what it still holds for the peer.
                    // A failure leaves an ordinary close.
                    let _ = sockopt::set_socket_linger(connection.socket(), Some(Duration::ZERO));
                    self.finish(id, CloseReason::Requested);
                }
            }
            Action::StartTls { link, number } => self.start_tls(link, number),
            Action::HandOver { connection: id, shard } => {
                if self.connections.state(id).is_some_and(|state| !state.any(GOING)) {
                    self.set_state(id, State::LEAVING);
                    self.leave(id, shard);
                }
            }
        }
    }

    /// Bytes, the end of the stream, or an error.
    pub(super) fn handle_received(
        &mut self,
        id: ConnectionId,
        result: io::Result<Option<Filled>>,
        more: bool,
    ) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.silent_rounds = 0;
            if !more {
                connection.state.unset(State::RECEIVING);
            }
        }
        match result {
            Ok(Some(filled)) => self.offer_filled(id, filled),
            Ok(None) => self.handle_peer_done(id),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => self.starve(id),
                Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ => self.finish(id, reason_of(&error)),
            },
        }
        self.settle(id);
    }

    /// The send of `buffer` ended; `result` is how many of its bytes the kernel took in all.
    pub(super) fn handle_sent(
        &mut self,
        id: ConnectionId,
        buffer: Vec<u8>,
        result: io::Result<usize>,
    ) {
        let paused = self.is_paused();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let gone = connection.state.any(State::DEAD);
        match result {
            Ok(sent) if sent < buffer.len() && !gone && connection.state.any(State::LEAVING) => {
                // Called back: the next process sends the rest.
                connection.state.unset(State::SENDING);
                self.counters.sent_bytes += sent as u64;
                self.io.outbox.unsent(id.index, buffer, sent);
            }
            Ok(sent) if sent < buffer.len() && !gone => {
                self.ring.send(connection.socket(), id, buffer, sent);
                return;
            }
            Ok(sent) => {
                connection.state.unset(State::SENDING);
                let all_sent = connection.state.any(State::TELL_WRITABLE);
                self.counters.sent_bytes += sent as u64;
                if self.io.outbox.sent(id.index, buffer) {
                    self.unsent.push(id.index);
                } else if all_sent && !gone {
                    connection.state.unset(State::TELL_WRITABLE);
                    self.handler.writable(id, &mut self.io);
                    self.perform_actions();
                }
            }
            Err(_) if paused && !connection.state.any(State::CLOSING.or(State::LINK)) => {
                // Whoever reads from it next will find out, and see to what then has to be done.
                connection.state.unset(State::SENDING);
                self.io.outbox.sent(id.index, buffer);
                self.io.outbox.clear(id.index);
            }
            Err(error) => {
                connection.state.unset(State::SENDING);
                self.io.outbox.sent(id.index, buffer);
                self.finish(id, reason_of(&error));
            }
        }
        self.settle(id);
    }

    /// Hands what is queued for `index` to the kernel, unless a send is in flight.
    pub(super) fn start_send(&mut self, index: u32) {
        let id = self.connections.at(index);
        let Some((id, connection)) = id.and_then(|id| Some((id, self.connections.get_mut(id)?)))
        else {
            self.io.outbox.clear(index);
            return;
        };
        if connection.state.any(State::DEAD.or(State::OUR_END_SENT)) {
            self.io.outbox.clear(index);
            return;
        }
        if self.io.outbox.pending_bytes(index) > self.config.writable_above_bytes {
            connection.state.set(State::TELL_WRITABLE);
        }
        if connection.state.any(State::SENDING.or(State::LEAVING)) {
            return;
        }
        let state = connection.state;
        let wire = match state.any(State::LAYERED) {
            false => self.io.outbox.take(index),
            true => self.wrap(index),
        };
        if let Some(wire) = wire
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.state.set(State::SENDING);
            self.silence.sending(connection);
            self.ring.send(connection.socket(), id, wire, 0);
        } else if state.any(State::LAYERED) && state.any(State::CLOSING) {
            // What was queued could not be said any more.
            self.settle(id);
        }
    }

    /// Gives the handler bytes that came in a receive buffer.
    fn offer_filled(&mut self, id: ConnectionId, filled: Filled) {
        let Some(state) = self.connections.state(id) else {
            self.ring.give_back(filled);
            return;
        };
        if state.any(State::LAYERED) {
            self.offer_wire(id, filled);
            return;
        }
        let bytes = self.ring.bytes(&filled);
        self.counters.received_bytes += bytes.len() as u64;
        let paused = self.is_paused();
        let Self { handler, connections, io, .. } = self;
        let bytes = self.ring.bytes(&filled);
        let kept = offer(handler, connections, io, id, bytes, paused);
        self.ring.give_back(filled);
        self.offered(id, kept);
    }

    /// As [`Shard::offer_filled`], of bytes that were unwrapped.
    pub(super) fn offer_plain(&mut self, id: ConnectionId, bytes: &[u8]) {
        let paused = self.is_paused();
        let Self { handler, connections, io, .. } = self;
        let kept = offer(handler, connections, io, id, bytes, paused);
        self.offered(id, kept);
    }

    /// Looks after a connection whose bytes were offered, or else `kept`.
    pub(super) fn offered(&mut self, id: ConnectionId, kept: bool) {
        if kept {
            self.offer_kept(id);
        } else {
            self.check_partial(id);
            self.perform_actions();
        }
    }

    /// Offers the handler the bytes kept for the connection, when it reads.
    pub(super) fn offer_kept(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        if self.is_paused() && !state.any(State::LINK) {
            return;
        }
        if state.any(NOT_READING.or(State::HELD).or(State::LEAVING)) {
            return;
        }
        let mut kept = self.connections.take_partial(id.index);
        if kept.is_empty() {
            return;
        }
        let consumed = self.handler.received(id, &kept, &mut self.io);
        assert!(consumed <= kept.len(), "a handler consumes what it was given");
        kept.drain(..consumed);
        self.connections.keep_partial(id.index, kept);
        self.check_partial(id);
        self.perform_actions();
    }

    /// Closes a connection that leaves more unconsumed than it may.
    fn check_partial(&mut self, id: ConnectionId) {
        if self.connections.partial_bytes(id.index) > self.config.partial_bytes_max {
            self.finish(id, CloseReason::PartialTooLarge);
        }
    }

    pub(super) fn handle_peer_done(&mut self, id: ConnectionId) {
        let Some(state) = self.set_state(id, State::PEER_DONE) else { return };
        // A connection that leaves takes its end of stream along: the next receive finds it again.
        if !state.any(State::LEAVING) {
            self.begin_close(id, State::default());
        }
    }

    fn starve(&mut self, id: ConnectionId) {
        if self.set_state(id, State::STARVED).is_some_and(|state| !state.any(State::STARVED)) {
            self.counters.starved += 1;
            self.starved.push_back(id);
        }
    }

    /// From here on only what is queued is sent.
    pub(super) fn begin_close(&mut self, id: ConnectionId, why: State) {
        let Some(state) = self.connections.state(id) else { return };
        if state.any(GOING) {
            return;
        }
        self.set_state(id, State::CLOSING.or(why));
        drop(self.connections.take_partial(id.index));
        self.closing.push_back((self.io.now.after(self.config.close_deadline), id));
    }

    /// The connection is over: tells the handler and ends what is in flight.
    pub(super) fn finish(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.state.any(State::DEAD) {
            return;
        }
        // What a layer has closed it for, however the peer then took its leave, or did not.
        let fault = match connection.state.any(State::LAYERED) {
            true => self.connections.layers(id.index).and_then(|layers| layers.fault()),
            false => None,
        };
        let reason = fault.unwrap_or(reason);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.state.set(State::DEAD);
        if connection.state.any(State::RECEIVING) {
            // Ends the receive and sends nothing, at a cost that does not grow with the ring: to
            // cancel it, the kernel looks for it among the others. When the peer was faster,
            // the receive is over anyway.
            let _ = net::shutdown(connection.socket(), Shutdown::Read);
        }
        if connection.state.any(State::SENDING) {
            // Not shutdown(2): its FIN would reach the peer of a connection that is to be reset.
            self.ring.cancel_send(id);
        }
        let known = !connection.state.any(State::SETTING_UP);
        let is_link = connection.state.any(State::LINK);
        self.counters.closed(reason);
        if !is_link {
            self.tell_closed(id, reason);
        }
        if known {
            self.handler.closed(id, reason, &mut self.io);
            self.perform_actions();
        }
        self.settle(id);
    }

    /// Starts what the state of `id` calls for. May be called at any time, any number of times.
    pub(super) fn settle(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        if self.is_one_too_many(id, state) {
            self.finish(id, CloseReason::StrangersTooLarge);
            return;
        }
        let in_flight = state.any(State::RECEIVING.or(State::SENDING));
        if state.any(State::DEAD) {
            if !in_flight {
                self.io.outbox.clear(id.index);
                self.leaving.remove(&id.index);
                // The one place where a socket is closed.
                drop(self.connections.remove(id.index));
                self.strangers.release(id.index);
                if !state.any(State::LINK) {
                    self.open_count.fetch_sub(1, Ordering::Relaxed);
                }
            }
            return;
        }
        if state.any(State::LEAVING) {
            if !in_flight {
                self.depart(id);
            }
            return;
        }
        if state.any(State::CLOSING)
            && !state.any(State::SENDING)
            && self.io.outbox.pending_bytes(id.index) == 0
            && !(state.any(State::LAYERED) && self.say_goodbye(id))
        {
            self.end_stream(id, state);
        }
        self.ask_for_bytes(id);
    }

    /// Everything is sent: our end of stream, and when the peer's was seen too, the end.
    fn end_stream(&mut self, id: ConnectionId, state: State) {
        if state.any(State::PEER_DONE) {
            let requested = state.any(State::CLOSE_REQUESTED);
            let reason = if requested { CloseReason::Requested } else { CloseReason::PeerClosed };
            self.finish(id, reason);
        } else if !state.any(State::OUR_END_SENT)
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.state.set(State::OUR_END_SENT);
            // Closing now could reset the connection (bytes unread) before the peer has read our
            // last packet. A failure means it is gone, which the receive reports.
            let _ = net::shutdown(connection.socket(), Shutdown::Write);
        }
    }

    fn ask_for_bytes(&mut self, id: ConnectionId) {
        let Some(state) = self.connections.state(id) else { return };
        let held = (state.any(State::HELD) || (self.is_paused() && !state.any(State::LINK)))
            && !state.any(State::CLOSING);
        let busy = State::RECEIVING.or(State::STARVED).or(State::PEER_DONE).or(State::DEAD);
        if held || state.any(busy) || (state.any(State::QUEUED) && !self.may_send_more(id)) {
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let how = if state.any(State::ADOPTED) { Receive::Many } else { Receive::Once };
        connection.state.set(State::RECEIVING);
        self.ring.receive(connection.socket(), id, how);
    }

    /// Notes where a leaving connection goes; it departs once nothing is in flight.
    fn leave(&mut self, id: ConnectionId, to: ShardIndex) {
        assert!(
            to != self.io.shard && to.0 < self.config.shards,
            "hand-over goes to another shard"
        );
        self.leaving.insert(id.index, to);
        if self.connections.state(id).is_some_and(|state| state.any(State::RECEIVING)) {
            self.ring.cancel_receive(id);
        }
        self.settle(id);
    }

    fn depart(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let peer = peer_address(connection.socket());
        if self.is_parting(id) {
            self.leave_process(id, peer.ok());
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Ok(peer) = peer else {
            connection.state.unset(State::LEAVING);
            self.leaving.remove(&id.index);
            self.finish(id, CloseReason::PeerReset);
            return;
        };
        let to = self.leaving.remove(&id.index).expect("noted when it began to leave");
        let received = self.connections.take_partial(id.index);
        let queued = self.io.outbox.take(id.index).unwrap_or_default();
        self.io.outbox.clear(id.index);
        self.strangers.release(id.index);
        if let Some((socket, layers)) = self.connections.remove(id.index) {
            self.counters.departed += 1;
            let moving = Moving { socket, peer, layers, received, queued };
            self.depart_parcel(to, Parcel::Connection(Box::new(moving)));
        }
    }

    /// Sends a moving connection on, or keeps it until there is room.
    pub(super) fn depart_parcel(&mut self, to: ShardIndex, parcel: Parcel<H::Message>) {
        match self.port.send(to, parcel) {
            Some(parcel) => self.departing.push_back((to, parcel)),
            None => self.handing_over.parcels_sent += 1,
        }
    }

    /// Adds `state` and returns what it was before, `None` when the connection is gone.
    pub(super) fn set_state(&mut self, id: ConnectionId, state: State) -> Option<State> {
        let connection = self.connections.get_mut(id)?;
        let before = connection.state;
        connection.state.set(state);
        Some(before)
    }
}

/// Gives the handler `bytes`, or keeps them behind others or while no client is read (`paused`);
/// returns whether they were kept.
pub(super) fn offer<H: Handler>(
    handler: &mut H,
    connections: &mut Connections,
    io: &mut Io<H::Message>,
    id: ConnectionId,
    bytes: &[u8],
    paused: bool,
) -> bool {
    let Some(state) = connections.state(id) else { return false };
    if state.any(NOT_READING) {
        // Closed: what still comes is dropped.
        return true;
    }
    let is_unread = paused && !state.any(State::LINK);
    if is_unread || state.any(State::HELD.or(State::LEAVING)) || connections.has_partial(id.index) {
        let mut kept = connections.take_partial(id.index);
        kept.extend_from_slice(bytes);
        connections.keep_partial(id.index, kept);
        return true;
    }
    let consumed = handler.received(id, bytes, io);
    let rest = bytes.get(consumed..).expect("a handler consumes what it was given");
    if !rest.is_empty() {
        connections.keep_partial(id.index, rest.to_vec());
    }
    false
}

/// On the way out: no further request of the handler changes that.
const GOING: State = State::DEAD.or(State::CLOSING).or(State::LEAVING);

/// The handler is given no more bytes.
pub(super) const NOT_READING: State = State::DEAD.or(State::CLOSING);

fn reason_of(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(
            libc::ECONNRESET
            | libc::EPIPE
            | libc::ETIMEDOUT
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH,
        ) => CloseReason::PeerReset,
        other => CloseReason::Failed(other.unwrap_or(0)),
    }
}

pub(super) fn peer_address<F: std::os::fd::AsFd>(socket: F) -> io::Result<SocketAddr> {
    let socket: BorrowedFd<'_> = socket.as_fd();
    let address = net::getpeername(socket)?.ok_or(io::ErrorKind::NotConnected)?;
    SocketAddr::try_from(address).map_err(|_| io::ErrorKind::Unsupported.into())
}
