//! Shared subscriptions: what members on this shard get of their groups' consumers.
//!
//! ```text
//! Join ─▶ consumer made in each partition, queue subscription for QoS 0 ─▶ Joined
//! member has room ─▶ pull ─▶ message ─▶ the member whose turn it is ─▶ Settled: +ACK
//!                                                                  └▶ Part, Return: -NAK, for another
//! last member leaves ─▶ what still comes for its pulls: -NAK ─▶ they end ─▶ the group is over here
//! ```
//! A group is one durable consumer a partition, the same for all shards and gateways: each pulls for
//! its own members what they have room for, and the servers divide. Source: MQTT 5.0 §4.8.2.

use super::consumer::{
    Acknowledge, ConsumerAnswer, NewConsumer, Pulled, encode_acknowledge, encode_pull,
    read_consumer_answer, read_pulled,
};
use super::control::stream_name;
use super::group_inbox::{Inlet, close_inbox, inlet, join_queue, leave_queue, open_inbox};
use super::partition::RETRY;
use super::place::outside;
use super::requests::Pending;
use super::shard::{JetStream, encoded, is_delivered};
use crate::proto::bridge::message_headers::read_message;
use crate::proto::mqtt::{QoS, ReasonCode};
use crate::proto::nats::{Message as NatsMessage, Subject};
use crate::proto::record::Message;
use crate::proto::routing::filter_matches;
use crate::proto::session::shared::filter_of;
use crate::proto::session::{GroupId, Place, Ticket};
use crate::proto::shard_state::inspect::GroupView;
use crate::proto::shard_state::{GroupRequest, Joined, SharedMessage};
use crate::proto::time::Timestamp;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// A message that was given out is given out again after so long, unless its gateway asks for more
/// time: so long a gateway that died keeps back what its members had.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// How often more time is asked for.
const WORKING_INTERVAL: Duration = Duration::from_secs(20);

/// A group that no gateway reads for is forgotten after so long, and what waited for it with it.
const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Messages of a group given out and not acknowledged, in one partition.
const UNACKNOWLEDGED_MAX: u32 = 10_000;

/// Messages in one pull at most, and how long it stands.
const PULL_MAX: u16 = 64;
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// A pull that nobody ended is given up after so long.
const PULL_GIVEN_UP: Duration = Duration::from_secs(30);

/// Limits of the groups of one shard.
#[derive(Clone, Copy, Debug)]
pub struct SharedLimits {
    /// Groups.
    pub groups_max: usize,
    /// Members of a group on this shard.
    pub members_max: usize,
    /// Messages that a member has not finished.
    pub inflight_max: u16,
}

/// The groups that have members on this shard.
#[derive(Debug)]
pub(super) struct SharedGroups {
    groups: HashMap<GroupId, Group, ahash::RandomState>,
    by_name: HashMap<Box<str>, GroupId, ahash::RandomState>,
    made: u32,
    limits: SharedLimits,
    working_due: Timestamp,
}

#[derive(Debug)]
struct Group {
    name: Box<str>,
    consumer: String,
    members: Vec<Member>,
    /// Whose turn it is.
    next: usize,
    reads: Vec<Read>,
    /// Came, and no member had room.
    waiting: VecDeque<(Place, Bytes)>,
    /// Not acknowledged to the consumers: those in `waiting`, too.
    outstanding: BTreeMap<Place, Holder>,
    /// Who waits to hear that the consumers are there.
    joining: Vec<(Ticket, Joined)>,
}

#[derive(Debug)]
struct Member {
    ticket: Ticket,
    qos: QoS,
    window: u16,
    busy: u16,
}

/// Who speaks for a message.
#[derive(Debug)]
struct Holder {
    /// `None`: a former member, or nobody yet.
    member: Option<Ticket>,
    /// Where it is acknowledged.
    reply_to: Box<[u8]>,
}

/// What a group reads in one partition.
#[derive(Debug)]
struct Read {
    place: usize,
    stage: ReadStage,
    /// Messages asked for that have not come, and until when they may.
    pulled: u16,
    expires: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadStage {
    /// The consumer is to be made, not before this.
    Absent(Timestamp),
    Asked,
    There,
}

impl SharedGroups {
    pub(super) fn new(limits: SharedLimits) -> Self {
        Self {
            groups: HashMap::default(),
            by_name: HashMap::default(),
            made: 0,
            limits,
            working_due: Timestamp::NEVER,
        }
    }

