//! The one place of the generator that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the start of the run, the same origin in every thread.
///
/// Monotonic, so a jump of the wall clock moves neither schedule nor latency. A `u64` of
/// nanoseconds lasts 584 years.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that shows 0 now.
    #[expect(clippy::disallowed_methods, reason = "this file is the generator's clock")]
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Nanoseconds since [`Clock::start`].
    #[expect(clippy::disallowed_methods, reason = "this file is the generator's clock")]
    pub(crate) fn now_ns(self) -> u64 {
        duration_ns(Instant::now().duration_since(self.origin))
    }
}

/// The wall clock, milliseconds since 1970-01-01 UTC: for the date of a result only.
#[expect(clippy::disallowed_methods, reason = "this file is the generator's clock")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `duration` in nanoseconds, saturating at `u64::MAX`.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
