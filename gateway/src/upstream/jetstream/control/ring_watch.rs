//! Which ring is in force: reads the key about once a second, and starts what its members need.
//!
//! Says in the same bucket what the gateway knows of it ([`super::registration`]), and calls off a change of
//! which nothing has come in time.

use super::ControlNews;
use super::Extras;
use super::SubClusterSettings;
use super::fault::{ControlFault, Sampled};
use super::member::Member;
use super::permissions::Needs;
use super::registration::{GatewayState, Registration};
use super::requirement;
use super::ring_key::RingKey;
use super::sub_cluster::{self, SubCluster};
use super::thread::Tell;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_table::RingTable;
use crate::proto::nats::Info;
use crate::proto::partition::PartitionId;
use crate::upstream::jetstream::ShardReport;
use async_nats::Client;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// See the module.
pub(super) struct RingWatch {
    /// By name; at least one.
    sub_clusters: BTreeMap<String, Rc<SubCluster>>,
    /// Those that were added since the start, in that order: shards have links to the first of them.
    added: Vec<String>,
    extras: Extras,
    gateway_id: String,
    boot: u64,
    tell: Tell,
    in_force: Option<Arc<RingTable>>,
    /// Since when.
    changed_at: Instant,
    /// What has a task. A member that a ring leaves out keeps it: sessions may still read there.
    started: BTreeMap<PartitionId, String>,
    /// Those to which all shards have links.
    partitions: Vec<PartitionId>,
    reports: Arc<[Arc<ShardReport>]>,
    registered: Rc<RefCell<Farewell>>,
    /// Former processes of this gateway are struck off.
    has_replaced: bool,
}

/// What the gateway has said of the ring, to be taken back when it ends.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    said: Option<(Client, RingKey, Registration)>,
}

impl Farewell {
    /// The gateway ends: nobody has to wait for it.
    pub(super) async fn say(registered: Rc<RefCell<Self>>) {
        let said = registered.borrow_mut().said.take();
        if let Some((client, key, registration)) = said
            && let Err(fault) = registration.end(&client, &key).await
        {
            tracing::warn!(%fault, "the ring still has this gateway");
        }
    }
}

/// What a [`RingWatch`] is made of.
pub(super) struct RingWatchSettings {
    /// By name; at least one.
    pub(super) sub_clusters: BTreeMap<String, Rc<SubCluster>>,
    pub(super) extras: Extras,
    pub(super) gateway_id: String,
    /// Of each shard.
    pub(super) reports: Arc<[Arc<ShardReport>]>,
    /// See [`super::ControlSettings`].
    pub(super) is_successor: bool,
    pub(super) registered: Rc<RefCell<Farewell>>,
    pub(super) tell: Tell,
}

impl RingWatch {
    pub(super) fn new(settings: RingWatchSettings) -> Self {
        let RingWatchSettings { sub_clusters, extras, gateway_id, .. } = settings;
        let RingWatchSettings { reports, is_successor, registered, tell, .. } = settings;
        Self {
            sub_clusters,
            added: Vec::new(),
            extras,
            boot: ahash::RandomState::new().hash_one(&gateway_id),
            gateway_id,
            tell,
            in_force: None,
            changed_at: Instant::now(),
            started: BTreeMap::new(),
            partitions: Vec::new(),
            reports,
            registered,
            // Who gave this process its clients strikes itself off.
            has_replaced: is_successor,
        }
    }

    /// Watches for as long as the thread runs. Of what is `added`, [`super::ControlThread::add`] tells.
    pub(super) async fn run(mut self, mut added: mpsc::UnboundedReceiver<SubClusterSettings>) {
        let Some(first) = self.sub_clusters.values().next().cloned() else { return };
        let client = first.client().await;
        let (mut key, mut faults) = (None, Sampled::default());
        Needs::of_ring().check(client, first.name(), &Rc::default());
        loop {
            let looked = async {
                let key = match &mut key {
                    Some(key) => key,
                    none => {
                        self.check_home().await?;
                        none.insert(RingKey::open(client, &first.settings).await?)
                    }
                };
                self.look(client, key).await?;
                self.register(client, key).await
            };
            match looked.await {
                Ok(()) if faults.end() => tracing::info!("the ring can be read again"),
                Ok(()) => {}
                Err(fault) => sub_cluster::log(&mut faults, first.name(), &fault),
            }
            let is_changing = self.in_force.as_ref().is_some_and(|one| one.change().is_some());
            let interval = if is_changing { CHANGE_INTERVAL } else { LOOK_INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                Some(settings) = added.recv() => self.add(settings),
            }
        }
    }

