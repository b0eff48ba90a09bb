//! Files that change while the gateway runs.

use super::certificates::{Authority, Issued};
use super::proxied::socket_from;
use super::tls::tls_gateway;
use super::wire::{Client, Socket, client_config, tls_over, tls_session};
use crate::packets::{framed, sized};
use crate::process::gateway::{Gateway, TempDirectory, free_address, gateway_command};
use crate::process::raw_client::{V5, connect};
use rustls::HandshakeKind;
use std::fs;
use std::net::SocketAddr;

#[test]
fn a_new_certificate_is_shown_without_dropping_anyone() {
    let authority = Authority::new();
    let old = authority.server("server", &["localhost"]);
    let flags = [
        &old.flags()[..],
        &["--tls-client-ca".to_owned()],
        &[authority.file().to_str().unwrap().to_owned()],
    ]
    .concat();
    let (mut gateway, address) = tls_gateway(&flags);
    let device = authority.client("device");
    // A new one each time: a session that is taken up shows no certificate.
    let tls = || client_config(&authority, Some(&device));
    let (_, mut client) = tls_session(address, &tls(), "device").unwrap();

    let new = authority.server("new", &["localhost"]);
    fs::rename(&new.cert, &old.cert).unwrap();
    fs::rename(&new.key, &old.key).unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("TLS files loaded", 1);
    let stream = tls_over(Socket::open(address), &tls(), "localhost").unwrap();
    assert_eq!(stream.conn.peer_certificates().unwrap(), &new.chain[..]);
    client.ping();

    // A file that cannot be used: what was there stays.
    fs::write(&old.key, "nonsense").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("TLS files are not used", 1);
    let stream = tls_over(Socket::open(address), &tls(), "localhost").unwrap();
    assert_eq!(stream.conn.peer_certificates().unwrap(), &new.chain[..]);

    // Another authority, and nobody told the gateway.
    let other = Authority::new();
    fs::rename(authority.server("server", &["localhost"]).key, &old.key).unwrap();
    fs::copy(other.file(), authority.file()).unwrap();
    gateway.wait_for_lines("TLS files loaded", 2);
    tls_session(address, &tls(), "late").map(drop).unwrap_err();
    let stranger = other.client("stranger");
    tls_session(address, &client_config(&authority, Some(&stranger)), "new").unwrap();
    client.ping();
    drop(client);
    gateway.kill();
}

/// Other files, and the other keys of TLS: for connections that begin afterwards.
#[test]
fn what_is_configured_of_tls_is_put_in_force_without_a_restart() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let [first, second, third] =
        ["first", "second", "third"].map(|name| authority.server(name, &["localhost"]));
    let device = clients.client("device");
    let keys = authority.directory().join("keys");
    fs::write(&keys, format!("{}\n", "QUJD".repeat(16))).unwrap();
    let (directory, address) = (TempDirectory::new(), free_address());
    let file = directory.path().join("gateway.toml");
    let configure = |text: String| fs::write(&file, text).unwrap();
    let pair =
        |issued: &Issued| format!("tls_cert = {:?}\ntls_key = {:?}\n", issued.cert, issued.key);
    configure(pair(&first));
    let listen = format!("mqtts://{address}");
    let flags = ["--config", file.to_str().unwrap(), "--listen", &listen, "--shards", "2"];
    let mut gateway = Gateway::start(&flags);
    let shown = |certificate: Option<&Issued>| {
        let tls = client_config(&authority, certificate);
        let (_, mut client) = tls_session(address, &tls, "client")?;
        client.ping();
        let stream = tls_over(Socket::open(address), &tls, "localhost").unwrap();
        std::io::Result::Ok(stream.conn.peer_certificates().unwrap().to_vec())
    };
    // The sessions of this one are taken up with tickets all along.
    let kept = client_config(&authority, None);
    let (_, mut stays) = tls_session(address, &kept, "stays").unwrap();
    assert_eq!(shown(None).unwrap(), first.chain);

    // Other paths.
    configure(pair(&second));
    gateway.hang_up();
    gateway.wait_for_lines("configuration reloaded", 1);
    assert_eq!(shown(None).unwrap(), second.chain);
    assert_eq!(tls_session(address, &kept, "kept").unwrap().0, HandshakeKind::Resumed);
    let log = gateway.log();
    assert!(log.contains("\"tls_certificates\"") && !log.contains("only a restart"), "{log}");

    // Certificates of clients, a version, other keys of tickets.
    let ca = clients.file();
    configure(format!(
        "tls_client_ca = {ca:?}\ntls_min_version = \"1.3\"\ntls_ticket_keys = {keys:?}\n{}\
         [limits]\ntls_ticket_lifetime_s = 600\n",
        pair(&second)
    ));
    gateway.hang_up();
    gateway.wait_for_lines("configuration reloaded", 2);
    shown(None).unwrap_err();
    assert_eq!(shown(Some(&device)).unwrap(), second.chain);
    for key in ["tls_client_ca", "tls_min_version", "tls_ticket_keys", "tls_ticket_lifetime_s"] {
        assert!(gateway.log().contains(&format!("{key}\"")), "{key} in {}", gateway.log());
    }
    assert!(!gateway.log().contains("only a restart"), "{}", gateway.log());

    // A fault anywhere: nothing changes, and files that are named now are watched all the same.
    configure(format!("tls_client_ca = {ca:?}\n{}", pair(&third).replace("third.key", "none")));
    gateway.hang_up();
    gateway.wait_for_lines("configuration not reloaded", 1);
    assert_eq!(shown(Some(&device)).unwrap(), second.chain);
    fs::rename(&third.cert, &second.cert).unwrap();
    fs::rename(&third.key, &second.key).unwrap();
    gateway.wait_for_lines("files changed", 1);
    assert_eq!(shown(Some(&device)).unwrap(), third.chain);

    stays.ping();
    drop(stays);
    gateway.kill();
}

