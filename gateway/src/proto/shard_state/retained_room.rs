//! Whether one more message may be retained. Source: MQTT 5.0 §3.3.1.3, §3.4.2.1.
//!
//! Far below the limits the upstream says so at once. Near them only the store knows whether the
//! topic has a retained message, which a new one replaces; nobody waits for the store but the
//! connection that sent the PUBLISH. It is not read meanwhile, and the packet is left unconsumed: it
//! is decoded again when the answer is there, so that order holds and nothing is kept beside it.

use super::publish::write_ack;
use super::waiting::Waiting;
use super::{ConnectionStage, Context, Request, ShardState};
use crate::proto::mqtt::{AckKind, Packet, ProtocolVersion, Publish, QoS, ReasonCode};
use crate::proto::output::{Action, ConnectionId};
use crate::proto::partition::Lane;
use crate::proto::record::Message;

/// What is known for the next PUBLISH of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetainedRoom {
    /// The store was asked.
    Asked,
    /// The message may be retained, or not.
    Known(bool),
}

impl ShardState {
    /// Asks the store if `packet` is to be retained and may be too much. Then it waits.
    pub(super) fn waits_for_retained_room(
        &mut self,
        id: ConnectionId,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let Packet::Publish(publish) = packet else {
            return false;
        };
        if !publish.retain || publish.payload.is_empty() || self.retained_rooms.contains_key(&id) {
            return false;
        }
        let Some((topic, bytes)) = self.retained_excess(id, publish, context) else {
            return false;
        };
        self.retained_rooms.insert(id, RetainedRoom::Asked);
        if let Some(connection) = self.connection_mut(id) {
            connection.held = true;
        }
        context.actions.push(Action::Hold(id));
        // The store is to know what this shard has promised before: the question goes behind it.
        match self.lanes.last(Lane::LOCAL) {
            Some(token) => {
                let question = Waiting::AskRetainedRoom { connection: id, topic, bytes };
                self.wait_for(token, question);
            }
            None => self.ask_retained_room(id, topic, bytes, context),
        }
        true
    }

    /// Topic and bytes of a message for which there may be no room.
    fn retained_excess(
        &mut self,
        id: ConnectionId,
        publish: &Publish<'_>,
        context: &Context<'_>,
    ) -> Option<(Box<str>, u64)> {
        let index = self.connection(id)?.session;
        let is_duplicate = publish.qos == QoS::ExactlyOnce
            && publish.packet_id.is_some_and(|packet_id| self.is_open(index, packet_id));
        let topic = self.known_topic(index, publish)?;
        let is_denied = !self.session(index)?.may_publish(&topic);
        if is_duplicate || is_denied || !self.is_accepted_topic_name(&topic) {
            return None;
        }
        let message = Message {
            publisher: &self.session(index)?.client_id,
            qos: publish.qos,
            retain: true,
            ledger: true,
            received_at: context.now,
            expiry_interval_s: None,
            packet_id: publish.packet_id,
            topic: &topic,
            // Some of them are not kept as they are: a few bytes too many.
            properties: publish.properties.raw(),
            payload: publish.payload,
        };
        if context.upstream.has_retained_room(&message) {
            return None;
        }
        let bytes = (topic.len() + message.encoded_bytes()) as u64;
        Some((topic, bytes))
    }

    pub(super) fn ask_retained_room(
        &mut self,
        connection: ConnectionId,
        topic: Box<str>,
        bytes: u64,
        context: &mut Context<'_>,
    ) {
        context.upstream.request(Request::RetainedRoom { connection, topic, bytes });
    }

    /// The answer to [`Request::RetainedRoom`]: the connection goes on with its PUBLISH. To be
    /// called with true when there is none: what a client is promised counts for more than a limit.
    pub fn handle_retained_room(
        &mut self,
        id: ConnectionId,
        fits: bool,
        context: &mut Context<'_>,
    ) {
        let Some(room) = self.retained_rooms.get_mut(&id) else {
            return;
        };
        *room = RetainedRoom::Known(fits);
        let now = context.now;
        if let Some(connection) = self.connection_mut(id)
            && connection.stage == ConnectionStage::Connected
        {
            connection.held = false;
            connection.last_received = now;
            context.actions.push(Action::Resume(id));
        }
    }

    /// Whether `message` is refused for want of room, and answered. If it cannot be refused because
    /// nothing would tell the client, it goes to its subscribers and is not retained.
    pub(super) fn is_refused_by_room(
        &mut self,
        id: ConnectionId,
        message: &mut Message<'_>,
        publish: &Publish<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        if !message.retain
            || message.payload.is_empty()
            || self.retained_rooms.remove(&id) != Some(RetainedRoom::Known(false))
        {
            return false;
        }
        self.counters.retained_refused += 1;
        let version = self.connection(id).map(|connection| connection.version);
        let (Some(packet_id), Some(ProtocolVersion::V5)) = (publish.packet_id, version) else {
            message.retain = false;
            return false;
        };
        let kind = match publish.qos {
            QoS::ExactlyOnce => AckKind::Pubrec,
            QoS::AtMostOnce | QoS::AtLeastOnce => AckKind::Puback,
        };
        let reason_code = ReasonCode::QuotaExceeded;
        write_ack(kind, packet_id, reason_code, ProtocolVersion::V5, id, context);
        true
    }
}
