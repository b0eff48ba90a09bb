//! `gateway doctor` on the machine the tests run on, and with a server that is not there.

use crate::process::gateway::{TempDirectory, free_address, gateway_command};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use std::process::Command;

fn examine(flags: &[&str]) -> (Option<i32>, Value) {
    let data = TempDirectory::new();
    let mut command = gateway_command();
    command.args(["doctor", "--json", "--data"]).arg(data.path()).args(flags);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let left = std::fs::read_dir(data.path()).unwrap().count();
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
