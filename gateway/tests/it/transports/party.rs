//! A gateway that listens on every transport.

use super::certificates::Authority;
use super::websocket_client::{REQUEST, WebSocketStream, read_answer};
use super::wire::{Client, Socket, Stream, Wire, client_config, tls_over};
use crate::process::gateway::{Gateway, free_address};
use crate::process::raw_client::connect;
use rustls::ClientConfig;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) struct Party {
    pub(super) gateway: Gateway,
    pub(super) authority: Authority,
    /// The public key of its certificate.
    pub(super) server_key: Vec<u8>,
    addresses: Vec<(Wire, SocketAddr)>,
    tls: Arc<ClientConfig>,
}

impl Party {
    /// A gateway with these flags, and an authority whose certificate for localhost it shows.
    pub(super) fn start(flags: &[&str]) -> Self {
        Self::start_at(flags, free_address)
    }

    /// The same, with addresses that `free_address` finds for all but TCP.
    pub(super) fn start_at(flags: &[&str], free_address: impl Fn() -> SocketAddr) -> Self {
        let authority = Authority::new();
        let server = authority.server("server", &["localhost"]);
        let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        all.extend(server.flags());
        let mut addresses = Vec::new();
        for wire in super::wire::ALL.into_iter().filter(|wire| *wire != Wire::Tcp) {
            let address = free_address();
            all.extend(["--listen".to_owned(), format!("{}://{address}", wire.scheme())]);
            addresses.push((wire, address));
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let gateway = Gateway::start(&all);
        addresses.push((Wire::Tcp, gateway.address()));
        let tls = client_config(&authority, None);
        let server_key = server.public_key;
        Self { gateway, authority, server_key, addresses, tls }
    }

    pub(super) fn address(&self, wire: Wire) -> SocketAddr {
        self.addresses.iter().find(|(known, _)| *known == wire).unwrap().1
    }

    /// The way in over `wire`, for a client on a thread of its own.
    pub(super) fn entrance(&self, wire: Wire) -> Entrance {
        Entrance { wire, address: self.address(wire), tls: Arc::clone(&self.tls) }
    }

    /// The transport of `wire` set up over `socket`, which leads there.
    pub(super) fn over(&self, wire: Wire, socket: Socket) -> Box<dyn Stream> {
        let below = self.below_websocket(wire, socket);
        if wire.is_websocket() { Box::new(WebSocketStream::open(below, usize::MAX)) } else { below }
    }

    /// A WebSocket connection whose frames the test makes itself; `frames` are sent.
    pub(super) fn websocket(&self, wire: Wire, frames: &[u8]) -> Box<dyn Stream> {
        let mut below = self.below_websocket(wire, Socket::open(self.address(wire)));
        below.write_all(REQUEST.as_bytes()).unwrap();
        assert!(read_answer(&mut below).unwrap().starts_with("HTTP/1.1 101 "));
        below.write_all(frames).unwrap();
        below
    }

    /// What of the transport is below WebSocket.
    pub(super) fn below_websocket(&self, wire: Wire, socket: Socket) -> Box<dyn Stream> {
        below_websocket(wire, socket, &self.tls)
    }

    /// A connection on which nothing of MQTT was sent.
    pub(super) fn open(&self, wire: Wire) -> Client {
        Client::new(self.over(wire, Socket::open(self.address(wire))))
    }

    /// A session that starts clean and ends with the connection.
    #[track_caller]
    pub(super) fn connected(&self, wire: Wire, level: u8, client_id: &str) -> Client {
        let mut client = self.open(wire);
        client.send(&connect(level, client_id, &[]));
        let (kind, body) = client.packet();
        assert_eq!((kind, &body[..2]), (0x20, &[0, 0][..]), "CONNACK over {wire:?}");
        client
    }
}

/// Where clients on one transport come in.
pub(super) struct Entrance {
    pub(super) wire: Wire,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Entrance {
    /// A connection on which nothing of MQTT was sent.
    pub(super) fn open(&self) -> Box<dyn Stream> {
        let below = below_websocket(self.wire, Socket::open(self.address), &self.tls);
        match self.wire.is_websocket() {
            true => Box::new(WebSocketStream::open(below, usize::MAX)),
            false => below,
        }
    }
}

fn below_websocket(wire: Wire, socket: Socket, tls: &Arc<ClientConfig>) -> Box<dyn Stream> {
    if wire.is_tls() {
        Box::new(tls_over(socket, tls, "localhost").unwrap())
    } else {
        Box::new(socket)
    }
}
