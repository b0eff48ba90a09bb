//! A message meets the subscriptions of this shard. Source: MQTT 5.0 §3.3.4, §4.3, §4.6.

use super::deliver_pace::Rates;
use super::encode::{Delivery, Written, write_publish, write_shared};
use super::waiting::Waiting;
use super::{Context, ShardState};
use crate::proto::mqtt::QoS;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Qos2Step, Record};
use crate::proto::routing::Subscriber;
use crate::proto::session::{
    InFlight, InFlightStep, Origin, Queued, QueuedFor, Stage, Ticket, Unsent,
};

/// The place of a stored message; a QoS 0 message has none.
type MaybePlace = Option<(PartitionId, Sequence)>;

/// What all matching subscriptions of one session say together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: &'a [u32],
}

impl ShardState {
    /// A message that is committed (with its place), or a QoS 0 message (without).
    ///
    /// Messages of a partition come in the order of their sequences, each at most once.
    pub fn handle_message(
        &mut self,
        place: MaybePlace,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) {
        let mut matches = std::mem::take(&mut self.matches);
        matches.clear();
        self.tree.matches(message.topic, &mut matches);
        self.fan_out.reset();
        if message.retain
            && place.is_none()
            && !matches.is_empty()
            && !context.upstream.places_tell_what_came_live()
        {
            self.retained_requests.came_live.note(message);
        }
        let is_shared = matches.len() > 1;
        for subscriber in &matches {
            let overlaps = is_shared
                && self.session(subscriber.session).is_some_and(|session| session.may_overlap);
            if overlaps {
                self.overlapping.push(*subscriber);
            } else {
                self.deliver_single(subscriber, place, message, is_shared, context);
            }
        }
        self.matches = matches;
        if !self.overlapping.is_empty() {
            self.deliver_overlapping(place, message, context);
        }
    }

    /// Everything of `partition` before `end` has been given to [`ShardState::handle_message`].
    pub fn handle_watermark(
        &mut self,
        partition: PartitionId,
        end: Sequence,
        context: &mut Context<'_>,
    ) {
        self.set_watermark(partition, end);
        self.schedule_floor(context.now);
    }

    fn deliver_single(
        &mut self,
        subscriber: &Subscriber,
        place: MaybePlace,
        message: &Message<'_>,
        is_shared: bool,
        context: &mut Context<'_>,
    ) {
        let options = subscriber.options;
        let identifiers = [subscriber.identifier];
        let identifiers =
            if subscriber.identifier == 0 { [].as_slice() } else { identifiers.as_slice() };
        if options.no_local() && self.is_publisher(subscriber.session, message) {
            return;
        }
        let wanted = Wanted {
            qos: options.qos(),
            retain_as_published: options.retain_as_published(),
            identifiers,
        };
        self.deliver(subscriber.session, place, message, wanted, is_shared, context);
    }

    /// Sessions with several matching subscriptions get one copy: with the highest QoS of them and
    /// all their identifiers. Source: MQTT 5.0 [MQTT-3.3.4-2] to [MQTT-3.3.4-4]; MQTT 3.1.1
    /// [MQTT-3.3.5-1].
    fn deliver_overlapping(
        &mut self,
        place: MaybePlace,
        message: &Message<'_>,
        context: &mut Context<'_>,
    ) {
        let mut overlapping = std::mem::take(&mut self.overlapping);
        overlapping.sort_unstable_by_key(|subscriber| subscriber.session);
        let mut identifiers = Vec::new();
        for same in overlapping.chunk_by(|a, b| a.session == b.session) {
            let Some(first) = same.first() else {
                continue;
            };
            let is_own = self.is_publisher(first.session, message);
            let counted = || same.iter().filter(|one| !(is_own && one.options.no_local()));
            let Some(qos) = counted().map(|one| one.options.qos()).max() else {
                continue;
            };
            identifiers.clear();
            identifiers.extend(counted().map(|one| one.identifier).filter(|id| *id != 0));
            let wanted = Wanted {
                qos,
                retain_as_published: counted().any(|one| one.options.retain_as_published()),
                identifiers: &identifiers,
            };
            self.deliver(first.session, place, message, wanted, false, context);
        }
        overlapping.clear();
        self.overlapping = overlapping;
    }

    fn is_publisher(&self, session: u32, message: &Message<'_>) -> bool {
        self.session(session).is_some_and(|session| *session.client_id == *message.publisher)
    }

