//! Receive Maximum of the client, and packet ids.

use super::scene::{BOTH, Scene, Speaks, everywhere, everywhere_with};
use crate::sim::SimSettings;
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::log::{Durability, LogLimits};

/// MQTT 5.0 [MQTT-4.9.0-1], [MQTT-4.9.0-2], [MQTT-4.9.0-3], [MQTT-3.3.4-9], [MQTT-3.3.4-10].
#[test]
fn no_more_is_in_flight_than_the_client_takes_and_everything_else_goes_on() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        // Receive Maximum 2.
        let (subscriber, _) = scene.connect(b's', true, &[0x21, 0, 2]);
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        scene.publish(publisher, "t", b"1");
        scene.check(publisher, b"\x34\x07\0\x01t\0\x09\x002", &[0x50, 2, 0, 9]);
        scene.publish(publisher, "t", b"3");
        scene.publish(publisher, "t", b"4");
        scene.expect(subscriber, b"\x32\x07\0\x01t\0\x01\x001\x34\x07\0\x01t\0\x02\x002");
        // At a quota of zero: PING, QoS 0, SUBSCRIBE, an inbound QoS 2 exchange.
        scene.check(subscriber, &[0xC0, 0], &[0xD0, 0]);
        scene.check(publisher, b"\x30\x05\0\x01t\x000", &[]);
        scene.expect(subscriber, b"\x30\x05\0\x01t\x000");
        scene.subscribe(subscriber, "u", 1);
        scene.check(subscriber, b"\x34\x07\0\x01x\0\x05\0!", &[0x50, 2, 0, 5]);
        scene.check(subscriber, &[0x62, 2, 0, 5], &[0x70, 2, 0, 5]);
        // PUBREC below 0x80 gives no place, PUBCOMP and PUBACK do.
        scene.check(subscriber, &[0x50, 2, 0, 2], &[0x62, 2, 0, 2]);
        scene.check(subscriber, &[0x70, 2, 0, 2], b"\x32\x07\0\x01t\0\x03\x003");
        scene.check(subscriber, &[0x40, 2, 0, 1], b"\x32\x07\0\x01t\0\x04\x004");
        scene.check(subscriber, &[0x40, 2, 0, 1], &[]);
    });
}

/// MQTT 5.0 [MQTT-4.9.0-1]: an unknown acknowledgement raises the quota no further.
#[test]
fn a_refusal_in_pubrec_gives_its_place_to_the_next() {
    let mut scene = Scene::new(Speaks::V5);
    let (subscriber, _) = scene.connect(b's', false, &[0x21, 0, 1]);
    let publisher = scene.enter(b'p');
    scene.subscribe(subscriber, "t", 2);
    for (id, payload) in [(1, b"1"), (2, b"2"), (3, b"3")] {
        let publish = scene.packet(0x34, &[0, 1, b't', 0, id], payload);
        scene.check(publisher, &publish, &[0x50, 2, 0, id]);
    }
    scene.expect(subscriber, b"\x34\x07\0\x01t\0\x01\x001");
    scene.check(subscriber, &[0x40, 2, 0, 77], &[]);
    scene.check(subscriber, &[0x50, 3, 0, 1, 0x80], b"\x34\x07\0\x01t\0\x02\x002");
}

/// A message that may not be sent to a client gives its place to the next.
///
/// MQTT 5.0 [MQTT-3.1.2-24], [MQTT-3.1.2-25].
#[test]
fn a_message_too_large_for_a_client_holds_nothing_up() {
    everywhere(|mut scene| {
        if scene.speaks == Speaks::V311 {
            return;
        }
        // Session Expiry Interval 60, Receive Maximum 1, Maximum Packet Size 20.
        let properties = [0x11, 0, 0, 0, 60, 0x21, 0, 1, 0x27, 0, 0, 0, 20];
        let (subscriber, _) = scene.connect(b's', true, &properties);
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 2);
        let large = scene.packet(0x34, &[0, 1, b't', 0, 1], &[b'x'; 20]);
        let small = scene.packet(0x34, &[0, 1, b't', 0, 2], b"x");
        scene.check(publisher, &[large, small].concat(), &[0x50, 2, 0, 1, 0x50, 2, 0, 2]);
        scene.expect(subscriber, b"\x34\x07\0\x01t\0\x02\0x");
    });
}

