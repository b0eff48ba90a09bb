//! What a partition's log holds: messages, and the changes of sessions that must be durable.
//!
//! The log is the truth; the keyed store (sessions, retained messages) is a fold of it. Whatever
//! must be on disk before an answer goes out is one of these records.

use super::mqtt::{PacketId, QoS};
use super::partition::{Anchor, PartitionId, Sequence};
use super::time::Timestamp;
use std::num::NonZeroU16;

/// One record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An application message.
    Message(Message<'a>),
    /// The whole state of a session. Replaces what was known of it, its `Qos2*` records included.
    SessionPut(SessionPut<'a>),
    /// The session ended.
    SessionDelete {
        /// Whose session.
        client_id: &'a str,
    },
    /// A QoS 2 message is about to be stored by another log under this name: if its PUBLISH comes
    /// again, it is given to that once more under the same.
    Qos2Intent {
        /// The publisher.
        client_id: &'a str,
        /// Of its PUBLISH.
        packet_id: PacketId,
        /// The name.
        id: MessageId,
        /// It is stored from here on, if it is.
        from: Sequence,
    },
    /// PUBREL came: the packet id of an inbound QoS 2 message is free again.
    Qos2Released {
        /// The publisher.
        client_id: &'a str,
        /// Of its PUBLISH.
        packet_id: PacketId,
    },
    /// An outbound QoS 2 message reached another step of its exchange.
    Qos2Outbound {
        /// The subscriber.
        client_id: &'a str,
        /// Of our PUBLISH.
        packet_id: PacketId,
        /// The step that was reached.
        step: Qos2Step,
        /// The partition of the message.
        partition: PartitionId,
        /// Its place there.
        sequence: Sequence,
        /// A shared subscription brought it.
        shared: bool,
        /// The RETAIN flag it is sent with.
        retain: bool,
        /// At or behind its place, where places may be used again.
        anchor: Option<Anchor>,
    },
    /// A message of a shared subscription is about to be sent to a member with QoS 2: for the group
    /// it is done, whatever becomes of the member. Also [`Qos2Step::Sent`] for the member's session.
    SharedSent {
        /// "ShareName/filter".
        group: &'a str,
        /// The member, empty when its session ends with its connection.
        client_id: &'a str,
        /// Of our PUBLISH.
        packet_id: PacketId,
        /// The partition of the message.
        partition: PartitionId,
        /// Its place there.
        sequence: Sequence,
        /// At or behind its place, where places may be used again.
        anchor: Option<Anchor>,
    },
    /// Every session that follows the floor of this shard has finished everything up to here.
    Floor {
        /// Whose floor.
        shard: u16,
        /// See [`Floor::encode`](crate::proto::session::record::Floor::encode).
        cursors: &'a [u8],
    },
    /// The whole state of a shared subscription group. Source: MQTT 5.0 §4.8.2.
    GroupPut {
        /// "ShareName/filter".
        name: &'a str,
        /// Encoded by the group.
        record: &'a [u8],
    },
    /// The group's last member left.
    GroupDelete {
        /// "ShareName/filter".
        name: &'a str,
    },
}

/// The step an outbound QoS 2 exchange has reached. Source: MQTT 5.0 §4.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Qos2Step {
    /// PUBLISH may be on its way.
    Sent = 0,
    /// PUBREC came: PUBREL may be on its way.
    Received = 1,
    /// PUBCOMP came: the exchange is over, and the message must not be sent again.
    Completed = 2,
}

/// An application message as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Client id of the publisher, for No Local and the QoS 2 ledger.
    pub publisher: &'a str,
    /// As published.
    pub qos: QoS,
    /// The RETAIN flag as published.
    pub retain: bool,
    /// The publisher's session outlives its connection, so its packet id enters the QoS 2 ledger.
    pub ledger: bool,
    /// When it was received.
    pub received_at: Timestamp,
    /// Message Expiry Interval, seconds, from `received_at`.
    pub expiry_interval_s: Option<u32>,
    /// Of the PUBLISH, when `qos` is 2.
    pub packet_id: Option<PacketId>,
    /// Topic Name.
    pub topic: &'a str,
    /// The properties forwarded unaltered, as on the wire without their length: no Topic Alias, no
    /// Message Expiry Interval, no Subscription Identifier. Source: MQTT 5.0 §3.3.2.3.
    pub properties: &'a [u8],
    /// Application Message.
    pub payload: &'a [u8],
}

