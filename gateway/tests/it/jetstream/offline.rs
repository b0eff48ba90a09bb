//! Sessions that outlive their connections, and their gateway.

use super::device::{Device, Hello};
use super::party::{DURABLE, Party};
use super::site::{Site, topics_at};
use gateway::proto::mqtt::QoS;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Messages that a session misses.
const MISSED: usize = 1_000;

/// Two subscriptions of each kind: each session has to read one way only.
const WILD: &[&str] = &["t0/#", "t1/+", "+/2", "t3/#"];

fn literal() -> Vec<&'static str> {
    (0..3).flat_map(|place| topics_at(place, 2)).collect()
}

/// More than are read topic by topic.
fn many_literal() -> Vec<&'static str> {
    (0..3).flat_map(|place| topics_at(place, 6)).collect()
}

/// Sessions with each kind of filters at both QoS, by client id.
fn sleepers() -> Vec<(String, Vec<&'static str>, QoS)> {
    let kinds = [("literal", literal()), ("many", many_literal()), ("wild", WILD.to_vec())];
    let each = kinds.into_iter().flat_map(|(kind, filters)| {
        [QoS::AtLeastOnce, QoS::ExactlyOnce]
            .map(|qos| (format!("{kind}-{}", qos as u8), filters.clone(), qos))
    });
    each.collect()
}

/// Publishes all messages at QoS 2, each topic's numbered in order.
pub(super) fn publish_missed(address: SocketAddr) {
    let mut device = Device::brief(address, "device");
    let topics = many_literal();
    for number in 0..MISSED {
        let topic = topics[number % topics.len()];
        device.publish(topic, QoS::ExactlyOnce, number.to_string());
    }
}

/// What a session with `filters` gets of them, by topic.
fn expected(filters: &[&str]) -> BTreeMap<String, Vec<usize>> {
    let topics = many_literal();
    let mut expected = BTreeMap::<String, Vec<usize>>::new();
    for number in 0..MISSED {
        let topic = topics[number % topics.len()];
        if filters.iter().any(|filter| gateway::proto::routing::filter_matches(filter, topic)) {
            expected.entry(topic.to_owned()).or_default().push(number);
        }
    }
    expected
}

/// Receives until everything expected is there; nothing may come twice or in another order.
#[track_caller]
fn check(device: &mut Device, filters: &[&str], qos: QoS) {
    let expected = expected(filters);
    let count: usize = expected.values().map(Vec::len).sum();
    let mut got = BTreeMap::<String, Vec<usize>>::new();
    for message in device.messages(count) {
        assert_eq!(message.qos, qos);
        let number = message.text().parse().unwrap();
        got.entry(message.topic).or_default().push(number);
    }
    assert_eq!(got, expected);
    device.ping();
    assert_eq!(device.take(), []);
}

/// Subscribes the sessions and leaves.
pub(super) fn fall_asleep(address: SocketAddr) {
    for (client_id, filters, qos) in sleepers() {
        let (mut device, welcome) = Device::connect(address, &client_id, Hello::LASTING);
        assert!(!welcome.session_present);
        device.listen(&filters, qos);
    }
}

#[track_caller]
pub(super) fn wake_up(address: SocketAddr) {
    for (client_id, filters, qos) in sleepers() {
        let (mut device, welcome) = Device::connect(address, &client_id, Hello::LASTING);
        assert!(welcome.session_present, "{client_id}");
        check(&mut device, &filters, qos);
    }
}

#[test]
fn what_came_while_away_comes_once_and_in_order() {
    let site = Site::start();
    let node = site.gateway("g1");
    let address = node.address().unwrap();
    fall_asleep(address);
    publish_missed(address);
    wake_up(address);
}

#[test]
fn what_came_through_another_gateway_while_this_one_was_dead_comes_too() {
    let site = Site::start();
    let mut node = site.gateway("g1");
    let other = site.gateway("g2");
    fall_asleep(node.address().unwrap());
    node.kill();
    publish_missed(other.address().unwrap());
    node.start_again();
    wake_up(node.address().unwrap());
}

#[test]
fn what_came_before_the_gateway_was_killed_comes_when_it_is_back() {
    let site = Site::start();
    let mut node = site.gateway("g1");
    fall_asleep(node.address().unwrap());
    publish_missed(node.address().unwrap());
    node.kill();
    node.start_again();
    wake_up(node.address().unwrap());
}

/// They share what is read, and each gets its own.
#[test]
fn fifty_sessions_come_back_at_once() {
    let site = Site::start();
    let node = site.gateway("g1");
    let address = node.address().unwrap();
    let sessions: Vec<_> = (0..50)
        .map(|number| {
            let (_, filters, qos) = sleepers().swap_remove(number % 6);
            (format!("one-of-many-{number}"), filters, qos)
        })
        .collect();
    for (client_id, filters, qos) in &sessions {
        Device::connect(address, client_id, Hello::LASTING).0.listen(filters, *qos);
    }
    publish_missed(address);
    let threads = sessions.into_iter().map(|(client_id, filters, qos)| {
        std::thread::spawn(move || {
            let (mut device, welcome) = Device::connect(address, &client_id, Hello::LASTING);
            assert!(welcome.session_present, "{client_id}");
            check(&mut device, &filters, qos);
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
}

/// Sessions come and go while others publish; the ledger knows what each is owed.
#[test]
fn sessions_that_come_and_go_miss_nothing() {
    let site = Site::start();
    let mut party = Party::new(vec![site.gateway("g1"), site.gateway("g2")]);
    let topics = many_literal();
    for node in [0, 1] {
        party.publisher(node, &topics, &DURABLE);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[("t1/+", QoS::AtLeastOnce), ("t0/#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[(topics[0], QoS::ExactlyOnce), (topics[7], QoS::ExactlyOnce)]);
    }
    party.all_subscribed();
    for round in 0..8 {
        party.publish_until_acknowledged("before they go", 100);
        // The first one goes on publishing.
        for peer in 1..party.peer_count() {
            if party.random.below(2) == 0 {
                party.send_away(peer);
            }
        }
        party.publish_until_acknowledged(&format!("round {round}"), 50);
        party.call_back();
    }
    party.all_arrived();
}
