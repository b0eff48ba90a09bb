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

use super::ring_change::Takeover;
use super::ring_table::{Member, RingTable};
use crate::proto::partition::{PartitionId, Sequence};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The owner of every topic at one epoch, and who had it before. Clones share what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    epoch: u64,
    /// The owner of each slot.
    owners: Owners,
    /// What was taken over, in order, each with the owners before it.
    takeovers: Arc<[(Takeover, Owners)]>,
    /// The owners after the change that is under way, and who will have more then.
    coming: Option<(PartitionId, Owners)>,
}

/// The owner of each slot.
type Owners = Arc<[PartitionId]>;

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

    /// The ring that follows from `table`. Takes one hash a slot and unit of weight, and that again for
    /// each takeover: some 7 ms for 16 members, too long for a shard.
    #[must_use]
    pub fn new(table: &RingTable) -> Self {
        let weights = |place| table.weights_before(place);
        let now = weights(table.takeovers().len());
        let takeovers = table.takeovers().iter().enumerate();
        let takeovers =
            takeovers.map(|(place, takeover)| (takeover.clone(), owners(table, &weights(place))));
        let coming = table.change().map(|change| {
            let of_change = |(member, weight): (&Member, &u16)| {
                if member.partition == change.partition { change.weight } else { *weight }
            };
            let weights: Vec<u16> = table.members().iter().zip(&now).map(of_change).collect();
            (change.partition, owners(table, &weights))
        });
        Self {
            epoch: table.epoch(),
            owners: owners(table, &now),
            takeovers: takeovers.collect(),
            coming,
        }
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

    /// The partition that owned the topic name `topic` at first, before anything was taken over.
    #[must_use]
    pub fn first_owner(&self, topic: &str) -> PartitionId {
        let owners = self.takeovers.first().map_or(&self.owners, |(_, before)| before);
        *owners.get(usize::from(Self::slot(topic))).expect("a slot is below SLOT_COUNT")
    }

    /// The partitions that may have messages of the topic name `topic`: who has it now, who had it
    /// before, and who is about to.
    pub fn holders(&self, topic: &str) -> impl Iterator<Item = PartitionId> {
        let slot = usize::from(Self::slot(topic));
        let now = self.owners.get(slot);
        let before = self.takeovers.iter().filter_map(move |(_, before)| before.get(slot));
        let coming = self.coming.as_ref().and_then(|(_, owners)| owners.get(slot));
        // A topic moves to a partition that had nothing, so the same ones stand side by side.
        let mut last = None;
        let all = before.chain(now).chain(coming).copied();
        all.filter(move |owner| last.replace(*owner) != Some(*owner))
    }

    /// Compares places of messages of one topic: where the topic was first comes first.
    #[must_use]
    pub fn order(&self, topic: &str, at: (PartitionId, Sequence)) -> (usize, Sequence) {
        let (partition, sequence) = at;
        let place = self.holders(topic).position(|holder| holder == partition);
        // What is of nowhere comes before all.
        (place.map_or(0, |place| place + 1), sequence)
    }

    /// Whether `topic` is of the share that is held while the change is under way.
    #[must_use]
    pub fn is_held(&self, topic: &str) -> bool {
        // Asked of every publish: without a change its topic is not hashed for this.
        self.coming.as_ref().is_some_and(|(_, owners)| {
            let slot = usize::from(Self::slot(topic));
            owners.get(slot) != self.owners.get(slot)
        })
    }

    /// Who is about to take topics over.
    #[must_use]
    pub fn taker(&self) -> Option<PartitionId> {
        self.coming.as_ref().map(|(partition, _)| *partition)
    }

    /// What was taken over, in order.
    pub fn takeovers(&self) -> impl Iterator<Item = &Takeover> {
        self.takeovers.iter().map(|(takeover, _)| takeover)
    }

    /// Whether a message of `topic` at `sequence` of `partition` counts for nobody: the topic had been
    /// taken over when it was stored. Publishers that were told of it do not do that.
    #[must_use]
    pub fn is_void(&self, topic: &str, partition: PartitionId, sequence: Sequence) -> bool {
        let is_past =
            |takeover: &Takeover| takeover.end_in(partition).is_some_and(|end| sequence >= end);
        if !self.takeovers.iter().any(|(takeover, _)| is_past(takeover)) {
            return false;
        }
        let slot = usize::from(Self::slot(topic));
        let mut after = self.takeovers.iter().skip(1).map(|(_, before)| before);
        self.takeovers.iter().any(|(takeover, before)| {
            let after = after.next().unwrap_or(&self.owners);
            is_past(takeover)
                && before.get(slot) == Some(&partition)
                && after.get(slot) != Some(&partition)
        })
    }

    /// What changes hands from this ring to `next`, in order of slots.
    pub fn moves<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = SlotMove> + 'a {
        let pairs = (0..Self::SLOT_COUNT).zip(self.owners.iter().zip(&*next.owners));
        pairs.filter(|(_, (from, to))| from != to).map(|(slot, (&from, &to))| SlotMove {
            slot,
            from,
            to,
        })
    }
}

