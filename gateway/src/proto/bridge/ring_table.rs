//! The ring as it is stored: which partitions share the topics, and the epoch of that decision.
//!
//! ```text
//! gateway-ring 1
//! epoch 7
//! partition 0 weight 1 sub-cluster a
//! partition 1 weight 2 sub-cluster b
//! ```
//! A table of version 2 may have members of weight 0, and one of version 3 says what was taken over and
//! what is being changed:
//!
//! ```text
//! gateway-ring 3
//! epoch 12
//! partition 0 weight 1 sub-cluster a
//! partition 1 weight 2 sub-cluster b
//! partition 2 weight 0 sub-cluster c
//! partition 3 weight 0 sub-cluster d
//! takeover 2 ends 0:1235 1:89 2:1
//! removal 2 weight 1 ends 0:1711 1:90 2:345
//! change 3 weight 1 hold 30
//! ends 0:1790 1:95 3:1
//! ```
//! Each is written only when there is such a thing, so that gateways that know an earlier version only read
//! what they can follow. (Version 2 had takeovers, too, of members that had nothing before.)
//!
//! Text, because people read it in the KV bucket; strict, and always in the same order, because
//! every gateway must come to the same ring. Who owns a topic is not in it: it follows, see
//! [`Ring`](super::ring::Ring).

use super::ring_change::{Change, Ends, Takeover, decode_ends, encode_ends};
use crate::proto::partition::{PartitionId, Sequence};
use std::fmt::Write as _;

/// A partition that owns a part of the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its permanent number.
    pub partition: PartitionId,
    /// Its part, in relation to the other members' weights: up to [`RingTable::WEIGHT_MAX`]. With 0
    /// it has no topics: a member that waits for its share.
    pub weight: u16,
    /// The name of the sub-cluster that holds it.
    pub sub_cluster: String,
}

/// All members, in order of their numbers, how they came to what they have, and the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingTable {
    epoch: u64,
    members: Vec<Member>,
    takeovers: Vec<Takeover>,
    change: Option<Change>,
    /// Of the change, once they are known.
    ends: Option<Ends>,
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRing {
    /// Another format, or one of a later version.
    #[error("not a ring table of a version up to {}", RingTable::VERSION)]
    Version,
    /// A line that is not as it should be.
    #[error("line {number} of the ring table is not understood")]
    Line {
        /// From 1.
        number: usize,
    },
    /// No member with a weight: no topic would have an owner.
    #[error("a ring without partitions that have topics")]
    Empty,
    /// A number that is there twice, or behind a higher one in the text.
    #[error("partition {} is there twice or out of order", partition.0)]
    Order {
        /// The second of the two.
        partition: PartitionId,
    },
    /// A number above [`RingTable::MEMBERS_MAX`] - 1.
    #[error("partition {}: a ring has at most {} members", partition.0, RingTable::MEMBERS_MAX)]
    Members {
        /// Of the member.
        partition: PartitionId,
    },
    /// Above [`RingTable::WEIGHT_MAX`], or 0 for a member that is to have a share.
    #[error("partition {}: weight {weight} is not within 1 to {}", partition.0, RingTable::WEIGHT_MAX)]
    Weight {
        /// Of the member.
        partition: PartitionId,
        /// As given.
        weight: u16,
    },
    /// The weights add up to more than [`RingTable::WEIGHT_SUM_MAX`].
    #[error("weights add up to {sum}, at most {} are allowed", RingTable::WEIGHT_SUM_MAX)]
    WeightSum {
        /// Of all weights.
        sum: u32,
    },
    /// A takeover or a change of a member that cannot have one, or ends without a change.
    #[error("partition {} can neither take over nor give anything", partition.0)]
    Takeover {
        /// Of the member.
        partition: PartitionId,
    },
    /// A stream that ends before where an earlier change cut it: it was made anew, or has lost its end.
    #[error(
        "partition {}: its stream ends before a former change of the ring: one that was made anew needs \
         a sub-cluster of another name",
        partition.0
    )]
    GoesBack {
        /// Of the stream.
        partition: PartitionId,
    },
    /// More than [`RingTable::TAKEOVERS_MAX`].
    #[error("more than {} takeovers", RingTable::TAKEOVERS_MAX)]
    Takeovers,
    /// Not 1 to 32 letters, digits, `-` and `_`.
    #[error("partition {}: not a name of a sub-cluster", partition.0)]
    SubCluster {
        /// Of the member.
        partition: PartitionId,
    },
}

