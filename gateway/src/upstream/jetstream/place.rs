//! What a place in a stream is called outside of this module: in cursors, records and exchanges of
//! sessions.
//!
//! In here a [`Sequence`] is the stream's own. Outside a generation stands in front of it. Generation 0
//! has no messages: it holds times, before every message in order, and is where a session is in a
//! partition of which nothing was known yet: it wants what was stored then or later.

use super::direct_get::Start;
use super::stored::StoreTime;
use crate::proto::partition::Sequence;
use crate::proto::time::Timestamp;

/// The first that has messages.
const FIRST: u32 = 1;

/// The name of a place.
pub(super) fn outside(sequence: Sequence) -> Sequence {
    Sequence::embedded(FIRST, sequence.offset())
}

/// The name of "whatever is stored from `time` on", by the gateway's clock. To the second, rounded down.
pub(super) fn since(time: Timestamp) -> Sequence {
    Sequence::embedded(0, time.0 / 1_000)
}

/// A time by a server's clock, which is `ahead_ms` ahead of the gateway's, at least.
pub(super) fn by_clock(from: Start, ahead_ms: i64) -> Start {
    let Start::Since(StoreTime(nanos)) = from else {
        return from;
    };
    let shifted = (nanos / 1_000_000).saturating_add_signed(ahead_ms);
    Start::Since(StoreTime(shifted.saturating_mul(1_000_000)))
}

/// What a name stands for.
pub(super) fn inside(name: Sequence) -> Start {
    match name.generation() {
        0 => Start::Since(StoreTime(name.offset().saturating_mul(1_000_000_000))),
        _ => Start::At(Sequence(name.offset())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_before_every_place() {
        let time = since(Timestamp(1_795_634_045_624));
        assert_eq!(inside(time), Start::Since(StoreTime(1_795_634_045_000_000_000)));
        assert_eq!(inside(outside(Sequence(7))), Start::At(Sequence(7)));
        assert!(time < outside(Sequence(1)) && outside(Sequence(1)) < outside(Sequence(2)));
        let at = |millis: u64| Start::Since(StoreTime(millis * 1_000_000));
        assert_eq!((by_clock(at(5_000), -700), by_clock(at(5), 2)), (at(4_300), at(7)));
        assert_eq!(by_clock(Start::At(Sequence(5)), 9), Start::At(Sequence(5)));
        assert_eq!(inside(Sequence::ZERO), Start::Since(StoreTime(0)), "from the beginning");
    }
}
