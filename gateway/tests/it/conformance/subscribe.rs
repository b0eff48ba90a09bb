//! SUBSCRIBE, SUBACK and what a subscription then brings.

use super::scene::{BOTH, Scene, Speaks, everywhere, everywhere_with};
use crate::packets::{framed, sized};
use crate::sim::SimSettings;
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::Durability;

/// MQTT 5.0 [MQTT-3.8.4-1], [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1],
/// [MQTT-3.9.3-2]; MQTT 3.1.1 [MQTT-3.8.4-1], [MQTT-3.8.4-4], [MQTT-3.8.4-5], [MQTT-3.9.3-1],
/// [MQTT-3.9.3-2].
#[test]
fn suback_has_a_code_for_each_filter_in_their_order() {
    everywhere(|mut scene| {
        let client = scene.enter(b'c');
        let filters = b"\0\x01a\x02\0\x02a#\x02\0\x01b\x00\0\x03+/x\x01\0\x00\x01\0\x03a+b\x01";
        let subscribe = scene.packet(0x82, &[0x12, 0x34], filters);
        if scene.speaks == Speaks::V311 {
            let suback = [0x90, 8, 0x12, 0x34, 2, 0x80, 0, 1, 0x80, 0x80];
            scene.check(client, &subscribe, &suback);
        } else {
            let suback = [0x90, 9, 0x12, 0x34, 0, 2, 0x8F, 0, 1, 0x8F, 0x8F];
            scene.check(client, &subscribe, &suback);
        }
        let publisher = scene.enter(b'p');
        scene.publish(publisher, "a", b"1");
        scene.publish(publisher, "b", b"2");
        scene.publish(publisher, "c/x", b"3");
        let zero = scene.packet(0x30, &[0, 1, b'b'], b"2");
        let expected =
            [scene.delivery(0x32, "a", 1, b"1"), zero, scene.delivery(0x32, "c/x", 2, b"3")];
        scene.expect(client, &expected.concat());
    });
}

/// MQTT 5.0 [MQTT-3.8.4-8]; MQTT 3.1.1 [MQTT-3.8.4-6].
#[test]
fn a_message_is_delivered_at_the_lower_of_its_qos_and_the_granted_one() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        for granted in 0..=2 {
            let subscriber = scene.enter(b's');
            scene.subscribe(subscriber, "t", granted);
            let mut id = 0;
            for published in 0..=2_u8 {
                let publish = match published {
                    0 => scene.packet(0x30, &[0, 1, b't'], b"x"),
                    _ => scene.packet(0x30 | published << 1, &[0, 1, b't', 0, 9], b"x"),
                };
                scene.node.exchange(publisher, &publish);
                scene.node.exchange(publisher, &[0x62, 2, 0, 9]);
                let qos = granted.min(published);
                let expected = if qos == 0 {
                    scene.packet(0x30, &[0, 1, b't'], b"x")
                } else {
                    id += 1;
                    scene.packet(0x30 | qos << 1, &[0, 1, b't', 0, id], b"x")
                };
                scene.expect(subscriber, &expected);
            }
            scene.node.drop_connection(subscriber);
        }
    });
}

/// MQTT 5.0 [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4]; MQTT 3.1.1 [MQTT-3.3.5-1].
#[test]
fn overlapping_subscriptions_bring_one_copy_with_the_highest_qos_and_all_identifiers() {
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        if scene.speaks == Speaks::V311 {
            let filters = b"\0\x03a/b\x00\0\x03a/+\x02\0\x03a/#\x01\0\x01#\x00";
            let subscribe = scene.packet(0x82, &[0, 1], filters);
            scene.check(subscriber, &subscribe, &[0x90, 6, 0, 1, 0, 2, 1, 0]);
            scene.check(publisher, b"\x34\x08\0\x03a/b\0\x09x", &[0x50, 2, 0, 9]);
            scene.expect(subscriber, b"\x34\x08\0\x03a/b\0\x01x");
            return;
        }
        // Identifiers 1, 200 (two bytes), none, 1 again.
        scene.check(subscriber, b"\x82\x0B\0\x01\x02\x0B\x01\0\x03a/b\x00", &[0x90, 4, 0, 1, 0, 0]);
        scene.check(
            subscriber,
            b"\x82\x0C\0\x02\x03\x0B\xC8\x01\0\x03a/+\x02",
            &[0x90, 4, 0, 2, 0, 2],
        );
        scene.check(subscriber, b"\x82\x09\0\x03\0\0\x03a/#\x01", &[0x90, 4, 0, 3, 0, 1]);
        scene.check(publisher, b"\x34\x09\0\x03a/b\0\x09\0x", &[0x50, 2, 0, 9]);
        let got = scene.take(subscriber);
        let orders: [&[u8]; 2] = [
            b"\x34\x0E\0\x03a/b\0\x01\x05\x0B\x01\x0B\xC8\x01x",
            b"\x34\x0E\0\x03a/b\0\x01\x05\x0B\xC8\x01\x0B\x01x",
        ];
        assert!(orders.contains(&got.as_slice()), "{got:02X?}");
    });
}

