//! Connected clients: lists, one in full, kick, trace.

use super::stored::SESSIONS_ELSEWHERE;
use super::{Answer, ApiError, Shared, page, running};
use crate::config::Sessions;
use crate::node::NodeHandle;
use crate::proto::output::ShardIndex;
use crate::proto::session::record::SessionRecord;
use crate::proto::shard_state::inspect::{GroupView, ROWS_MAX, SessionRow, SessionsQuery};
use crate::proto::tenant::{session_name, split_name};
use crate::upstream::embedded::store::Space;
use crate::upstream::embedded::store::fold::SessionValue;
use crate::upstream::inquiry::{Inquiry, TraceRequest};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_lite::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Questions asked for one page at most: with them all in vain 65,536 sessions were looked at.
const QUESTIONS_MAX: usize = 64;
/// Lines of a trace.
const TRACE_LINES_MAX: usize = 10_000;
const TRACE_LINES_DEFAULT: usize = 1_000;
/// How long a trace may take.
const TRACE_SECONDS_MAX: u64 = 600;
const TRACE_SECONDS_DEFAULT: u64 = 60;
/// Lines that wait for a client of the API that reads slowly; more are left out.
const TRACE_WAITING_MAX: usize = 1_024;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    prefix: String,
    mountpoint: Option<String>,
    address: Option<IpAddr>,
    user: Option<String>,
    shard: Option<u16>,
    #[serde(default)]
    lag_min: u64,
    limit: Option<usize>,
    after: Option<String>,
}

/// A page of connected clients.
pub(super) async fn list(State(state): State<Shared>, Query(query): Query<ListQuery>) -> Answer {
    let node = running(&state)?;
    let (mut shard, mut from) = match &query.after {
        None => (query.shard.unwrap_or(0), 0),
        Some(after) => place(after).ok_or(ApiError::BadRequest("after: the next of a page"))?,
    };
    let last = query.shard.unwrap_or_else(|| node.shards() - 1);
    let limit = query.limit.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    let address = query.address.map(|address| address.to_canonical());
    let mut rows: Vec<SessionRow> = Vec::new();
    for _ in 0..QUESTIONS_MAX {
        if shard > last || shard >= node.shards() {
            return page(&rows, None);
        }
        if rows.len() == limit {
            break;
        }
        let question = SessionsQuery {
            from,
            prefix: query.prefix.clone(),
            mountpoint: query.mountpoint.clone(),
            address,
            user: query.user.clone(),
            lag_min: query.lag_min,
            rows_max: limit - rows.len(),
        };
        let asked = node.inquire(ShardIndex(shard), |answer| Inquiry::Sessions(question, answer));
        let found = asked.await.ok_or(ApiError::Silent("a shard does not answer"))?;
        rows.extend(found.rows);
        (shard, from) = found.next.map_or((shard + 1, 0), |next| (shard, next));
    }
    page(&rows, Some(format!("{shard}:{from}")))
}

/// `shard:place`.
fn place(after: &str) -> Option<(u16, u32)> {
    let (shard, from) = after.split_once(':')?;
    Some((shard.parse().ok()?, from.parse().ok()?))
}

/// The tenant of the client that is asked about.
#[derive(Deserialize)]
pub(super) struct TenantQuery {
    mountpoint: Option<String>,
}

impl TenantQuery {
    /// What the session of its client is kept by.
    fn name(&self, client_id: &str) -> String {
        session_name(self.mountpoint.as_deref(), client_id).into_owned()
    }
}

/// A session in full: of a client that is connected, or what is stored of one that is not.
pub(super) async fn one(
    State(state): State<Shared>,
    Path(client_id): Path<String>,
    Query(tenant): Query<TenantQuery>,
) -> Answer {
    let node = running(&state)?;
    let client_id = tenant.name(&client_id);
    let name = client_id.as_str().into();
    let asked = node.inquire(node.home(&client_id), |answer| Inquiry::Session(name, answer));
    if let Some(view) = asked.await.ok_or(ApiError::Silent("the client's shard does not answer"))? {
        return Ok(Json(json!(view)));
    }
    if state.config.sessions == Sessions::Shared {
        return Err(ApiError::Elsewhere(SESSIONS_ELSEWHERE));
    }
    let stored = node.look(move |state| {
        let value = state.get(Space::Sessions, client_id.as_bytes());
        value.map(|value| value.and_then(|value| stored_session(&client_id, &value)))
    });
    match stored.await {
        Some(Ok(Some(view))) => Ok(Json(view)),
        Some(Ok(None)) => Err(ApiError::NotFound("no session of this client id")),
        Some(Err(_)) | None => Err(ApiError::Silent("the session store does not answer")),
    }
}

/// What is stored of the session that is kept by `name`, `None` where it cannot be read.
pub(super) fn stored_session(name: &str, value: &[u8]) -> Option<serde_json::Value> {
    let value = SessionValue::decode(value)?;
    let record = SessionRecord::decode(value.record)?;
    let time = |at: crate::proto::time::Timestamp| (at.0 != u64::MAX).then_some(at.0);
    let filters: Vec<_> = record.subscriptions.iter().map(|one| &*one.filter).collect();
    let cursors = record.cursors.iter();
    let cursors = cursors.map(|(partition, at)| json!({"partition": partition.0, "cursor": at.0}));
    let (mountpoint, client_id) = split_name(name);
    Some(json!({
        "client_id": client_id,
        "mountpoint": mountpoint,
        "stage": if record.online { "stored_online" } else { "offline" },
        "expires_at_ms": time(value.expires_at),
        "will_at_ms": time(value.will_at),
        "filters": filters,
        "cursors": cursors.collect::<Vec<_>>(),
        "in_flight": record.in_flight.len(),
        "pending": record.queued.len(),
    }))
}

