//! The JetStream upstream as one shard sees it: its links, and what goes over them.
//!
//! No I/O: what is to be sent waits in each partition's buffer, and connections to make or to close,
//! answers and acknowledgements in [`JetStream::out`].

mod seam;

use super::control::{ControlNews, PartitionStatus};
use super::group_inbox::GROUP_SID;
use super::held::Held;
use super::inbox::Token;
use super::intents::Intents;
use super::interest::{FIRST_SID, Interest};
use super::link::{Fence, LinkEvent, LinkFault, LinkOut};
use super::lost_tail::{Checked, LostTail};
use super::members::{LinkTo, Members};
use super::moving::ShardReport;
use super::partition::{
    ACKS_SID, ANSWERS_SID, FeedStage, MARKS_SID, OpenFence, Overdue, Partition, PartitionLimits,
    Prefixes, RETRY,
};
use super::replay::Fetched;
use super::requests::Pending;
use super::retained::RetainedQueries;
use super::sessions::wire::{CONNECTED_SID, HomeSubjects, LET_GO_SID};
use super::sessions::{LeaseLimits, Owner, Sessions, SessionsOut};
use super::shared::SharedGroups;
use crate::proto::bridge::message_headers::ReadBuffers;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_table::RingTable;
use crate::proto::handler::Dial;
use crate::proto::mqtt::QoS;
use crate::proto::nats::{Info, Message as NatsMessage};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{Lane, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Record};
use crate::proto::routing::has_wildcard;
use crate::proto::session::Ticket;
use crate::proto::shard_state::{
    AppendToken, ComesAfter, Joined, Replayed, RetainedPage, SharedMessage,
};
use crate::proto::time::Timestamp;
use seam::name_of;
use std::collections::HashMap;
use std::sync::Arc;
use std::{io, mem};

/// The lane in which fences behind subscriptions are counted.
const INTEREST_LANE: Lane = Lane(1);
/// The lane of the first partition, behind [`super::held::HELD_LANE`].
const FIRST_LANE: u16 = 3;

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
    /// Connections that are to go on in TLS, and the place of their sub-cluster among
    /// [`JetStreamSettings::links`].
    pub secures: Vec<(ConnectionId, u16)>,
    /// Acknowledged, lane by lane.
    pub appended: Vec<AppendToken>,
    /// How far the feed is.
    pub watermarks: Vec<(PartitionId, Sequence)>,
    /// Places that are used again, and what has become of those that sessions name; before what is read.
    pub lost_tails: Vec<LostTail>,
    /// See `lost_tails`.
    pub checked: Vec<Checked>,
    /// For sessions that are behind.
    pub replayed: Vec<(Ticket, Replayed)>,
    /// Single messages.
    pub fetched: Vec<Fetched>,
    /// Pages of retained messages, by question.
    pub retained: Vec<(u64, RetainedPage)>,
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
    pub links: Vec<LinkTo>,
    /// Of each partition.
    pub limits: PartitionLimits,
    /// Where answers go: one or more tokens, no other shard's.
    pub inbox_prefix: String,
    /// Drawn at random for this shard and start.
    pub origin: u64,
    /// Sessions are in JetStream, too.
    pub sessions: Option<SharedSessions>,
    /// Where it says what it knows of the ring.
    pub report: Arc<ShardReport>,
    /// What the gateway is called in the subjects of events: one token.
    pub gateway: Box<str>,
    /// Filters of topics that are for applications only.
    pub uplink: Box<[String]>,
}

/// What a shard has to know to have sessions in JetStream.
#[derive(Clone, Debug)]
pub struct SharedSessions {
    /// Who it is.
    pub owner: Owner,
    /// Sessions of this shard that are online, or on their way there or away, at most.
    pub count_max: u64,
    /// How long its leases last.
    pub lease: LeaseLimits,
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
    /// Looks for retained messages, of a subscription in a partition, that needed no question.
    pub retained_known: u64,
    /// Questions that they needed.
    pub retained_asked: u64,
    /// Publishes that a server refused for now.
    pub refused: u64,
    /// Sessions of gateways that were dead, looked after.
    pub sessions_adopted: u64,
    /// Leases that other gateways have taken.
    pub leases_lost: u64,
    /// How often a former link was not known to be read to its end in time.
    pub former_links_given_up: u64,
    /// How often a stream had lost its end.
    pub tails_lost: u64,
    /// Messages that were known to this shard, or in between, and were lost with it.
    pub messages_lost: u64,
    /// Events of clients told.
    pub events: u64,
    /// Events of clients not told because a link was away or took nothing, or a client id was too long.
    pub events_dropped: u64,
}

