//! The quotas of the node, as configured, over real sockets and a restart.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, TempDirectory};
use super::raw_client::{RawClient, V5, connect, publish};

/// Session Expiry Interval: never.
const KEPT: &[u8] = &[0x11, 0xFF, 0xFF, 0xFF, 0xFF];

/// Where a CONNECT has its Connect Flags: after the fixed header, `MQTT` and the version.
const CONNECT_FLAGS: usize = 9;

#[test]
fn quotas_hold_before_and_after_a_restart() {
    for shards in SHARD_COUNTS {
        let data = TempDirectory::new();
        let limits = ["sessions_max=2", "retained_messages_max=1"];
        let [sessions, retained] = limits;
        let flags = ["--shards", shards, "--limit", sessions, "--limit", retained];
        for start in 0..2 {
            let gateway = Gateway::start_on(data.path(), &flags);
            let mut kept = RawClient::open(gateway.address());
            let mut resume = connect(V5, "kept", KEPT);
            // Not a clean start: that would count twice until its shard has released the former
            // session, and the publisher may be on the other one.
            resume[CONNECT_FLAGS] = 0;
            kept.send(&resume);
            let (kind, body) = kept.packet();
            assert_eq!((kind, &body[..2]), (0x20, &[start, 0][..]), "CONNACK, start {start}");
            let mut publisher = RawClient::connected(gateway.address(), V5, "publisher");
            let mut new = RawClient::open(gateway.address());
            new.send(&connect(V5, "new", &[]));
            assert_eq!(new.packets_to_the_end(), [(0x20, vec![0, 0x97, 0])], "Quota exceeded");
            for (topic, puback) in [("a", vec![0, 7]), ("b", vec![0, 7, 0x97])] {
                let mut retained = publish(V5, topic, Some(7), &[], b"x");
                retained[0] |= 1;
                publisher.send(&retained);
                assert_eq!(publisher.packet(), (0x40, puback), "{topic}, start {start}");
            }
            gateway.stop();
        }
    }
}
