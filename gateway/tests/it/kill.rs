//! The real binary on real sockets, killed and stopped while clients rely on it.

use crate::simulation::client::{Client, Event, Profile};
use crate::simulation::ledger::Ledger;
use crate::simulation::random::Random;
use gateway::proto::mqtt::{ProtocolVersion, QoS, ReasonCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look at the sockets waits for something to happen.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Bytes read in one go.
const READ_BYTES: usize = 16 * 1024;
/// Kills of a run that nobody asked to be longer.
const KILLS_DEFAULT: u64 = 12;
/// Messages acknowledged between two kills, at most.
const MESSAGES_PER_KILL: u64 = 150;

/// A gateway process and its data directory, which outlives it.
struct Process {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

/// A client with its socket.
struct Peer {
    client: Client,
    stream: Option<TcpStream>,
}

/// The clients of a process, and what it promised them.
struct Party {
    process: Process,
    peers: Vec<Peer>,
    publishers: Vec<usize>,
    ledger: Ledger,
    random: Random,
    disconnected: Vec<ReasonCode>,
}

#[expect(clippy::disallowed_methods, reason = "a test of a real process has a real deadline")]
fn now() -> Instant {
    Instant::now()
}

impl Process {
    /// A process on a free port with an empty data directory.
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("gateway-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { child: Self::spawn(address, &directory), address, directory }
    }

    fn spawn(address: SocketAddr, directory: &std::path::Path) -> Child {
        let log = File::options().create(true).append(true).open(directory.join("stderr")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["--listen", &format!("mqtt://{address}"), "--shards", "2", "--data"])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// SIGKILL, and a new process on the same directory at once.
    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.address, &self.directory);
    }

    fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

impl Party {
    /// Two publishers and three subscribers, all with persistent sessions.
    fn gather(process: Process, seed: u64) -> Self {
        let profile = |name: &str, subscriptions: Vec<(&'static str, QoS)>| Profile {
            name: name.to_owned(),
            tenant: "",
            version: ProtocolVersion::V5,
            persistent: true,
            receive_maximum: 20,
            window: 20,
            subscriptions,
            wants_retained: false,
            may_be_refused: false,
        };
        let profiles = [
            profile("pub-0", Vec::new()),
            profile("pub-1", Vec::new()),
            profile("sub-0", vec![("#", QoS::ExactlyOnce)]),
            profile("sub-1", vec![("a/+", QoS::ExactlyOnce)]),
            profile("sub-2", vec![("b/#", QoS::AtLeastOnce)]),
        ];
        let peers = profiles.map(|profile| Peer { client: Client::new(profile), stream: None });
        Self {
            process,
            peers: peers.into(),
            publishers: vec![0, 1],
            ledger: Ledger::default(),
            random: Random::new(seed),
            disconnected: Vec::new(),
        }
    }

    /// One look at every socket.
    fn look(&mut self) {
        for index in 0..self.peers.len() {
            if self.peers[index].stream.is_none() {
                self.connect(index);
            }
            self.write(index);
        }
        let streams = self.peers.iter().filter_map(|peer| peer.stream.as_ref());
        let mut polled: Vec<_> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        let _ = poll(&mut polled, Some(&LOOK));
        drop(polled);
        for index in 0..self.peers.len() {
            self.read(index);
            while self.peers[index].client.has_answers() {
                self.peers[index].client.answer_one();
            }
            self.write(index);
        }
    }

    fn connect(&mut self, index: usize) {
        let Ok(stream) = TcpStream::connect_timeout(&self.process.address, PATIENCE) else {
            return;
        };
        stream.set_nonblocking(true).unwrap();
        self.peers[index].stream = Some(stream);
        self.peers[index].client.connect();
    }

    fn write(&mut self, index: usize) {
        let Peer { client, stream: Some(stream) } = &mut self.peers[index] else { return };
        if client.outbox.is_empty() {
            return;
        }
        match stream.write(&client.outbox) {
            Ok(count) => drop(client.outbox.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.lose(index),
        }
    }

    fn read(&mut self, index: usize) {
        let mut bytes = [0; READ_BYTES];
        let Peer { client, stream: Some(stream) } = &mut self.peers[index] else { return };
        match stream.read(&mut bytes) {
            Ok(0) => self.lose(index),
            Ok(count) => client.receive(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.lose(index),
        }
        self.hear(index);
    }

    fn lose(&mut self, index: usize) {
        self.hear(index);
        self.peers[index].stream = None;
        self.peers[index].client.disconnected();
    }

    fn hear(&mut self, index: usize) {
        let client = &mut self.peers[index].client;
        for event in client.take_events() {
            if let Event::Disconnected(reason) = event {
                self.disconnected.push(reason);
            }
            if let Some(what) = self.ledger.hear(index, &client.profile, event) {
                panic!("{}: {what}", client.profile.name);
            }
        }
    }

    fn publish(&mut self) {
        for &index in &self.publishers {
            if self.peers[index].client.may_publish() {
                let topic = *self.random.pick(&["a/1", "a/2", "b/1"]);
                let qos = *self.random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
                let message = self.ledger.published(index, topic, qos);
                let padding = usize::try_from(self.random.below(300)).unwrap();
                self.peers[index].client.publish(message, topic, qos, padding);
            }
        }
    }

    /// Looks, and publishes if `publishing`, until `is_done`.
    fn go_on(&mut self, what: &str, publishing: bool, mut is_done: impl FnMut(&mut Self) -> bool) {
        let started = now();
        while !is_done(self) {
            if publishing {
                self.publish();
            }
            self.look();
            assert!(
                started.elapsed() < PATIENCE,
                "{what}: nothing for {PATIENCE:?}, process {}, data in {}\n{:?}\n{}",
                self.process.child.id(),
                self.process.directory.display(),
                self.ledger.missing(),
                self.process.log(),
            );
        }
    }

    fn all_subscribed(&mut self) {
        self.go_on("subscribing", false, |party| {
            party.peers.iter().all(|peer| peer.client.is_ready())
        });
    }

    fn all_arrived(&mut self) {
        self.go_on("waiting for what was acknowledged", false, |party| {
            let idle = |peer: &Peer| peer.client.is_online() && peer.client.is_idle();
            party.peers.iter().all(idle) && party.ledger.missing().is_empty()
        });
    }
}

/// `SEED` chooses the moments, `KILLS` how many.
#[test]
fn killed_at_any_moment_it_keeps_its_promises() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("SEED={seed}");
    let mut party = Party::gather(Process::start("kill"), seed);
    party.all_subscribed();
    for kill in 0..number("KILLS").unwrap_or(KILLS_DEFAULT) {
        let wanted = party.ledger.acknowledged_count()
            + usize::try_from(1 + party.random.below(MESSAGES_PER_KILL)).unwrap();
        party.go_on(&format!("SEED={seed}, kill {kill}"), true, |party| {
            party.ledger.acknowledged_count() >= wanted
        });
        party.process.kill_and_restart();
    }
    party.all_arrived();
}

/// A stop writes everything down, says goodbye, and is over soon.
#[test]
fn terminated_while_busy_it_says_goodbye_and_keeps_its_promises() {
    let mut party = Party::gather(Process::start("stop"), 1);
    party.all_subscribed();
    party.go_on("publishing", true, |party| party.ledger.acknowledged_count() > 200);
    party.process.terminate();
    let mut ended = None;
    party.go_on("stopping", true, |party| {
        ended = party.process.has_ended();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", party.process.log());
    let goodbyes = party.disconnected.iter();
    let goodbyes = goodbyes.filter(|reason| **reason == ReasonCode::ServerShuttingDown).count();
    assert_eq!(goodbyes, party.peers.len(), "every client hears why");
    party.process.child = Process::spawn(party.process.address, &party.process.directory);
    party.all_arrived();
}
