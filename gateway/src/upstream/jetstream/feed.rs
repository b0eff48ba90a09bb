//! The feed of a partition: what comes by itself, and how far it is known to be complete.
//!
//! ```text
//! link there ─▶ ExpectMark ─▶ Reading, up to where the mark says the stream ends ─▶ Live
//! ```
//! Source: ARCHITECTURE.md, "Marks: where the stream ends, and how far the feed is".

use super::direct_get::Start;
use super::partition::{FeedStage, Kept, RETRY, message_of};
use super::place::outside;
use super::publish::{PublishAnswer, mark_sequence, read_publish_answer};
use super::requests::{Purpose, Scan};
use super::shard::{Deliver, JetStream, encoded, is_delivered};
use super::stored::{NotStored, StoreTime, Stored};
use crate::proto::bridge::message_headers::{ReadMessage, read_message};
use crate::proto::mqtt::QoS;
use crate::proto::nats::{Headers, Message as NatsMessage};
use crate::proto::partition::Sequence;
use crate::proto::record::Message;
use crate::proto::time::Timestamp;
use std::mem;
use std::num::NonZeroU16;

/// So often the feed reads on to where the stream has ended since, before it goes live: subscriptions made
/// all the time must not keep it from that.
pub(super) const READ_AGAIN_MAX: u8 = 8;

/// Messages read at once of what was missed while there was no link.
const FEED_BATCH: u16 = 500;

/// The end of a millisecond, for what was stored in it: nothing of the same life that is known is later, and
/// no server is back so soon.
fn within(millisecond: Timestamp) -> StoreTime {
    StoreTime(millisecond.0.saturating_add(1).saturating_mul(1_000_000).saturating_sub(1))
}

impl JetStream {
    pub(super) fn handle_mark(
        &mut self,
        place: usize,
        number: u64,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let answer = read_publish_answer(message.headers, message.payload);
        if let Some(end) = answer.as_ref().ok().and_then(mark_sequence) {
            self.take_end(place, number, end, true, deliver);
            return;
        }
        tracing::debug!(place, ?answer, "mark: no answer yet");
        match answer {
            // It is full, as a rule.
            Ok(PublishAnswer::Refused(_)) => self.ask_end(place, number),
            _ => self.fail_mark(place),
        }
    }

