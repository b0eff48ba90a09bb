//! What applications hear of clients that come, go and subscribe.

use super::device::{Device, Hello, at};
use super::site::{Node, Site, flags};
use crate::process::gateway::PATIENCE;
use async_nats::Subscriber;
use futures_lite::{FutureExt as _, StreamExt as _};
use gateway::proto::mqtt::{Properties, QoS, ReasonCode, Will};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;

const ALL: [&str; 4] = ["connect", "disconnect", "subscribe", "unsubscribe"];

/// What an application that listens at every sub-cluster has heard.
struct Backend {
    subscribers: Vec<Subscriber>,
    /// By client id, in the order in which it came.
    heard: BTreeMap<String, Vec<Value>>,
}

impl Backend {
    async fn listen(site: &Site, filter: &'static str) -> Self {
        let mut subscribers = Vec::new();
        for address in site.addresses() {
            let client = async_nats::connect(address.to_string()).await.unwrap();
            subscribers.push(client.subscribe(filter).await.unwrap());
            client.flush().await.unwrap();
        }
        Self { subscribers, heard: BTreeMap::new() }
    }

    async fn hear(&mut self) -> Value {
        let mut next = async { std::future::pending().await }.boxed_local();
        for subscriber in &mut self.subscribers {
            next = next.or(subscriber.next()).boxed_local();
        }
        let message = next.await.expect("the servers stay");
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let client_id = event["client_id"].as_str().unwrap().to_owned();
        let token = client_id.replace('%', "%25").replace('.', "%2E").replace(' ', "%20");
        let kind = event["event"].as_str().unwrap();
        let gateway = event["gateway"].as_str().unwrap();
        let subject = format!("mqtt_events.{gateway}.{kind}.{token}");
        assert_eq!(message.subject.as_str(), subject);
        self.heard.entry(client_id).or_default().push(event.clone());
        event
    }

    /// Hears until this client has said so many things; returns them, each with these keys.
    async fn of(&mut self, client_id: &str, count: usize, keys: &[&str]) -> Vec<Value> {
        while self.heard.get(client_id).is_none_or(|events| events.len() < count) {
            self.hear().await;
        }
        let pick = |event: &Value| {
            keys.iter().map(|key| event.get(*key).cloned().unwrap_or(Value::Null)).collect()
        };
        self.heard[client_id].iter().map(pick).collect()
    }
}

/// Runs `scene` with a site and a gateway that tells `events`.
fn run<F: Future<Output = ()>>(
    events: &[&str],
    filter: &'static str,
    scene: impl FnOnce(Node, Backend) -> F,
) {
    let site = Site::start();
    let mut flags = flags("g1", "local", &site.addresses());
    flags.extend(events.iter().flat_map(|event| ["--events", event].map(str::to_owned)));
    let mut node = Node::start_with(flags);
    node.wait_until_live(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = scene(node, Backend::listen(&site, filter).await);
        tokio::time::timeout(PATIENCE, scene).await.expect("it ends in time");
    });
}

fn with_will(delay: &[u8]) -> Hello<'_> {
    let properties = Properties::from_validated(delay);
    let (qos, topic, payload) = (QoS::AtLeastOnce, "wills", &b"gone"[..]);
    let will = Will { qos, retain: false, properties, topic, payload };
    Hello { will: Some(will), ..Hello::LASTING }
}

#[test]
fn a_backend_hears_who_comes_and_goes() {
    run(&ALL, "mqtt_events.*.*.*", |node, mut backend| async move {
        let address = node.address().unwrap();
        let (mut device, _) = Device::connect(address, "dev.1/a b", with_will(&[]));
        let first = backend.hear().await;
        let peer = first["address"].as_str().unwrap();
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        assert!(first["at_ms"].as_u64() >= first["accepted_at_ms"].as_u64(), "{first}");
        let asked = [("a/#", at(QoS::AtLeastOnce)), ("a#", at(QoS::AtMostOnce))];
        assert_eq!(device.subscribe(&asked), [1, ReasonCode::TopicFilterInvalid as u8]);
        assert_eq!(device.subscribe(&[("$share/g/b", at(QoS::ExactlyOnce))]), [2]);
        device.unsubscribe(&["a/#", "never"]);
        drop(device);
        let keys = ["event", "filters", "by", "will", "has_will", "session_expiry_s"];
        let filter = |filter: &str| json!([{ "filter": filter }]);
        let granted = |filter: &str, qos: u8| json!([{ "filter": filter, "qos": qos }]);
        assert_eq!(
            backend.of("dev.1/a b", 5, &keys).await,
            [
                json!(["connect", null, null, null, true, 3600]),
                json!(["subscribe", granted("a/#", 1), null, null, null, null]),
                json!(["subscribe", granted("$share/g/b", 2), null, null, null, null]),
                json!(["unsubscribe", filter("a/#"), null, null, null, null]),
                json!(["disconnect", null, "network", "published", null, 3600]),
            ]
        );
        let ends: Vec<_> =
            backend.heard["dev.1/a b"].iter().map(|event| &event["connection"]).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "one connection: {ends:?}");
    });
}

