//! Single interleavings of a ring change, each played out step by step.

use super::super::world::Broken;
use super::directed::Reads;
use super::ring_change::{begin_with_three_members, end};
use super::world::{HELD_BYTES_MAX, TOPICS, World, ring};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::mqtt::QoS;
use std::time::Duration;

/// A topic that moves from partition 1, and one of them that is retained.
const MOVES: &str = "a/1";
const RETAINED_MOVES: &str = "r/2";

impl World {
    /// One gateway, and a member without topics beside the two that have them.
    fn before_a_change(has_sessions: bool) -> Self {
        begin_with_three_members();
        Self::calm(1, has_sessions)
    }

    /// The next change of the ring is made; nobody connects who is not.
    fn change_ring(&mut self) {
        let count = ring().takeovers().len();
        for _ in 0..10 {
            if ring().takeovers().len() == count {
                self.coordinate(false);
            }
            self.tell_all();
            self.run(Reads::Answered);
        }
        assert_eq!(ring().takeovers().len(), count + 1, "it is taken over");
        let at = if count.is_multiple_of(2) { 2 } else { 1 };
        let moved = [MOVES, RETAINED_MOVES].map(|topic| Ring::new(&ring()).owner(topic).0);
        assert_eq!(moved, [at, at]);
    }

    /// The change under way goes on, while only these servers answer what they are asked.
    fn step_change(&mut self, gateways: &[usize], servers: &[usize]) {
        self.coordinate(false);
        gateways.iter().for_each(|gateway| self.tell_ring(*gateway));
        self.run_answered_by(servers);
    }

    fn check(result: Result<(), Broken>) {
        result.unwrap_or_else(|Broken(what)| panic!("{what}"));
    }
}

/// A gateway dies between storing a message and retaining it, and the topic moves before the message
/// comes again.
#[test]
fn what_was_stored_before_its_topic_moved_is_retained_where_it_is_now() {
    let mut world = World::before_a_change(false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    // This one is copied.
    world.publish(publisher, RETAINED_MOVES, QoS::ExactlyOnce);
    world.seconds(1);
    let last = world.publish(publisher, RETAINED_MOVES, QoS::ExactlyOnce);
    world.run(Reads::Withheld);
    assert_eq!(world.stored_on(RETAINED_MOVES).last(), Some(&last));
    assert!(!world.ledger.is_acknowledged(last));
    world.crash(0);
    world.change_ring();
    world.seconds(4);
    assert!(world.ledger.is_acknowledged(last));
    World::check(world.check_retained());
    world.finish();
    end();
}

/// Messages of a topic that has moved are in flight from where it was and from where it is, and who has
/// the later ones is the first to say what they were.
#[test]
fn what_is_sent_again_keeps_its_order_after_its_topic_moved() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = World::before_a_change(false);
        let sub = world.add("sub".to_owned(), true, vec![(MOVES, qos)], false);
        world.actors[sub].client.profile.receive_maximum = 8;
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        world.seconds(4);
        world.stall(sub);
        let first = world.publish(publisher, MOVES, qos);
        world.run(Reads::Answered);
        world.change_ring();
        let second = world.publish(publisher, MOVES, qos);
        world.run(Reads::Answered);
        assert!([first, second].iter().all(|one| world.ledger.is_acknowledged(*one)));
        world.cut(sub);
        world.run(Reads::Answered);
        world.crash(0);
        world.tell_all();
        world.run(Reads::Answered);
        world.connect(sub);
        world.run(Reads::Withheld);
        let taker = &mut world.servers[2].model;
        while taker.look_up(0) {}
        while taker.step_answer(0) {}
        world.run(Reads::Withheld);
        assert!([first, second].iter().all(|one| world.ledger.is_missing(*one)), "{qos:?}");
        world.run(Reads::Answered);
        assert!([first, second].iter().all(|one| !world.ledger.is_missing(*one)), "{qos:?}");
        world.finish();
        end();
    }
}

