//! Addresses from which nobody is let in, or not so often: before a handshake costs anything.

use super::certificates::Authority;
use super::proxied::socket_from;
use super::tls::config_file;
use super::websocket_client::REQUEST;
use super::wire::{Client, Socket, client_config, tls_over};
use crate::admin::metrics::Samples;
use crate::process::gateway::{Gateway, TempDirectory, free_address};
use crate::process::raw_client::{V5, connect};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

/// A gateway on one shard with a listener of each kind that takes a handshake.
struct Scene {
    gateway: Gateway,
    tls: SocketAddr,
    websocket: SocketAddr,
    proxied: SocketAddr,
    config: Arc<ClientConfig>,
    _authority: Authority,
    _directory: TempDirectory,
}

impl Scene {
    fn start(text: &str) -> Self {
        let authority = Authority::new();
        let server = authority.server("server", &["localhost"]);
        let (directory, config) = (TempDirectory::new(), client_config(&authority, None));
        let [tls, websocket, proxied] = [(); 3].map(|()| free_address());
        let listen = [
            format!("mqtts://{tls}"),
            format!("ws://{websocket}"),
            format!("mqtts://{proxied}?proxy"),
        ];
        let mut flags = vec!["--admin", "127.0.0.1:0", "--shards", "1", "--balancer", "127.0.0.9"];
        listen.iter().for_each(|one| flags.extend(["--listen", one]));
        let files = [&server.flags()[..], &config_file(&directory, text)].concat();
        flags.extend(files.iter().map(String::as_str));
        let gateway = Gateway::start(&flags);
        let (_authority, _directory) = (authority, directory);
        Self { gateway, tls, websocket, proxied, config, _authority, _directory }
    }

    /// The start of a handshake.
    fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// A connection by the balancer, with its header for a client from this address.
    fn behind_balancer(&self, client: &str) -> Socket {
        let mut socket = socket_from("127.0.0.9", self.proxied);
        let header = format!("PROXY TCP4 {client} 192.0.2.99 5000 8883\r\n");
        socket.write_all(header.as_bytes()).unwrap();
        socket
    }

    /// What CONNECT over TLS is answered.
    fn enters(&self, socket: Socket) -> u8 {
        let mut client =
            Client::new(Box::new(tls_over(socket, &self.config, "localhost").unwrap()));
        client.send(&connect(V5, "client", &[]));
        client.packet().1[1]
    }

    fn turned_away(&self) -> f64 {
        let label = "what=\"banned_or_too_often\"";
        Samples::scrape(self.gateway.admin_address()).sum("gateway_denied_total", &[label])
    }
}

/// Whether nothing at all is answered before the end of the connection.
fn is_closed_without_a_word(mut socket: Socket, sent: &[u8]) -> bool {
    // It may be closed before anything is sent.
    let _ = socket.write_all(sent);
    match socket.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => {
            let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
            assert!(is_reset, "{error}");
            true
        }
    }
}

/// So many times, and at most so many lines in the log.
const TIMES: usize = 20;
const LINES_MAX: usize = 6;

#[test]
fn an_address_that_is_banned_gets_no_handshake() {
    let text = "banned_addresses = [\"127.0.0.7\", \"192.0.2.0/25\"]\n";
    let mut scene = Scene::start(text);
    let hello = scene.hello();
    for _ in 0..TIMES {
        assert!(is_closed_without_a_word(socket_from("127.0.0.7", scene.tls), &hello));
        let socket = socket_from("127.0.0.7", scene.websocket);
        assert!(is_closed_without_a_word(socket, REQUEST.as_bytes()));
        // What the header says counts: the balancer's own address is not banned.
        assert!(is_closed_without_a_word(scene.behind_balancer("192.0.2.7"), &hello));
    }
    assert_eq!(scene.enters(socket_from("127.0.0.6", scene.tls)), 0);
    assert_eq!(scene.enters(scene.behind_balancer("192.0.2.200")), 0);
    assert_eq!(scene.turned_away(), 3.0 * TIMES as f64);
    let samples = Samples::scrape(scene.gateway.admin_address());
    assert_eq!(samples.sum("gateway_tls_handshakes_total", &[]), 2.0, "of those let in");
    let log = scene.gateway.log();
    let line = "closed before its handshake";
    let count = log.lines().filter(|one| one.contains("WARN") && one.contains(line)).count();
    assert!((1..=LINES_MAX).contains(&count), "{log}");
    scene.gateway.stop();
}

#[test]
fn the_rate_of_an_address_counts_before_its_handshake_and_once() {
    let scene = Scene::start("[limits]\naddress_connect_rate_max = 8\n");
    let hello = scene.hello();
    for sockets in [(&|| socket_from("127.0.0.7", scene.tls)) as &dyn Fn() -> Socket, &|| {
        scene.behind_balancer("192.0.2.7")
    }] {
        // A second's worth: were CONNECT counted too, it would be used up by half of them.
        for _ in 0..8 {
            assert_eq!(scene.enters(sockets()), 0);
        }
        let is_refused = || {
            let mut socket = sockets();
            let _ = socket.write_all(&hello);
            // The first byte of a ServerHello, or the end.
            !matches!(socket.read(&mut [0]), Ok(1))
        };
        assert!((0..10_000).any(|_| is_refused()));
    }
    assert!(scene.turned_away() >= 2.0);
    // Others have a rate of their own.
    assert_eq!(scene.enters(socket_from("127.0.0.8", scene.tls)), 0);
    assert_eq!(scene.enters(scene.behind_balancer("192.0.2.8")), 0);
    scene.gateway.stop();
}
