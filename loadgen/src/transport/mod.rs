//! What lies between a device's MQTT and its socket: TLS and WebSocket, of the client's side.
//!
//! ```text
//!   socket ─▶ radio ─▶ TLS ─▶ WebSocket ─▶ MQTT      each only where the broker's URL has it
//! ```
//!
//! Sans-IO: bytes and time in, bytes out. The layers are above the radio, so that a handshake takes
//! its round trips and a trickle cuts TLS records. On plain TCP there are none: a device holds a
//! pointer that is null. What is random in TLS (keys, nonces) comes from the system and not from the
//! seed: the lengths of what is sent repeat, the bytes do not.

mod arguments;
mod keys;
mod reach;
mod settings;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod url;

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use gateway::proto::websocket::{WebSocketAnswerFault, WebSocketClient};
use rustls::{ClientConfig, pki_types::ServerName};

pub(crate) use arguments::BrokerArguments;
pub(crate) use reach::reach;
pub(crate) use settings::{Broker, BrokerKeys, TlsSettings};
pub(crate) use url::BrokerUrl;

use tickets::Wallet;
use tls::Tls;

/// Payload of a WebSocket frame of the broker at most, bytes: what the largest MQTT packet needs, since
/// brokers send one a frame. Nothing is kept of a frame, so this costs nothing.
const FRAME_BYTES_MAX: u64 = 1 << 30;

/// The way to a broker that all devices take.
#[derive(Debug)]
pub(crate) struct Transport {
    tls: Option<TlsWay>,
    websocket: Option<WebSocketWay>,
}

#[derive(Debug)]
struct TlsWay {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

#[derive(Debug)]
struct WebSocketWay {
    /// As it stands in the header: with the port where it is not the scheme's.
    host: String,
    path: String,
}

/// The layers of one device, over all of its connections.
#[derive(Debug)]
pub(crate) struct Layers {
    transport: Arc<Transport>,
    /// What the device keeps from one connection for the next.
    wallet: Wallet,
    tls: Option<Box<Tls>>,
    websocket: Option<Box<WebSocketClient>>,
    stage: Stage,
    /// When what the stage waits for began.
    since_ns: u64,
    /// What keys and masks of WebSocket come from.
    seed: u64,
}

/// Named for what the layers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A connection.
    Closed,
    /// The end of the TLS handshake.
    ExpectSecure,
    /// The answer to the WebSocket request.
    ExpectUpgrade,
    /// Nothing: MQTT passes.
    Open,
    /// The end: nothing more is sent.
    Ended,
}

/// What bytes of the broker led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The TLS handshake is over.
    pub(crate) secured: Option<Secured>,
    /// The WebSocket stands, so many nanoseconds after its request was written.
    pub(crate) upgraded_after_ns: Option<u64>,
    /// All layers stand: MQTT may begin.
    pub(crate) opened: bool,
}

/// A TLS handshake that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secured {
    /// By a ticket of an earlier connection: no certificate was shown or checked.
    pub(crate) resumed: bool,
    /// Nanoseconds since the TCP connection stood.
    pub(crate) after_ns: u64,
}

/// A layer's handshake failed, or the broker broke its protocol later.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LayerFault {
    /// Of TLS: the broker's certificate is not good, it sent an alert, or what came is not TLS.
    Tls(rustls::Error),
    /// Of WebSocket.
    WebSocket(WebSocketAnswerFault),
}

impl Layers {
    /// The layers of a device that has had no connection.
    pub(crate) fn new(transport: Arc<Transport>, seed: u64) -> Self {
        Self {
            transport,
            wallet: Wallet::default(),
            tls: None,
            websocket: None,
            stage: Stage::Closed,
            since_ns: 0,
            seed,
        }
    }

    /// The TCP connection stands: adds the first bytes to `wire`.
    ///
    /// # Errors
    ///
    /// The configuration of TLS can be used for no connection.
    pub(crate) fn begin(&mut self, now_ns: u64, wire: &mut Vec<u8>) -> Result<(), LayerFault> {
        self.closed();
        self.since_ns = now_ns;
        self.stage = Stage::ExpectUpgrade;
        if let Some(way) = &self.transport.tls {
            let (config, name) = (Arc::clone(&way.config), way.server_name.clone());
            let tls = self.wallet.lend(|| Tls::begin(config, name, wire));
            self.tls = Some(Box::new(tls.map_err(LayerFault::Tls)?));
            self.stage = Stage::ExpectSecure;
            return Ok(());
        }
        self.request(now_ns, wire);
        Ok(())
    }

