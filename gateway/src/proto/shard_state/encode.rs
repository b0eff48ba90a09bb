//! A stored message as a PUBLISH to one client.

use super::Counters;
use crate::proto::mqtt::{
    PacketId, PacketType, Property, ProtocolVersion, PublishHeader, QoS, encode_publish,
    encoded_publish_bytes,
};
use crate::proto::output::Outbox;
use crate::proto::record::Message;
use crate::proto::session::{OutboundAliases, Session, TopicForm};
use crate::proto::time::Timestamp;

/// How a message goes to one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) dup: bool,
    /// Present exactly when `qos` is above 0.
    pub(super) packet_id: Option<PacketId>,
    /// Subscription Identifiers of the matching subscriptions.
    pub(super) identifiers: &'a [u32],
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is in the outbox.
    Sent,
    /// It must not be sent: expired, larger than the client takes, or of a topic for which its tenant has no
    /// words. For the client it is as if it had been delivered. Source: MQTT 5.0 [MQTT-3.1.2-25],
    /// [MQTT-3.3.2-5].
    Dropped,
}

/// The last encoded forms of a message that goes to many clients, for each version: in full, and for the
/// tenant whose it is, as it is of one at most.
#[derive(Debug, Default)]
pub(super) struct FanOut {
    v3: [Form; 2],
    v5: [Form; 2],
}

#[derive(Debug, Default)]
struct Form {
    bytes: Vec<u8>,
    key: Option<(QoS, bool)>,
    packet_id_at: usize,
}

impl FanOut {
    /// Forgets the message before.
    pub(super) fn reset(&mut self) {
        for form in self.v3.iter_mut().chain(&mut self.v5) {
            form.key = None;
        }
    }
}

/// Writes `delivery` to the outbox of the session's connection.
pub(super) fn write_publish(
    session: &mut Session,
    delivery: &Delivery<'_>,
    now: Timestamp,
    scratch: &mut Vec<u8>,
    outbox: &mut Outbox,
    counters: &mut Counters,
) -> Written {
    let Some(connection) = session.connection else {
        return Written::Dropped;
    };
    let message = delivery.message;
    // What was sent once does not expire any more: MQTT 5.0 [MQTT-4.3.3-7].
    if !delivery.dup && message.expires_at().is_some_and(|at| at <= now) {
        counters.dropped_expired += 1;
        return Written::Dropped;
    }
    scratch.clear();
    let version = session.connected.version;
    let Some(mut topic) = session.own_topic(message.topic) else {
        return Written::Dropped;
    };
    if version == ProtocolVersion::V5 {
        let alias_maximum = session.connected.topic_alias_maximum;
        put_properties(delivery, now, scratch);
        let header = PublishHeader { topic, ..header(delivery, topic) };
        let full_bytes = encoded_publish_bytes(
            version,
            &header,
            &[scratch, message.properties],
            message.payload,
        );
        let bytes_max = session.connected.maximum_packet_size as usize;
        if full_bytes > bytes_max {
            counters.dropped_too_large += 1;
            return Written::Dropped;
        }
        // An alias is only agreed on by a packet that is really sent.
        if alias_maximum > 0 && full_bytes + ALIAS_BYTES_MAX <= bytes_max {
            topic = put_alias(session, alias_maximum, topic, scratch);
        }
    }
    let header = header(delivery, topic);
    outbox.write(connection.index, PacketType::Publish, |out| {
        encode_publish(out, version, &header, &[scratch, message.properties], message.payload);
    });
    count_sent(counters, delivery.qos);
    Written::Sent
}

