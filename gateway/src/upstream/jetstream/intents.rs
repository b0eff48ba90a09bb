//! Publishes with QoS 2 that wait until it is recorded under which name each is stored.

use super::inbox::Token;
use super::shard::JetStream;
use crate::proto::partition::{Lane, Sequence};
use crate::proto::shard_state::AppendToken;
use std::collections::{HashMap, VecDeque};

/// By the lane of the records, in order: number of the record, place of the partition, publish.
#[derive(Debug, Default)]
pub(super) struct Intents {
    lanes: HashMap<Lane, VecDeque<(u64, usize, Token)>, ahash::RandomState>,
}

impl Intents {
    /// A publish waits for `recorded`.
    pub(super) fn push(&mut self, recorded: AppendToken, place: usize, token: Token) {
        self.lanes.entry(recorded.lane).or_default().push_back((recorded.number, place, token));
    }

    fn pop(&mut self, recorded: AppendToken) -> Option<(usize, Token)> {
        let line = self.lanes.get_mut(&recorded.lane)?;
        let is_recorded = line.front().is_some_and(|(number, ..)| *number <= recorded.number);
        let first = if is_recorded { line.pop_front() } else { None };
        first.map(|(_, place, token)| (place, token))
    }

    fn remove(&mut self, recorded: AppendToken) -> Option<(usize, Token)> {
        let line = self.lanes.get_mut(&recorded.lane)?;
        let place = line.iter().position(|(number, ..)| *number == recorded.number)?;
        line.remove(place).map(|(_, place, token)| (place, token))
    }
}

impl JetStream {
    /// Records are committed up to `recorded` of its lane: what waited for them is sent.
    pub fn recorded(&mut self, recorded: AppendToken) {
        while let Some((place, token)) = self.intents.pop(recorded) {
            let Self { partitions, stored, now, .. } = self;
            if let Some(partition) = partitions.get_mut(place)
                && partition.lane.make_ready(token, *now)
                && partition.ready
            {
                partition.send(token, stored, *now);
            }
        }
    }

    /// The record is written nowhere, as the session is another gateway's: what waited for it is not
    /// sent.
    pub(super) fn cancel_intended(&mut self, recorded: AppendToken) {
        if let Some((place, token)) = self.intents.remove(recorded) {
            self.end_append(place, token, Sequence::ZERO);
        }
    }

    /// The session of a publish is no more here. What was never sent is for whoever has the session
    /// next: sent much later from here, it might be stored a second time.
    pub(super) fn abandon(&mut self, place: usize, token: Token) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let append = partition.lane.get(token);
        if append.is_some_and(|append| append.sent.is_none()) {
            partition.searches.retain(|search| search.token != token);
            self.end_append(place, token, Sequence::ZERO);
        }
    }
}
