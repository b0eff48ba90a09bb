//! What one gateway process gives the next, and how it gets there: over a Unix socket.
//!
//! ```text
//! old                                             new
//!   HELLO version ──────────────────────────────▶   is it mine? is my configuration sound?
//!   ◀─────────────────────────────── READY or REFUSED why
//!   stands still, parts
//!   LISTENER, CONNECTIONS with descriptors ─────▶   TAKEN after each batch
//!   END ────────────────────────────────────────▶   recovers, puts shards together
//!   ◀──────────────────────────── PREPARED or REFUSED why
//!   GO ─────────────────────────────────────────▶   begins
//!   ◀──────────────────────────────────── RUNNING
//! ```
//! Until GO the old one may end the new one and go on by itself, from the very same [`HandOver`]; after
//! it never. Each message is its kind (u8), its length (u32, little endian) and its bytes; descriptors
//! follow with a byte of their own.

use super::data_format::DATA_FORMAT;
use crate::config::{Listen, Scheme};
use crate::proto::output::ShardIndex;
use crate::proto::session::handed_over::{HAND_OVER_VERSION, HandedOver};
use crate::proto::shard_state::home_shard;
use crate::shard::{Ended, Parting};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Everything a process parts with.
#[derive(Debug, Default)]
pub struct HandOver {
    /// Listening sockets, each with the address that it was configured with.
    pub listeners: Vec<(Listen, OwnedFd)>,
    /// Clients' connections.
    pub connections: Vec<Parting>,
}

/// Why the other process and this one cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The socket between them.
    #[error("the other process does not answer: {0}")]
    Socket(#[from] io::Error),
    /// The other one ended, or closed its end.
    #[error("the other process has ended")]
    Ended,
    /// The other one says no.
    #[error("{0}")]
    Refused(String),
    /// What it says makes no sense.
    #[error("the other process speaks another language: message of kind {0}")]
    Unexpected(u8),
}

/// What is said. The numbers of the first three stay for ever: all versions have to understand them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 1,
    Ready = 2,
    Refused = 3,
    Listener = 4,
    Connections = 5,
    End = 6,
    Taken = 7,
    Prepared = 8,
    Go = 9,
    Running = 10,
}

/// Descriptors in one message; the kernel takes 253.
const DESCRIPTORS_MAX: usize = 128;

/// Bytes of one message. Far more than a batch of connections with full queues.
const MESSAGE_BYTES_MAX: usize = 1 << 31;

/// Bytes of connections after which a batch is full.
const BATCH_BYTES: usize = 1 << 20;

/// Of the admin server's socket, beside those for clients.
const ADMIN: &str = "admin";

/// Which sockets and clients a process had, on their way.
#[derive(Debug, Default)]
pub struct Received {
    /// For the gateway.
    pub hand_over: HandOver,
    /// Of the admin server, with the address that it was configured with.
    pub admin: Option<(SocketAddr, OwnedFd)>,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// Over `stream`; its time-outs are those for each step.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The old process begins, and hears which version the new one is.
    ///
    /// # Errors
    ///
    /// The new one does not want to, or cannot.
    pub fn offer(&mut self) -> Result<String, HandOverError> {
        let mut hello = HAND_OVER_VERSION.to_le_bytes().to_vec();
        hello.extend_from_slice(&DATA_FORMAT.to_le_bytes());
        self.send(Kind::Hello, &hello)?;
        self.expect(Kind::Ready)
    }

    /// The new process hears what is offered.
    ///
    /// # Errors
    ///
    /// It is of another version: then the other one knows.
    pub fn hear(&mut self) -> Result<(), HandOverError> {
        let (kind, bytes) = self.receive()?;
        let number = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let (clients, data) = (number(0), number(4));
        if kind != Kind::Hello as u8 {
            return Err(HandOverError::Unexpected(kind));
        }
        // Data of another format could not be read again by the old process, if it has to go on.
        let (what, theirs, ours) = match (clients, data) {
            (HAND_OVER_VERSION, DATA_FORMAT) => return Ok(()),
            (HAND_OVER_VERSION, _) => ("data", data, DATA_FORMAT),
            _ => ("clients", clients, HAND_OVER_VERSION),
        };
        let text = format!(
            "it can take over {what} in format {ours}, and is offered {theirs}: drain and start it \
             instead"
        );
        self.refuse(&text);
        Err(HandOverError::Refused(text))
    }

