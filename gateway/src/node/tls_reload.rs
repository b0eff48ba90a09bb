//! Loads certificates, keys, authorities and lists of revoked certificates again when their files have
//! changed, or when it is told to.
//!
//! A thread looks at the files: at their number, size and time, so that a file that was replaced, or a
//! link that points to another one, is noticed too. Connections that are there stay as they are; those
//! that begin afterwards get what was loaded last. What cannot be loaded is said, and not used.

use crate::config::{TicketKeys, TlsConfig, TlsFault, TlsServer};
use arc_swap::ArcSwap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What TLS listeners use, and the thread that keeps it up to date.
pub(super) struct TlsReload {
    tell: Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    Reload,
    /// Other files, or the same, asked for in another way; whether they can be used.
    Use(Box<TlsConfig>, Sender<Result<(), Vec<TlsFault>>>),
    Stop,
}

/// A file as far as it is seen from outside; `None` where there is none.
type Seen = Option<(u64, u64, u64, i64, i64)>;

struct Watched {
    config: TlsConfig,
    server: Arc<ArcSwap<TlsServer>>,
    keys: TicketKeys,
    seen: Vec<Seen>,
    /// Looks until the keys of tickets that this process made are replaced.
    looks_left: u64,
}

/// Loads what `config` names.
///
/// # Errors
///
/// Every file that cannot be used.
pub(super) fn load(
    config: &TlsConfig,
) -> Result<(Arc<ArcSwap<TlsServer>>, TicketKeys), Vec<TlsFault>> {
    let keys = TicketKeys::random();
    let server = config.load(&keys)?;
    Ok((Arc::new(ArcSwap::from_pointee(server)), keys))
}

impl TlsReload {
    /// Watches the files that `config` names, and puts what they hold into `server`.
    ///
    /// # Errors
    ///
    /// The operating system's, when there is no thread to be had.
    pub(super) fn spawn(
        config: TlsConfig,
        server: Arc<ArcSwap<TlsServer>>,
        keys: TicketKeys,
    ) -> io::Result<Self> {
        let (tell, orders) = channel();
        let seen = config.files().map(|path| look(path)).collect();
        let looks_left = looks(config.ticket_lifetime_s);
        let mut watched = Watched { config, server, keys, seen, looks_left };
        let thread = std::thread::Builder::new()
            .name("tls files".to_owned())
            .spawn(move || watched.run(&orders))?;
        Ok(Self { tell, thread })
    }

    /// Loads everything again; returns at once.
    pub(super) fn reload(&self) {
        // The thread ends after `stop` only.
        let _ = self.tell.send(Order::Reload);
    }

    /// Puts another configuration in force; blocks while it is loaded.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used. Then all stays as it was.
    pub(super) fn apply(&self, config: &TlsConfig) -> Result<(), Vec<TlsFault>> {
        let (told, outcome) = channel();
        let _ = self.tell.send(Order::Use(Box::new(config.clone()), told));
        // A thread that has ended is that of a node that ends.
        outcome.recv().unwrap_or(Ok(()))
    }

    /// Ends the thread.
    pub(super) fn stop(self) {
        let _ = self.tell.send(Order::Stop);
        let _ = self.thread.join();
    }
}

impl Watched {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(LOOK_INTERVAL) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Order::Reload) => self.load("told to"),
                Ok(Order::Use(config, told)) => {
                    let _ = told.send(self.apply(*config));
                }
                Err(RecvTimeoutError::Timeout) => self.look_around(),
            }
        }
    }

    fn look_around(&mut self) {
        let seen: Vec<_> = self.config.files().map(|path| look(path)).collect();
        if seen != self.seen {
            self.seen = seen;
            self.load("files changed");
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        if self.looks_left == 0 {
            self.looks_left = looks(self.config.ticket_lifetime_s);
            if self.config.ticket_keys.is_none() {
                self.keys = self.keys.rotated();
                self.load("ticket keys are due");
            }
        }
    }

    fn apply(&mut self, config: TlsConfig) -> Result<(), Vec<TlsFault>> {
        // Looked at first: what changes while they are read is loaded at the next look.
        let seen = config.files().map(|path| look(path)).collect();
        let server = config.load(&self.keys)?;
        if config.ticket_lifetime_s != self.config.ticket_lifetime_s {
            self.looks_left = looks(config.ticket_lifetime_s);
        }
        (self.config, self.seen) = (config, seen);
        self.server.store(Arc::new(server));
        tracing::info!(why = "told to", "TLS files loaded");
        Ok(())
    }

    fn load(&mut self, why: &str) {
        match self.config.load(&self.keys) {
            Ok(server) => {
                self.server.store(Arc::new(server));
                tracing::info!(why, "TLS files loaded");
            }
            // A file that is just being written is complete at the next look.
            Err(faults) => {
                for fault in faults {
                    tracing::error!(%fault, "TLS files are not used, those before stay");
                }
            }
        }
    }
}

/// Looks in the life of a ticket: after as long the key that sealed it is replaced. Where there are
/// no tickets, never.
fn looks(ticket_lifetime_s: u32) -> u64 {
    match ticket_lifetime_s {
        0 => u64::MAX,
        lifetime_s => (u64::from(lifetime_s) / LOOK_INTERVAL.as_secs()).max(1),
    }
}

fn look(path: &Path) -> Seen {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::looks;

    #[test]
    fn a_key_is_replaced_once_in_the_life_of_a_ticket_and_never_without_tickets() {
        assert_eq!(looks(0), u64::MAX);
        assert_eq!(looks(1), 1);
        assert_eq!(looks(43_200), 21_600);
    }
}
