//! `$SYS`: mosquitto's names, for who asks for them, and for nobody else.

use super::start;
use crate::process::SHARD_COUNTS;
use crate::process::gateway::Gateway;
use crate::process::raw_client::{RawClient, RawPacket, V3_1_1, V5, publish, subscribe};

/// Topic and payload of a QoS 0 PUBLISH of 3.1.1.
fn message((kind, body): RawPacket) -> (String, String) {
    assert_eq!(kind, 0x30, "QoS 0, not retained");
    let topic_bytes = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let (topic, payload) = body[2..].split_at(topic_bytes);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(topic), text(payload))
}

#[test]
fn they_tell_who_subscribes_what_the_node_does() {
    for shards in SHARD_COUNTS {
        let gateway = start(&["--shards", shards, "--sys-interval-s", "1"]);
        let mut everything = RawClient::connected(gateway.address(), V3_1_1, "everything");
        everything.send(&subscribe(V3_1_1, &["#", "+/broker/#"], 0));
        assert_eq!(everything.packet().0, 0x90);
        let mut dashboard = RawClient::connected(gateway.address(), V3_1_1, "dashboard");
        dashboard.send(&subscribe(V3_1_1, &["$SYS/#"], 0));
        assert_eq!(dashboard.packet().0, 0x90);
        let (mut connected, mut load) = (Vec::new(), None);
        // What was counted before both were there may still be on its way.
        while connected.last().is_none_or(|last| last != "2") || load.is_none() {
            let (topic, payload) = message(dashboard.packet());
            match topic.strip_prefix("$SYS/broker/").expect("only these were asked for") {
                "clients/connected" => connected.push(payload),
                "load/messages/received/1min" => load = Some(payload),
                _ => {}
            }
            assert!(connected.len() < 5, "two are connected: {connected:?}");
        }
        assert!(load.unwrap().parse::<f64>().is_ok());
        // A message behind the interval: had `#` matched, those of `$SYS` would be before it.
        dashboard.send(&publish(V3_1_1, "after", None, &[], b"x"));
        assert_eq!(message(everything.packet()), ("after".to_owned(), "x".to_owned()));
        drop((everything, dashboard));
        gateway.stop();
    }
}

#[test]
fn nobody_else_says_them() {
    let gateway = Gateway::start(&["--sys-interval-s", "0"]);
    let mut client = RawClient::connected(gateway.address(), V5, "client");
    client.send(&subscribe(V5, &["$SYS/#", "$SYSTEM/#"], 0));
    assert_eq!(client.packet().0, 0x90);
    client.send(&publish(V5, "$SYS/broker/version", Some(1), &[], b"none"));
    assert_eq!(client.packet(), (0x40, vec![0, 1, 0x87]), "Not authorized");
    client.send(&publish(V5, "$SYSTEM/x", None, &[], b"x"));
    let (kind, body) = client.packet();
    assert_eq!((kind, &body[2..11]), (0x30, &b"$SYSTEM/x"[..]));
    drop(client);
    gateway.stop();
}

#[test]
fn without_an_interval_there_are_none() {
    let gateway = Gateway::start(&["--sys-interval-s", "0"]);
    let mut dashboard = RawClient::connected(gateway.address(), V3_1_1, "dashboard");
    dashboard.send(&subscribe(V3_1_1, &["$SYS/#", "end"], 0));
    assert_eq!(dashboard.packet().0, 0x90);
    dashboard.send(&publish(V3_1_1, "end", None, &[], b"x"));
    assert_eq!(message(dashboard.packet()).0, "end");
    drop(dashboard);
    gateway.stop();
}
