//! PINGREQ and PINGRESP. MQTT 5.0 §3.12, §3.13; MQTT 3.1.1 §3.12, §3.13.

use gateway::proto::mqtt::ReasonCode::MalformedPacket;
use gateway::proto::mqtt::{Packet, Role};

use super::{ALL, Sample, Table, check_all, refuses};

pub(super) fn good() -> Table {
    let mut table = Vec::new();
    for version in ALL {
        table.push((Sample::to_server(version, b"\xc0\x00"), Packet::Pingreq));
        table.push((Sample::to_client(version, b"\xd0\x00"), Packet::Pingresp));
    }
    table
}

/// MQTT 5.0 §3.12; MQTT 3.1.1 §3.12.
#[test]
fn are_two_bytes() {
    check_all(good());
}

/// MQTT 5.0 [MQTT-4.13.1-1]; MQTT 3.1.1 [MQTT-4.8.0-1].
#[test]
fn refuses_a_body() {
    refuses(&ALL, Role::Server, &[(b"\xc0\x01\x00", MalformedPacket)]);
    refuses(&ALL, Role::Client, &[(b"\xd0\x01\x00", MalformedPacket)]);
}
