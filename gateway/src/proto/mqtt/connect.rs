//! CONNECT and CONNACK. Source: MQTT 5.0 §3.1-3.2; MQTT 3.1.1 §3.1-3.2; read §3.1 first.

use super::encode::{
    prefixed_bytes, properties_bytes, put_binary, put_fixed_header, put_properties, put_str,
    put_u16,
};
use super::property_rules::{PropertySet, read_properties};
use super::reader::Reader;
use super::{Connack, Connect, DecodeError, PacketType, Properties, ProtocolVersion, QoS, Will};

impl<'a> Connect<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Protocol Name (string), Protocol Level (byte), Connect Flags (byte), Keep Alive
    /// (two bytes, seconds), properties (5.0), client id (string), Will Properties (5.0), Will
    /// Topic (string) and Will Payload (binary), User Name (string), Password (binary).
    ///
    /// # Errors
    ///
    /// - [`DecodeError::WrongProtocolName`], [`DecodeError::UnsupportedProtocolVersion`]
    /// - [`DecodeError::ReservedConnectFlag`], [`DecodeError::WillFlagsWithoutWill`],
    ///   [`DecodeError::WillQosThree`], [`DecodeError::PasswordWithoutUserName`]
    /// - [`DecodeError::TopicNameEmpty`], [`DecodeError::TopicNameWildcard`]: of the will.
    /// - what is wrong with a field or a property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.1; MQTT 3.1.1 §3.1; MQTT 3.1 §3.1.
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = read_version(&mut reader)?;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive_s = reader.u16()?;
        let properties = match version {
            ProtocolVersion::V5 => read_properties(&mut reader, PropertySet::CONNECT)?.0,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Properties::NONE,
        };
        let client_id = reader.str()?;
        let will = match flags & FLAG_WILL {
            0 => None,
            _ => Some(Will::decode(&mut reader, flags, version)?),
        };
        let has_user_name = flags & FLAG_USER_NAME != 0 && !left_out(&reader, version);
        let user_name = if has_user_name { Some(reader.str()?) } else { None };
        let has_password = flags & FLAG_PASSWORD != 0 && !left_out(&reader, version);
        let password = if has_password { Some(reader.binary()?) } else { None };
        reader.finish()?;
        Ok(Self {
            version,
            clean_start: flags & FLAG_CLEAN_START != 0,
            keep_alive_s,
            properties,
            client_id,
            will,
            user_name,
            password,
        })
    }

    /// Appends the packet to `out`.
    ///
    /// # Panics
    ///
    /// When a string or binary field is longer than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_fixed_header(PacketType::Connect, self.remaining_bytes(), out);
        let (name, level) = name_and_level(self.version);
        put_binary(name, out);
        out.push(level);
        out.push(self.flags());
        put_u16(self.keep_alive_s, out);
        put_properties(self.properties, self.version, out);
        put_str(self.client_id, out);
        if let Some(will) = self.will {
            put_properties(will.properties, self.version, out);
            put_str(will.topic, out);
            put_binary(will.payload, out);
        }
        if let Some(user_name) = self.user_name {
            put_str(user_name, out);
        }
        if let Some(password) = self.password {
            put_binary(password, out);
        }
    }

    fn remaining_bytes(&self) -> usize {
        let will_bytes = self.will.map_or(0, |will| {
            properties_bytes(will.properties, self.version)
                + prefixed_bytes(will.topic.as_bytes())
                + prefixed_bytes(will.payload)
        });
        prefixed_bytes(name_and_level(self.version).0)
            + LEVEL_FLAGS_KEEP_ALIVE_BYTES
            + properties_bytes(self.properties, self.version)
            + prefixed_bytes(self.client_id.as_bytes())
            + will_bytes
            + self.user_name.map_or(0, |name| prefixed_bytes(name.as_bytes()))
            + self.password.map_or(0, prefixed_bytes)
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= FLAG_CLEAN_START;
        }
        if let Some(will) = self.will {
            flags |= FLAG_WILL | ((will.qos as u8) << WILL_QOS_SHIFT);
            if will.retain {
                flags |= FLAG_WILL_RETAIN;
            }
        }
        if self.password.is_some() {
            flags |= FLAG_PASSWORD;
        }
        if self.user_name.is_some() {
            flags |= FLAG_USER_NAME;
        }
        flags
    }
}

impl<'a> Will<'a> {
    fn decode(
        reader: &mut Reader<'a>,
        flags: u8,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let qos = QoS::from_bits(flags >> WILL_QOS_SHIFT).ok_or(DecodeError::WillQosThree)?;
        let properties = match version {
            ProtocolVersion::V5 => read_properties(reader, PropertySet::WILL)?.0,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Properties::NONE,
        };
        let topic = reader.topic_name()?;
        if topic.is_empty() {
            return Err(DecodeError::TopicNameEmpty);
        }
        let payload = reader.binary()?;
        Ok(Self { qos, retain: flags & FLAG_WILL_RETAIN != 0, properties, topic, payload })
    }
}

