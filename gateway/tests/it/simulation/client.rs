//! A client as MQTT describes one, without I/O: it retransmits what is not acknowledged when its
//! session is resumed, answers what it receives, and notices what a server must never do.

use gateway::proto::mqtt::{
    AckKind, Connack, Connect, DecodeContext, Packet, PacketId, Properties, Property,
    ProtocolVersion, Publish, PublishAck, PublishHeader, QoS, ReasonCode, RetainHandling, Role,
    SubscriptionOptions, Will, decode, encode_publish, encode_publish_ack, encode_subscribe,
};
use gateway::proto::routing::filter_matches;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names a message: the first bytes of its payload.
pub(crate) type MessageId = u64;

/// What a client is and wants.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    /// Whose it is, empty for nobody's: the name of its user, who has that mountpoint.
    pub(crate) tenant: &'static str,
    pub(crate) version: ProtocolVersion,
    /// Its session outlives its connections.
    pub(crate) persistent: bool,
    /// Its own, announced in 5.0.
    pub(crate) receive_maximum: u16,
    /// Messages it has unacknowledged at most.
    pub(crate) window: usize,
    pub(crate) subscriptions: Vec<(&'static str, QoS)>,
    /// It asks for retained messages when it subscribes.
    pub(crate) wants_retained: bool,
    /// CONNACK may say that the server cannot take it now.
    pub(crate) may_be_refused: bool,
}

/// Messages to topics that begin so are published with RETAIN.
pub(crate) const RETAINED_TOPICS: &str = "r/";

/// What happened to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// CONNACK came: whether the session is an earlier one's.
    Connected { session_present: bool },
    /// SUBACK came, and granted everything.
    Subscribed,
    /// PUBACK or PUBREC came: the server has promised to deliver.
    Acknowledged(MessageId),
    /// The session the message belonged to is gone: nobody will ever know.
    Abandoned(MessageId),
    /// A message came that is not a repetition of one whose packet id is still open.
    Delivered { message: MessageId, qos: QoS, dup: bool },
    /// A message came because it is retained, once for each subscription that asked for it.
    Retained(MessageId),
    /// DISCONNECT came.
    Disconnected(ReasonCode),
    /// The server did what it must not.
    Broken(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offline,
    ExpectConnack,
    Online,
}

/// A message on its way to the server.
#[derive(Clone, Debug)]
struct Sending {
    packet_id: u16,
    message: MessageId,
    qos: QoS,
    topic: &'static str,
    padding_bytes: usize,
    /// PUBREC came, PUBREL was sent.
    released: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) profile: Profile,
    /// The next CONNECT is a clean start.
    pub(crate) starts_over: bool,
    /// Of the next CONNECT, with QoS 2: topic and message.
    pub(crate) will: Option<(&'static str, MessageId)>,
    stage: Stage,
    /// The server has recorded the session: SUBACK came since it began.
    established: bool,
    /// Messages are not in the log where the session is recorded.
    pub(crate) is_stored_apart: bool,
    received: Vec<u8>,
    /// To be sent to the server.
    pub(crate) outbox: Vec<u8>,
    last_packet_id: u16,
    sending: VecDeque<Sending>,
    /// QoS 2 messages received and not released.
    unreleased: BTreeMap<u16, MessageId>,
    /// Packet ids of QoS 1 and 2 messages received on this connection and not finished.
    open: BTreeSet<u16>,
    /// Answers not given yet, in order.
    answers: VecDeque<(AckKind, u16)>,
    events: Vec<Event>,
    /// What a CONNACK said that let it wait for better times.
    pub(crate) refused: Option<u8>,
}

const PADDING: u8 = b'.';
const SUBSCRIBE_PACKET_ID: u16 = u16::MAX;

impl Client {
    pub(crate) fn new(profile: Profile) -> Self {
        Self {
            profile,
            starts_over: false,
            will: None,
            stage: Stage::Offline,
            established: false,
            is_stored_apart: false,
            received: Vec::new(),
            outbox: Vec::new(),
            last_packet_id: 0,
            sending: VecDeque::new(),
            unreleased: BTreeMap::new(),
            open: BTreeSet::new(),
            answers: VecDeque::new(),
            events: Vec::new(),
            refused: None,
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.stage == Stage::Online
    }

    /// Online, with every subscription it wants.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_online() && (self.established || self.profile.subscriptions.is_empty())
    }

