//! PUBACK, PUBREC, PUBREL and PUBCOMP, which share one shape.
//!
//! Source: MQTT 5.0 §3.4-3.7; MQTT 3.1.1 §3.4-3.7; read §3.4 first.

use super::encode::{properties_bytes, put_fixed_header, put_properties, put_u16};
use super::property_rules::{PropertySet, read_properties};
use super::reader::Reader;
use super::{DecodeError, PacketType, Properties, ProtocolVersion, PublishAck, ReasonCode};

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// Ends a QoS 1 exchange.
    Puback,
    /// Step 2 of a QoS 2 exchange: the message is taken.
    Pubrec,
    /// Step 3: the packet id may be forgotten.
    Pubrel,
    /// Step 4: it is.
    Pubcomp,
}

impl AckKind {
    /// The packet type of this kind.
    #[must_use]
    pub fn packet_type(self) -> PacketType {
        match self {
            Self::Puback => PacketType::Puback,
            Self::Pubrec => PacketType::Pubrec,
            Self::Pubrel => PacketType::Pubrel,
            Self::Pubcomp => PacketType::Pubcomp,
        }
    }

    fn reason_code(self, code: u8) -> Result<ReasonCode, DecodeError> {
        match ReasonCode::from_byte(code) {
            Some(reason_code) if self.allows(reason_code) => Ok(reason_code),
            Some(_) | None => {
                Err(DecodeError::ReasonCodeNotAllowed { packet_type: self.packet_type(), code })
            }
        }
    }

    /// Source: MQTT 5.0 tables 3-4, 3-5, 3-6 and 3-7.
    fn allows(self, code: ReasonCode) -> bool {
        match self {
            Self::Puback | Self::Pubrec => matches!(
                code,
                ReasonCode::Success
                    | ReasonCode::NoMatchingSubscribers
                    | ReasonCode::UnspecifiedError
                    | ReasonCode::ImplementationSpecificError
                    | ReasonCode::NotAuthorized
                    | ReasonCode::TopicNameInvalid
                    | ReasonCode::PacketIdentifierInUse
                    | ReasonCode::QuotaExceeded
                    | ReasonCode::PayloadFormatInvalid
            ),
            Self::Pubrel | Self::Pubcomp => {
                matches!(code, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound)
            }
        }
    }
}

