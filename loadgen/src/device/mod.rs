//! One MQTT client as a state machine: bytes and time in, bytes and events out.
//!
//! ```text
//! Offline ─ connected ─▶ ExpectConnack ─▶ ExpectSuback ─▶ Ready
//!    ▲                        │ (nothing to subscribe to: straight to Ready)
//!    └────── closed ──────────┴───────────────┴─────────────┘
//! ```
//!
//! A device keeps its session when the connection goes: what was not acknowledged is sent again
//! after the next CONNACK. Payloads are not kept, they are made again from their stamp.

mod window;
mod wire;

use ahash::AHashSet;
use gateway::proto::mqtt::{
    AckKind, Connack, Packet, PacketId, ProtocolVersion, Publish, PublishAck, QoS, SubscribeAck,
};

use crate::{ledger::Published, payload::Stamp};
use window::{Stage, Window};

/// Codes of CONNACK, SUBACK and acknowledgements from here on are refusals.
/// Source: MQTT 5.0 §2.4; MQTT 3.1.1 §3.9.3 (0x80).
const FAILURE: u8 = 0x80;
/// A PINGREQ goes out after this share of the Keep Alive without a packet sent.
const PING_AFTER_PERCENT: u64 = 75;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What a device is, apart from what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceOptions {
    /// Protocol version it speaks.
    pub(crate) version: ProtocolVersion,
    /// Client identifier.
    pub(crate) client_id: Box<str>,
    /// Clean Start (5.0), Clean Session (3.1.1).
    pub(crate) clean_start: bool,
    /// Session Expiry Interval in seconds, 5.0 only.
    pub(crate) session_expiry_interval_s: u32,
    /// Keep Alive in seconds, 0 for none.
    pub(crate) keep_alive_s: u16,
    /// A topic filter to subscribe to, and at which QoS.
    pub(crate) subscription: Option<(Box<str>, QoS)>,
    /// What it publishes.
    pub(crate) publication: Option<Publication>,
}

/// What a device publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// Index of the publisher in the run.
    pub(crate) publisher: u32,
    /// See [`Stamp::epoch`].
    pub(crate) epoch: u32,
    /// Topic name.
    pub(crate) topic: Box<str>,
    /// QoS of every publish.
    pub(crate) qos: QoS,
    /// Size of every payload.
    pub(crate) payload_bytes: usize,
    /// Publishes under way at most, QoS 1 and 2; the server's Receive Maximum may be less.
    pub(crate) window: u16,
}

/// An MQTT client.
#[derive(Debug)]
pub(crate) struct Device {
    options: DeviceOptions,
    state: State,
    /// The beginning of a packet whose end has not come.
    partial: Vec<u8>,
    window: Window,
    /// Publishes under way the server takes: its Receive Maximum.
    receive_maximum: u16,
    /// QoS 2 messages delivered whose PUBREL has not come.
    unreleased: AHashSet<PacketId>,
    published: Published,
    last_sent_ns: u64,
    ping_unanswered: bool,
}

/// Named for what the device waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offline,
    ExpectConnack,
    ExpectSuback,
    Ready,
}

/// What the bytes of the server amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Connected, subscribed, and what was under way is sent again.
    Ready {
        /// Whether the server still had the session.
        session_present: bool,
    },
    /// The server took responsibility for this message.
    Acknowledged(Stamp),
    /// A message for the subscription; at QoS 2 once, however often it is sent.
    Delivered {
        /// Its payload.
        payload: &'a [u8],
    },
}

/// Why a device gives its connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// CONNACK with this code.
    ConnectRefused(u8),
    /// SUBACK with this code.
    SubscribeRefused(u8),
    /// An acknowledgement that refuses a publish, with this code; 5.0 only.
    PublishRefused(u8),
    /// DISCONNECT with this code; 5.0 only.
    Disconnected(u8),
    /// Bytes that are no packet.
    Malformed,
    /// A packet that may not come now, or never from a server.
    Unexpected,
    /// No PINGRESP within a Keep Alive.
    PingUnanswered,
}

impl Device {
    /// A device that was never connected.
    pub(crate) fn new(options: DeviceOptions) -> Self {
        Self {
            options,
            state: State::Offline,
            partial: Vec::new(),
            window: Window::default(),
            receive_maximum: u16::MAX,
            unreleased: AHashSet::new(),
            published: Published::default(),
            last_sent_ns: 0,
            ping_unanswered: false,
        }
    }

    /// The TCP connection stands: writes CONNECT.
    pub(crate) fn handle_connected(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.state = State::ExpectConnack;
        self.partial.clear();
        self.last_sent_ns = now_ns;
        self.ping_unanswered = false;
        wire::connect(&self.options, out);
    }

