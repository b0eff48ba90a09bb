//! Layers against a client in memory: no sockets, any split of the bytes.

use super::*;
use crate::config::{
    CertificateFiles, CertificateIdentity, ClientCertificates, TicketKeys, TlsConfig,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

const PEER: &str = "192.0.2.1:7";

/// An authority, what it signed, and the files a server loads.
struct Site {
    directory: PathBuf,
    client: Arc<ClientConfig>,
    anonymous: Arc<ClientConfig>,
}

impl Site {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("layers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();

        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["mqtt.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(directory.join("server.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();

        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "meter 7");
        params.subject_alt_names = vec![
            SanType::URI("urn:meter:7".try_into().unwrap()),
            SanType::Rfc822Name("seven@meters.example".try_into().unwrap()),
            SanType::DnsName("seven.meters.example".try_into().unwrap()),
        ];
        let certificate = params.signed_by(&key, &authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder = || {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            builder.with_root_certificates(roots.clone())
        };
        let own = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![certificate.der().clone()];
        Self {
            directory,
            client: Arc::new(builder().with_client_auth_cert(chain, own).unwrap()),
            anonymous: Arc::new(builder().with_no_client_auth()),
        }
    }

    fn server(&self, identity: CertificateIdentity, keys: &TicketKeys) -> Arc<TlsServer> {
        let file = |name: &str| self.directory.join(name);
        let config = TlsConfig {
            certificates: vec![CertificateFiles {
                cert: file("server.pem"),
                key: file("server.key"),
            }],
            clients: ClientCertificates::Optional,
            client_ca: Some(file("ca.pem")),
            client_crls: Vec::new(),
            client_identity: identity,
            tls_1_2: true,
            ticket_keys: None,
            ticket_lifetime_s: 100,
        };
        Arc::new(config.load(keys).unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn limits() -> WebSocketLimits {
    WebSocketLimits { request_bytes_max: 1_000, frame_bytes_max: 1_000_000, origins: Vec::new() }
}

/// A client and the layers, joined by two buffers.
struct Joined {
    client: ClientConnection,
    layers: Layers,
    scratch: Scratch,
    plain: Vec<u8>,
    progress: Progress,
    /// What the client was told.
    heard: Vec<u8>,
}

impl Joined {
    fn new(client: &Arc<ClientConfig>, server: &Arc<TlsServer>) -> Self {
        Self::on(Scheme::Mqtts, client, server)
    }

    fn on(scheme: Scheme, client: &Arc<ClientConfig>, server: &Arc<TlsServer>) -> Self {
        let name = ServerName::try_from("MQTT.example").unwrap();
        let client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let server = Some(Arc::clone(server));
        let listen = Listen { scheme, ..Listen::DEFAULT };
        let layers = Layers::begin(&listen, PEER.parse().unwrap(), server).unwrap().unwrap();
        let (scratch, plain) = (Scratch::default(), Vec::new());
        let heard = Vec::new();
        Self { client, layers, scratch, plain, progress: Progress::default(), heard }
    }

    /// What the client has to say, in pieces of `size`; whether there was anything.
    fn speak_up(&mut self, size: usize) -> bool {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        for piece in wire.chunks(size) {
            let progress =
                self.layers.receive(piece, &limits(), &mut self.scratch, &mut self.plain);
            self.progress.opened |= progress.opened;
            self.progress.handshake = self.progress.handshake.or(progress.handshake);
        }
        !wire.is_empty()
    }

    /// What the layers have to say, `plain` behind it.
    fn answer(&mut self, plain: &[u8]) -> bool {
        let mut wire = Vec::new();
        self.layers.send(plain, &mut self.scratch, &mut wire);
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets().unwrap();
            // It is full before it is read to the end, and there is no more until it is closed.
            let _ = self.client.reader().read_to_end(&mut self.heard);
        }
        !wire.is_empty()
    }

    fn shake_hands(&mut self, size: usize) {
        while self.speak_up(size) | self.answer(b"") {}
        assert!(self.progress.opened && self.layers.fault().is_none(), "in pieces of {size}");
    }
}

#[test]
fn any_split_of_the_wire_gives_the_same_bytes() {
    let site = Site::new("split");
    let server = site.server(CertificateIdentity::CommonName, &TicketKeys::random());
    let long: Vec<u8> = (0..40_000_u32).map(|at| at as u8).collect();
    for size in [1, 2, 5, 100, 100_000] {
        let mut joined = Joined::new(&site.anonymous, &server);
        joined.shake_hands(size);
        joined.client.writer().write_all(&long).unwrap();
        joined.speak_up(size);
        assert!(joined.plain == long, "in pieces of {size}");
        joined.answer(&long);
        assert!(joined.heard == long, "in pieces of {size}");
        assert_eq!(joined.layers.kept_bytes(), 0, "nothing is kept while nothing is under way");

        joined.client.send_close_notify();
        joined.speak_up(size);
        assert!(joined.layers.is_peer_done());
        joined.layers.end();
        joined.answer(b"");
        assert_eq!(joined.client.reader().read(&mut [0]).unwrap(), 0, "a clean end");
    }
}

#[test]
fn the_origin_tells_the_host_asked_for_and_the_name_in_the_certificate() {
    let site = Site::new("origin");
    for (kind, name) in [
        (CertificateIdentity::CommonName, "meter 7"),
        (CertificateIdentity::Dns, "seven.meters.example"),
        (CertificateIdentity::Email, "seven@meters.example"),
        (CertificateIdentity::Uri, "urn:meter:7"),
    ] {
        let server = site.server(kind, &TicketKeys::random());
        // The second time with a ticket: it has no certificate on the wire.
        for resumed in [false, true] {
            let mut joined = Joined::new(&site.client, &server);
            joined.shake_hands(1_000);
            let expected = Origin {
                peer: PEER.parse().unwrap(),
                transport: TransportKind::Tls,
                server_name: Some("mqtt.example".into()),
                certificate_identity: Some(name.into()),
            };
            assert_eq!(*joined.layers.origin(), expected);
            assert_eq!(joined.progress.handshake, Some(resumed), "{name}");
        }
        let mut joined = Joined::new(&site.anonymous, &server);
        joined.shake_hands(1_000);
        assert_eq!(joined.layers.origin().certificate_identity, None);
        // What was kept for the client's certificate does not leak to one without.
        assert_ne!(joined.client.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_broken_record_ends_with_an_alert_and_nothing_else_is_sent() {
    let site = Site::new("broken");
    let server = site.server(CertificateIdentity::CommonName, &TicketKeys::random());
    let mut joined = Joined::new(&site.anonymous, &server);
    joined.shake_hands(1_000);
    joined.client.writer().write_all(b"before").unwrap();
    joined.speak_up(1_000);
    let forged = [&[23, 3, 3, 0, 30][..], &[0; 30]].concat();
    joined.layers.receive(&forged, &limits(), &mut joined.scratch, &mut joined.plain);
    assert_eq!(joined.plain, b"before");
    assert_eq!(joined.layers.fault(), Some(CloseReason::Tls));
    let mut wire = Vec::new();
    joined.layers.send(b"not to be said any more", &mut joined.scratch, &mut wire);
    let mut rest = wire.as_slice();
    joined.client.read_tls(&mut rest).unwrap();
    let told = joined.client.process_new_packets().unwrap_err();
    let expected = rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac);
    assert_eq!((told, rest.len()), (expected, 0));
    joined.layers.end();
    assert!(!joined.layers.has_output());
}

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
                         Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n\r\n";

#[test]
fn websocket_over_tls_is_set_up_by_the_request() {
    let site = Site::new("websocket");
    let server = site.server(CertificateIdentity::CommonName, &TicketKeys::random());
    for size in [1, 10_000] {
        let mut joined = Joined::on(Scheme::Wss, &site.client, &server);
        while joined.speak_up(size) | joined.answer(b"") {}
        assert!(!joined.progress.opened, "TLS alone is not all");
        joined.client.writer().write_all(REQUEST).unwrap();
        joined.client.writer().write_all(b"\x82\x83\0\0\0\0abc\x89\x80\0\0\0\0").unwrap();
        joined.speak_up(size);
        assert!(joined.progress.opened);
        assert_eq!(joined.layers.origin().transport, TransportKind::SecureWebSocket);
        assert_eq!(joined.layers.origin().certificate_identity.as_deref(), Some("meter 7"));
        assert_eq!(joined.plain, b"abc");
        joined.answer(b"answer");
        joined.layers.end();
        joined.answer(b"");
        let heard = &joined.heard;
        assert_eq!(joined.client.reader().read(&mut [0]).unwrap(), 0, "a clean end");
        assert!(heard.starts_with(b"HTTP/1.1 101 "));
        assert!(heard.ends_with(b"\r\n\r\n\x8a\0\x82\x06answer\x88\x02\x03\xe8"));
    }
}

/// Whatever a peer sends, in whatever state, in whatever pieces.
#[test]
fn no_bytes_and_no_order_of_calls_is_a_panic() {
    let site = Site::new("noise");
    let server = site.server(CertificateIdentity::CommonName, &TicketKeys::random());
    for seed in 1..400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 1).unwrap() % below
        };
        let scheme = [Scheme::Mqtts, Scheme::Wss, Scheme::Ws][random(3)];
        let mut joined = Joined::on(scheme, &site.client, &server);
        for _ in 0..random(12) {
            let mut wire = Vec::new();
            match random(4) {
                0 => wire.extend((0..random(300)).map(|_| random(256) as u8)),
                1 => wire.extend(REQUEST.iter().chain(b"\x82\x83\0\0\0\0abc")),
                _ => {
                    let _ = joined.client.writer().write_all(REQUEST);
                    while joined.client.wants_write() {
                        let _ = joined.client.write_tls(&mut wire);
                    }
                }
            }
            if !wire.is_empty() && random(3) == 0 {
                let at = random(wire.len());
                wire[at] ^= 1 << random(8);
            }
            let size = 1 + random(500);
            for piece in wire.chunks(size) {
                joined.layers.receive(piece, &limits(), &mut joined.scratch, &mut joined.plain);
            }
            if random(8) == 0 {
                joined.layers.end();
            }
            let mut said = Vec::new();
            joined.layers.send(&[7; 40][..random(40)], &mut joined.scratch, &mut said);
            let mut rest = said.as_slice();
            let _ = joined.client.read_tls(&mut rest);
            let _ = joined.client.process_new_packets();
        }
    }
}
