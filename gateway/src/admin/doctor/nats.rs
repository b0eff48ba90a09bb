//! The servers of each sub-cluster: whether they are there, new enough, and how durable they are.

use super::{Examination, Finding, Severity};
use crate::config::{Config, NatsServer, SubClusterConfig};
use crate::proto::nats::Info;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest INFO read.
const INFO_BYTES_MAX: u64 = 65_536;
/// The oldest nats-server whose JetStream has what is used.
const VERSION_MIN: (u32, u32) = (2, 12);
/// Packets of clients may be as large, escaped.
const MAX_PAYLOAD_MIN: u64 = 1_048_576;

/// Adds what the servers say.
pub(super) fn ask(config: &Config, out: &mut Examination) {
    for sub_cluster in &config.nats {
        for server in &sub_cluster.servers {
            match info(server) {
                Ok(info) => judge(&sub_cluster.name, server, &info, out),
                Err(error) => out.findings.push(Finding {
                    subject: "nats",
                    severity: Severity::Must,
                    found: format!(
                        "sub-cluster {}: {server} does not answer: {error}",
                        sub_cluster.name
                    ),
                    wanted: "a nats-server there".to_owned(),
                    why: "publishers of its topics wait until it is back".to_owned(),
                    change: "start it, or correct its address and the firewall".to_owned(),
                }),
            }
        }
        note_durability(sub_cluster, out);
    }
}

/// The INFO that every server sends first, before TLS and before it knows who connects.
fn info(server: &NatsServer) -> Result<Info, String> {
    let host = server.host.trim_matches(['[', ']']);
    let addresses = (host, server.port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut fault = "its name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return read_info(stream),
            Err(error) => fault = error.to_string(),
        }
    }
    Err(fault)
}

fn read_info(stream: TcpStream) -> Result<Info, String> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
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
        let why = "the streams need features of 2.12";
        must(format!("is nats-server {}", info.version), "2.12 or later", why, "upgrade it");
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

/// What an acknowledgement is worth there. Whether a server syncs always it does not say.
fn note_durability(sub_cluster: &SubClusterConfig, out: &mut Examination) {
    let SubClusterConfig { name, replicas, .. } = sub_cluster;
    if *replicas > 1 {
        out.good.push(format!(
            "nats: {name} keeps {replicas} replicas: acknowledged survives a server"
        ));
        return;
    }
    out.findings.push(Finding {
        subject: "nats_durability",
        severity: Severity::Consider,
        found: format!("sub-cluster {name} keeps one copy of each message (replicas = 1)"),
        wanted: "three replicas, or a server that syncs always".to_owned(),
        why: "a server acknowledges before its disk has the message: a power cut takes what it had not \
              synced, up to two minutes by default"
            .to_owned(),
        change: "`sync_interval: always` in the server's jetstream block if you have not set it, or \
                 replicas = 3 on three servers"
            .to_owned(),
    });
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
