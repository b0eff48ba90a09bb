//! PUBACK, PUBREC and PUBCOMP from a client: messages we sent are done, or one step further.
//! Source: MQTT 5.0 §4.3.2, §4.3.3.

use super::publish::write_ack;
use super::waiting::Waiting;
use super::{Context, ProtocolError, ShardState};
use crate::proto::mqtt::{AckKind, PacketId, PublishAck, QoS, ReasonCode};
use crate::proto::partition::PartitionId;
use crate::proto::record::{Qos2Step, Record};
use crate::proto::session::{InFlight, InFlightStep, Ticket};

impl ShardState {
    /// An unknown packet id is ignored: after a lost session clients acknowledge what we forgot.
    pub(super) fn handle_puback(
        &mut self,
        index: u32,
        ack: &PublishAck<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Some(step) = self.step(index, ack.packet_id) else {
            return Ok(());
        };
        if step != InFlightStep::ExpectPuback {
            return Err(ProtocolError::NotAllowedHere);
        }
        self.finish(index, ack.packet_id, context);
        Ok(())
    }

    pub(super) fn handle_pubrec(
        &mut self,
        index: u32,
        ack: &PublishAck<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let packet_id = ack.packet_id;
        let Some(session) = self.session(index) else {
            return Ok(());
        };
        let (version, connection) = (session.connected.version, session.connection);
        let Some(step) = self.step(index, packet_id) else {
            // MQTT 5.0 §3.6.2.1; before 5.0 the code is left out.
            if let Some(id) = connection {
                let not_found = ReasonCode::PacketIdentifierNotFound;
                write_ack(AckKind::Pubrel, packet_id, not_found, version, id, context);
            }
            return Ok(());
        };
        let is_refused = ack.reason_code as u8 >= 0x80;
        match step {
            InFlightStep::ExpectPuback => Err(ProtocolError::NotAllowedHere),
            // A refusal ends the exchange: MQTT 5.0 [MQTT-4.3.3-3].
            InFlightStep::ExpectSentCommit | InFlightStep::ExpectPubrec if is_refused => {
                self.complete_qos2(index, packet_id, context);
                Ok(())
            }
            InFlightStep::ExpectSentCommit | InFlightStep::ExpectPubrec => {
                self.record_received(index, packet_id, context);
                Ok(())
            }
            InFlightStep::ExpectReceivedCommit => Ok(()),
            InFlightStep::ExpectPubcomp => {
                if let Some(id) = connection {
                    let success = ReasonCode::Success;
                    write_ack(AckKind::Pubrel, packet_id, success, version, id, context);
                }
                Ok(())
            }
        }
    }

    /// PUBREL goes out once it is recorded that the client has the message; from then on the message
    /// itself is never sent again. Source: MQTT 5.0 [MQTT-4.3.3-4], [MQTT-4.3.3-6].
    pub(super) fn record_received(
        &mut self,
        index: u32,
        packet_id: PacketId,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let ticket = Ticket { session: index, epoch: session.epoch };
        let persistent = session.is_persistent();
        let Some(sent) = session.outbound.as_mut().and_then(|outbound| outbound.find(packet_id))
        else {
            return;
        };
        sent.step = InFlightStep::ExpectReceivedCommit;
        let InFlight { partition, sequence, origin, retain, .. } = *sent;
        let waiting = Waiting::Pubrel { ticket, packet_id };
        if persistent {
            let client_id = &session.client_id;
            let anchor = session.anchor(partition, context.upstream.anchor(partition));
            let step = Qos2Step::Received;
            let shared = origin.is_shared();
            let record = Record::Qos2Outbound {
                client_id,
                packet_id,
                step,
                partition,
                sequence,
                shared,
                retain,
                anchor,
            };
            let token = context.upstream.append(&record);
            self.wait_for(token, waiting);
            self.count_qos2_delta(index, context);
        } else {
            self.perform(waiting, context);
        }
    }

    pub(super) fn handle_pubcomp(
        &mut self,
        index: u32,
        ack: &PublishAck<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        match self.step(index, ack.packet_id) {
            None | Some(InFlightStep::ExpectReceivedCommit) => Ok(()),
            Some(InFlightStep::ExpectPubcomp) => {
                self.complete_qos2(index, ack.packet_id, context);
                Ok(())
            }
            Some(
                InFlightStep::ExpectPuback
                | InFlightStep::ExpectSentCommit
                | InFlightStep::ExpectPubrec,
            ) => Err(ProtocolError::NotAllowedHere),
        }
    }

    fn complete_qos2(&mut self, index: u32, packet_id: PacketId, context: &mut Context<'_>) {
        self.record_completed(index, packet_id, context);
        self.finish(index, packet_id, context);
    }

    /// A QoS 2 exchange is over. That is recorded without waiting: if the record is lost, PUBREL is
    /// sent once more and answered once more.
    pub(super) fn record_completed(
        &mut self,
        index: u32,
        packet_id: PacketId,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if session.is_persistent()
            && let Some(sent) = session.outbound.as_mut().and_then(|out| out.find(packet_id))
            && sent.qos() == QoS::ExactlyOnce
        {
            let sent = *sent;
            let current = context.upstream.anchor(sent.partition);
            let record = Record::Qos2Outbound {
                packet_id,
                step: Qos2Step::Completed,
                partition: sent.partition,
                sequence: sent.sequence,
                shared: sent.origin.is_shared(),
                retain: sent.retain,
                anchor: session.anchor(sent.partition, current),
                client_id: &session.client_id,
            };
            context.upstream.append(&record);
            self.count_qos2_delta(index, context);
        }
    }

    /// The message is done: its place in the window goes to the next.
    fn finish(&mut self, index: u32, packet_id: PacketId, context: &mut Context<'_>) {
        let Self { sessions, watermarks, .. } = self;
        let watermark = |partition: PartitionId| {
            watermarks.get(usize::from(partition.0)).copied().unwrap_or_default()
        };
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return;
        };
        let Some(outbound) = &mut session.outbound else {
            return;
        };
        let removed = outbound.remove(packet_id);
        // Until the cursor has passed it, a replay may meet it.
        let is_repeatable = |sent: &InFlight| {
            sent.qos() == QoS::ExactlyOnce
                && !sent.origin.is_shared()
                && sent.sequence >= watermark(sent.partition)
        };
        let repeatable = removed.as_ref().filter(|sent| is_repeatable(sent));
        outbound.completed.extend(repeatable.map(|sent| (sent.partition, sent.sequence)));
        let has_unsent = !outbound.unsent.is_empty();
        let has_more = outbound.has_more();
        if let Some(sent) = removed {
            self.settle_finished(index, &sent, context);
        }
        if has_unsent {
            self.send_unsent(index, context);
        }
        if has_more {
            self.drain(index, context);
        }
        self.schedule_floor(context.now);
    }

    fn step(&mut self, index: u32, packet_id: PacketId) -> Option<InFlightStep> {
        let outbound = self.session_mut(index)?.outbound.as_mut()?;
        outbound.find(packet_id).map(|sent| sent.step)
    }
}
