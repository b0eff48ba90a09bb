//! What the JetStream part writes, understood by a real server, and its answers, read back.

use gateway::proto::bridge::message_headers::{ReadBuffers, read_message};
use gateway::proto::mqtt::{Property, QoS};
use gateway::proto::nats::{PublishWriter, Subject, encode_publish};
use gateway::proto::partition::Sequence;
use gateway::proto::record::Message;
use gateway::proto::time::Timestamp;
use gateway::upstream::jetstream::direct_get::{Answer, DirectGet, Start};
use gateway::upstream::jetstream::publish::{
    ApiError, PublishAck, PublishAnswer, Put, encode_append, encode_mark, mark_sequence,
    read_publish_answer,
};
use gateway::upstream::jetstream::stored::StoreTime;
use gateway::upstream::jetstream::stored::Stored;
use rustix::process::Signal;
use std::num::NonZeroU16;

use super::server::{Connection, Delivered, INBOX_SID, NatsServer};

fn subject(text: &str) -> Subject<'_> {
    Subject::filter(text).unwrap()
}

/// A message with all that headers carry.
fn message(properties: &[u8]) -> Message<'_> {
    Message {
        publisher: "c 1\u{e9}",
        qos: QoS::ExactlyOnce,
        retain: true,
        ledger: false,
        received_at: Timestamp(0),
        expiry_interval_s: Some(60),
        packet_id: None,
        topic: "a",
        properties,
        payload: b"hi",
    }
}

fn properties() -> Vec<u8> {
    let mut raw = Vec::new();
    Property::CorrelationData(b"\0\xFF\r\n").encode(&mut raw);
    Property::UserProperty("Nats-Sequence", "999\r\nNats-Stream: X").encode(&mut raw);
    raw
}

/// Appends [`message`] and returns the answer and what else was delivered.
fn append(connection: &mut Connection, id: &str) -> (Delivered, Vec<Delivered>) {
    let (raw, mut reply) = (properties(), Vec::new());
    let (_, reply_to) = connection.reply_to(&mut reply);
    let message = message(&raw);
    let to = subject("mqtt.a");
    encode_append(to, reply_to, id.as_bytes(), true, &message, Timestamp(0), &mut connection.out)
        .unwrap();
    let mut delivered = connection.answers(1);
    delivered.extend(connection.exchange());
    let place = delivered.iter().position(|one| one.sid == INBOX_SID).unwrap();
    (delivered.remove(place), delivered)
}

fn put(connection: &mut Connection, put: Put<'_>) -> Delivered {
    let mut reply = Vec::new();
    let (_, reply_to) = connection.reply_to(&mut reply);
    put.encode(reply_to, &mut connection.out);
    connection.answers(1).pop().unwrap()
}

/// The answers to `request`, up to the one that ends it, and the messages they were.
fn get(connection: &mut Connection, request: DirectGet<'_>, count: usize) -> Vec<Delivered> {
    let mut reply = Vec::new();
    let (_, reply_to) = connection.reply_to(&mut reply);
    request.encode(subject("$JS.API.DIRECT.GET.S"), reply_to, &mut connection.out);
    connection.answers(count)
}

fn server_with_stream() -> (NatsServer, Connection) {
    let server = NatsServer::start();
    let mut connection = server.connect();
    let config = r#"{"name":"S","subjects":["mqtt.>"],"storage":"memory","allow_direct":true,
        "allow_msg_ttl":true,"discard":"new","max_bytes":20000,
        "republish":{"src":">","dest":"live.3.>"}}"#;
    connection.api("$JS.API.STREAM.CREATE.S", config);
    (server, connection)
}

#[test]
fn a_message_is_stored_once_and_comes_back_as_it_was() {
    let (_server, mut connection) = server_with_stream();
    connection.subscribe(subject("live.3.mqtt.>"), 7);
    assert!(connection.exchange().is_empty());

    let (answer, mut live) = append(&mut connection, "g-1");
    let first = PublishAck { stream: "S", sequence: Sequence(1), is_duplicate: false };
    let read = read_publish_answer(answer.headers(), &answer.payload);
    assert_eq!(read, Ok(PublishAnswer::Stored(first)));
    let live = live.pop().expect("it is republished");
    assert_eq!((live.sid, &live.subject[..]), (7, &b"live.3.mqtt.a"[..]));
    check_stored(&live, Some(Sequence(0)));

    let (answer, live) = append(&mut connection, "g-1");
    let again = PublishAck { is_duplicate: true, ..first };
    let read = read_publish_answer(answer.headers(), &answer.payload);
    assert_eq!(read, Ok(PublishAnswer::Stored(again)));
    assert!(live.is_empty(), "a duplicate is not republished");

    let request = DirectGet::Next { subject: subject("mqtt.*"), from: Sequence(1) };
    let got = get(&mut connection, request, 1).pop().unwrap();
    assert!(matches!(request.read(got.headers(), &got.payload), Ok(Answer::Message(_))));
    check_stored(&got, None);
}

