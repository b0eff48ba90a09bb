//! Copies of a data directory, and directories of other versions.

use super::gateway::{Gateway, TempDirectory, free_address, gateway_command};
use super::raw_client::{RawClient, V5, publish, push_text, subscribe};
use super::tools::run;
use crate::packets::framed;
use crate::sources::crate_folder;
use gateway::node::DATA_FORMAT;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// A client whose session lasts; whether it is an earlier one's.
fn lasting(address: SocketAddr, name: &str) -> (RawClient, bool) {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0, 0, 0, 5, 0x11, 0, 0, 14, 16];
    push_text(&mut body, name);
    let mut client = RawClient::open(address);
    client.send(&framed(0x10, &body));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[1]), (0x20, 0), "CONNACK");
    (client, body[0] == 1)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Publishes what is acknowledged, with a subscriber away that is owed it.
fn owe(address: SocketAddr, messages: &[&str]) {
    let (mut away, _) = lasting(address, "away");
    away.send(&subscribe(V5, &["owed"], 1));
    assert_eq!(away.packet().0, 0x90, "SUBACK");
    away.send(&[0xe0, 0]);
    assert_eq!(away.packets_to_the_end(), []);
    publish_owed(address, messages);
}

fn publish_owed(address: SocketAddr, messages: &[&str]) {
    let mut publisher = RawClient::connected(address, V5, "publisher");
    for (number, message) in (1..).zip(messages) {
        publisher.send(&publish(V5, "owed", Some(number), &[], message.as_bytes()));
        assert_eq!(publisher.packet().0, 0x40, "PUBACK");
    }
}

#[track_caller]
fn is_paid(address: SocketAddr, messages: &[&str]) {
    let (mut back, session_present) = lasting(address, "away");
    assert!(session_present, "its session is there");
    for message in messages {
        let (kind, body) = back.packet();
        assert_eq!(kind & 0xf0, 0x30, "PUBLISH");
        assert!(body.ends_with(message.as_bytes()), "{body:x?} is not {message}");
        let place = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        back.send(&[0x40, 2, body[place], body[place + 1]]);
    }
}

#[test]
fn a_copy_of_a_stopped_gateway_is_a_backup() {
    let directory = TempDirectory::new();
    let (data, kept) = (directory.path().join("data"), directory.path().join("kept"));
    let gateway = Gateway::start_on(&data, &["--shards", "2"]);
    owe(gateway.address(), &["1", "2"]);
    gateway.stop();
    copy(&data, &kept);
    fs::remove_dir_all(&data).unwrap();
    // Restored, with other shards, as on another machine.
    copy(&kept, &data);
    let gateway = Gateway::start_on(&data, &["--shards", "1"]);
    is_paid(gateway.address(), &["1", "2"]);
    gateway.stop();
}

/// As a snapshot of the file system has it: everything at one moment, in the midst of its work.
#[test]
fn a_snapshot_of_a_running_gateway_is_a_backup() {
    let directory = TempDirectory::new();
    let (data, kept) = (directory.path().join("data"), directory.path().join("kept"));
    let gateway = Gateway::start_on(&data, &["--shards", "2"]);
    owe(gateway.address(), &["1", "2", "3"]);
    gateway.freeze();
    copy(&data, &kept);
    gateway.thaw();
    publish_owed(gateway.address(), &["4"]);
    let other = Gateway::start_on(&kept, &["--shards", "2"]);
    is_paid(other.address(), &["1", "2", "3"]);
    other.stop();
    gateway.stop();
}

/// A directory as builds with format 1 left it, with two shards: a session that is owed three messages
/// and, as a member of a group, a fourth; a retained message; a QoS 2 message without its PUBREL. Every
/// later version reads it, or raises the first of the formats it can read and says so in the changelog.
#[test]
fn a_directory_of_the_first_format_is_read() {
    let archive = crate_folder().join("tests/data/data-format-1.tar.gz");
    for shards in ["1", "2"] {
        let directory = TempDirectory::new();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--gzip", "--file"]).arg(&archive).arg("--directory").arg(&data);
        run(tar);
        assert_eq!(fs::read_to_string(data.join("format")).unwrap(), "1\n");
        // However long ago that was.
        let flags = ["--shards", shards, "--limit", "retention_age_s=4294967295"];
        let gateway = Gateway::start_on(&data, &flags);
        let (mut half, session_present) = lasting(gateway.address(), "half");
        assert!(session_present, "its session is there");
        half.send(&[0x62, 2, 0, 7]);
        assert_eq!(half.packet().0, 0x70, "PUBCOMP: its exchange is known");
        let (mut away, session_present) = lasting(gateway.address(), "away");
        assert!(session_present, "its session is there");
        let mut owed = Vec::new();
        for _ in 0..5 {
            let (kind, body) = away.packet();
            assert_eq!(kind & 0xf6, 0x32, "PUBLISH at QoS 1");
            let place = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            owed.push(String::from_utf8(body[place + 3..].to_vec()).unwrap());
            away.send(&[0x40, 2, body[place], body[place + 1]]);
        }
        let own: Vec<&str> = owed.iter().map(|one| &**one).filter(|one| *one != "job").collect();
        assert_eq!((own, owed.len()), (vec!["1", "2", "3", "4"], 5), "in order, and the job");
        away.send(&subscribe(V5, &["kept"], 0));
        assert_eq!(away.packet().0, 0x90, "SUBACK");
        let (kind, body) = away.packet();
        assert!(kind == 0x31 && body.ends_with(b"since format 1"), "{kind:x} {body:x?}");
        // The version that is written is in force from the first start on.
        assert_eq!(
            fs::read_to_string(data.join("format")).unwrap().trim(),
            DATA_FORMAT.to_string()
        );
        drop((half, away));
        gateway.stop();
    }
}

#[test]
fn a_directory_of_another_version_is_left_as_it_is() {
    let directory = TempDirectory::new();
    let data = directory.path().join("data");
    let gateway = Gateway::start_on(&data, &["--shards", "1"]);
    owe(gateway.address(), &["1"]);
    gateway.stop();
    let mark = data.join("format");
    assert_eq!(fs::read_to_string(&mark).unwrap().trim(), DATA_FORMAT.to_string());
    let later = (DATA_FORMAT + 1).to_string();
    fs::write(&mark, &later).unwrap();
    let mut command = gateway_command();
    let address = format!("mqtt://{}", free_address());
    command.args(["--listen", &address, "--admin", "none", "--data"]).arg(&data);
    let output = command.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains(&format!("format \"{later}\"")) && why.contains("restore"), "{why}");
    // The version that wrote it finds everything.
    fs::write(&mark, DATA_FORMAT.to_string()).unwrap();
    let gateway = Gateway::start_on(&data, &["--shards", "1"]);
    is_paid(gateway.address(), &["1"]);
    gateway.stop();
}
