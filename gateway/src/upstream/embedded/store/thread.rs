//! The storage thread: the only one that touches the keyed store.
//!
//! Shards send requests through one bounded queue and go on; answers come back as messages.
//! Requests are handled in the order they came, so a read sees what was applied before it.

use super::fold::{SessionValue, TimerKind, concerns_state, fold, qos2_deltas, timer_of};
use super::retained::{self, Retained};
use super::state::KeyedState;
use super::{Space, StoreError};
use crate::proto::output::ShardIndex;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::record::Record;
use crate::proto::session::record::Qos2Delta;
use crate::proto::time::Timestamp;
use crate::upstream::embedded::log::files::{Files, perform};
use crate::upstream::embedded::log::{IoDone, IoFault, IoToken, LogIo};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

/// What a shard asks of the storage thread. `ticket` comes back with the answer.
#[derive(Clone, Debug)]
pub enum StoreRequest {
    /// Fold records that were committed. The partition's shard is told what is persisted.
    Apply {
        /// Who serves the partition.
        shard: ShardIndex,
        /// Committed records.
        chunk: Chunk,
        /// Those that matter ([`concerns_state`]), in order.
        sequences: Vec<Sequence>,
        /// Every record below was given, in this request or before, or does not matter.
        folded_to: Sequence,
    },
    /// A session's stored state.
    SessionGet {
        /// Who asks.
        shard: ShardIndex,
        /// Comes back.
        ticket: u64,
        /// Whose session.
        client_id: String,
    },
    /// The retained messages that match filters.
    Retained {
        /// Who asks.
        shard: ShardIndex,
        /// Comes back.
        ticket: u64,
        /// Answered one after the other.
        filters: Vec<String>,
        /// Messages given for one request.
        max_count: usize,
        /// Bytes of bodies in one answer; there may be several.
        page_bytes: usize,
    },
    /// All groups.
    Groups {
        /// Who asks.
        shard: ShardIndex,
        /// Comes back.
        ticket: u64,
    },
    /// What a shard's sessions in memory need of a partition. In one queue with the records of
    /// sessions, so that one is never seen to need nothing between memory and store.
    Needed {
        /// Whose sessions.
        shard: ShardIndex,
        /// Of which log.
        partition: PartitionId,
        /// Nothing below.
        sequence: Sequence,
    },
    /// Something to do to the files of a log that would block a shard.
    File {
        /// Who asks.
        shard: ShardIndex,
        /// Whose log.
        partition: PartitionId,
        /// What to do.
        request: LogIo,
    },
    /// Persist and end.
    Stop,
}

/// What the storage thread answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// To `SessionGet`.
    Session {
        /// Of the request.
        ticket: u64,
        /// What is stored.
        state: SessionState,
    },
    /// To `Retained`: one page.
    Retained {
        /// Of the request.
        ticket: u64,
        /// With the index of the filter that matched.
        messages: Vec<(usize, Retained)>,
        /// No page follows.
        last: bool,
        /// There were more than `max_count`.
        truncated: bool,
    },
    /// To `Groups`: names and records.
    Groups {
        /// Of the request.
        ticket: u64,
        /// All of them.
        groups: Vec<(String, Vec<u8>)>,
    },
    /// The store could not answer the request.
    Failed {
        /// Of the request.
        ticket: u64,
    },
    /// To `File`: for [`Log::handle_io`](crate::upstream::embedded::log::Log::handle_io).
    File {
        /// Whose log.
        partition: PartitionId,
        /// Of the request.
        token: IoToken,
        /// The outcome.
        result: Result<IoDone, IoFault>,
    },
    /// The fold is on disk up to here: the log may be trimmed.
    Folded {
        /// Whose log.
        partition: PartitionId,
        /// Everything below is in the store, durably.
        folded: Sequence,
        /// No session, stored or in memory, needs anything below.
        needed: Sequence,
    },
    /// A deadline of a session has come. Told once; it stays until a record moves it.
    Due {
        /// Whose session.
        client_id: String,
        /// [`TimerKind::Expiry`] or [`TimerKind::Will`].
        which: TimerKind,
        /// The deadline.
        at: Timestamp,
    },
}

