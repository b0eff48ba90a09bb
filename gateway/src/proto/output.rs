//! What comes out of the core for the shell to do: bytes to write and actions to take.

use super::mqtt::PacketType;
use super::packet_counts::SentCounts;
use super::time::Timestamp;
use super::trace::Traces;

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
    /// Send what is queued for the connection, then close it. What still comes in is dropped.
    Close(ConnectionId),
    /// Reset at once, dropping what is queued.
    Abort(ConnectionId),
    /// The connection stays on this shard: from here on the shell may keep a receive armed that
    /// delivers many times. Until then it receives once at a time, so that a hand-over finds
    /// nothing to cancel.
    Adopt(ConnectionId),
    /// The client of the connection is not known yet, and until [`Action::Adopt`] so many bytes are kept of what
    /// it has said.
    Keep {
        /// Whose.
        connection: ConnectionId,
        /// How many.
        bytes: u64,
    },
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
    /// The connection, which this shard has dialed, goes on in TLS. Nothing is written to it until that
    /// is so, see [`Handler::secured`](crate::proto::handler::Handler::secured).
    StartTls {
        /// The connection.
        link: ConnectionId,
        /// Which of the engine's settings for links.
        number: u16,
    },
}

/// The bytes waiting to be sent, per connection.
///
/// A connection with nothing to send costs 4 bytes: buffers come from a pool when the first byte
/// is written and go back when the kernel has taken the last one. [`Outbox::take_dirty`] lists the
/// connections written to since the last call, once each.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Connection index to place in `queues`, [`NO_QUEUE`] for nothing to send.
    places: Vec<u32>,
    queues: Vec<Queue>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    pool: Vec<Vec<u8>>,
    queued_bytes: usize,
    /// MQTT packets written, for metrics.
    pub sent: SentCounts,
    /// Connections whose packets are shown to an operator.
    pub traces: Traces,
    /// The time of what is written, for traces.
    pub now: Timestamp,
}

/// `buffer` is what was written and not yet taken; `sending_bytes` is with the kernel.
#[derive(Debug, Default)]
struct Queue {
    buffer: Vec<u8>,
    sending_bytes: usize,
    dirty: bool,
}

const NO_QUEUE: u32 = u32::MAX;

/// Buffers kept for reuse; each keeps at most [`POOLED_CAPACITY_BYTES`].
const POOL_BUFFERS_MAX: usize = 1_024;
const POOLED_CAPACITY_BYTES: usize = 64 * 1024;

impl Outbox {
    /// The buffer of connection `index`, to append encoded packets to.
    pub fn buffer(&mut self, index: u32) -> &mut Vec<u8> {
        let place = self.place(index);
        let queue = self.queues.get_mut(place).expect("a place in use is in the list");
        if !queue.dirty {
            queue.dirty = true;
            self.dirty.push(index);
            if queue.buffer.capacity() == 0
                && let Some(buffer) = self.pool.pop()
            {
                queue.buffer = buffer;
            }
        }
        &mut queue.buffer
    }

    /// Appends one MQTT packet of `packet_type`, which `encode` writes, and counts it.
    pub fn write(
        &mut self,
        index: u32,
        packet_type: PacketType,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let buffer = self.buffer(index);
        let start = buffer.len();
        encode(buffer);
        let bytes = buffer.len() - start;
        self.sent.packets.add(packet_type, bytes);
        if self.traces.has(index) {
            self.trace_sent(index, start);
        }
    }

    /// Shows the packet that was written for `index` from `start` of its buffer on, if that is traced.
    pub fn trace_sent(&mut self, index: u32, start: usize) {
        let queue = self.places.get(index as usize).and_then(|at| self.queues.get(*at as usize));
        if let Some(bytes) = queue.and_then(|queue| queue.buffer.get(start..)) {
            self.traces.sent(index, self.now, bytes);
        }
    }

    /// Bytes written for connection `index` that the kernel has not taken yet.
    #[must_use]
    pub fn pending_bytes(&self, index: u32) -> usize {
        self.queue(index).map_or(0, |queue| queue.buffer.len() + queue.sending_bytes)
    }

    /// Moves the connections written to since the last call into `into`, once each.
    pub fn take_dirty(&mut self, into: &mut Vec<u32>) {
        into.clear();
        into.append(&mut self.dirty);
        for &index in into.iter() {
            if let Some(queue) = self.queue_mut(index) {
                queue.dirty = false;
            }
        }
    }

    /// Takes the bytes of connection `index` to hand them to the kernel, `None` when there are
    /// none or an earlier buffer is still with it.
    pub fn take(&mut self, index: u32) -> Option<Vec<u8>> {
        let queue = self.queue_mut(index)?;
        if queue.sending_bytes > 0 {
            return None;
        }
        if queue.buffer.is_empty() {
            self.release(index);
            return None;
        }
        let buffer = std::mem::take(&mut queue.buffer);
        queue.sending_bytes = buffer.len();
        self.queued_bytes += buffer.len();
        Some(buffer)
    }

    /// A buffer to put bytes in that become those of another; it goes back with [`Outbox::give_back`]
    /// or [`Outbox::sent`].
    pub fn spare(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    /// Takes a buffer back for reuse.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.recycle(buffer);
    }

