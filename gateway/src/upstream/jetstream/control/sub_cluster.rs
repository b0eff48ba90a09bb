//! The control thread's connection to a sub-cluster.

use super::fault::{ControlFault, Sampled};
use super::settings::SubClusterSettings;
use crate::config::{NatsIdentity, NatsTls};
use crate::upstream::jetstream::Backoff;
use async_nats::{AuthError, Client, ConnectOptions, Event, ServerAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc};
use xxhash_rust::xxh3::xxh3_64;

/// A sub-cluster that is configured, with the connection that all tasks share.
#[derive(Debug)]
pub(super) struct SubCluster {
    pub(super) settings: SubClusterSettings,
    gateway_id: String,
    client: OnceCell<Client>,
}

impl SubCluster {
    pub(super) fn new(gateway_id: &str, settings: SubClusterSettings) -> Self {
        Self { settings, gateway_id: gateway_id.to_owned(), client: OnceCell::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    /// The connection; waits until there is one. From then on async-nats keeps it.
    pub(super) async fn client(&self) -> &Client {
        self.client.get_or_init(|| self.connect()).await
    }

    /// A connection of its own, from one attempt.
    pub(super) async fn connect_once(&self) -> Result<Client, ControlFault> {
        let (client, events) = self.try_connect().await?;
        tokio::task::spawn_local(log_events(self.name().to_owned(), None, events));
        Ok(client)
    }

    /// Waits between attempts of this gateway, unlike those of others.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(FIRST_WAIT, WAIT_MAX, self.seed())
    }

    /// A number that differs between gateways and their sub-clusters.
    pub(super) fn seed(&self) -> u64 {
        let process = std::process::id();
        xxh3_64(format!("{} {} {process}", self.gateway_id, self.name()).as_bytes())
    }

    async fn connect(&self) -> Client {
        let (mut backoff, mut faults) = (self.backoff(), Sampled::default());
        loop {
            match self.try_connect().await {
                Ok((client, events)) => {
                    let server = client.server_info();
                    let (name, version) = (server.server_name, server.version);
                    tracing::info!(sub_cluster = self.name(), server = name, version, "connected");
                    let moved = Some(client.clone());
                    tokio::task::spawn_local(log_events(self.name().to_owned(), moved, events));
                    return client;
                }
                Err(fault) => log(&mut faults, self.name(), &fault),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn try_connect(&self) -> Result<(Client, mpsc::Receiver<Event>), ControlFault> {
        let servers = self.settings.servers.iter();
        let scheme = if self.settings.tls.is_some() { "tls" } else { "nats" };
        let servers: Vec<ServerAddr> = servers
            .map(|server| format!("{scheme}://{server}").parse())
            .collect::<Result<_, _>>()
            .map_err(|error| {
                async_nats::ConnectError::with_source(
                    async_nats::ConnectErrorKind::ServerParse,
                    error,
                )
            })?;
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let seed = self.seed();
        let options = with_tls(ConnectOptions::new(), self.settings.tls.as_ref());
        let options = with_identity(options, &self.settings.identity)
            .name(format!("gateway {} control", self.gateway_id))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .max_reconnects(None)
            .reconnect_delay_callback(move |attempt| reconnect_wait(attempt, seed))
            .event_callback(move |event| {
                // What does not fit is more of the same.
                let _ = events.try_send(event);
                std::future::ready(())
            });
        Ok((options.connect(servers).await?, received))
    }
}

/// The n-th wait of the same back-off as before the first connection.
fn reconnect_wait(attempt: usize, seed: u64) -> Duration {
    let mut backoff = Backoff::new(FIRST_WAIT, WAIT_MAX, seed);
    (0..attempt.min(RECONNECT_STEPS_MAX)).fold(FIRST_WAIT, |_, _| backoff.next_wait())
}

fn with_tls(options: ConnectOptions, tls: Option<&NatsTls>) -> ConnectOptions {
    let Some(tls) = tls else { return options };
    let options = options.require_tls(true).tls_client_config(tls.config().as_ref().clone());
    if tls.first { options.tls_first() } else { options }
}

fn with_identity(options: ConnectOptions, identity: &NatsIdentity) -> ConnectOptions {
    match identity {
        NatsIdentity::None => options,
        NatsIdentity::Password { user, password } => {
            options.user_and_password(user.clone(), password.clone())
        }
        NatsIdentity::Token(token) => options.token(token.clone()),
        NatsIdentity::Nkey { seed, .. } => options.nkey(seed.clone()),
        NatsIdentity::Creds { jwt, seed, .. } => {
            let seed: Arc<str> = seed.as_str().into();
            options.jwt(jwt.clone(), move |nonce| {
                let signed = nkeys::KeyPair::from_seed(&seed).and_then(|key| key.sign(&nonce));
                std::future::ready(signed.map_err(AuthError::new))
            })
        }
    }
}

/// Logs what becomes of the connection; ends with it. `lasting` is the connection if it is to leave a
/// server in lame duck mode; what holds it here keeps it open.
async fn log_events(
    sub_cluster: String,
    lasting: Option<Client>,
    mut events: mpsc::Receiver<Event>,
) {
    let mut faults = Sampled::default();
    let (mut is_lost, mut is_leaving) = (false, false);
    while let Some(event) = events.recv().await {
        match event {
            Event::Connected => {
                if std::mem::take(&mut is_lost) {
                    tracing::info!(sub_cluster, "connected again");
                }
            }
            Event::Disconnected if std::mem::take(&mut is_leaving) => is_lost = true,
            Event::Disconnected => {
                is_lost = true;
                warn(&mut faults, &sub_cluster, "connection lost");
            }
            Event::Draining | Event::Closed => {}
            Event::LameDuckMode => {
                is_leaving = leave(&sub_cluster, lasting.as_ref()).await;
            }
            Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                warn(&mut faults, &sub_cluster, &event.to_string());
            }
        }
    }
}

/// Leaves a server in lame duck mode for another one, if one is known: it accepts nobody any more, so
/// the connection does not come back to it. Returns whether it does.
async fn leave(sub_cluster: &str, client: Option<&Client>) -> bool {
    let Some(client) = client else { return false };
    let server = client.server_info().server_name;
    let has_others = has_others(client).await;
    tracing::info!(sub_cluster, server, leaves = has_others, "the server is in lame duck mode");
    has_others && client.force_reconnect().await.is_ok()
}

/// Leaves a server that names no leader for another one, if one is known: it may be cut off from the others.
pub(super) async fn leave_leaderless(sub_cluster: &str, client: &Client) {
    if has_others(client).await {
        let server = client.server_info().server_name;
        tracing::info!(sub_cluster, server, "the server knows of no leader: asking another one");
        if let Err(error) = client.force_reconnect().await {
            tracing::debug!(sub_cluster, %error, "cannot connect anew");
        }
    }
}

async fn has_others(client: &Client) -> bool {
    client.server_pool().await.is_ok_and(|servers| servers.len() > 1)
}

/// Logs a fault of `sub_cluster`, sampled.
pub(super) fn warn(faults: &mut Sampled, sub_cluster: &str, text: &str) {
    if let Some(unsaid) = faults.take(text) {
        tracing::warn!(sub_cluster, unsaid, "{text}");
    }
}

/// The same for a fault: what ends by itself is a warning, what somebody must act on an error.
pub(super) fn log(faults: &mut Sampled, sub_cluster: &str, fault: &ControlFault) {
    let text = fault.to_string();
    if fault.may_pass() {
        warn(faults, sub_cluster, &text);
    } else if let Some(unsaid) = faults.take(&text) {
        tracing::error!(sub_cluster, unsaid, "{text}");
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Also how long a server that is back waits at most to be found.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// From here on a wait is drawn from up to [`WAIT_MAX`] anyway.
const RECONNECT_STEPS_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than an election; the next poll comes sooner if one is announced.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Events of a connection that wait to be logged.
const EVENTS_MAX: usize = 16;
