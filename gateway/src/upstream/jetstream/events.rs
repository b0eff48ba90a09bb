//! What happens to clients, told to whoever listens at the servers: at most once, stored by nobody
//! unless an operator makes a stream for it.
//!
//! | subject | what |
//! |---|---|
//! | `mqtt_events.<gateway>.connect.<client id>` | CONNECT was accepted |
//! | `mqtt_events.<gateway>.disconnect.<client id>` | the connection ended |
//! | `mqtt_events.<gateway>.subscribe.<client id>` | subscriptions were granted |
//! | `mqtt_events.<gateway>.unsubscribe.<client id>` | subscriptions were ended |
//!
//! The client id is one token, escaped as a level of a topic is; in it `/` stands for itself. That of a tenant's
//! client stands behind another token, the mountpoint. Events of a
//! client go over one link, that to the sub-cluster which owns a topic of its name, and so stay in order.
//! The payload is an object of JSON, documented in README.md.

use super::shard::JetStream;
use crate::proto::bridge::topic_subject::put_token;
use crate::proto::mqtt::ProtocolVersion;
use crate::proto::nats::{Subject, encode_publish_with, json, put_decimal};
use crate::proto::session::NEVER_EXPIRES;
use crate::proto::shard_state::events::{End, Event, What, WillFate};
use crate::proto::shard_state::inspect::Peer;
use crate::proto::tenant::split_name;

/// What all subjects of events begin with.
pub const EVENTS_PREFIX: &str = "mqtt_events";

/// Bytes of filters in one event. Those beyond are counted only: what a client subscribes to in one
/// packet must not become more than a server takes.
const FILTERS_BYTES_MAX: usize = 65_536;

impl JetStream {
    /// Publishes an event, if the link is there and takes something. `peer` is where the client comes
    /// from.
    pub fn publish_event(&mut self, event: &Event, peer: Option<Peer>) {
        let place = self.home(&event.client_id);
        let Self { partitions, limits, counters, gateway, subject, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let waiting_bytes = partition.pending_bytes + partition.out.len();
        if !partition.ready || waiting_bytes >= limits.link_write_bytes_max {
            counters.events_dropped += 1;
            return;
        }
        subject.clear();
        for token in [EVENTS_PREFIX, gateway, kind(&event.what)] {
            subject.extend_from_slice(token.as_bytes());
            subject.push(b'.');
        }
        let (mountpoint, client_id) = split_name(&event.client_id);
        if let Some(mountpoint) = mountpoint {
            put_token(0, mountpoint.as_bytes(), subject);
            subject.push(b'.');
        }
        put_token(0, client_id.as_bytes(), subject);
        if subject.len() > Subject::BYTES_MAX {
            counters.events_dropped += 1;
            return;
        }
        let to = Subject::from_checked(subject);
        encode_publish_with(to, None, &mut partition.out, |out| write(event, gateway, peer, out));
        counters.events += 1;
    }
}

fn kind(what: &What) -> &'static str {
    match what {
        What::Connected { .. } => "connect",
        What::Disconnected { .. } => "disconnect",
        What::Subscribed(_) => "subscribe",
        What::Unsubscribed(_) => "unsubscribe",
    }
}

/// Appends the payload.
fn write(event: &Event, gateway: &str, peer: Option<Peer>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("event", kind(&event.what));
    object.number("at_ms", event.at_ms);
    object.text("gateway", gateway);
    let (mountpoint, client_id) = split_name(&event.client_id);
    object.text("client_id", client_id);
    object.maybe_text("mountpoint", mountpoint);
    let identity = event.identity.as_deref();
    object.maybe_text("user", identity.and_then(|identity| identity.user_name.as_deref()));
    if let Some(Peer { address, transport, since_ms }) = peer {
        object.text("address", &address.to_string());
        object.text("transport", transport);
        object.number("accepted_at_ms", since_ms);
    }
    let id = event.connection;
    object.text("connection", &format!("{}-{}", id.index, id.generation));
    match &event.what {
        What::Connected { connected, session_present, has_will } => {
            object.text("protocol", version(connected.version));
            object.truth("clean_start", connected.clean_start);
            object.truth("session_present", *session_present);
            object.expiry(connected.session_expiry_s);
            object.number("keep_alive_s", u64::from(connected.silence_max_ms / 1_500));
            object.truth("has_will", *has_will);
        }
        What::Disconnected { connected, end, will } => {
            let (by, code, why) = match end {
                End::Client(code) => ("client", Some(*code), None),
                End::Gateway(code, why) => ("gateway", Some(*code), Some(&**why)),
                End::Network => ("network", None, None),
            };
            object.text("by", by);
            if let Some(code) = code {
                object.number("reason_code", code as u64);
            }
            object.maybe_text("reason", why);
            object.text(
                "will",
                match will {
                    WillFate::None => "none",
                    WillFate::Published => "published",
                    WillFate::Delayed => "delayed",
                },
            );
            object.expiry(connected.session_expiry_s);
        }
        What::Subscribed(filters) => {
            let filters = filters.iter().map(|(filter, qos)| (&**filter, Some(*qos as u64)));
            object.filters(filters);
        }
        What::Unsubscribed(filters) => {
            object.filters(filters.iter().map(|filter| (&**filter, None)));
        }
    }
    object.end();
}

fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

/// An object of JSON being written.
struct Object<'o>(&'o mut Vec<u8>);

impl<'o> Object<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self(out)
    }

    fn key(&mut self, key: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        json::put_string(key, self.0);
        self.0.push(b':');
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        json::put_string(text, self.0);
    }

    fn maybe_text(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        put_decimal(number, self.0);
    }

    fn truth(&mut self, key: &str, truth: bool) {
        self.key(key);
        self.0.extend_from_slice(if truth { b"true" } else { b"false" });
    }

    /// Absent for a session that never ends by itself.
    fn expiry(&mut self, expiry_s: u32) {
        if expiry_s != NEVER_EXPIRES {
            self.number("session_expiry_s", expiry_s.into());
        }
    }

    /// Filters, and the QoS of each.
    fn filters<'f>(&mut self, filters: impl Iterator<Item = (&'f str, Option<u64>)>) {
        self.key("filters");
        self.0.push(b'[');
        let start = self.0.len();
        let mut left_out = 0;
        for (filter, qos) in filters {
            if self.0.len() - start + filter.len() > FILTERS_BYTES_MAX {
                left_out += 1;
                continue;
            }
            if self.0.len() > start {
                self.0.push(b',');
            }
            let mut one = Object::begin(self.0);
            one.text("filter", filter);
            if let Some(qos) = qos {
                one.number("qos", qos);
            }
            one.end();
        }
        self.0.push(b']');
        if left_out > 0 {
            self.number("filters_left_out", left_out);
        }
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::access::{Identity, Proof};
    use crate::proto::mqtt::{QoS, ReasonCode};
    use crate::proto::output::ConnectionId;
    use crate::proto::session::Connected;
    use crate::proto::time::Timestamp;
    use std::sync::Arc;

    #[track_caller]
    fn check(what: What, user: Option<&str>, expected: &str) {
        let identity = user.map(|user| {
            let expires_at = Timestamp::NEVER;
            let (user_name, proof) = (Some(user.into()), Proof::None);
            Arc::new(Identity { user_name, mountpoint: None, acl: None, proof, expires_at })
        });
        let connection = ConnectionId { index: 3, generation: 7 };
        let event = Event { at_ms: 12, connection, client_id: "a\"b".into(), identity, what };
        let mut out = Vec::new();
        write(&event, "g1", None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn each_kind_is_an_object() {
        let connected =
            Connected { silence_max_ms: 90_000, session_expiry_s: 10, ..Connected::NOTHING };
        check(
            What::Connected { connected, session_present: true, has_will: false },
            Some("anna"),
            r#"{"event":"connect","at_ms":12,"gateway":"g1","client_id":"a\"b","user":"anna","connection":"3-7","protocol":"5.0","clean_start":true,"session_present":true,"session_expiry_s":10,"keep_alive_s":60,"has_will":false}"#,
        );
        let connected = Connected { session_expiry_s: NEVER_EXPIRES, ..connected };
        let end = End::Gateway(ReasonCode::KeepAliveTimeout, "keep alive timeout".into());
        check(
            What::Disconnected { connected, end, will: WillFate::Delayed },
            None,
            r#"{"event":"disconnect","at_ms":12,"gateway":"g1","client_id":"a\"b","connection":"3-7","by":"gateway","reason_code":141,"reason":"keep alive timeout","will":"delayed"}"#,
        );
        check(
            What::Subscribed(vec![("a/#".into(), QoS::AtLeastOnce), ("b".into(), QoS::AtMostOnce)]),
            None,
            r#"{"event":"subscribe","at_ms":12,"gateway":"g1","client_id":"a\"b","connection":"3-7","filters":[{"filter":"a/#","qos":1},{"filter":"b","qos":0}]}"#,
        );
        check(
            What::Unsubscribed(vec!["b".into()]),
            None,
            r#"{"event":"unsubscribe","at_ms":12,"gateway":"g1","client_id":"a\"b","connection":"3-7","filters":[{"filter":"b"}]}"#,
        );
    }

    #[test]
    fn filters_beyond_the_limit_are_counted() {
        let filter = "f".repeat(1_000);
        let all = (0..100).map(|_| (filter.as_str().into(), QoS::AtMostOnce)).collect();
        let event = Event {
            at_ms: 0,
            connection: ConnectionId { index: 0, generation: 0 },
            client_id: "c".into(),
            identity: None,
            what: What::Subscribed(all),
        };
        let mut out = Vec::new();
        write(&event, "g", None, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let told = value["filters"].as_array().unwrap().len();
        assert!(out.len() < FILTERS_BYTES_MAX + 1_000, "{}", out.len());
        assert_eq!(value["filters_left_out"].as_u64().unwrap(), 100 - told as u64);
        assert!(told > 60, "{told}");
    }
}
