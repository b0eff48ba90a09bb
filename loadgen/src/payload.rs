//! What every published message carries, so that its receiver can tell what it got.
//!
//! ```text
//! 0        4           8       12         20           28        36
//! checksum | publisher | epoch | sequence | intended_ns | sent_ns | filler ...
//! ```
//!
//! Integers are big-endian. The checksum is CRC-32C of everything behind it, filler included, so
//! a byte changed, lost or added anywhere in the message is found.

/// Bytes of the [`Stamp`] with its checksum: the smallest payload a run may use.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 36;
/// The largest payload a run may use: the largest a broker with default limits is sure to take.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const CHECKSUM_BYTES: usize = 4;
const FILLER: u8 = b'x';

/// Who sent a message, which one it is, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Index of the publisher in the run.
    pub(crate) publisher: u32,
    /// Which run, or which life of the publisher, numbered it: the sequence starts over with each.
    pub(crate) epoch: u32,
    /// 0, 1, 2, ... per publisher and epoch.
    pub(crate) sequence: u64,
    /// When the schedule wanted it sent, on the run's [`Clock`](crate::clock::Clock).
    pub(crate) intended_ns: u64,
    /// When it was sent.
    pub(crate) sent_ns: u64,
}

impl Stamp {
    /// Replaces the content of `payload` by this stamp and filler up to `payload_bytes`.
    ///
    /// `payload_bytes` below [`PAYLOAD_BYTES_MIN`] counts as that.
    pub(crate) fn write(&self, payload_bytes: usize, payload: &mut Vec<u8>) {
        payload.clear();
        payload.extend_from_slice(&[0; CHECKSUM_BYTES]);
        payload.extend_from_slice(&self.publisher.to_be_bytes());
        payload.extend_from_slice(&self.epoch.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.extend_from_slice(&self.intended_ns.to_be_bytes());
        payload.extend_from_slice(&self.sent_ns.to_be_bytes());
        payload.resize(payload_bytes.max(PAYLOAD_BYTES_MIN), FILLER);
        if let Some((checksum, content)) = payload.split_first_chunk_mut::<CHECKSUM_BYTES>() {
            *checksum = crc32c::crc32c(content).to_be_bytes();
        }
    }

    /// Reads the stamp of a payload, `None` if it is not, byte for byte, what was written.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (checksum, content) = payload.split_first_chunk::<CHECKSUM_BYTES>()?;
        if crc32c::crc32c(content) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (publisher, content) = content.split_first_chunk()?;
        let (epoch, content) = content.split_first_chunk()?;
        let (sequence, content) = content.split_first_chunk()?;
        let (intended_ns, content) = content.split_first_chunk()?;
        let (sent_ns, _filler) = content.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_be_bytes(*publisher),
            epoch: u32::from_be_bytes(*epoch),
            sequence: u64::from_be_bytes(*sequence),
            intended_ns: u64::from_be_bytes(*intended_ns),
            sent_ns: u64::from_be_bytes(*sent_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { publisher: 7, epoch: 3, sequence: 1 << 40, intended_ns: 11, sent_ns: 12 };

    #[test]
    fn reads_what_it_wrote_at_every_size() {
        let mut payload = Vec::new();
        for payload_bytes in [0, PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MIN + 1, 256, 4096] {
            STAMP.write(payload_bytes, &mut payload);
            assert_eq!(payload.len(), payload_bytes.max(PAYLOAD_BYTES_MIN));
            assert_eq!(Stamp::read(&payload), Some(STAMP));
        }
    }

    #[test]
    fn any_changed_byte_is_found() {
        let mut payload = Vec::new();
        STAMP.write(64, &mut payload);
        for index in 0..payload.len() {
            payload[index] ^= 0x10;
            assert_eq!(Stamp::read(&payload), None, "byte {index}");
            payload[index] ^= 0x10;
        }
        assert_eq!(Stamp::read(&payload), Some(STAMP));
    }

    #[test]
    fn a_shorter_payload_is_found() {
        let mut payload = Vec::new();
        STAMP.write(64, &mut payload);
        for kept in 0..payload.len() {
            assert_eq!(Stamp::read(&payload[..kept]), None, "{kept} bytes");
        }
    }
}
