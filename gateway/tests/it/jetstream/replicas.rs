//! One sub-cluster of three servers: its leader dies, steps down, stands still, or is cut off from the others.

use super::device::Device;
use super::party::{DURABLE, Party, parameter};
use super::proxy::Proxy;
use super::site::Node;
use crate::nats::server::{Connection, NatsServer};
use crate::process::gateway::TempDirectory;
use gateway::proto::mqtt::QoS;
use rustix::process::Signal;
use std::time::Duration;

const TOPICS: &[&str] = &["a/1", "a/2", "b/1", "b/2", "c"];

/// Three servers with a copy of everything each, and two gateways.
pub(super) struct Cluster {
    pub(super) servers: [NatsServer; 3],
    pub(super) party: Party,
    _configuration: TempDirectory,
}

impl Cluster {
    fn start() -> Self {
        Self::start_on(NatsServer::start_cluster())
    }

    /// One whose routes can be cut.
    fn start_with_routes() -> (Self, Routes) {
        let mut routes = Routes(Vec::new());
        let servers = NatsServer::start_cluster_through(|from, to, address| {
            let proxy = Proxy::start(address);
            let through = proxy.address();
            routes.0.push(([from, to], proxy));
            through
        });
        (Self::start_knowing(1, servers), routes)
    }

    pub(super) fn start_on(servers: [NatsServer; 3]) -> Self {
        Self::start_knowing(3, servers)
    }

    /// Gateways find the first ones by themselves, and the others as servers announce them.
    fn start_knowing(count: usize, servers: [NatsServer; 3]) -> Self {
        let directory = TempDirectory::new();
        let file = directory.path().join("gateway.toml");
        let known = servers.iter().take(count);
        let urls: Vec<_> = known.map(|server| format!("\"nats://{}\"", server.address())).collect();
        let text =
            format!("[[nats]]\nname = \"a\"\nservers = [{}]\nreplicas = 3\n", urls.join(", "));
        std::fs::write(&file, text).unwrap();
        let nodes = ["g1", "g2"].map(|id| {
            let file = file.to_str().unwrap();
            let flags = ["--config", file, "--shards", "2", "--gateway-id", id];
            let mut node = Node::start_with(flags.map(str::to_owned).to_vec());
            node.wait_until_live(1);
            node
        });
        let mut party = Party::new(nodes.into());
        for node in [0, 1] {
            party.publisher(node, TOPICS, &DURABLE);
            party.publisher(node, TOPICS, &[QoS::ExactlyOnce]);
            party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
            party.subscriber(node, &[("a/1", QoS::ExactlyOnce), ("c", QoS::ExactlyOnce)]);
            party.subscriber(node, &[("a/+", QoS::AtLeastOnce)]);
        }
        party.all_subscribed();
        Self { servers, party, _configuration: directory }
    }

    /// Which server leads the stream, as soon as `asked` knows.
    fn leader(&self, asked: usize) -> usize {
        let mut connection: Connection = self.servers[asked].connect();
        loop {
            let info = connection.api("$JS.API.STREAM.INFO.MQTT_0", "");
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            if let Some(leader) = info["cluster"]["leader"].as_str() {
                return leader.trim_start_matches('n').parse().unwrap();
            }
        }
    }
}

/// `ELECTIONS` says how often.
#[test]
fn a_leader_that_steps_down_takes_nothing_with_it() {
    let mut cluster = Cluster::start();
    for election in 0..parameter("ELECTIONS", 4) {
        let more = usize::try_from(30 + cluster.party.random.below(100)).unwrap();
        cluster.party.publish_until_acknowledged(&format!("election {election}"), more);
        cluster.servers[0].connect().api("$JS.API.STREAM.LEADER.STEPDOWN.MQTT_0", "");
    }
    cluster.party.publish_until_acknowledged("after the last", 100);
    cluster.party.all_arrived();
}

#[test]
fn a_leader_that_is_killed_takes_nothing_with_it() {
    let mut cluster = Cluster::start();
    for kill in 0..parameter("KILLS", 2) {
        let more = usize::try_from(30 + cluster.party.random.below(200)).unwrap();
        cluster.party.publish_until_acknowledged(&format!("kill {kill}"), more);
        let leader = cluster.leader(0);
        cluster.servers[leader].kill();
        cluster.party.publish_until_acknowledged("with two", 100);
        cluster.servers[leader].start_again();
        cluster.servers[leader].wait_until_ready();
    }
    cluster.party.publish_until_acknowledged("with three", 50);
    cluster.party.all_arrived();
}

/// Routes between servers, each from one to another.
struct Routes(Vec<([usize; 2], Proxy)>);

impl Routes {
    fn of(&mut self, number: usize) -> impl Iterator<Item = &mut Proxy> {
        self.0.iter_mut().filter(move |(ends, _)| ends.contains(&number)).map(|(_, proxy)| proxy)
    }

