//! The embedded upstream as one shard sees it: its own log, and the way to the other shards'.
//!
//! No I/O: what is to be done to files, the storage thread and other shards is left in
//! [`Embedded::out`], for the node's handler to perform.

use super::log::{Log, LogIo, topic_hash};
use super::message::{Ask, NodeMessage, Question};
use super::replays::{ActiveReplay, Answer, Progress};
use super::store::fold::concerns_state;
use super::store::stored_sessions::StoredSessions;
use super::store::thread::StoreRequest;
use crate::proto::output::ShardIndex;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::InterestOwner;
use crate::proto::session::Ticket;
use crate::proto::shard_state::{AppendToken, Request, Upstream};
use crate::proto::time::Timestamp;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// What is to be done.
#[derive(Debug, Default)]
pub struct EmbeddedOut {
    /// To files, with the partition whose log asked.
    pub io: Vec<(PartitionId, LogIo)>,
    /// For the storage thread, in order.
    pub store: VecDeque<StoreRequest>,
    /// For other shards.
    pub messages: Vec<(ShardIndex, NodeMessage)>,
    /// For sessions of this shard.
    pub answers: Vec<(Ticket, Answer)>,
}

/// Limits of the embedded upstream, per shard.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedLimits {
    /// Bytes of other shards' chunks kept for sessions that noted messages of theirs.
    pub tail_bytes_max: usize,
    /// Requests waiting for the storage thread before publishers are held.
    pub store_queue_max: usize,
}

/// One shard's part of the embedded upstream.
pub struct Embedded {
    shard: ShardIndex,
    shard_count: u16,
    /// Of every partition of the node, up to where it is committed; each written by its shard only.
    ends: Arc<[AtomicU64]>,
    /// The shard's own log first, then those of partitions that no shard appends to any more.
    logs: Vec<Log>,
    limits: EmbeddedLimits,
    interest: InterestOwner,
    stored_sessions: Arc<StoredSessions>,
    tails: Vec<RemoteTail>,
    replays: Vec<ActiveReplay>,
    replays_ready: bool,
    volatile: Volatile,
    committed: Vec<Chunk>,
    io: Vec<LogIo>,
    /// Per partition of ours, how far the store holds it durably.
    folded: Vec<Sequence>,
    /// Per partition of ours, from where sessions need it.
    needed: Vec<Sequence>,
    /// What is to be done; taken by the handler.
    pub out: EmbeddedOut,
}

/// Recent chunks of another shard's partition.
#[derive(Debug, Default)]
struct RemoteTail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

/// QoS 0 messages of this sweep for other shards: each body once, and who gets which.
#[derive(Debug, Default)]
struct Volatile {
    bytes: Vec<u8>,
    offsets: Vec<Vec<u32>>,
}

impl Embedded {
    /// The upstream of `shard`. `logs` begins with the shard's own; `ends` holds, for every partition
    /// of the node by its id, the end of what is committed.
    #[must_use]
    pub fn new(
        shard: ShardIndex,
        shard_count: u16,
        ends: Arc<[AtomicU64]>,
        logs: Vec<Log>,
        interest: InterestOwner,
        stored_sessions: Arc<StoredSessions>,
        limits: EmbeddedLimits,
    ) -> Self {
        let remote = |_| RemoteTail::default();
        let folded = logs.iter().map(Log::committed_end).collect();
        let needed = logs.iter().map(Log::first_sequence).collect();
        Self {
            shard,
            shard_count,
            limits,
            interest,
            stored_sessions,
            tails: (0..ends.len()).map(remote).collect(),
            ends,
            replays: Vec::new(),
            replays_ready: false,
            volatile: Volatile {
                bytes: Vec::new(),
                offsets: (0..shard_count).map(|_| Vec::new()).collect(),
            },
            committed: Vec::new(),
            io: Vec::new(),
            folded,
            needed,
            logs,
            out: EmbeddedOut::default(),
        }
    }