    /// A sub-cluster has come: it is looked after from now on, if it is a member already.
    fn add(&mut self, settings: SubClusterSettings) {
        let name = settings.name.clone();
        tracing::info!(sub_cluster = name, "sub-cluster added");
        let sub_cluster = Rc::new(SubCluster::new(&self.gateway_id, settings));
        self.sub_clusters.insert(name.clone(), sub_cluster);
        self.added.push(name);
        if let Some(table) = self.in_force.clone() {
            self.start_members(&table);
        }
    }

    /// Nobody has a ring at a sub-cluster where this gateway would not look for it.
    async fn check_home(&self) -> Result<(), ControlFault> {
        let mut all = self.sub_clusters.values();
        let Some(first) = all.next() else { return Ok(()) };
        if RingKey::find(first.client().await).await?.is_some() {
            return Ok(());
        }
        for other in all {
            // One that is away, or too old to have a ring, is not waited for.
            let Ok(client) = other.connect_once().await else { continue };
            let info = client.server_info();
            let info = Info { version: info.version, headers: info.headers, ..Info::default() };
            if requirement::check([&info].into_iter()).is_err() {
                continue;
            }
            if let Ok(Some(_)) = RingKey::find(&client).await {
                let (at, first) = (other.name().to_owned(), first.name().to_owned());
                return Err(ControlFault::RingElsewhere { at, first });
            }
        }
        Ok(())
    }

    async fn look(&mut self, client: &Client, key: &RingKey) -> Result<(), ControlFault> {
        let table = match (&self.in_force, key.read().await?) {
            (None, _) => match self.first_look(client, key).await? {
                Some(table) => table,
                None => return Ok(()),
            },
            (Some(_), Some(table)) => table,
            (Some(table), None) => return Err(ControlFault::RingGone { epoch: table.epoch() }),
        };
        if self.in_force.as_deref() == Some(&table) {
            self.call_off(key, &table).await?;
            return self.join(key).await;
        }
        self.check(&table)?;
        self.put_in_force(table);
        Ok(())
    }

    /// The ring that this gateway begins with, as the leader has it once it knows of the gateway; with the
    /// sub-clusters that are configured here as members, if only with nothing.
    async fn first_look(
        &self,
        client: &Client,
        key: &RingKey,
    ) -> Result<Option<RingTable>, ControlFault> {
        if self.registered.borrow().said.is_none() {
            let registration = Registration::begin(key, &self.gateway_id, self.boot).await?;
            let said = Some((client.clone(), key.clone(), registration));
            self.registered.borrow_mut().said = said;
        }
        let names = || self.sub_clusters.keys().map(String::as_str);
        let Some((table, revision)) = key.read_last().await? else {
            key.create(names()).await?;
            // Whoever wrote it: what is stored counts.
            return Ok(key.read_last().await?.map(|(table, _)| table));
        };
        let Some(joined) = table.joined(names())? else {
            return Ok(Some(table));
        };
        // Written by somebody else meanwhile, it is looked at again.
        let is_written = key.replace(&joined, revision).await?;
        Ok(is_written.map(|_| joined))
    }

    /// Sub-clusters that were added become members, if only with nothing; who finds them in the ring puts
    /// that in force.
    async fn join(&self, key: &RingKey) -> Result<(), ControlFault> {
        let is_member = |name: &String| {
            let in_force = self.in_force.iter();
            in_force.flat_map(|table| table.members()).any(|one| one.sub_cluster == *name)
        };
        if self.added.iter().all(is_member) {
            return Ok(());
        }
        let Some((table, revision)) = key.read_last().await? else { return Ok(()) };
        if let Some(joined) = table.joined(self.added.iter().map(String::as_str))? {
            // Written by somebody else meanwhile, it is looked at again.
            key.replace(&joined, revision).await?;
        }
        Ok(())
    }

