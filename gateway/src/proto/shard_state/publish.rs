//! PUBLISH from a client, and its inbound QoS 2 exchange. Source: MQTT 5.0 §3.3, §4.3.

use super::waiting::Waiting;
use super::{Context, ProtocolError, ShardState};
use crate::proto::mqtt::{
    AckKind, Packet, PacketId, Properties, Property, ProtocolVersion, Publish, PublishAck, QoS,
    ReasonCode, encode_publish_ack, is_valid_topic_name,
};
use crate::proto::output::{Action, ConnectionId};
use crate::proto::partition::Lane;
use crate::proto::record::{Message, Record};
use crate::proto::routing::filter_matches;
use crate::proto::session::{InboundQos2, InboundStep, StoredWill, Ticket};

/// The parts of a PUBLISH's properties that are not forwarded as they are.
#[derive(Default)]
struct OwnProperties {
    topic_alias: Option<u16>,
    expiry_interval_s: Option<u32>,
}

impl ShardState {
    pub(super) fn handle_publish(
        &mut self,
        index: u32,
        id: ConnectionId,
        publish: &Publish<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        if let Some(count) = self.counters.publish_received.get_mut(publish.qos as usize) {
            *count += 1;
        }
        let mut own = OwnProperties::default();
        let mut forwarded = std::mem::take(&mut self.scratch);
        let is_rewritten = split_properties(publish.properties, &mut own, &mut forwarded);
        let properties = if is_rewritten { &forwarded } else { publish.properties.raw() };
        let result = self.publish_with(index, id, publish, &own, properties, context);
        self.scratch = forwarded;
        result
    }