    /// The new process can take over.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn ready(&mut self, version: &str) -> Result<(), HandOverError> {
        self.send(Kind::Ready, version.as_bytes())
    }

    /// The new process cannot go on. Whether it is heard is not its concern.
    pub fn refuse(&mut self, why: &str) {
        let _ = self.send(Kind::Refused, why.as_bytes());
    }

    /// The old process gives everything, and keeps it. Returns when the new one could begin.
    ///
    /// # Errors
    ///
    /// The new one cannot, or is gone.
    pub fn give(
        &mut self,
        hand_over: &HandOver,
        admin: Option<(SocketAddr, BorrowedFd<'_>)>,
    ) -> Result<(), HandOverError> {
        if let Some((address, socket)) = admin {
            self.send(Kind::Listener, format!("{ADMIN} {address}").as_bytes())?;
            self.send_descriptors(&[socket])?;
        }
        for (listen, socket) in &hand_over.listeners {
            self.send(Kind::Listener, listen_text(listen).as_bytes())?;
            self.send_descriptors(&[socket.as_fd()])?;
        }
        let mut rest = hand_over.connections.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_length(rest));
            rest = after;
            let mut bytes = Vec::new();
            for parting in batch {
                put(&mut bytes, parting.peer.to_string().as_bytes());
                put(&mut bytes, &parting.received);
                put(&mut bytes, &parting.queued);
                put(&mut bytes, &parting.state);
            }
            self.send(Kind::Connections, &bytes)?;
            let sockets: Vec<_> = batch.iter().map(|parting| parting.socket.as_fd()).collect();
            self.send_descriptors(&sockets)?;
            // So that no more are under way than a process may have there.
            self.expect(Kind::Taken)?;
        }
        self.send(Kind::End, &[])?;
        self.expect(Kind::Prepared).map(drop)
    }

    /// The new process takes everything.
    ///
    /// # Errors
    ///
    /// The old one has gone, or says what cannot be understood.
    pub fn take(&mut self) -> Result<Received, HandOverError> {
        let mut taken = Received::default();
        loop {
            let (kind, bytes) = self.receive()?;
            match kind {
                kind if kind == Kind::Listener as u8 => {
                    let socket = self.receive_descriptors(1)?.pop().ok_or(HandOverError::Ended)?;
                    let text = String::from_utf8_lossy(&bytes);
                    if let Some(address) = text.strip_prefix(ADMIN) {
                        let address = address.trim().parse().map_err(|_| unreadable())?;
                        taken.admin = Some((address, socket));
                    } else {
                        let listen = read_listen(&text).ok_or_else(unreadable)?;
                        taken.hand_over.listeners.push((listen, socket));
                    }
                }
                kind if kind == Kind::Connections as u8 => {
                    let batch = read_batch(&bytes).ok_or_else(unreadable)?;
                    let sockets = self.receive_descriptors(batch.len())?;
                    let whole = batch.into_iter().zip(sockets).map(|(one, socket)| {
                        let (peer, received, queued, state) = one;
                        Parting { socket, peer, received, queued, state }
                    });
                    taken.hand_over.connections.extend(whole);
                    self.send(Kind::Taken, &[])?;
                }
                kind if kind == Kind::End as u8 => return Ok(taken),
                kind => return Err(HandOverError::Unexpected(kind)),
            }
        }
    }

    /// The new process could begin, and waits for the word. An old process that has ended gives it,
    /// too: there is nobody else to serve its clients.
    ///
    /// # Errors
    ///
    /// The socket's, and what makes no sense.
    pub fn prepared(&mut self) -> Result<(), HandOverError> {
        match self.send(Kind::Prepared, &[]).and_then(|()| self.expect(Kind::Go)) {
            Ok(_) | Err(HandOverError::Ended) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The old process lets the new one begin: from here on it has no clients.
    ///
    /// # Errors
    ///
    /// The socket's: the new one has ended.
    pub fn go(&mut self) -> Result<(), HandOverError> {
        self.send(Kind::Go, &[])
    }

    /// The new process runs, and could be upgraded itself. Whether it is heard is not its concern.
    pub fn running(&mut self) {
        let _ = self.send(Kind::Running, &[]);
    }

    /// The old process waits until the new one has said that.
    ///
    /// # Errors
    ///
    /// It does not say so.
    pub fn wait_until_running(&mut self) -> Result<(), HandOverError> {
        self.expect(Kind::Running).map(drop)
    }

    fn send(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), HandOverError> {
        let length = u32::try_from(bytes.len()).map_err(|_| unreadable())?;
        let mut head = vec![kind as u8];
        head.extend_from_slice(&length.to_le_bytes());
        self.0.write_all(&head).and_then(|()| self.0.write_all(bytes)).map_err(ended)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>), HandOverError> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).map_err(ended)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(HandOverError::Unexpected(kind));
        }
        let mut bytes = Vec::new();
        let mut rest = (&self.0).take(length as u64);
        rest.read_to_end(&mut bytes).map_err(ended)?;
        if bytes.len() < length {
            return Err(HandOverError::Ended);
        }
        Ok((kind, bytes))
    }

    fn expect(&mut self, wanted: Kind) -> Result<String, HandOverError> {
        let (kind, bytes) = self.receive()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match kind {
            kind if kind == wanted as u8 => Ok(text),
            kind if kind == Kind::Refused as u8 => Err(HandOverError::Refused(text)),
            kind => Err(HandOverError::Unexpected(kind)),
        }
    }

    fn send_descriptors(&mut self, sockets: &[BorrowedFd<'_>]) -> Result<(), HandOverError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(
            control.push(SendAncillaryMessage::ScmRights(sockets)),
            "no more descriptors than there is room for"
        );
        let byte = [IoSlice::new(&[0])];
        let sent = sendmsg(&self.0, &byte, &mut control, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|error| ended(error.into()))
    }

    fn receive_descriptors(&mut self, count: usize) -> Result<Vec<OwnedFd>, HandOverError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags);
        if received.map_err(|error| ended(error.into()))?.bytes == 0 {
            return Err(HandOverError::Ended);
        }
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        if sockets.len() != count {
            let why = "not all descriptors came: raise LimitNOFILE (ulimit -n) of the new process";
            return Err(HandOverError::Refused(why.to_owned()));
        }
        Ok(sockets)
    }
}

