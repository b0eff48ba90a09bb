//! Frames: how a record lies in a segment, how damage is found and how reading goes on after it.

use super::limits::LogLimits;
use crate::proto::partition::{FRAME_HEADER_BYTES, Sequence};
use crate::proto::record::Record;
use crate::proto::time::Timestamp;

/// Reserves a frame's header at the end of `group`; the body is appended after it.
pub(super) fn begin(group: &mut Vec<u8>) -> usize {
    let at = group.len();
    group.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    at
}

/// Fills in the header of the frame that starts at `at` and ends with `group`.
///
/// `link` is the distance back to the frame with the same topic hash, 0 for none, and whether the
/// frame is the first of its group. The checksum is skipped when `checked` is false: the bytes
/// never leave memory.
pub(super) fn finish(
    group: &mut [u8],
    at: usize,
    sequence: Sequence,
    (link, starts_group): (u32, bool),
    checked: bool,
) {
    debug_assert!(link < STARTS_GROUP, "segments are below 2 GiB");
    let link = if starts_group { link | STARTS_GROUP } else { link };
    let frame = group.get_mut(at..).expect("`at` came from `begin`");
    let length = u32::try_from(frame.len() - FRAME_HEADER_BYTES).expect("a record is below 4 GiB");
    let (head, rest) = frame.split_at_mut(8);
    let (link_field, body) = rest.split_at_mut(4);
    link_field.copy_from_slice(&link.to_le_bytes());
    let crc = if checked { checksum(sequence, link_field, body) } else { 0 };
    let (length_field, crc_field) = head.split_at_mut(4);
    length_field.copy_from_slice(&length.to_le_bytes());
    crc_field.copy_from_slice(&crc.to_le_bytes());
}

/// The checksum of a frame.
///
/// It starts from the frame's sequence, so a frame at another place than its own is bad: neither
/// a misdirected write nor a payload that looks like a frame is ever taken for a record.
fn checksum(sequence: Sequence, link_field: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&sequence.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, link_field), body)
}

/// The header of a frame as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the body.
    pub(super) length: u32,
    crc: u32,
    /// Distance in bytes back to the frame with the same topic hash, 0 for none.
    pub(super) link: u32,
    /// The first of a group, which is written when everything before is synced.
    pub(super) starts_group: bool,
}

/// In the link of a frame: [`Header::starts_group`].
const STARTS_GROUP: u32 = 1 << 31;
const _: () = assert!(LogLimits::SEGMENT_BYTES_MAX <= STARTS_GROUP as u64);

impl Header {
    /// Reads the header at the start of `bytes`, `None` while they are too few.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let link = word(8)?;
        Some(Self {
            length: word(0)?,
            crc: word(4)?,
            link: link & !STARTS_GROUP,
            starts_group: link & STARTS_GROUP != 0,
        })
    }

    /// Bytes of the whole frame.
    pub(super) fn frame_bytes(self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// Whether `frame`, the whole frame, is what was written at `sequence`.
    pub(super) fn is_intact(self, sequence: Sequence, frame: &[u8]) -> bool {
        let Some((link_field, body)) = frame.get(8..).and_then(|rest| rest.split_at_checked(4))
        else {
            return false;
        };
        body.len() == self.length as usize && checksum(sequence, link_field, body) == self.crc
    }
}

/// The intact frame at the start of `bytes`, which lie at `sequence`; `None` when it is damaged
/// or cut off.
pub(super) fn intact_frame(bytes: &[u8], sequence: Sequence) -> Option<(Header, &[u8])> {
    let header = Header::read(bytes)?;
    let frame = bytes.get(..usize::try_from(header.frame_bytes()).ok()?)?;
    header.is_intact(sequence, frame).then_some((header, frame))
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The end of the last intact frame, from the start of the bytes.
    pub(super) end: usize,
    /// Where the first damage lies that no start of a group follows, else `end`. From there on
    /// nothing need ever have been synced.
    pub(super) sure_end: usize,
    /// How many stretches between intact frames were damaged.
    pub(super) flaws: u64,
    /// How many bytes those stretches had.
    pub(super) flawed_bytes: u64,
}

/// Visits every intact frame of `bytes`, which lie at `first`, in order.
///
/// After a damaged frame reading goes on where its length says, or, when no intact frame is
/// there, at the next byte where one is. What follows the last intact frame is no flaw: it
/// is the tail.
pub(super) fn scan(
    bytes: &[u8],
    first: Sequence,
    mut visit: impl FnMut(Sequence, Header, &[u8]),
) -> Scan {
    let mut found = Scan::default();
    let mut doubtful = None;
    let mut at = 0;
    while let Some(start) = next_intact(bytes, first, at) {
        if start > at {
            found.flaws += 1;
            found.flawed_bytes += (start - at) as u64;
            doubtful.get_or_insert(at);
        }
        let sequence = Sequence(first.0 + start as u64);
        let rest = bytes.get(start..).unwrap_or_default();
        let Some((header, frame)) = intact_frame(rest, sequence) else {
            break;
        };
        if header.starts_group {
            doubtful = None;
        }
        visit(sequence, header, frame);
        at = start + frame.len();
        found.end = at;
    }
    found.sure_end = doubtful.unwrap_or(found.end);
    found
}

