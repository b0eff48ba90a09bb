//! What is stored under the key of a client id: whose the session is, and its state.
//!
//! An empty value says that there is no session (any more); so does one without a state, which a
//! gateway writes to claim a client id of whom nothing is stored.

use crate::proto::mqtt::PacketId;
use crate::proto::partition::{Anchor, PartitionId, Sequence};
use crate::proto::record::{MessageId, Qos2Step, Record};
use crate::proto::session::record::{self, Floor, Qos2Delta, SessionRecord};
use crate::proto::session::{NEVER_EXPIRES, StoredWill};
use crate::proto::shard_state::{SessionUser, StoredSession};
use crate::proto::time::Timestamp;

/// Version of this format, the first byte of a value.
const FORMAT_VERSION: u8 = 1;

/// The largest state written, bytes. With what stands around it, it is below a server's default
/// `max_payload` of 1 MiB.
pub const STATE_BYTES_MAX: u32 = 900 * 1_024;

/// One shard of one gateway, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The gateway's id: at most 255 bytes.
    pub gateway: Box<str>,
    /// Which of its shards.
    pub shard: u16,
    /// Drawn at random when it started.
    pub boot: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionValue {
    /// Who alone may change it; nobody's is for the taking.
    pub(super) owner: Option<Owner>,
    /// Rises with each claim.
    pub(super) epoch: u64,
    /// Of the write, by which its writer knows it again.
    pub(super) nonce: u64,
    pub(super) state: Option<State>,
    /// Of connections that are over: on their way to be stored, and not known to be. At most
    /// `WILLS_BYTES_MAX` bytes of them.
    pub(super) wills: Vec<StoredWill>,
}

/// Bytes of the wills in a value: the oldest are left out beyond that. As large as a CONNECT may be.
const WILLS_BYTES_MAX: usize = 65_536;

/// The state of a session, as [`Record`]s have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) expires_at: Timestamp,
    pub(super) will_at: Timestamp,
    /// See [`SessionRecord`].
    pub(super) record: Vec<u8>,
    /// QoS 2 steps since.
    pub(super) steps: Vec<Qos2Delta>,
    /// Its owner has gone without a word: its will is due.
    pub(super) is_orphan: bool,
}

impl State {
    /// Whether `user` may have the session.
    pub(super) fn is_for(&self, user: &SessionUser) -> bool {
        !user.is_bound || user.may_have(record::owner_of(&self.record).as_deref())
    }

    /// A connection holds the session.
    pub(super) fn is_online(&self) -> bool {
        record::is_online(&self.record)
    }

    /// Somebody has to publish its will some time.
    pub(super) fn has_will_to_come(&self) -> bool {
        self.will_at != Timestamp::NEVER
    }

    /// Of a session that begins: until its own record is there it is one that has nothing, and lasts
    /// so long from now on. `None` for one that is not to be stored.
    pub(super) fn new(expiry_s: u32, user: &SessionUser, now: Timestamp) -> Option<Self> {
        let owner = user.name.clone().filter(|_| user.is_bound);
        let record =
            SessionRecord { session_expiry_s: expiry_s, owner, ..SessionRecord::default() };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let state = Self {
            expires_at: expires_at(expiry_s, now),
            will_at: Timestamp::NEVER,
            record: bytes,
            ..Self::default()
        };
        (expiry_s > 0).then_some(state)
    }

    pub(super) fn stored(&self) -> StoredSession {
        StoredSession {
            expires_at: self.expires_at,
            will_at: self.will_at,
            record: self.record.clone().into(),
            steps: self.steps.clone(),
            is_orphan: self.is_orphan,
        }
    }

    /// What the record of a session is whose owner did not write its end: offline from `now` on, as
    /// far as `floor` says it was.
    pub(super) fn orphaned(self, floor: &Floor, now: Timestamp) -> Self {
        let Some(mut record) = SessionRecord::decode(&self.record).filter(|one| one.online) else {
            return self;
        };
        record::settle(&mut record, floor);
        let expires_at = expires_at(record.session_expiry_s, now);
        let will_at = record.will.as_ref().map(|will| now.after_seconds(will.delay_s));
        let will_at = will_at.map_or(Timestamp::NEVER, |at| at.min(expires_at));
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        Self { expires_at, will_at, record: bytes, steps: self.steps, is_orphan: true }
    }

