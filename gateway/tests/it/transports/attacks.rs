//! Attacks on what is below MQTT that take their time, or try what TLS once allowed; and what the
//! operator sees of any: a count, and no more lines in the log than a few.

use super::hostile::{Counted, endless_hello, rest_of};
use super::proxied::socket_from;
use super::target::{TIMES, Target, login};
use super::websocket_client::{REQUEST, frame};
use super::wire::{Client, Socket, tls_over};
use crate::packets::framed;
use crate::process::raw_client::{RawClient, V3_1_1, V5, connect, publish};
use rustix::net::sockopt::set_socket_linger;
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

/// Asks `openssl` to begin the handshake again, once it is over; what it says to that.
fn renegotiate(address: SocketAddr) -> String {
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &address.to_string()])
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
    assert!(errors.contains("RENEGOTIATING"), "it was asked for: {errors}");
    errors
}

/// TLS 1.2 lets a client begin the handshake again, at the server's cost. Not here.
#[test]
fn tls_is_not_negotiated_again() {
    let counted = Counted::start("mqtts", &[]);
    let errors = renegotiate(counted.address);
    assert!(errors.contains("no renegotiation"), "{errors}");
    assert_eq!(counted.counters().closed_tls, 1);
}

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
        target.attack(plain, &login(V3_1_1, "c", "anna", "wrong", None));
    }
    // One who is known and wants more than it may.
    let mut anna = RawClient::open(plain);
    anna.send(&login(V3_1_1, "a", "anna", "pw", None));
    assert_eq!(anna.packet(), (0x20, vec![0, 0]));
    for _ in 0..TIMES {
        anna.send(&publish(V3_1_1, "of/others", Some(1), &[], b"x"));
        assert_eq!(anna.packet(), (0x40, vec![0, 1]));
    }
    for mut client in waiting {
        assert_eq!(client.packets_to_the_end(), [], "a silent stranger is told nothing");
    }
    target.check(
        TIMES,
        &[
            ("gateway_closed_total", "reason=\"tls\""),
            ("gateway_closed_total", "reason=\"websocket\""),
            ("gateway_closed_total", "reason=\"proxy\""),
            ("gateway_refused_no_balancer_total", ""),
            ("gateway_protocol_faults_total", ""),
            ("gateway_connect_timeouts_total", ""),
            ("gateway_denied_total", "what=\"connect\""),
            ("gateway_denied_total", "what=\"publish\""),
        ],
        &[
            "closed before it spoke MQTT",
            "not one of `balancers`",
            "a client broke the protocol",
            "not let in",
            "not authorized",
        ],
    );
    drop(anna);
    target.gateway.stop();
}

/// Strangers who take their time: none is waited for, one at a time or all at once.
#[test]
fn slow_handshakes_are_counted_and_the_log_stays_readable() {
    let mut target = Target::start();
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n";
    let mut slow = Vec::new();
    for number in 0..TIMES {
        let mut balancer = socket_from("127.0.0.9", target.proxied);
        balancer.write_all(&header[..number]).unwrap();
        let mut tls = Socket::open(target.tls);
        tls.write_all(&hello[..number % hello.len()]).unwrap();
        let mut websocket = Socket::open(target.websocket);
        websocket.write_all(&REQUEST.as_bytes()[..number]).unwrap();
        slow.extend([balancer, tls, websocket]);
    }
    for socket in &mut slow {
        assert_eq!(rest_of(socket), b"", "a stranger is told nothing");
    }
    target.check(
        3 * TIMES,
        &[("gateway_closed_total", "reason=\"handshake\"")],
        &["closed before it spoke MQTT"],
    );
    target.gateway.stop();
}

