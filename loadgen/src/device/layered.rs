//! A device whose MQTT goes through TLS or WebSocket on its way to the radio.

use super::{Context, Device, State, Told};
use crate::transport::Layers;

impl Device {
    /// The same device, with layers between its client and its radio.
    pub(crate) fn over(mut self, layers: impl FnOnce(u64) -> Layers) -> Self {
        let seed = self.random.next_u64();
        self.layers = Some(Box::new(layers(seed)));
        self
    }

    /// The TCP connection stands: the handshakes begin.
    pub(super) fn begin_layers(&mut self, context: &mut Context<'_>) {
        self.state = State::Securing;
        let Some(layers) = &mut self.layers else { return };
        let mut wire = Vec::new();
        let begun = layers.begin(context.now_ns, &mut wire);
        self.transmit(&mut wire, context);
        if let Err(fault) = begun {
            context.books.hear(Told::LayerFault(fault));
            self.give_up(context);
        }
    }

    /// Bytes came from the broker.
    pub(super) fn receive_layered(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        let Some(layers) = &mut self.layers else { return };
        let (mut plain, mut wire) = (Vec::new(), Vec::new());
        let outcome = layers.receive(context.now_ns, bytes, &mut plain, &mut wire);
        self.transmit(&mut wire, context);
        if let Ok(progress) = outcome {
            if let Some(secured) = progress.secured {
                context.books.hear(Told::Secured(secured));
            }
            if let Some(after_ns) = progress.upgraded_after_ns {
                context.books.hear(Told::Upgraded { after_ns });
            }
            if progress.opened {
                self.go_online(context);
            }
        }
        // Of what came before a fault nothing is lost.
        if !plain.is_empty() && self.state == State::Online {
            self.receive_packets(&plain, context);
        }
        if let Err(fault) = outcome
            && matches!(self.state, State::Securing | State::Online)
        {
            context.books.hear(Told::LayerFault(fault));
            self.give_up(context);
        }
    }

    /// Hands packets to the layers, and what they make of it to the radio.
    pub(super) fn write_layered(&mut self, packets: &mut Vec<u8>, context: &mut Context<'_>) {
        let Some(layers) = &mut self.layers else { return };
        let mut wire = Vec::new();
        layers.send(packets, &mut wire);
        self.transmit(&mut wire, context);
    }

