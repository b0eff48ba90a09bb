//! Sessions: which CONNECT begins, resumes and ends one. Source: MQTT 5.0 §3.1.2.4, §3.1.2.11.2,
//! §3.2.2.1.1, §4.1; MQTT 3.1.1 §3.1.2.4, §3.2.2.2, §4.1.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, RESUMED_V3, RESUMED_V5, check, check_ended, check_ends,
    check_received, node_with, open,
};
use crate::sim::{SimNode, SimSettings};
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::Durability;
use std::time::Duration;

/// Client `c`: a clean session, and a kept one.
const CLEAN_V3: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c";
const KEPT_V3: &[u8] = b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01c";
/// Client `c`: a clean start, or a session resumed, for 60 seconds.
const CLEAN_V5: &[u8] = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x3C\0\x01c";
const KEPT_V5: &[u8] = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
/// Client `c`: a session resumed, that ends with its connection.
const BRIEF_V5: &[u8] = b"\x10\x0E\0\x04MQTT\x05\0\0\0\0\0\x01c";

/// Client `p` publishes `!` to `a` at QoS 1.
#[track_caller]
fn publish(node: &mut SimNode) {
    let publisher = open(node, b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01p", ACCEPTED_V3);
    check(node, publisher, b"\x32\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check_ends(node, publisher, b"\xE0\0", &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.1.4-4] [MQTT-3.2.2-3];
/// MQTT 3.1.1 [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.4-3] [MQTT-3.2.2-2] [MQTT-3.2.2-3].
#[test]
fn a_kept_session_is_resumed_with_what_it_missed() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V3, ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    publish(&mut node);
    let client = node.connect();
    check(&mut node, client, KEPT_V3, &[RESUMED_V3, b"\x32\x06\0\x01a\0\x01!"]);

    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x01", &[b"\x90\x04\0\x01\0\x01"]);
    node.drop_connection(client);
    publish(&mut node);
    let client = node.connect();
    check(&mut node, client, KEPT_V5, &[RESUMED_V5, b"\x32\x07\0\x01a\0\x01\0!"]);
}

/// MQTT 5.0 [MQTT-3.1.2-4] [MQTT-3.1.4-4] [MQTT-3.2.2-2]; MQTT 3.1.1 [MQTT-3.1.2-6] [MQTT-3.1.4-3]
/// [MQTT-3.2.2-1]: the old subscriptions and messages are gone, in memory and in the store.
#[test]
fn a_clean_start_discards_what_was_there() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V3, ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    publish(&mut node);
    let client = open(&mut node, CLEAN_V3, ACCEPTED_V3);
    publish(&mut node);
    check_received(&mut node, client, &[]);

    let mut node = SimNode::new();
    let client = open(&mut node, CLEAN_V5, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x01", &[b"\x90\x04\0\x01\0\x01"]);
    node.drop_connection(client);
    publish(&mut node);
    let client = open(&mut node, CLEAN_V5, ACCEPTED_V5);
    publish(&mut node);
    check_received(&mut node, client, &[]);
    // Clean start is of this CONNECT, the expiry interval of what follows: it is kept.
    node.drop_connection(client);
    let client = open(&mut node, KEPT_V5, RESUMED_V5);
    publish(&mut node);
    check_received(&mut node, client, &[]);
}

/// MQTT 3.1.1 [MQTT-3.1.2-6]: state of a clean session is reused by no later one.
#[test]
fn a_clean_session_leaves_nothing() {
    let mut node = SimNode::new();
    let client = open(&mut node, CLEAN_V3, ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    node.drop_connection(client);
    publish(&mut node);
    let client = open(&mut node, KEPT_V3, ACCEPTED_V3);
    publish(&mut node);
    check_received(&mut node, client, &[]);
}

/// MQTT 5.0 [MQTT-3.1.3-2]; MQTT 3.1.1 [MQTT-3.1.3-2].
#[test]
fn sessions_are_told_apart_by_client_id() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V3, ACCEPTED_V3);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    open(&mut node, b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01C", ACCEPTED_V3);
    open(&mut node, b"\x10\x14\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x02cc", ACCEPTED_V5);
    // The version is no part of the identity.
    let client = open(&mut node, KEPT_V5, RESUMED_V5);
    node.drop_connection(client);
    open(&mut node, KEPT_V3, RESUMED_V3);
}

/// MQTT 5.0 [MQTT-4.1.0-1]; MQTT 3.1.1 [MQTT-4.1.0-1] [MQTT-4.1.0-2].
#[test]
fn state_lasts_as_long_as_the_connection() {
    let cases: [[&[u8]; 5]; 2] = [
        [
            CLEAN_V3,
            ACCEPTED_V3,
            b"\x82\x06\0\x01\0\x01a\x01",
            b"\x90\x03\0\x01\x01",
            b"\x32\x06\0\x01a\0\x01!",
        ],
        [
            BRIEF_V5,
            ACCEPTED_V5,
            b"\x82\x07\0\x01\0\0\x01a\x01",
            b"\x90\x04\0\x01\0\x01",
            b"\x32\x07\0\x01a\0\x01\0!",
        ],
    ];
    for [connect, connack, subscribe, suback, published] in cases {
        let mut node = SimNode::new();
        let client = open(&mut node, connect, connack);
        check(&mut node, client, subscribe, &[suback]);
        node.advance(Duration::from_secs(3_600));
        publish(&mut node);
        check_received(&mut node, client, &[published]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-23] [MQTT-4.1.0-2]: 0, and the same as absent.
#[test]
fn expiry_0_ends_the_session_with_the_connection() {
    for connect in [BRIEF_V5, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\0\0\x01c"] {
        let mut node = SimNode::new();
        let client = open(&mut node, connect, ACCEPTED_V5);
        node.drop_connection(client);
        open(&mut node, KEPT_V5, ACCEPTED_V5);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-23] [MQTT-4.1.0-2].
#[test]
fn a_session_is_discarded_when_its_expiry_interval_has_passed() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    // Time with a connection does not count.
    node.advance(Duration::from_secs(100));
    node.drop_connection(client);
    node.advance(Duration::from_millis(59_999));
    let client = open(&mut node, KEPT_V5, RESUMED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_secs(60));
    open(&mut node, KEPT_V5, ACCEPTED_V5);
}

/// MQTT 5.0 §3.1.2.11.2: 0xFFFFFFFF does not expire. MQTT 3.1.1 §4.1 knows no end either.
#[test]
fn sessions_without_end() {
    let mut node = SimNode::new();
    let forever = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\xFF\xFF\xFF\xFF\0\x01c";
    let client = open(&mut node, forever, ACCEPTED_V5);
    node.drop_connection(client);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01d", ACCEPTED_V3);
    node.drop_connection(client);
    node.advance(Duration::from_secs(100_000));
    open(&mut node, forever, RESUMED_V5);
    open(&mut node, b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01d", RESUMED_V3);
}

/// MQTT 5.0 §3.2.2.3.2: a server that grants less says so.
#[test]
fn the_server_may_shorten_the_expiry() {
    let limits = Limits { session_expiry_max_s: 30, ..Limits::default() };
    let mut node = node_with(limits);
    let shortened = b"\x20\x13\0\0\x10\x11\0\0\0\x1E\x21\x04\0\x27\0\x10\0\0\x22\0\x20";
    let client = open(&mut node, KEPT_V5, shortened);
    node.drop_connection(client);
    node.advance(Duration::from_secs(30));
    open(&mut node, KEPT_V5, shortened);
}

/// MQTT 5.0 §3.14.2.2.2: DISCONNECT may change the interval.
#[test]
fn disconnect_changes_the_expiry() {
    // Lowered to an end with the connection.
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    check_ends(&mut node, client, b"\xE0\x07\0\x05\x11\0\0\0\0", &[]);
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    // Lowered to 5 seconds.
    check_ends(&mut node, client, b"\xE0\x07\0\x05\x11\0\0\0\x05", &[]);
    node.advance(Duration::from_secs(5));
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    // Raised to 200.
    check_ends(&mut node, client, b"\xE0\x07\0\x05\x11\0\0\0\xC8", &[]);
    node.advance(Duration::from_secs(199));
    let client = open(&mut node, KEPT_V5, RESUMED_V5);
    // Not spoken of: that of CONNECT.
    check_ends(&mut node, client, b"\xE0\0", &[]);
    node.advance(Duration::from_secs(60));
    open(&mut node, KEPT_V5, ACCEPTED_V5);
}

/// MQTT 5.0 §3.14.2.2.2: a session that was to end with its connection cannot be kept by DISCONNECT.
#[test]
fn disconnect_cannot_raise_the_expiry_from_0() {
    let mut node = SimNode::new();
    let client = open(&mut node, BRIEF_V5, ACCEPTED_V5);
    check_ends(&mut node, client, b"\xE0\x07\0\x05\x11\0\0\0\x01", &[b"\xE0\x01\x82"]);
    open(&mut node, BRIEF_V5, ACCEPTED_V5);
}

/// MQTT 5.0 [MQTT-4.1.0-2]; MQTT 3.1.1 [MQTT-3.1.2-6]: a client that is back before the end of its
/// session is stored does not get it again.
#[test]
fn a_session_that_is_being_deleted_is_not_resumed() {
    let mut node =
        SimNode::with(SimSettings { durability: Durability::Fsync, ..SimSettings::default() });
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    node.holds_io = true;
    check_ends(&mut node, client, b"\xE0\x07\0\x05\x11\0\0\0\0", &[]);
    let client = node.connect();
    check(&mut node, client, KEPT_V5, &[]);
    while node.perform_one() {}
    check_received(&mut node, client, &[ACCEPTED_V5]);
}

/// MQTT 5.0 [MQTT-3.1.2-5]; MQTT 3.1.1 [MQTT-3.1.2-4]: one that is being saved is resumed as it was
/// left, not as it was stored before.
#[test]
fn a_session_that_is_being_saved_is_resumed_as_it_was_left() {
    let mut node =
        SimNode::with(SimSettings { durability: Durability::Fsync, ..SimSettings::default() });
    let client = open(&mut node, KEPT_V3, ACCEPTED_V3);
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", &[b"\x90\x03\0\x01\x01"]);
    publish(&mut node);
    check_received(&mut node, client, &[b"\x32\x06\0\x01a\0\x01!"]);
    check(&mut node, client, b"\x40\x02\0\x01", &[]);
    node.holds_io = true;
    node.drop_connection(client);
    let client = node.connect();
    check(&mut node, client, KEPT_V3, &[]);
    while node.perform_one() {}
    check_received(&mut node, client, &[RESUMED_V3]);
}

/// MQTT 5.0 [MQTT-3.1.4-3] [MQTT-3.14.0-1]; MQTT 3.1.1 [MQTT-3.1.4-2]: the newest connection gets the
/// session; those that waited for it before hear nothing.
#[test]
fn of_connections_that_wait_the_newest_is_accepted() {
    for (connect, accepted, resumed) in
        [(KEPT_V3, ACCEPTED_V3, RESUMED_V3), (KEPT_V5, ACCEPTED_V5, RESUMED_V5)]
    {
        let mut node =
            SimNode::with(SimSettings { durability: Durability::Fsync, ..SimSettings::default() });
        let client = open(&mut node, connect, accepted);
        node.holds_io = true;
        node.drop_connection(client);
        let [first, second, third] = [(); 3].map(|()| {
            let client = node.connect();
            node.send(client, connect);
            client
        });
        check_ended(&mut node, first, &[]);
        check_ended(&mut node, second, &[]);
        check_received(&mut node, third, &[]);
        while node.perform_one() {}
        check_received(&mut node, third, &[resumed]);
        check(&mut node, third, b"\xC0\0", &[b"\xD0\0"]);
    }
}

/// MQTT 5.0 [MQTT-4.1.0-2]: the interval of the last CONNECT counts, whoever made the session.
#[test]
fn a_session_resumed_for_once_ends_with_that_connection() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x01", &[b"\x90\x04\0\x01\0\x01"]);
    node.drop_connection(client);
    publish(&mut node);
    let client = node.connect();
    check(&mut node, client, BRIEF_V5, &[RESUMED_V5, b"\x32\x07\0\x01a\0\x01\0!"]);
    node.drop_connection(client);
    open(&mut node, KEPT_V5, ACCEPTED_V5);
}

/// MQTT 5.0 [MQTT-3.1.4-3] [MQTT-4.13.2-1]; MQTT 3.1.1 [MQTT-3.1.4-2].
#[test]
fn the_older_connection_of_a_client_is_closed() {
    let cases: [[&[u8]; 5]; 7] = [
        [CLEAN_V3, ACCEPTED_V3, CLEAN_V3, ACCEPTED_V3, b""],
        [KEPT_V3, ACCEPTED_V3, KEPT_V3, RESUMED_V3, b""],
        [KEPT_V3, ACCEPTED_V3, CLEAN_V3, ACCEPTED_V3, b""],
        [CLEAN_V5, ACCEPTED_V5, KEPT_V5, RESUMED_V5, b"\xE0\x01\x8E"],
        [KEPT_V5, ACCEPTED_V5, CLEAN_V5, ACCEPTED_V5, b"\xE0\x01\x8E"],
        [BRIEF_V5, ACCEPTED_V5, KEPT_V5, ACCEPTED_V5, b"\xE0\x01\x8E"],
        [KEPT_V5, ACCEPTED_V5, KEPT_V3, RESUMED_V3, b"\xE0\x01\x8E"],
    ];
    for [first, first_connack, second, second_connack, goodbye] in cases {
        let mut node = SimNode::new();
        let older = open(&mut node, first, first_connack);
        let newer = open(&mut node, second, second_connack);
        check_ended(&mut node, older, &[goodbye]);
        check(&mut node, newer, b"\xC0\0", &[b"\xD0\0"]);
    }
}

/// MQTT 5.0 [MQTT-3.1.4-3]; MQTT 3.1.1 [MQTT-3.1.4-2]: also when connections of one client arrive on
/// different shards.
#[test]
fn takeover_works_across_shards() {
    for letter in [b'c', b'd', b'e', b'f'] {
        let settings = SimSettings { shards: 3, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        let mut connect = *b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\x01c";
        *connect.last_mut().unwrap() = letter;
        let older = node.connect_to(0);
        check(&mut node, older, &connect, &[ACCEPTED_V5]);
        let newer = node.connect_to(1);
        check(&mut node, newer, &connect, &[RESUMED_V5]);
        check_ended(&mut node, older, &[b"\xE0\x01\x8E"]);
    }
}

/// MQTT 5.0 [MQTT-3.2.0-1] [MQTT-3.2.0-2]: one CONNACK, before all that was waiting.
#[test]
fn connack_comes_first_and_once() {
    let mut node = SimNode::new();
    let client = open(&mut node, KEPT_V5, ACCEPTED_V5);
    check(&mut node, client, b"\x82\x07\0\x01\0\0\x01a\x01", &[b"\x90\x04\0\x01\0\x01"]);
    publish(&mut node);
    check_received(&mut node, client, &[b"\x32\x07\0\x01a\0\x01\0!"]);
    node.drop_connection(client);
    publish(&mut node);
    let client = node.connect();
    check_received(&mut node, client, &[]);
    let sent = [KEPT_V5, b"\xC0\0", b"\x82\x07\0\x02\0\0\x01b\x01"].concat();
    let expected: &[&[u8]] = &[
        RESUMED_V5,
        b"\x3A\x07\0\x01a\0\x01\0!",
        b"\x32\x07\0\x01a\0\x02\0!",
        b"\xD0\0",
        b"\x90\x04\0\x02\0\x01",
    ];
    check(&mut node, client, &sent, expected);
}

/// MQTT 3.1.1 [MQTT-3.1.2-7]. MQTT 5.0 §4.1 does not count retained messages as session state.
#[test]
fn retained_messages_outlive_the_session_of_their_publisher() {
    let mut node = SimNode::new();
    let client = open(&mut node, CLEAN_V3, ACCEPTED_V3);
    check(&mut node, client, b"\x33\x06\0\x01a\0\x01!", &[b"\x40\x02\0\x01"]);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    let client = open(&mut node, CLEAN_V3, ACCEPTED_V3);
    let answer: &[&[u8]] = &[b"\x90\x03\0\x01\x01", b"\x33\x06\0\x01a\0\x01!"];
    check(&mut node, client, b"\x82\x06\0\x01\0\x01a\x01", answer);
}
