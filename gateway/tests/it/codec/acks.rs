//! PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
//!
//! MQTT 5.0 §3.4-3.7, §3.9, §3.11; MQTT 3.1.1 §3.4-3.7, §3.9, §3.11.

use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::ReasonCode::{
    MalformedPacket, NoMatchingSubscribers, PacketIdentifierNotFound, ProtocolError, QuotaExceeded,
    Success,
};
use gateway::proto::mqtt::{
    Packet, Properties, Property, ProtocolVersion, PublishAck, Role, SubscribeAck,
};

use super::{ALL, BEFORE_5, Sample, Table, check_all, encoded, id, packet, refuses};

/// Makes a packet of what the four have in common.
type Kind = fn(PublishAck<'static>) -> Packet<'static>;

/// The first byte and the packet of each of the four.
const KINDS: [(u8, Kind); 4] = [
    (0x40, Packet::Puback),
    (0x50, Packet::Pubrec),
    (0x62, Packet::Pubrel),
    (0x70, Packet::Pubcomp),
];

pub(super) fn good() -> Table {
    let plain =
        PublishAck { packet_id: id(10), reason_code: Success, properties: Properties::NONE };
    let mut table = Vec::new();
    for (first, kind) in KINDS {
        for version in ALL {
            let bytes = packet(first, b"\x00\x0a");
            table.push((Sample::to_server(version, &bytes), kind(plain)));
            table.push((Sample::to_client(version, &bytes), kind(plain)));
        }
        // MQTT 5.0 §3.4.2.1: Reason Code and Property Length may be left out, or not.
        for body in [&b"\x00\x0a\x00"[..], b"\x00\x0a\x00\x00"] {
            let sample = Sample::to_server(V5, &packet(first, body));
            table.push((sample.decode_only(), kind(plain)));
        }
        let properties = Properties::from_validated(b"\x1f\x00\x03bad\x26\x00\x01k\x00\x01v");
        table.push((
            Sample::to_client(
                V5,
                &packet(first, b"\x00\x0a\x00\x0d\x1f\x00\x03bad\x26\x00\x01k\x00\x01v"),
            ),
            kind(PublishAck { properties, ..plain }),
        ));
    }
    for (bytes, kind, reason_code) in [
        (&b"\x40\x03\xff\xff\x10"[..], KINDS[0].1, NoMatchingSubscribers),
        (b"\x40\x03\xff\xff\x97", KINDS[0].1, QuotaExceeded),
        (b"\x50\x03\xff\xff\x97", KINDS[1].1, QuotaExceeded),
        (b"\x62\x03\xff\xff\x92", KINDS[2].1, PacketIdentifierNotFound),
        (b"\x70\x03\xff\xff\x92", KINDS[3].1, PacketIdentifierNotFound),
    ] {
        let ack = PublishAck { packet_id: id(65_535), reason_code, ..plain };
        table.push((Sample::to_server(V5, bytes), kind(ack)));
    }
    table
}

/// MQTT 5.0 [MQTT-2.2.1-5]; MQTT 3.1.1 [MQTT-2.3.1-6].
#[test]
fn publish_acks_carry_the_packet_id() {
    check_all(good());
}

/// MQTT 5.0 [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1].
#[test]
fn each_publish_ack_has_its_own_reason_codes() {
    let puback = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99][..];
    let pubrel = &[0x00, 0x92][..];
    for (first, allowed) in [(0x40, puback), (0x50, puback), (0x62, pubrel), (0x70, pubrel)] {
        for code in 0..=u8::MAX {
            let bytes = packet(first, &[0x00, 0x0a, code]);
            if allowed.contains(&code) {
                let _ = Sample::to_server(V5, &bytes).decode_only().decode();
            } else {
                refuses(&[V5], Role::Server, &[(&bytes, ProtocolError)]);
            }
        }
    }
}

/// MQTT 5.0 [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-4.8.0-1].
#[test]
fn refuses_publish_acks_of_the_wrong_length() {
    for (first, _) in KINDS {
        for body in [&b""[..], b"\x00"] {
            refuses(&ALL, Role::Server, &[(&packet(first, body), MalformedPacket)]);
        }
        for body in [&b"\x00\x0a\x00"[..], b"\x00\x0a\x00\x00"] {
            refuses(&BEFORE_5, Role::Server, &[(&packet(first, body), MalformedPacket)]);
        }
        for body in [&b"\x00\x0a\x00\x01"[..], b"\x00\x0a\x00\x00\x00"] {
            refuses(&[V5], Role::Server, &[(&packet(first, body), MalformedPacket)]);
        }
        refuses(&ALL, Role::Server, &[(&packet(first, b"\x00\x00"), ProtocolError)]);
    }
}

