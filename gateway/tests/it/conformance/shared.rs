//! Shared subscriptions: one member gets each message, and keeps it if it began at QoS 2.
//!
//! The group `g/t` and its members are spread over the shards of a scene by their names.

use super::scene::{Scene, everywhere, everywhere_with};
use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimSettings};
use gateway::proto::limits::Limits;
use gateway::upstream::embedded::groups::GroupLimits;
use gateway::upstream::embedded::log::{Durability, LogLimits};

const GROUP: &str = "$share/g/t";

/// PUBLISH of this QoS with one byte of payload, its exchange completed.
#[track_caller]
fn publish(scene: &mut Scene, client: SimClient, qos: u8, payload: u8) {
    let head: &[u8] = if qos == 0 { &[0, 1, b't'] } else { &[0, 1, b't', 0, 9] };
    let publish = scene.packet(0x30 | (qos << 1), head, &[payload]);
    match qos {
        0 => scene.check(client, &publish, &[]),
        1 => scene.check(client, &publish, &[0x40, 2, 0, 9]),
        _ => {
            scene.check(client, &publish, &[0x50, 2, 0, 9]);
            scene.check(client, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]);
        }
    }
}

/// What a member gets.
fn delivered(scene: &Scene, first: u8, id: u8, payload: u8) -> Vec<u8> {
    let head: &[u8] = if first < 0x32 { &[0, 1, b't'] } else { &[0, 1, b't', 0, id] };
    scene.packet(first, head, &[payload])
}

/// How many bytes came to a client: it has got something, or not.
fn has_got(scene: &mut Scene, client: SimClient) -> bool {
    !scene.take(client).is_empty()
}

/// MQTT 5.0 [MQTT-4.8.2-1].
#[test]
fn each_message_goes_to_one_member_of_each_group_and_to_everyone_else() {
    everywhere(|mut scene| {
        let members = [scene.enter(b'a'), scene.enter(b'b'), scene.enter(b'c')];
        let (other, alone) = (scene.enter(b'd'), scene.enter(b'e'));
        for member in members {
            scene.subscribe(member, GROUP, 1);
        }
        scene.subscribe(other, "$share/h/t", 1);
        scene.subscribe(alone, "t", 1);
        let publisher = scene.enter(b'p');
        for qos in [0, 1, 2, 1, 0, 2] {
            publish(&mut scene, publisher, qos, b'x');
            let got = members.map(|member| has_got(&mut scene, member));
            assert_eq!(got.iter().filter(|got| **got).count(), 1, "{got:?} at QoS {qos}");
            assert!(has_got(&mut scene, other) && has_got(&mut scene, alone));
        }
    });
}

#[test]
fn members_take_turns() {
    everywhere(|mut scene| {
        let members = [scene.enter(b'a'), scene.enter(b'b'), scene.enter(b'c')];
        for member in members {
            scene.subscribe(member, GROUP, 1);
        }
        let publisher = scene.enter(b'p');
        let mut turns = [0; 3];
        for turn in 0..30 {
            publish(&mut scene, publisher, 1, turn);
            for (member, turns) in members.iter().zip(&mut turns) {
                *turns += usize::from(has_got(&mut scene, *member));
            }
        }
        assert_eq!(turns, [10, 10, 10]);
    });
}

/// MQTT 5.0 [MQTT-4.8.2-3].
#[test]
fn each_member_gets_what_it_was_granted() {
    everywhere(|mut scene| {
        let (none, once) = (scene.enter(b'a'), scene.enter(b'b'));
        scene.subscribe(none, GROUP, 0);
        scene.subscribe(once, GROUP, 1);
        let publisher = scene.enter(b'p');
        let mut id = 0;
        for _ in 0..4 {
            publish(&mut scene, publisher, 2, b'x');
            let (of_none, of_once) = (scene.take(none), scene.take(once));
            if of_none.is_empty() {
                id += 1;
                assert_eq!(of_once, delivered(&scene, 0x32, id, b'x'));
            } else {
                assert_eq!(of_none, delivered(&scene, 0x30, 0, b'x'));
                assert_eq!(of_once, b"");
            }
        }
        assert_eq!(id, 2);
    });
}

