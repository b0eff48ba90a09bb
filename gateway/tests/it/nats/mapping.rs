//! The mapping of topics and filters, judged by the server that will apply it.

use gateway::proto::bridge::topic_subject::{FilterSubjects, TopicPrefix};
use gateway::proto::mqtt::{is_valid_filter, is_valid_topic_name};
use gateway::proto::nats::{Subject, encode_publish};
use gateway::proto::routing::filter::filter_matches;
use gateway::upstream::jetstream::direct_get::{Answer, DirectGet};
use gateway::upstream::jetstream::publish::{PublishAnswer, read_publish_answer};
use std::collections::{BTreeMap, BTreeSet};

use super::server::{Connection, Delivered, INBOX_SID, NatsServer, version};

/// Levels that mean something to one side or the other.
const LEVELS: [&str; 15] = [
    "a",
    "",
    "$",
    "$SYS",
    "%",
    "%2E",
    ".",
    "a.b",
    "*",
    ">",
    "\u{e9}",
    "a b",
    "\u{1}\u{7F}\r\n",
    "\"\\",
    "_INBOX",
];

/// Every topic of one and two such levels, and some of three.
fn topics() -> Vec<String> {
    let two = LEVELS.iter().flat_map(|one| LEVELS.map(|two| format!("{one}/{two}")));
    let three = LEVELS.iter().map(|level| format!("a/{level}/$SYS"));
    let one = LEVELS.iter().map(|level| (*level).to_owned());
    one.chain(two).chain(three).filter(|topic| is_valid_topic_name(topic)).collect()
}

/// Filters that make a difference between them.
fn filters() -> Vec<String> {
    let levels = ["+", "#"].into_iter().chain(LEVELS);
    let one: Vec<_> = levels.map(str::to_owned).collect();
    let two = one.iter().flat_map(|level| {
        [format!("{level}/+"), format!("{level}/#"), format!("+/{level}"), format!("{level}/a")]
    });
    let three = ["+/+/#", "a/+/#", "+/+/+", "a/+/$SYS", "#"].map(str::to_owned);
    let all: BTreeSet<_> = one.iter().cloned().chain(two).chain(three).collect();
    all.into_iter().filter(|filter| is_valid_filter(filter)).collect()
}

fn prefix() -> TopicPrefix {
    TopicPrefix::new("mqtt").unwrap()
}

/// Subscribes to every filter; the subscription id tells its place in `filters`: see [`place`].
fn subscribe(connection: &mut Connection, filters: &[String]) {
    let mut out = Vec::new();
    for (filter, sid) in filters.iter().zip((100..).step_by(2)) {
        let FilterSubjects { first, parent } = prefix().filter_subjects(filter, &mut out).unwrap();
        connection.subscribe(first, sid);
        if let Some(parent) = parent {
            connection.subscribe(parent, sid + 1);
        }
    }
    assert!(connection.exchange().is_empty());
}

fn place(sid: u64) -> usize {
    usize::try_from(sid - 100).unwrap() / 2
}

/// Publishes every topic to the stream, with itself for payload.
fn publish(connection: &mut Connection, topics: &[String]) -> Vec<Delivered> {
    let (mut out, mut reply) = (Vec::new(), Vec::new());
    for topic in topics {
        let (_, reply_to) = connection.reply_to(&mut reply);
        let subject = prefix().subject(topic, &mut out).unwrap();
        encode_publish(subject, Some(reply_to), topic.as_bytes(), &mut connection.out);
    }
    let mut delivered = connection.answers(topics.len());
    delivered.extend(connection.exchange());
    delivered
}

/// MQTT 5.0 §4.7; MQTT 3.1.1 §4.7.
#[test]
fn a_server_delivers_what_the_filters_match_and_stores_every_topic() {
    let server = NatsServer::start();
    let mut connection = server.connect();
    assert_eq!(connection.info.version, version());
    let (topics, filters) = (topics(), filters());
    let config =
        r#"{"name":"T","subjects":["mqtt.>","mqtt$.>"],"storage":"memory","allow_direct":true}"#;
    connection.api("$JS.API.STREAM.CREATE.T", config);
    subscribe(&mut connection, &filters);

    let mut got: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for message in publish(&mut connection, &topics) {
        let payload = String::from_utf8(message.payload.clone()).unwrap();
        if message.sid == INBOX_SID {
            let answer = read_publish_answer(message.headers(), &message.payload);
            assert!(matches!(answer, Ok(PublishAnswer::Stored(_))), "{payload}");
            continue;
        }
        let mut out = Vec::new();
        assert_eq!(prefix().topic(&message.subject, &mut out), Ok(&payload[..]));
        let filter = &filters[place(message.sid)];
        got.entry(filter).or_default().push(payload);
    }
    for filter in &filters {
        let expected: Vec<_> =
            topics.iter().filter(|topic| filter_matches(filter, topic)).cloned().collect();
        assert_eq!(got.remove(&filter[..]).unwrap_or_default(), expected, "{filter:?}");
    }

    let info = connection.api("$JS.API.STREAM.INFO.T", "");
    let subjects = format!("\"num_subjects\":{},", topics.len());
    assert!(info.contains(&subjects), "as many subjects as topics: {info}");
    for topic in &topics {
        assert_eq!(last(&mut connection, topic), topic.as_bytes());
    }
}

/// The last message of `topic`, by Direct Get.
fn last(connection: &mut Connection, topic: &str) -> Vec<u8> {
    let (mut out, mut reply) = (Vec::new(), Vec::new());
    let subject = prefix().subject(topic, &mut out).unwrap();
    let request = DirectGet::Last { subject };
    let api = Subject::literal("$JS.API.DIRECT.GET.T").unwrap();
    let (_, reply_to) = connection.reply_to(&mut reply);
    request.encode(api, reply_to, &mut connection.out);
    let answer = connection.answers(1).pop().unwrap();
    let read = request.read(answer.headers(), &answer.payload);
    assert!(matches!(read, Ok(Answer::Message(_))), "{topic:?}: {read:?}");
    answer.payload
}
