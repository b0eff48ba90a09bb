//! Properties of MQTT 5.0 packets. Source: MQTT 5.0 §2.2.2.

use super::QoS;

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
}
