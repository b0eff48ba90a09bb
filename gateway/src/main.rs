//! The gateway's process: configuration, start, signals, end.

use anyhow::Context as _;
use gateway::admin::AdminServer;
use gateway::auth::{Directory, FileFault};
use gateway::config::{Config, EXIT_REFUSED, Environment, Request};
use gateway::node::Gateway;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let environment = Environment::of_this_machine();
    match Request::from_command_line(std::env::args_os(), &environment) {
        Request::Print(text) => print(&text),
        Request::Refuse(text) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(EXIT_REFUSED)
        }
        Request::ShowRing(config) => exit(show_ring(&config)),
        Request::Passwd(request) => exit(gateway::auth::passwd::run(&request)),
        Request::Check(config) => match Directory::load(&config) {
            Ok(_) => print(&config.to_toml()),
            Err(faults) => refuse(&faults),
        },
        Request::Run(config) => match Directory::load(&config) {
            Ok(directory) => exit(run(&config, &environment, directory)),
            Err(faults) => refuse(&faults),
        },
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Says what is wrong with files that the configuration names.
fn refuse(faults: &[FileFault]) -> ExitCode {
    for fault in faults {
        let _ = writeln!(std::io::stderr(), "gateway: {fault}");
    }
    ExitCode::from(EXIT_REFUSED)
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the ring in force.
fn show_ring(config: &Config) -> anyhow::Result<()> {
    let text = gateway::upstream::jetstream::control::show_ring(&config.into())?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot write")
}

/// Runs until SIGTERM or SIGINT. A second one ends the process at once. SIGHUP reads files anew.
fn run(config: &Config, environment: &Environment, directory: Directory) -> anyhow::Result<()> {
    start_logging(config);
    if let Some(warning) = config.memory_bounds().warning(environment.memory_bytes) {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let admin = AdminServer::start(config)?;
    let mut gateway = Gateway::start(config, directory)?;
    if let Some(admin) = &admin {
        admin.attach(gateway.handle());
        tracing::info!(address = %admin.address(), "admin server");
    }
    for address in gateway.addresses() {
        tracing::info!(%address, shards = config.shards, durability = %config.durability, "listening");
    }
    while signals.forever().next() == Some(SIGHUP) {
        reload(&mut gateway, config);
    }
    tracing::info!("stopping");
    if let Some(admin) = &admin {
        admin.set_draining();
    }
    gateway.shutdown();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while signals.forever().next() == Some(SIGHUP) {}
            std::process::exit(1);
        })
        .context("cannot wait for a second signal")?;
    gateway.join()?;
    if let Some(admin) = admin {
        admin.stop();
    }
    tracing::info!("stopped");
    Ok(())
}

/// Reads files anew that say who clients are. With a fault in one nothing changes.
fn reload(gateway: &mut Gateway, config: &Config) {
    match gateway.reload_access(config) {
        Ok(()) => tracing::info!("users and rules are read anew"),
        Err(faults) => {
            for fault in faults {
                tracing::error!(%fault, "users and rules stay as they were");
            }
        }
    }
}

/// Logs to stderr: our own lines as configured, those of libraries from `warn` on. In colour only
/// where somebody watches.
fn start_logging(config: &Config) {
    let own = level(config);
    let targets = Targets::new()
        .with_default(own.min(tracing::Level::WARN))
        .with_target("gateway", own)
        // It repeats at each attempt what the control thread says once a minute.
        .with_target("async_nats", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

fn level(config: &Config) -> tracing::Level {
    use gateway::config::LogLevel;
    match config.log {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}
