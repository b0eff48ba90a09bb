//! What was sent on a link that is gone: read late, stored late, or never. A message of QoS 1 whose name no
//! server knows is stored once all the same, as long as the server reads what it has received in time.

use super::directed::Reads;
use super::world::World;
use gateway::proto::mqtt::QoS;
use std::time::Duration;

const TOPIC: &str = "a/1";

/// A publisher, and the server that has its topic, with so many replicas.
fn world(replicas: u8) -> (World, usize, usize) {
    let mut world = World::calm(replicas, false);
    let server = World::partition_of(TOPIC);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    (world, server, publisher)
}

/// It publishes, and the bytes are on their way to the server.
fn publish(world: &mut World, publisher: usize, qos: QoS) -> u64 {
    let message = world.publish(publisher, TOPIC, qos);
    world.exchange().unwrap();
    // What waits for a record in the gateway's own log.
    while world.node(0).perform_one() {}
    world.node(0).advance(Duration::ZERO);
    world.collect();
    message
}

fn link(world: &World, server: usize) -> usize {
    world.pipes.iter().position(|pipe| pipe.server == server).expect("there is a link")
}

fn given_up(world: &mut World) -> u64 {
    world.node(0).shard(0).jetstream().unwrap().counters.former_links_given_up
}

#[test]
fn what_a_server_reads_late_from_a_lost_link_is_stored_once_and_in_order() {
    for (replicas, qos) in [(1, QoS::AtLeastOnce), (3, QoS::AtLeastOnce), (1, QoS::ExactlyOnce)] {
        let (mut world, server, publisher) = world(replicas);
        let first = publish(&mut world, publisher, qos);
        world.linger(link(&world, server), Duration::from_secs(9));
        let second = publish(&mut world, publisher, qos);
        for _ in 0..80 {
            world.run(Reads::Answered);
            world.advance(Duration::from_millis(100));
        }
        if qos == QoS::AtLeastOnce {
            assert!(!world.ledger.is_acknowledged(first), "it waits, {replicas} replicas");
            assert_eq!(world.stored_on(TOPIC), [0_u64; 0], "{replicas} replicas");
        }
        world.read_lingering(0);
        for _ in 0..5 {
            world.run(Reads::Answered);
            world.advance(Duration::from_millis(100));
        }
        assert_eq!(world.stored_on(TOPIC), [first, second], "{replicas} replicas, {qos:?}");
        assert!([first, second].into_iter().all(|one| world.ledger.is_acknowledged(one)));
        assert_eq!(given_up(&mut world), 0);
        world.finish();
    }
}

/// The server has read all there was and closed, and its stream is behind.
#[test]
fn what_a_stream_stores_late_is_stored_once_and_in_order() {
    for replicas in [1, 3] {
        let (mut world, server, publisher) = world(replicas);
        world.servers[server].model.stores_late = true;
        let first = publish(&mut world, publisher, QoS::AtLeastOnce);
        let pipe = link(&world, server);
        world.pump_link(pipe, true);
        world.cut_link(pipe);
        let second = publish(&mut world, publisher, QoS::AtLeastOnce);
        for _ in 0..20 {
            world.run(Reads::Answered);
            world.advance(Duration::from_millis(100));
        }
        assert_eq!(world.stored_on(TOPIC), [0_u64; 0]);
        world.servers[server].model.stores_late = false;
        world.servers[server].model.store_all();
        world.run(Reads::Answered);
        assert_eq!(world.stored_on(TOPIC), [first, second], "{replicas} replicas");
        world.finish();
    }
}

/// The limit: a machine that has lost its network may keep a link for minutes, and publishers do not wait for
/// that. What it reads even later is there twice, which QoS 1 allows.
#[test]
fn a_server_that_never_reads_what_it_has_holds_nobody_for_long() {
    let (mut world, server, publisher) = world(1);
    let first = publish(&mut world, publisher, QoS::AtLeastOnce);
    world.linger(link(&world, server), Duration::from_secs(60));
    world.run(Reads::Answered);
    let mut passed_ms = 0;
    while !world.ledger.is_acknowledged(first) {
        assert!(passed_ms < 12_000, "it is sent after 10 s");
        world.advance(Duration::from_millis(100));
        world.run(Reads::Answered);
        passed_ms += 100;
    }
    assert!(passed_ms > 9_000, "{passed_ms} ms");
    assert_eq!((given_up(&mut world), world.stored_on(TOPIC)), (1, vec![first]));
    world.read_lingering(0);
    world.run(Reads::Answered);
    assert_eq!(world.stored_on(TOPIC), [first, first]);
}

/// Nobody would know a second copy on the same link; what becomes of the first is found out on another.
#[test]
fn what_a_server_does_not_answer_is_sent_once_a_link() {
    let (mut world, server, publisher) = world(1);
    world.servers[server].model.stores_late = true;
    let first = publish(&mut world, publisher, QoS::AtLeastOnce);
    let link_id = |world: &World| world.pipes[link(world, server)].id();
    let before = link_id(&world);
    for _ in 0..5 {
        world.run(Reads::Answered);
        assert_eq!(world.servers[server].model.unstored(), 1, "it is not sent again");
        assert_eq!(link_id(&world), before);
        world.advance(Duration::from_secs(1));
    }
    for _ in 0..3 {
        world.run(Reads::Answered);
        world.advance(Duration::from_secs(1));
    }
    assert_ne!(link_id(&world), before, "5 s are over");
    world.servers[server].model.stores_late = false;
    world.servers[server].model.store_all();
    world.run(Reads::Answered);
    assert_eq!(world.stored_on(TOPIC), [first]);
    assert!(world.ledger.is_acknowledged(first));
    world.finish();
}

/// What a server says it has not stored is sent again, on the same link and without a search.
#[test]
fn what_is_refused_is_sent_again_on_the_same_link() {
    let (mut world, server, publisher) = world(1);
    let count_max = world.servers[server].model.messages.kept.len() as u64;
    world.servers[server].model.messages.count_max = count_max;
    let before = world.pipes[link(&world, server)].id();
    let reads = world.servers[server].model.read_count;
    let first = publish(&mut world, publisher, QoS::AtLeastOnce);
    for _ in 0..30 {
        world.run(Reads::Answered);
        world.advance(Duration::from_secs(1));
    }
    assert!(!world.ledger.is_acknowledged(first), "it is full");
    assert_eq!(world.servers[server].model.read_count, reads, "nothing is looked for");
    world.servers[server].model.messages.count_max = u64::MAX;
    for _ in 0..6 {
        world.run(Reads::Answered);
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.stored_on(TOPIC), [first]);
    assert_eq!(world.pipes[link(&world, server)].id(), before);
    world.finish();
}
