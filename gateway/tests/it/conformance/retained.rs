//! Retained messages: set, replaced, cleared, expired, and to whom they go when.

use super::scene::{Scene, Speaks, everywhere, everywhere_with};
use crate::packets::sized;
use crate::sim::{SimClient, SimSettings};
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::Durability;
use std::time::Duration;

/// PUBLISH with retain 1, and PUBREL where there is something to release.
fn retain(scene: &mut Scene, publisher: SimClient, qos: u8, topic: &str, payload: &[u8]) {
    let mut head = sized(topic);
    if qos > 0 {
        head.extend_from_slice(&[0, 9]);
    }
    let publish = scene.packet(0x31 | qos << 1, &head, payload);
    scene.node.exchange(publisher, &publish);
    if qos == 2 {
        scene.node.exchange(publisher, &[0x62, 2, 0, 9]);
    }
}

/// Subscribes with packet id 1 and expects SUBACK and then these bytes.
#[track_caller]
fn check_subscribe(
    scene: &mut Scene,
    client: SimClient,
    filter: &str,
    options: u8,
    expected: &[u8],
) {
    let subscribe = scene.packet(0x82, &[0, 1], &[sized(filter), vec![options]].concat());
    let suback = scene.packet(0x90, &[0, 1], &[options & 3]);
    scene.check(client, &subscribe, &[&suback, expected].concat());
}

