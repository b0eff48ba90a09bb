//! The node ends: every client hears of it, so many a second that whoever takes them over can keep up,
//! and every session is saved. Source: MQTT 5.0 §4.11, §4.13.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::output::ConnectionId;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// Clients are told in batches.
const STEP: Duration = Duration::from_millis(50);
const STEPS_PER_S: u32 = 20;

/// How far the goodbyes are.
#[derive(Debug)]
pub(super) struct Goodbye {
    /// The next connection to look at.
    next: usize,
    due: Timestamp,
    is_over: bool,
    /// Only to those that cannot move to another process.
    to_those_that_stay: bool,
}

impl Goodbye {
    pub(super) fn to_those_that_stay(now: Timestamp) -> Self {
        Self { next: 0, due: now, is_over: false, to_those_that_stay: true }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn due(&self) -> Timestamp {
        if self.is_over { Timestamp::NEVER } else { self.due }
    }
}

impl ShardState {
    /// The node ends: begins to say goodbye to every client and to save every session. Sessions are
    /// safe once everything appended is committed.
    pub fn handle_shutdown(&mut self, context: &mut Context<'_>) {
        let (next, due, is_over, to_those_that_stay) = (0, context.now, false, false);
        self.goodbye = Some(Goodbye { next, due, is_over, to_those_that_stay });
        self.say_goodbye(context);
    }

    /// Whether clients are still to be told that the node ends.
    #[must_use]
    pub fn is_saying_goodbye(&self) -> bool {
        let mut to_all = self.goodbye.iter().filter(|goodbye| !goodbye.to_those_that_stay);
        to_all.any(|goodbye| !goodbye.is_over)
    }

    /// Why a CONNECT is not accepted, once the node ends.
    pub(super) fn refusal(&self) -> Option<ProtocolError> {
        let to_all = self.goodbye.as_ref().filter(|goodbye| !goodbye.to_those_that_stay);
        to_all.map(|_| self.farewell())
    }

    fn farewell(&self) -> ProtocolError {
        match self.limits.server_reference {
            Some(_) => ProtocolError::ServerMoved,
            None => ProtocolError::ServerShuttingDown,
        }
    }

    /// Tells the next clients, if it is time.
    pub(super) fn say_goodbye(&mut self, context: &mut Context<'_>) {
        let Some(goodbye) = self.goodbye.as_ref().filter(|goodbye| goodbye.due() <= context.now)
        else {
            return;
        };
        let (mut place, only_some) = (goodbye.next, goodbye.to_those_that_stay);
        let mut left = match self.limits.goodbyes_per_s {
            0 => u32::MAX,
            rate => rate.div_ceil(STEPS_PER_S),
        };
        let farewell = self.farewell();
        while left > 0
            && let Some(connection) = self.connections.get(place)
        {
            let index = u32::try_from(place).expect("connection indexes are u32");
            let id = ConnectionId { index, generation: connection.generation };
            place += 1;
            if only_some && self.is_movable(connection) {
                continue;
            }
            if !matches!(connection.stage, ConnectionStage::Vacant | ConnectionStage::Closing) {
                self.refuse(id, farewell, context);
                left -= 1;
            }
        }
        let is_over = place >= self.connections.len();
        if let Some(goodbye) = &mut self.goodbye {
            (goodbye.next, goodbye.is_over) = (place, is_over);
            goodbye.due = context.now.after(STEP);
        }
        if is_over && !only_some {
            self.record_floor(context);
        }
    }
}