/// As [`write_publish`] for one of many receivers, without identifiers: the bytes are encoded once
/// and copied, with another packet id each.
pub(super) fn write_shared(
    session: &mut Session,
    delivery: &Delivery<'_>,
    now: Timestamp,
    fan_out: &mut FanOut,
    scratch: &mut Vec<u8>,
    outbox: &mut Outbox,
    counters: &mut Counters,
) -> Written {
    let is_v5 = session.connected.version == ProtocolVersion::V5;
    let [full, mounted] = if is_v5 { &mut fan_out.v5 } else { &mut fan_out.v3 };
    let form = if session.is_mounted() { mounted } else { full };
    let Some(connection) = session.connection else {
        return Written::Dropped;
    };
    let is_alike = session.connected.topic_alias_maximum == 0 && delivery.identifiers.is_empty();
    if !is_alike {
        return write_publish(session, delivery, now, scratch, outbox, counters);
    }
    let Some(topic) = session.own_topic(delivery.message.topic) else {
        return Written::Dropped;
    };
    if form.key != Some((delivery.qos, delivery.retain)) {
        if delivery.message.expires_at().is_some_and(|at| at <= now) {
            counters.dropped_expired += 1;
            return Written::Dropped;
        }
        form.encode(delivery, topic, session.connected.version, now, scratch);
    }
    if form.bytes.len() > session.connected.maximum_packet_size as usize {
        counters.dropped_too_large += 1;
        return Written::Dropped;
    }
    let buffer = outbox.buffer(connection.index);
    let start = buffer.len();
    buffer.extend_from_slice(&form.bytes);
    if let Some(id) = delivery.packet_id
        && let Some(place) = buffer.get_mut(start + form.packet_id_at..)
        && let Some(place) = place.first_chunk_mut()
    {
        *place = id.get().to_be_bytes();
    }
    outbox.sent.packets.add(PacketType::Publish, form.bytes.len());
    if outbox.traces.has(connection.index) {
        outbox.trace_sent(connection.index, start);
    }
    count_sent(counters, delivery.qos);
    Written::Sent
}

impl Form {
    fn encode(
        &mut self,
        delivery: &Delivery<'_>,
        topic: &str,
        version: ProtocolVersion,
        now: Timestamp,
        scratch: &mut Vec<u8>,
    ) {
        let message = delivery.message;
        scratch.clear();
        if version == ProtocolVersion::V5 {
            put_properties(delivery, now, scratch);
        }
        self.bytes.clear();
        let header = header(delivery, topic);
        let parts: [&[u8]; 2] = [scratch, message.properties];
        encode_publish(&mut self.bytes, version, &header, &parts, message.payload);
        self.key = Some((delivery.qos, delivery.retain));
        // Fixed header: one byte and the Remaining Length, whose bytes but the last have bit 7 set.
        let length_bytes = self
            .bytes
            .iter()
            .skip(1)
            .position(|byte| byte & 0x80 == 0)
            .map_or(1, |position| position + 1);
        self.packet_id_at = 1 + length_bytes + 2 + topic.len();
    }
}

/// What a Topic Alias adds to a packet at most: the property, and a byte more for the Property Length
/// and for the Remaining Length.
const ALIAS_BYTES_MAX: usize = 5;

fn header<'a>(delivery: &Delivery<'_>, topic: &'a str) -> PublishHeader<'a> {
    PublishHeader {
        dup: delivery.dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic,
        packet_id: delivery.packet_id,
    }
}

/// The properties that are not stored with the message: what is left of its expiry interval
/// (MQTT 5.0 [MQTT-3.3.2-6]) and the subscription identifiers ([MQTT-3.3.4-3] to [MQTT-3.3.4-5]).
fn put_properties(delivery: &Delivery<'_>, now: Timestamp, out: &mut Vec<u8>) {
    if let Some(interval_s) = delivery.message.expiry_interval_s {
        let waited_s = now.millis_since(delivery.message.received_at) / 1_000;
        let waited_s = u32::try_from(waited_s).unwrap_or(u32::MAX);
        Property::MessageExpiryInterval(interval_s.saturating_sub(waited_s)).encode(out);
    }
    for identifier in delivery.identifiers {
        Property::SubscriptionIdentifier(*identifier).encode(out);
    }
}

fn put_alias<'a>(
    session: &mut Session,
    maximum: u16,
    topic: &'a str,
    out: &mut Vec<u8>,
) -> &'a str {
    let aliases = session.aliases.get_or_insert_with(|| Box::new(OutboundAliases::default()));
    match aliases.form(topic, maximum) {
        TopicForm::Full => topic,
        TopicForm::Introduce(alias) => {
            Property::TopicAlias(alias).encode(out);
            topic
        }
        TopicForm::Alias(alias) => {
            Property::TopicAlias(alias).encode(out);
            ""
        }
    }
}

fn count_sent(counters: &mut Counters, qos: QoS) {
    if let Some(count) = counters.publish_sent.get_mut(qos as usize) {
        *count += 1;
    }
}
