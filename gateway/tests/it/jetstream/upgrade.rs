//! A gateway in front of JetStream whose process is replaced while its clients stay.

use super::site::{Node, Site};
use crate::upgrade::fleet::Fleet;
use crate::upgrade::{finish, heir_of, upgrade_under};

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
