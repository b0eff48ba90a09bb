//! Servers that lose what they had not synced lose what they acknowledged before. What comes after is kept and
//! delivered, although sequences are used again.

use super::directed::Reads;
use super::world::{TOPICS, Weather, World};
use super::{SEEDS_DEFAULT, STEPS, STORM, run_all, seeds};
use crate::simulation::world::Broken;
use gateway::proto::mqtt::{ProtocolVersion, QoS};
use gateway::upstream::jetstream::control::PartitionStatus;
use std::time::Duration;

const LOSSY: Weather = Weather { loses_tails: true, ..STORM };

fn run(mut world: World, weather: Weather) -> Result<usize, Broken> {
    world.populate(3, 4);
    for _ in 0..STEPS {
        world.step(weather)?;
    }
    world.calm_down()?;
    world.publish_everything();
    world.calm_down()?;
    world.check_retained()?;
    world.check_rest()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

#[test]
fn what_comes_after_a_lost_tail_is_delivered() {
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let acknowledged =
        run_all(seeds, |seed| run(World::new(usize::try_from(1 + seed % 2).unwrap(), seed), LOSSY));
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// The records of sessions are lost with the rest, and written again by the gateways that have them, or had
/// them last.
#[test]
fn what_comes_after_a_lost_tail_is_delivered_to_shared_sessions() {
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let weather = Weather { crash: 0, ..LOSSY };
    let acknowledged = run_all(seeds, |seed| {
        let mut world = World::with(2, seed, true);
        world.clients_stay = true;
        run(world, weather)
    });
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// Gateways crash as well, and clients go to any of them: what only those knew is lost with the tails, and
/// sessions are as they once were. All of them go on, and what comes after all that holds.
#[test]
fn what_is_lost_with_its_gateway_hinders_nothing() {
    let run = |seed| {
        let mut world = World::with(2, seed, true);
        world.forgives = true;
        world.populate(3, 4);
        for _ in 0..STEPS {
            world.step(LOSSY)?;
        }
        world.calm_down()?;
        world.forgive()?;
        let before = world.ledger.acknowledged_count();
        for _ in 0..3 {
            world.publish_everything();
            world.calm_down()?;
        }
        world.check_retained()?;
        world.check_rest()?;
        world.leave()?;
        Ok(world.ledger.acknowledged_count() - before)
    };
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, run);
    assert!(acknowledged >= count * 3 * 3 * TOPICS.len(), "{acknowledged} in {count} runs");
}

const TOPIC: &str = TOPICS[0];

/// A publisher and a subscriber that takes one message after the other, and what is stored so far is safe.
fn one_after_the_other(qos: QoS) -> (World, usize, usize) {
    let mut world = World::calm(1, false);
    let sub = world.add("sub".to_owned(), true, vec![(TOPIC, qos)], false);
    world.actors[sub].client.profile.version = ProtocolVersion::V5;
    world.actors[sub].client.profile.receive_maximum = 1;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    world.publish(publisher, TOPIC, qos);
    world.seconds(2);
    world.servers[World::partition_of(TOPIC)].model.messages.sync();
    (world, sub, publisher)
}

/// The server is back without what it had not synced, and is asked what it still has.
fn lose_tail(world: &mut World) {
    let server = World::partition_of(TOPIC);
    world.stop_server(server, true);
    world.servers[server].is_up = true;
    while world.servers[server].model.asked_count() == 0 {
        world.advance(Duration::from_millis(500));
        world.tell_all();
        world.run_with(Reads::Withheld, false);
    }
}

/// What is retained was stored in places that are given again: it is not taken for later than what is stored
/// there now.
#[test]
fn what_is_retained_is_replaced_where_its_message_was_lost() {
    const TOPIC: &str = TOPICS[4];
    let mut world = World::calm(1, false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    let server = World::partition_of(TOPIC);
    world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    world.seconds(2);
    world.servers[server].model.messages.sync();
    for _ in 0..3 {
        world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    }
    world.seconds(2);
    world.servers[server].model.retained.sync();
    world.stop_server(server, true);
    world.servers[server].is_up = true;
    world.seconds(4);
    let new = world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    world.seconds(4);
    assert!(world.ledger.is_acknowledged(new));
    world.check_retained().unwrap_or_else(|Broken(what)| panic!("{what}"));
}

/// A message was sent and not received, and the one that is stored in its place comes to others before the
/// client is back.
#[test]
fn what_was_in_flight_is_not_taken_for_what_is_in_its_place() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut world, sub, publisher) = one_after_the_other(qos);
        world.actors[sub].client.profile.receive_maximum = 8;
        let other = world.add("other".to_owned(), true, vec![(TOPIC, qos)], false);
        world.seconds(2);
        world.stall(sub);
        for _ in 0..2 {
            world.publish(publisher, TOPIC, qos);
            world.run(Reads::Answered);
        }
        world.cut(sub);
        world.run(Reads::Answered);
        lose_tail(&mut world);
        world.run(Reads::Answered);
        let new = [(); 2].map(|()| world.publish(publisher, TOPIC, qos));
        world.run(Reads::Answered);
        assert!(world.actors[other].delivered.ends_with(&new), "they are at hand");
        world.connect(sub);
        world.run(Reads::Withheld);
        world.run(Reads::Answered);
        let world = world.finish();
        assert!(world.actors[sub].delivered.ends_with(&new), "{:?}", world.actors[sub].delivered);
        assert_eq!(world.actors[sub].delivered.len(), 3, "what was lost did not come");
    }
}

