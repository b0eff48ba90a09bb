//! Variable Byte Integer: Remaining Length, property lengths, Subscription Identifiers.

use super::DecodeError;

/// The largest value of a Variable Byte Integer, and so the most bytes behind a fixed header.
///
/// Source: MQTT 5.0 §1.5.5; MQTT 3.1.1 §2.2.3.
pub const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// Reads a Variable Byte Integer from the front of `src`.
///
/// Wire shape: 1 to 4 bytes, least significant group first; 7 value bits a byte, and the top bit
/// says that another byte follows.
///
/// Returns the value (0 to 268,435,455) and the bytes it took (1 to 4), or `None` while `src`
/// ends inside the integer: that is no error, read more and call again.
///
/// # Errors
///
/// - [`DecodeError::VariableByteIntegerTooLong`]: the fourth byte says that a fifth follows.
/// - [`DecodeError::VariableByteIntegerNotMinimal`]: fewer bytes would have done.
///
/// # Source
///
/// MQTT 5.0 §1.5.5 [MQTT-1.5.5-1]; MQTT 3.1.1 §2.2.3.
#[inline]
pub fn variable_byte_integer(src: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    match src.first() {
        None => Ok(None),
        Some(&byte) if byte < 0x80 => Ok(Some((u32::from(byte), 1))),
        Some(_) => several_bytes(src),
    }
}

fn several_bytes(src: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in src.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte == 0 {
            return Err(DecodeError::VariableByteIntegerNotMinimal);
        }
        if byte < 0x80 {
            return Ok(Some((value, index + 1)));
        }
    }
    if src.len() < 4 { Ok(None) } else { Err(DecodeError::VariableByteIntegerTooLong) }
}

/// How many bytes `value` takes as a Variable Byte Integer.
#[must_use]
pub fn variable_byte_integer_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends `value` as a Variable Byte Integer.
///
/// # Panics
///
/// When `value` is above [`VARIABLE_BYTE_INTEGER_MAX`]: what may be sent is limited far below.
pub(super) fn put_variable_byte_integer(value: usize, out: &mut Vec<u8>) {
    assert!(value <= VARIABLE_BYTE_INTEGER_MAX as usize, "a length above 268,435,455");
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: u32, wire: &[u8]) {
        let mut out = Vec::new();
        put_variable_byte_integer(value as usize, &mut out);
        assert_eq!(out, wire);
        assert_eq!(variable_byte_integer_bytes(value as usize), wire.len());
        assert_eq!(variable_byte_integer(wire), Ok(Some((value, wire.len()))));
        for cut in 0..wire.len() {
            assert_eq!(variable_byte_integer(&wire[..cut]), Ok(None));
        }
    }

    /// MQTT 5.0 table 1-1.
    #[test]
    fn reads_and_writes_the_bounds_of_each_length() {
        check(0, &[0x00]);
        check(127, &[0x7F]);
        check(128, &[0x80, 0x01]);
        check(16_383, &[0xFF, 0x7F]);
        check(16_384, &[0x80, 0x80, 0x01]);
        check(2_097_151, &[0xFF, 0xFF, 0x7F]);
        check(2_097_152, &[0x80, 0x80, 0x80, 0x01]);
        check(268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]);
    }

    #[test]
    fn refuses_overlong_and_padded() {
        let too_long = Err(DecodeError::VariableByteIntegerTooLong);
        assert_eq!(variable_byte_integer(&[0x80, 0x80, 0x80, 0x80]), too_long);
        assert_eq!(variable_byte_integer(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01]), too_long);
        let padded = Err(DecodeError::VariableByteIntegerNotMinimal);
        assert_eq!(variable_byte_integer(&[0x80, 0x00]), padded);
        assert_eq!(variable_byte_integer(&[0xFF, 0x80, 0x00]), padded);
        assert_eq!(variable_byte_integer(&[0x80, 0x80, 0x80, 0x00]), padded);
    }
}
