//! The lanes of one partition: one for publishes that may go out at once, and one for those with QoS 2
//! whose names have to be recorded first, for each sub-cluster that has sessions.
//!
//! A sub-cluster that is away records nothing. What waits for it then fills a lane of its own, and neither
//! holds other publishers nor keeps back their acknowledgements.

use super::inbox::Token;
use super::lane::{Append, Lane, LaneLimits};
use crate::proto::histogram::Histogram;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::time::Timestamp;

/// See the module. Tokens are those of a lane, with the lane's number in them.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    limits: LaneLimits,
}

/// Which of the lanes: 0 for what need not be recorded elsewhere, then one for each home of sessions.
pub(super) type LaneNumber = u64;

/// More than there can be.
const COUNT: u64 = 128;

impl Lanes {
    /// All tokens are at or above this.
    pub(super) const FIRST_TOKEN: u64 = COUNT;

    pub(super) fn new(limits: LaneLimits) -> Self {
        Self { lanes: vec![Lane::new(limits)], limits }
    }

    /// The lane that a token is of.
    pub(super) fn number_of(token: Token) -> LaneNumber {
        token.0 % COUNT
    }

    /// As [`Lane::push`], in lane `number`.
    pub(super) fn push(
        &mut self,
        number: LaneNumber,
        append: Append,
        now: Timestamp,
    ) -> (Token, bool) {
        debug_assert!(number < COUNT, "there are 64 sub-clusters at most");
        let place = usize::try_from(number).expect("below 128");
        while self.lanes.len() <= place {
            self.lanes.push(Lane::new(self.limits));
        }
        let lane = self.lanes.get_mut(place).expect("just made");
        let (token, send) = lane.push(append, now);
        (outside(token, number), send)
    }

    pub(super) fn make_ready(&mut self, token: Token, now: Timestamp) -> bool {
        self.lane_mut(token).is_some_and(|lane| lane.make_ready(inside(token), now))
    }

    pub(super) fn get(&self, token: Token) -> Option<&Append> {
        self.lane(Self::number_of(token))?.get(inside(token))
    }

    pub(super) fn sent(&mut self, token: Token, fed: Sequence) -> Option<&Append> {
        self.lane_mut(token)?.sent(inside(token), fed)
    }

    pub(super) fn note_stored(
        &mut self,
        token: Token,
        at: (PartitionId, Sequence),
        now: Timestamp,
    ) {
        if let Some(lane) = self.lane_mut(token) {
            lane.note_stored(inside(token), at, now);
        }
    }

    pub(super) fn end(
        &mut self,
        token: Token,
        sequence: Sequence,
        now: Timestamp,
    ) -> Option<Token> {
        let next = self.lane_mut(token)?.end(inside(token), sequence, now)?;
        Some(outside(next, Self::number_of(token)))
    }

    /// As [`Lane::release`], of the lane that `token` is of.
    pub(super) fn release(&mut self, token: Token) -> Option<Token> {
        let last = self.lane_mut(token)?.release()?;
        Some(outside(last, Self::number_of(token)))
    }

    pub(super) fn retry_at(&mut self, token: Token, at: Timestamp) {
        if let Some(lane) = self.lane_mut(token) {
            lane.retry_at(inside(token), at);
        }
    }

    pub(super) fn refuse(&mut self, token: Token, at: Timestamp) {
        if let Some(lane) = self.lane_mut(token) {
            lane.refuse(inside(token), at);
        }
    }

    pub(super) fn doubt(&mut self) -> Vec<(Token, Sequence)> {
        let lanes = (0..).zip(&mut self.lanes);
        let of_lane = |(number, lane): (LaneNumber, &mut Lane)| {
            let doubted = lane.doubt().into_iter();
            doubted.map(move |(token, from)| (outside(token, number), from))
        };
        lanes.flat_map(of_lane).collect()
    }

    pub(super) fn lose_from(&mut self, from: Sequence) {
        self.lanes.iter_mut().for_each(|lane| lane.lose_from(from));
    }

    #[must_use]
    pub(super) fn take_due(
        &mut self,
        now: Timestamp,
        fed: Sequence,
        mut send: impl FnMut(Token, &Append),
    ) -> bool {
        let mut is_silent = false;
        for (number, lane) in (0..).zip(&mut self.lanes) {
            is_silent |=
                lane.take_due(now, fed, |token, append| send(outside(token, number), append));
        }
        is_silent
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        self.lanes.iter().map(Lane::next_timeout).min().unwrap_or(Timestamp::NEVER)
    }

    /// Publishers of lane `number` must wait.
    pub(super) fn is_full(&self, number: LaneNumber) -> bool {
        self.lane(number).is_some_and(Lane::is_full)
    }

    /// All that is on its way.
    pub(super) fn appends(&self) -> impl Iterator<Item = &Append> {
        self.lanes.iter().flat_map(Lane::appends)
    }

    pub(super) fn load(&self) -> (usize, usize) {
        let loads = self.lanes.iter().map(Lane::load);
        loads.fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(Lane::is_empty)
    }

    /// From [`Lanes::push`] to [`Lanes::end`].
    pub(super) fn acknowledgements(&self) -> Histogram {
        let mut all = Histogram::default();
        self.lanes.iter().for_each(|lane| all.merge(&lane.acknowledgements));
        all
    }

    fn lane(&self, number: LaneNumber) -> Option<&Lane> {
        self.lanes.get(usize::try_from(number).ok()?)
    }

    fn lane_mut(&mut self, token: Token) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::try_from(Self::number_of(token)).ok()?)
    }
}

fn outside(token: Token, number: LaneNumber) -> Token {
    Token(token.0 * COUNT + number)
}

fn inside(token: Token) -> Token {
    Token(token.0 / COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::record::MessageId;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_000);

    fn append(ready: bool) -> Append {
        let id = MessageId { origin: 1, number: 2 };
        let (sent, stored, pushed_at) = (None, None, Timestamp::START);
        let body = vec![0; 10];
        Append {
            body,
            id,
            named: true,
            topic_hash: 7,
            is_uplink: false,
            ready,
            sent,
            stored,
            pushed_at,
        }
    }

    #[test]
    fn a_lane_that_waits_neither_fills_nor_keeps_back_another() {
        let timeout = Duration::from_secs(5);
        let mut lanes = Lanes::new(LaneLimits { count_max: 2, bytes_max: 100, timeout });
        let (stuck, _) = lanes.push(3, append(false), NOW);
        lanes.push(3, append(false), NOW);
        assert!(lanes.is_full(3) && !lanes.is_full(0) && !lanes.is_full(1));
        let (token, is_sent) = lanes.push(0, append(true), NOW);
        assert!(is_sent && token != stuck);
        assert_eq!((Lanes::number_of(stuck), Lanes::number_of(token)), (3, 0));
        assert!(stuck.0 >= Lanes::FIRST_TOKEN && token.0 >= Lanes::FIRST_TOKEN);
        assert_eq!(lanes.end(token, Sequence(1), NOW), None);
        assert_eq!(lanes.release(token), Some(token));
        assert_eq!((lanes.load(), lanes.is_empty()), ((2, 20), false));
        assert!(lanes.make_ready(stuck, NOW), "it has its turn");
        assert!(lanes.sent(stuck, Sequence(4)).is_some());
        assert_eq!(lanes.doubt(), [(stuck, Sequence(4))]);
        assert_eq!(lanes.acknowledgements().count(), 1);
    }
}