/// What is stored of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionState {
    /// The last record, `None` when there is no session.
    pub found: Option<StoredSession>,
    /// Steps since.
    pub qos2: Vec<Qos2Delta>,
}

/// The last record of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When its will is due.
    pub will_at: Timestamp,
    /// Encoded by the session.
    pub record: Vec<u8>,
}

/// How the storage thread works.
pub struct ThreadConfig {
    /// Requests that wait at most; a shard that finds the queue full tries again later.
    pub queue_requests_max: usize,
    /// How often the store is persisted, and deadlines looked at. Default 1 s.
    pub persist_interval: Duration,
    /// The time.
    pub clock: Box<dyn Fn() -> Timestamp + Send>,
    /// How many shards there are.
    pub shards: u16,
    /// Where the session of a client id lives.
    pub shard_of: Box<dyn Fn(&str) -> ShardIndex + Send>,
}

/// Requests folded into one batch at most.
const BATCH_REQUESTS_MAX: usize = 1_024;
/// Changes the store has not taken; beyond, the thread takes no more requests until it has.
const CHANGES_MAX: usize = 65_536;
/// Deadlines announced in one go.
const DUE_MAX: usize = 1_024;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The running thread.
#[derive(Debug)]
pub struct StorageThread {
    requests: flume::Sender<StoreRequest>,
    thread: JoinHandle<()>,
}

impl StorageThread {
    /// Starts the thread. `files` are those of the logs, `None` where logs are in memory. `reply`
    /// is called on it for every answer and must not block.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn spawn(
        state: KeyedState,
        files: Option<Box<dyn Files + Send>>,
        config: ThreadConfig,
        reply: impl Fn(ShardIndex, StoreReply) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = flume::bounded(config.queue_requests_max);
        let mut worker = Storage::new(state, files, config, reply);
        let thread = std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || worker.run(&receiver))?;
        Ok(Self { requests: sender, thread })
    }

    /// Where requests go. `try_send` from a shard: it must not wait.
    #[must_use]
    pub fn requests(&self) -> flume::Sender<StoreRequest> {
        self.requests.clone()
    }

    /// Lets the thread finish what it was sent, persist, and end. Blocks.
    pub fn stop(self) {
        // A closed queue means that the thread has ended already.
        let _ = self.requests.send(StoreRequest::Stop);
        let _ = self.thread.join();
    }
}

/// What the thread does, without the thread: for tests, which call it step by step.
pub struct Storage {
    state: KeyedState,
    files: Option<Box<dyn Files + Send>>,
    config: ThreadConfig,
    reply: Box<dyn Fn(ShardIndex, StoreReply) + Send>,
    /// Which shard serves the partitions that were applied, and how far they are folded.
    owners: BTreeMap<PartitionId, (ShardIndex, Sequence)>,
    /// What sessions in memory need, by partition and shard.
    needed: BTreeMap<PartitionId, BTreeMap<ShardIndex, Sequence>>,
    /// Timers that were told to their shards and still stand.
    announced: BTreeSet<Vec<u8>>,
    failing: bool,
}

impl Storage {
    /// See [`StorageThread::spawn`].
    pub fn new(
        state: KeyedState,
        files: Option<Box<dyn Files + Send>>,
        config: ThreadConfig,
        reply: impl Fn(ShardIndex, StoreReply) + Send + 'static,
    ) -> Self {
        Self {
            state,
            files,
            config,
            reply: Box::new(reply),
            owners: BTreeMap::new(),
            needed: BTreeMap::new(),
            announced: BTreeSet::new(),
            failing: false,
        }
    }

