//! Messages from one gateway to clients of another, without faults.

use super::device::{Device, Received, at};
use super::party::{DURABLE, Party, now};
use super::site::{Site, topics_at};
use crate::process::gateway::PATIENCE;
use gateway::proto::mqtt::{Property, QoS, SubscriptionOptions};
use std::collections::BTreeSet;
use std::time::Duration;

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Topics of each sub-cluster, some of each.
fn topics_everywhere() -> Vec<&'static str> {
    (0..3).flat_map(|place| topics_at(place, 6)).collect()
}

fn topics_of(messages: &[Received]) -> BTreeSet<&str> {
    messages.iter().map(|message| message.topic.as_str()).collect()
}

/// A client that has everything in three subscriptions gets one of each.
#[test]
fn every_qos_goes_both_ways_through_each_sub_cluster() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let topics = topics_everywhere();
    for (from, to) in [(here, there), (there, here), (here, here)] {
        let mut device = Device::brief(from, "device");
        for qos in ALL_QOS {
            let mut all = Device::brief(to, "all");
            all.listen(&["#"], qos);
            let mut level = Device::brief(to, "level");
            level.listen(&["+/0", "t1/+"], qos);
            let mut literal = Device::brief(to, "literal");
            literal.listen(&topics, qos);
            for topic in &topics {
                device.publish(topic, qos, topic);
            }
            for subscriber in [&mut all, &mut literal] {
                let messages = subscriber.messages(topics.len());
                assert_eq!(topics_of(&messages), topics.iter().copied().collect(), "{qos:?}");
                assert!(messages.iter().all(|one| one.qos == qos && one.topic == one.text()));
            }
            let wanted = |topic: &&&str| topic.ends_with("/0") || topic.starts_with("t1/");
            let wanted: BTreeSet<&str> = topics.iter().filter(wanted).copied().collect();
            assert_eq!(topics_of(&level.messages(wanted.len())), wanted);
            for subscriber in [&mut all, &mut literal, &mut level] {
                subscriber.ping();
                assert_eq!(subscriber.take(), []);
            }
        }
    }
}

/// A subscriber with a low QoS gets high ones as low ones, and the other way round.
#[test]
fn the_lower_qos_counts() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = Device::brief(here, "device");
    let topics = topics_everywhere();
    for granted in ALL_QOS {
        let mut subscriber = Device::brief(there, "subscriber");
        subscriber.listen(&["#"], granted);
        for qos in ALL_QOS {
            for topic in &topics {
                device.publish(topic, qos, "x");
            }
            let messages = subscriber.messages(topics.len());
            assert!(messages.iter().all(|message| message.qos == qos.min(granted)));
        }
    }
}

/// The server sends a message once for each subscription of the gateway that matches.
#[test]
fn overlapping_subscriptions_get_one_copy_with_all_identifiers() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = Device::brief(here, "device");
    let mut subscriber = Device::brief(there, "subscriber");
    let filters = ["o/#", "o/+", "o/b", "#", "+/b", "o/b/#"];
    for (number, filter) in (1..).zip(filters) {
        let identifier = [Property::SubscriptionIdentifier(number)];
        let filter = [(filter, at(QoS::ExactlyOnce))];
        assert_eq!(subscriber.subscribe_as(&filter, &identifier), [2]);
    }
    // Others of the same gateway, on whichever shard, change nothing.
    let mut others = Vec::new();
    for number in 0..8 {
        let mut other = Device::brief(there, &format!("other-{number}"));
        other.listen(&["o/+", "+/+"], QoS::ExactlyOnce);
        others.push(other);
    }
    for qos in ALL_QOS {
        for number in 0..20 {
            device.publish("o/b", qos, format!("{number}"));
        }
        let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        for message in subscriber.messages(20) {
            let identifiers: BTreeSet<u32> =
                message.subscription_identifiers().into_iter().collect();
            assert_eq!(identifiers, (1..=6).collect(), "{qos:?} {}", message.text());
        }
        for other in &mut others {
            let got: Vec<String> =
                other.messages(20).iter().map(|one| one.text().to_owned()).collect();
            assert_eq!(got, texts, "{qos:?}");
        }
        for client in others.iter_mut().chain([&mut subscriber]) {
            client.ping();
            assert_eq!(client.take(), [], "{qos:?}");
        }
    }
}

