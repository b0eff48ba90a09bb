//! `rumqttc`, the Rust client.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, PATIENCE};
use rumqttc::{Client, Connection, Event, LastWill, MqttOptions, Packet, Publish, QoS};

/// A client and the loop that drives it.
struct Driven {
    client: Client,
    connection: Connection,
}

impl Driven {
    /// Connects and waits for CONNACK.
    fn connect(mut options: MqttOptions, clean: bool, will: Option<LastWill>) -> Self {
        options.set_clean_session(clean);
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (client, connection) = Client::new(options, 16);
        let mut driven = Self { client, connection };
        driven.until(|packet| matches!(packet, Packet::ConnAck(_)));
        driven
    }

    fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::ExactlyOnce).unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_)));
    }

    fn publish(&self, topic: &str, qos: QoS, retain: bool) {
        self.client.publish(topic, qos, retain, topic.as_bytes()).unwrap();
    }

    /// The next message.
    fn message(&mut self) -> Publish {
        match self.until(|packet| matches!(packet, Packet::Publish(_))) {
            Packet::Publish(publish) => publish,
            other => unreachable!("just matched, {other:?}"),
        }
    }

    /// Drives the connection until a packet comes that is `wanted`.
    fn until(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        loop {
            let event = self.connection.recv_timeout(PATIENCE).expect("it comes in time");
            if let Event::Incoming(packet) = event.expect("no error of the connection")
                && wanted(&packet)
            {
                return packet;
            }
        }
    }

    /// Says goodbye and drives the connection to its end.
    fn disconnect(mut self) {
        self.client.disconnect().unwrap();
        while let Ok(Ok(_)) = self.connection.recv_timeout(PATIENCE) {}
    }
}

/// Messages of each QoS, a will, what is retained and a session, with what a client id needs to get
/// to the gateway.
pub(crate) fn play(options: impl Fn(&str) -> MqttOptions) {
    let mut watcher = Driven::connect(options("rust-watcher"), true, None);
    watcher.subscribe("rust/#");
    for (topic, qos) in
        [("rust/0", QoS::AtMostOnce), ("rust/1", QoS::AtLeastOnce), ("rust/2", QoS::ExactlyOnce)]
    {
        watcher.publish(topic, qos, false);
        let message = watcher.message();
        assert_eq!((message.topic.as_str(), message.qos), (topic, qos));
    }

    let will = LastWill::new("rust/will", "gone", QoS::AtLeastOnce, true);
    drop(Driven::connect(options("rust-mortal"), true, Some(will)));
    assert_eq!(watcher.message().payload, "gone");
    let mut late = Driven::connect(options("rust-late"), true, None);
    late.subscribe("rust/will");
    assert!(late.message().retain);

    let mut sleeper = Driven::connect(options("rust-sleeper"), false, None);
    sleeper.subscribe("rust/away");
    sleeper.disconnect();
    watcher.publish("rust/away", QoS::ExactlyOnce, false);
    assert_eq!(watcher.message().payload, "rust/away");
    let mut sleeper = Driven::connect(options("rust-sleeper"), false, None);
    assert_eq!(sleeper.message().payload, "rust/away");
}

#[test]
fn rumqttc_messages_wills_retained_and_sessions() {
    for shards in SHARD_COUNTS {
        let gateway = Gateway::start(&["--shards", shards]);
        let port = gateway.address().port();
        play(|client_id| MqttOptions::new(client_id, "127.0.0.1", port));
        gateway.stop();
    }
}
