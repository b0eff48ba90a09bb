//! Durable publishes: the requests as bytes, and their acknowledgements.
//!
//! A message is stored when the server says so in an answer to the reply subject:
//! `{"stream":"P","seq":2}`, with `"duplicate": true` when the same `Nats-Msg-Id` was stored within
//! the stream's `duplicate_window`, or `{"error":{"code":400,"err_code":10071,...},...}`. No
//! stream listening at all is a message with the status 503.
//!
//! That header costs each server that stores a message 1.3 to 2 us, and 200 bytes for as long as the window
//! is. So a publish has it only where a second copy is nothing that MQTT lets happen, and another header of the
//! same text otherwise.
//!
//! Source: JetStream API, publish acknowledgement; headers as nats-server 2.15.1 reads them.

use crate::proto::bridge::message_headers::{MESSAGE_ID, put_headers};
use crate::proto::nats::json::{self, NotJson, Value};
use crate::proto::nats::{HeaderInjection, Headers, PublishWriter, Subject};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::Message;
use crate::proto::time::Timestamp;

/// Appends the publish of an application message to the stream that listens to `subject`.
///
/// `message_id` is the same each time the same message is published. With `named` the server is told, and
/// within the stream's `duplicate_window` it is stored once; without, it is only there to be found again.
///
/// # Errors
///
/// [`HeaderInjection`] when `message_id` has a line end; nothing is appended then.
pub fn encode_append(
    subject: Subject<'_>,
    reply_to: Subject<'_>,
    message_id: &[u8],
    named: bool,
    message: &Message<'_>,
    now: Timestamp,
    out: &mut Vec<u8>,
) -> Result<(), HeaderInjection> {
    let mut publish = PublishWriter::new(subject, Some(reply_to), out);
    publish.header(if named { NATS_MESSAGE_ID } else { MESSAGE_ID }, message_id)?;
    put_headers(message, now, &mut publish);
    publish.finish(message.payload);
    Ok(())
}

/// The name of a stored message, whether or not the server knows it for one.
#[must_use]
pub fn message_id(headers: Headers<'_>) -> Option<&[u8]> {
    headers.get(MESSAGE_ID).or_else(|| headers.get(NATS_MESSAGE_ID))
}

/// A write of a keyed record, a subject of a stream with `max_msgs_per_subject: 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// The key.
    pub subject: Subject<'a>,
    /// The record; empty is a record too.
    pub value: &'a [u8],
    /// The sequence of the record it replaces, 0 for none: another one refuses the write with
    /// [`ApiError::WRONG_LAST_SEQUENCE`]. `None` writes in any case.
    pub expected_last: Option<Sequence>,
    /// Seconds after which the server removes the record, at least 1; `None` keeps it. The stream
    /// needs `allow_msg_ttl`.
    pub time_to_live_s: Option<u32>,
}

impl Put<'_> {
    /// Appends the publish.
    pub fn encode(&self, reply_to: Subject<'_>, out: &mut Vec<u8>) {
        let mut publish = PublishWriter::new(self.subject, Some(reply_to), out);
        if let Some(expected) = self.expected_last {
            publish.header_decimal(EXPECTED_LAST, expected.0);
        }
        if let Some(seconds) = self.time_to_live_s {
            publish.header_decimal(TIME_TO_LIVE, seconds.max(1).into());
        }
        publish.finish(self.value);
    }
}

/// A retained message as it is kept, a subject a topic. Source: MQTT 5.0 §3.3.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedPut<'a> {
    /// The topic's, of the stream of retained messages.
    pub subject: Subject<'a>,
    /// As it was published; without payload it says that there is none any more.
    pub message: &'a Message<'a>,
    /// Its place in the stream of the partition, or of the one that it is `from`.
    pub sequence: Sequence,
    /// The partition in which it is stored, if that is another one: its topic has moved since.
    pub from: Option<PartitionId>,
    /// See [`Put::expected_last`].
    pub expected_last: Sequence,
}

impl RetainedPut<'_> {
    /// Appends the publish.
    pub fn encode(&self, reply_to: Subject<'_>, now: Timestamp, out: &mut Vec<u8>) {
        let mut publish = PublishWriter::new(self.subject, Some(reply_to), out);
        publish.header_decimal(EXPECTED_LAST, self.expected_last.0);
        if let Some(from) = self.from {
            publish.header_decimal(RETAINED_SEQUENCE, 0);
            let from = format!("{}.{}", from.0, self.sequence.0);
            publish.header(RETAINED_FROM, from.as_bytes()).expect("digits and a dot");
        } else {
            publish.header_decimal(RETAINED_SEQUENCE, self.sequence.0);
        }
        if self.message.payload.is_empty() {
            publish.header_decimal(TIME_TO_LIVE, TOMBSTONE_S);
        }
        put_headers(self.message, now, &mut publish);
        publish.finish(self.message.payload);
    }
}

