//! UTF-8 Encoded Strings. MQTT 5.0 §1.5.4; MQTT 3.1.1 §1.5.3.

use gateway::proto::mqtt::ProtocolVersion::V3_1_1;
use gateway::proto::mqtt::ReasonCode::MalformedPacket;
use gateway::proto::mqtt::{Packet, Role, decode};

use super::{BEFORE_5, context, packet, refuses};

/// A PUBLISH at QoS 0 whose topic name is `topic`.
fn publish(topic: &[u8]) -> Vec<u8> {
    packet(0x30, &[&[0, u8::try_from(topic.len()).unwrap()], topic].concat())
}

/// MQTT 5.0 [MQTT-1.5.4-1]; MQTT 3.1.1 [MQTT-1.5.3-1].
#[test]
fn refuses_ill_formed_utf8() {
    for text in [
        &b"\x80"[..],        // a continuation byte alone
        b"\xc0\xaf",         // overlong
        b"\xe0\x80\xaf",     // overlong
        b"\xe2\x82",         // cut off
        b"\xed\xa0\x80",     // U+D800, a surrogate
        b"\xed\xbf\xbf",     // U+DFFF, a surrogate
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\xf8\x88\x80\x80\x80",
        b"a\xffb",
    ] {
        refuses(&BEFORE_5, Role::Server, &[(&publish(text), MalformedPacket)]);
    }
}

/// MQTT 5.0 [MQTT-1.5.4-2] [MQTT-4.7.3-2]; MQTT 3.1.1 [MQTT-1.5.3-2] [MQTT-4.7.3-2].
#[test]
fn refuses_u_0000() {
    for text in [&b"\x00"[..], b"a\x00b", b"a\x00+"] {
        refuses(&BEFORE_5, Role::Server, &[(&publish(text), MalformedPacket)]);
    }
}

/// MQTT 5.0 [MQTT-1.5.4-3]; MQTT 3.1.1 [MQTT-1.5.3-3].
#[test]
fn keeps_a_byte_order_mark() {
    check(b"\xef\xbb\xbfa", "\u{feff}a");
    check(b"a\xef\xbb\xbf", "a\u{feff}");
}

/// The ends of the ranges that are text, control characters and non-characters among them: a
/// receiver may refuse those two and we do not. MQTT 5.0 §1.5.4; MQTT 3.1.1 §1.5.3.
#[test]
fn keeps_every_other_character() {
    check(b"\x01\x1f\x7f", "\u{1}\u{1f}\u{7f}");
    check(b"\xc2\x80\xed\x9f\xbf", "\u{80}\u{d7ff}");
    check(b"\xee\x80\x80\xef\xbf\xbf", "\u{e000}\u{ffff}");
    check(b"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\u{10000}\u{10ffff}");
}

/// A length of 65,535 is the most there is. MQTT 5.0 [MQTT-4.7.3-3]; MQTT 3.1.1 [MQTT-4.7.3-3].
#[test]
fn reads_the_longest_text() {
    let topic = "t".repeat(65_535);
    let bytes = [b"\x30\x81\x80\x04\xff\xff", topic.as_bytes()].concat();
    expect_topic(&bytes, &topic);
}

#[track_caller]
fn check(text: &[u8], expected: &str) {
    expect_topic(&publish(text), expected);
}

#[track_caller]
fn expect_topic(bytes: &[u8], expected: &str) {
    let (decoded, _) = decode(bytes, context(V3_1_1, Role::Server)).unwrap().unwrap();
    let Packet::Publish(publish) = decoded else { panic!("{decoded:?}") };
    assert_eq!(publish.topic, expected);
}
