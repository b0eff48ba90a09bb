//! A whole node without sockets, threads or a clock: bytes in, bytes out, faults from a seed.
//!
//! [`SimNode`] drives the real shards ([`ShardCore`]), the real logs over [`FaultyFiles`] and the real
//! keyed state, one event at a time. Conformance tests send literal bytes to it; simulations
//! crash it between any two file operations.

mod smoke;
mod store;
pub(crate) mod transcript;

use gateway::node::core::ShardCore;
use gateway::node::recovery::{Recovery, RecoverySettings};
use gateway::node::{committed_ends, embedded_shards};
use gateway::proto::access::{Authentication, AuthenticationRequest, Challenge, Recheck, Refusal};
use gateway::proto::handler::{Dial, Io, Origin};
use gateway::proto::limits::Limits;
use gateway::proto::output::{Action, ConnectionId, ShardIndex};
use gateway::proto::partition::PartitionId;
use gateway::proto::shard_state::{ShardState, home_shard};
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::groups::GroupLimits;
use gateway::upstream::embedded::log::faulty_files::FaultyFiles;
use gateway::upstream::embedded::log::files::perform;
use gateway::upstream::embedded::log::{Durability, LogIo, LogLimits};
use gateway::upstream::embedded::message::NodeMessage;
use gateway::upstream::embedded::quota::{Quota, QuotaLimits};
use gateway::upstream::embedded::shard::{EmbeddedLimits, Shared};
use gateway::upstream::embedded::store::KeyedStore;
use gateway::upstream::embedded::store::thread::{Storage, StoreReply, StoreRequest, ThreadConfig};
use gateway::upstream::jetstream::control::ControlNews;
use gateway::upstream::jetstream::shard::{JetStream, JetStreamSettings};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use store::Survivor;
use transcript::{Event, Transcript};

/// What the client of a first message has to prove.
pub(crate) type Challenging = fn(&[u8]) -> Result<Challenge, Refusal>;

/// How a node is made.
#[derive(Clone)]
pub(crate) struct SimSettings {
    pub(crate) shards: u16,
    pub(crate) durability: Durability,
    pub(crate) limits: Limits,
    pub(crate) log_limits: LogLimits,
    pub(crate) groups: GroupLimits,
    pub(crate) quota_limits: QuotaLimits,
    pub(crate) seed: u64,
    /// Who clients are, if `limits.authenticate` lets it be asked.
    pub(crate) authenticate: Option<fn(&AuthenticationRequest) -> Authentication>,
    /// What clients have to prove that begin SCRAM-SHA-256 with these bytes.
    pub(crate) challenge: Option<Challenging>,
    /// With JetStream: the upstream of the one shard, by the number of the boot.
    pub(crate) jetstream: Option<fn(&Self, u64) -> JetStreamSettings>,
}

impl Default for SimSettings {
    fn default() -> Self {
        Self {
            shards: 1,
            durability: Durability::Memory,
            limits: Limits::default(),
            log_limits: LogLimits::default(),
            groups: GroupLimits::default(),
            quota_limits: QuotaLimits::default(),
            seed: 1,
            authenticate: None,
            challenge: None,
            jetstream: None,
        }
    }
}

/// A connection of a scripted client. Stays valid after it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SimClient(usize);

struct Socket {
    shard: usize,
    id: ConnectionId,
    open: bool,
    held: bool,
    /// Sent by the client and not consumed.
    inbound: Vec<u8>,
    /// Sent to the client and not taken by the test.
    outbound: Vec<u8>,
    /// The client reads nothing: its outbox fills.
    stalled: bool,
}

struct SimShard {
    core: ShardCore,
    io: Io<NodeMessage>,
}

