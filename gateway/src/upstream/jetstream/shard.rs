//! The JetStream upstream as one shard sees it: its links, and what goes over them.
//!
//! No I/O: what is to be sent waits in each partition's buffer, and connections to make or to close,
//! answers and acknowledgements in [`JetStream::out`].

use super::control::{ControlNews, PartitionStatus};
use super::direct_get::{Answer, InvalidAnswer};
use super::inbox::Token;
use super::intents::Intents;
use super::interest::{FIRST_SID, Interest};
use super::lane::Append;
use super::link::{Fence, LinkEvent, LinkFault, LinkOut, LinkSettings};
use super::partition::{
    ACKS_SID, ANSWERS_SID, FeedStage, MARKS_SID, OpenFence, Partition, PartitionLimits, RETRY,
    STORED_PREFIX, Search, message_of,
};
use super::publish::{
    MESSAGE_ID, PublishAnswer, encode_unacknowledged, mark_sequence, read_publish_answer,
};
use super::replay::Fetched;
use super::requests::{Pending, Purpose, Scan};
use super::retained::RetainedQueries;
use super::sessions::wire::{CONNECTED_SID, HomeSubjects, LET_GO_SID};
use super::sessions::{Owner, Sessions, SessionsOut};
use super::shared::{GROUP_SID, SharedGroups};
use super::stored::{NotStored, Stored};
use crate::proto::bridge::message_headers::{ReadBuffers, ReadMessage, read_message};
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_table::RingTable;
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::handler::Dial;
use crate::proto::mqtt::QoS;
use crate::proto::nats::{Headers, Message as NatsMessage, Subject, put_decimal};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{Lane, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Record};
use crate::proto::routing::has_wildcard;
use crate::proto::session::Ticket;
use crate::proto::shard_state::{AppendToken, Joined, Replayed, RetainedMessage, SharedMessage};
use crate::proto::time::Timestamp;
use bytes::Bytes;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::{io, mem};

/// The lane in which fences behind subscriptions are counted.
const INTEREST_LANE: Lane = Lane(1);
/// The lane of the first partition.
const FIRST_LANE: u16 = 2;
/// Messages read at once of what was missed while there was no link.
const FEED_BATCH: u16 = 500;
/// Messages of a topic looked at at once for one that may have been stored before a crash.
const SEARCH_BATCH: u16 = 100;

/// Where a live message is; one of QoS 0 is nowhere.
pub type MaybePlace = Option<(PartitionId, Sequence)>;

/// Takes the messages of the feed, in order.
pub type Deliver<'d> = dyn FnMut(&mut JetStream, MaybePlace, &Message<'_>) + 'd;

/// What is to be done.
#[derive(Debug, Default)]
pub struct JetStreamOut {
    /// Connections to make; tokens are places of partitions.
    pub dials: Vec<Dial>,
    /// Connections to close.
    pub closes: Vec<ConnectionId>,
    /// Acknowledged, lane by lane.
    pub appended: Vec<AppendToken>,
    /// How far the feed is.
    pub watermarks: Vec<(PartitionId, Sequence)>,
    /// For sessions that are behind.
    pub replayed: Vec<(Ticket, Replayed)>,
    /// Single messages.
    pub fetched: Vec<Fetched>,
    /// Pages of retained messages: question, messages, where the next page begins.
    pub retained: Vec<(u64, Vec<RetainedMessage>, Option<Box<str>>)>,
    /// Questions for retained messages that could not be answered.
    pub retained_failed: Vec<u64>,
    /// Answers of groups to those who join.
    pub joined: Vec<(Ticket, Joined)>,
    /// Messages of groups for members.
    pub shared: Vec<(Ticket, SharedMessage)>,
    /// What came of sessions; before what was appended is acknowledged.
    pub sessions: SessionsOut,
}

/// What a shard's part is made of.
#[derive(Debug)]
pub struct JetStreamSettings {
    /// In force at start.
    pub ring: Arc<RingTable>,
    /// How links to each sub-cluster behave, by its name, with the servers that were configured.
    pub links: Vec<(Arc<LinkSettings>, Vec<std::net::SocketAddr>)>,
    /// Of each partition.
    pub limits: PartitionLimits,
    /// Where answers go: one or more tokens, no other shard's.
    pub inbox_prefix: String,
    /// Drawn at random for this shard and start.
    pub origin: u64,
    /// Sessions are in JetStream, too.
    pub sessions: Option<SharedSessions>,
}

/// What a shard has to know to have sessions in JetStream.
#[derive(Clone, Debug)]
pub struct SharedSessions {
    /// Who it is.
    pub owner: Owner,
    /// Sessions of this shard that are online, or on their way there or away, at most.
    pub count_max: u64,
}

/// What happened so far. Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JetStreamCounters {
    /// Messages of QoS 0 dropped because a link was away or took nothing.
    pub dropped: u64,
    /// Messages of the feed that are none of MQTT, or that could not be read.
    pub unreadable: u64,
    /// Links that were lost.
    pub links_lost: u64,
    /// Partitions whose retained messages a subscription did not get, as they were away.
    pub retained_skipped: u64,
    /// Publishes that a server refused for now.
    pub refused: u64,
}

