//! Load generator and checker for MQTT brokers.
//!
//! Reading order: [`args`] decides, [`device`] speaks MQTT (sans-IO), [`engine`] moves bytes,
//! [`schedule`] says when to send, [`ledger`] and [`stats`] keep the books, [`watch`] reads what
//! the broker used; [`mod@bench`] and [`hold`] put them together, [`report`] says what came out.

mod args;
mod bench;
mod clock;
mod device;
mod engine;
mod hold;
mod ledger;
mod payload;
mod report;
mod schedule;
mod stats;
mod watch;

use std::{fmt::Display, fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use serde::Serialize;

use args::{Arguments, Command};

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Bench(arguments) => {
            let json = arguments.target.json.clone();
            let report = bench::run(arguments)?;
            publish(&report, json.as_deref())?;
            Ok(report.verdict.exit_code())
        }
        Command::Idle(arguments) => {
            let report = hold::idle(&arguments)?;
            publish(&report, arguments.target.json.as_deref())?;
            Ok(report.exit_code())
        }
        Command::Storm(arguments) => {
            let report = hold::storm(&arguments)?;
            publish(&report, arguments.target.json.as_deref())?;
            Ok(report.exit_code())
        }
    }
}

/// Prints a report, and writes it as JSON if a file was named.
fn publish<R: Display + Serialize>(report: &R, json: Option<&Path>) -> anyhow::Result<()> {
    print!("{report}");
    let Some(path) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(report).context("cannot write the report as JSON")?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
