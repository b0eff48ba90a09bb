//! A fourth sub-cluster takes its share over while clients rely on the other three, and gives it back.

use super::device::Device;
use super::party::{Party, parameter};
use super::ring_site::{RingSite, join_in, topics};
use super::site::{NAMES, Node, Site, flags};
use crate::process::gateway::TempDirectory;
use gateway::proto::mqtt::QoS;
use rustix::process::Signal;
use std::fmt::Write as _;

/// A gateway says each second what it can use.
const TRIES: usize = 20;
/// Topics of each kind: those that move, and those that stay.
const TOPICS: usize = 4;

fn party(site: &RingSite, sessions: &str) -> Party {
    gather(site.nodes(sessions))
}

fn gather(nodes: [Node; 2]) -> Party {
    let mut party = Party::new(nodes.into());
    let (moves, stays) = topics("t/", TOPICS);
    join_in(&mut party, &moves, &stays);
    party.all_subscribed();
    party
}

/// Who was away when the share went and when it came back gets all of it, in order; then the fourth is not
/// needed any more.
fn give_back(sessions: &str, times: u64) {
    let site = RingSite::start();
    let mut party = party(&site, sessions);
    // One subscriber of each gateway is away for one part of it, and one for another.
    let subscribers: Vec<usize> = (0..party.peer_count()).filter(|peer| peer % 4 >= 2).collect();
    for time in 0..times {
        let turn = usize::try_from(time % 2).unwrap();
        party.publish_until_acknowledged("before", 100);
        assert!(time > 0 || site.stored_at_taker().is_empty(), "it has no topics yet");
        let said = site.change(&mut party, "add");
        assert!(
            said.contains("d has its share: 4181 of 16384 slots, 25.5 % of the topics"),
            "{said}"
        );
        let shown = site.shown();
        assert!(shown.contains("3  d  MQTT_3  1  25.5 %"), "{shown}");
        party.send_away(subscribers[turn]);
        party.publish_until_acknowledged("there", 200);
        let stored = site.stored_at_taker();
        let (moves, _) = topics("t/", TOPICS);
        assert!(!stored.is_empty(), "what moved is published there");
        assert!(stored.iter().all(|topic| moves.contains(&topic.as_str())), "{stored:?}");
        assert!(shown.contains("MQTT_3 took over from MQTT_0 before "), "{shown}");
        let again = site.add().end().1;
        assert!(again.contains("d has its share already"), "{again}");
        party.send_away(subscribers[2 + turn]);
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
    let RingSite { site: Site { servers }, taker } = site;
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
    give_back("local", parameter("CHANGES", 1));
}

#[test]
fn a_share_goes_back_under_load_with_shared_sessions() {
    give_back("shared", 1);
}

/// A sub-cluster comes to the configuration while gateways run and clients stay connected.
#[test]
fn a_sub_cluster_comes_by_a_reload_and_has_its_share() {
    let site = RingSite::start();
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
    let mut party = gather(nodes);
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
    let site = RingSite::start();
    let mut node = Node::start_with(flags("g1", "local", &site.addresses()));
    node.wait_until_live(4);
    let address = node.address().unwrap();
    let (moves, _) = topics("t/", TOPICS);
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

#[test]
fn what_cannot_be_added_is_said() {
    let site = RingSite::start();
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
    let site = RingSite::start();
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
