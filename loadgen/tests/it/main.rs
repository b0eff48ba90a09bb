//! `loadgen run` against the gateway, with a proxy between that breaks promises on purpose: each kind
//! of fault must be found, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(clippy::indexing_slicing, reason = "a test that cannot go on says where")]

mod broker;
mod certificates;
mod proxy;
mod transports;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use broker::Broker;
use proxy::{Fault, Proxy};
use serde_json::Value;

const STEADY: &str = "[[phase]]\nkind = \"ramp\"\nduration_s = 0.3\n\
                      [[phase]]\nkind = \"steady\"\nduration_s = 1.5\n";

/// A run that ended.
struct Ran {
    code: i32,
    /// `result.json`, null if there is none.
    result: Value,
    said: String,
}

impl Ran {
    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        self.result["ledger"][name].as_u64().unwrap_or_else(|| panic!("{name}: {}", self.said))
    }
}

/// Runs a small scenario with these lines and phases.
fn run(target: SocketAddr, lines: &str, phases: &str, flags: &[&str]) -> Ran {
    run_at(&format!("mqtt://{target}"), lines, phases, flags)
}

/// The same against the broker at `url`, or at none that the command line names.
fn run_at(url: &str, lines: &str, phases: &str, flags: &[&str]) -> Ran {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder: PathBuf =
        std::env::temp_dir().join(format!("loadgen-it-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let scenario = folder.join("scenario.toml");
    let text = format!(
        "name = \"test\"\nworkload = \"p2p\"\ndevices = 10\nrate_per_s = 200\nmqtt = \"3.1.1\"\n\
         payload_bytes = 64\nconnect_per_s = 1000\nquiet_s = 1.0\nprobes = 0\n{lines}\n{phases}"
    );
    fs::write(&scenario, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("run")
        .arg(&scenario)
        .args(["--quiet", "--late-share", "1"])
        .arg("--out")
        .arg(&folder)
        .args(if url.is_empty() { Vec::new() } else { vec!["--broker", url] })
        .args(flags)
        .output()
        .unwrap();
    let Output { status, stdout, stderr } = output;
    let result = fs::read(folder.join("result.json"))
        .map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    fs::remove_dir_all(&folder).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ran { code: status.code().unwrap(), result, said }
}

/// A run through a proxy with this fault breaks the contract, and the ledger says `count`.
#[track_caller]
fn check_found(fault: Fault, lines: &str, phases: &str, count: &str) -> Ran {
    let broker = Broker::start();
    let proxy = Proxy::start(broker.address(), fault);
    let ran = run(proxy.address(), lines, phases, &[]);
    assert!(proxy.faults() > 0, "the proxy had nothing to break: {}", ran.said);
    assert_eq!(ran.code, 2, "{}", ran.said);
    assert!(ran.count(count) > 0, "{}", ran.said);
    ran
}

#[test]
fn an_honest_broker_holds_every_contract() {
    let broker = Broker::start();
    let proxy = Proxy::start(broker.address(), Fault::None);
    let fault = "[[phase]]\nkind = \"fault\"\nfault = \"vanish\"\nduration_s = 0.5\n\
                 [[phase]]\nkind = \"fault\"\nfault = \"reset\"\nduration_s = 0.5\n\
                 [[phase]]\nkind = \"fault\"\nfault = \"power-cut\"\nduration_s = 0.5\n\
                 [[phase]]\nkind = \"recover\"\nduration_s = 3\n";
    for qos in [1, 2] {
        let lines = format!("qos = {qos}\nwills = true\nretain = true\n");
        let ran = run(proxy.address(), &lines, &format!("{STEADY}{fault}"), &[]);
        assert_eq!(ran.code, 0, "{}", ran.said);
        assert!(ran.count("owed") > 300, "{}", ran.said);
        assert_eq!(ran.count("owed"), ran.count("delivered"), "{}", ran.said);
        assert!(ran.result["fleet"]["counts"]["wills_owed"].as_u64() >= Some(10), "{}", ran.said);
        assert!(ran.result["storms"][2]["t100_s"].as_f64().is_some(), "{}", ran.said);
    }
}

/// A connection that is reset owes a will only where the device has one.
#[test]
fn without_wills_none_is_missed() {
    let broker = Broker::start();
    let reset = "[[phase]]\nkind = \"fault\"\nfault = \"reset\"\nduration_s = 1.5\n";
    let ran = run(broker.address(), "qos = 1", &format!("{STEADY}{reset}"), &[]);
    assert_eq!(ran.code, 0, "{}", ran.said);
    assert_eq!(ran.result["fleet"]["counts"]["wills_owed"], 0, "{}", ran.said);
}

#[test]
fn a_lost_message_is_found() {
    let ran = check_found(Fault::LoseDeliveries, "qos = 1", STEADY, "lost");
    assert_eq!(ran.count("lost"), ran.count("acknowledged_then_lost"), "{}", ran.said);
}

#[test]
fn an_acknowledged_message_that_was_never_taken_is_found() {
    check_found(Fault::AcknowledgeAndForget, "qos = 1", STEADY, "acknowledged_then_lost");
}

#[test]
fn a_doubled_message_is_found_at_qos_2() {
    let ran = check_found(Fault::Double, "qos = 2", STEADY, "duplicated");
    assert_eq!(ran.count("lost"), 0, "{}", ran.said);
}

#[test]
fn a_message_out_of_order_is_found() {
    let ran = check_found(Fault::Reorder, "qos = 1", STEADY, "reordered");
    assert_eq!(ran.count("duplicated"), 0, "{}", ran.said);
}

#[test]
fn a_corrupted_message_is_found_even_at_qos_0() {
    check_found(Fault::Corrupt, "qos = 0", STEADY, "corrupted");
}

#[test]
fn a_forgotten_session_is_found() {
    let reset = "[[phase]]\nkind = \"fault\"\nfault = \"reset\"\nduration_s = 1\n";
    let phases = format!("{STEADY}{reset}");
    check_found(Fault::ForgetSessions, "qos = 1", &phases, "sessions_lost");
}

#[test]
fn a_will_that_does_not_come_is_found() {
    let vanish = "[[phase]]\nkind = \"fault\"\nfault = \"vanish\"\nduration_s = 1\n";
    let phases = format!("{STEADY}{vanish}");
    check_found(Fault::LoseWills, "qos = 1\nwills = true", &phases, "wills_missing");
}

#[test]
fn a_retained_message_that_is_gone_is_found() {
    check_found(Fault::LoseRetained, "qos = 1\nretain = true", STEADY, "retained_wrong");
}

#[test]
fn every_workload_holds_with_two_workers() {
    let broker = Broker::start();
    let address = broker.address();
    let workloads = ["connect", "idle", "fan-in", "fan-out", "shared", "commands"];
    std::thread::scope(|scope| {
        for workload in workloads {
            scope.spawn(move || {
                let lines = "back_ends = 2\nqos = 1";
                let flags = ["--workers", "2", "--workload", workload];
                let ran = run(address, lines, STEADY, &flags);
                assert_eq!(ran.code, 0, "{workload}: {}", ran.said);
                assert_eq!(ran.result["run"]["workers"], 2, "{workload}");
                // Subscribers may be late on a machine that is busy; what was sent before is not owed.
                let owed = if matches!(workload, "connect" | "idle") { 0 } else { 20 };
                assert!(ran.count("owed") >= owed, "{workload}: {}", ran.said);
            });
        }
    });
}

#[test]
fn a_broker_that_takes_nobody_makes_the_run_invalid() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let ran = run(address, "qos = 1", STEADY, &[]);
    assert_eq!(ran.code, 3, "{}", ran.said);
}

#[test]
fn what_cannot_be_run_says_what_to_change() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let ran = run(nobody, "", STEADY, &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("--broker"), "{}", ran.said);

    let broker = Broker::start();
    let ran = run(broker.address(), "", STEADY, &["--devices", "9000000"]);
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("ulimit -n") && ran.said.contains("--workers"), "{}", ran.said);

    let ran = run(broker.address(), "colour = 1", STEADY, &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.said.contains("colour = 1"), "{}", ran.said);
}

