//! Gateways, the servers of two partitions, clients, and the network between all of them.

mod checks;
mod faults;

use super::nats_server::{ClientId, NatsServer};
use super::ring_change::Coordinator;
use crate::sim::{SimClient, SimNode, SimSettings};
use crate::simulation::client::{Client, Event, Profile};
use crate::simulation::ledger::Ledger;
use crate::simulation::random::Random;
use crate::simulation::world::{Broken, some_settings};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::mqtt::{ProtocolVersion, QoS};
use gateway::proto::partition::{PartitionId, Sequence};
use gateway::proto::time::Timestamp;
use gateway::upstream::jetstream::control::{ControlNews, PartitionStatus};
use gateway::upstream::jetstream::lane::LaneLimits;
use gateway::upstream::jetstream::link::{Identity, LinkSettings, LinkTls};
use gateway::upstream::jetstream::sessions::{LeaseLimits, Owner};
use gateway::upstream::jetstream::shard::{JetStreamSettings, SharedSessions};
use gateway::upstream::jetstream::stored::StoreTime;
use gateway::upstream::jetstream::{PartitionLimits, SharedLimits};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Topics of both partitions; messages to the last two are retained.
pub(crate) const TOPICS: [&str; 6] = ["a/1", "a/2", "b/1", "b/2", "r/1", "r/2"];
const FILTERS: [&str; 7] = ["a/+", "#", "b/1", "+/2", "a/1", "r/#", "b/2"];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V3_1_1, ProtocolVersion::V5];
pub(crate) const LEASE: LeaseLimits =
    LeaseLimits { renew: Duration::from_secs(5), timeout: Duration::from_secs(20) };
/// Seconds of calm after which everything owed must have arrived.
const CALM_SECONDS: u32 = 60;
/// In a second of calm a shard wants to be called so often at most.
const TIMEOUTS_A_SECOND_MAX: u64 = 200;
/// After so many rounds in one moment everything must have come to rest.
const ROUNDS_MAX: u32 = 500;
/// What happened last is printed with a broken promise.
const TRACE_LINES: usize = 80;
/// Bytes of publishes that a gateway holds while their topics move.
pub(crate) const HELD_BYTES_MAX: usize = 512;
/// A server has read what it had received of a link that is gone after so long, unless it ends: gateways wait
/// 10 s for that.
const LINGERING_MAX: Duration = Duration::from_secs(9);
/// Nobody listens there.
const NOWHERE: SocketAddr = address(9);

const fn address(number: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, number)), 4222)
}

/// How often in a thousand steps something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) crash: u64,
    pub(crate) cut: u64,
    pub(crate) link: u64,
    pub(crate) server: u64,
    /// Of the leader of a stream with replicas.
    pub(crate) election: u64,
    /// Servers lose what was not synced when they restart.
    pub(crate) loses_tails: bool,
}

/// A server, its streams, and what is wrong with it.
pub(crate) struct Server {
    pub(crate) model: NatsServer,
    pub(crate) is_up: bool,
    /// Connections are neither made nor refused.
    pub(crate) is_unreachable: bool,
    pub(crate) replicas: u8,
}

impl Pipe {
    pub(super) fn id(&self) -> ClientId {
        self.id
    }
}

impl Server {
    fn heal(&mut self) {
        (self.is_up, self.is_unreachable) = (true, false);
        self.model.has_streams = true;
        self.model.messages.count_max = u64::MAX;
        self.model.lag = 0;
    }
}

/// A connection of a gateway to a server.
pub(crate) struct Pipe {
    pub(crate) gateway: usize,
    socket: SimClient,
    pub(crate) server: usize,
    id: ClientId,
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_gateway: Vec<u8>,
    /// Nothing gets through any more, and nobody hears of it.
    pub(crate) is_dead: bool,
}

/// The server's end of a link that is gone, with what it has not read yet.
struct Lingering {
    server: usize,
    id: ClientId,
    bytes: Vec<u8>,
    /// It reads it then at the latest.
    until: Timestamp,
}

