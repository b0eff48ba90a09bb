//! Retained messages for a new subscription. Source: MQTT 5.0 §3.3.1.3, §3.8.3.1, §3.8.4.
//!
//! The values are the upstream's; the shard asks for those that match a filter when SUBACK went out,
//! a page at a time, and for the next when the client has taken what came. What is newer than the
//! subscription was or will be delivered live, and is skipped here.

use super::{Context, Request, RetainedMessage, RetainedPage, ShardState};
use crate::proto::mqtt::{QoS, SubscriptionOptions};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::session::{Queued, QueuedFor, RetainedRequest, Stage, Ticket};
use crate::proto::time::Timestamp;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// Requests for retained messages that are on their way.
#[derive(Debug, Default)]
pub(super) struct RetainedRequests {
    last_id: u64,
    /// For subscriptions whose SUBACK has to wait.
    early: AHashMap<u64, (Ticket, RetainedRequest)>,
    /// Of sessions with requests in `early`: how many, and what reached the session meanwhile.
    delivered: AHashMap<u32, Delivered>,
    /// Asked of the upstream and not answered, with the session.
    asked: AHashMap<u64, u32>,
    /// To be looked at a second time, in order; at most [`SECOND_LOOKS_MAX`].
    again: VecDeque<(Timestamp, Ticket, RetainedRequest)>,
}

/// See [`RetainedRequests`].
#[derive(Debug, Default)]
struct Delivered {
    requests: u32,
    places: Vec<(PartitionId, Sequence)>,
}

/// Questions the store could not answer, to be asked again.
#[derive(Debug, Default)]
pub(super) struct StoreRetry {
    pub(super) background: Vec<u32>,
    /// Sessions that wait for retained messages.
    retained: Vec<Ticket>,
    pub(super) due: Option<Timestamp>,
}

/// How long a failing store is left alone.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// A message is retained only when it is stored, by the gateway it was published at: whoever subscribed
/// in between found what was retained before. So there is a second look, for a message that took no
/// longer than this from the one to the other.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// Second looks that wait, some 300 bytes each; when there are more, the first is not waited for.
const SECOND_LOOKS_MAX: usize = 65_536;
/// Messages of a session remembered while it waits for SUBACK; what is beyond may come a second time.
const DELIVERED_MAX: usize = 1_024;

/// Then a subscription does without the retained messages it asked for.
const RETAINED_FAILURES_MAX: u8 = 5;

