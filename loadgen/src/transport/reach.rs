//! Before a run: is the broker there, and does it speak what its URL says?

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use gateway::proto::websocket::WebSocketAnswerFault;
use rustls::{AlertDescription, CertificateError, Error};

use super::{Broker, LayerFault, Layers};

/// How long the broker may take to accept the first connection, and for each answer on it.
const REACH: Duration = Duration::from_secs(5);

/// How long to wait for what the broker says behind the handshakes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connects once, goes through the handshakes of all layers, and says goodbye.
///
/// A broker that refuses a client's certificate says so only behind a TLS 1.3 handshake, so what comes
/// after the goodbye is heard too.
///
/// # Errors
///
/// A sentence: what is wrong, and what to change.
pub(crate) fn reach(broker: &Broker) -> Result<(), String> {
    let address = broker.address;
    let mut socket = TcpStream::connect_timeout(&address, REACH).map_err(|error| {
        format!("no broker at {address}: start it, or give another --broker: {error}")
    })?;
    let Some(transport) = &broker.transport else { return Ok(()) };
    let url = &broker.url;
    let timeouts =
        socket.set_read_timeout(Some(REACH)).and_then(|()| socket.set_write_timeout(Some(REACH)));
    timeouts.map_err(|error| format!("--broker {url}: {error}"))?;
    let mut probe = Probe { layers: Layers::new(transport.clone(), 1), wire: Vec::new() };
    let begun = probe.layers.begin(0, &mut probe.wire);
    let outcome = begun.map_err(ProbeFault::Layer).and_then(|()| probe.run(&mut socket));
    outcome.map_err(|fault| format!("--broker {url}: {}", sentence(broker, &fault)))
}

struct Probe {
    layers: Layers,
    wire: Vec<u8>,
}

#[derive(Debug)]
enum ProbeFault {
    Layer(LayerFault),
    Io(io::Error),
    /// The broker ended the connection before all layers stood.
    Ended,
}

impl Probe {
    fn run(&mut self, socket: &mut TcpStream) -> Result<(), ProbeFault> {
        let mut buffer = vec![0; 16 << 10];
        let mut opened = false;
        loop {
            let sent = socket.write_all(&self.wire);
            self.wire.clear();
            // A broker that ends a connection at our goodbye has had what it needs.
            sent.or_else(|error| if opened { Ok(()) } else { Err(ProbeFault::Io(error)) })?;
            let count = match socket.read(&mut buffer) {
                Ok(0) | Err(_) if opened => return Ok(()),
                Ok(0) => return Err(ProbeFault::Ended),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ProbeFault::Ended);
                }
                Err(error) => return Err(ProbeFault::Io(error)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            let outcome = self.layers.receive(0, bytes, &mut Vec::new(), &mut self.wire);
            let progress = match outcome {
                Ok(progress) => progress,
                Err(fault) => {
                    // The broker hears why; if not, it is none the worse for it.
                    let _ = socket.write_all(&self.wire);
                    return Err(ProbeFault::Layer(fault));
                }
            };
            if progress.opened {
                opened = true;
                // Who has more to say says it at once. That the wait cannot be set is no fault.
                let _ = socket.set_read_timeout(Some(LAST_WORDS));
                self.layers.say_goodbye(&mut self.wire);
            }
        }
    }
}

impl Layers {
    /// As [`Layers::end`], and goes on listening.
    fn say_goodbye(&mut self, wire: &mut Vec<u8>) {
        let stage = self.stage;
        self.end(wire);
        self.stage = stage;
    }
}

/// What is wrong, and what to change.
fn sentence(broker: &Broker, fault: &ProbeFault) -> String {
    let url = &broker.url;
    let layer = if url.scheme.is_tls() { "TLS" } else { "WebSocket" };
    match fault {
        ProbeFault::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!(
                "no answer to the {layer} handshake within {} s: is it the right port?",
                REACH.as_secs()
            )
        }
        ProbeFault::Io(error) => format!("the {layer} handshake failed: {error}"),
        ProbeFault::Ended => {
            format!(
                "the broker ended the connection during the {layer} handshake: is it the right port?"
            )
        }
        ProbeFault::Layer(LayerFault::Tls(error)) => tls_sentence(broker, error),
        ProbeFault::Layer(fault @ LayerFault::WebSocket(WebSocketAnswerFault::Status(_))) => {
            format!("{fault}: is {} the path?", url.path)
        }
        ProbeFault::Layer(fault @ LayerFault::WebSocket(_)) => fault.to_string(),
    }
}

fn tls_sentence(broker: &Broker, error: &Error) -> String {
    let host = &broker.url.host;
    match error {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            // What OpenSSL makes for a quick test is its own authority.
            | CertificateError::BadSignature,
        ) => {
            let known = match &broker.ca {
                Some(path) => format!("the authorities in {}", path.display()),
                None => "the authorities of this system".to_owned(),
            };
            format!(
                "the broker's certificate is of none of {known}: give its own with --tls-ca FILE \
                 ({error})"
            )
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the broker's certificate is not for {host}: give one of its names ({error})"),
        Error::InvalidCertificate(_) => {
            format!("the broker's certificate is not good: {error}")
        }
        Error::InvalidMessage(_) => {
            format!("what the broker sent is not TLS: is it the right port? ({error})")
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("no version of TLS in common: leave out --tls-version ({error})")
        }
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate,
        ) => format!(
            "the broker wants another certificate of its clients: give it with --tls-cert and \
             --tls-key ({error})"
        ),
        _ => format!("the TLS handshake failed: {error}"),
    }
}
