//! What sessions still need of each partition, without looking at all of them.

use crate::proto::partition::{PartitionId, Sequence};
use std::collections::{BTreeMap, HashMap};

/// Reads the cursors out of a session's record and appends them, or returns the shard whose floor
/// stands for them.
pub type CursorsOf = fn(&[u8], &mut Vec<(PartitionId, Sequence)>) -> Option<u16>;

/// How many session cursors lie in each bucket of 16 MiB of each partition.
///
/// A session whose cursor is somewhere in a bucket needs the whole bucket: trimming is by whole
/// segments, so finer would buy nothing. 50 bytes a bucket in use.
///
/// An online session that follows its shard's floor needs what lies above the floor. Its record has
/// the cursors of when it was written, perhaps long ago: counting those would keep the log for as
/// long as the session stays online.
#[derive(Debug, Default)]
pub struct Needed {
    buckets: HashMap<PartitionId, BTreeMap<u64, u64>>,
    floors: HashMap<u16, Floor>,
    sessions: u64,
}

/// Of one shard.
#[derive(Debug, Default)]
struct Floor {
    /// Stored sessions that follow it.
    followers: u64,
    /// As recorded last in this boot, empty before.
    cursors: Vec<(PartitionId, Sequence)>,
}

impl Floor {
    /// Everything, until it is recorded: a session may follow before that.
    fn of(&self, partition: PartitionId) -> Sequence {
        let cursor = self.cursors.iter().find(|(of, _)| *of == partition);
        cursor.map_or(Sequence::ZERO, |(_, cursor)| *cursor)
    }
}

const BUCKET_BITS: u32 = 24;

impl Needed {
    /// A session is stored that follows the floor of a shard, or has these cursors.
    pub fn add_session(&mut self, follows: Option<u16>, cursors: &[(PartitionId, Sequence)]) {
        self.sessions += 1;
        follows.into_iter().for_each(|shard| self.add_follower(shard));
        for (partition, cursor) in cursors {
            self.add(*partition, *cursor);
        }
    }

    /// Takes back a session that was counted.
    pub fn remove_session(&mut self, follows: Option<u16>, cursors: &[(PartitionId, Sequence)]) {
        self.sessions = self.sessions.saturating_sub(1);
        follows.into_iter().for_each(|shard| self.remove_follower(shard));
        for (partition, cursor) in cursors {
            self.remove(*partition, *cursor);
        }
    }

    /// Stored sessions.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        self.sessions
    }

    /// Counts a cursor.
    pub fn add(&mut self, partition: PartitionId, cursor: Sequence) {
        let buckets = self.buckets.entry(partition).or_default();
        *buckets.entry(cursor.0 >> BUCKET_BITS).or_default() += 1;
    }

    /// Takes back a cursor that was counted.
    pub fn remove(&mut self, partition: PartitionId, cursor: Sequence) {
        let Some(buckets) = self.buckets.get_mut(&partition) else { return };
        let bucket = cursor.0 >> BUCKET_BITS;
        if let Some(count) = buckets.get_mut(&bucket) {
            *count -= 1;
            if *count == 0 {
                buckets.remove(&bucket);
            }
        }
    }

    /// Counts a session that follows the floor of `shard`.
    pub fn add_follower(&mut self, shard: u16) {
        self.floors.entry(shard).or_default().followers += 1;
    }

    /// Takes back a follower that was counted.
    pub fn remove_follower(&mut self, shard: u16) {
        if let Some(floor) = self.floors.get_mut(&shard) {
            floor.followers = floor.followers.saturating_sub(1);
        }
    }

    /// The floor of `shard` is recorded.
    pub fn set_floor(&mut self, shard: u16, cursors: Vec<(PartitionId, Sequence)>) {
        self.floors.entry(shard).or_default().cursors = cursors;
    }

    /// A new boot: nobody follows the floors of the last one.
    pub fn forget_floors(&mut self) {
        self.floors.values_mut().for_each(|floor| floor.cursors.clear());
    }

    /// No counted cursor of `partition` and no floor in use lies below; `None` when there is
    /// neither.
    #[must_use]
    pub fn lowest(&self, partition: PartitionId) -> Option<Sequence> {
        let buckets = self.buckets.get(&partition);
        let bucket = buckets.and_then(|buckets| Some(buckets.first_key_value()?.0 << BUCKET_BITS));
        let followed = self.floors.values().filter(|floor| floor.followers > 0);
        let floors = followed.map(|floor| floor.of(partition));
        floors.chain(bucket.map(Sequence)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bucket_counts_until_its_last_session_has_left() {
        let (mut needed, partition) = (Needed::default(), PartitionId(1));
        let low = Sequence::embedded(1, 5 << BUCKET_BITS);
        let high = Sequence::embedded(2, 0);
        assert_eq!(needed.lowest(partition), None);
        needed.add(partition, high);
        needed.add(partition, Sequence(low.0 + 7));
        needed.add(partition, Sequence(low.0 + 8));
        assert_eq!(needed.lowest(partition), Some(low));
        needed.remove(partition, Sequence(low.0 + 7));
        assert_eq!(needed.lowest(partition), Some(low));
        needed.remove(partition, Sequence(low.0 + 8));
        assert_eq!(needed.lowest(partition), Some(high));
        assert_eq!(needed.lowest(PartitionId(2)), None);
    }

    #[test]
    fn followers_need_what_lies_above_the_floor_and_only_while_there_are_any() {
        let (mut needed, partition) = (Needed::default(), PartitionId(1));
        needed.set_floor(3, vec![(partition, Sequence(90))]);
        assert_eq!(needed.lowest(partition), None);
        needed.add_follower(3);
        needed.add_follower(5);
        assert_eq!(needed.lowest(partition), Some(Sequence::ZERO), "5 has recorded none yet");
        needed.set_floor(5, vec![(partition, Sequence(70))]);
        assert_eq!(needed.lowest(partition), Some(Sequence(70)));
        needed.remove_follower(5);
        assert_eq!(needed.lowest(partition), Some(Sequence(90)));
        needed.forget_floors();
        assert_eq!(needed.lowest(partition), Some(Sequence::ZERO));
        needed.remove_follower(3);
        assert_eq!(needed.lowest(partition), None);
    }
}