/// The first place at or after `at` where an intact frame starts.
pub(super) fn next_intact(bytes: &[u8], first: Sequence, at: usize) -> Option<usize> {
    let is_intact = |place: usize| {
        bytes
            .get(place..)
            .is_some_and(|rest| intact_frame(rest, Sequence(first.0 + place as u64)).is_some())
    };
    if is_intact(at) {
        return Some(at);
    }
    let header = Header::read(bytes.get(at..)?)?;
    let by_length = at.checked_add(usize::try_from(header.frame_bytes()).ok()?)?;
    if is_intact(by_length) {
        return Some(by_length);
    }
    (at + 1..bytes.len().saturating_sub(FRAME_HEADER_BYTES)).find(|&place| is_intact(place))
}

/// The topic hash of a record's body and when it was received, `None` when it is no message.
pub(super) fn topic_of(body: &[u8]) -> Option<(u64, Timestamp)> {
    match Record::decode(body) {
        Some(Record::Message(message)) => Some((topic_hash(message.topic), message.received_at)),
        _ => None,
    }
}

/// The topic hash of a record's body, `None` when it is no message.
pub(super) fn topic_hash_of(body: &[u8]) -> Option<u64> {
    topic_of(body).map(|(hash, _)| hash)
}

/// The hash under which a topic is found in the index of a segment.
///
/// It is stored on disk, so it must never change. Different topics may share one: whoever reads
/// by hash compares the topic of what is found.
#[must_use]
pub fn topic_hash(topic: &str) -> u64 {
    const MULTIPLIER: u128 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * MULTIPLIER;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the halves are folded into each other"
        )]
        let folded = product as u64 ^ (product >> 64) as u64;
        folded
    };
    let mut words = topic.as_bytes().chunks_exact(8);
    let mut state = 0x517c_c1b7_2722_0a95;
    for word in words.by_ref() {
        state = fold(state, u64::from_le_bytes(word.try_into().expect("chunks of 8")));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    let length = 0xa076_1d64_78bd_642f_u64.wrapping_add(topic.len() as u64);
    fold(fold(state, u64::from_le_bytes(last)), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Sequence = Sequence(1 << 40);

    fn frames(bodies: &[&[u8]]) -> Vec<u8> {
        let mut group = Vec::new();
        for body in bodies {
            let at = begin(&mut group);
            group.extend_from_slice(body);
            finish(&mut group, at, Sequence(FIRST.0 + at as u64), (0, false), true);
        }
        group
    }

    fn bodies_of(bytes: &[u8]) -> (Vec<Vec<u8>>, Scan) {
        let mut bodies = Vec::new();
        let found = scan(bytes, FIRST, |_, _, frame| {
            bodies.push(frame[FRAME_HEADER_BYTES..].to_vec());
        });
        (bodies, found)
    }

    #[test]
    fn every_single_bit_flip_costs_one_record_at_most_and_is_counted() {
        let clean = frames(&[b"first", b"second", b"third"]);
        let middle = clean.len() - 2 * FRAME_HEADER_BYTES - 11;
        for bit in 0..middle * 8 {
            let mut bytes = clean.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (bodies, found) = bodies_of(&bytes);
            assert_eq!(bodies, [b"second".to_vec(), b"third".to_vec()], "bit {bit}");
            assert_eq!((found.flaws, found.end), (1, bytes.len()), "bit {bit}");
        }
    }

    #[test]
    fn a_torn_tail_is_no_flaw() {
        let clean = frames(&[b"first", b"second"]);
        let whole = FRAME_HEADER_BYTES + 5;
        for length in whole..clean.len() {
            let (bodies, found) = bodies_of(&clean[..length]);
            assert_eq!(bodies, [b"first".to_vec()]);
            assert_eq!(found, Scan { end: whole, sure_end: whole, flaws: 0, flawed_bytes: 0 });
        }
    }

    #[test]
    fn damage_in_the_last_group_makes_what_follows_doubtful() {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for starts_group in [true, false, true, false] {
            let at = begin(&mut bytes);
            bytes.extend_from_slice(b"body");
            let sequence = Sequence(FIRST.0 + at as u64);
            finish(&mut bytes, at, sequence, (0, starts_group), true);
            starts.push(at);
        }
        for (damaged, &at) in starts.iter().enumerate().take(3) {
            let mut bytes = bytes.clone();
            bytes[at + FRAME_HEADER_BYTES] ^= 1;
            let found = bodies_of(&bytes).1;
            let sure_end = if damaged < 2 { bytes.len() } else { starts[2] };
            assert_eq!((found.end, found.sure_end), (bytes.len(), sure_end), "frame {damaged}");
        }
    }

    #[test]
    fn a_frame_inside_a_payload_is_not_taken_for_a_record() {
        let forged = frames(&[b"forged"]);
        let mut bytes = frames(&[&forged, b"next"]);
        bytes[0] ^= 0xff;
        assert_eq!(bodies_of(&bytes).0, [b"next".to_vec()]);
    }

    #[test]
    fn topic_hashes_on_disk_never_change() {
        assert_eq!(topic_hash("plant/7/temperature"), 11_841_655_231_076_435_670);
        let topics = ["", "a", "b", "a/b", "12345678", "123456789", "a\0"];
        let mut hashes: Vec<u64> = topics.iter().map(|topic| topic_hash(topic)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), topics.len());
    }
}
