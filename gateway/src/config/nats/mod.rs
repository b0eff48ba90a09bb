//! Sub-clusters of NATS servers, as configured.
//!
//! `given.rs` is what was written, `resolved.rs` makes a [`SubClusterConfig`] of it with the help of
//! `server_url.rs` and `identity.rs`, `show.rs` prints it. No name is looked up and no server asked.

mod given;
mod identity;
mod resolved;
mod server_url;
mod show;
#[cfg(test)]
mod tests;
mod tls;

pub(super) use given::{GivenSubCluster, KEYS, flag, may_be_secret};
pub(super) use resolved::{gateway_id, resolve};
pub(super) use show::write_toml;

pub use tls::NatsTls;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// One sub-cluster: servers that share streams, and what the gateway's streams on it are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubClusterConfig {
    /// Its permanent name: 1 to [`SUB_CLUSTER_NAME_BYTES_MAX`] letters, digits, `-` and `_`.
    pub name: String,
    /// Servers to begin with, 1 to [`NATS_SERVERS_MAX`]; they announce others themselves.
    pub servers: Vec<NatsServer>,
    /// Who the gateway is to all of them.
    pub identity: NatsIdentity,
    /// How connections to all of them are protected: with TLS if their URLs begin with `tls://`.
    pub tls: Option<NatsTls>,
    /// Replicas of each stream, 1 to [`REPLICAS_MAX`]. Default 1.
    pub replicas: u8,
    /// Bytes a stream of messages may keep; then publishers are held. Default no limit.
    pub max_bytes: Option<u64>,
    /// How long messages are kept. Default `limits.retention_age_s`.
    pub max_age: Duration,
    /// How long the server knows the id of a message; not above `max_age`. Default 120 s.
    ///
    /// Cost: about 66 bytes an id, in the server's memory.
    pub duplicate_window: Duration,
}

/// Where a server accepts clients: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsServer {
    /// An IPv4 address, an IPv6 address in brackets, or a DNS name, which is looked up at every
    /// attempt to connect.
    pub host: String,
    /// 1 to 65535, default 4222.
    pub port: u16,
}

/// Who the gateway is to the servers of a sub-cluster. What is secret is not shown.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsIdentity {
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
    Nkey {
        /// Where it was read.
        file: PathBuf,
        /// Its seed, of a user.
        seed: String,
    },
    /// A creds file: a user JWT and its nkey.
    Creds {
        /// Where they were read.
        file: PathBuf,
        /// The JWT.
        jwt: String,
        /// The nkey's seed, of a user.
        seed: String,
    },
}

/// The most sub-clusters. Each has a connection of its own a shard, and one for control.
pub const SUB_CLUSTERS_MAX: usize = 64;
/// The most servers configured for one sub-cluster.
pub const NATS_SERVERS_MAX: usize = 16;
/// The longest name of a sub-cluster, bytes.
pub const SUB_CLUSTER_NAME_BYTES_MAX: usize = 32;
/// The longest id of a gateway, bytes.
pub const GATEWAY_ID_BYTES_MAX: usize = 64;
/// The most replicas JetStream knows.
pub const REPLICAS_MAX: u8 = 5;

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for NatsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Password { user, .. } => write!(f, "Password {{ user: {user:?}, *** }}"),
            Self::Token(_) => f.write_str("Token(***)"),
            Self::Nkey { file, .. } => write!(f, "Nkey {{ file: {file:?}, *** }}"),
            Self::Creds { file, .. } => write!(f, "Creds {{ file: {file:?}, *** }}"),
        }
    }
}