impl<'a> PublishAck<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Packet Identifier (two bytes); in 5.0 also Reason Code (byte) and properties,
    /// where the properties, or both, may be left out.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::PacketIdZero`], [`DecodeError::ReasonCodeNotAllowed`]
    /// - what is wrong with a field or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.4.2; MQTT 3.1.1 §3.4.2.
    pub(super) fn decode(
        kind: AckKind,
        body: &'a [u8],
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut ack =
            Self { packet_id, reason_code: ReasonCode::Success, properties: Properties::NONE };
        if version.is_v5() && !reader.is_empty() {
            let code = reader.u8()?;
            ack.reason_code = kind.reason_code(code)?;
            if !reader.is_empty() {
                ack.properties = read_properties(&mut reader, PropertySet::ACKNOWLEDGEMENT)?.0;
            }
        }
        reader.finish()?;
        Ok(ack)
    }
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP to `out`.
///
/// Takes 4 bytes for Success without properties, and always before 5.0, which has neither.
///
/// Source: MQTT 5.0 §3.4.2; MQTT 3.1.1 §3.4.2.
pub fn encode_publish_ack(
    kind: AckKind,
    ack: &PublishAck<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) {
    let has_properties = version.is_v5() && !ack.properties.is_empty();
    let has_code = version.is_v5() && (has_properties || ack.reason_code != ReasonCode::Success);
    let mut remaining_bytes = 2;
    if has_code {
        remaining_bytes += 1;
    }
    if has_properties {
        remaining_bytes += properties_bytes(ack.properties, version);
    }
    put_fixed_header(kind.packet_type(), remaining_bytes, out);
    put_u16(ack.packet_id.get(), out);
    if has_code {
        out.push(ack.reason_code as u8);
    }
    if has_properties {
        put_properties(ack.properties, version, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mqtt::PacketId;

    fn ack(reason_code: ReasonCode, properties: &[u8]) -> PublishAck<'_> {
        PublishAck {
            packet_id: PacketId::new(0x0102).unwrap(),
            reason_code,
            properties: Properties::from_validated(properties),
        }
    }

    #[track_caller]
    fn check(kind: AckKind, ack: PublishAck<'_>, version: ProtocolVersion, wire: &[u8]) {
        let mut out = Vec::new();
        encode_publish_ack(kind, &ack, version, &mut out);
        assert_eq!(out, wire);
    }

    #[test]
    fn writes_no_more_than_needed() {
        let v5 = ProtocolVersion::V5;
        check(AckKind::Puback, ack(ReasonCode::Success, &[]), v5, &[0x40, 2, 1, 2]);
        check(AckKind::Pubrec, ack(ReasonCode::Success, &[]), v5, &[0x50, 2, 1, 2]);
        check(AckKind::Pubrel, ack(ReasonCode::Success, &[]), v5, &[0x62, 2, 1, 2]);
        check(AckKind::Pubcomp, ack(ReasonCode::Success, &[]), v5, &[0x70, 2, 1, 2]);
        let refused = ack(ReasonCode::NotAuthorized, &[]);
        check(AckKind::Puback, refused, v5, &[0x40, 3, 1, 2, 0x87]);
        let reason = ack(ReasonCode::Success, &[0x1F, 0, 1, b'x']);
        check(AckKind::Pubrec, reason, v5, &[0x50, 8, 1, 2, 0, 4, 0x1F, 0, 1, b'x']);
        let refused = ack(ReasonCode::NotAuthorized, &[0x1F, 0, 1, b'x']);
        check(AckKind::Puback, refused, ProtocolVersion::V3_1_1, &[0x40, 2, 1, 2]);
    }

    #[test]
    fn code_and_properties_may_be_left_out() {
        let decode = |body| PublishAck::decode(AckKind::Puback, body, ProtocolVersion::V5);
        assert_eq!(decode(&[1, 2]), Ok(ack(ReasonCode::Success, &[])));
        assert_eq!(decode(&[1, 2, 0x10]), Ok(ack(ReasonCode::NoMatchingSubscribers, &[])));
        assert_eq!(decode(&[1, 2, 0, 0]), Ok(ack(ReasonCode::Success, &[])));
        let properties = [0x1F, 0, 1, b'x'];
        let body = [1, 2, 0x97, 4, 0x1F, 0, 1, b'x'];
        assert_eq!(decode(&body), Ok(ack(ReasonCode::QuotaExceeded, &properties)));
    }

    #[test]
    fn refuses_other_codes_and_lengths() {
        let v5 = ProtocolVersion::V5;
        let not_allowed =
            |packet_type, code| Err(DecodeError::ReasonCodeNotAllowed { packet_type, code });
        for (kind, body, expected) in [
            (AckKind::Puback, &[0, 0][..], Err(DecodeError::PacketIdZero)),
            (AckKind::Puback, &[1, 2, 0x92], not_allowed(PacketType::Puback, 0x92)),
            (AckKind::Pubrel, &[1, 2, 0x10], not_allowed(PacketType::Pubrel, 0x10)),
            (AckKind::Pubcomp, &[1, 2, 0x7F], not_allowed(PacketType::Pubcomp, 0x7F)),
            (AckKind::Puback, &[1, 2, 0, 0, 9], Err(DecodeError::TrailingBytes { count: 1 })),
        ] {
            assert_eq!(PublishAck::decode(kind, body, v5), expected);
        }
        let v3 = PublishAck::decode(AckKind::Puback, &[1, 2, 0], ProtocolVersion::V3_1_1);
        assert_eq!(v3, Err(DecodeError::TrailingBytes { count: 1 }));
    }
}
