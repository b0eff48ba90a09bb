//! The configuration of TLS: authorities, certificate and key, from files.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{BrokerKeys, arguments::TlsVersion, tickets::LentWallet};

/// The configuration that all devices share.
///
/// # Errors
///
/// A line for each file that is not what it should be.
pub(super) fn config(given: &BrokerKeys) -> Result<ClientConfig, Vec<String>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&'static SupportedProtocolVersion] = match given.version {
        Some(TlsVersion::V1_2) => &[&TLS12],
        Some(TlsVersion::V1_3) => &[&TLS13],
        None => &[&TLS13, &TLS12],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions");
    let mut faults = Vec::new();
    let builder = if given.insecure {
        let verifier = Arc::new(AnyCertificate { provider });
        Some(builder.dangerous().with_custom_certificate_verifier(verifier))
    } else {
        let roots = given.ca.as_deref().map_or_else(of_this_system, authorities);
        roots
            .map_err(|fault| faults.push(fault))
            .ok()
            .map(|roots| builder.with_root_certificates(roots))
    };
    let shown = match (given.cert.as_deref(), given.key.as_deref()) {
        (Some(cert), Some(key)) => {
            let chain = certificates("--tls-cert", cert).map_err(|fault| faults.push(fault)).ok();
            let key = read_key(key).map_err(|fault| faults.push(fault)).ok();
            chain.zip(key)
        }
        _ => None,
    };
    let Some(builder) = builder.filter(|_| faults.is_empty()) else { return Err(faults) };
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            vec![format!("--tls-cert, --tls-key: expected a certificate and its key, but: {error}")]
        })?,
    };
    config.resumption = if given.resumes() {
        Resumption::store(Arc::new(LentWallet))
    } else {
        Resumption::disabled()
    };
    Ok(config)
}

/// The certificates of a file, at least one.
fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let name = path.display();
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{flag} {name}: expected certificates in PEM, there is none in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{flag} {name}: expected certificates in PEM, but: {error}")),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        format!("--tls-key {}: expected a private key in PEM, but: {error}", path.display())
    })
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-ca", path)? {
        roots.add(certificate).map_err(|error| {
            format!("--tls-ca {}: expected authorities, but: {error}", path.display())
        })?;
    }
    Ok(roots)
}

/// The authorities this system trusts.
fn of_this_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (known, _) = roots.add_parsable_certificates(found.certs);
    if known == 0 {
        return Err("this system has no authorities: give those of the broker's certificate with \
                    --tls-ca FILE"
            .to_owned());
    }
    Ok(roots)
}

/// Believes every certificate. That the broker has the key of the one it shows is still checked.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
