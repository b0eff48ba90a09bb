//! One packet from the front of what was received: the fixed header, then the packet's own file.
//!
//! Source: MQTT 5.0 §2.1; MQTT 3.1.1 §2.2; read §2.1 first.

use super::publish;
use super::reader::Reader;
use super::variable_byte_integer::variable_byte_integer;
use super::{
    AckKind, Auth, Connack, Connect, DecodeError, Disconnect, Packet, PacketType, ProtocolVersion,
    Publish, PublishAck, Subscribe, SubscribeAck, Unsubscribe,
};

/// What a reader knows of a connection that the bytes do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeContext {
    /// The version the connection speaks; not looked at for CONNECT, which names its own.
    pub version: ProtocolVersion,
    /// The largest packet that is accepted, in bytes, fixed header included.
    pub maximum_packet_size: u32,
    /// Whose side is reading.
    pub role: Role,
}

/// The role of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads what clients send.
    Server,
    /// Reads what a server sends.
    Client,
}

/// Reads one packet from the front of `src`.
///
/// Wire shape: a byte with the packet type (bits 7-4) and flags (3-0), the Remaining Length as a
/// Variable Byte Integer, then as many bytes as it says.
///
/// Returns the packet, which borrows from `src`, and the bytes it took, or `None` while `src` ends
/// inside the packet: that is no error, read more and call again. What the fixed header alone shows
/// to be wrong is found as soon as its bytes are there, so nobody waits for, or buffers, the rest.
///
/// # Errors
///
/// - [`DecodeError::ReservedPacketType`], [`DecodeError::WrongDirection`],
///   [`DecodeError::FixedHeaderFlags`]: the first byte is wrong.
/// - [`DecodeError::VariableByteIntegerTooLong`], [`DecodeError::VariableByteIntegerNotMinimal`],
///   [`DecodeError::PacketTooLarge`]: the Remaining Length is.
/// - what the packet's own file names.
///
/// # Source
///
/// MQTT 5.0 §2.1; MQTT 3.1.1 §2.2.
pub fn decode(
    src: &[u8],
    context: DecodeContext,
) -> Result<Option<(Packet<'_>, usize)>, DecodeError> {
    let Some((&first, rest)) = src.split_first() else {
        return Ok(None);
    };
    let packet_type = check_first_byte(first, context)?;
    let Some((remaining_bytes, length_bytes)) = variable_byte_integer(rest)? else {
        return Ok(None);
    };
    let header_bytes = 1 + length_bytes;
    // A Remaining Length has 28 bits, so neither sum overflows.
    let packet_bytes = header_bytes as u32 + remaining_bytes;
    if packet_bytes > context.maximum_packet_size {
        return Err(DecodeError::PacketTooLarge {
            got_bytes: packet_bytes,
            limit_bytes: context.maximum_packet_size,
        });
    }
    let Some(body) = src.get(header_bytes..packet_bytes as usize) else {
        return Ok(None);
    };
    let packet = match packet_type {
        PacketType::Publish => Packet::Publish(Publish::decode(first, body, context)?),
        other => decode_body(other, first, body, context)?,
    };
    Ok(Some((packet, packet_bytes as usize)))
}

/// Kept out of [`decode`], so that a PUBLISH meets one branch and not a jump table.
fn decode_body(
    packet_type: PacketType,
    first: u8,
    body: &[u8],
    context: DecodeContext,
) -> Result<Packet<'_>, DecodeError> {
    let version = context.version;
    let ack = |kind| PublishAck::decode(kind, body, version);
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(Connect::decode(body)?),
        PacketType::Connack => Packet::Connack(Connack::decode(body, version)?),
        PacketType::Publish => Packet::Publish(Publish::decode(first, body, context)?),
        PacketType::Puback => Packet::Puback(ack(AckKind::Puback)?),
        PacketType::Pubrec => Packet::Pubrec(ack(AckKind::Pubrec)?),
        PacketType::Pubrel => Packet::Pubrel(ack(AckKind::Pubrel)?),
        PacketType::Pubcomp => Packet::Pubcomp(ack(AckKind::Pubcomp)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(body, version)?),
        PacketType::Suback => Packet::Suback(SubscribeAck::decode_suback(body, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version)?),
        PacketType::Unsuback => Packet::Unsuback(SubscribeAck::decode_unsuback(body, version)?),
        PacketType::Pingreq => Reader::new(body).finish().map(|()| Packet::Pingreq)?,
        PacketType::Pingresp => Reader::new(body).finish().map(|()| Packet::Pingresp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(body, context)?),
        PacketType::Auth => Packet::Auth(Auth::decode(body, context.role)?),
    })
}

/// Checks that the type exists in this version, comes from this side and has the flags it must.
#[inline]
fn check_first_byte(first: u8, context: DecodeContext) -> Result<PacketType, DecodeError> {
    let packet_type = PacketType::from_first_byte(first)
        .ok_or(DecodeError::ReservedPacketType { code: first >> 4 })?;
    if packet_type == PacketType::Publish {
        publish::check_flags(first, context.version)?;
        return Ok(packet_type);
    }
    if packet_type == PacketType::Auth && !context.version.is_v5() {
        return Err(DecodeError::ReservedPacketType { code: first >> 4 });
    }
    if !may_read(packet_type, context) {
        return Err(DecodeError::WrongDirection { packet_type });
    }
    let flags = first & FLAG_BITS;
    if flags != packet_type.reserved_flags() && !ignores_flags(packet_type, context.version) {
        return Err(DecodeError::FixedHeaderFlags { packet_type, flags });
    }
    Ok(packet_type)
}

