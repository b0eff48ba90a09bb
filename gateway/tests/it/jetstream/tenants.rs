//! Tenants behind real servers: equal client ids and topics that never meet, and applications of one.

use super::device::{Device, Hello};
use super::permissions::server_as_in;
use super::site::{Node, flags};
use crate::nats::server::NatsServer;
use crate::process::gateway::{PATIENCE, TempDirectory, gateway_command};
use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, HeaderMap};
use futures_lite::StreamExt as _;
use gateway::proto::mqtt::{Properties, QoS, Will};
use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

const TENANTS: [&str; 2] = ["acme", "zen"];

/// Users `acme` and `zen` of these tenants, and `app`, who sees all. All have the password `pw`.
fn write_users(directory: &TempDirectory) -> Vec<String> {
    let users = directory.path().join("users");
    std::fs::write(&users, "").unwrap();
    for user in TENANTS.iter().chain(&["app"]) {
        let mut command = gateway_command();
        command.args(["passwd", "-b", "-I", "5", users.to_str().unwrap(), user, "pw"]);
        assert!(command.output().unwrap().status.success());
    }
    let file = directory.path().join("gateway.toml");
    let tenant = |name: &&str| format!("[[tenant]]\nuser = \"{name}*\"\nmountpoint = \"{name}\"\n");
    let tables: String = TENANTS.iter().map(tenant).collect();
    let text = format!("password_file = {:?}\n{tables}", users.to_str().unwrap());
    std::fs::write(&file, text).unwrap();
    ["--config", file.to_str().unwrap()].map(str::to_owned).to_vec()
}

/// Two gateways that log in as the example says.
fn gateways(users: &[String], sessions: &str, address: SocketAddr) -> [Node; 2] {
    ["g1", "g2"].map(|id| {
        let mut flags = flags(id, sessions, &[address]);
        let url = flags.last_mut().unwrap();
        *url = url.replace("nats://", "nats://gateway:change-me@");
        flags.extend(users.iter().cloned());
        flags.extend(["--events", "connect"].map(str::to_owned));
        let mut node = Node::start_with(flags);
        node.wait_until_live(1);
        node
    })
}

fn as_user<'a>(user: &'a str, hello: Hello<'a>) -> Hello<'a> {
    Hello { user: Some((user, "pw")), ..hello }
}

fn brief(address: SocketAddr, user: &str, client_id: &str) -> Device {
    Device::connect(address, client_id, as_user(user, Hello::BRIEF)).0
}

