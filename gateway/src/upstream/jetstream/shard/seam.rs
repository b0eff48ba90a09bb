//! What the state of a shard asks of its JetStream upstream.

use super::super::direct_get::Start;
use super::super::held::{HELD_LANE, HELD_PLACE};
use super::super::inbox::Token;
use super::super::lanes::Lanes;
use super::super::partition::{FeedStage, Partition};
use super::super::place;
use super::super::publish::encode_unacknowledged;
use super::{FIRST_LANE, INTEREST_LANE, JetStream, PARTITIONS_MAX, lane_of};
use crate::proto::nats::{Subject, put_decimal};
use crate::proto::partition::{Lane, PartitionId, Sequence};
use crate::proto::record::Message;
use crate::proto::routing::{filter_matches, has_wildcard};
use crate::proto::session::Ticket;
use crate::proto::shard_state::{AppendToken, Replayed};
use crate::proto::time::Timestamp;
use bytes::Bytes;

/// What the upstream seam asks for; see [`super::super::forward::Forward`].
impl JetStream {
    /// Publishes a message of QoS 0 to whoever is there.
    pub(in crate::upstream::jetstream) fn publish(&mut self, message: &Message<'_>) {
        let place = self.owner(message.topic);
        let is_uplink = self.is_uplink(message.topic);
        let Self { partitions, subject, source, limits, counters, next_message, .. } = self;
        let own_source = &self.own_source;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let waiting_bytes = partition.pending_bytes + partition.out.len();
        if !partition.ready || waiting_bytes >= limits.link_write_bytes_max {
            counters.dropped += 1;
            return;
        }
        let live = if is_uplink { &partition.live_uplink } else { &partition.live };
        let Ok(to) = live.subject(message.topic, subject) else {
            return;
        };
        *next_message += 1;
        source.clear();
        source.extend_from_slice(own_source);
        put_decimal(*next_message, source);
        let source = Subject::from_checked(source);
        encode_unacknowledged(to, source, message, self.now, &mut partition.out);
    }

    pub(in crate::upstream::jetstream) fn add_interest(&mut self, filter: &str) {
        if self.interest.is_empty() {
            self.wanted_since = self.now;
        }
        let Some(filter_place) = self.interest.add(filter) else {
            return;
        };
        for place in self.places_of(filter) {
            if let Some(partition) = self.partitions.get_mut(place) {
                if partition.ready {
                    partition.subscribe(filter_place, filter);
                    partition.expect_whole();
                }
                partition.has_new_interest |= partition.is_expected();
            }
        }
    }

    pub(in crate::upstream::jetstream) fn remove_interest(&mut self, filter: &str) {
        let Some(filter_place) = self.interest.remove(filter) else {
            return;
        };
        for place in self.places_of(filter) {
            if let Some(partition) = self.partitions.get_mut(place)
                && partition.ready
            {
                partition.unsubscribe(filter_place, filter);
            }
        }
    }

    /// The partitions that may have messages for a filter.
    pub(in crate::upstream::jetstream) fn places_of(&self, filter: &str) -> Vec<usize> {
        if has_wildcard(filter) {
            return (0..self.partitions.len()).collect();
        }
        self.ring.holders(filter).filter_map(|holder| self.place(holder)).collect()
    }

    /// The partitions that have the topics of a filter now.
    pub(in crate::upstream::jetstream) fn owners_of(&self, filter: &str) -> std::ops::Range<usize> {
        if has_wildcard(filter) {
            0..self.partitions.len()
        } else {
            let place = self.owner(filter);
            place..place + 1
        }
    }

    pub(in crate::upstream::jetstream) fn interest_in_force(&mut self) -> Option<AppendToken> {
        let is_new = self.partitions.iter().any(|partition| partition.has_new_interest);
        let number = if is_new { self.next_fence } else { self.next_fence - 1 };
        (number > self.in_force).then_some(AppendToken { lane: INTEREST_LANE, number })
    }

    pub(in crate::upstream::jetstream) fn is_congested(&self, lane: Lane) -> bool {
        if lane == HELD_LANE {
            // Until the change is complete or called off: who publishes to what moves waits.
            return !self.held.is_empty();
        }
        let Some(place) = lane.0.checked_sub(FIRST_LANE).map(usize::from) else {
            return false;
        };
        let (place, number) = match place.checked_sub(2 * PARTITIONS_MAX) {
            None => (place, 0),
            Some(recording) => (recording % PARTITIONS_MAX, 1 + recording / PARTITIONS_MAX),
        };
        let partition = self.partitions.get(place);
        let is_full = |one: &Partition| one.lane.is_full(0) || one.lane.is_full(number as u64);
        partition.is_some_and(is_full)
    }

    /// Whether so much is held that whoever publishes to what moves waits before it is taken in.
    pub(in crate::upstream::jetstream) fn keeps_any_back(&self) -> bool {
        self.held.is_full()
    }

    /// Where whoever publishes to `topic` waits then.
    pub(in crate::upstream::jetstream) fn keeps_back(&self, topic: &str) -> Option<Lane> {
        (self.held.is_full() && self.ring.is_held(topic)).then_some(HELD_LANE)
    }

