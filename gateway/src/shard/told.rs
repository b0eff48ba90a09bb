//! What the log hears of peers that are turned away before they speak MQTT: now and then one line of
//! each kind, with how many were not told.

use super::engine::Shard;
use crate::proto::handler::{CloseReason, Handler};
use crate::proto::output::ConnectionId;
use crate::proto::sampled::Sampled;
use std::net::SocketAddr;

/// When each kind was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    closed: Sampled,
    no_balancer: Sampled,
    full: Sampled,
}

impl<H: Handler> Shard<H> {
    /// A connection ends for `reason`, which may be its peer's fault.
    pub(super) fn tell_closed(&mut self, id: ConnectionId, reason: CloseReason) {
        if !reason.is_fault_of_transport() {
            return;
        }
        let Some(untold) = self.told.closed.tell(self.io.now) else { return };
        let peer = self.connections.layers(id.index).map(|layers| layers.origin().peer);
        tracing::warn!(?reason, ?peer, untold, "closed before it spoke MQTT, or for its transport");
    }

    /// Somebody who is no balancer has connected to a listener for balancers.
    pub(super) fn tell_no_balancer(&mut self, peer: SocketAddr) {
        if let Some(untold) = self.told.no_balancer.tell(self.io.now) {
            tracing::warn!(%peer, untold, "not one of `balancers`: closed");
        }
    }

    /// There are `connections_max` connections.
    pub(super) fn tell_full(&mut self, peer: SocketAddr) {
        if let Some(untold) = self.told.full.tell(self.io.now) {
            let connections_max = self.config.connections_max;
            tracing::warn!(%peer, connections_max, untold, "no room for another connection: closed");
        }
    }
}
