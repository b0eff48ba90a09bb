//! TLS to the servers of a sub-cluster: which files, and what a connection is made with.
//!
//! What is trusted and shown is looked up at each handshake, so [`NatsTls::reload`] puts files that have
//! changed in force for every connection that begins later.

use super::NatsServer;
use crate::config::tls::{CertificateFiles, TlsFault, certified_key, read_pem};
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// How connections to the servers of a sub-cluster are protected: those of URLs with `tls://`.
#[derive(Clone, Debug)]
pub struct NatsTls {
    /// Whom to trust; without it, whom the operating system trusts.
    pub ca: Option<PathBuf>,
    /// What the gateway shows of itself, if servers ask (`verify: true`).
    pub client: Option<CertificateFiles>,
    /// The handshake comes before INFO, as servers with `handshake_first` want it.
    pub first: bool,
    loaded: Arc<Loaded>,
}

/// Two are the same if they name the same files: what is in these may change.
impl PartialEq for NatsTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.ca, &self.client, self.first) == (&other.ca, &other.client, other.first)
    }
}

impl Eq for NatsTls {}

struct Loaded {
    config: Arc<ClientConfig>,
    trusted: Arc<Trusted>,
    shown: Arc<Shown>,
    /// What servers are asked for by name, if one of them has one.
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.write_str("Loaded")
    }
}

impl NatsTls {
    /// Loads every file. Servers are those configured.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used.
    pub(super) fn load(
        ca: Option<PathBuf>,
        client: Option<CertificateFiles>,
        first: bool,
        servers: &[NatsServer],
    ) -> Result<Self, Vec<TlsFault>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut faults = Vec::new();
        let trusted = authorities(ca.as_ref(), &provider).map_err(|fault| faults.push(fault)).ok();
        let shown = shown(client.as_ref(), &provider).map_err(|fault| faults.push(fault)).ok();
        let (Some(trusted), Some(shown)) = (trusted, shown) else {
            return Err(faults);
        };
        let names: Vec<ServerName<'static>> = servers.iter().filter_map(name_of).collect();
        let server_name = names.iter().find(|name| matches!(name, ServerName::DnsName(_))).cloned();
        let trusted = Arc::new(Trusted { authorities: ArcSwap::new(trusted), names });
        let shown = Arc::new(Shown(ArcSwap::from_pointee(shown)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(trusted.clone())
            .with_client_cert_resolver(shown.clone());
        // Connections are few and last; each is checked as the files are then.
        config.resumption = Resumption::disabled();
        let loaded = Loaded { config: Arc::new(config), trusted, shown, server_name };
        Ok(Self { ca, client, first, loaded: Arc::new(loaded) })
    }

    /// Loads the files again; connections that begin later go by them.
    ///
    /// # Errors
    ///
    /// Every file that cannot be used. Then all stays as it was.
    pub fn reload(&self) -> Result<(), Vec<TlsFault>> {
        let provider = self.loaded.config.crypto_provider();
        let mut faults = Vec::new();
        let trusted =
            authorities(self.ca.as_ref(), provider).map_err(|fault| faults.push(fault)).ok();
        let shown = shown(self.client.as_ref(), provider).map_err(|fault| faults.push(fault)).ok();
        let (Some(trusted), Some(shown)) = (trusted, shown) else {
            return Err(faults);
        };
        self.loaded.trusted.authorities.store(trusted);
        self.loaded.shown.0.store(Arc::new(shown));
        Ok(())
    }

    /// For a connection of this process.
    #[must_use]
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.loaded.config
    }

    /// The name to ask a server at `address` for: a configured one if there is one, as servers announce
    /// themselves by address.
    #[must_use]
    pub fn server_name(&self, address: IpAddr) -> ServerName<'static> {
        self.loaded.server_name.clone().unwrap_or_else(|| ServerName::from(address))
    }
}

fn name_of(server: &NatsServer) -> Option<ServerName<'static>> {
    ServerName::try_from(server.host.trim_matches(['[', ']']).to_owned()).ok()
}

fn authorities(
    ca: Option<&PathBuf>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TlsFault> {
    let mut roots = RootCertStore::empty();
    let key = "nats.ca_file";
    match ca {
        Some(path) => {
            let pem = read_pem(key, path)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = certificate.ok().and_then(|one| roots.add(one).ok());
                added
                    .ok_or_else(|| TlsFault::new(key, path, "certificates of authorities, PEM"))?;
            }
        }
        None => {
            // What the system has and rustls cannot read is nobody that is trusted.
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(
        |_| {
            let system = PathBuf::from("/etc/ssl/certs");
            let expected = "at least one certificate of an authority, PEM";
            TlsFault::new(key, ca.unwrap_or(&system), expected)
        },
    )
}

fn shown(
    client: Option<&CertificateFiles>,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, TlsFault> {
    let keys = ("nats.client_certificate_file", "nats.client_key_file");
    client.map(|files| certified_key(files, keys, provider).map(Arc::new)).transpose()
}

/// Whom to believe that they are a server of the sub-cluster: who has a certificate of an authority for
/// the name of any server that is configured. Which of them it is does not matter, and those that are
/// announced have no name but an address.
#[derive(Debug)]
struct Trusted {
    authorities: ArcSwap<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authorities = self.authorities.load();
        let verify = |name: &ServerName<'_>| {
            authorities.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let mut result = verify(server_name);
        for name in &self.names {
            if !matches!(
                result,
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                ))
            ) {
                break;
            }
            result = verify(name);
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.load().verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.load().verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.load().supported_verify_schemes()
    }
}

/// The gateway's own certificate, if it has one.
#[derive(Debug)]
struct Shown(ArcSwap<Option<Arc<CertifiedKey>>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Option::clone(&self.0.load())
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
