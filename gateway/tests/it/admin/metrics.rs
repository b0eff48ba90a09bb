//! `/metrics`: well formed by Prometheus' own judgement, and true.

use super::http::get;
use super::start;
use crate::nats::server::NatsServer;
use crate::process::gateway::Gateway;
use crate::process::raw_client::{RawClient, V3_1_1, V5, publish, publish_qos2, subscribe};
use crate::process::tools::{tool, tools_folder};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Samples by name and labels.
pub(crate) struct Samples(Vec<(String, f64)>);

impl Samples {
    pub(crate) fn scrape(admin: SocketAddr) -> Self {
        let answer = get(admin, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
        Self::parse(&answer.body)
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        Self(lines.map(sample).collect())
    }

    /// Over all shards, of the series of `name` that have all of `labels`.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_family = |(series, _): &&(String, f64)| {
            series.split('{').next() == Some(name) && labels.iter().all(|one| series.contains(one))
        };
        let found: Vec<f64> = self.0.iter().filter(of_family).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name} {labels:?}");
        found.iter().sum()
    }
}

/// `promtool` with arguments, or `None` where it is missing and this is not CI.
pub(super) fn promtool(arguments: &[&str]) -> Option<Command> {
    let mut command = tool(tools_folder().join("bin/promtool"), &["--version"])?;
    command.args(arguments);
    Some(command)
}

/// Subscriptions, and messages of every QoS over two shards.
fn traffic(gateway: &Gateway) -> Vec<RawClient> {
    let mut subscriber = RawClient::connected(gateway.address(), V5, "subscriber");
    subscriber.send(&subscribe(V5, &["a/+"], 1));
    assert_eq!(subscriber.packet().0, 0x90, "SUBACK");
    let mut publisher = RawClient::connected(gateway.address(), V3_1_1, "publisher");
    publisher.send(&publish(V3_1_1, "a/0", None, &[], b"zero"));
    for packet_id in 1..=3 {
        publisher.send(&publish(V3_1_1, "a/1", Some(packet_id), &[], b"one"));
        assert_eq!(publisher.packet().0, 0x40, "PUBACK");
    }
    publisher.send(&publish_qos2(V3_1_1, "a/2", 9, b"two"));
    assert_eq!(publisher.packet().0, 0x50, "PUBREC");
    publisher.send(&[0x62, 2, 0, 9]);
    assert_eq!(publisher.packet().0, 0x70, "PUBCOMP");
    for _ in 0..5 {
        assert_eq!(subscriber.packet().0 & 0xf0, 0x30, "PUBLISH");
    }
    vec![subscriber, publisher]
}