    fn run(&mut self, requests: &flume::Receiver<StoreRequest>) {
        let mut persist_at = (self.config.clock)().after(self.config.persist_interval);
        let mut goes_on = true;
        while goes_on {
            let now = (self.config.clock)();
            if persist_at <= now {
                self.tick(now);
                persist_at = now.after(self.config.persist_interval);
            }
            let wait = Duration::from_millis(persist_at.millis_since(now));
            match requests.recv_timeout(wait) {
                Ok(first) => {
                    let more = requests.try_iter().take(BATCH_REQUESTS_MAX);
                    for request in std::iter::once(first).chain(more) {
                        goes_on &= self.handle(request);
                    }
                }
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => goes_on = false,
            }
            self.commit();
            while self.failing && goes_on && self.state.change_count() > CHANGES_MAX {
                std::thread::park_timeout(RETRY_INTERVAL);
                self.commit();
            }
        }
        self.persist();
    }

    /// What is due once a [`ThreadConfig::persist_interval`].
    pub fn tick(&mut self, now: Timestamp) {
        self.persist();
        self.announce_due(now);
    }

    /// Handles one request; false for the last one.
    pub fn handle(&mut self, request: StoreRequest) -> bool {
        match request {
            StoreRequest::Apply { shard, chunk, sequences, folded_to } => {
                self.apply(shard, &chunk, &sequences, folded_to);
            }
            StoreRequest::SessionGet { shard, ticket, client_id } => {
                let reply = self.session(&client_id);
                self.answer(
                    shard,
                    ticket,
                    reply.map(|state| StoreReply::Session { ticket, state }),
                );
            }
            StoreRequest::Retained { shard, ticket, filters, max_count, page_bytes } => {
                let result = self.retained(shard, ticket, &filters, max_count, page_bytes);
                self.answer(shard, ticket, result);
            }
            StoreRequest::Groups { shard, ticket } => {
                let reply = self.groups();
                self.answer(
                    shard,
                    ticket,
                    reply.map(|groups| StoreReply::Groups { ticket, groups }),
                );
            }
            StoreRequest::Needed { shard, partition, sequence } => {
                self.needed.entry(partition).or_default().insert(shard, sequence);
            }
            StoreRequest::File { shard, partition, request } => {
                let files = self.files.as_mut().expect("logs in memory have no files");
                let (token, result) = perform(files.as_mut(), &request);
                (self.reply)(shard, StoreReply::File { partition, token, result });
            }
            StoreRequest::Stop => return false,
        }
        true
    }

