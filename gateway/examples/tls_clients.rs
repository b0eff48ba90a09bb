//! What TLS costs a gateway: handshakes per CPU-second, full and resumed, and memory per idle client.
//!
//! ```sh
//! cargo run --release --example tls_clients -- 127.0.0.1:8883 ca.pem localhost PID 2000 5000
//! ```
//!
//! The last numbers: handshakes of each kind, then connections to hold. PID is the gateway's, on this
//! machine. Its CPU time and its memory are read from `/proc`; the clients' own do not count.

use anyhow::{Context as _, bail};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

type Client = StreamOwned<ClientConnection, TcpStream>;

struct Target {
    address: SocketAddr,
    name: ServerName<'static>,
    pid: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, ca, name, pid, handshakes, held] = arguments.as_slice() else {
        bail!("usage: tls_clients ADDRESS CA_FILE SERVER_NAME PID HANDSHAKES CONNECTIONS");
    };
    let target = Target {
        address: address.parse()?,
        name: ServerName::try_from(name.clone())?,
        pid: pid.parse()?,
    };
    let (handshakes, held): (usize, usize) = (handshakes.parse()?, held.parse()?);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let resuming = Arc::new(config.clone());
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);

    connect(&target, &resuming, 0)?;
    for (kind, config) in [(HandshakeKind::Full, &config), (HandshakeKind::Resumed, &resuming)] {
        let before = cpu_seconds(target.pid)?;
        for number in 0..handshakes {
            let client = connect(&target, config, number)?;
            anyhow::ensure!(client.conn.handshake_kind() == Some(kind), "not {kind:?}");
        }
        let spent = cpu_seconds(target.pid)? - before;
        let rate = handshakes as f64 / spent;
        println!(
            "{kind:?}: {handshakes} handshakes with CONNECT, {spent:.2} CPU-s, {rate:.0}/CPU-s"
        );
    }
    // The second round uses memory that the first has freed.
    for round in 1..=2 {
        let before = private_bytes(target.pid)?;
        let clients: Vec<Client> =
            (0..held).map(|number| connect(&target, &config, number)).collect::<Result<_, _>>()?;
        let after = private_bytes(target.pid)?;
        let each = (after as f64 - before as f64) / held as f64;
        println!("round {round}: {held} idle clients, {after} bytes in all, {each:.0} bytes each");
        drop(clients);
    }
    Ok(())
}

/// A client whose CONNECT was accepted.
fn connect(target: &Target, config: &Arc<ClientConfig>, number: usize) -> anyhow::Result<Client> {
    let stream = TcpStream::connect(target.address).context("cannot connect")?;
    stream.set_nodelay(true)?;
    let connection = ClientConnection::new(Arc::clone(config), target.name.clone())?;
    let mut client = StreamOwned::new(connection, stream);
    let client_id = format!("tls-{number}");
    let length = u8::try_from(12 + client_id.len())?;
    let mut packet = vec![0x10, length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    packet.extend(u16::try_from(client_id.len())?.to_be_bytes());
    packet.extend(client_id.bytes());
    client.write_all(&packet)?;
    let mut connack = [0; 4];
    client.read_exact(&mut connack)?;
    anyhow::ensure!(connack == [0x20, 2, 0, 0], "CONNACK {connack:x?}");
    Ok(client)
}

/// User and system time of a process, seconds.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let ticks =
        fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // USER_HZ: what /proc counts in, whatever the kernel does.
    Ok(ticks as f64 / 100.0)
}

/// Memory that is this process's alone, bytes.
fn private_bytes(pid: u32) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.sum::<u64>() * 1_024)
}
