//! What comes out of the core for the shell to do: bytes to write and actions to take.

/// Index of a shard in its node, `0..shard_count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

/// A connection of one shard: its place in the slab and how often that place was reused.
///
/// The generation makes a late event for a closed connection recognisable, so it can never reach
/// the next connection in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Place in the shard's slab.
    pub index: u32,
    /// How many connections had that place before.
    pub generation: u32,
}

/// Something the shell has to do for a connection, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send what is queued for the connection, then close it. Nothing more is read from it.
    Close(ConnectionId),
    /// Close at once, dropping what is queued.
    Abort(ConnectionId),
    /// Read no more from the connection until [`Action::Resume`]: the upstream is slower than it.
    Hold(ConnectionId),
    /// Read from the connection again, starting with the bytes kept when it was held.
    Resume(ConnectionId),
    /// Give the socket, with every byte received and not yet consumed, to another shard.
    HandOver {
        /// The connection, which does not exist on this shard afterwards.
        connection: ConnectionId,
        /// The shard that owns the session of its client id.
        shard: ShardIndex,
    },
}

/// The bytes waiting to be sent, per connection.
///
/// A connection with nothing to send holds no buffer: buffers come from a pool when the first
/// byte is written and go back when the kernel has taken the last one. [`Outbox::take_dirty`]
/// lists the connections written to since the last call, once each.
#[derive(Debug, Default)]
pub struct Outbox {
    slots: Vec<Slot>,
    dirty: Vec<u32>,
    pool: Vec<Vec<u8>>,
    queued_bytes: usize,
}

/// `buffer` is what was written and not yet taken; `sending_bytes` is with the kernel.
#[derive(Debug, Default)]
struct Slot {
    buffer: Vec<u8>,
    sending_bytes: u32,
    dirty: bool,
}

/// Buffers kept for reuse; each keeps at most [`POOLED_CAPACITY_BYTES`].
const POOL_BUFFERS_MAX: usize = 1_024;
const POOLED_CAPACITY_BYTES: usize = 64 * 1024;

impl Outbox {
    /// The buffer of connection `index`, to append encoded packets to.
    pub fn buffer(&mut self, index: u32) -> &mut Vec<u8> {
        let place = index as usize;
        if place >= self.slots.len() {
            self.slots.resize_with(place + 1, Slot::default);
        }
        let slot = self.slots.get_mut(place).expect("resized above to hold this index");
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index);
            if slot.buffer.capacity() == 0
                && let Some(buffer) = self.pool.pop()
            {
                slot.buffer = buffer;
            }
        }
        &mut slot.buffer
    }

    /// Bytes written for connection `index` that the kernel has not taken yet.
    #[must_use]
    pub fn pending_bytes(&self, index: u32) -> usize {
        self.slots
            .get(index as usize)
            .map_or(0, |slot| slot.buffer.len() + slot.sending_bytes as usize)
    }

    /// Moves the connections written to since the last call into `into`, once each.
    pub fn take_dirty(&mut self, into: &mut Vec<u32>) {
        into.clear();
        into.append(&mut self.dirty);
        for &index in into.iter() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.dirty = false;
            }
        }
    }

    /// Takes the bytes of connection `index` to hand them to the kernel, `None` when there are
    /// none or an earlier buffer is still with it.
    pub fn take(&mut self, index: u32) -> Option<Vec<u8>> {
        let slot = self.slots.get_mut(index as usize)?;
        if slot.buffer.is_empty() || slot.sending_bytes > 0 {
            return None;
        }
        let buffer = std::mem::take(&mut slot.buffer);
        slot.sending_bytes =
            u32::try_from(buffer.len()).expect("a buffer is bounded far below 4 GiB");
        self.queued_bytes += buffer.len();
        Some(buffer)
    }

    /// The kernel has finished with `buffer`; returns whether more is waiting for `index`.
    pub fn sent(&mut self, index: u32, buffer: Vec<u8>) -> bool {
        self.queued_bytes = self.queued_bytes.saturating_sub(buffer.len());
        self.recycle(buffer);
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return false;
        };
        slot.sending_bytes = 0;
        !slot.buffer.is_empty()
    }

    /// Forgets what is queued for `index`: its connection is gone.
    pub fn clear(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.sending_bytes = 0;
            let buffer = std::mem::take(&mut slot.buffer);
            self.recycle(buffer);
        }
    }

    /// Bytes with the kernel over all connections.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0 && capacity <= POOLED_CAPACITY_BYTES && self.pool.len() < POOL_BUFFERS_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }
}
