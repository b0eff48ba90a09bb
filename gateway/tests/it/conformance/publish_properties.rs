//! Properties of a PUBLISH, from publisher to subscriber. Source: MQTT 5.0 §3.3.2.3.

use super::exchange::{ACCEPTED_V3, ACCEPTED_V5, check, check_received, listener, open};
use crate::sim::{SimClient, SimNode};
use std::time::Duration;

#[track_caller]
fn publisher(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01p", ACCEPTED_V5)
}

/// `sent` at QoS 0 reaches a subscriber as it is.
#[track_caller]
fn check_forwarded(sent: &[u8]) {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let publisher = publisher(&mut node);
    check(&mut node, publisher, sent, &[]);
    check_received(&mut node, listener, &[sent]);
}

/// MQTT 5.0 [MQTT-3.3.2-4].
#[test]
fn payload_format_indicator_is_forwarded() {
    check_forwarded(b"\x30\x07\0\x01a\x02\x01\0\xFF");
    check_forwarded(b"\x30\x0A\0\x01a\x02\x01\x01text");
}

/// MQTT 5.0 [MQTT-3.3.2-15].
#[test]
fn response_topic_is_forwarded() {
    check_forwarded(b"\x30\x0E\0\x01a\x09\x08\0\x06re/ply!");
}

/// MQTT 5.0 [MQTT-3.3.2-16].
#[test]
fn correlation_data_is_forwarded() {
    check_forwarded(b"\x30\x0B\0\x01a\x06\x09\0\x03\xFF\0\x01!");
    check_forwarded(b"\x30\x08\0\x01a\x03\x09\0\0!");
}

/// MQTT 5.0 [MQTT-3.3.2-20].
#[test]
fn content_type_is_forwarded() {
    check_forwarded(b"\x30\x12\0\x01a\x0D\x03\0\x0Atext/plain!");
}

/// MQTT 5.0 [MQTT-3.3.2-17] [MQTT-3.3.2-18]: names may repeat.
#[test]
fn user_properties_are_forwarded_in_order() {
    check_forwarded(b"\x30\x26\0\x01a\x21\x26\0\x01b\0\x011\x26\0\x01a\0\x012\x26\0\x01b\0\x011\x26\0\0\0\0\x26\0\x01a\0\x011!");
    check_forwarded(b"\x30\x28\0\x01a\x23\x26\0\x01b\0\x011\x03\0\x01t\x26\0\x01a\0\x012\x08\0\x01r\x26\0\x01b\0\x013\x09\0\x01c\x01\x01!");
}

/// MQTT 5.0 [MQTT-3.3.2-17] [MQTT-3.3.2-18]: also behind properties that are the server's.
#[test]
fn user_properties_keep_their_order_when_others_change() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let publisher = publisher(&mut node);
    let sent = b"\x30\x22\0\x01a\x1D\x26\0\x01b\0\x011\x23\0\x01\x26\0\x01a\0\x012\x02\0\0\0\x09\x26\0\x01b\0\x013!";
    check(&mut node, publisher, sent, &[]);
    let expected =
        b"\x30\x1F\0\x01a\x1A\x02\0\0\0\x09\x26\0\x01b\0\x011\x26\0\x01a\0\x012\x26\0\x01b\0\x013!";
    check_received(&mut node, listener, &[expected]);
}

/// MQTT 5.0 [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]: stored
/// messages keep them too: QoS 1, QoS 2, retained, and for a session that was away.
#[test]
fn stored_messages_keep_their_properties() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    node.drop_connection(client);
    let first =
        b"\x32\x1C\0\x01a\0\x01\x15\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x01c\x26\0\x01k\0\x01v1";
    check(&mut node, publisher, first, &[b"\x40\x02\0\x01"]);
    let second = b"\x35\x19\0\x01a\0\x02\x12\x26\0\x01k\0\x012\x26\0\x01k\0\x011\x09\0\x01c2";
    check(&mut node, publisher, second, &[b"\x50\x02\0\x02"]);
    let client = node.connect();
    node.send(client, connect);
    let received = node.take(client);
    let expected = [
        super::exchange::RESUMED_V5,
        b"\x32\x1C\0\x01a\0\x01\x15\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x01c\x26\0\x01k\0\x01v1",
        b"\x34\x19\0\x01a\0\x02\x12\x26\0\x01k\0\x012\x26\0\x01k\0\x011\x09\0\x01c2",
    ];
    assert_eq!(received, expected.concat(), "{}", received.escape_ascii());
    let retained = b"\x31\x17\0\x01a\x12\x26\0\x01k\0\x012\x26\0\x01k\0\x011\x09\0\x01c2";
    check(&mut node, publisher, b"\x82\x07\0\x03\0\0\x01a\0", &[b"\x90\x04\0\x03\0\0", retained]);
}

