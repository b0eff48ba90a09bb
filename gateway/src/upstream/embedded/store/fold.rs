//! The fold: what each record of a log does to the keyed state, live and in recovery.

use super::state::KeyedState;
use super::{Space, StoreError, groups};
use crate::proto::mqtt::{PacketId, QoS};
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Qos2Step, Record, SessionPut};
use crate::proto::session::record::{Floor, Qos2Delta};
use crate::proto::time::Timestamp;

/// A session as stored: expiry and will deadline (u64 each, big endian), then the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionValue<'a> {
    /// As in [`SessionPut`].
    pub expires_at: Timestamp,
    /// As in [`SessionPut`].
    pub will_at: Timestamp,
    /// Encoded by the session.
    pub record: &'a [u8],
}

impl<'a> SessionValue<'a> {
    /// Reads a stored session.
    #[must_use]
    pub fn decode(value: &'a [u8]) -> Option<Self> {
        let (expires_at, rest) = value.split_first_chunk()?;
        let (will_at, record) = rest.split_first_chunk()?;
        Some(Self {
            expires_at: Timestamp(u64::from_be_bytes(*expires_at)),
            will_at: Timestamp(u64::from_be_bytes(*will_at)),
            record,
        })
    }

    fn encode(self) -> Vec<u8> {
        [&self.expires_at.0.to_be_bytes()[..], &self.will_at.0.to_be_bytes(), self.record].concat()
    }
}

/// What a key of [`Space::Qos2`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum StepKey {
    /// A message from the client: its packet id is taken until `Qos2Released`.
    Inbound = 0,
    /// An exchange with the client that is open.
    Outbound = 1,
    /// A message the client has completed, by packet id and place: packet ids are used again, and a
    /// message can be on its way twice, as a retained one is for two subscriptions.
    Completed = 2,
    /// As `Completed`, for a message that a shared subscription brought.
    SharedCompleted = 3,
    /// Behind all places of a partition that steps name: by the partition.
    Anchor = 4,
}

/// In the step of an exchange: a shared subscription brought the message.
const SHARED_STEP: u8 = 0b1000_0000;
/// The same of one that is sent with the RETAIN flag.
const RETAIN_STEP: u8 = 0x40;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TimerKind {
    /// The session ends.
    Expiry = 0,
    /// The will is due.
    Will = 1,
    /// A retained message or tombstone can be forgotten.
    Retained = 2,
}

/// The longest client id a session can be stored under; the engine's keys hold 65,535 bytes. A
/// server may refuse client ids above 23 bytes. Source: MQTT 5.0 §3.1.3.1 [MQTT-3.1.3-5].
pub const CLIENT_ID_BYTES_MAX: usize = KEY_BYTES_MAX - 16;
const KEY_BYTES_MAX: usize = 65_535;

