//! What `tuning/` has for operators fits the gateway: rules, dashboard, host settings.

use super::http::get;
use super::metrics::promtool;
use super::start;
use crate::process::gateway::TempDirectory;
use crate::process::tools::{run, tool, tools_folder};
use crate::sources::crate_folder;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tuning(name: &str) -> PathBuf {
    crate_folder().join("../tuning").join(name)
}

/// Every word of `text` that is the name of a metric of ours, or of the process.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| word.starts_with("gateway_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

/// The families that a gateway exports, with the series of its histograms.
fn exported() -> BTreeSet<String> {
    let gateway = start(&["--shards", "1"]);
    let text = get(gateway.admin_address(), "/metrics").body;
    gateway.stop();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            names.insert(name.to_owned());
            if kind == "histogram" {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
            }
        }
    }
    names
}

/// The strings under `key`, wherever they are.
fn collect<'v>(value: &'v Value, key: &str, into: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let (true, Some(text)) = (name == key, value.as_str()) {
                    into.push(text);
                }
                collect(value, key, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, key, into)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_ask_only_for_what_is_exported() {
    let exported = exported();
    let alerts = fs::read_to_string(tuning("prometheus-alerts.yml")).unwrap();
    let dashboard = fs::read_to_string(tuning("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 20, "the dashboard has panels");
    for (what, text) in [("alerts", alerts), ("dashboard", expressions.join("\n"))] {
        let asked = metrics_in(&text);
        assert!(!asked.is_empty(), "{what}");
        let missing: Vec<_> = asked.difference(&exported).collect();
        assert!(missing.is_empty(), "{what}: not exported: {missing:?}");
    }
}

#[test]
fn promtool_finds_the_alerts_sound() {
    let file = tuning("prometheus-alerts.yml");
    let Some(command) = promtool(&["check", "rules", file.to_str().unwrap()]) else { return };
    assert!(run(command).contains("SUCCESS"));
}

#[test]
fn nats_server_takes_each_configuration() {
    let said = |name: &str, expected: bool| {
        let text = fs::read_to_string(tuning(name)).unwrap();
        let settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let syncs = settings.clone().any(|line| line.contains("sync_interval: always"));
        assert_eq!(syncs, expected, "{name}");
        assert!(text.matches("# Reason: ").count() >= 2, "{name} says why");
        let mut command = Command::new(tools_folder().join("python/bin/nats-server"));
        // It looks in the folder of the file for what that includes.
        command.args(["-t", "-c"]).arg(tuning(name));
        run(command);
    };
    said("nats-server.conf", true);
    let mut command = Command::new(tools_folder().join("python/bin/nats-server"));
    command.args(["-t", "-c"]).arg(tuning("nats-tenants.conf"));
    run(command);
    said("nats-r1.conf", false);
    said("nats-r3.conf", false);
}

/// A host with settings as Debian has them, below `root`.
fn make_host(root: &Path) -> [(&'static str, &'static str); 4] {
    let settings = [
        ("proc/sys/net/core/somaxconn", "4096"),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", "2048"),
        ("proc/sys/kernel/io_uring_disabled", "2"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
    ];
    for (path, value) in settings.iter().chain(&[("proc/sys/fs/nr_open", "2000000")]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }
    settings
}

#[test]
fn host_settings_are_shown_applied_and_put_back() {
    let root = TempDirectory::new();
    let before = make_host(root.path());
    let script = |option: &str| {
        let mut command = tool("bash", &["--version"]).expect("every machine has it");
        command.arg(tuning("host.sh")).arg(option).env("ROOT", root.path());
        run(command)
    };
    let value = |path: &str| fs::read_to_string(root.path().join(path)).unwrap().trim().to_owned();
    let shown = script("--show");
    assert!(shown.contains("/proc/sys/net/core/somaxconn = 4096: CHANGE to 65535"), "{shown}");
    assert!(shown.contains("/proc/sys/fs/nr_open = 2000000: good"), "higher is as good: {shown}");
    assert_eq!(value(before[0].0), "4096", "showing changes nothing");
    // Each setting is shown with its reason on the line below.
    for lines in shown.lines().collect::<Vec<_>>().chunks(2) {
        assert!(lines[1].trim().len() > 20, "{lines:?}");
    }
    let expected = ["65535", "65535", "0", "performance"];
    for round in 0..2 {
        script("--apply");
        for ((path, _), expected) in before.iter().zip(expected) {
            assert_eq!(value(path), expected, "{path}, round {round}");
        }
        assert_eq!(value("proc/sys/fs/nr_open"), "2000000");
    }
    assert!(root.path().join("etc/sysctl.d/90-gateway.conf").exists());
    assert!(!script("--show").contains("CHANGE"));
    script("--revert");
    for (path, expected) in before {
        assert_eq!(value(path), expected, "{path}");
    }
    assert!(!root.path().join("etc/sysctl.d/90-gateway.conf").exists());
}
