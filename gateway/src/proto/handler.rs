//! What a shard's event loop asks of the core, and what the core may ask of the loop.
//!
//! The engine calls a [`Handler`], never the other way round. Everything a handler wants done it
//! leaves in [`Io`]; the loop takes it from there after the call, in order. Nothing here performs
//! I/O, so a simulation drives the same handler with an [`Io`] of its own.

use super::engine_counters::EngineReport;
use super::output::{Action, ConnectionId, Outbox, ShardIndex};
use super::time::Timestamp;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;

/// What a shard does with bytes, messages and time.
pub trait Handler {
    /// What shards, and threads beside them, say to a shard.
    type Message: Send + 'static;

    /// Whether a transport that takes a handshake (TLS, WebSocket) is set up at all for a connection
    /// from `peer`, which a balancer may have told. If not, it is closed, and nothing else is heard of
    /// it.
    fn admits(&mut self, peer: SocketAddr, now: Timestamp) -> bool {
        let _ = (peer, now);
        true
    }

    /// A client connected and its transport is set up, or another shard handed a connection over.
    fn opened(&mut self, connection: ConnectionId, origin: Origin, io: &mut Io<Self::Message>);

    /// The connection asked for by [`Io::dials`] under `token` is there, or could not be made. It is
    /// read from the start; everything else of it comes as for one that was accepted. A handler that
    /// never dials never hears this.
    fn dialed(&mut self, token: u64, result: io::Result<ConnectionId>, io: &mut Io<Self::Message>) {
        let _ = (token, result, io);
    }

    /// The link for which [`Action::StartTls`] was asked goes on in TLS, with a server that was checked.
    /// A handler that never asks never hears this.
    ///
    /// [`Action::StartTls`]: crate::proto::output::Action::StartTls
    fn secured(&mut self, link: ConnectionId, io: &mut Io<Self::Message>) {
        let _ = (link, io);
    }

    /// Plain bytes came from the connection. Returns how many were consumed, at most
    /// `bytes.len()`; the rest is offered again, with more bytes behind it or after
    /// [`Action::Resume`].
    fn received(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        io: &mut Io<Self::Message>,
    ) -> usize;

    /// The connection is gone. Called once for every connection that was opened and not handed
    /// over; nothing may be written to its outbox afterwards.
    fn closed(&mut self, connection: ConnectionId, reason: CloseReason, io: &mut Io<Self::Message>);

    /// Everything queued for the connection was sent, after more than
    /// `writable_above_bytes` had been waiting.
    fn writable(&mut self, connection: ConnectionId, io: &mut Io<Self::Message>);

    /// Another shard, or a thread beside the shards, said something. Messages of one sender come
    /// in the order it sent them.
    fn message(&mut self, from: Sender, message: Self::Message, io: &mut Io<Self::Message>);

    /// The file operation `token` finished.
    ///
    /// # Errors
    ///
    /// `result` is the operating system's error; after one of a write or a sync, nothing is known
    /// of the bytes concerned.
    fn file_done(&mut self, token: u64, result: io::Result<FileDone>, io: &mut Io<Self::Message>);

    /// All events that were ready have been handled: the moment to write what was gathered.
    fn swept(&mut self, io: &mut Io<Self::Message>);

    /// The time given by [`Handler::next_timeout`] has come.
    fn timeout(&mut self, io: &mut Io<Self::Message>);

    /// When to call [`Handler::timeout`], [`Timestamp::NEVER`] for not at all. Asked after every
    /// sweep.
    fn next_timeout(&self) -> Timestamp;

    /// What the engine counted, after [`Io::wants_report`]. A handler that never asks never hears
    /// this.
    fn report(&mut self, report: &EngineReport, io: &mut Io<Self::Message>) {
        let _ = (report, io);
    }

    /// The node is stopping: say goodbye to connections and close them. The loop goes on, for at
    /// most its shutdown deadline, until all are closed and all file operations are done.
    fn shutdown(&mut self, io: &mut Io<Self::Message>);

    /// Another process is to take the connections over: says goodbye to those that cannot move, while
    /// the others go on. A handler whose connections cannot move need not know of any of this.
    fn prepare_to_move(&mut self, io: &mut Io<Self::Message>) {
        let _ = io;
    }

    /// Whether connections are still to be told after [`Handler::prepare_to_move`].
    fn is_preparing_to_move(&self) -> bool {
        false
    }

    /// Whether the connection could move.
    fn can_move(&self, connection: ConnectionId) -> bool {
        let _ = connection;
        false
    }

    /// No client is read from here on: nothing that is not under way is to begin.
    fn pause(&mut self, io: &mut Io<Self::Message>) {
        let _ = io;
    }

    /// Whether nothing is under way, now that no client is read: every answer is given, and nothing more
    /// will come of what came before.
    fn is_still(&self, io: &Io<Self::Message>) -> bool {
        let _ = io;
        true
    }

    /// Nobody moves: all goes on.
    fn stay(&mut self, io: &mut Io<Self::Message>) {
        let _ = io;
    }

