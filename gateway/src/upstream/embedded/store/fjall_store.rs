//! The keyed store on disk.

use super::{Changes, KeyedStore, Space, StoreError};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;

/// Keys and values in fjall, a keyspace a [`Space`].
pub struct FjallStore {
    database: Database,
    keyspaces: [Keyspace; Space::ALL.len()],
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore").finish_non_exhaustive()
    }
}

impl FjallStore {
    /// Opens or creates the store in `directory`. `cache_bytes` is what its block cache may hold.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`]: another process has it open. [`StoreError::Engine`]: the directory
    /// cannot be used, or its content is damaged.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        // Writing the journal out is left to `persist`: the logs hold what it may lose.
        let database = Database::builder(directory)
            .cache_size(cache_bytes)
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => StoreError::InUse,
                error => error.into(),
            })?;
        let open = |space: Space| database.keyspace(space.name(), KeyspaceCreateOptions::default);
        let [a, b, c, d, e, f, g] = Space::ALL;
        let keyspaces = [open(a)?, open(b)?, open(c)?, open(d)?, open(e)?, open(f)?, open(g)?];
        Ok(Self { database, keyspaces })
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        let place = Space::ALL.iter().position(|other| *other == space);
        let keyspace = place.and_then(|place| self.keyspaces.get(place));
        keyspace.expect("there is a keyspace for every space")
    }
}

impl KeyedStore for FjallStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        // The engine refuses empty keys, so there is nothing under one.
        if key.is_empty() {
            return Ok(None);
        }
        Ok(self.keyspace(space).get(key)?.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        for guard in self.keyspace(space).range(prefix.max(from).to_vec()..) {
            let (key, value) = guard.into_inner()?;
            if !key.starts_with(prefix) || !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mut batch = self.database.batch();
        for ((space, key), value) in changes.iter().filter(|((_, key), _)| !key.is_empty()) {
            let keyspace = self.keyspace(*space);
            match value {
                Some(value) => batch.insert(keyspace, key.as_slice(), value.as_slice()),
                None => batch.remove(keyspace, key.as_slice()),
            }
        }
        Ok(batch.commit()?)
    }

    fn persist(&mut self) -> Result<(), StoreError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}
