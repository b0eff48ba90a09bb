//! Publishes with QoS 2 that wait until it is recorded under which name each is stored.

use super::inbox::Token;
use super::shard::JetStream;
use crate::proto::partition::{Lane, Sequence};
use crate::proto::shard_state::AppendToken;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

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
            let Some((place, token)) = self.held.make_ready(place, token) else {
                continue;
            };
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
            match self.held.where_is(place, token) {
                Some((place, token)) => self.end_append(place, token, Sequence::ZERO),
                None => self.cancel_held(token),
            }
        }
    }

    /// The session of a publish is no more here. What was never sent is for whoever has the session
    /// next: sent much later from here, it might be stored a second time.
    pub(super) fn abandon(&mut self, place: usize, token: Token) {
        let Some((place, token)) = self.held.where_is(place, token) else {
            self.cancel_held(token);
            return;
        };
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let append = partition.lane.get(token);
        if append.is_some_and(|append| append.sent.is_none()) {
            self.forget_search(place, token);
            self.end_append(place, token, Sequence::ZERO);
        }
    }

    /// Another gateway has these sessions, and their wills with them. What was never sent from here would
    /// be stored a second time, much later than servers remember names.
    pub(super) fn abandon_wills(&mut self, lost: &[Arc<str>]) {
        if self.wills.is_empty() || lost.is_empty() {
            return;
        }
        let lost: HashSet<&str> = lost.iter().map(|client_id| &**client_id).collect();
        let of_lost = self.wills.iter().filter(|(_, (client_id, _))| lost.contains(&**client_id));
        let mut tokens: Vec<(usize, Token)> = of_lost.map(|(key, _)| *key).collect();
        tokens.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
        for (place, token) in tokens {
            self.abandon(place, token);
        }
    }

    /// A link is back, and wills wait for it whose clients may be another gateway's by now. Those are
    /// published once it is known that they are not.
    pub(super) fn hold_back_wills(&mut self, place: usize) {
        let Self { partitions, wills, held, sessions: Some(sessions), now, .. } = self else {
            return;
        };
        let Some(partition) = partitions.get(place) else {
            return;
        };
        let is_unsent = |token| partition.lane.get(token).is_some_and(|one| one.sent.is_none());
        let is_in_doubt = |((at, token), (client_id, _)): &(&(usize, Token), &(Box<str>, _))| {
            let is_here = held
                .where_is(*at, *token)
                .is_some_and(|(at, token)| at == place && is_unsent(token));
            is_here && !sessions.is_held(client_id, *now)
        };
        let in_doubt = wills.iter().filter(is_in_doubt);
        let mut in_doubt: Vec<_> =
            in_doubt.map(|(key, (client_id, id))| (*key, client_id.clone(), *id)).collect();
        // The last first: what ends lets the next of its topic go out, which is not to go out either.
        in_doubt.sort_unstable_by_key(|(key, ..)| std::cmp::Reverse(*key));
        for ((place, token), client_id, id) in in_doubt {
            if self
                .sessions
                .as_mut()
                .is_some_and(|one| one.hold_back_will(&client_id, id, self.now))
            {
                self.wills.remove(&(place, token));
                self.abandon(place, token);
            }
        }
    }
}
