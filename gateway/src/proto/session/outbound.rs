//! Messages on their way to one client: the in-flight window, what waits for room in it, and the
//! cursors of a session that is behind.
//!
//! ```text
//! partition log ──replay──▶ queue ──window has room──▶ in flight ──PUBACK / PUBCOMP──▶ done
//!      live feed ──────────▶ queue
//! ```
//! The queue holds sequences (live) or bodies (replayed, retained), at most `pending_max`; what does
//! not fit stays in the log, and a cursor in `behind` says where to go on.

use super::shared::{GroupId, Origin};
use crate::proto::mqtt::{PacketId, QoS};
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::record::Record;
use crate::proto::routing::FilterId;
use crate::proto::shard_state::{ComesAfter, Replayed};
use crate::proto::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// How far an outbound exchange is. Source: MQTT 5.0 §4.3.2-3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlightStep {
    /// QoS 1: PUBLISH was sent.
    ExpectPuback,
    /// QoS 2: PUBLISH goes out when the step is committed.
    ExpectSentCommit,
    /// QoS 2: PUBLISH was sent.
    ExpectPubrec,
    /// QoS 2: PUBREC came; PUBREL goes out when the step is committed.
    ExpectReceivedCommit,
    /// QoS 2: PUBREL was sent.
    ExpectPubcomp,
}

impl InFlightStep {
    /// Whether a message at this step is sent, for the first time or again.
    #[must_use]
    pub fn needs_content(self) -> bool {
        matches!(self, Self::ExpectPuback | Self::ExpectPubrec)
    }
}

/// One message in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Ours.
    pub packet_id: PacketId,
    /// See [`InFlightStep`].
    pub step: InFlightStep,
    /// Sent as a retained message, or with Retain As Published.
    pub retain: bool,
    /// See [`Origin`].
    pub origin: Origin,
    /// Where its content is, unless `bodies` of [`Outbound`] has it.
    pub partition: PartitionId,
    /// See `partition`.
    pub sequence: Sequence,
}

impl InFlight {
    /// The QoS it was sent with.
    #[must_use]
    pub fn qos(&self) -> QoS {
        match self.step {
            InFlightStep::ExpectPuback => QoS::AtLeastOnce,
            InFlightStep::ExpectSentCommit
            | InFlightStep::ExpectPubrec
            | InFlightStep::ExpectReceivedCommit
            | InFlightStep::ExpectPubcomp => QoS::ExactlyOnce,
        }
    }
}

/// A message that waits for room in the window.
#[derive(Debug)]
pub struct Queued {
    /// Whose log it is in.
    pub partition: PartitionId,
    /// See [`QueuedFor`].
    pub queued_for: QueuedFor,
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its record body where the log may not have it at hand: all but what was noted live.
    pub body: Option<Box<[u8]>>,
}

/// What asked for a queued message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedFor {
    /// Whatever subscriptions of the session match it.
    Subscriptions,
    /// SUBSCRIBE of this filter: it is a retained message.
    Retained(FilterId),
    /// A shared subscription.
    Group {
        /// Which.
        group: GroupId,
        /// See [`crate::proto::shard_state::SharedMessage::record`].
        record: bool,
    },
}

impl Queued {
    fn is_shared(&self) -> bool {
        matches!(self.queued_for, QueuedFor::Group { .. })
    }
}

/// A message in flight that was not sent on this connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Its own.
    pub packet_id: PacketId,
    /// It may have been sent on an earlier one.
    pub dup: bool,
    /// Its record body, where it was read or asked for.
    pub content: Option<Box<[u8]>>,
}

/// A session's place in a partition it is behind in.
#[derive(Debug)]
pub struct Behind {
    /// Which partition.
    pub partition: PartitionId,
    /// Everything from here on is still to be read.
    pub cursor: Sequence,
    /// Between this and `cursor` the session has everything that is its. What comes live from before
    /// is neither read nor had.
    pub since: Sequence,
    /// Read, and waiting for what other partitions have that is older.
    pub ahead: VecDeque<Ahead>,
    /// A replay from `cursor` was asked for.
    pub asked: bool,
    /// The session has subscribed to more since: the answer does not have all that is its.
    pub is_stale: bool,
    /// `cursor` is the end of the partition, and nothing was passed over live since.
    pub at_end: bool,
}

/// See [`Behind::ahead`].
#[derive(Debug)]
pub struct Ahead {
    /// When the message came to a gateway: decides between partitions.
    pub received_at: Timestamp,
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its record body.
    pub body: Box<[u8]>,
}

impl Behind {
    fn new(partition: PartitionId, since: Sequence, cursor: Sequence) -> Self {
        let (ahead, asked, is_stale, at_end) = (VecDeque::new(), false, false, false);
        Self { partition, cursor, since, ahead, asked, is_stale, at_end }
    }

    /// Everything from here on still has to be sent.
    fn lowest(&self) -> Sequence {
        self.ahead.front().map_or(self.cursor, |ahead| ahead.sequence)
    }
}

/// Where a subscription made while the session was behind begins. Messages before it are not its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionStart {
    /// Which subscription.
    pub filter: FilterId,
    /// In which partition.
    pub partition: PartitionId,
    /// From which sequence.
    pub start: Sequence,
}