    fn next_id(&mut self) -> GroupId {
        loop {
            self.made = self.made.wrapping_add(1);
            if let Some(id) = NonZeroU32::new(self.made).map(GroupId)
                && !self.groups.contains_key(&id)
            {
                return id;
            }
        }
    }

    /// Groups with members on this shard that get messages of `topic`.
    pub(super) fn matching(&self, topic: &str) -> Vec<GroupView> {
        let groups = self.groups.values().filter(|group| !group.members.is_empty());
        let views = groups.map(|group| GroupView::new(&group.name, group.members.len()));
        views.filter(|view| filter_matches(&view.filter, topic)).collect()
    }

    /// A group that nobody needs here, although something may still come for it.
    fn idle(&self) -> Option<GroupId> {
        let mut groups = self.groups.iter();
        groups.find(|(_, group)| group.is_idle()).map(|(id, _)| *id)
    }

    /// The link of a partition is lost: what it was asked is asked again. Messages given out stay
    /// with their members; they are acknowledged over the next link.
    pub(super) fn lose(&mut self, place: usize) {
        for group in self.groups.values_mut() {
            for read in group.reads.iter_mut().filter(|read| read.place == place) {
                (read.stage, read.pulled) = (ReadStage::Absent(Timestamp::START), 0);
            }
        }
    }

    /// When [`JetStream::drive_groups`] has something to do although nothing happened.
    pub(super) fn next_timeout(&self) -> Timestamp {
        let reads = self.groups.values().flat_map(|group| &group.reads);
        let due = reads.filter_map(|read| match read.stage {
            ReadStage::Absent(at) if at > Timestamp::START => Some(at),
            ReadStage::There if read.pulled > 0 => Some(read.expires),
            ReadStage::Absent(_) | ReadStage::Asked | ReadStage::There => None,
        });
        due.min().unwrap_or(Timestamp::NEVER).min(self.working_due)
    }
}

impl Group {
    fn member(&mut self, ticket: Ticket) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.ticket == ticket)
    }

    /// No members here, and nobody speaks for a message.
    fn is_idle(&self) -> bool {
        self.members.is_empty() && self.outstanding.is_empty()
    }

    /// And nothing is on its way: what comes for a pull whose inbox is gone waits for `ACK_WAIT` before
    /// another gets it.
    fn is_over(&self) -> bool {
        self.is_idle() && self.reads.iter().all(|read| read.pulled == 0)
    }

    fn room(&self) -> u16 {
        let free = self.members.iter().map(Member::room);
        free.fold(0, u16::saturating_add)
    }

    /// The member whose turn it is; with `any` whether it has room or not.
    fn next_member(&mut self, any: bool) -> Option<usize> {
        let count = self.members.len();
        for offset in 0..count {
            let place = (self.next + offset) % count;
            if any || self.members.get(place).is_some_and(|member| member.room() > 0) {
                self.next = (place + 1) % count;
                return Some(place);
            }
        }
        None
    }
}

impl Member {
    fn room(&self) -> u16 {
        if self.qos == QoS::AtMostOnce { PULL_MAX } else { self.window.saturating_sub(self.busy) }
    }
}

impl JetStream {
    /// Groups of shared subscriptions with members on this shard that get messages of `topic`.
    #[must_use]
    pub fn groups_of(&self, topic: &str) -> Vec<GroupView> {
        self.shared.matching(topic)
    }

    /// A session says something to a group.
    pub(super) fn tell_group(&mut self, request: GroupRequest) {
        match request {
            GroupRequest::Join { name, ticket, subscribe, number, qos, window, .. } => {
                let joined = |group| Joined { subscribe, number, name, group, recorded: true };
                self.join_group(ticket, qos, window, joined);
            }
            GroupRequest::Part { name, ticket, kept, .. } => self.part_group(&name, ticket, &kept),
            // The consumer is the group's memory; members that are offline are not counted.
            GroupRequest::Forget { .. } => {}
            GroupRequest::Settled { group, ticket, place, finished } => {
                self.settle(group, ticket, place, finished);
            }
            GroupRequest::Return { group, places } => {
                for place in places {
                    self.acknowledge(group, place, None, Acknowledge::Again);
                }
                self.end_group_if_over(group);
            }
        }
    }

