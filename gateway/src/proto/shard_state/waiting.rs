//! What waits until a record is committed: the answers that promise something.

use super::publish::write_ack;
use super::{AppendToken, Context, GroupRequest, ShardState};
use crate::proto::mqtt::{AckKind, PacketId, ReasonCode};
use crate::proto::output::ConnectionId;
use crate::proto::session::{GroupId, InFlightStep, InboundStep, Place, Session, Stage, Ticket};

/// An answer in line behind a record.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A QoS 1 message is stored.
    Puback { connection: ConnectionId, packet_id: PacketId },
    /// A PUBLISH was denied, after others that are to be answered first.
    Denied { connection: ConnectionId, packet_id: PacketId },
    /// It is recorded that a QoS 2 message, which may have been stored before a crash, is refused.
    Refused { ticket: Ticket, packet_id: PacketId },
    /// A QoS 2 message is stored.
    Pubrec { ticket: Ticket, packet_id: PacketId },
    /// An inbound packet id is free again.
    Pubcomp { ticket: Ticket, packet_id: PacketId },
    /// It is recorded that a QoS 2 message may have been sent: it may be sent.
    SendQos2 { ticket: Ticket, packet_id: PacketId },
    /// It is recorded that a QoS 2 message of a shared subscription may have been sent: it may be
    /// sent, and is no longer the group's.
    SendShared { ticket: Ticket, packet_id: PacketId, group: GroupId, place: Place },
    /// It is recorded that the client has a QoS 2 message.
    Pubrel { ticket: Ticket, packet_id: PacketId },
    /// The session's record holds its new subscriptions: the bytes of SUBACK or UNSUBACK, and the
    /// retained messages to ask for.
    SubscribeAck(Box<SubscribeAnswer>),
    /// Everything appended before is committed: the store can be asked about a retained message.
    AskRetainedRoom { connection: ConnectionId, topic: Box<str>, bytes: u64 },
    /// The record of a session that went offline.
    Saved { ticket: Ticket },
}

/// See [`Waiting::SubscribeAck`].
#[derive(Debug)]
pub(super) struct SubscribeAnswer {
    pub(super) connection: ConnectionId,
    /// What was subscribed is in force when this is committed.
    pub(super) interest: Option<AppendToken>,
    pub(super) bytes: Vec<u8>,
    pub(super) retained: Vec<u64>,
    /// Messages of shared subscriptions that are the session's own to finish from here on.
    pub(super) settled: Vec<(GroupId, Place)>,
}

impl ShardState {
    /// Gives an answer whose record is committed, if whoever asked is still there.
    pub(super) fn perform(&mut self, waiting: Waiting, context: &mut Context<'_>) {
        match waiting {
            Waiting::Puback { connection, packet_id }
            | Waiting::Denied { connection, packet_id } => {
                self.answer_puback(connection, packet_id, context);
            }
            Waiting::Refused { ticket, packet_id } => {
                self.answer_refused(ticket, packet_id, context);
            }
            Waiting::Pubrec { ticket, packet_id } => self.answer_pubrec(ticket, packet_id, context),
            Waiting::Pubcomp { ticket, packet_id } => {
                self.answer_pubcomp(ticket, packet_id, context);
            }
            Waiting::SendQos2 { ticket, packet_id } => {
                self.send_recorded(ticket, packet_id, context);
            }
            Waiting::SendShared { ticket, packet_id, group, place } => {
                let (place, finished) = (Some(place), false);
                let settled = GroupRequest::Settled { group, ticket, place, finished };
                context.upstream.tell_group(settled);
                self.send_recorded(ticket, packet_id, context);
            }
            Waiting::Pubrel { ticket, packet_id } => self.send_pubrel(ticket, packet_id, context),
            Waiting::SubscribeAck(answer) => self.answer_subscribe(*answer, context),
            Waiting::AskRetainedRoom { connection, topic, bytes } => {
                self.ask_retained_room(connection, topic, bytes, context);
            }
            Waiting::Saved { ticket } => self.handle_saved(ticket, context),
        }
    }

    /// Only on the connection that sent the PUBLISH: on another one the packet id may mean another
    /// message.
    fn answer_puback(&mut self, id: ConnectionId, packet_id: PacketId, context: &mut Context<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        self.answer_in_turn(connection.session, packet_id, context);
    }

