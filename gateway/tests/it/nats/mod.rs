//! What the gateway says to NATS and understands of it, checked against a real nats-server.

mod control;
mod jetstream;
mod mapping;
pub(crate) mod server;