    fn publish_with(
        &mut self,
        index: u32,
        id: ConnectionId,
        publish: &Publish<'_>,
        own: &OwnProperties,
        properties: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let is_duplicate = publish.qos == QoS::ExactlyOnce
            && publish.packet_id.is_some_and(|packet_id| self.is_open(index, packet_id));
        let mut resolved = std::mem::take(&mut self.topic_scratch);
        resolved.clear();
        let Some(session) = self.session_mut(index) else {
            return Ok(());
        };
        if session.is_mounted() && !publish.topic.is_empty() {
            session.mount_topic(publish.topic, &mut resolved);
        }
        let client_id = session.client_id.clone();
        let ledger = session.is_persistent();
        let ticket = Ticket { session: index, epoch: session.epoch };
        self.talkers.note(ticket, publish.payload.len(), context.now);
        let topic = self.resolve_topic(index, publish.topic, own.topic_alias, &mut resolved);
        let result = topic.and_then(|()| {
            let name = if resolved.is_empty() { publish.topic } else { &resolved };
            if !is_duplicate && self.is_publish_denied(index, id, publish, name, context) {
                return Ok(());
            }
            let mut message = Message {
                publisher: &client_id,
                qos: publish.qos,
                retain: publish.retain && !self.is_uplink(name),
                ledger,
                received_at: context.now,
                expiry_interval_s: own.expiry_interval_s,
                packet_id: publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce),
                topic: name,
                properties,
                payload: publish.payload,
            };
            if !context.upstream.can_store(&message) {
                return Err(ProtocolError::PropertiesTooLarge);
            }
            if self.is_refused_by_room(id, &mut message, publish, context) {
                return Ok(());
            }
            match publish.packet_id {
                None => {
                    let lane = self.publish_unacknowledged(&message, context);
                    if let Some(lane) = lane {
                        self.hold_if_full(index, id, lane, context);
                    }
                    Ok(())
                }
                Some(packet_id) if is_duplicate => {
                    self.answer_duplicate(index, id, packet_id, &message, context);
                    Ok(())
                }
                Some(packet_id) => {
                    self.publish_acknowledged(index, id, packet_id, &message, context)
                }
            }
        });
        self.topic_scratch = resolved;
        result
    }

    /// Writes the topic that an alias stands for to `resolved`, where what `topic` is stored as is if it is
    /// not `topic` itself. Sets the alias if both are there. Source: MQTT 5.0 §3.3.2.3.4, §3.3.4.
    fn resolve_topic(
        &mut self,
        index: u32,
        topic: &str,
        alias: Option<u16>,
        resolved: &mut String,
    ) -> Result<(), ProtocolError> {
        let alias_maximum = self.limits.topic_alias_maximum_in;
        let name = if resolved.is_empty() { topic } else { &*resolved };
        if !name.is_empty() && !self.is_accepted_topic_name(name) {
            return Err(ProtocolError::TopicNameInvalid);
        }
        let Some(alias) = alias else {
            return Ok(());
        };
        if alias > alias_maximum {
            return Err(ProtocolError::TopicAliasInvalid { alias });
        }
        let Some(session) = self.session_mut(index) else {
            return Ok(());
        };
        let inbound = session.inbound_mut();
        if topic.is_empty() {
            let known = inbound.aliases.get(alias);
            resolved.push_str(known.ok_or(ProtocolError::TopicAliasNotSet { alias })?);
            return Ok(());
        }
        inbound.aliases.set(alias, name);
        inbound.has_aliases = true;
        Ok(())
    }

    /// The topic of a PUBLISH as it is stored, by its name or by an alias that was set.
    pub(super) fn known_topic(&mut self, index: u32, publish: &Publish<'_>) -> Option<Box<str>> {
        if !publish.topic.is_empty() {
            let Some(session) = self.session(index).filter(|session| session.is_mounted()) else {
                return Some(publish.topic.into());
            };
            let mut name = String::new();
            session.mount_topic(publish.topic, &mut name);
            return Some(name.into());
        }
        let alias = publish.properties.iter().find_map(|property| match property {
            Property::TopicAlias(alias) => Some(alias),
            _ => None,
        });
        self.session_mut(index)?.inbound.as_ref()?.aliases.get(alias?).map(Into::into)
    }

    /// Whether a client may publish to this topic: as it is stored.
    pub(super) fn is_accepted_topic_name(&self, topic: &str) -> bool {
        topic.len() <= usize::from(self.limits.topic_bytes_max)
            && is_valid_topic_name(topic)
            && memchr::memchr_iter(b'/', topic.as_bytes()).count()
                < usize::from(self.limits.topic_levels_max)
    }

    /// QoS 0: to everyone who is there now. A retained one is also appended, for the retained
    /// value; its record is never delivered from the log. The lane that got it.
    pub(super) fn publish_unacknowledged(
        &mut self,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) -> Option<Lane> {
        // First of all: a subscription that comes too late to get it live finds that it must wait
        // for it.
        let appended =
            message.retain.then(|| context.upstream.append(&Record::Message(*message)).lane);
        if !self.is_uplink(message.topic) {
            self.handle_message(None, message, context);
        }
        context.upstream.publish(message);
        appended
    }

    /// Whether a topic is for applications behind the upstream only: no session has, or is sent, anything
    /// of it.
    fn is_uplink(&self, topic: &str) -> bool {
        self.limits.uplink.iter().any(|filter| filter_matches(filter, topic))
    }

    fn publish_acknowledged(
        &mut self,
        index: u32,
        id: ConnectionId,
        packet_id: PacketId,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let receive_maximum = self.limits.receive_maximum;
        let Some(session) = self.session_mut(index) else {
            return Ok(());
        };
        let version = session.connected.version;
        if session.inbound_unacknowledged >= receive_maximum {
            // MQTT 5.0 §3.3.4. Before 5.0 the window is not agreed on: see `hold_if_full`.
            if version == ProtocolVersion::V5 {
                return Err(ProtocolError::ReceiveMaximumExceeded);
            }
        }
        session.inbound_unacknowledged = session.inbound_unacknowledged.saturating_add(1);
        let ticket = Ticket { session: index, epoch: session.epoch };
        let waiting = if message.qos == QoS::ExactlyOnce {
            let step = InboundStep::ExpectCommit;
            session.inbound_mut().qos2.push(InboundQos2 { packet_id, step, connection: id });
            Waiting::Pubrec { ticket, packet_id }
        } else {
            Waiting::Puback { connection: id, packet_id }
        };
        let token = context.upstream.append(&Record::Message(*message));
        if let Some(session) = self.session_mut(index) {
            session.answers.expect(packet_id, token.lane);
        }
        self.wait_for(token, waiting);
        self.hold_if_full(index, id, token.lane, context);
        Ok(())
    }

    /// Stops reading from a publisher when the upstream is behind, or its own window is full.
    fn hold_if_full(
        &mut self,
        index: u32,
        id: ConnectionId,
        lane: Lane,
        context: &mut Context<'_>,
    ) {
        let receive_maximum = self.limits.receive_maximum;
        let is_full = self.session(index).is_some_and(|session| {
            session.connected.version != ProtocolVersion::V5
                && session.inbound_unacknowledged >= receive_maximum
        });
        if !is_full && !context.upstream.is_congested(lane) {
            return;
        }
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        if !connection.held {
            connection.held = true;
            self.lanes.hold(lane, id);
            context.actions.push(Action::Hold(id));
        }
    }

    /// Stops reading from a publisher before its PUBLISH, of whose topic nothing is taken in now. The packet
    /// is left unconsumed, and decoded again when the publisher goes on.
    pub(super) fn is_kept_back(
        &mut self,
        id: ConnectionId,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let Packet::Publish(publish) = packet else {
            return false;
        };
        if !context.upstream.keeps_any_back() || publish.qos == QoS::AtMostOnce && !publish.retain {
            return false;
        }
        let Some(index) = self.connection(id).map(|connection| connection.session) else {
            return false;
        };
        let topic = self.known_topic(index, publish);
        let Some(lane) = topic.and_then(|topic| context.upstream.keeps_back(&topic)) else {
            return false;
        };
        if let Some(connection) = self.connection_mut(id) {
            connection.held = true;
            self.lanes.hold(lane, id);
            context.actions.push(Action::Hold(id));
        }
        true
    }

    /// Lets held publishers go on once the upstream has caught up with them. Called when something
    /// is committed, and by whoever knows that the upstream has room again.
    pub fn resume_held(&mut self, context: &mut Context<'_>) {
        for lane in self.lanes.all() {
            if !self.lanes.holds_any(lane) || context.upstream.is_congested(lane) {
                continue;
            }
            let mut held = self.lanes.take_held(lane);
            held.retain(|&id| self.stays_held(id, context));
            self.lanes.put_back_held(lane, held);
        }
    }

    /// Lets one held publisher go on, unless its own window is still full.
    fn stays_held(&mut self, id: ConnectionId, context: &mut Context<'_>) -> bool {
        let receive_maximum = self.limits.receive_maximum;
        let Some(connection) = self.connection(id) else {
            return false;
        };
        // In 5.0 what waits for the client's own PUBREL counts, too: it must be read.
        let is_full = self.session(connection.session).is_some_and(|session| {
            session.connected.version != ProtocolVersion::V5
                && session.inbound_unacknowledged > receive_maximum / 2
        });
        if is_full {
            return true;
        }
        if let Some(connection) = self.connection_mut(id) {
            connection.held = false;
            connection.last_received = context.now;
        }
        context.actions.push(Action::Resume(id));
        false
    }

    pub(super) fn is_open(&mut self, index: u32, packet_id: PacketId) -> bool {
        self.session_mut(index)
            .and_then(|session| session.inbound.as_mut())
            .is_some_and(|inbound| inbound.find(packet_id).is_some())
    }

    /// The message of an open exchange came again: it is stored already, or about to be, or was
    /// about to be when the gateway ended.
    /// Source: MQTT 5.0 [MQTT-4.3.3-10].
    fn answer_duplicate(
        &mut self,
        index: u32,
        id: ConnectionId,
        packet_id: PacketId,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let version = session.connected.version;
        let may_publish = session.may_publish(message.topic);
        let Some(exchange) = session.inbound.as_mut().and_then(|inbound| inbound.find(packet_id))
        else {
            return;
        };
        exchange.connection = id;
        match exchange.step {
            InboundStep::ExpectCommit | InboundStep::ExpectRefusal => {}
            InboundStep::ExpectPubrel | InboundStep::ExpectRelease => {
                write_ack(AckKind::Pubrec, packet_id, ReasonCode::Success, version, id, context);
            }
            InboundStep::Intended(name, from) => {
                if !may_publish {
                    // It may not be stored, and what it names is not what was to be. Nor may its
                    // packet id stand for that any more, once the client is free to use it again.
                    exchange.step = InboundStep::ExpectRefusal;
                    self.counters.publish_denied += 1;
                    let released = Record::Qos2Released { client_id: message.publisher, packet_id };
                    let token = context.upstream.append(&released);
                    if let Some(session) = self.session_mut(index) {
                        session.answers.expect(packet_id, token.lane);
                    }
                    self.wait_for(token, Waiting::Refused { ticket, packet_id });
                    return;
                }
                exchange.step = InboundStep::ExpectCommit;
                let token = context.upstream.append_again(message, name, from);
                session.answers.expect(packet_id, token.lane);
                self.wait_for(token, Waiting::Pubrec { ticket, packet_id });
            }
        }
    }

    /// PUBREL: the client has PUBREC and will not send the message again.
    /// Source: MQTT 5.0 [MQTT-4.3.3-11]; MQTT 3.1.1 [MQTT-4.3.3-2].
    pub(super) fn handle_pubrel(
        &mut self,
        index: u32,
        id: ConnectionId,
        ack: &PublishAck<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let packet_id = ack.packet_id;
        let Some(session) = self.session_mut(index) else {
            return Ok(());
        };
        let version = session.connected.version;
        let persistent = session.is_persistent();
        let ticket = Ticket { session: index, epoch: session.epoch };
        let exchange = session.inbound.as_mut().and_then(|inbound| inbound.find(packet_id));
        let Some(exchange) = exchange else {
            let reason_code = ReasonCode::PacketIdentifierNotFound;
            write_ack(AckKind::Pubcomp, packet_id, reason_code, version, id, context);
            return Ok(());
        };
        exchange.connection = id;
        if matches!(exchange.step, InboundStep::ExpectRelease | InboundStep::ExpectRefusal) {
            return Ok(());
        }
        exchange.step = InboundStep::ExpectRelease;
        let waiting = Waiting::Pubcomp { ticket, packet_id };
        if persistent {
            let record = Record::Qos2Released { client_id: &session.client_id, packet_id };
            let token = context.upstream.append(&record);
            self.wait_for(token, waiting);
        } else {
            self.perform(waiting, context);
        }
        Ok(())
    }

    /// Publishes a will. Source: MQTT 5.0 §3.1.2.5.
    pub(super) fn publish_will(
        &mut self,
        client_id: &str,
        will: &StoredWill,
        context: &mut Context<'_>,
    ) {
        let message = Message {
            publisher: client_id,
            qos: will.qos,
            retain: will.retain && !self.is_uplink(&will.topic),
            ledger: false,
            received_at: context.now,
            expiry_interval_s: will.expiry_interval_s,
            packet_id: None,
            topic: &will.topic,
            properties: &will.properties,
            payload: &will.payload,
        };
        if !context.upstream.can_store(&message) {
            self.counters.dropped_too_large += 1;
            return;
        }
        if will.qos == QoS::AtMostOnce {
            self.publish_unacknowledged(&message, context);
        } else {
            let named_at = self.will_names.named_elsewhere(will.id);
            context.upstream.append_will(&message, will, named_at);
        }
    }
}

