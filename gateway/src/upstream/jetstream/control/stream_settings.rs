//! What the two streams of a partition are to be, and how one that is there differs.
//!
//! Settings are JSON as in `STREAM.CREATE`. Only those that the gateway depends on are named; of
//! a stream that is there all others stay as they are.
//!
//! Source: ADR-8, ADR-43 (message TTL), ADR-50 (batches); nats-server 2.15.1, `StreamConfig`.

use super::names::{
    UPLINK_PREFIX, live_prefix, retained_prefix, retained_stream_name, sessions_prefix,
    sessions_stream_name, stream_name, uplink_stream_name,
};
use super::settings::SubClusterSettings;
use crate::proto::partition::PartitionId;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What a stream is to be.
#[derive(Clone, Debug)]
pub(super) struct StreamSettings {
    pub(super) name: String,
    pub(super) wanted: Map<String, Value>,
}

impl StreamSettings {
    /// The stream of messages: all topics, those with `$` in front too, republished for the live
    /// feed. When it is full, publishers are told, not messages dropped.
    pub(super) fn messages(
        partition: PartitionId,
        settings: &SubClusterSettings,
        has_batched: bool,
    ) -> Self {
        let name = stream_name(partition);
        let mut wanted = json!({
            "subjects": ["mqtt.>", "mqtt$.>"],
            "max_bytes": settings.max_bytes.map_or(UNLIMITED, |bytes| json!(bytes)),
            "max_age": nanos(settings.max_age),
            "duplicate_window": nanos(settings.duplicate_window),
            "max_msgs_per_subject": -1,
            "republish": {"src": ">", "dest": format!("{}.>", live_prefix(partition))},
            "allow_atomic": true,
        });
        if has_batched && let Some(wanted) = wanted.as_object_mut() {
            wanted.insert("allow_batched".to_owned(), true.into());
        }
        Self::new(name, settings, wanted)
    }

    /// The stream of messages that only applications read: as that of messages, and republished to nobody.
    pub(super) fn uplink(partition: PartitionId, settings: &SubClusterSettings) -> Self {
        let wanted = json!({
            "subjects": [format!("{UPLINK_PREFIX}.>"), format!("{UPLINK_PREFIX}$.>")],
            "max_bytes": settings.max_bytes.map_or(UNLIMITED, |bytes| json!(bytes)),
            "max_age": nanos(settings.max_age),
            "duplicate_window": nanos(settings.duplicate_window),
            "max_msgs_per_subject": -1,
            "republish": null,
        });
        Self::new(uplink_stream_name(partition), settings, wanted)
    }

    /// The stream of retained messages: one a topic, for as long as it says itself.
    pub(super) fn retained(partition: PartitionId, settings: &SubClusterSettings) -> Self {
        let wanted = json!({
            "subjects": [format!("{}.>", retained_prefix(partition))],
            "max_bytes": UNLIMITED,
            "max_age": 0,
            "max_msgs_per_subject": 1,
            "republish": null,
        });
        Self::new(retained_stream_name(partition), settings, wanted)
    }

    /// The stream of sessions: one record a client id, for as long as it says itself.
    pub(super) fn sessions(partition: PartitionId, settings: &SubClusterSettings) -> Self {
        let wanted = json!({
            "subjects": [format!("{}.>", sessions_prefix(partition))],
            "max_bytes": UNLIMITED,
            "max_age": 0,
            "max_msgs_per_subject": 1,
            "republish": null,
        });
        Self::new(sessions_stream_name(partition), settings, wanted)
    }

    fn new(name: String, settings: &SubClusterSettings, own: Value) -> Self {
        let mut wanted = json!({
            "name": name,
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "discard_new_per_subject": false,
            "num_replicas": settings.replicas,
            "max_msgs": -1,
            "allow_direct": true,
            "allow_rollup_hdrs": false,
            "allow_msg_ttl": true,
            "no_ack": false,
            "sealed": false,
            "mirror": null,
            "sources": null,
            "subject_transform": null,
        });
        let (Some(all), Value::Object(own)) = (wanted.as_object_mut(), own) else {
            unreachable!("both are written as objects");
        };
        all.extend(own);
        Self { name, wanted: std::mem::take(all) }
    }

    /// Where the settings that are there differ. More replicas than wanted are no difference.
    pub(super) fn differences(&self, have: &Map<String, Value>) -> Vec<Difference> {
        let differs = |(key, want): (&String, &Value)| {
            let found = have.get(key).unwrap_or(&Value::Null);
            let is_fine = normal(key, found) == normal(key, want)
                || key == "num_replicas" && self.has_fewer_replicas_than(have);
            let (have, want) = (found.clone(), want.clone());
            (!is_fine).then(|| Difference { key: key.clone(), have, want })
        };
        self.wanted.iter().filter_map(differs).collect()
    }

