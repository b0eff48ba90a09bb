//! SUBSCRIBE and UNSUBSCRIBE payloads. Source: MQTT 5.0 §3.8, §3.10; MQTT 3.1.1 §3.8, §3.10.

use super::QoS;

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
