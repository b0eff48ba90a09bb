//! What a client may publish, subscribe to and read. Source: MQTT 5.0 §3.3.4, §3.4.2.1, §3.9.3,
//! §5.4.2; MQTT 3.1.1 §3.3.5, §3.9.3.
//!
//! - PUBLISH that is denied: in 5.0 PUBACK or PUBREC says Not authorized. Before, there are no words
//!   for it: the message is acknowledged and goes nowhere (MQTT 3.1.1 [MQTT-3.3.5-2]).
//! - SUBSCRIBE is denied if nothing of what it matches may be read. If a part may be, it is granted,
//!   and each message is looked at before it is sent. A shared subscription is granted only if all
//!   may be read: what one member gets the others do not.
//! - A will is checked with its CONNECT.

use super::publish::write_ack;
use super::waiting::{SubscribeAnswer, Waiting};
use super::{Context, ProtocolError, ShardState};
use crate::proto::access::{Coverage, Identity};
use crate::proto::mqtt::{AckKind, Publish, QoS, ReasonCode, SHARE_PREFIX};
use crate::proto::output::ConnectionId;
use crate::proto::sampled::Sampled;
use crate::proto::tenant::split_name;
use crate::proto::time::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;

/// Of what went wrong, what is told in the log.
#[derive(Debug, Default)]
pub(super) struct ToldFaults {
    denied: Sampled,
    not_let_in: Sampled,
    protocol: Sampled,
}

impl ShardState {
    /// Says in the log that something was denied, now and then.
    pub(super) fn note_denied(
        &mut self,
        what: &'static str,
        client_id: &str,
        user_name: Option<&str>,
        topic: &str,
        context: &Context<'_>,
    ) {
        let Some(untold) = self.told_faults.denied.tell(context.now) else {
            return;
        };
        let (mountpoint, client_id) = split_name(client_id);
        tracing::warn!(what, mountpoint, ?client_id, ?user_name, ?topic, untold, "not authorized");
    }

    /// Says in the log that a client was not let in, now and then.
    pub(super) fn note_turned_away(
        &mut self,
        id: ConnectionId,
        why: ProtocolError,
        context: &Context<'_>,
    ) {
        let Some(untold) = self.told_faults.not_let_in.tell(context.now) else {
            return;
        };
        let (client_id, peer) = self.strangers.describe(id.index);
        tracing::warn!(%why, client_id, ?peer, untold, "not let in");
    }

    /// Says in the log that nobody from there is let in, now and then.
    pub(super) fn note_address_turned_away(
        &mut self,
        peer: SocketAddr,
        why: ProtocolError,
        now: Timestamp,
    ) {
        if let Some(untold) = self.told_faults.not_let_in.tell(now) {
            tracing::warn!(%why, %peer, untold, "not let in: closed before its handshake");
        }
    }

    /// Says in the log that a client broke the protocol, now and then.
    pub(super) fn note_fault(
        &mut self,
        id: ConnectionId,
        fault: &dyn std::error::Error,
        context: &Context<'_>,
    ) {
        let Some(untold) = self.told_faults.protocol.tell(context.now) else {
            return;
        };
        let (client_id, peer) = self.strangers.describe(id.index);
        let session = self.connection(id).and_then(|one| self.session(one.session));
        let mountpoint = session.and_then(|session| session.mountpoint());
        let client_id = client_id.or_else(|| session.map(|session| session.own_client_id()));
        tracing::warn!(%fault, mountpoint, client_id, ?peer, untold, "a client broke the protocol");
    }

    fn note_denied_to(
        &mut self,
        index: u32,
        what: &'static str,
        topic: &str,
        context: &Context<'_>,
    ) {
        let Some(session) = self.session(index) else {
            return;
        };
        let (client_id, identity) = (session.client_id.clone(), session.identity.clone());
        let user_name = identity.as_ref().and_then(|identity| identity.user_name.as_deref());
        self.note_denied(what, &client_id, user_name, topic, context);
    }

