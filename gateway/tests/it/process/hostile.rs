//! Clients that mean harm or know no better: whatever they do, one that was connected all along
//! keeps getting its messages, and nothing of theirs stays behind.

use super::gateway::{Gateway, PATIENCE};
use super::raw_client::{
    RawClient, V3_1_1, V5, connect, publish, publish_qos2, push_text, subscribe,
};
use crate::packets::framed;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// How much memory an attack may leave behind when it is repeated: noise of the allocator, far
/// below a leak of one buffer a connection.
const GROWTH_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// How long a message of the control client may take beside an attack.
const PROMPT: Duration = Duration::from_secs(10);

/// A client that does nothing wrong, before, during and after.
struct Control {
    client: RawClient,
    count: u32,
}

impl Control {
    fn new(gateway: &Gateway) -> Self {
        let mut client = RawClient::connected(gateway.address(), V5, "control");
        client.stream().set_read_timeout(Some(PROMPT)).unwrap();
        client.send(&subscribe(V5, &["control"], 1));
        assert_eq!(client.packet().0, 0x90, "SUBACK");
        Self { client, count: 0 }
    }

    /// Publishes to itself at QoS 1, and checks both acknowledgement and delivery.
    #[track_caller]
    fn check(&mut self) {
        self.count += 1;
        let payload = self.count.to_be_bytes();
        self.client.send(&publish(V5, "control", Some(1), &[], &payload));
        let mut kinds = [0; 2];
        for kind in &mut kinds {
            let (first, body) = self.client.packet();
            *kind = first & 0xf0;
            if *kind == 0x30 {
                assert!(body.ends_with(&payload), "in order, once");
                let id_at = 2 + "control".len();
                let acknowledged = framed(0x40, &body[id_at..id_at + 2]);
                self.client.send(&acknowledged);
            }
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [0x30, 0x40], "PUBLISH and PUBACK");
    }
}

/// Starts a gateway, lets `attack` loose on it twice, and checks each time that the control
/// client is served, and that descriptors and memory come back.
pub(super) fn survives(flags: &[&str], attack: impl Fn(&Gateway)) {
    let gateway = Gateway::start(&[&["--shards", "2"], flags].concat());
    let mut control = Control::new(&gateway);
    control.check();
    let descriptors = gateway.descriptor_count();
    let mut resident = Vec::new();
    for _ in 0..2 {
        attack(&gateway);
        control.check();
        wait_for_descriptors(&gateway, descriptors, &mut control);
        resident.push(gateway.resident_bytes());
    }
    let growth = resident[1].saturating_sub(resident[0]);
    assert!(growth <= GROWTH_BYTES_MAX, "grew by {growth} bytes: {resident:?}");
    // A client that stays would be waited for.
    drop(control);
    gateway.stop();
}

/// Waits until no more than `count` descriptors are open, and a few that the log may have opened.
#[track_caller]
fn wait_for_descriptors(gateway: &Gateway, count: usize, control: &mut Control) {
    const SEGMENT_FILES: usize = 4;
    let started = now();
    while gateway.descriptor_count() > count + SEGMENT_FILES {
        let open = gateway.descriptor_count();
        assert!(now() - started < PATIENCE, "{open} descriptors are open, {count} were");
        control.check();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bound on real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Connections that one process may hold, with some to spare, up to `wanted`.
fn connections_possible(wanted: u64) -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX).saturating_sub(1_024).min(wanted)
}

#[test]
fn ten_thousand_connections_reset_at_once_leave_nothing() {
    let count = connections_possible(10_000);
    survives(&[], |gateway| {
        let clients: Vec<RawClient> = (0..count)
            .map(|number| {
                let mut client = RawClient::open(gateway.address());
                // A third says nothing, a third half of a CONNECT, a third is a client.
                let bytes = connect(V5, &format!("storm-{number}"), &[]);
                let sent = [0, bytes.len() / 2, bytes.len()][usize::try_from(number % 3).unwrap()];
                client.send(&bytes[..sent]);
                client
            })
            .collect();
        clients.into_iter().for_each(RawClient::reset);
    });
}

#[test]
fn half_a_connect_is_given_up_on() {
    survives(&["--limit", "connect_timeout_s=1"], |gateway| {
        let half = connect(V5, "half", &[]);
        let mut clients: Vec<RawClient> =
            (0..200).map(|_| RawClient::open(gateway.address())).collect();
        for (client, sent) in clients.iter_mut().zip((0..half.len()).cycle()) {
            client.send(&half[..sent]);
        }
        for client in &mut clients {
            assert_eq!(client.packets_to_the_end(), [], "a stranger is told nothing");
        }
    });
}