    /// Ends a change of which nothing has come in time: what is held goes where it would have gone.
    async fn call_off(&self, key: &RingKey, table: &RingTable) -> Result<(), ControlFault> {
        let Some(change) = table.change() else { return Ok(()) };
        if self.changed_at.elapsed() < Duration::from_secs(change.hold_s.into()) {
            return Ok(());
        }
        if let Some((last, revision)) = key.read_last().await?
            && last == *table
            && key.replace(&table.called_off(), revision).await?.is_some()
        {
            tracing::warn!(
                partition = change.partition.0,
                hold_s = change.hold_s,
                "ring: nobody has completed the change, it is called off"
            );
        }
        Ok(())
    }

    /// Says what the shards know.
    async fn register(&mut self, client: &Client, key: &RingKey) -> Result<(), ControlFault> {
        let all = |of: fn(&ShardReport) -> u64| {
            self.reports.iter().map(|report| of(report)).min().unwrap_or_default()
        };
        let (seen, links) = (all(ShardReport::seen), all(ShardReport::links));
        if self.in_force.as_ref().is_some_and(|table| table.epoch() <= seen) {
            self.partitions = self.partitions_with(links);
        }
        let partitions = self.partitions.clone();
        let state = GatewayState { seen, drained: all(ShardReport::drained), partitions };
        let Some((.., mut registration)) = self.registered.borrow_mut().said.take() else {
            return Ok(());
        };
        let said = registration.say(key, &state).await;
        let replaced = match !self.has_replaced && state.seen > 0 {
            true => registration.replace_former(client, key).await,
            false => Ok(()),
        };
        self.has_replaced |= replaced.is_ok() && state.seen > 0;
        self.registered.borrow_mut().said = Some((client.clone(), key.clone(), registration));
        if !said? {
            tracing::error!(
                gateway = self.gateway_id,
                "somebody has struck this gateway off the ring as one that is dead: it has to be \
                 restarted, or the next change of the ring may lose messages"
            );
        }
        replaced
    }

    /// The members of the ring in force that can be used by shards with so many links: those that were
    /// configured at start came first.
    fn partitions_with(&self, links: u64) -> Vec<PartitionId> {
        let at_start = self.sub_clusters.len() - self.added.len();
        let has_link = |name: &String| match self.added.iter().position(|added| added == name) {
            Some(place) => ((at_start + place) as u64) < links,
            None => self.sub_clusters.contains_key(name),
        };
        let members = self.in_force.iter().flat_map(|table| table.members());
        members.filter(|one| has_link(&one.sub_cluster)).map(|one| one.partition).collect()
    }

    fn check(&self, table: &RingTable) -> Result<(), ControlFault> {
        let epoch = table.epoch();
        if let Some(in_force) = &self.in_force
            && epoch <= in_force.epoch()
        {
            return Err(ControlFault::RingOld { got_epoch: epoch, epoch: in_force.epoch() });
        }
        for member in table.members() {
            let partition = member.partition;
            if self.started.get(&partition).is_some_and(|place| *place != member.sub_cluster) {
                return Err(ControlFault::RingMoved { epoch, partition });
            }
        }
        // Those without weight have no topics yet.
        let needed = table.change().map(|change| change.partition);
        let members = table.members().iter();
        let members = members.filter(|one| one.weight > 0 || Some(one.partition) == needed);
        let names = members.map(|member| member.sub_cluster.as_str());
        let mut missing: Vec<_> =
            names.filter(|name| !self.sub_clusters.contains_key(*name)).collect();
        missing.dedup();
        if !missing.is_empty() {
            return Err(ControlFault::NotConfigured { epoch, missing: missing.join(", ") });
        }
        Ok(())
    }

    fn put_in_force(&mut self, table: RingTable) {
        tracing::info!(epoch = table.epoch(), members = table.members().len(), "ring in force");
        for member in table.members().iter().filter(|member| member.weight == 0) {
            let (name, partition) = (&member.sub_cluster, member.partition.0);
            tracing::info!(name, partition, "has no topics until it is added to the ring");
        }
        let table = Arc::new(table);
        (self.tell)(ControlNews::Ring(table.clone(), Ring::new(&table)));
        self.start_members(&table);
        // Its time does not begin anew when its ends are known.
        let goes_on = self.in_force.as_ref().is_some_and(|before| {
            table.coming().is_some()
                && (before.epoch() + 1, before.change()) == (table.epoch(), table.change())
        });
        if !goes_on {
            self.changed_at = Instant::now();
        }
        let is_first = self.in_force.replace(table).is_none();
        if is_first {
            // Shards are made with it.
            self.partitions = self.partitions_with(self.sub_clusters.len() as u64);
        }
    }

