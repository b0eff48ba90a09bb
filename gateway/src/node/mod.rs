//! The whole node: what the configuration says, put together and started.
//!
//! Start: recover the logs, fold them into the keyed store, settle the sessions a crash left
//! online, start the storage thread and the shards. End: shards say goodbye and commit, then the
//! storage thread persists.

pub mod core;
mod data_format;
mod data_kind;
pub mod hand_over;
mod handle;
pub mod handler;
mod jetstream;
mod peers;
pub mod recovery;
pub mod reload;
pub mod segments;
mod tls_reload;

use self::core::ShardCore;
use crate::auth::{AuthenticationThreads, Clocks, Directory, FileFault, Shards, ThreadSettings};
use crate::config::{
    AuthMethod, ClientEvent, Config, Durability, Listen, NatsTls, Sessions, SubClusterConfig,
    TlsFault,
};
use crate::proto::access;
use crate::proto::limits::Limits;
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::routing::{InterestOwner, InterestTable};
use crate::proto::shard_state::events::EventKinds;
use crate::proto::shard_state::{ShardState, home_shard};
use crate::proto::time::Timestamp;
use crate::proto::websocket::WebSocketLimits;
use crate::shard::clock::Clock;
use crate::shard::{
    BoundNode, EngineConfig, EngineCounters, MeshSender, Node, Restless, StartError, requirements,
};
use crate::upstream::embedded::ends::PartitionEnds;
use crate::upstream::embedded::groups::{GroupLimits, group_home};
use crate::upstream::embedded::log::files::{Files, RealFiles};
use crate::upstream::embedded::log::{Durability as LogDurability, Log, LogLimits};
use crate::upstream::embedded::message::NodeMessage;
use crate::upstream::embedded::quota::{Quota, QuotaLimits};
use crate::upstream::embedded::shard::{Embedded, EmbeddedLimits, Shared};
use crate::upstream::embedded::store::fjall_store::FjallStore;
use crate::upstream::embedded::store::groups::StoredGroup;
use crate::upstream::embedded::store::state::KeyedState;
use crate::upstream::embedded::store::thread::{StorageThread, ThreadConfig};
use crate::upstream::jetstream::control::ControlThread;
use arc_swap::ArcSwap;
pub use data_format::DATA_FORMAT;
use data_kind::DataKind;
use hand_over::HandOver;
pub use handle::{NodeHandle, NodeReport};
use handler::MqttShard;
pub use jetstream::Ground;
use recovery::{Recovery, RecoveryError, RecoverySettings};
use segments::Segments;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tls_reload::TlsReload;

/// How often the keyed store is persisted, and timers of offline sessions are looked at.
const PERSIST_INTERVAL: Duration = Duration::from_secs(1);

/// Memory the keyed store may use for its cache, bytes.
const STORE_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Why the gateway could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// What is in the data directory.
    #[error("data directory {}: {error}", directory.display())]
    Data {
        /// As configured.
        directory: PathBuf,
        /// What could not be read or written.
        error: RecoveryError,
    },
    /// A file for TLS cannot be used, although it could when the configuration was checked.
    #[error("{0}")]
    Tls(TlsFault),
    /// A thread beside the shards could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// No sub-cluster said which topics are where.
    #[error(
        "no ring after {seconds} s: the sub-cluster whose name sorts first must be there and let the \
         gateway read and write its key-value bucket; see the log for what it answers"
    )]
    NoRing {
        /// How long it was waited for.
        seconds: u64,
    },
}

/// A running gateway.
pub struct Gateway {
    node: Node<NodeMessage>,
    storage: StorageThread,
    control: Option<ControlThread>,
    authentication: Option<Authentication>,
    handle: NodeHandle,
    tls: Option<TlsReload>,
    /// Those with links, in the order of their numbers.
    sub_clusters: Vec<SubClusterConfig>,
    /// How these links go on in TLS, as shards know it.
    link_tls: Arc<ArcSwap<Vec<Option<NatsTls>>>>,
    directory: Arc<Directory>,
    listen: Vec<Listen>,
}

/// Who finds out who clients are, and what from.
struct Authentication {
    threads: AuthenticationThreads,
    directory: Arc<Directory>,
}