    /// The kernel has finished with `buffer`; returns whether more is waiting for `index`.
    pub fn sent(&mut self, index: u32, buffer: Vec<u8>) -> bool {
        self.recycle(buffer);
        let Some(queue) = self.queue_mut(index) else {
            return false;
        };
        let sent_bytes = std::mem::take(&mut queue.sending_bytes);
        let more = !queue.buffer.is_empty();
        self.queued_bytes = self.queued_bytes.saturating_sub(sent_bytes);
        self.release(index);
        more
    }

    /// The kernel took the first `sent` bytes of `buffer` and will get no more of it: the rest is the
    /// first to be sent again.
    pub fn unsent(&mut self, index: u32, mut buffer: Vec<u8>, sent: usize) {
        buffer.drain(..sent.min(buffer.len()));
        let Some(queue) = self.queue_mut(index) else { return };
        let sending_bytes = std::mem::take(&mut queue.sending_bytes);
        buffer.append(&mut queue.buffer);
        queue.buffer = buffer;
        self.queued_bytes = self.queued_bytes.saturating_sub(sending_bytes);
    }

    /// Forgets what is queued for `index`: its connection is gone.
    pub fn clear(&mut self, index: u32) {
        if let Some(queue) = self.queue_mut(index) {
            let sending_bytes = std::mem::take(&mut queue.sending_bytes);
            let buffer = std::mem::take(&mut queue.buffer);
            self.queued_bytes = self.queued_bytes.saturating_sub(sending_bytes);
            self.recycle(buffer);
            self.release(index);
        }
    }

    /// Bytes with the kernel over all connections.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    fn queue(&self, index: u32) -> Option<&Queue> {
        self.queues.get(*self.places.get(index as usize)? as usize)
    }

    fn queue_mut(&mut self, index: u32) -> Option<&mut Queue> {
        self.queues.get_mut(*self.places.get(index as usize)? as usize)
    }

    /// The place of `index` in `queues`, taking a free one when it has none.
    fn place(&mut self, index: u32) -> usize {
        let at = index as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, NO_QUEUE);
        }
        let place = self.places.get_mut(at).expect("resized above to hold this index");
        if *place == NO_QUEUE {
            *place = self.free.pop().unwrap_or_else(|| {
                self.queues.push(Queue::default());
                u32::try_from(self.queues.len() - 1).expect("no more queues than connections")
            });
        }
        *place as usize
    }

    /// Gives the place of `index` back when nothing is queued, sending or listed as dirty.
    fn release(&mut self, index: u32) {
        let Some(queue) = self.queue_mut(index) else { return };
        if queue.dirty || queue.sending_bytes > 0 || !queue.buffer.is_empty() {
            return;
        }
        let buffer = std::mem::take(&mut queue.buffer);
        self.recycle(buffer);
        let place = self.places.get_mut(index as usize).expect("it has a queue");
        self.free.push(std::mem::replace(place, NO_QUEUE));
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity > 0 && capacity <= POOLED_CAPACITY_BYTES && self.pool.len() < POOL_BUFFERS_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_nothing_to_send_holds_no_queue() {
        let mut outbox = Outbox::default();
        let mut dirty = Vec::new();
        for round in 0..3 {
            outbox.buffer(7).extend_from_slice(b"abc");
            outbox.take_dirty(&mut dirty);
            assert_eq!(dirty, [7], "round {round}");
            let buffer = outbox.take(7).expect("three bytes wait");
            outbox.buffer(7).extend_from_slice(b"de");
            assert_eq!(outbox.pending_bytes(7), 5);
            assert!(outbox.take(7).is_none(), "one buffer is with the kernel");
            assert!(outbox.sent(7, buffer));
            outbox.take_dirty(&mut dirty);
            let buffer = outbox.take(7).expect("two bytes wait");
            assert_eq!(buffer, b"de");
            assert!(!outbox.sent(7, buffer));
            assert_eq!((outbox.queues.len(), outbox.free.len()), (1, 1));
            assert_eq!((outbox.pending_bytes(7), outbox.queued_bytes()), (0, 0));
        }
    }

    #[test]
    fn what_the_kernel_did_not_take_is_first_again() {
        let mut outbox = Outbox::default();
        outbox.buffer(3).extend_from_slice(b"abcd");
        outbox.take_dirty(&mut Vec::new());
        let buffer = outbox.take(3).expect("four bytes wait");
        outbox.buffer(3).extend_from_slice(b"ef");
        outbox.unsent(3, buffer, 1);
        assert_eq!((outbox.pending_bytes(3), outbox.queued_bytes()), (5, 0));
        outbox.take_dirty(&mut Vec::new());
        assert_eq!(outbox.take(3).as_deref(), Some(b"bcdef".as_slice()));
    }

    #[test]
    fn what_was_queued_for_a_closed_connection_does_not_reach_the_next() {
        let mut outbox = Outbox::default();
        outbox.buffer(0).extend_from_slice(b"old");
        outbox.clear(0);
        let mut dirty = Vec::new();
        outbox.take_dirty(&mut dirty);
        assert!(outbox.take(0).is_none());
        outbox.buffer(0).extend_from_slice(b"new");
        assert_eq!(outbox.take(0).as_deref(), Some(b"new".as_slice()));
    }
}
