//! AUTH. MQTT 5.0 §3.15.

use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::ReasonCode::{
    ContinueAuthentication, MalformedPacket, ProtocolError, Reauthenticate, Success,
};
use gateway::proto::mqtt::{Auth, Packet, Properties, Property, Role};

use super::{BEFORE_5, Sample, Table, check_all, packet, refuses};

const PROPERTIES: &[u8] =
    b"\x15\x00\x05SCRAM\x16\x00\x02\xaa\xbb\x1f\x00\x01r\x26\x00\x01k\x00\x01v";

pub(super) fn good() -> Table {
    let properties = Properties::from_validated(PROPERTIES);
    let method = Properties::from_validated(b"\x15\x00\x01m");
    let auth = |reason_code, properties| Packet::Auth(Auth { reason_code, properties });
    vec![
        (
            Sample::to_server(V5, &[b"\xf0\x1a\x18\x18", PROPERTIES].concat()),
            auth(ContinueAuthentication, properties),
        ),
        (Sample::to_server(V5, b"\xf0\x06\x19\x04\x15\x00\x01m"), auth(Reauthenticate, method)),
        (
            Sample::to_client(V5, b"\xf0\x06\x18\x04\x15\x00\x01m"),
            auth(ContinueAuthentication, method),
        ),
        (Sample::to_client(V5, b"\xf0\x06\x00\x04\x15\x00\x01m"), auth(Success, method)),
        (Sample::to_client(V5, b"\xf0\x00"), auth(Success, Properties::NONE)),
    ]
}

/// MQTT 5.0 [MQTT-3.15.2-1].
#[test]
fn fields_are_read_in_their_order() {
    check_all(good());
    assert_eq!(
        Properties::from_validated(PROPERTIES).iter().collect::<Vec<_>>(),
        [
            Property::AuthenticationMethod("SCRAM"),
            Property::AuthenticationData(b"\xaa\xbb"),
            Property::ReasonString("r"),
            Property::UserProperty("k", "v"),
        ]
    );
}

/// MQTT 5.0 [MQTT-3.15.2-1], table 3-11: a client continues or starts again, a server continues
/// or succeeds.
#[test]
fn each_side_has_its_own_reason_codes() {
    for code in 0..=u8::MAX {
        let bytes = packet(0xf0, &[code, 0x04, 0x15, 0x00, 0x01, b'm']);
        for (role, allowed) in [(Role::Server, [0x18, 0x19]), (Role::Client, [0x00, 0x18])] {
            if !allowed.contains(&code) {
                refuses(&[V5], role, &[(&bytes, ProtocolError)]);
            }
        }
    }
}

/// MQTT 5.0 [MQTT-3.15.1-1].
#[test]
fn refuses_reserved_flags() {
    for flags in 1..=0x0f {
        let bytes = packet(0xf0 | flags, b"\x18\x04\x15\x00\x01m");
        refuses(&[V5], Role::Server, &[(&bytes, MalformedPacket)]);
    }
}

/// Type 15 is reserved before 5.0. MQTT 3.1.1 §2.2.1.
#[test]
fn is_no_packet_before_5() {
    for role in [Role::Server, Role::Client] {
        refuses(&BEFORE_5, role, &[(b"\xf0\x00", MalformedPacket)]);
        refuses(&BEFORE_5, role, &[(b"\xf0\x06\x18\x04\x15\x00\x01m", MalformedPacket)]);
    }
}

/// MQTT 5.0 §3.15.2.2.
#[test]
fn refuses_wrong_properties_and_lengths() {
    for (body, expected) in [
        (&b"\x18"[..], MalformedPacket),
        (b"\x18\x00", ProtocolError),
        (b"\x18\x04\x16\x00\x01d", ProtocolError),
        (b"\x18\x08\x15\x00\x01m\x15\x00\x01m", ProtocolError),
        (b"\x18\x04\x15\x00\x01m\x00", MalformedPacket),
        (b"\x18\x06\x15\x00\x01m", MalformedPacket),
        (b"\x18\x09\x15\x00\x01m\x11\x00\x00\x00\x01", MalformedPacket),
    ] {
        refuses(&[V5], Role::Server, &[(&packet(0xf0, body), expected)]);
    }
}
