//! Scripted clients against a whole node: what they send and get back, byte by byte.

use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::proto::shard_state::Counters;
use gateway::upstream::embedded::log::Durability;

/// What the clients of a scene speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    V311,
    V5,
}

pub(super) const BOTH: [Speaks; 2] = [Speaks::V311, Speaks::V5];

/// A node and the version its clients speak.
pub(super) struct Scene {
    pub(super) node: SimNode,
    pub(super) speaks: Speaks,
    /// What came right behind a CONNACK and was not looked at.
    behind_connack: Vec<(SimClient, Vec<u8>)>,
}

/// A scene in both versions, on one shard and on three, in memory and on disk.
pub(super) fn everywhere(play: impl Fn(Scene)) {
    everywhere_with(SimSettings::default(), play);
}

/// As [`everywhere`], with these limits.
pub(super) fn everywhere_with(settings: SimSettings, play: impl Fn(Scene)) {
    for speaks in BOTH {
        for shards in [1, 3] {
            for durability in [Durability::Memory, Durability::Fsync] {
                play(Scene::with(speaks, SimSettings { shards, durability, ..settings.clone() }));
            }
        }
    }
}

impl Scene {
    pub(super) fn new(speaks: Speaks) -> Self {
        Self::with(speaks, SimSettings::default())
    }

    pub(super) fn with(speaks: Speaks, settings: SimSettings) -> Self {
        Self { node: SimNode::with(settings), speaks, behind_connack: Vec::new() }
    }

    /// The process dies and starts again.
    pub(super) fn crash(self) -> Self {
        Self { node: self.node.crash(), speaks: self.speaks, behind_connack: Vec::new() }
    }

    /// What all shards have counted.
    pub(super) fn sum(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        let shards = 0..usize::from(self.node.settings.shards);
        shards.map(|shard| count(self.node.shard(shard).state().counters())).sum()
    }

    /// A client that leaves nothing behind, with a client id of one letter.
    #[track_caller]
    pub(super) fn enter(&mut self, letter: u8) -> SimClient {
        let (client, session_present) = self.connect(letter, true, &[]);
        assert!(!session_present, "{}", self.label());
        client
    }

    /// A client whose session outlives its connection, and whether it had one.
    #[track_caller]
    pub(super) fn enter_kept(&mut self, letter: u8) -> (SimClient, bool) {
        self.connect(letter, false, &[0x11, 0xFF, 0xFF, 0xFF, 0xFF])
    }

    /// A client comes back to the session it left.
    #[track_caller]
    pub(super) fn come_back(&mut self, letter: u8) -> SimClient {
        let (client, session_present) = self.enter_kept(letter);
        assert!(session_present, "{}", self.label());
        client
    }

    /// CONNECT with keep alive 0; the properties count only in 5.0. Returns Session Present.
    #[track_caller]
    pub(super) fn connect(
        &mut self,
        letter: u8,
        clean: bool,
        properties: &[u8],
    ) -> (SimClient, bool) {
        let client = self.node.connect();
        let flags = if clean { 2 } else { 0 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', self.level(), flags, 0, 0];
        if self.speaks == Speaks::V5 {
            body.push(u8::try_from(properties.len()).unwrap());
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(&[0, 1, letter]);
        let connack = self.node.exchange(client, &framed(0x10, &body));
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{}", self.label());
        let length = 2 + usize::from(connack[1]);
        self.behind_connack.push((client, connack[length..].to_vec()));
        (client, connack[2] == 1)
    }

    fn level(&self) -> u8 {
        match self.speaks {
            Speaks::V311 => 4,
            Speaks::V5 => 5,
        }
    }

    /// A packet: its first byte, its Remaining Length, `head`, in 5.0 an empty list of properties, `tail`.
    pub(super) fn packet(&self, first: u8, head: &[u8], tail: &[u8]) -> Vec<u8> {
        let no_properties: &[u8] = if self.speaks == Speaks::V5 { &[0] } else { &[] };
        framed(first, &[head, no_properties, tail].concat())
    }

    /// The same bytes in both versions, or others.
    pub(super) fn either<'a>(&self, v311: &'a [u8], v5: &'a [u8]) -> &'a [u8] {
        match self.speaks {
            Speaks::V311 => v311,
            Speaks::V5 => v5,
        }
    }

    /// One filter, granted as asked for.
    #[track_caller]
    pub(super) fn subscribe(&mut self, client: SimClient, filter: &str, options: u8) {
        let mut tail = sized(filter);
        tail.push(options);
        let subscribe = self.packet(0x82, &[0, 1], &tail);
        let suback = self.packet(0x90, &[0, 1], &[options & 3]);
        self.check(client, &subscribe, &suback);
    }

    /// One filter at QoS 1; SUBACK and what follows it are left to look at.
    pub(super) fn subscribe_loosely(&mut self, client: SimClient, filter: &str) {
        let mut tail = sized(filter);
        tail.push(1);
        let subscribe = self.packet(0x82, &[0, 1], &tail);
        self.node.send(client, &subscribe);
    }

    /// PUBLISH of QoS 1 with packet id 7, acknowledged.
    #[track_caller]
    pub(super) fn publish(&mut self, client: SimClient, topic: &str, payload: &[u8]) {
        let head = [sized(topic), vec![0, 7]].concat();
        let publish = self.packet(0x32, &head, payload);
        self.check(client, &publish, &[0x40, 2, 0, 7]);
    }

    /// What a subscriber gets: PUBLISH with this first byte and packet id.
    pub(super) fn delivery(&self, first: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
        let head = [sized(topic), id.to_be_bytes().to_vec()].concat();
        self.packet(first, &head, payload)
    }

    /// The client sends bytes and gets exactly these.
    #[track_caller]
    pub(super) fn check(&mut self, client: SimClient, sent: &[u8], expected: &[u8]) {
        let mut answer = self.take(client);
        answer.extend(self.node.exchange(client, sent));
        assert_eq!(hex(&answer), hex(expected), "after {}: {}", hex(sent), self.label());
    }

    /// The client got exactly these bytes since it was last looked at.
    #[track_caller]
    pub(super) fn expect(&mut self, client: SimClient, expected: &[u8]) {
        let got = self.take(client);
        assert_eq!(hex(&got), hex(expected), "{}", self.label());
    }

    /// What was sent to the client since it was last looked at, but for CONNACK.
    pub(super) fn take(&mut self, client: SimClient) -> Vec<u8> {
        let place = self.behind_connack.iter().position(|(of, _)| *of == client);
        let mut bytes = place.map_or(Vec::new(), |place| self.behind_connack.swap_remove(place).1);
        bytes.extend(self.node.take(client));
        bytes
    }

    /// The client sends bytes, hears this reason in 5.0 and nothing in 3.1.1, and is cut off.
    #[track_caller]
    pub(super) fn check_closed(&mut self, client: SimClient, sent: &[u8], reason: u8) {
        let disconnect = [0xE0, 1, reason];
        let expected: &[u8] = if self.speaks == Speaks::V5 { &disconnect } else { &[] };
        self.check(client, sent, expected);
        assert!(self.node.is_closed(client), "after {}: {}", hex(sent), self.label());
    }

    pub(super) fn label(&self) -> String {
        let SimSettings { shards, durability, .. } = &self.node.settings;
        format!("{:?}, {shards} shards, {durability:?}", self.speaks)
    }
}

fn hex(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    shown.join(" ")
}