    /// The shard whose floor the session followed when its record was written.
    pub(super) fn follows_floor(&self) -> bool {
        let record = SessionRecord::decode(&self.record);
        record.is_some_and(|record| record.online && record.floor_shard.is_some())
    }
}

fn expires_at(expiry_s: u32, now: Timestamp) -> Timestamp {
    match expiry_s {
        NEVER_EXPIRES => Timestamp::NEVER,
        seconds => now.after_seconds(seconds),
    }
}

/// What a record of a session does to its state.
///
/// The same as the fold of the embedded store, where there is one state a client id.
pub(super) fn fold(state: &mut Option<State>, record: &Record<'_>) {
    match record {
        Record::SessionPut(put) => {
            // What the client sent is released by itself, whatever happens to the rest.
            let mut steps = state.take().map(|state| state.steps).unwrap_or_default();
            steps.retain(|step| matches!(step, Qos2Delta::Inbound(_) | Qos2Delta::Intended(..)));
            *state = Some(State {
                expires_at: put.expires_at,
                will_at: put.will_at,
                record: fitting(put.record),
                steps,
                is_orphan: false,
            });
        }
        Record::SessionDelete { .. } => *state = None,
        Record::Qos2Intent { packet_id, id, from, .. } => {
            let steps = &mut state.get_or_insert_default().steps;
            steps.retain(|step| inbound_id(step) != Some(*packet_id));
            steps.push(Qos2Delta::Intended(*packet_id, *id, *from));
        }
        Record::Qos2Released { packet_id, .. } => {
            if let Some(state) = state {
                state.steps.retain(|step| inbound_id(step) != Some(*packet_id));
            }
        }
        Record::Qos2Outbound {
            packet_id,
            step,
            partition,
            sequence,
            shared,
            retain,
            anchor,
            ..
        } => {
            let state = state.get_or_insert_default();
            let flags = (*shared, *retain);
            note_outbound(state, *packet_id, *step, (*partition, *sequence), flags);
            note_anchor(state, *partition, *anchor);
        }
        Record::SharedSent { packet_id, partition, sequence, anchor, .. } => {
            let (state, step) = (state.get_or_insert_default(), Qos2Step::Sent);
            note_outbound(state, *packet_id, step, (*partition, *sequence), (true, false));
            note_anchor(state, *partition, *anchor);
        }
        Record::Message(_)
        | Record::Floor { .. }
        | Record::GroupPut { .. }
        | Record::GroupDelete { .. } => unreachable!("no record of a session"),
    }
}

fn note_outbound(
    state: &mut State,
    packet_id: PacketId,
    step: Qos2Step,
    (partition, sequence): (PartitionId, Sequence),
    (shared, retain): (bool, bool),
) {
    let new = match step {
        Qos2Step::Completed if shared => {
            Qos2Delta::SharedCompleted { packet_id, partition, sequence }
        }
        Qos2Step::Completed => Qos2Delta::Completed { packet_id, partition, sequence },
        step => Qos2Delta::Outbound { packet_id, step, partition, sequence, shared, retain },
    };
    state.steps.retain(|step| {
        !matches!(step, Qos2Delta::Outbound { packet_id: other, .. } if *other == packet_id)
            && *step != new
    });
    state.steps.push(new);
}

/// The last of each partition is behind all.
fn note_anchor(state: &mut State, partition: PartitionId, anchor: Option<Anchor>) {
    if let Some(anchor) = anchor {
        state.steps.retain(|step| !matches!(step, Qos2Delta::Anchor(of, _) if *of == partition));
        state.steps.push(Qos2Delta::Anchor(partition, anchor));
    }
}

