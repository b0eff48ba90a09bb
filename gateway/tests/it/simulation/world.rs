//! A node, its clients, and everything that can go wrong between them.

use super::client::{Client, Profile};
use super::ledger::Ledger;
use super::random::Random;
use crate::sim::{SimClient, SimNode, SimSettings};
use gateway::proto::access::{AuthenticationRequest, Identity, Proof};
use gateway::proto::limits::Limits;
use gateway::proto::mqtt::{ProtocolVersion, QoS};
use gateway::proto::shard_state::Counters;
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::groups::GroupLimits;
use gateway::upstream::embedded::log::{Durability, LogLimits};
use gateway::upstream::embedded::quota::QuotaLimits;
use std::sync::Arc;
use std::time::Duration;

/// Topics published to; each subscriber takes some of them.
const TOPICS: [&str; 4] = ["a/1", "a/2", "b/1", "b/2"];
const FILTERS: [&str; 5] = ["a/+", "#", "b/1", "+/2", "a/1"];
const GROUPS: [&str; 2] = ["$share/g/#", "$share/g/a/+"];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V3_1_1, ProtocolVersion::V5];

/// Seconds of calm after which everything owed must have arrived.
const CALM_SECONDS: u32 = 60;
/// What happened last is printed with a broken promise.
const TRACE_LINES: usize = 60;

/// How often in a thousand steps something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) crash: u64,
    pub(crate) cut: u64,
    pub(crate) disk: u64,
    pub(crate) ignore_syncs: bool,
}

/// A client with its connection.
pub(crate) struct Actor {
    pub(crate) client: Client,
    socket: Option<SimClient>,
    stalled: bool,
    publishes: bool,
    /// Its session may end although it is persistent.
    may_start_over: bool,
}

/// See the module.
pub(crate) struct World {
    /// Taken out only while it crashes.
    node: Option<SimNode>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) ledger: Ledger,
    pub(crate) random: Random,
    trace: Vec<String>,
    pub(crate) crashes: u32,
    /// Whose the next clients are.
    pub(crate) tenant: &'static str,
}

/// A promise was broken: what, and what led to it.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// Limits so small that each is met, or so large that it is not, whichever the seed says.
pub(crate) fn some_settings(shards: u16, seed: u64) -> SimSettings {
    let mut random = Random::new(!seed);
    let mut either = |small: u16, large: u16| if random.below(2) == 0 { small } else { large };
    let (inflight_max, pending_max) = (either(6, 100), u32::from(either(4, 100)));
    let qos2_deltas_max = either(5, 200);
    let segment_bytes = u64::from(either(4_096, u16::MAX));
    let tail_bytes_max = usize::from(either(2_048, u16::MAX));
    SimSettings {
        shards,
        durability: Durability::Fsync,
        limits: Limits {
            receive_maximum: 8,
            inflight_max,
            pending_max,
            qos2_deltas_max,
            client_write_bytes_max: 2_048,
            ..Limits::default()
        },
        log_limits: LogLimits {
            segment_bytes,
            tail_bytes_max,
            piece_cache_bytes_max: 4_096,
            uncommitted_bytes_max: 4_096,
            ..LogLimits::default()
        },
        groups: GroupLimits {
            inflight_max: either(2, 64),
            pending_max: 4,
            ..GroupLimits::default()
        },
        seed,
        quota_limits: QuotaLimits::default(),
        authenticate: None,
        challenge: None,
        jetstream: None,
    }
}

/// Users have the mountpoint of their name.
pub(crate) fn with_tenants(settings: SimSettings) -> SimSettings {
    let who = |request: &AuthenticationRequest| {
        Ok(Arc::new(Identity {
            user_name: request.user_name.clone(),
            mountpoint: request.user_name.clone(),
            acl: None,
            proof: Proof::None,
            expires_at: Timestamp::NEVER,
        }))
    };
    let limits = Limits { authenticate: true, ..settings.limits };
    SimSettings { limits, authenticate: Some(who), ..settings }
}

impl World {
    pub(crate) fn new(settings: SimSettings, ignore_syncs: bool) -> Self {
        let mut node = SimNode::with(settings.clone());
        node.files.ignore_syncs = ignore_syncs;
        node.holds_io = true;
        Self {
            node: Some(node),
            actors: Vec::new(),
            ledger: Ledger::default(),
            random: Random::new(settings.seed),
            trace: Vec::new(),
            crashes: 0,
            tenant: "",
        }
    }

