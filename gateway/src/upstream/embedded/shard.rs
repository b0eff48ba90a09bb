//! The embedded upstream as one shard sees it: its own log, and the way to the other shards'.
//!
//! No I/O: what is to be done to files, the storage thread and other shards is left in
//! [`Embedded::out`], for the node's handler to perform.

use super::ends::PartitionEnds;
use super::groups::group::GroupOut;
use super::groups::{GROUP_TICKET, GroupLimits, GroupPut, GroupReply, Groups, group_home};
use super::log::{Log, LogIo, topic_hash};
use super::message::{Ask, NodeMessage, Question};
use super::quota::Quota;
use super::replays::{ActiveReplay, Answer, Progress};
use super::store::fold::concerns_state;
use super::store::groups::StoredGroup;
use super::store::retained::retained_bytes;
use super::store::stored_sessions::StoredSessions;
use super::store::thread::{RetainedQuery, StoreRequest};
use crate::proto::histogram::Histogram;
use crate::proto::mqtt::QoS;
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::partition::{Chunk, Lane, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Record};
use crate::proto::routing::InterestOwner;
use crate::proto::session::shared::filter_of;
use crate::proto::session::{GroupId, Ticket};
use crate::proto::shard_state::inspect::GroupView;
use crate::proto::shard_state::{AppendToken, GroupRequest, Request, Upstream};
use crate::proto::time::Timestamp;
use bytes::Bytes;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

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
    /// From groups, for sessions of this shard.
    pub group_replies: Vec<GroupReply>,
}

/// Limits of the embedded upstream, per shard.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedLimits {
    /// Bytes of other shards' chunks kept for sessions that noted messages of theirs.
    pub tail_bytes_max: usize,
    /// Requests waiting for the storage thread before publishers are held.
    pub store_queue_max: usize,
    /// Of the groups of shared subscriptions.
    pub groups: GroupLimits,
    /// Bytes for one other shard that wait because its queue is full, before publishers are held.
    pub mesh_bytes_max: usize,
}

/// What all shards and the storage thread see.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Which client ids may have a stored session.
    pub stored_sessions: Arc<StoredSessions>,
    /// What is counted against the limits of the node.
    pub quota: Arc<Quota>,
}

/// One shard's part of the embedded upstream.
pub struct Embedded {
    shard: ShardIndex,
    shard_count: u16,
    /// Of every partition of the node, by its id.
    ends: Arc<[PartitionEnds]>,
    /// Behind the last retained message of the own log.
    retained_end: Sequence,
    /// The shard's own log first, then those of partitions that no shard appends to any more.
    logs: Vec<Log>,
    limits: EmbeddedLimits,
    shared: Shared,
    interest: InterestOwner,
    tails: Vec<RemoteTail>,
    replays: Vec<ActiveReplay>,
    replays_ready: bool,
    volatile: Volatile,
    groups: Groups,
    committed: Vec<Chunk>,
    io: Vec<LogIo>,
    /// Per partition of ours, how far the store holds it durably.
    folded: Vec<Sequence>,
    /// Per partition of ours, from where sessions need it.
    needed: Vec<Sequence>,
    /// By partition, from where this shard said last that its sessions need it.
    reported: Vec<Sequence>,
    /// The shards for which [`EmbeddedLimits::mesh_bytes_max`] wait, a bit each.
    mesh_full: u64,
    /// QoS 0 messages dropped because they were for such a shard, once for each. Since the start.
    pub mesh_dropped: u64,
    /// How long messages took to be committed, for metrics.
    pub commits: Histogram,
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
    /// The upstream of `shard`. `logs` begins with the shard's own; `ends` has every partition of the
    /// node by its id.
    #[must_use]
    pub fn new(
        shard: ShardIndex,
        shard_count: u16,
        ends: Arc<[PartitionEnds]>,
        logs: Vec<Log>,
        interest: InterestOwner,
        limits: EmbeddedLimits,
        shared: Shared,
    ) -> Self {
        let remote = |_| RemoteTail::default();
        let folded = logs.iter().map(Log::committed_end).collect();
        let needed = logs.iter().map(Log::first_sequence).collect();
        Self {
            shard,
            shard_count,
            limits,
            shared,
            interest,
            tails: (0..ends.len()).map(remote).collect(),
            groups: Groups::new(shard, shard_count, ends.len(), limits.groups),
            reported: vec![Sequence::ZERO; ends.len()],
            ends,
            retained_end: Sequence::ZERO,
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
            mesh_full: 0,
            mesh_dropped: 0,
            commits: Histogram::default(),
            out: EmbeddedOut::default(),
        }
    }

