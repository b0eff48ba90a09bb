//! How many events of clients a shard tells.

use crate::packets::{framed, sized};
use crate::sim::{SimNode, SimSettings};
use gateway::proto::limits::Limits;
use gateway::proto::shard_state::events::EventKinds;
use std::time::Duration;

fn node(events: EventKinds) -> SimNode {
    let limits = Limits { events, events_rate_max: 3, ..Limits::default() };
    SimNode::with(SimSettings { limits, ..SimSettings::default() })
}

fn come(node: &mut SimNode, client_id: &str) {
    let client = node.connect();
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    let connack = node.exchange(client, &framed(0x10, &[&head[..], &sized(client_id)].concat()));
    assert_eq!((connack[0], connack[3]), (0x20, 0));
}

#[test]
fn events_beyond_the_rate_are_counted() {
    let mut node = node(EventKinds { connect: true, ..EventKinds::default() });
    let over = |node: &SimNode| node.shard(0).state().counters().events_over_rate;
    for client_id in ["a", "b", "c"] {
        come(&mut node, client_id);
    }
    assert!(node.shard(0).has_events());
    assert_eq!(over(&node), 0);
    come(&mut node, "d");
    come(&mut node, "e");
    assert_eq!(over(&node), 2);
    node.advance(Duration::from_secs(1));
    come(&mut node, "f");
    assert_eq!(over(&node), 2);
}

#[test]
fn nothing_is_noted_that_nobody_asked_for() {
    let mut node = node(EventKinds { unsubscribe: true, ..EventKinds::default() });
    for client_id in ["a", "b", "c", "a"] {
        come(&mut node, client_id);
    }
    assert!(!node.shard(0).has_events());
    assert_eq!(node.shard(0).state().counters().events_over_rate, 0);
}
