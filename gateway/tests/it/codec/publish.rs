//! PUBLISH. MQTT 5.0 §3.3; MQTT 3.1.1 §3.3.

use gateway::proto::mqtt::ProtocolVersion::{V3_1, V3_1_1, V5};
use gateway::proto::mqtt::ReasonCode::{
    MalformedPacket, ProtocolError, TopicAliasInvalid, TopicNameInvalid,
};
use gateway::proto::mqtt::{Packet, Properties, Property, Publish, QoS, Role};

use super::{ALL, BEFORE_5, Sample, Table, check_all, id, packet, refuses};

/// Every property a client may send, the Topic Alias among them.
const PROPERTIES: &[u8] = b"\x01\x01\x02\x00\x00\x00\x3c\x23\x00\x07\x08\x00\x03r/t\
    \x09\x00\x02\xaa\xbb\x26\x00\x01k\x00\x01v\x03\x00\x01c";

const PLAIN: Publish<'_> = Publish {
    dup: false,
    qos: QoS::AtMostOnce,
    retain: false,
    topic: "a/b",
    packet_id: None,
    properties: Properties::NONE,
    payload: b"",
};

pub(super) fn good() -> Table {
    let mut table = Vec::new();
    for version in BEFORE_5 {
        table.extend(
            [
                (&b"\x30\x05\x00\x03a/b"[..], PLAIN),
                (b"\x30\x07\x00\x03a/bhi", Publish { payload: b"hi", ..PLAIN }),
                (b"\x31\x06\x00\x03a/b\xff", Publish { retain: true, payload: b"\xff", ..PLAIN }),
                (
                    b"\x3b\x08\x00\x03a/b\x00\x0ah",
                    Publish {
                        dup: true,
                        qos: QoS::AtLeastOnce,
                        retain: true,
                        packet_id: Some(id(10)),
                        payload: b"h",
                        ..PLAIN
                    },
                ),
                (
                    b"\x34\x07\x00\x03a/b\xff\xff",
                    Publish { qos: QoS::ExactlyOnce, packet_id: Some(id(65_535)), ..PLAIN },
                ),
            ]
            .map(|(bytes, publish)| (Sample::to_server(version, bytes), Packet::Publish(publish))),
        );
    }
    table.extend(good_5());
    table
}

fn good_5() -> Table {
    vec![
        (Sample::to_server(V5, b"\x30\x06\x00\x03a/b\x00"), Packet::Publish(PLAIN)),
        (
            Sample::to_client(V5, b"\x3d\x0a\x00\x03a/b\x01\x00\x00hi"),
            Packet::Publish(Publish {
                dup: true,
                qos: QoS::ExactlyOnce,
                retain: true,
                packet_id: Some(id(256)),
                payload: b"hi",
                ..PLAIN
            }),
        ),
        (
            Sample::to_server(V5, b"\x30\x06\x00\x00\x03\x23\x00\x07"),
            Packet::Publish(Publish {
                topic: "",
                properties: Properties::from_validated(b"\x23\x00\x07"),
                ..PLAIN
            }),
        ),
        (
            Sample::to_server(
                V5,
                b"\x32\x2a\x00\x03a/b\x00\x0a\x20\x01\x01\x02\x00\x00\x00\x3c\x23\x00\x07\
                \x08\x00\x03r/t\x09\x00\x02\xaa\xbb\x26\x00\x01k\x00\x01v\x03\x00\x01chi",
            ),
            Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(10)),
                properties: Properties::from_validated(PROPERTIES),
                payload: b"hi",
                ..PLAIN
            }),
        ),
        (
            Sample::to_client(V5, b"\x30\x0d\x00\x03a/b\x05\x0b\x01\x0b\x80\x01hi"),
            Packet::Publish(Publish {
                properties: Properties::from_validated(b"\x0b\x01\x0b\x80\x01"),
                payload: b"hi",
                ..PLAIN
            }),
        ),
    ]
}

