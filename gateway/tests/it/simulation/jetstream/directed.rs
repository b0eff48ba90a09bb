//! Single interleavings that once lost or doubled something, each played out step by step.

use super::super::world::Broken;
use super::world::{TOPICS, World};
use crate::sim::SimSettings;
use gateway::auth::AclFile;
use gateway::proto::access::{Authentication, AuthenticationRequest, Identity, Proof};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::limits::Limits;
use gateway::proto::mqtt::{
    Connect, PacketId, Properties, Property, ProtocolVersion, PublishHeader, QoS, encode_publish,
};
use gateway::proto::time::Timestamp;
use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Which of the answers of servers may leave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Answered,
    /// Direct Get is not answered.
    Withheld,
}

impl World {
    /// Two partitions whose streams have so many replicas, and everyone connected to one gateway.
    pub(super) fn calm(replicas: u8, has_sessions: bool) -> Self {
        let mut world = Self::with(1, 7, has_sessions);
        for server in &mut world.servers {
            server.replicas = replicas;
        }
        world
    }

    pub(super) fn seconds(&mut self, count: u32) {
        for _ in 0..count {
            self.calm_second().unwrap_or_else(|Broken(what)| panic!("{what}"));
        }
    }

    /// Everything moves that can, but nobody connects who is not.
    pub(super) fn run(&mut self, reads: Reads) {
        self.run_with(reads, true);
    }

