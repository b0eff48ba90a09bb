//! What the control thread is told at start.

use crate::config::{Config, NatsIdentity, SUB_CLUSTER_NAME_BYTES_MAX, Sessions};
use crate::proto::bridge::ring_table::RingTable;
use crate::upstream::jetstream::ShardReport;
use crate::upstream::jetstream::link::Identity;
use std::sync::Arc;

/// A sub-cluster is to the control thread what was configured.
pub use crate::config::SubClusterConfig as SubClusterSettings;

/// What the control thread is told at start.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// In the names of its connections.
    pub gateway_id: String,
    /// At least one, no name twice.
    pub sub_clusters: Vec<SubClusterSettings>,
    /// What each member keeps beside messages and retained ones.
    pub extras: Extras,
    /// What each shard says of the ring.
    pub reports: Arc<[Arc<ShardReport>]>,
    /// Another process of the same gateway runs, and may go on if this one does not.
    pub is_successor: bool,
}

/// What is kept at a member, or said there, only if it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Sessions are in JetStream, too.
    pub sessions: bool,
    /// Some topics are for applications only.
    pub uplink: bool,
    /// Applications are told of clients.
    pub events: bool,
}

impl From<&Config> for ControlSettings {
    fn from(config: &Config) -> Self {
        Self {
            gateway_id: config.gateway_id.clone(),
            sub_clusters: config.nats.clone(),
            extras: Extras {
                sessions: config.sessions == Sessions::Shared,
                uplink: !config.uplink.is_empty(),
                events: !config.events.is_empty(),
            },
            is_successor: false,
            reports: (0..config.shards).map(|_| Arc::default()).collect(),
        }
    }
}

impl TryFrom<&NatsIdentity> for Identity {
    type Error = nkeys::error::Error;

    /// The same identity, for a link. What the configuration resolved to cannot fail.
    fn try_from(identity: &NatsIdentity) -> Result<Self, Self::Error> {
        Ok(match identity {
            NatsIdentity::None => Self::None,
            NatsIdentity::Password { user, password } => {
                Self::Password { user: user.clone(), password: password.clone() }
            }
            NatsIdentity::Token(token) => Self::Token(token.clone()),
            NatsIdentity::Nkey { seed, .. } => Self::Nkey(nkeys::KeyPair::from_seed(seed)?),
            NatsIdentity::Creds { jwt, seed, .. } => {
                let key = nkeys::KeyPair::from_seed(seed)?;
                Self::Creds { jwt: jwt.clone(), key }
            }
        })
    }
}

const _: () = assert!(SUB_CLUSTER_NAME_BYTES_MAX == RingTable::SUB_CLUSTER_BYTES_MAX);
