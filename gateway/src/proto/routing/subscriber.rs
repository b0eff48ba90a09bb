//! One entry of the subscription tree: who gets a message, and how.

use crate::proto::mqtt::{QoS, RetainHandling, SubscriptionOptions};

/// Who subscribed to a filter, with what options.
///
/// `(kind, session)` names a subscriber; it has at most one entry a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// A number of the caller's: the place of a session, or of a shared group, in its slab.
    pub session: u32,
    /// Subscription Identifier, 0 for none (the protocol forbids 0). Source: MQTT 5.0 §3.8.2.1.2.
    pub identifier: u32,
    /// What `session` names.
    pub kind: SubscriberKind,
    /// Subscription Options.
    pub options: PackedOptions,
}

const _: () = assert!(size_of::<Subscriber>() == 12, "a million of these must stay small");

/// What the number of a [`Subscriber`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SubscriberKind {
    /// A session of its own.
    Session,
    /// A shared subscription group. Source: MQTT 5.0 §4.8.2.
    Group,
}

/// [`SubscriptionOptions`] in one byte.
///
/// Shape: the byte of SUBSCRIBE, so bits 0-1 Maximum QoS, 2 No Local, 3 Retain As Published,
/// 4-5 Retain Handling, 6-7 zero. Source: MQTT 5.0 §3.8.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedOptions(u8);

const QOS_MASK: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u32 = 4;

impl PackedOptions {
    /// Maximum QoS.
    #[must_use]
    pub fn qos(self) -> QoS {
        match self.0 & QOS_MASK {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            // Built from `SubscriptionOptions` only, so 3 does not occur.
            _ => QoS::ExactlyOnce,
        }
    }

    /// No Local.
    #[must_use]
    pub fn no_local(self) -> bool {
        self.0 & NO_LOCAL != 0
    }

    /// Retain As Published.
    #[must_use]
    pub fn retain_as_published(self) -> bool {
        self.0 & RETAIN_AS_PUBLISHED != 0
    }

    /// Retain Handling.
    #[must_use]
    pub fn retain_handling(self) -> RetainHandling {
        match self.0 >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            _ => RetainHandling::DoNotSend,
        }
    }
}

impl From<SubscriptionOptions> for PackedOptions {
    fn from(options: SubscriptionOptions) -> Self {
        let mut packed = options.qos as u8;
        packed |= (options.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        if options.no_local {
            packed |= NO_LOCAL;
        }
        if options.retain_as_published {
            packed |= RETAIN_AS_PUBLISHED;
        }
        Self(packed)
    }
}

impl From<PackedOptions> for SubscriptionOptions {
    fn from(packed: PackedOptions) -> Self {
        Self {
            qos: packed.qos(),
            no_local: packed.no_local(),
            retain_as_published: packed.retain_as_published(),
            retain_handling: packed.retain_handling(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_options_unpacks_as_packed() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for retain_handling in [
                RetainHandling::SendAtSubscribe,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ] {
                for flags in 0..4 {
                    let options = SubscriptionOptions {
                        qos,
                        no_local: flags & 1 != 0,
                        retain_as_published: flags & 2 != 0,
                        retain_handling,
                    };
                    assert_eq!(SubscriptionOptions::from(PackedOptions::from(options)), options);
                }
            }
        }
    }

    #[test]
    fn options_are_packed_as_on_the_wire() {
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
        };
        assert_eq!(PackedOptions::from(options), PackedOptions(0b0010_1110));
    }
}
