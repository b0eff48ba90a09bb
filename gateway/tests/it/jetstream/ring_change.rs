//! A fourth sub-cluster takes its share over while clients rely on the other three.

use super::party::{DURABLE, Party};
use super::site::{NAMES, Node, Site, flags, lasting_port};
use crate::nats::server::NatsServer;
use crate::process::gateway::gateway_command;
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_change::Change;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

const TAKER: PartitionId = PartitionId(3);
/// Topics of each kind: those that move, and those that stay.
const TOPICS: usize = 4;

struct Addition {
    site: Site,
    taker: NatsServer,
}

impl Addition {
    /// Three sub-clusters with a ring, and a fourth that is in none.
    fn start() -> Self {
        let site = Site::start();
        site.gateway("g1").stop();
        Self { site, taker: NatsServer::start_on(lasting_port()) }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let [a, b, c] = self.site.addresses();
        vec![a, b, c, self.taker.address()]
    }

    /// Two gateways that know all four: the fourth is a member without topics.
    fn party(&self, sessions: &str) -> Party {
        let nodes = ["g1", "g2"].map(|id| {
            let mut node = Node::start_with(flags(id, sessions, &self.addresses()));
            node.wait_until_live(4);
            node
        });
        let mut party = Party::new(nodes.into());
        let (moves, stays) = topics();
        let topics: Vec<_> = moves.iter().chain(&stays).copied().collect();
        for node in [0, 1] {
            party.publisher(node, &topics, &DURABLE);
            party.publisher(node, &moves, &[QoS::ExactlyOnce]);
            party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
            let literal: Vec<_> = moves.iter().map(|topic| (*topic, QoS::ExactlyOnce)).collect();
            party.subscriber(node, &literal);
        }
        party.all_subscribed();
        party
    }

    fn command(&self, arguments: &[&str]) -> Adding {
        let mut command = gateway_command();
        command.args(arguments);
        for (name, address) in NAMES.iter().chain(&["d"]).zip(self.addresses()) {
            command.args(["--nats".to_owned(), format!("{name}=nats://{address}")]);
        }
        Adding::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn add(&self) -> Adding {
        self.command(&["ring", "add", "d"])
    }

    fn shown(&self) -> String {
        self.command(&["ring", "show"]).end().1
    }

    /// The topics that the fourth sub-cluster has messages of.
    fn stored_at_taker(&self) -> Vec<String> {
        let filter = r#"{"subjects_filter":"mqtt.t.>"}"#;
        let info = self.taker.connect().api("$JS.API.STREAM.INFO.MQTT_3", filter);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let topic = |subject: &String| subject.strip_prefix("mqtt.").unwrap().replace('.', "/");
        subjects.keys().map(topic).collect()
    }
}

/// `gateway ring add`, and what it says.
struct Adding {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Adding {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    fn line_count(&mut self) -> usize {
        self.said.extend(self.lines.try_iter());
        self.said.len()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it went well, and all it said.
    fn end(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter());
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status.success(), self.said.join("\n") + &errors)
    }
}

/// Topics that move to the fourth sub-cluster, and topics that stay, kept for the process.
fn topics() -> (Vec<&'static str>, Vec<&'static str>) {
    let member = |(partition, name): (u16, &str)| Member {
        partition: PartitionId(partition),
        weight: 1,
        sub_cluster: name.to_owned(),
    };
    let table = RingTable::new(1, (0..).zip(NAMES).map(member).collect()).unwrap();
    let table = table.joined(["d"].into_iter()).unwrap().unwrap();
    let change = Change { partition: TAKER, weight: 1, hold_s: 5 };
    let ring = Ring::new(&table.changing(change).unwrap());
    let names = (0..200).map(|number| &*format!("t/{number}").leak());
    let (mut moves, mut stays): (Vec<_>, Vec<_>) = names.partition(|name| ring.is_held(name));
    moves.truncate(TOPICS);
    stays.truncate(TOPICS);
    (moves, stays)
}

fn take_over(sessions: &str) {
    let site = Addition::start();
    let mut party = site.party(sessions);
    party.publish_until_acknowledged("before", 200);
    assert_eq!(site.stored_at_taker(), [""; 0], "it has no topics yet");
    let mut adding = site.add();
    party.go_on("adding", true, |_| adding.has_ended());
    let (went_well, said) = adding.end();
    let share = "d has its share: 4181 of 16384 slots, 25.5 % of the topics";
    assert!(went_well && said.contains(share), "{said}");
    party.publish_until_acknowledged("after", 300);
    party.all_arrived();
    let (moves, _) = topics();
    let stored = site.stored_at_taker();
    assert!(!stored.is_empty(), "what moved is published there");
    assert!(stored.iter().all(|topic| moves.contains(&topic.as_str())), "{stored:?}");
    let shown = site.shown();
    assert!(shown.contains("MQTT_3 took over from MQTT_0 before "), "{shown}");
    let again = site.add().end().1;
    assert!(again.contains("d has its share already"), "{again}");
}

#[test]
fn a_share_is_taken_over_under_load() {
    take_over("local");
}

#[test]
fn a_share_is_taken_over_under_load_with_shared_sessions() {
    take_over("shared");
}

/// Who adds it, and a gateway, are killed at each step: nothing is changed by that, and the next attempt
/// does it.
#[test]
fn killed_at_each_step_a_change_is_called_off_and_can_be_made_again() {
    let site = Addition::start();
    let mut party = site.party("local");
    for lines in 0..=2 {
        party.publish_until_acknowledged("before", 50);
        let mut adding = site.command(&["ring", "add", "d", "--hold-max-s", "5"]);
        party.go_on("adding", true, |_| adding.line_count() >= lines || adding.has_ended());
        adding.kill();
        let node = lines % 2;
        party.nodes[node].kill();
        party.nodes[node].start_again();
        party.publish_until_acknowledged("after a kill", 50);
    }
    for attempt in 0.. {
        let mut adding = site.add();
        party.go_on("adding", true, |_| adding.has_ended());
        let (went_well, said) = adding.end();
        if went_well || said.contains("has its share already") {
            break;
        }
        assert!(attempt < 5, "{said}");
    }
    party.publish_until_acknowledged("taken over", 100);
    party.nodes[0].kill();
    party.nodes[0].start_again();
    party.publish_until_acknowledged("after the last kill", 100);
    party.all_arrived();
    assert!(!site.stored_at_taker().is_empty());
}

#[test]
fn what_cannot_be_added_is_said() {
    let site = Addition::start();
    let no_member = site.add().end().1;
    assert!(no_member.contains("d is no member of the ring"), "{no_member}");
    let [a, b, c] = site.site.addresses();
    let mut old = Node::start("g1", &[a, b, c]);
    let mut new = Node::start_with(flags("g2", "local", &site.addresses()));
    new.wait_until_live(4);
    let without = site.add().end().1;
    assert!(without.contains("these gateways cannot use d: g1"), "{without}");
    old.kill();
    let dead = site.add().end().1;
    assert!(dead.contains("g1"), "nobody has said that it is dead: {dead}");
    let forgotten = site.command(&["ring", "forget", "g1"]).end();
    assert!(forgotten.0, "{}", forgotten.1);
    let (went_well, said) = site.add().end();
    assert!(went_well, "{said}");
    let removed = site.command(&["ring", "remove", "d"]).end();
    assert!(!removed.0 && removed.1.contains("not supported"), "{}", removed.1);
    let name = site.command(&["ring", "add", "d=nats://127.0.0.1:1"]).end();
    assert!(!name.0 && name.1.contains("only the name"), "{}", name.1);
}
