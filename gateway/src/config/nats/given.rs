//! A sub-cluster as it was written: by `--nats`, or as a table of `[[nats]]`.

use std::collections::BTreeMap;

use crate::config::error::{ConfigError, Origin};
use crate::config::given::{Kind, Written};

/// What one flag or one table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct GivenSubCluster {
    /// Where it begins.
    pub(in crate::config) origin: Origin,
    /// By the keys of [`KEYS`].
    pub(in crate::config) values: BTreeMap<&'static str, Written>,
    pub(in crate::config) servers: Vec<Written>,
}

/// The keys of a table besides `servers`.
pub(in crate::config) const KEYS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("user", Kind::Text),
    ("password", Kind::Text),
    ("token", Kind::Text),
    ("nkey_seed_file", Kind::Text),
    ("creds_file", Kind::Text),
    ("ca_file", Kind::Text),
    ("client_certificate_file", Kind::Text),
    ("client_key_file", Kind::Text),
    ("tls_first", Kind::Truth),
    ("replicas", Kind::Number),
    ("max_bytes", Kind::Number),
    ("max_age_s", Kind::Number),
    ("duplicate_window_s", Kind::Number),
];

/// Whether the value of a key of `[[nats]]`, with or without `nats.` in front, is not for logs.
pub(in crate::config) fn may_be_secret(key: &str) -> bool {
    matches!(key.strip_prefix("nats.").unwrap_or(key), "password" | "token" | "servers")
}

/// Reads `NAME=URL[,URL...]`. A comma in a password is written `%2C`.
pub(in crate::config) fn flag(
    text: &str,
    faults: &mut Vec<ConfigError>,
) -> Option<GivenSubCluster> {
    let written = |text: &str| Written { text: text.to_owned(), origin: Origin::Flag };
    let Some((name, urls)) = text.split_once('=').filter(|(name, _)| !name.contains("://")) else {
        faults.push(ConfigError {
            key: "nats".to_owned(),
            // It may be a URL with a password: nothing of it is repeated.
            value: "\"***\"".to_owned(),
            expected: "NAME=nats://HOST:PORT or tls://HOST:PORT, and more URLs behind commas"
                .to_owned(),
            origin: Origin::Flag,
        });
        return None;
    };
    Some(GivenSubCluster {
        origin: Origin::Flag,
        values: BTreeMap::from([("name", written(name))]),
        servers: urls.split(',').filter(|url| !url.is_empty()).map(written).collect(),
    })
}
