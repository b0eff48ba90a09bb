//! What must hold between several values, and what they cost together.

use super::error::{ConfigError, Origin};
use super::limits::Limits;

/// The part of the machine's memory that what is always there may take: three quarters.
const FIXED_SHARE: (u64, u64) = (3, 4);
/// What the kernel takes for an idle TCP socket, and the gateway for its connection, at most.
const IDLE_CONNECTION_BYTES: u64 = 3_900 + 512;
/// What the gateway takes for the keys of an idle TLS connection, at most; measured 3,900.
const IDLE_TLS_BYTES: u64 = 5_120;

/// What a queue between two shards takes for a batch that may be under way, whether there is one.
const MESH_SLOT_BYTES: u64 = 32;
/// What the gateway takes for TLS that is being set up, beside what the client sends; measured 10,000.
pub(crate) const SETUP_TLS_BYTES: u64 = 12_288;

/// Memory the gateway takes, by when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Buffers that are there from the start or fill under load, whoever is connected: receive
    /// buffers, uncommitted appends, log tails, the queues between shards, the interest table, the
    /// session filter.
    pub fixed_bytes: u64,
    /// What gathers for shards that cannot keep up: `mesh_bytes_max` for each pair.
    pub mesh_bytes: u64,
    /// One connection that is being set up, before its client is known: its handshake, and a CONNECT.
    pub stranger_bytes: u64,
    /// All of these, at `strangers_bytes_max`.
    pub strangers_bytes: u64,
    /// `connections_max` connections that are idle, kernel memory included.
    pub idle_connections_bytes: u64,
    /// One connection at its limits: a packet half received, an outbox full.
    pub busy_connection_bytes: u64,
}

impl MemoryBounds {
    /// The bounds that `limits` set for `shards` shards.
    #[must_use]
    pub fn of(limits: &Limits, shards: u16, log_in_memory: bool) -> Self {
        let receive = u64::from(limits.receive_buffers) * u64::from(limits.receive_buffer_bytes);
        let shard = receive + u64::from(limits.append_bytes_max) + u64::from(limits.tail_bytes_max);
        let log = if log_in_memory { limits.retention_bytes } else { 0 };
        let pairs = u64::from(shards) * u64::from(shards.saturating_sub(1));
        Self {
            mesh_bytes: pairs * u64::from(limits.mesh_bytes_max),
            stranger_bytes: u64::from(limits.connect_packet_bytes_max),
            strangers_bytes: limits.strangers_bytes_max,
            fixed_bytes: shard * u64::from(shards)
                + pairs * u64::from(limits.mesh_batches_max) * MESH_SLOT_BYTES
                + u64::from(limits.interest_slots) * 8
                + u64::from(limits.session_filter_bytes)
                + log,
            idle_connections_bytes: u64::from(limits.connections_max) * IDLE_CONNECTION_BYTES,
            busy_connection_bytes: u64::from(limits.maximum_packet_size_bytes)
                + u64::from(limits.client_write_bytes_max),
        }
    }

    /// These, if messages are in sub-clusters.
    #[must_use]
    pub(super) fn with_nats(self, limits: &Limits, shards: u16) -> Self {
        let held = u64::from(limits.held_bytes_max) * u64::from(shards);
        Self { fixed_bytes: self.fixed_bytes + held, ..self }
    }

    /// These, if each connection speaks TLS.
    #[must_use]
    pub(super) fn with_tls(self, limits: &Limits) -> Self {
        let keys = u64::from(limits.connections_max) * IDLE_TLS_BYTES;
        let setup = u64::from(limits.handshake_bytes_max) + SETUP_TLS_BYTES;
        Self {
            idle_connections_bytes: self.idle_connections_bytes + keys,
            // What came of a handshake is gone when CONNECT comes.
            stranger_bytes: self.stranger_bytes.max(setup),
            ..self
        }
    }

    /// One line for the log if `connections_max` idle connections do not fit `memory_bytes`.
    #[must_use]
    pub fn warning(&self, memory_bytes: u64) -> Option<String> {
        let gathering = self.mesh_bytes.saturating_add(self.strangers_bytes);
        let fixed = self.fixed_bytes.saturating_add(gathering);
        let needed = fixed.saturating_add(self.idle_connections_bytes);
        (needed > memory_bytes).then(|| {
            format!(
                "limits.connections_max idle connections, the fixed buffers and what may gather between \
                 shards and for clients that are not known need {} MiB, the machine has {} MiB: memory will run out first",
                needed >> 20,
                memory_bytes >> 20
            )
        })
    }
}

/// Checks the relations between limits; each fault names both keys.
pub(super) fn check(limits: &Limits, shards: u16, faults: &mut Vec<ConfigError>) {
    let packet = u64::from(limits.maximum_packet_size_bytes);
    let packet_key = "limits.maximum_packet_size_bytes";
    let segment = u64::from(limits.segment_bytes);
    let at_least = [
        // A record is a packet and its header; a segment must hold at least one.
        ("segment_bytes", segment, packet * 2, format!("2 x {packet_key}")),
        ("append_bytes_max", limits.append_bytes_max.into(), packet, packet_key.to_owned()),
        ("tail_bytes_max", limits.tail_bytes_max.into(), packet, packet_key.to_owned()),
        (
            "client_write_bytes_max",
            limits.client_write_bytes_max.into(),
            packet,
            packet_key.to_owned(),
        ),
        (
            "maximum_packet_size_bytes",
            packet,
            limits.connect_packet_bytes_max.into(),
            "limits.connect_packet_bytes_max".to_owned(),
        ),
        (
            "strangers_bytes_max",
            limits.strangers_bytes_max,
            u64::from(limits.handshake_bytes_max) + SETUP_TLS_BYTES,
            format!("limits.handshake_bytes_max + {SETUP_TLS_BYTES}"),
        ),
        (
            "strangers_bytes_max",
            limits.strangers_bytes_max,
            limits.connect_packet_bytes_max.into(),
            "limits.connect_packet_bytes_max".to_owned(),
        ),
        // Of a log's two last segments one is being written: with fewer nothing could ever go.
        (
            "retention_bytes",
            limits.retention_bytes,
            segment * 2 * u64::from(shards),
            "2 x limits.segment_bytes x shards".to_owned(),
        ),
        // A renewal or two may be lost.
        (
            "session_lease_timeout_s",
            limits.session_lease_timeout_s.into(),
            u64::from(limits.session_lease_renew_s) * 3,
            "3 x limits.session_lease_renew_s".to_owned(),
        ),
    ];
    for (key, value, floor, because) in at_least {
        if value < floor {
            faults.push(ConfigError {
                key: format!("limits.{key}"),
                value: value.to_string(),
                expected: format!("at least {because} = {floor}"),
                origin: Origin::Default,
            });
        }
    }
}

/// Refuses fixed buffers that take more than three quarters of the machine's memory.
pub(super) fn check_memory(
    bounds: &MemoryBounds,
    memory_bytes: u64,
    faults: &mut Vec<ConfigError>,
) {
    let (part, whole) = FIXED_SHARE;
    let share = memory_bytes / whole * part;
    if bounds.fixed_bytes > share {
        faults.push(ConfigError {
            key: "limits".to_owned(),
            value: String::new(),
            expected: format!(
                "fixed buffers of at most {share} bytes, three quarters of memory, not {}: lower \
                 shards, receive_buffers, receive_buffer_bytes, append_bytes_max, \
                 tail_bytes_max, held_bytes_max, mesh_batches_max, interest_slots, session_filter_bytes, or with durability memory retention_bytes",
                bounds.fixed_bytes
            ),
            origin: Origin::Default,
        });
    }
}
