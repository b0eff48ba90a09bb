//! Who publishes most, estimated from samples.
//!
//! Counting each client would cost each session memory and each message a cache line. So about a
//! thousand messages a second are looked at, however many there are, and the clients that are met
//! most often are kept in a small table (Space-Saving, Metwally et al. 2005: whoever has more than
//! one in [`PLACES`] of the samples is in it).

use crate::proto::session::Ticket;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// Clients kept.
const PLACES: usize = 32;
/// How long is counted before the counts are shown and begun anew.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples wanted in a window.
const SAMPLES: u64 = 5_000;
/// One message in so many is looked at, at most.
const INTERVAL_MAX: u64 = 4_096;

#[derive(Debug)]
pub(super) struct Talkers {
    /// Messages until the next one that is looked at.
    countdown: u32,
    interval: u32,
    random: u32,
    began: Timestamp,
    current: Vec<Talker>,
    /// Of the window before.
    shown: Vec<Talker>,
}

#[derive(Clone, Copy, Debug)]
struct Talker {
    ticket: Ticket,
    messages: u64,
    bytes: u64,
}

impl Default for Talkers {
    fn default() -> Self {
        let (current, shown) = (Vec::new(), Vec::new());
        Self { countdown: 1, interval: 1, random: 1, began: Timestamp::START, current, shown }
    }
}

impl Talkers {
    /// A session published. Most calls only count down.
    pub(super) fn note(&mut self, ticket: Ticket, bytes: usize, now: Timestamp) {
        self.countdown -= 1;
        if self.countdown == 0 {
            self.sample(ticket, bytes, now);
        }
    }

    /// The estimates of the last whole window, or of the first one so far: messages and bytes a
    /// second, most messages first.
    #[expect(clippy::cast_precision_loss, reason = "estimates")]
    pub(super) fn rates(&self, now: Timestamp) -> impl Iterator<Item = (Ticket, f64, f64)> {
        let age = now.millis_since(self.began);
        let window_ms = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        // With nothing published nothing ends a window.
        let (shown, counted_ms) = match age / window_ms {
            0 if self.shown.is_empty() => (self.current.as_slice(), age.max(1_000)),
            0 => (self.shown.as_slice(), window_ms),
            1 => (self.current.as_slice(), window_ms),
            _ => (&[][..], window_ms),
        };
        let mut talkers = shown.to_vec();
        talkers.sort_unstable_by_key(|talker| std::cmp::Reverse(talker.messages));
        let seconds = counted_ms as f64 / 1_000.0;
        talkers
            .into_iter()
            .map(move |one| (one.ticket, one.messages as f64 / seconds, one.bytes as f64 / seconds))
    }

    fn sample(&mut self, ticket: Ticket, bytes: usize, now: Timestamp) {
        if now >= self.began.after(WINDOW) {
            self.end_window(now);
        }
        self.countdown = self.next_countdown();
        let weight = u64::from(self.interval);
        let (messages, bytes) = (weight, weight * bytes as u64);
        if let Some(known) = self.current.iter_mut().find(|known| known.ticket == ticket) {
            known.messages += messages;
            known.bytes += bytes;
        } else if self.current.len() < PLACES {
            self.current.push(Talker { ticket, messages, bytes });
        } else if let Some(least) = self.current.iter_mut().min_by_key(|known| known.messages) {
            // The newcomer may have been the one that was thrown out before.
            *least =
                Talker { ticket, messages: least.messages + messages, bytes: least.bytes + bytes };
        }
    }

    /// `interval` on average, and never in step with traffic that has a rhythm of its own.
    fn next_countdown(&mut self) -> u32 {
        // Xorshift, Marsaglia 2003: any start but 0 goes through all numbers but 0.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        1 + self.random % (2 * self.interval - 1)
    }

    fn end_window(&mut self, now: Timestamp) {
        let count: u64 = self.current.iter().map(|talker| talker.messages).sum();
        let interval = (count / SAMPLES).clamp(1, INTERVAL_MAX);
        self.interval = u32::try_from(interval).expect("at most INTERVAL_MAX");
        self.shown = std::mem::take(&mut self.current);
        if now >= self.began.after(WINDOW * 2) {
            self.shown.clear();
        }
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(session: u32) -> Ticket {
        Ticket { session, epoch: 1 }
    }

    /// Publishes `per_ms` messages a millisecond for `ms`, one in `share` of them from session 7.
    fn publish(talkers: &mut Talkers, from_ms: u64, ms: u64, per_ms: u32, share: u32) {
        let mut others = 0;
        for at in from_ms..from_ms + ms {
            for number in 0..per_ms {
                let session = if number % share == 0 { 7 } else { 100 + others };
                others = (others + 1) % 1_000;
                talkers.note(ticket(session), 10, Timestamp(at));
            }
        }
    }

    fn loudest(talkers: &Talkers, at_ms: u64) -> Option<(Ticket, f64, f64)> {
        talkers.rates(Timestamp(at_ms)).next()
    }

    #[test]
    fn the_loudest_is_found_among_a_thousand() {
        let mut talkers = Talkers::default();
        publish(&mut talkers, 0, 15_000, 40, 4);
        let (who, messages, bytes) = loudest(&talkers, 15_000).unwrap();
        assert_eq!(who, ticket(7));
        assert!(talkers.interval > 1, "not every message is looked at");
        assert!((9_000.0..11_000.0).contains(&messages), "{messages} of 10,000 a second");
        assert!((bytes / messages - 10.0).abs() < 0.1, "{bytes}");
    }

    #[test]
    fn a_quiet_shard_counts_every_message_and_forgets_them() {
        let mut talkers = Talkers::default();
        publish(&mut talkers, 0, 5_000, 1, 1);
        let (who, messages, _) = loudest(&talkers, 6_000).unwrap();
        assert_eq!((who, messages.round()), (ticket(7), 1_000.0));
        assert!(loudest(&talkers, 20_000).is_none());
    }
}
