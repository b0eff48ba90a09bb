//! A shard that does not take what others send holds their publishers.

use super::packets::{acknowledge_all, connect_311, enter, publish_311, subscribe_311};
use crate::sim::{SIM_MESH_BYTES_MAX, SimNode, SimSettings};
use gateway::proto::output::ShardIndex;
use gateway::proto::shard_state::home_shard;
use gateway::upstream::embedded::log::Durability;

/// A client id that lives on `shard` of two, starting with `prefix`.
fn client_of(shard: u16, prefix: &str) -> String {
    let mut ids = (0..).map(|number| format!("{prefix}{number}"));
    ids.find(|id| home_shard(id, 2) == ShardIndex(shard)).unwrap()
}

#[test]
fn publishers_are_held_while_too_much_waits_for_a_shard() {
    for durability in [Durability::Memory, Durability::Fsync] {
        let settings = SimSettings { shards: 2, durability, ..SimSettings::default() };
        let mut node = SimNode::with(settings);
        let subscriber = enter(&mut node, &connect_311(&client_of(1, "s"), true));
        assert_eq!(node.exchange(subscriber, &subscribe_311("t")), [0x90, 3, 0, 1, 1]);
        let publisher = enter(&mut node, &connect_311(&client_of(0, "p"), true));
        let other = enter(&mut node, &connect_311(&client_of(0, "o"), true));
        node.mesh_is_full = true;
        let message = publish_311(0x32, "t", 9, &[b'x'; 1_000]);
        let acknowledged =
            (0..200).take_while(|_| node.exchange(publisher, &message) == [0x40, 2, 0, 9]).count();
        let least = SIM_MESH_BYTES_MAX / 1_100;
        assert!((least..least + 10).contains(&acknowledged), "{acknowledged} were taken");
        // QoS 0 is not held; it is dropped for that shard, and counted.
        assert_eq!(node.exchange(other, &publish_311(0x30, "t", 0, b"lost")), b"");
        assert_eq!(node.shard(0).upstream.mesh_dropped, 1);
        node.empty_mesh();
        assert_eq!(node.take(publisher), [0x40, 2, 0, 9], "goes on");
        let received = acknowledge_all(&mut node, subscriber, "t");
        assert_eq!(received, acknowledged + 1, "nothing acknowledged is lost");
        assert_eq!(node.exchange(other, &publish_311(0x30, "t", 0, b"kept")), b"");
        assert_eq!(node.take(subscriber), publish_311(0x30, "t", 0, b"kept"));
    }
}
