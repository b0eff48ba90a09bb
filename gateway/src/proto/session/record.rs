//! A session as it is stored: everything that must survive its connection or the process.
//!
//! The record says where the session goes on in each partition (`cursors`) and lists apart what was
//! sent and not acknowledged, so that those keep their packet ids. While a session is online and
//! up to date its record may be old: `floor_shard` then names the floor that stands for its cursors.

use super::{InFlightStep, StoredWill};
use crate::proto::mqtt::{PacketId, QoS, SHARE_PREFIX};
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::record::{MessageId, Qos2Step};
use std::cmp::Ordering;

/// Version of this format, the first byte of a record.
pub const FORMAT_VERSION: u8 = 2;

/// A session's record, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRecord {
    /// A connection held it when it was written.
    pub online: bool,
    /// The shard whose floor covers it, while online and up to date.
    pub floor_shard: Option<u16>,
    /// Seconds the session outlives its connection.
    pub session_expiry_s: u32,
    /// The last packet id used towards the client.
    pub last_packet_id: u16,
    /// Per partition, the sequence from which messages are still to be looked at.
    pub cursors: Vec<(PartitionId, Sequence)>,
    /// Its filters, shared ones with their `$share` prefix.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// Sent and not finished, oldest first.
    pub in_flight: Vec<InFlightRecord>,
    /// Retained messages that were to be sent, as record bodies with their place.
    pub queued: Vec<(PartitionId, Sequence, Box<[u8]>)>,
    /// QoS 2 messages finished, at or above the cursor of their partition.
    pub completed: Vec<(PartitionId, Sequence)>,
    /// The will, while online or while it is delayed.
    pub will: Option<StoredWill>,
    /// The user that made the session, and whose it stays.
    pub owner: Option<Box<str>>,
    /// Behind all places of their partitions that are named here, where places may be used again.
    pub anchors: Vec<(PartitionId, Anchor)>,
}

/// A subscription of a stored session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// As subscribed.
    pub filter: Box<str>,
    /// Subscription Options as on the wire.
    pub options: u8,
    /// Subscription Identifier, 0 for none.
    pub identifier: u32,
    /// Where it begins in partitions in which the session was behind when it subscribed.
    pub starts: Vec<(PartitionId, Sequence)>,
}

/// A message in flight of a stored session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightRecord {
    /// Of our PUBLISH.
    pub packet_id: PacketId,
    /// How far the exchange was.
    pub step: InFlightStep,
    /// The RETAIN flag it was sent with.
    pub retain: bool,
    /// A shared subscription brought it.
    pub shared: bool,
    /// Where its content is.
    pub partition: PartitionId,
    /// See `partition`.
    pub sequence: Sequence,
    /// Its content, where no log has it.
    pub body: Option<Box<[u8]>>,
}

/// A QoS 2 step of a stored session, newer than its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos2Delta {
    /// A message of the client was stored and not released.
    Inbound(PacketId),
    /// A message of the client is stored under this name, from there on if it is, and not released.
    Intended(PacketId, MessageId, Sequence),
    /// An exchange with the client is open.
    Outbound {
        /// Of our PUBLISH.
        packet_id: PacketId,
        /// `Sent` or `Received`.
        step: Qos2Step,
        /// Where the message is.
        partition: PartitionId,
        /// See `partition`.
        sequence: Sequence,
        /// A shared subscription brought it.
        shared: bool,
        /// The RETAIN flag it is sent with.
        retain: bool,
    },
    /// A message the client has completed.
    Completed {
        /// Of our PUBLISH: the message may be on its way under another one, too.
        packet_id: PacketId,
        /// Where the message is.
        partition: PartitionId,
        /// See `partition`.
        sequence: Sequence,
    },
    /// A message of a shared subscription the client has completed.
    SharedCompleted {
        /// Of our PUBLISH.
        packet_id: PacketId,
        /// Where the message is.
        partition: PartitionId,
        /// See `partition`.
        sequence: Sequence,
    },
    /// It is behind all places of its partition that steps name.
    Anchor(PartitionId, Anchor),
}

