//! Session records and the floor: what a restart needs to go on without loss.
//! See ARCHITECTURE.md, "Sessions, cursors, going live".

use super::gauges::{Slow, note_slow};
use super::shared::shared_records;
use super::{AppendToken, Context, FLOOR_INTERVAL, OutboundGauges, ShardState, Upstream};
use crate::proto::mqtt::SubscriptionOptions;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Record, SessionPut};
use crate::proto::routing::{FilterId, SubscriberKind};
use crate::proto::session::record::{Floor, InFlightRecord, SessionRecord, SubscriptionRecord};
use crate::proto::session::{
    InFlight, InFlightStep, Origin, Outbound, QueuedFor, Session, Stage, Ticket,
};
use crate::proto::time::Timestamp;

/// A session whose lowest unfinished message is older than so many floors stops following the
/// floor, so that it does not hold the others' back.
const SLOW_FLOORS: usize = 5;

impl ShardState {
    /// Appends the whole state of a session as it is now.
    pub(super) fn record_session(&mut self, index: u32, context: &mut Context<'_>) -> AppendToken {
        self.record_session_until(index, Timestamp::NEVER, Timestamp::NEVER, context)
    }

    pub(super) fn record_session_until(
        &mut self,
        index: u32,
        expires_at: Timestamp,
        will_at: Timestamp,
        context: &mut Context<'_>,
    ) -> AppendToken {
        let follows = self.session(index).is_some_and(|session| {
            session.stage == Stage::Online
                && session.is_persistent()
                && self.is_above_floor(session)
        });
        self.set_follows(index, follows);
        let Some(session) = self.session(index) else {
            return self.lanes.committed();
        };
        let record = self.session_record(index, session, context.upstream);
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let client_id = session.client_id.clone();
        let put = SessionPut { client_id: &client_id, expires_at, will_at, record: &bytes };
        let token = context.upstream.append(&Record::SessionPut(put));
        if let Some(session) = self.session_mut(index) {
            session.stored = true;
            session.qos2_deltas = 0;
        }
        self.schedule_floor(context.now);
        token
    }

    pub(super) fn session_record(
        &self,
        index: u32,
        session: &Session,
        upstream: &dyn Upstream,
    ) -> SessionRecord {
        let mut record = SessionRecord {
            online: session.stage == Stage::Online,
            floor_shard: session.follows_floor.then_some(self.shard.0),
            session_expiry_s: session.connected.session_expiry_s,
            last_packet_id: session.last_packet_id,
            will: session.will.as_deref().cloned(),
            owner: session.user_name().filter(|_| self.limits.sessions_bound).map(Box::from),
            ..SessionRecord::default()
        };
        let outbound = session.outbound.as_deref();
        for (place, watermark) in self.watermarks.iter().enumerate() {
            let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
            let unsent = outbound.and_then(|outbound| lowest_unsent(outbound, partition));
            // Something may be missing before what is unsent, where the feed may yet go back.
            let up_to =
                outbound.map_or(*watermark, |outbound| outbound.has_up_to(partition, *watermark));
            record.cursors.push((partition, unsent.map_or(up_to, |unsent| unsent.min(up_to))));
            let unchecked = outbound.and_then(|outbound| outbound.unchecked_anchor(partition));
            let anchor = unchecked.or_else(|| upstream.anchor(partition));
            record.anchors.extend(anchor.map(|anchor| (partition, anchor)));
        }
        for subscription in &session.subscriptions {
            record.subscriptions.extend(self.subscription_record(index, *subscription, outbound));
        }
        record.subscriptions.extend(shared_records(session));
        if let Some(outbound) = outbound {
            record.in_flight = in_flight_records(outbound);
            record.queued = outbound
                .queue
                .iter()
                .filter(|queued| matches!(queued.queued_for, QueuedFor::Retained(_)))
                .filter_map(|queued| {
                    Some((queued.partition, queued.sequence, queued.body.clone()?))
                })
                .collect();
            record.completed = outbound.completed.clone();
        }
        record
    }

