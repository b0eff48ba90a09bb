//! What a configuration with sub-clusters is put together from: control thread, ring, links.

use super::GatewayError;
use crate::config::{Config, NatsServer, Sessions, SubClusterConfig};
use crate::proto::bridge::ring_table::{Member, RingTable};
use crate::proto::limits::Limits;
use crate::proto::output::ShardIndex;
use crate::proto::session::HELD_MAX;
use crate::shard::MeshSender;
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::jetstream::control::{ControlNews, ControlSettings, ControlThread};
use crate::upstream::jetstream::lane::LaneLimits;
use crate::upstream::jetstream::link::{
    ADDED_HEADER_BYTES_MAX, Identity, LinkSettings, LinkTls, PAYLOAD_BYTES_MAX,
};
use crate::upstream::jetstream::sessions::{LeaseLimits, Owner, STATE_BYTES_MAX};
use crate::upstream::jetstream::shard::{JetStream, JetStreamSettings, SharedSessions};
use crate::upstream::jetstream::{PartitionLimits, ShardReport, SharedLimits};
use arc_swap::ArcSwapOption;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a gateway waits for the ring at start. Without one it does not know where a topic is.
const RING_WAIT: Duration = Duration::from_secs(60);

/// How long it waits without news for partitions of which nothing is known.
const PARTITION_WAIT: Duration = Duration::from_secs(3);

/// How often it says that it is waiting.
const RING_WARNING_INTERVAL: Duration = Duration::from_secs(5);

/// The largest packet a client may send: with every byte of it escaped in a header, as bytes of
/// properties may be, and some room for the others, it is below a server's default `max_payload` of
/// 1 MiB.
const PACKET_BYTES_MAX: u32 = (1_048_576 - 8_192) / 3;

/// The longest topic name or filter: with every byte escaped it is below the longest subject.
const TOPIC_BYTES_MAX: u16 = 1_100;

/// Bytes of an operation of a server that has not come completely: a message of the largest
/// `max_payload`, what the server adds, and a control line.
#[expect(clippy::cast_possible_truncation, reason = "8 MiB")]
pub(super) const LINK_PARTIAL_BYTES_MAX: usize =
    PAYLOAD_BYTES_MAX as usize + ADDED_HEADER_BYTES_MAX + 8_192;

/// The longest client id, with sessions in JetStream: it is a subject, as topics are.
const CLIENT_ID_BYTES_MAX: u16 = 1_100;

/// The largest CONNECT, with sessions in JetStream: its will is part of the record.
const CONNECT_BYTES_MAX: u32 = 64 * 1_024;
/// Messages with QoS 2 under way in one direction, at most: 27 bytes each in the record one way, 25
/// the other.
const WINDOW_MAX: u16 = 4_096;
/// Bytes of subscriptions in the record.
const SUBSCRIPTION_BYTES_MAX: u32 = 600_000;

const _: () = assert!(
    SUBSCRIPTION_BYTES_MAX
        + CONNECT_BYTES_MAX
        + WINDOW_MAX as u32 * (27 + 25)
        + HELD_MAX as u32 * 27
        + 8_192
        < STATE_BYTES_MAX
);

/// Unacknowledged publishes of a shard to one partition before publishers are held.
const LANE_COUNT_MAX: usize = 65_536;

/// How long a publish waits for its acknowledgement before it is sent again, or looked for on another link.
/// Slow disks and elections hold a server up for seconds.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of stored messages each shard keeps of a partition for sessions that are behind.
const PAGE_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// Bytes that wait for a link before messages of QoS 0 for it are dropped.
const LINK_WRITE_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// What JetStream cannot do as the embedded upstream does it.
pub(super) fn restrict(limits: Limits, sessions: Sessions) -> Limits {
    let limits = match sessions {
        Sessions::Local => limits,
        Sessions::Shared => restrict_record(limits),
    };
    Limits {
        maximum_packet_size_bytes: limits.maximum_packet_size_bytes.min(PACKET_BYTES_MAX),
        topic_bytes_max: limits.topic_bytes_max.min(TOPIC_BYTES_MAX),
        ..limits
    }
}