/// Each tenant does the same at the same time; `there` is another gateway.
fn never_meet(here: SocketAddr, there: SocketAddr, is_shared: bool) {
    let mut listeners = TENANTS.map(|tenant| {
        let mut listener = brief(there, tenant, "listener");
        listener.listen(&["#"], QoS::ExactlyOnce);
        listener
    });
    let mut publishers = TENANTS.map(|tenant| brief(here, tenant, "publisher"));
    let mut app = brief(there, "app", "listener");
    app.listen(&["acme/#", "zen/#"], QoS::ExactlyOnce);
    for (place, tenant) in TENANTS.into_iter().enumerate() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let text = format!("{tenant} {qos:?}");
            publishers[place].publish("a/b", qos, &text);
            let message = listeners[place].message();
            assert_eq!((message.topic.as_str(), message.text()), ("a/b", &*text));
            let message = app.message();
            assert_eq!((message.topic, message.payload), (format!("{tenant}/a/b"), text.into()));
        }
        // Retained.
        publishers[place].retain("kept", QoS::AtLeastOnce, tenant);
        assert_eq!(listeners[place].message().text(), tenant);
        app.message();
        // A will, published by the gateway of a connection that is lost.
        let will = Will {
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::NONE,
            topic: "will",
            payload: tenant.as_bytes(),
        };
        let hello = as_user(tenant, Hello { will: Some(will), ..Hello::BRIEF });
        drop(Device::connect(here, "mortal", hello));
        let message = listeners[place].message();
        assert_eq!((message.topic.as_str(), message.text()), ("will", tenant));
        app.message();
    }
    for (place, tenant) in TENANTS.into_iter().enumerate() {
        let mut late = brief(there, tenant, "late");
        late.listen(&["+"], QoS::AtLeastOnce);
        let message = late.message();
        assert_eq!((message.topic.as_str(), message.text()), ("kept", tenant));
        late.ping();
        assert!(late.take().is_empty(), "nothing of {}", TENANTS[1 - place]);
    }

    // A group of each, of one name.
    let mut members = TENANTS.map(|tenant| {
        [here, there].map(|at| {
            let mut member = brief(at, tenant, &format!("member {at}"));
            member.listen(&["$share/g/jobs"], QoS::AtLeastOnce);
            member
        })
    });
    for round in 0..4 {
        for (place, tenant) in TENANTS.into_iter().enumerate() {
            publishers[place].publish("jobs", QoS::AtLeastOnce, format!("{tenant} {round}"));
        }
    }
    for (place, tenant) in TENANTS.into_iter().enumerate() {
        let mut got = Vec::new();
        while got.len() < 4 {
            for member in &mut members[place] {
                member.ping();
                got.extend(member.take());
            }
        }
        assert!(got.iter().all(|one| one.topic == "jobs" && one.text().starts_with(tenant)));
        let all = listeners[place].messages(4);
        assert!(all.iter().all(|one| one.text().starts_with(tenant)), "{all:?}");
    }
    app.messages(8);

    // A session that is away, and comes back: elsewhere if it can.
    let home = if is_shared { there } else { here };
    for tenant in TENANTS {
        let hello = as_user(tenant, Hello::LASTING);
        let (mut sleeper, welcome) = Device::connect(here, "sleeper", hello);
        assert!(!welcome.session_present, "{tenant}");
        sleeper.listen(&["night"], QoS::AtLeastOnce);
    }
    for (place, tenant) in TENANTS.into_iter().enumerate() {
        publishers[place].publish("night", QoS::AtLeastOnce, tenant);
    }
    let mut sleepers = TENANTS.map(|tenant| {
        let (mut sleeper, welcome) =
            Device::connect(home, "sleeper", as_user(tenant, Hello::LASTING));
        assert!(welcome.session_present, "{tenant}");
        assert_eq!(sleeper.message().text(), tenant);
        sleeper
    });
    // Both are connected, and neither has taken the other's place.
    for sleeper in &mut sleepers {
        sleeper.ping();
        assert!(sleeper.take().is_empty());
    }
    for listener in &mut listeners {
        assert_eq!(listener.message().topic, "night");
        listener.ping();
        assert!(listener.take().is_empty());
    }
}

#[test]
fn tenants_never_meet_behind_servers() {
    let directory = TempDirectory::new();
    let server = server_as_in(&directory, "nats-server.conf");
    let users = write_users(&directory);
    for sessions in ["shared", "local"] {
        let mut nodes = gateways(&users, sessions, server.address());
        let [here, there] = nodes.each_ref().map(|node| node.address().unwrap());
        never_meet(here, there, sessions == "shared");
        for tenant in TENANTS {
            brief(here, tenant, "publisher").retain("kept", QoS::AtLeastOnce, "");
        }
        nodes.iter_mut().for_each(Node::stop);
    }
}

/// Runs `scene` with one gateway, a client of it by address, and an application as the example has it.
fn with_application<F: Future<Output = ()>>(
    example: &str,
    scene: impl FnOnce(SocketAddr, Client, Client) -> F,
) {
    let directory = TempDirectory::new();
    let server = server_as_in(&directory, example);
    let users = write_users(&directory);
    let [node, _other] = gateways(&users, "local", server.address());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let application = login(&server, "acme", "change-me-three", "_INBOX_acme").await;
        let operator = login(&server, "gateway", "change-me", "_INBOX.operator").await;
        let scene = scene(node.address().unwrap(), application, operator);
        tokio::time::timeout(PATIENCE, scene).await.expect("it ends in time");
    });
}

async fn login(server: &NatsServer, user: &str, password: &str, inbox: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    options.custom_inbox_prefix(inbox).connect(server.address().to_string()).await.unwrap()
}

