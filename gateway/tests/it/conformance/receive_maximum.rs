//! Receive Maximum. Source: MQTT 5.0 §3.1.2.11.3, §3.2.2.3.3, §3.3.4, §4.9.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, check, check_ends, check_received, node_with, open,
};
use crate::sim::{SimClient, SimNode};
use gateway::proto::limits::Limits;

/// Client `c` takes two messages at a time, and has everything at QoS 2.
#[track_caller]
fn takes_two(node: &mut SimNode) -> SimClient {
    let connect = b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\x02\0\x01c";
    let client = open(node, connect, ACCEPTED_V5);
    check(node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    client
}

#[track_caller]
fn publisher(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3)
}

/// MQTT 5.0 [MQTT-3.3.4-9]: PUBACK and PUBCOMP make room, PUBREC does not.
#[test]
fn the_server_sends_no_more_than_the_client_takes() {
    let mut node = SimNode::new();
    let client = takes_two(&mut node);
    let publisher = publisher(&mut node);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x34\x06\0\x01b\0\x02!", &[b"\x50\x02\0\x02"]);
    check(&mut node, publisher, b"\x32\x06\0\x01c\0\x03!", &[b"\x40\x02\0\x03"]);
    check(&mut node, publisher, b"\x32\x06\0\x01d\0\x04!", &[b"\x40\x02\0\x04"]);
    check_received(&mut node, client, &[b"\x32\x07\0\x01a\0\x01\0!", b"\x34\x07\0\x01b\0\x02\0!"]);
    check(&mut node, client, b"\x50\x02\0\x02", &[b"\x62\x02\0\x02"]);
    check(&mut node, client, b"\x70\x02\0\x02", &[b"\x32\x07\0\x01c\0\x03\0!"]);
    check(&mut node, client, b"\x40\x02\0\x01", &[b"\x32\x07\0\x01d\0\x04\0!"]);
    check(&mut node, client, b"\x40\x02\0\x04", &[]);
}

/// MQTT 5.0 [MQTT-3.3.4-9]: a refused QoS 2 message makes room at PUBREC.
#[test]
fn a_refusal_makes_room() {
    let mut node = SimNode::new();
    let client = takes_two(&mut node);
    let publisher = publisher(&mut node);
    for (sent, answer) in [
        (b"\x34\x06\0\x01a\0\x01!", b"\x50\x02\0\x01"),
        (b"\x34\x06\0\x01b\0\x02!", b"\x50\x02\0\x02"),
        (b"\x34\x06\0\x01c\0\x03!", b"\x50\x02\0\x03"),
    ] {
        check(&mut node, publisher, sent, &[answer]);
    }
    check_received(&mut node, client, &[b"\x34\x07\0\x01a\0\x01\0!", b"\x34\x07\0\x01b\0\x02\0!"]);
    check(&mut node, client, b"\x50\x03\0\x01\x97", &[b"\x34\x07\0\x01c\0\x03\0!"]);
}

/// MQTT 5.0 [MQTT-3.3.4-10]: nothing but QoS 1 and 2 waits for room.
#[test]
fn a_full_window_delays_nothing_else() {
    let mut node = SimNode::new();
    let client = takes_two(&mut node);
    let publisher = publisher(&mut node);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x34\x06\0\x01b\0\x02!", &[b"\x50\x02\0\x02"]);
    check_received(&mut node, client, &[b"\x32\x07\0\x01a\0\x01\0!", b"\x34\x07\0\x01b\0\x02\0!"]);
    check(&mut node, publisher, b"\x30\x04\0\x01c0", &[]);
    check_received(&mut node, client, &[b"\x30\x05\0\x01c\x000"]);
    check(&mut node, client, b"\xC0\0", &[b"\xD0\0"]);
    check(&mut node, client, b"\x82\x07\0\x02\0\0\x01x\0", &[b"\x90\x04\0\x02\0\0"]);
    check(&mut node, client, b"\xA2\x06\0\x03\0\0\x01x", &[b"\xB0\x04\0\x03\0\0"]);
    check(&mut node, client, b"\x50\x02\0\x02", &[b"\x62\x02\0\x02"]);
}

