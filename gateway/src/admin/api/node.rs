//! The node as a whole: overview, partitions, configuration, log level.

use super::{Answer, ApiError, Shared, running};
use crate::config::LogLevel;
use crate::proto::histogram::Histogram;
use crate::proto::output::ShardIndex;
use crate::upstream::embedded::log::Health;
use crate::upstream::embedded::report::LogReport;
use crate::upstream::inquiry::{Inquiry, ShardReport};
use crate::upstream::jetstream::report::PartitionReport;
use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// What the status page shows: counters since the start, and what is there now.
pub(super) async fn overview(State(state): State<Shared>) -> Answer {
    let node = running(&state)?;
    let (reports, whole) = (node.reports().await, node.node_report());
    let process = super::super::process::Process::read().unwrap_or_default();
    let limits = json!(state.in_force.load().get("limits"));
    let listen: Vec<String> = state.config.listen.iter().map(ToString::to_string).collect();
    let shards = (0_u16..).zip(&reports).map(|(shard, report)| match report {
        None => json!({ "shard": shard, "responding": false }),
        Some(report) => shard_overview(shard, report),
    });
    Ok(Json(json!({
        "now_ms": node.now().0,
        "started_at_s": process.started_at_s,
        "version": env!("CARGO_PKG_VERSION"),
        "gateway_id": state.config.gateway_id,
        "upstream": if state.config.nats.is_empty() { "embedded" } else { "jetstream" },
        "durability": state.config.durability.to_string(),
        "listen": listen,
        "draining": state.draining.load(Ordering::Relaxed),
        "limits": limits,
        "sessions": whole.sessions,
        "retained_messages": whole.retained.messages,
        "retained_bytes": whole.retained.bytes,
        "storage_queue": whole.storage_queue,
        "process": {
            "cpu_seconds": process.cpu_seconds,
            "resident_bytes": process.resident_bytes,
            "open_descriptors": process.open_descriptors,
            "descriptors_max": process.descriptors_max,
        },
        "shards": shards.collect::<Vec<_>>(),
    })))
}

fn shard_overview(shard: u16, report: &ShardReport) -> Value {
    let (counters, gauges) = (&report.counters, &report.gauges);
    let links = report.jetstream.as_ref();
    let acknowledgements = match links {
        None => report.embedded.commits,
        Some(links) => links.partitions.iter().fold(Histogram::default(), |mut all, one| {
            all.merge(&one.acknowledgements);
            all
        }),
    };
    let link_drops = links.map_or(0, |links| links.counters.dropped);
    json!({
        "shard": shard,
        "responding": true,
        "connections": gauges.connections.connected(),
        "connecting": gauges.connections.connecting(),
        "sessions": gauges.sessions,
        "filters": gauges.filters,
        "accepted": report.engine.counters.accepted,
        "connects": counters.connects,
        "publish_received": counters.publish_received,
        "publish_sent": counters.publish_sent,
        "received_bytes": report.engine.counters.received_bytes,
        "sent_bytes": report.engine.counters.sent_bytes,
        "in_flight": gauges.outbound.in_flight,
        "pending": gauges.outbound.queued,
        "behind": gauges.outbound.behind,
        "lag_max": gauges.outbound.lag_max,
        "faults": counters.faults,
        "dropped": counters.dropped_slow + counters.dropped_too_large + counters.dropped_expired
            + report.embedded.mesh_dropped + link_drops,
        "held": report.embedded.is_congested,
        "loop": histogram(&report.engine.counters.sweeps),
        "acknowledgements": histogram(&acknowledgements),
        "partitions": partitions_of(report),
    })
}

/// Bounds in seconds with the counts up to each, and the whole.
fn histogram(histogram: &Histogram) -> Value {
    let buckets: Vec<_> =
        histogram.cumulative().map(|(bound, count)| json!([bound.as_secs_f64(), count])).collect();
    json!({
        "buckets": buckets,
        "count": histogram.count(),
        "sum_s": histogram.sum().as_secs_f64(),
    })
}

fn partitions_of(report: &ShardReport) -> Vec<Value> {
    match &report.jetstream {
        None => report.embedded.logs.iter().map(log).collect(),
        Some(links) => links.partitions.iter().map(link).collect(),
    }
}