/// Reads the properties that are not forwarded as they are, and writes the others to `forwarded`
/// if any of the former is there. Returns whether it did.
fn split_properties(
    properties: Properties<'_>,
    own: &mut OwnProperties,
    forwarded: &mut Vec<u8>,
) -> bool {
    if properties.is_empty() {
        return false;
    }
    for property in properties.iter() {
        match property {
            Property::TopicAlias(alias) => own.topic_alias = Some(alias),
            Property::MessageExpiryInterval(seconds) => own.expiry_interval_s = Some(seconds),
            _ => {}
        }
    }
    if own.topic_alias.is_none() && own.expiry_interval_s.is_none() {
        return false;
    }
    forwarded.clear();
    for property in properties.iter() {
        match property {
            Property::TopicAlias(_) | Property::MessageExpiryInterval(_) => {}
            forward => forward.encode(forwarded),
        }
    }
    true
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP without properties.
pub(super) fn write_ack(
    kind: AckKind,
    packet_id: PacketId,
    reason_code: ReasonCode,
    version: ProtocolVersion,
    id: ConnectionId,
    context: &mut Context<'_>,
) {
    let ack = PublishAck { packet_id, reason_code, properties: Properties::NONE };
    let encode = |out: &mut _| encode_publish_ack(kind, &ack, version, out);
    context.outbox.write(id.index, kind.packet_type(), encode);
    context.outbox.sent.add_code(reason_code as u8);
}
