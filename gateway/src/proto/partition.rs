//! A partition: one ordered log of the upstream, and the pieces in which its records travel.
//!
//! The embedded upstream has one partition a shard; a JetStream stream will be another. Either
//! gives each record a [`Sequence`]; a chunk carries consecutive records without copying them.

use bytes::Bytes;

/// A partition's number. Permanent: it never names another partition later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// A line of appends that are committed in the order in which they were made. Between lanes there is
/// no order: where one partition is away, the others go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lane(pub u16);

impl Lane {
    /// Of the log on the local disk.
    pub const LOCAL: Self = Self(0);
}

/// A record's place in its partition. Later records have higher sequences; there are gaps.
///
/// Embedded upstream: the boot generation in the upper 24 bits, the byte offset of the record's
/// frame since that boot in the lower 40. A sequence is therefore never used twice, even when an
/// unsynced tail was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first record of any partition.
    pub const ZERO: Self = Self(0);
    const OFFSET_BITS: u32 = 40;

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The sequence of the frame at byte `offset` of boot `generation`.
    #[must_use]
    pub fn embedded(generation: u32, offset: u64) -> Self {
        debug_assert!(offset >> Self::OFFSET_BITS == 0, "a generation holds 1 TiB");
        Self((u64::from(generation) << Self::OFFSET_BITS) | offset)
    }

    /// The boot generation of an embedded sequence.
    #[must_use]
    pub fn generation(self) -> u32 {
        u32::try_from(self.0 >> Self::OFFSET_BITS).expect("24 bits fit")
    }

    /// The byte offset of an embedded sequence.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0 & ((1 << Self::OFFSET_BITS) - 1)
    }
}

/// By which it is found out later whether places of a partition are still what they were: its sequences
/// may be used again, when a server has lost what it had not synced, or the stream was made anew.
///
/// Whoever names places keeps one that is at or behind all of them. Everything up to it is still there
/// as long as nothing before or at its place was stored later than it was; from the first message that
/// was, everything is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Of the server's process and of the stream: while that is the same, nothing is used again.
    pub life: u32,
    /// The place of a message.
    pub sequence: Sequence,
    /// When it was stored, in nanoseconds since the Unix epoch, by the server's clock.
    pub stored_at: u64,
}

impl Anchor {
    /// Bytes of one in a record.
    pub const BYTES: usize = 20;

    /// Wire shape, little endian: life (u32), sequence (u64), time (u64).
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (life, rest) = bytes.split_at_mut(4);
        let (sequence, stored_at) = rest.split_at_mut(8);
        life.copy_from_slice(&self.life.to_le_bytes());
        sequence.copy_from_slice(&self.sequence.0.to_le_bytes());
        stored_at.copy_from_slice(&self.stored_at.to_le_bytes());
        bytes
    }

    /// Reads what [`Anchor::to_bytes`] wrote, `None` where there are not so many bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (life, rest) = bytes.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let stored_at = rest.first_chunk()?;
        Some(Self {
            life: u32::from_le_bytes(*life),
            sequence: Sequence(u64::from_le_bytes(*sequence)),
            stored_at: u64::from_le_bytes(*stored_at),
        })
    }
}

/// Bytes of a frame before its body.
///
/// Wire shape, little endian: body length (u32), CRC-32C of the frame's sequence and of all that
/// follows the checksum (u32), distance in bytes back to the frame with the same topic hash in
/// the same segment (u32, 0 for none).
pub const FRAME_HEADER_BYTES: usize = 12;

/// Consecutive framed records of one partition, in one shared buffer.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Whose records these are.
    pub partition: PartitionId,
    /// The sequence of the first frame.
    pub first: Sequence,
    /// Whole frames, back to back.
    pub bytes: Bytes,
}

impl Chunk {
    /// The sequence after the last frame.
    #[must_use]
    pub fn end(&self) -> Sequence {
        Sequence(self.first.0 + self.bytes.len() as u64)
    }

    /// The body of the frame at `sequence`, `None` when no frame of this chunk starts there.
    #[must_use]
    pub fn body(&self, sequence: Sequence) -> Option<&[u8]> {
        let at = usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()?;
        self.body_at(at).map(|(body, _)| body)
    }

    /// As [`Chunk::body`], sharing the chunk's buffer.
    #[must_use]
    pub fn body_bytes(&self, sequence: Sequence) -> Option<Bytes> {
        Some(self.bytes.slice_ref(self.body(sequence)?))
    }

    /// The bodies with their sequences, in order.
    pub fn bodies(&self) -> impl Iterator<Item = (Sequence, &[u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (body, next) = self.body_at(at)?;
            let sequence = Sequence(self.first.0 + at as u64);
            at = next;
            Some((sequence, body))
        })
    }

    fn body_at(&self, at: usize) -> Option<(&[u8], usize)> {
        let frame = self.bytes.get(at..)?;
        let length = u32::from_le_bytes(*frame.first_chunk()?) as usize;
        let body = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length)?;
        Some((body, at + FRAME_HEADER_BYTES + length))
    }
}
