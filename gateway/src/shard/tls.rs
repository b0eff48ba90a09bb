//! One TLS connection, of either side, without a buffer of its own while nothing is under way.
//!
//! rustls keeps what a record is made of only until it is complete: bytes come in as they are
//! received, go out as they are encoded, and what an idle connection holds is its keys.

use crate::config::{CertificateRefused, NatsTls, TlsServer};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{HandshakeKind, ServerConfig};
use std::net::IpAddr;
use std::sync::Arc;

/// One end of a TLS connection.
pub(super) struct Tls {
    end: End,
    /// Received and not understood yet: an incomplete record, or one not looked at.
    incoming: Vec<u8>,
    is_handshaking: bool,
    server_name: Option<Box<str>>,
}

enum End {
    /// Ours is the server's; with what decides about the client, which is gone when that is done.
    Server(UnbufferedServerConnection, Option<Arc<TlsServer>>),
    /// Ours is the client's: a link.
    Client(UnbufferedClientConnection),
}

/// What the peer is known by when the handshake is over.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) server_name: Option<Box<str>>,
    pub(super) identity: Option<Box<str>>,
    /// Taken up with a ticket.
    pub(super) resumed: bool,
}

/// What bytes of the peer led to.
#[derive(Debug, Default)]
pub(super) struct Understood {
    /// The handshake is over, by these bytes.
    pub(super) met: Option<Met>,
    /// The peer has said that nothing more comes.
    pub(super) closed: bool,
}

/// The peer broke the protocol, or its certificate is not good.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsFailure {
    /// An alert is among what is to be sent, where one helps.
    #[error(transparent)]
    Protocol(rustls::Error),
    /// See [`CertificateRefused`].
    #[error("the certificate of a former session is not good any more")]
    Certificate,
}

/// What a record adds to its plain bytes at most, and the most of these it carries.
const RECORD_OVERHEAD_BYTES: usize = 64;
const RECORD_PLAIN_BYTES_MAX: usize = 16_384;
/// Room for an alert, or an answer to a key update, beside the records.
const ALERT_BYTES_MAX: usize = 256;