/// What makes a message one, however often it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// Of the shard and its start, drawn at random.
    pub origin: u64,
    /// Counted by the shard.
    pub number: u64,
}

impl MessageId {
    /// 32 hexadecimal digits: the `Nats-Msg-Id` of JetStream.
    #[must_use]
    pub fn text(self) -> [u8; 32] {
        let mut text = [0; 32];
        let mut rest = u128::from(self.origin) << 64 | u128::from(self.number);
        for digit in text.iter_mut().rev() {
            *digit = *b"0123456789abcdef".get((rest & 15) as usize).expect("four bits");
            rest >>= 4;
        }
        text
    }

    /// As it is stored: both numbers, little endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (origin, number) = bytes.split_at_mut(8);
        origin.copy_from_slice(&self.origin.to_le_bytes());
        number.copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Undoes [`MessageId::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        let low = |value: u128| u64::try_from(value & u128::from(u64::MAX)).expect("64 bits");
        Self { origin: low(both), number: low(both >> 64) }
    }
}

/// A session's state in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPut<'a> {
    /// Whose session.
    pub client_id: &'a str,
    /// When it ends by itself; [`Timestamp::NEVER`] while connected or without expiry.
    pub expires_at: Timestamp,
    /// When its delayed will is due; [`Timestamp::NEVER`] without one.
    pub will_at: Timestamp,
    /// The rest, encoded by the session.
    pub record: &'a [u8],
}

const KIND_MESSAGE: u8 = 1;
const KIND_SESSION_PUT: u8 = 2;
const KIND_SESSION_DELETE: u8 = 3;
const KIND_QOS2_RELEASED: u8 = 4;
const KIND_QOS2_OUTBOUND: u8 = 5;
const KIND_FLOOR: u8 = 6;
const KIND_GROUP_PUT: u8 = 7;
const KIND_GROUP_DELETE: u8 = 8;
const KIND_SHARED_SENT: u8 = 9;
const KIND_QOS2_INTENT: u8 = 10;

/// In the step byte of `Qos2Outbound`.
const STEP_SHARED: u8 = 0b1000_0000;
/// The message is sent with the RETAIN flag.
const STEP_RETAIN: u8 = 0x40;

const FLAG_RETAIN: u8 = 0b0000_0100;
const FLAG_EXPIRY: u8 = 0b0000_1000;
const FLAG_LEDGER: u8 = 0b0001_0000;

impl Record<'_> {
    /// Appends the record's body to `out`.
    ///
    /// Wire shape: a kind byte, the fixed fields little endian, then the variable ones, each of
    /// them behind a length except the last, which takes the rest.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Message(message) => message.encode(out),
            Record::SessionPut(put) => {
                out.push(KIND_SESSION_PUT);
                out.extend_from_slice(&put.expires_at.0.to_le_bytes());
                out.extend_from_slice(&put.will_at.0.to_le_bytes());
                put_str(out, put.client_id);
                out.extend_from_slice(put.record);
            }
            Record::SessionDelete { client_id } => {
                out.push(KIND_SESSION_DELETE);
                put_str(out, client_id);
            }
            Record::Qos2Intent { client_id, packet_id, id, from } => {
                out.push(KIND_QOS2_INTENT);
                out.extend_from_slice(&packet_id.0.get().to_le_bytes());
                out.extend_from_slice(&id.to_bytes());
                out.extend_from_slice(&from.0.to_le_bytes());
                put_str(out, client_id);
            }
            Record::Qos2Released { client_id, packet_id } => {
                out.push(KIND_QOS2_RELEASED);
                out.extend_from_slice(&packet_id.0.get().to_le_bytes());
                put_str(out, client_id);
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
                out.push(KIND_QOS2_OUTBOUND);
                out.extend_from_slice(&packet_id.0.get().to_le_bytes());
                let shared = if *shared { STEP_SHARED } else { 0 };
                out.push(*step as u8 | shared | if *retain { STEP_RETAIN } else { 0 });
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&sequence.0.to_le_bytes());
                put_str(out, client_id);
                out.extend(anchor.iter().flat_map(|anchor| anchor.to_bytes()));
            }
            Record::SharedSent { group, client_id, packet_id, partition, sequence, anchor } => {
                out.push(KIND_SHARED_SENT);
                out.extend_from_slice(&packet_id.0.get().to_le_bytes());
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&sequence.0.to_le_bytes());
                put_str(out, client_id);
                put_str(out, group);
                out.extend(anchor.iter().flat_map(|anchor| anchor.to_bytes()));
            }
            Record::Floor { shard, cursors } => {
                out.push(KIND_FLOOR);
                out.extend_from_slice(&shard.to_le_bytes());
                out.extend_from_slice(cursors);
            }
            Record::GroupPut { name, record } => {
                out.push(KIND_GROUP_PUT);
                put_str(out, name);
                out.extend_from_slice(record);
            }
            Record::GroupDelete { name } => {
                out.push(KIND_GROUP_DELETE);
                put_str(out, name);
            }
        }
    }
}

impl<'a> Record<'a> {
    /// Reads a record's body, `None` when it is none: a record of a later version, or damage that
    /// a checksum should have found.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let mut input = Input(body);
        Some(match input.byte()? {
            KIND_MESSAGE => Self::Message(Message::decode(input)?),
            KIND_SESSION_PUT => Self::SessionPut(SessionPut {
                expires_at: Timestamp(input.u64()?),
                will_at: Timestamp(input.u64()?),
                client_id: input.str()?,
                record: input.0,
            }),
            KIND_SESSION_DELETE => Self::SessionDelete { client_id: input.str()? },
            KIND_QOS2_INTENT => Self::Qos2Intent {
                packet_id: input.packet_id()?,
                id: MessageId { origin: input.u64()?, number: input.u64()? },
                from: Sequence(input.u64()?),
                client_id: input.str()?,
            },
            KIND_QOS2_RELEASED => {
                Self::Qos2Released { packet_id: input.packet_id()?, client_id: input.str()? }
            }
            KIND_QOS2_OUTBOUND => {
                let packet_id = input.packet_id()?;
                let step = input.byte()?;
                Self::Qos2Outbound {
                    packet_id,
                    step: match step & !(STEP_SHARED | STEP_RETAIN) {
                        0 => Qos2Step::Sent,
                        1 => Qos2Step::Received,
                        2 => Qos2Step::Completed,
                        _ => return None,
                    },
                    partition: PartitionId(input.u16()?),
                    sequence: Sequence(input.u64()?),
                    client_id: input.str()?,
                    shared: step & STEP_SHARED != 0,
                    retain: step & STEP_RETAIN != 0,
                    anchor: Anchor::from_bytes(input.0),
                }
            }
            KIND_SHARED_SENT => Self::SharedSent {
                packet_id: input.packet_id()?,
                partition: PartitionId(input.u16()?),
                sequence: Sequence(input.u64()?),
                client_id: input.str()?,
                group: input.str()?,
                anchor: Anchor::from_bytes(input.0),
            },
            KIND_FLOOR => Self::Floor { shard: input.u16()?, cursors: input.0 },
            KIND_GROUP_PUT => Self::GroupPut { name: input.str()?, record: input.0 },
            KIND_GROUP_DELETE => Self::GroupDelete { name: input.str()? },
            _ => return None,
        })
    }
}

impl<'a> Message<'a> {
    /// Appends the message's body to `out`.
    ///
    /// Wire shape: kind; flags (QoS in the two low bits); packet id, 0 for none (u16); client id
    /// length (u16); topic length (u16); properties length (u32); received at (u64); expiry
    /// interval (u32); client id; topic; properties; payload. 24 bytes and the variable parts.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = self.qos as u8;
        if self.retain {
            flags |= FLAG_RETAIN;
        }
        if self.expiry_interval_s.is_some() {
            flags |= FLAG_EXPIRY;
        }
        if self.ledger {
            flags |= FLAG_LEDGER;
        }
        let mut fixed = [0_u8; 24];
        fixed[0] = KIND_MESSAGE;
        fixed[1] = flags;
        fixed[2..4].copy_from_slice(&self.packet_id.map_or(0, |id| id.0.get()).to_le_bytes());
        fixed[4..6].copy_from_slice(&length_u16(self.publisher).to_le_bytes());
        fixed[6..8].copy_from_slice(&length_u16(self.topic).to_le_bytes());
        let properties_bytes = u32::try_from(self.properties.len()).expect("inside an MQTT packet");
        fixed[8..12].copy_from_slice(&properties_bytes.to_le_bytes());
        fixed[12..20].copy_from_slice(&self.received_at.0.to_le_bytes());
        fixed[20..24].copy_from_slice(&self.expiry_interval_s.unwrap_or(0).to_le_bytes());
        out.reserve(self.encoded_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.publisher.as_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.properties);
        out.extend_from_slice(self.payload);
    }

    /// How many bytes [`Message::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        24 + self.publisher.len() + self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// When the message expires, `None` when it does not. Source: MQTT 5.0 §3.3.2.3.3.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expiry_interval_s.map(|seconds| self.received_at.after_seconds(seconds))
    }