    /// Whether a PUBLISH is denied; then it has been answered.
    pub(super) fn is_publish_denied(
        &mut self,
        index: u32,
        id: ConnectionId,
        publish: &Publish<'_>,
        topic: &str,
        context: &mut Context<'_>,
    ) -> bool {
        if self.session(index).is_none_or(|session| session.may_publish(topic)) {
            return false;
        }
        self.counters.publish_denied += 1;
        self.retained_rooms.remove(&id);
        self.note_denied_to(index, "publish", topic, context);
        let Some(packet_id) = publish.packet_id else {
            return true;
        };
        let kind = match publish.qos {
            QoS::ExactlyOnce => AckKind::Pubrec,
            QoS::AtMostOnce | QoS::AtLeastOnce => AckKind::Puback,
        };
        let Some(session) = self.session_mut(index) else {
            return true;
        };
        let version = session.connected.version;
        let Some(lane) = session.answers.lane() else {
            write_ack(kind, packet_id, ReasonCode::NotAuthorized, version, id, context);
            return true;
        };
        // In its turn: those before it are not committed yet.
        session.inbound_unacknowledged = session.inbound_unacknowledged.saturating_add(1);
        session.inbound_mut().denied.push((packet_id, kind));
        session.answers.expect(packet_id, lane);
        match self.lanes.last(lane) {
            Some(token) => self.wait_for(token, Waiting::Denied { connection: id, packet_id }),
            None => self.answer_in_turn(index, packet_id, context),
        }
        true
    }

    /// Whether a filter, without `$share/`, is denied to a session. Counted.
    pub(super) fn is_subscribe_denied(
        &mut self,
        index: u32,
        filter: &str,
        is_shared: bool,
        context: &Context<'_>,
    ) -> bool {
        let coverage = self.session(index).map_or(Coverage::Nothing, |one| one.coverage(filter));
        let is_denied = match coverage {
            Coverage::All => false,
            Coverage::Part => is_shared,
            Coverage::Nothing => true,
        };
        if is_denied {
            self.counters.subscribe_denied += 1;
            self.note_denied_to(index, "subscribe", filter, context);
        }
        is_denied
    }

    /// Whether a message on its way to a session must not reach it. Counted.
    pub(super) fn is_read_denied(&mut self, index: u32, topic: &str) -> bool {
        let is_denied = self.session(index).is_some_and(|session| !session.may_read(topic));
        self.counters.read_denied += u64::from(is_denied);
        is_denied
    }

    /// The client of a session is this one now: subscriptions that it may not have end, and its will
    /// if it may not publish it. Returns whether anything has changed.
    pub(super) fn identify(
        &mut self,
        index: u32,
        identity: Option<Arc<Identity>>,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(session) = self.session_mut(index) else {
            return false;
        };
        session.set_identity(identity);
        if session.is_unrestricted() {
            return false;
        }
        let will = session.will.as_ref().filter(|will| !session.may_publish(&will.topic));
        let lost_will = will.map(|will| will.topic.clone());
        let has_lost_will = lost_will.is_some();
        if has_lost_will {
            session.will = None;
        }
        let filters = session.subscriptions.clone();
        let shared: Vec<Box<str>> = session.shared.iter().map(|one| one.name.clone()).collect();
        if let Some(topic) = lost_will {
            self.counters.will_denied += 1;
            self.note_denied_to(index, "will", &topic, context);
        }
        let mut lost = Vec::new();
        let mut text = String::new();
        for filter in filters {
            text.clear();
            self.tree.write_filter(filter, &mut text);
            if self.note_coverage(index, &text) == Coverage::Nothing {
                lost.push(text.clone());
            }
        }
        let mut settled = Vec::new();
        let lost_count = lost.len();
        for filter in lost {
            self.unsubscribe(index, &filter, context);
        }
        let mut has_lost_shared = false;
        for name in shared {
            let filter = name.split_once('/').map_or("", |(_, filter)| filter);
            if self.note_coverage(index, filter) != Coverage::All {
                has_lost_shared = true;
                settled.extend(self.unsubscribe_shared(index, &name, context).unwrap_or_default());
            }
        }
        if !settled.is_empty()
            && let Some(connection) = self.session(index).and_then(|session| session.connection)
        {
            let (interest, bytes, retained) = (None, Vec::new(), Vec::new());
            let answer = SubscribeAnswer { connection, interest, bytes, retained, settled };
            self.answer_when_recorded(index, answer, context);
        }
        has_lost_will || lost_count > 0 || has_lost_shared
    }

    /// How much of a filter the session may read, and that its messages are to be looked at if that
    /// is not all.
    pub(super) fn note_coverage(&mut self, index: u32, filter: &str) -> Coverage {
        let Some(session) = self.session_mut(index) else {
            return Coverage::Nothing;
        };
        let coverage = session.coverage(filter);
        session.reads_checked |= coverage == Coverage::Part;
        coverage
    }

    /// Whether a stored subscription may come back with its session.
    pub(super) fn may_come_back(&mut self, index: u32, filter: &str) -> bool {
        let Some(name) = filter.strip_prefix(SHARE_PREFIX) else {
            return self.note_coverage(index, filter) != Coverage::Nothing;
        };
        let inner = name.split_once('/').map_or("", |(_, filter)| filter);
        self.note_coverage(index, inner) == Coverage::All
    }
}
