//! The will. Source: MQTT 5.0 §3.1.2.5 to §3.1.2.7, §3.1.3.2; MQTT 3.1.1 §3.1.2.5 to §3.1.2.7.

use super::exchange::{
    ACCEPTED_V3, ACCEPTED_V5, RESUMED_V5, check, check_ended, check_ends, check_received, listener,
    open,
};
use crate::sim::{SimNode, SimSettings};
use gateway::upstream::embedded::log::Durability;
use std::time::Duration;

/// A will of QoS 0 and nothing more, in each version, and its CONNACK.
const PLAIN: [(&[u8], &[u8]); 2] = [
    (b"\x10\x16\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01w\0\x04gone", ACCEPTED_V3),
    (b"\x10\x18\0\x04MQTT\x05\x06\0\0\0\0\x01c\0\0\x01w\0\x04gone", ACCEPTED_V5),
];

/// A session of 100 seconds with a will delayed by 10.
const DELAYED: &[u8] =
    b"\x10\x22\0\x04MQTT\x05\x06\0\0\x05\x11\0\0\0\x64\0\x01c\x05\x18\0\0\0\x0A\0\x01w\0\x04gone";

const GONE: &[u8] = b"\x30\x08\0\x01w\0gone";

/// MQTT 5.0 [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10]; MQTT 3.1.1 [MQTT-3.1.2-8]
/// [MQTT-3.1.2-10]: published once.
#[test]
fn published_when_the_connection_breaks() {
    for (connect, connack) in PLAIN {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        check_received(&mut node, listener, &[]);
        node.drop_connection(client);
        check_received(&mut node, listener, &[GONE]);
        node.advance(Duration::from_secs(200));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-8]; MQTT 3.1.1 [MQTT-3.1.2-8]: protocol errors end without DISCONNECT too.
#[test]
fn published_when_the_server_closes() {
    for (connect, connack) in PLAIN {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        let goodbye: &[&[u8]] = if connack == ACCEPTED_V3 { &[] } else { &[b"\xE0\x01\x81"] };
        check_ends(&mut node, client, b"\x36\x06\0\x01a\0\x01!", goodbye);
        check_received(&mut node, listener, &[GONE]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-10] [MQTT-3.14.4-3]; MQTT 3.1.1 [MQTT-3.1.2-10] [MQTT-3.14.4-3].
#[test]
fn discarded_by_disconnect() {
    for (connect, connack) in PLAIN {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        check_ends(&mut node, client, b"\xE0\0", &[]);
        node.drop_connection(client);
        node.advance(Duration::from_secs(200));
        check_received(&mut node, listener, &[]);
    }
    for disconnect in [b"\xE0\x01\0" as &[u8], b"\xE0\x02\0\0", b"\xE0\x07\0\x05\x11\0\0\0\x64"] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, DELAYED, ACCEPTED_V5);
        check_ends(&mut node, client, disconnect, &[]);
        node.advance(Duration::from_secs(200));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-8], §3.14.2.1: 0x04 asks for the will, other codes are no reason to drop it.
#[test]
fn published_after_disconnect_with_another_reason() {
    let (connect, connack) = PLAIN[1];
    for disconnect in [b"\xE0\x01\x04" as &[u8], b"\xE0\x02\x04\0", b"\xE0\x01\x80"] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        check_ends(&mut node, client, disconnect, &[]);
        check_received(&mut node, listener, &[GONE]);
    }
}

/// MQTT 3.1.1 [MQTT-3.1.2-12].
#[test]
fn without_will_nothing_is_published() {
    for (connect, connack) in [
        (b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c" as &[u8], ACCEPTED_V3),
        (b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c", ACCEPTED_V5),
    ] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        node.drop_connection(client);
        node.advance(Duration::from_secs(1));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 §3.1.2.6; MQTT 3.1.1 §3.1.2.6: Will QoS is the QoS it is published with.
#[test]
fn published_with_its_qos() {
    for (connect, connack, published) in [
        (PLAIN[0].0, ACCEPTED_V3, GONE),
        (
            b"\x10\x16\0\x04MQTT\x04\x0E\0\0\0\x01c\0\x01w\0\x04gone",
            ACCEPTED_V3,
            b"\x32\x0A\0\x01w\0\x01\0gone",
        ),
        (
            b"\x10\x16\0\x04MQTT\x04\x16\0\0\0\x01c\0\x01w\0\x04gone",
            ACCEPTED_V3,
            b"\x34\x0A\0\x01w\0\x01\0gone",
        ),
        (PLAIN[1].0, ACCEPTED_V5, GONE),
        (
            b"\x10\x18\0\x04MQTT\x05\x0E\0\0\0\0\x01c\0\0\x01w\0\x04gone",
            ACCEPTED_V5,
            b"\x32\x0A\0\x01w\0\x01\0gone",
        ),
        (
            b"\x10\x18\0\x04MQTT\x05\x16\0\0\0\0\x01c\0\0\x01w\0\x04gone",
            ACCEPTED_V5,
            b"\x34\x0A\0\x01w\0\x01\0gone",
        ),
    ] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, connect, connack);
        node.drop_connection(client);
        check_received(&mut node, listener, &[published]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-14] [MQTT-3.1.2-15]; MQTT 3.1.1 [MQTT-3.1.2-16] [MQTT-3.1.2-17].
#[test]
fn retained_if_it_says_so() {
    let retained: &[&[u8]] = &[b"\x90\x04\0\x01\0\0", b"\x31\x08\0\x01w\0gone"];
    let nothing: &[&[u8]] = &[b"\x90\x04\0\x01\0\0"];
    for (connect, connack, expected) in [
        (PLAIN[0].0, ACCEPTED_V3, nothing),
        (b"\x10\x16\0\x04MQTT\x04\x26\0\0\0\x01c\0\x01w\0\x04gone", ACCEPTED_V3, retained),
        (b"\x10\x16\0\x04MQTT\x04\x2E\0\0\0\x01c\0\x01w\0\x04gone", ACCEPTED_V3, retained),
        (PLAIN[1].0, ACCEPTED_V5, nothing),
        (b"\x10\x18\0\x04MQTT\x05\x26\0\0\0\0\x01c\0\0\x01w\0\x04gone", ACCEPTED_V5, retained),
        (b"\x10\x18\0\x04MQTT\x05\x36\0\0\0\0\x01c\0\0\x01w\0\x04gone", ACCEPTED_V5, retained),
    ] {
        let mut node = SimNode::new();
        let client = open(&mut node, connect, connack);
        node.drop_connection(client);
        let late = open(&mut node, b"\x10\x11\0\x04MQTT\x05\x02\0\0\0\0\x04late", ACCEPTED_V5);
        check(&mut node, late, b"\x82\x07\0\x01\0\0\x01w\0", expected);
    }
}

/// MQTT 5.0 [MQTT-3.1.3-10], §3.1.3.2: Will Properties but the delay become those of the PUBLISH.
#[test]
fn published_with_its_properties_in_order() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let connect = b"\x10\x47\0\x04MQTT\x05\x06\0\0\0\0\x01c\x2F\x26\0\x01k\0\x012\x26\0\x01k\0\x011\x01\x01\x03\0\x04text\x08\0\x02re\x09\0\x02id\x26\0\x01a\0\x013\x26\0\x01k\0\x012\0\x01w\0\x04gone";
    let client = open(&mut node, connect, ACCEPTED_V5);
    node.drop_connection(client);
    let published = b"\x30\x37\0\x01w\x2F\x26\0\x01k\0\x012\x26\0\x01k\0\x011\x01\x01\x03\0\x04text\x08\0\x02re\x09\0\x02id\x26\0\x01a\0\x013\x26\0\x01k\0\x012gone";
    check_received(&mut node, listener, &[published]);
}

/// MQTT 5.0 §3.1.3.2.2 and §3.1.3.2.4: the interval begins when the will is published.
#[test]
fn a_delay_is_not_forwarded_and_does_not_shorten_the_expiry() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let connect = b"\x10\x2E\0\x04MQTT\x05\x06\0\0\x05\x11\0\0\0\x64\0\x01c\x11\x18\0\0\0\x0A\x02\0\0\0\x05\x26\0\x01k\0\x01v\0\x01w\0\x04gone";
    let client = open(&mut node, connect, ACCEPTED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_secs(12));
    check_received(
        &mut node,
        listener,
        &[b"\x30\x14\0\x01w\x0C\x02\0\0\0\x05\x26\0\x01k\0\x01vgone"],
    );
}

/// MQTT 5.0 [MQTT-3.1.2-8]: after the delay, once.
#[test]
fn published_when_its_delay_has_passed() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_millis(9_999));
    check_received(&mut node, listener, &[]);
    node.advance(Duration::from_secs(2));
    check_received(&mut node, listener, &[GONE]);
    node.advance(Duration::from_secs(200));
    check_received(&mut node, listener, &[]);
    // The session has outlived its will.
    let mut node = SimNode::new();
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_secs(20));
    open(&mut node, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x64\0\x01c", RESUMED_V5);
}