    /// Bytes came from the broker: MQTT is added to `plain`, what is to be sent because of them to
    /// `wire`.
    ///
    /// # Errors
    ///
    /// What came before the fault is in `plain`, and what says it to the broker in `wire`. Nothing
    /// passes any more.
    pub(crate) fn receive(
        &mut self,
        now_ns: u64,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Progress, LayerFault> {
        let mut progress = Progress::default();
        if matches!(self.stage, Stage::Closed | Stage::Ended) {
            return Ok(progress);
        }
        let outcome = self.receive_layers(now_ns, bytes, plain, wire, &mut progress);
        if outcome.is_err() {
            self.stage = Stage::Ended;
        }
        outcome.map(|()| progress)
    }

    fn receive_layers(
        &mut self,
        now_ns: u64,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<(), LayerFault> {
        let Some(tls) = &mut self.tls else {
            return self.receive_websocket(now_ns, bytes, plain, wire, progress);
        };
        let has_websocket = self.transport.websocket.is_some();
        let mut framed = Vec::new();
        let into = if has_websocket { &mut framed } else { &mut *plain };
        let outcome = self.wallet.lend(|| tls.receive(bytes, into, wire));
        let met = match outcome {
            Ok(met) => met,
            Err(error) => {
                // What came before the fault counts.
                if self.websocket.is_some() {
                    self.receive_websocket(now_ns, &framed, plain, &mut Vec::new(), progress)?;
                }
                return Err(LayerFault::Tls(error));
            }
        };
        if let Some(resumed) = met {
            let after_ns = now_ns.saturating_sub(self.since_ns);
            progress.secured = Some(Secured { resumed, after_ns });
            if has_websocket {
                self.request(now_ns, wire);
            } else {
                self.open(progress);
            }
        }
        self.receive_websocket(now_ns, &framed, plain, wire, progress)
    }

    /// Takes bytes that are behind TLS.
    fn receive_websocket(
        &mut self,
        now_ns: u64,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<(), LayerFault> {
        let Some(websocket) = &mut self.websocket else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        let mut answer = Vec::new();
        let outcome = websocket.receive(bytes, FRAME_BYTES_MAX, plain, &mut answer);
        let closed = matches!(outcome, Ok(now) if now.closed);
        if closed {
            // RFC 6455 §5.5.1: it is answered, and the server closes the connection.
            websocket.close(&mut answer);
        }
        self.say(&answer, wire);
        let now = outcome.map_err(LayerFault::WebSocket)?;
        if now.opened {
            progress.upgraded_after_ns = Some(now_ns.saturating_sub(self.since_ns));
            self.open(progress);
        }
        if closed {
            self.stage = Stage::Ended;
        }
        Ok(())
    }

    /// Adds MQTT packets to `wire`, as the broker wants them; empties `plain`. Nothing is added
    /// unless the layers are open.
    pub(crate) fn send(&mut self, plain: &mut Vec<u8>, wire: &mut Vec<u8>) {
        if self.stage == Stage::Open && !plain.is_empty() {
            if let Some(websocket) = &mut self.websocket {
                let mut framed = Vec::with_capacity(plain.len() + 14);
                websocket.send(plain, &mut framed);
                self.say(&framed, wire);
            } else {
                self.say(plain, wire);
            }
        }
        plain.clear();
    }

    /// Adds a goodbye of each layer to `wire`, once: Close, close_notify.
    pub(crate) fn end(&mut self, wire: &mut Vec<u8>) {
        let before = std::mem::replace(&mut self.stage, Stage::Ended);
        if before == Stage::Open
            && let Some(websocket) = &mut self.websocket
        {
            let mut close = Vec::new();
            websocket.close(&mut close);
            self.say(&close, wire);
        }
        if matches!(before, Stage::Open | Stage::ExpectUpgrade)
            && let Some(tls) = &mut self.tls
        {
            tls.close(wire);
        }
    }

    /// The TCP connection is gone: of the layers only what a device keeps is left.
    pub(crate) fn closed(&mut self) {
        (self.tls, self.websocket) = (None, None);
        self.stage = Stage::Closed;
    }

    /// Asks for the WebSocket, if there is to be one.
    fn request(&mut self, now_ns: u64, wire: &mut Vec<u8>) {
        let Some(way) = &self.transport.websocket else { return };
        // Another key for each connection. The constant is that of Weyl's sequence in SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut request = Vec::new();
        let websocket = WebSocketClient::begin(&way.host, &way.path, self.seed, &mut request);
        self.websocket = Some(Box::new(websocket));
        self.stage = Stage::ExpectUpgrade;
        self.since_ns = now_ns;
        self.say(&request, wire);
    }

    fn open(&mut self, progress: &mut Progress) {
        self.stage = Stage::Open;
        progress.opened = true;
    }

    /// Adds bytes that are behind TLS to `wire`.
    fn say(&mut self, bytes: &[u8], wire: &mut Vec<u8>) {
        match &mut self.tls {
            _ if bytes.is_empty() => {}
            Some(tls) => tls.send(bytes, wire),
            None => wire.extend_from_slice(bytes),
        }
    }
}

impl Display for LayerFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::WebSocket(WebSocketAnswerFault::Malformed) => {
                write!(f, "WebSocket: what came is no HTTP/1.1 answer")
            }
            Self::WebSocket(WebSocketAnswerFault::Status(status)) => {
                write!(f, "WebSocket: the request was answered with status {status}")
            }
            Self::WebSocket(WebSocketAnswerFault::Upgrade) => {
                write!(f, "WebSocket: the answer does not fit the request")
            }
            Self::WebSocket(WebSocketAnswerFault::Subprotocol) => {
                write!(f, "WebSocket: the broker does not speak the subprotocol mqtt there")
            }
            Self::WebSocket(WebSocketAnswerFault::Frame(code)) => {
                write!(f, "WebSocket: a frame broke the protocol (close code {code})")
            }
        }
    }
}
