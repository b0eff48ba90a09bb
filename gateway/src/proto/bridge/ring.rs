//! Which partition owns a topic: rendezvous hashing, computed once into a table of slots.
//!
//! A topic's hash names one of 16,384 slots; a slot belongs to the member that scores highest for
//! it. A lookup is one hash and one load, however many members there are. A member that joins wins
//! its share of slots from all others and nothing else changes hands; one that leaves loses its
//! slots to all others. Weight `w` is `w` scores a slot instead of one, which gives exactly `w`
//! shares and, unlike the usual formula with a logarithm, the same bits on every machine.
//!
//! Hash, slots and scores are the format of the stored data: a gateway that computed anything else
//! would write to partitions where nobody looks. Changing them takes a new version of
//! [`RingTable`].

use super::ring_table::RingTable;
use crate::proto::partition::PartitionId;
use xxhash_rust::xxh3::xxh3_64;

/// The owner of every topic at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    epoch: u64,
    /// The owner of each slot.
    owners: Box<[PartitionId]>,
}

/// Some topics' change of owner from one ring to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// See [`Ring::slot`].
    pub slot: u16,
    /// The owner before.
    pub from: PartitionId,
    /// The owner after.
    pub to: PartitionId,
}

impl Ring {
    /// How many slots there are. With 16 members of equal weight each has 1,024 on average and
    /// strays from that by some 3 %. Costs 32 KiB a ring.
    pub const SLOT_COUNT: u16 = 1 << SLOT_BITS;

    /// The ring that follows from `table`. Takes one hash a slot and unit of weight: some 7 ms
    /// for 16 members, too long for a shard.
    #[must_use]
    pub fn new(table: &RingTable) -> Self {
        let owner = |slot| {
            let scores = table.members().iter().map(|member| {
                let best = (0..member.weight).map(|share| score(slot, member.partition, share));
                // The number decides between equal scores, so there is no second opinion.
                (best.max(), member.partition)
            });
            scores.max().expect("a table has members").1
        };
        Self { epoch: table.epoch(), owners: (0..Self::SLOT_COUNT).map(owner).collect() }
    }

    /// Of the table.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The slot of the topic name `topic`, the same for every ring.
    #[must_use]
    pub fn slot(topic: &str) -> u16 {
        // The upper bits: 14 of them fit.
        (xxh3_64(topic.as_bytes()) >> (64 - SLOT_BITS)) as u16
    }

    /// The partition that owns the topic name `topic`.
    #[must_use]
    pub fn owner(&self, topic: &str) -> PartitionId {
        self.slot_owner(Self::slot(topic))
    }

    /// The partition that owns `slot`.
    ///
    /// # Panics
    ///
    /// When `slot` is not below [`Ring::SLOT_COUNT`]: no topic has such a slot.
    #[must_use]
    pub fn slot_owner(&self, slot: u16) -> PartitionId {
        *self.owners.get(usize::from(slot)).expect("a slot is below SLOT_COUNT")
    }

    /// What changes hands from this ring to `next`, in order of slots.
    pub fn moves<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = SlotMove> + 'a {
        let pairs = (0..Self::SLOT_COUNT).zip(self.owners.iter().zip(&next.owners));
        pairs.filter(|(_, (from, to))| from != to).map(|(slot, (&from, &to))| SlotMove {
            slot,
            from,
            to,
        })
    }
}

/// How much the `share`-th part of `partition` wants `slot`.
fn score(slot: u16, partition: PartitionId, share: u16) -> u64 {
    let [slot, partition, share] = [slot, partition.0, share].map(u16::to_le_bytes);
    xxh3_64(&[slot[0], slot[1], partition[0], partition[1], share[0], share[1]])
}

const SLOT_BITS: u32 = 14;

#[cfg(test)]
mod tests {
    use super::super::ring_table::Member;
    use super::*;
    use std::collections::BTreeMap;

    fn ring(weights: &[(u16, u16)]) -> Ring {
        let members = weights.iter().map(|&(partition, weight)| Member {
            partition: PartitionId(partition),
            weight,
            sub_cluster: "a".to_owned(),
        });
        Ring::new(&RingTable::new(1, members.collect()).unwrap())
    }

    fn equal(partitions: std::ops::Range<u16>) -> Ring {
        ring(&partitions.map(|partition| (partition, 1)).collect::<Vec<_>>())
    }

    /// How many slots each partition owns.
    fn counts(ring: &Ring) -> BTreeMap<u16, u32> {
        let mut counts = BTreeMap::new();
        for slot in 0..Ring::SLOT_COUNT {
            *counts.entry(ring.slot_owner(slot).0).or_default() += 1;
        }
        counts
    }

    /// These values are stored data's: they must never change.
    #[test]
    fn slots_and_owners_are_the_same_for_ever() {
        let ring = equal(0..16);
        let got = ["a", "sensors/42/temp", "$SYS/broker", "\u{e9}"]
            .map(|topic| (Ring::slot(topic), ring.owner(topic).0));
        assert_eq!(got, [(14_769, 11), (1_073, 1), (10_056, 3), (15_845, 5)]);
    }

    #[test]
    fn equal_members_have_equal_parts() {
        let counts = counts(&equal(0..16));
        assert_eq!(counts.len(), 16);
        for (partition, count) in counts {
            assert!((922..=1_126).contains(&count), "partition {partition} has {count} of 16,384");
        }
    }

    #[test]
    fn weights_are_parts() {
        let counts = counts(&ring(&[(0, 1), (1, 2), (2, 5)]));
        for (partition, part) in [(0, 2_048), (1, 4_096), (2, 10_240)] {
            let count = counts[&partition];
            assert!(count.abs_diff(part) < part / 20 + 60, "partition {partition}: {count}");
        }
    }

    /// Only the share of the new member moves, and all of it to the new member.
    #[test]
    fn a_new_member_takes_its_share_and_nothing_else_moves() {
        for members in [1, 2, 3, 16, 63] {
            let (before, after) = (equal(0..members), equal(0..members + 1));
            let moves: Vec<_> = before.moves(&after).collect();
            assert!(moves.iter().all(|moved| moved.to == PartitionId(members)));
            let share = f64::from(Ring::SLOT_COUNT) / f64::from(members + 1);
            let ratio = moves.len() as f64 / share;
            assert!((0.85..1.15).contains(&ratio), "{members}: {} of {share}", moves.len());
        }
    }

    #[test]
    fn a_member_that_leaves_gives_up_its_slots_and_nothing_else_moves() {
        let (before, after) = (equal(0..16), ring(&(1..16).map(|p| (p, 1)).collect::<Vec<_>>()));
        let moves: Vec<_> = before.moves(&after).collect();
        assert!(moves.iter().all(|moved| moved.from == PartitionId(0)));
        assert_eq!(moves.len() as u32, counts(&before)[&0]);
        let receivers: std::collections::BTreeSet<_> =
            moves.iter().map(|moved| moved.to.0).collect();
        assert_eq!(receivers.len(), 15, "every other member gets a part");
    }

    #[test]
    fn more_weight_takes_slots_and_gives_none() {
        let (before, after) = (ring(&[(0, 1), (1, 1)]), ring(&[(0, 1), (1, 3)]));
        assert!(before.moves(&after).all(|moved| moved.to == PartitionId(1)));
        assert_eq!(before.moves(&before).count(), 0);
    }
}