/// MQTT 5.0 §4.8.2: a message of QoS 1 may go to another member as soon as its connection is lost.
#[test]
fn what_a_member_has_not_acknowledged_goes_to_another() {
    for kept in [false, true] {
        everywhere(|mut scene| {
            let first = if kept { scene.enter_kept(b'a').0 } else { scene.enter(b'a') };
            scene.subscribe(first, GROUP, 1);
            let publisher = scene.enter(b'p');
            publish(&mut scene, publisher, 1, 1);
            publish(&mut scene, publisher, 1, 2);
            let both = [delivered(&scene, 0x32, 1, 1), delivered(&scene, 0x32, 2, 2)].concat();
            scene.expect(first, &both);
            scene.check(first, &[0x40, 2, 0, 1], &[]);
            let second = scene.enter(b'b');
            scene.subscribe(second, GROUP, 1);
            scene.expect(second, &[]);
            scene.node.drop_connection(first);
            let again = delivered(&scene, 0x32, 1, 2);
            scene.expect(second, &again);
            scene.check(second, &[0x40, 2, 0, 1], &[]);
            if kept {
                let first = scene.come_back(b'a');
                scene.expect(first, &[]);
            }
        });
    }
}

/// MQTT 5.0 [MQTT-4.8.2-4].
#[test]
fn a_qos2_delivery_is_completed_with_the_client_it_began_with() {
    everywhere(|mut scene| {
        let (first, _) = scene.enter_kept(b'a');
        scene.subscribe(first, GROUP, 2);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 2, 1);
        publish(&mut scene, publisher, 2, 2);
        let both = [delivered(&scene, 0x34, 1, 1), delivered(&scene, 0x34, 2, 2)].concat();
        scene.expect(first, &both);
        scene.check(first, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
        let second = scene.enter(b'b');
        scene.subscribe(second, GROUP, 2);
        scene.node.drop_connection(first);
        scene.expect(second, &[]);
        let first = scene.come_back(b'a');
        let rest = [vec![0x62, 2, 0, 1], delivered(&scene, 0x3C, 2, 2)].concat();
        scene.expect(first, &rest);
        scene.check(first, &[0x70, 2, 0, 1], &[]);
        scene.check(first, &[0x50, 2, 0, 2], &[0x62, 2, 0, 2]);
        scene.check(first, &[0x70, 2, 0, 2], &[]);
        scene.expect(second, &[]);
    });
}

/// MQTT 5.0 [MQTT-4.8.2-4], and its message is neither lost nor doubled by a crash.
#[test]
fn a_qos2_delivery_outlives_the_process() {
    everywhere(|mut scene| {
        if scene.node.settings.durability == Durability::Memory {
            return;
        }
        let (first, _) = scene.enter_kept(b'a');
        let (second, _) = scene.enter_kept(b'b');
        scene.subscribe(first, GROUP, 2);
        scene.subscribe(second, GROUP, 2);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 2, 1);
        publish(&mut scene, publisher, 2, 2);
        let one = [delivered(&scene, 0x34, 1, 1), delivered(&scene, 0x34, 1, 2)];
        scene.expect(first, &one[0]);
        scene.expect(second, &one[1]);
        let mut scene = scene.crash();
        let first = scene.come_back(b'a');
        let second = scene.come_back(b'b');
        let again = [delivered(&scene, 0x3C, 1, 1), delivered(&scene, 0x3C, 1, 2)];
        scene.expect(first, &again[0]);
        scene.expect(second, &again[1]);
    });
}

