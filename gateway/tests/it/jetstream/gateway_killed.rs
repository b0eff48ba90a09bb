//! The gateway is killed, or stopped, while clients rely on it.

use super::party::{DURABLE, Party, parameter};
use super::site::{Site, topics_at};
use gateway::proto::mqtt::{QoS, ReasonCode};

/// Kills of a run that nobody asked to be longer.
const KILLS_DEFAULT: u64 = 4;
/// Messages acknowledged between two kills, at most.
const MESSAGES_PER_KILL: u64 = 150;

/// Publishers and subscribers at two gateways. The first one is to suffer.
fn gather(site: &Site) -> Party {
    let mut party = Party::new(vec![site.gateway("g1"), site.gateway("g2")]);
    let topics: Vec<_> = (0..3).flat_map(|place| topics_at(place, 3)).collect();
    for node in [0, 1] {
        party.publisher(node, &topics, &DURABLE);
        party.publisher(node, &topics[..4], &[QoS::ExactlyOnce]);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        let literal: Vec<_> = topics.iter().map(|topic| (*topic, QoS::ExactlyOnce)).collect();
        party.subscriber(node, &literal[..5]);
    }
    party.subscriber(0, &[("t1/#", QoS::AtLeastOnce)]);
    party.all_subscribed();
    party
}

/// `SEED` chooses the moments, `KILLS` how many.
#[test]
fn killed_at_any_moment_it_keeps_its_promises() {
    let site = Site::start();
    let mut party = gather(&site);
    for kill in 0..parameter("KILLS", KILLS_DEFAULT) {
        let more = 1 + party.random.below(MESSAGES_PER_KILL);
        let more = usize::try_from(more).unwrap();
        party.publish_until_acknowledged(&format!("kill {kill}"), more);
        party.nodes[0].kill();
        party.nodes[0].start_again();
    }
    party.all_arrived();
}

#[test]
fn terminated_while_busy_it_loses_nothing() {
    let site = Site::start();
    let mut party = gather(&site);
    for stop in 0..2 {
        party.publish_until_acknowledged(&format!("stop {stop}"), 200);
        party.nodes[0].terminate();
        party.go_on("stopping", true, |party| party.nodes[0].has_ended());
        party.nodes[0].stop();
        party.nodes[0].start_again();
    }
    party.all_arrived();
    let goodbyes = party.disconnected.iter();
    let goodbyes = goodbyes.filter(|reason| **reason == ReasonCode::ServerShuttingDown).count();
    assert_eq!(goodbyes, 2 * 5, "each of its clients hears why");
}
