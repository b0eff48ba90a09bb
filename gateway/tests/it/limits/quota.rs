//! `sessions_max`, `retained_messages_max`, `retained_bytes_max`.

use super::packets::{connect_5, connect_311, enter, publish_5, publish_311, subscribe_311};
use crate::packets::{framed, sized};
use crate::sim::{SimNode, SimSettings};
use gateway::upstream::embedded::log::Durability;
use gateway::upstream::embedded::quota::{QuotaLimits, Usage};
use std::time::Duration;

/// Runs `test` on one shard and on three, in memory and on disk.
fn everywhere(quota_limits: QuotaLimits, test: impl Fn(SimNode)) {
    for shards in [1, 3] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let settings =
                SimSettings { shards, durability, quota_limits, ..SimSettings::default() };
            test(SimNode::with(settings));
        }
    }
}

fn sessions(sessions_max: u64) -> QuotaLimits {
    QuotaLimits { sessions_max, ..QuotaLimits::default() }
}

fn retained(retained_messages_max: u64, retained_bytes_max: u64) -> QuotaLimits {
    QuotaLimits { retained_messages_max, retained_bytes_max, ..QuotaLimits::default() }
}

/// The client is told that there is no room for its session, and closed.
#[track_caller]
fn refused(node: &mut SimNode, connect: &[u8], connack: &[u8]) {
    let client = node.connect();
    assert_eq!(node.exchange(client, connect), connack);
    assert!(node.is_closed(client));
}

const FULL_311: &[u8] = &[0x20, 2, 0, 3];
const FULL_5: &[u8] = &[0x20, 3, 0, 0x97, 0];

/// MQTT 5.0 §3.2.2.2 Quota exceeded; MQTT 3.1.1 §3.2.2.3 Server unavailable.
#[test]
fn new_sessions_are_refused_at_the_limit_and_existing_ones_come_back() {
    everywhere(sessions(3), |mut node| {
        let kept = enter(&mut node, &connect_311("kept", false));
        let clean = enter(&mut node, &connect_5("clean", true, false));
        node.drop_connection(kept);
        enter(&mut node, &connect_5("other", false, true));
        // Online, stored and online: three.
        for clean_start in [true, false] {
            refused(&mut node, &connect_311("new", clean_start), FULL_311);
            refused(&mut node, &connect_5("new", clean_start, true), FULL_5);
        }
        // Stored, taken over, and each begun anew.
        enter(&mut node, &connect_311("kept", false));
        enter(&mut node, &connect_311("kept", false));
        let kept = enter(&mut node, &connect_311("kept", true));
        enter(&mut node, &connect_5("clean", true, false));
        assert!(node.is_closed(clean), "taken over");
        let other = enter(&mut node, &connect_5("other", true, true));
        node.drop_connection(other);
        enter(&mut node, &connect_5("other", true, true));
        refused(&mut node, &connect_311("new", true), FULL_311);
        // One ends: one more fits.
        node.drop_connection(kept);
        enter(&mut node, &connect_311("new", true));
        refused(&mut node, &connect_311("newer", true), FULL_311);
        assert_eq!(node.quota.sessions(), 3);
        let counters = (0..node.settings.shards)
            .map(|shard| node.shard(shard.into()).state().counters().sessions_refused);
        assert_eq!(counters.sum::<u64>(), 6);
    });
}

/// A stored session that a clean start ended, and one that expired, count no more.
#[test]
fn stored_sessions_that_end_make_room() {
    everywhere(sessions(2), |mut node| {
        let first = enter(&mut node, &connect_311("first", false));
        let properties = [5, 0x11, 0, 0, 0, 5];
        let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0];
        let brief = [&head[..], &properties, &sized("brief")].concat();
        let brief = enter(&mut node, &framed(0x10, &brief));
        node.drop_connection(first);
        node.drop_connection(brief);
        refused(&mut node, &connect_311("new", true), FULL_311);
        node.advance(Duration::from_secs(10));
        assert_eq!(node.quota.sessions(), 1, "expired");
        let first = enter(&mut node, &connect_311("first", true));
        assert_eq!(node.quota.sessions(), 1, "replaced");
        node.drop_connection(first);
        assert_eq!((node.quota.sessions(), node.stored_sessions()), (0, 0));
    });
}

