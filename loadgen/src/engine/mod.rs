//! Moves the bytes of many connections of one thread: one io_uring, one system call a sweep.
//!
//! Knows nothing of MQTT: bytes go to a [`Driver`], and what the driver puts into a connection's
//! outbox is sent at the end of the sweep.

#[expect(unsafe_code, reason = "memory shared with the kernel: the provided buffer ring")]
mod buffers;
#[expect(unsafe_code, reason = "io_uring operations refer to memory by address")]
mod ring;

use std::{
    io,
    mem::take,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::clock::Clock;
use ring::{Completion, Operation, Ring};

/// Connections from one source address: below the 28,232 ports Linux gives out by default.
const CONNECTIONS_PER_SOURCE: u32 = 20_000;
/// An outbox that kept more than this after a send gives its memory back.
const OUTBOX_KEPT_BYTES: usize = 64 << 10;

/// The connections of a thread.
pub(crate) struct Engine {
    ring: Ring,
    clock: Clock,
    target_is_loopback: bool,
    /// Index of the first connection over all threads, for the choice of source addresses.
    first_source: u32,
    connections: Vec<Connection>,
    /// Connections with an outbox to send.
    dirty: Vec<u32>,
    completions: Vec<Completion>,
}

#[derive(Default)]
struct Connection {
    state: State,
    outbox: Vec<u8>,
    /// Bytes in the send that is in flight; 0 when none is.
    sending_bytes: usize,
    dirty: bool,
    /// Close it when its outbox is empty.
    close_when_sent: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Connecting,
    Open,
    /// Left half open: nothing is read or sent, only the peer's FIN is waited for.
    Abandoned {
        /// The wait has begun.
        polled: bool,
    },
    /// Shut down; operations in flight are still to complete.
    Closing {
        errno: i32,
    },
}

/// What the engine tells; the answers go to the outbox.
pub(crate) trait Driver {
    /// The TCP connection stands.
    fn connected(&mut self, index: u32, now_ns: u64, outbox: &mut Vec<u8>);
    /// Bytes came in.
    fn received(&mut self, index: u32, now_ns: u64, bytes: &[u8], outbox: &mut Vec<u8>) -> Flow;
    /// The connection is gone, or was never made: `errno`, or 0 when either side closed it.
    /// Called once for each [`Engine::connect`], when nothing of the connection is left.
    fn closed(&mut self, index: u32, now_ns: u64, errno: i32);
}

/// What to do with a connection after its bytes were handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Go on.
    Continue,
    /// Close it: what the peer sends makes no sense, or it asked for it.
    Close,
}

impl Engine {
    /// An engine for `connections` connections to `target`. Must be made by the thread that uses it.
    ///
    /// `first_source` is the index of its first connection over all threads: it decides which
    /// addresses of 127.0.0.0/8 they come from when the target is in there.
    ///
    /// # Errors
    ///
    /// What the kernel says to an io_uring with provided buffers (Linux 6.1 and up has them).
    pub(crate) fn new(
        target: SocketAddr,
        connections: usize,
        first_source: u32,
        clock: Clock,
    ) -> io::Result<Self> {
        let mut all = Vec::new();
        all.resize_with(connections, Connection::default);
        Ok(Self {
            ring: Ring::new(target, connections)?,
            clock,
            target_is_loopback: target.is_ipv4() && target.ip().is_loopback(),
            first_source,
            connections: all,
            dirty: Vec::new(),
            completions: Vec::new(),
        })
    }

    /// Starts connection `index`, which must be closed.
    ///
    /// # Errors
    ///
    /// What `socket` and `bind` say: most likely that there are no more descriptors or ports.
    pub(crate) fn connect(&mut self, index: u32) -> io::Result<()> {
        let source = self.target_is_loopback.then(|| source_address(self.first_source + index));
        self.connect_from(index, source)
    }

