//! PUBLISH: flags, topic, answers, overlapping subscriptions. Source: MQTT 5.0 §3.3; MQTT 3.1.1
//! §3.3.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, RESUMED_V3, RESUMED_V5, check, check_ends, check_received, listener,
    node_with, open,
};
use crate::sim::{SimClient, SimNode};
use gateway::proto::limits::Limits;

/// A publisher of each version.
#[track_caller]
fn publishers(node: &mut SimNode) -> (SimClient, SimClient) {
    let v3 = open(node, b"\x10\x0E\0\x04MQTT\x04\x02\0\0\0\x02p3", ACCEPTED_V3);
    let v5 = open(node, b"\x10\x0F\0\x04MQTT\x05\x02\0\0\0\0\x02p5", ACCEPTED_V5);
    (v3, v5)
}

/// MQTT 5.0 [MQTT-3.3.1-3]; MQTT 3.1.1 [MQTT-3.3.1-3].
#[test]
fn dup_is_not_propagated() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let (v3, v5) = publishers(&mut node);
    check(&mut node, v3, b"\x3A\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check_received(&mut node, listener, &[b"\x32\x07\0\x01a\0\x01\0!"]);
    check(&mut node, v5, b"\x3A\x07\0\x01a\0\x01\0!", &[b"\x40\x02\0\x01"]);
    check_received(&mut node, listener, &[b"\x32\x07\0\x01a\0\x02\0!"]);
    check(&mut node, v5, b"\x3C\x07\0\x01a\0\x02\0!", &[b"\x50\x02\0\x02"]);
    check_received(&mut node, listener, &[b"\x34\x07\0\x01a\0\x03\0!"]);
}

