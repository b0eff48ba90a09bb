//! Many who are not known yet and send much, each within its limits.

use super::hostile::endless_hello;
use super::party::Party;
use super::wire::{Client, Socket, Wire};
use crate::admin::metrics::Samples;
use crate::packets::framed;
use crate::process::gateway::{Gateway, PATIENCE, TempDirectory};
use crate::process::hostile::now;
use crate::process::http_auth::{Oracle, connect};
use crate::process::raw_client::{RawClient, V3_1_1, push_text};
use std::io::Write as _;

/// `strangers_bytes_max` of these tests, and what each stranger sends of what it has to say.
const BYTES_MAX: usize = 1_048_576;
const SENT_BYTES: usize = 60_000;
/// So many have room, at most.
const FITTING: usize = BYTES_MAX / SENT_BYTES;

/// A CONNECT that is longer than what a stranger sends of it at first.
fn long_connect(client_id: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0x06, 0, 0];
    for text in [client_id, "wills/long", &"x".repeat(SENT_BYTES)] {
        push_text(&mut body, text);
    }
    framed(0x10, &body)
}

/// The start of what a stranger says on a transport.
fn beginning(wire: Wire) -> Vec<u8> {
    let mut bytes = match wire {
        Wire::Tcp => long_connect("stranger"),
        Wire::Tls | Wire::Wss => endless_hello(SENT_BYTES),
        Wire::Ws => [b"GET /mqtt HTTP/1.1\r\nX: ", &[b'x'; SENT_BYTES][..]].concat(),
    };
    bytes.truncate(SENT_BYTES);
    bytes
}

/// Waits until the metrics say so.
#[track_caller]
fn wait_until(party: &Party, is_so: impl Fn(&Samples) -> bool) {
    let started = now();
    while !is_so(&Samples::scrape(party.gateway.admin_address())) {
        assert!(started.elapsed() < PATIENCE);
    }
}

#[test]
fn what_strangers_hold_is_bounded_all_together() {
    let limit = format!("strangers_bytes_max={BYTES_MAX}");
    let limits = [&limit[..], "connect_timeout_s=600", "handshake_timeout_s=600"];
    let limits = limits.map(|limit| ["--limit", limit]);
    let flags = ["--shards", "2", "--admin", "127.0.0.1:0"];
    let party = Party::start(&[&flags, limits.as_flattened()].concat());
    let mut good = party.connected(Wire::Tcp, V3_1_1, "good");
    for (round, wire) in [Wire::Tcp, Wire::Tls, Wire::Ws].into_iter().enumerate() {
        // Twice as many as there is room for, each within its own limits.
        let strangers: Vec<Socket> = (0..2 * FITTING)
            .map(|_| {
                let mut socket = Socket::open(party.address(wire));
                // It may be closed before everything is sent.
                let _ = socket.write_all(&beginning(wire));
                socket
            })
            .collect();
        let closed =
            |samples: &Samples| samples.sum("gateway_closed_total", &["reason=\"strangers\""]);
        wait_until(&party, |samples| closed(samples) >= ((round + 1) * FITTING) as f64);
        good.ping();
        drop(strangers);
        wait_until(&party, |samples| samples.sum("gateway_connections", &[]) < 1.5);

        // Nothing of them is left: as many as there is room for come to their end.
        let mut late: Vec<(Socket, Vec<u8>)> = (0..FITTING)
            .map(|number| {
                let mut socket = Socket::open(party.address(Wire::Tcp));
                let mut bytes = long_connect(&format!("late {number}"));
                let rest = bytes.split_off(SENT_BYTES);
                socket.write_all(&bytes).unwrap();
                (socket, rest)
            })
            .collect();
        for (socket, rest) in &mut late {
            socket.write_all(rest).unwrap();
        }
        let late: Vec<Client> =
            late.into_iter().map(|(socket, _)| Client::new(Box::new(socket))).collect();
        for mut client in late {
            assert_eq!(client.packet(), (0x20, vec![0, 0]));
            client.send(&framed(0xe0, &[]));
        }
        wait_until(&party, |samples| samples.sum("gateway_connections", &[]) < 1.5);
    }
    good.ping();
    party.gateway.stop();
}

/// Whose CONNECT is complete, and of whom nobody says who they are.
#[test]
fn what_those_hold_who_wait_for_their_identity_counts() {
    let oracle = Oracle::start();
    let folder = TempDirectory::new();
    let file = folder.path().join("gateway.toml");
    let text = format!(
        "http_auth_url = \"http://{}/\"\n[limits]\nstrangers_bytes_max = {BYTES_MAX}\n\
         http_auth_timeout_ms = 5000\nconnect_timeout_s = 600\n",
        oracle.address
    );
    std::fs::write(&file, text).unwrap();
    let flags = ["--shards", "2", "--admin", "127.0.0.1:0", "--config", file.to_str().unwrap()];
    let gateway = Gateway::start(&flags);
    let wait_until = |is_so: &dyn Fn(&Samples) -> bool| {
        let started = now();
        while !is_so(&Samples::scrape(gateway.admin_address())) {
            assert!(started.elapsed() < PATIENCE);
        }
    };
    let closed = |samples: &Samples| samples.sum("gateway_closed_total", &["reason=\"strangers\""]);
    for round in 1..=2 {
        let strangers: Vec<RawClient> = (0..2 * FITTING)
            .map(|number| {
                let mut client = RawClient::open(gateway.address());
                let password = "x".repeat(SENT_BYTES);
                let packet = connect(&format!("stranger {number}"), "silent", &password);
                // It may be closed before everything is sent.
                let _ = client.try_send(&packet);
                client
            })
            .collect();
        wait_until(&|samples| closed(samples) >= (round * FITTING) as f64);
        // Nothing of them is left when they hear that nobody knows them: the next find as much room.
        drop(strangers);
        wait_until(&|samples| samples.sum("gateway_connections", &[]) < 0.5);
        let closed = closed(&Samples::scrape(gateway.admin_address()));
        let most = (round * (FITTING + 2)) as f64;
        assert!(closed <= most, "{closed} are closed in {round} rounds, of {most} at most");
    }
    gateway.stop();
}
