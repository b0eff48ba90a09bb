//! The simulated node does what a broker does, in the simplest cases.

use super::{SimNode, SimSettings};
use gateway::upstream::embedded::log::Durability;

/// CONNECT 3.1.1, clean session, keep alive 0, client id of one letter.
fn connect(letter: u8) -> [u8; 15] {
    [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, letter]
}

/// MQTT 3.1.1 [MQTT-3.2.0-1].
#[test]
fn connects_subscribes_and_receives_on_every_shard_count_and_durability() {
    for shards in [1, 2, 3] {
        for durability in [Durability::Memory, Durability::Fsync] {
            let settings = SimSettings { shards, durability, ..SimSettings::default() };
            let mut node = SimNode::with(settings);
            let (subscriber, publisher) = (node.connect(), node.connect());
            assert_eq!(node.exchange(subscriber, &connect(b's')), [0x20, 2, 0, 0]);
            assert_eq!(node.exchange(publisher, &connect(b'p')), [0x20, 2, 0, 0]);
            let subscribe = [0x82, 8, 0, 1, 0, 3, b'a', b'/', b'#', 1];
            assert_eq!(node.exchange(subscriber, &subscribe), [0x90, 3, 0, 1, 1]);
            let publish = [0x32, 8, 0, 3, b'a', b'/', b'b', 0, 9, b'!'];
            assert_eq!(node.exchange(publisher, &publish), [0x40, 2, 0, 9]);
            let delivered = [0x32, 8, 0, 3, b'a', b'/', b'b', 0, 1, b'!'];
            assert_eq!(node.take(subscriber), delivered, "{shards} shards, {durability:?}");
            let publish = [0x30, 6, 0, 3, b'a', b'/', b'b', b'0'];
            assert_eq!(node.exchange(publisher, &publish), b"");
            assert_eq!(node.take(subscriber), publish, "{shards} shards, {durability:?}");
        }
    }
}

/// The store is asked for a session only where one may be stored, and then always.
#[test]
fn the_store_is_asked_only_where_a_session_may_be_stored() {
    let kept = |letter| {
        let mut packet = connect(letter);
        packet[9] = 0;
        packet
    };
    for shards in [1, 3] {
        let durability = Durability::Fsync;
        let mut node = SimNode::with(SimSettings { shards, durability, ..SimSettings::default() });
        for packet in [connect(b'c'), kept(b'k')] {
            let client = node.connect();
            assert_eq!(node.exchange(client, &packet), [0x20, 2, 0, 0]);
            node.drop_connection(client);
        }
        assert_eq!(node.sessions_asked_for(), 0, "nothing was stored of either");
        let client = node.connect();
        assert_eq!(node.exchange(client, &kept(b'k')), [0x20, 2, 1, 0]);
        assert_eq!(node.sessions_asked_for(), 1);
        let mut node = node.crash();
        let client = node.connect();
        assert_eq!(node.exchange(client, &kept(b'k')), [0x20, 2, 1, 0], "recovery counts it");
        node.drop_connection(client);
        let client = node.connect();
        assert_eq!(node.exchange(client, &connect(b'k')), [0x20, 2, 0, 0]);
        node.drop_connection(client);
        let asked = node.sessions_asked_for();
        let client = node.connect();
        assert_eq!(node.exchange(client, &connect(b'k')), [0x20, 2, 0, 0]);
        assert_eq!(node.sessions_asked_for(), asked, "its end is known");
    }
}
