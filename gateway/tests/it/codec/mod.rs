//! The codec byte by byte: literal packets in, the expected values or reason code out.
//!
//! Nothing here decodes what our encoder wrote. A good packet is decoded whole, followed by other
//! bytes, and cut off at every length; unless it is an allowed spelling that we never choose
//! ourselves ([`Sample::decode_only`]), encoding the values must give the same bytes.

mod acks;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod fixed_header;
mod ping;
mod property;
mod publish;
mod subscribe;
mod text;
mod topic;
mod unsubscribe;

use std::num::NonZeroU16;

use gateway::proto::mqtt::ProtocolVersion::{V3_1, V3_1_1, V5};
use gateway::proto::mqtt::{
    DecodeContext, Packet, PacketId, ProtocolVersion, ReasonCode, Role, decode,
};

use crate::properties::bodies::encoded;

/// The three versions, for what they have in common.
const ALL: [ProtocolVersion; 3] = [V3_1, V3_1_1, V5];

/// The two versions without properties.
const BEFORE_5: [ProtocolVersion; 2] = [V3_1, V3_1_1];

/// Larger than any packet of these tests, the largest Maximum Packet Size there is.
pub(crate) const MAXIMUM_PACKET_SIZE: u32 = u32::MAX;

/// One good packet and who receives it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) version: ProtocolVersion,
    /// The receiver.
    pub(crate) role: Role,
    pub(crate) bytes: Vec<u8>,
    /// Whether our encoder writes the values of this packet as these bytes.
    canonical: bool,
}

impl Sample {
    fn to_server(version: ProtocolVersion, bytes: &[u8]) -> Self {
        Self { version, role: Role::Server, bytes: bytes.to_vec(), canonical: true }
    }

    fn to_client(version: ProtocolVersion, bytes: &[u8]) -> Self {
        Self { version, role: Role::Client, bytes: bytes.to_vec(), canonical: true }
    }

    /// An allowed spelling that our encoder never chooses.
    fn decode_only(self) -> Self {
        Self { canonical: false, ..self }
    }

    fn context(&self) -> DecodeContext {
        context(self.version, self.role)
    }

    /// Decodes the packet, having checked that neither its end nor what follows is misjudged.
    #[track_caller]
    fn decode(&self) -> Packet<'_> {
        for end in 0..self.bytes.len() {
            assert_eq!(decode(&self.bytes[..end], self.context()), Ok(None), "first {end} bytes");
        }
        let (packet, taken) = decode(&self.bytes, self.context()).unwrap().expect("whole packet");
        assert_eq!(taken, self.bytes.len());

        let followed = [&self.bytes[..], b"\xff\xff\xff\xff\xff"].concat();
        assert_eq!(decode(&followed, self.context()), Ok(Some((packet, taken))));

        if self.canonical {
            assert_eq!(encoded(&packet, self.version), self.bytes);
        }
        packet
    }
}

/// All good packets of these tests, as seeds for the properties.
pub(crate) fn samples() -> Vec<Sample> {
    let tables = [
        acks::good(),
        acks::good_subscribe_acks(),
        auth::good(),
        connack::good(),
        connect::good(),
        disconnect::good(),
        ping::good(),
        publish::good(),
    ];
    let mut samples: Vec<_> = tables.into_iter().flatten().map(|(sample, _)| sample).collect();
    samples.extend(subscribe::good().into_iter().map(|(sample, _)| sample));
    samples.extend(unsubscribe::good().into_iter().map(|(sample, _)| sample));
    samples
}

/// A table of good packets with what each means.
type Table = Vec<(Sample, Packet<'static>)>;

#[track_caller]
fn check_all(table: Table) {
    for (sample, expected) in table {
        assert_eq!(sample.decode(), expected);
    }
}

/// Refuses each packet with its reason code, for every version of `versions`.
#[track_caller]
fn refuses(versions: &[ProtocolVersion], role: Role, table: &[(&[u8], ReasonCode)]) {
    for &version in versions {
        for &(bytes, expected) in table {
            let error = decode(bytes, context(version, role)).expect_err(&format!("{bytes:02x?}"));
            assert_eq!(error.reason_code(), expected, "{version:?} {error:?} {bytes:02x?}");
        }
    }
}

fn context(version: ProtocolVersion, role: Role) -> DecodeContext {
    DecodeContext { version, maximum_packet_size: MAXIMUM_PACKET_SIZE, role }
}

/// A packet of `first` byte, one byte of Remaining Length and `body`.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 0x80, "one byte of Remaining Length");
    [&[first, length], body].concat()
}

fn id(value: u16) -> PacketId {
    PacketId(NonZeroU16::new(value).unwrap())
}
