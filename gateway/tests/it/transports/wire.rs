//! Clients on each transport, written without the gateway's code.

use super::certificates::{Authority, Issued};
use crate::process::gateway::PATIENCE;
use crate::process::raw_client::{RawPacket, connect, read_packet};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// What carries MQTT to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Tcp,
    Tls,
    Ws,
    Wss,
}

pub(super) const ALL: [Wire; 4] = [Wire::Tcp, Wire::Tls, Wire::Ws, Wire::Wss];

impl Wire {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub(super) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// Bytes both ways.
pub(super) trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A TCP connection whose bytes each travel alone, if so wished.
pub(super) struct Socket {
    stream: TcpStream,
    dribble: bool,
}

impl Socket {
    pub(super) fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(super) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, dribble: false }
    }

    pub(super) fn dribbling(address: SocketAddr) -> Self {
        Self { dribble: true, ..Self::open(address) }
    }

    pub(super) fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = if self.dribble { bytes.len().min(1) } else { bytes.len() };
        self.stream.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// How clients speak TLS: tickets are kept from connection to connection.
pub(super) fn client_config(authority: &Authority, client: Option<&Issued>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match client {
        Some(client) => {
            builder.with_client_auth_cert(client.chain.clone(), client.key_der()).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

/// TLS over a socket, the handshake done.
///
/// # Errors
///
/// The handshake failed. A server that refuses a client's certificate in TLS 1.3 is heard later.
pub(super) fn tls_over(
    mut socket: Socket,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, Socket>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Connects, sends CONNECT and waits for CONNACK; how the handshake went, and the client.
pub(super) fn tls_session(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    client_id: &str,
) -> io::Result<(HandshakeKind, Client)> {
    let mut stream = tls_over(Socket::open(address), config, "localhost")?;
    stream.write_all(&connect(4, client_id, &[]))?;
    // The ticket comes before CONNACK.
    let (kind, body) = read_packet(&mut stream)?;
    assert_eq!((kind, &body[..]), (0x20, &[0, 0][..]), "CONNACK");
    let handshake = stream.conn.handshake_kind().expect("it is over");
    Ok((handshake, Client::new(Box::new(stream))))
}

/// An MQTT client over anything.
pub(super) struct Client {
    stream: Box<dyn Stream>,
}

impl Client {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream }
    }

    #[track_caller]
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next packet; fails at the end of the stream.
    #[track_caller]
    pub(super) fn packet(&mut self) -> RawPacket {
        read_packet(&mut self.stream).unwrap()
    }

    /// Whether PINGREQ is answered, after what else may come first.
    #[track_caller]
    pub(super) fn ping(&mut self) {
        self.send(&[0xc0, 0]);
        assert_eq!(self.packet().0, 0xd0);
    }

    /// Reads to the end; whether it came, and not an error.
    pub(super) fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}