/// One shard's part of the JetStream upstream.
#[derive(Debug)]
pub struct JetStream {
    pub(super) now: Timestamp,
    ring: Ring,
    pub(super) stored: TopicPrefix,
    /// In the order of the ring.
    pub(super) partitions: Vec<Partition>,
    interest: Interest,
    /// The number of the next fence, and the last of which all are passed.
    next_fence: u64,
    in_force: u64,
    pub(super) retained: RetainedQueries,
    pub(super) shared: SharedGroups,
    limits: PartitionLimits,
    origin: u64,
    /// What stands before the number in the reply subject of its messages of QoS 0.
    own_source: Vec<u8>,
    next_message: u64,
    pub(super) intents: Intents,
    /// Those of this shard, if they are in JetStream.
    pub(super) sessions: Option<Sessions>,
    /// In the order of the partitions.
    pub(super) session_homes: Vec<HomeSubjects>,
    /// See [`JetStream::stop`].
    stopping: bool,
    topic_hashes: ahash::RandomState,
    topic: Vec<u8>,
    subject: Vec<u8>,
    source: Vec<u8>,
    read: ReadBuffers,
    /// What happened so far.
    pub counters: JetStreamCounters,
    /// What is to be done.
    pub out: JetStreamOut,
}

impl JetStream {
    /// Links to nobody yet. A member of the ring whose sub-cluster is not configured has none.
    #[must_use]
    pub fn new(settings: &JetStreamSettings, seed: u64) -> Self {
        let JetStreamSettings { ring, links, limits, inbox_prefix, origin, sessions } = settings;
        let partition = |member: &crate::proto::bridge::ring_table::Member| {
            let link = links.iter().find(|(link, _)| link.name == member.sub_cluster);
            let (settings, servers) = link.expect("the control thread tells no other ring");
            let prefix = format!("{inbox_prefix}.{}", member.partition.0);
            let seed = seed ^ u64::from(member.partition.0);
            Partition::new(member.partition, Arc::clone(settings), servers, prefix, limits, seed)
        };
        Self {
            now: Timestamp::START,
            ring: Ring::new(ring),
            stored: TopicPrefix::new(STORED_PREFIX).expect("made of letters"),
            partitions: ring.members().iter().map(partition).collect(),
            interest: Interest::default(),
            next_fence: 1,
            in_force: 0,
            retained: RetainedQueries::default(),
            shared: SharedGroups::new(limits.shared),
            limits: limits.clone(),
            origin: *origin,
            own_source: format!("q.{origin}.").into_bytes(),
            next_message: 0,
            intents: Intents::default(),
            sessions: sessions.clone().map(|SharedSessions { owner, count_max }| {
                Sessions::new(owner, ring.members().len(), count_max)
            }),
            session_homes: ring
                .members()
                .iter()
                .map(|member| HomeSubjects::new(member.partition))
                .collect(),
            stopping: false,
            topic_hashes: ahash::RandomState::new(),
            topic: Vec::new(),
            subject: Vec::new(),
            source: Vec::new(),
            read: ReadBuffers::default(),
            counters: JetStreamCounters::default(),
            out: JetStreamOut::default(),
        }
    }

