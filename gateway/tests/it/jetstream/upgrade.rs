//! A gateway in front of JetStream whose process is replaced while its clients stay.

use super::site::{Node, Site};
use crate::upgrade::fleet::Fleet;
use crate::upgrade::{finish, heir_of, upgrade_under, why_not};

/// What is on its way between servers and gateway at QoS 0 is nobody's; everything else is exact.
#[test]
fn clients_do_not_notice_an_upgrade() {
    let site = Site::start();
    let node: Node = site.gateway("g1");
    let address = node.address().unwrap();
    let mut fleet = Fleet::gather(address, 8, 1..3);
    fleet.publish_until(|fleet| fleet.done_by_all() > 10);
    let former = heir_of(&upgrade_under(&mut fleet, node.data(), &[]));
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 10);
    let heir = heir_of(&upgrade_under(&mut fleet, node.data(), &[]));
    former.was_replaced_by(&heir);
    let done = fleet.done_by_all();
    fleet.publish_until(|fleet| fleet.done_by_all() > done + 10);
    fleet.all_arrived();
    drop(fleet);
    let (gateway, _data) = node.into_gateway();
    finish(gateway, heir);
}

/// Any gateway can have the clients: one is drained, not replaced under them. Asking costs nobody anything.
#[test]
fn with_shared_sessions_a_gateway_is_drained_instead() {
    let site = Site::start();
    let [first, mut second] = site.gateways_with_shared_sessions();
    let mut fleet = Fleet::gather(first.address().unwrap(), 4, 1..3);
    fleet.publish_until(|fleet| fleet.done_by_all() > 5);
    let why = why_not(&upgrade_under(&mut fleet, first.data(), &[]));
    assert!(why.contains("sessions") && why.contains("drain this one"), "{why}");
    fleet.all_arrived();
    drop(fleet);
    let (mut gateway, _data) = first.into_gateway();
    gateway.terminate();
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.log());
    second.stop();
}
