//! A sub-cluster of three servers gives topics to another one, and gets them back, while who leads it changes.

use super::party::Party;
use super::ring_site::{Command, check_retained, command_of, join_in, retain, topics_in};
use super::ring_steps::{Step, Stepping};
use super::site::{Node, lasting_port};
use crate::nats::server::NatsServer;
use crate::process::gateway::TempDirectory;
use gateway::proto::nats::{Subject, encode_publish};
use std::net::SocketAddr;

/// The sub-clusters with topics: one server, and three. The last one gets some.
const NAMES: [&str; 2] = ["a", "b"];
const TOPICS: usize = 4;
const HOLD_S: &str = "60";

struct Scene {
    home: NatsServer,
    giver: [NatsServer; 3],
    taker: NatsServer,
    party: Party,
    _configuration: TempDirectory,
}

impl Scene {
    /// Gateways are connected to the `known` ones of the three.
    fn start(giver: [NatsServer; 3], known: &[usize]) -> Self {
        let [home, taker] = [(); 2].map(|()| NatsServer::start_on(lasting_port()));
        let configuration = TempDirectory::new();
        let file = configuration.path().join("gateway.toml");
        let known: Vec<_> = known.iter().map(|server| giver[*server].address()).collect();
        let table = |name: &str, servers: &[SocketAddr], replicas: usize| {
            let urls: Vec<_> = servers.iter().map(|one| format!("\"nats://{one}\"")).collect();
            let urls = urls.join(", ");
            format!("[[nats]]\nname = \"{name}\"\nservers = [{urls}]\nreplicas = {replicas}\n")
        };
        let two = table("a", &[home.address()], 1) + &table("b", &known, 3);
        let start = |id: &str, text: &str, count: usize| {
            std::fs::write(&file, text).unwrap();
            let file = file.to_str().unwrap();
            let flags = ["--config", file, "--shards", "2", "--gateway-id", id];
            let mut node = Node::start_with(flags.map(str::to_owned).to_vec());
            node.wait_until_live(count);
            node
        };
        start("g1", &two, 2).stop();
        let three = two + &table("d", &[taker.address()], 1);
        let mut party = Party::new(["g1", "g2"].map(|id| start(id, &three, 3)).into());
        let (moves, stays) = topics_in(&NAMES, "t/", TOPICS);
        join_in(&mut party, &moves, &stays);
        let (retained_moves, retained_stays) = topics_in(&NAMES, "r/", TOPICS);
        retain(&mut party, &retained_moves, &retained_stays);
        party.all_subscribed();
        Self { home, giver, taker, party, _configuration: configuration }
    }

    /// Changes the ring step by step, asking these of the three servers.
    fn step_through(&self, command: &str, asked: &[usize]) -> Stepping {
        let asked = asked.iter().map(|server| self.giver[*server].address()).collect();
        let servers = [vec![self.home.address()], asked, vec![self.taker.address()]];
        Stepping::start(servers.into_iter(), |proxies| -> Command {
            let all = NAMES.iter().chain(&["d"]).copied().zip(proxies.iter().map(Vec::as_slice));
            command_of(&["ring", command, "d", "--hold-max-s", HOLD_S], all)
        })
    }

    fn check(&mut self) {
        self.party.publish_until_acknowledged("changed", 100);
        self.party.all_arrived();
        let (moves, stays) = topics_in(&NAMES, "r/", TOPICS);
        check_retained(&self.party, &[moves, stays].concat());
    }

    fn step_down(&self, stream: &str, placement: &str) {
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let subject = Subject::literal(&subject).unwrap();
        let mut connection = self.giver[1].connect();
        // Without a leader just now nobody answers.
        encode_publish(subject, None, placement.as_bytes(), &mut connection.out);
        connection.exchange();
    }
}

#[test]
fn leaders_step_down_at_each_step_of_a_change() {
    let mut scene = Scene::start(NatsServer::start_cluster(), &[0, 1, 2]);
    for command in ["add", "remove"] {
        scene.party.publish_until_acknowledged("before", 100);
        let mut changing = scene.step_through(command, &[0, 1, 2]);
        let mut steps = Vec::new();
        while let Some(halt) = changing.next_halt(&mut scene.party) {
            steps.push(halt.step);
            if halt.step >= Step::Copied {
                scene.step_down("MQTT_1", "");
                scene.step_down("MQTT_RETAINED_1", "");
            }
            halt.go_on();
        }
        let (went_well, said) = changing.command.end();
        assert!(went_well, "{said}");
        assert!(steps.contains(&Step::Marking) && steps.contains(&Step::TakenOver), "{steps:?}");
        scene.check();
    }
}
