//! Keep Alive. Source: MQTT 5.0 §3.1.2.10, §3.2.2.3.14; MQTT 3.1.1 §3.1.2.10.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, check, check_ended, check_received, listener, node_with, open,
};
use crate::sim::{SimClient, SimNode};
use gateway::proto::limits::Limits;
use std::time::Duration;

/// A client that was last heard of now lives for `silence` and ends with `expected` soon after.
#[track_caller]
fn check_silence(node: &mut SimNode, client: SimClient, silence: Duration, expected: &[&[u8]]) {
    node.advance(silence - Duration::from_millis(1));
    check_received(node, client, &[]);
    node.advance(Duration::from_secs(1));
    check_ended(node, client, expected);
}

/// MQTT 5.0 [MQTT-3.1.2-22] [MQTT-3.2.2-22]; MQTT 3.1.1 [MQTT-3.1.2-24]. As if the network had
/// failed: the will is published.
#[test]
fn closes_after_one_and_a_half_keep_alives_of_silence() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let connect = b"\x10\x16\0\x04MQTT\x04\x06\0\x0A\0\x01c\0\x01w\0\x04gone";
    let client = open(&mut node, connect, ACCEPTED_V3);
    check_silence(&mut node, client, Duration::from_secs(15), &[]);
    check_received(&mut node, listener, &[b"\x30\x08\0\x01w\0gone"]);

    let connect = b"\x10\x18\0\x04MQTT\x05\x06\0\x0A\0\0\x01c\0\0\x01w\0\x04gone";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check_silence(&mut node, client, Duration::from_secs(15), &[b"\xE0\x01\x8D"]);
    check_received(&mut node, listener, &[b"\x30\x08\0\x01w\0gone"]);
}

/// MQTT 5.0 §3.1.2.10; MQTT 3.1.1 §3.1.2.10: any packet counts, not only PINGREQ.
#[test]
fn every_packet_is_a_sign_of_life() {
    let mut node = SimNode::new();
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01c", ACCEPTED_V3);
    for (sent, answer) in [
        (b"\xC0\0" as &[u8], b"\xD0\0" as &[u8]),
        (b"\x30\x04\0\x01a!", b""),
        (b"\x32\x06\0\x01a\0\x01!", b"\x40\x02\0\x01"),
        (b"\x82\x06\0\x02\0\x01b\0", b"\x90\x03\0\x02\0"),
        (b"\x40\x02\0\x07", b""),
    ] {
        node.advance(Duration::from_secs(14));
        check(&mut node, client, sent, &[answer]);
    }
    check_silence(&mut node, client, Duration::from_secs(15), &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-22]; MQTT 3.1.1 [MQTT-3.1.2-24]: a part of a packet is none.
#[test]
fn a_packet_that_comes_byte_by_byte_is_silence() {
    let mut node = SimNode::new();
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01c", ACCEPTED_V3);
    for byte in b"\x30\x7F\0\x01abcdefghij" {
        node.advance(Duration::from_secs(1));
        check(&mut node, client, &[*byte], &[]);
    }
    check_silence(&mut node, client, Duration::from_secs(1), &[]);
}

/// MQTT 5.0 §3.1.2.10; MQTT 3.1.1 §3.1.2.10.
#[test]
fn keep_alive_0_never_ends() {
    let mut node = SimNode::new();
    let v3 = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01a", ACCEPTED_V3);
    let v5 = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01b", ACCEPTED_V5);
    node.advance(Duration::from_secs(3_600));
    check(&mut node, v3, b"\xC0\0", &[b"\xD0\0"]);
    check(&mut node, v5, b"\xC0\0", &[b"\xD0\0"]);
}

/// MQTT 5.0 §3.2.2.3.14; [MQTT-3.2.2-21] binds the client, the server closes by its own value.
#[test]
fn the_server_may_shorten_the_keep_alive() {
    let limits = Limits { keep_alive_max_s: 10, ..Limits::default() };
    for connect in [
        b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01c" as &[u8],
        b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c",
    ] {
        let mut node = node_with(limits.clone());
        let shortened = b"\x20\x11\0\0\x0E\x21\x04\0\x27\0\x10\0\0\x22\0\x20\x13\0\x0A";
        let client = open(&mut node, connect, shortened);
        check_silence(&mut node, client, Duration::from_secs(15), &[b"\xE0\x01\x8D"]);
    }
    // One that asks for less keeps it; before 5.0 there is no way to say otherwise.
    let mut node = node_with(limits);
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\x04\0\0\x01c", ACCEPTED_V5);
    check_silence(&mut node, client, Duration::from_secs(6), &[b"\xE0\x01\x8D"]);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\x14\0\x01c", ACCEPTED_V3);
    check_silence(&mut node, client, Duration::from_secs(30), &[]);
}
