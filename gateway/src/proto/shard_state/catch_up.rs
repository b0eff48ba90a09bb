//! A session gets what it missed: from its record, from the log, and from its notes.
//!
//! ```text
//! restore ─▶ resume: what was in flight goes again ─▶ drain: the queue, as the window has room
//!                                                       └─ empty, and behind? ─▶ Request::Replay ─▶ queue …
//! ```

use super::deliver::Terms;
use super::deliver_pace::Rates;
use super::encode::{Delivery, Written, write_publish};
use super::publish::write_ack;
use super::{Context, GroupRequest, Request, ShardState, StoredSession};
use crate::proto::mqtt::{AckKind, PacketId, QoS, ReasonCode, SHARE_PREFIX, SubscriptionOptions};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::{FilterId, Subscriber, SubscriberKind, filter_matches};
use crate::proto::session::record::{Qos2Delta, SessionRecord};
use crate::proto::session::{
    InFlight, InFlightStep, Inbound, InboundQos2, InboundStep, Origin, Outbound, Queued, QueuedFor,
    Refetching, Stage, SubscriptionStart, Ticket, Unsent,
};
use bytes::Bytes;

/// Sessions with more subscriptions look a topic up in the tree, instead of trying each filter.
const FILTERS_TRIED_MAX: usize = 8;

/// What the subscriptions of a session say about one message.
#[derive(Debug)]
struct OwnTerms {
    qos: QoS,
    retain: bool,
    identifiers: Vec<u32>,
}

impl ShardState {
    /// Fills a session from what is stored of it; `false` when that cannot be read.
    pub(super) fn restore_session(
        &mut self,
        index: u32,
        stored: &StoredSession,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(mut record) = SessionRecord::decode(&stored.record) else {
            self.counters.unreadable_sessions += 1;
            return false;
        };
        for delta in &stored.steps {
            record.apply(*delta);
        }
        if !stored.steps.is_empty() {
            // Steps are stored by packet id, which says nothing of their order after ids went round
            // or a session was restored before.
            // What came to where topics moved comes behind what was where they had been.
            let changes = |partition, sequence| {
                let after = context.upstream.comes_after(partition).iter();
                let after = after.filter(|after| after.from <= sequence);
                after.map(|after| after.change).max()
            };
            record.in_flight.sort_by_key(|sent| {
                (changes(sent.partition, sent.sequence), sent.partition, sent.sequence)
            });
        }
        self.track_outbound(index);
        let inbound = stored.steps.iter().filter_map(|step| match step {
            Qos2Delta::Inbound(packet_id) => {
                Some(inbound_exchange(*packet_id, InboundStep::ExpectPubrel))
            }
            Qos2Delta::Intended(packet_id, id, from) => {
                Some(inbound_exchange(*packet_id, InboundStep::Intended(*id, *from)))
            }
            Qos2Delta::Anchor(..)
            | Qos2Delta::Outbound { .. }
            | Qos2Delta::Completed { .. }
            | Qos2Delta::SharedCompleted { .. } => None,
        });
        self.restore_record(index, record, inbound.collect(), false, context);
        if let Some(session) = self.session_mut(index) {
            session.stored = true;
            session.shrink();
        }
        true
    }