    /// The time of what happens next.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// The partitions, as sessions know them.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> {
        self.partitions.iter().map(|partition| partition.id)
    }

    /// Whether `id` is the connection of a link.
    #[must_use]
    pub fn is_link(&self, id: ConnectionId) -> bool {
        self.place_of(id).is_some()
    }

    fn place_of(&self, id: ConnectionId) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.connection == Some(id))
    }

    /// The place of the partition that owns a topic.
    pub(super) fn owner(&self, topic: &str) -> usize {
        let owner = self.ring.owner(topic);
        let place = self.partitions.iter().position(|partition| partition.id == owner);
        place.expect("the ring's members are the partitions")
    }

    pub(super) fn place(&self, id: PartitionId) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.id == id)
    }

    /// The control thread says something.
    pub fn handle_news(&mut self, news: ControlNews) {
        match news {
            // A ring that changes while it is in use comes with its own steps.
            ControlNews::Ring(_) => {}
            ControlNews::Partition(status) => self.handle_status(status),
        }
    }

    fn handle_status(&mut self, status: PartitionStatus) {
        let Some(place) = self.place(status.partition) else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let created = partition.status.as_ref().map(|before| before.created);
        if created.is_some_and(|created| created != status.created) {
            tracing::error!(
                partition = partition.id.0,
                "the stream was made anew: what it held is gone"
            );
            partition.marks.end = Sequence::ZERO;
            partition.forget_read(Sequence(1));
            self.restart_link(place, "the stream was made anew");
        }
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if let Some(leader) = status.leader
            && partition.address != Some(leader)
        {
            if let Some(link) = &mut partition.link {
                link.prefer(leader);
            }
            if partition.address.is_some() {
                self.restart_link(place, "the leader is another server");
            }
        }
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if partition.feed.fed == Sequence::ZERO {
            // What is stored already is nobody's that subscribes from here on.
            partition.feed.fed = status.last.next();
        }
        let is_linked = partition.ready && status.leader == partition.address;
        partition.feed.confirmed.look(partition.feed.fed, is_linked);
        // More is stored than was fed: nothing of it may concern this shard, which a mark tells.
        if partition.feed.stage == FeedStage::Live && status.last >= partition.feed.fed {
            partition.marks.want();
        }
        partition.status = Some(status);
    }

    fn restart_link(&mut self, place: usize, why: &str) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        tracing::info!(partition = partition.id.0, why, "link: connecting anew");
        self.out.closes.extend(partition.connection);
        let now = self.now;
        if let Some(link) = &mut partition.link {
            link.restart(now.after(RETRY));
        }
        self.detach(place);
    }

    fn detach(&mut self, place: usize) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        partition.detach();
        partition.address = None;
        partition.fences.clear();
        partition.passed = Fence::default();
        // What it had not fenced is in force once the link is back, and SUBACK does not wait for that.
        self.next_fence += u64::from(mem::take(&mut partition.has_new_interest));
        self.shared.lose(place);
        self.lose_sessions(place);
        self.out.retained_failed.extend(self.retained.lose(place));
        self.pass_fences();
    }

    fn lose_link(&mut self, place: usize, fault: &LinkFault) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let address = partition.address;
        tracing::warn!(partition = partition.id.0, ?address, %fault, "link: lost");
        self.counters.links_lost += 1;
        self.out.closes.extend(partition.connection);
        self.detach(place);
    }

    /// The connection asked for under `token` is there, or not.
    pub fn dialed(&mut self, token: u64, result: Result<ConnectionId, io::ErrorKind>) {
        let now = self.now;
        let place = place_of_dial(token);
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let is_last = dial_token(place, partition.dial) == token && partition.address.is_some();
        if !is_last || partition.connection.is_some() {
            // Of an attempt that was given up for another.
            self.out.closes.extend(result.ok());
            return;
        }
        partition.connection = result.ok();
        let told = partition.link.as_mut().map(|link| link.handle_dialed(now, result.map(drop)));
        if let Some(Err(fault)) = told {
            self.lose_link(place, &fault);
        }
    }

    /// The connection of a link is gone.
    pub fn closed(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(place) = self.place_of(id) else {
            return;
        };
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.connection = None;
            if let Some(link) = &mut partition.link {
                link.handle_closed(now);
            }
        }
        self.lose_link(place, &LinkFault::Closed);
    }

    /// Bytes came on the connection of a link. Returns how many were consumed.
    pub fn received(&mut self, id: ConnectionId, bytes: &[u8], deliver: &mut Deliver<'_>) -> usize {
        let Some(place) = self.place_of(id) else {
            return bytes.len();
        };
        let Some(partition) = self.partitions.get_mut(place) else {
            return bytes.len();
        };
        let Some(mut link) = partition.link.take() else {
            return bytes.len();
        };
        let mut out = mem::take(&mut partition.out);
        let result = link.handle_received(self.now, bytes, &mut out, &mut |event, _| {
            self.handle_event(place, &event, deliver);
        });
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.link = Some(link);
            out.append(&mut partition.out);
            partition.out = out;
        }
        if self.partitions.get_mut(place).is_some_and(|one| mem::take(&mut one.is_misled)) {
            self.restart_link(place, "the server does not lead");
            return bytes.len();
        }
        match result {
            Ok(consumed) => consumed,
            Err(fault) => {
                self.lose_link(place, &fault);
                bytes.len()
            }
        }
    }

    fn handle_event(&mut self, place: usize, event: &LinkEvent<'_>, deliver: &mut Deliver<'_>) {
        match event {
            LinkEvent::Ready(info) => {
                let server = info.server_name.as_str();
                self.attach(place, server);
            }
            LinkEvent::Message(message) => match message.sid {
                ACKS_SID => self.handle_acknowledged(place, message),
                ANSWERS_SID => self.handle_answer(place, message, deliver),
                LET_GO_SID..=CONNECTED_SID => self.handle_session_message(place, message),
                MARKS_SID | FIRST_SID..GROUP_SID => self.handle_live(place, message, deliver),
                GROUP_SID.. => self.handle_group_message(place, message),
                _ => {}
            },
            LinkEvent::Passed(fence) => self.handle_passed(place, *fence),
            LinkEvent::Info(info) => {
                tracing::debug!(place, lame_duck = info.lame_duck_mode, "link: news of the server");
            }
            LinkEvent::Refused(text) => {
                self.note_refusal(place, &String::from_utf8_lossy(text));
            }
        }
    }

    fn attach(&mut self, place: usize, server: &str) {
        let Self { ring, partitions, interest, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let id = partition.id;
        let leader = partition.status.as_ref().map(|status| status.leader_name.as_str());
        if leader.is_some_and(|leader| leader != server) {
            partition.is_misled = true;
            return;
        }
        tracing::info!(partition = id.0, server, address = ?partition.address, "link: ready");
        partition.attach(interest, |filter| has_wildcard(filter) || ring.owner(filter) == id);
        self.send_due(place);
        self.attach_groups(place);
        self.attach_sessions(place);
    }

    /// The server refused something and goes on: said once a link, as clients may cause it again and
    /// again.
    fn note_refusal(&mut self, place: usize, text: &str) {
        self.counters.refused += 1;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if !mem::replace(&mut partition.has_warned, true) {
            let partition = partition.id.0;
            tracing::warn!(partition, text, "link: refused; further refusals are not logged");
        }
    }

    fn handle_passed(&mut self, place: usize, fence: Fence) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        partition.passed = fence;
        partition.pass_fences();
        self.pass_fences();
    }

    /// Tells what is in force on all links that are there.
    fn pass_fences(&mut self) {
        let open = self.partitions.iter().filter_map(|partition| partition.fences.front());
        let lowest = open.map(|open| open.number).min().unwrap_or(self.next_fence);
        let in_force = lowest - 1;
        if in_force > self.in_force {
            self.in_force = in_force;
            self.out.appended.push(AppendToken { lane: INTEREST_LANE, number: in_force });
        }
    }

    fn handle_acknowledged(&mut self, place: usize, message: &NatsMessage<'_>) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(token) = partition.acks.token(message.subject) else {
            return;
        };
        match read_publish_answer(message.headers, message.payload) {
            Ok(PublishAnswer::Stored(ack)) => {
                partition.refused = 0;
                if partition.feed.stage == FeedStage::Live && !ack.is_duplicate {
                    // Everything before it was republished before it was acknowledged.
                    partition.feed.fed = ack.sequence.next().max(partition.feed.fed);
                }
                self.handle_stored(place, token, ack.sequence);
            }
            Ok(answer @ (PublishAnswer::Refused(_) | PublishAnswer::NoResponders)) => {
                self.counters.refused += 1;
                tracing::debug!(partition = partition.id.0, ?answer, "publish: refused for now");
                let again_at = partition.refused_until(now);
                partition.lane.retry_at(token, again_at);
            }
            Err(fault) => {
                tracing::debug!(partition = partition.id.0, %fault, "publish: unreadable answer");
            }
        }
    }

    /// A message is stored; one with the RETAIN flag is to be retained, too.
    fn handle_stored(&mut self, place: usize, token: Token, sequence: Sequence) {
        let append = self.partitions.get(place).and_then(|partition| partition.lane.get(token));
        if append.is_some_and(|append| message_of(&append.body).retain) {
            self.put_retained(place, token, sequence);
        } else {
            self.end_append(place, token, sequence);
        }
    }

    /// A publish is done with: the next of its topic goes out.
    pub(super) fn end_append(&mut self, place: usize, token: Token, sequence: Sequence) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let next = partition.lane.end(token, sequence, *now);
        if let Some(next) = next.filter(|_| partition.ready) {
            partition.send(next, stored, *now);
        }
        if let Some(last) = partition.lane.release() {
            self.out.appended.push(AppendToken { lane: lane_of(place), number: last.0 });
        }
    }

    fn handle_answer(
        &mut self,
        place: usize,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(token) = partition.answers.token(message.subject) else {
            return;
        };
        let Some(pending) = partition.requests.take(token, self.now) else {
            return;
        };
        match pending {
            Pending::Mark(number) => self.handle_mark(place, number, message, deliver),
            Pending::Consumer(group) => self.handle_consumer(place, group, message),
            Pending::Session(request) => self.handle_session_answer(place, &request, message),
            Pending::RetainedPut(publish) => self.handle_retained_put(place, publish, message),
            Pending::Scan(scan) => {
                if self.handle_scan(place, &scan, message, deliver)
                    && let Some(partition) = self.partitions.get_mut(place)
                {
                    partition.requests.put_back(token, Pending::Scan(scan));
                }
            }
        }
    }

    fn handle_mark(
        &mut self,
        place: usize,
        number: u64,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let answer = read_publish_answer(message.headers, message.payload);
        let Some(end) = answer.as_ref().ok().and_then(mark_sequence) else {
            tracing::debug!(partition = partition.id.0, ?answer, "mark: no answer yet");
            partition.marks.fail(now.after(RETRY));
            partition.pass_fences();
            self.pass_fences();
            return;
        };
        let end_before = partition.marks.end;
        if !partition.marks.answer(number, end) {
            return;
        }
        if end < end_before {
            tracing::error!(
                partition = partition.id.0,
                end_before = end_before.0,
                end = end.0,
                "the stream has lost its end: acknowledged messages are gone, and sequences are used again"
            );
            partition.forget_read(end.next());
        }
        partition.pass_fences();
        match partition.feed.stage {
            FeedStage::Live => partition.feed.fed = end.next().max(partition.feed.fed),
            FeedStage::ExpectMark(mark) if partition.marks.answered >= mark => {
                let until = end.next();
                if partition.feed.fed == Sequence::ZERO || partition.feed.fed > until {
                    // Nothing was fed yet, or by a stream that is no more.
                    partition.feed.fed = until;
                }
                partition.feed.stage = FeedStage::Reading { until };
                self.read_on(place, deliver);
            }
            FeedStage::ExpectMark(_) | FeedStage::Detached | FeedStage::Reading { .. } => {}
        }
        self.pass_fences();
    }

    /// Reads what the feed missed, or goes live.
    fn read_on(&mut self, place: usize, deliver: &mut Deliver<'_>) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let FeedStage::Reading { until } = partition.feed.stage else {
            return;
        };
        if partition.feed.fed < until {
            let from = partition.feed.fed.max(Sequence(1));
            let batch = NonZeroU16::new(FEED_BATCH).expect("not 0");
            let scan = Scan { purpose: Purpose::Feed, from, subject: None, batch };
            partition.ask(scan, false, now);
            return;
        }
        let fed = partition.feed.fed;
        let Some(later) = partition.tail.from(fed) else {
            // More came meanwhile than the tail holds: that is read, too.
            partition.feed.stage = FeedStage::ExpectMark(partition.marks.want());
            return;
        };
        let later: Vec<_> = later.cloned().collect();
        partition.feed.stage = FeedStage::Live;
        let id = partition.id;
        tracing::info!(partition = id.0, at = fed.0, "feed: live");
        for (sequence, body) in later {
            let is_new = self.partitions.get_mut(place).is_some_and(|partition| {
                partition.feed.fed = sequence.next();
                partition.is_new(sequence)
            });
            if is_new {
                deliver(self, Some((id, sequence)), &message_of(&body));
            }
        }
    }

    /// One message that answers a question for stored ones. Whether more are to come.
    fn handle_scan(
        &mut self,
        place: usize,
        scan: &Scan,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) -> bool {
        let more = match scan.request().read(message.headers, message.payload) {
            Ok(Answer::Message(stored)) => {
                return self.handle_found(place, scan.purpose, &stored, message, deliver);
            }
            Ok(Answer::End { pending_count, last_sequence, .. }) => {
                self.pass_over(place, scan.purpose, last_sequence);
                pending_count > 0
            }
            Ok(Answer::NotFound) => false,
            Ok(answer @ (Answer::NoResponders | Answer::TooManyResults)) => {
                tracing::debug!(place, ?answer, "scan: no answer for now");
                self.fail_scan(place, scan.purpose);
                return false;
            }
            // Something that a native client has published, with headers that are none.
            Err(InvalidAnswer::NotStored(_)) => {
                self.counters.unreadable += 1;
                return true;
            }
            Err(fault) => {
                tracing::debug!(place, %fault, "scan: unreadable answer");
                self.fail_scan(place, scan.purpose);
                return false;
            }
        };
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        if !more && partition.may_lag(scan.purpose) {
            // Or what was to come has been removed: behind another mark that is known.
            partition.marks.want();
            self.fail_scan(place, scan.purpose);
            return false;
        }
        match scan.purpose {
            Purpose::Feed => {
                if let FeedStage::Reading { until } = partition.feed.stage
                    && !more
                {
                    partition.feed.fed = until.max(partition.feed.fed);
                }
                self.read_on(place, deliver);
            }
            Purpose::Retained(query) => self.end_retained(query, more),
            Purpose::RetainedLast(token) => self.replace_retained(place, token, None),
            Purpose::Stored(token) => self.end_search(place, token, more),
            Purpose::Subject { .. } | Purpose::Page(_) | Purpose::Fetch { .. } => {
                partition.replays.take_end(scan.purpose, more);
            }
        }
        false
    }

    /// Everything up to `sequence` that was asked for has come, whatever it was.
    fn pass_over(&mut self, place: usize, purpose: Purpose, sequence: Sequence) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match purpose {
            // What is behind the end is in the tail, or comes by itself.
            Purpose::Feed => {
                if let FeedStage::Reading { until } = partition.feed.stage {
                    partition.feed.fed = sequence.next().min(until).max(partition.feed.fed);
                }
            }
            Purpose::Stored(token) => {
                let search = partition.searches.iter_mut().find(|search| search.token == token);
                if let Some(search) = search {
                    search.next = sequence.next().max(search.next);
                }
            }
            Purpose::Subject { .. }
            | Purpose::Page(_)
            | Purpose::Fetch { .. }
            | Purpose::Retained(_)
            | Purpose::RetainedLast(_) => partition.replays.pass_over(purpose, sequence),
        }
    }

    fn fail_scan(&mut self, place: usize, purpose: Purpose) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        match purpose {
            Purpose::Feed => {
                partition.feed.stage = FeedStage::ExpectMark(partition.marks.want());
                partition.marks.fail(now.after(RETRY));
            }
            Purpose::Retained(query) => self.out.retained_failed.extend(self.retained.fail(query)),
            Purpose::RetainedLast(token) => partition.lane.retry_at(token, now.after(RETRY)),
            Purpose::Stored(token) => {
                let search = partition.searches.iter_mut().find(|search| search.token == token);
                if let Some(search) = search {
                    (search.asked, search.retry_at) = (false, now.after(RETRY));
                }
            }
            Purpose::Subject { .. } | Purpose::Page(_) | Purpose::Fetch { .. } => {
                partition.retry_scan(purpose, now);
            }
        }
    }

    /// A stored message that was asked for. Whether more are to come.
    fn handle_found(
        &mut self,
        place: usize,
        purpose: Purpose,
        stored: &Stored<'_>,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) -> bool {
        match purpose {
            Purpose::RetainedLast(token) => {
                self.replace_retained(place, token, Some((stored.sequence, message.headers)));
                return false;
            }
            Purpose::Retained(query) => {
                self.take_retained(place, query, stored, message);
                return true;
            }
            Purpose::Stored(token) => {
                return self.is_another(place, token, stored, message.headers);
            }
            Purpose::Feed | Purpose::Subject { .. } | Purpose::Page(_) | Purpose::Fetch { .. } => {}
        }
        let sequence = stored.sequence;
        let is_feed = purpose == Purpose::Feed;
        if is_feed && let Some(partition) = self.partitions.get_mut(place) {
            // What is behind the end comes by itself, into the tail, where replays look for it.
            let is_live =
                !matches!(partition.feed.stage, FeedStage::Reading { until } if sequence < until);
            if is_live || sequence < partition.feed.fed {
                return true;
            }
            partition.feed.fed = sequence.next();
        }
        self.pass_over(place, purpose, sequence);
        let id = self.partitions.get(place).map(|partition| partition.id);
        self.with_message(stored, message.headers, message.payload, |this, message| {
            if is_feed {
                let is_new = |partition: &mut Partition| partition.is_new(sequence);
                if let Some(id) = id.filter(|_| is_delivered(message))
                    && this.partitions.get_mut(place).is_some_and(is_new)
                {
                    deliver(this, Some((id, sequence)), message);
                }
            } else if let Some(partition) = this.partitions.get_mut(place)
                && is_delivered(message)
            {
                partition.replays.take_message(purpose, sequence, encoded(message));
            }
        });
        true
    }

    /// Reads what a stored message is to MQTT, if it is anything.
    fn with_message(
        &mut self,
        stored: &Stored<'_>,
        headers: Headers<'_>,
        payload: &[u8],
        take: impl FnOnce(&mut Self, &Message<'_>),
    ) {
        let mut topic_buffer = mem::take(&mut self.topic);
        let mut buffers = mem::take(&mut self.read);
        match self.stored.topic(stored.subject, &mut topic_buffer) {
            Ok(topic) => {
                let received_at = stored.stored_at.timestamp();
                let ReadMessage { message, unreadable_count } =
                    read_message(topic, headers, payload, received_at, &mut buffers);
                self.counters.unreadable += u64::from(unreadable_count);
                take(self, &message);
            }
            Err(_) => self.counters.unreadable += 1,
        }
        self.topic = topic_buffer;
        self.read = buffers;
    }

    /// A message that came by itself.
    fn handle_live(&mut self, place: usize, message: &NatsMessage<'_>, deliver: &mut Deliver<'_>) {
        let stored = match Stored::read(message.headers) {
            Ok(stored) => stored,
            Err(NotStored::NoStream) => {
                self.handle_unacknowledged(place, message, deliver);
                return;
            }
            Err(_) => {
                self.counters.unreadable += 1;
                return;
            }
        };
        let sequence = stored.sequence;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let (id, is_live) = (partition.id, partition.feed.stage == FeedStage::Live);
        if is_live {
            if sequence < partition.feed.fed {
                return;
            }
            partition.feed.fed = sequence.next();
        }
        self.with_message(&stored, message.headers, message.payload, |this, message| {
            if !is_delivered(message) {
                return;
            }
            if let Some(partition) = this.partitions.get_mut(place) {
                partition.tail.push(sequence, encoded(message).into());
            }
            let is_new = |partition: &mut Partition| partition.is_new(sequence);
            if is_live && this.partitions.get_mut(place).is_some_and(is_new) {
                deliver(this, Some((id, sequence)), message);
            }
        });
    }

    fn handle_unacknowledged(
        &mut self,
        place: usize,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        // What this shard has published itself it has given to its sessions itself; the link has an
        // echo for the sake of groups.
        let is_own = message.reply_to.is_some_and(|source| source.starts_with(&self.own_source));
        if is_own || !partition.is_first_copy(message.reply_to) {
            return;
        }
        let mut topic_buffer = mem::take(&mut self.topic);
        let mut buffers = mem::take(&mut self.read);
        if let Ok(topic) = partition.live.topic(message.subject, &mut topic_buffer) {
            let (headers, payload) = (message.headers, message.payload);
            let read = read_message(topic, headers, payload, self.now, &mut buffers);
            self.counters.unreadable += u64::from(read.unreadable_count);
            let message = Message { qos: QoS::AtMostOnce, ..read.message };
            deliver(self, None, &message);
        } else {
            self.counters.unreadable += 1;
        }
        self.topic = topic_buffer;
        self.read = buffers;
    }

    /// End of a sweep: asks, sends and answers whatever can be.
    pub fn flush(&mut self) {
        if self.is_over() {
            self.out
                .closes
                .extend(self.partitions.iter_mut().filter_map(|one| one.connection.take()));
            return;
        }
        let now = self.now;
        let mut is_fenced = false;
        self.drive_groups();
        for place in 0..self.partitions.len() {
            self.drive_link(place);
            self.search(place);
            let Some(partition) = self.partitions.get_mut(place) else {
                continue;
            };
            partition.requests.prune();
            if partition.ready
                && !partition.requests.is_empty()
                && partition.requests.next_timeout() <= now
            {
                self.restart_link(place, "a question was not answered in time");
                continue;
            }
            if partition.ready
                && mem::take(&mut partition.has_new_interest)
                && let Some(link) = &mut partition.link
            {
                let fence = link.put_fence(&mut partition.out);
                let (mark, number) = (partition.marks.want(), self.next_fence);
                partition.fences.push_back(OpenFence { fence, mark, number });
                is_fenced = true;
            }
            self.send_due(place);
            let Some(partition) = self.partitions.get_mut(place) else {
                continue;
            };
            let JetStreamOut { replayed, fetched, watermarks, .. } = &mut self.out;
            partition.advance_replays(now, replayed, fetched);
            partition.send_mark(now);
            let fed = match partition.is_replicated() {
                true => partition.feed.confirmed.below(),
                false => partition.feed.fed,
            };
            if fed != partition.feed.told {
                partition.feed.told = fed;
                watermarks.push((partition.id, fed));
            }
        }
        self.next_fence += u64::from(is_fenced);
        self.pass_fences();
        self.drive_sessions();
    }

    /// Tries again what was not acknowledged in time.
    fn send_due(&mut self, place: usize) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place).filter(|partition| partition.ready) else {
            return;
        };
        for (token, sequence) in partition.send_due(stored, *now) {
            self.put_retained(place, token, sequence);
        }
    }

    /// Lets a link connect, ask whether its server is there, or give it up.
    fn drive_link(&mut self, place: usize) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        // Where the leader is, is for the control thread to say.
        if partition.status.as_ref().is_none_or(|status| status.leader.is_none())
            && partition.address.is_none()
        {
            return;
        }
        let Partition { link, out, status, .. } = partition;
        if let Some(leader) = status.as_ref().and_then(|status| status.leader)
            && let Some(link) = link
        {
            link.prefer(leader);
        }
        let Some(result) = link.as_mut().map(|link| link.handle_timeout(now, out)) else {
            return;
        };
        match result {
            Ok(Some(LinkOut::Dial { address, deadline })) => {
                partition.address = Some(address);
                partition.dial += 1;
                let token = dial_token(place, partition.dial);
                self.out.dials.push(Dial { token, address, deadline });
            }
            Ok(Some(LinkOut::Close)) => self.out.closes.extend(partition.connection),
            Ok(None) => {}
            Err(fault) => self.lose_link(place, &fault),
        }
    }

    /// When [`JetStream::flush`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Timestamp {
        if self.is_over() {
            return Timestamp::NEVER;
        }
        let timeouts = self.partitions.iter().map(|partition| {
            let can_dial = partition.status.as_ref().is_some_and(|one| one.leader.is_some());
            if can_dial || partition.address.is_some() {
                partition.next_timeout()
            } else {
                Timestamp::NEVER
            }
        });
        timeouts
            .min()
            .unwrap_or(Timestamp::NEVER)
            .min(self.shared.next_timeout())
            .min(self.sessions_timeout())
    }

    /// Nothing waits to be stored.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partitions.iter().all(|partition| partition.lane.is_empty())
            && self.sessions.as_ref().is_none_or(Sessions::is_idle)
    }

    /// What waits to be sent on each link, to be moved where it is sent from.
    pub fn take_bytes(&mut self, mut take: impl FnMut(ConnectionId, &mut Vec<u8>)) {
        for partition in &mut self.partitions {
            if let Some(id) = partition.connection
                && !partition.out.is_empty()
            {
                take(id, &mut partition.out);
                partition.out.clear();
            }
        }
    }

    /// How many bytes wait on each link's connection to be sent.
    pub fn note_pending(&mut self, mut pending_bytes: impl FnMut(ConnectionId) -> usize) {
        for partition in &mut self.partitions {
            partition.pending_bytes = partition.connection.map_or(0, &mut pending_bytes);
        }
    }

    /// The node ends: links are closed once everything that was to be stored is.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn is_over(&self) -> bool {
        self.stopping && self.is_idle()
    }
}

