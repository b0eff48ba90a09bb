//! The same runs over TLS and WebSocket: the ledger holds, sessions are resumed, and what cannot be
//! reached is said.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    Ran, STEADY,
    broker::{Broker, new_folder},
    certificates::Authority,
    run_at,
};

const FAULTS: &str = "[[phase]]\nkind = \"fault\"\nfault = \"vanish\"\nduration_s = 0.5\n\
                      [[phase]]\nkind = \"fault\"\nfault = \"reset\"\nduration_s = 0.5\n\
                      [[phase]]\nkind = \"fault\"\nfault = \"power-cut\"\nduration_s = 0.5\n\
                      [[phase]]\nkind = \"fault\"\nfault = \"disconnect\"\nduration_s = 0.5\n\
                      [[phase]]\nkind = \"recover\"\nduration_s = 3\n";
/// Each device is reset once. With MQTT 5.0 nobody comes back to end a session, as 3.1.1 has to, so
/// that handshakes can be counted.
const RESET: &str = "[[phase]]\nkind = \"fault\"\nfault = \"reset\"\nduration_s = 2\n";

fn authority() -> Authority {
    let authority = Authority::new();
    authority.issue("server", &["127.0.0.1"]);
    authority
}

/// A gateway on every transport, with the certificate `server`.
fn gateway(authority: &Authority, flags: &[&str]) -> Broker {
    let (cert, key) = (authority.text("server.pem"), authority.text("server.key"));
    let all = [&["--tls-cert", &cert, "--tls-key", &key][..], flags].concat();
    Broker::start_with(&["mqtts", "ws", "wss", "mqtt"], &all)
}

#[track_caller]
fn times(ran: &Ran, name: &str) -> u64 {
    ran.result["times"][name]["count"].as_u64().unwrap_or_else(|| panic!("{name}: {}", ran.said))
}

#[test]
fn every_transport_holds_the_contract_whatever_happens_to_connections() {
    let authority = authority();
    let ca = authority.text("ca.pem");
    let broker = gateway(&authority, &[]);
    std::thread::scope(|scope| {
        for (scheme, name) in [("mqtts", "tls"), ("ws", "ws"), ("wss", "wss")] {
            let (broker, ca) = (&broker, &ca);
            scope.spawn(move || {
                let is_tls = scheme != "ws";
                let flags = if is_tls { &["--tls-ca", ca][..] } else { &[] };
                let lines = "qos = 2\nwills = true\nretain = true\n";
                let phases = format!("{STEADY}{FAULTS}");
                let ran = run_at(&broker.url(scheme), lines, &phases, flags);
                assert_eq!(ran.code, 0, "{scheme}: {}", ran.said);
                assert!(ran.count("owed") > 300, "{scheme}: {}", ran.said);
                assert_eq!(ran.count("owed"), ran.count("delivered"), "{scheme}: {}", ran.said);
                assert_eq!(ran.result["run"]["groups"][0]["transport"], name, "{scheme}");
                // 10 devices, the monitor and the auditor begin, and each fault brings devices back.
                let (full, resumed) = (times(&ran, "tls_full"), times(&ran, "tls_resumed"));
                if is_tls {
                    assert!(full >= 11 && resumed >= 20, "{full} and {resumed}: {}", ran.said);
                } else {
                    assert_eq!((full, resumed), (0, 0), "{}", ran.said);
                }
                let upgrades = times(&ran, "upgrade");
                assert_eq!(upgrades >= 31, scheme != "mqtts", "{upgrades}: {}", ran.said);
                assert!(times(&ran, "connack") >= 31, "{}", ran.said);
            });
        }
    });
}

/// What the generator calls resumed, the broker calls so too.
#[test]
fn the_gateway_counts_as_many_sessions_resumed() {
    let authority = authority();
    let ca = authority.text("ca.pem");
    let count = |broker: &Broker, kind: &str| {
        broker.metric("gateway_tls_handshakes_total", &format!("kind=\"{kind}\""))
    };
    for version in ["1.2", "1.3"] {
        let broker = gateway(&authority, &[]);
        let flags = ["--mqtt", "5", "--tls-ca", &ca, "--tls-version", version];
        let ran = run_at(&broker.url("mqtts"), "qos = 1", &format!("{STEADY}{RESET}"), &flags);
        assert_eq!(ran.code, 0, "{}", ran.said);
        let (full, resumed) = (times(&ran, "tls_full"), times(&ran, "tls_resumed"));
        assert_eq!((full, resumed), (10, 10), "{version}: {}", ran.said);
        assert_eq!(count(&broker, "resumed"), 10, "{version}");
        // One more was the look whether the broker is there.
        assert_eq!(count(&broker, "full"), 11, "{version}");
        assert_eq!(ran.result["run"]["tls"]["version"], version);
    }
    let broker = gateway(&authority, &[]);
    let flags = ["--mqtt", "5", "--tls-ca", &ca, "--tls-resume", "off"];
    let ran = run_at(&broker.url("wss"), "qos = 1", &format!("{STEADY}{RESET}"), &flags);
    assert_eq!((times(&ran, "tls_full"), times(&ran, "tls_resumed")), (20, 0), "{}", ran.said);
    assert_eq!((count(&broker, "full"), count(&broker, "resumed")), (21, 0));
}

