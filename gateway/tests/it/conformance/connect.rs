//! CONNECT. Source: MQTT 5.0 §3.1; MQTT 3.1.1 §3.1; MQTT 3.1 §3.1.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, RESUMED_V5, check, check_ended, check_ends, check_received, listener,
    node_with, open,
};
use crate::sim::SimNode;
use gateway::proto::limits::Limits;
use std::time::Duration;

/// MQTT 5.0 [MQTT-3.1.0-1]; MQTT 3.1.1 [MQTT-3.1.0-1].
#[test]
fn another_first_packet_closes_the_connection() {
    let firsts: [&[u8]; 9] = [
        b"\x30\x04\0\x01a!",
        b"\x40\x02\0\x01",
        b"\x50\x02\0\x01",
        b"\x62\x02\0\x01",
        b"\x70\x02\0\x01",
        b"\x82\x06\0\x01\0\x01a\0",
        b"\xC0\0",
        b"\xE0\0",
        b"\xF0\x06\x18\x04\x15\0\x01m",
    ];
    for first in firsts {
        let mut node = SimNode::new();
        let client = node.connect();
        check_ends(&mut node, client, first, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.1.0-2]; MQTT 3.1.1 [MQTT-3.1.0-2].
#[test]
fn second_connect_is_a_protocol_error() {
    let mut node = SimNode::new();
    let connect = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V3);
    check_ends(&mut node, client, connect, &[]);

    let connect = b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c";
    let client = open(&mut node, connect, ACCEPTED_V5);
    check_ends(&mut node, client, connect, &[b"\xE0\x01\x82"]);
}

/// MQTT 5.0 §3.1.4: a server gives a connection that stays silent a reasonable time.
#[test]
fn without_connect_the_connection_is_closed() {
    let mut node = SimNode::new();
    let client = node.connect();
    node.send(client, b"\x10\x0D\0\x04MQTT\x04");
    node.advance(Duration::from_secs(9));
    check_received(&mut node, client, &[]);
    node.advance(Duration::from_secs(2));
    check_ended(&mut node, client, &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-1] [MQTT-3.1.2-2]; MQTT 3.1.1 [MQTT-3.1.2-1] [MQTT-3.1.2-2].
#[test]
fn an_unknown_version_is_refused_in_the_form_of_the_nearest() {
    let refusals: [(&[u8], &[&[u8]]); 6] = [
        (b"\x10\x0D\0\x04MQTT\x03\x02\0\0\0\x01c", &[b"\x20\x02\0\x01"]),
        (b"\x10\x0D\0\x04MQTT\0\x02\0\0\0\x01c", &[b"\x20\x02\0\x01"]),
        (b"\x10\x0F\0\x06MQIsdp\x04\x02\0\0\0\x01c", &[b"\x20\x02\0\x01"]),
        (b"\x10\x0E\0\x04MQTT\x06\x02\0\0\0\0\x01c", &[b"\x20\x03\0\x84\0"]),
        (b"\x10\x0D\0\x04mqtt\x04\x02\0\0\0\x01c", &[]),
        (b"\x10\x0E\0\x04HTTP\x05\x02\0\0\0\0\x01c", &[]),
    ];
    for (connect, connack) in refusals {
        let mut node = SimNode::new();
        let client = node.connect();
        check_ends(&mut node, client, connect, connack);
    }
}

/// MQTT 3.1 §3.1: the version before 3.1.1 names itself differently.
#[test]
fn mqisdp_is_accepted_as_3_1() {
    let mut node = SimNode::new();
    let client = open(&mut node, b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01c", ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    check(&mut node, client, b"\x30\x04\0\x01a!", &[b"\x30\x04\0\x01a!"]);
}

/// MQTT 5.0 [MQTT-3.1.4-5]; MQTT 3.1.1 [MQTT-3.1.4-4].
#[test]
fn a_valid_connect_is_answered_with_success() {
    let mut node = SimNode::new();
    open(&mut node, b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a", ACCEPTED_V3);
    open(&mut node, b"\x10\x19\0\x04MQTT\x04\xC2\0\x3C\0\x01b\0\x04user\0\x04pass", ACCEPTED_V3);
    open(&mut node, b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01c", ACCEPTED_V5);
    open(
        &mut node,
        b"\x10\x21\0\x04MQTT\x05\xC2\0\x3C\x07\x26\0\x01k\0\x01v\0\x01d\0\x04user\0\x04pass",
        ACCEPTED_V5,
    );
}

/// MQTT 5.0 §3.1.4: clients need not wait for CONNACK.
#[test]
fn packets_behind_connect_are_answered_behind_connack() {
    let mut node = SimNode::new();
    let client = node.connect();
    let sent = [&b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01c"[..], b"\xC0\0", b"\x32\x06\0\x01a\0\x01!"]
        .concat();
    check(&mut node, client, &sent, &[ACCEPTED_V3, b"\xD0\0", b"\x40\x02\0\x01"]);
    let client = node.connect();
    let sent =
        [&b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01d"[..], b"\xC0\0", b"\x32\x07\0\x01a\0\x01\0!"]
            .concat();
    check(&mut node, client, &sent, &[ACCEPTED_V5, b"\xD0\0", b"\x40\x02\0\x01"]);
}

/// MQTT 5.0 [MQTT-3.1.3-5]; MQTT 3.1.1 [MQTT-3.1.3-5].
#[test]
fn letters_and_digits_are_a_client_id() {
    let mut node = SimNode::new();
    for id in [
        b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x010" as &[u8],
        b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01z",
    ] {
        open(&mut node, id, ACCEPTED_V3);
    }
    open(&mut node, b"\x10\x23\0\x04MQTT\x04\x02\0\0\0\x170123456789abcdefghijklm", ACCEPTED_V3);
    open(&mut node, b"\x10\x23\0\x04MQTT\x04\x02\0\0\0\x17nopqrstuvwxyzABCDEFGHIJ", ACCEPTED_V3);
    open(&mut node, b"\x10\x24\0\x04MQTT\x05\x02\0\0\0\0\x170123456789abcdefghijklm", ACCEPTED_V5);
    open(&mut node, b"\x10\x24\0\x04MQTT\x05\x02\0\0\0\0\x17KLMNOPQRSTUVWXYZ0123456", ACCEPTED_V5);
}

/// MQTT 5.0 §3.1.3.1; MQTT 3.1.1 §3.1.3.1: longer ones, of other characters, are allowed too.
#[test]
fn a_long_client_id_is_one_like_any_other() {
    let mut node = SimNode::new();
    let mut connect = b"\x10\xF2\xD4\x03\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\xEA\x60".to_vec();
    connect.resize(connect.len() + 60_000, b'/');
    let client = open(&mut node, &connect, ACCEPTED_V5);
    check(&mut node, client, b"\x34\x07\0\x01a\0\x01\0!", &[b"\x50\x02\0\x01"]);
    node.drop_connection(client);
    let client = open(&mut node, &connect, RESUMED_V5);
    check(&mut node, client, b"\x62\x02\0\x01", &[b"\x70\x02\0\x01"]);
}

const ASSIGNED_ID_BYTES: usize = 37;

/// Connects with an empty client id and a session of a minute; returns the id it is given.
#[track_caller]
fn assigned_id(node: &mut SimNode, connect: &[u8]) -> Vec<u8> {
    let client = node.connect();
    let connack = node.exchange(client, connect);
    let (head, id) = connack.split_at(connack.len() - ASSIGNED_ID_BYTES);
    let expected = b"\x20\x36\0\0\x33\x21\x04\0\x27\0\x10\0\0\x22\0\x20\x12\0\x25";
    assert_eq!(head, expected, "{}", connack.escape_ascii());
    id.to_vec()
}

/// MQTT 5.0 [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16].
#[test]
fn an_empty_client_id_is_replaced_by_one_of_its_own() {
    let mut node = SimNode::new();
    let first = assigned_id(&mut node, b"\x10\x12\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x3C\0\0");
    let second = assigned_id(&mut node, b"\x10\x12\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\0");
    assert_ne!(first, second);

    let connect = [&b"\x10\x37\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x25"[..], &first].concat();
    open(&mut node, &connect, RESUMED_V5);
}

/// MQTT 3.1.1 [MQTT-3.1.3-6].
#[test]
fn clients_without_id_are_told_apart() {
    let mut node = SimNode::new();
    let connect = b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0";
    let clients = [open(&mut node, connect, ACCEPTED_V3), open(&mut node, connect, ACCEPTED_V3)];
    for client in clients {
        check(&mut node, client, b"\x82\x06\0\x01\0\x01a\0", &[b"\x90\x03\0\x01\0"]);
    }
    node.send(clients[0], b"\x30\x04\0\x01a!");
    for client in clients {
        check_received(&mut node, client, &[b"\x30\x04\0\x01a!"]);
    }
}

/// MQTT 3.1.1 [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-4] [MQTT-3.2.2-5]; MQTT 3.1 §3.1.
#[test]
fn an_empty_client_id_is_refused_where_a_session_is_to_be_kept() {
    let mut node = SimNode::new();
    let client = node.connect();
    check_ends(&mut node, client, b"\x10\x0C\0\x04MQTT\x04\0\0\0\0\0", &[b"\x20\x02\0\x02"]);
    let client = node.connect();
    check_ends(&mut node, client, b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0", &[b"\x20\x02\0\x02"]);
}

/// MQTT 5.0 [MQTT-3.1.4-2] [MQTT-3.1.4-6] [MQTT-3.2.2-7]; MQTT 3.1.1 [MQTT-3.1.4-5].
#[test]
fn nothing_behind_a_refused_connect_is_processed() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let client = node.connect();
    let sent = [&b"\x10\x0C\0\x04MQTT\x04\0\0\0\0\0"[..], b"\x30\x04\0\x01a!", b"\xC0\0"].concat();
    check_ends(&mut node, client, &sent, &[b"\x20\x02\0\x02"]);
    check_received(&mut node, listener, &[]);

    let client = node.connect();
    let sent = [
        &b"\x10\x12\0\x04MQTT\x05\x02\0\0\x04\x15\0\x01m\0\x01c"[..],
        b"\x30\x05\0\x01a\0!",
        b"\xC0\0",
    ]
    .concat();
    check_ends(&mut node, client, &sent, &[b"\x20\x03\0\x8C\0"]);
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.1.4-2]; MQTT 3.1.1 [MQTT-3.2.2-6].
#[test]
fn a_refusal_without_return_code_only_closes() {
    let limits = Limits { topic_levels_max: 2, ..Limits::default() };
    let mut node = node_with(limits);
    let client = node.connect();
    check_ends(
        &mut node,
        client,
        b"\x10\x1A\0\x04MQTT\x04\x06\0\0\0\x01c\0\x05a/b/c\0\x04gone",
        &[],
    );
    let client = node.connect();
    let connect = b"\x10\x1C\0\x04MQTT\x05\x06\0\0\0\0\x01c\0\0\x05a/b/c\0\x04gone";
    check_ends(&mut node, client, connect, &[b"\x20\x03\0\x90\0"]);
}

/// MQTT 5.0 [MQTT-3.2.2-6]: the client has a session, and is refused for another reason.
#[test]
fn a_refusal_says_nothing_of_the_session() {
    let mut node = SimNode::new();
    let client =
        open(&mut node, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c", ACCEPTED_V5);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    let client = node.connect();
    let connect = b"\x10\x17\0\x04MQTT\x05\0\0\0\x09\x11\0\0\0\x3C\x15\0\x01m\0\x01c";
    check_ends(&mut node, client, connect, &[b"\x20\x03\0\x8C\0"]);
    open(&mut node, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c", RESUMED_V5);
}