    /// Fills a session from its record and the exchanges its client has begun. `is_complete`: it is
    /// behind only in the partitions that its record names.
    pub(super) fn restore_record(
        &mut self,
        index: u32,
        mut record: SessionRecord,
        inbound: Vec<InboundQos2>,
        is_complete: bool,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        session.last_packet_id = record.last_packet_id;
        session.inbound = Some(Box::new(Inbound { qos2: inbound, ..Inbound::default() }));
        let outbound = session.outbound_mut();
        for sent in std::mem::take(&mut record.in_flight) {
            let packet_id = sent.packet_id;
            outbound.in_flight.push_back(InFlight {
                packet_id,
                step: resumed_step(sent.step),
                retain: sent.retain,
                origin: if sent.shared { Origin::Shared } else { Origin::Own },
                partition: sent.partition,
                sequence: sent.sequence,
            });
            outbound.bodies.extend(sent.body.map(|body| (packet_id, body)));
        }
        // Steps recorded later than `last_packet_id` used ids above it: none may be taken unseen.
        outbound.lapped = !outbound.in_flight.is_empty();
        outbound.completed = std::mem::take(&mut record.completed);
        // A record made while a chunk was being delivered has cursors before the chunk: what it
        // has in flight from there must not be taken once more from a replay.
        let in_flight = outbound.in_flight.iter().filter(|sent| !sent.origin.is_shared());
        outbound.completed.extend(in_flight.map(|sent| (sent.partition, sent.sequence)));
        self.restore_subscriptions(index, &record, is_complete, context);
        self.restore_queue(index, record.queued);
        self.restore_anchors(index, record.anchors, context);
    }

    /// Enters the filters, and sets cursors so that the session is behind wherever it has not seen
    /// the whole feed. A partition its record does not know began after it: all of it is new.
    fn restore_subscriptions(
        &mut self,
        index: u32,
        record: &SessionRecord,
        is_complete: bool,
        context: &mut Context<'_>,
    ) {
        for subscription in &record.subscriptions {
            let Some(options) = SubscriptionOptions::from_byte(subscription.options) else {
                continue;
            };
            let (filter, identifier) = (&subscription.filter, subscription.identifier);
            if !self.may_come_back(index, filter) {
                if let Some(name) = filter.strip_prefix(SHARE_PREFIX) {
                    context.upstream.tell_group(GroupRequest::Forget { name: name.into() });
                }
                continue;
            }
            if let Some(name) = filter.strip_prefix(SHARE_PREFIX) {
                self.restore_shared(index, name, options, identifier);
                continue;
            }
            self.add_to_tree(index, filter, options, identifier, context);
            self.restore_starts(index, filter, &subscription.starts);
        }
        let has_own = self.session(index).is_some_and(|session| !session.subscriptions.is_empty());
        if !has_own {
            return;
        }
        // Only of its own partition has this shard seen everything, whatever it was interested in.
        let own = context.upstream.own_partition();
        let watermarks = self.watermarks.clone();
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let outbound = session.outbound_mut();
        if is_complete {
            for &(partition, cursor) in &record.cursors {
                outbound.come_back(partition, cursor);
            }
            return;
        }
        for (place, watermark) in watermarks.iter().enumerate() {
            let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
            let known = record.cursors.iter().find(|(of, _)| *of == partition);
            let cursor = known.map_or(Sequence::ZERO, |(_, cursor)| *cursor);
            if Some(partition) != own || cursor < *watermark {
                outbound.come_back(partition, cursor);
            }
        }
    }

    /// Places may have been used again since.
    fn restore_anchors(
        &mut self,
        index: u32,
        mut anchors: Vec<(PartitionId, Anchor)>,
        context: &mut Context<'_>,
    ) {
        anchors.retain(|(of, anchor)| context.upstream.check_places(index, *of, *anchor));
        if let Some(session) = self.session_mut(index).filter(|_| !anchors.is_empty()) {
            session.outbound_mut().unchecked = anchors;
        }
    }