#[test]
fn own_messages_are_left_out_if_so_wanted() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut local = Device::brief(here, "local");
    let mut other = Device::brief(there, "other");
    let mut both = Device::brief(there, "both");
    let no_local = |qos| SubscriptionOptions { no_local: true, ..at(qos) };
    for client in [&mut local, &mut other] {
        client.subscribe(&[("n/#", no_local(QoS::ExactlyOnce))]);
    }
    both.listen(&["n/#"], QoS::ExactlyOnce);
    for qos in ALL_QOS {
        local.publish("n/1", qos, "from local");
        assert_eq!(other.message().text(), "from local");
        assert_eq!(both.message().text(), "from local");
        other.publish("n/1", qos, "from other");
        assert_eq!(local.message().text(), "from other", "its own is not before it");
        assert_eq!(both.message().text(), "from other");
        both.publish("n/1", qos, "from both");
        for client in [&mut local, &mut other, &mut both] {
            assert_eq!(client.message().text(), "from both");
        }
    }
}

#[test]
fn any_topic_is_one_topic() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = Device::brief(here, "device");
    let topics = [
        "a//b",
        "/",
        "//",
        "/a",
        "a/",
        "a",
        "a.b",
        "a.b/c",
        "a/b.c",
        "*",
        ">",
        "a/*",
        "a/>",
        "a b/c d",
        " ",
        "100%",
        "%2E",
        "a/%2F/b",
        "ü/日本",
        "a\tb",
        "mqtt/x",
        "live/0/x",
        "_INBOX/x",
        ".",
        "a/./b",
        "\\\"{}",
    ];
    let dollars = ["$dev/a", "$dev//b", "$SYS.x/y", "$JS/API/INFO", "$"];
    let mut literal = Device::brief(there, "literal");
    let mut all = Device::brief(there, "all");
    let mut dollar = Device::brief(there, "dollar");
    literal.listen(&[&topics[..], &dollars[..]].concat(), QoS::AtLeastOnce);
    all.listen(&["#"], QoS::AtLeastOnce);
    dollar.listen(&["$dev/#"], QoS::AtLeastOnce);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        for topic in topics.iter().chain(&dollars) {
            device.publish(topic, qos, topic);
        }
        let everything: BTreeSet<&str> = topics.iter().chain(&dollars).copied().collect();
        let messages = literal.messages(everything.len());
        assert!(messages.iter().all(|message| message.topic == message.text()));
        assert_eq!(topics_of(&messages), everything);
        assert_eq!(topics_of(&all.messages(topics.len())), topics.into_iter().collect());
        assert_eq!(topics_of(&dollar.messages(2)), ["$dev/a", "$dev//b"].into());
        for client in [&mut literal, &mut all, &mut dollar] {
            client.ping();
            assert_eq!(client.take(), [], "{qos:?}");
        }
    }
    // Filters with empty levels, and the level above.
    for (filter, expected) in [
        ("a/+/b", &["a//b", "a/%2F/b", "a/./b"][..]),
        (
            "+/+",
            &[
                "/",
                "/a",
                "a/",
                "a.b/c",
                "a/b.c",
                "a/*",
                "a/>",
                "a b/c d",
                "ü/日本",
                "mqtt/x",
                "_INBOX/x",
            ],
        ),
        ("a/#", &["a//b", "a/", "a", "a/b.c", "a/*", "a/>", "a/%2F/b", "a/./b"]),
        ("/#", &["/", "//", "/a"]),
        ("+//#", &["a//b", "//", "/", "a/"]),
        ("a.b/#", &["a.b", "a.b/c"]),
    ] {
        let mut subscriber = Device::brief(there, "subscriber");
        subscriber.listen(&[filter], QoS::AtLeastOnce);
        for topic in topics.iter().chain(&dollars) {
            device.publish(topic, QoS::AtLeastOnce, topic);
        }
        let messages = subscriber.messages(expected.len());
        assert_eq!(topics_of(&messages), expected.iter().copied().collect(), "{filter}");
        subscriber.ping();
        assert_eq!(subscriber.take(), [], "{filter}");
    }
}