    fn join_group(
        &mut self,
        ticket: Ticket,
        qos: QoS,
        window: u16,
        joined: impl FnOnce(Result<GroupId, ReasonCode>) -> Joined,
    ) {
        let limits = self.shared.limits;
        // The name is in the answer: it is asked for with an error first.
        let mut joined = joined(Err(ReasonCode::QuotaExceeded));
        let found = self.shared.by_name.get(&joined.name).copied();
        let Some(id) = found.or_else(|| self.create_group(&joined.name)) else {
            self.out.joined.push((ticket, joined));
            return;
        };
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        let window = window.min(limits.inflight_max);
        if let Some(member) = group.member(ticket) {
            (member.qos, member.window) = (qos, window);
        } else if group.members.len() >= limits.members_max {
            self.out.joined.push((ticket, joined));
            return;
        } else {
            group.members.push(Member { ticket, qos, window, busy: 0 });
            if group.members.len() == 1 {
                for read in &group.reads {
                    let partition = self.partitions.get_mut(read.place).filter(|one| one.ready);
                    let Some(partition) = partition else { continue };
                    join_queue(partition, id, &group.name, &group.consumer);
                    partition.has_new_interest = true;
                }
            }
        }
        joined.group = Ok(id);
        // It is given messages from now on: it must know whose they are.
        let first = Joined { recorded: false, ..joined.clone() };
        group.joining.push((ticket, joined));
        self.out.joined.push((ticket, first));
    }

    fn create_group(&mut self, name: &str) -> Option<GroupId> {
        if self.shared.groups.len() >= self.shared.limits.groups_max {
            let idle = self.shared.idle()?;
            self.end_group(idle);
        }
        let filter = filter_of(name);
        let read = |place| Read {
            place,
            stage: ReadStage::Absent(Timestamp::START),
            pulled: 0,
            expires: Timestamp::NEVER,
        };
        let places = self.places_of(filter);
        let reads = places.iter().copied().map(read).collect();
        let id = self.shared.next_id();
        let group = Group {
            name: name.into(),
            consumer: format!("shared_{:032x}", xxh3_128(name.as_bytes())),
            members: Vec::new(),
            next: 0,
            reads,
            waiting: VecDeque::new(),
            outstanding: BTreeMap::new(),
            joining: Vec::new(),
        };
        for place in places {
            if let Some(partition) = self.partitions.get_mut(place) {
                if partition.ready {
                    open_inbox(partition, id);
                }
                partition.has_new_interest |= partition.is_expected();
            }
        }
        self.shared.by_name.insert(name.into(), id);
        self.shared.groups.insert(id, group);
        Some(id)
    }

