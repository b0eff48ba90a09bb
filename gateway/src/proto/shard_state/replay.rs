//! A session that is behind reads on in the log. Source: MQTT 5.0 §4.6.

use super::{Context, Replayed, Request, ShardState};
use crate::proto::mqtt::QoS;
use crate::proto::routing::SubscriberKind;
use crate::proto::session::Ticket;

impl ShardState {
    /// Asks for what comes next where the session is behind, its queue being empty: in all
    /// partitions at once, so that [`Outbound::merge_ahead`] can put the answers in order.
    ///
    /// [`Outbound::merge_ahead`]: crate::proto::session::Outbound::merge_ahead
    pub(super) fn ask_for_more(&mut self, index: u32, context: &mut Context<'_>) {
        let pending_max = self.limits.pending_max;
        let is_behind = self
            .session(index)
            .and_then(|session| session.outbound.as_ref())
            .is_some_and(|outbound| !outbound.behind.is_empty());
        if !is_behind {
            return;
        }
        let filters = self.acknowledged_filters(index);
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let outbound = session.outbound_mut();
        if filters.is_empty() {
            outbound.behind.clear();
            return;
        }
        let comes_after = |partition| context.upstream.comes_after(partition);
        for (partition, from, count_max) in outbound.take_reads(pending_max, comes_after) {
            let filters = filters.clone();
            let replay = Request::Replay { ticket, partition, from, filters, count_max };
            context.upstream.request(replay);
        }
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
        let Replayed { partition, end, seen, clamped, alone, .. } = replayed;
        let is_stale = outbound.is_stale(partition);
        let comes_after = context.upstream.comes_after(partition);
        if !outbound.take_replayed(replayed, comes_after) {
            return;
        }
        if alone {
            outbound.queue_ahead(partition);
        }
        self.counters.clamped += u64::from(clamped);
        if end && !is_stale {
            // What lies before was fed before this answer, as far as anyone here wants it. Without
            // this, a session recorded now would have a cursor before what it has just been sent.
            self.set_watermark(partition, seen);
        }
        self.schedule_floor(context.now);
        self.drain(ticket.session, context);
    }
}
