//! `gateway ring add` and `gateway ring remove`: a sub-cluster that the ring has with nothing takes its
//! share over, or one gives its share to all others.
//!
//! ```text
//! check ─▶ copy what is retained ─▶ change written: gateways hold the share ─▶ all have drained
//!   ─▶ where the streams are cut ─▶ copy what is retained since, groups ─▶ that written: all go by it
//!   ─▶ takeover written: done
//! ```
//! Only the last write changes who has what. Whatever ends this before then, by itself or by force, the
//! change is called off: here, or by any gateway when its time is over. Then it can be begun again.

use super::api::{self, STREAM_NOT_FOUND};
use super::fault::ControlFault;
use super::moved_retained::Copier;
use super::names::{sessions_stream_name, stream_name};
use super::registration::{self, Registered};
use super::ring_key::RingKey;
use super::settings::ControlSettings;
use super::stream_info::StreamInfo;
use super::sub_cluster::SubCluster;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_change::Change;
use crate::proto::bridge::ring_table::{InvalidRing, Member, RingTable};
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::partition::{PartitionId, Sequence};
use async_nats::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// What is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRing {
    /// The name of the sub-cluster.
    pub name: String,
    /// Its share in relation to others': 1 to [`RingTable::WEIGHT_MAX`] if it has none; 0 if it has one
    /// and is to give it to the others.
    pub weight: u16,
    /// The share is held for so many seconds at most, 1 to [`Change::HOLD_MAX_S`].
    pub hold_s: u16,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
enum NotChanged {
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
    #[error("{name} is no member of the ring: look with gateway ring show")]
    Unknown { name: String },
    #[error("{name} has its share already")]
    Added { name: String },
    #[error("{name} has no share of the topics")]
    Removed { name: String },
    #[error("{name} is the last that has topics, or the last of those that were there at first")]
    Last { name: String },
    #[error("{name} has the ring itself: the sub-cluster whose name sorts first cannot be removed")]
    HasRing { name: String },
    #[error(
        "{name} has sessions of clients, in the stream {stream}: with --sessions shared a sub-cluster \
         that was there at first cannot be removed. If no gateway runs with that any more, delete the \
         stream"
    )]
    HasSessions { name: String, stream: String },
    #[error(
        "{names}: no room for more: less than a fiftieth of max_bytes is free of the stream of \
         messages, and who publishes to what moves there would wait"
    )]
    NoRoom { names: String },
    #[error(
        "these gateways cannot use {name}: {gateways}; add it to the configuration of each and send SIGHUP \
         (or restart those that have it by --nats), or, if they are dead, say so with: gateway ring \
         forget GATEWAY"
    )]
    Without { name: String, gateways: String },
    #[error(
        "called off after {seconds} s, nothing has changed: still waiting for {gateways}; if they are \
         dead, say so with: gateway ring forget GATEWAY"
    )]
    NotDrained { seconds: u16, gateways: String },
    #[error("{name}: where its stream ends is not known: {fault}")]
    NoEnd { name: String, fault: ControlFault },
    #[error(
        "somebody else has written the ring meanwhile: look with gateway ring show, begin again"
    )]
    Overtaken,
}

/// Changes a member's share; `say` hears of each step. Blocks, for some seconds while gateways run.
///
/// # Errors
///
/// What is to be done about it; the ring is as it was.
pub fn change_ring(
    settings: &ControlSettings,
    change: &ChangeRing,
    say: impl FnMut(&str),
) -> io::Result<()> {
    run(Changing { settings, wanted: change, say }.run())
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
        let key = RingKey::find_bucket(&client).await?.ok_or(NotChanged::NoRing)?;
        Ok(registration::forget(&client, &key, gateway).await?)
    })
}

fn run<T>(work: impl Future<Output = Result<T, NotChanged>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, work).map_err(io::Error::other)
}

fn home(settings: &ControlSettings) -> Result<SubCluster, NotChanged> {
    let home = settings.sub_clusters.iter().min_by(|a, b| a.name.cmp(&b.name));
    let home = home.ok_or(NotChanged::NoSubClusters)?;
    Ok(SubCluster::new(&settings.gateway_id, home.clone()))
}

