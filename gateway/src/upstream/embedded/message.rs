//! What the shards of a node say to each other about their logs.

use super::groups::GroupReply;
use super::store::thread::StoreReply;
use crate::proto::access::{Authentication, Challenge, Recheck};
use crate::proto::limits::Limits;
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::session::Ticket;
use crate::proto::shard_state::{GroupRequest, Replayed};
use crate::upstream::inquiry::Inquiry;
use crate::upstream::jetstream::control::ControlNews;
use crate::upstream::jetstream::members::LinkTo;
use bytes::Bytes;
use std::sync::Arc;

/// A message to a shard, from another or from a thread beside the shards.
#[derive(Debug)]
pub enum NodeMessage {
    /// Records were committed; those at `offsets` may have subscribers on the receiver.
    Feed {
        /// Shared with the sender's log.
        chunk: Chunk,
        /// Byte offsets of frames in the chunk, ascending.
        offsets: Vec<u32>,
    },
    /// QoS 0 messages: bodies behind their length (u32, little endian), those at `offsets` may have
    /// subscribers on the receiver.
    Volatile {
        /// Shared with the other receivers.
        bytes: Bytes,
        /// Byte offsets of lengths.
        offsets: Vec<u32>,
    },
    /// What the node says of itself now, for subscribers there are and for those that come: bodies behind
    /// their length at `offsets`, as in `Volatile`.
    Status {
        /// Shared with the other receivers.
        bytes: Bytes,
        /// Byte offsets of lengths.
        offsets: Vec<u32>,
    },
    /// Everything of the sender's partition before `end` was sent, as far as it concerns the
    /// receiver.
    Watermark {
        /// The sender's.
        partition: PartitionId,
        /// Exclusive.
        end: Sequence,
    },
    /// Asks the shard that has a partition's log.
    Ask(Box<Ask>),
    /// Answers [`Question::Replay`].
    Replayed(Ticket, Replayed),
    /// Answers [`Question::Fetch`].
    Fetched(Ticket, PartitionId, Vec<(Sequence, Option<Box<[u8]>>)>),
    /// A member's shard tells a group of the receiver.
    ToGroup(ShardIndex, GroupRequest),
    /// A group tells a member's shard.
    FromGroup(GroupReply),
    /// From the storage thread.
    Store(StoreReply),
    /// From the control thread, with JetStream.
    Control(Box<ControlNews>),
    /// From the thread that reads the configuration again: links to this sub-cluster can be made, too.
    SubCluster(Box<LinkTo>),
    /// From an authentication thread: who the client of a connection is.
    Authenticated(ConnectionId, Authentication),
    /// From an authentication thread: what the client of a connection has to prove.
    Challenged(ConnectionId, Box<Challenge>),
    /// From the last authentication thread that has heard of it: what is known of clients has changed.
    AccessChanged(Arc<dyn Recheck>),
    /// From an authentication thread: so many milliseconds the wall clock is ahead of the shards' own.
    WallClock(i64),
    /// From the thread that reads the configuration again: bans and rates are these now.
    LimitsChanged(Arc<Limits>),
    /// From a thread that looks at the shard.
    Inquire(Box<Inquiry>),
}

impl NodeMessage {
    /// What the message keeps in memory, roughly. Chunks count in full, although they may be shared
    /// with other messages and with the log's tail.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let content = match self {
            Self::Feed { chunk, offsets } => chunk.bytes.len() + offsets.len() * 4,
            Self::Volatile { bytes, offsets } | Self::Status { bytes, offsets } => {
                bytes.len() + offsets.len() * 4
            }
            Self::Replayed(_, replayed) => {
                replayed.messages.iter().map(|(_, body)| body.len()).sum()
            }
            Self::Fetched(_, _, bodies) => {
                bodies.iter().map(|(_, body)| body.as_ref().map_or(0, |body| body.len())).sum()
            }
            Self::FromGroup(GroupReply::Message { message, .. }) => message.body.len(),
            Self::Watermark { .. }
            | Self::Ask(_)
            | Self::ToGroup(..)
            | Self::FromGroup(GroupReply::Joined { .. })
            | Self::Store(_)
            | Self::Control(_)
            | Self::SubCluster(_)
            | Self::Authenticated(..)
            | Self::Challenged(..)
            | Self::AccessChanged(_)
            | Self::WallClock(_)
            | Self::LimitsChanged(_)
            | Self::Inquire(_) => 0,
        };
        content + size_of::<Self>()
    }
}

/// A question about a log of another shard.
#[derive(Debug)]
pub struct Ask {
    /// Where the answer goes.
    pub asker: ShardIndex,
    /// Comes back with it.
    pub ticket: Ticket,
    /// Whose log.
    pub partition: PartitionId,
    /// What is asked.
    pub question: Question,
}

/// See [`Ask`].
#[derive(Debug)]
pub enum Question {
    /// Messages that match a filter.
    Replay {
        /// The first sequence wanted.
        from: Sequence,
        /// Any of these.
        filters: Vec<Box<str>>,
        /// The answer goes out when there are so many.
        count_max: u32,
    },
    /// Single records.
    Fetch {
        /// Which.
        sequences: Vec<Sequence>,
    },
}

/// What there are many of is moved as it is; what is rare and large is in a box.
const _: () = assert!(size_of::<NodeMessage>() <= 80);