pub(crate) struct Actor {
    pub(crate) client: Client,
    pub(super) gateway: usize,
    socket: Option<SimClient>,
    stalled: bool,
    publishes: bool,
    /// What came because it was retained.
    pub(crate) retained: Vec<u64>,
    /// What came as a message.
    pub(crate) delivered: Vec<u64>,
    /// It leaves wills to this topic.
    pub(super) will_topic: Option<&'static str>,
    /// Of its connection, and whether it has been answered that this is recorded.
    will: Option<(u64, bool)>,
}

/// See the module.
pub(crate) struct World {
    /// Each is taken out only while it crashes.
    pub(super) gateways: Vec<Option<SimNode>>,
    pub(crate) servers: Vec<Server>,
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) ledger: Ledger,
    pub(crate) random: Random,
    /// What gateways sent on links that are gone, and servers have not read yet.
    lingering: Vec<Lingering>,
    /// Messages that a server had stored and lost.
    lost: BTreeSet<u64>,
    next_id: ClientId,
    trace: Vec<String>,
    /// Sessions are in JetStream: clients connect to any gateway.
    has_sessions: bool,
    /// Each comes back to its gateway all the same.
    pub(super) clients_stay: bool,
    /// What was promised of messages and sessions does not hold: servers lose it, and gateways with them.
    pub(super) forgives: bool,
    /// Nor does it of messages that were published before this one.
    forgiven: u64,
    /// A gateway that is not scheduled, and how long it was not.
    frozen: Option<(usize, Duration)>,
    /// Clients that have given up connections to it.
    vanished: Vec<SimClient>,
    /// A gateway from which no server can be reached.
    pub(super) cut_off: Option<usize>,
    /// Who changes the ring, if anyone does.
    pub(super) coordinator: Coordinator,
    /// Where the streams ended when each gateway started: nobody has looked for it before.
    looked_at: Vec<Vec<u64>>,
    /// Whose the next clients are.
    pub(super) tenant: &'static str,
    /// It is not certain which process of a server says how a stream is.
    pub(super) hides_processes: bool,
}

/// The same with sessions in JetStream.
fn jetstream_shared(settings: &SimSettings, boot: u64) -> JetStreamSettings {
    let local = jetstream(settings, boot);
    let gateway = format!("g{}", settings.seed & 0xff).into();
    let owner = Owner { gateway, shard: 0, boot: local.origin };
    JetStreamSettings {
        sessions: Some(SharedSessions { owner, count_max: 1_000, lease: LEASE }),
        ..local
    }
}

thread_local! {
    /// What is in force, where it is not what everything begins with.
    static RING: RefCell<Option<(RingTable, Ring)>> = const { RefCell::new(None) };
}

/// Gateways that start from now on find this ring; with `None` the one that everything begins with.
pub(crate) fn set_ring(table: Option<&RingTable>) {
    let ring = table.map(|table| (table.clone(), Ring::new(table)));
    RING.with_borrow_mut(|in_force| *in_force = ring);
}

/// What was set, and what follows from it.
pub(crate) fn ring_that_was_set() -> Option<(RingTable, Ring)> {
    RING.with_borrow(Clone::clone)
}

/// Who has which topics.
pub(crate) fn ring() -> RingTable {
    if let Some((table, _)) = ring_that_was_set() {
        return table;
    }
    RingTable::new(1, two_members()).unwrap()
}

pub(crate) fn two_members() -> Vec<Member> {
    let member = |number: u16| Member {
        partition: PartitionId(number),
        weight: 1,
        sub_cluster: format!("c{number}"),
    };
    vec![member(0), member(1)]
}

