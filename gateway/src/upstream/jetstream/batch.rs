//! Fast-ingest batches: many publishes under one reply subject, acknowledged now and then.
//!
//! A publish belongs to a batch by its reply subject, `<inbox>.<flow>.fail.<sequence>.<step>.$FI`:
//! the two tokens of the inbox name the batch, `sequence` counts from 1 without a gap, `flow` asks
//! for an acknowledgement about that often. A batch is no transaction: each message is stored as
//! it comes. `fail` ends the batch at the first gap, with what came before it stored, so that no
//! message is stored before one that was sent earlier.
//!
//! | answer | |
//! |---|---|
//! | `{"type":"ack","seq":6,"msgs":3}` | [`BatchAnswer::Stored`]: sequences up to 6 are stored |
//! | `{"type":"gap","last_seq":2,"seq":3}` | [`BatchAnswer::Gap`]: 2 was expected and 3 came |
//! | `{"stream":"P","seq":12,"batch":"b2","count":6}` | [`BatchAnswer::Ended`]: after the last one, or after a gap |
//! | `{"error":{...},...}` | [`BatchAnswer::Refused`]; 10208 for whatever comes after the end |
//!
//! The first message is answered at once, `seq` being 0: nothing is said of it yet. An
//! acknowledgement names no places in the stream, and a message whose `Nats-Msg-Id` was stored
//! before counts as stored.
//!
//! Source: nats-server 2.15.1 with `allow_batched` (2.14 and later); ADR-50 for the other kind of
//! batch.

use super::publish::{ApiError, InvalidAnswer, PublishAck, PublishAnswer, read_publish_answer};
use crate::proto::nats::json::{self, Value};
use crate::proto::nats::{Headers, InvalidSubject, Subject, put_decimal};

/// The reply subjects of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `<inbox>.<flow>.fail.`
    prefix: Vec<u8>,
}

/// What a publish is in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first one.
    Start,
    /// One in between.
    Add,
    /// The last one: stored, and the batch ends.
    Commit,
    /// Not stored: the batch ends before it.
    End,
}

/// What a server says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchAnswer<'a> {
    /// Messages up to this sequence of the batch are stored.
    Stored {
        /// 0 for none yet.
        up_to: u64,
        /// How often the server is going to say so, in messages: it may slow the client down.
        flow: u64,
    },
    /// A message is missing. [`BatchAnswer::Ended`] follows.
    Gap {
        /// The sequence of the batch that was expected.
        expected: u64,
        /// The sequence of the batch that came.
        got: u64,
    },
    /// The batch has ended, with as many messages stored as
    /// [`PublishAck::batch_count`] says.
    Ended(PublishAck<'a>),
    /// A message was refused, or belongs to no batch that the server knows.
    Refused(ApiError<'a>),
    /// Nobody listens to the subject.
    NoResponders,
}

impl Batch {
    /// A batch under `inbox`, two tokens that no other batch has, acknowledged about every `flow`
    /// messages.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`]; `EmptyToken` also for another number of tokens, `TooLong` above
    /// [`Inbox::PREFIX_BYTES_MAX`](super::Inbox::PREFIX_BYTES_MAX).
    pub fn new(inbox: &str, flow: u16) -> Result<Self, InvalidSubject> {
        Subject::literal(inbox)?;
        if inbox.len() > super::Inbox::PREFIX_BYTES_MAX {
            return Err(InvalidSubject::TooLong { got_bytes: inbox.len() });
        }
        if inbox.split('.').count() != 2 {
            return Err(InvalidSubject::EmptyToken);
        }
        let flow = flow.max(1);
        Ok(Self { prefix: format!("{inbox}.{flow}.fail.").into_bytes() })
    }

    /// The reply subject of the message `sequence` of the batch, written to `out`, which is
    /// cleared before.
    pub fn reply_to<'o>(&self, sequence: u64, step: Step, out: &'o mut Vec<u8>) -> Subject<'o> {
        out.clear();
        out.extend_from_slice(&self.prefix);
        put_decimal(sequence, out);
        out.extend_from_slice(match step {
            Step::Start => b".0.$FI",
            Step::Add => b".1.$FI",
            Step::Commit => b".2.$FI",
            Step::End => b".3.$FI",
        });
        Subject::from_checked(out)
    }
}

