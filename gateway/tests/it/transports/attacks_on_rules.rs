//! Ways around what a client may touch, tried against a whole gateway: each is refused, counted, and
//! now and then in the log.

use super::target::{TIMES, Target, login};
use crate::packets::{framed, sized};
use crate::process::raw_client::{RawClient, V3_1_1, V5, publish, subscribe};

/// A client of 5.0 that is let in.
fn enter(target: &Target, client_id: &str, user_name: &str) -> RawClient {
    let mut client = RawClient::open(target.gateway.address());
    client.send(&login(V5, client_id, user_name, "pw", None));
    assert_eq!(client.packet().1[1], 0, "{client_id}");
    client
}

/// The Reason Code that answers a packet.
fn code(client: &mut RawClient, packet: &[u8]) -> u8 {
    client.send(packet);
    client.packet().1.get(2).copied().unwrap_or(0)
}

fn subscribe_code(client: &mut RawClient, filter: &str) -> u8 {
    client.send(&subscribe(V5, &[filter], 1));
    *client.packet().1.last().unwrap()
}

/// Topics that are nearly her own.
const NEARLY: [&str; 12] = [
    "own",
    "Own/x",
    "/own/x",
    "own//../../others/x",
    "others/own/x",
    "own/secret",
    "own/secret/x",
    "\u{feff}own/x",
    "own\u{2215}x",
    "\u{ff4f}wn/x",
    "own\u{301}/x",
    "$SYS/own/x",
];

#[test]
fn no_topic_is_taken_for_another() {
    let mut target = Target::start();
    let mut otto = enter(&target, "o", "otto");
    assert_eq!(subscribe_code(&mut otto, "#"), 1);
    let mut anna = enter(&target, "a", "anna");
    // `own` is what `own/#` matches, too; a level is a level, whatever is in it.
    let allowed = ["own", "own//../../others/x"];
    for topic in NEARLY {
        let expected = if allowed.contains(&topic) { 0 } else { 0x87 };
        for packet in [
            publish(V5, topic, Some(1), &[], b"x"),
            // RETAIN changes nothing.
            framed(0x33, &[&sized(topic)[..], &[0, 1, 0], b"x"].concat()),
            // Neither does an alias: it is for this topic from here on.
            publish(V5, topic, Some(1), &[0x23, 0, 1], b"x"),
            publish(V5, "", Some(1), &[0x23, 0, 1], b"x"),
        ] {
            assert_eq!(code(&mut anna, &packet), expected, "{topic}");
        }
    }
    // What is no text at all ends the connection: overlong, a surrogate, U+0000.
    for bytes in [&b"own\xC0\xAFx"[..], b"own/\xED\xA0\x80", b"own/\0"] {
        for _ in 0..TIMES {
            let mut client = enter(&target, "b", "anna");
            let length = u8::try_from(bytes.len()).unwrap();
            client.send(&framed(0x30, &[&[0, length][..], bytes, &[0], b"x"].concat()));
            assert_eq!(client.packets_to_the_end().last().unwrap().0, 0xE0, "{bytes:x?}");
        }
    }
    // Nobody has got any of it but what was allowed.
    anna.send(&publish(V5, "own/last", Some(1), &[], b"x"));
    anna.packet();
    let mut heard = Vec::new();
    loop {
        let (_, body) = otto.packet();
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        otto.send(&framed(0x40, &body[2 + length..4 + length]));
        let topic = String::from_utf8_lossy(&body[2..2 + length]).into_owned();
        if topic == "own/last" {
            break;
        }
        heard.push(topic);
    }
    heard.dedup();
    assert_eq!(heard, allowed);
    target.check(TIMES, &[("gateway_denied_total", "what=\"publish\"")], &["not authorized"]);
    let faults = [("gateway_protocol_faults_total", "")];
    target.check(3 * TIMES, &faults, &["a client broke the protocol"]);
    drop((anna, otto));
    target.gateway.stop();
}

