//! Programs that others use: mosquitto's clients, and `openssl s_client`.

use super::certificates::Authority;
use super::tls::{config_file, tls_gateway};
use crate::process::gateway::TempDirectory;
use crate::process::raw_client::{V3_1_1, connect};
use crate::process::tools::{finish, run, text_of};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

fn start_s_client(address: SocketAddr, flags: &[&str]) -> Child {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]);
    command.args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What `openssl s_client` prints of a connection on which it speaks MQTT until CONNACK, and all that
/// TLS has to say before that, has come.
#[track_caller]
fn s_client_in_session(address: SocketAddr, flags: &[&str]) -> String {
    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
    let mut process = start_s_client(address, flags);
    let mut input = process.stdin.take().expect("it is piped");
    let mut output = process.stdout.take().expect("it is piped");
    input.write_all(&connect(V3_1_1, "openssl", &[])).unwrap();
    let (mut said, mut buffer) = (Vec::new(), [0; 4_096]);
    // What it prints of itself may come later: it keeps that back for a while.
    while !said.windows(CONNACK.len()).any(|bytes| bytes == CONNACK) {
        let count = output.read(&mut buffer).unwrap();
        assert!(count > 0, "no CONNACK: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..count]);
    }
    input.write_all(b"Q\n").unwrap();
    output.read_to_end(&mut said).unwrap();
    assert!(process.wait().unwrap().success());
    String::from_utf8_lossy(&said).into_owned()
}

/// What `openssl s_client` prints of a connection to which it sends `input`.
fn s_client(address: SocketAddr, flags: &[&str], input: &[u8]) -> (bool, String) {
    let mut process = start_s_client(address, flags);
    // It may have given up before it reads.
    let _ = process.stdin.take().expect("it is piped").write_all(input);
    let output = process.wait_with_output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), text.concat())
}

#[test]
fn openssl_speaks_1_2_and_1_3_with_each_kind_of_key_and_nothing_older() {
    let authority = Authority::new();
    let directory = TempDirectory::new();
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    for server in
        [authority.server("ecdsa", &["localhost"]), authority.rsa_server("rsa", &["localhost"])]
    {
        let (gateway, address) = tls_gateway(&server.flags());
        for version in ["-tls1_2", "-tls1_3"] {
            let flags = [version, "-CAfile", ca, "-verify_return_error"];
            let (is_well, text) = s_client(address, &flags, b"Q\n");
            assert!(is_well && text.contains("Verify return code: 0 (ok)"), "{version}: {text}");
        }
        // With security level 0 it offers what is too old.
        let (is_well, text) =
            s_client(address, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], b"Q\n");
        assert!(!is_well && text.contains(" alert "), "{text}");
        gateway.stop();
    }
    let server = authority.server("strict", &["localhost"]);
    let strict = config_file(&directory, "tls_min_version = \"1.3\"\n");
    let (gateway, address) = tls_gateway(&[&server.flags()[..], &strict].concat());
    let (is_well, text) = s_client(address, &["-tls1_2"], b"Q\n");
    assert!(!is_well && text.contains(" alert "), "{text}");
    gateway.stop();
}

#[test]
fn openssl_takes_up_a_session() {
    let authority = Authority::new();
    let (gateway, address) = tls_gateway(&authority.server("server", &["localhost"]).flags());
    let session = authority.directory().join("session");
    let session = session.to_str().unwrap();
    let (_, text) = s_client(address, &["-tls1_2", "-sess_out", session], b"Q\n");
    assert!(text.contains("New, TLSv1.2"), "{text}");
    for _ in 0..4 {
        let (_, text) = s_client(address, &["-tls1_2", "-sess_in", session], b"Q\n");
        assert!(text.contains("Reused, TLSv1.2"), "{text}");
    }
    gateway.stop();
}

/// In TLS 1.3 a session can be taken up with a ticket that comes behind the handshake.
#[test]
fn openssl_takes_up_a_session_of_tls_1_3() {
    let authority = Authority::new();
    let (gateway, address) = tls_gateway(&authority.server("server", &["localhost"]).flags());
    let session = authority.directory().join("session");
    let session = session.to_str().unwrap();
    let text = s_client_in_session(address, &["-tls1_3", "-sess_out", session]);
    assert!(text.contains("New, TLSv1.3"), "{text}");
    // Each brings another, and with two shards each takes some of them.
    for _ in 0..6 {
        let flags = ["-tls1_3", "-sess_in", session, "-sess_out", session];
        let text = s_client_in_session(address, &flags);
        assert!(text.contains("Reused, TLSv1.3"), "{text}");
    }
    gateway.stop();
}

/// `R` at the start of a line asks for a renegotiation.
#[test]
fn openssl_is_refused_a_renegotiation() {
    let authority = Authority::new();
    let (gateway, address) = tls_gateway(&authority.server("server", &["localhost"]).flags());
    let (is_well, text) = s_client(address, &["-tls1_2"], b"R\n");
    assert!(!is_well && text.contains("RENEGOTIATING"), "{text}");
    assert!(text.contains("no renegotiation"), "{text}");
    gateway.stop();
}

#[test]
fn mosquitto_speaks_over_tls_with_its_certificate() {
    let authority = Authority::new();
    let server = authority.server("server", &["localhost"]);
    let device = authority.client("device");
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    let flags = [&server.flags()[..], &["--tls-client-ca".to_owned(), ca.to_owned()]].concat();
    let (gateway, address) = tls_gateway(&flags);
    let port = address.port().to_string();
    let (cert, key) = (device.cert.to_str().unwrap(), device.key.to_str().unwrap());
    let tls = ["-h", "localhost", "-p", &port, "--cafile", ca, "--cert", cert, "--key", key];
    let publish = |topic: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(tls).args(["-t", topic, "-q", "2", "-r", "-m", "hello"]);
        run(command);
    };
    publish("tls/one");
    let mut command = Command::new("mosquitto_sub");
    command.args(tls).args(["-t", "tls/#", "-q", "2", "-C", "1", "-W", "60", "-F", "%t %p"]);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let printed = text_of("mosquitto_sub", &finish(process));
    assert_eq!(printed.trim(), "tls/one hello");
    gateway.stop();
}
