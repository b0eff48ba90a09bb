//! The control thread against real servers: ring, streams, and how partitions are.

use gateway::config::{NatsIdentity, NatsServer as ServerConfig};
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::nats::{Subject, encode_publish};
use gateway::proto::partition::{PartitionId, Sequence};
use gateway::upstream::jetstream::control::{
    ControlNews, ControlSettings, ControlThread, Extras, PartitionStatus, SubClusterSettings,
    show_ring,
};
use gateway::upstream::jetstream::stored::StoreTime;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::server::{Connection, NatsServer, free_ports, has_batches};
use crate::process::gateway::PATIENCE;

/// A control thread, and what it tells.
struct Control {
    thread: Option<ControlThread>,
    news: Receiver<ControlNews>,
}

impl Control {
    fn start(sub_clusters: Vec<SubClusterSettings>) -> Self {
        let (told, news) = channel();
        let gateway_id = "test".to_owned();
        let reports = Arc::new([]);
        let (extras, is_successor) = (Extras::default(), false);
        let settings = ControlSettings { gateway_id, sub_clusters, extras, reports, is_successor };
        // A test that has seen enough is gone before the thread.
        let thread = ControlThread::spawn(settings, move |news| drop(told.send(news)));
        Self { thread: Some(thread.unwrap()), news }
    }

    fn next(&self) -> ControlNews {
        self.news.recv_timeout(PATIENCE).expect("there is news in time")
    }

    fn ring(&self) -> Arc<RingTable> {
        loop {
            if let ControlNews::Ring(ring, _) = self.next() {
                return ring;
            }
        }
    }

