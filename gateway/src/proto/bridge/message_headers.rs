//! What a PUBLISH says besides topic and payload, as NATS headers, and back.
//!
//! | MQTT | header | value | when it is not there |
//! |---|---|---|---|
//! | QoS | `Mqtt-QoS` | `0`, `1`, `2` | 1 |
//! | RETAIN | `Mqtt-Retain` | `0`, `1` | 0 |
//! | client id of the publisher | `Mqtt-Client-Id` | escaped text | nobody's |
//! | mountpoint of the publisher's tenant | `Mqtt-Mountpoint` | escaped text | none |
//! | Message Expiry Interval | `Mqtt-Message-Expiry-Interval` | seconds from when it is stored | never |
//! | Payload Format Indicator | `Mqtt-Payload-Format-Indicator` | `0`, `1` | none |
//! | Content Type | `Mqtt-Content-Type` | escaped text | none |
//! | Response Topic | `Mqtt-Response-Topic` | escaped topic name | none |
//! | Correlation Data | `Mqtt-Correlation-Data` | escaped bytes | none |
//! | User Property, each, in order | `Mqtt-User-Property` | escaped `name=value` | none |
//!
//! `Mqtt-Message-Id` names a publish for the gateway that made it, and is nothing to MQTT.
//!
//! So a message that an application published without any header is a QoS 1 message of nobody.
//! Escaped is percent-escaped (`%` and two upper-case hex digits): all that is not visible ASCII, a
//! blank at either end, `%`, and in the name of a User Property `=`. Topic Alias and Subscription
//! Identifier belong to one connection and do not travel; Packet Identifier and DUP neither: what
//! QoS 2 needs is in the publisher's session record and `Nats-Msg-Id`.
//!
//! Names of headers are ours alone: a device's User Property is a value under one reserved name, so
//! it can be no `Nats-` header, which would tell the server something. Other headers of an
//! application are not passed on to devices. What stands under one of our names and cannot be read
//! is passed over and counted; the message is delivered without it.
//!
//! Source: MQTT 5.0 §3.3.1, §3.3.2.3; ADR-4.

use super::escape::{put_escaped, put_unescaped};
use crate::proto::mqtt::{Properties, Property, QoS, is_valid_topic_name};
use crate::proto::nats::json::decimal;
use crate::proto::nats::{Headers, PublishWriter};
use crate::proto::record::Message;
use crate::proto::tenant::split_name;
use crate::proto::time::Timestamp;

/// Buffers for [`read_message`], kept from message to message so that reading allocates nothing
/// once they have grown.
#[derive(Clone, Debug, Default)]
pub struct ReadBuffers {
    publisher: Vec<u8>,
    properties: Vec<u8>,
    value: Vec<u8>,
}

/// A message as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadMessage<'a> {
    /// Without packet id and not for the ledger, which are the publisher's side of QoS 2.
    pub message: Message<'a>,
    /// Headers under our names that could not be read.
    pub unreadable_count: u32,
}

/// Adds the headers that `message` needs to `publish`.
///
/// A Message Expiry Interval goes out less what has passed of it since the message was received.
pub fn put_headers(message: &Message<'_>, now: Timestamp, publish: &mut PublishWriter<'_>) {
    if message.qos != QoS::AtLeastOnce {
        publish.header_decimal(QOS, message.qos as u64);
    }
    if message.retain {
        publish.header_decimal(RETAIN, 1);
    }
    if !message.publisher.is_empty() {
        let (mountpoint, client_id) = split_name(message.publisher);
        put_text(CLIENT_ID, client_id, publish);
        if let Some(mountpoint) = mountpoint {
            put_text(MOUNTPOINT, mountpoint, publish);
        }
    }
    if let Some(seconds) = message.expiry_interval_s {
        let passed_s = now.millis_since(message.received_at) / 1_000;
        publish.header_decimal(EXPIRY, u64::from(seconds).saturating_sub(passed_s));
    }
    for property in Properties::from_validated(message.properties).iter() {
        put_property(property, publish);
    }
}