    /// Publishers and subscribers of all kinds.
    pub(crate) fn populate(&mut self, publishers: u64, subscribers: u64) {
        for number in 0..publishers {
            let persistent = self.random.below(4) > 0;
            self.add(format!("pub-{number}"), persistent, Vec::new(), true);
        }
        for number in 0..subscribers {
            let persistent = number == 0 || self.random.below(4) > 0;
            let count = 1 + self.random.below(2);
            let mut subscriptions = Vec::new();
            for _ in 0..count {
                let filter = *self.random.pick(&FILTERS);
                if subscriptions.iter().all(|(known, _)| *known != filter) {
                    subscriptions.push((filter, *self.random.pick(&QOS)));
                }
            }
            self.add(format!("sub-{number}"), persistent, subscriptions, false);
        }
    }

    /// Publishers and the members of two groups. Those with QoS 2 are persistent: what begins with a
    /// client whose session then ends goes to nobody else.
    pub(crate) fn populate_groups(&mut self, publishers: u64, members: u64) {
        for number in 0..publishers {
            let persistent = self.random.below(4) > 0;
            self.add(format!("pub-{number}"), persistent, Vec::new(), true);
        }
        for number in 0..members {
            let group = GROUPS[usize::try_from(number).unwrap() % GROUPS.len()];
            // The first of each group keeps it alive.
            let is_first = number < GROUPS.len() as u64;
            let persistent = is_first || self.random.below(3) > 0;
            let highest = if persistent { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            let qos = *self.random.pick(&[QoS::AtLeastOnce, highest]);
            let name = format!("member-{number}");
            let actor = self.add(name, persistent, vec![(group, qos)], false);
            // What it has not finished with QoS 2 would go to nobody else; and before 5.0 a session
            // begun by a clean start ends with its connection.
            let is_v5 = self.actors[actor].client.profile.version.is_v5();
            self.actors[actor].may_start_over = !is_first && qos == QoS::AtLeastOnce && is_v5;
        }
    }

    pub(crate) fn add(
        &mut self,
        name: String,
        persistent: bool,
        subscriptions: Vec<(&'static str, QoS)>,
        publishes: bool,
    ) -> usize {
        let profile = Profile {
            name,
            tenant: self.tenant,
            version: *self.random.pick(&VERSIONS),
            persistent,
            receive_maximum: u16::try_from(1 + self.random.below(8)).unwrap(),
            window: usize::try_from(1 + self.random.below(8)).unwrap(),
            subscriptions,
            wants_retained: false,
            may_be_refused: false,
        };
        let client = Client::new(profile);
        self.actors.push(Actor {
            client,
            socket: None,
            stalled: false,
            publishes,
            may_start_over: false,
        });
        let actor = self.actors.len() - 1;
        self.ledger.belongs(actor, self.tenant);
        actor
    }

    pub(crate) fn node(&mut self) -> &mut SimNode {
        self.node.as_mut().expect("it is only gone while it crashes")
    }

    /// Lets something happen.
    pub(crate) fn step(&mut self, weather: Weather) -> Result<(), Broken> {
        let what = self.random.below(1_000);
        let actor = usize::try_from(self.random.below(self.actors.len() as u64)).unwrap();
        if what < weather.crash {
            self.crash();
        } else if what < weather.crash + weather.cut {
            self.cut(actor);
        } else if what < weather.crash + weather.cut + weather.disk {
            self.change_disk();
        } else if what < 300 {
            self.node().perform_one();
        } else if what < 700 {
            self.act(actor);
        } else if what < 940 {
            self.actors[actor].client.answer_one();
        } else if what < 980 {
            let milliseconds = 1 + self.random.below(300);
            self.node().advance(Duration::from_millis(milliseconds));
        } else if let Some(socket) = self.actors[actor].socket {
            let stalled = !self.actors[actor].stalled;
            self.actors[actor].stalled = stalled;
            self.node().stall(socket, stalled);
        }
        self.exchange()
    }

    fn act(&mut self, actor: usize) {
        if self.actors[actor].socket.is_none() {
            self.connect(actor);
        } else if self.random.below(60) == 0 {
            self.note(format!("{actor} takes its session over"));
            self.actors[actor].client.starts_over =
                self.actors[actor].may_start_over && self.random.below(3) == 0;
            self.connect(actor);
        } else if self.actors[actor].publishes && self.actors[actor].client.may_publish() {
            let topic = *self.random.pick(&TOPICS);
            let qos = *self.random.pick(&QOS);
            self.publish(actor, topic, qos);
        }
    }

    pub(crate) fn publish(&mut self, actor: usize, topic: &'static str, qos: QoS) {
        let message = self.ledger.published(actor, topic, qos);
        let padding_bytes = usize::try_from(self.random.below(200)).unwrap();
        self.note(format!("{actor} publishes {message} to {topic} with {qos:?}"));
        self.actors[actor].client.publish(message, topic, qos, padding_bytes);
    }

    pub(crate) fn connect(&mut self, actor: usize) {
        let shards = u64::from(self.node().settings.shards);
        let shard = self.random.below(shards);
        let socket = self.node().connect_to(usize::try_from(shard).unwrap());
        let Actor { client, socket: of_actor, stalled, .. } = &mut self.actors[actor];
        *of_actor = Some(socket);
        *stalled = false;
        let starts_over = client.starts_over;
        client.connect();
        if !client.profile.persistent || starts_over {
            self.ledger.session_ended(actor);
        }
        self.note(format!("{actor} connects"));
    }

    pub(crate) fn cut(&mut self, actor: usize) {
        let Some(socket) = self.actors[actor].socket.take() else { return };
        self.note(format!("{actor} loses its connection"));
        self.actors[actor].client.disconnected();
        self.node().drop_connection(socket);
    }

    /// The power goes, and comes back.
    pub(crate) fn crash(&mut self) {
        self.note("crash".to_owned());
        self.crashes += 1;
        self.heal();
        let node = self.node.take().expect("it is only gone while it crashes");
        let mut node = node.crash();
        node.holds_io = true;
        self.node = Some(node);
        for actor in &mut self.actors {
            actor.socket = None;
            actor.client.disconnected();
        }
    }

    fn change_disk(&mut self) {
        let (errors, short, full) =
            (self.random.below(3), self.random.below(3), self.random.below(3) == 0);
        self.note(format!("disk: errors {errors}, short writes {short}, full: {full}"));
        let node = self.node();
        node.files.errors_per_mille = u32::try_from(errors * 40).unwrap();
        node.files.short_writes_per_mille = u32::try_from(short * 200).unwrap();
        node.files.capacity_bytes = if full { 0 } else { u64::MAX };
    }

    pub(crate) fn heal(&mut self) {
        let node = self.node();
        node.files.errors_per_mille = 0;
        node.files.short_writes_per_mille = 0;
        node.files.capacity_bytes = u64::MAX;
    }

    /// Bytes go both ways until no more come, and the ledger hears of everything.
    pub(crate) fn exchange(&mut self) -> Result<(), Broken> {
        for index in 0..self.actors.len() {
            while let Some(socket) = self.actors[index].socket {
                let bytes = std::mem::take(&mut self.actors[index].client.outbox);
                if !bytes.is_empty() {
                    self.node().send(socket, &bytes);
                }
                let received = self.node().take(socket);
                self.actors[index].client.receive(&received);
                if self.node().is_closed(socket) {
                    self.note(format!("{index} is disconnected"));
                    self.actors[index].socket = None;
                    self.hear(index)?;
                    self.actors[index].client.disconnected();
                }
                if received.is_empty() && self.actors[index].client.outbox.is_empty() {
                    break;
                }
            }
            self.hear(index)?;
        }
        Ok(())
    }

    fn hear(&mut self, actor: usize) -> Result<(), Broken> {
        for event in self.actors[actor].client.take_events() {
            self.note(format!("{actor}: {event:?}"));
            let profile = &self.actors[actor].client.profile;
            let broken = self.ledger.hear(actor, profile, event);
            if let Some(what) = broken {
                let name = self.actors[actor].client.profile.name.clone();
                return Err(self.broken(&format!("{name}: {what}")));
            }
        }
        Ok(())
    }

    /// Everything that hindered is over: what is owed must arrive.
    pub(crate) fn calm_down(&mut self) -> Result<(), Broken> {
        self.note("calm".to_owned());
        self.heal();
        for index in 0..self.actors.len() {
            if let (Some(socket), true) = (self.actors[index].socket, self.actors[index].stalled) {
                self.actors[index].stalled = false;
                self.node().stall(socket, false);
            }
        }
        for _ in 0..CALM_SECONDS {
            self.settle()?;
            if self.is_settled() {
                return Ok(());
            }
            self.node().advance(Duration::from_secs(1));
        }
        let missing = self.ledger.missing();
        let missing: Vec<_> = missing.into_iter().map(|id| self.ledger.describe(id)).collect();
        let busy = self.actors.iter().filter(|actor| !actor.client.is_idle());
        let busy: Vec<_> = busy.map(|actor| format!("{:?}", actor.client)).collect();
        let counters = self.counters();
        Err(self.broken(&format!("missing: {missing:#?}\nbusy: {busy:#?}\n{counters:#?}")))
    }

    fn counters(&self) -> Vec<Counters> {
        let node = self.node.as_ref().expect("it is only gone while it crashes");
        let shards = 0..usize::from(node.settings.shards);
        shards.map(|shard| node.shard(shard).state().counters().clone()).collect()
    }

    /// Everyone is connected and answers, the disk does what it is asked, until nothing moves.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        loop {
            let mut moved = false;
            for index in 0..self.actors.len() {
                if self.actors[index].socket.is_none() {
                    self.connect(index);
                    moved = true;
                }
                while self.actors[index].client.has_answers() {
                    self.actors[index].client.answer_one();
                    moved = true;
                }
            }
            self.exchange()?;
            while self.node().perform_one() {
                moved = true;
            }
            self.exchange()?;
            if !moved {
                return Ok(());
            }
        }
    }