/// What the upstream seam asks for; see [`super::forward::Forward`].
impl JetStream {
    /// Stores a message.
    pub(super) fn append(&mut self, message: &Message<'_>) -> AppendToken {
        let id = self.next_message_id();
        self.append_named(message, id)
    }

    /// Stores a message that has a name.
    pub(super) fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken {
        let (place, token, send) = self.push(message, id, true);
        let Self { partitions, stored, now, .. } = self;
        if let Some(partition) = partitions.get_mut(place).filter(|one| send && one.ready) {
            partition.send(token, stored, *now);
        }
        AppendToken { lane: lane_of(place), number: token.0 }
    }

    /// Stores a message once `recorded` is committed.
    pub(super) fn append_recorded(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        recorded: AppendToken,
    ) -> AppendToken {
        let (place, token, _) = self.push(message, id, false);
        self.intents.push(recorded, place, token);
        self.note_intent(message, place, token);
        AppendToken { lane: lane_of(place), number: token.0 }
    }

    /// Stores a message unless it is there already, at `from` or later.
    pub(super) fn append_unless_stored(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        from: Sequence,
    ) -> AppendToken {
        let (place, token, _) = self.push(message, id, false);
        self.note_intent(message, place, token);
        if let Some(partition) = self.partitions.get_mut(place) {
            partition.searches.push(Search {
                token,
                next: from,
                asked: false,
                retry_at: Timestamp::START,
            });
        }
        AppendToken { lane: lane_of(place), number: token.0 }
    }

