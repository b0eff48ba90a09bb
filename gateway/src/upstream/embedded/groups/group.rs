//! One group: its members, and which of them gets which message.
//!
//! ```text
//! live, replayed ─▶ queue ─▶┐
//! taken back ─▶ returned ──▶┴─ a member has room ─▶ outstanding ─▶ settled: forgotten
//!                  ▲                                   │
//!                  └──── member gone, not settled ─────┘
//! ```
//! `returned` goes first. Everything before a partition's [`Group::frontier`] was given to a member.

use super::record::GroupRecord;
use super::{GroupLimits, GroupReply};
use crate::proto::mqtt::{QoS, ReasonCode};
use crate::proto::output::ShardIndex;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::session::shared::filter_of;
use crate::proto::session::{GroupId, Outbound, Place, Queued, QueuedFor, Ticket};
use crate::proto::shard_state::inspect::GroupView;
use crate::proto::shard_state::{Replayed, SharedMessage};
use ahash::AHashMap;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A member: a session, and the shard it lives on.
pub(super) type MemberKey = (ShardIndex, Ticket);

/// What a group asks for.
#[derive(Debug)]
pub(in crate::upstream::embedded) enum GroupOut {
    /// Something for a member's shard.
    Reply(ShardIndex, GroupReply),
    /// Messages from a place on.
    Replay { group: GroupId, partition: PartitionId, from: Sequence, count_max: u32 },
    /// Single messages.
    Fetch { group: GroupId, partition: PartitionId, sequences: Vec<Sequence> },
}

#[derive(Debug)]
struct Member {
    qos: QoS,
    window: u16,
    /// Messages it has not finished.
    busy: u16,
    /// Those of them that are in `outstanding`.
    given: BTreeSet<Place>,
    /// It is in `ready`.
    is_ready: bool,
    /// Tells its entries in `ready` from those of an earlier stay.
    stay: u32,
}

/// Who speaks for a message that was given out.
#[derive(Debug)]
struct Holder {
    /// `None`: a former member.
    member: Option<MemberKey>,
    /// The group was durable by then.
    recorded: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    id: GroupId,
    name: Box<str>,
    members: AHashMap<MemberKey, Member>,
    /// Members with room and their stay, the one whose turn it is first. Entries of members that
    /// have left are passed over.
    ready: VecDeque<(MemberKey, u32)>,
    stays: u32,
    /// Persistent sessions that are not connected.
    offline: u32,
    /// What nobody was given yet: its queue, and where it is behind.
    outbound: Outbound,
    /// What members gave back, with its content where it had to be fetched.
    returned: BTreeMap<Place, Option<Box<[u8]>>>,
    /// Questions for the content of `returned` under way.
    fetching: u32,
    /// Given to a member and not settled.
    outstanding: BTreeMap<Place, Holder>,
    /// Per partition, what lies before is not the group's.
    starts: Vec<Sequence>,
    /// A persistent session is or was a member: the group outlives the process.
    durable: bool,
    /// Its record is out of date.
    pub(super) dirty: bool,
    /// Messages that retention took before the group had read them, as often as that was noticed.
    pub(super) clamped: u64,
}

impl Group {
    /// For operators.
    pub(super) fn view(&self) -> GroupView {
        GroupView::new(&self.name, self.members.len())
    }

    /// A group that begins at `starts`, by partition.
    pub(super) fn new(id: GroupId, name: &str, starts: Vec<Sequence>) -> Self {
        Self {
            id,
            name: name.into(),
            members: AHashMap::new(),
            ready: VecDeque::new(),
            stays: 0,
            offline: 0,
            outbound: Outbound::default(),
            returned: BTreeMap::new(),
            fetching: 0,
            outstanding: BTreeMap::new(),
            starts,
            durable: false,
            dirty: false,
            clamped: 0,
        }
    }

