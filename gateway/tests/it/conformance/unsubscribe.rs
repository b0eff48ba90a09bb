//! UNSUBSCRIBE, UNSUBACK and what is left of a subscription.

use super::scene::{Speaks, everywhere, everywhere_with};
use crate::sim::SimSettings;
use gateway::proto::limits::Limits;

/// MQTT 5.0 [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6],
/// [MQTT-3.11.3-1], [MQTT-3.11.3-2]; MQTT 3.1.1 [MQTT-3.10.4-1], [MQTT-3.10.4-2],
/// [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6].
#[test]
fn exactly_the_filters_named_end_and_each_has_its_code() {
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        for filter in ["a/b", "a/+", "c", "$d"] {
            scene.subscribe(subscriber, filter, 1);
        }
        let filters = b"\0\x03a/B\0\x01c\0\x01#\0\x02$d";
        let unsubscribe = scene.packet(0xA2, &[0x12, 0x34], filters);
        let unsuback: &[u8] = match scene.speaks {
            Speaks::V311 => &[0xB0, 2, 0x12, 0x34],
            Speaks::V5 => &[0xB0, 7, 0x12, 0x34, 0, 0x11, 0, 0x11, 0],
        };
        scene.check(subscriber, &unsubscribe, unsuback);
        scene.publish(publisher, "c", b"x");
        scene.publish(publisher, "$d", b"x");
        scene.expect(subscriber, &[]);
        scene.publish(publisher, "a/b", b"x");
        let delivered = scene.delivery(0x32, "a/b", 1, b"x");
        scene.expect(subscriber, &delivered);
        let again = scene.packet(0xA2, &[0, 1], b"\0\x01c");
        let none = scene.either(&[0xB0, 2, 0, 1], &[0xB0, 4, 0, 1, 0, 0x11]).to_vec();
        scene.check(subscriber, &again, &none);
    });
}

/// MQTT 5.0 [MQTT-3.10.4-3]; MQTT 3.1.1 [MQTT-3.10.4-3].
#[test]
fn deliveries_that_had_started_are_completed() {
    everywhere(|mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        scene.publish(publisher, "t", b"1");
        let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"2");
        scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
        scene.take(subscriber);
        let unsubscribe = scene.packet(0xA2, &[0, 1], b"\0\x01t");
        let unsuback = scene.either(&[0xB0, 2, 0, 1], &[0xB0, 4, 0, 1, 0, 0]).to_vec();
        scene.check(subscriber, &unsubscribe, &unsuback);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        let first = scene.packet(0x3A, &[0, 1, b't', 0, 1], b"1");
        let second = scene.packet(0x3C, &[0, 1, b't', 0, 2], b"2");
        scene.expect(subscriber, &[first, second].concat());
        scene.check(subscriber, &[0x50, 2, 0, 2], &[0x62, 2, 0, 2]);
        scene.check(subscriber, &[0x40, 2, 0, 1, 0x70, 2, 0, 2], &[]);
    });
}

/// MQTT 5.0 [MQTT-3.10.4-2]; MQTT 3.1.1 [MQTT-3.10.4-2]: the same filter anew is a new subscription.
#[test]
fn what_was_published_between_two_subscriptions_belongs_to_neither() {
    let limits = Limits { inflight_max: 1, pending_max: 2, ..Limits::default() };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        for filters in [1, 12] {
            let (subscriber, _) = scene.enter_kept(b's');
            let publisher = scene.enter(b'p');
            scene.subscribe(subscriber, "t", 1);
            for place in 1..filters {
                scene.subscribe(subscriber, &format!("unused/{place}"), 1);
            }
            for payload in [b"1", b"2", b"3", b"4", b"5"] {
                scene.publish(publisher, "t", payload);
                scene.publish(publisher, "later", payload);
            }
            let mut payloads = vec![*scene.take(subscriber).last().unwrap()];
            scene.subscribe(subscriber, "later", 1);
            scene.publish(publisher, "later", b"6");
            scene.node.send(subscriber, &[0x40, 2, 0, 1]);
            for _ in 0..20 {
                let got = scene.take(subscriber);
                let Some(last) = got.last() else { break };
                payloads.push(*last);
                let at = usize::from(got[3]) + 4;
                scene.node.send(subscriber, &[0x40, 2, got[at], got[at + 1]]);
            }
            assert_eq!(payloads, b"123456", "{filters} filters");
            scene.node.drop_connection(publisher);
            scene.node.drop_connection(subscriber);
            let (client, _) = scene.connect(b's', true, &[]);
            scene.node.drop_connection(client);
        }
    });
}
