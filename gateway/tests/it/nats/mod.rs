//! What the gateway says to NATS and understands of it, checked against a real nats-server.

mod jetstream;
mod mapping;
mod server;