/// MQTT 5.0 §3.3.4, reason code 0x93: two open QoS 2 exchanges are the most, a third message breaks
/// the protocol, and is not taken.
#[test]
fn a_client_that_sends_more_is_disconnected() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    let mut node = node_with(limits);
    let accepted = b"\x20\x0E\0\0\x0B\x21\0\x02\x27\0\x10\0\0\x22\0\x20";
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", accepted);
    check(&mut node, client, b"\x34\x07\0\x01a\0\x01\0!", &[b"\x50\x02\0\x01"]);
    check(&mut node, client, b"\x34\x07\0\x01a\0\x02\0!", &[b"\x50\x02\0\x02"]);
    // Sent again it is the same message, not one more.
    check(&mut node, client, b"\x3C\x07\0\x01a\0\x02\0!", &[b"\x50\x02\0\x02"]);
    // QoS 0 is not counted.
    check(&mut node, client, b"\x30\x05\0\x01a\0!", &[]);
    check(&mut node, client, b"\x62\x02\0\x01", &[b"\x70\x02\0\x01"]);
    check(&mut node, client, b"\x32\x07\0\x01a\0\x03\0!", &[b"\x40\x02\0\x03"]);
    check(&mut node, client, b"\x34\x07\0\x01a\0\x04\0!", &[b"\x50\x02\0\x04"]);
    check_ends(&mut node, client, b"\x32\x07\0\x01a\0\x05\x005", &[b"\xE0\x01\x93"]);
}

/// MQTT 3.1.1 §3.3 has no such limit: the server may only stop reading, and goes on when it can.
#[test]
fn before_5_a_client_that_sends_more_waits() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    let mut node = node_with(limits);
    let accepted = b"\x20\x0E\0\0\x0B\x21\0\x02\x27\0\x10\0\0\x22\0\x20";
    let subscriber = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01s", accepted);
    check(&mut node, subscriber, b"\x82\x07\0\x01\0\0\x01#\0", &[b"\x90\x04\0\x01\0\0"]);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    let sent = [
        &b"\x32\x06\0\x01a\0\x01\x31"[..],
        b"\x32\x06\0\x01a\0\x02\x32",
        b"\x32\x06\0\x01a\0\x03\x33",
        b"\x32\x06\0\x01a\0\x04\x34",
        b"\x32\x06\0\x01a\0\x05\x35",
    ];
    let answers: &[&[u8]] = &[
        b"\x40\x02\0\x01",
        b"\x40\x02\0\x02",
        b"\x40\x02\0\x03",
        b"\x40\x02\0\x04",
        b"\x40\x02\0\x05",
    ];
    check(&mut node, client, &sent.concat(), answers);
    let delivered: &[&[u8]] = &[
        b"\x30\x05\0\x01a\x001",
        b"\x30\x05\0\x01a\x002",
        b"\x30\x05\0\x01a\x003",
        b"\x30\x05\0\x01a\x004",
        b"\x30\x05\0\x01a\x005",
    ];
    check_received(&mut node, subscriber, delivered);
}

/// MQTT 5.0 [MQTT-3.14.4-1], §3.3.4: QoS 1 counts until PUBACK.
#[test]
fn messages_that_are_being_stored_count() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    let settings = crate::sim::SimSettings {
        limits,
        durability: gateway::upstream::embedded::log::Durability::Fsync,
        ..Default::default()
    };
    let mut node = SimNode::with(settings);
    let accepted = b"\x20\x0E\0\0\x0B\x21\0\x02\x27\0\x10\0\0\x22\0\x20";
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", accepted);
    node.holds_io = true;
    check(&mut node, client, b"\x32\x07\0\x01a\0\x01\0!", &[]);
    check(&mut node, client, b"\x32\x07\0\x01a\0\x02\0!", &[]);
    check_ends(&mut node, client, b"\x32\x07\0\x01a\0\x03\0!", &[b"\xE0\x01\x93"]);
    // What was taken is stored all the same, but nothing follows DISCONNECT.
    while node.perform_one() {}
    assert_eq!(node.take(client), b"");
}