/// MQTT 5.0 [MQTT-3.3.1-5], [MQTT-3.3.1-8], [MQTT-3.3.1-9]; MQTT 3.1.1 [MQTT-3.3.1-5],
/// [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8], [MQTT-3.3.1-12].
#[test]
fn the_last_retained_message_of_a_topic_goes_to_new_subscriptions_at_the_lower_qos() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        for published in 0..=2_u8 {
            retain(&mut scene, publisher, 1, "t", b"old");
            retain(&mut scene, publisher, published, "t", b"new");
            let other = scene.packet(0x30, &[0, 1, b't'], b"not retained");
            scene.check(publisher, &other, &[]);
            for granted in 0..=2_u8 {
                let subscriber = scene.enter(b's');
                let qos = granted.min(published);
                let expected = match qos {
                    0 => scene.packet(0x31, &[0, 1, b't'], b"new"),
                    _ => scene.packet(0x31 | qos << 1, &[0, 1, b't', 0, 1], b"new"),
                };
                check_subscribe(&mut scene, subscriber, "t", granted, &expected);
                scene.node.drop_connection(subscriber);
            }
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.1-9]; MQTT 3.1.1 [MQTT-3.3.1-6]: all of them, at the pace of the client.
#[test]
fn retained_messages_come_in_pages_to_a_client_that_takes_them() {
    const COUNT: usize = 30;
    let limits = Limits {
        retained_page_max: 4,
        inflight_max: 3,
        client_write_bytes_max: 64,
        ..Limits::default()
    };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let (publisher, subscriber) = (scene.enter(b'p'), scene.enter(b's'));
        let name = |number: usize| format!("t/{number:02}");
        for number in 0..COUNT {
            retain(&mut scene, publisher, (number % 3).try_into().unwrap(), &name(number), b"x");
        }
        retain(&mut scene, publisher, 1, "t", b"x");
        for qos in 0..2 {
            scene.node.stall(subscriber, true);
            let options = [sized("t/#"), vec![qos]].concat();
            let subscribe = scene.packet(0x82, &[0, 1], &options);
            // However often it asks, what waits for it is bounded.
            for _ in 0..20 {
                scene.node.send(subscriber, &subscribe);
            }
            scene.node.stall(subscriber, false);
            let mut stream = scene.take(subscriber);
            let mut seen = Vec::new();
            let suback = scene.packet(0x90, &[0, 1], &[qos]);
            while !stream.is_empty() {
                let rest = stream.split_off(2 + usize::from(stream[1]));
                if stream[0] & 0xF0 == 0x30 {
                    let length = usize::from(stream[3]);
                    seen.push(String::from_utf8(stream[4..4 + length].to_vec()).unwrap());
                    if stream[0] & 6 != 0 {
                        let id = &stream[4 + length..6 + length];
                        let answer = scene.node.exchange(subscriber, &[&[0x40, 2], id].concat());
                        stream = [rest, answer].concat();
                        continue;
                    }
                } else {
                    assert_eq!(stream, suback, "{}", scene.label());
                }
                stream = rest;
            }
            let once: Vec<String> =
                std::iter::once("t".to_owned()).chain((0..COUNT).map(name)).collect();
            // The first was interrupted, and of those that waited the last is left.
            let whole = seen.split_off(seen.len() - once.len());
            assert!(seen.len() < COUNT, "{}", scene.label());
            for mut some in [seen, whole] {
                // At QoS 0 and 1 they have an order each.
                some.sort_unstable();
                assert_eq!(some, once[..some.len()], "{}", scene.label());
            }
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.1-5], [MQTT-3.3.1-9]; MQTT 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-6]: at QoS 0 it is
/// live before it is stored, and between the two it is neither.
#[test]
fn a_subscription_waits_for_a_retained_message_that_is_not_stored_yet() {
    everywhere(|mut scene| {
        let (publisher, subscriber) = (scene.enter(b'p'), scene.enter(b's'));
        scene.node.holds_io = true;
        for (client, topic) in [(publisher, "t"), (subscriber, "u")] {
            let publish = scene.packet(0x31, &sized(topic), b"x");
            scene.check(publisher, &publish, &[]);
            scene.subscribe_loosely(client, topic);
            while scene.node.perform_one() {}
            let suback = scene.packet(0x90, &[0, 1], &[1]);
            scene.expect(client, &[suback, publish].concat());
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-12]; MQTT 3.1.1 [MQTT-3.3.1-9],
/// [MQTT-3.3.1-10], [MQTT-3.3.1-11].
#[test]
fn an_empty_payload_is_delivered_as_usual_and_clears_the_topic() {
    everywhere(|mut scene| {
        let (publisher, early) = (scene.enter(b'p'), scene.enter(b'e'));
        scene.subscribe(early, "t", 0);
        for qos in 0..=2 {
            retain(&mut scene, publisher, 1, "t", b"x");
            let delivered = scene.packet(0x30, &[0, 1, b't'], b"x");
            scene.expect(early, &delivered);
            retain(&mut scene, publisher, qos, "t", b"");
            let delivered = scene.packet(0x30, &[0, 1, b't'], b"");
            scene.expect(early, &delivered);
            let subscriber = scene.enter(b's');
            check_subscribe(&mut scene, subscriber, "t", 1, &[]);
            scene.node.drop_connection(subscriber);
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11], [MQTT-3.8.4-4].
#[test]
fn retain_handling_decides_when_retained_messages_are_sent() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (publisher, subscriber) = (scene.enter(b'p'), scene.enter(b's'));
        retain(&mut scene, publisher, 0, "t", b"x");
        let sent = b"\x31\x05\0\x01t\0x";
        check_subscribe(&mut scene, subscriber, "t", 0x20, &[]);
        check_subscribe(&mut scene, subscriber, "t", 0x10, &[]);
        check_subscribe(&mut scene, subscriber, "t", 0x00, sent);
        check_subscribe(&mut scene, subscriber, "t", 0x00, sent);
        scene.check(subscriber, b"\xA2\x06\0\x02\0\0\x01t", &[0xB0, 4, 0, 2, 0, 0]);
        check_subscribe(&mut scene, subscriber, "t", 0x10, sent);
        check_subscribe(&mut scene, subscriber, "t", 0x10, &[]);
    });
}

/// MQTT 3.1.1 [MQTT-3.8.4-3]: subscribing anew sends them again.
#[test]
fn before_5_0_every_subscribe_sends_the_retained_messages() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V5 {
            return;
        }
        let (publisher, subscriber) = (scene.enter(b'p'), scene.enter(b's'));
        retain(&mut scene, publisher, 0, "t", b"x");
        check_subscribe(&mut scene, subscriber, "t", 0, b"\x31\x04\0\x01tx");
        check_subscribe(&mut scene, subscriber, "t", 0, b"\x31\x04\0\x01tx");
    });
}

