//! Lame duck mode: servers of a sub-cluster of three are taken out of use in turn, and come back.

use super::party::{Party, now};
use super::replicas::Cluster;
use crate::nats::server::{NatsServer, free_ports};
use crate::process::gateway::TempDirectory;
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// So long a server in lame duck mode waits before it closes the first connection: longer than the
/// test does.
const CONFIGURATION: &str = "lame_duck_grace_period: \"5m\"\nlame_duck_duration: \"10m\"\n";

/// What the server's monitoring says, unless its process is ending or has ended.
fn said(monitor: SocketAddr, path: &str) -> Option<(bool, serde_json::Value)> {
    let mut stream = TcpStream::connect(monitor).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_good = head.split(' ').nth(1)? == "200";
    Some((is_good, serde_json::from_str(body).ok()?))
}

/// Whether the server has everything that others have.
fn is_healthy(monitor: SocketAddr) -> bool {
    said(monitor, "/healthz").is_some_and(|(is_good, _)| is_good)
}

/// Whether no gateway is connected any more. A server without connections ends its process.
fn is_deserted(monitor: SocketAddr) -> bool {
    said(monitor, "/connz").is_none_or(|(_, said)| said["num_connections"] == 0)
}

/// Publishes until `is_done`; returns the longest time in which nothing was acknowledged.
fn longest_pause(party: &mut Party, what: &str, mut is_done: impl FnMut() -> bool) -> Duration {
    let (mut seen, mut since, mut longest) = (0, now(), Duration::ZERO);
    party.go_on(what, true, |party| {
        let count = party.ledger.acknowledged_count();
        longest = longest.max(since.elapsed());
        if count != seen {
            (seen, since) = (count, now());
        }
        is_done()
    });
    longest
}

/// NATS documentation, "Lame duck mode": clients move to other servers before they are closed.
#[test]
fn a_rolling_upgrade_of_all_servers_takes_nothing_with_it() {
    let directory = TempDirectory::new();
    let file = directory.path().join("nats.conf");
    std::fs::write(&file, CONFIGURATION).unwrap();
    let ports: [u16; 3] = free_ports();
    let monitors = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let servers = NatsServer::start_cluster_with(|number| {
        let port = ports[number].to_string();
        let file = file.to_str().unwrap().to_owned();
        vec!["--config".to_owned(), file, "--http_port".to_owned(), port]
    });
    let Cluster { mut servers, mut party, .. } = Cluster::start_on(servers);
    for (server, monitor) in servers.iter_mut().zip(monitors) {
        party.publish_until_acknowledged("before", 200);
        server.signal(Signal::USR2);
        let what = "all connections leave the server";
        let pause = longest_pause(&mut party, what, || is_deserted(monitor));
        eprintln!("nothing was acknowledged for {pause:?}");
        party.publish_until_acknowledged("with two", 200);
        server.kill();
        server.start_again();
        server.wait_until_ready();
        party.go_on("the server catches up", true, |_| is_healthy(monitor));
    }
    party.publish_until_acknowledged("with all", 200);
    party.all_arrived();
    assert_eq!(party.disconnected, [], "no client was told of any of it");
    let logs: String = party.nodes.iter_mut().map(|node| node.log()).collect();
    assert!(logs.contains("the server is in lame duck mode"), "{logs}");
}