    /// The shard that has the log of `partition`.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardIndex {
        ShardIndex(partition.0 % self.shard_count)
    }

    /// The logs of this shard with their committed ends.
    pub fn committed_ends(&self) -> impl Iterator<Item = (PartitionId, Sequence)> {
        self.logs.iter().map(|log| (log.partition(), log.committed_end()))
    }

    /// The shard's own log.
    #[must_use]
    pub fn own_log(&self) -> &Log {
        self.logs.first().expect("a shard has its own log")
    }

    /// When [`Embedded::flush`] is to be called at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        let timeouts = self.logs.iter().filter_map(Log::next_timeout);
        timeouts.min().unwrap_or(Timestamp::NEVER)
    }

    /// Everything appended is committed and everything asked for is answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.logs.iter().all(|log| log.uncommitted_bytes() == 0) && self.out.store.is_empty()
    }

    /// End of a sweep: gives what was gathered to the log and to other shards.
    pub fn flush(&mut self, now: Timestamp) {
        for log in &mut self.logs {
            let partition = log.partition();
            log.flush(now, &mut self.io, &mut self.committed);
            self.out.io.extend(self.io.drain(..).map(|io| (partition, io)));
        }
        self.send_volatile();
    }

    /// A request to a file was performed.
    pub fn handle_io(
        &mut self,
        partition: PartitionId,
        token: super::log::io::IoToken,
        result: Result<super::log::io::IoDone, super::log::io::IoFault>,
    ) {
        let Some(log) = self.logs.iter_mut().find(|log| log.partition() == partition) else {
            return;
        };
        log.handle_io(token, result, &mut self.io, &mut self.committed);
        self.out.io.extend(self.io.drain(..).map(|io| (partition, io)));
    }

    /// Chunks committed since the last call, in order. Each is to be given to
    /// [`Embedded::feed`].
    pub fn take_committed(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.committed)
    }

    /// Gives a committed chunk to the shards and to the storage thread it concerns, and `deliver`
    /// its messages.
    pub fn feed(
        &mut self,
        chunk: &Chunk,
        mut deliver: impl FnMut(&mut Self, Sequence, &Message<'_>),
    ) {
        if let Some(end) = self.ends.get(usize::from(chunk.partition.0)) {
            end.store(chunk.end().0, Ordering::Release);
            // See `feed_start`.
            fence(Ordering::SeqCst);
        }
        let mut offsets: Vec<Vec<u32>> = Vec::new();
        let mut concerned = Vec::new();
        for (sequence, body) in chunk.bodies() {
            let Some(record) = Record::decode(body) else {
                continue;
            };
            if concerns_state(&record) {
                concerned.push(sequence);
            }
            let Record::Message(message) = &record else {
                continue;
            };
            // QoS 0 went to everyone when it came; its record is for the retained value.
            if message.qos == crate::proto::mqtt::QoS::AtMostOnce {
                continue;
            }
            let offset = u32::try_from(sequence.0 - chunk.first.0).expect("chunks are below 4 GiB");
            for shard in shards_in(self.others_interested(message.topic)) {
                if offsets.is_empty() {
                    offsets.resize_with(usize::from(self.shard_count), Vec::new);
                }
                if let Some(offsets) = offsets.get_mut(shard) {
                    offsets.push(offset);
                }
            }
            deliver(self, sequence, message);
        }
        for (shard, offsets) in offsets.into_iter().enumerate() {
            if !offsets.is_empty() {
                let to = ShardIndex(u16::try_from(shard).expect("shards are counted by a u16"));
                let chunk = chunk.clone();
                self.out.messages.push((to, NodeMessage::Feed { chunk, offsets }));
            }
        }
        if !concerned.is_empty() {
            let apply = StoreRequest::Apply {
                shard: self.shard,
                chunk: chunk.clone(),
                sequences: concerned,
                folded_to: chunk.end(),
            };
            self.out.store.push_back(apply);
        }
    }

    /// A chunk of another shard: kept for a while, for sessions that only note its messages.
    pub fn keep_remote(&mut self, chunk: Chunk) {
        let tail_bytes_max = self.limits.tail_bytes_max;
        let Some(tail) = self.tails.get_mut(usize::from(chunk.partition.0)) else {
            return;
        };
        tail.bytes += chunk.bytes.len();
        tail.chunks.push_back(chunk);
        while tail.bytes > tail_bytes_max
            && let Some(oldest) = tail.chunks.pop_front()
        {
            tail.bytes -= oldest.bytes.len();
        }
    }

    /// A question of another shard, or of this one.
    pub fn ask(&mut self, ask: Ask) {
        let log = self.logs.iter().find(|log| log.partition() == ask.partition);
        if let Some(log) = log {
            let replay = ActiveReplay::new(log, ask);
            self.replays.push(replay);
        }
    }

    /// Reads on for sessions that are behind. To be called when everything committed was given to
    /// [`Embedded::feed`]: an answer that says "end at L" must not overtake what lies before L.
    pub fn advance_replays(&mut self) {
        debug_assert!(self.committed.is_empty(), "what is committed is fed first");
        let mut place = 0;
        self.replays_ready = false;
        while place < self.replays.len() {
            let Some(replay) = self.replays.get_mut(place) else {
                break;
            };
            let partition = replay.partition();
            let Some(log) = self.logs.iter_mut().find(|log| log.partition() == partition) else {
                self.replays.swap_remove(place);
                continue;
            };
            match replay.advance(log, &mut self.io) {
                Progress::Waits => place += 1,
                Progress::Yields => {
                    self.replays_ready = true;
                    place += 1;
                }
                Progress::Answers(asker, ticket, answer) => {
                    self.replays.swap_remove(place);
                    self.answer(asker, ticket, answer);
                }
            }
            self.out.io.extend(self.io.drain(..).map(|io| (partition, io)));
        }
    }

    /// A replay gave way to others and goes on with the next
    /// [`Embedded::advance_replays`].
    #[must_use]
    pub fn has_ready_replays(&self) -> bool {
        self.replays_ready
    }

    fn answer(&mut self, asker: ShardIndex, ticket: Ticket, answer: Answer) {
        if asker == self.shard {
            self.out.answers.push((ticket, answer));
            return;
        }
        let message = match answer {
            Answer::Replayed(replayed) => NodeMessage::Replayed(ticket, replayed),
            Answer::Fetched(partition, bodies) => NodeMessage::Fetched(ticket, partition, bodies),
        };
        self.out.messages.push((asker, message));
    }

    fn others_interested(&self, topic: &str) -> u64 {
        if self.shard_count == 1 {
            return 0;
        }
        self.interest.table().interested(topic) & !(1 << self.shard.0)
    }

    fn send_volatile(&mut self) {
        if self.volatile.bytes.is_empty() {
            return;
        }
        let bytes = Bytes::from(std::mem::take(&mut self.volatile.bytes));
        for (shard, offsets) in self.volatile.offsets.iter_mut().enumerate() {
            if offsets.is_empty() {
                continue;
            }
            let to = ShardIndex(u16::try_from(shard).expect("shards are counted by a u16"));
            let (bytes, offsets) = (bytes.clone(), std::mem::take(offsets));
            self.out.messages.push((to, NodeMessage::Volatile { bytes, offsets }));
        }
    }

    /// Tells the other shards how far this one's feed is.
    pub fn send_watermarks(&mut self) {
        let ends: Vec<_> = self.committed_ends().collect();
        for shard in (0..self.shard_count).filter(|shard| *shard != self.shard.0) {
            for &(partition, end) in &ends {
                let message = NodeMessage::Watermark { partition, end };
                self.out.messages.push((ShardIndex(shard), message));
            }
        }
    }

    /// This shard's sessions in memory need nothing of `partition` below `sequence`.
    pub fn note_needed(&mut self, partition: PartitionId, sequence: Sequence) {
        let shard = self.shard;
        self.out.store.push_back(StoreRequest::Needed { shard, partition, sequence });
    }

    /// The store holds `partition` durably up to `folded`; sessions need it from `needed` on.
    pub fn set_folded(&mut self, partition: PartitionId, folded: Sequence, needed: Sequence) {
        let Some(place) = self.logs.iter().position(|log| log.partition() == partition) else {
            return;
        };
        if let Some(slot) = self.folded.get_mut(place) {
            *slot = folded;
        }
        if let Some(slot) = self.needed.get_mut(place) {
            *slot = needed;
        }
    }

    /// Lets the storage thread know how far the own log is, also where no record concerned it, so
    /// that it can be trimmed.
    pub fn note_progress(&mut self) {
        let log = self.own_log();
        let end = log.committed_end();
        let chunk = Chunk { partition: log.partition(), first: end, bytes: Bytes::new() };
        self.out.store.push_back(StoreRequest::Apply {
            shard: self.shard,
            chunk,
            sequences: Vec::new(),
            folded_to: end,
        });
    }

    /// Drops segments that nobody needs.
    pub fn trim(&mut self, now: Timestamp) {
        for (place, log) in self.logs.iter_mut().enumerate() {
            let partition = log.partition();
            let folded = self.folded.get(place).copied().unwrap_or(Sequence::ZERO);
            let needed = self.needed.get(place).copied().unwrap_or(Sequence::ZERO);
            log.trim(needed, folded, now, &mut self.io);
            self.out.io.extend(self.io.drain(..).map(|io| (partition, io)));
        }
    }
}

