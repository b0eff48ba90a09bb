//! Topic aliases. Source: MQTT 5.0 §3.1.2.11.5, §3.2.2.3.8, §3.3.2.3.4.

use super::exchange::{ACCEPTED_V5, RESUMED_V5, check, check_ends, check_received, listener, open};
use crate::sim::{SimClient, SimNode};

#[track_caller]
fn publisher(node: &mut SimNode) -> SimClient {
    open(node, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01p", ACCEPTED_V5)
}

/// MQTT 5.0 [MQTT-3.3.2-12]: 1 to the 32 of CONNACK; the last topic sent with one counts.
#[test]
fn aliases_of_a_client_are_accepted() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let publisher = publisher(&mut node);
    for (sent, received) in [
        (b"\x30\x08\0\x01a\x03\x23\0\x011" as &[u8], b"\x30\x05\0\x01a\x001" as &[u8]),
        (b"\x30\x07\0\0\x03\x23\0\x012", b"\x30\x05\0\x01a\x002"),
        (b"\x30\x08\0\x01b\x03\x23\0\x203", b"\x30\x05\0\x01b\x003"),
        (b"\x30\x07\0\0\x03\x23\0\x204", b"\x30\x05\0\x01b\x004"),
        (b"\x30\x07\0\0\x03\x23\0\x015", b"\x30\x05\0\x01a\x005"),
        (b"\x30\x08\0\x01c\x03\x23\0\x016", b"\x30\x05\0\x01c\x006"),
        (b"\x30\x07\0\0\x03\x23\0\x017", b"\x30\x05\0\x01c\x007"),
    ] {
        check(&mut node, publisher, sent, &[]);
        check_received(&mut node, listener, &[received]);
    }
    check(&mut node, publisher, b"\x32\x09\0\0\0\x01\x03\x23\0\x20!", &[b"\x40\x02\0\x01"]);
    check_received(&mut node, listener, &[b"\x32\x07\0\x01b\0\x01\0!"]);
}

/// MQTT 5.0 [MQTT-3.3.2-12]: each number up to the maximum can be set.
#[test]
fn every_alias_up_to_the_maximum_is_accepted() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let publisher = publisher(&mut node);
    for alias in 1..=32 {
        let mut set = *b"\x30\x08\0\x01a\x03\x23\0\x01!";
        set[8] = alias;
        check(&mut node, publisher, &set, &[]);
        check_received(&mut node, listener, &[b"\x30\x05\0\x01a\0!"]);
    }
}

/// MQTT 5.0 §3.3.4: above the maximum or 0, reason code 0x94; no topic and never set, 0x82.
#[test]
fn other_aliases_end_the_connection() {
    for (sent, disconnect) in [
        (b"\x30\x08\0\x01a\x03\x23\0\x21!" as &[u8], b"\xE0\x01\x94"),
        (b"\x30\x08\0\x01a\x03\x23\xFF\xFF!", b"\xE0\x01\x94"),
        (b"\x30\x08\0\x01a\x03\x23\0\0!", b"\xE0\x01\x94"),
        (b"\x30\x07\0\0\x03\x23\0\x02!", b"\xE0\x01\x82"),
        (b"\x30\x07\0\0\x03\x23\0\x21!", b"\xE0\x01\x94"),
    ] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let publisher = publisher(&mut node);
        check_ends(&mut node, publisher, sent, &[disconnect]);
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 §3.3.2.1: an empty topic needs an alias.
#[test]
fn an_empty_topic_without_alias_is_a_protocol_error() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    check_ends(&mut node, publisher, b"\x30\x04\0\0\0!", &[b"\xE0\x01\x82"]);
}

/// MQTT 5.0 [MQTT-3.3.2-7]: both ways, although the session goes on.
#[test]
fn aliases_end_with_the_connection() {
    let mut node = SimNode::new();
    let connect = b"\x10\x16\0\x04MQTT\x05\0\0\0\x08\x11\0\0\0\x3C\x22\0\x05\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\0", &[b"\x90\x04\0\x01\0\0"]);
    check(
        &mut node,
        client,
        b"\x30\x08\0\x01a\x03\x23\0\x011",
        &[b"\x30\x08\0\x01a\x03\x23\0\x011"],
    );
    check(&mut node, client, b"\x30\x07\0\0\x03\x23\0\x012", &[b"\x30\x07\0\0\x03\x23\0\x012"]);
    node.drop_connection(client);
    let client = open(&mut node, connect, RESUMED_V5);
    check(&mut node, client, b"\x30\x05\0\x01a\x003", &[b"\x30\x08\0\x01a\x03\x23\0\x013"]);
    check_ends(&mut node, client, b"\x30\x07\0\0\x03\x23\0\x014", &[b"\xE0\x01\x82"]);

    // Taken over, without a moment offline.
    let client = open(&mut node, connect, RESUMED_V5);
    check(
        &mut node,
        client,
        b"\x30\x08\0\x01a\x03\x23\0\x015",
        &[b"\x30\x08\0\x01a\x03\x23\0\x015"],
    );
    let newer = open(&mut node, connect, RESUMED_V5);
    check(&mut node, newer, b"\x30\x05\0\x01a\x006", &[b"\x30\x08\0\x01a\x03\x23\0\x016"]);
    check_ends(&mut node, newer, b"\x30\x07\0\0\x03\x23\0\x017", &[b"\xE0\x01\x82"]);
}

/// MQTT 5.0 [MQTT-3.1.2-26] [MQTT-3.3.2-11]: no more than the client takes.
#[test]
fn the_server_keeps_to_the_maximum_of_the_client() {
    let mut node = SimNode::new();
    let publisher = publisher(&mut node);
    let connect = b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x22\0\x02\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\0", &[b"\x90\x04\0\x01\0\0"]);
    for (sent, received) in [
        (b"\x30\x05\0\x01a\x001" as &[u8], b"\x30\x08\0\x01a\x03\x23\0\x011" as &[u8]),
        (b"\x30\x05\0\x01b\x002", b"\x30\x08\0\x01b\x03\x23\0\x022"),
        (b"\x30\x05\0\x01c\x003", b"\x30\x05\0\x01c\x003"),
        (b"\x30\x05\0\x01a\x004", b"\x30\x07\0\0\x03\x23\0\x014"),
        (b"\x30\x05\0\x01c\x005", b"\x30\x05\0\x01c\x005"),
        (b"\x30\x05\0\x01b\x006", b"\x30\x07\0\0\x03\x23\0\x026"),
    ] {
        check(&mut node, publisher, sent, &[]);
        check_received(&mut node, client, &[received]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-27]: absent, and 0.
#[test]
fn without_a_maximum_the_server_uses_no_alias() {
    for connect in [
        b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c" as &[u8],
        b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x22\0\0\0\x01c",
    ] {
        let mut node = SimNode::new();
        let publisher = publisher(&mut node);
        let client = open(&mut node, connect, ACCEPTED_V5);
        check(&mut node, client, b"\x82\x07\0\x01\0\0\x01#\0", &[b"\x90\x04\0\x01\0\0"]);
        for _ in 0..3 {
            check(&mut node, publisher, b"\x30\x05\0\x01a\0!", &[]);
            check_received(&mut node, client, &[b"\x30\x05\0\x01a\0!"]);
        }
    }
}
