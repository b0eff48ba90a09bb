//! A gateway that is attacked on listeners of each kind, and what its operator sees of it.

use super::hostile::rest_of;
use super::websocket_client::{REQUEST, read_answer};
use super::wire::{Socket, client_config};
use crate::admin::metrics::Samples;
use crate::packets::{framed, sized};
use crate::process::gateway::{Gateway, PATIENCE, TempDirectory, free_address, gateway_command};
use crate::process::hostile::now;
use crate::process::raw_client::V5;
use rustls::ClientConfig;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

/// A gateway with a listener of each kind that is attacked, with an admin server.
pub(super) struct Target {
    pub(super) gateway: Gateway,
    pub(super) tls: SocketAddr,
    pub(super) websocket: SocketAddr,
    pub(super) proxied: SocketAddr,
    pub(super) client_config: Arc<ClientConfig>,
    _authority: super::certificates::Authority,
    _folder: TempDirectory,
}

impl Target {
    /// Knows `anna` and `otto`, whose password is `pw`, with rules for their own topics.
    pub(super) fn start() -> Self {
        let authority = super::certificates::Authority::new();
        let server = authority.server("server", &["localhost"]);
        let folder = TempDirectory::new();
        let users = folder.path().join("users");
        for name in ["anna", "otto"] {
            let mut passwd = gateway_command();
            passwd.args(["passwd", "-b"]).arg(&users).args([name, "pw"]);
            assert!(passwd.status().unwrap().success());
        }
        let rules = folder.path().join("rules");
        std::fs::write(&rules, RULES).unwrap();
        let (tls, websocket, proxied) = (free_address(), free_address(), free_address());
        let listen = [
            format!("mqtts://{tls}"),
            format!("ws://{websocket}"),
            format!("mqtt://{proxied}?proxy"),
        ];
        let mut flags = vec!["--admin", "127.0.0.1:0", "--shards", "1", "--balancer", "127.0.0.9"];
        listen.iter().for_each(|one| flags.extend(["--listen", one]));
        let certificate = server.flags();
        flags.extend(certificate.iter().map(String::as_str));
        flags.extend(["--password-file", users.to_str().unwrap()]);
        flags.extend(["--acl-file", rules.to_str().unwrap()]);
        flags.extend(["--limit", "connect_timeout_s=1", "--limit", "handshake_timeout_s=1"]);
        flags.extend(["--limit", "websocket_frame_bytes_max=1000"]);
        flags.extend(["--limit", "handshake_bytes_max=4096"]);
        flags.extend(["--limit", "maximum_packet_size_bytes=65536"]);
        let gateway = Gateway::start(&flags);
        let client_config = client_config(&authority, None);
        let (_authority, _folder) = (authority, folder);
        Self { gateway, tls, websocket, proxied, client_config, _authority, _folder }
    }

    /// Sends `bytes` and waits for the end of the connection; what is said until then.
    pub(super) fn attack(&self, address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut socket = Socket::open(address);
        let _ = socket.write_all(bytes);
        rest_of(&mut socket)
    }

    pub(super) fn attack_websocket(&self, frames: &[u8]) {
        let mut socket = Socket::open(self.websocket);
        socket.write_all(REQUEST.as_bytes()).unwrap();
        assert!(read_answer(&mut socket).unwrap().contains(" 101 "));
        let _ = socket.write_all(frames);
        rest_of(&mut socket);
    }

    /// Each of these was counted so often at least, and of each kind there are some lines in the log and
    /// not many.
    #[track_caller]
    pub(super) fn check(&mut self, times: usize, counted: &[(&str, &str)], lines: &[&str]) {
        let started = now();
        for (name, label) in counted {
            let labels = Some(*label).filter(|label| !label.is_empty());
            // A connection counts when its peer has closed it, too, which a shard may hear of behind the
            // question for its counts.
            let count =
                || Samples::scrape(self.gateway.admin_address()).sum(name, labels.as_slice());
            while count() < times as f64 {
                assert!(started.elapsed() < PATIENCE, "{name} {label}: {}", count());
            }
        }
        // What has been written may not have been read.
        lines.iter().for_each(|line| self.gateway.wait_for_lines(line, 1));
        let log = self.gateway.log();
        for line in lines {
            let of_kind = |one: &&str| one.contains("WARN") && one.contains(line);
            let count = log.lines().filter(of_kind).count();
            assert!((1..=LINES_MAX).contains(&count), "{line}: {count} lines\n{log}");
        }
    }
}

/// What users may touch.
const RULES: &str = "\
    topic read open/#\n\
    user anna\n\
    topic readwrite own/#\n\
    topic deny own/secret/#\n\
    user otto\n\
    topic readwrite #\n\
    pattern readwrite of/%c/#\n\
    pattern readwrite for/%u/#\n";

/// How often each attack is repeated: far more than there are lines in the log.
pub(super) const TIMES: usize = 20;

/// So many lines of one kind may be there: one in ten seconds, on a machine however slow.
const LINES_MAX: usize = 6;

/// CONNECT with a clean start, and with a will to this topic if there is one.
pub(super) fn login(
    level: u8,
    client_id: &str,
    user_name: &str,
    password: &str,
    will: Option<&str>,
) -> Vec<u8> {
    let flags = if will.is_some() { 0xC6 } else { 0xC2 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 0];
    let properties: &[u8] = if level == V5 { &[0] } else { &[] };
    body.extend_from_slice(properties);
    body.extend(sized(client_id));
    if let Some(topic) = will {
        body.extend([properties, &sized(topic), &sized("gone")].concat());
    }
    body.extend([sized(user_name), sized(password)].concat());
    framed(0x10, &body)
}
