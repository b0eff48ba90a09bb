//! The gateway's process: configuration, start, signals, end.

use anyhow::Context as _;
use gateway::admin::upgrade::{Successor, UpgradeRequest, UpgradeSocket};
use gateway::admin::{Admin, AttachedAdmin, TokenControl, doctor, drain, rebalance, upgrade};
use gateway::auth::{Directory, FileFault};
use gateway::config::{Config, EXIT_REFUSED, Environment, Request, RingRequest, documents};
use gateway::logging::LogControl;
use gateway::node::hand_over::{Line, Received};
use gateway::node::reload::{Reload, ReloadHook};
use gateway::node::{Gateway, Ground, LIVE_LIMITS};
use gateway::systemd;
use gateway::upstream::jetstream::control::{ChangeRing, change_ring, forget_gateway, show_ring};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

fn main() -> ExitCode {
    let environment = Environment::of_this_machine();
    match Request::from_command_line(std::env::args_os(), &environment) {
        Request::Print(text) => print(&text),
        Request::Refuse(text) => {
            tell_predecessor(&text);
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(EXIT_REFUSED)
        }
        Request::Ring(config, request) => exit(ring(&config, request)),
        Request::Documents(directory) => {
            let live = [LIVE_LIMITS, TLS_KEYS].concat();
            exit(documents::write_own_documents(&directory, &live).map_err(Into::into))
        }
        Request::Passwd(request) => exit(gateway::auth::passwd::run(&request)),
        Request::Check(config) => match Directory::load(&config) {
            Ok(_) => print(&config.to_toml()),
            Err(faults) => refuse(&faults),
        },
        Request::Run(config) => match Directory::load(&config) {
            Ok(directory) => exit(run(&config, &environment, directory)),
            Err(faults) => {
                let faults_text: Vec<String> = faults.iter().map(ToString::to_string).collect();
                tell_predecessor(&faults_text.join("; "));
                refuse(&faults)
            }
        },
        Request::Doctor { config, json } => examine(&config, &environment, json),
        Request::Drain(config) => exit(drain(&config).map_err(Into::into)),
        Request::Rebalance { config, share, per_s } => exit(move_clients(&config, share, per_s)),
        Request::Upgrade { config, binary } => exit(replace(&config, binary)),
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

/// Looks at the ring, or changes it.
fn ring(config: &Config, request: RingRequest) -> anyhow::Result<()> {
    let settings = config.into();
    let mut out = std::io::stdout();
    match request {
        RingRequest::Show => {
            out.write_all(show_ring(&settings)?.as_bytes()).context("cannot write")?;
        }
        RingRequest::Add { name, weight, hold_max_s } => {
            let change = ChangeRing { name, weight, hold_s: hold_max_s };
            // Whether somebody reads along decides nothing.
            change_ring(&settings, &change, |step| drop(writeln!(out, "{step}")))?;
        }
        RingRequest::Remove { name, hold_max_s } => {
            let change = ChangeRing { name, weight: 0, hold_s: hold_max_s };
            change_ring(&settings, &change, |step| drop(writeln!(out, "{step}")))?;
        }
        RingRequest::Forget { gateway } => {
            anyhow::ensure!(forget_gateway(&settings, &gateway)? > 0, "{gateway} is not known");
            writeln!(out, "{gateway} is struck off").context("cannot write")?;
        }
    }
    Ok(())
}

/// Asks the gateway that runs to send clients elsewhere.
fn move_clients(config: &Config, share: f64, per_s: u32) -> anyhow::Result<()> {
    let clients = rebalance(config, share, per_s)?;
    let seconds = clients.div_ceil(per_s.into());
    writeln!(std::io::stdout(), "about {clients} clients are sent elsewhere, in {seconds} s")
        .context("cannot write")
}

/// Asks the gateway that runs to let a new process take over.
fn replace(config: &Config, binary: Option<PathBuf>) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let progress = |text: &str| {
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let id = upgrade(config, binary.as_deref(), progress)?;
    writeln!(out, "upgraded: process {id} has taken over").context("cannot write")
}

/// Says why this process cannot take over, if it was started for that.
fn tell_predecessor(why: &str) {
    if let Ok(Some(mut line)) = upgrade::predecessor()
        && line.hear().is_ok()
    {
        line.refuse(why.trim());
    }
}

/// What the main thread waits for.
enum Event {
    Signal(i32),
    Upgrade(UpgradeRequest),
}

/// Runs until SIGTERM or SIGINT. A second one ends the process at once. SIGHUP reads the
/// configuration and the files it names again. A new process may take over in between.
fn run(config: &Config, environment: &Environment, directory: Directory) -> anyhow::Result<()> {
    let binary = upgrade::own_binary();
    let log = gateway::logging::start(config.log, config.log_format);
    if let Some(warning) = config.memory_bounds().warning(environment.memory_bytes) {
        tracing::warn!("{warning}");
    }
    let (events, next_event) = channel();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot wait for signals")?;
    let to_main = events.clone();
    let watch = move || {
        let mut is_ending = false;
        for signal in signals.forever() {
            if signal != SIGHUP && std::mem::replace(&mut is_ending, true) {
                std::process::exit(1);
            }
            let _ = to_main.send(Event::Signal(signal));
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(watch).context("cannot wait for signals")?;

    let mut line = upgrade::predecessor().context("cannot take over")?;
    let (Received { hand_over, admin }, ground) = match &mut line {
        Some(line) => take_over(line, config)?,
        None => (Received::default(), None),
    };
    let refused = |line: &mut Option<Line>, error: &dyn std::fmt::Display| {
        if let Some(line) = line {
            line.refuse(&error.to_string());
        }
    };
    let admin = Admin::start_with(config, log.clone(), admin)
        .inspect_err(|error| refused(&mut line, error))?;
    let admin_address = admin.address();
    let mut gateway = Gateway::prepare(config, Arc::new(directory), hand_over, ground)
        .inspect_err(|error| refused(&mut line, error))?;
    if let Some(line) = &mut line {
        line.prepared()?;
    }
    gateway.go();
    let admin = admin.attach(gateway.handle());
    if let Some(address) = admin_address {
        tracing::info!(%address, "admin server");
    }
    for (address, listen) in gateway.addresses().iter().zip(&config.listen) {
        let scheme = listen.scheme.name();
        tracing::info!(scheme, %address, shards = config.shards, durability = %config.durability, "listening");
    }
    let wanted = move |request| {
        let _ = events.send(Event::Upgrade(request));
    };
    let socket = UpgradeSocket::listen(&config.data, wanted)
        .inspect_err(|error| tracing::warn!(%error, "`gateway upgrade` cannot be asked for"))
        .ok();
    systemd::notify("READY=1");
    if let Some(mut line) = line.take() {
        line.running();
    }
    let mut reload = Reload::new(config);
    reload.add(log_hook(log));
    reload.add(access_hook());
    reload.add(limits_hook());
    reload.add(tls_hook());
    reload.add(sub_clusters_hook());
    reload.add(token_hook(admin.token_control()));
    let Some(gateway) =
        serve(gateway, &next_event, &mut reload, &admin, (config, environment, &binary))?
    else {
        return Ok(());
    };
    tracing::info!("stopping");
    admin.set_draining();
    systemd::notify("STOPPING=1");
    if let Some(socket) = socket {
        socket.remove();
    }
    gateway.shutdown();
    gateway.join()?;
    admin.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Follows what comes, until the gateway is to end; `None` if another process has taken over.
fn serve(
    mut gateway: Gateway,
    events: &Receiver<Event>,
    reload: &mut Reload,
    admin: &AttachedAdmin,
    (config, environment, binary): (&Config, &Environment, &PathBuf),
) -> anyhow::Result<Option<Gateway>> {
    loop {
        match events.recv().context("nobody waits for signals any more")? {
            Event::Signal(SIGHUP) => {
                systemd::notify("RELOADING=1");
                if !read_again(reload, &mut gateway, environment) {
                    // Files may have changed all the same.
                    gateway.reload_tls();
                }
                gateway.reload_link_tls();
                admin.show_values(reload.in_force());
                systemd::notify("READY=1");
            }
            Event::Signal(_) => return Ok(Some(gateway)),
            Event::Upgrade(mut request) => {
                let binary = request.binary.take().unwrap_or_else(|| binary.clone());
                match hand_over(gateway, request, admin, (config, reload), &binary)? {
                    Some(remains) => gateway = remains,
                    None => return Ok(None),
                }
            }
        }
    }
}

/// Takes sockets and clients over from the process before, once all is there that does not need them.
fn take_over(line: &mut Line, config: &Config) -> anyhow::Result<(Received, Option<Ground>)> {
    line.hear()?;
    let ground = Ground::lay(config, true).inspect_err(|error| line.refuse(&error.to_string()))?;
    line.ready(env!("CARGO_PKG_VERSION"))?;
    Ok((line.take()?, Some(ground)))
}

/// Lets a new process take over. Whatever goes wrong, this one goes on, with the same clients; `None` if
/// nothing did.
fn hand_over(
    gateway: Gateway,
    mut request: UpgradeRequest,
    admin: &AttachedAdmin,
    (config, reload): (&Config, &mut Reload),
    binary: &std::path::Path,
) -> anyhow::Result<Option<Gateway>> {
    if let Err(why) = upgrade::is_possible(config) {
        request.fail(why);
        return Ok(Some(gateway));
    }
    let seconds = |seconds: u16| Duration::from_secs(seconds.into());
    request.say(&format!("starting {}", binary.display()));
    let successor = match Successor::start(binary, seconds(config.limits.upgrade_start_max_s)) {
        Ok(successor) => successor,
        Err(why) => {
            request.fail(&why);
            return Ok(Some(gateway));
        }
    };
    request.say("the new process is ready: clients that cannot move are told");
    if let Err(error) = gateway.stand_still(config) {
        successor.dismiss();
        request.fail(&error.to_string());
        return Ok(Some(gateway));
    }
    let (hand_over, directory) = gateway.part()?;
    let count = hand_over.connections.len();
    request.say(&format!("{count} connections are handed over"));
    let patience = seconds(config.limits.upgrade_take_max_s);
    let given = successor.give(&hand_over, admin.listening(), patience).and_then(|successor| {
        // Before it says anything to the service manager, who has to know it by then.
        systemd::notify(&format!("MAINPID={}", successor.id()));
        successor.go()
    });
    match given {
        Ok(id) => {
            request.succeed(id);
            Ok(None)
        }
        Err(why) => {
            systemd::notify(&format!("MAINPID={}", std::process::id()));
            let mut gateway = Gateway::prepare(config, directory, hand_over, None)
                .context("cannot go on after an upgrade that failed")?;
            reload.restore(&mut gateway);
            gateway.go();
            admin.show(gateway.handle());
            request.fail(&why);
            Ok(Some(gateway))
        }
    }
}

/// Reads flags and file again and puts in force what can be. A configuration with faults changes
/// nothing; returns whether it has none.
fn read_again(reload: &mut Reload, gateway: &mut Gateway, environment: &Environment) -> bool {
    match Request::from_command_line(std::env::args_os(), environment) {
        Request::Run(config) => {
            reload.apply(gateway, &config);
            true
        }
        Request::Refuse(faults) => {
            for fault in faults.lines() {
                tracing::error!(fault, "configuration not reloaded");
            }
            false
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
        Err(faults) => Err(faults),
    };
    let keys = &[
        "password_file",
        "acl_file",
        "allow_anonymous",
        "auth_methods",
        "jwt_key_file",
        "jwt_jwks_file",
        "jwt_algorithm",
        "jwt_user_claim",
        "jwt_client_id_claim",
        "jwt_mountpoint_claim",
        "jwt_issuer",
        "jwt_audience",
        "banned_users",
        "tenant",
    ];
    ReloadHook { keys, apply: Box::new(apply) }
}

/// The keys of [`tls_hook`].
const TLS_KEYS: &[&str] = &[
    "tls_certificates",
    "tls_client_ca",
    "tls_client_cert",
    "tls_client_crl",
    "tls_client_identity",
    "tls_min_version",
    "tls_ticket_keys",
    "limits.tls_ticket_lifetime_s",
];

/// What TLS listeners show and ask for.
fn tls_hook() -> ReloadHook {
    let apply = |gateway: &mut Gateway, config: &Config| gateway.apply_tls(config);
    ReloadHook { keys: TLS_KEYS, apply: Box::new(apply) }
}

/// Sub-clusters can come while clients stay.
fn sub_clusters_hook() -> ReloadHook {
    let apply = |gateway: &mut Gateway, config: &Config| gateway.add_sub_clusters(config);
    ReloadHook { keys: &["nats"], apply: Box::new(apply) }
}

/// What the admin server asks for.
fn token_hook(token: TokenControl) -> ReloadHook {
    let apply = move |_: &mut Gateway, config: &Config| token.take(config);
    ReloadHook { keys: &["admin_token_file"], apply: Box::new(apply) }
}

/// Bans, rates, and what is only compared when something is asked for.
fn limits_hook() -> ReloadHook {
    let apply = |gateway: &mut Gateway, config: &Config| {
        gateway.reload_limits(config);
        Ok(())
    };
    ReloadHook { keys: LIVE_LIMITS, apply: Box::new(apply) }
}
