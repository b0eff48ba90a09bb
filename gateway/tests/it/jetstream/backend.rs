//! Applications that speak NATS only: what they read of devices, and what they tell them.

use super::device::Device;
use super::site::{Node, Site};
use crate::process::gateway::PATIENCE;
use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context, consumer::DeliverPolicy, consumer::pull};
use futures_lite::StreamExt as _;
use gateway::proto::mqtt::{Property, QoS};
use std::future::Future;
use std::time::Duration;

/// Runs `scene` with a site and one gateway, and a client of the sub-cluster that has everything:
/// with one member the ring needs no looking up.
fn run<F: Future<Output = ()>>(scene: impl FnOnce(Node, Context) -> F) {
    let site = Site::start();
    let mut node = Node::start("g1", &site.addresses()[..1]);
    node.wait_until_live(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(site.addresses()[0].to_string()).await.unwrap();
        let scene = scene(node, jetstream::new(client));
        tokio::time::timeout(PATIENCE, scene).await.expect("it ends in time");
    });
}

/// The messages of the stream, from the first on.
async fn messages(context: &Context, filter: &str) -> pull::Stream {
    let stream = context.get_stream("MQTT_0").await.unwrap();
    let config = pull::Config {
        filter_subject: filter.to_owned(),
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap().messages().await.unwrap()
}

#[test]
fn a_backend_reads_what_devices_publish() {
    run(|node, context| async move {
        let mut device = Device::brief(node.address().unwrap(), "dev 1");
        let properties = [
            Property::PayloadFormatIndicator(true),
            Property::MessageExpiryInterval(600),
            Property::ContentType("application/json"),
            Property::ResponseTopic("reply/dev1"),
            Property::CorrelationData(b"\x00\x01=%"),
            Property::UserProperty("a=b", "c d"),
            Property::UserProperty("Nats-Msg-Id", "x"),
        ];
        device.publish("plain/1", QoS::AtLeastOnce, "plain");
        device.publish_with("up/dev.1//x y", QoS::ExactlyOnce, true, &properties, "{}");
        device.publish("live/only", QoS::AtMostOnce, "is not stored");
        device.publish("plain/2", QoS::AtLeastOnce, b"\x00\xff");

        let mut stored = messages(&context, "mqtt.>").await;
        let first = stored.next().await.unwrap().unwrap();
        assert_eq!((first.subject.as_str(), &first.payload[..]), ("mqtt.plain.1", &b"plain"[..]));
        let headers = first.headers.as_ref().unwrap();
        let get = |headers: &HeaderMap, name: &str| {
            headers.get_all(name).map(|value| value.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(get(headers, "Mqtt-Client-Id"), ["dev 1"]);
        assert!(get(headers, "Mqtt-QoS").is_empty(), "1 needs no header");

        let second = stored.next().await.unwrap().unwrap();
        assert_eq!(second.subject.as_str(), "mqtt.up.dev%2E1./.x%20y");
        let headers = second.headers.as_ref().unwrap();
        for (name, values) in [
            ("Mqtt-QoS", &["2"][..]),
            ("Mqtt-Retain", &["1"]),
            ("Mqtt-Payload-Format-Indicator", &["1"]),
            ("Mqtt-Message-Expiry-Interval", &["600"]),
            ("Mqtt-Content-Type", &["application/json"]),
            ("Mqtt-Response-Topic", &["reply/dev1"]),
            ("Mqtt-Correlation-Data", &["%00%01=%25"]),
            ("Mqtt-User-Property", &["a%3Db=c d", "Nats-Msg-Id=x"]),
        ] {
            assert_eq!(get(headers, name), values, "{name}");
        }
        let third = stored.next().await.unwrap().unwrap();
        assert_eq!(
            (third.subject.as_str(), &third.payload[..]),
            ("mqtt.plain.2", &b"\x00\xff"[..])
        );
    });
}

#[test]
fn a_backend_tells_devices_what_to_do() {
    run(|node, context| async move {
        let mut device = Device::brief(node.address().unwrap(), "dev1");
        device.listen(&["cmd/dev1"], QoS::ExactlyOnce);
        let mut wide = Device::brief(node.address().unwrap(), "wide");
        wide.listen(&["cmd/#"], QoS::ExactlyOnce);

        context.publish("mqtt.cmd.dev1", "plain".into()).await.unwrap().await.unwrap();
        for client in [&mut device, &mut wide] {
            let message = client.message();
            assert_eq!((message.topic.as_str(), message.text()), ("cmd/dev1", "plain"));
            assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
            assert_eq!(message.properties().count(), 0);
        }

        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Mqtt-QoS", "2"),
            ("Mqtt-Message-Expiry-Interval", "100"),
            ("Mqtt-Content-Type", "text/plain"),
            ("Mqtt-Response-Topic", "answers/1"),
            ("Mqtt-Correlation-Data", "%00%FF"),
            ("Mqtt-User-Property", "k=v"),
            ("Mqtt-User-Property", "k=v%3D"),
            ("Something-Else", "is not for devices"),
        ] {
            headers.append(name, value);
        }
        let publish = context.publish_with_headers("mqtt.cmd.dev1", headers, "full".into());
        publish.await.unwrap().await.unwrap();
        for client in [&mut device, &mut wide] {
            let message = client.message();
            assert_eq!((message.text(), message.qos), ("full", QoS::ExactlyOnce));
            let properties: Vec<_> = message.properties().collect();
            let expiry = properties.iter().find_map(|property| match property {
                Property::MessageExpiryInterval(seconds) => Some(*seconds),
                _ => None,
            });
            assert!(expiry.is_some_and(|seconds| (1..=100).contains(&seconds)), "{expiry:?}");
            for property in [
                Property::ContentType("text/plain"),
                Property::ResponseTopic("answers/1"),
                Property::CorrelationData(b"\x00\xff"),
                Property::UserProperty("k", "v"),
                Property::UserProperty("k", "v="),
            ] {
                assert!(properties.contains(&property), "{property:?} of {properties:?}");
            }
            assert_eq!(properties.len(), 6);
        }

        // What cannot be read is left out, and what is no topic reaches nobody.
        let mut headers = HeaderMap::new();
        headers.append("Mqtt-QoS", "3");
        headers.append("Mqtt-Content-Type", "%zz");
        let publish = context.publish_with_headers("mqtt.cmd.dev1", headers, "odd".into());
        publish.await.unwrap().await.unwrap();
        context.publish("mqtt.cmd.%zz", "no topic".into()).await.unwrap().await.unwrap();
        context.publish("mqtt.cmd.dev1", "last".into()).await.unwrap().await.unwrap();
        for client in [&mut device, &mut wide] {
            let message = client.message();
            assert_eq!((message.text(), message.qos), ("odd", QoS::AtLeastOnce));
            assert_eq!(client.message().text(), "last");
        }
    });
}

/// What a backend publishes is there for devices that were asleep, too.
#[test]
fn commands_wait_for_devices_that_are_away() {
    run(|node, context| async move {
        let address = node.address().unwrap();
        let lasting = super::device::Hello::LASTING;
        let mut device = Device::connect(address, "dev1", lasting).0;
        device.listen(&["cmd/dev1/#"], QoS::AtLeastOnce);
        drop(device);
        for number in 0..300 {
            let subject = format!("mqtt.cmd.dev1.{}", number % 7);
            context.publish(subject, number.to_string().into()).await.unwrap().await.unwrap();
        }
        let mut device = Device::connect(address, "dev1", lasting).0;
        let texts: Vec<String> =
            device.messages(300).iter().map(|message| message.text().to_owned()).collect();
        assert_eq!(texts, (0..300).map(|number| number.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_device_answers_a_request_of_a_backend() {
    run(|node, context| async move {
        let mut device = Device::brief(node.address().unwrap(), "dev1");
        device.listen(&["request/dev1"], QoS::AtLeastOnce);
        let mut headers = HeaderMap::new();
        headers.append("Mqtt-Response-Topic", "response/dev1");
        headers.append("Mqtt-Correlation-Data", "42");
        let publish = context.publish_with_headers("mqtt.request.dev1", headers, "how?".into());
        publish.await.unwrap().await.unwrap();

        let request = device.message();
        let mut topic = None;
        let mut correlation = None;
        for property in request.properties() {
            match property {
                Property::ResponseTopic(text) => topic = Some(text.to_owned()),
                Property::CorrelationData(data) => correlation = Some(data.to_owned()),
                other => panic!("{other:?}"),
            }
        }
        let correlation = correlation.unwrap();
        let properties = [Property::CorrelationData(&correlation)];
        device.publish_with(&topic.unwrap(), QoS::AtLeastOnce, false, &properties, "fine");

        let mut answers = messages(&context, "mqtt.response.dev1").await;
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!(&answer.payload[..], b"fine");
        let headers = answer.headers.as_ref().unwrap();
        assert_eq!(headers.get("Mqtt-Correlation-Data").unwrap().as_str(), "42");
    });
}

/// A backend may also publish to the live feed, to whoever is there, and listen to it.
#[test]
fn a_backend_hears_devices_live() {
    run(|node, context| async move {
        let client = context.client();
        let mut live = client.subscribe("live.0.mqtt.up.>").await.unwrap();
        client.flush().await.unwrap();
        let mut device = Device::brief(node.address().unwrap(), "dev1");
        for (qos, text) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1")] {
            device.publish("up/x", qos, text);
            let message = tokio::time::timeout(Duration::from_secs(30), live.next()).await;
            let message = message.unwrap().unwrap();
            assert_eq!(&message.payload[..], text.as_bytes());
        }
    });
}
