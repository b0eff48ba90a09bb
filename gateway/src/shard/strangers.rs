//! What connections hold whose clients are not known yet, all of a node together.

use super::connections::State;
use super::engine::Shard;
use crate::config::SETUP_TLS_BYTES;
use crate::proto::handler::Handler;
use crate::proto::output::ConnectionId;
use ahash::AHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of a shard. Each connection has a limit of its own, and may reach it; this is for many of
/// them.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Of the connections that hold anything, by place.
    held: AHashMap<u32, u64>,
    /// What the handler keeps of those that wait for the word of who they are.
    kept: AHashMap<u32, u64>,
    /// Of all shards.
    total: Arc<AtomicU64>,
    bytes_max: u64,
}

impl Strangers {
    pub(super) fn new(total: Arc<AtomicU64>, bytes_max: u64) -> Self {
        Self { held: AHashMap::new(), kept: AHashMap::new(), total, bytes_max }
    }

    /// The connection at `index` holds `bytes` from now on. Returns whether it has more than before, and
    /// all together have too much.
    fn hold(&mut self, index: u32, bytes: u64) -> bool {
        let before = match bytes {
            0 => self.held.remove(&index),
            _ => self.held.insert(index, bytes),
        };
        let before = before.unwrap_or(0);
        if bytes <= before {
            self.total.fetch_sub(before - bytes, Ordering::Relaxed);
            if self.held.is_empty() {
                // As many as there were in a storm need not come again.
                self.held.shrink_to_fit();
                self.kept.shrink_to_fit();
            }
            return false;
        }
        let more = bytes - before;
        self.total.fetch_add(more, Ordering::Relaxed).saturating_add(more) > self.bytes_max
    }

    /// The handler keeps `bytes` of what the connection at `index` has said, until that is released. Returns
    /// whether all together have too much.
    pub(super) fn keep(&mut self, index: u32, bytes: u64) -> bool {
        self.kept.insert(index, bytes);
        self.hold(index, bytes)
    }

    /// The client of the connection at `index` is known, or the connection is gone.
    pub(super) fn release(&mut self, index: u32) {
        if !self.held.is_empty() {
            self.kept.remove(&index);
            self.hold(index, 0);
        }
    }
}

impl<H: Handler> Shard<H> {
    /// Counts what a connection holds, if its client is not known; whether it is to be closed for it.
    pub(super) fn is_one_too_many(&mut self, id: ConnectionId, state: State) -> bool {
        if state.any(State::ADOPTED.or(State::LINK).or(State::DEAD)) {
            return false;
        }
        let mut bytes = self.connections.partial_bytes(id.index) as u64;
        bytes += self.strangers.kept.get(&id.index).copied().unwrap_or(0);
        if state.any(State::SETTING_UP)
            && let Some(layers) = self.connections.layers(id.index)
        {
            bytes += layers.setup_bytes() as u64;
            bytes += if layers.has_begun() { SETUP_TLS_BYTES } else { 0 };
        }
        self.strangers.hold(id.index, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_than_before_is_too_much_for_the_node() {
        let total = Arc::new(AtomicU64::new(0));
        let mut shards = [(); 2].map(|()| Strangers::new(Arc::clone(&total), 100));
        let [first, second] = &mut shards;
        assert!(!first.hold(1, 60));
        assert!(!second.hold(1, 40), "at the limit");
        assert!(second.hold(2, 1), "beyond");
        assert!(!first.hold(1, 60), "no more than before");
        second.release(2);
        assert!(first.hold(1, 61));
        assert!(!first.hold(1, 30));
        assert!(!second.hold(1, 70));
        second.release(1);
        first.release(1);
        assert!(!second.keep(3, 100) && first.keep(3, 1), "who waits counts, too");
        first.release(3);
        second.release(3);
        first.release(7);
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(first.held.is_empty() && second.held.is_empty());
        assert!(first.kept.is_empty() && second.kept.is_empty());
    }
}
