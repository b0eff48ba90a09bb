//! Properties of the NATS codec, over random bytes, damaged streams and random values.

use gateway::proto::nats::{
    DecodeLimits, Headers, Info, Message, Operation, Progress, PublishWriter, Subject, decode,
    encode_publish,
};
use gateway::proto::partition::Sequence;
use gateway::upstream::jetstream::direct_get::DirectGet;
use gateway::upstream::jetstream::publish::read_publish_answer;
use gateway::upstream::jetstream::stored::{StoreTime, Stored};
use gateway::upstream::jetstream::{Inbox, Token};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::nats_bodies::{SMALL, operations, splitting_changes_nothing, walk};
use crate::allocations;

/// Good operations of every kind, as a server writes them.
const SAMPLES: [&[u8]; 10] = [
    b"INFO {\"server_id\":\"N\",\"max_payload\":1048576} \r\n",
    b"PING\r\n",
    b"PONG\r\n",
    b"+OK\r\n",
    b"-ERR 'Invalid Subject'\r\n",
    b"MSG mqtt.a 9 5\r\nhello\r\n",
    b"MSG mqtt.a 9 _I.1 0\r\n\r\n",
    b"HMSG mqtt.a 9 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n",
    b"HMSG _I.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
    b"HMSG m 9 _I.1 24 24\r\nNATS/1.0 404 Not x\r\n\r\n\r\n\r\n",
];

/// A stream of samples, some of its bytes replaced.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let samples = prop::collection::vec(select(&SAMPLES[..]), 1..8);
    let damage = prop::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (samples, damage).prop_map(|(samples, damage)| {
        let mut stream = samples.concat();
        for (place, byte) in damage {
            let at = place.index(stream.len());
            stream[at] = byte;
        }
        stream
    })
}

/// Bytes of which the protocol is made, so that random ones get somewhere.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => select(&b"MSGHPINOEKR+-/:. \t\r\n019"[..]),
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..120)
}

#[test]
fn every_sample_is_an_operation() {
    let stream = SAMPLES.concat();
    let (read, error) = operations(&stream, [], &DecodeLimits::default());
    assert_eq!((read.len(), error), (SAMPLES.len(), None));
}

proptest! {
    #[test]
    fn splitting_a_nats_stream_changes_nothing(
        stream in prop_oneof![stream(), bytes()],
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut arrivals: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        arrivals.sort_unstable();
        for limits in [SMALL, DecodeLimits::default()] {
            splitting_changes_nothing(&stream, arrivals.iter().copied(), &limits);
            splitting_changes_nothing(&stream, 0..stream.len(), &limits);
        }
    }

    #[test]
    fn decoding_nats_allocates_nothing(stream in prop_oneof![stream(), bytes()]) {
        let mut progress = Progress::default();
        let ((), allocations) = allocations::count(|| {
            if let Ok(Some((operation, _))) = decode(&stream, &SMALL, &mut progress) {
                walk(&operation);
            }
        });
        prop_assert_eq!(allocations, 0);
    }

    /// Whatever a server answers, reading it does not panic.
    #[test]
    fn answers_of_jetstream_survive_any_bytes(
        bytes in prop_oneof![bytes(), "[{}\\[\\]\",:a-z0-9\\\\ ]{0,60}".prop_map(String::into_bytes)],
    ) {
        let headers = Headers::from_block(&bytes);
        let _ = Info::parse(&bytes);
        let _ = read_publish_answer(Headers::NONE, &bytes);
        let _ = read_publish_answer(headers, b"{}");
        let _ = Stored::read(headers);
        let _ = StoreTime::parse(&bytes);
        let request = DirectGet::Next { subject: Subject::literal("a").unwrap(), from: Sequence(1) };
        let _ = request.read(headers, b"");
    }

    /// What goes out as HPUB comes back as HMSG: only name and subscription differ.
    #[test]
    fn a_publish_is_read_as_written(
        token: u64,
        names in prop::collection::vec(select(&["Nats-Msg-Id", "a", "Mqtt-QoS"][..]), 0..5),
        value in "[!-~]{0,20}",
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let subject = Subject::literal("mqtt.a").unwrap();
        let inbox = Inbox::new("_GW.g").unwrap();
        let mut reply = Vec::new();
        let reply_to = inbox.reply_to(Token(token), &mut reply);
        let mut out = Vec::new();
        let mut publish = PublishWriter::new(subject, Some(reply_to), &mut out);
        for name in &names {
            publish.header(name, value.as_bytes()).unwrap();
        }
        publish.finish(&payload);
        let delivered = as_delivered(&out, "HPUB mqtt.a", "HMSG mqtt.a 7");
        let message = only_message(&delivered);
        prop_assert_eq!((message.subject, message.sid), (subject.as_bytes(), 7));
        prop_assert_eq!(inbox.token(message.reply_to.unwrap()), Some(Token(token)));
        prop_assert_eq!(message.payload, &payload[..]);
        let expected: Vec<_> =
            names.iter().map(|name| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(message.headers.iter().collect::<Vec<_>>(), expected);

        let mut out = Vec::new();
        encode_publish(subject, None, &payload, &mut out);
        let delivered = as_delivered(&out, "PUB mqtt.a", "MSG mqtt.a 7");
        prop_assert_eq!(only_message(&delivered).payload, &payload[..]);
    }

    /// No header value can end its line: it is refused, and nothing of it is there.
    #[test]
    fn no_header_value_becomes_a_header(value in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut out = Vec::new();
        let mut publish = PublishWriter::new(Subject::literal("a").unwrap(), None, &mut out);
        let accepted = publish.header("k", &value).is_ok();
        publish.finish(b"");
        let delivered = as_delivered(&out, "HPUB a", "HMSG a 7");
        let count = only_message(&delivered).headers.iter().count();
        prop_assert_eq!(count, usize::from(accepted));
        prop_assert_eq!(accepted, !value.contains(&b'\r') && !value.contains(&b'\n'));
    }
}

/// What a server makes of a publish for the one that gets it.
fn as_delivered(publish: &[u8], from: &str, to: &str) -> Vec<u8> {
    let rest = publish.strip_prefix(from.as_bytes()).expect("the publish starts so");
    [to.as_bytes(), rest].concat()
}

fn only_message(stream: &[u8]) -> Message<'_> {
    match decode(stream, &DecodeLimits::default(), &mut Progress::default()) {
        Ok(Some((Operation::Message(message), taken))) if taken == stream.len() => message,
        other => panic!("one whole message, not {other:?}"),
    }
}
