//! What a device writes and reads, in terms of the gateway's codec.

use std::num::NonZeroU16;

use gateway::proto::mqtt::{
    AckKind, Connack, Connect, DecodeContext, DecodeError, Disconnect, Packet, PacketId,
    Properties, Property, ProtocolVersion, PublishAck, PublishHeader, QoS, ReasonCode,
    RetainHandling, Role, SubscriptionOptions, decode as decode_packet, encode_pingreq,
    encode_publish, encode_publish_ack, encode_subscribe,
};

use super::{DeviceOptions, Fault, Publication};

/// The largest packet a device takes from a server: the largest there is.
/// Source: MQTT 5.0 §2.1.4: a Remaining Length of 268,435,455 behind 5 bytes.
const PACKET_BYTES_MAX: u32 = 268_435_460;
/// The identifier of the one SUBSCRIBE of a connection, sent when nothing else is under way that
/// the same server session knows.
const SUBSCRIBE_ID: PacketId = PacketId(NonZeroU16::MIN);

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

/// Writes CONNECT.
pub(super) fn connect(options: &DeviceOptions, out: &mut Vec<u8>) {
    let mut properties = Vec::new();
    if options.version == ProtocolVersion::V5 && options.session_expiry_interval_s > 0 {
        Property::SessionExpiryInterval(options.session_expiry_interval_s).encode(&mut properties);
    }
    let connect = Connect {
        version: options.version,
        clean_start: options.clean_start,
        keep_alive_s: options.keep_alive_s,
        properties: Properties::from_validated(&properties),
        client_id: &options.client_id,
        will: None,
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

/// Writes PUBLISH.
pub(super) fn publish(
    version: ProtocolVersion,
    publication: &Publication,
    packet_id: Option<PacketId>,
    dup: bool,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let header = PublishHeader {
        dup,
        qos: publication.qos,
        retain: false,
        topic: &publication.topic,
        packet_id,
    };
    encode_publish(out, version, &header, &[], payload);
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

/// Writes a DISCONNECT that is normal.
pub(super) fn disconnect(version: ProtocolVersion, out: &mut Vec<u8>) {
    let disconnect = Disconnect { reason_code: ReasonCode::Success, properties: Properties::NONE };
    disconnect.encode(version, out);
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
