//! Which address a server is reached at, by the name it gives itself.
//!
//! A leader is known by name, and JetStream tells no addresses. So every server that is known is
//! asked: the first line that a server sends, INFO, has its name, before anybody has to prove who
//! he is.
//!
//! Source: NATS client protocol, INFO.

use crate::config::{NatsServer, NatsTls};
use crate::proto::nats::Info;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// The servers of a sub-cluster that answered.
#[derive(Debug, Default)]
pub(super) struct ServerNames {
    servers: BTreeMap<String, (SocketAddr, Info)>,
    /// When the last question began, and when it was over.
    asked_from: Option<Instant>,
    asked_at: Option<Instant>,
}

impl ServerNames {
    /// Where the server of this name accepts clients.
    pub(super) fn address(&self, name: &str) -> Option<SocketAddr> {
        self.servers.get(name).map(|(address, _)| *address)
    }

    /// What each of them said of itself.
    pub(super) fn infos(&self) -> impl Iterator<Item = &Info> {
        self.servers.values().map(|(_, info)| info)
    }

    /// INFO's `server_id` of the server of this name, if it is the same now: it has led for so long, and did when it was
    /// asked.
    pub(super) fn process_that_led_for(&self, name: &str, duration: Duration) -> Option<&str> {
        let (_, info) = self.servers.get(name)?;
        let is_the_same = self.asked_from.is_some_and(|from| from.elapsed() < duration);
        is_the_same.then_some(info.server_id.as_str())
    }

    /// Whether they were asked within `interval`.
    pub(super) fn is_newer_than(&self, interval: Duration) -> bool {
        self.asked_at.is_some_and(|at| at.elapsed() < interval)
    }

    /// Asks them all again. What does not answer now is forgotten.
    ///
    /// A server may be known by several addresses: one that was configured is preferred to one
    /// that the servers announce, which may be valid only beside them.
    pub(super) async fn refresh(
        &mut self,
        configured: &[NatsServer],
        announced: &[String],
        tls: Option<&NatsTls>,
    ) {
        self.asked_from = Some(Instant::now());
        // Servers that begin with it say nothing before.
        let tls = tls.filter(|tls| tls.first);
        let names = configured.iter().map(ToString::to_string).chain(announced.iter().cloned());
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for name in names.take(SERVERS_MAX) {
            let found = timeout(PATIENCE, lookup_host(&name)).await;
            let Ok(Ok(found)) = found else { continue };
            for address in found {
                if !addresses.contains(&address) && addresses.len() < SERVERS_MAX {
                    addresses.push(address);
                }
            }
        }
        let mut asked = JoinSet::new();
        for (place, address) in addresses.into_iter().enumerate() {
            let tls = tls.cloned();
            asked.spawn(async move {
                let info = timeout(PATIENCE, ask(address, tls)).await.ok().flatten();
                (place, address, info)
            });
        }
        let mut answers: Vec<_> = asked.join_all().await;
        answers.sort_by_key(|(place, ..)| *place);
        self.servers.clear();
        for (_, address, info) in answers {
            let Some(info) = info else { continue };
            self.servers.entry(info.server_name.clone()).or_insert((address, info));
        }
        self.asked_at = Some(Instant::now());
    }
}

/// Reads a server's INFO, in TLS if that comes first.
async fn ask(address: SocketAddr, tls: Option<NatsTls>) -> Option<Info> {
    let stream = TcpStream::connect(address).await.ok()?;
    let Some(tls) = tls else { return read(stream).await };
    let connector = TlsConnector::from(Arc::clone(tls.config()));
    read(connector.connect(tls.server_name(address.ip()), stream).await.ok()?).await
}

async fn read(mut stream: impl AsyncRead + Unpin) -> Option<Info> {
    let mut received = Vec::with_capacity(4_096);
    let end = loop {
        if let Some(end) = memchr::memchr(b'\n', &received) {
            break end;
        }
        if received.len() > INFO_BYTES_MAX || stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    };
    let line = received.get(..end)?.trim_ascii();
    Info::parse(line.strip_prefix(b"INFO ")?).ok()
}

/// Servers of a sub-cluster that are looked at, at most: those configured, then those announced.
const SERVERS_MAX: usize = 64;
/// For one server.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest INFO; as [`DecodeLimits`](crate::proto::nats::DecodeLimits) has it.
const INFO_BYTES_MAX: usize = 65_536;