    fn subscription_record(
        &self,
        index: u32,
        filter: FilterId,
        outbound: Option<&Outbound>,
    ) -> Option<SubscriptionRecord> {
        let subscriber = self.tree.subscriber(filter, SubscriberKind::Session, index)?;
        let mut text = String::new();
        self.tree.write_filter(filter, &mut text);
        let starts = outbound.map_or(&[][..], |outbound| &outbound.starts);
        let own = starts.iter().filter(|start| start.filter == filter);
        Some(SubscriptionRecord {
            filter: text.into(),
            options: SubscriptionOptions::from(subscriber.options).to_byte(),
            identifier: subscriber.identifier,
            starts: own.map(|start| (start.partition, start.start)).collect(),
        })
    }

    /// Counts a recorded QoS 2 step; after so many the whole state is recorded, which replaces them.
    pub(super) fn count_qos2_delta(&mut self, index: u32, context: &mut Context<'_>) {
        let deltas_max = self.limits.qos2_deltas_max;
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if !session.is_persistent() {
            return;
        }
        session.qos2_deltas = session.qos2_deltas.saturating_add(1);
        if session.qos2_deltas >= deltas_max && session.stage == Stage::Online {
            self.record_session(index, context);
        }
    }

    /// Whether everything the session has not finished lies above the recorded floor.
    fn is_above_floor(&self, session: &Session) -> bool {
        let Some(outbound) = &session.outbound else {
            return true;
        };
        outbound.behind.is_empty()
            && outbound.unchecked.is_empty()
            && self.floor.iter().enumerate().all(|(place, floor)| {
                let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
                outbound.lowest_unfinished(partition).is_none_or(|lowest| lowest >= *floor)
            })
    }

    fn set_follows(&mut self, index: u32, follows: bool) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let followed = std::mem::replace(&mut session.follows_floor, follows);
        self.followers = self.followers + u32::from(follows) - u32::from(followed);
    }

    /// A session that leaves memory follows nothing.
    pub(super) fn unfollow(&mut self, index: u32) {
        self.set_follows(index, false);
    }

    /// Something moved: the floor is due within its interval.
    pub(super) fn schedule_floor(&mut self, now: Timestamp) {
        if self.floor_due == Timestamp::NEVER {
            self.floor_due = now.after(FLOOR_INTERVAL);
        }
    }

    /// Records up to where the sessions that follow the floor have finished everything, frees the
    /// outbound state that sessions no longer need, and lets sessions begin or cease to follow.
    pub(super) fn record_floor(&mut self, context: &mut Context<'_>) {
        self.floor_due = Timestamp::NEVER;
        self.sweep_outbound(context);
        let mut floor = self.watermarks.clone();
        for index in &self.with_outbound {
            let Some(session) = self.session(*index) else {
                continue;
            };
            let Some(outbound) = session.outbound.as_deref().filter(|_| session.follows_floor)
            else {
                continue;
            };
            lower(&mut floor, outbound);
        }
        if self.followers > 0 && floor != self.floor {
            let places = floor.iter().enumerate().map(|(place, sequence)| {
                (PartitionId(u16::try_from(place).expect("partition ids are u16")), *sequence)
            });
            let cursors: Vec<_> = places.collect();
            let anchor = |(partition, _): &(PartitionId, Sequence)| {
                Some((*partition, context.upstream.anchor(*partition)?))
            };
            let anchors = cursors.iter().filter_map(anchor).collect();
            let cursors = Floor { cursors, anchors }.encode();
            context.upstream.append(&Record::Floor { shard: self.shard.0, cursors: &cursors });
            self.floor = floor;
        }
        self.past_watermarks.push_back(self.watermarks.clone());
        if self.past_watermarks.len() > SLOW_FLOORS {
            self.past_watermarks.pop_front();
        }
        self.tell_slow(context);
        if !self.with_outbound.is_empty() || self.slow.is_watching() {
            self.schedule_floor(context.now);
        }
    }

    fn sweep_outbound(&mut self, context: &mut Context<'_>) {
        let mut tracked = std::mem::take(&mut self.with_outbound);
        let mut gauges = OutboundGauges::default();
        let mut slowest = std::mem::take(&mut self.slowest);
        slowest.clear();
        tracked.sort_unstable();
        tracked.dedup();
        tracked.retain(|&index| {
            let Self { sessions, watermarks, slow, .. } = self;
            let slot = sessions.get_mut(index as usize);
            let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
                return false;
            };
            if let Some(outbound) = &mut session.outbound {
                outbound.forget_passed(watermarks);
            }
            session.shrink();
            if let Some(outbound) = &session.outbound {
                let lag = gauges.add(outbound, watermarks);
                let measure = (lag, outbound.in_flight.len() + outbound.queue.len());
                note_slow(&mut slowest, Slow { session: index, epoch: session.epoch, measure });
                if session.stage == Stage::Online && !outbound.behind.is_empty() {
                    slow.note_behind(index, session.epoch, lag);
                }
            }
            let is_candidate = session.stage == Stage::Online && session.is_persistent();
            let (has_outbound, follows) = (session.outbound.is_some(), session.follows_floor);
            if is_candidate && self.should_change(index, follows) {
                self.record_session(index, context);
            }
            has_outbound
        });
        tracked.append(&mut self.with_outbound);
        self.with_outbound = tracked;
        self.outbound_gauges = gauges;
        self.slowest = slowest;
    }

    /// A follower that is slow or behind must cease to follow; another that is up to date may begin.
    fn should_change(&self, index: u32, follows: bool) -> bool {
        let Some(session) = self.session(index) else {
            return false;
        };
        if !follows {
            return self.is_above_floor(session);
        }
        let Some(outbound) = &session.outbound else {
            return false;
        };
        let Some(past) =
            self.past_watermarks.front().filter(|_| self.past_watermarks.len() == SLOW_FLOORS)
        else {
            return !outbound.behind.is_empty();
        };
        let is_slow = past.iter().enumerate().any(|(place, old)| {
            let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
            outbound.lowest_unfinished(partition).is_some_and(|lowest| lowest < *old)
        });
        // Ceasing to follow only helps if the record would say so.
        (is_slow || !outbound.behind.is_empty()) && !self.is_above_floor(session)
    }

    /// The lowest sequence of `partition` a session in memory still needs.
    #[must_use]
    pub fn needed(&self, partition: PartitionId) -> Sequence {
        let sessions = self.with_outbound.iter().filter_map(|index| self.session(*index));
        sessions
            .filter_map(|session| session.outbound.as_deref()?.lowest_needed(partition))
            .chain([self.watermark(partition)])
            .min()
            .unwrap_or(Sequence::ZERO)
    }

    /// The session's offline record is committed: it leaves memory, and whoever waits for it comes.
    pub(super) fn handle_saved(&mut self, ticket: Ticket, context: &mut Context<'_>) {
        let session = self.session_of(ticket);
        let Some(session) = session.filter(|session| session.stage == Stage::ExpectSaved) else {
            return;
        };
        // What the store will say is still needed: for the will and the groups of the former session.
        if session.asked {
            session.saved = true;
            return;
        }
        let Some(session) = self.remove_session(ticket.session) else {
            return;
        };
        if let Some(pending) = self.pending_connects.remove(&ticket.session) {
            self.start_session(&session.client_id, *pending, context);
        }
    }
}

