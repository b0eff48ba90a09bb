//! Three sub-clusters with a ring, a fourth that gets a share of it and gives it back, and who changes that.

use super::device::Device;
use super::party::{DURABLE, Party, now};
use super::ring_steps::Stepping;
use super::site::{NAMES, Node, Site, flags, lasting_port};
use crate::nats::server::{Connection, NatsServer};
use crate::process::gateway::{PATIENCE, gateway_command};
use crate::simulation::client::MessageId;
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_change::Change;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The fourth.
pub(super) const TAKER: PartitionId = PartitionId(3);
/// What is said when a change is done already.
const IS_DONE: [&str; 2] = ["has its share already", "has no share of the topics"];

pub(super) struct RingSite {
    pub(super) site: Site,
    pub(super) taker: NatsServer,
}

/// What a gateway says of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) gateway: String,
    pub(super) seen: u64,
    pub(super) drained: u64,
}

/// At each gateway publishers of what moves and what stays, and subscribers to all of it and to what moves.
pub(super) fn join_in(party: &mut Party, moves: &[&'static str], stays: &[&'static str]) {
    let all: Vec<_> = moves.iter().chain(stays).copied().collect();
    for node in [0, 1] {
        party.publisher(node, &all, &DURABLE);
        party.publisher(node, moves, &[QoS::ExactlyOnce]);
        party.subscriber(node, &[("#", QoS::ExactlyOnce)]);
        let literal: Vec<_> = moves.iter().map(|topic| (*topic, QoS::ExactlyOnce)).collect();
        party.subscriber(node, &literal);
    }
}

/// A publisher of each topic whose messages are retained.
pub(super) fn retain(party: &mut Party, moves: &[&'static str], stays: &[&'static str]) {
    for (number, topic) in moves.iter().chain(stays).enumerate() {
        party.publisher(number % 2, &[*topic], &[DURABLE[number / 2 % 2]]);
    }
}

impl RingSite {
    /// Three sub-clusters with a ring, and a fourth that is in none.
    pub(super) fn start() -> Self {
        let site = Site::start();
        site.gateway("g1").stop();
        Self { site, taker: NatsServer::start_on(lasting_port()) }
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let [a, b, c] = self.site.addresses();
        vec![a, b, c, self.taker.address()]
    }

    /// Two gateways that know all four: the fourth is a member without topics.
    pub(super) fn nodes(&self, sessions: &str) -> [Node; 2] {
        self.nodes_with(sessions, &[])
    }

    /// The same, and sessions that are shared are soon taken over when one is dead.
    pub(super) fn nodes_with_short_leases(&self, sessions: &str) -> [Node; 2] {
        self.nodes_with(sessions, &["session_lease_renew_s=2", "session_lease_timeout_s=8"])
    }

    fn nodes_with(&self, sessions: &str, limits: &[&str]) -> [Node; 2] {
        ["g1", "g2"].map(|id| {
            let mut flags = flags(id, sessions, &self.addresses());
            let limits = limits.iter().flat_map(|limit| ["--limit", limit].map(str::to_owned));
            flags.extend(limits.filter(|_| sessions == "shared"));
            let mut node = Node::start_with(flags);
            node.wait_until_live(4);
            node
        })
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        command_with(arguments, &self.addresses())
    }

    pub(super) fn add(&self) -> Command {
        self.command(&["ring", "add", "d"])
    }

    pub(super) fn remove(&self) -> Command {
        self.command(&["ring", "remove", "d"])
    }

    /// The same, which stops at each step; `hold_s` as `--hold-max-s`.
    pub(super) fn step_through(&self, command: &str, hold_s: u64) -> Stepping {
        let servers = self.addresses();
        Stepping::start(servers.iter().map(|server| vec![*server]), |proxies| {
            let addresses: Vec<SocketAddr> = proxies.iter().flatten().copied().collect();
            command_with(&["ring", command, "d", "--hold-max-s", &hold_s.to_string()], &addresses)
        })
    }

