//! Another process takes the clients over, with their connections.
//!
//! ```text
//! tell those that cannot move ─▶ (nobody is read) ─▶ still? ─▶ hand over, one by one   │ this process
//! take over, one by one ─▶ (they are read again)                                       │ the next
//! ```
//! What cannot move: what is between the wire and MQTT (TLS, WebSocket), members of groups of shared
//! subscriptions, clients with rules of their own that no file has, those that are being sent retained
//! messages, and those in the middle of proving who they are. They hear what they hear when a gateway ends.

use super::goodbye::Goodbye;
use super::{Connection, ConnectionStage, Context, NO_SESSION, ProtocolError, ShardState};
use crate::proto::access::{Identity, Proof, Recheck};
use crate::proto::handler::TransportKind;
use crate::proto::output::{Action, ConnectionId};
use crate::proto::session::handed_over::{HandedIdentity, HandedOver};
use crate::proto::session::{
    InFlight, InFlightStep, Inbound, InboundAliases, InboundQos2, InboundStep, Origin,
    OutboundAliases, Queued, QueuedFor, Session, Stage, Unsent,
};
use crate::proto::tenant::split_name;
use crate::proto::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

impl ShardState {
    /// Begins to say goodbye to the clients that cannot move.
    pub fn handle_moving(&mut self, context: &mut Context<'_>) {
        self.goodbye = Some(Goodbye::to_those_that_stay(context.now));
        self.say_goodbye(context);
    }

    /// Clients are not read: what time brings (silence, a delayed will) waits.
    pub fn handle_paused(&mut self) {
        self.is_paused = true;
    }

    /// Nobody moves: it goes on as before.
    pub fn handle_staying(&mut self) {
        self.is_paused = false;
        self.goodbye = None;
    }

    /// Whether clients that cannot move are still to be told.
    #[must_use]
    pub fn is_telling_those_that_stay(&self) -> bool {
        self.goodbye.as_ref().is_some_and(|goodbye| !goodbye.is_over())
    }

    /// Nothing is under way: all that was asked for is answered, all that was appended is committed.
    #[must_use]
    pub fn is_still(&self) -> bool {
        let waits = |connection: &Connection| {
            let stage = connection.stage;
            matches!(stage, ConnectionStage::ExpectIdentity | ConnectionStage::ExpectSession)
        };
        let changes = |session: &Session| !stands_still(session);
        let mut sessions = self.sessions.iter().filter_map(|slot| slot.session.as_deref());
        self.lanes.are_all_committed()
            && self.pending_connects.is_empty()
            && self.shared_subscribes.is_empty()
            && self.retained_requests.looks.is_line_empty()
            && self.background.len() == self.store_retry.background.len()
            && !self.connections.iter().any(waits)
            && !sessions.any(changes)
    }

