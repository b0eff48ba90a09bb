//! What lies between a socket's bytes and the plain bytes of its connection.
//!
//! ```text
//!   wire ─▶ PROXY header ─▶ TLS ─▶ WebSocket ─▶ plain      each only where the listener has it
//! ```
//!
//! A connection on plain TCP has no [`Layers`]: its bytes pass by reference on the way in and by value
//! on the way out, and this file costs it nothing. For the others the layers move with the socket when
//! a connection is handed over.

use super::tls::{Met, Tls};
use crate::config::{Listen, NatsTls, Scheme, TlsServer};
use crate::proto::handler::{CloseReason, Origin, TransportKind};
use crate::proto::proxy_protocol;
use crate::proto::websocket::{WebSocket, WebSocketLimits};
use std::net::SocketAddr;
use std::sync::Arc;

/// The layers of one connection, from the wire upwards.
pub(super) struct Layers {
    /// What came of the header that the balancer has to send, while that is not complete.
    header: Option<Vec<u8>>,
    tls: Option<Box<Tls>>,
    websocket: Option<Box<WebSocket>>,
    /// To be sent, on the wire's side of all layers.
    output: Vec<u8>,
    /// Bytes that came until all was set up.
    setup_bytes: usize,
    stage: Stage,
    origin: Box<Origin>,
    /// Why it is closed, if a layer wants it so.
    fault: Option<CloseReason>,
    /// The peer has said, in a layer, that nothing more comes.
    peer_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    SettingUp,
    Open,
    /// Nothing more is sent.
    Ended,
}

/// What bytes of the peer led to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// All layers are set up, by these bytes.
    pub(super) opened: bool,
    /// A TLS session began; whether it was taken up with a ticket.
    pub(super) handshake: Option<bool>,
}

/// Room for the work of layers, shared by the connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    wire: Vec<u8>,
    /// Between TLS and WebSocket, on the way in and on the way out.
    received: Vec<u8>,
    framed: Vec<u8>,
}

impl Layers {
    /// The layers of a connection from `peer` that begins now, `None` on plain TCP.
    ///
    /// # Errors
    ///
    /// The configuration of TLS cannot be used.
    pub(super) fn begin(
        listen: &Listen,
        peer: SocketAddr,
        tls: Option<Arc<TlsServer>>,
    ) -> Result<Option<Self>, rustls::Error> {
        let transport = match listen.scheme {
            Scheme::Mqtt if !listen.proxied => return Ok(None),
            Scheme::Mqtt => TransportKind::Tcp,
            Scheme::Mqtts => TransportKind::Tls,
            Scheme::Ws => TransportKind::WebSocket,
            Scheme::Wss => TransportKind::SecureWebSocket,
        };
        let tls = tls.filter(|_| listen.scheme.is_tls()).map(Tls::new).transpose()?;
        Ok(Some(Self {
            header: listen.proxied.then(Vec::new),
            tls: tls.map(Box::new),
            websocket: listen.scheme.is_websocket().then(Box::default),
            output: Vec::new(),
            setup_bytes: 0,
            stage: Stage::SettingUp,
            origin: Box::new(Origin { transport, ..Origin::tcp(peer) }),
            fault: None,
            peer_done: false,
        }))
    }

    /// The layers of a link to `peer` that goes on in TLS. Its first bytes are to be sent.
    ///
    /// # Errors
    ///
    /// The configuration of TLS cannot be used.
    pub(super) fn secure(
        tls: &NatsTls,
        peer: SocketAddr,
        scratch: &mut Scratch,
    ) -> Result<Self, rustls::Error> {
        let tls = Tls::client(tls, peer.ip())?;
        let mut layers = Self {
            header: None,
            tls: Some(Box::new(tls)),
            websocket: None,
            output: Vec::new(),
            setup_bytes: 0,
            stage: Stage::SettingUp,
            origin: Box::new(Origin { transport: TransportKind::Tls, ..Origin::tcp(peer) }),
            fault: None,
            peer_done: false,
        };
        layers.receive_tls(&[], scratch, &mut Vec::new(), &mut Progress::default());
        Ok(layers)
    }

