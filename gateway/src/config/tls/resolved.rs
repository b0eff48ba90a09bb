//! From what was written to a [`TlsConfig`].

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use super::{
    CertificateFiles, CertificateIdentity, ClientCertificates, TLS_CERTIFICATES_MAX, TLS_CRLS_MAX,
    TicketKeys, TlsConfig,
};
use crate::config::error::{ConfigError, Origin};
use crate::config::given::{Given, Written};
use crate::config::show::quoted;

const CLIENT_CERT_NAMES: &[(&str, ClientCertificates)] =
    &[("required", ClientCertificates::Required), ("optional", ClientCertificates::Optional)];

/// The keys of single values that have no meaning without TLS.
const KEYS: &[&str] = &[
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_cert",
    "tls_client_identity",
    "tls_min_version",
    "tls_ticket_keys",
];

/// Decides, and loads every file to see whether it can be used. `wanted`: a listener speaks TLS.
pub(in crate::config) fn resolve(
    given: &Given,
    wanted: bool,
    ticket_lifetime_s: u32,
    faults: &mut Vec<ConfigError>,
) -> Option<TlsConfig> {
    let faults_before = faults.len();
    let certificates = certificates(given, faults);
    let setting = |key: &str| given.settings.get(key);
    let client_ca = setting("tls_client_ca").map(path_of);
    let clients = match (&client_ca, setting("tls_client_cert")) {
        (Some(_), None) => ClientCertificates::Required,
        (None, None) => ClientCertificates::None,
        (Some(_), Some(written)) => choose(
            "tls_client_cert",
            written,
            CLIENT_CERT_NAMES,
            ClientCertificates::Required,
            faults,
        ),
        (None, Some(written)) => {
            let expected = "tls_client_ca with it: who signs clients' certificates";
            faults.push(fault("tls_client_cert", written, expected));
            ClientCertificates::None
        }
    };
    let client_crls = given.lists.get("tls_client_crl").map_or(&[][..], Vec::as_slice);
    if let Some(written) = client_crls.get(TLS_CRLS_MAX) {
        let expected = format!("at most {TLS_CRLS_MAX} files");
        faults.push(fault("tls_client_crl", written, &expected));
    }
    if let Some(written) = client_crls.first().filter(|_| client_ca.is_none()) {
        let expected = "tls_client_ca with it: who signs clients' certificates";
        faults.push(fault("tls_client_crl", written, expected));
    }
    let client_identity =
        setting("tls_client_identity").map_or(CertificateIdentity::CommonName, |written| {
            let names = CertificateIdentity::NAMES;
            let default = CertificateIdentity::CommonName;
            choose("tls_client_identity", written, names, default, faults)
        });
    let tls_1_2 = setting("tls_min_version").is_none_or(|written| {
        choose("tls_min_version", written, &[("1.2", true), ("1.3", false)], true, faults)
    });
    if !wanted {
        unused(given, faults);
        return None;
    }
    if certificates.is_empty() {
        if faults.len() == faults_before {
            faults.push(ConfigError {
                key: "tls_cert".to_owned(),
                value: String::new(),
                expected:
                    "a certificate for the TLS listeners: --tls-cert FILE --tls-key FILE, or \
                           [[tls_certificates]] tables in the file"
                        .to_owned(),
                origin: Origin::Default,
            });
        }
        return None;
    }
    let config = TlsConfig {
        certificates,
        clients,
        client_ca,
        client_crls: client_crls.iter().map(path_of).collect(),
        client_identity,
        tls_1_2,
        ticket_keys: setting("tls_ticket_keys").map(path_of),
        ticket_lifetime_s,
    };
    if faults.len() == faults_before
        && let Err(found) = config.load(&TicketKeys::random())
    {
        faults.extend(found.into_iter().map(|one| ConfigError {
            key: one.key.to_owned(),
            value: format!("{:?}", one.path.display().to_string()),
            expected: one.expected,
            origin: origin_of(given, &one.path),
        }));
    }
    Some(config)
}

