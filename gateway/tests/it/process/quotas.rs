//! The quotas of the node, as configured, over real sockets and a restart.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, TempDirectory};
use super::raw_client::{RawClient, V5, connect, publish};

/// Session Expiry Interval: never.
const KEPT: &[u8] = &[0x11, 0xFF, 0xFF, 0xFF, 0xFF];

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
            kept.send(&connect(V5, "kept", KEPT));
            let (kind, body) = kept.packet();
            assert_eq!((kind, body[1]), (0x20, 0), "CONNACK, start {start}");
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
