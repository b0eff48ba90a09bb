//! The seam to the upstream: what a shard asks of it, and what it answers.
//!
//! The embedded upstream fills it with the logs of the node and its keyed store; JetStream
//! sub-clusters fill it with links. Requests return at once; answers come back through the
//! `handle_*` functions of [`super::ShardState`], in any order unless stated.

use crate::proto::mqtt::{QoS, ReasonCode};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{Anchor, Lane, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Record};
use crate::proto::session::record::Qos2Delta;
use crate::proto::session::{GroupId, Place, StoredWill, Ticket};
use crate::proto::time::Timestamp;
use bytes::Bytes;

/// Names an append; later appends of the same shard and lane have higher numbers, and
/// [`super::ShardState::handle_appended`] reports them committed in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendToken {
    /// Which line it stands in.
    pub lane: Lane,
    /// Its place there.
    pub number: u64,
}

/// What a shard needs from whatever is behind it.
pub trait Upstream {
    /// Appends a record to the log; it counts when [`super::ShardState::handle_appended`] reaches
    /// the token. Never blocks and never fails: see [`Upstream::is_congested`].
    fn append(&mut self, record: &Record<'_>) -> AppendToken;

    /// Appends a message that has a name. Where more than one gateway may publish it, it is stored
    /// once.
    fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken;

    /// Appends the will of a client, which has a name. Where the session has a record that another gateway
    /// may come to have, that says so until it is stored. One that may have been appended elsewhere, or before a
    /// crash, comes with when it was named: wherever it is, it is stored once.
    fn append_will(
        &mut self,
        message: &Message<'_>,
        will: &StoredWill,
        _named_at: Option<Timestamp>,
    ) -> AppendToken {
        self.append_named(message, will.id)
    }

    /// Appends a message that may have been appended before under this name, which was recorded, and
    /// is then at `from` or later: wherever it is, it is stored once.
    fn append_again(&mut self, message: &Message<'_>, id: MessageId, from: Sequence)
    -> AppendToken;

    /// Whether a message can be stored at all, given its topic is of an accepted length.
    fn can_store(&self, message: &Message<'_>) -> bool;

    /// Gives a QoS 0 message to every other shard or gateway with interest, stored nowhere.
    fn publish(&mut self, message: &Message<'_>);

    /// Whether a session of `client_id` may be stored, or is on its way there; false is certain, and
    /// then [`Request::Session`] need not be asked.
    fn may_have_session(&self, client_id: &str) -> bool;

    /// Other gateways may have the sessions of clients that connect here: a clean start is answered only
    /// when what is stored, here or elsewhere, has ended, and a CONNECT of whose client a session is in
    /// memory when that is known to be still this shard's ([`SessionUse::Stays`]).
    fn shares_sessions(&self) -> bool {
        false
    }

    /// Whether nobody else can have published the will of a session that is here. Otherwise its offline
    /// record has to be written first, with the will in it; whoever can write that publishes it.
    fn may_publish_will(&self, _client_id: &str) -> bool {
        true
    }

    /// Asks for something that takes time.
    fn request(&mut self, request: Request);

    /// Tells a shared subscription's group, wherever it is. What is said of one session arrives in
    /// the order it was said.
    fn tell_group(&mut self, request: GroupRequest);

    /// This shard wants messages that match `filter`, from now on.
    fn add_interest(&mut self, filter: &str);

    /// Undoes one [`Upstream::add_interest`] of the same filter.
    fn remove_interest(&mut self, filter: &str);

    /// A message that is being given was missed when it was stored, and later ones of its topic may have
    /// been given before: it is not for who takes it at QoS 0.
    fn is_late(&self, _partition: PartitionId, _sequence: Sequence) -> bool {
        false
    }

    /// Everything that [`Upstream::add_interest`] has added is in force when this token is committed;
    /// `None` when it is already. SUBACK waits for it: whoever publishes after that is heard.
    fn interest_in_force(&mut self) -> Option<AppendToken>;

    /// More is appended to a lane and not committed than the limit allows: publishers must wait.
    fn is_congested(&self, lane: Lane) -> bool;

    /// Whether [`Upstream::keeps_back`] may name a lane for some topic. Asked of every PUBLISH.
    fn keeps_any_back(&self) -> bool {
        false
    }

    /// No message of `topic` is taken in now: a publisher waits with it until this lane has room.
    fn keeps_back(&self, _topic: &str) -> Option<Lane> {
        None
    }

    /// Counts a session that begins; false when `sessions_max` are there and it must not.
    fn reserve_session(&mut self) -> bool;

    /// A session that was counted is over.
    fn release_session(&mut self);

    /// Whether a message to be retained is within the limits whatever its topic and those of others
    /// on their way are. If not, [`Request::RetainedRoom`] finds out.
    fn has_retained_room(&self, message: &Message<'_>) -> bool;

    /// The body of a recent record, if it is still in memory.
    fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes>;

    /// A place in `partition` such that every message from there on that matches a filter is fed to
    /// this shard, if [`Upstream::add_interest`] came before this call.
    fn feed_start(&self, partition: PartitionId) -> Sequence;

    /// A place in `partition` such that every message from there on that matches a filter is fed to
    /// this shard after the call of [`Upstream::add_interest`]: retained messages from there on need
    /// not be sent to who has just subscribed. The highest sequence where that is not known.
    fn retained_start(&self, partition: PartitionId) -> Sequence {
        self.feed_start(partition)
    }

    /// As [`Upstream::retained_start`], once what [`Upstream::interest_in_force`] said is committed: where
    /// it is known only then, and holds from this call on.
    fn settled_start(&self, _partition: PartitionId) -> Option<Sequence> {
        None
    }

    /// Up to where [`Request::Retained`] has to know `partition`, to be called after
    /// [`Upstream::feed_start`]: every retained message that this shard is not fed lies below. One of
    /// QoS 0 that does not and matches a filter is given to this shard, if
    /// [`Upstream::add_interest`] came before this call.
    fn retained_end(&self, partition: PartitionId) -> Sequence;

    /// Whether the place of a retained message tells that of QoS 0, too, if it came live. Where it does
    /// not, [`Upstream::retained_end`] is behind everything.
    fn places_tell_what_came_live(&self) -> bool {
        true
    }

    /// A partition may be away while others are there: what waits for one keeps back nothing of others.
    /// Where it is not so, what is sent again keeps its order over all of them.
    fn partitions_are_apart(&self) -> bool {
        false
    }

    /// What a session has to have of other partitions before it takes what `partition` has got in their
    /// place, in order of the changes.
    fn comes_after(&self, _partition: PartitionId) -> &[ComesAfter] {
        &[]
    }

    /// What is recorded beside places of `partition`, where places may be used again.
    fn anchor(&self, _partition: PartitionId) -> Option<Anchor> {
        None
    }

    /// A session that was stored names places of `partition` up to `anchor`. Where this returns true,
    /// nothing of it is read for the session before it is known whether those are what they were, which
    /// [`super::ShardState::handle_checked`] is told.
    fn check_places(&mut self, _session: u32, _partition: PartitionId, _anchor: Anchor) -> bool {
        false
    }

    /// The partition of which this shard is fed everything, whatever it is interested in.
    fn own_partition(&self) -> Option<PartitionId>;
}

/// What of a partition comes behind what of another, which had some of its topics before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComesAfter {
    /// The number of the change by which it is so, from 1: what is behind a later one is later.
    pub change: usize,
    /// From here on.
    pub from: Sequence,
    /// Of whom.
    pub partition: PartitionId,
    /// Everything before this.
    pub end: Sequence,
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
        /// What for.
        session_use: SessionUse,
        /// Who wants it.
        user: SessionUser,
    },
    /// A page of the retained messages that match a filter, in the order of their topics:
    /// [`super::ShardState::handle_retained`].
    Retained {
        /// Comes back with the answer.
        id: u64,
        /// A filter without `$share`.
        filter: Box<str>,
        /// Where the last page said that the next one begins; empty for the first.
        from: Box<str>,
        /// Not answered before every partition is known up to here: see
        /// [`Upstream::retained_end`].
        after: Vec<Sequence>,
        /// At most so many a page.
        count_max: u32,
    },
    /// Whether a message may be retained: [`super::ShardState::handle_retained_room`].
    RetainedRoom {
        /// Whose PUBLISH waits; comes back with the answer.
        connection: ConnectionId,
        /// Its topic name.
        topic: Box<str>,
        /// Of message and topic name.
        bytes: u64,
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

/// The user of a client that wants a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionUser {
    /// None for one that nobody knows.
    pub name: Option<Box<str>>,
    /// A session that a user has made is that user's alone: nothing of it may change for another,
    /// who is told so by [`super::ShardState::handle_session`].
    pub is_bound: bool,
}

impl SessionUser {
    /// Whether the user may have a session that `owner` made; one that nobody known has made is
    /// anybody's.
    #[must_use]
    pub fn may_have(&self, owner: Option<&str>) -> bool {
        !self.is_bound || owner.is_none() || owner == self.name.as_deref()
    }
}

/// What the stored state of a session is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// A CONNECT goes on with it, or with a new session if there is none.
    GoesOn {
        /// Seconds the session outlives its connection.
        expiry_s: u32,
    },
    /// A CONNECT goes on with a session that is in memory, if that is not another gateway's by now. If it
    /// is, there is no answer: see [`super::ShardState::handle_session_lost`].
    Stays,
    /// A CONNECT starts over: what is stored ends.
    StartsOver {
        /// Seconds the session outlives its connection; with 0 nothing of it needs to be stored.
        expiry_s: u32,
    },
    /// A timer of a session that is offline may be due; nobody takes it.
    Looks,
}

/// What a shard says to the group of a shared subscription. The group is called `ShareName/filter`.
/// Source: MQTT 5.0 §4.8.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRequest {
    /// A session is a member from now on, or what was agreed with it has changed. Answered by
    /// [`super::ShardState::handle_joined`].
    Join {
        /// Of the group, which is made if there is none.
        name: Box<str>,
        /// The session.
        ticket: Ticket,
        /// Comes back with the answer.
        subscribe: u64,
        /// Comes back with the answer.
        number: u64,
        /// The granted QoS.
        qos: QoS,
        /// Messages it may have unacknowledged.
        window: u16,
        /// The session outlives its connection.
        persistent: bool,
        /// The group counts the session among those that are offline.
        returning: bool,
    },
    /// A session has unsubscribed, ended or lost its connection. Messages it was given and has not
    /// said anything of go to others.
    Part {
        /// Of the group.
        name: Box<str>,
        /// The session.
        ticket: Ticket,
        /// The subscription stays: the session is offline.
        stays: bool,
        /// Messages the session still speaks for.
        kept: Vec<Place>,
    },
    /// The subscription of a session that is offline is over.
    Forget {
        /// Of the group.
        name: Box<str>,
    },
    /// The session is done with a message.
    Settled {
        /// Of the group.
        group: GroupId,
        /// The session.
        ticket: Ticket,
        /// The message, unless the group was told of it before.
        place: Option<Place>,
        /// Its place in the session's window is free.
        finished: bool,
    },
    /// Messages that a former member speaks for and will not deliver.
    Return {
        /// Of the group.
        group: GroupId,
        /// Which.
        places: Vec<Place>,
    },
}

/// The answer to [`GroupRequest::Join`].
///
/// A persistent member may hear it twice: when it is one, and when that is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Of the request.
    pub subscribe: u64,
    /// Of the request: which subscription of this name.
    pub number: u64,
    /// Of the group.
    pub name: Box<str>,
    /// The group, or why not.
    pub group: Result<GroupId, ReasonCode>,
    /// The group's record is committed, if it has one.
    pub recorded: bool,
}

/// A message a group gives to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMessage {
    /// The group.
    pub group: GroupId,
    /// Where it is, `None` when it is to be sent with QoS 0.
    pub place: Option<Place>,
    /// The group outlives the process: before a PUBLISH of QoS 2 it must be recorded that the
    /// message is no longer the group's, whether or not the session outlives its connection.
    pub record: bool,
    /// The body of its record.
    pub body: Bytes,
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
    /// Its gateway died, and this is the first to hear of its will.
    pub is_orphan: bool,
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

/// The answer to [`Request::Retained`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// In the order of their topics.
    pub messages: Vec<RetainedMessage>,
    /// Where the next page begins, if there is one: see `from` of the request.
    pub next: Option<Box<str>>,
    /// Behind the last page: what was on its way to be retained meanwhile will be found from here on.
    pub again: Option<Box<str>>,
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
    /// Up to where this shard is known to have been fed everything. At the end that is `next`, unless
    /// the feed may yet turn out to have left something out.
    pub seen: Sequence,
    /// Where it may: up to where the log itself was read. What lies behind came out of the feed.
    pub read_to: Option<Sequence>,
    /// `from` lay before the first record that is still there: messages may be missing.
    pub clamped: bool,
    /// The session does not wait for other partitions to put this in order with what they bring: one
    /// that is away must not keep back what the others have.
    pub alone: bool,
}

/// What the store says about a timer of an offline session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The session expires.
    Expiry,
    /// Its delayed will is to be published.
    Will,
}
