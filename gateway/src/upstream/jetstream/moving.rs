//! The ring changes while it is in use: what a shard does at each step.
//!
//! ```text
//! a share is to move ─▶ it is held, and what matches is subscribed to where it goes
//!                       └─ nothing of it is under way any more ─▶ drained
//! its ends are known ─▶ feeds of where it goes have a gate each, which opens when all that give were read
//!                       to the end ─▶ drained
//! it has moved ─▶ what is held goes there
//! called off ─▶ what is held goes where it would have gone
//! ```
//! The whole is in ARCHITECTURE.md, "Ring change".

use super::partition::{Gate, Partition, message_of};
use super::place::outside;
use super::shard::JetStream;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_change::Succession;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::has_wildcard;
use crate::proto::shard_state::ComesAfter;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a shard says of the ring, for the control thread to see.
#[derive(Debug, Default)]
pub struct ShardReport {
    seen: AtomicU64,
    drained: AtomicU64,
    links: AtomicU64,
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

    /// How many sub-clusters, of those that are configured, the shard has links to: those that were told
    /// first.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.links.load(Ordering::Acquire)
    }

    pub(super) fn note_links(&self, count: u64) {
        self.links.store(count, Ordering::Release);
    }

    /// The epoch of a ring with a change under way, since it is known that this shard goes by it and has
    /// nothing of the share on its way to who gives it; 0 for none.
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
        let both = before.takeovers().zip(self.ring.takeovers());
        let known = both.take_while(|(one, other)| one == other).count();
        self.note_takeovers();
        self.close_gates(known);
        if before.moves(&self.ring).next().is_some() {
            // Where they look there may be nothing any more: they are asked again.
            for place in 0..self.partitions.len() {
                let lost = self.retained.lose(place);
                self.out.retained_failed.extend(lost);
            }
        }
        self.widen_interest(&before);
        self.widen_groups();
        self.let_go_held();
        self.report.see(self.ring.epoch());
    }

    /// What comes by changes behind the first `known` is given only behind what was where topics came from.
    pub(super) fn close_gates(&mut self, known: usize) {
        let changes = self.ring.takeovers().skip(known);
        let successions: Vec<Succession> = changes.flat_map(|one| one.successions()).collect();
        for Succession { taker, from, giver, end } in successions {
            let Some(giving) = self.partitions.iter_mut().find(|one| one.id == giver) else {
                continue;
            };
            if giving.is_configured {
                // Where it ends is looked at, not waited for.
                giving.marks.want();
                let taking = self.partitions.iter_mut().find(|one| one.id == taker);
                taking.into_iter().for_each(|one| one.close_gate(Gate { from, giver, end }));
            }
        }
    }

    /// What sessions have to read before they read what partitions have got in the place of others.
    pub(super) fn note_takeovers(&mut self) {
        let is_here = |of| self.partitions.iter().any(|one| one.id == of && one.is_configured);
        let after = |partition: &Partition| {
            let all = (1..).zip(self.ring.takeovers()).flat_map(|(change, takeover)| {
                takeover.successions().map(move |succession| (change, succession))
            });
            let own = all.filter(|(_, one)| one.taker == partition.id && is_here(one.giver));
            own.map(|(change, Succession { from, giver, end, .. })| ComesAfter {
                change,
                // The beginning is before any place, and before any time.
                from: if from == Sequence::ZERO { from } else { outside(from) },
                partition: giver,
                end: outside(end),
            })
            .collect()
        };
        self.comes_after = self.partitions.iter().map(after).collect();
    }

    /// See [`crate::proto::shard_state::Upstream::comes_after`].
    pub(super) fn comes_after(&self, partition: PartitionId) -> &[ComesAfter] {
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

    /// Opens the gates of feeds behind which all that comes before was given to this shard.
    pub(super) fn open_gates(&mut self) {
        if self.partitions.iter().all(|one| one.feed.gates.is_empty()) {
            return;
        }
        let complete = self.partitions.iter().map(|one| (one.id, one.complete_below()));
        let complete: Vec<_> = complete.collect();
        let is_open = |gate: &Gate| {
            complete.iter().any(|(of, below)| *of == gate.giver && *below >= gate.end)
        };
        for partition in &mut self.partitions {
            let count = partition.feed.gates.len();
            partition.open_gates(is_open);
            if partition.feed.gates.len() < count {
                tracing::info!(partition = partition.id.0, "feed: what was taken over begins");
            }
        }
    }

    /// A stream has lost its end: nobody waits for what is gone.
    pub(super) fn lower_gates(&mut self, giver: PartitionId, to: Sequence) {
        let gates = self.partitions.iter_mut().flat_map(|one| &mut one.feed.gates);
        gates.filter(|gate| gate.giver == giver).for_each(|gate| gate.end = to.min(gate.end));
    }

    /// Says that nothing of the share that is held is on its way any more, once that is so.
    pub(super) fn report_drained(&mut self) {
        let epoch = self.ring.epoch();
        if !self.ring.is_changing() || self.report.drained() == epoch {
            return;
        }
        let is_under_way = self.partitions.iter().any(|partition| {
            partition.lane.appends().any(|one| self.ring.is_held(message_of(&one.body).topic))
        });
        let hears = |taker: &PartitionId| {
            let taker = self.place(*taker).and_then(|place| self.partitions.get(place));
            taker.is_some_and(|one| one.ready && !one.has_new_interest && one.fences.is_empty())
        };
        if !is_under_way && self.ring.takers().iter().all(hears) {
            self.report.drained.store(epoch, Ordering::Release);
        }
    }

    /// See [`ShardReport`].
    #[must_use]
    pub fn ring_report(&self) -> &ShardReport {
        &self.report
    }
}
