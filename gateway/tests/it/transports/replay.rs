//! The conformance tests, over every transport, with two shards and a hand-over each time.
//!
//! What a conformance test has played with a simulated node (`sim/transcript.rs`) is played again
//! with a whole gateway over its sockets. Each client connects to the shard that does not have its
//! session, so that its CONNECT moves it, with all that its transport keeps. It has to hear the same
//! packets, and no others.
//!
//! With `GATEWAY_EVERY_TRANSPORT` set, as `make test` and `make transports` do, each is repeated over
//! all of them: some 200 CPU-seconds. Without it, as with `cargo test` alone, over one, another for each
//! play, so that all of them are used about as often: some 45 CPU-seconds.

use super::certificates::{Authority, Issued};
use super::websocket_client::WebSocketStream;
use super::wire::{ALL, Socket, Stream, Wire, client_config, tls_over};
use crate::process::gateway::{PATIENCE, free_address};
use crate::process::hostile::now;
use crate::process::raw_client::{RawPacket, read_packet};
use crate::sim::SimClient;
use crate::sim::transcript::Event;
use gateway::auth::Directory;
use gateway::config::{Environment, Request};
use gateway::node::{Gateway, NodeHandle};
use gateway::proto::mqtt::{DecodeContext, Packet, ProtocolVersion, Role, decode};
use gateway::proto::shard_state::{StageCounts, home_shard};
use gateway::upstream::inquiry::ShardReport;
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

const SHARDS: u16 = 2;

/// Another process may take a port before the gateway does.
const START_TRIES: u32 = 8;

/// Plays `events` again.
pub(crate) fn replay(place: &str, events: &[Event]) {
    if std::env::var_os("GATEWAY_EVERY_TRANSPORT").is_some() {
        for wire in ALL {
            Stage::start(wire, place).play(events);
        }
        return;
    }
    let mut hasher = DefaultHasher::new();
    format!("{place} {events:?}").hash(&mut hasher);
    let wire = ALL[usize::try_from(hasher.finish() % ALL.len() as u64).unwrap()];
    Stage::start(wire, place).play(events);
}

/// A gateway with one listener.
struct Stage {
    gateway: Gateway,
    address: SocketAddr,
    wire: Wire,
    tls: Arc<ClientConfig>,
    _authority: Authority,
    runtime: tokio::runtime::Runtime,
    label: String,
    players: BTreeMap<SimClient, Player>,
    /// Clients that were on the wrong shard.
    moved: u64,
}

/// A client.
#[derive(Default)]
struct Player {
    connection: Option<Connection>,
    /// What it has sent, for what is whole of it.
    sent: Vec<u8>,
    accepted: bool,
}

struct Connection {
    stream: Box<dyn Stream>,
    below: TcpStream,
}

