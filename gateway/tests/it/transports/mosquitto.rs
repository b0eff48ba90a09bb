//! `mosquitto_pub` and `mosquitto_sub` over TLS and WebSocket, with all they do over TCP
//! (`process/mosquitto.rs`).

use super::party::Party;
use super::wire::Wire;
use crate::admin::metrics::Samples;
use crate::process::mosquitto::{
    Clients, Programs, SCENARIOS, VERSIONS, what_came_while_it_was_away_comes,
};
use crate::process::tools::{patience_s, run};

/// The flags that lead to the gateway over `wire`.
fn way(party: &Party, wire: Wire) -> Vec<String> {
    let port = party.address(wire).port().to_string();
    let mut flags = vec!["--host".to_owned(), "localhost".to_owned(), "--port".to_owned(), port];
    if wire.is_tls() {
        flags.extend(["--cafile".to_owned(), party.authority.file().to_str().unwrap().to_owned()]);
    }
    flags.extend(wire.is_websocket().then(|| "--ws".to_owned()));
    flags
}

/// Connections that went to the other shard, with the state of their transport, at their CONNECT.
fn handed_over(party: &Party) -> f64 {
    Samples::scrape(party.gateway.admin_address()).sum("gateway_handed_over_total", &[])
}

fn over(wire: Wire) {
    let Some(programs) = Programs::of_2_1() else { return };
    let party = Party::start(&["--shards", "2", "--admin", "127.0.0.1:0"]);
    let way = way(&party, wire);
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    for version in VERSIONS {
        let clients = Clients::new(&programs, &way, version);
        SCENARIOS.iter().for_each(|scenario| scenario(&clients));
        // 2.1.2 forgets all properties of its CONNECT over WebSocket, Session Expiry Interval with them.
        if version != "mqttv5" || !wire.is_websocket() {
            what_came_while_it_was_away_comes(&clients);
        }
    }
    // Which shard accepts a connection is the kernel's choice, and the wrong one for half of some forty.
    assert!(handed_over(&party) > 0.0);
    party.gateway.stop();
}

#[test]
fn mosquitto_2_1_over_tls() {
    over(Wire::Tls);
}

#[test]
fn mosquitto_2_1_over_websocket() {
    over(Wire::Ws);
}

#[test]
fn mosquitto_2_1_over_websocket_on_tls() {
    over(Wire::Wss);
}

/// `-L` says with one URL where to go and which topic is meant.
#[test]
fn mosquitto_2_1_understands_the_gateways_urls() {
    let Some(programs) = Programs::of_2_1() else { return };
    let party = Party::start(&["--shards", "2"]);
    let ca = party.authority.file();
    for wire in super::wire::ALL {
        let port = party.address(wire).port();
        let url = format!("{}://localhost:{port}/by/url/{wire:?}", wire.scheme());
        let command = |program: &str| {
            let mut command = programs.command(program);
            command.args(["-L", &url, "-q", "1"]);
            command.args(wire.is_tls().then_some("--cafile"));
            command.args(wire.is_tls().then_some(&ca));
            command
        };
        let mut publish = command("mosquitto_pub");
        publish.args(["-r", "-m", "hello"]);
        run(publish);
        let mut subscribe = command("mosquitto_sub");
        subscribe.args(["-C", "1", "-W", &patience_s(), "-F", "%r %t %p"]);
        assert_eq!(run(subscribe).trim(), format!("1 by/url/{wire:?} hello"));
    }
    party.gateway.stop();
}
