//! The ring as it is stored: which partitions share the topics, and the epoch of that decision.
//!
//! ```text
//! gateway-ring 1
//! epoch 7
//! partition 0 weight 1 sub-cluster a
//! partition 1 weight 2 sub-cluster b
//! ```
//! A table of version 2 may have members of weight 0, and says what was taken over and what is being
//! changed:
//!
//! ```text
//! gateway-ring 2
//! epoch 12
//! partition 0 weight 1 sub-cluster a
//! partition 1 weight 2 sub-cluster b
//! partition 2 weight 1 sub-cluster c
//! partition 3 weight 0 sub-cluster d
//! takeover 2 ends 0:1235 1:89
//! change 3 weight 1 hold 30
//! ```
//! It is written only when there is such a thing, so that gateways that know version 1 only read what
//! they can follow.
//!
//! Text, because people read it in the KV bucket; strict, and always in the same order, because
//! every gateway must come to the same ring. Who owns a topic is not in it: it follows, see
//! [`Ring`](super::ring::Ring).

use super::ring_change::{Change, Takeover};
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
    /// A takeover by, or a change for, a member that cannot have one.
    #[error("partition {} can take over nothing", partition.0)]
    Takeover {
        /// Of the member.
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
    pub const VERSION: u16 = 2;
    /// The highest weight of one member.
    pub const WEIGHT_MAX: u16 = 100;
    /// The highest sum of all weights, and so the most partitions: each unit costs one hash a slot
    /// when the ring is computed, some 0.4 s in all at the limit.
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
        Self { epoch, members, takeovers: Vec::new(), change: None }.checked()
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
    /// [`InvalidRing`]: the member is none of weight 0, or the weight is not allowed.
    pub fn changing(&self, change: Change) -> Result<Self, InvalidRing> {
        Self { epoch: self.epoch + 1, change: Some(change), ..self.clone() }.checked()
    }

    /// The next table, as it was before the change under way.
    #[must_use]
    pub fn called_off(&self) -> Self {
        Self { epoch: self.epoch + 1, change: None, ..self.clone() }
    }

    /// The next table, in which the change under way is complete. `end_of` says where the share ends
    /// in each partition that gives topics away.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`]: nothing is under way, or more would be taken over than a table remembers.
    pub fn taken_over(
        &self,
        end_of: impl Fn(PartitionId) -> Option<Sequence>,
    ) -> Result<Self, InvalidRing> {
        let mut next = Self { epoch: self.epoch + 1, ..self.clone() };
        let Change { partition, weight, .. } = next.change.take().ok_or(InvalidRing::Empty)?;
        let givers = self.members.iter().filter(|member| member.weight > 0);
        let ends = givers.filter_map(|one| Some((one.partition, end_of(one.partition)?))).collect();
        next.takeovers.push(Takeover { partition, ends });
        let taker = next.members.iter_mut().find(|member| member.partition == partition);
        taker.into_iter().for_each(|member| member.weight = weight);
        next.checked()
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
            let takes_over = later.iter().any(|takeover| takeover.partition == member.partition);
            if takes_over { 0 } else { member.weight }
        };
        self.members.iter().map(weight).collect()
    }

    /// The table as stored.
    #[must_use]
    pub fn encode(&self) -> String {
        let is_plain = self.takeovers.is_empty()
            && self.change.is_none()
            && self.members.iter().all(|member| member.weight > 0);
        let version = if is_plain { 1 } else { Self::VERSION };
        let mut text = format!("{HEAD} {version}\nepoch {}\n", self.epoch);
        for Member { partition, weight, sub_cluster } in &self.members {
            let partition = partition.0;
            writeln!(text, "partition {partition} weight {weight} sub-cluster {sub_cluster}")
                .expect("writing to a string cannot fail");
        }
        self.takeovers.iter().for_each(|takeover| takeover.encode(&mut text));
        self.change.iter().for_each(|change| change.encode(&mut text));
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
            _ => return Err(InvalidRing::Version),
        };
        let epoch = lines
            .next()
            .and_then(|(_, line)| number(line.strip_prefix("epoch ")?))
            .ok_or(InvalidRing::Line { number: 2 })?;
        let mut table = Self { epoch, members: Vec::new(), takeovers: Vec::new(), change: None };
        for (number, line) in lines {
            table.take_line(line, version).ok_or(InvalidRing::Line { number })?;
        }
        table.checked()
    }

    /// Members come first, then takeovers, then the change.
    fn take_line(&mut self, line: &str, version: u16) -> Option<()> {
        if self.change.is_some() {
            return None;
        }
        if self.takeovers.is_empty() && line.starts_with("partition ") {
            self.members.push(member(line).filter(|one| version > 1 || one.weight > 0)?);
        } else if version > 1 && line.starts_with("takeover ") {
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
            if weight > Self::WEIGHT_MAX {
                return Err(InvalidRing::Weight { partition, weight });
            }
            if !is_sub_cluster_name(sub_cluster) {
                return Err(InvalidRing::SubCluster { partition });
            }
        }
        self.check_changes()?;
        // Before the first takeover somebody had the topics.
        if self.weights_before(0).iter().all(|weight| *weight == 0) {
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
        let weight_of = |partition: PartitionId| {
            let member = self.members.iter().find(|member| member.partition == partition);
            member.map(|member| member.weight)
        };
        if self.takeovers.len() > Self::TAKEOVERS_MAX {
            return Err(InvalidRing::Takeovers);
        }
        for (place, Takeover { partition, .. }) in self.takeovers.iter().enumerate() {
            let earlier = self.takeovers.iter().take(place);
            let is_first = earlier.into_iter().all(|one| one.partition != *partition);
            if !is_first || weight_of(*partition).is_none_or(|weight| weight == 0) {
                return Err(InvalidRing::Takeover { partition: *partition });
            }
        }
        match self.change {
            Some(Change { partition, .. }) if weight_of(partition) != Some(0) => {
                Err(InvalidRing::Takeover { partition })
            }
            Some(Change { partition, weight, .. }) if !(1..=Self::WEIGHT_MAX).contains(&weight) => {
                Err(InvalidRing::Weight { partition, weight })
            }
            _ => Ok(()),
        }
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
            ("gateway-ring 3\nepoch 7\npartition 0 weight 1 sub-cluster a\n", InvalidRing::Version),
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
        let many = |count| (0..count).map(|partition| member(partition, 1, "a")).collect();
        assert!(new(many(1_024)).is_ok());
        assert_eq!(new(many(1_025)), Err(InvalidRing::WeightSum { sum: 1_025 }));
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
        assert!(table.taken_over(|_| None).is_err(), "nothing is under way");
        let changing = table.changing(change).unwrap();
        assert_eq!((changing.epoch(), changing.change()), (9, Some(change)));
        assert_eq!(RingTable::decode(&changing.encode()).as_ref(), Ok(&changing));
        let called_off = changing.called_off();
        assert_eq!((called_off.epoch(), called_off.members()), (10, table.members()));

        let taken = changing.taken_over(|of| (of.0 != 5).then_some(Sequence(9))).unwrap();
        assert_eq!((taken.epoch(), taken.change()), (10, None));
        assert_eq!(taken.members().last(), Some(&member(5, 3, "c")));
        let ends = vec![(PartitionId(0), Sequence(9)), (PartitionId(4), Sequence(9))];
        assert_eq!(taken.takeovers(), [Takeover { partition: PartitionId(5), ends }]);
        assert_eq!(
            (taken.weights_before(0), taken.weights_before(1)),
            (vec![1, 2, 0], vec![1, 2, 3])
        );
        assert_eq!(RingTable::decode(&taken.encode()).as_ref(), Ok(&taken));
        assert!(taken.changing(change).is_err(), "it has its share");
    }

    #[test]
    fn a_table_remembers_so_many_takeovers() {
        let mut table = RingTable::new(1, vec![member(0, 1, "a")]).unwrap();
        for number in 1..=33 {
            let name = format!("b{number}");
            table = table.joined([name.as_str()].into_iter()).unwrap().unwrap();
            let change = Change { partition: PartitionId(number), weight: 1, hold_s: 1 };
            let taken = table.changing(change).unwrap().taken_over(|_| Some(Sequence(1)));
            match taken {
                Ok(taken) => table = taken,
                Err(fault) => assert_eq!((number, fault), (33, InvalidRing::Takeovers)),
            }
        }
        assert_eq!(table.takeovers().len(), RingTable::TAKEOVERS_MAX);
    }
}
