//! The keyed store of `--durability memory`.

use super::{Changes, KeyedStore, Space, StoreError};
use std::collections::BTreeMap;

/// Keys and values in memory; nothing survives the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: BTreeMap<(Space, Vec<u8>), Vec<u8>>,
}

impl KeyedStore for MemoryStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values.get(&(space, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let start = (space, prefix.max(from).to_vec());
        for ((found, key), value) in self.values.range(start..) {
            if *found != space || !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        for (key, value) in changes {
            match value {
                Some(value) => self.values.insert(key.clone(), value.clone()),
                None => self.values.remove(key),
            };
        }
        Ok(())
    }

    fn persist(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
