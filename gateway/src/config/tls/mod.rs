//! TLS, as configured: which files, and what they are loaded into.
//!
//! `resolved.rs` makes a [`TlsConfig`] of what was written. [`TlsConfig::load`] makes a
//! [`TlsServer`] of the files it names: once to check them before anything starts, and again
//! whenever they change. Files are read here and nowhere else.

mod certificates;
mod clients;
mod load;
mod resolved;
mod tickets;

pub(super) use resolved::{resolve, write_tables, write_toml};

pub(super) use certificates::certified_key;
pub(super) use load::read_pem;

pub use clients::CertificateIdentity;
pub use load::{CertificateRefused, TlsFault, TlsServer};
pub use tickets::TicketKeys;

use super::given::Kind;
use std::path::PathBuf;

/// The most certificates a gateway shows.
pub const TLS_CERTIFICATES_MAX: usize = 1_024;
/// The keys of a `[[tls_certificates]]` table.
pub(super) const CERTIFICATE_KEYS: &[(&str, Kind)] = &[("cert", Kind::Text), ("key", Kind::Text)];
/// The most files of revoked certificates.
pub const TLS_CRLS_MAX: usize = 64;

/// What TLS listeners show and ask for; all of them the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// At least one. A client that names no host, or one that no certificate is for, gets the first
    /// it can use.
    pub certificates: Vec<CertificateFiles>,
    /// What clients have to show.
    pub clients: ClientCertificates,
    /// The authorities that sign clients' certificates; set unless those are not asked for.
    pub client_ca: Option<PathBuf>,
    /// Lists of certificates that these authorities have revoked; at most [`TLS_CRLS_MAX`].
    pub client_crls: Vec<PathBuf>,
    /// Which name of a client's certificate is the client's.
    pub client_identity: CertificateIdentity,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub tls_1_2: bool,
    /// The keys of session tickets, to be shared between gateways. Without it each process makes its
    /// own.
    pub ticket_keys: Option<PathBuf>,
    /// How long a ticket is good for, seconds: `limits.tls_ticket_lifetime_s`.
    pub ticket_lifetime_s: u32,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate first, then those that lead to a root.
    pub cert: PathBuf,
    /// The key of the first certificate: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for.
    None,
    /// Asked for; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

impl TlsConfig {
    /// Every file it names: when one of them changes, it is to be loaded again.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let certificates = self.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let clients = self.client_ca.iter().chain(&self.client_crls);
        certificates.chain(clients).chain(&self.ticket_keys)
    }
}
