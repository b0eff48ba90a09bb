//! Some hundred clients that publish, subscribe, and notice everything: a connection that ends, a
//! message that is missing, comes twice, or comes in another order, at any QoS.

use crate::packets::framed;
use crate::process::gateway::PATIENCE;
use crate::process::raw_client::{
    RawClient, V3_1_1, V5, publish, publish_qos2, push_text, read_packet, subscribe,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Instant;

/// How long one look at the sockets waits for something to happen.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Messages a publisher has under way.
const WINDOW: usize = 3;

/// Answers a subscriber keeps back, so that messages are in flight whenever an upgrade comes.
const KEPT_BACK: usize = 2;

/// Clients of one run.
pub(crate) struct Fleet {
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
}

struct Wire {
    name: String,
    stream: TcpStream,
    received: Vec<u8>,
    outbox: VecDeque<u8>,
}

struct Publisher {
    wire: Wire,
    level: u8,
    qos: u8,
    topic: String,
    sent: u32,
    done: u32,
    /// Under way: packet id, and whether PUBREC came.
    open: VecDeque<(u16, bool)>,
}

struct Subscriber {
    wire: Wire,
    /// The number of the next message, by topic.
    next: BTreeMap<String, u32>,
    aliases: BTreeMap<u16, String>,
    level: u8,
    answers: VecDeque<Vec<u8>>,
    /// QoS 2 packet ids with PUBREC and without PUBREL.
    unreleased: Vec<u16>,
}

#[expect(clippy::disallowed_methods, reason = "a test of a real process has a real deadline")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// CONNECT of a client that keeps its session, or not; with a will for `last/NAME`.
fn connect(level: u8, name: &str, persistent: bool) -> Vec<u8> {
    let flags = 0x04 | if persistent { 0 } else { 0x02 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 60];
    if level == V5 {
        // Session Expiry Interval, Topic Alias Maximum.
        let expiry = u8::from(persistent) * 120;
        body.extend_from_slice(&[8, 0x11, 0, 0, 0, expiry, 0x22, 0, 5]);
    }
    push_text(&mut body, name);
    if level == V5 {
        body.push(0);
    }
    push_text(&mut body, &format!("last/{name}"));
    push_text(&mut body, "it is gone");
    framed(0x10, &body)
}

impl Wire {
    fn connected(address: SocketAddr, level: u8, name: String, persistent: bool) -> Self {
        let mut client = RawClient::open(address);
        client.send(&connect(level, &name, persistent));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[1]), (0x20, 0), "CONNACK for {name}");
        let stream = client.stream().try_clone().unwrap();
        Self { name, stream, received: Vec::new(), outbox: VecDeque::new() }
    }

    fn exchange(&mut self, bytes: &[u8]) -> (u8, Vec<u8>) {
        self.stream.write_all(bytes).unwrap();
        read_packet(&mut self.stream).unwrap()
    }

    /// Sends and receives what is there; whole packets.
    fn look(&mut self) -> Vec<(u8, Vec<u8>)> {
        while !self.outbox.is_empty() {
            match self.stream.write(self.outbox.make_contiguous()) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
        let mut bytes = [0; 16_384];
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("{} was disconnected", self.name),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{}: {error}", self.name),
        }
        let mut packets = Vec::new();
        loop {
            let mut rest = self.received.as_slice();
            let Ok(packet) = read_packet(&mut rest) else { return packets };
            let taken = self.received.len() - rest.len();
            self.received.drain(..taken);
            assert_ne!(packet.0, 0xe0, "{} is told to go: {packet:x?}", self.name);
            packets.push(packet);
        }
    }
}

impl Publisher {
    fn publish(&mut self) {
        if self.open.len() >= WINDOW {
            return;
        }
        let packet_id = u16::try_from(self.sent % 60_000).unwrap() + 1;
        let payload = self.sent.to_string();
        // With 5.0 by alias: set with the first message, and meant by all that follow.
        let (topic, properties): (&str, &[u8]) = match (self.level, self.sent) {
            (V5, 0) => (&self.topic, &[0x23, 0, 1]),
            (V5, _) => ("", &[0x23, 0, 1]),
            _ => (&self.topic, &[]),
        };
        let payload = payload.as_bytes();
        let bytes = match self.qos {
            0 => publish(self.level, topic, None, properties, payload),
            1 => publish(self.level, topic, Some(packet_id), properties, payload),
            // The helper has no properties: QoS 2 goes by name.
            _ => publish_qos2(self.level, &self.topic, packet_id, payload),
        };
        self.sent += 1;
        self.wire.outbox.extend(bytes);
        if self.qos == 0 {
            self.done += 1;
        } else {
            self.open.push_back((packet_id, false));
        }
    }