impl Tls {
    /// Before the first byte of a client.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used for any connection.
    pub(super) fn new(server: Arc<TlsServer>) -> Result<Self, rustls::Error> {
        let config: &Arc<ServerConfig> = server.config();
        let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self::at(End::Server(connection, Some(server))))
    }

    /// Before the first byte to a server at `address`; [`Tls::receive`] of nothing says it.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used for any connection.
    pub(super) fn client(tls: &NatsTls, address: IpAddr) -> Result<Self, rustls::Error> {
        let name = tls.server_name(address);
        let connection = UnbufferedClientConnection::new(Arc::clone(tls.config()), name)?;
        Ok(Self::at(End::Client(connection)))
    }

    fn at(end: End) -> Self {
        Self { end, incoming: Vec::new(), is_handshaking: true, server_name: None }
    }

    /// Whether the handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    /// Whether ours is the client's end.
    pub(super) fn is_client(&self) -> bool {
        matches!(self.end, End::Client(_))
    }

    /// Whether the peer was heard: its next bytes end the handshake, or what was begun of it.
    pub(super) fn has_begun(&self) -> bool {
        let version = match &self.end {
            End::Server(connection, _) => connection.protocol_version(),
            End::Client(connection) => connection.protocol_version(),
        };
        self.server_name.is_some() || version.is_some()
    }

    /// Keeps bytes to be looked at later.
    pub(super) fn keep(&mut self, wire: &[u8]) {
        self.incoming.extend_from_slice(wire);
    }

    /// How many bytes are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.incoming.len()
    }

    /// Takes bytes from the wire, behind those kept; plain ones are added to `plain`, and what is to be
    /// sent because of them to `output`. `scratch` is room for the work.
    ///
    /// # Errors
    ///
    /// What came before the fault is in `plain`, an alert in `output`. The connection is of no use
    /// any more.
    pub(super) fn receive(
        &mut self,
        wire: &[u8],
        scratch: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Understood, TlsFailure> {
        if !self.incoming.is_empty() {
            self.incoming.extend_from_slice(wire);
            let mut buffer = std::mem::take(&mut self.incoming);
            let result = self.understand(&mut buffer, plain, output);
            // Freed when it is empty: most connections are idle most of the time.
            self.incoming = if buffer.is_empty() { Vec::new() } else { buffer };
            return result;
        }
        scratch.clear();
        scratch.extend_from_slice(wire);
        let result = self.understand(scratch, plain, output);
        self.incoming = scratch.as_slice().to_vec();
        result
    }

    /// Takes what is complete out of `buffer`.
    fn understand(
        &mut self,
        buffer: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Understood, TlsFailure> {
        let result = match &mut self.end {
            End::Server(connection, _) => understand(connection, buffer, plain, output),
            End::Client(connection) => understand(connection, buffer, plain, output),
        };
        if self.is_handshaking
            && let End::Server(..) = &self.end
            && let Some(name) = TlsServer::take_asked_name()
        {
            self.server_name = Some(name);
        }
        let mut done = Understood { met: None, closed: result.map_err(TlsFailure::Protocol)? };
        let is_over = match &self.end {
            End::Server(connection, _) => !connection.is_handshaking(),
            End::Client(connection) => !connection.is_handshaking(),
        };
        if is_over && std::mem::take(&mut self.is_handshaking) {
            done.met = Some(self.meet().map_err(|_| TlsFailure::Certificate)?);
        }
        Ok(done)
    }

    fn meet(&mut self) -> Result<Met, CertificateRefused> {
        let (resumed, identity) = match &mut self.end {
            End::Server(connection, server) => {
                let server = server.take().expect("it is asked once");
                let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
                (resumed, server.identify(connection.peer_certificates(), resumed)?)
            }
            // It is a server of the sub-cluster: which one, it says itself.
            End::Client(_) => (false, None),
        };
        Ok(Met { server_name: self.server_name.take(), identity, resumed })
    }

    /// Adds records with `plain` to `output`. Nothing is added to one that is closed or broken.
    pub(super) fn send(&mut self, plain: &[u8], output: &mut Vec<u8>) {
        // Nothing complete is in `incoming`: `receive` has taken it.
        match &mut self.end {
            End::Server(connection, _) => {
                send(connection, &mut self.incoming, plain, output);
            }
            End::Client(connection) => send(connection, &mut self.incoming, plain, output),
        }
    }

    /// Says that nothing more is sent.
    pub(super) fn close(&mut self, output: &mut Vec<u8>) {
        match &mut self.end {
            End::Server(connection, _) => close(connection, &mut self.incoming, output),
            End::Client(connection) => close(connection, &mut self.incoming, output),
        }
    }
}

/// What rustls has once for each side.
trait Process {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn has_to_write(&self) -> bool;
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_to_write(&self) -> bool {
        self.wants_write()
    }
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_to_write(&self) -> bool {
        self.wants_write()
    }
}

/// Takes what is complete out of `buffer`; returns whether the peer has said that nothing more comes.
fn understand(
    connection: &mut impl Process,
    buffer: &mut Vec<u8>,
    plain: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> Result<bool, rustls::Error> {
    let (mut consumed, mut is_closed) = (0, false);
    let result = loop {
        let rest = buffer.get_mut(consumed..).unwrap_or_default();
        let status = connection.process(rest);
        let mut discard = status.discard;
        let mut is_over = false;
        match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain.extend_from_slice(record.payload);
                    discard += record.discard;
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(output, 0, |room| match data.encode(room) {
                    Ok(length) => Some(Ok(length)),
                    Err(EncodeError::InsufficientSize(size)) => Some(Err(size.required_size)),
                    Err(EncodeError::AlreadyEncoded) => None,
                });
            }
            // It is behind everything that was to be sent before, and goes out in this order.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => is_closed = true,
            Ok(_) => is_over = true,
            Err(error) => {
                consumed += discard;
                let rest = buffer.get_mut(consumed..).unwrap_or_default();
                take_alerts(connection, rest, output);
                break Err(error);
            }
        }
        consumed += discard;
        if is_over {
            break Ok(is_closed);
        }
    };
    buffer.drain(..consumed.min(buffer.len()));
    result
}

/// What a broken connection still has to say.
fn take_alerts(connection: &mut impl Process, rest: &mut [u8], output: &mut Vec<u8>) {
    // Only as long as there is something: looking at the bytes again would be a second fault.
    while connection.has_to_write()
        && let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(rest).state
    {
        append(output, ALERT_BYTES_MAX, |room| data.encode(room).ok().map(Ok));
    }
}

fn send(connection: &mut impl Process, incoming: &mut [u8], plain: &[u8], output: &mut Vec<u8>) {
    let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
    let room = plain.len() + records * RECORD_OVERHEAD_BYTES + ALERT_BYTES_MAX;
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = connection.process(incoming).state {
        append(output, room, |room| match traffic.encrypt(plain, room) {
            Ok(length) => Some(Ok(length)),
            Err(EncryptError::InsufficientSize(size)) => Some(Err(size.required_size)),
            Err(EncryptError::EncryptExhausted) => None,
        });
    }
}

fn close(connection: &mut impl Process, incoming: &mut [u8], output: &mut Vec<u8>) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = connection.process(incoming).state {
        append(output, ALERT_BYTES_MAX, |room| traffic.queue_close_notify(room).ok().map(Ok));
    }
}

/// Lets `write` put bytes behind those in `output`, with `room` bytes to begin with; it answers with
/// how many it wrote, or with how many it needs.
fn append(
    output: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Option<Result<usize, usize>>,
) {
    let start = output.len();
    let mut room = room;
    loop {
        output.resize(start + room, 0);
        match write(output.get_mut(start..).unwrap_or_default()) {
            Some(Ok(length)) => {
                output.truncate(start + length);
                return;
            }
            Some(Err(required)) if required > room => room = required,
            _ => {
                output.truncate(start);
                return;
            }
        }
    }
}