/// One shard's part of the JetStream upstream.
#[derive(Debug)]
pub struct JetStream {
    pub(super) now: Timestamp,
    pub(super) ring: Ring,
    pub(super) stored: Prefixes,
    /// Filters of topics that are for applications only.
    uplink: Box<[String]>,
    pub(super) members: Members,
    /// In the order of the ring.
    pub(super) partitions: Vec<Partition>,
    pub(super) interest: Interest,
    /// Publishes whose topics move.
    pub(super) held: Held,
    pub(super) report: Arc<ShardReport>,
    /// In the order of the partitions: see [`super::forward::Forward`].
    pub(super) comes_after: Vec<Vec<ComesAfter>>,
    /// Where it is not known yet how a partition is, somebody wants what was stored since then.
    pub(super) wanted_since: Timestamp,
    /// The number of the next fence, and the last of which all are passed.
    next_fence: u64,
    in_force: u64,
    pub(super) retained: RetainedQueries,
    pub(super) shared: SharedGroups,
    pub(super) limits: PartitionLimits,
    pub(super) gateway: Box<str>,
    pub(super) origin: u64,
    /// What stands before the number in the reply subject of its messages of QoS 0.
    pub(super) own_source: Vec<u8>,
    pub(super) next_message: u64,
    pub(super) intents: Intents,
    /// Wills on their way that a record has until they are stored: whose, and their names.
    pub(super) wills: HashMap<(usize, Token), (Box<str>, MessageId), ahash::RandomState>,
    /// Those of this shard, if they are in JetStream.
    pub(super) sessions: Option<Sessions>,
    /// In the order of the partitions.
    pub(super) session_homes: Vec<HomeSubjects>,
    /// See [`JetStream::stop`].
    stopping: bool,
    pub(super) topic_hashes: ahash::RandomState,
    pub(super) topic: Vec<u8>,
    pub(super) subject: Vec<u8>,
    source: Vec<u8>,
    pub(super) read: ReadBuffers,
    /// What happened so far.
    pub counters: JetStreamCounters,
    /// What is to be done.
    pub out: JetStreamOut,
}

impl JetStream {
    /// Links to nobody yet. A member of the ring whose sub-cluster is not configured has none.
    #[must_use]
    pub fn new(settings: &JetStreamSettings, seed: u64) -> Self {
        let JetStreamSettings {
            ring, links, limits, inbox_prefix, origin, sessions, report, ..
        } = settings;
        let members = Members::new(Arc::clone(ring), links.clone(), inbox_prefix.clone(), seed);
        let mut jetstream = Self {
            now: Timestamp::START,
            ring: Ring::new(ring),
            stored: Prefixes::new(),
            uplink: settings.uplink.clone(),
            members,
            partitions: Vec::new(),
            interest: Interest::default(),
            held: Held::new(limits.held_bytes_max),
            report: Arc::clone(report),
            comes_after: Vec::new(),
            wanted_since: Timestamp::NEVER,
            next_fence: 1,
            in_force: 0,
            retained: RetainedQueries::default(),
            shared: SharedGroups::new(limits.shared),
            limits: limits.clone(),
            gateway: settings.gateway.clone(),
            origin: *origin,
            own_source: format!("q.{origin}.").into_bytes(),
            next_message: 0,
            intents: Intents::default(),
            wills: HashMap::default(),
            sessions: sessions.clone().map(|SharedSessions { owner, count_max, lease }| {
                Sessions::new(owner, count_max, lease)
            }),
            session_homes: Vec::new(),
            stopping: false,
            topic_hashes: ahash::RandomState::new(),
            topic: Vec::new(),
            subject: Vec::new(),
            source: Vec::new(),
            read: ReadBuffers::default(),
            counters: JetStreamCounters::default(),
            out: JetStreamOut::default(),
        };
        jetstream.add_members();
        jetstream.note_takeovers();
        // What it has not heard of before may be published from now on.
        jetstream.close_gates(ring.takeovers().len());
        jetstream.report.note_links(jetstream.members.link_count());
        jetstream.report.see(jetstream.ring.epoch());
        jetstream
    }

    /// The time of what happens next.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        self.wanted_since = now.min(self.wanted_since);
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

    /// The place of the partition beside which the session of a client is kept. What takes topics over
    /// takes no sessions: these stay where they are.
    pub(super) fn home(&self, client_id: &str) -> usize {
        let home = self.place(self.ring.home(client_id));
        home.expect("the ring's members are the partitions")
    }

