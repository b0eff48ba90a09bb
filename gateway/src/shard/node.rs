//! All shards of a process: start, stop, wait.

use super::clock::Clock;
use super::engine::{Parts, Shard};
use super::hand_over::{Control, Ended, ListeningSocket, Parting};
use super::listener;
use super::mesh::{Doorbell, MeshSender, Port, mesh};
use super::requirements::{self, RequirementError};
use super::silence::PeerWatch;
use crate::config::{Listen, NatsTls, TlsServer};
use crate::proto::engine_counters::EngineCounters;
use crate::proto::handler::Handler;
use crate::proto::output::ShardIndex;
use crate::proto::websocket::WebSocketLimits;
use arc_swap::ArcSwap;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use ipnet::IpNet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Limits and addresses of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Shards, each a thread with a core of its own while there are enough. Default 1.
    pub shards: u16,
    /// Keep each shard on one core. Off, the kernel moves them. Default on.
    pub pin: bool,
    /// Addresses to listen on, each of them on every shard. Port 0 lets the kernel choose.
    pub listen: Vec<Listen>,
    /// What TLS listeners show and ask for, for connections that begin from now on. Set if there is
    /// such a listener.
    pub tls: Option<Arc<ArcSwap<TlsServer>>>,
    /// How links go on in TLS, by the number that [`Action::StartTls`] names; more may come.
    ///
    /// [`Action::StartTls`]: crate::proto::output::Action::StartTls
    pub link_tls: Arc<ArcSwap<Vec<Option<NatsTls>>>>,
    /// Who may send a PROXY header, and has to, on the listeners that want one.
    pub balancers: Vec<IpNet>,
    /// What is accepted over WebSocket.
    pub websocket: WebSocketLimits,
    /// How long what was sent may stay unacknowledged before a connection is given up; zero leaves it
    /// to the kernel. Default 5 minutes.
    pub tcp_user_timeout: Duration,
    /// How long a connection may be silent before the kernel asks whether its peer is there; zero
    /// turns that off. Default 30 minutes.
    pub tcp_keepalive: Duration,
    /// How long a connection may take until its transport is set up. Default 10 s.
    pub handshake_timeout: Duration,
    /// Bytes a connection may send until then. Default 65,536.
    pub handshake_bytes_max: usize,
    /// Bytes that all connections may hold whose clients are not known yet. Default 512 MiB.
    pub strangers_bytes_max: u64,
    /// How long a shard goes on with handshakes before it looks after other connections. Default
    /// 1 ms.
    pub handshake_slice: Duration,
    /// Connections that may wait to be accepted, a listening socket. Default 65,535, cut by the
    /// kernel to `net.core.somaxconn`.
    pub backlog: i32,
    /// Connections of all shards together. Default 8,192. Costs a descriptor and 32 bytes each, in
    /// use.
    pub connections_max: u32,
    /// Receive buffers of one shard, a power of two up to 32,768. Default 256.
    pub receive_buffers: u16,
    /// Bytes of a receive buffer. Default 16,384. Memory is touched only when used.
    pub receive_buffer_bytes: u32,
    /// Bytes one connection may leave unconsumed. Default 1 MiB. The handler refuses packets that
    /// are too large; this bounds what it leaves while it waits for the rest of one.
    pub partial_bytes_max: usize,
    /// [`Handler::writable`] is called when a connection had more than this queued and it was all
    /// sent, bytes. Default 65,536.
    pub writable_above_bytes: usize,
    /// Submission queue entries. Default 1,024; a full queue is submitted early.
    pub ring_entries: u32,
    /// What gathering adds to the way of a message at most, a hop to another shard included: fewer
    /// wake-ups under a stream of messages for that much delay. 0 turns it off. Default 1 ms.
    pub gather_wait: Duration,
    /// How long a closing connection may take to read what is queued and close. Default 5 s.
    pub close_deadline: Duration,
    /// How long the node's stop may take before what is open is reset. Default 10 s.
    pub stop_deadline: Duration,
    /// Batches that may wait between two shards. Default 1,024.
    pub mesh_slots: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            shards: 1,
            pin: true,
            listen: Vec::new(),
            tls: None,
            link_tls: Arc::default(),
            balancers: Vec::new(),
            websocket: WebSocketLimits {
                request_bytes_max: 65_536,
                frame_bytes_max: 1 << 24,
                origins: Vec::new(),
            },
            tcp_user_timeout: Duration::from_secs(300),
            tcp_keepalive: Duration::from_secs(1_800),
            handshake_timeout: Duration::from_secs(10),
            handshake_bytes_max: 65_536,
            strangers_bytes_max: 536_870_912,
            handshake_slice: Duration::from_millis(1),
            backlog: 65_535,
            connections_max: 8_192,
            receive_buffers: 256,
            receive_buffer_bytes: 16_384,
            partial_bytes_max: 1 << 20,
            writable_above_bytes: 65_536,
            ring_entries: 1_024,
            gather_wait: Duration::from_millis(1),
            close_deadline: Duration::from_secs(5),
            stop_deadline: Duration::from_secs(10),
            mesh_slots: 1_024,
        }
    }
}

