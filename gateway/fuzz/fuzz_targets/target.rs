//! What both targets do with their input.

use gateway::proto::mqtt::{DecodeContext, Role};

use crate::bodies::{VERSIONS, decodes, splitting_changes_nothing};

/// Reads `input` in every version: its front as one packet, and all of it as a stream that
/// arrives byte by byte.
pub(crate) fn run(input: &[u8], role: Role) {
    for version in VERSIONS {
        for maximum_packet_size in [u32::MAX, SMALL_PACKET_BYTES] {
            let context = DecodeContext { version, maximum_packet_size, role };
            decodes(input, context);
            splitting_changes_nothing(input, 0..input.len(), context);
        }
    }
}

/// A Maximum Packet Size that inputs of a fuzzer reach.
const SMALL_PACKET_BYTES: u32 = 16;