/// Applies the record at `sequence` of `partition` to `state`.
///
/// Folding a record again, with all that follow it, leaves the same state. A body that is no
/// record changes nothing, and so does one of a client id above [`CLIENT_ID_BYTES_MAX`], which
/// the session layer refuses.
///
/// # Errors
///
/// [`StoreError::Engine`]: reading what the record replaces failed; the record must be folded
/// again.
pub fn fold(
    state: &mut KeyedState,
    partition: PartitionId,
    sequence: Sequence,
    record: &Record<'_>,
) -> Result<(), StoreError> {
    if client_id_of(record).is_some_and(|client_id| client_id.len() > CLIENT_ID_BYTES_MAX) {
        return Ok(());
    }
    match record {
        Record::Message(message) => fold_message(state, partition, sequence, message),
        Record::SessionPut(put) => put_session(state, put),
        Record::SessionDelete { client_id } => delete_session(state, client_id),
        Record::Qos2Released { client_id, packet_id } => {
            state.delete(Space::Qos2, packet_key(client_id, StepKey::Inbound, *packet_id));
            Ok(())
        }
        Record::Qos2Outbound {
            client_id,
            packet_id,
            step,
            partition,
            sequence,
            shared,
            retain,
            anchor,
        } => {
            let flags = Flags { shared: *shared, retain: *retain };
            let key = packet_key(client_id, StepKey::Outbound, *packet_id);
            if *step == Qos2Step::Completed {
                state.delete(Space::Qos2, key);
                let kind = if *shared { StepKey::SharedCompleted } else { StepKey::Completed };
                let key = place_key(client_id, kind, *packet_id, (*partition, *sequence));
                state.put(Space::Qos2, key, Vec::new());
            } else {
                state.put(Space::Qos2, key, qos2_value(*step, flags, *partition, *sequence));
            }
            put_anchor(state, client_id, *partition, *anchor);
            Ok(())
        }
        Record::Qos2Intent { client_id, packet_id, id, from } => {
            let key = packet_key(client_id, StepKey::Inbound, *packet_id);
            let value = [&id.to_bytes()[..], &from.0.to_be_bytes()].concat();
            state.put(Space::Qos2, key, value);
            Ok(())
        }
        Record::SharedSent { group, client_id, packet_id, partition, sequence, anchor } => {
            if !client_id.is_empty() {
                let key = packet_key(client_id, StepKey::Outbound, *packet_id);
                let flags = Flags { shared: true, retain: false };
                let value = qos2_value(Qos2Step::Sent, flags, *partition, *sequence);
                state.put(Space::Qos2, key, value);
                put_anchor(state, client_id, *partition, *anchor);
            }
            // Without a name the group is elsewhere.
            if !group.is_empty() {
                groups::take(state, group, (*partition, *sequence));
            }
            Ok(())
        }
        Record::Floor { shard, cursors } => {
            state.put(Space::Floors, shard.to_be_bytes().to_vec(), cursors.to_vec());
            state.needed.set_floor(*shard, floor_cursors(cursors));
            Ok(())
        }
        Record::GroupPut { name, record } => groups::put_group(state, name, record),
        Record::GroupDelete { name } => groups::delete_group(state, name),
    }
}

/// Whether [`fold`] does anything with the record: others need not be sent to the storage thread.
#[must_use]
pub fn concerns_state(record: &Record<'_>) -> bool {
    match record {
        Record::Message(message) => message.retain || is_in_ledger(message),
        Record::SessionPut(_)
        | Record::SessionDelete { .. }
        | Record::Qos2Released { .. }
        | Record::Qos2Intent { .. }
        | Record::Qos2Outbound { .. }
        | Record::SharedSent { .. }
        | Record::Floor { .. }
        | Record::GroupPut { .. }
        | Record::GroupDelete { .. } => true,
    }
}

/// The pairs of a [`Record::Floor`].
#[must_use]
pub fn floor_cursors(cursors: &[u8]) -> Vec<(PartitionId, Sequence)> {
    Floor::decode(cursors).cursors
}

fn client_id_of<'a>(record: &Record<'a>) -> Option<&'a str> {
    match record {
        Record::Message(message) => is_in_ledger(message).then_some(message.publisher),
        Record::SessionPut(put) => Some(put.client_id),
        Record::SessionDelete { client_id }
        | Record::Qos2Released { client_id, .. }
        | Record::Qos2Intent { client_id, .. }
        | Record::Qos2Outbound { client_id, .. }
        | Record::SharedSent { client_id, .. } => Some(client_id),
        Record::Floor { .. } | Record::GroupPut { .. } | Record::GroupDelete { .. } => None,
    }
}

fn is_in_ledger(message: &Message<'_>) -> bool {
    message.ledger && message.qos == QoS::ExactlyOnce
}

fn fold_message(
    state: &mut KeyedState,
    partition: PartitionId,
    sequence: Sequence,
    message: &Message<'_>,
) -> Result<(), StoreError> {
    if is_in_ledger(message)
        && let Some(packet_id) = message.packet_id
    {
        let key = packet_key(message.publisher, StepKey::Inbound, packet_id);
        state.put(Space::Qos2, key, Vec::new());
    }
    if message.retain {
        super::retained::put(state, partition, sequence, message)?;
    }
    Ok(())
}

fn put_session(state: &mut KeyedState, put: &SessionPut<'_>) -> Result<(), StoreError> {
    // What the client sent is released by itself, whatever happens to the rest of its session.
    delete_steps(state, put.client_id, |kind| kind != StepKey::Inbound)?;
    replace_session(state, put)
}

