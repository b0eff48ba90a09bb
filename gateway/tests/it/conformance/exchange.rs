//! What a conformance test says to a simulated node, and what it must hear, packet by packet.
//!
//! Bytes are literal on both sides. Where both versions demand the same, a test plays both.

use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::proto::limits::Limits;

/// CONNACK of 3.1.1: accepted, no session present.
pub(super) const ACCEPTED_V3: &[u8] = b"\x20\x02\0\0";
/// CONNACK of 3.1.1: accepted, session present.
pub(super) const RESUMED_V3: &[u8] = b"\x20\x02\x01\0";
/// CONNACK of 5.0: accepted, no session present; Receive Maximum 1,024, Maximum Packet Size 1 MiB,
/// Topic Alias Maximum 32.
pub(super) const ACCEPTED_V5: &[u8] = b"\x20\x0E\0\0\x0B\x21\x04\0\x27\0\x10\0\0\x22\0\x20";
/// As [`ACCEPTED_V5`], session present.
pub(super) const RESUMED_V5: &[u8] = b"\x20\x0E\x01\0\x0B\x21\x04\0\x27\0\x10\0\0\x22\0\x20";

/// A node with other limits than the usual.
pub(super) fn node_with(limits: Limits) -> SimNode {
    SimNode::with(SimSettings { limits, ..SimSettings::default() })
}

/// A new connection, on which `connect` is answered by `connack` alone.
#[track_caller]
pub(super) fn open(node: &mut SimNode, connect: &[u8], connack: &[u8]) -> SimClient {
    let client = node.connect();
    check(node, client, connect, &[connack]);
    client
}

/// A client of 5.0 subscribed to everything at QoS 2, retain as published.
#[track_caller]
pub(super) fn listener(node: &mut SimNode) -> SimClient {
    let connect = b"\x10\x15\0\x04MQTT\x05\x02\0\0\0\0\x08listener";
    let client = open(node, connect, ACCEPTED_V5);
    check(node, client, b"\x82\x07\0\x01\0\0\x01#\x0A", &[b"\x90\x04\0\x01\0\x02"]);
    client
}

/// `sent` is answered by exactly these packets, and the connection stays.
#[track_caller]
pub(super) fn check(node: &mut SimNode, client: SimClient, sent: &[u8], expected: &[&[u8]]) {
    node.send(client, sent);
    check_received(node, client, expected);
}

/// Exactly these packets have come since the last look, and the connection stays.
#[track_caller]
pub(super) fn check_received(node: &mut SimNode, client: SimClient, expected: &[&[u8]]) {
    compare(&node.take(client), expected);
    assert!(!node.is_closed(client), "the connection was closed");
}

/// `sent` is answered by exactly these packets, and then the connection is closed.
#[track_caller]
pub(super) fn check_ends(node: &mut SimNode, client: SimClient, sent: &[u8], expected: &[&[u8]]) {
    node.send(client, sent);
    check_ended(node, client, expected);
}

/// Exactly these packets have come since the last look, and then the connection was closed.
#[track_caller]
pub(super) fn check_ended(node: &mut SimNode, client: SimClient, expected: &[&[u8]]) {
    compare(&node.take(client), expected);
    assert!(node.is_closed(client), "the connection was not closed");
}

#[track_caller]
fn compare(received: &[u8], expected: &[&[u8]]) {
    let expected = expected.concat();
    assert_eq!(
        received,
        expected,
        "\nreceived {}\nexpected {}",
        received.escape_ascii(),
        expected.escape_ascii()
    );
}
