//! Retained messages for a new subscription. Source: MQTT 5.0 §3.3.1.3, §3.8.3.1, §3.8.4.
//!
//! The values are the upstream's; the shard asks for those that match a filter when SUBACK went out,
//! a page at a time, and for the next when the client has taken what came. What is newer than the
//! subscription was or will be delivered live, and is skipped here. What the node says of itself under
//! `$SYS/` is kept here, and nobody else may publish there.

use super::came_live::CameLive;
use super::looks::{Look, Looks, text_hash};
use super::{Context, Request, RetainedMessage, RetainedPage, ShardState};
use crate::proto::mqtt::QoS;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::{Subscriber, SubscriberKind, filter_matches};
use crate::proto::session::{Queued, QueuedFor, RetainedRequest, RetainedStarts, Stage, Ticket};
use crate::proto::time::Timestamp;
use ahash::AHashMap;
use bytes::Bytes;
use std::time::Duration;

/// Requests for retained messages that are on their way.
#[derive(Debug, Default)]
pub(super) struct RetainedRequests {
    last_id: u64,
    pub(super) looks: Looks,
    pub(super) came_live: CameLive,
    /// Asked of the upstream and not answered, with the session.
    asked: AHashMap<u64, u32>,
}

/// Questions the store could not answer, to be asked again.
#[derive(Debug, Default)]
pub(super) struct StoreRetry {
    pub(super) background: Vec<u32>,
    /// Sessions that wait for retained messages.
    retained: Vec<Ticket>,
    pub(super) due: Option<Timestamp>,
}

/// Whether only what the node says of itself matches.
fn is_of_the_node(filter: &str) -> bool {
    filter == "$SYS" || filter.starts_with("$SYS/")
}

/// How long a failing store is left alone.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// A message is retained only when it is stored, by the gateway it was published at: whoever subscribed
/// in between found what was retained before. So there is a second look, for a message that took no
/// longer than this from the one to the other.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// Second looks are due at multiples of this, so that those of many are one.
const SECOND_LOOK_STEP_MS: u64 = 1_000;

/// Then a subscription does without the retained messages it asked for.
const RETAINED_FAILURES_MAX: u8 = 5;

