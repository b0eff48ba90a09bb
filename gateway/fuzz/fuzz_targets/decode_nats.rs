//! Any bytes, read as a client of a NATS server reads them.
#![no_main]

#[path = "../../tests/it/properties/nats_bodies.rs"]
mod nats_bodies;

use gateway::proto::nats::DecodeLimits;
use libfuzzer_sys::fuzz_target;
use nats_bodies::{SMALL, splitting_changes_nothing};

fuzz_target!(|input: &[u8]| {
    for limits in [SMALL, DecodeLimits::default()] {
        splitting_changes_nothing(input, 0..input.len(), &limits);
    }
});
