//! How threads beside the shards look at a running node.

use crate::proto::bridge::ring_table::RingTable;
use crate::proto::mqtt::QoS;
use crate::proto::output::ShardIndex;
use crate::proto::record::Message;
use crate::proto::shard_state::home_shard;
use crate::proto::time::Timestamp;
use crate::shard::MeshSender;
use crate::shard::clock::Clock;
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::embedded::quota::{Quota, Usage};
use crate::upstream::embedded::store::state::KeyedState;
use crate::upstream::embedded::store::thread::Look;
use crate::upstream::embedded::store::thread::StoreRequest;
use crate::upstream::inquiry::{Inquiry, ShardReport};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// How long a shard may take to answer: far more than a sweep takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A running node, for who asks. Nothing a caller does can hold a shard up.
#[derive(Clone)]
pub struct NodeHandle {
    pub(super) senders: Vec<MeshSender<NodeMessage>>,
    pub(super) quota: Arc<Quota>,
    pub(super) storage: flume::Sender<StoreRequest>,
    pub(super) clock: Clock,
    /// Taken while a question is under way that makes a shard or the storage thread look at many
    /// things: one at a time.
    pub(super) walk: Arc<Semaphore>,
    pub(super) ring: Option<Arc<ArcSwapOption<RingTable>>>,
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

    /// The shard of a client id.
    #[must_use]
    pub fn home(&self, client_id: &str) -> ShardIndex {
        home_shard(client_id, self.shards())
    }

    /// The ring in force, if messages are in JetStream.
    #[must_use]
    pub fn ring(&self) -> Option<Arc<RingTable>> {
        self.ring.as_ref()?.load_full()
    }

    /// Asks one shard and waits for its answer; `None` when that does not come in time. One such
    /// question at a time is under way, whoever asks.
    pub async fn inquire<T>(
        &self,
        shard: ShardIndex,
        inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry,
    ) -> Option<T> {
        let _turn = self.walk.acquire().await.ok()?;
        answered(self.ask(shard, inquiry)).await
    }

    /// Tells one shard something that it answers in its own way. False when its queue is full.
    #[must_use]
    pub fn tell(&self, shard: ShardIndex, inquiry: Inquiry) -> bool {
        let to = self.senders.get(usize::from(shard.0));
        to.is_some_and(|to| to.try_send(NodeMessage::Inquire(Box::new(inquiry))).is_ok())
    }

    /// Lets the storage thread look at the keyed state; `None` when it does not come to it in time.
    /// `look` must not take long: nobody's CONNECT is answered meanwhile.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&KeyedState) -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.walk.acquire().await.ok()?;
        let (sender, answer) = oneshot::channel();
        let look = Look(Box::new(move |state| {
            // Who asked may have given up.
            let _ = sender.send(look(state));
        }));
        self.storage.try_send(StoreRequest::Look(look)).ok()?;
        answered(Some(answer)).await
    }

    /// Gives QoS 0 messages of the node itself to the subscribers of its shards, and to those that
    /// subscribe until the next call, as retained ones. What a shard has no room for is left out.
    pub fn publish_status(&self, messages: &[(String, String)]) {
        let (mut bytes, mut offsets, mut body) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, payload) in messages {
            let message = Message {
                publisher: "",
                qos: QoS::AtMostOnce,
                retain: false,
                ledger: false,
                received_at: self.now(),
                expiry_interval_s: None,
                packet_id: None,
                topic,
                properties: &[],
                payload: payload.as_bytes(),
            };
            body.clear();
            message.encode(&mut body);
            offsets.push(u32::try_from(bytes.len()).expect("a few kilobytes"));
            bytes.extend_from_slice(&u32::try_from(body.len()).expect("few").to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        let bytes = bytes::Bytes::from(bytes);
        for shard in &self.senders {
            let (bytes, offsets) = (bytes.clone(), offsets.clone());
            // A shard whose queue is full has more important things to do.
            let _ = shard.try_send(NodeMessage::Status { bytes, offsets });
        }
    }

    /// Asks one shard. `None` when its queue is full, or it has ended.
    fn ask<T>(
        &self,
        shard: ShardIndex,
        inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry,
    ) -> Option<oneshot::Receiver<T>> {
        let (sender, answer) = oneshot::channel();
        let to = self.senders.get(usize::from(shard.0))?;
        to.try_send(NodeMessage::Inquire(Box::new(inquiry(sender)))).ok()?;
        Some(answer)
    }
}

async fn answered<T>(answer: Option<oneshot::Receiver<T>>) -> Option<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer?).await.ok()?.ok()
}