/// The owner of each slot when the members have these weights.
fn owners(table: &RingTable, weights: &[u16]) -> Owners {
    let owner = |slot| {
        let scores = table.members().iter().zip(weights).map(|(member, weight)| {
            let best = (0..*weight).map(|share| score(slot, member.partition, share));
            // The number decides between equal scores, so there is no second opinion. Without weight
            // there is no score, which is lower than any.
            (best.max(), member.partition)
        });
        scores.max().expect("a table has members").1
    };
    (0..Ring::SLOT_COUNT).map(owner).collect()
}

/// How much the `share`-th part of `partition` wants `slot`.
fn score(slot: u16, partition: PartitionId, share: u16) -> u64 {
    let [slot, partition, share] = [slot, partition.0, share].map(u16::to_le_bytes);
    xxh3_64(&[slot[0], slot[1], partition[0], partition[1], share[0], share[1]])
}

const SLOT_BITS: u32 = 14;

#[cfg(test)]
mod tests {
    use super::super::ring_change::Change;
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

    /// The numbers: three members, a fourth comes, a fifth after it. Only their shares move.
    #[test]
    fn what_was_taken_over_is_known_and_only_the_share_of_the_new_member_moves() {
        let member = |partition, weight| Member {
            partition: PartitionId(partition),
            weight,
            sub_cluster: format!("c{partition}"),
        };
        let first = RingTable::new(1, (0..3).map(|one| member(one, 1)).collect()).unwrap();
        let before = Ring::new(&first);
        let take = |table: &RingTable, partition, end| {
            let name = format!("c{partition}");
            let joined = table.joined([name.as_str()].into_iter()).unwrap().unwrap();
            assert_eq!(before_all(&Ring::new(&joined)), before_all(&Ring::new(table)));
            let change = Change { partition: PartitionId(partition), weight: 1, hold_s: 9 };
            let held = joined.changing(change).unwrap();
            (Ring::new(&held), held.taken_over(|_| Some(Sequence(end))).unwrap())
        };
        let (held, table) = take(&first, 3, 100);
        let after = Ring::new(&table);
        let topics: Vec<String> = (0..20_000).map(|number| format!("t/{number}")).collect();
        let mut moved = 0;
        for topic in &topics {
            let (from, to) = (before.owner(topic), after.owner(topic));
            assert_eq!(held.owner(topic), from, "nothing moves before the change is complete");
            assert_eq!(held.is_held(topic), from != to);
            assert_eq!((after.first_owner(topic), after.is_held(topic)), (from, false));
            let holders: Vec<_> = after.holders(topic).collect();
            assert_eq!(held.holders(topic).collect::<Vec<_>>(), holders);
            if from == to {
                assert_eq!(holders, [from]);
                assert!(!after.is_void(topic, from, Sequence(100)));
            } else {
                moved += 1;
                assert_eq!((to, holders), (PartitionId(3), vec![from, to]));
                assert!(!after.is_void(topic, from, Sequence(99)));
                assert!(after.is_void(topic, from, Sequence(100)));
                assert!(!after.is_void(topic, to, Sequence(100)));
            }
        }
        // A quarter of 16,384 slots and of 20,000 topics is 4,096 and 5,000.
        assert_eq!((before.moves(&after).count(), moved), (4_181, 5_093));

        let last = Ring::new(&take(&table, 4, 50).1);
        for topic in &topics {
            assert_eq!(last.first_owner(topic), before.owner(topic));
            let (one, other) = (after.owner(topic), last.owner(topic));
            assert!(one == other || other == PartitionId(4));
            let is_void = last.is_void(topic, one, Sequence(50));
            assert_eq!(is_void, one != other, "{topic}");
        }
        let thrice = topics.iter().map(|topic| last.holders(topic).count());
        assert_eq!(thrice.max(), Some(3));
    }

    fn before_all(ring: &Ring) -> Owners {
        ring.owners.clone()
    }
}
