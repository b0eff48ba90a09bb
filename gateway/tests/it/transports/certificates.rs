//! Certificates of a test's own authority, made when they are needed.

use crate::process::gateway::TempDirectory;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, and the directory with what it signed.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDirectory,
}

/// A certificate with its key, in files and in memory.
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key_der: Vec<u8>,
    /// The public key as certificates have it (SubjectPublicKeyInfo).
    pub(crate) public_key: Vec<u8>,
    serial: SerialNumber,
}

impl Issued {
    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }

    /// The flags of a gateway that shows it.
    pub(crate) fn flags(&self) -> [String; 4] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        ["--tls-cert".to_owned(), text(&self.cert), "--tls-key".to_owned(), text(&self.key)]
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = TempDirectory::new();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A server's certificate for `names`, with an ECDSA key.
    pub(crate) fn server(&self, file: &str, names: &[&str]) -> Issued {
        self.server_with(file, names, KeyPair::generate().unwrap())
    }

    /// A server's certificate with an RSA key, which `openssl` makes.
    pub(crate) fn rsa_server(&self, file: &str, names: &[&str]) -> Issued {
        let made = Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "openssl genpkey: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let key = KeyPair::from_pem(std::str::from_utf8(&made.stdout).unwrap()).unwrap();
        self.server_with(file, names, key)
    }

    fn server_with(&self, file: &str, names: &[&str], key: KeyPair) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, params, key)
    }

    /// A client's certificate with this Common Name, and names of each kind made of it.
    pub(crate) fn client(&self, common_name: &str) -> Issued {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![
            SanType::DnsName(format!("{common_name}.example").try_into().unwrap()),
            SanType::Rfc822Name(format!("{common_name}@example").try_into().unwrap()),
            SanType::URI(format!("urn:device:{common_name}").try_into().unwrap()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(common_name, params, KeyPair::generate().unwrap())
    }

    fn issue(&self, file: &str, mut params: CertificateParams, key: KeyPair) -> Issued {
        let mut random = [0; 8];
        rustls::crypto::ring::default_provider().secure_random.fill(&mut random).unwrap();
        random[0] &= 0x7f;
        let serial = SerialNumber::from_slice(&random);
        params.serial_number = Some(serial.clone());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.directory.path().join(format!("{file}.{kind}"));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        Issued {
            cert: path("pem"),
            key: path("key"),
            chain: vec![certificate.der().clone()],
            key_der: key.serialize_der(),
            public_key: key.subject_public_key_info(),
            serial,
        }
    }

    /// Writes a list of those that are revoked.
    pub(crate) fn revoke(&self, revoked: &[&Issued]) -> PathBuf {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: issued.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let list = params.signed_by(issuer).unwrap();
        let path = self.directory.path().join("revoked.pem");
        fs::write(&path, list.pem().unwrap()).unwrap();
        path
    }
}