/// Reads an answer sent to a reply subject of a batch.
///
/// # Errors
///
/// [`InvalidAnswer`]: what is stored is not known.
pub fn read_batch_answer<'a>(
    headers: Headers<'a>,
    payload: &'a [u8],
) -> Result<BatchAnswer<'a>, InvalidAnswer> {
    if headers.is_empty() {
        let mut progress = [("type", None), ("seq", None), ("msgs", None), ("last_seq", None)];
        json::members(payload, |key, value| {
            if let Some((_, place)) = progress.iter_mut().find(|(name, _)| *name == key) {
                *place = Some(value);
            }
        })?;
        let [(_, kind), seq, messages, last] = progress;
        match kind.and_then(Value::plain) {
            Some("ack") => {
                return Ok(BatchAnswer::Stored { up_to: number(seq)?, flow: number(messages)? });
            }
            Some("gap") => {
                return Ok(BatchAnswer::Gap { expected: number(last)?, got: number(seq)? });
            }
            Some(_) => return Err(InvalidAnswer::Member { key: "type" }),
            None => {}
        }
    }
    Ok(match read_publish_answer(headers, payload)? {
        PublishAnswer::Stored(ack) if ack.batch_count.is_some() => BatchAnswer::Ended(ack),
        // A server without fast ingest takes each message for a publish of its own.
        PublishAnswer::Stored(_) => return Err(InvalidAnswer::Member { key: "count" }),
        PublishAnswer::Refused(error) => BatchAnswer::Refused(error),
        PublishAnswer::NoResponders => BatchAnswer::NoResponders,
    })
}

fn number((key, value): (&'static str, Option<Value<'_>>)) -> Result<u64, InvalidAnswer> {
    value.and_then(Value::u64).ok_or(InvalidAnswer::Member { key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::partition::Sequence;

    #[test]
    fn writes_reply_subjects() {
        let batch = Batch::new("_F.b1", 100).unwrap();
        let mut out = Vec::new();
        for (sequence, step, expected) in [
            (1, Step::Start, "_F.b1.100.fail.1.0.$FI"),
            (2, Step::Add, "_F.b1.100.fail.2.1.$FI"),
            (30, Step::Commit, "_F.b1.100.fail.30.2.$FI"),
            (31, Step::End, "_F.b1.100.fail.31.3.$FI"),
        ] {
            let reply_to = batch.reply_to(sequence, step, &mut out);
            assert_eq!(reply_to, Subject::literal(expected).unwrap());
        }
        for (inbox, error) in [
            ("_F", InvalidSubject::EmptyToken),
            ("_F.a.b", InvalidSubject::EmptyToken),
            ("_F.*", InvalidSubject::Wildcard),
            (&format!("_F.{}", "x".repeat(126)), InvalidSubject::TooLong { got_bytes: 129 }),
        ] {
            assert_eq!(Batch::new(inbox, 1), Err(error), "{inbox}");
        }
    }

    #[track_caller]
    fn check(payload: &str, expected: Result<BatchAnswer<'_>, InvalidAnswer>) {
        assert_eq!(read_batch_answer(Headers::NONE, payload.as_bytes()), expected, "{payload}");
    }

    /// As nats-server 2.15.1 answers.
    #[test]
    fn reads_answers() {
        check(r#"{"type":"ack","seq":6,"msgs":3}"#, {
            Ok(BatchAnswer::Stored { up_to: 6, flow: 3 })
        });
        check(r#"{"type":"gap","last_seq":2,"seq":3}"#, {
            Ok(BatchAnswer::Gap { expected: 2, got: 3 })
        });
        let ack = PublishAck {
            stream: "F",
            sequence: Sequence(12),
            is_duplicate: false,
            batch_count: Some(6),
        };
        check(r#"{"stream":"F","seq":12,"batch":"b2","count":6}"#, Ok(BatchAnswer::Ended(ack)));
        check(
            r#"{"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"},"stream":"F","seq":0}"#,
            Ok(BatchAnswer::Refused(ApiError {
                code: 400,
                err_code: 10_208,
                description: "batch publish ID unknown",
            })),
        );
        let nobody = Headers::from_block(b"NATS/1.0 503\r\n\r\n");
        assert_eq!(read_batch_answer(nobody, b""), Ok(BatchAnswer::NoResponders));
    }

    #[test]
    fn an_answer_that_is_not_understood_says_nothing() {
        let member = |key| Err(InvalidAnswer::Member { key });
        check("", Err(InvalidAnswer::NotJson));
        check(r#"{"type":"ack","seq":6}"#, member("msgs"));
        check(r#"{"type":"gap","seq":6}"#, member("last_seq"));
        check(r#"{"type":"new"}"#, member("type"));
        // nats-server 2.12.0, which has no fast ingest.
        check(r#"{"stream":"F","seq":5}"#, member("count"));
    }
}
