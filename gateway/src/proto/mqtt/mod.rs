//! MQTT control packets: bytes to values and back, for 3.1, 3.1.1 and 5.0 in one tree.
//!
//! Decoding borrows: a [`Packet`] points into the bytes it was read from, so nothing is copied
//! before it is decided where the packet goes. Read [`decode()`] first, then [`properties`], then a
//! packet's file. What no single packet shows (a second CONNECT, a packet id in use, the Topic
//! Alias Maximum) is for the session to find.
//!
//! No bytes make this module panic: every read is checked, and `proto` forbids `unsafe`.

pub mod properties;
pub mod reason_code;
pub mod subscribe;

mod connect;
mod decode;
mod encode;
mod error;
mod packet_type;
mod property_rules;
mod publish;
mod publish_ack;
mod reader;
mod session_end;
mod topic;
mod variable_byte_integer;

use std::num::NonZeroU16;

pub use decode::{DecodeContext, Role, decode};
pub use error::DecodeError;
pub use packet_type::PacketType;
pub use properties::{Properties, Property};
pub use publish::{PublishHeader, encode_publish, encoded_publish_bytes};
pub use publish_ack::{AckKind, encode_publish_ack};
pub use reason_code::ReasonCode;
pub use session_end::{encode_pingreq, encode_pingresp};
pub use subscribe::{
    RetainHandling, SubscribeFilters, SubscriptionOptions, UnsubscribeFilters, encode_suback,
    encode_subscribe, encode_unsuback, encode_unsubscribe,
};
pub use topic::{InvalidShare, SHARE_PREFIX, is_valid_filter, is_valid_topic_name, parse_shared};
pub use variable_byte_integer::{
    VARIABLE_BYTE_INTEGER_MAX, variable_byte_integer, variable_byte_integer_bytes,
};

/// The protocol version a connection speaks, by the Protocol Name and Level of its CONNECT.
///
/// Source: MQTT 5.0 §3.1.2.1-2; MQTT 3.1.1 §3.1.2.1-2; MQTT 3.1 §3.1 ("MQIsdp", level 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// "MQIsdp", level 3.
    V3_1,
    /// "MQTT", level 4.
    V3_1_1,
    /// "MQTT", level 5.
    V5,
}

/// Quality of Service. Source: MQTT 5.0 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

/// A Packet Identifier: never zero. Source: MQTT 5.0 §2.2.1; MQTT 3.1.1 §2.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

/// A control packet, borrowing from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server.
    Connect(Connect<'a>),
    /// Server to client.
    Connack(Connack<'a>),
    /// Either direction.
    Publish(Publish<'a>),
    /// Either direction.
    Puback(PublishAck<'a>),
    /// Either direction.
    Pubrec(PublishAck<'a>),
    /// Either direction.
    Pubrel(PublishAck<'a>),
    /// Either direction.
    Pubcomp(PublishAck<'a>),
    /// Client to server.
    Subscribe(Subscribe<'a>),
    /// Server to client.
    Suback(SubscribeAck<'a>),
    /// Client to server.
    Unsubscribe(Unsubscribe<'a>),
    /// Server to client.
    Unsuback(SubscribeAck<'a>),
    /// Client to server.
    Pingreq,
    /// Server to client.
    Pingresp,
    /// Either direction in 5.0, client to server in 3.1.1.
    Disconnect(Disconnect<'a>),
    /// Either direction, 5.0 only.
    Auth(Auth<'a>),
}

/// CONNECT. Source: MQTT 5.0 §3.1; MQTT 3.1.1 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// By Protocol Name and Level.
    pub version: ProtocolVersion,
    /// Clean Start (5.0), Clean Session (3.1.1).
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off.
    pub keep_alive_s: u16,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// May be empty: the server then assigns one, or refuses.
    pub client_id: &'a str,
    /// Present when the Will Flag is set.
    pub will: Option<Will<'a>>,
    /// Present when the User Name Flag is set.
    pub user_name: Option<&'a str>,
    /// Present when the Password Flag is set.
    pub password: Option<&'a [u8]>,
}

/// The Will of a CONNECT. Source: MQTT 5.0 §3.1.2.5 and §3.1.3.2-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Properties, empty before 5.0.
    pub properties: Properties<'a>,
    /// Will Topic: a topic name.
    pub topic: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
}

/// CONNACK. Source: MQTT 5.0 §3.2; MQTT 3.1.1 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the server had a session for the client id.
    pub session_present: bool,
    /// A Reason Code (5.0) or Connect Return Code (3.1.1) as on the wire.
    pub code: u8,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// PUBLISH. Source: MQTT 5.0 §3.3; MQTT 3.1.1 §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The DUP flag.
    pub dup: bool,
    /// The QoS level.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Topic Name; empty only in 5.0 with a Topic Alias.
    pub topic: &'a str,
    /// Present exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. Source: MQTT 5.0 §3.4-3.7; MQTT 3.1.1 §3.4-3.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishAck<'a> {
    /// The identifier of the PUBLISH this is about.
    pub packet_id: PacketId,
    /// Success before 5.0 and when left out.
    pub reason_code: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// SUBSCRIBE. Source: MQTT 5.0 §3.8; MQTT 3.1.1 §3.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Of this exchange.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// At least one, validated.
    pub filters: SubscribeFilters<'a>,
}

/// UNSUBSCRIBE. Source: MQTT 5.0 §3.10; MQTT 3.1.1 §3.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Of this exchange.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// At least one, validated.
    pub filters: UnsubscribeFilters<'a>,
}

/// SUBACK or UNSUBACK. Source: MQTT 5.0 §3.9, §3.11; MQTT 3.1.1 §3.9, §3.11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeAck<'a> {
    /// Of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// One code a filter, in the order of the filters; empty in an UNSUBACK before 5.0.
    pub codes: &'a [u8],
}

/// DISCONNECT. Source: MQTT 5.0 §3.14; MQTT 3.1.1 §3.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Normal disconnection before 5.0 and when left out.
    pub reason_code: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

/// AUTH. Source: MQTT 5.0 §3.15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason_code: ReasonCode,
    /// Authentication Method and Data among them.
    pub properties: Properties<'a>,
}

impl ProtocolVersion {
    /// Whether packets have properties and Reason Codes.
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

impl QoS {
    /// The QoS in the two low bits of `bits`, `None` for 3.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl PacketId {
    /// The Packet Identifier with this value, `None` for zero.
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    /// The value, above zero.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}
