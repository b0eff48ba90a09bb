//! Order, loss and duplicates when clients are slow, away, or many.

use super::scene::{Scene, everywhere_with};
use crate::sim::{SimClient, SimSettings};
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::Durability;
use std::time::Duration;

/// A window of two messages, notes for four: everything else has to come from the log.
fn narrow() -> SimSettings {
    let limits = Limits { inflight_max: 2, pending_max: 4, ..Limits::default() };
    SimSettings { limits, ..SimSettings::default() }
}

/// Splits what a client got into PUBLISH packets: first byte, packet id, payload.
fn deliveries(scene: &Scene, mut got: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
    let properties = scene.either(&[], &[0]).len();
    let mut all = Vec::new();
    while let [first, length, rest @ ..] = got {
        let (body, next) = rest.split_at(usize::from(*length));
        let topic = usize::from(body[1]) + 2;
        let id = u16::from_be_bytes([body[topic], body[topic + 1]]);
        all.push((*first, id, body[topic + 2 + properties..].to_vec()));
        got = next;
    }
    all
}

/// Acknowledges whatever comes, until nothing does; returns the payloads as they came.
fn drain(scene: &mut Scene, client: SimClient, window: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    loop {
        let got = scene.take(client);
        if got.is_empty() {
            return payloads;
        }
        let all = deliveries(scene, &got);
        assert!(all.len() <= window, "{} in flight", all.len());
        for (first, id, payload) in all {
            assert_eq!(first, 0x32);
            payloads.push(String::from_utf8(payload).unwrap());
            let [high, low] = id.to_be_bytes();
            scene.node.send(client, &[0x40, 2, high, low]);
        }
        assert!(payloads.len() < 10_000, "it never ends");
    }
}

/// MQTT 5.0 [MQTT-4.6.0-5], [MQTT-4.6.0-6], [MQTT-4.5.0-1]; MQTT 3.1.1 [MQTT-4.6.0-5],
/// [MQTT-4.6.0-6], [MQTT-4.5.0-1].
#[test]
fn each_publisher_keeps_its_order_however_narrow_the_window() {
    everywhere_with(narrow(), |mut scene| {
        let subscriber = scene.enter(b's');
        let publishers = [b'1', b'2', b'3'].map(|letter| scene.enter(letter));
        scene.subscribe(subscriber, "t/+", 1);
        for count in 0..20 {
            for (place, publisher) in publishers.into_iter().enumerate() {
                let payload = format!("{place}-{count:03}");
                scene.publish(publisher, "t/a", payload.as_bytes());
            }
        }
        check_order(&drain(&mut scene, subscriber, 2), 20);
    });
}

/// MQTT 5.0 [MQTT-4.6.0-5], [MQTT-4.6.0-6]; MQTT 3.1.1 [MQTT-4.6.0-5], [MQTT-4.6.0-6].
#[test]
fn what_was_missed_and_what_comes_meanwhile_is_one_order() {
    everywhere_with(narrow(), |mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publishers = [b'1', b'2', b'3'].map(|letter| scene.enter(letter));
        scene.subscribe(subscriber, "t/+", 1);
        scene.node.drop_connection(subscriber);
        let publish = |scene: &mut Scene, counts: std::ops::Range<u32>| {
            for count in counts {
                for (place, publisher) in publishers.into_iter().enumerate() {
                    let payload = format!("{place}-{count:03}");
                    scene.publish(publisher, "t/a", payload.as_bytes());
                }
            }
        };
        publish(&mut scene, 0..20);
        let subscriber = scene.come_back(b's');
        publish(&mut scene, 20..30);
        scene.node.advance(Duration::from_secs(10));
        check_order(&drain(&mut scene, subscriber, 2), 30);
        // Nothing is left, and it is live again.
        scene.node.advance(Duration::from_secs(10));
        scene.publish(publishers[0], "t/a", b"live");
        assert_eq!(drain(&mut scene, subscriber, 2), ["live"]);
    });
}

/// MQTT 5.0 §4.9: QoS 0 is under no quota, so what a client does not read of it is dropped.
#[test]
fn qos0_for_a_client_that_does_not_read_takes_no_more_than_its_room() {
    let limits = Limits { client_write_bytes_max: 256, ..Limits::default() };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'1'));
        scene.subscribe(subscriber, "t", 0);
        scene.node.stall(subscriber, true);
        let mut all = Vec::new();
        for count in 0..100 {
            let publish = scene.packet(0x30, &[0, 1, b't'], &[count; 50]);
            scene.check(publisher, &publish, &[]);
            all.extend(publish);
        }
        scene.node.stall(subscriber, false);
        let got = scene.take(subscriber);
        let one = all.len() / 100;
        assert!((256..256 + one).contains(&got.len()), "{} bytes", got.len());
        assert_eq!(got, all[..got.len()]);
    });
}

