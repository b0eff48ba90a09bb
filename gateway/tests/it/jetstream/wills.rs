//! Wills of clients whose connection or gateway dies, seen through another gateway.

use super::device::{Device, Hello};
use super::site::{Node, Site, topics_at};
use gateway::proto::mqtt::{Properties, QoS, ReasonCode, Will};
use rustix::process::Signal;

fn will<'a>(topic: &'a str, qos: QoS, retain: bool) -> Hello<'a> {
    let properties = Properties::NONE;
    Hello { will: Some(Will { qos, retain, properties, topic, payload: b"gone" }), ..Hello::BRIEF }
}

#[test]
fn who_is_gone_without_a_word_leaves_a_will_everywhere() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut watchers = [here, there].map(|address| Device::brief(address, "watcher"));
    for watcher in &mut watchers {
        watcher.listen(&["#"], QoS::ExactlyOnce);
    }
    for place in 0..3 {
        for (qos, topic) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
            .into_iter()
            .zip(topics_at(place, 3))
        {
            let (mortal, _) = Device::connect(here, "mortal", will(topic, qos, true));
            drop(mortal);
            for watcher in &mut watchers {
                let message = watcher.message();
                assert_eq!((&*message.topic, message.text(), message.qos), (topic, "gone", qos));
            }
        }
    }
    // And it is retained.
    let mut late = Device::brief(there, "late");
    let topics = topics_at(1, 3);
    late.listen(&topics[1..], QoS::AtLeastOnce);
    assert!(late.messages(2).iter().all(|message| message.retain && message.text() == "gone"));
}

/// Clients at the first of two gateways that share sessions, of all sub-clusters, each with a will; and
/// who watches at the other.
struct Doomed {
    _site: Site,
    nodes: [Node; 2],
    watcher: Device,
    clients: Vec<Device>,
    topics: Vec<&'static str>,
}

impl Doomed {
    fn gather() -> Self {
        let site = Site::start();
        let nodes = site.gateways_with_short_leases();
        let [here, there] = [0, 1].map(|number: usize| nodes[number].address().unwrap());
        let mut watcher = Device::brief(there, "watcher");
        watcher.listen(&["#"], QoS::ExactlyOnce);
        let mut topics: Vec<_> = (0..3).flat_map(|place| topics_at(place, 4)).collect();
        topics.sort_unstable();
        let mut clients = Vec::new();
        for topic in &topics {
            let will = will(topic, QoS::ExactlyOnce, false).will;
            // Its home is where its topic is.
            let (mut client, _) = Device::connect(here, topic, Hello { will, ..Hello::LASTING });
            client.listen(&["nothing"], QoS::AtLeastOnce);
            clients.push(client);
        }
        Self { _site: site, nodes, watcher, clients, topics }
    }

    fn expect_wills(&mut self) {
        let mut got: Vec<String> =
            self.watcher.messages(self.topics.len()).into_iter().map(|one| one.topic).collect();
        got.sort_unstable();
        assert_eq!(got, self.topics);
    }

    /// Nothing more comes before what is published now.
    fn expect_nothing(&mut self) {
        let there = self.nodes[1].address().unwrap();
        let mut publisher = Device::brief(there, "publisher");
        for place in 0..3 {
            let topic = topics_at(place, 1)[0];
            publisher.publish(topic, QoS::ExactlyOnce, "last");
            assert_eq!(self.watcher.message().text(), "last", "{topic}");
        }
    }
}

#[test]
fn another_gateway_publishes_the_wills_of_one_that_is_killed_once() {
    let mut doomed = Doomed::gather();
    doomed.nodes[0].kill();
    doomed.expect_wills();
    // The clients are back, as is their gateway, which was another.
    doomed.nodes[0].start_again();
    doomed.nodes[0].wait_until_live(3);
    let addresses = [0, 1].map(|number: usize| doomed.nodes[number].address().unwrap());
    for (number, topic) in doomed.topics.clone().into_iter().enumerate() {
        let (_, welcome) = Device::connect(addresses[number % 2], topic, Hello::LASTING);
        assert!(welcome.session_present, "{topic}");
    }
    doomed.expect_nothing();
}

#[test]
fn a_gateway_that_stood_still_past_its_lease_lets_its_clients_go_and_publishes_nothing() {
    let mut doomed = Doomed::gather();
    doomed.nodes[0].signal(Signal::STOP);
    doomed.expect_wills();
    // Some of its clients give up meanwhile, which it hears of when it goes on.
    let gone = doomed.clients.split_off(6);
    drop(gone);
    doomed.nodes[0].signal(Signal::CONT);
    for client in &mut doomed.clients {
        assert_eq!(client.goodbye(), ReasonCode::SessionTakenOver);
    }
    doomed.expect_nothing();
    // It serves again, as somebody else.
    let here = doomed.nodes[0].address().unwrap();
    for topic in &doomed.topics {
        let (_, welcome) = Device::connect(here, topic, Hello::LASTING);
        assert!(welcome.session_present, "{topic}");
    }
    doomed.expect_nothing();
}

#[test]
fn clients_of_a_gateway_that_is_killed_leave_their_wills_when_it_is_back() {
    let site = Site::start();
    let mut mortal = site.gateway("g1");
    let node = site.gateway("g2");
    let mut watcher = Device::brief(node.address().unwrap(), "watcher");
    watcher.listen(&["#"], QoS::ExactlyOnce);
    let topics: Vec<_> = (0..3).flat_map(|place| topics_at(place, 1)).collect();
    let lasting =
        |topic| Hello { will: will(topic, QoS::AtLeastOnce, false).will, ..Hello::LASTING };
    let mut clients = Vec::new();
    for topic in &topics {
        let client = Device::connect(mortal.address().unwrap(), topic, lasting(topic)).0;
        clients.push(client);
    }
    // A session is there for good once something durable was answered.
    for client in &mut clients {
        client.listen(&["nothing"], QoS::AtLeastOnce);
    }
    mortal.kill();
    drop(clients);
    mortal.start_again();
    let mut got: Vec<String> = watcher.messages(3).into_iter().map(|one| one.topic).collect();
    got.sort();
    let mut expected = topics.clone();
    expected.sort_unstable();
    assert_eq!(got, expected);
}