    fn decode(mut input: Input<'a>) -> Option<Self> {
        let flags = input.byte()?;
        let packet_id = NonZeroU16::new(input.u16()?).map(PacketId);
        let publisher_bytes = usize::from(input.u16()?);
        let topic_bytes = usize::from(input.u16()?);
        let properties_bytes = input.u32()? as usize;
        let received_at = Timestamp(input.u64()?);
        let expiry_interval_s = input.u32()?;
        Some(Self {
            publisher: std::str::from_utf8(input.take(publisher_bytes)?).ok()?,
            qos: match flags & 0b11 {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                2 => QoS::ExactlyOnce,
                _ => return None,
            },
            retain: flags & FLAG_RETAIN != 0,
            ledger: flags & FLAG_LEDGER != 0,
            received_at,
            expiry_interval_s: (flags & FLAG_EXPIRY != 0).then_some(expiry_interval_s),
            packet_id,
            topic: std::str::from_utf8(input.take(topic_bytes)?).ok()?,
            properties: input.take(properties_bytes)?,
            payload: input.0,
        })
    }
}

fn length_u16(text: &str) -> u16 {
    u16::try_from(text.len()).expect("an MQTT string has at most 65,535 bytes")
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length_u16(text).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The rest of a body being read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn packet_id(&mut self) -> Option<PacketId> {
        NonZeroU16::new(self.u16()?).map(PacketId)
    }

    fn str(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet_id(id: u16) -> PacketId {
        PacketId(NonZeroU16::new(id).expect("tests use ids above 0"))
    }

    #[test]
    fn a_message_id_is_32_digits() {
        let id = MessageId { origin: 0x0123_4567_89ab_cdef, number: 0xf0 };
        assert_eq!(&id.text(), b"0123456789abcdef00000000000000f0");
        assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn every_record_reads_back_as_written() {
        let message = Message {
            publisher: "sensor-42",
            qos: QoS::ExactlyOnce,
            retain: true,
            ledger: true,
            received_at: Timestamp(1_700_000_000_000),
            expiry_interval_s: Some(0),
            packet_id: Some(packet_id(7)),
            topic: "a/b",
            properties: &[1, 1],
            payload: b"hello",
        };
        let records = [
            Record::Message(message),
            Record::Message(Message { expiry_interval_s: None, packet_id: None, ..message }),
            Record::SessionPut(SessionPut {
                client_id: "c",
                expires_at: Timestamp::NEVER,
                will_at: Timestamp(5),
                record: b"state",
            }),
            Record::SessionDelete { client_id: "c" },
            Record::Qos2Released { client_id: "c", packet_id: packet_id(9) },
            Record::Qos2Outbound {
                client_id: "c",
                packet_id: packet_id(65_535),
                step: Qos2Step::Received,
                partition: PartitionId(3),
                sequence: Sequence::embedded(2, 99),
                shared: true,
                retain: true,
                anchor: Some(Anchor { life: 7, sequence: Sequence(9), stored_at: 11 }),
            },
            Record::SharedSent {
                group: "g/a/#",
                client_id: "c",
                packet_id: packet_id(3),
                partition: PartitionId(3),
                sequence: Sequence::embedded(2, 99),
                anchor: None,
            },
            Record::Floor { shard: 1, cursors: &[0; 10] },
            Record::GroupPut { name: "g/a/#", record: b"x" },
            Record::GroupDelete { name: "g/a/#" },
        ];
        for record in records {
            let mut body = Vec::new();
            record.encode(&mut body);
            assert_eq!(Record::decode(&body), Some(record));
            for cut in 0..body.len().min(24) {
                // A shorter body may decode to a shorter last field; it must not panic.
                let _ = Record::decode(body.get(..cut).expect("cut is inside"));
            }
        }
    }
}
