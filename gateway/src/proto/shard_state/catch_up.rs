//! A session gets what it missed: from its record, from the log, and from its notes.
//!
//! ```text
//! restore ─▶ resume: what was in flight goes again ─▶ drain: the queue, as the window has room
//!                                                       └─ empty, and behind? ─▶ Request::Replay ─▶ queue …
//! ```

use super::deliver::Terms;
use super::encode::{Delivery, Written, write_publish};
use super::publish::write_ack;
use super::{Context, Replayed, Request, ShardState, StoredSession};
use crate::proto::mqtt::{AckKind, PacketId, QoS, ReasonCode, SubscriptionOptions};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::{FilterId, Subscriber, SubscriberKind, filter_matches};
use crate::proto::session::record::{Qos2Delta, SessionRecord};
use crate::proto::session::{
    InFlight, InFlightStep, Inbound, InboundQos2, InboundStep, Queued, SubscriptionStart, Ticket,
};

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
        self.track_outbound(index);
        let Some(session) = self.session_mut(index) else {
            return false;
        };
        session.stored = true;
        session.last_packet_id = record.last_packet_id;
        let inbound = stored.steps.iter().filter_map(|step| match step {
            Qos2Delta::Inbound(packet_id) => Some(inbound_exchange(*packet_id)),
            Qos2Delta::Outbound { .. } | Qos2Delta::Completed(..) => None,
        });
        let inbound = inbound.collect();
        session.inbound = Some(Box::new(Inbound { qos2: inbound, ..Inbound::default() }));
        let outbound = session.outbound_mut();
        for sent in std::mem::take(&mut record.in_flight) {
            let packet_id = sent.packet_id;
            outbound.in_flight.push_back(InFlight {
                packet_id,
                step: resumed_step(sent.step),
                retain: sent.retain,
                partition: sent.partition,
                sequence: sent.sequence,
            });
            outbound.bodies.extend(sent.body.map(|body| (packet_id, body)));
        }
        // Steps recorded later than `last_packet_id` used ids above it: none may be taken unseen.
        outbound.lapped = !outbound.in_flight.is_empty();
        outbound.completed = std::mem::take(&mut record.completed);
        self.restore_subscriptions(index, &record, context);
        self.restore_queue(index, record.queued);
        if let Some(session) = self.session_mut(index) {
            session.shrink();
        }
        true
    }

    /// Enters the filters, and sets cursors so that the session is behind wherever it has not seen
    /// the whole feed. A partition its record does not know began after it: all of it is new.
    fn restore_subscriptions(
        &mut self,
        index: u32,
        record: &SessionRecord,
        context: &mut Context<'_>,
    ) {
        for subscription in &record.subscriptions {
            let Some(options) = SubscriptionOptions::from_byte(subscription.options) else {
                continue;
            };
            let (filter, identifier) = (&subscription.filter, subscription.identifier);
            self.add_to_tree(index, filter, options, identifier, context);
            self.restore_starts(index, filter, &subscription.starts);
        }
        if record.subscriptions.is_empty() {
            return;
        }
        // Only of its own partition has this shard seen everything, whatever it was interested in.
        let (own, _) = context.upstream.append_position();
        let watermarks = self.watermarks.clone();
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let outbound = session.outbound_mut();
        for (place, watermark) in watermarks.iter().enumerate() {
            let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
            let known = record.cursors.iter().find(|(of, _)| *of == partition);
            let cursor = known.map_or(Sequence::ZERO, |(_, cursor)| *cursor);
            if partition != own || cursor < *watermark {
                outbound.fall_behind(partition, cursor);
            }
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
                retained_for: Some(FilterId(u32::MAX)),
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
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let Some(outbound) = &mut session.outbound else {
            return;
        };
        if outbound.refetching > 0 {
            return;
        }
        let in_flight: Vec<InFlight> = outbound.in_flight.iter().copied().collect();
        let is_at_hand = |sent: &InFlight| {
            outbound.bodies.iter().any(|(id, _)| *id == sent.packet_id)
                || context.upstream.recent(sent.partition, sent.sequence).is_some()
        };
        let mut wanted: Vec<&InFlight> =
            in_flight.iter().filter(|sent| needs_content(sent)).collect();
        if wanted.iter().all(|sent| is_at_hand(sent)) {
            wanted.clear();
        }
        let fetched: Vec<(PartitionId, Vec<Sequence>)> = by_partition(&wanted);
        outbound.refetching = u32::try_from(fetched.len()).expect("at most one a partition");
        let must_fetch = !fetched.is_empty();
        let ticket = Ticket { session: index, epoch: session.epoch };
        for (partition, sequences) in fetched {
            context.upstream.request(Request::Fetch { ticket, partition, sequences });
        }
        for sent in &in_flight {
            match sent.step {
                InFlightStep::ExpectPubcomp => self.send_pubrel_again(index, sent, context),
                InFlightStep::ExpectPuback | InFlightStep::ExpectPubrec if !must_fetch => {
                    self.send_again(index, sent.packet_id, None, context);
                }
                InFlightStep::ExpectPuback
                | InFlightStep::ExpectPubrec
                | InFlightStep::ExpectSentCommit
                | InFlightStep::ExpectReceivedCommit => {}
            }
        }
        self.drain(index, context);
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
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let Some(outbound) = &mut session.outbound else {
            return;
        };
        outbound.refetching = outbound.refetching.saturating_sub(1);
        for (sequence, body) in bodies {
            let Some(outbound) = self.session_of(ticket).and_then(|s| s.outbound.as_mut()) else {
                return;
            };
            let same = |sent: &&InFlight| sent.partition == partition && sent.sequence == sequence;
            let Some(sent) = outbound.in_flight.iter().find(same).copied() else {
                continue;
            };
            if body.is_none() {
                outbound.remove(sent.packet_id);
                self.counters.unfetchable += 1;
                continue;
            }
            self.send_again(ticket.session, sent.packet_id, body.as_deref(), context);
        }
        self.drain(ticket.session, context);
    }

    /// Sends a message in flight, again unless its PUBLISH only waited for its record.
    fn send_again(
        &mut self,
        index: u32,
        packet_id: PacketId,
        fetched: Option<&[u8]>,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session(index).filter(|session| session.connection.is_some())
        else {
            return;
        };
        let Some(outbound) = &session.outbound else {
            return;
        };
        let same = |sent: &&InFlight| sent.packet_id == packet_id;
        let Some(sent) = outbound.in_flight.iter().find(same).copied() else {
            return;
        };
        let kept = outbound.bodies.iter().find(|(id, _)| *id == packet_id);
        let kept = kept.map(|(_, body)| body.clone());
        let recent = match (fetched, &kept) {
            (None, None) => context.upstream.recent(sent.partition, sent.sequence),
            _ => None,
        };
        let body = fetched.or(kept.as_deref()).or(recent.as_deref()).unwrap_or_default();
        let Some(Record::Message(message)) = Record::decode(body) else {
            return;
        };
        let terms = self.own_terms(index, &message, sent.partition, sent.sequence);
        let identifiers = terms.map(|terms| terms.identifiers).unwrap_or_default();
        let is_first = sent.step == InFlightStep::ExpectSentCommit;
        let delivery = Delivery {
            message: &message,
            qos: sent.qos(),
            retain: sent.retain,
            dup: !is_first,
            packet_id: Some(packet_id),
            identifiers: &identifiers,
        };
        let written = self.write(index, &delivery, context);
        let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) else {
            return;
        };
        match (written, outbound.find(packet_id)) {
            (Written::Dropped, _) => {
                outbound.remove(packet_id);
            }
            (Written::Sent, Some(sent)) if is_first => sent.step = InFlightStep::ExpectPubrec,
            (Written::Sent, _) => {}
        }
    }

    fn write(&mut self, index: u32, delivery: &Delivery<'_>, context: &mut Context<'_>) -> Written {
        let Self { sessions, counters, scratch, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return Written::Dropped;
        };
        write_publish(session, delivery, context.now, scratch, context.outbox, counters)
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
        let has_body = outbound.bodies.iter().any(|(id, _)| *id == packet_id);
        let Some(sent) = outbound.find(packet_id).copied() else {
            return;
        };
        if sent.step != InFlightStep::ExpectSentCommit {
            return;
        }
        if has_body || context.upstream.recent(sent.partition, sent.sequence).is_some() {
            self.send_again(ticket.session, packet_id, None, context);
            return;
        }
        outbound.refetching += 1;
        let (partition, sequences) = (sent.partition, vec![sent.sequence]);
        context.upstream.request(Request::Fetch { ticket, partition, sequences });
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
            if outbound.refetching > 0 {
                return;
            }
            let Some(queued) = outbound.queue.pop_front() else {
                self.ask_for_more(index, context);
                return;
            };
            self.send_queued(index, queued, context);
        }
    }

    fn send_queued(&mut self, index: u32, queued: Queued, context: &mut Context<'_>) {
        let Queued { partition, retained_for, sequence, body } = queued;
        let recent;
        let bytes: &[u8] = match &body {
            Some(body) => body,
            None => {
                recent = context.upstream.recent(partition, sequence);
                let Some(recent) = &recent else {
                    self.give_up_notes(index, partition, sequence);
                    return;
                };
                recent
            }
        };
        let Some(Record::Message(message)) = Record::decode(bytes) else {
            return;
        };
        let Some(mut terms) = (match retained_for {
            Some(filter) => self.retained_terms(index, filter, &message),
            None => self.own_terms(index, &message, partition, sequence),
        }) else {
            return;
        };
        terms.qos = terms.qos.min(message.qos);
        if terms.qos == QoS::AtMostOnce {
            return;
        }
        let OwnTerms { qos, retain, identifiers } = terms;
        let terms = Terms { qos, retain, identifiers: &identifiers };
        let before = self.last_packet_id(index);
        self.send_acknowledged(index, (partition, sequence), &message, terms, false, context);
        if retained_for.is_some()
            && let Some(body) = body
            && let Some(session) = self.session_mut(index)
            && session.last_packet_id != before
            && let Some(packet_id) = PacketId::new(session.last_packet_id)
        {
            session.outbound_mut().bodies.push((packet_id, body));
        }
    }

    fn last_packet_id(&self, index: u32) -> u16 {
        self.session(index).map_or(0, |session| session.last_packet_id)
    }

    /// A noted message is no longer at hand: the session is behind from there on.
    fn give_up_notes(&mut self, index: u32, partition: PartitionId, sequence: Sequence) {
        if let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) {
            outbound.queue.retain(|queued| queued.partition != partition || queued.body.is_some());
            outbound.fall_behind(partition, sequence);
        }
    }

    fn ask_for_more(&mut self, index: u32, context: &mut Context<'_>) {
        let count_max = self.limits.pending_max;
        let Some(session) = self.session(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let Some(outbound) = &session.outbound else {
            return;
        };
        let (Some(behind), false) = (outbound.behind.first().copied(), outbound.replaying) else {
            return;
        };
        let filters = self.acknowledged_filters(index);
        if filters.is_empty() {
            if let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) {
                outbound.behind.clear();
            }
            return;
        }
        if let Some(outbound) = self.session_mut(index).and_then(|s| s.outbound.as_mut()) {
            outbound.replaying = true;
        }
        let (partition, from) = (behind.partition, behind.cursor);
        context.upstream.request(Request::Replay { ticket, partition, from, filters, count_max });
    }

    /// The filters a session holds with QoS 1 or 2.
    fn acknowledged_filters(&self, index: u32) -> Vec<Box<str>> {
        let Some(session) = self.session(index) else {
            return Vec::new();
        };
        let mut text = String::new();
        let mut filters = Vec::new();
        for &filter in &session.subscriptions {
            let subscriber = self.tree.subscriber(filter, SubscriberKind::Session, index);
            if subscriber.is_some_and(|one| one.options.qos() > QoS::AtMostOnce) {
                text.clear();
                self.tree.write_filter(filter, &mut text);
                filters.push(text.as_str().into());
            }
        }
        filters
    }

    /// The answer to [`Request::Replay`].
    pub fn handle_replayed(
        &mut self,
        ticket: Ticket,
        replayed: Replayed,
        context: &mut Context<'_>,
    ) {
        let Some(outbound) = self.session_of(ticket).and_then(|s| s.outbound.as_mut()) else {
            return;
        };
        outbound.replaying = false;
        let partition = replayed.partition;
        for (sequence, body) in replayed.messages {
            if !outbound.completed.contains(&(partition, sequence)) {
                let queued = Queued { partition, retained_for: None, sequence, body: Some(body) };
                outbound.queue.push_back(queued);
            }
        }
        if replayed.end {
            // What is queued still has to respect where its subscription began.
            outbound.behind.retain(|behind| behind.partition != partition);
        } else if let Some(behind) =
            outbound.behind.iter_mut().find(|behind| behind.partition == partition)
        {
            behind.cursor = replayed.next;
        }
        self.counters.clamped += u64::from(replayed.clamped);
        self.schedule_floor(context.now);
        self.drain(ticket.session, context);
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
        if session.subscriptions.len() > FILTERS_TRIED_MAX {
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

fn inbound_exchange(packet_id: PacketId) -> InboundQos2 {
    let nobody = ConnectionId { index: u32::MAX, generation: 0 };
    InboundQos2 { packet_id, step: InboundStep::ExpectPubrel, connection: nobody }
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

fn needs_content(sent: &InFlight) -> bool {
    matches!(sent.step, InFlightStep::ExpectPuback | InFlightStep::ExpectPubrec)
}

fn by_partition(wanted: &[&InFlight]) -> Vec<(PartitionId, Vec<Sequence>)> {
    let mut fetched: Vec<(PartitionId, Vec<Sequence>)> = Vec::new();
    for sent in wanted {
        match fetched.iter_mut().find(|(partition, _)| *partition == sent.partition) {
            Some((_, sequences)) => sequences.push(sent.sequence),
            None => fetched.push((sent.partition, vec![sent.sequence])),
        }
    }
    fetched
}
