//! Where a stream ends, asked of its leader without a write.
//!
//! A mark in a stream with replicas is a message, which a full stream does not take. Then the leader is
//! asked for what it has stored. Its answer is not in one line with what is republished: what is stored
//! behind its end comes live on a link that had subscribed before, and no more is known.
//!
//! Source: NATS documentation, "JetStream wire API reference", `STREAM.INFO`, which only the leader
//! answers; nats-server 2.15.1.

use super::requests::Pending;
use super::shard::{Deliver, JetStream};
use crate::proto::nats::json::{self, NotJson, Value};
use crate::proto::nats::{Message as NatsMessage, Subject, encode_publish};
use crate::proto::partition::Sequence;

impl JetStream {
    /// A stream did not take mark `number`.
    pub(super) fn ask_end(&mut self, place: usize, number: u64) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let api = partition.info.clone();
        partition.ask_with(Pending::End(number), now, |reply_to, out| {
            encode_publish(Subject::from_checked(api.as_bytes()), Some(reply_to), b"", out);
        });
    }

    /// The leader says where the stream ends.
    pub(super) fn handle_end(
        &mut self,
        place: usize,
        number: u64,
        message: &NatsMessage<'_>,
        deliver: &mut Deliver<'_>,
    ) {
        match read_end(message.payload) {
            Ok(end) => self.take_end(place, number, end, false, deliver),
            Err(NotJson) => {
                tracing::debug!(place, "end of the stream: no answer yet");
                self.fail_mark(place);
            }
        }
    }
}

/// The last sequence that was used, whether or not its message is still there.
fn read_end(payload: &[u8]) -> Result<Sequence, NotJson> {
    let mut state = None;
    json::members(payload, |key, value| {
        if let ("state", Value::Object(text)) = (key, value) {
            state = Some(text);
        }
    })?;
    let mut last = None;
    json::members(state.ok_or(NotJson)?.as_bytes(), |key, value| {
        if key == "last_seq" {
            last = value.u64();
        }
    })?;
    last.map(Sequence).ok_or(NotJson)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.1 answers.
    #[test]
    fn reads_the_last_sequence_of_a_leader() {
        let answer = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0,"offset":0,"limit":0,"config":{"name":"MQTT_0"},"created":"2026-11-26T12:00:00Z","state":{"messages":2,"bytes":80,"first_seq":3,"last_seq":9,"consumer_count":0}}"#;
        assert_eq!(read_end(answer.as_bytes()), Ok(Sequence(9)));
        let away = r#"{"error":{"code":503,"err_code":10008,"description":"unavailable"}}"#;
        for unreadable in ["", "{}", r#"{"state":{}}"#, away] {
            assert_eq!(read_end(unreadable.as_bytes()), Err(NotJson), "{unreadable}");
        }
    }
}
