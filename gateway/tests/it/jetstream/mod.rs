//! Gateways in front of real JetStream servers: what clients rely on, and what faults must not
//! change of it.

mod device;
mod party;
mod proxy;
mod ring_site;
mod ring_steps;
mod site;
mod upgrade;

mod backend;
mod delivery;
mod domain;
mod events;
mod gateway_killed;
mod lame_duck;
mod link_cut;
mod offline;
mod permissions;
mod replicas;
mod restored;
mod retained;
mod ring_change;
mod ring_groups;
mod ring_killed;
mod ring_replicas;
mod server_killed;
mod shared_sessions;
mod tenants;
mod tls;
mod uplink;
mod wills;
