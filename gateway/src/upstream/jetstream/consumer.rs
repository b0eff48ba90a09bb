//! Consumers of shared subscriptions as bytes: made, asked for messages, acknowledged.
//!
//! | what | request | answers |
//! |---|---|---|
//! | make | `$JS.API.CONSUMER.CREATE.<stream>.<consumer>` | a JSON object, with `error` when it is not there |
//! | pull | `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>` | messages under their own subjects, then a status |
//! | acknowledge | the reply subject of the message | none |
//!
//! Source: JetStream API, consumers; nats-server 2.15.1.

use super::publish::InvalidAnswer;
use crate::proto::nats::json::{self, Value, put_string};
use crate::proto::nats::{Subject, encode_publish, encode_publish_with, put_decimal};
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;
use std::time::Duration;

/// A durable pull consumer that a group of a shared subscription reads with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewConsumer<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Its name: letters and digits.
    pub name: &'a str,
    /// It begins here.
    pub from: Sequence,
    /// Only these.
    pub subjects: &'a [Subject<'a>],
    /// A message that was given out is given out again after so long, unless more time is asked for.
    pub ack_wait: Duration,
    /// Messages given out and not acknowledged, at most.
    pub unacknowledged_max: u32,
    /// Without a pull for so long, the server forgets it.
    pub idle_max: Duration,
}

impl NewConsumer<'_> {
    /// Appends the request.
    pub fn encode(&self, reply_to: Subject<'_>, out: &mut Vec<u8>) {
        let api = format!("$JS.API.CONSUMER.CREATE.{}.{}", self.stream, self.name);
        encode_publish_with(Subject::from_checked(api.as_bytes()), Some(reply_to), out, |out| {
            out.extend_from_slice(b"{\"stream_name\":");
            put_string(self.stream, out);
            out.extend_from_slice(b",\"action\":\"create\",\"config\":{\"durable_name\":");
            put_string(self.name, out);
            out.extend_from_slice(b",\"name\":");
            put_string(self.name, out);
            out.extend_from_slice(
                b",\"deliver_policy\":\"by_start_sequence\",\"ack_policy\":\"explicit\",\
                  \"replay_policy\":\"instant\",\"max_deliver\":-1,\"filter_subjects\":",
            );
            let mut separator = b'[';
            for subject in self.subjects {
                out.push(separator);
                separator = b',';
                put_string(subject.as_bytes(), out);
            }
            out.push(b']');
            for (key, value) in [
                (",\"opt_start_seq\":", self.from.0.max(1)),
                (",\"ack_wait\":", nanos(self.ack_wait)),
                (",\"inactive_threshold\":", nanos(self.idle_max)),
                (",\"max_ack_pending\":", self.unacknowledged_max.into()),
            ] {
                out.extend_from_slice(key.as_bytes());
                put_decimal(value, out);
            }
            out.extend_from_slice(b"}}");
        });
    }
}

/// Whether a consumer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerAnswer {
    /// It is, made now or earlier.
    There,
    /// The stream has as many as it may.
    TooMany,
    /// Not now; the error of the server's API, 0 for nobody there.
    Refused(u32),
}

/// Reads the answer to [`NewConsumer`].
///
/// # Errors
///
/// [`InvalidAnswer`]: whether it is there is not known.
pub fn read_consumer_answer(payload: &[u8]) -> Result<ConsumerAnswer, InvalidAnswer> {
    if payload.is_empty() {
        return Ok(ConsumerAnswer::Refused(0));
    }
    let mut error = None;
    json::members(payload, |key, value| {
        if key == "error" {
            error = Some(value);
        }
    })?;
    let Some(error) = error else {
        return Ok(ConsumerAnswer::There);
    };
    let Value::Object(text) = error else { return Err(InvalidAnswer::Member { key: "error" }) };
    let mut err_code = None;
    json::members(text.as_bytes(), |key, value| {
        if key == "err_code" {
            err_code = value.u64().and_then(|code| u32::try_from(code).ok());
        }
    })?;
    Ok(match err_code.ok_or(InvalidAnswer::Member { key: "err_code" })? {
        // Another member of the group has made it, with another beginning.
        NAME_IN_USE | ALREADY_EXISTS => ConsumerAnswer::There,
        TOO_MANY => ConsumerAnswer::TooMany,
        code => ConsumerAnswer::Refused(code),
    })
}

/// Appends a pull of up to `batch` messages that ends after `expires`.
pub fn encode_pull(
    stream: &str,
    name: &str,
    batch: u16,
    expires: Duration,
    reply_to: Subject<'_>,
    out: &mut Vec<u8>,
) {
    let api = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
    encode_publish_with(Subject::from_checked(api.as_bytes()), Some(reply_to), out, |out| {
        out.extend_from_slice(b"{\"batch\":");
        put_decimal(batch.into(), out);
        out.extend_from_slice(b",\"expires\":");
        put_decimal(nanos(expires), out);
        out.push(b'}');
    });
}

