//! A certificate as a table of `[[tls_certificates]]`.

use std::collections::BTreeMap;

use crate::config::error::Origin;
use crate::config::given::{Kind, Written};

/// What one table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct GivenCertificate {
    /// Where it begins.
    pub(in crate::config) origin: Origin,
    /// By the keys of [`CERTIFICATE_KEYS`].
    pub(in crate::config) values: BTreeMap<&'static str, Written>,
}

/// The keys of a table.
pub(in crate::config) const CERTIFICATE_KEYS: &[(&str, Kind)] =
    &[("cert", Kind::Text), ("key", Kind::Text)];
