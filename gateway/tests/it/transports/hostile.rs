//! Peers that mean harm: each is closed, and counted for what it did; others do not notice.

use super::certificates::{Authority, Issued};
use super::proxied::socket_from;
use super::websocket_client::{REQUEST, WebSocketStream, frame, read_answer};
use super::wire::{Client, Socket, client_config, tls_over};
use crate::process::gateway::{TempDirectory, free_address};
use crate::process::raw_client::{connect, read_packet};
use gateway::auth::Directory;
use gateway::config::{Environment, Request};
use gateway::node::Gateway;
use gateway::shard::EngineCounters;
use rustls::ClientConfig;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

/// A gateway in this process, whose counters can be read when it has ended.
pub(super) struct Counted {
    gateway: Gateway,
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    _authority: Authority,
    _data: TempDirectory,
}

impl Counted {
    /// With a listener of this scheme, and strangers that may take one second and 4,096 bytes.
    pub(super) fn start(scheme: &str, flags: &[&str]) -> Self {
        let (authority, data) = (Authority::new(), TempDirectory::new());
        let server: Issued = authority.server("server", &["localhost"]);
        let address = free_address();
        let proxied = if flags.contains(&"--balancer") { "?proxy" } else { "" };
        let listen = format!("{scheme}://{address}{proxied}");
        let directory = data.path().to_str().unwrap();
        let mut all = vec!["gateway", "--listen", &listen, "--data", directory, "--shards", "2"];
        all.extend(["--limit", "handshake_timeout_s=1", "--limit", "handshake_bytes_max=4096"]);
        all.extend(flags);
        let tls_flags = server.flags();
        if matches!(scheme, "mqtts" | "wss") {
            all.extend(tls_flags.iter().map(String::as_str));
        }
        let environment = Environment::of_this_machine();
        let config = match Request::from_command_line(all, &environment) {
            Request::Run(config) => config,
            other => panic!("{other:?}"),
        };
        let tls = client_config(&authority, None);
        let directory = Directory::load(&config).unwrap();
        let gateway = Gateway::start(&config, directory).unwrap();
        Self { gateway, address, tls, _authority: authority, _data: data }
    }

    /// The sums of what all shards counted.
    pub(super) fn counters(self) -> EngineCounters {
        self.gateway.shutdown();
        let all = self.gateway.join().unwrap();
        let mut sum = EngineCounters::default();
        for shard in all {
            sum.accepted += shard.accepted;
            sum.closed_handshake += shard.closed_handshake;
            sum.closed_tls += shard.closed_tls;
            sum.closed_websocket += shard.closed_websocket;
            sum.closed_proxy += shard.closed_proxy;
            sum.refused_no_balancer += shard.refused_no_balancer;
            sum.closed_by_peer += shard.closed_by_peer;
        }
        sum
    }

    /// Sends `bytes` on a new connection; returns once the gateway has closed it, with what it said.
    pub(super) fn closed_after(&self, bytes: &[u8]) -> Vec<u8> {
        let mut socket = Socket::open(self.address);
        // It may be closed before everything is sent.
        let _ = socket.write_all(bytes);
        rest_of(&mut socket)
    }
}

/// Everything up to the end of the stream, or up to its reset.
pub(super) fn rest_of(socket: &mut Socket) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return said,
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

/// The start of a ClientHello that says it is longer than what is ever sent.
pub(super) fn endless_hello(bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut body = vec![1, 0, 0xff, 0xf0, 3, 3];
    body.resize(bytes, 0);
    for record in body.chunks(1_000) {
        all.extend([22, 3, 1]);
        all.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        all.extend(record);
    }
    all
}

#[test]
fn strangers_on_a_tls_listener_are_closed_and_counted() {
    let counted = Counted::start("mqtts", &[]);
    let mut good = Client::new(Box::new(
        tls_over(Socket::open(counted.address), &counted.tls, "localhost").unwrap(),
    ));
    good.send(&connect(4, "good", &[]));
    assert_eq!(good.packet().0, 0x20);

    // What is no TLS: an alert, and the end.
    for garbage in [&connect(4, "plain", &[])[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 300]] {
        let said = counted.closed_after(garbage);
        assert_eq!(said.first(), Some(&21), "an alert for {garbage:x?}");
    }
    // Silence, the start of a hello and nothing more, more than a stranger may send.
    assert!(counted.closed_after(b"").is_empty());
    assert!(counted.closed_after(&endless_hello(100)).is_empty());
    assert!(counted.closed_after(&endless_hello(9_000)).is_empty());

    // A record that was tampered with, after a good handshake.
    let socket = Socket::open(counted.address);
    let mut below = socket.stream();
    let broken = tls_over(socket, &counted.tls, "localhost").unwrap();
    below.write_all(&[23, 3, 3, 0, 40]).unwrap();
    below.write_all(&[7; 40]).unwrap();
    let mut rest = Vec::new();
    let _ = below.read_to_end(&mut rest);
    drop((broken, below));

    good.ping();
    drop(good);
    let counters = counted.counters();
    assert_eq!((counters.closed_tls, counters.closed_handshake), (4, 3));
}