fn log(log: &LogReport) -> Value {
    let health = match log.health {
        Health::Good => "good".to_owned(),
        Health::Full => "disk full".to_owned(),
        Health::Failing(kind) => format!("failing: {kind}"),
    };
    json!({
        "partition": log.partition.0,
        "health": health,
        "is_good": log.health == Health::Good,
        "log_bytes": log.retained_bytes,
        "uncommitted_bytes": log.uncommitted_bytes,
        "read_failures": log.read_failures,
    })
}

fn link(link: &PartitionReport) -> Value {
    let health = match (link.is_linked, link.is_congested) {
        (false, _) => "no link",
        (true, true) => "publishers held",
        (true, false) => "good",
    };
    json!({
        "partition": link.partition.0,
        "sub_cluster": link.sub_cluster,
        "health": health,
        "is_good": link.is_linked && !link.is_congested,
        "unacknowledged": link.unacknowledged,
        "unacknowledged_bytes": link.unacknowledged_bytes,
        "pending_bytes": link.pending_bytes,
        "feed_lag": link.feed_lag,
        "acknowledgements": histogram(&link.acknowledgements),
    })
}

/// The partitions as each shard has them, and with JetStream the ring.
pub(super) async fn partitions(State(state): State<Shared>) -> Answer {
    let node = running(&state)?;
    let shards: Vec<Value> = (0_u16..)
        .zip(&node.reports().await)
        .filter_map(|(shard, report)| {
            let partitions = partitions_of(report.as_deref()?);
            Some(json!({ "shard": shard, "partitions": partitions }))
        })
        .collect();
    let ring = node.ring().map(|ring| {
        let members = ring.members().iter().map(|member| {
            json!({
                "partition": member.partition.0,
                "sub_cluster": member.sub_cluster,
                "weight": member.weight,
            })
        });
        json!({ "epoch": ring.epoch(), "members": members.collect::<Vec<_>>() })
    });
    Ok(Json(json!({ "ring": ring, "shards": shards })))
}

/// Every value in force, as `gateway check-config` prints them: no secret is among them.
pub(super) async fn config(State(state): State<Shared>) -> Json<Value> {
    Json(json!(**state.in_force.load()))
}

/// How much is logged.
pub(super) async fn log_level(State(state): State<Shared>) -> Json<Value> {
    Json(json!({ "level": state.log.level().to_string() }))
}

#[derive(Deserialize)]
pub(super) struct LogBody {
    level: String,
}

/// Logs more or less from here on, until the next start.
pub(super) async fn set_log_level(
    State(state): State<Shared>,
    Json(body): Json<LogBody>,
) -> Answer {
    let level = LogLevel::from_name(&body.level);
    let level = level.ok_or(ApiError::BadRequest("level: error, warn, info, debug or trace"))?;
    state.log.set_level(level);
    Ok(log_level(State(state)).await)
}

/// Begins the end of the process, as SIGTERM does: clients are told, sessions saved, and so on.
pub(super) async fn drain() -> Result<axum::http::StatusCode, ApiError> {
    let this = rustix::process::getpid();
    let sent = rustix::process::kill_process(this, rustix::process::Signal::TERM);
    sent.map_err(|_| ApiError::Silent("the process cannot be told to end"))?;
    tracing::info!("told to end by an administrator");
    Ok(axum::http::StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
pub(super) struct RebalanceQuery {
    share: f64,
    rate: u32,
}

/// Begins to send a share of the clients elsewhere, at a rate.
pub(super) async fn rebalance(
    State(state): State<Shared>,
    Query(RebalanceQuery { share, rate }): Query<RebalanceQuery>,
) -> Result<(axum::http::StatusCode, Json<Value>), ApiError> {
    let node = running(&state)?;
    if !(0.0..=1.0).contains(&share) || (share > 0.0 && rate == 0) {
        return Err(ApiError::BadRequest("share is 0 to 1, rate 1 or more clients a second"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
    let share_ppm = (share * 1e6).round() as u32;
    let mut clients = 0;
    for shard in 0..node.shards() {
        let begin = |answer| Inquiry::Rebalance { share_ppm, per_s: rate, answer };
        let answer = node.inquire(ShardIndex(shard), begin).await;
        clients += answer.ok_or(ApiError::Silent("a shard does not answer"))?;
    }
    tracing::info!(share, rate, clients, "clients are sent elsewhere, told by an administrator");
    Ok((axum::http::StatusCode::ACCEPTED, Json(json!({ "clients": clients }))))
}
