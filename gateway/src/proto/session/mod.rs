//! One client's session: what MQTT keeps for a client id, online.
//!
//! An offline session is not here: it is a [`record`] in the log and the keyed store. The parts
//! that most sessions do not need at a given moment ([`Outbound`], [`Inbound`], the will) are
//! allocated when needed and dropped when empty, so an idle session is this struct and its client id.

mod aliases;
mod answers;
pub mod handed_over;
mod inbound;
mod mounted;
mod outbound;
mod permissions;
pub mod record;
pub mod shared;

pub use aliases::{InboundAliases, OutboundAliases, TopicForm};
pub use answers::Answers;
pub use inbound::{Inbound, InboundQos2, InboundStep};
pub use outbound::{
    Ahead, Behind, HELD_MAX, InFlight, InFlightStep, Outbound, Queued, QueuedFor, ReadBack,
    Refetching, RetainedRequest, RetainedStarts, SubscriptionStart, Unsent,
};
pub use shared::{GroupId, Origin, Place, SharedSubscription};

use super::access::Identity;
use super::mqtt::{ProtocolVersion, QoS};
use super::output::ConnectionId;
use super::partition::{Anchor, PartitionId};
use super::record::MessageId;
use super::routing::FilterId;
use super::tenant::split_name;
use super::time::Timestamp;
use std::rc::Rc;
use std::sync::Arc;

/// The number of a session that never expires. Source: MQTT 5.0 §3.1.2.11.2.
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// Names a session of this shard and this stay in the slab: an answer that comes too late for
/// one session can never reach the next in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Place in the shard's slab of sessions.
    pub session: u32,
    /// How many sessions had that place before.
    pub epoch: u32,
}

/// Where a session is between its first CONNECT and leaving memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// CONNECT came; the stored state was asked for.
    ExpectState,
    /// CONNACK was sent.
    Online,
    /// The connection is gone; leaves memory when its record is committed.
    ExpectSaved,
}

/// What the client said in CONNECT, as far as it matters later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The version spoken.
    pub version: ProtocolVersion,
    /// Clean Start (5.0), Clean Session (3.1.1).
    pub clean_start: bool,
    /// Keep alive in force, milliseconds of silence allowed (one and a half times the value); 0: any.
    pub silence_max_ms: u32,
    /// Seconds the session outlives its connection; [`NEVER_EXPIRES`] for ever.
    pub session_expiry_s: u32,
    /// The smaller of the client's Receive Maximum and our window.
    pub window: u16,
    /// Maximum Packet Size of the client, bytes.
    pub maximum_packet_size: u32,
    /// The smaller of the client's Topic Alias Maximum and our limit.
    pub topic_alias_maximum: u16,
    /// Request Problem Information: reason strings and user properties may be sent in any packet.
    pub problem_information: bool,
}

impl Connected {
    /// Of a session that no client has.
    pub const NOTHING: Self = Self {
        version: ProtocolVersion::V5,
        clean_start: true,
        silence_max_ms: 0,
        session_expiry_s: 0,
        window: 0,
        maximum_packet_size: 0,
        topic_alias_maximum: 0,
        problem_information: false,
    };
}

/// A Will, owned. Source: MQTT 5.0 §3.1.2.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWill {
    /// The message's name: whoever publishes it, it is one message.
    pub id: MessageId,
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
    /// Message Expiry Interval, seconds.
    pub expiry_interval_s: Option<u32>,
    /// Will Topic.
    pub topic: Box<str>,
    /// Properties forwarded unaltered.
    pub properties: Box<[u8]>,
    /// Will Payload.
    pub payload: Box<[u8]>,
}