/// MQTT 5.0 [MQTT-2.2.1-2] [MQTT-3.3.2-1]; MQTT 3.1.1 [MQTT-2.3.1-5] [MQTT-3.3.2-1].
#[test]
fn fields_are_read_in_their_order() {
    check_all(good());
}

/// MQTT 5.0 §3.3.2.3.
#[test]
fn properties_are_read_in_wire_order() {
    assert_eq!(
        Properties::from_validated(PROPERTIES).iter().collect::<Vec<_>>(),
        [
            Property::PayloadFormatIndicator(true),
            Property::MessageExpiryInterval(60),
            Property::TopicAlias(7),
            Property::ResponseTopic("r/t"),
            Property::CorrelationData(b"\xaa\xbb"),
            Property::UserProperty("k", "v"),
            Property::ContentType("c"),
        ]
    );
    assert_eq!(
        Properties::from_validated(b"\x0b\x01\x0b\x80\x01").iter().collect::<Vec<_>>(),
        [Property::SubscriptionIdentifier(1), Property::SubscriptionIdentifier(128)]
    );
}

/// The payload is all that is left, over a Remaining Length of two bytes. MQTT 5.0 §3.3.3.
#[test]
fn a_large_payload_is_read_whole() {
    let bytes = [b"\x30\xce\x01\x00\x03a/b\x00", &[0x55; 200][..]].concat();
    check_all(vec![(
        Sample::to_server(V5, &bytes),
        Packet::Publish(Publish { payload: &[0x55; 200], ..PLAIN }),
    )]);
}

/// MQTT 5.0 [MQTT-3.3.1-4]; MQTT 3.1.1 [MQTT-3.3.1-4].
#[test]
fn refuses_qos_3() {
    for role in [Role::Server, Role::Client] {
        refuses(
            &ALL,
            role,
            &[
                (b"\x36\x08\x00\x03a/b\x00\x0a\x00", MalformedPacket),
                (b"\x3e\x08\x00\x03a/b\x00\x0a\x00", MalformedPacket),
                (b"\x37\x08\x00\x03a/b\x00\x0a\x00", MalformedPacket),
            ],
        );
    }
}

/// MQTT 5.0 [MQTT-3.3.1-2] [MQTT-4.3.1-1]; MQTT 3.1.1 [MQTT-3.3.1-2] [MQTT-4.3.1-1].
#[test]
fn refuses_dup_at_qos_0() {
    refuses(&[V3_1_1, V5], Role::Server, &[(b"\x38\x06\x00\x03a/b\x00", ProtocolError)]);
}

/// DUP is unused at QoS 0 in MQTT 3.1 §2.1, not forbidden.
#[test]
fn passes_over_dup_at_qos_0_in_3_1() {
    check_all(vec![(
        Sample::to_server(V3_1, b"\x38\x05\x00\x03a/b"),
        Packet::Publish(Publish { dup: true, ..PLAIN }),
    )]);
}

/// MQTT 5.0 [MQTT-3.3.2-2] [MQTT-4.7.0-1]; MQTT 3.1.1 [MQTT-3.3.2-2] [MQTT-4.7.1-1].
#[test]
fn refuses_wildcards_in_the_topic_name() {
    refuses(
        &ALL,
        Role::Server,
        &[
            (b"\x30\x06\x00\x03a/+\x00", TopicNameInvalid),
            (b"\x30\x06\x00\x03a/#\x00", TopicNameInvalid),
            (b"\x30\x06\x00\x03a#b\x00", TopicNameInvalid),
            (b"\x30\x06\x00\x03+/b\x00", TopicNameInvalid),
        ],
    );
}