    /// The TCP connection is gone. The session stays.
    pub(crate) fn handle_closed(&mut self) {
        self.state = State::Offline;
        self.partial = Vec::new();
    }

    /// Bytes came from the server: writes answers to `out`, tells `on_event` what happened.
    ///
    /// # Errors
    ///
    /// A [`Fault`]: the caller closes the connection.
    pub(crate) fn handle_received(
        &mut self,
        now_ns: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if self.partial.is_empty() {
            let used = self.handle_packets(now_ns, bytes, out, on_event)?;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut gathered = std::mem::take(&mut self.partial);
        gathered.extend_from_slice(bytes);
        let used = self.handle_packets(now_ns, &gathered, out, on_event)?;
        gathered.drain(..used);
        if !gathered.is_empty() {
            self.partial = gathered;
        }
        Ok(())
    }

    /// Whether a publish would go out at once.
    pub(crate) fn can_publish(&self) -> bool {
        let Some(publication) = &self.options.publication else { return false };
        let window = publication.window.min(self.receive_maximum);
        self.state == State::Ready
            && (publication.qos == QoS::AtMostOnce
                || self.window.len() < usize::from(window) && self.window.has_free_packet_id())
    }

    /// Writes the next PUBLISH, intended for `intended_ns`; `false` if [`Device::can_publish`] is.
    ///
    /// `scratch` is overwritten; it is there to be used again.
    pub(crate) fn publish(
        &mut self,
        intended_ns: u64,
        now_ns: u64,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        let (true, Some(publication)) = (self.can_publish(), &self.options.publication) else {
            return false;
        };
        let stamp = Stamp {
            publisher: publication.publisher,
            epoch: publication.epoch,
            sequence: self.published.count,
            intended_ns,
            sent_ns: now_ns,
        };
        let packet_id = match publication.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => self.window.push(stamp, Stage::ExpectPuback),
            QoS::ExactlyOnce => self.window.push(stamp, Stage::ExpectPubrec),
        };
        stamp.write(publication.payload_bytes, scratch);
        wire::publish(self.options.version, publication, packet_id, false, scratch, out);
        self.published.count += 1;
        self.last_sent_ns = now_ns;
        true
    }

    /// Writes DISCONNECT: the session ends in an orderly way.
    pub(crate) fn disconnect(&mut self, out: &mut Vec<u8>) {
        wire::disconnect(self.options.version, out);
    }

    /// Writes PINGREQ when it is time.
    ///
    /// # Errors
    ///
    /// [`Fault::PingUnanswered`] when the last one had no answer in time.
    pub(crate) fn handle_timeout(&mut self, now_ns: u64, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.next_timeout_ns().is_none_or(|due_ns| due_ns > now_ns) {
            return Ok(());
        }
        if self.ping_unanswered {
            return Err(Fault::PingUnanswered);
        }
        wire::ping(out);
        self.last_sent_ns = now_ns;
        self.ping_unanswered = true;
        Ok(())
    }

    /// When [`Device::handle_timeout`] has something to do.
    pub(crate) fn next_timeout_ns(&self) -> Option<u64> {
        if self.state != State::Ready || self.options.keep_alive_s == 0 {
            return None;
        }
        let silence = u64::from(self.options.keep_alive_s) * NANOS_PER_SECOND;
        Some(self.last_sent_ns + silence / 100 * PING_AFTER_PERCENT)
    }

