//! Where the last frame of each topic of a segment is.

use super::frame::{self, Header};
use crate::proto::partition::{Chunk, FRAME_HEADER_BYTES, Sequence};
use hashbrown::HashMap;

/// Topic hash -> its last frame in the segment; earlier ones hang on it by their links.
pub(super) type Heads = HashMap<u64, Sequence, ahash::RandomState>;

/// Where the heads of a segment are kept.
#[derive(Debug)]
pub(super) enum Topics {
    /// In memory: the segment is still written, or its index file is not there yet.
    Heads(Heads),
    /// In the index file: the first hash of each of its pages.
    Pages(Vec<u64>),
}

impl Default for Topics {
    fn default() -> Self {
        Self::Heads(Heads::default())
    }
}

/// Makes `sequence` the head of `hash` and returns the link of its frame.
pub(super) fn link(heads: &mut Heads, hash: u64, sequence: Sequence) -> u32 {
    heads
        .insert(hash, sequence)
        // Segments are far below 4 GiB: see `LogLimits::SEGMENT_BYTES_MAX`.
        .map_or(0, |previous| u32::try_from(sequence.0 - previous.0).unwrap_or(0))
}

/// Links the frames of `frames`, of which the first lies at `first`, to `heads` and adds them.
/// Returns where the frames are.
pub(super) fn relink(heads: &mut Heads, frames: &mut [u8], first: Sequence) -> Vec<Sequence> {
    let mut places = Vec::new();
    let mut rest = frames;
    let mut sequence = first;
    while let Some(header) = Header::read(rest) {
        let length = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        let Some((frame, after)) = rest.split_at_mut_checked(length) else { break };
        let hash = frame.get(FRAME_HEADER_BYTES..).and_then(frame::topic_hash_of);
        let link = hash.map_or(0, |hash| link(heads, hash, sequence));
        frame::finish(frame, 0, sequence, (link, header.starts_group), true);
        places.push(sequence);
        sequence.0 += header.frame_bytes();
        rest = after;
    }
    places
}

/// Moves the heads that lie at or after `end` back to the last frames before it. `moved` holds
/// every frame from `end` on.
pub(super) fn cut(heads: &mut Heads, end: Sequence, moved: &[Chunk]) {
    heads.retain(|_, head| {
        while *head >= end {
            match link_at(moved, *head) {
                Some(link) if link > 0 => head.0 -= u64::from(link),
                _ => return false,
            }
        }
        true
    });
}

fn link_at(chunks: &[Chunk], sequence: Sequence) -> Option<u32> {
    let chunk = chunks.iter().find(|c| c.first <= sequence && sequence < c.end())?;
    let at = usize::try_from(sequence.0 - chunk.first.0).ok()?;
    Some(Header::read(chunk.bytes.get(at..)?)?.link)
}
