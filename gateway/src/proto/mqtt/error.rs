//! What can be wrong with the bytes of a packet, and the Reason Code MQTT 5.0 has for it.

use super::{PacketType, ReasonCode};

/// Bytes that are no packet the peer may send; the connection cannot go on after it.
///
/// `Copy` and without text, so that a hostile peer cannot make us allocate by being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Control packet type 0, or 15 before 5.0. Source: MQTT 5.0 §2.1.2; MQTT 3.1.1 §2.2.1.
    #[error("control packet type {code} is reserved")]
    ReservedPacketType {
        /// The upper half of the first byte.
        code: u8,
    },
    /// Fixed header flags other than the specified ones.
    /// Source: MQTT 5.0 [MQTT-2.1.3-1]; MQTT 3.1.1 [MQTT-2.2.2-2].
    #[error("fixed header of {packet_type:?} has the flags {flags:#06b}")]
    FixedHeaderFlags {
        /// Of the packet.
        packet_type: PacketType,
        /// The lower half of the first byte.
        flags: u8,
    },
    /// A packet that only the other side sends. Source: MQTT 5.0 §2.1.2; MQTT 3.1.1 §2.2.1.
    #[error("{packet_type:?} goes the other way")]
    WrongDirection {
        /// Of the packet.
        packet_type: PacketType,
    },
    /// The fourth byte says that a fifth follows. Source: MQTT 5.0 §1.5.5; MQTT 3.1.1 §2.2.3.
    #[error("variable byte integer longer than 4 bytes")]
    VariableByteIntegerTooLong,
    /// Fewer bytes would have done. Source: MQTT 5.0 [MQTT-1.5.5-1].
    #[error("variable byte integer is padded")]
    VariableByteIntegerNotMinimal,
    /// Larger than the reader accepts. Source: MQTT 5.0 §3.1.2.11.4 and §3.2.2.3.6.
    #[error("packet of {got_bytes} bytes, at most {limit_bytes} are accepted")]
    PacketTooLarge {
        /// The whole packet, fixed header included.
        got_bytes: u32,
        /// `DecodeContext::maximum_packet_size`.
        limit_bytes: u32,
    },
    /// A field is longer than what is left of the packet or of its property block.
    #[error("field needs {needed_bytes} bytes, {left_bytes} are left")]
    FieldPastEnd {
        /// Of the field.
        needed_bytes: u32,
        /// Of the packet or block.
        left_bytes: u32,
    },
    /// Bytes behind the last field.
    #[error("{count} bytes behind the last field")]
    TrailingBytes {
        /// How many.
        count: u32,
    },
    /// Source: MQTT 5.0 [MQTT-1.5.4-1]; MQTT 3.1.1 [MQTT-1.5.3-1].
    #[error("string is not UTF-8")]
    IllFormedUtf8,
    /// Source: MQTT 5.0 [MQTT-1.5.4-2]; MQTT 3.1.1 [MQTT-1.5.3-2].
    #[error("string contains U+0000")]
    NullCharacter,
    /// Neither "MQTT" nor "MQIsdp". Source: MQTT 5.0 [MQTT-3.1.2-1]; MQTT 3.1.1 [MQTT-3.1.2-1].
    #[error("protocol name of {got_bytes} bytes is not MQTT")]
    WrongProtocolName {
        /// Its length.
        got_bytes: u16,
    },
    /// Source: MQTT 5.0 [MQTT-3.1.2-2]; MQTT 3.1.1 [MQTT-3.1.2-2].
    #[error("protocol level {level} is not supported")]
    UnsupportedProtocolVersion {
        /// The Protocol Level (3.1.1) or Protocol Version (5.0) byte.
        level: u8,
    },
    /// Source: MQTT 5.0 [MQTT-3.1.2-3]; MQTT 3.1.1 [MQTT-3.1.2-3].
    #[error("reserved connect flag is set")]
    ReservedConnectFlag,
    /// Will QoS or Will Retain without a Will. Source: MQTT 5.0 [MQTT-3.1.2-11, MQTT-3.1.2-13];
    /// MQTT 3.1.1 [MQTT-3.1.2-13, MQTT-3.1.2-15].
    #[error("connect flags {flags:#010b} describe a will that is not there")]
    WillFlagsWithoutWill {
        /// The Connect Flags byte.
        flags: u8,
    },
    /// Source: MQTT 5.0 [MQTT-3.1.2-12]; MQTT 3.1.1 [MQTT-3.1.2-14].
    #[error("will qos 3")]
    WillQosThree,
    /// Allowed in 5.0. Source: MQTT 3.1.1 [MQTT-3.1.2-22].
    #[error("password without a user name")]
    PasswordWithoutUserName,
    /// Bits 7-1 of the Connect Acknowledge Flags. Source: MQTT 5.0 [MQTT-3.2.2-1].
    #[error("connect acknowledge flags {flags:#010b}")]
    ReservedConnackFlags {
        /// The Connect Acknowledge Flags byte.
        flags: u8,
    },
    /// Source: MQTT 5.0 [MQTT-3.3.1-4]; MQTT 3.1.1 [MQTT-3.3.1-4].
    #[error("qos 3")]
    QosThree,
    /// Source: MQTT 5.0 [MQTT-3.3.1-2]; MQTT 3.1.1 [MQTT-3.3.1-2].
    #[error("dup set at qos 0")]
    DupAtQosZero,
    /// Source: MQTT 5.0 §2.2.1; MQTT 3.1.1 [MQTT-2.3.1-1].
    #[error("packet identifier 0")]
    PacketIdZero,
    /// Source: MQTT 5.0 [MQTT-3.3.2-2]; MQTT 3.1.1 [MQTT-3.3.2-2].
    #[error("topic name contains a wildcard")]
    TopicNameWildcard,
    /// Without a Topic Alias. Source: MQTT 5.0 §3.3.2.1; MQTT 3.1.1 [MQTT-4.7.3-1].
    #[error("topic name is empty")]
    TopicNameEmpty,
    /// Source: MQTT 5.0 [MQTT-3.3.2-8].
    #[error("topic alias 0")]
    TopicAliasZero,
    /// No property has this identifier. Source: MQTT 5.0 §2.2.2.2.
    #[error("property {id:#04x} does not exist")]
    UnknownProperty {
        /// The identifier.
        id: u32,
    },
    /// A property of another packet type. Source: MQTT 5.0 §2.2.2.2.
    #[error("property {id:#04x} does not belong here")]
    PropertyNotAllowed {
        /// The identifier.
        id: u8,
    },
    /// Source: MQTT 5.0 §2.2.2.2 and the property's own section.
    #[error("property {id:#04x} comes twice")]
    PropertyTwice {
        /// The identifier.
        id: u8,
    },
    /// Source: the property's own section of MQTT 5.0.
    #[error("property {id:#04x} has the value {value}")]
    PropertyValue {
        /// The identifier.
        id: u8,
        /// As on the wire.
        value: u32,
    },
    /// Empty or with a wildcard. Source: MQTT 5.0 [MQTT-3.3.2-14].
    #[error("response topic is no topic name")]
    ResponseTopicInvalid,
    /// Source: MQTT 5.0 [MQTT-3.3.4-6].
    #[error("client sent a subscription identifier in PUBLISH")]
    SubscriptionIdentifierFromClient,
    /// Source: MQTT 5.0 [MQTT-3.14.2-2].
    #[error("server sent a session expiry interval in DISCONNECT")]
    SessionExpiryIntervalFromServer,
    /// Source: MQTT 5.0 §3.1.2.11.10.
    #[error("authentication data without a method")]
    AuthenticationDataWithoutMethod,
    /// Source: MQTT 5.0 §3.15.2.2.2.
    #[error("AUTH without an authentication method")]
    AuthenticationMethodMissing,
    /// A SUBSCRIBE or UNSUBSCRIBE without a filter, or an acknowledgement of one without a code.
    /// Source: MQTT 5.0 [MQTT-3.8.3-2, MQTT-3.10.3-2]; MQTT 3.1.1 [MQTT-3.8.3-3, MQTT-3.10.3-2].
    #[error("payload of {packet_type:?} is empty")]
    PayloadEmpty {
        /// Of the packet.
        packet_type: PacketType,
    },
    /// A reserved bit; before 5.0 that is any bit but those of QoS. Source: MQTT 5.0
    /// [MQTT-3.8.3-5]; MQTT 3.1.1 [MQTT-3.8.3-4].
    #[error("subscription options {options:#010b}")]
    SubscriptionOptionsReserved {
        /// The byte.
        options: u8,
    },
    /// Source: MQTT 5.0 §3.8.3.1; MQTT 3.1.1 [MQTT-3.8.3-4].
    #[error("subscription with qos 3")]
    SubscriptionQosThree,
    /// Source: MQTT 5.0 §3.8.3.1.
    #[error("retain handling 3")]
    RetainHandlingThree,
    /// Source: MQTT 5.0 [MQTT-3.8.3-4].
    #[error("no local on a shared subscription")]
    NoLocalOnSharedSubscription,
    /// A Reason Code that this packet cannot carry from this side. Source: MQTT 5.0 §2.4.
    #[error("{packet_type:?} with reason code {code:#04x}")]
    ReasonCodeNotAllowed {
        /// Of the packet.
        packet_type: PacketType,
        /// As on the wire.
        code: u8,
    },
}