/// A session's record is one message: all that may be in it together is below what a record may
/// have, which is below a server's default `max_payload`.
fn restrict_record(limits: Limits) -> Limits {
    Limits {
        client_id_bytes_max: limits.client_id_bytes_max.min(CLIENT_ID_BYTES_MAX),
        connect_packet_bytes_max: limits.connect_packet_bytes_max.min(CONNECT_BYTES_MAX),
        receive_maximum: limits.receive_maximum.min(WINDOW_MAX),
        inflight_max: limits.inflight_max.min(WINDOW_MAX),
        subscription_bytes_max: SUBSCRIPTION_BYTES_MAX,
        ..limits
    }
}

/// A control thread that has told the ring.
pub(super) struct Controlled {
    pub(super) control: ControlThread,
    /// The ring in force.
    pub(super) ring: Arc<ArcSwapOption<RingTable>>,
    /// What shards begin with; news of later ones waits for them.
    first: Arc<RingTable>,
    /// Of each shard.
    reports: Arc<[Arc<ShardReport>]>,
}

/// What needs neither sockets nor a data directory, and may take long or fail: connections to the servers
/// of the sub-clusters, their streams, the ring. Nothing without sub-clusters.
pub struct Ground {
    pub(super) controlled: Option<Controlled>,
    /// What the control thread has to say to shards.
    pub(super) news: Option<flume::Receiver<ControlNews>>,
}

impl Ground {
    /// Blocks until the ring is known. `is_successor`: for a process that is to take the clients of
    /// another one, which goes on if that comes to nothing.
    ///
    /// # Errors
    ///
    /// It cannot be had, or a thread cannot.
    pub fn lay(config: &Config, is_successor: bool) -> Result<Self, GatewayError> {
        if config.nats.is_empty() {
            return Ok(Self { controlled: None, news: None });
        }
        let (sender, news) = flume::unbounded();
        let controlled = Controlled::start(config, is_successor, move |news| {
            // Nobody listens any more at the end.
            let _ = sender.send(news);
        })?;
        Ok(Self { controlled: Some(controlled), news: Some(news) })
    }
}

/// Gives every shard the news, those that came before there were shards first, until there are no more.
pub(super) fn pass_on(
    news: flume::Receiver<ControlNews>,
    shards: Vec<MeshSender<NodeMessage>>,
) -> std::io::Result<()> {
    let pass_on = move || {
        for news in news {
            for shard in &shards {
                // One that has ended needs none.
                let _ = shard.send(NodeMessage::Control(Box::new(news.clone())));
            }
        }
    };
    std::thread::Builder::new().name("news".to_owned()).spawn(pass_on).map(drop)
}

impl Controlled {
    /// Starts the control thread, which tells every shard its news, and waits for the ring.
    pub(super) fn start(
        config: &Config,
        is_successor: bool,
        tell_shards: impl Fn(ControlNews) + Send + 'static,
    ) -> Result<Self, GatewayError> {
        let settings = ControlSettings { is_successor, ..ControlSettings::from(config) };
        let reports = Arc::clone(&settings.reports);
        let (sender, receiver) = channel();
        let ring = Arc::new(ArcSwapOption::empty());
        let told = Arc::clone(&ring);
        let tell = move |news: ControlNews| {
            if let ControlNews::Ring(table, _) = &news {
                told.store(Some(Arc::clone(table)));
            }
            // Nobody listens any more once the gateway has started.
            let _ = sender.send(news.clone());
            tell_shards(news);
        };
        let control = ControlThread::spawn(settings, tell).map_err(GatewayError::Thread)?;
        match wait_for_ring(&receiver) {
            Some(first) => {
                wait_for_partitions(&receiver, &first, config);
                Ok(Self { control, ring, first, reports })
            }
            None => {
                control.stop();
                Err(GatewayError::NoRing { seconds: RING_WAIT.as_secs() })
            }
        }
    }

