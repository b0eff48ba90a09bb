//! How fast one client is sent to.

use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::proto::limits::Limits;
use std::time::Duration;

fn node(limits: Limits) -> SimNode {
    SimNode::with(SimSettings { limits, ..SimSettings::default() })
}

/// A client of 3.1.1, with a subscription to `t` at this QoS; `clean` or not.
fn subscriber(node: &mut SimNode, client_id: &str, qos: u8, clean: u8) -> SimClient {
    let client = node.connect();
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, clean * 2, 0, 0];
    let connack = node.exchange(client, &framed(0x10, &[&head[..], &sized(client_id)].concat()));
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    let suback = node.exchange(client, &framed(0x82, &[&[0, 1][..], &sized("t"), &[qos]].concat()));
    assert_eq!(suback[..5], [0x90, 3, 0, 1, qos]);
    client
}

/// Publishes `count` messages at this QoS, each with its number.
fn publish(node: &mut SimNode, qos: u8, count: u8, fill: usize) {
    let publisher = node.connect();
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    node.exchange(publisher, &framed(0x10, &[&head[..], &sized("publisher")].concat()));
    for number in 1..=count {
        let id: &[u8] = if qos > 0 { &[0, number] } else { &[] };
        let payload = vec![number; fill];
        node.send(publisher, &framed(0x30 | qos << 1, &[&sized("t")[..], id, &payload].concat()));
        if qos == 2 {
            node.send(publisher, &framed(0x62, &[0, number]));
        }
    }
    node.drop_connection(publisher);
}

/// The payloads that came, which are acknowledged as their QoS asks for, to the end.
fn taken(node: &mut SimNode, client: SimClient) -> Vec<u8> {
    let mut payloads = Vec::new();
    loop {
        let bytes = node.take(client);
        if bytes.is_empty() {
            return payloads;
        }
        let mut rest = &bytes[..];
        let mut answers = Vec::new();
        while let [kind, tail @ ..] = rest {
            let length_bytes = 1 + tail.iter().position(|byte| byte & 0x80 == 0).unwrap();
            let length = tail[..length_bytes]
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
            let (body, after) = tail[length_bytes..].split_at(length);
            rest = after;
            match kind >> 4 {
                3 => {
                    payloads.push(*body.last().unwrap());
                    let id = body.get(3..5).unwrap_or_default();
                    match kind & 0x06 {
                        2 => answers.extend(framed(0x40, id)),
                        4 => answers.extend(framed(0x50, id)),
                        _ => {}
                    }
                }
                6 => answers.extend(framed(0x70, body)),
                other => panic!("{other}: {body:?}"),
            }
        }
        node.send(client, &answers);
    }
}

/// Takes for so many seconds; how many came in each of them.
fn by_second(node: &mut SimNode, client: SimClient, seconds: usize) -> (Vec<usize>, Vec<u8>) {
    let (mut counts, mut all) = (Vec::new(), Vec::new());
    for _ in 0..seconds {
        let mut count = 0;
        for _ in 0..20 {
            node.advance(Duration::from_millis(50));
            let payloads = taken(node, client);
            count += payloads.len();
            all.extend(payloads);
        }
        counts.push(count);
    }
    (counts, all)
}

#[test]
fn a_client_is_sent_no_faster_than_its_rate_and_all_of_it() {
    for (qos, pending_max) in [(1, 1_024), (1, 4), (2, 1_024), (2, 4)] {
        let limits = Limits { deliver_rate_max: 10, pending_max, ..Limits::default() };
        let mut node = node(limits);
        let client = subscriber(&mut node, "slow", qos, 1);
        publish(&mut node, qos, 60, 1);
        assert_eq!(taken(&mut node, client), (1..=10).collect::<Vec<_>>(), "a second's worth");
        let (counts, all) = by_second(&mut node, client, 6);
        let label = format!("QoS {qos}, {pending_max} noted: {counts:?}");
        assert!(counts[..4].iter().all(|count| (9..=11).contains(count)), "{label}");
        assert_eq!(all, (11..=60).collect::<Vec<_>>(), "{label}");
        assert!(node.shard(0).state().counters().deliver_paced >= 40, "{label}");
        assert_eq!(node.shard(0).state().counters().dropped_slow, 0);
        // Nobody else waits, and after a pause there is a second's worth again.
        publish(&mut node, qos, 10, 1);
        assert_eq!(taken(&mut node, client).len(), 10, "{label}");
    }
}

#[test]
fn a_rate_of_bytes_lets_large_messages_pass_and_waits_then() {
    let mut node = node(Limits { deliver_bytes_rate_max: 1_000, ..Limits::default() });
    let client = subscriber(&mut node, "slow", 1, 1);
    publish(&mut node, 1, 2, 5_000);
    assert_eq!(taken(&mut node, client), [1]);
    node.advance(Duration::from_millis(3_900));
    assert!(taken(&mut node, client).is_empty());
    node.advance(Duration::from_millis(200));
    assert_eq!(taken(&mut node, client), [2]);
}

#[test]
fn what_is_beyond_the_rate_at_qos_0_is_dropped_and_counted() {
    let mut node = node(Limits { deliver_rate_max: 10, ..Limits::default() });
    let client = subscriber(&mut node, "slow", 0, 1);
    publish(&mut node, 0, 30, 1);
    assert_eq!(taken(&mut node, client), (1..=10).collect::<Vec<_>>());
    assert_eq!(node.shard(0).state().counters().dropped_slow, 20);
    node.advance(Duration::from_millis(500));
    publish(&mut node, 0, 30, 1);
    assert_eq!(taken(&mut node, client), [1, 2, 3, 4, 5]);
}

/// What it had before the connection was lost, and what it missed.
#[test]
fn a_session_that_comes_back_is_sent_no_faster() {
    for qos in [1, 2] {
        let mut node = node(Limits { deliver_rate_max: 10, ..Limits::default() });
        let client = subscriber(&mut node, "sleeper", qos, 0);
        publish(&mut node, qos, 10, 1);
        // Taken, and not acknowledged.
        assert!(!node.take(client).is_empty());
        node.drop_connection(client);
        publish(&mut node, qos, 20, 1);
        let client = node.connect();
        let head = [0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0];
        node.send(client, &framed(0x10, &[&head[..], &sized("sleeper")].concat()));
        let mut first = node.take(client);
        assert_eq!(first.drain(..4).collect::<Vec<_>>(), [0x20, 2, 1, 0]);
        let again = first.len() / framed(0x32, &[&sized("t")[..], &[0, 1, 1]].concat()).len();
        assert_eq!(again, 10, "a second's worth");
        for id in 1..=10 {
            node.send(client, &framed(if qos == 1 { 0x40 } else { 0x50 }, &[0, id]));
        }
        let (counts, all) = by_second(&mut node, client, 4);
        assert!(counts.iter().all(|count| *count <= 11), "QoS {qos}: {counts:?}");
        assert_eq!(all, (1..=20).collect::<Vec<_>>(), "QoS {qos}: {counts:?}");
    }
}