/// The shards, as authentication threads know them.
struct Told(Vec<MeshSender<NodeMessage>>);

impl Gateway {
    /// Binds, recovers and starts everything `config` asks for; `directory` is what the files say that
    /// it names. Blocks until shards run.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`]. Nothing runs afterwards.
    pub fn start(config: &Config, directory: Directory) -> Result<Self, GatewayError> {
        let mut gateway = Self::prepare(config, Arc::new(directory), HandOver::default(), None)?;
        gateway.go();
        Ok(gateway)
    }

    /// As [`Gateway::start`], with the sockets and clients that another gateway had, and what was made
    /// before those were there. Nobody is read before [`Gateway::go`].
    ///
    /// # Errors
    ///
    /// See [`GatewayError`]. Nothing runs afterwards.
    pub fn prepare(
        config: &Config,
        directory: Arc<Directory>,
        hand_over: HandOver,
        ground: Option<Ground>,
    ) -> Result<Self, GatewayError> {
        let clock = Clock::start();
        let mut engine = engine_config(config);
        let tls = start_tls(config, &mut engine)?;
        let HandOver { listeners, connections } = hand_over;
        let listen = config.listen.clone();
        let link_tls = Arc::clone(&engine.link_tls);
        let bound = BoundNode::bind_with(engine, listeners)?;
        let (Recovery { logs, state, groups }, files) = recover(config, clock.now())
            .map_err(|error| GatewayError::Data { directory: config.data.clone(), error })?;
        let senders = bound.senders().to_vec();
        let reply = move |shard: ShardIndex, reply| {
            if let Some(sender) = senders.get(usize::from(shard.0)) {
                // A shard that has ended needs no answer.
                let _ = sender.send(NodeMessage::Store(reply));
            }
        };
        let shards = config.shards;
        let quota = Arc::new(recovered_quota(config, &state));
        let thread = ThreadConfig {
            queue_requests_max: config.limits.storage_queue_max as usize,
            persist_interval: PERSIST_INTERVAL,
            clock: Box::new(move || clock.now()),
            shards,
            quota: Arc::clone(&quota),
            in_memory: log_durability(config) == LogDurability::Memory,
            shard_of: Box::new(move |client_id| home_shard(client_id, shards)),
        };
        let stored_sessions = state.stored_sessions();
        let storage =
            StorageThread::spawn(state, files, thread, reply).map_err(GatewayError::Thread)?;
        let ends = committed_ends(&logs);
        let limits = EmbeddedLimits {
            tail_bytes_max: config.limits.tail_bytes_max as usize,
            store_queue_max: config.limits.storage_queue_max as usize,
            groups: group_limits(config),
            mesh_bytes_max: config.limits.mesh_bytes_max as usize,
        };
        let slots = config.limits.interest_slots as usize;
        let handle = NodeHandle {
            senders: bound.senders().to_vec(),
            quota: Arc::clone(&quota),
            storage: storage.requests(),
            clock,
            walk: Arc::new(tokio::sync::Semaphore::new(1)),
            ring: None,
        };
        let shared = Shared { stored_sessions, quota };
        // With JetStream groups are consumers there.
        let groups = if config.nats.is_empty() { groups } else { Vec::new() };
        let upstreams = embedded_shards(shards, logs, groups, slots, limits, &shared);
        let upstreams = upstreams.into_iter().map(one_shot).collect::<Vec<_>>();
        let whole = Arc::clone(&directory);
        let authentication = authentication_threads(config, directory, clock, bound.senders())?;
        let source = authentication.as_ref().map(|one| Arc::clone(&one.directory) as _);
        let source: Option<Arc<dyn access::Recheck>> = source;
        let questions = authentication.as_ref().map(|one| one.threads.queues());
        let (directory, requests) = (log_directory(config), storage.requests());
        let limits = core_limits(config);
        let seed = ahash::RandomState::new().hash_one(clock.now());
        let Ground { controlled, news } = match ground {
            Some(ground) => ground,
            None => Ground::lay(config, false)?,
        };
        if let Some(news) = news {
            jetstream::pass_on(news, bound.senders().to_vec()).map_err(GatewayError::Thread)?;
        }
        let mut links = Vec::new();
        if let Some(controlled) = &controlled {
            let shards = (0..shards).map(ShardIndex);
            links.extend(shards.map(|shard| one_shot(controlled.shard(config, shard))));
        }
        let handle = NodeHandle {
            ring: controlled.as_ref().map(|controlled| Arc::clone(&controlled.ring)),
            ..handle
        };
        let control = controlled.map(|controlled| controlled.control);
        let connections = hand_over::by_shard(connections, shards);
        let node = bound.prepare(clock, connections, move |shard: ShardIndex| {
            let upstream = upstreams.get(usize::from(shard.0)).and_then(|one| one.try_recv().ok());
            let upstream = upstream.expect("each shard is made once, from what was put there");
            let seed = seed ^ u64::from(shard.0).rotate_left(32);
            let state = ShardState::new(shard, shards, limits.clone(), seed, clock.now());
            let links = links.get(usize::from(shard.0)).and_then(|one| one.try_recv().ok());
            let core = match links {
                Some(links) => ShardCore::with_jetstream(state, upstream, links),
                None => ShardCore::new(state, upstream, &ends),
            };
            let segments = Segments::new(directory.clone());
            MqttShard::new(core, segments, requests.clone(), questions.clone())
                .knowing(source.clone())
        })?;
        let (sub_clusters, directory) = (config.nats.clone(), whole);
        Ok(Self {
            node,
            storage,
            control,
            authentication,
            handle,
            tls,
            sub_clusters,
            link_tls,
            directory,
            listen,
        })
    }

