//! Which properties a packet may carry, and which of them more than once.
//!
//! Source: MQTT 5.0 table 2-4 and the property sections of each packet.

use super::properties::id;
use super::reader::Reader;
use super::{DecodeError, Properties, Property};

/// A set of properties, by identifier; the largest identifier is 0x2A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PropertySet(u64);

impl PropertySet {
    const EMPTY: Self = Self(0);

    /// Of CONNECT.
    pub(super) const CONNECT: Self = Self::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
        id::REQUEST_PROBLEM_INFORMATION,
        id::REQUEST_RESPONSE_INFORMATION,
        id::RECEIVE_MAXIMUM,
        id::TOPIC_ALIAS_MAXIMUM,
        id::USER_PROPERTY,
        id::MAXIMUM_PACKET_SIZE,
    ]);
    /// Of a Will.
    pub(super) const WILL: Self = Self::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::WILL_DELAY_INTERVAL,
        id::USER_PROPERTY,
    ]);
    /// Of CONNACK.
    pub(super) const CONNACK: Self = Self::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::ASSIGNED_CLIENT_IDENTIFIER,
        id::SERVER_KEEP_ALIVE,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
        id::RESPONSE_INFORMATION,
        id::SERVER_REFERENCE,
        id::REASON_STRING,
        id::RECEIVE_MAXIMUM,
        id::TOPIC_ALIAS_MAXIMUM,
        id::MAXIMUM_QOS,
        id::RETAIN_AVAILABLE,
        id::USER_PROPERTY,
        id::MAXIMUM_PACKET_SIZE,
        id::WILDCARD_SUBSCRIPTION_AVAILABLE,
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        id::SHARED_SUBSCRIPTION_AVAILABLE,
    ]);
    /// Of PUBLISH. A client does not send Subscription Identifiers, but that is another error.
    pub(super) const PUBLISH: Self = Self::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::SUBSCRIPTION_IDENTIFIER,
        id::TOPIC_ALIAS,
        id::USER_PROPERTY,
    ]);
    /// Of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(super) const ACKNOWLEDGEMENT: Self = Self::of(&[id::REASON_STRING, id::USER_PROPERTY]);
    /// Of SUBSCRIBE.
    pub(super) const SUBSCRIBE: Self = Self::of(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);
    /// Of UNSUBSCRIBE.
    pub(super) const UNSUBSCRIBE: Self = Self::of(&[id::USER_PROPERTY]);
    /// Of DISCONNECT. A server does not send Session Expiry Interval, but that is another error.
    pub(super) const DISCONNECT: Self = Self::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::SERVER_REFERENCE,
        id::REASON_STRING,
        id::USER_PROPERTY,
    ]);
    /// Of AUTH.
    pub(super) const AUTH: Self = Self::of(&[
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
        id::REASON_STRING,
        id::USER_PROPERTY,
    ]);

    /// One Subscription Identifier for each subscription that matches: MQTT 5.0 §3.3.2.3.8.
    const REPEATABLE_IN_PUBLISH: Self = Self::of(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);
    const REPEATABLE: Self = Self::of(&[id::USER_PROPERTY]);

    const fn of(ids: &[u8]) -> Self {
        let mut bits = 0;
        let mut rest = ids;
        while let [id, tail @ ..] = rest {
            bits |= 1 << *id;
            rest = tail;
        }
        Self(bits)
    }

    pub(super) fn contains(self, id: u8) -> bool {
        self.0 & Self::bit(id) != 0
    }

    fn insert(&mut self, id: u8) {
        self.0 |= Self::bit(id);
    }

    fn bit(id: u8) -> u64 {
        1_u64.checked_shl(u32::from(id)).unwrap_or(0)
    }

    fn repeatable(self) -> Self {
        if self == Self::PUBLISH { Self::REPEATABLE_IN_PUBLISH } else { Self::REPEATABLE }
    }
}

