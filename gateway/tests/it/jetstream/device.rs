//! An MQTT 5.0 client that waits for each answer: one thread, no surprises.

use crate::process::gateway::PATIENCE;
use gateway::proto::mqtt::{
    AckKind, Connect, DecodeContext, Disconnect, Packet, PacketId, Properties, Property,
    ProtocolVersion, PublishAck, PublishHeader, QoS, ReasonCode, RetainHandling, Role,
    SubscriptionOptions, Will, decode, encode_pingreq, encode_publish, encode_publish_ack,
    encode_subscribe, encode_unsubscribe,
};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

const V5: ProtocolVersion = ProtocolVersion::V5;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// As on the wire, see [`Received::properties`].
    properties: Vec<u8>,
}

impl Received {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = Property<'_>> {
        Properties::from_validated(&self.properties).iter()
    }

    pub(super) fn subscription_identifiers(&self) -> Vec<u32> {
        let identifiers = self.properties().filter_map(|property| match property {
            Property::SubscriptionIdentifier(identifier) => Some(identifier),
            _ => None,
        });
        identifiers.collect()
    }
}

/// What a client says of itself at CONNECT.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    pub(super) clean_start: bool,
    pub(super) session_expiry_s: u32,
    pub(super) will: Option<Will<'a>>,
    /// User name and password.
    pub(super) user: Option<(&'a str, &'a str)>,
}

impl Hello<'_> {
    /// A session that ends with its connection.
    pub(super) const BRIEF: Self =
        Self { clean_start: true, session_expiry_s: 0, will: None, user: None };
    /// One that does not, gone on with.
    pub(super) const LASTING: Self =
        Self { clean_start: false, session_expiry_s: 3_600, will: None, user: None };
}

/// What CONNACK said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Welcome {
    pub(super) session_present: bool,
}

/// Subscription options: this QoS and defaults.
pub(super) fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    }
}

/// See the module.
pub(super) struct Device {
    stream: TcpStream,
    bytes: Vec<u8>,
    received: Vec<Received>,
    last_packet_id: u16,
}

/// A packet that is not a message.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ack(AckKind, u16, ReasonCode),
    Codes(Vec<u8>),
    Pong,
}

impl Device {
    /// A client with a brief session.
    pub(super) fn brief(address: SocketAddr, client_id: &str) -> Self {
        Self::connect(address, client_id, Hello::BRIEF).0
    }

    #[track_caller]
    pub(super) fn connect(
        address: SocketAddr,
        client_id: &str,
        hello: Hello<'_>,
    ) -> (Self, Welcome) {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut device =
            Self { stream, bytes: Vec::new(), received: Vec::new(), last_packet_id: 0 };
        let mut properties = Vec::new();
        Property::SessionExpiryInterval(hello.session_expiry_s).encode(&mut properties);
        let connect = Connect {
            version: V5,
            clean_start: hello.clean_start,
            keep_alive_s: 0,
            properties: Properties::from_validated(&properties),
            client_id,
            will: hello.will,
            user_name: hello.user.map(|(name, _)| name),
            password: hello.user.map(|(_, password)| password.as_bytes()),
        };
        device.send(|out| connect.encode(out));
        let welcome = device.next(|packet| match packet {
            Packet::Connack(connack) => {
                assert_eq!(connack.code, 0);
                Some(Welcome { session_present: connack.session_present })
            }
            other => panic!("{other:?} instead of CONNACK"),
        });
        (device, welcome)
    }

    /// Subscribes, and returns the codes.
    #[track_caller]
    pub(super) fn subscribe(&mut self, filters: &[(&str, SubscriptionOptions)]) -> Vec<u8> {
        self.subscribe_as(filters, &[])
    }

