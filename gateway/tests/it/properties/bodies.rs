//! What holds for any bytes at all. The fuzz targets call the same functions.

use gateway::proto::mqtt::{
    AckKind, DecodeContext, DecodeError, Packet, Properties, Property, ProtocolVersion, Publish,
    PublishHeader, Subscribe, SubscribeAck, Unsubscribe, decode, encode_pingreq, encode_pingresp,
    encode_publish, encode_publish_ack, encode_suback, encode_subscribe, encode_unsuback,
    encode_unsubscribe, encoded_publish_bytes,
};

/// The versions a reader may be set to.
pub(crate) const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5];

/// Decodes the front of `src` and, if there is a packet, checks all that can be said of it.
///
/// # Panics
///
/// When the packet has another end than it says, does not survive encoding and decoding, or an
/// error has a Reason Code that is none.
pub(crate) fn decodes(src: &[u8], context: DecodeContext) {
    match decode(src, context) {
        Ok(None) => {}
        Ok(Some((packet, taken))) => {
            assert_eq!(decode(&src[..taken - 1], context), Ok(None), "incomplete");
            assert_eq!(decode(&src[..taken], context), Ok(Some((packet, taken))), "exact");
            assert!(taken <= context.maximum_packet_size as usize);
            assert!(walk(&packet) <= taken, "the parts are in the whole");
            survives_encoding(&packet, taken, context);
        }
        Err(error) => assert!(error.reason_code() as u8 >= 0x80, "{error}"),
    }
}

/// Cuts `stream` at `arrivals` (in rising order) and compares with reading it at once.
///
/// # Panics
///
/// When packets or the error that ends them differ.
pub(crate) fn splitting_changes_nothing(
    stream: &[u8],
    arrivals: impl IntoIterator<Item = usize>,
    context: DecodeContext,
) {
    assert_eq!(packets(stream, arrivals, context), packets(stream, [], context));
}

/// The packets of `stream` when its bytes are there up to each of `arrivals` and then to its end,
/// and the error that ended reading.
pub(crate) fn packets(
    stream: &[u8],
    arrivals: impl IntoIterator<Item = usize>,
    context: DecodeContext,
) -> (Vec<Packet<'_>>, Option<DecodeError>) {
    let mut packets = Vec::new();
    let mut consumed = 0;
    for received in arrivals.into_iter().chain([stream.len()]) {
        loop {
            match decode(&stream[consumed..received], context) {
                Ok(None) => break,
                Ok(Some((packet, taken))) => {
                    packets.push(packet);
                    consumed += taken;
                }
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

/// Reads every part of a packet, the lazily read ones among them, without allocating.
///
/// Returns the bytes of all strings, data and payloads.
pub(crate) fn walk(packet: &Packet<'_>) -> usize {
    match packet {
        Packet::Connect(connect) => {
            let will = connect.will.map_or(0, |will| {
                property_bytes(will.properties) + will.topic.len() + will.payload.len()
            });
            property_bytes(connect.properties)
                + connect.client_id.len()
                + will
                + connect.user_name.map_or(0, str::len)
                + connect.password.map_or(0, <[u8]>::len)
        }
        Packet::Connack(connack) => property_bytes(connack.properties),
        Packet::Publish(publish) => {
            property_bytes(publish.properties) + publish.topic.len() + publish.payload.len()
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            property_bytes(ack.properties)
        }
        Packet::Subscribe(Subscribe { properties, filters, .. }) => {
            assert!(filters.iter().next().is_some(), "at least one filter");
            property_bytes(*properties)
                + filters.iter().map(|(filter, _)| filter.len()).sum::<usize>()
        }
        Packet::Unsubscribe(Unsubscribe { properties, filters, .. }) => {
            assert!(filters.iter().next().is_some(), "at least one filter");
            property_bytes(*properties) + filters.iter().map(str::len).sum::<usize>()
        }
        Packet::Suback(ack) | Packet::Unsuback(ack) => {
            property_bytes(ack.properties) + ack.codes.len()
        }
        Packet::Pingreq | Packet::Pingresp => 0,
        Packet::Disconnect(disconnect) => property_bytes(disconnect.properties),
        Packet::Auth(auth) => property_bytes(auth.properties),
    }
}

/// The bytes our encoder writes for `packet`.
pub(crate) fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Connect(connect) => connect.encode(&mut out),
        Packet::Connack(connack) => connack.encode(version, &mut out),
        Packet::Publish(publish) => put_publish(publish, version, &mut out),
        Packet::Puback(ack) => encode_publish_ack(AckKind::Puback, ack, version, &mut out),
        Packet::Pubrec(ack) => encode_publish_ack(AckKind::Pubrec, ack, version, &mut out),
        Packet::Pubrel(ack) => encode_publish_ack(AckKind::Pubrel, ack, version, &mut out),
        Packet::Pubcomp(ack) => encode_publish_ack(AckKind::Pubcomp, ack, version, &mut out),
        Packet::Subscribe(Subscribe { packet_id, properties, filters }) => {
            let filters: Vec<_> = filters.iter().collect();
            encode_subscribe(*packet_id, *properties, &filters, version, &mut out);
        }
        Packet::Suback(ack) => encode_suback(ack, version, &mut out),
        Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }) => {
            let filters: Vec<_> = filters.iter().collect();
            encode_unsubscribe(*packet_id, *properties, &filters, version, &mut out);
        }
        Packet::Unsuback(ack) => encode_unsuback(ack, version, &mut out),
        Packet::Pingreq => encode_pingreq(&mut out),
        Packet::Pingresp => encode_pingresp(&mut out),
        Packet::Disconnect(disconnect) => disconnect.encode(version, &mut out),
        Packet::Auth(auth) => auth.encode(&mut out),
    }
    out
}

fn put_publish(publish: &Publish<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    let header = PublishHeader {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        packet_id: publish.packet_id,
    };
    let parts = [publish.properties.raw()];
    encode_publish(out, version, &header, &parts, publish.payload);
    assert_eq!(out.len(), encoded_publish_bytes(version, &header, &parts, publish.payload));
}

/// Encodes a packet that took `taken` bytes and decodes it again.
fn survives_encoding(packet: &Packet<'_>, taken: usize, context: DecodeContext) {
    if folds_failures(packet, context.version) {
        return;
    }
    let bytes = encoded(packet, context.version);
    assert!(bytes.len() <= taken, "we write no longer form than was read");
    assert_eq!(decode(&bytes, context), Ok(Some((*packet, bytes.len()))));
}

/// Whether encoding changes a SUBACK: before 5.0 every failure is written as 0x80, the only one
/// that MQTT 3.1.1 [MQTT-3.9.3-2] knows, but any byte is read.
fn folds_failures(packet: &Packet<'_>, version: ProtocolVersion) -> bool {
    match packet {
        Packet::Suback(SubscribeAck { codes, .. }) => {
            !version.is_v5() && codes.iter().any(|&code| code > 0x80)
        }
        _ => false,
    }
}

/// The bytes of strings and data in `properties`.
fn property_bytes(properties: Properties<'_>) -> usize {
    let mut ids = 0;
    let mut bytes = 0;
    for property in properties.iter() {
        ids += 1;
        bytes += match property {
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => text.len(),
            Property::UserProperty(name, value) => name.len() + value.len(),
            Property::CorrelationData(data) | Property::AuthenticationData(data) => data.len(),
            _ => 0,
        };
    }
    assert_eq!(ids == 0, properties.raw().is_empty(), "a block of no properties is empty");
    bytes
}