    fn push(&mut self, message: &Message<'_>, id: MessageId, ready: bool) -> (usize, Token, bool) {
        let place = self.owner(message.topic);
        let mut body = Vec::with_capacity(message.encoded_bytes());
        message.encode(&mut body);
        let topic_hash = self.topic_hashes.hash_one(message.topic);
        let (sent, stored, pushed_at) = (None, None, self.now);
        let append = Append { body, id, topic_hash, ready, sent, stored, pushed_at };
        let now = self.now;
        let partition = self.partitions.get_mut(place).expect("the owner is a partition");
        let (token, send) = partition.lane.push(append, now);
        (place, token, send)
    }

    /// Looks for what may have been stored before a crash.
    fn search(&mut self, place: usize) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place).filter(|one| one.ready) else {
            return;
        };
        let mut searches = mem::take(&mut partition.searches);
        for search in searches.iter_mut().filter(|one| !one.asked && one.retry_at <= *now) {
            let Some(append) = partition.lane.get(search.token) else {
                continue;
            };
            let mut subject = Vec::new();
            if stored.subject(message_of(&append.body).topic, &mut subject).is_ok() {
                search.asked = true;
                let (purpose, from) = (Purpose::Stored(search.token), search.next);
                let from = from.max(Sequence(1));
                let batch = NonZeroU16::new(SEARCH_BATCH).expect("not 0");
                let subject = Some(subject.into_boxed_slice());
                partition.ask(Scan { purpose, from, subject, batch }, false, *now);
            }
        }
        searches.append(&mut partition.searches);
        partition.searches = searches;
    }

    /// A message with the topic of one that may have been stored before a crash. Whether it is not
    /// the one.
    fn is_another(
        &mut self,
        place: usize,
        token: Token,
        stored: &Stored<'_>,
        headers: Headers<'_>,
    ) -> bool {
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        let id = partition.lane.get(token).map(|append| append.id.text());
        let is_it = id.is_some_and(|id| headers.get(MESSAGE_ID) == Some(&id[..]));
        if !is_it {
            let search = partition.searches.iter_mut().find(|search| search.token == token);
            if let Some(search) = search {
                search.next = stored.sequence.next();
            }
            return true;
        }
        partition.searches.retain(|search| search.token != token);
        self.handle_stored(place, token, stored.sequence);
        false
    }

    /// All there is of a topic was looked at, or with `more` not yet.
    fn end_search(&mut self, place: usize, token: Token, more: bool) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        if more {
            let search = partition.searches.iter_mut().find(|search| search.token == token);
            search.into_iter().for_each(|search| search.asked = false);
            return;
        }
        partition.searches.retain(|search| search.token != token);
        if partition.lane.make_ready(token, *now) && partition.ready {
            partition.send(token, stored, *now);
        }
    }

    /// A name for a message that is new.
    pub(super) fn next_message_id(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId { origin: self.origin, number: self.next_message }
    }

    /// Publishes a message of QoS 0 to whoever is there.
    pub(super) fn publish(&mut self, message: &Message<'_>) {
        let place = self.owner(message.topic);
        let Self { partitions, subject, source, limits, counters, next_message, .. } = self;
        let own_source = &self.own_source;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let waiting_bytes = partition.pending_bytes + partition.out.len();
        if !partition.ready || waiting_bytes >= limits.link_write_bytes_max {
            counters.dropped += 1;
            return;
        }
        let Ok(to) = partition.live.subject(message.topic, subject) else {
            return;
        };
        *next_message += 1;
        source.clear();
        source.extend_from_slice(own_source);
        put_decimal(*next_message, source);
        let source = Subject::from_checked(source);
        encode_unacknowledged(to, source, message, self.now, &mut partition.out);
    }

    pub(super) fn add_interest(&mut self, filter: &str) {
        let Some(filter_place) = self.interest.add(filter) else {
            return;
        };
        for place in self.places_of(filter) {
            if let Some(partition) = self.partitions.get_mut(place) {
                if partition.ready {
                    partition.subscribe(filter_place, filter);
                }
                partition.has_new_interest |= partition.is_expected();
            }
        }
    }

    pub(super) fn remove_interest(&mut self, filter: &str) {
        let Some(filter_place) = self.interest.remove(filter) else {
            return;
        };
        for place in self.places_of(filter) {
            if let Some(partition) = self.partitions.get_mut(place)
                && partition.ready
            {
                partition.unsubscribe(filter_place, filter);
            }
        }
    }

    /// The partitions that may have messages for a filter.
    pub(super) fn places_of(&self, filter: &str) -> std::ops::Range<usize> {
        if has_wildcard(filter) {
            0..self.partitions.len()
        } else {
            let place = self.owner(filter);
            place..place + 1
        }
    }

    pub(super) fn interest_in_force(&mut self) -> Option<AppendToken> {
        let is_new = self.partitions.iter().any(|partition| partition.has_new_interest);
        let number = if is_new { self.next_fence } else { self.next_fence - 1 };
        (number > self.in_force).then_some(AppendToken { lane: INTEREST_LANE, number })
    }

    pub(super) fn is_congested(&self, lane: Lane) -> bool {
        let place = lane.0.checked_sub(FIRST_LANE).map(usize::from);
        let partition = place.and_then(|place| self.partitions.get(place));
        partition.is_some_and(|partition| partition.lane.is_full())
    }

    pub(super) fn start_replay(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        from: Sequence,
        filters: Vec<Box<str>>,
        count_max: u32,
    ) {
        let Some(place) = self.place(partition) else {
            // The ring has it no more.
            let (messages, clamped) = (Vec::new(), true);
            let nothing =
                Replayed { partition, messages, next: from, end: true, clamped, alone: true };
            self.out.replayed.push((ticket, nothing));
            return;
        };
        let Self { partitions, stored, .. } = self;
        if let Some(partition) = partitions.get_mut(place) {
            partition.start_replay(ticket, from, filters, count_max, stored);
        }
    }

    pub(super) fn start_fetch(
        &mut self,
        ticket: Ticket,
        partition: PartitionId,
        sequences: Vec<Sequence>,
    ) {
        if let Some(place) = self.place(partition)
            && let Some(partition) = self.partitions.get_mut(place)
        {
            partition.start_fetch(ticket, sequences);
        } else {
            let gone = sequences.into_iter().map(|sequence| (sequence, None)).collect();
            self.out.fetched.push((ticket, partition, gone));
        }
    }

    pub(super) fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes> {
        self.partitions.get(self.place(partition)?)?.tail.get(sequence)
    }

    /// Where the feed of the partition that owns a topic is.
    pub(super) fn fed_of(&self, topic: &str) -> Sequence {
        let partition = self.partitions.get(self.owner(topic));
        partition.map_or(Sequence::ZERO, |partition| partition.feed.fed)
    }

    pub(super) fn fed(&self, partition: PartitionId) -> Sequence {
        let partition = self.place(partition).and_then(|place| self.partitions.get(place));
        partition.map_or(Sequence::ZERO, |partition| partition.feed.fed)
    }
}

/// Names an attempt to connect: so many places are there, and the rest counts.
fn dial_token(place: usize, number: u64) -> u64 {
    number * PLACES_MAX + place as u64
}

fn place_of_dial(token: u64) -> usize {
    usize::try_from(token % PLACES_MAX).expect("partition ids are u16")
}

const PLACES_MAX: u64 = 1 << 16;

pub(super) fn lane_of(place: usize) -> Lane {
    Lane(FIRST_LANE + u16::try_from(place).expect("partition ids are u16"))
}

/// A stored message of QoS 0 is there for its retained value; it went to everyone when it came.
pub(super) fn is_delivered(message: &Message<'_>) -> bool {
    !(message.retain && message.qos == QoS::AtMostOnce)
}

pub(super) fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.encoded_bytes());
    Record::Message(*message).encode(&mut body);
    body
}
