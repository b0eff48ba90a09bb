//! What a client writes and reads, in terms of the gateway's codec.

use std::num::NonZeroU16;

use gateway::proto::mqtt::{
    AckKind, Connack, Connect, DecodeContext, DecodeError, Disconnect, Packet, PacketId,
    Properties, Property, ProtocolVersion, PublishAck, PublishHeader, QoS, ReasonCode,
    RetainHandling, Role, SubscriptionOptions, Will, decode as decode_packet, encode_pingreq,
    encode_publish, encode_publish_ack, encode_subscribe,
};

use super::{ClientOptions, Fault, Publication, Scratch};
use crate::payload::{PAYLOAD_BYTES_MIN, Stamp};

/// The largest packet a client takes from a server: the largest there is.
/// Source: MQTT 5.0 §2.1.4: a Remaining Length of 268,435,455 behind 5 bytes.
const PACKET_BYTES_MAX: u32 = 268_435_460;
/// The identifier of the one SUBSCRIBE of a connection; publishes do not use it.
const SUBSCRIBE_ID: PacketId = PacketId(NonZeroU16::MAX);

/// Reads a packet from the front of `src`: the packet and its bytes, `None` while it is incomplete.
pub(super) fn decode(
    version: ProtocolVersion,
    src: &[u8],
) -> Result<Option<(Packet<'_>, usize)>, Fault> {
    let context =
        DecodeContext { version, maximum_packet_size: PACKET_BYTES_MAX, role: Role::Client };
    decode_packet(src, context).map_err(|error| match error {
        DecodeError::WrongDirection { .. } => Fault::Unexpected,
        _ => Fault::Malformed,
    })
}

/// Writes CONNECT, the `connects`-th (from 0) of this client.
pub(super) fn connect(options: &ClientOptions, connects: u32, now_ns: u64, out: &mut Vec<u8>) {
    let mut properties = Vec::new();
    if options.version == ProtocolVersion::V5 && options.session_expiry_interval_s > 0 {
        Property::SessionExpiryInterval(options.session_expiry_interval_s).encode(&mut properties);
    }
    let mut scratch = Scratch::default();
    let will = options.will.as_ref().map(|will| {
        let (publisher, epoch, sequence) = (will.publisher, will.epoch, u64::from(connects));
        let stamp = Stamp { publisher, epoch, sequence, intended_ns: now_ns, sent_ns: now_ns };
        stamp.write(PAYLOAD_BYTES_MIN, &mut scratch.payload);
        will.topics.write(publisher, &mut scratch.topic);
        Will {
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::NONE,
            topic: &scratch.topic,
            payload: &scratch.payload,
        }
    });
    let connect = Connect {
        version: options.version,
        clean_start: options.clean_start,
        keep_alive_s: options.keep_alive_s,
        properties: Properties::from_validated(&properties),
        client_id: &options.client_id,
        will,
        user_name: None,
        password: None,
    };
    connect.encode(out);
}

/// Writes SUBSCRIBE for one filter.
pub(super) fn subscribe(version: ProtocolVersion, filter: &str, qos: QoS, out: &mut Vec<u8>) {
    let options = SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    };
    encode_subscribe(SUBSCRIBE_ID, Properties::NONE, &[(filter, options)], version, out);
}

/// Writes PUBLISH with the payload that `stamp` stands for.
pub(super) fn publish(
    version: ProtocolVersion,
    publication: &Publication,
    stamp: &Stamp,
    packet_id: Option<PacketId>,
    dup: bool,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    stamp.write(publication.payload_bytes as usize, &mut scratch.payload);
    publication.topics.write(stamp.publisher, &mut scratch.topic);
    let header = PublishHeader {
        dup,
        qos: publication.qos,
        retain: publication.retain,
        topic: &scratch.topic,
        packet_id,
    };
    encode_publish(out, version, &header, &[], &scratch.payload);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP that says Success.
pub(super) fn acknowledge(
    version: ProtocolVersion,
    kind: AckKind,
    packet_id: PacketId,
    out: &mut Vec<u8>,
) {
    let ack =
        PublishAck { packet_id, reason_code: ReasonCode::Success, properties: Properties::NONE };
    encode_publish_ack(kind, &ack, version, out);
}

/// Writes PINGREQ.
pub(super) fn ping(out: &mut Vec<u8>) {
    encode_pingreq(out);
}

/// Writes a DISCONNECT that is normal, and ends the session if `end_session` (5.0).
pub(super) fn disconnect(version: ProtocolVersion, end_session: bool, out: &mut Vec<u8>) {
    let mut properties = Vec::new();
    if end_session && version == ProtocolVersion::V5 {
        Property::SessionExpiryInterval(0).encode(&mut properties);
    }
    let properties = Properties::from_validated(&properties);
    Disconnect { reason_code: ReasonCode::Success, properties }.encode(version, out);
}

/// The server's Receive Maximum, 65,535 unless it says less. Source: MQTT 5.0 §3.2.2.3.3.
pub(super) fn receive_maximum(connack: &Connack<'_>) -> u16 {
    connack
        .properties
        .iter()
        .find_map(|property| match property {
            Property::ReceiveMaximum(maximum) => Some(maximum),
            _ => None,
        })
        .unwrap_or(u16::MAX)
}