#[test]
fn one_byte_at_a_time_does_not_lengthen_the_connect_timeout() {
    survives(&["--limit", "connect_timeout_s=1"], |gateway| {
        let slow = connect(V3_1_1, &"slow".repeat(20), &[]);
        let mut client = RawClient::open(gateway.address());
        // Waiting for an answer is what sets the pace: a byte every 100 ms.
        client.stream().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let closed = slow.chunks(1).position(|byte| {
            client.try_send(byte).is_err()
                || match client.stream().read(&mut [0]) {
                    Ok(count) => count == 0,
                    Err(error) => error.kind() != ErrorKind::WouldBlock,
                }
        });
        assert!(closed.is_some(), "it is closed before the CONNECT is complete");
    });
}

/// The same noise in each run, never the same twice in one.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| {
                // xorshift64.
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                self.0.to_le_bytes()[0]
            })
            .collect()
    }
}

#[test]
fn garbage_hurts_nobody_else() {
    survives(&[], |gateway| {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        for number in 0..400 {
            let mut client = match number % 3 {
                0 => RawClient::open(gateway.address()),
                1 => RawClient::connected(gateway.address(), V3_1_1, "garbage"),
                _ => RawClient::connected(gateway.address(), V5, "garbage"),
            };
            // It may be closed in the middle.
            let _ = client.try_send(&noise.bytes(4_096));
            let _ = client.stream().shutdown(Shutdown::Write);
            client.packets_to_the_end();
        }
    });
}

#[test]
fn every_packet_cut_short_or_altered_hurts_nobody_else() {
    let whole = [
        connect(V5, "mangled", &[]),
        subscribe(V5, &["a/#", "b/+"], 2),
        publish_qos2(V5, "a/b", 7, b"payload"),
        framed(0x62, &[0, 7]),
        framed(0xa2, &[0, 2, 0, 0, 3, b'a', b'/', b'#']),
        framed(0xe0, &[]),
    ]
    .concat();
    survives(&[], |gateway| {
        for at in 0..whole.len() {
            for altered in [0x00, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = altered;
                let mut client = RawClient::open(gateway.address());
                let _ = client.try_send(&bytes);
                let _ = client.stream().shutdown(Shutdown::Write);
                client.packets_to_the_end();
            }
        }
    });
}

#[test]
fn a_flood_of_connects_for_one_client_id_leaves_the_last() {
    survives(&[], |gateway| {
        let mut last = RawClient::connected(gateway.address(), V5, "wanted");
        for _ in 0..500 {
            let next = RawClient::connected(gateway.address(), V5, "wanted");
            let packets = last.packets_to_the_end();
            assert!(
                matches!(&packets[..], [(0xe0, body)] if body[0] == 0x8e),
                "DISCONNECT, Session taken over: {packets:x?}"
            );
            last = next;
        }
        last.send(&[0xc0, 0]);
        assert_eq!(last.packet().0, 0xd0, "PINGRESP");
    });
}

#[test]
fn a_flood_of_connects_on_one_connection_ends_it() {
    survives(&[], |gateway| {
        for _ in 0..50 {
            let mut client = RawClient::open(gateway.address());
            let _ = client.try_send(&connect(V5, "again", &[]).repeat(1_000));
            let packets = client.packets_to_the_end();
            // The gateway closes with bytes unread, so a reset may swallow its answers.
            assert!(packets.len() <= 2, "CONNACK and DISCONNECT: {packets:x?}");
        }
    });
}

/// What ends a connection: the reason code of the DISCONNECT before the end of the stream.
#[track_caller]
fn check_disconnected(mut client: RawClient, reason_code: u8) {
    let packets = client.packets_to_the_end();
    let Some((0xe0, body)) = packets.last() else { panic!("DISCONNECT, not {packets:x?}") };
    assert_eq!(body[0], reason_code, "{packets:x?}");
}

/// Connects, sends `packets`, and expects answers of these kinds (with the last bytes given).
#[track_caller]
fn check_answers(gateway: &Gateway, packets: &[u8], answers: &[(u8, u8)]) -> RawClient {
    let mut client = RawClient::connected(gateway.address(), V5, "at-the-limit");
    client.send(packets);
    for &(kind, last) in answers {
        let (first, body) = client.packet();
        assert_eq!((first & 0xf0, body.last()), (kind, Some(&last)), "{body:x?}");
    }
    client
}

