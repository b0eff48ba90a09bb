//! A shard of the gateway as the engine drives it: performs what the core wants done to files and by
//! the storage thread.

use super::core::ShardCore;
use super::peers::Peers;
use super::segments::Segments;
use crate::auth::AuthenticationQueues;
use crate::proto::access::{AuthenticationRequest, Recheck, Refusal};
use crate::proto::engine_counters::EngineReport;
use crate::proto::handler::{CloseReason, FileDone, Handler, Io, Origin, Sender};
use crate::proto::output::{Action, ConnectionId, ShardIndex};
use crate::proto::partition::PartitionId;
use crate::proto::shard_state::comings::{Came, Went};
use crate::proto::shard_state::inspect::Around;
use crate::proto::shard_state::slow::{SlowNews, SlowState};
use crate::proto::tenant::split_name;
use crate::proto::time::Timestamp;
use crate::upstream::embedded::disk_watch::{DiskState, DiskWatch};
use crate::upstream::embedded::log::{Health, LogIo};
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::embedded::store::thread::StoreRequest;
use crate::upstream::inquiry::{Inquiry, ShardReport, TraceRequest};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// When the storage thread's queue is full, how long to wait before it is tried again.
const STORE_RETRY: Duration = Duration::from_millis(5);

/// Questions who clients are that wait for room in a queue. One more is refused.
const UNASKED_MAX: usize = 65_536;

/// Who may wait for a report at the same time; another hears at once that it gets none.
const REPORTS_MAX: usize = 16;

/// Clients of a shard whose packets are shown at the same time; another trace ends at once.
const TRACES_MAX: usize = 8;

/// One shard of the gateway.
pub struct MqttShard {
    core: ShardCore,
    segments: Segments,
    store: flume::Sender<StoreRequest>,
    store_retry_at: Timestamp,
    /// Where it is known who clients are, if that is asked, and what was not taken there yet.
    authentication: Option<AuthenticationQueues>,
    unasked: VecDeque<AuthenticationRequest>,
    ask_again_at: Timestamp,
    stopping: bool,
    /// Who waits for what is counted.
    reports: Vec<oneshot::Sender<Box<ShardReport>>>,
    peers: Peers,
    /// Who knows the clients that come from another process, where that is asked.
    source: Option<Arc<dyn Recheck>>,
    /// Traces under way, by number.
    traces: Vec<(u32, TraceRequest)>,
    next_trace: u32,
    disk: DiskWatch,
}

impl MqttShard {
    /// A shard whose log files are `segments`; `store` leads to the storage thread.
    #[must_use]
    pub fn new(
        core: ShardCore,
        segments: Segments,
        store: flume::Sender<StoreRequest>,
        authentication: Option<AuthenticationQueues>,
    ) -> Self {
        let (store_retry_at, ask_again_at) = (Timestamp::NEVER, Timestamp::NEVER);
        let (unasked, stopping, reports) = (VecDeque::new(), false, Vec::new());
        let (peers, traces, next_trace) = (Peers::default(), Vec::new(), 0);
        Self {
            core,
            segments,
            store,
            store_retry_at,
            authentication,
            unasked,
            ask_again_at,
            stopping,
            reports,
            peers,
            source: None,
            traces,
            next_trace,
            disk: DiskWatch::default(),
        }
    }

    /// Clients that come from another process are those that `source` knows.
    #[must_use]
    pub fn knowing(mut self, source: Option<Arc<dyn Recheck>>) -> Self {
        self.source = source;
        self
    }

    /// Says in the log who was let in, at `debug`.
    fn tell_came(&mut self) {
        for came in self.core.take_came() {
            let Came { connection, client_id, user, session_present } = came;
            let peer = self.peers.get(connection).map(|peer| peer.address);
            let ((mountpoint, client_id), user) = (split_name(&client_id), user.as_deref());
            tracing::debug!(
                mountpoint,
                client_id,
                user,
                ?peer,
                session_present,
                "client connected"
            );
        }
    }

