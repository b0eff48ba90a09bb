//! The command line, exactly as it was typed.
//!
//! Values stay text here: whether they make sense is decided in one place for flags and file
//! ([`resolved`](super::resolved)), so that all faults are reported together.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::RingRequest;
use super::auth::PasswdRequest;
use super::error::{ConfigError, Origin};
use super::given::{Given, Written};
use super::limits::LIMITS;
use super::nats;

/// An MQTT 3.1.1 and 5.0 gateway: millions of connections in front of a durable, ordered log.
///
/// Flags win over the file. Each flag is a key of the file with the same meaning.
#[derive(Debug, Default, Parser)]
#[command(name = "gateway", version, max_term_width = 100)]
pub(super) struct Args {
    /// Address to accept connections on; may be given several times.
    ///
    /// mqtt:// is TCP, mqtts:// TLS, ws:// WebSocket, wss:// WebSocket over TLS. HOST is IPv4, IPv6 in
    /// brackets, or localhost. An address others can reach needs a way to know clients, or
    /// --allow-anonymous. With ?proxy only --balancer may connect. [default: mqtt://127.0.0.1:1883]
    #[arg(long, global = true, value_name = "SCHEME://HOST:PORT[?proxy]")]
    pub(super) listen: Vec<String>,

    /// Directory of the log and the session store; made if it is not there.
    ///
    /// [default: $STATE_DIRECTORY, which systemd sets, else ./gateway-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<String>,

    /// Shards, one thread and one core each, 1 to 64. [default: the cores available]
    #[arg(long, global = true, value_name = "N")]
    pub(super) shards: Option<String>,

    /// When a message counts as safe: on disk, in the page cache, or in memory.
    ///
    /// fsync acknowledges after the disk has it; interval after the write, and syncs every
    /// sync_interval_ms; memory keeps nothing over a restart. [default: fsync]
    #[arg(long, global = true, value_name = "fsync|interval|memory")]
    pub(super) durability: Option<String>,

    /// Milliseconds between syncs with --durability interval, 1 to 60000. [default: 1000]
    #[arg(long, global = true, value_name = "MS")]
    pub(super) sync_interval_ms: Option<String>,

    /// Let clients connect that prove nothing.
    ///
    /// Without a password file that is everybody, and needs to be said for an address that is not
    /// loopback.
    #[arg(long, global = true)]
    pub(super) allow_anonymous: bool,

    /// Users and their passwords' hashes, as mosquitto_passwd or `gateway passwd` writes them.
    ///
    /// Clients have to be one of them, unless --allow-anonymous. [default: none]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) password_file: Option<String>,

    /// What each user may publish and read, in mosquitto's format. [default: none, everything]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) acl_file: Option<String>,

    /// A topic filter that no client may subscribe to; may be given several times.
    ///
    /// Refuses a SUBSCRIBE of literally this filter, also within a shared subscription; other
    /// filters that match the same topics are granted. At most 64. [default: none]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(super) subscribe_refused: Vec<String>,

    /// A filter of topics that only applications at the servers of --nats read; may be given several
    /// times. [default: none]
    ///
    /// What is published there is stored apart and sent to no device, which costs a server less;
    /// a SUBSCRIBE of such topics alone is refused. The same for all gateways. At most 16.
    #[arg(long, global = true, value_name = "FILTER")]
    pub(super) uplink: Vec<String>,

    /// A sub-cluster of NATS servers to keep messages in; once for each sub-cluster.
    ///
    /// NAME is 1 to 32 letters, digits, - and _. HOST is an IPv4 address, an IPv6 address in
    /// brackets or a DNS name; PORT is 4222 by default. user:password@ or token@ may stand before
    /// HOST; others can read a command line, a file with [[nats]] tables can be protected. With tls://
    /// connections are in TLS, with servers that the system trusts; a [[nats]] table can say more.
    /// [default: none, messages are kept under --data]
    #[arg(long, global = true, value_name = "NAME=nats://HOST:PORT[,nats://HOST:PORT...]")]
    pub(super) nats: Vec<String>,