/// MQTT 5.0 [MQTT-3.8.4-3], [MQTT-3.8.4-4]; MQTT 3.1.1 [MQTT-3.8.4-3].
#[test]
fn the_same_filter_again_replaces_the_subscription_and_loses_nothing() {
    let limits = Limits { inflight_max: 1, ..Limits::default() };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        scene.subscribe(subscriber, "t", 1);
        scene.publish(publisher, "t", b"1");
        scene.publish(publisher, "t", b"2");
        let first = scene.delivery(0x32, "t", 1, b"1");
        scene.expect(subscriber, &first);
        scene.subscribe(subscriber, "t", 0);
        scene.publish(publisher, "t", b"3");
        let third = scene.packet(0x30, &[0, 1, b't'], b"3");
        scene.expect(subscriber, &third);
        // The second waited for room in the window; it goes out at the QoS granted now.
        let second = scene.packet(0x30, &[0, 1, b't'], b"2");
        scene.check(subscriber, &[0x40, 2, 0, 1], &second);
        scene.subscribe(subscriber, "t", 1);
        scene.publish(publisher, "t", b"4");
        let fourth = scene.delivery(0x32, "t", 2, b"4");
        scene.expect(subscriber, &fourth);
    });
}

/// MQTT 5.0 [MQTT-3.8.4-3] and §3.3.4: a new identifier, or none, comes with the replacement.
#[test]
fn a_replaced_subscription_has_the_new_identifier() {
    let mut scene = Scene::new(Speaks::V5);
    let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
    let cases: [(&[u8], &[u8]); 3] = [
        (b"\x82\x09\0\x01\x02\x0B\x05\0\x01t\0", b"\x30\x07\0\x01t\x02\x0B\x05x"),
        (b"\x82\x09\0\x01\x02\x0B\x06\0\x01t\0", b"\x30\x07\0\x01t\x02\x0B\x06x"),
        (b"\x82\x07\0\x01\0\0\x01t\0", b"\x30\x05\0\x01t\0x"),
    ];
    for (subscribe, delivered) in cases {
        scene.check(subscriber, subscribe, &[0x90, 4, 0, 1, 0, 0]);
        scene.check(publisher, b"\x30\x05\0\x01t\0x", &[]);
        scene.expect(subscriber, delivered);
    }
}

/// MQTT 5.0 [MQTT-3.8.3-3].
#[test]
fn with_no_local_own_messages_do_not_come_back() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (client, other) = (scene.enter(b'c'), scene.enter(b'o'));
        scene.subscribe(client, "t", 0b101);
        scene.subscribe(other, "t", 1);
        scene.publish(client, "t", b"1");
        let delivered = scene.delivery(0x32, "t", 1, b"1");
        scene.expect(other, &delivered);
        scene.expect(client, &[]);
        let second = scene.packet(0x30, &[0, 1, b't'], b"2");
        scene.check(other, &second, &second);
        scene.expect(client, &second);
        // An overlapping subscription without No Local brings them.
        scene.subscribe(client, "#", 0);
        scene.check(client, b"\x32\x07\0\x01t\0\x07\x003", b"\x40\x02\0\x07\x30\x05\0\x01t\x003");
    });
}

