//! A client that sends what it is told, right or wrong, written without the gateway's codec.

use super::gateway::PATIENCE;
use crate::packets::framed;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};

/// MQTT 3.1.1's protocol level.
pub(crate) const V3_1_1: u8 = 4;
/// MQTT 5.0's.
pub(crate) const V5: u8 = 5;

/// A packet as it came: the first byte and everything after Remaining Length.
pub(crate) type RawPacket = (u8, Vec<u8>);

/// A blocking connection that gives up after [`PATIENCE`].
pub(crate) struct RawClient(TcpStream);

impl RawClient {
    /// A connection on which nothing was sent.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// A session that starts clean and ends with the connection.
    pub(crate) fn connected(address: SocketAddr, level: u8, client_id: &str) -> Self {
        let mut client = Self::open(address);
        client.send(&connect(level, client_id, &[]));
        let (kind, body) = client.packet();
        assert_eq!((kind, &body[..2]), (0x20, &[0, 0][..]), "CONNACK");
        client
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Sends to a gateway that may have closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The next packet; fails at the end of the stream.
    #[track_caller]
    pub(crate) fn packet(&mut self) -> RawPacket {
        self.try_packet().unwrap().expect("a packet, not the end of the stream")
    }

    /// The next packet, `None` at the end of the stream, a reset included.
    pub(crate) fn try_packet(&mut self) -> io::Result<Option<RawPacket>> {
        match read_packet(&mut self.0) {
            Ok(packet) => Ok(Some(packet)),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Reads to the end of the stream and returns the packets that came before it.
    #[track_caller]
    pub(crate) fn packets_to_the_end(&mut self) -> Vec<RawPacket> {
        let mut packets = Vec::new();
        while let Some(packet) = self.try_packet().expect("the gateway closes") {
            packets.push(packet);
        }
        packets
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.0, Some(std::time::Duration::ZERO)).unwrap();
    }
}

/// Reads one packet.
pub(crate) fn read_packet(stream: &mut impl io::Read) -> io::Result<RawPacket> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let kind = byte[0];
    let (mut length, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((kind, body))
}

/// CONNECT with Clean Start and without keep alive; `properties` are left out before 5.0.
pub(crate) fn connect(level: u8, client_id: &str, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, 0x02, 0, 0];
    push_properties(&mut body, level, properties);
    push_text(&mut body, client_id);
    framed(0x10, &body)
}

/// SUBSCRIBE to `filters` at `qos`, packet id 1.
pub(crate) fn subscribe(level: u8, filters: &[&str], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    push_properties(&mut body, level, &[]);
    for filter in filters {
        push_text(&mut body, filter);
        body.push(qos);
    }
    framed(0x82, &body)
}

/// PUBLISH; with `packet_id` at QoS 1, without at QoS 0.
pub(crate) fn publish(
    level: u8,
    topic: &str,
    packet_id: Option<u16>,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    publish_at(level, topic, packet_id.map(|id| (1, id)), properties, payload)
}

/// PUBLISH at QoS 2.
pub(crate) fn publish_qos2(level: u8, topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    publish_at(level, topic, Some((2, packet_id)), &[], payload)
}

fn publish_at(
    level: u8,
    topic: &str,
    acknowledged: Option<(u8, u16)>,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, topic);
    if let Some((_, packet_id)) = acknowledged {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    push_properties(&mut body, level, properties);
    body.extend_from_slice(payload);
    framed(0x30 | acknowledged.map_or(0, |(qos, _)| qos << 1), &body)
}

/// Two bytes of length and the text.
pub(crate) fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn push_properties(body: &mut Vec<u8>, level: u8, properties: &[u8]) {
    if level == V5 {
        assert!(properties.len() < 128, "one byte of length");
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
}