/// Why the node could not start, or a shard could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine lacks something.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {}", listen_fault(error))]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The operating system's answer.
        error: io::Error,
    },
    /// A shard's ring, eventfd or executor could not be made.
    #[error("cannot set up shard {}: {error}", shard.0)]
    Shard {
        /// Which.
        shard: ShardIndex,
        /// The operating system's answer.
        error: io::Error,
    },
}

/// A node whose sockets are bound and whose shards do not run yet.
pub struct BoundNode<M> {
    config: Arc<EngineConfig>,
    addresses: Vec<SocketAddr>,
    shards: Vec<(Port<M>, Vec<ListeningSocket>)>,
    senders: Vec<MeshSender<M>>,
}

/// A running node.
pub struct Node<M> {
    addresses: Vec<SocketAddr>,
    senders: Vec<MeshSender<M>>,
    doorbells: Vec<Arc<Doorbell>>,
    stop: Arc<AtomicBool>,
    control: Arc<Control>,
    threads: Vec<ExecutorJoinHandle<io::Result<Ended>>>,
    /// What shards wait for before they begin.
    go: Vec<std::sync::mpsc::Sender<()>>,
}

/// Memory glommio registers with each of its rings; more than this would be locked for nothing.
const EXECUTOR_IO_BYTES: usize = 65_536;
/// The executor's own ring carries nothing: the loop never sleeps there.
const EXECUTOR_RING_DEPTH: usize = 16;
/// In effect never. A shard's loop is the only task of its executor, so there is nothing to preempt
/// it for; and glommio 0.9 parks an executor whose timer fires between its look for completions and
/// its look at the run queue, even when that holds a task. Nothing then wakes the shard: on a busy
/// machine, with a timer of 1 ms, shards hung before their first poll.
const EXECUTOR_PREEMPT: Duration = Duration::from_secs(365 * 24 * 3_600);

