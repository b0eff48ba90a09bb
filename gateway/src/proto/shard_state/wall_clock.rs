//! Proofs that end, as tokens do, go by the wall clock, which may be set while the shard runs: everything
//! else here goes by a clock that never jumps.

use super::{ConnectionStage, Context, ShardState};
use crate::proto::output::ConnectionId;
use crate::proto::time::Timestamp;

impl ShardState {
    /// The wall clock was set: it is so many milliseconds ahead of the time of events, or behind.
    ///
    /// Whoever has a proof that ends is looked at when it does by now.
    pub fn handle_wall_clock(&mut self, ahead_ms: i64, context: &mut Context<'_>) {
        self.wall_ahead_ms = ahead_ms;
        let count = u32::try_from(self.connections.len()).expect("connections have u32 places");
        for index in 0..count {
            let Some(connection) = self.connections.get(index as usize).copied() else { continue };
            if connection.stage != ConnectionStage::Connected {
                continue;
            }
            let identity = self.session(connection.session).and_then(|one| one.identity.as_ref());
            if identity.is_some_and(|identity| identity.expires_at != Timestamp::NEVER) {
                let id = ConnectionId { index, generation: connection.generation };
                self.watch(connection.session, id, context.now);
            }
        }
    }

    /// A time of the wall clock as the time of events.
    pub(super) fn on_own_clock(&self, wall: Timestamp) -> Timestamp {
        match wall {
            Timestamp::NEVER => wall,
            Timestamp(ms) => {
                Timestamp(ms.saturating_add_signed(self.wall_ahead_ms.saturating_neg()))
            }
        }
    }
}
