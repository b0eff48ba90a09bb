//! A share of the clients is sent to other gateways, after one was added. Source: MQTT 5.0 §4.11.
//!
//! Each is chosen or left by chance, once, in the order of the slab; who comes back here takes a place
//! that was looked at already. Only those that lose nothing elsewhere are sent: with sessions that any
//! gateway can go on with, everybody; otherwise those whose session ends with the connection.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::output::ConnectionId;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// Clients are told in batches, not more often than this.
const STEP_MS: u32 = 50;
/// Places of the slab looked at in one go.
const SLICE: usize = 4_096;
/// A share of everybody.
const MILLION: u32 = 1_000_000;

/// How far it is.
#[derive(Debug)]
pub(super) struct Rebalancing {
    /// The next place to look at.
    next: usize,
    due: Timestamp,
    /// Of a million clients.
    share_ppm: u32,
    batch: u32,
    step: Duration,
}

impl Rebalancing {
    pub(super) fn due(&self) -> Timestamp {
        self.due
    }
}

impl ShardState {
    /// Begins to send clients elsewhere, `share_ppm` of a million, `per_s` a second over all shards;
    /// what was begun before ends. A share of 0 only ends it. Returns how many it will be, about.
    pub fn handle_rebalance(&mut self, share_ppm: u32, per_s: u32, now: Timestamp) -> u64 {
        self.rebalancing = None;
        let share_ppm = share_ppm.min(MILLION);
        if share_ppm == 0 || per_s == 0 {
            return 0;
        }
        let shards = u32::from(self.shard_count.max(1));
        let step_ms = STEP_MS.max(1_000 * shards / per_s);
        let batch = u64::from(per_s) * u64::from(step_ms) / 1_000 / u64::from(shards);
        let batch = u32::try_from(batch).unwrap_or(u32::MAX).max(1);
        let step = Duration::from_millis(step_ms.into());
        self.rebalancing = Some(Rebalancing { next: 0, due: now, share_ppm, batch, step });
        let places = 0..self.connections.len();
        let can_go = places.filter(|place| self.can_go_elsewhere(*place).is_some()).count() as u64;
        (can_go * u64::from(share_ppm)).div_ceil(MILLION.into())
    }

    /// Tells the next clients, if it is time.
    pub(super) fn rebalance(&mut self, context: &mut Context<'_>) {
        let is_due = |one: &mut Rebalancing| one.due <= context.now;
        let Some(mut rebalancing) = self.rebalancing.take_if(is_due) else {
            return;
        };
        let (mut left, end) = (rebalancing.batch, self.connections.len());
        let slice = rebalancing.next.saturating_add(SLICE).min(end);
        while left > 0 && rebalancing.next < slice {
            let place = rebalancing.next;
            rebalancing.next += 1;
            let Some(id) = self.can_go_elsewhere(place) else { continue };
            let chance = self.next_random() % u64::from(MILLION);
            if chance < u64::from(rebalancing.share_ppm) {
                self.refuse(id, ProtocolError::UseAnotherServer, context);
                self.counters.sent_elsewhere += 1;
                left -= 1;
            }
        }
        if rebalancing.next < end {
            // Who was found soon is followed by a pause; a slice with nobody in it by the next.
            rebalancing.due = match left {
                0 => context.now.after(rebalancing.step),
                _ => context.now,
            };
            self.rebalancing = Some(rebalancing);
        }
    }

    /// The connection in a place, if its client loses nothing at another gateway.
    fn can_go_elsewhere(&self, place: usize) -> Option<ConnectionId> {
        let connection = self.connections.get(place)?;
        if connection.stage != ConnectionStage::Connected {
            return None;
        }
        let session = self.session(connection.session)?;
        let can_go = self.limits.sessions_anywhere || !session.is_persistent();
        let index = u32::try_from(place).ok()?;
        can_go.then_some(ConnectionId { index, generation: connection.generation })
    }
}