impl RingTable {
    /// Of the format. Gateways of another one refuse the table and keep the ring they have.
    pub const VERSION: u16 = 3;
    /// The highest weight of one member.
    pub const WEIGHT_MAX: u16 = 100;
    /// Members a ring may have, those included that have given their share away: a number is never used
    /// again. Each costs a shard some kilobytes.
    pub const MEMBERS_MAX: usize = 127;
    /// The highest sum of all weights: each unit costs one hash a slot when the ring is computed, some 0.4 s in all at the limit.
    pub const WEIGHT_SUM_MAX: u32 = 1_024;
    /// The most takeovers a table remembers; each costs a shard 32 KiB and who subscribes without
    /// wildcards to a topic that moved one subscription more.
    pub const TAKEOVERS_MAX: usize = 32;
    /// The longest name of a sub-cluster, bytes.
    pub const SUB_CLUSTER_BYTES_MAX: usize = 32;

    /// The table of `members` in any order.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`], all but its variants for text.
    pub fn new(epoch: u64, mut members: Vec<Member>) -> Result<Self, InvalidRing> {
        members.sort_by_key(|member| member.partition);
        let (takeovers, change, ends) = (Vec::new(), None, None);
        Self { epoch, members, takeovers, change, ends }.checked()
    }

    /// The next table, to which the sub-clusters `names` have come with weight 0; `None` if all are
    /// there.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`]: a name is none, or there are as many members as numbers.
    pub fn joined<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Option<Self>, InvalidRing> {
        let mut next = Self { epoch: self.epoch + 1, ..self.clone() };
        for name in names {
            let last = next.members.last().map_or(0, |member| member.partition.0);
            let partition = PartitionId(last.saturating_add(1));
            if next.members.iter().all(|member| member.sub_cluster != name) {
                let sub_cluster = name.to_owned();
                next.members.push(Member { partition, weight: 0, sub_cluster });
            }
        }
        if next.members.len() == self.members.len() { Ok(None) } else { next.checked().map(Some) }
    }

    /// The next table, in which `change` is under way; one that was before is called off.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`]: no such member, or the weight is not allowed: a member that has some can only lose
    /// all of it, if it is not the last.
    pub fn changing(&self, change: Change) -> Result<Self, InvalidRing> {
        let change = Some(change);
        Self { epoch: self.epoch + 1, change, ends: None, ..self.clone() }.checked()
    }

    /// The next table, as it was before the change under way.
    #[must_use]
    pub fn called_off(&self) -> Self {
        Self { epoch: self.epoch + 1, change: None, ends: None, ..self.clone() }
    }

    /// The members that give or get topics in the change under way: all that have some, before or after.
    pub fn concerned(&self) -> impl Iterator<Item = PartitionId> {
        let changes = self.change.map(|change| change.partition);
        let is_one = move |one: &&Member| one.weight > 0 || Some(one.partition) == changes;
        self.members.iter().filter(is_one).map(|member| member.partition)
    }

    /// The next table, in which it is known where the change under way cuts the streams: `end_of` is asked
    /// of each of [`RingTable::concerned`].
    ///
    /// # Errors
    ///
    /// [`InvalidRing`]: nothing is under way, or an end is not known, or is before one of a former change.
    pub fn cut(
        &self,
        end_of: impl Fn(PartitionId) -> Option<Sequence>,
    ) -> Result<Self, InvalidRing> {
        let end = |partition| {
            let end = end_of(partition).ok_or(InvalidRing::Takeover { partition })?;
            Ok((partition, end))
        };
        let ends: Vec<(PartitionId, Sequence)> =
            self.concerned().map(end).collect::<Result<_, _>>()?;
        let earlier = || self.takeovers.iter().flat_map(|takeover| &takeover.ends);
        // What is stored before an end is of before it: one that went back would make that of later.
        let goes_back = |(of, end): &&(PartitionId, Sequence)| {
            earlier().any(|(one, was)| one == of && end < was)
        };
        if let Some((partition, _)) = ends.iter().find(goes_back) {
            return Err(InvalidRing::GoesBack { partition: *partition });
        }
        Self { epoch: self.epoch + 1, ends: Some(ends), ..self.clone() }.checked()
    }

