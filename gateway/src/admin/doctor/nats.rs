//! The servers of each sub-cluster: whether they are there, new enough, let the gateway in, and what
//! an acknowledgement of theirs is worth.

use super::{Examination, Finding, Severity};
use crate::config::{Config, NatsIdentity, NatsServer, NatsTls, SubClusterConfig};
use crate::proto::nats::Info;
use crate::upstream::jetstream::control::{Examined, ServerFacts, ServerFault, examine};
use rustls::{ClientConnection, StreamOwned};
use std::io::{BufRead as _, BufReader, Read};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest INFO read.
const INFO_BYTES_MAX: u64 = 65_536;
/// The oldest nats-server whose JetStream has what is used.
const VERSION_MIN: (u32, u32, u32) = (2, 12, 2);
/// Packets of clients may be as large, escaped.
const MAX_PAYLOAD_MIN: u64 = 1_048_576;

/// Adds what the servers say.
pub(super) fn ask(config: &Config, out: &mut Examination) {
    // Before it is known who connects: a server that is not there is asked nothing else.
    let mut silent = Vec::new();
    for sub_cluster in &config.nats {
        for server in &sub_cluster.servers {
            match info(server, sub_cluster.tls.as_ref()) {
                Ok(info) => judge(&sub_cluster.name, server, &info, out),
                Err(error) => {
                    out.findings.push(absent(&sub_cluster.name, server, &error));
                    silent.push(server);
                }
            }
        }
    }
    let examined = match config.nats.is_empty() {
        true => Vec::new(),
        false => examine(&config.into()).unwrap_or_default(),
    };
    for sub_cluster in &config.nats {
        let its = |one: &&Examined| one.sub_cluster == sub_cluster.name;
        let mut known = None;
        for Examined { server, said, .. } in examined.iter().filter(its) {
            match said {
                Ok(facts) => {
                    let SubClusterConfig { name, .. } = sub_cluster;
                    out.good.push(format!(
                        "nats: {name}: {server} lets the gateway in, JetStream is on"
                    ));
                    if !facts.missing_permissions.is_empty() {
                        out.findings.push(forbidden(name, server, &facts.missing_permissions));
                    }
                    known.get_or_insert(facts);
                }
                Err(_) if silent.contains(&server) => {}
                Err(fault) => out.findings.push(refused(sub_cluster, server, fault)),
            }
        }
        note_durability(sub_cluster, known, out);
    }
}

fn absent(sub_cluster: &str, server: &NatsServer, error: &str) -> Finding {
    Finding {
        subject: "nats",
        severity: Severity::Must,
        found: format!("sub-cluster {sub_cluster}: {server} does not answer: {error}"),
        wanted: "a nats-server there".to_owned(),
        why: "publishers of its topics wait until it is back".to_owned(),
        change: "start it, or correct its address and the firewall".to_owned(),
    }
}

/// A server whose user for the gateway may not do all that a gateway does.
fn forbidden(sub_cluster: &str, server: &NatsServer, missing: &[String]) -> Finding {
    Finding {
        subject: "nats_permissions",
        severity: Severity::Must,
        found: format!(
            "sub-cluster {sub_cluster}: {server} does not permit {}",
            missing.join(", ")
        ),
        wanted: "the permissions of a gateway".to_owned(),
        why: "what needs them fails once a client asks for it".to_owned(),
        change: "the permissions of its user, as in tuning/nats-server.conf".to_owned(),
    }
}

/// A server that is there and is of no use.
fn refused(sub_cluster: &SubClusterConfig, server: &NatsServer, fault: &ServerFault) -> Finding {
    let SubClusterConfig { name, identity, .. } = sub_cluster;
    let (subject, found, wanted, change) = match fault {
        ServerFault::Refused(why) => (
            "nats_login",
            format!("does not let the gateway in: {why}"),
            "the configured credentials accepted",
            match identity {
                NatsIdentity::None => {
                    "it asks for credentials and none are configured: user and password, token, nkey or \
                     creds of the [[nats]] table, as its authorization block has them"
                }
                _ => {
                    "make the [[nats]] table and its authorization block say the same, and see its log \
                     for whom it refused"
                }
            },
        ),
        ServerFault::Unreached(why) => (
            "nats_connect",
            format!("takes no connection: {why}"),
            "a connection",
            "with TLS, `ca_file` and what the gateway shows (`client_certificate_file`) beside the tls block \
             of the server, which says more in its log",
        ),
        ServerFault::NoJetStream => (
            "nats_jetstream",
            "has JetStream off, or not for the account of the gateway's user".to_owned(),
            "JetStream for this account",
            "`jetstream { store_dir: ... }`, and `jetstream: enabled` in the account if there are accounts",
        ),
        ServerFault::Silent(why) => (
            "nats_answer",
            format!("lets the gateway in and does not answer: {why}"),
            "an answer of the JetStream API",
            "the permissions of its user, as in tuning/nats-server.conf; of a cluster, whether most of its \
             servers are there",
        ),
    };
    Finding {
        subject,
        severity: Severity::Must,
        found: format!("sub-cluster {name}: {server} {found}"),
        wanted: wanted.to_owned(),
        why: "publishers of its topics wait until the gateway can store there".to_owned(),
        change: change.to_owned(),
    }
}

/// The INFO that every server sends first, before it knows who connects, and before TLS unless that is
/// configured to come first.
fn info(server: &NatsServer, tls: Option<&NatsTls>) -> Result<Info, String> {
    let tls = tls.filter(|tls| tls.first);
    let host = server.host.trim_matches(['[', ']']);
    let addresses = (host, server.port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut fault = "its name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
                let Some(tls) = tls else { return read_info(stream) };
                let name = tls.server_name(address.ip());
                let connection = ClientConnection::new(Arc::clone(tls.config()), name);
                let connection = connection.map_err(|error| error.to_string())?;
                return read_info(StreamOwned::new(connection, stream));
            }
            Err(error) => fault = error.to_string(),
        }
    }
    Err(fault)
}

