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
    /// The owners after the change that is under way.
    coming: Option<Owners>,
    /// Those that have more then.
    takers: Arc<[PartitionId]>,
    /// What that is to become, if its ends are known.
    cut: Option<Takeover>,
    /// Who keeps the session of a client with the name of a topic in each slot.
    homes: Owners,
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
            owners(table, &weights)
        });
        let owners_now = owners(table, &now);
        let pairs = coming.iter().flat_map(|coming: &Owners| coming.iter().zip(&*owners_now));
        let mut takers: Vec<_> = pairs.filter(|(to, from)| to != from).map(|(to, _)| *to).collect();
        takers.sort_unstable();
        takers.dedup();
        Self {
            epoch: table.epoch(),
            owners: owners_now,
            takeovers: takeovers.collect(),
            takers: takers.into(),
            coming,
            cut: table.coming(),
            homes: owners(table, &table.weights_of_homes()),
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

    /// The partition that keeps the session of a client named `client_id`: who had a topic of that name
    /// before anything was taken over, of those that have never given their share away.
    #[must_use]
    pub fn home(&self, client_id: &str) -> PartitionId {
        *self.homes.get(usize::from(Self::slot(client_id))).expect("a slot is below SLOT_COUNT")
    }

    /// The partitions that may have messages of the topic name `topic`, each once: who has it now, who had
    /// it before, and who is about to.
    pub fn holders(&self, topic: &str) -> impl Iterator<Item = PartitionId> {
        self.each_once(Self::slot(topic), self.takeovers.len() + 2)
    }

    /// As [`Ring::holders`], without who is about to have it.
    pub fn former_holders(&self, topic: &str) -> impl Iterator<Item = PartitionId> {
        self.each_once(Self::slot(topic), self.takeovers.len() + 1)
    }

    fn each_once(&self, slot: u16, count: usize) -> impl Iterator<Item = PartitionId> {
        let slot = usize::from(slot);
        let at = move |place: usize| {
            let owners = self.owners_before(place).or(self.coming.as_ref());
            owners.and_then(|owners| owners.get(slot)).copied()
        };
        let all = (0..count).filter_map(move |place| Some((place, at(place)?)));
        all.filter(move |(place, one)| (0..*place).all(|earlier| at(earlier) != Some(*one)))
            .map(|(_, one)| one)
    }

    /// The owners before the takeover numbered `place`; those of now behind the last.
    fn owners_before(&self, place: usize) -> Option<&Owners> {
        if place == self.takeovers.len() {
            return Some(&self.owners);
        }
        self.takeovers.get(place).map(|(_, before)| before)
    }

    /// Compares places of messages of one topic: where the topic was first comes first.
    #[must_use]
    pub fn order(&self, topic: &str, at: (PartitionId, Sequence)) -> (usize, Sequence) {
        let (partition, sequence) = at;
        // What is of nowhere comes before all.
        let is_somewhere = self.holders(topic).any(|holder| holder == partition);
        let slot = Self::slot(topic);
        let is_from_there = |place: &usize| {
            self.moved(*place, slot).is_some_and(|(takeover, _, taker)| {
                taker == partition && takeover.end_in(taker).is_none_or(|end| sequence >= end)
            })
        };
        let came = (0..=self.takeovers.len()).rev().find(is_from_there);
        let before = usize::from(is_somewhere);
        (came.map_or(before, |place| place + 2), sequence)
    }

    /// Whether `topic` is of the share that is held while the change is under way.
    #[must_use]
    pub fn is_held(&self, topic: &str) -> bool {
        self.coming_owner(topic).is_some()
    }

    /// Who is about to have `topic`, if it is of the share that is held.
    #[must_use]
    pub fn coming_owner(&self, topic: &str) -> Option<PartitionId> {
        // Asked of every publish: without a change its topic is not hashed for this.
        let owners = self.coming.as_ref()?;
        let slot = usize::from(Self::slot(topic));
        owners.get(slot).filter(|owner| self.owners.get(slot) != Some(owner)).copied()
    }

    /// A change is under way.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.coming.is_some()
    }

    /// Who is about to take topics over, each once.
    #[must_use]
    pub fn takers(&self) -> &[PartitionId] {
        &self.takers
    }

    /// What was taken over, in order, and what is about to be, if its ends are known.
    pub fn takeovers(&self) -> impl Iterator<Item = &Takeover> {
        self.takeovers.iter().map(|(takeover, _)| takeover).chain(&self.cut)
    }

    /// Whether a message of `topic` at `sequence` of `partition` counts for nobody: the topic had been
    /// taken over when it was stored, and was not back. Publishers that were told of it do not do that.
    #[must_use]
    pub fn is_void(&self, topic: &str, partition: PartitionId, sequence: Sequence) -> bool {
        let is_past =
            |takeover: &Takeover| takeover.end_in(partition).is_some_and(|end| sequence >= end);
        if !self.takeovers.iter().any(|(takeover, _)| is_past(takeover)) {
            return false;
        }
        let slot = Self::slot(topic);
        let mut is_void = false;
        for place in 0..=self.takeovers.len() {
            match self.moved(place, slot) {
                // One that is to come may be called off.
                Some((takeover, giver, _)) if giver == partition => {
                    is_void |= place < self.takeovers.len() && is_past(takeover);
                }
                Some((takeover, _, taker)) if taker == partition => is_void &= !is_past(takeover),
                _ => {}
            }
        }
        is_void
    }

    /// The takeover numbered `place`, who gave `slot`, and who has it since; `None` if it stayed.
    fn moved(&self, place: usize, slot: u16) -> Option<(&Takeover, PartitionId, PartitionId)> {
        let takeover = self.takeovers().nth(place)?;
        let after = self
            .takeovers
            .get(place)
            .map_or(self.coming.as_ref(), |_| self.owners_before(place + 1));
        let slot = usize::from(slot);
        let (giver, taker) = (*self.owners_before(place)?.get(slot)?, *after?.get(slot)?);
        (giver != taker).then_some((takeover, giver, taker))
    }

    /// Whether `partition` has given topics away, and had some of them stored at `sequence` or later.
    #[must_use]
    pub fn has_given(&self, partition: PartitionId, sequence: Sequence) -> bool {
        let removed =
            |takeover: &Takeover| takeover.partition == partition && takeover.weight_before > 0;
        let mut removals = self.takeovers.iter().filter(|(takeover, _)| removed(takeover));
        let end = removals.next_back().and_then(|(takeover, _)| takeover.end_in(partition));
        end.is_some_and(|end| sequence < end)
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

    /// A table in which `partition` has come to `weight`, and the ring while that is held. Streams are cut
    /// at `end`.
    fn change(table: &RingTable, partition: u16, weight: u16, end: u64) -> (Ring, RingTable) {
        let change = Change { partition: PartitionId(partition), weight, hold_s: 9 };
        let cut = table.changing(change).unwrap().cut(|_| Some(Sequence(end))).unwrap();
        (Ring::new(&cut), cut.taken_over().unwrap())
    }

    fn three_members() -> RingTable {
        let member = |partition| Member {
            partition: PartitionId(partition),
            weight: 1,
            sub_cluster: format!("c{partition}"),
        };
        RingTable::new(1, (0..3).map(member).collect()).unwrap()
    }

    fn some_topics() -> Vec<String> {
        (0..20_000).map(|number| format!("t/{number}")).collect()
    }

    fn add(table: &RingTable, partition: u16, end: u64) -> (Ring, RingTable) {
        let name = format!("c{partition}");
        let joined = table.joined([name.as_str()].into_iter()).unwrap();
        let joined = joined.unwrap_or_else(|| table.clone());
        assert_eq!(Ring::new(&joined).owners, Ring::new(table).owners);
        change(&joined, partition, 1, end)
    }

    /// The numbers: three members, a fourth comes, a fifth after it. Only their shares move.
    #[test]
    fn what_was_taken_over_is_known_and_only_the_share_of_the_new_member_moves() {
        let first = three_members();
        let before = Ring::new(&first);
        let (held, table) = add(&first, 3, 100);
        let after = Ring::new(&table);
        let topics = some_topics();
        assert_eq!(held.takers(), [PartitionId(3)]);
        let mut moved = 0;
        for topic in &topics {
            let (from, to) = (before.owner(topic), after.owner(topic));
            assert_eq!(held.owner(topic), from, "nothing moves before the change is complete");
            assert_eq!(held.coming_owner(topic), (from != to).then_some(to));
            assert_eq!((after.home(topic), after.is_held(topic)), (from, false));
            let holders: Vec<_> = after.holders(topic).collect();
            assert_eq!(held.holders(topic).collect::<Vec<_>>(), holders);
            assert_eq!(held.former_holders(topic).collect::<Vec<_>>(), [from]);
            assert!(!held.is_void(topic, from, Sequence(100)), "it may be called off");
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

        let last = Ring::new(&add(&table, 4, 150).1);
        for topic in &topics {
            assert_eq!(last.home(topic), before.owner(topic));
            let (one, other) = (after.owner(topic), last.owner(topic));
            assert!(one == other || other == PartitionId(4));
            let is_void = last.is_void(topic, one, Sequence(150));
            assert_eq!(is_void, one != other, "{topic}");
        }
        let thrice = topics.iter().map(|topic| last.holders(topic).count());
        assert_eq!(thrice.max(), Some(3));
    }

    /// The numbers: of four members one gives its share away. Only that moves, each topic to who has it in a
    /// ring without that member, a third to each.
    #[test]
    fn only_the_share_of_a_member_that_leaves_moves_and_to_who_has_it_without_it() {
        const LEAVES: PartitionId = PartitionId(3);
        let first = three_members();
        let without = Ring::new(&first);
        let four = add(&first, 3, 100).1;
        let before = Ring::new(&four);
        let (held, table) = change(&four, 3, 0, 200);
        let after = Ring::new(&table);
        assert_eq!(held.takers(), [0, 1, 2].map(PartitionId));
        let mut taken = BTreeMap::new();
        for moved in before.moves(&after) {
            assert_eq!(moved.from, LEAVES);
            *taken.entry(moved.to.0).or_insert(0) += 1;
        }
        assert_eq!(taken, [(0, 1_405), (1, 1_415), (2, 1_361)].into());
        assert_eq!(after.owners, without.owners);
        let has_given = |ring: &Ring, of, at| ring.has_given(PartitionId(of), Sequence(at));
        assert!(has_given(&after, 3, 199) && !has_given(&after, 3, 200));
        assert!(!has_given(&before, 3, 199) && !has_given(&after, 0, 199));
        let mut moved = 0;
        for topic in &some_topics() {
            let (from, to) = (before.owner(topic), after.owner(topic));
            assert_eq!((held.owner(topic), after.home(topic)), (from, without.owner(topic)));
            assert_eq!(held.coming_owner(topic), (from != to).then_some(to));
            let at = |partition, sequence| (partition, Sequence(sequence));
            if from == to {
                assert!(from != LEAVES && !after.is_void(topic, from, Sequence(999)));
                assert_eq!(after.order(topic, at(from, 999)).0, 1);
                continue;
            }
            moved += 1;
            assert_eq!(from, LEAVES);
            // It was there before its share moved the first time.
            assert_eq!(after.holders(topic).collect::<Vec<_>>(), [to, from]);
            assert_eq!(after.former_holders(topic).collect::<Vec<_>>(), [to, from]);
            let is_void = |ring: &Ring, partition, of: &[u64]| {
                of.iter()
                    .map(|at| ring.is_void(topic, partition, Sequence(*at)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(is_void(&before, to, &[99, 100, 199, 200]), [false, true, true, true]);
            for ring in [&held, &after] {
                assert_eq!(is_void(ring, to, &[99, 100, 199, 200]), [false, true, true, false]);
                let order = [at(to, 99), at(from, 150), at(to, 200)];
                let order = order.map(|at| ring.order(topic, at).0);
                assert_eq!(order, [1, 2, 3], "{topic}");
            }
            assert_eq!(is_void(&held, from, &[100, 199, 200]), [false; 3], "it may be called off");
            assert_eq!(is_void(&after, from, &[100, 199, 200]), [false, false, true]);
        }
        assert_eq!(moved, 5_093);

        // It has its share again: the same topics.
        let (held, table) = change(&table, 3, 1, 300);
        let again = Ring::new(&table);
        assert_eq!((again.owners.clone(), held.takers()), (before.owners, [LEAVES].as_slice()));
        let topic = some_topics().into_iter().find(|topic| again.owner(topic) == LEAVES).unwrap();
        let is_void = |at| again.is_void(&topic, LEAVES, Sequence(at));
        assert_eq!([199, 200, 299, 300].map(is_void), [false, true, true, false]);
        assert_eq!(again.order(&topic, (LEAVES, Sequence(300))).0, 4);
    }

    /// Who leaves keeps no sessions: those of others stay where they are.
    #[test]
    fn sessions_stay_where_they_are() {
        let first = three_members();
        let before = Ring::new(&first);
        let left = change(&first, 1, 0, 5).1;
        let after = Ring::new(&left);
        for client in &some_topics() {
            let (was, is) = (before.home(client), after.home(client));
            assert!(is == was || was == PartitionId(1));
            assert_eq!(is, after.owner(client));
        }
        let back = Ring::new(&change(&left, 1, 1, 9).1);
        assert_eq!(back.homes, after.homes);
        assert_eq!(Ring::new(&add(&left, 3, 9).1).homes, after.homes);
    }
}