fn delete_session(state: &mut KeyedState, client_id: &str) -> Result<(), StoreError> {
    delete_steps(state, client_id, |_| true)?;
    forget_session(state, client_id)
}

/// Writes a session's record and leaves the QoS 2 steps since its last one.
pub(super) fn replace_session(
    state: &mut KeyedState,
    put: &SessionPut<'_>,
) -> Result<(), StoreError> {
    forget_session(state, put.client_id)?;
    state.session_added(put.record);
    let SessionPut { expires_at, will_at, record, client_id } = *put;
    set_timer(state, expires_at, TimerKind::Expiry, client_id);
    set_timer(state, will_at, TimerKind::Will, client_id);
    let value = SessionValue { expires_at, will_at, record }.encode();
    state.put(Space::Sessions, client_id.as_bytes().to_vec(), value);
    state.stored.add(client_id);
    Ok(())
}

fn delete_steps(
    state: &mut KeyedState,
    client_id: &str,
    which: impl Fn(StepKey) -> bool,
) -> Result<(), StoreError> {
    let prefix = qos2_prefix(client_id);
    for key in state.keys(Space::Qos2, &prefix)? {
        let kind = key.get(prefix.len()).copied().and_then(step_key_of);
        if kind.is_some_and(&which) {
            state.delete(Space::Qos2, key);
        }
    }
    Ok(())
}

/// Deletes a session's record, its timers and what was counted of its cursors.
fn forget_session(state: &mut KeyedState, client_id: &str) -> Result<(), StoreError> {
    let key = client_id.as_bytes().to_vec();
    let value = state.get(Space::Sessions, &key)?;
    let Some(session) = value.as_deref().and_then(SessionValue::decode) else { return Ok(()) };
    state.session_removed(session.record);
    let expiry = timer_key(session.expires_at, TimerKind::Expiry, client_id);
    let will = timer_key(session.will_at, TimerKind::Will, client_id);
    state.delete(Space::Timers, expiry);
    state.delete(Space::Timers, will);
    state.delete(Space::Sessions, key);
    state.stored.remove(client_id);
    Ok(())
}

/// The QoS 2 steps of `client_id` that its last record does not hold.
///
/// # Errors
///
/// [`StoreError::Engine`].
pub fn qos2_deltas(state: &KeyedState, client_id: &str) -> Result<Vec<Qos2Delta>, StoreError> {
    let prefix = qos2_prefix(client_id);
    let mut deltas = Vec::new();
    state.scan(Space::Qos2, &prefix, &[], &mut |key, value| {
        deltas.extend(key.get(prefix.len()..).and_then(|key| qos2_delta(key, value)));
        true
    })?;
    Ok(deltas)
}

/// Client ids have different lengths: the length in front keeps one from being another's prefix.
fn qos2_prefix(client_id: &str) -> Vec<u8> {
    [&(client_id.len() as u64).to_be_bytes()[..], client_id.as_bytes()].concat()
}

fn step_key_of(kind: u8) -> Option<StepKey> {
    match kind {
        0 => Some(StepKey::Inbound),
        1 => Some(StepKey::Outbound),
        2 => Some(StepKey::Completed),
        3 => Some(StepKey::SharedCompleted),
        4 => Some(StepKey::Anchor),
        _ => None,
    }
}

fn packet_key(client_id: &str, kind: StepKey, packet_id: PacketId) -> Vec<u8> {
    let mut key = qos2_prefix(client_id);
    key.push(kind as u8);
    key.extend_from_slice(&packet_id.0.get().to_be_bytes());
    key
}

fn put_anchor(
    state: &mut KeyedState,
    client_id: &str,
    partition: PartitionId,
    anchor: Option<Anchor>,
) {
    if let Some(anchor) = anchor {
        let mut key = qos2_prefix(client_id);
        key.push(StepKey::Anchor as u8);
        key.extend_from_slice(&partition.0.to_be_bytes());
        state.put(Space::Qos2, key, anchor.to_bytes().to_vec());
    }
}