/// Where a retained message was stored that came here with its topic, from another partition: which, and
/// at which place there. [`retained_sequence`] is 0 then, so that whatever is published here is later.
#[must_use]
pub fn retained_from(headers: Headers<'_>) -> Option<(PartitionId, Sequence)> {
    let text = headers.get(RETAINED_FROM)?;
    let dot = memchr::memchr(b'.', text)?;
    let (partition, sequence) = text.split_at_checked(dot)?;
    let partition = u16::try_from(json::decimal(partition)?).ok()?;
    Some((PartitionId(partition), Sequence(json::decimal(sequence.get(1..)?)?)))
}

/// The place in the partition's stream that [`RetainedPut`] noted.
#[must_use]
pub fn retained_sequence(headers: Headers<'_>) -> Option<Sequence> {
    headers.get(RETAINED_SEQUENCE).and_then(json::decimal).map(Sequence)
}

/// Appends the publish of a message of QoS 0 to the live feed. `source` names the publisher and
/// counts: who has several subscriptions that match gets one copy for each.
pub fn encode_unacknowledged(
    subject: Subject<'_>,
    source: Subject<'_>,
    message: &Message<'_>,
    now: Timestamp,
    out: &mut Vec<u8>,
) {
    let mut publish = PublishWriter::new(subject, Some(source), out);
    put_headers(message, now, &mut publish);
    publish.finish(message.payload);
}

/// Appends a mark: a publish whose answer names the last sequence of the stream behind `subject`,
/// and that comes on a link to the leader behind everything republished up to it.
///
/// With `stored` a message is stored, which the server removes after a few seconds. Without, the
/// publish is made to fail: it expects a last sequence that no stream has, and the server says which
/// one there is. A server with replicas counts there what is not stored yet, so that is for streams
/// without.
///
/// Source: nats-server 2.15.1, where acknowledgements and republished messages leave through one
/// queue a stream.
pub fn encode_mark(subject: Subject<'_>, reply_to: Subject<'_>, stored: bool, out: &mut Vec<u8>) {
    let mut publish = PublishWriter::new(subject, Some(reply_to), out);
    if stored {
        publish.header_decimal(TIME_TO_LIVE, MARK_S);
    } else {
        publish.header_decimal(EXPECTED_LAST_OF_STREAM, NO_SEQUENCE);
    }
    publish.finish(b"");
}

/// The sequence that the answer to a mark names; `None` when it is no answer to one.
#[must_use]
pub fn mark_sequence(answer: &PublishAnswer<'_>) -> Option<Sequence> {
    match answer {
        PublishAnswer::Stored(ack) => Some(ack.sequence),
        PublishAnswer::Refused(error) if error.err_code == ApiError::WRONG_LAST_SEQUENCE => {
            let (_, sequence) = error.description.rsplit_once(' ')?;
            json::decimal(sequence.as_bytes()).map(Sequence)
        }
        PublishAnswer::Refused(_) | PublishAnswer::NoResponders => None,
    }
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishAnswer<'a> {
    /// It is stored.
    Stored(PublishAck<'a>),
    /// It is not stored.
    Refused(ApiError<'a>),
    /// Nobody listens to the subject: no stream, or none with a leader. Try again.
    NoResponders,
}

/// Where a publish is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishAck<'a> {
    /// In which stream.
    pub stream: &'a str,
    /// At which place: the earlier one for a duplicate.
    pub sequence: Sequence,
    /// It had been stored before.
    pub is_duplicate: bool,
}

/// The error of a JetStream answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiError<'a> {
    /// As in HTTP.
    pub code: u16,
    /// Which error it is.
    pub err_code: u32,
    /// For people; escapes not resolved.
    pub description: &'a str,
}

impl ApiError<'_> {
    /// A compare-and-set found another last sequence of the subject, or of the stream.
    pub const WRONG_LAST_SEQUENCE: u32 = 10_071;
    /// `Nats-Expected-Stream` names another stream than the one that listens to the subject.
    pub const OTHER_STREAM: u32 = 10_060;
    /// The server could not store it; a full stream with `discard: new` among the reasons.
    pub const STORE_FAILED: u32 = 10_077;
}

/// An answer that is none to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnswer {
    /// Neither JSON nor a status that belongs here.
    #[error("answer is not a JSON object")]
    NotJson,
    /// A member is missing, is there twice, or has a value of another type.
    #[error("answer: {key}: missing or unexpected")]
    Member {
        /// Of the object.
        key: &'static str,
    },
    /// A status that does not belong here.
    #[error("answer with status {code}")]
    Status {
        /// In the first line of the headers.
        code: u16,
    },
}

