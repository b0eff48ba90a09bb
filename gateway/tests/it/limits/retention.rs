//! The log goes when nobody needs it.

use super::packets::{
    acknowledge, acknowledge_all, connect_311, enter, publish_311, subscribe_311,
};
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::upstream::embedded::log::{Durability, LogLimits};
use std::time::Duration;

const SEGMENT_BYTES: u64 = 4_096;

fn small(shards: u16, durability: Durability) -> SimSettings {
    let log_limits = LogLimits {
        segment_bytes: SEGMENT_BYTES,
        retention_bytes: 64 * 1_024,
        ..LogLimits::default()
    };
    SimSettings { shards, durability, log_limits, ..SimSettings::default() }
}

/// The record of a session that stays online is as old as its connection; what it needs is not.
#[test]
fn a_session_that_stays_online_and_keeps_up_does_not_keep_the_log() {
    for shards in [1, 3] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let mut node = SimNode::with(small(shards, durability));
            let subscriber = enter(&mut node, &connect_311("s", false));
            assert_eq!(node.exchange(subscriber, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
            let publisher = enter(&mut node, &connect_311("p", true));
            let mut received = 0;
            // Four times what retention holds: more only fits as segments go.
            for round in 0..16 {
                for _ in 0..16 {
                    let publish = publish_311(0x32, "t", 9, &[b'x'; 1_000]);
                    let label = format!("round {round}, {shards} shards, {durability:?}");
                    assert_eq!(node.exchange(publisher, &publish), [0x40, 2, 0, 9], "{label}");
                    received += acknowledge_all(&mut node, subscriber, "t");
                }
                node.advance(Duration::from_secs(4));
            }
            assert_eq!(received, 16 * 16);
            for shard in 0..shards {
                let bytes = node.shard(shard.into()).upstream.own_log().retained_bytes();
                assert!(bytes <= 2 * SEGMENT_BYTES, "{bytes} bytes of shard {shard} are left");
            }
        }
    }
}

/// And a crash then costs it nothing.
#[test]
fn what_an_online_session_has_not_acknowledged_survives_trimming_and_a_crash() {
    let mut node = SimNode::with(small(1, Durability::Fsync));
    let subscriber = enter(&mut node, &connect_311("s", false));
    assert_eq!(node.exchange(subscriber, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
    let publisher = enter(&mut node, &connect_311("p", true));
    for _ in 0..32 {
        let publish = publish_311(0x32, "t", 9, &[b'x'; 1_000]);
        assert_eq!(node.exchange(publisher, &publish), [0x40, 2, 0, 9]);
        acknowledge_all(&mut node, subscriber, "t");
    }
    node.advance(Duration::from_secs(4));
    let kept = publish_311(0x32, "t", 9, b"kept");
    assert_eq!(node.exchange(publisher, &kept), [0x40, 2, 0, 9]);
    node.advance(Duration::from_secs(10));
    let mut node = node.crash();
    let subscriber = node.connect();
    let got = node.exchange(subscriber, &connect_311("s", false));
    assert_eq!(&got[..4], [0x20, 2, 1, 0]);
    let id = u16::from_be_bytes([got[9], got[10]]);
    assert_eq!(got[4..], publish_311(got[4], "t", id, b"kept"));
}

/// Publishes until the publisher is held: the last PUBLISH is not answered.
#[track_caller]
fn fill(node: &mut SimNode, publisher: SimClient) {
    for _ in 0..256 {
        let publish = publish_311(0x32, "t", 9, &[b'x'; 1_000]);
        if node.exchange(publisher, &publish).is_empty() {
            return;
        }
    }
    panic!("retention is never full");
}

/// With every publisher held nothing is committed any more: trimming alone must let them go on.
#[test]
fn held_publishers_go_on_when_age_frees_room() {
    for durability in [Durability::Memory, Durability::Fsync] {
        let mut settings = small(1, durability);
        settings.log_limits.retention_age = Duration::from_secs(60);
        let mut node = SimNode::with(settings);
        let away = enter(&mut node, &connect_311("s", false));
        assert_eq!(node.exchange(away, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
        node.drop_connection(away);
        let publisher = enter(&mut node, &connect_311("p", true));
        fill(&mut node, publisher);
        node.advance(Duration::from_secs(30));
        assert_eq!(node.take(publisher), b"", "{durability:?}: it is still needed");
        node.advance(Duration::from_secs(40));
        assert_eq!(node.take(publisher), [0x40, 2, 0, 9], "{durability:?}");
    }
}

/// As above, when the session that needed the log has caught up.
#[test]
fn held_publishers_go_on_when_a_session_has_caught_up() {
    for durability in [Durability::Memory, Durability::Fsync] {
        let mut node = SimNode::with(small(1, durability));
        let away = enter(&mut node, &connect_311("s", false));
        assert_eq!(node.exchange(away, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
        node.drop_connection(away);
        let publisher = enter(&mut node, &connect_311("p", true));
        fill(&mut node, publisher);
        let back = node.connect();
        node.send(back, &connect_311("s", false));
        let connack = [0x20, 2, 1, 0];
        let mut got = node.take(back);
        assert_eq!(got.drain(..4).collect::<Vec<_>>(), connack);
        acknowledge(&mut node, back, "t", &got);
        acknowledge_all(&mut node, back, "t");
        assert_eq!(node.take(publisher), b"", "{durability:?}: nothing was trimmed yet");
        node.advance(Duration::from_secs(10));
        assert_eq!(node.take(publisher), [0x40, 2, 0, 9], "{durability:?}");
    }
}