impl Stage {
    fn start(wire: Wire, place: &str) -> Self {
        let authority = Authority::new();
        let server = authority.server("server", &["localhost"]);
        let mut tries = 0;
        let (gateway, address) = loop {
            let address = free_address();
            match start_gateway(wire, address, &server) {
                Ok(gateway) => break (gateway, address),
                Err(error) => assert!(tries < START_TRIES, "it does not start: {error}"),
            }
            tries += 1;
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self {
            gateway,
            address,
            wire,
            tls: client_config(&authority, None),
            _authority: authority,
            runtime,
            label: format!("{place}, again over {wire:?}"),
            players: BTreeMap::new(),
            moved: 0,
        }
    }

    fn play(mut self, events: &[Event]) {
        let mut rest = events;
        while let Some((action, others)) = rest.split_first() {
            let count = others.iter().take_while(|event| is_reaction(event)).count();
            let (reactions, others) = others.split_at(count);
            self.act(action, events);
            self.expect(reactions);
            rest = others;
        }
        self.expect_nothing_more();
        self.players.clear();
        self.gateway.shutdown();
        let counters = self.gateway.join().unwrap();
        let departed: u64 = counters.iter().map(|shard| shard.departed).sum();
        assert_eq!(departed, self.moved, "{}: clients handed over", self.label);
    }

    fn act(&mut self, action: &Event, events: &[Event]) {
        match action {
            Event::Opens(client) => {
                let connect = first_packet(*client, events);
                let connection = self.open(client_id_of(&connect).as_deref());
                let connection = Some(connection);
                self.players.insert(*client, Player { connection, ..Player::default() });
            }
            Event::Sends(client, bytes) => {
                let player = self.players.get_mut(client).expect("it was opened");
                player.sent.extend_from_slice(bytes);
                if let Some(connection) = &mut player.connection {
                    // The gateway may close before it has everything.
                    let _ = connection.stream.write_all(bytes);
                    let _ = connection.stream.flush();
                }
            }
            Event::Breaks(client) => {
                let player = self.players.get_mut(client).expect("it was opened");
                if let Some(connection) = player.connection.take() {
                    connection.below.shutdown(Shutdown::Both).unwrap();
                }
                self.wait_for_connections();
            }
            Event::Hears(..) | Event::Ends(_) => unreachable!("{}: out of nothing", self.label),
        }
    }

    /// A connection to the shard that does not have the client's session.
    fn open(&mut self, client_id: Option<&str>) -> Connection {
        let home = client_id.filter(|id| !id.is_empty()).map(|id| home_shard(id, SHARDS));
        let mut wrong = Vec::new();
        let connection = loop {
            let before = self.strangers();
            let connection = self.connect();
            let started = now();
            let after = loop {
                let after = self.strangers();
                if after.iter().sum::<u64>() > before.iter().sum() {
                    break after;
                }
                assert!(now() - started < PATIENCE, "{}: it does not open", self.label);
            };
            let is_home = home.is_some_and(|home| {
                let at = usize::from(home.0);
                after[at] > before[at]
            });
            if !is_home {
                break connection;
            }
            wrong.push(connection);
        };
        self.moved += u64::from(home.is_some());
        let extra = wrong.len();
        drop(wrong);
        if extra > 0 {
            self.wait_for_connections_and(1);
        }
        connection
    }

    fn connect(&self) -> Connection {
        let socket = Socket::open(self.address);
        let below = socket.stream();
        let stream: Box<dyn Stream> = if self.wire.is_tls() {
            Box::new(tls_over(socket, &self.tls, "localhost").unwrap())
        } else {
            Box::new(socket)
        };
        let stream = match self.wire.is_websocket() {
            true => Box::new(WebSocketStream::open(stream, usize::MAX)),
            false => stream,
        };
        Connection { stream, below }
    }

    /// The packets that clients heard then, in any order but for those of one topic, and no others.
    fn expect(&mut self, reactions: &[Event]) {
        let mut heard: BTreeMap<SimClient, (Vec<u8>, bool)> = BTreeMap::new();
        for event in reactions {
            match event {
                Event::Hears(client, bytes) => {
                    heard.entry(*client).or_default().0.extend_from_slice(bytes);
                }
                Event::Ends(client) => heard.entry(*client).or_default().1 = true,
                Event::Opens(_) | Event::Sends(..) | Event::Breaks(_) => {
                    unreachable!("no reactions")
                }
            }
        }
        for (client, (bytes, ends)) in heard {
            let label = format!("{} {client:?}", self.label);
            let player = self.players.get_mut(&client).expect("it was opened");
            let Some(connection) = &mut player.connection else { continue };
            let mut expected = packets_in(&bytes);
            let mut got = Vec::new();
            while got.len() < expected.len() {
                match read_packet(&mut connection.stream) {
                    Ok(packet) => got.push(packet),
                    // The gateway closes with bytes unread, and then what it said may be lost.
                    Err(error) if ends && error.kind() == io::ErrorKind::ConnectionReset => break,
                    Err(error) => {
                        panic!("{label}: {error} after {got:x?}, expected {expected:x?}")
                    }
                }
            }
            let is_lost = got.len() < expected.len();
            player.accepted |= expected.iter().any(|(kind, body)| *kind == 0x20 && body[1] == 0);
            got.iter_mut().chain(&mut expected).for_each(mask_assigned_id);
            assert!(
                is_lost || sorted(&got) == sorted(&expected),
                "{label}: got {got:x?}, expected {expected:x?}"
            );
            if ends {
                let mut rest = Vec::new();
                let end = connection.stream.read_to_end(&mut rest);
                let is_end = end
                    .map_or_else(|error| error.kind() == io::ErrorKind::ConnectionReset, |_| true);
                assert!(is_end && rest.is_empty(), "{label}: {rest:x?} instead of the end");
                player.connection = None;
            }
        }
    }

    /// Whoever is connected and in the middle of nothing hears PINGRESP, and nothing before it.
    fn expect_nothing_more(&mut self) {
        for (client, player) in &mut self.players {
            let Some(connection) = &mut player.connection else { continue };
            if !player.accepted || !is_whole(&player.sent) {
                continue;
            }
            connection.stream.write_all(&[0xC0, 0]).unwrap();
            connection.stream.flush().unwrap();
            let packet = read_packet(&mut connection.stream).unwrap();
            assert_eq!(packet, (0xD0, Vec::new()), "{} {client:?}", self.label);
        }
    }

    /// Waits until the gateway knows of the connections that there are, and of no others.
    fn wait_for_connections(&mut self) {
        self.wait_for_connections_and(0);
    }

    fn wait_for_connections_and(&mut self, others: usize) {
        let open = self.players.values().filter(|player| player.connection.is_some()).count();
        let expected = (open + others) as u64;
        let started = now();
        loop {
            let counts = self.counts(|stages| {
                stages.expect_connect
                    + stages.expect_identity
                    + stages.expect_proof
                    + stages.expect_session
                    + stages.connected
            });
            if counts.iter().sum::<u64>() == expected {
                return;
            }
            assert!(now() - started < PATIENCE, "{}: {counts:?} of {expected}", self.label);
        }
    }

    /// Connections on which nothing has come, of each shard.
    fn strangers(&self) -> Vec<u64> {
        self.counts(|stages| stages.expect_connect)
    }

    fn counts(&self, count: impl Fn(StageCounts) -> u64) -> Vec<u64> {
        let handle: NodeHandle = self.gateway.handle();
        let reports = self.runtime.block_on(handle.reports());
        let of_shard = |report: Option<Box<ShardReport>>| {
            let connections = report.expect("a shard answers").gauges.connections;
            connections.named().into_iter().map(|(_, stages)| count(stages)).sum()
        };
        reports.into_iter().map(of_shard).collect()
    }
}

fn start_gateway(wire: Wire, address: SocketAddr, server: &Issued) -> Result<Gateway, String> {
    let listen = format!("{}://{address}", wire.scheme());
    let shards = SHARDS.to_string();
    let mut all = vec!["gateway", "--listen", &listen, "--durability", "memory"];
    all.extend(["--shards", &shards, "--admin", "none"]);
    // However slow the machine is, nobody is given up.
    all.extend(["--limit", "connect_timeout_s=600", "--limit", "handshake_timeout_s=600"]);
    let tls = server.flags();
    if wire.is_tls() {
        all.extend(tls.iter().map(String::as_str));
    }
    let environment = Environment::of_this_machine();
    let config = match Request::from_command_line(all, &environment) {
        Request::Run(config) => config,
        other => panic!("{other:?}"),
    };
    let directory = Directory::load(&config).unwrap();
    Gateway::start(&config, directory).map_err(|error| error.to_string())
}

fn is_reaction(event: &Event) -> bool {
    matches!(event, Event::Hears(..) | Event::Ends(_))
}

/// What a client sends first of all.
fn first_packet(client: SimClient, events: &[Event]) -> Vec<u8> {
    let sent = events.iter().filter_map(|event| match event {
        Event::Sends(by, bytes) if *by == client => Some(&bytes[..]),
        _ => None,
    });
    sent.collect::<Vec<_>>().concat()
}

/// The client id of the CONNECT at the front, if it is one.
fn client_id_of(bytes: &[u8]) -> Option<String> {
    let version = ProtocolVersion::V3_1_1;
    let context = DecodeContext { version, maximum_packet_size: 65_536, role: Role::Server };
    match decode(bytes, context) {
        Ok(Some((Packet::Connect(connect), _))) => Some(connect.client_id.to_owned()),
        _ => None,
    }
}

fn is_whole(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let mut rest = bytes;
        if read_packet(&mut rest).is_err() {
            return false;
        }
        bytes = rest;
    }
    true
}

fn packets_in(mut bytes: &[u8]) -> Vec<RawPacket> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        packets.push(read_packet(&mut bytes).expect("the gateway sends whole packets"));
    }
    packets
}

/// With the messages of each topic and QoS in their order, and otherwise in any.
fn sorted(packets: &[RawPacket]) -> Vec<&RawPacket> {
    let mut all: Vec<_> = packets.iter().collect();
    all.sort_by_key(|(kind, body)| match kind & 0xF0 {
        0x30 => {
            let length = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            (*kind & 0x06, body[..length].to_vec())
        }
        _ => (*kind | 1, body.clone()),
    });
    all
}

/// A client id that the gateway made up is another each time.
fn mask_assigned_id(packet: &mut RawPacket) {
    let body = &mut packet.1;
    if let Some(at) = body.windows(5).position(|part| part == b"auto-") {
        body.truncate(at + 5);
    }
}
