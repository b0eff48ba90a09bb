//! The groups of shared subscriptions that this shard keeps. Source: MQTT 5.0 §4.8.2.
//!
//! A group lives on the shard [`group_home`], whichever shards its members are on. It is fed like a
//! session, gives each message to one member, and remembers it until the member has settled it. A
//! group with a persistent member outlives the process: its record says how far it is, and
//! `SharedSent` records which messages members have taken over since.

pub(super) mod group;
pub mod record;

use super::store::groups::{GROUP_NAME_BYTES_MAX, StoredGroup};
use crate::proto::mqtt::{QoS, ReasonCode, RetainHandling, SubscriptionOptions};
use crate::proto::output::ShardIndex;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::Message;
use crate::proto::routing::{PackedOptions, Subscriber, SubscriberKind, SubscriptionTree};
use crate::proto::session::{GroupId, Place, Ticket};
use crate::proto::shard_state::inspect::GroupView;
use crate::proto::shard_state::{GroupRequest, Joined, Replayed, SharedMessage, home_shard};
use ahash::AHashMap;
use bytes::Bytes;
use group::{Group, GroupOut, MemberKey};
use std::collections::VecDeque;
use std::num::NonZeroU32;

/// Limits of groups.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// Groups a shard keeps; beyond, SUBSCRIBE is answered Quota Exceeded.
    pub groups_max: usize,
    /// Sessions in a group, offline ones included; beyond, SUBSCRIBE is answered Quota Exceeded.
    pub members_max: usize,
    /// Messages one member has not settled; beyond, others get them.
    pub inflight_max: u16,
    /// Messages noted for a group whose members are busy; beyond, it reads them from the log.
    pub pending_max: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self { groups_max: 16_384, members_max: 10_000, inflight_max: 64, pending_max: 1_024 }
    }
}

/// What a group says to a member's shard.
#[derive(Debug)]
pub enum GroupReply {
    /// For `ShardState::handle_joined`.
    Joined {
        /// The member.
        ticket: Ticket,
        /// What it is told.
        joined: Joined,
    },
    /// For `ShardState::handle_shared`.
    Message {
        /// The member.
        ticket: Ticket,
        /// What it is given.
        message: SharedMessage,
    },
}

/// The shard that keeps the group `ShareName/filter`, on a node of `shard_count` shards.
#[must_use]
pub fn group_home(name: &str, shard_count: u16) -> ShardIndex {
    home_shard(name, shard_count)
}

/// The `session` of tickets under which groups read the log; the epoch is the group's id.
pub(super) const GROUP_TICKET: u32 = u32::MAX - 1;

