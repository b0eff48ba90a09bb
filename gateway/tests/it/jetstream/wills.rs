//! Wills of clients whose connection or gateway dies, seen through another gateway.

use super::device::{Device, Hello};
use super::site::{Site, topics_at};
use gateway::proto::mqtt::{Properties, QoS, Will};

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