impl RetainedRequests {
    /// Drops requests that were never made.
    pub(super) fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.take_early(*id);
        }
    }

    /// A message with the RETAIN flag reaches a session, now or from a replay.
    pub(super) fn note_delivered(
        &mut self,
        session: u32,
        partition: PartitionId,
        sequence: Sequence,
    ) {
        if self.delivered.is_empty() {
            return;
        }
        if let Some(Delivered { places, .. }) = self.delivered.get_mut(&session)
            && places.len() < DELIVERED_MAX
        {
            places.push((partition, sequence));
        }
    }

    fn add_early(&mut self, id: u64, ticket: Ticket, request: RetainedRequest) {
        self.delivered.entry(ticket.session).or_default().requests += 1;
        self.early.insert(id, (ticket, request));
    }

    /// A request, with what reached the session since.
    fn take_early(&mut self, id: u64) -> Option<(Ticket, RetainedRequest)> {
        let (ticket, mut request) = self.early.remove(&id)?;
        if let Some(delivered) = self.delivered.get_mut(&ticket.session) {
            delivered.requests -= 1;
            if delivered.requests == 0 {
                request.delivered = std::mem::take(&mut delivered.places);
                self.delivered.remove(&ticket.session);
            } else {
                request.delivered.clone_from(&delivered.places);
            }
        }
        Some((ticket, request))
    }

    /// When something is to be looked at a second time.
    pub(super) fn next_timeout(&self) -> Timestamp {
        self.again.front().map_or(Timestamp::NEVER, |(due, ..)| *due)
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
        options: SubscriptionOptions,
        identifier: u32,
        context: &Context<'_>,
    ) -> Option<u64> {
        let ticket = self.ticket(index)?;
        let outbound = self.session(index).and_then(|session| session.outbound.as_ref());
        // What the session reads of a partition where it is behind, it reads from the subscription on.
        let retained_start = |partition| {
            let is_behind = outbound.is_some_and(|outbound| outbound.cursor(partition).is_some());
            match is_behind && options.qos > QoS::AtMostOnce {
                true => context.upstream.feed_start(partition),
                false => context.upstream.retained_start(partition),
            }
        };
        let retained_end = |partition| context.upstream.retained_end(partition);
        let request = RetainedRequest {
            filter: filter.into(),
            qos: options.qos,
            identifier,
            starts: self.partitions().map(retained_start).collect(),
            delivered: Vec::new(),
            unacknowledged_starts: self.partitions().map(retained_end).collect(),
            from: "".into(),
            is_second: false,
            asked: None,
            failures: 0,
        };
        let id = self.retained_requests.next_id();
        self.retained_requests.add_early(id, ticket, request);
        Some(id)
    }

    /// Per partition, from where on this shard is fed what matches the filters it has now.
    pub(super) fn feed_starts(&self, context: &Context<'_>) -> Vec<Sequence> {
        self.partitions().map(|partition| context.upstream.feed_start(partition)).collect()
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        let count = u16::try_from(self.watermarks.len()).expect("partition ids are u16");
        (0..count).map(PartitionId)
    }

    /// The SUBACK of a subscription went out: its retained messages may follow.
    pub(super) fn request_retained(&mut self, id: u64, context: &mut Context<'_>) {
        let Some((ticket, mut request)) = self.retained_requests.take_early(id) else {
            return;
        };
        self.track_outbound(ticket.session);
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        for (partition, start) in (0..).map(PartitionId).zip(&mut request.starts) {
            let is_read = request.qos > QoS::AtMostOnce;
            let outbound = session.outbound.as_ref().filter(|_| is_read);
            let cursor = outbound.and_then(|outbound| outbound.cursor(partition));
            let settled = context.upstream.settled_start(partition);
            *start = settled.into_iter().chain(cursor).fold(*start, Sequence::min);
        }
        self.line_up(ticket, request, context);
    }

    /// What was on its way to be retained when a subscription looked is there by now.
    pub(super) fn look_at_retained_again(&mut self, context: &mut Context<'_>) {
        while self.retained_requests.next_timeout() <= context.now
            || self.retained_requests.again.len() > SECOND_LOOKS_MAX
        {
            let Some((_, ticket, request)) = self.retained_requests.again.pop_front() else {
                return;
            };
            let is_online = self.session_of(ticket).is_some_and(|one| one.stage == Stage::Online);
            if is_online && self.has_subscription(ticket.session, &request.filter) {
                self.line_up(ticket, request, context);
            }
        }
    }

    fn line_up(&mut self, ticket: Ticket, request: RetainedRequest, context: &mut Context<'_>) {
        self.track_outbound(ticket.session);
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        // Subscribing again and again without reading must not make the line longer.
        let waiting = &mut session.outbound_mut().retained;
        waiting.retain(|other| {
            other.asked.is_some() || other.filter != request.filter || request.is_second
        });
        waiting.push_back(request);
        self.drain(ticket.session, context);
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
        let after = request.unacknowledged_starts.clone();
        context.upstream.request(Request::Retained { id, filter, from, after, count_max });
    }

    /// The answer to [`Request::Retained`].
    pub fn handle_retained(&mut self, id: u64, page: RetainedPage, context: &mut Context<'_>) {
        let RetainedPage { messages, next, again } = page;
        let Some(index) = self.retained_requests.asked.remove(&id) else {
            return;
        };
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
                (request.from, request.is_second) = (from, true);
                let due = context.now.after(SECOND_LOOK);
                self.retained_requests.again.push_back((due, ticket, request));
            }
        }
        self.drain(index, context);
        // Most subscriptions find nothing, and an idle session is to cost nothing for having asked.
        if let Some(session) = self.session_mut(index) {
            session.shrink();
        }
    }

    /// The store could not answer [`Request::Retained`]: the page is asked for again later.
    pub fn handle_retained_failed(&mut self, id: u64, context: &mut Context<'_>) {
        self.counters.store_failures += 1;
        let Some(index) = self.retained_requests.asked.remove(&id) else {
            return;
        };
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
            QoS::AtMostOnce if !request.is_second => &request.unacknowledged_starts,
            QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce => &request.starts,
        };
        let start = starts.get(usize::from(partition.0));
        if start.is_some_and(|start| sequence >= *start)
            || request.delivered.contains(&(partition, sequence))
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