/// A part of a partition that was read for a session, all of it, while the shard's feed may still
/// bring some of it for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Which partition.
    pub partition: PartitionId,
    /// From this sequence on.
    pub from: Sequence,
    /// Up to before this one.
    pub to: Sequence,
}

/// Parts that a session remembers. When there are more, the oldest is forgotten, and a message of it
/// may come twice if leadership moves just then.
const READ_BACK_MAX: usize = 16;

/// Messages of a partition are to be sent again, and their content is being asked for. What else
/// there is of the partition waits for that; with `is_apart` what others have does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refetching {
    /// Which partition.
    pub partition: PartitionId,
    /// Messages in flight that wait for it, which take no place in the client's window meanwhile.
    pub held: u16,
    /// See [`crate::proto::shard_state::Upstream::partitions_are_apart`].
    pub is_apart: bool,
    /// It is not this one that was asked, but one that comes before it: see
    /// [`crate::proto::shard_state::Upstream::comes_after`].
    pub is_behind: bool,
}

/// So many messages that wait for content take no place in a client's window; others do.
pub const HELD_MAX: u16 = 1_024;

/// From where on what matches a subscription reaches its session as a message, per partition. Many that
/// were made at the same time have the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RetainedStarts {
    /// Of QoS 1 and 2.
    pub acknowledged: Vec<Sequence>,
    /// Of QoS 0 messages, which are live before they are committed; what is earlier is waited for.
    pub unacknowledged: Vec<Sequence>,
    /// Of QoS 0 messages whose place is not known: retained ones that the shard was given before.
    pub came_live: u64,
}

/// Retained messages that a subscription is still to be sent, page by page.
#[derive(Debug)]
pub struct RetainedRequest {
    /// The filter subscribed to.
    pub filter: Box<str>,
    /// What the subscription was granted.
    pub qos: QoS,
    /// Its Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// See [`RetainedStarts`].
    pub starts: Arc<RetainedStarts>,
    /// What reached it as a message before those were known.
    pub delivered: Box<[(PartitionId, Sequence)]>,
    /// Where the next page begins: see `from` of [`crate::proto::shard_state::Request::Retained`].
    pub from: Box<str>,
    /// It is the second look, for what was on its way to be retained at the first.
    pub is_second: bool,
    /// The question for it that is under way.
    pub asked: Option<u64>,
    /// How often in a row the store could not answer it.
    pub failures: u8,
}

/// Outbound state of a session, allocated when first needed.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Sent and not finished, oldest first.
    pub in_flight: VecDeque<InFlight>,
    /// Waiting for room, oldest first.
    pub queue: VecDeque<Queued>,
    /// Partitions in which the session is behind.
    pub behind: Vec<Behind>,
    /// Packet ids went round while the oldest was still in flight, so a new one may be taken.
    pub lapped: bool,
    /// Those in flight that were not sent on this connection yet, in order: to be sent again, or
    /// waiting for the record that they may be sent.
    pub unsent: VecDeque<Unsent>,
    /// Partitions that were asked for the content of messages in `unsent`, and have not answered.
    pub refetching: Vec<Refetching>,
    /// Content of messages in flight that no log holds.
    pub bodies: Vec<(PacketId, Box<[u8]>)>,
    /// QoS 2 messages finished before a crash that a replay may meet again.
    pub completed: Vec<(PartitionId, Sequence)>,
    /// See [`ReadBack`]; at most `READ_BACK_MAX`.
    pub read_back: Vec<ReadBack>,
    /// See [`SubscriptionStart`].
    pub starts: Vec<SubscriptionStart>,
    /// One after the other; gone with the connection.
    pub retained: VecDeque<RetainedRequest>,
    /// Partitions of which it is not known yet whether the places here are still what they were when
    /// they were recorded, and what was recorded beside them.
    pub unchecked: Vec<(PartitionId, Anchor)>,
}

