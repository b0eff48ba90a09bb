//! What can go wrong between the control thread and a sub-cluster, and how often it is said.

use crate::proto::bridge::ring_table::InvalidRing;
use crate::proto::partition::PartitionId;
use async_nats::ConnectErrorKind;
use async_nats::jetstream::{context, kv, stream};
use std::time::Duration;
use tokio::time::Instant;

/// Why something could not be done now. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlFault {
    /// No server of the sub-cluster takes the connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] async_nats::ConnectError),
    /// No answer.
    #[error("{subject}: {error}")]
    Request { subject: String, error: async_nats::RequestError },
    /// An answer that is not what it should be.
    #[error("{subject}: an answer that is not understood")]
    Answer { subject: String },
    /// An answer of a server that has taken the lead and has not got everything yet, or that has lost it.
    #[error("{subject}: a server that does not know of the last write")]
    Behind { subject: String },
    /// The server refused.
    #[error("{subject}: {description} (error {code})")]
    Refused { subject: String, code: u64, description: String },
    /// The subscription to advisories.
    #[error("cannot subscribe: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// A server that is too old.
    #[error(
        "server {server} is nats-server {version}: 2.12.2 or later is needed (atomic batches came \
         with 2.12; with 2.12.0 and 2.12.1 tests fail)"
    )]
    OldServer { server: String, version: String },
    /// A server with headers turned off.
    #[error("server {server}: headers are turned off (no_header_support)")]
    NoHeaders { server: String },
    /// JetStream is off, or not for this account.
    #[error("JetStream is not enabled, or not for the account of the gateway's user")]
    NoJetStream,
    /// A stream that is there and cannot be made what it should be.
    #[error(
        "stream {stream} has {differences}, which cannot be changed: if nothing else uses it, \
         delete it, and it is made anew without its messages"
    )]
    Unchangeable { stream: String, differences: String },
    /// The bucket of the ring.
    #[error("bucket of the ring: {0}")]
    Bucket(#[from] context::KeyValueError),
    /// The same, when it was to be made.
    #[error("bucket of the ring: {0}")]
    BucketCreate(#[from] context::CreateKeyValueError),
    /// Reading the ring.
    #[error("key of the ring: {0}")]
    Entry(#[from] kv::EntryError),
    /// Asking the leader for a value.
    #[error("key of the ring: {0}")]
    Leader(#[from] stream::LastRawMessageError),
    /// Writing a value that is to replace another one.
    #[error("key of the ring: {0}")]
    Update(#[from] kv::UpdateError),
    /// Writing a value.
    #[error("what gateways say of the ring: {0}")]
    Put(#[from] kv::PutError),
    /// A ring elsewhere than where it would be made.
    #[error(
        "the ring is at sub-cluster {at}, and would be looked for at {first}, whose name sorts first: \
         give that another name"
    )]
    RingElsewhere { at: String, first: String },
    /// Writing the first ring.
    #[error("first ring: {0}")]
    Create(#[from] kv::CreateError),
    /// The value is no ring, or the sub-clusters make none.
    #[error("ring: {0}")]
    Ring(#[from] InvalidRing),
    /// More than a ring can be, or not text.
    #[error("ring: {bytes} bytes that are no table")]
    NotText { bytes: usize },
    /// It was there.
    #[error("the key of the ring is gone; the ring in force, of epoch {epoch}, stays")]
    RingGone { epoch: u64 },
    /// Older than what is in force, or another one of the same epoch.
    #[error("ring of epoch {got_epoch}, but one of epoch {epoch} is in force and stays")]
    RingOld { got_epoch: u64, epoch: u64 },
    /// A partition's number is permanent, and so is its place.
    #[error("ring of epoch {epoch}: partition {} moved to another sub-cluster", partition.0)]
    RingMoved { epoch: u64, partition: PartitionId },
    /// Members that this gateway cannot reach: it would lose their part of the topics.
    #[error("ring of epoch {epoch}: sub-clusters that are not configured here: {missing}")]
    NotConfigured { epoch: u64, missing: String },
}

impl ControlFault {
    /// Whether it is likely to end without anybody's doing: a server or a leader is away.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => matches!(
                error.kind(),
                ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io
            ),
            Self::Request { .. }
            | Self::Behind { .. }
            | Self::Subscribe(_)
            | Self::Bucket(_)
            | Self::BucketCreate(_)
            | Self::Entry(_)
            | Self::Leader(_)
            | Self::Update(_)
            | Self::Put(_)
            | Self::Create(_) => true,
            Self::Refused { code, .. } => *code == UNAVAILABLE,
            Self::Answer { .. }
            | Self::OldServer { .. }
            | Self::NoHeaders { .. }
            | Self::NoJetStream
            | Self::Unchangeable { .. }
            | Self::Ring(_)
            | Self::NotText { .. }
            | Self::RingGone { .. }
            | Self::RingOld { .. }
            | Self::RingElsewhere { .. }
            | Self::RingMoved { .. }
            | Self::NotConfigured { .. } => false,
        }
    }
}

/// "JetStream system temporarily unavailable": no leader. Source: nats-server, server/errors.json.
const UNAVAILABLE: u64 = 10_008;

/// Says a fault when it begins, and while it lasts at most once in [`SAMPLE_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct Sampled {
    last: Option<(String, Instant)>,
    unsaid_count: u64,
}

impl Sampled {
    /// Whether to say `text` now, and how often it was not said since.
    pub(super) fn take(&mut self, text: &str) -> Option<u64> {
        let is_due = self
            .last
            .as_ref()
            .is_none_or(|(said, at)| said != text || at.elapsed() >= SAMPLE_INTERVAL);
        if !is_due {
            self.unsaid_count += 1;
            return None;
        }
        self.last = Some((text.to_owned(), Instant::now()));
        Some(std::mem::take(&mut self.unsaid_count))
    }

    /// It is over. Whether something had been said.
    pub(super) fn end(&mut self) -> bool {
        self.unsaid_count = 0;
        self.last.take().is_some()
    }
}

const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_once_a_minute() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            tokio::time::pause();
            let mut sampled = Sampled::default();
            assert_eq!(sampled.take("a"), Some(0));
            assert_eq!((sampled.take("a"), sampled.take("a")), (None, None));
            assert_eq!(sampled.take("b"), Some(2), "another one is news");
            tokio::time::advance(SAMPLE_INTERVAL).await;
            assert_eq!(sampled.take("b"), Some(0));
            assert!(sampled.end() && !sampled.end());
            assert_eq!(sampled.take("b"), Some(0));
        });
    }
}