impl Qos2Delta {
    /// Whether a shared subscription brought the message.
    #[must_use]
    pub fn is_shared(self) -> bool {
        match self {
            Self::Inbound(_) | Self::Intended(..) | Self::Completed { .. } | Self::Anchor(..) => {
                false
            }
            Self::Outbound { shared, .. } => shared,
            Self::SharedCompleted { .. } => true,
        }
    }
}

const FLAG_ONLINE: u8 = 1;
const FLAG_FLOOR: u8 = 2;
const FLAG_WILL: u8 = 4;
const FLAG_OWNER: u8 = 8;
const FLAG_ANCHORS: u8 = 16;

impl SessionRecord {
    /// Appends the record to `out`.
    ///
    /// Wire shape, little endian: version, flags, floor shard (u16), session expiry (u32), last
    /// packet id (u16), then each list behind its length (u32), then the will, the owner and the list
    /// of anchors if there are any.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        flags |= if self.online { FLAG_ONLINE } else { 0 };
        flags |= if self.floor_shard.is_some() { FLAG_FLOOR } else { 0 };
        flags |= if self.will.is_some() { FLAG_WILL } else { 0 };
        flags |= if self.owner.is_some() { FLAG_OWNER } else { 0 };
        flags |= if self.anchors.is_empty() { 0 } else { FLAG_ANCHORS };
        out.extend_from_slice(&[FORMAT_VERSION, flags]);
        out.extend_from_slice(&self.floor_shard.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.session_expiry_s.to_le_bytes());
        out.extend_from_slice(&self.last_packet_id.to_le_bytes());
        put_places(out, &self.cursors);
        put_count(out, self.subscriptions.len());
        for subscription in &self.subscriptions {
            put_bytes(out, subscription.filter.as_bytes());
            out.push(subscription.options);
            out.extend_from_slice(&subscription.identifier.to_le_bytes());
            put_places(out, &subscription.starts);
        }
        put_count(out, self.in_flight.len());
        for sent in &self.in_flight {
            out.extend_from_slice(&sent.packet_id.get().to_le_bytes());
            out.push(step_byte(sent.step));
            out.push(u8::from(sent.retain) | (u8::from(sent.shared) << 1));
            put_place(out, sent.partition, sent.sequence);
            out.push(u8::from(sent.body.is_some()));
            if let Some(body) = &sent.body {
                put_bytes(out, body);
            }
        }
        put_count(out, self.queued.len());
        for (partition, sequence, body) in &self.queued {
            put_place(out, *partition, *sequence);
            put_bytes(out, body);
        }
        put_places(out, &self.completed);
        if let Some(will) = &self.will {
            put_will(out, will);
        }
        if let Some(owner) = &self.owner {
            put_bytes(out, owner.as_bytes());
        }
        if !self.anchors.is_empty() {
            put_count(out, self.anchors.len());
            for (partition, anchor) in &self.anchors {
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&anchor.to_bytes());
            }
        }
    }

    /// Reads a record, `None` for one of another format version or a damaged one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != FORMAT_VERSION {
            return None;
        }
        let flags = input.byte()?;
        let floor_shard = input.u16()?;
        Some(Self {
            online: flags & FLAG_ONLINE != 0,
            floor_shard: (flags & FLAG_FLOOR != 0).then_some(floor_shard),
            session_expiry_s: input.u32()?,
            last_packet_id: input.u16()?,
            cursors: input.places()?,
            subscriptions: input.list(Input::subscription)?,
            in_flight: input.list(Input::in_flight)?,
            queued: input.list(|input| {
                let (partition, sequence) = input.place()?;
                Some((partition, sequence, input.bytes()?.into()))
            })?,
            completed: input.places()?,
            will: if flags & FLAG_WILL != 0 { Some(input.will()?) } else { None },
            owner: if flags & FLAG_OWNER != 0 { Some(input.text()?.into()) } else { None },
            anchors: if flags & FLAG_ANCHORS != 0 {
                input.list(Input::anchor)?
            } else {
                Vec::new()
            },
        })
    }
}