/// Records and frames are cut anywhere, and the handshake takes its time on the radio.
#[test]
fn a_trickle_goes_through_tls_and_websocket() {
    let authority = authority();
    let broker = gateway(&authority, &[]);
    let profile = authority.path("trickler.toml");
    let text = "name = \"trickler\"\nabout = \"sends a few bytes at a time\"\n\
                [link]\nround_trip_ms = 20.0\nuplink_bit_per_s = 0.0\ndownlink_bit_per_s = 0.0\n\
                [trickle]\nshare = 1.0\npiece_bytes = 50\ngap_ms = 1.0\n";
    fs::write(&profile, text).unwrap();
    let (profile, ca) = (profile.to_str().unwrap(), authority.text("ca.pem"));
    let flags = ["--profile", profile, "--rate", "50", "--tls-ca", &ca];
    let phases = format!("{STEADY}{RESET}");
    let ran = run_at(&broker.url("wss"), "qos = 1", &phases, &flags);
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!(ran.count("owed"), ran.count("delivered"), "{}", ran.said);
    let (full, resumed) = (times(&ran, "tls_full"), times(&ran, "tls_resumed"));
    assert!(full >= 10 && resumed >= 10, "{full} and {resumed}: {}", ran.said);
    let least_us = ran.result["times"]["tls_full"]["min_us"].as_f64().unwrap();
    assert!(least_us > 20_000.0, "a round trip is 20 ms, and the handshake took {least_us} us");
}

#[test]
fn mosquitto_holds_the_contract_over_tls_and_resumes() {
    let authority = authority();
    let (cert, key) = (authority.path("server.pem"), authority.path("server.key"));
    let Some(broker) = Broker::mosquitto(&cert, &key) else { return };
    let ca = authority.text("ca.pem");
    for version in ["1.2", "1.3"] {
        let flags = ["--mqtt", "5", "--tls-ca", &ca, "--tls-version", version];
        let ran = run_at(&broker.url("mqtts"), "qos = 1", &format!("{STEADY}{RESET}"), &flags);
        assert_eq!(ran.code, 0, "{}", ran.said);
        assert!(ran.count("owed") > 200, "{}", ran.said);
        assert_eq!(ran.count("owed"), ran.count("delivered"), "{}", ran.said);
        assert_eq!((times(&ran, "tls_full"), times(&ran, "tls_resumed")), (10, 10), "{}", ran.said);
    }
}

#[track_caller]
fn check_refused(url: &str, lines: &str, flags: &[&str], said: &[&str]) {
    let ran = run_at(url, lines, STEADY, flags);
    assert_eq!(ran.code, 1, "{}", ran.said);
    for text in said {
        assert!(ran.said.contains(text), "{text:?} is not in: {}", ran.said);
    }
}

#[test]
fn a_broker_that_cannot_be_trusted_or_understood_is_said() {
    let (authority, other) = (authority(), Authority::new());
    let broker = gateway(&authority, &[]);
    let (url, ca, wrong) = (broker.url("mqtts"), authority.text("ca.pem"), other.text("ca.pem"));
    let none_of = format!("is of none of the authorities in {wrong}");
    check_refused(&url, "", &["--tls-ca", &wrong], &[&none_of, "--tls-ca FILE"]);
    check_refused(&url, "", &[], &["the authorities", "--tls-ca FILE"]);
    let elsewhere = url.replace("127.0.0.1", "localhost");
    check_refused(&elsewhere, "", &["--tls-ca", &ca], &["is not for localhost"]);
    let plain = broker.url("mqtt").replace("mqtt:", "mqtts:");
    check_refused(&plain, "", &["--tls-ca", &ca], &["TLS", "is it the right port?"]);
    let no_websocket = broker.url("mqtt").replace("mqtt:", "ws:");
    check_refused(&no_websocket, "", &[], &["WebSocket", "is it the right port?"]);
    check_refused(&broker.url("ws"), "", &["--tls-ca", &ca], &["--tls-ca: --broker ws://"]);
    check_refused(&url, "tls_insecure = true", &["--tls-ca", &ca], &["tls_insecure = true"]);

    let ran = run_at(&url, "", STEADY, &["--tls-insecure"]);
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!(ran.result["run"]["tls"]["verified"], false);
}

