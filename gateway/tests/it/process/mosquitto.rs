//! `mosquitto_pub` and `mosquitto_sub`, as a stranger's first contact with the gateway.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, TempDirectory};
use super::tools::{finish, patience_s, run, text_of, tool, tools_folder};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The versions both programs are tried with, as `-V` takes them.
pub(crate) const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// What subscribers print of a message.
const FORMAT: &str = "message %q %r %t %p";

/// Both programs of one installation.
#[derive(Clone)]
pub(crate) struct Programs {
    /// The folder of those that are not the system's.
    folder: Option<PathBuf>,
}

impl Programs {
    /// The system's. The version of Debian 12, 2.0.11, speaks TCP and TLS.
    pub(crate) fn of_the_system() -> Option<Self> {
        // It has no flag that just ends well: without arguments it explains itself and fails.
        tool("sh", &["-c", "command -v mosquitto_pub && command -v mosquitto_sub"])?;
        Some(Self { folder: None })
    }

    /// 2.1 or later, which speak WebSocket, too.
    pub(crate) fn of_2_1() -> Option<Self> {
        let folder = tools_folder().join("mosquitto-2.1");
        tool("test", &["-x", folder.join("bin/mosquitto_sub").to_str().unwrap()])?;
        Some(Self { folder: Some(folder) })
    }

    fn name(&self, program: &str) -> PathBuf {
        let folder = self.folder.as_ref().map(|folder| folder.join("bin"));
        folder.unwrap_or_default().join(program)
    }

    /// The command that starts one of them.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.prepare(Command::new(self.name(program)))
    }

    /// The same, with a line of its output as soon as it is complete, although nobody watches.
    fn command_by_lines(&self, program: &str) -> Command {
        let mut command = Command::new("stdbuf");
        command.arg("--output=L").arg(self.name(program));
        self.prepare(command)
    }

    fn prepare(&self, mut command: Command) -> Command {
        if let Some(folder) = &self.folder {
            command.env("LD_LIBRARY_PATH", folder.join("lib"));
        }
        command
    }
}

/// Clients of one gateway on one way to it, who speak one version.
pub(crate) struct Clients {
    programs: Programs,
    /// The flags that lead to the gateway.
    way: Vec<String>,
    version: &'static str,
    /// Those that need no name of their own make one, which is not always that of the shard they met.
    /// Otherwise the gateway names them, and they stay where they are.
    named: bool,
}

impl Clients {
    pub(crate) fn new(programs: &Programs, way: &[&str], version: &'static str) -> Self {
        let way = way.iter().map(|flag| (*flag).to_owned()).collect();
        Self { programs: programs.clone(), way, version, named: true }
    }

    /// Those of the system, over TCP.
    fn over_tcp(programs: &Programs, gateway: &Gateway, version: &'static str) -> Self {
        let way = ["--port", &gateway.port()];
        Self { named: false, ..Self::new(programs, &way, version) }
    }

    /// Publishes one message and waits for its acknowledgement.
    #[track_caller]
    fn publish(&self, flags: &[&str]) {
        let mut command = self.programs.command("mosquitto_pub");
        command.args(&self.way).args(["-V", self.version]).args(self.name(flags)).args(flags);
        run(command);
    }

    fn name(&self, flags: &[&str]) -> &'static [&'static str] {
        // With the process id behind it.
        if self.named && !flags.contains(&"-i") { &["-I", "client-"] } else { &[] }
    }

    /// Starts one that ends after `count` messages, and waits until its subscription is in place.
    #[track_caller]
    fn subscriber(&self, count: u32, flags: &[&str]) -> Subscriber {
        let mut command = self.programs.command_by_lines("mosquitto_sub");
        command.args(&self.way).args(["-V", self.version, "-d", "-F", FORMAT]);
        command.args(["-C", &count.to_string(), "-W", &patience_s()]);
        command.args(self.name(flags)).args(flags);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut subscriber = Subscriber { process, lines, printed: Vec::new() };
        subscriber.read_until(|line| line.starts_with("Subscribed (mid"));
        subscriber
    }
}

/// A subscriber that runs until it has what it waits for.
struct Subscriber {
    process: Child,
    lines: BufReader<ChildStdout>,
    /// What it printed so far: messages of a former session come before SUBACK.
    printed: Vec<String>,
}

impl Subscriber {
    /// Reads up to a line that is `wanted`, or to the end of the program.
    fn read_until(&mut self, wanted: impl Fn(&str) -> bool) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            self.printed.push(line.trim_end().to_owned());
            if wanted(&line) {
                return;
            }
            line.clear();
        }
    }

    /// Waits for its end; the messages it printed, sorted.
    #[track_caller]
    fn messages(mut self) -> Vec<String> {
        self.read_until(|_| false);
        text_of(&format!("mosquitto_sub, {:#?}", self.printed), &finish(self.process));
        let messages = self.printed.iter().filter_map(|line| line.strip_prefix("message "));
        let mut messages: Vec<String> = messages.map(str::to_owned).collect();
        messages.sort();
        messages
    }
}

/// What is tried with both programs on each way to a gateway.
pub(crate) const SCENARIOS: [fn(&Clients); 4] = [
    messages_arrive_at_each_qos,
    the_retained_message_comes_until_it_is_deleted,
    who_is_killed_leaves_a_will,
    a_subscription_is_shared,
];

fn messages_arrive_at_each_qos(clients: &Clients) {
    let subscriber = clients.subscriber(3, &["-t", "qos/+", "-q", "2"]);
    for qos in ["0", "1", "2"] {
        clients.publish(&["-t", &format!("qos/{qos}"), "-q", qos, "-m", "hello"]);
    }
    let expected = ["0 0 qos/0 hello", "1 0 qos/1 hello", "2 0 qos/2 hello"];
    assert_eq!(subscriber.messages(), expected);
}