/// The upstream of a gateway, with limits that the seed makes small or large.
fn jetstream(settings: &SimSettings, boot: u64) -> JetStreamSettings {
    let mut random = Random::new(settings.seed);
    let mut either = |small, large| if random.below(2) == 0 { small } else { large };
    let link = |number: u8| {
        let settings = LinkSettings {
            name: format!("c{number}"),
            connection_name: "simulated".to_owned(),
            identity: Identity::None,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            silence_max: Duration::from_secs(12),
            reconnect_wait_max: Duration::from_secs(5),
            announced_servers_max: 4,
            tls: LinkTls::Plain,
        };
        (Arc::new(settings), vec![address(number)])
    };
    let origin = (settings.seed << 16) + boot;
    JetStreamSettings {
        ring: Arc::new(ring()),
        links: (0..3).map(link).collect(),
        limits: PartitionLimits {
            lane: LaneLimits {
                count_max: either(4, 1_000),
                bytes_max: either(1_024, 1 << 20),
                timeout: Duration::from_secs(5),
            },
            tail_bytes_max: either(512, 1 << 16),
            page_bytes_max: either(1_024, 1 << 20),
            link_write_bytes_max: either(2_048, 1 << 20),
            held_bytes_max: HELD_BYTES_MAX,
            shared: SharedLimits { groups_max: 4, members_max: 8, inflight_max: 8 },
        },
        inbox_prefix: format!("_GW.{origin:x}"),
        origin,
        sessions: None,
        gateway: "simulated".into(),
        uplink: Box::default(),
        report: Arc::default(),
    }
}

fn server(number: u16, random: &mut Random) -> Server {
    let mut model = NatsServer::new(number);
    // Not far from where a page of the replay ends, for some seeds.
    model.messages.last = *random.pick(&[0, 970, 1_995]);
    model.messages.sync();
    model.batch_max = *random.pick(&[3, u64::MAX]);
    let replicas = *random.pick(&[1, 1, 3]);
    Server { model, is_up: true, is_unreachable: false, replicas }
}

impl World {
    /// `gateways` of one shard each.
    pub(crate) fn new(gateways: usize, seed: u64) -> Self {
        Self::with(gateways, seed, false)
    }

    /// With `has_sessions` these are in JetStream, too.
    pub(crate) fn with(gateways: usize, seed: u64, has_sessions: bool) -> Self {
        Self::with_settings(gateways, seed, has_sessions, |settings| settings)
    }

    /// With settings that `change` makes of the usual ones.
    pub(crate) fn with_settings(
        gateways: usize,
        seed: u64,
        has_sessions: bool,
        change: impl Fn(SimSettings) -> SimSettings,
    ) -> Self {
        let jetstream = if has_sessions { jetstream_shared } else { jetstream };
        let node = |gateway: usize| {
            let settings = change(some_settings(1, seed));
            let seed = (seed << 8) + gateway as u64;
            let mut node =
                SimNode::with(SimSettings { seed, jetstream: Some(jetstream), ..settings });
            node.holds_io = true;
            Some(node)
        };
        let mut random = Random::new(seed);
        let numbers = (0..).zip(ring().members().to_vec());
        let mut world = Self {
            servers: numbers.map(|(number, _)| server(number, &mut random)).collect(),
            gateways: (0..gateways).map(node).collect(),
            pipes: Vec::new(),
            actors: Vec::new(),
            ledger: Ledger::default(),
            random,
            lingering: Vec::new(),
            lost: BTreeSet::new(),
            next_id: 0,
            trace: Vec::new(),
            has_sessions,
            clients_stay: false,
            forgives: false,
            forgiven: 0,
            frozen: None,
            vanished: Vec::new(),
            cut_off: None,
            coordinator: Coordinator::default(),
            looked_at: vec![Vec::new(); gateways],
            tenant: "",
            hides_processes: false,
        };
        world.ledger.clients_move = has_sessions;
        world.set_time();
        for gateway in 0..gateways {
            world.tell_first(gateway);
        }
        world
    }

    /// One more, of which no gateway has heard.
    pub(super) fn add_server(&mut self) {
        let number = u16::try_from(self.servers.len()).unwrap();
        let server = server(number, &mut self.random);
        self.looked_at.iter_mut().for_each(|ends| ends.push(server.model.messages.last));
        self.servers.push(server);
    }

