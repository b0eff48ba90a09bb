//! A link: one connection of a shard to one NATS server, without I/O.
//!
//! ```text
//!          dial                  INFO: CONNECT, PING         PONG
//! Waiting ─────▶ Dialing ─▶ ExpectInfo ─────▶ ExpectPong ─────────▶ Ready
//!                                  │  TLS ▲ CONNECT, PING
//!                                  └▶ ExpectTls
//!    ▲                                                                │
//!    └──── refused, closed, silent, malformed: the next server, after a jittered wait ────┘
//! ```
//! The owner performs what [`LinkOut`] says, gives it what comes, and writes operations for a
//! ready link into the same buffer. A [`Fence`] tells when everything written before it has been
//! handled by the server: SUB is active then. Nothing survives a lost link: whoever owns it
//! subscribes again and sends again what was not answered.
//!
//! Source: NATS client protocol; nats-server 2.12.0 and 2.15.1.

use super::backoff::Backoff;
use crate::proto::nats::{
    ConnectOptions, Credentials, DecodeError, DecodeLimits, Info, InfoError, Message, Operation,
    Progress, decode, encode_connect, encode_ping, encode_pong,
};
use crate::proto::time::Timestamp;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How a link behaves. One for all links to a sub-cluster.
#[derive(Debug)]
pub struct LinkSettings {
    /// The sub-cluster's name, for logs.
    pub name: String,
    /// Of the connection, shown by the server's monitoring.
    pub connection_name: String,
    /// How the gateway proves who it is.
    pub identity: Identity,
    /// How long a connection attempt may take, INFO and CONNECT included. Default 5 s.
    pub connect_timeout: Duration,
    /// After so much silence the server is asked whether it is there. Default 5 s.
    pub ping_interval: Duration,
    /// After so much silence the link is lost; more than `ping_interval`. Default 12 s.
    pub silence_max: Duration,
    /// The longest mean wait before the next attempt doubles up to twice this. Default 5 s.
    pub reconnect_wait_max: Duration,
    /// Servers kept of those that INFO announced last, at most, beside those configured. Default 64.
    pub announced_servers_max: usize,
    /// Whether it goes on in TLS, and how.
    pub tls: LinkTls,
}

/// How a link is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkTls {
    /// Not at all: a server that requires TLS is refused.
    #[default]
    Plain,
    /// TLS follows INFO. A server that does not offer it is refused.
    AfterInfo,
    /// TLS comes before INFO, as with `handshake_first` of nats-server.
    First,
}

/// Who a gateway is to a server.
pub enum Identity {
    /// Nobody in particular.
    None,
    /// User name and password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token.
    Token(String),
    /// An nkey.
    Nkey(nkeys::KeyPair),
    /// A creds file: a user JWT and its nkey.
    Creds {
        /// The JWT.
        jwt: String,
        /// Its key.
        key: nkeys::KeyPair,
    },
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is secret stays out of logs.
        f.write_str(match self {
            Self::None => "None",
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
            Self::Nkey(_) => "Nkey",
            Self::Creds { .. } => "Creds",
        })
    }
}

/// What the owner has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOut {
    /// Connect to this server, and report to [`Link::handle_dialed`].
    Dial {
        /// Where.
        address: SocketAddr,
        /// When to give up.
        deadline: Timestamp,
    },
    /// Close the connection; [`Link::handle_closed`] need not be called for it.
    Close,
    /// Go on in TLS, and report to [`Link::handle_secured`].
    StartTls,
}

