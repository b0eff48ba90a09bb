//! SUBSCRIBE, UNSUBSCRIBE and their acknowledgements.
//!
//! Topic filters are checked here for being strings, not for where their wildcards stand: an invalid
//! filter is answered by itself in SUBACK, it does not end the connection.
//!
//! Source: MQTT 5.0 §3.8-3.11; MQTT 3.1.1 §3.8-3.11; read §3.8.3 first.

use super::encode::{
    prefixed_bytes, properties_bytes, put_fixed_header, put_properties, put_str, put_u16,
};
use super::property_rules::{PropertySet, read_properties};
use super::reader::Reader;
use super::topic::SHARE_PREFIX;
use super::{
    DecodeError, PacketId, PacketType, Properties, ProtocolVersion, QoS, ReasonCode, Subscribe,
    SubscribeAck, Unsubscribe,
};

/// The filters of a SUBSCRIBE with their options, validated; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    raw: &'a [u8],
}

/// The filters of an UNSUBSCRIBE, validated; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    raw: &'a [u8],
}

/// Subscription Options. Source: MQTT 5.0 §3.8.3.1; before 5.0 only `qos` is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent at SUBSCRIBE. Source: MQTT 5.0 §3.8.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// 0.
    SendAtSubscribe = 0,
    /// 1.
    SendIfNew = 1,
    /// 2.
    DoNotSend = 2,
}

impl<'a> SubscribeFilters<'a> {
    /// The filters with their options, in the order of the packet, which SUBACK follows.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> {
        let mut reader = Reader::new(self.raw);
        // Validated filters yield no error before their end, where the reader has nothing left.
        std::iter::from_fn(move || {
            let filter = reader.str().ok()?;
            Some((filter, SubscriptionOptions::from_byte(reader.u8().ok()?)?))
        })
    }

    /// How many filters there are; walks over them.
    #[must_use]
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Never true of a decoded packet.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }
}

impl<'a> UnsubscribeFilters<'a> {
    /// The filters in the order of the packet, which UNSUBACK follows.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.raw);
        // Validated filters yield no error before their end, where the reader has nothing left.
        std::iter::from_fn(move || reader.str().ok())
    }

    /// How many filters there are; walks over them.
    #[must_use]
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Never true of a decoded packet.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }
}

impl SubscriptionOptions {
    /// Reads the byte behind a filter; `None` for QoS 3, Retain Handling 3 or a reserved bit.
    ///
    /// Wire shape: QoS (bits 1-0), No Local (2), Retain As Published (3), Retain Handling (5-4).
    ///
    /// Source: MQTT 5.0 §3.8.3.1; MQTT 3.1.1 §3.8.3.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        if byte & OPTION_RESERVED_BITS != 0 {
            return None;
        }
        Some(Self {
            qos: QoS::from_bits(byte)?,
            no_local: byte & OPTION_NO_LOCAL != 0,
            retain_as_published: byte & OPTION_RETAIN_AS_PUBLISHED != 0,
            retain_handling: match (byte & OPTION_RETAIN_HANDLING_BITS) >> RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::SendAtSubscribe,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return None,
            },
        })
    }

    /// The byte as it goes behind a filter. Source: MQTT 5.0 §3.8.3.1.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        let mut byte = self.qos as u8 | ((self.retain_handling as u8) << RETAIN_HANDLING_SHIFT);
        if self.no_local {
            byte |= OPTION_NO_LOCAL;
        }
        if self.retain_as_published {
            byte |= OPTION_RETAIN_AS_PUBLISHED;
        }
        byte
    }

    fn decode(byte: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let reserved_bits = if version.is_v5() { OPTION_RESERVED_BITS } else { !OPTION_QOS_BITS };
        if byte & reserved_bits != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved { options: byte });
        }
        if byte & OPTION_QOS_BITS == OPTION_QOS_BITS {
            return Err(DecodeError::SubscriptionQosThree);
        }
        Self::from_byte(byte).ok_or(DecodeError::RetainHandlingThree)
    }
}

