//! How fast one client may publish: who is faster is not read for a while, and who never gets slower
//! is let go. Source: MQTT 5.0 §4.13.2, Reason Codes 0x96 and 0x97.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::bucket::Bucket;
use crate::proto::output::{Action, ConnectionId};
use crate::proto::time::Timestamp;
use crate::proto::wheel::Wheel;
use ahash::AHashMap;

/// Resolution of the time a client is not read.
const TICK_MS: u64 = 10;
const SLOTS: usize = 512;
/// A client that had not to wait for so long is as if it never had to.
const FORGIVEN_MS: u64 = 2_000;

/// What clients have published lately. Empty where there is no rate.
#[derive(Debug)]
pub(super) struct Paces {
    known: AHashMap<ConnectionId, Pace>,
    waiting: Wheel,
}

#[derive(Debug)]
struct Pace {
    messages: Bucket,
    bytes: Bucket,
    /// Since when it has to wait again and again, and when it had to last.
    short_since: Timestamp,
    short_last: Timestamp,
    is_waiting: bool,
}

/// What becomes of a PUBLISH.
pub(super) enum Turn {
    Now,
    Later,
    Never(ProtocolError),
}

impl Paces {
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
}

impl ShardState {
    /// Whether a PUBLISH of `length` bytes goes on now.
    pub(super) fn turn_of_publish(
        &mut self,
        id: ConnectionId,
        length: usize,
        context: &mut Context<'_>,
    ) -> Turn {
        let (rate, bytes_rate) = (self.limits.publish_rate_max, self.limits.publish_bytes_rate_max);
        if rate == 0 && bytes_rate == 0 {
            return Turn::Now;
        }
        let now = context.now;
        let pace = self.paces.known.entry(id).or_insert_with(|| Pace {
            messages: Bucket::full(rate, now),
            bytes: Bucket::full(bytes_rate, now),
            short_since: Timestamp::START,
            short_last: Timestamp::START,
            is_waiting: false,
        });
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let by_count = if rate > 0 { pace.messages.wait_ms(rate, now) } else { 0 };
        let by_bytes = if bytes_rate > 0 { pace.bytes.wait_ms(bytes_rate, now) } else { 0 };
        let wait_ms = by_count.max(by_bytes);
        if wait_ms == 0 {
            pace.messages.take(1);
            pace.bytes.take(length);
            return Turn::Now;
        }
        if now.millis_since(pace.short_last) > FORGIVEN_MS {
            pace.short_since = now;
        }
        pace.short_last = now;
        let grace_s = self.limits.publish_rate_grace_s;
        if grace_s > 0 && now >= pace.short_since.after_seconds(grace_s.into()) {
            return Turn::Never(match by_count >= by_bytes {
                true => ProtocolError::MessageRateTooHigh,
                false => ProtocolError::ByteRateTooHigh,
            });
        }
        pace.is_waiting = true;
        self.counters.publish_paced += 1;
        self.paces.waiting.set(id.index, Timestamp(now.0.saturating_add(wait_ms)));
        if let Some(connection) = self.connection_mut(id) {
            connection.held = true;
        }
        context.actions.push(Action::Hold(id));
        Turn::Later
    }

    /// Reads those again that have waited long enough.
    pub(super) fn resume_paced(&mut self, context: &mut Context<'_>) {
        let mut expired = Vec::new();
        self.paces.waiting.expire(context.now, &mut expired);
        for index in expired {
            let Some(connection) = self.connections.get(index as usize).copied() else {
                continue;
            };
            let id = ConnectionId { index, generation: connection.generation };
            let waited = self.paces.known.get_mut(&id);
            if !waited.is_some_and(|pace| std::mem::take(&mut pace.is_waiting))
                || connection.stage != ConnectionStage::Connected
            {
                continue;
            }
            if let Some(connection) = self.connection_mut(id) {
                connection.held = false;
                connection.last_received = context.now;
            }
            context.actions.push(Action::Resume(id));
        }
    }
}
