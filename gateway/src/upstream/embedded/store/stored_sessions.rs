//! Which client ids may have a stored session: a filter that every shard can look into, so that a
//! CONNECT of a client of whom nothing is stored does not have to ask the storage thread.
//!
//! A byte counts the client ids that fall into it: those with a session in the store, and the records
//! of sessions that are on their way there. A shard counts a record when it appends it; the storage
//! thread, which alone knows whether it replaced one, takes it back or lets it stand when it folds
//! it. So the count of a client id is never zero while anything of it is stored or will be. It may
//! be above zero for nothing, when ids share a byte: that costs a question.

use std::sync::atomic::{AtomicU8, Ordering};

/// See the module. Its memory is touched where sessions fall: at most a byte a slot, for all shards.
#[derive(Debug)]
pub struct StoredSessions {
    counts: Box<[AtomicU8]>,
}

/// A count that got here stays: how many fall into this byte is not known any more.
const MANY: u8 = u8::MAX;

/// Bytes where nobody says how many.
const SLOTS_DEFAULT: usize = 1_024;

impl StoredSessions {
    /// An empty filter of `slots` bytes, rounded up to a power of two.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        // Zeroed in one piece, so that a page costs nothing until a session falls into it.
        let zeroed = vec![0_u8; slots.max(1).next_power_of_two()];
        Self { counts: zeroed.into_iter().map(AtomicU8::new).collect() }
    }

    /// Whether a session of `client_id` may be stored, or on its way there; false is certain, on the
    /// shard that appends the records of this client.
    #[must_use]
    pub fn may_have(&self, client_id: &str) -> bool {
        self.count(client_id).load(Ordering::Relaxed) > 0
    }

    /// A record of the session is on its way to the store, or is there.
    pub fn add(&self, client_id: &str) {
        self.change(client_id, |count| count.saturating_add(1));
    }

    /// One that was added is gone, or was found to replace another.
    ///
    /// # Panics
    ///
    /// When none was added: others in the same byte would be taken for unknown.
    pub fn remove(&self, client_id: &str) {
        self.change(client_id, |count| {
            assert!(count > 0, "a session is removed only after it was added");
            if count == MANY { MANY } else { count - 1 }
        });
    }

    fn change(&self, client_id: &str, change: impl Fn(u8) -> u8) {
        // Relaxed: who must see a count was there when it rose. A shard adds before it asks, and the
        // storage thread only lowers what it raised.
        let changed = |count| Some(change(count));
        let _ = self.count(client_id).fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    fn count(&self, client_id: &str) -> &AtomicU8 {
        let hash = xxhash_rust::xxh3::xxh3_64(client_id.as_bytes());
        // Not the low bits alone: they choose the shard.
        let place = (hash >> 16) & (self.counts.len() as u64 - 1);
        let place = usize::try_from(place).expect("below the length");
        self.counts.get(place).expect("masked to the length")
    }
}

impl Default for StoredSessions {
    fn default() -> Self {
        Self::new(SLOTS_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_was_added_until_it_is_gone() {
        let stored = StoredSessions::default();
        assert!(!stored.may_have("a"));
        stored.add("a");
        stored.add("a");
        stored.remove("a");
        assert!(stored.may_have("a"), "one is left");
        stored.remove("a");
        assert!(!stored.may_have("a"));
    }

    #[test]
    fn a_count_that_is_full_stays() {
        let stored = StoredSessions::new(1);
        for _ in 0..300 {
            stored.add("a");
        }
        for _ in 0..300 {
            stored.remove("b");
        }
        assert!(stored.may_have("c"), "how many fall into the one byte is not known any more");
    }
}
