//! Properties of the mapping between MQTT and NATS, over random topics, filters and messages.

use gateway::proto::bridge::message_headers::{ReadBuffers, put_headers, read_message};
use gateway::proto::bridge::topic_subject::{FilterSubjects, TopicPrefix};
use gateway::proto::mqtt::{is_valid_filter, is_valid_topic_name};
use gateway::proto::nats::{
    DecodeLimits, Operation, Progress, PublishWriter, Subject, decode, subject_matches,
};
use gateway::proto::record::Message;
use gateway::proto::routing::filter::filter_matches;
use gateway::proto::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

use super::values::{Block, block, data, qos, text};

/// A level: short and of few letters, so that topics meet, with all that has a meaning somewhere.
fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]",
        2 => Just(String::new()),
        2 => select(&["$", "$SYS", "%", "%2E", ".", "*", ">"][..])
            .prop_map(str::to_owned),
        1 => "[ \\x01-\\x7F&&[^/+#]]{1,4}",
        1 => "[^\\x00/+#]{1,4}",
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("a filter is not empty", |filter| !filter.is_empty())
}

fn prefix() -> TopicPrefix {
    TopicPrefix::new("live.3.mqtt").unwrap()
}

fn subject(topic: &str) -> Vec<u8> {
    let mut out = Vec::new();
    prefix().subject(topic, &mut out).unwrap().as_bytes().to_vec()
}

/// NATS's rules, written down once more and differently: tokens from the front, `*` takes one,
/// `>` takes all that is left if something is.
fn nats_matches(filter: &[&str], subject: &[&str]) -> bool {
    match (filter, subject) {
        ([">"], [_, ..]) => true,
        (["*", filter @ ..], [_, subject @ ..]) => nats_matches(filter, subject),
        ([one, filter @ ..], [other, subject @ ..]) => {
            one == other && nats_matches(filter, subject)
        }
        ([], []) => true,
        ([], _) | (_, []) => false,
    }
}

fn tokens(subject: &[u8]) -> Vec<&str> {
    std::str::from_utf8(subject).unwrap().split('.').collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn a_topic_is_a_literal_subject_and_back(topic in topic()) {
        prop_assert!(is_valid_topic_name(&topic));
        let subject = subject(&topic);
        prop_assert!(Subject::literal(&subject[..]).is_ok(), "{:?}", subject);
        let mut out = Vec::new();
        prop_assert_eq!(prefix().topic(&subject, &mut out), Ok(&topic[..]));
    }

    #[test]
    fn different_topics_have_different_subjects(one in topic(), other in topic()) {
        prop_assert_eq!(one == other, subject(&one) == subject(&other));
    }

    /// Only what a topic is mapped to is read as one, so no two subjects are the same topic.
    #[test]
    fn a_subject_is_a_topic_only_in_its_one_spelling(
        tail in prop_oneof!["[ab.$%/*>2E+#]{0,8}", ".{0,8}"],
        dollar: bool,
    ) {
        let mark = if dollar { "$" } else { "" };
        let given = format!("live.3.mqtt{mark}.{tail}");
        let mut out = Vec::new();
        if let Ok(topic) = prefix().topic(given.as_bytes(), &mut out) {
            prop_assert!(is_valid_topic_name(topic));
            prop_assert_eq!(subject(topic), given.as_bytes());
        }
    }

    #[test]
    fn a_filter_matches_what_its_subjects_match(filter in filter(), topic in topic()) {
        prop_assert!(is_valid_filter(&filter));
        let mut out = Vec::new();
        let FilterSubjects { first, parent } =
            prefix().filter_subjects(&filter, &mut out).unwrap();
        let subject = subject(&topic);
        let matches: Vec<_> = [Some(first), parent]
            .into_iter()
            .flatten()
            .filter(|one| nats_matches(&tokens(one.as_bytes()), &tokens(&subject)))
            .collect();
        prop_assert_eq!(!matches.is_empty(), filter_matches(&filter, &topic));
        prop_assert!(matches.len() <= 1, "a message is delivered once a filter");
        for one in [Some(first), parent].into_iter().flatten() {
            prop_assert!(Subject::filter(one.as_bytes()).is_ok());
            prop_assert_eq!(
                subject_matches(one.as_bytes(), &subject),
                nats_matches(&tokens(one.as_bytes()), &tokens(&subject))
            );
        }
    }
}

proptest! {
    /// What QoS 2 needs of the publisher does not travel; all else does.
    #[test]
    fn a_message_survives_its_headers(
        publisher in text(),
        (qos, retain) in (qos(), any::<bool>()),
        expiry_interval_s: Option<u32>,
        properties in block(b"\x26\x01\x03\x26\x08\x09\x26"),
        payload in data(),
    ) {
        check_headers(&publisher, &properties, &payload, |message| Message {
            qos,
            retain,
            expiry_interval_s,
            ..message
        });
    }
}

fn check_headers(
    publisher: &str,
    properties: &Block,
    payload: &[u8],
    with: impl FnOnce(Message<'static>) -> Message<'static>,
) {
    let plain = Message {
        publisher: "",
        qos: gateway::proto::mqtt::QoS::AtLeastOnce,
        retain: false,
        ledger: false,
        received_at: Timestamp(1_700_000_000_000),
        expiry_interval_s: None,
        packet_id: None,
        topic: "a/b",
        properties: &[],
        payload: &[],
    };
    let message = Message { publisher, properties: &properties.raw, payload, ..with(plain) };
    let mut out = Vec::new();
    let mut publish = PublishWriter::new(Subject::literal("s").unwrap(), None, &mut out);
    put_headers(&message, message.received_at, &mut publish);
    publish.finish(message.payload);
    let delivered = [b"HMSG s 7", out.strip_prefix(b"HPUB s").unwrap()].concat();
    let limits = DecodeLimits::default();
    let Ok(Some((Operation::Message(got), _))) =
        decode(&delivered, &limits, &mut Progress::default())
    else {
        panic!("not a message: {}", delivered.escape_ascii());
    };
    assert!(got.headers.iter().all(|(name, _)| name.starts_with(b"Mqtt-")), "only our names");
    let mut buffers = ReadBuffers::default();
    let read = read_message("a/b", got.headers, got.payload, message.received_at, &mut buffers);
    assert_eq!((read.message, read.unreadable_count), (message, 0));
}