impl<M: Send + 'static> BoundNode<M> {
    /// Checks the machine and opens every listening socket.
    ///
    /// # Errors
    ///
    /// The first requirement or address that fails.
    pub fn bind(config: EngineConfig) -> Result<Self, StartError> {
        Self::bind_with(config, Vec::new())
    }

    /// As [`BoundNode::bind`], with sockets that listen already, each with the address that it was
    /// configured with: they are used where the configuration has that address, and closed where not.
    ///
    /// # Errors
    ///
    /// As [`BoundNode::bind`].
    pub fn bind_with(
        mut config: EngineConfig,
        mut listening: Vec<(Listen, OwnedFd)>,
    ) -> Result<Self, StartError> {
        config.shards = config.shards.max(1);
        requirements::check(config.shards, config.connections_max.into())?;
        let setup = |error| StartError::Shard { shard: ShardIndex(0), error };
        let mut shards = Vec::new();
        let mut senders = Vec::new();
        for (port, sender) in mesh(config.shards, config.mesh_slots.max(1)).map_err(setup)? {
            shards.push((port, Vec::new()));
            senders.push(sender);
        }
        let mut addresses = Vec::new();
        for (number, listen) in config.listen.iter().enumerate() {
            let (own, others) = listening.into_iter().partition(|(former, _)| former == listen);
            listening = others;
            let own: Vec<(Listen, OwnedFd)> = own;
            let sockets = own.into_iter().map(|(_, socket)| socket).collect();
            addresses.push(bind_all(listen.address, number, sockets, &config, &mut shards)?);
        }
        Ok(Self { config: Arc::new(config), addresses, shards, senders })
    }

    /// The addresses bound, in the order of the configuration, with the ports the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A way to send messages to each shard, by index, for threads that are none.
    #[must_use]
    pub fn senders(&self) -> &[MeshSender<M>] {
        &self.senders
    }

    /// Starts the shards; each makes its handler on its own thread. They read the time from `clock`.
    ///
    /// # Errors
    ///
    /// When a thread, an executor or a ring cannot be made. Shards already started are stopped.
    pub fn start<H, F>(self, clock: Clock, make_handler: F) -> Result<Node<M>, StartError>
    where
        H: Handler<Message = M> + 'static,
        F: Fn(ShardIndex) -> H + Send + Clone + 'static,
    {
        let mut node = self.prepare(clock, Vec::new(), make_handler)?;
        node.go();
        Ok(node)
    }

    /// As [`BoundNode::start`], but shards do nothing before [`Node::go`]. They begin with
    /// `connections`, by shard, which another process had.
    ///
    /// # Errors
    ///
    /// As [`BoundNode::start`].
    pub fn prepare<H, F>(
        self,
        clock: Clock,
        connections: Vec<Vec<Parting>>,
        make_handler: F,
    ) -> Result<Node<M>, StartError>
    where
        H: Handler<Message = M> + 'static,
        F: Fn(ShardIndex) -> H + Send + Clone + 'static,
    {
        let mut connections = connections.into_iter();
        let cores = allowed_cores();
        let mut node = Node {
            addresses: self.addresses,
            senders: self.senders,
            doorbells: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            control: Arc::new(Control::new(self.shards.len())),
            threads: Vec::new(),
            go: Vec::new(),
        };
        let open_count = Arc::new(AtomicU32::new(0));
        let stranger_bytes = Arc::new(AtomicU64::new(0));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let count = self.shards.len();
        for (index, (port, listeners)) in self.shards.into_iter().enumerate() {
            let shard = ShardIndex(u16::try_from(index).expect("the count is a u16"));
            node.doorbells.push(port.doorbell_handle());
            let (config, stop) = (Arc::clone(&self.config), Arc::clone(&node.stop));
            let (make_handler, ready) = (make_handler.clone(), ready.clone());
            let open_count = Arc::clone(&open_count);
            let stranger_bytes = Arc::clone(&stranger_bytes);
            let control = Arc::clone(&node.control);
            let connections = connections.next().unwrap_or_default();
            let (go, may_go) = std::sync::mpsc::channel();
            node.go.push(go);
            let placement = match cores.get(index) {
                Some(&core) if config.pin && count <= cores.len() => Placement::Fixed(core),
                _ => Placement::Unbound,
            };
            let main = move || async move {
                let _guard = AbortOnPanic;
                let handler = make_handler(shard);
                let parts = Parts {
                    config,
                    handler,
                    shard,
                    port,
                    listeners,
                    clock,
                    stop,
                    control,
                    open_count,
                    stranger_bytes,
                    connections,
                };
                let shard = match Shard::new(parts) {
                    Ok(engine) => engine,
                    Err(error) => {
                        // The starter is gone only when another shard failed before.
                        let _ = ready.send(Some((shard, error)));
                        return Ok(Ended::default());
                    }
                };
                let _ = ready.send(None);
                drop(ready);
                // Nothing else runs on this thread. It never comes if another shard could not be made.
                if may_go.recv().is_err() {
                    return Ok(Ended::default());
                }
                shard.run().await
            };
            node.threads.push(spawn(shard, placement, main)?);
        }
        drop(ready);
        let answers: Vec<_> = is_ready.iter().take(count).collect();
        let is_complete = answers.len() == count;
        if let Some((shard, error)) = answers.into_iter().flatten().next() {
            node.go.clear();
            return Err(StartError::Shard { shard, error });
        }
        if !is_complete {
            // An executor could not be made on its thread: `join` knows why.
            node.go.clear();
            let error = || io::Error::other("its executor ended before it ran");
            let unnamed = StartError::Shard { shard: ShardIndex(0), error: error() };
            return Err(node.join().err().unwrap_or(unnamed));
        }
        Ok(node)
    }
}