fn put_property(property: Property<'_>, publish: &mut PublishWriter<'_>) {
    match property {
        Property::PayloadFormatIndicator(is_text) => {
            publish.header_decimal(PAYLOAD_FORMAT, u64::from(is_text));
        }
        Property::ContentType(text) => put_text(CONTENT_TYPE, text, publish),
        Property::ResponseTopic(topic) => put_text(RESPONSE_TOPIC, topic, publish),
        Property::CorrelationData(data) => {
            publish.header_with(CORRELATION_DATA, |out| put_escaped(data, b"", out));
        }
        Property::UserProperty(name, value) => publish.header_with(USER_PROPERTY, |out| {
            put_escaped(name.as_bytes(), b"=", out);
            out.push(b'=');
            put_escaped(value.as_bytes(), b"", out);
        }),
        // Of one connection, of other packets, or a field of the message: not stored as property.
        _ => debug_assert!(false, "{property:?} among the stored properties of a message"),
    }
}

fn put_text(name: &'static str, text: &str, publish: &mut PublishWriter<'_>) {
    publish.header_with(name, |out| put_escaped(text.as_bytes(), b"", out));
}

/// Reads the message that `headers` and `payload` are, published to `topic`.
///
/// `received_at` is the time at which the server stored it, or now for one that was not stored.
/// Any headers at all give a message.
pub fn read_message<'a>(
    topic: &'a str,
    headers: Headers<'a>,
    payload: &'a [u8],
    received_at: Timestamp,
    buffers: &'a mut ReadBuffers,
) -> ReadMessage<'a> {
    let ReadBuffers { publisher, properties, value } = buffers;
    publisher.clear();
    properties.clear();
    let mut message = Message {
        publisher: "",
        qos: QoS::AtLeastOnce,
        retain: false,
        ledger: false,
        received_at,
        expiry_interval_s: None,
        packet_id: None,
        topic,
        properties: &[],
        payload,
    };
    let mut unreadable_count = 0;
    let mut seen = Seen::default();
    let (mut publisher_value, mut mountpoint_value) = (None, None);
    for (name, text) in headers.iter().filter(|(name, _)| name.starts_with(NAMES)) {
        let read = match std::str::from_utf8(name).unwrap_or_default() {
            QOS => seen.first(QOS).and_then(|()| qos(text)).map(|qos| message.qos = qos),
            RETAIN => seen.first(RETAIN).and_then(|()| flag(text)).map(|it| message.retain = it),
            EXPIRY => seen.first(EXPIRY).and_then(|()| seconds(text)).map(|seconds| {
                message.expiry_interval_s = Some(seconds);
            }),
            CLIENT_ID => seen.first(CLIENT_ID).map(|()| publisher_value = Some(text)),
            MOUNTPOINT => seen.first(MOUNTPOINT).map(|()| mountpoint_value = Some(text)),
            MESSAGE_ID => Some(()),
            name => read_property(name, text, &mut seen, value, properties),
        };
        unreadable_count += u32::from(read.is_none());
    }
    if let Some(text) = publisher_value {
        match read_publisher(mountpoint_value, text, publisher) {
            Some(publisher) => message.publisher = publisher,
            None => unreadable_count += 1,
        }
    }
    message.properties = properties;
    ReadMessage { message, unreadable_count }
}

/// The name of a publisher, see [`tenant`](crate::proto::tenant), written to `buffer`; `None` when one of its
/// parts cannot be read.
fn read_publisher<'b>(
    mountpoint: Option<&[u8]>,
    client_id: &[u8],
    buffer: &'b mut Vec<u8>,
) -> Option<&'b str> {
    let Some(mountpoint) = mountpoint else {
        return unescaped_text(client_id, buffer);
    };
    let mountpoint_bytes = unescaped_text(mountpoint, buffer)?.len();
    buffer.push(0);
    put_unescaped(client_id, buffer)?;
    mqtt_text(buffer.get(mountpoint_bytes + 1..)?)?;
    std::str::from_utf8(buffer).ok()
}