fn the_retained_message_comes_until_it_is_deleted(clients: &Clients) {
    let topic = format!("retained/{}", clients.version);
    for payload in ["old", "new"] {
        clients.publish(&["-t", &topic, "-q", "1", "-r", "-m", payload]);
    }
    let flags = ["-t", "retained/#", "-q", "1"];
    let messages = clients.subscriber(1, &flags).messages();
    assert_eq!(messages, [format!("1 1 {topic} new")]);

    clients.publish(&["-t", &topic, "-q", "1", "-r", "-n"]);
    let subscriber = clients.subscriber(1, &flags);
    clients.publish(&["-t", "retained/live", "-q", "1", "-m", "first"]);
    assert_eq!(subscriber.messages(), ["1 0 retained/live first"]);
}

fn who_is_killed_leaves_a_will(clients: &Clients) {
    let watcher = clients.subscriber(1, &["-t", "wills/#", "-q", "2"]);
    let will = ["--will-topic", "wills/one", "--will-payload", "gone", "--will-qos", "2"];
    let flags = [&["-t", "nothing", "-i", "mortal"][..], &will].concat();
    let mut mortal = clients.subscriber(1, &flags);
    mortal.process.kill().unwrap();
    mortal.process.wait().unwrap();
    assert_eq!(watcher.messages(), ["2 0 wills/one gone"]);
}

/// The flags of a session that outlives its connection.
fn persistent<'a>(version: &str, flags: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["-c"];
    if version == "mqttv5" {
        all.extend(["-x", "3600"]);
    }
    all.extend(flags);
    all
}

/// Needs a client that asks for the session to be kept: see `transports/mosquitto.rs`.
pub(crate) fn what_came_while_it_was_away_comes(clients: &Clients) {
    let topic = format!("away/{}", clients.version);
    let flags = persistent(clients.version, &["-i", "sleeper", "-t", &topic, "-q", "2"]);
    let first = clients.subscriber(1, &flags);
    clients.publish(&["-t", &topic, "-q", "1", "-m", "awake"]);
    assert_eq!(first.messages(), [format!("1 0 {topic} awake")]);

    for (qos, payload) in [("1", "a"), ("2", "b"), ("1", "c")] {
        clients.publish(&["-t", &topic, "-q", qos, "-m", payload]);
    }
    let messages = clients.subscriber(3, &flags).messages();
    let expected = [("1", "a"), ("1", "c"), ("2", "b")];
    assert_eq!(messages, expected.map(|(qos, payload)| format!("{qos} 0 {topic} {payload}")));
}

/// Each subscriber ends when it has its half, so both must get one. Members take turns.
fn a_subscription_is_shared(clients: &Clients) {
    let topic = format!("jobs/{}", clients.version);
    let filter = format!("$share/workers/{topic}");
    let flags = ["-t", filter.as_str(), "-q", "1"];
    let workers = [(); 2].map(|()| clients.subscriber(3, &flags));
    for payload in ["a", "b", "c", "d", "e", "f"] {
        clients.publish(&["-t", &topic, "-q", "1", "-m", payload]);
    }
    let mut messages: Vec<String> = workers.into_iter().flat_map(Subscriber::messages).collect();
    messages.sort();
    let expected = ["a", "b", "c", "d", "e", "f"];
    assert_eq!(messages, expected.map(|payload| format!("1 0 {topic} {payload}")));
}

/// Runs `scenario` over TCP for each version and each number of shards.
fn over_tcp(scenario: fn(&Clients)) {
    let Some(programs) = Programs::of_the_system() else { return };
    for shards in SHARD_COUNTS {
        let gateway = Gateway::start(&["--shards", shards]);
        for version in VERSIONS {
            scenario(&Clients::over_tcp(&programs, &gateway, version));
        }
        gateway.stop();
    }
}

#[test]
fn mosquitto_messages_arrive_at_each_qos() {
    over_tcp(messages_arrive_at_each_qos);
}

#[test]
fn mosquitto_gets_the_retained_message_until_it_is_deleted() {
    over_tcp(the_retained_message_comes_until_it_is_deleted);
}

#[test]
fn mosquitto_that_is_killed_leaves_its_will() {
    over_tcp(who_is_killed_leaves_a_will);
}

#[test]
fn mosquitto_gets_what_came_while_it_was_away() {
    over_tcp(what_came_while_it_was_away_comes);
}

#[test]
fn mosquitto_shares_a_subscription() {
    over_tcp(a_subscription_is_shared);
}

#[test]
fn mosquitto_gets_what_came_before_the_gateway_was_restarted() {
    let Some(programs) = Programs::of_the_system() else { return };
    let data = TempDirectory::new();
    let flags = persistent("mqttv5", &["-i", "sleeper", "-t", "night/#", "-q", "1"]);
    let gateway = Gateway::start_on(data.path(), &["--shards", "2"]);
    let clients = Clients::over_tcp(&programs, &gateway, "mqttv5");
    let sleeper = clients.subscriber(1, &flags);
    clients.publish(&["-t", "night/1", "-q", "1", "-m", "before"]);
    sleeper.messages();
    clients.publish(&["-t", "night/2", "-q", "1", "-m", "during"]);
    gateway.stop();

    // With another number of shards: sessions do not care which of them serves them.
    let gateway = Gateway::start_on(data.path(), &["--shards", "1"]);
    let clients = Clients::over_tcp(&programs, &gateway, "mqttv5");
    assert_eq!(clients.subscriber(1, &flags).messages(), ["1 0 night/2 during"]);
    gateway.stop();
}