impl<M: Send + 'static> Node<M> {
    /// [`BoundNode::bind`] and [`BoundNode::start`].
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn start<H, F>(config: EngineConfig, make_handler: F) -> Result<Self, StartError>
    where
        H: Handler<Message = M> + 'static,
        F: Fn(ShardIndex) -> H + Send + Clone + 'static,
    {
        BoundNode::bind(config)?.start(Clock::start(), make_handler)
    }

    /// The addresses bound, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A way to send messages to each shard, by index, for threads that are none.
    #[must_use]
    pub fn senders(&self) -> &[MeshSender<M>] {
        &self.senders
    }

    /// Lets the shards begin, after [`BoundNode::prepare`].
    pub fn go(&mut self) {
        for shard in self.go.drain(..) {
            // One that has ended says why when it is joined.
            let _ = shard.send(());
        }
    }

    /// Asks every shard to stop; returns at once.
    pub fn shutdown(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring_all();
    }

    pub(super) fn ring_all(&self) {
        for doorbell in &self.doorbells {
            doorbell.ring();
        }
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until every shard has ended, and gives what each counted.
    ///
    /// # Errors
    ///
    /// The first shard that could not go on, with the kernel's answer.
    pub fn join(self) -> Result<Vec<EngineCounters>, StartError> {
        Ok(self.ended()?.into_iter().map(|ended| ended.counters).collect())
    }

    /// Waits until every shard has ended, and gives what each left.
    pub(super) fn ended(self) -> Result<Vec<Ended>, StartError> {
        // Shards that were never let go have nothing to wait for.
        drop(self.go);
        let mut left = Vec::new();
        for (index, thread) in self.threads.into_iter().enumerate() {
            let shard = ShardIndex(u16::try_from(index).expect("the count is a u16"));
            let failed = |error| StartError::Shard { shard, error };
            let result = thread.join().map_err(|error| failed(io::Error::other(error.to_string())));
            left.push(result?.map_err(failed)?);
        }
        Ok(left)
    }
}

/// The kernel's answer, in words that say what to do where there are any.
fn listen_fault(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there: stop it or choose another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted: ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Gives every shard a socket that listens on `address`, those in `sockets` first. If there are more,
/// some shards get several: whoever waits in one of them is not to be lost. The first socket decides
/// the port when none is given.
fn bind_all<M>(
    address: SocketAddr,
    number: usize,
    sockets: Vec<OwnedFd>,
    config: &EngineConfig,
    shards: &mut [(Port<M>, Vec<ListeningSocket>)],
) -> Result<SocketAddr, StartError> {
    let failed = |error| StartError::Listen { address, error };
    let mut bound = match sockets.first() {
        Some(first) => listener::local_address(first).map_err(failed)?,
        None => address,
    };
    if sockets.is_empty() && address.port() != 0 {
        wait_until_free(address).map_err(failed)?;
    }
    let count = sockets.len().max(shards.len());
    let mut sockets = sockets.into_iter();
    for place in 0..count {
        let socket = match sockets.next() {
            Some(socket) => socket,
            None => listener::listen(bound, config.backlog).map_err(failed)?,
        };
        let watch = PeerWatch::new(config.tcp_user_timeout, config.tcp_keepalive);
        watch.set(&socket).map_err(failed)?;
        bound = listener::local_address(&socket).map_err(failed)?;
        let shard = place % shards.len().max(1);
        if let Some((_, listeners)) = shards.get_mut(shard) {
            listeners.push(ListeningSocket { number, socket });
        }
    }
    Ok(bound)
}

/// The kernel closes what a killed process had in its rings some time after the process is gone:
/// whoever restarts it at once must not be told that it still listens.
fn wait_until_free(address: SocketAddr) -> io::Result<()> {
    for _ in 0..FREE_TRIES {
        match listener::check_free(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::thread::park_timeout(FREE_PAUSE);
            }
            result => return result,
        }
    }
    listener::check_free(address)
}

/// Looks at an address in use before it is refused, and the pause between them: 3 s in all.
const FREE_TRIES: u32 = 150;
const FREE_PAUSE: Duration = Duration::from_millis(20);

fn spawn<F, Fut>(
    shard: ShardIndex,
    placement: Placement,
    main: F,
) -> Result<ExecutorJoinHandle<io::Result<Ended>>, StartError>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<Ended>> + 'static,
{
    LocalExecutorBuilder::new(placement)
        .name(&format!("shard-{}", shard.0))
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(EXECUTOR_PREEMPT)
        .spawn(main)
        .map_err(|error| StartError::Shard { shard, error: io::Error::other(error.to_string()) })
}

/// The cores this process may use.
fn allowed_cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Half a node is worse than a restart: a shard that panics takes the process with it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