    fn look(&mut self) {
        for (kind, body) in self.wire.look() {
            let packet_id = u16::from_be_bytes([body[0], body[1]]);
            let name = &self.wire.name;
            // In order, once each, with no reason to be unhappy.
            assert!(body.get(2).is_none_or(|code| *code == 0), "{name}: {kind:x} {body:x?}");
            match kind {
                0x40 => {
                    assert_eq!(self.open.pop_front(), Some((packet_id, false)), "{name}: PUBACK");
                    self.done += 1;
                }
                0x50 => {
                    let open = self.open.iter_mut().find(|open| !open.1);
                    let open = open.unwrap_or_else(|| panic!("{name}: PUBREC {packet_id}"));
                    assert_eq!(open.0, packet_id, "{name}: PUBREC");
                    open.1 = true;
                    self.wire.outbox.extend([0x62, 2, body[0], body[1]]);
                }
                0x70 => {
                    assert_eq!(self.open.pop_front(), Some((packet_id, true)), "{name}: PUBCOMP");
                    self.done += 1;
                }
                other => panic!("{name}: {other:x}"),
            }
        }
    }
}

impl Subscriber {
    fn look(&mut self, kept_back: usize) {
        for (kind, body) in self.wire.look() {
            let name = &self.wire.name;
            if kind == 0x62 {
                let packet_id = u16::from_be_bytes([body[0], body[1]]);
                let place = self.unreleased.iter().position(|open| *open == packet_id);
                self.unreleased
                    .remove(place.unwrap_or_else(|| panic!("{name}: PUBREL {packet_id}")));
                self.answers.push_back(vec![0x70, 2, body[0], body[1]]);
                continue;
            }
            assert_eq!(kind & 0xf0, 0x30, "{name}: {kind:x}");
            assert_eq!(kind & 0x09, 0, "{name}: neither sent again nor retained");
            let qos = (kind >> 1) & 3;
            let (length, rest) = body.split_first_chunk().unwrap();
            let (topic, mut rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
            let mut topic = String::from_utf8(topic.to_vec()).unwrap();
            let id = if qos > 0 { [rest[0], rest[1]] } else { [0, 0] };
            rest = if qos > 0 { &rest[2..] } else { rest };
            if self.level == V5 {
                let (properties, payload) = rest[1..].split_at(usize::from(rest[0]));
                if let [0x23, high, low] = properties {
                    let alias = u16::from_be_bytes([*high, *low]);
                    match topic.is_empty() {
                        true => topic.clone_from(&self.aliases[&alias]),
                        false => drop(self.aliases.insert(alias, topic.clone())),
                    }
                }
                rest = payload;
            }
            let number: u32 = std::str::from_utf8(rest).unwrap().parse().unwrap();
            let next = self.next.entry(topic.clone()).or_default();
            assert_eq!(number, *next, "{name}: {topic}");
            *next += 1;
            match qos {
                0 => {}
                1 => self.answers.push_back(vec![0x40, 2, id[0], id[1]]),
                _ => {
                    self.unreleased.push(u16::from_be_bytes(id));
                    self.answers.push_back(vec![0x50, 2, id[0], id[1]]);
                }
            }
        }
        while self.answers.len() > kept_back {
            self.wire.outbox.extend(self.answers.pop_front().unwrap());
        }
    }
}

impl Fleet {
    /// For each of `qos`, `count` publishers on a topic each, as many subscribers to one of them, and one to
    /// all. Half of them speak 5.0, half of them keep their session.
    pub(crate) fn gather(address: SocketAddr, count: usize, qos: Range<u8>) -> Self {
        let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
        let level = |number: usize| if number.is_multiple_of(2) { V5 } else { V3_1_1 };
        for qos in qos {
            for number in 0..=count {
                let level = level(number);
                let filter = match number {
                    all if all == count => format!("t/{qos}/+"),
                    one => format!("t/{qos}/{one}"),
                };
                let name = format!("sub-{qos}-{number}");
                let mut wire = Wire::connected(address, level, name, number % 4 < 2);
                let (kind, body) = wire.exchange(&subscribe(level, &[&filter], qos));
                assert_eq!((kind, body.last()), (0x90, Some(&qos)), "SUBACK");
                let (next, aliases) = (BTreeMap::new(), BTreeMap::new());
                let (answers, unreleased) = (VecDeque::new(), Vec::new());
                let new = Subscriber { wire, next, aliases, level, answers, unreleased };
                subscribers.push(new);
            }
            for number in 0..count {
                let (level, name) = (level(number), format!("pub-{qos}-{number}"));
                let wire = Wire::connected(address, level, name, number % 4 < 2);
                let (topic, open) = (format!("t/{qos}/{number}"), VecDeque::new());
                publishers.push(Publisher { wire, level, qos, topic, sent: 0, done: 0, open });
            }
        }
        // Nobody's will is published.
        let mut wire = Wire::connected(address, V5, "mourner".to_owned(), false);
        wire.exchange(&subscribe(V5, &["last/#"], 1));
        subscribers.push(Subscriber {
            wire,
            next: BTreeMap::new(),
            aliases: BTreeMap::new(),
            level: V5,
            answers: VecDeque::new(),
            unreleased: Vec::new(),
        });
        let fleet = Self { publishers, subscribers };
        for wire in fleet.wires() {
            wire.stream.set_nonblocking(true).unwrap();
        }
        fleet
    }