    /// A group that an earlier process left, with `offline` persistent members. It has to read on in
    /// all partitions; `taken` was sent to members with QoS 2 since its record.
    pub(super) fn restored(
        id: GroupId,
        name: &str,
        offline: u32,
        record: &GroupRecord,
        taken: Vec<Place>,
        partitions: usize,
    ) -> Self {
        let mut group = Self::new(id, name, Vec::new());
        (group.offline, group.durable) = (offline, true);
        let partitions = u16::try_from(partitions).expect("partition ids are u16");
        for partition in (0..partitions).map(PartitionId) {
            let next = record.next.iter().find(|(of, _)| *of == partition);
            // A partition that the record does not know is newer than it.
            let cursor = next.map_or(Sequence::ZERO, |(_, next)| *next);
            group.outbound.come_back(partition, cursor);
        }
        let open = record.open.iter().filter(|place| !taken.contains(place));
        group.returned = open.map(|place| (*place, None)).collect();
        group.outbound.completed = taken;
        group
    }

    /// A group that an earlier process has ended, while the last member's session was not yet
    /// recorded without it: nobody waits for what was published since its end.
    pub(super) fn begun_anew(id: GroupId, name: &str, offline: u32, starts: Vec<Sequence>) -> Self {
        Self { offline, durable: true, dirty: true, ..Self::new(id, name, starts) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn filter(&self) -> &str {
        filter_of(&self.name)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    /// No session has the subscription any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty() && self.offline == 0
    }

    /// Takes a member, or what has changed of one.
    pub(super) fn join(
        &mut self,
        key: MemberKey,
        qos: QoS,
        window: u16,
        persistent: bool,
        returning: bool,
        limits: &GroupLimits,
    ) -> Result<GroupId, ReasonCode> {
        let is_new = !returning && !self.members.contains_key(&key);
        let count = self.members.len() + self.offline as usize;
        if is_new && count >= limits.members_max {
            return Err(ReasonCode::QuotaExceeded);
        }
        self.offline -= u32::from(returning && self.offline > 0);
        self.durable |= persistent;
        let window = window.min(limits.inflight_max);
        let stay = self.stays.wrapping_add(1);
        self.stays = stay;
        let given = BTreeSet::new();
        let member = Member { qos, window, busy: 0, given, is_ready: false, stay };
        let member = self.members.entry(key).or_insert(member);
        (member.qos, member.window) = (qos, window);
        self.make_ready(key);
        Ok(self.id)
    }

    /// A member leaves; what it has not settled goes to others, but for `kept`.
    pub(super) fn part(&mut self, key: MemberKey, stays: bool, kept: &[Place]) {
        let Some(member) = self.members.remove(&key) else {
            return;
        };
        self.offline += u32::from(stays);
        self.dirty = true;
        for place in member.given {
            if !kept.contains(&place) {
                self.outstanding.remove(&place);
                self.returned.insert(place, None);
            } else if let Some(holder) = self.outstanding.get_mut(&place) {
                holder.member = None;
            }
        }
    }

    /// A session that was offline is over.
    pub(super) fn forget(&mut self) {
        self.offline = self.offline.saturating_sub(1);
    }

    pub(super) fn settle(&mut self, key: MemberKey, place: Option<Place>, finished: bool) {
        if let Some(place) = place
            && let Some(holder) = self.outstanding.get(&place)
            && holder.member.is_none_or(|member| member == key)
        {
            self.outstanding.remove(&place);
            self.dirty = true;
            if let Some(member) = self.members.get_mut(&key) {
                member.given.remove(&place);
            }
        }
        if finished && let Some(member) = self.members.get_mut(&key) {
            member.busy = member.busy.saturating_sub(1);
            self.make_ready(key);
        }
    }

    /// A former member gives back what it spoke for.
    pub(super) fn take_back(&mut self, places: &[Place]) {
        for place in places {
            if self.outstanding.get(place).is_some_and(|holder| holder.member.is_none()) {
                self.outstanding.remove(place);
                self.returned.insert(*place, None);
            }
        }
    }

    /// A live QoS 0 message: to the next member, whatever it has to do.
    pub(super) fn offer_unacknowledged(&mut self, body: &Bytes, out: &mut Vec<GroupOut>) {
        let next = self.next_ready().or_else(|| self.members.keys().next().copied());
        if let Some(key) = next {
            self.give(key, None, body.clone(), out);
        }
    }

    /// A live message of QoS 1 or 2.
    pub(super) fn offer(
        &mut self,
        place: Place,
        body: impl FnOnce() -> Bytes,
        limits: &GroupLimits,
        out: &mut Vec<GroupOut>,
    ) {
        let (partition, sequence) = place;
        let start = self.starts.get(usize::from(partition.0)).copied().unwrap_or_default();
        if sequence < start
            || self.outbound.passes_over(partition, sequence)
            || self.outbound.completed.contains(&place)
        {
            return;
        }
        self.dirty = true;
        let waits = !self.outbound.queue.is_empty() || !self.returned.is_empty();
        let next = if waits { None } else { self.next_ready() };
        match next {
            Some(key) => self.give(key, Some(place), body(), out),
            // Nobody is there: the log keeps it.
            None if self.members.is_empty() || self.outbound.queue.len() >= limits.pending_max => {
                self.outbound.fall_behind(partition, sequence);
            }
            None => {
                let (queued_for, body) = (QueuedFor::Subscriptions, None);
                self.outbound.queue.push_back(Queued { partition, queued_for, sequence, body });
            }
        }
    }

    /// Gives out what waits while members have room. `recent` finds what is still in memory.
    pub(super) fn drain(
        &mut self,
        limits: &GroupLimits,
        recent: &dyn Fn(PartitionId, Sequence) -> Option<Bytes>,
        out: &mut Vec<GroupOut>,
    ) {
        while self.has_ready() {
            if let Some(mut first) = self.returned.first_entry() {
                let place = *first.key();
                let content = first.get_mut().take().map(Bytes::from);
                let Some(body) = content.or_else(|| recent(place.0, place.1)) else {
                    self.fetch(place.0, out);
                    return;
                };
                first.remove();
                self.give_next(place, body, out);
                continue;
            }
            let Some(queued) = self.outbound.queue.pop_front() else {
                self.read_on(limits, out);
                return;
            };
            let Queued { partition, sequence, body, .. } = queued;
            let body = body.map(Bytes::from).or_else(|| recent(partition, sequence));
            match body {
                Some(body) => self.give_next((partition, sequence), body, out),
                None => self.give_up_notes(partition, sequence),
            }
        }
    }

    /// The answer to [`GroupOut::Replay`].
    pub(super) fn handle_replayed(&mut self, replayed: Replayed) {
        self.clamped += u64::from(replayed.clamped);
        self.outbound.take_replayed(replayed, &[]);
        self.dirty = true;
    }

    /// The answer to [`GroupOut::Fetch`]: what is gone from the log nobody can get any more.
    pub(super) fn handle_fetched(
        &mut self,
        partition: PartitionId,
        bodies: Vec<(Sequence, Option<Box<[u8]>>)>,
    ) {
        self.fetching = self.fetching.saturating_sub(1);
        for (sequence, body) in bodies {
            let place = (partition, sequence);
            match body {
                Some(body) => {
                    self.returned.entry(place).and_modify(|content| *content = Some(body));
                }
                None => {
                    self.returned.remove(&place);
                    self.dirty = true;
                }
            }
        }
    }

    /// How far the group is. `watermarks`: the end of what was fed, by partition.
    pub(super) fn record(&mut self, watermarks: &[Sequence]) -> GroupRecord {
        self.dirty = false;
        self.outbound.forget_passed(watermarks);
        let partitions = u16::try_from(watermarks.len()).expect("partition ids are u16");
        let next = |partition| (partition, self.frontier(partition, watermarks));
        // What was given out before the group was durable is over with the process; a member may
        // have it already, with QoS 2 and nothing recorded.
        let open = self.outstanding.iter().filter(|(_, holder)| holder.recorded);
        let open = open.map(|(place, _)| place);
        GroupRecord {
            next: (0..partitions).map(PartitionId).map(next).collect(),
            open: open.chain(self.returned.keys()).copied().collect(),
        }
    }

    /// The lowest sequence of a partition that the log must still hold.
    pub(super) fn needed(&self, partition: PartitionId, watermarks: &[Sequence]) -> Sequence {
        let range = (partition, Sequence::ZERO)..=(partition, Sequence(u64::MAX));
        let first = self.outstanding.range(range.clone()).next().map(|(place, _)| place.1);
        let returned = self.returned.range(range).next().map(|(place, _)| place.1);
        let frontier = self.frontier(partition, watermarks);
        first.into_iter().chain(returned).fold(frontier, Ord::min)
    }

    /// From where on nothing of a partition was given to a member.
    fn frontier(&self, partition: PartitionId, watermarks: &[Sequence]) -> Sequence {
        let place = usize::from(partition.0);
        let at = |list: &[Sequence]| list.get(place).copied().unwrap_or_default();
        let unseen = self.outbound.lowest_unfinished(partition);
        unseen.unwrap_or_else(|| at(watermarks).max(at(&self.starts)))
    }

    fn make_ready(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(&key)
            && !member.is_ready
            && member.has_room()
        {
            member.is_ready = true;
            self.ready.push_back((key, member.stay));
        }
    }

    /// Whether the first of `ready` has room; others at the front are dropped.
    fn has_ready(&mut self) -> bool {
        while let Some((key, stay)) = self.ready.front() {
            match self.members.get_mut(key).filter(|member| member.stay == *stay) {
                Some(member) if member.has_room() => return true,
                Some(member) => member.is_ready = false,
                None => {}
            }
            self.ready.pop_front();
        }
        false
    }

    fn next_ready(&mut self) -> Option<MemberKey> {
        let (key, _) = self.has_ready().then(|| self.ready.pop_front()).flatten()?;
        if let Some(member) = self.members.get_mut(&key) {
            member.is_ready = false;
        }
        Some(key)
    }

    fn give_next(&mut self, place: Place, body: Bytes, out: &mut Vec<GroupOut>) {
        if let Some(key) = self.next_ready() {
            self.give(key, Some(place), body, out);
        }
    }

    fn give(&mut self, key: MemberKey, place: Option<Place>, body: Bytes, out: &mut Vec<GroupOut>) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        self.dirty |= place.is_some();
        // Sent with QoS 0, it is done.
        let place = place.filter(|_| member.qos > QoS::AtMostOnce);
        if let Some(place) = place {
            member.busy += 1;
            member.given.insert(place);
            let holder = Holder { member: Some(key), recorded: self.durable };
            self.outstanding.insert(place, holder);
        }
        let (shard, ticket) = key;
        let message = SharedMessage { group: self.id, place, record: self.durable, body };
        out.push(GroupOut::Reply(shard, GroupReply::Message { ticket, message }));
        self.make_ready(key);
    }

    /// A noted message is no longer in memory: from there on the log is read.
    fn give_up_notes(&mut self, partition: PartitionId, sequence: Sequence) {
        let queue = &mut self.outbound.queue;
        queue.retain(|queued| queued.partition != partition || queued.body.is_some());
        self.outbound.fall_behind(partition, sequence);
    }

    fn read_on(&mut self, limits: &GroupLimits, out: &mut Vec<GroupOut>) {
        let pending_max = u32::try_from(limits.pending_max).unwrap_or(u32::MAX);
        let group = self.id;
        for (partition, from, count_max) in self.outbound.take_reads(pending_max, |_| &[]) {
            out.push(GroupOut::Replay { group, partition, from, count_max });
        }
    }

    fn fetch(&mut self, partition: PartitionId, out: &mut Vec<GroupOut>) {
        if self.fetching > 0 {
            return;
        }
        let missing =
            self.returned.iter().filter(|(place, body)| place.0 == partition && body.is_none());
        let sequences: Vec<_> = missing.map(|(place, _)| place.1).take(FETCH_MAX).collect();
        self.fetching = 1;
        out.push(GroupOut::Fetch { group: self.id, partition, sequences });
    }
}

/// Returned messages whose content is asked for in one question.
const FETCH_MAX: usize = 64;

impl Member {
    fn has_room(&self) -> bool {
        self.qos == QoS::AtMostOnce || self.busy < self.window
    }
}
