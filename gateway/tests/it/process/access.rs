//! Password file and rules, with the programs that people have: the same files, the same decisions as
//! mosquitto's.

use super::gateway::{Gateway, PATIENCE, TempDirectory, free_address, gateway_command};
use super::raw_client::{RawClient, V3_1_1, V5, push_text};
use super::tools::{run, tool};
use crate::packets::framed;
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const RULES: &str = "\
# for those that nobody knows
topic read open/#
topic write inbox

user anna
topic readwrite rooms/#
topic deny rooms/attic/#
topic read open/+/x

user otto
topic read #
topic write open/#

# everybody
pattern readwrite of/%u/#
pattern deny of/%u/secret
pattern write by/%c/state
pattern end
";

/// A broker of mosquitto's with these files.
struct Mosquitto {
    process: Child,
    address: SocketAddr,
}

impl Mosquitto {
    fn start(folder: &Path, users: &Path, rules: &Path) -> Self {
        for _ in 0..8 {
            let address = free_address();
            let configuration = folder.join("mosquitto.conf");
            let text = format!(
                "user root\nallow_anonymous true\nlistener {} 127.0.0.1\npassword_file {}\nacl_file {}\n",
                address.port(),
                users.display(),
                rules.display()
            );
            fs::write(&configuration, text).unwrap();
            let mut command = Command::new("mosquitto");
            command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
            let mut process = command
                .arg("-c")
                .arg(&configuration)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Self { process, address };
                }
                std::thread::yield_now();
            }
        }
        panic!("mosquitto does not start");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with the rules, and a password file that `mosquitto_passwd` has written; `None` where
/// there is no mosquitto.
fn files() -> Option<(TempDirectory, PathBuf, PathBuf)> {
    tool(
        "sh",
        &["-c", "PATH=$PATH:/usr/sbin; command -v mosquitto && command -v mosquitto_passwd"],
    )?;
    let folder = TempDirectory::new();
    let (users, rules) = (folder.path().join("users"), folder.path().join("rules"));
    fs::write(&rules, RULES).unwrap();
    for (number, (flags, name)) in
        [(&["-c"][..], "anna"), (&["-H", "sha512"], "otto"), (&[], "eve")].into_iter().enumerate()
    {
        let mut command = Command::new("mosquitto_passwd");
        command.args(flags).arg("-b").arg(&users).args([name, &format!("pw{number}")]);
        run(command);
    }
    Some((folder, users, rules))
}

/// Users with their passwords.
const USERS: [Option<(&str, &str)>; 4] =
    [None, Some(("anna", "pw0")), Some(("otto", "pw1")), Some(("eve", "pw2"))];

fn connect(level: u8, client_id: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let flags = if user.is_some() { 0xC2 } else { 2 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 0];
    body.extend_from_slice(if level == V5 { &[0] } else { &[] });
    push_text(&mut body, client_id);
    if let Some((name, password)) = user {
        push_text(&mut body, name);
        push_text(&mut body, password);
    }
    framed(0x10, &body)
}

/// A client that is let in.
fn enter(address: SocketAddr, client_id: &str, user: Option<(&str, &str)>) -> RawClient {
    let mut client = RawClient::open(address);
    client.send(&connect(V3_1_1, client_id, user));
    assert_eq!(client.packet(), (0x20, vec![0, 0]), "{client_id}");
    client
}

fn publish(topic: &str, payload: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, topic);
    body.extend_from_slice(&[0, 7]);
    body.extend_from_slice(payload.as_bytes());
    framed(0x32, &body)
}

