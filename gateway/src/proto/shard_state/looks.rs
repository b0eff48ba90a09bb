//! Subscriptions that are still to be asked for their retained messages, each kept small: when a fleet
//! connects there are as many as connections.
//!
//! ```text
//! SUBSCRIBE ─▶ early ─SUBACK─▶ line ─▶ asked, at most `retained_looks_max` ─▶ answered ─▶ again, after 10 s ─▶ line
//! ```

use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::FilterId;
use crate::proto::session::{RetainedStarts, Ticket};
use crate::proto::time::Timestamp;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// A subscription whose retained messages are to be asked for.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) ticket: Ticket,
    pub(super) filter: FilterId,
    /// Of the filter's text: its number may have become another's.
    pub(super) text_hash: u32,
    pub(super) starts: Arc<RetainedStarts>,
    /// See [`crate::proto::session::RetainedRequest`].
    pub(super) delivered: Box<[(PartitionId, Sequence)]>,
    /// Where the second look begins; `None` for the first.
    pub(super) again_from: Option<Rc<str>>,
}

const _: () = assert!(size_of::<Look>() <= 56, "there may be one a connection");

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// For subscriptions whose SUBACK has to wait.
    early: AHashMap<u64, Look>,
    /// Of sessions with requests in `early`: how many, and what reached the session meanwhile.
    delivered: AHashMap<u32, Delivered>,
    /// SUBACK went out; at most [`Looks::LINE_MAX`].
    line: VecDeque<Look>,
    /// To be looked at a second time, in order; at most [`SECOND_LOOKS_MAX`].
    again: VecDeque<(Timestamp, Look)>,
    last_starts: Arc<RetainedStarts>,
    last_from: Option<Rc<str>>,
}

#[derive(Debug, Default)]
struct Delivered {
    requests: u32,
    places: Vec<(PartitionId, Sequence)>,
}

impl Looks {
    /// When more are in line, the next does not wait its turn.
    pub(super) const LINE_MAX: usize = 65_536;

    /// The same starts, with the memory of those before if they are equal.
    pub(super) fn share_starts(&mut self, starts: RetainedStarts) -> Arc<RetainedStarts> {
        if *self.last_starts != starts {
            self.last_starts = Arc::new(starts);
        }
        Arc::clone(&self.last_starts)
    }

    /// The same for where second looks begin.
    pub(super) fn share_from(&mut self, from: &str) -> Rc<str> {
        match &self.last_from {
            Some(last) if **last == *from => Rc::clone(last),
            _ => Rc::clone(self.last_from.insert(from.into())),
        }
    }

    /// A message with the RETAIN flag reaches a session, now or from a replay.
    pub(super) fn note_delivered(
        &mut self,
        session: u32,
        partition: PartitionId,
        sequence: Sequence,
    ) {
        if self.delivered.is_empty() {
            return;
        }
        if let Some(Delivered { places, .. }) = self.delivered.get_mut(&session)
            && places.len() < DELIVERED_MAX
        {
            places.push((partition, sequence));
        }
    }

    pub(super) fn add_early(&mut self, id: u64, look: Look) {
        self.delivered.entry(look.ticket.session).or_default().requests += 1;
        self.early.insert(id, look);
    }

    /// A look, with what reached the session since.
    pub(super) fn take_early(&mut self, id: u64) -> Option<Look> {
        let mut look = self.early.remove(&id)?;
        let session = look.ticket.session;
        if let Some(delivered) = self.delivered.get_mut(&session) {
            delivered.requests -= 1;
            look.delivered = delivered.places.as_slice().into();
            if delivered.requests == 0 {
                self.delivered.remove(&session);
            }
        }
        if self.early.is_empty() {
            // As many as had to wait at once need not be again.
            (self.early, self.delivered) = Default::default();
        }
        Some(look)
    }

    /// Puts a look in line; it comes back if the line is full.
    pub(super) fn line_up(&mut self, look: Look) -> Option<Look> {
        if self.line.len() >= Self::LINE_MAX {
            return Some(look);
        }
        self.line.push_back(look);
        None
    }

    /// The first in line.
    pub(super) fn next(&mut self) -> Option<Look> {
        let look = self.line.pop_front();
        shrink(&mut self.line);
        look
    }

