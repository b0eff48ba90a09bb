//! The seam to the upstream: what a shard asks of it, and what it answers.
//!
//! The embedded upstream fills it with the logs of the node and its keyed store; JetStream
//! sub-clusters fill it with links. Requests return at once; answers come back through the
//! `handle_*` functions of [`super::ShardState`], in any order unless stated.

use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::session::Ticket;
use crate::proto::session::record::Qos2Delta;
use crate::proto::time::Timestamp;
use bytes::Bytes;

/// Names an append; later appends of the same shard have higher tokens, and
/// [`super::ShardState::handle_appended`] reports them committed in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendToken(pub u64);

/// What a shard needs from whatever is behind it.
pub trait Upstream {
    /// Appends a record to the log; it counts when [`super::ShardState::handle_appended`] reaches
    /// the token. Never blocks and never fails: see [`Upstream::is_congested`].
    fn append(&mut self, record: &Record<'_>) -> AppendToken;

    /// Gives a QoS 0 message to every other shard or gateway with interest, stored nowhere.
    fn publish(&mut self, message: &Message<'_>);

    /// Whether a session of `client_id` may be stored, or is on its way there; false is certain, and
    /// then [`Request::Session`] need not be asked.
    fn may_have_session(&self, client_id: &str) -> bool;

    /// Asks for something that takes time.
    fn request(&mut self, request: Request);

    /// This shard wants messages that match `filter`, from now on.
    fn add_interest(&mut self, filter: &str);

    /// Undoes one [`Upstream::add_interest`] of the same filter.
    fn remove_interest(&mut self, filter: &str);

    /// More is appended and not committed than the limit allows: publishers must wait.
    fn is_congested(&self) -> bool;

    /// The body of a recent record, if it is still in memory.
    fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes>;

    /// A place in `partition` such that every message from there on that matches a filter is fed to
    /// this shard, if [`Upstream::add_interest`] came before this call.
    fn feed_start(&self, partition: PartitionId) -> Sequence;

    /// The partition this shard appends to, and the sequence its next record will get at least.
    fn append_position(&self) -> (PartitionId, Sequence);
}

/// A question to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The stored state of a client's session: [`super::ShardState::handle_session`].
    Session {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Whose.
        client_id: Box<str>,
    },
    /// The retained messages that match a filter: [`super::ShardState::handle_retained`].
    Retained {
        /// Comes back with the answer.
        id: u64,
        /// A filter without `$share`.
        filter: Box<str>,
        /// At most so many.
        count_max: u32,
    },
    /// Messages of a partition from a place on: [`super::ShardState::handle_replayed`].
    Replay {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Which log.
        partition: PartitionId,
        /// The first sequence wanted.
        from: Sequence,
        /// Messages that match any of these.
        filters: Vec<Box<str>>,
        /// At most so many messages an answer.
        count_max: u32,
    },
    /// Single records: [`super::ShardState::handle_fetched`].
    Fetch {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Which log.
        partition: PartitionId,
        /// Which records.
        sequences: Vec<Sequence>,
    },
}

/// A stored session, as [`Request::Session`] finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredSession {
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When its delayed will is due.
    pub will_at: Timestamp,
    /// See [`crate::proto::session::record`].
    pub record: Box<[u8]>,
    /// QoS 2 steps recorded after `record`.
    pub steps: Vec<Qos2Delta>,
}

/// A retained message, as [`Request::Retained`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMessage {
    /// The log it was appended to.
    pub partition: PartitionId,
    /// Its place there.
    pub sequence: Sequence,
    /// The body of its record.
    pub body: Box<[u8]>,
}

/// The answer to [`Request::Replay`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Which log.
    pub partition: PartitionId,
    /// Matching messages in order: place and record body.
    pub messages: Vec<(Sequence, Box<[u8]>)>,
    /// Where to go on.
    pub next: Sequence,
    /// `next` is the end of what is committed; whatever is later will be delivered live.
    pub end: bool,
    /// `from` lay before the first record that is still there: messages may be missing.
    pub clamped: bool,
}

/// What the store says about a timer of an offline session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The session expires.
    Expiry,
    /// Its delayed will is to be published.
    Will,
}