fn in_flight_records(outbound: &Outbound) -> Vec<InFlightRecord> {
    let record = |sent: &InFlight| InFlightRecord {
        packet_id: sent.packet_id,
        step: sent.step,
        retain: sent.retain,
        shared: sent.origin.is_shared(),
        partition: sent.partition,
        sequence: sent.sequence,
        body: outbound
            .bodies
            .iter()
            .find(|(packet_id, _)| *packet_id == sent.packet_id)
            .map(|(_, body)| body.clone()),
    };
    // A group gives what is its own to another member when the session is gone.
    let is_own = |sent: &&InFlight| {
        !(matches!(sent.origin, Origin::Group(_)) && sent.step == InFlightStep::ExpectPuback)
    };
    outbound.in_flight.iter().filter(is_own).map(record).collect()
}

/// From where the session still has to look at `partition`, if that is before the watermark.
fn lowest_unsent(outbound: &Outbound, partition: PartitionId) -> Option<Sequence> {
    let queued = outbound.queue.iter();
    queued
        .filter(|queued| queued.partition == partition)
        .filter(|queued| queued.queued_for == QueuedFor::Subscriptions)
        .map(|queued| queued.sequence)
        .chain(outbound.cursor(partition))
        .min()
}

fn lower(floor: &mut [Sequence], outbound: &Outbound) {
    for (place, floor) in floor.iter_mut().enumerate() {
        let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
        if let Some(lowest) = outbound.lowest_unfinished(partition) {
            *floor = lowest.min(*floor);
        }
    }
}
