//! Peers that are gone without a word: no FIN, no reset, no answer to anything.

use super::party::Party;
use super::wire::{ALL, Client, Socket, Wire};
use crate::packets::framed;
use crate::process::gateway::PATIENCE;
use crate::process::hostile::now;
use crate::process::raw_client::{V3_1_1, publish, push_text, subscribe};
use rustix::net::sockopt;
use socket2::{SockFilter, SockRef};
use std::net::SocketAddr;
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

/// Undoes [`unplug`].
fn plug_in(socket: &std::net::TcpStream) {
    SockRef::from(socket).detach_filter().unwrap();
}

/// How many keepalive probes the other end has sent over IPv4 since it was last answered: the column
/// `timeout` of /proc/net/tcp, in its line for that end.
fn unanswered_probes(socket: &std::net::TcpStream) -> Option<u32> {
    let text = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => panic!("the file is that of IPv4"),
    };
    let local = text(socket.peer_addr().unwrap());
    let remote = text(socket.local_addr().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line =
        lines.find(|line| line.get(1) == Some(&&*local) && line.get(2) == Some(&&*remote))?;
    Some(line[8].parse().unwrap())
}

/// Waits until so many probes were not answered.
#[track_caller]
fn wait_for_probes(socket: &std::net::TcpStream, count: u32) {
    let started = now();
    while unanswered_probes(socket).expect("it is not given up") < count {
        assert!(started.elapsed() < PATIENCE, "no {count} probes");
        std::thread::yield_now();
    }
}

/// `tcp_user_timeout_s` is shorter than `tcp_keepalive_s`, as by default. A probe, or its answer, that is
/// lost is no reason to end a connection, whatever carries MQTT; silence is, and so is what is sent to a
/// client that was silent and is not acknowledged.
#[test]
fn a_silent_peer_is_asked_several_times() {
    let flags = ["tcp_user_timeout_s=1", "tcp_keepalive_s=2"].map(|limit| ["--limit", limit]);
    let party = Party::start(&[&["--shards", "2"], flags.as_flattened()].concat());
    let mut watcher = party.connected(Wire::Tcp, V3_1_1, "watcher");
    watcher.send(&subscribe(V3_1_1, &["wills/#"], 0));
    assert_eq!(watcher.packet().0, 0x90);
    let sleeper = |wire: Wire| {
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
        client.send(&subscribe(V3_1_1, &["to/one"], 0));
        assert_eq!(client.packet().0, 0x90);
        unplug(&below);
        (client, below)
    };
    let sleepers = [Wire::Tcp, Wire::Wss].map(|wire| {
        let (mut client, below) = sleeper(wire);
        // The first that was not answered would have ended it.
        wait_for_probes(&below, 2);
        plug_in(&below);
        client.ping();
        (client, below)
    });
    // Who stays away is noticed: with this keepalive after seven seconds.
    sleepers.iter().for_each(|(_, below)| unplug(below));
    for _ in &sleepers {
        let (_, will) = watcher.packet();
        assert!(will.starts_with(b"\0\x09wills/one"), "{will:?}");
    }
    // Without the timeout the kernel would try for a quarter of an hour.
    let (_client, below) = sleeper(Wire::Tcp);
    wait_for_probes(&below, 2);
    watcher.send(&publish(V3_1_1, "to/one", None, &[], b"is anybody there?"));
    assert!(watcher.packet().1.ends_with(b"Tcp"));
    party.gateway.stop();
}
