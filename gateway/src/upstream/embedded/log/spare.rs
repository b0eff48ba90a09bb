//! The segment created ahead of need, so that no append waits for it.

use super::commit::{Log, Spare, Stage};
use super::io::{IoDone, IoFault, LogIo};
use super::segment::SegmentId;

/// A segment that has no successor is written on up to this many times its size.
const OVERSIZE_FACTOR: u64 = 3;
/// Offsets have 40 bits: past half of them the next segment starts a new generation.
const GENERATION_BYTES: u64 = 1 << 39;

impl Log {
    pub(super) fn want_spare(&mut self, out: &mut Vec<LogIo>) {
        let due = match self.spare {
            Spare::None => true,
            Spare::Retry(at) => at <= self.now,
            Spare::Creating(..) | Spare::Ready(_) => false,
        };
        if due && self.wants_spare() {
            let token = self.token();
            let segment = self.next_segment_id();
            self.spare = Spare::Creating(token, segment);
            out.push(LogIo::Create { token, segment });
        }
    }

    /// A spare is created once the newest segment is half full, or when groups must move.
    pub(super) fn wants_spare(&self) -> bool {
        self.stage == Stage::ExpectSpare || self.newest_bytes() >= self.limits.segment_bytes / 2
    }

    pub(super) fn spare_created(
        &mut self,
        id: SegmentId,
        result: Result<IoDone, IoFault>,
        out: &mut Vec<LogIo>,
    ) {
        match result {
            Ok(_) => {
                self.spare = Spare::Ready(id);
                if self.stage == Stage::ExpectSpare {
                    self.distrust(out);
                }
            }
            Err(fault) => {
                self.report(fault);
                self.spare = Spare::Retry(self.now.after(self.retry_after));
                self.back_off();
            }
        }
    }

    /// Whether the newest segment must not grow on without its successor.
    pub(super) fn is_oversize(&self) -> bool {
        self.newest_bytes() >= self.limits.segment_bytes.saturating_mul(OVERSIZE_FACTOR)
    }

    /// Bytes of the newest segment up to the open group.
    pub(super) fn newest_bytes(&self) -> u64 {
        let newest = self.segments.back().expect("there is always a segment");
        self.open_first.0 - newest.first.0
    }

    pub(super) fn next_segment_id(&mut self) -> SegmentId {
        let newest = self.segments.back().expect("there is always a segment").id;
        let exhausted = self.open_first.offset() >= GENERATION_BYTES;
        let generation = newest.generation + u32::from(exhausted);
        let number = self.next_number;
        self.next_number += 1;
        SegmentId { partition: self.partition, generation, number }
    }
}