    /// Where sessions are kept with --nats: on this node (local), or beside the messages in
    /// JetStream (shared). [default: local]
    ///
    /// With local, a client has to come back to the same gateway; with shared, any will do, and a
    /// CONNECT of a lasting session costs three writes there.
    #[arg(long, global = true, value_name = "local|shared")]
    pub(super) sessions: Option<String>,

    /// Something that happens to clients, of which applications are told at the servers of --nats:
    /// connect, disconnect, subscribe or unsubscribe; may be given several times. [default: none]
    ///
    /// Each is a message on mqtt_events.GATEWAY.EVENT.CLIENT, at most once.
    #[arg(long, global = true, value_name = "EVENT")]
    pub(super) events: Vec<String>,

    /// What this gateway is called in the names of its connections and in message ids.
    ///
    /// 1 to 64 letters, digits, - and _; no two gateways may share one. [default: the host's name]
    #[arg(long, global = true, value_name = "ID")]
    pub(super) gateway_id: Option<String>,

    /// A balancer's address or network, such as 10.0.0.0/24; may be given several times.
    ///
    /// On listeners with ?proxy it has to send a PROXY protocol header (version 1 or 2), and is
    /// believed what that says of the client.
    #[arg(long, global = true, value_name = "ADDRESS[/BITS]")]
    pub(super) balancer: Vec<String>,

    /// The server's certificate and those behind it, PEM, for listeners that speak TLS.
    ///
    /// Several, for several host names, go into the file, as `[[tls_certificates]]` tables.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_cert: Option<String>,

    /// The private key of --tls-cert, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_key: Option<String>,

    /// The authorities that sign clients' certificates, PEM; without a certificate from one of them
    /// there is no TLS connection.
    ///
    /// With tls_client_cert = "optional" in the file those without one may connect, too.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) tls_client_ca: Option<String>,

    /// How much to log: error, warn, info, debug or trace. [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(super) log: Option<String>,

    /// The form of log lines: text, or json for machines. [default: text]
    #[arg(long, global = true, value_name = "text|json")]
    pub(super) log_format: Option<String>,

    /// Where the admin server listens (status page, metrics, API), or none.
    ///
    /// An IPv4 address or an IPv6 address in brackets. One that others can reach needs
    /// --admin-token-file. [default: 127.0.0.1:18083]
    #[arg(long, global = true, value_name = "ADDRESS:PORT|none")]
    pub(super) admin: Option<String>,

    /// A file whose first line the clients of the admin server must send as a bearer token.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) admin_token_file: Option<String>,

    /// Where clients are sent when this gateway ends (Server Moved, MQTT 5.0), such as
    /// b.example.org:1883; several are separated by blanks. [default: none, Server shutting down]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(super) server_reference: Option<String>,

    /// Seconds between messages on the topics under $SYS/broker/, 0 for none. [default: 10]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(super) sys_interval_s: Option<String>,

    /// A key of the file's limits table; may be given several times.
    #[arg(long, global = true, value_name = "KEY=NUMBER")]
    pub(super) limit: Vec<String>,