/// MQTT 5.0 [MQTT-4.8.2-5].
#[test]
fn a_qos2_delivery_whose_session_ends_goes_to_nobody_else() {
    everywhere(|mut scene| {
        let first = scene.enter(b'a');
        scene.subscribe(first, GROUP, 2);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 2, 1);
        let begun = delivered(&scene, 0x34, 1, 1);
        scene.expect(first, &begun);
        let second = scene.enter(b'b');
        scene.subscribe(second, GROUP, 2);
        scene.node.drop_connection(first);
        scene.expect(second, &[]);
        publish(&mut scene, publisher, 2, 2);
        let next = delivered(&scene, 0x34, 1, 2);
        scene.expect(second, &next);
    });
}

/// MQTT 5.0 [MQTT-4.8.2-6].
#[test]
fn a_message_that_is_refused_goes_to_nobody_else() {
    for (qos, ack) in [(1, 0x40), (2, 0x50)] {
        everywhere(|mut scene| {
            if scene.speaks == super::scene::Speaks::V311 {
                return;
            }
            let first = scene.enter(b'a');
            scene.subscribe(first, GROUP, qos);
            let publisher = scene.enter(b'p');
            publish(&mut scene, publisher, 2, 1);
            assert!(has_got(&mut scene, first));
            let second = scene.enter(b'b');
            scene.subscribe(second, GROUP, qos);
            scene.check(first, &[ack, 3, 0, 1, 0x97], &[]);
            scene.expect(second, &[]);
            scene.node.drop_connection(first);
            scene.expect(second, &[]);
        });
    }
}

#[test]
fn messages_wait_for_a_group_whose_members_are_away_and_outlive_the_process() {
    everywhere(|mut scene| {
        member_away(&mut scene, b'a');
        let publisher = scene.enter(b'p');
        for payload in 1..=3 {
            publish(&mut scene, publisher, 1, payload);
        }
        if scene.node.settings.durability == Durability::Fsync {
            scene = scene.crash();
        }
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 1, 4);
        let first = scene.come_back(b'a');
        let missed = (1..=4).map(|at| delivered(&scene, 0x32, at, at));
        let missed = missed.collect::<Vec<_>>().concat();
        scene.expect(first, &missed);
    });
}

#[test]
fn a_group_ends_with_its_last_member_and_begins_anew() {
    everywhere(|mut scene| {
        member_away(&mut scene, b'a');
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 1, 1);
        // A clean start ends the session, and with it the group.
        let first = scene.enter(b'a');
        publish(&mut scene, publisher, 1, 2);
        scene.subscribe(first, GROUP, 1);
        publish(&mut scene, publisher, 1, 3);
        let only = delivered(&scene, 0x32, 1, 3);
        scene.expect(first, &only);
        let unsubscribe = scene.packet(0xA2, &[0, 5], &sized(GROUP));
        let unsuback = scene.packet(0xB0, &[0, 5], scene.either(&[], &[0]));
        scene.check(first, &unsubscribe, &unsuback);
        publish(&mut scene, publisher, 1, 4);
        scene.expect(first, &[]);
    });
}

/// MQTT 5.0 [MQTT-3.10.4-3]: what had begun is completed, what had not goes to another.
#[test]
fn unsubscribing_leaves_what_was_sent() {
    for kept in [false, true] {
        everywhere(|mut scene| {
            let first = if kept { scene.enter_kept(b'a').0 } else { scene.enter(b'a') };
            let second = scene.enter(b'b');
            scene.subscribe(first, GROUP, 1);
            let publisher = scene.enter(b'p');
            publish(&mut scene, publisher, 1, 1);
            let sent = delivered(&scene, 0x32, 1, 1);
            scene.expect(first, &sent);
            scene.subscribe(second, GROUP, 1);
            let unsubscribe = scene.packet(0xA2, &[0, 5], &sized(GROUP));
            let unsuback = scene.packet(0xB0, &[0, 5], scene.either(&[], &[0]));
            scene.check(first, &unsubscribe, &unsuback);
            scene.expect(second, &[]);
            scene.node.drop_connection(first);
            if kept {
                let first = scene.come_back(b'a');
                let again = delivered(&scene, 0x3A, 1, 1);
                scene.expect(first, &again);
                scene.expect(second, &[]);
            } else {
                let again = delivered(&scene, 0x32, 1, 1);
                scene.expect(second, &again);
            }
        });
    }
}