    pub(super) fn shown(&self) -> String {
        self.command(&["ring", "show"]).end().1
    }

    /// Changes the ring while clients publish.
    pub(super) fn change(&self, party: &mut Party, command: &str) -> String {
        let mut changing = self.command(&["ring", command, "d"]);
        party.go_on(command, true, |_| changing.has_ended());
        let (went_well, said) = changing.end();
        assert!(went_well, "{said}");
        said
    }

    /// The same until it is done, by this or by an earlier attempt.
    pub(super) fn change_at_last(&self, party: &mut Party, command: &str) {
        for attempt in 0.. {
            let mut changing = self.command(&["ring", command, "d"]);
            party.go_on(command, true, |_| changing.has_ended());
            let (went_well, said) = changing.end();
            if went_well || IS_DONE.iter().any(|done| said.contains(done)) {
                return;
            }
            assert!(attempt < 5, "{said}");
        }
    }

    /// The ring as it is stored.
    pub(super) fn ring(&self) -> RingTable {
        RingTable::decode(&value(&mut self.home(), "ring")).unwrap()
    }

    /// What gateways say of it, also those of which nobody knows yet that they are dead.
    pub(super) fn gateways(&self) -> Vec<Said> {
        let mut home = self.home();
        let filter = r#"{"subjects_filter":"$KV.gateway_ring.gateway.>"}"#;
        let info = home.api("$JS.API.STREAM.INFO.KV_gateway_ring", filter);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let keys = subjects.keys().map(|one| one.strip_prefix("$KV.gateway_ring.").unwrap());
        let said = keys.filter_map(|key| {
            let text = value(&mut home, key);
            let mut words = text.split(' ');
            let mut number = |name| words.find(|word| *word == name).and_then(|_| words.next());
            Some(Said {
                gateway: key.split('.').nth(1)?.to_owned(),
                seen: number("seen")?.parse().ok()?,
                drained: number("drained")?.parse().ok()?,
            })
        });
        said.collect()
    }

    /// Whether both gateways go by the ring as it is stored.
    pub(super) fn all_go_by_it(&self) -> bool {
        let (epoch, said) = (self.ring().epoch(), self.gateways());
        ["g1", "g2"].iter().all(|id| said.iter().any(|one| one.gateway == *id && one.seen == epoch))
    }

    /// To the server of a sub-cluster.
    pub(super) fn signal(&self, partition: PartitionId, signal: Signal) {
        let server = self.site.servers.get(usize::from(partition.0));
        server.unwrap_or(&self.taker).signal(signal);
    }

    fn home(&self) -> Connection {
        self.site.servers[0].connect()
    }

    /// The last sequence there.
    pub(super) fn last_at_taker(&self) -> u64 {
        let info = self.taker.connect().api("$JS.API.STREAM.INFO.MQTT_3", "");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["state"]["last_seq"].as_u64().unwrap()
    }

    /// The topics that the fourth sub-cluster has messages of.
    pub(super) fn stored_at_taker(&self) -> Vec<String> {
        let filter = r#"{"subjects_filter":"mqtt.*.>"}"#;
        let info = self.taker.connect().api("$JS.API.STREAM.INFO.MQTT_3", filter);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let topic = |subject: &String| subject.strip_prefix("mqtt.").unwrap().replace('.', "/");
        subjects.keys().map(topic).collect()
    }
}

