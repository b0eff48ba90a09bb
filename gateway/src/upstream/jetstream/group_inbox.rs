//! What a group of a shared subscription hears on a link: the inbox of its pulls, as long as something may
//! come to it, and its queue for messages of QoS 0, as long as it has members.

use super::partition::Partition;
use crate::proto::nats::{Subject, encode_subscribe, encode_unsubscribe, put_decimal};
use crate::proto::session::GroupId;
use crate::proto::session::shared::filter_of;
use std::num::NonZeroU32;

/// Subscription ids of groups: of their pulls, and two for QoS 0.
pub(super) const GROUP_SID: u64 = 1 << 40;
pub(super) const PULL_SID: u64 = GROUP_SID;
pub(super) const QUEUE_SID: u64 = 1 << 41;

/// How a message comes to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inlet {
    Pull,
    Queue,
}

/// For which group a message of a subscription id from [`GROUP_SID`] on is.
pub(super) fn inlet(sid: u64) -> Option<(GroupId, Inlet)> {
    let (id, inlet) = if sid >= QUEUE_SID {
        ((sid - QUEUE_SID) / 2, Inlet::Queue)
    } else {
        (sid - PULL_SID, Inlet::Pull)
    };
    let id = u32::try_from(id).ok().and_then(NonZeroU32::new).map(GroupId)?;
    Some((id, inlet))
}

impl Partition {
    /// Where what is pulled for a group comes to.
    pub(super) fn group_inbox(&self, id: GroupId) -> Vec<u8> {
        let mut inbox = self.group_prefix.clone();
        put_decimal(id.0.get().into(), &mut inbox);
        inbox
    }
}

/// The pull, and the queue at the subject of the filter and at that above it, which `#` covers, too.
fn sids(id: GroupId) -> [u64; 3] {
    let number = u64::from(id.0.get());
    [PULL_SID + number, QUEUE_SID + 2 * number, QUEUE_SID + 2 * number + 1]
}

/// Subscribes to what the group's pulls bring.
pub(super) fn open_inbox(partition: &mut Partition, id: GroupId) {
    let [pull, ..] = sids(id);
    let inbox = partition.group_inbox(id);
    encode_subscribe(Subject::from_checked(&inbox), None, pull, &mut partition.out);
}

pub(super) fn close_inbox(partition: &mut Partition, id: GroupId) {
    let [pull, ..] = sids(id);
    encode_unsubscribe(pull, None, &mut partition.out);
}

/// Subscribes as one of the group's queue to messages of QoS 0.
pub(super) fn join_queue(partition: &mut Partition, id: GroupId, name: &str, queue: &str) {
    let [_, first, above] = sids(id);
    let queue = Some(Subject::from_checked(queue.as_bytes()));
    let mut buffer = Vec::new();
    if let Ok(subjects) = partition.live.filter_subjects(filter_of(name), &mut buffer) {
        encode_subscribe(subjects.first, queue, first, &mut partition.out);
        if let Some(parent) = subjects.parent {
            encode_subscribe(parent, queue, above, &mut partition.out);
        }
    }
}

pub(super) fn leave_queue(partition: &mut Partition, id: GroupId) {
    let [_, first, above] = sids(id);
    encode_unsubscribe(first, None, &mut partition.out);
    encode_unsubscribe(above, None, &mut partition.out);
}