/// MQTT 5.0 §3.9.3, Reason Code 0x97; MQTT 3.1.1 §3.9.3, Return Code 0x80.
#[test]
fn a_session_has_no_more_subscriptions_than_it_may() {
    let limits = Limits { subscriptions_per_session_max: 2, ..Limits::default() };
    let settings = SimSettings { limits, ..SimSettings::default() };
    for speaks in BOTH {
        let mut scene = Scene::with(speaks, settings.clone());
        let (client, other) = (scene.enter(b'c'), scene.enter(b'o'));
        scene.subscribe(other, "c", 1);
        scene.subscribe(client, "a", 1);
        scene.subscribe(client, "b", 1);
        let refused = scene.either(&[0x80], &[0x97]).to_vec();
        for filter in ["c", "d"] {
            let subscribe = scene.packet(0x82, &[0, 1], &[sized(filter), vec![1]].concat());
            let suback = scene.packet(0x90, &[0, 1], &refused);
            scene.check(client, &subscribe, &suback);
        }
        scene.subscribe(client, "b", 2);
        let unsubscribe = scene.packet(0xA2, &[0, 2], b"\0\x01a");
        scene.node.exchange(client, &unsubscribe);
        scene.subscribe(client, "c", 1);
    }
}

/// MQTT 5.0 [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-3.9.3-2] and §3.9.3, Reason Code 0x80; MQTT 3.1.1
/// [MQTT-3.8.4-5], [MQTT-3.9.3-1], [MQTT-3.9.3-2], Return Code 0x80.
#[test]
fn a_refused_filter_is_a_failure_and_the_others_are_granted() {
    everywhere_with(refusing(&["#", "a/+"]), |mut scene| {
        let (client, publisher) = (scene.enter(b'c'), scene.enter(b'p'));
        let filters =
            b"\0\x01#\x02\0\x03a/b\x01\0\x03a/+\x00\0\x0A$share/g/#\x01\0\x0C$share/g/a/+\x01";
        let subscribe = scene.packet(0x82, &[0x12, 0x34], filters);
        if scene.speaks == Speaks::V311 {
            let suback = [0x90, 7, 0x12, 0x34, 0x80, 1, 0x80, 0x80, 0x80];
            scene.check(client, &subscribe, &suback);
        } else {
            let suback = [0x90, 8, 0x12, 0x34, 0, 0x80, 1, 0x80, 0x80, 0x80];
            scene.check(client, &subscribe, &suback);
        }
        scene.publish(publisher, "a/b", b"1");
        scene.publish(publisher, "a/c", b"2");
        let granted = scene.delivery(0x32, "a/b", 1, b"1");
        scene.expect(client, &granted);
    });
}

/// MQTT 5.0 §3.9.3, Reason Code 0x80; MQTT 3.1.1 §3.9.3, Return Code 0x80: only the very same filter
/// is refused, not another one that matches the same topics.
#[test]
fn filters_that_only_overlap_a_refused_one_are_granted() {
    everywhere_with(refusing(&["#"]), |mut scene| {
        let (client, publisher) = (scene.enter(b'c'), scene.enter(b'p'));
        let filters = b"\0\x03+/#\x01\0\x03a/#\x01\0\x0C$share/g/a/#\x01\0\x02/#\x01";
        let subscribe = scene.packet(0x82, &[0, 1], filters);
        let suback = scene.packet(0x90, &[0, 1], &[1, 1, 1, 1]);
        scene.check(client, &subscribe, &suback);
        scene.publish(publisher, "b", b"1");
        let delivered = scene.delivery(0x32, "b", 1, b"1");
        scene.expect(client, &delivered);
    });
}

