//! Properties of the codec, over random bytes, damaged packets and random values.

pub(crate) mod bodies;
mod bridge;
mod nats;
pub(crate) mod nats_bodies;
mod values;

use gateway::config::{Environment, Request};
use gateway::proto::mqtt::ProtocolVersion::V5;
use gateway::proto::mqtt::{
    Auth, Connack, Connect, DecodeContext, Disconnect, Packet, Properties, ProtocolVersion,
    Publish, PublishAck, QoS, ReasonCode, RetainHandling, Role, SHARE_PREFIX, SubscribeAck,
    SubscriptionOptions, Will, decode, encode_subscribe, encode_unsubscribe, is_valid_filter,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::allocations;
use crate::codec::{MAXIMUM_PACKET_SIZE, Sample, samples};
use bodies::{VERSIONS, decodes, encoded, packets, splitting_changes_nothing, walk};
use values::{Block, block, data, packet_id, qos, text, topic, version};

/// Every context a reader can be in, with a limit that lets everything pass and a small one.
fn contexts() -> impl Iterator<Item = DecodeContext> {
    VERSIONS.into_iter().flat_map(|version| {
        [Role::Server, Role::Client].into_iter().flat_map(move |role| {
            [MAXIMUM_PACKET_SIZE, 16].map(|maximum_packet_size| DecodeContext {
                version,
                maximum_packet_size,
                role,
            })
        })
    })
}

/// A good packet of any kind.
fn sample() -> impl Strategy<Value = Sample> {
    select(samples())
}

/// One change to a packet: at a place, a byte is replaced, put in, taken out, or all that follows
/// is cut off.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let place = |index: &Index| index.index(bytes.len());
        match self {
            Self::Replace(index, byte) => {
                let at = place(index);
                bytes[at] = *byte;
            }
            Self::Insert(index, byte) => bytes.insert(place(index), *byte),
            Self::Remove(index) => {
                bytes.remove(place(index));
            }
            Self::Truncate(index) => bytes.truncate(place(index)),
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => any::<Index>().prop_map(Damage::Truncate),
    ];
    prop::collection::vec(one, 1..6)
}

/// A packet whose bytes were damaged, but not the length that says where it ends: the damage is
/// then found inside the packet instead of in front of it.
fn damaged_inside(sample: &Sample, damage: &[Damage]) -> Vec<u8> {
    let mut body = sample.bytes[2..].to_vec();
    damage.iter().for_each(|damage| damage.apply(&mut body));
    body.truncate(0x7f);
    [&[sample.bytes[0], body.len() as u8], &body[..]].concat()
}

proptest! {
    #[test]
    fn decoding_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        contexts().for_each(|context| decodes(&bytes, context));
    }

    #[test]
    fn decoding_survives_damaged_packets(sample in sample(), damage in damage()) {
        let mut bytes = sample.bytes.clone();
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        contexts().for_each(|context| decodes(&bytes, context));
        let inside = damaged_inside(&sample, &damage);
        contexts().for_each(|context| decodes(&inside, context));
    }

    #[test]
    fn splitting_the_stream_changes_nothing(
        version in version(),
        role in select(&[Role::Server, Role::Client]),
        chosen in prop::collection::vec(any::<Index>(), 1..12),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
        damage in prop::option::of(damage()),
    ) {
        let all: Vec<_> = samples()
            .into_iter()
            .filter(|sample| (sample.version, sample.role) == (version, role))
            .collect();
        let mut stream = Vec::new();
        for index in &chosen {
            stream.extend_from_slice(&index.get(&all).bytes);
        }
        let context = DecodeContext { version, maximum_packet_size: MAXIMUM_PACKET_SIZE, role };
        if let Some(damage) = damage {
            damage.iter().for_each(|damage| damage.apply(&mut stream));
        } else {
            let (packets, error) = packets(&stream, [], context);
            prop_assert_eq!((packets.len(), error), (chosen.len(), None));
        }
        let mut arrivals: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        arrivals.sort_unstable();
        splitting_changes_nothing(&stream, arrivals, context);
        splitting_changes_nothing(&stream, 0..stream.len(), context);
    }

    #[test]
    fn decoding_allocates_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        sample in sample(),
        damage in damage(),
    ) {
        for bytes in [&bytes, &sample.bytes, &damaged_inside(&sample, &damage)] {
            for context in contexts() {
                let (_, allocations) = allocations::count(|| {
                    decode(bytes, context).map(|read| read.map(|(packet, _)| walk(&packet)))
                });
                prop_assert_eq!(allocations, 0, "{:02x?}", bytes);
            }
        }
    }
}