    /// Gives the connection away: what another process has to know of it, `None` if it cannot move. It
    /// does not exist for the handler afterwards, in either case, which does nothing any more but end.
    fn hand_over(
        &mut self,
        connection: ConnectionId,
        io: &mut Io<Self::Message>,
    ) -> Option<Vec<u8>> {
        let _ = (connection, io);
        None
    }

    /// Takes a connection over from another process, which said `state` of it. What was not sent is in
    /// the outbox; what was received and not consumed is offered when the shard runs.
    fn take_over(
        &mut self,
        connection: ConnectionId,
        origin: Origin,
        state: &[u8],
        io: &mut Io<Self::Message>,
    ) {
        let _ = state;
        self.opened(connection, origin, io);
    }

    /// Whether, after [`Handler::shutdown`], connections are still to be told: until they are, the
    /// shutdown deadline does not begin.
    fn is_saying_goodbye(&self) -> bool {
        false
    }
}

/// Where a client's connection comes from, as far as its transport knows before the first packet.
///
/// Whatever a peer could only claim is not here: a certificate's name has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address: that of the socket, or what a balancer that is trusted says.
    pub peer: SocketAddr,
    /// What carries MQTT.
    pub transport: TransportKind,
    /// The host name the client asked for (TLS Server Name Indication), in lower case.
    pub server_name: Option<Box<str>>,
    /// The name in the client's certificate, which a configured authority has signed.
    pub certificate_identity: Option<Box<str>>,
}

/// What carries MQTT between a client and its listener, or the balancer before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket,
}

impl TransportKind {
    /// A short name, for operators.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
        }
    }
}

impl Origin {
    /// A client on plain TCP.
    #[must_use]
    pub const fn tcp(peer: SocketAddr) -> Self {
        let (server_name, certificate_identity) = (None, None);
        Self { peer, transport: TransportKind::Tcp, server_name, certificate_identity }
    }
}

/// Where a handler leaves what it wants done.
#[derive(Debug)]
pub struct Io<M> {
    /// The time of this sweep.
    pub now: Timestamp,
    /// The shard that runs the handler.
    pub shard: ShardIndex,
    /// How long the last turn of the loop took, and so how long what came meanwhile had to wait,
    /// microseconds.
    pub turn_us: u64,
    /// Bytes to send.
    pub outbox: Outbox,
    /// What to do with connections, performed in order after the call that added them.
    pub actions: Vec<Action>,
    /// Messages to other shards, delivered from the end of the sweep on.
    pub mesh: MeshOut<M>,
    /// File operations, started at the end of the sweep, at the same time: one that must wait for
    /// another is added when [`Handler::file_done`] has reported that other.
    pub files: Vec<FileOp>,
    /// Connections to make, begun at the end of the sweep.
    pub dials: Vec<Dial>,
    /// Call [`Handler::report`] at the end of this sweep.
    pub wants_report: bool,
}

/// A connection to make. Answered by [`Handler::dialed`], once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Comes back with the answer.
    pub token: u64,
    /// Where to.
    pub address: SocketAddr,
    /// When to give up.
    pub deadline: Timestamp,
}

impl<M> Io<M> {
    /// An empty one for shard `shard` of `shard_count`.
    #[must_use]
    pub fn new(shard: ShardIndex, shard_count: u16, now: Timestamp) -> Self {
        Self {
            now,
            shard,
            turn_us: 0,
            outbox: Outbox::default(),
            actions: Vec::new(),
            mesh: MeshOut::new(shard_count),
            files: Vec::new(),
            dials: Vec::new(),
            wants_report: false,
        }
    }
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A shard of this node.
    Shard(ShardIndex),
    /// A thread beside the shards.
    Thread,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its side; what was queued has been sent.
    PeerClosed,
    /// The peer reset the connection, or the network did.
    PeerReset,
    /// [`Action::Close`] or [`Action::Abort`].
    Requested,
    /// More than `partial_bytes_max` bytes were left unconsumed.
    PartialTooLarge,
    /// The peer did not take what was queued, or not close, within the close deadline.
    CloseDeadline,
    /// The operating system refused to receive or send; the `errno`.
    Failed(i32),
    /// The transport was not set up within the handshake time-out, or not by as many bytes as a
    /// stranger may send.
    Handshake,
    /// The peer broke TLS, or its certificate was not good.
    Tls,
    /// The peer broke WebSocket, or does not speak MQTT over it.
    WebSocket,
    /// A balancer sent no PROXY header.
    Proxy,
    /// What clients that are not known yet have sent was too much, all together.
    StrangersTooLarge,
}

impl CloseReason {
    /// Whether the peer is to blame, before it spoke MQTT.
    #[must_use]
    pub fn is_fault_of_transport(self) -> bool {
        match self {
            Self::Handshake
            | Self::Tls
            | Self::WebSocket
            | Self::Proxy
            | Self::StrangersTooLarge => true,
            Self::PeerClosed
            | Self::PeerReset
            | Self::Requested
            | Self::PartialTooLarge
            | Self::CloseDeadline
            | Self::Failed(_) => false,
        }
    }
}

