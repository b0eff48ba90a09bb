//! A hash table of slab numbers; the keys stay in the slab.

use hashbrown::HashTable;

/// A set of `u32`, found by a hash and a comparison that the caller supplies.
///
/// It is split into parts by bits of the hash. A part that grows rehashes only its own keys, so
/// the pause is spread over many insertions: filling a tree with a million filters, the slowest
/// insertion took about 1 ms with 256 parts and 6 to 9 ms with 64 (`benches/routing.rs`).
#[derive(Debug)]
pub(super) struct IndexTable {
    parts: [HashTable<u32>; PARTS],
}

const PARTS: usize = 256;
/// hashbrown finds the bucket by the low bits and compares the top seven: the part uses others.
const PART_SHIFT: u32 = 48;
const _: () = assert!(PARTS.is_power_of_two() && PART_SHIFT + PARTS.trailing_zeros() <= 64 - 7);

impl IndexTable {
    pub(super) fn new() -> Self {
        Self { parts: std::array::from_fn(|_| HashTable::new()) }
    }

    /// The number with this hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.part(hash).find(hash, |&index| is_it(index)).copied()
    }

    /// Adds a number that is not in the table; `hash_of` hashes the key of any number in it.
    pub(super) fn insert(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        self.part_mut(hash).insert_unique(hash, index, |&other| hash_of(other));
    }

    /// Takes out `index`, which is in the table under `hash`.
    pub(super) fn remove(&mut self, hash: u64, index: u32) {
        match self.part_mut(hash).find_entry(hash, |&other| other == index) {
            Ok(entry) => {
                entry.remove();
            }
            Err(_) => unreachable!("a key is removed under the hash it was inserted with"),
        }
    }

    /// Bytes allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.parts.iter().map(HashTable::allocation_size).sum()
    }

    fn part(&self, hash: u64) -> &HashTable<u32> {
        self.parts.get(part_of(hash)).expect("masked to the number of parts")
    }

    fn part_mut(&mut self, hash: u64) -> &mut HashTable<u32> {
        self.parts.get_mut(part_of(hash)).expect("masked to the number of parts")
    }
}

fn part_of(hash: u64) -> usize {
    (hash >> PART_SHIFT) as usize & (PARTS - 1)
}