/// MQTT 5.0 §4.8.2: retained messages are not sent for a shared subscription.
#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    everywhere(|mut scene| {
        let publisher = scene.enter(b'p');
        let retained = scene.packet(0x33, &[0, 1, b't', 0, 9], b"r");
        scene.check(publisher, &retained, &[0x40, 2, 0, 9]);
        let member = scene.enter(b'a');
        scene.subscribe(member, GROUP, 1);
        scene.expect(member, &[]);
        let retained = scene.packet(0x33, &[0, 1, b't', 0, 9], b"s");
        scene.check(publisher, &retained, &[0x40, 2, 0, 9]);
        let live = delivered(&scene, 0x32, 1, b's');
        scene.expect(member, &live);
    });
}

/// A member that is busy does not hold the others up, and gets what is left when it is not.
#[test]
fn a_full_member_is_passed_over() {
    let groups = GroupLimits { inflight_max: 2, pending_max: 2, ..GroupLimits::default() };
    let log_limits = LogLimits { tail_bytes_max: 0, ..LogLimits::default() };
    let settings = SimSettings { groups, log_limits, ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        let (first, second) = (scene.enter(b'a'), scene.enter(b'b'));
        scene.subscribe(first, GROUP, 1);
        scene.subscribe(second, GROUP, 1);
        let publisher = scene.enter(b'p');
        for payload in 1..=20 {
            publish(&mut scene, publisher, 1, payload);
        }
        let held = scene.take(first);
        assert_eq!(held.len(), 2 * delivered(&scene, 0x32, 1, 1).len());
        let mut got = scene.take(second);
        // The second acknowledges all it gets, one by one; the first nothing.
        for id in 1..=18 {
            got.extend(scene.node.exchange(second, &[0x40, 2, 0, id]));
        }
        let length = delivered(&scene, 0x32, 1, 1).len();
        let payloads = got.chunks(length).chain(held.chunks(length));
        let mut payloads: Vec<u8> = payloads.filter_map(|one| one.last().copied()).collect();
        payloads.sort_unstable();
        assert_eq!(payloads, (1..=20).collect::<Vec<u8>>());
    });
}

#[test]
fn a_group_and_the_groups_have_limits() {
    let groups = GroupLimits { groups_max: 1, members_max: 1, ..GroupLimits::default() };
    let settings = SimSettings { groups, ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        let first = scene.enter(b'a');
        scene.subscribe(first, GROUP, 1);
        let second = scene.enter(b'b');
        let refuse = |scene: &mut Scene, client, filter: &str, reason| {
            let mut tail = sized(filter);
            tail.push(1);
            let subscribe = scene.packet(0x82, &[0, 1], &tail);
            let reason = scene.either(&[0x80], reason).to_vec();
            let suback = scene.packet(0x90, &[0, 1], &reason);
            scene.check(client, &subscribe, &suback);
        };
        refuse(&mut scene, second, GROUP, &[0x97]);
        // Of two groups that live on the same shard, only one can be.
        if scene.node.settings.shards == 1 {
            refuse(&mut scene, second, "$share/h/t", &[0x97]);
        }
        for invalid in
            ["$share/", "$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/g/#/x"]
        {
            refuse(&mut scene, second, invalid, &[0x8F]);
        }
    });
}

#[test]
fn a_session_has_no_more_shared_subscriptions_than_it_may() {
    let limits = Limits { shared_per_session_max: 2, ..Limits::default() };
    let settings = SimSettings { limits, ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        let member = scene.enter(b'a');
        let mut tail = Vec::new();
        for filter in ["$share/g/t", "$share/h/t", "$share/i/t"] {
            tail.extend(sized(filter));
            tail.push(1);
        }
        let subscribe = scene.packet(0x82, &[0, 1], &tail);
        let codes = scene.either(&[1, 1, 0x80], &[1, 1, 0x97]).to_vec();
        let suback = scene.packet(0x90, &[0, 1], &codes);
        scene.check(member, &subscribe, &suback);
        scene.subscribe(member, "t", 1);
        scene.subscribe(member, "$share/h/t", 0);
    });
}

