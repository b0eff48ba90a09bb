//! What a gateway's user may do at a server, as `tuning/nats-server.conf` has it: enough, and no more.

use super::device::{Device, Hello};
use super::site::{Node, flags};
use crate::nats::server::NatsServer;
use crate::process::gateway::{TempDirectory, gateway_command};
use gateway::proto::mqtt::{Properties, QoS, Will};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

fn example() -> PathBuf {
    example_named("nats-server.conf")
}

fn example_named(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tuning").join(name)
}

/// What the example permits the gateway: `publish` or `subscribe`, and the subject.
fn permissions() -> Vec<(&'static str, String)> {
    let text = std::fs::read_to_string(example()).unwrap();
    let (_, rest) = text.split_once("gateway_may: {").unwrap();
    let (block, _) = rest.split_once("authorization {").unwrap();
    let (publish, subscribe) = block.split_once("subscribe:").unwrap();
    let (_, publish) = publish.split_once("publish:").unwrap();
    let quoted = |kind, block: &'static str| {
        let lines = block.lines().map(|line| line.split('#').next().unwrap());
        let texts = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        texts.map(move |subject| (kind, subject.to_owned())).collect::<Vec<_>>()
    };
    [quoted("publish", publish.to_owned().leak()), quoted("subscribe", subscribe.to_owned().leak())]
        .concat()
}

/// A server with an example as it is, but for where it listens and stores.
pub(super) fn server_as_in(directory: &TempDirectory, name: &str) -> NatsServer {
    for example in [name, "nats-server.conf"] {
        let text = std::fs::read_to_string(example_named(example)).unwrap();
        let is_kept = |line: &&str| !line.contains("store_dir") && !line.starts_with("listen");
        let kept: Vec<_> = text.lines().filter(is_kept).collect();
        std::fs::write(directory.path().join(example), kept.join("\n")).unwrap();
    }
    let file = directory.path().join(name);
    NatsServer::start_with(&["--config", file.to_str().unwrap(), "--port", "-1"])
}

fn start(id: &str, sessions: &str, address: SocketAddr) -> Node {
    let mut flags = flags(id, sessions, &[address]);
    let url = flags.last_mut().unwrap();
    *url = url.replace("nats://", "nats://gateway:change-me@");
    flags.extend(EXTRAS.map(str::to_owned));
    let mut node = Node::start_with(flags);
    node.wait_until_live(1);
    node
}

/// What is off unless it is asked for.
pub(super) const EXTRAS: [&str; 4] = ["--uplink", "up/#", "--events", "connect"];

/// Something of everything, from one gateway to another.
pub(super) fn do_everything(here: SocketAddr, there: SocketAddr, is_shared: bool) {
    let mut publisher = Device::brief(here, "publisher");
    let mut live = Device::brief(there, "live");
    live.listen(&["#"], QoS::ExactlyOnce);
    for (qos, text) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        publisher.publish("a/b", qos, text);
        assert_eq!((live.message().text(), live.take().len()), (text, 0));
    }
    publisher.publish("up/1", QoS::ExactlyOnce, "2");
    publisher.publish("up/1", QoS::AtMostOnce, "0");
    publisher.retain("kept", QoS::AtLeastOnce, "kept");
    assert_eq!(live.message().text(), "kept");
    let mut late = Device::brief(there, "late");
    late.listen(&["kept"], QoS::AtLeastOnce);
    assert!(late.message().retain);
    publisher.retain("kept", QoS::AtLeastOnce, "");
    assert_eq!((live.message().text(), late.message().text()), ("", ""));

    let properties = Properties::NONE;
    let will =
        Will { qos: QoS::AtLeastOnce, retain: false, properties, topic: "will", payload: b"w" };
    drop(Device::connect(here, "mortal", Hello { will: Some(will), ..Hello::BRIEF }));
    assert_eq!(live.message().text(), "w");

    let mut members = [here, there].map(|address| Device::brief(address, &format!("m{address}")));
    members.iter_mut().for_each(|member| member.listen(&["$share/g/s"], QoS::AtLeastOnce));
    let [first, second] = &mut members;
    for round in 0..8 {
        publisher.publish("s", QoS::AtLeastOnce, round.to_string());
        publisher.publish("s", QoS::AtMostOnce, round.to_string());
    }
    let mut shared = 0;
    while shared < 16 {
        first.ping();
        second.ping();
        shared += first.take().len() + second.take().len();
    }
    assert_eq!(shared, 16);
    live.messages(16);

    // A session that is away, and comes back: elsewhere if it can.
    let home = if is_shared { there } else { here };
    let (mut sleeper, _) = Device::connect(here, "sleeper", Hello::LASTING);
    sleeper.listen(&["night"], QoS::AtLeastOnce);
    drop(sleeper);
    publisher.publish("night", QoS::AtLeastOnce, "n");
    let (mut sleeper, welcome) = Device::connect(home, "sleeper", Hello::LASTING);
    assert!(welcome.session_present);
    assert_eq!(sleeper.message().text(), "n");
    // And one that is not away.
    let (_successor, welcome) = Device::connect(here, "sleeper", Hello::LASTING);
    assert!(welcome.session_present);
}