/// What a consumer is told of a message it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// It is done.
    Done,
    /// It is to be given to another at once.
    Again,
    /// It needs more time.
    Working,
}

/// Appends an acknowledgement to `reply_to`, the reply subject of the message.
pub fn encode_acknowledge(reply_to: &[u8], what: Acknowledge, out: &mut Vec<u8>) {
    let text: &[u8] = match what {
        Acknowledge::Done => b"+ACK",
        Acknowledge::Again => b"-NAK",
        Acknowledge::Working => b"+WPI",
    };
    encode_publish(Subject::from_checked(reply_to), None, text, out);
}

/// A consumer's message: its place, and when it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// In the stream.
    pub sequence: Sequence,
    /// By the server's clock.
    pub stored_at: Timestamp,
}

/// Reads the reply subject of a consumer's message:
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>`,
/// or with a domain and an account behind `ACK`, and perhaps more at the end. `None` for any other.
///
/// Source: ADR-15.
#[must_use]
pub fn read_pulled(reply_to: &[u8]) -> Option<Pulled> {
    let tokens: Vec<&[u8]> = reply_to.split(|byte| *byte == b'.').collect();
    if tokens.get(..2)? != [&b"$JS"[..], b"ACK"] {
        return None;
    }
    let first = match tokens.len() {
        9 => 2,
        11.. => 4,
        _ => return None,
    };
    let number = |place: usize| json::decimal(tokens.get(first + place)?);
    let (sequence, nanos) = (number(3)?, number(5)?);
    Some(Pulled { sequence: Sequence(sequence), stored_at: Timestamp(nanos / 1_000_000) })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Source: nats-server 2.15.1, server/errors.json.
const NAME_IN_USE: u32 = 10_013;
const ALREADY_EXISTS: u32 = 10_148;
const TOO_MANY: u32 = 10_026;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_requests() {
        let subjects = [Subject::from_checked(b"mqtt.a.>"), Subject::from_checked(b"mqtt.a")];
        let consumer = NewConsumer {
            stream: "S",
            name: "C",
            from: Sequence(0),
            subjects: &subjects,
            ack_wait: Duration::from_secs(1),
            unacknowledged_max: 5,
            idle_max: Duration::from_secs(2),
        };
        let (mut out, inbox) = (Vec::new(), Subject::from_checked(b"_I.1"));
        consumer.encode(inbox, &mut out);
        let json = r#"{"stream_name":"S","action":"create","config":{"durable_name":"C","name":"C","deliver_policy":"by_start_sequence","ack_policy":"explicit","replay_policy":"instant","max_deliver":-1,"filter_subjects":["mqtt.a.>","mqtt.a"],"opt_start_seq":1,"ack_wait":1000000000,"inactive_threshold":2000000000,"max_ack_pending":5}}"#;
        let head = format!("PUB $JS.API.CONSUMER.CREATE.S.C _I.1 {}\r\n", json.len());
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{json}\r\n"));
        let mut out = Vec::new();
        encode_pull("S", "C", 3, Duration::from_secs(1), inbox, &mut out);
        let json = r#"{"batch":3,"expires":1000000000}"#;
        let head = format!("PUB $JS.API.CONSUMER.MSG.NEXT.S.C _I.1 {}\r\n", json.len());
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{json}\r\n"));
    }

    #[test]
    fn reads_what_became_of_a_consumer() {
        let read = |text: &str| read_consumer_answer(text.as_bytes());
        assert_eq!(read(r#"{"type":"x","name":"C","config":{}}"#), Ok(ConsumerAnswer::There));
        let error = |code: u32| format!(r#"{{"error":{{"code":400,"err_code":{code}}}}}"#);
        assert_eq!(read(&error(10_148)), Ok(ConsumerAnswer::There));
        assert_eq!(read(&error(10_026)), Ok(ConsumerAnswer::TooMany));
        assert_eq!(read(&error(10_059)), Ok(ConsumerAnswer::Refused(10_059)));
        assert_eq!(read(""), Ok(ConsumerAnswer::Refused(0)));
        assert!(read("[]").is_err() && read(r#"{"error":1}"#).is_err());
    }

    #[test]
    fn reads_where_a_message_is() {
        let pulled = Some(Pulled { sequence: Sequence(7), stored_at: Timestamp(1_600) });
        assert_eq!(read_pulled(b"$JS.ACK.S.C.1.7.3.1600000000.0"), pulled);
        assert_eq!(read_pulled(b"$JS.ACK._.acc.S.C.1.7.3.1600000000.0"), pulled);
        assert_eq!(read_pulled(b"$JS.ACK.hub.acc.S.C.1.7.3.1600000000.0.x"), pulled);
        for other in ["", "_I.1", "$JS.ACK.S.C.1.7.3", "$JS.ACK.S.C.1.x.3.1.0"] {
            assert_eq!(read_pulled(other.as_bytes()), None, "{other}");
        }
    }
}
