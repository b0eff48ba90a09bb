//! UNSUBSCRIBE. MQTT 5.0 §3.10; MQTT 3.1.1 §3.10.

use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::ReasonCode::{MalformedPacket, ProtocolError};
use gateway::proto::mqtt::{Packet, PacketId, Property, Role};

use super::{ALL, BEFORE_5, Sample, id, packet, refuses};

/// What an UNSUBSCRIBE means, spelled out.
#[derive(Debug)]
pub(super) struct Expected {
    packet_id: PacketId,
    properties: Vec<Property<'static>>,
    filters: Vec<&'static str>,
}

pub(super) fn good() -> Vec<(Sample, Expected)> {
    let plain = |packet_id, filters: &[&'static str]| Expected {
        packet_id: id(packet_id),
        properties: Vec::new(),
        filters: filters.to_vec(),
    };
    let mut table = Vec::new();
    for version in BEFORE_5 {
        table.push((
            Sample::to_server(version, b"\xa2\x07\x00\x0a\x00\x03a/b"),
            plain(10, &["a/b"]),
        ));
        table.push((
            Sample::to_server(version, b"\xa2\x0a\xff\xff\x00\x03a/+\x00\x01#"),
            plain(65_535, &["a/+", "#"]),
        ));
    }
    table.push((
        Sample::to_server(V5, b"\xa2\x13\x00\x0a\x00\x00\x0c$share/g/a/b\x00\x00"),
        plain(10, &["$share/g/a/b", ""]),
    ));
    table.push((
        Sample::to_server(V5, b"\xa2\x0d\x00\x0a\x07\x26\x00\x01k\x00\x01v\x00\x01a"),
        Expected { properties: vec![Property::UserProperty("k", "v")], ..plain(10, &["a"]) },
    ));
    table
}

/// MQTT 5.0 [MQTT-2.2.1-3] [MQTT-3.10.3-1] [MQTT-3.10.3-2];
/// MQTT 3.1.1 [MQTT-2.3.1-1] [MQTT-3.10.3-1] [MQTT-3.10.3-2].
#[test]
fn fields_are_read_in_their_order() {
    for (sample, expected) in good() {
        let Packet::Unsubscribe(unsubscribe) = sample.decode() else { panic!("{sample:?}") };
        assert_eq!(unsubscribe.packet_id, expected.packet_id);
        assert_eq!(unsubscribe.properties.iter().collect::<Vec<_>>(), expected.properties);
        assert_eq!(unsubscribe.filters.iter().collect::<Vec<_>>(), expected.filters);
    }
}

/// MQTT 5.0 [MQTT-3.10.3-2]; MQTT 3.1.1 [MQTT-3.10.3-2].
#[test]
fn refuses_no_filter() {
    refuses(&BEFORE_5, Role::Server, &[(b"\xa2\x02\x00\x0a", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\xa2\x03\x00\x0a\x00", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-2.2.1-3]; MQTT 3.1.1 [MQTT-2.3.1-1].
#[test]
fn refuses_packet_id_0() {
    refuses(&BEFORE_5, Role::Server, &[(b"\xa2\x05\x00\x00\x00\x01a", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\xa2\x06\x00\x00\x00\x00\x01a", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-3.10.3-1] [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-3.10.3-1] [MQTT-4.8.0-1].
#[test]
fn refuses_filters_that_are_not_text_or_pass_the_end() {
    for filters in [
        &b"\x00"[..],
        b"\x00\x02a",
        b"\x00\x01a\x00",
        b"\x00\x01a\x00\x01",
        b"\x00\x01\xff",
        b"\x00\x01\x00",
        b"\x00\x01a\x00\x03\xed\xa0\x80",
    ] {
        let before_5 = packet(0xa2, &[b"\x00\x0a", filters].concat());
        refuses(&BEFORE_5, Role::Server, &[(&before_5, MalformedPacket)]);
        let in_5 = packet(0xa2, &[b"\x00\x0a\x00", filters].concat());
        refuses(&[V5], Role::Server, &[(&in_5, MalformedPacket)]);
    }
    for body in [&b""[..], b"\x00"] {
        refuses(&ALL, Role::Server, &[(&packet(0xa2, body), MalformedPacket)]);
    }
}