    /// Nobody is in line.
    pub(super) fn is_line_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// What was on its way to be retained when `look` was answered is there at `due`.
    pub(super) fn look_again(&mut self, due: Timestamp, look: Look) {
        self.again.push_back((due, look));
    }

    /// When something is to be looked at a second time.
    pub(super) fn next_timeout(&self) -> Timestamp {
        self.again.front().map_or(Timestamp::NEVER, |(due, _)| *due)
    }

    /// The next that is to be looked at a second time.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Look> {
        if self.next_timeout() > now && self.again.len() <= SECOND_LOOKS_MAX {
            return None;
        }
        let look = self.again.pop_front().map(|(_, look)| look);
        shrink(&mut self.again);
        look
    }
}

/// What tells one filter from another that has its number later.
pub(super) fn text_hash(filter: &str) -> u32 {
    u32::try_from(xxh3_64(filter.as_bytes()) >> 32).expect("the upper half")
}

/// Gives back what a queue does not need any more.
fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > CAPACITY_KEPT && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(queue.len() * 2);
    }
}

const CAPACITY_KEPT: usize = 64;
/// Second looks that wait; when there are more, the first is not waited for.
const SECOND_LOOKS_MAX: usize = 65_536;
/// Messages of a session remembered while it waits for SUBACK; what is beyond may come a second time.
const DELIVERED_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn look(session: u32) -> Look {
        Look {
            ticket: Ticket { session, epoch: 0 },
            filter: FilterId(session),
            text_hash: text_hash("a"),
            starts: Arc::default(),
            delivered: Box::default(),
            again_from: None,
        }
    }

    #[test]
    fn a_full_line_takes_no_more_and_gives_its_memory_back() {
        let mut looks = Looks::default();
        for session in 0..u32::try_from(Looks::LINE_MAX).unwrap() {
            assert!(looks.line_up(look(session)).is_none());
        }
        assert_eq!(looks.line_up(look(7)).map(|look| look.ticket.session), Some(7));
        assert!(!looks.is_line_empty());
        for session in 0..u32::try_from(Looks::LINE_MAX).unwrap() {
            assert_eq!(looks.next().map(|look| look.ticket.session), Some(session));
        }
        assert!(looks.is_line_empty() && looks.line.capacity() <= CAPACITY_KEPT * 4);
    }

    #[test]
    fn what_waits_for_a_second_look_is_bounded() {
        let mut looks = Looks::default();
        let due = Timestamp(10_000);
        for session in 0..=u32::try_from(SECOND_LOOKS_MAX).unwrap() {
            looks.look_again(due, look(session));
        }
        let now = Timestamp(1);
        assert_eq!(looks.take_due(now).map(|look| look.ticket.session), Some(0), "one too many");
        assert!(looks.take_due(now).is_none());
        assert_eq!(looks.take_due(due).map(|look| look.ticket.session), Some(1));
    }

    #[test]
    fn what_reaches_a_session_before_suback_is_told_to_all_its_looks() {
        let mut looks = Looks::default();
        looks.add_early(1, look(5));
        looks.add_early(2, look(5));
        looks.note_delivered(5, PartitionId(0), Sequence(3));
        looks.note_delivered(6, PartitionId(0), Sequence(4));
        for id in [1, 2] {
            let delivered = looks.take_early(id).unwrap().delivered;
            assert_eq!(*delivered, [(PartitionId(0), Sequence(3))]);
        }
        assert!(looks.delivered.is_empty() && looks.early.capacity() == 0);
    }

    #[test]
    fn equal_starts_share_their_memory() {
        let mut looks = Looks::default();
        let starts = |at| RetainedStarts { acknowledged: vec![Sequence(at)], ..Default::default() };
        let first = looks.share_starts(starts(1));
        assert!(Arc::ptr_eq(&first, &looks.share_starts(starts(1))));
        assert!(!Arc::ptr_eq(&first, &looks.share_starts(starts(2))));
        let from = looks.share_from("x");
        assert!(Rc::ptr_eq(&from, &looks.share_from("x")) && *looks.share_from("y") == *"y");
    }
}
