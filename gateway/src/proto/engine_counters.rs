//! What a shard's engine counts. The engine adds; the handler reads, for metrics.

use super::handler::CloseReason;
use super::histogram::Histogram;

/// Totals since the start of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Connections accepted from listeners.
    pub accepted: u64,
    /// Connections closed at once because `connections_max` were open.
    pub refused: u64,
    /// Connections made to servers.
    pub dialed: u64,
    /// Connections taken over from other shards.
    pub arrived: u64,
    /// Connections handed over to other shards.
    pub departed: u64,
    /// Closed by the peer.
    pub closed_by_peer: u64,
    /// Reset by the peer or the network.
    pub closed_by_reset: u64,
    /// Closed because the handler said so.
    pub closed_on_request: u64,
    /// Closed for leaving too much unconsumed.
    pub closed_partial_too_large: u64,
    /// Closed because the peer did not take what was queued in time.
    pub closed_by_deadline: u64,
    /// Closed after another error of the operating system.
    pub closed_failed: u64,
    /// Closed before the transport was set up: it took too long, or too many bytes.
    pub closed_handshake: u64,
    /// Closed because the peer broke TLS, or had no good certificate.
    pub closed_tls: u64,
    /// Closed because the peer broke WebSocket, or does not speak MQTT over it.
    pub closed_websocket: u64,
    /// Closed because a balancer sent no PROXY header.
    pub closed_proxy: u64,
    /// Closed because clients that were not known had sent too much, all together.
    pub closed_strangers: u64,
    /// Closed at once: on a listener for balancers, and from no address of theirs.
    pub refused_no_balancer: u64,
    /// Full TLS handshakes.
    pub tls_full: u64,
    /// TLS sessions taken up again with a ticket.
    pub tls_resumed: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Completions reaped.
    pub completions: u64,
    /// `io_uring_enter` calls on the shard's own ring.
    pub enters: u64,
    /// Times the shard went to sleep in the executor.
    pub parks: u64,
    /// Times another thread woke it or found it awake with its queues unread.
    pub doorbells: u64,
    /// Receives that found no buffer.
    pub starved: u64,
    /// How long sweeps took: whatever comes meanwhile waits as long before it is looked at.
    pub sweeps: Histogram,
}

impl EngineCounters {
    /// Counts the end of a connection.
    pub fn closed(&mut self, reason: CloseReason) {
        let counter = match reason {
            CloseReason::PeerClosed => &mut self.closed_by_peer,
            CloseReason::PeerReset => &mut self.closed_by_reset,
            CloseReason::Requested => &mut self.closed_on_request,
            CloseReason::PartialTooLarge => &mut self.closed_partial_too_large,
            CloseReason::CloseDeadline => &mut self.closed_by_deadline,
            CloseReason::Failed(_) => &mut self.closed_failed,
            CloseReason::Handshake => &mut self.closed_handshake,
            CloseReason::Tls => &mut self.closed_tls,
            CloseReason::WebSocket => &mut self.closed_websocket,
            CloseReason::Proxy => &mut self.closed_proxy,
            CloseReason::StrangersTooLarge => &mut self.closed_strangers,
        };
        *counter += 1;
    }

    /// All closed connections.
    #[must_use]
    pub fn closed_total(&self) -> u64 {
        self.closed_by_peer
            + self.closed_by_reset
            + self.closed_on_request
            + self.closed_partial_too_large
            + self.closed_by_deadline
            + self.closed_failed
            + self.closed_handshake
            + self.closed_tls
            + self.closed_websocket
            + self.closed_proxy
    }
}

/// What the engine tells a handler that asked: see [`Io::wants_report`](super::handler::Io).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineReport {
    /// Since the start.
    pub counters: EngineCounters,
    /// Connections open now, those to servers included.
    pub open: u64,
}
