//! How a ring comes to another: a member takes its share over, or gives it to all others.
//!
//! ```text
//! table ──▶ change: the share is held ──▶ ends: nothing of it is on its way ──▶ takeover: it is elsewhere
//!   ▲                    └───── called off ─────┘
//!   └────────────────────────────┘
//! ```
//! Each arrow is one write of the ring's key, with an epoch of its own: whoever looks sees one of the
//! four. What becomes of messages meanwhile is in ARCHITECTURE.md, "Ring change".

use super::ring_table::number;
use crate::proto::partition::{PartitionId, Sequence};
use std::fmt::Write as _;

/// A change under way: what is to move is appended nowhere until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The member that is to have a share, and has weight 0 so far, or that is to have none any more.
    pub partition: PartitionId,
    /// The weight it is to have: up to [`super::ring_table::RingTable::WEIGHT_MAX`], 0 for a member that
    /// has some.
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

/// Of each partition that gives topics away or gets some, the first sequence that is of after the change.
/// In order of the partitions.
pub type Ends = Vec<(PartitionId, Sequence)>;

/// A change that is complete, or of which it is known already where it cuts the streams.
///
/// What is stored later, in a partition that gave topics away, under such a topic, counts for nobody. A
/// topic's messages where it is now, from the end there on, come behind those before the end where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Whose weight has changed.
    pub partition: PartitionId,
    /// What it was before: 0 for a member that took its share over, another one for a member that gave
    /// its share to all others.
    pub weight_before: u16,
    /// Where it cuts the streams. One that took over may be missing: it had nothing before.
    pub ends: Ends,
}

/// What of a partition comes behind what of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Succession {
    /// Who has topics now.
    pub taker: PartitionId,
    /// What it stored from here on comes behind.
    pub from: Sequence,
    /// Who had them before.
    pub giver: PartitionId,
    /// What it stored before this comes first.
    pub end: Sequence,
}

impl Takeover {
    /// The first sequence of `partition` that is of after, if that gave topics away or got some.
    #[must_use]
    pub fn end_in(&self, partition: PartitionId) -> Option<Sequence> {
        self.ends.iter().find(|(of, _)| *of == partition).map(|(_, end)| *end)
    }

    /// What comes behind what from now on.
    pub fn successions(&self) -> impl Iterator<Item = Succession> + '_ {
        let Self { partition, weight_before, .. } = *self;
        let own = self.end_in(partition).unwrap_or(Sequence::ZERO);
        let others = self.ends.iter().filter(move |(of, _)| *of != partition);
        others.map(move |&(other, end)| match weight_before {
            0 => Succession { taker: partition, from: own, giver: other, end },
            _ => Succession { taker: other, from: end, giver: partition, end: own },
        })
    }

    /// `takeover 2 ends 0:1235 1:89`, or `removal 2 weight 1 ends 0:1235 1:89 2:77`
    pub(super) fn decode(line: &str) -> Option<Self> {
        let (head, ends) = line.split_once(" ends ")?;
        let (partition, weight) = match head.strip_prefix("takeover ") {
            Some(partition) => (partition, "0"),
            None => head.strip_prefix("removal ")?.split_once(" weight ")?,
        };
        let partition = PartitionId(u16::try_from(number(partition)?).ok()?);
        let weight_before = u16::try_from(number(weight)?).ok()?;
        if head.starts_with("removal ") && weight_before == 0 {
            return None;
        }
        Some(Self { partition, weight_before, ends: decode_ends(ends)? })
    }

    pub(super) fn encode(&self, out: &mut String) {
        let Self { partition, weight_before, ends } = self;
        match weight_before {
            0 => write!(out, "takeover {} ", partition.0),
            weight => write!(out, "removal {} weight {weight} ", partition.0),
        }
        .expect("writing to a string cannot fail");
        encode_ends(ends, out);
    }
}

/// `0:1235 1:89`
pub(super) fn decode_ends(text: &str) -> Option<Ends> {
    let end = |text: &str| {
        let (partition, end) = text.split_once(':')?;
        let partition = PartitionId(u16::try_from(number(partition)?).ok()?);
        Some((partition, Sequence(number(end)?)))
    };
    let ends = text.split(' ').map(end).collect::<Option<Ends>>()?;
    ends.is_sorted_by(|one, next| one.0 < next.0).then_some(ends)
}

/// `ends 0:1235 1:89`
pub(super) fn encode_ends(ends: &Ends, out: &mut String) {
    out.push_str("ends");
    for (partition, end) in ends {
        write!(out, " {}:{}", partition.0, end.0).expect("writing to a string cannot fail");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written_and_not_otherwise() {
        let change = Change { partition: PartitionId(2), weight: 1, hold_s: 30 };
        let mut text = String::new();
        change.encode(&mut text);
        assert_eq!(text, "change 2 weight 1 hold 30\n");
        assert_eq!(Change::decode(text.trim_end()), Some(change));
        let ends: Ends = [(0, 1_235), (1, 89), (2, 7)]
            .map(|(partition, end)| (PartitionId(partition), Sequence(end)))
            .into();
        for (weight_before, ends, line) in [
            (0, ends[..2].to_vec(), "takeover 2 ends 0:1235 1:89\n"),
            (0, ends.clone(), "takeover 2 ends 0:1235 1:89 2:7\n"),
            (3, ends, "removal 2 weight 3 ends 0:1235 1:89 2:7\n"),
        ] {
            let takeover = Takeover { partition: PartitionId(2), weight_before, ends };
            let mut text = String::new();
            takeover.encode(&mut text);
            assert_eq!(text, line);
            assert_eq!(Takeover::decode(line.trim_end()), Some(takeover));
        }
        for text in ["change 2 weight 1", "change 2 weight 1 hold 0", "change 2 weight 1 hold 301"]
        {
            assert_eq!(Change::decode(text), None, "{text}");
        }
        assert!(Change::decode("change 2 weight 0 hold 300").is_some());
        for text in [
            "takeover 2 ends",
            "takeover 2 ends 1:5 0:7",
            "takeover 2 ends 0:07",
            "takeover 2 weight 1 ends 0:7",
            "removal 2 ends 0:7",
            "removal 2 weight 0 ends 0:7",
        ] {
            assert_eq!(Takeover::decode(text), None, "{text}");
        }
    }

    #[test]
    fn who_got_topics_comes_behind_who_gave_them() {
        let ends = |ends: &[(u16, u64)]| {
            ends.iter().map(|(of, end)| (PartitionId(*of), Sequence(*end))).collect()
        };
        let order = |weight_before, ends| {
            let takeover = Takeover { partition: PartitionId(2), weight_before, ends };
            let order = takeover.successions();
            order
                .map(|one| [one.taker.0.into(), one.from.0, one.giver.0.into(), one.end.0])
                .collect::<Vec<_>>()
        };
        assert_eq!(order(0, ends(&[(0, 5), (1, 8)])), [[2, 0, 0, 5], [2, 0, 1, 8]]);
        assert_eq!(order(0, ends(&[(0, 5), (2, 9)])), [[2, 9, 0, 5]], "it had topics once");
        assert_eq!(order(1, ends(&[(0, 5), (1, 8), (2, 9)])), [[0, 5, 2, 9], [1, 8, 2, 9]]);
    }
}