#[test]
fn strangers_on_a_websocket_listener_are_closed_and_counted() {
    let counted = Counted::start("ws", &["--limit", "websocket_frame_bytes_max=1000"]);
    let mut good = WebSocketStream::open(Box::new(Socket::open(counted.address)), 1_000);
    good.write_all(&connect(4, "good", &[])).unwrap();
    assert_eq!(read_packet(&mut good).unwrap().0, 0x20);

    // Requests that are none, with the status that says so.
    let long = REQUEST.replace("/mqtt", &"/x".repeat(3_000));
    for (request, status) in [
        (&REQUEST.replace("GET", "PUT")[..], "405"),
        (&REQUEST.replace(": mqtt", ": chat"), "400"),
        (&REQUEST.replace("Version: 13", "Version: 7"), "426"),
        ("\x16\x03\x01 no HTTP\r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let said = String::from_utf8(counted.closed_after(request.as_bytes())).unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
    // Half a request and nothing more.
    assert!(counted.closed_after(&REQUEST.as_bytes()[..50]).is_empty());

    // Frames that break the rules, each with its code.
    let unmasked = [0x82, 2, 0x10, 0];
    let empty = [frame(0x02, b"\x10"), frame(0x00, b"").repeat(70)].concat();
    for (frames, code) in [
        (&unmasked[..], 1002_u16),
        (&frame(0x81, b"text"), 1003),
        (&frame(0x82, &[0; 1_001]), 1009),
        (&empty, 1008),
    ] {
        let mut socket = Socket::open(counted.address);
        socket.write_all(REQUEST.as_bytes()).unwrap();
        assert!(read_answer(&mut socket).unwrap().contains(" 101 "));
        let _ = socket.write_all(frames);
        let said = rest_of(&mut socket);
        assert_eq!(said[..4], [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{frames:x?}");
    }
    // A packet that has no end, in fragments that have none: as large as a packet may be, no larger.
    let mut socket = Socket::open(counted.address);
    let mut below = socket.stream();
    socket.write_all(REQUEST.as_bytes()).unwrap();
    read_answer(&mut socket).unwrap();
    let mut bomb = frame(0x02, &[0x10, 0xff, 0xff, 0xff, 0x7f]);
    bomb.extend(frame(0x00, &[0; 1_000]).repeat(200));
    let _ = below.write_all(&bomb);
    rest_of(&mut socket);
    drop((socket, below));

    good.write_all(&[0xc0, 0]).unwrap();
    assert_eq!(read_packet(&mut good).unwrap().0, 0xd0);
    drop(good);
    let counters = counted.counters();
    let refused = (counters.closed_websocket, counters.closed_handshake);
    assert_eq!(refused, (9, 1));
}

/// The origin is what a page cannot choose.
#[test]
fn pages_of_other_sites_are_refused_where_some_are_named() {
    let directory = TempDirectory::new();
    let text = "websocket_origins = \"https://app.example\"\n";
    let config = super::tls::config_file(&directory, text);
    let counted = Counted::start("ws", &[&config[0], &config[1]]);
    let from = |origin: &str| REQUEST.replace("Host:", &format!("Origin: {origin}\r\nHost:"));
    let said = counted.closed_after(from("https://evil.example").as_bytes());
    assert!(said.starts_with(b"HTTP/1.1 403 "));
    let mut socket = Socket::open(counted.address);
    socket.write_all(from("https://app.example").as_bytes()).unwrap();
    assert!(read_answer(&mut socket).unwrap().contains(" 101 "));
    drop(socket);
    assert_eq!(counted.counters().closed_websocket, 1);
}

#[test]
fn a_proxy_header_is_believed_from_a_balancer_only_and_asked_of_it() {
    let counted = Counted::start("mqtt", &["--balancer", "127.0.0.2"]);
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n";
    let with_header = [&header[..], &connect(4, "good", &[])].concat();

    // Somebody else: closed at once, whatever is said.
    assert!(counted.closed_after(&with_header).is_empty());
    // The balancer, without a header, with a broken one, with half of one.
    for bytes in [
        &connect(4, "no header", &[])[..],
        b"PROXY TCP4 192.0.2.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c            ",
        &header[..10],
    ] {
        let mut socket = socket_from("127.0.0.2", counted.address);
        socket.write_all(bytes).unwrap();
        assert!(rest_of(&mut socket).is_empty(), "{bytes:x?}");
    }
    // A header longer than a stranger may send.
    let mut socket = socket_from("127.0.0.2", counted.address);
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    long.resize(9_000, 0);
    let _ = socket.write_all(&long);
    assert!(rest_of(&mut socket).is_empty());
    drop(socket);

    let mut socket = socket_from("127.0.0.2", counted.address);
    socket.write_all(&with_header).unwrap();
    let mut good = Client::new(Box::new(socket));
    assert_eq!(good.packet(), (0x20, vec![0, 0]));
    good.ping();
    drop(good);
    let counters = counted.counters();
    assert_eq!(counters.refused_no_balancer, 1);
    assert_eq!((counters.closed_proxy, counters.closed_handshake), (3, 2));
}

/// On a listener that expects none, a header is bytes like others: no MQTT.
#[test]
fn a_proxy_header_is_not_believed_where_none_is_expected() {
    for scheme in ["mqtt", "mqtts", "ws"] {
        let counted = Counted::start(scheme, &[]);
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n\r\n";
        let said = counted.closed_after(&[&header[..], &connect(4, "spoof", &[])].concat());
        assert!(!said.contains(&0x20) || scheme != "mqtt", "{scheme}: {said:x?}");
        counted.counters();
    }
}
