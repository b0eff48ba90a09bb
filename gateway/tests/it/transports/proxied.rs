//! Behind a balancer: PROXY headers, by hand and from a real HAProxy.

use super::certificates::Authority;
use super::wire::{Client, Socket, client_config, tls_over};
use crate::process::gateway::{Gateway, free_address};
use crate::process::raw_client::{connect, publish, subscribe};
use crate::process::tools::tool;
use crate::sources::crate_folder;
use rustix::net::{AddressFamily, SocketType, bind, connect as connect_socket, socket};
use std::io::Write as _;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A connection to `address` from another loopback address.
pub(super) fn socket_from(source: &str, address: SocketAddr) -> Socket {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(source.parse().unwrap(), 0)).unwrap();
    connect_socket(&socket, &address).unwrap();
    Socket::over(TcpStream::from(socket))
}

/// A gateway whose listener of this scheme takes balancers at 127.0.0.0/8.
fn proxied_gateway(scheme: &str, flags: &[&str]) -> (Gateway, SocketAddr) {
    let address = free_address();
    let listen = format!("{scheme}://{address}?proxy");
    let own = ["--listen", &listen, "--balancer", "127.0.0.0/8", "--log", "debug", "--shards", "2"];
    (Gateway::start(&[&own, flags].concat()), address)
}

/// The header goes along when the connection is handed over: the client's address stays its own.
#[test]
fn what_a_header_says_is_known_on_either_shard() {
    let (mut gateway, address) = proxied_gateway("mqtt", &[]);
    for number in 0..8 {
        let name = format!("client {number}");
        let mut socket = Socket::open(address);
        let header = format!("PROXY TCP4 192.0.2.{number} 192.0.2.99 5000 1883\r\n");
        let mut all = header.into_bytes();
        all.extend(connect(4, &name, &[]));
        all.extend(subscribe(4, &[&name], 0));
        socket.write_all(&all).unwrap();
        let mut client = Client::new(Box::new(socket));
        assert_eq!((client.packet().0, client.packet().0), (0x20, 0x90));
        client.send(&publish(4, &name, None, &[], b"hello"));
        assert_eq!(client.packet().0, 0x30);
        gateway.wait_for_lines(&format!("peer=192.0.2.{number}:5000"), 1);
    }
    gateway.stop();
}

/// A balancer with the configuration that is given away in `tuning/`; killed when dropped.
struct Balancer(Child);

impl Balancer {
    /// Starts it; returns once it listens at `ready`.
    fn start(mut command: Command, ready: SocketAddr) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        for _ in 0..600 {
            if TcpStream::connect(ready).is_ok() {
                return Self(child);
            }
            if child.try_wait().unwrap().is_some() {
                let output = child.wait_with_output().unwrap();
                panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("it does not listen: {command:?}");
    }
}

/// `PATH` with where Debian keeps servers.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn behind_haproxy_clients_keep_their_names_and_their_gateway() {
    if tool("sh", &["-c", "PATH=$PATH:/usr/sbin; command -v haproxy"]).is_none() {
        return;
    }
    let authority = Authority::new();
    let server = authority.server("server", &["mqtt.example", "localhost"]);
    let device = authority.client("meter-7");
    let pem = authority.directory().join("haproxy.pem");
    let both = [&server.cert, &server.key].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&pem, both.concat()).unwrap();

    let (mut first, first_address) = proxied_gateway("mqtt", &[]);
    let (mut second, second_address) = proxied_gateway("mqtt", &[]);
    let (plain, tls) = (free_address(), free_address());
    let variables = [
        ("PATH", path_with_sbin()),
        ("MAXCONN", "1000".to_owned()),
        ("MQTT", plain.to_string()),
        ("MQTTS", tls.to_string()),
        ("CERTIFICATE", pem.to_str().unwrap().to_owned()),
        ("CLIENT_CA", authority.file().to_str().unwrap().to_owned()),
        ("GATEWAY_1", first_address.to_string()),
        ("GATEWAY_2", second_address.to_string()),
    ];
    let mut command = Command::new("haproxy");
    command.arg("-f").arg(crate_folder().join("../tuning/haproxy.cfg")).arg("-db");
    command.envs(variables.iter().cloned());
    let haproxy = Balancer::start(command, plain);

    // Ends TLS itself: the certificate's name and the host come in the header.
    let config = client_config(&authority, Some(&device));
    let mut client =
        Client::new(Box::new(tls_over(Socket::open(tls), &config, "mqtt.example").unwrap()));
    client.send(&connect(4, "meter", &[]));
    assert_eq!(client.packet(), (0x20, vec![0, 0]));
    client.ping();

    // A session is found again, whichever way: same client id, same gateway.
    for number in 0..8 {
        let name = format!("device {number}");
        for round in 0..3_u8 {
            let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0];
            crate::process::raw_client::push_text(&mut body, &name);
            let mut client = Client::new(Box::new(Socket::open(plain)));
            client.send(&crate::packets::framed(0x10, &body));
            let (kind, body) = client.packet();
            assert_eq!((kind, body), (0x20, vec![u8::from(round > 0), 0]), "{name} {round}");
            client.send(&[0xe0, 0]);
            client.ends();
        }
    }
    drop(haproxy);
    let logs = first.log() + &second.log();
    let told = logs.lines().find(|line| line.contains("meter-7")).expect("the name is told");
    assert!(told.contains("mqtt.example") && told.contains("Tls"), "{told}");
    first.stop();
    second.stop();
}