/// A session reads back what it missed, at a gateway that has not heard yet that the topic has moved; another
/// one publishes where it is now.
#[test]
fn what_is_read_before_a_takeover_is_known_keeps_its_order() {
    const FIRST: usize = 0;
    const GIVER: usize = 1;
    const TAKER: usize = 2;
    // Before the share is held, or meanwhile.
    for asks_before in [true, false] {
        begin_with_three_members();
        let mut world = World::with(2, 7, false);
        world.servers.iter_mut().for_each(|server| server.replicas = 1);
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        let wanted = vec![(MOVES, QoS::AtLeastOnce)];
        let sub = world.add("sub".to_owned(), true, wanted, false);
        assert_eq!((world.actors[publisher].gateway, world.actors[sub].gateway), (0, 1));
        let all = [FIRST, GIVER, TAKER];
        world.seconds(4);
        world.cut(sub);
        world.run_answered_by(&all);
        let first = world.publish(publisher, MOVES, QoS::AtLeastOnce);
        world.run_answered_by(&all);
        if asks_before {
            // It asks who is to take over, too, which answers later.
            world.stop_server(TAKER, false);
            world.connect(sub);
            world.run_answered_by(&[]);
            world.servers[TAKER].is_up = true;
        }
        world.coordinate(false);
        world.tell_all();
        // Links come back.
        for _ in 0..20 {
            world.run_answered_by(&[]);
            world.advance(Duration::from_millis(100));
        }
        if !asks_before {
            world.connect(sub);
            world.run_answered_by(&[FIRST, TAKER]);
        }
        world.step_change(&[0, 1], &[FIRST, TAKER]);
        assert!(ring().coming().is_some(), "its ends are known");
        world.step_change(&[0], &[FIRST, TAKER]);
        assert!(!ring().takeovers().is_empty(), "it is taken over");
        let second = world.publish(publisher, MOVES, QoS::AtLeastOnce);
        world.run_answered_by(&[FIRST, TAKER]);
        assert!([first, second].iter().all(|one| world.ledger.is_acknowledged(*one)));
        world.tell_ring(1);
        world.run_answered_by(&[FIRST, TAKER]);
        assert!([first, second].iter().all(|one| world.ledger.is_missing(*one)));
        world.run_answered_by(&all);
        world.seconds(1);
        assert!([first, second].iter().all(|one| !world.ledger.is_missing(*one)));
        world.finish();
        end();
    }
}

/// A topic is where it was at first again. A session that comes back reads there what comes before that, and
/// what came since only behind what it has where the topic was meanwhile.
#[test]
fn what_went_back_is_read_behind_what_is_where_it_was() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = World::before_a_change(false);
        world.coordinator.plan = &[(2, 1), (2, 0)];
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        let sub = world.add("sub".to_owned(), true, vec![("#", qos)], false);
        world.actors[publisher].client.profile.window = 8;
        world.actors[sub].client.profile.receive_maximum = 8;
        world.seconds(4);
        let earlier = world.publish(publisher, MOVES, qos);
        world.run(Reads::Answered);
        world.change_ring();
        world.cut(sub);
        world.run(Reads::Answered);
        let is_of_1 = |topic: &&str| Ring::new(&ring()).owner(topic).0 == 1;
        let stays = TOPICS.into_iter().find(is_of_1).unwrap();
        let [before, first] = [stays, MOVES].map(|topic| world.publish(publisher, topic, qos));
        world.run(Reads::Answered);
        world.change_ring();
        let [after, second] = [stays, MOVES].map(|topic| world.publish(publisher, topic, qos));
        world.run(Reads::Answered);
        let all = [before, first, after, second];
        assert!(all.iter().all(|one| world.ledger.is_acknowledged(*one)));
        assert_eq!(world.stored_on(MOVES), [earlier, second]);
        let missing = |world: &World| all.map(|one| world.ledger.is_missing(one));
        world.connect(sub);
        world.run_answered_by(&[0, 1]);
        assert_eq!(missing(&world), [false, true, true, true], "{qos:?}");
        world.run(Reads::Answered);
        assert_eq!(missing(&world), [false; 4], "{qos:?}");
        world.finish();
        end();
    }
}

