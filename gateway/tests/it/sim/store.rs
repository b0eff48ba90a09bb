//! A keyed store that loses, in a crash, what was not persisted.

use gateway::upstream::embedded::store::memory_store::MemoryStore;
use gateway::upstream::embedded::store::{Changes, KeyedStore, Space, StoreError};
use std::sync::mpsc;

/// What a crash of the node leaves of its keyed store.
#[derive(Debug)]
pub(crate) struct Survivor {
    persisted: Changes,
    committed: mpsc::Receiver<Written>,
    /// Committed since the last persist.
    recent: Changes,
}

#[derive(Debug)]
enum Written {
    Committed(Changes),
    Persisted,
}

impl Survivor {
    /// An empty store, and what will survive of it.
    pub(crate) fn create() -> (Box<dyn KeyedStore>, Self) {
        Self::over(Changes::new())
    }

    fn over(persisted: Changes) -> (Box<dyn KeyedStore>, Self) {
        let (written, committed) = mpsc::channel();
        let mut memory = MemoryStore::default();
        memory.commit(&persisted).unwrap();
        let survivor = Self { persisted, committed, recent: Changes::new() };
        (Box::new(CrashingStore { memory, written }), survivor)
    }

    /// The store after the crash: what was committed and not persisted may be there or not.
    pub(crate) fn crash(mut self, keeps_recent: bool) -> (Box<dyn KeyedStore>, Self) {
        self.note();
        if keeps_recent {
            self.persisted.append(&mut self.recent);
        }
        Self::over(self.persisted)
    }

    /// Takes note of what the store has written; called now and then, to keep the queue short.
    pub(crate) fn note(&mut self) {
        while let Ok(written) = self.committed.try_recv() {
            match written {
                Written::Committed(mut changes) => self.recent.append(&mut changes),
                Written::Persisted => self.persisted.append(&mut self.recent),
            }
        }
    }
}

struct CrashingStore {
    memory: MemoryStore,
    written: mpsc::Sender<Written>,
}

impl KeyedStore for CrashingStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.memory.scan(space, prefix, from, visit)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        // Nobody listens any more once the node has crashed.
        let _ = self.written.send(Written::Committed(changes.clone()));
        self.memory.commit(changes)
    }

    fn persist(&mut self) -> Result<(), StoreError> {
        let _ = self.written.send(Written::Persisted);
        self.memory.persist()
    }
}