/// MQTT 5.0 [MQTT-3.3.1-12], [MQTT-3.3.1-13].
#[test]
fn retain_as_published_keeps_the_flag_of_what_is_forwarded() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (publisher, kept, cleared) = (scene.enter(b'p'), scene.enter(b'k'), scene.enter(b'c'));
        scene.subscribe(kept, "t", 0b1001);
        scene.subscribe(cleared, "t", 0b0001);
        retain(&mut scene, publisher, 1, "t", b"1");
        scene.publish(publisher, "t", b"2");
        retain(&mut scene, publisher, 0, "t", b"3");
        scene.expect(
            kept,
            b"\x33\x07\0\x01t\0\x01\x001\x32\x07\0\x01t\0\x02\x002\x31\x05\0\x01t\x003",
        );
        scene.expect(
            cleared,
            b"\x32\x07\0\x01t\0\x01\x001\x32\x07\0\x01t\0\x02\x002\x30\x05\0\x01t\x003",
        );
    });
}

/// MQTT 5.0 [MQTT-3.3.2-5], [MQTT-3.3.2-6].
#[test]
fn a_retained_message_expires_and_says_how_long_it_still_has() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let publisher = scene.enter(b'p');
        let publish = b"\x33\x0C\0\x01t\0\x09\x05\x02\0\0\0\x0Ax";
        scene.check(publisher, publish, &[0x40, 2, 0, 9]);
        scene.node.advance(Duration::from_secs(4));
        let subscriber = scene.enter(b's');
        let sent = b"\x33\x0C\0\x01t\0\x01\x05\x02\0\0\0\x06x";
        check_subscribe(&mut scene, subscriber, "t", 1, sent);
        scene.node.drop_connection(subscriber);
        scene.node.advance(Duration::from_secs(6));
        let subscriber = scene.enter(b's');
        check_subscribe(&mut scene, subscriber, "t", 1, &[]);
    });
}

/// MQTT 3.1.1 [MQTT-3.1.2-7].
#[test]
fn retained_messages_outlive_sessions_and_the_process() {
    everywhere(|mut scene| {
        for letter in [b'1', b'2', b'3'] {
            let publisher = scene.enter(letter);
            let topic = String::from_utf8(vec![b't', b'/', letter]).unwrap();
            retain(&mut scene, publisher, 1, &topic, b"x");
            scene.node.drop_connection(publisher);
        }
        if scene.node.settings.durability == Durability::Fsync {
            scene = scene.crash();
        }
        let subscriber = scene.enter(b's');
        scene.subscribe_loosely(subscriber, "t/+");
        let got = scene.take(subscriber);
        let one = scene.packet(0x33, b"\0\x03t/1\0\x01", b"x").len();
        let suback = scene.packet(0x90, &[0, 1], &[1]).len();
        let mut topics: Vec<u8> = got[suback..].chunks(one).map(|sent| sent[6]).collect();
        topics.sort_unstable();
        assert_eq!(topics, b"123");
    });
}

/// MQTT 5.0 [MQTT-4.4.0-1]; MQTT 3.1.1 [MQTT-4.4.0-1].
#[test]
fn a_retained_message_in_flight_goes_again_although_it_was_replaced() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        let (subscriber, _) = scene.enter_kept(b's');
        retain(&mut scene, publisher, 1, "t", b"old");
        let sent = scene.packet(0x33, &[0, 1, b't', 0, 1], b"old");
        check_subscribe(&mut scene, subscriber, "t", 1, &sent);
        scene.node.drop_connection(subscriber);
        retain(&mut scene, publisher, 1, "t", b"new");
        let subscriber = scene.come_back(b's');
        let again = scene.packet(0x3B, &[0, 1, b't', 0, 1], b"old");
        let live = scene.packet(0x32, &[0, 1, b't', 0, 2], b"new");
        scene.expect(subscriber, &[again, live].concat());
    });
}

