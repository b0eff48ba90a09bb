//! One whole shard without I/O: bytes, upstream answers and time in; bytes, actions and upstream
//! requests out.
//!
//! ```text
//! received ─▶ decode ─▶ connect / publish / subscribe ─▶ Upstream::append ─▶ (committed) ─▶ waiting: PUBACK …
//! live message ─▶ deliver ─▶ outbound window ─▶ Outbox            stored session, replay ─▶ catch_up ─▶ ─┘
//! ```
//! After every call the caller performs what is in its [`Context`]; no call blocks or fails.

mod admission;
mod authenticate;
mod came_live;
mod catch_up;
pub mod comings;
mod connect;
mod deliver;
mod deliver_pace;
mod disconnect;
mod elsewhere;
mod encode;
pub mod events;
mod fault;
mod gauges;
mod goodbye;
mod hand_over;
pub mod inspect;
mod lanes;
mod looks;
mod lost_tail;
mod outbound_acks;
mod pace;
mod permit;
mod prove;
mod publish;
mod rebalance;
mod recheck;
mod relimit;
mod replay;
mod retained;
mod retained_room;
mod saving;
mod shared;
pub mod slow;
mod subscribe;
mod talkers;
mod upstream;
mod waiting;
mod wall_clock;
mod will_names;

pub use connect::home_shard;
pub use fault::ProtocolError;
pub use gauges::{Gauges, OutboundGauges, StageCounts, TransportCounts};
pub use upstream::{
    AppendToken, ComesAfter, Due, GroupRequest, Joined, Replayed, Request, RetainedMessage,
    RetainedPage, SessionUse, SessionUser, SharedMessage, StoredSession, Upstream,
};

use super::access::Refusal;
use super::handler::TransportKind;
use super::limits::Limits;
use super::mqtt::{DecodeContext, Packet, PacketType, ProtocolVersion, Role, decode};
use super::output::{Action, ConnectionId, Outbox, ShardIndex};
use super::packet_counts::PacketCounts;
use super::partition::{PartitionId, Sequence};
use super::routing::{Subscriber, SubscriptionTree};
use super::session::{Session, Ticket};
use super::time::Timestamp;
use super::wheel::Wheel;
use admission::{Admission, Admitted};
use ahash::RandomState;
use authenticate::Strangers;
use comings::Comings;
use connect::PendingConnect;
use deliver_pace::DeliverPaces;
use encode::FanOut;
use events::Events;
use goodbye::Goodbye;
use hashbrown::HashTable;
use lanes::Lanes;
use pace::{Paces, Turn};
use permit::ToldFaults;
use rebalance::Rebalancing;
use recheck::Rechecking;
use retained::{RetainedRequests, StoreRetry};
use retained_room::RetainedRoom;
use shared::SharedSubscribes;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use talkers::Talkers;
use will_names::WillNames;

/// How often the floor of up-to-date sessions is recorded.
const FLOOR_INTERVAL: Duration = Duration::from_secs(1);

/// Resolution of keep alives and connect timeouts, and how many of them one turn of the wheel has.
const KEEP_ALIVE_TICK_MS: u64 = 500;
const KEEP_ALIVE_SLOTS: usize = 256;

/// Proofs that end later than this are looked at again then.
const WATCH_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What a call may write to: the bytes, the actions and the requests that come out of it.
pub struct Context<'a> {
    /// The time of this event.
    pub now: Timestamp,
    /// Bytes to send, per connection.
    pub outbox: &'a mut Outbox,
    /// What to do with connections, in order.
    pub actions: &'a mut Vec<Action>,
    /// What is behind this shard.
    pub upstream: &'a mut dyn Upstream,
}