/// MQTT 5.0 [MQTT-4.7.3-1]; MQTT 3.1.1 [MQTT-4.7.3-1].
#[test]
fn refuses_an_empty_topic_name_without_alias() {
    refuses(&BEFORE_5, Role::Server, &[(b"\x30\x02\x00\x00", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\x30\x03\x00\x00\x00", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\x30\x05\x00\x00\x02\x01\x01", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-2.2.1-3] [MQTT-2.2.1-4]; MQTT 3.1.1 [MQTT-2.3.1-1] [MQTT-2.3.1-4].
#[test]
fn refuses_packet_id_0() {
    for role in [Role::Server, Role::Client] {
        refuses(
            &ALL,
            role,
            &[
                (b"\x32\x08\x00\x03a/b\x00\x00\x00", ProtocolError),
                (b"\x34\x08\x00\x03a/b\x00\x00\x00", ProtocolError),
            ],
        );
    }
}

/// MQTT 5.0 [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-4.8.0-1].
#[test]
fn refuses_fields_that_pass_the_end() {
    refuses(
        &ALL,
        Role::Server,
        &[
            (b"\x30\x00", MalformedPacket),
            (b"\x30\x01\x00", MalformedPacket),
            (b"\x30\x04\x00\x03a/", MalformedPacket),
            (b"\x30\x05\xff\xffa/b", MalformedPacket),
            (b"\x32\x05\x00\x03a/b", MalformedPacket),
            (b"\x32\x06\x00\x03a/b\x00", MalformedPacket),
        ],
    );
    refuses(&[V5], Role::Server, &[(b"\x30\x05\x00\x03a/b", MalformedPacket)]);
    refuses(&[V5], Role::Server, &[(b"\x30\x07\x00\x03a/b\x02\x01", MalformedPacket)]);
}

/// MQTT 5.0 [MQTT-3.3.2-8].
#[test]
fn refuses_topic_alias_0() {
    for role in [Role::Server, Role::Client] {
        refuses(&[V5], role, &[(b"\x30\x09\x00\x03a/b\x03\x23\x00\x00", TopicAliasInvalid)]);
        refuses(&[V5], role, &[(b"\x30\x06\x00\x00\x03\x23\x00\x00", TopicAliasInvalid)]);
    }
}

/// MQTT 5.0 [MQTT-3.3.4-6].
#[test]
fn refuses_a_subscription_identifier_from_a_client() {
    refuses(&[V5], Role::Server, &[(b"\x30\x08\x00\x03a/b\x02\x0b\x01", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-3.3.2-14].
#[test]
fn refuses_wildcards_in_the_response_topic() {
    refuses(&[V5], Role::Server, &[(b"\x30\x0a\x00\x03a/b\x04\x08\x00\x01+", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\x30\x0a\x00\x03a/b\x04\x08\x00\x01#", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-3.3.2-13] [MQTT-3.3.2-19], §3.3.2.3: wrong values and doubled properties.
#[test]
fn refuses_wrong_properties() {
    for (block, expected) in [
        (&b"\x02\x01\x02"[..], ProtocolError),
        (b"\x04\x01\x01\x01\x01", ProtocolError),
        (b"\x0a\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", ProtocolError),
        (b"\x06\x23\x00\x01\x23\x00\x01", ProtocolError),
        (b"\x08\x08\x00\x01r\x08\x00\x01r", ProtocolError),
        (b"\x08\x09\x00\x01r\x09\x00\x01r", ProtocolError),
        (b"\x08\x03\x00\x01c\x03\x00\x01c", ProtocolError),
        (b"\x04\x08\x00\x01\xff", MalformedPacket),
        (b"\x04\x03\x00\x01\x00", MalformedPacket),
        (b"\x05\x18\x00\x00\x00\x01", MalformedPacket),
        (b"\x03\x21\x00\x01", MalformedPacket),
    ] {
        let body = [b"\x00\x03a/b", block].concat();
        for role in [Role::Server, Role::Client] {
            refuses(&[V5], role, &[(&packet(0x30, &body), expected)]);
        }
    }
    refuses(&[V5], Role::Client, &[(b"\x30\x08\x00\x03a/b\x02\x0b\x00", ProtocolError)]);
}