/// Where a simulated crash keeps what survives: files, and the time.
pub(crate) struct SimNode {
    pub(crate) settings: SimSettings,
    now: Arc<AtomicU64>,
    pub(crate) files: FaultyFiles,
    shards: Vec<SimShard>,
    storage: Storage,
    pub(crate) quota: Arc<Quota>,
    survivor: Survivor,
    replies: mpsc::Receiver<(ShardIndex, StoreReply)>,
    sockets: Vec<Socket>,
    next_index: u32,
    /// File operations asked for and not performed, in order.
    pub(crate) pending_io: VecDeque<(usize, PartitionId, LogIo)>,
    store_requests: VecDeque<StoreRequest>,
    /// File operations are left in `pending_io` instead of being performed at once.
    pub(crate) holds_io: bool,
    /// Questions who clients are that nobody has answered.
    questions: VecDeque<(usize, AuthenticationRequest)>,
    /// They are left there instead of being answered at once.
    pub(crate) holds_answers: bool,
    /// The queues between shards are full: nothing gets from one to another.
    pub(crate) mesh_is_full: bool,
    sessions_asked_for: u64,
    boot: u64,
    /// How often a shard wanted to be called at a time of its own.
    pub(crate) timeout_count: u64,
    transcript: Transcript,
}

/// Bytes that wait for a shard before publishers are held.
pub(crate) const SIM_MESH_BYTES_MAX: usize = 65_536;

/// More than this must not follow from one event.
const ROUNDS_MAX: u32 = 100_000;

pub(crate) const START_MS: u64 = 1_700_000_000_000;