    /// Tells applications what happened to clients, while it is known where they come from.
    fn tell_events(&mut self) {
        let Self { core, peers, .. } = self;
        if core.has_events() {
            core.publish_events(&|id| peers.get(id));
        }
    }

    /// End of a sweep: lets the core finish, then starts file operations and sends to the storage
    /// thread.
    fn finish(&mut self, io: &mut Io<NodeMessage>) {
        self.tell_events();
        self.core.settle(io);
        if self.core.has_events() {
            self.tell_events();
            self.core.send_to_servers(io);
        }
        self.ask_identities(io);
        let requests = std::mem::take(&mut self.core.upstream.out.io);
        for (partition, request) in requests {
            match request {
                LogIo::Write { .. } | LogIo::Sync { .. } | LogIo::Read { .. } => {
                    self.segments.start(partition, request, &mut io.files);
                }
                LogIo::Remove { segment, .. } => {
                    self.segments.forget(segment);
                    self.ask_for_file(io.shard, partition, request);
                }
                LogIo::Create { .. } | LogIo::WriteIndex { .. } => {
                    self.ask_for_file(io.shard, partition, request);
                }
            }
        }
        for (partition, token, fault) in self.segments.take_failed() {
            self.core.upstream.handle_io(partition, token, Err(fault));
        }
        self.send_to_store(io.now);
        self.core.resume_held(io);
        if !self.traces.is_empty() {
            self.tell_traces(io);
        }
        self.tell_came();
        self.tell_disk(io.shard, io.now);
        self.tell_slow();
    }

    /// Says in the log which subscribers are slow, and when they are no more.
    fn tell_slow(&mut self) {
        for SlowNews { client_id, state, untold } in self.core.take_slow_news() {
            let (mountpoint, client_id) = split_name(&client_id);
            match state {
                SlowState::Behind { lag } => {
                    tracing::warn!(
                        mountpoint,
                        client_id,
                        lag,
                        untold,
                        "subscriber is slow: it comes no closer to what is published"
                    );
                }
                SlowState::Dropping => {
                    tracing::warn!(
                        mountpoint,
                        client_id,
                        untold,
                        "subscriber is slow: QoS 0 messages for it are dropped"
                    );
                }
                SlowState::Well { dropped } => {
                    tracing::info!(mountpoint, client_id, dropped, "subscriber has caught up");
                }
            }
        }
    }

    /// Says in the log how the shard's own log fares, at each change.
    fn tell_disk(&mut self, shard: ShardIndex, now: Timestamp) {
        match self.disk.look(self.core.upstream.own_log(), now) {
            None => {}
            Some(DiskState { health: Health::Good, holds: None }) => {
                tracing::info!(shard = shard.0, "the log is written again, publishers go on");
            }
            Some(DiskState { health, holds }) => {
                tracing::warn!(
                    shard = shard.0,
                    ?health,
                    ?holds,
                    "the log's disk needs attention: what is not written is not acknowledged"
                );
            }
        }
    }

    /// Answers at once, from what is there. Who asked may have given up: then nobody hears it.
    fn inquire(&mut self, inquiry: Inquiry, io: &mut Io<NodeMessage>) {
        let now = io.now;
        if let Inquiry::Kick(client_id, answer) = inquiry {
            let _ = answer.send(self.core.kick(&client_id, io));
            return;
        }
        if let Inquiry::Rebalance { share_ppm, per_s, answer } = inquiry {
            let _ = answer.send(self.core.rebalance(share_ppm, per_s, now));
            return;
        }
        let Self { core, peers, .. } = self;
        let (state, peer) = (core.state(), |id| peers.get(id));
        let around = Around { outbox: &io.outbox, peer: &peer };
        match inquiry {
            Inquiry::Report(answer) => {
                if self.reports.len() < REPORTS_MAX {
                    self.reports.push(answer);
                    io.wants_report = true;
                }
            }
            Inquiry::Sessions(query, answer) => {
                let _ = answer.send(state.sessions_page(&query, &around));
            }
            Inquiry::Session(client_id, answer) => {
                let view = state.session_view(&client_id, now, &around);
                let _ = answer.send(view.map(Box::new));
            }
            Inquiry::Subscribers(topic, answer) => {
                let mut page = state.subscribers(&topic);
                page.groups = core.groups_of(&topic);
                let _ = answer.send(page);
            }
            Inquiry::Slowest(answer) => {
                let _ = answer.send(state.slowest(&around));
            }
            Inquiry::Talkers(answer) => {
                let _ = answer.send(state.talkers(now, &around));
            }
            Inquiry::Kick(..) | Inquiry::Rebalance { .. } => unreachable!("answered above"),
            Inquiry::Trace(request) => {
                self.tell_traces(io);
                self.begin_trace(request, io);
            }
        }
    }

