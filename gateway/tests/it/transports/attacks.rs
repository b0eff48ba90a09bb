//! Attacks on what is below MQTT that take their time, or try what TLS once allowed; and what the
//! operator sees of any: a count, and no more lines in the log than a few.

use super::hostile::{Counted, rest_of};
use super::proxied::socket_from;
use super::websocket_client::{REQUEST, frame, read_answer};
use super::wire::{Socket, tls_over};
use crate::admin::metrics::Samples;
use crate::packets::{framed, sized};
use crate::process::gateway::{Gateway, TempDirectory, free_address, gateway_command};
use crate::process::raw_client::{RawClient, V3_1_1, V5, connect, publish};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long a byte takes: more of them are sent than fit into the time a stranger has, which is one
/// second.
const BYTE_TAKES: Duration = Duration::from_millis(50);

/// Sends `bytes` one at a time; the connection has to be closed before all are sent.
#[track_caller]
fn is_closed_while_dribbling(stream: &mut (impl std::io::Read + std::io::Write), bytes: &[u8]) {
    let closed = bytes.iter().position(|byte| {
        stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err()
            || match stream.read(&mut [0; 64]) {
                Ok(count) => count == 0,
                Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
    });
    assert!(closed.is_some(), "{} bytes were taken one by one", bytes.len());
}

/// A socket whose reads take as long as a byte may.
fn slow(socket: Socket) -> Socket {
    socket.stream().set_read_timeout(Some(BYTE_TAKES)).unwrap();
    socket
}

#[test]
fn one_byte_at_a_time_lengthens_no_handshake() {
    // The start of TLS.
    let counted = Counted::start("mqtts", &[]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut hello = Vec::new();
    let mut client = ClientConnection::new(Arc::clone(&counted.tls), name).unwrap();
    client.write_tls(&mut hello).unwrap();
    is_closed_while_dribbling(&mut slow(Socket::open(counted.address)), &hello);
    assert_eq!(counted.counters().closed_handshake, 1);

    // The request for WebSocket, in the open and inside of TLS.
    let counted = Counted::start("ws", &[]);
    is_closed_while_dribbling(&mut slow(Socket::open(counted.address)), REQUEST.as_bytes());
    assert_eq!(counted.counters().closed_handshake, 1);
    let counted = Counted::start("wss", &[]);
    let socket = Socket::open(counted.address);
    let below = socket.stream();
    let mut tls = tls_over(socket, &counted.tls, "localhost").unwrap();
    below.set_read_timeout(Some(BYTE_TAKES)).unwrap();
    is_closed_while_dribbling(&mut tls, REQUEST.as_bytes());
    drop((tls, below));
    assert_eq!(counted.counters().closed_handshake, 1);

    // The header of a balancer, in both versions.
    let counted = Counted::start("mqtt", &["--balancer", "127.0.0.2"]);
    let text = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n";
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x01\xC0\0\x02\x02\x13\x88\x07\x5B";
    for header in [&text[..], binary] {
        let mut socket = slow(socket_from("127.0.0.2", counted.address));
        is_closed_while_dribbling(&mut socket, header);
    }
    assert_eq!(counted.counters().closed_handshake, 2);
}

/// TLS 1.2 lets a client begin the handshake again, at the server's cost. Not here.
#[test]
fn tls_is_not_negotiated_again() {
    let counted = Counted::start("mqtts", &[]);
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &counted.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = openssl.stdin.take().unwrap();
    let mut output = openssl.stdout.take().unwrap();
    // It takes a line as a command once the handshake is over, and says so.
    let mut said = Vec::new();
    let mut buffer = [0; 4_096];
    while !String::from_utf8_lossy(&said).contains("Verify return code") {
        let count = output.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..count]);
    }
    input.write_all(b"R\n").unwrap();
    let mut errors = String::new();
    openssl.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    output.read_to_end(&mut said).unwrap();
    openssl.wait().unwrap();
    drop(input);
    assert!(errors.contains("RENEGOTIATING"), "it was asked for: {errors}");
    assert!(errors.contains("no renegotiation"), "{errors}");
    assert_eq!(counted.counters().closed_tls, 1);
}

/// A gateway with a listener of each kind that is attacked, with an admin server.
struct Target {
    gateway: Gateway,
    tls: SocketAddr,
    websocket: SocketAddr,
    proxied: SocketAddr,
    _authority: super::certificates::Authority,
    _folder: TempDirectory,
}

