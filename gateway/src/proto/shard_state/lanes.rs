//! What waits for commits, in line: one line a lane.

use super::upstream::AppendToken;
use super::waiting::Waiting;
use super::{Context, ShardState};
use crate::proto::output::ConnectionId;
use crate::proto::partition::Lane;
use std::collections::VecDeque;

/// See [`Lane`]. The embedded upstream uses one; with JetStream there is one more a partition.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lines: Vec<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Everything up to here is committed.
    committed: u64,
    waiting: VecDeque<(u64, Waiting)>,
    /// Publishers that are not read until the lane has room.
    held: Vec<ConnectionId>,
}

impl Lanes {
    /// A token that is committed already.
    pub(super) fn committed(&self) -> AppendToken {
        let lane = Lane::LOCAL;
        let number = self.lines.get(usize::from(lane.0)).map_or(0, |line| line.committed);
        AppendToken { lane, number }
    }

    /// Whether everything up to `token` is committed.
    pub(super) fn is_committed(&self, token: AppendToken) -> bool {
        let line = self.lines.get(usize::from(token.lane.0));
        line.is_some_and(|line| token.number <= line.committed)
    }

    /// Whether nobody waits for a commit in any lane.
    pub(super) fn are_all_committed(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// The last token that someone waits for in a lane.
    pub(super) fn last(&self, lane: Lane) -> Option<AppendToken> {
        let (number, _) = self.lines.get(usize::from(lane.0))?.waiting.back()?;
        Some(AppendToken { lane, number: *number })
    }

    /// Notes a publisher that is not read any more.
    pub(super) fn hold(&mut self, lane: Lane, id: ConnectionId) {
        self.line(lane).held.push(id);
    }

    /// All lanes that were ever waited for.
    pub(super) fn all(&self) -> impl Iterator<Item = Lane> + use<> {
        (0..u16::try_from(self.lines.len()).expect("lanes are numbered by a u16")).map(Lane)
    }

    /// Whether anyone waits for room in `lane`.
    pub(super) fn holds_any(&self, lane: Lane) -> bool {
        self.lines.get(usize::from(lane.0)).is_some_and(|line| !line.held.is_empty())
    }

    /// The publishers held for `lane`; to be given back with [`Lanes::put_back_held`].
    pub(super) fn take_held(&mut self, lane: Lane) -> Vec<ConnectionId> {
        std::mem::take(&mut self.line(lane).held)
    }

    /// Those that are still held, before any that were added meanwhile.
    pub(super) fn put_back_held(&mut self, lane: Lane, mut held: Vec<ConnectionId>) {
        let line = self.line(lane);
        held.append(&mut line.held);
        line.held = held;
    }

    fn line(&mut self, lane: Lane) -> &mut Line {
        let place = usize::from(lane.0);
        if place >= self.lines.len() {
            self.lines.resize_with(place + 1, Line::default);
        }
        self.lines.get_mut(place).expect("just made")
    }

    fn pop(&mut self, token: AppendToken) -> Option<Waiting> {
        let line = self.line(token.lane);
        let (number, _) = line.waiting.front()?;
        if *number > token.number {
            return None;
        }
        line.waiting.pop_front().map(|(_, waiting)| waiting)
    }
}

impl ShardState {
    /// Performs `waiting` when `token` is committed.
    pub(super) fn wait_for(&mut self, token: AppendToken, waiting: Waiting) {
        self.lanes.line(token.lane).waiting.push_back((token.number, waiting));
    }

    /// Everything appended to a lane up to `token` is committed: answers go out.
    pub fn handle_appended(&mut self, token: AppendToken, context: &mut Context<'_>) {
        let line = self.lanes.line(token.lane);
        line.committed = line.committed.max(token.number);
        while let Some(waiting) = self.lanes.pop(token) {
            self.perform(waiting, context);
        }
        self.resume_held(context);
    }
}