impl RetainedRequests {
    /// Drops requests that were never made.
    pub(super) fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.looks.take_early(*id);
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl ShardState {
    /// Notes that a subscription made now wants retained messages; returns the request's id.
    pub(super) fn want_retained(
        &mut self,
        index: u32,
        filter: &str,
        qos: QoS,
        context: &Context<'_>,
    ) -> Option<u64> {
        let ticket = self.ticket(index)?;
        let filter_id = self.tree.find(filter)?;
        let outbound = self.session(index).and_then(|session| session.outbound.as_ref());
        // What the session reads of a partition where it is behind, it reads from the subscription on.
        let retained_start = |partition| {
            let is_behind = outbound.is_some_and(|outbound| outbound.cursor(partition).is_some());
            match is_behind && qos > QoS::AtMostOnce {
                true => context.upstream.feed_start(partition),
                false => context.upstream.retained_start(partition),
            }
        };
        let retained_end = |partition| context.upstream.retained_end(partition);
        let starts = RetainedStarts {
            acknowledged: self.partitions().map(retained_start).collect(),
            unacknowledged: self.partitions().map(retained_end).collect(),
            came_live: self.retained_requests.came_live.count(),
        };
        let look = Look {
            ticket,
            filter: filter_id,
            text_hash: text_hash(filter),
            starts: self.retained_requests.looks.share_starts(starts),
            delivered: Box::default(),
            again_from: None,
        };
        let id = self.retained_requests.next_id();
        self.retained_requests.looks.add_early(id, look);
        Some(id)
    }

    /// Per partition, from where on this shard is fed what matches the filters it has now.
    pub(super) fn feed_starts(&self, context: &Context<'_>) -> Vec<Sequence> {
        self.partitions().map(|partition| context.upstream.feed_start(partition)).collect()
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> + Clone + use<> {
        let count = u16::try_from(self.watermarks.len()).expect("partition ids are u16");
        (0..count).map(PartitionId)
    }

    /// The SUBACK of a subscription went out: its retained messages may follow.
    pub(super) fn request_retained(&mut self, id: u64, context: &mut Context<'_>) {
        let Some(mut look) = self.retained_requests.looks.take_early(id) else {
            return;
        };
        if let Some((subscriber, filter)) = self.subscription_of(&look)
            && is_of_the_node(&filter)
        {
            self.send_status(look.ticket, &filter, subscriber.identifier, context);
            return;
        }
        let is_read = self.granted_qos(&look) > Some(QoS::AtMostOnce);
        let Some(session) = self.session_of(look.ticket) else {
            return;
        };
        let outbound = session.outbound.as_ref().filter(|_| is_read);
        let settle = |(partition, start): (PartitionId, &Sequence)| {
            let cursor = outbound.and_then(|outbound| outbound.cursor(partition));
            let settled = context.upstream.settled_start(partition);
            settled.into_iter().chain(cursor).fold(*start, Sequence::min)
        };
        let RetainedStarts { acknowledged, unacknowledged, came_live } = &*look.starts;
        let starts = RetainedStarts {
            acknowledged: (0..).map(PartitionId).zip(acknowledged).map(settle).collect(),
            unacknowledged: unacknowledged.clone(),
            came_live: *came_live,
        };
        look.starts = self.retained_requests.looks.share_starts(starts);
        self.look(look, context);
    }

    /// What the node says of itself until the next call, for subscriptions that are made.
    pub fn set_status(&mut self, bodies: Vec<Bytes>) {
        self.status = bodies;
    }

    /// A few dozen short messages, at once.
    fn send_status(
        &mut self,
        ticket: Ticket,
        filter: &str,
        identifier: u32,
        context: &mut Context<'_>,
    ) {
        let index = ticket.session;
        if !self.session_of(ticket).is_some_and(|one| one.stage == Stage::Online) {
            return;
        }
        for body in self.status.clone() {
            let Some(Record::Message(message)) = Record::decode(&body) else { continue };
            if filter_matches(filter, message.topic) && !self.is_read_denied(index, message.topic) {
                self.send_retained(index, &message, identifier, context);
            }
        }
    }

    /// What was on its way to be retained when a subscription looked is there by now.
    pub(super) fn look_at_retained_again(&mut self, context: &mut Context<'_>) {
        while let Some(look) = self.retained_requests.looks.take_due(context.now) {
            let is_online =
                self.session_of(look.ticket).is_some_and(|one| one.stage == Stage::Online);
            if is_online && self.subscription_of(&look).is_some() {
                self.look(look, context);
            }
        }
    }

    /// A look is in line, behind those that came before.
    fn look(&mut self, look: Look, context: &mut Context<'_>) {
        if let Some(look) = self.retained_requests.looks.line_up(look) {
            self.begin_look(look, context);
        }
        self.begin_looks(context);
    }

    /// Those in line have their turn, as far as questions may be under way.
    fn begin_looks(&mut self, context: &mut Context<'_>) {
        while self.retained_requests.asked.len() < self.limits.retained_looks_max as usize
            && let Some(look) = self.retained_requests.looks.next()
        {
            self.begin_look(look, context);
        }
    }

    fn begin_look(&mut self, look: Look, context: &mut Context<'_>) {
        let Some((subscriber, filter)) = self.subscription_of(&look) else {
            return;
        };
        let Look { ticket, starts, delivered, again_from, .. } = look;
        self.track_outbound(ticket.session);
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        let request = RetainedRequest {
            filter: filter.into(),
            qos: subscriber.options.qos(),
            identifier: subscriber.identifier,
            starts,
            delivered,
            is_second: again_from.is_some(),
            from: again_from.as_deref().unwrap_or_default().into(),
            asked: None,
            failures: 0,
        };
        // Subscribing again and again without reading must not make the line longer.
        let waiting = &mut session.outbound_mut().retained;
        waiting.retain(|other| {
            other.asked.is_some() || other.filter != request.filter || request.is_second
        });
        waiting.push_back(request);
        self.drain(ticket.session, context);
    }

    /// The subscription that a look is for, as long as it is there, and its filter.
    fn subscription_of(&self, look: &Look) -> Option<(Subscriber, String)> {
        let session = look.ticket.session;
        let subscriber = self.tree.subscriber(look.filter, SubscriberKind::Session, session)?;
        let mut filter = String::new();
        self.tree.write_filter(look.filter, &mut filter);
        (text_hash(&filter) == look.text_hash).then_some((subscriber, filter))
    }

    fn granted_qos(&self, look: &Look) -> Option<QoS> {
        self.subscription_of(look).map(|(subscriber, _)| subscriber.options.qos())
    }

    /// Asks for the next page of retained messages, if a subscription of the session waits for one.
    pub(super) fn ask_for_retained(&mut self, index: u32, context: &mut Context<'_>) {
        let count_max = self.limits.retained_page_max;
        let Self { sessions, retained_requests, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let session = slot.and_then(|slot| slot.session.as_deref_mut());
        let waiting = session.and_then(|session| session.outbound.as_mut());
        let Some(request) = waiting
            .and_then(|outbound| outbound.retained.front_mut())
            .filter(|request| request.asked.is_none())
        else {
            return;
        };
        let id = retained_requests.next_id();
        request.asked = Some(id);
        retained_requests.asked.insert(id, index);
        let (filter, from) = (request.filter.clone(), request.from.clone());
        let after = request.starts.unacknowledged.clone();
        context.upstream.request(Request::Retained { id, filter, from, after, count_max });
    }

    /// The answer to [`Request::Retained`].
    pub fn handle_retained(&mut self, id: u64, page: RetainedPage, context: &mut Context<'_>) {
        let Some(index) = self.retained_requests.asked.remove(&id) else {
            return;
        };
        self.take_retained(index, id, page, context);
        self.begin_looks(context);
    }

    fn take_retained(
        &mut self,
        index: u32,
        id: u64,
        page: RetainedPage,
        context: &mut Context<'_>,
    ) {
        let RetainedPage { messages, next, again } = page;
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let is_online = session.stage == Stage::Online;
        let waiting = session.outbound.as_mut().map(|outbound| &mut outbound.retained);
        let is_asked = |request: &RetainedRequest| request.asked == Some(id);
        let Some(mut request) = waiting
            .filter(|waiting| waiting.front().is_some_and(is_asked))
            .and_then(|waiting| waiting.pop_front())
        else {
            return;
        };
        if is_online && self.has_subscription(index, &request.filter) {
            for retained in messages {
                self.deliver_retained(index, &request, retained, context);
            }
            (request.asked, request.failures) = (None, 0);
            if let (Some(next), Some(session)) = (next, self.session_mut(index)) {
                request.from = next;
                session.outbound_mut().retained.push_front(request);
            } else if let (Some(from), Some(ticket)) = (again, self.ticket(index)) {
                self.look_again(ticket, request, &from, context.now);
            }
        }
        self.drain(index, context);
        // Most subscriptions find nothing, and an idle session is to cost nothing for having asked.
        if let Some(session) = self.session_mut(index) {
            session.shrink();
        }
    }

    fn look_again(&mut self, ticket: Ticket, request: RetainedRequest, from: &str, now: Timestamp) {
        let RetainedRequest { filter, starts, delivered, .. } = request;
        let Some(filter_id) = self.tree.find(&filter) else {
            return;
        };
        let looks = &mut self.retained_requests.looks;
        let text_hash = text_hash(&filter);
        let again_from = Some(looks.share_from(from));
        let look = Look { ticket, filter: filter_id, text_hash, starts, delivered, again_from };
        let due = now.after(SECOND_LOOK).0.next_multiple_of(SECOND_LOOK_STEP_MS);
        looks.look_again(Timestamp(due), look);
    }

    /// The store could not answer [`Request::Retained`]: the page is asked for again later.
    pub fn handle_retained_failed(&mut self, id: u64, context: &mut Context<'_>) {
        self.counters.store_failures += 1;
        let Some(index) = self.retained_requests.asked.remove(&id) else {
            return;
        };
        self.retry_retained(index, id, context);
        self.begin_looks(context);
    }

    fn retry_retained(&mut self, index: u32, id: u64, context: &mut Context<'_>) {
        let Some(ticket) = self.ticket(index) else {
            return;
        };
        let Some(outbound) = self.session_mut(index).and_then(|one| one.outbound.as_mut()) else {
            return;
        };
        let is_asked = |request: &&mut RetainedRequest| request.asked == Some(id);
        let Some(request) = outbound.retained.front_mut().filter(is_asked) else {
            return;
        };
        request.failures += 1;
        if request.failures >= RETAINED_FAILURES_MAX {
            outbound.retained.pop_front();
            self.counters.retained_given_up += 1;
            self.drain(index, context);
            return;
        }
        self.store_retry.retained.push(ticket);
        self.schedule_store_retry(context.now);
    }

    pub(super) fn schedule_store_retry(&mut self, now: Timestamp) {
        self.store_retry.due.get_or_insert_with(|| now.after(STORE_RETRY));
    }

    /// Asks again what the store could not answer.
    pub(super) fn retry_store(&mut self, context: &mut Context<'_>) {
        let StoreRetry { background, retained, .. } = std::mem::take(&mut self.store_retry);
        for id in background {
            self.ask_background(id, context);
        }
        for ticket in retained {
            let session = self.session_of(ticket).and_then(|session| session.outbound.as_mut());
            if let Some(request) = session.and_then(|outbound| outbound.retained.front_mut()) {
                // Nothing is under way: whoever comes first was answered, or failed.
                request.asked = None;
                self.drain(ticket.session, context);
            }
        }
    }

    fn deliver_retained(
        &mut self,
        index: u32,
        request: &RetainedRequest,
        retained: RetainedMessage,
        context: &mut Context<'_>,
    ) {
        let RetainedMessage { partition, sequence, body } = retained;
        let Some(Record::Message(message)) = Record::decode(&body) else {
            return;
        };
        if self.is_read_denied(index, message.topic) {
            return;
        }
        let starts = match message.qos {
            QoS::AtMostOnce if !request.is_second => &request.starts.unacknowledged,
            QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce => &request.starts.acknowledged,
        };
        let start = starts.get(usize::from(partition.0));
        if start.is_some_and(|start| sequence >= *start)
            || request.delivered.contains(&(partition, sequence))
        {
            return;
        }
        if message.qos == QoS::AtMostOnce
            && !context.upstream.places_tell_what_came_live()
            && self.retained_requests.came_live.has_since(request.starts.came_live, &message)
        {
            return;
        }
        if request.qos.min(message.qos) == QoS::AtMostOnce {
            self.send_retained(index, &message, request.identifier, context);
            return;
        }
        let Some(filter) = self.tree.find(&request.filter) else {
            return;
        };
        self.track_outbound(index);
        let is_apart = context.upstream.partitions_are_apart();
        let watermark = self.watermark(partition);
        if let Some(session) = self.session_mut(index) {
            let queued_for = QueuedFor::Retained(filter);
            let queued = Queued { partition, queued_for, sequence, body: Some(body) };
            let outbound = session.outbound_mut();
            outbound.queue.push_back(queued);
            // Where the feed may yet go back, it is not to bring it once more.
            if is_apart
                && sequence >= watermark
                && !outbound.completed.contains(&(partition, sequence))
            {
                outbound.completed.push((partition, sequence));
            }
        }
    }

    /// A retained message at QoS 0.
    fn send_retained(
        &mut self,
        index: u32,
        message: &Message<'_>,
        identifier: u32,
        context: &mut Context<'_>,
    ) {
        let identifiers = [identifier];
        let delivery = super::encode::Delivery {
            message,
            qos: QoS::AtMostOnce,
            retain: true,
            dup: false,
            packet_id: None,
            identifiers: if identifier == 0 { &[] } else { &identifiers },
        };
        // A page goes at once, and the next when it is paid for.
        self.write(index, &delivery, false, context);
    }
}
