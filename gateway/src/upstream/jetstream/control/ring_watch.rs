//! Which ring is in force: reads the key about once a second, and starts what its members need.

use super::ControlNews;
use super::fault::{ControlFault, Sampled};
use super::member::Member;
use super::ring_key::RingKey;
use super::sub_cluster::{self, SubCluster};
use super::thread::Tell;
use crate::proto::bridge::ring_table::RingTable;
use crate::proto::partition::PartitionId;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub(super) struct RingWatch {
    /// By name; at least one.
    sub_clusters: BTreeMap<String, Rc<SubCluster>>,
    /// Each member keeps sessions, too.
    has_sessions: bool,
    tell: Tell,
    in_force: Option<Arc<RingTable>>,
    /// What has a task. A member that a ring leaves out keeps it: sessions may still read there.
    started: BTreeMap<PartitionId, String>,
}

impl RingWatch {
    pub(super) fn new(
        sub_clusters: BTreeMap<String, Rc<SubCluster>>,
        has_sessions: bool,
        tell: Tell,
    ) -> Self {
        Self { sub_clusters, has_sessions, tell, in_force: None, started: BTreeMap::new() }
    }

    /// Watches for as long as the thread runs.
    pub(super) async fn run(mut self) {
        let Some(first) = self.sub_clusters.values().next().cloned() else { return };
        let client = first.client().await;
        let (mut key, mut faults) = (None, Sampled::default());
        loop {
            let looked = async {
                let key = match &mut key {
                    Some(key) => key,
                    none => none.insert(RingKey::open(client, &first.settings).await?),
                };
                self.look(key).await
            };
            match looked.await {
                Ok(()) if faults.end() => tracing::info!("the ring can be read again"),
                Ok(()) => {}
                Err(fault) => sub_cluster::log(&mut faults, first.name(), &fault),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look(&mut self, key: &RingKey) -> Result<(), ControlFault> {
        let table = match (key.read().await?, &self.in_force) {
            (Some(table), _) => table,
            (None, Some(table)) => return Err(ControlFault::RingGone { epoch: table.epoch() }),
            (None, None) => {
                key.create(self.sub_clusters.keys().map(String::as_str)).await?;
                // Whoever wrote it: what is stored counts.
                match key.read().await? {
                    Some(table) => table,
                    None => return Ok(()),
                }
            }
        };
        if self.in_force.as_deref() == Some(&table) {
            return Ok(());
        }
        self.check(&table)?;
        self.put_in_force(table);
        Ok(())
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
        let names = table.members().iter().map(|member| member.sub_cluster.as_str());
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
        for name in self.sub_clusters.keys() {
            if !table.members().iter().any(|member| member.sub_cluster == *name) {
                tracing::warn!(
                    sub_cluster = name,
                    epoch = table.epoch(),
                    "configured, but not in the ring: it carries nothing until it is added"
                );
            }
        }
        let table = Arc::new(table);
        (self.tell)(ControlNews::Ring(table.clone()));
        for member in table.members() {
            let name = &member.sub_cluster;
            let Some(sub_cluster) = self.sub_clusters.get(name) else { continue };
            if self.started.insert(member.partition, name.clone()).is_none() {
                let (sub_cluster, tell) = (sub_cluster.clone(), self.tell.clone());
                let member = Member::new(member.partition, sub_cluster, self.has_sessions, tell);
                tokio::task::spawn_local(member.run());
            }
        }
        self.in_force = Some(table);
    }
}

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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
                let ControlNews::Ring(ring) = news else { panic!("no partition is ready") };
                told.borrow_mut().push(ring.epoch());
            })
        };
        let sub_clusters = [sub_cluster("a"), sub_cluster("b")].into_iter().collect();
        let mut watch = RingWatch::new(sub_clusters, false, tell);
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