    /// PUBREC with Not authorized. Source: MQTT 5.0 [MQTT-4.3.3-9].
    fn answer_refused(&mut self, ticket: Ticket, packet_id: PacketId, context: &mut Context<'_>) {
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let inbound = session.inbound_mut();
        if inbound.remove(packet_id).is_none() {
            return;
        }
        inbound.denied.push((packet_id, AckKind::Pubrec));
        self.answer_in_turn(ticket.session, packet_id, context);
    }

    fn answer_pubrec(&mut self, ticket: Ticket, packet_id: PacketId, context: &mut Context<'_>) {
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let Some(exchange) = session.inbound.as_mut().and_then(|inbound| inbound.find(packet_id))
        else {
            return;
        };
        if exchange.step == InboundStep::ExpectCommit {
            exchange.step = InboundStep::ExpectPubrel;
        }
        self.answer_in_turn(ticket.session, packet_id, context);
    }

    /// PUBACK or PUBREC for a message that is committed, and for those that waited for it to have
    /// its answer first.
    pub(super) fn answer_in_turn(
        &mut self,
        index: u32,
        packet_id: PacketId,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let mut due = session.answers.commit(packet_id).then_some(packet_id);
        while let Some(packet_id) = due.take().or_else(|| session.answers.next_due()) {
            write_first_answer(session, packet_id, context);
        }
    }

    fn answer_pubcomp(&mut self, ticket: Ticket, packet_id: PacketId, context: &mut Context<'_>) {
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let version = session.connected.version;
        let removed = session.inbound.as_mut().and_then(|inbound| inbound.remove(packet_id));
        let Some(exchange) = removed else {
            return;
        };
        if version.is_v5() {
            session.inbound_unacknowledged = session.inbound_unacknowledged.saturating_sub(1);
        }
        session.shrink();
        if session.connection == Some(exchange.connection) && session.stage == Stage::Online {
            let success = ReasonCode::Success;
            write_ack(AckKind::Pubcomp, packet_id, success, version, exchange.connection, context);
        }
    }

    fn send_pubrel(&mut self, ticket: Ticket, packet_id: PacketId, context: &mut Context<'_>) {
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let version = session.connected.version;
        let online = session.connection.filter(|_| session.stage == Stage::Online);
        let Some(sent) = session.outbound.as_mut().and_then(|outbound| outbound.find(packet_id))
        else {
            return;
        };
        if sent.step != InFlightStep::ExpectReceivedCommit {
            return;
        }
        sent.step = InFlightStep::ExpectPubcomp;
        if let Some(id) = online {
            write_ack(AckKind::Pubrel, packet_id, ReasonCode::Success, version, id, context);
        }
    }
}

/// PUBACK, or PUBREC if the session has an exchange of this packet id.
fn write_first_answer(session: &mut Session, packet_id: PacketId, context: &mut Context<'_>) {
    let version = session.connected.version;
    let online = session.connection.filter(|_| session.stage == Stage::Online);
    let denied = session.inbound.as_mut().and_then(|inbound| inbound.take_denied(packet_id));
    if let Some(kind) = denied {
        session.inbound_unacknowledged = session.inbound_unacknowledged.saturating_sub(1);
        if let Some(id) = online {
            write_ack(kind, packet_id, ReasonCode::NotAuthorized, version, id, context);
        }
        return;
    }
    let exchange = session.inbound.as_mut().and_then(|inbound| inbound.find(packet_id));
    let asked_on = exchange.map(|exchange| exchange.connection);
    let kind = if asked_on.is_some() { AckKind::Pubrec } else { AckKind::Puback };
    // In 5.0 a message of QoS 2 counts until its PUBCOMP. Before, only what waits for us counts: a
    // client held for what waits for its PUBREL could not send that.
    if kind == AckKind::Puback || !version.is_v5() {
        session.inbound_unacknowledged = session.inbound_unacknowledged.saturating_sub(1);
    }
    if let Some(id) = online.filter(|id| asked_on.is_none_or(|asked_on| asked_on == *id)) {
        write_ack(kind, packet_id, ReasonCode::Success, version, id, context);
    }
}
