//! One member of the ring: its servers, its streams, and how its partition is.
//!
//! ```text
//! prepare ──streams are as they should be──▶ follow ──tell(PartitionStatus), each second──┐
//!    ▲ ▲                                        │  ▲                                      │
//!    │ └─ fault: after a back-off               │  └──────────────────────────────────────┘
//!    └───────── another server, stream gone or made anew ◀──┘
//! ```

use super::fault::{ControlFault, Sampled};
use super::permissions::Needs;
use super::requirement::{self, BATCHED};
use super::server_names::ServerNames;
use super::stream_info::StreamInfo;
use super::stream_settings::StreamSettings;
use super::sub_cluster::{self, SubCluster};
use super::thread::Tell;
use super::{ControlNews, Extras, PartitionStatus, stream_name};
use super::{api, streams};
use crate::proto::nats::Info;
use crate::proto::partition::PartitionId;
use crate::upstream::jetstream::stored::StoreTime;
use async_nats::{Client, ServerInfo, Subscriber};
use futures_lite::StreamExt as _;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(super) struct Member {
    partition: PartitionId,
    sub_cluster: Rc<SubCluster>,
    extras: Extras,
    tell: Tell,
    servers: ServerNames,
    told: Option<PartitionStatus>,
    /// Since when servers have named no leader.
    leaderless_since: Option<Instant>,
    faults: Sampled,
    leader_faults: Sampled,
    permission_faults: Rc<RefCell<Sampled>>,
}

impl Member {
    pub(super) fn new(
        partition: PartitionId,
        sub_cluster: Rc<SubCluster>,
        extras: Extras,
        tell: Tell,
    ) -> Self {
        Self {
            partition,
            sub_cluster,
            extras,
            tell,
            servers: ServerNames::default(),
            told: None,
            leaderless_since: None,
            faults: Sampled::default(),
            leader_faults: Sampled::default(),
            permission_faults: Rc::default(),
        }
    }