impl<'a> Connack<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Connect Acknowledge Flags (byte), Reason Code (5.0) or Connect Return Code
    /// (byte), properties (5.0). In 3.1 the first byte is reserved and not looked at.
    ///
    /// # Errors
    ///
    /// [`DecodeError::ReservedConnackFlags`], and what is wrong with a field or the properties.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.2; MQTT 3.1.1 §3.2; MQTT 3.1 §3.2.
    pub(super) fn decode(body: &'a [u8], version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let session_present = match (version, flags) {
            (ProtocolVersion::V3_1, _) | (_, 0) => false,
            (_, 1) => true,
            (_, flags) => return Err(DecodeError::ReservedConnackFlags { flags }),
        };
        let properties = match version {
            ProtocolVersion::V5 => read_properties(&mut reader, PropertySet::CONNACK)?.0,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Properties::NONE,
        };
        reader.finish()?;
        Ok(Self { session_present, code, properties })
    }

    /// Appends the packet to `out`. Properties are left out before 5.0, Session Present in 3.1.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let remaining_bytes = 2 + properties_bytes(self.properties, version);
        put_fixed_header(PacketType::Connack, remaining_bytes, out);
        let session_present = self.session_present && version != ProtocolVersion::V3_1;
        out.push(u8::from(session_present));
        out.push(self.code);
        put_properties(self.properties, version, out);
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = reader.binary()?;
    if name != NAME && name != NAME_V3_1 {
        // A binary field's length has two bytes, so this never saturates.
        let got_bytes = u16::try_from(name.len()).unwrap_or(u16::MAX);
        return Err(DecodeError::WrongProtocolName { got_bytes });
    }
    match (name, reader.u8()?) {
        (NAME_V3_1, 3) => Ok(ProtocolVersion::V3_1),
        (NAME, 4) => Ok(ProtocolVersion::V3_1_1),
        (NAME, 5) => Ok(ProtocolVersion::V5),
        (_, level) => Err(DecodeError::UnsupportedProtocolVersion { level }),
    }
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    // 3.1 calls the bit unused instead of reserved: its clients may set it.
    if flags & FLAG_RESERVED != 0 && version != ProtocolVersion::V3_1 {
        return Err(DecodeError::ReservedConnectFlag);
    }
    if flags & FLAG_WILL == 0 && flags & FLAGS_OF_WILL != 0 {
        return Err(DecodeError::WillFlagsWithoutWill { flags });
    }
    if flags & FLAG_PASSWORD != 0 && flags & FLAG_USER_NAME == 0 && !version.is_v5() {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

/// Whether a field announced by a flag is left out: in 3.1 the Remaining Length takes precedence
/// over the User Name and Password flags. Source: MQTT 3.1 §3.1, "User name and password flags".
fn left_out(reader: &Reader<'_>, version: ProtocolVersion) -> bool {
    version == ProtocolVersion::V3_1 && reader.is_empty()
}

fn name_and_level(version: ProtocolVersion) -> (&'static [u8], u8) {
    match version {
        ProtocolVersion::V3_1 => (NAME_V3_1, 3),
        ProtocolVersion::V3_1_1 => (NAME, 4),
        ProtocolVersion::V5 => (NAME, 5),
    }
}

const NAME: &[u8] = b"MQTT";
const NAME_V3_1: &[u8] = b"MQIsdp";
const LEVEL_FLAGS_KEEP_ALIVE_BYTES: usize = 4;

const FLAG_RESERVED: u8 = 0b0000_0001;
const FLAG_CLEAN_START: u8 = 0b0000_0010;
const FLAG_WILL: u8 = 0b0000_0100;
const WILL_QOS_SHIFT: u32 = 3;
const FLAG_WILL_RETAIN: u8 = 0b0010_0000;
const FLAGS_OF_WILL: u8 = 0b0011_1000;
const FLAG_PASSWORD: u8 = 0b0100_0000;
const FLAG_USER_NAME: u8 = 0b1000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    const V5_FULL: &[u8] =
        b"\x10\x2A\0\x04MQTT\x05\xF6\0\x3C\x03\x21\0\x0A\0\x01c\x05\x18\0\0\0\x05\
        \0\x03w/t\0\x02go\0\x04user\0\x02pw";

    fn v5_full() -> Connect<'static> {
        Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive_s: 60,
            properties: Properties::from_validated(&[0x21, 0, 10]),
            client_id: "c",
            will: Some(Will {
                qos: QoS::ExactlyOnce,
                retain: true,
                properties: Properties::from_validated(&[0x18, 0, 0, 0, 5]),
                topic: "w/t",
                payload: b"go",
            }),
            user_name: Some("user"),
            password: Some(b"pw"),
        }
    }

    #[test]
    fn reads_and_writes_every_field() {
        let mut out = Vec::new();
        v5_full().encode(&mut out);
        assert_eq!(out, V5_FULL);
        assert_eq!(Connect::decode(&V5_FULL[2..]), Ok(v5_full()));
    }

    #[test]
    fn each_version_has_its_name_and_level() {
        for (version, body) in [
            (ProtocolVersion::V3_1, &b"\0\x06MQIsdp\x03\x02\0\x0A\0\x01c"[..]),
            (ProtocolVersion::V3_1_1, b"\0\x04MQTT\x04\x02\0\x0A\0\x01c"),
            (ProtocolVersion::V5, b"\0\x04MQTT\x05\x02\0\x0A\0\0\x01c"),
        ] {
            let connect = Connect::decode(body).unwrap();
            assert_eq!(connect.version, version);
            assert_eq!((connect.client_id, connect.keep_alive_s), ("c", 10));
            let mut out = Vec::new();
            connect.encode(&mut out);
            assert_eq!(&out[2..], body);
        }
    }

    #[test]
    fn refuses_other_protocols_and_flags() {
        for (body, error) in [
            (&b"\0\x04HTTP\x04"[..], DecodeError::WrongProtocolName { got_bytes: 4 }),
            (b"\0\x04MQTT\x03\x02", DecodeError::UnsupportedProtocolVersion { level: 3 }),
            (b"\0\x04MQTT\x06\x02", DecodeError::UnsupportedProtocolVersion { level: 6 }),
            (b"\0\x06MQIsdp\x04\x02", DecodeError::UnsupportedProtocolVersion { level: 4 }),
            (b"\0\x04MQTT\x04\x03\0\x0A", DecodeError::ReservedConnectFlag),
            (b"\0\x04MQTT\x04\x0A\0\x0A", DecodeError::WillFlagsWithoutWill { flags: 0x0A }),
            (b"\0\x04MQTT\x05\x22\0\x0A", DecodeError::WillFlagsWithoutWill { flags: 0x22 }),
            (b"\0\x04MQTT\x04\x42\0\x0A", DecodeError::PasswordWithoutUserName),
            (b"\0\x04MQTT\x04\x1E\0\x0A\0\x01c", DecodeError::WillQosThree),
            (b"\0\x04MQTT\x04\x06\0\x0A\0\x01c\0\0\0\0", DecodeError::TopicNameEmpty),
            (b"\0\x04MQTT\x04\x06\0\x0A\0\x01c\0\x01#\0\0", DecodeError::TopicNameWildcard),
            (b"\0\x04MQTT\x04\x02\0\x0A\0\x01c!", DecodeError::TrailingBytes { count: 1 }),
        ] {
            assert_eq!(Connect::decode(body), Err(error), "{body:?}");
        }
    }

    /// MQTT 5.0 §3.1.2.9 allows what MQTT 3.1.1 [MQTT-3.1.2-22] forbids.
    #[test]
    fn password_alone_is_allowed_in_5() {
        let connect = Connect::decode(b"\0\x04MQTT\x05\x42\0\x0A\0\0\x01c\0\x02pw").unwrap();
        assert_eq!((connect.user_name, connect.password), (None, Some(&b"pw"[..])));
    }

    #[test]
    fn user_name_may_be_missing_in_3_1_only() {
        let connect = Connect::decode(b"\0\x06MQIsdp\x03\xC2\0\x0A\0\x01c").unwrap();
        assert_eq!((connect.user_name, connect.password), (None, None));
        let error = DecodeError::FieldPastEnd { needed_bytes: 2, left_bytes: 0 };
        assert_eq!(Connect::decode(b"\0\x04MQTT\x04\xC2\0\x0A\0\x01c"), Err(error));
    }

    #[test]
    fn connack_of_each_version() {
        let connack = Connack {
            session_present: true,
            code: 0,
            properties: Properties::from_validated(&[0x24, 1]),
        };
        for (version, wire) in [
            (ProtocolVersion::V3_1, &[0x20, 2, 0, 0][..]),
            (ProtocolVersion::V3_1_1, &[0x20, 2, 1, 0]),
            (ProtocolVersion::V5, &[0x20, 5, 1, 0, 2, 0x24, 1]),
        ] {
            let mut out = Vec::new();
            connack.encode(version, &mut out);
            assert_eq!(out, wire);
            let decoded = Connack::decode(&wire[2..], version).unwrap();
            assert_eq!(decoded.session_present, version != ProtocolVersion::V3_1);
        }
        let error = DecodeError::ReservedConnackFlags { flags: 2 };
        assert_eq!(Connack::decode(&[2, 0], ProtocolVersion::V3_1_1), Err(error));
    }
}
