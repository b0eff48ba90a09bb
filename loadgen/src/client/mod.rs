//! One MQTT client as a state machine: bytes and time in, bytes and events out.
//!
//! ```text
//! Offline ─ connected ─▶ ExpectConnack ─▶ ExpectSuback ─▶ Ready
//!    ▲                        │ (nothing to subscribe to: straight to Ready)
//!    └────── closed ──────────┴───────────────┴─────────────┘
//! ```
//!
//! A client keeps its session when the connection goes: what was not acknowledged is sent again
//! after the next CONNACK. Payloads are not kept, they are made again from their stamp.

mod window;
mod wire;

use std::{fmt::Write as _, sync::Arc};

use gateway::proto::mqtt::{
    AckKind, Connack, Packet, PacketId, ProtocolVersion, Publish, PublishAck, QoS, SubscribeAck,
};

use crate::payload::Stamp;
use window::{Stage, Window};

/// Codes of CONNACK, SUBACK and acknowledgements from here on are refusals.
/// Source: MQTT 5.0 §2.4; MQTT 3.1.1 §3.9.3 (0x80).
const FAILURE: u8 = 0x80;
/// A PINGREQ goes out after this share of the Keep Alive without a packet sent.
const PING_AFTER_PERCENT: u64 = 75;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Memory to make packets in, there to be used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) payload: Vec<u8>,
    pub(crate) topic: String,
}

/// What a client is, apart from what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct ClientOptions {
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
    /// How it publishes.
    pub(crate) publication: Option<Publication>,
    /// Its will.
    pub(crate) will: Option<Box<WillOptions>>,
}

/// How a client publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// Where to.
    pub(crate) topics: Topics,
    /// QoS of every publish.
    pub(crate) qos: QoS,
    /// RETAIN of every publish.
    pub(crate) retain: bool,
    /// Size of every payload.
    pub(crate) payload_bytes: u32,
    /// Publishes under way at most, QoS 1 and 2; the server's Receive Maximum may be less.
    pub(crate) window: u16,
    /// Sends the oldest unacknowledged PUBLISH again, with DUP, when its answer takes longer than
    /// this; 0 never. Old clients do; MQTT 5.0 forbids it. Source: MQTT 5.0 [MQTT-4.4.0-1].
    pub(crate) retransmit_after_ms: u32,
}

/// Topic names by the publisher that a message is stamped with.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    /// All use this one.
    Same(Arc<str>),
    /// This, followed by the publisher's number: a million clients keep one string.
    Numbered(Arc<str>),
}

/// A client's will, QoS 1; its payload is a stamp whose sequence counts the client's CONNECTs.
#[derive(Clone, Debug)]
pub(crate) struct WillOptions {
    /// Where to.
    pub(crate) topics: Topics,
    /// [`Stamp::publisher`] of the will.
    pub(crate) publisher: u32,
    /// [`Stamp::epoch`] of the will.
    pub(crate) epoch: u32,
}

/// An MQTT client.
#[derive(Debug)]
pub(crate) struct Client {
    options: ClientOptions,
    state: State,
    /// SUBACK came in the session that the server has.
    subscribed: bool,
    ping_unanswered: bool,
    /// Publishes under way the server takes: its Receive Maximum.
    receive_maximum: u16,
    /// CONNECTs written.
    connects: u32,
    /// The beginning of a packet whose end has not come.
    partial: Vec<u8>,
    window: Window,
    /// QoS 2 messages delivered whose PUBREL has not come, sorted.
    unreleased: Vec<PacketId>,
    last_sent_ns: u64,
    /// Until when the server must have the session; 0 when it may have none.
    session_until_ns: u64,
}

/// Named for what the client waits for.
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
    /// CONNACK without a session: what was there before, subscription included, is gone.
    SessionBegan {
        /// The server should still have had it.
        lost: bool,
    },
    /// SUBACK: what is published from now on is owed.
    Subscribed,
    /// Connected, subscribed, and what was under way is sent again.
    Ready {
        /// Whether the server still had the session.
        session_present: bool,
    },
    /// The server took responsibility for this message.
    Acknowledged(Stamp),
    /// This message will never be sent again, and nobody knows whether the server has it: the
    /// session it was under way in is gone, or the server refused it.
    Discarded(Stamp),
    /// A message for the subscription; at QoS 2 once, however often it is sent.
    Delivered {
        /// Its payload.
        payload: &'a [u8],
        /// It was there before the subscription was. Source: MQTT 5.0 §3.3.1.3.
        retain: bool,
    },
}