    /// Nobody says for now where the stream ends.
    pub(super) fn fail_mark(&mut self, place: usize) {
        let now = self.now;
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.marks.fail(now.after(RETRY));
            partition.pass_fences();
        }
        self.pass_fences();
    }

    /// The stream ends there. With `is_in_line` everything up to there that this shard subscribes to has
    /// come.
    pub(super) fn take_end(
        &mut self,
        place: usize,
        number: u64,
        end: Sequence,
        is_in_line: bool,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let end_before = partition.marks.end;
        if !partition.marks.answer(number, end) {
            return;
        }
        let is_attached = !matches!(partition.feed.stage, FeedStage::ExpectMark(_));
        if end < end_before && is_attached && !partition.lives.is_due {
            self.doubt_life(place);
            return;
        }
        if partition.feed.whole_from.is_none() && number >= partition.feed.whole_mark {
            partition.feed.whole_from = Some(end.next());
        }
        partition.pass_fences();
        match partition.feed.stage {
            FeedStage::Live if is_in_line => {
                partition.feed.fed = end.next().max(partition.feed.fed);
            }
            FeedStage::ExpectMark(mark) if partition.marks.answered >= mark => {
                let until = end.next();
                if !self.ask_lost(place, until) {
                    // Nothing that was there is known.
                    self.lose_tail(place, until, false);
                    if let Some(partition) = self.partitions.get_mut(place) {
                        partition.feed.read_to(until, READ_AGAIN_MAX);
                    }
                    self.read_on(place, deliver);
                }
            }
            FeedStage::Live
            | FeedStage::ExpectMark(_)
            | FeedStage::Checking { .. }
            | FeedStage::Detached
            | FeedStage::Gated
            | FeedStage::Reading { .. } => {}
        }
        self.pass_fences();
    }

    /// Reads what the feed missed, or goes live.
    pub(super) fn read_on(&mut self, place: usize, deliver: &mut Deliver<'_>) {
        let (now, wanted_since) = (self.now, self.wanted_since);
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let FeedStage::Reading { until, again, is_cut } = partition.feed.stage else {
            return;
        };
        if is_cut && partition.feed.fed >= until {
            partition.expect_mark();
            return;
        }
        if partition.feed.fed == Sequence::ZERO {
            let time = StoreTime(wanted_since.0.saturating_mul(1_000_000));
            partition.ask_first(time, None, now);
            return;
        }
        if partition.feed.fed < until {
            let from = partition.feed.fed.max(Sequence(1));
            let batch = NonZeroU16::new(FEED_BATCH).expect("not 0");
            let from = Start::At(from);
            let scan =
                Scan { purpose: Purpose::Feed, from, subject: None, batch, last_only: false };
            partition.ask(scan, Kept::Messages, now);
            return;
        }
        let fed = partition.feed.fed;
        // What subscriptions made meanwhile do not bring, as it was stored before them.
        let until = partition.marks.end.next();
        if fed < until && again > 0 {
            partition.feed.read_to(until, again - 1);
            self.read_on(place, deliver);
            return;
        }
        let Some(later) = partition.tail.from(fed) else {
            // More came meanwhile than the tail holds: that is read, too.
            partition.feed.stage = FeedStage::ExpectMark(partition.marks.want());
            return;
        };
        let later: Vec<_> = later.cloned().collect();
        partition.feed.stage = FeedStage::Live;
        let id = partition.id;
        tracing::info!(partition = id.0, at = fed.0, "feed: live");
        for (sequence, body) in later {
            let is_new = self.partitions.get_mut(place).is_some_and(|partition| {
                if partition.feed.stage == FeedStage::Gated || partition.feed.stop_at(sequence) {
                    return false;
                }
                partition.lives.note(sequence, within(message_of(&body).received_at));
                partition.feed.fed = sequence.next();
                partition.is_new(sequence)
            });
            if is_new {
                deliver(self, Some((id, outside(sequence))), &message_of(&body));
            }
        }
    }

    /// The feed was to begin at a time, and this is the first message from then on, if there is one.
    pub(super) fn begin_feed(
        &mut self,
        place: usize,
        first: Option<Sequence>,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let FeedStage::Reading { until, is_cut, .. } = partition.feed.stage else {
            return;
        };
        let end = if is_cut { partition.marks.end.next().max(until) } else { until };
        partition.feed.fed = first.unwrap_or(end).min(end);
        partition.feed.confirmed.begin(partition.feed.fed);
        tracing::info!(partition = partition.id.0, at = partition.feed.fed.0, "feed: begins");
        self.read_on(place, deliver);
    }

    /// Reads what a stored message is to MQTT, if it is anything.
    pub(super) fn with_message(
        &mut self,
        stored: &Stored<'_>,
        headers: Headers<'_>,
        payload: &[u8],
        take: impl FnOnce(&mut Self, &Message<'_>),
    ) {
        let mut topic_buffer = mem::take(&mut self.topic);
        let mut buffers = mem::take(&mut self.read);
        match self.stored.messages.topic(stored.subject, &mut topic_buffer) {
            Ok(topic) => {
                let received_at = stored.stored_at.timestamp();
                let ReadMessage { message, unreadable_count } =
                    read_message(topic, headers, payload, received_at, &mut buffers);
                self.counters.unreadable += u64::from(unreadable_count);
                take(self, &message);
            }
            Err(_) => self.counters.unreadable += 1,
        }
        self.topic = topic_buffer;
        self.read = buffers;
    }

    /// A message that came by itself.
    pub(super) fn handle_live(
        &mut self,
        place: usize,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let stored = match Stored::read(message.headers) {
            Ok(stored) => stored,
            Err(NotStored::NoStream) => {
                self.handle_unacknowledged(place, message, deliver);
                return;
            }
            Err(_) => {
                self.counters.unreadable += 1;
                return;
            }
        };
        let sequence = stored.sequence;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if partition.feed.stage == FeedStage::Live {
            partition.lives.note(sequence, stored.stored_at);
        }
        let (id, is_live) = (partition.id, partition.feed.stage == FeedStage::Live);
        let mut is_new = false;
        if is_live {
            if sequence < partition.feed.fed {
                // A copy, as a rule.
                if partition.lives.shows_loss(&stored) {
                    self.doubt_life(place);
                }
                return;
            }
            if partition.has_gap || partition.shows_gap(&stored) {
                partition.has_gap = true;
                return;
            }
            if !partition.feed.stop_at(sequence) {
                partition.feed.fed = sequence.next();
                is_new = partition.is_new(sequence);
            }
        }
        self.with_message(&stored, message.headers, message.payload, |this, message| {
            if !is_delivered(message) || this.ring.is_void(message.topic, id, sequence) {
                return;
            }
            if let Some(partition) = this.partitions.get_mut(place) {
                partition.tail.push(sequence, encoded(message).into());
            }
            if is_new {
                deliver(this, Some((id, outside(sequence))), message);
            }
        });
    }

    fn handle_unacknowledged(
        &mut self,
        place: usize,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        // What this shard has published itself it has given to its sessions itself; the link has an
        // echo for the sake of groups.
        let is_own = message.reply_to.is_some_and(|source| source.starts_with(&self.own_source));
        if is_own || !partition.is_first_copy(message.reply_to) {
            return;
        }
        let mut topic_buffer = mem::take(&mut self.topic);
        let mut buffers = mem::take(&mut self.read);
        if let Ok(topic) = partition.live.topic(message.subject, &mut topic_buffer) {
            let (headers, payload) = (message.headers, message.payload);
            let read = read_message(topic, headers, payload, self.now, &mut buffers);
            self.counters.unreadable += u64::from(read.unreadable_count);
            let message = Message { qos: QoS::AtMostOnce, ..read.message };
            deliver(self, None, &message);
        } else {
            self.counters.unreadable += 1;
        }
        self.topic = topic_buffer;
        self.read = buffers;
    }
}