impl SessionRecord {
    /// Brings the record up to date with a step recorded after it.
    ///
    /// A message whose exchange is open or over must not be taken again from a replay, so it counts
    /// as completed there.
    pub fn apply(&mut self, delta: Qos2Delta) {
        match delta {
            // Not part of the record: what the client sent is released by itself.
            Qos2Delta::Inbound(_) | Qos2Delta::Intended(..) => {}
            Qos2Delta::Anchor(partition, anchor) => self.note_anchor(partition, anchor),
            Qos2Delta::Outbound { packet_id, step, partition, sequence, shared, retain } => {
                let step = match step {
                    Qos2Step::Sent => InFlightStep::ExpectPubrec,
                    Qos2Step::Received | Qos2Step::Completed => InFlightStep::ExpectPubcomp,
                };
                // A replay does not bring what a shared subscription did.
                self.completed.extend((!shared).then_some((partition, sequence)));
                let body = None;
                let sent =
                    InFlightRecord { packet_id, step, retain, shared, partition, sequence, body };
                match self.in_flight.iter_mut().find(|known| known.packet_id == packet_id) {
                    Some(known) if known.sequence == sequence => known.step = step,
                    Some(known) => *known = sent,
                    None => self.in_flight.push(sent),
                }
            }
            Qos2Delta::SharedCompleted { packet_id, partition, sequence } => {
                let place = (packet_id, partition, sequence);
                self.in_flight.retain(|sent| {
                    !sent.shared || (sent.packet_id, sent.partition, sent.sequence) != place
                });
            }
            Qos2Delta::Completed { packet_id, partition, sequence } => {
                self.completed.push((partition, sequence));
                let place = (packet_id, partition, sequence);
                self.in_flight.retain(|sent| {
                    sent.shared || (sent.packet_id, sent.partition, sent.sequence) != place
                });
            }
        }
    }
}

impl SessionRecord {
    /// The floor that the session follows may be older than the record, or younger.
    fn note_later_anchor(&mut self, partition: PartitionId, anchor: Anchor) {
        match self.anchors.iter_mut().find(|(of, _)| *of == partition) {
            Some((_, known)) if known.stored_at < anchor.stored_at => *known = anchor,
            Some(_) => {}
            None => self.anchors.push((partition, anchor)),
        }
    }

    /// Something was recorded later.
    fn note_anchor(&mut self, partition: PartitionId, anchor: Anchor) {
        match self.anchors.iter_mut().find(|(of, _)| *of == partition) {
            Some((_, known)) if known.sequence < anchor.sequence => *known = anchor,
            Some(_) => {}
            None => self.anchors.push((partition, anchor)),
        }
    }
}

/// How far the sessions that follow a floor are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Everything of a partition before its place is done.
    pub cursors: Vec<(PartitionId, Sequence)>,
    /// As in [`SessionRecord`].
    pub anchors: Vec<(PartitionId, Anchor)>,
}

/// Bytes of an anchor with its partition.
const ANCHOR_BYTES: usize = 2 + Anchor::BYTES;
/// And of a cursor.
const CURSOR_BYTES: usize = 10;

impl Floor {
    /// Wire shape, little endian: partition (u16) and sequence (u64) of each cursor; if there are
    /// anchors, then partition (u16) and [`Anchor::to_bytes`] of each, and their number (u8).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.cursors.len() * CURSOR_BYTES);
        for (partition, sequence) in &self.cursors {
            put_place(&mut out, *partition, *sequence);
        }
        if !self.anchors.is_empty() {
            for (partition, anchor) in &self.anchors {
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&anchor.to_bytes());
            }
            out.push(u8::try_from(self.anchors.len()).expect("at most SUB_CLUSTERS_MAX"));
        }
        out
    }

    /// Reads what [`Floor::encode`] wrote. Without anchors the length is a multiple of ten, with them it
    /// is odd.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let count = match bytes.len() % CURSOR_BYTES {
            0 => 0,
            _ => bytes.last().copied().map_or(0, usize::from),
        };
        let anchor_bytes = if count == 0 { 0 } else { count * ANCHOR_BYTES + 1 };
        let (cursors, anchors) = bytes
            .split_at_checked(bytes.len().saturating_sub(anchor_bytes))
            .unwrap_or((bytes, &[]));
        let cursor = |bytes: &[u8]| Input(bytes).place();
        let anchor = |bytes: &[u8]| Input(bytes).anchor();
        Self {
            cursors: cursors.chunks_exact(CURSOR_BYTES).filter_map(cursor).collect(),
            anchors: anchors.chunks_exact(ANCHOR_BYTES).filter_map(anchor).collect(),
        }
    }
}