#[test]
fn no_filter_reads_more_than_may_be_read() {
    let mut target = Target::start();
    let mut otto = enter(&target, "o", "otto");
    // Retained before anybody subscribes, and published afterwards.
    let hidden = ["others/x", "own/secret/x", "of/o/x", "for/otto/x"];
    for topic in hidden {
        let packet = framed(0x33, &[&sized(topic)[..], &[0, 1, 0], b"retained"].concat());
        assert_eq!(code(&mut otto, &packet), 0);
    }
    let mut anna = enter(&target, "a", "anna");
    let denied = [
        "others/#",
        "own/secret/#",
        "own/secret/+",
        "of/o/#",
        "for/otto/x",
        "$SYS/#",
        "$share/g/#",
        "$share/g/others/x",
        "$share/g/own/secret/x",
        "$share/g/+/x",
        "$share/own/others/#",
    ];
    for _ in 0..TIMES / denied.len() + 1 {
        for filter in denied {
            assert_eq!(subscribe_code(&mut anna, filter), 0x87, "{filter}");
        }
    }
    // Filters that overlap each other and more than she may read are granted, and bring her own only.
    for filter in ["#", "+/#", "+/+/#", "own/+/x", "+/secret/x", "of/+/x", "own/#"] {
        assert_eq!(subscribe_code(&mut anna, filter), 1, "{filter}");
    }
    for topic in hidden.iter().cycle().take(TIMES) {
        assert_eq!(code(&mut otto, &publish(V5, topic, Some(1), &[], b"live")), 0);
    }
    assert_eq!(code(&mut otto, &publish(V5, "own/last", Some(1), &[], b"last")), 0);
    let (_, body) = anna.packet();
    assert!(body[2..].starts_with(b"own/last"), "{}", String::from_utf8_lossy(&body));
    target.check(TIMES, &[("gateway_denied_total", "what=\"subscribe\"")], &["not authorized"]);
    target.check(TIMES, &[("gateway_denied_total", "what=\"read\"")], &[]);
    drop((anna, otto));
    target.gateway.stop();
}

#[test]
fn no_will_and_no_client_id_gets_around_what_a_user_may() {
    let mut target = Target::start();
    let mut otto = enter(&target, "o", "otto");
    assert_eq!(subscribe_code(&mut otto, "#"), 1);
    let knock = |level, client_id: &str, will| {
        let mut client = RawClient::open(target.gateway.address());
        client.send(&login(level, client_id, "anna", "pw", will));
        let packets = client.packets_to_the_end();
        packets[0].1[1]
    };
    for _ in 0..TIMES {
        for topic in ["others/x", "own/secret/x", "of/o/x", "for/otto/x", "$SYS/x"] {
            assert_eq!(knock(V5, "w", Some(topic)), 0x87, "{topic}");
            assert_eq!(knock(V3_1_1, "w", Some(topic)), 5, "{topic}");
        }
        // The session of otto is not anna's, by whatever she proves to be herself.
        assert_eq!(knock(V5, "o", None), 0x87);
        assert_eq!(knock(V3_1_1, "o", None), 5);
    }
    // A client id that would match more.
    for client_id in ["+", "#", "o/x", "$o", "+/o"] {
        let mut client = enter(&target, client_id, "anna");
        for topic in ["of/o/x", "of/+/x", "for/anna/x"] {
            if !topic.contains('+') {
                assert_eq!(code(&mut client, &publish(V5, topic, Some(1), &[], b"x")), 0x87);
            }
            assert_eq!(subscribe_code(&mut client, topic), 0x87, "{client_id} {topic}");
        }
    }
    // He has noticed nothing.
    otto.send(&[0xC0, 0]);
    assert_eq!(otto.packet().0, 0xD0);
    target.check(10 * TIMES, &[("gateway_denied_total", "what=\"will\"")], &["not authorized"]);
    let taken = [("gateway_denied_total", "what=\"session_of_another_user\"")];
    target.check(2 * TIMES, &taken, &[]);
    drop(otto);
    target.gateway.stop();
}
