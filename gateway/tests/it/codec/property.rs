//! Property blocks, whatever their packet. MQTT 5.0 §2.2.2.

use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::ReasonCode::{MalformedPacket, ProtocolError};
use gateway::proto::mqtt::{Role, decode};

use super::{context, packet, refuses};

/// Each property with a good value, by identifier; Authentication Data needs its method.
const GOOD: [(u8, &[u8]); 27] = [
    (0x01, b"\x01\x01"),
    (0x02, b"\x02\x00\x00\x00\x01"),
    (0x03, b"\x03\x00\x01c"),
    (0x08, b"\x08\x00\x01r"),
    (0x09, b"\x09\x00\x01d"),
    (0x0b, b"\x0b\x01"),
    (0x11, b"\x11\x00\x00\x00\x01"),
    (0x12, b"\x12\x00\x01a"),
    (0x13, b"\x13\x00\x01"),
    (0x15, b"\x15\x00\x01m"),
    (0x16, b"\x15\x00\x01m\x16\x00\x01d"),
    (0x17, b"\x17\x01"),
    (0x18, b"\x18\x00\x00\x00\x01"),
    (0x19, b"\x19\x01"),
    (0x1a, b"\x1a\x00\x01r"),
    (0x1c, b"\x1c\x00\x01s"),
    (0x1f, b"\x1f\x00\x01r"),
    (0x21, b"\x21\x00\x01"),
    (0x22, b"\x22\x00\x01"),
    (0x23, b"\x23\x00\x01"),
    (0x24, b"\x24\x01"),
    (0x25, b"\x25\x01"),
    (0x26, b"\x26\x00\x01k\x00\x01v"),
    (0x27, b"\x27\x00\x00\x00\x01"),
    (0x28, b"\x28\x01"),
    (0x29, b"\x29\x01"),
    (0x2a, b"\x2a\x01"),
];

/// A packet around a property block, and which properties it may carry.
struct Shell {
    first: u8,
    before: &'static [u8],
    after: &'static [u8],
    receiver: Role,
    allowed: &'static [u8],
}

/// MQTT 5.0 table 2-4, a packet a row.
const SHELLS: [Shell; 17] = [
    Shell {
        first: 0x10,
        before: b"\x00\x04MQTT\x05\x02\x00\x3c",
        after: b"\x00\x01a",
        receiver: Role::Server,
        allowed: b"\x11\x15\x16\x17\x19\x21\x22\x26\x27",
    },
    Shell {
        first: 0x10,
        before: b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01a",
        after: b"\x00\x01w\x00\x00",
        receiver: Role::Server,
        allowed: b"\x01\x02\x03\x08\x09\x18\x26",
    },
    Shell {
        first: 0x20,
        before: b"\x00\x00",
        after: b"",
        receiver: Role::Client,
        allowed: b"\x11\x12\x13\x15\x16\x1a\x1c\x1f\x21\x22\x24\x25\x26\x27\x28\x29\x2a",
    },
    Shell {
        first: 0x30,
        before: b"\x00\x01t",
        after: b"payload",
        receiver: Role::Client,
        allowed: b"\x01\x02\x03\x08\x09\x0b\x23\x26",
    },
    acknowledgement(0x40, b"\x00\x0a\x00", b"", Role::Server),
    acknowledgement(0x50, b"\x00\x0a\x00", b"", Role::Server),
    acknowledgement(0x62, b"\x00\x0a\x00", b"", Role::Server),
    acknowledgement(0x70, b"\x00\x0a\x00", b"", Role::Server),
    acknowledgement(0x40, b"\x00\x0a\x00", b"", Role::Client),
    acknowledgement(0x90, b"\x00\x0a", b"\x00", Role::Client),
    acknowledgement(0xb0, b"\x00\x0a", b"\x00", Role::Client),
    Shell {
        first: 0x82,
        before: b"\x00\x0a",
        after: b"\x00\x01t\x00",
        receiver: Role::Server,
        allowed: b"\x0b\x26",
    },
    Shell {
        first: 0xa2,
        before: b"\x00\x0a",
        after: b"\x00\x01t",
        receiver: Role::Server,
        allowed: b"\x26",
    },
    Shell {
        first: 0xe0,
        before: b"\x00",
        after: b"",
        receiver: Role::Server,
        allowed: b"\x11\x1c\x1f\x26",
    },
    Shell {
        first: 0xe0,
        before: b"\x80",
        after: b"",
        receiver: Role::Server,
        allowed: b"\x11\x1c\x1f\x26",
    },
    Shell {
        first: 0xf0,
        before: b"\x18",
        after: b"",
        receiver: Role::Server,
        allowed: b"\x15\x16\x1f\x26",
    },
    Shell {
        first: 0xf0,
        before: b"\x18",
        after: b"",
        receiver: Role::Client,
        allowed: b"\x15\x16\x1f\x26",
    },
];