    /// Looks after the member for as long as the thread runs.
    pub(super) async fn run(mut self) {
        let sub_cluster = self.sub_cluster.clone();
        let client = sub_cluster.client().await;
        let mut backoff = sub_cluster.backoff();
        loop {
            match self.prepare(client).await {
                Ok(advisories) => {
                    backoff.reset();
                    self.follow(client, advisories).await;
                }
                Err(fault) => {
                    self.lose_leader();
                    sub_cluster::log(&mut self.faults, sub_cluster.name(), &fault);
                    self.leave_leaderless(client).await;
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    /// Sees to servers and streams. Returns what is said of elections.
    async fn prepare(&mut self, client: &Client) -> Result<Subscriber, ControlFault> {
        let needs = Needs::of_partition(self.partition, self.extras);
        needs.check(client, self.sub_cluster.name(), &self.permission_faults);
        self.ask_servers(client).await;
        let connected = client.server_info();
        let connected = Info {
            server_name: connected.server_name,
            version: connected.version,
            headers: connected.headers,
            ..Info::default()
        };
        let servers = self.servers.infos().chain([&connected]);
        let oldest = requirement::check(servers)?;
        api::check_jetstream(client).await?;
        let settings = &self.sub_cluster.settings;
        let has_batched = oldest >= Some(BATCHED);
        let messages = StreamSettings::messages(self.partition, settings, has_batched);
        let retained = StreamSettings::retained(self.partition, settings);
        streams::ensure(client, &settings.name, &messages).await?;
        streams::ensure(client, &settings.name, &retained).await?;
        if self.extras.uplink {
            let uplink = StreamSettings::uplink(self.partition, settings);
            streams::ensure(client, &settings.name, &uplink).await?;
        }
        if self.extras.sessions {
            let sessions = StreamSettings::sessions(self.partition, settings);
            streams::ensure(client, &settings.name, &sessions).await?;
        }
        let advisories = format!("{LEADER_ELECTED}.{}", stream_name(self.partition));
        Ok(client.subscribe(advisories).await?)
    }

    /// Says how the partition is, until it has to be prepared again.
    async fn follow(&mut self, client: &Client, mut advisories: Subscriber) {
        let server_id = client.server_info().server_id;
        let mut created = None;
        loop {
            // An election during the question: the answer may never come.
            let answer = tokio::select! {
                answer = StreamInfo::ask(client, self.partition) => answer,
                () = next(&mut advisories) => StreamInfo::ask(client, self.partition).await,
            };
            match answer {
                Ok(info) => {
                    self.end_faults(&info);
                    let is_anew = *created.get_or_insert(info.created) != info.created;
                    self.tell_status(client, &server_id, info).await;
                    if is_anew {
                        return;
                    }
                }
                Err(fault) => {
                    self.lose_leader();
                    sub_cluster::log(&mut self.faults, self.sub_cluster.name(), &fault);
                    if api::is_error(&fault, api::STREAM_NOT_FOUND) {
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval()) => {}
                () = next(&mut advisories) => {}
            }
            self.leave_leaderless(client).await;
            if client.server_info().server_id != server_id {
                return;
            }
        }
    }

    /// Asks another server once this one has named no leader for a while.
    async fn leave_leaderless(&mut self, client: &Client) {
        if self.told.as_ref().is_some_and(|told| told.leader.is_some()) {
            self.leaderless_since = None;
        } else if self.leaderless_since.get_or_insert_with(Instant::now).elapsed() > LEADERLESS_MAX
        {
            self.leaderless_since = None;
            sub_cluster::leave_leaderless(self.sub_cluster.name(), client).await;
        }
    }

    /// `server_id` is of the process to which the question went.
    async fn tell_status(&mut self, client: &Client, server_id: &str, info: StreamInfo) {
        let connected = client.server_info();
        // Before anyone is asked again: that is of before the answer.
        let server_id = self.answered_by(&connected, server_id, &info).map(str::to_owned);
        let leader_name = match info.leader {
            Some(name) => name,
            // A server outside a cluster leads what it has.
            None => connected.server_name,
        };
        let status = PartitionStatus {
            partition: self.partition,
            leader: self.address(client, &leader_name).await,
            leader_name,
            leader_since: info.leader_since,
            server_time: info.server_time.map(StoreTime::timestamp),
            created: info.created,
            first: info.first,
            last: info.last,
            last_at: info.last_at,
            server_id,
            replicas: info.replicas,
        };
        self.told = Some(status.clone());
        (self.tell)(ControlNews::Partition(status));
    }

    /// INFO's `server_id` of the process that said `info`, where that is certain. The answer names the leader, not
    /// its process: it is that of the connection if this did not change meanwhile, or else one that has led since before
    /// it told who it is.
    fn answered_by<'s>(
        &'s self,
        connected: &ServerInfo,
        asked: &'s str,
        info: &StreamInfo,
    ) -> Option<&'s str> {
        let leader = info.leader.as_ref().filter(|leader| **leader != connected.server_name);
        let Some(leader) = leader else {
            return (connected.server_id == asked).then_some(asked);
        };
        let (since, at) = (info.leader_since?.0, info.server_time?.0);
        let led_for = Duration::from_nanos(at.saturating_sub(since));
        self.servers.process_that_led_for(leader, led_for)
    }

    /// Where the leader is; asks the servers for their names if it is a new one.
    async fn address(&mut self, client: &Client, name: &str) -> Option<SocketAddr> {
        if name.is_empty() {
            return None;
        }
        let is_known = self.servers.address(name).is_some();
        let interval = if is_known { ASK_INTERVAL } else { ASK_INTERVAL_MIN };
        if !self.servers.is_newer_than(interval) {
            self.ask_servers(client).await;
        }
        let address = self.servers.address(name);
        if address.is_some() {
            self.leader_faults.end();
        } else {
            let text = format!("{}: no server that can be reached is {name}", self.stream());
            sub_cluster::warn(&mut self.leader_faults, self.sub_cluster.name(), &text);
        }
        address
    }

    async fn ask_servers(&mut self, client: &Client) {
        let announced = client.server_info().connect_urls;
        let settings = &self.sub_cluster.settings;
        self.servers.refresh(&settings.servers, &announced, settings.tls.as_ref()).await;
    }

    /// Nobody answers for the partition: said once.
    fn lose_leader(&mut self) {
        if let Some(told) = &mut self.told
            && told.leader.take().is_some()
        {
            (self.tell)(ControlNews::Partition(told.clone()));
        }
    }

    fn end_faults(&mut self, info: &StreamInfo) {
        let is_over = self.faults.end();
        if is_over || self.told.is_none() {
            let durability = match info.replicas {
                // The API does not show the server's sync_interval.
                1 => "R1: acknowledged before fsync, page cache, unless sync_interval is always",
                _ => "replicated: acknowledged by a majority, each from its page cache",
            };
            let (sub_cluster, stream) = (self.sub_cluster.name(), self.stream());
            tracing::info!(sub_cluster, stream, replicas = info.replicas, durability, "ready");
            let configured = self.sub_cluster.settings.replicas;
            if info.replicas > configured {
                tracing::warn!(sub_cluster, stream, configured, "keeps its higher replicas");
            }
        }
    }

    fn stream(&self) -> String {
        stream_name(self.partition)
    }

    /// About a second, and of another length at each gateway and partition, so that they spread.
    fn interval(&self) -> Duration {
        let spread = self.sub_cluster.seed().wrapping_add(self.partition.0.into()) % SPREAD_MS;
        INTERVAL_MIN + Duration::from_millis(spread)
    }
}

/// Waits for an advisory; for ever if there are none to come.
async fn next(advisories: &mut Subscriber) {
    if advisories.next().await.is_none() {
        std::future::pending().await
    }
}

/// Source: NATS documentation, "JetStream advisories".
const LEADER_ELECTED: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED";
/// As long as an election takes, mostly.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);
const INTERVAL_MIN: Duration = Duration::from_millis(950);
const SPREAD_MS: u64 = 100;
/// How long names of servers count: an address may have moved.
const ASK_INTERVAL: Duration = Duration::from_secs(30);
/// The same while the leader is not among them.
const ASK_INTERVAL_MIN: Duration = Duration::from_secs(1);