/// How a peer takes its leave, or that it does not, is no reason why it was closed.
#[test]
fn who_resets_or_stays_is_counted_for_what_it_did() {
    let mut target = Target::start();
    let hello = endless_hello(9_000);
    let broken = b"PROXY TCP4 192.0.2.1\r\n";
    let text = [REQUEST.as_bytes(), &frame(0x81, b"text")].concat();
    let attacks: [(SocketAddr, &str, &[u8]); 4] = [
        (target.tls, "127.0.0.1", b"GET / HTTP/1.1\r\n\r\n"),
        (target.tls, "127.0.0.1", &hello),
        (target.proxied, "127.0.0.9", broken),
        (target.websocket, "127.0.0.1", &text),
    ];
    let mut staying = Vec::new();
    for (address, source, bytes) in attacks {
        for stays in [false, true] {
            let mut socket = socket_from(source, address);
            let _ = socket.write_all(bytes);
            rest_of(&mut socket);
            if stays {
                staying.push(socket);
            } else {
                set_socket_linger(socket.stream(), Some(Duration::ZERO)).unwrap();
            }
        }
    }
    target.check(
        2,
        &[
            ("gateway_closed_total", "reason=\"tls\""),
            ("gateway_closed_total", "reason=\"handshake\""),
            ("gateway_closed_total", "reason=\"proxy\""),
            ("gateway_closed_total", "reason=\"websocket\""),
        ],
        &["closed before it spoke MQTT"],
    );
    drop(staying);
    target.gateway.stop();
}

/// Whatever can be too large, by one byte or without end.
#[test]
fn what_is_too_large_is_counted_and_the_log_stays_readable() {
    let mut target = Target::start();
    let plain = target.gateway.address();
    // Handshakes: a balancer's header, a hello, a request.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    header.resize(9_000, 0);
    let request = REQUEST.replace("/mqtt", &"/x".repeat(3_000));
    let mut hello = Vec::new();
    for _ in 0..9 {
        hello.extend([22, 3, 1, 3, 0xe8]);
        hello.extend([1, 0, 0xff, 0xf0].iter().chain(&[0; 996]));
    }
    for _ in 0..TIMES {
        let mut balancer = socket_from("127.0.0.9", target.proxied);
        let _ = balancer.write_all(&header);
        rest_of(&mut balancer);
        target.attack(target.tls, &hello);
        assert!(target.attack(target.websocket, request.as_bytes()).starts_with(b"HTTP/1.1 431 "));
        // A frame, and a packet without end in fragments that have none.
        target.attack_websocket(&frame(0x82, &[0; 1_001]));
        let mut endless = frame(0x02, &[0x10, 0xff, 0xff, 0xff, 0x7f]);
        endless.extend(frame(0x00, &[0; 1_000]).repeat(80));
        target.attack_websocket(&endless);
        let empty = [frame(0x02, b"\x10"), frame(0x00, b"").repeat(70)].concat();
        target.attack_websocket(&empty);
        // CONNECT, and a packet of a client that is known.
        target.attack(plain, &framed(0x10, &[0; 70_000]));
        let mut anna = RawClient::open(plain);
        anna.send(&login(V5, "a", "anna", "pw", None));
        assert_eq!(anna.packet().1[1], 0);
        let _ = anna.try_send(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(anna.packets_to_the_end(), [(0xE0, vec![0x95])]);
    }
    target.check(
        2 * TIMES,
        &[
            ("gateway_closed_total", "reason=\"handshake\""),
            ("gateway_closed_total", "reason=\"websocket\""),
            ("gateway_protocol_faults_total", ""),
        ],
        &["closed before it spoke MQTT", "a client broke the protocol"],
    );
    target.gateway.stop();
}

#[test]
fn renegotiations_and_broken_records_are_counted_and_the_log_stays_readable() {
    let mut target = Target::start();
    renegotiate(target.tls);
    for _ in 0..TIMES {
        // A record that was tampered with, after a good handshake and CONNECT.
        let socket = Socket::open(target.tls);
        let mut below = socket.stream();
        let stream = tls_over(socket, &target.client_config, "localhost").unwrap();
        let mut client = Client::new(Box::new(stream));
        client.send(&login(V5, "a", "anna", "pw", None));
        assert_eq!(client.packet().1[1], 0);
        below.write_all(&[23, 3, 3, 0, 40]).unwrap();
        below.write_all(&[7; 40]).unwrap();
        let _ = below.read_to_end(&mut Vec::new());
    }
    target.check(
        TIMES + 1,
        &[("gateway_closed_total", "reason=\"tls\"")],
        &["closed before it spoke MQTT, or for its transport"],
    );
    target.gateway.stop();
}