impl<'a> Subscribe<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Packet Identifier (two bytes), properties (5.0), then one or more of filter
    /// (string) and Subscription Options (byte).
    ///
    /// # Errors
    ///
    /// - [`DecodeError::PacketIdZero`], [`DecodeError::PayloadEmpty`]
    /// - [`DecodeError::SubscriptionOptionsReserved`], [`DecodeError::SubscriptionQosThree`],
    ///   [`DecodeError::RetainHandlingThree`], [`DecodeError::NoLocalOnSharedSubscription`]
    /// - what is wrong with a field or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.8; MQTT 3.1.1 §3.8.
    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (packet_id, properties) =
            read_packet_id_and_properties(&mut reader, PropertySet::SUBSCRIBE, version)?;
        let raw = reader.rest();
        if raw.is_empty() {
            return Err(DecodeError::PayloadEmpty { packet_type: PacketType::Subscribe });
        }
        while !reader.is_empty() {
            let filter = reader.str()?;
            let options = SubscriptionOptions::decode(reader.u8()?, version)?;
            if options.no_local && filter.starts_with(SHARE_PREFIX) {
                return Err(DecodeError::NoLocalOnSharedSubscription);
            }
        }
        Ok(Self { packet_id, properties, filters: SubscribeFilters { raw } })
    }
}

impl<'a> Unsubscribe<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Packet Identifier (two bytes), properties (5.0), then one or more filters
    /// (strings).
    ///
    /// # Errors
    ///
    /// [`DecodeError::PacketIdZero`], [`DecodeError::PayloadEmpty`], and what is wrong with a field
    /// or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.10; MQTT 3.1.1 §3.10.
    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (packet_id, properties) =
            read_packet_id_and_properties(&mut reader, PropertySet::UNSUBSCRIBE, version)?;
        let raw = reader.rest();
        if raw.is_empty() {
            return Err(DecodeError::PayloadEmpty { packet_type: PacketType::Unsubscribe });
        }
        while !reader.is_empty() {
            reader.str()?;
        }
        Ok(Self { packet_id, properties, filters: UnsubscribeFilters { raw } })
    }
}

impl<'a> SubscribeAck<'a> {
    /// Reads the bytes behind the fixed header of a SUBACK.
    ///
    /// Wire shape: Packet Identifier (two bytes), properties (5.0), one code (byte) a filter. The
    /// codes are left for the reader to compare with what it asked for.
    ///
    /// # Errors
    ///
    /// [`DecodeError::PacketIdZero`], [`DecodeError::PayloadEmpty`], and what is wrong with a field
    /// or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.9; MQTT 3.1.1 §3.9.
    pub(super) fn decode_suback(
        body: &'a [u8],
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (packet_id, properties) =
            read_packet_id_and_properties(&mut reader, PropertySet::ACKNOWLEDGEMENT, version)?;
        let codes = reader.rest();
        if codes.is_empty() {
            return Err(DecodeError::PayloadEmpty { packet_type: PacketType::Suback });
        }
        Ok(Self { packet_id, properties, codes })
    }

    /// Reads the bytes behind the fixed header of an UNSUBACK: in 5.0 as a SUBACK, before it the
    /// Packet Identifier alone.
    ///
    /// # Errors
    ///
    /// Those of a SUBACK, and [`DecodeError::TrailingBytes`] before 5.0.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.11; MQTT 3.1.1 §3.11.
    pub(super) fn decode_unsuback(
        body: &'a [u8],
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (packet_id, properties) =
            read_packet_id_and_properties(&mut reader, PropertySet::ACKNOWLEDGEMENT, version)?;
        let codes = reader.rest();
        if !version.is_v5() {
            reader.finish()?;
        } else if codes.is_empty() {
            return Err(DecodeError::PayloadEmpty { packet_type: PacketType::Unsuback });
        }
        Ok(Self { packet_id, properties, codes })
    }
}

/// Appends a SUBSCRIBE to `out`. Before 5.0 properties and all options but QoS are left out.
///
/// # Panics
///
/// When a filter is longer than 65,535 bytes or the packet body than 268,435,455.
///
/// # Source
///
/// MQTT 5.0 §3.8; MQTT 3.1.1 §3.8.
pub fn encode_subscribe(
    packet_id: PacketId,
    properties: Properties<'_>,
    filters: &[(&str, SubscriptionOptions)],
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) {
    let filter_bytes: usize =
        filters.iter().map(|(filter, _)| prefixed_bytes(filter.as_bytes()) + 1).sum();
    let remaining_bytes = 2 + properties_bytes(properties, version) + filter_bytes;
    put_fixed_header(PacketType::Subscribe, remaining_bytes, out);
    put_u16(packet_id.get(), out);
    put_properties(properties, version, out);
    for (filter, options) in filters {
        put_str(filter, out);
        out.push(if version.is_v5() { options.to_byte() } else { options.qos as u8 });
    }
}

