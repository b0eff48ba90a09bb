//! The gateway as others meet it: the binary, real sockets, real clients.

mod access;
mod backup;
pub(crate) mod clients;
pub(crate) mod configuration;
pub(crate) mod gateway;
mod greedy;
pub(crate) mod hostile;
pub(crate) mod http_auth;
pub(crate) mod mosquitto;
mod quotas;
pub(crate) mod raw_client;
pub(crate) mod rust_client;
mod scram;
mod sessions;
mod stopping;
pub(crate) mod tenants;
pub(crate) mod tools;

/// Shard counts every client is tried with: alone, and with sessions and messages that cross.
pub(crate) const SHARD_COUNTS: [&str; 2] = ["1", "2"];