impl SimNode {
    /// One shard, in memory.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::with(SimSettings::default())
    }

    #[track_caller]
    pub(crate) fn with(settings: SimSettings) -> Self {
        let files = FaultyFiles::new(settings.seed);
        let transcript = Transcript::new(&settings, Location::caller());
        let start = Arc::new(AtomicU64::new(START_MS));
        Self { transcript, ..Self::boot(settings, files, Survivor::create(), start, 0) }
    }

    fn boot(
        settings: SimSettings,
        mut files: FaultyFiles,
        (store, survivor): (Box<dyn KeyedStore>, Survivor),
        now: Arc<AtomicU64>,
        boot: u64,
    ) -> Self {
        let count = settings.shards;
        let time = Timestamp(now.load(Ordering::Relaxed));
        let recovery = RecoverySettings {
            sessions_only: settings.jetstream.is_some(),
            shards: count,
            durability: settings.durability,
            limits: settings.log_limits,
            session_filter_bytes: 1_024,
            now: time,
        };
        let Recovery { logs, state, groups } = if settings.durability == Durability::Memory {
            Recovery::in_memory(recovery).unwrap()
        } else {
            Recovery::run(&mut files, store, recovery).unwrap()
        };
        let (sender, replies) = mpsc::channel();
        let clock = Arc::clone(&now);
        let (sessions, retained) = (state.session_count(), state.retained_usage());
        let quota = Arc::new(Quota::new(settings.quota_limits, sessions, retained));
        let config = ThreadConfig {
            queue_requests_max: 1_024,
            persist_interval: Duration::from_secs(1),
            clock: Box::new(move || Timestamp(clock.load(Ordering::Relaxed))),
            shards: count,
            quota: Arc::clone(&quota),
            in_memory: settings.durability == Durability::Memory,
            shard_of: Box::new(move |client_id| home_shard(client_id, count)),
        };
        let stored_sessions = state.stored_sessions();
        let storage = Storage::new(state, None, config, move |shard, reply| {
            sender.send((shard, reply)).unwrap();
        });
        let ends = committed_ends(&logs);
        let limits = EmbeddedLimits {
            tail_bytes_max: 1 << 20,
            store_queue_max: 1_024,
            groups: settings.groups,
            mesh_bytes_max: SIM_MESH_BYTES_MAX,
        };
        let shared = Shared { stored_sessions, quota: Arc::clone(&quota) };
        let upstreams = embedded_shards(count, logs, groups, 1_024, limits, &shared);
        let shards = upstreams.into_iter().enumerate().map(|(index, upstream)| {
            let shard = ShardIndex(u16::try_from(index).unwrap());
            // What is drawn names things that others know for longer than this process lives.
            let boots = if settings.jetstream.is_some() { boot << 32 } else { 0 };
            let seed = settings.seed ^ index as u64 ^ boots;
            let state = ShardState::new(shard, count, settings.limits.clone(), seed, time);
            let core = match settings.jetstream {
                None => ShardCore::new(state, upstream, &ends),
                Some(make) => {
                    let links = JetStream::new(&make(&settings, boot), seed ^ boot);
                    ShardCore::with_jetstream(state, upstream, Box::new(links))
                }
            };
            SimShard { core, io: Io::new(shard, count, time) }
        });
        Self {
            now,
            files,
            shards: shards.collect(),
            storage,
            quota,
            survivor,
            replies,
            sockets: Vec::new(),
            next_index: 0,
            pending_io: VecDeque::new(),
            store_requests: VecDeque::new(),
            holds_io: false,
            questions: VecDeque::new(),
            holds_answers: false,
            mesh_is_full: false,
            sessions_asked_for: 0,
            boot,
            timeout_count: 0,
            transcript: Transcript::default(),
            settings,
        }
    }

    /// The process dies here: unsynced writes are lost, connections are gone, and it starts again.
    pub(crate) fn crash(mut self) -> Self {
        self.files.crash();
        let keeps_recent = self.files.below(2) == 0;
        let Self { settings, files, survivor, now, boot, .. } = self;
        Self::boot(settings, files, survivor.crash(keeps_recent), now, boot + 1)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::Relaxed))
    }

    /// A client connects, to shard 0.
    pub(crate) fn connect(&mut self) -> SimClient {
        self.connect_to(0)
    }

    pub(crate) fn connect_to(&mut self, shard: usize) -> SimClient {
        let (client, id) = self.add_socket(shard);
        self.transcript.note(Event::Opens(client));
        let at = &mut self.shards[shard];
        at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
        at.core.opened(id, &mut at.io);
        self.run();
        client
    }

    /// A client connects from an address, to shard 0.
    pub(crate) fn connect_from(&mut self, address: IpAddr) -> SimClient {
        self.transcript.stop();
        let (client, id) = self.add_socket(0);
        let at = &mut self.shards[0];
        at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
        at.core.note_origin(id, Origin::tcp((address, 1_883).into()));
        at.core.opened(id, &mut at.io);
        self.run();
        client
    }

    /// A turn of each shard's loop took so long.
    pub(crate) fn note_lag(&mut self, micros: u64) {
        self.transcript.stop();
        for shard in &mut self.shards {
            shard.core.note_lag(micros);
        }
    }

    fn add_socket(&mut self, shard: usize) -> (SimClient, ConnectionId) {
        let id = ConnectionId { index: self.next_index, generation: 1 };
        self.next_index += 1;
        self.sockets.push(Socket {
            shard,
            id,
            open: true,
            held: false,
            inbound: Vec::new(),
            outbound: Vec::new(),
            stalled: false,
        });
        (SimClient(self.sockets.len() - 1), id)
    }

    /// The connections that the first shard wants made.
    pub(crate) fn take_dials(&mut self) -> Vec<Dial> {
        std::mem::take(&mut self.shards[0].io.dials)
    }

    /// One of them is there, or not.
    pub(crate) fn dialed(
        &mut self,
        token: u64,
        result: Result<(), std::io::ErrorKind>,
    ) -> Option<SimClient> {
        let made = result.is_ok().then(|| self.add_socket(0));
        let result = result.map_err(std::io::Error::from);
        let result = result.map(|()| made.expect("it was just made").1);
        let at = &mut self.shards[0];
        at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
        at.core.dialed(token, result, &mut at.io);
        self.run();
        made.map(|(client, _)| client)
    }

    /// The control thread says something to the first shard.
    pub(crate) fn tell(&mut self, news: ControlNews) {
        self.transcript.stop();
        let at = &mut self.shards[0];
        at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
        at.core.message(NodeMessage::Control(Box::new(news)), &mut at.io);
        self.run();
    }

    /// The client sends bytes; everything that follows from them happens.
    pub(crate) fn send(&mut self, client: SimClient, bytes: &[u8]) {
        self.send_together(&[(client, bytes)]);
    }

    /// Clients send bytes in one round, before the store has answered any of them.
    pub(crate) fn send_together(&mut self, sent: &[(SimClient, &[u8])]) {
        if sent.len() > 1 || self.holds_io || self.holds_answers || self.mesh_is_full {
            self.transcript.stop();
        }
        for (client, bytes) in sent {
            self.transcript.note(Event::Sends(*client, bytes.to_vec()));
            self.sockets[client.0].inbound.extend_from_slice(bytes);
            self.offer(client.0);
        }
        self.run();
    }

    /// What was sent to the client since the last call.
    pub(crate) fn take(&mut self, client: SimClient) -> Vec<u8> {
        std::mem::take(&mut self.sockets[client.0].outbound)
    }

    /// Sends bytes and returns what comes back.
    pub(crate) fn exchange(&mut self, client: SimClient, bytes: &[u8]) -> Vec<u8> {
        self.send(client, bytes);
        self.take(client)
    }

    /// The gateway closed the connection.
    pub(crate) fn is_closed(&self, client: SimClient) -> bool {
        !self.sockets[client.0].open
    }

    /// The connection breaks, without DISCONNECT.
    pub(crate) fn drop_connection(&mut self, client: SimClient) {
        let socket = &mut self.sockets[client.0];
        if !std::mem::replace(&mut socket.open, false) {
            return;
        }
        let (shard, id) = (socket.shard, socket.id);
        self.transcript.note(Event::Breaks(client));
        let at = &mut self.shards[shard];
        at.io.outbox.clear(id.index);
        at.core.closed(id, &mut at.io);
        self.run();
    }

    /// The client stops reading, or goes on.
    pub(crate) fn stall(&mut self, client: SimClient, stalled: bool) {
        self.transcript.stop();
        self.sockets[client.0].stalled = stalled;
        self.run();
    }

    /// Time passes, and the process is not scheduled: it finds that out with what happens next.
    pub(crate) fn stand_still(&mut self, duration: Duration) {
        let now = self.now().after(duration);
        self.now.store(now.0, Ordering::Relaxed);
        self.shards.iter_mut().for_each(|shard| shard.io.now = now);
    }

    /// Time passes, timers run as they come due.
    pub(crate) fn advance(&mut self, duration: Duration) {
        self.transcript.stop();
        let end = self.now().after(duration);
        loop {
            let next = self.shards.iter().map(|shard| shard.core.next_timeout()).min();
            let next = next.unwrap_or(Timestamp::NEVER).max(self.now());
            let second = Timestamp((self.now().0 / 1_000 + 1) * 1_000);
            let step = next.min(second).min(end).max(Timestamp(self.now().0 + 1));
            self.now.store(step.0.min(end.0), Ordering::Relaxed);
            self.timeout_count += u64::from(next <= self.now());
            if self.now() == second {
                self.storage.tick(second);
                self.survivor.note();
            }
            for shard in &mut self.shards {
                shard.io.now = Timestamp(self.now.load(Ordering::Relaxed));
                shard.core.timeout(&mut shard.io);
            }
            self.run();
            if self.now() >= end {
                break;
            }
        }
    }

    /// The node is asked to end.
    pub(crate) fn shutdown(&mut self) {
        self.transcript.stop();
        for shard in &mut self.shards {
            shard.core.shutdown(&mut shard.io);
        }
        self.run();
    }

    /// The wall clock was set: it is so far ahead of what shards go by.
    pub(crate) fn set_wall_clock(&mut self, ahead_ms: i64) {
        for shard in &mut self.shards {
            shard.core.message(NodeMessage::WallClock(ahead_ms), &mut shard.io);
        }
        self.run();
    }

    /// What is known of clients has changed.
    pub(crate) fn change_access(&mut self, source: &Arc<dyn Recheck>) {
        for shard in &mut self.shards {
            shard.core.message(NodeMessage::AccessChanged(Arc::clone(source)), &mut shard.io);
        }
        self.advance(Duration::from_millis(10));
    }

    /// Whoever knows who clients are answers again.
    pub(crate) fn answer_questions(&mut self) {
        self.transcript.stop();
        self.holds_answers = false;
        self.run();
    }

    /// Performs the oldest file operation; false when there is none.
    pub(crate) fn perform_one(&mut self) -> bool {
        self.transcript.stop();
        let Some((shard, partition, request)) = self.pending_io.pop_front() else {
            return false;
        };
        let (token, result) = perform(&mut self.files, &request);
        self.shards[shard].core.upstream.handle_io(partition, token, result);
        self.run();
        true
    }

    /// So many reads of the keyed store fail from now on. Not with logs in memory.
    pub(crate) fn fail_store_reads(&mut self, count: u32) {
        self.transcript.stop();
        self.survivor.failing_reads.store(count, Ordering::Relaxed);
    }

    /// How many sessions are stored, as far as is folded.
    pub(crate) fn stored_sessions(&self) -> u64 {
        self.storage.state().session_count()
    }

    /// Shards reach each other again.
    pub(crate) fn empty_mesh(&mut self) {
        self.transcript.stop();
        self.mesh_is_full = false;
        self.run();
    }

    /// How often a shard asked the store for a session.
    pub(crate) fn sessions_asked_for(&self) -> u64 {
        self.sessions_asked_for
    }

    /// The core of a shard, to look at.
    pub(crate) fn shard(&self, shard: usize) -> &ShardCore {
        &self.shards[shard].core
    }

    fn offer(&mut self, client: usize) {
        loop {
            let socket = &mut self.sockets[client];
            if !socket.open || socket.held || socket.inbound.is_empty() {
                return;
            }
            let (index, id) = (socket.shard, socket.id);
            let bytes = std::mem::take(&mut socket.inbound);
            let at = &mut self.shards[index];
            at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
            let consumed = at.core.received(id, &bytes, &mut at.io);
            let rest = bytes[consumed..].to_vec();
            self.sockets[client].inbound = rest;
            self.perform_actions(index);
            if consumed == 0 || self.sockets[client].shard == index {
                return;
            }
        }
    }

    /// Until nothing more happens by itself.
    fn run(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "it never comes to rest");
            let mut moved = false;
            for index in 0..self.shards.len() {
                let at = &mut self.shards[index];
                at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
                at.core.settle(&mut at.io);
                moved |= self.perform_actions(index);
                moved |= self.drain_shard(index);
            }
            while let Some(request) = self.store_requests.pop_front() {
                let is_get = matches!(request, StoreRequest::SessionGet { .. });
                self.sessions_asked_for += u64::from(is_get);
                assert!(self.storage.handle(request), "nothing stops the store");
                moved = true;
            }
            if !self.holds_answers
                && let Some((shard, request)) = self.questions.pop_front()
            {
                let id = request.connection;
                let message = match &request.client_first {
                    Some(client_first) => {
                        let challenge = self.settings.challenge.expect("the test has challenges");
                        match challenge(client_first) {
                            Ok(challenge) => NodeMessage::Challenged(id, Box::new(challenge)),
                            Err(refusal) => NodeMessage::Authenticated(id, Err(refusal)),
                        }
                    }
                    None => {
                        let authenticate = self.settings.authenticate;
                        let authenticate = authenticate.expect("the test knows clients");
                        NodeMessage::Authenticated(id, authenticate(&request))
                    }
                };
                let at = &mut self.shards[shard];
                at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
                at.core.message(message, &mut at.io);
                moved = true;
            }
            if self.settings.durability == Durability::Memory {
                self.storage.finish_batch();
            }
            while let Ok((shard, reply)) = self.replies.try_recv() {
                let at = &mut self.shards[usize::from(shard.0)];
                at.core.message(NodeMessage::Store(reply), &mut at.io);
                moved = true;
            }
            if !self.holds_io
                && let Some((shard, partition, request)) = self.pending_io.pop_front()
            {
                let (token, result) = perform(&mut self.files, &request);
                self.shards[shard].core.upstream.handle_io(partition, token, result);
                moved = true;
            }
            if !moved {
                break;
            }
        }
    }

    /// Takes what a shard wants sent and done. Returns whether there was anything.
    fn drain_shard(&mut self, index: usize) -> bool {
        let count = self.shards.len();
        let mut moved = false;
        let at = &mut self.shards[index];
        for (partition, request) in at.core.upstream.out.io.drain(..) {
            self.pending_io.push_back((index, partition, request));
            moved |= !self.holds_io;
        }
        for request in at.core.upstream.out.store.drain(..) {
            match request {
                StoreRequest::File { shard, partition, request } => {
                    self.pending_io.push_back((usize::from(shard.0), partition, request));
                }
                other => self.store_requests.push_back(other),
            }
            moved = true;
        }
        let questions = at.core.take_authentication_requests();
        self.questions.extend(questions.into_iter().map(|request| (index, request)));
        let mut dirty = Vec::new();
        at.io.outbox.take_dirty(&mut dirty);
        for (place, socket) in self.sockets.iter_mut().enumerate() {
            if socket.stalled || socket.shard != index {
                continue;
            }
            if let Some(buffer) = at.io.outbox.take(socket.id.index) {
                self.transcript.note(Event::Hears(SimClient(place), buffer.to_vec()));
                socket.outbound.extend_from_slice(&buffer);
                at.io.outbox.sent(socket.id.index, buffer);
                at.core.writable(socket.id, &mut at.io);
                moved = true;
            }
        }
        for to in 0..count {
            let target = ShardIndex(u16::try_from(to).unwrap());
            let batch = self.shards[index].io.mesh.take(target).unwrap_or_default();
            if self.mesh_is_full && to != index && !batch.is_empty() {
                self.shards[index].io.mesh.put_back(target, batch);
                continue;
            }
            for message in batch {
                let other = &mut self.shards[to];
                other.io.now = Timestamp(self.now.load(Ordering::Relaxed));
                other.core.message(message, &mut other.io);
                moved = true;
            }
        }
        moved
    }

    fn perform_actions(&mut self, index: usize) -> bool {
        let actions = std::mem::take(&mut self.shards[index].io.actions);
        let moved = !actions.is_empty();
        for action in actions {
            match action {
                Action::Adopt(_) | Action::Keep { .. } => {}
                Action::Close(id) | Action::Abort(id) => self.close(index, id),
                Action::StartTls { .. } => unreachable!("its links are in plain"),
                Action::Hold(id) => self.hold(index, id, true),
                Action::Resume(id) => self.hold(index, id, false),
                Action::HandOver { connection, shard } => {
                    self.hand_over(index, connection, usize::from(shard.0));
                }
            }
        }
        moved
    }

    fn find(&self, shard: usize, id: ConnectionId) -> Option<usize> {
        self.sockets.iter().position(|socket| socket.shard == shard && socket.id == id)
    }

    fn close(&mut self, index: usize, id: ConnectionId) {
        let Some(client) = self.find(index, id) else { return };
        let at = &mut self.shards[index];
        let socket = &mut self.sockets[client];
        while let Some(buffer) = at.io.outbox.take(id.index) {
            self.transcript.note(Event::Hears(SimClient(client), buffer.to_vec()));
            socket.outbound.extend_from_slice(&buffer);
            at.io.outbox.sent(id.index, buffer);
        }
        if std::mem::replace(&mut socket.open, false) {
            self.transcript.note(Event::Ends(SimClient(client)));
            at.core.closed(id, &mut at.io);
        }
    }

    fn hold(&mut self, index: usize, id: ConnectionId, held: bool) {
        let Some(client) = self.find(index, id) else { return };
        self.sockets[client].held = held;
        if !held {
            self.offer(client);
        }
    }

    fn hand_over(&mut self, from: usize, id: ConnectionId, to: usize) {
        let Some(client) = self.find(from, id) else { return };
        self.sockets[client].shard = to;
        let at = &mut self.shards[to];
        at.io.now = Timestamp(self.now.load(Ordering::Relaxed));
        at.core.opened(id, &mut at.io);
        // Its bytes were not consumed: the caller still holds them and puts them back.
        self.offer(client);
    }
}
