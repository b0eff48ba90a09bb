//! From what was given to what is true.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::admin::{self, AdminConfig, AdminToken};
use super::auth::{self, AuthConfig, AuthMethod, BANNED_MAX};
use super::environment::Environment;
use super::error::{ConfigError, Origin};
use super::given::{Given, Written};
use super::limits::{LimitSpec, Limits};
use super::listen::Listen;
use super::nats::{self, SubClusterConfig};
use super::network::parse_network;
use super::relations::{self, MemoryBounds};
use super::tenant;
use super::tls::{self, TlsConfig};
use super::topic_filter;

/// The most shards a node runs: the interest table has one bit a shard in a 64-bit word.
pub const SHARDS_MAX: u16 = 64;
/// The most topic filters in `subscribe_refused`: each filter of a SUBSCRIBE is compared with all.
pub const SUBSCRIBE_REFUSED_MAX: usize = 64;
/// The most topic filters in `uplink`: the topic of each PUBLISH is compared with all.
pub const UPLINK_MAX: usize = 16;
/// The most addresses and networks in `balancers`.
pub const BALANCERS_MAX: usize = 256;
/// The most origins in `websocket_origins`.
pub const WEBSOCKET_ORIGINS_MAX: usize = 256;
/// Where the log goes if neither the operator nor systemd says so.
const DATA_DEFAULT: &str = "gateway-data";
/// The longest `server_reference`, bytes.
pub const SERVER_REFERENCE_BYTES_MAX: usize = 256;
const SYS_INTERVAL_S_DEFAULT: u64 = 10;
const SYNC_INTERVAL_MS_DEFAULT: u64 = 1_000;
/// Unless the machine is small, or told otherwise: see `Resolver::limit_default`.
const SEGMENT_BYTES_IN_MEMORY: u64 = 8 << 20;
const SYNC_INTERVAL_MS_MAX: u64 = 60_000;

/// The configuration in force. Nothing in it means "default": it is what the program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where connections are accepted; at least one, none twice.
    pub listen: Vec<Listen>,
    /// The directory of the log and the session store.
    pub data: PathBuf,
    /// Shards, 1 to [`SHARDS_MAX`]: one thread pinned to one core each.
    pub shards: u16,
    /// What listeners that speak TLS show and ask for; set if there is one.
    pub tls: Option<TlsConfig>,
    /// Who may connect to listeners with `?proxy`, and is believed there; at most [`BALANCERS_MAX`].
    pub balancers: Vec<IpNet>,
    /// Pages that may connect over WebSocket, by their origin; all may if there is none. At most
    /// [`WEBSOCKET_ORIGINS_MAX`].
    pub websocket_origins: Vec<String>,
    /// When a message counts as safe.
    pub durability: Durability,
    /// Time between syncs with [`Durability::Interval`]; 1 ms to 60 s.
    pub sync_interval: Duration,
    /// Whether clients may connect without proving who they are. Without a way to prove it they may
    /// on loopback anyway, and other addresses need this.
    pub allow_anonymous: bool,
    /// Who may connect and what they may touch.
    pub auth: AuthConfig,
    /// Topic filters no client may subscribe to, none by default, none twice, at most
    /// [`SUBSCRIBE_REFUSED_MAX`]; without `$share/`.
    ///
    /// Compared by literal equality with each filter of a SUBSCRIBE, of a shared subscription with
    /// the filter behind the share name. This is no ACL: with `#` refused, `+/#` and `a/#` are
    /// granted. A stored session keeps what it subscribed to before the filter was refused.
    pub subscribe_refused: Vec<String>,
    /// The sub-clusters of the JetStream upstream, no name twice. Empty: the embedded upstream.
    pub nats: Vec<SubClusterConfig>,
    /// Where sessions are. [`Sessions::Local`] without sub-clusters.
    pub sessions: Sessions,
    /// Filters of topics that only applications at the servers of sub-clusters read: none by default, none
    /// twice, at most [`UPLINK_MAX`].
    pub uplink: Vec<String>,
    /// What happens to clients of which applications at the servers of sub-clusters are told, each kind
    /// once. Default none; there is none without sub-clusters.
    pub events: Vec<ClientEvent>,
    /// What this gateway is called: 1 to [`GATEWAY_ID_BYTES_MAX`](super::GATEWAY_ID_BYTES_MAX)
    /// letters, digits, `-` and `_`.
    pub gateway_id: String,
    /// How much is logged.
    pub log: LogLevel,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Where clients of 5.0 are sent when the gateway ends: a Server Reference, at most
    /// [`SERVER_REFERENCE_BYTES_MAX`]. Source: MQTT 5.0 §4.11.
    pub server_reference: Option<String>,
    /// Time between messages on the topics under `$SYS/broker/`; zero for none.
    pub sys_interval: Duration,
    /// The admin server; `None` for no such thing.
    pub admin: Option<AdminConfig>,
    /// Every limit.
    pub limits: Limits,
}