/// What a link tells its owner.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkEvent<'a> {
    /// It can be written to: subscribe, and send what was not answered.
    Ready(&'a Info),
    /// The server is ready for TLS: go on in it, and report to [`Link::handle_secured`].
    StartTls,
    /// A message for a subscription.
    Message(Message<'a>),
    /// Everything written before this fence has been handled by the server.
    Passed(Fence),
    /// The server is going to close (lame-duck mode), or has other news.
    Info(&'a Info),
    /// The server refused something and goes on: the text of its `-ERR`.
    Refused(&'a [u8]),
}

/// Names a moment in the stream of operations sent. Of one connection: a new one begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// Why a link was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// The server's bytes are no operations.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Its INFO cannot be used.
    #[error(transparent)]
    Info(#[from] InfoError),
    /// It speaks no headers: it is too old, or they are turned off.
    #[error("nats-server {version} without headers")]
    NoHeaders {
        /// Of the server.
        version: String,
    },
    /// It stores less than clients may send, or sends more than a link takes.
    #[error(
        "max_payload of {bytes} bytes: set it between {} and {}",
        PAYLOAD_BYTES_MIN,
        PAYLOAD_BYTES_MAX
    )]
    MaxPayload {
        /// Of the server.
        bytes: u64,
    },
    /// It wants TLS, which is not configured.
    #[error("the server requires TLS: its URL has to begin with tls://")]
    TlsRequired,
    /// It does not speak TLS, which is configured.
    #[error("the server does not offer TLS, and its URL begins with tls://")]
    NoTls,
    /// Something stands between INFO and TLS: nobody knows whose it is.
    #[error("the server says more than INFO before TLS")]
    Unsecured,
    /// The nonce could not be signed.
    #[error("cannot sign the server's nonce: {0}")]
    Signature(String),
    /// The server says why it closes.
    #[error("the server closed the link: {0}")]
    Server(String),
    /// It said nothing for too long.
    #[error("the server is silent")]
    Silent,
    /// No connection, or not in time.
    #[error("cannot connect: {0}")]
    Connect(std::io::ErrorKind),
    /// The connection is gone.
    #[error("the connection was closed")]
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For the next attempt.
    Waiting {
        until: Timestamp,
    },
    Dialing {
        deadline: Timestamp,
    },
    ExpectInfo {
        deadline: Timestamp,
    },
    /// The handshake is under way.
    ExpectTls {
        deadline: Timestamp,
    },
    ExpectPong {
        deadline: Timestamp,
    },
    Ready,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    settings: Arc<LinkSettings>,
    state: State,
    /// The next attempt takes the front one.
    servers: VecDeque<SocketAddr>,
    /// Those of `servers` that are kept, whatever the sub-cluster announces.
    configured: Box<[SocketAddr]>,
    /// The last one dialed.
    dialed: Option<SocketAddr>,
    info: Info,
    limits: DecodeLimits,
    progress: Progress,
    backoff: Backoff,
    heard_at: Timestamp,
    /// PINGs sent and answered on this connection. The first belongs to CONNECT.
    pings: u64,
    pongs: u64,
    /// A PING was sent to find out whether the server is there.
    asked: bool,
    /// The connection is in TLS.
    is_secured: bool,
}

impl Link {
    /// A link to one of `servers`, of which there is at least one; `seed` fixes its waits.
    #[must_use]
    pub fn new(settings: Arc<LinkSettings>, servers: &[SocketAddr], seed: u64) -> Self {
        let max = settings.reconnect_wait_max;
        Self {
            state: State::Waiting { until: Timestamp::START },
            servers: servers.iter().copied().collect(),
            configured: servers.into(),
            dialed: None,
            info: Info::default(),
            limits: DecodeLimits::default(),
            progress: Progress::default(),
            backoff: Backoff::new(FIRST_WAIT, max, seed),
            heard_at: Timestamp::START,
            pings: 0,
            pongs: 0,
            asked: false,
            is_secured: false,
            settings,
        }
    }

    /// The next attempt goes to `address`, which leads what the link is for.
    pub fn prefer(&mut self, address: SocketAddr) {
        match self.servers.iter().position(|server| *server == address) {
            Some(place) => self.servers.swap(0, place),
            None => self.servers.push_front(address),
        }
    }

    /// Gives the connection up, and tries again at once. [`LinkOut::Close`] is due.
    pub fn restart(&mut self, now: Timestamp) {
        self.state = State::Waiting { until: now };
    }

    /// Whether operations may be written.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// What the server last said of itself.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Writes a fence behind everything written so far. Only on a ready link.
    pub fn put_fence(&mut self, out: &mut Vec<u8>) -> Fence {
        encode_ping(out);
        self.pings += 1;
        Fence(self.pings)
    }

    /// When [`Link::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        match self.state {
            State::Waiting { until } => until,
            State::Dialing { deadline }
            | State::ExpectInfo { deadline }
            | State::ExpectTls { deadline }
            | State::ExpectPong { deadline } => deadline,
            State::Ready if self.asked => self.heard_at.after(self.settings.silence_max),
            State::Ready => self.heard_at.after(self.settings.ping_interval),
        }
    }

    /// Time has passed: dials, asks a silent server, or gives it up.
    ///
    /// # Errors
    ///
    /// The link was lost; [`LinkOut::Close`] is due if a connection was there.
    pub fn handle_timeout(
        &mut self,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<Option<LinkOut>, LinkFault> {
        if now < self.next_timeout() {
            return Ok(None);
        }
        match self.state {
            State::Waiting { .. } => Ok(Some(self.dial(now))),
            // The engine reports a dial that takes too long.
            State::Dialing { .. } => {
                self.state = State::Dialing { deadline: Timestamp::NEVER };
                Ok(None)
            }
            State::ExpectInfo { .. } | State::ExpectTls { .. } | State::ExpectPong { .. } => {
                self.lose(now);
                Err(LinkFault::Connect(std::io::ErrorKind::TimedOut))
            }
            State::Ready if self.asked => {
                self.lose(now);
                Err(LinkFault::Silent)
            }
            State::Ready => {
                self.asked = true;
                self.put_fence(out);
                Ok(None)
            }
        }
    }

    /// The connection asked for is there, or not. [`LinkOut::StartTls`] may be due.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn handle_dialed(
        &mut self,
        now: Timestamp,
        result: Result<(), std::io::ErrorKind>,
    ) -> Result<Option<LinkOut>, LinkFault> {
        if let Err(kind) = result {
            self.lose(now);
            return Err(LinkFault::Connect(kind));
        }
        let deadline = now.after(self.settings.connect_timeout);
        self.progress = Progress::default();
        self.limits = DecodeLimits::default();
        self.info = Info::default();
        (self.pings, self.pongs, self.asked, self.is_secured) = (0, 0, false, false);
        self.heard_at = now;
        if self.settings.tls == LinkTls::First {
            self.state = State::ExpectTls { deadline };
            return Ok(Some(LinkOut::StartTls));
        }
        self.state = State::ExpectInfo { deadline };
        Ok(None)
    }

    /// The connection is in TLS, with a server that was checked.
    ///
    /// # Errors
    ///
    /// The link cannot go on: [`LinkOut::Close`] is due.
    pub fn handle_secured(&mut self, now: Timestamp, out: &mut Vec<u8>) -> Result<(), LinkFault> {
        if !matches!(self.state, State::ExpectTls { .. }) {
            return Ok(());
        }
        self.is_secured = true;
        if self.settings.tls == LinkTls::First {
            let deadline = now.after(self.settings.connect_timeout);
            self.state = State::ExpectInfo { deadline };
            return Ok(());
        }
        self.log_in(now, out).inspect_err(|_| self.lose(now))
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self, now: Timestamp) {
        self.lose(now);
    }

    /// Bytes came. Tells `tell` what they say and writes what the protocol answers by itself to
    /// `out`. Returns how many were consumed.
    ///
    /// # Errors
    ///
    /// The link cannot go on: [`LinkOut::Close`] is due.
    pub fn handle_received(
        &mut self,
        now: Timestamp,
        bytes: &[u8],
        out: &mut Vec<u8>,
        tell: &mut dyn FnMut(LinkEvent<'_>, &mut Vec<u8>),
    ) -> Result<usize, LinkFault> {
        self.heard_at = now;
        self.asked = false;
        let mut at = 0;
        if matches!(self.state, State::ExpectTls { .. }) && !bytes.is_empty() {
            self.lose(now);
            return Err(LinkFault::Unsecured);
        }
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (operation, length) = match decode(rest, &self.limits, &mut self.progress) {
                Ok(None) => break,
                Ok(Some(found)) => found,
                Err(error) => {
                    self.lose(now);
                    return Err(error.into());
                }
            };
            at += length;
            let mut result = self.handle_operation(now, operation, out, tell);
            if matches!(self.state, State::ExpectTls { .. }) && at < bytes.len() {
                result = result.and(Err(LinkFault::Unsecured));
            }
            if let Err(fault) = result {
                self.lose(now);
                return Err(fault);
            }
        }
        Ok(at)
    }

    fn handle_operation(
        &mut self,
        now: Timestamp,
        operation: Operation<'_>,
        out: &mut Vec<u8>,
        tell: &mut dyn FnMut(LinkEvent<'_>, &mut Vec<u8>),
    ) -> Result<(), LinkFault> {
        match operation {
            Operation::Message(message) => tell(LinkEvent::Message(message), out),
            Operation::Ping => encode_pong(out),
            Operation::Pong => self.handle_pong(now, out, tell),
            Operation::Ok => {}
            Operation::Info(text) => self.handle_info(now, text, out, tell)?,
            Operation::Err(text) if is_survivable(text) => tell(LinkEvent::Refused(text), out),
            Operation::Err(text) => {
                let text = String::from_utf8_lossy(text.get(..ERROR_BYTES_MAX).unwrap_or(text));
                return Err(LinkFault::Server(text.into_owned()));
            }
        }
        Ok(())
    }

    fn handle_pong(
        &mut self,
        _now: Timestamp,
        out: &mut Vec<u8>,
        tell: &mut dyn FnMut(LinkEvent<'_>, &mut Vec<u8>),
    ) {
        if self.pongs == self.pings {
            return;
        }
        self.pongs += 1;
        if let State::ExpectPong { .. } = self.state {
            self.state = State::Ready;
            self.backoff.reset();
            tell(LinkEvent::Ready(&self.info), out);
        } else {
            tell(LinkEvent::Passed(Fence(self.pongs)), out);
        }
    }

    fn handle_info(
        &mut self,
        now: Timestamp,
        text: &[u8],
        out: &mut Vec<u8>,
        tell: &mut dyn FnMut(LinkEvent<'_>, &mut Vec<u8>),
    ) -> Result<(), LinkFault> {
        self.info = Info::parse(text)?;
        if let Ok(payload_bytes_max) = usize::try_from(self.info.max_payload_bytes) {
            self.limits.payload_bytes_max = payload_bytes_max.max(self.limits.payload_bytes_max);
            // Those that the server adds to a stored message come on top.
            self.limits.header_bytes_max =
                (payload_bytes_max + ADDED_HEADER_BYTES_MAX).max(self.limits.header_bytes_max);
        }
        self.learn_servers();
        match self.state {
            State::ExpectInfo { .. } => self.handle_first_info(now, out, tell)?,
            State::Waiting { .. }
            | State::Dialing { .. }
            | State::ExpectTls { .. }
            | State::ExpectPong { .. } => {}
            State::Ready => tell(LinkEvent::Info(&self.info), out),
        }
        Ok(())
    }

    fn handle_first_info(
        &mut self,
        now: Timestamp,
        out: &mut Vec<u8>,
        tell: &mut dyn FnMut(LinkEvent<'_>, &mut Vec<u8>),
    ) -> Result<(), LinkFault> {
        let (requires, offers) = (self.info.tls_required, self.info.tls_available);
        match self.settings.tls {
            _ if self.is_secured => self.log_in(now, out),
            LinkTls::Plain if requires => Err(LinkFault::TlsRequired),
            LinkTls::Plain => self.log_in(now, out),
            LinkTls::AfterInfo | LinkTls::First if !requires && !offers => Err(LinkFault::NoTls),
            LinkTls::AfterInfo | LinkTls::First => {
                let deadline = now.after(self.settings.connect_timeout);
                self.state = State::ExpectTls { deadline };
                tell(LinkEvent::StartTls, out);
                Ok(())
            }
        }
    }

    /// Says who the gateway is.
    fn log_in(&mut self, now: Timestamp, out: &mut Vec<u8>) -> Result<(), LinkFault> {
        self.put_connect(out)?;
        let deadline = now.after(self.settings.connect_timeout);
        self.state = State::ExpectPong { deadline };
        self.put_fence(out);
        Ok(())
    }

    fn put_connect(&self, out: &mut Vec<u8>) -> Result<(), LinkFault> {
        let info = &self.info;
        if !info.headers {
            return Err(LinkFault::NoHeaders { version: info.version.clone() });
        }
        if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&info.max_payload_bytes) {
            return Err(LinkFault::MaxPayload { bytes: info.max_payload_bytes });
        }
        let sign = |key: &nkeys::KeyPair| {
            let signature = key.sign(info.nonce.as_bytes());
            signature
                .map(|bytes| base64_url(&bytes))
                .map_err(|error| LinkFault::Signature(error.to_string()))
        };
        let (public_key, signature);
        let credentials = match &self.settings.identity {
            Identity::None => Credentials::None,
            Identity::Password { user, password } => Credentials::Password { user, password },
            Identity::Token(token) => Credentials::Token(token),
            Identity::Nkey(key) => {
                (public_key, signature) = (key.public_key(), sign(key)?);
                Credentials::Nkey { public_key: &public_key, signature: &signature }
            }
            Identity::Creds { jwt, key } => {
                signature = sign(key)?;
                Credentials::Jwt { jwt, signature: &signature }
            }
        };
        let options = ConnectOptions {
            name: &self.settings.connection_name,
            version: env!("CARGO_PKG_VERSION"),
            tls_required: self.is_secured,
            echo: true,
            credentials,
        };
        encode_connect(&options, out);
        Ok(())
    }

    /// Beside those configured and the one that is there, the servers are those that INFO announces:
    /// one that has left the sub-cluster is forgotten. Names are for whoever can resolve them.
    fn learn_servers(&mut self) {
        let Self { info, servers, configured, settings, dialed, .. } = self;
        let announced = info.connect_urls.iter().filter_map(|url| url.parse::<SocketAddr>().ok());
        let announced: Vec<SocketAddr> = announced.collect();
        if announced.is_empty() {
            // A server outside a cluster announces none.
            return;
        }
        servers.retain(|server| {
            configured.contains(server) || announced.contains(server) || *dialed == Some(*server)
        });
        let servers_max = configured.len() + settings.announced_servers_max;
        for address in announced {
            if servers.len() < servers_max && !servers.contains(&address) {
                servers.push_back(address);
            }
        }
    }

    fn dial(&mut self, now: Timestamp) -> LinkOut {
        // A server that fails goes to the end of the line.
        let address = *self.servers.front().expect("a link has servers");
        self.servers.rotate_left(1);
        self.dialed = Some(address);
        let deadline = now.after(self.settings.connect_timeout);
        self.state = State::Dialing { deadline };
        LinkOut::Dial { address, deadline }
    }

    fn lose(&mut self, now: Timestamp) {
        let wait = self.backoff.next_wait();
        self.state = State::Waiting { until: now.after(wait) };
    }
}

/// After these the server keeps the connection. Source: nats-server 2.15.1, server/client.go.
fn is_survivable(text: &[u8]) -> bool {
    let starts =
        |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    starts(b"Permissions Violation") || starts(b"Invalid Subject") || starts(b"Invalid Publish")
}

/// As in CONNECT: base64url without padding.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let digit = (group >> (18 - 6 * place)) & 63;
            text.push(char::from(*DIGITS.get(digit as usize).expect("six bits")));
        }
    }
    text
}

/// What a server must be willing to store: its default `max_payload`.
pub const PAYLOAD_BYTES_MIN: u64 = 1_048_576;
/// What it may be willing to store: what is recommended at most.
pub const PAYLOAD_BYTES_MAX: u64 = 8 * 1_048_576;
/// Of headers that a server adds to a message.
pub const ADDED_HEADER_BYTES_MAX: usize = 8_192;
/// The first wait before an attempt is at most this.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Of what a server says when it closes the link, for the log.
const ERROR_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests;