#[test]
fn packets_at_the_largest_size_pass_and_one_byte_more_does_not() {
    const LIMIT: usize = 4_096;
    let flags = ["--limit", "maximum_packet_size_bytes=4096"];
    let flags = [&flags[..], &["--limit", "connect_packet_bytes_max=1024"]].concat();
    survives(&flags, |gateway| {
        let empty = publish(V5, "a", Some(1), &[], &[]).len() + 1;
        let at = publish(V5, "a", Some(1), &[], &vec![0; LIMIT - empty]);
        assert_eq!(at.len(), LIMIT);
        drop(check_answers(gateway, &at, &[(0x40, 1)]));
        let above = publish(V5, "a", Some(1), &[], &vec![0; LIMIT - empty + 1]);
        check_disconnected(check_answers(gateway, &above, &[]), 0x95);
    });
}

/// CONNECT of exactly `bytes` bytes, filled up by its user name.
fn connect_of(bytes: usize) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', V5, 0x82, 0, 0, 0];
    push_text(&mut body, "large");
    let fixed_header_and_length = 3 + 2;
    let rest = bytes - fixed_header_and_length - body.len();
    push_text(&mut body, &"u".repeat(rest));
    let connect = framed(0x10, &body);
    assert_eq!(connect.len(), bytes);
    connect
}

#[test]
fn a_connect_at_the_largest_size_passes_and_one_byte_more_does_not() {
    survives(&["--limit", "connect_packet_bytes_max=1024"], |gateway| {
        let mut client = RawClient::open(gateway.address());
        client.send(&connect_of(1_024));
        assert_eq!(client.packet().0, 0x20, "CONNACK");
        let mut client = RawClient::open(gateway.address());
        client.send(&connect_of(1_025));
        let packets = client.packets_to_the_end();
        assert!(packets.iter().all(|(_, body)| body[1] >= 0x80), "no success: {packets:x?}");
    });
}

#[test]
fn topics_with_the_most_levels_pass_and_one_more_does_not() {
    survives(&["--limit", "topic_levels_max=8"], |gateway| {
        let (at, above) = ("1/2/3/4/5/6/7/8", "1/2/3/4/5/6/7/8/9");
        drop(check_answers(gateway, &subscribe(V5, &[at, above], 1), &[(0x90, 0x8f)]));
        drop(check_answers(gateway, &subscribe(V5, &[above, at], 1), &[(0x90, 1)]));
        drop(check_answers(gateway, &publish(V5, at, Some(1), &[], b""), &[(0x40, 1)]));
        let publisher = check_answers(gateway, &publish(V5, above, Some(1), &[], b""), &[]);
        check_disconnected(publisher, 0x90);
    });
}

#[test]
fn one_subscription_more_than_a_session_may_have_is_refused() {
    survives(&["--limit", "subscriptions_per_session_max=4"], |gateway| {
        let filters = ["a", "b", "c", "d"];
        let mut client = check_answers(gateway, &subscribe(V5, &filters, 1), &[(0x90, 1)]);
        client.send(&subscribe(V5, &["e"], 1));
        assert_eq!(client.packet().1.last(), Some(&0x97), "Quota exceeded");
        client.send(&subscribe(V5, &["d"], 0));
        assert_eq!(client.packet().1.last(), Some(&0), "one it has can be changed");
    });
}

#[test]
fn one_message_more_than_receive_maximum_ends_the_connection() {
    survives(&["--limit", "receive_maximum=4"], |gateway| {
        let publishes = |ids: std::ops::RangeInclusive<u16>| -> Vec<u8> {
            ids.flat_map(|id| publish_qos2(V5, "a", id, b"")).collect()
        };
        let received: Vec<(u8, u8)> = (1..=4).map(|id| (0x50, id)).collect();
        let mut client = check_answers(gateway, &publishes(1..=4), &received);
        client.send(&publishes(5..=5));
        check_disconnected(client, 0x93);
    });
}

#[test]
fn the_highest_topic_alias_passes_and_the_next_does_not() {
    survives(&["--limit", "topic_alias_maximum_in=4"], |gateway| {
        let alias = |number| publish(V5, "a", Some(1), &[0x23, 0, number], b"");
        drop(check_answers(gateway, &alias(4), &[(0x40, 1)]));
        check_disconnected(check_answers(gateway, &alias(5), &[]), 0x94);
        check_disconnected(check_answers(gateway, &alias(0), &[]), 0x94);
        let unset = publish(V5, "", Some(1), &[0x23, 0, 3], b"");
        check_disconnected(check_answers(gateway, &unset, &[]), 0x82);
    });
}
