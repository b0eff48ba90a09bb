//! `gateway ring add`: a sub-cluster that the ring has with nothing takes its share over.
//!
//! ```text
//! check ─▶ copy what is retained ─▶ change written: gateways hold the share ─▶ all have drained
//!   ─▶ where the share ends ─▶ copy what is retained since, groups ─▶ takeover written: done
//! ```
//! Only the last write changes who has what. Whatever ends this before then, by itself or by force, the
//! change is called off: here, or by any gateway when its time is over. Then it can be begun again.

use super::api;
use super::fault::ControlFault;
use super::moved_retained::Copier;
use super::names::stream_name;
use super::registration::{self, Registered};
use super::ring_key::RingKey;
use super::settings::ControlSettings;
use super::stream_info::StreamInfo;
use super::sub_cluster::SubCluster;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_change::Change;
use crate::proto::bridge::ring_table::{InvalidRing, RingTable};
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::partition::PartitionId;
use async_nats::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// What is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddToRing {
    /// The name of the sub-cluster.
    pub name: String,
    /// Its share in relation to others': 1 to [`RingTable::WEIGHT_MAX`].
    pub weight: u16,
    /// The share is held for so many seconds at most, 1 to [`Change::HOLD_MAX_S`].
    pub hold_s: u16,
}

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
enum NotAdded {
    #[error(transparent)]
    Control(#[from] ControlFault),
    #[error(transparent)]
    Ring(#[from] InvalidRing),
    #[error("there is no ring without sub-clusters: give --nats")]
    NoSubClusters,
    #[error("there is no ring yet; the first gateway makes it")]
    NoRing,
    #[error("{name} is not configured here: give --nats {name}=nats://...")]
    NotConfigured { name: String },
    #[error(
        "{name} is no member of the ring: first restart the gateways, one after the other, with \
         --nats {name}=nats://..., which makes it a member without topics"
    )]
    NoMember { name: String },
    #[error("{name} has its share already")]
    Added { name: String },
    #[error(
        "these gateways cannot use {name}: {gateways}; restart them with --nats {name}=nats://..., or, \
         if they are dead, say so with: gateway ring forget GATEWAY"
    )]
    Without { name: String, gateways: String },
    #[error(
        "called off after {seconds} s, nothing has changed: still waiting for {gateways}; if they are \
         dead, say so with: gateway ring forget GATEWAY"
    )]
    NotDrained { seconds: u16, gateways: String },
    #[error(
        "somebody else has written the ring meanwhile: look with gateway ring show, begin again"
    )]
    Overtaken,
}

/// Adds a member's share; `say` hears of each step. Blocks, for some seconds while gateways run.
///
/// # Errors
///
/// What is to be done about it; the ring is as it was.
pub fn add_to_ring(
    settings: &ControlSettings,
    add: &AddToRing,
    say: impl FnMut(&str),
) -> io::Result<()> {
    run(Adding { settings, add, say }.run())
}

/// Strikes off a gateway that is dead, so that nobody waits for it. Returns how many processes of it there
/// were. Blocks.
///
/// # Errors
///
/// No answer, or there is no ring.
pub fn forget_gateway(settings: &ControlSettings, gateway: &str) -> io::Result<usize> {
    run(async {
        let client = home(settings)?.connect_once().await?;
        let key = RingKey::find_bucket(&client).await?.ok_or(NotAdded::NoRing)?;
        Ok(registration::forget(&client, &key, gateway).await?)
    })
}

fn run<T>(work: impl Future<Output = Result<T, NotAdded>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, work).map_err(io::Error::other)
}

fn home(settings: &ControlSettings) -> Result<SubCluster, NotAdded> {
    let home = settings.sub_clusters.iter().min_by(|a, b| a.name.cmp(&b.name));
    let home = home.ok_or(NotAdded::NoSubClusters)?;
    Ok(SubCluster::new(&settings.gateway_id, home.clone()))
}

struct Adding<'a, Say> {
    settings: &'a ControlSettings,
    add: &'a AddToRing,
    say: Say,
}

/// A ring before the change, and what is needed for it.
struct Plan {
    table: RingTable,
    revision: u64,
    change: Change,
    /// Connections to all who give, and to who takes.
    clients: BTreeMap<PartitionId, Client>,
}

impl Plan {
    /// Those that have topics.
    fn givers(&self) -> impl Iterator<Item = PartitionId> {
        let members = self.table.members().iter().filter(|member| member.weight > 0);
        members.map(|member| member.partition)
    }

    fn client(&self, partition: PartitionId) -> &Client {
        self.clients.get(&partition).expect("connected to when it was planned")
    }
}

