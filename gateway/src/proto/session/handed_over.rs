//! A session whose client stays connected while another process takes over: all that the record of a
//! session leaves out because it ends with the connection.
//!
//! This is the one place where the order of bytes matters: a process of another version reads them.
//! Whatever changes here, or in [`SessionRecord`], needs a new [`HAND_OVER_VERSION`].

use super::record::{Input, SessionRecord, put_bytes, put_count};
use super::{Connected, InboundStep};
use crate::proto::access::Proof;
use crate::proto::mqtt::{PacketId, ProtocolVersion};
use crate::proto::partition::Sequence;
use crate::proto::record::MessageId;
use crate::proto::time::Timestamp;

/// Version of what one process hands to the next. A process takes over from one that says the same.
pub const HAND_OVER_VERSION: u32 = 2;

/// Who a client is, as far as another process can be told: its rules it finds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedIdentity {
    /// The user name, proven.
    pub user_name: Option<Box<str>>,
    /// What that rests on.
    pub proof: Proof,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A session with its connection, on its way from one process to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Client Identifier, behind the mountpoint of a tenant.
    pub client_id: Box<str>,
    /// What was agreed in CONNECT.
    pub connected: Connected,
    /// How long ago the last whole packet came, milliseconds.
    pub silent_ms: u64,
    /// It may prove anew who it is: its CONNECT named an authentication method.
    pub proves: bool,
    /// The log or the store holds a record of the client.
    pub stored: bool,
    /// What the client published and is not done with.
    pub inbound_unacknowledged: u16,
    /// Who the client is, where that is asked.
    pub identity: Option<HandedIdentity>,
    /// QoS 2 exchanges the client started: all of them wait for the client.
    pub inbound: Vec<(PacketId, InboundStep)>,
    /// Topic aliases the client set.
    pub inbound_aliases: Vec<(u16, Box<str>)>,
    /// Topics with aliases we set, from alias 1 on.
    pub outbound_aliases: Vec<Box<str>>,
    /// Those in flight that were not sent on this connection, and whether each may have been sent on an
    /// earlier one.
    pub unsent: Vec<(PacketId, bool)>,
    /// The rest. Partitions without a cursor are those in which the session is up to date, if it says
    /// so below.
    pub record: SessionRecord,
    /// Whoever publishes is in the process that hands over, and stands still: a partition without a
    /// cursor has nothing for this session.
    pub is_complete: bool,
}

impl HandedOver {
    /// Appends it to `out`: numbers little endian, lists and texts behind their length (u32), in the
    /// order of the fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.client_id.as_bytes());
        put_connected(out, &self.connected);
        out.extend_from_slice(&self.silent_ms.to_le_bytes());
        out.push(u8::from(self.proves));
        out.push(u8::from(self.stored));
        out.extend_from_slice(&self.inbound_unacknowledged.to_le_bytes());
        out.push(u8::from(self.identity.is_some()));
        if let Some(identity) = &self.identity {
            put_identity(out, identity);
        }
        put_count(out, self.inbound.len());
        for (packet_id, step) in &self.inbound {
            out.extend_from_slice(&packet_id.get().to_le_bytes());
            put_step(out, *step);
        }
        put_count(out, self.inbound_aliases.len());
        for (alias, topic) in &self.inbound_aliases {
            out.extend_from_slice(&alias.to_le_bytes());
            put_bytes(out, topic.as_bytes());
        }
        put_count(out, self.outbound_aliases.len());
        for topic in &self.outbound_aliases {
            put_bytes(out, topic.as_bytes());
        }
        put_count(out, self.unsent.len());
        for (packet_id, dup) in &self.unsent {
            out.extend_from_slice(&packet_id.get().to_le_bytes());
            out.push(u8::from(*dup));
        }
        out.push(u8::from(self.is_complete));
        self.record.encode(out);
    }

    /// Reads what [`HandedOver::encode`] wrote, `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let client_id = input.text()?.into();
        let connected = connected(&mut input)?;
        let silent_ms = input.u64()?;
        let proves = input.byte()? != 0;
        let stored = input.byte()? != 0;
        let inbound_unacknowledged = input.u16()?;
        let identity = if input.byte()? != 0 { Some(identity(&mut input)?) } else { None };
        let inbound = input.list(|input| Some((PacketId::new(input.u16()?)?, step(input)?)))?;
        let inbound_aliases = input.list(|input| Some((input.u16()?, input.text()?.into())))?;
        let outbound_aliases = input.list(|input| Some(input.text()?.into()))?;
        let unsent =
            input.list(|input| Some((PacketId::new(input.u16()?)?, input.byte()? != 0)))?;
        let is_complete = input.byte()? != 0;
        let record = SessionRecord::decode(input.0)?;
        Some(Self {
            client_id,
            connected,
            silent_ms,
            proves,
            stored,
            inbound_unacknowledged,
            identity,
            inbound,
            inbound_aliases,
            outbound_aliases,
            unsent,
            record,
            is_complete,
        })
    }

    /// Only the client id: whose shard it goes to.
    #[must_use]
    pub fn client_id_of(bytes: &[u8]) -> Option<&str> {
        Input(bytes).text()
    }
}

fn put_connected(out: &mut Vec<u8>, connected: &Connected) {
    out.push(match connected.version {
        ProtocolVersion::V3_1 => 3,
        ProtocolVersion::V3_1_1 => 4,
        ProtocolVersion::V5 => 5,
    });
    out.push(u8::from(connected.clean_start) | (u8::from(connected.problem_information) << 1));
    out.extend_from_slice(&connected.silence_max_ms.to_le_bytes());
    out.extend_from_slice(&connected.session_expiry_s.to_le_bytes());
    out.extend_from_slice(&connected.window.to_le_bytes());
    out.extend_from_slice(&connected.maximum_packet_size.to_le_bytes());
    out.extend_from_slice(&connected.topic_alias_maximum.to_le_bytes());
}