    /// Publishers and subscribers of all kinds.
    pub(crate) fn populate(&mut self, publishers: u64, subscribers: u64) {
        for server in &mut self.servers {
            server.model.stores_late = *self.random.pick(&[true, false]);
        }
        for number in 0..publishers {
            let persistent = self.random.below(4) > 0;
            self.add(format!("pub-{number}"), persistent, Vec::new(), true);
        }
        for number in 0..subscribers {
            let persistent = number == 0 || self.random.below(4) > 0;
            let mut subscriptions = Vec::new();
            for _ in 0..=self.random.below(2) {
                let filter = *self.random.pick(&FILTERS);
                if subscriptions.iter().all(|(known, _)| *known != filter) {
                    subscriptions.push((filter, *self.random.pick(&QOS)));
                }
            }
            self.add(format!("sub-{number}"), persistent, subscriptions, false);
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
            may_be_refused: self.has_sessions,
        };
        let gateway = self.actors.len() % self.gateways.len();
        let mut client = Client::new(profile);
        client.is_stored_apart = true;
        let (socket, stalled, retained, delivered) = (None, false, Vec::new(), Vec::new());
        let (will_topic, will) = (None, None);
        self.actors.push(Actor {
            client,
            gateway,
            socket,
            stalled,
            publishes,
            retained,
            delivered,
            will_topic,
            will,
        });
        let actor = self.actors.len() - 1;
        self.ledger.belongs(actor, self.tenant);
        actor
    }

    pub(crate) fn node(&mut self, gateway: usize) -> &mut SimNode {
        self.gateways[gateway].as_mut().expect("it is only gone while it crashes")
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.gateways[0].as_ref().expect("it is only gone while it crashes").now()
    }

    fn set_time(&mut self) {
        let now = self.now();
        for server in &mut self.servers {
            server.model.set_now(now);
        }
    }

    /// Lets something happen.
    pub(crate) fn step(&mut self, weather: Weather) -> Result<(), Broken> {
        let Weather { crash, cut, link, server, election, loses_tails } = weather;
        let actor = usize::try_from(self.random.below(self.actors.len() as u64)).unwrap();
        let gateway = usize::try_from(self.random.below(self.gateways.len() as u64)).unwrap();
        let what = self.random.below(1_000);
        if what < crash {
            self.crash(gateway);
        } else if what < crash + cut {
            self.cut(actor);
        } else if what < crash + cut + link {
            self.hurt_link();
        } else if what < crash + cut + link + server {
            self.hurt_server(loses_tails);
        } else if what < crash + cut + link + server + election {
            self.hurt_replicas();
        } else if what < 70 {
            self.tell_something(gateway);
        } else if what < 200 {
            for _ in 0..=self.random.below(4) {
                self.node(gateway).perform_one();
            }
        } else if what < 600 {
            for _ in 0..=self.random.below(12) {
                self.move_something();
            }
        } else if what < 800 {
            self.act(actor);
        } else if what < 950 {
            self.actors[actor].client.answer_one();
        } else if what < 990 {
            let most = *self.random.pick(&[50, 500, 4_000]);
            let milliseconds = 1 + self.random.below(most);
            self.advance(Duration::from_millis(milliseconds));
        } else if let Some(socket) = self.actors[actor].socket
            && !self.is_frozen(self.actors[actor].gateway)
        {
            let Actor { gateway, stalled, .. } = &mut self.actors[actor];
            *stalled = !*stalled;
            let (gateway, stalled) = (*gateway, *stalled);
            self.node(gateway).stall(socket, stalled);
        }
        self.exchange()
    }

    fn act(&mut self, actor: usize) {
        if self.is_frozen(self.actors[actor].gateway) {
            // A client whose session is there waits; others go to another gateway in the end.
            let is_connected = self.actors[actor].socket.is_some();
            if self.has_sessions && is_connected && self.random.below(8) == 0 {
                self.vanish(actor);
            }
            if is_connected || !self.has_sessions {
                return;
            }
        }
        if self.actors[actor].socket.is_none() {
            self.connect(actor);
        } else if self.random.below(60) == 0 {
            self.note(format!("{actor} takes its session over"));
            self.connect(actor);
        } else if self.actors[actor].publishes && self.actors[actor].client.may_publish() {
            let topic = *self.random.pick(&TOPICS);
            let qos = *self.random.pick(&QOS);
            self.publish(actor, topic, qos);
        }
    }