    /// Starts connection `index`, which must be closed, from the address `source`.
    ///
    /// # Errors
    ///
    /// As [`Engine::connect`].
    pub(crate) fn connect_from(&mut self, index: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        let connection = self.connections.get_mut(index as usize).ok_or(io::ErrorKind::NotFound)?;
        if connection.state != State::Closed {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.ring.connect(index, source)?;
        *connection = Connection {
            state: State::Connecting,
            dirty: connection.dirty,
            ..Connection::default()
        };
        Ok(())
    }

    /// The time.
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Bytes of connection `index` that are not yet with the kernel.
    pub(crate) fn unsent_bytes(&self, index: u32) -> usize {
        self.connections
            .get(index as usize)
            .map_or(0, |connection| connection.outbox.len() + connection.sending_bytes)
    }

    /// The outbox of connection `index` to append to, sent with the next sweep; `None` unless it is
    /// open.
    pub(crate) fn outbox(&mut self, index: u32) -> Option<&mut Vec<u8>> {
        let connection = self.connections.get_mut(index as usize)?;
        if connection.state != State::Open {
            return None;
        }
        mark_dirty(connection, index, &mut self.dirty);
        Some(&mut connection.outbox)
    }

    /// Whether what was last written to connection `index` can still reach the peer: the peer has
    /// not closed it, unnoticed or not.
    pub(crate) fn is_open_at_both_ends(&self, index: u32) -> bool {
        self.is_open(index) && !self.ring.is_closed_by_peer(index)
    }

    /// Closes connection `index` once its outbox is sent. [`Driver::closed`] follows.
    pub(crate) fn close(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index as usize) {
            connection.close_when_sent = true;
            mark_dirty(connection, index, &mut self.dirty);
        }
    }