/// What happened so far, for metrics. Counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received; those sent are counted in [`Outbox::sent`].
    pub received: PacketCounts,
    /// CONNECT packets accepted.
    pub connects: u64,
    /// PUBLISH packets received, by QoS.
    pub publish_received: [u64; 3],
    /// PUBLISH packets sent, by QoS.
    pub publish_sent: [u64; 3],
    /// QoS 0 messages dropped because the connection had too many bytes waiting.
    pub dropped_slow: u64,
    /// Messages dropped because they exceed the client's Maximum Packet Size.
    pub dropped_too_large: u64,
    /// Messages dropped because they expired.
    pub dropped_expired: u64,
    /// Packets that broke the protocol.
    pub faults: u64,
    /// Connections that sent no whole CONNECT in time.
    pub connect_timeouts: u64,
    /// Sessions whose cursor lay before the first record still kept.
    pub clamped: u64,
    /// Messages in flight whose content is gone from the log.
    pub unfetchable: u64,
    /// Stored sessions that could not be read.
    pub unreadable_sessions: u64,
    /// CONNECT packets refused because the node had `sessions_max`.
    pub sessions_refused: u64,
    /// Messages not retained because of `retained_messages_max` or `retained_bytes_max`.
    pub retained_refused: u64,
    /// Subscriptions that got none or not all retained messages because the store failed.
    pub retained_given_up: u64,
    /// Questions the keyed store could not answer.
    pub store_failures: u64,
    /// CONNECT packets refused because it was not known who sent them.
    pub connects_denied: u64,
    /// CONNECT packets refused because the client id is not the user's.
    pub client_ids_denied: u64,
    /// CONNECT packets refused because the session is another user's.
    pub sessions_denied: u64,
    /// PUBLISH packets the client was not allowed to send.
    pub publish_denied: u64,
    /// Wills the client was not allowed to have, with its CONNECT or from new rules on.
    pub will_denied: u64,
    /// Topic filters the client was not allowed to subscribe to.
    pub subscribe_denied: u64,
    /// Messages not sent because the client may not read them.
    pub read_denied: u64,
    /// Clients sent to other gateways while this one goes on.
    pub sent_elsewhere: u64,
    /// Connections ended because files were read anew.
    pub let_go: u64,
    /// How often the event loop became late.
    pub overloads: u64,
    /// CONNECT packets that had to wait for their turn.
    pub connects_delayed: u64,
    /// CONNECT packets refused because of a ban or the rate of an address.
    pub connects_turned_away: u64,
    /// How often a client was not read because it publishes too fast.
    pub publish_paced: u64,
    /// How often a client was not sent to because it is sent too fast.
    pub deliver_paced: u64,
    /// Clients that have proven anew who they are.
    pub reauthentications: u64,
    /// Clients that wanted to, and have not.
    pub reauthentications_denied: u64,
    /// Events of clients not told because there were too many.
    pub events_over_rate: u64,
}