    /// Says goodbye in each layer.
    pub(super) fn end_layers(&mut self, context: &mut Context<'_>) {
        let Some(layers) = &mut self.layers else { return };
        let mut wire = Vec::new();
        layers.end(&mut wire);
        self.transmit(&mut wire, context);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway::proto::{
        mqtt::{ProtocolVersion, QoS},
        websocket::{WebSocket, WebSocketLimits},
    };

    use super::*;
    use crate::{
        client::{ClientOptions, Publication, Scratch, Topics},
        device::{Action, Books, Output},
        payload::Stamp,
        profile::Profile,
        random::Random,
        transport::BrokerArguments,
    };

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Books for Notes {
        fn stamp(&mut self, publisher: u32, intended_ns: u64, now_ns: u64) -> Stamp {
            Stamp { publisher, epoch: 1, sequence: 0, intended_ns, sent_ns: now_ns }
        }

        fn hear(&mut self, told: Told<'_>) {
            self.0.push(format!("{told:?}"));
        }
    }

    /// A device that speaks WebSocket, and the other end of its socket.
    struct World {
        device: Device,
        profile: Profile,
        notes: Notes,
        server: WebSocket,
        now_ns: u64,
        /// MQTT that came to the broker.
        came: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let broker = BrokerArguments {
                broker: Some("ws://127.0.0.1:1".to_owned()),
                ..Default::default()
            };
            let broker = broker.or_at("127.0.0.1:1".parse().unwrap()).unwrap();
            let options = ClientOptions {
                version: ProtocolVersion::V5,
                client_id: "d".into(),
                clean_start: true,
                session_expiry_interval_s: 0,
                keep_alive_s: 0,
                subscription: None,
                publication: Some(Publication {
                    topics: Topics::Numbered("t/".into()),
                    qos: QoS::AtMostOnce,
                    retain: false,
                    payload_bytes: 64,
                    window: 1,
                    retransmit_after_ms: 0,
                }),
                will: None,
            };
            let profile = Profile::wire();
            let device = Device::new(options, &profile, Random::of(1, 0, 0));
            let device =
                device.over(|seed| Layers::new(Arc::clone(&broker.transport.unwrap()), seed));
            let server = WebSocket::default();
            let (notes, came) = (Notes::default(), Vec::new());
            Self { device, profile, notes, server, now_ns: 0, came }
        }

        /// What the device sends and does, nothing of which has arrived.
        fn act(&mut self, act: impl FnOnce(&mut Device, &mut Context<'_>)) -> Output {
            let mut output = Output::default();
            let mut context = Context {
                now_ns: self.now_ns,
                profile: &self.profile,
                unsent_bytes: 0,
                books: &mut self.notes,
                scratch: &mut Scratch::default(),
                out: &mut output,
            };
            act(&mut self.device, &mut context);
            output
        }

        /// Lets bytes arrive; what the broker answers, and whether it heard Close.
        fn arrive(&mut self, wire: &[u8]) -> (Vec<u8>, bool) {
            let limits = WebSocketLimits {
                request_bytes_max: 1_000,
                frame_bytes_max: 1_000,
                origins: Vec::new(),
            };
            let mut answer = Vec::new();
            let heard = self.server.receive(wire, &limits, &mut self.came, &mut answer).unwrap();
            (answer, heard.closed)
        }

        fn go_online(&mut self) {
            let output = self.act(|device, context| device.power_on(0, context));
            let output =
                if output.actions.is_empty() { self.act(Device::handle_timeout) } else { output };
            assert_eq!(output.actions, [Action::Connect { address: 0 }]);
            let request = self.act(Device::handle_connected).send;
            let (answer, _) = self.arrive(&request);
            assert!(self.came.is_empty(), "CONNECT waits for the handshake");
            self.now_ns = 30;
            let connect = self.act(|device, context| device.handle_received(&answer, context)).send;
            self.arrive(&connect);
            assert_eq!(self.came.first(), Some(&0x10), "CONNECT");
            self.now_ns = 50;
            let mut connack = Vec::new();
            WebSocket::send(&[0x20, 3, 0, 0, 0], &mut connack);
            self.act(|device, context| device.handle_received(&connack, context));
            assert!(self.device.is_ready());
            assert!(self.notes.0.contains(&"Upgraded { after_ns: 30 }".to_owned()));
            assert!(self.notes.0.contains(&"Accepted { after_ns: 20 }".to_owned()));
        }
    }

    #[test]
    fn a_polite_device_says_goodbye_in_each_layer() {
        let mut world = World::new();
        world.go_online();
        let output = world.act(|device, context| device.break_connection(Action::Finish, context));
        assert_eq!(output.actions, [Action::Finish]);
        let (_, closed) = world.arrive(&output.send);
        assert!(closed && world.came.ends_with(&[0xe0, 0]), "DISCONNECT, then Close");
    }

    #[test]
    fn a_device_without_power_says_nothing() {
        for action in [Action::Reset, Action::Abandon] {
            let mut world = World::new();
            world.go_online();
            let output = world.act(|device, context| device.break_connection(action, context));
            assert_eq!((output.send.len(), output.actions), (0, vec![action]));
        }
        let mut world = World::new();
        world.go_online();
        let output = world.act(Device::power_off);
        assert_eq!((output.send.len(), output.actions), (0, vec![Action::Abandon]));
    }

    #[test]
    fn a_connection_that_ends_before_its_layers_stand_was_refused() {
        let mut world = World::new();
        world.act(|device, context| device.power_on(0, context));
        world.act(Device::handle_timeout);
        world.act(Device::handle_connected);
        world.act(Device::handle_closed);
        assert_eq!(world.notes.0, ["Refused"]);

        let mut world = World::new();
        world.act(|device, context| device.power_on(0, context));
        world.act(Device::handle_timeout);
        world.act(Device::handle_connected);
        let answer = b"HTTP/1.1 404 Not Found\r\n\r\n";
        let output = world.act(|device, context| device.handle_received(answer, context));
        assert_eq!(output.actions, [Action::Finish]);
        assert_eq!(world.notes.0, ["LayerFault(WebSocket(Status(404)))"]);
    }

    #[test]
    fn a_handshake_that_is_not_answered_is_given_up() {
        let mut world = World::new();
        world.act(|device, context| device.power_on(0, context));
        world.act(Device::handle_timeout);
        world.act(Device::handle_connected);
        world.now_ns = world.device.next_timeout_ns();
        assert_eq!(world.now_ns, super::super::HANDSHAKE_NS);
        let output = world.act(Device::handle_timeout);
        assert_eq!(
            (world.notes.0.as_slice(), output.actions),
            (&["Unanswered".to_owned()][..], vec![Action::Finish])
        );
    }
}
