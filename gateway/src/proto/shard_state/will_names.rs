//! What wills are called: whoever publishes one, it is one message.
//!
//! A will is named when its CONNECT comes, and may be published by another gateway, or after a crash, long
//! after it was stored. So its name says when it was given: it is stored then or later.

use crate::proto::record::MessageId;
use crate::proto::time::Timestamp;

/// Of one shard since its start.
#[derive(Debug)]
pub(super) struct WillNames {
    /// No other shard's, and not that of an earlier start.
    origin: u64,
    last: u64,
}

/// Names of one millisecond before they run ahead of the time.
const COUNT_BITS: u32 = 20;

impl WillNames {
    pub(super) fn new(origin: u64) -> Self {
        Self { origin, last: 0 }
    }

    pub(super) fn next(&mut self, now: Timestamp) -> MessageId {
        self.last = (self.last + 1).max(now.0 << COUNT_BITS);
        MessageId { origin: self.origin, number: self.last }
    }

    /// When a will was named that another shard, or this one before it was started, may have published.
    pub(super) fn named_elsewhere(&self, id: MessageId) -> Option<Timestamp> {
        (id.origin != self.origin).then_some(Timestamp(id.number >> COUNT_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_others_and_says_when_it_was_given() {
        let [mut here, elsewhere] = [1, 2].map(WillNames::new);
        let now = Timestamp(1_795_634_045_624);
        let names = [(); 3].map(|()| here.next(now));
        assert!(names[0].number < names[1].number && names[1].number < names[2].number);
        assert!(here.next(Timestamp(0)).number > names[2].number, "whatever the clock says");
        for name in names {
            assert_eq!(here.named_elsewhere(name), None);
            assert_eq!(elsewhere.named_elsewhere(name), Some(now));
        }
    }
}
