//! CONNACK. MQTT 5.0 §3.2; MQTT 3.1.1 §3.2.

use gateway::proto::mqtt::ProtocolVersion::{V3_1, V3_1_1, V5};
use gateway::proto::mqtt::ReasonCode::{MalformedPacket, ProtocolError};
use gateway::proto::mqtt::{Connack, Packet, Properties, Property, QoS, Role};

use super::{ALL, BEFORE_5, Sample, Table, check_all, packet, refuses};

/// Every property of a CONNACK.
const PROPERTIES: &[u8] = b"\x11\x00\x00\x0e\x10\x21\x00\x14\x24\x01\x25\x00\x27\x00\x01\x00\x00\
    \x12\x00\x02id\x22\x00\x0a\x1f\x00\x02ok\x26\x00\x01k\x00\x01v\x28\x01\x29\x00\x2a\x01\
    \x13\x00\x1e\x1a\x00\x01r\x1c\x00\x01s\x15\x00\x01m\x16\x00\x01\xff";

pub(super) fn good() -> Table {
    let plain = Connack { session_present: false, code: 0, properties: Properties::NONE };
    let mut table = Vec::new();
    for version in BEFORE_5 {
        table.push((Sample::to_client(version, b"\x20\x02\x00\x00"), Packet::Connack(plain)));
        for code in 1..=5 {
            table.push((
                Sample::to_client(version, &[0x20, 0x02, 0x00, code]),
                Packet::Connack(Connack { code, ..plain }),
            ));
        }
    }
    table.push((
        Sample::to_client(V3_1_1, b"\x20\x02\x01\x00"),
        Packet::Connack(Connack { session_present: true, ..plain }),
    ));
    table.push((Sample::to_client(V5, b"\x20\x03\x00\x00\x00"), Packet::Connack(plain)));
    table.push((
        Sample::to_client(V5, b"\x20\x03\x01\x00\x00"),
        Packet::Connack(Connack { session_present: true, ..plain }),
    ));
    table.push((
        Sample::to_client(V5, b"\x20\x03\x00\x85\x00"),
        Packet::Connack(Connack { code: 0x85, ..plain }),
    ));
    let full = [b"\x20\x41\x00\x00\x3e", PROPERTIES].concat();
    table.push((
        Sample::to_client(V5, &full),
        Packet::Connack(Connack { properties: Properties::from_validated(PROPERTIES), ..plain }),
    ));
    table
}

/// MQTT 5.0 [MQTT-3.2.2-8]; MQTT 3.1.1 §3.2.
#[test]
fn fields_are_read_in_their_order() {
    check_all(good());
}

/// MQTT 5.0 §3.2.2.3.
#[test]
fn properties_are_read_in_wire_order() {
    assert_eq!(
        Properties::from_validated(PROPERTIES).iter().collect::<Vec<_>>(),
        [
            Property::SessionExpiryInterval(3_600),
            Property::ReceiveMaximum(20),
            Property::MaximumQos(QoS::AtLeastOnce),
            Property::RetainAvailable(false),
            Property::MaximumPacketSize(65_536),
            Property::AssignedClientIdentifier("id"),
            Property::TopicAliasMaximum(10),
            Property::ReasonString("ok"),
            Property::UserProperty("k", "v"),
            Property::WildcardSubscriptionAvailable(true),
            Property::SubscriptionIdentifierAvailable(false),
            Property::SharedSubscriptionAvailable(true),
            Property::ServerKeepAlive(30),
            Property::ResponseInformation("r"),
            Property::ServerReference("s"),
            Property::AuthenticationMethod("m"),
            Property::AuthenticationData(b"\xff"),
        ]
    );
}

/// MQTT 5.0 [MQTT-3.2.2-1]; MQTT 3.1.1 §3.2.2.1.
#[test]
fn refuses_reserved_flags_and_wrong_lengths() {
    refuses(&BEFORE_5, Role::Client, &[(b"\x20\x03\x00\x00\x00", MalformedPacket)]);
    refuses(
        &[V3_1_1],
        Role::Client,
        &[(b"\x20\x02\x02\x00", MalformedPacket), (b"\x20\x02\x80\x00", MalformedPacket)],
    );
    refuses(
        &[V5],
        Role::Client,
        &[
            (b"\x20\x03\x02\x00\x00", MalformedPacket),
            (b"\x20\x02\x00\x00", MalformedPacket),
            (b"\x20\x04\x00\x00\x00\x00", MalformedPacket),
            (b"\x20\x04\x00\x00\x02\x24", MalformedPacket),
        ],
    );
    for body in [&b""[..], b"\x00"] {
        refuses(&ALL, Role::Client, &[(&packet(0x20, body), MalformedPacket)]);
    }
}

/// The first byte is reserved in MQTT 3.1 §3.2, whatever it holds.
#[test]
fn passes_over_the_first_byte_in_3_1() {
    let connack = Connack { session_present: false, code: 0, properties: Properties::NONE };
    for first in 0..=u8::MAX {
        let sample = Sample::to_client(V3_1, &[0x20, 0x02, first, 0x00]).decode_only();
        assert_eq!(sample.decode(), Packet::Connack(connack));
    }
}

/// MQTT 5.0 §3.2.2.3: values out of range, doubled properties, properties of other packets.
#[test]
fn refuses_wrong_properties() {
    for (block, expected) in [
        (&b"\x02\x24\x02"[..], ProtocolError),
        (b"\x02\x25\x02", ProtocolError),
        (b"\x02\x28\x02", ProtocolError),
        (b"\x02\x29\x02", ProtocolError),
        (b"\x02\x2a\x02", ProtocolError),
        (b"\x03\x21\x00\x00", ProtocolError),
        (b"\x05\x27\x00\x00\x00\x00", ProtocolError),
        (b"\x06\x13\x00\x01\x13\x00\x01", ProtocolError),
        (b"\x08\x12\x00\x01a\x12\x00\x01a", ProtocolError),
        (b"\x04\x24\x01\x24\x01", ProtocolError),
        (b"\x02\x17\x01", MalformedPacket),
        (b"\x02\x01\x01", MalformedPacket),
        (b"\x03\x23\x00\x01", MalformedPacket),
    ] {
        let body = [b"\x00\x00", block].concat();
        refuses(&[V5], Role::Client, &[(&packet(0x20, &body), expected)]);
    }
}