    /// Sends a message to a session, or notes it, or leaves it to a replay.
    fn deliver(
        &mut self,
        index: u32,
        place: MaybePlace,
        message: &Message<'_>,
        wanted: Wanted<'_>,
        is_shared: bool,
        context: &mut Context<'_>,
    ) {
        let qos = wanted.qos.min(message.qos);
        if message.retain
            && let Some((partition, sequence)) = place
        {
            self.retained_requests.looks.note_delivered(index, partition, sequence);
        }
        match place {
            Some((partition, sequence)) if qos > QoS::AtMostOnce => {
                self.offer(index, partition, sequence, message, wanted, is_shared, context);
            }
            Some((partition, sequence)) if context.upstream.is_late(partition, sequence) => {}
            _ => self.send_unacknowledged(index, message, wanted, is_shared, context),
        }
    }

    /// QoS 0: now or never.
    pub(super) fn send_unacknowledged(
        &mut self,
        index: u32,
        message: &Message<'_>,
        wanted: Wanted<'_>,
        is_shared: bool,
        context: &mut Context<'_>,
    ) {
        let Self { sessions, counters, scratch, fan_out, limits, deliver_paces, slow, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return;
        };
        let Some(connection) = session.connection.filter(|_| session.stage == Stage::Online) else {
            return;
        };
        if !session.may_read(message.topic) {
            counters.read_denied += 1;
            return;
        }
        let waiting = context.outbox.pending_bytes(connection.index);
        let rates = Rates::of(limits);
        if waiting >= limits.client_write_bytes_max
            || deliver_paces.wait_ms(connection, rates, context.now) > 0
        {
            counters.dropped_slow += 1;
            // Who may not be sent more is none that does not take it.
            if waiting >= limits.client_write_bytes_max {
                slow.note_dropped(index, session.epoch);
                self.schedule_floor(context.now);
            }
            return;
        }
        let delivery = Delivery {
            message,
            qos: QoS::AtMostOnce,
            retain: wanted.retain_as_published && message.retain,
            dup: false,
            packet_id: None,
            identifiers: wanted.identifiers,
        };
        if is_shared {
            write_shared(
                session,
                &delivery,
                context.now,
                fan_out,
                scratch,
                context.outbox,
                counters,
            );
        } else {
            write_publish(session, &delivery, context.now, scratch, context.outbox, counters);
        }
        let written = context.outbox.pending_bytes(connection.index) - waiting;
        deliver_paces.pay(connection, rates, written, context.now);
    }

    /// QoS 1 and 2, live: in flight if there is room, else noted, else the session falls behind.
    #[expect(clippy::too_many_arguments, reason = "the hot path: one call a delivered message")]
    fn offer(
        &mut self,
        index: u32,
        partition: PartitionId,
        sequence: Sequence,
        message: &Message<'_>,
        wanted: Wanted<'_>,
        is_shared: bool,
        context: &mut Context<'_>,
    ) {
        let pending_max = self.limits.pending_max as usize;
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if session.stage != Stage::Online {
            return;
        }
        if !session.may_read(message.topic) {
            self.counters.read_denied += 1;
            return;
        }
        if let Some(outbound) = &mut session.outbound {
            if outbound.passes_over(partition, sequence) {
                return;
            }
            if outbound.completed.contains(&(partition, sequence)) {
                return;
            }
            if outbound.comes_too_early(context.upstream.comes_after(partition), sequence) {
                outbound.fall_behind(partition, sequence);
                return;
            }
            if outbound.is_waiting(partition) {
                note(outbound, partition, sequence, pending_max);
                return;
            }
        }
        if !self.has_room(index, context) {
            self.track_outbound(index);
            if let Some(session) = self.session_mut(index) {
                note(session.outbound_mut(), partition, sequence, pending_max);
            }
            return;
        }
        let retain = wanted.retain_as_published && message.retain;
        self.send_acknowledged(
            index,
            (partition, sequence),
            message,
            Terms {
                qos: wanted.qos.min(message.qos),
                retain,
                identifiers: wanted.identifiers,
                origin: Origin::Own,
                record: false,
            },
            is_shared,
            context,
        );
    }

    /// Whether one more QoS 1 or 2 message may be sent to the session now. If its rate says no, it is
    /// looked at again when it says yes; if its window or its outbox does, when there is room.
    pub(super) fn has_room(&mut self, index: u32, context: &Context<'_>) -> bool {
        let Some(session) = self.session(index) else {
            return false;
        };
        let Some(connection) = session.connection.filter(|_| session.stage == Stage::Online) else {
            return false;
        };
        let in_window = session.outbound.as_ref().map_or(0, |outbound| outbound.in_window());
        in_window < usize::from(session.connected.window)
            && context.outbox.pending_bytes(connection.index) < self.limits.client_write_bytes_max
            && self.is_turn_of_delivery(connection, context.now)
    }

    /// Remembers that the session may have an `Outbound`, for the floor and for freeing it.
    pub(super) fn track_outbound(&mut self, index: u32) {
        let has_none = self.session(index).is_some_and(|session| session.outbound.is_none());
        if has_none {
            self.with_outbound.push(index);
        }
    }