fn place_key(
    client_id: &str,
    kind: StepKey,
    packet_id: PacketId,
    (partition, sequence): (PartitionId, Sequence),
) -> Vec<u8> {
    let mut key = packet_key(client_id, kind, packet_id);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&sequence.0.to_be_bytes());
    key
}

/// Of an open exchange.
struct Flags {
    shared: bool,
    retain: bool,
}

fn qos2_value(step: Qos2Step, flags: Flags, partition: PartitionId, sequence: Sequence) -> Vec<u8> {
    let Flags { shared, retain } = flags;
    let shared = if shared { SHARED_STEP } else { 0 };
    let step = step as u8 | shared | if retain { RETAIN_STEP } else { 0 };
    [&[step][..], &partition.0.to_be_bytes(), &sequence.0.to_be_bytes()].concat()
}

fn place_of(bytes: &[u8]) -> Option<(PartitionId, Sequence)> {
    let (partition, sequence) = bytes.split_first_chunk()?;
    let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
    Some((PartitionId(u16::from_be_bytes(*partition)), Sequence(sequence)))
}

fn qos2_delta(key: &[u8], value: &[u8]) -> Option<Qos2Delta> {
    let (&kind, rest) = key.split_first()?;
    let packet_id = || PacketId::new(u16::from_be_bytes(rest.try_into().ok()?));
    Some(match step_key_of(kind)? {
        StepKey::Inbound if value.is_empty() => Qos2Delta::Inbound(packet_id()?),
        StepKey::Inbound => {
            let (id, from) = value.split_first_chunk()?;
            let from = Sequence(u64::from_be_bytes(from.try_into().ok()?));
            Qos2Delta::Intended(packet_id()?, MessageId::from_bytes(*id), from)
        }
        StepKey::Outbound => {
            let (&step, place) = value.split_first()?;
            let (partition, sequence) = place_of(place)?;
            let shared = step & SHARED_STEP != 0;
            let retain = step & RETAIN_STEP != 0;
            let step = match step & !(SHARED_STEP | RETAIN_STEP) {
                0 => Qos2Step::Sent,
                _ => Qos2Step::Received,
            };
            let packet_id = packet_id()?;
            Qos2Delta::Outbound { packet_id, step, partition, sequence, shared, retain }
        }
        StepKey::Anchor => {
            let partition = PartitionId(u16::from_be_bytes(rest.try_into().ok()?));
            Qos2Delta::Anchor(partition, Anchor::from_bytes(value)?)
        }
        kind @ (StepKey::Completed | StepKey::SharedCompleted) => {
            let (packet_id, place) = rest.split_first_chunk()?;
            let packet_id = PacketId::new(u16::from_be_bytes(*packet_id))?;
            let (partition, sequence) = place_of(place)?;
            match kind {
                StepKey::Completed => Qos2Delta::Completed { packet_id, partition, sequence },
                _ => Qos2Delta::SharedCompleted { packet_id, partition, sequence },
            }
        }
    })
}

/// Sets a timer. A topic too long for the key gets none: its retained message is not purged by
/// itself, and whoever reads it sees that it has expired.
pub(super) fn set_timer(state: &mut KeyedState, at: Timestamp, kind: TimerKind, name: &str) {
    let key = timer_key(at, kind, name);
    if at != Timestamp::NEVER && key.len() <= KEY_BYTES_MAX {
        state.put(Space::Timers, key, Vec::new());
    }
}

fn timer_key(at: Timestamp, kind: TimerKind, name: &str) -> Vec<u8> {
    [&at.0.to_be_bytes()[..], &[kind as u8], name.as_bytes()].concat()
}

/// A timer's deadline, kind and name, `None` for a key that is none.
pub(super) fn timer_of(key: &[u8]) -> Option<(Timestamp, TimerKind, &str)> {
    let (at, rest) = key.split_first_chunk()?;
    let (kind, name) = rest.split_first()?;
    let kind = match kind {
        0 => TimerKind::Expiry,
        1 => TimerKind::Will,
        2 => TimerKind::Retained,
        _ => return None,
    };
    Some((Timestamp(u64::from_be_bytes(*at)), kind, std::str::from_utf8(name).ok()?))
}