/// When a message counts as safe, so that its publisher may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it: survives a power cut.
    Fsync,
    /// The page cache has it, and the disk after at most `sync_interval`: survives a crash of
    /// the process, not of the machine.
    Interval,
    /// Memory has it: survives nothing.
    Memory,
}

/// Where sessions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// In the log and store of this node: clients have to come back to it.
    Local,
    /// In JetStream, beside the messages: clients may come back to any gateway.
    Shared,
}

/// What happens to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Its CONNECT is accepted.
    Connect,
    /// Its connection ends.
    Disconnect,
    /// Subscriptions are granted.
    Subscribe,
    /// Subscriptions are ended by UNSUBSCRIBE.
    Unsubscribe,
}

/// How much is logged; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Unexpected, and recovered from.
    Warn,
    /// The life of the process and its listeners.
    Info,
    /// Single connections.
    Debug,
    /// Single packets.
    Trace,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl Durability {
    const NAMES: &[(&str, Self)] =
        &[("fsync", Self::Fsync), ("interval", Self::Interval), ("memory", Self::Memory)];
}

impl Sessions {
    const NAMES: &[(&str, Self)] = &[("local", Self::Local), ("shared", Self::Shared)];
}

impl ClientEvent {
    const NAMES: &[(&str, Self)] = &[
        ("connect", Self::Connect),
        ("disconnect", Self::Disconnect),
        ("subscribe", Self::Subscribe),
        ("unsubscribe", Self::Unsubscribe),
    ];
}

impl LogLevel {
    const NAMES: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl LogLevel {
    /// Each level, the one that logs least first.
    pub const ALL: &[Self] = &[Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
    }
}

impl LogFormat {
    const NAMES: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(Self::NAMES, *self))
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(Self::NAMES, *self))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(Self::NAMES, *self))
    }
}

impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(Self::NAMES, *self))
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(Self::NAMES, *self))
    }
}

impl Config {
    /// Decides what is true from what was given.
    ///
    /// Faults go to `faults`; if there are any, the result is only good for finding more.
    pub(super) fn resolve(
        given: &Given,
        environment: &Environment,
        faults: &mut Vec<ConfigError>,
    ) -> Self {
        let mut resolver = Resolver { given, environment, faults };
        let durability = resolver.durability();
        let shards = resolver.shards();
        let limits = resolver.limits(durability, shards);
        let listen = resolver.listen();
        let config = Self {
            sessions: resolver.sessions(),
            tls: resolver.tls(&listen, &limits),
            balancers: resolver.balancers(&listen),
            websocket_origins: resolver.websocket_origins(),
            nats: resolver.nats(&limits),
            events: resolver.events(),
            gateway_id: resolver.gateway_id(),
            listen,
            data: resolver.data(),
            shards,
            durability,
            sync_interval: resolver.sync_interval(),
            allow_anonymous: resolver.truth("allow_anonymous", false),
            auth: resolver.auth(),
            subscribe_refused: resolver.topic_filters("subscribe_refused", SUBSCRIBE_REFUSED_MAX),
            uplink: resolver.uplink(),
            log: resolver.log(),
            log_format: resolver.log_format(),
            server_reference: resolver.server_reference(),
            sys_interval: resolver.sys_interval(),
            admin: resolver.admin(),
            limits,
        };
        resolver.check_anonymous(&config);
        relations::check(&config.limits, config.shards, faults);
        relations::check_memory(&config.memory_bounds(), environment.memory_bytes, faults);
        config
    }

