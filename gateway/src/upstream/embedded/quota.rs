//! What the whole node may keep: sessions and retained messages, counted over all shards.
//!
//! Plain atomic counters that nobody waits for. Sessions are counted by the shards, which decide
//! when one begins and ends. Retained messages are counted by the storage thread, which alone knows
//! whether a topic has one; shards add what is on its way there, so that together they are never too
//! low.

use std::sync::atomic::{AtomicU64, Ordering};

/// The limits, of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Sessions in memory and stored.
    pub sessions_max: u64,
    /// Topics with a retained message.
    pub retained_messages_max: u64,
    /// Bytes of all retained messages, topic names included.
    pub retained_bytes_max: u64,
}

impl Default for QuotaLimits {
    /// No limits, for tests of other things.
    fn default() -> Self {
        Self {
            sessions_max: u64::MAX,
            retained_messages_max: u64::MAX,
            retained_bytes_max: u64::MAX,
        }
    }
}

/// How many, and how large together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Messages.
    pub messages: u64,
    /// Their bytes and those of their topic names.
    pub bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Quota {
    limits: QuotaLimits,
    sessions: AtomicU64,
    retained: Counts,
    on_their_way: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Quota {
    /// The quota of a node that recovered so many.
    #[must_use]
    pub fn new(limits: QuotaLimits, sessions: u64, retained: Usage) -> Self {
        let quota = Self {
            limits,
            sessions: AtomicU64::new(sessions),
            retained: Counts::default(),
            on_their_way: Counts::default(),
        };
        quota.set_retained(retained);
        quota
    }

    /// Counts a session that begins; false when there are [`QuotaLimits::sessions_max`].
    #[must_use]
    pub fn reserve_session(&self) -> bool {
        let more = |count: u64| (count < self.limits.sessions_max).then_some(count + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A session that was counted is over.
    pub fn release_session(&self) {
        let fewer = |count: u64| Some(count.saturating_sub(1));
        let _ = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// Sessions counted.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether no new session is let in.
    #[must_use]
    pub fn are_sessions_full(&self) -> bool {
        self.sessions() >= self.limits.sessions_max
    }

    /// What the store holds, as of what is folded.
    #[must_use]
    pub fn retained(&self) -> Usage {
        self.retained.load()
    }

    /// The storage thread has folded: this is what the store holds.
    pub fn set_retained(&self, retained: Usage) {
        self.retained.messages.store(retained.messages, Ordering::Release);
        self.retained.bytes.store(retained.bytes, Ordering::Release);
    }

    /// A retained message of `bytes` was appended to a log.
    pub fn retained_appended(&self, bytes: u64) {
        self.on_their_way.messages.fetch_add(1, Ordering::AcqRel);
        self.on_their_way.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// It was folded, and [`Quota::set_retained`] says so.
    pub fn retained_folded(&self, bytes: u64) {
        let Counts { messages, bytes: sum } = &self.on_their_way;
        for (counter, by) in [(messages, 1), (sum, bytes)] {
            let fewer = |count: u64| Some(count.saturating_sub(by));
            let _ = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
        }
    }

    /// Whether a retained message of `bytes` fits even if its topic and those of all on their way
    /// are new.
    #[must_use]
    pub fn has_retained_room(&self, bytes: u64) -> bool {
        // In this order: what is folded meanwhile counts twice, not never.
        let coming = self.on_their_way.load();
        let kept = self.retained();
        let sum = Usage {
            messages: kept.messages.saturating_add(coming.messages),
            bytes: kept.bytes.saturating_add(coming.bytes),
        };
        self.fits(sum, bytes)
    }

    /// Whether a retained message of `bytes` on a new topic fits beside what is stored.
    #[must_use]
    pub fn fits_beside_stored(&self, bytes: u64) -> bool {
        self.fits(self.retained(), bytes)
    }

    fn fits(&self, beside: Usage, bytes: u64) -> bool {
        beside.messages < self.limits.retained_messages_max
            && beside.bytes.saturating_add(bytes) <= self.limits.retained_bytes_max
    }
}

impl Counts {
    fn load(&self) -> Usage {
        Usage {
            messages: self.messages.load(Ordering::Acquire),
            bytes: self.bytes.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_let_in_up_to_the_limit() {
        let limits = QuotaLimits { sessions_max: 2, ..QuotaLimits::default() };
        let quota = Quota::new(limits, 1, Usage::default());
        assert!(quota.reserve_session());
        assert!(quota.are_sessions_full());
        assert!(!quota.reserve_session());
        quota.release_session();
        assert!(quota.reserve_session());
        assert_eq!(quota.sessions(), 2);
    }

    #[test]
    fn retained_messages_count_while_they_are_on_their_way() {
        let limits =
            QuotaLimits { retained_messages_max: 2, retained_bytes_max: 10, ..Default::default() };
        let quota = Quota::new(limits, 0, Usage { messages: 1, bytes: 4 });
        assert!(quota.has_retained_room(6));
        assert!(!quota.has_retained_room(7), "bytes");
        quota.retained_appended(3);
        assert!(!quota.has_retained_room(0), "messages");
        assert!(quota.fits_beside_stored(6));
        quota.set_retained(Usage { messages: 2, bytes: 7 });
        quota.retained_folded(3);
        assert!(!quota.fits_beside_stored(0));
        quota.set_retained(Usage { messages: 1, bytes: 3 });
        assert!(quota.has_retained_room(7));
    }
}
