//! When it pays to wait a moment for more events before handling the first, and how long.
//!
//! A wake-up costs more than the message it brings. Under a stream of messages from many
//! connections, waiting lets one wake-up bring several. Clients that wait for each
//! answer before they go on would only be slowed down: then the stream itself gets thinner, and
//! gathering ends. It is tried again now and then while there is a stream.
//!
//! Shards that gather wake by the clock, in turn: so many times a second all together, however many
//! there are. What one hands to another is found at the other's turn, without waking it. With `n`
//! shards and a period `p` a message waits for less than `p`, and for less than `p (n - 1) / n` more
//! if it hops; the period is such that this is no more than `gather_wait`.
//!
//! ```text
//!  shard 0  |───────────|───────────|        period p, n = 2
//!  shard 1  ──────|───────────|──────
//! ```

use crate::proto::output::ShardIndex;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// Wake-ups a second of all shards that gather, unless `gather_wait` asks for more.
const NODE_WAKES_PER_SECOND: u32 = 3_000;

/// Events are counted over so many milliseconds.
const WINDOW_MS: u64 = 8;
/// Events a millisecond from which on gathering is tried.
const STREAM_EVENTS_PER_MS: u64 = 2;
/// Events that two gathering waits have to bring on average.
const PAYS_EVENTS_TWO_WAITS: u64 = 3;
/// Gathering ends when the stream is thinner than this share of what it was without, in percent.
const KEEPS_PERCENT: u64 = 60;
/// How long after it did not pay gathering is tried again, milliseconds: soon when it had gone on
/// for long, as one window without it may be the machine's doing; else four times longer each time.
const RETRY_MS: (u64, u64) = (16, 256);
/// Windows after which gathering has gone on for long.
const LONG_WINDOWS: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Gather {
    on: bool,
    retry_at: Timestamp,
    retry_ms: u64,
    /// Windows since gathering began.
    windows_on: u32,
    window_start: Timestamp,
    events: u64,
    waits: u64,
    /// Events a second before gathering began.
    rate_before: u64,
    /// Microseconds from one turn to the next; 0: never gathers.
    period_us: u64,
    /// The shard's first turn.
    phase_us: u64,
}

impl Gather {
    /// For `shard` of `shards`; gathering adds at most `wait_max` to the way of a message.
    pub(super) fn new(shard: ShardIndex, shards: u16, wait_max: Duration, now: Timestamp) -> Self {
        let period_us = period_us(shards, wait_max);
        let phase_us = period_us * u64::from(shard.0) / u64::from(shards.max(1));
        Self {
            on: false,
            retry_at: now,
            retry_ms: RETRY_MS.0,
            windows_on: 0,
            window_start: now,
            events: 0,
            waits: 0,
            rate_before: 0,
            period_us,
            phase_us,
        }
    }

    /// A wait is over; it brought `events`, sends that were just started not counted.
    pub(super) fn woke(&mut self, events: usize, now: Timestamp) {
        self.events += events as u64;
        self.waits += 1;
        let elapsed_ms = now.millis_since(self.window_start);
        if elapsed_ms < WINDOW_MS {
            return;
        }
        let rate = self.events * 1_000 / elapsed_ms;
        let pays = self.events * 2 >= self.waits * PAYS_EVENTS_TWO_WAITS
            && rate * 100 >= self.rate_before * KEEPS_PERCENT;
        if rate < STREAM_EVENTS_PER_MS * 1_000 {
            self.on = false;
        } else if self.on && !pays {
            self.on = false;
            let (soon, late) = RETRY_MS;
            let was_long = self.windows_on >= LONG_WINDOWS;
            self.retry_ms = if was_long { soon } else { late.min(self.retry_ms * 4) };
            self.retry_at = Timestamp(now.0 + self.retry_ms);
        } else if !self.on && now >= self.retry_at {
            self.on = true;
            self.windows_on = 0;
            self.rate_before = rate;
        }
        self.windows_on = self.windows_on.saturating_add(1);
        (self.window_start, self.events, self.waits) = (now, 0, 0);
    }