    /// The configuration file, TOML.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(super) action: Option<Action>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Check flags and file, print the values in force as TOML, and exit.
    CheckConfig,
    /// Add a user to a password file, or give one a new password.
    Passwd(Passwd),
    /// Look at this machine and say what to change for this configuration. Exit code 1 if anything
    /// has to be.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell the gateway behind --admin to end, and wait until it has: clients are told, sessions
    /// saved.
    Drain,
    /// Tell the gateway behind --admin to send a share of its clients to other gateways, after one was
    /// added: with Use another server (MQTT 5.0), chosen by chance, while it goes on.
    ///
    /// With --sessions local only clients are sent whose session ends with the connection. A share of 0%
    /// ends what was begun.
    Rebalance {
        /// How many of the clients: with G gateways where there were G-1, 1/G of them.
        #[arg(long, value_name = "PERCENT%", value_parser = share)]
        share: f64,
        /// How many a second, at most.
        #[arg(long, value_name = "N/s", value_parser = rate)]
        rate: u32,
    },
    /// Replace the gateway that runs with this --data by a new process, of the program on disk now:
    /// clients on plain TCP stay connected, others are told to come back.
    ///
    /// If the new process does not start, or cannot take over, the old one goes on. Run it as the user
    /// that the gateway runs as, or as root.
    Upgrade {
        /// Another program file. [default: the one the running gateway was started from]
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Write manual pages and completions of shells into a directory, for packages.
    #[command(hide = true)]
    Documents {
        /// The directory.
        directory: PathBuf,
    },
    /// The ring: which sub-cluster has which part of the topics.
    #[command(subcommand)]
    Ring(RingAction),
}

/// As `mosquitto_passwd`. Without a password it is asked for, or read from what is piped in.
#[derive(clap::Args, Debug)]
pub(super) struct Passwd {
    /// The password stands on the command line, where others may read it.
    #[arg(short, long = "batch", requires = "password", conflicts_with = "delete")]
    batch: bool,
    /// Begin a new file, whatever is there.
    #[arg(short, long, conflicts_with = "delete")]
    create: bool,
    /// Delete the user.
    #[arg(short = 'D', long)]
    delete: bool,
    /// Iterations of PBKDF2: how long it takes to try a password. Default 101; with --scram 4096,
    /// which is also the least there.
    #[arg(short = 'I', long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: Option<u32>,
    /// Write what clients need that prove their password by SCRAM-SHA-256 and do not send it. Others
    /// may still send it.
    #[arg(long, conflicts_with = "delete")]
    scram: bool,
    /// The file; made if it is not there.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The user.
    #[arg(value_name = "USER")]
    user_name: String,
    /// The password, with -b only.
    #[arg(value_name = "PASSWORD", requires = "batch")]
    password: Option<String>,
}

/// As `mosquitto_passwd`.
const ITERATIONS_DEFAULT: u32 = 101;

/// Default and minimum for SCRAM: the client computes them, each time. Source: RFC 7677 §4.
const SCRAM_ITERATIONS_MIN: u32 = 4_096;

impl From<&Passwd> for PasswdRequest {
    fn from(given: &Passwd) -> Self {
        Self {
            file: given.file.clone(),
            user_name: given.user_name.clone(),
            password: given.password.clone(),
            create: given.create,
            delete: given.delete,
            iterations: match given.scram {
                true => given.iterations.unwrap_or_default().max(SCRAM_ITERATIONS_MIN),
                false => given.iterations.unwrap_or(ITERATIONS_DEFAULT),
            },
            scram: given.scram,
        }
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum RingAction {
    /// Print the ring in force, who goes by it, and exit.
    Show,
    /// Give a sub-cluster its share of the topics, while everything runs.
    ///
    /// All gateways must have been started with it: that makes it a member of the ring without topics.
    /// Publishers to what moves wait meanwhile, for about a second. Nothing else moves, and sessions
    /// stay where they are.
    Add {
        /// Its name, as in --nats NAME=nats://...
        #[arg(value_name = "NAME", value_parser = sub_cluster_name)]
        name: String,
        /// Its share in relation to those of others, which have 1 unless they were given more: 1 to 100.
        #[arg(long, value_name = "N", default_value_t = 1,
            value_parser = clap::value_parser!(u16).range(1..=100))]
        weight: u16,
        /// Publishers to what moves wait for so many seconds at most; then the change is called off. 1 to
        /// 300.
        #[arg(long = "hold-max-s", value_name = "N", default_value_t = 30,
            value_parser = clap::value_parser!(u16).range(1..=300))]
        hold_max_s: u16,
    },
    /// Give the share of a sub-cluster to all others, while everything runs.
    ///
    /// Publishers to what moves wait meanwhile, for about a second. Nothing else moves. What it has stored
    /// stays there, and is read there: once nobody needs that any more, restart the gateways without it
    /// and switch it off.
    Remove {
        /// Its name, as in --nats NAME=nats://...
        #[arg(value_name = "NAME", value_parser = sub_cluster_name)]
        name: String,
        /// Publishers to what moves wait for so many seconds at most; then the change is called off. 1 to
        /// 300.
        #[arg(long = "hold-max-s", value_name = "N", default_value_t = 30,
            value_parser = clap::value_parser!(u16).range(1..=300))]
        hold_max_s: u16,
    },
    /// Strike off a gateway that is dead and does not come back, so that no change waits for it.
    ///
    /// Make sure that it is dead: one that only seemed to be may go on storing messages where nobody
    /// looks for them, and has to be restarted.
    Forget {
        /// Its --gateway-id.
        #[arg(value_name = "GATEWAY")]
        gateway: String,
    },
}