    /// Whether `have` keeps more replicas than wanted. To take them away is for people to decide.
    fn has_fewer_replicas_than(&self, have: &Map<String, Value>) -> bool {
        let replicas = |all: &Map<String, Value>| all.get("num_replicas").and_then(Value::as_u64);
        replicas(have) > replicas(&self.wanted)
    }

    /// `have` with what is wanted.
    pub(super) fn over(&self, have: &Map<String, Value>) -> Value {
        let mut all = have.clone();
        for Difference { key, want, .. } in self.differences(have) {
            all.insert(key, want);
        }
        Value::Object(all)
    }
}

/// A setting that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: String,
    pub(super) have: Value,
    pub(super) want: Value,
}

impl Difference {
    /// Whether no update can repair it. Source: nats-server 2.15.1, `configUpdateCheck`.
    pub(super) fn is_permanent(&self) -> bool {
        ["storage", "retention", "sealed", "mirror", "sources"].contains(&self.key.as_str())
    }
}

/// For a log: `storage "memory" instead of "file", …`.
pub(super) fn listed<'a>(differences: impl IntoIterator<Item = &'a Difference>) -> String {
    let one =
        |Difference { key, have, want }: &Difference| format!("{key} {have} instead of {want}");
    differences.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Servers leave out what has its default, and write "no limit" as -1 or 0.
fn normal(key: &str, value: &Value) -> Value {
    let is_default = match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => {
            number.as_u64() == Some(0) || key.starts_with("max_") && number.as_i64() == Some(-1)
        }
        Value::Array(items) => items.is_empty(),
        Value::String(_) | Value::Object(_) => false,
    };
    match (key, value) {
        _ if is_default => Value::Null,
        // A server adds "headers_only": false only if it is set, but may in other versions.
        ("republish", Value::Object(members)) => {
            let kept = members.iter().filter(|(_, value)| **value != Value::Bool(false));
            Value::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        _ => value.clone(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const UNLIMITED: Value = Value::Null;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NatsIdentity;

    fn settings() -> SubClusterSettings {
        SubClusterSettings {
            name: "a".to_owned(),
            servers: Vec::new(),
            identity: NatsIdentity::None,
            tls: None,
            replicas: 3,
            max_bytes: None,
            max_age: Duration::from_secs(60),
            duplicate_window: Duration::from_secs(30),
        }
    }

    fn keys_of(stream: &StreamSettings, change: &Value) -> Vec<String> {
        let mut have = stream.wanted.clone();
        have.extend(change.as_object().unwrap().clone());
        stream.differences(&have).into_iter().map(|difference| difference.key).collect()
    }

    #[test]
    fn defaults_are_the_same_however_they_are_written() {
        let stream = StreamSettings::messages(PartitionId(7), &settings(), true);
        for same in [
            json!({"max_bytes": -1, "max_msgs": 0, "no_ack": null, "sources": []}),
            json!({"max_msgs_per_subject": 0, "num_replicas": 5, "description": "mine"}),
            json!({"republish": {"src": ">", "dest": "live.7.>", "headers_only": false}}),
        ] {
            assert_eq!(keys_of(&stream, &same), [""; 0], "{same}");
        }
    }

    #[test]
    fn differences_are_found_and_put_right() {
        let stream = StreamSettings::messages(PartitionId(7), &settings(), true);
        for (change, key) in [
            (json!({"storage": "memory"}), "storage"),
            (json!({"discard": "old"}), "discard"),
            (json!({"num_replicas": 1}), "num_replicas"),
            (json!({"republish": null}), "republish"),
            (json!({"republish": {"src": ">", "dest": "live.8.>"}}), "republish"),
            (json!({"max_bytes": 5}), "max_bytes"),
            (json!({"max_age": -1}), "max_age"),
            (json!({"allow_batched": false}), "allow_batched"),
            (json!({"subjects": ["mqtt.>"]}), "subjects"),
        ] {
            assert_eq!(keys_of(&stream, &change), [key], "{change}");
            let mut have = stream.wanted.clone();
            have.extend(change.as_object().unwrap().clone());
            have.insert("description".to_owned(), json!("mine"));
            let repaired = stream.over(&have);
            assert_eq!(repaired["description"], "mine", "what is not ours stays");
            assert_eq!(stream.differences(repaired.as_object().unwrap()), []);
        }
    }

    #[test]
    fn an_older_server_is_not_asked_for_what_it_does_not_know() {
        let stream = StreamSettings::messages(PartitionId(0), &settings(), false);
        assert_eq!(stream.wanted.get("allow_batched"), None);
        let retained = StreamSettings::retained(PartitionId(0), &settings());
        assert_eq!(retained.wanted.get("allow_atomic"), None);
        assert_eq!(retained.wanted["max_msgs_per_subject"], 1);
    }
}
