//! Enhanced authentication where it is not on offer; `scram.rs` is where it is. Source: MQTT 5.0
//! §3.15, §4.12.

use super::exchange::{ACCEPTED_V3, ACCEPTED_V5, check, check_ends, open};
use crate::sim::SimNode;

/// MQTT 5.0 [MQTT-4.12.0-1].
#[test]
fn an_authentication_method_is_refused() {
    let mut node = SimNode::new();
    for connect in [
        b"\x10\x1C\0\x04MQTT\x05\x02\0\0\x0E\x15\0\x0BSCRAM-SHA-1\0\x01c" as &[u8],
        b"\x10\x20\0\x04MQTT\x05\x02\0\0\x12\x15\0\x0BSCRAM-SHA-1\x16\0\x01n\0\x01c",
        b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x15\0\0\0\x01c",
        b"\x10\x1E\0\x04MQTT\x05\x02\0\0\x10\x15\0\x0DSCRAM-SHA-256\0\x01c",
    ] {
        let client = node.connect();
        check_ends(&mut node, client, connect, &[b"\x20\x03\0\x8C\0"]);
    }
}

/// MQTT 5.0 [MQTT-4.12.0-6]: the answers are CONNACK without a method, SUBACK, PINGRESP, and no AUTH.
#[test]
fn a_client_without_method_gets_no_auth() {
    let mut node = SimNode::new();
    let client = open(
        &mut node,
        b"\x10\x1A\0\x04MQTT\x05\xC2\0\0\0\0\x01c\0\x04user\0\x04pass",
        ACCEPTED_V5,
    );
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\0", &[b"\x90\x04\0\x01\0\0"]);
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
}

/// MQTT 5.0 §4.12.1 allows AUTH only to a client that named a method; 3.1.1 has no such packet.
#[test]
fn auth_without_method_is_a_protocol_error() {
    let mut node = SimNode::new();
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5);
    check_ends(&mut node, client, b"\xF0\x06\x19\x04\x15\0\x01m", &[b"\xE0\x01\x82"]);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    check_ends(&mut node, client, b"\xF0\x06\x19\x04\x15\0\x01m", &[]);
}