/// What was sent and is gone is in flight until the client acknowledges it, also when something else of which
/// nothing more is known turns out to be gone.
#[test]
fn what_is_gone_takes_its_place_in_the_window_if_the_client_has_it() {
    let (mut world, sub, publisher) = one_after_the_other(QoS::AtLeastOnce);
    world.cut(sub);
    world.actors[sub].client.profile.receive_maximum = 3;
    world.connect(sub);
    world.run(Reads::Answered);
    for _ in 0..3 {
        world.publish(publisher, TOPIC, QoS::AtLeastOnce);
        world.run_with(Reads::Answered, false);
    }
    world.cut(sub);
    world.run_with(Reads::Answered, false);
    world.actors[sub].client.profile.receive_maximum = 2;
    world.connect(sub);
    world.run_with(Reads::Answered, false);
    lose_tail(&mut world);
    world.run_with(Reads::Answered, false);
    let new = [(); 3].map(|()| world.publish(publisher, TOPIC, QoS::AtLeastOnce));
    world.run_with(Reads::Answered, false);
    // There is room for the third.
    world.actors[sub].client.answer_one();
    world.run_with(Reads::Answered, false);
    let world = world.finish();
    assert!(world.actors[sub].delivered.ends_with(&new), "{:?}", world.actors[sub].delivered);
}

/// Of what waits for room nothing is known but its place, where something else comes before it is known that
/// the end was lost.
#[test]
fn what_waits_for_room_is_not_taken_for_what_is_in_its_place() {
    let (mut world, sub, publisher) = one_after_the_other(QoS::AtLeastOnce);
    for _ in 0..2 {
        world.publish(publisher, TOPIC, QoS::AtLeastOnce);
        world.run_with(Reads::Answered, false);
    }
    lose_tail(&mut world);
    let new = [(); 2].map(|()| world.publish(publisher, TOPIC, QoS::AtLeastOnce));
    world.run_with(Reads::Withheld, false);
    // There is room for the second that was lost.
    world.run(Reads::Withheld);
    world.run(Reads::Answered);
    let world = world.finish();
    assert!(world.actors[sub].delivered.ends_with(&new), "{:?}", world.actors[sub].delivered);
}

/// Nothing new is there when the server is asked for it, and it has come when the answer does.
#[test]
fn what_comes_while_the_server_is_asked_waits_for_room_like_any_other() {
    let (mut world, sub, publisher) = one_after_the_other(QoS::AtLeastOnce);
    world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    world.run(Reads::Answered);
    lose_tail(&mut world);
    let model = &mut world.servers[World::partition_of(TOPIC)].model;
    while model.look_up(0) {}
    let new = [(); 2].map(|()| world.publish(publisher, TOPIC, QoS::AtLeastOnce));
    world.run_with(Reads::Withheld, false);
    world.run_with(Reads::Answered, false);
    let world = world.finish();
    assert!(world.actors[sub].delivered.ends_with(&new), "{:?}", world.actors[sub].delivered);
}

