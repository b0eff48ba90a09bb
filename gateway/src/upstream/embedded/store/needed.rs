//! What sessions still need of each partition, without looking at all of them.

use crate::proto::partition::{PartitionId, Sequence};
use std::collections::{BTreeMap, HashMap};

/// Reads the cursors out of a session's record and appends them.
pub type CursorsOf = fn(&[u8], &mut Vec<(PartitionId, Sequence)>);

/// How many session cursors lie in each bucket of 16 MiB of each partition.
///
/// A session whose cursor is somewhere in a bucket needs the whole bucket: trimming is by whole
/// segments, so finer would buy nothing. 50 bytes a bucket in use.
#[derive(Debug, Default)]
pub struct Needed {
    buckets: HashMap<PartitionId, BTreeMap<u64, u64>>,
}

const BUCKET_BITS: u32 = 24;

impl Needed {
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

    /// No counted cursor of `partition` lies below; `None` when none is counted.
    #[must_use]
    pub fn lowest(&self, partition: PartitionId) -> Option<Sequence> {
        let (bucket, _) = self.buckets.get(&partition)?.first_key_value()?;
        Some(Sequence(bucket << BUCKET_BITS))
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
}