    /// Whether another process can have this connection: see [`ShardState::hand_over`].
    #[must_use]
    pub fn can_move(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| self.is_movable(&connection))
    }

    /// Whether another process can have this connection.
    pub(super) fn is_movable(&self, connection: &Connection) -> bool {
        if connection.transport != TransportKind::Tcp {
            return false;
        }
        match connection.stage {
            ConnectionStage::ExpectConnect => true,
            ConnectionStage::Connected => self.session(connection.session).is_some_and(|session| {
                let proves_anew = |id: ConnectionId| self.strangers.anew.contains_key(&id.index);
                may_move(session) && !session.connection.is_some_and(proves_anew)
            }),
            // It waits for the client, with what only this process knows.
            ConnectionStage::ExpectProof => false,
            // Those are over before anything moves.
            ConnectionStage::ExpectIdentity | ConnectionStage::ExpectSession => true,
            ConnectionStage::Vacant | ConnectionStage::Closing => false,
        }
    }

    /// Gives a connection away with its session, as bytes: none for one that has sent no CONNECT.
    /// `None` if that cannot be; otherwise the connection is no more, and its session only stays to
    /// be counted.
    pub fn hand_over(&mut self, id: ConnectionId, context: &mut Context<'_>) -> Option<Vec<u8>> {
        let connection = self.connection(id)?;
        if !self.is_movable(&connection) {
            return None;
        }
        let bytes = match connection.stage {
            ConnectionStage::ExpectConnect => Vec::new(),
            ConnectionStage::Connected => {
                let handed = self.handed_over(connection, context)?;
                let mut bytes = Vec::new();
                handed.encode(&mut bytes);
                bytes
            }
            ConnectionStage::ExpectIdentity
            | ConnectionStage::ExpectProof
            | ConnectionStage::ExpectSession
            | ConnectionStage::Vacant
            | ConnectionStage::Closing => return None,
        };
        self.keep_alives.clear(id.index);
        self.forget_stranger(id.index);
        self.set_stage(id.index, ConnectionStage::Vacant);
        if let Some(slot) = self.connections.get_mut(id.index as usize) {
            slot.session = NO_SESSION;
        }
        Some(bytes)
    }

    fn handed_over(&self, connection: Connection, context: &Context<'_>) -> Option<HandedOver> {
        let session = self.session(connection.session).filter(|one| stands_still(one))?;
        let is_complete = context.upstream.own_partition().is_some();
        let mut record = self.session_record(connection.session, session, context.upstream);
        record.floor_shard = None;
        let outbound = session.outbound.as_deref();
        if is_complete {
            // What a session that is up to date has not seen is not for it.
            record.cursors.retain(|(partition, _)| {
                outbound.is_some_and(|outbound| {
                    let of = |queued: &Queued| queued.partition == *partition;
                    let is_own = |queued: &&Queued| queued.queued_for == QueuedFor::Subscriptions;
                    outbound.cursor(*partition).is_some()
                        || outbound.queue.iter().filter(is_own).any(of)
                })
            });
        }
        let inbound = session.inbound.as_deref();
        let qos2 = inbound.map_or(&[][..], |inbound| &inbound.qos2);
        let identity = session.identity.as_deref().map(|identity| HandedIdentity {
            user_name: identity.user_name.clone(),
            proof: identity.proof,
            expires_at: identity.expires_at,
        });
        let aliases = inbound.filter(|inbound| inbound.has_aliases).map(|one| &one.aliases);
        Some(HandedOver {
            client_id: (*session.client_id).into(),
            connected: session.connected,
            silent_ms: context.now.millis_since(connection.last_received),
            proves: connection.proves,
            stored: session.stored,
            inbound_unacknowledged: session.inbound_unacknowledged,
            identity,
            inbound: qos2.iter().map(|exchange| (exchange.packet_id, exchange.step)).collect(),
            inbound_aliases: aliases.map_or_else(Vec::new, |aliases| {
                aliases.all().map(|(alias, topic)| (alias, topic.into())).collect()
            }),
            outbound_aliases: session
                .aliases
                .as_deref()
                .map_or_else(Vec::new, |aliases| aliases.topics().to_vec()),
            unsent: outbound.map_or_else(Vec::new, |outbound| {
                outbound.unsent.iter().map(|unsent| (unsent.packet_id, unsent.dup)).collect()
            }),
            record,
            is_complete,
        })
    }

    /// Takes a connection over that [`ShardState::hand_over`] of another process gave away. What was
    /// queued for it is in the outbox already. `source` knows who clients are, where that is asked.
    ///
    /// Returns false for bytes that cannot be read, and for a client that is here already: then there
    /// is nothing of it.
    pub fn handle_handed_over(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        source: Option<&dyn Recheck>,
        context: &mut Context<'_>,
    ) -> bool {
        self.handle_opened(id, context);
        if bytes.is_empty() {
            return true;
        }
        let handed = HandedOver::decode(bytes);
        let Some(handed) = handed.filter(|one| self.find_client(&one.client_id).is_none()) else {
            self.handle_closed(id, context);
            return false;
        };
        self.forget_stranger(id.index);
        let identity = self.identity_of(&handed, source);
        let is_known = identity.is_some() || !self.limits.authenticate;
        let index = self.insert_session(&handed.client_id, handed.connected);
        if let Some(connection) = self.connection_mut(id) {
            // What it sent meanwhile is to be read first.
            let silence_max_ms = u64::from(handed.connected.silence_max_ms);
            let silence_ms = handed.silent_ms.min(silence_max_ms.saturating_sub(UNREAD_MS));
            let silence = Duration::from_millis(silence_ms);
            connection.version = handed.connected.version;
            connection.proves = handed.proves;
            connection.session = index;
            connection.last_received = before(context.now, silence);
        }
        self.set_stage(id.index, ConnectionStage::Connected);
        if let Some(session) = self.session_mut(index) {
            session.connection = Some(id);
            session.set_identity(identity.clone());
        }
        self.restore_handed_over(index, id, handed, context);
        self.identify(index, identity, context);
        self.watch(index, id, context.now);
        context.actions.push(Action::Adopt(id));
        if self.session(index).is_some_and(|session| session.is_persistent() || session.stored) {
            self.record_session(index, context);
        }
        if !is_known {
            self.counters.let_go += 1;
            self.refuse(id, ProtocolError::NotAuthorized, context);
            return true;
        }
        self.send_unsent(index, context);
        self.drain(index, context);
        true
    }

    fn restore_handed_over(
        &mut self,
        index: u32,
        id: ConnectionId,
        handed: HandedOver,
        context: &mut Context<'_>,
    ) {
        let HandedOver { stored, is_complete, inbound, unsent, .. } = handed;
        let will = handed.record.will.clone().map(Box::new);
        self.track_outbound(index);
        self.restore_record(index, handed.record, Vec::new(), is_complete, context);
        let counted = stored || context.upstream.reserve_session();
        let Some(session) = self.session_mut(index) else {
            return;
        };
        session.stage = Stage::Online;
        session.stored = stored;
        session.counted = counted;
        session.will = will;
        session.inbound_unacknowledged = handed.inbound_unacknowledged;
        let exchange = |(packet_id, step)| InboundQos2 { packet_id, step, connection: id };
        let mut aliases = InboundAliases::default();
        for (alias, topic) in &handed.inbound_aliases {
            aliases.set(*alias, topic);
        }
        session.inbound = Some(Box::new(Inbound {
            qos2: inbound.into_iter().map(exchange).collect(),
            aliases,
            has_aliases: !handed.inbound_aliases.is_empty(),
            ..Inbound::default()
        }));
        if !handed.outbound_aliases.is_empty() {
            let aliases = OutboundAliases::set_before(handed.outbound_aliases);
            session.aliases = Some(Box::new(aliases));
        }
        let unsent = unsent.into_iter();
        session.outbound_mut().unsent =
            unsent.map(|(packet_id, dup)| Unsent { packet_id, dup, content: None }).collect();
        session.shrink();
    }

    /// Who the client is by what this process knows; `None` also where nobody asks.
    fn identity_of(
        &self,
        handed: &HandedOver,
        source: Option<&dyn Recheck>,
    ) -> Option<Arc<Identity>> {
        let source = source.filter(|_| self.limits.authenticate)?;
        let (user_name, proof, expires_at) = match &handed.identity {
            Some(known) => (known.user_name.clone(), known.proof, known.expires_at),
            None => (None, Proof::None, Timestamp::NEVER),
        };
        let mountpoint = split_name(&handed.client_id).0.map(Box::from);
        let former = Identity { user_name, mountpoint, acl: None, proof, expires_at };
        // A client of another tenant by now cannot go on with this session.
        source.recheck(&former).filter(|identity| identity.mountpoint == former.mountpoint)
    }
}