/// Plain and shared filters in one SUBSCRIBE: one SUBACK, when all groups have answered.
#[test]
fn one_suback_answers_plain_and_shared_filters_in_their_order() {
    everywhere(|mut scene| {
        let member = scene.enter(b'a');
        let mut tail = Vec::new();
        for (filter, qos) in [("$share/g/t", 2), ("t", 1), ("$share/h/#", 0), ("$share//t", 1)] {
            tail.extend(sized(filter));
            tail.push(qos);
        }
        let subscribe = scene.packet(0x82, &[0, 1], &tail);
        let codes = scene.either(&[2, 1, 0, 0x80], &[2, 1, 0, 0x8F]).to_vec();
        let suback = scene.packet(0x90, &[0, 1], &codes);
        scene.check(member, &subscribe, &suback);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 0, b'x');
        let copy = delivered(&scene, 0x30, 0, b'x');
        scene.expect(member, &copy.repeat(3));
    });
}

/// MQTT 5.0 §3.8.2.1.2, [MQTT-3.3.4-3]: also when a message is sent again.
#[test]
fn a_shared_subscription_has_its_identifier() {
    let settings = SimSettings { limits: Limits::default(), ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        if scene.speaks == super::scene::Speaks::V311 {
            return;
        }
        let (member, _) = scene.enter_kept(b'a');
        let body = [&[0, 1, 2, 0x0B, 7][..], &sized(GROUP), &[2]].concat();
        scene.check(member, &framed(0x82, &body), &[0x90, 4, 0, 1, 0, 2]);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 2, b'x');
        scene.expect(member, &[0x34, 9, 0, 1, b't', 0, 1, 2, 0x0B, 7, b'x']);
        scene.node.drop_connection(member);
        let member = scene.come_back(b'a');
        scene.expect(member, &[0x3C, 9, 0, 1, b't', 0, 1, 2, 0x0B, 7, b'x']);
    });
}

/// Performs what files were asked to do, until nothing is left.
fn let_files_work(scene: &mut Scene) {
    while scene.node.perform_one() {}
    scene.node.holds_io = false;
}

fn on_disk(play: impl Fn(Scene)) {
    everywhere(|scene| {
        if scene.node.settings.durability == Durability::Fsync {
            play(scene);
        }
    });
}

/// UNSUBSCRIBE of the group.
fn unsubscribe(scene: &Scene) -> Vec<u8> {
    scene.packet(0xA2, &[0, 5], &sized(GROUP))
}

/// SUBSCRIBE to the group.
fn subscribe(scene: &Scene, qos: u8) -> Vec<u8> {
    scene.packet(0x82, &[0, 1], &[sized(GROUP), vec![qos]].concat())
}

/// A kept session that is a member of the group and not there.
fn member_away(scene: &mut Scene, letter: u8) {
    let (member, _) = scene.enter_kept(letter);
    scene.subscribe(member, GROUP, 1);
    scene.node.drop_connection(member);
}

/// CONNECT with Clean Start; its answer is left to look at.
fn start_clean(scene: &mut Scene, letter: u8) -> SimClient {
    let connect = start_clean_packet(scene, letter);
    let client = scene.node.connect();
    scene.node.send(client, &connect);
    client
}

fn start_clean_packet(scene: &Scene, letter: u8) -> Vec<u8> {
    let level = *scene.either(&[4], &[5]).first().unwrap();
    scene.packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0], &[0, 1, letter])
}