/// Appends an UNSUBSCRIBE to `out`. Before 5.0 properties are left out.
///
/// # Panics
///
/// When a filter is longer than 65,535 bytes or the packet body than 268,435,455.
///
/// # Source
///
/// MQTT 5.0 §3.10; MQTT 3.1.1 §3.10.
pub fn encode_unsubscribe(
    packet_id: PacketId,
    properties: Properties<'_>,
    filters: &[&str],
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) {
    let filter_bytes: usize = filters.iter().map(|filter| prefixed_bytes(filter.as_bytes())).sum();
    let remaining_bytes = 2 + properties_bytes(properties, version) + filter_bytes;
    put_fixed_header(PacketType::Unsubscribe, remaining_bytes, out);
    put_u16(packet_id.get(), out);
    put_properties(properties, version, out);
    for filter in filters {
        put_str(filter, out);
    }
}

/// Appends a SUBACK to `out`. Before 5.0 properties are left out and every failure is 0x80.
///
/// Source: MQTT 5.0 §3.9; MQTT 3.1.1 §3.9 [MQTT-3.9.3-2].
pub fn encode_suback(ack: &SubscribeAck<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    let remaining_bytes = 2 + properties_bytes(ack.properties, version) + ack.codes.len();
    put_fixed_header(PacketType::Suback, remaining_bytes, out);
    put_u16(ack.packet_id.get(), out);
    put_properties(ack.properties, version, out);
    if version.is_v5() {
        out.extend_from_slice(ack.codes);
    } else {
        out.extend(ack.codes.iter().map(|&code| code.min(ReasonCode::UnspecifiedError as u8)));
    }
}

/// Appends an UNSUBACK to `out`. Before 5.0 it is the Packet Identifier alone.
///
/// Source: MQTT 5.0 §3.11; MQTT 3.1.1 §3.11.
pub fn encode_unsuback(ack: &SubscribeAck<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    let codes = if version.is_v5() { ack.codes } else { &[] };
    let remaining_bytes = 2 + properties_bytes(ack.properties, version) + codes.len();
    put_fixed_header(PacketType::Unsuback, remaining_bytes, out);
    put_u16(ack.packet_id.get(), out);
    put_properties(ack.properties, version, out);
    out.extend_from_slice(codes);
}

fn read_packet_id_and_properties<'a>(
    reader: &mut Reader<'a>,
    allowed: PropertySet,
    version: ProtocolVersion,
) -> Result<(PacketId, Properties<'a>), DecodeError> {
    let packet_id = reader.packet_id()?;
    let properties =
        if version.is_v5() { read_properties(reader, allowed)?.0 } else { Properties::NONE };
    Ok((packet_id, properties))
}

const OPTION_QOS_BITS: u8 = 0b0000_0011;
const OPTION_NO_LOCAL: u8 = 0b0000_0100;
const OPTION_RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const OPTION_RETAIN_HANDLING_BITS: u8 = 0b0011_0000;
const RETAIN_HANDLING_SHIFT: u32 = 4;
const OPTION_RESERVED_BITS: u8 = 0b1100_0000;

#[cfg(test)]
mod tests {
    use super::*;

    const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn id() -> PacketId {
        PacketId::new(0x0102).unwrap()
    }

    #[test]
    fn every_options_byte() {
        for byte in 0..=u8::MAX {
            let valid = byte & 0b11 != 3 && byte & 0x30 != 0x30 && byte & 0xC0 == 0;
            let options = SubscriptionOptions::from_byte(byte);
            assert_eq!(options.map(SubscriptionOptions::to_byte), valid.then_some(byte));
            assert_eq!(SubscriptionOptions::decode(byte, V3).is_ok(), byte <= 2);
            assert_eq!(SubscriptionOptions::decode(byte, V5).is_ok(), valid);
        }
    }

    #[test]
    fn subscribe_of_each_version() {
        let options = SubscriptionOptions::from_byte(0x2D).unwrap();
        let plain = SubscriptionOptions::from_byte(0).unwrap();
        let filters = [("a/#", options), ("b#", plain)];
        let properties = Properties::from_validated(&[0x0B, 7]);
        for (version, wire, seen) in [
            (V5, &b"\x82\x10\x01\x02\x02\x0B\x07\0\x03a/#\x2D\0\x02b#\0"[..], options),
            (V3, b"\x82\x0D\x01\x02\0\x03a/#\x01\0\x02b#\0", {
                SubscriptionOptions::from_byte(1).unwrap()
            }),
        ] {
            let mut out = Vec::new();
            encode_subscribe(id(), properties, &filters, version, &mut out);
            assert_eq!(out, wire);
            let subscribe = Subscribe::decode(&wire[2..], version).unwrap();
            assert_eq!(subscribe.packet_id, id());
            assert_eq!((subscribe.filters.len(), subscribe.filters.is_empty()), (2, false));
            // "b#" is no filter, and still no reason to end the connection.
            assert!(subscribe.filters.iter().eq([("a/#", seen), ("b#", plain)]));
        }
    }

