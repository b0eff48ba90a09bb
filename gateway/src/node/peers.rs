//! Where the connections of a shard come from, for operators: 28 bytes each.

use crate::proto::handler::{Origin, TransportKind};
use crate::proto::output::ConnectionId;
use crate::proto::shard_state::inspect::Peer;
use crate::proto::time::Timestamp;
use std::net::{Ipv6Addr, SocketAddr};

/// By connection index; what is left of a connection that is gone stays until the next one.
#[derive(Debug, Default)]
pub(super) struct Peers(Vec<Compact>);

#[derive(Clone, Copy, Debug)]
struct Compact {
    generation: u32,
    /// Seconds since the Unix epoch.
    since_s: u32,
    /// IPv4 as IPv6-mapped.
    ip: [u8; 16],
    port: u16,
    transport: TransportKind,
}

const _: () = assert!(size_of::<Compact>() == 28, "one for each connection");

impl Peers {
    pub(super) fn set(&mut self, id: ConnectionId, origin: &Origin, now: Timestamp) {
        let address = origin.peer;
        let ip = match address {
            SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
            SocketAddr::V6(address) => *address.ip(),
        };
        let compact = Compact {
            generation: id.generation,
            since_s: u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX),
            ip: ip.octets(),
            port: address.port(),
            transport: origin.transport,
        };
        let place = id.index as usize;
        if place >= self.0.len() {
            self.0.resize(place + 1, compact);
        }
        if let Some(slot) = self.0.get_mut(place) {
            *slot = compact;
        }
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<Peer> {
        let found = self.0.get(id.index as usize)?;
        let ip = Ipv6Addr::from(found.ip).to_canonical();
        (found.generation == id.generation).then(|| Peer {
            address: SocketAddr::new(ip, found.port),
            since_ms: u64::from(found.since_s) * 1_000,
            transport: found.transport.name(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_back_to_its_own_connection_only() {
        let mut peers = Peers::default();
        let id = |index, generation| ConnectionId { index, generation };
        for (number, text) in ["192.0.2.1:5000", "[2001:db8::1]:1"].iter().enumerate() {
            let (address, index) = (text.parse().unwrap(), u32::try_from(number).unwrap());
            peers.set(id(index, 3), &Origin::tcp(address), Timestamp(12_999));
            let peer = Peer { address, transport: "tcp", since_ms: 12_000 };
            assert_eq!(peers.get(id(index, 3)), Some(peer));
            assert_eq!(peers.get(id(index, 4)), None);
        }
        assert_eq!(peers.get(id(9, 0)), None);
    }
}
