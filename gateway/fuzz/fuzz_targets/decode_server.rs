//! Any bytes, read as a server reads them.
#![no_main]

#[path = "../../tests/it/properties/bodies.rs"]
mod bodies;
mod target;

use gateway::proto::mqtt::Role;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| target::run(input, Role::Server));