    pub(crate) fn publish(&mut self, actor: usize, topic: &'static str, qos: QoS) -> u64 {
        let message = self.ledger.published(actor, topic, qos);
        let padding_bytes = usize::try_from(self.random.below(200)).unwrap();
        self.note(format!("{actor} publishes {message} to {topic} with {qos:?}"));
        self.actors[actor].client.publish(message, topic, qos, padding_bytes);
        message
    }

    pub(crate) fn connect(&mut self, actor: usize) {
        if self.has_sessions && !self.clients_stay {
            let gateways = self.gateways.len() as u64;
            self.actors[actor].gateway = usize::try_from(self.random.below(gateways)).unwrap();
        }
        if self.is_frozen(self.actors[actor].gateway) {
            self.actors[actor].gateway = 0;
        }
        self.connect_to(actor, self.actors[actor].gateway);
    }

    pub(crate) fn connect_to(&mut self, actor: usize, gateway: usize) {
        self.actors[actor].gateway = gateway;
        self.end_will(actor);
        if let Some(topic) = self.actors[actor].will_topic {
            let will = self.ledger.will(actor, topic);
            self.note(format!("{actor} has the will {will}"));
            self.actors[actor].client.will = Some((topic, will));
            self.actors[actor].will = Some((will, false));
        }
        let socket = self.node(gateway).connect();
        let Actor { client, socket: of_actor, stalled, .. } = &mut self.actors[actor];
        *of_actor = Some(socket);
        *stalled = false;
        client.connect();
        if !client.profile.persistent {
            self.ledger.session_ended(actor);
        }
        self.note(format!("{actor} connects to {gateway}"));
    }

    /// A client reads nothing until its connection is over.
    pub(crate) fn stall(&mut self, actor: usize) {
        let Some(socket) = self.actors[actor].socket else { return };
        self.actors[actor].stalled = true;
        let gateway = self.actors[actor].gateway;
        self.node(gateway).stall(socket, true);
    }

    pub(crate) fn cut(&mut self, actor: usize) {
        if self.is_frozen(self.actors[actor].gateway) {
            return;
        }
        let Some(socket) = self.actors[actor].socket.take() else { return };
        self.note(format!("{actor} loses its connection"));
        self.went_offline(actor);
        let gateway = self.actors[actor].gateway;
        self.node(gateway).drop_connection(socket);
    }

    /// The connection that had a will is over.
    fn end_will(&mut self, actor: usize) {
        if let Some((will, true)) = self.actors[actor].will.take() {
            self.note(format!("{actor} leaves the will {will}"));
            self.ledger.owes_will(will);
        }
    }

    /// A gateway is not scheduled any more; not the first, which has the time.
    pub(super) fn freeze(&mut self, gateway: usize) {
        self.note(format!("gateway {gateway} is frozen"));
        self.frozen = Some((gateway, Duration::ZERO));
    }

    /// It is again, and finds out what has become of its clients.
    pub(super) fn thaw(&mut self) {
        let Some((gateway, duration)) = self.frozen.take() else { return };
        self.note(format!("gateway {gateway} goes on after {duration:?}"));
        self.node(gateway).stand_still(duration);
        for socket in std::mem::take(&mut self.vanished) {
            self.node(gateway).drop_connection(socket);
        }
    }

    pub(super) fn is_frozen(&self, gateway: usize) -> bool {
        self.frozen.is_some_and(|(frozen, _)| frozen == gateway)
    }

    pub(super) fn has_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// A client gives up its connection to a gateway that does not answer.
    pub(super) fn vanish(&mut self, actor: usize) {
        if self.is_frozen(self.actors[actor].gateway)
            && let Some(socket) = self.actors[actor].socket.take()
        {
            self.note(format!("{actor} gives up"));
            self.vanished.push(socket);
            self.went_offline(actor);
        }
    }

    pub(super) fn is_connected(&self, actor: usize) -> bool {
        self.actors[actor].socket.is_some()
    }