    /// Looks after each member that is configured and was not looked after before.
    fn start_members(&mut self, table: &RingTable) {
        for member in table.members() {
            let name = &member.sub_cluster;
            let Some(sub_cluster) = self.sub_clusters.get(name) else { continue };
            if self.started.insert(member.partition, name.clone()).is_none() {
                let (sub_cluster, tell) = (sub_cluster.clone(), self.tell.clone());
                let member = Member::new(member.partition, sub_cluster, self.extras, tell);
                tokio::task::spawn_local(member.run());
            }
        }
    }
}

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a part of the topics is held.
const CHANGE_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::super::settings::SubClusterSettings;
    use super::*;
    use crate::config::NatsIdentity;
    use crate::proto::bridge::ring_table::Member;
    use std::cell::RefCell;

    fn sub_cluster(name: &str) -> (String, Rc<SubCluster>) {
        let settings = SubClusterSettings {
            name: name.to_owned(),
            servers: Vec::new(),
            identity: NatsIdentity::None,
            tls: None,
            replicas: 1,
            max_bytes: None,
            max_age: Duration::from_secs(60),
            duplicate_window: Duration::from_secs(60),
        };
        (name.to_owned(), Rc::new(SubCluster::new("test", settings)))
    }

    fn table(epoch: u64, members: &[(u16, &str)]) -> RingTable {
        let member = |(partition, name): &(u16, &str)| Member {
            partition: PartitionId(*partition),
            weight: 1,
            sub_cluster: (*name).to_owned(),
        };
        RingTable::new(epoch, members.iter().map(member).collect()).unwrap()
    }

    #[test]
    fn only_a_newer_ring_that_can_be_served_whole_is_taken() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let tell: Tell = {
            let told = told.clone();
            Rc::new(move |news| {
                let ControlNews::Ring(ring, _) = news else { panic!("no partition is ready") };
                told.borrow_mut().push(ring.epoch());
            })
        };
        let sub_clusters = [sub_cluster("a"), sub_cluster("b")].into_iter().collect();
        let mut watch = RingWatch::new(RingWatchSettings {
            sub_clusters,
            extras: Extras::default(),
            gateway_id: "test".to_owned(),
            reports: Arc::new([]),
            is_successor: false,
            registered: Rc::default(),
            tell,
        });
        let refusal = |watch: &RingWatch, epoch, members: &[_]| {
            watch.check(&table(epoch, members)).map_err(|fault| fault.to_string())
        };
        let refused = refusal(&watch, 1, &[(0, "a"), (1, "x"), (2, "x"), (3, "y")]).unwrap_err();
        assert!(refused.ends_with("not configured here: x, y"), "{refused}");
        assert_eq!(refusal(&watch, 1, &[(0, "a")]), Ok(()));

        let tasks = tokio::task::LocalSet::new();
        let _guard = tasks.enter();
        watch.put_in_force(table(3, &[(0, "a"), (1, "b")]));
        for (epoch, members, expected) in [
            (2, [(0, "a"), (1, "b")], "ring of epoch 2, but one of epoch 3 is in force"),
            (3, [(0, "a"), (2, "b")], "ring of epoch 3, but one of epoch 3 is in force"),
            (4, [(0, "b"), (1, "b")], "partition 0 moved"),
        ] {
            let refused = refusal(&watch, epoch, &members).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
        // One that was left out keeps its place for good.
        watch.put_in_force(table(5, &[(0, "a")]));
        assert!(refusal(&watch, 6, &[(0, "a"), (1, "a")]).is_err());
        assert_eq!(refusal(&watch, 6, &[(0, "a"), (1, "b")]), Ok(()));
        assert_eq!(*told.borrow(), [3, 5]);
    }
}
