//! The packets of single connections in one line each, for operators. No payload, no password: what
//! a message says is nobody's business here.
//!
//! While nobody traces this costs the data path a look at an empty list.

use super::mqtt::{
    DecodeContext, Packet, Property, ProtocolVersion, Publish, PublishAck, Role, SubscribeAck,
    decode,
};
use super::time::Timestamp;
use serde::Serialize;
use std::fmt::Write as _;

/// Lines kept until they are taken; more are counted and left out.
const LINES_MAX: usize = 4_096;
/// Bytes of a topic or filter shown.
const TEXT_BYTES_MAX: usize = 256;

/// What happened on a traced connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceLine {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `received` and `sent` as the gateway sees it; `note` for what is no packet.
    pub direction: &'static str,
    /// Of the whole packet.
    pub bytes: usize,
    /// Type and what matters of it.
    pub packet: String,
}

/// Which connections are traced, and what happened on them.
#[derive(Debug, Default)]
pub struct Traces {
    /// By connection index: the number of the trace, and the version spoken.
    connections: Vec<(u32, u32, ProtocolVersion)>,
    lines: Vec<(u32, TraceLine)>,
    /// Lines left out because they were not taken in time.
    pub missed: u64,
}

impl Traces {
    /// Whether connection `index` is traced.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        !self.connections.is_empty() && self.connections.iter().any(|one| one.0 == index)
    }

    /// From here on connection `index` belongs to trace `number`.
    pub fn begin(&mut self, index: u32, number: u32, version: ProtocolVersion, at: Timestamp) {
        self.connections.retain(|one| one.0 != index);
        self.connections.push((index, number, version));
        self.note(index, at, "traced from here on");
    }

    /// Connection `index` is gone.
    pub fn end_connection(&mut self, index: u32, at: Timestamp) {
        if self.has(index) {
            self.note(index, at, "the connection is gone");
            self.connections.retain(|one| one.0 != index);
        }
    }

    /// Trace `number` is over.
    pub fn end(&mut self, number: u32) {
        self.connections.retain(|one| one.1 != number);
        self.lines.retain(|line| line.0 != number);
    }

    /// A packet came.
    pub fn received(&mut self, index: u32, at: Timestamp, packet: &Packet<'_>, bytes: usize) {
        self.push(index, at, "received", bytes, describe(packet));
    }

    /// A packet was written.
    pub fn sent(&mut self, index: u32, at: Timestamp, bytes: &[u8]) {
        let Some(version) = self.connections.iter().find(|one| one.0 == index).map(|one| one.2)
        else {
            return;
        };
        let maximum_packet_size = u32::MAX;
        let context = DecodeContext { version, maximum_packet_size, role: Role::Client };
        if let Ok(Some((packet, length))) = decode(bytes, context) {
            self.push(index, at, "sent", length, describe(&packet));
        }
    }

    /// What happened since the last call, with the numbers of the traces.
    pub fn take(&mut self) -> Vec<(u32, TraceLine)> {
        std::mem::take(&mut self.lines)
    }

    fn note(&mut self, index: u32, at: Timestamp, text: &str) {
        self.push(index, at, "note", 0, text.to_owned());
    }

    fn push(
        &mut self,
        index: u32,
        at: Timestamp,
        direction: &'static str,
        bytes: usize,
        packet: String,
    ) {
        let of_index = self.connections.iter().filter(|one| one.0 == index);
        for &(_, number, _) in of_index {
            if self.lines.len() >= LINES_MAX {
                self.missed += 1;
                return;
            }
            let line = TraceLine { at_ms: at.0, direction, bytes, packet: packet.clone() };
            self.lines.push((number, line));
        }
    }
}

