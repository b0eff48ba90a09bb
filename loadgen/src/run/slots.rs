//! The connections of a lane's engine: which member has which, which are free, which were left half
//! open.

use std::collections::VecDeque;

/// No member.
const NONE: u32 = u32::MAX;
/// The list of half-open connections is tidied when it is twice as long as they are many, plus this.
const SPARE: usize = 64;

/// The connections of a lane.
#[derive(Debug)]
pub(super) struct Slots {
    /// Member by connection.
    members: Vec<u32>,
    free: Vec<u32>,
    /// Connections that were left half open, oldest first; some of them no longer are.
    abandoned: VecDeque<u32>,
    is_abandoned: Vec<bool>,
    half_open: usize,
}

impl Slots {
    /// So many, all free.
    pub(super) fn new(count: u32) -> Self {
        Self {
            members: vec![NONE; count as usize],
            free: (0..count).rev().collect(),
            abandoned: VecDeque::new(),
            is_abandoned: vec![false; count as usize],
            half_open: 0,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// How many belong to a member or are being closed.
    pub(super) fn in_use(&self) -> usize {
        self.members.len() - self.free.len() - self.half_open
    }

    /// Whether one is free.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Gives `member` a free connection.
    pub(super) fn take(&mut self, member: u32) -> Option<u32> {
        let slot = self.free.pop()?;
        if let Some(occupant) = self.members.get_mut(slot as usize) {
            *occupant = member;
        }
        Some(slot)
    }

    /// The member that has a connection.
    pub(super) fn member_of(&self, slot: u32) -> Option<u32> {
        self.members.get(slot as usize).copied().filter(|member| *member != NONE)
    }

    /// Its member has nothing more to do with a connection that is being closed.
    pub(super) fn detach(&mut self, slot: u32) {
        if let Some(occupant) = self.members.get_mut(slot as usize) {
            *occupant = NONE;
        }
    }

    /// Its member has left a connection half open.
    pub(super) fn abandon(&mut self, slot: u32) {
        self.detach(slot);
        if let Some(abandoned) = self.is_abandoned.get_mut(slot as usize) {
            *abandoned = true;
            self.half_open += 1;
            self.abandoned.push_back(slot);
        }
        if self.abandoned.len() > 2 * self.half_open + SPARE {
            let mut listed = vec![false; self.is_abandoned.len()];
            let is_abandoned = &self.is_abandoned;
            self.abandoned.retain(|slot| {
                let slot = *slot as usize;
                let first = listed.get_mut(slot).is_some_and(|seen| !std::mem::replace(seen, true));
                first && is_abandoned.get(slot).copied().unwrap_or(false)
            });
        }
    }

    /// The half-open connection to give up for the sake of another, if there is one.
    pub(super) fn oldest_abandoned(&mut self) -> Option<u32> {
        while let Some(slot) = self.abandoned.pop_front() {
            if self.is_abandoned.get(slot as usize).copied().unwrap_or(false) {
                return Some(slot);
            }
        }
        None
    }

    /// A connection is closed and free again; returns the member that still had it.
    pub(super) fn closed(&mut self, slot: u32) -> Option<u32> {
        let member = self.member_of(slot);
        self.detach(slot);
        self.free.push(slot);
        if let Some(abandoned) = self.is_abandoned.get_mut(slot as usize)
            && std::mem::take(abandoned)
        {
            self.half_open -= 1;
        }
        member
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_half_open_connection_goes_first() {
        let mut slots = Slots::new(3);
        let [first, second, third] = [7, 8, 9].map(|member| slots.take(member).unwrap());
        assert_eq!((slots.take(10), slots.member_of(second)), (None, Some(8)));
        for slot in [first, second, third] {
            slots.abandon(slot);
        }
        assert_eq!((slots.in_use(), slots.member_of(second)), (0, None));
        assert_eq!(slots.closed(first), None, "the broker closed it");
        assert_eq!(slots.oldest_abandoned(), Some(second));
    }

    #[test]
    fn the_list_of_half_open_connections_does_not_grow() {
        let mut slots = Slots::new(2);
        for _ in 0..10_000 {
            let slot = slots.take(1).unwrap();
            slots.abandon(slot);
            slots.closed(slot);
        }
        assert!(slots.abandoned.len() <= SPARE + 2, "{}", slots.abandoned.len());
        assert_eq!((slots.in_use(), slots.half_open), (0, 0));
    }
}