#[test]
fn that_tls_begins_or_ends_is_said_to_need_a_restart() {
    let authority = Authority::new();
    let server = authority.server("server", &["localhost"]);
    let (directory, address) = (TempDirectory::new(), free_address());
    let file = directory.path().join("gateway.toml");
    let plain = free_address();
    let with_tls = format!(
        "listen = [\"mqtt://{plain}\", \"mqtts://{address}\"]\ntls_cert = {:?}\ntls_key = {:?}\n",
        server.cert, server.key
    );
    let without = format!("listen = \"mqtt://{plain}\"\n");
    for (before, after) in [(&with_tls, &without), (&without, &with_tls)] {
        fs::write(&file, before).unwrap();
        let data = TempDirectory::new();
        let mut gateway = Gateway::start_configured(data.path(), &file, plain);
        fs::write(&file, after).unwrap();
        gateway.hang_up();
        gateway.wait_for_lines("TLS needs a restart", 1);
        gateway.wait_for_lines("only a restart puts these in force", 1);
        assert!(gateway.log().contains("\"listen\""), "{}", gateway.log());
        gateway.kill();
    }
}

/// A client of 5.0 that comes from `source`, and the Reason Code of CONNACK.
fn from(source: &str, address: SocketAddr, connect: &[u8]) -> (Client, u8) {
    let mut client = Client::new(Box::new(socket_from(source, address)));
    client.send(connect);
    let (kind, body) = client.packet();
    assert_eq!(kind, 0x20);
    (client, body[1])
}

/// DISCONNECT with this Reason Code, and the end.
#[track_caller]
fn check_let_go(mut client: Client, reason_code: u8) {
    assert_eq!(client.packet(), (0xE0, vec![reason_code]));
    assert!(client.ends());
}