/// The name of a sub-cluster, without its address: gateways have that from their configuration.
fn sub_cluster_name(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) => Err(format!(
            "only the name, {name}: gateways know the address from --nats, with which they must have been \
             started"
        )),
        None => Ok(text.to_owned()),
    }
}

impl RingAction {
    pub(super) fn request(&self) -> RingRequest {
        match self.clone() {
            Self::Show => RingRequest::Show,
            Self::Add { name, weight, hold_max_s } => RingRequest::Add { name, weight, hold_max_s },
            Self::Remove { name, hold_max_s } => RingRequest::Remove { name, hold_max_s },
            Self::Forget { gateway } => RingRequest::Forget { gateway },
        }
    }
}

impl Args {
    /// What was typed, by key; faults (a limit that does not exist) go to `faults`.
    pub(super) fn given(&self, faults: &mut Vec<ConfigError>) -> Given {
        let mut given = Given::default();
        let texts = [
            ("data", &self.data),
            ("shards", &self.shards),
            ("durability", &self.durability),
            ("sync_interval_ms", &self.sync_interval_ms),
            ("log", &self.log),
            ("log_format", &self.log_format),
            ("server_reference", &self.server_reference),
            ("sys_interval_s", &self.sys_interval_s),
            ("admin", &self.admin),
            ("admin_token_file", &self.admin_token_file),
            ("sessions", &self.sessions),
            ("gateway_id", &self.gateway_id),
            ("password_file", &self.password_file),
            ("acl_file", &self.acl_file),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                given.settings.insert(key, flag(text));
            }
        }
        if self.allow_anonymous {
            given.settings.insert("allow_anonymous", flag("true"));
        }
        for (key, texts) in [
            ("listen", &self.listen),
            ("subscribe_refused", &self.subscribe_refused),
            ("balancers", &self.balancer),
            ("events", &self.events),
            ("uplink", &self.uplink),
        ] {
            if !texts.is_empty() {
                given.lists.insert(key, texts.iter().map(|text| flag(text)).collect());
            }
        }
        if !self.nats.is_empty() {
            let sub_clusters = self.nats.iter().filter_map(|text| nats::flag(text, faults));
            given.nats = Some(sub_clusters.collect());
        }
        for text in &self.limit {
            limit(text, &mut given, faults);
        }
        given
    }
}

/// Reads `20%`, as a part of one.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "expected 0% to 100%".to_owned())
}

/// Reads `200/s`.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    number.filter(|number| *number > 0).ok_or_else(|| "expected a number such as 200/s".to_owned())
}

fn flag(text: &str) -> Written {
    Written { text: text.to_owned(), origin: Origin::Flag }
}

/// Reads one `--limit KEY=NUMBER`. Of a key given twice the last one counts, as in most tools.
fn limit(text: &str, given: &mut Given, faults: &mut Vec<ConfigError>) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    match LIMITS.iter().find(|limit| limit.key == key) {
        Some(limit) => {
            given.limits.insert(limit.key, flag(value));
        }
        None => faults.push(ConfigError {
            key: "limit".to_owned(),
            value: format!("{text:?}"),
            expected: "KEY=NUMBER with a key of [limits]; check-config lists them".to_owned(),
            origin: Origin::Flag,
        }),
    }
}
