//! The MQTT core of a shard joined with its upstream, still without I/O: the engine's handler drives
//! it, and so does the simulation.
//!
//! The upstream is the embedded one. With JetStream that keeps the sessions only, and messages go
//! over the links of [`JetStream`].

use crate::proto::access::{AuthenticationRequest, Recheck};
use crate::proto::engine_counters::EngineReport;
use crate::proto::handler::{Io, Origin};
use crate::proto::limits::Limits;
use crate::proto::output::{Action, ConnectionId};
use crate::proto::partition::{Chunk, Lane, PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::session::Ticket;
use crate::proto::shard_state::comings::{Came, Went};
use crate::proto::shard_state::inspect::{GroupView, Peer};
use crate::proto::shard_state::slow::SlowNews;
use crate::proto::shard_state::{
    AppendToken, Context, Due, RetainedMessage, RetainedPage, ShardState, StoredSession,
};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::groups::GroupReply;
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::embedded::replays::Answer;
use crate::upstream::embedded::shard::{Embedded, unpack, unpack_connection};
use crate::upstream::embedded::store::fold::TimerKind;
use crate::upstream::embedded::store::thread::{Asked, StoreReply};
use crate::upstream::inquiry::ShardReport;
use crate::upstream::jetstream::forward::Forward;
use crate::upstream::jetstream::sessions::{SessionAnswer, SessionWanted, SessionsOut};
use crate::upstream::jetstream::shard::{JetStream, JetStreamOut};
use crate::upstream::jetstream::{Checked, LostTail};
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How often shards tell each other how far they are, and drop what nobody needs.
const BEACON_INTERVAL: Duration = Duration::from_secs(1);

/// One shard of the gateway. What it wants done beyond its [`Io`] is in `upstream.out`.
pub struct ShardCore {
    state: ShardState,
    /// Its part of the embedded upstream.
    pub upstream: Embedded,
    /// Its part of JetStream, if that has the messages.
    jetstream: Option<Box<JetStream>>,
    beacon_due: Timestamp,
    /// The node ends, and clients are still to be told.
    is_leaving: bool,
    /// Clients were given away: what still comes is not for those that are here.
    has_parted: bool,
}

impl ShardCore {
    /// A shard over recovered logs; `ends` are those of all partitions of the node.
    #[must_use]
    pub fn new(
        mut state: ShardState,
        upstream: Embedded,
        ends: &[(PartitionId, Sequence)],
    ) -> Self {
        for &(partition, end) in ends {
            state.set_watermark(partition, end);
        }
        let (jetstream, beacon_due) = (None, Timestamp::NEVER);
        Self { state, upstream, jetstream, beacon_due, is_leaving: false, has_parted: false }
    }

    /// A shard whose messages are in JetStream, and whose sessions are in recovered logs.
    #[must_use]
    pub fn with_jetstream(
        mut state: ShardState,
        upstream: Embedded,
        jetstream: Box<JetStream>,
    ) -> Self {
        for partition in jetstream.partition_ids() {
            state.set_watermark(partition, Sequence::ZERO);
        }
        let jetstream = Some(jetstream);
        let beacon_due = Timestamp::NEVER;
        Self { state, upstream, jetstream, beacon_due, is_leaving: false, has_parted: false }
    }

    /// The MQTT state, to look at.
    #[must_use]
    pub fn state(&self) -> &ShardState {
        &self.state
    }

    /// Its part of JetStream, if that has the messages, to look at.
    #[must_use]
    pub fn jetstream(&self) -> Option<&JetStream> {
        self.jetstream.as_deref()
    }

    /// Where a connection that is about to be opened comes from.
    pub fn note_origin(&mut self, id: ConnectionId, origin: Origin) {
        self.state.note_origin(id, origin);
    }

    /// See [`ShardState::take_came`].
    pub fn take_came(&mut self) -> Vec<Came> {
        self.state.take_came()
    }

    /// See [`ShardState::take_gone`].
    pub fn take_gone(&mut self, id: ConnectionId) -> Went {
        self.state.take_gone(id)
    }

    /// See [`ShardState::has_events`].
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.state.has_events()
    }

    /// Tells applications what happened to clients; `peer_of` knows where connections come from. What is
    /// to be sent then is in the outbox after [`ShardCore::send_to_servers`].
    pub fn publish_events(&mut self, peer_of: &dyn Fn(ConnectionId) -> Option<Peer>) {
        for event in self.state.take_events() {
            if let Some(jetstream) = &mut self.jetstream {
                jetstream.publish_event(&event, peer_of(event.connection));
            }
        }
    }

    /// See [`ShardState::note_lag`].
    pub fn note_lag(&mut self, micros: u64) {
        self.state.note_lag(micros);
    }

    /// See [`ShardState::take_authentication_requests`].
    pub fn take_authentication_requests(&mut self) -> Vec<AuthenticationRequest> {
        self.state.take_authentication_requests()
    }

    /// Ends the connection of a client; whether it had one.
    pub fn kick(&mut self, client_id: &str, io: &mut Io<NodeMessage>) -> bool {
        self.with(io, |state, context| state.kick(client_id, context))
    }

    /// See [`ShardState::handle_rebalance`].
    pub fn rebalance(&mut self, share_ppm: u32, per_s: u32, now: Timestamp) -> u64 {
        self.state.handle_rebalance(share_ppm, per_s, now)
    }

    /// Bans and rates are these now; `address_of` knows where connections come from.
    pub fn change_limits(
        &mut self,
        limits: &Limits,
        address_of: &dyn Fn(ConnectionId) -> Option<IpAddr>,
        io: &mut Io<NodeMessage>,
    ) {
        self.with(io, |state, context| {
            state.handle_limits_changed(limits, address_of, context);
        });
    }

    /// See [`ShardState::admits_address`].
    pub fn admits_address(&mut self, peer: SocketAddr, now: Timestamp) -> bool {
        self.state.admits_address(peer, now)
    }

    /// Groups of shared subscriptions that get messages of `topic`, as far as this shard knows them.
    #[must_use]
    pub fn groups_of(&self, topic: &str) -> Vec<GroupView> {
        match &self.jetstream {
            Some(jetstream) => jetstream.groups_of(topic),
            None => self.upstream.groups_of(topic),
        }
    }

    /// Subscribers that became slow, or well again, since the last call.
    pub fn take_slow_news(&mut self) -> Vec<SlowNews> {
        self.state.take_slow_news()
    }

    /// Shows the packets of a client to [`Traces`](crate::proto::trace::Traces) of the outbox.
    pub fn trace(&mut self, client_id: &str, number: u32, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| state.trace(client_id, number, context));
    }

    /// Ends what [`ShardCore::trace`] began.
    pub fn end_trace(&mut self, number: u32, io: &mut Io<NodeMessage>) {
        self.state.end_trace(number, &mut io.outbox);
    }

    /// Everything that is counted; `engine` is the engine's part.
    #[must_use]
    pub fn report(&self, engine: EngineReport, io: &Io<NodeMessage>) -> ShardReport {
        ShardReport {
            engine,
            counters: self.state.counters().clone(),
            sent: io.outbox.sent.clone(),
            gauges: self.state.gauges(),
            outbox_bytes: io.outbox.queued_bytes() as u64,
            embedded: self.upstream.report(),
            jetstream: self.jetstream.as_ref().map(|jetstream| jetstream.report()),
        }
    }

    /// A connection was accepted or handed over.
    pub fn opened(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| state.handle_opened(id, context));
    }

    /// Bytes came; returns how many were consumed.
    pub fn received(&mut self, id: ConnectionId, bytes: &[u8], io: &mut Io<NodeMessage>) -> usize {
        if self.jetstream.as_ref().is_some_and(|jetstream| jetstream.is_link(id)) {
            return self.received_by_link(id, bytes, io);
        }
        self.with(io, |state, context| state.handle_received(id, bytes, context))
    }

    /// The connection is gone.
    pub fn closed(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) {
        if let Some(jetstream) = self.jetstream.as_mut().filter(|one| one.is_link(id)) {
            jetstream.set_now(io.now);
            jetstream.closed(id);
            return;
        }
        self.with(io, |state, context| state.handle_closed(id, context));
    }

    /// What was queued for the connection has been sent.
    pub fn writable(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| state.handle_writable(id, context));
    }

    /// Another shard or the storage thread said something.
    pub fn message(&mut self, message: NodeMessage, io: &mut Io<NodeMessage>) {
        if self.has_parted && !matches!(message, NodeMessage::Store(StoreReply::File { .. })) {
            return;
        }
        match message {
            NodeMessage::Feed { chunk, offsets } => self.handle_feed(chunk, &offsets, io),
            NodeMessage::Volatile { bytes, offsets } => self.handle_volatile(&bytes, &offsets, io),
            NodeMessage::Status { bytes, offsets } => {
                self.handle_volatile(&bytes, &offsets, io);
                let bodies = offsets.iter().filter_map(|offset| body_at(&bytes, *offset as usize));
                self.state.set_status(bodies.collect());
            }
            NodeMessage::Watermark { partition, end } => self.handle_watermark(partition, end, io),
            NodeMessage::Ask(ask) => self.upstream.ask(*ask),
            NodeMessage::Replayed(ticket, replayed) => {
                self.handle_answer(ticket, Answer::Replayed(replayed), io);
            }
            NodeMessage::Fetched(ticket, partition, bodies) => {
                self.handle_answer(ticket, Answer::Fetched(partition, bodies), io);
            }
            NodeMessage::ToGroup(asker, request) => {
                self.upstream.handle_group_request(asker, request);
            }
            NodeMessage::FromGroup(reply) => self.handle_group_reply(reply, io),
            NodeMessage::Store(reply) => self.handle_store(reply, io),
            NodeMessage::Authenticated(id, answer) => {
                self.with(io, |state, context| state.handle_authenticated(id, answer, context));
            }
            NodeMessage::Challenged(id, challenge) => {
                self.with(io, |state, context| state.handle_challenged(id, challenge, context));
            }
            NodeMessage::AccessChanged(source) => {
                self.with(io, |state, context| state.handle_access_changed(source, context));
            }
            NodeMessage::Control(news) => {
                if let Some(jetstream) = &mut self.jetstream {
                    jetstream.set_now(io.now);
                    jetstream.handle_news(*news);
                }
            }
            NodeMessage::SubCluster(link) => {
                if let Some(jetstream) = &mut self.jetstream {
                    jetstream.add_sub_cluster(*link);
                }
            }
            NodeMessage::WallClock(ahead_ms) => {
                self.with(io, |state, context| state.handle_wall_clock(ahead_ms, context));
            }
            NodeMessage::LimitsChanged(limits) => self.change_limits(&limits, &|_| None, io),
            NodeMessage::Inquire(_) => {
                unreachable!("the handler answers what is asked from outside")
            }
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| state.handle_timeout(context));
        self.finish_goodbye();
        if io.now >= self.beacon_due {
            self.beacon(io);
        }
    }

    /// When [`ShardCore::timeout`] and [`ShardCore::settle`] are to be called at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        if self.upstream.has_ready_replays() {
            return Timestamp::START;
        }
        let links = self.jetstream.as_ref().map(|jetstream| jetstream.next_timeout());
        let own = self.state.next_timeout().min(self.upstream.next_timeout());
        own.min(self.beacon_due).min(links.unwrap_or(Timestamp::NEVER))
    }

    /// The node ends: every client hears of it, every session is saved.
    pub fn shutdown(&mut self, io: &mut Io<NodeMessage>) {
        self.is_leaving = true;
        self.with(io, |state, context| state.handle_shutdown(context));
        self.finish_goodbye();
    }

    /// See [`ShardState::handle_moving`].
    pub fn prepare_to_move(&mut self, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| state.handle_moving(context));
    }

    /// See [`ShardState::handle_paused`].
    pub fn pause(&mut self) {
        self.state.handle_paused();
    }

    /// See [`ShardState::handle_staying`].
    pub fn stay(&mut self) {
        self.state.handle_staying();
    }

    /// Nothing is under way.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.upstream.is_idle() && self.state.is_still()
    }

    /// See [`ShardState::hand_over`].
    pub fn hand_over(&mut self, id: ConnectionId, io: &mut Io<NodeMessage>) -> Option<Vec<u8>> {
        self.has_parted = true;
        self.with(io, |state, context| state.hand_over(id, context))
    }

    /// See [`ShardState::handle_handed_over`].
    pub fn take_over(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        source: Option<&dyn Recheck>,
        io: &mut Io<NodeMessage>,
    ) -> bool {
        self.with(io, |state, context| state.handle_handed_over(id, bytes, source, context))
    }

    /// Once every client was told nothing more is published: links may end when they have nothing on
    /// their way, and groups are as they will be.
    fn finish_goodbye(&mut self) {
        if !self.is_leaving || self.state.is_saying_goodbye() {
            return;
        }
        self.is_leaving = false;
        if let Some(jetstream) = &mut self.jetstream {
            jetstream.stop();
        }
        self.upstream.record_groups();
    }

    /// Calls the core with what it may write to.
    fn with<R>(
        &mut self,
        io: &mut Io<NodeMessage>,
        call: impl FnOnce(&mut ShardState, &mut Context<'_>) -> R,
    ) -> R {
        let Self { state, upstream, jetstream, .. } = self;
        let (now, outbox, actions) = (io.now, &mut io.outbox, &mut io.actions);
        let Some(jetstream) = jetstream else {
            return call(state, &mut Context { now, outbox, actions, upstream });
        };
        jetstream.set_now(now);
        let mut forward = Forward { jetstream, local: upstream };
        call(state, &mut Context { now, outbox, actions, upstream: &mut forward })
    }

    /// The connection asked for under `token` is there, or could not be made.
    pub fn dialed(
        &mut self,
        token: u64,
        result: std::io::Result<ConnectionId>,
        io: &mut Io<NodeMessage>,
    ) {
        if let Some(jetstream) = &mut self.jetstream {
            jetstream.set_now(io.now);
            jetstream.dialed(token, result.map_err(|error| error.kind()));
        }
    }

    /// A link is in TLS.
    pub fn secured(&mut self, link: ConnectionId, io: &mut Io<NodeMessage>) {
        if let Some(jetstream) = &mut self.jetstream {
            jetstream.set_now(io.now);
            jetstream.secured(link);
        }
    }

    /// Bytes came from a server.
    fn received_by_link(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        io: &mut Io<NodeMessage>,
    ) -> usize {
        if self.has_parted {
            return bytes.len();
        }
        let Self { state, upstream, jetstream, .. } = self;
        let (now, outbox, actions) = (io.now, &mut io.outbox, &mut io.actions);
        let Some(jetstream) = jetstream else {
            return bytes.len();
        };
        jetstream.set_now(now);
        jetstream.received(id, bytes, &mut |jetstream, place, message| {
            // What is new in places that are used again is not to be taken for what was there.
            let lost_tails = std::mem::take(&mut jetstream.out.lost_tails);
            let mut forward = Forward { jetstream, local: upstream };
            let mut context = Context { now, outbox, actions, upstream: &mut forward };
            for LostTail { partition, from, is_certain } in lost_tails {
                state.handle_lost_tail(partition, from, is_certain, &mut context);
            }
            state.handle_message(place, message, &mut context);
        })
    }

    /// Lets links send and ask, and takes what they brought. Whether they brought anything.
    fn settle_jetstream(&mut self, io: &mut Io<NodeMessage>) -> bool {
        let Some(jetstream) = &mut self.jetstream else {
            return false;
        };
        jetstream.set_now(io.now);
        jetstream.flush();
        let JetStreamOut {
            dials,
            closes,
            secures,
            appended,
            watermarks,
            lost_tails,
            checked,
            replayed,
            fetched,
            retained,
            retained_failed,
            joined,
            shared,
            sessions,
        } = std::mem::take(&mut jetstream.out);
        io.dials.extend(dials);
        let secures = secures.into_iter();
        io.actions.extend(secures.map(|(link, number)| Action::StartTls { link, number }));
        io.actions.extend(closes.into_iter().map(Action::Abort));
        let brought = !(appended.is_empty()
            && watermarks.is_empty()
            && lost_tails.is_empty()
            && checked.is_empty()
            && replayed.is_empty()
            && fetched.is_empty()
            && retained.is_empty()
            && retained_failed.is_empty()
            && joined.is_empty()
            && shared.is_empty()
            && sessions.is_empty());
        self.with(io, |state, context| {
            for LostTail { partition, from, is_certain } in lost_tails {
                state.handle_lost_tail(partition, from, is_certain, context);
            }
            for Checked { session, partition, anchor, from } in checked {
                state.handle_checked(session, partition, anchor, from, context);
            }
        });
        self.take_sessions(sessions, io);
        self.with(io, |state, context| {
            for token in appended {
                state.handle_appended(token, context);
            }
            for (partition, end) in watermarks {
                state.handle_watermark(partition, end, context);
            }
            for (ticket, answer) in replayed {
                state.handle_replayed(ticket, answer, context);
            }
            for (ticket, partition, bodies) in fetched {
                state.handle_fetched(ticket, partition, bodies, context);
            }
            for (id, page) in retained {
                state.handle_retained(id, page, context);
            }
            for id in retained_failed {
                state.handle_retained_failed(id, context);
            }
            for (ticket, joined) in joined {
                state.handle_joined(ticket, joined, context);
            }
            for (ticket, message) in shared {
                state.handle_shared(ticket, message, context);
            }
        });
        brought
    }

    /// What came of sessions that are in JetStream.
    fn take_sessions(&mut self, sessions: SessionsOut, io: &mut Io<NodeMessage>) {
        let SessionsOut { lost, wanted, answers, due, wills } = sessions;
        for client_id in lost {
            self.with(io, |state, context| state.handle_session_lost(&client_id, context));
        }
        for SessionWanted { client_id, ends, user } in wanted {
            let is_here = self.with(io, |state, context| {
                state.handle_session_wanted(&client_id, ends, &user, context)
            });
            if let Some(jetstream) = self.jetstream.as_mut().filter(|_| !is_here) {
                jetstream.give_up_session(&client_id);
            }
        }
        for SessionAnswer { ticket, client_id, found } in answers {
            self.with(io, |state, context| match found {
                Ok(found) => state.handle_session(ticket, found, context),
                Err(()) => state.handle_session_failed(ticket, context),
            });
            if let Some(jetstream) = &mut self.jetstream {
                jetstream.settle_session_answer(&client_id);
            }
        }
        for (client_id, will) in wills {
            self.with(io, |state, context| {
                state.handle_orphaned_will(&client_id, &will, context);
            });
        }
        for (client_id, due) in due {
            self.with(io, |state, context| state.handle_due(&client_id, due, context));
        }
    }

    /// End of a sweep: flushes the log and delivers what is committed, until nothing is left to do
    /// without I/O.
    pub fn settle(&mut self, io: &mut Io<NodeMessage>) {
        loop {
            self.upstream.flush(io.now);
            let committed = self.upstream.take_committed();
            if !committed.is_empty() {
                for chunk in committed {
                    self.deliver(&chunk, io);
                }
                continue;
            }
            self.upstream.advance_replays();
            let answers = std::mem::take(&mut self.upstream.out.answers);
            let replies = std::mem::take(&mut self.upstream.out.group_replies);
            if answers.is_empty() && replies.is_empty() && !self.settle_jetstream(io) {
                break;
            }
            for (ticket, answer) in answers {
                self.handle_answer(ticket, answer, io);
            }
            for reply in replies {
                self.handle_group_reply(reply, io);
            }
        }
        self.send_to_servers(io);
        if self.upstream.have_groups_moved() {
            self.schedule_beacon(io.now);
        }
        for (to, message) in self.upstream.out.messages.drain(..) {
            let bytes = message.bytes();
            io.mesh.send_sized(to, message, bytes);
        }
        self.upstream.note_waiting(|shard| io.mesh.waiting_bytes(shard));
        self.resume_held(io);
    }

    /// Moves what waits for servers to where it is sent from.
    pub fn send_to_servers(&mut self, io: &mut Io<NodeMessage>) {
        if let Some(jetstream) = &mut self.jetstream {
            jetstream.take_bytes(|id, bytes| io.outbox.buffer(id.index).append(bytes));
            jetstream.note_pending(|id| io.outbox.pending_bytes(id.index));
            io.actions.extend(jetstream.take_ended().into_iter().map(Action::Close));
        }
    }

    /// Lets held publishers go on if what held them is over. It may be over without anything being
    /// committed: retention was trimmed, or the storage thread took its requests.
    pub fn resume_held(&mut self, io: &mut Io<NodeMessage>) {
        if self.upstream.is_mesh_full() {
            self.upstream.note_waiting(|shard| io.mesh.waiting_bytes(shard));
        }
        self.with(io, |state, context| state.resume_held(context));
    }

    /// A chunk of this shard's own log is committed: acknowledges and delivers it.
    fn deliver(&mut self, chunk: &Chunk, io: &mut Io<NodeMessage>) {
        // Tokens are sequences: everything before the end of the chunk is committed.
        let token = AppendToken { lane: Lane::LOCAL, number: chunk.end().0 - 1 };
        let before = self.upstream.out.store.len();
        self.with(io, |state, context| state.handle_appended(token, context));
        if let Some(jetstream) = &mut self.jetstream {
            jetstream.recorded(token);
        }
        // Who asks the store because something is committed must find it there: the question goes
        // behind the chunk.
        let asked = self.upstream.out.store.split_off(before);
        let Self { state, upstream, .. } = self;
        let (now, outbox, actions) = (io.now, &mut io.outbox, &mut io.actions);
        let partition = chunk.partition;
        upstream.feed(chunk, |upstream, sequence, message| {
            let waited_ms = now.millis_since(message.received_at);
            upstream.commits.add(waited_ms.saturating_mul(1_000), 1);
            let mut context = Context { now, outbox, actions, upstream };
            state.handle_message(Some((partition, sequence)), message, &mut context);
        });
        upstream.out.store.extend(asked);
        if self.jetstream.is_none() {
            let end = chunk.end();
            self.with(io, |state, context| state.handle_watermark(partition, end, context));
        }
        self.schedule_beacon(io.now);
        if self.upstream.wants_trim() {
            self.beacon_due = io.now;
        }
    }

    fn handle_group_reply(&mut self, reply: GroupReply, io: &mut Io<NodeMessage>) {
        self.with(io, |state, context| match reply {
            GroupReply::Joined { ticket, joined } => state.handle_joined(ticket, joined, context),
            GroupReply::Message { ticket, message } => {
                state.handle_shared(ticket, message, context);
            }
        });
    }

    fn handle_answer(&mut self, ticket: Ticket, answer: Answer, io: &mut Io<NodeMessage>) {
        let Some(answer) = self.upstream.take_group_answer(ticket, answer) else {
            return;
        };
        match answer {
            Answer::Replayed(replayed) => {
                self.with(io, |state, context| state.handle_replayed(ticket, replayed, context));
            }
            Answer::Fetched(partition, bodies) => self.with(io, |state, context| {
                state.handle_fetched(ticket, partition, bodies, context);
            }),
        }
    }

    /// Committed messages of another shard.
    fn handle_feed(&mut self, chunk: Chunk, offsets: &[u32], io: &mut Io<NodeMessage>) {
        let partition = chunk.partition;
        for offset in offsets {
            let sequence = Sequence(chunk.first.0 + u64::from(*offset));
            let Some(Record::Message(message)) = chunk.body(sequence).and_then(Record::decode)
            else {
                continue;
            };
            self.with(io, |state, context| {
                state.handle_message(Some((partition, sequence)), &message, context);
            });
            self.upstream.offer_to_groups(&chunk, sequence, &message);
        }
        let end = chunk.end();
        self.upstream.keep_remote(chunk);
        self.upstream.handle_watermark(partition, end);
        self.with(io, |state, context| state.handle_watermark(partition, end, context));
    }

    /// QoS 0 messages of another shard.
    fn handle_volatile(&mut self, bytes: &Bytes, offsets: &[u32], io: &mut Io<NodeMessage>) {
        for offset in offsets {
            let Some(message) = volatile_at(bytes, *offset as usize) else {
                continue;
            };
            self.with(io, |state, context| state.handle_message(None, &message, context));
            self.upstream.offer_unacknowledged(&message);
        }
    }

    fn handle_store(&mut self, reply: StoreReply, io: &mut Io<NodeMessage>) {
        match reply {
            StoreReply::Session { ticket, state: stored } => {
                let steps = stored.qos2;
                let stored = stored.found.map(|found| StoredSession {
                    expires_at: found.expires_at,
                    will_at: found.will_at,
                    record: found.record.into(),
                    steps,
                    is_orphan: false,
                });
                let ticket = unpack(ticket);
                self.with(io, |state, context| state.handle_session(ticket, stored, context));
            }
            StoreReply::Retained { ticket, messages, next } => {
                let messages = messages.into_iter().map(|found| RetainedMessage {
                    partition: found.partition,
                    sequence: found.sequence,
                    body: found.body.into(),
                });
                let (messages, next) = (messages.collect(), next.map(String::into_boxed_str));
                let page = RetainedPage { messages, next, again: None };
                self.with(io, |state, context| state.handle_retained(ticket, page, context));
            }
            StoreReply::Folded { partition, folded, needed } => {
                self.upstream.set_folded(partition, folded, needed);
                self.upstream.trim(io.now);
            }
            StoreReply::File { partition, token, result } => {
                self.upstream.handle_io(partition, token, result);
            }
            StoreReply::Due { client_id, which, .. } => {
                let due = match which {
                    TimerKind::Expiry => Due::Expiry,
                    TimerKind::Will => Due::Will,
                    TimerKind::Retained => return,
                };
                self.with(io, |state, context| state.handle_due(&client_id, due, context));
            }
            StoreReply::RetainedRoom { ticket, fits } => {
                let id = unpack_connection(ticket);
                self.with(io, |state, context| state.handle_retained_room(id, fits, context));
            }
            StoreReply::Failed { ticket, asked } => self.with(io, |state, context| match asked {
                Asked::Session => state.handle_session_failed(unpack(ticket), context),
                Asked::Retained => state.handle_retained_failed(ticket, context),
                Asked::RetainedRoom => {
                    state.handle_retained_room(unpack_connection(ticket), true, context);
                }
            }),
        }
    }

    fn schedule_beacon(&mut self, now: Timestamp) {
        if self.beacon_due == Timestamp::NEVER {
            self.beacon_due = now.after(BEACON_INTERVAL);
        }
    }

    fn beacon(&mut self, io: &mut Io<NodeMessage>) {
        self.beacon_due = Timestamp::NEVER;
        self.upstream.send_watermarks();
        let own = self.upstream.own_log().partition();
        self.upstream.note_needed(own, self.needed(own));
        self.upstream.record_groups();
        self.upstream.note_progress();
        self.upstream.trim(io.now);
        // With all publishers held nothing is committed, so nothing else would look again.
        if self.upstream.own_log().is_full() {
            self.schedule_beacon(io.now);
        }
    }

    /// Another shard's partition moved: says what is still needed of it.
    fn handle_watermark(
        &mut self,
        partition: PartitionId,
        end: Sequence,
        io: &mut Io<NodeMessage>,
    ) {
        if self.jetstream.is_none() {
            self.with(io, |state, context| state.handle_watermark(partition, end, context));
        }
        self.upstream.handle_watermark(partition, end);
        self.upstream.note_needed(partition, self.needed(partition));
    }

    /// What sessions in memory and groups of this shard still need of a partition.
    fn needed(&self, partition: PartitionId) -> Sequence {
        if self.jetstream.is_some() {
            // Records of sessions are needed until they are folded, which is known elsewhere.
            return Sequence(u64::MAX);
        }
        self.state.needed(partition).min(self.upstream.needed_by_groups(partition))
    }
}

fn volatile_at(bytes: &Bytes, offset: usize) -> Option<Message<'_>> {
    match Record::decode(bytes.get(body_range(bytes, offset)?)?)? {
        Record::Message(message) => Some(message),
        _ => None,
    }
}

/// The same, not looked into.
fn body_at(bytes: &Bytes, offset: usize) -> Option<Bytes> {
    let range = body_range(bytes, offset)?;
    (range.end <= bytes.len()).then(|| bytes.slice(range))
}

/// Where the body is whose length is at `offset`.
fn body_range(bytes: &Bytes, offset: usize) -> Option<std::ops::Range<usize>> {
    let length = u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?) as usize;
    Some(offset + 4..offset + 4 + length)
}
