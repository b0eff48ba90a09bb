//! The gateway's integration tests: one binary, so one link and shared helpers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod admin;
mod allocations;
mod codec;
mod conformance;
mod engine;
mod jetstream;
mod kill;
mod limits;
mod nats;
mod packets;
mod process;
mod properties;
mod scram;
mod sim;
mod simulation;
mod sources;
mod tidy;
mod transports;
mod upgrade;