/// What each subscriber is sent when each user publishes to each topic, sorted.
fn decisions(address: SocketAddr) -> Vec<String> {
    let filters = ["#", "open/#", "rooms/+", "of/#", "of/anna/+", "by/#", "+/+/x"];
    let topics = [
        "open/a",
        "open/a/x",
        "inbox",
        "rooms/a",
        "rooms/attic/a",
        "of/anna/a",
        "of/anna/secret",
        "of/otto/secret",
        "of/eve",
        "by/pub1/state",
        "by/pub2/state",
        "end",
    ];
    let mut subscribers = Vec::new();
    for (number, user) in USERS.iter().enumerate() {
        for (place, filter) in filters.iter().enumerate() {
            let mut client = enter(address, &format!("sub{number} {place}"), *user);
            let mut body = vec![0, 1];
            push_text(&mut body, filter);
            body.push(0);
            push_text(&mut body, "end");
            body.push(0);
            // The gateway refuses where mosquitto grants and then sends nothing.
            client.send(&framed(0x82, &body));
            assert_eq!(client.packet().0, 0x90);
            subscribers.push((format!("{} {filter}", user.map_or("-", |(name, _)| name)), client));
        }
    }
    for (number, user) in USERS.iter().enumerate() {
        let mut client = enter(address, &format!("pub{number}"), *user);
        for topic in topics {
            client.send(&publish(topic, &format!("from {number}")));
            assert_eq!(client.packet(), (0x40, vec![0, 7]), "acknowledged all the same");
        }
    }
    let mut sent = Vec::new();
    for (who, mut client) in subscribers {
        // The last message of each publisher: nothing of it comes behind that.
        let mut ended = BTreeSet::new();
        while ended.len() < USERS.len() {
            let (_, body) = client.packet();
            let length = usize::from(body[1]);
            let topic = String::from_utf8_lossy(&body[2..2 + length]);
            let payload = String::from_utf8_lossy(&body[2 + length..]);
            if topic == "end" {
                ended.insert(payload.into_owned());
            } else {
                sent.push(format!("{who}: {topic} {payload}"));
            }
        }
    }
    // Over several shards there is no order between publishers.
    sent.sort();
    sent
}

#[test]
fn mosquitto_decides_the_same_with_the_same_files() {
    let Some((folder, users, rules)) = files() else { return };
    let mosquitto = Mosquitto::start(folder.path(), &users, &rules);
    let expected = decisions(mosquitto.address);
    let has = |line: &str| expected.iter().any(|other| other == line);
    assert!(has("- open/#: open/a from 2") && has("otto #: rooms/a from 1"), "{expected:#?}");
    let (users, rules) = (users.to_str().unwrap(), rules.to_str().unwrap());
    for shards in super::SHARD_COUNTS {
        let files = ["--password-file", users, "--acl-file", rules, "--allow-anonymous"];
        let gateway = Gateway::start(&[&files[..], &["--shards", shards]].concat());
        assert_eq!(decisions(gateway.address()), expected, "{shards} shards");
        gateway.stop();
    }
}

#[test]
fn mosquitto_clients_get_in_with_their_passwords_only() {
    let Some((_folder, users, rules)) = files() else { return };
    let files = ["--password-file", users.to_str().unwrap(), "--acl-file", rules.to_str().unwrap()];
    let gateway = Gateway::start(&files);
    for version in ["mqttv311", "mqttv5"] {
        let publish = |flags: &[&str]| {
            let mut command = Command::new("mosquitto_pub");
            command.args(["--port", &gateway.port(), "-V", version, "-q", "1", "-t", "rooms/a"]);
            let output = command.args(["-m", "x"]).args(flags).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), errors)
        };
        assert_eq!(publish(&["-u", "anna", "-P", "pw0"]), (true, String::new()), "{version}");
        for wrong in [&["-u", "anna", "-P", "pw1"][..], &["-u", "nobody", "-P", "pw0"], &[]] {
            let (success, errors) = publish(wrong);
            assert!(
                !success && errors.contains("Connection error"),
                "{version} {wrong:?}: {errors}"
            );
        }
    }
    gateway.stop();
}

