//! RETAIN. Source: MQTT 5.0 §3.3.1.3, §3.8.3.1; MQTT 3.1.1 §3.3.1.3.

use super::exchange::{ACCEPTED_V3, ACCEPTED_V5, check, check_received, open};
use crate::sim::{SimClient, SimNode};

#[track_caller]
fn client_v3(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x11\0\x04MQTT\x04\x02\0\0\0\x05three", ACCEPTED_V3)
}

#[track_caller]
fn client_v5(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x11\0\x04MQTT\x05\x02\0\0\0\0\x04five", ACCEPTED_V5)
}

const SUBACK_V3: &[u8] = b"\x90\x03\0\x01\x02";
const SUBACK_V5: &[u8] = b"\x90\x04\0\x01\0\x02";

/// A new subscription of each version to `#` at QoS 2 gets these retained messages.
#[track_caller]
fn check_retained(node: &mut SimNode, v3: &[&[u8]], v5: &[&[u8]]) {
    let client = client_v3(node);
    check(node, client, b"\x82\x06\0\x01\0\x01#\x02", &[&[SUBACK_V3], v3].concat());
    let client = client_v5(node);
    check(node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[&[SUBACK_V5], v5].concat());
}

/// MQTT 5.0 [MQTT-3.3.1-5] [MQTT-3.3.1-9]; MQTT 3.1.1 [MQTT-3.3.1-5] [MQTT-3.3.1-6]
/// [MQTT-3.3.1-8]: the last message of each topic, with the QoS it was published with.
#[test]
fn stored_with_their_qos_and_replaced() {
    let mut node = SimNode::new();
    let publisher = client_v3(&mut node);
    check(&mut node, publisher, b"\x31\x04\0\x01a0", &[]);
    check_retained(&mut node, &[b"\x31\x04\0\x01a0"], &[b"\x31\x05\0\x01a\x000"]);
    let publisher = client_v3(&mut node);
    check(&mut node, publisher, b"\x33\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check_retained(&mut node, &[b"\x33\x06\0\x01a\0\x01!"], &[b"\x33\x07\0\x01a\0\x01\0!"]);
    let publisher = client_v5(&mut node);
    check(&mut node, publisher, b"\x35\x07\0\x01a\0\x02\x002", &[b"\x50\x02\0\x02"]);
    check_retained(&mut node, &[b"\x35\x06\0\x01a\0\x012"], &[b"\x35\x07\0\x01a\0\x01\x002"]);
}

/// MQTT 3.1.1 [MQTT-3.3.1-7]. MQTT 5.0 §3.3.1.3 treats every QoS alike.
#[test]
fn qos_0_replaces_too() {
    let mut node = SimNode::new();
    let publisher = client_v3(&mut node);
    check(&mut node, publisher, b"\x33\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x31\x04\0\x01a0", &[]);
    check_retained(&mut node, &[b"\x31\x04\0\x01a0"], &[b"\x31\x05\0\x01a\x000"]);
}

/// MQTT 5.0 [MQTT-3.3.1-6] [MQTT-3.3.1-7]; MQTT 3.1.1 [MQTT-3.3.1-10] [MQTT-3.3.1-11].
#[test]
fn an_empty_message_removes_and_is_delivered() {
    let mut node = SimNode::new();
    for clear in [b"\x31\x03\0\x01a" as &[u8], b"\x33\x05\0\x01a\0\x01"] {
        let publisher = client_v3(&mut node);
        let subscriber = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01s", ACCEPTED_V3);
        check(&mut node, subscriber, b"\x82\x06\0\x01\0\x01a\0", &[b"\x90\x03\0\x01\0"]);
        node.send(publisher, b"\x31\x04\0\x01a!");
        check_received(&mut node, subscriber, &[b"\x30\x04\0\x01a!"]);
        node.send(publisher, clear);
        check_received(&mut node, subscriber, &[b"\x30\x03\0\x01a"]);
        check_retained(&mut node, &[], &[]);
    }
    let publisher = client_v5(&mut node);
    check(&mut node, publisher, b"\x31\x05\0\x01a\0!", &[]);
    check(&mut node, publisher, b"\x31\x0B\0\x01a\x07\x26\0\x01k\0\x01v", &[]);
    check_retained(&mut node, &[], &[]);
}

/// MQTT 5.0 [MQTT-3.3.1-8]; MQTT 3.1.1 [MQTT-3.3.1-12].
#[test]
fn without_the_flag_nothing_changes() {
    let mut node = SimNode::new();
    let publisher = client_v3(&mut node);
    check(&mut node, publisher, b"\x30\x04\0\x01b!", &[]);
    check(&mut node, publisher, b"\x31\x04\0\x01a0", &[]);
    check(&mut node, publisher, b"\x30\x04\0\x01a!", &[]);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x32\x05\0\x01a\0\x02", &[b"\x40\x02\0\x02"]);
    check(&mut node, publisher, b"\x30\x03\0\x01a", &[]);
    check_retained(&mut node, &[b"\x31\x04\0\x01a0"], &[b"\x31\x05\0\x01a\x000"]);
}

/// MQTT 5.0 [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11].
#[test]
fn retain_handling_says_when_they_are_sent() {
    let mut node = SimNode::new();
    let client = client_v5(&mut node);
    check(&mut node, client, b"\x31\x05\0\x01a\0!", &[]);
    let retained: &[u8] = b"\x31\x05\0\x01a\0!";
    let suback: &[u8] = b"\x90\x04\0\x01\0\0";
    // Handling 2, new and known.
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x20", &[suback]);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x20", &[suback]);
    // Handling 1, known and new.
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x10", &[suback]);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01+\x10", &[suback, retained]);
    // Handling 0, known and new.
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\0", &[suback, retained]);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\0", &[suback, retained]);
    // Unsubscribed, it is new again.
    check(&mut node, client, b"\xA2\x06\0\x01\0\0\x01a", &[b"\xB0\x04\0\x01\0\0"]);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x10", &[suback, retained]);
}

