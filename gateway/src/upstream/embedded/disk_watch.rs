//! What an operator hears about the disk of a shard's own log: each change of state once.

use super::log::{Health, Log};
use crate::proto::time::Timestamp;
use std::time::Duration;

/// Between two looks, and so between two lines of the log; the first bad news does not wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a log fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskState {
    /// With its files.
    pub health: Health,
    /// Why publishers are held, unless it is for a moment.
    pub holds: Option<Hold>,
}

/// Why publishers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// As much as may wait for the disk waits.
    DiskBehind,
    /// `limits.retention_bytes` are in use, and sessions or the store need them all.
    RetentionFull,
}

/// What was said last, and when to look again.
#[derive(Debug)]
pub struct DiskWatch {
    told: DiskState,
    next_at: Timestamp,
}

const GOOD: DiskState = DiskState { health: Health::Good, holds: None };

impl Default for DiskWatch {
    fn default() -> Self {
        Self { told: GOOD, next_at: Timestamp::START }
    }
}

impl DiskWatch {
    /// The state of `log` if it is to be said: it is another than the one said last.
    pub fn look(&mut self, log: &Log, now: Timestamp) -> Option<DiskState> {
        let is_news = self.told == GOOD && log.health() != Health::Good;
        if now < self.next_at && !is_news {
            return None;
        }
        self.next_at = now.after(LOOK_EVERY);
        let health = log.health();
        // A disk that is well may be behind for a moment; that is how publishers are slowed down.
        let holds = if log.is_full() {
            Some(Hold::RetentionFull)
        } else {
            (health != Health::Good && log.is_behind()).then_some(Hold::DiskBehind)
        };
        let state = DiskState { health, holds };
        (std::mem::replace(&mut self.told, state) != state).then_some(state)
    }

    /// When to look again at the latest: only after bad news.
    #[must_use]
    pub fn next_look(&self) -> Timestamp {
        if self.told == GOOD { Timestamp::NEVER } else { self.next_at }
    }
}