/// Why a client gives its connection up.
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

impl Topics {
    /// Replaces `out` by the topic of `publisher`.
    pub(crate) fn write(&self, publisher: u32, out: &mut String) {
        out.clear();
        match self {
            Self::Same(topic) => out.push_str(topic),
            Self::Numbered(prefix) => {
                write!(out, "{prefix}{publisher}").expect("writing to a string does not fail");
            }
        }
    }
}

impl Client {
    /// A client that was never connected.
    pub(crate) fn new(options: ClientOptions) -> Self {
        Self {
            options,
            state: State::Offline,
            subscribed: false,
            ping_unanswered: false,
            receive_maximum: u16::MAX,
            connects: 0,
            partial: Vec::new(),
            window: Window::default(),
            unreleased: Vec::new(),
            last_sent_ns: 0,
            session_until_ns: 0,
        }
    }

    /// The TCP connection stands: writes CONNECT.
    pub(crate) fn handle_connected(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.state = State::ExpectConnack;
        self.partial.clear();
        self.last_sent_ns = now_ns;
        self.ping_unanswered = false;
        wire::connect(&self.options, self.connects, now_ns, out);
        self.connects += 1;
    }

    /// The TCP connection is gone. The session stays.
    pub(crate) fn handle_closed(&mut self, now_ns: u64) {
        if self.state != State::Offline
            && self.has_session()
            && self.options.version == ProtocolVersion::V5
            && self.options.session_expiry_interval_s != u32::MAX
        {
            let kept_s = u64::from(self.options.session_expiry_interval_s);
            self.session_until_ns = now_ns.saturating_add(kept_s * NANOS_PER_SECOND);
        }
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

    /// Writes a PUBLISH that carries `stamp`; `false` if [`Client::can_publish`] is.
    ///
    /// `scratch` is overwritten; it is there to be used again.
    pub(crate) fn publish(
        &mut self,
        stamp: Stamp,
        now_ns: u64,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> bool {
        let (true, Some(publication)) = (self.can_publish(), &self.options.publication) else {
            return false;
        };
        let packet_id = match publication.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => self.window.push(stamp, now_ns, Stage::ExpectPuback),
            QoS::ExactlyOnce => self.window.push(stamp, now_ns, Stage::ExpectPubrec),
        };
        wire::publish(self.options.version, publication, &stamp, packet_id, false, scratch, out);
        self.last_sent_ns = now_ns;
        true
    }

    /// Writes DISCONNECT: the connection ends in an orderly way, and the session with it if
    /// `end_session` (5.0 only; before, only a clean session does that).
    pub(crate) fn disconnect(&mut self, end_session: bool, out: &mut Vec<u8>) {
        wire::disconnect(self.options.version, end_session, out);
    }

    /// From the next CONNECT on, leaves no session behind.
    pub(crate) fn forget_session(&mut self) {
        self.options.clean_start = true;
        self.options.session_expiry_interval_s = 0;
        self.session_until_ns = 0;
    }

    /// Writes PINGREQ, or an old PUBLISH again, when it is time.
    ///
    /// # Errors
    ///
    /// [`Fault::PingUnanswered`] when the last one had no answer in time.
    pub(crate) fn handle_timeout(
        &mut self,
        now_ns: u64,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if self.retransmit_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.retransmit(now_ns, scratch, out);
        }
        if self.ping_due_ns().is_none_or(|due_ns| due_ns > now_ns) {
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

    /// When [`Client::handle_timeout`] has something to do.
    pub(crate) fn next_timeout_ns(&self) -> Option<u64> {
        self.ping_due_ns().into_iter().chain(self.retransmit_due_ns()).min()
    }

    /// Whether it is connected, subscribed and may publish.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// When the CONNECT was written whose CONNACK has not come.
    pub(crate) fn unanswered_connect_ns(&self) -> Option<u64> {
        // Nothing else is sent before CONNACK.
        (self.state == State::ExpectConnack).then_some(self.last_sent_ns)
    }

    /// Whether the server should have a session of it.
    pub(crate) fn has_session(&self) -> bool {
        self.session_until_ns > 0
    }

    /// CONNECTs written so far.
    pub(crate) fn connects(&self) -> u32 {
        self.connects
    }

    /// Publishes whose exchange is not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.window.len()
    }

    fn ping_due_ns(&self) -> Option<u64> {
        if self.state != State::Ready || self.options.keep_alive_s == 0 {
            return None;
        }
        let silence = u64::from(self.options.keep_alive_s) * NANOS_PER_SECOND;
        Some(self.last_sent_ns + silence / 100 * PING_AFTER_PERCENT)
    }

    fn retransmit_due_ns(&self) -> Option<u64> {
        let after_ms = self.options.publication.as_ref()?.retransmit_after_ms;
        if after_ms == 0 || self.state != State::Ready {
            return None;
        }
        let oldest = self.window.entries().next()?;
        Some(oldest.written_ns + u64::from(after_ms) * NANOS_PER_MILLI)
    }

    fn retransmit(&mut self, now_ns: u64, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let Some(publication) = &self.options.publication else { return };
        let version = self.options.version;
        if let Some(entry) = self.window.oldest_mut() {
            entry.written_ns = now_ns;
            entry.write_again(version, publication, true, scratch, out);
            self.last_sent_ns = now_ns;
        }
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
                if let Ok(place) = self.unreleased.binary_search(&ack.packet_id) {
                    self.unreleased.remove(place);
                }
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
        if connack.session_present && self.options.clean_start {
            return Err(Fault::Unexpected);
        }
        if !connack.session_present {
            self.session_began(now_ns, on_event);
        }
        self.session_until_ns = if self.keeps_session() { u64::MAX } else { 0 };
        match &self.options.subscription {
            Some((filter, qos)) if !self.subscribed => {
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

    /// The server has no session: what it was to do about earlier publishes is open, so at QoS 2,
    /// where a second attempt could be a duplicate, there is none.
    fn session_began(&mut self, now_ns: u64, on_event: &mut impl FnMut(Event<'_>)) {
        let lost = !self.options.clean_start && now_ns < self.session_until_ns;
        self.subscribed = false;
        self.unreleased = Vec::new();
        self.window.forget_exactly_once(|stamp| on_event(Event::Discarded(stamp)));
        on_event(Event::SessionBegan { lost });
    }

    /// Whether the server is to keep the session when the connection goes.
    fn keeps_session(&self) -> bool {
        match self.options.version {
            ProtocolVersion::V5 => self.options.session_expiry_interval_s > 0,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => !self.options.clean_start,
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
                self.subscribed = true;
                on_event(Event::Subscribed);
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
        let event = Event::Delivered { payload: publish.payload, retain: publish.retain };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(packet_id)) => {
                on_event(event);
                wire::acknowledge(version, AckKind::Puback, packet_id, out);
                self.last_sent_ns = now_ns;
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if let Err(place) = self.unreleased.binary_search(&packet_id) {
                    self.unreleased.insert(place, packet_id);
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
        let stamp =
            self.window.finish(ack.packet_id, Stage::ExpectPuback).ok_or(Fault::Unexpected)?;
        if ack.reason_code as u8 >= FAILURE {
            on_event(Event::Discarded(stamp));
            return Err(Fault::PublishRefused(ack.reason_code as u8));
        }
        on_event(Event::Acknowledged(stamp));
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
            let refused = self.window.finish(ack.packet_id, Stage::ExpectPubrec);
            on_event(Event::Discarded(refused.ok_or(Fault::Unexpected)?));
            return Err(Fault::PublishRefused(ack.reason_code as u8));
        }
        if let Some(stamp) = self.window.received(ack.packet_id) {
            on_event(Event::Acknowledged(stamp));
        } else if !self.window.expects_pubcomp(ack.packet_id) {
            return Err(Fault::Unexpected);
        }
        self.last_sent_ns = now_ns;
        wire::acknowledge(self.options.version, AckKind::Pubrel, ack.packet_id, out);
        Ok(())
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
            let mut scratch = Scratch::default();
            for entry in self.window.entries() {
                let version = self.options.version;
                entry.write_again(version, publication, session_present, &mut scratch, out);
            }
        }
        on_event(Event::Ready { session_present });
    }
}

#[cfg(test)]
mod tests;