/// Ends a client's connection with Administrative action (0x98). Its session stays.
pub(super) async fn kick(
    State(state): State<Shared>,
    Path(client_id): Path<String>,
    Query(tenant): Query<TenantQuery>,
) -> Result<StatusCode, ApiError> {
    let node = running(&state)?;
    let name = tenant.name(&client_id).into();
    let asked = node.inquire(node.home(&client_id), |answer| Inquiry::Kick(name, answer));
    match asked.await {
        Some(true) => {
            let mountpoint = tenant.mountpoint;
            tracing::info!(mountpoint, client_id, "connection ended by an administrator");
            Ok(StatusCode::NO_CONTENT)
        }
        Some(false) => Err(ApiError::NotFound("no connection of this client id")),
        None => Err(ApiError::Silent("the client's shard does not answer")),
    }
}

#[derive(Deserialize)]
pub(super) struct TraceQuery {
    seconds: Option<u64>,
    lines: Option<usize>,
}

/// A line of JSON for each packet of one client, as it comes and goes.
pub(super) async fn trace(
    State(state): State<Shared>,
    Path(client_id): Path<String>,
    Query(query): Query<TraceQuery>,
    Query(tenant): Query<TenantQuery>,
) -> Result<Response, ApiError> {
    let node = running(&state)?;
    let seconds = query.seconds.unwrap_or(TRACE_SECONDS_DEFAULT).clamp(1, TRACE_SECONDS_MAX);
    let lines_max = query.lines.unwrap_or(TRACE_LINES_DEFAULT).clamp(1, TRACE_LINES_MAX);
    let time = Duration::from_secs(seconds);
    let (sender, lines) = flume::bounded(TRACE_WAITING_MAX);
    let (home, until) = (node.home(&client_id), node.now().after(time));
    let client_id = tenant.name(&client_id).into();
    if !node.tell(home, Inquiry::Trace(TraceRequest { client_id, until, lines: sender })) {
        return Err(ApiError::Silent("the client's shard does not answer"));
    }
    let lines = lines.into_stream().take(lines_max).map(|line| {
        let mut text = json!(line).to_string();
        text.push('\n');
        Ok::<_, std::convert::Infallible>(text)
    });
    let end = tokio::time::Instant::now() + time;
    let lines = futures_lite::stream::unfold(Box::pin(lines), move |mut lines| async move {
        let line = tokio::time::timeout_at(end, lines.next()).await.ok()??;
        Some((line, lines))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((content_type, Body::from_stream(lines)).into_response())
}

/// The sessions with most on their way to them, slowest first, of all shards.
pub(super) async fn slowest(State(state): State<Shared>) -> Answer {
    let node = running(&state)?;
    let mut rows: Vec<SessionRow> =
        all(&node, Inquiry::Slowest).await.into_iter().flatten().collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.lag, row.in_flight + row.pending)));
    rows.truncate(ROWS_MAX);
    page(&rows, None)
}

/// The clients that publish most, of all shards, with estimates of their rates.
pub(super) async fn talkers(State(state): State<Shared>) -> Answer {
    let node = running(&state)?;
    let mut talkers: Vec<_> = all(&node, Inquiry::Talkers).await.into_iter().flatten().collect();
    talkers.sort_by(|a, b| b.1.total_cmp(&a.1));
    talkers.truncate(ROWS_MAX);
    let rows: Vec<_> = talkers
        .iter()
        .map(|(client, messages, bytes)| {
            json!({"client": client, "messages_per_s": messages, "payload_bytes_per_s": bytes})
        })
        .collect();
    page(&rows, None)
}

#[derive(Deserialize)]
pub(super) struct SubscribersQuery {
    topic: String,
}

/// Who gets messages of a topic: subscriptions that match it, and groups of shared ones, of which one
/// member gets each message.
pub(super) async fn subscribers(
    State(state): State<Shared>,
    Query(query): Query<SubscribersQuery>,
) -> Answer {
    let node = running(&state)?;
    if query.topic.is_empty() || query.topic.contains(['+', '#', '\0']) {
        return Err(ApiError::BadRequest("topic: a topic name, without wildcards"));
    }
    let topic: Box<str> = query.topic.into();
    let pages = all(&node, |answer| Inquiry::Subscribers(topic.clone(), answer)).await;
    let count: usize = pages.iter().map(|page| page.count).sum();
    let (mut rows, mut groups) = (Vec::new(), BTreeMap::new());
    for page in pages {
        rows.extend(page.subscribers);
        for GroupView { share_name, filter, members } in page.groups {
            // With JetStream each shard knows the members it has.
            *groups.entry((share_name, filter)).or_insert(0) += members;
        }
    }
    let groups = groups.into_iter();
    let groups =
        groups.map(|((share_name, filter), members)| GroupView { share_name, filter, members });
    let groups: Vec<_> = groups.collect();
    Ok(Json(json!({ "count": count, "rows": rows, "group_count": groups.len(), "groups": groups })))
}

/// Asks every shard; those that do not answer are left out.
async fn all<T>(
    node: &NodeHandle,
    inquiry: impl Fn(tokio::sync::oneshot::Sender<T>) -> Inquiry,
) -> Vec<T> {
    let mut answers = Vec::new();
    for shard in 0..node.shards() {
        answers.extend(node.inquire(ShardIndex(shard), &inquiry).await);
    }
    answers
}
