//! Maximum Packet Size. Source: MQTT 5.0 §3.1.2.11.4, §3.2.2.3.6.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, RESUMED_V5, check, check_ends, check_received, listener, node_with,
    open,
};
use crate::sim::{SimClient, SimNode};
use gateway::proto::limits::Limits;

/// A client that takes packets of 20 bytes, which holds CONNACK.
const TAKES_20: &[u8] = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\x14\0\x01c";

#[track_caller]
fn publisher(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3)
}

/// MQTT 5.0 [MQTT-3.1.2-24] [MQTT-3.1.2-25]: 20 bytes go, 21 do not, at every QoS, and the window is
/// not used up.
#[test]
fn what_is_too_large_is_dropped_as_if_it_were_sent() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\0\x14\x21\0\x01\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    node.send(publisher, b"\x30\x12\0\x01a123456789012345");
    node.send(publisher, b"\x30\x11\0\x01a12345678901234");
    check_received(&mut node, client, &[b"\x30\x12\0\x01a\x0012345678901234"]);
    check(&mut node, publisher, b"\x32\x12\0\x01a\0\x01aaa4567890123", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x32\x11\0\x01a\0\x02bbb456789012", &[b"\x40\x02\0\x02"]);
    check_received(&mut node, client, &[b"\x32\x12\0\x01a\0\x01\0bbb456789012"]);
    check(&mut node, client, b"\x40\x02\0\x01", &[]);
    check(&mut node, publisher, b"\x34\x12\0\x01a\0\x03ccc4567890123", &[b"\x50\x02\0\x03"]);
    check(&mut node, publisher, b"\x34\x11\0\x01a\0\x04ddd456789012", &[b"\x50\x02\0\x04"]);
    check_received(&mut node, client, &[b"\x34\x12\0\x01a\0\x02\0ddd456789012"]);
}

/// MQTT 5.0 [MQTT-3.1.2-25]: an alias counts where it is sent, and is set by no packet that is not.
#[test]
fn an_alias_is_agreed_on_by_packets_that_are_sent() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\0\x14\x22\0\x05\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\0", &[b"\x90\x04\0\x01\0\0"]);
    node.send(publisher, b"\x30\x12\0\x01a123456789012345");
    check_received(&mut node, client, &[]);
    // Sent in full it fits, with an alias it would not.
    node.send(publisher, b"\x30\x11\0\x01a12345678901234");
    check_received(&mut node, client, &[b"\x30\x12\0\x01a\x0012345678901234"]);
    node.send(publisher, b"\x30\x0C\0\x01a123456789");
    check_received(&mut node, client, &[b"\x30\x10\0\x01a\x03\x23\0\x01123456789"]);
    node.send(publisher, b"\x30\x11\0\x01a12345678901234");
    check_received(&mut node, client, &[b"\x30\x12\0\x01a\x0012345678901234"]);
    node.send(publisher, b"\x30\x0C\0\x01a123456789");
    check_received(&mut node, client, &[b"\x30\x0F\0\0\x03\x23\0\x01123456789"]);
}

/// MQTT 5.0 [MQTT-3.1.2-25]: for other subscribers the message is as good as any.
#[test]
fn other_subscribers_get_it() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let listener = listener(&mut node);
    let client = open(&mut node, TAKES_20, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x01", &[b"\x90\x04\0\x01\0\x01"]);
    check(&mut node, publisher, b"\x32\x13\0\x01a\0\x01long-long-long", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x32\x0A\0\x01a\0\x02short", &[b"\x40\x02\0\x02"]);
    check_received(&mut node, client, &[b"\x32\x0B\0\x01a\0\x01\0short"]);
    let all: &[&[u8]] =
        &[b"\x32\x14\0\x01a\0\x01\0long-long-long", b"\x32\x0B\0\x01a\0\x02\0short"];
    check_received(&mut node, listener, all);
}

/// MQTT 5.0 [MQTT-3.1.2-25]: retained messages, and a window of one they must leave free.
#[test]
fn retained_messages_that_are_too_large_are_skipped() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    check(&mut node, publisher, b"\x33\x13\0\x01a\0\x01long-long-long", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x33\x0A\0\x01b\0\x02short", &[b"\x40\x02\0\x02"]);
    let connect = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\0\x14\x21\0\x01\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    let expected: &[&[u8]] = &[b"\x90\x04\0\x01\0\x01", b"\x33\x0B\0\x01b\0\x01\0short"];
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x01", expected);
}

/// MQTT 5.0 [MQTT-3.1.2-25]: a QoS 2 message of a kept session is found too large only after its
/// exchange was recorded; it must not hold up those behind it.
#[test]
fn a_message_too_large_does_not_stop_those_behind_it() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x1B\0\x04MQTT\x05\0\0\0\x0D\x11\0\0\0\x3C\x27\0\0\0\x14\x21\0\x01\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    node.send(
        publisher,
        &[&b"\x34\x13\0\x01a\0\x01long-long-long"[..], b"\x34\x0A\0\x01a\0\x02short"].concat(),
    );
    check_received(&mut node, client, &[b"\x34\x0B\0\x01a\0\x02\0short"]);
    node.drop_connection(client);
    let client = node.connect();
    check(&mut node, client, connect, &[RESUMED_V5, b"\x3C\x0B\0\x01a\0\x02\0short"]);
}

/// MQTT 5.0 [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.1.2-24]: CONNACK has neither reason string nor
/// user properties; a client that cannot take the rest is told so in five bytes.
#[test]
fn a_client_too_small_for_connack_is_refused() {
    for (connect, expected) in [
        (b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\x10\0\x01c" as &[u8], ACCEPTED_V5),
        (b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\x14\0\x01c", ACCEPTED_V5),
    ] {
        let mut node = SimNode::new();
        open(&mut node, connect, expected);
    }
    for connect in [
        b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\x0F\0\x01c" as &[u8],
        b"\x10\x12\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\x14\0\0",
    ] {
        let mut node = SimNode::new();
        let client = node.connect();
        check_ends(&mut node, client, connect, &[b"\x20\x03\0\x95\0"]);
    }
}

/// MQTT 5.0 [MQTT-3.14.2-3] [MQTT-3.14.2-4]: DISCONNECT explains itself in three bytes.
#[test]
fn disconnect_has_no_room_for_words() {
    let mut node = SimNode::new();
    let client = open(&mut node, TAKES_20, ACCEPTED_V5);
    check_ends(&mut node, client, b"\x30\x04\0\0\0!", &[b"\xE0\x01\x82"]);
}

/// MQTT 5.0 §3.2.2.3.6, reason code 0x95; MQTT 3.1.1 has no words for it. The header is enough.
#[test]
fn a_packet_larger_than_announced_ends_the_connection() {
    let limits = Limits { maximum_packet_size_bytes: 64, ..Limits::default() };
    let mut node = node_with(limits);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    let mut largest = b"\x30\x3E\0\x01a".to_vec();
    largest.resize(64, b'!');
    check(&mut node, client, &largest, &[]);
    check_ends(&mut node, client, b"\x30\x3F\0\x01a", &[]);
    let accepted = b"\x20\x0E\0\0\x0B\x21\x04\0\x27\0\0\0\x40\x22\0\x20";
    let client = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", accepted);
    check_ends(&mut node, client, b"\x30\x3F\0\x01a", &[b"\xE0\x01\x95"]);
}
