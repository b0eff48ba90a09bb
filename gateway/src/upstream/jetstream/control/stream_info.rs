//! What `STREAM.INFO` says of a partition. The leader of the stream answers it.

use super::api;
use super::fault::ControlFault;
use super::names::stream_name;
use crate::proto::partition::{PartitionId, Sequence};
use crate::upstream::jetstream::publish::{MARK_S, MARK_SUBJECT, TIME_TO_LIVE};
use crate::upstream::jetstream::stored::StoreTime;
use async_nats::{Client, HeaderMap};
use serde_json::Value;

/// How a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// The leader's name; empty while none is elected. `None` where there is no cluster.
    pub(super) leader: Option<String>,
    /// What time it is there.
    pub(super) server_time: Option<StoreTime>,
    /// Since when it leads.
    pub(super) leader_since: Option<StoreTime>,
    pub(super) created: StoreTime,
    pub(super) first: Sequence,
    pub(super) last: Sequence,
    /// When the last was stored, if any was.
    pub(super) last_at: Option<StoreTime>,
    pub(super) replicas: u8,
}

impl StreamInfo {
    /// Asks for it.
    ///
    /// # Errors
    ///
    /// No answer, a refusal, or an answer that is not understood.
    pub(super) async fn ask(client: &Client, partition: PartitionId) -> Result<Self, ControlFault> {
        let operation = format!("STREAM.INFO.{}", stream_name(partition));
        let answer = api::request(client, &operation, None).await?;
        Self::read(&answer).ok_or(ControlFault::Answer { subject: operation })
    }

    /// Behind which message a stream ends that were acknowledged by now, or a later one.
    ///
    /// Who answers a question may have been cut off from the others, or have taken the lead and not everything
    /// yet that was acknowledged. So with replicas a message is stored, a mark, which a majority has to take.
    ///
    /// # Errors
    ///
    /// No answer, a refusal, as of a stream that is full, or an answer that is not understood.
    pub(super) async fn end(
        client: &Client,
        partition: PartitionId,
    ) -> Result<Sequence, ControlFault> {
        let info = Self::ask(client, partition).await?;
        if info.replicas < 2 {
            return Ok(info.last.next());
        }
        let mut headers = HeaderMap::new();
        headers.insert(TIME_TO_LIVE, MARK_S.to_string());
        let mark = api::publish(client, MARK_SUBJECT, headers).await?;
        let sequence = mark.get("seq").and_then(Value::as_u64);
        let is_its = mark.get("stream").and_then(Value::as_str) == Some(&stream_name(partition));
        let sequence = sequence.filter(|_| is_its);
        let sequence =
            sequence.ok_or_else(|| ControlFault::Answer { subject: MARK_SUBJECT.to_owned() })?;
        Ok(Sequence(sequence).next())
    }

    fn read(answer: &Value) -> Option<Self> {
        let state = answer.get("state")?;
        let sequence = |key| state.get(key)?.as_u64().map(Sequence);
        let leader = answer.get("cluster").map(|cluster| {
            cluster.get("leader").and_then(Value::as_str).unwrap_or_default().to_owned()
        });
        let since = answer.get("cluster").and_then(|cluster| cluster.get("leader_since")?.as_str());
        let time = |text: &str| StoreTime::parse(text.as_bytes());
        Some(Self {
            leader,
            server_time: answer.get("ts").and_then(Value::as_str).and_then(time),
            leader_since: since.and_then(time),
            created: StoreTime::parse(answer.get("created")?.as_str()?.as_bytes())?,
            first: sequence("first_seq")?,
            last: sequence("last_seq")?,
            // That of an empty stream is of the year 1.
            last_at: state.get("last_ts").and_then(Value::as_str).and_then(time),
            replicas: u8::try_from(answer.get("config")?.get("num_replicas")?.as_u64()?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_a_leader_says() {
        let mut answer = json!({
            "config": {"num_replicas": 3},
            "created": "1970-01-01T00:00:01.5Z",
            "ts": "1970-01-01T00:00:03Z",
            "state": {"first_seq": 3, "last_seq": 9, "last_ts": "1970-01-01T00:00:02.5Z"},
            "cluster": {"name": "c", "leader": "n1", "leader_since": "1970-01-01T00:00:02Z"},
        });
        let info = StreamInfo::read(&answer).unwrap();
        assert_eq!(info.leader.as_deref(), Some("n1"));
        assert_eq!(info.server_time, Some(StoreTime(3_000_000_000)));
        assert_eq!(info.leader_since, Some(StoreTime(2_000_000_000)));
        assert_eq!((info.created, info.replicas), (StoreTime(1_500_000_000), 3));
        assert_eq!((info.first, info.last), (Sequence(3), Sequence(9)));
        assert_eq!(info.last_at, Some(StoreTime(2_500_000_000)));
        answer["state"]["last_ts"] = json!("0001-01-01T00:00:00Z");
        assert_eq!(StreamInfo::read(&answer).unwrap().last_at, None);
        answer["cluster"] = json!({"name": "c"});
        assert_eq!(StreamInfo::read(&answer).unwrap().leader.as_deref(), Some(""));
        answer.as_object_mut().unwrap().remove("cluster");
        assert_eq!(StreamInfo::read(&answer).unwrap().leader, None);
        for key in ["config", "created", "state"] {
            let mut without = answer.clone();
            without.as_object_mut().unwrap().remove(key);
            assert_eq!(StreamInfo::read(&without), None, "{key}");
        }
        answer["config"]["num_replicas"] = json!(256);
        assert_eq!(StreamInfo::read(&answer), None);
    }
}
