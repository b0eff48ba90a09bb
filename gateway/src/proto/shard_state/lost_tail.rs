//! Places of a partition are used again: what was there is gone, and whatever is there now is new.
//! See ARCHITECTURE.md, "Sequences that are used again".

use super::{Context, ShardState};
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::session::{InboundStep, Session, Stage};

impl ShardState {
    /// The places of `partition` from `from` on are used again. With `is_certain` something that this shard
    /// knew was in one of them; else none of its sessions has had anything from there.
    pub fn handle_lost_tail(
        &mut self,
        partition: PartitionId,
        from: Sequence,
        is_certain: bool,
        context: &mut Context<'_>,
    ) {
        let place = usize::from(partition.0);
        if let Some(watermark) = self.watermarks.get_mut(place) {
            *watermark = from.min(*watermark);
        }
        if let Some(floor) = self.floor.get_mut(place) {
            // What is recorded of it is of before.
            *floor = Sequence::ZERO;
        }
        self.past_watermarks.clear();
        let count = u32::try_from(self.sessions.len()).expect("session indexes are u32");
        for index in 0..count {
            let Some(session) = self.session_mut(index) else {
                continue;
            };
            let is_unchecked = session
                .outbound
                .as_ref()
                .is_some_and(|outbound| outbound.unchecked_anchor(partition).is_some());
            if is_unchecked {
                // It names what was known elsewhere, and is looked at by itself.
                continue;
            }
            lose_from(session, partition, from);
            // What is recorded of it from here on goes by what is known now, and so must its record. That
            // of one that follows the floor is of no account, unless it names what is gone.
            let is_to_record = is_certain || session.outbound.is_some() || !session.follows_floor;
            if session.stage == Stage::Online && session.is_persistent() && is_to_record {
                self.record_session(index, context);
            }
        }
        self.schedule_floor(context.now);
    }

    /// It is known what has become of the places of `partition` that a session names since it was
    /// restored: those from `from` on, if that is given, are used again.
    pub fn handle_checked(
        &mut self,
        index: u32,
        partition: PartitionId,
        anchor: Anchor,
        from: Option<Sequence>,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let Some(outbound) = &mut session.outbound else {
            return;
        };
        let before = outbound.unchecked.len();
        outbound.unchecked.retain(|unchecked| *unchecked != (partition, anchor));
        if outbound.unchecked.len() == before {
            // Of a session that had this place before.
            return;
        }
        if let Some(from) = from {
            lose_from(session, partition, from);
        }
        if session.stage == Stage::Online && session.is_persistent() {
            self.record_session(index, context);
        }
    }
}

fn lose_from(session: &mut Session, partition: PartitionId, from: Sequence) {
    if let Some(outbound) = &mut session.outbound {
        outbound.lose_from(partition, from);
    }
    for exchange in session.inbound.iter_mut().flat_map(|inbound| &mut inbound.qos2) {
        // Of which partition it speaks is not known; looking at more than needed finds the same.
        if let InboundStep::Intended(_, since) = &mut exchange.step {
            *since = from.min(*since);
        }
    }
}
