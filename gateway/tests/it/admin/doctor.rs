//! `gateway doctor` on the machine the tests run on, and with a server that is not there.

use super::start;
use crate::nats::server::NatsServer;
use crate::process::gateway::{TempDirectory, free_address, gateway_command};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

fn examine(flags: &[&str]) -> (Option<i32>, Value) {
    let data = TempDirectory::new();
    let mut command = gateway_command();
    command.args(["doctor", "--json", "--data"]).arg(data.path()).args(flags);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let left = fs::read_dir(data.path()).unwrap().count();
    assert_eq!(left, 0, "it leaves nothing behind");
    (output.status.code(), serde_json::from_str(&text).unwrap())
}

fn subjects<'v>(examination: &'v Value, severity: &str) -> Vec<&'v str> {
    let findings = examination["findings"].as_array().unwrap().iter();
    let of_severity = findings.filter(|finding| finding["severity"] == severity);
    of_severity.map(|finding| finding["subject"].as_str().unwrap()).collect()
}

#[test]
fn it_names_the_descriptors_that_are_missing_and_only_then() {
    let Some(limit) = getrlimit(Resource::Nofile).maximum else { return };
    let needed = limit - 255;
    let (code, examination) = examine(&["--limit", &format!("connections_max={needed}")]);
    let missing = subjects(&examination, "should");
    assert_eq!((code, missing.contains(&"open_files")), (Some(1), true), "{examination}");
    let (_, examination) = examine(&["--limit", &format!("connections_max={}", needed - 1)]);
    assert!(!subjects(&examination, "should").contains(&"open_files"), "{examination}");
    // The machine runs the tests, so it has what the gateway cannot do without.
    assert_eq!(subjects(&examination, "must"), Vec::<&str>::new(), "{examination}");
}

#[test]
fn a_host_that_is_fit_for_little_is_fit() {
    let little = [
        "connections_max=100",
        "retention_bytes=1048576",
        "segment_bytes=262144",
        "maximum_packet_size_bytes=65536",
    ];
    let flags: Vec<&str> = little.iter().flat_map(|limit| ["--limit", limit]).collect();
    let (code, examination) = examine(&[&["--shards", "1"], &flags[..]].concat());
    assert_eq!(code, Some(0), "{examination}");
    let text = Command::new(env!("CARGO_BIN_EXE_gateway")).args(["doctor", "--help"]).output();
    assert!(text.unwrap().status.success());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let nats = format!("a=nats://{}", free_address());
    let (code, examination) = examine(&["--nats", &nats]);
    assert_eq!(code, Some(1));
    assert_eq!(subjects(&examination, "must"), ["nats"], "{examination}");
    assert!(subjects(&examination, "consider").contains(&"nats_durability"), "{examination}");
}