    /// The next status of `partition` that is wanted.
    #[track_caller]
    fn status(
        &self,
        partition: u16,
        mut is_wanted: impl FnMut(&PartitionStatus) -> bool,
    ) -> PartitionStatus {
        loop {
            match self.next() {
                ControlNews::Partition(status)
                    if status.partition == PartitionId(partition) && is_wanted(&status) =>
                {
                    return status;
                }
                ControlNews::Partition(_) | ControlNews::Ring(..) => {}
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}

fn sub_cluster(name: &str, servers: &[SocketAddr]) -> SubClusterSettings {
    let server = |address: &SocketAddr| ServerConfig {
        host: address.ip().to_string(),
        port: address.port(),
    };
    SubClusterSettings {
        name: name.to_owned(),
        servers: servers.iter().map(server).collect(),
        identity: NatsIdentity::None,
        tls: None,
        replicas: 1,
        max_bytes: Some(1_000_000),
        max_age: Duration::from_secs(3_600),
        duplicate_window: Duration::from_secs(60),
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn config_of(connection: &mut Connection, stream: &str) -> Value {
    let info = connection.api(&format!("$JS.API.STREAM.INFO.{stream}"), "");
    serde_json::from_str::<Value>(&info).unwrap()["config"].take()
}

fn publish(connection: &mut Connection, subject: &str, payload: &[u8]) {
    let (mut reply, subject) = (Vec::new(), Subject::literal(subject).unwrap());
    let (_, reply_to) = connection.reply_to(&mut reply);
    encode_publish(subject, Some(reply_to), payload, &mut connection.out);
    let answer = connection.answers(1).pop().unwrap();
    let text = String::from_utf8(answer.payload).unwrap();
    assert!(text.contains("\"seq\""), "{text}");
}

fn has_leader(status: &PartitionStatus) -> bool {
    status.leader.is_some()
}

fn table(epoch: u64, members: &[(u16, &str)]) -> RingTable {
    let member = |(partition, name): &(u16, &str)| Member {
        partition: PartitionId(*partition),
        weight: 1,
        sub_cluster: (*name).to_owned(),
    };
    RingTable::new(epoch, members.iter().map(member).collect()).unwrap()
}

/// The bucket as another client makes it.
fn make_bucket(connection: &mut Connection) {
    let bucket = json!({
        "name": "KV_gateway_ring", "subjects": ["$KV.gateway_ring.>"], "max_msgs_per_subject": 5,
        "allow_rollup_hdrs": true, "allow_direct": true, "discard": "new", "storage": "file",
    });
    connection.api("$JS.API.STREAM.CREATE.KV_gateway_ring", &bucket.to_string());
}

fn put_ring(connection: &mut Connection, table: &RingTable) {
    publish(connection, "$KV.gateway_ring.ring", table.encode().as_bytes());
}

#[test]
fn streams_are_made_with_their_settings() {
    let server = NatsServer::start();
    let control = Control::start(vec![sub_cluster("a", &[server.address()])]);
    assert_eq!(*control.ring(), table(1, &[(0, "a")]));
    let status = control.status(0, has_leader);
    let mut connection = server.connect();
    assert_eq!(status.leader, Some(server.address()));
    assert_eq!((status.leader_name, status.replicas), (connection.info.server_name.clone(), 1));
    assert!(status.created.0 > 0);

    let config = config_of(&mut connection, "MQTT_0");
    for (key, value) in [
        ("subjects", json!(["mqtt.>", "mqtt$.>"])),
        ("storage", json!("file")),
        ("discard", json!("new")),
        ("num_replicas", json!(1)),
        ("max_bytes", json!(1_000_000)),
        ("max_msgs_per_subject", json!(-1)),
        ("max_age", json!(3_600_000_000_000_u64)),
        ("duplicate_window", json!(60_000_000_000_u64)),
        ("republish", json!({"src": ">", "dest": "live.0.>"})),
        ("allow_direct", json!(true)),
        ("allow_rollup_hdrs", json!(false)),
        ("allow_msg_ttl", json!(true)),
        ("allow_atomic", json!(true)),
        ("allow_batched", if has_batches() { json!(true) } else { Value::Null }),
    ] {
        assert_eq!(config[key], value, "{key}: {config}");
    }
    let config = config_of(&mut connection, "MQTT_RETAINED_0");
    for (key, value) in [
        ("subjects", json!(["retained.0.>"])),
        ("storage", json!("file")),
        ("discard", json!("new")),
        ("max_msgs_per_subject", json!(1)),
        ("max_age", json!(0)),
        ("republish", Value::Null),
        ("allow_direct", json!(true)),
        ("allow_msg_ttl", json!(true)),
    ] {
        assert_eq!(config[key], value, "{key}: {config}");
    }

    connection.subscribe(Subject::filter("live.0.>").unwrap(), 7);
    assert!(connection.exchange().is_empty());
    publish(&mut connection, "retained.0.mqtt.a", b"1");
    publish(&mut connection, "retained.0.mqtt.a", b"2");
    encode_publish(Subject::literal("mqtt$.SYS.a").unwrap(), None, b"x", &mut connection.out);
    let delivered = connection.until(|all| all.iter().any(|message| message.sid == 7));
    assert_eq!(delivered.last().unwrap().subject, b"live.0.mqtt$.SYS.a");
}

#[test]
fn statuses_follow_what_is_stored() {
    let server = NatsServer::start();
    let control = Control::start(vec![sub_cluster("a", &[server.address()])]);
    let empty = control.status(0, has_leader);
    assert_eq!((empty.last, empty.last_at), (Sequence(0), None));
    let mut connection = server.connect();
    assert_eq!(empty.server_id.as_ref(), Some(&connection.info.server_id));
    for _ in 0..3 {
        publish(&mut connection, "mqtt.a", b"x");
    }
    let status = control.status(0, |status| status.last == Sequence(3));
    assert_eq!((status.first, status.created), (Sequence(1), empty.created));
    let last = connection.api("$JS.API.STREAM.MSG.GET.MQTT_0", r#"{"seq":3}"#);
    let last = serde_json::from_str::<Value>(&last).unwrap();
    let stored_at = last["message"]["time"].as_str().unwrap();
    assert_eq!(status.last_at, StoreTime::parse(stored_at.as_bytes()), "{stored_at}");
    connection.api("$JS.API.STREAM.PURGE.MQTT_0", r#"{"keep":1}"#);
    control.status(0, |status| status.first == Sequence(3));
    connection.api("$JS.API.STREAM.DELETE.MQTT_0", "");
    let anew = control.status(0, |status| status.created != empty.created);
    assert_eq!((anew.last, anew.leader), (Sequence(0), Some(server.address())));
}

#[test]
fn gateways_find_the_ring_that_the_first_one_made() {
    let (a, b, c) = (NatsServer::start(), NatsServer::start(), NatsServer::start());
    let (a, b) = (sub_cluster("a", &[a.address()]), sub_cluster("b", &[b.address()]));
    let first = Control::start(vec![b.clone(), a.clone()]);
    let second = Control::start(vec![a.clone(), b.clone()]);
    let expected = table(1, &[(0, "a"), (1, "b")]);
    assert_eq!((&*first.ring(), &*second.ring()), (&expected, &expected));
    // Not in the ring so far: a member without topics, which does not hinder who does not know it.
    let third = Control::start(vec![a, b, sub_cluster("c", &[c.address()])]);
    let joined = expected.joined(["c"].into_iter()).unwrap().unwrap();
    assert_eq!((&*third.ring(), &*first.ring()), (&joined, &joined));
    for partition in 0..3 {
        third.status(partition, has_leader);
    }
}

#[test]
fn a_sub_cluster_whose_name_sorts_first_makes_no_second_ring() {
    let (a, b) = (NatsServer::start(), NatsServer::start());
    let b = sub_cluster("b", &[b.address()]);
    let first = Control::start(vec![b.clone()]);
    first.ring();
    let second = Control::start(vec![b, sub_cluster("a", &[a.address()])]);
    let told = second.news.recv_timeout(Duration::from_secs(2));
    assert!(told.is_err(), "{told:?}");
    assert!(!a.connect().api("$JS.API.STREAM.NAMES", "").contains("gateway_ring"));
}

#[test]
fn the_ring_is_shown_and_showing_makes_none() {
    let (a, b) = (NatsServer::start(), NatsServer::start());
    let sub_clusters = vec![sub_cluster("a", &[a.address()]), sub_cluster("b", &[b.address()])];
    let gateway_id = "test".to_owned();
    let extras = Extras::default();
    let reports = Arc::new([]);
    let settings = ControlSettings {
        gateway_id,
        sub_clusters: sub_clusters.clone(),
        extras,
        reports,
        is_successor: false,
    };
    for _ in 0..2 {
        let error = show_ring(&settings).unwrap_err().to_string();
        assert!(error.contains("sub-cluster a") && error.contains("no ring yet"), "{error}");
    }
    let control = Control::start(sub_clusters);
    control.ring();
    let shown = show_ring(&settings).unwrap();
    assert!(shown.starts_with("epoch 1\n") && shown.contains("\n1  b  MQTT_1  1  "), "{shown}");
}

#[test]
fn a_stream_with_other_settings_is_repaired() {
    let server = NatsServer::start();
    let mut connection = server.connect();
    let stream = json!({
        "name": "MQTT_0", "subjects": ["mqtt.>"], "storage": "file", "discard": "old",
        "max_age": 5_000_000_000_u64, "max_msgs_per_subject": 1, "description": "mine",
        "allow_rollup_hdrs": true, "republish": {"src": "mqtt.>", "dest": "elsewhere.>"},
    });
    connection.api("$JS.API.STREAM.CREATE.MQTT_0", &stream.to_string());
    publish(&mut connection, "mqtt.a", b"stays");
    let control = Control::start(vec![sub_cluster("a", &[server.address()])]);
    let status = control.status(0, has_leader);
    assert_eq!(status.last, Sequence(1), "it is the same stream");
    let config = config_of(&mut connection, "MQTT_0");
    for (key, value) in [
        ("subjects", json!(["mqtt.>", "mqtt$.>"])),
        ("discard", json!("new")),
        ("max_age", json!(3_600_000_000_000_u64)),
        ("max_msgs_per_subject", json!(-1)),
        ("allow_rollup_hdrs", json!(false)),
        ("republish", json!({"src": ">", "dest": "live.0.>"})),
        ("allow_msg_ttl", json!(true)),
        ("description", json!("mine")),
    ] {
        assert_eq!(config[key], value, "{key}: {config}");
    }
}

#[test]
fn a_stream_that_cannot_be_repaired_has_no_status() {
    let (a, b) = (NatsServer::start(), NatsServer::start());
    let mut connection = a.connect();
    let stream = json!({"name": "MQTT_0", "subjects": ["mqtt.>"], "storage": "memory"});
    connection.api("$JS.API.STREAM.CREATE.MQTT_0", &stream.to_string());
    let both = vec![sub_cluster("a", &[a.address()]), sub_cluster("b", &[b.address()])];
    let control = Control::start(both);
    control.ring();
    for _ in 0..3 {
        let ControlNews::Partition(status) = control.next() else { panic!("one ring") };
        assert_eq!(status.partition, PartitionId(1));
    }
    assert_eq!(config_of(&mut connection, "MQTT_0")["storage"], "memory");
    connection.api("$JS.API.STREAM.DELETE.MQTT_0", "");
    control.status(0, has_leader);
}

#[test]
fn a_ring_with_a_foreign_sub_cluster_is_not_used() {
    let server = NatsServer::start();
    let mut connection = server.connect();
    make_bucket(&mut connection);
    put_ring(&mut connection, &table(4, &[(3, "a"), (5, "elsewhere")]));
    let control = Control::start(vec![sub_cluster("a", &[server.address()])]);
    // Time for it to look: its connection is there, and it has asked for the ring.
    let asked = "$JS.API.DIRECT.GET.KV_gateway_ring.>";
    connection.subscribe(Subject::filter(asked).unwrap(), 9);
    connection.until(|all| all.iter().filter(|message| message.sid == 9).count() >= 2);
    put_ring(&mut connection, &table(5, &[(3, "a")]));
    assert_eq!(*control.ring(), table(5, &[(3, "a")]), "the first one that is told");
    control.status(3, has_leader);
    // A newer one is told, an older one or one that moves a partition is not.
    put_ring(&mut connection, &table(4, &[(3, "a"), (4, "a")]));
    put_ring(&mut connection, &table(7, &[(3, "a")]));
    assert_eq!(control.ring().epoch(), 7);
}

#[test]
fn a_sub_cluster_that_is_down_does_not_delay_others() {
    let a = NatsServer::start();
    let [port] = free_ports();
    let both = vec![sub_cluster("a", &[a.address()]), sub_cluster("b", &[at(port)])];
    let control = Control::start(both);
    control.ring();
    for _ in 0..2 {
        let ControlNews::Partition(status) = control.next() else { panic!("one ring") };
        assert_eq!((status.partition, status.leader), (PartitionId(0), Some(a.address())));
    }
    let b = NatsServer::start_on(port);
    assert_eq!(control.status(1, has_leader).leader, Some(b.address()));
    drop(b);
    let before = control.status(1, |status| status.leader.is_none());
    let mut told = 0;
    while told < 3 {
        let ControlNews::Partition(status) = control.next() else { panic!("one ring") };
        assert_eq!(status.partition, PartitionId(0), "it is told once that nobody leads");
        told += 1;
    }
    // Another server, with nothing of the old one's data.
    let b = NatsServer::start_on(port);
    let after = control.status(1, has_leader);
    assert_eq!(after.leader, Some(b.address()));
    assert!(after.created > before.created && after.leader_name != before.leader_name);
}

#[test]
fn servers_know_who_the_gateway_is() {
    let server = NatsServer::start_with(&["--port", "-1", "--user", "u", "--pass", "p%"]);
    let mut settings = sub_cluster("a", &[server.address()]);
    let (user, password) = ("u".to_owned(), "p%".to_owned());
    settings.identity = NatsIdentity::Password { user, password };
    Control::start(vec![settings]).status(0, has_leader);

    let key = nkeys::KeyPair::new_user();
    let file = std::env::temp_dir().join(format!("gateway-nkey-{}.conf", std::process::id()));
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}\n", key.public_key());
    std::fs::write(&file, users).unwrap();
    let server = NatsServer::start_with(&["--port", "-1", "--config", file.to_str().unwrap()]);
    let mut settings = sub_cluster("a", &[server.address()]);
    settings.identity = NatsIdentity::Nkey { file: file.clone(), seed: key.seed().unwrap() };
    Control::start(vec![settings]).status(0, has_leader);
    std::fs::remove_file(file).unwrap();
}

/// A server that says it is nats-server 2.10.7, and what it is sent.
fn old_server() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, lines) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let told = told.clone();
            std::thread::spawn(move || serve_as_old(stream, |line| drop(told.send(line))));
        }
    });
    (address, lines)
}

fn serve_as_old(mut stream: TcpStream, tell: impl Fn(String)) {
    let info = json!({
        "server_id": "x", "server_name": "old", "version": "2.10.7", "proto": 1, "headers": true,
        "max_payload": 1_048_576, "jetstream": true, "host": "127.0.0.1", "port": 4_222,
    });
    let mut is_open = stream.write_all(format!("INFO {info}\r\n").as_bytes()).is_ok();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if line.starts_with("PING") {
            is_open = is_open && stream.write_all(b"PONG\r\n").is_ok();
        }
        tell(line);
    }
}