impl<Say: FnMut(&str)> Adding<'_, Say> {
    async fn run(mut self) -> Result<(), NotAdded> {
        let client = home(self.settings)?.connect_once().await?;
        let key = RingKey::find_bucket(&client).await?.ok_or(NotAdded::NoRing)?;
        let plan = self.plan(&key).await?;
        self.check_gateways(&registration::registered(&client, &key).await?, &plan)?;

        let changing = plan.table.changing(plan.change)?;
        let ring = Ring::new(&changing);
        let mut copier = Copier::new(plan.change.partition, plan.client(plan.change.partition));
        for giver in plan.givers() {
            copier.copy(giver, plan.client(giver), &ring).await?;
        }
        let count = copier.count();
        (self.say)(&format!("{count} retained messages copied; now the share is held"));

        if !key.replace(&changing, plan.revision).await? {
            return Err(NotAdded::Overtaken);
        }
        let completed = self.complete(&client, &key, &plan, &changing, copier).await;
        if completed.is_err()
            && let Some((last, revision)) = key.read_last().await?
            && last == changing
        {
            key.replace(&changing.called_off(), revision).await?;
        }
        let taken = completed?;
        let slots = Ring::new(&plan.table).moves(&Ring::new(&taken)).count();
        let all = usize::from(Ring::SLOT_COUNT);
        let per_mille = slots * 1_000 / all;
        (self.say)(&format!(
            "{} has its share: {slots} of {all} slots, {}.{} % of the topics; epoch {}",
            self.add.name,
            per_mille / 10,
            per_mille % 10,
            taken.epoch()
        ));
        Ok(())
    }

    async fn plan(&self, key: &RingKey) -> Result<Plan, NotAdded> {
        let AddToRing { name, weight, hold_s } = self.add;
        let (table, revision) = key.read_last().await?.ok_or(NotAdded::NoRing)?;
        let member = table.members().iter().find(|member| member.sub_cluster == *name);
        let member = member.ok_or_else(|| NotAdded::NoMember { name: name.clone() })?;
        if member.weight > 0 {
            return Err(NotAdded::Added { name: name.clone() });
        }
        let change = Change { partition: member.partition, weight: *weight, hold_s: *hold_s };
        let mut clients = BTreeMap::new();
        for member in table.members() {
            if member.weight == 0 && member.partition != change.partition {
                continue;
            }
            let all = self.settings.sub_clusters.iter();
            let one = all.clone().find(|one| one.name == member.sub_cluster);
            let one =
                one.ok_or_else(|| NotAdded::NotConfigured { name: member.sub_cluster.clone() })?;
            let sub_cluster = SubCluster::new(&self.settings.gateway_id, one.clone());
            clients.insert(member.partition, sub_cluster.connect_once().await?);
        }
        Ok(Plan { table, revision, change, clients })
    }

    fn check_gateways(&self, gateways: &[Registered], plan: &Plan) -> Result<(), NotAdded> {
        let can_use = |one: &&Registered| {
            let state = one.state.as_ref();
            state.is_some_and(|state| state.partitions.contains(&plan.change.partition))
        };
        let cannot = gateways.iter().filter(|one| !can_use(one));
        let gateways = names(cannot);
        if gateways.is_empty() {
            return Ok(());
        }
        Err(NotAdded::Without { name: self.add.name.clone(), gateways })
    }

    /// From when the share is held until the takeover is written.
    async fn complete(
        &mut self,
        client: &Client,
        key: &RingKey,
        plan: &Plan,
        changing: &RingTable,
        mut copier: Copier,
    ) -> Result<RingTable, NotAdded> {
        self.wait_until_drained(client, key, changing.epoch()).await?;
        (self.say)("nothing of the share is on its way any more");
        let mut ends = BTreeMap::new();
        for giver in plan.givers() {
            let info = StreamInfo::ask(plan.client(giver), giver).await?;
            ends.insert(giver, info.last.next());
        }
        let ring = Ring::new(changing);
        for giver in plan.givers() {
            copier.copy(giver, plan.client(giver), &ring).await?;
        }
        for giver in plan.givers() {
            copy_groups(plan, giver, &ring).await?;
        }
        let taken = changing.taken_over(|giver| ends.get(&giver).copied())?;
        let (last, revision) = key.read_last().await?.ok_or(NotAdded::NoRing)?;
        if last != *changing || !key.replace(&taken, revision).await? {
            return Err(NotAdded::Overtaken);
        }
        Ok(taken)
    }

    async fn wait_until_drained(
        &self,
        client: &Client,
        key: &RingKey,
        epoch: u64,
    ) -> Result<(), NotAdded> {
        let begun = Instant::now();
        // Gateways count from when they hear of it.
        let patience = Duration::from_secs(self.add.hold_s.into());
        loop {
            let gateways = registration::registered(client, key).await?;
            let has_drained =
                |one: &&Registered| one.state.as_ref().is_some_and(|state| state.drained == epoch);
            let missing = names(gateways.iter().filter(|one| !has_drained(one)));
            if missing.is_empty() {
                return Ok(());
            }
            if begun.elapsed() >= patience {
                return Err(NotAdded::NotDrained { seconds: self.add.hold_s, gateways: missing });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn names<'a>(gateways: impl Iterator<Item = &'a Registered>) -> String {
    let mut names: Vec<&str> = gateways.map(Registered::gateway).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Groups of shared subscriptions read at who takes over, too, from the beginning: also those that no
/// gateway reads for just now.
async fn copy_groups(plan: &Plan, giver: PartitionId, ring: &Ring) -> Result<(), NotAdded> {
    let taker = plan.change.partition;
    let mut offset = 0;
    loop {
        let operation = format!("CONSUMER.LIST.{}", stream_name(giver));
        let page = api::request(plan.client(giver), &operation, Some(&json!({ "offset": offset })))
            .await?;
        let consumers = page.get("consumers").and_then(Value::as_array);
        let consumers = consumers.map(Vec::as_slice).unwrap_or_default();
        for config in consumers.iter().filter_map(|consumer| consumer.get("config")) {
            if let Some((name, config)) = moved_group(config, ring) {
                let stream = stream_name(taker);
                let operation = format!("CONSUMER.CREATE.{stream}.{name}");
                let wanted = json!({ "stream_name": stream, "action": "create", "config": config });
                match api::request(plan.client(taker), &operation, Some(&wanted)).await {
                    Ok(_) => {}
                    Err(fault) if THERE.iter().any(|code| api::is_error(&fault, *code)) => {}
                    Err(fault) => return Err(fault.into()),
                }
            }
        }
        offset += consumers.len();
        let total = page.get("total").and_then(Value::as_u64).unwrap_or_default();
        if consumers.is_empty() || offset as u64 >= total {
            return Ok(());
        }
    }
}

/// The consumer of a group that may have messages of what moves, as it is to be where that goes.
fn moved_group(config: &Value, ring: &Ring) -> Option<(String, Value)> {
    let name = config.get("durable_name")?.as_str().filter(|name| name.starts_with(GROUP))?;
    let subjects = config.get("filter_subjects").and_then(Value::as_array);
    let one = config.get("filter_subject");
    let subjects: Vec<&str> =
        subjects.into_iter().flatten().chain(one).filter_map(Value::as_str).collect();
    let prefix = TopicPrefix::new(STORED).expect("made of letters");
    let mut topic = Vec::new();
    let moves = |subject: &&str| match prefix.topic(subject.as_bytes(), &mut topic) {
        Ok(topic) => ring.is_held(topic),
        // With wildcards: of any partition.
        Err(_) => true,
    };
    subjects.iter().any(moves).then(|| {
        let mut config = config.clone();
        if let Some(config) = config.as_object_mut() {
            config.insert("deliver_policy".to_owned(), json!("by_start_sequence"));
            config.insert("opt_start_seq".to_owned(), json!(1));
        }
        (name.to_owned(), config)
    })
}

/// What the consumers of groups are called, and under what messages are stored.
const GROUP: &str = "shared_";
const STORED: &str = "mqtt";
/// Errors of the API: a consumer of that name is there, with the same beginning or another one.
const THERE: [u64; 2] = [10_013, 10_148];
/// How often gateways are looked at while they drain.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bridge::ring_table::Member;

    #[test]
    fn a_group_reads_where_its_topics_go() {
        let member = |partition, weight, name: &str| Member {
            partition: PartitionId(partition),
            weight,
            sub_cluster: name.to_owned(),
        };
        let table = RingTable::new(1, vec![member(0, 1, "a"), member(1, 0, "b")]).unwrap();
        let change = Change { partition: PartitionId(1), weight: 1, hold_s: 30 };
        let ring = Ring::new(&table.changing(change).unwrap());
        let topics = (0..100).map(|number| format!("t{number}"));
        let (moves, stays): (Vec<_>, Vec<_>) = topics.partition(|topic| ring.is_held(topic));
        let config = |name: &str, subject: &str| json!({ "durable_name": name, "filter_subject": subject, "opt_start_seq": 77 });
        let of = |name: &str, subject: &str| moved_group(&config(name, subject), &ring);
        let (name, moved) = of("shared_1", &format!("mqtt.{}", moves[0])).unwrap();
        assert_eq!((name.as_str(), &moved["opt_start_seq"]), ("shared_1", &json!(1)));
        assert_eq!(of("shared_1", &format!("mqtt.{}", stays[0])), None);
        assert!(of("shared_1", "mqtt.a.>").is_some() && of("shared_1", "mqtt.*").is_some());
        assert_eq!(of("another", "mqtt.a.>"), None, "somebody else's");
        let several =
            json!({ "durable_name": "shared_2", "filter_subjects": ["mqtt.a.>", "mqtt.a"] });
        assert!(moved_group(&several, &ring).is_some());
    }
}
