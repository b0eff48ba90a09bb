//! Random values of packet fields.

use gateway::proto::mqtt::{PacketId, Property, ProtocolVersion, QoS};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::bodies::VERSIONS;

/// The properties of a packet: what was drawn, and the bytes [`Property::encode`] made of it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    draws: Vec<Draw>,
    pub(super) raw: Vec<u8>,
}

impl Block {
    /// No properties where `version` has none, else this block.
    pub(super) fn raw_for(&self, version: ProtocolVersion) -> &[u8] {
        if version.is_v5() { &self.raw } else { &[] }
    }

    /// The properties as they were drawn.
    pub(super) fn properties(&self) -> impl Iterator<Item = Property<'_>> {
        self.draws.iter().map(Draw::property)
    }
}

/// Material for any property; `id` says which one is made of it.
#[derive(Clone, Debug)]
struct Draw {
    id: u8,
    text: String,
    topic: String,
    data: Vec<u8>,
    number: u32,
}

impl Draw {
    fn property(&self) -> Property<'_> {
        let flag = self.number % 2 == 1;
        let small = self.number as u16;
        match self.id {
            0x01 => Property::PayloadFormatIndicator(flag),
            0x02 => Property::MessageExpiryInterval(self.number),
            0x03 => Property::ContentType(&self.text),
            0x08 => Property::ResponseTopic(&self.topic),
            0x09 => Property::CorrelationData(&self.data),
            0x0b => Property::SubscriptionIdentifier(self.number % 268_435_455 + 1),
            0x11 => Property::SessionExpiryInterval(self.number),
            0x12 => Property::AssignedClientIdentifier(&self.text),
            0x13 => Property::ServerKeepAlive(small),
            0x15 => Property::AuthenticationMethod(&self.text),
            0x16 => Property::AuthenticationData(&self.data),
            0x17 => Property::RequestProblemInformation(flag),
            0x18 => Property::WillDelayInterval(self.number),
            0x19 => Property::RequestResponseInformation(flag),
            0x1a => Property::ResponseInformation(&self.text),
            0x1c => Property::ServerReference(&self.text),
            0x1f => Property::ReasonString(&self.text),
            0x21 => Property::ReceiveMaximum(small.max(1)),
            0x22 => Property::TopicAliasMaximum(small),
            0x23 => Property::TopicAlias(small.max(1)),
            0x24 => Property::MaximumQos(if flag { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
            0x25 => Property::RetainAvailable(flag),
            0x26 => Property::UserProperty(&self.text, &self.topic),
            0x27 => Property::MaximumPacketSize(self.number.max(1)),
            0x28 => Property::WildcardSubscriptionAvailable(flag),
            0x29 => Property::SubscriptionIdentifierAvailable(flag),
            0x2a => Property::SharedSubscriptionAvailable(flag),
            other => unreachable!("property {other:#04x} does not exist"),
        }
    }
}

/// Some of the properties `ids`, in their order.
pub(super) fn block(ids: &'static [u8]) -> impl Strategy<Value = Block> {
    let draws = subsequence(ids, 0..=ids.len())
        .prop_flat_map(|ids| ids.into_iter().map(draw).collect::<Vec<_>>());
    draws.prop_map(|draws| {
        let mut raw = Vec::new();
        for draw in &draws {
            draw.property().encode(&mut raw);
        }
        Block { draws, raw }
    })
}

fn draw(id: u8) -> impl Strategy<Value = Draw> {
    (text(), topic(), data(), any::<u32>()).prop_map(move |(text, topic, data, number)| Draw {
        id,
        text,
        topic,
        data,
        number,
    })
}

pub(super) fn version() -> impl Strategy<Value = ProtocolVersion> {
    select(&VERSIONS)
}

pub(super) fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

pub(super) fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|value| PacketId::new(value).unwrap())
}

/// Any text MQTT can carry.
pub(super) fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,12}"
}

/// A topic name.
pub(super) fn topic() -> impl Strategy<Value = String> {
    "[^\\x00+#]{1,12}"
}

/// Binary data or a payload; sometimes long enough for a longer Remaining Length.
pub(super) fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (any::<u8>(), 100_usize..20_000).prop_map(|(byte, count)| vec![byte; count]),
    ]
}