    /// Whether it is connected, and subscribed if it is to be.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Publishes whose exchange is not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.window.len()
    }

    /// What it published so far.
    pub(crate) fn published(&self) -> &Published {
        &self.published
    }

    /// Handles all complete packets of `bytes` and returns how many bytes they took.
    fn handle_packets(
        &mut self,
        now_ns: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let Some((packet, taken)) = wire::decode(self.options.version, rest)? else { break };
            self.handle_packet(now_ns, &packet, out, on_event)?;
            used += taken;
        }
        Ok(used)
    }

    fn handle_packet(
        &mut self,
        now_ns: u64,
        packet: &Packet<'_>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        match packet {
            Packet::Connack(connack) => self.handle_connack(now_ns, connack, out, on_event),
            Packet::Suback(suback) => self.handle_suback(now_ns, suback, out, on_event),
            Packet::Publish(publish) => self.handle_publish(now_ns, publish, out, on_event),
            Packet::Puback(ack) => self.handle_puback(ack, on_event),
            Packet::Pubrec(ack) => self.handle_pubrec(now_ns, ack, out, on_event),
            Packet::Pubrel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                self.last_sent_ns = now_ns;
                wire::acknowledge(self.options.version, AckKind::Pubcomp, ack.packet_id, out);
                Ok(())
            }
            Packet::Pubcomp(ack) => {
                self.window.finish(ack.packet_id, Stage::ExpectPubcomp);
                Ok(())
            }
            Packet::Pingresp => {
                self.ping_unanswered = false;
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                Err(Fault::Disconnected(disconnect.reason_code as u8))
            }
            Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Unsuback(_)
            | Packet::Pingreq
            | Packet::Auth(_) => Err(Fault::Unexpected),
        }
    }

    fn handle_connack(
        &mut self,
        now_ns: u64,
        connack: &Connack<'_>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if self.state != State::ExpectConnack {
            return Err(Fault::Unexpected);
        }
        if connack.code != 0 {
            return Err(Fault::ConnectRefused(connack.code));
        }
        self.receive_maximum = wire::receive_maximum(connack);
        if !connack.session_present {
            self.unreleased.clear();
            self.window.forget_received();
        }
        match &self.options.subscription {
            Some((filter, qos)) if !connack.session_present => {
                wire::subscribe(self.options.version, filter, *qos, out);
                self.state = State::ExpectSuback;
                Ok(())
            }
            _ => {
                self.become_ready(now_ns, connack.session_present, out, on_event);
                Ok(())
            }
        }
    }

    fn handle_suback(
        &mut self,
        now_ns: u64,
        suback: &SubscribeAck<'_>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        match (self.state, suback.codes) {
            (State::ExpectSuback, &[code]) if code < FAILURE => {
                self.become_ready(now_ns, false, out, on_event);
                Ok(())
            }
            (State::ExpectSuback, &[code]) => Err(Fault::SubscribeRefused(code)),
            _ => Err(Fault::Unexpected),
        }
    }

    fn handle_publish(
        &mut self,
        now_ns: u64,
        publish: &Publish<'_>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if matches!(self.state, State::Offline | State::ExpectConnack) {
            return Err(Fault::Unexpected);
        }
        let version = self.options.version;
        let event = Event::Delivered { payload: publish.payload };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                on_event(event);
                wire::acknowledge(version, AckKind::Puback, packet_id, out);
                self.last_sent_ns = now_ns;
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if self.unreleased.insert(packet_id) {
                    on_event(event);
                }
                wire::acknowledge(version, AckKind::Pubrec, packet_id, out);
                self.last_sent_ns = now_ns;
            }
            (QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce, _) => on_event(event),
        }
        Ok(())
    }

    fn handle_puback(
        &mut self,
        ack: &PublishAck<'_>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if ack.reason_code as u8 >= FAILURE {
            return Err(Fault::PublishRefused(ack.reason_code as u8));
        }
        let stamp =
            self.window.finish(ack.packet_id, Stage::ExpectPuback).ok_or(Fault::Unexpected)?;
        self.acknowledged(stamp, on_event);
        Ok(())
    }

    /// A PUBREC that comes again is answered again: the server may have lost the PUBREL.
    fn handle_pubrec(
        &mut self,
        now_ns: u64,
        ack: &PublishAck<'_>,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if ack.reason_code as u8 >= FAILURE {
            return Err(Fault::PublishRefused(ack.reason_code as u8));
        }
        if let Some(stamp) = self.window.received(ack.packet_id) {
            self.acknowledged(stamp, on_event);
        } else if !self.window.expects_pubcomp(ack.packet_id) {
            return Err(Fault::Unexpected);
        }
        self.last_sent_ns = now_ns;
        wire::acknowledge(self.options.version, AckKind::Pubrel, ack.packet_id, out);
        Ok(())
    }

    fn acknowledged(&mut self, stamp: Stamp, on_event: &mut impl FnMut(Event<'_>)) {
        self.published.acknowledged.insert(stamp.sequence);
        on_event(Event::Acknowledged(stamp));
    }

    /// Sends again what is under way, in order, then is ready for new publishes.
    ///
    /// DUP is set only where the server may remember the first attempt.
    /// Source: MQTT 5.0 §4.4 [MQTT-4.4.0-1]; MQTT 3.1.1 §4.4 [MQTT-4.4.0-1].
    fn become_ready(
        &mut self,
        now_ns: u64,
        session_present: bool,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        self.state = State::Ready;
        self.last_sent_ns = now_ns;
        if let Some(publication) = &self.options.publication {
            let mut payload = Vec::new();
            for entry in self.window.entries() {
                let packet_id = entry.packet_id();
                if entry.stage == Stage::ExpectPubcomp {
                    wire::acknowledge(self.options.version, AckKind::Pubrel, packet_id, out);
                } else {
                    entry.stamp.write(publication.payload_bytes, &mut payload);
                    let id = Some(packet_id);
                    let version = self.options.version;
                    wire::publish(version, publication, id, session_present, &payload, out);
                }
            }
        }
        on_event(Event::Ready { session_present });
    }
}

#[cfg(test)]
mod tests;
