//! Which of the server's certificates a client is shown.

use std::cell::Cell;
use std::sync::Arc;

use hashbrown::HashMap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use smallvec::SmallVec;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::load::{PEM_BYTES_MAX, TlsFault, read};
use super::{CertificateFiles, TlsConfig};

thread_local! {
    static ASKED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// The host name the ClientHello that was just processed on this thread asked for.
///
/// rustls does not tell it for connections that it does not buffer; who resolves the certificate is
/// the one that hears it, during the call that processes the hello.
pub(super) fn take_asked() -> Option<Box<str>> {
    ASKED.take()
}

/// The server's certificates by the names they are for.
#[derive(Debug)]
pub(super) struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    /// In lower case; of `*.example.org` what follows the star, the dot included.
    by_name: HashMap<Box<str>, SmallVec<[usize; 2]>>,
}

impl Certificates {
    pub(super) fn load(
        config: &TlsConfig,
        provider: &CryptoProvider,
    ) -> Result<Self, Vec<TlsFault>> {
        let (mut all, mut faults) = (Vec::new(), Vec::new());
        let mut by_name = HashMap::<Box<str>, SmallVec<[usize; 2]>>::new();
        for files in &config.certificates {
            match load(files, provider) {
                Ok((certified, names)) => {
                    for name in names {
                        by_name.entry(name).or_default().push(all.len());
                    }
                    all.push(Arc::new(certified));
                }
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Self { all, by_name }) } else { Err(faults) }
    }

    /// Those for `name`, exactly or by a wildcard for its first label.
    fn named(&self, name: &str) -> &[usize] {
        let exact = self.by_name.get(name);
        let parent = || self.by_name.get(name.get(name.find('.')?..)?);
        exact.or_else(parent).map_or(&[], |places| places.as_slice())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        ASKED.set(asked.map(Into::into));
        let schemes = hello.signature_schemes();
        let is_usable = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(schemes).is_some();
        let named = asked.map_or(&[][..], |name| self.named(name));
        let named = named.iter().filter_map(|place| self.all.get(*place));
        named.chain(&self.all).find(is_usable).cloned()
    }
}

/// Reads a chain and its key, and checks that they belong together. The names are those the
/// certificate is for.
fn load(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Vec<Box<str>>), TlsFault> {
    let certified = certified_key(files, ("tls_cert", "tls_key"), provider)?;
    let names = certified.cert.first().and_then(|first| names(first));
    let expected = "an X.509 certificate";
    let names = names.ok_or_else(|| TlsFault::new("tls_cert", &files.cert, expected))?;
    Ok((certified, names))
}

/// Reads a chain and its key, and checks that they belong together; both named by these keys of the
/// configuration.
pub(in crate::config) fn certified_key(
    files: &CertificateFiles,
    (cert, key): (&'static str, &'static str),
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFault> {
    let fault = |expected: String| TlsFault::new(cert, &files.cert, &expected);
    let bytes = read(cert, &files.cert, PEM_BYTES_MAX)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| fault(format!("PEM, but: {error}")))?;
    let first = chain.first().ok_or_else(|| {
        fault("a certificate and those behind it, -----BEGIN CERTIFICATE-----".to_owned())
    })?;
    X509Certificate::from_der(first).map_err(|_| fault("an X.509 certificate".to_owned()))?;
    let bytes = read(key, &files.key, PEM_BYTES_MAX)?;
    let key_fault = |expected: &str| TlsFault::new(key, &files.key, expected);
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        key_fault("a private key that is not encrypted, -----BEGIN PRIVATE KEY-----")
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            key_fault(&format!("the key of the first certificate in {}", files.cert.display()))
        }
        _ => key_fault("an ECDSA P-256 or P-384, Ed25519 or RSA key of 2,048 to 8,192 bits"),
    })
}

/// The DNS names of a certificate, wildcards without their star; `None` if it cannot be read.
fn names(certificate: &[u8]) -> Option<Vec<Box<str>>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.strip_prefix('*').unwrap_or(name)),
        _ => None,
    });
    Some(names.map(|name| name.to_ascii_lowercase().into_boxed_str()).collect())
}