#[test]
fn behind_nginx_clients_keep_their_addresses() {
    if tool("sh", &["-c", "PATH=$PATH:/usr/sbin; command -v nginx"]).is_none() {
        return;
    }
    let authority = Authority::new();
    let server = authority.server("server", &["mqtt.example", "localhost"]);
    let (mut plain_gateway, plain_address) = proxied_gateway("mqtt", &[]);
    let flags = server.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (mut tls_gateway, tls_address) = proxied_gateway("mqtts", &flags);
    let (plain, tls) = (free_address(), free_address());
    // It reads no variables: the addresses are written into a copy.
    let text = std::fs::read_to_string(crate_folder().join("../tuning/nginx.conf")).unwrap();
    let text = [
        ("10.0.0.11:1884", plain_address.to_string()),
        ("10.0.0.11:8884", tls_address.to_string()),
        ("listen 1883", format!("listen {plain}")),
        ("listen 8883", format!("listen {tls}")),
        ("server 10.0.0.12", "# server 10.0.0.12".to_owned()),
        ("pid /run/nginx.pid", format!("pid {}", authority.directory().join("pid").display())),
    ]
    .iter()
    .fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    let file = authority.directory().join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let nginx = || {
        let mut command = Command::new("nginx");
        command.env("PATH", path_with_sbin()).args(["-e", "stderr", "-c"]).arg(&file);
        command
    };
    let mut check = nginx();
    check.arg("-t");
    crate::process::tools::run(check);
    let mut command = nginx();
    // One process, so that nothing is left when it is killed.
    command.args(["-g", "daemon off; master_process off;"]);
    let nginx = Balancer::start(command, plain);

    let mut client = Client::new(Box::new(socket_from("127.0.0.71", plain)));
    client.send(&connect(4, "plain", &[]));
    assert_eq!(client.packet(), (0x20, vec![0, 0]));
    client.send(&subscribe(4, &["t"], 1));
    assert_eq!(client.packet().0, 0x90);
    client.send(&publish(4, "t", Some(1), &[], b"hello"));
    // In either order.
    let mut kinds = [client.packet().0, client.packet().0];
    kinds.sort_unstable();
    assert_eq!(kinds, [0x32, 0x40]);
    plain_gateway.wait_for_lines("peer=127.0.0.71:", 1);

    let config = client_config(&authority, None);
    let stream = tls_over(socket_from("127.0.0.72", tls), &config, "mqtt.example").unwrap();
    let mut client = Client::new(Box::new(stream));
    client.send(&connect(4, "secret", &[]));
    assert_eq!(client.packet(), (0x20, vec![0, 0]));
    client.ping();
    tls_gateway.wait_for_lines("peer=127.0.0.72:", 1);
    drop((client, nginx));
    plain_gateway.stop();
    tls_gateway.stop();
}
