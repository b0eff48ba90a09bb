//! The exchanges of QoS 1 and 2, step by step, and the acknowledgements that fit none.

use super::scene::{BOTH, Scene, Speaks, everywhere};
use std::time::Duration;

/// MQTT 5.0 [MQTT-4.3.2-4], [MQTT-4.3.2-5], [MQTT-3.3.4-1]; MQTT 3.1.1 [MQTT-4.3.2-2],
/// [MQTT-3.3.4-1].
#[test]
fn qos1_is_acknowledged_and_its_packet_id_is_then_a_new_message_whatever_dup_says() {
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        scene.subscribe(subscriber, "t", 1);
        for (first, id) in [(0x32, 1), (0x3A, 2), (0x32, 3)] {
            let publish = scene.packet(first, &[0, 1, b't', 0, 9], b"x");
            scene.check(publisher, &publish, &[0x40, 2, 0, 9]);
            let delivered = scene.packet(0x32, &[0, 1, b't', 0, id], b"x");
            scene.expect(subscriber, &delivered);
        }
    });
}

/// MQTT 5.0 [MQTT-4.3.2-1], [MQTT-4.3.2-2], [MQTT-4.3.2-3]; MQTT 3.1.1 [MQTT-4.3.2-1].
#[test]
fn qos1_goes_out_with_an_unused_packet_id_and_is_unacknowledged_until_puback() {
    everywhere(|mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 1);
        for id in [1, 2, 3] {
            scene.publish(publisher, "t", b"x");
            let delivered = scene.packet(0x32, &[0, 1, b't', 0, id], b"x");
            scene.expect(subscriber, &delivered);
        }
        scene.check(subscriber, &[0x40, 2, 0, 2], &[]);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        let first = scene.packet(0x3A, &[0, 1, b't', 0, 1], b"x");
        let third = scene.packet(0x3A, &[0, 1, b't', 0, 3], b"x");
        scene.expect(subscriber, &[first, third].concat());
        scene.check(subscriber, &[0x40, 2, 0, 1, 0x40, 2, 0, 3], &[]);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &[]);
    });
}

/// MQTT 5.0 [MQTT-4.3.3-8], [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12]; MQTT 3.1.1
/// [MQTT-4.3.3-2].
#[test]
fn qos2_is_taken_once_until_pubrel_and_its_packet_id_is_then_a_new_message() {
    everywhere(|mut scene| {
        let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
        scene.subscribe(subscriber, "t", 0);
        let delivered = scene.packet(0x30, &[0, 1, b't'], b"x");
        for _ in 0..2 {
            let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"x");
            let again = scene.packet(0x3C, &[0, 1, b't', 0, 9], b"x");
            scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
            scene.check(publisher, &again, &[0x50, 2, 0, 9]);
            scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
            scene.expect(subscriber, &delivered);
            scene.check(publisher, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
            let unknown = scene.either(&[0x70, 2, 0, 9], &[0x70, 3, 0, 9, 0x92]).to_vec();
            scene.check(publisher, &[0x62, 2, 0, 9], &unknown);
            scene.expect(subscriber, &[]);
        }
    });
}

/// MQTT 5.0 [MQTT-4.3.3-10]; MQTT 3.1.1 [MQTT-4.3.3-2].
#[test]
fn an_open_qos2_exchange_outlives_the_connection_and_the_process() {
    everywhere(|mut scene| {
        let subscriber = scene.enter(b's');
        let (publisher, _) = scene.enter_kept(b'p');
        scene.subscribe(subscriber, "t", 0);
        let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"x");
        let again = scene.packet(0x3C, &[0, 1, b't', 0, 9], b"x");
        scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
        let delivered = scene.packet(0x30, &[0, 1, b't'], b"x");
        scene.expect(subscriber, &delivered);
        scene.node.drop_connection(publisher);
        let publisher = scene.come_back(b'p');
        scene.check(publisher, &again, &[0x50, 2, 0, 9]);
        scene.expect(subscriber, &[]);
        if scene.node.settings.durability == gateway::upstream::embedded::log::Durability::Memory {
            return;
        }
        let mut scene = scene.crash();
        let subscriber = scene.enter(b's');
        scene.subscribe(subscriber, "t", 0);
        let publisher = scene.come_back(b'p');
        scene.check(publisher, &again, &[0x50, 2, 0, 9]);
        scene.check(publisher, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        scene.expect(subscriber, &[]);
    });
}