    fn between(&mut self, one: usize, other: usize) -> impl Iterator<Item = &mut Proxy> {
        let is_it = move |ends: &[usize; 2]| ends.contains(&one) && ends.contains(&other);
        self.0.iter_mut().filter(move |(ends, _)| is_it(ends)).map(|(_, proxy)| proxy)
    }
}

/// Devices stay connected to gateways, and those to a leader that nobody follows, also with what asks who leads.
#[test]
fn a_leader_that_is_cut_off_from_the_others_takes_nothing_with_it() {
    let (mut cluster, mut routes) = Cluster::start_with_routes();
    for cut in 0..parameter("CUTS", 1) {
        cluster.party.publish_until_acknowledged("all together", 50);
        // At first all of a gateway is connected to the first server.
        while cut == 0 && cluster.leader(0) != 0 {
            let preferred = r#"{"placement":{"preferred":"n0"}}"#;
            cluster.servers[0].connect().api("$JS.API.STREAM.LEADER.STEPDOWN.MQTT_0", preferred);
            cluster.party.publish_until_acknowledged("the first is to lead", 20);
        }
        let leader = cluster.leader(0);
        match cut % 2 {
            0 => routes.of(leader).for_each(Proxy::swallow),
            _ => routes.of(leader).for_each(Proxy::cut),
        }
        cluster.party.publish_until_acknowledged(&format!("n{leader} is cut off"), 200);
        // What was there is closed, and new routes are made.
        routes.of(leader).for_each(Proxy::cut);
        routes.of(leader).for_each(Proxy::mend);
        cluster.party.publish_until_acknowledged("together again", 50);
    }
    cluster.party.all_arrived();
}

#[test]
fn a_route_that_is_cut_while_messages_flow_takes_nothing_with_it() {
    let (mut cluster, mut routes) = Cluster::start_with_routes();
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        cluster.party.publish_until_acknowledged("all together", 50);
        routes.between(one, other).for_each(Proxy::cut);
        cluster.party.publish_until_acknowledged(&format!("n{one} | n{other}"), 200);
        routes.between(one, other).for_each(Proxy::mend);
    }
    cluster.party.publish_until_acknowledged("together again", 50);
    cluster.party.all_arrived();
}

/// A full stream takes no message, and so no mark.
#[test]
fn a_gateway_that_starts_when_the_stream_is_full_goes_live() {
    let servers = NatsServer::start_cluster();
    let directory = TempDirectory::new();
    let file = directory.path().join("gateway.toml");
    let urls = servers.each_ref().map(|server| format!("\"nats://{}\"", server.address()));
    let urls = urls.join(", ");
    let text =
        format!("[[nats]]\nname = \"a\"\nservers = [{urls}]\nreplicas = 3\nmax_bytes = 100000\n");
    std::fs::write(&file, text).unwrap();
    let start = |id: &str| {
        let flags = ["--config", file.to_str().unwrap(), "--shards", "2", "--gateway-id", id];
        let mut node = Node::start_with(flags.map(str::to_owned).to_vec());
        node.wait_until_live(1);
        node
    };
    // It makes the stream.
    start("g1").stop();
    let mut connection: Connection = servers[0].connect();
    let is_refused = |connection: &mut Connection, bytes: usize| {
        connection.request("mqtt.fill", &"x".repeat(bytes)).contains("\"error\"")
    };
    for bytes in [20_000, 1_000, 1] {
        while !is_refused(&mut connection, bytes) {}
    }
    // The marks of the first make room when they expire.
    let marks = r#"{"subjects_filter":"mqtt$.>"}"#;
    while connection.api("$JS.API.STREAM.INFO.MQTT_0", marks).contains("%mark")
        || !is_refused(&mut connection, 1)
    {}
    let mut node = start("g2");
    let address = node.address().unwrap();
    let mut subscriber = Device::brief(address, "subscriber");
    subscriber.listen(&["a"], QoS::AtLeastOnce);
    connection.api("$JS.API.STREAM.PURGE.MQTT_0", "");
    Device::brief(address, "publisher").publish("a", QoS::AtLeastOnce, "x");
    assert_eq!(subscriber.message().text(), "x");
    node.stop();
}

/// `STILL_SECONDS` says how long.
#[test]
#[ignore = "three servers that miss each other's heartbeats on busy cores: `make soak` runs it alone"]
fn a_leader_that_stands_still_for_a_while_takes_nothing_with_it() {
    let mut cluster = Cluster::start();
    cluster.party.publish_until_acknowledged("before", 100);
    let leader = cluster.leader(0);
    cluster.servers[leader].signal(Signal::STOP);
    let duration = Duration::from_secs(parameter("STILL_SECONDS", 6));
    cluster.party.publish_for("the leader stands still", duration);
    cluster.servers[leader].signal(Signal::CONT);
    cluster.party.publish_until_acknowledged("it goes on", 200);
    cluster.party.all_arrived();
}