/// The log of one shard is slow to read; meanwhile the others are read to their end and get more.
///
/// MQTT 5.0 [MQTT-4.6.0-5], [MQTT-4.5.0-1]; MQTT 3.1.1 [MQTT-4.6.0-6], [MQTT-4.5.0-1].
#[test]
fn what_comes_while_one_log_is_slow_is_neither_lost_nor_repeated() {
    for slow in 0..3 {
        let limits = Limits { inflight_max: 100, ..Limits::default() };
        everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
            if scene.node.settings.durability == Durability::Memory {
                return;
            }
            let (subscriber, _) = scene.enter_kept(b's');
            scene.subscribe(subscriber, "t", 1);
            scene.node.drop_connection(subscriber);
            for place in 0..6 {
                let publisher = scene.enter(b'1' + place);
                scene.publish(publisher, "t", format!("{place}-000").as_bytes());
            }
            let mut scene = scene.crash();
            let publishers = [0, 1, 2, 3, 4, 5].map(|place| scene.enter(b'1' + place));
            scene.node.holds_io = true;
            let subscriber = scene.come_back(b's');
            perform_all_but(&mut scene, slow);
            for (place, publisher) in publishers.into_iter().enumerate() {
                let payload = format!("{place}-001");
                let publish = scene.packet(0x32, b"\0\x01t\0\x07", payload.as_bytes());
                scene.node.send(publisher, &publish);
            }
            perform_all_but(&mut scene, slow);
            while scene.node.perform_one() {}
            let got = scene.take(subscriber);
            let all = deliveries(&scene, &got);
            let mut payloads: Vec<String> = Vec::new();
            for (_, _, payload) in all {
                payloads.push(String::from_utf8(payload).unwrap());
            }
            // A stable sort by publisher leaves each one's order.
            payloads.sort_by_key(|text| text.as_bytes()[0]);
            let expected: Vec<String> =
                (0..12).map(|count| format!("{}-{:03}", count / 2, count % 2)).collect();
            assert_eq!(payloads, expected, "shard {slow} is slow");
        });
    }
}

/// Performs file operations until only those of shard `slow` are left.
fn perform_all_but(scene: &mut Scene, slow: usize) {
    while let Some(place) = scene.node.pending_io.iter().position(|(shard, ..)| *shard != slow) {
        let next = scene.node.pending_io.remove(place).unwrap();
        scene.node.pending_io.push_front(next);
        scene.node.perform_one();
    }
}

/// A client that reads nothing: what waits for it is bounded, and it misses nothing.
///
/// MQTT 5.0 [MQTT-4.6.0-6], [MQTT-4.5.0-1]; MQTT 3.1.1 [MQTT-4.6.0-6], [MQTT-4.5.0-1].
#[test]
fn a_client_that_does_not_read_catches_up_without_loss() {
    let limits = Limits {
        client_write_bytes_max: 256,
        inflight_max: 100,
        pending_max: 4,
        ..Limits::default()
    };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'1'));
        scene.subscribe(subscriber, "t", 1);
        scene.node.stall(subscriber, true);
        for count in 0..100 {
            let payload = format!("0-{count:03}{}", "x".repeat(50));
            scene.publish(publisher, "t", payload.as_bytes());
        }
        assert_eq!(scene.take(subscriber), b"");
        scene.node.stall(subscriber, false);
        let payloads = drain(&mut scene, subscriber, 100);
        let expected: Vec<String> =
            (0..100).map(|count| format!("0-{count:03}{}", "x".repeat(50))).collect();
        assert_eq!(payloads, expected);
    });
}

/// Publishers live on different shards, each with its own log.
///
/// MQTT 5.0 §4.6; MQTT 3.1.1 §4.6: no more is demanded than order for each publisher.
#[test]
fn what_was_missed_comes_in_the_order_of_time_whoever_published_it() {
    everywhere_with(narrow(), |mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publishers = [b'1', b'2', b'3', b'4', b'5'].map(|letter| scene.enter(letter));
        scene.subscribe(subscriber, "t", 1);
        scene.node.drop_connection(subscriber);
        let mut expected = Vec::new();
        for count in 0..60 {
            // Not in turns: one publisher is busy, another says little.
            let publisher = publishers[count * count % 7 % publishers.len()];
            let payload = format!("{count:03}");
            scene.publish(publisher, "t", payload.as_bytes());
            scene.node.advance(Duration::from_millis(5));
            expected.push(payload);
        }
        let subscriber = scene.come_back(b's');
        assert_eq!(drain(&mut scene, subscriber, 2), expected);
    });
}

/// All of three publishers' messages are there once, each publisher's in order.
#[track_caller]
fn check_order(payloads: &[String], count: usize) {
    for place in 0..3 {
        let prefix = format!("{place}-");
        let own: Vec<&String> = payloads.iter().filter(|text| text.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..count).map(|count| format!("{prefix}{count:03}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
    assert_eq!(payloads.len(), 3 * count);
}