/// A configuration file with one sub-cluster.
fn sub_cluster(directory: &Path, servers: &[&NatsServer], rest: &str) -> String {
    let urls: Vec<_> = servers.iter().map(|one| format!("\"nats://{}\"", one.address())).collect();
    let text = format!("[[nats]]\nname = \"a\"\nservers = [{}]\n{rest}", urls.join(", "));
    let file = directory.join("gateway.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn good(examination: &Value, text: &str) -> bool {
    let lines = examination["good"].as_array().unwrap().iter();
    lines.filter_map(Value::as_str).any(|line| line.contains(text))
}

#[test]
fn a_server_is_good_if_it_lets_the_gateway_in() {
    let server =
        NatsServer::start_with(&["--port", "-1", "--user", "gateway", "--pass", "right-one"]);
    for (credentials, is_let_in) in
        [("", false), ("gateway:wrong-one@", false), ("gateway:right-one@", true)]
    {
        let nats = format!("a=nats://{credentials}{}", server.address());
        let (_, examination) = examine(&["--nats", &nats]);
        let expected: &[&str] = if is_let_in { &[] } else { &["nats_login"] };
        assert_eq!(subjects(&examination, "must"), expected, "{credentials}: {examination}");
        assert_eq!(good(&examination, "lets the gateway in"), is_let_in, "{examination}");
        assert!(!examination.to_string().contains("-one"), "no password: {examination}");
    }
}

#[test]
fn jetstream_has_to_be_on_for_the_account() {
    let directory = TempDirectory::new();
    let file = directory.path().join("nats.conf");
    let text = "accounts { A { users: [ { user: a, password: a } ] }, \
                B { jetstream: enabled, users: [ { user: b, password: b } ] } }";
    fs::write(&file, text).unwrap();
    let server = NatsServer::start_with(&["--port", "-1", "--config", file.to_str().unwrap()]);
    for (user, expected) in [("a", &["nats_jetstream"][..]), ("b", &[])] {
        let nats = format!("a=nats://{user}:{user}@{}", server.address());
        let (_, examination) = examine(&["--nats", &nats]);
        assert_eq!(subjects(&examination, "must"), expected, "{user}: {examination}");
    }
}

#[test]
fn what_a_stream_promises_is_asked_of_the_server() {
    let (server, directory) = (NatsServer::start(), TempDirectory::new());
    let three = sub_cluster(directory.path(), &[&server], "replicas = 3\n");
    let (_, examination) = examine(&["--config", &three]);
    assert_eq!(subjects(&examination, "must"), ["nats_durability"], "no cluster: {examination}");

    let one = sub_cluster(directory.path(), &[&server], "");
    let mut gateway = start(&["--config", &one, "--gateway-id", "g1", "--shards", "1"]);
    gateway.wait_for_lines("feed: live", 1);
    let (_, examination) = examine(&["--config", &one]);
    assert_eq!(subjects(&examination, "must"), Vec::<&str>::new(), "{examination}");
    assert!(subjects(&examination, "consider").contains(&"nats_durability"), "{examination}");
    gateway.stop();
    // A stream that somebody made otherwise.
    let mut connection = server.connect();
    connection.api("$JS.API.STREAM.DELETE.MQTT_0", "");
    let other = r#"{"name": "MQTT_0", "subjects": ["mqtt.>"], "storage": "memory"}"#;
    connection.api("$JS.API.STREAM.CREATE.MQTT_0", other);
    let (_, examination) = examine(&["--config", &one]);
    assert_eq!(subjects(&examination, "must"), ["nats_durability"], "{examination}");
}

#[test]
fn replicas_that_are_away_are_named() {
    let (mut servers, directory) = (NatsServer::start_cluster(), TempDirectory::new());
    let [first, second, _] = &servers;
    let file = sub_cluster(directory.path(), &[first, second], "replicas = 3\n");
    let mut gateway = start(&["--config", &file, "--gateway-id", "g1", "--shards", "1"]);
    gateway.wait_for_lines("feed: live", 1);
    let is_whole = |examination: &Value| {
        good(examination, "a keeps 3 replicas: acknowledged survives the loss of 1 server")
            && !subjects(examination, "should").contains(&"nats_durability")
    };
    // They follow the leader a moment after it has made the stream.
    while !is_whole(&examine(&["--config", &file]).1) {}
    servers[2].kill();
    let is_short = |examination: &Value| {
        subjects(examination, "should").contains(&"nats_durability")
            && examination.to_string().contains("replicas of stream MQTT_0 away or behind")
    };
    while !is_short(&examine(&["--config", &file]).1) {}
    gateway.kill();
}

/// What is said of this machine is true of it, whatever else it lacks.
#[test]
fn the_clock_is_asked_about_as_the_kernel_knows_it() {
    let (_, examination) = examine(&[]);
    let is_named = subjects(&examination, "consider").contains(&"clock_synchronisation");
    assert_eq!(is_named, !good(&examination, "clock synchronisation: on"), "{examination}");
}