#[test]
fn bans_and_rates_are_put_in_force_without_a_restart() {
    let directory = TempDirectory::new();
    let file = directory.path().join("gateway.toml");
    let flags = ["--config", file.to_str().unwrap(), "--shards", "2"];
    fs::write(&file, "").unwrap();
    let mut gateway = Gateway::start(&flags);
    let address = gateway.address();
    let enter = |client_id: &str, source: &str| {
        let (client, code) = from(source, address, &connect(V5, client_id, &[]));
        assert_eq!(code, 0, "{client_id}");
        client
    };
    // Some on each shard, whichever that is.
    let mut stays: Vec<_> = (0..4).map(|n| enter(&format!("stays {n}"), "127.0.0.1")).collect();
    let far: Vec<_> = (0..4).map(|n| enter(&format!("far {n}"), "127.0.0.7")).collect();
    let named = enter("named", "127.0.0.1");

    let bans = "banned_client_ids = \"named\"\nbanned_addresses = \"127.0.0.6/31\"\n\
                [limits]\nflapping_connects_max = 2\n";
    fs::write(&file, bans).unwrap();
    gateway.hang_up();
    // MQTT 5.0 has no Banned in DISCONNECT: it is Administrative action.
    check_let_go(named, 0x98);
    far.into_iter().for_each(|client| check_let_go(client, 0x98));
    gateway.wait_for_lines("configuration reloaded", 1);
    assert!(!gateway.log().contains("only a restart"), "{}", gateway.log());
    for (client_id, source) in [("named", "127.0.0.1"), ("new", "127.0.0.7")] {
        let (mut client, code) = from(source, address, &connect(V5, client_id, &[]));
        assert_eq!(code, 0x8A, "{client_id}");
        assert!(client.ends());
    }
    let again = || from("127.0.0.1", address, &connect(V5, "again", &[])).1;
    assert_eq!([again(), again(), again()], [0, 0, 0x8A], "the third comes too soon");
    stays.iter_mut().for_each(Client::ping);

    // That anybody is asked at all is for a restart, and all else stays in force.
    let users = directory.path().join("users");
    fs::write(&users, "").unwrap();
    let text = format!("password_file = {:?}\n", users.to_str().unwrap());
    fs::write(&file, text).unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("needs a restart", 1);
    gateway.wait_for_lines("configuration reloaded", 2);
    drop(enter("named", "127.0.0.7"));
    assert_eq!(again(), 0);
    stays.iter_mut().for_each(Client::ping);
    drop(stays);
    gateway.kill();
}

#[test]
fn a_user_that_is_banned_on_sighup_is_let_go() {
    let directory = TempDirectory::new();
    let (file, users) = (directory.path().join("gateway.toml"), directory.path().join("users"));
    for name in ["anna", "otto"] {
        let mut passwd = gateway_command();
        passwd.args(["passwd", "-b"]).arg(&users).args([name, "pw"]);
        assert!(passwd.status().unwrap().success());
    }
    let text = format!("password_file = {:?}\n", users.to_str().unwrap());
    fs::write(&file, &text).unwrap();
    let gateway = Gateway::start(&["--config", file.to_str().unwrap(), "--shards", "2"]);
    let login = |user_name: &str| {
        let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 0xC2, 0, 0, 0];
        let texts = [user_name, user_name, "pw"].map(sized).concat();
        let connect = framed(0x10, &[&head[..], &texts].concat());
        from("127.0.0.1", gateway.address(), &connect)
    };
    let ((mut anna, _), (otto, code)) = (login("anna"), login("otto"));
    assert_eq!(code, 0);
    fs::write(&file, format!("{text}banned_users = \"otto\"\n")).unwrap();
    gateway.hang_up();
    check_let_go(otto, 0x87);
    assert_eq!(login("otto").1, 0x8A);
    anna.ping();
    drop(anna);
    gateway.kill();
}

#[test]
fn unknown_clients_are_let_go_when_allow_anonymous_ends() {
    let directory = TempDirectory::new();
    let (file, users) = (directory.path().join("gateway.toml"), directory.path().join("users"));
    fs::write(&users, "").unwrap();
    let text = format!("password_file = {:?}\n", users.to_str().unwrap());
    fs::write(&file, format!("{text}allow_anonymous = true\n")).unwrap();
    let mut gateway = Gateway::start(&["--config", file.to_str().unwrap(), "--shards", "2"]);
    let address = gateway.address();
    let unknown = || from("127.0.0.1", address, &connect(V5, "unknown", &[]));
    let (client, code) = unknown();
    assert_eq!(code, 0);
    fs::write(&file, text).unwrap();
    gateway.hang_up();
    check_let_go(client, 0x87);
    gateway.wait_for_lines("configuration reloaded", 1);
    let log = gateway.log();
    assert!(log.contains("\"allow_anonymous\""), "{log}");
    assert!(!log.contains("only a restart"), "{log}");
    assert_ne!(unknown().1, 0);
    gateway.kill();
}