const fn acknowledgement(
    first: u8,
    before: &'static [u8],
    after: &'static [u8],
    receiver: Role,
) -> Shell {
    Shell { first, before, after, receiver, allowed: b"\x1f\x26" }
}

impl Shell {
    /// The packet with a block of `properties`; an AUTH always has its method.
    fn around(&self, properties: &[u8]) -> Vec<u8> {
        let method: &[u8] = if self.first == 0xf0 && !properties.starts_with(b"\x15") {
            b"\x15\x00\x01m"
        } else {
            b""
        };
        let length = u8::try_from(method.len() + properties.len()).unwrap();
        let body = [self.before, &[length], method, properties, self.after].concat();
        packet(self.first, &body)
    }
}

/// MQTT 5.0 [MQTT-2.2.2-1], table 2-4.
#[test]
fn each_packet_has_its_own_properties() {
    for shell in &SHELLS {
        for (id, property) in GOOD {
            let bytes = shell.around(property);
            if shell.allowed.contains(&id) {
                let decoded = decode(&bytes, context(V5, shell.receiver));
                assert!(matches!(decoded, Ok(Some(_))), "{decoded:?} {bytes:02x?}");
            } else {
                refuses(&[V5], shell.receiver, &[(&bytes, MalformedPacket)]);
            }
        }
    }
}

/// MQTT 5.0 §2.2.2.2 and the section of each property.
#[test]
fn no_property_but_the_user_property_comes_twice() {
    for shell in &SHELLS {
        for (id, property) in GOOD {
            if !shell.allowed.contains(&id) {
                continue;
            }
            let bytes = shell.around(&[property, property].concat());
            let several_identifiers = shell.first == 0x30 && id == 0x0b;
            if id == 0x26 || several_identifiers {
                let decoded = decode(&bytes, context(V5, shell.receiver));
                assert!(matches!(decoded, Ok(Some(_))), "{decoded:?} {bytes:02x?}");
            } else {
                refuses(&[V5], shell.receiver, &[(&bytes, ProtocolError)]);
            }
        }
    }
}

/// MQTT 5.0 §2.2.2.2.
#[test]
fn refuses_identifiers_that_do_not_exist() {
    for shell in &SHELLS {
        for id in 0..=0x7f {
            if GOOD.iter().all(|&(known, _)| known != id) {
                let bytes = shell.around(&[id, 0, 0, 0, 0]);
                refuses(&[V5], shell.receiver, &[(&bytes, MalformedPacket)]);
            }
        }
        for two_bytes in [&b"\x80\x01"[..], b"\xa6\x01\x00\x00\x00\x00", b"\xff\xff\xff\x7f"] {
            let bytes = shell.around(two_bytes);
            refuses(&[V5], shell.receiver, &[(&bytes, MalformedPacket)]);
        }
    }
}

/// A value does not reach over the end of its block, even where the packet goes on.
/// MQTT 5.0 §2.2.2.1.
#[test]
fn refuses_values_that_pass_the_end_of_the_block() {
    for shell in &SHELLS {
        for (id, property) in GOOD {
            if !shell.allowed.contains(&id) || id == 0x16 {
                continue;
            }
            for end in 1..property.len() {
                let bytes = shell.around(&property[..end]);
                refuses(&[V5], shell.receiver, &[(&bytes, MalformedPacket)]);
            }
        }
    }
}

/// MQTT 5.0 [MQTT-1.5.5-1].
#[test]
fn refuses_padded_and_overlong_lengths() {
    for shell in &SHELLS {
        for length in [&b"\x80\x00"[..], b"\x80\x80\x00", b"\xff\xff\xff\xff\x01", b"\x80"] {
            let bytes = packet(shell.first, &[shell.before, length].concat());
            refuses(&[V5], shell.receiver, &[(&bytes, MalformedPacket)]);
        }
    }
}

/// MQTT 5.0 [MQTT-1.5.7-1].
#[test]
fn both_halves_of_a_user_property_are_text() {
    for shell in &SHELLS {
        for pair in [
            &b"\x26\x00\x01\xff\x00\x01v"[..],
            b"\x26\x00\x01k\x00\x01\xff",
            b"\x26\x00\x01\x00\x00\x01v",
            b"\x26\x00\x01k\x00\x01\x00",
        ] {
            refuses(&[V5], shell.receiver, &[(&shell.around(pair), MalformedPacket)]);
        }
    }
}
