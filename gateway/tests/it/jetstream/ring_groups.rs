//! Groups of shared subscriptions while a share of the ring goes to a fourth sub-cluster and comes back.

use super::party::{DURABLE, Party};
use super::ring_site::{RingSite, topics};
use gateway::proto::mqtt::QoS;

/// Topics of each kind: those that move, and those that stay.
const TOPICS: usize = 6;

/// Members at both gateways, and members of other groups, of which nobody reads for a while: what was stored
/// before they went and what is stored until they are back comes when they are.
#[test]
fn groups_get_everything_whoever_has_its_topic() {
    let site = RingSite::start();
    let mut party = Party::new(site.nodes("local").into());
    let (moves, stays) = topics("t/", TOPICS);
    let all: Vec<_> = moves.iter().chain(&stays).copied().collect();
    let of = |group: &str, filter: &str| &*format!("$share/{group}/{filter}").leak();
    for node in [0, 1] {
        party.publisher(node, &all, &DURABLE);
        party.publisher(node, &moves, &[QoS::AtLeastOnce]);
        party.subscriber(node, &[(of("all", "#"), QoS::AtLeastOnce)]);
        let literal = moves.iter().map(|topic| (of("each", topic), QoS::ExactlyOnce));
        party.subscriber(node, &literal.collect::<Vec<_>>());
    }
    let sleepers = [party.peer_count(), party.peer_count() + 1];
    party.subscriber(0, &[(of("wide", "t/#"), QoS::AtLeastOnce)]);
    let literal = all.iter().map(|topic| (of("narrow", topic), QoS::ExactlyOnce));
    party.subscriber(1, &literal.collect::<Vec<_>>());
    party.all_subscribed();
    for command in ["add", "remove"] {
        party.publish_until_acknowledged("all are there", 100);
        party.all_arrived();
        sleepers.iter().for_each(|peer| party.send_away(*peer));
        party.publish_until_acknowledged("nobody reads for some", 150);
        site.change(&mut party, command);
        party.publish_until_acknowledged("changed", 150);
        party.call_back();
        party.publish_until_acknowledged("all are back", 100);
        party.all_arrived();
    }
    assert!(!site.stored_at_taker().is_empty());
}