/// How long at least a client has until it was silent for too long, milliseconds.
const UNREAD_MS: u64 = 2_000;

/// The time `duration` earlier.
fn before(now: Timestamp, duration: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

/// Whether a session can move, once it stands still.
fn may_move(session: &Session) -> bool {
    let own_rules = session.identity.as_deref().is_some_and(|identity| match identity.proof {
        Proof::Http { own_rules, .. } | Proof::Token { own_rules, .. } => own_rules,
        Proof::None | Proof::Certificate | Proof::Password(_) => false,
    });
    let brings_own_only = session.outbound.as_deref().is_none_or(|outbound| {
        let of_group = |queued: &Queued| matches!(queued.queued_for, QueuedFor::Group { .. });
        let sent_of_group = |sent: &InFlight| matches!(sent.origin, Origin::Group(_));
        outbound.retained.is_empty()
            && !outbound.queue.iter().any(of_group)
            && !outbound.in_flight.iter().any(sent_of_group)
    });
    session.shared.is_empty() && !own_rules && brings_own_only
}

/// Whether nothing of a session waits for this process.
fn stands_still(session: &Session) -> bool {
    let expects_commit = |exchange: &InboundQos2| {
        matches!(exchange.step, InboundStep::ExpectCommit | InboundStep::ExpectRelease)
    };
    let sends_on_commit = |sent: &InFlight| {
        matches!(sent.step, InFlightStep::ExpectSentCommit | InFlightStep::ExpectReceivedCommit)
    };
    session.stage == Stage::Online
        && session.inbound.as_deref().is_none_or(|inbound| {
            inbound.denied.is_empty() && !inbound.qos2.iter().any(expects_commit)
        })
        && session
            .outbound
            .as_deref()
            .is_none_or(|outbound| !outbound.in_flight.iter().any(sends_on_commit))
}