    /// Resets connection `index`: the peer gets RST. [`Driver::closed`] follows.
    pub(crate) fn reset(&mut self, index: u32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index as usize) else { return Ok(()) };
        match connection.state {
            State::Closed | State::Closing { .. } => Ok(()),
            State::Connecting | State::Open | State::Abandoned { .. } => {
                connection.state = State::Closing { errno: 0 };
                self.ring.reset_when_released(index);
                self.ring.cancel(index)
            }
        }
    }

    /// Leaves connection `index` half open: what the peer sends is not read, and it is told nothing.
    /// [`Driver::closed`] follows when the peer gives up, or after [`Engine::reset`].
    pub(crate) fn abandon(&mut self, index: u32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index as usize) else { return Ok(()) };
        match connection.state {
            State::Closed | State::Closing { .. } | State::Abandoned { .. } => Ok(()),
            State::Connecting => self.reset(index),
            State::Open => {
                connection.state = State::Abandoned { polled: false };
                connection.outbox = Vec::new();
                self.ring.cancel(index)
            }
        }
    }

    /// One sweep: sends the outboxes, waits at most `wait`, hands what came to `driver`.
    ///
    /// Returns the number of completions handled.
    ///
    /// # Errors
    ///
    /// What io_uring says; faults of a connection go to [`Driver::closed`].
    pub(crate) fn sweep(&mut self, wait: Duration, driver: &mut impl Driver) -> io::Result<usize> {
        let mut dirty = take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.flush(index)?;
        }
        self.dirty = dirty;
        self.ring.enter(wait)?;
        let mut completions = take(&mut self.completions);
        self.ring.completions(&mut completions);
        let count = completions.len();
        let now_ns = self.clock.now_ns();
        for completion in completions.drain(..) {
            self.complete(completion, now_ns, driver)?;
        }
        self.completions = completions;
        self.ring.buffers().publish();
        Ok(count)
    }

    fn complete(
        &mut self,
        completion: Completion,
        now_ns: u64,
        driver: &mut impl Driver,
    ) -> io::Result<()> {
        match completion.operation {
            Operation::Connect => self.complete_connect(completion, now_ns, driver)?,
            Operation::Receive => self.complete_receive(completion, now_ns, driver)?,
            Operation::Send => self.complete_send(completion)?,
            Operation::Cancel => {}
            Operation::Poll => self.complete_poll(completion.index),
        }
        let Some(connection) = self.connections.get_mut(completion.index as usize) else {
            return Ok(());
        };
        match connection.state {
            State::Closing { errno } if self.ring.release(completion.index) => {
                *connection = Connection { dirty: connection.dirty, ..Connection::default() };
                driver.closed(completion.index, now_ns, errno);
            }
            State::Abandoned { polled: false } if self.ring.is_quiet(completion.index) => {
                connection.state = State::Abandoned { polled: true };
                self.ring.poll(completion.index)?;
            }
            State::Closed
            | State::Connecting
            | State::Open
            | State::Abandoned { .. }
            | State::Closing { .. } => {}
        }
        Ok(())
    }

    /// The peer gave an abandoned connection up.
    fn complete_poll(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index as usize)
            && matches!(connection.state, State::Abandoned { .. })
        {
            connection.state = State::Closing { errno: 0 };
        }
    }

    fn complete_connect(
        &mut self,
        completion: Completion,
        now_ns: u64,
        driver: &mut impl Driver,
    ) -> io::Result<()> {
        let index = completion.index;
        if completion.result < 0 {
            self.shut_down(index, -completion.result);
            return Ok(());
        }
        let Some(connection) = self.connections.get_mut(index as usize) else { return Ok(()) };
        if connection.state == State::Connecting {
            connection.state = State::Open;
            driver.connected(index, now_ns, &mut connection.outbox);
            mark_dirty(connection, index, &mut self.dirty);
            self.ring.receive(index)?;
        }
        Ok(())
    }

    fn complete_receive(
        &mut self,
        completion: Completion,
        now_ns: u64,
        driver: &mut impl Driver,
    ) -> io::Result<()> {
        let index = completion.index;
        let mut flow = Flow::Continue;
        if let Some(buffer) = completion.buffer {
            let length = u32::try_from(completion.result).unwrap_or(0);
            let connection = self.connections.get_mut(index as usize);
            let bytes = self.ring.buffers().bytes(buffer, length);
            if let (Some(connection), Some(bytes)) = (connection, bytes)
                && connection.state == State::Open
                && !bytes.is_empty()
            {
                flow = driver.received(index, now_ns, bytes, &mut connection.outbox);
                if !connection.outbox.is_empty() {
                    mark_dirty(connection, index, &mut self.dirty);
                }
            }
            self.ring.buffers().give(buffer);
        }
        match completion.result {
            // The pool was empty: what was handled in this sweep is given back before the next.
            1.. | NO_BUFFERS if flow == Flow::Continue => {
                if !completion.more && self.is_open(index) {
                    self.ring.receive(index)?;
                }
            }
            result => self.shut_down(index, -result.min(0)),
        }
        Ok(())
    }

    fn complete_send(&mut self, completion: Completion) -> io::Result<()> {
        let index = completion.index;
        if !self.is_open(index) {
            return Ok(());
        }
        let Ok(bytes) = usize::try_from(completion.result) else {
            self.shut_down(index, -completion.result);
            return Ok(());
        };
        if !self.ring.sent(index, bytes)? {
            return Ok(());
        }
        let buffer = self.ring.take_sent(index);
        if let Some(connection) = self.connections.get_mut(index as usize) {
            connection.sending_bytes = 0;
            if connection.outbox.is_empty() && buffer.capacity() <= OUTBOX_KEPT_BYTES {
                connection.outbox = buffer;
            }
            if !connection.outbox.is_empty() || connection.close_when_sent {
                mark_dirty(connection, index, &mut self.dirty);
            }
        }
        Ok(())
    }

    /// Ends a connection because of `errno`; the last completion of its operations frees it.
    fn shut_down(&mut self, index: u32, errno: i32) {
        let Some(connection) = self.connections.get_mut(index as usize) else { return };
        if matches!(connection.state, State::Connecting | State::Open) {
            connection.state = State::Closing { errno };
            self.ring.shut_down(index);
        }
    }

    /// Starts sending what connection `index` has to send, if it is not sending already.
    fn flush(&mut self, index: u32) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index as usize) else { return Ok(()) };
        connection.dirty = false;
        if connection.state != State::Open || connection.sending_bytes > 0 {
            return Ok(());
        }
        if connection.outbox.is_empty() {
            if connection.close_when_sent {
                self.shut_down(index, 0);
            }
            return Ok(());
        }
        connection.sending_bytes = connection.outbox.len();
        self.ring.send(index, take(&mut connection.outbox))
    }

    fn is_open(&self, index: u32) -> bool {
        self.connections.get(index as usize).is_some_and(|c| c.state == State::Open)
    }
}

/// The result of a receive that found no free buffer.
const NO_BUFFERS: i32 = -libc::ENOBUFS;

fn mark_dirty(connection: &mut Connection, index: u32, dirty: &mut Vec<u32>) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(index);
    }
}

/// The address connection `index` comes from: 127.1.0.1 and up, [`CONNECTIONS_PER_SOURCE`] each.
fn source_address(index: u32) -> Ipv4Addr {
    const FIRST: u32 = Ipv4Addr::new(127, 1, 0, 1).to_bits();
    Ipv4Addr::from_bits(FIRST + index / CONNECTIONS_PER_SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_connections_come_from_fifty_loopback_addresses() {
        assert_eq!(source_address(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(source_address(CONNECTIONS_PER_SOURCE - 1), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(source_address(999_999), Ipv4Addr::new(127, 1, 0, 50));
    }
}
