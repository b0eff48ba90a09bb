//! The gateway's process: configuration, start, signals, end.

use anyhow::Context as _;
use gateway::admin::{Admin, doctor, drain};
use gateway::auth::{Directory, FileFault};
use gateway::config::{Config, EXIT_REFUSED, Environment, Request};
use gateway::logging::LogControl;
use gateway::node::Gateway;
use gateway::node::reload::{Reload, ReloadHook};
use gateway::systemd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write as _;
use std::process::ExitCode;

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
        Request::Doctor { config, json } => examine(&config, &environment, json),
        Request::Drain(config) => exit(drain(&config).map_err(Into::into)),
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

/// Prints what to change on this machine; fails if anything has to be.
fn examine(config: &Config, environment: &Environment, json: bool) -> ExitCode {
    let examination = doctor::examine(config, environment);
    let text = if json { examination.to_json() } else { examination.to_text() };
    let written = std::io::stdout().write_all(text.as_bytes());
    match written.is_ok() && examination.is_fit() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Prints the ring in force.
fn show_ring(config: &Config) -> anyhow::Result<()> {
    let text = gateway::upstream::jetstream::control::show_ring(&config.into())?;
    std::io::stdout().write_all(text.as_bytes()).context("cannot write")
}

/// Runs until SIGTERM or SIGINT. A second one ends the process at once. SIGHUP reads the
/// configuration and the files it names again.
fn run(config: &Config, environment: &Environment, directory: Directory) -> anyhow::Result<()> {
    let log = gateway::logging::start(config.log, config.log_format);
    if let Some(warning) = config.memory_bounds().warning(environment.memory_bytes) {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let admin = Admin::start(config, log.clone())?;
    let admin_address = admin.address();
    let mut gateway = Gateway::start(config, directory)?;
    let admin = admin.attach(gateway.handle());
    if let Some(address) = admin_address {
        tracing::info!(%address, "admin server");
    }
    for (address, listen) in gateway.addresses().iter().zip(&config.listen) {
        let scheme = listen.scheme.name();
        tracing::info!(scheme, %address, shards = config.shards, durability = %config.durability, "listening");
    }
    systemd::notify("READY=1");
    let mut reload = Reload::new(config);
    reload.add(log_hook(log));
    reload.add(access_hook());
    while signals.forever().next() == Some(SIGHUP) {
        systemd::notify("RELOADING=1");
        gateway.reload_tls();
        read_again(&mut reload, &mut gateway, environment);
        systemd::notify("READY=1");
    }
    tracing::info!("stopping");
    admin.set_draining();
    systemd::notify("STOPPING=1");
    gateway.shutdown();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().any(|signal| signal != SIGHUP) {
                std::process::exit(1);
            }
        })
        .context("cannot wait for a second signal")?;
    gateway.join()?;
    admin.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Reads flags and file again and puts in force what can be. A configuration with faults changes
/// nothing.
fn read_again(reload: &mut Reload, gateway: &mut Gateway, environment: &Environment) {
    match Request::from_command_line(std::env::args_os(), environment) {
        Request::Run(config) => reload.apply(gateway, &config),
        Request::Refuse(faults) => {
            for fault in faults.lines() {
                tracing::error!(fault, "configuration not reloaded");
            }
        }
        _ => unreachable!("the same flags asked to run before"),
    }
}

fn log_hook(log: LogControl) -> ReloadHook {
    let apply = move |_: &mut Gateway, config: &Config| {
        if config.log != log.level() {
            log.set_level(config.log);
        }
        Ok(())
    };
    ReloadHook { keys: &["log"], apply: Box::new(apply) }
}

/// Reads files anew that say who clients are. With a fault in one nothing changes.
fn access_hook() -> ReloadHook {
    let apply = |gateway: &mut Gateway, config: &Config| match gateway.reload_access(config) {
        Ok(()) => {
            tracing::info!("users and rules are read anew");
            Ok(())
        }
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
    };
    ReloadHook { keys: &["password_file", "acl_file"], apply: Box::new(apply) }
}