    /// Whether waits are to gather.
    pub(super) fn is_on(&self) -> bool {
        self.on && self.period_us > 0
    }

    /// How long until the shard's next turn, at `now_us` of the node's clock.
    pub(super) fn wait(&self, now_us: u64) -> Duration {
        let period = self.period_us.max(1);
        let since = (now_us + period - self.phase_us) % period;
        Duration::from_micros(period - since)
    }
}

fn period_us(shards: u16, wait_max: Duration) -> u64 {
    let shards = u32::from(shards.max(1));
    let by_wakes = Duration::from_secs(1) * shards / NODE_WAKES_PER_SECOND;
    let by_wait = wait_max * shards / (2 * shards - 1);
    u64::try_from(by_wakes.min(by_wait).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn gather() -> Gather {
        Gather::new(ShardIndex(0), 1, MILLISECOND, Timestamp(0))
    }

    /// A shard for a second: `events` a wake, `off_per_ms` wakes a millisecond without gathering and
    /// `on_per_ms` with. Returns the milliseconds that began with gathering on.
    fn run(
        gather: &mut Gather,
        from_ms: u64,
        events: usize,
        off_per_ms: u64,
        on_per_ms: u64,
    ) -> u64 {
        let mut on_ms = 0;
        for ms in 0..1_000 {
            on_ms += u64::from(gather.is_on());
            let wakes = if gather.is_on() { on_per_ms } else { off_per_ms };
            for _ in 0..wakes {
                gather.woke(events, Timestamp(from_ms + ms));
            }
        }
        on_ms
    }

    #[test]
    fn a_stream_of_many_is_gathered() {
        let mut gather = gather();
        assert!(run(&mut gather, 0, 3, 4, 4) > 950);
    }

    #[test]
    fn clients_that_wait_for_answers_are_hardly_slowed() {
        let mut gather = gather();
        assert!(run(&mut gather, 0, 2, 10, 4) < 50, "one window in 256 ms at most");
    }

    #[test]
    fn a_trickle_is_not_gathered() {
        let mut gather = gather();
        assert_eq!(run(&mut gather, 0, 1, 1, 1), 0);
    }

    #[test]
    fn gathering_ends_with_the_stream() {
        let mut gather = gather();
        run(&mut gather, 0, 3, 4, 4);
        run(&mut gather, 1_000, 1, 1, 1);
        assert!(!gather.is_on());
    }

    #[test]
    fn one_thin_window_does_not_end_gathering_for_long() {
        let mut gather = gather();
        run(&mut gather, 0, 3, 4, 4);
        run(&mut gather, 1_000, 3, 1, 1);
        assert!(run(&mut gather, 2_000, 3, 4, 4) > 950);
    }

    #[test]
    fn more_shards_wake_less_often_each_and_within_the_limit() {
        assert_eq!(period_us(1, MILLISECOND), 333);
        assert_eq!(period_us(2, MILLISECOND), 666);
        assert_eq!(period_us(64, MILLISECOND), 503);
        assert_eq!(period_us(1, Duration::from_micros(100)), 100);
        assert_eq!(period_us(2, Duration::ZERO), 0);
    }

    #[test]
    fn shards_take_turns() {
        let turns = |shard| Gather::new(ShardIndex(shard), 2, MILLISECOND, Timestamp(0));
        let (first, second) = (turns(0), turns(1));
        for (now, waits) in
            [(0, (666, 333)), (332, (334, 1)), (333, (333, 666)), (6_660, (666, 333))]
        {
            let expected = (Duration::from_micros(waits.0), Duration::from_micros(waits.1));
            assert_eq!((first.wait(now), second.wait(now)), expected, "{now}");
        }
    }

    #[test]
    fn no_wait_allowed_is_no_gathering() {
        let mut gather = Gather::new(ShardIndex(0), 2, Duration::ZERO, Timestamp(0));
        assert_eq!(run(&mut gather, 0, 3, 4, 4), 0);
    }
}
