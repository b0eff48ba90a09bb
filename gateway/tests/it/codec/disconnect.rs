//! DISCONNECT. MQTT 5.0 §3.14; MQTT 3.1.1 §3.14.

use gateway::proto::mqtt::ProtocolVersion::{V3_1_1, V5};
use gateway::proto::mqtt::ReasonCode::{
    DisconnectWithWillMessage, MalformedPacket, ProtocolError, SessionTakenOver, Success,
    UseAnotherServer,
};
use gateway::proto::mqtt::{Disconnect, Packet, Properties, Property, Role};

use super::{ALL, BEFORE_5, Sample, Table, check_all, packet, refuses};

/// What a server moving its clients says.
const SERVER_PROPERTIES: &[u8] = b"\x1f\x00\x02go\x1c\x00\x01s\x26\x00\x01k\x00\x01v";

pub(super) fn good() -> Table {
    let plain = Disconnect { reason_code: Success, properties: Properties::NONE };
    let mut table = Vec::new();
    for version in ALL {
        table.push((Sample::to_server(version, b"\xe0\x00"), Packet::Disconnect(plain)));
    }
    // MQTT 5.0 §3.14.2.1: Reason Code and Property Length may be left out, or not.
    for bytes in [&b"\xe0\x01\x00"[..], b"\xe0\x02\x00\x00"] {
        table.push((Sample::to_server(V5, bytes).decode_only(), Packet::Disconnect(plain)));
    }
    table.push((
        Sample::to_server(V5, b"\xe0\x01\x04"),
        Packet::Disconnect(Disconnect { reason_code: DisconnectWithWillMessage, ..plain }),
    ));
    table.push((
        Sample::to_server(V5, b"\xe0\x07\x00\x05\x11\x00\x00\x00\x0a"),
        Packet::Disconnect(Disconnect {
            properties: Properties::from_validated(b"\x11\x00\x00\x00\x0a"),
            ..plain
        }),
    ));
    table.push((
        Sample::to_client(V5, b"\xe0\x01\x8e"),
        Packet::Disconnect(Disconnect { reason_code: SessionTakenOver, ..plain }),
    ));
    table.push((
        Sample::to_client(V5, &[b"\xe0\x12\x9c\x10", SERVER_PROPERTIES].concat()),
        Packet::Disconnect(Disconnect {
            reason_code: UseAnotherServer,
            properties: Properties::from_validated(SERVER_PROPERTIES),
        }),
    ));
    table
}

/// MQTT 5.0 [MQTT-3.14.2-1]; MQTT 3.1.1 §3.14.
#[test]
fn fields_are_read_in_their_order() {
    check_all(good());
    assert_eq!(
        Properties::from_validated(SERVER_PROPERTIES).iter().collect::<Vec<_>>(),
        [
            Property::ReasonString("go"),
            Property::ServerReference("s"),
            Property::UserProperty("k", "v"),
        ]
    );
}

/// The codes of MQTT 5.0 table 3-10, by sender. MQTT 5.0 [MQTT-3.14.2-1].
#[test]
fn each_side_has_its_own_reason_codes() {
    let client = b"\x00\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97\x98\x99";
    let server = b"\x00\x80\x81\x82\x83\x87\x89\x8b\x8d\x8e\x8f\x90\x93\x94\x95\x96\x97\x98\x99\
        \x9a\x9b\x9c\x9d\x9e\x9f\xa0\xa1\xa2";
    for code in 0..=u8::MAX {
        let bytes = packet(0xe0, &[code]);
        for (role, allowed) in [(Role::Server, &client[..]), (Role::Client, &server[..])] {
            if allowed.contains(&code) {
                let sample = match role {
                    Role::Server => Sample::to_server(V5, &bytes),
                    Role::Client => Sample::to_client(V5, &bytes),
                };
                let _ = sample.decode_only().decode();
            } else {
                refuses(&[V5], role, &[(&bytes, ProtocolError)]);
            }
        }
    }
}

/// MQTT 5.0 [MQTT-3.14.1-1]; MQTT 3.1.1 [MQTT-3.14.1-1].
#[test]
fn refuses_reserved_flags() {
    for flags in 1..=0x0f {
        let bytes = packet(0xe0 | flags, b"");
        refuses(&[V3_1_1, V5], Role::Server, &[(&bytes, MalformedPacket)]);
    }
}

/// Before 5.0 there is nothing behind the fixed header, and only clients disconnect.
/// MQTT 3.1.1 [MQTT-4.8.0-1].
#[test]
fn refuses_more_than_a_fixed_header_before_5() {
    refuses(&BEFORE_5, Role::Server, &[(b"\xe0\x01\x00", MalformedPacket)]);
    refuses(&BEFORE_5, Role::Client, &[(b"\xe0\x00", ProtocolError)]);
}

/// MQTT 5.0 [MQTT-3.14.2-2].
#[test]
fn refuses_a_session_expiry_interval_from_a_server() {
    let bytes = b"\xe0\x07\x00\x05\x11\x00\x00\x00\x0a";
    refuses(&[V5], Role::Client, &[(bytes, ProtocolError)]);
}

/// MQTT 5.0 §3.14.2.2.
#[test]
fn refuses_wrong_properties_and_lengths() {
    for (body, expected) in [
        (&b"\x00\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01"[..], ProtocolError),
        (b"\x00\x08\x1f\x00\x01a\x1f\x00\x01b", ProtocolError),
        (b"\x00\x03\x23\x00\x01", MalformedPacket),
        (b"\x00\x01", MalformedPacket),
        (b"\x00\x00\x00", MalformedPacket),
        (b"\x00\x04\x1f\x00\x05a", MalformedPacket),
    ] {
        refuses(&[V5], Role::Server, &[(&packet(0xe0, body), expected)]);
    }
}