    /// Has nothing to finish with the server.
    pub(crate) fn is_idle(&self) -> bool {
        self.owes_nothing() && self.unreleased.is_empty()
    }

    /// It waits for PUBREL at most.
    pub(crate) fn owes_nothing(&self) -> bool {
        self.sending.is_empty() && self.answers.is_empty()
    }

    pub(crate) fn may_publish(&self) -> bool {
        self.stage == Stage::Online && self.sending.len() < self.profile.window
    }

    pub(crate) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// What happened since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A connection is there: CONNECT.
    pub(crate) fn connect(&mut self) {
        let clean_start = !self.profile.persistent || std::mem::take(&mut self.starts_over);
        self.disconnected();
        self.stage = Stage::ExpectConnack;
        let mut properties = Vec::new();
        if self.profile.version.is_v5() {
            if self.profile.persistent {
                Property::SessionExpiryInterval(u32::MAX).encode(&mut properties);
            }
            Property::ReceiveMaximum(self.profile.receive_maximum).encode(&mut properties);
        }
        let will_payload = self.will.map(|(_, message)| message.to_le_bytes());
        let will = self.will.zip(will_payload.as_ref()).map(|((topic, _), payload)| Will {
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: Properties::NONE,
            topic,
            payload,
        });
        let connect = Connect {
            version: self.profile.version,
            clean_start,
            keep_alive_s: 0,
            properties: Properties::from_validated(&properties),
            client_id: &self.profile.name,
            will,
            user_name: Some(self.profile.tenant).filter(|tenant| !tenant.is_empty()),
            password: None,
        };
        connect.encode(&mut self.outbox);
        if clean_start {
            self.lose_session();
        }
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.stage = Stage::Offline;
        self.received.clear();
        self.outbox.clear();
        self.open.clear();
        self.answers.clear();
        if !self.profile.persistent {
            self.lose_session();
        }
    }

    /// Our side of the session is gone with the server's. Source: MQTT 5.0 [MQTT-3.2.2-5].
    fn lose_session(&mut self) {
        self.established = false;
        self.unreleased.clear();
        let lost = self.sending.drain(..).filter(|sending| !sending.released);
        self.events.extend(lost.map(|sending| Event::Abandoned(sending.message)));
    }

