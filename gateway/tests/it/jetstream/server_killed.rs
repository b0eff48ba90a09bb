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
    join(&mut party);
    party
}

fn join(party: &mut Party) {
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

/// A server with the only copy loses what it stored last, as in a power cut, and uses those sequences again:
/// what is stored then arrives, for clients that stay and for those that were away, and other sub-clusters
/// notice nothing. `KILLS` says how often.
#[test]
fn what_comes_after_a_power_cut_arrives() {
    let site = Site::start();
    let party = gather(&site);
    cut_power(site, party, |_| {});
}

/// The records of sessions are lost with the rest: gateways write again what they have, also of those that are
/// away, which then connect to any.
#[test]
fn what_comes_after_a_power_cut_arrives_where_sessions_are_shared() {
    let site = Site::start();
    let mut party = Party::new(site.gateways_with_shared_sessions().into());
    join(&mut party);
    cut_power(site, party, Party::roam);
}

/// `before_return` is called before those that were away come back.
fn cut_power(mut site: Site, mut party: Party, before_return: impl Fn(&mut Party)) {
    let topics = topics_at(VICTIM as u16, 3);
    for kill in 0..parameter("KILLS", 2) {
        party.publish_until_acknowledged(&format!("cut {kill}"), 200);
        party.all_arrived();
        let lost_from = party.ledger.count();
        let copy = site.servers[VICTIM].copy_store();
        party.publish_until_acknowledged("to be lost", 300);
        // Some go away with what will be lost, and some with nothing of it.
        let mut away = party.subscribers();
        away.retain(|_| party.random.below(3) == 0);
        away.iter().for_each(|peer| party.send_away(*peer));
        party.publish_for("to be lost", Duration::from_millis(500));
        site.servers[VICTIM].kill();
        party.publish_for("without the server", Duration::from_millis(200));
        party.ledger.lose(lost_from, &topics);
        site.servers[VICTIM].put_store_back(&copy);
        site.servers[VICTIM].start_again();
        site.servers[VICTIM].wait_until_ready();
        let before = party.ledger.acknowledged_on(&topics);
        party.go_on("the server is back", true, |party| {
            party.ledger.acknowledged_on(&topics) > before + 150
        });
        before_return(&mut party);
        party.call_back();
        party.all_arrived();
    }
    let log = party.nodes[0].log();
    assert!(log.contains("the server has lost the end of the stream"), "{log}");
}