    /// Subscribes anew on a link that is back.
    pub(super) fn attach_groups(&mut self, place: usize) {
        let Self { partitions, shared, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        for (id, group) in &shared.groups {
            if group.reads.iter().any(|read| read.place == place) {
                open_inbox(partition, *id);
                if !group.members.is_empty() {
                    join_queue(partition, *id, &group.name, &group.consumer);
                }
            }
        }
        // Acknowledgements that found no link.
        let pending = std::mem::take(&mut partition.pending_acks);
        partition.out.extend_from_slice(&pending);
    }

    /// Groups read where their topics are about to be, too.
    pub(super) fn widen_groups(&mut self) {
        let names: Vec<_> =
            self.shared.by_name.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in names {
            for place in self.places_of(filter_of(&name)) {
                let Self { shared, partitions, .. } = self;
                let (Some(group), Some(partition)) =
                    (shared.groups.get_mut(&id), partitions.get_mut(place))
                else {
                    continue;
                };
                if group.reads.iter().any(|read| read.place == place) {
                    continue;
                }
                let (stage, pulled) = (ReadStage::Absent(Timestamp::START), 0);
                group.reads.push(Read { place, stage, pulled, expires: Timestamp::NEVER });
                if partition.ready {
                    open_inbox(partition, id);
                    if !group.members.is_empty() {
                        join_queue(partition, id, &group.name, &group.consumer);
                    }
                    partition.has_new_interest = true;
                }
            }
        }
    }

    fn part_group(&mut self, name: &str, ticket: Ticket, kept: &[Place]) {
        let Some(id) = self.shared.by_name.get(name).copied() else {
            return;
        };
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        group.members.retain(|member| member.ticket != ticket);
        group.joining.retain(|(of, _)| *of != ticket);
        let own = group.outstanding.iter_mut().filter(|(_, one)| one.member == Some(ticket));
        let mut returned = Vec::new();
        for (place, holder) in own {
            holder.member = None;
            if !kept.contains(place) {
                returned.push(*place);
            }
        }
        if group.members.is_empty() {
            returned.extend(group.waiting.drain(..).map(|(place, _)| place));
        }
        for place in returned {
            self.acknowledge(id, place, None, Acknowledge::Again);
        }
        self.leave_queue_if_empty(id);
        self.end_group_if_over(id);
    }

    fn settle(&mut self, id: GroupId, ticket: Ticket, place: Option<Place>, finished: bool) {
        if let Some(place) = place {
            self.acknowledge(id, place, Some(ticket), Acknowledge::Done);
        }
        if let Some(group) = self.shared.groups.get_mut(&id)
            && finished
            && let Some(member) = group.member(ticket)
        {
            member.busy = member.busy.saturating_sub(1);
        }
        self.end_group_if_over(id);
    }

    /// Tells the consumer what became of a message, if `by` speaks for it, or nobody does.
    fn acknowledge(&mut self, id: GroupId, place: Place, by: Option<Ticket>, what: Acknowledge) {
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        let holder = group.outstanding.get(&place);
        if holder.is_none_or(|holder| holder.member.is_some() && holder.member != by) {
            return;
        }
        let Some(holder) = group.outstanding.remove(&place) else {
            return;
        };
        if let Some(at) = self.place(place.0)
            && let Some(partition) = self.partitions.get_mut(at)
        {
            let out =
                if partition.ready { &mut partition.out } else { &mut partition.pending_acks };
            encode_acknowledge(&holder.reply_to, what, out);
        }
    }

    /// What the queue gives to a group without members here would be nobody's.
    fn leave_queue_if_empty(&mut self, id: GroupId) {
        let Self { shared, partitions, .. } = self;
        let Some(group) = shared.groups.get(&id).filter(|group| group.members.is_empty()) else {
            return;
        };
        for read in &group.reads {
            let partition = partitions.get_mut(read.place).filter(|one| one.ready);
            partition.into_iter().for_each(|partition| leave_queue(partition, id));
        }
    }

    /// A group without members here is over here, once nobody speaks for its messages and none is on its
    /// way.
    fn end_group_if_over(&mut self, id: GroupId) {
        if self.shared.groups.get(&id).is_some_and(Group::is_over) {
            self.end_group(id);
        }
    }

    fn end_group(&mut self, id: GroupId) {
        let Some(group) = self.shared.groups.remove(&id) else {
            return;
        };
        self.shared.by_name.remove(&group.name);
        for read in &group.reads {
            let partition = self.partitions.get_mut(read.place).filter(|one| one.ready);
            partition.into_iter().for_each(|partition| close_inbox(partition, id));
        }
    }

    /// Makes consumers that are not there, pulls for members that have room, asks for more time.
    pub(super) fn drive_groups(&mut self) {
        let now = self.now;
        if self.shared.groups.is_empty() {
            self.shared.working_due = Timestamp::NEVER;
            return;
        }
        let is_working = now >= self.shared.working_due;
        if is_working || self.shared.working_due == Timestamp::NEVER {
            self.shared.working_due = now.after(WORKING_INTERVAL);
        }
        let ids: Vec<GroupId> = self.shared.groups.keys().copied().collect();
        for id in ids {
            self.give_waiting(id);
            self.drive_group(id, is_working);
            self.end_group_if_over(id);
        }
    }

    fn drive_group(&mut self, id: GroupId, is_working: bool) {
        let Self { partitions, shared, stored, now, out, .. } = self;
        let now = *now;
        let Some(group) = shared.groups.get_mut(&id) else {
            return;
        };
        let room = usize::from(group.room()).saturating_sub(group.waiting.len());
        let share = room.div_ceil(group.reads.len().max(1)).min(usize::from(PULL_MAX));
        let batch = u16::try_from(share).expect("at most PULL_MAX");
        for read in &mut group.reads {
            let Some(partition) = partitions.get_mut(read.place).filter(|one| one.ready) else {
                continue;
            };
            match read.stage {
                ReadStage::Absent(at) if at <= now => {
                    let mut buffer = Vec::new();
                    let Ok(subjects) =
                        stored.messages.filter_subjects(filter_of(&group.name), &mut buffer)
                    else {
                        continue;
                    };
                    let mut list = vec![subjects.first];
                    list.extend(subjects.parent);
                    let stream = stream_name(partition.id);
                    let consumer = NewConsumer {
                        stream: &stream,
                        name: &group.consumer,
                        from: partition.feed.fed,
                        subjects: &list,
                        ack_wait: ACK_WAIT,
                        unacknowledged_max: UNACKNOWLEDGED_MAX,
                        idle_max: IDLE_MAX,
                    };
                    partition.ask_with(Pending::Consumer(id), now, |reply_to, out| {
                        consumer.encode(reply_to, out);
                    });
                    read.stage = ReadStage::Asked;
                }
                ReadStage::There => {
                    if read.pulled > 0 && read.expires <= now {
                        read.pulled = 0;
                    }
                    if read.pulled == 0 && batch > 0 {
                        (read.pulled, read.expires) = (batch, now.after(PULL_GIVEN_UP));
                        let stream = stream_name(partition.id);
                        let inbox = partition.group_inbox(id);
                        let inbox = Subject::from_checked(&inbox);
                        let (name, expires) = (&group.consumer, PULL_EXPIRES);
                        encode_pull(&stream, name, batch, expires, inbox, &mut partition.out);
                    }
                }
                ReadStage::Absent(_) | ReadStage::Asked => {}
            }
        }
        if is_working {
            for (place, holder) in &group.outstanding {
                let partition = partitions.iter_mut().find(|one| one.id == place.0 && one.ready);
                if let Some(partition) = partition {
                    let what = Acknowledge::Working;
                    encode_acknowledge(&holder.reply_to, what, &mut partition.out);
                }
            }
        }
        // A partition that is away gets its consumer when it is back, from where its feed was.
        let is_there = |read: &Read| {
            read.stage == ReadStage::There
                || partitions.get(read.place).is_none_or(|partition| !partition.ready)
        };
        if group.reads.iter().all(is_there) {
            out.joined.append(&mut group.joining);
        }
    }

    /// The answer to a consumer's making.
    pub(super) fn handle_consumer(&mut self, place: usize, id: GroupId, message: &NatsMessage<'_>) {
        let now = self.now;
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        let Some(read) = group.reads.iter_mut().find(|read| read.place == place) else {
            return;
        };
        match read_consumer_answer(message.payload) {
            Ok(ConsumerAnswer::There) => read.stage = ReadStage::There,
            answer => {
                tracing::debug!(place, ?answer, "shared subscription: no consumer for now");
                read.stage = ReadStage::Absent(now.after(RETRY));
                if answer == Ok(ConsumerAnswer::TooMany) {
                    self.refuse_joining(id);
                }
            }
        }
    }

    /// The server has no room for the group: who wanted to join is no member.
    fn refuse_joining(&mut self, id: GroupId) {
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        for (ticket, mut joined) in std::mem::take(&mut group.joining) {
            joined.group = Err(ReasonCode::QuotaExceeded);
            group.members.retain(|member| member.ticket != ticket);
            self.out.joined.push((ticket, joined));
        }
        self.leave_queue_if_empty(id);
        self.end_group_if_over(id);
    }

    /// A message or a status of a pull, or a message of QoS 0.
    pub(super) fn handle_group_message(&mut self, place: usize, message: &NatsMessage<'_>) {
        let Some((id, inlet)) = inlet(message.sid) else {
            return;
        };
        if inlet == Inlet::Queue {
            self.take_unacknowledged(place, id, message);
            return;
        }
        if !self.shared.groups.contains_key(&id) {
            self.give_back(place, message);
            return;
        }
        let read = self
            .shared
            .groups
            .get_mut(&id)
            .and_then(|group| group.reads.iter_mut().find(|read| read.place == place));
        let Some(read) = read else {
            return;
        };
        let Some((reply_to, pulled)) =
            message.reply_to.and_then(|reply_to| Some((reply_to, read_pulled(reply_to)?)))
        else {
            // A status: the pull is over, or was refused because the consumer is gone.
            read.pulled = 0;
            if message.headers.status().is_some_and(|status| GONE.contains(&status.code)) {
                read.stage = ReadStage::Absent(self.now.after(RETRY));
            }
            return;
        };
        read.pulled = read.pulled.saturating_sub(1);
        self.take_pulled(place, id, reply_to, pulled, message);
    }

    /// A message came for a group that is over here.
    fn give_back(&mut self, place: usize, message: &NatsMessage<'_>) {
        let reply_to = message.reply_to.filter(|reply_to| read_pulled(reply_to).is_some());
        if let Some(reply_to) = reply_to
            && let Some(partition) = self.partitions.get_mut(place)
        {
            encode_acknowledge(reply_to, Acknowledge::Again, &mut partition.out);
        }
    }

    fn take_pulled(
        &mut self,
        place: usize,
        id: GroupId,
        reply_to: &[u8],
        pulled: Pulled,
        message: &NatsMessage<'_>,
    ) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let (mut topic, mut buffers) = Default::default();
        let Ok(topic) = self.stored.messages.topic(message.subject, &mut topic) else {
            encode_acknowledge(reply_to, Acknowledge::Done, &mut partition.out);
            self.counters.unreadable += 1;
            return;
        };
        let (headers, payload) = (message.headers, message.payload);
        let read = read_message(topic, headers, payload, pulled.stored_at, &mut buffers);
        let is_void = self.ring.is_void(topic, partition.id, pulled.sequence);
        if is_void || !is_delivered(&read.message) {
            encode_acknowledge(reply_to, Acknowledge::Done, &mut partition.out);
            return;
        }
        let at = (partition.id, outside(pulled.sequence));
        let body = Bytes::from(encoded(&read.message));
        let is_unacknowledged = read.message.qos == QoS::AtMostOnce;
        let Some(group) = self.shared.groups.get_mut(&id) else {
            return;
        };
        let holder = Holder { member: None, reply_to: reply_to.into() };
        if let Some(held) = group.outstanding.get_mut(&at) {
            // Given once more because the server waited too long: whoever has it speaks for it.
            held.reply_to = holder.reply_to;
            return;
        }
        if group.members.is_empty() {
            // Its last member left when it was on its way: it is for another, wherever that is.
            encode_acknowledge(reply_to, Acknowledge::Again, &mut partition.out);
            return;
        }
        group.outstanding.insert(at, holder);
        if is_unacknowledged {
            self.acknowledge(id, at, None, Acknowledge::Done);
            self.give_unacknowledged(id, body);
            return;
        }
        group.waiting.push_back((at, body));
        self.give_waiting(id);
    }