/// The session that a clean start ends counts until the store has answered for it.
#[test]
fn a_new_session_waits_for_one_that_just_ends() {
    let (durability, quota_limits) = (Durability::Fsync, sessions(2));
    let settings = SimSettings { shards: 1, durability, quota_limits, ..SimSettings::default() };
    let mut node = SimNode::with(settings);
    let kept = enter(&mut node, &connect_311("kept", false));
    node.drop_connection(kept);
    let [kept, new] = [node.connect(), node.connect()];
    let connects = [connect_311("kept", true), connect_311("new", true)];
    node.send_together(&[(kept, &connects[0]), (new, &connects[1])]);
    assert_eq!(node.take(kept), [0x20, 2, 0, 0]);
    assert_eq!(node.take(new), [0x20, 2, 0, 0]);
    assert_eq!(node.quota.sessions(), 2);
    refused(&mut node, &connect_311("newer", true), FULL_311);
}

/// What is stored is counted again by recovery.
#[test]
fn stored_sessions_count_after_a_restart() {
    for shards in [1, 3] {
        let (durability, quota_limits) = (Durability::Fsync, sessions(2));
        let settings = SimSettings { shards, durability, quota_limits, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        enter(&mut node, &connect_311("a", false));
        enter(&mut node, &connect_311("b", false));
        let mut node = node.crash();
        assert_eq!(node.quota.sessions(), 2);
        refused(&mut node, &connect_311("c", true), FULL_311);
        enter(&mut node, &connect_311("a", true));
        enter(&mut node, &connect_311("b", false));
        assert_eq!(node.quota.sessions(), 2);
    }
}

/// What a new subscriber to "#" is sent, as topics.
fn retained_topics(node: &mut SimNode) -> Vec<String> {
    let reader = enter(node, &connect_311("reader", true));
    let mut got = node.exchange(reader, &subscribe_311("#")).split_off(5);
    node.drop_connection(reader);
    let mut topics = Vec::new();
    while got.len() > 4 {
        let length = usize::from(got[3]);
        topics.push(String::from_utf8(got[4..4 + length].to_vec()).unwrap());
        got.drain(..2 + usize::from(got[1]));
    }
    topics
}

/// MQTT 5.0 §3.4.2.1, §3.5.2.1 Quota exceeded.
#[test]
fn retained_messages_on_new_topics_are_refused_at_the_limit() {
    everywhere(retained(2, u64::MAX), |mut node| {
        let client = enter(&mut node, &connect_5("p", true, false));
        let puback = [0x40, 2, 0, 9];
        for topic in ["a", "b"] {
            assert_eq!(node.exchange(client, &publish_5(0x33, topic, 9, b"1")), puback);
        }
        let full = node.exchange(client, &publish_5(0x33, "c", 9, b"1"));
        assert_eq!(full, [0x40, 3, 0, 9, 0x97]);
        let full = node.exchange(client, &publish_5(0x35, "c", 9, b"1"));
        assert_eq!(full, [0x50, 3, 0, 9, 0x97]);
        // Replacing goes on, in one burst too, and so does what is not retained.
        let burst = [
            publish_5(0x33, "a", 1, b"2"),
            publish_5(0x33, "c", 2, b"2"),
            publish_5(0x32, "c", 3, b"2"),
            publish_5(0x33, "b", 4, b"2"),
        ];
        let answers = node.exchange(client, &burst.concat());
        let expected: [&[u8]; 4] =
            [&[0x40, 2, 0, 1], &[0x40, 3, 0, 2, 0x97], &[0x40, 2, 0, 3], &[0x40, 2, 0, 4]];
        // MQTT 5.0 [MQTT-4.6.0-2]: in their order.
        assert_eq!(answers, expected.concat());
        assert_eq!(retained_topics(&mut node), ["a", "b"]);
        // Deleting makes room.
        assert_eq!(node.exchange(client, &publish_5(0x33, "a", 9, b"")), puback);
        assert_eq!(node.exchange(client, &publish_5(0x33, "c", 9, b"1")), puback);
        assert_eq!(retained_topics(&mut node), ["b", "c"]);
        assert_eq!(node.quota.retained().messages, 2);
    });
}

/// Where nothing can tell the client, its message is delivered and not retained.
#[test]
fn what_cannot_be_refused_is_delivered_and_not_retained() {
    everywhere(retained(1, u64::MAX), |mut node| {
        let subscriber = enter(&mut node, &connect_311("s", true));
        assert_eq!(node.exchange(subscriber, &subscribe_311("#")), [0x90, 3, 0, 1, 1]);
        let old = enter(&mut node, &connect_311("old", true));
        assert_eq!(node.exchange(old, &publish_311(0x33, "a", 9, b"1")), [0x40, 2, 0, 9]);
        assert_eq!(node.exchange(old, &publish_311(0x33, "b", 9, b"1")), [0x40, 2, 0, 9]);
        assert_eq!(node.exchange(old, &publish_311(0x31, "c", 0, b"1")), b"");
        let new = enter(&mut node, &connect_5("new", true, false));
        assert_eq!(node.exchange(new, &publish_5(0x31, "d", 0, b"1")), b"");
        let expected = [
            publish_311(0x32, "a", 1, b"1"),
            publish_311(0x32, "b", 2, b"1"),
            publish_311(0x30, "c", 0, b"1"),
            publish_311(0x30, "d", 0, b"1"),
        ];
        assert_eq!(node.take(subscriber), expected.concat());
        assert_eq!(retained_topics(&mut node), ["a"]);
    });
}

/// Topic names and messages count; a limit of none refuses all.
#[test]
fn retained_bytes_are_limited_and_none_is_a_limit_too() {
    everywhere(retained(u64::MAX, 2_000), |mut node| {
        let client = enter(&mut node, &connect_5("p", true, false));
        let kilobyte = [b'x'; 1_000];
        assert_eq!(node.exchange(client, &publish_5(0x33, "a", 9, &kilobyte)), [0x40, 2, 0, 9]);
        let full = node.exchange(client, &publish_5(0x33, "b", 9, &kilobyte));
        assert_eq!(full, [0x40, 3, 0, 9, 0x97]);
        assert_eq!(node.exchange(client, &publish_5(0x33, "c", 9, b"1")), [0x40, 2, 0, 9]);
        assert!(node.quota.retained().bytes <= 2_000);
    });
    everywhere(retained(0, u64::MAX), |mut node| {
        let client = enter(&mut node, &connect_5("p", true, false));
        let full = node.exchange(client, &publish_5(0x33, "b", 9, b"1"));
        assert_eq!(full, [0x40, 3, 0, 9, 0x97]);
        assert_eq!(node.quota.retained(), Usage::default());
    });
}

#[test]
fn retained_messages_count_after_a_restart() {
    for shards in [1, 3] {
        let (durability, quota_limits) = (Durability::Fsync, retained(2, u64::MAX));
        let settings = SimSettings { shards, durability, quota_limits, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        let client = enter(&mut node, &connect_5("p", true, false));
        for topic in ["a", "b"] {
            let publish = publish_5(0x33, topic, 9, b"1");
            assert_eq!(node.exchange(client, &publish), [0x40, 2, 0, 9]);
        }
        let before = node.quota.retained();
        let mut node = node.crash();
        assert_eq!(node.quota.retained(), before);
        let client = enter(&mut node, &connect_5("p", true, false));
        let full = node.exchange(client, &publish_5(0x33, "c", 9, b"1"));
        assert_eq!(full, [0x40, 3, 0, 9, 0x97]);
        assert_eq!(node.exchange(client, &publish_5(0x33, "b", 9, b"2")), [0x40, 2, 0, 9]);
    }
}