/// MQTT 5.0 [MQTT-4.3.3-1], [MQTT-4.3.3-2], [MQTT-4.3.3-3], [MQTT-4.3.3-4], [MQTT-4.3.3-5],
/// [MQTT-4.3.3-6]; MQTT 3.1.1 [MQTT-4.3.3-1].
#[test]
fn qos2_goes_out_until_pubrec_then_pubrel_until_pubcomp_and_never_publish_again() {
    everywhere(|mut scene| {
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"x");
        scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
        let delivered = scene.packet(0x34, &[0, 1, b't', 0, 1], b"x");
        scene.expect(subscriber, &delivered);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        let again = scene.packet(0x3C, &[0, 1, b't', 0, 1], b"x");
        scene.expect(subscriber, &again);
        scene.check(subscriber, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
        scene.check(subscriber, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &[0x62, 2, 0, 1]);
        scene.check(publisher, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
        let second = scene.packet(0x34, &[0, 1, b't', 0, 2], b"x");
        scene.expect(subscriber, &second);
        scene.check(subscriber, &[0x70, 2, 0, 1], &[]);
        scene.check(subscriber, &[0x70, 2, 0, 1], &[]);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        let second_again = scene.packet(0x3C, &[0, 1, b't', 0, 2], b"x");
        scene.expect(subscriber, &second_again);
    });
}

/// MQTT 5.0 [MQTT-4.4.0-2], [MQTT-4.3.3-4].
#[test]
fn a_refusal_in_puback_or_pubrec_ends_the_exchange() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        scene.publish(publisher, "t", b"1");
        scene.check(publisher, b"\x34\x07\0\x01t\0\x09\x002", &[0x50, 2, 0, 9]);
        scene.expect(subscriber, b"\x32\x07\0\x01t\0\x01\x001\x34\x07\0\x01t\0\x02\x002");
        scene.check(subscriber, &[0x40, 3, 0, 1, 0x80], &[]);
        scene.check(subscriber, &[0x50, 3, 0, 2, 0x97], &[]);
        scene.node.drop_connection(subscriber);
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, &[]);
    });
}

/// MQTT 5.0 §3.4.2.1, §3.5.2.1, §3.6.2.1 and §3.7.2.1: 0x92 where the packet has room for it.
#[test]
fn acknowledgements_of_unknown_packet_ids_do_no_harm() {
    for speaks in BOTH {
        let mut scene = Scene::new(speaks);
        let client = scene.enter(b'c');
        scene.check(client, &[0x40, 2, 0, 5], &[]);
        scene.check(client, &[0x70, 2, 0, 5], &[]);
        let pubrel = scene.either(&[0x62, 2, 0, 5], &[0x62, 3, 0, 5, 0x92]).to_vec();
        scene.check(client, &[0x50, 2, 0, 5], &pubrel);
        let pubcomp = scene.either(&[0x70, 2, 0, 5], &[0x70, 3, 0, 5, 0x92]).to_vec();
        scene.check(client, &[0x62, 2, 0, 5], &pubcomp);
        scene.check(client, &[0xC0, 0], &[0xD0, 0]);
    }
}

/// MQTT 5.0 §4.13.1; MQTT 3.1.1 §4.8: an acknowledgement of another QoS, or of a step not reached.
#[test]
fn acknowledgements_that_do_not_fit_their_exchange_close_the_connection() {
    let cases: [(u8, &[u8]); 4] = [
        (1, &[0x50, 2, 0, 1]),
        (1, &[0x70, 2, 0, 1]),
        (2, &[0x40, 2, 0, 1]),
        (2, &[0x70, 2, 0, 1]),
    ];
    for speaks in BOTH {
        for (qos, ack) in cases {
            let mut scene = Scene::new(speaks);
            let (subscriber, publisher) = (scene.enter(b's'), scene.enter(b'p'));
            scene.subscribe(subscriber, "t", qos);
            let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"x");
            scene.check(publisher, &publish, &[0x50, 2, 0, 9]);
            let delivered = scene.packet(0x30 | qos << 1, &[0, 1, b't', 0, 1], b"x");
            scene.expect(subscriber, &delivered);
            scene.check_closed(subscriber, ack, 0x82);
        }
    }
}

/// MQTT 5.0 [MQTT-4.3.3-7].
#[test]
fn a_message_that_was_sent_does_not_expire() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        let publish = b"\x34\x0C\0\x01t\0\x09\x05\x02\0\0\0\x0Ax";
        scene.check(publisher, publish, &[0x50, 2, 0, 9]);
        scene.expect(subscriber, b"\x34\x0C\0\x01t\0\x01\x05\x02\0\0\0\x0Ax");
        scene.node.drop_connection(subscriber);
        scene.node.advance(Duration::from_secs(60));
        let subscriber = scene.come_back(b's');
        scene.expect(subscriber, b"\x3C\x0C\0\x01t\0\x01\x05\x02\0\0\0\0x");
        scene.check(subscriber, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
    });
}

/// MQTT 5.0 [MQTT-4.3.3-13].
#[test]
fn the_exchange_goes_on_although_the_message_expired() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        let (publisher, _) = scene.enter_kept(b'p');
        let publish = b"\x34\x0C\0\x01t\0\x09\x05\x02\0\0\0\x01x";
        scene.check(publisher, publish, &[0x50, 2, 0, 9]);
        scene.node.advance(Duration::from_secs(60));
        let again = b"\x3C\x0C\0\x01t\0\x09\x05\x02\0\0\0\x01x";
        scene.check(publisher, again, &[0x50, 2, 0, 9]);
        scene.check(publisher, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
    });
}