/// MQTT 5.0 [MQTT-3.3.1-9]; MQTT 3.1.1 [MQTT-3.3.1-6], [MQTT-3.3.1-8].
#[test]
fn retained_messages_that_wait_for_room_outlive_the_connection_and_the_process() {
    let limits = Limits { inflight_max: 1, ..Limits::default() };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let publisher = scene.enter(b'p');
        let (subscriber, _) = scene.enter_kept(b's');
        for topic in ["t/a", "t/b", "t/c"] {
            retain(&mut scene, publisher, 1, topic, b"x");
        }
        scene.subscribe_loosely(subscriber, "t/+");
        let suback = scene.packet(0x90, &[0, 1], &[1]).len();
        let mut seen = vec![scene.take(subscriber)[suback + 6]];
        scene.check(subscriber, &[0xC0, 0], &[0xD0, 0]);
        scene.node.drop_connection(subscriber);
        if scene.node.settings.durability == Durability::Fsync {
            scene = scene.crash();
        }
        let subscriber = scene.come_back(b's');
        let topic = ["t/a", "t/b", "t/c"][usize::from(seen[0] - b'a')];
        let again = scene.delivery(0x3B, topic, 1, b"x");
        scene.expect(subscriber, &again);
        for id in [1, 2] {
            let next = scene.node.exchange(subscriber, &[0x40, 2, 0, id]);
            assert_eq!((next[0], next[8]), (0x33, id + 1));
            seen.push(next[6]);
        }
        scene.check(subscriber, &[0x40, 2, 0, 3], &[]);
        seen.sort_unstable();
        assert_eq!(seen, b"abc");
    });
}

/// MQTT 5.0 [MQTT-4.4.0-1]; MQTT 3.1.1 [MQTT-4.4.0-1]: one retained message in flight twice, and
/// another message beside it whose content has to be read from the log.
#[test]
fn a_retained_message_in_flight_for_two_filters_goes_again_twice() {
    everywhere(|mut scene| {
        if scene.node.settings.durability == Durability::Memory {
            return;
        }
        let publisher = scene.enter(b'p');
        let (subscriber, _) = scene.enter_kept(b's');
        retain(&mut scene, publisher, 1, "t", b"x");
        let first = scene.packet(0x33, &[0, 1, b't', 0, 1], b"x");
        check_subscribe(&mut scene, subscriber, "t", 1, &first);
        let second = scene.packet(0x33, &[0, 1, b't', 0, 2], b"x");
        check_subscribe(&mut scene, subscriber, "#", 1, &second);
        scene.publish(publisher, "u", b"y");
        scene.take(subscriber);
        scene.node.drop_connection(subscriber);
        let mut scene = scene.crash();
        let subscriber = scene.come_back(b's');
        let expected = [
            scene.packet(0x3B, &[0, 1, b't', 0, 1], b"x"),
            scene.packet(0x3B, &[0, 1, b't', 0, 2], b"x"),
            scene.packet(0x3A, &[0, 1, b'u', 0, 3], b"y"),
        ];
        scene.expect(subscriber, &expected.concat());
    });
}

/// An idle session costs no more for having asked for retained messages, or for having had some.
#[test]
fn a_session_that_has_them_all_holds_nothing() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        let retained = scene.packet(0x33, &[0, 1, b't', 0, 7], b"x");
        scene.check(publisher, &retained, &[0x40, 2, 0, 7]);
        let (subscriber, none) = (scene.enter(b's'), scene.enter_kept(b'n').0);
        scene.subscribe(none, "u", 1);
        scene.subscribe_loosely(subscriber, "t");
        scene.take(subscriber);
        scene.check(subscriber, &[0x40, 2, 0, 1], &[]);
        scene.node.advance(Duration::from_secs(5));
        let shards = 0..usize::from(scene.node.settings.shards);
        let held = shards.map(|shard| scene.node.shard(shard).state().outbound_count());
        let settings = &scene.node.settings;
        let case = (scene.speaks, settings.shards, settings.durability);
        assert_eq!(held.sum::<usize>(), 0, "{case:?}");
    });
}