    /// No server can be reached from a gateway, and nobody hears of that.
    pub(super) fn cut_off(&mut self, gateway: usize) {
        self.note(format!("gateway {gateway} is cut off"));
        self.cut_off = Some(gateway);
        let of_gateway = self.pipes.iter_mut().filter(|pipe| pipe.gateway == gateway);
        of_gateway.for_each(|pipe| pipe.is_dead = true);
    }

    fn went_offline(&mut self, actor: usize) {
        self.end_will(actor);
        self.actors[actor].client.disconnected();
        if !self.actors[actor].client.profile.persistent {
            self.ledger.session_ended(actor);
        }
    }

    /// What the control thread would say of a partition.
    pub(crate) fn status(&self, number: usize) -> PartitionStatus {
        let Server { model, is_up, is_unreachable, replicas } = &self.servers[number];
        let is_led = *is_up && !is_unreachable && model.has_streams;
        PartitionStatus {
            partition: PartitionId(u16::try_from(number).unwrap()),
            leader: is_led.then(|| address(u8::try_from(number).unwrap())),
            leader_name: format!("n{number}"),
            leader_since: Some(StoreTime(model.elections)),
            server_time: Some(self.now()),
            created: StoreTime(model.created),
            first: Sequence(model.messages.first()),
            last: Sequence(model.messages.last),
            last_at: model.messages.stored_at(model.messages.last),
            server_id: (!self.hides_processes).then(|| model.server_id()),
            replicas: *replicas,
        }
    }

    /// What a gateway hears before any client connects: where a partition ends, unless it is away.
    fn tell_first(&mut self, gateway: usize) {
        let ends = self.servers.iter().map(|server| server.model.messages.last);
        self.looked_at[gateway] = ends.collect();
        for number in 0..self.servers.len() {
            if self.random.below(4) == 0 {
                self.note(format!("gateway {gateway} starts without server {number}"));
                continue;
            }
            let status = PartitionStatus { leader: None, ..self.status(number) };
            self.tell(gateway, status);
        }
    }

    /// The control thread tells a gateway how a partition is, or was, or is not.
    fn tell_something(&mut self, gateway: usize) {
        let number = self.some_server();
        let mut status = self.status(number);
        match self.random.below(20) {
            0 => status.leader = Some(NOWHERE),
            1 => status.leader = None,
            // Some other server's answer.
            3 => status.server_id = None,
            2 => {
                let earlier = status.last.0.saturating_sub(self.random.below(5));
                let earliest = self.looked_at[gateway][number].min(status.last.0);
                let earlier = earlier.max(earliest);
                status.last = Sequence(earlier);
                status.last_at = self.servers[number].model.messages.stored_at(earlier);
            }
            _ => {}
        }
        self.tell(gateway, status);
    }

    pub(crate) fn tell(&mut self, gateway: usize, status: PartitionStatus) {
        if self.is_frozen(gateway) || self.cut_off == Some(gateway) {
            return;
        }
        self.node(gateway).tell(ControlNews::Partition(status));
    }

    /// Everyone hears the truth.
    pub(crate) fn tell_all(&mut self) {
        for gateway in 0..self.gateways.len() {
            self.tell_ring(gateway);
            for number in 0..self.servers.len() {
                let status = self.status(number);
                self.tell(gateway, status);
            }
        }
    }

    /// Something in a server, or on its way, moves on.
    fn move_something(&mut self) {
        self.answer_dials();
        self.collect();
        if !self.lingering.is_empty() && self.random.below(8) == 0 {
            self.read_lingering(0);
            return;
        }
        let choices = self.servers.len() as u64 + 2 * self.pipes.len() as u64;
        let choice = usize::try_from(self.random.below(choices)).unwrap();
        let Self { servers, random, .. } = self;
        if let Some(server) = servers.get_mut(choice) {
            server.model.step(random);
            return;
        }
        let choice = choice - self.servers.len();
        self.move_bytes(choice / 2, choice.is_multiple_of(2));
    }