    /// Lets it begin, after [`Gateway::prepare`].
    pub fn go(&mut self) {
        self.node.go();
    }

    /// Loads files with certificates and keys again, without dropping anybody; returns at once.
    pub fn reload_tls(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Loads the authorities and certificates again that connections to servers go by; those that begin
    /// later do. Blocks while files are read.
    pub fn reload_link_tls(&self) {
        for SubClusterConfig { name: sub_cluster, tls, .. } in &self.sub_clusters {
            let Some(tls) = tls else { continue };
            match tls.reload() {
                Ok(()) => tracing::info!(sub_cluster, "TLS files for links loaded"),
                Err(faults) => {
                    for fault in faults {
                        let what = "TLS files for links are not used, those before stay";
                        tracing::error!(sub_cluster, %fault, "{what}");
                    }
                }
            }
        }
    }

    /// Puts certificates, keys, authorities and what else is configured of TLS in force, for
    /// connections that begin from here on. Blocks while files are read.
    ///
    /// # Errors
    ///
    /// Files that cannot be used, or that it needs a restart: which listeners speak TLS is settled at
    /// start. Then everything stays as it was.
    pub fn apply_tls(&self, config: &Config) -> Result<(), Vec<String>> {
        match (&self.tls, &config.tls) {
            (Some(running), Some(tls)) => running
                .apply(tls)
                .map_err(|faults| faults.iter().map(ToString::to_string).collect()),
            (None, None) => Ok(()),
            (Some(_), None) => Err(vec!["that no listener speaks TLS needs a restart".to_owned()]),
            (None, Some(_)) => Err(vec!["that a listener speaks TLS needs a restart".to_owned()]),
        }
    }

    /// The addresses bound, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.node.addresses()
    }

    /// Reads the files again that say who clients are and what they may touch; whoever is connected is
    /// looked at again. Blocks while it reads.
    ///
    /// # Errors
    ///
    /// What is wrong with the files, or that it needs a restart: whether anybody is asked at all is
    /// settled at start. Then everything stays as it was.
    pub fn reload_access(&mut self, config: &Config) -> Result<(), Vec<String>> {
        if self.authentication.is_some() != config.auth.is_needed() {
            let begins = if config.auth.is_needed() { "begins" } else { "ends" };
            return Err(vec![format!("that authentication {begins} needs a restart")]);
        }
        let Some(authentication) = &mut self.authentication else {
            return Ok(());
        };
        // The thread that does it is there, or not, from the start on.
        let asks_over_http = config.auth.methods.contains(&AuthMethod::Http);
        if authentication.directory.asks_over_http() != asks_over_http {
            return Err(vec!["to ask over HTTP, or not any more, needs a restart".to_owned()]);
        }
        let text =
            |faults: Vec<FileFault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let directory = authentication.directory.reload(config).map_err(text)?;
        authentication.directory = Arc::new(directory);
        self.directory = Arc::clone(&authentication.directory);
        authentication.threads.load(&authentication.directory);
        Ok(())
    }

