//! Keyed state: sessions, QoS 2 steps, retained messages, groups, floors, timers.
//!
//! All of it is a fold of the logs ([`fold`]), made by one thread ([`thread`]) that no shard ever
//! waits for. Losing the store costs a longer recovery, not data, as long as the logs still hold
//! what was folded.

pub mod fjall_store;
pub mod fold;
pub mod groups;
pub mod memory_store;
pub mod needed;
pub mod recover;
pub mod retained;
pub mod state;
pub mod stored_sessions;
pub mod thread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// A family of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Positions up to which logs are folded, and the format version.
    Meta,
    /// Client id -> [`SessionValue`](fold::SessionValue).
    Sessions,
    /// Client id, direction, packet id -> step since the last session record.
    Qos2,
    /// Topic -> the last retained message, or that there is none since when.
    Retained,
    /// "ShareName/filter" -> record of the group; with a place, a message taken over by a member.
    Groups,
    /// Shard -> `(partition, sequence)` pairs as in [`Record::Floor`](crate::proto::record::Record).
    Floors,
    /// Deadline, kind, name -> nothing.
    Timers,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Meta,
        Self::Sessions,
        Self::Qos2,
        Self::Retained,
        Self::Groups,
        Self::Floors,
        Self::Timers,
    ];

    /// Its name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Sessions => "sessions",
            Self::Qos2 => "qos2",
            Self::Retained => "retained",
            Self::Groups => "groups",
            Self::Floors => "floors",
            Self::Timers => "timers",
        }
    }
}

/// What is to be written: a value, or `None` to delete.
pub type Changes = BTreeMap<(Space, Vec<u8>), Option<Vec<u8>>>;

/// The store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("in use by another gateway that runs: each needs a data directory of its own")]
    InUse,
    /// The engine or the disk failed.
    #[error("keyed store: {0}")]
    Engine(#[from] fjall::Error),
    /// The store was written by a version of the gateway that this one does not know.
    #[error("keyed store has format version {found}, this gateway knows {known}")]
    Format {
        /// As stored.
        found: u64,
        /// The only one known.
        known: u64,
    },
    /// A log could not be read while it was folded.
    #[error("log of partition {partition}: {error}")]
    Log {
        /// Whose log.
        partition: u16,
        /// What went wrong.
        error: std::io::Error,
    },
}

/// Ordered keys and values in a few spaces.
///
/// # Errors
///
/// Every method passes on the failure of the engine.
pub trait KeyedStore: Send {
    /// The value of `key`.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the keys that start with `prefix`, from `from` on, in order, while `visit` returns
    /// true.
    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;

    /// Writes all of `changes` or nothing. Durable after [`KeyedStore::persist`].
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError>;

    /// Makes what was committed survive a crash.
    fn persist(&mut self) -> Result<(), StoreError>;
}
