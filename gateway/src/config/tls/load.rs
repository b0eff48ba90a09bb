//! From the files that are named to what a listener shows and asks for.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};

use super::certificates::{Certificates, take_asked};
use super::clients::verifier;
use super::tickets::{TicketKeys, Tickets};
use super::{CertificateIdentity, TlsConfig};

/// The longest file with certificates or a key, bytes.
pub(super) const PEM_BYTES_MAX: u64 = 1 << 20;

/// A file that is not what it should be. Nothing of its content is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFault {
    /// The key of the configuration that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What would have been right.
    pub expected: String,
}

impl TlsFault {
    pub(in crate::config) fn new(key: &'static str, path: &Path, expected: &str) -> Self {
        Self { key, path: path.to_owned(), expected: expected.to_owned() }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}: expected {}", self.key, self.path, self.expected)
    }
}

impl std::error::Error for TlsFault {}

/// Reads a file of at most `bytes_max` bytes.
pub(super) fn read(key: &'static str, path: &Path, bytes_max: u64) -> Result<Vec<u8>, TlsFault> {
    let mut bytes = Vec::new();
    let file = File::open(path).map(|file| file.take(bytes_max + 1));
    let result = file.and_then(|mut file| file.read_to_end(&mut bytes));
    match result {
        Err(error) => {
            Err(TlsFault::new(key, path, &format!("a file that can be read, but: {error}")))
        }
        Ok(length) if length as u64 > bytes_max => {
            Err(TlsFault::new(key, path, &format!("a file of at most {bytes_max} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Reads a file with certificates or a key.
pub(in crate::config) fn read_pem(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsFault> {
    read(key, path, PEM_BYTES_MAX)
}

/// What TLS listeners show and ask for, loaded.
#[derive(Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    identity: CertificateIdentity,
}

/// A client's certificate that was good in an earlier session is not any more, or there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateRefused;

impl TlsConfig {
    /// Loads every file. Tickets are sealed with the keys of the file for them, or with `keys`.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub fn load(&self, keys: &TicketKeys) -> Result<TlsServer, Vec<TlsFault>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut faults = Vec::new();
        let certificates =
            Certificates::load(self, &provider).map_err(|found| faults.extend(found)).ok();
        let verifier = verifier(self, &provider).map_err(|fault| faults.push(fault)).ok();
        let keys = match &self.ticket_keys {
            Some(path) => TicketKeys::read(path).map_err(|fault| faults.push(fault)).ok(),
            None => Some(keys.clone()),
        };
        let (Some(certificates), Some(verifier), Some(keys)) = (certificates, verifier, keys)
        else {
            return Err(faults);
        };
        let versions: &[_] = if self.tls_1_2 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider has suites for both versions");
        let asked = verifier.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let mut config =
            builder.with_client_cert_verifier(asked).with_cert_resolver(Arc::new(certificates));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(Tickets { keys, lifetime_s: self.ticket_lifetime_s });
        // Each resumption brings a new one.
        config.send_tls13_tickets = 1;
        Ok(TlsServer { config: Arc::new(config), verifier, identity: self.client_identity })
    }
}

impl TlsServer {
    /// For connections that begin now.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The host name the ClientHello that was just processed on this thread asked for.
    #[must_use]
    pub fn take_asked_name() -> Option<Box<str>> {
        take_asked()
    }

    /// Whose the certificate is that a client has shown and the handshake has checked.
    ///
    /// In a `resumed` session it was checked when that began, so here it is once more: it may have
    /// expired or been revoked since, or be asked for now and not then.
    ///
    /// # Errors
    ///
    /// The certificate of a resumed session is not good any more.
    pub fn identify(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
    ) -> Result<Option<Box<str>>, CertificateRefused> {
        let Some(verifier) = &self.verifier else { return Ok(None) };
        let Some((own, others)) = chain.and_then(<[_]>::split_first) else {
            let may_go_on = !verifier.client_auth_mandatory();
            return if may_go_on { Ok(None) } else { Err(CertificateRefused) };
        };
        if resumed && verifier.verify_client_cert(own, others, UnixTime::now()).is_err() {
            return Err(CertificateRefused);
        }
        Ok(self.identity.of(own))
    }
}
