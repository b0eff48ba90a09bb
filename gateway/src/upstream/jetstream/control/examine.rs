//! What the configured servers say to a gateway that logs in, for `gateway doctor`. Makes and changes
//! nothing.
//!
//! A server is asked by itself, as each may be configured otherwise: who may log in is in its own
//! file. The streams are those of the ring; before the first gateway has made that, there are none.

use super::api::{self, STREAM_NOT_FOUND};
use super::fault::ControlFault;
use super::permissions::Needs;
use super::ring_key::RingKey;
use super::settings::{ControlSettings, SubClusterSettings};
use super::sub_cluster::SubCluster;
use super::{Extras, retained_stream_name, sessions_stream_name, stream_name, uplink_stream_name};
use crate::config::NatsServer;
use crate::proto::partition::PartitionId;
use async_nats::{Client, ConnectErrorKind};
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long one server may take to answer everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// One configured server, and what it said.
#[derive(Debug)]
pub struct Examined {
    /// The name of its sub-cluster.
    pub sub_cluster: String,
    /// Its address.
    pub server: NatsServer,
    /// What it said.
    pub said: Result<ServerFacts, ServerFault>,
}

/// What a server says to a gateway that it has let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Whether other servers may have copies of what it stores: it is part of a cluster.
    pub is_clustered: bool,
    /// The gateway's streams that are there.
    pub streams: Vec<StreamFacts>,
    /// What the gateway's user may not do: `publish` or `subscribe`, and a subject.
    pub missing_permissions: Vec<String>,
}

/// What a stream that is there promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// `num_replicas`.
    pub replicas: u8,
    /// Replicas beside the leader's that do not follow it just now: offline, or behind.
    pub replicas_away: usize,
    /// `storage` is not `file`.
    pub is_in_memory: bool,
    /// `persist_mode` is `async`: acknowledged before anything of it is written.
    pub is_written_later: bool,
}

/// Why a server is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// It does not take the configured credentials.
    Refused(String),
    /// It is there, and no connection comes about: TLS fails.
    Unreached(String),
    /// JetStream is off, or not for this account.
    NoJetStream,
    /// It lets the gateway in, and does not answer what it is asked then.
    Silent(String),
}

/// Asks every configured server, all at once. Blocks for at most some ten seconds.
///
/// # Errors
///
/// The operating system's: nothing could be asked.
pub fn examine(settings: &ControlSettings) -> io::Result<Vec<Examined>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    Ok(tasks.block_on(&runtime, examine_all(settings.clone())))
}

async fn examine_all(settings: ControlSettings) -> Vec<Examined> {
    let mut asked = JoinSet::new();
    let partitions = partitions(&settings).await;
    for sub_cluster in &settings.sub_clusters {
        let its = partitions.iter().filter(|(name, _)| *name == sub_cluster.name);
        let its: Vec<PartitionId> = its.map(|(_, partition)| *partition).collect();
        for server in &sub_cluster.servers {
            let (name, server, its) = (sub_cluster.name.clone(), server.clone(), its.clone());
            let alone = SubClusterSettings { servers: vec![server.clone()], ..sub_cluster.clone() };
            let alone = SubCluster::new(&settings.gateway_id, alone);
            let extras = settings.extras;
            let needs = needs(&settings, &sub_cluster.name, &its);
            let place = asked.len();
            asked.spawn_local(async move {
                let said = tokio::time::timeout(PATIENCE, ask(&alone, &its, extras)).await;
                let mut said = said.unwrap_or_else(|_| {
                    Err(ServerFault::Silent("no answer within 10 s".to_owned()))
                });
                let missing = tokio::time::timeout(PATIENCE, missing(&alone, &needs)).await;
                if let Some(missing) = missing.ok().flatten().filter(|missing| !missing.is_empty())
                {
                    match &mut said {
                        Ok(facts) => facts.missing_permissions = missing,
                        Err(ServerFault::Silent(why)) => {
                            *why = format!("{why}; its user lacks {}", missing.join(", "));
                        }
                        Err(
                            ServerFault::Refused(_)
                            | ServerFault::Unreached(_)
                            | ServerFault::NoJetStream,
                        ) => {}
                    }
                }
                (place, Examined { sub_cluster: name, server, said })
            });
        }
    }
    let mut all = asked.join_all().await;
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, one)| one).collect()
}

/// Which partitions are in which sub-cluster. None where there is no ring yet, or it cannot be read:
/// why not, the servers are asked themselves.
async fn partitions(settings: &ControlSettings) -> Vec<(String, PartitionId)> {
    let home = settings.sub_clusters.iter().min_by(|a, b| a.name.cmp(&b.name));
    let Some(home) = home else { return Vec::new() };
    let home = SubCluster::new(&settings.gateway_id, home.clone());
    let read = async { RingKey::find(&home.connect_once().await?).await };
    let Ok(Ok(Some(table))) = tokio::time::timeout(PATIENCE, read).await else { return Vec::new() };
    table.members().iter().map(|member| (member.sub_cluster.clone(), member.partition)).collect()
}