    /// Subscribes to each of `filters` with this QoS.
    #[track_caller]
    pub(super) fn listen(&mut self, filters: &[&str], qos: QoS) {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter, at(qos))).collect();
        let codes = self.subscribe(&filters);
        assert!(codes.iter().all(|code| *code == qos as u8), "{codes:?}");
    }

    #[track_caller]
    pub(super) fn subscribe_as(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        properties: &[Property<'_>],
    ) -> Vec<u8> {
        let packet_id = self.packet_id();
        let properties = encoded(properties);
        let properties = Properties::from_validated(&properties);
        self.send(|out| encode_subscribe(packet_id, properties, filters, V5, out));
        self.codes()
    }

    #[track_caller]
    pub(super) fn unsubscribe(&mut self, filters: &[&str]) {
        let packet_id = self.packet_id();
        self.send(|out| encode_unsubscribe(packet_id, Properties::NONE, filters, V5, out));
        self.codes();
    }

    fn codes(&mut self) -> Vec<u8> {
        match self.answer() {
            Answer::Codes(codes) => codes,
            other => panic!("{other:?} instead of SUBACK or UNSUBACK"),
        }
    }

    /// Publishes and waits for the last acknowledgement.
    #[track_caller]
    pub(super) fn publish(&mut self, topic: &str, qos: QoS, payload: impl AsRef<[u8]>) {
        self.publish_with(topic, qos, false, &[], payload);
    }

    /// The same with the RETAIN flag.
    #[track_caller]
    pub(super) fn retain(&mut self, topic: &str, qos: QoS, payload: impl AsRef<[u8]>) {
        self.publish_with(topic, qos, true, &[], payload);
    }

    #[track_caller]
    pub(super) fn publish_with(
        &mut self,
        topic: &str,
        qos: QoS,
        retain: bool,
        properties: &[Property<'_>],
        payload: impl AsRef<[u8]>,
    ) {
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.packet_id());
        let header = PublishHeader { dup: false, qos, retain, topic, packet_id };
        let properties = encoded(properties);
        self.send(|out| encode_publish(out, V5, &header, &[&properties], payload.as_ref()));
        let Some(packet_id) = packet_id else { return };
        if qos == QoS::AtLeastOnce {
            self.expect_ack(AckKind::Puback, packet_id);
        } else {
            self.expect_ack(AckKind::Pubrec, packet_id);
            self.send_ack(AckKind::Pubrel, packet_id.get());
            self.expect_ack(AckKind::Pubcomp, packet_id);
        }
    }

    #[track_caller]
    fn expect_ack(&mut self, kind: AckKind, packet_id: PacketId) {
        let Answer::Ack(got, id, reason) = self.answer() else { panic!("{kind:?} is due") };
        assert_eq!((got, id), (kind, packet_id.get()));
        assert!((reason as u8) < 0x80, "{kind:?} {reason:?}");
    }

    /// The next message.
    #[track_caller]
    pub(super) fn message(&mut self) -> Received {
        while self.received.is_empty() {
            if let Some(answer) = self.step() {
                panic!("{answer:?}, although nothing was asked for");
            }
        }
        self.received.remove(0)
    }

    #[track_caller]
    pub(super) fn messages(&mut self, count: usize) -> Vec<Received> {
        (0..count).map(|_| self.message()).collect()
    }

    /// Messages up to the one with this payload, which is left out.
    #[track_caller]
    pub(super) fn messages_before(&mut self, last: &str) -> Vec<Received> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            if message.payload == last.as_bytes() {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Whether everything sent so far has been handled by the gateway, and what came is here.
    #[track_caller]
    pub(super) fn ping(&mut self) {
        self.send(encode_pingreq);
        assert_eq!(self.answer(), Answer::Pong);
    }

    /// Ends the connection.
    pub(super) fn disconnect(&mut self, reason_code: ReasonCode) {
        let disconnect = Disconnect { reason_code, properties: Properties::NONE };
        self.send(|out| disconnect.encode(V5, out));
    }

    /// Why the gateway ends the connection; messages before that were not read, and are not
    /// acknowledged.
    #[track_caller]
    pub(super) fn goodbye(&mut self) -> ReasonCode {
        loop {
            let reason = self.next(|packet| match packet {
                Packet::Disconnect(disconnect) => Some(Some(disconnect.reason_code)),
                Packet::Publish(_) | Packet::Pubrel(_) => Some(None),
                other => panic!("{other:?} instead of DISCONNECT"),
            });
            if let Some(reason) = reason {
                return reason;
            }
        }
    }

    /// What has come and was not looked at.
    pub(super) fn take(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    #[track_caller]
    fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.step() {
                return answer;
            }
        }
    }

    /// Handles one packet; what is no message is returned.
    #[track_caller]
    fn step(&mut self) -> Option<Answer> {
        let (mut acks, mut messages) = (Vec::new(), Vec::new());
        let answer = self.next(|packet| {
            Some(match packet {
                Packet::Publish(publish) => {
                    if let Some(id) = publish.packet_id {
                        let is_once = publish.qos == QoS::ExactlyOnce;
                        let kind = if is_once { AckKind::Pubrec } else { AckKind::Puback };
                        acks.push((kind, id.get()));
                    }
                    messages.push(Received {
                        topic: publish.topic.to_owned(),
                        payload: publish.payload.to_vec(),
                        qos: publish.qos,
                        retain: publish.retain,
                        properties: publish.properties.raw().to_vec(),
                    });
                    None
                }
                Packet::Pubrel(ack) => {
                    acks.push((AckKind::Pubcomp, ack.packet_id.get()));
                    None
                }
                Packet::Puback(ack) => {
                    Some(Answer::Ack(AckKind::Puback, ack.packet_id.get(), ack.reason_code))
                }
                Packet::Pubrec(ack) => {
                    Some(Answer::Ack(AckKind::Pubrec, ack.packet_id.get(), ack.reason_code))
                }
                Packet::Pubcomp(ack) => {
                    Some(Answer::Ack(AckKind::Pubcomp, ack.packet_id.get(), ack.reason_code))
                }
                Packet::Suback(ack) | Packet::Unsuback(ack) => {
                    Some(Answer::Codes(ack.codes.to_vec()))
                }
                Packet::Pingresp => Some(Answer::Pong),
                other => panic!("unexpected {other:?}"),
            })
        });
        self.received.append(&mut messages);
        for (kind, packet_id) in acks {
            self.send_ack(kind, packet_id);
        }
        answer
    }

    /// Waits for the next packet.
    #[track_caller]
    fn next<T>(&mut self, mut take: impl FnMut(Packet<'_>) -> Option<T>) -> T {
        let context =
            DecodeContext { version: V5, maximum_packet_size: u32::MAX, role: Role::Client };
        loop {
            let decoded = decode(&self.bytes, context).unwrap();
            if let Some((packet, length)) = decoded {
                let taken = take(packet);
                self.bytes.drain(..length);
                return taken.expect("every packet is taken");
            }
            let mut chunk = [0; 16_384];
            let count = self.stream.read(&mut chunk).expect("something comes in time");
            assert!(count > 0, "the gateway closed the connection");
            self.bytes.extend_from_slice(&chunk[..count]);
        }
    }

    fn send_ack(&mut self, kind: AckKind, packet_id: u16) {
        let packet_id = PacketId::new(packet_id).unwrap();
        let (reason_code, properties) = (ReasonCode::Success, Properties::NONE);
        let ack = PublishAck { packet_id, reason_code, properties };
        self.send(|out| encode_publish_ack(kind, &ack, V5, out));
    }

    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn packet_id(&mut self) -> PacketId {
        self.last_packet_id = self.last_packet_id % u16::MAX + 1;
        PacketId::new(self.last_packet_id).unwrap()
    }
}

fn encoded(properties: &[Property<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    properties.iter().for_each(|property| property.encode(&mut out));
    out
}