/// A link to who gives its share away is dead when that happens, and what came there last has not come to a
/// gateway. What is published where the topic went waits there for that.
#[test]
fn what_went_back_comes_live_behind_what_is_where_it_was() {
    const GIVER: usize = 2;
    let mut world = {
        begin_with_three_members();
        World::with(2, 7, false)
    };
    world.servers.iter_mut().for_each(|server| server.replicas = 1);
    world.coordinator.plan = &[(2, 1), (2, 0)];
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    let sub = world.add("sub".to_owned(), true, vec![("#", QoS::AtLeastOnce)], false);
    assert_eq!((world.actors[publisher].gateway, world.actors[sub].gateway), (0, 1));
    let all = [0, 1, GIVER];
    world.seconds(4);
    for _ in 0..3 {
        world.step_change(&[0, 1], &all);
    }
    assert_eq!(ring().takeovers().len(), 1);
    world.seconds(1);
    let of_link = |pipe: &&mut super::world::Pipe| (pipe.gateway, pipe.server) == (1, GIVER);
    world.pipes.iter_mut().filter(of_link).for_each(|pipe| pipe.is_dead = true);
    let first = world.publish(publisher, MOVES, QoS::AtLeastOnce);
    world.run_answered_by(&all);
    for _ in 0..3 {
        world.step_change(&[0, 1], &all);
    }
    assert_eq!(ring().takeovers().len(), 2);
    let second = world.publish(publisher, MOVES, QoS::AtLeastOnce);
    world.run_answered_by(&all);
    assert!([first, second].iter().all(|one| world.ledger.is_acknowledged(*one)));
    assert!([first, second].iter().all(|one| world.ledger.is_missing(*one)));
    world.seconds(20);
    assert!([first, second].iter().all(|one| !world.ledger.is_missing(*one)));
    world.finish();
    end();
}

/// What is retained where a topic comes back to is of before: it was cleared since, or it is another one.
#[test]
fn what_was_retained_before_a_topic_left_is_not_when_it_is_back() {
    let mut world = World::before_a_change(false);
    world.coordinator.plan = &[(2, 1), (2, 0), (2, 1), (2, 0)];
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    for _ in 0..4 {
        let last = world.publish(publisher, RETAINED_MOVES, QoS::AtLeastOnce);
        world.run(Reads::Answered);
        assert!(world.ledger.is_acknowledged(last));
        World::check(world.check_retained());
        world.change_ring();
        World::check(world.check_retained());
    }
    world.finish();
    end();
}

/// So many bytes are held and no more: publishers to what moves wait with their PUBLISH, and others do not.
#[test]
fn so_many_bytes_are_held_while_a_topic_moves() {
    const PUBLISHERS: usize = 30;
    let mut world = World::before_a_change(false);
    for number in 0..PUBLISHERS {
        world.add(format!("pub-{number}"), true, Vec::new(), true);
    }
    world.seconds(4);
    world.coordinate(false);
    world.tell_all();
    world.run(Reads::Answered);
    let last = PUBLISHERS - 1;
    let held: Vec<_> = (0..last).map(|one| world.publish(one, MOVES, QoS::AtLeastOnce)).collect();
    world.run(Reads::Answered);
    let report = world.node(0).shard(0).jetstream().unwrap().report();
    let bytes = usize::try_from(report.held_bytes).unwrap();
    // The last one may go beyond, and has some 300 bytes.
    assert!((HELD_BYTES_MAX..HELD_BYTES_MAX + 400).contains(&bytes), "{bytes}");
    assert!(report.held < held.len() as u64);
    let stays = world.publish(last, "a/2", QoS::AtLeastOnce);
    world.run(Reads::Answered);
    assert!(world.ledger.is_acknowledged(stays));
    world.change_ring();
    world.seconds(2);
    assert!(held.iter().all(|one| world.ledger.is_acknowledged(*one)));
    world.finish();
    end();
}
