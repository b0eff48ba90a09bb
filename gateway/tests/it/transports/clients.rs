//! Clients that others wrote, with all they try over TCP (`process/clients.rs`), over TLS and
//! WebSocket.

use super::party::Party;
use super::wire::{ALL, Wire};
use crate::process::clients::{node, python, run_script};

/// Runs a script of paho's over everything but TCP.
fn paho(script: &str) {
    let party = Party::start(&["--shards", "2"]);
    let ca = party.authority.file();
    for wire in ALL.into_iter().filter(|wire| *wire != Wire::Tcp) {
        let Some(command) = python() else { return };
        let port = party.address(wire).port().to_string();
        let mut arguments = vec![port.as_str(), wire.scheme()];
        arguments.extend(wire.is_tls().then(|| ca.to_str().unwrap()));
        run_script(command, script, &arguments);
    }
    party.gateway.stop();
}

#[test]
fn paho_python_3_1_1_over_tls_and_websocket() {
    paho("paho_v3.py");
}

#[test]
fn paho_python_5_0_over_tls_and_websocket() {
    paho("paho_v5.py");
}

#[test]
fn mqtt_js_over_tls_and_websocket() {
    let party = Party::start(&["--shards", "2"]);
    let ca = party.authority.file();
    for wire in ALL.into_iter().filter(|wire| *wire != Wire::Tcp) {
        let Some(mut command) = node() else { return };
        command.env("NODE_EXTRA_CA_CERTS", &ca);
        let port = party.address(wire).port().to_string();
        run_script(command, "mqtt_js.js", &[&port, wire.scheme()]);
    }
    party.gateway.stop();
}
