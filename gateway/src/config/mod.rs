//! From what was typed to what is true.
//!
//! `args.rs` and `file.rs` hold exactly what was given; [`Config`] holds what is true, and nothing
//! in it means "default". Flags win over the file. Everything is checked before anything starts,
//! and every fault is reported at once, one line each.
//!
//! Reads the configuration file, the files with keys that it names and facts of the machine,
//! nothing else: opening ports and directories is for others.

#![forbid(unsafe_code)]

mod admin;
mod args;
mod auth;
pub mod documents;
mod environment;
mod error;
mod file;
mod given;
mod limits;
mod listen;
mod nats;
mod network;
mod relations;
mod resolved;
mod show;
mod tenant;
#[cfg(test)]
mod tests;
mod tls;
mod topic_filter;

use std::ffi::OsString;
use std::path::Path;

use clap::Parser as _;
use clap::error::ErrorKind;

pub use admin::{AdminConfig, AdminToken};
pub use auth::{AuthConfig, AuthMethod, BANNED_MAX, PasswdRequest};
pub use environment::Environment;
pub use error::{ConfigError, Origin};
pub use limits::{LIMITS, LimitSpec, Limits};
pub use listen::{Listen, Scheme};
pub use nats::{
    GATEWAY_ID_BYTES_MAX, NATS_SERVERS_MAX, NatsIdentity, NatsServer, NatsTls, REPLICAS_MAX,
    SUB_CLUSTER_NAME_BYTES_MAX, SUB_CLUSTERS_MAX, SubClusterConfig,
};
pub use network::parse_network;
pub use relations::MemoryBounds;
pub(crate) use relations::SETUP_TLS_BYTES;
pub use resolved::{
    BALANCERS_MAX, ClientEvent, Config, Durability, LogFormat, LogLevel,
    SERVER_REFERENCE_BYTES_MAX, SHARDS_MAX, SUBSCRIBE_REFUSED_MAX, Sessions, UPLINK_MAX,
    WEBSOCKET_ORIGINS_MAX,
};
pub use tenant::{MOUNTPOINT_BYTES_MAX, TENANTS_MAX, Tenant, Tenants, is_mountpoint};
pub use tls::{
    CertificateFiles, CertificateIdentity, CertificateRefused, ClientCertificates,
    TLS_CERTIFICATES_MAX, TLS_CRLS_MAX, TicketKeys, TlsConfig, TlsFault, TlsServer,
};

use args::{Action, Args};
use given::Given;

/// The exit code for a command line or file that is refused (`EX_USAGE` of sysexits.h).
pub const EXIT_REFUSED: u8 = 64;

/// What is asked of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingRequest {
    /// Print it.
    Show,
    /// Give a sub-cluster its share.
    Add {
        /// Which.
        name: String,
        /// In relation to others', 1 to 100.
        weight: u16,
        /// Seconds for which publishers to what moves wait at most, 1 to 300.
        hold_max_s: u16,
    },
    /// Give its share to all others.
    Remove {
        /// Which.
        name: String,
        /// Seconds for which publishers to what moves wait at most, 1 to 300.
        hold_max_s: u16,
    },
    /// Strike off a gateway that is dead.
    Forget {
        /// Its id.
        gateway: String,
    },
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Run with this configuration.
    Run(Box<Config>),
    /// Look at the ring of this configuration, or change it.
    Ring(Box<Config>, RingRequest),
    /// Print the values in force, if everything they name is sound.
    Check(Box<Config>),
    /// Write or delete a user of a password file.
    Passwd(PasswdRequest),
    /// Examine the machine for this configuration.
    Doctor {
        /// What is to run there.
        config: Box<Config>,
        /// Print JSON.
        json: bool,
    },
    /// Tell the gateway that runs with this configuration to end.
    Drain(Box<Config>),
    /// Let the gateway that runs with this configuration send clients elsewhere.
    Rebalance {
        /// Whose it is.
        config: Box<Config>,
        /// Of its clients, 0 to 1.
        share: f64,
        /// Clients a second.
        per_s: u32,
    },
    /// Replace the gateway that runs with this configuration by a new process.
    Upgrade {
        /// Whose it is.
        config: Box<Config>,
        /// The new program, if it is not where the old one was.
        binary: Option<std::path::PathBuf>,
    },
    /// Write manual pages and completions into this directory.
    Documents(std::path::PathBuf),
    /// Print this to stdout and exit with 0: help, version.
    Print(String),
    /// Print this to stderr and exit with [`EXIT_REFUSED`].
    Refuse(String),
}

impl Request {
    /// Reads a command line, the program's name first, and the file it names.
    pub fn from_command_line<I, T>(arguments: I, environment: &Environment) -> Self
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        match Args::try_parse_from(arguments) {
            Ok(args) => Self::from_args(&args, environment),
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Self::Print(error.to_string())
                }
                _ => Self::Refuse(error.to_string()),
            },
        }
    }

    fn from_args(args: &Args, environment: &Environment) -> Self {
        if let Some(Action::Passwd(passwd)) = &args.action {
            return Self::Passwd(passwd.into());
        }
        if let Some(Action::Documents { directory }) = &args.action {
            return Self::Documents(directory.clone());
        }
        match load(args, environment) {
            Ok(config) => match &args.action {
                Some(Action::CheckConfig) => Self::Check(Box::new(config)),
                Some(Action::Ring(action)) => Self::Ring(Box::new(config), action.request()),
                Some(Action::Doctor { json }) => {
                    Self::Doctor { config: Box::new(config), json: *json }
                }
                Some(Action::Rebalance { share, rate }) => {
                    let (config, share, per_s) = (Box::new(config), *share, *rate);
                    Self::Rebalance { config, share, per_s }
                }
                Some(Action::Upgrade { binary }) => {
                    Self::Upgrade { config: Box::new(config), binary: binary.clone() }
                }
                Some(Action::Drain) => Self::Drain(Box::new(config)),
                Some(Action::Passwd(_) | Action::Documents { .. }) | None => {
                    Self::Run(Box::new(config))
                }
            },
            Err(faults) => {
                Self::Refuse(faults.iter().map(|fault| format!("gateway: {fault}\n")).collect())
            }
        }
    }
}

/// Reads the file if there is one, puts the flags over it and decides.
fn load(args: &Args, environment: &Environment) -> Result<Config, Vec<ConfigError>> {
    let mut faults = Vec::new();
    let flags = args.given(&mut faults);
    let from_file = match &args.config {
        Some(path) => read(path, &mut faults),
        None => Given::default(),
    };
    let config = Config::resolve(&flags.over(from_file), environment, &mut faults);
    faults.sort_by_key(|fault| fault.origin);
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn read(path: &Path, faults: &mut Vec<ConfigError>) -> Given {
    match std::fs::read_to_string(path) {
        Ok(text) => file::parse(&text, faults),
        Err(error) => {
            faults.push(ConfigError {
                key: "config".to_owned(),
                value: format!("{:?}", path.display().to_string()),
                expected: format!("a file that can be read, but: {error}"),
                origin: Origin::Flag,
            });
            Given::default()
        }
    }
}
