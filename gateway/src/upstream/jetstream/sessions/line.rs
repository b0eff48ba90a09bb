//! The order in which what shards append to sessions is told committed: one line a sub-cluster.
//!
//! Each session is written by itself, and those behind one that waits are written meanwhile; only
//! the word that they are goes out in order.

use std::collections::VecDeque;

/// Numbers given to appends, of which each is done some time.
#[derive(Debug)]
pub(super) struct Line {
    /// Whether it is done, from `first` on.
    done: VecDeque<bool>,
    first: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self { done: VecDeque::new(), first: 1 }
    }
}

impl Line {
    /// The number of a new append.
    pub(super) fn push(&mut self) -> u64 {
        self.done.push_back(false);
        self.last()
    }

    /// The last number given.
    pub(super) fn last(&self) -> u64 {
        self.first + self.done.len() as u64 - 1
    }

    /// An append is done.
    pub(super) fn finish(&mut self, number: u64) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(done) = place.and_then(|place| self.done.get_mut(place)) {
            *done = true;
        }
    }

    /// Forgets what is done and has nothing before it; the last number of it, if there is any.
    pub(super) fn release(&mut self) -> Option<u64> {
        let before = self.first;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.first += 1;
        }
        (self.first > before).then(|| self.first - 1)
    }

    /// Everything up to `number` was released.
    pub(super) fn is_released(&self, number: u64) -> bool {
        number < self.first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_waits_for_what_came_before() {
        let mut line = Line::default();
        assert_eq!((line.push(), line.push(), line.push()), (1, 2, 3));
        line.finish(2);
        assert_eq!(line.release(), None);
        line.finish(1);
        assert_eq!(line.release(), Some(2));
        assert!(line.is_released(2) && !line.is_released(3) && !line.is_empty());
        line.finish(1);
        line.finish(3);
        assert_eq!((line.release(), line.release()), (Some(3), None));
        assert!(line.is_empty());
        assert_eq!(line.push(), 4);
    }
}