    /// Everyone is connected and answers; the disk does nothing by itself.
    pub(crate) fn converse(&mut self) -> Result<(), Broken> {
        for index in 0..self.actors.len() {
            self.converse_as(index)?;
        }
        Ok(())
    }

    /// One client is connected and answers, until nothing more comes.
    pub(crate) fn converse_as(&mut self, index: usize) -> Result<(), Broken> {
        if self.actors[index].socket.is_none() {
            self.connect(index);
        }
        self.exchange()?;
        while self.actors[index].client.has_answers() {
            self.actors[index].client.answer_one();
            self.exchange()?;
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let done = |actor: &Actor| actor.client.is_online() && actor.client.is_idle();
        self.actors.iter().all(done) && self.ledger.missing().is_empty()
    }

    /// Everyone ends its session: nothing may be left of them.
    pub(crate) fn leave(&mut self) -> Result<(), Broken> {
        for index in 0..self.actors.len() {
            self.cut(index);
            self.actors[index].client.profile.persistent = false;
            self.connect(index);
        }
        // A log that met a fault tries again after a while.
        for _ in 0..3 {
            self.settle()?;
            self.node().advance(Duration::from_secs(1));
        }
        self.settle()?;
        for index in 0..self.actors.len() {
            self.cut(index);
        }
        for _ in 0..5 {
            while self.node().perform_one() {}
            self.node().advance(Duration::from_secs(1));
        }
        for shard in 0..usize::from(self.node().settings.shards) {
            let state = self.node().shard(shard).state();
            let (sessions, filters) = (state.session_count(), state.filter_count());
            let counters = state.counters().clone();
            let groups = self.node().shard(shard).upstream.group_count();
            if (sessions, filters, groups) != (0, 0, 0) {
                let what = format!(
                    "{sessions} sessions, {filters} filters and {groups} groups stay on {shard}"
                );
                return Err(self.broken(&what));
            }
            // `clamped` counts a cursor at the start of a boot that wrote nothing, too; what is
            // really lost the ledger misses. `unfetchable` is a message in flight that was lost.
            if counters.unfetchable + counters.unreadable_sessions + counters.faults > 0 {
                return Err(self.broken(&format!("shard {shard} has counted {counters:?}")));
            }
        }
        let (counted, stored) = (self.node().quota.sessions(), self.node().stored_sessions());
        // Some may be left: a CONNECT cut off before its CONNACK has ended nothing.
        if counted != stored {
            let what = format!("{counted} sessions are counted and {stored} stored");
            return Err(self.broken(&what));
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, line: String) {
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{line}");
        }
        self.trace.push(line);
        if self.trace.len() > 2 * TRACE_LINES {
            self.trace.drain(..TRACE_LINES);
        }
    }

    fn broken(&self, what: &str) -> Broken {
        let from = self.trace.len().saturating_sub(TRACE_LINES);
        Broken(format!("{what}\nlast:\n{}", self.trace[from..].join("\n")))
    }
}
