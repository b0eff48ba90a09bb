//! What the gateway's user may do at a sub-cluster, compared with what a gateway does.
//!
//! A server refuses a publish or a subscription where it happens, which may be long after the start, when
//! the first client asks for it. So a server is asked what the user may do, and what is missing is said
//! at once. A server that does not tell is believed to permit everything; what it then refuses is in the
//! log by its `-ERR`.
//!
//! Source: NATS documentation, "Authorization", permissions; `$SYS.REQ.USER.INFO` of nats-server 2.12.0
//! and 2.15.1.

use super::fault::Sampled;
use super::{
    Extras, UPLINK_PREFIX, live_prefix, retained_prefix, retained_stream_name, sessions_prefix,
    sessions_stream_name, stream_name, uplink_stream_name,
};
use crate::proto::partition::PartitionId;
use crate::upstream::jetstream::EVENTS_PREFIX;
use async_nats::Client;
use futures_lite::StreamExt as _;
use serde_json::Value;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Where a server tells a user what it may do.
const USER_INFO: &str = "$SYS.REQ.USER.INFO";
/// A server that has not answered by then does not tell.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a gateway publishes to and subscribes to, as subjects with wildcards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl Needs {
    /// Of every gateway, at the sub-cluster that has the ring.
    pub(super) fn of_ring() -> Self {
        let stream = "KV_gateway_ring";
        Self {
            publish: vec![
                "$JS.API.INFO".to_owned(),
                format!("$JS.API.STREAM.INFO.{stream}"),
                format!("$JS.API.STREAM.CREATE.{stream}"),
                format!("$JS.API.STREAM.MSG.GET.{stream}"),
                format!("$JS.API.STREAM.PURGE.{stream}"),
                format!("$JS.API.DIRECT.GET.{stream}.>"),
                "$KV.gateway_ring.>".to_owned(),
            ],
            subscribe: vec!["_INBOX.>".to_owned()],
        }
    }

    /// Of a gateway, for one partition.
    pub(super) fn of_partition(partition: PartitionId, extras: Extras) -> Self {
        let mut publish = vec!["$JS.API.INFO".to_owned()];
        let mut streams = vec![stream_name(partition), retained_stream_name(partition)];
        if extras.events {
            publish.push(format!("{EVENTS_PREFIX}.>"));
        }
        if extras.uplink {
            streams.push(uplink_stream_name(partition));
            publish.push(format!("{UPLINK_PREFIX}.>"));
            publish.push(format!("{UPLINK_PREFIX}$.>"));
        }
        if extras.sessions {
            streams.push(sessions_stream_name(partition));
            publish.push(format!("{}.>", sessions_prefix(partition)));
        }
        for stream in streams {
            for operation in ["INFO", "CREATE", "UPDATE", "MSG.GET"] {
                publish.push(format!("$JS.API.STREAM.{operation}.{stream}"));
            }
            publish.push(format!("$JS.API.DIRECT.GET.{stream}"));
        }
        let stream = stream_name(partition);
        publish.extend([
            "mqtt.>".to_owned(),
            "mqtt$.>".to_owned(),
            "_GW.>".to_owned(),
            format!("{}.>", live_prefix(partition)),
            format!("{}.>", retained_prefix(partition)),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            // Who changes the ring is the same user.
            format!("$JS.API.CONSUMER.LIST.{stream}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.>"),
            format!("$JS.ACK.{stream}.>"),
        ]);
        let subscribe = vec![
            "_GW.>".to_owned(),
            "_INBOX.>".to_owned(),
            format!("{}.>", live_prefix(partition)),
            format!("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{stream}"),
        ];
        Self { publish, subscribe }
    }

    /// What of it the user of the connection may not do; `None` where the server does not tell.
    pub(super) async fn missing(&self, client: &Client) -> Option<Vec<String>> {
        self.missing_in(&ask(client).await?)
    }

    fn missing_in(&self, said: &Value) -> Option<Vec<String>> {
        let data = said.get("data")?;
        let missing = |kind: &str, needed: &[String]| {
            let side = Side::read(data.pointer(&format!("/permissions/{kind}")));
            let missing = needed.iter().filter(|subject| !side.permits(subject));
            missing.map(|subject| format!("{kind} {subject}")).collect::<Vec<_>>()
        };
        let publish = missing("publish", &self.publish);
        Some(publish.into_iter().chain(missing("subscribe", &self.subscribe)).collect())
    }

    /// Asks, beside whatever else goes on, and says in the log what is missing.
    pub(super) fn check(self, client: &Client, sub_cluster: &str, said: &Rc<RefCell<Sampled>>) {
        let (client, sub_cluster, said) = (client.clone(), sub_cluster.to_owned(), said.clone());
        tokio::task::spawn_local(async move {
            let Some(missing) = self.missing(&client).await else {
                tracing::debug!(sub_cluster, "the server does not tell permissions");
                return;
            };
            let missing = missing.join(", ");
            if missing.is_empty() {
                said.borrow_mut().end();
            } else if said.borrow_mut().take(&missing).is_some() {
                let why = "the gateway's user lacks permissions: see tuning/nats-server.conf";
                tracing::error!(sub_cluster, missing, "{why}");
            }
        });
    }
}