/// Reads a property block and validates it against the properties its packet may carry.
///
/// Wire shape: a Variable Byte Integer with the bytes of the block, then the properties.
///
/// Returns the block and the set of properties in it.
///
/// # Errors
///
/// - [`DecodeError::PropertyNotAllowed`], [`DecodeError::PropertyTwice`]
/// - [`DecodeError::AuthenticationDataWithoutMethod`]
/// - those of `Property::decode`.
///
/// # Source
///
/// MQTT 5.0 §2.2.2.
pub(super) fn read_properties<'a>(
    reader: &mut Reader<'a>,
    allowed: PropertySet,
) -> Result<(Properties<'a>, PropertySet), DecodeError> {
    let bytes = reader.variable_byte_integer()?;
    let raw = reader.take(bytes as usize)?;
    let mut block = Reader::new(raw);
    let mut seen = PropertySet::EMPTY;
    while !block.is_empty() {
        let id = Property::decode(&mut block)?.id();
        if !allowed.contains(id) {
            return Err(DecodeError::PropertyNotAllowed { id });
        }
        if seen.contains(id) && !allowed.repeatable().contains(id) {
            return Err(DecodeError::PropertyTwice { id });
        }
        seen.insert(id);
    }
    if seen.contains(id::AUTHENTICATION_DATA) && !seen.contains(id::AUTHENTICATION_METHOD) {
        return Err(DecodeError::AuthenticationDataWithoutMethod);
    }
    Ok((Properties::from_validated(raw), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: PropertySet, wire: &[u8], expected: Result<usize, DecodeError>) {
        let read = read_properties(&mut Reader::new(wire), allowed);
        assert_eq!(read.map(|(block, _)| block.iter().count()), expected, "{wire:?}");
    }

    #[test]
    fn a_property_of_another_packet_is_refused() {
        let connect = PropertySet::CONNECT;
        check(connect, &[2, 0x17, 1], Ok(1));
        check(connect, &[3, 0x13, 0, 1], Err(DecodeError::PropertyNotAllowed { id: 0x13 }));
        check(PropertySet::WILL, &[5, 0x18, 0, 0, 0, 1], Ok(1));
        check(PropertySet::UNSUBSCRIBE, &[2, 0x0B, 1], {
            Err(DecodeError::PropertyNotAllowed { id: 0x0B })
        });
    }

    #[test]
    fn only_some_properties_may_repeat() {
        let user_twice = [10, 0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0];
        check(PropertySet::UNSUBSCRIBE, &user_twice, Ok(2));
        check(PropertySet::PUBLISH, &[4, 0x0B, 1, 0x0B, 2], Ok(2));
        let twice = |id| Err(DecodeError::PropertyTwice { id });
        check(PropertySet::SUBSCRIBE, &[4, 0x0B, 1, 0x0B, 2], twice(0x0B));
        check(PropertySet::CONNECT, &[4, 0x17, 1, 0x17, 1], twice(0x17));
    }

    #[test]
    fn the_block_ends_where_its_length_says() {
        check(PropertySet::CONNECT, &[0, 0xFF], Ok(0));
        let past_end =
            |needed_bytes, left_bytes| Err(DecodeError::FieldPastEnd { needed_bytes, left_bytes });
        check(PropertySet::CONNECT, &[3, 0x17, 1], past_end(3, 2));
        check(PropertySet::CONNECT, &[1, 0x17, 1], past_end(1, 0));
        check(PropertySet::CONNECT, &[], past_end(1, 0));
    }

    #[test]
    fn authentication_data_needs_a_method() {
        let missing = Err(DecodeError::AuthenticationDataWithoutMethod);
        check(PropertySet::AUTH, &[4, 0x16, 0, 1, 7], missing);
        check(PropertySet::AUTH, &[8, 0x16, 0, 1, 7, 0x15, 0, 1, b'm'], Ok(2));
    }
}
