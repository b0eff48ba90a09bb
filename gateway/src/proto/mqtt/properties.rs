//! Properties of MQTT 5.0 packets. Source: MQTT 5.0 §2.2.2.

use super::encode::{put_binary, put_str};
use super::reader::Reader;
use super::variable_byte_integer::put_variable_byte_integer;
use super::{DecodeError, QoS};

/// A validated property block, as on the wire without its length; empty before 5.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    raw: &'a [u8],
}

/// One property. Source: MQTT 5.0 §2.2.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's own, MQTT 5.0 §2.2.2.2")]
pub enum Property<'a> {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const NONE: Self = Self { raw: &[] };

    /// The block as on the wire, without its length.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// A block whose bytes were validated earlier (stored, or written by [`Property::encode`]).
    #[must_use]
    pub fn from_validated(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// Whether there is no property.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.raw.is_empty()
    }

    /// The properties in the order of the wire, which is significant for User Properties.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> {
        let mut reader = Reader::new(self.raw);
        // A validated block yields no error before its end, where the reader has nothing left.
        std::iter::from_fn(move || Property::decode(&mut reader).ok())
    }
}

impl<'a> Property<'a> {
    /// Reads one property.
    ///
    /// Wire shape: the identifier, then the value. The identifier is a Variable Byte Integer, and
    /// all that exist take one byte. Whether a property may be here, and twice, is for
    /// `property_rules` to say.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::UnknownProperty`]
    /// - [`DecodeError::PropertyValue`]: the value is never allowed.
    /// - [`DecodeError::TopicAliasZero`], [`DecodeError::ResponseTopicInvalid`]: the same.
    /// - what is wrong with a field: past the end, not UTF-8, U+0000.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §2.2.2.2.
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let id = reader.variable_byte_integer()?;
        let id = u8::try_from(id).map_err(|_| DecodeError::UnknownProperty { id })?;
        Ok(match id {
            id::PAYLOAD_FORMAT_INDICATOR => Self::PayloadFormatIndicator(flag(id, reader)?),
            id::MESSAGE_EXPIRY_INTERVAL => Self::MessageExpiryInterval(reader.u32()?),
            id::CONTENT_TYPE => Self::ContentType(reader.str()?),
            id::RESPONSE_TOPIC => Self::ResponseTopic(response_topic(reader)?),
            id::CORRELATION_DATA => Self::CorrelationData(reader.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => {
                Self::SubscriptionIdentifier(above_zero(id, reader.variable_byte_integer()?)?)
            }
            id::SESSION_EXPIRY_INTERVAL => Self::SessionExpiryInterval(reader.u32()?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Self::AssignedClientIdentifier(reader.str()?),
            id::SERVER_KEEP_ALIVE => Self::ServerKeepAlive(reader.u16()?),
            id::AUTHENTICATION_METHOD => Self::AuthenticationMethod(reader.str()?),
            id::AUTHENTICATION_DATA => Self::AuthenticationData(reader.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Self::RequestProblemInformation(flag(id, reader)?),
            id::WILL_DELAY_INTERVAL => Self::WillDelayInterval(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Self::RequestResponseInformation(flag(id, reader)?),
            id::RESPONSE_INFORMATION => Self::ResponseInformation(reader.str()?),
            id::SERVER_REFERENCE => Self::ServerReference(reader.str()?),
            id::REASON_STRING => Self::ReasonString(reader.str()?),
            id::RECEIVE_MAXIMUM => Self::ReceiveMaximum(above_zero(id, reader.u16()?)?),
            id::TOPIC_ALIAS_MAXIMUM => Self::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => match reader.u16()? {
                0 => return Err(DecodeError::TopicAliasZero),
                alias => Self::TopicAlias(alias),
            },
            id::MAXIMUM_QOS => {
                Self::MaximumQos(if flag(id, reader)? { QoS::AtLeastOnce } else { QoS::AtMostOnce })
            }
            id::RETAIN_AVAILABLE => Self::RetainAvailable(flag(id, reader)?),
            id::USER_PROPERTY => Self::UserProperty(reader.str()?, reader.str()?),
            id::MAXIMUM_PACKET_SIZE => Self::MaximumPacketSize(above_zero(id, reader.u32()?)?),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                Self::WildcardSubscriptionAvailable(flag(id, reader)?)
            }
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => {
                Self::SubscriptionIdentifierAvailable(flag(id, reader)?)
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                Self::SharedSubscriptionAvailable(flag(id, reader)?)
            }
            _ => return Err(DecodeError::UnknownProperty { id: u32::from(id) }),
        })
    }

    /// Appends the property: its identifier, then its value. Source: MQTT 5.0 §2.2.2.2.
    ///
    /// # Panics
    ///
    /// When a string or data is longer than 65,535 bytes, or a Subscription Identifier above
    /// 268,435,455: no packet can carry those.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.id());
        match *self {
            Self::PayloadFormatIndicator(flag)
            | Self::RequestProblemInformation(flag)
            | Self::RequestResponseInformation(flag)
            | Self::RetainAvailable(flag)
            | Self::WildcardSubscriptionAvailable(flag)
            | Self::SubscriptionIdentifierAvailable(flag)
            | Self::SharedSubscriptionAvailable(flag) => out.push(u8::from(flag)),
            Self::MaximumQos(qos) => out.push(qos as u8),
            Self::ServerKeepAlive(value)
            | Self::ReceiveMaximum(value)
            | Self::TopicAliasMaximum(value)
            | Self::TopicAlias(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value)
            | Self::MaximumPacketSize(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::SubscriptionIdentifier(value) => put_variable_byte_integer(value as usize, out),
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientIdentifier(text)
            | Self::AuthenticationMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => put_str(text, out),
            Self::CorrelationData(data) | Self::AuthenticationData(data) => put_binary(data, out),
            Self::UserProperty(name, value) => {
                put_str(name, out);
                put_str(value, out);
            }
        }
    }

    /// The identifier. Source: MQTT 5.0 table 2-4.
    #[must_use]
    pub fn id(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => id::PAYLOAD_FORMAT_INDICATOR,
            Self::MessageExpiryInterval(_) => id::MESSAGE_EXPIRY_INTERVAL,
            Self::ContentType(_) => id::CONTENT_TYPE,
            Self::ResponseTopic(_) => id::RESPONSE_TOPIC,
            Self::CorrelationData(_) => id::CORRELATION_DATA,
            Self::SubscriptionIdentifier(_) => id::SUBSCRIPTION_IDENTIFIER,
            Self::SessionExpiryInterval(_) => id::SESSION_EXPIRY_INTERVAL,
            Self::AssignedClientIdentifier(_) => id::ASSIGNED_CLIENT_IDENTIFIER,
            Self::ServerKeepAlive(_) => id::SERVER_KEEP_ALIVE,
            Self::AuthenticationMethod(_) => id::AUTHENTICATION_METHOD,
            Self::AuthenticationData(_) => id::AUTHENTICATION_DATA,
            Self::RequestProblemInformation(_) => id::REQUEST_PROBLEM_INFORMATION,
            Self::WillDelayInterval(_) => id::WILL_DELAY_INTERVAL,
            Self::RequestResponseInformation(_) => id::REQUEST_RESPONSE_INFORMATION,
            Self::ResponseInformation(_) => id::RESPONSE_INFORMATION,
            Self::ServerReference(_) => id::SERVER_REFERENCE,
            Self::ReasonString(_) => id::REASON_STRING,
            Self::ReceiveMaximum(_) => id::RECEIVE_MAXIMUM,
            Self::TopicAliasMaximum(_) => id::TOPIC_ALIAS_MAXIMUM,
            Self::TopicAlias(_) => id::TOPIC_ALIAS,
            Self::MaximumQos(_) => id::MAXIMUM_QOS,
            Self::RetainAvailable(_) => id::RETAIN_AVAILABLE,
            Self::UserProperty(..) => id::USER_PROPERTY,
            Self::MaximumPacketSize(_) => id::MAXIMUM_PACKET_SIZE,
            Self::WildcardSubscriptionAvailable(_) => id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            Self::SubscriptionIdentifierAvailable(_) => id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            Self::SharedSubscriptionAvailable(_) => id::SHARED_SUBSCRIPTION_AVAILABLE,
        }
    }
}

/// A byte that is 0 or 1.
fn flag(id: u8, reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::PropertyValue { id, value: u32::from(value) }),
    }
}

