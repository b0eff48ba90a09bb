//! From what was given of sub-clusters to what is true.

use std::path::Path;
use std::time::Duration;

use super::given::GivenSubCluster;
use super::server_url::{self, ServerUrl};
use super::{
    GATEWAY_ID_BYTES_MAX, NATS_SERVERS_MAX, NatsIdentity, NatsServer, NatsTls, REPLICAS_MAX,
    SUB_CLUSTER_NAME_BYTES_MAX, SUB_CLUSTERS_MAX, SubClusterConfig, identity, may_be_secret,
};
use crate::config::error::{ConfigError, Origin};
use crate::config::given::Written;
use crate::config::resolved::parse_number;
use crate::config::tls::CertificateFiles;

/// The keys that are about TLS.
const TLS_KEYS: [&str; 4] = ["ca_file", "client_certificate_file", "client_key_file", "tls_first"];
const DUPLICATE_WINDOW_DEFAULT: Duration = Duration::from_secs(120);
const DUPLICATE_WINDOW_S_MAX: u64 = 86_400;
/// As that of `limits.retention_age_s`.
const MAX_AGE_S: (u64, u64) = (60, u32::MAX as u64);
/// What a server takes: a signed number of 64 bits.
const MAX_BYTES: (u64, u64) = (1, i64::MAX as u64);

/// Decides what `given` means; `max_age` holds where it says nothing.
pub(in crate::config) fn resolve(
    given: &[GivenSubCluster],
    max_age: Duration,
    faults: &mut Vec<ConfigError>,
) -> Vec<SubClusterConfig> {
    let mut all: Vec<SubClusterConfig> = Vec::with_capacity(given.len());
    for given in given {
        let mut resolver = Resolver { given, faults };
        let resolved = resolver.sub_cluster(max_age);
        if all.iter().any(|other| !resolved.name.is_empty() && other.name == resolved.name) {
            resolver.fault_at("name", "each sub-cluster once");
        }
        all.push(resolved);
    }
    if all.len() > SUB_CLUSTERS_MAX {
        faults.push(ConfigError {
            key: "nats".to_owned(),
            value: String::new(),
            expected: format!("at most {SUB_CLUSTERS_MAX} sub-clusters, not {}", all.len()),
            origin: Origin::Default,
        });
    }
    all
}

/// The gateway's id: what was given, or the host's name as far as it can be one.
pub(in crate::config) fn gateway_id(
    written: Option<&Written>,
    host_name: &str,
    faults: &mut Vec<ConfigError>,
) -> String {
    let Some(written) = written else {
        let fits = host_name.bytes().take(GATEWAY_ID_BYTES_MAX);
        let id: String =
            fits.map(|byte| if is_name_byte(byte) { char::from(byte) } else { '-' }).collect();
        return if id.is_empty() { "gateway".to_owned() } else { id };
    };
    if !is_name(&written.text, GATEWAY_ID_BYTES_MAX) {
        faults.push(ConfigError {
            key: "gateway_id".to_owned(),
            value: format!("{:?}", written.text),
            expected: format!("1 to {GATEWAY_ID_BYTES_MAX} letters, digits, - and _"),
            origin: written.origin,
        });
    }
    written.text.clone()
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

struct Resolver<'a> {
    given: &'a GivenSubCluster,
    faults: &'a mut Vec<ConfigError>,
}