/// What the server of the connection says of its user. At a leaf node the server behind it answers, too, of what
/// the connection between the two may do.
async fn ask(client: &Client) -> Option<Value> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.ok()?;
    client.publish_with_reply(USER_INFO, inbox, "".into()).await.ok()?;
    let of_own = async {
        while let Some(answer) = answers.next().await {
            let said: Value = serde_json::from_slice(&answer.payload).ok()?;
            if is_said_by(&said, &client.server_info().server_id) {
                return Some(said);
            }
        }
        None
    };
    tokio::time::timeout(ANSWER_TIMEOUT, of_own).await.ok()?
}

fn is_said_by(said: &Value, server_id: &str) -> bool {
    said.pointer("/server/id").and_then(Value::as_str) == Some(server_id)
}

/// What may be published to, or subscribed to.
#[derive(Debug, Default)]
struct Side<'v> {
    /// Everything, if there is nothing.
    allow: Vec<&'v str>,
    deny: Vec<&'v str>,
}

impl<'v> Side<'v> {
    fn read(permissions: Option<&'v Value>) -> Self {
        let list = |key| {
            let list = permissions.and_then(|side| side.get(key)).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        Self { allow: list("allow"), deny: list("deny") }
    }

    /// Whether one entry permits all of `subject`, and none denies anything of it. Several entries that
    /// permit a part each are not put together.
    fn permits(&self, subject: &str) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|allowed| covers(allowed, subject)))
            && !self.deny.iter().any(|denied| overlap(denied, subject))
    }
}

/// Whether everything that `narrow` matches is matched by `wide`.
fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(narrow)) if narrow != ">" => {}
            (token, Some(narrow)) if token == narrow => {}
            (_, Some(_)) => return false,
        }
    }
    narrow.next().is_none()
}

/// Whether some subject is matched by both.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As a leaf node and the hub behind it answer.
    #[test]
    fn what_another_server_says_is_not_of_this_user() {
        let said = |id: &str| json!({"server": {"id": id}, "data": {}});
        assert!(is_said_by(&said("NLEAF"), "NLEAF"));
        assert!(!is_said_by(&said("NHUB"), "NLEAF"));
        assert!(!is_said_by(&json!({"data": {}}), "NLEAF"));
    }

    #[test]
    fn subjects_cover_and_overlap() {
        for (one, other, covered, overlapping) in [
            ("a.>", "a.b", true, true),
            ("a.>", "a.>", true, true),
            ("a.>", "a", false, false),
            ("a.*", "a.b", true, true),
            ("a.*", "a.*", true, true),
            ("a.*", "a.>", false, true),
            ("a.b", "a.*", false, true),
            ("a.b", "a.>", false, true),
            ("a.*.c", "a.b.*", false, true),
            ("a.b.c", "a.b", false, false),
            ("a", "b", false, false),
            (">", "$JS.ACK.>", true, true),
        ] {
            assert_eq!(covers(one, other), covered, "{one} {other}");
            assert_eq!(overlap(one, other), overlapping, "{one} {other}");
            assert_eq!(overlap(other, one), overlapping, "{other} {one}");
        }
    }

    #[test]
    fn what_is_not_permitted_is_missing() {
        let needs = Needs { publish: vec!["a.>".to_owned()], subscribe: vec!["b.c".to_owned()] };
        let missing = |permissions: Value| {
            let said = json!({"data": {"user": "u", "permissions": permissions}});
            needs.missing_in(&said).expect("it tells").join(", ")
        };
        assert_eq!(needs.missing_in(&json!({})), None);
        let unlimited = json!({"data": {"user": "u"}});
        assert_eq!(needs.missing_in(&unlimited), Some(Vec::new()));
        assert_eq!(missing(json!({"publish": {"allow": ["a.>"]}})), "");
        assert_eq!(missing(json!({"publish": {"allow": ["a.b", "c"]}})), "publish a.>");
        assert_eq!(missing(json!({"publish": {"deny": ["a.b"]}})), "publish a.>");
        assert_eq!(
            missing(json!({"publish": {"allow": ["x"]}, "subscribe": {"allow": ["b.c q"]}})),
            "publish a.>, subscribe b.c",
            "an entry with a queue is for members of the queue"
        );
    }
}