/// A group's record, to be appended.
#[derive(Debug)]
pub(super) struct GroupPut {
    pub(super) name: Box<str>,
    pub(super) bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Groups {
    shard: ShardIndex,
    shard_count: u16,
    limits: GroupLimits,
    groups: AHashMap<GroupId, Group>,
    by_name: AHashMap<Box<str>, GroupId>,
    tree: SubscriptionTree,
    matches: Vec<Subscriber>,
    made: u32,
    /// A group has moved since records were last made.
    moved: bool,
    /// By partition, up to where the groups were fed.
    watermarks: Vec<Sequence>,
    /// Answers to members that wait until the group's first record is committed.
    joining: VecDeque<(Sequence, ShardIndex, GroupReply)>,
    /// What is to be done; taken by [`super::shard::Embedded`].
    pub(super) out: Vec<GroupOut>,
}

impl Groups {
    pub(super) fn new(
        shard: ShardIndex,
        shard_count: u16,
        partitions: usize,
        limits: GroupLimits,
    ) -> Self {
        Self {
            shard,
            shard_count,
            limits,
            groups: AHashMap::new(),
            by_name: AHashMap::new(),
            tree: SubscriptionTree::new(u64::from(shard.0)),
            matches: Vec::new(),
            made: 0,
            moved: false,
            watermarks: vec![Sequence::ZERO; partitions],
            joining: VecDeque::new(),
            out: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// How often a group has lost messages to retention.
    pub(super) fn clamped(&self) -> u64 {
        self.groups.values().map(|group| group.clamped).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a group has moved since [`Groups::puts`].
    pub(super) fn have_moved(&self) -> bool {
        self.moved
    }

    pub(super) fn find(&self, name: &str) -> Option<GroupId> {
        self.by_name.get(name).copied()
    }

    /// The shard that keeps the group.
    pub(super) fn owner(group: GroupId, shard_count: u16) -> ShardIndex {
        let shard = (group.0.get() - 1) % u32::from(shard_count.max(1));
        ShardIndex(u16::try_from(shard).expect("less than a u16"))
    }

    /// What an earlier process left. Returns whether its filter is the first of its kind here.
    /// A group that has no record begins at `starts`, by partition.
    pub(super) fn restore(&mut self, stored: StoredGroup, starts: Vec<Sequence>) -> bool {
        let StoredGroup { name, members, record, taken } = stored;
        let id = self.next_id();
        let group = match record {
            Some(record) => Group::restored(id, &name, members, &record, taken, starts.len()),
            None => Group::begun_anew(id, &name, members, starts),
        };
        self.moved |= group.dirty;
        self.insert(id, group)
    }

    /// A new group that begins at `starts`, by partition; `None` when there are too many. To be
    /// called when its filter's interest is set. Also returns whether its filter is the first of its
    /// kind here.
    pub(super) fn create(&mut self, name: &str, starts: Vec<Sequence>) -> Option<(GroupId, bool)> {
        if self.groups.len() >= self.limits.groups_max || name.len() > GROUP_NAME_BYTES_MAX {
            return None;
        }
        let id = self.next_id();
        let first = self.insert(id, Group::new(id, name, starts));
        Some((id, first))
    }

    fn next_id(&mut self) -> GroupId {
        let (shard, shard_count) = (u32::from(self.shard.0), u32::from(self.shard_count.max(1)));
        loop {
            let id = self.made * shard_count + shard + 1;
            // Clients make and end groups as fast as they like: numbers go round.
            self.made = (self.made + 1) % ((u32::MAX - shard_count) / shard_count);
            let id = GroupId(NonZeroU32::new(id).expect("one more than something"));
            if !self.groups.contains_key(&id) {
                return id;
            }
        }
    }

    fn insert(&mut self, id: GroupId, group: Group) -> bool {
        let subscriber = subscriber(id);
        let first = self.tree.subscribe(group.filter(), subscriber).first;
        self.by_name.insert(group.name().into(), id);
        self.groups.insert(id, group);
        first
    }

    /// Removes a group that nobody has subscribed to any more. Returns its name, whether it is
    /// stored, and whether its filter was the last of its kind.
    pub(super) fn remove_if_over(&mut self, id: GroupId) -> Option<(Box<str>, bool, bool)> {
        if !self.groups.get(&id)?.is_over() {
            return None;
        }
        let group = self.groups.remove(&id)?;
        self.by_name.remove(group.name());
        let filter = self.tree.find(group.filter())?;
        let Subscriber { kind, session, .. } = subscriber(id);
        let last = self.tree.unsubscribe(filter, kind, session).is_some_and(|one| one.last);
        Some((group.name().into(), group.is_durable(), last))
    }

    /// A member joins. Returns the record that must be committed before the member hears of it.
    pub(super) fn join(
        &mut self,
        id: Option<GroupId>,
        shard: ShardIndex,
        request: &GroupRequest,
    ) -> Option<GroupPut> {
        let GroupRequest::Join {
            name,
            ticket,
            subscribe,
            number,
            qos,
            window,
            persistent,
            returning,
        } = request
        else {
            return None;
        };
        let group = id.and_then(|id| self.groups.get_mut(&id));
        let (joined, becomes_durable) = match group {
            _ if name.len() > GROUP_NAME_BYTES_MAX => (Err(ReasonCode::TopicFilterInvalid), false),
            Some(group) => {
                let was_durable = group.is_durable();
                let key = (shard, *ticket);
                let joined = group.join(key, *qos, *window, *persistent, *returning, &self.limits);
                (joined, group.is_durable() && !was_durable)
            }
            None => (Err(ReasonCode::QuotaExceeded), false),
        };
        let put = if becomes_durable { self.put(id?) } else { None };
        // Whoever joins while the first record is under way waits for it, too.
        let behind = self.joining.back().map(|(token, ..)| *token);
        let waits_for = if put.is_some() { Some(Sequence(u64::MAX)) } else { behind };
        let (ticket, subscribe, number, name) = (*ticket, *subscribe, *number, name.clone());
        let joined = Joined { subscribe, number, name, group: joined, recorded: true };
        // It is given messages from now on: it must know whose they are.
        let recorded = waits_for.is_none();
        let first = Joined { recorded, ..joined.clone() };
        self.out.push(GroupOut::Reply(shard, GroupReply::Joined { ticket, joined: first }));
        if let Some(token) = waits_for {
            self.joining.push_back((token, shard, GroupReply::Joined { ticket, joined }));
        }
        put
    }

    /// The record that [`Groups::join`] returned was appended at `token`.
    pub(super) fn set_join_token(&mut self, token: Sequence) {
        if let Some((waiting, ..)) = self.joining.back_mut() {
            *waiting = token;
        }
    }

    /// Everything before `end` of the shard's own log is committed.
    pub(super) fn handle_committed(&mut self, end: Sequence) {
        while self.joining.front().is_some_and(|(token, ..)| *token < end) {
            if let Some((_, shard, reply)) = self.joining.pop_front() {
                self.out.push(GroupOut::Reply(shard, reply));
            }
        }
    }

    /// Handles any request but `Join`. Returns the group that may be over.
    pub(super) fn handle(&mut self, shard: ShardIndex, request: GroupRequest) -> Option<GroupId> {
        self.moved = true;
        match request {
            GroupRequest::Join { .. } => None,
            GroupRequest::Part { name, ticket, stays, kept } => {
                let id = self.find(&name)?;
                self.groups.get_mut(&id)?.part((shard, ticket), stays, &kept);
                Some(id)
            }
            GroupRequest::Forget { name } => {
                let id = self.find(&name)?;
                self.groups.get_mut(&id)?.forget();
                Some(id)
            }
            GroupRequest::Settled { group, ticket, place, finished } => {
                let key: MemberKey = (shard, ticket);
                self.groups.get_mut(&group)?.settle(key, place, finished);
                Some(group)
            }
            GroupRequest::Return { group, places } => {
                self.groups.get_mut(&group)?.take_back(&places);
                Some(group)
            }
        }
    }

    /// Gives out what waits in a group.
    pub(super) fn drain(
        &mut self,
        id: GroupId,
        recent: &dyn Fn(PartitionId, Sequence) -> Option<Bytes>,
    ) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.drain(&self.limits, recent, &mut self.out);
        }
    }

    /// A committed message of QoS 1 or 2, in the order of its partition.
    pub(super) fn offer(
        &mut self,
        place: Place,
        message: &Message<'_>,
        body: impl Fn() -> Option<Bytes>,
    ) {
        self.find_matches(message.topic);
        self.moved |= !self.matches.is_empty();
        let Self { groups, matches, limits, out, .. } = self;
        for id in matches.iter().filter_map(group_of) {
            if let Some(group) = groups.get_mut(&id) {
                group.offer(place, || body().unwrap_or_default(), limits, out);
            }
        }
    }

    /// A QoS 0 message. `body` is asked for when a group wants it.
    pub(super) fn offer_unacknowledged(
        &mut self,
        message: &Message<'_>,
        body: impl FnOnce() -> Bytes,
    ) {
        self.find_matches(message.topic);
        if self.matches.is_empty() {
            return;
        }
        let body = body();
        let Self { groups, matches, out, .. } = self;
        for id in matches.iter().filter_map(group_of) {
            if let Some(group) = groups.get_mut(&id) {
                group.offer_unacknowledged(&body, out);
            }
        }
    }

    /// Groups that get messages of `topic`: name, and members that take them now.
    pub(super) fn matching(&self, topic: &str) -> Vec<GroupView> {
        let mut matches = Vec::new();
        self.tree.matches(topic, &mut matches);
        let groups = matches.iter().filter_map(group_of).filter_map(|id| self.groups.get(&id));
        groups.map(Group::view).collect()
    }

    fn find_matches(&mut self, topic: &str) {
        self.matches.clear();
        self.tree.matches(topic, &mut self.matches);
    }

    /// Everything of a partition before `end` was offered.
    pub(super) fn set_watermark(&mut self, partition: PartitionId, end: Sequence) {
        if let Some(watermark) = self.watermarks.get_mut(usize::from(partition.0)) {
            *watermark = end.max(*watermark);
        }
    }

    pub(super) fn handle_replayed(&mut self, id: GroupId, replayed: Replayed) {
        if replayed.end {
            self.set_watermark(replayed.partition, replayed.next);
        }
        self.moved = true;
        if let Some(group) = self.groups.get_mut(&id) {
            group.handle_replayed(replayed);
        }
    }

    pub(super) fn handle_fetched(
        &mut self,
        id: GroupId,
        partition: PartitionId,
        bodies: Vec<(Sequence, Option<Box<[u8]>>)>,
    ) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.handle_fetched(partition, bodies);
        }
    }

