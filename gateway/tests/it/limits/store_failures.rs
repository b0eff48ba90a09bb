//! A keyed store that fails: nobody waits for ever, and nothing is forgotten.

use super::packets::{connect_5, connect_311, enter, publish_5, publish_311, subscribe_311};
use crate::sim::{SimNode, SimSettings};
use gateway::upstream::embedded::log::Durability;
use gateway::upstream::embedded::quota::QuotaLimits;
use std::time::Duration;

fn node() -> SimNode {
    SimNode::with(SimSettings { durability: Durability::Fsync, ..SimSettings::default() })
}

/// MQTT 5.0 §3.2.2.2, MQTT 3.1.1 §3.2.2.3: Server unavailable.
#[test]
fn a_connect_whose_session_cannot_be_read_is_told_so_and_may_come_again() {
    let mut node = node();
    let kept = enter(&mut node, &connect_311("kept", false));
    node.drop_connection(kept);
    let refusals: [(Vec<u8>, &[u8]); 2] = [
        (connect_311("kept", false), &[0x20, 2, 0, 3]),
        (connect_5("kept", false, true), &[0x20, 3, 0, 0x88, 0]),
    ];
    for (connect, connack) in refusals {
        node.fail_store_reads(1);
        let client = node.connect();
        assert_eq!(node.exchange(client, &connect), connack);
        assert!(node.is_closed(client));
    }
    let client = node.connect();
    assert_eq!(node.exchange(client, &connect_311("kept", false)), [0x20, 2, 1, 0]);
    assert_eq!(node.quota.sessions(), 1);
    assert_eq!(node.shard(0).state().counters().store_failures, 2);
}

/// A clean start does not wait for the store; what it ended does not come back.
#[test]
fn a_clean_start_goes_on_and_ends_what_could_not_be_read() {
    let mut node = node();
    let kept = enter(&mut node, &connect_311("kept", false));
    node.drop_connection(kept);
    node.fail_store_reads(1);
    let client = enter(&mut node, &connect_311("kept", true));
    node.drop_connection(client);
    let client = node.connect();
    assert_eq!(node.exchange(client, &connect_311("kept", false)), [0x20, 2, 0, 0]);
}

#[test]
fn retained_messages_are_asked_for_again_and_given_up_in_the_end() {
    let mut node = node();
    let client = enter(&mut node, &connect_311("c", true));
    assert_eq!(node.exchange(client, &publish_311(0x33, "t", 9, b"1")), [0x40, 2, 0, 9]);
    let retained = publish_311(0x33, "t", 1, b"1");
    node.advance(Duration::from_secs(1));
    node.fail_store_reads(1);
    assert_eq!(node.exchange(client, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
    node.advance(Duration::from_secs(2));
    assert_eq!(node.take(client), retained);
    assert_eq!(node.shard(0).state().counters().retained_given_up, 0);
    let other = enter(&mut node, &connect_311("o", true));
    node.fail_store_reads(u32::MAX);
    assert_eq!(node.exchange(other, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
    node.advance(Duration::from_secs(10));
    node.fail_store_reads(0);
    node.advance(Duration::from_secs(10));
    assert_eq!(node.take(other), b"");
    assert_eq!(node.shard(0).state().counters().retained_given_up, 1);
}

/// The timer of a stored session is told once: the question behind it must not get lost.
#[test]
fn a_session_that_expires_while_the_store_fails_ends_later() {
    let mut node = node();
    let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 5, 0x11, 0, 0, 0, 5, 0, 1, b'e'];
    let brief = enter(&mut node, &crate::packets::framed(0x10, &head));
    node.drop_connection(brief);
    node.advance(Duration::from_millis(4_500));
    assert_eq!(node.quota.sessions(), 1);
    // The scan for timers, and the session.
    node.fail_store_reads(2);
    node.advance(Duration::from_secs(10));
    assert_eq!((node.quota.sessions(), node.stored_sessions()), (0, 0));
}

/// What a client is promised counts for more than the limit.
#[test]
fn a_message_is_retained_when_the_store_cannot_say_whether_there_is_room() {
    let quota_limits = QuotaLimits { retained_messages_max: 1, ..QuotaLimits::default() };
    let durability = Durability::Fsync;
    let mut node =
        SimNode::with(SimSettings { durability, quota_limits, ..SimSettings::default() });
    let client = enter(&mut node, &connect_5("p", true, false));
    assert_eq!(node.exchange(client, &publish_5(0x33, "a", 9, b"1")), [0x40, 2, 0, 9]);
    node.fail_store_reads(1);
    assert_eq!(node.exchange(client, &publish_5(0x33, "b", 9, b"1")), [0x40, 2, 0, 9]);
    let full = node.exchange(client, &publish_5(0x33, "c", 9, b"1"));
    assert_eq!(full, [0x40, 3, 0, 9, 0x97]);
    assert_eq!(node.quota.retained().messages, 2);
}
