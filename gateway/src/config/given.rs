//! What was given, before anything is decided: values as they were written, and where.

use std::collections::BTreeMap;

use super::error::Origin;
use super::nats::GivenSubCluster;

/// A value as it was written, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// One table of an array of tables with single values only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenTable {
    /// Where it begins.
    pub(super) origin: Origin,
    pub(super) values: BTreeMap<&'static str, Written>,
}

/// Everything one source gave. `None` and "not in the map" mean "not given here".
///
/// The command line and the file each make one; [`Given::over`] puts the former over the latter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// Single values by key, without the limits.
    pub(super) settings: BTreeMap<&'static str, Written>,
    /// Lists by key; one that was given may be empty.
    pub(super) lists: BTreeMap<&'static str, Vec<Written>>,
    pub(super) nats: Option<Vec<GivenSubCluster>>,
    /// `[[tls_certificates]]`.
    pub(super) certificates: Option<Vec<GivenTable>>,
    /// `[[tenant]]`.
    pub(super) tenants: Option<Vec<GivenTable>>,
    /// Limits by key, without the `limits.` in front.
    pub(super) limits: BTreeMap<&'static str, Written>,
}

/// The keys of single values, and the kind of each in a file.
pub(super) const SETTINGS: &[(&str, Kind)] = &[
    ("data", Kind::Text),
    ("shards", Kind::Number),
    ("durability", Kind::Text),
    ("sync_interval_ms", Kind::Number),
    ("allow_anonymous", Kind::Truth),
    ("log", Kind::Text),
    ("log_format", Kind::Text),
    ("server_reference", Kind::Text),
    ("sys_interval_s", Kind::Number),
    ("admin", Kind::Text),
    ("admin_token_file", Kind::Text),
    ("sessions", Kind::Text),
    ("gateway_id", Kind::Text),
    ("password_file", Kind::Text),
    ("acl_file", Kind::Text),
    ("sessions_bound_to_user", Kind::Truth),
    ("client_id_is_user_name", Kind::Truth),
    ("jwt_key_file", Kind::Text),
    ("jwt_algorithm", Kind::Text),
    ("jwt_jwks_file", Kind::Text),
    ("jwt_user_claim", Kind::Text),
    ("jwt_client_id_claim", Kind::Text),
    ("jwt_mountpoint_claim", Kind::Text),
    ("jwt_issuer", Kind::Text),
    ("jwt_audience", Kind::Text),
    ("tls_cert", Kind::Text),
    ("tls_key", Kind::Text),
    ("tls_client_ca", Kind::Text),
    ("tls_client_cert", Kind::Text),
    ("tls_client_identity", Kind::Text),
    ("tls_min_version", Kind::Text),
    ("tls_ticket_keys", Kind::Text),
    ("http_auth_url", Kind::Text),
    ("http_auth_ca_file", Kind::Text),
    ("http_auth_token_file", Kind::Text),
];

/// The keys of lists. In a file each is one string or an array of strings.
pub(super) const LISTS: &[&str] = &[
    "listen",
    "subscribe_refused",
    "auth_methods",
    "banned_client_ids",
    "banned_users",
    "banned_addresses",
    "tls_client_crl",
    "balancers",
    "websocket_origins",
    "events",
    "uplink",
];

/// What a value must be in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Truth,
}

impl Given {
    /// `self`, with `below` where `self` says nothing. A list is taken whole from one of them.
    pub(super) fn over(mut self, below: Self) -> Self {
        for (key, value) in below.settings {
            self.settings.entry(key).or_insert(value);
        }
        for (key, list) in below.lists {
            self.lists.entry(key).or_insert(list);
        }
        for (key, value) in below.limits {
            self.limits.entry(key).or_insert(value);
        }
        self.nats = self.nats.or(below.nats);
        self.certificates = self.certificates.or(below.certificates);
        self.tenants = self.tenants.or(below.tenants);
        self
    }
}
