//! The ring as it is stored: which partitions share the topics, and the epoch of that decision.
//!
//! ```text
//! gateway-ring 1
//! epoch 7
//! partition 0 weight 1 sub-cluster a
//! partition 1 weight 2 sub-cluster b
//! ```
//!
//! Text, because people read it in the KV bucket; strict, and always in the same order, because
//! every gateway must come to the same ring. Who owns a topic is not in it: it follows, see
//! [`Ring`](super::ring::Ring).

use crate::proto::partition::PartitionId;
use std::fmt::Write as _;

/// A partition that owns a part of the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its permanent number.
    pub partition: PartitionId,
    /// Its part, in relation to the other members' weights: 1 to [`RingTable::WEIGHT_MAX`].
    pub weight: u16,
    /// The name of the sub-cluster that holds it.
    pub sub_cluster: String,
}

/// All members, in order of their numbers, and the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingTable {
    epoch: u64,
    members: Vec<Member>,
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRing {
    /// Another format, or one of a later version.
    #[error("not a ring table of version {}", RingTable::VERSION)]
    Version,
    /// A line that is not as it should be.
    #[error("line {number} of the ring table is not understood")]
    Line {
        /// From 1.
        number: usize,
    },
    /// No member at all: no topic would have an owner.
    #[error("a ring without partitions")]
    Empty,
    /// A number that is there twice, or behind a higher one in the text.
    #[error("partition {} is there twice or out of order", partition.0)]
    Order {
        /// The second of the two.
        partition: PartitionId,
    },
    /// 0, or above [`RingTable::WEIGHT_MAX`].
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
    /// Not 1 to 32 letters, digits, `-` and `_`.
    #[error("partition {}: not a name of a sub-cluster", partition.0)]
    SubCluster {
        /// Of the member.
        partition: PartitionId,
    },
}

impl RingTable {
    /// Of the format. Gateways of another one refuse the table and keep the ring they have.
    pub const VERSION: u16 = 1;
    /// The highest weight of one member.
    pub const WEIGHT_MAX: u16 = 100;
    /// The highest sum of all weights, and so the most partitions: each unit costs one hash a slot
    /// when the ring is computed, some 0.4 s in all at the limit.
    pub const WEIGHT_SUM_MAX: u32 = 1_024;
    /// The longest name of a sub-cluster, bytes.
    pub const SUB_CLUSTER_BYTES_MAX: usize = 32;

    /// The table of `members` in any order.
    ///
    /// # Errors
    ///
    /// [`InvalidRing`], all but its variants for text.
    pub fn new(epoch: u64, mut members: Vec<Member>) -> Result<Self, InvalidRing> {
        members.sort_by_key(|member| member.partition);
        Self::check(&members)?;
        Ok(Self { epoch, members })
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

    /// The table as stored.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{HEAD} {}\nepoch {}\n", Self::VERSION, self.epoch);
        for Member { partition, weight, sub_cluster } in &self.members {
            let partition = partition.0;
            writeln!(text, "partition {partition} weight {weight} sub-cluster {sub_cluster}")
                .expect("writing to a string cannot fail");
        }
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
        if version != Some(" 1") {
            return Err(InvalidRing::Version);
        }
        let epoch = lines
            .next()
            .and_then(|(_, line)| number(line.strip_prefix("epoch ")?))
            .ok_or(InvalidRing::Line { number: 2 })?;
        let members = lines
            .map(|(number, line)| member(line).ok_or(InvalidRing::Line { number }))
            .collect::<Result<Vec<_>, _>>()?;
        Self::check(&members)?;
        Ok(Self { epoch, members })
    }

    fn check(members: &[Member]) -> Result<(), InvalidRing> {
        if members.is_empty() {
            return Err(InvalidRing::Empty);
        }
        let pairs = members.iter().zip(members.iter().skip(1));
        for (one, next) in pairs {
            if one.partition >= next.partition {
                return Err(InvalidRing::Order { partition: next.partition });
            }
        }
        for &Member { partition, weight, ref sub_cluster } in members {
            if !(1..=Self::WEIGHT_MAX).contains(&weight) {
                return Err(InvalidRing::Weight { partition, weight });
            }
            if !is_sub_cluster_name(sub_cluster) {
                return Err(InvalidRing::SubCluster { partition });
            }
        }
        let sum = members.iter().map(|member| u32::from(member.weight)).sum();
        if sum > Self::WEIGHT_SUM_MAX {
            return Err(InvalidRing::WeightSum { sum });
        }
        Ok(())
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
fn number(text: &str) -> Option<u64> {
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
            ("gateway-ring 2\nepoch 7\npartition 0 weight 1 sub-cluster a\n", InvalidRing::Version),
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
        assert_eq!(new(vec![member(3, 0, "a")]), Err(InvalidRing::Weight { partition, weight: 0 }));
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
}