/// A connection as the core sees it; its place is the engine's.
#[derive(Clone, Copy, Debug)]
struct Connection {
    generation: u32,
    session: u32,
    stage: ConnectionStage,
    version: ProtocolVersion,
    held: bool,
    /// It is, or has been, the turn of its CONNECT.
    admitted: bool,
    /// It named an Authentication Method, and may authenticate again.
    proves: bool,
    transport: TransportKind,
    /// When the last whole packet came.
    last_received: Timestamp,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionStage {
    /// Nothing: no connection has this place.
    Vacant,
    /// The first packet.
    ExpectConnect,
    /// Word of who the client is.
    ExpectIdentity,
    /// AUTH, with the proof of who the client is.
    ExpectProof,
    /// The session's stored state, or the end of its predecessor.
    ExpectSession,
    /// Any packet but CONNECT.
    Connected,
    /// To be closed by the engine: what still comes is ignored.
    Closing,
}

const NO_SESSION: u32 = u32::MAX;

#[derive(Debug, Default)]
struct SessionSlot {
    epoch: u32,
    session: Option<Box<Session>>,
}

/// The state of one shard.
pub struct ShardState {
    shard: ShardIndex,
    shard_count: u16,
    limits: Limits,
    random: RandomState,
    random_counter: u64,
    will_names: WillNames,
    connections: Vec<Connection>,
    keep_alives: Wheel,
    /// How far the wall clock, by which proofs end, is ahead of the time of events.
    wall_ahead_ms: i64,
    sessions: Vec<SessionSlot>,
    vacant_sessions: Vec<u32>,
    by_client: HashTable<u32>,
    admission: Admission,
    paces: Paces,
    deliver_paces: DeliverPaces,
    strangers: Strangers,
    comings: Comings,
    events: Events,
    told_faults: ToldFaults,
    rechecking: Option<Box<Rechecking>>,
    /// CONNECTs that wait for the record of the session they continue.
    pending_connects: HashMap<u32, Box<PendingConnect>, RandomState>,
    /// Timers of offline sessions being looked at, by [`Ticket::epoch`] under [`BACKGROUND`].
    background: HashMap<u32, (Box<str>, Due), RandomState>,
    background_counter: u32,
    tree: SubscriptionTree,
    lanes: Lanes,
    retained_requests: RetainedRequests,
    shared_subscribes: SharedSubscribes,
    /// Connections whose next PUBLISH is to be retained and waits for, or has, the word that there
    /// is room.
    retained_rooms: HashMap<ConnectionId, RetainedRoom, RandomState>,
    store_retry: StoreRetry,
    /// Per partition, up to where this shard has seen the feed.
    watermarks: Vec<Sequence>,
    /// Sessions that have an `Outbound`, and maybe some that had.
    with_outbound: Vec<u32>,
    floor: Vec<Sequence>,
    floor_due: Timestamp,
    /// Watermarks of the last floors, oldest first: what is unfinished since the first is slow.
    past_watermarks: VecDeque<Vec<Sequence>>,
    followers: u32,
    matches: Vec<Subscriber>,
    overlapping: Vec<Subscriber>,
    fan_out: FanOut,
    scratch: Vec<u8>,
    topic_scratch: String,
    counters: Counters,
    /// What carries the connection that is opened next.
    opening: TransportKind,
    stages: TransportCounts,
    outbound_gauges: OutboundGauges,
    /// Of the last look at those with messages on their way, slowest first.
    slowest: Vec<gauges::Slow>,
    slow: slow::SlowWatch,
    /// What the node said last of itself: bodies of QoS 0 messages under `$SYS/`.
    status: Vec<bytes::Bytes>,
    talkers: Talkers,
    /// Clients whose packets are shown to an operator, with the number of the trace.
    traced: Vec<(Box<str>, u32)>,
    /// The node ends.
    goodbye: Option<Goodbye>,
    /// Clients are sent elsewhere.
    rebalancing: Option<Rebalancing>,
    /// Clients are not read: see `hand_over.rs`.
    is_paused: bool,
}

/// The `session` of tickets for offline sessions.
const BACKGROUND: u32 = u32::MAX;

impl ShardState {
    /// A shard without connections. `seed` fixes every random choice.
    #[must_use]
    pub fn new(
        shard: ShardIndex,
        shard_count: u16,
        limits: Limits,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let random = RandomState::with_seeds(seed, seed.rotate_left(17), !seed, seed ^ 0x5bd1_e995);
        Self {
            shard,
            shard_count,
            limits,
            connections: Vec::new(),
            keep_alives: Wheel::new(now, KEEP_ALIVE_TICK_MS, KEEP_ALIVE_SLOTS),
            wall_ahead_ms: 0,
            sessions: Vec::new(),
            vacant_sessions: Vec::new(),
            by_client: HashTable::new(),
            admission: Admission::default(),
            paces: Paces::new(now),
            deliver_paces: DeliverPaces::new(now),
            strangers: Strangers::default(),
            comings: Comings::default(),
            events: Events::default(),
            told_faults: ToldFaults::default(),
            rechecking: None,
            pending_connects: HashMap::with_hasher(random.clone()),
            background: HashMap::with_hasher(random.clone()),
            background_counter: 0,
            tree: SubscriptionTree::new(seed),
            lanes: Lanes::default(),
            retained_requests: RetainedRequests::default(),
            shared_subscribes: SharedSubscribes::default(),
            retained_rooms: HashMap::with_hasher(random.clone()),
            store_retry: StoreRetry::default(),
            watermarks: Vec::new(),
            with_outbound: Vec::new(),
            floor: Vec::new(),
            floor_due: Timestamp::NEVER,
            past_watermarks: VecDeque::new(),
            followers: 0,
            matches: Vec::new(),
            overlapping: Vec::new(),
            fan_out: FanOut::default(),
            scratch: Vec::new(),
            topic_scratch: String::new(),
            counters: Counters::default(),
            opening: TransportKind::Tcp,
            stages: TransportCounts::default(),
            outbound_gauges: OutboundGauges::default(),
            slowest: Vec::new(),
            slow: slow::SlowWatch::default(),
            status: Vec::new(),
            talkers: Talkers::default(),
            traced: Vec::new(),
            goodbye: None,
            rebalancing: None,
            is_paused: false,
            random_counter: seed,
            will_names: WillNames::new(random.hash_one((seed, now.0))),
            random,
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many sessions are in memory.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.by_client.len()
    }

    /// How many sessions in memory have messages on their way, or memory for them.
    #[must_use]
    pub fn outbound_count(&self) -> usize {
        let sessions = self.sessions.iter().filter_map(|slot| slot.session.as_deref());
        sessions.filter(|session| session.outbound.is_some()).count()
    }

    /// How many distinct filters the shard's subscription tree holds.
    #[must_use]
    pub fn filter_count(&self) -> usize {
        self.tree.len()
    }

    /// The first records kept by recovery: from where the feed of each partition goes on.
    pub fn set_watermark(&mut self, partition: PartitionId, end: Sequence) {
        let place = usize::from(partition.0);
        if place >= self.watermarks.len() {
            self.watermarks.resize(place + 1, Sequence::ZERO);
            self.floor.resize(place + 1, Sequence::ZERO);
        }
        if let Some(watermark) = self.watermarks.get_mut(place) {
            *watermark = end.max(*watermark);
        }
    }

    /// A connection was accepted, or handed over by another shard.
    pub fn handle_opened(&mut self, id: ConnectionId, context: &mut Context<'_>) {
        let place = id.index as usize;
        let connection = Connection {
            generation: id.generation,
            session: NO_SESSION,
            stage: ConnectionStage::Vacant,
            version: ProtocolVersion::V3_1_1,
            held: false,
            admitted: false,
            proves: false,
            transport: self.opening,
            last_received: context.now,
        };
        if place >= self.connections.len() {
            self.connections.resize(place + 1, connection);
        }
        self.set_stage(id.index, ConnectionStage::Vacant);
        if let Some(slot) = self.connections.get_mut(place) {
            *slot = connection;
        }
        self.set_stage(id.index, ConnectionStage::ExpectConnect);
        let deadline = context.now.after_seconds(self.limits.connect_timeout_s);
        self.keep_alives.set(id.index, deadline);
    }

    /// Bytes came. Returns how many were consumed; the rest is to be offered again, with what
    /// comes behind it, or when the connection is resumed.
    pub fn handle_received(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        context: &mut Context<'_>,
    ) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(connection) = self.connection(id) else {
                return bytes.len();
            };
            let connecting = connection.stage == ConnectionStage::ExpectConnect;
            let online = connection.stage == ConnectionStage::Connected;
            match connection.stage {
                ConnectionStage::ExpectConnect | ConnectionStage::Connected if !connection.held => {
                }
                ConnectionStage::ExpectProof => {}
                ConnectionStage::Connected
                | ConnectionStage::ExpectConnect
                | ConnectionStage::ExpectIdentity
                | ConnectionStage::ExpectSession => return at,
                ConnectionStage::Closing | ConnectionStage::Vacant => return bytes.len(),
            }
            let decoding = DecodeContext {
                version: connection.version,
                maximum_packet_size: if online {
                    self.limits.maximum_packet_size_bytes
                } else {
                    self.limits.connect_packet_bytes_max
                },
                role: Role::Server,
            };
            let first = rest.first().copied().unwrap_or_default();
            match decode(rest, decoding) {
                Ok(None) => return at,
                Ok(Some((packet, length))) => {
                    if connecting && self.is_handed_over(id, &packet, context) {
                        return at;
                    }
                    if connecting && let Packet::Connect(connect) = &packet {
                        match self.admit_connect(id, connect, context) {
                            Admitted::GoesOn => {}
                            Admitted::Waits => return at,
                            Admitted::Refused(error) => {
                                self.refuse(id, error, context);
                                return bytes.len();
                            }
                        }
                    }
                    if online
                        && (self.is_kept_back(id, &packet, context)
                            || self.waits_for_retained_room(id, &packet, context))
                    {
                        return at;
                    }
                    if let Packet::Publish(_) = &packet
                        && online
                    {
                        match self.turn_of_publish(id, length, context) {
                            Turn::Now => {}
                            Turn::Later => return at,
                            Turn::Never(error) => {
                                self.refuse(id, error, context);
                                return bytes.len();
                            }
                        }
                    }
                    // Whole packets are signs of life, not bytes: one that never ends is silence.
                    if at == 0
                        && let Some(connection) = self.connection_mut(id)
                    {
                        connection.last_received = context.now;
                    }
                    at += length;
                    self.counters.received.add_first_byte(first, length);
                    if context.outbox.traces.has(id.index) {
                        context.outbox.traces.received(id.index, context.now, &packet, length);
                    }
                    if let Err(error) = self.handle_packet(id, packet, context) {
                        self.refuse(id, error, context);
                        return bytes.len();
                    }
                }
                Err(error) => {
                    self.handle_malformed(id, error, context);
                    return bytes.len();
                }
            }
        }
        at
    }