    /// Connects to sub-clusters that have come to the configuration, which makes them members of the ring
    /// without topics. Nobody is disconnected.
    ///
    /// # Errors
    ///
    /// What needs a restart: one that was there has gone or is configured otherwise, the first one at all,
    /// or one whose name sorts before those that have the ring among them. Then nothing has changed.
    pub fn add_sub_clusters(&mut self, config: &Config) -> Result<(), Vec<String>> {
        let known = |name: &str| self.sub_clusters.iter().any(|one| one.name == name);
        let mut faults = Vec::new();
        for before in &self.sub_clusters {
            let name = &before.name;
            match config.nats.iter().find(|one| one.name == *name) {
                Some(now) if now == before => {}
                Some(_) => faults.push(format!("sub-cluster {name}: to change it needs a restart")),
                None => faults.push(format!("sub-cluster {name}: to leave it out needs a restart")),
            }
        }
        let new = config.nats.iter().filter(|one| !known(&one.name));
        let new: Vec<SubClusterConfig> = new.cloned().collect();
        let first = self.sub_clusters.iter().map(|one| one.name.as_str()).min();
        for SubClusterConfig { name, .. } in &new {
            match first {
                None => faults.push("the first sub-cluster needs a restart".to_owned()),
                Some(first) if name.as_str() < first => faults.push(format!(
                    "sub-cluster {name}: the ring is at {first}, whose name sorts first; a name \
                     that sorts behind it can be added"
                )),
                Some(_) => {}
            }
        }
        let Some(control) = self.control.as_ref().filter(|_| faults.is_empty()) else {
            return if faults.is_empty() { Ok(()) } else { Err(faults) };
        };
        for sub_cluster in new {
            self.sub_clusters.push(sub_cluster.clone());
            self.link_tls.store(Arc::new(tls_of(&self.sub_clusters)));
            for (shard, sender) in (0..).map(ShardIndex).zip(&self.handle.senders) {
                let link = jetstream::link(config, &sub_cluster, shard);
                // A shard that has ended needs none.
                let _ = sender.send(NodeMessage::SubCluster(Box::new(link)));
            }
            control.add(sub_cluster);
        }
        Ok(())
    }

    /// Puts the limits of [`LIVE_LIMITS`] in force; who is banned now is let go.
    pub fn reload_limits(&self, config: &Config) {
        let limits = Arc::new(core_limits(config));
        for sender in &self.handle.senders {
            // A shard that has ended lets nobody in.
            let _ = sender.send(NodeMessage::LimitsChanged(Arc::clone(&limits)));
        }
    }

    /// A way to look at it while it runs.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Asks every shard to say goodbye and end; returns at once.
    pub fn shutdown(&self) {
        self.node.shutdown();
    }

    /// Waits for the shards, then persists the keyed store.
    ///
    /// # Errors
    ///
    /// A shard that could not go on.
    pub fn join(self) -> Result<Vec<EngineCounters>, GatewayError> {
        let Self { node, storage, control, authentication, tls, .. } = self;
        let counters = node.join();
        stop_threads(control, authentication, tls);
        storage.stop();
        Ok(counters?)
    }

    /// Lets clients go that cannot move to another process, and then reads nobody any more until
    /// nothing is under way. See [`Node::stand_still`].
    ///
    /// # Errors
    ///
    /// It does not come to stand still in the times configured. Then it goes on.
    pub fn stand_still(&self, config: &Config) -> Result<(), Restless> {
        let limits = &config.limits;
        let pause = Duration::from_secs(limits.upgrade_pause_max_s.into());
        let clients = limits.connections_max / limits.drain_connections_per_s.max(1);
        let told = Duration::from_secs(clients.into());
        self.node.stand_still(told + limits.shutdown_timeout() + CLOSE_WAIT, pause)
    }

