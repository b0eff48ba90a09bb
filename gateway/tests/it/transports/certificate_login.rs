//! A certificate is who a client is: what its user may touch, it may, and nothing else.

use super::certificates::{Authority, Issued};
use super::tls::{config_file, tls_gateway};
use super::wire::{Client, Socket, client_config, tls_over};
use crate::admin::metrics::Samples;
use crate::packets::framed;
use crate::process::gateway::{Gateway, TempDirectory};
use crate::process::http_auth::Oracle;
use crate::process::raw_client::{RawPacket, V3_1_1, V5, connect, publish, push_text, subscribe};
use std::fs;
use std::net::SocketAddr;

/// A gateway that knows clients by their certificates.
struct Scene {
    gateway: Gateway,
    address: SocketAddr,
    authority: Authority,
    _directory: TempDirectory,
}

impl Scene {
    fn start(text: &str, rules: &str) -> Self {
        let authority = Authority::new();
        let server = authority.server("server", &["localhost"]);
        let directory = TempDirectory::new();
        let acl = directory.path().join("rules");
        fs::write(&acl, rules).unwrap();
        let text = format!("{text}acl_file = {acl:?}\ntls_client_ca = {:?}\n", authority.file());
        let admin = ["--admin".to_owned(), "127.0.0.1:0".to_owned()];
        let config = config_file(&directory, &text);
        let (gateway, address) = tls_gateway(&[&server.flags()[..], &config, &admin].concat());
        Self { gateway, address, authority, _directory: directory }
    }

    /// Sends CONNECT with this certificate; what the answer is.
    fn knock(&self, certificate: Option<&Issued>, connect: &[u8]) -> (Client, RawPacket) {
        let config = client_config(&self.authority, certificate);
        let stream = tls_over(Socket::open(self.address), &config, "localhost").unwrap();
        let mut client = Client::new(Box::new(stream));
        client.send(connect);
        let connack = client.packet();
        assert_eq!(connack.0, 0x20);
        (client, connack)
    }

    fn denied(&self, what: &str) -> f64 {
        let label = format!("what=\"{what}\"");
        Samples::scrape(self.gateway.admin_address()).sum("gateway_denied_total", &[&label])
    }
}

/// The Reason Code that answers a PUBLISH of 5.0 at QoS 1.
fn publish_code(client: &mut Client, topic: &str) -> u8 {
    client.send(&publish(V5, topic, Some(1), &[], b"x"));
    let (kind, body) = client.packet();
    assert_eq!(kind, 0x40);
    body.get(2).copied().unwrap_or(0)
}

#[test]
fn whatever_name_of_it_is_asked_for_a_certificate_may_what_its_user_may() {
    for (which, user) in [
        ("common_name", "meter"),
        ("dns", "meter.example"),
        ("email", "meter@example"),
        ("uri", "urn:device:meter"),
    ] {
        let text = format!("tls_client_identity = {which:?}\nauth_methods = \"certificate\"\n");
        let rules = format!("user {user}\ntopic write up/meter\ntopic read down/#\n");
        let mut scene = Scene::start(&text, &rules);
        let meter = scene.authority.client("meter");
        let (mut client, (_, connack)) = scene.knock(Some(&meter), &connect(V5, "m", &[]));
        assert_eq!(connack[1], 0, "{which}");
        client.send(&subscribe(V5, &["down/all", "up/#"], 1));
        assert_eq!(client.packet().1[3..], [1, 0x87], "{which}");
        assert_eq!(publish_code(&mut client, "up/meter"), 0, "{which}");
        assert_eq!(publish_code(&mut client, "up/other"), 0x87, "{which}");
        assert_eq!(publish_code(&mut client, "down/all"), 0x87, "{which}");

        // A name that nobody has rules for, of the same authority.
        let other = scene.authority.client("other");
        let (mut stranger, (_, connack)) = scene.knock(Some(&other), &connect(V5, "o", &[]));
        assert_eq!(connack[1], 0, "{which}");
        assert_eq!(publish_code(&mut stranger, "up/meter"), 0x87, "{which}");
        // Neither has it the session of the first, nor has a user name a say beside a certificate.
        let (mut thief, (_, connack)) = scene.knock(Some(&other), &connect(V5, "m", &[]));
        assert_eq!(connack[1], 0x87, "{which}");
        assert!(thief.ends());
        let mut named = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0x82, 0, 0, 0];
        push_text(&mut named, "n");
        push_text(&mut named, user);
        let (mut named, (_, connack)) = scene.knock(Some(&other), &framed(0x10, &named));
        assert_eq!(connack[1], 0, "{which}");
        assert_eq!(publish_code(&mut named, "up/meter"), 0x87, "{which}");

        assert_eq!(scene.denied("publish"), 4.0);
        assert_eq!(
            (scene.denied("subscribe"), scene.denied("session_of_another_user")),
            (1.0, 1.0)
        );
        assert!(scene.gateway.log().contains("not authorized"));
        drop((client, stranger, named));
        scene.gateway.stop();
    }
}

#[test]
fn who_shows_no_certificate_is_nobody_where_it_is_the_only_proof() {
    let text = "tls_client_cert = \"optional\"\nauth_methods = \"certificate\"\n";
    let mut scene = Scene::start(text, "user meter\ntopic write up/meter\n");
    for (version, code) in [(V5, 0x87), (V3_1_1, 5)] {
        let (mut client, (_, connack)) = scene.knock(None, &connect(version, "m", &[]));
        assert_eq!(connack[1], code);
        assert!(client.ends());
    }
    assert_eq!(scene.denied("connect"), 2.0);
    assert!(scene.gateway.log().contains("not let in"));
    scene.gateway.stop();
}

/// Whoever is asked over HTTP hears of the certificate, and its name is the user's.
#[test]
fn a_certificate_alone_is_asked_about_over_http() {
    let oracle = Oracle::start();
    let text = format!("http_auth_url = \"http://{}/who\"\n", oracle.address);
    let scene = Scene::start(&text, "user allowed\ntopic write up/allowed\n");
    let allowed = scene.authority.client("allowed");
    let (mut client, (_, connack)) = scene.knock(Some(&allowed), &connect(V5, "a", &[]));
    assert_eq!(connack[1], 0);
    let question = oracle.bodies.recv().unwrap();
    assert!(question.contains("\"certificate\":\"allowed\""), "{question}");
    assert!(question.contains("\"user_name\":null"), "{question}");
    assert_eq!(publish_code(&mut client, "up/allowed"), 0);
    assert_eq!(publish_code(&mut client, "up/other"), 0x87);
    let denied = scene.authority.client("denied");
    let (_, (_, connack)) = scene.knock(Some(&denied), &connect(V5, "d", &[]));
    assert_eq!(connack[1], 0x86);
    drop(client);
    scene.gateway.stop();
}
