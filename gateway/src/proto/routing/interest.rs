//! Interest: which shards of a node may hold a filter that matches a topic.
//!
//! One table for the node, a bit a shard in each slot; slots are 8 bits wide for up to 8 shards, and
//! up to 64 for 64. A filter has one slot, by the hash
//! of its literal prefix; a topic looks at the slots of all filters that could match it. Two
//! filters may share a slot, so the answer may name a shard in vain, but it never leaves one out.
//!
//! This is the one thing under `proto` that shards share. It uses the atomics of `std`, which are
//! memory and no I/O: a look takes no lock, and one thread may drive all shards in a simulation.
//!
//! # Memory ordering
//!
//! A shard that starts to follow a topic sets its bit first and then asks the shard of each
//! partition for what it missed. That request travels through a channel, whose send and receive
//! synchronise, so the bit (and the region it lies in) is there before the request is seen; a publishing shard that has
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Shards of a node: the bits of a word.
pub const SHARDS_MAX: usize = 64;

/// Slots a region by default (`interest_slots`): 1 MiB for up to 8 shards, 8 MiB for 64. With a million literal filters about six in
/// ten are in use; more slots mean fewer messages passed to another shard in vain.
pub const INTEREST_SLOTS_DEFAULT: usize = 1 << 20;

/// Slots a region at most, so that a region and a slot in it fit four bytes.
pub const INTEREST_SLOTS_MAX: usize = 1 << Slot::INDEX_BITS;

/// Levels of a literal prefix that count, which bounds what a topic of many levels costs: a
/// wildcard filter with a longer one is entered by its first levels.
const PREFIX_LEVELS_MAX: usize = 8;

/// The interest of all shards of a node.
///
/// Prefixes have a region for each number of levels, apart from literal filters: all topics below
/// `site` look at the slot of `site`, so were it shared with a million other filters, one of them
/// would draw every message of the site to its shard. A region of prefixes is allocated when the
/// first filter needs it (with two shards at it, one waits for the zeroing of the memory, once in
/// the life of the process), and until then it costs a look nothing.
#[derive(Debug)]
pub struct InterestTable {
    literals: Region,
    /// By levels of the prefix, less one.
    prefixes: [OnceLock<Region>; PREFIX_LEVELS_MAX],
    /// Filters that start with a wildcard.
    everything: AtomicU64,
    /// Of every region; a power of two.
    slots: usize,
    /// Bits of a slot: a power of two from 8 to 64, at least one a shard.
    slot_bits: u32,
    hash: RandomState,
}

type Region = Box<[AtomicU64]>;

/// The part of an [`InterestTable`] that one shard writes: its bit, and how many of its filters
/// hold it in each slot. There is one owner a shard.
///
/// Memory: 10 to 21 bytes for each slot in which the shard has a filter.
#[derive(Debug)]
pub struct InterestOwner {
    table: Arc<InterestTable>,
    shard_bit: u64,
    counts: HashMap<Slot, u32, RandomState>,
}

/// A slot of any region: the region in the upper bits (0 literal filters, 1 and up the levels of a
/// prefix, the highest filters that start with a wildcard), its place there in the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot(u32);

impl Slot {
    const INDEX_BITS: u32 = 28;
    const EVERYTHING: Self = Self(u32::MAX << Self::INDEX_BITS);

    fn new(region: usize, index: usize) -> Self {
        let slot = (region << Self::INDEX_BITS) | index;
        Self(u32::try_from(slot).expect("regions and slots are bounded by named limits"))
    }

    fn region(self) -> usize {
        (self.0 >> Self::INDEX_BITS) as usize
    }

    fn index(self) -> usize {
        (self.0 & !(u32::MAX << Self::INDEX_BITS)) as usize
    }
}

const _: () = assert!(PREFIX_LEVELS_MAX < (u32::MAX >> Slot::INDEX_BITS) as usize);

impl InterestTable {
    /// A table without interest for a node of `shard_count` shards. `slots` is rounded up to a
    /// power of two, at most [`INTEREST_SLOTS_MAX`]; `hash_seed` as for a subscription tree.
    #[must_use]
    pub fn new(shard_count: u16, slots: usize, hash_seed: u64) -> Self {
        let slot_bits = u32::from(shard_count).next_power_of_two().clamp(8, u64::BITS);
        let slots_a_word = (u64::BITS / slot_bits) as usize;
        let slots = slots.clamp(slots_a_word, INTEREST_SLOTS_MAX).next_power_of_two();
        Self {
            literals: region(slots / slots_a_word),
            prefixes: [const { OnceLock::new() }; PREFIX_LEVELS_MAX],
            everything: AtomicU64::new(0),
            slots,
            slot_bits,
            hash: seeded_hash(hash_seed),
        }
    }

