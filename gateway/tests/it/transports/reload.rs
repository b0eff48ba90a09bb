//! Files that change while the gateway runs.

use super::certificates::Authority;
use super::tls::tls_gateway;
use super::wire::{Socket, client_config, tls_over, tls_session};
use std::fs;

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