/// What the application hears of a device of its tenant, and what devices hear of it.
async fn reads_and_commands(address: SocketAddr, application: &Client) {
    let mut live = application.subscribe("live.0.mqtt.acme.>").await.unwrap();
    let mut events = application.subscribe("mqtt_events.*.*.acme.*").await.unwrap();
    // What the server has of one connection it handles in order: behind this answer the subscriptions are there.
    let context = jetstream::new(application.clone());
    context.publish("mqtt.acme.ready", "ready".into()).await.unwrap().await.unwrap();
    assert_eq!(live.next().await.unwrap().subject.as_str(), "live.0.mqtt.acme.ready");
    let mut devices = TENANTS.map(|tenant| brief(address, tenant, "dev.1"));
    for (device, tenant) in devices.iter_mut().zip(TENANTS) {
        device.listen(&["cmd"], QoS::AtLeastOnce);
        device.publish("state", QoS::AtLeastOnce, tenant);
        device.publish("state", QoS::AtMostOnce, tenant);
    }
    for stored in [true, false] {
        let message = live.next().await.unwrap();
        assert_eq!(message.subject.as_str(), "live.0.mqtt.acme.state");
        assert_eq!(&message.payload[..], b"acme");
        let headers = message.headers.unwrap();
        let get = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(get("Mqtt-Client-Id").as_deref(), Some("dev.1"));
        assert_eq!(get("Mqtt-Mountpoint").as_deref(), Some("acme"));
        assert_eq!(get("Nats-Sequence").is_some(), stored);
    }
    let event = events.next().await.unwrap();
    assert_eq!(event.subject.as_str(), "mqtt_events.g1.connect.acme.dev%2E1");
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((&event["client_id"], &event["mountpoint"]), (&"dev.1".into(), &"acme".into()));

    let publish = context.publish("mqtt.acme.cmd", "open".into());
    publish.await.unwrap().await.unwrap();
    let message = devices[0].message();
    assert_eq!((message.topic.as_str(), message.text()), ("cmd", "open"));
    devices[1].ping();
    assert!(devices[1].take().is_empty());
}

#[test]
fn an_application_with_the_permissions_of_the_example_has_its_tenant() {
    with_application("nats-server.conf", |address, application, _| async move {
        reads_and_commands(address, &application).await;
        let mut zen = brief(address, "zen", "listener");
        zen.listen(&["#"], QoS::AtLeastOnce);
        let mut refused = Vec::new();
        for subject in ["mqtt.zen.>", "live.0.mqtt.zen.>", "mqtt.>", "live.>", "_INBOX.>", "_GW.>"]
        {
            refused.push(application.subscribe(subject).await.unwrap());
        }
        for subject in ["mqtt.zen.cmd", "live.0.mqtt.zen.cmd", "sessions.0.client.x"] {
            application.publish(subject, "harm".into()).await.unwrap();
        }
        application.flush().await.unwrap();
        brief(address, "zen", "publisher").publish("own", QoS::AtLeastOnce, "own");
        assert_eq!(zen.message().text(), "own");
        zen.ping();
        assert!(zen.take().is_empty());
        for mut subscriber in refused {
            let next = tokio::time::timeout(Duration::from_millis(50), subscriber.next());
            assert!(!matches!(next.await, Ok(Some(_))), "nothing comes");
        }
    });
}

/// Neither the reply subject of a publish nor that of a question for what is stored leads to others.
#[test]
fn an_application_in_an_account_of_its_own_can_reach_nothing_else() {
    with_application("nats-tenants.conf", |address, application, operator| async move {
        reads_and_commands(address, &application).await;
        let mut zen = brief(address, "zen", "listener");
        zen.listen(&["#"], QoS::AtLeastOnce);
        let context = jetstream::new(operator);
        let stream = context.get_stream_no_info("MQTT_0").await.unwrap();
        let config = jetstream::consumer::pull::Config {
            durable_name: Some("acme".to_owned()),
            filter_subject: "mqtt.acme.>".to_owned(),
            ..Default::default()
        };
        stream.create_consumer(config).await.unwrap();
        let next = "$JS.API.CONSUMER.MSG.NEXT.MQTT_0.acme";
        let inbox = application.new_inbox();
        let mut answers = application.subscribe(inbox.clone()).await.unwrap();
        for expected in ["ready", "acme", "open"] {
            application.publish_with_reply(next, inbox.clone(), "1".into()).await.unwrap();
            let message = answers.next().await.unwrap();
            assert_eq!(&message.payload[..], expected.as_bytes());
            application.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
        }
        let mut headers = HeaderMap::new();
        headers.insert("Mqtt-Client-Id", "harm");
        for reply in ["mqtt.zen.cmd", "live.0.mqtt.zen.cmd", "_GW.connected"] {
            let (harm, headers) = ("harm".into(), headers.clone());
            let publish =
                application.publish_with_reply_and_headers("mqtt.acme.x", reply, headers, harm);
            publish.await.unwrap();
            application.publish_with_reply(next, reply, "1".into()).await.unwrap();
        }
        for subject in ["mqtt.zen.cmd", "live.0.mqtt.zen.cmd"] {
            application.publish(subject, "harm".into()).await.unwrap();
        }
        application.flush().await.unwrap();
        let mut publisher = brief(address, "zen", "publisher");
        for round in 0..5 {
            publisher.publish("own", QoS::AtLeastOnce, "own");
            assert_eq!(zen.message().text(), "own", "{round}");
        }
    });
}
