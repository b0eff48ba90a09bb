//! How a ring comes to another: a member of weight 0 that takes over its share.
//!
//! ```text
//! member of weight 0 ──▶ change: its share is held ──▶ takeover: it has its weight, and the share
//!                                   └────── called off: as before
//! ```
//! Each arrow is one write of the ring's key, with an epoch of its own: whoever looks sees one of the
//! three. What becomes of messages meanwhile is in ARCHITECTURE.md, "Ring change".

use super::ring_table::number;
use crate::proto::partition::{PartitionId, Sequence};
use std::fmt::Write as _;

/// A change under way: the share of a member is appended nowhere until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The member that is to have a share; it has weight 0 so far.
    pub partition: PartitionId,
    /// The weight it is to have: 1 to [`super::ring_table::RingTable::WEIGHT_MAX`].
    pub weight: u16,
    /// Seconds after which gateways call it off if nothing has come of it: 1 to
    /// [`Change::HOLD_MAX_S`].
    pub hold_s: u16,
}

impl Change {
    /// The longest time for which the share may be held, seconds.
    pub const HOLD_MAX_S: u16 = 300;

    /// `change 2 weight 1 hold 30`
    pub(super) fn decode(line: &str) -> Option<Self> {
        let (partition, rest) = line.strip_prefix("change ")?.split_once(" weight ")?;
        let (weight, hold) = rest.split_once(" hold ")?;
        let change = Self {
            partition: PartitionId(u16::try_from(number(partition)?).ok()?),
            weight: u16::try_from(number(weight)?).ok()?,
            hold_s: u16::try_from(number(hold)?).ok()?,
        };
        (1..=Self::HOLD_MAX_S).contains(&change.hold_s).then_some(change)
    }

    pub(super) fn encode(&self, out: &mut String) {
        let Self { partition, weight, hold_s } = self;
        writeln!(out, "change {} weight {weight} hold {hold_s}", partition.0)
            .expect("writing to a string cannot fail");
    }
}

/// A change that is complete: from here on the member has its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Who took over. It had nothing before.
    pub partition: PartitionId,
    /// Of each partition that gave topics away, the first sequence that is none of theirs any more: what
    /// is stored there later under such a topic counts for nobody. In order of the partitions.
    pub ends: Vec<(PartitionId, Sequence)>,
}

impl Takeover {
    /// Where the share ends in `partition`, if that gave topics away.
    #[must_use]
    pub fn end_in(&self, partition: PartitionId) -> Option<Sequence> {
        self.ends.iter().find(|(of, _)| *of == partition).map(|(_, end)| *end)
    }

    /// `takeover 2 ends 0:1235 1:89`
    pub(super) fn decode(line: &str) -> Option<Self> {
        let (partition, ends) = line.strip_prefix("takeover ")?.split_once(" ends ")?;
        let end = |text: &str| {
            let (partition, end) = text.split_once(':')?;
            let partition = PartitionId(u16::try_from(number(partition)?).ok()?);
            Some((partition, Sequence(number(end)?)))
        };
        let ends = ends.split(' ').map(end).collect::<Option<Vec<_>>>()?;
        let is_in_order = ends.is_sorted_by(|one, next| one.0 < next.0);
        let partition = PartitionId(u16::try_from(number(partition)?).ok()?);
        is_in_order.then_some(Self { partition, ends })
    }

    pub(super) fn encode(&self, out: &mut String) {
        write!(out, "takeover {} ends", self.partition.0).expect("writing to a string cannot fail");
        for (partition, end) in &self.ends {
            write!(out, " {}:{}", partition.0, end.0).expect("writing to a string cannot fail");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written_and_not_otherwise() {
        let change = Change { partition: PartitionId(2), weight: 1, hold_s: 30 };
        let takeover = Takeover {
            partition: PartitionId(2),
            ends: vec![(PartitionId(0), Sequence(1_235)), (PartitionId(1), Sequence(89))],
        };
        let (mut one, mut other) = (String::new(), String::new());
        change.encode(&mut one);
        takeover.encode(&mut other);
        assert_eq!(one, "change 2 weight 1 hold 30\n");
        assert_eq!(other, "takeover 2 ends 0:1235 1:89\n");
        assert_eq!(Change::decode(one.trim_end()), Some(change));
        assert_eq!(Takeover::decode(other.trim_end()), Some(takeover.clone()));
        assert_eq!(takeover.end_in(PartitionId(1)), Some(Sequence(89)));
        assert_eq!(takeover.end_in(PartitionId(2)), None);
        for text in ["change 2 weight 1", "change 2 weight 1 hold 0", "change 2 weight 1 hold 301"]
        {
            assert_eq!(Change::decode(text), None, "{text}");
        }
        assert!(Change::decode("change 2 weight 1 hold 300").is_some());
        for text in ["takeover 2 ends", "takeover 2 ends 1:5 0:7", "takeover 2 ends 0:07"] {
            assert_eq!(Takeover::decode(text), None, "{text}");
        }
    }
}