    /// Takes from gateways and servers what they want sent; closes what gateways have closed.
    pub(crate) fn collect(&mut self) {
        let mut pipe = 0;
        while pipe < self.pipes.len() {
            let Pipe { gateway, socket, server, id, .. } = self.pipes[pipe];
            if !self.is_frozen(gateway) {
                let bytes = self.node(gateway).take(socket);
                self.pipes[pipe].to_server.extend_from_slice(&bytes);
            }
            let bytes = self.servers[server].model.take(id);
            self.pipes[pipe].to_gateway.extend_from_slice(&bytes);
            if self.node(gateway).is_closed(socket) {
                self.note(format!("gateway {gateway} closes link {id}"));
                let pipe = self.pipes.remove(pipe);
                self.close_at_server(pipe);
            } else {
                pipe += 1;
            }
        }
    }

    /// A piece of what is on its way arrives.
    fn move_bytes(&mut self, pipe: usize, to_server: bool) {
        let is_held = self.pipes.get(pipe).is_some_and(|one| self.is_frozen(one.gateway));
        let Some(on_its_way) = self.pipes.get_mut(pipe).filter(|pipe| !pipe.is_dead) else {
            return;
        };
        if is_held && !to_server {
            return;
        }
        let bytes = if to_server { &mut on_its_way.to_server } else { &mut on_its_way.to_gateway };
        let all = bytes.len() as u64;
        if all == 0 {
            return;
        }
        let length = if self.random.below(3) == 0 { 1 + self.random.below(all) } else { all };
        let piece = bytes.drain(..usize::try_from(length).unwrap()).collect::<Vec<_>>();
        let Pipe { gateway, socket, server, id, .. } = *on_its_way;
        if to_server {
            self.servers[server].model.receive(id, &piece);
        } else {
            self.node(gateway).send(socket, &piece);
        }
    }

    /// Connections that gateways want made are, or are refused, or hang.
    pub(crate) fn answer_dials(&mut self) {
        for gateway in 0..self.gateways.len() {
            if self.is_frozen(gateway) {
                continue;
            }
            for dial in self.node(gateway).take_dials() {
                let count = u8::try_from(self.servers.len()).unwrap();
                let server = (0..count).find(|number| address(*number) == dial.address);
                let server = server.map(usize::from);
                let fault = match server.map(|server| &self.servers[server]) {
                    Some(_) if self.cut_off == Some(gateway) => Some(std::io::ErrorKind::TimedOut),
                    Some(Server { is_unreachable: true, .. }) => Some(std::io::ErrorKind::TimedOut),
                    Some(Server { is_up: true, .. }) => None,
                    _ => Some(std::io::ErrorKind::ConnectionRefused),
                };
                let made = self.node(gateway).dialed(dial.token, fault.map_or(Ok(()), Err));
                if let (Some(socket), Some(server)) = (made, server) {
                    let id = self.next_id;
                    self.next_id += 1;
                    self.servers[server].model.open(id);
                    self.note(format!("link {id} of gateway {gateway} to server {server}"));
                    let (to_server, to_gateway) = (Vec::new(), Vec::new());
                    let is_dead = false;
                    self.pipes.push(Pipe {
                        gateway,
                        socket,
                        server,
                        id,
                        to_server,
                        to_gateway,
                        is_dead,
                    });
                } else if made.is_some() {
                    unreachable!("nowhere refuses");
                }
            }
        }
    }

    /// A server reads what was sent on a link that is gone.
    pub(super) fn read_lingering(&mut self, which: usize) {
        let Lingering { server, id, bytes, .. } = self.lingering.remove(which);
        self.note(format!("server {server} reads what was sent on link {id}"));
        self.servers[server].model.receive(id, &bytes);
        self.servers[server].model.close(id);
    }

    /// All that is on its way between gateways and servers arrives, until nothing more comes.
    /// Whether anything did.
    pub(crate) fn pump(&mut self) -> bool {
        let mut has_moved = false;
        for _ in 0..ROUNDS_MAX {
            self.answer_dials();
            self.collect();
            let mut moved = !self.lingering.is_empty();
            while !self.lingering.is_empty() {
                self.read_lingering(0);
            }
            for pipe in (0..self.pipes.len()).rev() {
                moved |= self.pump_link(pipe, true) | self.pump_link(pipe, false);
            }
            for server in 0..self.servers.len() {
                let Self { servers, random, .. } = self;
                while servers[server].model.step(random) {
                    moved = true;
                }
            }
            if !moved {
                return has_moved;
            }
            has_moved = true;
        }
        true
    }

