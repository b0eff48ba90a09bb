//! The keyed state: a store and the changes that are not in it yet.

use super::needed::{CursorsOf, Needed};
use super::stored_sessions::StoredSessions;
use super::{Changes, KeyedStore, Space, StoreError};
use crate::proto::partition::{PartitionId, Sequence};
use crate::upstream::embedded::quota::Usage;
use std::ops::Bound;
use std::sync::Arc;

/// A store, with the changes of the batch being made on top.
pub struct KeyedState {
    store: Box<dyn KeyedStore>,
    changes: Changes,
    pub(super) needed: Needed,
    pub(super) cursors_of: CursorsOf,
    retained: Usage,
    pub(super) stored: Arc<StoredSessions>,
}

impl std::fmt::Debug for KeyedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedState").field("changes", &self.changes.len()).finish_non_exhaustive()
    }
}

const FORMAT_VERSION: u64 = 1;
const FORMAT_KEY: &[u8] = b"format";
/// Messages and bytes retained (u64 each, big endian).
const RETAINED_KEY: &[u8] = b"retained";
const FOLDED_PREFIX: &[u8] = b"folded/";

impl KeyedState {
    /// The state in `store`. Reads every session once, for the cursors of [`Needed`] and for
    /// `stored`, which has to be empty.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`], and [`StoreError::Format`] for the store of another version.
    pub fn open(
        store: Box<dyn KeyedStore>,
        cursors_of: CursorsOf,
        stored: StoredSessions,
    ) -> Result<Self, StoreError> {
        let needed = Needed::default();
        let (stored, retained) = (Arc::new(stored), Usage::default());
        let mut state =
            Self { store, changes: Changes::new(), needed, cursors_of, retained, stored };
        match state.get(Space::Meta, FORMAT_KEY)?.as_deref().and_then(u64_of) {
            None => state.put(Space::Meta, FORMAT_KEY.to_vec(), be(FORMAT_VERSION)),
            Some(FORMAT_VERSION) => {}
            Some(found) => return Err(StoreError::Format { found, known: FORMAT_VERSION }),
        }
        let mut needed = Needed::default();
        let stored = &state.stored;
        state.scan(Space::Sessions, &[], &[], &mut |key, value| {
            if let (Ok(client_id), Some(session)) =
                (std::str::from_utf8(key), super::fold::SessionValue::decode(value))
            {
                let mut cursors = Vec::new();
                let follows = cursors_of(session.record, &mut cursors);
                needed.add_session(follows, &cursors);
                stored.add(client_id);
            }
            true
        })?;
        state.needed = needed;
        state.retained = state.stored_usage()?;
        Ok(state)
    }

    /// How much is retained, as the store says; counted once for a store that does not say.
    fn stored_usage(&self) -> Result<Usage, StoreError> {
        if let Some(value) = self.get(Space::Meta, RETAINED_KEY)?
            && let Some((messages, bytes)) = value.split_at_checked(8)
            && let (Some(messages), Some(bytes)) = (u64_of(messages), u64_of(bytes))
        {
            return Ok(Usage { messages, bytes });
        }
        let mut sum = Usage::default();
        self.scan(Space::Retained, &[], &[], &mut |topic, value| {
            let topic = std::str::from_utf8(topic).unwrap_or_default();
            let one = super::retained::usage_of(topic, Some(value));
            sum = Usage { messages: sum.messages + one.messages, bytes: sum.bytes + one.bytes };
            true
        })?;
        Ok(sum)
    }

    /// What is retained for one topic changes. Stored with the change itself, so both are there
    /// after a crash or neither.
    pub(super) fn count_retained(&mut self, before: Usage, after: Usage) {
        let Usage { messages, bytes } = &mut self.retained;
        *messages = (*messages + after.messages).saturating_sub(before.messages);
        *bytes = (*bytes + after.bytes).saturating_sub(before.bytes);
        let value = [be(*messages), be(*bytes)].concat();
        self.put(Space::Meta, RETAINED_KEY.to_vec(), value);
    }