impl Upstream for Embedded {
    fn append(&mut self, record: &Record<'_>) -> AppendToken {
        let hash = match record {
            Record::Message(message) => Some(topic_hash(message.topic)),
            Record::SessionPut(put) => {
                self.stored_sessions.add(put.client_id);
                None
            }
            _ => None,
        };
        let log = self.logs.first_mut().expect("a shard has its own log");
        let sequence = log.append(hash, |body| record.encode(body));
        AppendToken(sequence.0)
    }

    fn publish(&mut self, message: &Message<'_>) {
        let interested = self.others_interested(message.topic);
        if interested == 0 {
            return;
        }
        let volatile = &mut self.volatile;
        let at = u32::try_from(volatile.bytes.len()).expect("a sweep's messages are below 4 GiB");
        let length = u32::try_from(message.encoded_bytes()).expect("inside an MQTT packet");
        volatile.bytes.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut volatile.bytes);
        for shard in shards_in(interested) {
            if let Some(offsets) = volatile.offsets.get_mut(shard) {
                offsets.push(at);
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Session { ticket, client_id } => {
                let (shard, ticket) = (self.shard, pack(ticket));
                let client_id = client_id.into();
                self.out.store.push_back(StoreRequest::SessionGet { shard, ticket, client_id });
            }
            Request::Retained { id, filter, count_max } => {
                self.out.store.push_back(StoreRequest::Retained {
                    shard: self.shard,
                    ticket: id,
                    filters: vec![filter.into()],
                    max_count: count_max as usize,
                    page_bytes: RETAINED_PAGE_BYTES,
                });
            }
            Request::Replay { ticket, partition, from, filters, count_max } => {
                self.route(ticket, partition, Question::Replay { from, filters, count_max });
            }
            Request::Fetch { ticket, partition, sequences } => {
                self.route(ticket, partition, Question::Fetch { sequences });
            }
        }
    }