fn inbound_id(step: &Qos2Delta) -> Option<PacketId> {
    match step {
        Qos2Delta::Inbound(packet_id) | Qos2Delta::Intended(packet_id, ..) => Some(*packet_id),
        Qos2Delta::Outbound { .. }
        | Qos2Delta::Completed { .. }
        | Qos2Delta::SharedCompleted { .. }
        | Qos2Delta::Anchor(..) => None,
    }
}

/// A record that fits a value. One that does not leaves out the content of retained messages: those
/// in flight are fetched again, those that wait are not sent.
fn fitting(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() > STATE_BYTES_MAX as usize
        && let Some(mut record) = SessionRecord::decode(bytes)
    {
        record.queued.clear();
        record.in_flight.iter_mut().for_each(|sent| sent.body = None);
        let mut smaller = Vec::new();
        record.encode(&mut smaller);
        return smaller;
    }
    bytes.to_vec()
}

const FLAG_OWNER: u8 = 1;
const FLAG_STATE: u8 = 2;
const FLAG_ORPHAN: u8 = 4;
const FLAG_WILLS: u8 = 8;

impl SessionValue {
    /// Wire shape, little endian: version, flags, epoch (u64), nonce (u64), the owner if there is one
    /// (length and bytes of the gateway's id, shard, boot), the state if there is one (two times, then
    /// record and steps behind their lengths), the wills if there are any (behind their number).
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        flags |= if self.owner.is_some() { FLAG_OWNER } else { 0 };
        flags |= if self.state.is_some() { FLAG_STATE } else { 0 };
        flags |= if self.state.as_ref().is_some_and(|one| one.is_orphan) { FLAG_ORPHAN } else { 0 };
        let mut wills = Vec::new();
        let mut count = 0;
        for will in self.wills.iter().rev() {
            let before = wills.len();
            record::put_will(&mut wills, will);
            if wills.len() > WILLS_BYTES_MAX {
                wills.truncate(before);
                break;
            }
            count += 1;
        }
        flags |= if count > 0 { FLAG_WILLS } else { 0 };
        let mut out = vec![FORMAT_VERSION, flags];
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        if let Some(owner) = &self.owner {
            owner.encode(&mut out);
        }
        if let Some(state) = &self.state {
            out.extend_from_slice(&state.expires_at.0.to_le_bytes());
            out.extend_from_slice(&state.will_at.0.to_le_bytes());
            put_count(state.record.len(), &mut out);
            out.extend_from_slice(&state.record);
            put_count(state.steps.len(), &mut out);
            state.steps.iter().for_each(|step| put_step(step, &mut out));
        }
        if count > 0 {
            put_count(count, &mut out);
            out.extend_from_slice(&wills);
        }
        out
    }

    /// Reads a value, `None` for one of another format version or a damaged one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.byte()? != FORMAT_VERSION {
            return None;
        }
        let flags = input.byte()?;
        let (epoch, nonce) = (input.u64()?, input.u64()?);
        let owner = if flags & FLAG_OWNER != 0 { Some(Owner::decode(&mut input)?) } else { None };
        let state = if flags & FLAG_STATE != 0 { Some(input.state(flags)?) } else { None };
        let count = if flags & FLAG_WILLS != 0 { input.u32()? } else { 0 };
        let mut wills = (0..count).map(|_| input.will()).collect::<Option<Vec<_>>>()?;
        wills.reverse();
        Some(Self { owner, epoch, nonce, state, wills })
    }
}

impl Owner {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let length = u8::try_from(self.gateway.len()).expect("a gateway's id has 64 bytes at most");
        out.push(length);
        out.extend_from_slice(self.gateway.as_bytes());
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Option<Self> {
        let length = input.byte()?;
        let gateway = std::str::from_utf8(input.take(length.into())?).ok()?.into();
        Some(Self { gateway, shard: input.u16()?, boot: input.u64()? })
    }
}