    fn begin_trace(&mut self, request: TraceRequest, io: &mut Io<NodeMessage>) {
        if self.traces.len() < TRACES_MAX {
            self.next_trace = self.next_trace.wrapping_add(1);
            self.core.trace(&request.client_id, self.next_trace, io);
            self.traces.push((self.next_trace, request));
        }
    }

    /// Passes on what happened on traced connections, and ends traces that are over.
    fn tell_traces(&mut self, io: &mut Io<NodeMessage>) {
        for (number, line) in io.outbox.traces.take() {
            let trace = self.traces.iter().find(|trace| trace.0 == number);
            if let Some((_, trace)) = trace {
                // What does not fit is left out; who does not listen any more is noticed below.
                let _ = trace.lines.try_send(line);
            }
        }
        let core = &mut self.core;
        self.traces.retain(|(number, trace)| {
            let goes_on = io.now < trace.until && !trace.lines.is_disconnected();
            if !goes_on {
                core.end_trace(*number, io);
            }
            goes_on
        });
    }

    /// Passes questions on, as many as are taken. Of the rest those beyond the queue's length are
    /// refused.
    fn ask_identities(&mut self, io: &mut Io<NodeMessage>) {
        let Some(queues) = &self.authentication else {
            return;
        };
        self.unasked.extend(self.core.take_authentication_requests());
        self.ask_again_at = Timestamp::NEVER;
        while let Some(request) = self.unasked.pop_front() {
            if let Some(request) = queues.try_ask(io.shard, request) {
                self.unasked.push_front(request);
                self.ask_again_at = io.now.after(STORE_RETRY);
                break;
            }
        }
        while self.unasked.len() > UNASKED_MAX {
            let Some(request) = self.unasked.pop_back() else { break };
            let busy = NodeMessage::Authenticated(request.connection, Err(Refusal::Busy));
            self.core.message(busy, io);
        }
    }

    fn ask_for_file(&mut self, shard: ShardIndex, partition: PartitionId, request: LogIo) {
        let request = StoreRequest::File { shard, partition, request };
        self.core.upstream.out.store.push_back(request);
    }

    /// As many requests as the queue takes; the rest stays in order, and holds publishers when it
    /// is long.
    fn send_to_store(&mut self, now: Timestamp) {
        self.store_retry_at = Timestamp::NEVER;
        let waiting = &mut self.core.upstream.out.store;
        while let Some(request) = waiting.pop_front() {
            match self.store.try_send(request) {
                Ok(()) => {}
                Err(flume::TrySendError::Full(request)) => {
                    waiting.push_front(request);
                    self.store_retry_at = now.after(STORE_RETRY);
                    return;
                }
                Err(flume::TrySendError::Disconnected(_)) => {
                    assert!(self.stopping, "the storage thread outlives the shards");
                    return;
                }
            }
        }
    }
}

impl Handler for MqttShard {
    type Message = NodeMessage;

    fn admits(&mut self, peer: SocketAddr, now: Timestamp) -> bool {
        self.core.admits_address(peer, now)
    }

    fn opened(&mut self, id: ConnectionId, origin: Origin, io: &mut Io<NodeMessage>) {
        // One that had this place may have ended in the same sweep.
        self.tell_events();
        self.peers.set(id, &origin, io.now);
        self.core.note_origin(id, origin);
        self.core.opened(id, io);
    }

