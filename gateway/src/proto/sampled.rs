//! Lines of the log that a peer can cause as often as it likes: some are told, the others counted.

use super::time::Timestamp;
use std::time::Duration;

/// At most one line a kind and shard in this time.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// When something of one kind was told last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampled {
    next_at: Timestamp,
    untold: u64,
}

impl Sampled {
    /// Something happened. Returns how often it did untold before, if it is to be told.
    pub fn tell(&mut self, now: Timestamp) -> Option<u64> {
        if now < self.next_at {
            self.untold += 1;
            return None;
        }
        self.next_at = now.after(INTERVAL);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_the_interval_is_told_and_the_others_are_counted() {
        let mut sampled = Sampled::default();
        let start = Timestamp::START;
        assert_eq!(sampled.tell(start), Some(0));
        for ms in [0, 1, 9_999] {
            assert_eq!(sampled.tell(start.after(Duration::from_millis(ms))), None);
        }
        assert_eq!(sampled.tell(start.after(INTERVAL)), Some(3));
        assert_eq!(sampled.tell(start.after(INTERVAL)), None);
    }
}