    /// Sends a message; `padding_bytes` make it longer.
    pub(crate) fn publish(
        &mut self,
        message: MessageId,
        topic: &'static str,
        qos: QoS,
        padding_bytes: usize,
    ) {
        let mut sending =
            Sending { packet_id: 0, message, qos, topic, padding_bytes, released: false };
        if qos > QoS::AtMostOnce {
            sending.packet_id = self.next_packet_id();
            self.sending.push_back(sending.clone());
        }
        self.send(&sending, false);
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id % (SUBSCRIBE_PACKET_ID - 1) + 1;
            let candidate = self.last_packet_id;
            if self.sending.iter().all(|sending| sending.packet_id != candidate) {
                return candidate;
            }
        }
    }

    fn send(&mut self, sending: &Sending, dup: bool) {
        let header = PublishHeader {
            dup,
            qos: sending.qos,
            retain: sending.topic.starts_with(RETAINED_TOPICS),
            topic: sending.topic,
            packet_id: PacketId::new(sending.packet_id),
        };
        let mut payload = sending.message.to_le_bytes().to_vec();
        payload.resize(payload.len() + sending.padding_bytes, PADDING);
        encode_publish(&mut self.outbox, self.profile.version, &header, &[], &payload);
    }

    fn send_ack(&mut self, kind: AckKind, packet_id: u16) {
        let packet_id = PacketId::new(packet_id).unwrap();
        let reason_code = ReasonCode::Success;
        let ack = PublishAck { packet_id, reason_code, properties: Properties::NONE };
        encode_publish_ack(kind, &ack, self.profile.version, &mut self.outbox);
    }

    /// Gives the oldest answer that is owed. Source of the order: MQTT 5.0 [MQTT-4.6.0-2] to
    /// [MQTT-4.6.0-4].
    pub(crate) fn answer_one(&mut self) {
        let Some((kind, packet_id)) = self.answers.pop_front() else { return };
        if matches!(kind, AckKind::Puback | AckKind::Pubcomp) {
            self.open.remove(&packet_id);
        }
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{} -> {kind:?} {packet_id}", self.profile.name);
        }
        if kind == AckKind::Pubcomp {
            self.unreleased.remove(&packet_id);
        }
        self.send_ack(kind, packet_id);
    }

    /// Bytes came from the server.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        let mut received = std::mem::take(&mut self.received);
        received.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let context = DecodeContext {
                version: self.profile.version,
                maximum_packet_size: u32::MAX,
                role: Role::Client,
            };
            match decode(&received[at..], context) {
                Ok(None) => break,
                Ok(Some((packet, length))) => {
                    at += length;
                    self.handle(packet);
                }
                Err(error) => {
                    self.broken(format!("malformed packet: {error}"));
                    return;
                }
            }
        }
        received.drain(..at);
        self.received = received;
    }

    fn handle(&mut self, packet: Packet<'_>) {
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{} <- {}", self.profile.name, shown(&packet));
        }
        match packet {
            Packet::Connack(connack) => self.handle_connack(&connack),
            Packet::Suback(suback) => {
                let wanted = self.profile.subscriptions.iter().map(|(_, qos)| *qos as u8);
                if wanted.eq(suback.codes.iter().copied()) {
                    self.established = true;
                    self.events.push(Event::Subscribed);
                } else {
                    self.broken(format!("SUBACK {:?}", suback.codes));
                }
            }
            Packet::Publish(publish) => self.handle_publish(&publish),
            Packet::Puback(ack) => self.handle_ack(AckKind::Puback, &ack),
            Packet::Pubrec(ack) => self.handle_ack(AckKind::Pubrec, &ack),
            Packet::Pubcomp(ack) => self.handle_ack(AckKind::Pubcomp, &ack),
            Packet::Pubrel(ack) => self.answers.push_back((AckKind::Pubcomp, ack.packet_id.get())),
            Packet::Disconnect(disconnect) => {
                self.events.push(Event::Disconnected(disconnect.reason_code));
            }
            other => self.broken(format!("unexpected {other:?}")),
        }
    }

    fn handle_connack(&mut self, connack: &Connack<'_>) {
        let unavailable = [3, ReasonCode::ServerUnavailable as u8];
        if self.profile.may_be_refused && unavailable.contains(&connack.code) {
            self.refused = Some(connack.code);
            return;
        }
        if connack.code != 0 || self.stage != Stage::ExpectConnack {
            return self.broken(format!("CONNACK {} in {:?}", connack.code, self.stage));
        }
        self.stage = Stage::Online;
        if !connack.session_present {
            if self.established {
                self.broken("the session is lost".to_owned());
            }
            self.lose_session();
        }
        self.events.push(Event::Connected { session_present: connack.session_present });
        if !self.established && !self.profile.subscriptions.is_empty() {
            self.subscribe();
        }
        for sending in self.sending.clone() {
            if sending.released {
                self.send_ack(AckKind::Pubrel, sending.packet_id);
            } else {
                self.send(&sending, true);
            }
        }
    }

    /// Asks for all its subscriptions.
    pub(crate) fn subscribe(&mut self) {
        let retain_handling = match self.profile.wants_retained {
            true => RetainHandling::SendAtSubscribe,
            false => RetainHandling::DoNotSend,
        };
        let (no_local, retain_as_published) = (false, false);
        let options =
            |qos| SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
        let filters: Vec<_> = self
            .profile
            .subscriptions
            .iter()
            .map(|(filter, qos)| (*filter, options(*qos)))
            .collect();
        let packet_id = PacketId::new(SUBSCRIBE_PACKET_ID).unwrap();
        let version = self.profile.version;
        encode_subscribe(packet_id, Properties::NONE, &filters, version, &mut self.outbox);
    }

    fn handle_ack(&mut self, kind: AckKind, ack: &PublishAck<'_>) {
        let packet_id = ack.packet_id.get();
        let place = self.sending.iter().position(|sending| sending.packet_id == packet_id);
        let Some(place) = place else {
            // A second PUBREC or PUBCOMP: the answer to what was sent again.
            if kind == AckKind::Pubrec {
                self.send_ack(AckKind::Pubrel, packet_id);
            }
            return;
        };
        if ack.reason_code as u8 >= 0x80 && kind != AckKind::Pubcomp {
            return self.broken(format!("{kind:?} {packet_id}: {:?}", ack.reason_code));
        }
        let Sending { message, qos, released, .. } = self.sending[place];
        // What is acknowledged lies in the log behind the record of our session; with QoS 2, that it was
        // begun does in any case.
        let is_behind = !self.is_stored_apart || qos == QoS::ExactlyOnce;
        self.established |= self.profile.persistent && is_behind;
        match (kind, qos, released) {
            (AckKind::Puback, QoS::AtLeastOnce, _) => {
                self.sending.remove(place);
                self.events.push(Event::Acknowledged(message));
            }
            (AckKind::Pubrec, QoS::ExactlyOnce, _) => {
                self.sending[place].released = true;
                self.events.push(Event::Acknowledged(message));
                self.send_ack(AckKind::Pubrel, packet_id);
            }
            (AckKind::Pubcomp, QoS::ExactlyOnce, true) => {
                self.sending.remove(place);
            }
            _ => self.broken(format!("{kind:?} for {:?}", self.sending[place])),
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        let Some(head) = publish.payload.first_chunk() else {
            return self.broken("a message nobody sent".to_owned());
        };
        let message = MessageId::from_le_bytes(*head);
        let is_of = |(filter, _): &(&str, QoS)| {
            let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
            filter_matches(shared.map_or(filter, |(_, inner)| inner), publish.topic)
        };
        if !self.profile.subscriptions.iter().any(is_of) {
            return self.broken(format!("message {message} came as {:?}", publish.topic));
        }
        if publish.payload[head.len()..].iter().any(|byte| *byte != PADDING) {
            return self.broken(format!("message {message} is not what was sent"));
        }
        let delivered = match publish.retain {
            true => Event::Retained(message),
            false => Event::Delivered { message, qos: publish.qos, dup: publish.dup },
        };
        let Some(packet_id) = publish.packet_id.map(PacketId::get) else {
            self.events.push(delivered);
            return;
        };
        if publish.qos == QoS::AtLeastOnce {
            if !self.open.insert(packet_id) || self.unreleased.contains_key(&packet_id) {
                self.broken(format!("packet id {packet_id} is used twice in flight"));
            }
            self.answers.push_back((AckKind::Puback, packet_id));
            self.events.push(delivered);
        } else {
            self.open.insert(packet_id);
            match self.unreleased.insert(packet_id, message) {
                None => self.events.push(delivered),
                Some(earlier) if earlier == message => {}
                Some(earlier) => self.broken(format!(
                    "packet id {packet_id} is {message:#x} before {earlier:#x} is released"
                )),
            }
            self.answers.push_back((AckKind::Pubrec, packet_id));
        }
        let maximum = usize::from(self.profile.receive_maximum);
        if self.profile.version.is_v5() && self.open.len() > maximum {
            self.broken(format!("{} messages in flight of {maximum}", self.open.len()));
        }
    }

    fn broken(&mut self, what: String) {
        self.events.push(Event::Broken(what));
    }
}

/// A packet in one short line.
fn shown(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Publish(publish) => {
            let message = publish.payload.first_chunk().map(|head| MessageId::from_le_bytes(*head));
            let packet_id = publish.packet_id.map(PacketId::get);
            let (qos, dup, topic) = (publish.qos, publish.dup, publish.topic);
            format!("PUBLISH {message:?} {topic} {qos:?} dup {dup} packet id {packet_id:?}")
        }
        Packet::Pubrel(ack) => format!("PUBREL {}", ack.packet_id.get()),
        other => format!("{other:?}"),
    }
}