#[test]
fn a_certificate_is_shown_where_one_is_asked_for() {
    let authority = authority();
    authority.issue("device", &["device"]);
    let ca = authority.text("ca.pem");
    let broker = gateway(&authority, &["--tls-client-ca", &ca]);
    let (cert, key) = (authority.text("device.pem"), authority.text("device.key"));
    for version in ["1.2", "1.3"] {
        let flags = ["--mqtt", "5", "--tls-ca", &ca, "--tls-version", version];
        check_refused(&broker.url("wss"), "", &flags, &["--tls-cert", "--tls-key"]);
        let shown = [&flags[..], &["--tls-cert", &cert, "--tls-key", &key]].concat();
        let phases = format!("{STEADY}{RESET}");
        let ran = run_at(&broker.url("wss"), "qos = 1", &phases, &shown);
        assert_eq!(ran.code, 0, "{}", ran.said);
        assert_eq!((times(&ran, "tls_full"), times(&ran, "tls_resumed")), (10, 10), "{}", ran.said);
        assert_eq!(ran.result["run"]["tls"]["client_certificate"], true);
    }
}

#[test]
fn a_scenario_file_names_the_broker_and_flags_come_first() {
    let authority = authority();
    let broker = gateway(&authority, &[]);
    let lines = format!(
        "broker = \"{}\"\ntls_ca = {:?}\ntls_version = \"1.2\"\ntls_resume = false\n",
        broker.url("mqtts"),
        authority.path("ca.pem")
    );
    let phases = format!("{STEADY}{RESET}");
    let ran =
        run_at("", &lines, &phases, &["--workers", "2", "--mqtt", "5", "--tls-version", "1.3"]);
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!((times(&ran, "tls_full"), times(&ran, "tls_resumed")), (20, 0), "{}", ran.said);
    let tls = &ran.result["run"]["tls"];
    assert_eq!((tls["version"].as_str(), tls["resume"].as_bool()), (Some("1.3"), Some(false)));
}

/// Runs `loadgen idle`: its table, and the resident memory of the generator itself at the end of the
/// first hold, bytes.
fn idle(flags: &[&str], pid: u32) -> (Value, u64) {
    let folder = new_folder();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["idle", "--quiet", "--subscribe", "own", "--seconds", "3", "--rounds", "2"])
        .args(["--connections", "400", "--watch-pid", &pid.to_string(), "--out"])
        .arg(&folder)
        .arg("--json")
        .arg(folder.with_extension("json"))
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let read = |path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let (table, result) = (read(folder.with_extension("json")), read(folder.join("result.json")));
    fs::remove_file(folder.with_extension("json")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let hold = result["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "hold");
    let end_s = hold.unwrap()["end_s"].as_f64().unwrap();
    let processes = result["processes"].as_array().unwrap();
    let own = processes.iter().find(|process| process["role"] == "generator").unwrap();
    let mut points = own["points"].as_array().unwrap().iter();
    let held = points.rfind(|point| point["at_s"].as_f64().unwrap() <= end_s).unwrap();
    (table, held["rss_anonymous_bytes"].as_u64().unwrap())
}

#[test]
fn idle_devices_on_tls_are_small_and_resume_in_the_second_round() {
    let authority = authority();
    let broker = gateway(&authority, &[]);
    let ca = authority.text("ca.pem");
    let (_, plain) = idle(&["--broker", &broker.url("mqtt")], broker.pid());
    let flags = ["--broker", &broker.url("wss"), "--tls-ca", &ca];
    let (table, secure) = idle(&flags, broker.pid());
    let rounds = table["rounds"].as_array().unwrap();
    assert_eq!((&rounds[0]["tls_full"], &rounds[0]["tls_resumed"]), (&400.into(), &0.into()));
    assert_eq!((&rounds[1]["tls_full"], &rounds[1]["tls_resumed"]), (&0.into(), &400.into()));
    let each = secure.saturating_sub(plain) / 400;
    assert!(each <= 10 << 10, "{each} bytes more than a device on TCP");
    println!("{each} bytes more than a device on TCP");
}