    /// A restored subscription begins where its record says, not now.
    fn restore_starts(&mut self, index: u32, filter: &str, starts: &[(PartitionId, Sequence)]) {
        let Some(filter) = self.tree.find(filter) else {
            return;
        };
        let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) else {
            return;
        };
        outbound.starts.retain(|start| start.filter != filter);
        outbound.starts.extend(starts.iter().map(|&(partition, start)| SubscriptionStart {
            filter,
            partition,
            start,
        }));
    }

    fn restore_queue(&mut self, index: u32, queued: Vec<(PartitionId, Sequence, Box<[u8]>)>) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        for (partition, sequence, body) in queued {
            let queued = Queued {
                partition,
                queued_for: QueuedFor::Retained(FilterId(u32::MAX)),
                sequence,
                body: Some(body),
            };
            session.outbound_mut().queue.push_back(queued);
        }
    }

    /// After CONNACK with Session Present: sends again what was in flight, with the same packet
    /// ids and in the same order, then the rest. Source: MQTT 5.0 [MQTT-4.4.0-1]; MQTT 3.1.1
    /// [MQTT-4.4.0-1].
    pub(super) fn resume_delivery(&mut self, index: u32, context: &mut Context<'_>) {
        let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) else {
            return;
        };
        let in_flight: Vec<InFlight> = outbound.in_flight.iter().copied().collect();
        let of_step = |wanted: fn(InFlightStep) -> bool, dup: bool| {
            let sent = in_flight.iter().filter(move |sent| wanted(sent.step));
            sent.map(move |sent| Unsent { packet_id: sent.packet_id, dup, content: None })
        };
        // Those that still wait for their record were never sent, so they come last.
        let again =
            of_step(|step| step.needs_content() || step == InFlightStep::ExpectPubcomp, true);
        let first = of_step(|step| step == InFlightStep::ExpectSentCommit, false);
        outbound.unsent = again.chain(first).collect();
        self.send_unsent(index, context);
        self.drain(index, context);
    }

    /// Sends what is in flight and not sent on this connection, in order, as far as the client's
    /// Receive Maximum and what is known of the content allow.
    ///
    /// A message whose partition has not said yet what it was holds up that partition, and no other.
    pub(super) fn send_unsent(&mut self, index: u32, context: &mut Context<'_>) {
        let mut place = 0;
        loop {
            let sent_again = self.session(index).and_then(|session| {
                let unsent = session.outbound.as_ref()?.unsent.get(place)?;
                session.connection.filter(|_| unsent.dup)
            });
            let is_turn = sent_again.is_none_or(|id| self.is_turn_of_delivery(id, context.now));
            let Some(session) = self.session_mut(index) else {
                return;
            };
            let is_online = session.connection.is_some() && session.stage == Stage::Online;
            let window = usize::from(session.connected.window);
            let Some(outbound) = session.outbound.as_mut().filter(|_| is_online) else {
                return;
            };
            let Some(&Unsent { packet_id, dup, .. }) = outbound.unsent.get(place) else {
                return;
            };
            let Some(sent) = outbound.find(packet_id).copied() else {
                outbound.sent(packet_id);
                continue;
            };
            if sent.step == InFlightStep::ExpectPubcomp {
                outbound.sent(packet_id);
                self.send_pubrel_again(index, &sent, context);
                continue;
            }
            // The record of this one, and so of all behind it, is not committed yet.
            if sent.step == InFlightStep::ExpectSentCommit || outbound.sent_count() >= window {
                return;
            }
            if !sent.step.needs_content() {
                outbound.sent(packet_id);
            } else if !is_turn {
                // What is sent for the first time was paid for when it was recorded.
                return;
            } else if outbound.is_all_held() {
                return;
            } else if outbound.is_held(sent.partition) {
                place += 1;
            } else if !self.send_in_flight(index, &sent, dup, context) {
                self.fetch_unsent(index, context);
            }
        }
    }

    /// Asks for the content of everything unsent that is not at hand, unless that was done.
    fn fetch_unsent(&mut self, index: u32, context: &mut Context<'_>) {
        let partitions = self.partitions();
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let Some(outbound) = session.outbound.as_mut() else {
            return;
        };
        let is_at_hand = |sent: &InFlight| {
            outbound.has_content(sent.packet_id) || recent(outbound, sent, context).is_some()
        };
        let in_flight = outbound.in_flight.iter().filter(|sent| !outbound.is_held(sent.partition));
        // Where only PUBREL is left, the log need not hold the message any more.
        let unsent = in_flight
            .filter(|sent| sent.step.needs_content() && outbound.is_unsent(sent.packet_id));
        let unsent: Vec<&InFlight> = unsent.collect();
        let wanted: Vec<&InFlight> =
            unsent.iter().copied().filter(|sent| !is_at_hand(sent)).collect();
        let wanted = by_partition(&wanted);
        let is_apart = context.upstream.partitions_are_apart();
        let refetching = |partition: PartitionId| {
            let held = if is_apart { outbound.unsent_of(partition) } else { 0 };
            Refetching { partition, held, is_apart, is_behind: false }
        };
        let refetching: Vec<_> =
            wanted.iter().map(|(partition, _)| refetching(*partition)).collect();
        outbound.refetching.extend(refetching);
        outbound.hold_behind(partitions, |of| context.upstream.comes_after(of));
        for (partition, sequences) in wanted {
            context.upstream.request(Request::Fetch { ticket, partition, sequences });
        }
    }

    fn send_pubrel_again(&mut self, index: u32, sent: &InFlight, context: &mut Context<'_>) {
        if let Some(session) = self.session(index)
            && let Some(id) = session.connection
        {
            let version = session.connected.version;
            let success = ReasonCode::Success;
            write_ack(AckKind::Pubrel, sent.packet_id, success, version, id, context);
        }
    }

    /// The answer to [`Request::Fetch`]: bodies of records, `None` for one that is gone.
    pub fn handle_fetched(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        bodies: Vec<(Sequence, Option<Box<[u8]>>)>,
        context: &mut Context<'_>,
    ) {
        let partitions = self.partitions();
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let Some(outbound) = &mut session.outbound else {
            return;
        };
        outbound.refetched(partition);
        outbound.hold_behind(partitions, |of| context.upstream.comes_after(of));
        let (mut gone, mut unfinished) = (Vec::new(), Vec::new());
        for (sequence, body) in bodies {
            // A retained message can be in flight once for each filter that asked for it, and all that are gone have
            // the same place. What was sent on this connection takes its place in the window until it is acknowledged.
            let same = |sent: &&InFlight| {
                (sent.partition, sent.sequence) == (partition, sequence)
                    && sent.step.needs_content()
                    && outbound.is_unsent(sent.packet_id)
            };
            let sent: Vec<InFlight> = outbound.in_flight.iter().filter(same).copied().collect();
            for sent in sent {
                let packet_id = sent.packet_id;
                if let Some(body) = &body {
                    if let Some(unsent) = outbound.find_unsent(packet_id) {
                        unsent.content = Some(body.clone());
                    }
                } else if !outbound.has_content(packet_id) && sent.qos() == QoS::ExactlyOnce {
                    // The client may have it, and would take the next with this id for the same: it
                    // hears that the exchange is over.
                    outbound.sent(packet_id);
                    unfinished.push(packet_id);
                } else if !outbound.has_content(packet_id) {
                    gone.extend(outbound.remove(packet_id));
                }
            }
        }
        self.counters.unfetchable += unfinished.len() as u64;
        self.counters.unfetchable += gone.len() as u64;
        for sent in gone {
            self.settle_finished(ticket.session, &sent, context);
        }
        for packet_id in unfinished {
            self.record_received(ticket.session, packet_id, context);
        }
        self.send_unsent(ticket.session, context);
        self.drain(ticket.session, context);
    }

    /// Sends a message in flight; false when its content is not at hand.
    fn send_in_flight(
        &mut self,
        index: u32,
        sent: &InFlight,
        dup: bool,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(outbound) = self.session_mut(index).and_then(|session| session.outbound.as_mut())
        else {
            return false;
        };
        let unsent = outbound.find_unsent(sent.packet_id);
        let known = unsent.and_then(|unsent| unsent.content.take()).or_else(|| {
            let mut bodies = outbound.bodies.iter();
            bodies.find(|(id, _)| *id == sent.packet_id).map(|(_, body)| body.clone())
        });
        let recent = match known {
            Some(_) => None,
            None => recent(outbound, sent, context),
        };
        let Some(body) = known.as_deref().or(recent.as_deref()) else {
            return false;
        };
        let message = match Record::decode(body) {
            Some(Record::Message(message)) => Some(message),
            _ => None,
        };
        let message = message.filter(|message| !self.is_read_denied(index, message.topic));
        let is_paid = !dup;
        let written = message.map_or(Written::Dropped, |message| {
            let identifiers = if sent.origin.is_shared() {
                self.shared_identifiers(index, sent.origin, &message)
            } else {
                let terms = self.own_terms(index, &message, sent.partition, sent.sequence);
                terms.map(|terms| terms.identifiers).unwrap_or_default()
            };
            let delivery = Delivery {
                message: &message,
                qos: sent.qos(),
                retain: sent.retain,
                dup,
                packet_id: Some(sent.packet_id),
                identifiers: &identifiers,
            };
            self.write(index, &delivery, is_paid, context)
        });
        if written == Written::Dropped {
            self.record_completed(index, sent.packet_id, context);
            self.settle_finished(index, sent, context);
        }
        if let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) {
            match written {
                Written::Dropped => drop(outbound.remove(sent.packet_id)),
                Written::Sent => outbound.sent(sent.packet_id),
            }
        }
        true
    }

    /// Writes a PUBLISH; `is_paid`: the rates of the client know of it.
    pub(super) fn write(
        &mut self,
        index: u32,
        delivery: &Delivery<'_>,
        is_paid: bool,
        context: &mut Context<'_>,
    ) -> Written {
        let Self { sessions, counters, scratch, limits, deliver_paces, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return Written::Dropped;
        };
        let (connection, now) = (session.connection, context.now);
        let waiting = connection.map_or(0, |id| context.outbox.pending_bytes(id.index));
        let written = write_publish(session, delivery, now, scratch, context.outbox, counters);
        if let Some(id) = connection.filter(|_| !is_paid) {
            let bytes = context.outbox.pending_bytes(id.index) - waiting;
            deliver_paces.pay(id, Rates::of(limits), bytes, now);
        }
        written
    }

    /// It is recorded that this QoS 2 message may have been sent, so now it may.
    pub(super) fn send_recorded(
        &mut self,
        ticket: Ticket,
        packet_id: PacketId,
        context: &mut Context<'_>,
    ) {
        let Some(outbound) = self.session_of(ticket).and_then(|s| s.outbound.as_mut()) else {
            return;
        };
        let Some(sent) = outbound.find(packet_id) else {
            return;
        };
        if sent.step != InFlightStep::ExpectSentCommit {
            return;
        }
        sent.step = InFlightStep::ExpectPubrec;
        self.send_unsent(ticket.session, context);
        // A message that must not be sent has given its place in the window to the next.
        self.drain(ticket.session, context);
    }

    /// The connection has taken everything that was queued for it.
    pub fn handle_writable(&mut self, id: ConnectionId, context: &mut Context<'_>) {
        if let Some(connection) = self.connection(id) {
            self.drain(connection.session, context);
        }
    }

    /// Sends from the queue while there is room; asks for more when it is empty and the session
    /// is behind.
    pub(super) fn drain(&mut self, index: u32, context: &mut Context<'_>) {
        loop {
            if !self.has_room(index, context) {
                return;
            }
            let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) else {
                return;
            };
            let Some(queued) = outbound.take_queued() else {
                self.ask_for_more(index, context);
                self.ask_for_retained(index, context);
                return;
            };
            self.send_queued(index, queued, context);
        }
    }

    fn send_queued(&mut self, index: u32, queued: Queued, context: &mut Context<'_>) {
        let Queued { partition, queued_for, sequence, body } = queued;
        let recent;
        let bytes: &[u8] = match &body {
            Some(body) => body,
            None => {
                recent = context.upstream.recent(partition, sequence);
                let Some(recent) = &recent else {
                    self.give_up_notes(index, partition, sequence, context);
                    return;
                };
                recent
            }
        };
        let Some(Record::Message(message)) = Record::decode(bytes) else {
            return;
        };
        if self.is_read_denied(index, message.topic) {
            if let QueuedFor::Group { group, .. } = queued_for {
                self.settle_unsent(index, Origin::Group(group), (partition, sequence), context);
            }
            return;
        }
        let Some(mut terms) = (match queued_for {
            QueuedFor::Retained(filter) => self.retained_terms(index, filter, &message),
            QueuedFor::Subscriptions => self.own_terms(index, &message, partition, sequence),
            QueuedFor::Group { group, record } => {
                let before = self.last_packet_id(index);
                self.send_shared(index, (partition, sequence), group, record, bytes, context);
                self.keep_content(index, before, queued_for, body);
                return;
            }
        }) else {
            return;
        };
        terms.qos = terms.qos.min(message.qos);
        let OwnTerms { qos, retain, identifiers } = terms;
        if qos == QoS::AtMostOnce {
            // A QoS 0 message is never delivered from the log. Another was noted before its
            // subscription was replaced: MQTT 5.0 [MQTT-3.8.4-4], MQTT 3.1.1 [MQTT-3.8.4-3].
            if message.qos > QoS::AtMostOnce {
                let (message, identifiers, packet_id) = (&message, &identifiers[..], None);
                let delivery =
                    Delivery { message, qos, retain, dup: false, packet_id, identifiers };
                self.write(index, &delivery, false, context);
            }
            return;
        }
        let (origin, record) = (Origin::Own, false);
        let terms = Terms { qos, retain, identifiers: &identifiers, origin, record };
        let before = self.last_packet_id(index);
        self.send_acknowledged(index, (partition, sequence), &message, terms, false, context);
        self.keep_content(index, before, queued_for, body);
    }

    /// Keeps the content of what was taken from the queue, if it has got a packet id after `before`: of a
    /// retained message until its exchange is over, of another until its record is committed and it is
    /// sent.
    fn keep_content(
        &mut self,
        index: u32,
        before: u16,
        queued_for: QueuedFor,
        body: Option<Box<[u8]>>,
    ) {
        if let Some(body) = body
            && let Some(session) = self.session_mut(index)
            && session.last_packet_id != before
            && let Some(packet_id) = PacketId::new(session.last_packet_id)
        {
            let outbound = session.outbound_mut();
            if matches!(queued_for, QueuedFor::Retained(_)) {
                outbound.bodies.push((packet_id, body));
            } else if let Some(unsent) = outbound.find_unsent(packet_id) {
                unsent.content = Some(body);
            }
        }
    }

    fn last_packet_id(&self, index: u32) -> u16 {
        self.session(index).map_or(0, |session| session.last_packet_id)
    }

    /// A noted message is no longer at hand: the session is behind from there on.
    fn give_up_notes(
        &mut self,
        index: u32,
        partition: PartitionId,
        sequence: Sequence,
        context: &mut Context<'_>,
    ) {
        let partitions = self.partitions();
        if let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) {
            outbound.queue.retain(|queued| queued.partition != partition || queued.body.is_some());
            outbound.fall_behind(partition, sequence);
            outbound.give_up_early(partitions, |of| context.upstream.comes_after(of));
        }
    }

    /// What a subscription says about a retained message it asked for. A retained message from a
    /// stored queue has lost its subscription's name: any filter that matches will do.
    fn retained_terms(
        &mut self,
        index: u32,
        filter: FilterId,
        message: &Message<'_>,
    ) -> Option<OwnTerms> {
        let Some(subscriber) = self.tree.subscriber(filter, SubscriberKind::Session, index) else {
            let (partition, sequence) = (PartitionId(u16::MAX), Sequence::ZERO);
            let terms = self.own_terms(index, message, partition, sequence)?;
            return Some(OwnTerms { retain: true, ..terms });
        };
        let identifiers = Some(subscriber.identifier).filter(|id| *id != 0).into_iter().collect();
        Some(OwnTerms { qos: subscriber.options.qos(), retain: true, identifiers })
    }

    /// What the session's own subscriptions say about a message, `None` when they do not want it.
    fn own_terms(
        &self,
        index: u32,
        message: &Message<'_>,
        partition: PartitionId,
        sequence: Sequence,
    ) -> Option<OwnTerms> {
        let session = self.session(index)?;
        let is_own = *session.client_id == *message.publisher;
        let mut terms: Option<OwnTerms> = None;
        let mut add = |subscriber: &Subscriber| {
            if is_own && subscriber.options.no_local() {
                return;
            }
            let terms = terms.get_or_insert(OwnTerms {
                qos: QoS::AtMostOnce,
                retain: false,
                identifiers: Vec::new(),
            });
            terms.qos = terms.qos.max(subscriber.options.qos());
            terms.retain |= subscriber.options.retain_as_published() && message.retain;
            terms.identifiers.extend(Some(subscriber.identifier).filter(|id| *id != 0));
        };
        // The tree does not know where a subscription began.
        let all_started = session.outbound.as_ref().is_none_or(|outbound| {
            let begins_later =
                |start: &SubscriptionStart| start.partition == partition && sequence < start.start;
            !outbound.starts.iter().any(begins_later)
        });
        if all_started && session.subscriptions.len() > FILTERS_TRIED_MAX {
            let mut matches = Vec::new();
            self.tree.matches(message.topic, &mut matches);
            let own =
                |one: &&Subscriber| one.session == index && one.kind == SubscriberKind::Session;
            matches.iter().filter(own).for_each(&mut add);
            return terms;
        }
        let mut text = String::new();
        for &filter in &session.subscriptions {
            text.clear();
            self.tree.write_filter(filter, &mut text);
            if filter_matches(&text, message.topic)
                && self.has_started(index, filter, partition, sequence)
                && let Some(one) = self.tree.subscriber(filter, SubscriberKind::Session, index)
            {
                add(&one);
            }
        }
        terms
    }
}