impl HandOver {
    /// What shards left that have parted; the addresses are those of the configuration.
    pub(super) fn of(ended: Vec<Ended>, listen: &[Listen]) -> Self {
        let mut hand_over = Self::default();
        for Ended { connections, listeners, .. } in ended {
            hand_over.connections.extend(connections);
            let named = listeners.into_iter();
            let named = named.filter_map(|one| Some((*listen.get(one.number)?, one.socket)));
            hand_over.listeners.extend(named);
        }
        hand_over
    }
}

/// Connections by the shard that has the session of their client; those without one on any.
pub(super) fn by_shard(connections: Vec<Parting>, shards: u16) -> Vec<Vec<Parting>> {
    let mut of_shard: Vec<Vec<Parting>> = (0..shards).map(|_| Vec::new()).collect();
    for (place, parting) in connections.into_iter().enumerate() {
        let shard = match HandedOver::client_id_of(&parting.state) {
            Some(client_id) => home_shard(client_id, shards),
            None => ShardIndex(u16::try_from(place % usize::from(shards)).unwrap_or(0)),
        };
        if let Some(own) = of_shard.get_mut(usize::from(shard.0)) {
            own.push(parting);
        }
    }
    of_shard
}

/// How many of `connections` go together.
fn batch_length(connections: &[Parting]) -> usize {
    let mut bytes = 0;
    let fits = |parting: &&Parting| {
        let before = bytes;
        bytes += parting.received.len() + parting.queued.len() + parting.state.len();
        before < BATCH_BYTES
    };
    connections.iter().take(DESCRIPTORS_MAX).take_while(fits).count()
}

fn listen_text(listen: &Listen) -> String {
    let proxied = if listen.proxied { "?proxy" } else { "" };
    format!("{} {}{proxied}", listen.scheme.name(), listen.address)
}

