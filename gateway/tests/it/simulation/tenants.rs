//! A tenant hears what it would hear from a gateway of its own, byte by byte, whatever others do.

use super::random::Random;
use super::{SEEDS_DEFAULT, SaidOnPanic, seeds};
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::proto::access::{AuthenticationRequest, Identity, Proof};
use gateway::proto::limits::Limits;
use gateway::proto::mqtt::{
    AckKind, Connect, DecodeContext, Packet, PacketId, Properties, Property, ProtocolVersion,
    PublishAck, PublishHeader, QoS, ReasonCode, RetainHandling, Role, SubscriptionOptions, Will,
    decode, encode_publish, encode_publish_ack, encode_subscribe, encode_unsubscribe,
};
use gateway::proto::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: [&str; 3] = ["1", "2", "3"];
const STEPS: u32 = 250;
/// What levels of topics are; those of filters are these and wildcards.
const LEVELS: [&str; 6] = ["a", "b", "", "acme", "zen", "$x"];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Users have the mountpoint of their name, but for those that are alone.
fn settings(seed: u64) -> SimSettings {
    let who = |request: &AuthenticationRequest| {
        let user_name = request.user_name.clone();
        Ok(Arc::new(Identity {
            mountpoint: user_name.clone().filter(|name| !name.starts_with("alone")),
            user_name,
            acl: None,
            proof: Proof::None,
            expires_at: Timestamp::NEVER,
        }))
    };
    let limits = Limits { authenticate: true, inflight_max: 4, ..Limits::default() };
    let shards = *Random::new(seed).pick(&[1, 1, 3]);
    SimSettings { shards, limits, authenticate: Some(who), seed, ..SimSettings::default() }
}

/// The clients of one user.
struct Household {
    user: &'static str,
    random: Random,
    version: ProtocolVersion,
    sockets: [Option<SimClient>; CLIENTS.len()],
    /// What came to each, and the ends of its connections.
    heard: [Vec<u8>; CLIENTS.len()],
    /// Behind what was answered.
    unread: [Vec<u8>; CLIENTS.len()],
    count: u8,
}

