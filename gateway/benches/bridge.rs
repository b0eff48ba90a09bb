//! The data path towards NATS: reading and writing operations, mapping topics, looking up the ring.
//!
//! `cargo bench --bench bridge` prints nanoseconds an operation, median of the rounds; `-- --test`
//! does a few operations and only checks them. Given one case name, it runs that case alone, which
//! is what to put under `valgrind --tool=callgrind --toggle-collect='bridge::*_once'`.

use std::hint::black_box;

use gateway::proto::bridge::message_headers::{ReadBuffers, read_message};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::bridge::topic_subject::TopicPrefix;
use gateway::proto::mqtt::QoS;
use gateway::proto::nats::{DecodeLimits, Headers, Operation, Progress, Subject, decode};
use gateway::proto::partition::{PartitionId, Sequence};
use gateway::proto::record::Message;
use gateway::proto::time::Timestamp;
use gateway::upstream::jetstream::publish::{PublishAnswer, encode_append, read_publish_answer};
use gateway::upstream::jetstream::stored::Stored;

mod measure;

use measure::{OPERATIONS, measure};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--"));
    let operations = if test { OPERATIONS_IN_TEST } else { OPERATIONS };
    let run = |name: &str, case: fn(u32)| {
        if wanted.is_none_or(|wanted| wanted == name) {
            print!("{name}: ");
            case(operations);
        }
    };
    run("decode-msg", decode_msg);
    run("decode-hmsg", decode_hmsg);
    run("encode-append", encode_message);
    run("read-ack", read_ack);
    run("read-stored", read_stored);
    run("topic-to-subject", topic_to_subject);
    run("topic-to-subject-escaped", topic_to_subject_escaped);
    run("subject-to-topic", subject_to_topic);
    run("ring-owner", ring_owner);
    run("ring-new-16", |operations| ring_new(operations, 16));
    if !test {
        run("ring-new-1024", |operations| ring_new(operations, 1_024));
    }
}

fn decode_msg(operations: u32) {
    let wire =
        [&b"MSG live.3.mqtt.site.7.line.3.temp 12345 64\r\n"[..], &[7; 64], b"\r\n"].concat();
    report(operations, || assert_eq!(decode_once(black_box(&wire)), wire.len()));
}

fn decode_hmsg(operations: u32) {
    let headers = republished_headers();
    let sizes = format!("{} {}", headers.len(), headers.len() + 64);
    let line = format!("HMSG live.3.mqtt.site.7.line.3.temp 12345 {sizes}\r\n");
    let wire = [line.as_bytes(), headers.as_bytes(), &[7; 64], b"\r\n"].concat();
    report(operations, || assert_eq!(decode_once(black_box(&wire)), wire.len()));
}

#[inline(never)]
fn decode_once(wire: &[u8]) -> usize {
    match decode(wire, &DecodeLimits::default(), &mut Progress::default()) {
        Ok(Some((Operation::Message(message), taken))) => {
            black_box(message);
            taken
        }
        other => panic!("the bench wrote one whole message, not {other:?}"),
    }
}

/// What a server sends for a QoS 1 message of a device.
fn republished_headers() -> String {
    "NATS/1.0\r\nMqtt-Message-Id: g1-0-123456\r\nMqtt-Client-Id: sensor-42\r\nNats-Stream: P3\r\n\
     Nats-Subject: mqtt.site.7.line.3.temp\r\nNats-Sequence: 123456789\r\n\
     Nats-Time-Stamp: 2026-11-25T19:14:05.624456241Z\r\nNats-Last-Sequence: 123456700\r\n\r\n"
        .to_owned()
}

fn encode_message(operations: u32) {
    let message = Message {
        publisher: "sensor-42",
        qos: QoS::AtLeastOnce,
        retain: false,
        ledger: false,
        received_at: Timestamp(0),
        expiry_interval_s: None,
        packet_id: None,
        topic: "site/7/line/3/temp",
        properties: &[],
        payload: &[7; 64],
    };
    let mut out = Vec::with_capacity(1_024);
    report(operations, || {
        out.clear();
        append_once(black_box(&message), &mut out);
        black_box(&out);
    });
}