#[test]
fn why_a_connection_ended_is_told_before_the_next_of_the_client() {
    run(&ALL, "mqtt_events.g1.>", |node, mut backend| async move {
        let address = node.address().unwrap();
        let clients = ["one", "two", "three", "four", "five", "six"];
        for client_id in clients {
            let (mut former, _) = Device::connect(address, client_id, with_will(&[24, 0, 0, 0, 9]));
            let (mut later, welcome) = Device::connect(address, client_id, Hello::LASTING);
            assert_eq!(former.goodbye(), ReasonCode::SessionTakenOver);
            assert!(welcome.session_present);
            later.disconnect(ReasonCode::Success);
            let (mut last, _) = Device::connect(address, client_id, with_will(&[24, 0, 0, 0, 9]));
            last.disconnect(ReasonCode::DisconnectWithWillMessage);
        }
        let keys = ["event", "session_present", "by", "reason_code", "will"];
        for client_id in clients {
            assert_eq!(
                backend.of(client_id, 6, &keys).await,
                [
                    json!(["connect", false, null, null, null]),
                    json!(["disconnect", null, "gateway", 0x8E, "none"]),
                    json!(["connect", true, null, null, null]),
                    json!(["disconnect", null, "client", 0, "none"]),
                    json!(["connect", true, null, null, null]),
                    json!(["disconnect", null, "client", 4, "delayed"]),
                ],
                "{client_id}"
            );
        }
    });
}

/// With sessions that any gateway can go on with.
#[test]
fn a_client_that_goes_to_another_gateway_leaves_the_first() {
    let site = Site::start();
    let nodes = ["g1", "g2"].map(|id| {
        let mut flags = flags(id, "shared", &site.addresses());
        flags.extend(["--events", "connect", "--events", "disconnect"].map(str::to_owned));
        let mut node = Node::start_with(flags);
        node.wait_until_live(3);
        node
    });
    let [here, there] = nodes.each_ref().map(|node| node.address().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scene = async {
        let mut backend = Backend::listen(&site, "mqtt_events.>").await;
        for (client_id, hello, will, present) in [
            ("brief", Hello { will: with_will(&[]).will, ..Hello::BRIEF }, "published", false),
            ("lasting", Hello::LASTING, "none", true),
            ("delayed", with_will(&[24, 0, 0, 0, 9]), "none", true),
        ] {
            let (mut former, _) = Device::connect(here, client_id, hello);
            let (_later, welcome) = Device::connect(there, client_id, hello);
            assert_eq!(former.goodbye(), ReasonCode::SessionTakenOver);
            assert_eq!(welcome.session_present, present, "{client_id}");
            let keys = ["gateway", "event", "reason_code", "will", "session_present"];
            let mut told = backend.of(client_id, 3, &keys).await;
            // Of two gateways nobody says which is first.
            told.sort_by_key(|event| event[0].as_str() == Some("g2"));
            let expected = [
                json!(["g1", "connect", null, null, false]),
                json!(["g1", "disconnect", 0x8E, will, null]),
                json!(["g2", "connect", null, null, present]),
            ];
            assert_eq!(told, expected, "{client_id}");
        }
    };
    let scene = async { tokio::time::timeout(PATIENCE, scene).await };
    runtime.block_on(scene).expect("it ends in time");
}

#[test]
fn only_what_was_asked_for_is_told() {
    run(&["unsubscribe"], "mqtt_events.>", |node, mut backend| async move {
        let mut device = Device::brief(node.address().unwrap(), "dev");
        device.listen(&["a", "b"], QoS::AtMostOnce);
        device.unsubscribe(&["a"]);
        drop(device);
        let mut device = Device::brief(node.address().unwrap(), "dev");
        device.listen(&["c"], QoS::AtMostOnce);
        device.unsubscribe(&["c"]);
        let expected = ["a", "c"].map(|name| json!(["unsubscribe", [{ "filter": name }]]));
        assert_eq!(backend.of("dev", 2, &["event", "filters"]).await, expected);
    });
}

#[test]
fn a_gateway_that_ends_says_of_each_client_that_it_is_gone() {
    run(&["disconnect"], "mqtt_events.>", |mut node, mut backend| async move {
        let clients: Vec<String> = (0..50).map(|number| format!("dev{number}")).collect();
        let connect = |client_id: &String| Device::brief(node.address().unwrap(), client_id);
        let devices: Vec<Device> = clients.iter().map(connect).collect();
        node.terminate();
        let keys = ["event", "by", "reason_code"];
        for client_id in &clients {
            let told = backend.of(client_id, 1, &keys).await;
            assert_eq!(told, [json!(["disconnect", "gateway", 0x8B])]);
        }
        while !node.has_ended() {
            tokio::task::yield_now().await;
        }
        drop(devices);
    });
}
