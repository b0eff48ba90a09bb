//! What an operator sees and does: metrics, health, API, status page. Off the data path.
//!
//! One thread with a small runtime serves HTTP/1.1 on the admin address. Whatever it needs of a
//! shard it asks by message ([`NodeHandle`]); a shard answers between sweeps from what it counts
//! anyway. So a scrape costs a shard one message and a copy of some kilobytes, and nothing at all
//! is paid where nobody looks: counters are plain numbers of the shard's own, no atomics.
//!
//! Read `server` (who may ask), then `metrics` (the families), then `api`.

mod api;
pub mod doctor;
mod drain;
mod exposition;
mod metrics;
mod process;
mod server;

mod sys_topics;
pub mod upgrade;

pub use drain::{DrainError, drain, rebalance};
pub use upgrade::{UpgradeError, upgrade};

use crate::config::{AdminToken, Config};
use crate::logging::LogControl;
use crate::node::NodeHandle;
use crate::systemd;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use sys_topics::SysTopics;
use tokio::sync::oneshot;

/// What requests are answered from.
struct AdminState {
    /// Of the start. What a reload may change of it is below.
    config: Config,
    /// Every value in force, by key.
    in_force: ArcSwap<toml::Table>,
    /// What who asks has to know.
    token: ArcSwapOption<AdminToken>,
    log: LogControl,
    /// Set once the node runs; another one where an upgrade did not come to its end.
    node: ArcSwapOption<NodeHandle>,
    /// The node takes no more clients.
    draining: AtomicBool,
}

/// Why there is no admin thread.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address of its server.
    #[error(
        "cannot listen on {address} for the admin server: {error}; choose another, or --admin none"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The operating system's answer.
        error: io::Error,
    },
    /// The thread itself.
    #[error("cannot start the admin thread: {0}")]
    Thread(io::Error),
}

/// The running thread: HTTP, `$SYS` topics, the service manager's watchdog. Dropped, it ends soon.
pub struct Admin {
    state: Arc<AdminState>,
    address: Option<SocketAddr>,
    listening: Option<(SocketAddr, OwnedFd)>,
    thread: JoinHandle<()>,
    attached: oneshot::Sender<()>,
    stop: oneshot::Sender<()>,
}

/// An [`Admin`] that has a node to show.
pub struct AttachedAdmin {
    state: Arc<AdminState>,
    listening: Option<(SocketAddr, OwnedFd)>,
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Admin {
    /// Listens and serves, if the configuration says so. Until [`Admin::attach`] it answers that the
    /// node is not ready.
    ///
    /// # Errors
    ///
    /// The address, unless it is the default one: a second gateway on a machine goes without.
    pub fn start(config: &Config, log: LogControl) -> Result<Self, AdminError> {
        Self::start_with(config, log, None)
    }

    /// As [`Admin::start`], with a socket that listens already and the address it was configured with:
    /// it is used if the configuration has that address.
    ///
    /// # Errors
    ///
    /// As [`Admin::start`].
    pub fn start_with(
        config: &Config,
        log: LogControl,
        listening: Option<(SocketAddr, OwnedFd)>,
    ) -> Result<Self, AdminError> {
        let wanted = config.admin.as_ref().map(|admin| admin.address);
        let listener = match listening {
            Some((address, socket)) if Some(address) == wanted => Some(TcpListener::from(socket)),
            _ => listen(config)?,
        };
        let kept = listener.as_ref().and_then(|listener| listener.try_clone().ok());
        let kept = wanted.zip(kept.map(OwnedFd::from));
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (node, draining) = (ArcSwapOption::empty(), AtomicBool::new(false));
        let in_force = ArcSwap::from_pointee(toml::from_str(&config.to_toml()).unwrap_or_default());
        let token = config.admin.as_ref().and_then(|admin| admin.token.clone());
        let token = ArcSwapOption::from_pointee(token);
        let config = config.clone();
        let state = Arc::new(AdminState { config, in_force, token, log, node, draining });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Thread)?;
        let (attached, is_attached) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shown = Arc::clone(&state);
        let work = async move {
            if let Some(listener) = listener {
                tokio::spawn(server::serve(listener, Arc::clone(&shown)));
            }
            if is_attached.await.is_ok() {
                tokio::spawn(publish_sys(Arc::clone(&shown)));
                tokio::spawn(feed_watchdog(shown));
            }
            // The sender that is gone means stop, too.
            let _ = stopped.await;
        };
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(AdminError::Thread)?;
        Ok(Self { state, address, listening: kept, thread, attached, stop })
    }

