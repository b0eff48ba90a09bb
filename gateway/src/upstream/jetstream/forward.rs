//! JetStream for messages, and for sessions (`sessions = "shared"`) or the node's own log and store
//! (`sessions = "local"`): both behind the one seam.

use super::shard::JetStream;
use crate::proto::mqtt::QoS;
use crate::proto::partition::{Anchor, Lane, PartitionId, Sequence};
use crate::proto::record::{Message, MessageId, Record};
use crate::proto::session::StoredWill;
use crate::proto::shard_state::{AppendToken, ComesAfter, GroupRequest, Request, Upstream};
use crate::proto::time::Timestamp;
use crate::upstream::embedded::shard::Embedded;
use bytes::Bytes;

/// One shard's upstream, put together for one call.
pub struct Forward<'a> {
    /// Messages.
    pub jetstream: &'a mut JetStream,
    /// Sessions, where JetStream has not.
    pub local: &'a mut Embedded,
}

impl Forward<'_> {
    /// Records something of a session, or of all.
    fn record(&mut self, record: &Record<'_>) -> AppendToken {
        match self.jetstream.has_sessions() {
            true => self.jetstream.append_session(record),
            false => self.local.append(record),
        }
    }
}

impl Upstream for Forward<'_> {
    fn append(&mut self, record: &Record<'_>) -> AppendToken {
        let message = match record {
            Record::Message(message) => message,
            // The group is a consumer, which is told by itself.
            Record::SharedSent { client_id, packet_id, partition, sequence, anchor, .. } => {
                return self.record(&Record::SharedSent {
                    group: "",
                    client_id,
                    packet_id: *packet_id,
                    partition: *partition,
                    sequence: *sequence,
                    anchor: *anchor,
                });
            }
            record => return self.record(record),
        };
        let is_in_ledger = message.ledger && message.qos == QoS::ExactlyOnce;
        let Some(packet_id) = message.packet_id.filter(|_| is_in_ledger) else {
            return self.jetstream.append(message);
        };
        // Before the server has it, it is recorded under which name it will: the client may send
        // it again after a crash, and it must not be stored twice.
        let id = self.jetstream.next_message_id();
        let from = self.jetstream.fed_of(message.topic);
        let intent = Record::Qos2Intent { client_id: message.publisher, packet_id, id, from };
        let recorded = self.record(&intent);
        self.jetstream.append_recorded(message, id, recorded)
    }

    fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken {
        self.jetstream.append_named(message, id)
    }

    fn append_will(
        &mut self,
        message: &Message<'_>,
        will: &StoredWill,
        named_at: Option<Timestamp>,
    ) -> AppendToken {
        self.jetstream.append_will(message, will, named_at)
    }

    fn append_again(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        from: Sequence,
    ) -> AppendToken {
        self.jetstream.append_unless_stored(message, id, from)
    }

    fn can_store(&self, message: &Message<'_>) -> bool {
        are_headers_small(message)
    }

    fn publish(&mut self, message: &Message<'_>) {
        self.jetstream.publish(message);
    }

    fn may_have_session(&self, client_id: &str) -> bool {
        self.jetstream.has_sessions() || self.local.may_have_session(client_id)
    }

    /// The client may be connected to another gateway.
    fn shares_sessions(&self) -> bool {
        self.jetstream.has_sessions()
    }

    fn may_publish_will(&self, client_id: &str) -> bool {
        self.jetstream.may_publish_will(client_id)
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Session { ticket, client_id, session_use, user }
                if self.jetstream.has_sessions() =>
            {
                self.jetstream.ask_session(ticket, &client_id, session_use, user);
            }
            Request::Session { .. } | Request::RetainedRoom { .. } => self.local.request(request),
            Request::Retained { id, filter, from, after: _, count_max } => {
                self.jetstream.ask_retained(id, filter, &from, count_max);
            }
            Request::Replay { ticket, partition, from, filters, count_max } => {
                self.jetstream.start_replay(ticket, partition, from, filters, count_max);
            }
            Request::Fetch { ticket, partition, sequences } => {
                self.jetstream.start_fetch(ticket, partition, sequences);
            }
        }
    }

    fn tell_group(&mut self, request: GroupRequest) {
        self.jetstream.tell_group(request);
    }

    fn add_interest(&mut self, filter: &str) {
        self.jetstream.add_interest(filter);
    }

    fn remove_interest(&mut self, filter: &str) {
        self.jetstream.remove_interest(filter);
    }

    fn is_late(&self, partition: PartitionId, sequence: Sequence) -> bool {
        self.jetstream.is_late(partition, sequence)
    }

    fn interest_in_force(&mut self) -> Option<AppendToken> {
        self.jetstream.interest_in_force()
    }

    fn is_congested(&self, lane: Lane) -> bool {
        self.local.is_congested(Lane::LOCAL) || self.jetstream.is_congested(lane)
    }

    fn keeps_any_back(&self) -> bool {
        self.jetstream.keeps_any_back()
    }

    fn keeps_back(&self, topic: &str) -> Option<Lane> {
        self.jetstream.keeps_back(topic)
    }

    fn reserve_session(&mut self) -> bool {
        if self.jetstream.has_sessions() {
            return self.jetstream.has_session_room();
        }
        self.local.reserve_session()
    }

    fn release_session(&mut self) {
        if !self.jetstream.has_sessions() {
            self.local.release_session();
        }
    }

    /// The servers have limits of their own.
    fn has_retained_room(&self, _message: &Message<'_>) -> bool {
        true
    }

    fn recent(&self, partition: PartitionId, sequence: Sequence) -> Option<Bytes> {
        self.jetstream.recent(partition, sequence)
    }

    fn feed_start(&self, partition: PartitionId) -> Sequence {
        self.jetstream.fed(partition)
    }

    /// The feed may be further than what is known of it: a message without interest leaves no trace
    /// here, and one that came before the subscription does not come again.
    fn retained_start(&self, _partition: PartitionId) -> Sequence {
        Sequence(u64::MAX)
    }

    fn settled_start(&self, partition: PartitionId) -> Option<Sequence> {
        self.jetstream.settled_start(partition)
    }

    /// What is live with QoS 0 has no sequence: every retained one is taken from the stream.
    fn retained_end(&self, _partition: PartitionId) -> Sequence {
        Sequence(u64::MAX)
    }

    fn places_tell_what_came_live(&self) -> bool {
        false
    }

    fn partitions_are_apart(&self) -> bool {
        true
    }

    fn comes_after(&self, partition: PartitionId) -> &[ComesAfter] {
        self.jetstream.comes_after(partition)
    }

    fn anchor(&self, partition: PartitionId) -> Option<Anchor> {
        self.jetstream.anchor(partition)
    }

    fn check_places(&mut self, session: u32, partition: PartitionId, anchor: Anchor) -> bool {
        self.jetstream.check_places(session, partition, anchor)
    }

    fn own_partition(&self) -> Option<PartitionId> {
        None
    }
}

/// Whether the headers of a message are below [`HEADER_BYTES_MAX`] whatever is in them. A property
/// without content takes 5 bytes and becomes a header of 24; a byte of content becomes 3 at most.
fn are_headers_small(message: &Message<'_>) -> bool {
    message.properties.len() * 5 + message.publisher.len() * 3 + OTHER_HEADER_BYTES
        <= HEADER_BYTES_MAX
}

/// A stream takes no more: nats-server 2.15.1, error 10097.
const HEADER_BYTES_MAX: usize = 65_535;
/// Of the headers with numbers and names, and those that a server adds when it delivers.
const OTHER_HEADER_BYTES: usize = 5_000;
