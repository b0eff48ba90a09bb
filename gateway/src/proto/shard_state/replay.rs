//! A session that is behind reads on in the log. Source: MQTT 5.0 §4.6.

use super::{Context, Replayed, Request, ShardState};
use crate::proto::mqtt::QoS;
use crate::proto::routing::SubscriberKind;
use crate::proto::session::{Queued, Ticket};

impl ShardState {
    /// Asks for what comes next where the session is behind, its queue being empty.
    pub(super) fn ask_for_more(&mut self, index: u32, context: &mut Context<'_>) {
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
}
