//! Interest: which shards of a node may hold a filter that matches a topic.
//!
//! One table for the node, a 64-bit word a slot, a bit a shard. A filter has one slot, by the hash
//! of its literal prefix; a topic looks at the slots of all filters that could match it. Two
//! filters may share a slot, so the answer may name a shard in vain, but it never leaves one out.
//!
//! This is the one thing under `proto` that shards share. It uses the atomics of `std`, which are
//! memory and no I/O: no lock, no waiting, and one thread may drive all shards in a simulation.
//!
//! # Memory ordering
//!
//! A shard that starts to follow a topic sets its bit first and then asks the shard of each
//! partition for what it missed. That request travels through a channel, whose send and receive
//! synchronise, so the bit is set before the request is seen; a publishing shard that has
//! answered it reads the bit in every later look by coherence alone. What it read before the
//! answer may lack the bit, and those messages are inside the replay. So no message is lost
//! between the two, whatever the ordering of the operation that sets the bit. It is `SeqCst` all
//! the same, because a subscription is rare and a SUBACK that a client passes on by ways outside
//! the node should find the bit in place. Looking is `Acquire`, a plain load on x86.
//!
//! A bit is cleared after the shard's last filter of the slot is gone; a look that still sees it
//! costs a message that matches nothing. Bits of other shards in the same word are safe because
//! both changes are single read-modify-write operations.

use super::filter::{has_wildcard, literal_prefix};
use super::seeded_hash;
use crate::proto::output::ShardIndex;
use ahash::RandomState;
use hashbrown::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shards of a node: the bits of a word.
pub const SHARDS_MAX: usize = 64;

/// Slots by default (`interest_slots`): 8 MiB a node. With a million filters about six in ten
/// slots are in use; more slots mean fewer messages passed to another shard in vain.
pub const INTEREST_SLOTS_DEFAULT: usize = 1 << 20;

/// Slots at most, so that a slot number fits the owners' counts.
pub const INTEREST_SLOTS_MAX: usize = 1 << 30;

/// Levels of a literal prefix that count, which bounds what a topic of many levels costs: a
/// wildcard filter with a longer one is entered by its first levels.
const PREFIX_LEVELS_MAX: usize = 16;

/// The interest of all shards of a node.
#[derive(Debug)]
pub struct InterestTable {
    /// A power of two, then [`Self::everything_slot`].
    words: Box<[AtomicU64]>,
    hash: RandomState,
}

/// The part of an [`InterestTable`] that one shard writes: its bit, and how many of its filters
/// hold it in each slot. There is one owner a shard.
///
/// Memory: 9 to 18 bytes for each slot in which the shard has a filter.
#[derive(Debug)]
pub struct InterestOwner {
    table: Arc<InterestTable>,
    shard_bit: u64,
    counts: HashMap<u32, u32, RandomState>,
}

impl InterestTable {
    /// A table without interest. `slots` is rounded up to a power of two, at most
    /// [`INTEREST_SLOTS_MAX`]; `hash_seed` as for a subscription tree.
    #[must_use]
    pub fn new(slots: usize, hash_seed: u64) -> Self {
        let slots = slots.clamp(1, INTEREST_SLOTS_MAX).next_power_of_two();
        let words = (0..=slots).map(|_| AtomicU64::new(0)).collect();
        Self { words, hash: seeded_hash(hash_seed) }
    }

    /// The shards that may hold a filter that matches `topic`: bit `s` for shard `s`.
    ///
    /// Reads one slot for the topic as a whole and one for each of its first
    /// [`PREFIX_LEVELS_MAX`] levels.
    #[must_use]
    pub fn interested(&self, topic: &str) -> u64 {
        // A filter that starts with a wildcard matches no topic that starts with `$`: MQTT 5.0 and
        // MQTT 3.1.1 [MQTT-4.7.2-1].
        let mut shards = if topic.starts_with('$') { 0 } else { self.load(self.everything_slot()) };
        let mut chain = CHAIN_START;
        for (depth, level) in topic.split('/').enumerate() {
            chain = self.chain(chain, level);
            if depth < PREFIX_LEVELS_MAX {
                shards |= self.load(self.prefix_slot(chain));
            }
        }
        shards | self.load(self.literal_slot(chain))
    }