impl Outbound {
    /// Nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
            && self.queue.is_empty()
            && self.behind.is_empty()
            && self.completed.is_empty()
            && self.read_back.is_empty()
            && self.starts.is_empty()
            && self.retained.is_empty()
            && self.refetching.is_empty()
            && self.unchecked.is_empty()
    }

    /// See [`Outbound::unchecked`].
    #[must_use]
    pub fn unchecked_anchor(&self, partition: PartitionId) -> Option<Anchor> {
        let unchecked = self.unchecked.iter().find(|(of, _)| *of == partition);
        unchecked.map(|(_, anchor)| *anchor)
    }

    /// What the places of `partition` from `from` on were is gone, and they are used again: whatever is
    /// there is new to the session. A message in flight that is gone keeps its packet id, as the client
    /// may be in the middle of its exchange, and has no place any more.
    pub fn lose_from(&mut self, partition: PartitionId, from: Sequence) {
        let is_lost = |of: PartitionId, at: Sequence| of == partition && at >= from;
        for sent in &mut self.in_flight {
            if is_lost(sent.partition, sent.sequence) {
                sent.sequence = Sequence::ZERO;
            }
        }
        self.queue.retain(|queued| {
            queued.queued_for != QueuedFor::Subscriptions
                || !is_lost(queued.partition, queued.sequence)
        });
        for behind in self.behind.iter_mut().filter(|behind| behind.partition == partition) {
            behind.ahead.retain(|ahead| ahead.sequence < from);
            behind.at_end &= behind.cursor < from;
            behind.cursor = from.min(behind.cursor);
            behind.since = from.min(behind.since);
        }
        for start in self.starts.iter_mut().filter(|start| start.partition == partition) {
            start.start = from.min(start.start);
        }
        self.completed.retain(|(of, at)| !is_lost(*of, *at));
        for part in self.read_back.iter_mut().filter(|part| part.partition == partition) {
            part.to = from.min(part.to);
        }
        self.read_back.retain(|part| part.from < part.to);
    }

    /// Whether there is something to send, or to ask for, when there is room.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty() || !self.behind.is_empty() || !self.retained.is_empty()
    }

    /// Whether what there is of `partition` waits for content that is being asked for.
    #[must_use]
    pub fn is_held(&self, partition: PartitionId) -> bool {
        self.refetching.iter().any(|one| !one.is_apart || one.partition == partition)
    }

    /// `partition` has said what its messages were: those of others that come behind it wait no more,
    /// unless [`Outbound::hold_behind`] says so.
    pub fn refetched(&mut self, partition: PartitionId) {
        self.refetching.retain(|one| one.partition != partition && !one.is_behind);
    }

    /// What comes behind a partition that is asked for content waits with it: a topic's messages are sent
    /// again in their order, also if some of them are where the topic moved to.
    pub fn hold_behind<'a>(
        &mut self,
        partitions: impl Iterator<Item = PartitionId>,
        comes_after: impl Fn(PartitionId) -> &'a [ComesAfter],
    ) {
        self.refetching.retain(|one| !one.is_behind);
        if self.refetching.is_empty() {
            return;
        }
        let is_asked = |of| self.refetching.iter().any(|one| one.partition == of);
        let is_behind =
            |of: &PartitionId| comes_after(*of).iter().any(|after| is_asked(after.partition));
        let hold = |partition| {
            // What was asked for is counted there.
            let held = if is_asked(partition) { 0 } else { self.unsent_of(partition) };
            Refetching { partition, held, is_apart: true, is_behind: true }
        };
        let behind: Vec<_> = partitions.filter(is_behind).map(hold).collect();
        self.refetching.extend(behind);
    }

    /// How many messages of `partition` are to be sent again, of those that can be held.
    #[must_use]
    pub fn unsent_of(&self, partition: PartitionId) -> u16 {
        let is_of = |sent: &&InFlight| sent.partition == partition && sent.step.needs_content();
        let unsent = self.in_flight.iter().filter(is_of);
        let unsent = unsent.filter(|sent| self.is_unsent(sent.packet_id));
        u16::try_from(unsent.count()).unwrap_or(u16::MAX)
    }

    /// Whether everything waits for content that is being asked for.
    #[must_use]
    pub fn is_all_held(&self) -> bool {
        self.refetching.iter().any(|one| !one.is_apart)
    }

    /// Whether a live message of `partition` has to wait its turn behind others.
    #[must_use]
    pub fn is_waiting(&self, partition: PartitionId) -> bool {
        if self.refetching.is_empty() {
            return !self.queue.is_empty();
        }
        self.is_held(partition) || self.queue.iter().any(|queued| !self.is_held(queued.partition))
    }

    /// The next message to be sent, of a partition whose turn it is.
    pub fn take_queued(&mut self) -> Option<Queued> {
        if self.refetching.is_empty() {
            return self.queue.pop_front();
        }
        let place = self.queue.iter().position(|queued| !self.is_held(queued.partition))?;
        self.queue.remove(place)
    }

    /// Messages in flight that take a place in a window.
    #[must_use]
    pub fn in_window(&self) -> usize {
        if self.refetching.is_empty() {
            return self.in_flight.len();
        }
        let held: usize = self.refetching.iter().map(|one| usize::from(one.held)).sum();
        self.in_flight.len().saturating_sub(held.min(usize::from(HELD_MAX)))
    }

    /// Whether `candidate`, the successor of the last id used, is in use.
    ///
    /// Ids are given in order, so those in flight lie between the oldest and the last, and only the
    /// oldest can be met, until it was met once: then every id has to be looked at.
    pub fn is_in_flight(&mut self, candidate: PacketId) -> bool {
        if self.in_flight.is_empty() {
            self.lapped = false;
        } else if self.in_flight.front().is_some_and(|oldest| oldest.packet_id == candidate) {
            self.lapped = true;
        }
        self.lapped && self.in_flight.iter().any(|sent| sent.packet_id == candidate)
    }

    /// The exchange with `packet_id`.
    pub fn find(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        let place = place_of(&self.in_flight, packet_id, |sent| sent.packet_id)?;
        self.in_flight.get_mut(place)
    }

    /// Ends the exchange with `packet_id`.
    pub fn remove(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let place = place_of(&self.in_flight, packet_id, |sent| sent.packet_id)?;
        if !self.refetching.is_empty() {
            self.let_go(place, packet_id);
        }
        self.bodies.retain(|(id, _)| *id != packet_id);
        self.sent(packet_id);
        if place == 0 { self.in_flight.pop_front() } else { self.in_flight.remove(place) }
    }

    /// A message whose content was asked for need not be sent again.
    fn let_go(&mut self, place: usize, packet_id: PacketId) {
        let partition = self.in_flight.get(place).map(|sent| sent.partition);
        let is_unsent = self.is_unsent(packet_id);
        let of_partition = |one: &&mut Refetching| Some(one.partition) == partition && is_unsent;
        if let Some(one) = self.refetching.iter_mut().find(of_partition) {
            one.held = one.held.saturating_sub(1);
        }
    }

    /// The message was sent on this connection, or never will be.
    pub fn sent(&mut self, packet_id: PacketId) {
        if self.unsent.front().is_some_and(|unsent| unsent.packet_id == packet_id) {
            self.unsent.pop_front();
        } else {
            self.unsent.retain(|unsent| unsent.packet_id != packet_id);
        }
    }

    /// Whether the message is still to be sent on this connection.
    #[must_use]
    pub fn is_unsent(&self, packet_id: PacketId) -> bool {
        place_of(&self.unsent, packet_id, |unsent| unsent.packet_id).is_some()
    }

    /// The message, if it is still to be sent on this connection.
    pub fn find_unsent(&mut self, packet_id: PacketId) -> Option<&mut Unsent> {
        let place = place_of(&self.unsent, packet_id, |unsent| unsent.packet_id)?;
        self.unsent.get_mut(place)
    }

    /// Whether the session has the content of a message in flight.
    #[must_use]
    pub fn has_content(&self, packet_id: PacketId) -> bool {
        let place = place_of(&self.unsent, packet_id, |unsent| unsent.packet_id);
        let unsent = place.and_then(|place| self.unsent.get(place));
        unsent.is_some_and(|unsent| unsent.content.is_some())
            || self.bodies.iter().any(|(id, _)| *id == packet_id)
    }

    /// How many messages were sent on this connection and are not finished.
    #[must_use]
    pub fn sent_count(&self) -> usize {
        self.in_flight.len().saturating_sub(self.unsent.len())
    }

    /// Where the session is behind in `partition`.
    #[must_use]
    pub fn cursor(&self, partition: PartitionId) -> Option<Sequence> {
        self.behind.iter().find(|behind| behind.partition == partition).map(Behind::lowest)
    }

    /// Whether a live message is left to a replay, which then has not seen the end, or was read by one.
    pub fn passes_over(&mut self, partition: PartitionId, sequence: Sequence) -> bool {
        let behind = self.behind.iter_mut().find(|behind| behind.partition == partition);
        if let Some(behind) = behind.filter(|behind| sequence >= behind.since) {
            behind.at_end = false;
            return true;
        }
        self.has_read(partition, sequence)
    }

    /// Whether the session has not all yet of what comes before what a partition has at `sequence`: see
    /// [`crate::proto::shard_state::Upstream::comes_after`].
    #[must_use]
    pub fn comes_too_early(&self, comes_after: &[ComesAfter], sequence: Sequence) -> bool {
        self.may_have_up_to(comes_after).is_some_and(|end| sequence >= end)
    }

    /// The first sequence of a partition that comes too early for the session, if any does.
    fn may_have_up_to(&self, comes_after: &[ComesAfter]) -> Option<Sequence> {
        let is_missing = |after: &&ComesAfter| {
            self.cursor(after.partition).is_some_and(|cursor| cursor < after.end)
                || self.refetching.iter().any(|one| one.partition == after.partition)
        };
        comes_after.iter().filter(is_missing).map(|after| after.from).min()
    }

    /// The session has fallen behind in what comes first: what waits and comes too early now is read again
    /// when it is its turn.
    pub fn give_up_early<'a>(
        &mut self,
        partitions: impl Iterator<Item = PartitionId> + Clone,
        comes_after: impl Fn(PartitionId) -> &'a [ComesAfter],
    ) {
        let is_early = |outbound: &Self, partition, queued: &Queued| {
            queued.partition == partition
                && queued.queued_for == QueuedFor::Subscriptions
                && outbound.comes_too_early(comes_after(partition), queued.sequence)
        };
        loop {
            let early = partitions.clone().find_map(|partition| {
                let mut queue = self.queue.iter();
                let first = queue.find(|queued| is_early(self, partition, queued))?.sequence;
                Some((partition, first))
            });
            let Some((partition, first)) = early else { return };
            let is_left = |queued: &Queued| {
                queued.partition != partition
                    || queued.queued_for != QueuedFor::Subscriptions
                    || queued.sequence < first
            };
            self.queue.retain(is_left);
            self.fall_behind(partition, first);
        }
    }

    fn has_read(&self, partition: PartitionId, sequence: Sequence) -> bool {
        let is_in = |part: &ReadBack| {
            part.partition == partition && (part.from..part.to).contains(&sequence)
        };
        self.read_back.iter().any(is_in)
    }

    /// From where the session needs `partition`, it having everything before `watermark`.
    #[must_use]
    pub fn has_up_to(&self, partition: PartitionId, watermark: Sequence) -> Sequence {
        let is_around = |part: &&ReadBack| {
            part.partition == partition && (part.from..part.to).contains(&watermark)
        };
        let read = self.read_back.iter().find(is_around).map_or(watermark, |part| part.to);
        let is_had = |behind: &&Behind| {
            behind.partition == partition && (behind.since..behind.lowest()).contains(&read)
        };
        self.behind.iter().find(is_had).map_or(read, Behind::lowest)
    }

    /// Everything of `partition` from `from` up to `to` was read.
    fn note_read(&mut self, partition: PartitionId, mut from: Sequence, mut to: Sequence) {
        self.read_back.retain(|part| {
            let joins = part.partition == partition && part.from <= to && from <= part.to;
            if joins {
                (from, to) = (part.from.min(from), part.to.max(to));
            }
            !joins
        });
        if self.read_back.len() >= READ_BACK_MAX {
            self.read_back.remove(0);
        }
        self.read_back.push(ReadBack { partition, from, to });
    }

    /// The session needs everything of `partition` from `cursor` on, and takes nothing live.
    pub fn fall_behind(&mut self, partition: PartitionId, cursor: Sequence) {
        match self.behind.iter_mut().find(|behind| behind.partition == partition) {
            Some(behind) if cursor < behind.lowest() => {
                *behind = Behind::new(partition, cursor, cursor);
            }
            Some(_) => {}
            None => self.behind.push(Behind::new(partition, cursor, cursor)),
        }
    }

    /// A session that comes back is behind from `cursor` on, and has everything before.
    pub fn come_back(&mut self, partition: PartitionId, cursor: Sequence) {
        self.behind.retain(|behind| behind.partition != partition);
        self.behind.push(Behind::new(partition, Sequence::ZERO, cursor));
    }

    /// The session subscribes to more. What is being read for it is read again, as what came live
    /// meanwhile was left to that.
    pub fn widen(&mut self) {
        for behind in &mut self.behind {
            behind.is_stale |= behind.asked;
        }
    }

    /// Whether what is being read of `partition` will be read again.
    #[must_use]
    pub fn is_stale(&self, partition: PartitionId) -> bool {
        self.behind.iter().any(|behind| behind.partition == partition && behind.is_stale)
    }

    /// What is to be read next where the session is behind, its queue being empty: partition, from
    /// where, and how many messages. In all partitions at once, so that their messages can be put in
    /// order.
    ///
    /// `comes_after` is what [`crate::proto::shard_state::Upstream::comes_after`] says.
    pub fn take_reads<'a>(
        &mut self,
        pending_max: u32,
        comes_after: impl Fn(PartitionId) -> &'a [ComesAfter],
    ) -> Vec<(PartitionId, Sequence, u32)> {
        let is_too_early =
            |behind: &&Behind| self.comes_too_early(comes_after(behind.partition), behind.cursor);
        let too_early = self.behind.iter().filter(is_too_early).map(|behind| behind.partition);
        let too_early: Vec<PartitionId> = too_early.collect();
        let partitions = u32::try_from(self.behind.len()).expect("partition ids are u16");
        let count_max = (pending_max / partitions.max(1)).max(1);
        let Self { behind, refetching, .. } = self;
        let is_held = |of: PartitionId| {
            refetching.iter().any(|one: &Refetching| !one.is_apart || one.partition == of)
        };
        // What is read of a partition that waits would only fill the queue.
        let needs_reading = |behind: &&mut Behind| {
            behind.ahead.is_empty()
                && !behind.asked
                && !is_held(behind.partition)
                && !too_early.contains(&behind.partition)
        };
        let read = |behind: &mut Behind| {
            behind.asked = true;
            (behind.partition, behind.cursor, count_max)
        };
        behind.iter_mut().filter(needs_reading).map(read).collect()
    }

    /// What was read. Returns false when nobody asked for it. What comes too early of it is left, to be read
    /// again; `comes_after` is [`crate::proto::shard_state::Upstream::comes_after`] of the partition.
    pub fn take_replayed(&mut self, replayed: Replayed, comes_after: &[ComesAfter]) -> bool {
        let Replayed { partition, mut messages, mut next, mut end, mut read_to, .. } = replayed;
        if let Some(limit) = self.may_have_up_to(comes_after)
            && let Some(cursor) = self.behind.iter().find(|one| one.partition == partition)
        {
            let limit = limit.max(cursor.cursor);
            if next > limit {
                (next, end) = (limit, false);
                read_to = read_to.map(|to| to.min(limit));
                messages.retain(|(sequence, _)| *sequence < limit);
            }
        }
        let Self { behind, completed, in_flight, .. } = self;
        let asked = |behind: &&mut Behind| behind.partition == partition && behind.asked;
        let Some(behind) = behind.iter_mut().find(asked) else {
            return false;
        };
        behind.asked = false;
        if std::mem::take(&mut behind.is_stale) {
            return true;
        }
        behind.at_end = end;
        behind.cursor = next;
        let since = behind.since;
        for (sequence, body) in messages {
            // Where the feed went back, the session may have fallen behind before what it was sent.
            let is_in_flight = |sent: &InFlight| {
                (sent.partition, sent.sequence) == (partition, sequence) && !sent.origin.is_shared()
            };
            if completed.contains(&(partition, sequence))
                || (read_to.is_some() && in_flight.iter().any(is_in_flight))
            {
                continue;
            }
            if let Some(Record::Message(message)) = Record::decode(&body) {
                let received_at = message.received_at;
                behind.ahead.push_back(Ahead { received_at, sequence, body });
            }
        }
        if let Some(read_to) = read_to {
            self.note_read(partition, since, read_to);
        }
        self.merge_ahead();
        true
    }

    /// Queues all that was read of `partition`, whatever others may still have.
    pub fn queue_ahead(&mut self, partition: PartitionId) {
        let Self { behind, queue, .. } = self;
        for behind in behind.iter_mut().filter(|behind| behind.partition == partition) {
            for Ahead { sequence, body, .. } in behind.ahead.drain(..) {
                let queued_for = QueuedFor::Subscriptions;
                queue.push_back(Queued { partition, queued_for, sequence, body: Some(body) });
            }
        }
        behind.retain(|behind| !(behind.at_end && behind.ahead.is_empty()));
    }

    /// Queues what was read of several partitions, oldest first, as far as no partition can still
    /// have something older. Partitions read to their end are no longer behind.
    fn merge_ahead(&mut self) {
        let Self { behind, queue, .. } = self;
        loop {
            behind.retain(|behind| !(behind.at_end && behind.ahead.is_empty()));
            if behind.iter().any(|behind| behind.ahead.is_empty()) {
                return;
            }
            let oldest = behind
                .iter_mut()
                .min_by_key(|behind| behind.ahead.front().map(|ahead| ahead.received_at));
            let Some((partition, ahead)) =
                oldest.and_then(|behind| Some((behind.partition, behind.ahead.pop_front()?)))
            else {
                return;
            };
            let Ahead { sequence, body, .. } = ahead;
            let queued_for = QueuedFor::Subscriptions;
            let queued = Queued { partition, queued_for, sequence, body: Some(body) };
            queue.push_back(queued);
        }
    }

    /// Forgets what only matters to a session that may still meet messages below `watermarks`:
    /// where its subscriptions began, and what it has completed.
    pub fn forget_passed(&mut self, watermarks: &[Sequence]) {
        let Self { behind, queue, starts, completed, read_back, .. } = self;
        let watermark_of = |partition: PartitionId| {
            watermarks.get(usize::from(partition.0)).copied().unwrap_or_default()
        };
        read_back.retain(|part| part.to > watermark_of(part.partition));
        let is_ahead = |partition: PartitionId, sequence: Sequence| {
            sequence >= watermark_of(partition)
                || behind.iter().any(|behind| behind.partition == partition)
                || queue.iter().any(|queued| queued.partition == partition)
        };
        // It keeps out what is below it.
        let last_kept_out = |start: &SubscriptionStart| Sequence(start.start.0.saturating_sub(1));
        starts.retain(|start| is_ahead(start.partition, last_kept_out(start)));
        completed.retain(|(partition, sequence)| is_ahead(*partition, *sequence));
    }

    /// The lowest sequence of `partition` that is not finished, in flight or waiting or behind.
    /// What shared subscriptions brought does not count: it says nothing of how far the session is.
    #[must_use]
    pub fn lowest_unfinished(&self, partition: PartitionId) -> Option<Sequence> {
        // One without a place is gone, whatever is made of its exchange.
        let is_own = |sent: &&InFlight| !sent.origin.is_shared() && sent.sequence > Sequence::ZERO;
        let in_flight = self.in_flight.iter().filter(is_own);
        let queued = self.queue.iter().filter(|queued| !queued.is_shared());
        in_flight
            .map(|sent| (sent.partition, sent.sequence))
            .chain(queued.map(|queued| (queued.partition, queued.sequence)))
            .filter(|(of, _)| *of == partition)
            .map(|(_, sequence)| sequence)
            .chain(self.cursor(partition))
            .min()
    }

    /// The lowest sequence of `partition` that the log must still hold for the session.
    #[must_use]
    pub fn lowest_needed(&self, partition: PartitionId) -> Option<Sequence> {
        let shared = self.in_flight.iter().filter(|sent| sent.origin.is_shared());
        shared
            .filter(|sent| sent.partition == partition)
            .map(|sent| sent.sequence)
            .chain(self.lowest_unfinished(partition))
            .min()
    }
}

