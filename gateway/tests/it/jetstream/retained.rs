//! Retained messages: who comes later gets the newest, whichever gateway it was published through.

use super::device::{Device, Hello, Received, at};
use super::party::now;
use super::site::{Site, topics_at};
use crate::process::gateway::PATIENCE;
use gateway::proto::mqtt::{QoS, RetainHandling, SubscriptionOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A retained message that is asked for behind others: then those have come. Nothing but itself
/// matches it.
const LAST: &str = "$last";

/// What a new subscriber to `filter` finds retained. Somebody has retained [`LAST`].
fn found(address: SocketAddr, filter: &str) -> BTreeMap<String, String> {
    let mut subscriber = Device::brief(address, "newcomer");
    subscriber.listen(&[filter], QoS::ExactlyOnce);
    // Those of QoS 0 that come live only now are none that it found.
    let mut messages = until_last(&mut subscriber);
    messages.retain(|message| message.retain);
    let pairs: Vec<_> =
        messages.iter().map(|message| (message.topic.clone(), message.text().to_owned())).collect();
    let map: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(map.len(), pairs.len(), "each once: {pairs:?}");
    map
}

/// The messages that came up to now, retained ones of earlier subscriptions among them.
fn until_last(subscriber: &mut Device) -> Vec<Received> {
    subscriber.listen(&[LAST], QoS::ExactlyOnce);
    subscriber.messages_before(LAST)
}

/// A client that has retained [`LAST`].
fn retainer(address: SocketAddr) -> Device {
    let mut device = Device::brief(address, "device");
    device.retain(LAST, QoS::AtLeastOnce, LAST);
    device
}

/// Waits until a new subscriber finds this: nothing tells when QoS 0 is retained.
#[track_caller]
fn wait_for(address: SocketAddr, filter: &str, expected: &BTreeMap<String, String>) {
    let started = now();
    loop {
        let found = found(address, filter);
        if found == *expected {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{filter}: {found:?} instead of {expected:?}");
    }
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(topic, text)| (topic.to_owned(), text.to_owned())).collect()
}

#[test]
fn newcomers_of_any_gateway_find_what_is_retained_until_it_is_cleared() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let topics: Vec<&str> = (0..3).flat_map(|place| topics_at(place, 4)).collect();
    let mut device = retainer(here);
    for qos in ALL_QOS {
        for text in ["old", "new"] {
            for topic in &topics {
                device.retain(topic, qos, text);
            }
        }
        let everything = map(topics.iter().map(|topic| (*topic, "new")));
        // Acknowledged, it is there at once.
        for address in [there, here] {
            if qos == QoS::AtMostOnce {
                wait_for(address, "#", &everything);
            }
            assert_eq!(found(address, "#"), everything, "{qos:?}");
            for topic in &topics {
                assert_eq!(found(address, topic), map([(*topic, "new")]), "{qos:?}");
            }
            let levels = topics.iter().filter(|topic| topic.starts_with("t1/"));
            assert_eq!(found(address, "t1/+"), map(levels.map(|topic| (*topic, "new"))));
        }
        for topic in &topics {
            device.retain(topic, qos, "");
        }
        for address in [there, here] {
            if qos == QoS::AtMostOnce {
                wait_for(address, "#", &map([]));
            }
            assert_eq!(found(address, "#"), map([]), "{qos:?}");
            assert_eq!(found(address, topics[0]), map([]), "{qos:?}");
        }
    }
}

#[test]
fn retained_messages_are_sent_as_the_subscription_asks() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = retainer(here);
    for topic in ["h", "h/1", "h//2", "$h/1"] {
        device.retain(topic, QoS::AtLeastOnce, "x");
    }
    assert_eq!(found(there, "h/#"), map([("h", "x"), ("h/1", "x"), ("h//2", "x")]));
    assert_eq!(found(there, "h/+"), map([("h/1", "x")]));
    assert_eq!(found(there, "h/+/2"), map([("h//2", "x")]));
    assert_eq!(found(there, "$h/#"), map([("$h/1", "x")]));
    assert_eq!(found(there, "+/1"), map([("h/1", "x")]), "$ only where it is written");

    let with = |retain_handling| SubscriptionOptions { retain_handling, ..at(QoS::AtLeastOnce) };
    let mut client = Device::brief(there, "client");
    let mut count = |handling| {
        client.subscribe(&[("h/1", with(handling))]);
        until_last(&mut client).len()
    };
    assert_eq!(count(RetainHandling::DoNotSend), 0);
    assert_eq!(count(RetainHandling::SendIfNew), 0);
    assert_eq!(count(RetainHandling::SendAtSubscribe), 1);
    assert_eq!(count(RetainHandling::SendAtSubscribe), 1);
    client.unsubscribe(&["h/1"]);
    client.subscribe(&[("h/1", with(RetainHandling::SendIfNew))]);
    assert_eq!(until_last(&mut client).len(), 1);

    // Live, the flag comes only to who wants it as published.
    let published = SubscriptionOptions { retain_as_published: true, ..at(QoS::AtLeastOnce) };
    let mut bridge = Device::brief(there, "bridge");
    bridge.subscribe(&[("live", published)]);
    client.listen(&["live"], QoS::AtLeastOnce);
    for qos in ALL_QOS {
        device.retain("live", qos, "x");
        assert!(bridge.message().retain && !client.message().retain, "{qos:?}");
    }
    client.ping();
    bridge.ping();
    assert!(client.take().is_empty() && bridge.take().is_empty());
}