    fn handle_packet(
        &mut self,
        id: ConnectionId,
        packet: Packet<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        if connection.stage == ConnectionStage::ExpectConnect {
            return match packet {
                Packet::Connect(connect) => self.handle_connect(id, &connect, context),
                _ => Err(ProtocolError::ExpectedConnect),
            };
        }
        if connection.stage == ConnectionStage::ExpectProof {
            return self.handle_before_proof(id, &packet, context);
        }
        let session = connection.session;
        match packet {
            Packet::Publish(publish) => self.handle_publish(session, id, &publish, context),
            Packet::Puback(ack) => self.handle_puback(session, &ack, context),
            Packet::Pubrec(ack) => self.handle_pubrec(session, &ack, context),
            Packet::Pubrel(ack) => self.handle_pubrel(session, id, &ack, context),
            Packet::Pubcomp(ack) => self.handle_pubcomp(session, &ack, context),
            Packet::Subscribe(subscribe) => {
                self.handle_subscribe(session, id, &subscribe, context);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.handle_unsubscribe(session, id, &unsubscribe, context);
                Ok(())
            }
            Packet::Pingreq => {
                let encode = super::mqtt::encode_pingresp;
                context.outbox.write(id.index, PacketType::Pingresp, encode);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.handle_disconnect(id, &disconnect, context),
            Packet::Auth(auth) => self.handle_auth(session, id, &auth, context),
            Packet::Connect(_) => Err(ProtocolError::SecondConnect),
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                unreachable!("decoding as a server refuses packets that only a server sends")
            }
        }
    }

