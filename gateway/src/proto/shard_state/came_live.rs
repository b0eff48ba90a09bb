//! Retained messages of QoS 0 that came live, where such messages have no place in a partition.
//!
//! One that is published while a subscription's question for retained messages is under way reaches it
//! live, and is what the question finds, too. QoS 0 is at most once: it is not sent again.
//! Source: MQTT 5.0 §4.3.1.

use crate::proto::record::Message;
use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CameLive {
    /// What the last were, the newest at the end; at most [`CAME_LIVE_MAX`].
    hashes: VecDeque<u64>,
    /// How many came ever.
    count: u64,
    /// Seeded: nobody can make one message look like another.
    hasher: ahash::RandomState,
}

impl CameLive {
    /// How many came so far. A subscription made now gets those behind them live.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// One with the RETAIN flag reaches those who are subscribed.
    pub(super) fn note(&mut self, message: &Message<'_>) {
        if self.hashes.len() >= CAME_LIVE_MAX {
            self.hashes.pop_front();
        }
        self.hashes.push_back(self.hash(message));
        self.count += 1;
    }

    /// Whether a message like this one came behind the first `count`.
    ///
    /// It need not be the same: who publishes the same once more has it sent to a new subscription once,
    /// not twice.
    pub(super) fn has_since(&self, count: u64, message: &Message<'_>) -> bool {
        let since = usize::try_from(self.count - count).unwrap_or(usize::MAX);
        if since == 0 {
            return false;
        }
        let hash = self.hash(message);
        self.hashes.iter().rev().take(since).any(|came| *came == hash)
    }

    /// Properties may be in another order where they were stored.
    fn hash(&self, message: &Message<'_>) -> u64 {
        self.hasher.hash_one((message.topic, message.payload))
    }
}

/// Messages remembered; of what came earlier, a subscription may get some a second time.
const CAME_LIVE_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mqtt::QoS;
    use crate::proto::time::Timestamp;

    fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Message<'a> {
        Message {
            publisher: "p",
            qos: QoS::AtMostOnce,
            retain: true,
            ledger: false,
            received_at: Timestamp(1),
            expiry_interval_s: None,
            packet_id: None,
            topic,
            properties: &[],
            payload,
        }
    }

    #[test]
    fn what_came_is_known_from_when_it_came() {
        let mut came = CameLive::default();
        let before = came.count();
        came.note(&message("a", b"x"));
        let behind = came.count();
        assert!(came.has_since(before, &message("a", b"x")));
        assert!(!came.has_since(behind, &message("a", b"x")));
        for other in [message("a", b"y"), message("b", b"x"), message("ax", b"")] {
            assert!(!came.has_since(before, &other), "{other:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut came = CameLive::default();
        for number in 0..=CAME_LIVE_MAX {
            came.note(&message("a", &number.to_le_bytes()));
        }
        assert_eq!(came.hashes.len(), CAME_LIVE_MAX);
        assert!(!came.has_since(0, &message("a", &0_usize.to_le_bytes())), "the first of too many");
        assert!(came.has_since(0, &message("a", &1_usize.to_le_bytes())));
    }
}
