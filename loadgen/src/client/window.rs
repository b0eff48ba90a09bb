//! The publishes of a client that are under way, in the order they were sent.

use std::{collections::VecDeque, num::NonZeroU16};

use gateway::proto::mqtt::{AckKind, PacketId, ProtocolVersion};

use super::{Publication, Scratch, wire};
use crate::payload::Stamp;

/// Packet identifiers for publishes: all there are but the last, which SUBSCRIBE has.
/// Source: MQTT 5.0 §2.2.1.
const PACKET_IDS: u64 = u16::MAX as u64 - 1;

/// Publishes of QoS 1 and 2 whose exchange is not finished.
///
/// Identifiers are given out in a circle, so an entry is found by binary search and an identifier
/// is free as long as fewer than 65,534 were given out since the oldest entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    /// Identifiers given out so far, the next is this modulo 65,534, plus 1.
    given_out: u64,
}

/// One publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    number: u64,
    /// What the payload says; the payload is made again from it when it is sent again.
    pub(crate) stamp: Stamp,
    /// When it was written last.
    pub(crate) written_ns: u64,
    /// What it waits for.
    pub(crate) stage: Stage,
}

/// Which answer of the server a publish waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "states are named for what they wait for")]
pub(crate) enum Stage {
    /// QoS 1.
    ExpectPuback,
    /// QoS 2, first half.
    ExpectPubrec,
    /// QoS 2, second half: the server has the message, PUBREL was sent.
    ExpectPubcomp,
}

impl Window {
    /// Publishes under way.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is a free packet identifier.
    pub(crate) fn has_free_packet_id(&self) -> bool {
        self.entries.front().is_none_or(|oldest| self.given_out - oldest.number < PACKET_IDS)
    }

    /// Enters a publish and gives it an identifier; `None` when none is free.
    pub(crate) fn push(&mut self, stamp: Stamp, now_ns: u64, stage: Stage) -> Option<PacketId> {
        if !self.has_free_packet_id() {
            return None;
        }
        let entry = Entry { number: self.given_out, stamp, written_ns: now_ns, stage };
        self.given_out += 1;
        self.entries.push_back(entry);
        Some(entry.packet_id())
    }

    /// Ends the exchange of `packet_id` if it waits for `stage`, and returns what it was.
    pub(crate) fn finish(&mut self, packet_id: PacketId, stage: Stage) -> Option<Stamp> {
        let index = self.find(packet_id)?;
        if self.entries.get(index)?.stage != stage {
            return None;
        }
        self.entries.remove(index).map(|entry| entry.stamp)
    }

    /// Takes `packet_id` from waiting for PUBREC to waiting for PUBCOMP.
    ///
    /// Returns its stamp, or `None` if it does not wait for PUBREC.
    pub(crate) fn received(&mut self, packet_id: PacketId) -> Option<Stamp> {
        let index = self.find(packet_id)?;
        let entry = self.entries.get_mut(index)?;
        if entry.stage != Stage::ExpectPubrec {
            return None;
        }
        entry.stage = Stage::ExpectPubcomp;
        Some(entry.stamp)
    }

    /// Whether `packet_id` waits for PUBCOMP.
    pub(crate) fn expects_pubcomp(&self, packet_id: PacketId) -> bool {
        self.find(packet_id)
            .and_then(|index| self.entries.get(index))
            .is_some_and(|entry| entry.stage == Stage::ExpectPubcomp)
    }

    /// Forgets the exchanges of QoS 2, telling `on_unknown` those without PUBREC: the server that
    /// lost the session may or may not have these messages.
    pub(crate) fn forget_exactly_once(&mut self, mut on_unknown: impl FnMut(Stamp)) {
        self.entries.retain(|entry| {
            if entry.stage == Stage::ExpectPubrec {
                on_unknown(entry.stamp);
            }
            entry.stage == Stage::ExpectPuback
        });
    }

    /// The one under way longest.
    pub(crate) fn oldest_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut()
    }

    /// What is under way, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    fn find(&self, packet_id: PacketId) -> Option<usize> {
        let oldest = self.entries.front()?.number;
        let wanted = u64::from(packet_id.0.get() - 1);
        let number = oldest + (wanted + PACKET_IDS - oldest % PACKET_IDS) % PACKET_IDS;
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }
}

impl Entry {
    /// Writes the packet it waits for an answer to again.
    pub(crate) fn write_again(
        &self,
        version: ProtocolVersion,
        publication: &Publication,
        dup: bool,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) {
        let packet_id = self.packet_id();
        if self.stage == Stage::ExpectPubcomp {
            wire::acknowledge(version, AckKind::Pubrel, packet_id, out);
        } else {
            wire::publish(version, publication, &self.stamp, Some(packet_id), dup, scratch, out);
        }
    }

    /// The identifier it was given.
    pub(crate) fn packet_id(&self) -> PacketId {
        let value = u16::try_from(self.number % PACKET_IDS + 1).ok().and_then(NonZeroU16::new);
        PacketId(value.expect("a remainder of 65,534 plus 1 is 1 to 65,534"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 0, epoch: 0, sequence, intended_ns: 0, sent_ns: 0 }
    }

    #[test]
    fn identifiers_go_round_and_are_never_in_use_twice() {
        let mut window = Window::default();
        let held = window.push(stamp(0), 0, Stage::ExpectPuback).unwrap();
        for sequence in 1..PACKET_IDS {
            let packet_id = window.push(stamp(sequence), 0, Stage::ExpectPuback).unwrap();
            assert_ne!(packet_id, held);
            assert_eq!(window.finish(packet_id, Stage::ExpectPuback), Some(stamp(sequence)));
        }
        assert_eq!(window.push(stamp(0), 0, Stage::ExpectPuback), None, "1 is still in use");
        assert_eq!(window.finish(held, Stage::ExpectPuback), Some(stamp(0)));
        assert_eq!(window.push(stamp(7), 0, Stage::ExpectPuback), Some(held));
    }

    #[test]
    fn acknowledgements_out_of_order_find_their_publish() {
        let mut window = Window::default();
        let ids: Vec<_> =
            (0..10).map(|s| window.push(stamp(s), 0, Stage::ExpectPuback).unwrap()).collect();
        for sequence in [9, 0, 5, 4, 1] {
            let found = window.finish(ids[usize::try_from(sequence).unwrap()], Stage::ExpectPuback);
            assert_eq!(found, Some(stamp(sequence)));
        }
        let left: Vec<_> = window.entries().map(|entry| entry.stamp.sequence).collect();
        assert_eq!(left, [2, 3, 6, 7, 8]);
    }

    #[test]
    fn an_answer_to_the_wrong_step_changes_nothing() {
        let mut window = Window::default();
        let packet_id = window.push(stamp(0), 0, Stage::ExpectPubrec).unwrap();
        assert_eq!(window.finish(packet_id, Stage::ExpectPuback), None);
        assert_eq!(window.finish(packet_id, Stage::ExpectPubcomp), None);
        assert_eq!(window.received(packet_id), Some(stamp(0)));
        assert_eq!(window.received(packet_id), None);
        assert!(window.expects_pubcomp(packet_id));
        assert_eq!(window.finish(packet_id, Stage::ExpectPubcomp), Some(stamp(0)));
        assert_eq!(window.len(), 0);
    }
}