/// The packet in one line, without payload and password.
fn describe(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Connect(connect) => format!(
            "CONNECT {:?} client_id={} clean_start={} keep_alive_s={} user_name={} will={}",
            connect.version,
            shown(connect.client_id),
            connect.clean_start,
            connect.keep_alive_s,
            connect.user_name.is_some(),
            connect.will.is_some()
        ),
        Packet::Connack(connack) => {
            let present = connack.session_present;
            format!("CONNACK code=0x{:02x} session_present={present}", connack.code)
        }
        Packet::Publish(publish) => describe_publish(publish),
        Packet::Puback(ack) => describe_ack("PUBACK", ack),
        Packet::Pubrec(ack) => describe_ack("PUBREC", ack),
        Packet::Pubrel(ack) => describe_ack("PUBREL", ack),
        Packet::Pubcomp(ack) => describe_ack("PUBCOMP", ack),
        Packet::Subscribe(subscribe) => {
            let mut text = format!("SUBSCRIBE id={}", subscribe.packet_id.get());
            for (filter, options) in subscribe.filters.iter() {
                let (filter, qos) = (shown(filter), options.qos as u8);
                write!(text, " {filter}:qos={qos}").expect("a string takes it");
            }
            text
        }
        Packet::Suback(ack) => describe_codes("SUBACK", ack),
        Packet::Unsubscribe(unsubscribe) => {
            let mut text = format!("UNSUBSCRIBE id={}", unsubscribe.packet_id.get());
            for filter in unsubscribe.filters.iter() {
                write!(text, " {}", shown(filter)).expect("a string takes it");
            }
            text
        }
        Packet::Unsuback(ack) => describe_codes("UNSUBACK", ack),
        Packet::Pingreq => "PINGREQ".to_owned(),
        Packet::Pingresp => "PINGRESP".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT code={:?}", disconnect.reason_code),
        Packet::Auth(auth) => format!("AUTH code={:?}", auth.reason_code),
    }
}

fn describe_publish(publish: &Publish<'_>) -> String {
    let mut text = format!("PUBLISH topic={} qos={}", shown(publish.topic), publish.qos as u8);
    if let Some(id) = publish.packet_id {
        write!(text, " id={}", id.get()).expect("a string takes it");
    }
    for (is_set, name) in [(publish.dup, " dup"), (publish.retain, " retain")] {
        if is_set {
            text.push_str(name);
        }
    }
    for property in publish.properties.iter() {
        if let Property::TopicAlias(alias) = property {
            write!(text, " topic_alias={alias}").expect("a string takes it");
        }
    }
    write!(text, " payload_bytes={}", publish.payload.len()).expect("a string takes it");
    text
}

fn describe_ack(name: &str, ack: &PublishAck<'_>) -> String {
    format!("{name} id={} code={:?}", ack.packet_id.get(), ack.reason_code)
}

fn describe_codes(name: &str, ack: &SubscribeAck<'_>) -> String {
    format!("{name} id={} codes={:02x?}", ack.packet_id.get(), ack.codes)
}

/// `text` in quotes, cut where it is long.
fn shown(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return format!("{text:?}");
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{:?}...", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(traces: &mut Traces) -> Vec<String> {
        traces
            .take()
            .into_iter()
            .map(|(number, line)| format!("{number} {}", line.packet))
            .collect()
    }

    #[test]
    fn only_what_is_traced_is_told_and_no_payload_is() {
        let mut traces = Traces::default();
        let now = Timestamp(5);
        let publish = b"\x32\x0f\x00\x01a\x00\x07top-secret";
        traces.sent(3, now, publish);
        traces.begin(3, 9, ProtocolVersion::V3_1_1, now);
        traces.sent(3, now, publish);
        traces.sent(4, now, publish);
        traces.sent(3, now, b"\x20\x02\x01\x00");
        traces.end_connection(3, now);
        traces.sent(3, now, publish);
        let expected = [
            "9 traced from here on",
            "9 PUBLISH topic=\"a\" qos=1 id=7 payload_bytes=10",
            "9 CONNACK code=0x00 session_present=true",
            "9 the connection is gone",
        ];
        assert_eq!(lines(&mut traces), expected);
    }

    #[test]
    fn what_nobody_takes_is_counted_and_not_kept() {
        let mut traces = Traces::default();
        traces.begin(0, 1, ProtocolVersion::V3_1_1, Timestamp(0));
        for _ in 0..LINES_MAX + 5 {
            traces.sent(0, Timestamp(0), b"\xd0\x00");
        }
        assert_eq!((traces.lines.len(), traces.missed), (LINES_MAX, 6));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ä".repeat(200);
        let shown = shown(&text);
        assert!(shown.ends_with("\"...") && shown.len() < 270, "{shown}");
    }
}