const STEP_INTENDED: u8 = 0;
const STEP_SENT: u8 = 1;
const STEP_RECEIVED: u8 = 2;
const STEP_COMPLETED: u8 = 3;
const STEP_INBOUND: u8 = 4;
const STEP_ANCHOR: u8 = 5;
/// A shared subscription brought the message.
const STEP_SHARED: u8 = 0b1000_0000;
/// The message is sent with the RETAIN flag.
const STEP_RETAIN: u8 = 0b0100_0000;

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("a session is bounded far below 4 GiB");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Wire shape, little endian: kind, packet id (u16), then by kind a message id and a sequence, or
/// partition and sequence, or nothing. Of an anchor the partition stands for the packet id, one higher,
/// and the anchor follows.
fn put_step(step: &Qos2Delta, out: &mut Vec<u8>) {
    let (kind, packet_id, place) = match *step {
        Qos2Delta::Anchor(partition, anchor) => {
            out.push(STEP_ANCHOR);
            out.extend_from_slice(&(partition.0 + 1).to_le_bytes());
            out.extend_from_slice(&anchor.to_bytes());
            return;
        }
        Qos2Delta::Inbound(packet_id) => (STEP_INBOUND, packet_id, None),
        Qos2Delta::Intended(packet_id, id, from) => {
            out.push(STEP_INTENDED);
            out.extend_from_slice(&packet_id.get().to_le_bytes());
            out.extend_from_slice(&id.to_bytes());
            out.extend_from_slice(&from.0.to_le_bytes());
            return;
        }
        Qos2Delta::Outbound { packet_id, step, partition, sequence, shared, retain } => {
            let kind = if step == Qos2Step::Sent { STEP_SENT } else { STEP_RECEIVED };
            let shared = if shared { STEP_SHARED } else { 0 };
            let retain = if retain { STEP_RETAIN } else { 0 };
            (kind | shared | retain, packet_id, Some((partition, sequence)))
        }
        Qos2Delta::Completed { packet_id, partition, sequence } => {
            (STEP_COMPLETED, packet_id, Some((partition, sequence)))
        }
        Qos2Delta::SharedCompleted { packet_id, partition, sequence } => {
            (STEP_COMPLETED | STEP_SHARED, packet_id, Some((partition, sequence)))
        }
    };
    out.push(kind);
    out.extend_from_slice(&packet_id.get().to_le_bytes());
    if let Some((partition, sequence)) = place {
        out.extend_from_slice(&partition.0.to_le_bytes());
        out.extend_from_slice(&sequence.0.to_le_bytes());
    }
}

