//! What an operator sees who got something wrong, or wants to know what is in force.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, TempDirectory, free_address, gateway_command};
use super::raw_client::{RawClient, V5, subscribe};
use std::process::Output;

/// Runs the gateway with `flags`, which make it end by itself.
pub(crate) fn run(flags: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = gateway_command().args(flags).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Exit code of a configuration that is refused: EX_USAGE of sysexits.h.
const REFUSED: Option<i32> = Some(64);

#[test]
fn every_fault_is_reported_at_once() {
    let faults = ["--shards", "many", "--limit", "backlog=1", "--durability", "maybe"];
    let (code, stdout, stderr) = run(&faults);
    assert_eq!((code, stdout.as_str()), (REFUSED, ""));
    for key in ["shards", "limits.backlog", "durability"] {
        let lines = stderr.lines().filter(|line| line.contains(key)).count();
        assert_eq!(lines, 1, "one line about {key} in:\n{stderr}");
    }
    assert!(!stderr.contains('\u{1b}'), "no colour where nobody watches:\n{stderr}");
}

#[test]
fn faults_of_the_file_are_reported_with_their_line() {
    let folder = TempDirectory::new();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "shards = 1\nshars = 2\n[limits]\nbacklog = 1\n").unwrap();
    let (code, _, stderr) = run(&["check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(code, REFUSED);
    assert!(stderr.contains("shars (file, line 2)"), "{stderr}");
    assert!(stderr.contains("limits.backlog = \"1\" (file, line 4)"), "{stderr}");
}

#[test]
fn an_unknown_flag_is_refused_like_any_fault() {
    let (code, _, stderr) = run(&["--no-such-flag"]);
    assert_eq!(code, REFUSED, "{stderr}");
    assert!(stderr.contains("--no-such-flag"), "{stderr}");
}

#[test]
fn what_check_config_prints_gives_the_same_configuration() {
    let flags = ["check-config", "--shards", "2", "--limit", "receive_maximum=7"];
    let (code, printed, stderr) = run(&flags);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(printed.contains("receive_maximum = 7"), "{printed}");

    let folder = TempDirectory::new();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, &printed).unwrap();
    let (code, again, _) = run(&["check-config", "--config", file.to_str().unwrap()]);
    assert_eq!((code, again), (Some(0), printed));
}

#[test]
fn an_address_others_can_reach_needs_permission() {
    let flags = ["check-config", "--listen", "mqtt://0.0.0.0:1883"];
    let (code, _, stderr) = run(&flags);
    assert_eq!(code, REFUSED);
    assert!(stderr.contains("allow_anonymous"), "{stderr}");
    let (code, _, stderr) = run(&[&flags[..], &["--allow-anonymous"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_refused_filter_is_refused_on_every_shard() {
    for shards in SHARD_COUNTS {
        let flags = ["--shards", shards, "--subscribe-refused", "#", "--subscribe-refused", "+/#"];
        let gateway = Gateway::start(&flags);
        for number in 0..4 {
            let name = format!("client {number}");
            let mut client = RawClient::connected(gateway.address(), V5, &name);
            client.send(&subscribe(V5, &["#", "a/#", "+/#"], 1));
            let (kind, body) = client.packet();
            assert_eq!((kind, &body[2..]), (0x90, &[0, 0x80, 1, 0x80][..]), "{shards} shards");
        }
        gateway.stop();
    }
}

#[test]
fn a_second_gateway_on_the_same_data_is_refused() {
    let data = TempDirectory::new();
    let first = Gateway::start_on(data.path(), &[]);
    let directory = data.path().to_str().unwrap();
    let listen = format!("mqtt://{}", free_address());
    let (code, _, stderr) = run(&["--data", directory, "--listen", &listen]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("in use by another gateway"), "{stderr}");
    assert!(stderr.contains(directory), "{stderr}");
    first.stop();
}

#[test]
fn a_second_gateway_on_the_same_port_is_refused() {
    let first = Gateway::start(&[]);
    let data = TempDirectory::new();
    let listen = format!("mqtt://{}", first.address());
    let directory = data.path().join("data");
    let (code, _, stderr) = run(&["--data", directory.to_str().unwrap(), "--listen", &listen]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&first.address().to_string()), "{stderr}");
    assert!(stderr.contains("another process listens there"), "{stderr}");
    assert!(!directory.exists(), "ports come before the data directory");
    first.stop();
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let listen = format!("mqtt://{}", free_address());
    let (code, _, stderr) = run(&["--data", "/proc/no/such/place", "--listen", &listen]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("/proc/no/such/place"), "{stderr}");
}