    /// What a publish is called outside. First come the partitions, then the sessions of each, then what
    /// waits for something to be recorded, by where that is.
    pub(in crate::upstream::jetstream) fn append_token(
        &self,
        place: usize,
        token: Token,
    ) -> AppendToken {
        if place == HELD_PLACE {
            return AppendToken { lane: HELD_LANE, number: token.0 };
        }
        let number = usize::try_from(Lanes::number_of(token)).expect("below 128");
        let place = if number == 0 { place } else { (1 + number) * PARTITIONS_MAX + place };
        AppendToken { lane: lane_of(place), number: token.0 }
    }

    pub(in crate::upstream::jetstream) fn start_replay(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        from: Sequence,
        filters: Vec<Box<str>>,
        count_max: u32,
    ) {
        let place = self.place(partition);
        let Self { partitions, stored, ring, .. } = self;
        let found = place.and_then(|place| partitions.get_mut(place));
        let Some(partition) = found.filter(|partition| partition.is_configured) else {
            // What it has nobody gets any more; if it had something.
            let clamped = match place::inside(from) {
                Start::At(from) => ring.has_given(partition, from),
                Start::Since(_) => false,
            };
            let (next, seen, end, read_to, alone) = (from, from, true, None, true);
            let messages = Vec::new();
            let nothing =
                Replayed { partition, messages, next, end, seen, read_to, clamped, alone };
            self.out.replayed.push((ticket, nothing));
            return;
        };
        let from = place::inside(from);
        partition.start_replay(ticket, from, filters, count_max, &stored.messages);
    }

    pub(in crate::upstream::jetstream) fn start_fetch(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        sequences: Vec<Sequence>,
    ) {
        if let Some(place) = self.place(partition)
            && let Some(partition) = self.partitions.get_mut(place)
            && partition.is_configured
        {
            partition.start_fetch(ticket, sequences);
        } else {
            let gone = sequences.into_iter().map(|sequence| (sequence, None)).collect();
            self.out.fetched.push((ticket, partition, gone));
        }
    }

    pub(in crate::upstream::jetstream) fn recent(
        &self,
        partition: PartitionId,
        sequence: Sequence,
    ) -> Option<Bytes> {
        let Start::At(sequence) = place::inside(sequence) else {
            return None;
        };
        let partition = self.partitions.get(self.place(partition)?)?;
        // What has come may be in places that were used before; who asks knows what was there.
        partition.tail.get(sequence).filter(|_| !partition.lives.is_due)
    }

    /// Whether a topic is for applications only.
    pub(in crate::upstream::jetstream) fn is_uplink(&self, topic: &str) -> bool {
        self.uplink.iter().any(|filter| filter_matches(filter, topic))
    }

    /// Where the feed of the partition that owns a topic is; the time, for a topic that is in no feed, and while
    /// nothing would show that its places are used again.
    pub(in crate::upstream::jetstream) fn fed_of(&self, topic: &str) -> Sequence {
        if self.is_uplink(topic) {
            return place::since(self.now);
        }
        let partition = self.partitions.get(self.owner(topic));
        let partition = partition.filter(|partition| !partition.lives.knows_nothing());
        let fed = partition.map_or(Sequence::ZERO, |partition| partition.feed.fed);
        name_of(fed, self.now)
    }

    pub(in crate::upstream::jetstream) fn fed(&self, partition: PartitionId) -> Sequence {
        let partition = self.place(partition).and_then(|place| self.partitions.get(place));
        let fed = partition.map_or(Sequence::ZERO, |partition| partition.feed.fed);
        name_of(fed, self.wanted_since)
    }

    /// Whether later messages of the topic may have been given before this one.
    pub(in crate::upstream::jetstream) fn is_late(
        &self,
        partition: PartitionId,
        sequence: Sequence,
    ) -> bool {
        let partition = self.place(partition).and_then(|place| self.partitions.get(place));
        partition.is_some_and(|partition| sequence < place::outside(partition.feed.late_below))
    }
}

impl JetStream {
    /// From where on everything of a partition that matches a filter that is in force comes, if that
    /// is known.
    pub(in crate::upstream::jetstream) fn settled_start(
        &self,
        partition: PartitionId,
    ) -> Option<Sequence> {
        let partition = self.partitions.get(self.place(partition)?)?;
        // Behind subscriptions that are live the last mark tells; without a link, all that is behind
        // the feed is read.
        let is_told = partition.feed.stage != FeedStage::Live || partition.marks.is_answered();
        let fed = partition.feed.fed;
        let start = match partition.feed.stage {
            // The feed may be less far where the leader was asked instead.
            FeedStage::Live => partition.marks.end.next().max(fed),
            // It does not read on any more to where the mark of the subscription says.
            FeedStage::Reading { again: 0, is_cut: false, .. } => {
                partition.marks.end.next().max(fed)
            }
            // What a new link reads once more and was given before does not come again.
            _ => fed.max(partition.feed.confirmed.given_to()),
        };
        (is_told && fed > Sequence::ZERO).then(|| place::outside(start))
    }
}

/// What a place of the feed is called outside, or where it is not known, the time.
pub(super) fn name_of(fed: Sequence, time: Timestamp) -> Sequence {
    if fed == Sequence::ZERO { place::since(time) } else { place::outside(fed) }
}