async fn ask(
    server: &SubCluster,
    partitions: &[PartitionId],
    extras: Extras,
) -> Result<ServerFacts, ServerFault> {
    let client = server.connect_once().await.map_err(|fault| refusal(&fault))?;
    api::check_jetstream(&client).await.map_err(|fault| refusal(&fault))?;
    let mut streams = Vec::new();
    for partition in partitions {
        let mut names = vec![stream_name(*partition), retained_stream_name(*partition)];
        names.extend(extras.uplink.then(|| uplink_stream_name(*partition)));
        names.extend(extras.sessions.then(|| sessions_stream_name(*partition)));
        for name in names {
            streams.extend(stream(&client, name).await.map_err(|fault| refusal(&fault))?);
        }
    }
    let is_clustered = client.server_info().cluster.is_some();
    Ok(ServerFacts { is_clustered, streams, missing_permissions: Vec::new() })
}

/// What a gateway does at a sub-cluster. Before there is a ring, members are numbered by their names.
fn needs(settings: &ControlSettings, sub_cluster: &str, partitions: &[PartitionId]) -> Vec<Needs> {
    let mut names: Vec<&str> = settings.sub_clusters.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    let place = names.iter().position(|name| *name == sub_cluster).unwrap_or_default();
    let first = [PartitionId(u16::try_from(place).unwrap_or_default())];
    let partitions = if partitions.is_empty() { &first } else { partitions };
    let of_partition = |partition: &PartitionId| Needs::of_partition(*partition, settings.extras);
    let needs = partitions.iter().map(of_partition);
    needs.chain((place == 0).then(Needs::of_ring)).collect()
}

/// What of it is not permitted, if the server tells.
async fn missing(server: &SubCluster, needs: &[Needs]) -> Option<Vec<String>> {
    let client = server.connect_once().await.ok()?;
    let mut all = Vec::new();
    for needs in needs {
        for missing in needs.missing(&client).await? {
            if !all.contains(&missing) {
                all.push(missing);
            }
        }
    }
    Some(all)
}

fn refusal(fault: &ControlFault) -> ServerFault {
    match fault {
        ControlFault::Connect(error)
            if matches!(
                error.kind(),
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
            ) =>
        {
            ServerFault::Refused(error.kind().to_string())
        }
        ControlFault::Connect(error) => ServerFault::Unreached(error.to_string()),
        ControlFault::NoJetStream => ServerFault::NoJetStream,
        fault => ServerFault::Silent(fault.to_string()),
    }
}

/// One stream, if it is there.
async fn stream(client: &Client, name: String) -> Result<Option<StreamFacts>, ControlFault> {
    let operation = format!("STREAM.INFO.{name}");
    match api::request(client, &operation, None).await {
        Ok(info) => match StreamFacts::read(name, &info) {
            Some(facts) => Ok(Some(facts)),
            None => Err(ControlFault::Answer { subject: operation }),
        },
        Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => Ok(None),
        Err(fault) => Err(fault),
    }
}

impl StreamFacts {
    fn read(name: String, info: &Value) -> Option<Self> {
        let config = info.get("config")?;
        let text = |key| config.get(key).and_then(Value::as_str).unwrap_or_default();
        let is = |peer: &Value, key| peer.get(key).and_then(Value::as_bool).unwrap_or_default();
        let peers = info.pointer("/cluster/replicas").and_then(Value::as_array);
        let away = peers.into_iter().flatten();
        let away = away.filter(|peer| is(peer, "offline") || !is(peer, "current"));
        Some(Self {
            replicas: u8::try_from(config.get("num_replicas")?.as_u64()?).ok()?,
            replicas_away: away.count(),
            is_in_memory: text("storage") == "memory",
            is_written_later: text("persist_mode") == "async",
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_says_what_it_promises() {
        let read = |info: &Value| StreamFacts::read("MQTT_0".to_owned(), info);
        let mut info = json!({
            "config": {"num_replicas": 3, "storage": "file"},
            "cluster": {"leader": "n0", "replicas": [
                {"name": "n1", "current": true},
                {"name": "n2", "current": false, "offline": true},
            ]},
        });
        let expected = StreamFacts {
            name: "MQTT_0".to_owned(),
            replicas: 3,
            replicas_away: 1,
            is_in_memory: false,
            is_written_later: false,
        };
        assert_eq!(read(&info), Some(expected));
        info["config"] = json!({"num_replicas": 1, "storage": "memory", "persist_mode": "async"});
        info.as_object_mut().unwrap().remove("cluster");
        let alone = read(&info).unwrap();
        assert!(alone.is_in_memory && alone.is_written_later && alone.replicas_away == 0);
        assert_eq!(read(&json!({})), None);
    }
}
