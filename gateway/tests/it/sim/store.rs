//! A keyed store that loses, in a crash, what was not persisted.

use gateway::upstream::embedded::store::memory_store::MemoryStore;
use gateway::upstream::embedded::store::{Changes, KeyedStore, Space, StoreError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

/// What a crash of the node leaves of its keyed store.
#[derive(Debug)]
pub(crate) struct Survivor {
    persisted: Changes,
    committed: mpsc::Receiver<Written>,
    /// Committed since the last persist.
    recent: Changes,
    /// So many reads fail from now on.
    pub(crate) failing_reads: Arc<AtomicU32>,
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
        let failing_reads = Arc::new(AtomicU32::new(0));
        let store = CrashingStore { memory, written, failing_reads: Arc::clone(&failing_reads) };
        (Box::new(store), Self { persisted, committed, recent: Changes::new(), failing_reads })
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
    failing_reads: Arc<AtomicU32>,
}

impl CrashingStore {
    fn read(&self) -> Result<(), StoreError> {
        let fewer = |count: u32| count.checked_sub(1);
        match self.failing_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer) {
            Ok(_) => Err(StoreError::Engine(std::io::Error::other("told to fail").into())),
            Err(_) => Ok(()),
        }
    }
}

impl KeyedStore for CrashingStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read()?;
        self.memory.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.read()?;
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
