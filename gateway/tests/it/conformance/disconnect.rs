//! DISCONNECT, both ways. Source: MQTT 5.0 §3.14, §4.13; MQTT 3.1.1 §3.14, §4.8.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, check, check_ended, check_ends, check_received, listener, open,
};
use crate::sim::{SimNode, SimSettings};
use gateway::upstream::embedded::log::Durability;

/// MQTT 5.0 §3.14.4; MQTT 3.1.1 §3.14.4: the server closes if the client does not, and what comes
/// behind is not processed.
#[test]
fn the_connection_of_a_client_that_disconnects_is_closed() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    check_ends(&mut node, client, b"\xE0\0\xC0\0\x30\x04\0\x01a!", &[]);
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5);
    check_ends(&mut node, client, b"\xE0\0\xC0\0\x30\x05\0\x01a\0!", &[]);
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.14.4-2] [MQTT-4.13.2-1]: the reason is named, then the connection is closed.
#[test]
fn a_fault_is_named_before_the_connection_is_closed() {
    let faults: [(&[u8], &[u8]); 13] = [
        // Malformed: QoS 3, a property that does not exist, flags, a string that is no UTF-8.
        (b"\x36\x07\0\x01a\0\x01\0!", b"\xE0\x01\x81"),
        (b"\x30\x07\0\x01a\x02\x7F\0!", b"\xE0\x01\x81"),
        (b"\x80\x07\0\x01\0\0\x01a\0", b"\xE0\x01\x81"),
        (b"\x30\x05\0\x01\xFF\0!", b"\xE0\x01\x81"),
        (b"\0\0", b"\xE0\x01\x81"),
        // Protocol errors: packets that only a server sends, properties that do not belong there.
        (b"\x20\x03\0\0\0", b"\xE0\x01\x82"),
        (b"\xD0\0", b"\xE0\x01\x82"),
        (b"\x90\x04\0\x01\0\0", b"\xE0\x01\x82"),
        (b"\x30\x09\0\x01a\x04\x01\0\x01\0!", b"\xE0\x01\x82"),
        (b"\x30\x07\0\x01a\x02\x0B\x01!", b"\xE0\x01\x82"),
        (b"\x32\x07\0\x01a\0\0\0!", b"\xE0\x01\x82"),
        (b"\x82\x03\0\x01\0", b"\xE0\x01\x82"),
        // A wildcard in a topic name.
        (b"\x30\x07\0\x03a/#\0!", b"\xE0\x01\x90"),
    ];
    for (sent, goodbye) in faults {
        let mut node = SimNode::new();
        let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5);
        check_ends(&mut node, client, sent, &[goodbye]);
    }
}

/// MQTT 3.1.1 §4.8: a server of that version closes without a word.
#[test]
fn before_5_a_fault_only_closes() {
    let faults: [&[u8]; 8] = [
        b"\x36\x06\0\x01a\0\x01!",
        b"\x80\x06\0\x01\0\x01a\0",
        b"\x30\x04\0\x01\xFF!",
        b"\0\0",
        b"\xF0\0",
        b"\x20\x02\0\0",
        b"\x82\x02\0\x01",
        b"\x30\x06\0\x03a/#!",
    ];
    for sent in faults {
        let mut node = SimNode::new();
        let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
        check_ends(&mut node, client, sent, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.14.4-1]: no PUBLISH, no acknowledgement, nothing.
#[test]
fn nothing_follows_the_disconnect_of_the_server() {
    let mut node = SimNode::new();
    let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    // One read: messages of its own that it subscribes to, a SUBSCRIBE that has to be recorded, and
    // a fault.
    let sent = [
        &b"\x82\x07\0\x02\0\0\x01x\0"[..],
        b"\x32\x07\0\x01a\0\x01\0!",
        b"\x34\x07\0\x01a\0\x02\0!",
        b"\xD0\0",
    ];
    check_ends(&mut node, client, &sent.concat(), &[b"\xE0\x01\x82"]);
    let publisher = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    assert_eq!(node.take(client), b"");
}

/// MQTT 5.0 [MQTT-3.14.4-1] [MQTT-3.1.4-3]: the older connection hears nothing after 0x8E, also of
/// what is being stored.
#[test]
fn nothing_follows_a_takeover() {
    let mut node =
        SimNode::with(SimSettings { durability: Durability::Fsync, ..Default::default() });
    let connect = b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c";
    let older = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, older, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    node.holds_io = true;
    check(&mut node, older, b"\x32\x07\0\x01a\0\x01\0!", &[]);
    check(&mut node, older, b"\x34\x07\0\x01a\0\x02\0!", &[]);
    let newer = node.connect();
    node.send(newer, connect);
    check_ended(&mut node, older, &[b"\xE0\x01\x8E"]);
    while node.perform_one() {}
    assert_eq!(node.take(older), b"");
    assert_eq!(node.take(newer), ACCEPTED_V5);
}

/// MQTT 5.0 [MQTT-3.14.0-1]: no DISCONNECT, and no answer to a CONNECT that never came.
#[test]
fn the_end_of_the_node_is_told_to_connected_clients_only() {
    let mut node = SimNode::new();
    let v5 = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5);
    let v3 = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01d", ACCEPTED_V3);
    let silent = node.connect();
    let half = node.connect();
    check(&mut node, half, b"\x10\x0E\0\x04MQTT\x05", &[]);
    node.shutdown();
    check_ended(&mut node, v5, &[b"\xE0\x01\x8B"]);
    check_ended(&mut node, v3, &[]);
    check_ended(&mut node, silent, &[]);
    check_ended(&mut node, half, &[]);
}

/// MQTT 5.0 [MQTT-3.14.0-1] [MQTT-3.2.2-7]: before CONNACK, a fault is answered in CONNACK or not at
/// all.
#[test]
fn before_connack_there_is_no_disconnect() {
    for (connect, expected) in [
        (
            b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x15\0\x01m\0\x01c" as &[u8],
            &[b"\x20\x03\0\x8C\0" as &[u8]] as &[&[u8]],
        ),
        (b"\x10\x0E\0\x04MQTT\x05\x03\0\0\0\0\x01c", &[]),
        (b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\x01c", &[]),
        (b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01c", &[]),
        (b"\xE0\0", &[]),
    ] {
        let mut node = SimNode::new();
        let client = node.connect();
        check_ends(&mut node, client, connect, expected);
    }
}
