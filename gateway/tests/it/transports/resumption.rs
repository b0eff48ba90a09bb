//! TLS sessions that are taken up again: by any shard, and by any gateway with the same keys.

use super::certificates::Authority;
use super::tls::{config_file, tls_gateway};
use super::wire::{client_config, tls_session};
use crate::process::gateway::TempDirectory;
use rustls::HandshakeKind;
use std::fs;

/// With two shards, each takes half of the connections.
const CONNECTIONS: usize = 12;

#[test]
fn a_session_is_taken_up_by_either_shard() {
    let authority = Authority::new();
    let (gateway, address) = tls_gateway(&authority.server("server", &["localhost"]).flags());
    let tls = client_config(&authority, None);
    let mut kinds = (0..CONNECTIONS).map(|_| tls_session(address, &tls, "device").unwrap().0);
    assert_eq!(kinds.next(), Some(HandshakeKind::Full));
    assert!(kinds.all(|kind| kind == HandshakeKind::Resumed));
    gateway.stop();
}

#[test]
fn a_session_is_taken_up_by_another_gateway_only_with_the_same_keys() {
    let authority = Authority::new();
    let server = authority.server("server", &["localhost"]);
    let keys = authority.directory().join("keys");
    fs::write(&keys, format!("{}\n", "QUJD".repeat(16))).unwrap();
    let directory = TempDirectory::new();
    let shared = config_file(&directory, &format!("tls_ticket_keys = {keys:?}\n"));
    for (flags, expected) in [
        ([&server.flags()[..], &shared].concat(), HandshakeKind::Resumed),
        (server.flags().to_vec(), HandshakeKind::Full),
    ] {
        let tls = client_config(&authority, None);
        let (first, address) = tls_gateway(&flags);
        tls_session(address, &tls, "device").unwrap();
        first.stop();
        let (second, address) = tls_gateway(&flags);
        assert_eq!(tls_session(address, &tls, "device").unwrap().0, expected);
        second.stop();
    }
}

/// A ticket must not outlive the certificate it stands for.
#[test]
fn a_session_is_not_taken_up_after_its_certificate_was_revoked() {
    let authority = Authority::new();
    let server = authority.server("server", &["localhost"]);
    let device = authority.client("device");
    let crl = authority.revoke(&[]);
    let directory = TempDirectory::new();
    let text = format!("tls_client_ca = {:?}\ntls_client_crl = {crl:?}\n", authority.file());
    let flags = [&server.flags()[..], &config_file(&directory, &text)].concat();
    let (mut gateway, address) = tls_gateway(&flags);
    let tls = client_config(&authority, Some(&device));
    tls_session(address, &tls, "device").unwrap();
    assert_eq!(tls_session(address, &tls, "device").unwrap().0, HandshakeKind::Resumed);

    authority.revoke(&[&device]);
    gateway.hang_up();
    gateway.wait_for_lines("TLS files loaded", 1);
    tls_session(address, &tls, "device").map(|(kind, _)| kind).unwrap_err();
    gateway.stop();
}