    /// Ends after [`Gateway::stand_still`]: everything is in the data directory, which is nobody's from
    /// then on, or in what is returned.
    ///
    /// # Errors
    ///
    /// A shard that could not go on.
    pub fn part(self) -> Result<(HandOver, Arc<Directory>), GatewayError> {
        let Self { node, storage, control, authentication, tls, directory, listen, .. } = self;
        let ended = node.part();
        stop_threads(control, authentication, tls);
        storage.stop();
        Ok((HandOver::of(ended?, &listen), directory))
    }
}

/// How long clients that were told to go may take for it.
const CLOSE_WAIT: Duration = Duration::from_secs(6);

fn stop_threads(
    control: Option<ControlThread>,
    authentication: Option<Authentication>,
    tls: Option<TlsReload>,
) {
    if let Some(control) = control {
        control.stop();
    }
    if let Some(authentication) = authentication {
        authentication.threads.stop();
    }
    if let Some(tls) = tls {
        tls.stop();
    }
}

/// The threads that find out who clients are, if that is asked.
fn authentication_threads(
    config: &Config,
    directory: Arc<Directory>,
    clock: Clock,
    senders: &[MeshSender<NodeMessage>],
) -> Result<Option<Authentication>, GatewayError> {
    if !config.auth.is_needed() {
        return Ok(None);
    }
    let shards: Arc<dyn Shards> = Arc::new(Told(senders.to_vec()));
    let clock =
        Clocks { steady: Arc::new(move || clock.now()), wall: Arc::new(move || clock.wall()) };
    let callout = directory.callout_settings(config, &clock);
    let settings = ThreadSettings {
        clock,
        threads: config.limits.authentication_threads,
        queue_max: config.limits.authentications_waiting_max as usize,
        cache_max: config.limits.authentication_cache_max as usize,
    };
    let threads = AuthenticationThreads::spawn(&directory, &settings, callout, &shards);
    Ok(Some(Authentication { threads: threads.map_err(GatewayError::Thread)?, directory }))
}

impl Shards for Told {
    fn answer(&self, shard: ShardIndex, connection: ConnectionId, answer: access::Authentication) {
        if let Some(sender) = self.0.get(usize::from(shard.0)) {
            // A shard that has ended needs no answer.
            let _ = sender.send(NodeMessage::Authenticated(connection, answer));
        }
    }

    fn challenge(
        &self,
        shard: ShardIndex,
        connection: ConnectionId,
        challenge: Box<access::Challenge>,
    ) {
        if let Some(sender) = self.0.get(usize::from(shard.0)) {
            let _ = sender.send(NodeMessage::Challenged(connection, challenge));
        }
    }

    fn wall_clock(&self, ahead_ms: i64) {
        for sender in &self.0 {
            let _ = sender.send(NodeMessage::WallClock(ahead_ms));
        }
    }

    fn recheck(&self, directory: &Arc<Directory>) {
        for sender in &self.0 {
            let source: Arc<dyn access::Recheck> = Arc::clone(directory) as _;
            let _ = sender.send(NodeMessage::AccessChanged(source));
        }
    }
}

fn engine_config(config: &Config) -> EngineConfig {
    let limits = &config.limits;
    let possible = requirements::connections_possible();
    let mut connections_max = u64::from(limits.connections_max);
    if connections_max > possible {
        tracing::warn!(
            connections_max,
            possible,
            "fewer file descriptors than connections_max: raise LimitNOFILE (ulimit -Hn)"
        );
        connections_max = possible;
    }
    EngineConfig {
        shards: config.shards,
        listen: config.listen.clone(),
        balancers: config.balancers.clone(),
        websocket: WebSocketLimits {
            request_bytes_max: limits.handshake_bytes_max as usize,
            frame_bytes_max: limits.websocket_frame_bytes_max.into(),
            origins: config.websocket_origins.clone(),
        },
        tcp_user_timeout: Duration::from_secs(limits.tcp_user_timeout_s.into()),
        tcp_keepalive: Duration::from_secs(limits.tcp_keepalive_s.into()),
        handshake_timeout: limits.handshake_timeout(),
        handshake_bytes_max: limits.handshake_bytes_max as usize,
        strangers_bytes_max: limits.strangers_bytes_max,
        handshake_slice: Duration::from_micros(limits.handshake_slice_us.into()),
        backlog: i32::from(limits.backlog.min(32_767).cast_signed()),
        connections_max: u32::try_from(connections_max).unwrap_or(u32::MAX),
        receive_buffers: limits.receive_buffers,
        receive_buffer_bytes: limits.receive_buffer_bytes,
        partial_bytes_max: partial_bytes_max(config),
        writable_above_bytes: limits.client_write_bytes_max as usize / 2,
        gather_wait: limits.gather_wait(),
        stop_deadline: limits.shutdown_timeout(),
        mesh_slots: usize::from(limits.mesh_batches_max),
        link_tls: Arc::new(ArcSwap::from_pointee(tls_of(&config.nats))),
        ..EngineConfig::default()
    }
}