/// The stream has one order, and so have those that publish through different gateways.
#[test]
fn of_two_gateways_that_publish_at_once_the_later_message_is_retained() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let addresses = [0, 1].map(|number| nodes[number].address().unwrap());
    let topics: Vec<&str> = (0..3).flat_map(|place| topics_at(place, 2)).collect();
    let mut watcher = Device::brief(addresses[0], "watcher");
    watcher.listen(&["#"], QoS::ExactlyOnce);
    retainer(addresses[0]);
    let publish = |place: usize, topics: Vec<&'static str>| {
        let mut device = Device::brief(addresses[place], &format!("device-{place}"));
        std::thread::spawn(move || {
            for number in 0..40 {
                for topic in &topics {
                    let qos = ALL_QOS[1 + number % 2];
                    device.retain(topic, qos, format!("{place}-{number}"));
                }
            }
        })
    };
    let all = || (0..3).flat_map(|place| topics_at(place, 2)).collect();
    let threads = [publish(0, all()), publish(1, all())];
    let mut last = BTreeMap::new();
    for message in watcher.messages(2 * 40 * topics.len()) {
        last.insert(message.topic.clone(), message.text().to_owned());
    }
    for thread in threads {
        thread.join().unwrap();
    }
    for address in addresses {
        assert_eq!(found(address, "#"), last);
    }
}

/// More than a page of them, with and without wildcard.
#[test]
fn many_retained_messages_all_come() {
    let site = Site::start();
    let node = site.gateway("g1");
    let mut device = retainer(node.address().unwrap());
    let topics: BTreeSet<String> = (0..1_500).map(|number| format!("many/{number}")).collect();
    for topic in &topics {
        device.retain(topic, QoS::AtMostOnce, "x");
    }
    device.retain("many", QoS::AtLeastOnce, "x");
    let mut expected = map(topics.iter().map(|topic| (topic.as_str(), "x")));
    expected.insert("many".to_owned(), "x".to_owned());
    wait_for(node.address().unwrap(), "many/#", &expected);
}

/// What was there before a session subscribed is nothing that it missed, retained or not. A shard
/// that had no filter for it had not heard of it, and gave it to the session that came back.
#[test]
fn a_session_that_comes_back_gets_nothing_from_before_it_subscribed() {
    let site = Site::start();
    let node = site.gateway("g1");
    let address = node.address().unwrap();
    let mut device = Device::brief(address, "device");
    device.publish("r/3", QoS::AtLeastOnce, "too early");
    device.retain("r/1", QoS::AtLeastOnce, "kept");
    let (mut client, _) = Device::connect(address, "client", Hello::LASTING);
    client.listen(&["r/#"], QoS::AtLeastOnce);
    assert!(client.message().retain);
    drop(client);
    device.publish("r/2", QoS::AtLeastOnce, "missed");
    let (mut client, welcome) = Device::connect(address, "client", Hello::LASTING);
    assert!(welcome.session_present);
    let message = client.message();
    assert_eq!((message.text(), message.retain), ("missed", false));
}

/// The question for what is retained is answered within a tenth of a second, and finds what was stored
/// meanwhile. Of QoS 0 nothing tells where what came live is stored.
#[test]
fn what_comes_live_while_a_subscription_looks_comes_once() {
    let site = Site::start();
    let nodes = [site.gateway("g1"), site.gateway("g2")];
    let [here, there] = [0, 1].map(|number| nodes[number].address().unwrap());
    let mut device = retainer(here);
    let mut client = Device::brief(there, "client");
    for number in 0..40 {
        let topic = format!("live/{number}");
        client.listen(&[&topic], QoS::AtLeastOnce);
        device.retain(&topic, ALL_QOS[number % 2], "x");
        assert!(!client.message().retain, "{topic}");
        assert_eq!(until_last(&mut client), [], "{topic}");
    }
}