/// MQTT 5.0 [MQTT-3.1.3-9].
#[test]
fn not_published_when_the_client_is_back_in_time() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_secs(9));
    let connect = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x64\0\x01c";
    let client = open(&mut node, connect, RESUMED_V5);
    node.advance(Duration::from_secs(20));
    check_received(&mut node, listener, &[]);
    node.drop_connection(client);
    node.advance(Duration::from_secs(200));
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-8], §3.1.3.2.2: the end of the session comes first.
#[test]
fn published_at_the_end_of_the_session_at_the_latest() {
    let connect = b"\x10\x22\0\x04MQTT\x05\x06\0\0\x05\x11\0\0\0\x05\0\x01c\x05\x18\0\0\0\x64\0\x01w\0\x04gone";
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let client = open(&mut node, connect, ACCEPTED_V5);
    node.drop_connection(client);
    node.advance(Duration::from_millis(4_999));
    check_received(&mut node, listener, &[]);
    node.advance(Duration::from_secs(2));
    check_received(&mut node, listener, &[GONE]);

    // A session that ends with its connection, from the start or since DISCONNECT.
    let connect = b"\x10\x1D\0\x04MQTT\x05\x06\0\0\0\0\x01c\x05\x18\0\0\0\x64\0\x01w\0\x04gone";
    let client = open(&mut node, connect, ACCEPTED_V5);
    node.drop_connection(client);
    check_received(&mut node, listener, &[GONE]);
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    check_ends(&mut node, client, b"\xE0\x07\x04\x05\x11\0\0\0\0", &[]);
    check_received(&mut node, listener, &[GONE]);
    node.advance(Duration::from_secs(200));
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-8], §3.1.3.2.2: a clean start ends the session, and its will is due.
#[test]
fn published_when_a_clean_start_ends_the_session() {
    for connect in [
        b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c" as &[u8],
        b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x64\0\x01c",
    ] {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let client = open(&mut node, DELAYED, ACCEPTED_V5);
        node.drop_connection(client);
        check_received(&mut node, listener, &[]);
        open(&mut node, connect, ACCEPTED_V5);
        check_received(&mut node, listener, &[GONE]);
        node.advance(Duration::from_secs(200));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-8]: the same while the session is still being saved.
#[test]
fn published_when_a_clean_start_ends_a_session_that_is_being_saved() {
    let mut node =
        SimNode::with(SimSettings { durability: Durability::Fsync, ..SimSettings::default() });
    let listener = listener(&mut node);
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    node.holds_io = true;
    node.drop_connection(client);
    let client = node.connect();
    check(&mut node, client, b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x64\0\x01c", &[]);
    while node.perform_one() {}
    check_received(&mut node, client, &[ACCEPTED_V5]);
    check_received(&mut node, listener, &[GONE]);
    node.holds_io = false;
    node.advance(Duration::from_secs(200));
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-8]; MQTT 3.1.1 [MQTT-3.1.2-8]: at the end of the node, too; who asks the next
/// one gets it.
#[test]
fn published_when_the_node_ends() {
    for (connect, connack, goodbye) in [
        (
            b"\x10\x16\0\x04MQTT\x04\x2E\0\0\0\x01c\0\x01w\0\x04gone" as &[u8],
            ACCEPTED_V3,
            &[] as &[&[u8]],
        ),
        (
            b"\x10\x18\0\x04MQTT\x05\x2E\0\0\0\0\x01c\0\0\x01w\0\x04gone",
            ACCEPTED_V5,
            &[b"\xE0\x01\x8B"],
        ),
    ] {
        let settings = SimSettings { durability: Durability::Fsync, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        let client = open(&mut node, connect, connack);
        node.shutdown();
        check_ended(&mut node, client, goodbye);
        let mut node = node.crash();
        let late = open(&mut node, b"\x10\x11\0\x04MQTT\x05\x02\0\0\0\0\x04late", ACCEPTED_V5);
        let retained: &[&[u8]] = &[b"\x90\x04\0\x01\0\0", b"\x31\x08\0\x01w\0gone"];
        check(&mut node, late, b"\x82\x07\0\x01\0\0\x01w\0", retained);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-8]; MQTT 3.1.1 [MQTT-3.1.2-8]: the node took the connection with it when it
/// crashed; the next one publishes the will of a kept session.
#[test]
fn the_will_of_a_kept_session_survives_a_crash() {
    for (connect, connack) in [
        (b"\x10\x16\0\x04MQTT\x04\x04\0\0\0\x01c\0\x01w\0\x04gone" as &[u8], ACCEPTED_V3),
        (
            b"\x10\x1D\0\x04MQTT\x05\x04\0\0\x05\x11\0\0\0\x64\0\x01c\0\0\x01w\0\x04gone",
            ACCEPTED_V5,
        ),
    ] {
        let settings = SimSettings { durability: Durability::Fsync, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        open(&mut node, connect, connack);
        let mut node = node.crash();
        let listener = listener(&mut node);
        node.advance(Duration::from_secs(1));
        check_received(&mut node, listener, &[GONE]);
        node.advance(Duration::from_secs(200));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 §3.1.3.2.2: a delayed will survives the node.
#[test]
fn a_delayed_will_survives_a_crash() {
    let settings = SimSettings { durability: Durability::Fsync, ..SimSettings::default() };
    let mut node = SimNode::with(settings);
    let client = open(&mut node, DELAYED, ACCEPTED_V5);
    node.drop_connection(client);
    let mut node = node.crash();
    let listener = listener(&mut node);
    node.advance(Duration::from_secs(9));
    check_received(&mut node, listener, &[]);
    node.advance(Duration::from_secs(2));
    check_received(&mut node, listener, &[GONE]);
    node.advance(Duration::from_secs(200));
    check_received(&mut node, listener, &[]);
}

/// MQTT 5.0 [MQTT-3.1.2-8], [MQTT-3.1.3-9], §3.1.4: without delay the will of the older connection
/// is published, with delay the session goes on, unless the newer ends it.
#[test]
fn takeover_publishes_a_will_that_nothing_holds_back() {
    let undelayed = b"\x10\x1D\0\x04MQTT\x05\x04\0\0\x05\x11\0\0\0\x64\0\x01c\0\0\x01w\0\x04gone";
    let resume = b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x64\0\x01c";
    let clean = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x64\0\x01c";
    let cases: [[&[u8]; 4]; 4] = [
        [undelayed, resume, RESUMED_V5, GONE],
        [undelayed, clean, ACCEPTED_V5, GONE],
        [DELAYED, resume, RESUMED_V5, b""],
        [DELAYED, clean, ACCEPTED_V5, GONE],
    ];
    for [first, second, connack, published] in cases {
        let mut node = SimNode::new();
        let listener = listener(&mut node);
        let older = open(&mut node, first, ACCEPTED_V5);
        open(&mut node, second, connack);
        check_ended(&mut node, older, &[b"\xE0\x01\x8E"]);
        check_received(&mut node, listener, &[published]);
        node.advance(Duration::from_secs(20));
        check_received(&mut node, listener, &[]);
    }
}

/// MQTT 5.0 §3.1.2.5; MQTT 3.1.1 §3.1.2.5: the will belongs to the connection, so the next CONNECT
/// brings its own or none.
#[test]
fn each_connect_brings_its_own() {
    let mut node = SimNode::new();
    let listener = listener(&mut node);
    let first = b"\x10\x15\0\x04MQTT\x04\x04\0\0\0\x01c\0\x01w\0\x03one";
    let client = open(&mut node, first, ACCEPTED_V3);
    check_ends(&mut node, client, b"\xE0\0", &[]);
    let second = b"\x10\x15\0\x04MQTT\x04\x04\0\0\0\x01c\0\x01w\0\x03two";
    let client = open(&mut node, second, b"\x20\x02\x01\0");
    node.drop_connection(client);
    check_received(&mut node, listener, &[b"\x30\x07\0\x01w\0two"]);
    let client = open(&mut node, b"\x10\x0D\0\x04MQTT\x04\0\0\0\0\x01c", b"\x20\x02\x01\0");
    node.drop_connection(client);
    check_received(&mut node, listener, &[]);
}
