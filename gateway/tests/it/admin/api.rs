//! The JSON API: what it says is true, comes in pages, and does what it says.

use super::http::{Answer, get, request};
use super::start;
use crate::nats::server::NatsServer;
use crate::packets::framed;
use crate::process::SHARD_COUNTS;
use crate::process::gateway::{Gateway, PATIENCE, TempDirectory};
use crate::process::hostile::now;
use crate::process::raw_client::{RawClient, V3_1_1, V5, publish, push_text, subscribe};
use crate::process::tenants;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

#[track_caller]
fn value(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[track_caller]
fn json_of(admin: SocketAddr, path: &str) -> Value {
    value(&get(admin, path))
}

/// All rows of a list, page by page.
#[track_caller]
fn rows(admin: SocketAddr, path: &str, limit: usize) -> Vec<Value> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = json_of(admin, &format!("{path}&limit={limit}{after}"));
        let found = page["rows"].as_array().unwrap();
        assert!(found.len() <= limit);
        rows.extend(found.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", encoded(next)),
            None => return rows,
        }
    }
    panic!("the pages do not end");
}

/// Percent-encoded, for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn client_ids(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|row| row["client_id"].as_str().unwrap().to_owned()).collect()
}

fn connected(gateway: &Gateway, names: &[String]) -> Vec<RawClient> {
    let connect = |name: &String| RawClient::connected(gateway.address(), V5, name);
    names.iter().map(connect).collect()
}