impl From<NotJson> for InvalidAnswer {
    fn from(NotJson: NotJson) -> Self {
        Self::NotJson
    }
}

/// Reads the answer to a publish.
///
/// # Errors
///
/// [`InvalidAnswer`]: whether the message is stored is not known.
pub fn read_publish_answer<'a>(
    headers: Headers<'a>,
    payload: &'a [u8],
) -> Result<PublishAnswer<'a>, InvalidAnswer> {
    match headers.status() {
        None => {}
        Some(status) if status.code == NO_RESPONDERS => return Ok(PublishAnswer::NoResponders),
        Some(status) => return Err(InvalidAnswer::Status { code: status.code }),
    }
    let mut answer = Members::default();
    json::members(payload, |key, value| answer.note(key, value))?;
    answer.check()
}

/// The members of an answer that we use, each as it came.
#[derive(Default)]
struct Members<'a> {
    error: Option<Value<'a>>,
    stream: Option<Value<'a>>,
    seq: Option<Value<'a>>,
    duplicate: Option<Value<'a>>,
    twice: Option<&'static str>,
}

impl<'a> Members<'a> {
    fn note(&mut self, key: &str, value: Value<'a>) {
        let (key, place) = match key {
            "error" => ("error", &mut self.error),
            "stream" => ("stream", &mut self.stream),
            "seq" => ("seq", &mut self.seq),
            "duplicate" => ("duplicate", &mut self.duplicate),
            _ => return,
        };
        if place.replace(value).is_some() {
            self.twice = Some(key);
        }
    }

    fn check(self) -> Result<PublishAnswer<'a>, InvalidAnswer> {
        if let Some(key) = self.twice {
            return Err(InvalidAnswer::Member { key });
        }
        if let Some(error) = self.error {
            return read_error(error).map(PublishAnswer::Refused);
        }
        let sequence = self.seq.and_then(Value::u64).filter(|sequence| *sequence > 0);
        let is_duplicate = self.duplicate.map_or(Some(false), Value::bool);
        Ok(PublishAnswer::Stored(PublishAck {
            stream: self
                .stream
                .and_then(Value::plain)
                .ok_or(InvalidAnswer::Member { key: "stream" })?,
            sequence: sequence.map(Sequence).ok_or(InvalidAnswer::Member { key: "seq" })?,
            is_duplicate: is_duplicate.ok_or(InvalidAnswer::Member { key: "duplicate" })?,
        }))
    }
}