fn tls_of(sub_clusters: &[SubClusterConfig]) -> Vec<Option<NatsTls>> {
    sub_clusters.iter().map(|sub_cluster| sub_cluster.tls.clone()).collect()
}

/// Loads what TLS listeners need and lets it be watched, if there is such a listener.
fn start_tls(
    config: &Config,
    engine: &mut EngineConfig,
) -> Result<Option<TlsReload>, GatewayError> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let first = |faults: Vec<TlsFault>| {
        GatewayError::Tls(faults.into_iter().next().expect("a fault for each failure"))
    };
    let (server, keys) = tls_reload::load(tls).map_err(first)?;
    engine.tls = Some(Arc::clone(&server));
    TlsReload::spawn(tls.clone(), server, keys).map(Some).map_err(GatewayError::Thread)
}

/// What a connection may leave unconsumed: a packet, or a message of a server.
fn partial_bytes_max(config: &Config) -> usize {
    let limits = &config.limits;
    let packet = limits.maximum_packet_size_bytes as usize;
    let largest = match config.nats.as_slice() {
        [] => packet,
        _ => packet.max(jetstream::LINK_PARTIAL_BYTES_MAX),
    };
    largest + limits.receive_buffer_bytes as usize
}

/// The keys that [`Gateway::reload_limits`] puts in force.
pub const LIVE_LIMITS: &[&str] = &[
    "client_id_is_user_name",
    "banned_client_ids",
    "banned_addresses",
    "subscribe_refused",
    "server_reference",
    "events",
    "limits.events_rate_max",
    "limits.connect_rate_max",
    "limits.address_connect_rate_max",
    "limits.connects_waiting_max",
    "limits.connect_wait_max_ms",
    "limits.overload_lag_ms",
    "limits.publish_rate_max",
    "limits.publish_bytes_rate_max",
    "limits.publish_rate_grace_s",
    "limits.deliver_rate_max",
    "limits.deliver_bytes_rate_max",
    "limits.flapping_connects_max",
    "limits.address_failures_max",
    "limits.flapping_window_s",
    "limits.flapping_ban_s",
    "limits.connect_packet_bytes_max",
    "limits.connect_timeout_s",
    "limits.topic_alias_maximum_out",
    "limits.subscriptions_per_session_max",
    "limits.shared_per_session_max",
    "limits.topic_levels_max",
    "limits.session_expiry_max_s",
    "limits.keep_alive_max_s",
    "limits.drain_connections_per_s",
];

