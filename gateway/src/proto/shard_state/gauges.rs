//! What is there now, for metrics: kept up to date where it changes, or looked at by the pass over
//! sessions with messages on their way that is made each second anyway. Reading costs nothing.

use super::{Connection, ConnectionStage, ShardState};
use crate::proto::handler::TransportKind;
use crate::proto::partition::Sequence;
use crate::proto::session::{Outbound, Session};

/// What a shard has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections by what carries them and what they wait for.
    pub connections: TransportCounts,
    /// Sessions in memory.
    pub sessions: u64,
    /// Distinct topic filters.
    pub filters: u64,
    /// Messages on their way, as of at most a second ago.
    pub outbound: OutboundGauges,
    /// Bytes of connections and sessions, but for what each has allocated beside its fixed part.
    pub table_bytes: u64,
}

/// Connections of each transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounts {
    /// TCP.
    pub tcp: StageCounts,
    /// TLS.
    pub tls: StageCounts,
    /// WebSocket.
    pub web_socket: StageCounts,
    /// WebSocket over TLS.
    pub secure_web_socket: StageCounts,
}

impl TransportCounts {
    /// Each with its name in listen addresses, but for the `mqtt` of the first two.
    #[must_use]
    pub fn named(&self) -> [(&'static str, StageCounts); 4] {
        [
            (TransportKind::Tcp.name(), self.tcp),
            (TransportKind::Tls.name(), self.tls),
            (TransportKind::WebSocket.name(), self.web_socket),
            (TransportKind::SecureWebSocket.name(), self.secure_web_socket),
        ]
    }

    /// Connections after CONNACK.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.named().iter().map(|(_, stages)| stages.connected).sum()
    }

    /// Connections before CONNACK.
    #[must_use]
    pub fn connecting(&self) -> u64 {
        let before = |stages: &StageCounts| {
            stages.expect_connect
                + stages.expect_identity
                + stages.expect_proof
                + stages.expect_session
        };
        self.named().iter().map(|(_, stages)| before(stages)).sum()
    }

    fn of(&mut self, transport: TransportKind) -> &mut StageCounts {
        match transport {
            TransportKind::Tcp => &mut self.tcp,
            TransportKind::Tls => &mut self.tls,
            TransportKind::WebSocket => &mut self.web_socket,
            TransportKind::SecureWebSocket => &mut self.secure_web_socket,
        }
    }
}

/// Connections in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCounts {
    /// Before CONNECT.
    pub expect_connect: u64,
    /// CONNECT came, and it is not known who the client is.
    pub expect_identity: u64,
    /// Those that have to prove who they are.
    pub expect_proof: u64,
    /// CONNECT came, CONNACK is not sent.
    pub expect_session: u64,
    /// After CONNACK.
    pub connected: u64,
    /// Being closed.
    pub closing: u64,
}

/// Messages on their way to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundGauges {
    /// Sessions that have any.
    pub sessions: u64,
    /// Sent and not acknowledged, QoS 1 and 2.
    pub in_flight: u64,
    /// Waiting for room.
    pub queued: u64,
    /// Sessions that read from the log.
    pub behind: u64,
    /// Of a session in a partition, the furthest from the end.
    pub lag_max: u64,
    /// Over all sessions and partitions they are behind in.
    pub lag_sum: u64,
}

impl StageCounts {
    fn of(&mut self, stage: ConnectionStage) -> Option<&mut u64> {
        match stage {
            ConnectionStage::Vacant => None,
            ConnectionStage::ExpectConnect => Some(&mut self.expect_connect),
            ConnectionStage::ExpectIdentity => Some(&mut self.expect_identity),
            ConnectionStage::ExpectProof => Some(&mut self.expect_proof),
            ConnectionStage::ExpectSession => Some(&mut self.expect_session),
            ConnectionStage::Connected => Some(&mut self.connected),
            ConnectionStage::Closing => Some(&mut self.closing),
        }
    }
}

impl OutboundGauges {
    /// Adds a session's; how far it is behind.
    pub(super) fn add(&mut self, outbound: &Outbound, watermarks: &[Sequence]) -> u64 {
        self.sessions += 1;
        let lag_before = self.lag_sum;
        self.in_flight += outbound.in_flight.len() as u64;
        self.queued += outbound.queue.len() as u64;
        self.behind += u64::from(!outbound.behind.is_empty());
        for behind in &outbound.behind {
            let end = watermarks.get(usize::from(behind.partition.0)).copied();
            let lag = distance(behind.cursor, end.unwrap_or_default());
            self.lag_max = self.lag_max.max(lag);
            self.lag_sum = self.lag_sum.saturating_add(lag);
        }
        self.lag_sum - lag_before
    }
}

/// A session with much on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    pub(super) session: u32,
    pub(super) epoch: u32,
    /// First how far it is behind, then how much is on its way.
    pub(super) measure: (u64, usize),
}

/// Sessions kept as the slowest.
const SLOWEST_MAX: usize = 32;

/// Adds a session to the slowest, slowest first, if it is among them.
pub(super) fn note_slow(slowest: &mut Vec<Slow>, slow: Slow) {
    if slow.measure == (0, 0) {
        return;
    }
    let place = slowest.partition_point(|other| other.measure >= slow.measure);
    if place < SLOWEST_MAX {
        slowest.truncate(SLOWEST_MAX - 1);
        slowest.insert(place, slow);
    }
}

/// How far `cursor` is from `end`: messages of a stream, bytes of an embedded log. Where a restart of
/// the gateway lies between, what came since then.
pub(super) fn distance(cursor: Sequence, end: Sequence) -> u64 {
    match cursor.generation() == end.generation() {
        true => end.0.saturating_sub(cursor.0),
        false => end.offset(),
    }
}

impl ShardState {
    /// What is there now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let sessions = self.by_client.len();
        let table_bytes = self.connections.capacity() * size_of::<Connection>()
            + self.sessions.capacity() * size_of::<super::SessionSlot>()
            + sessions * size_of::<Session>();
        Gauges {
            connections: self.stages,
            sessions: sessions as u64,
            filters: self.tree.len() as u64,
            outbound: self.outbound_gauges,
            table_bytes: table_bytes as u64,
        }
    }

    /// Connection `index` waits for something else.
    pub(super) fn set_stage(&mut self, index: u32, stage: ConnectionStage) {
        let Some(connection) = self.connections.get_mut(index as usize) else {
            return;
        };
        let before = std::mem::replace(&mut connection.stage, stage);
        let stages = self.stages.of(connection.transport);
        if let Some(count) = stages.of(before) {
            *count -= 1;
        }
        if let Some(count) = stages.of(stage) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_kept_in_order() {
        let mut slowest = Vec::new();
        for session in (0..100).rev() {
            let lag = u64::from(session * 37 % 100);
            note_slow(&mut slowest, Slow { session, epoch: 0, measure: (lag, 1) });
        }
        note_slow(&mut slowest, Slow { session: 200, epoch: 0, measure: (0, 0) });
        let lags: Vec<u64> = slowest.iter().map(|slow| slow.measure.0).collect();
        assert_eq!(lags, (68..100).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_distance_is_within_a_boot_or_from_its_beginning() {
        assert_eq!(distance(Sequence(5), Sequence(12)), 7);
        assert_eq!(distance(Sequence(12), Sequence(5)), 0, "ahead of what was told");
        let (old, new) = (Sequence::embedded(3, 900), Sequence::embedded(4, 100));
        assert_eq!(distance(old, new), 100);
        assert_eq!(distance(Sequence::embedded(4, 40), new), 60);
    }
}