    /// Gives what has come to members that have room, in turn.
    fn give_waiting(&mut self, id: GroupId) {
        while let Some(group) = self.shared.groups.get_mut(&id)
            && !group.waiting.is_empty()
            && let Some(at) = group.next_member(false)
            && let Some((place, body)) = group.waiting.pop_front()
        {
            let Some(member) = group.members.get_mut(at) else {
                return;
            };
            let (ticket, qos) = (member.ticket, member.qos);
            if qos > QoS::AtMostOnce {
                member.busy += 1;
                if let Some(holder) = group.outstanding.get_mut(&place) {
                    holder.member = Some(ticket);
                }
            }
            let place = (qos > QoS::AtMostOnce).then_some(place).or_else(|| {
                // Sent with QoS 0, it is done.
                self.acknowledge(id, place, None, Acknowledge::Done);
                None
            });
            let message = SharedMessage { group: id, place, record: false, body };
            self.out.shared.push((ticket, message));
        }
    }

    /// A message of QoS 0 on the queue subscription of a group; one with a place comes by a pull.
    fn take_unacknowledged(&mut self, place: usize, id: GroupId, message: &NatsMessage<'_>) {
        if super::stored::Stored::read(message.headers).is_ok() {
            return;
        }
        let Some(partition) = self.partitions.get(place) else {
            return;
        };
        let (mut topic, mut buffers) = Default::default();
        let Ok(topic) = partition.live.topic(message.subject, &mut topic) else {
            self.counters.unreadable += 1;
            return;
        };
        let (headers, payload) = (message.headers, message.payload);
        let read = read_message(topic, headers, payload, self.now, &mut buffers);
        let message = Message { qos: QoS::AtMostOnce, ..read.message };
        self.give_unacknowledged(id, encoded(&message).into());
    }

    fn give_unacknowledged(&mut self, id: GroupId, body: Bytes) {
        if let Some(group) = self.shared.groups.get_mut(&id)
            && let Some(at) = group.next_member(true)
            && let Some(member) = group.members.get(at)
        {
            let message = SharedMessage { group: id, place: None, record: false, body };
            self.out.shared.push((member.ticket, message));
        }
    }
}

/// No such consumer, the server shut down or the consumer was deleted, nobody there.
const GONE: [u16; 3] = [404, 409, 503];

#[cfg(test)]
mod tests;