/// A broker that answers nobody gets as many connections as may be in the making, and no more.
#[test]
fn idle_devices_wait_for_those_in_the_making() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["idle", "--quiet", "--connections", "50", "--concurrency", "5"])
        .args(["--connect-timeout-s", "1", "--target", &target.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("0 of 50 connections ready"), "{said}");
    listener.set_nonblocking(true).unwrap();
    // One more connection asks whether anybody is there.
    let connections = std::iter::from_fn(|| listener.accept().ok()).count();
    assert_eq!(connections, 5 + 1);
}

/// What the broker tells of itself is what `/proc` says of it.
#[test]
fn a_broker_is_watched_by_its_metrics() {
    let broker = Broker::start();
    let url = format!("http://{}/metrics", broker.admin());
    let lines = "qos = 1\n";
    let watched = |flags: &[&str]| {
        let ran = run(broker.address(), lines, STEADY, flags);
        assert_eq!(ran.code, 0, "{}", ran.said);
        let process = ran.result["processes"].as_array().unwrap();
        process.iter().find(|process| process["role"] == "broker").unwrap().clone()
    };
    let last = |process: &Value, key: &str| {
        process["points"].as_array().unwrap().last().unwrap()[key].as_f64().unwrap()
    };
    let told = watched(&["--watch-metrics", &url]);
    let seen = watched(&["--watch-pid", &broker.pid().to_string()]);
    assert_eq!((told["pid"].as_u64(), told["command"].as_str()), (Some(0), Some(url.as_str())));
    for key in ["rss_bytes", "fds", "threads"] {
        let (told, seen) = (last(&told, key), last(&seen, key));
        assert!(told > 0.0 && (told / seen - 1.0).abs() < 0.3, "{key}: {told} and {seen}");
    }
    assert!(last(&told, "cpu_s") > 0.0 && last(&told, "cpu_s") <= last(&seen, "cpu_s"));

    let ran = run(broker.address(), lines, STEADY, &["--watch-metrics", &format!("{url}x")]);
    assert!(ran.said.contains(&format!("{url}x")) && ran.said.contains("404"), "{}", ran.said);
}
