//! The rest of a packet being read. Every read is checked against what is left.

use super::variable_byte_integer::variable_byte_integer;
use super::{DecodeError, PacketId};

/// What is left of the bytes behind a fixed header, or of a property block.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.past_end(count)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.past_end(N)),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two Byte Integer, big endian. Source: MQTT 5.0 §1.5.2; MQTT 3.1.1 §1.5.2.
    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four Byte Integer, big endian. Source: MQTT 5.0 §1.5.3.
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Variable Byte Integer. Source: MQTT 5.0 §1.5.5.
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let Some((value, bytes)) = variable_byte_integer(self.rest)? else {
            return Err(self.past_end(self.rest.len() + 1));
        };
        self.take(bytes)?;
        Ok(value)
    }

    /// Binary Data: a Two Byte Integer length, then as many bytes. Source: MQTT 5.0 §1.5.6.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    /// UTF-8 Encoded String: a Two Byte Integer length, then as many bytes of well-formed UTF-8
    /// without U+0000. Source: MQTT 5.0 §1.5.4; MQTT 3.1.1 §1.5.3.
    pub(super) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let text = utf8(self.binary()?)?;
        if memchr::memchr(0, text.as_bytes()).is_some() {
            return Err(DecodeError::NullCharacter);
        }
        Ok(text)
    }

    /// A Topic Name: a string without wildcards, possibly empty.
    ///
    /// One scan finds U+0000 and both wildcards: none of the three bytes can be a part of a longer
    /// UTF-8 sequence. Source: MQTT 5.0 §4.7; MQTT 3.1.1 §4.7.
    #[inline]
    pub(super) fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        let text = utf8(self.binary()?)?;
        match memchr::memchr3(0, b'+', b'#', text.as_bytes()) {
            None => Ok(text),
            Some(_) => Err(not_a_topic_name(text)),
        }
    }

    /// A Packet Identifier. Source: MQTT 5.0 §2.2.1; MQTT 3.1.1 §2.3.1.
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    /// Refuses what is left behind the last field.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count: saturating_u32(count) }),
        }
    }

    #[cold]
    fn past_end(&self, needed_bytes: usize) -> DecodeError {
        DecodeError::FieldPastEnd {
            needed_bytes: saturating_u32(needed_bytes),
            left_bytes: saturating_u32(self.rest.len()),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::IllFormedUtf8)
}

#[cold]
fn not_a_topic_name(text: &str) -> DecodeError {
    if text.contains('\0') { DecodeError::NullCharacter } else { DecodeError::TopicNameWildcard }
}

fn saturating_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