#[test]
fn passwd_writes_what_mosquitto_reads() {
    let Some((folder, _, rules)) = files() else { return };
    let users = folder.path().join("written");
    let passwd = |arguments: &[&str], input: &str| {
        let mut command = gateway_command();
        command.arg("passwd").args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        drop(stdin);
        let output = process.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let file = users.to_str().unwrap();
    assert_eq!(passwd(&["-b", file, "anna", "old"], ""), (Some(0), String::new()));
    assert_eq!(passwd(&[file, "otto"], "pw1\n"), (Some(0), String::new()));
    assert_eq!(passwd(&["-b", "-I", "7", file, "eve", "pw2"], ""), (Some(0), String::new()));
    assert_eq!(passwd(&["-b", file, "gone", "pw"], ""), (Some(0), String::new()));
    assert_eq!(passwd(&["-D", file, "gone"], ""), (Some(0), String::new()));
    assert_eq!(passwd(&["-b", file, "anna", "pw0"], ""), (Some(0), String::new()));
    let (code, errors) = passwd(&["-D", file, "gone"], "");
    assert!(code == Some(1) && errors.contains("no user \"gone\""), "{errors}");
    let (code, errors) = passwd(&[file, "a:b"], "pw");
    assert!(code == Some(1) && errors.contains("without colon"), "{errors}");
    let written = fs::read_to_string(&users).unwrap();
    assert_eq!(written.lines().count(), 3, "{written}");
    assert!(written.contains("eve:$7$7$"), "{written}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&users).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let mosquitto = Mosquitto::start(folder.path(), &users, &rules);
    for user in USERS {
        enter(mosquitto.address, "c", user);
    }
    let mut stranger = RawClient::open(mosquitto.address);
    stranger.send(&connect(V3_1_1, "c", Some(("anna", "old"))));
    assert_eq!(stranger.packet(), (0x20, vec![0, 5]));
}

#[test]
fn every_fault_of_every_file_is_reported_with_its_line() {
    let folder = TempDirectory::new();
    let (users, rules) = (folder.path().join("users"), folder.path().join("rules"));
    fs::write(&users, "anna:secret\n# fine\nnonsense\n").unwrap();
    fs::write(&rules, "topic read\nuser\ntopic maybe x\n").unwrap();
    let missing = folder.path().join("missing");
    let flags = ["--password-file", users.to_str().unwrap(), "--acl-file", rules.to_str().unwrap()];
    for action in [&["check-config"][..], &[]] {
        let output = gateway_command().args(action).args(flags).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        for expected in ["users, line 1: ", "users, line 3: ", "rules, line 2: ", "rules, line 3: "]
        {
            assert_eq!(stderr.matches(expected).count(), 1, "{expected} in {stderr}");
        }
        assert!(stderr.lines().count() == 4 && !stderr.contains("secret"), "{stderr}");
    }
    let output = gateway_command().arg("--password-file").arg(&missing).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("missing: expected a file that can be read, but: No such"), "{stderr}");
}

#[test]
fn files_are_read_anew_on_sighup_and_those_who_are_connected_looked_at_again() {
    let Some((_folder, users, rules)) = files() else { return };
    let files = ["--password-file", users.to_str().unwrap(), "--acl-file", rules.to_str().unwrap()];
    for shards in super::SHARD_COUNTS {
        fs::write(&rules, RULES).unwrap();
        let before = fs::read_to_string(&users).unwrap();
        let mut gateway = Gateway::start(&[&files[..], &["--shards", shards]].concat());
        let address = gateway.address();
        let open = |client_id: &str, user| {
            let mut client = RawClient::open(address);
            client.send(&connect(V5, client_id, Some(user)));
            assert_eq!(client.packet().1[1], 0);
            client
        };
        let mut anna = open("a", ("anna", "pw0"));
        let (mut otto, mut eve) = (open("o", ("otto", "pw1")), open("e", ("eve", "pw2")));
        let ask = |client: &mut RawClient, topic: &str| {
            let mut body = Vec::new();
            push_text(&mut body, topic);
            body.extend_from_slice(&[0, 7, 0]);
            client.send(&framed(0x32, &body));
            client.packet().1.get(2).copied().unwrap_or(0)
        };
        assert_eq!((ask(&mut anna, "rooms/a"), ask(&mut anna, "new/a")), (0, 0x87));

        // Eve is gone, otto has another password, anna other rules.
        let kept = before.lines().filter(|line| !line.starts_with("eve:"));
        fs::write(&users, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let mut command = Command::new("mosquitto_passwd");
        command.arg("-b").arg(&users).args(["otto", "changed"]);
        run(command);
        fs::write(&rules, "user anna\ntopic new/#\n").unwrap();
        gateway.hang_up();
        for client in [&mut otto, &mut eve] {
            assert_eq!(client.packets_to_the_end(), [(0xE0, vec![0x87])], "{shards} shards");
        }
        // Her shard may hear of it a moment later.
        assert!((0..100_000).any(|_| ask(&mut anna, "rooms/a") == 0x87), "{shards} shards");
        assert_eq!(ask(&mut anna, "new/a"), 0);
        open("o", ("otto", "changed"));

        // With a fault nothing changes.
        fs::write(&rules, "user anna\ntopic some thing\n").unwrap();
        gateway.hang_up();
        gateway.wait_for_lines("stay as they were", 1);
        assert!(gateway.log().contains("rules, line 2: expected read, write"));
        assert_eq!(ask(&mut anna, "new/a"), 0);
        fs::write(&users, before).unwrap();
        gateway.terminate();
        assert_eq!(gateway.wait().code(), Some(0));
    }
}

/// One who connects and says nothing, or says half a CONNECT byte by byte, is let go in time, and
/// what it sends behind a CONNECT nobody has answered is not kept without end.
#[test]
fn a_stranger_holds_neither_time_nor_memory() {
    let Some((_folder, users, _)) = files() else { return };
    let files = ["--password-file", users.to_str().unwrap(), "--limit", "connect_timeout_s=1"];
    let gateway = Gateway::start(&files);
    let started = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut silent = RawClient::open(gateway.address());
    let mut slow = RawClient::open(gateway.address());
    let packet = connect(V3_1_1, "c", Some(("anna", "pw0")));
    for byte in &packet[..packet.len() - 1] {
        slow.send(&[*byte]);
    }
    assert!(silent.packets_to_the_end().is_empty() && slow.packets_to_the_end().is_empty());
    assert!(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - started < PATIENCE);
    let mut loud = RawClient::open(gateway.address());
    loud.send(&connect(V3_1_1, "c", Some(("anna", "wrong"))));
    let before = gateway.resident_bytes();
    // More than the kernel's buffers hold: it stops being taken, or the connection ends.
    let chunk = vec![0x30; 65_536];
    for _ in 0..64 {
        if loud.try_send(&chunk).is_err() {
            break;
        }
    }
    assert!(gateway.resident_bytes() < before + (32 << 20));
    enter(gateway.address(), "c", Some(("anna", "pw0")));
    gateway.stop();
}

/// A token that `secret` signs, for 2100 or 1970.
fn token(secret: &str, claims: &serde_json::Value, is_over: bool) -> String {
    let mut claims = claims.clone();
    claims["exp"] = if is_over { 3_600 } else { 4_102_444_800_u64 }.into();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[test]
fn tokens_passwords_and_bans_are_looked_at_in_their_order() {
    let Some((folder, users, rules)) = files() else { return };
    let (key, file) = (folder.path().join("key"), folder.path().join("gateway.toml"));
    fs::write(&key, "not so secret\n").unwrap();
    let text = format!(
        "password_file = {users:?}\nacl_file = {rules:?}\njwt_key_file = {key:?}\n\
         jwt_algorithm = \"HS256\"\nauth_methods = [\"jwt\", \"password\"]\n\
         banned_users = [\"eve\"]\nbanned_client_ids = [\"bad\"]\n"
    );
    fs::write(&file, text).unwrap();
    let gateway = Gateway::start(&["--config", file.to_str().unwrap()]);
    let code = |client_id: &str, user: Option<(&str, &str)>| {
        let mut client = RawClient::open(gateway.address());
        client.send(&connect(V5, client_id, user));
        client.packet().1[1]
    };
    let good = token("not so secret", &serde_json::json!({"sub": "anna"}), false);
    assert_eq!(code("c", Some(("anna", &good))), 0);
    assert_eq!(code("c", Some(("anna", "pw0"))), 0, "the password, too");
    assert_eq!(code("c", Some(("otto", &good))), 0x86, "the token is anna's");
    let over = token("not so secret", &serde_json::json!({"sub": "anna"}), true);
    let forged = token("secret", &serde_json::json!({"sub": "anna"}), false);
    for wrong in [&over, &forged, "pw1", ""] {
        assert_eq!(code("c", Some(("anna", wrong))), 0x86, "{wrong}");
    }
    assert_eq!(code("c", Some(("eve", "pw2"))), 0x8A);
    assert_eq!(code("c", Some(("eve", "wrong"))), 0x86, "who proves nothing hears of no ban");
    let banned = token("not so secret", &serde_json::json!({"sub": "eve"}), false);
    assert_eq!(code("c", Some(("eve", &banned))), 0x8A);
    assert_eq!(code("bad", Some(("anna", "pw0"))), 0x8A);

    let claims = serde_json::json!({"sub": "new", "acl": {"pub": ["up/%u"]}});
    let mut client =
        enter(gateway.address(), "c", Some(("new", &token("not so secret", &claims, false))));
    client.send(&publish("up/new", "x"));
    assert_eq!(client.packet(), (0x40, vec![0, 7]));
    let mut command = Command::new("mosquitto_pub");
    command.args([
        "--port",
        &gateway.port(),
        "-V",
        "mqttv5",
        "-q",
        "1",
        "-m",
        "x",
        "-t",
        "rooms/a",
    ]);
    command.args(["-u", "anna", "-P", &good]);
    run(command);
    gateway.stop();
}
