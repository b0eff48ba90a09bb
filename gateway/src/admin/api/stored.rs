//! What the keyed store holds: sessions and retained messages.

use super::clients::stored_session;
use super::{Answer, ApiError, Shared, page, running};
use crate::config::Sessions;
use crate::proto::mqtt::is_valid_filter;
use crate::proto::record::Record;
use crate::proto::tenant::{session_name, split_name};
use crate::upstream::embedded::store::{Space, retained as store};
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

/// With `sessions = "shared"`.
pub(super) const SESSIONS_ELSEWHERE: &str = "stored sessions are in JetStream: streams \
     MQTT_SESSIONS_<n>, subjects sessions.<n>.client.<client id>; /api/v1/clients has those that are \
     connected here";

/// Rows of a page. The storage thread reads them in one go.
const ROWS_MAX: usize = 100;

#[derive(Deserialize)]
pub(super) struct SessionsQuery {
    #[serde(default)]
    prefix: String,
    mountpoint: Option<String>,
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

/// A page of stored sessions, in the order of what they are kept by: mountpoint, client id. `prefix` is of
/// clients of `mountpoint`, or of those without one. What is stored of a client that is
/// connected is from when it was recorded last.
pub(super) async fn sessions(
    State(state): State<Shared>,
    Query(query): Query<SessionsQuery>,
) -> Answer {
    let limit = query.limit.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    let node = running(&state)?;
    if state.config.sessions == Sessions::Shared {
        return Err(ApiError::Elsewhere(SESSIONS_ELSEWHERE));
    }
    let found = node.look(move |state| {
        let (mut rows, mut next) = (Vec::new(), None);
        let prefix = session_name(query.mountpoint.as_deref(), &query.prefix);
        let (prefix, from) = (prefix.as_bytes(), query.after.as_bytes());
        let is_of_anybody = prefix.is_empty();
        let result = state.scan(Space::Sessions, prefix, from, &mut |key, value| {
            let name = String::from_utf8_lossy(key);
            if rows.len() == limit {
                next = Some(name.into_owned());
                return false;
            }
            if is_of_anybody || split_name(&name).0 == query.mountpoint.as_deref() {
                rows.extend(stored_session(&name, value));
            }
            true
        });
        result.map(|()| (rows, next))
    });
    let found = found.await.ok_or(ApiError::Silent("the session store does not answer"))?;
    let (rows, next) = found.map_err(|_| ApiError::Silent("the session store cannot be read"))?;
    page(&rows, next)
}

#[derive(Deserialize)]
pub(super) struct RetainedQuery {
    filter: Option<String>,
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

/// A page of retained messages that match a filter, in the order of their topics, without their
/// payloads.
pub(super) async fn retained(
    State(state): State<Shared>,
    Query(query): Query<RetainedQuery>,
) -> Answer {
    let node = running(&state)?;
    if !state.config.nats.is_empty() {
        return Err(ApiError::Elsewhere("retained messages are in JetStream: MQTT_RETAINED_<n>"));
    }
    let filter = query.filter.unwrap_or_else(|| "#".to_owned());
    if !is_valid_filter(&filter) {
        return Err(ApiError::BadRequest("filter: a topic filter"));
    }
    let limit = query.limit.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    let found = node.look(move |state| {
        let mut rows: Vec<Value> = Vec::new();
        let next = store::matching(state, &filter, &query.after, &mut |found| {
            if let Some(Record::Message(message)) = Record::decode(&found.body) {
                let (mountpoint, publisher) = split_name(message.publisher);
                rows.push(json!({
                    "topic": found.topic,
                    "payload_bytes": message.payload.len(),
                    "qos": message.qos as u8,
                    "publisher": publisher,
                    "mountpoint": mountpoint,
                    "received_at_ms": message.received_at.0,
                    "expires_at_ms": message.expires_at().map(|at| at.0),
                }));
            }
            rows.len() < limit
        });
        next.map(|next| (rows, next))
    });
    let found = found.await.ok_or(ApiError::Silent("the store does not answer"))?;
    let (rows, next) = found.map_err(|_| ApiError::Silent("the store cannot be read"))?;
    page(&rows, next)
}
