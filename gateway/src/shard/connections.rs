//! The slab of a shard's connections.
//!
//! An idle connection costs one [`Connection`] here. Bytes of an incomplete packet are kept on the
//! side, only while there are any.

use super::transport::Layers;
use crate::proto::output::ConnectionId;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections by index, with the bytes each has not consumed.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Connection>,
    free: Vec<u32>,
    partials: Vec<Vec<u8>>,
    free_partials: Vec<u32>,
    /// By index, as far as there is one with [`State::LAYERED`]: others cost nothing here.
    layers: Vec<Option<Box<Layers>>>,
}

/// One connection, or a free place for one.
#[derive(Default)]
pub(super) struct Connection {
    socket: Option<OwnedFd>,
    pub(super) generation: u32,
    /// Place in `partials` plus one, 0 for none.
    partial: u32,
    pub(super) state: State,
    /// Looks at it since something was received or sent: see [`super::silence`].
    pub(super) silent_rounds: u8,
    /// It has no TCP_USER_TIMEOUT for now.
    pub(super) is_unwatched: bool,
}

const _: () = assert!(size_of::<Connection>() <= 16);

/// Facts about a connection, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State(u16);

impl State {
    /// A receive is in flight.
    pub(super) const RECEIVING: Self = Self(1);
    /// Receives may deliver many times.
    pub(super) const ADOPTED: Self = Self(1 << 1);
    /// A send is in flight.
    pub(super) const SENDING: Self = Self(1 << 2);
    /// The handler asked not to be given bytes.
    pub(super) const HELD: Self = Self(1 << 3);
    /// What is queued is still sent, then the connection is closed; what comes in is dropped.
    pub(super) const CLOSING: Self = Self(1 << 4);
    /// The peer sent its end of stream.
    pub(super) const PEER_DONE: Self = Self(1 << 5);
    /// Our end of stream is sent.
    pub(super) const OUR_END_SENT: Self = Self(1 << 6);
    /// The handler knows it is gone; it waits for its requests only.
    pub(super) const DEAD: Self = Self(1 << 7);
    /// It leaves for another shard once nothing is in flight.
    pub(super) const LEAVING: Self = Self(1 << 8);
    /// Tell the handler when everything queued was sent.
    pub(super) const TELL_WRITABLE: Self = Self(1 << 9);
    /// A receive found no buffer and waits to be started again.
    pub(super) const STARVED: Self = Self(1 << 10);
    /// The handler asked for the close.
    pub(super) const CLOSE_REQUESTED: Self = Self(1 << 11);
    /// Made by this shard: no client, and not counted as one.
    pub(super) const LINK: Self = Self(1 << 12);
    /// There are layers between the wire and the handler.
    pub(super) const LAYERED: Self = Self(1 << 13);
    /// The layers are not set up: the handler does not know of it.
    pub(super) const SETTING_UP: Self = Self(1 << 14);
    /// Bytes of its handshake wait for their turn.
    pub(super) const QUEUED: Self = Self(1 << 15);

    /// Any of `other`.
    pub(super) fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(super) fn unset(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Connections {
    /// Puts a socket in a free place.
    pub(super) fn insert(&mut self, socket: OwnedFd) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Connection::default());
            u32::try_from(self.slots.len() - 1).expect("fewer connections than 2^32")
        });
        let slot = self.slots.get_mut(index as usize).expect("free or just made");
        slot.socket = Some(socket);
        ConnectionId { index, generation: slot.generation }
    }

    /// Frees the place of `index`; its next connection has the next generation.
    pub(super) fn remove(&mut self, index: u32) -> Option<(OwnedFd, Option<Box<Layers>>)> {
        drop(self.take_partial(index));
        let slot = self.slots.get_mut(index as usize)?;
        let socket = slot.socket.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        let state = std::mem::take(&mut slot.state);
        (slot.silent_rounds, slot.is_unwatched) = (0, false);
        self.free.push(index);
        let layers = match state.any(State::LAYERED) {
            true => self.layers.get_mut(index as usize).and_then(Option::take),
            false => None,
        };
        Some((socket, layers))
    }

    /// Puts `layers` between the wire and the handler of connection `index`.
    pub(super) fn put_layers(&mut self, index: u32, layers: Box<Layers>) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        slot.state.set(State::LAYERED);
        if self.layers.len() <= index as usize {
            self.layers.resize_with(index as usize + 1, || None);
        }
        *self.layers.get_mut(index as usize).expect("long enough now") = Some(layers);
    }

    /// The layers of a connection with [`State::LAYERED`].
    pub(super) fn layers(&mut self, index: u32) -> Option<&mut Layers> {
        self.layers.get_mut(index as usize)?.as_deref_mut()
    }

    /// The connection `id`, `None` when it is gone.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation && slot.socket.is_some())
    }

    /// The state of `id`, `None` when it is gone.
    pub(super) fn state(&self, id: ConnectionId) -> Option<State> {
        self.slots
            .get(id.index as usize)
            .filter(|slot| slot.generation == id.generation && slot.socket.is_some())
            .map(|slot| slot.state)
    }

    /// Who has place `index` now, `None` when it is free.
    pub(super) fn at(&self, index: u32) -> Option<ConnectionId> {
        let slot = self.slots.get(index as usize).filter(|slot| slot.socket.is_some())?;
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// All connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let count = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        (0..count).filter_map(|index| self.at(index)).collect()
    }

    /// How many places there are, taken or free.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// How many places are taken.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The bytes kept for `index`, taken out; empty when there are none.
    pub(super) fn take_partial(&mut self, index: u32) -> Vec<u8> {
        let Some(slot) = self.slots.get_mut(index as usize) else { return Vec::new() };
        let Some(place) = std::mem::take(&mut slot.partial).checked_sub(1) else {
            return Vec::new();
        };
        self.free_partials.push(place);
        self.partials.get_mut(place as usize).map(std::mem::take).unwrap_or_default()
    }

    /// Keeps `bytes` for `index`, which has none; nothing when they are empty.
    pub(super) fn keep_partial(&mut self, index: u32, bytes: Vec<u8>) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        debug_assert_eq!(slot.partial, 0, "taken before it is kept again");
        if bytes.is_empty() {
            return;
        }
        let place = self.free_partials.pop().unwrap_or_else(|| {
            self.partials.push(Vec::new());
            u32::try_from(self.partials.len() - 1).expect("fewer than connections")
        });
        *self.partials.get_mut(place as usize).expect("free or just made") = bytes;
        slot.partial = place + 1;
    }

    /// Whether bytes are kept for `index`.
    pub(super) fn has_partial(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| slot.partial != 0)
    }

    /// How many bytes are kept for `index`.
    pub(super) fn partial_bytes(&self, index: u32) -> usize {
        let place = self.slots.get(index as usize).and_then(|slot| slot.partial.checked_sub(1));
        place.and_then(|place| self.partials.get(place as usize)).map_or(0, Vec::len)
    }
}

impl Connection {
    /// The socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("a connection that is found has a socket").as_fd()
    }
}