#[track_caller]
fn check_stored(got: &Delivered, last_sequence: Option<Sequence>) {
    let stored = Stored::read(got.headers()).unwrap();
    assert_eq!((stored.stream, stored.subject), (&b"S"[..], &b"mqtt.a"[..]));
    assert_eq!((stored.sequence, stored.last_sequence), (Sequence(1), last_sequence));
    let (raw, mut buffers) = (properties(), ReadBuffers::default());
    let read = read_message("a", got.headers(), &got.payload, Timestamp(0), &mut buffers);
    assert_eq!((read.message, read.unreadable_count), (message(&raw), 0));
}

#[test]
fn a_record_is_written_by_compare_and_set() {
    let (_server, mut connection) = server_with_stream();
    let create = Put {
        subject: subject("mqtt.k"),
        value: b"1",
        expected_last: Some(Sequence::ZERO),
        time_to_live_s: Some(3_600),
    };
    let answer = put(&mut connection, create);
    let read = read_publish_answer(answer.headers(), &answer.payload);
    assert!(matches!(read, Ok(PublishAnswer::Stored(ack)) if ack.sequence == Sequence(1)));

    let answer = put(&mut connection, create);
    let read = read_publish_answer(answer.headers(), &answer.payload);
    let Ok(PublishAnswer::Refused(error)) = read else { panic!("{read:?}") };
    assert_eq!((error.code, error.err_code), (400, ApiError::WRONG_LAST_SEQUENCE));

    let update = Put { expected_last: Some(Sequence(1)), ..create };
    let answer = put(&mut connection, update);
    let read = read_publish_answer(answer.headers(), &answer.payload);
    assert!(matches!(read, Ok(PublishAnswer::Stored(ack)) if ack.sequence == Sequence(2)));
}

#[test]
fn a_full_stream_and_no_stream_are_told_apart() {
    let (_server, mut connection) = server_with_stream();
    let value = [b'x'; 15_000];
    let big = Put {
        subject: subject("mqtt.k"),
        value: &value,
        expected_last: None,
        time_to_live_s: None,
    };
    put(&mut connection, big);
    let answer = put(&mut connection, big);
    let read = read_publish_answer(answer.headers(), &answer.payload);
    let Ok(PublishAnswer::Refused(error)) = read else { panic!("{read:?}") };
    assert_eq!((error.code, error.err_code), (503, ApiError::STORE_FAILED));

    let answer = put(&mut connection, Put { subject: subject("nobody"), ..big });
    let read = read_publish_answer(answer.headers(), &answer.payload);
    assert_eq!(read, Ok(PublishAnswer::NoResponders));
}

#[test]
fn direct_get_answers_what_was_asked_and_says_when_it_ends() {
    let (_server, mut connection) = server_with_stream();
    for key in ["mqtt.a", "mqtt.b", "mqtt.a"] {
        let subject = subject(key);
        put(
            &mut connection,
            Put { subject, value: b"v", expected_last: None, time_to_live_s: None },
        );
    }
    let batch = NonZeroU16::new(2).unwrap();
    let scan = DirectGet::Scan {
        from: Start::At(Sequence(1)),
        subject: None,
        batch,
        bytes_max: Some(100_000),
    };
    check_batch(&mut connection, scan, &[1, 2], 1, None);
    let since = |time| DirectGet::Scan {
        from: Start::Since(StoreTime(time)),
        subject: None,
        batch,
        bytes_max: None,
    };
    check_batch(&mut connection, since(1), &[1, 2], 1, None);
    let only_a = Some(subject("mqtt.a"));
    let filtered =
        DirectGet::Scan { from: Start::At(Sequence(1)), subject: only_a, batch, bytes_max: None };
    check_batch(&mut connection, filtered, &[1, 3], 0, None);
    let all = [subject("mqtt.>")];
    let each = DirectGet::LastOfEach { subjects: &all, up_to: None, batch: None };
    check_batch(&mut connection, each, &[2, 3], 0, Some(Sequence(3)));
    let before = DirectGet::LastOfEach { subjects: &all, up_to: Some(Sequence(2)), batch: None };
    check_batch(&mut connection, before, &[1, 2], 0, Some(Sequence(2)));

    for nothing in [
        DirectGet::Last { subject: subject("mqtt.c") },
        DirectGet::Next { subject: subject("mqtt.a"), from: Sequence(4) },
        DirectGet::Scan { from: Start::At(Sequence(4)), subject: None, batch, bytes_max: None },
        since(u64::MAX / 2),
        DirectGet::LastOfEach { subjects: &[subject("mqtt.c")], up_to: None, batch: None },
    ] {
        let got = get(&mut connection, nothing, 1).pop().unwrap();
        assert_eq!(nothing.read(got.headers(), &got.payload), Ok(Answer::NotFound), "{nothing:?}");
    }
}

