//! Clients' certificates: who signed them, whether they were revoked, whose they are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::load::{PEM_BYTES_MAX, TlsFault, read};
use super::{ClientCertificates, TlsConfig};

/// Which name of a certificate is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateIdentity {
    /// The Common Name of the subject.
    CommonName,
    /// The first DNS name of Subject Alternative Name.
    Dns,
    /// The first e-mail address of Subject Alternative Name.
    Email,
    /// The first URI of Subject Alternative Name.
    Uri,
}

/// The longest name that is taken, bytes.
const IDENTITY_BYTES_MAX: usize = 1_024;

/// The longest list of revoked certificates, bytes.
const CRL_BYTES_MAX: u64 = 64 << 20;

impl CertificateIdentity {
    pub(super) const NAMES: &[(&str, Self)] = &[
        ("common_name", Self::CommonName),
        ("dns", Self::Dns),
        ("email", Self::Email),
        ("uri", Self::Uri),
    ];

    /// The client's name in `certificate`; `None` if it has none of this kind, or one that is longer
    /// than 1,024 bytes or has control characters, which could be mistaken for another.
    #[must_use]
    pub fn of(self, certificate: &[u8]) -> Option<Box<str>> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let name = match self {
            Self::CommonName => certificate.subject().iter_common_name().next()?.as_str().ok()?,
            Self::Dns => first_name(&certificate, |name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            })?,
            Self::Email => first_name(&certificate, |name| match name {
                GeneralName::RFC822Name(name) => Some(*name),
                _ => None,
            })?,
            Self::Uri => first_name(&certificate, |name| match name {
                GeneralName::URI(name) => Some(*name),
                _ => None,
            })?,
        };
        let is_fit = (1..=IDENTITY_BYTES_MAX).contains(&name.len());
        (is_fit && !name.chars().any(char::is_control)).then(|| name.into())
    }
}

impl fmt::Display for CertificateIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, kind)| kind == self);
        f.write_str(named.expect("every kind has a name").0)
    }
}

fn first_name<'a>(
    certificate: &'a X509Certificate<'_>,
    wanted: impl Fn(&'a GeneralName<'a>) -> Option<&'a str>,
) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(wanted)
}

/// What checks clients' certificates, `None` where they are not asked for.
///
/// The client's own certificate is looked up in the lists of its issuer; if any list is given, that
/// one must be. A list whose next one is overdue still counts: a fleet that cannot come back because
/// a file was not renewed is the greater evil. It is said when it is loaded.
pub(super) fn verifier(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsFault> {
    let Some(path) = &config.client_ca else { return Ok(None) };
    let fault = |expected: String| TlsFault::new("tls_client_ca", path, &expected);
    let mut roots = RootCertStore::empty();
    let bytes = read("tls_client_ca", path, PEM_BYTES_MAX)?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| fault(format!("PEM, but: {error}")))?;
        roots.add(certificate).map_err(|error| fault(format!("X.509, but: {error}")))?;
    }
    if roots.is_empty() {
        return Err(fault("certificates of authorities, -----BEGIN CERTIFICATE-----".to_owned()));
    }
    let mut crls = Vec::new();
    for path in &config.client_crls {
        crls.extend(revoked(path)?);
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = builder.with_crls(crls).only_check_end_entity_revocation();
    let builder = match config.clients {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional | ClientCertificates::None => builder.allow_unauthenticated(),
    };
    let verifier = builder.build().map_err(|error| fault(format!("roots, but: {error}")))?;
    Ok(Some(verifier))
}

/// The lists in a file: PEM, several if so, or one in DER.
fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFault> {
    let fault = |expected: &str| TlsFault::new("tls_client_crl", path, expected);
    let bytes = read("tls_client_crl", path, CRL_BYTES_MAX)?;
    let pem = CertificateRevocationListDer::pem_slice_iter(&bytes);
    let mut lists = pem.collect::<Result<Vec<_>, _>>().map_err(|_| fault("PEM"))?;
    if lists.is_empty() {
        lists.push(bytes.into());
    }
    for list in &lists {
        use x509_parser::revocation_list::CertificateRevocationList;
        let Ok((_, list)) = CertificateRevocationList::from_der(list) else {
            return Err(fault("lists of revoked certificates, -----BEGIN X509 CRL-----"));
        };
        let now = rustls::pki_types::UnixTime::now().as_secs();
        let next = list.next_update().and_then(|next| u64::try_from(next.timestamp()).ok());
        if next.is_some_and(|next| next < now) {
            tracing::warn!(file = %path.display(), "list of revoked certificates is overdue");
        }
    }
    Ok(lists)
}
