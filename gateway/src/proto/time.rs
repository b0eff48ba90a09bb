//! Time as a number: it can be printed, stored with a seed and replayed.

use std::time::Duration;

/// Milliseconds since the Unix epoch, as seen by a clock that never goes back.
///
/// The shell reads the wall clock once at start and the monotonic clock from then on, so a jump
/// of the wall clock moves no timer, and the same value serves for timers and for deadlines that
/// outlive the process (message expiry, session expiry).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The earliest time, used by tests and as "never happened".
    pub const START: Self = Self(0);
    /// Later than anything that happens: "no timeout".
    pub const NEVER: Self = Self(u64::MAX);

    /// The time `duration` later, saturating at [`Timestamp::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The time `duration` earlier, not before [`Timestamp::START`].
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// The time `seconds` later, saturating at [`Timestamp::NEVER`].
    #[must_use]
    pub fn after_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(u64::from(seconds).saturating_mul(1_000)))
    }

    /// Milliseconds from `earlier` to `self`, 0 when `earlier` is later.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
