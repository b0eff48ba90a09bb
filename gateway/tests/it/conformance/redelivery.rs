//! What a client finds when it comes back.

use super::scene::{everywhere, everywhere_with};
use crate::sim::SimSettings;
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::Durability;
use std::time::Duration;

/// MQTT 5.0 [MQTT-4.4.0-1], [MQTT-3.3.1-1]; MQTT 3.1.1 [MQTT-4.4.0-1], [MQTT-3.3.1-1].
#[test]
fn on_resuming_everything_unacknowledged_goes_again_in_order_and_at_no_other_time() {
    everywhere(|mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        for (qos, payload) in [(2, b"1"), (1, b"2"), (2, b"3"), (1, b"4"), (2, b"5")] {
            let publish = scene.packet(0x30 | qos << 1, &[0, 1, b't', 0, 9], payload);
            scene.node.send(publisher, &publish);
            scene.node.send(publisher, &[0x62, 2, 0, 9]);
        }
        scene.take(subscriber);
        scene.check(subscriber, &[0x40, 2, 0, 2], &[]);
        scene.check(subscriber, &[0x50, 2, 0, 3], &[0x62, 2, 0, 3]);
        scene.node.advance(Duration::from_secs(3_600));
        scene.expect(subscriber, &[]);
        let expected = [
            scene.packet(0x3C, &[0, 1, b't', 0, 1], b"1"),
            vec![0x62, 2, 0, 3],
            scene.packet(0x3A, &[0, 1, b't', 0, 4], b"4"),
            scene.packet(0x3C, &[0, 1, b't', 0, 5], b"5"),
        ]
        .concat();
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &expected);
        scene.node.advance(Duration::from_secs(3_600));
        scene.expect(subscriber, &[]);
        // A second connection takes the session over: that is a resumption like another.
        let second = scene.come_back(b's');
        scene.expect(second, &expected);
    });
}

/// MQTT 5.0 [MQTT-4.4.0-1]; MQTT 3.1.1 [MQTT-4.4.0-1].
#[test]
fn what_was_unacknowledged_goes_again_after_a_crash() {
    everywhere(|mut scene| {
        if scene.node.settings.durability == Durability::Memory {
            return;
        }
        let (subscriber, _) = scene.enter_kept(b's');
        scene.subscribe(subscriber, "t", 2);
        // Publishers of several shards: each message is in another log than the one before.
        let publishers = [b'1', b'2', b'3', b'4', b'5'].map(|letter| scene.enter(letter));
        let mut expected = Vec::new();
        for (place, publisher) in (1..).zip(publishers) {
            scene.publish(publisher, "t", b"x");
            let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"y");
            scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
            expected.extend(scene.packet(0x3A, &[0, 1, b't', 0, 2 * place - 1], b"x"));
            expected.extend(scene.packet(0x3C, &[0, 1, b't', 0, 2 * place], b"y"));
        }
        scene.take(subscriber);
        scene.node.drop_connection(subscriber);
        let mut scene = scene.crash();
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &expected);
    });
}

/// The client is connected when the process dies, after more steps than are kept one by one.
///
/// MQTT 5.0 [MQTT-4.4.0-1], [MQTT-4.3.3-6]; MQTT 3.1.1 [MQTT-4.4.0-1], [MQTT-4.3.3-1].
#[test]
fn every_step_of_qos2_survives_a_crash() {
    for qos2_deltas_max in [2, 256] {
        let limits = Limits { qos2_deltas_max, ..Limits::default() };
        everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
            if scene.node.settings.durability == Durability::Memory {
                return;
            }
            let (subscriber, _) = scene.enter_kept(b's');
            let publisher = scene.enter(b'p');
            scene.subscribe(subscriber, "t", 2);
            for id in 1..=5 {
                let publish = scene.packet(0x34, &[0, 1, b't', 0, id], &[b'0' + id]);
                scene.check(publisher, &publish, &[0x50, 2, 0, id]);
            }
            scene.take(subscriber);
            scene.check(subscriber, &[0x50, 2, 0, 2], &[0x62, 2, 0, 2]);
            scene.check(subscriber, &[0x70, 2, 0, 2], &[]);
            scene.check(subscriber, &[0x50, 2, 0, 3], &[0x62, 2, 0, 3]);
            let mut scene = scene.crash();
            let subscriber = scene.come_back(b's');
            let expected = [
                scene.packet(0x3C, &[0, 1, b't', 0, 1], b"1"),
                vec![0x62, 2, 0, 3],
                scene.packet(0x3C, &[0, 1, b't', 0, 4], b"4"),
                scene.packet(0x3C, &[0, 1, b't', 0, 5], b"5"),
            ];
            scene.expect(subscriber, &expected.concat());
            scene.node.advance(Duration::from_secs(60));
            scene.expect(subscriber, &[]);
        });
    }
}

/// The contents of messages in flight are being read when another connection takes over.
///
/// MQTT 5.0 [MQTT-4.4.0-1]; MQTT 3.1.1 [MQTT-4.4.0-1].
#[test]
fn a_takeover_while_messages_are_read_back_resumes_like_another() {
    everywhere(|mut scene| {
        if scene.node.settings.durability == Durability::Memory {
            return;
        }
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"1");
        scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
        scene.publish(publisher, "t", b"2");
        scene.check(publisher, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        scene.take(subscriber);
        scene.check(subscriber, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
        scene.node.drop_connection(subscriber);
        let mut scene = scene.crash();
        scene.node.holds_io = true;
        let first = scene.come_back(b's');
        let second = scene.come_back(b's');
        assert!(scene.node.is_closed(first));
        while scene.node.perform_one() {}
        let again = scene.packet(0x3A, &[0, 1, b't', 0, 2], b"2");
        scene.expect(second, &[&[0x62, 2, 0, 1], again.as_slice()].concat());
    });
}

/// MQTT 5.0 [MQTT-4.5.0-1], [MQTT-3.1.2-5]; MQTT 3.1.1 [MQTT-4.5.0-1], [MQTT-3.1.2-5].
#[test]
fn messages_published_while_a_client_is_away_wait_for_it_in_order() {
    everywhere(|mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t/#", 1);
        scene.publish(publisher, "t/1", b"0");
        let delivered = scene.delivery(0x32, "t/1", 1, b"0");
        scene.expect(subscriber, &delivered);
        scene.check(subscriber, &[0x40, 2, 0, 1], &[]);
        scene.node.drop_connection(subscriber);
        let mut expected = Vec::new();
        for (id, topic) in [(2, "t/1"), (3, "t/2"), (4, "t/1"), (5, "t")] {
            scene.publish(publisher, topic, topic.as_bytes());
            scene.publish(publisher, "other", b"x");
            expected.extend(scene.delivery(0x32, topic, id, topic.as_bytes()));
        }
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &expected);
    });
}
