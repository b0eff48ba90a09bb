//! Topics that only applications read: stored apart, republished to nobody, sent to no device.

use super::device::{Device, at};
use super::proxy::Proxy;
use super::site::{Node, Site, flags, topics_at};
use crate::process::gateway::PATIENCE;
use async_nats::jetstream::{self, Context, consumer::pull};
use futures_lite::StreamExt as _;
use gateway::proto::mqtt::{QoS, ReasonCode};
use std::future::Future;

/// A gateway in front of the sub-clusters at these addresses, with topics for applications only.
fn node(addresses: &[std::net::SocketAddr]) -> Node {
    let mut flags = flags("g1", "local", addresses);
    flags.extend(["--uplink", "telemetry/#", "--uplink", "t0/+"].map(str::to_owned));
    let mut node = Node::start_with(flags);
    node.wait_until_live(addresses.len());
    node
}

async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it ends in time")
}

fn block_on<T>(scene: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(patiently(scene))
}

/// Subject and payload of all that is in a stream.
async fn stored(context: &Context, stream: &str) -> Vec<(String, String)> {
    let stream = context.get_stream(stream).await.unwrap();
    let count = stream.get_info().await.unwrap().state.messages;
    let count = usize::try_from(count).unwrap();
    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let messages = consumer.messages().await.unwrap().take(count);
    let texts = messages.map(|message| {
        let message = message.unwrap();
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        (message.subject.to_string(), payload)
    });
    texts.collect().await
}

fn texts(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(subject, text)| ((*subject).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn what_is_for_applications_is_stored_apart_and_sent_to_no_device() {
    let site = Site::start();
    let node = node(&site.addresses()[..1]);
    let address = node.address().unwrap();
    let mut wide = Device::brief(address, "wide");
    wide.listen(&["#", "+/1", "$SYS/none"], QoS::ExactlyOnce);
    let refused = ReasonCode::TopicFilterInvalid as u8;
    for filter in ["telemetry", "telemetry/1", "telemetry/#", "$share/g/telemetry/+", "t0/1"] {
        assert_eq!(wide.subscribe(&[(filter, at(QoS::AtLeastOnce))]), [refused], "{filter}");
    }
    block_on(async {
        let client = async_nats::connect(site.addresses()[0].to_string()).await.unwrap();
        let mut live = client.subscribe("live.0.mqtt_uplink.>").await.unwrap();
        client.flush().await.unwrap();
        let context = jetstream::new(client);
        let mut device = Device::brief(address, "device");
        device.publish("telemetry/1", QoS::AtLeastOnce, "a");
        device.retain("telemetry/1", QoS::ExactlyOnce, "b");
        device.publish("telemetry/1", QoS::AtMostOnce, "c");
        device.retain("telemetry/x y", QoS::AtMostOnce, "d");
        device.publish("t0/1", QoS::AtLeastOnce, "e");
        device.publish("t0/1/2", QoS::AtLeastOnce, "last");
        let received: Vec<_> = wide.messages(1).iter().map(|one| one.text().to_owned()).collect();
        assert_eq!(received, ["last"], "and nothing before it");
        let expected = [
            ("mqtt_uplink.telemetry.1", "a"),
            ("mqtt_uplink.telemetry.1", "b"),
            ("mqtt_uplink.t0.1", "e"),
        ];
        assert_eq!(stored(&context, "MQTT_UPLINK_0").await, texts(&expected));
        assert_eq!(stored(&context, "MQTT_0").await, texts(&[("mqtt.t0.1.2", "last")]));
        assert!(stored(&context, "MQTT_RETAINED_0").await.is_empty());
        for (subject, payload) in
            [("live.0.mqtt_uplink.telemetry.1", "c"), ("live.0.mqtt_uplink.telemetry.x%20y", "d")]
        {
            let message = live.next().await.unwrap();
            assert_eq!(
                (message.subject.as_str(), &*message.payload),
                (subject, payload.as_bytes())
            );
        }
    });
}

/// Nothing but the link knows of what was sent and not acknowledged when it was cut: with a stream that
/// forgets names at once only a look at it keeps a message from being stored twice.
#[test]
fn what_was_in_doubt_when_a_link_was_cut_is_stored_once() {
    let site = Site::start();
    let mut addresses = site.addresses()[..1].to_vec();
    let mut proxy = Proxy::start(addresses[0]);
    addresses[0] = proxy.address();
    let node = node(&addresses);
    block_on(async {
        let client = async_nats::connect(site.addresses()[0].to_string()).await.unwrap();
        let context = jetstream::new(client);
        let mut config =
            context.get_stream("MQTT_UPLINK_0").await.unwrap().cached_info().config.clone();
        config.duplicate_window = std::time::Duration::from_millis(100);
        context.update_stream(config).await.unwrap();
        let device_address = node.address().unwrap();
        let publisher = std::thread::spawn(move || {
            let mut device = Device::brief(device_address, "device");
            for number in 0..400 {
                let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                device.publish(&format!("telemetry/{}", number % 3), qos, number.to_string());
            }
        });
        let uplink = context.get_stream("MQTT_UPLINK_0").await.unwrap();
        for count in [50, 150, 250] {
            while uplink.get_info().await.unwrap().state.messages < count {
                tokio::task::yield_now().await;
            }
            proxy.cut();
            proxy.mend();
        }
        while !publisher.is_finished() {
            tokio::task::yield_now().await;
        }
        publisher.join().unwrap();
        let numbers: Vec<u32> = stored(&context, "MQTT_UPLINK_0")
            .await
            .iter()
            .map(|(_, text)| text.parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..400).collect::<Vec<_>>());
    });
}

/// Each sub-cluster has its part of these topics, as of all others.
#[test]
fn topics_for_applications_are_spread_over_the_sub_clusters() {
    let site = Site::start();
    let node = node(&site.addresses());
    let mut device = Device::brief(node.address().unwrap(), "device");
    for place in 0..3_u16 {
        let topic = topics_at(place, 60).into_iter().find(|topic| topic.starts_with("t0/"));
        device.publish(topic.expect("one of sixty"), QoS::ExactlyOnce, "here");
        block_on(async {
            let address = site.addresses()[usize::from(place)];
            let context = jetstream::new(async_nats::connect(address.to_string()).await.unwrap());
            let all = stored(&context, &format!("MQTT_UPLINK_{place}")).await;
            assert_eq!(all.len(), 1, "{place}");
        });
    }
}
