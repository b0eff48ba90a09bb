//! The codec's hot path: decode and encode of a 64-byte QoS 0 PUBLISH of MQTT 3.1.1, and the same
//! of MQTT 5.0.
//!
//! `cargo bench --bench codec` prints nanoseconds an operation, median of the rounds; `-- --test`
//! does a few operations and only checks them. Given one case name, it runs that case alone, which
//! is what to put under `valgrind --tool=callgrind --toggle-collect='codec::*_once'`.

use std::hint::black_box;

use gateway::proto::mqtt::{
    DecodeContext, Packet, Property, ProtocolVersion, PublishHeader, QoS, Role, decode,
    encode_publish,
};

mod measure;

use measure::{OPERATIONS, measure};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--"));
    for case in [
        Case { name: "v3.1.1", version: ProtocolVersion::V3_1_1, properties: Vec::new() },
        Case { name: "v5", version: ProtocolVersion::V5, properties: Vec::new() },
        Case { name: "v5-properties", version: ProtocolVersion::V5, properties: properties() },
    ] {
        if wanted.is_none_or(|wanted| wanted == case.name) {
            case.run(if test { OPERATIONS_IN_TEST } else { OPERATIONS });
        }
    }
}

struct Case {
    name: &'static str,
    version: ProtocolVersion,
    properties: Vec<u8>,
}

impl Case {
    fn run(&self, operations: u32) {
        let header = PublishHeader {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "site/7/line/3/temp",
            packet_id: None,
        };
        // 2 bytes of fixed header, 2 of topic length, 18 of topic: 64 in all without properties.
        let payload = [0x2A; 42];
        let mut wire = Vec::new();
        encode_once(&mut wire, self.version, &header, &self.properties, &payload);
        if self.version == ProtocolVersion::V3_1_1 {
            assert_eq!(wire.len(), 64);
        }
        let context =
            DecodeContext { version: self.version, maximum_packet_size: 1024, role: Role::Server };
        assert_eq!(decode_once(&wire, context), wire.len());

        let decode_ns = measure(operations, || {
            black_box(decode_once(black_box(&wire), black_box(context)));
        });
        let mut out = Vec::with_capacity(wire.len());
        let encode_ns = measure(operations, || {
            out.clear();
            encode_once(&mut out, self.version, black_box(&header), &self.properties, &payload);
            black_box(&out);
        });
        println!("{}: decode {decode_ns:.1} ns, encode {encode_ns:.1} ns", self.name);
    }
}

#[inline(never)]
fn decode_once(wire: &[u8], context: DecodeContext) -> usize {
    match decode(wire, context) {
        Ok(Some((Packet::Publish(publish), bytes))) => {
            black_box(publish);
            bytes
        }
        other => panic!("the bench wrote one whole PUBLISH, not {other:?}"),
    }
}

#[inline(never)]
fn encode_once(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    properties: &[u8],
    payload: &[u8],
) {
    encode_publish(out, version, header, &[properties], payload);
}

fn properties() -> Vec<u8> {
    let mut properties = Vec::new();
    Property::MessageExpiryInterval(60).encode(&mut properties);
    Property::ContentType("application/cbor").encode(&mut properties);
    properties
}

const OPERATIONS_IN_TEST: u32 = 10;
