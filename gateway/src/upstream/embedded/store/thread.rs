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
use crate::upstream::embedded::quota::Quota;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What a shard asks of the storage thread. `ticket` comes back with the answer.
#[derive(Debug)]
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
    Retained(RetainedQuery),
    /// Whether a message of so many bytes may be retained for a topic.
    RetainedRoom {
        /// Who asks.
        shard: ShardIndex,
        /// Comes back.
        ticket: u64,
        /// Its topic name.
        topic: String,
        /// As [`Quota`] counts them.
        bytes: u64,
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
    /// Somebody looks at the state; answers by itself. Others wait meanwhile.
    Look(Look),
    /// Persist and end.
    Stop,
}

/// Reads the state and passes on what it found.
pub struct Look(pub Box<dyn FnOnce(&KeyedState) + Send>);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

/// A question for a page of retained messages.
#[derive(Clone, Debug)]
pub struct RetainedQuery {
    /// Who asks.
    pub shard: ShardIndex,
    /// Comes back.
    pub ticket: u64,
    /// Which.
    pub filter: String,
    /// `next` of the page before; empty for the first.
    pub from: String,
    /// Answered when every partition, by its id, is folded up to here.
    pub after: Vec<Sequence>,
    /// Messages in a page, at most.
    pub max_count: usize,
    /// Bytes of bodies that end a page.
    pub page_bytes: usize,
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
        /// In the order of their topics.
        messages: Vec<Retained>,
        /// Where the next page begins, unless this is the last.
        next: Option<String>,
    },
    /// To `RetainedRoom`.
    RetainedRoom {
        /// Of the request.
        ticket: u64,
        /// The topic has a retained message, which may be replaced, or there is room for one more.
        fits: bool,
    },
    /// The store could not answer the request.
    Failed {
        /// Of the request.
        ticket: u64,
        /// Which kind of request.
        asked: Asked,
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

/// What a request that failed had asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// [`StoreRequest::SessionGet`].
    Session,
    /// [`StoreRequest::Retained`].
    Retained,
    /// [`StoreRequest::RetainedRoom`].
    RetainedRoom,
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
    /// What the node may keep.
    pub quota: Arc<Quota>,
    /// Nothing outlives the process: what is folded counts as persisted at once, so that logs in
    /// memory are trimmed promptly.
    pub in_memory: bool,
    /// Where the session of a client id lives.
    pub shard_of: Box<dyn Fn(&str) -> ShardIndex + Send>,
}

/// Requests folded into one batch at most.
const BATCH_REQUESTS_MAX: usize = 1_024;
/// Changes the store has not taken; beyond, the thread takes no more requests until it has.
const CHANGES_MAX: usize = 65_536;
/// Deadlines announced in one go.
const DUE_MAX: usize = 1_024;
/// Questions for retained messages that wait for records to come. One more is answered with what
/// is there.
const EARLY_QUERIES_MAX: usize = 65_536;
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

/// See [`StoreReply::Folded`].
#[derive(Debug)]
struct Told {
    shard: ShardIndex,
    folded: Sequence,
    /// `None` when the shard must hear of `folded`.
    needed: Option<Sequence>,
}

