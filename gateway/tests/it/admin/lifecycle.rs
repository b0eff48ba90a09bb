//! Drain, reload, and what the service manager hears.

use super::http::{get, request};
use super::metrics::Samples;
use super::start;
use crate::process::gateway::{Gateway, PATIENCE, TempDirectory, gateway_command};
use crate::process::raw_client::{RawClient, V3_1_1, V5, connect, publish, subscribe};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

#[test]
fn drain_sends_clients_elsewhere_and_ends_the_process() {
    let gateway = start(&["--shards", "2", "--server-reference", "b.example:1883"]);
    let admin = gateway.admin_address();
    let mut new: Vec<RawClient> = (0..4)
        .map(|number| RawClient::connected(gateway.address(), V5, &format!("new-{number}")))
        .collect();
    let mut old = RawClient::connected(gateway.address(), V3_1_1, "old");
    // It takes no packet as large as one with a reference.
    let mut small = RawClient::open(gateway.address());
    small.send(&connect(V5, "small", &[0x27, 0, 0, 0, 20]));
    assert_eq!(small.packet().0, 0x20);
    let mut drain = gateway_command();
    drain.args(["drain", "--admin", &admin.to_string()]);
    let drain = std::thread::spawn(move || drain.output().unwrap());
    for client in &mut new {
        let mut body = vec![0x9d, 17, 0x1c, 0, 14];
        body.extend_from_slice(b"b.example:1883");
        assert_eq!(client.packets_to_the_end(), [(0xe0, body)], "Server moved, and where");
    }
    assert_eq!(small.packets_to_the_end(), [(0xe0, vec![0x9d])]);
    assert_eq!(old.packets_to_the_end(), []);
    drop((new, old, small));
    let output = drain.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    gateway.finish();
    let again = gateway_command().args(["drain", "--admin", &admin.to_string()]).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "nobody is there any more");
}

#[test]
fn a_share_of_the_clients_that_lose_nothing_is_sent_elsewhere() {
    let gateway = start(&["--shards", "2", "--server-reference", "b.example:1883"]);
    let admin = gateway.admin_address().to_string();
    let rebalance = |share: &str| {
        let mut command = gateway_command();
        command.args(["rebalance", "--admin", &admin, "--share", share, "--rate", "1000/s"]);
        command.output().unwrap()
    };
    let mut brief: Vec<RawClient> = (0..40)
        .map(|number| RawClient::connected(gateway.address(), V5, &format!("brief-{number}")))
        .collect();
    let mut old = RawClient::connected(gateway.address(), V3_1_1, "old");
    let mut lasting = RawClient::open(gateway.address());
    lasting.send(&connect(V5, "lasting", &[0x11, 0, 0, 0, 60]));
    assert_eq!(lasting.packet().0, 0x20);
    assert_eq!(rebalance("120%").status.code(), Some(64), "more than all");
    let output = rebalance("50%");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("about 2"), "half of 41, by shards: {text}");
    // Whoever is told is told before all others are.
    let output = rebalance("100%");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for client in &mut brief {
        let mut body = vec![0x9c, 17, 0x1c, 0, 14];
        body.extend_from_slice(b"b.example:1883");
        assert_eq!(client.packets_to_the_end(), [(0xe0, body)], "Use another server, and which");
    }
    assert_eq!(old.packets_to_the_end(), []);
    lasting.send(&[0xc0, 0]);
    assert_eq!(lasting.packet().0, 0xd0, "its session is here: it stays");
    let samples = Samples::scrape(gateway.admin_address());
    let sent = samples.sum("gateway_clients_sent_elsewhere_total", &[]);
    assert!((sent - 41.0).abs() < 0.5, "{sent}");
    drop((brief, old, lasting));
    gateway.stop();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a process takes")]