    /// The shard that has the log of `partition`.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> ShardIndex {
        ShardIndex(partition.0 % self.shard_count)
    }

    /// How much waits for each other shard because its queue is full.
    pub fn note_waiting(&mut self, waiting_bytes: impl Fn(ShardIndex) -> usize) {
        let full = (0..self.shard_count)
            .filter(|shard| waiting_bytes(ShardIndex(*shard)) >= self.limits.mesh_bytes_max);
        self.mesh_full = full.fold(0, |bits, shard| bits | 1 << shard);
    }

    /// Whether too much waits for any other shard.
    #[must_use]
    pub fn is_mesh_full(&self) -> bool {
        self.mesh_full != 0
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

    /// The shard's own log, and those of partitions that are left over.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter()
    }

    /// Bytes of other shards' logs that are in memory.
    #[must_use]
    pub fn remote_tail_bytes(&self) -> usize {
        self.tails.iter().map(|tail| tail.bytes).sum()
    }

    /// Whether publishers must wait.
    #[must_use]
    pub fn holds_publishers(&self) -> bool {
        let log = self.own_log();
        log.is_behind()
            || log.is_full()
            || self.is_mesh_full()
            || self.out.store.len() >= self.limits.store_queue_max
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
        if let Some(ends) = self.ends.get(usize::from(chunk.partition.0)) {
            // In this order: who finds these messages committed must find them retained too.
            ends.raise_retained(self.retained_end.min(chunk.end()));
            ends.set_committed(chunk.end());
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
            if message.qos == QoS::AtMostOnce {
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
            self.offer_to_groups(chunk, sequence, message);
        }
        self.groups.set_watermark(chunk.partition, chunk.end());
        self.groups.handle_committed(chunk.end());
        self.perform_groups();
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

    /// What earlier processes left of groups that this shard keeps; before anything is fed.
    pub fn restore_groups(&mut self, groups: Vec<StoredGroup>) {
        let starts = self.feed_starts();
        for group in groups {
            let filter: Box<str> = filter_of(&group.name).into();
            if self.groups.restore(group, starts.clone()) {
                self.add_interest(&filter);
            }
        }
    }

    /// A group of this shard is told something by `asker`, a shard.
    pub fn handle_group_request(&mut self, asker: ShardIndex, request: GroupRequest) {
        let group = if let GroupRequest::Join { name, .. } = &request {
            let group = self.groups.find(name).or_else(|| self.create_group(name));
            let put = self.groups.join(group, asker, &request);
            if let Some(put) = put {
                let token = self.append_group(&put);
                self.groups.set_join_token(Sequence(token.number));
            }
            group
        } else {
            self.groups.handle(asker, request)
        };
        if let Some(group) = group {
            self.drain_group(group);
            self.remove_group_if_over(group);
        }
        self.perform_groups();
    }

    /// A group without members yet. Its interest is set before its start is read: from there on
    /// it is fed everything.
    fn create_group(&mut self, name: &str) -> Option<GroupId> {
        let filter = filter_of(name);
        self.add_interest(filter);
        let starts = self.feed_starts();
        let created = self.groups.create(name, starts);
        // The tree counts filters, as interest does: one that was there has its interest already.
        if created.is_none_or(|(_, first)| !first) {
            self.remove_interest(filter);
        }
        created.map(|(group, _)| group)
    }

    fn feed_starts(&self) -> Vec<Sequence> {
        let count = u16::try_from(self.ends.len()).expect("partition ids are u16");
        (0..count).map(|place| self.feed_start(PartitionId(place))).collect()
    }

    fn remove_group_if_over(&mut self, group: GroupId) {
        let Some((name, durable, last)) = self.groups.remove_if_over(group) else {
            return;
        };
        if last {
            self.remove_interest(filter_of(&name));
        }
        if durable {
            self.append(&Record::GroupDelete { name: &name });
        }
    }

    fn append_group(&mut self, put: &GroupPut) -> AppendToken {
        self.append(&Record::GroupPut { name: &put.name, record: &put.bytes })
    }

    fn drain_group(&mut self, group: GroupId) {
        let Self { groups, logs, tails, .. } = self;
        groups.drain(group, &|partition, sequence| recent(logs, tails, partition, sequence));
    }

    /// A message of `chunk`, to the groups of this shard.
    pub fn offer_to_groups(&mut self, chunk: &Chunk, sequence: Sequence, message: &Message<'_>) {
        if !self.groups.is_empty() {
            let place = (chunk.partition, sequence);
            self.groups.offer(place, message, || chunk.body_bytes(sequence));
        }
    }

    /// A QoS 0 message, to the groups of this shard.
    pub fn offer_unacknowledged(&mut self, message: &Message<'_>) {
        if self.groups.is_empty() {
            return;
        }
        self.groups.offer_unacknowledged(message, || {
            let mut body = Vec::new();
            message.encode(&mut body);
            body.into()
        });
        self.perform_groups();
    }

    /// Groups of shared subscriptions that live here and get messages of `topic`.
    #[must_use]
    pub fn groups_of(&self, topic: &str) -> Vec<GroupView> {
        self.groups.matching(topic)
    }

    /// Another shard's partition was fed to here.
    pub fn handle_watermark(&mut self, partition: PartitionId, end: Sequence) {
        self.groups.set_watermark(partition, end);
        self.perform_groups();
    }

    /// An answer to a group's question goes to the group; any other is given back.
    pub fn take_group_answer(&mut self, ticket: Ticket, answer: Answer) -> Option<Answer> {
        let group = NonZeroU32::new(ticket.epoch).map(GroupId);
        let Some(group) = group.filter(|_| ticket.session == GROUP_TICKET) else {
            return Some(answer);
        };
        match answer {
            Answer::Replayed(replayed) => self.groups.handle_replayed(group, replayed),
            Answer::Fetched(partition, bodies) => {
                self.groups.handle_fetched(group, partition, bodies);
            }
        }
        self.drain_group(group);
        self.perform_groups();
        None
    }

    /// How often groups of this shard have lost messages to retention.
    #[must_use]
    pub fn groups_clamped(&self) -> u64 {
        self.groups.clamped()
    }

    /// How many groups this shard keeps.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Whether [`Embedded::record_groups`] may have something to do.
    #[must_use]
    pub fn have_groups_moved(&self) -> bool {
        self.groups.have_moved()
    }

    /// Records how far groups are.
    pub fn record_groups(&mut self) {
        for put in self.groups.puts() {
            self.append_group(&put);
        }
    }

    /// The lowest sequence of `partition` that a group of this shard still needs.
    #[must_use]
    pub fn needed_by_groups(&self, partition: PartitionId) -> Sequence {
        self.groups.needed(partition)
    }

    /// Does what groups want done.
    fn perform_groups(&mut self) {
        for out in std::mem::take(&mut self.groups.out) {
            match out {
                GroupOut::Reply(shard, reply) if shard == self.shard => {
                    self.out.group_replies.push(reply);
                }
                GroupOut::Reply(shard, reply) => {
                    self.out.messages.push((shard, NodeMessage::FromGroup(reply)));
                }
                GroupOut::Replay { group, partition, from, count_max } => {
                    let filters = self.groups.filter(group).map(Box::from).into_iter().collect();
                    let question = Question::Replay { from, filters, count_max };
                    self.route(group_ticket(group), partition, question);
                }
                GroupOut::Fetch { group, partition, sequences } => {
                    self.route(group_ticket(group), partition, Question::Fetch { sequences });
                }
            }
        }
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
        if let Some(reported) = self.reported.get_mut(usize::from(partition.0)) {
            *reported = sequence;
        }
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

    /// Whether the own log should be trimmed sooner than others are.
    pub fn wants_trim(&mut self) -> bool {
        self.logs.first_mut().is_some_and(Log::wants_trim)
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
            // The group will need it no more: from here on the session does, and says so first.
            Record::SharedSent { partition, sequence, .. } => {
                let reported = self.reported.get(usize::from(partition.0));
                if reported.is_some_and(|reported| sequence < reported) {
                    self.note_needed(*partition, *sequence);
                }
                None
            }
            Record::SessionPut(put) => {
                self.shared.stored_sessions.add(put.client_id);
                None
            }
            _ => None,
        };
        if let Some(bytes) = retained_bytes(record) {
            self.shared.quota.retained_appended(bytes);
        }
        let log = self.logs.first_mut().expect("a shard has its own log");
        let sequence = log.append(hash, |body| record.encode(body));
        if let Record::Message(message) = record
            && message.retain
        {
            self.note_retained(sequence, message.qos);
        }
        AppendToken { lane: Lane::LOCAL, number: sequence.0 }
    }

    fn append_named(&mut self, message: &Message<'_>, _id: MessageId) -> AppendToken {
        self.append(&Record::Message(*message))
    }

    /// This log holds the message itself, not a name for it.
    fn append_again(
        &mut self,
        message: &Message<'_>,
        _id: MessageId,
        _from: Sequence,
    ) -> AppendToken {
        self.append(&Record::Message(*message))
    }

    fn can_store(&self, _message: &Message<'_>) -> bool {
        true
    }

    fn publish(&mut self, message: &Message<'_>) {
        self.offer_unacknowledged(message);
        let interested = self.others_interested(message.topic);
        self.mesh_dropped += u64::from((interested & self.mesh_full).count_ones());
        let interested = interested & !self.mesh_full;
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
            Request::Session { ticket, client_id, session_use: _, user: _ } => {
                let (shard, ticket) = (self.shard, pack(ticket));
                let client_id = client_id.into();
                self.out.store.push_back(StoreRequest::SessionGet { shard, ticket, client_id });
            }
            Request::Retained { id, filter, from, after, count_max } => {
                self.out.store.push_back(StoreRequest::Retained(RetainedQuery {
                    shard: self.shard,
                    ticket: id,
                    filter: filter.into(),
                    from: from.into(),
                    after,
                    max_count: count_max as usize,
                    page_bytes: RETAINED_PAGE_BYTES,
                }));
            }
            Request::RetainedRoom { connection, topic, bytes } => {
                self.out.store.push_back(StoreRequest::RetainedRoom {
                    shard: self.shard,
                    ticket: pack_connection(connection),
                    topic: topic.into(),
                    bytes,
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

    fn tell_group(&mut self, request: GroupRequest) {
        let owner = match &request {
            GroupRequest::Join { name, .. }
            | GroupRequest::Part { name, .. }
            | GroupRequest::Forget { name } => group_home(name, self.shard_count),
            GroupRequest::Settled { group, .. } | GroupRequest::Return { group, .. } => {
                Groups::owner(*group, self.shard_count)
            }
        };
        if owner == self.shard {
            self.handle_group_request(owner, request);
        } else {
            self.out.messages.push((owner, NodeMessage::ToGroup(self.shard, request)));
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
        self.shared.stored_sessions.may_have(client_id)
    }

    fn interest_in_force(&mut self) -> Option<AppendToken> {
        None
    }

    fn is_congested(&self, _lane: Lane) -> bool {
        self.holds_publishers()
    }

    fn reserve_session(&mut self) -> bool {
        self.shared.quota.reserve_session()
    }

    fn release_session(&mut self) {
        self.shared.quota.release_session();
    }

    fn has_retained_room(&self, message: &Message<'_>) -> bool {
        retained_bytes(&Record::Message(*message))
            .is_none_or(|bytes| self.shared.quota.has_retained_room(bytes))
    }

    fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes> {
        recent(&self.logs, &self.tails, partition, sequence)
    }

    fn feed_start(&self, partition: PartitionId) -> Sequence {
        let ends = self.ends.get(usize::from(partition.0));
        ends.map_or(Sequence::ZERO, PartitionEnds::committed)
    }

    fn retained_end(&self, partition: PartitionId) -> Sequence {
        let ends = self.ends.get(usize::from(partition.0));
        ends.map_or(Sequence::ZERO, PartitionEnds::retained)
    }

    fn own_partition(&self) -> Option<PartitionId> {
        Some(self.own_log().partition())
    }
}

impl Embedded {
    /// A retained message was appended to the own log. One of QoS 0 is delivered before it is
    /// committed, so a subscription may come too late for that and has to wait for the store.
    fn note_retained(&mut self, sequence: Sequence, qos: QoS) {
        self.retained_end = Sequence(sequence.0 + 1);
        let ends = self.ends.get(usize::from(self.own_log().partition().0));
        if let Some(ends) = ends.filter(|_| qos == QoS::AtMostOnce) {
            ends.raise_retained(self.retained_end);
        }
    }

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

/// The body of a recent record, if it is still in memory.
fn recent(
    logs: &[Log],
    tails: &[RemoteTail],
    partition: PartitionId,
    sequence: Sequence,
) -> Option<Bytes> {
    if let Some(log) = logs.iter().find(|log| log.partition() == partition) {
        return log.recent(sequence);
    }
    let tail = tails.get(usize::from(partition.0))?;
    let after = tail.chunks.partition_point(|chunk| chunk.end() <= sequence);
    tail.chunks.get(after)?.body_bytes(sequence)
}

fn group_ticket(group: GroupId) -> Ticket {
    Ticket { session: GROUP_TICKET, epoch: group.0.get() }
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

/// A connection as the storage thread carries it.
fn pack_connection(id: ConnectionId) -> u64 {
    pack(Ticket { session: id.index, epoch: id.generation })
}

/// Undoes `pack_connection`.
#[must_use]
pub fn unpack_connection(packed: u64) -> ConnectionId {
    let Ticket { session, epoch } = unpack(packed);
    ConnectionId { index: session, generation: epoch }
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
