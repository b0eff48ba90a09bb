//! Each test feeds and expects literal bytes. Source: MQTT 3.1.1 and 5.0, chapter 3.

use super::*;
use crate::payload::PAYLOAD_BYTES_MIN;

const CONNACK_NEW: &[u8] = &[0x20, 2, 0, 0];
const CONNACK_RESUMED: &[u8] = &[0x20, 2, 1, 0];
const BEGAN: Told = Told::SessionBegan { lost: false };
const SECOND_NS: u64 = NANOS_PER_SECOND;

/// What a client told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    SessionBegan { lost: bool },
    Subscribed,
    Ready { session_present: bool },
    Acknowledged(u64),
    Discarded(u64),
    Delivered(Vec<u8>),
}

struct Bench {
    client: Client,
    out: Vec<u8>,
    told: Vec<Told>,
}

impl Bench {
    fn new(options: ClientOptions) -> Self {
        let mut bench = Self { client: Client::new(options), out: Vec::new(), told: Vec::new() };
        bench.client.handle_connected(0, &mut bench.out);
        bench
    }

    /// Feeds bytes and returns what was written.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        self.feed_at(0, bytes)
    }

    fn feed_at(&mut self, now_ns: u64, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let told = &mut self.told;
        let mut on_event = |event: Event<'_>| {
            told.push(match event {
                Event::SessionBegan { lost } => Told::SessionBegan { lost },
                Event::Subscribed => Told::Subscribed,
                Event::Ready { session_present } => Told::Ready { session_present },
                Event::Acknowledged(stamp) => Told::Acknowledged(stamp.sequence),
                Event::Discarded(stamp) => Told::Discarded(stamp.sequence),
                Event::Delivered { payload, .. } => Told::Delivered(payload.to_vec()),
            });
        };
        self.client.handle_received(now_ns, bytes, &mut self.out, &mut on_event)?;
        Ok(std::mem::take(&mut self.out))
    }

    /// Publishes and returns the bytes up to the payload, which is checked to be that of `sequence`.
    fn publish(&mut self, sequence: u64) -> Vec<u8> {
        assert!(self.client.publish(stamp(sequence), 0, &mut Scratch::default(), &mut self.out));
        self.take_publish(sequence)
    }

    fn take_publish(&mut self, sequence: u64) -> Vec<u8> {
        let mut written = std::mem::take(&mut self.out);
        let payload = written.split_off(written.len() - PAYLOAD_BYTES_MIN);
        assert_eq!(Stamp::read(&payload).unwrap().sequence, sequence);
        written
    }

    /// Reconnects as a client that keeps its session.
    fn reconnect(&mut self, connack: &[u8]) -> Vec<u8> {
        self.client.handle_closed(0);
        self.client.options.clean_start = false;
        self.client.handle_connected(0, &mut self.out);
        self.out.clear();
        self.feed(connack).unwrap()
    }

    #[track_caller]
    fn take_told(&mut self, expected: &[Told]) {
        assert_eq!(std::mem::take(&mut self.told), expected);
    }
}

fn options(version: ProtocolVersion) -> ClientOptions {
    ClientOptions {
        version,
        client_id: "d".into(),
        clean_start: true,
        session_expiry_interval_s: 0,
        keep_alive_s: 0,
        subscription: None,
        publication: None,
        will: None,
    }
}

fn stamp(sequence: u64) -> Stamp {
    Stamp { publisher: 0, epoch: 0, sequence, intended_ns: 0, sent_ns: 0 }
}

fn subscriber() -> Bench {
    let subscription = Some(("t".into(), QoS::ExactlyOnce));
    let mut bench = Bench::new(ClientOptions { subscription, ..options(ProtocolVersion::V3_1_1) });
    bench.out.clear();
    bench.feed(&[CONNACK_NEW, &[0x90, 3, 255, 255, 2]].concat()).unwrap();
    bench.take_told(&[BEGAN, Told::Subscribed, Told::Ready { session_present: false }]);
    bench
}

fn publisher(qos: QoS) -> Bench {
    let publication = Publication {
        topics: Topics::Same("t".into()),
        qos,
        retain: false,
        payload_bytes: u32::try_from(PAYLOAD_BYTES_MIN).unwrap(),
        window: 2,
        retransmit_after_ms: 0,
    };
    let options =
        ClientOptions { publication: Some(publication), ..options(ProtocolVersion::V3_1_1) };
    let mut bench = Bench::new(options);
    bench.out.clear();
    bench.feed(CONNACK_NEW).unwrap();
    bench.take_told(&[BEGAN, Told::Ready { session_present: false }]);
    bench
}

