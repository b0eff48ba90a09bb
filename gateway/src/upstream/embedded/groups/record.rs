//! A group as it is stored: how far it is, without its members. Those are known from the records of
//! their sessions.

use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::session::Place;

/// Version of this format, the first byte of a record.
const FORMAT_VERSION: u8 = 1;
const PLACE_BYTES: usize = 10;

/// How far a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRecord {
    /// Per partition, from where on nothing was given to members.
    pub next: Vec<Place>,
    /// Messages before that which are not settled.
    pub open: Vec<Place>,
}

impl GroupRecord {
    /// The record's bytes.
    ///
    /// Wire shape, little endian: version; count of `next` (u16) and its places; the places of `open`.
    /// A place is a partition (u16) and a sequence (u64).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 + PLACE_BYTES * (self.next.len() + self.open.len()));
        out.push(FORMAT_VERSION);
        let count = u16::try_from(self.next.len()).expect("partition ids are u16");
        out.extend_from_slice(&count.to_le_bytes());
        for (partition, sequence) in self.next.iter().chain(&self.open) {
            out.extend_from_slice(&partition.0.to_le_bytes());
            out.extend_from_slice(&sequence.0.to_le_bytes());
        }
        out
    }

    /// Reads a record, `None` for one of another format version or a damaged one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (count, rest) = rest.split_first_chunk()?;
        let next_bytes = usize::from(u16::from_le_bytes(*count)) * PLACE_BYTES;
        let (next, open) = rest.split_at_checked(next_bytes)?;
        let is_whole = version == FORMAT_VERSION && open.len().is_multiple_of(PLACE_BYTES);
        is_whole.then(|| Self { next: places(next), open: places(open) })
    }

    /// Whether a message that was given to a member is settled.
    #[must_use]
    pub fn is_settled(&self, place: Place) -> bool {
        let next = self.next.iter().find(|(partition, _)| *partition == place.0);
        next.is_some_and(|(_, next)| place.1 < *next) && !self.open.contains(&place)
    }
}

fn places(bytes: &[u8]) -> Vec<Place> {
    let place = |bytes: &[u8]| {
        let (partition, sequence) = bytes.split_first_chunk()?;
        let sequence = u64::from_le_bytes(sequence.try_into().ok()?);
        Some((PartitionId(u16::from_le_bytes(*partition)), Sequence(sequence)))
    };
    bytes.chunks_exact(PLACE_BYTES).filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: PartitionId = PartitionId(0);
    const P1: PartitionId = PartitionId(1);

    #[test]
    fn reads_back_what_was_written_and_survives_any_cut() {
        let record = GroupRecord {
            next: vec![(P0, Sequence(100)), (P1, Sequence(7))],
            open: vec![(P0, Sequence(50)), (P1, Sequence(6))],
        };
        let bytes = record.encode();
        assert_eq!(GroupRecord::decode(&bytes), Some(record));
        for cut in 0..bytes.len() {
            // A cut between two places leaves a record with fewer open ones.
            let _ = GroupRecord::decode(bytes.get(..cut).expect("cut is inside"));
        }
        assert_eq!(GroupRecord::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn settled_is_what_lies_before_and_is_not_open() {
        let record =
            GroupRecord { next: vec![(P0, Sequence(100))], open: vec![(P0, Sequence(50))] };
        assert!(record.is_settled((P0, Sequence(51))));
        assert!(!record.is_settled((P0, Sequence(50))));
        assert!(!record.is_settled((P0, Sequence(100))));
        assert!(!record.is_settled((P1, Sequence(1))));
    }
}