/// Something to do with a file. The file stays open, in the handler's hands, until
/// [`Handler::file_done`] reports the token.
#[derive(Clone, Debug)]
pub enum FileOp {
    /// Write all of `bytes` at `offset`.
    Write {
        /// Reported by [`Handler::file_done`].
        token: u64,
        /// File descriptor.
        fd: i32,
        /// Byte offset in the file.
        offset: u64,
        /// What to write.
        bytes: Bytes,
    },
    /// `fdatasync`: everything written before is durable.
    SyncData {
        /// Reported by [`Handler::file_done`].
        token: u64,
        /// File descriptor.
        fd: i32,
    },
    /// Read `length` bytes at `offset`; fewer come at the end of the file only.
    Read {
        /// Reported by [`Handler::file_done`].
        token: u64,
        /// File descriptor.
        fd: i32,
        /// Byte offset in the file.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
}

/// How a file operation ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileDone {
    /// All bytes were written.
    Written,
    /// The file's data is durable.
    Synced,
    /// What was read.
    Read(Vec<u8>),
}

/// Messages on their way to other shards, gathered into one batch a target.
///
/// A batch that finds its target's queue full stays here, and [`MeshOut::is_congested`] says so
/// until it has gone. [`MeshOut::waiting_bytes`] says how much it holds by then: beyond a limit the
/// handler stops taking in what makes more.
#[derive(Debug)]
pub struct MeshOut<M> {
    lanes: Vec<Lane<M>>,
}

#[derive(Debug)]
struct Lane<M> {
    batch: Vec<M>,
    /// Of the messages in `batch`; what was taken last keeps its own for `put_back`.
    bytes: usize,
    taken_bytes: usize,
    congested: bool,
}

impl<M> MeshOut<M> {
    /// No messages yet, for a node of `shard_count` shards.
    #[must_use]
    pub fn new(shard_count: u16) -> Self {
        let lanes = (0..shard_count).map(|_| Lane {
            batch: Vec::new(),
            bytes: 0,
            taken_bytes: 0,
            congested: false,
        });
        Self { lanes: lanes.collect() }
    }

    /// Adds a message to the batch for `to`.
    ///
    /// # Panics
    ///
    /// When `to` is not a shard of this node.
    pub fn send(&mut self, to: ShardIndex, message: M) {
        self.send_sized(to, message, size_of::<M>());
    }

    /// As [`MeshOut::send`], of a message that keeps `bytes` in memory.
    ///
    /// # Panics
    ///
    /// As [`MeshOut::send`].
    pub fn send_sized(&mut self, to: ShardIndex, message: M, bytes: usize) {
        let lane = self.lane_mut(to);
        lane.batch.push(message);
        lane.bytes += bytes;
    }

    /// The bytes of the messages for `to` that wait because its queue is full, 0 when it is not.
    #[must_use]
    pub fn waiting_bytes(&self, to: ShardIndex) -> usize {
        let lane = self.lanes.get(usize::from(to.0));
        lane.filter(|lane| lane.congested).map_or(0, |lane| lane.bytes)
    }

    /// Whether an earlier batch for `to` is still here because its queue is full.
    #[must_use]
    pub fn is_congested(&self, to: ShardIndex) -> bool {
        self.lanes.get(usize::from(to.0)).is_some_and(|lane| lane.congested)
    }

    /// Whether any batch is here because its target's queue is full.
    #[must_use]
    pub fn is_any_congested(&self) -> bool {
        self.lanes.iter().any(|lane| lane.congested)
    }

    /// Takes the batch for `to`, `None` when there is none.
    pub fn take(&mut self, to: ShardIndex) -> Option<Vec<M>> {
        let lane = self.lane_mut(to);
        lane.congested = false;
        lane.taken_bytes = std::mem::take(&mut lane.bytes);
        (!lane.batch.is_empty()).then(|| std::mem::take(&mut lane.batch))
    }

    /// Puts a batch back that [`MeshOut::take`] gave and the queue of `to` refused.
    pub fn put_back(&mut self, to: ShardIndex, batch: Vec<M>) {
        let lane = self.lane_mut(to);
        debug_assert!(lane.batch.is_empty(), "nothing is added between take and put_back");
        lane.batch = batch;
        lane.bytes = lane.taken_bytes;
        lane.congested = true;
    }

    fn lane_mut(&mut self, to: ShardIndex) -> &mut Lane<M> {
        self.lanes.get_mut(usize::from(to.0)).expect("the target is a shard of this node")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_full_queue_keeps_here_counts_as_waiting() {
        let (mut mesh, to) = (MeshOut::new(2), ShardIndex(1));
        mesh.send_sized(to, 'a', 10);
        assert_eq!(mesh.waiting_bytes(to), 0, "not tried yet");
        let batch = mesh.take(to).expect("one message");
        mesh.put_back(to, batch);
        mesh.send_sized(to, 'b', 5);
        assert_eq!(mesh.waiting_bytes(to), 15);
        assert_eq!(mesh.take(to), Some(vec!['a', 'b']));
        assert_eq!(mesh.waiting_bytes(to), 0, "gone");
    }
}