    /// How many messages are retained, and how large they are.
    #[must_use]
    pub fn retained_usage(&self) -> Usage {
        self.retained
    }

    /// A session is stored with this record.
    pub(super) fn session_added(&mut self, record: &[u8]) {
        let mut cursors = Vec::new();
        let follows = (self.cursors_of)(record, &mut cursors);
        self.needed.add_session(follows, &cursors);
    }

    /// A stored session had this record and is replaced or gone.
    pub(super) fn session_removed(&mut self, record: &[u8]) {
        let mut cursors = Vec::new();
        let follows = (self.cursors_of)(record, &mut cursors);
        self.needed.remove_session(follows, &cursors);
    }

    /// How many sessions are stored.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        self.needed.session_count()
    }

    /// The value of `key`, uncommitted changes included.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(&(space, key.to_vec())) {
            Some(change) => Ok(change.clone()),
            None => self.store.get(space, key),
        }
    }

    /// As [`KeyedStore::scan`], uncommitted changes included.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    pub fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let start = Bound::Included((space, prefix.max(from).to_vec()));
        let mut changes = self
            .changes
            .range((start, Bound::Unbounded))
            .take_while(|((found, key), _)| *found == space && key.starts_with(prefix))
            .map(|((_, key), value)| (key.as_slice(), value.as_deref()))
            .peekable();
        let mut goes_on = true;
        self.store.scan(space, prefix, from, &mut |key, value| {
            while goes_on && let Some((changed, new)) = changes.next_if(|(c, _)| *c < key) {
                goes_on = new.is_none_or(|new| visit(changed, new));
            }
            let change = changes.next_if(|(changed, _)| *changed == key);
            let shown = change.map_or(Some(value), |(_, new)| new);
            goes_on = goes_on && shown.is_none_or(|shown| visit(key, shown));
            goes_on
        })?;
        while goes_on && let Some((changed, new)) = changes.next() {
            goes_on = new.is_none_or(|new| visit(changed, new));
        }
        Ok(())
    }

    /// The keys that start with `prefix`.
    pub(super) fn keys(&self, space: Space, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut keys = Vec::new();
        self.scan(space, prefix, &[], &mut |key, _| {
            keys.push(key.to_vec());
            true
        })?;
        Ok(keys)
    }

    pub(super) fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert((space, key), Some(value));
    }

    pub(super) fn delete(&mut self, space: Space, key: Vec<u8>) {
        self.changes.insert((space, key), None);
    }

    /// How many changes are not committed.
    #[must_use]
    pub fn change_count(&self) -> usize {
        self.changes.len()
    }

    /// Commits all changes in one batch. After a failure they are still there, to be tried again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if !self.changes.is_empty() {
            self.store.commit(&self.changes)?;
            self.changes.clear();
        }
        Ok(())
    }

    /// Commits, and makes what was committed survive a crash.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    pub fn persist(&mut self) -> Result<(), StoreError> {
        self.commit()?;
        self.store.persist()
    }

    /// The position up to which the log of `partition` is folded, exclusive.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    pub fn folded(&self, partition: PartitionId) -> Result<Sequence, StoreError> {
        let value = self.get(Space::Meta, &folded_key(partition))?;
        Ok(Sequence(value.as_deref().and_then(u64_of).unwrap_or(0)))
    }

    pub(super) fn set_folded(&mut self, partition: PartitionId, to: Sequence) {
        self.put(Space::Meta, folded_key(partition), be(to.0));
    }

    /// Which client ids may have a stored session, kept current by the fold.
    #[must_use]
    pub fn stored_sessions(&self) -> Arc<StoredSessions> {
        Arc::clone(&self.stored)
    }

    /// Below which sequence of `partition` no offline session needs anything, `None` when none
    /// needs any.
    #[must_use]
    pub fn lowest_needed(&self, partition: PartitionId) -> Option<Sequence> {
        self.needed.lowest(partition)
    }
}

fn folded_key(partition: PartitionId) -> Vec<u8> {
    [FOLDED_PREFIX, &partition.0.to_be_bytes()].concat()
}

pub(super) fn be(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(super) fn u64_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}
