//! Three sub-clusters of one server each, and gateways in front of them.

use crate::nats::server::NatsServer;
use crate::process::gateway::{Gateway, TempDirectory};
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_table::{Member, RingTable};
use gateway::proto::partition::PartitionId;
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The names of the sub-clusters; the ring numbers their partitions in this order.
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// Servers that can be killed and come back.
pub(super) struct Site {
    pub(super) servers: [NatsServer; 3],
}

impl Site {
    pub(super) fn start() -> Self {
        Self { servers: NAMES.map(|_| NatsServer::start_on(lasting_port())) }
    }

    pub(super) fn addresses(&self) -> [SocketAddr; 3] {
        [0, 1, 2].map(|place| self.servers[place].address())
    }

    /// Two gateways that share sessions, to which everything comes live.
    pub(super) fn gateways_with_shared_sessions(&self) -> [Node; 2] {
        ["g1", "g2"].map(|id| {
            let mut node = Node::start_with(flags(id, "shared", &self.addresses()));
            node.wait_until_live(3);
            node
        })
    }

    /// The same, with leases that end soon.
    pub(super) fn gateways_with_short_leases(&self) -> [Node; 2] {
        ["g1", "g2"].map(|id| {
            let mut flags = flags(id, "shared", &self.addresses());
            for limit in ["session_lease_renew_s=2", "session_lease_timeout_s=8"] {
                flags.extend(["--limit", limit].map(str::to_owned));
            }
            let mut node = Node::start_with(flags);
            node.wait_until_live(3);
            node
        })
    }

    /// A gateway in front of all three, to which everything comes live.
    pub(super) fn gateway(&self, id: &'static str) -> Node {
        let mut node = Node::start(id, &self.addresses());
        node.wait_until_live(3);
        node
    }
}

/// A gateway and its data, which outlives its process.
pub(super) struct Node {
    gateway: Option<Gateway>,
    data: TempDirectory,
    flags: Vec<String>,
    former_log: String,
}

impl Node {
    /// A gateway named `id`, with a sub-cluster at each address.
    pub(super) fn start(id: &'static str, addresses: &[SocketAddr]) -> Self {
        Self::start_with(flags(id, "local", addresses))
    }

    /// The same with flags of the caller's.
    pub(super) fn start_with(flags: Vec<String>) -> Self {
        let (data, former_log) = (TempDirectory::new(), String::new());
        let mut node = Self { gateway: None, data, flags, former_log };
        node.start_again();
        node
    }

    /// Waits until its links to `count` sub-clusters have been there once.
    pub(super) fn wait_until_live(&mut self, count: usize) {
        let gateway = self.gateway.as_mut().expect("it runs");
        gateway.wait_for_lines("feed: live", count * SHARDS);
    }

    /// Waits until its log has a line with this text.
    pub(super) fn wait_for_line(&mut self, text: &str) {
        self.gateway.as_mut().expect("it runs").wait_for_lines(text, 1);
    }

    /// Where it accepts clients, if it runs.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(Gateway::address)
    }

    /// Everything it has logged, in its former lives too.
    pub(super) fn log(&mut self) -> String {
        let now = self.gateway.as_mut().map(Gateway::log).unwrap_or_default();
        format!("{}{now}", self.former_log)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.former_log = self.log() + "\nSIGKILL\n";
        self.gateway.take().expect("it runs").kill();
    }

    /// On the same data, at another port.
    pub(super) fn start_again(&mut self) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.gateway = Some(Gateway::start_on(self.data.path(), &flags));
    }

    /// The same with other flags.
    pub(super) fn start_again_with(&mut self, flags: Vec<String>) {
        self.flags = flags;
        self.start_again();
    }

    /// Its data directory.
    pub(super) fn data(&self) -> &std::path::Path {
        self.data.path()
    }

    /// The process, whose place another may have taken.
    pub(super) fn into_gateway(mut self) -> (Gateway, TempDirectory) {
        (self.gateway.take().expect("it runs"), self.data)
    }

    /// SIGTERM.
    pub(super) fn terminate(&self) {
        self.gateway.as_ref().expect("it runs").terminate();
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.gateway.as_ref().expect("it runs").signal(signal);
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.gateway.as_mut().is_none_or(Gateway::has_ended)
    }

    /// SIGTERM, and checks that it ends well.
    pub(super) fn stop(&mut self) {
        self.gateway.take().expect("it runs").stop();
    }
}

/// Of a gateway named `id`, with a sub-cluster at each address.
pub(super) fn flags(id: &str, sessions: &str, addresses: &[SocketAddr]) -> Vec<String> {
    let mut flags = vec!["--shards".to_owned(), SHARDS.to_string()];
    flags.extend(["--sessions", sessions, "--gateway-id", id].map(str::to_owned));
    for (name, address) in NAMES.iter().chain(&["d"]).zip(addresses) {
        flags.extend(["--nats".to_owned(), format!("{name}=nats://{address}")]);
    }
    flags
}

/// `count` topics that the sub-cluster at `place` has, kept for the process.
pub(super) fn topics_at(place: u16, count: usize) -> Vec<&'static str> {
    static RING: LazyLock<Ring> = LazyLock::new(|| {
        let member = |(partition, name): (u16, &str)| Member {
            partition: PartitionId(partition),
            weight: 1,
            sub_cluster: name.to_owned(),
        };
        let members = (0..).zip(NAMES).map(member).collect();
        Ring::new(&RingTable::new(1, members).unwrap())
    });
    let names = (0..).map(|number| format!("t{}/{number}", number % 4));
    let names = names.filter(|name| RING.owner(name) == PartitionId(place)).take(count);
    names.map(|name| &*name.leak()).collect()
}

/// A port that stays free while its server is away: not one that the system gives to others.
pub(super) fn lasting_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 500 * 32).unwrap();
    loop {
        let number = start + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + number % PORT_COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Of each gateway: its clients, and with them its links, are on several.
const SHARDS: usize = 2;
/// Below those that Linux chooses by itself.
const FIRST_PORT: u16 = 16_000;
const PORT_COUNT: u16 = 16_000;
