//! After a failed write or sync: what is not synced goes to a new segment.

use super::commit::{Group, Log, Spare, Stage};
use super::frame;
use super::heads::{self, Heads, Topics};
use super::io::LogIo;
use super::segment::{Segment, SegmentId};
use crate::proto::partition::{Chunk, Sequence};
use bytes::Bytes;
use std::collections::VecDeque;

impl Log {
    /// What is not synced is no longer expected to be in its file: it goes to a new one.
    ///
    /// After a failed `fdatasync` the kernel may have dropped the pages and marked them clean, so
    /// writing them again there proves nothing.
    pub(super) fn distrust(&mut self, out: &mut Vec<LogIo>) {
        self.stage = Stage::ExpectSpare;
        let spoiled = self.file.map(|(id, _)| id);
        let newest = self.segments.back().expect("there is always a segment").id;
        if spoiled == Some(newest) {
            let Spare::Ready(id) = self.spare else {
                return self.want_spare(out);
            };
            self.spare = Spare::None;
            self.segments.push_back(Segment::new(id, self.open_first, self.now));
        }
        self.move_to_newest(spoiled, out);
        self.stage = Stage::Retry(self.now.after(self.retry_after));
        self.back_off();
    }

    /// Moves the unsynced, the pending and the open groups from the segment `spoiled` on to the
    /// newest one, which is not written to yet.
    pub(super) fn move_to_newest(&mut self, spoiled: Option<SegmentId>, out: &mut Vec<LogIo>) {
        let mut groups: VecDeque<Group> = self.unsynced.drain(..).collect();
        groups.extend(self.pending.drain(..));
        let cut = groups.front().map_or(self.open_first, |group| group.chunk.first);
        let mut moved: Vec<Chunk> = groups.iter().map(|group| group.chunk.clone()).collect();
        let open = Bytes::copy_from_slice(&self.open);
        moved.push(Chunk { partition: self.partition, first: self.open_first, bytes: open });
        let mut target = self.segments.pop_back().expect("there is always a segment");
        while let Some(unused) = self.segments.back().map(|segment| segment.id)
            && Some(unused) != spoiled
        {
            self.segments.pop_back();
            self.remove(unused, out);
        }
        if let Some(spoiled) = self.segments.back_mut() {
            spoiled.end = spoiled.end.min(cut);
            if let Topics::Heads(heads) = &mut spoiled.topics {
                heads::cut(heads, cut, &moved);
            }
        }
        let committed = groups.iter().take_while(|group| group.committed).last();
        target.first = cut;
        target.end = committed.map_or(cut, |group| group.chunk.end());
        target.marks.clear();
        // Frames appended for the target already have links that know nothing of the others.
        let mut heads = Heads::default();
        for group in &mut groups {
            let mut frames = group.chunk.bytes.to_vec();
            let places = heads::relink(&mut heads, &mut frames, group.chunk.first);
            places.into_iter().for_each(|sequence| target.mark(sequence));
            group.chunk.bytes = Bytes::from(frames);
            group.segment = target.id;
        }
        let places = heads::relink(&mut heads, &mut self.open, self.open_first);
        places.into_iter().for_each(|sequence| target.mark(sequence));
        target.topics = Topics::Heads(heads);
        self.segments.push_back(target);
        self.pending = groups;
        self.file = None;
    }

    /// The link of a frame that is not committed yet.
    pub(super) fn uncommitted_link(&self, sequence: Sequence) -> Option<u32> {
        let closed = self.unsynced.iter().chain(&self.pending).map(|group| &group.chunk);
        let holder = closed.into_iter().find(|c| c.first <= sequence && sequence < c.end());
        let (first, bytes) = match holder {
            Some(chunk) => (chunk.first, chunk.bytes.as_ref()),
            None => (self.open_first, self.open.as_slice()),
        };
        let at = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        Some(frame::Header::read(bytes.get(at..)?)?.link)
    }
}
