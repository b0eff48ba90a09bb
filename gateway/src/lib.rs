//! The gateway: millions of MQTT connections in front of an ordered, durable upstream.
//!
//! Reading order: [`config`] decides, [`proto`] thinks, [`auth`] knows who is who, [`upstream`]
//! stores, [`shard`] moves bytes, [`node`] puts them together, [`admin`] shows it to who runs it.
//! `ARCHITECTURE.md` at the top of the repository draws the whole.

pub mod admin;
pub mod auth;
pub mod config;
pub mod logging;
pub mod node;
pub mod proto;
pub mod shard;
pub mod systemd;
pub mod upstream;