    pub(super) fn place(&self, id: PartitionId) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.id == id)
    }

    /// The control thread says something.
    pub fn handle_news(&mut self, news: ControlNews) {
        match news {
            ControlNews::Ring(table, ring) => {
                if table.epoch() > self.ring.epoch() {
                    self.members.table = table;
                    self.add_members();
                }
                self.handle_ring(ring);
            }
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
        if self.was_led_by_another(place, &status) {
            self.restart_link(place, "the leader was elected anew");
        }
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if let Some(time) = status.server_time {
            partition.note_clock(time, self.now);
        }
        if partition.feed.fed == Sequence::ZERO && self.interest.is_empty() {
            // What is stored already is nobody's that subscribes from here on.
            partition.feed.fed = status.last.next();
        }
        partition.note_last(&status);
        let is_linked = partition.ready && status.leader == partition.address;
        partition.feed.confirmed.look(partition.feed.fed, status.last, is_linked);
        partition.lives.look();
        // More is stored than was fed: nothing of it may concern this shard, which a mark tells.
        if partition.feed.stage == FeedStage::Live && status.last >= partition.feed.fed {
            partition.marks.want();
        }
        partition.status = Some(status);
    }

    /// The server of the link leads, and may not have since it was looked at last.
    fn was_led_by_another(&self, place: usize, status: &PartitionStatus) -> bool {
        let partition = self.partitions.get(place);
        let before = partition.and_then(|partition| partition.status.as_ref());
        partition.is_some_and(|partition| partition.address.is_some())
            && before.is_some_and(|before| before.leader_since != status.leader_since)
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
        match told {
            Some(Err(fault)) => self.lose_link(place, &fault),
            Some(Ok(Some(LinkOut::StartTls))) => self.secure(place),
            Some(Ok(_)) | None => {}
        }
    }

    /// A link is to go on in TLS.
    fn secure(&mut self, place: usize) {
        if let Some(partition) = self.partitions.get(place)
            && let Some(connection) = partition.connection
        {
            self.out.secures.push((connection, partition.tls_number));
        }
    }

    /// The connection of a link is in TLS.
    pub fn secured(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(place) = self.place_of(id) else {
            return;
        };
        let Some(Partition { link: Some(link), out, .. }) = self.partitions.get_mut(place) else {
            return;
        };
        if let Err(fault) = link.handle_secured(now, out) {
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
        if self.partitions.get_mut(place).is_some_and(|one| mem::take(&mut one.has_gap)) {
            self.restart_link(place, "a message did not come");
            return bytes.len();
        }
        if self.partitions.get_mut(place).is_some_and(|one| mem::take(&mut one.has_lost_end)) {
            self.restart_link(place, "the stream ends before where it ended");
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
                self.attach(place, info);
            }
            LinkEvent::StartTls => self.secure(place),
            LinkEvent::Message(message) => match message.sid {
                ACKS_SID => self.handle_acknowledged(place, message),
                ANSWERS_SID => self.handle_answer(place, message, deliver),
                LET_GO_SID..=CONNECTED_SID => self.handle_session_message(place, message),
                MARKS_SID | FIRST_SID..GROUP_SID => self.handle_live(place, message, deliver),
                GROUP_SID.. => self.handle_group_message(place, message),
                _ => {}
            },
            LinkEvent::Passed(fence) => self.handle_passed(place, *fence),
            LinkEvent::Info(info) => self.handle_server_news(place, info),
            LinkEvent::Refused(text) => {
                self.note_refusal(place, text);
            }
        }
    }

    fn attach(&mut self, place: usize, info: &Info) {
        let server = info.server_name.as_str();
        let Self { ring, partitions, interest, now, .. } = self;
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
        partition.begin_life(info);
        let home = u16::try_from(place).expect("partition ids are u16");
        let owns =
            |filter: &str| has_wildcard(filter) || ring.holders(filter).any(|holder| holder == id);
        partition.attach(home, interest, owns, *now);
        self.hold_back_wills(place);
        self.send_due(place);
        self.attach_groups(place);
        self.attach_sessions(place);
    }

    /// The server says something new of itself. One in lame duck mode has handed what it led to others
    /// before it says so, and takes no connection from then on: the link follows its leader, as
    /// after any election, and stays where nobody leads. Source: nats-server 2.15.1, `lameDuckMode`.
    fn handle_server_news(&mut self, place: usize, info: &Info) {
        if let Some(partition) = self.partitions.get(place)
            && info.lame_duck_mode
        {
            let (partition, server) = (partition.id.0, info.server_name.as_str());
            tracing::info!(partition, server, "link: the server is in lame duck mode");
        }
    }

    /// The server refused something and goes on. See [`super::refusals`].
    fn note_refusal(&mut self, place: usize, text: &[u8]) {
        self.counters.refused += 1;
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if partition.refusals.is_news(text, now) {
            let (partition, text) = (partition.id.0, text.escape_ascii());
            tracing::warn!(partition, %text, "link: refused; more of this kind within a minute is not logged");
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
    pub(super) fn pass_fences(&mut self) {
        let open = self.partitions.iter().filter_map(|partition| partition.fences.front());
        let lowest = open.map(|open| open.number).min().unwrap_or(self.next_fence);
        let in_force = lowest - 1;
        if in_force > self.in_force {
            self.in_force = in_force;
            self.out.appended.push(AppendToken { lane: INTEREST_LANE, number: in_force });
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
            Pending::UplinkMark => partition.handle_uplink_mark(message, self.now),
            Pending::End(number) => self.handle_end(place, number, message, deliver),
            Pending::Consumer(group) => self.handle_consumer(place, group, message),
            Pending::Session(request) => {
                if self.handle_session_answer(place, &request, message)
                    && let Some(partition) = self.partitions.get_mut(place)
                {
                    partition.requests.put_back(token, Pending::Session(request));
                }
            }
            Pending::RetainedPut(publish) => self.handle_retained_put(place, publish, message),
            Pending::Absent(scan) => self.handle_absent(place, &scan, message, deliver),
            Pending::Scan(scan) => {
                if self.handle_scan(place, &scan, message, deliver)
                    && let Some(partition) = self.partitions.get_mut(place)
                {
                    partition.requests.put_back(token, Pending::Scan(scan));
                }
            }
        }
    }

    /// End of a sweep: asks, sends and answers whatever can be.
    pub fn flush(&mut self) {
        if self.stopping
            && self.is_idle()
            && let Some(sessions) = &mut self.sessions
        {
            sessions.finish();
        }
        if self.is_over() {
            return;
        }
        let now = self.now;
        let mut is_fenced = false;
        self.drive_groups();
        self.open_gates();
        for place in 0..self.partitions.len() {
            self.drive_link(place);
            self.drive_former(place);
            self.search(place);
            self.look(place);
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
            self.drive_checks(place);
            let Some(partition) = self.partitions.get_mut(place) else {
                continue;
            };
            let JetStreamOut { replayed, fetched, watermarks, .. } = &mut self.out;
            partition.advance_replays(now, replayed, fetched);
            partition.send_mark(now);
            let fed = name_of(partition.complete_below(), self.wanted_since);
            if fed != partition.feed.told {
                partition.feed.told = fed;
                watermarks.push((partition.id, fed));
            }
        }
        self.next_fence += u64::from(is_fenced);
        self.pass_fences();
        self.drive_sessions();
        self.report_drained();
    }

    /// Tries again what was not acknowledged in time.
    fn send_due(&mut self, place: usize) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place).filter(|partition| partition.ready) else {
            return;
        };
        let Overdue { to_retain, is_silent } = partition.send_due(stored, *now);
        for (token, at) in to_retain {
            self.put_retained(place, token, at);
        }
        if is_silent {
            self.restart_link(place, "a publish was not acknowledged in time");
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
            Ok(Some(LinkOut::Close | LinkOut::StartTls)) => {
                self.out.closes.extend(partition.connection)
            }
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
        self.held.is_empty()
            && self.partitions.iter().all(|partition| partition.lane.is_empty())
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

    /// The node ends and nothing waits to be stored: the connections of all links, to be closed when what
    /// was taken of them is sent. Nobody waits for the last of it, such as events of the clients that were
    /// told.
    pub fn take_ended(&mut self) -> Vec<ConnectionId> {
        if !self.is_over() {
            return Vec::new();
        }
        let partitions = self.partitions.iter_mut();
        partitions
            .filter_map(|partition| {
                partition.ready = false;
                partition.connection.take()
            })
            .collect()
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
        self.stopping && self.is_idle() && self.have_leases_ended()
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

/// So many lanes are there of each kind, so that those of members that come later have their place.
pub(super) const PARTITIONS_MAX: usize = RingTable::MEMBERS_MAX;

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