/// Reads `{"code":400,"err_code":10071,"description":"..."}`.
fn read_error(error: Value<'_>) -> Result<ApiError<'_>, InvalidAnswer> {
    let Value::Object(text) = error else { return Err(InvalidAnswer::Member { key: "error" }) };
    let (mut code, mut err_code, mut description) = (None, None, "");
    json::members(text.as_bytes(), |key, value| match (key, value) {
        ("code", value) => code = value.u64().and_then(|code| u16::try_from(code).ok()),
        ("err_code", value) => err_code = value.u64().and_then(|code| u32::try_from(code).ok()),
        ("description", Value::String(text)) => description = text,
        _ => {}
    })?;
    Ok(ApiError {
        code: code.ok_or(InvalidAnswer::Member { key: "code" })?,
        // Left out when it is 0.
        err_code: err_code.unwrap_or(0),
        description,
    })
}

/// Status of a request that nobody listens to. Source: NATS, "No Responders".
pub(super) const NO_RESPONDERS: u16 = 503;
const EXPECTED_LAST_OF_STREAM: &str = "Nats-Expected-Last-Sequence";
pub(super) const RETAINED_SEQUENCE: &str = "Gateway-Sequence";
/// `partition.sequence`
pub(super) const RETAINED_FROM: &str = "Gateway-From";
/// Above every sequence, below what a server reads as negative.
const NO_SEQUENCE: u64 = 1 << 62;
/// A subject of every stream of messages that is no topic's: of marks.
pub(super) const MARK_SUBJECT: &str = "mqtt$.%mark";
/// Seconds after which the server removes a mark.
pub(super) const MARK_S: u64 = 5;
/// Seconds for which a retained message that was cleared keeps older ones from coming back.
pub(super) const TOMBSTONE_S: u64 = 3_600;
/// Names a message to the server: see [`MessageId`](crate::proto::record::MessageId).
const NATS_MESSAGE_ID: &str = "Nats-Msg-Id";
pub(super) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
pub(super) const TIME_TO_LIVE: &str = "Nats-TTL";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mqtt::QoS;

    const MESSAGE: Message<'_> = Message {
        publisher: "c1",
        qos: QoS::AtLeastOnce,
        retain: false,
        ledger: false,
        received_at: Timestamp(0),
        expiry_interval_s: None,
        packet_id: None,
        topic: "a",
        properties: &[],
        payload: b"hi",
    };

    fn subject(text: &str) -> Subject<'_> {
        Subject::literal(text).unwrap()
    }

    #[test]
    fn writes_an_append() {
        let mut out = Vec::new();
        let (to, reply_to) = (subject("mqtt.a"), subject("_GW.1"));
        for (named, name) in [(true, "Nats-Msg-Id"), (false, "Mqtt-Message-Id")] {
            out.clear();
            encode_append(to, reply_to, b"g1-7", named, &MESSAGE, Timestamp(0), &mut out).unwrap();
            let headers = format!("NATS/1.0\r\n{name}: g1-7\r\nMqtt-Client-Id: c1\r\n\r\n");
            let (header_bytes, bytes) = (headers.len(), headers.len() + 2);
            let expected = format!("HPUB mqtt.a _GW.1 {header_bytes} {bytes}\r\n{headers}hi\r\n");
            assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
            let block = headers.as_bytes();
            assert_eq!(message_id(Headers::from_block(block)), Some(&b"g1-7"[..]));
        }
        let mut out = Vec::new();
        let refused = encode_append(to, reply_to, b"g\r\n", true, &MESSAGE, Timestamp(0), &mut out);
        assert_eq!((refused, out), (Err(HeaderInjection), Vec::new()));
    }

    #[test]
    fn writes_a_put() {
        let put = Put {
            subject: subject("$KV.s.c1"),
            value: b"record",
            expected_last: Some(Sequence(0)),
            time_to_live_s: Some(0),
        };
        let mut out = Vec::new();
        put.encode(subject("_GW.1"), &mut out);
        let headers = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\nNats-TTL: 1\r\n\r\n";
        let sizes = format!("{} {}", headers.len(), headers.len() + 6);
        let expected = format!("HPUB $KV.s.c1 _GW.1 {sizes}\r\n{headers}record\r\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[track_caller]
    fn check(block: &str, payload: &str, expected: Result<PublishAnswer<'_>, InvalidAnswer>) {
        let headers = Headers::from_block(block.as_bytes());
        assert_eq!(read_publish_answer(headers, payload.as_bytes()), expected, "{payload}");
    }

    /// As nats-server 2.12.0 and 2.15.1 answer.
    #[test]
    fn reads_answers() {
        let ack = PublishAck { stream: "P", sequence: Sequence(2), is_duplicate: false };
        let stored = |ack| Ok(PublishAnswer::Stored(ack));
        check("", r#"{"stream":"P","seq":2}"#, stored(ack));
        check("", r#"{"stream":"P","seq":2,"duplicate": true}"#, {
            stored(PublishAck { is_duplicate: true, ..ack })
        });
        check("", r#"{"stream":"P","domain":"hub","seq":2}"#, stored(ack));
        check(
            "",
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 2"},"stream":"P","seq":0}"#,
            Ok(PublishAnswer::Refused(ApiError {
                code: 400,
                err_code: ApiError::WRONG_LAST_SEQUENCE,
                description: "wrong last sequence: 2",
            })),
        );
        check(
            "",
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"P","seq":0}"#,
            Ok(PublishAnswer::Refused(ApiError {
                code: 503,
                err_code: ApiError::STORE_FAILED,
                description: "maximum bytes exceeded",
            })),
        );
        let no_responders = "NATS/1.0 503\r\nNats-Subject: nosuch\r\n\r\n";
        check(no_responders, "", Ok(PublishAnswer::NoResponders));
    }

    #[test]
    fn an_answer_that_is_not_understood_is_no_acknowledgement() {
        let member = |key| Err(InvalidAnswer::Member { key });
        check("", "", Err(InvalidAnswer::NotJson));
        check("", "+OK", Err(InvalidAnswer::NotJson));
        check("", "{}", member("stream"));
        check("", r#"{"stream":"P"}"#, member("seq"));
        check("", r#"{"stream":"P","seq":0}"#, member("seq"));
        check("", r#"{"stream":"P","seq":"2"}"#, member("seq"));
        check("", r#"{"stream":"P","seq":2,"seq":3}"#, member("seq"));
        check("", r#"{"stream":"P","seq":2,"duplicate":1}"#, member("duplicate"));
        check("", r#"{"stream":"P","seq":2,"error":null}"#, member("error"));
        check("", r#"{"error":{"err_code":1}}"#, member("code"));
        check("NATS/1.0 408 Timeout\r\n\r\n", "", Err(InvalidAnswer::Status { code: 408 }));
    }
}
