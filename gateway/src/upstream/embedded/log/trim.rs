//! Retention: whole segments go when nobody needs them, or when they are too old.

use super::commit::Log;
use super::io::LogIo;
use super::limits::Durability;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;

impl Log {
    /// Whether a segment was begun since the last call: in memory, the moment to see what can go.
    /// Files cost no memory and are trimmed once a while.
    pub fn wants_trim(&mut self) -> bool {
        let newest = self.segments.back().map(|segment| segment.id);
        self.durability == Durability::Memory
            && std::mem::replace(&mut self.last_seen, newest) != newest
    }

    /// Drops the oldest segments that lie below `folded` and either below `needed` or are older
    /// than [`retention_age`](super::LogLimits::retention_age). Returns how many.
    ///
    /// `needed`: the lowest sequence any session still needs. `folded`: the keyed store holds,
    /// durably, what the records below it change. The newest segment always stays.
    pub fn trim(
        &mut self,
        needed: Sequence,
        folded: Sequence,
        now: Timestamp,
        out: &mut Vec<LogIo>,
    ) -> u64 {
        let age = self.limits.retention_age;
        // What is still on its way to a segment does not show in its end.
        let finished = match self.durability {
            Durability::Memory => self.committed,
            Durability::Fsync | Durability::Interval(_) => self.synced,
        };
        let mut dropped = 0;
        while let Some(oldest) = self.segments.front()
            && self.segments.get(1).is_some_and(|next| next.first <= finished)
            && oldest.end <= folded
            && (oldest.end <= needed || oldest.newest_at.after(age) <= now)
        {
            let id = oldest.id;
            self.segments.pop_front();
            self.pieces.forget(id);
            if self.durability != Durability::Memory {
                self.remove(id, out);
            }
            dropped += 1;
        }
        if dropped > 0 {
            let first = self.first_sequence();
            self.tail.trim(first);
        }
        dropped
    }
}