/// Where `packet_id` is in a list whose ids were given in order, as those of the messages in flight
/// are until ids have gone round: then, and when it is not there, each is looked at.
fn place_of<T>(
    list: &VecDeque<T>,
    packet_id: PacketId,
    id_of: impl Fn(&T) -> PacketId,
) -> Option<usize> {
    let first = id_of(list.front()?);
    let since_first = |id: PacketId| id.get().wrapping_sub(first.get());
    let place = list.binary_search_by_key(&since_first(packet_id), |one| since_first(id_of(one)));
    place.ok().or_else(|| list.iter().position(|one| id_of(one) == packet_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    const TAKER: PartitionId = PartitionId(1);
    /// What [`TAKER`] has from here on comes behind what `P` has before 20.
    const TAKEN_FROM: [ComesAfter; 1] =
        [ComesAfter { change: 1, from: Sequence(7), partition: P, end: Sequence(20) }];

    fn after(partition: PartitionId) -> &'static [ComesAfter] {
        if partition == TAKER { &TAKEN_FROM } else { &[] }
    }

    fn replayed(next: u64, read_to: u64, end: bool) -> Replayed {
        Replayed {
            partition: P,
            messages: Vec::new(),
            next: Sequence(next),
            end,
            seen: Sequence(5),
            read_to: Some(Sequence(read_to)),
            clamped: false,
            alone: true,
        }
    }

    fn read(outbound: &mut Outbound, next: u64, read_to: u64, end: bool) {
        assert!(!outbound.take_reads(10, |_| &[]).is_empty());
        assert!(outbound.take_replayed(replayed(next, read_to, end), &[]));
        outbound.queue_ahead(P);
    }

    #[test]
    fn what_was_read_is_passed_over_when_the_feed_goes_back_and_what_was_not_is_taken() {
        let mut outbound = Outbound::default();
        outbound.come_back(P, Sequence(8));
        read(&mut outbound, 12, 12, false);
        assert!(outbound.passes_over(P, Sequence(7)), "it had that when it came back");
        read(&mut outbound, 25, 20, true);
        assert!(outbound.behind.is_empty());
        let passed = |outbound: &mut Outbound, at| outbound.passes_over(P, Sequence(at));
        assert!(passed(&mut outbound, 19) && !passed(&mut outbound, 20), "fed, not read");
        assert_eq!(outbound.has_up_to(P, Sequence(5)), Sequence(20));
        assert_eq!(outbound.has_up_to(P, Sequence(22)), Sequence(22));
        let mut back = Outbound::default();
        back.come_back(P, Sequence(8));
        assert_eq!(back.has_up_to(P, Sequence(5)), Sequence(8));

        outbound.fall_behind(P, Sequence(30));
        assert!(!passed(&mut outbound, 28), "it was neither sent nor will be read");
        assert_eq!(outbound.has_up_to(P, Sequence(28)), Sequence(28));
        assert!(passed(&mut outbound, 30));
        read(&mut outbound, 40, 40, true);
        assert!(!passed(&mut outbound, 28) && passed(&mut outbound, 39));
        assert_eq!(outbound.read_back.len(), 2);

        outbound.forget_passed(&[Sequence(20)]);
        assert_eq!(outbound.read_back.len(), 1);
        assert!(!outbound.is_empty());
        outbound.forget_passed(&[Sequence(40)]);
        assert!(outbound.is_empty());
    }

    #[test]
    fn what_is_gone_does_not_stand_for_what_is_new_in_its_place() {
        let mut outbound = Outbound::default();
        let packet_id = PacketId::new(1).unwrap();
        for at in [4, 9] {
            outbound.in_flight.push_back(InFlight {
                packet_id,
                step: InFlightStep::ExpectPubrec,
                retain: false,
                origin: Origin::Own,
                partition: P,
                sequence: Sequence(at),
            });
        }
        outbound.completed =
            vec![(P, Sequence(7)), (P, Sequence(8)), (PartitionId(1), Sequence(8))];
        outbound.come_back(P, Sequence(12));
        outbound.lose_from(P, Sequence(8));
        let places: Vec<u64> = outbound.in_flight.iter().map(|sent| sent.sequence.0).collect();
        assert_eq!(places, [4, 0]);
        assert_eq!(outbound.completed, [(P, Sequence(7)), (PartitionId(1), Sequence(8))]);
        assert_eq!(outbound.lowest_unfinished(P), Some(Sequence(4)));
        assert!(!outbound.take_reads(10, |_| &[]).is_empty());
        let body = Box::from(b"".as_slice());
        let answer = Replayed { messages: vec![(Sequence(9), body)], ..replayed(10, 10, false) };
        assert_eq!(outbound.cursor(P), Some(Sequence(8)));
        assert!(outbound.take_replayed(answer, &[]));
        outbound.lose_from(P, Sequence(8));
        assert_eq!(outbound.cursor(P), Some(Sequence(8)), "it is read again");
    }

    #[test]
    fn what_was_taken_over_is_read_behind_what_it_was_taken_from() {
        let asked = |outbound: &mut Outbound| {
            let reads = outbound.take_reads(10, after).into_iter();
            reads.map(|(partition, from, _)| (partition, from.0)).collect::<Vec<_>>()
        };
        let mut outbound = Outbound::default();
        outbound.come_back(P, Sequence(8));
        outbound.come_back(TAKER, Sequence(3));
        let too_early =
            |outbound: &Outbound, of, at| outbound.comes_too_early(after(of), Sequence(at));
        assert_eq!(asked(&mut outbound), [(P, 8), (TAKER, 3)], "it had topics before");
        assert!(!too_early(&outbound, TAKER, 6) && too_early(&outbound, TAKER, 7));
        assert!(!too_early(&outbound, P, 99));
        let of_taker = |next, end| {
            let found = |at| (Sequence(at), Vec::new().into_boxed_slice());
            let messages = vec![found(5), found(7), found(8)];
            Replayed { partition: TAKER, messages, ..replayed(next, next, end) }
        };
        assert!(outbound.take_replayed(of_taker(9, true), &TAKEN_FROM));
        outbound.queue_ahead(TAKER);
        assert_eq!(outbound.cursor(TAKER), Some(Sequence(7)), "the rest is read again");
        assert_eq!(outbound.read_back.last().map(|part| part.to), Some(Sequence(7)));
        assert!(outbound.take_replayed(replayed(19, 19, false), &[]));
        outbound.queue_ahead(P);
        assert_eq!(asked(&mut outbound), [(P, 19)], "one is missing");
        assert!(outbound.take_replayed(replayed(20, 20, false), &[]));
        outbound.queue_ahead(P);
        assert_eq!(asked(&mut outbound), [(P, 20), (TAKER, 7)]);
        // What it had passed before it fell behind again stays where it is.
        outbound.fall_behind(P, Sequence(11));
        assert!(outbound.take_replayed(of_taker(9, true), &TAKEN_FROM));
        assert_eq!(outbound.cursor(TAKER), Some(Sequence(7)));
        let (held, is_apart, is_behind) = (1, true, false);
        let held = Refetching { partition: P, held, is_apart, is_behind };
        outbound.refetching.push(held);
        assert!(too_early(&outbound, TAKER, 7), "what was in flight goes again first");
    }

    /// What a session has only noted is not at hand any more, and behind it waits what came where its topic
    /// went.
    #[test]
    fn what_waits_is_given_up_with_what_comes_before_it() {
        let mut outbound = Outbound::default();
        let queued_for = QueuedFor::Subscriptions;
        for (partition, sequence) in [(TAKER, 6), (P, 19), (P, 21), (TAKER, 8), (TAKER, 9)] {
            let (sequence, body) = (Sequence(sequence), None);
            outbound.queue.push_back(Queued { partition, queued_for, sequence, body });
        }
        let all = [P, TAKER];
        let queue = |outbound: &Outbound| {
            let queue = outbound.queue.iter();
            queue.map(|queued| (queued.partition, queued.sequence.0)).collect::<Vec<_>>()
        };
        outbound.fall_behind(P, Sequence(21));
        outbound.give_up_early(all.into_iter(), after);
        assert_eq!(outbound.queue.len(), 5, "that is of after");
        outbound.fall_behind(P, Sequence(19));
        outbound.give_up_early(all.into_iter(), after);
        assert_eq!(queue(&outbound), [(TAKER, 6), (P, 19), (P, 21)]);
        assert_eq!(outbound.cursor(TAKER), Some(Sequence(8)));
    }

    #[test]
    fn what_was_taken_over_is_sent_again_behind_what_it_was_taken_from() {
        const OTHER: PartitionId = PartitionId(2);
        let mut outbound = Outbound::default();
        for (id, partition) in [(1, P), (2, P), (3, TAKER), (4, OTHER)] {
            let packet_id = PacketId::new(id).unwrap();
            outbound.in_flight.push_back(InFlight {
                packet_id,
                step: InFlightStep::ExpectPuback,
                retain: false,
                origin: Origin::Own,
                partition,
                sequence: Sequence(9),
            });
            outbound.unsent.push_back(Unsent { packet_id, dup: true, content: None });
        }
        let asked = |outbound: &Outbound, partition| {
            let (held, is_apart) = (outbound.unsent_of(partition), true);
            Refetching { partition, held, is_apart, is_behind: false }
        };
        let all = [P, TAKER, OTHER];
        let held = |outbound: &Outbound| all.map(|partition| outbound.is_held(partition));
        for partition in [P, TAKER] {
            let one = asked(&outbound, partition);
            outbound.refetching.push(one);
        }
        outbound.hold_behind(all.into_iter(), after);
        assert_eq!((held(&outbound), outbound.in_window()), ([true, true, false], 1));
        outbound.refetched(TAKER);
        outbound.hold_behind(all.into_iter(), after);
        assert_eq!((held(&outbound), outbound.in_window()), ([true, true, false], 1), "it waits");
        // A client may acknowledge what it got on an earlier connection.
        outbound.remove(PacketId::new(3).unwrap());
        assert_eq!(outbound.in_window(), 1);
        outbound.refetched(P);
        outbound.hold_behind(all.into_iter(), after);
        assert_eq!((held(&outbound), outbound.in_window()), ([false; 3], 3));
    }

    #[test]
    fn an_id_is_found_wherever_ids_have_gone_round() {
        for ids in [
            &[7_u16, 8, 9, 11][..],
            &[65_533, 65_535, 1, 2, 9],
            &[5, 65_530, 65_535, 3, 4, 6, 9],
            &[9],
            &[],
        ] {
            let list: VecDeque<_> = ids.iter().copied().filter_map(PacketId::new).collect();
            for id in (1..20).chain(65_525..=65_535) {
                let place = place_of(&list, PacketId::new(id).unwrap(), |id| *id);
                assert_eq!(place, ids.iter().position(|one| *one == id), "{id} in {ids:?}");
            }
        }
    }

    #[test]
    fn the_oldest_of_too_many_parts_is_forgotten() {
        let mut outbound = Outbound::default();
        for number in 0..=READ_BACK_MAX as u64 {
            outbound.fall_behind(P, Sequence(10 * number + 1));
            read(&mut outbound, 10 * number + 5, 10 * number + 5, true);
        }
        assert_eq!(outbound.read_back.len(), READ_BACK_MAX);
        assert!(!outbound.passes_over(P, Sequence(2)) && outbound.passes_over(P, Sequence(12)));
    }
}