fn inbound_exchange(packet_id: PacketId, step: InboundStep) -> InboundQos2 {
    let nobody = ConnectionId { index: u32::MAX, generation: 0 };
    InboundQos2 { packet_id, step, connection: nobody }
}

/// After a restart nothing waits for a commit any more: what was appended is there, or never was.
fn resumed_step(step: InFlightStep) -> InFlightStep {
    match step {
        InFlightStep::ExpectPuback => InFlightStep::ExpectPuback,
        InFlightStep::ExpectSentCommit | InFlightStep::ExpectPubrec => InFlightStep::ExpectPubrec,
        InFlightStep::ExpectReceivedCommit | InFlightStep::ExpectPubcomp => {
            InFlightStep::ExpectPubcomp
        }
    }
}

/// The content of a message in flight, if the upstream has it at hand. As long as it is not known whether
/// the places of a session are what they were, something else may be there.
fn recent(outbound: &Outbound, sent: &InFlight, context: &Context<'_>) -> Option<Bytes> {
    if outbound.unchecked_anchor(sent.partition).is_some() {
        return None;
    }
    context.upstream.recent(sent.partition, sent.sequence)
}

fn by_partition(wanted: &[&InFlight]) -> Vec<(PartitionId, Vec<Sequence>)> {
    let mut fetched: Vec<(PartitionId, Vec<Sequence>)> = Vec::new();
    for sent in wanted {
        match fetched.iter_mut().find(|(partition, _)| *partition == sent.partition) {
            Some((_, sequences)) if sequences.contains(&sent.sequence) => {}
            Some((_, sequences)) => sequences.push(sent.sequence),
            None => fetched.push((sent.partition, vec![sent.sequence])),
        }
    }
    fetched
}
