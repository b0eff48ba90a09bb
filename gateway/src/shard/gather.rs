//! When it pays to wait a moment for more events before handling the first.
//!
//! A wake-up costs more than the message it brings. Under a stream of messages from many
//! connections, waiting `gather_wait` lets one wake-up bring several. Clients that wait for each
//! answer before they go on would only be slowed down: then the stream itself gets thinner, and
//! gathering ends. It is tried again now and then while there is a stream.

use crate::proto::time::Timestamp;

/// Events are counted over so many milliseconds.
const WINDOW_MS: u64 = 8;
/// Events a millisecond from which on gathering is tried.
const STREAM_EVENTS_PER_MS: u64 = 2;
/// Events that two gathering waits have to bring on average.
const PAYS_EVENTS_TWO_WAITS: u64 = 3;
/// Gathering ends when the stream is thinner than this share of what it was without, in percent.
const KEEPS_PERCENT: u64 = 60;
/// How long after it did not pay gathering is tried again, milliseconds.
const RETRY_MS: u64 = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Gather {
    on: bool,
    retry_at: Timestamp,
    window_start: Timestamp,
    events: u64,
    waits: u64,
    /// Events a second before gathering began.
    rate_before: u64,
}

impl Gather {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { on: false, retry_at: now, window_start: now, events: 0, waits: 0, rate_before: 0 }
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
            self.retry_at = Timestamp(now.0 + RETRY_MS);
        } else if !self.on && now >= self.retry_at {
            self.on = true;
            self.rate_before = rate;
        }
        (self.window_start, self.events, self.waits) = (now, 0, 0);
    }

    /// Whether waits are to gather.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut gather = Gather::new(Timestamp(0));
        assert!(run(&mut gather, 0, 3, 4, 4) > 950);
    }

    #[test]
    fn clients_that_wait_for_answers_are_hardly_slowed() {
        let mut gather = Gather::new(Timestamp(0));
        assert!(run(&mut gather, 0, 2, 10, 4) < 50, "one window in 256 ms at most");
    }

    #[test]
    fn a_trickle_is_not_gathered() {
        let mut gather = Gather::new(Timestamp(0));
        assert_eq!(run(&mut gather, 0, 1, 1, 1), 0);
    }

    #[test]
    fn gathering_ends_with_the_stream() {
        let mut gather = Gather::new(Timestamp(0));
        run(&mut gather, 0, 3, 4, 4);
        run(&mut gather, 1_000, 1, 1, 1);
        assert!(!gather.is_on());
    }
}