impl DecodeError {
    /// The Reason Code to put in DISCONNECT, or in CONNACK before the session exists.
    ///
    /// Where no section names one, the definitions decide: what cannot be parsed is a Malformed
    /// Packet, what is parsed and not allowed is a Protocol Error.
    ///
    /// Source: MQTT 5.0 §1.2, §4.13.
    #[must_use]
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::ReservedPacketType { .. }
            | Self::FixedHeaderFlags { .. }
            | Self::VariableByteIntegerTooLong
            | Self::VariableByteIntegerNotMinimal
            | Self::FieldPastEnd { .. }
            | Self::TrailingBytes { .. }
            | Self::IllFormedUtf8
            | Self::NullCharacter
            | Self::ReservedConnectFlag
            | Self::WillQosThree
            | Self::ReservedConnackFlags { .. }
            | Self::QosThree
            | Self::UnknownProperty { .. }
            | Self::PropertyNotAllowed { .. }
            | Self::SubscriptionOptionsReserved { .. } => ReasonCode::MalformedPacket,
            Self::WrongDirection { .. }
            | Self::WillFlagsWithoutWill { .. }
            | Self::PasswordWithoutUserName
            | Self::DupAtQosZero
            | Self::PacketIdZero
            | Self::TopicNameEmpty
            | Self::PropertyTwice { .. }
            | Self::PropertyValue { .. }
            | Self::ResponseTopicInvalid
            | Self::SubscriptionIdentifierFromClient
            | Self::SessionExpiryIntervalFromServer
            | Self::AuthenticationDataWithoutMethod
            | Self::AuthenticationMethodMissing
            | Self::PayloadEmpty { .. }
            | Self::SubscriptionQosThree
            | Self::RetainHandlingThree
            | Self::NoLocalOnSharedSubscription
            | Self::ReasonCodeNotAllowed { .. } => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::WrongProtocolName { .. } | Self::UnsupportedProtocolVersion { .. } => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::TopicNameWildcard => ReasonCode::TopicNameInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
        }
    }
}
