//! CONNECT. MQTT 5.0 §3.1; MQTT 3.1.1 §3.1.

use gateway::proto::mqtt::ProtocolVersion::{V3_1, V3_1_1, V5};
use gateway::proto::mqtt::ReasonCode::{
    MalformedPacket, ProtocolError, UnsupportedProtocolVersion,
};
use gateway::proto::mqtt::{
    Connect, Packet, Properties, Property, ProtocolVersion, QoS, Role, Will, decode,
};

use super::{ALL, Sample, Table, check_all, context, packet, refuses};

/// Every property of a CONNECT, the User Property twice.
const PROPERTIES: &[u8] = b"\x11\x00\x00\x0e\x10\x21\x00\x14\x27\x00\x01\x00\x00\x22\x00\x0a\
    \x19\x01\x17\x00\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x15\x00\x05SCRAM\
    \x16\x00\x02\x01\x02";

/// Every property of a Will.
const WILL_PROPERTIES: &[u8] = b"\x18\x00\x00\x00\x1e\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01c\
    \x08\x00\x03r/t\x09\x00\x02\xaa\xbb\x26\x00\x01k\x00\x01v";

/// Every field and property there is, in MQTT 5.0.
const FULL_5: &[u8] = b"\x10\x73\x00\x04MQTT\x05\xf4\xff\xff\
    \x2f\x11\x00\x00\x0e\x10\x21\x00\x14\x27\x00\x01\x00\x00\x22\x00\x0a\
    \x19\x01\x17\x00\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x15\x00\x05SCRAM\
    \x16\x00\x02\x01\x02\
    \x00\x03dev\
    \x22\x18\x00\x00\x00\x1e\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01c\
    \x08\x00\x03r/t\x09\x00\x02\xaa\xbb\x26\x00\x01k\x00\x01v\
    \x00\x03w/t\x00\x03off\x00\x01u\x00\x02\x01\xff";

fn plain(version: ProtocolVersion) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        properties: Properties::NONE,
        client_id: "a",
        will: None,
        user_name: None,
        password: None,
    }
}

fn full_5() -> Connect<'static> {
    Connect {
        version: V5,
        clean_start: false,
        keep_alive_s: 65_535,
        properties: Properties::from_validated(PROPERTIES),
        client_id: "dev",
        will: Some(Will {
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Properties::from_validated(WILL_PROPERTIES),
            topic: "w/t",
            payload: b"off",
        }),
        user_name: Some("u"),
        password: Some(b"\x01\xff"),
    }
}