fn core_limits(config: &Config) -> Limits {
    let limits = &config.limits;
    let limits = Limits {
        maximum_packet_size_bytes: limits.maximum_packet_size_bytes,
        connect_packet_bytes_max: limits.connect_packet_bytes_max,
        connect_timeout_s: limits.connect_timeout_s.into(),
        receive_maximum: limits.receive_maximum,
        inflight_max: limits.inflight_max,
        pending_max: limits.pending_max,
        client_write_bytes_max: limits.client_write_bytes_max as usize,
        topic_alias_maximum_in: limits.topic_alias_maximum_in,
        topic_alias_maximum_out: limits.topic_alias_maximum_out,
        subscriptions_per_session_max: limits.subscriptions_per_session_max,
        shared_per_session_max: limits.shared_per_session_max,
        retained_looks_max: limits.retained_looks_max,
        authenticate: config.auth.is_needed(),
        authentications_waiting_max: limits.authentications_waiting_max,
        sessions_bound: config.auth.sessions_bound_to_user,
        client_id_is_user_name: config.auth.client_id_is_user_name,
        sessions_anywhere: config.sessions == Sessions::Shared,
        connect_rate_max: limits.connect_rate_max,
        address_connect_rate_max: limits.address_connect_rate_max,
        connects_waiting_max: limits.connects_waiting_max,
        connect_wait_max_ms: limits.connect_wait_max_ms,
        overload_lag_ms: limits.overload_lag_ms,
        publish_rate_max: limits.publish_rate_max,
        publish_bytes_rate_max: limits.publish_bytes_rate_max,
        publish_rate_grace_s: limits.publish_rate_grace_s,
        deliver_rate_max: limits.deliver_rate_max,
        deliver_bytes_rate_max: limits.deliver_bytes_rate_max,
        flapping_connects_max: limits.flapping_connects_max,
        address_failures_max: limits.address_failures_max,
        flapping_window_s: limits.flapping_window_s,
        flapping_ban_s: limits.flapping_ban_s,
        banned_client_ids: config.auth.banned_client_ids.clone(),
        banned_addresses: config.auth.banned_addresses.clone(),
        subscribe_refused: config.subscribe_refused.clone(),
        uplink: config.uplink.clone(),
        events: event_kinds(config),
        events_rate_max: limits.events_rate_max,
        topic_levels_max: limits.topic_levels_max,
        session_expiry_max_s: limits.session_expiry_max_s,
        keep_alive_max_s: limits.keep_alive_max_s,
        goodbyes_per_s: limits.drain_connections_per_s.div_ceil(config.shards.into()),
        server_reference: config.server_reference.as_deref().map(Into::into),
        ..Limits::default()
    };
    match config.nats.is_empty() {
        true => limits,
        false => jetstream::restrict(limits, config.sessions),
    }
}

/// Of which events applications are told.
fn event_kinds(config: &Config) -> EventKinds {
    let has = |event| config.events.contains(&event);
    EventKinds {
        connect: has(ClientEvent::Connect),
        disconnect: has(ClientEvent::Disconnect),
        subscribe: has(ClientEvent::Subscribe),
        unsubscribe: has(ClientEvent::Unsubscribe),
    }
}

fn group_limits(config: &Config) -> GroupLimits {
    let limits = &config.limits;
    GroupLimits {
        groups_max: limits.shared_groups_max as usize,
        members_max: limits.shared_members_max as usize,
        inflight_max: limits.shared_inflight_max,
        pending_max: limits.pending_max as usize,
    }
}

/// The limits of the log of each shard.
fn log_limits(config: &Config) -> LogLimits {
    let limits = &config.limits;
    LogLimits {
        segment_bytes: limits.segment_bytes.into(),
        retention_bytes: limits.retention_bytes / u64::from(config.shards.max(1)),
        retention_age: limits.retention_age(),
        tail_bytes_max: limits.tail_bytes_max as usize,
        uncommitted_bytes_max: limits.append_bytes_max as usize,
        ..LogLimits::default()
    }
}

/// What the node may keep, and what recovery found of it.
fn recovered_quota(config: &Config, state: &KeyedState) -> Quota {
    let limits = QuotaLimits {
        sessions_max: config.limits.sessions_max.into(),
        retained_messages_max: config.limits.retained_messages_max.into(),
        retained_bytes_max: config.limits.retained_bytes_max,
    };
    Quota::new(limits, state.session_count(), state.retained_usage())
}

fn log_durability(config: &Config) -> LogDurability {
    match config.durability {
        // With shared sessions nothing is on this node.
        _ if config.sessions == Sessions::Shared => LogDurability::Memory,
        Durability::Fsync => LogDurability::Fsync,
        Durability::Interval => LogDurability::Interval(config.sync_interval),
        Durability::Memory => LogDurability::Memory,
    }
}

/// Where the logs are; the keyed store is beside them.
fn log_directory(config: &Config) -> PathBuf {
    config.data.join("log")
}