/// MQTT 3.1.1 [MQTT-3.3.1-6] [MQTT-3.3.1-8]: a repeated subscription gets them again.
#[test]
fn every_subscribe_of_3_1_1_gets_them() {
    let mut node = SimNode::new();
    let client = client_v3(&mut node);
    check(&mut node, client, b"\x31\x04\0\x01a!", &[]);
    for _ in 0..2 {
        check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x02", &[SUBACK_V3, b"\x31\x04\0\x01a!"]);
    }
}

/// MQTT 5.0 [MQTT-3.3.1-12]; MQTT 3.1.1 [MQTT-3.3.1-9].
#[test]
fn the_flag_is_cleared_for_existing_subscriptions() {
    let mut node = SimNode::new();
    let v3 = client_v3(&mut node);
    check(&mut node, v3, b"\x82\x06\0\x01\0\x01#\x02", &[SUBACK_V3]);
    let v5 = client_v5(&mut node);
    check(&mut node, v5, b"\x82\x07\0\x01\0\0\x01#\x02", &[SUBACK_V5]);
    let publisher = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3);
    node.send(publisher, b"\x31\x04\0\x01a0");
    node.send(publisher, b"\x33\x06\0\x01a\0\x01!");
    check_received(&mut node, v3, &[b"\x30\x04\0\x01a0", b"\x32\x06\0\x01a\0\x01!"]);
    check_received(&mut node, v5, &[b"\x30\x05\0\x01a\x000", b"\x32\x07\0\x01a\0\x01\0!"]);
}

/// MQTT 5.0 [MQTT-3.3.1-13].
#[test]
fn retain_as_published_keeps_the_flag() {
    let mut node = SimNode::new();
    let v5 = client_v5(&mut node);
    check(&mut node, v5, b"\x82\x07\0\x01\0\0\x01#\x0A", &[SUBACK_V5]);
    let publisher = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3);
    for publish in [
        b"\x31\x04\0\x01a0" as &[u8],
        b"\x30\x04\0\x01a0",
        b"\x33\x06\0\x01a\0\x01!",
        b"\x32\x06\0\x01a\0\x01!",
    ] {
        node.send(publisher, publish);
    }
    let expected: &[&[u8]] = &[
        b"\x31\x05\0\x01a\x000",
        b"\x30\x05\0\x01a\x000",
        b"\x33\x07\0\x01a\0\x01\0!",
        b"\x32\x07\0\x01a\0\x02\0!",
    ];
    check_received(&mut node, v5, expected);
}

/// MQTT 5.0 [MQTT-3.3.1-12] [MQTT-3.3.1-13]: also for what waited while the session was away.
#[test]
fn the_flag_of_stored_messages_follows_the_subscription() {
    for (options, expected) in [
        (b"\x82\x07\0\x01\0\0\x01#\x02", b"\x32\x07\0\x01a\0\x01\0!"),
        (b"\x82\x07\0\x01\0\0\x01#\x0A", b"\x33\x07\0\x01a\0\x01\0!"),
    ] {
        let mut node = SimNode::new();
        let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
        let client = open(&mut node, connect, ACCEPTED_V5);
        check(&mut node, client, options, &[SUBACK_V5]);
        node.drop_connection(client);
        let publisher = client_v3(&mut node);
        check(&mut node, publisher, b"\x33\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
        let client = node.connect();
        check(&mut node, client, connect, &[super::exchange::RESUMED_V5, expected]);
    }
}
