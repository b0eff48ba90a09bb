//! WebSocket itself: its frames, its end, and clients that others wrote.

use super::party::Party;
use super::websocket_client::{REQUEST, WebSocketStream, frame, read_answer, read_frame};
use super::wire::{Client, Socket, Wire};
use crate::packets::framed;
use crate::process::raw_client::{V3_1_1, V5, connect, publish, subscribe};
use crate::process::tools::{run, tool, tools_folder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// MQTT 5.0 [MQTT-6.0.0-2]; MQTT 3.1.1 [MQTT-6.0.0-2].
#[test]
fn packets_need_not_match_frames() {
    let party = Party::start(&["--shards", "2"]);
    for wire in [Wire::Ws, Wire::Wss] {
        for frame_bytes in [1, 3, 1_000] {
            let name = format!("{wire:?} {frame_bytes}");
            let below = party.below_websocket(wire, Socket::open(party.address(wire)));
            let mut client = Client::new(Box::new(WebSocketStream::open(below, frame_bytes)));
            // Several packets in one message, each in several frames.
            let mut all = connect(V3_1_1, &name, &[]);
            all.extend(subscribe(V3_1_1, &[&name], 0));
            all.extend(publish(V3_1_1, &name, None, &[], &[b'x'; 3_000]));
            client.send(&all);
            let kinds: Vec<u8> = (0..3).map(|_| client.packet().0).collect();
            assert_eq!(kinds, [0x20, 0x90, 0x30], "{name}");
        }
    }
    party.gateway.stop();
}

/// MQTT 5.0 [MQTT-6.0.0-1]; MQTT 3.1.1 [MQTT-6.0.0-1].
#[test]
fn a_text_frame_closes_the_connection() {
    let party = Party::start(&["--shards", "2"]);
    for wire in [Wire::Ws, Wire::Wss] {
        let mut below = party.websocket(wire, &frame(0x81, &connect(V5, "text", &[])));
        let unsupported = 1003_u16.to_be_bytes();
        assert_eq!(read_frame(&mut below).unwrap(), (0x88, unsupported.to_vec()), "{wire:?}");
        assert_eq!(below.read(&mut [0]).unwrap(), 0);
    }
    party.gateway.stop();
}

/// MQTT 5.0 [MQTT-6.0.0-4]; MQTT 3.1.1 [MQTT-6.0.0-4].
#[test]
fn the_subprotocol_that_is_selected_is_mqtt() {
    let party = Party::start(&["--shards", "2"]);
    let mut socket = Socket::open(party.address(Wire::Ws));
    let request = REQUEST.replace("Protocol: mqtt", "Protocol: mqttv3.1, mqtt");
    socket.write_all(request.as_bytes()).unwrap();
    let answer = read_answer(&mut socket).unwrap();
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    drop(socket);
    party.gateway.stop();
}

#[test]
fn both_ends_close_as_websocket_has_it() {
    let party = Party::start(&["--shards", "2"]);
    for wire in [Wire::Ws, Wire::Wss] {
        for (sent, answered) in [(&b"\x03\xe8"[..], &b"\x03\xe8"[..]), (b"", b"")] {
            let mut below = party.websocket(wire, &[]);
            below.write_all(&frame(0x88, sent)).unwrap();
            assert_eq!(read_frame(&mut below).unwrap(), (0x88, answered.to_vec()), "{wire:?}");
            assert_eq!(below.read(&mut [0]).unwrap(), 0);
        }
        // DISCONNECT: the gateway closes.
        let hello = connect(V5, "polite", &[]);
        let mut below = party.websocket(wire, &frame(0x82, &hello));
        assert_eq!(read_frame(&mut below).unwrap().0, 0x82);
        below.write_all(&frame(0x82, &framed(0xe0, &[]))).unwrap();
        assert_eq!(read_frame(&mut below).unwrap(), (0x88, b"\x03\xe8".to_vec()));
    }
    party.gateway.stop();
}

/// What MQTT.js is asked to do, in Node and in a browser: subscribe, publish at each QoS, hear it.
const SCENARIO: &str = include_str!("mqtt_js_scenario.js");

#[test]
fn mqtt_js_exchanges_messages_over_both() {
    if tool("node", &["--version"]).is_none() {
        return;
    }
    let party = Party::start(&["--shards", "2"]);
    let ca = party.authority.file();
    for wire in [Wire::Ws, Wire::Wss] {
        for version in ["4", "5"] {
            let mut command = Command::new("node");
            let url = format!("{}://localhost:{}", wire.scheme(), party.address(wire).port());
            let script = format!(
                "const mqtt = require('mqtt');\n{SCENARIO}\nscenario(mqtt, process.argv[1], \
                 +process.argv[2]).then(console.log, error => {{ console.error(error); \
                 process.exit(1); }});"
            );
            command.args(["-e", &script, "--", &url, version]);
            command.env("NODE_EXTRA_CA_CERTS", &ca).env("NODE_PATH", node_modules());
            assert_eq!(run(command).trim(), "zero one two", "{wire:?}, version {version}");
        }
    }
    party.gateway.stop();
}

fn node_modules() -> std::path::PathBuf {
    tools_folder().join("node/node_modules")
}

/// A page, from a file, in a browser without a screen.
fn page_exchanges_messages(wire: Wire) {
    if tool("chromium", &["--version"]).is_none() {
        return;
    }
    let party = Party::start(&["--shards", "2"]);
    let bundle = std::fs::read_to_string(node_modules().join("mqtt/dist/mqtt.min.js")).unwrap();
    let folder = party.authority.directory();
    let page = folder.join("page.html");
    let url = format!("{}://localhost:{}", wire.scheme(), party.address(wire).port());
    let mut watcher = party.connected(Wire::Tcp, V3_1_1, "watcher");
    watcher.send(&subscribe(V3_1_1, &["page"], 0));
    assert_eq!(watcher.packet().0, 0x90);
    // Whether it could be reached is told another way.
    let tell = format!("ws://localhost:{}", party.address(Wire::Ws).port());
    std::fs::write(
        &page,
        format!(
            "<script>{}</script><script>{SCENARIO}\nconst tell = text => \
             mqtt.connect('{tell}').publish('page', text);\nscenario(mqtt, '{url}', 5).then(tell, \
             error => tell('failed: ' + error));</script>",
            bundle.replace("</script", "<\\/script")
        ),
    )
    .unwrap();
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
    ]);
    command.args(["--disable-component-update", "--disable-sync", "--no-first-run"]);
    command.args(["--remote-debugging-port=0", "--disable-dev-shm-usage"]);
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    // It asks its own store whom to trust: instead of an authority it is told this one key.
    let key = STANDARD.encode(digest(&SHA256, &party.server_key));
    command.arg(format!("--ignore-certificate-errors-spki-list={key}"));
    command.arg(format!("file://{}", page.display()));
    let mut browser = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (_, told) = watcher.packet();
    browser.kill().unwrap();
    browser.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&told[6..]), "zero one two");
    party.gateway.stop();
}

#[test]
fn a_page_in_a_browser_exchanges_messages() {
    page_exchanges_messages(Wire::Ws);
}

#[test]
fn a_page_in_a_browser_exchanges_messages_over_tls() {
    page_exchanges_messages(Wire::Wss);
}
