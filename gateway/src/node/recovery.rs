//! From the data directory to logs and a keyed store that agree.

use crate::proto::partition::PartitionId;
use crate::proto::session::NEVER_EXPIRES;
use crate::proto::session::record::{self, Floor, Qos2Delta, SessionRecord};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::log::files::Files;
use crate::upstream::embedded::log::recover::partitions_in;
use crate::upstream::embedded::log::{Durability, Log, LogLimits, RecoveryReport, recover};
use crate::upstream::embedded::store::fold::SessionValue;
use crate::upstream::embedded::store::groups::{StoredGroup, stored_groups};
use crate::upstream::embedded::store::memory_store::MemoryStore;
use crate::upstream::embedded::store::needed::CursorsOf;
use crate::upstream::embedded::store::recover::{Replacement, fold_logs, settle_sessions};
use crate::upstream::embedded::store::state::KeyedState;
use crate::upstream::embedded::store::stored_sessions::StoredSessions;
use crate::upstream::embedded::store::{KeyedStore, Space, StoreError};
use std::collections::BTreeMap;
use std::io;

/// The node as the last boot left it.
pub struct Recovery {
    /// The log of every shard, and of every partition found, ascending.
    pub logs: Vec<Log>,
    /// The keyed state, with everything folded.
    pub state: KeyedState,
    /// The groups of shared subscriptions.
    pub groups: Vec<StoredGroup>,
}

/// What recovery has to know.
#[derive(Clone, Copy, Debug)]
pub struct RecoverySettings {
    /// How many shards there are now.
    pub shards: u16,
    /// Of the logs.
    pub durability: Durability,
    /// Of each log.
    pub limits: LogLimits,
    /// Messages are stored elsewhere: no cursor of a session is a place in these logs.
    pub sessions_only: bool,
    /// Of the filter that tells of whom a session may be stored.
    pub session_filter_bytes: usize,
    /// The time of this boot.
    pub now: Timestamp,
}

impl RecoverySettings {
    fn filter(&self) -> StoredSessions {
        StoredSessions::new(self.session_filter_bytes)
    }

    fn cursors_of(&self) -> CursorsOf {
        if self.sessions_only { |_, _| None } else { record::needed_of }
    }
}

/// Why there is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The files of the logs.
    #[error("log files: {0}")]
    Files(#[from] io::Error),
    /// The keyed store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another version of the gateway wrote it.
    #[error(
        "what is in it has format \"{found}\", and this version knows formats up to {known}: it was \
         left as it is; start the version that wrote it, or restore a backup from before"
    )]
    OtherFormat {
        /// What it says.
        found: String,
        /// What this version writes.
        known: u32,
    },
    /// Its sessions belong to messages elsewhere.
    #[error(
        "it was used with the upstream \"{found}\", and its sessions mean nothing to \"{wanted}\": \
         give this gateway another --data directory, or the upstream it had"
    )]
    OtherUpstream {
        /// What it was used with.
        found: String,
        /// What it was to be used with.
        wanted: &'static str,
    },
}

/// Per shard of the last boot, its floor.
type Floors = BTreeMap<u16, Floor>;

impl Recovery {
    /// Opens the logs, folds them into the store and settles the sessions that were online.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// The files or the store cannot be read or written.
    pub fn run(
        files: &mut dyn Files,
        store: Box<dyn KeyedStore>,
        settings: RecoverySettings,
    ) -> Result<Self, RecoveryError> {
        let logs = open_logs(files, settings)?;
        let mut state = KeyedState::open(store, settings.cursors_of(), settings.filter())?;
        let record_count = fold_logs(&mut state, files, &logs)?;
        let settled = settle(&mut state, settings.now)?;
        let groups = stored_groups(&mut state)?;
        tracing::info!(partitions = logs.len(), record_count, settled, "recovered");
        Ok(Self { logs, state, groups })
    }

    /// A node that keeps everything in memory: nothing to recover.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written.
    pub fn in_memory(settings: RecoverySettings) -> Result<Self, RecoveryError> {
        let logs = (0..settings.shards)
            .map(|shard| Log::in_memory(PartitionId(shard), settings.limits, settings.now))
            .collect();
        let store: Box<dyn KeyedStore> = Box::new(MemoryStore::default());
        let state = KeyedState::open(store, settings.cursors_of(), settings.filter())?;
        Ok(Self { logs, state, groups: Vec::new() })
    }
}

/// The log of every shard, and of every partition found: with fewer shards than before, some
/// are only read.
fn open_logs(files: &mut dyn Files, settings: RecoverySettings) -> io::Result<Vec<Log>> {
    let RecoverySettings { shards, durability, limits, now, .. } = settings;
    let mut partitions = partitions_in(&files.list()?);
    partitions.extend((0..shards).map(PartitionId));
    partitions.sort_unstable();
    partitions.dedup();
    let mut logs = Vec::new();
    for partition in partitions {
        let recovered = recover(files, partition, durability, limits, now)?;
        report(partition, &recovered.report);
        logs.push(recovered.log);
    }
    Ok(logs)
}

fn report(partition: PartitionId, report: &RecoveryReport) {
    let RecoveryReport { flaws, flawed_bytes, unreadable_segments, cut_bytes, .. } = *report;
    let partition = partition.0;
    if flaws > 0 || unreadable_segments > 0 {
        tracing::error!(
            partition,
            flaws,
            flawed_bytes,
            unreadable_segments,
            "damaged records in the log were left out: check the disk"
        );
    }
    if cut_bytes > 0 {
        tracing::info!(partition, cut_bytes, "cut off a write that was under way");
    }
}

/// Sessions that were online when the process ended are offline now: their wills are due, their
/// expiry runs from now on.
fn settle(state: &mut KeyedState, now: Timestamp) -> Result<u64, StoreError> {
    let floors = floors(state)?;
    settle_sessions(state, &mut |_, session, steps| settled(&session, steps, &floors, now))
}

fn floors(state: &KeyedState) -> Result<Floors, StoreError> {
    let mut floors = Floors::new();
    state.scan(Space::Floors, &[], &[], &mut |key, value| {
        if let Ok(shard) = key.try_into() {
            floors.insert(u16::from_be_bytes(shard), Floor::decode(value));
        }
        true
    })?;
    Ok(floors)
}

fn settled(
    session: &SessionValue<'_>,
    steps: &[Qos2Delta],
    floors: &Floors,
    now: Timestamp,
) -> Option<Replacement> {
    let mut record = SessionRecord::decode(session.record)?;
    if !record.online {
        return None;
    }
    let floor = record.floor_shard.and_then(|shard| floors.get(&shard));
    let nothing = Floor::default();
    record::settle(&mut record, floor.unwrap_or(&nothing));
    for step in steps.iter().filter(|step| step.is_shared()) {
        record.apply(*step);
    }
    let expires_at = match record.session_expiry_s {
        NEVER_EXPIRES => Timestamp::NEVER,
        seconds => now.after_seconds(seconds),
    };
    let will_at = record
        .will
        .as_ref()
        .map_or(Timestamp::NEVER, |will| now.after_seconds(will.delay_s).min(expires_at));
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    Some(Replacement { expires_at, will_at, record: bytes })
}