    #[test]
    fn unsubscribe_of_each_version() {
        for (version, wire) in [
            (V5, &b"\xA2\x09\x01\x02\0\0\x01a\0\x01b"[..]),
            (V3, b"\xA2\x08\x01\x02\0\x01a\0\x01b"),
        ] {
            let mut out = Vec::new();
            encode_unsubscribe(id(), Properties::NONE, &["a", "b"], version, &mut out);
            assert_eq!(out, wire);
            let unsubscribe = Unsubscribe::decode(&wire[2..], version).unwrap();
            assert!(unsubscribe.filters.iter().eq(["a", "b"]));
            assert_eq!((unsubscribe.filters.len(), unsubscribe.filters.is_empty()), (2, false));
        }
    }

    #[test]
    fn refuses_what_a_subscribe_may_not_say() {
        let empty = |packet_type| DecodeError::PayloadEmpty { packet_type };
        for (version, body, error) in [
            (V3, &b"\0\0\0\x01a\0"[..], DecodeError::PacketIdZero),
            (V3, b"\0\x01", empty(PacketType::Subscribe)),
            (V5, b"\0\x01\0", empty(PacketType::Subscribe)),
            (V3, b"\0\x01\0\x01a\x03", DecodeError::SubscriptionQosThree),
            (V5, b"\0\x01\0\0\x01a\x03", DecodeError::SubscriptionQosThree),
            (V3, b"\0\x01\0\x01a\x04", DecodeError::SubscriptionOptionsReserved { options: 4 }),
            (V5, b"\0\x01\0\0\x01a\x40", DecodeError::SubscriptionOptionsReserved { options: 64 }),
            (V5, b"\0\x01\0\0\x01a\x30", DecodeError::RetainHandlingThree),
            (V5, b"\0\x01\0\0\x0A$share/g/a\x04", DecodeError::NoLocalOnSharedSubscription),
            (V3, b"\0\x01\0\x01\0\0", DecodeError::NullCharacter),
            (V3, b"\0\x01\0\x01a", DecodeError::FieldPastEnd { needed_bytes: 1, left_bytes: 0 }),
        ] {
            assert_eq!(Subscribe::decode(body, version), Err(error), "{body:?}");
        }
        let error = Err(empty(PacketType::Unsubscribe));
        assert_eq!(Unsubscribe::decode(b"\0\x01", V3), error);
    }

    #[test]
    fn acknowledgements_of_each_version() {
        let ack =
            SubscribeAck { packet_id: id(), properties: Properties::NONE, codes: &[2, 0x8F, 0x87] };
        let encoded = |encode: fn(&SubscribeAck<'_>, ProtocolVersion, &mut Vec<u8>), version| {
            let mut out = Vec::new();
            encode(&ack, version, &mut out);
            out
        };
        assert_eq!(encoded(encode_suback, V5), [0x90, 6, 1, 2, 0, 2, 0x8F, 0x87]);
        assert_eq!(encoded(encode_suback, V3), [0x90, 5, 1, 2, 2, 0x80, 0x80]);
        assert_eq!(encoded(encode_unsuback, V5), [0xB0, 6, 1, 2, 0, 2, 0x8F, 0x87]);
        assert_eq!(encoded(encode_unsuback, V3), [0xB0, 2, 1, 2]);
        assert_eq!(SubscribeAck::decode_suback(&[1, 2, 0, 2, 0x8F, 0x87], V5), Ok(ack));
        assert_eq!(SubscribeAck::decode_unsuback(&[1, 2, 0, 2, 0x8F, 0x87], V5), Ok(ack));
        assert_eq!(
            SubscribeAck::decode_unsuback(&[1, 2], V3),
            Ok(SubscribeAck { codes: &[], ..ack })
        );
        let trailing = Err(DecodeError::TrailingBytes { count: 1 });
        assert_eq!(SubscribeAck::decode_unsuback(&[1, 2, 0], V3), trailing);
    }
}