    /// The upstream of one shard.
    pub(super) fn shard(&self, config: &Config, shard: ShardIndex) -> Box<JetStream> {
        let random = ahash::RandomState::new();
        let origin = random.hash_one(("origin", shard.0, std::process::id()));
        let report = self.reports.get(usize::from(shard.0)).cloned().unwrap_or_default();
        let settings = JetStreamSettings {
            report,
            ring: Arc::clone(&self.first),
            links: config.nats.iter().map(|one| link(config, one, shard)).collect(),
            limits: PartitionLimits {
                lane: LaneLimits {
                    count_max: LANE_COUNT_MAX,
                    bytes_max: config.limits.append_bytes_max as usize,
                    timeout: PUBLISH_TIMEOUT,
                },
                shared: SharedLimits {
                    groups_max: config.limits.shared_groups_max as usize,
                    members_max: config.limits.shared_members_max as usize,
                    inflight_max: config.limits.shared_inflight_max,
                },
                tail_bytes_max: config.limits.tail_bytes_max as usize,
                page_bytes_max: PAGE_BYTES_MAX,
                link_write_bytes_max: LINK_WRITE_BYTES_MAX,
                held_bytes_max: config.limits.held_bytes_max as usize,
            },
            inbox_prefix: format!("_GW.{origin:016x}"),
            origin,
            gateway: config.gateway_id.as_str().into(),
            uplink: config.uplink.clone().into(),
            sessions: (config.sessions == Sessions::Shared).then(|| SharedSessions {
                owner: Owner {
                    gateway: config.gateway_id.as_str().into(),
                    shard: shard.0,
                    boot: origin,
                },
                count_max: u64::from(config.limits.sessions_max / u32::from(config.shards)),
                lease: LeaseLimits {
                    renew: Duration::from_secs(config.limits.session_lease_renew_s.into()),
                    timeout: Duration::from_secs(config.limits.session_lease_timeout_s.into()),
                },
            }),
        };
        Box::new(JetStream::new(&settings, random.hash_one("links")))
    }
}

fn wait_for_ring(receiver: &Receiver<ControlNews>) -> Option<Arc<RingTable>> {
    let mut waited = Duration::ZERO;
    while waited < RING_WAIT {
        match receiver.recv_timeout(RING_WARNING_INTERVAL) {
            Ok(ControlNews::Ring(ring, _)) => return Some(ring),
            Ok(ControlNews::Partition(_)) => {}
            Err(RecvTimeoutError::Timeout) => {
                waited += RING_WARNING_INTERVAL;
                tracing::warn!(
                    waited_s = waited.as_secs(),
                    "waiting for the ring: is the first sub-cluster by name there?"
                );
            }
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// Waits until something is known of every partition, or for so long: clients that come before would
/// be told that they are subscribed where nobody listens yet.
fn wait_for_partitions(receiver: &Receiver<ControlNews>, ring: &RingTable, config: &Config) {
    let is_configured =
        |member: &&Member| config.nats.iter().any(|one| one.name == member.sub_cluster);
    let members = ring.members().iter().filter(is_configured);
    let mut missing: Vec<_> = members.map(|member| member.partition).collect();
    let mut waited = Duration::ZERO;
    while !missing.is_empty() && waited < PARTITION_WAIT {
        match receiver.recv_timeout(PARTITION_WAIT / 16) {
            Ok(ControlNews::Partition(status)) => missing.retain(|one| *one != status.partition),
            Ok(ControlNews::Ring(..)) => {}
            Err(_) => waited += PARTITION_WAIT / 16,
        }
    }
    if !missing.is_empty() {
        let missing: Vec<u16> = missing.iter().map(|partition| partition.0).collect();
        tracing::warn!(?missing, "starting although these partitions are away");
    }
}

pub(super) fn link(
    config: &Config,
    sub_cluster: &SubClusterConfig,
    shard: ShardIndex,
) -> (Arc<LinkSettings>, Vec<SocketAddr>) {
    let settings = LinkSettings {
        name: sub_cluster.name.clone(),
        connection_name: format!("gateway {} shard {}", config.gateway_id, shard.0),
        identity: Identity::try_from(&sub_cluster.identity).expect("the configuration checked it"),
        connect_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_secs(5),
        silence_max: Duration::from_secs(12),
        reconnect_wait_max: Duration::from_secs(5),
        announced_servers_max: 64,
        tls: match &sub_cluster.tls {
            None => LinkTls::Plain,
            Some(tls) if tls.first => LinkTls::First,
            Some(_) => LinkTls::AfterInfo,
        },
    };
    // Names are resolved by the control thread, which says where the leader is.
    let servers = sub_cluster.servers.iter();
    let address = |server: &NatsServer| {
        Some(SocketAddr::new(server.host.trim_matches(['[', ']']).parse().ok()?, server.port))
    };
    (Arc::new(settings), servers.filter_map(address).collect())
}
