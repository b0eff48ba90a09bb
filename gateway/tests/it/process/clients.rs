//! Scripts around clients in other languages: `tests/clients/`. Over TLS and WebSocket they run in
//! `transports/clients.rs`.

use super::SHARD_COUNTS;
use super::gateway::Gateway;
use super::tools::{run, tool, tools_folder};
use crate::sources::crate_folder;
use std::process::Command;

/// Runs `script` with the port of a gateway as its argument, for each number of shards.
fn check(script: &str, interpreter: impl Fn() -> Option<Command>) {
    for shards in SHARD_COUNTS {
        let Some(command) = interpreter() else { return };
        let gateway = Gateway::start(&["--shards", shards]);
        run_script(command, script, &[&gateway.port()]);
        gateway.stop();
    }
}

/// The script prints a line a scenario and ends with a code that is not zero when one failed.
pub(crate) fn run_script(mut command: Command, script: &str, arguments: &[&str]) {
    command.arg(crate_folder().join("tests/clients").join(script)).args(arguments);
    let printed = run(command);
    assert!(printed.lines().any(|line| line.starts_with("ok ")), "it ran nothing: {printed}");
}

pub(crate) fn python() -> Option<Command> {
    let mut command = tool(tools_folder().join("python/bin/python"), &["-c", "import paho.mqtt"])?;
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

pub(crate) fn node() -> Option<Command> {
    let modules = tools_folder().join("node/node_modules");
    let load = format!("require({:?})", modules.join("mqtt"));
    let mut command = tool("node", &["-e", &load])?;
    command.env("NODE_PATH", modules);
    Some(command)
}

#[test]
fn paho_python_3_1_1() {
    check("paho_v3.py", python);
}

#[test]
fn paho_python_5_0() {
    check("paho_v5.py", python);
}

#[test]
fn mqtt_js() {
    check("mqtt_js.js", node);
}