/// MQTT 3.1.1 §3.3.2 has no properties: a subscriber of that version gets the message without.
#[test]
fn properties_stay_away_from_older_versions() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let v3 = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    check(&mut node, v3, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    check(
        &mut node,
        publisher,
        b"\x32\x13\0\x01a\0\x01\x0C\x26\0\x01k\0\x01v\x02\0\0\0\x09!",
        &[b"\x40\x02\0\x01"],
    );
    check_received(&mut node, v3, &[b"\x32\x06\0\x01a\0\x01!"]);
}

/// MQTT 5.0 [MQTT-3.3.2-5] [MQTT-3.3.2-6]: for a session that was away.
#[test]
fn the_expiry_interval_shrinks_while_a_message_waits() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\x03\x84\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x01", &[b"\x90\x04\0\x01\0\x01"]);
    node.drop_connection(client);
    check(&mut node, publisher, b"\x32\x0C\0\x01a\0\x01\x05\x02\0\0\0\x0A1", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x32\x0C\0\x01a\0\x02\x05\x02\0\0\0\x642", &[b"\x40\x02\0\x02"]);
    check(&mut node, publisher, b"\x32\x07\0\x01a\0\x03\x003", &[b"\x40\x02\0\x03"]);
    node.advance(Duration::from_secs(30));
    let client = node.connect();
    let expected: &[&[u8]] = &[
        super::exchange::RESUMED_V5,
        b"\x32\x0C\0\x01a\0\x01\x05\x02\0\0\0\x462",
        b"\x32\x07\0\x01a\0\x02\x003",
    ];
    check(&mut node, client, connect, expected);
}

/// MQTT 5.0 [MQTT-3.3.2-6]: what did not wait keeps its interval.
#[test]
fn the_expiry_interval_is_forwarded() {
    check_forwarded(b"\x30\x0A\0\x01a\x05\x02\0\0\0\x0A!");
    check_forwarded(b"\x30\x0A\0\x01a\x05\x02\xFF\xFF\xFF\xFF!");
}

/// MQTT 5.0 [MQTT-3.3.2-5] [MQTT-3.3.2-6], §3.3.1.3: retained messages expire, and age.
#[test]
fn retained_messages_expire() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    check(&mut node, publisher, b"\x31\x0A\0\x01a\x05\x02\0\0\0\x0A!", &[]);
    node.advance(Duration::from_secs(4));
    let aged = b"\x31\x0A\0\x01a\x05\x02\0\0\0\x06!";
    check(&mut node, publisher, b"\x82\x07\0\x01\0\0\x01a\0", &[b"\x90\x04\0\x01\0\0", aged]);
    node.advance(Duration::from_secs(6));
    check(&mut node, publisher, b"\x82\x07\0\x02\0\0\x01a\0", &[b"\x90\x04\0\x02\0\0"]);
}

/// MQTT 5.0 [MQTT-3.3.2-5] [MQTT-3.3.2-6]: behind a full window, too.
#[test]
fn messages_expire_behind_a_full_window() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\x01\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x01", &[b"\x90\x04\0\x01\0\x01"]);
    check(&mut node, publisher, b"\x32\x07\0\x01a\0\x01\x001", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x32\x0C\0\x01a\0\x02\x05\x02\0\0\0\x052", &[b"\x40\x02\0\x02"]);
    check(&mut node, publisher, b"\x32\x0C\0\x01a\0\x03\x05\x02\0\0\0\x0A3", &[b"\x40\x02\0\x03"]);
    check_received(&mut node, client, &[b"\x32\x07\0\x01a\0\x01\x001"]);
    node.advance(Duration::from_secs(6));
    check(&mut node, client, b"\x40\x02\0\x01", &[b"\x32\x0C\0\x01a\0\x02\x05\x02\0\0\0\x043"]);
}
