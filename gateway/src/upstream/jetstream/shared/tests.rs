//! Groups of a shard against scripted messages of a server.

use super::*;
use crate::proto::bridge::ring_table::{Member as RingMember, RingTable};
use crate::proto::nats::Headers;
use crate::proto::partition::{PartitionId, Sequence};
use crate::upstream::jetstream::group_inbox::{PULL_SID, QUEUE_SID};
use crate::upstream::jetstream::lane::LaneLimits;
use crate::upstream::jetstream::link::{Identity, LinkSettings, LinkTls};
use crate::upstream::jetstream::partition::PartitionLimits;
use crate::upstream::jetstream::shard::JetStreamSettings;
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_000_000);
const NAME: &str = "g/a";
const OTHER: &str = "h/a";

/// A shard whose link to its only partition is there.
fn shard() -> JetStream {
    let name = "c".to_owned();
    let member = RingMember { partition: PartitionId(0), weight: 1, sub_cluster: name.clone() };
    let link = LinkSettings {
        name,
        connection_name: String::new(),
        identity: Identity::None,
        connect_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(5),
        silence_max: Duration::from_secs(12),
        reconnect_wait_max: Duration::from_secs(5),
        announced_servers_max: 1,
        tls: LinkTls::Plain,
    };
    let timeout = Duration::from_secs(5);
    let settings = JetStreamSettings {
        ring: Arc::new(RingTable::new(1, vec![member]).unwrap()),
        links: vec![(Arc::new(link), vec![([127, 0, 0, 1], 1).into()])],
        limits: PartitionLimits {
            lane: LaneLimits { count_max: 10, bytes_max: 1_000, timeout },
            tail_bytes_max: 1_000,
            page_bytes_max: 1_000,
            link_write_bytes_max: 1_000,
            held_bytes_max: 1_000,
            shared: SharedLimits { groups_max: 1, members_max: 2, inflight_max: 8 },
        },
        inbox_prefix: "_I".to_owned(),
        origin: 1,
        sessions: None,
        report: Arc::default(),
        gateway: "g".into(),
        uplink: Box::default(),
    };
    let mut shard = JetStream::new(&settings, 1);
    shard.set_now(NOW);
    let partition = &mut shard.partitions[0];
    (partition.ready, partition.group_prefix) = (true, b"_I.g.".to_vec());
    shard
}

const fn ticket(session: u32) -> Ticket {
    Ticket { session, epoch: 1 }
}

fn join(shard: &mut JetStream, name: &str, session: u32) {
    shard.tell_group(GroupRequest::Join {
        name: name.into(),
        ticket: ticket(session),
        subscribe: 0,
        number: 1,
        qos: QoS::ExactlyOnce,
        window: 3,
        persistent: true,
        returning: false,
    });
}

fn part(shard: &mut JetStream, session: u32, kept: &[u64]) {
    let kept = kept.iter().map(|at| place(*at)).collect();
    let (name, ticket) = (NAME.into(), ticket(session));
    shard.tell_group(GroupRequest::Part { name, ticket, stays: true, kept });
}

fn place(sequence: u64) -> Place {
    (PartitionId(0), outside(Sequence(sequence)))
}

fn reply_to(sequence: u64) -> String {
    format!("$JS.ACK.MQTT_0.c.1.{sequence}.3.1600000000.0")
}

/// A message comes for the pull of the first group.
fn give(shard: &mut JetStream, sequence: u64) {
    let reply_to = reply_to(sequence);
    let message = NatsMessage {
        subject: b"mqtt.a",
        sid: PULL_SID + 1,
        reply_to: Some(reply_to.as_bytes()),
        headers: Headers::from_block(b"NATS/1.0\r\nMqtt-QoS: 2\r\n\r\n"),
        payload: b"x",
    };
    shard.handle_group_message(0, &message);
}

/// The pull of the first group is over.
fn end_pull(shard: &mut JetStream) {
    let headers = Headers::from_block(b"NATS/1.0 408 Request Timeout\r\n\r\n");
    let (subject, sid) = (&b"_I.g.1"[..], PULL_SID + 1);
    let status = NatsMessage { subject, sid, reply_to: None, headers, payload: b"" };
    shard.handle_group_message(0, &status);
}

/// What is written next.
fn written(shard: &mut JetStream) -> String {
    shard.drive_groups();
    String::from_utf8(std::mem::take(&mut shard.partitions[0].out)).unwrap()
}