/// Whether a connection held the session when its record was written.
#[must_use]
pub fn is_online(bytes: &[u8]) -> bool {
    matches!(bytes, [FORMAT_VERSION, flags, ..] if flags & FLAG_ONLINE != 0)
}

/// Reads only the cursors of a record: what the session still needs of each partition.
///
/// Messages in flight count too: their content must stay. Appends to `out`, nothing for a record
/// that cannot be read.
///
/// Returns the shard whose floor an online session follows; what it needs then is the floor, which
/// goes on while the record stays as it was, and what shared subscriptions have in flight, of which
/// the floor knows nothing.
pub fn needed_of(bytes: &[u8], out: &mut Vec<(PartitionId, Sequence)>) -> Option<u16> {
    let record = SessionRecord::decode(bytes)?;
    let follows = record.floor_shard.filter(|_| record.online);
    if follows.is_none() {
        out.extend_from_slice(&record.cursors);
    }
    let is_needed =
        |sent: &&InFlightRecord| sent.body.is_none() && (sent.shared || follows.is_none());
    for sent in record.in_flight.iter().filter(is_needed) {
        match out.iter_mut().find(|(partition, _)| *partition == sent.partition) {
            Some((_, lowest)) => *lowest = sent.sequence.min(*lowest),
            None => out.push((sent.partition, sent.sequence)),
        }
    }
    follows
}

/// The user that made a stored session, if that is known.
#[must_use]
pub fn owner_of(bytes: &[u8]) -> Option<Box<str>> {
    let has_owner = bytes.get(1).is_some_and(|flags| flags & FLAG_OWNER != 0);
    SessionRecord::decode(bytes).filter(|_| has_owner)?.owner
}

/// The names of the groups whose member a stored session is, `ShareName/filter`.
#[must_use]
pub fn shared_of(bytes: &[u8]) -> Vec<Box<str>> {
    // Few sessions have any, and all of them are asked when the node starts.
    if memchr::memmem::find(bytes, SHARE_PREFIX.as_bytes()).is_none() {
        return Vec::new();
    }
    let Some(record) = SessionRecord::decode(bytes) else {
        return Vec::new();
    };
    let filters = record.subscriptions.iter().map(|one| &*one.filter);
    filters.filter_map(|filter| filter.strip_prefix(SHARE_PREFIX)).map(Box::from).collect()
}

