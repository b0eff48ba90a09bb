//! SCRAM-SHA-256 from `gateway passwd --scram` to AUTH on the wire.

use super::gateway::{Gateway, PATIENCE, TempDirectory, gateway_command};
use super::raw_client::{RawClient, V3_1_1, V5, push_text};
use crate::packets::{framed, sized};
use crate::scram::{METHOD, ScramClient, auth, counted, data_in, properties};
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

fn passwd(file: &Path, arguments: &[&str], password: &str) {
    let mut command = gateway_command();
    command.arg("passwd").args(&arguments[..arguments.len() - 1]).arg(file);
    command.arg(arguments[arguments.len() - 1]).stdin(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    assert!(process.wait().unwrap().success());
}

fn connect(client_id: &str, client_first: &str) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0];
    let properties = counted(&properties(METHOD, client_first.as_bytes()));
    framed(0x10, &[&head[..], &properties, &sized(client_id)].concat())
}

/// CONNECT, and the message that answers it.
#[track_caller]
fn asked(client: &mut RawClient, client_id: &str, scram: &ScramClient) -> Vec<u8> {
    client.send(&connect(client_id, &scram.first()));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[0]), (0xF0, 0x18));
    data_in(&body)
}

#[track_caller]
fn enter(address: SocketAddr, client_id: &str, user: (&str, &str)) -> RawClient {
    let mut client = RawClient::open(address);
    let scram = ScramClient::new(user.0, user.1, "from-the-client");
    let (proof, answer) = scram.last(&asked(&mut client, client_id, &scram));
    client.send(&auth(0x18, METHOD, proof.as_bytes()));
    let (kind, body) = client.packet();
    assert_eq!((kind, body[1]), (0x20, 0), "{client_id}");
    assert_eq!(data_in(&body), answer.as_bytes(), "it knows the user, too");
    client
}

#[track_caller]
fn refused(address: SocketAddr, user: (&str, &str)) -> Vec<u8> {
    let mut client = RawClient::open(address);
    let scram = ScramClient::new(user.0, user.1, "nonce");
    let server_first = asked(&mut client, "refused", &scram);
    client.send(&auth(0x18, METHOD, scram.last(&server_first).0.as_bytes()));
    assert_eq!(client.packets_to_the_end(), [(0x20, vec![0, 0x87, 0])], "{user:?}");
    let text = String::from_utf8(server_first).unwrap();
    // Without the nonce, which is new each time.
    text.split_once(",s=").unwrap().1.as_bytes().to_vec()
}

/// By user name and password.
fn plain(level: u8, user: (&str, &str)) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, 0xC2, 0, 0];
    body.extend_from_slice(if level == V5 { &[0] } else { &[] });
    for text in ["plain", user.0, user.1] {
        push_text(&mut body, text);
    }
    framed(0x10, &body)
}

#[test]
fn clients_prove_a_password_that_passwd_has_written() {
    let folder = TempDirectory::new();
    let users = folder.path().join("users");
    passwd(&users, &["otto"], "pw");
    passwd(&users, &["--scram", "anna"], "pass word");
    passwd(&users, &["--scram", "-I", "5000", "eve"], "pw");
    passwd(&users, &["--scram", "emma"], "pw");
    let text = fs::read_to_string(&users).unwrap();
    assert_eq!(text.matches("#scram-decoy:").count(), 1);
    assert!(text.contains("\nanna:SCRAM-SHA-256$4096:") && text.contains("eve:SCRAM-SHA-256$5000"));
    let flags = ["--shards", "2", "--password-file", users.to_str().unwrap()];
    let data = TempDirectory::new();
    let mut gateway = Gateway::start_on(data.path(), &flags);
    let address = gateway.address();

    // On both shards, whichever takes the connection.
    let mut clients: Vec<_> =
        (0..8).map(|number| enter(address, &format!("c{number}"), ("anna", "pass word"))).collect();
    let mut eve = enter(address, "eve", ("eve", "pw"));
    for client in &mut clients {
        let scram = ScramClient::new("anna", "pass word", "again");
        client.send(&auth(0x19, METHOD, scram.first().as_bytes()));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[0]), (0xF0, 0x18));
        let (proof, answer) = scram.last(&data_in(&body));
        client.send(&auth(0x18, METHOD, proof.as_bytes()));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[0]), (0xF0, 0));
        assert_eq!(data_in(&body), answer.as_bytes());
    }
    // The same line serves those who send their password.
    for level in [V3_1_1, V5] {
        let mut client = RawClient::open(address);
        client.send(&plain(level, ("anna", "pass word")));
        assert_eq!(client.packet().1[1], 0);
        let mut client = RawClient::open(address);
        client.send(&plain(level, ("anna", "password")));
        assert_eq!(client.packet().1[1], if level == V5 { 0x86 } else { 4 });
    }

    // Who is not there, or has no such line, looks like who is; after a restart, too.
    let nobody = refused(address, ("nobody", "pw"));
    assert_eq!(refused(address, ("nobody", "other")), nobody);
    let otto = refused(address, ("otto", "pw"));
    let anna = refused(address, ("anna", "wrong"));
    assert_ne!(nobody, otto);
    assert_eq!((nobody.len(), otto.len()), (anna.len(), anna.len()));
    gateway.wait_for_lines("not let in", 1);
    assert!(gateway.log().contains("127.0.0.1"), "where they come from is in the log");

    // Another password: who has proven the former is let go, and the others stay.
    passwd(&users, &["--scram", "anna"], "changed");
    gateway.hang_up();
    for client in &mut clients {
        assert_eq!(client.packets_to_the_end(), [(0xE0, vec![0x87])]);
    }
    refused(address, ("anna", "pass word"));
    enter(address, "again", ("anna", "changed"));
    eve.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    eve.send(b"\xC0\0");
    assert_eq!(eve.packet().0, 0xD0);
    gateway.stop();
    let gateway = Gateway::start_on(data.path(), &flags);
    assert_eq!(refused(gateway.address(), ("nobody", "pw")), nobody);
    gateway.stop();
}

#[test]
fn without_such_lines_the_method_is_not_on_offer() {
    let folder = TempDirectory::new();
    let users = folder.path().join("users");
    passwd(&users, &["otto"], "pw");
    let gateway = Gateway::start(&["--password-file", users.to_str().unwrap()]);
    for (method, first) in [(METHOD, "n,,n=otto,r=nonce"), (METHOD, "?"), ("PLAIN", "")] {
        let mut client = RawClient::open(gateway.address());
        let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0];
        let properties = counted(&properties(method, first.as_bytes()));
        client.send(&framed(0x10, &[&head[..], &properties, &sized("c")].concat()));
        assert_eq!(client.packets_to_the_end(), [(0x20, vec![0, 0x8C, 0])], "{method} {first}");
    }
    gateway.stop();
}
