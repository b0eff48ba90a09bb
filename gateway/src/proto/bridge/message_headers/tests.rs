//! Headers of messages in exact bytes, both ways.

use super::*;
use crate::proto::nats::Subject;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn message<'a>() -> Message<'a> {
    Message {
        publisher: "",
        qos: QoS::AtLeastOnce,
        retain: false,
        ledger: false,
        received_at: NOW,
        expiry_interval_s: None,
        packet_id: None,
        topic: "a/b",
        properties: &[],
        payload: b"hi",
    }
}

fn properties(list: &[Property<'_>]) -> Vec<u8> {
    let mut raw = Vec::new();
    list.iter().for_each(|property| property.encode(&mut raw));
    raw
}

/// Checks the header block of `message`, and that it reads back.
#[track_caller]
fn check(message: &Message<'_>, lines: &str) {
    let block = format!("NATS/1.0\r\n{lines}\r\n");
    let mut out = Vec::new();
    let mut publish = PublishWriter::new(Subject::literal("s").unwrap(), None, &mut out);
    put_headers(message, message.received_at, &mut publish);
    publish.finish(message.payload);
    let total = block.len() + message.payload.len();
    let payload = message.payload.escape_ascii();
    let expected = format!("HPUB s {} {total}\r\n{block}{payload}\r\n", block.len());
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    read(&block, message, 0);
}

#[track_caller]
fn read(block: &str, expected: &Message<'_>, unreadable_count: u32) {
    let mut buffers = ReadBuffers::default();
    let headers = Headers::from_block(block.as_bytes());
    let got =
        read_message(expected.topic, headers, expected.payload, expected.received_at, &mut buffers);
    assert_eq!(got, ReadMessage { message: *expected, unreadable_count });
}

#[test]
fn an_ordinary_message_needs_no_header() {
    check(&message(), "");
    // What an application publishes with PUB.
    read("", &message(), 0);
}

#[test]
fn every_part_has_its_header() {
    check(&Message { qos: QoS::AtMostOnce, ..message() }, "Mqtt-QoS: 0\r\n");
    check(&Message { qos: QoS::ExactlyOnce, retain: true, ..message() }, {
        "Mqtt-QoS: 2\r\nMqtt-Retain: 1\r\n"
    });
    check(&Message { publisher: "sensor-42", ..message() }, "Mqtt-Client-Id: sensor-42\r\n");
    check(&Message { publisher: "acme\0sensor-42", ..message() }, {
        "Mqtt-Client-Id: sensor-42\r\nMqtt-Mountpoint: acme\r\n"
    });
    check(&Message { expiry_interval_s: Some(u32::MAX), ..message() }, {
        "Mqtt-Message-Expiry-Interval: 4294967295\r\n"
    });
    let raw = properties(&[
        Property::UserProperty("b", "2"),
        Property::PayloadFormatIndicator(true),
        Property::ContentType("text/plain; charset=utf-8"),
        Property::ResponseTopic("re/ply"),
        Property::CorrelationData(b"\0\xFFid"),
        Property::UserProperty("a=%", ""),
        Property::UserProperty("a=%", " \u{e9}"),
    ]);
    check(
        &Message { properties: &raw, ..message() },
        "Mqtt-User-Property: b=2\r\n\
         Mqtt-Payload-Format-Indicator: 1\r\n\
         Mqtt-Content-Type: text/plain; charset=utf-8\r\n\
         Mqtt-Response-Topic: re/ply\r\n\
         Mqtt-Correlation-Data: %00%FFid\r\n\
         Mqtt-User-Property: a%3D%25=\r\n\
         Mqtt-User-Property: a%3D%25=%20%C3%A9\r\n",
    );
}

#[test]
fn no_user_property_is_a_header_of_its_own() {
    let raw = properties(&[Property::UserProperty("Nats-Rollup", "all\r\nNats-Rollup: all")]);
    check(&Message { properties: &raw, publisher: "x\r\nNats-TTL: 1", ..message() }, {
        "Mqtt-Client-Id: x%0D%0ANats-TTL: 1\r\n\
         Mqtt-User-Property: Nats-Rollup=all%0D%0ANats-Rollup: all\r\n"
    });
}

#[test]
fn an_expiry_interval_goes_out_less_what_has_passed() {
    for (passed_ms, left_s) in [(0, 60), (999, 60), (1_000, 59), (60_000, 0), (90_000, 0)] {
        let message = Message { expiry_interval_s: Some(60), ..message() };
        let mut out = Vec::new();
        let mut publish = PublishWriter::new(Subject::literal("s").unwrap(), None, &mut out);
        put_headers(&message, Timestamp(NOW.0 + passed_ms), &mut publish);
        publish.finish(b"");
        let text = String::from_utf8(out).unwrap();
        let line = format!("Mqtt-Message-Expiry-Interval: {left_s}\r\n");
        assert!(text.contains(&line), "{passed_ms}: {text}");
    }
}

#[test]
fn what_cannot_be_read_is_passed_over_and_counted() {
    for lines in [
        "Mqtt-QoS: 3\r\n",
        "Mqtt-QoS: \r\n",
        "Mqtt-Retain: yes\r\n",
        "Mqtt-Message-Expiry-Interval: 4294967296\r\n",
        "Mqtt-Message-Expiry-Interval: -1\r\n",
        "Mqtt-Payload-Format-Indicator: 2\r\n",
        "Mqtt-Content-Type: 100%\r\n",
        "Mqtt-Content-Type: %00\r\n",
        "Mqtt-Content-Type: %FF\r\n",
        "Mqtt-Response-Topic: a/#\r\n",
        "Mqtt-Response-Topic: \r\n",
        "Mqtt-Client-Id: %FF\r\n",
        "Mqtt-User-Property: name\r\n",
        "Mqtt-User-Property: a=%0\r\n",
        "Mqtt-Unknown: 1\r\n",
    ] {
        read(&format!("NATS/1.0\r\n{lines}\r\n"), &message(), 1);
    }
    let twice = "NATS/1.0\r\nMqtt-QoS: 2\r\nMqtt-QoS: 0\r\n\r\n";
    read(twice, &Message { qos: QoS::ExactlyOnce, ..message() }, 1);
}

#[test]
fn an_mqtt_string_has_at_most_65535_bytes() {
    let longest = "x".repeat(65_535);
    let raw = properties(&[Property::ContentType(&longest)]);
    let block = format!("NATS/1.0\r\nMqtt-Content-Type: {longest}\r\n\r\n");
    read(&block, &Message { properties: &raw, ..message() }, 0);
    let block = format!("NATS/1.0\r\nMqtt-Content-Type: {longest}x\r\n\r\n");
    read(&block, &message(), 1);
}

#[test]
fn headers_of_others_are_passed_over() {
    let block = "NATS/1.0\r\nNats-Sequence: 7\r\ntraceparent: 00-1\r\nmqtt-qos: 0\r\n\r\n";
    read(block, &message(), 0);
}