/// Makes the record of a session that was online when the process died one of an offline session:
/// where it followed a floor, the floor has the newer cursors, and what lies below them is done.
pub fn settle(record: &mut SessionRecord, floor: &Floor) {
    record.online = false;
    if record.floor_shard.take().is_none() {
        return;
    }
    let Floor { cursors: floor, anchors } = floor;
    let anchor_of = |anchors: &[(PartitionId, Anchor)], partition| {
        let anchor = anchors.iter().find(|(of, _)| *of == partition);
        anchor.map(|(_, anchor)| *anchor)
    };
    for (partition, cursor) in &mut record.cursors {
        let Some((_, floor)) = floor.iter().find(|(of, _)| of == partition) else {
            continue;
        };
        let anchors = (anchor_of(&record.anchors, *partition), anchor_of(anchors, *partition));
        *cursor = match anchors {
            // Where the server lost something between the two, the later may be the lower.
            (Some(own), Some(of_floor)) if own.life != of_floor.life => {
                match own.stored_at.cmp(&of_floor.stored_at) {
                    Ordering::Greater => *cursor,
                    Ordering::Less => *floor,
                    Ordering::Equal => (*cursor).min(*floor),
                }
            }
            _ => (*cursor).max(*floor),
        };
    }
    anchors.iter().for_each(|(partition, anchor)| record.note_later_anchor(*partition, *anchor));
    // A partition that came later than the record; the floor is of all that the shard has.
    for place in floor {
        if record.cursors.iter().all(|(of, _)| *of != place.0) {
            record.cursors.push(*place);
        }
    }
    // What has no place any more is not done: the client waits for the end of its exchange.
    let below = |partition: PartitionId, sequence: Sequence| {
        let is_below = |floor: Sequence| sequence > Sequence::ZERO && sequence < floor;
        floor.iter().any(|(of, floor)| *of == partition && is_below(*floor))
    };
    // The floor speaks of what the session's own subscriptions bring.
    record
        .in_flight
        .retain(|sent| sent.shared || sent.body.is_some() || !below(sent.partition, sent.sequence));
    record.completed.retain(|(partition, sequence)| !below(*partition, *sequence));
}

