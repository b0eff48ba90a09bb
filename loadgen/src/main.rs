//! Load generator and checker for MQTT brokers.
//!
//! Reading order: [`args`] decides, [`client`] speaks MQTT (sans-IO), [`mod@transport`] wraps it in TLS and
//! WebSocket (sans-IO too), [`engine`] moves bytes,
//! [`schedule`] says when to send, [`ledger`] and [`stats`] keep the books, [`watch`] reads what
//! the broker used; [`mod@bench`] and [`hold`] put them together, [`report`] says what came out, and
//! [`result`] is what is kept of it; [`page`] shows it, and
//! [`plan`] says what it means for a fleet; [`compare`] runs the program again and again.

mod args;
mod bench;
mod client;
mod clock;
mod compare;
mod device;
mod engine;
mod hold;
mod ledger;
mod page;
mod payload;
mod plan;
mod profile;
mod progress;
mod random;
mod report;
mod result;
mod run;
mod schedule;
mod stats;
mod transport;
mod watch;

use std::{fmt::Display, fs, process::ExitCode};

use anyhow::{Context as _, anyhow};
use clap::{CommandFactory as _, Parser as _};
use serde::Serialize;

use args::{Arguments, Command, TargetArguments};
use profile::Profile;
use result::RunResult;

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
            let target = arguments.target.clone();
            let (report, result) = bench::run(arguments)?;
            publish(&report, &result, &target)
        }
        Command::Idle(arguments) => {
            let (report, result) = hold::idle(&arguments)?;
            publish(&report, &result, &arguments.target)
        }
        Command::Storm(arguments) => {
            let (report, result) = hold::storm(&arguments)?;
            publish(&report, &result, &arguments.target)
        }
        Command::Compare(arguments) => {
            let compared = compare::run(&arguments)?;
            print!("{compared}");
            Ok(compared.exit_code())
        }
        Command::Documents { directory } => {
            gateway::config::documents::write_documents(Arguments::command(), &directory)?;
            Ok(0)
        }
        Command::Plan(arguments) => {
            print!("{}", plan::run(&arguments)?);
            Ok(0)
        }
        Command::Report(arguments) => {
            let result = result::read(&arguments.folder)?;
            let path = arguments.out.unwrap_or_else(|| arguments.folder.join("report.html"));
            result::write_file(&path, page::run_report(&result).as_bytes())?;
            println!("{}", path.display());
            Ok(0)
        }
        Command::Merge(arguments) => {
            let parts = arguments.parts.iter().map(|part| result::read(part));
            let whole = result::merge(parts.collect::<anyhow::Result<_>>()?)?;
            result::write(&arguments.out, &whole)?;
            Ok(whole.verdict.outcome.exit_code())
        }
        Command::Run(arguments) => {
            let result = run::run(&arguments)?;
            print!("{}", run::Said(&result));
            if let Some(folder) = arguments.folder() {
                result::write(folder, &result)?;
            }
            Ok(result.verdict.outcome.exit_code())
        }
        Command::Profiles(arguments) => profiles(arguments.name.as_deref()),
    }
}

/// Prints the names of the profiles, or one of them.
fn profiles(name: Option<&str>) -> anyhow::Result<u8> {
    let Some(name) = name else {
        for name in Profile::names() {
            let profile = Profile::load(name).map_err(|faults| anyhow!(faults.join("\n")))?;
            println!("{name:<18}{}", profile.about);
        }
        return Ok(0);
    };
    let text = Profile::text(name).with_context(|| format!("there is no profile {name}"))?;
    print!("{text}");
    Ok(0)
}

/// Prints a report and writes it where it was asked for; returns the exit code.
fn publish<R: Display + Serialize>(
    report: &R,
    result: &RunResult,
    target: &TargetArguments,
) -> anyhow::Result<u8> {
    print!("{report}");
    if let Some(path) = &target.json {
        let text =
            serde_json::to_string_pretty(report).context("cannot write the report as JSON")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(folder) = &target.out {
        result::write(folder, result)?;
    }
    Ok(result.verdict.outcome.exit_code())
}
