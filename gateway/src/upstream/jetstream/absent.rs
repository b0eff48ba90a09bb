//! "There is nothing more", said by a server that may lag behind the leader: asked of the leader too.
//!
//! Any server with a copy of a stream answers Direct Get. That a message is there is true whoever says
//! so; that none is there, only if the leader says so. Pages and the feed are read up to a mark instead,
//! which needs no further question.
//!
//! Source: NATS documentation, "JetStream wire API reference", `STREAM.MSG.GET`, which only the leader
//! answers; nats-server 2.15.1.

use super::direct_get::Start;
use super::partition::Kept;
use super::place;
use super::requests::{Pending, Purpose, Scan};
use super::shard::{Deliver, JetStream};
use super::stored::StoreTime;
use crate::proto::nats::json::{self, NotJson, Value};
use crate::proto::nats::{Message as NatsMessage, Subject, encode_publish_with, put_decimal};
use crate::proto::partition::Sequence;

/// What a leader says of what is behind a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Message {
        sequence: Sequence,
        stored_at: StoreTime,
    },
    /// Not now.
    Refused,
}

impl JetStream {
    /// A server has said that there is no more of what was asked for. Whether the leader is asked
    /// first.
    pub(super) fn confirm_absent(&mut self, place: usize, scan: &Scan) -> bool {
        let Self { partitions, retained, now, .. } = self;
        let Some(partition) = partitions.get_mut(place).filter(|one| one.is_replicated()) else {
            return false;
        };
        let (from, kept) = match scan.purpose {
            Purpose::Stored(publish) => {
                let search = partition.searches.get(publish);
                let kept = search.map_or(Kept::Messages, |search| search.kept);
                (search.map(|search| search.next), kept)
            }
            Purpose::Retained(query) => (retained.reached(query).map(Start::At), Kept::Retained),
            Purpose::Known => (Some(Start::At(partition.known.next())), Kept::Retained),
            Purpose::RetainedPlace(claim) => {
                let kept = if claim.is_uplink { Kept::Uplink } else { Kept::Messages };
                (Some(Start::At(claim.sequence)), kept)
            }
            // The put fails where another one is there; the rest is read up to a mark.
            Purpose::RetainedLast(_)
            | Purpose::First { .. }
            | Purpose::Lost
            | Purpose::Check(_)
            | Purpose::Newest
            | Purpose::Feed
            | Purpose::Subject { .. }
            | Purpose::Page(_)
            | Purpose::Fetch { .. } => return false,
        };
        let (Some(from), Some(subject)) = (from, &scan.subject) else {
            return false;
        };
        let from = place::by_clock(from, partition.clock_ahead_ms);
        let api = partition.message_get(kept).to_owned();
        let pending = Pending::Absent(Scan { from, ..scan.clone() });
        partition.ask_with(pending, *now, |reply_to, out| {
            let api = Subject::from_checked(api.as_bytes());
            encode_publish_with(api, Some(reply_to), out, |out| put_question(from, subject, out));
        });
        true
    }

    /// The leader says whether there is more.
    pub(super) fn handle_absent(
        &mut self,
        place: usize,
        scan: &Scan,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        let is_absent = match (read_answer(message.payload), scan.from) {
            (Ok(Answer::Nothing), _) => true,
            (Ok(Answer::Message { sequence, .. }), Start::At(from)) => sequence < from,
            (Ok(Answer::Message { stored_at, .. }), Start::Since(time)) => stored_at < time,
            (answer @ (Ok(Answer::Refused) | Err(NotJson)), _) => {
                tracing::debug!(place, ?answer, "absent: no answer for now");
                false
            }
        };
        if is_absent {
            self.end_scan(place, scan.purpose, false, deliver);
        } else {
            self.fail_scan(place, scan.purpose);
        }
    }
}

fn put_question(from: Start, subject: &[u8], out: &mut Vec<u8>) {
    match from {
        Start::At(sequence) => {
            out.extend_from_slice(b"{\"seq\":");
            put_decimal(sequence.0.max(1), out);
            out.extend_from_slice(b",\"next_by_subj\":");
        }
        Start::Since(_) => out.extend_from_slice(b"{\"last_by_subj\":"),
    }
    json::put_string(subject, out);
    out.push(b'}');
}

fn read_answer(payload: &[u8]) -> Result<Answer, NotJson> {
    let (mut error, mut found) = (None, None);
    json::members(payload, |key, value| match (key, value) {
        ("error", Value::Object(text)) => error = Some(text),
        ("message", Value::Object(text)) => found = Some(text),
        _ => {}
    })?;
    if let Some(error) = error {
        let mut code = None;
        json::members(error.as_bytes(), |key, value| {
            if key == "code" {
                code = value.u64();
            }
        })?;
        return Ok(if code == Some(NOT_FOUND) { Answer::Nothing } else { Answer::Refused });
    }
    let (mut sequence, mut stored_at) = (None, None);
    json::members(found.ok_or(NotJson)?.as_bytes(), |key, value| match (key, value) {
        ("seq", value) => sequence = value.u64().map(Sequence),
        ("time", Value::String(text)) => stored_at = StoreTime::parse(text.as_bytes()),
        _ => {}
    })?;
    let (sequence, stored_at) = (sequence.ok_or(NotJson)?, stored_at.ok_or(NotJson)?);
    Ok(Answer::Message { sequence, stored_at })
}

/// "no message found".
const NOT_FOUND: u64 = 404;

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.1 answers.
    #[test]
    fn only_a_leader_without_a_message_says_that_there_is_none() {
        let nothing = r#"{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        assert_eq!(read_answer(nothing.as_bytes()), Ok(Answer::Nothing));
        let found =
            r#"{"message":{"subject":"a","seq":7,"data":"dg==","time":"1970-01-01T00:00:01Z"}}"#;
        let (sequence, stored_at) = (Sequence(7), StoreTime(1_000_000_000));
        assert_eq!(read_answer(found.as_bytes()), Ok(Answer::Message { sequence, stored_at }));
        let away = r#"{"error":{"code":503,"err_code":10008,"description":"unavailable"}}"#;
        assert_eq!(read_answer(away.as_bytes()), Ok(Answer::Refused));
        for unreadable in ["", "{}", r#"{"message":{"seq":7}}"#] {
            assert_eq!(read_answer(unreadable.as_bytes()), Err(NotJson), "{unreadable}");
        }
    }

    #[test]
    fn asks_for_what_is_behind_a_place_or_for_the_last() {
        let question = |from| {
            let mut out = Vec::new();
            put_question(from, b"mqtt.a", &mut out);
            String::from_utf8(out).unwrap()
        };
        let at = question(Start::At(Sequence(3)));
        assert_eq!(at, r#"{"seq":3,"next_by_subj":"mqtt.a"}"#);
        assert_eq!(question(Start::Since(StoreTime(3))), r#"{"last_by_subj":"mqtt.a"}"#);
    }
}