/// A session in memory.
#[derive(Debug)]
pub struct Session {
    /// Client Identifier, behind the mountpoint of a tenant: see [`tenant`](super::tenant). Shared so that a
    /// publisher can be named while its session is used.
    pub client_id: Rc<str>,
    /// The connection, while there is one.
    pub connection: Option<ConnectionId>,
    /// From CONNECT.
    pub connected: Connected,
    /// See [`Ticket`].
    pub epoch: u32,
    /// See [`Stage`].
    pub stage: Stage,
    /// The log or the store holds a record of this session, or of an earlier one of the client.
    pub stored: bool,
    /// The upstream was asked for stored state and has not answered.
    pub asked: bool,
    /// Counted by [`reserve_session`](super::shard_state::Upstream::reserve_session).
    pub counted: bool,
    /// Its last record is committed, and only an answer about its predecessor keeps it in memory.
    pub saved: bool,
    /// Covered by the shard's floor: see ARCHITECTURE.md, "Sessions, cursors, going live".
    pub follows_floor: bool,
    /// Names of the client may stand in patterns: see [`Names`](super::access::Names).
    pub patterns_taken: bool,
    /// Not all that its subscriptions match may be read.
    pub reads_checked: bool,
    /// Some of its subscriptions may match the same topic.
    pub may_overlap: bool,
    /// Outbound QoS 2 steps recorded since the last whole record.
    pub qos2_deltas: u16,
    /// Of the mountpoint and what is behind it, in front of the client id and of each stored topic of its
    /// own, bytes; 0 without one.
    pub mount_bytes: u16,
    /// What its filters take in its record, bytes.
    pub subscription_bytes: u32,
    /// The last packet id used towards the client, 0 before the first.
    pub last_packet_id: u16,
    /// Inbound QoS 1 and 2 messages appended and not acknowledged.
    pub inbound_unacknowledged: u16,
    /// Which of them are answered next.
    pub answers: Answers,
    /// Its filters.
    pub subscriptions: Vec<FilterId>,
    /// Its shared subscriptions: few sessions have any.
    pub shared: Box<[SharedSubscription]>,
    /// Messages on their way to the client.
    pub outbound: Option<Box<Outbound>>,
    /// QoS 2 exchanges the client started, and its topic aliases.
    pub inbound: Option<Box<Inbound>>,
    /// Aliases we set.
    pub aliases: Option<Box<OutboundAliases>>,
    /// Published when the connection or the session ends.
    pub will: Option<Box<StoredWill>>,
    /// Who the client is, where that is asked.
    pub identity: Option<Arc<Identity>>,
}

impl Session {
    /// What is recorded beside a place of `partition`, of which `current` is known: nothing where it is not
    /// known yet whether the places of the session are what they were.
    #[must_use]
    pub fn anchor(&self, partition: PartitionId, current: Option<Anchor>) -> Option<Anchor> {
        let is_unchecked = |outbound: &Outbound| outbound.unchecked_anchor(partition).is_some();
        current.filter(|_| !self.outbound.as_deref().is_some_and(is_unchecked))
    }

    /// A session that a CONNECT has just named.
    #[must_use]
    pub fn new(client_id: Rc<str>, connected: Connected, epoch: u32) -> Self {
        let (mountpoint, _) = split_name(&client_id);
        let mount_bytes = mountpoint.map_or(0, |mountpoint| mountpoint.len() + 1);
        Self {
            mount_bytes: u16::try_from(mount_bytes).unwrap_or(u16::MAX),
            client_id,
            connection: None,
            connected,
            epoch,
            stage: Stage::ExpectState,
            stored: false,
            asked: false,
            counted: false,
            saved: false,
            follows_floor: false,
            patterns_taken: false,
            reads_checked: false,
            may_overlap: false,
            qos2_deltas: 0,
            subscription_bytes: 0,
            last_packet_id: 0,
            inbound_unacknowledged: 0,
            answers: Answers::default(),
            subscriptions: Vec::new(),
            shared: Box::default(),
            outbound: None,
            inbound: None,
            aliases: None,
            will: None,
            identity: None,
        }
    }

    /// Whether the session outlives its connection.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.connected.session_expiry_s > 0
    }

    /// When the session ends if its connection ends at `now`.
    #[must_use]
    pub fn expires_at(&self, now: Timestamp) -> Timestamp {
        match self.connected.session_expiry_s {
            NEVER_EXPIRES => Timestamp::NEVER,
            seconds => now.after_seconds(seconds),
        }
    }

    /// The messages on their way, made when there is none yet.
    pub fn outbound_mut(&mut self) -> &mut Outbound {
        self.outbound.get_or_insert_default()
    }

    /// The inbound state, made when there is none yet.
    pub fn inbound_mut(&mut self) -> &mut Inbound {
        self.inbound.get_or_insert_default()
    }

    /// Drops what is empty: an idle session costs no more than its struct.
    pub fn shrink(&mut self) {
        if self.outbound.as_deref().is_some_and(Outbound::is_empty) {
            self.outbound = None;
        }
        if self.inbound.as_deref().is_some_and(Inbound::is_empty) {
            self.inbound = None;
        }
    }

    /// The next packet id not in use towards the client, `None` when its window is full.
    /// Source: MQTT 5.0 [MQTT-2.2.1-4]; MQTT 3.1.1 [MQTT-2.3.1-4].
    pub fn next_packet_id(&mut self) -> Option<super::mqtt::PacketId> {
        let outbound = self.outbound.get_or_insert_default();
        if outbound.in_window() >= usize::from(self.connected.window) {
            return None;
        }
        loop {
            self.last_packet_id = self.last_packet_id.wrapping_add(1);
            let Some(id) = super::mqtt::PacketId::new(self.last_packet_id) else {
                continue;
            };
            if !outbound.is_in_flight(id) {
                return Some(id);
            }
        }
    }
}
