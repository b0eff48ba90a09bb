//! Links between gateways and servers that break, or let nothing through.

use super::device::{Device, Hello};
use super::party::{DURABLE, Party, parameter};
use super::proxy::Proxy;
use super::site::{Node, Site, topics_at};
use gateway::proto::mqtt::QoS;
use std::time::Duration;

/// The sub-cluster whose link suffers, as its place in the ring.
const VICTIM: usize = 1;

/// How long a link stays cut, seconds: `CUT_SECONDS`.
fn cut_time() -> Duration {
    Duration::from_secs(parameter("CUT_SECONDS", 2))
}

/// A gateway that reaches one sub-cluster through a proxy.
fn behind_proxy(site: &Site) -> (Node, Proxy) {
    let mut addresses = site.addresses();
    let proxy = Proxy::start(addresses[VICTIM]);
    addresses[VICTIM] = proxy.address();
    (Node::start("g1", &addresses), proxy)
}

/// Subscribers behind the proxy, publishers at both gateways.
fn gather(site: &Site) -> (Party, Proxy) {
    let (mut node, proxy) = behind_proxy(site);
    node.wait_until_live(3);
    let mut party = Party::new(vec![node, site.gateway("g2")]);
    let victims = topics_at(VICTIM as u16, 4);
    let others = [topics_at(0, 2), topics_at(2, 2)].concat();
    for node in [0, 1] {
        party.publisher(node, &victims, &DURABLE);
        party.publisher(node, &others, &DURABLE);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[(victims[0], QoS::ExactlyOnce), (others[0], QoS::ExactlyOnce)]);
    }
    party.subscriber(0, &[("t1/+", QoS::AtLeastOnce), ("t0/#", QoS::AtLeastOnce)]);
    party.all_subscribed();
    (party, proxy)
}

#[test]
fn what_came_while_a_link_was_cut_comes_once_and_in_order() {
    let site = Site::start();
    let (mut party, mut proxy) = gather(&site);
    for cut in 0..2 {
        party.publish_until_acknowledged(&format!("before cut {cut}"), 200);
        proxy.cut();
        party.publish_for(&format!("cut {cut}"), cut_time());
        proxy.mend();
        party.publish_until_acknowledged(&format!("after cut {cut}"), 50);
    }
    party.all_arrived();
}

/// A firewall that forgot the connection: no end of it is seen.
#[test]
fn a_link_that_lets_nothing_through_is_noticed_and_replaced() {
    let site = Site::start();
    let (mut party, mut proxy) = gather(&site);
    party.publish_until_acknowledged("before", 200);
    proxy.swallow();
    party.publish_for("nothing gets through", Duration::from_millis(500));
    proxy.mend();
    party.all_arrived();
    party.publish_until_acknowledged("after", 200);
    party.all_arrived();
}

/// Sessions that come back while the link is cut get what they missed once it is mended.
#[test]
fn sessions_that_come_back_while_a_link_is_cut_miss_nothing() {
    let site = Site::start();
    let (mut party, mut proxy) = gather(&site);
    party.publish_until_acknowledged("before", 100);
    (0..party.peer_count()).for_each(|peer| party.send_away(peer));
    party.call_back_node(1);
    party.publish_until_acknowledged("while they are away", 100);
    proxy.cut();
    party.call_back();
    party.publish_for("back without the link", Duration::from_millis(500));
    proxy.mend();
    party.all_arrived();
}

/// A subscription is granted although a sub-cluster cannot be reached: what is published later is
/// its, also what is stored before the gateway finds the sub-cluster.
#[test]
fn a_gateway_started_without_a_sub_cluster_misses_nothing_of_it() {
    let site = Site::start();
    let (mut node, mut proxy) = {
        let mut addresses = site.addresses();
        // So that streams are there.
        site.gateway("g0").stop();
        let mut proxy = Proxy::start(addresses[VICTIM]);
        proxy.cut();
        addresses[VICTIM] = proxy.address();
        (Node::start("g1", &addresses), proxy)
    };
    let other = site.gateway("g2");
    let topics = topics_at(VICTIM as u16, 3);
    let mut live = Device::brief(node.address().unwrap(), "live");
    live.listen(&topics, QoS::AtLeastOnce);
    let mut lasting = Device::connect(node.address().unwrap(), "lasting", Hello::LASTING).0;
    lasting.listen(&["#"], QoS::AtLeastOnce);
    let mut device = Device::brief(other.address().unwrap(), "device");
    for topic in &topics {
        device.publish(topic, QoS::AtLeastOnce, topic);
    }
    proxy.mend();
    node.wait_until_live(3);
    for topic in &topics {
        device.publish(topic, QoS::AtLeastOnce, "last");
    }
    for client in [&mut live, &mut lasting] {
        let messages = client.messages(2 * topics.len());
        let early = messages.iter().filter(|message| message.text() == message.topic).count();
        assert_eq!(early, topics.len());
    }
}