#[test]
fn connect_of_both_versions() {
    let bench = Bench::new(options(ProtocolVersion::V3_1_1));
    assert_eq!(bench.out, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01d");
    let bench = Bench::new(ClientOptions {
        clean_start: false,
        session_expiry_interval_s: 7,
        keep_alive_s: 30,
        ..options(ProtocolVersion::V5)
    });
    assert_eq!(bench.out, b"\x10\x13\x00\x04MQTT\x05\x00\x00\x1e\x05\x11\x00\x00\x00\x07\x00\x01d");
}

#[test]
fn subscribes_after_connack_and_is_ready_after_suback() {
    let subscription = Some(("t".into(), QoS::AtLeastOnce));
    let mut bench = Bench::new(ClientOptions { subscription, ..options(ProtocolVersion::V3_1_1) });
    bench.out.clear();
    assert_eq!(bench.feed(CONNACK_NEW).unwrap(), b"\x82\x06\xff\xff\x00\x01t\x01");
    bench.take_told(&[BEGAN]);
    assert_eq!(bench.feed(&[0x90, 3, 255, 255, 1]).unwrap(), b"");
    bench.take_told(&[Told::Subscribed, Told::Ready { session_present: false }]);
}

#[test]
fn refusals_are_faults_with_their_code() {
    let mut bench = Bench::new(options(ProtocolVersion::V3_1_1));
    assert_eq!(bench.feed(&[0x20, 2, 0, 5]), Err(Fault::ConnectRefused(5)));
    let subscription = Some(("t".into(), QoS::AtLeastOnce));
    let mut bench = Bench::new(ClientOptions { subscription, ..options(ProtocolVersion::V3_1_1) });
    bench.feed(CONNACK_NEW).unwrap();
    assert_eq!(bench.feed(&[0x90, 3, 255, 255, 0x80]), Err(Fault::SubscribeRefused(0x80)));
}

#[test]
fn a_second_connack_and_a_clients_packet_are_unexpected() {
    let mut bench = subscriber();
    assert_eq!(bench.feed(CONNACK_NEW), Err(Fault::Unexpected));
    assert_eq!(subscriber().feed(&[0xC0, 0]), Err(Fault::Unexpected));
}

#[test]
fn qos_1_delivery_is_acknowledged() {
    let mut bench = subscriber();
    assert_eq!(bench.feed(b"\x32\x07\x00\x01t\x00\x09hi").unwrap(), b"\x40\x02\x00\x09");
    bench.take_told(&[Told::Delivered(b"hi".to_vec())]);
}

#[test]
fn qos_2_delivery_counts_once_until_released() {
    let mut bench = subscriber();
    let publish = b"\x34\x07\x00\x01t\x00\x09hi";
    let again = b"\x3c\x07\x00\x01t\x00\x09hi";
    assert_eq!(bench.feed(publish).unwrap(), b"\x50\x02\x00\x09");
    assert_eq!(bench.feed(again).unwrap(), b"\x50\x02\x00\x09");
    bench.take_told(&[Told::Delivered(b"hi".to_vec())]);
    assert_eq!(bench.feed(b"\x62\x02\x00\x09").unwrap(), b"\x70\x02\x00\x09");
    bench.feed(publish).unwrap();
    bench.take_told(&[Told::Delivered(b"hi".to_vec())]);
}

#[test]
fn splitting_the_stream_changes_nothing() {
    let stream = b"\x30\x05\x00\x01tab\x32\x07\x00\x01t\x00\x09hi\x30\x04\x00\x01tc";
    let mut whole = subscriber();
    let answer = whole.feed(stream).unwrap();
    for split in 0..stream.len() {
        let mut bench = subscriber();
        let (head, tail) = stream.split_at(split);
        let mut answers = bench.feed(head).unwrap();
        answers.extend(bench.feed(tail).unwrap());
        assert_eq!((answers, &bench.told), (answer.clone(), &whole.told), "split at {split}");
        assert!(bench.client.partial.is_empty());
    }
}

#[test]
fn qos_1_publish_ends_with_puback() {
    let mut bench = publisher(QoS::AtLeastOnce);
    assert_eq!(bench.publish(0), b"\x32\x29\x00\x01t\x00\x01");
    assert_eq!(bench.publish(1), b"\x32\x29\x00\x01t\x00\x02");
    assert!(!bench.client.can_publish(), "the window of 2 is full");
    bench.feed(b"\x40\x02\x00\x02").unwrap();
    bench.take_told(&[Told::Acknowledged(1)]);
    assert!(bench.client.can_publish());
    assert_eq!(bench.feed(b"\x40\x02\x00\x02"), Err(Fault::Unexpected), "acknowledged before");
}

#[test]
fn qos_2_publish_goes_through_all_four_steps() {
    let mut bench = publisher(QoS::ExactlyOnce);
    assert_eq!(bench.publish(0), b"\x34\x29\x00\x01t\x00\x01");
    assert_eq!(bench.feed(b"\x50\x02\x00\x01").unwrap(), b"\x62\x02\x00\x01");
    bench.take_told(&[Told::Acknowledged(0)]);
    assert_eq!(bench.feed(b"\x50\x02\x00\x01").unwrap(), b"\x62\x02\x00\x01", "PUBREC again");
    assert_eq!(bench.client.unfinished(), 1);
    bench.feed(b"\x70\x02\x00\x01").unwrap();
    assert_eq!(bench.client.unfinished(), 0);
    bench.take_told(&[]);
}

#[test]
fn a_resumed_session_sends_again_with_dup_in_the_old_order() {
    let mut bench = publisher(QoS::AtLeastOnce);
    bench.publish(0);
    bench.publish(1);
    let written = bench.reconnect(CONNACK_RESUMED);
    let (first, second) = written.split_at(written.len() / 2);
    assert_eq!(first[..7], *b"\x3a\x29\x00\x01t\x00\x01");
    assert_eq!(second[..7], *b"\x3a\x29\x00\x01t\x00\x02");
    assert_eq!(Stamp::read(&first[7..]).unwrap().sequence, 0);
    assert_eq!(Stamp::read(&second[7..]).unwrap().sequence, 1);
}

#[test]
fn a_resumed_qos_2_exchange_goes_on_at_pubrel() {
    let mut bench = publisher(QoS::ExactlyOnce);
    bench.publish(0);
    bench.feed(b"\x50\x02\x00\x01").unwrap();
    assert_eq!(bench.reconnect(CONNACK_RESUMED), b"\x62\x02\x00\x01");
}

#[test]
fn a_lost_session_is_no_reason_to_lose_messages() {
    let mut bench = publisher(QoS::AtLeastOnce);
    bench.publish(0);
    let written = bench.reconnect(CONNACK_NEW);
    assert_eq!(written[..7], *b"\x32\x29\x00\x01t\x00\x01", "without DUP: it is new to the server");
}

#[test]
fn a_qos_2_message_under_way_in_a_lost_session_is_given_up() {
    let mut bench = publisher(QoS::ExactlyOnce);
    bench.publish(0);
    bench.publish(1);
    bench.feed(b"\x50\x02\x00\x01").unwrap();
    bench.take_told(&[Told::Acknowledged(0)]);
    assert_eq!(bench.reconnect(CONNACK_NEW), b"");
    bench.take_told(&[Told::Discarded(1), BEGAN, Told::Ready { session_present: false }]);
    assert_eq!(bench.client.unfinished(), 0);
}

#[test]
fn a_session_the_server_should_have_kept_is_reported_lost() {
    let v5 = ClientOptions { session_expiry_interval_s: 10, ..options(ProtocolVersion::V5) };
    let mut bench = Bench::new(ClientOptions { clean_start: false, ..v5 });
    let connack_new = &[0x20, 3, 0, 0, 0];
    bench.feed(connack_new).unwrap();
    for (away_s, lost) in [(9, true), (10, false)] {
        bench.told.clear();
        bench.client.handle_closed(0);
        bench.client.handle_connected(0, &mut bench.out);
        bench.feed_at(away_s * SECOND_NS, connack_new).unwrap();
        assert_eq!(bench.told[0], Told::SessionBegan { lost }, "{away_s} s");
    }
}

#[test]
fn a_session_without_suback_is_subscribed_again() {
    let subscription = Some(("t".into(), QoS::AtLeastOnce));
    let mut bench = Bench::new(ClientOptions { subscription, ..options(ProtocolVersion::V3_1_1) });
    assert_eq!(bench.reconnect(CONNACK_RESUMED), b"\x82\x06\xff\xff\x00\x01t\x01");
    bench.feed(&[0x90, 3, 255, 255, 1]).unwrap();
    assert_eq!(bench.reconnect(CONNACK_RESUMED), b"", "now it has the subscription");
}

#[test]
fn an_old_client_sends_again_what_is_not_acknowledged_in_time() {
    let mut bench = publisher(QoS::AtLeastOnce);
    bench.client.options.publication.as_mut().unwrap().retransmit_after_ms = 500;
    bench.publish(0);
    assert_eq!(bench.client.next_timeout_ns(), Some(SECOND_NS / 2));
    let again = bench.client.handle_timeout(SECOND_NS / 2, &mut Scratch::default(), &mut bench.out);
    assert_eq!(again, Ok(()));
    assert_eq!(bench.take_publish(0), b"\x3a\x29\x00\x01t\x00\x01");
    assert_eq!(bench.client.next_timeout_ns(), Some(SECOND_NS));
}

#[test]
fn a_will_says_whose_it_is_and_of_which_connection() {
    let topics = Topics::Numbered("w/".into());
    let will = Some(Box::new(WillOptions { topics, publisher: 5, epoch: 3 }));
    let mut bench = Bench::new(ClientOptions { will, ..options(ProtocolVersion::V3_1_1) });
    bench.reconnect(CONNACK_NEW);
    bench.client.handle_closed(0);
    bench.client.handle_connected(0, &mut bench.out);
    assert_eq!(
        bench.out[..22],
        *b"\x10\x38\x00\x04MQTT\x04\x0c\x00\x00\x00\x01d\x00\x03w/5\x00\x24"
    );
    let stamp = Stamp::read(&bench.out[22..]).unwrap();
    assert_eq!((stamp.publisher, stamp.epoch, stamp.sequence), (5, 3, 2));
}

#[test]
fn the_servers_receive_maximum_narrows_the_window() {
    let mut bench = publisher(QoS::AtLeastOnce);
    bench.client.options.version = ProtocolVersion::V5;
    bench.client.handle_closed(0);
    bench.client.handle_connected(0, &mut bench.out);
    bench.feed(&[0x20, 6, 0, 0, 3, 0x21, 0, 1]).unwrap();
    assert_eq!(bench.publish(0), b"\x32\x2a\x00\x01t\x00\x01\x00");
    assert!(!bench.client.can_publish());
}

#[test]
fn nothing_is_published_before_the_connection_is_ready() {
    let mut bench = publisher(QoS::AtMostOnce);
    assert!(bench.client.can_publish());
    bench.client.handle_closed(0);
    assert!(!bench.client.publish(stamp(0), 0, &mut Scratch::default(), &mut bench.out));
    assert!(bench.out.is_empty());
}

#[test]
fn pings_when_silent_and_gives_up_without_an_answer() {
    let mut bench =
        Bench::new(ClientOptions { keep_alive_s: 100, ..options(ProtocolVersion::V3_1_1) });
    bench.out.clear();
    assert_eq!(bench.client.next_timeout_ns(), None, "not connected yet");
    bench.feed(CONNACK_NEW).unwrap();
    let due_ns = bench.client.next_timeout_ns().unwrap();
    assert_eq!(due_ns, 75 * SECOND_NS);
    assert_eq!(
        bench.client.handle_timeout(due_ns - 1, &mut Scratch::default(), &mut bench.out),
        Ok(())
    );
    assert_eq!(bench.out, b"");
    assert_eq!(
        bench.client.handle_timeout(due_ns, &mut Scratch::default(), &mut bench.out),
        Ok(())
    );
    assert_eq!(std::mem::take(&mut bench.out), b"\xc0\x00");
    let given_up = bench.client.handle_timeout(2 * due_ns, &mut Scratch::default(), &mut bench.out);
    assert_eq!(given_up, Err(Fault::PingUnanswered));
    bench.feed(&[0xD0, 0]).unwrap();
    assert_eq!(
        bench.client.handle_timeout(2 * due_ns, &mut Scratch::default(), &mut bench.out),
        Ok(())
    );
}

#[test]
fn bytes_that_are_no_packet_are_a_fault() {
    assert_eq!(subscriber().feed(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(Fault::Malformed));
    assert_eq!(subscriber().feed(&[0x00, 0]), Err(Fault::Malformed));
}