    fn add_interest(&mut self, filter: &str) {
        if self.shard_count > 1 {
            self.interest.add(filter);
        }
    }

    fn remove_interest(&mut self, filter: &str) {
        if self.shard_count > 1 {
            self.interest.remove(filter);
        }
    }

    fn may_have_session(&self, client_id: &str) -> bool {
        self.stored_sessions.may_have(client_id)
    }

    fn is_congested(&self) -> bool {
        let log = self.own_log();
        log.is_behind() || log.is_full() || self.out.store.len() >= self.limits.store_queue_max
    }

    fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes> {
        if let Some(log) = self.logs.iter().find(|log| log.partition() == partition) {
            return log.recent(sequence);
        }
        let tail = self.tails.get(usize::from(partition.0))?;
        let after = tail.chunks.partition_point(|chunk| chunk.end() <= sequence);
        tail.chunks.get(after)?.body_bytes(sequence)
    }

    fn feed_start(&self, partition: PartitionId) -> Sequence {
        // With the fence in `feed`: if this load misses an end, that shard's look at the interest
        // table, which follows the store of the end, sees what was added before this call.
        fence(Ordering::SeqCst);
        let end = self.ends.get(usize::from(partition.0));
        Sequence(end.map_or(0, |end| end.load(Ordering::Acquire)))
    }

    fn append_position(&self) -> (PartitionId, Sequence) {
        let log = self.own_log();
        (log.partition(), log.append_position())
    }
}

impl Embedded {
    fn route(&mut self, ticket: Ticket, partition: PartitionId, question: Question) {
        let ask = Ask { asker: self.shard, ticket, partition, question };
        let owner = self.owner(partition);
        if owner == self.shard {
            self.ask(ask);
        } else {
            self.out.messages.push((owner, NodeMessage::Ask(Box::new(ask))));
        }
    }
}

/// Bytes of retained messages in one answer of the store.
const RETAINED_PAGE_BYTES: usize = 256 * 1024;

/// A ticket as the storage thread carries it.
#[must_use]
pub fn pack(ticket: Ticket) -> u64 {
    (u64::from(ticket.session) << 32) | u64::from(ticket.epoch)
}

/// Undoes [`pack`].
#[must_use]
pub fn unpack(packed: u64) -> Ticket {
    let low = u32::try_from(packed & u64::from(u32::MAX)).expect("32 bits are left");
    let high = u32::try_from(packed >> 32).expect("32 bits are left");
    Ticket { session: high, epoch: low }
}

/// The shard numbers whose bits are set.
fn shards_in(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (bits != 0).then(|| {
            let shard = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            shard
        })
    })
}