/// MQTT 5.0 §3.4.2.2: a Reason String once, User Properties, and nothing else.
#[test]
fn refuses_wrong_properties_of_publish_acks() {
    for (first, _) in KINDS {
        for (block, expected) in [
            (&b"\x08\x1f\x00\x01a\x1f\x00\x01b"[..], ProtocolError),
            (b"\x04\x1f\x00\x01\xff", MalformedPacket),
            (b"\x03\x23\x00\x01", MalformedPacket),
            (b"\x02\x7f\x00", MalformedPacket),
        ] {
            let body = [b"\x00\x0a\x00", block].concat();
            refuses(&[V5], Role::Server, &[(&packet(first, &body), expected)]);
        }
    }
}

/// Good SUBACKs and UNSUBACKs.
pub(super) fn good_subscribe_acks() -> Table {
    let plain = SubscribeAck { packet_id: id(10), properties: Properties::NONE, codes: b"" };
    let properties = Properties::from_validated(b"\x1f\x00\x02no");
    let suback = |version: ProtocolVersion, bytes: &[u8], ack| {
        (Sample::to_client(version, bytes), Packet::Suback(ack))
    };
    let unsuback = |version: ProtocolVersion, bytes: &[u8], ack| {
        (Sample::to_client(version, bytes), Packet::Unsuback(ack))
    };
    let mut table = Vec::new();
    for version in BEFORE_5 {
        table.push(suback(
            version,
            b"\x90\x06\x00\x0a\x00\x01\x02\x80",
            SubscribeAck { codes: b"\x00\x01\x02\x80", ..plain },
        ));
        table.push(unsuback(version, b"\xb0\x02\x00\x0a", plain));
    }
    table.push(suback(
        V5,
        b"\x90\x0f\x00\x0a\x00\x00\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2",
        SubscribeAck { codes: b"\x00\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2", ..plain },
    ));
    table.push(suback(
        V5,
        b"\x90\x09\x00\x0a\x05\x1f\x00\x02no\x87",
        SubscribeAck { properties, codes: b"\x87", ..plain },
    ));
    table.push(unsuback(
        V5,
        b"\xb0\x0a\x00\x0a\x00\x00\x11\x80\x83\x87\x8f\x91",
        SubscribeAck { codes: b"\x00\x11\x80\x83\x87\x8f\x91", ..plain },
    ));
    table.push(unsuback(
        V5,
        b"\xb0\x09\x00\x0a\x05\x1f\x00\x02no\x11",
        SubscribeAck { properties, codes: b"\x11", ..plain },
    ));
    table
}

/// MQTT 5.0 [MQTT-2.2.1-6] [MQTT-3.8.4-2] [MQTT-3.9.3-1] [MQTT-3.10.4-5] [MQTT-3.11.3-1];
/// MQTT 3.1.1 [MQTT-2.3.1-7] [MQTT-3.8.4-2] [MQTT-3.9.3-1] [MQTT-3.10.4-4].
#[test]
fn subscribe_acks_carry_the_packet_id_and_a_code_a_filter() {
    check_all(good_subscribe_acks());
    assert_eq!(
        Properties::from_validated(b"\x1f\x00\x02no").iter().collect::<Vec<_>>(),
        [Property::ReasonString("no")]
    );
}

/// Codes that no version knows are read as they are: the client compares them with what it asked
/// for. Sent before 5.0, every failure is 0x80. MQTT 3.1.1 [MQTT-3.9.3-2].
#[test]
fn a_failure_is_0x80_before_5() {
    for version in BEFORE_5 {
        for code in 0x80..=u8::MAX {
            let bytes = packet(0x90, &[0x00, 0x0a, code]);
            let sample = Sample::to_client(version, &bytes).decode_only();
            let read = sample.decode();
            let Packet::Suback(SubscribeAck { codes, .. }) = read else { panic!("{read:?}") };
            assert_eq!(codes, [code]);
            assert_eq!(encoded(&read, version), b"\x90\x03\x00\x0a\x80");
        }
    }
}

/// MQTT 5.0 [MQTT-3.8.4-6] [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-3.8.4-5] [MQTT-4.8.0-1].
#[test]
fn refuses_subscribe_acks_of_the_wrong_length() {
    for first in [0x90, 0xb0] {
        for body in [&b""[..], b"\x00"] {
            refuses(&ALL, Role::Client, &[(&packet(first, body), MalformedPacket)]);
        }
        refuses(&ALL, Role::Client, &[(&packet(first, b"\x00\x00\x00\x00"), ProtocolError)]);
        refuses(&[V5], Role::Client, &[(&packet(first, b"\x00\x0a"), MalformedPacket)]);
        refuses(&[V5], Role::Client, &[(&packet(first, b"\x00\x0a\x00"), ProtocolError)]);
    }
    refuses(&BEFORE_5, Role::Client, &[(b"\x90\x02\x00\x0a", ProtocolError)]);
    refuses(&BEFORE_5, Role::Client, &[(b"\xb0\x03\x00\x0a\x00", MalformedPacket)]);
}