    /// The next table, in which the change under way is complete.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`]: nothing is under way, its ends are not known, or more would be taken over than a
    /// table remembers.
    pub fn taken_over(&self) -> Result<Self, InvalidRing> {
        let takeover = self.coming().ok_or(InvalidRing::Empty)?;
        let mut next = Self { epoch: self.epoch + 1, ends: None, ..self.clone() };
        let Change { partition, weight, .. } = next.change.take().ok_or(InvalidRing::Empty)?;
        next.takeovers.push(takeover);
        let member = next.members.iter_mut().find(|member| member.partition == partition);
        member.into_iter().for_each(|member| member.weight = weight);
        next.checked()
    }

    /// What the change under way is to become, if its ends are known.
    #[must_use]
    pub fn coming(&self) -> Option<Takeover> {
        let (Change { partition, .. }, ends) = (self.change?, self.ends.clone()?);
        Some(Takeover { partition, weight_before: self.weight_of(partition)?, ends })
    }

    /// The weight of a member.
    #[must_use]
    pub fn weight_of(&self, partition: PartitionId) -> Option<u16> {
        let member = self.members.iter().find(|member| member.partition == partition);
        member.map(|member| member.weight)
    }

    /// Which version of the ring this is; higher is newer.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The members, in order of their numbers.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What was taken over, in order.
    #[must_use]
    pub fn takeovers(&self) -> &[Takeover] {
        &self.takeovers
    }

