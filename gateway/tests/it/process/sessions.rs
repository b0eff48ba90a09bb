//! Sessions over real sockets, where a client comes back faster than anything is stored.

use super::SHARD_COUNTS;
use super::gateway::Gateway;
use super::raw_client::{RawClient, V3_1_1, connect, publish, publish_qos2, subscribe};
use crate::packets::framed;

/// How often a scenario is repeated that depends on who is faster.
const TRIES: u16 = 50;

/// A session that outlives its connection; whether there was one already.
fn resumed(gateway: &Gateway, client_id: &str) -> (RawClient, bool) {
    let mut client = RawClient::open(gateway.address());
    let mut bytes = connect(V3_1_1, client_id, &[]);
    let flags_at = 2 + 2 + "MQTT".len() + 1;
    bytes[flags_at] = 0;
    client.send(&bytes);
    let (kind, body) = client.packet();
    assert_eq!((kind, body[1]), (0x20, 0), "CONNACK");
    (client, body[0] == 1)
}

/// A client that comes back before its former connection is forgotten finds its in-flight window
/// as it was. Storing a session and reading it back once went the wrong way round, so that it
/// found an older one: packet ids began again, and exchanges of QoS 2 with them.
#[test]
fn a_client_that_comes_back_at_once_finds_what_was_in_flight() {
    for shards in SHARD_COUNTS {
        let gateway = Gateway::start(&["--shards", shards]);
        let mut publisher = RawClient::connected(gateway.address(), V3_1_1, "publisher");
        for try_number in 1..=TRIES {
            let name = format!("hasty-{try_number}");
            let (mut client, present) = resumed(&gateway, &name);
            assert!(!present, "nobody was {name} before");
            client.send(&subscribe(V3_1_1, &[&name], 2));
            assert_eq!(client.packet().0, 0x90, "SUBACK");
            publisher.send(&publish(V3_1_1, &name, Some(try_number), &[], b"first"));
            publisher.send(&publish_qos2(V3_1_1, &name, try_number, b"second"));
            let sent = [client.packet(), client.packet()];
            drop(client);

            let (mut client, present) = resumed(&gateway, &name);
            assert!(present, "the session of {name}");
            for (kind, body) in sent {
                assert_eq!(client.packet(), (kind | 0x08, body), "DUP, and the same packet id");
            }
            for _ in 0..2 {
                assert!(matches!(publisher.packet().0, 0x40 | 0x50), "PUBACK, PUBREC");
            }
            publisher.send(&framed(0x62, &try_number.to_be_bytes()));
            assert_eq!(publisher.packet().0, 0x70, "PUBCOMP");
        }
        gateway.stop();
    }
}
