//! PUBLISH. Source: MQTT 5.0 §3.3; MQTT 3.1.1 §3.3; read §3.3.1 first.
//!
//! The hot path of the gateway: decoding allocates and copies nothing, encoding reserves once and
//! copies each part once.

use super::encode::{FIXED_HEADER_BYTES_MAX, length_u16};
use super::properties::id;
use super::property_rules::{PropertySet, read_properties};
use super::reader::Reader;
use super::variable_byte_integer::{put_variable_byte_integer, variable_byte_integer_bytes};
use super::{
    DecodeContext, DecodeError, PacketId, PacketType, Properties, ProtocolVersion, Publish, QoS,
    Role,
};

impl<'a> Publish<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Topic Name (string), Packet Identifier (two bytes, above QoS 0 only), properties
    /// (5.0), and the payload to the end.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::QosThree`]: also found by [`check_flags`], as soon as the byte is there.
    /// - [`DecodeError::TopicNameWildcard`], [`DecodeError::TopicNameEmpty`]
    /// - [`DecodeError::PacketIdZero`]
    /// - [`DecodeError::SubscriptionIdentifierFromClient`]
    /// - what is wrong with a field or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.3; MQTT 3.1.1 §3.3.
    #[inline]
    pub(super) fn decode(
        first: u8,
        body: &'a [u8],
        context: DecodeContext,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let qos = QoS::from_bits(first >> QOS_SHIFT).ok_or(DecodeError::QosThree)?;
        let topic = reader.topic_name()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let properties = if context.version.is_v5() {
            publish_properties(&mut reader, topic, context.role)?
        } else if topic.is_empty() {
            return Err(DecodeError::TopicNameEmpty);
        } else {
            Properties::NONE
        };
        Ok(Self {
            dup: first & FLAG_DUP != 0,
            qos,
            retain: first & FLAG_RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload: reader.rest(),
        })
    }
}

/// Checks DUP and QoS of a PUBLISH's first byte.
///
/// MQTT 3.1 calls DUP at QoS 0 unused, not forbidden, so there it passes.
///
/// # Errors
///
/// [`DecodeError::QosThree`], [`DecodeError::DupAtQosZero`].
///
/// # Source
///
/// MQTT 5.0 §3.3.1; MQTT 3.1.1 §3.3.1; MQTT 3.1 §2.1.
#[inline]
pub(super) fn check_flags(first: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    match first & (FLAG_DUP | QOS_BITS) {
        QOS_BITS.. if first & QOS_BITS == QOS_BITS => Err(DecodeError::QosThree),
        FLAG_DUP if version != ProtocolVersion::V3_1 => Err(DecodeError::DupAtQosZero),
        _ => Ok(()),
    }
}

fn publish_properties<'a>(
    reader: &mut Reader<'a>,
    topic: &str,
    role: Role,
) -> Result<Properties<'a>, DecodeError> {
    let (properties, seen) = read_properties(reader, PropertySet::PUBLISH)?;
    if topic.is_empty() && !seen.contains(id::TOPIC_ALIAS) {
        return Err(DecodeError::TopicNameEmpty);
    }
    match role {
        Role::Server if seen.contains(id::SUBSCRIPTION_IDENTIFIER) => {
            Err(DecodeError::SubscriptionIdentifierFromClient)
        }
        Role::Server | Role::Client => Ok(properties),
    }
}

/// What stands in front of the properties of a PUBLISH to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishHeader<'a> {
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
}

impl PublishHeader<'_> {
    fn first_byte(&self) -> u8 {
        PacketType::Publish.first_byte()
            | (u8::from(self.dup) << 3)
            | ((self.qos as u8) << QOS_SHIFT)
            | u8::from(self.retain)
    }

    fn remaining_bytes(
        &self,
        version: ProtocolVersion,
        property_bytes: usize,
        payload: &[u8],
    ) -> usize {
        let property_length_bytes =
            if version.is_v5() { variable_byte_integer_bytes(property_bytes) } else { 0 };
        let packet_id_bytes = if self.packet_id.is_some() { 2 } else { 0 };
        2 + self.topic.len()
            + packet_id_bytes
            + property_length_bytes
            + property_bytes
            + payload.len()
    }
}