/// What the ring's bucket has under a key; nothing if it was removed.
fn value(home: &mut Connection, key: &str) -> String {
    let subject = "$JS.API.DIRECT.GET.KV_gateway_ring";
    home.request(subject, &format!(r#"{{"last_by_subj":"$KV.gateway_ring.{key}"}}"#))
}

fn command_with(arguments: &[&str], addresses: &[SocketAddr]) -> Command {
    let names = NAMES.iter().chain(&["d"]).copied();
    command_of(arguments, names.zip(addresses.iter().map(std::slice::from_ref)))
}

/// The same with the servers of each sub-cluster.
pub(super) fn command_of<'a>(
    arguments: &[&str],
    sub_clusters: impl Iterator<Item = (&'a str, &'a [SocketAddr])>,
) -> Command {
    let mut command = gateway_command();
    command.args(arguments);
    for (name, servers) in sub_clusters {
        let urls: Vec<String> = servers.iter().map(|server| format!("nats://{server}")).collect();
        command.args(["--nats".to_owned(), format!("{name}={}", urls.join(","))]);
    }
    Command::start(command)
}

/// `gateway ring ...`, and what it says.
pub(super) struct Command {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Command {
    pub(super) fn start(mut command: std::process::Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it went well, and all it said.
    pub(super) fn end(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter());
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status.success(), self.said.join("\n") + &errors)
    }
}

/// The ring of these sub-clusters while another one takes its share over.
fn adding(names: &[&str]) -> Ring {
    let member = |(partition, name): (u16, &&str)| Member {
        partition: PartitionId(partition),
        weight: 1,
        sub_cluster: (*name).to_owned(),
    };
    let table = RingTable::new(1, (0..).zip(names).map(member).collect()).unwrap();
    let table = table.joined(["d"].into_iter()).unwrap().unwrap();
    let partition = table.members().last().unwrap().partition;
    let change = Change { partition, weight: 1, hold_s: 5 };
    Ring::new(&table.changing(change).unwrap())
}

/// Topics that begin with `prefix` and move to the fourth sub-cluster, some from each of the others, and
/// topics that stay, `count` of each kind, kept for the process.
pub(super) fn topics(prefix: &str, count: usize) -> (Vec<&'static str>, Vec<&'static str>) {
    topics_in(&NAMES, prefix, count)
}

/// The same where these have topics at first.
pub(super) fn topics_in(
    names: &[&str],
    prefix: &str,
    count: usize,
) -> (Vec<&'static str>, Vec<&'static str>) {
    let ring = adding(names);
    let mut kinds = [Vec::new(), Vec::new()];
    for number in 0.. {
        let name = format!("{prefix}{number}");
        let kind = &mut kinds[usize::from(!ring.is_held(&name))];
        let owner = ring.owner(&name).0;
        if kind.len() < count && usize::from(owner) == kind.len() % names.len() {
            kind.push(&*name.leak());
        }
        if kinds.iter().all(|kind| kind.len() == count) {
            break;
        }
    }
    let [moves, stays] = kinds;
    (moves, stays)
}

/// Those that a sub-cluster has while the last one has nothing.
pub(super) fn of_giver_in<'a>(
    names: &[&str],
    topics: &[&'a str],
    giver: PartitionId,
) -> Vec<&'a str> {
    let ring = adding(names);
    topics.iter().copied().filter(|topic| ring.owner(topic) == giver).collect()
}

/// Who subscribes now, at any gateway, gets what was published last to each of the topics that begin with `r/`.
pub(super) fn check_retained(party: &Party, topics: &[&'static str]) {
    let newest = topics.iter().map(|topic| ((*topic).to_owned(), party.ledger.newest_on(topic)));
    let newest: BTreeMap<String, Option<MessageId>> = newest.collect();
    for node in &party.nodes {
        let started = now();
        // What was stored when a gateway died is retained soon after it is back.
        while retained(node) != newest {
            assert!(started.elapsed() < PATIENCE, "{:?} instead of {newest:?}", retained(node));
        }
    }
}

fn retained(node: &Node) -> BTreeMap<String, Option<MessageId>> {
    let mut newcomer = Device::brief(node.address().unwrap(), "newcomer");
    // This one is asked for behind all others.
    newcomer.retain("$last", QoS::AtLeastOnce, "last");
    newcomer.listen(&["r/#"], QoS::AtLeastOnce);
    newcomer.listen(&["$last"], QoS::AtLeastOnce);
    let found = newcomer.messages_before("last");
    let id = |payload: &[u8]| payload.first_chunk().map(|id| MessageId::from_le_bytes(*id));
    found.iter().map(|one| (one.topic.clone(), id(&one.payload))).collect()
}