    fn answer(&mut self, shard: ShardIndex, ticket: u64, reply: Result<StoreReply, StoreError>) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.report(Err(error));
                StoreReply::Failed { ticket }
            }
        };
        (self.reply)(shard, reply);
    }

    fn apply(
        &mut self,
        shard: ShardIndex,
        chunk: &Chunk,
        sequences: &[Sequence],
        folded_to: Sequence,
    ) {
        let partition = chunk.partition;
        for &sequence in sequences {
            let record = chunk.body(sequence).and_then(Record::decode);
            let Some(record) = record.filter(concerns_state) else { continue };
            // A fold that cannot read the store must not be passed over: the records of this
            // partition stay unfolded on disk until it can.
            while let Err(error) = fold(&mut self.state, partition, sequence, &record) {
                self.report(Err(error));
                std::thread::park_timeout(RETRY_INTERVAL);
            }
            if let Record::SessionPut(put) = &record {
                // The shard counted it on its way; now the fold has.
                self.state.stored.remove(put.client_id);
            }
        }
        self.state.set_folded(partition, folded_to);
        self.owners.insert(partition, (shard, folded_to));
    }

    fn session(&self, client_id: &str) -> Result<SessionState, StoreError> {
        let value = self.state.get(Space::Sessions, client_id.as_bytes())?;
        let found = value.as_deref().and_then(SessionValue::decode).map(|session| StoredSession {
            expires_at: session.expires_at,
            will_at: session.will_at,
            record: session.record.to_vec(),
        });
        Ok(SessionState { found, qos2: qos2_deltas(&self.state, client_id)? })
    }

    /// Sends all pages but the last, which it returns.
    fn retained(
        &self,
        shard: ShardIndex,
        ticket: u64,
        filters: &[String],
        max_count: usize,
        page_bytes: usize,
    ) -> Result<StoreReply, StoreError> {
        let (mut page, mut bytes, mut count, mut truncated) = (Vec::new(), 0, 0, false);
        for (filter_index, filter) in filters.iter().enumerate() {
            retained::matching(&self.state, filter, &mut |message| {
                truncated = count == max_count;
                if truncated {
                    return false;
                }
                if bytes >= page_bytes {
                    let messages = std::mem::take(&mut page);
                    let page =
                        StoreReply::Retained { ticket, messages, last: false, truncated: false };
                    (self.reply)(shard, page);
                    bytes = 0;
                }
                bytes += message.body.len();
                count += 1;
                page.push((filter_index, message));
                true
            })?;
        }
        Ok(StoreReply::Retained { ticket, messages: page, last: true, truncated })
    }

    fn groups(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut groups = Vec::new();
        self.state.scan(Space::Groups, &[], &[], &mut |name, record| {
            if let Ok(name) = std::str::from_utf8(name) {
                groups.push((name.to_owned(), record.to_vec()));
            }
            true
        })?;
        Ok(groups)
    }

    fn commit(&mut self) {
        let result = self.state.commit();
        self.report(result);
    }

    fn persist(&mut self) {
        let result = self.state.persist();
        let persisted = result.is_ok();
        self.report(result);
        if persisted {
            for (partition, (shard, folded)) in std::mem::take(&mut self.owners) {
                let needed = self.needed(partition);
                (self.reply)(shard, StoreReply::Folded { partition, folded, needed });
            }
        }
    }

    /// What any session needs of a partition: all of it, until every shard has said what its
    /// sessions need.
    fn needed(&self, partition: PartitionId) -> Sequence {
        let in_memory = self.needed.get(&partition);
        let in_memory = in_memory.filter(|by| by.len() == usize::from(self.config.shards));
        let in_memory = in_memory.and_then(|by| by.values().min()).copied();
        let stored = self.state.lowest_needed(partition);
        in_memory.map_or(Sequence::ZERO, |lowest| stored.map_or(lowest, |one| one.min(lowest)))
    }

    /// Tells shards of deadlines that have come, and forgets retained messages that have ended.
    fn announce_due(&mut self, now: Timestamp) {
        let mut due = Vec::new();
        let mut standing = BTreeSet::new();
        let announced = &self.announced;
        let result = self.state.scan(Space::Timers, &[], &[], &mut |key, _| {
            let is_due = timer_of(key).is_some_and(|(at, _, _)| at <= now);
            if is_due && announced.contains(key) {
                standing.insert(key.to_vec());
            } else if is_due {
                due.push(key.to_vec());
            }
            is_due && due.len() < DUE_MAX
        });
        if let Err(error) = result {
            return self.report(Err(error));
        }
        // A scan cut short has not seen all that stand.
        if due.len() < DUE_MAX {
            self.announced = standing;
        }
        for key in due {
            let Some((at, which, name)) = timer_of(&key) else { continue };
            match which {
                TimerKind::Expiry | TimerKind::Will => {
                    let client_id = name.to_owned();
                    let shard = (self.config.shard_of)(&client_id);
                    (self.reply)(shard, StoreReply::Due { client_id, which, at });
                    self.announced.insert(key);
                }
                TimerKind::Retained => {
                    let result = retained::purge(&mut self.state, name, now);
                    if result.is_ok() {
                        self.state.delete(Space::Timers, key);
                    }
                    self.report(result);
                }
            }
        }
    }

    /// Logs changes between working and failing, not every failure.
    fn report(&mut self, result: Result<(), StoreError>) {
        match result {
            Ok(()) if self.failing => {
                tracing::info!("keyed store works again");
                self.failing = false;
            }
            Err(error) if !self.failing => {
                tracing::error!(%error, "keyed store fails, trying again");
                self.failing = true;
            }
            Ok(()) | Err(_) => {}
        }
    }
}
