//! One TLS connection, of the client's side, without a buffer of its own while nothing is under way.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
};

use rustls::{
    ClientConfig, Error, HandshakeKind,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    unbuffered::{ConnectionState, EncodeError, EncryptError},
};

/// The client's end of a TLS connection.
pub(super) struct Tls {
    connection: UnbufferedClientConnection,
    /// The beginning of a record whose end has not come.
    incoming: Vec<u8>,
    handshaking: bool,
}

/// What a record adds to its plain bytes at most, and the most of these it carries.
const RECORD_OVERHEAD_BYTES: usize = 64;
const RECORD_PLAIN_BYTES_MAX: usize = 16_384;
/// Room for an alert, or an answer to a key update, beside the records.
const ALERT_BYTES_MAX: usize = 256;

impl Tls {
    /// Adds the ClientHello to `wire`.
    ///
    /// # Errors
    ///
    /// The configuration can be used for no connection.
    pub(super) fn begin(
        config: Arc<ClientConfig>,
        server_name: ServerName<'static>,
        wire: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, server_name)?;
        let mut tls = Self { connection, incoming: Vec::new(), handshaking: true };
        tls.receive(&[], &mut Vec::new(), wire)?;
        Ok(tls)
    }

    /// Takes bytes from the wire: plain ones are added to `plain`, and what is to be sent because of
    /// them to `wire`. When the handshake is over by these bytes, says whether it resumed a session.
    ///
    /// # Errors
    ///
    /// What came before the fault is in `plain`, an alert in `wire`. The connection is of no use any
    /// more.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Option<bool>, Error> {
        let mut buffer = std::mem::take(&mut self.incoming);
        buffer.extend_from_slice(bytes);
        let (consumed, outcome) = self.understand(&mut buffer, plain, wire);
        let rest = buffer.get(consumed..).unwrap_or_default();
        // A copy that is no longer than what is left; nothing when there is nothing.
        self.incoming = rest.to_vec();
        outcome?;
        if self.handshaking && !self.connection.is_handshaking() {
            self.handshaking = false;
            return Ok(Some(self.connection.handshake_kind() == Some(HandshakeKind::Resumed)));
        }
        Ok(None)
    }

    /// Takes what is complete out of `buffer`: how many bytes of it are done with.
    fn understand(
        &mut self,
        buffer: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> (usize, Result<(), Error>) {
        let mut consumed = 0;
        loop {
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
                    append(wire, 0, |room| match data.encode(room) {
                        Ok(length) => Some(Ok(length)),
                        Err(EncodeError::InsufficientSize(size)) => Some(Err(size.required_size)),
                        Err(EncodeError::AlreadyEncoded) => None,
                    });
                }
                // It is behind everything that was to be sent before, and goes out in this order.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                // The end of the TCP connection follows, and that is what counts.
                Ok(ConnectionState::PeerClosed) => {}
                // To write or to wait; or the end. New states of rustls are waits as well.
                Ok(_) => is_over = true,
                Err(error) => {
                    consumed += discard;
                    self.take_alerts(buffer.get_mut(consumed..).unwrap_or_default(), wire);
                    return (consumed, Err(error));
                }
            }
            consumed += discard;
            if is_over {
                return (consumed, Ok(()));
            }
        }
    }

    /// What a broken connection still has to say.
    fn take_alerts(&mut self, rest: &mut [u8], wire: &mut Vec<u8>) {
        // Only as long as there is something: looking at the bytes again would be a second fault.
        while self.connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(rest).state
        {
            append(wire, ALERT_BYTES_MAX, |room| data.encode(room).ok().map(Ok));
        }
    }

    /// Adds records with `plain` to `wire`. Nothing is added to one that is closed or broken.
    pub(super) fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
        let room = plain.len() + records * RECORD_OVERHEAD_BYTES + ALERT_BYTES_MAX;
        // Nothing complete is in `incoming`: `receive` has taken it.
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.incoming).state
        {
            append(wire, room, |room| match traffic.encrypt(plain, room) {
                Ok(length) => Some(Ok(length)),
                Err(EncryptError::InsufficientSize(size)) => Some(Err(size.required_size)),
                Err(EncryptError::EncryptExhausted) => None,
            });
        }
    }

    /// Bytes kept between calls.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.incoming.capacity()
    }

    /// Says that nothing more is sent.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.incoming).state
        {
            append(wire, ALERT_BYTES_MAX, |room| traffic.queue_close_notify(room).ok().map(Ok));
        }
    }
}

impl Debug for Tls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("handshaking", &self.handshaking).finish_non_exhaustive()
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
