//! A server with the only copy of its stream is killed, and comes back on what it stored.

use super::party::{DURABLE, Party, parameter};
use super::site::{Site, topics_at};
use gateway::proto::mqtt::QoS;
use std::time::Duration;

/// The sub-cluster that suffers, as its place in the ring.
const VICTIM: usize = 1;

/// At each of two gateways a publisher for each sub-cluster, and subscribers of all sorts.
fn gather(site: &Site) -> Party {
    let mut party = Party::new(vec![site.gateway("g1"), site.gateway("g2")]);
    for node in [0, 1] {
        for place in 0..3 {
            let topics = topics_at(place, 3);
            party.publisher(node, &topics, &DURABLE);
            party.subscriber(node, &[(topics[0], QoS::ExactlyOnce), (topics[1], QoS::ExactlyOnce)]);
        }
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        party.subscriber(node, &[("t0/#", QoS::AtLeastOnce), ("t1/+", QoS::AtLeastOnce)]);
    }
    party.all_subscribed();
    party
}

/// `KILLS` says how often, `SEED` after how many messages.
#[test]
fn a_server_that_is_killed_and_comes_back_has_lost_nothing() {
    let mut site = Site::start();
    let mut party = gather(&site);
    for kill in 0..parameter("KILLS", 2) {
        let more = usize::try_from(50 + party.random.below(200)).unwrap();
        party.publish_until_acknowledged(&format!("kill {kill}"), more);
        site.servers[VICTIM].kill();
        party.publish_for("without the server", Duration::from_millis(500));
        site.servers[VICTIM].start_again();
        site.servers[VICTIM].wait_until_ready();
        let topics = topics_at(VICTIM as u16, 3);
        let before = party.ledger.acknowledged_on(&topics);
        party.go_on("the server is back", true, |party| {
            party.ledger.acknowledged_on(&topics) > before + 40
        });
    }
    party.all_arrived();
}

#[test]
fn what_other_servers_have_goes_on_meanwhile() {
    let mut site = Site::start();
    let mut party = gather(&site);
    party.publish_until_acknowledged("before", 200);
    party.all_arrived();
    site.servers[VICTIM].kill();
    let lost = topics_at(VICTIM as u16, 3);
    let others: Vec<_> = [0, 2].into_iter().flat_map(|place| topics_at(place, 3)).collect();
    // What the server acknowledged just before it died may still come in.
    party.publish_until_acknowledged("after the kill", 50);
    let before = party.ledger.acknowledged_on(&lost);
    // Longer than any silence that a link accepts, in messages: nobody notices.
    let wanted = party.ledger.acknowledged_on(&others) + 2_000;
    party
        .go_on("without the server", true, |party| party.ledger.acknowledged_on(&others) >= wanted);
    party.go_on("what others have arrives", false, |party| {
        party.ledger.missing_on(&others).is_empty()
    });
    assert_eq!(party.ledger.acknowledged_on(&lost), before, "publishers are held");
    site.servers[VICTIM].start_again();
    site.servers[VICTIM].wait_until_ready();
    party.all_arrived();
    assert!(party.ledger.acknowledged_on(&lost) > before, "and go on");
}
