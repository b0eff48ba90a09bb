//! The ring changes while it is in use: what a shard does at each step.
//!
//! ```text
//! a member is to take over ─▶ its share is held, its feed is gated, what matches is subscribed to there
//!                             └─ nothing of the share is under way any more ─▶ drained
//! it has taken over ─▶ what is held goes to it; its feed opens when all that gave were read to the end
//! called off ─▶ what is held goes where it would have gone; the feed opens
//! ```
//! The whole is in ARCHITECTURE.md, "Ring change".

use super::partition::{Gate, message_of};
use super::place::outside;
use super::shard::JetStream;
use crate::proto::bridge::ring::Ring;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::has_wildcard;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a shard says of the ring, for the control thread to see.
#[derive(Debug, Default)]
pub struct ShardReport {
    seen: AtomicU64,
    drained: AtomicU64,
}

impl ShardReport {
    /// The epoch of the ring that the shard goes by; 0 before it runs.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(super) fn see(&self, epoch: u64) {
        self.seen.store(epoch, Ordering::Release);
    }

    /// The epoch of a ring with a change under way, since it is known that this shard has nothing of
    /// the share on its way to who gives it; 0 for none.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }
}

impl JetStream {
    /// The ring has changed.
    pub(super) fn handle_ring(&mut self, ring: Ring) {
        if ring.epoch() <= self.ring.epoch() {
            return;
        }
        let before = mem::replace(&mut self.ring, ring);
        let known = before.takeovers().count();
        let taken: Vec<_> = self.ring.takeovers().skip(known).cloned().collect();
        for place in 0..self.partitions.len() {
            let Some(partition) = self.partitions.get_mut(place) else {
                continue;
            };
            let id = partition.id;
            if partition.feed.gate == Gate::Closed {
                // Sessions asked before it was known what they have to have read first.
                partition.give_replays_back(&mut self.out.replayed);
            }
            if self.ring.taker() == Some(id) {
                partition.close_gate(Gate::Closed);
            } else if let Some(takeover) = taken.iter().find(|one| one.partition == id) {
                partition.close_gate(Gate::Until(takeover.ends.clone()));
            } else if partition.feed.gate == Gate::Closed {
                partition.open_gate();
            }
        }
        if !taken.is_empty() {
            // Where they look there may be nothing any more: they are asked again.
            for place in 0..self.partitions.len() {
                let lost = self.retained.lose(place);
                self.out.retained_failed.extend(lost);
            }
        }
        self.note_takeovers();
        self.widen_interest(&before);
        self.widen_groups();
        self.let_go_held();
        // Where what was given away ends is looked at, not waited for.
        for (giver, _) in taken.iter().flat_map(|one| &one.ends) {
            if let Some(place) = self.place(*giver)
                && let Some(partition) = self.partitions.get_mut(place)
            {
                partition.marks.want();
            }
        }
        self.report.see(self.ring.epoch());
    }

    /// What sessions have to read before they read a partition that has taken topics over.
    pub(super) fn note_takeovers(&mut self) {
        let after = |partition: &super::partition::Partition| {
            if self.ring.taker() == Some(partition.id) {
                // Where that ends is not known here yet, although others may know it.
                let others = self.partition_ids().filter(|other| *other != partition.id);
                return others.map(|giver| (giver, Sequence(u64::MAX))).collect();
            }
            let takeover = self.ring.takeovers().find(|one| one.partition == partition.id);
            let ends = takeover.map(|one| one.ends.iter()).into_iter().flatten();
            ends.map(|(giver, end)| (*giver, outside(*end))).collect()
        };
        self.comes_after = self.partitions.iter().map(after).collect();
    }

    /// See [`crate::proto::shard_state::Upstream::comes_after`].
    pub(super) fn comes_after(&self, partition: PartitionId) -> &[(PartitionId, Sequence)] {
        let place = self.place(partition);
        place.and_then(|place| self.comes_after.get(place)).map_or(&[], Vec::as_slice)
    }

    /// Filters without wildcards whose topic has come to be somewhere else, too, are subscribed to there;
    /// and no more where it does not come to be after all.
    fn widen_interest(&mut self, before: &Ring) {
        let Self { interest, ring, partitions, .. } = self;
        for (filter_place, filter) in interest.iter().filter(|(_, filter)| !has_wildcard(filter)) {
            let has_left = |holder| !ring.holders(filter).any(|one| one == holder);
            for holder in before.holders(filter).filter(|holder| has_left(*holder)) {
                let partition = partitions.iter_mut().find(|one| one.id == holder && one.ready);
                if let Some(partition) = partition {
                    partition.unsubscribe(filter_place, filter);
                }
            }
            for holder in ring.holders(filter) {
                if before.holders(filter).any(|known| known == holder) {
                    continue;
                }
                let Some(partition) = partitions.iter_mut().find(|one| one.id == holder) else {
                    continue;
                };
                if partition.ready {
                    partition.subscribe(filter_place, filter);
                    partition.expect_whole();
                }
                partition.has_new_interest |= partition.is_expected();
            }
        }
    }

    /// Opens the feeds of partitions that have taken over, where all before was given to this shard.
    pub(super) fn open_gates(&mut self) {
        for place in 0..self.partitions.len() {
            let is_read = |(giver, end): &(PartitionId, Sequence)| {
                let giver = self.place(*giver).and_then(|place| self.partitions.get(place));
                giver.is_some_and(|giver| giver.complete_below() >= *end)
            };
            let opens = self.partitions.get(place).is_some_and(|one| match &one.feed.gate {
                Gate::Open | Gate::Closed => false,
                Gate::Until(ends) => ends.iter().all(is_read),
            });
            if opens && let Some(partition) = self.partitions.get_mut(place) {
                tracing::info!(partition = partition.id.0, "feed: what was taken over begins");
                partition.open_gate();
            }
        }
    }

    /// A stream has lost its end: nobody waits for what is gone.
    pub(super) fn lower_gates(&mut self, giver: PartitionId, to: Sequence) {
        let gates = self.partitions.iter_mut().filter_map(|one| match &mut one.feed.gate {
            Gate::Until(ends) => Some(ends),
            Gate::Open | Gate::Closed => None,
        });
        for (_, end) in gates.flatten().filter(|(of, _)| *of == giver) {
            *end = to.min(*end);
        }
    }

    /// Says that nothing of the share that is held is on its way any more, once that is so.
    pub(super) fn report_drained(&mut self) {
        let epoch = self.ring.epoch();
        let Some(taker) = self.ring.taker().filter(|_| self.report.drained() != epoch) else {
            return;
        };
        let is_under_way = self.partitions.iter().any(|partition| {
            partition.lane.appends().any(|one| self.ring.is_held(message_of(&one.body).topic))
        });
        let taker = self.place(taker).and_then(|place| self.partitions.get(place));
        let hears = taker
            .is_some_and(|taker| taker.ready && !taker.has_new_interest && taker.fences.is_empty());
        if !is_under_way && hears {
            self.report.drained.store(epoch, Ordering::Release);
        }
    }

    /// See [`ShardReport`].
    #[must_use]
    pub fn ring_report(&self) -> &ShardReport {
        &self.report
    }
}
