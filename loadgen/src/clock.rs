//! The one place of the generator that reads a clock.

use std::time::{Duration, Instant};

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

/// `duration` in nanoseconds, saturating at `u64::MAX`.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