    /// Sends a QoS 1 or 2 message for which there is room. Source: MQTT 5.0 §4.3.2, §4.3.3.
    pub(super) fn send_acknowledged(
        &mut self,
        index: u32,
        (partition, sequence): (PartitionId, Sequence),
        message: &Message<'_>,
        terms: Terms<'_>,
        is_shared: bool,
        context: &mut Context<'_>,
    ) {
        self.track_outbound(index);
        let Self { sessions, counters, scratch, fan_out, limits, deliver_paces, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return;
        };
        let last_packet_id = session.last_packet_id;
        let Some(packet_id) = session.next_packet_id() else {
            return;
        };
        let must_record =
            terms.qos == QoS::ExactlyOnce && (session.is_persistent() || terms.record);
        let step = match (terms.qos, must_record) {
            (QoS::ExactlyOnce, true) => InFlightStep::ExpectSentCommit,
            (QoS::ExactlyOnce, false) => InFlightStep::ExpectPubrec,
            (QoS::AtLeastOnce | QoS::AtMostOnce, _) => InFlightStep::ExpectPuback,
        };
        if !must_record {
            let delivery = Delivery {
                message,
                qos: terms.qos,
                retain: terms.retain,
                dup: false,
                packet_id: Some(packet_id),
                identifiers: terms.identifiers,
            };
            let (now, outbox) = (context.now, &mut *context.outbox);
            let written = if is_shared {
                write_shared(session, &delivery, now, fan_out, scratch, outbox, counters)
            } else {
                write_publish(session, &delivery, now, scratch, outbox, counters)
            };
            if written == Written::Dropped {
                session.last_packet_id = last_packet_id;
                self.settle_unsent(index, terms.origin, (partition, sequence), context);
                return;
            }
        }
        if let Some(connection) = session.connection {
            let bytes = message.topic.len() + message.properties.len() + message.payload.len();
            deliver_paces.pay(connection, Rates::of(limits), bytes, context.now);
        }
        let Terms { retain, origin, .. } = terms;
        let sent = InFlight { packet_id, step, retain, origin, partition, sequence };
        session.outbound_mut().in_flight.push_back(sent);
        if must_record {
            session.outbound_mut().unsent.push_back(Unsent {
                packet_id,
                dup: false,
                content: None,
            });
            self.record_sent(index, &sent, context);
        } else if terms.qos == QoS::ExactlyOnce {
            self.settle_sent(index, &sent, context);
        }
    }

    /// Records that a QoS 2 message may have been sent; it is sent when that is committed.
    fn record_sent(&mut self, index: u32, sent: &InFlight, context: &mut Context<'_>) {
        let Some(session) = self.session(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let InFlight { packet_id, origin, partition, sequence, .. } = *sent;
        let anchor = session.anchor(partition, context.upstream.anchor(partition));
        let (record, waiting) = match origin {
            Origin::Group(group) => {
                let place = (partition, sequence);
                let client_id = if session.is_persistent() { &session.client_id } else { "" };
                let group_name = session.shared.iter().find(|one| one.group == Some(group));
                let group_name = group_name.map_or("", |one| &one.name);
                let record = Record::SharedSent {
                    group: group_name,
                    client_id,
                    packet_id,
                    partition,
                    sequence,
                    anchor,
                };
                (record, Waiting::SendShared { ticket, packet_id, group, place })
            }
            Origin::Own | Origin::Shared => {
                let record = Record::Qos2Outbound {
                    client_id: &session.client_id,
                    packet_id,
                    step: Qos2Step::Sent,
                    partition,
                    sequence,
                    shared: origin.is_shared(),
                    retain: sent.retain,
                    anchor,
                };
                (record, Waiting::SendQos2 { ticket, packet_id })
            }
        };
        let token = context.upstream.append(&record);
        self.wait_for(token, waiting);
        self.count_qos2_delta(index, context);
    }
}

/// What the subscriptions say about one QoS 1 or 2 message to one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifiers: &'a [u32],
    pub(super) origin: Origin,
    /// See [`SharedMessage::record`](super::SharedMessage::record).
    pub(super) record: bool,
}

/// Notes a live message for later, or lets the session fall behind when its notes are full.
fn note(
    outbound: &mut crate::proto::session::Outbound,
    partition: PartitionId,
    sequence: Sequence,
    pending_max: usize,
) {
    if outbound.queue.len() < pending_max {
        let queued_for = QueuedFor::Subscriptions;
        let queued = Queued { partition, queued_for, sequence, body: None };
        outbound.queue.push_back(queued);
    } else {
        outbound.fall_behind(partition, sequence);
    }
}