    /// Bytes allocated.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.words.len() * size_of::<AtomicU64>()
    }

    /// The slot of a valid `filter`.
    fn slot(&self, filter: &str) -> u32 {
        let prefix = |levels_max| {
            literal_prefix(filter)
                .take(levels_max)
                .fold(CHAIN_START, |chain, level| self.chain(chain, level))
        };
        if !has_wildcard(filter) {
            return self.literal_slot(prefix(usize::MAX));
        }
        if filter.starts_with(['+', '#']) {
            return self.everything_slot();
        }
        self.prefix_slot(prefix(PREFIX_LEVELS_MAX))
    }

    /// The hash of some levels from the hash of all but the last: the prefixes of a topic take
    /// one pass, however many separators it has.
    fn chain(&self, chain: u64, level: &str) -> u64 {
        self.hash.hash_one((chain, level))
    }

    /// The slot of wildcard filters whose prefix has this hash.
    fn prefix_slot(&self, chain: u64) -> u32 {
        self.masked(chain)
    }

    /// The slot of the literal filter with this hash: other bits than for a prefix.
    fn literal_slot(&self, chain: u64) -> u32 {
        self.masked(chain >> 32)
    }

    /// The slot of filters that start with a wildcard, which every topic looks at: of its own,
    /// since sharing it would make another filter's shard interested in everything.
    fn everything_slot(&self) -> u32 {
        u32::try_from(self.words.len() - 1).expect("bounded by INTEREST_SLOTS_MAX")
    }

    fn masked(&self, hash: u64) -> u32 {
        let mask = self.words.len() as u64 - 2;
        u32::try_from(hash & mask).expect("bounded by INTEREST_SLOTS_MAX")
    }

    fn load(&self, slot: u32) -> u64 {
        self.word(slot).load(Ordering::Acquire)
    }

    fn word(&self, slot: u32) -> &AtomicU64 {
        self.words.get(slot as usize).expect("slots are masked to the length of the table")
    }
}

/// The hash of no levels.
const CHAIN_START: u64 = 0;
const _: () = assert!(INTEREST_SLOTS_MAX < u32::MAX as usize && INTEREST_SLOTS_DEFAULT > 1);

impl InterestOwner {
    /// The part of `shard` in `table`, without filters.
    ///
    /// # Panics
    ///
    /// When `shard` is not below [`SHARDS_MAX`], which the configuration rules out.
    #[must_use]
    pub fn new(table: Arc<InterestTable>, shard: ShardIndex) -> Self {
        assert!(usize::from(shard.0) < SHARDS_MAX, "a node has at most {SHARDS_MAX} shards");
        let counts = HashMap::with_hasher(table.hash.clone());
        Self { table, shard_bit: 1 << shard.0, counts }
    }

    /// Notes a valid filter that the shard's tree did not hold before. Messages that match it
    /// reach the shard from now on.
    pub fn add(&mut self, filter: &str) {
        let slot = self.table.slot(filter);
        let count = self.counts.entry(slot).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.table.word(slot).fetch_or(self.shard_bit, Ordering::SeqCst);
        }
    }

    /// Forgets a filter that was added and that the shard's tree holds no more.
    pub fn remove(&mut self, filter: &str) {
        let slot = self.table.slot(filter);
        let Some(count) = self.counts.get_mut(&slot) else {
            unreachable!("a filter is removed as often as it was added");
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&slot);
            self.table.word(slot).fetch_and(!self.shard_bit, Ordering::SeqCst);
        }
    }

    /// The table of the node.
    #[must_use]
    pub fn table(&self) -> &InterestTable {
        &self.table
    }
}

#[cfg(test)]
mod tests;