/// Another copy of the stream is put back under a running server, and the first message that comes shows it,
/// before anyone says that the stream was made anew. Of what a place of this server stood for, only the time tells.
#[test]
fn what_comes_after_a_backup_was_put_back_is_delivered() {
    for is_told_first in [true, false] {
        let (mut world, sub, publisher) = one_after_the_other(QoS::ExactlyOnce);
        let away = world.add("away".to_owned(), true, vec![(TOPIC, QoS::ExactlyOnce)], false);
        world.seconds(2);
        let server = World::partition_of(TOPIC);
        for _ in 0..3 {
            world.publish(publisher, TOPIC, QoS::ExactlyOnce);
            world.seconds(1);
        }
        world.cut(away);
        world.run(Reads::Answered);
        world.advance(Duration::from_millis(10));
        world.servers[server].model.restore();
        if is_told_first {
            world.tell_all();
        }
        world.run(Reads::Answered);
        let mut new = Vec::new();
        for _ in 0..2 {
            new.push(world.publish(publisher, TOPIC, QoS::ExactlyOnce));
            world.advance(Duration::from_millis(300));
            world.run(Reads::Answered);
        }
        assert!(
            is_told_first || world.actors[sub].delivered.ends_with(&new),
            "nobody had to say it"
        );
        world.tell_all();
        let world = world.finish();
        for actor in [sub, away] {
            assert!(world.actors[actor].delivered.ends_with(&new), "{is_told_first} {actor}");
        }
    }
}

/// A gateway that has just started knows of no message but that there is a last one, and somebody subscribes there
/// before its link tells it more.
#[test]
fn what_comes_in_the_place_of_what_a_gateway_only_heard_of_is_delivered() {
    let mut world = World::with(2, 7, false);
    let server = World::partition_of(TOPIC);
    world.servers[server].replicas = 1;
    world.add("other".to_owned(), true, Vec::new(), false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    world.seconds(2);
    world.servers[server].model.messages.sync();
    for _ in 0..3 {
        world.publish(publisher, TOPIC, QoS::AtLeastOnce);
        world.seconds(1);
    }
    world.crash(0);
    let status = PartitionStatus { leader: None, ..world.status(server) };
    world.tell(0, status);
    world.cut_off(0);
    let sub = world.add("sub".to_owned(), true, vec![(TOPIC, QoS::AtLeastOnce)], false);
    world.seconds(2);
    world.stop_server(server, true);
    world.servers[server].is_up = true;
    let new = [(); 2].map(|()| {
        let message = world.publish(publisher, TOPIC, QoS::AtLeastOnce);
        world.seconds(2);
        message
    });
    let world = world.finish();
    assert_eq!(world.actors[sub].delivered, new);
}

/// The same where nobody says which process has told of it: what was stored in such a place, and not acknowledged
/// before the link was lost, is found.
#[test]
fn what_is_stored_in_the_place_of_what_a_gateway_only_heard_of_is_stored_once() {
    let mut world = World::with(2, 7, false);
    let server = World::partition_of(TOPIC);
    world.servers[server].replicas = 1;
    world.hides_processes = true;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    let other = world.add("other".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    for _ in 0..4 {
        world.publish(other, TOPIC, QoS::AtLeastOnce);
        world.seconds(1);
    }
    world.crash(0);
    let status = PartitionStatus { leader: None, ..world.status(server) };
    world.tell(0, status);
    world.stop_server(server, true);
    world.servers[server].is_up = true;
    world.connect(publisher);
    world.run(Reads::Answered);
    let message = world.publish(publisher, TOPIC, QoS::AtLeastOnce);
    world.run(Reads::Answered);
    world.tell_all();
    while world.stored_on(TOPIC).is_empty() {
        world.advance(Duration::from_millis(100));
        world.answer_dials();
        for to_server in [false, true] {
            world.collect();
            for pipe in 0..world.pipes.len() {
                world.pump_link(pipe, to_server);
            }
        }
    }
    assert_eq!(world.stored_on(TOPIC), [message]);
    let mut of_gateway = world.pipes.iter_mut().filter(|pipe| pipe.gateway == 0);
    of_gateway.find(|pipe| pipe.server == server).unwrap().is_dead = true;
    for _ in 0..5 {
        world.publish(other, TOPIC, QoS::AtLeastOnce);
        world.run_answered_by(&[0, 1]);
    }
    assert_eq!(world.stored_on(TOPIC).len(), 6, "more than was there before");
    let world = world.finish();
    assert_eq!(world.stored_on(TOPIC).len(), 6);
}

/// Messages that this shard only heard were stored are not read again for that.
#[test]
fn a_server_that_is_back_with_everything_is_asked_one_question() {
    let mut world = World::calm(1, false);
    let [topic, other] = World::neighbours();
    let server = World::partition_of(topic);
    world.add("sub".to_owned(), true, vec![(topic, QoS::AtLeastOnce)], false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    for wanted in [topic, other, other, other] {
        world.publish(publisher, wanted, QoS::AtLeastOnce);
        world.seconds(2);
    }
    world.stop_server(server, false);
    world.servers[server].is_up = true;
    let before = world.servers[server].model.read_count;
    world.seconds(10);
    assert_eq!(world.servers[server].model.read_count - before, 1);
}
