//! A fourth sub-cluster takes its share over while clients rely on the other three, and gives it back.

use super::device::Device;
use super::party::{DURABLE, Party};
use super::site::{NAMES, Node, Site, flags, lasting_port};
use crate::nats::server::NatsServer;
use crate::process::gateway::{TempDirectory, gateway_command};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_change::Change;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use rustix::process::Signal;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

const TAKER: PartitionId = PartitionId(3);
/// A gateway says each second what it can use.
const TRIES: usize = 20;
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
        self.gather(["g1", "g2"].map(|id| {
            let mut node = Node::start_with(flags(id, sessions, &self.addresses()));
            node.wait_until_live(4);
            node
        }))
    }

    fn gather(&self, nodes: [Node; 2]) -> Party {
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

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = gateway_command();
        command.args(arguments);
        for (name, address) in NAMES.iter().chain(&["d"]).zip(self.addresses()) {
            command.args(["--nats".to_owned(), format!("{name}=nats://{address}")]);
        }
        Command::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn add(&self) -> Command {
        self.command(&["ring", "add", "d"])
    }

    fn remove(&self) -> Command {
        self.command(&["ring", "remove", "d"])
    }

    fn shown(&self) -> String {
        self.command(&["ring", "show"]).end().1
    }

    /// The last sequence there.
    fn last_at_taker(&self) -> u64 {
        let info = self.taker.connect().api("$JS.API.STREAM.INFO.MQTT_3", "");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["state"]["last_seq"].as_u64().unwrap()
    }

    /// Changes the ring while clients publish.
    fn change(&self, party: &mut Party, command: &str) -> String {
        let mut changing = self.command(&["ring", command, "d"]);
        party.go_on(command, true, |_| changing.has_ended());
        let (went_well, said) = changing.end();
        assert!(went_well, "{said}");
        said
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

/// `gateway ring ...`, and what it says.
struct Command {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Command {
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

/// Who was away when the share went and when it came back gets all of it, in order; then the fourth is not
/// needed any more.
fn give_back(sessions: &str, times: usize) {
    let site = Addition::start();
    let mut party = site.party(sessions);
    // One subscriber of each gateway is away for one part of it, and one for another.
    let subscribers: Vec<usize> = (0..party.peer_count()).filter(|peer| peer % 4 >= 2).collect();
    for time in 0..times {
        party.publish_until_acknowledged("before", 100);
        let said = site.change(&mut party, "add");
        assert!(
            said.contains("d has its share: 4181 of 16384 slots, 25.5 % of the topics"),
            "{said}"
        );
        let shown = site.shown();
        assert!(shown.contains("3  d  MQTT_3  1  25.5 %"), "{shown}");
        party.send_away(subscribers[time % 2]);
        party.publish_until_acknowledged("there", 200);
        party.send_away(subscribers[2 + time % 2]);
        let said = site.change(&mut party, "remove");
        let share =
            "d has given its share to the others: 4181 of 16384 slots, 25.5 % of the topics";
        assert!(said.contains(share), "{said}");
        party.publish_until_acknowledged("back", 200);
        party.call_back();
        party.publish_until_acknowledged("all are there", 100);
    }
    party.all_arrived();
    let shown = site.shown();
    assert!(shown.contains("3  d  MQTT_3  0  0.0 %"), "{shown}");
    assert!(shown.contains("MQTT_3 gave what it had before "), "{shown}");
    let again = site.remove().end();
    assert!(!again.0 && again.1.contains("d has no share of the topics"), "{}", again.1);
    let last = site.last_at_taker();
    assert!(last > 0);
    party.publish_until_acknowledged("back for good", 100);
    party.all_arrived();
    assert_eq!(site.last_at_taker(), last, "nothing of it is stored there any more");

    // Gateways go on without it, one after the other, and it is switched off.
    let Addition { site: Site { servers }, taker } = site;
    let [a, b, c] = [0, 1, 2].map(|place| servers[place].address());
    for (node, id) in ["g1", "g2"].into_iter().enumerate() {
        party.nodes[node].stop();
        party.nodes[node].start_again_with(flags(id, sessions, &[a, b, c]));
        party.publish_until_acknowledged("without it", 50);
    }
    drop(taker);
    party.publish_until_acknowledged("it is gone", 100);
    party.all_arrived();
}

#[test]
fn a_share_goes_back_under_load() {
    give_back("local", 2);
}

#[test]
fn a_share_goes_back_under_load_with_shared_sessions() {
    give_back("shared", 1);
}

/// A sub-cluster comes to the configuration while gateways run and clients stay connected.
#[test]
fn a_sub_cluster_comes_by_a_reload_and_has_its_share() {
    let site = Addition::start();
    let all = site.addresses();
    let files = TempDirectory::new();
    let configured = |id: &str, count: usize| {
        let file = files.path().join(format!("{id}.toml"));
        let mut text = String::new();
        for (name, address) in NAMES.iter().chain(&["d"]).zip(&all).take(count) {
            writeln!(text, "[[nats]]\nname = \"{name}\"\nservers = [\"nats://{address}\"]")
                .unwrap();
        }
        std::fs::write(&file, text).unwrap();
        file
    };
    let nodes = ["g1", "g2"].map(|id| {
        let mut flags = flags(id, "local", &[]);
        flags.extend(["--config".to_owned(), configured(id, 3).display().to_string()]);
        let mut node = Node::start_with(flags);
        node.wait_until_live(3);
        node
    });
    let mut device = Device::brief(nodes[0].address().unwrap(), "stays");
    let mut party = site.gather(nodes);
    party.publish_until_acknowledged("before", 200);
    // What needs a restart changes nothing, and is said.
    configured("g1", 2);
    party.nodes[0].signal(Signal::HUP);
    party.nodes[0].wait_for_line("sub-cluster c: to leave it out needs a restart");
    // One that has not heard of it keeps it from having a share.
    for (node, id) in ["g1", "g2"].into_iter().enumerate() {
        let refused = site.add().end();
        assert!(!refused.0, "{}", refused.1);
        configured(id, 4);
        party.nodes[node].signal(Signal::HUP);
        party.nodes[node].wait_until_live(4);
    }
    let mut said = String::new();
    let is_added = (0..TRIES).any(|_| {
        let mut adding = site.add();
        party.go_on("add", true, |_| adding.has_ended());
        let (went_well, text) = adding.end();
        // The second may not have said yet that it has it.
        assert!(went_well || text.contains("these gateways cannot use d: g2"), "{text}");
        said = text;
        went_well
    });
    assert!(is_added && said.contains("25.5 % of the topics"), "{said}");
    party.publish_until_acknowledged("after", 300);
    party.all_arrived();
    assert!(!site.stored_at_taker().is_empty(), "what moved is published there");
    assert_eq!(party.disconnected, []);
    device.ping();
}

/// What is retained where a topic comes back to is of before it left.
#[test]
fn what_was_cleared_where_a_topic_was_meanwhile_stays_cleared() {
    let site = Addition::start();
    let mut node = Node::start_with(flags("g1", "local", &site.addresses()));
    node.wait_until_live(4);
    let address = node.address().unwrap();
    let (moves, _) = topics();
    let [cleared, kept, new] = [moves[0], moves[1], moves[2]];
    let mut device = Device::brief(address, "device");
    for topic in [cleared, kept] {
        device.retain(topic, QoS::AtLeastOnce, "first");
    }
    let added = site.add().end();
    assert!(added.0, "{}", added.1);
    device.retain(cleared, QoS::AtLeastOnce, "");
    device.retain(kept, QoS::AtLeastOnce, "second");
    device.retain(new, QoS::AtLeastOnce, "third");
    let removed = site.remove().end();
    assert!(removed.0, "{}", removed.1);
    // This one is asked for behind all others.
    device.retain("$last", QoS::AtLeastOnce, "last");
    let mut subscriber = Device::brief(address, "newcomer");
    subscriber.listen(&["t/#"], QoS::AtLeastOnce);
    subscriber.listen(&["$last"], QoS::AtLeastOnce);
    let found = subscriber.messages_before("last");
    let found: Vec<_> = found.iter().map(|one| (one.topic.as_str(), one.text())).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&(kept, "second")) && found.contains(&(new, "third")), "{found:?}");
}

/// Who changes the ring, and a gateway, are killed at each step: nothing is changed by that, and the next
/// attempt does it.
fn kill_at_each_step(sessions: &str, commands: &[&str]) {
    let site = Addition::start();
    let mut party = site.party(sessions);
    for command in commands {
        for lines in 0..=3 {
            party.publish_until_acknowledged("before", 50);
            let mut changing = site.command(&["ring", command, "d", "--hold-max-s", "5"]);
            party.go_on(command, true, |_| changing.line_count() >= lines || changing.has_ended());
            changing.kill();
            let node = lines % 2;
            party.nodes[node].kill();
            party.nodes[node].start_again();
            party.publish_until_acknowledged("after a kill", 50);
        }
        for attempt in 0.. {
            let mut changing = site.command(&["ring", command, "d"]);
            party.go_on(command, true, |_| changing.has_ended());
            let (went_well, said) = changing.end();
            let is_done = ["has its share already", "has no share of the topics"];
            if went_well || is_done.iter().any(|done| said.contains(done)) {
                break;
            }
            assert!(attempt < 5, "{said}");
        }
        party.publish_until_acknowledged("changed", 100);
        party.nodes[0].kill();
        party.nodes[0].start_again();
        party.publish_until_acknowledged("after the last kill", 100);
        party.all_arrived();
        assert!(!site.stored_at_taker().is_empty());
    }
}

#[test]
fn killed_at_each_step_a_change_is_called_off_and_can_be_made_again() {
    kill_at_each_step("local", &["add"]);
}

#[test]
fn killed_at_each_step_a_share_goes_back_all_the_same() {
    kill_at_each_step("local", &["add", "remove"]);
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
    let name = site.command(&["ring", "add", "d=nats://127.0.0.1:1"]).end();
    assert!(!name.0 && name.1.contains("only the name"), "{}", name.1);
}

#[test]
fn what_cannot_be_removed_is_said() {
    let site = Addition::start();
    let mut node = Node::start_with(flags("g1", "shared", &site.addresses()));
    node.wait_until_live(4);
    let refused = |arguments: &[&str], why: &str| {
        let said = site.command(arguments).end();
        assert!(!said.0 && said.1.contains(why), "{arguments:?}: {}", said.1);
    };
    refused(&["ring", "remove", "e"], "e is no member of the ring");
    refused(&["ring", "remove", "d"], "d has no share of the topics");
    refused(&["ring", "remove", "a"], "a has the ring itself");
    refused(&["ring", "remove", "b"], "b has sessions of clients, in the stream MQTT_SESSIONS_1");
    refused(&["ring", "remove", "b=nats://127.0.0.1:1"], "only the name");
    node.stop();
    for server in [1, 2] {
        let stream = format!("$JS.API.STREAM.DELETE.MQTT_SESSIONS_{server}");
        site.site.servers[server].connect().api(&stream, "");
    }
    let removed = site.command(&["ring", "remove", "b"]).end();
    assert!(removed.0, "{}", removed.1);
    let removed = site.command(&["ring", "remove", "c"]).end();
    assert!(removed.0, "{}", removed.1);
    let shown = site.shown();
    assert!(shown.contains("0  a  MQTT_0  1  100.0 %"), "{shown}");
}
