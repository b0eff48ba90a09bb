//! Peers that are gone without a word: no FIN, no reset, no answer to anything.

use super::party::Party;
use super::wire::{ALL, Client, Socket, Wire};
use crate::packets::framed;
use crate::process::raw_client::{V3_1_1, publish, push_text, subscribe};
use rustix::net::sockopt;
use socket2::{SockFilter, SockRef};
use std::time::Duration;

/// From here on nothing that is sent to the socket arrives, not even what would be answered by the
/// kernel: a power cut, as seen from the other side.
fn unplug(socket: &std::net::TcpStream) {
    const RETURN: u16 = 0x06;
    // One instruction: of each segment keep no byte.
    SockRef::from(socket).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
}

/// A peer that does not acknowledge what it was sent is given up after `tcp_user_timeout_s`, whatever
/// carries MQTT, and its will is published. It has no keep alive that would tell earlier.
#[test]
fn a_peer_that_acknowledges_nothing_is_given_up_and_its_will_published() {
    let party = Party::start(&["--shards", "2", "--limit", "tcp_user_timeout_s=1"]);
    let mut watcher = party.connected(Wire::Tcp, V3_1_1, "watcher");
    watcher.send(&subscribe(V3_1_1, &["wills/#"], 0));
    assert_eq!(watcher.packet().0, 0x90);
    let mut vanished = Vec::new();
    for wire in ALL {
        let socket = Socket::open(party.address(wire));
        let below = socket.stream();
        let mut client = Client::new(party.over(wire, socket));
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0x06, 0, 0];
        let name = format!("{wire:?}");
        for text in [&name[..], "wills/one", &name] {
            push_text(&mut body, text);
        }
        client.send(&framed(0x10, &body));
        assert_eq!(client.packet().0, 0x20);
        client.send(&subscribe(V3_1_1, &["to/all"], 0));
        assert_eq!(client.packet().0, 0x90);
        unplug(&below);
        vanished.push((name, client, below));
    }
    watcher.send(&publish(V3_1_1, "to/all", None, &[], b"is anybody there?"));
    let mut told: Vec<String> = (0..ALL.len())
        .map(|_| String::from_utf8_lossy(&watcher.packet().1[2 + "wills/one".len()..]).into_owned())
        .collect();
    told.sort();
    let mut expected: Vec<String> = vanished.iter().map(|(name, ..)| name.clone()).collect();
    expected.sort();
    assert_eq!(told, expected);
    // Nobody has told them.
    for (name, _, below) in &vanished {
        assert!(sockopt::socket_error(below).unwrap().is_ok(), "{name}");
        below.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let read = std::io::Read::read(&mut &*below, &mut [0]).unwrap_err();
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock, "{name}");
    }
    watcher.ping();
    party.gateway.stop();
}
