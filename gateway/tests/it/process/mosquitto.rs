//! `mosquitto_pub` and `mosquitto_sub`, as a stranger's first contact with the gateway.

use super::SHARD_COUNTS;
use super::gateway::{Gateway, TempDirectory};
use super::tools::{finish, patience_s, run, text_of, tool};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The versions both programs are tried with, as `-V` takes them.
const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// What subscribers print of a message.
const FORMAT: &str = "message %q %r %t %p";

/// A subscriber that runs until it has what it waits for.
struct Subscriber {
    process: Child,
    lines: BufReader<ChildStdout>,
    /// What it printed so far: messages of a former session come before SUBACK.
    printed: Vec<String>,
}

impl Subscriber {
    /// Starts one that ends after `count` messages, and waits until its subscription is in place.
    fn start(gateway: &Gateway, version: &str, count: u32, flags: &[&str]) -> Self {
        // A line as soon as it is complete, although nobody watches.
        let mut command = Command::new("stdbuf");
        command.args([
            "--output=L",
            "mosquitto_sub",
            "--port",
            &gateway.port(),
            "-V",
            version,
            "-d",
            "-F",
            FORMAT,
        ]);
        command.args(["-C", &count.to_string(), "-W", &patience_s()]).args(flags);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut subscriber = Self { process, lines, printed: Vec::new() };
        subscriber.read_until(|line| line.starts_with("Subscribed (mid"));
        subscriber
    }

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

/// Publishes one message and waits for its acknowledgement.
fn publish(gateway: &Gateway, version: &str, flags: &[&str]) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["--port", &gateway.port(), "-V", version]).args(flags);
    run(command);
}

/// Runs `scenario` for each version and each number of shards.
fn with_each_version(scenario: impl Fn(&Gateway, &str)) {
    // It has no flag that just ends well: without arguments it explains itself and fails.
    if tool("sh", &["-c", "command -v mosquitto_pub && command -v mosquitto_sub"]).is_none() {
        return;
    }
    for shards in SHARD_COUNTS {
        let gateway = Gateway::start(&["--shards", shards]);
        for version in VERSIONS {
            scenario(&gateway, version);
        }
        gateway.stop();
    }
}

#[test]
fn mosquitto_messages_arrive_at_each_qos() {
    with_each_version(|gateway, version| {
        let subscriber = Subscriber::start(gateway, version, 3, &["-t", "qos/+", "-q", "2"]);
        for qos in ["0", "1", "2"] {
            publish(gateway, version, &["-t", &format!("qos/{qos}"), "-q", qos, "-m", "hello"]);
        }
        let expected = ["0 0 qos/0 hello", "1 0 qos/1 hello", "2 0 qos/2 hello"];
        assert_eq!(subscriber.messages(), expected, "{version}");
    });
}

#[test]
fn mosquitto_gets_the_retained_message_until_it_is_deleted() {
    with_each_version(|gateway, version| {
        let topic = format!("retained/{version}");
        for payload in ["old", "new"] {
            publish(gateway, version, &["-t", &topic, "-q", "1", "-r", "-m", payload]);
        }
        let flags = ["-t", "retained/#", "-q", "1"];
        let messages = Subscriber::start(gateway, version, 1, &flags).messages();
        assert_eq!(messages, [format!("1 1 {topic} new")]);

        publish(gateway, version, &["-t", &topic, "-q", "1", "-r", "-n"]);
        let subscriber = Subscriber::start(gateway, version, 1, &flags);
        publish(gateway, version, &["-t", "retained/live", "-q", "1", "-m", "first"]);
        assert_eq!(subscriber.messages(), ["1 0 retained/live first"]);
    });
}

#[test]
fn mosquitto_that_is_killed_leaves_its_will() {
    with_each_version(|gateway, version| {
        let watcher = Subscriber::start(gateway, version, 1, &["-t", "wills/#", "-q", "2"]);
        let will = ["--will-topic", "wills/one", "--will-payload", "gone", "--will-qos", "2"];
        let flags = [&["-t", "nothing", "-i", "mortal"][..], &will].concat();
        let mut mortal = Subscriber::start(gateway, version, 1, &flags);
        mortal.process.kill().unwrap();
        mortal.process.wait().unwrap();
        assert_eq!(watcher.messages(), ["2 0 wills/one gone"], "{version}");
    });
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

#[test]
fn mosquitto_gets_what_came_while_it_was_away() {
    with_each_version(|gateway, version| {
        let topic = format!("away/{version}");
        let flags = persistent(version, &["-i", "sleeper", "-t", &topic, "-q", "2"]);
        let first = Subscriber::start(gateway, version, 1, &flags);
        publish(gateway, version, &["-t", &topic, "-q", "1", "-m", "awake"]);
        assert_eq!(first.messages(), [format!("1 0 {topic} awake")]);

        for (qos, payload) in [("1", "a"), ("2", "b"), ("1", "c")] {
            publish(gateway, version, &["-t", &topic, "-q", qos, "-m", payload]);
        }
        let messages = Subscriber::start(gateway, version, 3, &flags).messages();
        let expected = [("1", "a"), ("1", "c"), ("2", "b")];
        assert_eq!(messages, expected.map(|(qos, payload)| format!("{qos} 0 {topic} {payload}")));
    });
}

/// Each subscriber ends when it has its half, so both must get one. Members take turns.
#[test]
fn mosquitto_shares_a_subscription() {
    with_each_version(|gateway, version| {
        let topic = format!("jobs/{version}");
        let filter = format!("$share/workers/{topic}");
        let flags = ["-t", filter.as_str(), "-q", "1"];
        let workers = [(); 2].map(|()| Subscriber::start(gateway, version, 3, &flags));
        for payload in ["a", "b", "c", "d", "e", "f"] {
            publish(gateway, version, &["-t", &topic, "-q", "1", "-m", payload]);
        }
        let mut messages: Vec<String> =
            workers.into_iter().flat_map(Subscriber::messages).collect();
        messages.sort();
        let expected = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(messages, expected.map(|payload| format!("1 0 {topic} {payload}")));
    });
}

#[test]
fn mosquitto_gets_what_came_before_the_gateway_was_restarted() {
    if tool("sh", &["-c", "command -v mosquitto_pub && command -v mosquitto_sub"]).is_none() {
        return;
    }
    let data = TempDirectory::new();
    let flags = persistent("mqttv5", &["-i", "sleeper", "-t", "night/#", "-q", "1"]);
    let gateway = Gateway::start_on(data.path(), &["--shards", "2"]);
    let sleeper = Subscriber::start(&gateway, "mqttv5", 1, &flags);
    publish(&gateway, "mqttv5", &["-t", "night/1", "-q", "1", "-m", "before"]);
    sleeper.messages();
    publish(&gateway, "mqttv5", &["-t", "night/2", "-q", "1", "-m", "during"]);
    gateway.stop();

    // With another number of shards: sessions do not care which of them serves them.
    let gateway = Gateway::start_on(data.path(), &["--shards", "1"]);
    let sleeper = Subscriber::start(&gateway, "mqttv5", 1, &flags);
    assert_eq!(sleeper.messages(), ["1 0 night/2 during"]);
    gateway.stop();
}