#[track_caller]
fn check_batch(
    connection: &mut Connection,
    request: DirectGet<'_>,
    sequences: &[u64],
    pending: u64,
    up_to: Option<Sequence>,
) {
    let got = get(connection, request, sequences.len() + 1);
    let (end, messages) = got.split_last().unwrap();
    let read: Vec<_> = messages
        .iter()
        .map(|message| match request.read(message.headers(), &message.payload) {
            Ok(Answer::Message(stored)) => stored.sequence.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(read, sequences);
    let last_sequence = Sequence(*sequences.last().unwrap());
    assert_eq!(
        request.read(end.headers(), &end.payload),
        Ok(Answer::End { pending_count: pending, last_sequence, up_to })
    );
}

/// A native publisher may write anything in front of what the server adds.
#[test]
fn a_publisher_cannot_pretend_another_place() {
    let (_server, mut connection) = server_with_stream();
    let mut reply = Vec::new();
    let (_, reply_to) = connection.reply_to(&mut reply);
    let mut publish = PublishWriter::new(subject("mqtt.a"), Some(reply_to), &mut connection.out);
    for (name, value) in [
        ("Nats-Sequence", "999"),
        ("Nats-Stream", "X"),
        ("Nats-Num-Pending", "0"),
        ("Nats-Last-Sequence", "5"),
    ] {
        publish.header(name, value.as_bytes()).unwrap();
    }
    publish.finish(b"hi");
    connection.answers(1);
    let request = DirectGet::Last { subject: subject("mqtt.a") };
    let got = get(&mut connection, request, 1).pop().unwrap();
    let Ok(Answer::Message(stored)) = request.read(got.headers(), &got.payload) else {
        panic!("{}", got.block.escape_ascii())
    };
    assert_eq!((stored.stream, stored.sequence), (&b"S"[..], Sequence(1)));
    assert_eq!((stored.pending_count, stored.last_sequence), (None, None));
}

/// Where a stream ends, by a mark.
fn end_of(connection: &mut Connection) -> Sequence {
    let mut reply = Vec::new();
    let (_, reply_to) = connection.reply_to(&mut reply);
    encode_mark(subject("mqtt.%mark"), reply_to, false, &mut connection.out);
    let answer = connection.answers(1).pop().unwrap();
    mark_sequence(&read_publish_answer(answer.headers(), &answer.payload).unwrap()).unwrap()
}

/// Whether somebody subscribes to what only the former connection of the test below does.
fn is_former_there(connection: &mut Connection) -> bool {
    let mut reply = Vec::new();
    let (_, reply_to) = connection.reply_to(&mut reply);
    encode_publish(subject("_GW.former.a.0"), Some(reply_to), b"", &mut connection.out);
    let answers = connection.exchange();
    let mut statuses = answers.iter().filter_map(|answer| answer.headers().status());
    !statuses.any(|status| status.code == 503)
}

/// A server answers so many before it has read what a client sent and gone.
const QUESTIONS_MAX: u32 = 100_000;

/// A server stands still while a client publishes and goes, and goes on. Another client sees when it has read
/// what the first one sent, and behind which of it nothing more comes: what `former.rs` rests on.
#[test]
fn a_mark_behind_the_end_of_a_former_connection_is_behind_all_that_came_of_it() {
    let server = NatsServer::start();
    let mut connection = server.connect();
    let config = r#"{"name":"S","subjects":["mqtt.>"],"storage":"file","allow_direct":true}"#;
    connection.api("$JS.API.STREAM.CREATE.S", config);
    let mut former = server.connect();
    former.subscribe(subject("_GW.former.a.*"), 7);
    assert!(former.exchange().is_empty());
    assert!(is_former_there(&mut connection), "it is delivered, and nobody answers");
    server.signal(Signal::STOP);
    let reply_to = Some(subject("_GW.former.a.1"));
    for _ in 0..5_000 {
        encode_publish(subject("mqtt.a"), reply_to, b"x", &mut former.out);
    }
    former.send_and_leave();
    server.signal(Signal::CONT);
    let has_ended = (0..QUESTIONS_MAX).any(|_| !is_former_there(&mut connection));
    assert!(has_ended, "it never reads to the end");
    let end = end_of(&mut connection);
    assert!(end > Sequence(0), "it has read some of it");
    for _ in 0..500 {
        assert_eq!(end_of(&mut connection), end, "nothing comes late");
    }
}