/// Appends a PUBLISH to `out`.
///
/// `property_parts` are validated property blocks as on the wire, without their lengths; they go
/// out one behind the other, and not at all before 5.0.
///
/// # Panics
///
/// When the topic is longer than 65,535 bytes or the packet body than 268,435,455: compare
/// [`encoded_publish_bytes`] with the peer's Maximum Packet Size first.
///
/// # Source
///
/// MQTT 5.0 §3.3; MQTT 3.1.1 §3.3.
pub fn encode_publish(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    property_parts: &[&[u8]],
    payload: &[u8],
) {
    debug_assert_eq!(header.packet_id.is_some(), header.qos != QoS::AtMostOnce);
    let property_bytes = sent_property_bytes(version, property_parts);
    let remaining_bytes = header.remaining_bytes(version, property_bytes, payload);
    out.reserve(FIXED_HEADER_BYTES_MAX + remaining_bytes);
    out.push(header.first_byte());
    put_variable_byte_integer(remaining_bytes, out);
    out.extend_from_slice(&length_u16(header.topic.len()).to_be_bytes());
    out.extend_from_slice(header.topic.as_bytes());
    if let Some(packet_id) = header.packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if version.is_v5() {
        put_variable_byte_integer(property_bytes, out);
        for part in property_parts {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(payload);
}

/// How many bytes [`encode_publish`] appends: what the peer's Maximum Packet Size limits.
///
/// Source: MQTT 5.0 §3.1.2.11.4.
#[must_use]
pub fn encoded_publish_bytes(
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    property_parts: &[&[u8]],
    payload: &[u8],
) -> usize {
    let property_bytes = sent_property_bytes(version, property_parts);
    let remaining_bytes = header.remaining_bytes(version, property_bytes, payload);
    1 + variable_byte_integer_bytes(remaining_bytes) + remaining_bytes
}

fn sent_property_bytes(version: ProtocolVersion, property_parts: &[&[u8]]) -> usize {
    if version.is_v5() { property_parts.iter().map(|part| part.len()).sum() } else { 0 }
}

const FLAG_RETAIN: u8 = 0b0001;
const QOS_SHIFT: u32 = 1;
const QOS_BITS: u8 = 0b0110;
const FLAG_DUP: u8 = 0b1000;

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: PublishHeader<'_> = PublishHeader {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "a/b",
        packet_id: None,
    };

    fn decode(
        wire: &[u8],
        version: ProtocolVersion,
        role: Role,
    ) -> Result<Publish<'_>, DecodeError> {
        let context = DecodeContext { version, maximum_packet_size: 1024, role };
        Publish::decode(wire[0], &wire[2..], context)
    }

    #[track_caller]
    fn check(
        version: ProtocolVersion,
        header: PublishHeader<'_>,
        property_parts: &[&[u8]],
        wire: &[u8],
    ) {
        let mut out = Vec::new();
        encode_publish(&mut out, version, &header, property_parts, b"hi");
        assert_eq!(out, wire);
        assert_eq!(encoded_publish_bytes(version, &header, property_parts, b"hi"), wire.len());
        let publish = decode(wire, version, Role::Client).unwrap();
        let PublishHeader { dup, qos, retain, topic, packet_id } = header;
        let properties = publish.properties;
        let payload = b"hi";
        assert_eq!(publish, Publish { dup, qos, retain, topic, packet_id, properties, payload });
        if version.is_v5() {
            assert_eq!(properties.raw(), property_parts.concat());
        } else {
            assert!(properties.is_empty());
        }
    }

    #[test]
    fn reads_and_writes_each_version_and_qos() {
        let v3 = ProtocolVersion::V3_1_1;
        check(v3, HEADER, &[&[0x01, 1]], b"\x30\x07\0\x03a/bhi");
        let qos2 = PublishHeader {
            dup: true,
            qos: QoS::ExactlyOnce,
            retain: true,
            packet_id: PacketId::new(0x0102),
            ..HEADER
        };
        check(v3, qos2, &[], b"\x3D\x09\0\x03a/b\x01\x02hi");
        let v5 = ProtocolVersion::V5;
        check(v5, HEADER, &[], b"\x30\x08\0\x03a/b\0hi");
        check(v5, qos2, &[&[0x0B, 7], &[0x01, 1]], {
            b"\x3D\x0E\0\x03a/b\x01\x02\x04\x0B\x07\x01\x01hi"
        });
        let alias_only = PublishHeader { topic: "", ..HEADER };
        check(v5, alias_only, &[&[0x23, 0, 1]], b"\x30\x08\0\0\x03\x23\0\x01hi");
    }

    #[test]
    fn refuses_what_a_publish_may_not_say() {
        let (v3, v5) = (ProtocolVersion::V3_1_1, ProtocolVersion::V5);
        for (version, wire, error) in [
            (v3, &b"\x30\x02\0\0"[..], DecodeError::TopicNameEmpty),
            (v5, b"\x30\x03\0\0\0", DecodeError::TopicNameEmpty),
            (v3, b"\x30\x03\0\x01+", DecodeError::TopicNameWildcard),
            (v3, b"\x30\x05\0\x03a/#", DecodeError::TopicNameWildcard),
            (v3, b"\x30\x05\0\x03a\0b", DecodeError::NullCharacter),
            (v3, b"\x30\x04\0\x02\xC3\x28", DecodeError::IllFormedUtf8),
            (v3, b"\x32\x05\0\x01a\0\0", DecodeError::PacketIdZero),
            (v5, b"\x30\x06\0\0\x03\x23\0\0", DecodeError::TopicAliasZero),
            (v5, b"\x30\x06\0\x01a\x02\x0B\x01", DecodeError::SubscriptionIdentifierFromClient),
            (v3, b"\x30\x03\0\x02a", DecodeError::FieldPastEnd { needed_bytes: 2, left_bytes: 1 }),
        ] {
            assert_eq!(decode(wire, version, Role::Server), Err(error), "{wire:?}");
        }
    }

    #[test]
    fn every_first_byte_of_a_publish() {
        for first in 0x30..=0x3F_u8 {
            let expected = match first & 0b1110 {
                0b0110 | 0b1110 => Err(DecodeError::QosThree),
                0b1000 => Err(DecodeError::DupAtQosZero),
                _ => Ok(()),
            };
            assert_eq!(check_flags(first, ProtocolVersion::V5), expected, "{first:#x}");
        }
        assert_eq!(check_flags(0x38, ProtocolVersion::V3_1), Ok(()));
    }
}