/// A member that waits for its SUBACK until its group is recorded takes what it is given.
#[test]
fn what_a_joining_member_is_given_is_not_lost() {
    on_disk(|mut scene| {
        let first = scene.enter(b'a');
        scene.subscribe(first, GROUP, 1);
        let (second, _) = scene.enter_kept(b'b');
        let publisher = scene.enter(b'p');
        scene.node.holds_io = true;
        for payload in 1..=4 {
            let publish = scene.packet(0x32, &[0, 1, b't', 0, payload], &[payload]);
            scene.node.send(publisher, &publish);
        }
        let subscribe = subscribe(&scene, 1);
        scene.node.send(second, &subscribe);
        let_files_work(&mut scene);
        let length = delivered(&scene, 0x32, 1, 1).len();
        let (one, mut other) = (scene.take(first), scene.take(second));
        let suback = scene.packet(0x90, &[0, 1], &[1]);
        let at = other.windows(suback.len()).position(|bytes| bytes == suback).unwrap();
        other.drain(at..at + suback.len());
        assert_eq!((one.len() + other.len()) / length, 4);
    });
}

/// A client that subscribes and leaves before the group has refused it takes nobody's place.
#[test]
fn a_subscription_that_was_not_granted_is_not_kept() {
    let groups = GroupLimits { members_max: 1, ..GroupLimits::default() };
    let settings = SimSettings { groups, ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        member_away(&mut scene, b'a');
        let (other, _) = scene.enter_kept(b'b');
        let leave = [subscribe(&scene, 1), vec![0xE0, 0]].concat();
        scene.node.send(other, &leave);
        let other = scene.come_back(b'b');
        let unsubscribe = unsubscribe(&scene);
        let unsuback = scene.packet(0xB0, &[0, 5], scene.either(&[], &[0x11]));
        scene.check(other, &unsubscribe, &unsuback);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 1, 1);
        let member = scene.come_back(b'a');
        let missed = delivered(&scene, 0x32, 1, 1);
        scene.expect(member, &missed);
    });
}

/// As above where the group would have taken it: it is rid of it.
#[test]
fn a_group_whose_only_member_left_before_it_knew_ends() {
    on_disk(|mut scene| {
        let (member, _) = scene.enter_kept(b'a');
        scene.node.holds_io = true;
        let leave = [subscribe(&scene, 1), vec![0xE0, 0]].concat();
        scene.node.send(member, &leave);
        let_files_work(&mut scene);
        let groups = 0..usize::from(scene.node.settings.shards);
        let groups = groups.map(|shard| scene.node.shard(shard).upstream.group_count());
        assert_eq!(groups.sum::<usize>(), 0);
    });
}

/// Answers to a subscription that was ended meanwhile, and what its group gave, are not the next's.
#[test]
fn subscribing_anew_in_haste_doubles_nothing() {
    let groups = GroupLimits { inflight_max: 1, ..GroupLimits::default() };
    let settings = SimSettings { groups, ..SimSettings::default() };
    everywhere_with(settings, |mut scene| {
        let busy = scene.enter(b'a');
        scene.subscribe(busy, GROUP, 2);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 2, 1);
        publish(&mut scene, publisher, 2, 2);
        let hasty = scene.enter(b'b');
        let subscribe = subscribe(&scene, 2);
        let bytes = [&subscribe[..], &unsubscribe(&scene), &subscribe].concat();
        scene.node.send(hasty, &bytes);
        let got = scene.take(hasty);
        let message = delivered(&scene, 0x34, 1, 2);
        let copies = got.windows(3).filter(|bytes| *bytes == &message[..3]).count();
        assert_eq!(copies, 1, "{got:x?}");
    });
}