fn connected(input: &mut Input<'_>) -> Option<Connected> {
    let version = match input.byte()? {
        3 => ProtocolVersion::V3_1,
        4 => ProtocolVersion::V3_1_1,
        5 => ProtocolVersion::V5,
        _ => return None,
    };
    let flags = input.byte()?;
    Some(Connected {
        version,
        clean_start: flags & 1 != 0,
        problem_information: flags & 2 != 0,
        silence_max_ms: input.u32()?,
        session_expiry_s: input.u32()?,
        window: input.u16()?,
        maximum_packet_size: input.u32()?,
        topic_alias_maximum: input.u16()?,
    })
}

fn put_identity(out: &mut Vec<u8>, identity: &HandedIdentity) {
    out.push(u8::from(identity.user_name.is_some()));
    put_bytes(out, identity.user_name.as_deref().unwrap_or_default().as_bytes());
    let own = |rules: bool, mountpoint: bool| u8::from(rules) | (u8::from(mountpoint) << 1);
    let (kind, number) = match identity.proof {
        Proof::None => (0, 0),
        Proof::Certificate => (1, 0),
        Proof::Password(hash) => (2, hash),
        Proof::Http { own_rules, own_mountpoint } => (3, u64::from(own(own_rules, own_mountpoint))),
        Proof::Token { key, own_rules, own_mountpoint } => {
            (4 + own(own_rules, own_mountpoint), key)
        }
    };
    out.push(kind);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&identity.expires_at.0.to_le_bytes());
}

fn identity(input: &mut Input<'_>) -> Option<HandedIdentity> {
    let is_known = input.byte()? != 0;
    let user_name = Box::from(input.text()?);
    let (kind, number) = (input.byte()?, input.u64()?);
    let proof = match kind {
        0 => Proof::None,
        1 => Proof::Certificate,
        2 => Proof::Password(number),
        3 => Proof::Http { own_rules: number & 1 != 0, own_mountpoint: number & 2 != 0 },
        4..=7 => {
            Proof::Token { key: number, own_rules: kind & 1 != 0, own_mountpoint: kind & 2 != 0 }
        }
        _ => return None,
    };
    let expires_at = Timestamp(input.u64()?);
    Some(HandedIdentity { user_name: is_known.then_some(user_name), proof, expires_at })
}

fn put_step(out: &mut Vec<u8>, step: InboundStep) {
    match step {
        InboundStep::ExpectCommit => out.push(0),
        InboundStep::ExpectPubrel => out.push(1),
        // A refusal waits for its commit, and is over before anything moves.
        InboundStep::ExpectRelease | InboundStep::ExpectRefusal => out.push(2),
        InboundStep::Intended(id, from) => {
            out.push(3);
            out.extend_from_slice(&id.to_bytes());
            out.extend_from_slice(&from.0.to_le_bytes());
        }
    }
}

fn step(input: &mut Input<'_>) -> Option<InboundStep> {
    Some(match input.byte()? {
        0 => InboundStep::ExpectCommit,
        1 => InboundStep::ExpectPubrel,
        2 => InboundStep::ExpectRelease,
        3 => {
            let id = MessageId::from_bytes(input.take(16)?.try_into().ok()?);
            InboundStep::Intended(id, Sequence(input.u64()?))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::partition::PartitionId;

    fn full() -> HandedOver {
        let id = |number| PacketId::new(number).unwrap();
        HandedOver {
            client_id: "meter/7".into(),
            connected: Connected {
                version: ProtocolVersion::V3_1_1,
                clean_start: false,
                silence_max_ms: 90_000,
                session_expiry_s: 4,
                window: 20,
                maximum_packet_size: 1_000,
                topic_alias_maximum: 9,
                problem_information: true,
            },
            silent_ms: 12_345,
            proves: true,
            stored: true,
            inbound_unacknowledged: 2,
            identity: Some(HandedIdentity {
                user_name: Some("ann".into()),
                proof: Proof::Token { key: 77, own_rules: false, own_mountpoint: true },
                expires_at: Timestamp(5_000_000),
            }),
            inbound: vec![
                (id(4), InboundStep::ExpectPubrel),
                (id(9), InboundStep::Intended(MessageId { origin: 1, number: 2 }, Sequence(3))),
            ],
            inbound_aliases: vec![(3, "a/b".into())],
            outbound_aliases: vec!["x".into(), "y".into()],
            unsent: vec![(id(8), true)],
            record: SessionRecord {
                online: true,
                last_packet_id: 8,
                cursors: vec![(PartitionId(1), Sequence(44))],
                ..SessionRecord::default()
            },
            is_complete: true,
        }
    }

    #[test]
    fn what_is_handed_over_arrives_as_it_was() {
        let mut anonymous = full();
        anonymous.identity = Some(HandedIdentity {
            user_name: None,
            proof: Proof::None,
            expires_at: Timestamp::NEVER,
        });
        let mut unknown = full();
        unknown.identity = None;
        for handed in [full(), anonymous, unknown] {
            let mut bytes = Vec::new();
            handed.encode(&mut bytes);
            assert_eq!(HandedOver::client_id_of(&bytes), Some("meter/7"));
            assert_eq!(HandedOver::decode(&bytes), Some(handed));
        }
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let mut bytes = Vec::new();
        full().encode(&mut bytes);
        for length in 0..bytes.len() {
            assert_eq!(HandedOver::decode(&bytes[..length]), None, "{length} bytes");
        }
    }
}
