//! Layers against a server in memory, whatever pieces the bytes travel in.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use gateway::proto::websocket::{WebSocket, WebSocketLimits};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    CertificateError, Error, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::{TLS12, TLS13},
};

use super::*;

/// A directory with an authority and a server's certificate of it, removed when the test ends.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("loadgen-transport-{}-{number}", std::process::id());
        let files = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&files.0).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let server = params.signed_by(&key, &issuer).unwrap();
        fs::write(files.path("ca.pem"), issuer.pem()).unwrap();
        fs::write(files.path("server.pem"), server.pem()).unwrap();
        fs::write(files.path("server.key"), key.serialize_pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn server(&self) -> Arc<ServerConfig> {
        use rustls::pki_types::pem::PemObject as _;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .unwrap();
        let chain = vec![CertificateDer::from_pem_file(self.path("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let builder = builder.with_no_client_auth();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }

    /// The way to a broker at `url`, as the command line would have it.
    fn way(&self, url: &str, change: impl FnOnce(&mut BrokerKeys)) -> Arc<Transport> {
        let ca = url.contains("s://").then(|| self.path("ca.pem"));
        let mut keys = BrokerKeys { url: Some(url.to_owned()), ca, ..BrokerKeys::default() };
        if url.starts_with("ws:") {
            keys.ca = None;
        }
        change(&mut keys);
        keys.resolve().unwrap().transport.unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The server's end of one connection.
struct Server {
    tls: Option<ServerConnection>,
    websocket: Option<WebSocket>,
    /// MQTT that came.
    plain: Vec<u8>,
    /// To be sent.
    wire: Vec<u8>,
    ws_closed: bool,
    /// close_notify came.
    tls_closed: bool,
}

impl Server {
    fn new(tls: Option<&Arc<ServerConfig>>, websocket: bool) -> Self {
        Self {
            tls: tls.map(|config| {
                let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
                tls.set_buffer_limit(None);
                tls
            }),
            websocket: websocket.then(WebSocket::default),
            plain: Vec::new(),
            wire: Vec::new(),
            ws_closed: false,
            tls_closed: false,
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut below = bytes.to_vec();
        if let Some(tls) = &mut self.tls {
            below.clear();
            let mut rest = bytes;
            while !rest.is_empty() {
                tls.read_tls(&mut rest).unwrap();
                let state = tls.process_new_packets()?;
                self.tls_closed |= state.peer_has_closed();
                // "Would block" is the end of what there is.
                let _ = tls.reader().read_to_end(&mut below);
            }
        }
        let mut answer = Vec::new();
        match &mut self.websocket {
            None => self.plain.extend(below),
            Some(websocket) => {
                let limits = WebSocketLimits {
                    request_bytes_max: 1_000,
                    frame_bytes_max: 1 << 20,
                    origins: Vec::new(),
                };
                let done =
                    websocket.receive(&below, &limits, &mut self.plain, &mut answer).unwrap();
                self.ws_closed |= done.closed;
            }
        }
        self.say(&answer);
        Ok(())
    }

    fn send(&mut self, plain: &[u8]) {
        let mut framed = Vec::new();
        match self.websocket {
            Some(_) => WebSocket::send(plain, &mut framed),
            None => framed.extend_from_slice(plain),
        }
        self.say(&framed);
    }

    fn say(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            None => self.wire.extend_from_slice(bytes),
            Some(tls) => {
                tls.writer().write_all(bytes).unwrap();
                while tls.wants_write() {
                    tls.write_tls(&mut self.wire).unwrap();
                }
            }
        }
    }
}

/// Both ends, with bytes that travel in pieces of `size`.
struct Link<'l> {
    layers: &'l mut Layers,
    server: Server,
    size: usize,
    /// What came for the client.
    plain: Vec<u8>,
    secured: Option<Secured>,
    opened: bool,
}

impl<'l> Link<'l> {
    fn new(layers: &'l mut Layers, server: Server, size: usize) -> Self {
        Self { layers, server, size, plain: Vec::new(), secured: None, opened: false }
    }

    /// Connects, until nothing is under way.
    fn connect(&mut self) -> Result<(), LayerFault> {
        let mut wire = Vec::new();
        self.layers.begin(5, &mut wire).unwrap();
        self.pass(wire)
    }

    /// Lets `wire` arrive, and what follows from it.
    fn pass(&mut self, mut wire: Vec<u8>) -> Result<(), LayerFault> {
        loop {
            for piece in wire.chunks(self.size) {
                self.server.receive(piece).unwrap();
            }
            wire.clear();
            self.server.say(&[]);
            let answer = std::mem::take(&mut self.server.wire);
            if answer.is_empty() {
                return Ok(());
            }
            for piece in answer.chunks(self.size) {
                let progress = self.layers.receive(12, piece, &mut self.plain, &mut wire)?;
                self.secured = self.secured.or(progress.secured);
                self.opened |= progress.opened;
            }
        }
    }

    fn send(&mut self, packets: &[u8]) {
        let mut wire = Vec::new();
        self.layers.send(&mut packets.to_vec(), &mut wire);
        self.pass(wire).unwrap();
    }
}

#[test]
fn any_split_of_the_stream_gives_the_same_bytes() {
    let files = Files::new();
    let config = files.server();
    let long: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
    for url in ["mqtts://localhost:1", "ws://localhost:1/a", "wss://localhost:1"] {
        let way = files.way(url, |_| {});
        for size in [1, 2, 3, 7, 1_000, 1 << 20] {
            let mut layers = Layers::new(Arc::clone(&way), 3);
            let tls = url.contains("s://").then_some(&config).filter(|_| way.tls.is_some());
            let server = Server::new(tls, way.websocket.is_some());
            let mut link = Link::new(&mut layers, server, size);
            link.connect().unwrap();
            assert!(link.opened, "{url} in pieces of {size}");
            assert_eq!(link.secured.is_some(), way.tls.is_some(), "{url}");
            for packets in [&b"one"[..], &long[..16_385], &long] {
                link.send(packets);
                assert!(link.server.plain == packets, "{url} in pieces of {size}");
                link.server.plain.clear();
                link.server.send(packets);
                link.pass(Vec::new()).unwrap();
                assert!(link.plain == packets, "{url} in pieces of {size}");
                link.plain.clear();
            }
        }
    }
}

#[test]
fn a_device_resumes_its_own_session_and_no_other() {
    let files = Files::new();
    let config = files.server();
    for version in [arguments::TlsVersion::V1_2, arguments::TlsVersion::V1_3] {
        let way = files.way("mqtts://localhost:1", |keys| keys.version = Some(version));
        let (mut one, mut other) = (Layers::new(Arc::clone(&way), 1), Layers::new(way, 2));
        let connect = |layers: &mut Layers| {
            let mut link = Link::new(layers, Server::new(Some(&config), false), 1 << 20);
            link.connect().unwrap();
            let secured = link.secured.unwrap();
            assert_eq!(secured.after_ns, 7);
            layers.closed();
            secured.resumed
        };
        assert!(!connect(&mut one), "{version:?}");
        assert!(one.wallet.has_session() && !other.wallet.has_session(), "{version:?}");
        assert!(connect(&mut one), "{version:?}");
        assert!(!connect(&mut other), "{version:?}: the other has no session yet");
        assert!(connect(&mut one) && connect(&mut other), "{version:?}");
    }
}

#[test]
fn without_resumption_every_handshake_is_a_full_one() {
    let files = Files::new();
    let config = files.server();
    let off = |keys: &mut BrokerKeys| keys.resume = Some(arguments::Resume::Off);
    let mut layers = Layers::new(files.way("mqtts://localhost:1", off), 1);
    for _ in 0..3 {
        let mut link = Link::new(&mut layers, Server::new(Some(&config), false), 1 << 20);
        link.connect().unwrap();
        assert!(!link.secured.unwrap().resumed);
    }
    assert!(!layers.wallet.has_session());
}

#[test]
fn a_polite_end_is_heard_in_each_layer_and_nothing_passes_behind_it() {
    let files = Files::new();
    let config = files.server();
    for url in ["mqtts://localhost:1", "ws://localhost:1", "wss://localhost:1"] {
        let way = files.way(url, |_| {});
        let (tls, websocket) = (way.tls.is_some(), way.websocket.is_some());
        let mut layers = Layers::new(way, 1);
        let server = Server::new(tls.then_some(&config), websocket);
        let mut link = Link::new(&mut layers, server, 5);
        link.connect().unwrap();
        let mut wire = Vec::new();
        link.layers.send(&mut b"\xe0\x00".to_vec(), &mut wire);
        link.layers.end(&mut wire);
        let length = wire.len();
        link.layers.end(&mut wire);
        link.layers.send(&mut b"too late".to_vec(), &mut wire);
        assert_eq!(wire.len(), length, "{url}");
        link.pass(wire).unwrap();
        assert_eq!(link.server.plain, b"\xe0\x00", "{url}");
        assert_eq!((link.server.tls_closed, link.server.ws_closed), (tls, websocket), "{url}");
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_and_told() {
    let (files, others) = (Files::new(), Files::new());
    let mut layers = Layers::new(others.way("mqtts://localhost:1", |_| {}), 1);
    let mut server = Server::new(Some(&files.server()), false);
    let (mut wire, mut plain) = (Vec::new(), Vec::new());
    layers.begin(0, &mut wire).unwrap();
    server.receive(&wire).unwrap();
    server.say(&[]);
    wire.clear();
    let fault = layers.receive(0, &server.wire, &mut plain, &mut wire).unwrap_err();
    let LayerFault::Tls(Error::InvalidCertificate(error)) = fault else { panic!("{fault}") };
    assert!(matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature));
    let heard = server.receive(&wire).unwrap_err();
    assert!(matches!(heard, Error::AlertReceived(_)), "{heard}");
}

#[test]
fn any_certificate_is_taken_when_that_is_said() {
    let files = Files::new();
    let insecure = |keys: &mut BrokerKeys| (keys.insecure, keys.ca) = (true, None);
    let mut layers = Layers::new(files.way("mqtts://127.0.0.1:1", insecure), 1);
    let mut link = Link::new(&mut layers, Server::new(Some(&files.server()), false), 100);
    link.connect().unwrap();
    assert!(link.opened);
}

#[test]
fn idle_layers_hold_no_buffers() {
    let files = Files::new();
    let mut layers = Layers::new(files.way("wss://localhost:1", |_| {}), 1);
    let mut link = Link::new(&mut layers, Server::new(Some(&files.server()), true), 1_000);
    link.connect().unwrap();
    link.server.send(&[7; 50_000]);
    link.pass(Vec::new()).unwrap();
    assert_eq!(link.plain.len(), 50_000);
    let tls = layers.tls.unwrap();
    assert_eq!(tls.kept_bytes(), 0);
    assert!(size_of::<Layers>() + size_of::<Tls>() <= 2_048, "{}", size_of::<Tls>());
}

#[track_caller]
fn check_faults(keys: &BrokerKeys, wanted: &[&str]) {
    let faults = keys.resolve().map(|_| ()).unwrap_err();
    assert_eq!(faults.len(), wanted.len(), "{faults:?}");
    for (fault, wanted) in faults.iter().zip(wanted) {
        assert!(fault.contains(wanted), "{fault:?} should say {wanted:?}");
    }
}

#[test]
fn what_cannot_be_used_is_said() {
    let files = Files::new();
    let at = |url: &str| BrokerKeys { url: Some(url.to_owned()), ..BrokerKeys::default() };
    let tls = || at("mqtts://127.0.0.1:1");
    check_faults(&at("mqtt:127.0.0.1"), &["expected mqtt://HOST[:PORT], mqtts://"]);
    let plain = BrokerKeys {
        ca: Some(files.path("ca.pem")),
        resume: Some(arguments::Resume::On),
        ..at("mqtt://127.0.0.1:1")
    };
    check_faults(&plain, &["--tls-ca: --broker mqtt://", "--tls-resume: --broker mqtt://"]);
    let half = BrokerKeys { cert: Some(files.path("server.pem")), ..tls() };
    check_faults(&half, &["--tls-cert: needs its --tls-key"]);
    let each = BrokerKeys { cert: Some("%d.pem".into()), key: Some("%d.key".into()), ..tls() };
    check_faults(&each, &["one certificate for all devices"]);
    let missing = BrokerKeys {
        ca: Some(files.path("nothing")),
        cert: Some(files.path("server.key")),
        key: Some(files.path("server.pem")),
        ..tls()
    };
    let wanted = ["--tls-ca", "there is none in it", "--tls-key"];
    check_faults(&missing, &wanted);
    let own = |name: &str| Some(Path::new(&files.0).join(name));
    let good =
        BrokerKeys { ca: own("ca.pem"), cert: own("server.pem"), key: own("server.key"), ..tls() };
    let broker = good.resolve().unwrap();
    let expected =
        TlsSettings { version: None, verified: true, client_certificate: true, resume: true };
    assert_eq!((broker.tls, broker.url.port), (Some(expected), 1));
}