/// The ends of all partitions by id, for all shards to see.
fn shared_ends(ends: &[(PartitionId, Sequence)]) -> Arc<[PartitionEnds]> {
    let count = ends.iter().map(|(partition, _)| usize::from(partition.0) + 1).max().unwrap_or(0);
    let end_of = |place: usize| {
        let known = ends.iter().find(|(partition, _)| usize::from(partition.0) == place);
        PartitionEnds::recovered(known.map_or(Sequence::ZERO, |(_, end)| *end))
    };
    (0..count).map(end_of).collect()
}

/// The committed ends of all partitions.
#[must_use]
pub fn committed_ends(logs: &[Log]) -> Vec<(PartitionId, Sequence)> {
    logs.iter().map(|log| (log.partition(), log.committed_end())).collect()
}

/// The embedded upstream of each of `count` shards over `logs`: those of all shards, and those of
/// partitions of earlier boots, which are read only. `groups` are those that are stored.
#[must_use]
pub fn embedded_shards(
    count: u16,
    logs: Vec<Log>,
    groups: Vec<StoredGroup>,
    interest_slots: usize,
    limits: EmbeddedLimits,
    shared: &Shared,
) -> Vec<Embedded> {
    let seed = ahash::RandomState::new().hash_one(interest_slots);
    let interest = Arc::new(InterestTable::new(count, interest_slots, seed));
    let ends = shared_ends(&committed_ends(&logs));
    let mut of_shard: Vec<Vec<Log>> = (0..count).map(|_| Vec::new()).collect();
    for log in logs {
        // The shard's own log is the one with its number: it comes first, as ids ascend.
        if let Some(own) = of_shard.get_mut(usize::from(log.partition().0 % count)) {
            own.push(log);
        }
    }
    let mut groups_of: Vec<Vec<StoredGroup>> = (0..count).map(|_| Vec::new()).collect();
    for group in groups {
        if let Some(own) = groups_of.get_mut(usize::from(group_home(&group.name, count).0)) {
            own.push(group);
        }
    }
    let make = |(index, (logs, groups))| {
        let shard = ShardIndex(u16::try_from(index).expect("shards are counted by a u16"));
        let owner = InterestOwner::new(Arc::clone(&interest), shard);
        let (ends, shared) = (Arc::clone(&ends), shared.clone());
        let mut embedded = Embedded::new(shard, count, ends, logs, owner, limits, shared);
        embedded.restore_groups(groups);
        embedded
    };
    of_shard.into_iter().zip(groups_of).enumerate().map(make).collect()
}

/// A channel that holds `value`: how it gets to a shard's own thread, once.
fn one_shot<T>(value: T) -> flume::Receiver<T> {
    let (sender, receiver) = flume::bounded(1);
    sender.send(value).expect("the receiver is here, and the channel is empty");
    receiver
}

/// Opens the data directory, or nothing for a node in memory.
fn recover(
    config: &Config,
    now: Timestamp,
) -> Result<(Recovery, Option<Box<dyn Files + Send>>), RecoveryError> {
    let (durability, limits) = (log_durability(config), log_limits(config));
    let session_filter_bytes = config.limits.session_filter_bytes as usize;
    let settings = RecoverySettings {
        shards: config.shards,
        durability,
        limits,
        sessions_only: !config.nats.is_empty(),
        session_filter_bytes,
        now,
    };
    if config.sessions == Sessions::Shared && config.data.join("store").exists() {
        tracing::warn!(
            data = %config.data.display(),
            "sessions that were kept on this node are not gone on with: they are in JetStream now"
        );
    }
    if durability == LogDurability::Memory {
        return Ok((Recovery::in_memory(settings)?, None));
    }
    let mut files = RealFiles::new(log_directory(config))?;
    let kind = if config.nats.is_empty() { DataKind::Embedded } else { DataKind::JetStream };
    data_format::claim(&config.data)?;
    kind.claim(&config.data)?;
    let store = FjallStore::open(&config.data.join("store"), STORE_CACHE_BYTES)?;
    let recovery = Recovery::run(&mut files, Box::new(store), settings)?;
    Ok((recovery, Some(Box::new(files))))
}
