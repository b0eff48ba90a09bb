//! The only place that reads a clock.

use crate::proto::time::Timestamp;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall time at start, monotonic time from then on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_ms = u64::try_from(wall.as_millis()).unwrap_or(0);
        Self { start: Instant::now(), start_ms }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = self.start.elapsed().as_millis();
        Timestamp(self.start_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)))
    }

    /// What the wall clock says now, whoever may have set it since the start.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
    pub fn wall(&self) -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(wall.as_millis()).unwrap_or(0))
    }

    /// Microseconds since the start; the same on every shard of a node.
    #[must_use]
    pub fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