impl Target {
    fn start() -> Self {
        let authority = super::certificates::Authority::new();
        let server = authority.server("server", &["localhost"]);
        let folder = TempDirectory::new();
        let users = folder.path().join("users");
        let mut passwd = gateway_command();
        passwd.args(["passwd", "-b"]).arg(&users).args(["anna", "pw"]);
        assert!(passwd.status().unwrap().success());
        let rules = folder.path().join("rules");
        std::fs::write(&rules, "user anna\ntopic readwrite own/#\n").unwrap();
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
        let gateway = Gateway::start(&flags);
        Self { gateway, tls, websocket, proxied, _authority: authority, _folder: folder }
    }

    /// Sends `bytes` and waits for the end of the connection.
    fn attack(&self, address: SocketAddr, bytes: &[u8]) {
        let mut socket = Socket::open(address);
        let _ = socket.write_all(bytes);
        rest_of(&mut socket);
    }

    fn attack_websocket(&self, frames: &[u8]) {
        let mut socket = Socket::open(self.websocket);
        socket.write_all(REQUEST.as_bytes()).unwrap();
        assert!(read_answer(&mut socket).unwrap().contains(" 101 "));
        let _ = socket.write_all(frames);
        rest_of(&mut socket);
    }
}

fn login(client_id: &str, user_name: &str, password: &str) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, 0xC2, 0, 0];
    let texts = [client_id, user_name, password].map(sized).concat();
    framed(0x10, &[&head[..], &texts].concat())
}

/// How often each attack is repeated: far more than there are lines in the log.
const TIMES: usize = 20;

/// So many lines of one kind may be there: one in ten seconds, on a machine however slow.
const LINES_MAX: usize = 6;

#[test]
fn whatever_is_attacked_is_counted_and_the_log_stays_readable() {
    let mut target = Target::start();
    let plain = target.gateway.address();
    let waiting: Vec<RawClient> = (0..TIMES).map(|_| RawClient::open(plain)).collect();
    for _ in 0..TIMES {
        target.attack(target.tls, b"GET / HTTP/1.1\r\n\r\n");
        target.attack(target.websocket, b"PUT / HTTP/1.1\r\n\r\n");
        target.attack_websocket(&frame(0x82, &[0; 1_001]));
        target.attack(target.proxied, b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n");
        let mut balancer = socket_from("127.0.0.9", target.proxied);
        let _ = balancer.write_all(&connect(V3_1_1, "no header", &[]));
        rest_of(&mut balancer);
        target.attack(plain, b"\xFF\xFF\xFF");
        target.attack(plain, &connect(V5, "nobody", &[]));
        target.attack(plain, &login("c", "anna", "wrong"));
    }
    // One who is known and wants more than it may.
    let mut anna = RawClient::open(plain);
    anna.send(&login("a", "anna", "pw"));
    assert_eq!(anna.packet(), (0x20, vec![0, 0]));
    for _ in 0..TIMES {
        anna.send(&publish(V3_1_1, "of/others", Some(1), &[], b"x"));
        assert_eq!(anna.packet(), (0x40, vec![0, 1]));
    }
    for mut client in waiting {
        assert_eq!(client.packets_to_the_end(), [], "a silent stranger is told nothing");
    }
    let samples = Samples::scrape(target.gateway.admin_address());
    for (name, labels) in [
        ("gateway_closed_total", &["reason=\"tls\""][..]),
        ("gateway_closed_total", &["reason=\"websocket\""]),
        ("gateway_closed_total", &["reason=\"proxy\""]),
        ("gateway_refused_no_balancer_total", &[]),
        ("gateway_protocol_faults_total", &[]),
        ("gateway_connect_timeouts_total", &[]),
        ("gateway_denied_total", &["what=\"connect\""]),
        ("gateway_denied_total", &["what=\"publish\""]),
    ] {
        let count = samples.sum(name, labels);
        assert!(count >= TIMES as f64, "{name} {labels:?}: {count}");
    }
    let log = target.gateway.log();
    for line in [
        "closed before it spoke MQTT",
        "not one of `balancers`",
        "a client broke the protocol",
        "not let in",
        "not authorized",
    ] {
        let count = log.lines().filter(|one| one.contains("WARN") && one.contains(line)).count();
        assert!((1..=LINES_MAX).contains(&count), "{line}: {count} lines\n{log}");
    }
    drop(anna);
    target.gateway.stop();
}