/// Unlike what is configured, it may have port 0.
fn read_listen(text: &str) -> Option<Listen> {
    let (scheme, address) = text.split_once(' ')?;
    let schemes = [Scheme::Mqtt, Scheme::Mqtts, Scheme::Ws, Scheme::Wss];
    let scheme = schemes.into_iter().find(|known| known.name() == scheme)?;
    let (address, proxied) = match address.strip_suffix("?proxy") {
        Some(address) => (address, true),
        None => (address, false),
    };
    Some(Listen { scheme, address: address.parse().ok()?, proxied })
}

type Bytes4 = (SocketAddr, Vec<u8>, Vec<u8>, Vec<u8>);

fn read_batch(mut bytes: &[u8]) -> Option<Vec<Bytes4>> {
    let mut batch = Vec::new();
    while !bytes.is_empty() {
        let peer = std::str::from_utf8(get(&mut bytes)?).ok()?.parse().ok()?;
        let received = get(&mut bytes)?.to_vec();
        let queued = get(&mut bytes)?.to_vec();
        batch.push((peer, received, queued, get(&mut bytes)?.to_vec()));
    }
    Some(batch)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("bounded by limits far below 2^32");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn get<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (taken, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *bytes = rest;
    Some(taken)
}

fn ended(error: io::Error) -> HandOverError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => HandOverError::Ended,
        _ => HandOverError::Socket(error),
    }
}

fn unreadable() -> HandOverError {
    HandOverError::Refused("what the other process says cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn parting(state: &[u8]) -> (Parting, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        let (received, queued) = (b"received".to_vec(), b"queued".to_vec());
        (Parting { socket: socket.into(), peer, received, queued, state: state.to_vec() }, client)
    }

    #[test]
    fn sockets_and_bytes_arrive() {
        let (old, new) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = Listen { proxied: true, ..Listen::tcp("127.0.0.1:0".parse().unwrap()) };
        let mut hand_over =
            HandOver { listeners: vec![(listen, listener.into())], connections: Vec::new() };
        let mut clients = Vec::new();
        for number in 0..DESCRIPTORS_MAX + 2 {
            let (parting, client) = parting(number.to_string().as_bytes());
            hand_over.connections.push(parting);
            clients.push(client);
        }
        let receiver = std::thread::spawn(move || {
            let mut line = Line::new(new);
            line.hear().unwrap();
            line.ready("7").unwrap();
            let taken = line.take().unwrap();
            line.prepared().unwrap();
            taken
        });
        let mut line = Line::new(old);
        assert_eq!(line.offer().unwrap(), "7");
        line.give(&hand_over, None).unwrap();
        line.go().unwrap();
        drop(hand_over);
        let taken = receiver.join().unwrap();
        assert!(taken.admin.is_none());
        assert_eq!(taken.hand_over.listeners.len(), 1);
        assert_eq!(taken.hand_over.listeners[0].0, listen);
        let connections = taken.hand_over.connections;
        assert_eq!(connections.len(), clients.len());
        for (number, (parting, mut client)) in connections.into_iter().zip(clients).enumerate() {
            assert_eq!(parting.state, number.to_string().as_bytes());
            assert_eq!((&*parting.received, &*parting.queued), (&b"received"[..], &b"queued"[..]));
            assert_eq!(parting.peer, client.local_addr().unwrap());
            TcpStream::from(parting.socket).write_all(b"x").unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
        }
    }

    #[test]
    fn another_format_is_refused_and_both_say_so() {
        let (old, new) = UnixStream::pair().unwrap();
        let mut line = Line::new(old);
        let mut hello = HAND_OVER_VERSION.to_le_bytes().to_vec();
        hello.extend_from_slice(&(DATA_FORMAT + 1).to_le_bytes());
        line.send(Kind::Hello, &hello).unwrap();
        let text = Line::new(new).hear().unwrap_err().to_string();
        assert!(text.contains("format"), "{text}");
        assert_eq!(line.expect(Kind::Ready).unwrap_err().to_string(), text);
    }

    #[test]
    fn an_end_is_no_answer_but_lets_the_new_one_begin() {
        let (old, new) = UnixStream::pair().unwrap();
        drop(new);
        assert!(matches!(Line::new(old).offer(), Err(HandOverError::Ended)));
        let (old, new) = UnixStream::pair().unwrap();
        let mut line = Line::new(new);
        drop(old);
        line.prepared().unwrap();
    }
}