/// A group of one member whose pull is open.
fn pulling() -> JetStream {
    let mut shard = shard();
    join(&mut shard, NAME, 1);
    assert!(written(&mut shard).contains("CONSUMER.CREATE"));
    let id = shard.shared.by_name[NAME];
    let there = NatsMessage {
        subject: b"_I.0",
        sid: 1,
        reply_to: None,
        headers: Headers::NONE,
        payload: b"{}",
    };
    shard.handle_consumer(0, id, &there);
    assert!(written(&mut shard).contains("CONSUMER.MSG.NEXT"));
    shard
}

fn is_given_back(shard: &mut JetStream, sequence: u64) -> bool {
    written(shard).contains(&format!("PUB {} 4\r\n-NAK\r\n", reply_to(sequence)))
}

#[test]
fn what_comes_when_the_last_member_has_left_is_given_back_until_the_pull_ends() {
    let mut shard = pulling();
    part(&mut shard, 1, &[]);
    let left = written(&mut shard);
    assert!(left.contains(&format!("UNSUB {}\r\n", QUEUE_SID + 2)), "{left}");
    assert!(!left.contains(&format!("UNSUB {}\r\n", PULL_SID + 1)), "it is open: {left}");
    assert!(shard.groups_of("a").is_empty());
    give(&mut shard, 7);
    assert!(is_given_back(&mut shard, 7));
    end_pull(&mut shard);
    let ended = written(&mut shard);
    assert!(ended.contains(&format!("UNSUB {}\r\n", PULL_SID + 1)), "{ended}");
    assert!(shard.shared.groups.is_empty());
    // Sent before the server had read that.
    give(&mut shard, 8);
    assert!(is_given_back(&mut shard, 8));
}

#[test]
fn a_pull_ends_with_its_last_message_with_its_link_or_with_its_time() {
    let mut shard = pulling();
    part(&mut shard, 1, &[]);
    for sequence in 1..=3 {
        assert!(!shard.shared.groups.is_empty());
        give(&mut shard, sequence);
        assert!(is_given_back(&mut shard, sequence));
    }
    assert!(shard.shared.groups.is_empty());

    let mut shard = pulling();
    part(&mut shard, 1, &[]);
    shard.shared.lose(0);
    shard.drive_groups();
    assert!(shard.shared.groups.is_empty());

    let mut shard = pulling();
    part(&mut shard, 1, &[]);
    shard.drive_groups();
    assert!(shard.shared.next_timeout() <= NOW.after(PULL_GIVEN_UP));
    shard.set_now(NOW.after(PULL_GIVEN_UP));
    shard.drive_groups();
    assert!(shard.shared.groups.is_empty());
}

/// What a former member still speaks for keeps the group, and nothing else with it.
#[test]
fn what_comes_while_a_former_member_speaks_for_another_is_given_back() {
    let mut shard = pulling();
    give(&mut shard, 5);
    assert!(!is_given_back(&mut shard, 5));
    part(&mut shard, 1, &[5]);
    give(&mut shard, 6);
    assert!(is_given_back(&mut shard, 6));
    give(&mut shard, 5);
    assert!(!is_given_back(&mut shard, 5), "it is spoken for");
    end_pull(&mut shard);
    shard.drive_groups();
    let id = shard.shared.by_name[NAME];
    let (group, ticket, place) = (id, ticket(1), Some(place(5)));
    shard.tell_group(GroupRequest::Settled { group, ticket, place, finished: true });
    assert!(written(&mut shard).contains("+ACK"));
    assert!(shard.shared.groups.is_empty());
}

#[test]
fn who_comes_back_goes_on_with_the_pull_that_is_open() {
    let mut shard = pulling();
    part(&mut shard, 1, &[]);
    written(&mut shard);
    shard.out.joined.clear();
    join(&mut shard, NAME, 2);
    let joined = written(&mut shard);
    assert!(joined.contains(" shared_") && joined.contains("SUB "), "its queue: {joined}");
    assert!(!joined.contains("CONSUMER"), "{joined}");
    assert!(shard.out.joined.last().is_some_and(|(_, joined)| joined.recorded));
    give(&mut shard, 7);
    assert!(!is_given_back(&mut shard, 7));
    let given = shard.out.shared.pop().unwrap();
    assert_eq!((given.0, given.1.place), (ticket(2), Some(place(7))));
}

#[test]
fn a_group_that_only_waits_for_its_pulls_makes_room_for_another() {
    let mut shard = pulling();
    shard.out.joined.clear();
    join(&mut shard, OTHER, 2);
    assert_eq!(shard.out.joined[0].1.group, Err(ReasonCode::QuotaExceeded));
    part(&mut shard, 1, &[]);
    join(&mut shard, OTHER, 2);
    assert!(shard.out.joined[1].1.group.is_ok());
    assert!(written(&mut shard).contains(&format!("UNSUB {}\r\n", PULL_SID + 1)));
}