/// Nothing is wrong with what `/metrics` says, nor could be better, by Prometheus' own judgement.
#[track_caller]
fn check_with_promtool(gateway: &Gateway) {
    let Some(mut command) = promtool(&["check", "metrics"]) else { return };
    let text = get(gateway.admin_address(), "/metrics").body;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn promtool_finds_no_fault() {
    let gateway = start(&["--shards", "2"]);
    let clients = traffic(&gateway);
    check_with_promtool(&gateway);
    drop(clients);
    gateway.stop();
}

#[test]
fn promtool_finds_no_fault_with_jetstream() {
    for sessions in ["local", "shared"] {
        let servers = [NatsServer::start(), NatsServer::start()];
        let nats = servers.each_ref().map(NatsServer::address);
        let nats = [format!("a=nats://{}", nats[0]), format!("b=nats://{}", nats[1])];
        let flags = ["--shards", "2", "--gateway-id", "g1", "--sessions", sessions];
        let flags = [&flags[..], &["--nats", &nats[0], "--nats", &nats[1]]].concat();
        let mut gateway = start(&flags);
        gateway.wait_for_lines("feed: live", 4);
        let clients = traffic(&gateway);
        check_with_promtool(&gateway);
        let samples = Samples::scrape(gateway.admin_address());
        for sub_cluster in ["sub_cluster=\"a\"", "sub_cluster=\"b\""] {
            let linked = samples.sum("gateway_link_up", &[sub_cluster]);
            assert!((linked - 2.0).abs() < 1e-9, "a link a shard: {linked}");
        }
        drop(clients);
        gateway.stop();
    }
}

#[test]
fn what_happened_is_counted_once() {
    for shards in ["1", "2"] {
        let gateway = start(&["--shards", shards, "--limit", "connections_max=100"]);
        let mut clients = traffic(&gateway);
        let mut wrong = RawClient::connected(gateway.address(), V5, "wrong");
        wrong.send(&[0xf0, 0]);
        assert_eq!(wrong.packet(), (0xe0, vec![0x82]), "no AUTH of ours: Protocol Error");
        assert_eq!(wrong.try_packet().unwrap(), None);
        drop(wrong);
        // The session is in the log once a PINGREQ behind it is answered.
        clients[0].send(&[0xc0, 0]);
        assert_eq!(clients[0].packet().0, 0xd0);
        let samples = Samples::scrape(gateway.admin_address());
        let check = |name, labels: &[&str], expected: f64| {
            let found = samples.sum(name, labels);
            assert!((found - expected).abs() < 1e-9, "{name} {labels:?}: {found}, not {expected}");
        };
        check("gateway_connects_total", &[], 3.0);
        check("gateway_connections", &["state=\"connected\""], 2.0);
        check("gateway_connections", &["state=\"expect_connect\""], 0.0);
        check("gateway_topic_filters", &[], 1.0);
        check("gateway_shard_responding", &[], shards.parse().unwrap());
        check("gateway_publish_received_total", &["qos=\"0\""], 1.0);
        check("gateway_publish_received_total", &["qos=\"1\""], 3.0);
        check("gateway_publish_received_total", &["qos=\"2\""], 1.0);
        check("gateway_publish_sent_total", &["qos=\"0\""], 1.0);
        check("gateway_publish_sent_total", &["qos=\"1\""], 4.0);
        check("gateway_packets_received_total", &["type=\"connect\""], 3.0);
        check("gateway_packets_received_total", &["type=\"publish\""], 5.0);
        check("gateway_packets_received_total", &["type=\"pubrel\""], 1.0);
        check("gateway_packets_sent_total", &["type=\"connack\""], 3.0);
        check("gateway_packets_sent_total", &["type=\"suback\""], 1.0);
        check("gateway_packets_sent_total", &["type=\"puback\""], 3.0);
        check("gateway_packets_sent_total", &["type=\"publish\""], 5.0);
        check("gateway_packets_sent_total", &["type=\"disconnect\""], 1.0);
        // Topic, packet id, payload: 12 bytes each at QoS 1, 11 at QoS 0, 12 at QoS 2.
        check("gateway_packet_bytes_received_total", &["type=\"publish\""], 59.0);
        check("gateway_reason_codes_sent_total", &["code=\"0x82\"", "protocol_error"], 1.0);
        check("gateway_protocol_faults_total", &[], 1.0);
        check("gateway_upstream_ack_seconds_count", &[], 4.0);
        check("gateway_limit", &["key=\"connections_max\""], 100.0);
        check("gateway_log_healthy", &[], shards.parse().unwrap());
        assert!(samples.sum("gateway_loop_seconds_count", &[]) > 0.0);
        assert!(samples.sum("process_resident_memory_bytes", &[]) > 1e6);
        let socket_bytes = samples.sum("gateway_received_bytes_total", &[]);
        let packet_bytes = samples.sum("gateway_packet_bytes_received_total", &[]);
        // Every byte is of a packet, but for the two of what was none.
        assert!((socket_bytes - packet_bytes - 2.0).abs() < 1e-9, "{socket_bytes} {packet_bytes}");
        drop(clients);
        gateway.stop();
    }
}