    fn dialed(&mut self, token: u64, result: io::Result<ConnectionId>, io: &mut Io<NodeMessage>) {
        self.core.dialed(token, result, io);
    }

    fn secured(&mut self, link: ConnectionId, io: &mut Io<NodeMessage>) {
        self.core.secured(link, io);
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8], io: &mut Io<NodeMessage>) -> usize {
        self.core.received(id, bytes, io)
    }

    fn closed(&mut self, id: ConnectionId, reason: CloseReason, io: &mut Io<NodeMessage>) {
        self.tell_came();
        let Went { client_id, user, why } = self.core.take_gone(id);
        let peer = self.peers.get(id).map(|peer| peer.address);
        let (mountpoint, client_id) = client_id.as_deref().map(split_name).unzip();
        let (mountpoint, user, why) = (mountpoint.flatten(), user.as_deref(), why.as_deref());
        tracing::debug!(mountpoint, client_id, user, ?peer, ?reason, why, "connection closed");
        self.core.closed(id, io);
        self.tell_events();
    }

    fn writable(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) {
        self.core.writable(id, io);
    }

    fn message(&mut self, _from: Sender, message: NodeMessage, io: &mut Io<NodeMessage>) {
        match message {
            NodeMessage::Inquire(inquiry) => self.inquire(*inquiry, io),
            NodeMessage::LimitsChanged(limits) => {
                let Self { core, peers, .. } = self;
                let address_of = |id| peers.get(id).map(|peer| peer.address.ip());
                core.change_limits(&limits, &address_of, io);
            }
            message => self.core.message(message, io),
        }
    }

    fn report(&mut self, report: &EngineReport, io: &mut Io<NodeMessage>) {
        for answer in self.reports.drain(..) {
            // Who asked may have given up.
            let _ = answer.send(Box::new(self.core.report(*report, io)));
        }
    }

    fn file_done(&mut self, token: u64, result: io::Result<FileDone>, _io: &mut Io<NodeMessage>) {
        if let Some((partition, token, result)) = self.segments.finish(token, result) {
            self.core.upstream.handle_io(partition, token, result);
        }
    }

    fn swept(&mut self, io: &mut Io<NodeMessage>) {
        self.core.note_lag(io.turn_us);
        self.finish(io);
    }

    fn timeout(&mut self, io: &mut Io<NodeMessage>) {
        self.core.timeout(io);
        self.finish(io);
    }

    fn next_timeout(&self) -> Timestamp {
        let own = self.store_retry_at.min(self.ask_again_at).min(self.disk.next_look());
        self.core.next_timeout().min(own)
    }

    fn prepare_to_move(&mut self, io: &mut Io<NodeMessage>) {
        self.core.prepare_to_move(io);
    }

    fn is_preparing_to_move(&self) -> bool {
        self.core.state().is_telling_those_that_stay()
    }

    fn can_move(&self, connection: ConnectionId) -> bool {
        self.core.state().can_move(connection)
    }

    fn pause(&mut self, _io: &mut Io<NodeMessage>) {
        self.core.pause();
    }

    fn is_still(&self, _io: &Io<NodeMessage>) -> bool {
        self.unasked.is_empty() && self.core.is_still()
    }

    fn stay(&mut self, _io: &mut Io<NodeMessage>) {
        self.core.stay();
    }

    fn hand_over(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) -> Option<Vec<u8>> {
        self.core.hand_over(id, io)
    }

    fn take_over(
        &mut self,
        id: ConnectionId,
        origin: Origin,
        state: &[u8],
        io: &mut Io<NodeMessage>,
    ) {
        self.peers.set(id, &origin, io.now);
        self.core.note_origin(id, origin);
        if !self.core.take_over(id, state, self.source.as_deref(), io) {
            tracing::error!("a connection came with a state that cannot be read: it is reset");
            io.actions.push(Action::Abort(id));
        }
    }

    fn is_saying_goodbye(&self) -> bool {
        self.core.state().is_saying_goodbye()
    }

    fn shutdown(&mut self, io: &mut Io<NodeMessage>) {
        self.stopping = true;
        self.core.shutdown(io);
        self.finish(io);
    }
}