/// Bytes being read.
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

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn place(&mut self) -> Option<(PartitionId, Sequence)> {
        Some((PartitionId(self.u16()?), Sequence(self.u64()?)))
    }

    fn state(&mut self, flags: u8) -> Option<State> {
        let (expires_at, will_at) = (Timestamp(self.u64()?), Timestamp(self.u64()?));
        let record_bytes = self.u32()? as usize;
        let record = self.take(record_bytes)?.to_vec();
        let count = self.u32()?;
        // Each step takes bytes, so a damaged count ends soon.
        let steps = (0..count).map(|_| self.step()).collect::<Option<Vec<_>>>()?;
        let is_orphan = flags & FLAG_ORPHAN != 0;
        Some(State { expires_at, will_at, record, steps, is_orphan })
    }

    fn will(&mut self) -> Option<StoredWill> {
        let (will, length) = record::read_will(self.0)?;
        self.take(length)?;
        Some(will)
    }

    fn step(&mut self) -> Option<Qos2Delta> {
        let kind = self.byte()?;
        let packet_id = PacketId::new(self.u16()?)?;
        let (shared, retain) = (kind & STEP_SHARED != 0, kind & STEP_RETAIN != 0);
        Some(match kind & !(STEP_SHARED | STEP_RETAIN) {
            STEP_INBOUND => Qos2Delta::Inbound(packet_id),
            STEP_ANCHOR => {
                let partition = PartitionId(packet_id.get() - 1);
                Qos2Delta::Anchor(partition, Anchor::from_bytes(self.take(Anchor::BYTES)?)?)
            }
            STEP_INTENDED => {
                let id = MessageId::from_bytes(self.take(16)?.try_into().ok()?);
                Qos2Delta::Intended(packet_id, id, Sequence(self.u64()?))
            }
            kind @ (STEP_SENT | STEP_RECEIVED) => {
                let (partition, sequence) = self.place()?;
                let step = if kind == STEP_SENT { Qos2Step::Sent } else { Qos2Step::Received };
                Qos2Delta::Outbound { packet_id, step, partition, sequence, shared, retain }
            }
            STEP_COMPLETED => {
                let (partition, sequence) = self.place()?;
                match shared {
                    true => Qos2Delta::SharedCompleted { packet_id, partition, sequence },
                    false => Qos2Delta::Completed { packet_id, partition, sequence },
                }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mqtt::QoS;
    use crate::proto::record::SessionPut;

    const PLACE: (PartitionId, Sequence) = (PartitionId(2), Sequence(70));

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    fn put(record: &SessionRecord) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    }

    fn folded(records: &[Record<'_>]) -> Option<State> {
        let mut state = None;
        records.iter().for_each(|record| fold(&mut state, record));
        state
    }

    fn outbound(packet_id: u16, step: Qos2Step, sequence: u64) -> Record<'static> {
        let (client_id, packet_id) = ("c", id(packet_id));
        let (partition, sequence) = (PartitionId(0), Sequence(sequence));
        Record::Qos2Outbound {
            client_id,
            packet_id,
            step,
            partition,
            sequence,
            shared: false,
            retain: true,
            anchor: Some(Anchor { life: 1, sequence, stored_at: 2 }),
        }
    }

    #[test]
    fn reads_back_what_was_written_and_survives_any_cut() {
        let (partition, sequence) = PLACE;
        let name = MessageId { origin: 5, number: 6 };
        let steps = vec![
            Qos2Delta::Inbound(id(1)),
            Qos2Delta::Intended(id(2), name, Sequence(9)),
            Qos2Delta::Outbound {
                packet_id: id(3),
                step: Qos2Step::Received,
                partition,
                sequence,
                shared: true,
                retain: true,
            },
            Qos2Delta::Completed { packet_id: id(4), partition, sequence },
            Qos2Delta::SharedCompleted { packet_id: id(5), partition, sequence },
        ];
        let will = |number, payload_bytes| StoredWill {
            id: MessageId { origin: 1, number },
            qos: QoS::ExactlyOnce,
            retain: false,
            delay_s: 0,
            expiry_interval_s: None,
            topic: "gone".into(),
            properties: [].into(),
            payload: vec![7; payload_bytes].into(),
        };
        let wills = vec![will(1, 3), will(2, 9)];
        let many = SessionValue {
            owner: None,
            epoch: 1,
            nonce: 2,
            state: None,
            wills: (0..3).map(|number| will(number, 30_000)).collect(),
        };
        let read = SessionValue::decode(&many.encode()).unwrap();
        assert_eq!(read.wills, many.wills[1..], "the oldest is left out");
        let state = State {
            expires_at: Timestamp(7),
            will_at: Timestamp::NEVER,
            record: b"record".to_vec(),
            steps,
            is_orphan: true,
        };
        let owner = Owner { gateway: "g1".into(), shard: 3, boot: 99 };
        for owner in [None, Some(owner)] {
            for state in [None, Some(state.clone())] {
                let value = SessionValue {
                    owner: owner.clone(),
                    epoch: 4,
                    nonce: 8,
                    state,
                    wills: wills.clone(),
                };
                let bytes = value.encode();
                assert_eq!(SessionValue::decode(&bytes), Some(value));
                for cut in 0..bytes.len() {
                    assert_eq!(SessionValue::decode(bytes.get(..cut).unwrap()), None);
                }
            }
        }
    }

    #[test]
    fn a_value_of_another_version_is_refused() {
        let value =
            SessionValue { owner: None, epoch: 1, nonce: 2, state: None, wills: Vec::new() };
        let mut bytes = value.encode();
        bytes[0] = FORMAT_VERSION + 1;
        assert_eq!(SessionValue::decode(&bytes), None);
    }

    #[test]
    fn steps_replace_each_other_and_a_whole_record_all_of_the_way_out() {
        let name = MessageId { origin: 5, number: 6 };
        let intent = |packet_id| Record::Qos2Intent {
            client_id: "c",
            packet_id: id(packet_id),
            id: name,
            from: Sequence(1),
        };
        let released = Record::Qos2Released { client_id: "c", packet_id: id(1) };
        let steps = [
            intent(1),
            intent(2),
            outbound(7, Qos2Step::Sent, 40),
            outbound(7, Qos2Step::Received, 40),
            released,
        ];
        let state = folded(&steps).unwrap();
        let sent = Qos2Delta::Outbound {
            packet_id: id(7),
            step: Qos2Step::Received,
            partition: PartitionId(0),
            sequence: Sequence(40),
            shared: false,
            retain: true,
        };
        let intended = Qos2Delta::Intended(id(2), name, Sequence(1));
        let anchor = Anchor { life: 1, sequence: Sequence(40), stored_at: 2 };
        assert_eq!(state.steps, [intended, sent, Qos2Delta::Anchor(PartitionId(0), anchor)]);
        let put = Record::SessionPut(SessionPut {
            client_id: "c",
            expires_at: Timestamp(1),
            will_at: Timestamp(2),
            record: b"whole",
        });
        let state = folded(&[&steps[..], &[put]].concat()).unwrap();
        assert_eq!((state.steps, &state.record[..]), (vec![intended], &b"whole"[..]));
        let delete = Record::SessionDelete { client_id: "c" };
        assert_eq!(folded(&[&steps[..], &[delete]].concat()), None);
    }

    /// A packet id that is used again names another message.
    #[test]
    fn what_is_completed_stays_known_beside_the_next_of_its_packet_id() {
        let state = folded(&[
            outbound(7, Qos2Step::Sent, 40),
            outbound(7, Qos2Step::Completed, 40),
            outbound(7, Qos2Step::Sent, 41),
        ]);
        let mut record = SessionRecord::default();
        state.unwrap().steps.iter().for_each(|step| record.apply(*step));
        let in_flight: Vec<_> = record.in_flight.iter().map(|sent| sent.sequence.0).collect();
        assert_eq!(in_flight, [41]);
        assert!(record.completed.contains(&(PartitionId(0), Sequence(40))));
    }

    #[test]
    fn an_orphan_is_offline_from_now_on_and_its_will_is_due() {
        let record = SessionRecord {
            online: true,
            floor_shard: Some(0),
            session_expiry_s: 60,
            cursors: vec![(PartitionId(0), Sequence(5))],
            ..SessionRecord::default()
        };
        let state = State { record: put(&record), ..State::default() };
        assert!(state.is_online() && state.follows_floor());
        let cursors = vec![(PartitionId(0), Sequence(9))];
        let floor = Floor { cursors, anchors: Vec::new() };
        let orphan = state.orphaned(&floor, Timestamp(1_000));
        assert!(!orphan.is_online() && orphan.is_orphan);
        assert_eq!((orphan.expires_at, orphan.will_at), (Timestamp(61_000), Timestamp::NEVER));
        let record = SessionRecord::decode(&orphan.record).unwrap();
        assert_eq!(record.cursors, [(PartitionId(0), Sequence(9))]);
    }

    #[test]
    fn a_record_that_is_too_large_leaves_out_what_can_be_read_again() {
        let queued = (PartitionId(0), Sequence(1), vec![7; STATE_BYTES_MAX as usize].into());
        let record = SessionRecord { queued: vec![queued], ..SessionRecord::default() };
        let bytes = put(&record);
        let small = fitting(&bytes);
        assert_eq!(SessionRecord::decode(&small), Some(SessionRecord::default()));
        assert_eq!(fitting(&small), small);
    }
}