#[inline(never)]
fn append_once(message: &Message<'_>, out: &mut Vec<u8>) {
    let subject = Subject::from_checked(b"mqtt.site.7.line.3.temp");
    let reply_to = Subject::from_checked(b"_GW.g1.0.123456");
    encode_append(subject, reply_to, b"g1-0-123456", false, message, Timestamp(0), out)
        .expect("nothing has a line end");
}

fn read_ack(operations: u32) {
    let payload = br#"{"stream":"P3","seq":123456789}"#;
    report(operations, || assert_eq!(ack_once(black_box(payload)), Sequence(123_456_789)));
}

#[inline(never)]
fn ack_once(payload: &[u8]) -> Sequence {
    match read_publish_answer(Headers::NONE, payload) {
        Ok(PublishAnswer::Stored(ack)) => ack.sequence,
        other => panic!("the bench wrote an acknowledgement, not {other:?}"),
    }
}

fn read_stored(operations: u32) {
    let block = republished_headers();
    let mut buffers = ReadBuffers::default();
    report(operations, || {
        let headers = Headers::from_block(black_box(block.as_bytes()));
        assert_eq!(stored_once(headers, &mut buffers), Sequence(123_456_789));
    });
}

#[inline(never)]
fn stored_once(headers: Headers<'_>, buffers: &mut ReadBuffers) -> Sequence {
    let stored = Stored::read(headers).expect("the bench wrote a stored message");
    let received_at = stored.stored_at.timestamp();
    black_box(read_message("site/7/line/3/temp", headers, &[], received_at, buffers));
    stored.sequence
}

fn topic_to_subject(operations: u32) {
    map_topic(operations, "site/7/line/3/temp", b"mqtt.site.7.line.3.temp");
}

fn topic_to_subject_escaped(operations: u32) {
    map_topic(operations, "site 7/line//3.temp", b"mqtt.site%207.line./.3%2Etemp");
}

fn map_topic(operations: u32, topic: &str, expected: &[u8]) {
    let prefix = prefix();
    let mut out = Vec::new();
    report(operations, || {
        assert_eq!(subject_once(&prefix, black_box(topic), &mut out), expected.len());
    });
    assert_eq!(out, expected);
}

#[inline(never)]
fn subject_once(prefix: &TopicPrefix, topic: &str, out: &mut Vec<u8>) -> usize {
    prefix.subject(topic, out).expect("it is short").as_bytes().len()
}

fn subject_to_topic(operations: u32) {
    let prefix = prefix();
    let mut out = Vec::new();
    report(operations, || {
        assert_eq!(topic_once(&prefix, black_box(b"mqtt.site.7.line.3.temp"), &mut out), 18);
    });
}

#[inline(never)]
fn topic_once(prefix: &TopicPrefix, subject: &[u8], out: &mut Vec<u8>) -> usize {
    prefix.topic(subject, out).expect("it is a topic's").len()
}

fn prefix() -> TopicPrefix {
    TopicPrefix::new("mqtt").expect("a literal subject")
}

/// A table of as many members of weight 1.
fn table(count: u16) -> RingTable {
    let members = (0..count).map(|partition| Member {
        partition: PartitionId(partition),
        weight: 1,
        sub_cluster: "a".to_owned(),
    });
    RingTable::new(1, members.collect()).expect("a table within its limits")
}

/// Computing a ring takes long, so it is done for one of 100,000 operations.
fn ring_new(operations: u32, count: u16) {
    let table = table(count);
    report(operations.div_ceil(100_000), || {
        black_box(Ring::new(black_box(&table)));
    });
}

fn ring_owner(operations: u32) {
    let ring = Ring::new(&table(16));
    let topics: Vec<String> = (0..1_024).map(|site| format!("site/{site}/line/3/temp")).collect();
    let mut next = topics.iter().cycle();
    report(operations, || {
        let topic = next.next().expect("a cycle has no end");
        black_box(owner_once(&ring, topic));
    });
}

#[inline(never)]
fn owner_once(ring: &Ring, topic: &str) -> PartitionId {
    ring.owner(topic)
}

/// Prints nanoseconds an operation.
fn report(operations: u32, operation: impl FnMut()) {
    println!("{:.1} ns", measure(operations, operation));
}

/// Enough that what happens once a process does not show in a count of instructions.
const OPERATIONS_IN_TEST: u32 = 1_000;
