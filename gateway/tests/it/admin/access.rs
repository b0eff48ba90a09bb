//! Who may ask, and what `/healthz` and `/readyz` say.

use super::http::{get, request};
use super::start;
use crate::process::gateway::{Gateway, TempDirectory};
use crate::process::raw_client::{RawClient, V5};
use std::fs;
use std::net::TcpListener;

#[test]
fn a_gateway_that_runs_is_healthy_and_ready() {
    let gateway = start(&["--shards", "2"]);
    let admin = gateway.admin_address();
    let healthy = get(admin, "/healthz");
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    let ready = get(admin, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    assert_eq!(get(admin, "/nowhere").status, 404);
    gateway.stop();
}

#[test]
fn a_gateway_that_stops_is_not_ready() {
    // A client that does not close keeps it stopping for a moment.
    let gateway = start(&["--limit", "shutdown_timeout_s=60"]);
    let admin = gateway.admin_address();
    let mut stuck = RawClient::connected(gateway.address(), V5, "stuck");
    gateway.terminate();
    // DISCONNECT comes after it has said that it is not ready.
    assert_eq!(stuck.packet().0, 0xe0);
    let ready = get(admin, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (503, "draining\n"));
    assert_eq!(get(admin, "/healthz").status, 200);
    drop(stuck);
    gateway.finish();
}

#[test]
fn with_a_token_nobody_sees_anything_without_it() {
    let directory = TempDirectory::new();
    let file = directory.path().join("token");
    fs::write(&file, "a-token-of-enough-bytes\n").unwrap();
    let gateway = start(&["--admin-token-file", file.to_str().unwrap()]);
    let admin = gateway.admin_address();
    for headers in [&[][..], &["Authorization: Bearer a-token-of-other-bytes"]] {
        let refused = request(admin, "GET", "/metrics", headers, "");
        assert_eq!(refused.status, 401);
        assert!(refused.head.contains("www-authenticate: bearer"), "{}", refused.head);
        assert!(!refused.body.contains("gateway_"), "{}", refused.body);
    }
    let headers = ["Authorization: Bearer a-token-of-enough-bytes"];
    assert_eq!(request(admin, "GET", "/metrics", &headers, "").status, 200);
    assert_eq!(get(admin, "/healthz").status, 200, "a balancer needs no token");
    gateway.stop();
}

#[test]
fn a_browser_is_nobodys_hand() {
    let gateway = start(&[]);
    let admin = gateway.admin_address();
    let rebound = request(admin, "GET", "/metrics", &["Host: rebound.example"], "");
    assert_eq!(rebound.status, 403);
    let foreign = request(admin, "GET", "/metrics", &["Origin: http://evil.example"], "");
    assert_eq!(foreign.status, 403);
    gateway.stop();
}

#[test]
fn an_address_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let data = TempDirectory::new();
    let flags = ["--listen", "mqtt://127.0.0.1:1", "--admin", &address.to_string()];
    let mut command = crate::process::gateway::gateway_command();
    let output = command.args(flags).arg("--data").arg(data.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("admin server") && text.contains(&address.to_string()), "{text}");
}

#[test]
fn without_an_admin_server_the_gateway_runs() {
    let gateway = Gateway::start(&["--admin", "none"]);
    RawClient::connected(gateway.address(), V5, "a");
    gateway.stop();
}
