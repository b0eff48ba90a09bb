//! SUBSCRIBE. MQTT 5.0 §3.8; MQTT 3.1.1 §3.8.

use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::ReasonCode::{MalformedPacket, ProtocolError};
use gateway::proto::mqtt::{
    Packet, PacketId, Property, QoS, RetainHandling, Role, SubscriptionOptions,
};

use super::{ALL, BEFORE_5, Sample, id, packet, refuses};

/// What a SUBSCRIBE means, spelled out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    packet_id: PacketId,
    properties: Vec<Property<'static>>,
    filters: Vec<(&'static str, SubscriptionOptions)>,
}

const fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendAtSubscribe,
    }
}

pub(super) fn good() -> Vec<(Sample, Expected)> {
    let plain = |packet_id, filters: &[(&'static str, SubscriptionOptions)]| Expected {
        packet_id: id(packet_id),
        properties: Vec::new(),
        filters: filters.to_vec(),
    };
    let mut table = Vec::new();
    for version in BEFORE_5 {
        table.push((
            Sample::to_server(version, b"\x82\x08\x00\x0a\x00\x03a/b\x01"),
            plain(10, &[("a/b", at(QoS::AtLeastOnce))]),
        ));
        table.push((
            Sample::to_server(version, b"\x82\x0c\xff\xff\x00\x03a/+\x00\x00\x01#\x02"),
            plain(65_535, &[("a/+", at(QoS::AtMostOnce)), ("#", at(QoS::ExactlyOnce))]),
        ));
    }
    table.push((
        Sample::to_server(V5, b"\x82\x09\x00\x0a\x00\x00\x03a/b\x01"),
        plain(10, &[("a/b", at(QoS::AtLeastOnce))]),
    ));
    table.push((
        Sample::to_server(V5, b"\x82\x11\x00\x0a\x00\x00\x01a\x2e\x00\x01b\x19\x00\x03c/#\x04"),
        plain(10, &every_option()),
    ));
    table.push((
        Sample::to_server(V5, b"\x82\x12\x00\x0a\x00\x00\x0c$share/g/a/b\x09"),
        plain(
            10,
            &[(
                "$share/g/a/b",
                SubscriptionOptions { retain_as_published: true, ..at(QoS::AtLeastOnce) },
            )],
        ),
    ));
    table.push((
        Sample::to_server(
            V5,
            b"\x82\x13\x00\x0a\x0a\x0b\x80\x01\x26\x00\x01k\x00\x01v\x00\x03a/b\x02",
        ),
        Expected {
            properties: vec![
                Property::SubscriptionIdentifier(128),
                Property::UserProperty("k", "v"),
            ],
            ..plain(10, &[("a/b", at(QoS::ExactlyOnce))])
        },
    ));
    table
}

/// The options of "a" 0x2e, "b" 0x19 and "c/#" 0x04.
fn every_option() -> [(&'static str, SubscriptionOptions); 3] {
    let a = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let b = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
    };
    let c = SubscriptionOptions { no_local: true, ..at(QoS::AtMostOnce) };
    [("a", a), ("b", b), ("c/#", c)]
}

/// MQTT 5.0 [MQTT-2.2.1-3] [MQTT-3.8.3-1] [MQTT-3.8.3-2];
/// MQTT 3.1.1 [MQTT-2.3.1-1] [MQTT-3.8.3-1] [MQTT-3.8.3-3].
#[test]
fn fields_are_read_in_their_order() {
    for (sample, expected) in good() {
        let Packet::Subscribe(subscribe) = sample.decode() else { panic!("{sample:?}") };
        assert_eq!(subscribe.packet_id, expected.packet_id);
        assert_eq!(subscribe.properties.iter().collect::<Vec<_>>(), expected.properties);
        assert_eq!(subscribe.filters.iter().collect::<Vec<_>>(), expected.filters);
    }
}

/// MQTT 5.0 [MQTT-3.8.3-2]; MQTT 3.1.1 [MQTT-3.8.3-3].
#[test]
fn refuses_no_filter() {
    refuses(&BEFORE_5, Role::Server, &[(b"\x82\x02\x00\x0a", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\x82\x03\x00\x0a\x00", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-2.2.1-3]; MQTT 3.1.1 [MQTT-2.3.1-1].
#[test]
fn refuses_packet_id_0() {
    refuses(&BEFORE_5, Role::Server, &[(b"\x82\x06\x00\x00\x00\x01a\x00", ProtocolError)]);
    refuses(&[V5], Role::Server, &[(b"\x82\x07\x00\x00\x00\x00\x01a\x00", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-3.8.3-5], §3.8.3.1; MQTT 3.1.1 [MQTT-3.8.3-4].
#[test]
fn refuses_options_that_do_not_exist() {
    for options in 3..=u8::MAX {
        let body = [b"\x00\x0a\x00\x01a", &[options][..]].concat();
        let expected = if options == 3 { ProtocolError } else { MalformedPacket };
        refuses(&BEFORE_5, Role::Server, &[(&packet(0x82, &body), expected)]);
    }
    for options in 0..=u8::MAX {
        let bytes = packet(0x82, &[b"\x00\x0a\x00\x00\x01a", &[options][..]].concat());
        if options & 0xc0 != 0 {
            refuses(&[V5], Role::Server, &[(&bytes, MalformedPacket)]);
        } else if options & 0x03 == 0x03 || options & 0x30 == 0x30 {
            refuses(&[V5], Role::Server, &[(&bytes, ProtocolError)]);
        } else {
            let _ = Sample::to_server(V5, &bytes).decode();
        }
    }
}

/// MQTT 5.0 [MQTT-3.8.3-4].
#[test]
fn refuses_no_local_on_a_shared_subscription() {
    let bytes = b"\x82\x12\x00\x0a\x00\x00\x0c$share/g/a/b\x05";
    refuses(&[V5], Role::Server, &[(bytes, ProtocolError)]);
}

/// A filter whose wildcards stand wrong can be parsed: the server refuses that filter, not the
/// connection. MQTT 5.0 §3.9.3, 0x8F Topic Filter invalid.
#[test]
fn passes_on_filters_that_are_invalid() {
    for (filter, body) in [
        ("a#", &b"\x00\x0a\x00\x00\x02a#\x00"[..]),
        ("a/#/b", b"\x00\x0a\x00\x00\x05a/#/b\x00"),
        ("+a", b"\x00\x0a\x00\x00\x02+a\x00"),
        ("$share//a", b"\x00\x0a\x00\x00\x09$share//a\x00"),
    ] {
        let sample = Sample::to_server(V5, &packet(0x82, body));
        let Packet::Subscribe(subscribe) = sample.decode() else { panic!("{sample:?}") };
        let filters: Vec<_> = subscribe.filters.iter().collect();
        assert_eq!(filters, [(filter, at(QoS::AtMostOnce))]);
    }
}

/// MQTT 5.0 [MQTT-3.8.3-1] [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-3.8.3-1] [MQTT-4.8.0-1].
#[test]
fn refuses_filters_that_are_not_text_or_pass_the_end() {
    for filters in [
        &b"\x00\x01a"[..],
        b"\x00\x02a\x00",
        b"\x00\x01a\x00\x00",
        b"\x00\x01a\x00\x00\x01",
        b"\x00\x01a\x00\x00\x01b",
        b"\x00\x01\xff\x00",
        b"\x00\x01\x00\x00",
        b"\x00\x01a\x00\x00\x03\xed\xa0\x80\x00",
    ] {
        let before_5 = packet(0x82, &[b"\x00\x0a", filters].concat());
        refuses(&BEFORE_5, Role::Server, &[(&before_5, MalformedPacket)]);
        let in_5 = packet(0x82, &[b"\x00\x0a\x00", filters].concat());
        refuses(&[V5], Role::Server, &[(&in_5, MalformedPacket)]);
    }
    for body in [&b""[..], b"\x00"] {
        refuses(&ALL, Role::Server, &[(&packet(0x82, body), MalformedPacket)]);
    }
}

/// MQTT 5.0 §3.8.2.1.2: 1 to 268,435,455, once.
#[test]
fn a_subscription_identifier_has_a_range() {
    for (block, expected) in [
        (&b"\x02\x0b\x00"[..], ProtocolError),
        (b"\x04\x0b\x01\x0b\x02", ProtocolError),
        (b"\x06\x0b\xff\xff\xff\xff\x01", MalformedPacket),
        (b"\x03\x0b\x81\x00", MalformedPacket),
    ] {
        let body = [b"\x00\x0a", block, b"\x00\x01a\x00"].concat();
        refuses(&[V5], Role::Server, &[(&packet(0x82, &body), expected)]);
    }
    let largest = b"\x82\x0c\x00\x0a\x05\x0b\xff\xff\xff\x7f\x00\x01a\x00";
    let sample = Sample::to_server(V5, largest);
    let Packet::Subscribe(subscribe) = sample.decode() else { panic!("{sample:?}") };
    let properties: Vec<_> = subscribe.properties.iter().collect();
    assert_eq!(properties, [Property::SubscriptionIdentifier(268_435_455)]);
}