    /// Where its server listens, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The node runs: from here on there is something to show.
    #[must_use]
    pub fn attach(self, node: NodeHandle) -> AttachedAdmin {
        let Self { state, listening, thread, attached, stop, .. } = self;
        state.node.store(Some(Arc::new(node)));
        // The thread waits for the word.
        let _ = attached.send(());
        AttachedAdmin { state, listening, thread, stop }
    }
}

impl AttachedAdmin {
    /// Another node runs in place of the one shown so far.
    pub fn show(&self, node: NodeHandle) {
        self.state.node.store(Some(Arc::new(node)));
    }

    /// Where its server listens, if there is one, and the address configured for that: for the next
    /// process.
    #[must_use]
    pub fn listening(&self) -> Option<(SocketAddr, BorrowedFd<'_>)> {
        self.listening.as_ref().map(|(address, socket)| (*address, socket.as_fd()))
    }

    /// The configuration was read again, and these values are in force from here on.
    pub fn show_values(&self, in_force: toml::Table) {
        self.state.in_force.store(Arc::new(in_force));
    }

    /// Who may change the token while it runs.
    #[must_use]
    pub fn token_control(&self) -> TokenControl {
        TokenControl(Arc::clone(&self.state))
    }

    /// The node stops: from here on it is not ready.
    pub fn set_draining(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
    }

    /// Ends the thread and waits until it has.
    pub fn stop(self) {
        drop(self.stop);
        // A panic in it has been printed, and ended the process where panics abort.
        let _ = self.thread.join();
    }
}

/// Changes the token of a server that runs.
pub struct TokenControl(Arc<AdminState>);

impl TokenControl {
    /// Asks for the token of `config` from here on, or for none.
    ///
    /// # Errors
    ///
    /// Others than this machine reach the address in force, and there would be no token.
    pub fn take(&self, config: &Config) -> Result<(), Vec<String>> {
        let Some(listens) = &self.0.config.admin else { return Ok(()) };
        let token = config.admin.as_ref().and_then(|admin| admin.token.clone());
        if token.is_none() && !listens.address.ip().is_loopback() {
            let (address, key) = (listens.address, "admin_token_file");
            return Err(vec![format!("{key}: {address} is in force, and needs a token")]);
        }
        let before = self.0.token.swap(token.clone().map(Arc::new));
        if before.as_deref() != token.as_ref() {
            tracing::info!(
                is_asked_for = token.is_some(),
                "the token of the admin server is another"
            );
        }
        Ok(())
    }
}

fn listen(config: &Config) -> Result<Option<TcpListener>, AdminError> {
    let Some(admin) = &config.admin else { return Ok(None) };
    let address = admin.address;
    let listening = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    match listening {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if admin.is_default && error.kind() == io::ErrorKind::AddrInUse => {
            let hint = "no admin server: give --admin";
            tracing::warn!(%address, hint, "the default admin address is in use");
            Ok(None)
        }
        Err(error) => Err(AdminError::Listen { address, error }),
    }
}

async fn publish_sys(state: Arc<AdminState>) {
    let interval = state.config.sys_interval;
    if !interval.is_zero() {
        SysTopics::run(&state, interval).await;
    }
}

/// Tells the service manager that all is well as long as every shard answers: twice in each of its
/// intervals.
async fn feed_watchdog(state: Arc<AdminState>) {
    let Some(interval) = systemd::watchdog_interval() else { return };
    let mut ticks = tokio::time::interval((interval / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let Some(node) = state.node.load_full() else { continue };
        if node.reports().await.iter().all(Option::is_some) {
            systemd::notify("WATCHDOG=1");
        }
    }
}