    pub(super) fn filter(&self, id: GroupId) -> Option<&str> {
        self.groups.get(&id).map(Group::filter)
    }

    /// The records of durable groups that are out of date.
    pub(super) fn puts(&mut self) -> Vec<GroupPut> {
        if !std::mem::take(&mut self.moved) {
            return Vec::new();
        }
        let dirty = self.groups.iter().filter(|(_, group)| group.is_durable() && group.dirty);
        let ids: Vec<GroupId> = dirty.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.put(id)).collect()
    }

    fn put(&mut self, id: GroupId) -> Option<GroupPut> {
        let group = self.groups.get_mut(&id)?;
        let bytes = group.record(&self.watermarks).encode();
        Some(GroupPut { name: group.name().into(), bytes })
    }

    /// The lowest sequence of a partition that a group still needs.
    pub(super) fn needed(&self, partition: PartitionId) -> Sequence {
        let groups = self.groups.values();
        let needed = groups.map(|group| group.needed(partition, &self.watermarks));
        needed.min().unwrap_or(Sequence(u64::MAX))
    }
}

fn subscriber(id: GroupId) -> Subscriber {
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
    };
    Subscriber {
        session: id.0.get(),
        kind: SubscriberKind::Group,
        options: PackedOptions::from(options),
        identifier: 0,
    }
}

fn group_of(subscriber: &Subscriber) -> Option<GroupId> {
    NonZeroU32::new(subscriber.session).map(GroupId)
}