    /// What this configuration can take of the machine's memory.
    #[must_use]
    pub fn memory_bounds(&self) -> MemoryBounds {
        let in_memory = self.durability == Durability::Memory;
        let bounds = MemoryBounds::of(&self.limits, self.shards, in_memory);
        let has_nats = !self.nats.is_empty();
        let bounds = if has_nats { bounds.with_nats(&self.limits, self.shards) } else { bounds };
        if self.tls.is_some() { bounds.with_tls(&self.limits) } else { bounds }
    }
}

struct Resolver<'a> {
    given: &'a Given,
    environment: &'a Environment,
    faults: &'a mut Vec<ConfigError>,
}

impl Resolver<'_> {
    fn listen(&mut self) -> Vec<Listen> {
        let Some(written) = self.given.lists.get("listen") else { return vec![Listen::DEFAULT] };
        let mut all = Vec::with_capacity(written.len());
        for item in written {
            match Listen::parse(&item.text) {
                Some(listen) if all.iter().any(|one: &Listen| one.address == listen.address) => {
                    self.fault("listen", item, "each address once");
                }
                Some(listen) => all.push(listen),
                None => self.fault(
                    "listen",
                    item,
                    "mqtt://ADDRESS:PORT, or mqtts://, ws://, wss://, with an IPv4 address, an IPv6 \
                     address in brackets or localhost, and a port from 1 to 65535",
                ),
            }
        }
        if written.is_empty() {
            self.faults.push(ConfigError {
                key: "listen".to_owned(),
                value: "[]".to_owned(),
                expected: "at least one address".to_owned(),
                origin: Origin::Default,
            });
        }
        all
    }

    fn balancers(&mut self, listen: &[Listen]) -> Vec<IpNet> {
        let key = "balancers";
        let written = self.given.lists.get(key).map_or(&[][..], Vec::as_slice);
        let proxied = listen.iter().find(|listen| listen.proxied);
        match (written.first(), proxied) {
            (None, Some(listen)) => self.faults.push(ConfigError {
                key: "listen".to_owned(),
                value: format!("{:?}", listen.to_string()),
                expected:
                    "balancers with it: whose PROXY headers are believed (--balancer ADDRESS)"
                        .to_owned(),
                origin: Origin::Default,
            }),
            (Some(item), None) => self.fault(key, item, "a listener with ?proxy for them"),
            _ => {}
        }
        if let Some(item) = written.get(BALANCERS_MAX) {
            self.fault(key, item, &format!("at most {BALANCERS_MAX} addresses and networks"));
        }
        let mut all = Vec::with_capacity(written.len());
        for item in written {
            match parse_network(&item.text) {
                Some(network) => all.push(network),
                None => self.fault(key, item, "an IP address, or a network such as 10.0.0.0/24"),
            }
        }
        all
    }

    fn websocket_origins(&mut self) -> Vec<String> {
        let key = "websocket_origins";
        let written = self.given.lists.get(key).map_or(&[][..], Vec::as_slice);
        if let Some(item) = written.get(WEBSOCKET_ORIGINS_MAX) {
            self.fault(key, item, &format!("at most {WEBSOCKET_ORIGINS_MAX} origins"));
        }
        for item in written {
            // As a browser sends it, so that comparing text is right.
            let host = item.text.split_once("://").map_or("", |(_, host)| host);
            if host.is_empty() || host.contains(['/', ' ']) || item.text != item.text.to_lowercase()
            {
                self.fault(key, item, "an origin, such as https://app.example.org or with :8443");
            }
        }
        written.iter().map(|item| item.text.clone()).collect()
    }

    fn tls(&mut self, listen: &[Listen], limits: &Limits) -> Option<TlsConfig> {
        let wanted = listen.iter().any(|listen| listen.scheme.is_tls());
        tls::resolve(self.given, wanted, limits.tls_ticket_lifetime_s, self.faults)
    }

    fn data(&mut self) -> PathBuf {
        match self.given.settings.get("data") {
            Some(written) => {
                if written.text.is_empty() {
                    self.fault("data", written, "a directory");
                }
                PathBuf::from(&written.text)
            }
            None => self
                .environment
                .state_directory
                .clone()
                .unwrap_or_else(|| PathBuf::from(DATA_DEFAULT)),
        }
    }

    fn shards(&mut self) -> u16 {
        let cores = u16::try_from(self.environment.cores).unwrap_or(SHARDS_MAX);
        let default = cores.clamp(1, SHARDS_MAX);
        let number = self.number("shards", default.into(), 1, SHARDS_MAX.into());
        u16::try_from(number).expect("at most SHARDS_MAX")
    }

    fn durability(&mut self) -> Durability {
        self.choice("durability", Durability::NAMES, Durability::Fsync)
    }

    fn sync_interval(&mut self) -> Duration {
        let default = SYNC_INTERVAL_MS_DEFAULT;
        let milliseconds = self.number("sync_interval_ms", default, 1, SYNC_INTERVAL_MS_MAX);
        Duration::from_millis(milliseconds)
    }

    fn truth(&mut self, key: &str, default: bool) -> bool {
        self.choice(key, &[("true", true), ("false", false)], default)
    }

    fn auth(&mut self) -> AuthConfig {
        let password_file = self.file("password_file");
        let (jwt_key_file, jwt_jwks_file) = (self.file("jwt_key_file"), self.file("jwt_jwks_file"));
        let http_auth_url = self.http_auth_url();
        let methods = self.auth_methods(&[
            (AuthMethod::Certificate, true, ""),
            (AuthMethod::Password, password_file.is_some(), "password_file"),
            (
                AuthMethod::Jwt,
                jwt_key_file.is_some() || jwt_jwks_file.is_some(),
                "jwt_key_file or jwt_jwks_file",
            ),
            (AuthMethod::Http, http_auth_url.is_some(), "http_auth_url"),
        ]);
        let tenants = tenant::resolve(self.given, !methods.is_empty(), self.faults);
        AuthConfig {
            methods,
            tenants,
            http_auth_url,
            http_auth_ca_file: self.file("http_auth_ca_file"),
            http_auth_token_file: self.file("http_auth_token_file"),
            password_file,
            jwt_key_file,
            jwt_jwks_file,
            jwt_algorithm: self.jwt_algorithm(),
            jwt_user_claim: self.text("jwt_user_claim").unwrap_or_else(|| "sub".to_owned()),
            jwt_client_id_claim: self.text("jwt_client_id_claim"),
            jwt_mountpoint_claim: self.text("jwt_mountpoint_claim"),
            jwt_issuer: self.text("jwt_issuer"),
            jwt_audience: self.text("jwt_audience"),
            acl_file: self.file("acl_file"),
            sessions_bound_to_user: self.truth("sessions_bound_to_user", true),
            client_id_is_user_name: self.truth("client_id_is_user_name", false),
            banned_client_ids: self.banned("banned_client_ids", "a client id", some_text),
            banned_users: self.banned("banned_users", "a user name", some_text),
            banned_addresses: self.banned(
                "banned_addresses",
                "an address, or a range of them like 192.0.2.0/24",
                parse_network,
            ),
        }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let written = self.given.settings.get(key)?;
        if written.text.is_empty() {
            self.fault(key, written, "some text");
        }
        Some(written.text.clone())
    }

    fn jwt_algorithm(&mut self) -> jsonwebtoken::Algorithm {
        let key = "jwt_algorithm";
        let default = jsonwebtoken::Algorithm::RS256;
        let Some(written) = self.given.settings.get(key) else { return default };
        written.text.parse().unwrap_or_else(|_| {
            let expected = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                            ES384 or EdDSA";
            self.fault(key, written, expected);
            default
        })
    }

    fn http_auth_url(&mut self) -> Option<String> {
        let key = "http_auth_url";
        let written = self.given.settings.get(key)?;
        if !auth::is_callout_url(&written.text) {
            // It may have a password in it.
            let written = Written { text: "***".to_owned(), origin: written.origin };
            let expected = "https://HOST/PATH, or http:// on this machine, without a password in it: \
                            there is http_auth_token_file";
            self.fault(key, &written, expected);
        }
        Some(written.text.clone())
    }

    /// The methods that were named, or those for which there is what `known` says they need. Of
    /// certificates nothing here says that clients have them.
    fn auth_methods(&mut self, known: &[(AuthMethod, bool, &str)]) -> Vec<AuthMethod> {
        let key = "auth_methods";
        let mut all = Vec::new();
        let Some(written) = self.given.lists.get(key) else {
            let is_given = |one: &&(AuthMethod, bool, &str)| one.1 && !one.2.is_empty();
            return known.iter().filter(is_given).map(|(method, _, _)| *method).collect();
        };
        for item in written {
            let named = AuthMethod::NAMES.iter().find(|(name, _)| *name == item.text);
            let known = known.iter().find(|(method, _, _)| Some(method) == named.map(|(_, it)| it));
            match known {
                None => self.fault(key, item, "certificate, password, jwt or http"),
                Some((method, _, _)) if all.contains(method) => {
                    self.fault(key, item, "each method once");
                }
                Some((_, false, needed)) => {
                    self.fault(key, item, &format!("{needed} to be given for this method"));
                }
                Some((method, true, _)) => all.push(*method),
            }
        }
        all
    }

    fn banned<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(written) = self.given.lists.get(key) else { return Vec::new() };
        if let Some(item) = written.get(BANNED_MAX) {
            self.fault(key, item, &format!("at most {BANNED_MAX}, not {}", written.len()));
        }
        let mut all = Vec::with_capacity(written.len());
        for item in written {
            match parse(&item.text) {
                Some(parsed) => all.push(parsed),
                None => self.fault(key, item, expected),
            }
        }
        all
    }

    /// The path of a file that may be left out.
    fn file(&mut self, key: &str) -> Option<PathBuf> {
        let written = self.given.settings.get(key)?;
        if written.text.is_empty() {
            self.fault(key, written, "a file");
        }
        Some(PathBuf::from(&written.text))
    }

    fn uplink(&mut self) -> Vec<String> {
        let key = "uplink";
        if let Some(item) = self.given.lists.get(key).and_then(|written| written.first())
            && self.given.nats.as_ref().is_none_or(Vec::is_empty)
        {
            self.fault(key, item, "sub-clusters with it: --nats or [[nats]]");
        }
        self.topic_filters(key, UPLINK_MAX)
    }

    fn topic_filters(&mut self, key: &str, count_max: usize) -> Vec<String> {
        let Some(written) = self.given.lists.get(key) else { return Vec::new() };
        let mut all: Vec<String> = Vec::with_capacity(written.len());
        for item in written {
            if let Some(expected) = topic_filter::fault_of(&item.text) {
                self.fault(key, item, expected);
            } else if all.contains(&item.text) {
                self.fault(key, item, "each topic filter once");
            } else {
                all.push(item.text.clone());
            }
        }
        if let Some(item) = written.get(count_max) {
            let expected = format!("at most {count_max} topic filters, not {}", written.len());
            self.fault(key, item, &expected);
        }
        all
    }

    fn nats(&mut self, limits: &Limits) -> Vec<SubClusterConfig> {
        let given = self.given.nats.as_deref().unwrap_or_default();
        nats::resolve(given, limits.retention_age(), self.faults)
    }

    fn gateway_id(&mut self) -> String {
        let written = self.given.settings.get("gateway_id");
        nats::gateway_id(written, &self.environment.host_name, self.faults)
    }

    fn sessions(&mut self) -> Sessions {
        let sessions = self.choice("sessions", Sessions::NAMES, Sessions::Local);
        if let Some(written) = self.given.settings.get("sessions")
            && self.given.nats.as_ref().is_none_or(Vec::is_empty)
        {
            self.fault("sessions", written, "sub-clusters with it: --nats or [[nats]]");
        }
        sessions
    }

    fn events(&mut self) -> Vec<ClientEvent> {
        let key = "events";
        let Some(written) = self.given.lists.get(key) else { return Vec::new() };
        let mut all = Vec::with_capacity(written.len());
        for item in written {
            match ClientEvent::NAMES.iter().find(|(name, _)| *name == item.text) {
                None => self.fault(key, item, "connect, disconnect, subscribe or unsubscribe"),
                Some((_, event)) if all.contains(event) => {
                    self.fault(key, item, "each event once");
                }
                Some((_, event)) => all.push(*event),
            }
        }
        if let Some(item) = written.first()
            && self.given.nats.as_ref().is_none_or(Vec::is_empty)
        {
            self.fault(key, item, "sub-clusters with it: --nats or [[nats]]");
        }
        all
    }

    fn log(&mut self) -> LogLevel {
        self.choice("log", LogLevel::NAMES, LogLevel::Info)
    }

    fn log_format(&mut self) -> LogFormat {
        self.choice("log_format", LogFormat::NAMES, LogFormat::Text)
    }

    fn server_reference(&mut self) -> Option<String> {
        let written = self.given.settings.get("server_reference")?;
        let is_sound = (1..=SERVER_REFERENCE_BYTES_MAX).contains(&written.text.len())
            && !written.text.contains(char::is_control);
        if !is_sound {
            let expected = "HOST or HOST:PORT, several separated by blanks, of at most 256 bytes";
            self.fault("server_reference", written, expected);
        }
        Some(written.text.clone())
    }

    fn sys_interval(&mut self) -> Duration {
        Duration::from_secs(self.number("sys_interval_s", SYS_INTERVAL_S_DEFAULT, 0, 86_400))
    }

    fn admin(&mut self) -> Option<AdminConfig> {
        let token = self.admin_token();
        let written = self.given.settings.get("admin");
        let is_default = written.is_none();
        let address = match written.map(|written| (written, written.text.as_str())) {
            None => admin::ADDRESS_DEFAULT,
            Some((_, "none")) => {
                if let Some(file) = self.given.settings.get("admin_token_file") {
                    self.fault("admin_token_file", file, "an admin server with it: --admin");
                }
                return None;
            }
            Some((written, text)) => {
                let Ok(address) = text.parse::<SocketAddr>() else {
                    let expected = "ADDRESS:PORT, with an IPv4 address or an IPv6 address in \
                                    brackets, or none";
                    self.fault("admin", written, expected);
                    return None;
                };
                let is_loopback = address.ip().to_canonical().is_loopback();
                if !is_loopback && !self.given.settings.contains_key("admin_token_file") {
                    let expected = "a loopback address, because others can reach this one, or \
                                    admin_token_file with it";
                    self.fault("admin", written, expected);
                }
                address
            }
        };
        Some(AdminConfig { address, is_default, token })
    }

    fn admin_token(&mut self) -> Option<AdminToken> {
        let written = self.given.settings.get("admin_token_file")?;
        match AdminToken::read(std::path::Path::new(&written.text)) {
            Ok(token) => Some(token),
            Err(expected) => {
                self.fault("admin_token_file", written, &expected);
                None
            }
        }
    }

    fn limits(&mut self, durability: Durability, shards: u16) -> Limits {
        Limits::from_values(|limit| {
            let default = self.limit_default(limit, durability, shards);
            let Some(written) = self.given.limits.get(limit.key) else { return default };
            match parse_number(&written.text, limit.min, limit.max) {
                Some(value) if !limit.power_of_two || value.is_power_of_two() => value,
                _ => {
                    let expected = expected_of(limit);
                    self.fault(&format!("limits.{}", limit.key), written, &expected);
                    default
                }
            }
        })
    }

    /// The table's default, or less of what is kept in memory: a log in memory gets a quarter of
    /// it, cut into at least four segments a shard, and these are small, because what is not needed
    /// any more goes by whole segments.
    fn limit_default(&self, limit: &LimitSpec, durability: Durability, shards: u16) -> u64 {
        let log_bytes = self.environment.memory_bytes / 4;
        let room = match (durability, limit.key) {
            (Durability::Memory, "retention_bytes") => log_bytes,
            (Durability::Memory, "segment_bytes") => {
                SEGMENT_BYTES_IN_MEMORY.min(log_bytes / (4 * u64::from(shards)))
            }
            _ => return limit.default,
        };
        room.clamp(limit.min, limit.default)
    }

    /// An address that others can reach needs clients that prove who they are, or a word that
    /// this is meant.
    fn check_anonymous(&mut self, config: &Config) {
        if config.allow_anonymous || config.auth.knows_users() {
            return;
        }
        let Some(written) = self.given.lists.get("listen") else { return };
        for item in written {
            if Listen::parse(&item.text).is_some_and(|listen| !listen.is_loopback()) {
                self.fault(
                    "listen",
                    item,
                    "a loopback address, because others can reach this one and no \
                     authentication is configured: give one of --password-file, jwt_key_file, \
                     jwt_jwks_file, http_auth_url, or auth_methods = [\"certificate\"] with \
                     --tls-client-ca; or to let anyone connect set allow_anonymous = true or give \
                     --allow-anonymous",
                );
            }
        }
    }

    fn number(&mut self, key: &str, default: u64, min: u64, max: u64) -> u64 {
        let Some(written) = self.given.settings.get(key) else { return default };
        parse_number(&written.text, min, max).unwrap_or_else(|| {
            self.fault(key, written, &format!("a whole number from {min} to {max}"));
            default
        })
    }

    fn choice<T: Copy>(&mut self, key: &str, names: &[(&str, T)], default: T) -> T {
        let Some(written) = self.given.settings.get(key) else { return default };
        match names.iter().find(|(name, _)| *name == written.text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                self.fault(key, written, &names.join(" or "));
                default
            }
        }
    }

    fn fault(&mut self, key: &str, written: &Written, expected: &str) {
        self.faults.push(ConfigError {
            key: key.to_owned(),
            value: format!("{:?}", written.text),
            expected: expected.to_owned(),
            origin: written.origin,
        });
    }
}

/// Any text but none.
fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads decimal digits; underscores may group them, as in TOML.
pub(super) fn parse_number(text: &str, min: u64, max: u64) -> Option<u64> {
    let digits = text.replace('_', "");
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|value| (min..=max).contains(value))
}

fn expected_of(limit: &LimitSpec) -> String {
    let kind = if limit.power_of_two { "a power of two" } else { "a whole number" };
    format!("{kind} from {} to {} ({})", limit.min, limit.max, limit.unit)
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).expect("every value has a name").0
}
