//! An upgrade under clients on TLS and WebSocket. They cannot move along: what is between wire and MQTT
//! stays in the old process. So they are told, their connections end in order, and the new process has
//! their sessions.

use super::party::{Entrance, Party};
use super::wire::{Stream, Wire};
use crate::packets::framed;
use crate::process::gateway::gateway_command;
use crate::process::raw_client::{V5, publish, push_text, read_packet, subscribe};
use crate::upgrade::{finish, heir_of};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU32, Ordering};

/// Messages a publisher has acknowledged on each side of the upgrade, at least.
const MESSAGES: u32 = 30;

const WIRES: [Wire; 3] = [Wire::Tls, Wire::Ws, Wire::Wss];

/// A client that keeps its session and connects again whenever its connection ends.
struct Lasting {
    entrance: Entrance,
    name: String,
    stream: Box<dyn Stream>,
    /// What its connections ended with: DISCONNECT's reason.
    ends: Vec<u8>,
}

impl Lasting {
    fn new(entrance: Entrance, name: &str) -> Self {
        let name = format!("{name}-{:?}", entrance.wire);
        let stream = Self::connected(&entrance, &name, false);
        Self { entrance, name, stream, ends: Vec::new() }
    }

    fn connected(entrance: &Entrance, name: &str, is_there: bool) -> Box<dyn Stream> {
        let mut stream = entrance.open();
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0, 0, 0, 5, 0x11, 0, 0, 1, 0];
        push_text(&mut body, name);
        stream.write_all(&framed(0x10, &body)).unwrap();
        let (kind, body) = read_packet(&mut stream).unwrap();
        assert_eq!((kind, &body[..2]), (0x20, &[u8::from(is_there), 0][..]), "CONNACK for {name}");
        stream
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next packet, or `None` if there was no more and it has connected again. The end is one in
    /// order: DISCONNECT, then close_notify or Close, and no reset.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let (kind, body) = read_packet(&mut self.stream).unwrap();
        if kind != 0xe0 {
            return Some((kind, body));
        }
        self.ends.push(body[0]);
        // An end without close_notify is an error of the client's TLS.
        let after = read_packet(&mut self.stream)
            .map_err(|error| (error.kind(), error.to_string().contains("close_notify")));
        assert_eq!(after, Err((ErrorKind::UnexpectedEof, false)), "{}", self.name);
        self.stream = Self::connected(&self.entrance, &self.name, true);
        None
    }

    /// Publishes numbers one after the other until `limit`, and tells how many are acknowledged. What is
    /// not when the connection ends is sent again.
    fn publish_all(mut self, topic: &str, acknowledged: &AtomicU32, limit: &AtomicU32) -> Vec<u8> {
        let mut number = 0;
        while number < limit.load(Ordering::Relaxed) {
            let payload = number.to_string();
            // A connection that has ended is noticed where its end is read.
            let _ = self.send(&publish(V5, topic, Some(1), &[], payload.as_bytes()));
            match self.packet() {
                Some((0x40, body)) => {
                    assert!(body.get(2).is_none_or(|code| *code == 0), "{body:x?}");
                    number += 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Some(other) => panic!("{}: {other:x?}", self.name),
                None => {}
            }
        }
        self.ends
    }

    /// Takes messages until it has all below `limit`: none is missing, none overtaken.
    fn take_all(mut self, limit: &AtomicU32) -> Vec<u8> {
        let mut next = 0;
        while next < limit.load(Ordering::Relaxed) {
            let Some((kind, body)) = self.packet() else { continue };
            assert_eq!(kind & 0xf0, 0x30, "{}: {kind:x}", self.name);
            let place = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let number: u32 = std::str::from_utf8(&body[place + 3..]).unwrap().parse().unwrap();
            assert!(number <= next, "{}: {number} came, and not {next}", self.name);
            next = next.max(number + 1);
            let _ = self.send(&[0x40, 2, body[place], body[place + 1]]);
        }
        self.ends
    }
}

#[test]
fn clients_on_tls_and_websocket_are_told_and_miss_nothing() {
    let party = Party::start(&["--shards", "2"]);
    let (limit, acknowledged) = (AtomicU32::new(u32::MAX), WIRES.map(|_| AtomicU32::new(0)));
    let by_all = |count: u32| {
        let mut counts = acknowledged.iter().map(|one| one.load(Ordering::Relaxed));
        counts.all(|one| one >= count)
    };
    let heir = std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for (wire, acknowledged) in WIRES.into_iter().zip(&acknowledged) {
            let topic = format!("t/{wire:?}");
            let mut subscriber = Lasting::new(party.entrance(wire), "sub");
            subscriber.send(&subscribe(V5, &[&topic], 1)).unwrap();
            assert_eq!(subscriber.packet().unwrap().0, 0x90, "SUBACK");
            let publisher = Lasting::new(party.entrance(wire), "pub");
            let limit = &limit;
            ends.push(scope.spawn(move || subscriber.take_all(limit)));
            ends.push(scope.spawn(move || publisher.publish_all(&topic, acknowledged, limit)));
        }
        while !by_all(MESSAGES) {
            std::thread::yield_now();
        }
        let mut command = gateway_command();
        let output = command.arg("upgrade").arg("--data").arg(party.gateway.data()).output();
        let heir = heir_of(&output.unwrap());
        let most = acknowledged.iter().map(|one| one.load(Ordering::Relaxed)).max().unwrap();
        // From here on the end is known: everybody goes on for a while with the new process.
        limit.store(most + MESSAGES, Ordering::Relaxed);
        for end in ends {
            // Server shutting down, once.
            assert_eq!(end.join().unwrap(), [0x8b]);
        }
        heir
    });
    assert!(by_all(MESSAGES * 2), "{acknowledged:?}");
    finish(party.gateway, heir);
}