    /// The same; with `answers` clients acknowledge what they get.
    pub(super) fn run_with(&mut self, reads: Reads, answers: bool) {
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

    /// What can move does, at all gateways; only these servers answer what they are asked.
    pub(super) fn run_answered_by(&mut self, servers: &[usize]) {
        for _ in 0..50 {
            for actor in 0..self.actors.len() {
                while self.actors[actor].client.has_answers() {
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
            for server in 0..self.servers.len() {
                let model = &mut self.servers[server].model;
                (0..3).for_each(|stream| while model.step_stream(stream) {});
                if servers.contains(&server) {
                    while model.look_up(0) {}
                    while model.step_answer(0) {}
                }
            }
            self.advance(Duration::ZERO);
            for gateway in 0..self.gateways.len() {
                while self.node(gateway).perform_one() {}
            }
        }
    }

    /// The partition that owns a topic.
    pub(super) fn partition_of(topic: &str) -> usize {
        usize::from(Ring::new(&super::world::ring()).owner(topic).0)
    }

    /// Two topics of one partition.
    pub(super) fn neighbours() -> [&'static str; 2] {
        let all = TOPICS.into_iter().filter(|topic| !topic.starts_with("r/"));
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
            let mut topics = TOPICS.into_iter();
            topics.find(|topic| Self::partition_of(topic) == of && !topic.starts_with("r/"))
        };
        [0, 1].map(|partition| other(partition).expect("four topics in two partitions"))
    }

    /// What is stored of a topic.
    pub(super) fn stored_on(&self, topic: &str) -> Vec<u64> {
        let subject = format!("mqtt.{}", topic.replace('/', "."));
        let kept = self.servers[Self::partition_of(topic)].model.messages.kept.values();
        let of_topic = kept.filter(|message| message.subject == subject.as_bytes());
        of_topic.map(|one| u64::from_le_bytes(*one.payload.first_chunk().unwrap())).collect()
    }

    pub(super) fn finish(mut self) -> Self {
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

/// The same, and what came behind it waits for room in a session when that goes away.
#[test]
fn what_waits_for_room_says_nothing_of_what_came_before_it() {
    let mut world = World::calm(3, false);
    let [topic, other] = World::neighbours();
    let server = World::partition_of(topic);
    let wanted = [topic, other].map(|filter| (filter, QoS::AtLeastOnce)).to_vec();
    let sub = world.add("sub".to_owned(), true, wanted, false);
    world.actors[sub].client.profile.version = ProtocolVersion::V5;
    world.actors[sub].client.profile.receive_maximum = 1;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    let first = world.publish(publisher, other, QoS::AtLeastOnce);
    world.run_with(Reads::Answered, false);
    assert!(!world.ledger.is_missing(first), "it has taken the only place");
    world.publish(publisher, topic, QoS::AtLeastOnce);
    world.exchange().unwrap_or_else(|Broken(what)| panic!("{what}"));
    world.node(0).advance(Duration::ZERO);
    world.collect();
    for pipe in 0..world.pipes.len() {
        world.pump_link(pipe, true);
    }
    world.servers[server].model.elect();
    world.publish(publisher, other, QoS::AtLeastOnce);
    world.run_with(Reads::Withheld, false);
    world.cut(sub);
    world.run_with(Reads::Withheld, false);
    world.seconds(1);
    world.finish();
}

/// A new link reads once more what came while nobody subscribed to it.
#[test]
fn what_was_stored_before_a_client_came_back_does_not_come_late() {
    let mut world = World::calm(3, false);
    let [topic, _] = World::neighbours();
    let sub = world.add("sub".to_owned(), true, vec![(topic, QoS::AtMostOnce)], false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    world.cut(sub);
    world.run(Reads::Answered);
    world.publish(publisher, topic, QoS::ExactlyOnce);
    world.run(Reads::Answered);
    world.connect(sub);
    world.run(Reads::Answered);
    let later = world.publish(publisher, topic, QoS::ExactlyOnce);
    world.run(Reads::Answered);
    assert_eq!(world.actors[sub].delivered, [later]);
    let server = World::partition_of(topic);
    let pipe = world.pipes.iter().position(|pipe| pipe.server == server);
    world.cut_link(pipe.expect("there is a link"));
    world.seconds(2);
    let world = world.finish();
    assert_eq!(world.actors[sub].delivered, [later]);
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

thread_local! {
    /// Whether clients may publish.
    static MAY_PUBLISH: Cell<bool> = const { Cell::new(true) };
}

fn who(_: &AuthenticationRequest) -> Authentication {
    static RULES: LazyLock<[AclFile; 2]> = LazyLock::new(|| {
        ["topic read #\n", "topic readwrite #\n"].map(|text| {
            let mut faults = Vec::new();
            let file = AclFile::parse(text, Path::new("rules"), &mut faults);
            assert_eq!(faults, []);
            file
        })
    });
    let rules = &RULES[usize::from(MAY_PUBLISH.get())];
    let (proof, expires_at) = (Proof::None, Timestamp::NEVER);
    let (mountpoint, acl) = (None, Some(rules.rules_of(None)));
    Ok(Arc::new(Identity { user_name: None, mountpoint, acl, proof, expires_at }))
}

/// A QoS 2 message is under way when a gateway dies; when it comes again it may not be published any
/// more, and the gateway dies once more. The packet id is the client's to use for something else.
#[test]
fn a_message_refused_after_a_crash_leaves_no_intent_behind() {
    let change = |settings: SimSettings| SimSettings {
        limits: Limits { authenticate: true, ..settings.limits },
        authenticate: Some(who),
        ..settings
    };
    let mut world = World::with_settings(1, 7, false, change);
    world.seconds(2);
    let topic = TOPICS[0];
    let connect = |world: &mut World| {
        let mut properties = Vec::new();
        Property::SessionExpiryInterval(u32::MAX).encode(&mut properties);
        let connect = Connect {
            version: ProtocolVersion::V5,
            clean_start: false,
            keep_alive_s: 0,
            properties: Properties::from_validated(&properties),
            client_id: "pub",
            will: None,
            user_name: None,
            password: None,
        };
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        let socket = world.node(0).connect();
        world.node(0).send(socket, &bytes);
        world.node(0).answer_questions();
        world.run(Reads::Answered);
        let connack = world.node(0).take(socket);
        assert_eq!(connack.first(), Some(&0x20), "{connack:x?}");
        socket
    };
    let publish = |message: u64, dup: bool| {
        let packet_id = PacketId::new(1);
        let header = PublishHeader { dup, qos: QoS::ExactlyOnce, retain: false, topic, packet_id };
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, ProtocolVersion::V5, &header, &[], &message.to_le_bytes());
        bytes
    };
    let socket = connect(&mut world);
    world.node(0).send(socket, &publish(1, false));
    // It is stored, and the gateway dies before it hears so.
    for _ in 0..4 {
        while world.node(0).perform_one() {}
        world.collect();
        for pipe in 0..world.pipes.len() {
            world.pump_link(pipe, true);
        }
    }
    assert_eq!(world.stored_on(topic), [1]);
    world.crash(0);
    world.seconds(2);

    MAY_PUBLISH.set(false);
    let socket = connect(&mut world);
    world.node(0).send(socket, &publish(1, true));
    assert!(world.node(0).take(socket).is_empty(), "before it is recorded");
    while world.node(0).perform_one() {}
    assert_eq!(world.node(0).take(socket), [0x50, 3, 0, 1, 0x87]);
    world.crash(0);
    world.seconds(2);

    MAY_PUBLISH.set(true);
    let socket = connect(&mut world);
    world.node(0).send(socket, &publish(2, false));
    world.run(Reads::Answered);
    assert_eq!(world.node(0).take(socket), [0x50, 2, 0, 1]);
    assert_eq!(world.stored_on(topic), [1, 2]);
}

/// Of two messages sent again one is asked of a server that has it, the other of one that lags.
#[test]
fn what_a_server_that_lags_does_not_have_is_not_gone() {
    let mut world = World::calm(3, false);
    let [topic, _] = World::neighbours();
    let server = World::partition_of(topic);
    let wanted = vec![(topic, QoS::AtLeastOnce)];
    let sub = world.add("sub".to_owned(), true, wanted, false);
    world.actors[sub].client.profile.receive_maximum = 8;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    for _ in 0..2 {
        world.publish(publisher, topic, QoS::AtLeastOnce);
        world.run_with(Reads::Answered, false);
    }
    world.cut(sub);
    world.run(Reads::Answered);
    world.crash(0);
    world.run(Reads::Answered);
    world.tell_all();
    world.run(Reads::Answered);
    world.connect(sub);
    world.run(Reads::Withheld);
    let model = &mut world.servers[server].model;
    // The second question is answered first.
    assert!(model.look_up(1));
    while model.step_answer(0) {}
    model.lag = 1_000;
    assert!(model.look_up(0));
    while model.step_answer(0) {}
    model.lag = 0;
    world.run(Reads::Answered);
    let mut world = world.finish();
    let counters = world.node(0).shard(0).state().counters();
    assert_eq!(counters.unfetchable, 0);
}

/// One of two messages sent again is asked of a server that lags, and both are asked for once more, before
/// the first question for the other is answered.
#[test]
fn what_is_asked_for_once_more_is_not_gone_when_the_first_questions_are_answered() {
    let mut world = World::calm(3, false);
    let [topic, _] = World::neighbours();
    let server = World::partition_of(topic);
    let sub = world.add("sub".to_owned(), true, vec![(topic, QoS::AtLeastOnce)], false);
    world.actors[sub].client.profile.receive_maximum = 8;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    for _ in 0..2 {
        world.publish(publisher, topic, QoS::AtLeastOnce);
        world.run_with(Reads::Answered, false);
    }
    world.cut(sub);
    world.run(Reads::Answered);
    world.crash(0);
    world.run(Reads::Answered);
    world.tell_all();
    world.run(Reads::Answered);
    world.connect(sub);
    world.run(Reads::Withheld);
    let before = world.servers[server].model.asked_count();
    world.servers[server].model.lag = 1_000;
    assert!(world.servers[server].model.look_up(0));
    while world.servers[server].model.step_answer(0) {}
    world.servers[server].model.lag = 0;
    world.run(Reads::Withheld);
    world.advance(Duration::from_secs(1));
    world.run(Reads::Withheld);
    assert!(world.servers[server].model.asked_count() > before, "both once more");
    // All but the new question for the one that was not there.
    for which in [0, 1] {
        assert!(world.servers[server].model.look_up(which));
        while world.servers[server].model.step_answer(0) {}
        world.run(Reads::Withheld);
    }
    world.run(Reads::Answered);
    let mut world = world.finish();
    assert_eq!(world.node(0).shard(0).state().counters().unfetchable, 0);
}

/// A session subscribes to more while what it missed is being read for it.
#[test]
fn a_subscription_made_while_a_session_reads_back_misses_nothing() {
    for (replicas, apart) in [(1, false), (3, false), (1, true)] {
        let mut world = World::calm(replicas, false);
        let [topic, other] = if apart { World::apart() } else { World::neighbours() };
        let wanted = vec![(topic, QoS::AtLeastOnce)];
        let sub = world.add("sub".to_owned(), true, wanted, false);
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        world.seconds(4);
        world.cut(sub);
        world.run(Reads::Answered);
        world.publish(publisher, topic, QoS::AtLeastOnce);
        world.run(Reads::Answered);
        world.connect(sub);
        world.run(Reads::Withheld);
        let client = &mut world.actors[sub].client;
        client.profile.subscriptions.push((other, QoS::AtLeastOnce));
        client.subscribe();
        world.run(Reads::Withheld);
        let message = world.publish(publisher, other, QoS::AtLeastOnce);
        world.run(Reads::Withheld);
        assert!(world.ledger.is_acknowledged(message));
        world.run(Reads::Answered);
        world.seconds(1);
        assert!(!world.ledger.is_missing(message), "{replicas} replicas, apart: {apart}");
        world.finish();
    }
}

fn wants_retained(world: &mut World, qos: QoS) -> [usize; 2] {
    let sub = world.add("sub".to_owned(), true, vec![("r/1", qos)], false);
    world.actors[sub].client.profile.wants_retained = true;
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.connect(publisher);
    world.tell_all();
    world.run(Reads::Answered);
    [sub, publisher]
}

/// A message is stored and passed on between SUBSCRIBE and what the answer finds retained.
#[test]
fn what_comes_live_is_not_sent_as_retained_too() {
    for replicas in [1, 3] {
        let mut world = World::calm(replicas, false);
        let [sub, publisher] = wants_retained(&mut world, QoS::ExactlyOnce);
        let server = World::partition_of("r/1");
        world.connect(sub);
        world.run(Reads::Withheld);
        let message = world.publish(publisher, "r/1", QoS::ExactlyOnce);
        world.run(Reads::Withheld);
        assert!(!world.ledger.is_missing(message), "it has come live");
        // The gateway that retains it asks second, and is answered first.
        let model = &mut world.servers[server].model;
        assert!(model.look_up(1));
        while model.step_answer(0) {}
        world.run(Reads::Withheld);
        assert_eq!(world.servers[server].model.retained.shown().len(), 1);
        world.run(Reads::Answered);
        assert!(world.ledger.is_acknowledged(message));
        world.seconds(20);
        assert_eq!(world.actors[sub].retained, [0_u64; 0], "{replicas} replicas");
        world.finish();
    }
}

/// A message was stored before SUBSCRIBE, and is retained only after it was answered.
#[test]
fn what_is_about_to_be_retained_reaches_who_has_just_subscribed() {
    for (replicas, qos) in [(1, QoS::AtLeastOnce), (3, QoS::ExactlyOnce)] {
        let mut world = World::calm(replicas, false);
        let [sub, publisher] = wants_retained(&mut world, qos);
        let server = World::partition_of("r/1");
        let message = world.publish(publisher, "r/1", qos);
        world.run(Reads::Withheld);
        assert!(!world.ledger.is_acknowledged(message), "it is stored, and not retained");
        world.connect(sub);
        world.run(Reads::Withheld);
        let model = &mut world.servers[server].model;
        assert!(model.look_up(1));
        while model.step_answer(0) {}
        world.run(Reads::Withheld);
        world.run(Reads::Answered);
        assert!(world.ledger.is_acknowledged(message));
        world.seconds(20);
        assert_eq!(world.actors[sub].retained, [message], "{replicas} replicas");
        world.finish();
    }
}

impl World {
    fn read_count(&self) -> u64 {
        self.servers.iter().map(|server| server.model.read_count).sum()
    }

    /// Clients that come to want the retained messages of a topic.
    fn newcomers(&mut self, count: usize, topic: &'static str) -> std::ops::Range<usize> {
        let first = self.actors.len();
        for number in first..first + count {
            let wanted = vec![(topic, QoS::AtLeastOnce)];
            let actor = self.add(format!("newcomer-{number}"), false, wanted, false);
            self.actors[actor].client.profile.wants_retained = true;
            self.connect(actor);
        }
        first..first + count
    }
}

/// However many subscribe: of the questions that each of them had, two are left for all.
#[test]
fn where_nothing_is_retained_a_subscription_costs_no_question() {
    for replicas in [1, 3] {
        let mut world = World::calm(replicas, false);
        world.seconds(2);
        let before = world.read_count();
        world.newcomers(50, "r/1");
        world.run(Reads::Answered);
        world.newcomers(50, "r/+");
        world.seconds(20);
        let asked = world.read_count() - before;
        // Of both partitions, at the first and the second look, the leader, too, with replicas.
        assert!(asked <= if replicas == 1 { 12 } else { 24 }, "{asked}, {replicas} replicas");
        let counters = world.node(0).shard(0).jetstream().unwrap().counters;
        // Two looks of each, those with a wildcard in both partitions.
        assert_eq!((counters.retained_known, counters.retained_asked), (300, 0));
    }
}

/// The limit is for questions under way; who waits has its turn when they are answered.
#[test]
fn so_many_looks_for_retained_messages_are_under_way_and_no_more() {
    const LOOKS_MAX: u32 = 3;
    let change = |settings: SimSettings| SimSettings {
        limits: Limits { retained_looks_max: LOOKS_MAX, ..settings.limits },
        ..settings
    };
    let mut world = World::with_settings(1, 7, false, change);
    world.servers.iter_mut().for_each(|server| server.replicas = 1);
    let [_, publisher] = wants_retained(&mut world, QoS::AtLeastOnce);
    let message = world.publish(publisher, "r/1", QoS::AtLeastOnce);
    world.seconds(2);
    // From here on it is known that there is something to ask for.
    world.newcomers(1, "r/1");
    world.seconds(1);
    let server = World::partition_of("r/1");
    let late = world.newcomers(10, "r/1");
    world.run(Reads::Withheld);
    assert_eq!(world.servers[server].model.asked_count(), LOOKS_MAX as usize);
    world.run(Reads::Answered);
    for actor in late {
        assert_eq!(world.actors[actor].retained, [message]);
    }
}

/// What a gateway has read of the retained messages is not what there is: another one adds to it.
#[test]
fn what_another_gateway_has_just_retained_is_found() {
    for replicas in [1, 3] {
        let mut world = World::with(2, 7, false);
        world.servers.iter_mut().for_each(|server| server.replicas = replicas);
        let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
        world.seconds(2);
        assert_eq!(world.actors[publisher].gateway, 0);
        for topic in ["r/1", "r/2", "r/1"] {
            let name = format!("idle-{}", world.actors.len());
            let idle = world.add(name, false, vec![("a/1", QoS::AtMostOnce)], false);
            world.actors[idle].gateway = 1;
            world.actors[idle].client.profile.wants_retained = true;
            world.seconds(1);
            let message = world.publish(publisher, topic, QoS::AtLeastOnce);
            while !world.ledger.is_acknowledged(message) {
                world.settle().unwrap_or_else(|Broken(what)| panic!("{what}"));
            }
            let late =
                world.add(format!("late-{message}"), false, vec![(topic, QoS::AtLeastOnce)], false);
            world.actors[late].gateway = 1;
            world.actors[late].client.profile.wants_retained = true;
            world.seconds(2);
            assert_eq!(world.actors[late].retained, [message], "{topic}, {replicas} replicas");
        }
    }
}

/// A stream with replicas is full, and takes no mark.
#[test]
fn a_new_link_to_a_full_stream_goes_live() {
    let mut world = World::calm(3, false);
    let [topic, other] = World::neighbours();
    let server = World::partition_of(topic);
    let sub = world.add("sub".to_owned(), true, vec![(topic, QoS::AtLeastOnce)], false);
    let publisher = world.add("pub".to_owned(), true, Vec::new(), true);
    world.seconds(4);
    world.cut(sub);
    world.run(Reads::Answered);
    let missed = world.publish(publisher, topic, QoS::AtLeastOnce);
    world.run(Reads::Answered);
    assert!(world.ledger.is_acknowledged(missed));
    world.servers[server].model.messages.count_max = 0;
    world.crash(0);
    world.seconds(20);
    assert!(!world.ledger.is_missing(missed), "it reads back");
    let late = world.add("late".to_owned(), true, vec![(other, QoS::AtLeastOnce)], false);
    world.seconds(2);
    let first = world.publish(publisher, other, QoS::AtLeastOnce);
    world.seconds(2);
    assert!(!world.ledger.is_acknowledged(first), "it is full");
    // Somebody makes room.
    world.servers[server].model.messages.count_max = u64::MAX;
    world.seconds(15);
    assert!(world.ledger.is_acknowledged(first) && !world.ledger.is_missing(first), "{late}");
    world.finish();
}

/// Publishers whose sessions are recorded at a sub-cluster that is away hold nobody else's messages.
#[test]
fn who_waits_for_a_record_of_an_away_sub_cluster_keeps_back_nobody_else() {
    let mut world = World::with(1, 7, true);
    world.servers.iter_mut().for_each(|server| server.replicas = 1);
    let [topic, _] = World::apart();
    let healthy = World::partition_of(topic);
    let name = |home: usize| {
        let mut names = (0..).map(|number| format!("client-{number}"));
        names.find(|name| World::partition_of(name) == home).expect("any home has names")
    };
    let stuck = world.add(name(1 - healthy), true, Vec::new(), true);
    let other = world.add(name(healthy), true, Vec::new(), true);
    for publisher in [stuck, other] {
        world.actors[publisher].client.profile.window = 2_000;
        world.actors[publisher].client.profile.version = ProtocolVersion::V3_1_1;
    }
    world.seconds(4);
    world.stop_server(1 - healthy, false);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(world.publish(stuck, topic, QoS::ExactlyOnce));
    }
    world.run(Reads::Answered);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let message = world.publish(other, topic, qos);
        world.run(Reads::Answered);
        assert!(world.ledger.is_acknowledged(message), "{qos:?}");
    }
    assert!(waiting.iter().all(|one| !world.ledger.is_acknowledged(*one)));
    let world = world.finish();
    assert!(waiting.iter().all(|one| world.ledger.is_acknowledged(*one)));
}

/// A client goes to another gateway while the first one looks for a message of it. What it published behind
/// that one is not sent by the first gateway, either.
#[test]
fn what_waits_behind_an_abandoned_publish_is_not_sent() {
    let mut world = World::with(2, 7, true);
    world.servers.iter_mut().for_each(|server| server.replicas = 1);
    let [topic, _] = World::apart();
    let server = World::partition_of(topic);
    let mut names = (0..).map(|number| format!("client-{number}"));
    let home_is_other = |name: &String| World::partition_of(name) != server;
    let name = names.find(home_is_other).expect("any home has names");
    let publisher = world.add(name, true, Vec::new(), true);
    world.actors[publisher].client.profile.window = 8;
    world.seconds(4);
    world.cut(publisher);
    world.run_answered_by(&[0, 1]);
    world.connect_to(publisher, 0);
    world.run_answered_by(&[0, 1]);
    world.stop_server(server, false);
    let first = world.publish(publisher, topic, QoS::ExactlyOnce);
    world.run_answered_by(&[0, 1]);
    world.crash(0);
    world.servers[server].is_up = true;
    world.tell_all();
    world.run_answered_by(&[0, 1]);
    world.connect_to(publisher, 0);
    for _ in 0..40 {
        // Whether it was stored before is not answered.
        world.run_answered_by(&[1 - server]);
        world.advance(Duration::from_millis(100));
    }
    let second = world.publish(publisher, topic, QoS::ExactlyOnce);
    world.run_answered_by(&[1 - server]);
    world.connect_to(publisher, 1);
    world.run_answered_by(&[1 - server]);
    assert_eq!(world.stored_on(topic), [0_u64; 0], "both are the other gateway's to store");
    let world = world.finish();
    assert_eq!(world.stored_on(topic), [first, second]);
}