    /// The shards that may hold a filter that matches `topic`: bit `s` for shard `s`.
    ///
    /// Reads one slot for the topic as a whole and one for each of its first
    /// `PREFIX_LEVELS_MAX` levels at which some wildcard filter of the node begins.
    #[must_use]
    pub fn interested(&self, topic: &str) -> u64 {
        // A filter that starts with a wildcard matches no topic that starts with `$`: MQTT 5.0 and
        // MQTT 3.1.1 [MQTT-4.7.2-1].
        let mut shards =
            if topic.starts_with('$') { 0 } else { self.everything.load(Ordering::Acquire) };
        let mut chain = CHAIN_START;
        let mut prefixes = self.prefixes.iter();
        for level in topic.split('/') {
            chain = self.chain(chain, level);
            if let Some(region) = prefixes.next().and_then(OnceLock::get) {
                shards |= self.look(region, self.index(chain));
            }
        }
        shards | self.look(&self.literals, self.index(chain))
    }

    /// Bytes allocated.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let regions = 1 + self.prefixes.iter().filter_map(OnceLock::get).count();
        regions * self.slots * (self.slot_bits / u8::BITS) as usize
    }

    /// The slot of a valid `filter`.
    fn slot(&self, filter: &str) -> Slot {
        if filter.starts_with(['+', '#']) {
            return Slot::EVERYTHING;
        }
        let is_literal = !has_wildcard(filter);
        let levels_max = if is_literal { usize::MAX } else { PREFIX_LEVELS_MAX };
        let (levels, chain) = literal_prefix(filter)
            .take(levels_max)
            .fold((0, CHAIN_START), |(levels, chain), level| {
                (levels + 1, self.chain(chain, level))
            });
        Slot::new(if is_literal { 0 } else { levels }, self.index(chain))
    }

    /// The word of a slot and how far up in it the slot begins; allocates its region when this is
    /// the first.
    fn slot_word(&self, slot: Slot) -> (&AtomicU64, u32) {
        if slot == Slot::EVERYTHING {
            return (&self.everything, 0);
        }
        let Some(prefix) = slot.region().checked_sub(1) else {
            return self.word(&self.literals, slot.index());
        };
        let prefixes = self.prefixes.get(prefix).expect("a prefix counts PREFIX_LEVELS_MAX levels");
        let words = self.literals.len();
        self.word(prefixes.get_or_init(|| region(words)), slot.index())
    }

    /// The hash of some levels from the hash of all but the last: the prefixes of a topic take
    /// one pass, however many separators it has.
    fn chain(&self, chain: u64, level: &str) -> u64 {
        self.hash.hash_one((chain, level))
    }

    fn index(&self, chain: u64) -> usize {
        usize::try_from(chain & (self.slots as u64 - 1)).expect("less than the number of slots")
    }

    /// The word of slot `index` and how far up in it the slot begins.
    fn word<'a>(&self, region: &'a Region, index: usize) -> (&'a AtomicU64, u32) {
        let slots_a_word = (u64::BITS / self.slot_bits) as usize;
        let word = region.get(index / slots_a_word);
        let place = u32::try_from(index % slots_a_word).expect("at most eight slots a word");
        (word.expect("indexes are masked to the slots of a region"), place * self.slot_bits)
    }

    fn look(&self, region: &Region, index: usize) -> u64 {
        let (word, shift) = self.word(region, index);
        (word.load(Ordering::Acquire) >> shift) & (u64::MAX >> (u64::BITS - self.slot_bits))
    }
}

fn region(words: usize) -> Region {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// The hash of no levels.
const CHAIN_START: u64 = 0;

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
            let (word, shift) = self.table.slot_word(slot);
            word.fetch_or(self.shard_bit << shift, Ordering::SeqCst);
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
            let (word, shift) = self.table.slot_word(slot);
            word.fetch_and(!(self.shard_bit << shift), Ordering::SeqCst);
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
