//! A timing wheel: one deadline a connection, 12 bytes each.
//!
//! Deadlines move later far more often than they pass (every packet moves the keep alive), so
//! moving one later only stores a number. The wheel finds out when it reaches the old place, and
//! files the entry again. Entries of one tick are a doubly linked list through two arrays, so
//! nothing is allocated and moving a deadline earlier costs the same for any number of entries:
//! the 4 bytes buy that for an index that is used again with a shorter deadline.

use super::time::Timestamp;

/// Deadlines by slab index, in ticks of a fixed length.
#[derive(Debug)]
pub struct Wheel {
    tick_ms: u64,
    start: Timestamp,
    /// The next tick to look at.
    current: u32,
    /// First entry of each slot's list, [`END`] for none.
    heads: Vec<u32>,
    /// Per entry: the tick of its deadline, [`UNSET`] for none.
    deadlines: Vec<u32>,
    /// Per entry: its place in a list.
    links: Vec<Link>,
    linked: usize,
}

/// `before` is the previous entry, or [`HEAD`] and the slot for the first, or [`UNLINKED`].
/// `after` is the next entry, or [`END`].
#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

const END: u32 = u32::MAX;
const UNLINKED: u32 = u32::MAX;
const HEAD: u32 = 1 << 31;
const UNSET: u32 = u32::MAX;

impl Wheel {
    /// A wheel of `slots` ticks of `tick_ms` milliseconds. A deadline beyond one turn is looked at
    /// once a turn.
    ///
    /// # Panics
    ///
    /// When `tick_ms` or `slots` is 0.
    #[must_use]
    pub fn new(start: Timestamp, tick_ms: u64, slots: usize) -> Self {
        assert!(tick_ms > 0 && slots > 0, "a wheel turns");
        Self {
            tick_ms,
            start,
            current: 0,
            heads: vec![END; slots],
            deadlines: Vec::new(),
            links: Vec::new(),
            linked: 0,
        }
    }

    /// Sets or moves the deadline of `index`. It fires at or after `deadline`, less than one tick
    /// late; one already past fires with the next tick.
    pub fn set(&mut self, index: u32, deadline: Timestamp) {
        let at = index as usize;
        if at >= self.links.len() {
            self.deadlines.resize(at + 1, UNSET);
            self.links.resize(at + 1, Link { before: UNLINKED, after: END });
        }
        let tick = self.tick_at_or_after(deadline).max(self.current);
        let old = self.deadlines.get(at).copied().unwrap_or(UNSET);
        self.store(at, tick);
        if !self.is_linked(at) {
            self.link(index, tick);
        } else if tick < old {
            // Its list may come too late for the earlier deadline: file it where it belongs now.
            self.unlink(index);
            self.link(index, tick);
        }
    }

    /// Forgets the deadline of `index`.
    pub fn clear(&mut self, index: u32) {
        self.store(index as usize, UNSET);
        if self.is_linked(index as usize) {
            self.unlink(index);
        }
    }

    /// Appends to `expired` what is due at `now`, and forgets it.
    pub fn expire(&mut self, now: Timestamp, expired: &mut Vec<u32>) {
        let until = u32::try_from(now.millis_since(self.start) / self.tick_ms).unwrap_or(UNSET - 1);
        if self.linked == 0 {
            self.current = self.current.max(until);
            return;
        }
        // One turn visits every list; further ticks would visit them again for nothing.
        let turn = u32::try_from(self.heads.len()).unwrap_or(u32::MAX);
        if until > self.current && until - self.current > turn {
            self.current = until - turn;
        }
        while self.current <= until {
            self.expire_tick(until, expired);
            self.current += 1;
        }
    }

