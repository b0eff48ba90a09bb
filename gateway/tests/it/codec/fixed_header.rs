//! The fixed header: type, flags, Remaining Length, direction and size.
//!
//! MQTT 5.0 §2.1; MQTT 3.1.1 §2.2.

use gateway::proto::mqtt::ProtocolVersion::{V3_1, V5};
use gateway::proto::mqtt::ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError};
use gateway::proto::mqtt::{DecodeContext, Role, decode};

use super::{ALL, context, packet, refuses, samples};

/// MQTT 5.0 [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1];
/// MQTT 3.1.1 [MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1].
#[test]
fn refuses_other_flags_than_the_listed() {
    for sample in samples() {
        let first = sample.bytes[0];
        let lenient = sample.version == V3_1 && first != CONNECT;
        if first & 0xf0 == PUBLISH || lenient {
            continue;
        }
        for flags in 0..=0x0f {
            let mut bytes = sample.bytes.clone();
            bytes[0] = first & 0xf0 | flags;
            if bytes[0] != first {
                refuses(&[sample.version], sample.role, &[(&bytes, MalformedPacket)]);
            }
        }
    }
}

/// The flags of all but PUBLISH are unused in MQTT 3.1 §2.1, and clients set DUP to send SUBSCRIBE,
/// UNSUBSCRIBE or PUBREL again. CONNECT comes before the version is known.
#[test]
fn passes_over_flags_in_3_1() {
    for sample in samples() {
        let first = sample.bytes[0];
        if sample.version != V3_1 || first == CONNECT || first & 0xf0 == PUBLISH {
            continue;
        }
        let whole = decode(&sample.bytes, context(V3_1, sample.role));
        for flags in 0..=0x0f {
            let mut bytes = sample.bytes.clone();
            bytes[0] = first & 0xf0 | flags;
            assert_eq!(decode(&bytes, context(V3_1, sample.role)), whole);
        }
    }
}

/// MQTT 5.0 §2.1.2; MQTT 3.1.1 §2.2.1.
#[test]
fn refuses_type_0() {
    for role in [Role::Server, Role::Client] {
        for flags in 0..=0x0f {
            refuses(&ALL, role, &[(&packet(flags, b""), MalformedPacket)]);
        }
    }
}

/// MQTT 5.0 §2.1.2; MQTT 3.1.1 §2.2.1.
#[test]
fn refuses_packets_that_go_the_other_way() {
    for sample in samples() {
        let (other, one_way) = match sample.role {
            Role::Server => (Role::Client, [0x1, 0x8, 0xa, 0xc]),
            Role::Client => (Role::Server, [0x2, 0x9, 0xb, 0xd]),
        };
        if one_way.contains(&(sample.bytes[0] >> 4)) {
            refuses(&[sample.version], other, &[(&sample.bytes, ProtocolError)]);
        }
    }
}

/// MQTT 5.0 §1.5.5; MQTT 3.1.1 §2.2.3.
#[test]
fn refuses_a_remaining_length_of_five_bytes() {
    for role in [Role::Server, Role::Client] {
        refuses(
            &ALL,
            role,
            &[
                (b"\x30\xff\xff\xff\xff", MalformedPacket),
                (b"\x30\xff\xff\xff\xff\x01", MalformedPacket),
                (b"\x30\x80\x80\x80\x80\x01", MalformedPacket),
            ],
        );
    }
}

/// MQTT 5.0 [MQTT-1.5.5-1].
#[test]
fn refuses_a_padded_remaining_length() {
    refuses(
        &[V5],
        Role::Server,
        &[
            (b"\xc0\x80\x00", MalformedPacket),
            (b"\xc0\x80\x80\x00", MalformedPacket),
            (b"\xc0\x80\x80\x80\x00", MalformedPacket),
            (b"\x30\x86\x00\x00\x03a/b\x00", MalformedPacket),
        ],
    );
}

/// The limit counts the fixed header, and is applied before the packet is there.
/// MQTT 5.0 [MQTT-3.1.2-24] [MQTT-3.2.2-15].
#[test]
fn refuses_packets_above_the_maximum_packet_size() {
    for sample in samples() {
        let exact = u32::try_from(sample.bytes.len()).unwrap();
        let limited = |maximum_packet_size| DecodeContext {
            maximum_packet_size,
            ..context(sample.version, sample.role)
        };
        assert!(decode(&sample.bytes, limited(exact)).unwrap().is_some());
        for header in [&sample.bytes[..2], &sample.bytes] {
            let error = decode(header, limited(exact - 1)).unwrap_err();
            assert_eq!(error.reason_code(), PacketTooLarge, "{:02x?}", sample.bytes);
        }
    }
}

/// The largest Remaining Length there is, 268,435,455: the packet is awaited, not refused.
/// MQTT 5.0 §1.5.5; MQTT 3.1.1 §2.2.3.
#[test]
fn awaits_the_largest_packet() {
    for version in ALL {
        assert_eq!(decode(b"\x30\xff\xff\xff\x7f", context(version, Role::Server)), Ok(None));
    }
}

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
