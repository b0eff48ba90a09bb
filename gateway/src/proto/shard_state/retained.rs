//! Retained messages for a new subscription. Source: MQTT 5.0 §3.3.1.3, §3.8.3.1, §3.8.4.
//!
//! The values are the upstream's; the shard asks for those that match a filter when SUBACK goes out.
//! What is newer than the subscription was or will be delivered live, and is skipped here.

use super::{Context, Request, RetainedMessage, ShardState};
use crate::proto::mqtt::{QoS, SubscriptionOptions};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::session::{Queued, Stage, Ticket};
use ahash::AHashMap;

/// What was asked of the upstream and not answered.
#[derive(Debug, Default)]
pub(super) struct RetainedRequests {
    last_id: u64,
    open: AHashMap<u64, RetainedRequest>,
}

#[derive(Debug)]
struct RetainedRequest {
    ticket: Ticket,
    filter: Box<str>,
    qos: QoS,
    identifier: u32,
    /// Per partition, from where on the subscription is served live.
    starts: Vec<Sequence>,
    /// As `starts`, for QoS 0 messages, which are live before they are committed; what is earlier
    /// is waited for.
    unacknowledged_starts: Vec<Sequence>,
}

impl RetainedRequests {
    /// Drops requests that were never made.
    pub(super) fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.open.remove(id);
        }
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
        let starts = self.feed_starts(context);
        let retained_end = |partition| context.upstream.retained_end(partition);
        let request = RetainedRequest {
            ticket: self.ticket(index)?,
            filter: filter.into(),
            qos: options.qos,
            identifier,
            starts,
            unacknowledged_starts: self.partitions().map(retained_end).collect(),
        };
        self.retained_requests.last_id += 1;
        let id = self.retained_requests.last_id;
        self.retained_requests.open.insert(id, request);
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

    pub(super) fn request_retained(&mut self, id: u64, context: &mut Context<'_>) {
        if let Some(request) = self.retained_requests.open.get(&id) {
            let filter = request.filter.clone();
            let after = request.unacknowledged_starts.clone();
            let count_max = self.limits.retained_per_subscribe_max;
            context.upstream.request(Request::Retained { id, filter, after, count_max });
        }
    }

    /// The answer to [`Request::Retained`], in pieces; `done` with the last.
    pub fn handle_retained(
        &mut self,
        id: u64,
        messages: Vec<RetainedMessage>,
        done: bool,
        context: &mut Context<'_>,
    ) {
        let Some(request) = self.retained_requests.open.remove(&id) else {
            return;
        };
        let is_there =
            self.session_of(request.ticket).is_some_and(|session| session.stage == Stage::Online);
        if !is_there {
            return;
        }
        for retained in messages {
            self.deliver_retained(&request, retained, context);
        }
        self.drain(request.ticket.session, context);
        if !done {
            self.retained_requests.open.insert(id, request);
        }
    }

    fn deliver_retained(
        &mut self,
        request: &RetainedRequest,
        retained: RetainedMessage,
        context: &mut Context<'_>,
    ) {
        let RetainedMessage { partition, sequence, body } = retained;
        let Some(Record::Message(message)) = Record::decode(&body) else {
            return;
        };
        let starts = match message.qos {
            QoS::AtMostOnce => &request.unacknowledged_starts,
            QoS::AtLeastOnce | QoS::ExactlyOnce => &request.starts,
        };
        let start = starts.get(usize::from(partition.0));
        if start.is_some_and(|start| sequence >= *start) {
            return;
        }
        let index = request.ticket.session;
        if request.qos.min(message.qos) == QoS::AtMostOnce {
            self.send_retained(index, &message, request.identifier, context);
            return;
        }
        let Some(filter) = self.tree.find(&request.filter) else {
            return;
        };
        self.track_outbound(index);
        if let Some(session) = self.session_mut(index) {
            let queued =
                Queued { partition, retained_for: Some(filter), sequence, body: Some(body) };
            session.outbound_mut().queue.push_back(queued);
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
        let Self { sessions, counters, scratch, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return;
        };
        let identifiers = [identifier];
        let delivery = super::encode::Delivery {
            message,
            qos: QoS::AtMostOnce,
            retain: true,
            dup: false,
            packet_id: None,
            identifiers: if identifier == 0 { &[] } else { &identifiers },
        };
        super::encode::write_publish(
            session,
            &delivery,
            context.now,
            scratch,
            context.outbox,
            counters,
        );
    }
}