pub(super) fn good() -> Table {
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::NONE,
        topic: "w/t",
        payload: b"off",
    };
    vec![
        (
            Sample::to_server(V3_1, b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a"),
            Packet::Connect(plain(V3_1)),
        ),
        (
            Sample::to_server(V3_1_1, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"),
            Packet::Connect(plain(V3_1_1)),
        ),
        (
            Sample::to_server(V5, b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a"),
            Packet::Connect(plain(V5)),
        ),
        (
            Sample::to_server(V3_1_1, b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"),
            Packet::Connect(Connect { keep_alive_s: 0, client_id: "", ..plain(V3_1_1) }),
        ),
        (
            Sample::to_server(
                V3_1_1,
                b"\x10\x20\x00\x04MQTT\x04\xee\x00\x3c\x00\x03dev\x00\x03w/t\x00\x03off\
                \x00\x01u\x00\x02\x01\xff",
            ),
            Packet::Connect(Connect {
                client_id: "dev",
                will: Some(will),
                user_name: Some("u"),
                password: Some(b"\x01\xff"),
                ..plain(V3_1_1)
            }),
        ),
        (Sample::to_server(V5, FULL_5), Packet::Connect(full_5())),
        (
            Sample::to_server(V5, b"\x10\x11\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01a\x00\x01p"),
            Packet::Connect(Connect { password: Some(b"p"), ..plain(V5) }),
        ),
        (
            Sample::to_server(
                V5,
                b"\x10\x12\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x01a\x00\x00\x00\x00",
            ),
            Packet::Connect(Connect { user_name: Some(""), password: Some(b""), ..plain(V5) }),
        ),
    ]
}

/// MQTT 5.0 [MQTT-3.1.2-9] [MQTT-3.1.2-17] [MQTT-3.1.2-19] [MQTT-3.1.3-1] [MQTT-3.1.3-3];
/// MQTT 3.1.1 [MQTT-3.1.2-9] [MQTT-3.1.2-19] [MQTT-3.1.2-21] [MQTT-3.1.3-1] [MQTT-3.1.3-3].
#[test]
fn fields_are_read_in_their_order() {
    check_all(good());
}

/// The properties of [`FULL_5`] in wire order, values and all. MQTT 5.0 §3.1.2.11, §3.1.3.2.
#[test]
fn properties_are_read_in_wire_order() {
    let connect = full_5();
    assert_eq!(
        connect.properties.iter().collect::<Vec<_>>(),
        [
            Property::SessionExpiryInterval(3_600),
            Property::ReceiveMaximum(20),
            Property::MaximumPacketSize(65_536),
            Property::TopicAliasMaximum(10),
            Property::RequestResponseInformation(true),
            Property::RequestProblemInformation(false),
            Property::UserProperty("k", "v"),
            Property::UserProperty("k", "w"),
            Property::AuthenticationMethod("SCRAM"),
            Property::AuthenticationData(b"\x01\x02"),
        ]
    );
    assert_eq!(
        connect.will.unwrap().properties.iter().collect::<Vec<_>>(),
        [
            Property::WillDelayInterval(30),
            Property::PayloadFormatIndicator(true),
            Property::MessageExpiryInterval(60),
            Property::ContentType("c"),
            Property::ResponseTopic("r/t"),
            Property::CorrelationData(b"\xaa\xbb"),
            Property::UserProperty("k", "v"),
        ]
    );
}

/// The version comes from the packet: a server does not know it before. MQTT 5.0 §3.1.2.2.
#[test]
fn the_version_of_the_context_does_not_matter() {
    for (sample, expected) in good() {
        for version in ALL {
            let decoded = decode(&sample.bytes, context(version, Role::Server));
            assert_eq!(decoded, Ok(Some((expected, sample.bytes.len()))));
        }
    }
}

/// MQTT 5.0 [MQTT-3.1.2-1] [MQTT-3.1.2-2]; MQTT 3.1.1 [MQTT-3.1.2-1] [MQTT-3.1.2-2].
#[test]
fn refuses_other_protocols_and_levels() {
    for body in [
        &b"\x00\x04MQTX\x04\x02\x00\x3c\x00\x01a"[..],
        b"\x00\x04mqtt\x04\x02\x00\x3c\x00\x01a",
        b"\x00\x00\x04\x02\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x03\x02\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01a",
        b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01a",
        b"\x00\x06MQIsdp\x04\x02\x00\x3c\x00\x01a",
    ] {
        refuses(&[V5], Role::Server, &[(&packet(0x10, body), UnsupportedProtocolVersion)]);
    }
}

/// MQTT 5.0 [MQTT-3.1.2-3]; MQTT 3.1.1 [MQTT-3.1.2-3].
#[test]
fn refuses_the_reserved_connect_flag() {
    check_malformed(&[
        b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01a",
    ]);
}

/// MQTT 5.0 [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13];
/// MQTT 3.1.1 [MQTT-3.1.2-13] [MQTT-3.1.2-14] [MQTT-3.1.2-15].
#[test]
fn refuses_will_flags_that_contradict() {
    for body in [
        &b"\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01a"[..],
        b"\x00\x04MQTT\x04\x12\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x04\x22\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x05\x0a\x00\x3c\x00\x00\x01a",
        b"\x00\x04MQTT\x05\x22\x00\x3c\x00\x00\x01a",
    ] {
        refuses(&ALL, Role::Server, &[(&packet(0x10, body), ProtocolError)]);
    }
    check_malformed(&[
        b"\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01a\x00\x01w\x00\x00",
        b"\x00\x04MQTT\x05\x1e\x00\x3c\x00\x00\x01a\x00\x00\x01w\x00\x00",
    ]);
}

/// MQTT 3.1.1 [MQTT-3.1.2-22]. MQTT 5.0 §3.1.2.9 allows it.
#[test]
fn refuses_a_password_without_user_name_before_5() {
    let bytes = packet(0x10, b"\x00\x04MQTT\x04\x42\x00\x3c\x00\x01a\x00\x01p");
    refuses(&ALL, Role::Server, &[(&bytes, ProtocolError)]);
}

/// MQTT 3.1 §3.1: the Remaining Length goes before the User Name and Password flags, and the lowest
/// flag is unused.
#[test]
fn user_name_and_password_may_be_missing_in_3_1() {
    for flags in [0x82, 0xc2, 0x03] {
        let body = [b"\x00\x06MQIsdp\x03", &[flags][..], b"\x00\x3c\x00\x01a"].concat();
        let sample = Sample::to_server(V3_1, &packet(0x10, &body)).decode_only();
        assert_eq!(sample.decode(), Packet::Connect(plain(V3_1)));
    }
}

/// MQTT 5.0 [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.1.4-1];
/// MQTT 3.1.1 [MQTT-3.1.2-11] [MQTT-3.1.2-18] [MQTT-3.1.2-20] [MQTT-3.1.4-1].
#[test]
fn refuses_missing_and_surplus_fields() {
    check_malformed(&[
        b"",
        b"\x00\x04MQTT",
        b"\x00\x04MQTT\x04\x02\x00",
        b"\x00\x04MQTT\x04\x02\x00\x3c",
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02a",
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\x00",
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\x00\x01u",
        b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a",
        b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x01u",
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x01w",
        b"\x00\x04MQTT\x05\x02\x00\x3c",
        b"\x00\x04MQTT\x05\x02\x00\x3c\x00",
        b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01a\x00\x01w\x00\x00",
    ]);
}

/// MQTT 5.0 [MQTT-3.1.3-4] [MQTT-3.1.3-11] [MQTT-3.1.3-12];
/// MQTT 3.1.1 [MQTT-3.1.3-4] [MQTT-3.1.3-10] [MQTT-3.1.3-11].
#[test]
fn refuses_text_that_is_not_utf8() {
    check_malformed(&[
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff",
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02a\x00",
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x02w\xc0\x00\x00",
        b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a\x00\x03\xed\xa0\x80",
        b"\x00\x04MQTT\x05\x82\x00\x3c\x00\x00\x01a\x00\x03\xed\xa0\x80",
    ]);
}

/// §3.1.2.11 and §3.1.3.2 of MQTT 5.0: wrong values, and properties of other packets.
#[test]
fn refuses_wrong_properties() {
    let malformed: [&[u8]; 4] = [
        b"\x03\x23\x00\x01",
        b"\x05\x18\x00\x00\x00\x01",
        b"\x02\x24\x00",
        b"\x05\x02\x00\x00\x00\x01",
    ];
    let protocol_errors: [&[u8]; 11] = [
        b"\x03\x21\x00\x00",
        b"\x05\x27\x00\x00\x00\x00",
        b"\x02\x17\x02",
        b"\x02\x19\x02",
        b"\x05\x16\x00\x02\xaa\xbb",
        b"\x06\x21\x00\x01\x21\x00\x01",
        b"\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01",
        b"\x04\x17\x01\x17\x01",
        b"\x06\x22\x00\x01\x22\x00\x01",
        b"\x08\x15\x00\x01m\x15\x00\x01m",
        b"\x0a\x27\x00\x00\x00\x01\x27\x00\x00\x00\x01",
    ];
    for (blocks, expected) in
        [(&malformed[..], MalformedPacket), (&protocol_errors[..], ProtocolError)]
    {
        for block in blocks {
            let body = [b"\x00\x04MQTT\x05\x02\x00\x3c", *block, b"\x00\x01a"].concat();
            refuses(&[V5], Role::Server, &[(&packet(0x10, &body), expected)]);
        }
    }
}

/// MQTT 5.0 §3.1.3.2.
#[test]
fn refuses_wrong_will_properties() {
    for (block, expected) in [
        (&b"\x03\x23\x00\x01"[..], MalformedPacket),
        (b"\x05\x11\x00\x00\x00\x01", MalformedPacket),
        (b"\x0a\x18\x00\x00\x00\x01\x18\x00\x00\x00\x01", ProtocolError),
        (b"\x04\x01\x01\x01\x01", ProtocolError),
    ] {
        let body = [b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01a", block, b"\x00\x01w\x00\x00"];
        refuses(&[V5], Role::Server, &[(&packet(0x10, &body.concat()), expected)]);
    }
}

#[track_caller]
fn check_malformed(bodies: &[&[u8]]) {
    for body in bodies {
        refuses(&ALL, Role::Server, &[(&packet(0x10, body), MalformedPacket)]);
    }
}