    /// What is being changed.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.change
    }

    /// The weights before the takeover numbered `place`, in the order of the members.
    #[must_use]
    pub fn weights_before(&self, place: usize) -> Vec<u16> {
        let later = self.takeovers.get(place..).unwrap_or_default();
        let weight = |member: &Member| {
            let mut own = later.iter().filter(|one| one.partition == member.partition);
            own.next().map_or(member.weight, |next| next.weight_before)
        };
        self.members.iter().map(weight).collect()
    }

    /// The weights of the members that keep sessions, in their order: those that had topics before any
    /// takeover, and have never given them away.
    #[must_use]
    pub fn weights_of_homes(&self) -> Vec<u16> {
        let has_left = |member: &Member| {
            let mut own = self.takeovers.iter().filter(|one| one.partition == member.partition);
            own.any(|takeover| takeover.weight_before > 0)
        };
        let first = self.members.iter().zip(self.weights_before(0));
        first.map(|(member, weight)| if has_left(member) { 0 } else { weight }).collect()
    }

    /// The table as stored.
    #[must_use]
    pub fn encode(&self) -> String {
        let version = if !self.takeovers.is_empty() || self.change.is_some() {
            Self::VERSION
        } else if self.members.iter().any(|member| member.weight == 0) {
            2
        } else {
            1
        };
        let mut text = format!("{HEAD} {version}\nepoch {}\n", self.epoch);
        for Member { partition, weight, sub_cluster } in &self.members {
            let partition = partition.0;
            writeln!(text, "partition {partition} weight {weight} sub-cluster {sub_cluster}")
                .expect("writing to a string cannot fail");
        }
        self.takeovers.iter().for_each(|takeover| takeover.encode(&mut text));
        self.change.iter().for_each(|change| change.encode(&mut text));
        self.ends.iter().for_each(|ends| encode_ends(ends, &mut text));
        text
    }

    /// Reads a table as [`RingTable::encode`] writes it, and nothing else.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`].
    pub fn decode(text: &str) -> Result<Self, InvalidRing> {
        let mut lines = (1..).zip(text.split_terminator('\n'));
        let version = lines.next().and_then(|(_, line)| line.strip_prefix(HEAD));
        let version = match version {
            Some(" 1") => 1,
            Some(" 2") => 2,
            Some(" 3") => 3,
            _ => return Err(InvalidRing::Version),
        };
        let epoch = lines
            .next()
            .and_then(|(_, line)| number(line.strip_prefix("epoch ")?))
            .ok_or(InvalidRing::Line { number: 2 })?;
        let (members, takeovers) = (Vec::new(), Vec::new());
        let mut table = Self { epoch, members, takeovers, change: None, ends: None };
        for (number, line) in lines {
            table.take_line(line, version).ok_or(InvalidRing::Line { number })?;
        }
        table.checked()
    }

    /// Members come first, then takeovers, then the change and its ends.
    fn take_line(&mut self, line: &str, version: u16) -> Option<()> {
        if version > 2 && line.starts_with("ends ") && self.ends.is_none() {
            self.change?;
            self.ends = Some(decode_ends(line.strip_prefix("ends ")?)?);
        } else if self.change.is_some() {
            return None;
        } else if self.takeovers.is_empty() && line.starts_with("partition ") {
            self.members.push(member(line).filter(|one| version > 1 || one.weight > 0)?);
        } else if version > 1 && line.starts_with("takeover ")
            || version > 2 && line.starts_with("removal ")
        {
            self.takeovers.push(Takeover::decode(line)?);
        } else if version > 1 {
            self.change = Some(Change::decode(line)?);
        } else {
            return None;
        }
        Some(())
    }

    fn checked(self) -> Result<Self, InvalidRing> {
        let members = &self.members;
        let pairs = members.iter().zip(members.iter().skip(1));
        for (one, next) in pairs {
            if one.partition >= next.partition {
                return Err(InvalidRing::Order { partition: next.partition });
            }
        }
        for &Member { partition, weight, ref sub_cluster } in members {
            if usize::from(partition.0) >= Self::MEMBERS_MAX {
                return Err(InvalidRing::Members { partition });
            }
            if weight > Self::WEIGHT_MAX {
                return Err(InvalidRing::Weight { partition, weight });
            }
            if !is_sub_cluster_name(sub_cluster) {
                return Err(InvalidRing::SubCluster { partition });
            }
        }
        self.check_changes()?;
        // At any time somebody had the topics.
        let is_empty = |place| self.weights_before(place).iter().all(|weight| *weight == 0);
        if (0..=self.takeovers.len()).any(is_empty) {
            return Err(InvalidRing::Empty);
        }
        let coming = self.change.map_or(0, |change| u32::from(change.weight));
        let sum = members.iter().map(|member| u32::from(member.weight)).sum::<u32>() + coming;
        if sum > Self::WEIGHT_SUM_MAX {
            return Err(InvalidRing::WeightSum { sum });
        }
        Ok(self)
    }

    fn check_changes(&self) -> Result<(), InvalidRing> {
        let coming = usize::from(self.change.is_some());
        if self.takeovers.len() + coming > Self::TAKEOVERS_MAX {
            return Err(InvalidRing::Takeovers);
        }
        // Each has something or nothing, in turn.
        let is_turn = |one: u16, next: u16| (one == 0) != (next == 0);
        for (place, Takeover { partition, weight_before, ends }) in
            self.takeovers.iter().enumerate()
        {
            let later = self.takeovers.iter().skip(place + 1);
            let next = later.into_iter().find(|one| one.partition == *partition);
            let now = self.weight_of(*partition);
            let after = next.map(|next| next.weight_before).or(now);
            let is_removal = *weight_before > 0;
            if is_removal && ends.iter().all(|(of, _)| of != partition) {
                return Err(InvalidRing::Takeover { partition: *partition });
            }
            if now.is_none() || after.is_none_or(|after| !is_turn(*weight_before, after)) {
                return Err(InvalidRing::Takeover { partition: *partition });
            }
        }
        let Some(Change { partition, weight, .. }) = self.change else {
            return if self.ends.is_none() { Ok(()) } else { Err(InvalidRing::Empty) };
        };
        if let Some(ends) = &self.ends
            && !self.concerned().eq(ends.iter().map(|(of, _)| *of))
        {
            return Err(InvalidRing::Takeover { partition });
        }
        if weight > Self::WEIGHT_MAX {
            return Err(InvalidRing::Weight { partition, weight });
        }
        match self.weight_of(partition) {
            Some(0) if weight == 0 => Err(InvalidRing::Weight { partition, weight }),
            Some(before) if is_turn(before, weight) && !self.is_last(partition) => Ok(()),
            _ => Err(InvalidRing::Takeover { partition }),
        }
    }

    /// Whether nobody else has topics, or nobody else keeps sessions that it keeps.
    #[must_use]
    pub fn is_last(&self, partition: PartitionId) -> bool {
        let is_only = |weights: Vec<u16>| {
            let with_some = self.members.iter().zip(weights).filter(|(_, weight)| *weight > 0);
            with_some.map(|(member, _)| member.partition).eq([partition])
        };
        is_only(self.weights_before(usize::MAX)) || is_only(self.weights_of_homes())
    }
}

