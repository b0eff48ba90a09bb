//! What the client sends: its open QoS 2 exchanges and its topic aliases.

use super::InboundAliases;
use crate::proto::mqtt::{AckKind, PacketId};
use crate::proto::output::ConnectionId;
use crate::proto::partition::Sequence;
use crate::proto::record::MessageId;

/// How far an inbound QoS 2 exchange is. Source: MQTT 5.0 §4.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundStep {
    /// The message was to be appended under this name when the gateway ended: when it comes again,
    /// it is looked for from there on, and appended again if it is not there.
    Intended(MessageId, Sequence),
    /// The message was appended; PUBREC goes out when that is committed.
    ExpectCommit,
    /// PUBREC was sent.
    ExpectPubrel,
    /// PUBREL came; PUBCOMP goes out when the release is committed.
    ExpectRelease,
    /// The message came again and is refused; PUBREC says so when the release is committed.
    ExpectRefusal,
}

/// One inbound QoS 2 exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundQos2 {
    /// Chosen by the client.
    pub packet_id: PacketId,
    /// See [`InboundStep`].
    pub step: InboundStep,
    /// The connection that asked last, and gets the answer.
    pub connection: ConnectionId,
}

/// Inbound state of a session, allocated when first needed.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Open exchanges, at most Receive Maximum.
    pub qos2: Vec<InboundQos2>,
    /// PUBLISH packets that were denied and wait for their turn to be answered, and how.
    pub denied: Vec<(PacketId, AckKind)>,
    /// Of the present connection.
    pub aliases: InboundAliases,
    /// Whether `aliases` was used: they keep the box alive until the connection ends.
    pub has_aliases: bool,
}

impl Inbound {
    /// The open exchange with `packet_id`.
    pub fn find(&mut self, packet_id: PacketId) -> Option<&mut InboundQos2> {
        self.qos2.iter_mut().find(|exchange| exchange.packet_id == packet_id)
    }

    /// Ends the exchange with `packet_id`.
    pub fn remove(&mut self, packet_id: PacketId) -> Option<InboundQos2> {
        let place = self.qos2.iter().position(|exchange| exchange.packet_id == packet_id)?;
        Some(self.qos2.swap_remove(place))
    }

    /// Nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.qos2.is_empty() && self.denied.is_empty() && !self.has_aliases
    }

    /// Forgets what belonged to the connection that ended.
    pub fn disconnected(&mut self) {
        self.aliases = InboundAliases::default();
        self.has_aliases = false;
        self.denied = Vec::new();
    }

    /// Takes out a PUBLISH that was denied.
    pub fn take_denied(&mut self, packet_id: PacketId) -> Option<AckKind> {
        let place = self.denied.iter().position(|(denied, _)| *denied == packet_id)?;
        Some(self.denied.swap_remove(place).1)
    }
}
