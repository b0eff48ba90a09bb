//! Sessions in JetStream: clients go on at any gateway.

use super::device::{Device, Hello};
use super::offline::{fall_asleep, publish_missed, wake_up};
use super::party::{DURABLE, Party, parameter};
use super::site::{Site, topics_at};
use gateway::proto::mqtt::{Properties, Property, QoS, ReasonCode, Will};
use std::net::SocketAddr;

/// How often clients are moved in a run that nobody asked to be longer.
const ROUNDS_DEFAULT: u64 = 6;

fn addresses(nodes: &[super::site::Node; 2]) -> [SocketAddr; 2] {
    [0, 1].map(|number: usize| nodes[number].address().unwrap())
}

#[test]
fn what_came_while_away_comes_at_another_gateway_once_and_in_order() {
    let site = Site::start();
    let nodes = site.gateways_with_shared_sessions();
    let [here, there] = addresses(&nodes);
    fall_asleep(here);
    publish_missed(here);
    wake_up(there);
}

#[test]
fn a_session_that_is_in_use_moves_with_what_it_has_under_way() {
    let site = Site::start();
    let nodes = site.gateways_with_shared_sessions();
    let [here, there] = addresses(&nodes);
    let topic = topics_at(1, 1)[0];
    let (mut former, _) = Device::connect(here, "lamp", Hello::LASTING);
    former.listen(&[topic], QoS::ExactlyOnce);
    let mut publisher = Device::brief(there, "switch");
    for round in 0..10 {
        let sent = format!("on-{round}");
        publisher.publish(topic, QoS::ExactlyOnce, &sent);
        // What it has got it has not read: nothing is acknowledged.
        let address = if round % 2 == 0 { there } else { here };
        let (mut device, welcome) = Device::connect(address, "lamp", Hello::LASTING);
        assert!(welcome.session_present, "{round}");
        assert_eq!(former.goodbye(), ReasonCode::SessionTakenOver);
        let message = device.message();
        assert_eq!((message.text(), message.qos), (&*sent, QoS::ExactlyOnce));
        device.ping();
        assert_eq!(device.take(), []);
        former = device;
    }
}

#[test]
fn a_brief_session_ends_when_its_client_connects_elsewhere() {
    let site = Site::start();
    let nodes = site.gateways_with_shared_sessions();
    let [here, there] = addresses(&nodes);
    let mut former = Device::brief(here, "lamp");
    let (mut device, _) = Device::connect(there, "lamp", Hello::LASTING);
    assert_eq!(former.goodbye(), ReasonCode::SessionTakenOver);
    let third = Device::brief(here, "lamp");
    assert_eq!(device.goodbye(), ReasonCode::SessionTakenOver);
    drop(third);
    // The brief one has ended what was stored.
    let (_, welcome) = Device::connect(there, "lamp", Hello::LASTING);
    assert!(!welcome.session_present);
}

fn with_will<'a>(topic: &'a str, properties: &'a [u8], hello: Hello<'a>) -> Hello<'a> {
    let properties = Properties::from_validated(properties);
    let (qos, retain, payload) = (QoS::AtLeastOnce, false, &b"gone"[..]);
    Hello { will: Some(Will { qos, retain, properties, topic, payload }), ..hello }
}

