//! Clients of several gateways that keep a ledger: who was promised what, and what came of it.

use super::site::Node;
use crate::process::gateway::PATIENCE;
use crate::simulation::client::{Client, Event, Profile};
use crate::simulation::ledger::Ledger;
use crate::simulation::random::Random;
use gateway::proto::mqtt::{ProtocolVersion, QoS, ReasonCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long one look at the sockets waits for something to happen.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Bytes read in one go.
const READ_BYTES: usize = 16 * 1024;
/// A message is padded with so many bytes at most.
const PADDING_MAX: u64 = 300;

pub(super) const DURABLE: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A client with its socket.
struct Peer {
    client: Client,
    stream: Option<TcpStream>,
    /// Its gateway, a place in [`Party::nodes`].
    node: usize,
    /// It does not connect for now.
    is_away: bool,
    /// Connections given up for another, which are left open.
    former: Vec<TcpStream>,
}

/// What a client publishes.
struct Publisher {
    peer: usize,
    topics: Vec<&'static str>,
    qos: Vec<QoS>,
    /// It publishes nothing for now.
    rests: bool,
}

/// See the module.
pub(super) struct Party {
    pub(super) nodes: Vec<Node>,
    peers: Vec<Peer>,
    publishers: Vec<Publisher>,
    pub(super) ledger: Ledger,
    pub(super) random: Random,
    seed: u64,
    /// What gateways said when they closed connections.
    pub(super) disconnected: Vec<ReasonCode>,
    /// Clients connect to any gateway.
    roams: bool,
}

#[expect(clippy::disallowed_methods, reason = "a test of a real process has a real deadline")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A number that whoever runs the tests may give.
pub(super) fn parameter(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Party {
    /// Nobody yet. The seed is printed, so that a run can be repeated with `SEED`.
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        let seed = parameter("SEED", u64::from(std::process::id()));
        eprintln!("SEED={seed}");
        Self {
            nodes,
            peers: Vec::new(),
            publishers: Vec::new(),
            ledger: Ledger::default(),
            random: Random::new(seed),
            seed,
            disconnected: Vec::new(),
            roams: false,
        }
    }

    /// From now on clients connect to any gateway, whichever they had.
    pub(super) fn roam(&mut self) {
        self.roams = true;
        self.ledger.clients_move = true;
    }

    /// The client connects once more, and leaves its connection open.
    pub(super) fn connect_again(&mut self, peer: usize) {
        self.hear(peer);
        let peer = &mut self.peers[peer];
        peer.former.extend(peer.stream.take());
        peer.client.disconnected();
    }

    /// A client of `node` with a persistent session.
    pub(super) fn subscriber(&mut self, node: usize, subscriptions: &[(&'static str, QoS)]) {
        self.join(node, "sub", subscriptions);
    }

    /// A client of `node` that publishes to `topics` with any of `qos`.
    pub(super) fn publisher(&mut self, node: usize, topics: &[&'static str], qos: &[QoS]) {
        let peer = self.join(node, "pub", &[]);
        let (topics, qos) = (topics.to_vec(), qos.to_vec());
        self.publishers.push(Publisher { peer, topics, qos, rests: false });
    }

    fn join(&mut self, node: usize, kind: &str, subscriptions: &[(&'static str, QoS)]) -> usize {
        let profile = Profile {
            name: format!("{kind}-{}", self.peers.len()),
            tenant: "",
            version: ProtocolVersion::V5,
            persistent: true,
            receive_maximum: 20,
            window: 20,
            subscriptions: subscriptions.to_vec(),
            wants_retained: false,
            may_be_refused: self.roams,
        };
        let (client, former) = (Client::new(profile), Vec::new());
        self.peers.push(Peer { client, stream: None, node, is_away: false, former });
        self.peers.len() - 1
    }

    /// Whether a publisher publishes nothing from now on.
    pub(super) fn set_resting(&mut self, peer: usize, rests: bool) {
        let publishers = self.publishers.iter_mut().filter(|one| one.peer == peer);
        publishers.for_each(|one| one.rests = rests);
    }

    /// Whether all that a client has sent is acknowledged.
    pub(super) fn is_idle(&self, peer: usize) -> bool {
        self.peers[peer].client.is_idle()
    }

    /// Ends the client's connection, until [`Party::call_back`].
    pub(super) fn send_away(&mut self, peer: usize) {
        self.peers[peer].is_away = true;
        self.lose(peer);
    }

    /// Only the clients of one gateway.
    pub(super) fn call_back_node(&mut self, node: usize) {
        let peers = self.peers.iter_mut().filter(|peer| peer.node == node);
        peers.for_each(|peer| peer.is_away = false);
    }

    pub(super) fn call_back(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.is_away = false);
    }

    /// Who does not publish.
    pub(super) fn subscribers(&self) -> Vec<usize> {
        let publishes = |peer: &usize| self.publishers.iter().any(|one| one.peer == *peer);
        (0..self.peers.len()).filter(|peer| !publishes(peer)).collect()
    }

    pub(super) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// One look at every socket.
    fn look(&mut self) {
        for index in 0..self.peers.len() {
            if self.peers[index].stream.is_none() && !self.peers[index].is_away {
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
        if self.roams {
            let node = self.random.below(self.nodes.len() as u64);
            self.peers[index].node = usize::try_from(node).unwrap();
        }
        let Some(address) = self.nodes[self.peers[index].node].address() else { return };
        let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) else { return };
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        self.peers[index].stream = Some(stream);
        self.peers[index].client.connect();
    }

    fn write(&mut self, index: usize) {
        let Peer { client, stream: Some(stream), .. } = &mut self.peers[index] else { return };
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
        let Peer { client, stream: Some(stream), .. } = &mut self.peers[index] else { return };
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
                let (name, logs) = (client.profile.name.clone(), self.logs());
                panic!("SEED={}: {name}: {what}\n{logs}", self.seed);
            }
        }
    }

    fn publish(&mut self) {
        for publisher in self.publishers.iter().filter(|one| !one.rests) {
            let client = &mut self.peers[publisher.peer].client;
            if client.may_publish() {
                let topic = *self.random.pick(&publisher.topics);
                let qos = *self.random.pick(&publisher.qos);
                let message = self.ledger.published(publisher.peer, topic, qos);
                let padding = usize::try_from(self.random.below(PADDING_MAX)).unwrap();
                client.publish(message, topic, qos, padding);
            }
        }
    }

    /// Looks, and publishes if `publishing`, until `is_done`.
    pub(super) fn go_on(
        &mut self,
        what: &str,
        publishing: bool,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) {
        let started = now();
        while !is_done(self) {
            if publishing {
                self.publish();
            }
            self.look();
            if started.elapsed() > PATIENCE {
                let state = self.state();
                panic!("SEED={}: {what}: not in {PATIENCE:?}\n{state}", self.seed);
            }
        }
    }

    /// Publishes for so long: as long as something is broken.
    pub(super) fn publish_for(&mut self, what: &str, duration: Duration) {
        let started = now();
        self.go_on(what, true, |_| started.elapsed() >= duration);
    }

    /// Publishes until so many more are acknowledged.
    pub(super) fn publish_until_acknowledged(&mut self, what: &str, more: usize) {
        let wanted = self.ledger.acknowledged_count() + more;
        self.go_on(what, true, |party| party.ledger.acknowledged_count() >= wanted);
    }

    pub(super) fn all_subscribed(&mut self) {
        self.go_on("subscribing", false, |party| {
            party.peers.iter().all(|peer| peer.client.is_ready())
        });
    }

    /// Everything acknowledged has arrived, and nobody has anything to finish.
    pub(super) fn all_arrived(&mut self) {
        self.go_on("waiting for what was acknowledged", false, |party| {
            let idle = |peer: &Peer| peer.client.is_online() && peer.client.is_idle();
            party.peers.iter().all(idle) && party.ledger.missing().is_empty()
        });
    }

    /// Whether somebody waits for the acknowledgement of one that was published to `topics` from the `from`th
    /// message on.
    pub(super) fn somebody_waits_for(&self, topics: &[&str], from: usize) -> bool {
        self.publishers.iter().any(|one| self.ledger.waits_for(one.peer, topics, from))
    }

    fn state(&mut self) -> String {
        let missing = self.ledger.missing();
        let described = missing.iter().take(10).map(|message| self.ledger.describe(*message));
        let described: Vec<String> = described.collect();
        let busy = self.peers.iter().filter(|peer| !peer.client.is_idle());
        let busy: Vec<String> = busy.map(|peer| peer.client.profile.name.clone()).collect();
        format!(
            "{} missing: {missing:?}\n{}\nnot idle: {busy:?}\n{}",
            missing.len(),
            described.join("\n"),
            self.logs(),
        )
    }

    fn logs(&mut self) -> String {
        let logs = self.nodes.iter_mut().map(Node::log);
        logs.collect::<Vec<_>>().join("\n--- next gateway\n")
    }
}