struct Changing<'a, Say> {
    settings: &'a ControlSettings,
    wanted: &'a ChangeRing,
    say: Say,
}

/// A ring before the change, and what is needed for it.
struct Plan {
    table: RingTable,
    revision: u64,
    change: Change,
    /// What moves, and where to.
    ring: Ring,
    /// Connections to all who give or take.
    clients: BTreeMap<PartitionId, Client>,
}

impl Plan {
    /// Those that give topics.
    fn givers(&self) -> impl Iterator<Item = PartitionId> {
        let all = self.table.members().iter().filter(|member| member.weight > 0);
        let is_one =
            |member: &&Member| self.change.weight > 0 || member.partition == self.change.partition;
        all.filter(is_one).map(|member| member.partition)
    }

    fn client(&self, partition: PartitionId) -> &Client {
        self.clients.get(&partition).expect("connected to when it was planned")
    }
}

impl<Say: FnMut(&str)> Changing<'_, Say> {
    async fn run(mut self) -> Result<(), NotChanged> {
        let client = home(self.settings)?.connect_once().await?;
        let key = RingKey::find_bucket(&client).await?.ok_or(NotChanged::NoRing)?;
        let plan = self.plan(&key).await?;
        if plan.change.weight == 0 {
            self.check_removal(&plan).await?;
        }
        let registered = registration::registered(&client, &key, plan.revision).await?;
        self.check_gateways(&registered, &plan)?;

        let mut copier = Copier::new(plan.clients.clone());
        self.copy_retained(&key, &plan, &mut copier).await?;
        let count = copier.count();
        (self.say)(&format!("{count} retained messages copied; now the share is held"));

        let changing = plan.table.changing(plan.change)?;
        let Some(revision) = key.replace(&changing, plan.revision).await? else {
            return Err(NotChanged::Overtaken);
        };
        let end = Instant::now() + Duration::from_secs(self.wanted.hold_s.into());
        let mut written = Written { key: &key, table: changing, revision, end };
        let completed = self.complete(&client, &plan, &mut written, copier).await;
        if completed.is_err()
            && let Some((last, revision)) = key.read_last().await?
            && last == written.table
        {
            key.replace(&last.called_off(), revision).await?;
        }
        self.say_result(&plan, &completed?);
        Ok(())
    }

    fn say_result(&mut self, plan: &Plan, taken: &RingTable) {
        let slots = Ring::new(&plan.table).moves(&Ring::new(taken)).count();
        let all = usize::from(Ring::SLOT_COUNT);
        let per_mille = slots * 1_000 / all;
        let name = &self.wanted.name;
        let what = match plan.change.weight {
            0 => format!("{name} has given its share to the others"),
            _ => format!("{name} has its share"),
        };
        (self.say)(&format!(
            "{what}: {slots} of {all} slots, {}.{} % of the topics; epoch {}",
            per_mille / 10,
            per_mille % 10,
            taken.epoch()
        ));
    }

    async fn plan(&self, key: &RingKey) -> Result<Plan, NotChanged> {
        let ChangeRing { name, weight, hold_s } = self.wanted;
        let (table, revision) = key.read_last().await?.ok_or(NotChanged::NoRing)?;
        let name = || name.clone();
        let member = table.members().iter().find(|member| member.sub_cluster == *self.wanted.name);
        let partition = match member {
            None if *weight == 0 => return Err(NotChanged::Unknown { name: name() }),
            None => return Err(NotChanged::NoMember { name: name() }),
            Some(one) if one.weight > 0 && *weight > 0 => {
                return Err(NotChanged::Added { name: name() });
            }
            Some(one) if one.weight == 0 && *weight == 0 => {
                return Err(NotChanged::Removed { name: name() });
            }
            Some(one) if *weight == 0 && table.is_last(one.partition) => {
                return Err(NotChanged::Last { name: name() });
            }
            Some(one) => one.partition,
        };
        let change = Change { partition, weight: *weight, hold_s: *hold_s };
        let changing = table.changing(change)?;
        let mut clients = BTreeMap::new();
        for partition in changing.concerned() {
            clients.insert(partition, self.connect(&table, partition).await?);
        }
        let ring = Ring::new(&changing);
        Ok(Plan { table, revision, change, ring, clients })
    }

    async fn connect(
        &self,
        table: &RingTable,
        partition: PartitionId,
    ) -> Result<Client, NotChanged> {
        let name = name_of(table, partition);
        let one = self.settings.sub_clusters.iter().find(|one| one.name == name);
        let one = one.ok_or(NotChanged::NotConfigured { name })?;
        Ok(SubCluster::new(&self.settings.gateway_id, one.clone()).connect_once().await?)
    }

    /// Whether the sub-cluster is not needed for anything else, and the others have room.
    async fn check_removal(&self, plan: &Plan) -> Result<(), NotChanged> {
        let (name, partition) = (self.wanted.name.clone(), plan.change.partition);
        if home(self.settings)?.name() == name {
            return Err(NotChanged::HasRing { name });
        }
        let homes = plan.table.members().iter().zip(plan.table.weights_of_homes());
        let keeps_sessions =
            |(member, weight): (&Member, u16)| member.partition == partition && weight > 0;
        if homes.into_iter().any(keeps_sessions) {
            let stream = sessions_stream_name(partition);
            let operation = format!("STREAM.INFO.{stream}");
            match api::request(plan.client(partition), &operation, None).await {
                Ok(_) => return Err(NotChanged::HasSessions { name, stream }),
                Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        let mut full = Vec::new();
        for taker in plan.ring.takers() {
            let operation = format!("STREAM.INFO.{}", stream_name(*taker));
            let info = api::request(plan.client(*taker), &operation, None).await?;
            if !has_room(&info) {
                full.push(name_of(&plan.table, *taker));
            }
        }
        if full.is_empty() { Ok(()) } else { Err(NotChanged::NoRoom { names: full.join(", ") }) }
    }

    fn check_gateways(&self, gateways: &[Registered], plan: &Plan) -> Result<(), NotChanged> {
        let can_use = |one: &&Registered| {
            let state = one.state.as_ref();
            state.is_some_and(|state| state.partitions.contains(&plan.change.partition))
        };
        let cannot = gateways.iter().filter(|one| !can_use(one));
        let gateways = names(cannot);
        if gateways.is_empty() {
            return Ok(());
        }
        Err(NotChanged::Without { name: self.wanted.name.clone(), gateways })
    }

    /// Before anything is held.
    async fn copy_retained(
        &self,
        key: &RingKey,
        plan: &Plan,
        copier: &mut Copier,
    ) -> Result<(), NotChanged> {
        for taker in plan.ring.takers() {
            let stale = copier.stale(*taker, &plan.ring).await?;
            // As long as the ring was the same, all of it is of before the topics went away.
            let last = key.read_last().await?;
            if last.is_none_or(|(_, revision)| revision != plan.revision) {
                return Err(NotChanged::Overtaken);
            }
            copier.clear(*taker, &stale, &plan.ring).await?;
        }
        for giver in plan.givers() {
            copier.copy(giver, &plan.ring).await?;
        }
        Ok(())
    }

    /// From when the share is held until the takeover is written.
    async fn complete(
        &mut self,
        client: &Client,
        plan: &Plan,
        written: &mut Written<'_>,
        mut copier: Copier,
    ) -> Result<RingTable, NotChanged> {
        self.wait_until_drained(client, written).await?;
        (self.say)("nothing of the share is on its way any more");
        let mut ends = BTreeMap::new();
        for (partition, client) in &plan.clients {
            let end = insist(written.end, async || StreamInfo::end(client, *partition).await).await;
            let no_end =
                |fault| NotChanged::NoEnd { name: name_of(&plan.table, *partition), fault };
            ends.insert(*partition, end.map_err(no_end)?);
        }
        for giver in plan.givers() {
            insist(written.end, async || copier.copy(giver, &plan.ring).await).await?;
        }
        for giver in plan.givers() {
            insist(written.end, async || copy_groups(plan, giver, &ends).await).await?;
        }
        let cut = written.table.cut(|partition| ends.get(&partition).copied())?;
        written.replace(cut).await?;
        self.wait_until_drained(client, written).await?;
        (self.say)("all gateways know where it ends");
        written.replace(written.table.taken_over()?).await?;
        Ok(written.table.clone())
    }

    async fn wait_until_drained(
        &self,
        client: &Client,
        written: &Written<'_>,
    ) -> Result<(), NotChanged> {
        let Written { key, table, revision, end } = written;
        loop {
            let gateways =
                insist(*end, async || registration::registered(client, key, *revision).await)
                    .await?;
            let has_drained = |one: &&Registered| {
                one.state.as_ref().is_some_and(|state| state.drained == table.epoch())
            };
            let missing = names(gateways.iter().filter(|one| !has_drained(one)));
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= *end {
                let seconds = self.wanted.hold_s;
                return Err(NotChanged::NotDrained { seconds, gateways: missing });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The ring as this change has written it last.
struct Written<'a> {
    key: &'a RingKey,
    table: RingTable,
    revision: u64,
    /// Until then it is to be complete. Gateways count from when they hear of it.
    end: Instant,
}

impl Written<'_> {
    /// Writes the next ring in its place.
    async fn replace(&mut self, next: RingTable) -> Result<(), NotChanged> {
        loop {
            let (last, revision) = insist(self.end, async || self.key.read_last().await)
                .await?
                .ok_or(NotChanged::NoRing)?;
            if last == next {
                // By an attempt that was not answered.
                (self.table, self.revision) = (next, revision);
                return Ok(());
            }
            if last != self.table {
                return Err(NotChanged::Overtaken);
            }
            match self.key.replace(&next, revision).await {
                Err(fault) if !fault.may_pass() || Instant::now() >= self.end => {
                    return Err(fault.into());
                }
                // What came of it is looked at.
                Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
                Ok(_) => {}
            }
        }
    }
}

/// Does something until it does not fail for a reason that may pass, as an election, or it is too late.
async fn insist<T>(
    end: Instant,
    mut work: impl AsyncFnMut() -> Result<T, ControlFault>,
) -> Result<T, ControlFault> {
    loop {
        match work().await {
            Err(fault) if fault.may_pass() && Instant::now() < end => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

fn name_of(table: &RingTable, partition: PartitionId) -> String {
    let member = table.members().iter().find(|member| member.partition == partition);
    member.map(|member| member.sub_cluster.clone()).unwrap_or_default()
}

/// Whether a stream, by what `STREAM.INFO` says, takes more than a little.
fn has_room(info: &Value) -> bool {
    let max = info.get("config").and_then(|config| config.get("max_bytes")?.as_u64());
    let bytes = info.get("state").and_then(|state| state.get("bytes")?.as_u64());
    // Without a limit it is -1.
    max.is_none_or(|max| bytes.unwrap_or_default() <= max - max / ROOM_PART_MIN)
}

fn names<'a>(gateways: impl Iterator<Item = &'a Registered>) -> String {
    let mut names: Vec<&str> = gateways.map(Registered::gateway).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Groups of shared subscriptions read at who takes over, too, from where what moves begins: also those
/// that no gateway reads for just now.
async fn copy_groups(
    plan: &Plan,
    giver: PartitionId,
    ends: &BTreeMap<PartitionId, Sequence>,
) -> Result<(), ControlFault> {
    let mut offset = 0;
    loop {
        let operation = format!("CONSUMER.LIST.{}", stream_name(giver));
        let page = api::request(plan.client(giver), &operation, Some(&json!({ "offset": offset })))
            .await?;
        let consumers = page.get("consumers").and_then(Value::as_array);
        let consumers = consumers.map(Vec::as_slice).unwrap_or_default();
        for config in consumers.iter().filter_map(|consumer| consumer.get("config")) {
            for taker in plan.ring.takers() {
                let from = ends.get(taker).copied().unwrap_or(Sequence(1));
                if let Some((name, config)) = moved_group(config, &plan.ring, *taker, from) {
                    make_group(plan.client(*taker), &stream_name(*taker), &name, &config).await?;
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

async fn make_group(
    client: &Client,
    stream: &str,
    name: &str,
    config: &Value,
) -> Result<(), ControlFault> {
    let operation = format!("CONSUMER.CREATE.{stream}.{name}");
    let wanted = json!({ "stream_name": stream, "action": "create", "config": config });
    match api::request(client, &operation, Some(&wanted)).await {
        Ok(_) => Ok(()),
        Err(fault) if THERE.iter().any(|code| api::is_error(&fault, *code)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// The consumer of a group that may have messages of what moves to `taker`, as it is to be there.
fn moved_group(
    config: &Value,
    ring: &Ring,
    taker: PartitionId,
    from: Sequence,
) -> Option<(String, Value)> {
    let name = config.get("durable_name")?.as_str().filter(|name| name.starts_with(GROUP))?;
    let subjects = config.get("filter_subjects").and_then(Value::as_array);
    let one = config.get("filter_subject");
    let subjects: Vec<&str> =
        subjects.into_iter().flatten().chain(one).filter_map(Value::as_str).collect();
    let prefix = TopicPrefix::new(STORED).expect("made of letters");
    let mut topic = Vec::new();
    let moves = |subject: &&str| match prefix.topic(subject.as_bytes(), &mut topic) {
        Ok(topic) => ring.coming_owner(topic) == Some(taker),
        // With wildcards: of any partition.
        Err(_) => true,
    };
    subjects.iter().any(moves).then(|| {
        let mut config = config.clone();
        if let Some(config) = config.as_object_mut() {
            config.insert("deliver_policy".to_owned(), json!("by_start_sequence"));
            config.insert("opt_start_seq".to_owned(), json!(from.0));
        }
        (name.to_owned(), config)
    })
}

/// What the consumers of groups are called, and under what messages are stored.
const GROUP: &str = "shared_";
const STORED: &str = "mqtt";
/// Errors of the API: a consumer of that name is there, with the same beginning or another one.
const THERE: [u64; 2] = [10_013, 10_148];
/// A stream of which less than this part of its bytes is free has no room for more topics.
const ROOM_PART_MIN: u64 = 50;
/// How often gateways are looked at while they drain.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

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
        let of = |name: &str, subject: &str| {
            moved_group(&config(name, subject), &ring, PartitionId(1), Sequence(5))
        };
        let (name, moved) = of("shared_1", &format!("mqtt.{}", moves[0])).unwrap();
        assert_eq!((name.as_str(), &moved["opt_start_seq"]), ("shared_1", &json!(5)));
        assert_eq!(of("shared_1", &format!("mqtt.{}", stays[0])), None);
        assert!(of("shared_1", "mqtt.a.>").is_some() && of("shared_1", "mqtt.*").is_some());
        assert_eq!(of("another", "mqtt.a.>"), None, "somebody else's");
        let several =
            json!({ "durable_name": "shared_2", "filter_subjects": ["mqtt.a.>", "mqtt.a"] });
        assert!(moved_group(&several, &ring, PartitionId(1), Sequence(5)).is_some());
        let elsewhere = moved_group(
            &config("shared_1", &format!("mqtt.{}", moves[0])),
            &ring,
            PartitionId(0),
            Sequence(5),
        );
        assert_eq!(elsewhere, None, "it goes to another one");
    }

    #[test]
    fn a_stream_with_less_than_a_fiftieth_free_has_no_room() {
        let info = |max: i64, bytes: u64| json!({ "config": { "max_bytes": max }, "state": { "bytes": bytes } });
        assert!(has_room(&info(-1, 1 << 40)) && has_room(&info(100, 98)));
        assert!(!has_room(&info(100, 99)));
    }
}