fn is_sub_cluster_name(name: &str) -> bool {
    (1..=RingTable::SUB_CLUSTER_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// `partition <number> weight <number> sub-cluster <name>`
fn member(line: &str) -> Option<Member> {
    let (partition, rest) = line.strip_prefix("partition ")?.split_once(" weight ")?;
    let (weight, sub_cluster) = rest.split_once(" sub-cluster ")?;
    Some(Member {
        partition: PartitionId(u16::try_from(number(partition)?).ok()?),
        weight: u16::try_from(number(weight)?).ok()?,
        sub_cluster: sub_cluster.to_owned(),
    })
}

/// A decimal number in its one spelling.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_padded = text.len() > 1 && text.starts_with('0');
    crate::proto::nats::json::decimal(text.as_bytes()).filter(|_| !is_padded)
}

/// The first word of a table.
const HEAD: &str = "gateway-ring";

#[cfg(test)]
mod tests {
    use super::*;

    fn member(partition: u16, weight: u16, sub_cluster: &str) -> Member {
        let sub_cluster = sub_cluster.to_owned();
        Member { partition: PartitionId(partition), weight, sub_cluster }
    }

    #[test]
    fn a_table_is_text_and_back() {
        let table = RingTable::new(7, vec![member(10, 2, "b-1"), member(0, 1, "a")]).unwrap();
        let text = "gateway-ring 1\nepoch 7\npartition 0 weight 1 sub-cluster a\n\
            partition 10 weight 2 sub-cluster b-1\n";
        assert_eq!(table.encode(), text);
        assert_eq!(RingTable::decode(text), Ok(table));
    }

    #[test]
    fn refuses_what_is_no_table() {
        let head = "gateway-ring 1\nepoch 7\n";
        let line = |number| InvalidRing::Line { number };
        for (text, error) in [
            ("", InvalidRing::Version),
            ("gateway-ring 4\nepoch 7\npartition 0 weight 1 sub-cluster a\n", InvalidRing::Version),
            (&format!("{head}partition 0 weight 0 sub-cluster a\n"), line(3)),
            (
                &format!("{head}partition 0 weight 1 sub-cluster a\nchange 0 weight 1 hold 9\n"),
                line(4),
            ),
            ("gateway-ring 1\n", line(2)),
            ("gateway-ring 1\nepoch x\n", line(2)),
            ("gateway-ring 1\nepoch 07\n", line(2)),
            (head, InvalidRing::Empty),
            (&format!("{head}partition 0 weight 1\n"), line(3)),
            (&format!("{head}partition 65536 weight 1 sub-cluster a\n"), line(3)),
            (&format!("{head}\npartition 0 weight 1 sub-cluster a\n"), line(3)),
            (&format!("{head}partition 0 weight 1 sub-cluster a b\n"), {
                InvalidRing::SubCluster { partition: PartitionId(0) }
            }),
            (&format!("{head}partition 0 weight 1 sub-cluster a\r\n"), {
                InvalidRing::SubCluster { partition: PartitionId(0) }
            }),
            (
                &format!(
                    "{head}partition 1 weight 1 sub-cluster a\npartition 0 weight 1 sub-cluster a\n"
                ),
                InvalidRing::Order { partition: PartitionId(0) },
            ),
        ] {
            assert_eq!(RingTable::decode(text), Err(error), "{text}");
        }
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let new = |members| RingTable::new(0, members);
        let partition = PartitionId(3);
        assert!(new(vec![member(3, 100, &"x".repeat(32))]).is_ok());
        assert_eq!(new(vec![]), Err(InvalidRing::Empty));
        assert_eq!(new(vec![member(3, 0, "a")]), Err(InvalidRing::Empty));
        assert!(new(vec![member(126, 1, "a")]).is_ok());
        let beyond = Err(InvalidRing::Members { partition: PartitionId(127) });
        assert_eq!(new(vec![member(127, 1, "a")]), beyond);
        assert_eq!(
            new(vec![member(3, 101, "a")]),
            Err(InvalidRing::Weight { partition, weight: 101 })
        );
        for name in ["", "a.b", &"x".repeat(33)] {
            assert_eq!(
                new(vec![member(3, 1, name)]),
                Err(InvalidRing::SubCluster { partition }),
                "{name}"
            );
        }
        assert_eq!(
            new(vec![member(3, 1, "a"), member(3, 1, "b")]),
            Err(InvalidRing::Order { partition })
        );
        let heavy = |last| {
            let others = (0..10).map(|partition| member(partition, 100, "a"));
            others.chain([member(10, last, "a")]).collect()
        };
        assert!(new(heavy(24)).is_ok());
        assert_eq!(new(heavy(25)), Err(InvalidRing::WeightSum { sum: 1_025 }));
    }

    #[test]
    fn a_member_joins_with_nothing_and_takes_its_share_over() {
        let table = RingTable::new(7, vec![member(0, 1, "a"), member(4, 2, "b")]).unwrap();
        assert_eq!(table.joined(["a", "b"].into_iter()), Ok(None));
        let table = table.joined(["b", "c"].into_iter()).unwrap().unwrap();
        assert_eq!((table.epoch(), table.members().last()), (8, Some(&member(5, 0, "c"))));
        assert!(table.encode().starts_with("gateway-ring 2\n"));
        assert_eq!(RingTable::decode(&table.encode()).as_ref(), Ok(&table));

        let change = Change { partition: PartitionId(5), weight: 3, hold_s: 30 };
        for wrong in [PartitionId(0), PartitionId(6)] {
            let refused = table.changing(Change { partition: wrong, ..change });
            assert_eq!(refused, Err(InvalidRing::Takeover { partition: wrong }));
        }
        for weight in [0, 101] {
            let refused = table.changing(Change { weight, ..change });
            assert_eq!(refused, Err(InvalidRing::Weight { partition: PartitionId(5), weight }));
        }
        assert!(table.cut(|_| Some(Sequence(9))).is_err(), "nothing is under way");
        let changing = table.changing(change).unwrap();
        assert_eq!((changing.epoch(), changing.change()), (9, Some(change)));
        assert!(changing.encode().starts_with("gateway-ring 3\n"));
        assert_eq!(RingTable::decode(&changing.encode()).as_ref(), Ok(&changing));
        assert!(changing.cut(|of| (of.0 != 5).then_some(Sequence(9))).is_err());
        assert!(changing.taken_over().is_err(), "its ends are not known");
        let cut = changing.cut(|of| Some(Sequence(of.0.into()))).unwrap();
        let missing = cut.encode().replace("ends 0:0 ", "ends ");
        assert!(RingTable::decode(&missing).is_err(), "{missing}");
        assert_eq!((cut.epoch(), cut.change()), (10, Some(change)));
        assert_eq!(RingTable::decode(&cut.encode()).as_ref(), Ok(&cut));
        for called_off in [changing.called_off(), cut.called_off()] {
            assert_eq!((called_off.change(), called_off.coming()), (None, None));
            assert_eq!(called_off.members(), table.members());
        }

        let taken = cut.taken_over().unwrap();
        assert_eq!((taken.epoch(), taken.change(), taken.coming()), (11, None, None));
        assert_eq!(taken.members().last(), Some(&member(5, 3, "c")));
        let ends = vec![
            (PartitionId(0), Sequence(0)),
            (PartitionId(4), Sequence(4)),
            (PartitionId(5), Sequence(5)),
        ];
        let takeover = Takeover { partition: PartitionId(5), weight_before: 0, ends };
        assert_eq!(cut.coming().as_ref(), Some(&takeover));
        assert_eq!(taken.takeovers(), [takeover]);
        assert_eq!(
            (taken.weights_before(0), taken.weights_before(1)),
            (vec![1, 2, 0], vec![1, 2, 3])
        );
        assert_eq!(RingTable::decode(&taken.encode()).as_ref(), Ok(&taken));
        assert!(taken.changing(change).is_err(), "it has its share");
    }

    fn changed(table: &RingTable, partition: u16, weight: u16) -> Result<RingTable, InvalidRing> {
        let change = Change { partition: PartitionId(partition), weight, hold_s: 1 };
        table.changing(change)?.cut(|_| Some(Sequence(1)))?.taken_over()
    }

    #[test]
    fn a_member_gives_its_share_back_and_can_have_it_again() {
        let table = RingTable::new(7, vec![member(0, 1, "a"), member(1, 2, "b")]).unwrap();
        let table = table.joined(["c"].into_iter()).unwrap().unwrap();
        let table = changed(&changed(&table, 2, 3).unwrap(), 1, 0).unwrap();
        assert_eq!(table.weights_before(0), [1, 2, 0]);
        assert_eq!(table.weights_before(1), [1, 2, 3]);
        assert_eq!(table.weights_before(2), [1, 0, 3]);
        assert_eq!(table.weights_of_homes(), [1, 0, 0]);
        assert_eq!(RingTable::decode(&table.encode()).as_ref(), Ok(&table));
        let last = Err(InvalidRing::Takeover { partition: PartitionId(0) });
        assert_eq!(changed(&table, 0, 0), last, "nobody else keeps sessions");
        let table = changed(&changed(&table, 2, 0).unwrap(), 1, 5).unwrap();
        assert_eq!(table.weights_before(4), [1, 5, 0]);
        assert_eq!(table.weights_of_homes(), [1, 0, 0], "sessions do not come back");
        assert_eq!(RingTable::decode(&table.encode()).as_ref(), Ok(&table));
        let text = table.encode();
        for (what, by) in [
            ("removal 1 weight 2 ", "takeover 1 "),
            ("takeover 2 ", "removal 2 weight 1 "),
            ("partition 1 weight 5", "partition 1 weight 0"),
            (
                "ends 0:1 1:1 2:1\nremoval 1 weight 2 ends 0:1 1:1 2:1",
                "ends 0:1 1:1 2:1\nremoval 1 weight 2 ends 0:1 2:1",
            ),
        ] {
            assert!(RingTable::decode(&text.replacen(what, by, 1)).is_err(), "{by}");
        }
        let old = text.replacen("gateway-ring 3", "gateway-ring 2", 1);
        assert!(matches!(RingTable::decode(&old), Err(InvalidRing::Line { .. })));
    }

    #[test]
    fn an_end_does_not_go_back() {
        let table = RingTable::new(7, vec![member(0, 1, "a"), member(1, 2, "b")]).unwrap();
        let table = table.joined(["c"].into_iter()).unwrap().unwrap();
        let change = |weight| Change { partition: PartitionId(2), weight, hold_s: 1 };
        let cut = |table: &RingTable, weight, end: u64| {
            table.changing(change(weight)).unwrap().cut(|_| Some(Sequence(end)))
        };
        let table = cut(&table, 3, 100).unwrap().taken_over().unwrap();
        let goes_back = InvalidRing::GoesBack { partition: PartitionId(0) };
        assert_eq!(cut(&table, 0, 99), Err(goes_back));
        assert!(cut(&table, 0, 100).is_ok(), "nothing was stored since");
    }

    #[test]
    fn a_table_remembers_so_many_takeovers() {
        let mut table = RingTable::new(1, vec![member(0, 1, "a")]).unwrap();
        for number in 1..=33 {
            let name = format!("b{number}");
            table = table.joined([name.as_str()].into_iter()).unwrap().unwrap();
            match changed(&table, number, 1) {
                Ok(taken) => table = taken,
                Err(fault) => assert_eq!((number, fault), (33, InvalidRing::Takeovers)),
            }
        }
        assert_eq!(table.takeovers().len(), RingTable::TAKEOVERS_MAX);
    }
}
