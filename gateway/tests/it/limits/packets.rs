//! The few packets these tests send, in the version each needs.

use crate::packets::{framed, sized};
use crate::sim::{SimClient, SimNode};

/// CONNECT 3.1.1 with keep alive 0.
pub(super) fn connect_311(client_id: &str, clean: bool) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, u8::from(clean) * 2, 0, 0];
    framed(0x10, &[&head[..], &sized(client_id)].concat())
}

/// CONNECT 5.0 with keep alive 0, for a session that never expires or ends with its connection.
pub(super) fn connect_5(client_id: &str, clean: bool, kept: bool) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 5, u8::from(clean) * 2, 0, 0];
    let properties: &[u8] = if kept { &[5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF] } else { &[0] };
    framed(0x10, &[&head[..], properties, &sized(client_id)].concat())
}

/// SUBSCRIBE 3.1.1 with packet id 1 at QoS 1.
pub(super) fn subscribe_311(filter: &str) -> Vec<u8> {
    framed(0x82, &[&[0, 1][..], &sized(filter), &[1]].concat())
}

/// PUBLISH 3.1.1; `first` is the first byte, with a packet id in it for QoS 1 and 2.
pub(super) fn publish_311(first: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id: &[u8] = if first & 6 == 0 { &[] } else { &id };
    framed(first, &[&sized(topic), id, payload].concat())
}

/// PUBLISH 5.0 without properties.
pub(super) fn publish_5(first: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let id: &[u8] = if first & 6 == 0 { &[] } else { &id };
    framed(first, &[&sized(topic), id, &[0], payload].concat())
}

/// A client that is let in by this CONNECT.
#[track_caller]
pub(super) fn enter(node: &mut SimNode, connect: &[u8]) -> SimClient {
    let client = node.connect();
    let connack = node.exchange(client, connect);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "let in");
    client
}

/// Takes what the client got until nothing more comes, and acknowledges it. Returns how many
/// messages there were.
#[track_caller]
pub(super) fn acknowledge_all(node: &mut SimNode, client: SimClient, topic: &str) -> usize {
    let mut count = 0;
    loop {
        let got = node.take(client);
        if got.is_empty() {
            return count;
        }
        count += acknowledge(node, client, topic, &got);
    }
}

/// Acknowledges every PUBLISH of QoS 1 in `got`, which must hold nothing else. Returns how many.
#[track_caller]
pub(super) fn acknowledge(node: &mut SimNode, client: SimClient, topic: &str, got: &[u8]) -> usize {
    let mut count = 0;
    let mut rest = got;
    while let [first, after @ ..] = rest {
        assert_eq!(first & 0xF6, 0x32, "PUBLISH of QoS 1");
        let (length, at) = match *after {
            [low, high, ..] if low > 127 => (usize::from(low & 127) + usize::from(high) * 128, 2),
            [low, ..] => (usize::from(low), 1),
            [] => panic!("a whole packet"),
        };
        let (body, id) = (&after[at..at + length], 2 + topic.len());
        node.send(client, &[0x40, 2, body[id], body[id + 1]]);
        count += 1;
        rest = &after[at + length..];
    }
    count
}