/// Appends the property under the header `name` to `properties`; `None` when it cannot be read.
fn read_property(
    name: &str,
    text: &[u8],
    seen: &mut Seen,
    value: &mut Vec<u8>,
    properties: &mut Vec<u8>,
) -> Option<()> {
    match name {
        PAYLOAD_FORMAT => {
            seen.first(PAYLOAD_FORMAT)?;
            Property::PayloadFormatIndicator(flag(text)?).encode(properties);
        }
        CONTENT_TYPE => {
            seen.first(CONTENT_TYPE)?;
            Property::ContentType(unescaped_text(text, value)?).encode(properties);
        }
        RESPONSE_TOPIC => {
            seen.first(RESPONSE_TOPIC)?;
            let topic = unescaped_text(text, value).filter(|topic| is_valid_topic_name(topic))?;
            Property::ResponseTopic(topic).encode(properties);
        }
        CORRELATION_DATA => {
            seen.first(CORRELATION_DATA)?;
            Property::CorrelationData(unescaped(text, value)?).encode(properties);
        }
        USER_PROPERTY => {
            let (name, text) = text.split_at(memchr::memchr(b'=', text)?);
            value.clear();
            put_unescaped(name, value)?;
            let name_bytes = value.len();
            put_unescaped(text.get(1..)?, value)?;
            let (name, text) = value.split_at(name_bytes);
            Property::UserProperty(mqtt_text(name)?, mqtt_text(text)?).encode(properties);
        }
        _ => return None,
    }
    Some(())
}

/// Which headers have been read that may be there once only.
#[derive(Default)]
struct Seen(u16);

impl Seen {
    /// `None` when `name` was there before.
    fn first(&mut self, name: &str) -> Option<()> {
        let place = ONCE.iter().position(|once| *once == name)?;
        let bit = 1_u16 << place;
        let is_first = self.0 & bit == 0;
        self.0 |= bit;
        is_first.then_some(())
    }
}

fn qos(text: &[u8]) -> Option<QoS> {
    match text {
        b"0" => Some(QoS::AtMostOnce),
        b"1" => Some(QoS::AtLeastOnce),
        b"2" => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

fn flag(text: &[u8]) -> Option<bool> {
    match text {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

fn seconds(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?).ok()
}

/// What `text` stands for, written to `buffer`; `None` when MQTT cannot carry it.
fn unescaped<'b>(text: &[u8], buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    buffer.clear();
    put_unescaped(text, buffer)?;
    (buffer.len() <= STRING_BYTES_MAX).then_some(buffer)
}

fn unescaped_text<'b>(text: &[u8], buffer: &'b mut Vec<u8>) -> Option<&'b str> {
    mqtt_text(unescaped(text, buffer)?)
}

/// `bytes` as a UTF-8 Encoded String. Source: MQTT 5.0 §1.5.4.
fn mqtt_text(bytes: &[u8]) -> Option<&str> {
    let fits = bytes.len() <= STRING_BYTES_MAX && memchr::memchr(0, bytes).is_none();
    std::str::from_utf8(bytes).ok().filter(|_| fits)
}

/// What all our names start with.
const NAMES: &[u8] = b"Mqtt-";
const QOS: &str = "Mqtt-QoS";
const RETAIN: &str = "Mqtt-Retain";
const CLIENT_ID: &str = "Mqtt-Client-Id";
const MOUNTPOINT: &str = "Mqtt-Mountpoint";
const EXPIRY: &str = "Mqtt-Message-Expiry-Interval";
const PAYLOAD_FORMAT: &str = "Mqtt-Payload-Format-Indicator";
const CONTENT_TYPE: &str = "Mqtt-Content-Type";
const RESPONSE_TOPIC: &str = "Mqtt-Response-Topic";
const CORRELATION_DATA: &str = "Mqtt-Correlation-Data";
const USER_PROPERTY: &str = "Mqtt-User-Property";
/// Of a publish that its gateway may have to find again.
pub(crate) const MESSAGE_ID: &str = "Mqtt-Message-Id";
const ONCE: [&str; 9] = [
    QOS,
    RETAIN,
    CLIENT_ID,
    MOUNTPOINT,
    EXPIRY,
    PAYLOAD_FORMAT,
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
];
/// Source: MQTT 5.0 §1.5.4, §1.5.6.
const STRING_BYTES_MAX: usize = 65_535;

#[cfg(test)]
mod tests;