fn step_byte(step: InFlightStep) -> u8 {
    match step {
        InFlightStep::ExpectPuback => 0,
        InFlightStep::ExpectSentCommit => 1,
        InFlightStep::ExpectPubrec => 2,
        InFlightStep::ExpectReceivedCommit => 3,
        InFlightStep::ExpectPubcomp => 4,
    }
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("session lists are bounded by limits far below 2^32");
    out.extend_from_slice(&count.to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_place(out: &mut Vec<u8>, partition: PartitionId, sequence: Sequence) {
    out.extend_from_slice(&partition.0.to_le_bytes());
    out.extend_from_slice(&sequence.0.to_le_bytes());
}

fn put_places(out: &mut Vec<u8>, places: &[(PartitionId, Sequence)]) {
    put_count(out, places.len());
    for (partition, sequence) in places {
        put_place(out, *partition, *sequence);
    }
}

/// Appends a will alone, in the form it has in a record.
pub fn put_will(out: &mut Vec<u8>, will: &StoredWill) {
    out.extend_from_slice(&will.id.to_bytes());
    out.push(will.qos as u8);
    out.push(u8::from(will.retain));
    out.extend_from_slice(&will.delay_s.to_le_bytes());
    out.push(u8::from(will.expiry_interval_s.is_some()));
    out.extend_from_slice(&will.expiry_interval_s.unwrap_or(0).to_le_bytes());
    put_bytes(out, will.topic.as_bytes());
    put_bytes(out, &will.properties);
    put_bytes(out, &will.payload);
}

/// Reads what [`put_will`] wrote at the front of `bytes`; `None` for anything else. How many bytes that
/// took comes with it.
#[must_use]
pub fn read_will(bytes: &[u8]) -> Option<(StoredWill, usize)> {
    let mut input = Input(bytes);
    let will = input.will()?;
    Some((will, bytes.len() - input.0.len()))
}

pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()? as usize;
        self.take(count)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A list; the capacity is bounded by the bytes left, so a damaged length allocates nothing.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        let mut list = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            list.push(item(self)?);
        }
        Some(list)
    }

    fn anchor(&mut self) -> Option<(PartitionId, Anchor)> {
        Some((PartitionId(self.u16()?), Anchor::from_bytes(self.take(Anchor::BYTES)?)?))
    }

    fn place(&mut self) -> Option<(PartitionId, Sequence)> {
        Some((PartitionId(self.u16()?), Sequence(self.u64()?)))
    }

    fn places(&mut self) -> Option<Vec<(PartitionId, Sequence)>> {
        self.list(Self::place)
    }

    fn subscription(&mut self) -> Option<SubscriptionRecord> {
        Some(SubscriptionRecord {
            filter: self.text()?.into(),
            options: self.byte()?,
            identifier: self.u32()?,
            starts: self.places()?,
        })
    }

    fn in_flight(&mut self) -> Option<InFlightRecord> {
        let packet_id = PacketId::new(self.u16()?)?;
        let step = match self.byte()? {
            0 => InFlightStep::ExpectPuback,
            1 => InFlightStep::ExpectSentCommit,
            2 => InFlightStep::ExpectPubrec,
            3 => InFlightStep::ExpectReceivedCommit,
            4 => InFlightStep::ExpectPubcomp,
            _ => return None,
        };
        let flags = self.byte()?;
        let (retain, shared) = (flags & 1 != 0, flags & 2 != 0);
        let (partition, sequence) = self.place()?;
        let body = if self.byte()? != 0 { Some(self.bytes()?.into()) } else { None };
        Some(InFlightRecord { packet_id, step, retain, shared, partition, sequence, body })
    }

    fn will(&mut self) -> Option<StoredWill> {
        let id = MessageId::from_bytes(self.take(16)?.try_into().ok()?);
        let qos = match self.byte()? {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let retain = self.byte()? != 0;
        let delay_s = self.u32()?;
        let has_expiry = self.byte()? != 0;
        let expiry_s = self.u32()?;
        Some(StoredWill {
            id,
            qos,
            retain,
            delay_s,
            expiry_interval_s: has_expiry.then_some(expiry_s),
            topic: self.text()?.into(),
            properties: self.bytes()?.into(),
            payload: self.bytes()?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: PartitionId = PartitionId(0);
    const P1: PartitionId = PartitionId(1);

    fn anchor(life: u32, sequence: u64) -> Anchor {
        Anchor { life, sequence: Sequence(sequence), stored_at: sequence * 1_000 }
    }

    fn floor(cursors: &[(PartitionId, Sequence)]) -> Floor {
        Floor { cursors: cursors.to_vec(), anchors: vec![(P0, anchor(1, 101))] }
    }

    fn id(id: u16) -> PacketId {
        PacketId::new(id).expect("tests use ids above 0")
    }

    fn sample() -> SessionRecord {
        SessionRecord {
            online: true,
            floor_shard: Some(3),
            session_expiry_s: 60,
            last_packet_id: 9,
            cursors: vec![(P0, Sequence(100)), (P1, Sequence(7))],
            subscriptions: vec![SubscriptionRecord {
                filter: "a/+".into(),
                options: 1,
                identifier: 5,
                starts: vec![(P0, Sequence(90))],
            }],
            in_flight: vec![
                InFlightRecord {
                    packet_id: id(7),
                    step: InFlightStep::ExpectPuback,
                    retain: false,
                    shared: false,
                    partition: P0,
                    sequence: Sequence(60),
                    body: None,
                },
                InFlightRecord {
                    packet_id: id(8),
                    step: InFlightStep::ExpectPubcomp,
                    retain: false,
                    shared: true,
                    partition: P0,
                    sequence: Sequence(50),
                    body: None,
                },
                InFlightRecord {
                    packet_id: id(9),
                    step: InFlightStep::ExpectPuback,
                    retain: true,
                    shared: false,
                    partition: P0,
                    sequence: Sequence(20),
                    body: Some(b"kept".as_slice().into()),
                },
            ],
            queued: vec![(P1, Sequence(2), b"body".as_slice().into())],
            completed: vec![(P0, Sequence(101))],
            owner: Some("anna".into()),
            anchors: vec![(P0, anchor(1, 99))],
            will: Some(StoredWill {
                id: MessageId { origin: 11, number: 12 },
                qos: QoS::AtLeastOnce,
                retain: true,
                delay_s: 3,
                expiry_interval_s: Some(0),
                topic: "w".into(),
                properties: [1, 0].as_slice().into(),
                payload: b"gone".as_slice().into(),
            }),
        }
    }

    #[test]
    fn reads_back_what_was_written_and_survives_any_cut() {
        let record = sample();
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(SessionRecord::decode(&bytes), Some(record));
        for cut in 0..bytes.len() {
            assert_eq!(SessionRecord::decode(bytes.get(..cut).expect("cut is inside")), None);
        }
    }

    /// A retained message is on its way once for each subscription that asked for it.
    #[test]
    fn an_exchange_that_is_completed_leaves_another_of_the_same_message() {
        let mut record = sample();
        let (partition, sequence) = (P1, Sequence(30));
        for packet_id in [id(20), id(21)] {
            let (step, shared, retain) = (Qos2Step::Received, false, true);
            record.apply(Qos2Delta::Outbound {
                packet_id,
                step,
                partition,
                sequence,
                shared,
                retain,
            });
        }
        assert!(record.in_flight.iter().all(|sent| sent.retain || sent.partition != P1));
        record.apply(Qos2Delta::Completed { packet_id: id(20), partition, sequence });
        let left = record.in_flight.iter().filter(|sent| sent.partition == P1);
        assert_eq!(left.map(|sent| sent.packet_id).collect::<Vec<_>>(), [id(21)]);
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        bytes[0] = FORMAT_VERSION + 1;
        assert_eq!(SessionRecord::decode(&bytes), None);
    }

    #[test]
    fn messages_in_flight_are_needed_too() {
        let mut needed = Vec::new();
        let offline = SessionRecord { online: false, ..sample() };
        let mut bytes = Vec::new();
        offline.encode(&mut bytes);
        assert_eq!(needed_of(&bytes, &mut needed), None);
        assert_eq!(needed, [(P0, Sequence(50)), (P1, Sequence(7))]);
    }

    #[test]
    fn an_online_session_that_follows_a_floor_needs_the_floor() {
        let following = SessionRecord { online: true, floor_shard: Some(3), ..sample() };
        let (mut bytes, mut needed) = (Vec::new(), Vec::new());
        following.encode(&mut bytes);
        assert_eq!(needed_of(&bytes, &mut needed), Some(3));
        assert_eq!(needed, [(P0, Sequence(50))], "what a shared subscription has in flight");
    }

    #[test]
    fn settling_takes_the_newer_of_record_and_floor() {
        let mut record = sample();
        settle(&mut record, &floor(&[(P0, Sequence(102)), (P1, Sequence(3))]));
        assert_eq!(record.cursors, [(P0, Sequence(102)), (P1, Sequence(7))]);
        let kept: Vec<u16> = record.in_flight.iter().map(|sent| sent.packet_id.get()).collect();
        assert_eq!(kept, [8, 9], "7 is below the floor; shared ones and kept bodies stay");
        assert_eq!(record.completed, []);
        assert!(!record.online);
    }

    #[test]
    fn a_floor_of_another_life_is_the_later_one() {
        let mut record = sample();
        record.in_flight[1].sequence = Sequence::ZERO;
        record.in_flight[1].shared = false;
        let floor = Floor {
            cursors: vec![(P0, Sequence(70)), (P1, Sequence(3))],
            anchors: vec![(P0, Anchor { stored_at: 99_001, ..anchor(2, 69) })],
        };
        assert_eq!(Floor::decode(&floor.encode()), floor);
        settle(&mut record, &floor);
        assert_eq!(record.cursors, [(P0, Sequence(70)), (P1, Sequence(7))]);
        assert_eq!(record.anchors, floor.anchors);
        let kept: Vec<u16> = record.in_flight.iter().map(|sent| sent.packet_id.get()).collect();
        assert_eq!(kept, [8, 9], "8 has no place, and is not over");
        let without = Floor { anchors: Vec::new(), ..floor };
        assert_eq!(Floor::decode(&without.encode()), without, "of an earlier version");
    }

    #[test]
    fn settling_a_laggard_keeps_its_own_cursors() {
        let mut record = SessionRecord { floor_shard: None, ..sample() };
        settle(&mut record, &floor(&[(P0, Sequence(102))]));
        assert_eq!(record.cursors, sample().cursors);
        assert_eq!(record.in_flight.len(), 3);
    }
}
