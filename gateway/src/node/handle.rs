//! How threads beside the shards look at a running node.

use crate::proto::output::ShardIndex;
use crate::proto::time::Timestamp;
use crate::shard::MeshSender;
use crate::shard::clock::Clock;
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::embedded::quota::{Quota, Usage};
use crate::upstream::embedded::store::thread::StoreRequest;
use crate::upstream::inquiry::{Inquiry, ShardReport};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a shard may take to answer: far more than a sweep takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A running node, for who asks. Nothing a caller does can hold a shard up.
#[derive(Clone)]
pub struct NodeHandle {
    pub(super) senders: Vec<MeshSender<NodeMessage>>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) quota: Arc<Quota>,
    pub(super) storage: flume::Sender<StoreRequest>,
    pub(super) clock: Clock,
}

/// What the whole node has, beside its shards.
#[derive(Clone, Copy, Debug)]
pub struct NodeReport {
    /// Sessions, connected and stored.
    pub sessions: u64,
    /// Retained messages.
    pub retained: Usage,
    /// Requests that wait for the storage thread.
    pub storage_queue: u64,
}

impl NodeHandle {
    /// Shards of the node.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.senders.len()).expect("shards are counted by a u16")
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The time, as shards see it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is counted over all shards.
    #[must_use]
    pub fn node_report(&self) -> NodeReport {
        NodeReport {
            sessions: self.quota.sessions(),
            retained: self.quota.retained(),
            storage_queue: self.storage.len() as u64,
        }
    }

    /// What each shard counts, in order; `None` for one that does not answer in time.
    pub async fn reports(&self) -> Vec<Option<Box<ShardReport>>> {
        let asked: Vec<_> =
            (0..self.shards()).map(|shard| self.ask(ShardIndex(shard), Inquiry::Report)).collect();
        let mut reports = Vec::with_capacity(asked.len());
        for answer in asked {
            reports.push(answered(answer).await);
        }
        reports
    }

    /// Asks one shard. `None` when its queue is full, or it has ended.
    fn ask<T>(
        &self,
        shard: ShardIndex,
        inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry,
    ) -> Option<oneshot::Receiver<T>> {
        let (sender, answer) = oneshot::channel();
        let to = self.senders.get(usize::from(shard.0))?;
        to.try_send(NodeMessage::Inquire(inquiry(sender))).ok()?;
        Some(answer)
    }
}

async fn answered<T>(answer: Option<oneshot::Receiver<T>>) -> Option<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer?).await.ok()?.ok()
}