/// MQTT 5.0 §3.9.3, Reason Code 0x80; MQTT 3.1.1 §3.9.3, Return Code 0x80: a session that was stored
/// before the filter was refused keeps its subscription, may not renew it and may end it.
#[test]
fn a_stored_subscription_stays_when_its_filter_is_refused_later() {
    for speaks in BOTH {
        let settings = SimSettings { durability: Durability::Fsync, ..SimSettings::default() };
        let mut scene = Scene::with(speaks, settings);
        let (client, _) = scene.enter_kept(b'c');
        scene.subscribe(client, "#", 1);
        scene.node.settings.limits.subscribe_refused = vec!["#".to_owned()];
        let mut scene = scene.crash();
        let client = scene.come_back(b'c');
        let publisher = scene.enter(b'p');
        let again = scene.packet(0x82, &[0, 1], b"\0\x01#\x00");
        let suback = scene.packet(0x90, &[0, 1], &[0x80]);
        scene.check(client, &again, &suback);
        scene.publish(publisher, "t", b"1");
        let delivered = scene.delivery(0x32, "t", 1, b"1");
        scene.expect(client, &delivered);
        let unsubscribe = scene.packet(0xA2, &[0, 2], b"\0\x01#");
        let unsuback = scene.packet(0xB0, &[0, 2], scene.either(&[], &[0]));
        scene.check(client, &unsubscribe, &unsuback);
        scene.publish(publisher, "t", b"2");
        scene.expect(client, &[]);
    }
}

/// A node on which nobody may subscribe to these.
fn refusing(filters: &[&str]) -> SimSettings {
    let subscribe_refused = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let limits = Limits { subscribe_refused, ..Limits::default() };
    SimSettings { limits, ..SimSettings::default() }
}

/// MQTT 5.0 [MQTT-3.8.3-2], [MQTT-3.8.3-5], [MQTT-2.2.1-2]; MQTT 3.1.1 [MQTT-3.8.3-3],
/// [MQTT-3.8.3-4], [MQTT-2.3.1-1].
#[test]
fn a_subscribe_that_is_none_closes_the_connection() {
    let cases: [(u8, &[u8], &[u8], u8); 6] = [
        (0x82, &[0, 1], &[], 0x82),
        (0x82, &[0, 0], &[0, 1, b'a', 0], 0x82),
        (0x82, &[0, 1], &[0, 1, b'a', 3], 0x82),
        (0x82, &[0, 1], &[0, 1, b'a', 0xC0], 0x81),
        (0x82, &[0, 1], &[0, 1, b'a'], 0x81),
        (0x80, &[0, 1], &[0, 1, b'a', 0], 0x81),
    ];
    for speaks in BOTH {
        for (first, head, tail, reason) in cases {
            let mut scene = Scene::new(speaks);
            let client = scene.enter(b'c');
            let subscribe = scene.packet(first, head, tail);
            scene.check_closed(client, &subscribe, reason);
        }
    }
    let mut scene = Scene::new(Speaks::V5);
    let client = scene.enter(b'c');
    let with_identifier_zero = framed(0x82, &[0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]);
    scene.check_closed(client, &with_identifier_zero, 0x82);
}

/// MQTT 5.0 §3.9.3, Reason Code 0x8F; MQTT 3.1.1 §3.9.3, Return Code 0x80: what is for applications behind
/// the gateway only cannot be subscribed to by itself, and does not come with anything else.
#[test]
fn topics_for_applications_only_are_no_clients() {
    let uplink = vec!["up/#".to_owned(), "+/meter".to_owned()];
    let limits = Limits { uplink, ..Limits::default() };
    for speaks in BOTH {
        let settings = SimSettings { limits: limits.clone(), shards: 1, ..SimSettings::default() };
        let mut scene = Scene::with(speaks, settings);
        let client = scene.enter(b'c');
        let publisher = scene.enter(b'p');
        let refused = if scene.speaks == Speaks::V5 { 0x8F } else { 0x80 };
        for filter in ["up", "up/1", "up/+/2", "x/meter", "$share/g/up/#"] {
            let tail = [&sized(filter)[..], &[0]].concat();
            let subscribe = scene.packet(0x82, &[0, 1], &tail);
            let suback = scene.packet(0x90, &[0, 1], &[refused]);
            scene.check(client, &subscribe, &suback);
        }
        scene.subscribe(client, "#", 0);
        for topic in ["up/1", "x/meter", "up"] {
            let publish = scene.packet(0x30, &sized(topic), b"no");
            scene.check(publisher, &publish, &[]);
        }
        let publish = scene.packet(0x30, &sized("upper/1"), b"yes");
        scene.check(publisher, &publish, &[]);
        scene.expect(client, &publish);
    }
}
