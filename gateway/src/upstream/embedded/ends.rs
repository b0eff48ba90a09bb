//! How far a partition is, where every shard of the node sees it.

use crate::proto::partition::Sequence;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The ends of one partition; written by its shard only.
///
/// A shard that subscribes adds its interest and reads an end; the partition's shard writes the
/// end and looks at interest. The fences see to it that one of them sees the other: either the
/// subscription learns of a message here, or the message finds the subscription.
#[derive(Debug, Default)]
pub struct PartitionEnds {
    committed: AtomicU64,
    retained: AtomicU64,
}

impl PartitionEnds {
    /// A partition that was recovered up to `committed`, and folded up to there.
    #[must_use]
    pub fn recovered(committed: Sequence) -> Self {
        Self { committed: AtomicU64::new(committed.0), retained: AtomicU64::new(0) }
    }

    pub(super) fn set_committed(&self, end: Sequence) {
        self.committed.store(end.0, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    pub(super) fn committed(&self) -> Sequence {
        fence(Ordering::SeqCst);
        Sequence(self.committed.load(Ordering::Acquire))
    }

    /// Retained messages below `end` may concern a subscription that is not fed them.
    pub(super) fn raise_retained(&self, end: Sequence) {
        self.retained.fetch_max(end.0, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// To be read after [`PartitionEnds::committed`].
    pub(super) fn retained(&self) -> Sequence {
        fence(Ordering::SeqCst);
        Sequence(self.retained.load(Ordering::Acquire))
    }
}
