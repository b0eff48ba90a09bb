//! The partitions of a shard: one for each member of the ring, from its start or when a member comes.
//!
//! ```text
//! configured at start, or by a reload ─▶ links ──┐
//!                                                ├─ same name ─▶ a Partition with a link
//! ring ──────────────────────────────▶ members ──┤
//!                                                └─ no such link ─▶ a Partition that nobody looks for
//! ```
//! A member comes with weight 0, so nothing is published to it before every shard of every gateway has
//! said that it has a link to it ([`ShardReport::links`](super::moving::ShardReport::links)).

use super::link::{Link, LinkSettings};
use super::partition::Partition;
use super::sessions::wire::HomeSubjects;
use super::shard::JetStream;
use crate::proto::bridge::ring_table::{Member, RingTable};
use std::net::SocketAddr;
use std::sync::Arc;

/// How links to the servers of a sub-cluster behave, with the servers that were configured.
pub type LinkTo = (Arc<LinkSettings>, Vec<SocketAddr>);

/// What partitions are made of.
#[derive(Debug)]
pub(super) struct Members {
    /// The ring that was heard of last.
    pub(super) table: Arc<RingTable>,
    /// Of each sub-cluster that is configured; the place is its number at whoever makes connections.
    links: Vec<LinkTo>,
    inbox_prefix: String,
    seed: u64,
}

impl Members {
    pub(super) fn new(
        table: Arc<RingTable>,
        links: Vec<LinkTo>,
        inbox_prefix: String,
        seed: u64,
    ) -> Self {
        Self { table, links, inbox_prefix, seed }
    }

    /// How many sub-clusters are configured.
    pub(super) fn link_count(&self) -> u64 {
        self.links.len() as u64
    }

    fn link(&self, name: &str) -> Option<(u16, &LinkTo)> {
        let place = self.links.iter().position(|(link, _)| link.name == name)?;
        Some((u16::try_from(place).expect("at most SUB_CLUSTERS_MAX"), self.links.get(place)?))
    }

    fn seed_of(&self, member: &Member) -> u64 {
        self.seed ^ u64::from(member.partition.0)
    }
}

impl JetStream {
    /// A partition for each member of the ring that has none yet.
    pub(super) fn add_members(&mut self) {
        let table = Arc::clone(&self.members.table);
        let (before, count) = (self.partitions.len(), table.members().len());
        for member in table.members().iter().skip(before) {
            self.add_member(member);
        }
        if before > 0 && count > before {
            // What waited with fewer is asked anew with all.
            self.note_takeovers();
            tracing::info!(members = count, "members of the ring have come");
        }
    }

    fn add_member(&mut self, member: &Member) {
        let Self { members, limits, .. } = self;
        let own = members.link(&member.sub_cluster);
        // One that is not configured has no topics: nobody says where it is, and nobody goes there, nor
        // waits for what it may have.
        let (number, (settings, servers)) = own
            .or_else(|| Some((0, members.links.first()?)))
            .expect("a gateway with a ring has a sub-cluster");
        let prefix = format!("{}.{}", members.inbox_prefix, member.partition.0);
        let (settings, seed) = (Arc::clone(settings), members.seed_of(member));
        let mut partition =
            Partition::new(member.partition, settings, servers, prefix, limits, seed);
        partition.sub_cluster.clone_from(&member.sub_cluster);
        (partition.tls_number, partition.is_configured) = (number, own.is_some());
        self.partitions.push(partition);
        self.session_homes.push(HomeSubjects::new(member.partition));
        if let Some(sessions) = &mut self.sessions {
            sessions.add_home();
        }
    }

    /// A sub-cluster is configured now. If it is a member of the ring already, its partition gets a link.
    pub fn add_sub_cluster(&mut self, link: LinkTo) {
        if self.members.link(&link.0.name).is_some() {
            return;
        }
        self.members.links.push(link);
        let table = Arc::clone(&self.members.table);
        for member in table.members() {
            let Self { members, partitions, .. } = self;
            let partition = partitions.iter_mut().find(|one| one.id == member.partition);
            if let Some(partition) = partition.filter(|one| !one.is_configured)
                && let Some((number, (settings, servers))) = members.link(&member.sub_cluster)
            {
                let seed = members.seed_of(member);
                partition.link = Some(Link::new(Arc::clone(settings), servers, seed));
                (partition.tls_number, partition.is_configured) = (number, true);
            }
        }
        self.note_takeovers();
        self.report.note_links(self.members.link_count());
    }
}