    fn wires(&self) -> impl Iterator<Item = &Wire> {
        let publishers = self.publishers.iter().map(|publisher| &publisher.wire);
        publishers.chain(self.subscribers.iter().map(|subscriber| &subscriber.wire))
    }

    fn look(&mut self, kept_back: usize) {
        let polled = self.wires().map(|wire| PollFd::new(&wire.stream, PollFlags::IN));
        let mut polled: Vec<_> = polled.collect();
        let _ = poll(&mut polled, Some(&LOOK));
        drop(polled);
        self.publishers.iter_mut().for_each(Publisher::look);
        for subscriber in &mut self.subscribers {
            subscriber.look(kept_back);
        }
    }

    /// Everybody publishes, until `is_done`.
    pub(crate) fn publish_until(&mut self, mut is_done: impl FnMut(&Self) -> bool) {
        let started = now();
        while !is_done(self) {
            self.publishers.iter_mut().for_each(Publisher::publish);
            self.look(KEPT_BACK);
            assert!(started.elapsed() < PATIENCE, "{}", self.state());
        }
    }

    /// Messages that were acknowledged, or sent with QoS 0, by the publisher that has least of them.
    pub(crate) fn done_by_all(&self) -> u32 {
        self.publishers.iter().map(|publisher| publisher.done).min().unwrap()
    }

    /// Publishes no more, until everything has arrived and is acknowledged.
    pub(crate) fn all_arrived(&mut self) {
        let started = now();
        loop {
            self.look(0);
            let sent: BTreeMap<&str, u32> =
                self.publishers.iter().map(|one| (&*one.topic, one.sent)).collect();
            let mut owed = 0;
            for (topic, sent) in &sent {
                let mut takers = self.subscribers.iter().filter_map(|one| one.next.get(*topic));
                owed += usize::from(takers.clone().count() < 2 || takers.any(|next| next != sent));
            }
            let is_open = |one: &Publisher| !one.open.is_empty() || !one.wire.outbox.is_empty();
            if owed == 0
                && !self.publishers.iter().any(is_open)
                && self.subscribers.iter().all(|one| one.unreleased.is_empty())
            {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{}", self.state());
        }
    }

    fn state(&self) -> String {
        let publishers = self.publishers.iter().map(|one| {
            format!("{}: sent {} done {} open {:?}\n", one.wire.name, one.sent, one.done, one.open)
        });
        let subscribers = self.subscribers.iter().map(|one| {
            format!("{}: next {:?} unreleased {:?}\n", one.wire.name, one.next, one.unreleased)
        });
        publishers.chain(subscribers).collect()
    }
}
