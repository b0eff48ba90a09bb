//! Request Problem Information, Request Response Information. Source: MQTT 5.0 §3.1.2.11.6,
//! §3.1.2.11.7, §3.2.2.3.15.

use super::exchange::{ACCEPTED_V5, check, check_ends, check_received, open};
use crate::sim::SimNode;

/// MQTT 5.0 [MQTT-3.1.2-28]: the gateway has none, so it returns none to whoever asks either.
#[test]
fn response_information_is_not_returned() {
    for connect in [
        b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c" as &[u8],
        b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x19\0\0\x01c",
        b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x19\x01\0\x01c",
    ] {
        let mut node = SimNode::new();
        open(&mut node, connect, ACCEPTED_V5);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-29]: failures come without words; a PUBLISH keeps its user properties.
#[test]
fn without_problem_information_only_publish_has_user_properties() {
    let mut node = SimNode::new();
    let connect = b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x17\0\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(
        &mut node,
        client,
        b"\x82\x12\0\x01\x07\x26\0\x01k\0\x01v\0\x05a/#/b\0",
        &[b"\x90\x04\0\x01\0\x8F"],
    );
    check(
        &mut node,
        client,
        b"\xA2\x0D\0\x02\x07\x26\0\x01k\0\x01v\0\x01a",
        &[b"\xB0\x04\0\x02\0\x11"],
    );
    check(&mut node, client, b"\x62\x0B\0\x03\0\x07\x26\0\x01k\0\x01v", &[b"\x70\x03\0\x03\x92"]);
    check(&mut node, client, b"\x50\x0B\0\x04\0\x07\x26\0\x01k\0\x01v", &[b"\x62\x03\0\x04\x92"]);
    check(&mut node, client, b"\x32\x0E\0\x01a\0\x05\x07\x26\0\x01k\0\x01v!", &[b"\x40\x02\0\x05"]);
    check(&mut node, client, b"\x34\x0E\0\x01a\0\x06\x07\x26\0\x01k\0\x01v!", &[b"\x50\x02\0\x06"]);
    check(&mut node, client, b"\x62\x08\0\x06\0\x04\x1F\0\x01r", &[b"\x70\x02\0\x06"]);
    check(&mut node, client, b"\x82\x07\0\x07\0\0\x01a\0", &[b"\x90\x04\0\x07\0\0"]);
    let publisher = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01p", ACCEPTED_V5);
    check(&mut node, publisher, b"\x30\x0C\0\x01a\x07\x26\0\x01k\0\x01v!", &[]);
    check_received(&mut node, client, &[b"\x30\x0C\0\x01a\x07\x26\0\x01k\0\x01v!"]);
    check_ends(&mut node, client, b"\xD0\0", &[b"\xE0\x01\x82"]);
}

/// MQTT 5.0 §3.1.2.11.6, §3.1.2.11.7: other values than 0 and 1 are protocol errors.
#[test]
fn flags_are_0_or_1() {
    for connect in [
        b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\x01c" as &[u8],
        b"\x10\x10\0\x04MQTT\x05\x02\0\0\x02\x19\x02\0\x01c",
    ] {
        let mut node = SimNode::new();
        let client = node.connect();
        check_ends(&mut node, client, connect, &[]);
    }
}