fn goodbyes_are_said_at_the_rate_that_is_set() {
    // Batches of one each 50 ms.
    let limits = ["--limit", "drain_connections_per_s=20", "--limit", "shutdown_timeout_s=30"];
    let gateway = start(&[&["--shards", "1"], &limits[..]].concat());
    let mut clients: Vec<RawClient> = (0..30)
        .map(|number| RawClient::connected(gateway.address(), V5, &format!("c-{number}")))
        .collect();
    let begun = Instant::now();
    gateway.terminate();
    assert_eq!(clients[0].packets_to_the_end(), [(0xe0, vec![0x8b])]);
    // Who is not told yet is still served, and nobody new is.
    let last = clients.last_mut().unwrap();
    last.send(&[0xc0, 0]);
    assert_eq!(last.packet().0, 0xd0);
    for client in &mut clients[1..] {
        assert_eq!(client.packets_to_the_end(), [(0xe0, vec![0x8b])]);
    }
    // The first goes at once, the others follow.
    assert!(begun.elapsed().as_millis() >= 29 * 50, "{:?}", begun.elapsed());
    gateway.finish();
}

#[test]
fn sighup_puts_in_force_what_can_be_and_names_the_rest() {
    let directory = TempDirectory::new();
    let file = directory.path().join("gateway.toml");
    fs::write(&file, "log = \"info\"\nshards = 1\n[limits]\nreceive_maximum = 10\n").unwrap();
    let mut gateway = start(&["--config", file.to_str().unwrap()]);
    fs::write(&file, "log = \"debug\"\nshards = 2\n[limits]\nreceive_maximum = 11\n").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("only a restart", 1);
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("only a restart")).unwrap();
    assert!(line.contains(r#"needs_a_restart=["limits.receive_maximum", "shards"]"#), "{line}");
    drop(RawClient::connected(gateway.address(), V5, "gone"));
    // Not that of whoever looked whether it listens.
    gateway.wait_for_lines(r#"connection closed client_id="gone""#, 1);
    let mut taken = RawClient::connected(gateway.address(), V5, "taken");
    let other = RawClient::connected(gateway.address(), V5, "taken");
    assert_eq!(taken.packets_to_the_end(), [(0xE0, vec![0x8E])]);
    gateway.wait_for_lines(r#"connection closed client_id="taken""#, 1);
    let log = gateway.log();
    for (what, client_id, parts) in [
        ("client connected", "gone", ["session_present=false", "peer=Some(127.0.0.1:"]),
        ("connection closed", "gone", ["reason=Peer", "peer=Some(127.0.0.1:"]),
        ("connection closed", "taken", ["why=", "peer=Some(127.0.0.1:"]),
    ] {
        let is_it = |line: &&str| line.contains(what) && line.contains(client_id);
        let line =
            log.lines().find(is_it).unwrap_or_else(|| panic!("no {what} {client_id}: {log}"));
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    drop(other);
    fs::write(&file, "log = \"loud\"\n").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("configuration not reloaded", 1);
    assert_eq!(get(gateway.admin_address(), "/api/v1/log").body, "{\"level\":\"debug\"}");
    gateway.kill();
}

/// Each key that can change while clients are connected, and what it does then.
#[test]
fn sighup_changes_what_is_only_compared_when_it_is_asked_for() {
    let directory = TempDirectory::new();
    let (file, token) = (directory.path().join("gateway.toml"), directory.path().join("token"));
    let former = "shards = 1\n[limits]\nsubscriptions_per_session_max = 100\n";
    fs::write(&file, former).unwrap();
    let mut gateway = start(&["--config", file.to_str().unwrap()]);
    let (address, admin) = (gateway.address(), gateway.admin_address());
    let mut client = RawClient::connected(address, V5, "client");
    let subscribed = |client: &mut RawClient, filter: &str| {
        client.send(&subscribe(V5, &[filter], 0));
        let (kind, body) = client.packet();
        assert_eq!(kind, 0x90, "SUBACK");
        *body.last().unwrap()
    };
    assert_eq!(subscribed(&mut client, "a/b/c"), 0);
    fs::write(&token, "first-token-of-enough-bytes\n").unwrap();
    let limits = [
        "connect_packet_bytes_max = 300",
        "connect_timeout_s = 1",
        "topic_alias_maximum_out = 0",
        "subscriptions_per_session_max = 2",
        "shared_per_session_max = 1",
        "topic_levels_max = 8",
        "session_expiry_max_s = 7",
        "keep_alive_max_s = 9",
        "drain_connections_per_s = 1000",
    ];
    let text = format!(
        "shards = 1\nserver_reference = \"other:1\"\nadmin_token_file = {token:?}\n[limits]\n{}\n",
        limits.join("\n")
    );
    fs::write(&file, text).unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("configuration reloaded", 1);
    let log = gateway.log();
    assert!(!log.contains("needs_a_restart"), "{log}");
    let taken = log.lines().find(|line| line.contains("configuration reloaded")).unwrap();
    for limit in limits {
        let key = format!("\"limits.{}\"", limit.split(' ').next().unwrap());
        assert!(taken.contains(&key), "{key}: {taken}");
    }
    for key in ["server_reference", "admin_token_file"] {
        assert!(taken.contains(&format!("\"{key}\"")), "{key}: {taken}");
    }

    // Who is connected is measured by the new ones, too.
    assert_eq!(subscribed(&mut client, "1/2/3/4/5/6/7/8/9"), 0x8f, "Topic Filter invalid");
    assert_eq!(subscribed(&mut client, "a/b"), 0);
    assert_eq!(subscribed(&mut client, "a/c"), 0x97, "Quota exceeded");
    // Session Expiry Interval and Keep Alive as they were granted.
    let mut new = RawClient::open(address);
    new.send(&connect(V5, "new", &[0x11, 0, 0, 1, 0]));
    let (kind, body) = new.packet();
    assert_eq!(kind, 0x20, "CONNACK");
    assert!(body.windows(5).any(|five| five == [0x11, 0, 0, 0, 7]), "{body:x?}");
    assert!(body.windows(3).any(|three| three == [0x13, 0, 9]), "{body:x?}");
    let mut large = RawClient::open(address);
    large.send(&connect(V5, &"x".repeat(400), &[]));
    let is_let_in = |(kind, body): &(u8, Vec<u8>)| *kind == 0x20 && body[1] == 0;
    assert!(!large.packets_to_the_end().iter().any(is_let_in));
    let mut silent = RawClient::open(address);
    assert_eq!(silent.packets_to_the_end(), [], "within a second, not ten");

    // The token is asked for from now on, and another is when the file has another.
    assert_eq!(get(admin, "/api/v1/config").status, 401);
    let known = |token: &str, path: &str| {
        request(admin, "GET", path, &[&format!("Authorization: Bearer {token}")], "")
    };
    let config = known("first-token-of-enough-bytes", "/api/v1/config");
    assert_eq!(config.status, 200);
    let config: serde_json::Value = serde_json::from_str(&config.body).unwrap();
    assert_eq!(config["limits"]["keep_alive_max_s"], 9, "what is in force is shown");
    assert_eq!(config["server_reference"], "other:1");
    fs::write(&token, "second-token-of-enough-bytes\n").unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("configuration reloaded", 2);
    assert!(!gateway.log().contains("needs_a_restart"), "{}", gateway.log());
    assert_eq!(known("first-token-of-enough-bytes", "/metrics").status, 401);
    let metrics = known("second-token-of-enough-bytes", "/metrics").body;
    let limit = metrics.lines().find(|line| line.contains("key=\"keep_alive_max_s\"")).unwrap();
    assert!(limit.ends_with(" 9"), "{limit}");
    gateway.terminate();
    let mut body = vec![0x9d, 10, 0x1c, 0, 7];
    body.extend_from_slice(b"other:1");
    assert_eq!(new.packets_to_the_end(), [(0xe0, body)], "Server moved, and where");
    drop((client, new));
    gateway.finish();
}

/// Others reach the address: without a token they would see everything.
#[test]
fn a_token_that_is_needed_stays() {
    let directory = TempDirectory::new();
    let (file, token) = (directory.path().join("gateway.toml"), directory.path().join("token"));
    fs::write(&token, "a-token-of-enough-bytes\n").unwrap();
    let text = |admin: &str, rest: &str| format!("shards = 1\nadmin = \"{admin}\"\n{rest}");
    let with_token = format!("admin_token_file = {token:?}\n");
    fs::write(&file, text("0.0.0.0:0", &with_token)).unwrap();
    // The flag of the helper would win over the file.
    let mut gateway = Gateway::start_without_admin_flag(&["--config", file.to_str().unwrap()]);
    let admin = SocketAddr::from(([127, 0, 0, 1], gateway.admin_address().port()));
    assert_eq!(get(admin, "/metrics").status, 401);
    fs::write(&file, text("127.0.0.1:0", "")).unwrap();
    gateway.hang_up();
    gateway.wait_for_lines("is in force, and needs a token", 1);
    gateway.wait_for_lines(r#"needs_a_restart=["admin"]"#, 1);
    assert_eq!(get(admin, "/metrics").status, 401);
    gateway.kill();
}

#[test]
fn a_slow_subscriber_is_in_the_log_when_it_becomes_slow_and_when_it_is_no_more() {
    let limits = ["inflight_max=2", "pending_max=4"];
    let limits: Vec<&str> = limits.iter().flat_map(|limit| ["--limit", limit]).collect();
    let mut gateway = start(&[&["--shards", "1"], &limits[..]].concat());
    let mut slow = RawClient::connected(gateway.address(), V5, "slow");
    slow.send(&subscribe(V5, &["t"], 1));
    assert_eq!(slow.packet().0, 0x90, "SUBACK");
    let mut publisher = RawClient::connected(gateway.address(), V5, "publisher");
    for packet_id in 1..=50 {
        publisher.send(&publish(V5, "t", Some(packet_id), &[], b"x"));
        assert_eq!(publisher.packet().0, 0x40, "PUBACK");
    }
    gateway.wait_for_lines("subscriber is slow: it comes no closer", 1);
    assert!(!gateway.log().contains("caught up"), "{}", gateway.log());
    for _ in 0..50 {
        let (kind, body) = slow.packet();
        assert_eq!(kind & 0xf0, 0x30, "PUBLISH");
        slow.send(&[0x40, 2, body[3], body[4]]);
    }
    gateway.wait_for_lines("subscriber has caught up", 1);
    let log = gateway.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("subscriber ")).collect();
    assert_eq!(told.len(), 2, "each change once: {told:?}");
    assert!(told.iter().all(|line| line.contains("client_id=\"slow\"")), "{told:?}");

    // At QoS 0, and nobody reads.
    let mut deaf = RawClient::connected(gateway.address(), V5, "deaf");
    deaf.send(&subscribe(V5, &["noise"], 0));
    assert_eq!(deaf.packet().0, 0x90, "SUBACK");
    let payload = vec![b'x'; 60_000];
    while Samples::scrape(gateway.admin_address())
        .sum("gateway_dropped_total", &["reason=\"slow_client\""])
        < 1.0
    {
        for _ in 0..50 {
            publisher.send(&publish(V5, "noise", None, &[], &payload));
        }
        publisher.send(&[0xc0, 0]);
        assert_eq!(publisher.packet().0, 0xd0, "PINGRESP");
    }
    gateway.wait_for_lines("QoS 0 messages for it are dropped", 1);
    drop((slow, publisher, deaf));
    gateway.stop();
}

#[test]
fn the_service_manager_hears_of_start_health_and_end() {
    let directory = TempDirectory::new();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let gateway = Gateway::start_with(&["--shards", "2"], &environment);
    let heard = |expected: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = manager.recv(&mut buffer).unwrap();
            if &buffer[..length] == expected.as_bytes() {
                return;
            }
        }
    };
    heard("READY=1");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    gateway.terminate();
    heard("STOPPING=1");
    gateway.finish();
}

#[test]
fn log_lines_are_objects_if_they_are_to_be() {
    let mut gateway = start(&["--log-format", "json", "--log", "debug"]);
    let mut client = RawClient::connected(gateway.address(), V5, "a");
    client.send(&[0xe0, 0]);
    gateway.wait_for_lines("connection closed", 1);
    for line in gateway.log().lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object["level"].is_string() && object["message"].is_string(), "{line}");
    }
    let samples = Samples::scrape(gateway.admin_address());
    assert!((samples.sum("gateway_closed_total", &[]) - 1.0).abs() < 1e-9);
    gateway.kill();
}
