//! The answers to PUBLISH packets go out in the order of the PUBLISH packets, although the records
//! they wait for may be committed in another: those of different lanes have no order.
//!
//! Source: MQTT 5.0 [MQTT-4.6.0-2], [MQTT-4.6.0-3]; MQTT 3.1.1 the same.

use crate::proto::mqtt::PacketId;
use crate::proto::partition::Lane;
use std::collections::VecDeque;

/// The PUBLISH packets of one connection that have no answer yet.
///
/// As long as all of them stand in one lane, that keeps the order and nothing is allocated.
#[derive(Debug, Default)]
pub struct Answers {
    /// Of the last PUBLISH.
    lane: Lane,
    /// Unanswered, those in `mixed` included.
    count: u16,
    mixed: Option<Box<Mixed>>,
}

/// From the first PUBLISH on that went to another lane than one before it that is unanswered.
#[derive(Debug)]
struct Mixed {
    /// Unanswered PUBLISH packets before it.
    before: u16,
    later: VecDeque<Unanswered>,
}

#[derive(Debug)]
struct Unanswered {
    packet_id: PacketId,
    committed: bool,
}

impl Answers {
    /// The lane of the last PUBLISH, `None` when all are answered.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        (self.count > 0).then_some(self.lane)
    }

    /// A PUBLISH was appended to `lane`.
    pub fn expect(&mut self, packet_id: PacketId, lane: Lane) {
        if self.mixed.is_none() && self.count > 0 && lane != self.lane {
            self.mixed = Some(Box::new(Mixed { before: self.count, later: VecDeque::new() }));
        }
        if let Some(mixed) = &mut self.mixed {
            mixed.later.push_back(Unanswered { packet_id, committed: false });
        }
        self.lane = lane;
        self.count = self.count.saturating_add(1);
    }

    /// The record of a PUBLISH is committed. Whether it may be answered now; if not,
    /// [`Answers::next_due`] will say when.
    pub fn commit(&mut self, packet_id: PacketId) -> bool {
        let Some(mixed) = &mut self.mixed else {
            self.count = self.count.saturating_sub(1);
            return true;
        };
        let waits = |one: &&mut Unanswered| one.packet_id == packet_id && !one.committed;
        if let Some(unanswered) = mixed.later.iter_mut().find(waits) {
            unanswered.committed = true;
            return false;
        }
        mixed.before = mixed.before.saturating_sub(1);
        self.count = self.count.saturating_sub(1);
        true
    }

    /// The next PUBLISH that was committed before its turn, and whose turn it is now.
    pub fn next_due(&mut self) -> Option<PacketId> {
        let mixed = self.mixed.as_mut().filter(|mixed| mixed.before == 0)?;
        if !mixed.later.front()?.committed {
            return None;
        }
        let due = mixed.later.pop_front()?;
        if mixed.later.is_empty() {
            self.mixed = None;
        }
        self.count = self.count.saturating_sub(1);
        Some(due.packet_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    /// What goes out when `committed` commits.
    fn answers(answers: &mut Answers, committed: u16) -> Vec<u16> {
        let own = answers.commit(id(committed)).then(|| id(committed));
        let mut out: Vec<u16> = own.into_iter().map(PacketId::get).collect();
        out.extend(std::iter::from_fn(|| answers.next_due()).map(PacketId::get));
        out
    }

    #[test]
    fn one_lane_needs_no_memory() {
        let mut order = Answers::default();
        for number in 1..=3 {
            order.expect(id(number), Lane(4));
        }
        assert!(order.mixed.is_none());
        for number in 1..=3 {
            assert_eq!(answers(&mut order, number), [number]);
        }
        order.expect(id(1), Lane(5));
        assert!(order.mixed.is_none(), "nothing in the other lane is unanswered");
    }

    #[test]
    fn an_answer_waits_for_those_before_it_in_other_lanes() {
        let mut order = Answers::default();
        for (number, lane) in [(1, 4), (2, 4), (3, 5), (4, 4), (5, 5)] {
            order.expect(id(number), Lane(lane));
        }
        assert!(answers(&mut order, 3).is_empty());
        assert_eq!(answers(&mut order, 1), [1]);
        assert!(answers(&mut order, 5).is_empty());
        assert_eq!(answers(&mut order, 2), [2, 3]);
        assert_eq!(answers(&mut order, 4), [4, 5]);
        assert!(order.mixed.is_none());
        assert_eq!(order.count, 0);
    }
}