    /// When [`Wheel::expire`] is next worth calling: the next tick with entries in its list,
    /// [`Timestamp::NEVER`] when the wheel is empty.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        if self.linked == 0 {
            return Timestamp::NEVER;
        }
        let turn = u32::try_from(self.heads.len()).unwrap_or(u32::MAX);
        let next = (self.current..self.current.saturating_add(turn))
            .find(|&tick| self.heads.get(self.slot(tick)).is_some_and(|&head| head != END));
        next.map_or(Timestamp::NEVER, |tick| {
            Timestamp(self.start.0 + u64::from(tick) * self.tick_ms)
        })
    }

    fn expire_tick(&mut self, until: u32, expired: &mut Vec<u32>) {
        let slot = self.slot(self.current);
        let after_this = self.current + 1;
        // Entries filed again under this slot (a whole turn away) go before `entry`, the rest of
        // the list as it was, so the walk ends.
        let mut entry = self.heads.get(slot).copied().unwrap_or(END);
        while entry != END {
            let at = entry as usize;
            let next = self.links.get(at).map_or(END, |link| link.after);
            self.unlink(entry);
            match self.deadlines.get(at).copied() {
                None | Some(UNSET) => {}
                Some(tick) if tick <= until => {
                    self.store(at, UNSET);
                    expired.push(entry);
                }
                Some(tick) => self.link(entry, tick.max(after_this)),
            }
            entry = next;
        }
    }

    fn tick_at_or_after(&self, deadline: Timestamp) -> u32 {
        let tick = deadline.millis_since(self.start).div_ceil(self.tick_ms);
        u32::try_from(tick).unwrap_or(UNSET).min(UNSET - 1)
    }

    fn slot(&self, tick: u32) -> usize {
        tick as usize % self.heads.len()
    }

    fn store(&mut self, at: usize, tick: u32) {
        if let Some(deadline) = self.deadlines.get_mut(at) {
            *deadline = tick;
        }
    }

    fn is_linked(&self, at: usize) -> bool {
        self.links.get(at).is_some_and(|link| link.before != UNLINKED)
    }

    fn link(&mut self, index: u32, tick: u32) {
        let slot = self.slot(tick);
        let head = self.heads.get_mut(slot).expect("a slot is below the slot count");
        let after = std::mem::replace(head, index);
        if let Some(link) = self.links.get_mut(after as usize) {
            link.before = index;
        }
        let before = HEAD | u32::try_from(slot).expect("slots are few");
        let link = self.links.get_mut(index as usize).expect("set() made room for the entry");
        *link = Link { before, after };
        self.linked += 1;
    }

    /// Takes `index` out of its list.
    fn unlink(&mut self, index: u32) {
        let link = self.links.get_mut(index as usize).expect("the caller saw it linked");
        let Link { before, after } = std::mem::replace(link, Link { before: UNLINKED, after: END });
        if before & HEAD == 0 {
            self.links.get_mut(before as usize).expect("it is in the list").after = after;
        } else if let Some(head) = self.heads.get_mut((before & !HEAD) as usize) {
            *head = after;
        }
        if let Some(link) = self.links.get_mut(after as usize) {
            link.before = before;
        }
        self.linked -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_MS: u64 = 100;

    fn wheel() -> Wheel {
        Wheel::new(Timestamp(1_000), TICK_MS, 16)
    }

    /// Steps the wheel by one tick up to `until` and returns what fired, with the time it fired.
    fn run(wheel: &mut Wheel, from: u64, until: u64) -> Vec<(u64, u32)> {
        let mut fired = Vec::new();
        let mut expired = Vec::new();
        for now in (from..=until).step_by(10) {
            wheel.expire(Timestamp(now), &mut expired);
            fired.extend(expired.drain(..).map(|index| (now, index)));
        }
        fired
    }

    #[test]
    fn fires_at_the_deadline_or_less_than_a_tick_later() {
        let mut wheel = wheel();
        for (index, deadline) in [(0, 1_000), (1, 1_050), (2, 1_100), (3, 9_999), (4, 2_600)] {
            wheel.set(index, Timestamp(deadline));
        }
        let fired = run(&mut wheel, 1_000, 12_000);
        assert_eq!(fired, [(1_000, 0), (1_100, 2), (1_100, 1), (2_600, 4), (10_000, 3)]);
        assert_eq!(wheel.next_timeout(), Timestamp::NEVER);
    }

    #[test]
    fn moving_a_deadline_moves_when_it_fires() {
        let mut wheel = wheel();
        wheel.set(0, Timestamp(2_000));
        wheel.set(0, Timestamp(5_000));
        wheel.set(1, Timestamp(900_000));
        wheel.set(1, Timestamp(1_500));
        wheel.set(2, Timestamp(1_600));
        wheel.clear(2);
        assert_eq!(run(&mut wheel, 1_000, 6_000), [(1_500, 1), (5_000, 0)]);
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = wheel();
        for index in 0..100 {
            wheel.set(index, Timestamp(1_000 + u64::from(index) * 997));
        }
        let mut expired = Vec::new();
        wheel.expire(Timestamp(1_000_000), &mut expired);
        expired.sort_unstable();
        assert_eq!(expired, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn next_timeout_is_never_later_than_the_earliest_deadline() {
        let mut wheel = wheel();
        let mut seed = 1_u64;
        let mut deadlines = [None::<u64>; 32];
        let mut now = 1_000;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            let index = (seed >> 33) as usize % deadlines.len();
            let deadline = now + (seed >> 40) % 5_000;
            deadlines[index] = Some(deadline);
            wheel.set(index as u32, Timestamp(deadline));
            let earliest = deadlines.iter().flatten().min().copied().unwrap_or(u64::MAX);
            assert!(wheel.next_timeout().0 < earliest.max(now) + TICK_MS + 1);
            now += (seed >> 50) % 90;
            let mut expired = Vec::new();
            wheel.expire(Timestamp(now), &mut expired);
            for index in expired {
                let deadline = deadlines[index as usize].take().expect("fires once");
                assert!(deadline <= now, "fired early");
            }
            for deadline in deadlines.iter().flatten() {
                assert!(deadline + TICK_MS > now, "fired too late");
            }
        }
    }
}
