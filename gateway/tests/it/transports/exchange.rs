//! The same exchanges over every transport, with two shards: half of the connections are handed over
//! to the other one, with the state of their transport.

use super::party::Party;
use super::wire::{ALL, Client, Socket, Wire};
use crate::packets::framed;
use crate::process::gateway::free_address_v6;
use crate::process::raw_client::{V3_1_1, V5, connect, publish, publish_qos2, subscribe};
use std::net::Shutdown;

/// Clients a transport: with two shards, each of them lands on the wrong one every other time.
const CLIENTS: usize = 8;

fn payload_of(packet: &(u8, Vec<u8>)) -> &[u8] {
    let (kind, body) = packet;
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let at = 2 + topic + if kind & 0x06 == 0 { 0 } else { 2 };
    &body[at..]
}

/// Takes a message and acknowledges it as its QoS asks for.
#[track_caller]
fn take(client: &mut Client) -> (u8, Vec<u8>) {
    let packet = client.packet();
    let qos = (packet.0 >> 1) & 3;
    assert_eq!(packet.0 & 0xf0, 0x30, "{packet:?}");
    let topic = usize::from(u16::from_be_bytes([packet.1[0], packet.1[1]]));
    if qos > 0 {
        let id = [packet.1[2 + topic], packet.1[3 + topic]];
        match qos {
            1 => client.send(&framed(0x40, &id)),
            _ => {
                client.send(&framed(0x50, &id));
                assert_eq!(client.packet(), (0x62, id.to_vec()));
                client.send(&framed(0x70, &id));
            }
        }
    }
    (qos, payload_of(&packet).to_vec())
}

/// Publishes at each QoS and waits for what acknowledges it.
#[track_caller]
fn publish_all(client: &mut Client, topic: &str) {
    client.send(&publish(V3_1_1, topic, None, &[], b"zero"));
    client.send(&publish(V3_1_1, topic, Some(1), &[], b"one"));
    assert_eq!(client.packet(), (0x40, vec![0, 1]));
    client.send(&publish_qos2(V3_1_1, topic, 2, b"two"));
    assert_eq!(client.packet(), (0x50, vec![0, 2]));
    client.send(&framed(0x62, &[0, 2]));
    assert_eq!(client.packet(), (0x70, vec![0, 2]));
}

#[test]
fn messages_of_each_qos_cross_from_every_transport_to_every_other() {
    let party = Party::start(&["--shards", "2"]);
    for to in ALL {
        let topic = format!("to/{to:?}");
        let mut subscriber = party.connected(to, V3_1_1, &format!("subscriber {to:?}"));
        subscriber.send(&subscribe(V3_1_1, &[&topic], 2));
        assert_eq!(subscriber.packet().0, 0x90);
        for from in ALL {
            for number in 0..CLIENTS {
                let name = format!("{from:?} {number} {to:?}");
                let mut publisher = party.connected(from, V3_1_1, &name);
                publish_all(&mut publisher, &topic);
                let mut taken: Vec<_> = (0..3).map(|_| take(&mut subscriber)).collect();
                taken.sort();
                let expected = [(0, &b"zero"[..]), (1, b"one"), (2, b"two")];
                assert_eq!(taken, expected.map(|(qos, payload)| (qos, payload.to_vec())), "{name}");
            }
        }
        subscriber.ping();
    }
    party.gateway.stop();
}

#[test]
fn messages_of_each_qos_cross_on_ipv6() {
    let tcp = free_address_v6();
    let flags = ["--shards", "2", "--listen", &format!("mqtt://{tcp}")];
    let party = Party::start_at(&flags, free_address_v6);
    for wire in ALL {
        let address = if wire == Wire::Tcp { tcp } else { party.address(wire) };
        assert!(address.is_ipv6());
        let enter = |name: String| {
            let mut client = Client::new(party.over(wire, Socket::open(address)));
            client.send(&connect(V3_1_1, &name, &[]));
            assert_eq!(client.packet(), (0x20, vec![0, 0]), "{name}");
            client
        };
        let topic = format!("six/{wire:?}");
        let mut subscriber = enter(format!("subscriber {wire:?}"));
        subscriber.send(&subscribe(V3_1_1, &[&topic], 2));
        assert_eq!(subscriber.packet().0, 0x90);
        for number in 0..CLIENTS {
            let mut publisher = enter(format!("{wire:?} {number}"));
            publish_all(&mut publisher, &topic);
            let mut taken: Vec<_> = (0..3).map(|_| take(&mut subscriber)).collect();
            taken.sort();
            let expected = [(0, &b"zero"[..]), (1, b"one"), (2, b"two")];
            assert_eq!(taken, expected.map(|(qos, payload)| (qos, payload.to_vec())));
        }
    }
    party.gateway.stop();
}