/// What an unsubscribed filter matched comes no more, what another one matches does.
#[test]
fn unsubscribing_leaves_the_other_subscriptions() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = Device::brief(here, "device");
    let mut subscriber = Device::brief(there, "subscriber");
    let mut steady = Device::brief(there, "steady");
    steady.listen(&["u/#"], QoS::AtLeastOnce);
    for _ in 0..3 {
        subscriber.listen(&["u/+", "u/a", "u/#"], QoS::AtLeastOnce);
        subscriber.unsubscribe(&["u/#", "u/+"]);
        for (topic, text) in [("u/a", "1"), ("u/b", "2"), ("u/a", "3")] {
            device.publish(topic, QoS::AtLeastOnce, text);
        }
        let texts: Vec<String> =
            subscriber.messages(2).iter().map(|one| one.text().to_owned()).collect();
        assert_eq!(texts, ["1", "3"]);
        assert_eq!(steady.messages(3).len(), 3);
    }
    subscriber.ping();
    assert_eq!(subscriber.take(), []);
}

/// Members at several gateways are one group, and each message goes to one of them.
#[test]
fn a_group_of_members_everywhere_gets_each_message_once() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut members: Vec<Device> = [here, there, there]
        .into_iter()
        .zip(["m-1", "m-2", "m-3"])
        .map(|(address, client_id)| Device::brief(address, client_id))
        .collect();
    for member in &mut members {
        member.listen(&["$share/g/#"], QoS::AtLeastOnce);
    }
    let mut device = Device::brief(here, "device");
    let topics = topics_everywhere();
    let count = 10 * topics.len();
    for number in 0..count {
        let topic = topics[number % topics.len()];
        device.publish(topic, QoS::AtLeastOnce, number.to_string());
    }
    let started = now();
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        for member in &mut members {
            member.ping();
            for message in member.take() {
                assert!(seen.insert(message.text().to_owned()), "{} came twice", message.text());
            }
        }
        assert!(started.elapsed() < PATIENCE, "{} of {count}", seen.len());
    }
}

/// Each time the last member at a gateway leaves, something is on its way to it: it is for the other at once,
/// and not when the servers would give it out again.
#[test]
fn what_is_on_its_way_when_the_last_member_leaves_is_soon_given_to_another() {
    let site = Site::start();
    let mut party = Party::new(vec![site.gateway("g1"), site.gateway("g2")]);
    let topics = topics_everywhere();
    for node in [0, 0, 1, 1] {
        party.publisher(node, &topics, &[QoS::AtLeastOnce]);
    }
    let members = [0, 1].map(|node| {
        party.subscriber(node, &[("$share/g/#", QoS::ExactlyOnce)]);
        party.peer_count() - 1
    });
    party.all_subscribed();
    for round in 0..ROUNDS {
        party.publish_until_acknowledged("both are there", 50);
        party.send_away(members[round % 2]);
        party.publish_until_acknowledged("one is away", 50);
        // For a moment nobody is there.
        party.send_away(members[(round + 1) % 2]);
        party.publish_until_acknowledged("both are away", 10);
        party.call_back();
    }
    let started = now();
    party.all_arrived();
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
}

const ROUNDS: usize = 20;
/// Far less than what servers wait for an acknowledgement.
const SOON: Duration = Duration::from_secs(30);

/// Many messages on their way at once, each topic in order: the ledger looks.
#[test]
fn messages_of_a_topic_stay_in_order() {
    let site = Site::start();
    let mut party = Party::new(vec![site.gateway("g1"), site.gateway("g2")]);
    let topics = topics_everywhere();
    for node in [0, 1] {
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[("t1/+", QoS::AtLeastOnce), ("t1/#", QoS::ExactlyOnce)]);
        let literal: Vec<_> = topics.iter().map(|topic| (*topic, QoS::ExactlyOnce)).collect();
        party.subscriber(node, &literal);
        party.publisher(node, &topics[..3], &DURABLE);
        party.publisher(node, &topics, &DURABLE);
    }
    party.all_subscribed();
    party.publish_until_acknowledged("publishing", 2_000);
    party.all_arrived();
}