fn read_info(stream: impl Read) -> Result<Info, String> {
    let mut line = Vec::new();
    let read = BufReader::new(stream.take(INFO_BYTES_MAX)).read_until(b'\n', &mut line);
    read.map_err(|error| error.to_string())?;
    let object = line.strip_prefix(b"INFO ").ok_or("what answers is no nats-server")?;
    Info::parse(object.trim_ascii_end()).map_err(|error| error.to_string())
}

fn judge(sub_cluster: &str, server: &NatsServer, info: &Info, out: &mut Examination) {
    let findings_before = out.findings.len();
    let mut must = |found: String, wanted: &str, why: &str, change: &str| {
        out.findings.push(Finding {
            subject: "nats",
            severity: Severity::Must,
            found: format!("sub-cluster {sub_cluster}: {server} {found}"),
            wanted: wanted.to_owned(),
            why: why.to_owned(),
            change: change.to_owned(),
        });
    };
    if version(&info.version).is_some_and(|version| version < VERSION_MIN) {
        let why = "the streams need features of 2.12, in whose first two releases readers that are behind stay so";
        must(format!("is nats-server {}", info.version), "2.12.2 or later", why, "upgrade it");
    }
    if !info.jetstream {
        let change = "`jetstream { store_dir: ... }`, as in tuning/nats-server.conf";
        must("has JetStream off".to_owned(), "on", "messages are stored there", change);
    }
    if info.max_payload_bytes < MAX_PAYLOAD_MIN {
        let found = format!("takes payloads up to {} bytes", info.max_payload_bytes);
        let why = "a packet of a client may be that large";
        must(found, "1 MiB or more", why, "`max_payload: 1MB`, the server's default");
    }
    if out.findings.len() == findings_before {
        out.good.push(format!("nats: {sub_cluster}: {server} is nats-server {}", info.version));
    }
}

/// What an acknowledgement is worth there. Whether a server syncs always it says to its operators only.
fn note_durability(
    sub_cluster: &SubClusterConfig,
    facts: Option<&ServerFacts>,
    out: &mut Examination,
) {
    let SubClusterConfig { name, replicas, .. } = sub_cluster;
    let find = |severity, found: String, wanted: &str, why: &str, change: &str| Finding {
        subject: "nats_durability",
        severity,
        found: format!("sub-cluster {name} {found}"),
        wanted: wanted.to_owned(),
        why: why.to_owned(),
        change: change.to_owned(),
    };
    if let Some(facts) = facts
        && *replicas > 1
        && !facts.is_clustered
    {
        out.findings.push(find(
            Severity::Must,
            format!("is a server without a cluster, and replicas = {replicas}"),
            "as many servers in one cluster",
            "the server refuses to make the streams",
            "`cluster { ... }` in the servers' configuration as in tuning/nats-r3.conf, or replicas = 1",
        ));
        return;
    }
    let streams = facts.map_or(&[][..], |facts| &facts.streams);
    for stream in streams {
        let stream_name = &stream.name;
        if stream.is_in_memory {
            out.findings.push(find(
                Severity::Must,
                format!("keeps stream {stream_name} in memory"),
                "storage = file",
                "what is acknowledged is gone when its servers restart, and the gateway does not use it",
                "if nothing else uses the stream, delete it: the gateway makes it anew",
            ));
        }
        if stream.is_written_later {
            out.findings.push(find(
                Severity::Should,
                format!("acknowledges before stream {stream_name} is written (persist_mode = async)"),
                "persist_mode = default",
                "a crash of the server takes what was acknowledged",
                "the mode of a stream cannot be changed: stop its gateways, back up, delete, restore with it",
            ));
        }
        if stream.replicas_away > 0 {
            out.findings.push(find(
                Severity::Should,
                format!(
                    "has {} of {} replicas of stream {stream_name} away or behind",
                    stream.replicas_away, stream.replicas
                ),
                "all of them current",
                "one server less may be lost before publishers wait",
                "`nats stream info` says which; start it, or wait until it has caught up",
            ));
        }
    }
    // Those that are there count; at the next start the gateway gives them more if they are to have.
    let kept = streams.iter().map(|stream| stream.replicas).min().unwrap_or(*replicas);
    if kept < *replicas {
        out.findings.push(find(
            Severity::Consider,
            format!("keeps {kept} copies of a stream so far, and replicas = {replicas}"),
            "as configured",
            "what is stored survives the loss of fewer servers",
            "start a gateway with this configuration: it changes the stream",
        ));
    }
    if kept > 1 {
        out.good.push(format!(
            // Acknowledged is what most have.
            "nats: {name} keeps {kept} replicas: acknowledged survives the loss of {} server(s)",
            kept / 2
        ));
        return;
    }
    out.findings.push(find(
        Severity::Consider,
        "keeps one copy of each message".to_owned(),
        "three replicas, or a server that syncs always",
        "a server acknowledges before its disk has the message: a power cut takes what it had not \
         synced, up to two minutes by default. Whether it syncs always it does not say to clients",
        "`sync_interval: always` in the server's jetstream block if you have not set it \
         (tuning/nats-server.conf), or replicas = 3 on three servers (tuning/nats-r3.conf)",
    ));
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split(['.', '-']);
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some((major, minor, numbers.next().map_or(Ok(0), str::parse).ok()?))
}