/// The logs are on their own: the group's end can be committed, and its member's not.
#[test]
fn a_crash_while_a_group_ends_brings_nothing_back() {
    on_disk(|scene| {
        let (settings, speaks) = (scene.node.settings.clone(), scene.speaks);
        let shards = usize::from(settings.shards);
        let letters = (b'a'..b'g').flat_map(|letter| (0..shards).map(move |shard| (letter, shard)));
        for (letter, shard) in letters {
            for unsubscribes in [true, false] {
                let mut scene = Scene::with(speaks, settings.clone());
                let publisher = scene.enter(b'p');
                publish(&mut scene, publisher, 1, 0);
                let (member, _) = scene.enter_kept(letter);
                scene.subscribe(member, GROUP, 2);
                publish(&mut scene, publisher, 2, 1);
                let message = delivered(&scene, 0x34, 1, 1);
                scene.expect(member, &message);
                scene.check(member, &[0x50, 2, 0, 1], &[0x62, 2, 0, 1]);
                scene.check(member, &[0x70, 2, 0, 1], &[]);
                scene.node.holds_io = true;
                if unsubscribes {
                    let unsubscribe = unsubscribe(&scene);
                    scene.node.send(member, &unsubscribe);
                } else {
                    start_clean(&mut scene, letter);
                }
                let_files_of_one_work(&mut scene, shard);
                let mut scene = scene.crash();
                let (member, _) = scene.enter_kept(letter);
                scene.expect(member, &[]);
            }
        }
    });
}

/// Performs what files of one shard were asked to do, and nothing else.
fn let_files_of_one_work(scene: &mut Scene, shard: usize) {
    let pending = |scene: &Scene| scene.node.pending_io.iter().position(|(of, ..)| *of == shard);
    while let Some(place) = pending(scene) {
        let operation = scene.node.pending_io.remove(place).unwrap();
        scene.node.pending_io.push_front(operation);
        scene.node.perform_one();
    }
}

/// What a session was stored with ends once, however often the store is asked before that is
/// committed.
#[test]
fn a_session_that_expires_while_its_client_comes_back_leaves_its_groups_once() {
    on_disk(|mut scene| {
        if scene.speaks == super::scene::Speaks::V311 {
            return;
        }
        member_away(&mut scene, b'a');
        let (brief, _) = scene.connect(b'b', false, &[0x11, 0, 0, 0, 1]);
        scene.subscribe(brief, GROUP, 1);
        scene.node.drop_connection(brief);
        scene.node.holds_io = true;
        scene.node.advance(std::time::Duration::from_secs(3));
        let connect = [0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 0, 0, 1, b'b'];
        let brief = scene.node.connect();
        scene.node.send(brief, &framed(0x10, &connect));
        let_files_work(&mut scene);
        assert_eq!(scene.take(brief).get(..4).map(|bytes| bytes[3]), Some(0));
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 1, 1);
        let member = scene.come_back(b'a');
        let missed = delivered(&scene, 0x32, 1, 1);
        scene.expect(member, &missed);
    });
}

/// As above where a clean start ends it, and another comes before that is committed.
#[test]
fn two_clean_starts_in_haste_leave_the_groups_once() {
    on_disk(|mut scene| {
        member_away(&mut scene, b'a');
        member_away(&mut scene, b'b');
        scene.node.holds_io = true;
        for _ in 0..2 {
            let other = start_clean(&mut scene, b'b');
            scene.node.send(other, &[0xE0, 0]);
        }
        let_files_work(&mut scene);
        let publisher = scene.enter(b'p');
        publish(&mut scene, publisher, 1, 1);
        let member = scene.come_back(b'a');
        let missed = delivered(&scene, 0x32, 1, 1);
        scene.expect(member, &missed);
    });
}

/// A session that is over before the store has said what its clean start ended.
#[test]
fn a_clean_start_that_is_over_at_once_leaves_the_groups() {
    everywhere(|mut scene| {
        member_away(&mut scene, b'a');
        let client = scene.node.connect();
        let bytes = [start_clean_packet(&scene, b'a'), vec![0xE0, 0]].concat();
        scene.node.send(client, &bytes);
        let groups = 0..usize::from(scene.node.settings.shards);
        let groups = groups.map(|shard| scene.node.shard(shard).upstream.group_count());
        assert_eq!(groups.sum::<usize>(), 0);
        let (_, session_present) = scene.enter_kept(b'a');
        assert!(!session_present);
    });
}
