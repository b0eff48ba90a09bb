//! Single interleavings that once lost or doubled something, each played out step by step.

use super::super::world::Broken;
use super::world::World;
use gateway::proto::bridge::ring::Ring;
use gateway::proto::mqtt::{ProtocolVersion, QoS};
use std::time::Duration;

/// Which of the answers of servers may leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Answered,
    /// Direct Get is not answered.
    Withheld,
}

impl World {
    /// Two partitions whose streams have so many replicas, and everyone connected to one gateway.
    fn calm(replicas: u8, has_sessions: bool) -> Self {
        let mut world = Self::with(1, 7, has_sessions);
        for server in &mut world.servers {
            server.replicas = replicas;
        }
        world
    }

    fn seconds(&mut self, count: u32) {
        for _ in 0..count {
            self.calm_second().unwrap_or_else(|Broken(what)| panic!("{what}"));
        }
    }

    /// Everything moves that can, but nobody connects who is not.
    fn run(&mut self, reads: Reads) {
        self.run_with(reads, true);
    }

    /// The same; with `answers` clients acknowledge what they get.
    fn run_with(&mut self, reads: Reads, answers: bool) {
        for _ in 0..200 {
            for actor in 0..self.actors.len() {
                while answers && self.actors[actor].client.has_answers() {
                    self.actors[actor].client.answer_one();
                }
            }
            self.exchange().unwrap_or_else(|Broken(what)| panic!("{what}"));
            self.answer_dials();
            self.collect();
            for pipe in (0..self.pipes.len()).rev() {
                self.pump_link(pipe, true);
                self.pump_link(pipe, false);
            }
            for server in &mut self.servers {
                (0..3).for_each(|stream| while server.model.step_stream(stream) {});
                if reads == Reads::Answered {
                    while server.model.look_up(0) {}
                    while server.model.step_answer(0) {}
                }
            }
            self.node(0).advance(Duration::ZERO);
            while self.node(0).perform_one() {}
        }
    }

    /// The partition that owns a topic.
    fn partition_of(topic: &str) -> usize {
        usize::from(Ring::new(&super::world::ring()).owner(topic).0)
    }

    /// Two topics of one partition.
    fn neighbours() -> [&'static str; 2] {
        let all = super::world::TOPICS.into_iter().filter(|topic| !topic.starts_with("r/"));
        let [mut of_first, mut of_second] = [Vec::new(), Vec::new()];
        for topic in all {
            [&mut of_first, &mut of_second][Self::partition_of(topic)].push(topic);
        }
        let enough = [of_first, of_second].into_iter().find(|topics| topics.len() > 1);
        let enough = enough.expect("four topics in two partitions");
        [enough[0], enough[1]]
    }

    /// Two topics of different partitions.
    fn apart() -> [&'static str; 2] {
        let other = |of: usize| {
            let mut topics = super::world::TOPICS.into_iter();
            topics.find(|topic| Self::partition_of(topic) == of && !topic.starts_with("r/"))
        };
        [0, 1].map(|partition| other(partition).expect("four topics in two partitions"))
    }

    fn finish(mut self) -> Self {
        self.calm_down().unwrap_or_else(|Broken(what)| panic!("{what}"));
        self
    }
}

/// A leader stores a message and passes it on to nobody before another takes over, while a session
/// reads back what it missed, and goes away before the link is made anew.
#[test]
fn the_end_of_a_replay_confirms_nothing_where_leadership_moves() {
    let mut world = World::calm(3, false);
    let [topic, other] = World::neighbours();
    let server = World::partition_of(topic);
    let sub = world.add("sub".to_owned(), true, vec![(topic, QoS::AtLeastOnce)], false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    world.cut(sub);
    world.run(Reads::Answered);
    world.publish(publisher, topic, QoS::AtLeastOnce);
    world.run(Reads::Answered);
    world.connect(sub);
    world.run(Reads::Withheld);
    // It is stored, and nobody hears of that.
    world.publish(publisher, topic, QoS::AtLeastOnce);
    world.exchange().unwrap_or_else(|Broken(what)| panic!("{what}"));
    world.node(0).advance(Duration::ZERO);
    world.collect();
    for pipe in 0..world.pipes.len() {
        world.pump_link(pipe, true);
    }
    world.servers[server].model.elect();
    // What the new leader says takes the feed past it.
    world.publish(publisher, other, QoS::AtLeastOnce);
    world.run(Reads::Withheld);
    world.run(Reads::Answered);
    world.cut(sub);
    world.run(Reads::Answered);
    world.seconds(1);
    world.finish();
}

/// A client's only place in its window is taken by a message of a sub-cluster that is away.
#[test]
fn a_message_in_flight_of_a_partition_that_is_away_keeps_back_nothing_of_others() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = World::calm(1, false);
        let [topic, other] = World::apart();
        let away = World::partition_of(topic);
        let wanted = vec![(topic, qos), (other, qos)];
        let sub = world.add("sub".to_owned(), true, wanted, false);
        world.actors[sub].client.profile.version = ProtocolVersion::V5;
        world.actors[sub].client.profile.receive_maximum = 1;
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        world.actors[publisher].client.profile.window = 100;
        world.seconds(4);
        let first = world.publish(publisher, topic, qos);
        world.run_with(Reads::Answered, false);
        assert!(!world.ledger.is_missing(first), "it has come");
        world.cut(sub);
        world.run(Reads::Answered);
        // Behind it in the queue of the session.
        world.publish(publisher, topic, qos);
        world.run(Reads::Answered);
        world.stop_server(away, false);
        world.crash(0);
        world.seconds(3);
        let mut later = Vec::new();
        for _ in 0..5 {
            later.push(world.publish(publisher, other, qos));
            world.seconds(1);
        }
        assert!(later.iter().all(|one| world.ledger.is_acknowledged(*one)));
        let missing: Vec<u64> =
            later.into_iter().filter(|one| world.ledger.is_missing(*one)).collect();
        assert!(missing.is_empty(), "{missing:?} with {qos:?} wait for a partition that is away");
        world.finish();
    }
}