    /// The connection is gone, without DISCONNECT unless one was handled.
    pub fn handle_closed(&mut self, id: ConnectionId, context: &mut Context<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        self.keep_alives.clear(id.index);
        self.forget_stranger(id.index);
        self.paces.forget(id);
        self.deliver_paces.forget(id);
        context.outbox.traces.end_connection(id.index, context.now);
        self.retained_rooms.remove(&id);
        let session = connection.session;
        self.set_stage(id.index, ConnectionStage::Vacant);
        if let Some(slot) = self.connections.get_mut(id.index as usize) {
            slot.session = NO_SESSION;
        }
        if session != NO_SESSION {
            self.connection_lost(session, id, context);
        }
    }

    /// When [`ShardState::handle_timeout`] has something to do next.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        if self.is_paused {
            return Timestamp::NEVER;
        }
        if self.rechecking.is_some() {
            return Timestamp::START;
        }
        let store_retry = self.store_retry.due.unwrap_or(Timestamp::NEVER);
        let paced = self.paces.next_timeout().min(self.deliver_paces.next_timeout());
        let paced = paced.min(self.admission_due());
        let goodbye = self.goodbye.as_ref().map_or(Timestamp::NEVER, Goodbye::due);
        let store_retry = store_retry.min(self.retained_requests.looks.next_timeout());
        let own = self.keep_alives.next_timeout().min(self.floor_due).min(store_retry);
        let rebalance = self.rebalancing.as_ref().map_or(Timestamp::NEVER, Rebalancing::due);
        own.min(paced).min(goodbye).min(rebalance)
    }

    /// Time has passed: closes silent connections, records the floor.
    pub fn handle_timeout(&mut self, context: &mut Context<'_>) {
        if self.is_paused {
            return;
        }
        let mut expired = Vec::new();
        self.keep_alives.expire(context.now, &mut expired);
        for index in expired {
            self.check_silence(index, context);
        }
        self.recheck_slice(context);
        self.admit_waiting(context);
        self.resume_paced(context);
        self.resume_deliveries(context);
        if context.now >= self.floor_due {
            self.record_floor(context);
        }
        if self.store_retry.due.is_some_and(|due| due <= context.now) {
            self.retry_store(context);
        }
        self.look_at_retained_again(context);
        self.say_goodbye(context);
        self.rebalance(context);
    }

    /// Closes connection `index` if it was silent too long, else looks again when it may be.
    /// Source: MQTT 5.0 [MQTT-3.1.2-22]; MQTT 3.1.1 [MQTT-3.1.2-24].
    fn check_silence(&mut self, index: u32, context: &mut Context<'_>) {
        let Some(connection) = self.connections.get(index as usize).copied() else {
            return;
        };
        let id = ConnectionId { index, generation: connection.generation };
        match connection.stage {
            ConnectionStage::Vacant => {}
            ConnectionStage::ExpectConnect if connection.held => {
                let busy = ProtocolError::NotAuthenticated(Refusal::Busy);
                self.refuse(id, busy, context);
            }
            ConnectionStage::ExpectConnect => {
                self.counters.connect_timeouts += 1;
                context.actions.push(Action::Abort(id));
            }
            ConnectionStage::Closing => context.actions.push(Action::Abort(id)),
            ConnectionStage::ExpectIdentity => {
                let unavailable = ProtocolError::NotAuthenticated(Refusal::Unavailable);
                self.refuse(id, unavailable, context);
            }
            ConnectionStage::ExpectProof => {
                let unproven = ProtocolError::NotAuthenticated(Refusal::BadProof);
                self.refuse(id, unproven, context);
            }
            // What holds the client up is ours, so its silence is no fault.
            ConnectionStage::ExpectSession => {
                self.keep_alives
                    .set(index, context.now.after_seconds(self.limits.connect_timeout_s));
            }
            ConnectionStage::Connected => {
                let Some(session) = self.session(connection.session) else {
                    return;
                };
                let expires_at = session.identity.as_ref().map(|one| one.expires_at);
                if expires_at.is_some_and(|at| self.on_own_clock(at) <= context.now) {
                    self.refuse(id, ProtocolError::NotAuthorized, context);
                } else if !connection.held && self.silence_end(connection) <= context.now {
                    self.refuse(id, ProtocolError::KeepAliveTimeout, context);
                } else if self.anew_until(id) <= context.now {
                    self.refuse_anew(id, Refusal::BadProof, context);
                } else {
                    self.watch(connection.session, id, context.now);
                }
            }
        }
    }

    /// When a connection was silent too long, [`Timestamp::NEVER`] without keep alive.
    fn silence_end(&self, connection: Connection) -> Timestamp {
        match self.session(connection.session).map_or(0, |one| one.connected.silence_max_ms) {
            0 => Timestamp::NEVER,
            silence_ms => connection.last_received.after(Duration::from_millis(silence_ms.into())),
        }
    }

    /// Looks at a connection again when it may have been silent too long, or its client is not who it
    /// proved to be any more.
    fn watch(&mut self, session: u32, id: ConnectionId, now: Timestamp) {
        let (Some(connection), Some(session)) = (self.connection(id), self.session(session)) else {
            return;
        };
        let silence = Duration::from_millis(session.connected.silence_max_ms.into());
        let silent_at = match self.silence_end(connection) {
            Timestamp::NEVER => Timestamp::NEVER,
            // What holds it up is ours: its time begins when it is read again.
            end if connection.held || end <= now => now.after(silence),
            end => end,
        };
        let expires_at = session.identity.as_ref().map_or(Timestamp::NEVER, |one| one.expires_at);
        let expires_at = match expires_at {
            Timestamp::NEVER => Timestamp::NEVER,
            at => self.on_own_clock(at).min(now.after(WATCH_MAX)),
        };
        match silent_at.min(expires_at).min(self.anew_until(id)) {
            Timestamp::NEVER => self.keep_alives.clear(id.index),
            deadline => self.keep_alives.set(id.index, deadline),
        }
    }

    fn connection(&self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.get(id.index as usize)?;
        let live =
            connection.generation == id.generation && connection.stage != ConnectionStage::Vacant;
        live.then_some(*connection)
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(id.index as usize)?;
        let live =
            connection.generation == id.generation && connection.stage != ConnectionStage::Vacant;
        live.then_some(connection)
    }

    fn session(&self, index: u32) -> Option<&Session> {
        self.sessions.get(index as usize)?.session.as_deref()
    }

    fn session_mut(&mut self, index: u32) -> Option<&mut Session> {
        self.sessions.get_mut(index as usize)?.session.as_deref_mut()
    }

    fn session_of(&mut self, ticket: Ticket) -> Option<&mut Session> {
        let session = self.session_mut(ticket.session)?;
        (session.epoch == ticket.epoch).then_some(session)
    }

    fn find_client(&self, client_id: &str) -> Option<u32> {
        let hash = self.random.hash_one(client_id);
        let same = |index: &u32| {
            self.session(*index).is_some_and(|session| *session.client_id == *client_id)
        };
        self.by_client.find(hash, same).copied()
    }

    /// Puts a new session into the slab; its client id must not be there.
    fn insert_session(&mut self, client_id: &str, connected: super::session::Connected) -> u32 {
        let index = self.vacant_sessions.pop().unwrap_or_else(|| {
            self.sessions.push(SessionSlot::default());
            u32::try_from(self.sessions.len() - 1).expect("sessions are bounded by memory")
        });
        let Some(slot) = self.sessions.get_mut(index as usize) else {
            unreachable!("the slot was just pushed, or vacated earlier");
        };
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.session = Some(Box::new(Session::new(client_id.into(), connected, slot.epoch)));
        let Self { by_client, sessions, random, .. } = self;
        by_client.insert_unique(random.hash_one(client_id), index, |&other| {
            let session = sessions.get(other as usize).and_then(|slot| slot.session.as_deref());
            random.hash_one(&*session.expect("the table holds sessions only").client_id)
        });
        index
    }

    /// Takes a session out of memory.
    fn remove_session(&mut self, index: u32) -> Option<Box<Session>> {
        let session = self.sessions.get_mut(index as usize)?.session.take()?;
        let hash = self.random.hash_one(&*session.client_id);
        if let Ok(entry) = self.by_client.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        self.vacant_sessions.push(index);
        Some(session)
    }

    /// A number that looks random and is fixed by the seed.
    fn next_random(&mut self) -> u64 {
        self.random_counter = self.random_counter.wrapping_add(1);
        self.random.hash_one(self.random_counter)
    }

    fn ticket(&self, index: u32) -> Option<Ticket> {
        Some(Ticket { session: index, epoch: self.session(index)?.epoch })
    }

    /// The end of what this shard has seen of `partition`.
    fn watermark(&self, partition: PartitionId) -> Sequence {
        self.watermarks.get(usize::from(partition.0)).copied().unwrap_or(Sequence::ZERO)
    }
}