/// Source: MQTT 5.0 table 2-1, "Direction of flow"; MQTT 3.1.1 table 2.1.
fn may_read(packet_type: PacketType, context: DecodeContext) -> bool {
    match packet_type {
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq => context.role == Role::Server,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            context.role == Role::Client
        }
        PacketType::Disconnect => context.role == Role::Server || context.version.is_v5(),
        PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp
        | PacketType::Auth => true,
    }
}

/// MQTT 3.1 calls the flags of most packets unused, and its clients set DUP when they send PUBREL,
/// SUBSCRIBE or UNSUBSCRIBE again (MQTT 3.1 §2.1). CONNECT comes before the version is known.
fn ignores_flags(packet_type: PacketType, version: ProtocolVersion) -> bool {
    version == ProtocolVersion::V3_1 && packet_type != PacketType::Connect
}

const FLAG_BITS: u8 = 0b0000_1111;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mqtt::ReasonCode;

    fn context(version: ProtocolVersion, role: Role) -> DecodeContext {
        DecodeContext { version, maximum_packet_size: 1024, role }
    }

    const SERVER: DecodeContext = DecodeContext {
        version: ProtocolVersion::V3_1_1,
        maximum_packet_size: 1024,
        role: Role::Server,
    };

    /// MQTT 5.0 tables 2-1 and 2-2: who may send what, with which flags.
    #[test]
    fn every_first_byte_on_both_sides() {
        let (server, client, either) =
            (&[Role::Server][..], &[Role::Client][..], { &[Role::Server, Role::Client][..] });
        let table = [
            (1, 0, server),
            (2, 0, client),
            (4, 0, either),
            (5, 0, either),
            (6, 2, either),
            (7, 0, either),
            (8, 2, server),
            (9, 0, client),
            (10, 2, server),
            (11, 0, client),
            (12, 0, server),
            (13, 0, client),
            (14, 0, either),
            (15, 0, either),
        ];
        for (code, flags, readers) in table {
            for role in [Role::Server, Role::Client] {
                for got in 0..16 {
                    let wire = [code << 4 | got];
                    let decoded = decode(&wire, context(ProtocolVersion::V5, role));
                    let allowed = readers.contains(&role) && got == flags;
                    assert_eq!(decoded == Ok(None), allowed, "{code} {got} {role:?}");
                }
            }
        }
    }

    #[test]
    fn types_that_depend_on_the_version() {
        let reserved = |code| Err(DecodeError::ReservedPacketType { code });
        assert_eq!(decode(&[0x00], SERVER), reserved(0));
        assert_eq!(decode(&[0xF0], SERVER), reserved(15));
        let client = context(ProtocolVersion::V3_1_1, Role::Client);
        let packet_type = PacketType::Disconnect;
        assert_eq!(decode(&[0xE0], client), Err(DecodeError::WrongDirection { packet_type }));
    }

    #[test]
    fn dup_of_3_1_is_let_through() {
        let v3_1 = context(ProtocolVersion::V3_1, Role::Server);
        assert!(matches!(decode(&[0x6A, 2, 0, 1], v3_1), Ok(Some((Packet::Pubrel(_), 4)))));
        let wire = [0x8A, 6, 0, 1, 0, 1, b'a', 0];
        assert!(matches!(decode(&wire, v3_1), Ok(Some((Packet::Subscribe(_), 8)))));
        let error = DecodeError::FixedHeaderFlags { packet_type: PacketType::Pubrel, flags: 0x0A };
        assert_eq!(decode(&[0x6A, 2, 0, 1], SERVER), Err(error));
    }

    #[test]
    fn a_packet_too_large_is_refused_by_its_header() {
        let limit = DecodeContext { maximum_packet_size: 200, ..SERVER };
        // 200 bytes: 1 of type, 2 of length, 197 behind them.
        assert_eq!(decode(&[0x30, 0xC5, 0x01], limit), Ok(None));
        let error = DecodeError::PacketTooLarge { got_bytes: 201, limit_bytes: 200 };
        assert_eq!(decode(&[0x30, 0xC6, 0x01], limit), Err(error));
        assert_eq!(error.reason_code(), ReasonCode::PacketTooLarge);
        assert_eq!(decode(&[0x30, 0xC6], limit), Ok(None));
        let too_long = Err(DecodeError::VariableByteIntegerTooLong);
        assert_eq!(decode(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], limit), too_long);
    }

    #[test]
    fn takes_one_packet_and_leaves_the_rest() {
        let wire = b"\xC0\0\x30\x05\0\x01ahi\xE0\0";
        assert_eq!(decode(wire, SERVER), Ok(Some((Packet::Pingreq, 2))));
        let Ok(Some((Packet::Publish(publish), 7))) = decode(&wire[2..], SERVER) else {
            panic!("a PUBLISH of 7 bytes stands there");
        };
        assert_eq!((publish.topic, publish.payload), ("a", &b"hi"[..]));
        for cut in 2..9 {
            assert_eq!(decode(&wire[2..cut], SERVER), Ok(None));
        }
        assert!(matches!(decode(&wire[9..], SERVER), Ok(Some((Packet::Disconnect(_), 2)))));
    }

    #[test]
    fn pings_are_empty() {
        let trailing = Err(DecodeError::TrailingBytes { count: 1 });
        assert_eq!(decode(&[0xC0, 1, 0], SERVER), trailing);
        let client = context(ProtocolVersion::V5, Role::Client);
        assert_eq!(decode(&[0xD0, 0], client), Ok(Some((Packet::Pingresp, 2))));
    }
}
