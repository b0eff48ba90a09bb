//! PINGREQ and PINGRESP. Source: MQTT 5.0 §3.12, §3.13; MQTT 3.1.1 §3.12, §3.13.

use super::exchange::{ACCEPTED_V3, ACCEPTED_V5, check, open};
use crate::sim::SimNode;

/// MQTT 5.0 [MQTT-3.12.4-1]; MQTT 3.1.1 [MQTT-3.12.4-1].
#[test]
fn pingreq_is_answered_with_pingresp() {
    let mut node = SimNode::new();
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a", ACCEPTED_V3);
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01b", ACCEPTED_V5);
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
    check(&mut node, client, b"\xC0\0\xC0\0", &[b"\xD0\0", b"\xD0\0"]);
}