#[test]
fn a_server_that_is_too_old_is_not_used() {
    let new = NatsServer::start();
    let (old, lines) = old_server();
    let both = vec![sub_cluster("a", &[new.address()]), sub_cluster("b", &[old])];
    let control = Control::start(both);
    control.ring();
    for _ in 0..3 {
        let ControlNews::Partition(status) = control.next() else { panic!("one ring") };
        assert_eq!(status.partition, PartitionId(0));
    }
    drop(control);
    let lines: Vec<String> = lines.try_iter().collect();
    assert!(lines.iter().any(|line| line.starts_with("CONNECT")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("$JS.API")), "{lines:?}");
}

#[test]
fn the_leader_of_three_replicas_is_found_and_followed() {
    let mut servers = NatsServer::start_cluster().map(Some);
    let addresses = [0, 1, 2].map(|number| servers[number].as_ref().unwrap().address());
    let number_of = |name: &str| name.trim_start_matches('n').parse::<usize>().unwrap();
    // The others are announced.
    let mut settings = sub_cluster("a", &addresses[..1]);
    settings.replicas = 3;
    let control = Control::start(vec![settings.clone()]);
    let mut before = control.status(0, has_leader);
    assert_eq!(before.replicas, 3);
    // Whichever of them that is, another gateway knows from the beginning which process has answered.
    let other = Control::start(vec![settings]).status(0, has_leader);
    let leader = servers[number_of(&other.leader_name)].as_ref().unwrap();
    assert_eq!(other.server_id, Some(leader.connect().info.server_id));
    assert_eq!(before.leader, Some(addresses[number_of(&before.leader_name)]));
    let step_down = "$JS.API.STREAM.LEADER.STEPDOWN.MQTT_0";
    for change in ["steps down", "is gone"] {
        let leader = number_of(&before.leader_name);
        match change {
            "steps down" => drop(servers[1].as_ref().unwrap().connect().api(step_down, "")),
            _ => drop(servers[leader].take()),
        }
        let after = control
            .status(0, |status| has_leader(status) && status.leader_name != before.leader_name);
        let address = addresses[number_of(&after.leader_name)];
        assert_eq!((after.leader, after.created), (Some(address), before.created), "{change}");
        before = after;
    }
}