    /// All that is on its way arrives, in one direction of one link.
    pub(crate) fn pump_link(&mut self, pipe: usize, to_server: bool) -> bool {
        let is_held = self.pipes.get(pipe).is_some_and(|one| self.is_frozen(one.gateway));
        let Some(on_its_way) = self.pipes.get_mut(pipe).filter(|pipe| !pipe.is_dead) else {
            return false;
        };
        if is_held && !to_server {
            return false;
        }
        let Pipe { gateway, socket, server, id, .. } = *on_its_way;
        if to_server {
            let bytes = std::mem::take(&mut on_its_way.to_server);
            self.servers[server].model.receive(id, &bytes);
            return !bytes.is_empty();
        }
        let bytes = std::mem::take(&mut on_its_way.to_gateway);
        if !bytes.is_empty() {
            self.node(gateway).send(socket, &bytes);
        }
        !bytes.is_empty()
    }

    pub(crate) fn advance(&mut self, duration: Duration) {
        for gateway in 0..self.gateways.len() {
            match &mut self.frozen {
                Some((frozen, so_far)) if *frozen == gateway => *so_far += duration,
                _ => self.node(gateway).advance(duration),
            }
        }
        self.set_time();
        let now = self.now();
        while let Some(late) = self.lingering.iter().position(|one| one.until <= now) {
            self.read_lingering(late);
        }
    }

    /// Bytes go both ways between clients and gateways until no more come.
    pub(crate) fn exchange(&mut self) -> Result<(), Broken> {
        for index in 0..self.actors.len() {
            let gateway = self.actors[index].gateway;
            if self.is_frozen(gateway) {
                continue;
            }
            while let Some(socket) = self.actors[index].socket {
                let bytes = std::mem::take(&mut self.actors[index].client.outbox);
                if !bytes.is_empty() {
                    self.node(gateway).send(socket, &bytes);
                }
                let received = self.node(gateway).take(socket);
                self.actors[index].client.receive(&received);
                if self.node(gateway).is_closed(socket) {
                    self.note(format!("{index} is disconnected"));
                    self.actors[index].socket = None;
                    self.hear(index)?;
                    self.went_offline(index);
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
            let profile = self.actors[actor].client.profile.clone();
            let is_subscribed = event == Event::Subscribed;
            if let (Event::Connected { .. }, Some(_)) = (&event, self.actors[actor].will) {
                // The answer says that the record is there, and the will in it.
                self.actors[actor].client.subscribe();
            }
            if is_subscribed && let Some((_, is_recorded)) = &mut self.actors[actor].will {
                *is_recorded = true;
            }
            match event {
                Event::Retained(message) => self.actors[actor].retained.push(message),
                Event::Delivered { message, .. } => self.actors[actor].delivered.push(message),
                _ => {}
            }
            let is_lost =
                matches!(&event, Event::Delivered { message, .. } if self.lost.contains(message));
            let wrong = self.ledger.hear(actor, &profile, event);
            // What a server lost may be stored once more, by a publisher that was not told of it.
            let is_forgiven = |what: &str| {
                self.forgives
                    && ["the session is lost", " came "].iter().any(|of| what.contains(of))
            };
            if let Some(what) = wrong.filter(|what| !is_lost && !is_forgiven(what)) {
                return Err(self.broken(&format!("{}: {what}", profile.name)));
            }
            if is_subscribed {
                self.ledger.owes(actor, &profile);
            }
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, line: String) {
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{} {line}", self.servers[0].model.shown_time());
        }
        self.trace.push(line);
        if self.trace.len() > 2 * TRACE_LINES {
            self.trace.drain(..TRACE_LINES);
        }
    }

    pub(super) fn broken(&self, what: &str) -> Broken {
        let from = self.trace.len().saturating_sub(TRACE_LINES);
        Broken(format!("{what}\nlast:\n{}", self.trace[from..].join("\n")))
    }
}