impl Resolver<'_> {
    fn sub_cluster(&mut self, max_age: Duration) -> SubClusterConfig {
        let name = self.name();
        let (servers, by_url, is_tls) = self.servers();
        let identity = self.identity(by_url);
        let tls = self.tls(is_tls, &servers);
        let replicas = self.number("replicas", (1, REPLICAS_MAX.into())).unwrap_or(1);
        let max_age = self.number("max_age_s", MAX_AGE_S).map_or(max_age, Duration::from_secs);
        SubClusterConfig {
            name,
            servers,
            identity,
            tls,
            replicas: u8::try_from(replicas).expect("at most REPLICAS_MAX"),
            max_bytes: self.number("max_bytes", MAX_BYTES),
            max_age,
            duplicate_window: self.duplicate_window(max_age),
        }
    }

    fn name(&mut self) -> String {
        let expected = format!("1 to {SUB_CLUSTER_NAME_BYTES_MAX} letters, digits, - and _");
        let name = self.given.values.get("name").map_or("", |written| &written.text);
        if !is_name(name, SUB_CLUSTER_NAME_BYTES_MAX) {
            self.fault_at("name", &expected);
        }
        name.to_owned()
    }

    /// The servers, the identity that their URLs carry, and whether they want TLS.
    fn servers(&mut self) -> (Vec<NatsServer>, NatsIdentity, bool) {
        let mut servers = Vec::with_capacity(self.given.servers.len());
        let mut identity: Option<NatsIdentity> = None;
        let mut is_tls = None;
        for written in &self.given.servers {
            let mut fault = |expected| {
                let text = server_url::redacted(&written.text);
                self.faults.push(fault("servers", &text, expected, written.origin));
            };
            let Some(url) = ServerUrl::parse(&written.text) else {
                fault(server_url::EXPECTED);
                continue;
            };
            if servers.contains(&url.server) {
                fault("each server once");
            }
            if identity.as_ref().is_some_and(|first| *first != url.identity) {
                fault("the same user, password or token as the other servers of the sub-cluster");
            }
            if is_tls.is_some_and(|first| first != url.is_tls) {
                fault("tls:// at all servers of the sub-cluster, or at none");
            }
            identity.get_or_insert(url.identity);
            is_tls.get_or_insert(url.is_tls);
            servers.push(url.server);
        }
        let origin = self.given.origin;
        if self.given.servers.is_empty() {
            let expected = "at least one server";
            self.faults.push(fault("servers", "", expected, origin));
        }
        if servers.len() > NATS_SERVERS_MAX {
            let expected = format!("at most {NATS_SERVERS_MAX} servers, not {}", servers.len());
            self.faults.push(fault("servers", "", &expected, origin));
        }
        (servers, identity.unwrap_or(NatsIdentity::None), is_tls.unwrap_or_default())
    }

    /// The one identity that is given.
    fn identity(&mut self, by_url: NatsIdentity) -> NatsIdentity {
        let value = |key: &str| self.given.values.get(key).map(|written| written.text.clone());
        let mut found = Vec::new();
        if by_url != NatsIdentity::None {
            found.push(("servers", by_url));
        }
        match (value("user"), value("password")) {
            (None, None) => {}
            (Some(user), Some(password)) => {
                found.push(("user", NatsIdentity::Password { user, password }));
            }
            (Some(_), None) => self.fault_at("user", "a password with it"),
            (None, Some(_)) => self.fault_at("password", "a user with it"),
        }
        if let Some(token) = value("token") {
            found.push(("token", NatsIdentity::Token(token)));
        }
        let files: [(_, fn(&Path) -> _); 2] =
            [("nkey_seed_file", identity::nkey), ("creds_file", identity::creds)];
        for (key, read) in files {
            let Some(path) = value(key) else { continue };
            match read(Path::new(&path)) {
                Ok(identity) => found.push((key, identity)),
                Err(expected) => self.fault_at(key, &expected),
            }
        }
        let mut found = found.into_iter();
        let Some((first, identity)) = found.next() else { return NatsIdentity::None };
        if let Some((second, _)) = found.next() {
            let expected = format!("one identity, but {first} is given, too");
            self.fault_at(second, &expected);
        }
        identity
    }

    /// How connections are protected, if they are.
    fn tls(&mut self, is_tls: bool, servers: &[NatsServer]) -> Option<NatsTls> {
        let value = |key: &str| self.given.values.get(key).map(|written| written.text.clone());
        let (ca, cert) = (value("ca_file"), value("client_certificate_file"));
        let (key, first) = (value("client_key_file"), value("tls_first"));
        if !is_tls {
            for key in TLS_KEYS.iter().filter(|key| self.given.values.contains_key(**key)) {
                self.fault_at(key, "servers with tls:// with it");
            }
            return None;
        }
        let client = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                Some(CertificateFiles { cert: cert.into(), key: key.into() })
            }
            (Some(_), None) => {
                self.fault_at("client_certificate_file", "client_key_file with it");
                None
            }
            (None, Some(_)) => {
                self.fault_at("client_key_file", "client_certificate_file with it");
                None
            }
        };
        let is_first = first.as_deref() == Some("true");
        match NatsTls::load(ca.map(Into::into), client, is_first, servers) {
            Ok(tls) => Some(tls),
            Err(faults) => {
                for fault in faults {
                    let key = fault.key.trim_start_matches("nats.");
                    let key = TLS_KEYS.iter().find(|known| **known == key);
                    self.fault_at(key.expect("a key of TLS"), &fault.expected);
                }
                None
            }
        }
    }

    fn duplicate_window(&mut self, max_age: Duration) -> Duration {
        let max_s = max_age.as_secs().min(DUPLICATE_WINDOW_S_MAX);
        let window = self.number("duplicate_window_s", (1, max_s));
        match window {
            Some(seconds) => Duration::from_secs(seconds),
            None => DUPLICATE_WINDOW_DEFAULT.min(max_age),
        }
    }

    fn number(&mut self, key: &'static str, (min, max): (u64, u64)) -> Option<u64> {
        let written = self.given.values.get(key)?;
        let number = parse_number(&written.text, min, max);
        if number.is_none() {
            self.fault_at(key, &format!("a whole number from {min} to {max}"));
        }
        number
    }

    /// A fault of the value of `key`, or of its absence. Secrets are not repeated.
    fn fault_at(&mut self, key: &'static str, expected: &str) {
        let (text, origin) = match self.given.values.get(key) {
            Some(written) if may_be_secret(key) => ("***", written.origin),
            Some(written) => (written.text.as_str(), written.origin),
            None => ("", self.given.origin),
        };
        self.faults.push(fault(key, text, expected, origin));
    }
}

fn fault(key: &str, text: &str, expected: &str, origin: Origin) -> ConfigError {
    ConfigError {
        key: format!("nats.{key}"),
        value: if text.is_empty() { String::new() } else { format!("{text:?}") },
        expected: expected.to_owned(),
        origin,
    }
}
