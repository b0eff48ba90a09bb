//! One TLS connection, of the server's side, without a buffer of its own while nothing is under way.
//!
//! rustls keeps what a record is made of only until it is complete: bytes come in as they are
//! received, go out as they are encoded, and what an idle connection holds is its keys.

use crate::config::{CertificateRefused, TlsServer};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError};
use rustls::{HandshakeKind, ServerConfig};
use std::sync::Arc;

/// The server's end of a TLS connection.
pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    /// Received and not understood yet: an incomplete record, or one not looked at.
    incoming: Vec<u8>,
    /// What decides about the client; gone when that is done.
    server: Option<Arc<TlsServer>>,
    server_name: Option<Box<str>>,
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
    /// Before the first byte.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used for any connection.
    pub(super) fn new(server: Arc<TlsServer>) -> Result<Self, rustls::Error> {
        let config: &Arc<ServerConfig> = server.config();
        let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self { connection, incoming: Vec::new(), server: Some(server), server_name: None })
    }

    /// Whether the handshake is not over.
    pub(super) fn is_handshaking(&self) -> bool {
        self.server.is_some()
    }

    /// Whether the peer was heard: its next bytes end the handshake, or what was begun of it.
    pub(super) fn has_begun(&self) -> bool {
        self.server_name.is_some() || self.connection.protocol_version().is_some()
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
        let mut done = Understood::default();
        let mut consumed = 0;
        let result = loop {
            let rest = buffer.get_mut(consumed..).unwrap_or_default();
            let status = self.connection.process_tls_records(rest);
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
                Ok(ConnectionState::PeerClosed) => done.closed = true,
                Ok(_) => is_over = true,
                Err(error) => {
                    consumed += discard;
                    let rest = buffer.get_mut(consumed..).unwrap_or_default();
                    self.take_alerts(rest, output);
                    break Err(TlsFailure::Protocol(error));
                }
            }
            consumed += discard;
            if is_over {
                break Ok(());
            }
        };
        buffer.drain(..consumed.min(buffer.len()));
        if let Some(name) = self.server.as_ref().and_then(|_| TlsServer::take_asked_name()) {
            self.server_name = Some(name);
        }
        result?;
        if !self.connection.is_handshaking()
            && let Some(server) = self.server.take()
        {
            done.met = Some(self.meet(&server).map_err(|_| TlsFailure::Certificate)?);
        }
        Ok(done)
    }

    fn meet(&mut self, server: &TlsServer) -> Result<Met, CertificateRefused> {
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let identity = server.identify(self.connection.peer_certificates(), resumed)?;
        Ok(Met { server_name: self.server_name.take(), identity, resumed })
    }

    /// What a broken connection still has to say.
    fn take_alerts(&mut self, rest: &mut [u8], output: &mut Vec<u8>) {
        // Only as long as there is something: looking at the bytes again would be a second fault.
        while self.connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(rest).state
        {
            append(output, ALERT_BYTES_MAX, |room| data.encode(room).ok().map(Ok));
        }
    }

    /// Adds records with `plain` to `output`. Nothing is added to one that is closed or broken.
    pub(super) fn send(&mut self, plain: &[u8], output: &mut Vec<u8>) {
        let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
        let room = plain.len() + records * RECORD_OVERHEAD_BYTES + ALERT_BYTES_MAX;
        // Nothing complete is in `incoming`: `receive` has taken it.
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.incoming).state
        {
            append(output, room, |room| match traffic.encrypt(plain, room) {
                Ok(length) => Some(Ok(length)),
                Err(EncryptError::InsufficientSize(size)) => Some(Err(size.required_size)),
                Err(EncryptError::EncryptExhausted) => None,
            });
        }
    }

    /// Says that nothing more is sent.
    pub(super) fn close(&mut self, output: &mut Vec<u8>) {
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.incoming).state
        {
            append(output, ALERT_BYTES_MAX, |room| traffic.queue_close_notify(room).ok().map(Ok));
        }
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
