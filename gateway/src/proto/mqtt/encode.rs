//! Writing the pieces packets are made of. Source: MQTT 5.0 §1.5, §2; MQTT 3.1.1 §1.5, §2.

use super::variable_byte_integer::{put_variable_byte_integer, variable_byte_integer_bytes};
use super::{PacketType, Properties, ProtocolVersion};

/// Appends a fixed header and makes room for the `remaining_bytes` behind it.
pub(super) fn put_fixed_header(packet_type: PacketType, remaining_bytes: usize, out: &mut Vec<u8>) {
    out.reserve(FIXED_HEADER_BYTES_MAX + remaining_bytes);
    out.push(packet_type.first_byte());
    put_variable_byte_integer(remaining_bytes, out);
}

pub(super) fn put_u16(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a UTF-8 Encoded String. Source: MQTT 5.0 §1.5.4; MQTT 3.1.1 §1.5.3.
///
/// # Panics
///
/// When `text` is longer than 65,535 bytes, which no string read from a packet can be.
pub(super) fn put_str(text: &str, out: &mut Vec<u8>) {
    put_binary(text.as_bytes(), out);
}

/// Appends Binary Data. Source: MQTT 5.0 §1.5.6.
///
/// # Panics
///
/// When `data` is longer than 65,535 bytes.
pub(super) fn put_binary(data: &[u8], out: &mut Vec<u8>) {
    put_u16(length_u16(data.len()), out);
    out.extend_from_slice(data);
}

/// The length of a string or of binary data as it goes on the wire.
pub(super) fn length_u16(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("an MQTT string has at most 65,535 bytes")
}

/// How many bytes a string or binary data takes with its length.
pub(super) fn prefixed_bytes(data: &[u8]) -> usize {
    2 + data.len()
}

/// How many bytes [`put_properties`] appends.
pub(super) fn properties_bytes(properties: Properties<'_>, version: ProtocolVersion) -> usize {
    if !version.is_v5() {
        return 0;
    }
    let bytes = properties.raw().len();
    variable_byte_integer_bytes(bytes) + bytes
}

/// Appends a property block with its length; nothing before 5.0. Source: MQTT 5.0 §2.2.2.
pub(super) fn put_properties(
    properties: Properties<'_>,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) {
    if version.is_v5() {
        put_variable_byte_integer(properties.raw().len(), out);
        out.extend_from_slice(properties.raw());
    }
}

/// The first byte and a Remaining Length of four. Source: MQTT 5.0 §2.1; MQTT 3.1.1 §2.2.
pub(super) const FIXED_HEADER_BYTES_MAX: usize = 5;