#[test]
fn every_get_of_the_document_is_answered() {
    let gateway = start(&["--shards", "2"]);
    let admin = gateway.admin_address();
    let document = json_of(admin, "/api/v1/openapi.json");
    for (path, methods) in document["paths"].as_object().unwrap() {
        if methods.get("get").is_none() || path.contains("trace") {
            continue;
        }
        let path = path.replace("{client_id}", "nobody");
        let answer = get(admin, &path);
        let expected = match path.as_str() {
            "/api/v1/clients/nobody" => 404,
            "/api/v1/subscribers" => 400,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{path}: {}", answer.body);
    }
    gateway.stop();
}

#[test]
fn clients_are_listed_in_pages_and_found() {
    for shards in SHARD_COUNTS {
        let gateway = start(&["--shards", shards]);
        let admin = gateway.admin_address();
        let names: Vec<String> = (0..25).map(|number| format!("lamp-{number}")).collect();
        let mut clients = connected(&gateway, &names);
        clients.push(RawClient::connected(gateway.address(), V3_1_1, "door"));
        let all = rows(admin, "/api/v1/clients?", 4);
        assert_eq!(all.len(), 26, "each once");
        assert!(client_ids(&all).is_superset(&names.iter().cloned().collect()));
        assert_eq!(rows(admin, "/api/v1/clients?prefix=lamp-1", 100).len(), 11);
        assert_eq!(rows(admin, "/api/v1/clients?address=127.0.0.1", 100).len(), 26);
        assert_eq!(rows(admin, "/api/v1/clients?address=127.0.0.2", 100).len(), 0);
        assert_eq!(rows(admin, "/api/v1/clients?lag_min=1", 100).len(), 0);
        let of_first = rows(admin, "/api/v1/clients?shard=0", 7);
        assert!(of_first.iter().all(|row| row["shard"] == 0));
        assert_eq!(of_first.len() == 26, shards == "1");
        let door = &rows(admin, "/api/v1/clients?prefix=door", 1)[0];
        assert_eq!((&door["version"], &door["stage"]), (&json!("3.1.1"), &json!("online")));
        assert_eq!(get(admin, "/api/v1/clients?after=nonsense").status, 400);
        assert_eq!(get(admin, "/api/v1/clients?limit=many").status, 400);
        drop(clients);
        gateway.stop();
    }
}

#[test]
fn a_session_is_shown_in_full_connected_and_stored() {
    let gateway = start(&["--shards", "2"]);
    let admin = gateway.admin_address();
    // Clean Start, Session Expiry Interval of an hour.
    let mut lamp = RawClient::open(gateway.address());
    let expiry = [0x11, 0, 0, 0x0e, 0x10];
    lamp.send(&crate::process::raw_client::connect(V5, "a/b", &expiry));
    assert_eq!(lamp.packet().0, 0x20);
    lamp.send(&subscribe(V5, &["t/#", "$share/g/s"], 1));
    assert_eq!(lamp.packet().0, 0x90);
    let mut publisher = RawClient::connected(gateway.address(), V3_1_1, "p");
    publisher.send(&publish(V3_1_1, "t/1", Some(1), &[], b"secret words"));
    assert_eq!(publisher.packet().0, 0x40);
    // Not acknowledged: it stays in flight.
    assert_eq!(lamp.packet().0, 0x32);
    let answer = get(admin, "/api/v1/clients/a%2Fb");
    assert!(!answer.body.contains("secret"), "{}", answer.body);
    let view = value(&answer);
    assert_eq!(view["session_expiry_s"], 3_600);
    assert_eq!(view["in_flight"], 1);
    assert_eq!(view["messages_in_flight"][0]["step"], "ExpectPuback");
    let filters: BTreeSet<_> =
        view["filters"].as_array().unwrap().iter().map(|one| one["filter"].to_string()).collect();
    assert_eq!(filters, BTreeSet::from(["\"t/#\"".to_owned(), "\"$share/g/s\"".to_owned()]));
    assert_eq!(view["filters"][0]["qos"], 1);
    let address = lamp.stream().local_addr().unwrap().to_string();
    assert_eq!(view["peer"]["address"], address);

    let found = json_of(admin, "/api/v1/subscribers?topic=t/9");
    assert_eq!((&found["count"], &found["rows"][0]["client_id"]), (&json!(1), &json!("a/b")));
    assert_eq!((&found["group_count"], &found["groups"]), (&json!(0), &json!([])));
    assert_eq!(json_of(admin, "/api/v1/subscribers?topic=u")["count"], 0);
    let mut other = RawClient::connected(gateway.address(), V5, "other");
    other.send(&subscribe(V5, &["$share/g/+", "$share/h/s"], 0));
    assert_eq!(other.packet().0, 0x90);
    let found = json_of(admin, "/api/v1/subscribers?topic=s");
    let group = |name: &str, filter: &str, members: u32| json!({"share_name": name, "filter": filter, "members": members});
    let groups = json!([group("g", "+", 1), group("g", "s", 1), group("h", "s", 1)]);
    assert_eq!((&found["count"], &found["groups"]), (&json!(0), &groups));
    assert_eq!(found["group_count"], 3);
    drop(other);
    assert_eq!(get(admin, "/api/v1/subscribers?topic=t/%23").status, 400);

    // It leaves memory once it is recorded, which the next CONNECT of another waits for in no way.
    drop(lamp);
    let mut stored = get(admin, "/api/v1/clients/a%2Fb");
    while value(&stored)["stage"] != "offline" {
        stored = get(admin, "/api/v1/clients/a%2Fb");
    }
    let stored = value(&stored);
    assert_eq!(stored["in_flight"], 1);
    assert!(stored["expires_at_ms"].as_u64().is_some(), "{stored}");
    let sessions = rows(admin, "/api/v1/sessions?prefix=a", 1);
    assert_eq!(client_ids(&sessions), BTreeSet::from(["a/b".to_owned()]));
    drop(publisher);
    gateway.stop();
}

/// The same client id in two tenants is two clients, here too.
#[test]
fn a_tenants_clients_are_asked_for_with_its_mountpoint() {
    let folder = TempDirectory::new();
    let file = folder.path().join("gateway.toml");
    let tables = [("acme*", "acme"), ("zen*", "zen")];
    let users = ["acme", "zen", "app"];
    std::fs::write(&file, tenants::configuration(&folder, &users, &tables)).unwrap();
    let gateway = start(&["--shards", "2", "--config", file.to_str().unwrap()]);
    let admin = gateway.admin_address();
    let mut clients = users.map(|user| {
        let mut client = tenants::enter(gateway.address(), user, "lamp");
        client.send(&subscribe(V5, &["a/#"], 1));
        assert_eq!(client.packet().0, 0x90);
        client
    });
    for (query, expected) in [("", 3), ("?mountpoint=zen", 1), ("?mountpoint=acme&prefix=la", 1)] {
        let page = json_of(admin, &format!("/api/v1/clients{query}"));
        assert_eq!(page["rows"].as_array().unwrap().len(), expected, "{query}");
    }
    for (query, mountpoint, filter) in [
        ("?mountpoint=acme", json!("acme"), "acme/a/#"),
        ("?mountpoint=zen", json!("zen"), "zen/a/#"),
        ("", Value::Null, "a/#"),
    ] {
        let one = json_of(admin, &format!("/api/v1/clients/lamp{query}"));
        assert_eq!((&one["client_id"], &one["mountpoint"]), (&json!("lamp"), &mountpoint));
        assert_eq!(one["filters"][0]["filter"], filter);
    }
    assert_eq!(get(admin, "/api/v1/clients/lamp?mountpoint=nobody").status, 404);
    let found = json_of(admin, "/api/v1/subscribers?topic=zen/a/b");
    assert_eq!(
        found["rows"],
        json!([{ "client_id": "lamp", "mountpoint": "zen", "shard": found["rows"][0]["shard"], "qos": 1, "identifier": 0 }])
    );
    let path = "/api/v1/clients/lamp/connection?mountpoint=zen";
    assert_eq!(request(admin, "DELETE", path, &[], "").status, 204);
    assert_eq!(clients[1].packet(), (0xE0, vec![0x98]));
    clients[0].send(&[0xC0, 0]);
    assert_eq!(clients[0].packet().0, 0xD0, "the other stays");
    // What is stored: of those without a mountpoint, of one tenant, of all.
    for user in users {
        let mut body = b"\0\x04MQTT\x05\xC2\0\0\x05\x11\0\0\x0E\x10".to_vec();
        for text in ["lamp-2", user, "pw"] {
            push_text(&mut body, text);
        }
        let mut client = RawClient::open(gateway.address());
        client.send(&framed(0x10, &body));
        assert_eq!(client.packet().0, 0x20);
        client.send(&[0xE0, 0]);
    }
    let stored = |query: &str| -> Vec<Value> {
        let rows = rows(admin, &format!("/api/v1/sessions?{query}"), 1);
        rows.iter().map(|row| row["mountpoint"].clone()).collect()
    };
    let started = now();
    while stored("").len() < 3 {
        assert!(started.elapsed() < PATIENCE, "three are stored");
    }
    for (query, expected) in [
        ("", vec![json!("acme"), Value::Null, json!("zen")]),
        ("prefix=lamp", vec![Value::Null]),
        ("prefix=acme", vec![]),
        ("mountpoint=acme", vec![json!("acme")]),
        ("mountpoint=zen&prefix=lamp", vec![json!("zen")]),
    ] {
        assert_eq!(stored(query), expected, "{query}");
    }
    let one = json_of(admin, "/api/v1/clients/lamp-2?mountpoint=zen");
    assert_eq!((&one["client_id"], &one["stage"]), (&json!("lamp-2"), &json!("offline")));
    gateway.stop();
}

#[test]
fn a_client_is_kicked_and_told() {
    let gateway = start(&["--shards", "2"]);
    let admin = gateway.admin_address();
    let mut client = RawClient::connected(gateway.address(), V5, "unwanted");
    let path = "/api/v1/clients/unwanted/connection";
    assert_eq!(request(admin, "DELETE", path, &[], "").status, 204);
    assert_eq!(client.packets_to_the_end(), [(0xe0, vec![0x98])], "Administrative action");
    assert_eq!(request(admin, "DELETE", path, &[], "").status, 404);
    let foreign = request(admin, "DELETE", path, &["Origin: http://evil.example"], "");
    assert_eq!(foreign.status, 403);
    gateway.stop();
}

#[test]
fn retained_messages_are_listed_without_their_payloads() {
    let gateway = start(&[]);
    let admin = gateway.admin_address();
    let mut client = RawClient::connected(gateway.address(), V3_1_1, "p");
    for number in 0..7_u16 {
        let mut packet = publish(V3_1_1, &format!("r/{number}"), Some(number + 1), &[], b"hush");
        packet[0] |= 1;
        client.send(&packet);
        assert_eq!(client.packet().0, 0x40);
    }
    let mut found = rows(admin, "/api/v1/retained?filter=r/%2B", 3);
    while found.len() < 7 {
        // They are folded into the store behind the acknowledgement.
        found = rows(admin, "/api/v1/retained?filter=r/%2B", 3);
    }
    assert_eq!(found[6]["topic"], "r/6");
    assert_eq!((&found[6]["payload_bytes"], &found[6]["publisher"]), (&json!(4), &json!("p")));
    assert_eq!(get(admin, "/api/v1/retained?filter=a%23").status, 400);
    drop(client);
    gateway.stop();
}

#[test]
fn the_configuration_is_shown_and_the_log_level_set() {
    let mut gateway = start(&["--shards", "1", "--limit", "receive_maximum=77"]);
    let admin = gateway.admin_address();
    let config = json_of(admin, "/api/v1/config");
    assert_eq!((&config["shards"], &config["limits"]["receive_maximum"]), (&json!(1), &json!(77)));
    let set = |level: &str| {
        let body = json!({ "level": level }).to_string();
        request(admin, "PUT", "/api/v1/log", &["Content-Type: application/json"], &body)
    };
    assert_eq!(json_of(admin, "/api/v1/log")["level"], "info");
    assert_eq!(set("loud").status, 400);
    assert_eq!(value(&set("debug"))["level"], "debug");
    drop(RawClient::connected(gateway.address(), V5, "a"));
    gateway.wait_for_lines("connection closed", 1);
    gateway.stop();
}

#[test]
fn a_trace_shows_one_clients_packets() {
    let gateway = start(&["--shards", "2"]);
    let admin = gateway.admin_address();
    let mut lamp = RawClient::connected(gateway.address(), V5, "lamp");
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET /api/v1/clients/lamp/trace?lines=6 HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || {
        let line = lines.find(|line| line.starts_with('{')).expect("a line of JSON");
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next()["packet"], "traced from here on");
    lamp.send(&subscribe(V5, &["t"], 0));
    assert_eq!(lamp.packet().0, 0x90);
    lamp.send(&publish(V5, "t", None, &[], b"secret words"));
    assert_eq!(lamp.packet().0, 0x30);
    let mut other = RawClient::connected(gateway.address(), V5, "other");
    other.send(&[0xc0, 0]);
    assert_eq!(other.packet().0, 0xd0);
    lamp.send(&[0xe0, 0]);
    let expected = [
        ("received", "SUBSCRIBE id=1 \"t\":qos=0"),
        ("sent", "SUBACK id=1 codes=[00]"),
        ("received", "PUBLISH topic=\"t\" qos=0 payload_bytes=12"),
        ("sent", "PUBLISH topic=\"t\" qos=0 payload_bytes=12"),
        ("received", "DISCONNECT code=Success"),
    ];
    for (direction, packet) in expected {
        let line = next();
        assert_eq!((&line["direction"], &line["packet"]), (&json!(direction), &json!(packet)));
    }
    assert_eq!(lines.find(|line| line.starts_with('{')), None, "six lines were asked for");
    gateway.stop();
}

#[test]
fn who_publishes_most_and_who_is_behind_is_named() {
    let gateway = start(&["--shards", "2", "--limit", "inflight_max=1"]);
    let admin = gateway.admin_address();
    let mut slow = RawClient::connected(gateway.address(), V5, "slow");
    slow.send(&subscribe(V5, &["t"], 1));
    assert_eq!(slow.packet().0, 0x90);
    let mut loud = RawClient::connected(gateway.address(), V3_1_1, "loud");
    for packet_id in 1..=20 {
        loud.send(&publish(V3_1_1, "t", Some(packet_id), &[], b"x"));
        assert_eq!(loud.packet().0, 0x40);
    }
    let named = |path: &str, pointer: &str| loop {
        let page = json_of(admin, path);
        if let Some(name) = page.pointer(pointer) {
            return name.clone();
        }
    };
    assert_eq!(named("/api/v1/slowest", "/rows/0/client_id"), "slow");
    assert_eq!(named("/api/v1/talkers", "/rows/0/client/client_id"), "loud");
    let overview = json_of(admin, "/api/v1/overview");
    assert_eq!(overview["upstream"], "embedded");
    assert_eq!(overview["shards"].as_array().unwrap().len(), 2);
    let page = get(admin, "/");
    assert!(page.head.contains("text/html") && page.head.contains("content-security-policy"));
    drop((slow, loud));
    gateway.stop();
}

#[test]
fn sessions_that_are_in_jetstream_are_said_to_be_there() {
    let server = NatsServer::start();
    let nats = format!("a=nats://{}", server.address());
    let flags = ["--shards", "1", "--sessions", "shared", "--gateway-id", "g1", "--nats", &nats];
    let gateway = start(&flags);
    let admin = gateway.admin_address();
    for path in ["/api/v1/sessions", "/api/v1/clients/nobody"] {
        let answer = get(admin, path);
        assert_eq!(answer.status, 501, "{path}: {}", answer.body);
        assert!(answer.body.contains("MQTT_SESSIONS_<n>"), "{}", answer.body);
    }
    let client = RawClient::connected(gateway.address(), V5, "here");
    assert_eq!(json_of(admin, "/api/v1/clients/here")["stage"], "online");
    drop(client);
    gateway.kill();
}
