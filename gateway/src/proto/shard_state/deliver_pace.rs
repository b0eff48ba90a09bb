//! How fast one client is sent to: what is beyond its rates waits as for a client that reads too
//! slowly. QoS 0 is dropped and counted; of QoS 1 and 2 the session notes what it missed, or replays it
//! from the log, and goes on when its rates let it.

use super::{ConnectionStage, Context, ShardState};
use crate::proto::bucket::Bucket;
use crate::proto::limits::Limits;
use crate::proto::output::ConnectionId;
use crate::proto::time::Timestamp;
use crate::proto::wheel::Wheel;
use ahash::AHashMap;

/// Resolution of the time a client is not sent to.
const TICK_MS: u64 = 10;
const SLOTS: usize = 512;

/// What clients were sent lately. Empty where there is no rate.
#[derive(Debug)]
pub(super) struct DeliverPaces {
    known: AHashMap<ConnectionId, Pace>,
    waiting: Wheel,
}

#[derive(Debug)]
struct Pace {
    messages: Bucket,
    bytes: Bucket,
    is_waiting: bool,
}

/// So much a second and client; 0 for any number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    messages: u32,
    bytes: u32,
}

impl Rates {
    pub(super) fn of(limits: &Limits) -> Self {
        Self { messages: limits.deliver_rate_max, bytes: limits.deliver_bytes_rate_max }
    }

    fn are_unlimited(self) -> bool {
        self.messages == 0 && self.bytes == 0
    }
}

impl DeliverPaces {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { known: AHashMap::new(), waiting: Wheel::new(now, TICK_MS, SLOTS) }
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        self.waiting.next_timeout()
    }

    pub(super) fn forget(&mut self, id: ConnectionId) {
        if self.known.remove(&id).is_some() {
            self.waiting.clear(id.index);
        }
    }

    fn pace(&mut self, id: ConnectionId, rates: Rates, now: Timestamp) -> &mut Pace {
        self.known.entry(id).or_insert_with(|| Pace {
            messages: Bucket::full(rates.messages, now),
            bytes: Bucket::full(rates.bytes, now),
            is_waiting: false,
        })
    }

    /// Milliseconds until the client may be sent one more message, 0 for now.
    pub(super) fn wait_ms(&mut self, id: ConnectionId, rates: Rates, now: Timestamp) -> u64 {
        if rates.are_unlimited() {
            return 0;
        }
        let pace = self.pace(id, rates, now);
        let by_count =
            if rates.messages > 0 { pace.messages.wait_ms(rates.messages, now) } else { 0 };
        let by_bytes = if rates.bytes > 0 { pace.bytes.wait_ms(rates.bytes, now) } else { 0 };
        by_count.max(by_bytes)
    }

    /// The client is sent a message of so many bytes; nothing if it was left out.
    pub(super) fn pay(&mut self, id: ConnectionId, rates: Rates, bytes: usize, now: Timestamp) {
        if rates.are_unlimited() || bytes == 0 {
            return;
        }
        let pace = self.pace(id, rates, now);
        pace.messages.take(1);
        pace.bytes.take(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

impl ShardState {
    /// Whether the client may be sent one more message now; if not, its session goes on when it may.
    pub(super) fn is_turn_of_delivery(&mut self, id: ConnectionId, now: Timestamp) -> bool {
        let wait_ms = self.deliver_paces.wait_ms(id, Rates::of(&self.limits), now);
        if wait_ms == 0 {
            return true;
        }
        let paces = &mut self.deliver_paces;
        if let Some(pace) = paces.known.get_mut(&id)
            && !std::mem::replace(&mut pace.is_waiting, true)
        {
            self.counters.deliver_paced += 1;
            paces.waiting.set(id.index, Timestamp(now.0.saturating_add(wait_ms)));
        }
        false
    }

    /// Sends to those again that have waited long enough.
    pub(super) fn resume_deliveries(&mut self, context: &mut Context<'_>) {
        let mut expired = Vec::new();
        self.deliver_paces.waiting.expire(context.now, &mut expired);
        for index in expired {
            let Some(connection) = self.connections.get(index as usize).copied() else {
                continue;
            };
            let id = ConnectionId { index, generation: connection.generation };
            let waited = self.deliver_paces.known.get_mut(&id);
            if waited.is_some_and(|pace| std::mem::take(&mut pace.is_waiting))
                && connection.stage == ConnectionStage::Connected
            {
                self.send_unsent(connection.session, context);
                self.drain(connection.session, context);
            }
        }
    }
}