/// MQTT 5.0 [MQTT-3.1.2-24], [MQTT-3.1.2-25]: with and without room for topic aliases.
#[test]
fn a_message_of_exactly_the_maximum_packet_size_is_sent() {
    let cases: [&[u8]; 2] = [&[0x27, 0, 0, 0, 20], &[0x27, 0, 0, 0, 20, 0x22, 0, 10]];
    for properties in cases {
        let mut scene = Scene::new(Speaks::V5);
        let (subscriber, _) = scene.connect(b's', true, properties);
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 0);
        let fits = b"\x30\x12\0\x01t\0fourteen bytes";
        scene.check(publisher, fits, &[]);
        scene.check(publisher, b"\x30\x13\0\x01t\0fifteen bytes !", &[]);
        scene.expect(subscriber, fits);
    }
}

/// MQTT 5.0 [MQTT-2.2.1-4], [MQTT-4.3.2-1]; MQTT 3.1.1 [MQTT-2.3.1-4], [MQTT-4.3.2-1].
#[test]
fn packet_ids_go_round_past_zero_and_past_those_in_use() {
    for speaks in BOTH {
        let mut scene = Scene::new(speaks);
        let (mut subscriber, _) = scene.enter_kept(b's');
        let publisher = scene.enter(b'p');
        scene.subscribe(subscriber, "t", 1);
        let is_stuck = |id: u16| id == 5 || id == 9;
        for expected in 1..=65_535_u16 {
            check_next_id(&mut scene, publisher, subscriber, expected, !is_stuck(expected));
        }
        for expected in [1, 2, 3, 4, 6, 7] {
            check_next_id(&mut scene, publisher, subscriber, expected, true);
        }
        // The session forgets nothing of that on its way through the store.
        scene.node.drop_connection(subscriber);
        subscriber = scene.come_back(b's');
        let fifth = scene.delivery(0x3A, "t", 5, b"x");
        let ninth = scene.delivery(0x3A, "t", 9, b"x");
        scene.expect(subscriber, &[fifth, ninth].concat());
        for expected in [8, 10, 11] {
            check_next_id(&mut scene, publisher, subscriber, expected, true);
        }
    }
}

#[track_caller]
fn check_next_id(
    scene: &mut Scene,
    publisher: crate::sim::SimClient,
    subscriber: crate::sim::SimClient,
    expected: u16,
    acknowledge: bool,
) {
    scene.publish(publisher, "t", b"x");
    let delivered = scene.delivery(0x32, "t", expected, b"x");
    scene.expect(subscriber, &delivered);
    if acknowledge {
        let [high, low] = expected.to_be_bytes();
        scene.check(subscriber, &[0x40, 2, high, low], &[]);
    }
}

/// MQTT 5.0 §3.3.4: a client that exceeds our Receive Maximum is told so; before 5.0 it waits.
#[test]
fn more_than_our_receive_maximum_ends_a_5_0_connection_only() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    everywhere_with(SimSettings { limits, ..SimSettings::default() }, |mut scene| {
        let publisher = scene.enter(b'p');
        for id in [1, 2] {
            let publish = scene.packet(0x34, &[0, 1, b't', 0, id], b"x");
            scene.check(publisher, &publish, &[0x50, 2, 0, id]);
        }
        // An open exchange repeated is not a third.
        let again = scene.packet(0x3C, &[0, 1, b't', 0, 2], b"x");
        if scene.speaks == Speaks::V5 {
            scene.check(publisher, &again, &[0x50, 2, 0, 2]);
            let publish = scene.packet(0x34, &[0, 1, b't', 0, 3], b"x");
            scene.check_closed(publisher, &publish, 0x93);
        }
    });
}

/// MQTT 5.0 [MQTT-4.3.3-11]: a publisher that was held while the log was behind is read again, also
/// when all it may have unacknowledged waits for its own PUBREL.
#[test]
fn a_publisher_that_was_held_can_finish_what_it_began() {
    for speaks in BOTH {
        for shards in [1, 3] {
            let limits = Limits { receive_maximum: 1, ..Limits::default() };
            let log_limits = LogLimits { uncommitted_bytes_max: 1, ..LogLimits::default() };
            let durability = Durability::Fsync;
            let settings =
                SimSettings { limits, log_limits, durability, shards, ..SimSettings::default() };
            let mut scene = Scene::with(speaks, settings);
            let publisher = scene.enter(b'p');
            scene.node.holds_io = true;
            let publish = scene.packet(0x34, &[0, 1, b't', 0, 9], b"x");
            scene.check(publisher, &publish, &[]);
            scene.node.send(publisher, &[0xC0, 0]);
            while scene.node.perform_one() {}
            scene.expect(publisher, &[0x50, 2, 0, 9, 0xD0, 0]);
            scene.node.send(publisher, &[0x62, 2, 0, 9]);
            while scene.node.perform_one() {}
            scene.expect(publisher, &[0x70, 2, 0, 9]);
        }
    }
}