/// The pair of `tls_cert` and `tls_key`, then the tables.
fn certificates(given: &Given, faults: &mut Vec<ConfigError>) -> Vec<CertificateFiles> {
    let mut all = Vec::new();
    match (given.settings.get("tls_cert"), given.settings.get("tls_key")) {
        (Some(cert), Some(key)) => {
            all.push(CertificateFiles { cert: path_of(cert), key: path_of(key) });
        }
        (Some(cert), None) => faults.push(fault("tls_cert", cert, "tls_key with it")),
        (None, Some(key)) => faults.push(fault("tls_key", key, "tls_cert with it")),
        (None, None) => {}
    }
    for table in given.certificates.iter().flatten() {
        match (table.values.get("cert"), table.values.get("key")) {
            (Some(cert), Some(key)) => {
                all.push(CertificateFiles { cert: path_of(cert), key: path_of(key) });
            }
            _ => faults.push(ConfigError {
                key: "tls_certificates".to_owned(),
                value: String::new(),
                expected: "cert and key, each the name of a file".to_owned(),
                origin: table.origin,
            }),
        }
    }
    if all.len() > TLS_CERTIFICATES_MAX {
        faults.push(ConfigError {
            key: "tls_certificates".to_owned(),
            value: String::new(),
            expected: format!("at most {TLS_CERTIFICATES_MAX} certificates"),
            origin: Origin::Default,
        });
    }
    all
}

/// Says what is there for TLS although no listener speaks it.
fn unused(given: &Given, faults: &mut Vec<ConfigError>) {
    let expected = "a listener that speaks TLS with it: mqtts:// or wss://";
    let single = KEYS.iter().filter_map(|key| Some((*key, given.settings.get(*key)?)));
    let crls = given.lists.get("tls_client_crl").and_then(|list| list.first());
    for (key, written) in single.chain(crls.map(|written| ("tls_client_crl", written))) {
        faults.push(fault(key, written, expected));
    }
    if let Some(table) = given.certificates.iter().flatten().next() {
        let (key, value) = ("tls_certificates".to_owned(), String::new());
        faults.push(ConfigError {
            key,
            value,
            expected: expected.to_owned(),
            origin: table.origin,
        });
    }
}

/// Where the file was named.
fn origin_of(given: &Given, path: &std::path::Path) -> Origin {
    let tables = given.certificates.iter().flatten().flat_map(|table| table.values.values());
    let crls = given.lists.get("tls_client_crl").into_iter().flatten();
    let named = given.settings.values().chain(crls).chain(tables);
    let mut named = named.filter(|written| path_of(written) == path);
    named.next().map_or(Origin::Default, |written| written.origin)
}

fn choose<T: Copy>(
    key: &str,
    written: &Written,
    names: &[(&str, T)],
    default: T,
    faults: &mut Vec<ConfigError>,
) -> T {
    if let Some((_, value)) = names.iter().find(|(name, _)| *name == written.text) {
        return *value;
    }
    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    faults.push(fault(key, written, &names.join(" or ")));
    default
}

fn fault(key: &str, written: &Written, expected: &str) -> ConfigError {
    ConfigError {
        key: key.to_owned(),
        value: format!("{:?}", written.text),
        expected: expected.to_owned(),
        origin: written.origin,
    }
}

fn path_of(written: &Written) -> PathBuf {
    PathBuf::from(&written.text)
}

/// The single values and lists, as keys of the file.
pub(in crate::config) fn write_toml(tls: &TlsConfig, out: &mut String) -> fmt::Result {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    if let Some(ca) = &tls.client_ca {
        writeln!(out, "tls_client_ca = {}", path(ca))?;
        let named = CLIENT_CERT_NAMES.iter().find(|(_, value)| *value == tls.clients);
        let name = named.expect("asked for, as there is an authority").0;
        writeln!(out, "tls_client_cert = \"{name}\"")?;
    }
    if !tls.client_crls.is_empty() {
        let crls: Vec<_> = tls.client_crls.iter().map(path).collect();
        writeln!(out, "tls_client_crl = [{}]", crls.join(", "))?;
    }
    writeln!(out, "tls_client_identity = \"{}\"", tls.client_identity)?;
    writeln!(out, "tls_min_version = \"{}\"", if tls.tls_1_2 { "1.2" } else { "1.3" })?;
    if let Some(keys) = &tls.ticket_keys {
        writeln!(out, "tls_ticket_keys = {}", path(keys))?;
    }
    Ok(())
}

/// The certificates, as tables of the file: behind all single values.
pub(in crate::config) fn write_tables(tls: &TlsConfig, out: &mut String) -> fmt::Result {
    for CertificateFiles { cert, key } in &tls.certificates {
        writeln!(out, "\n[[tls_certificates]]")?;
        writeln!(out, "cert = {}", quoted(&cert.display().to_string()))?;
        writeln!(out, "key = {}", quoted(&key.display().to_string()))?;
    }
    Ok(())
}