#[test]
fn a_gateway_with_the_permissions_of_the_example_does_everything() {
    let directory = TempDirectory::new();
    let server = server_as_in(&directory, "nats-server.conf");
    for sessions in ["shared", "local"] {
        let mut nodes = ["g1", "g2"].map(|id| start(id, sessions, server.address()));
        let [here, there] = nodes.each_ref().map(|node| node.address().unwrap());
        do_everything(here, there, sessions == "shared");
        let url = format!("a=nats://gateway:change-me@{}", server.address());
        let shown = gateway_command().args(["ring", "show", "--nats", &url]).output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        for node in &mut nodes {
            let log = node.log();
            assert!(!log.contains("Permissions Violation") && !log.contains("lacks"), "{log}");
            node.stop();
        }
    }
}

/// Who changes the ring does with them, too.
#[test]
fn the_ring_is_changed_with_the_permissions_of_the_example() {
    let directories = [(); 2].map(|()| TempDirectory::new());
    let servers = directories.each_ref().map(|one| server_as_in(one, "nats-server.conf"));
    start("g1", "local", servers[0].address()).stop();
    let urls = [("a", &servers[0]), ("b", &servers[1])];
    let urls = urls.map(|(name, one)| format!("{name}=nats://gateway:change-me@{}", one.address()));
    let nats = ["--nats", &urls[0], "--nats", &urls[1]];
    let mut flags = vec!["--shards", "2", "--gateway-id", "g1"];
    flags.extend(nats);
    let mut node = Node::start_with(flags.into_iter().map(str::to_owned).collect());
    node.wait_until_live(2);
    let address = node.address().unwrap();
    let mut member = Device::brief(address, "member");
    member.listen(&["$share/g/#", "$share/g/a"], QoS::AtLeastOnce);
    Device::brief(address, "publisher").retain("kept", QoS::AtLeastOnce, "kept");
    for command in ["add", "remove"] {
        let said = gateway_command().args(["ring", command, "b"]).args(nats).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
}

/// The gateway's user of the example as often as it has permissions, each without one of them.
fn users_without_one(permissions: &[(&str, String)]) -> String {
    let mut text = "authorization { users: [\n".to_owned();
    for missing in 0..permissions.len() {
        let list = |kind: &str| {
            let its = permissions.iter().enumerate();
            let its = its.filter(|(place, (its, _))| *place != missing && *its == kind);
            its.map(|(_, (_, subject))| format!("{subject:?}")).collect::<Vec<_>>().join(", ")
        };
        let (publish, subscribe) = (list("publish"), list("subscribe"));
        writeln!(
            text,
            "{{ user: u{missing}, password: p, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}"
        )
        .unwrap();
    }
    text + "] }\n"
}

fn doctor(url: &str) -> Value {
    let data = TempDirectory::new();
    let mut command = gateway_command();
    command.args(["doctor", "--json", "--sessions", "shared", "--nats", url]).args(EXTRAS);
    command.arg("--data");
    let said = command.arg(data.path()).output().unwrap();
    serde_json::from_slice(&said.stdout).unwrap()
}

/// No permission of the example is more than a gateway needs, and the one that is missing is named: by
/// `gateway doctor`, and in the log of a gateway that starts.
#[test]
fn a_permission_that_is_missing_is_named() {
    let permissions = permissions();
    assert!(permissions.len() > 15, "{permissions:?}");
    let directory = TempDirectory::new();
    let file = directory.path().join("nats.conf");
    std::fs::write(&file, users_without_one(&permissions)).unwrap();
    let server = NatsServer::start_with(&["--config", file.to_str().unwrap(), "--port", "-1"]);
    for (place, (kind, subject)) in permissions.iter().enumerate() {
        let said = doctor(&format!("a=nats://u{place}:p@{}", server.address())).to_string();
        // What a gateway needs of it may be narrower.
        let start = subject.trim_end_matches(['>', '*']);
        match subject.as_str() {
            // Nobody tells that it cannot be asked; and nothing is answered without an inbox.
            "$SYS.REQ.USER.INFO" => assert!(!said.contains("nats_permissions"), "{said}"),
            "_INBOX.>" => assert!(said.contains("nats_answer"), "{said}"),
            _ => assert!(said.contains(&format!("{kind} {start}")), "{kind} {subject}: {said}"),
        }
    }
    let place = permissions.iter().position(|(_, subject)| subject.contains("CONSUMER.CREATE"));
    let flags = flags("g1", "local", &[server.address()]);
    let credentials = format!("nats://u{}:p@", place.unwrap());
    let flags = flags.into_iter().map(|flag| flag.replace("nats://", &credentials)).collect();
    let mut node = Node::start_with(flags);
    node.wait_for_line("missing=\"publish $JS.API.CONSUMER.CREATE.MQTT_0.>\"");
}