/// A will without delay is published when another gateway takes the session; one with a delay is
/// not, as the client is back.
#[test]
fn a_will_is_published_once_when_its_session_moves() {
    let site = Site::start();
    let mut nodes = site.gateways_with_shared_sessions();
    let [here, there] = addresses(&nodes);
    let topics = topics_at(0, 2);
    let mut delay = Vec::new();
    Property::WillDelayInterval(3_600).encode(&mut delay);
    let mut watcher = Device::brief(there, "watcher");
    watcher.listen(&["#"], QoS::ExactlyOnce);
    let (mut former, _) = Device::connect(here, "a", with_will(topics[0], &[], Hello::LASTING));
    let (mut delayed, _) = Device::connect(here, "b", with_will(topics[1], &delay, Hello::LASTING));
    let (_device, _) = Device::connect(there, "a", Hello::LASTING);
    let (_other, _) = Device::connect(there, "b", Hello::LASTING);
    assert_eq!(former.goodbye(), ReasonCode::SessionTakenOver);
    assert_eq!(delayed.goodbye(), ReasonCode::SessionTakenOver);
    assert_eq!(watcher.message().topic, topics[0]);

    // The same when the gateway cannot answer any more.
    let mut mortals = Vec::new();
    for client in ["c", "d"] {
        let topic = topics[usize::from(client == "d")];
        let properties = if client == "d" { &delay[..] } else { &[] };
        let hello = with_will(topic, properties, Hello::LASTING);
        let (mut mortal, _) = Device::connect(here, client, hello);
        mortal.listen(&["nothing"], QoS::AtLeastOnce);
        mortals.push(mortal);
    }
    nodes[0].kill();
    for client in ["c", "d"] {
        let (_, welcome) = Device::connect(there, client, Hello::LASTING);
        assert!(welcome.session_present, "{client}");
    }
    assert_eq!(watcher.message().topic, topics[0]);
    watcher.ping();
    assert_eq!(watcher.take(), []);
}

/// Each gateway is drained and started again in turn, while clients go on at the other.
#[test]
fn gateways_that_are_restarted_in_turn_miss_nothing() {
    let site = Site::start();
    let mut party = Party::new(site.gateways_with_shared_sessions().into());
    party.roam();
    let topics: Vec<_> = (0..3).flat_map(|place| topics_at(place, 3)).collect();
    for node in [0, 1] {
        party.publisher(node, &topics, &DURABLE);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[("t1/+", QoS::AtLeastOnce), ("t0/#", QoS::ExactlyOnce)]);
    }
    party.all_subscribed();
    for node in [0, 1] {
        party.publish_until_acknowledged("with both", 100);
        party.nodes[node].terminate();
        party.go_on("draining", true, |party| party.nodes[node].has_ended());
        party.nodes[node].stop();
        party.publish_until_acknowledged("with one", 100);
        party.nodes[node].start_again();
    }
    party.publish_until_acknowledged("with both again", 100);
    party.all_arrived();
    let told = |reason: &&ReasonCode| **reason == ReasonCode::ServerShuttingDown;
    assert!(party.disconnected.iter().filter(told).count() >= 2, "some were there each time");
}

/// Clients move all the time, gateways are killed; the ledger knows what each client is owed. `SEED`
/// chooses the moments, `ROUNDS` how many.
#[test]
fn clients_that_move_between_gateways_that_are_killed_miss_nothing() {
    let site = Site::start();
    let mut party = Party::new(site.gateways_with_shared_sessions().into());
    party.roam();
    let topics: Vec<_> = (0..3).flat_map(|place| topics_at(place, 3)).collect();
    for node in [0, 1] {
        party.publisher(node, &topics, &DURABLE);
        party.publisher(node, &topics[..4], &[QoS::ExactlyOnce]);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[("t1/+", QoS::AtLeastOnce), ("t0/#", QoS::ExactlyOnce)]);
    }
    party.all_subscribed();
    for round in 0..parameter("ROUNDS", ROUNDS_DEFAULT) {
        let more = 1 + usize::try_from(party.random.below(100)).unwrap();
        party.publish_until_acknowledged(&format!("round {round}"), more);
        for peer in 0..party.peer_count() {
            match party.random.below(4) {
                0 => party.send_away(peer),
                1 => party.connect_again(peer),
                _ => {}
            }
        }
        party.call_back();
        if round % 3 == 2 {
            let node = usize::try_from(party.random.below(2)).unwrap();
            party.nodes[node].kill();
            party.publish_until_acknowledged("with one gateway", 50);
            party.nodes[node].start_again();
        }
    }
    party.all_arrived();
}