/// MQTT 5.0 [MQTT-3.3.1-1] [MQTT-3.3.1-3]; MQTT 3.1.1 [MQTT-3.3.1-1] [MQTT-3.3.1-3]: it came with
/// DUP 0, and goes out again with DUP 1.
#[test]
fn dup_is_set_on_every_further_attempt() {
    let mut node = SimNode::new();
    let (publisher, _) = publishers(&mut node);
    let connect = b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01#\x02", &[b"\x90\x03\0\x01\x02"]);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x34\x06\0\x01b\0\x02!", &[b"\x50\x02\0\x02"]);
    check_received(&mut node, client, &[b"\x32\x06\0\x01a\0\x01!", b"\x34\x06\0\x01b\0\x02!"]);
    node.drop_connection(client);
    for _ in 0..2 {
        let client = node.connect();
        let again: &[&[u8]] = &[RESUMED_V3, b"\x3A\x06\0\x01a\0\x01!", b"\x3C\x06\0\x01b\0\x02!"];
        check(&mut node, client, connect, again);
        node.drop_connection(client);
    }

    let mut node = SimNode::new();
    let (publisher, _) = publishers(&mut node);
    let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\x02", &[b"\x90\x04\0\x01\0\x02"]);
    check(&mut node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check(&mut node, publisher, b"\x34\x06\0\x01b\0\x02!", &[b"\x50\x02\0\x02"]);
    check_received(&mut node, client, &[b"\x32\x07\0\x01a\0\x01\0!", b"\x34\x07\0\x01b\0\x02\0!"]);
    node.drop_connection(client);
    for _ in 0..2 {
        let client = node.connect();
        let again: &[&[u8]] =
            &[RESUMED_V5, b"\x3A\x07\0\x01a\0\x01\0!", b"\x3C\x07\0\x01b\0\x02\0!"];
        check(&mut node, client, connect, again);
        node.drop_connection(client);
    }
}

/// MQTT 5.0 [MQTT-3.3.4-1]; MQTT 3.1.1 [MQTT-3.3.4-1].
#[test]
fn answered_as_its_qos_demands() {
    let mut node = SimNode::new();
    let (v3, v5) = publishers(&mut node);
    check(&mut node, v3, b"\x30\x04\0\x01a!", &[]);
    check(&mut node, v3, b"\x32\x06\0\x01a\0\x07!", &[b"\x40\x02\0\x07"]);
    check(&mut node, v3, b"\x34\x06\0\x01a\0\x08!", &[b"\x50\x02\0\x08"]);
    check(&mut node, v3, b"\x62\x02\0\x08", &[b"\x70\x02\0\x08"]);
    check(&mut node, v5, b"\x30\x05\0\x01a\0!", &[]);
    check(&mut node, v5, b"\x32\x07\0\x01a\0\x07\0!", &[b"\x40\x02\0\x07"]);
    check(&mut node, v5, b"\x34\x07\0\x01a\0\x08\0!", &[b"\x50\x02\0\x08"]);
    check(&mut node, v5, b"\x62\x02\0\x08", &[b"\x70\x02\0\x08"]);
    // As it receives them: a client answers the QoS it is sent.
    let listener = listener(&mut node);
    check(&mut node, v3, b"\x34\x06\0\x01a\0\x09!", &[b"\x50\x02\0\x09"]);
    check_received(&mut node, listener, &[b"\x34\x07\0\x01a\0\x01\0!"]);
    check(&mut node, listener, b"\x50\x02\0\x01", &[b"\x62\x02\0\x01"]);
    check(&mut node, listener, b"\x70\x02\0\x01", &[]);
}

/// MQTT 5.0 [MQTT-3.3.2-3]; MQTT 3.1.1 [MQTT-3.3.2-3]: the topic is that of the publisher, and only
/// what matches the filter comes.
#[test]
fn the_topic_name_matches_the_filter() {
    let mut node = SimNode::new();
    let v3 = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    check(&mut node, v3, b"\x82\x0A\0\x01\0\x05a/+/c\0", &[b"\x90\x03\0\x01\0"]);
    let v5 = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01d", ACCEPTED_V5);
    check(&mut node, v5, b"\x82\x09\0\x01\0\0\x03a/#\0", &[b"\x90\x04\0\x01\0\0"]);
    for topic in [
        b"\x30\x08\0\x05a/b/c!" as &[u8],
        b"\x30\x08\0\x05a/b/d!",
        b"\x30\x08\0\x05A/b/c!",
        b"\x30\x07\0\x04a//c!",
    ] {
        check_sent(&mut node, topic);
    }
    check_received(&mut node, v3, &[b"\x30\x08\0\x05a/b/c!", b"\x30\x07\0\x04a//c!"]);
    check_received(
        &mut node,
        v5,
        &[b"\x30\x09\0\x05a/b/c\0!", b"\x30\x09\0\x05a/b/d\0!", b"\x30\x08\0\x04a//c\0!"],
    );
}

#[track_caller]
fn check_sent(node: &mut SimNode, publish: &[u8]) {
    let publisher = open(node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3);
    check(node, publisher, publish, &[]);
    check_ends(node, publisher, b"\xE0\0", &[]);
}

/// MQTT 5.0 [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]; MQTT 3.1.1 [MQTT-3.3.5-1]: one copy, with
/// the highest QoS and all identifiers there are.
#[test]
fn overlapping_subscriptions_get_one_copy() {
    let mut node = SimNode::new();
    let (publisher, _) = publishers(&mut node);
    let v3 = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c", ACCEPTED_V3);
    let answer = b"\x90\x05\0\x01\0\x01\x02";
    check(&mut node, v3, b"\x82\x0E\0\x01\0\x01a\0\0\x01+\x01\0\x01b\x02", &[answer]);
    check(&mut node, publisher, b"\x34\x06\0\x01a\0\x01!", &[b"\x50\x02\0\x01"]);
    check_received(&mut node, v3, &[b"\x32\x06\0\x01a\0\x01!"]);
    check_ends(&mut node, v3, b"\xE0\0", &[]);

    let v5 = open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5);
    check(&mut node, v5, b"\x82\x07\0\x01\0\0\x01#\0", &[b"\x90\x04\0\x01\0\0"]);
    check(&mut node, v5, b"\x82\x09\0\x02\x02\x0B\x07\0\x01+\x02", &[b"\x90\x04\0\x02\0\x02"]);
    check(&mut node, v5, b"\x82\x0A\0\x03\x03\x0B\x80\x01\0\x01a\x01", &[b"\x90\x04\0\x03\0\x01"]);
    check(&mut node, v5, b"\x82\x09\0\x04\x02\x0B\x09\0\x01b\x02", &[b"\x90\x04\0\x04\0\x02"]);
    check(&mut node, publisher, b"\x34\x06\0\x01a\0\x02!", &[b"\x50\x02\0\x02"]);
    let received = node.take(v5);
    let orders: [&[u8]; 2] = [
        b"\x34\x0C\0\x01a\0\x01\x05\x0B\x07\x0B\x80\x01!",
        b"\x34\x0C\0\x01a\0\x01\x05\x0B\x80\x01\x0B\x07!",
    ];
    assert!(orders.contains(&&received[..]), "{}", received.escape_ascii());
    // Where one alone matches, its identifier alone comes.
    check(&mut node, publisher, b"\x30\x04\0\x01c!", &[]);
    check_received(&mut node, v5, &[b"\x30\x07\0\x01c\x02\x0B\x07!"]);
    // QoS 0 follows the same rule.
    check(&mut node, publisher, b"\x30\x06\0\x03a/b!", &[]);
    check_received(&mut node, v5, &[b"\x30\x07\0\x03a/b\0!"]);
}

/// MQTT 3.1.1 [MQTT-3.3.5-2]; MQTT 5.0 §3.3.2.1, reason code 0x90.
#[test]
fn a_topic_that_is_not_accepted_ends_the_connection() {
    let limits = Limits { topic_levels_max: 2, ..Limits::default() };
    let mut node = node_with(limits);
    let listener = listener(&mut node);
    let (v3, v5) = publishers(&mut node);
    check_ends(&mut node, v3, b"\x32\x0A\0\x05a/b/c\0\x01!", &[]);
    check_ends(&mut node, v5, b"\x32\x0B\0\x05a/b/c\0\x01\0!", &[b"\xE0\x01\x90"]);
    check_received(&mut node, listener, &[]);
}