impl Household {
    fn new(user: &'static str, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            user,
            version: *random.pick(&[ProtocolVersion::V3_1_1, ProtocolVersion::V5]),
            random,
            sockets: [None; CLIENTS.len()],
            heard: Default::default(),
            unread: Default::default(),
            count: 0,
        }
    }

    fn act(&mut self, node: &mut SimNode) {
        let client = usize::try_from(self.random.below(CLIENTS.len() as u64)).unwrap();
        let what = self.random.below(20);
        let mut out = Vec::new();
        match (self.sockets[client], what) {
            (None, _) | (Some(_), 0) => self.connect(client, node, &mut out),
            (Some(socket), 1) => {
                self.sockets[client] = None;
                self.unread[client].clear();
                node.drop_connection(socket);
            }
            (Some(_), 2..7) => self.subscribe(&mut out),
            (Some(_), 7) => {
                let filter = self.filter();
                let id = PacketId::new(1).unwrap();
                encode_unsubscribe(id, Properties::NONE, &[&filter], self.version, &mut out);
            }
            (Some(_), _) => self.publish(&mut out),
        }
        if let Some(socket) = self.sockets[client] {
            node.send(socket, &out);
        }
    }

    fn connect(&mut self, client: usize, node: &mut SimNode, out: &mut Vec<u8>) {
        let shard = self.random.below(u64::from(node.settings.shards));
        let (clean_start, has_will) = (self.random.below(3) == 0, self.random.below(3) == 0);
        let topic = self.topic();
        let mut properties = Vec::new();
        if self.version.is_v5() {
            Property::SessionExpiryInterval(100).encode(&mut properties);
            Property::TopicAliasMaximum(2).encode(&mut properties);
        }
        let will = Will {
            qos: *self.random.pick(&QOS),
            retain: self.random.below(2) == 0,
            properties: Properties::NONE,
            topic: &topic,
            payload: b"will",
        };
        let connect = Connect {
            version: self.version,
            clean_start,
            keep_alive_s: 0,
            properties: Properties::from_validated(&properties),
            client_id: CLIENTS[client],
            will: has_will.then_some(will),
            user_name: Some(self.user),
            password: None,
        };
        connect.encode(out);
        self.sockets[client] = Some(node.connect_to(usize::try_from(shard).unwrap()));
        self.unread[client].clear();
        self.heard[client].extend(b"<connects>");
    }

    fn levels(&mut self, from: &[&'static str]) -> Vec<&'static str> {
        (0..=self.random.below(3)).map(|_| *self.random.pick(from)).collect()
    }

    /// None begins with `$`: what that means is the gateway's to say, and is not for tenants.
    fn topic(&mut self) -> String {
        loop {
            let topic = self.levels(&LEVELS).join("/");
            if !topic.is_empty() && !topic.starts_with('$') {
                return topic;
            }
        }
    }

    fn filter(&mut self) -> String {
        loop {
            let mut levels = self.levels(&[&LEVELS[..], &["+", "+", "+"]].concat());
            if self.random.below(3) == 0 {
                levels.push("#");
            }
            if self.random.below(6) == 0 {
                levels = vec!["#"];
            }
            let filter = levels.join("/");
            if !filter.is_empty() && !filter.starts_with('$') {
                let is_shared = self.random.below(5) == 0;
                return if is_shared { format!("$share/g/{filter}") } else { filter };
            }
        }
    }

    fn subscribe(&mut self, out: &mut Vec<u8>) {
        let filter = self.filter();
        let options = SubscriptionOptions {
            qos: *self.random.pick(&QOS),
            no_local: self.version.is_v5()
                && self.random.below(4) == 0
                && !filter.starts_with("$share"),
            retain_as_published: self.version.is_v5() && self.random.below(2) == 0,
            retain_handling: RetainHandling::SendAtSubscribe,
        };
        let id = PacketId::new(1).unwrap();
        encode_subscribe(id, Properties::NONE, &[(&filter, options)], self.version, out);
    }

    fn publish(&mut self, out: &mut Vec<u8>) {
        let topic = self.topic();
        let qos = *self.random.pick(&QOS);
        self.count = self.count % 100 + 1;
        let header = PublishHeader {
            dup: false,
            qos,
            retain: self.random.below(4) == 0,
            topic: &topic,
            packet_id: PacketId::new(u16::from(self.count)).filter(|_| qos > QoS::AtMostOnce),
        };
        // An empty one clears what is retained.
        let payload = [self.count; 3];
        let payload = if self.random.below(5) == 0 { &[][..] } else { &payload };
        let mut alias = Vec::new();
        if self.version.is_v5() && self.random.below(3) == 0 {
            Property::TopicAlias(1).encode(&mut alias);
        }
        encode_publish(out, self.version, &header, &[&alias], payload);
        if !alias.is_empty() {
            // Again, by the alias alone.
            let header =
                PublishHeader { qos: QoS::AtMostOnce, packet_id: None, topic: "", ..header };
            encode_publish(out, self.version, &header, &[&alias], payload);
        }
    }

    /// Everyone hears what has come, and answers.
    fn listen(&mut self, node: &mut SimNode) -> bool {
        let mut has_come = false;
        for client in 0..CLIENTS.len() {
            let Some(socket) = self.sockets[client] else { continue };
            let bytes = node.take(socket);
            has_come |= !bytes.is_empty();
            self.heard[client].extend_from_slice(&bytes);
            self.unread[client].extend_from_slice(&bytes);
            let answers = self.answers(client);
            node.send(socket, &answers);
            if node.is_closed(socket) {
                self.heard[client].extend(b"<closed>");
                self.sockets[client] = None;
            }
        }
        has_come
    }

    fn answers(&mut self, client: usize) -> Vec<u8> {
        let context = DecodeContext {
            version: self.version,
            maximum_packet_size: u32::MAX,
            role: Role::Client,
        };
        let unread = std::mem::take(&mut self.unread[client]);
        let (mut at, mut out) = (0, Vec::new());
        while let Some((packet, length)) = decode(&unread[at..], context).unwrap() {
            at += length;
            let (kind, packet_id) = match packet {
                Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => (AckKind::Puback, id),
                    (QoS::ExactlyOnce, Some(id)) => (AckKind::Pubrec, id),
                    _ => continue,
                },
                Packet::Pubrel(ack) => (AckKind::Pubcomp, ack.packet_id),
                Packet::Pubrec(ack) if ack.reason_code == ReasonCode::Success => {
                    (AckKind::Pubrel, ack.packet_id)
                }
                _ => continue,
            };
            let reason_code = ReasonCode::Success;
            let ack = PublishAck { packet_id, reason_code, properties: Properties::NONE };
            encode_publish_ack(kind, &ack, self.version, &mut out);
        }
        self.unread[client] = unread[at..].to_vec();
        out
    }
}

/// What the first household heard, one of `others` beside it.
fn heard(seed: u64, user: &'static str, others: &[&'static str]) -> [Vec<u8>; CLIENTS.len()] {
    let mut node = SimNode::with(settings(seed));
    let mut households = vec![Household::new(user, seed)];
    households
        .extend((1..).zip(others).map(|(n, other)| Household::new(other, seed + n * 1_000_000)));
    let mut fate = Random::new(!seed);
    for _ in 0..STEPS {
        let whose = usize::try_from(fate.below(3)).unwrap();
        if fate.below(10) == 0 {
            node.advance(Duration::from_millis(700));
        }
        if let Some(household) = households.get_mut(whose) {
            household.act(&mut node);
        }
        while households.iter_mut().map(|one| one.listen(&mut node)).fold(false, |a, b| a | b) {}
    }
    households.swap_remove(0).heard
}

#[test]
fn a_tenant_hears_what_it_would_hear_alone() {
    let mut bytes = 0;
    for seed in seeds(SEEDS_DEFAULT) {
        let _seed = SaidOnPanic(seed);
        // On several shards a group's home goes by its stored name, and with it the order in which it
        // and others send.
        let alone = heard(seed, if settings(seed).shards == 1 { "alone" } else { "acme" }, &[]);
        let among_others = heard(seed, "acme", &["zen", "acme2"]);
        for (client, (alone, among_others)) in alone.iter().zip(&among_others).enumerate() {
            let differ = alone.iter().zip(among_others).take_while(|(a, b)| a == b).count();
            let from = |bytes: &[u8]| {
                let shown = differ.saturating_sub(60)..bytes.len().min(differ + 60);
                String::from_utf8_lossy(&bytes[shown]).into_owned()
            };
            assert!(
                alone == among_others,
                "client {client} at {differ}:\n{:?}\n{:?}",
                from(alone),
                from(among_others)
            );
            bytes += alone.len();
        }
    }
    assert!(bytes > 10_000, "{bytes} bytes were heard");
}
