//! TLS itself: versions, keys, host names, clients' certificates.

use super::certificates::Authority;
use super::party::Party;
use super::wire::{Socket, Wire, client_config, tls_over, tls_session};
use crate::process::configuration::run;
use crate::process::gateway::{Gateway, TempDirectory, free_address};
use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

/// A gateway with a listener for TLS, and these flags.
pub(super) fn tls_gateway(flags: &[String]) -> (Gateway, SocketAddr) {
    let address = free_address();
    let listen = format!("mqtts://{address}");
    let mut all = vec!["--listen", listen.as_str(), "--shards", "2"];
    all.extend(flags.iter().map(String::as_str));
    (Gateway::start(&all), address)
}

/// The flag that names a configuration file with `text`.
pub(super) fn config_file(directory: &TempDirectory, text: &str) -> [String; 2] {
    let path = directory.path().join("gateway.toml");
    fs::write(&path, text).unwrap();
    ["--config".to_owned(), path.to_str().unwrap().to_owned()]
}

#[test]
fn the_certificate_is_the_one_for_the_host_that_is_asked_for() {
    let authority = Authority::new();
    let first = authority.server("first", &["localhost", "one.example"]);
    let second = authority.server("second", &["two.example"]);
    let wild = authority.server("wild", &["*.wild.example"]);
    let directory = TempDirectory::new();
    let table = |issued: &super::certificates::Issued| {
        format!("[[tls_certificates]]\ncert = {:?}\nkey = {:?}\n", issued.cert, issued.key)
    };
    let tables = table(&second) + &table(&wild);
    let flags = [&first.flags()[..], &config_file(&directory, &tables)].concat();
    let (gateway, address) = tls_gateway(&flags);
    let tls = client_config(&authority, None);
    for (name, shown) in [
        ("localhost", &first),
        ("one.example", &first),
        ("two.example", &second),
        ("a.wild.example", &wild),
        ("127.0.0.1", &first),
    ] {
        let stream = tls_over(Socket::open(address), &tls, name);
        // The first has no certificate for an address: the client refuses what it is shown.
        if name == "127.0.0.1" {
            stream.map(drop).unwrap_err();
            continue;
        }
        let stream = stream.unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap(), &shown.chain[..], "{name}");
    }
    for name in ["other.example", "b.a.wild.example", "wild.example"] {
        tls_over(Socket::open(address), &tls, name).map(drop).unwrap_err();
    }
    gateway.stop();
}

#[test]
fn a_client_without_a_good_certificate_is_refused_where_one_is_required() {
    let authority = Authority::new();
    let server = authority.server("server", &["localhost"]);
    let known = authority.client("known");
    let revoked = authority.client("revoked");
    let stranger = Authority::new().client("known");
    let crl = authority.revoke(&[&revoked]);
    let directory = TempDirectory::new();
    for required in [true, false] {
        let text = format!(
            "tls_client_ca = {:?}\ntls_client_crl = {crl:?}\ntls_client_cert = \"{}\"\n",
            authority.file(),
            if required { "required" } else { "optional" },
        );
        let flags = [&server.flags()[..], &config_file(&directory, &text)].concat();
        let (gateway, address) = tls_gateway(&flags);
        let session =
            |client| tls_session(address, &client_config(&authority, client), "client").map(drop);
        session(Some(&known)).unwrap();
        session(Some(&revoked)).unwrap_err();
        session(Some(&stranger)).unwrap_err();
        assert_eq!(session(None).is_err(), required);
        gateway.stop();
    }
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_starts() {
    let authority = Authority::new();
    let (one, other) = (authority.server("one", &["a"]), authority.server("other", &["b"]));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let junk = authority.directory().join("junk");
    fs::write(&junk, "nothing").unwrap();
    let (cert, key, junk) = (text(&one.cert), text(&one.key), text(&junk));
    let wrong_key = text(&other.key);
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["tls_cert: expected a certificate for the TLS listeners"]),
        (&["--tls-cert", &cert], &["tls_cert = ", "expected tls_key with it"]),
        (
            &["--tls-cert", "/no/such", "--tls-key", &key],
            &["tls_cert = \"/no/such\" (flag)", "read"],
        ),
        (&["--tls-cert", &junk, "--tls-key", &key], &["tls_cert = ", "BEGIN CERTIFICATE"]),
        (&["--tls-cert", &cert, "--tls-key", &junk], &["tls_key = ", "BEGIN PRIVATE KEY"]),
        (&["--tls-cert", &cert, "--tls-key", &wrong_key], &["tls_key = ", "first certificate in"]),
        (
            &["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &junk],
            &["tls_client_ca = ", "certificates of authorities"],
        ),
    ];
    for (flags, expected) in cases {
        let flags = [&["check-config", "--listen", "mqtts://127.0.0.1"], *flags].concat();
        let (code, _, stderr) = run(&flags);
        assert_eq!(code, Some(64), "{flags:?}: {stderr}");
        for part in *expected {
            assert!(stderr.contains(part), "{flags:?}: {stderr}");
        }
    }
    let (code, _, stderr) = run(&["check-config", "--tls-cert", &cert, "--tls-key", &key]);
    assert_eq!(code, Some(64));
    assert!(stderr.contains("a listener that speaks TLS with it"), "{stderr}");

    let flags =
        ["check-config", "--listen", "mqtts://[::1]", "--tls-cert", &cert, "--tls-key", &key];
    let (code, printed, stderr) = run(&flags);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let directory = TempDirectory::new();
    let config = config_file(&directory, &printed);
    let (code, again, _) = run(&["check-config", &config[0], &config[1]]);
    assert_eq!((code, again), (Some(0), printed), "what it prints is what it reads");
}

/// `rumqttc`, the Rust client, with the certificate authority that it trusts.
#[test]
fn rumqttc_speaks_tls() {
    let party = Party::start(&["--shards", "2"]);
    let port = party.address(Wire::Tls).port();
    let tls = client_config(&party.authority, None);
    crate::process::rust_client::play(|client_id| {
        let mut options = MqttOptions::new(client_id, "localhost", port);
        let tls = TlsConfiguration::Rustls(Arc::clone(&tls));
        options.set_transport(Transport::tls_with_config(tls));
        options
    });
    party.gateway.stop();
}
