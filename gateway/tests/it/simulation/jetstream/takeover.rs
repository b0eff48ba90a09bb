//! A client comes back to a gateway that has its session in memory, on a connection that is half dead.

use super::world::World;
use gateway::proto::mqtt::QoS;
use std::time::Duration;

const TOPIC: &str = "a/1";
const BOTH: [usize; 2] = [0, 1];

/// A subscriber whose session is at the first gateway, and a publisher at the second.
fn begin() -> (World, usize, usize) {
    let mut world = World::with(2, 7, true);
    world.servers.iter_mut().for_each(|server| server.replicas = 1);
    let sub = world.add("sub".to_owned(), true, vec![(TOPIC, QoS::ExactlyOnce)], false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    for (actor, gateway) in [(sub, 0), (publisher, 1)] {
        world.cut(actor);
        world.run_answered_by(&BOTH);
        world.connect_to(actor, gateway);
        world.run_answered_by(&BOTH);
    }
    (world, sub, publisher)
}

impl World {
    fn is_online(&self, actor: usize) -> bool {
        self.is_connected(actor) && self.actors[actor].client.is_online()
    }

    /// Until something holds, or so many seconds are over.
    fn wait_for(&mut self, seconds: u64, servers: &[usize], holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now().after_seconds(u32::try_from(seconds).unwrap());
        while !holds(self) && self.now() < end {
            self.advance(Duration::from_millis(100));
            self.run_answered_by(servers);
        }
        holds(self)
    }
}

/// It had something in flight, which the client has had from another gateway meanwhile. The links of
/// the first are dead, so it has not heard of that.
#[test]
fn what_was_in_flight_is_not_sent_from_memory_before_the_session_is_known_to_be_here() {
    let (mut world, sub, publisher) = begin();
    world.stall(sub);
    let message = world.publish(publisher, TOPIC, QoS::ExactlyOnce);
    world.run_answered_by(&BOTH);
    assert!(world.ledger.is_missing(message));
    world.cut_off(0);
    world.connect_to(sub, 1);
    assert!(world.wait_for(5, &BOTH, |world| !world.ledger.is_missing(message)));
    world.connect_to(sub, 0);
    world.run_answered_by(&BOTH);
    assert!(!world.is_online(sub), "nobody has said whose session it is");
    world.cut_off = None;
    world.finish();
}

/// Of two gateways it is the other's, and this one asks for it as any gateway would.
#[test]
fn a_session_in_memory_that_another_gateway_has_is_asked_for() {
    let (mut world, sub, publisher) = begin();
    world.cut_off(0);
    world.connect_to(sub, 1);
    assert!(world.wait_for(5, &BOTH, |world| world.is_online(sub)));
    world.connect_to(sub, 0);
    world.run_answered_by(&BOTH);
    assert!(!world.is_online(sub));
    world.cut_off = None;
    let of_first = |world: &World| world.pipes.iter().rposition(|pipe| pipe.gateway == 0);
    while let Some(pipe) = of_first(&world).filter(|pipe| world.pipes[*pipe].is_dead) {
        world.cut_link(pipe);
    }
    let message = world.publish(publisher, TOPIC, QoS::ExactlyOnce);
    world.tell_all();
    assert!(world.wait_for(9, &BOTH, |world| world.is_online(sub)));
    assert_eq!(world.actors[sub].gateway, 0);
    assert!(world.wait_for(5, &BOTH, |world| !world.ledger.is_missing(message)));
    world.finish();
}

/// A storm of clients whose former connections are half dead costs two writes each, one of which was
/// there before: no reads, and nothing is subscribed to anew.
#[test]
fn a_takeover_costs_two_writes() {
    let (mut world, sub, _) = begin();
    let costs = |world: &World| {
        let written: u64 = world.servers.iter().map(|server| server.model.sessions.last).sum();
        let read: u64 = world.servers.iter().map(|server| server.model.read_count).sum();
        (written, read)
    };
    let (written, read) = costs(&world);
    world.connect_to(sub, 0);
    world.run_answered_by(&BOTH);
    assert!(world.is_online(sub));
    assert_eq!(costs(&world), (written + 2, read));
    world.finish();
}

/// A sub-cluster that is away stops the sessions whose home it is: a CONNECT waits for 10 s, and is
/// refused. Nothing is lost.
#[test]
fn while_its_home_is_away_a_connect_waits_and_is_refused() {
    let (mut world, sub, publisher) = begin();
    let home = World::partition_of("sub");
    world.stop_server(home, false);
    world.connect_to(sub, 0);
    assert!(!world.wait_for(9, &[1 - home], |world| !world.is_connected(sub)));
    assert!(!world.is_online(sub));
    assert!(world.wait_for(2, &[1 - home], |world| !world.is_connected(sub)));
    assert!(world.actors[sub].client.refused.is_some(), "it is not only cut off");
    let message = world.publish(publisher, TOPIC, QoS::ExactlyOnce);
    world.servers[home].is_up = true;
    let world = world.finish();
    assert!(!world.ledger.is_missing(message));
}