fn above_zero<T: PartialEq + From<u8>>(id: u8, value: T) -> Result<T, DecodeError> {
    if value == T::from(0) { Err(DecodeError::PropertyValue { id, value: 0 }) } else { Ok(value) }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.topic_name() {
        Ok("") | Err(DecodeError::TopicNameWildcard) => Err(DecodeError::ResponseTopicInvalid),
        topic => topic,
    }
}

/// Property identifiers. Source: MQTT 5.0 table 2-4.
pub(super) mod id {
    pub(in super::super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(in super::super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(in super::super) const CONTENT_TYPE: u8 = 0x03;
    pub(in super::super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in super::super) const CORRELATION_DATA: u8 = 0x09;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(in super::super) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(in super::super) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(in super::super) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in super::super) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in super::super) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in super::super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in super::super) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(in super::super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in super::super) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(in super::super) const SERVER_REFERENCE: u8 = 0x1C;
    pub(in super::super) const REASON_STRING: u8 = 0x1F;
    pub(in super::super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in super::super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in super::super) const TOPIC_ALIAS: u8 = 0x23;
    pub(in super::super) const MAXIMUM_QOS: u8 = 0x24;
    pub(in super::super) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in super::super) const USER_PROPERTY: u8 = 0x26;
    pub(in super::super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in super::super) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub(in super::super) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(property: Property<'_>, wire: &[u8]) {
        let mut out = Vec::new();
        property.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(Properties::from_validated(wire).iter().collect::<Vec<_>>(), [property]);
        for cut in 0..wire.len() {
            assert!(Property::decode(&mut Reader::new(&wire[..cut])).is_err(), "cut at {cut}");
        }
    }

    /// MQTT 5.0 table 2-4.
    #[test]
    fn every_property_has_its_identifier_and_type() {
        check(Property::PayloadFormatIndicator(true), &[0x01, 1]);
        check(Property::MessageExpiryInterval(0x0102_0304), &[0x02, 1, 2, 3, 4]);
        check(Property::ContentType("t"), &[0x03, 0, 1, b't']);
        check(Property::ResponseTopic("r/s"), &[0x08, 0, 3, b'r', b'/', b's']);
        check(Property::CorrelationData(&[0, 0xFF]), &[0x09, 0, 2, 0, 0xFF]);
        check(Property::SubscriptionIdentifier(128), &[0x0B, 0x80, 0x01]);
        check(Property::SessionExpiryInterval(u32::MAX), &[0x11, 255, 255, 255, 255]);
        check(Property::AssignedClientIdentifier("c"), &[0x12, 0, 1, b'c']);
        check(Property::ServerKeepAlive(60), &[0x13, 0, 60]);
        check(Property::AuthenticationMethod("m"), &[0x15, 0, 1, b'm']);
        check(Property::AuthenticationData(&[7]), &[0x16, 0, 1, 7]);
        check(Property::RequestProblemInformation(false), &[0x17, 0]);
        check(Property::WillDelayInterval(1), &[0x18, 0, 0, 0, 1]);
        check(Property::RequestResponseInformation(true), &[0x19, 1]);
        check(Property::ResponseInformation("i"), &[0x1A, 0, 1, b'i']);
        check(Property::ServerReference("s"), &[0x1C, 0, 1, b's']);
        check(Property::ReasonString(""), &[0x1F, 0, 0]);
        check(Property::ReceiveMaximum(0x0102), &[0x21, 1, 2]);
        check(Property::TopicAliasMaximum(0), &[0x22, 0, 0]);
        check(Property::TopicAlias(1), &[0x23, 0, 1]);
        check(Property::MaximumQos(QoS::AtLeastOnce), &[0x24, 1]);
        check(Property::RetainAvailable(false), &[0x25, 0]);
        check(Property::UserProperty("k", "v"), &[0x26, 0, 1, b'k', 0, 1, b'v']);
        check(Property::MaximumPacketSize(256), &[0x27, 0, 0, 1, 0]);
        check(Property::WildcardSubscriptionAvailable(true), &[0x28, 1]);
        check(Property::SubscriptionIdentifierAvailable(true), &[0x29, 1]);
        check(Property::SharedSubscriptionAvailable(true), &[0x2A, 1]);
    }

    #[test]
    fn refuses_values_that_are_never_allowed() {
        for (wire, error) in [
            (&[0x01, 2][..], DecodeError::PropertyValue { id: 0x01, value: 2 }),
            (&[0x24, 2], DecodeError::PropertyValue { id: 0x24, value: 2 }),
            (&[0x21, 0, 0], DecodeError::PropertyValue { id: 0x21, value: 0 }),
            (&[0x27, 0, 0, 0, 0], DecodeError::PropertyValue { id: 0x27, value: 0 }),
            (&[0x0B, 0], DecodeError::PropertyValue { id: 0x0B, value: 0 }),
            (&[0x23, 0, 0], DecodeError::TopicAliasZero),
            (&[0x08, 0, 1, b'#'], DecodeError::ResponseTopicInvalid),
            (&[0x08, 0, 0], DecodeError::ResponseTopicInvalid),
            (&[0x1F, 0, 1, 0], DecodeError::NullCharacter),
            (&[0x1F, 0, 1, 0xFF], DecodeError::IllFormedUtf8),
            (&[0x00], DecodeError::UnknownProperty { id: 0 }),
            (&[0x2B, 0], DecodeError::UnknownProperty { id: 0x2B }),
            (&[0x81, 0x02, 0], DecodeError::UnknownProperty { id: 257 }),
        ] {
            assert_eq!(Property::decode(&mut Reader::new(wire)), Err(error), "{wire:?}");
        }
    }
}
