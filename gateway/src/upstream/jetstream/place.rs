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
use std::time::Duration;

/// The first that has messages.
const FIRST: u32 = 1;

/// How far a server's clock may be ahead of or behind the gateway's: so much more is read where only
/// the time is known.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10);

/// The name of a place.
pub(super) fn outside(sequence: Sequence) -> Sequence {
    Sequence::embedded(FIRST, sequence.offset())
}

/// The name of "whatever is stored from `time` on", with some seconds before it.
pub(super) fn since(time: Timestamp) -> Sequence {
    let skew = u64::try_from(CLOCK_SKEW_MAX.as_millis()).expect("seconds");
    Sequence::embedded(0, time.0.saturating_sub(skew) / 1_000)
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
        assert_eq!(inside(time), Start::Since(StoreTime(1_795_634_035_000_000_000)));
        assert_eq!(inside(outside(Sequence(7))), Start::At(Sequence(7)));
        assert!(time < outside(Sequence(1)) && outside(Sequence(1)) < outside(Sequence(2)));
        assert_eq!(inside(Sequence::ZERO), Start::Since(StoreTime(0)), "from the beginning");
    }
}