    /// Where the connection comes from, as far as the layers know.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Why a layer has ended the connection.
    pub(super) fn fault(&self) -> Option<CloseReason> {
        self.fault
    }

    /// Whether the peer has said, in a layer, that nothing more comes.
    pub(super) fn is_peer_done(&self) -> bool {
        self.peer_done
    }

    /// Whether there is something to send that no one has to ask for.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
            || (self.stage == Stage::Open && self.websocket.as_ref().is_some_and(|w| w.has_pong()))
    }

    /// Whether bytes pass as they are: a balancer's header is all there was.
    pub(super) fn is_transparent(&self) -> bool {
        self.stage == Stage::Open && self.tls.is_none() && self.websocket.is_none()
    }

    /// Whether they are not set up: what the connection has to say waits.
    pub(super) fn is_setting_up(&self) -> bool {
        self.stage == Stage::SettingUp
    }

    /// Whether the next bytes may take long: they are kept, and their turn comes. Links are few, and do
    /// not wait behind clients.
    pub(super) fn is_costly(&self) -> bool {
        self.fault.is_none()
            && self.header.is_none()
            && self.tls.as_ref().is_some_and(|tls| tls.is_handshaking() && !tls.is_client())
    }

    /// Whether much was done for this connection already.
    pub(super) fn has_begun(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_begun())
    }

    /// Keeps bytes until their turn comes.
    pub(super) fn keep(&mut self, wire: &[u8]) {
        if let Some(tls) = &mut self.tls {
            tls.keep(wire);
        }
    }

    /// How many bytes wait for their turn.
    pub(super) fn kept_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.kept_bytes())
    }

    /// Bytes that came until all was set up.
    pub(super) fn setup_bytes(&self) -> usize {
        self.setup_bytes
    }

    /// Notes bytes that came from a stranger.
    pub(super) fn count_setup(&mut self, bytes: usize) {
        self.setup_bytes += bytes;
    }

    /// Whether the balancer's header is not complete.
    pub(super) fn expects_header(&self) -> bool {
        self.header.is_some()
    }

    /// Takes bytes of the balancer's header; what is behind it is put into `rest`.
    pub(super) fn take_header(&mut self, wire: &[u8], rest: &mut Vec<u8>) {
        let Some(header) = &mut self.header else { return };
        header.extend_from_slice(wire);
        match proxy_protocol::decode(header) {
            Ok(None) => {}
            Ok(Some((told, length))) => {
                rest.extend(header.drain(..).skip(length));
                self.header = None;
                let origin = &mut self.origin;
                origin.peer = told.peer.unwrap_or(origin.peer);
                origin.server_name = told.server_name;
                origin.certificate_identity = told.certificate_identity;
                origin.transport = match origin.transport {
                    TransportKind::Tcp if told.is_tls => TransportKind::Tls,
                    TransportKind::WebSocket if told.is_tls => TransportKind::SecureWebSocket,
                    own => own,
                };
            }
            Err(_) => self.fail(CloseReason::Proxy),
        }
    }

    /// Takes bytes from the wire and adds plain ones to `plain`. A fault is noted, and what came
    /// before it counts.
    pub(super) fn receive(
        &mut self,
        wire: &[u8],
        limits: &WebSocketLimits,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
    ) -> Progress {
        let mut progress = Progress::default();
        if self.fault.is_some() || self.header.is_some() || self.stage == Stage::Ended {
            return progress;
        }
        let mut received = std::mem::take(&mut scratch.received);
        received.clear();
        let below_websocket = match (&mut self.tls, &self.websocket) {
            (None, None) => {
                plain.extend_from_slice(wire);
                &[][..]
            }
            (None, Some(_)) => wire,
            (Some(_), above) => {
                let into = if above.is_some() { &mut received } else { &mut *plain };
                self.receive_tls(wire, scratch, into, &mut progress);
                &received
            }
        };
        if !below_websocket.is_empty() {
            self.receive_websocket(below_websocket, limits, scratch, plain);
        }
        scratch.received = received;
        let is_set_up = self.fault.is_none()
            && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
            && self.websocket.as_ref().is_none_or(|websocket| websocket.is_open());
        if is_set_up && self.stage == Stage::SettingUp {
            self.stage = Stage::Open;
            progress.opened = true;
        }
        progress
    }

    fn receive_tls(
        &mut self,
        wire: &[u8],
        scratch: &mut Scratch,
        into: &mut Vec<u8>,
        progress: &mut Progress,
    ) {
        let Some(tls) = &mut self.tls else { return };
        match tls.receive(wire, &mut scratch.wire, into, &mut self.output) {
            Ok(understood) => {
                self.peer_done |= understood.closed;
                if let Some(Met { server_name, identity, resumed }) = understood.met {
                    progress.handshake = Some(resumed);
                    let origin = &mut self.origin;
                    origin.server_name = server_name.or_else(|| origin.server_name.take());
                    origin.certificate_identity =
                        identity.or_else(|| origin.certificate_identity.take());
                }
            }
            Err(failure) => {
                let peer = self.origin.peer;
                if tls.is_client() {
                    tracing::warn!(%peer, %failure, "link: TLS failed");
                } else {
                    tracing::debug!(%peer, %failure, "TLS failed");
                }
                self.fail(CloseReason::Tls);
            }
        }
    }

    fn receive_websocket(
        &mut self,
        bytes: &[u8],
        limits: &WebSocketLimits,
        scratch: &mut Scratch,
        plain: &mut Vec<u8>,
    ) {
        let Some(websocket) = &mut self.websocket else { return };
        scratch.framed.clear();
        let result = websocket.receive(bytes, limits, plain, &mut scratch.framed);
        if !scratch.framed.is_empty() {
            self.say(&scratch.framed);
        }
        match result {
            Ok(understood) => self.peer_done |= understood.closed,
            Err(fault) => {
                tracing::debug!(peer = %self.origin.peer, ?fault, "WebSocket failed");
                self.fail(CloseReason::WebSocket);
            }
        }
    }

    /// Adds bytes of the WebSocket layer to what is to be sent.
    fn say(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.send(bytes, &mut self.output),
            None => self.output.extend_from_slice(bytes),
        }
    }

    /// Notes why the connection is to be closed; the first reason counts.
    pub(super) fn fail(&mut self, reason: CloseReason) {
        self.fault.get_or_insert(reason);
    }

    /// Adds the wire's bytes for `plain` to `wire`, behind those that are waiting.
    pub(super) fn send(&mut self, plain: &[u8], scratch: &mut Scratch, wire: &mut Vec<u8>) {
        wire.append(&mut self.output);
        self.output = Vec::new();
        if self.fault.is_some() || self.stage != Stage::Open {
            return;
        }
        let framed = match &mut self.websocket {
            None => plain,
            Some(websocket) => {
                scratch.framed.clear();
                websocket.take_pong(&mut scratch.framed);
                if !plain.is_empty() {
                    WebSocket::send(plain, &mut scratch.framed);
                }
                &scratch.framed
            }
        };
        match &mut self.tls {
            _ if framed.is_empty() => {}
            Some(tls) => tls.send(framed, wire),
            None => wire.extend_from_slice(framed),
        }
    }

    /// Says goodbye, once: what is to be sent before the end of the stream.
    pub(super) fn end(&mut self) {
        let before = std::mem::replace(&mut self.stage, Stage::Ended);
        if before == Stage::Ended {
            return;
        }
        if before == Stage::Open
            && self.fault.is_none()
            && let Some(websocket) = &self.websocket
        {
            let mut close = Vec::new();
            websocket.close(&mut close);
            self.say(&close);
        }
        if self.fault != Some(CloseReason::Tls)
            && let Some(tls) = &mut self.tls
        {
            tls.close(&mut self.output);
        }
    }
}

#[cfg(test)]
mod tests;