/// Larger than a TLS record, a WebSocket frame of 16-bit length, and a receive buffer.
#[test]
fn large_packets_arrive_whole() {
    let party = Party::start(&["--shards", "2"]);
    for wire in ALL {
        for size in [125, 126, 16_384, 65_535, 65_536, 700_000] {
            let name = format!("{wire:?} {size}");
            let mut client = party.connected(wire, V3_1_1, &name);
            client.send(&subscribe(V3_1_1, &[&name], 1));
            assert_eq!(client.packet().0, 0x90);
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            client.send(&publish(V3_1_1, &name, Some(1), &[], &payload));
            let mut packets = [client.packet(), client.packet()];
            packets.sort_by_key(|(kind, _)| *kind);
            assert_eq!(payload_of(&packets[0]), payload, "{name}");
            assert_eq!(packets[1], (0x40, vec![0, 1]), "{name}");
        }
    }
    party.gateway.stop();
}

#[test]
fn packets_that_come_byte_by_byte_are_understood() {
    let party = Party::start(&["--shards", "2"]);
    for wire in ALL {
        for number in 0..CLIENTS {
            let name = format!("slow {wire:?} {number}");
            let socket = Socket::dribbling(party.address(wire));
            let mut client = Client::new(party.over(wire, socket));
            client.send(&connect(V5, &name, &[]));
            assert_eq!(client.packet().0, 0x20, "{name}");
            client.send(&subscribe(V5, &[&name], 1));
            assert_eq!(client.packet().0, 0x90, "{name}");
            client.send(&publish(V5, &name, None, &[], b"bytes"));
            let (_, body) = client.packet();
            assert!(body.ends_with(b"bytes"), "{name}");
        }
    }
    party.gateway.stop();
}

/// CONNECT and what follows it in one piece, so that it moves between shards with the connection.
#[test]
fn what_is_sent_before_connack_moves_along() {
    let party = Party::start(&["--shards", "2"]);
    for wire in ALL {
        for number in 0..CLIENTS {
            let name = format!("hasty {wire:?} {number}");
            let mut all = connect(V3_1_1, &name, &[]);
            all.extend(subscribe(V3_1_1, &[&name], 0));
            all.extend(publish(V3_1_1, &name, None, &[], &[b'x'; 20_000]));
            all.extend([0xc0, 0]);
            let mut client = party.open(wire);
            client.send(&all);
            let kinds: Vec<u8> = (0..4).map(|_| client.packet().0).collect();
            assert_eq!(kinds[..2], [0x20, 0x90], "{name}");
            assert!(kinds.contains(&0x30) && kinds.contains(&0xd0), "{name}: {kinds:x?}");
        }
    }
    party.gateway.stop();
}

#[test]
fn an_abrupt_end_publishes_the_will() {
    let party = Party::start(&["--shards", "2"]);
    let mut watcher = party.connected(Wire::Tcp, V3_1_1, "watcher");
    watcher.send(&subscribe(V3_1_1, &["wills/#"], 0));
    assert_eq!(watcher.packet().0, 0x90);
    for wire in ALL {
        for how in ["shutdown", "reset"] {
            let socket = Socket::open(party.address(wire));
            let below = socket.stream();
            let mut client = Client::new(party.over(wire, socket));
            let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0x06, 0, 0];
            for text in ["mortal", "wills/one", how] {
                crate::process::raw_client::push_text(&mut body, text);
            }
            client.send(&framed(0x10, &body));
            assert_eq!(client.packet().0, 0x20);
            if how == "shutdown" {
                below.shutdown(Shutdown::Both).unwrap();
            } else {
                let none = Some(std::time::Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(&below, none).unwrap();
                drop(client);
                drop(below);
            }
            assert!(watcher.packet().1.ends_with(how.as_bytes()), "{wire:?} {how}");
        }
    }
    party.gateway.stop();
}

/// The gateway's own end: DISCONNECT is read before the stream ends, and the end is a clean one.
#[test]
fn a_connection_the_gateway_ends_is_ended_cleanly() {
    let party = Party::start(&["--shards", "2"]);
    for wire in ALL {
        let mut client = party.connected(wire, V5, &format!("wrong {wire:?}"));
        // A second CONNECT is a protocol error.
        client.send(&connect(V5, "wrong", &[]));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[0]), (0xe0, 0x82), "{wire:?}");
        assert!(client.ends(), "{wire:?}: close_notify before the end");
    }
    party.gateway.stop();
}