/// Lengths that a packet announces cost nothing until its bytes are there.
#[test]
fn announced_lengths_allocate_nothing() {
    let announced: [&[u8]; 6] = [
        b"\xff\xff\xff\x7f",
        b"\xff\xff\xff\x7f\xff\xff",
        b"\x04\xff\xff\xff\xff",
        b"\x07\x00\x0a\x00\xff\xff\xff\x7f",
        b"\x08\x00\x01t\xff\xff\xff\x7f",
        b"\x0f\x00\x04MQTT\x05\xc6\xff\xff\xff\xff\xff\x7f\x00",
    ];
    for first in 0..=u8::MAX {
        for rest in announced {
            let bytes = [&[first], rest].concat();
            for context in contexts() {
                let (_, allocations) = allocations::count(|| decode(&bytes, context).is_ok());
                assert_eq!(allocations, 0, "{bytes:02x?} {context:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn connect_is_read_as_written(
        version in version(),
        clean_start: bool,
        keep_alive_s: u16,
        properties in block(b"\x11\x15\x16\x17\x19\x21\x22\x26\x26\x27")
            .prop_filter("data needs a method", has_method_with_data),
        client_id in text(),
        will in prop::option::of((
            qos(), any::<bool>(), block(b"\x01\x02\x03\x08\x09\x18\x26\x26"), topic(), data()
        )),
        user_name in prop::option::of(text()),
        password in prop::option::of(data()),
    ) {
        let connect = Connect {
            version,
            clean_start,
            keep_alive_s,
            properties: Properties::from_validated(properties.raw_for(version)),
            client_id: &client_id,
            will: will.as_ref().map(|(qos, retain, properties, topic, payload)| Will {
                qos: *qos,
                retain: *retain,
                properties: Properties::from_validated(properties.raw_for(version)),
                topic,
                payload,
            }),
            user_name: user_name.as_deref(),
            password: password.as_deref().filter(|_| version.is_v5() || user_name.is_some()),
        };
        check(&Packet::Connect(connect), version, Role::Server);
        check_block(&properties);
    }

    #[test]
    fn publish_is_read_as_written(
        version in version(),
        (dup, qos, retain) in (any::<bool>(), qos(), any::<bool>()),
        packet_id in packet_id(),
        properties in block(b"\x01\x02\x03\x08\x09\x0b\x0b\x0b\x23\x26\x26"),
        topic in topic(),
        payload in data(),
    ) {
        let above_qos_0 = qos != QoS::AtMostOnce;
        let publish = Publish {
            dup: dup && above_qos_0,
            qos,
            retain,
            topic: &topic,
            packet_id: above_qos_0.then_some(packet_id),
            properties: Properties::from_validated(properties.raw_for(version)),
            payload: &payload,
        };
        check(&Packet::Publish(publish), version, Role::Client);
        check_block(&properties);
    }

    #[test]
    fn publish_acks_are_read_as_written(
        version in version(),
        packet_id in packet_id(),
        failed: bool,
        properties in block(b"\x1f\x26\x26\x26"),
    ) {
        let ack = |failure| PublishAck {
            packet_id,
            reason_code: if failed && version.is_v5() { failure } else { ReasonCode::Success },
            properties: Properties::from_validated(properties.raw_for(version)),
        };
        for role in [Role::Server, Role::Client] {
            check(&Packet::Puback(ack(ReasonCode::QuotaExceeded)), version, role);
            check(&Packet::Pubrec(ack(ReasonCode::NotAuthorized)), version, role);
            check(&Packet::Pubrel(ack(ReasonCode::PacketIdentifierNotFound)), version, role);
            check(&Packet::Pubcomp(ack(ReasonCode::PacketIdentifierNotFound)), version, role);
        }
        check_block(&properties);
    }

    #[test]
    fn subscribe_and_unsubscribe_are_read_as_written(
        version in version(),
        packet_id in packet_id(),
        properties in block(b"\x0b\x26\x26"),
        user_properties in block(b"\x26\x26"),
        filters in prop::collection::vec((topic(), options()), 1..8),
    ) {
        let filters: Vec<_> = filters
            .iter()
            .map(|(filter, options)| match version {
                V5 => (filter.as_str(), *options),
                _ => (filter.as_str(), SubscriptionOptions { qos: options.qos, ..PLAIN_OPTIONS }),
            })
            .collect();
        let context =
            DecodeContext { version, maximum_packet_size: MAXIMUM_PACKET_SIZE, role: Role::Server };

        let mut bytes = Vec::new();
        let written = Properties::from_validated(properties.raw_for(version));
        encode_subscribe(packet_id, written, &filters, version, &mut bytes);
        let (read, _) = decode(&bytes, context).unwrap().unwrap();
        let Packet::Subscribe(subscribe) = read else { panic!("{read:?}") };
        prop_assert_eq!((subscribe.packet_id, subscribe.properties), (packet_id, written));
        prop_assert_eq!(subscribe.filters.iter().collect::<Vec<_>>(), filters.clone());

        let mut bytes = Vec::new();
        let written = Properties::from_validated(user_properties.raw_for(version));
        let filters: Vec<_> = filters.iter().map(|(filter, _)| *filter).collect();
        encode_unsubscribe(packet_id, written, &filters, version, &mut bytes);
        let (read, _) = decode(&bytes, context).unwrap().unwrap();
        let Packet::Unsubscribe(unsubscribe) = read else { panic!("{read:?}") };
        prop_assert_eq!((unsubscribe.packet_id, unsubscribe.properties), (packet_id, written));
        prop_assert_eq!(unsubscribe.filters.iter().collect::<Vec<_>>(), filters);
    }

    #[test]
    fn what_a_server_answers_is_read_as_written(
        version in version(),
        session_present: bool,
        packet_id in packet_id(),
        connack in block(b"\x11\x12\x13\x15\x1a\x1c\x1f\x21\x22\x24\x25\x26\x26\x27\x28\x29\x2a"),
        properties in block(b"\x1f\x26\x26"),
        codes in prop::collection::vec(select(&[0x00, 0x01, 0x02, 0x80]), 1..300),
    ) {
        let packet = Packet::Connack(Connack {
            session_present: session_present && version != ProtocolVersion::V3_1,
            code: 0,
            properties: Properties::from_validated(connack.raw_for(version)),
        });
        check(&packet, version, Role::Client);
        check_block(&connack);

        let properties = Properties::from_validated(properties.raw_for(version));
        let ack = SubscribeAck { packet_id, properties, codes: &codes };
        check(&Packet::Suback(ack), version, Role::Client);
        let codes = if version.is_v5() { ack.codes } else { &[] };
        check(&Packet::Unsuback(SubscribeAck { codes, ..ack }), version, Role::Client);
    }

    #[test]
    fn disconnect_and_auth_are_read_as_written(
        from_client in block(b"\x11\x1f\x26\x26"),
        from_server in block(b"\x1c\x1f\x26"),
        auth in block(b"\x15\x16\x1f\x26\x26").prop_filter("AUTH has a method", |block| {
            block.raw.starts_with(b"\x15")
        }),
    ) {
        let disconnect = |reason_code, block: &Block| {
            let packet = Packet::Disconnect(Disconnect {
                reason_code,
                properties: Properties::from_validated(&block.raw),
            });
            let role = if reason_code == ReasonCode::ServerBusy { Role::Client } else { Role::Server };
            check(&packet, V5, role);
        };
        disconnect(ReasonCode::Success, &from_client);
        disconnect(ReasonCode::DisconnectWithWillMessage, &from_client);
        disconnect(ReasonCode::ServerBusy, &from_server);

        let packet = Packet::Auth(Auth {
            reason_code: ReasonCode::ContinueAuthentication,
            properties: Properties::from_validated(&auth.raw),
        });
        check(&packet, V5, Role::Server);
        check(&packet, V5, Role::Client);
        check_block(&auth);
    }
}

const PLAIN_OPTIONS: SubscriptionOptions = SubscriptionOptions {
    qos: QoS::AtMostOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::SendAtSubscribe,
};

fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let retain_handling = select(&[
        RetainHandling::SendAtSubscribe,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (qos(), any::<bool>(), any::<bool>(), retain_handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| SubscriptionOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn has_method_with_data(block: &Block) -> bool {
    let ids: Vec<_> = block.properties().map(|property| property.id()).collect();
    !ids.contains(&0x16) || ids.contains(&0x15)
}

/// Decodes what encoding `packet` wrote.
#[track_caller]
fn check(packet: &Packet<'_>, version: ProtocolVersion, role: Role) {
    let bytes = encoded(packet, version);
    let context = DecodeContext { version, maximum_packet_size: MAXIMUM_PACKET_SIZE, role };
    assert_eq!(decode(&bytes, context), Ok(Some((*packet, bytes.len()))));
}

/// Reads the properties of a block as they were drawn.
#[track_caller]
fn check_block(block: &Block) {
    let read: Vec<_> = Properties::from_validated(&block.raw).iter().collect();
    assert_eq!(read, block.properties().collect::<Vec<_>>());
}

/// The configuration may not use the codec, so each has the rules of topic filters.
#[test]
fn a_filter_can_be_refused_if_it_can_be_subscribed_to() {
    let environment = Environment {
        cores: 1,
        memory_bytes: 8 << 30,
        state_directory: None,
        host_name: "host".to_owned(),
    };
    let mut texts = vec![String::new()];
    for length in 0..4 {
        let longer: Vec<String> = texts
            .iter()
            .filter(|text| text.len() == length)
            .flat_map(|text| ["a", "+", "#", "/", "\0"].map(|next| format!("{text}{next}")))
            .collect();
        texts.extend(longer);
    }
    assert_eq!(texts.len(), 781);
    texts.extend(["$share", "$share/", "$share/g/a", "$sharee/#"].map(str::to_owned));
    for text in texts {
        let arguments = ["gateway".to_owned(), format!("--subscribe-refused={text}")];
        let request = Request::from_command_line(arguments, &environment);
        let expected = is_valid_filter(&text) && !text.starts_with(SHARE_PREFIX);
        assert_eq!(matches!(request, Request::Run(_)), expected, "{text:?}");
    }
}
