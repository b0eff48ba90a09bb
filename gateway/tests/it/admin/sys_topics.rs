//! `$SYS`: mosquitto's names, for who asks for them, and for nobody else.

use super::start;
use crate::process::SHARD_COUNTS;
use crate::process::gateway::Gateway;
use crate::process::raw_client::{RawClient, RawPacket, V3_1_1, V5, publish, subscribe};
use crate::process::tools::{patience_s, run, tool};
use std::process::Command;

/// Topic and payload of a QoS 0 PUBLISH of 3.1.1.
fn message((kind, body): RawPacket) -> (String, String) {
    assert_eq!(kind & 0xfe, 0x30, "QoS 0");
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
        let (mut connected, mut load, mut is_retained_over) = (Vec::new(), None, false);
        // What was counted before both were there may still be on its way.
        while connected.last().is_none_or(|last| last != "2") || load.is_none() {
            let packet = dashboard.packet();
            // First what there is, retained; then what comes, which is not.
            assert!(packet.0 == 0x30 || !is_retained_over, "{packet:x?}");
            is_retained_over = packet.0 == 0x30;
            let (topic, payload) = message(packet);
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

/// With an interval longer than any test: what comes was there.
#[test]
fn who_subscribes_hears_at_once_how_it_is() {
    for shards in SHARD_COUNTS {
        let gateway = start(&["--shards", shards, "--sys-interval-s", "3600"]);
        let mut first = RawClient::connected(gateway.address(), V3_1_1, "first");
        first.send(&subscribe(V3_1_1, &["$SYS/broker/version"], 0));
        assert_eq!(first.packet().0, 0x90);
        // Live or retained, whichever was earlier: from here on they are there.
        assert_eq!(message(first.packet()).0, "$SYS/broker/version");
        if tool("sh", &["-c", "command -v mosquitto_sub"]).is_none() {
            return;
        }
        // On either shard.
        for id in ["a", "b", "c", "d"] {
            let mut command = Command::new("mosquitto_sub");
            command.args(["-p", &gateway.port(), "-i", id, "-t", "$SYS/broker/version"]);
            command.args(["-t", "$SYS/broker/clients/#", "-F", "%r %q %t %p", "-C", "7"]);
            command.args(["-W", &patience_s()]);
            let said = run(command);
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            let version =
                format!("1 0 $SYS/broker/version gateway version {}", env!("CARGO_PKG_VERSION"));
            assert_eq!(lines.last(), Some(&&*version), "{said}");
            assert!(lines[0].starts_with("1 0 $SYS/broker/clients/active "), "{said}");
        }
        // SUBSCRIBE again, and only if it is new: MQTT 5.0 §3.8.3.1.
        let mut client = RawClient::connected(gateway.address(), V5, "options");
        let retain_handling = |option: u8| {
            let mut packet = subscribe(V5, &["$SYS/broker/version"], 0);
            *packet.last_mut().unwrap() |= option << 4;
            packet
        };
        for (option, is_sent) in [(2, false), (1, false), (0, true), (1, false)] {
            client.send(&retain_handling(option));
            assert_eq!(client.packet().0, 0x90);
            client.send(&[0xc0, 0]);
            let expected: &[u8] = if is_sent { &[0x31, 0xd0] } else { &[0xd0] };
            for kind in expected {
                assert_eq!(client.packet().0, *kind, "{option}");
            }
        }
        drop((first, client));
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