/// What the thread does, without the thread: for tests, which call it step by step.
pub struct Storage {
    state: KeyedState,
    files: Option<Box<dyn Files + Send>>,
    config: ThreadConfig,
    reply: Box<dyn Fn(ShardIndex, StoreReply) + Send>,
    /// Which shard serves the partitions that were applied, and how far they are folded.
    owners: BTreeMap<PartitionId, (ShardIndex, Sequence)>,
    /// What the shards of all partitions were told last.
    told: BTreeMap<PartitionId, Told>,
    /// How far the partitions are folded that were applied since the start.
    folded: BTreeMap<PartitionId, Sequence>,
    /// Questions that are ahead of it.
    early_queries: Vec<RetainedQuery>,
    /// What sessions in memory need, by partition and shard.
    needed: BTreeMap<PartitionId, BTreeMap<ShardIndex, Sequence>>,
    /// Timers that were told to their shards and still stand.
    announced: BTreeSet<Vec<u8>>,
    failing: bool,
    /// Which quotas were full when they were looked at last: sessions, retained messages.
    full: [bool; 2],
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
            told: BTreeMap::new(),
            folded: BTreeMap::new(),
            early_queries: Vec::new(),
            needed: BTreeMap::new(),
            announced: BTreeSet::new(),
            failing: false,
            full: [false; 2],
        }
    }

    /// The keyed state, to look at.
    #[must_use]
    pub fn state(&self) -> &KeyedState {
        &self.state
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
            self.finish_batch();
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
        self.config.quota.set_retained(self.state.retained_usage());
        self.report_full();
    }

    /// Logs once a change when a quota of the node is full or no longer.
    fn report_full(&mut self) {
        let quota = &self.config.quota;
        let states = [
            ("sessions_max", quota.are_sessions_full()),
            ("retained_messages_max or retained_bytes_max", !quota.fits_beside_stored(1)),
        ];
        for ((limit, is_full), was_full) in states.into_iter().zip(&mut self.full) {
            match (std::mem::replace(was_full, is_full), is_full) {
                (false, true) => tracing::warn!(limit, "full: new ones are refused"),
                (true, false) => tracing::info!(limit, "has room again"),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Handles one request; false for the last one.
    pub fn handle(&mut self, request: StoreRequest) -> bool {
        match request {
            StoreRequest::Apply { shard, chunk, sequences, folded_to } => {
                self.apply(shard, &chunk, &sequences, folded_to);
            }
            StoreRequest::SessionGet { shard, ticket, client_id } => {
                let reply = self.session(&client_id);
                let reply = reply.map(|state| StoreReply::Session { ticket, state });
                self.answer(shard, (ticket, Asked::Session), reply);
            }
            StoreRequest::Retained(query) => {
                if is_early(&self.folded, &query) && self.early_queries.len() < EARLY_QUERIES_MAX {
                    self.early_queries.push(query);
                } else {
                    self.answer_retained(&query);
                }
            }
            StoreRequest::RetainedRoom { shard, ticket, topic, bytes } => {
                let known = retained::is_retained(&self.state, &topic);
                let reply = known.map(|known| StoreReply::RetainedRoom {
                    ticket,
                    fits: known || self.config.quota.fits_beside_stored(bytes),
                });
                self.answer(shard, (ticket, Asked::RetainedRoom), reply);
            }
            StoreRequest::Needed { shard, partition, sequence } => {
                self.needed.entry(partition).or_default().insert(shard, sequence);
            }
            StoreRequest::File { shard, partition, request } => {
                let files = self.files.as_mut().expect("logs in memory have no files");
                let (token, result) = perform(files.as_mut(), &request);
                (self.reply)(shard, StoreReply::File { partition, token, result });
            }
            StoreRequest::Look(Look(look)) => look(&self.state),
            StoreRequest::Stop => return false,
        }
        true
    }

    fn answer(
        &mut self,
        shard: ShardIndex,
        (ticket, asked): (u64, Asked),
        reply: Result<StoreReply, StoreError>,
    ) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.report(Err(error));
                StoreReply::Failed { ticket, asked }
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
            let retained_bytes = retained::retained_bytes(&record);
            // A fold that cannot read the store must not be passed over: the records of this
            // partition stay unfolded on disk until it can.
            while let Err(error) = fold(&mut self.state, partition, sequence, &record) {
                self.report(Err(error));
                std::thread::park_timeout(RETRY_INTERVAL);
            }
            // In this order: never too low.
            self.config.quota.set_retained(self.state.retained_usage());
            if let Some(bytes) = retained_bytes {
                self.config.quota.retained_folded(bytes);
            }
            if let Record::SessionPut(put) = &record {
                // The shard counted it on its way; now the fold has.
                self.state.stored.remove(put.client_id);
            }
        }
        self.state.set_folded(partition, folded_to);
        self.owners.insert(partition, (shard, folded_to));
        self.folded.insert(partition, folded_to);
        let waiting = std::mem::take(&mut self.early_queries);
        for query in waiting {
            match is_early(&self.folded, &query) {
                true => self.early_queries.push(query),
                false => self.answer_retained(&query),
            }
        }
    }

    fn answer_retained(&mut self, query: &RetainedQuery) {
        let reply = self.retained(query);
        self.answer(query.shard, (query.ticket, Asked::Retained), reply);
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

    fn retained(&self, query: &RetainedQuery) -> Result<StoreReply, StoreError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let mut take = |message: Retained| {
            bytes += message.body.len();
            messages.push(message);
            messages.len() < query.max_count && bytes < query.page_bytes
        };
        let next = retained::matching(&self.state, &query.filter, &query.from, &mut take)?;
        Ok(StoreReply::Retained { ticket: query.ticket, messages, next })
    }

    /// Commits what a few requests have changed; in memory that is also persisted.
    pub fn finish_batch(&mut self) {
        if self.config.in_memory {
            self.persist();
        } else {
            self.commit();
        }
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
            self.tell_progress();
        }
    }

    /// Tells the shards of partitions that were folded further, or are needed less: a session of
    /// any shard may have moved on.
    fn tell_progress(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        for (partition, (shard, folded)) in std::mem::take(&mut self.owners) {
            told.insert(partition, Told { shard, folded, needed: None });
        }
        for (partition, told) in &mut told {
            let needed = self.needed(*partition);
            if told.needed.replace(needed) != Some(needed) {
                let (partition, folded) = (*partition, told.folded);
                (self.reply)(told.shard, StoreReply::Folded { partition, folded, needed });
            }
        }
        self.told = told;
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

/// Whether records that the question is about are still to come.
fn is_early(folded: &BTreeMap<PartitionId, Sequence>, query: &RetainedQuery) -> bool {
    let known = |place| {
        let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
        folded.get(&partition).copied().unwrap_or(Sequence::ZERO)
    };
    query.after.iter().enumerate().any(|(place, end)| known(place) < *end)
}
