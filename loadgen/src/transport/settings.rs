//! From what was given to a broker that devices can connect to.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use super::{
    BrokerUrl, TlsWay, Transport, WebSocketWay,
    arguments::{Resume, TlsVersion},
    keys,
};
use crate::profile::Section;

/// Where a broker is when nothing says it.
const DEFAULT_URL: &str = "mqtt://127.0.0.1:1883";

/// The broker as flags and a scenario file give it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BrokerKeys {
    pub(super) url: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// Of flags only.
    #[serde(skip)]
    pub(super) insecure: bool,
    pub(super) version: Option<TlsVersion>,
    pub(super) resume: Option<Resume>,
}

impl BrokerKeys {
    /// The same for another broker.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: Some(url.to_owned()), ..self.clone() }
    }
}

/// A broker, with all that is needed to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) url: BrokerUrl,
    pub(crate) address: SocketAddr,
    /// `None` on plain TCP.
    pub(crate) transport: Option<Arc<Transport>>,
    /// What of TLS a result tells; `None` without TLS.
    pub(crate) tls: Option<TlsSettings>,
    /// The file with authorities, for messages.
    pub(super) ca: Option<PathBuf>,
}

/// How devices spoke TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TlsSettings {
    /// The only version they spoke, `1.2` or `1.3`; `null`: either, as the broker liked.
    pub(crate) version: Option<String>,
    /// Whether the broker's certificate was checked.
    pub(crate) verified: bool,
    /// Whether they showed a certificate.
    pub(crate) client_certificate: bool,
    /// Whether they kept sessions and resumed them.
    pub(crate) resume: bool,
}

impl BrokerKeys {
    /// Takes the keys of a scenario file. `tls_insecure` is none of them.
    pub(crate) fn read(file: &mut Section<'_>) -> Self {
        let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
        let text = |file: &mut Section<'_>, key| file.has(key).then(|| file.text(key, None));
        let path = |file: &mut Section<'_>, key| text(file, key).map(PathBuf::from);
        Self {
            url: text(file, "broker"),
            ca: path(file, "tls_ca"),
            cert: path(file, "tls_cert"),
            key: path(file, "tls_key"),
            insecure: false,
            version: if file.has("tls_version") {
                file.choice("tls_version", &versions, None)
            } else {
                None
            },
            resume: file
                .has("tls_resume")
                .then(|| if file.flag("tls_resume", true) { Resume::On } else { Resume::Off }),
        }
    }

    /// Finds the broker and loads every file.
    ///
    /// # Errors
    ///
    /// A line for each fault.
    pub(crate) fn resolve(&self) -> Result<Broker, Vec<String>> {
        let text = self.url.as_deref().unwrap_or(DEFAULT_URL);
        let url: BrokerUrl =
            text.parse().map_err(|expected| vec![format!("--broker {text}: {expected}")])?;
        let mut faults = self.faults(&url);
        let address = url.address().map_err(|fault| faults.push(fault)).ok();
        let mut tls = None;
        if url.scheme.is_tls() && faults.is_empty() {
            match (keys::config(self), ServerName::try_from(url.host.clone())) {
                (Ok(config), Ok(server_name)) => {
                    tls = Some(TlsWay { config: Arc::new(config), server_name });
                }
                (config, server_name) => {
                    faults.extend(config.err().unwrap_or_default());
                    if server_name.is_err() {
                        faults.push(format!("--broker {url}: no certificate can have such a name"));
                    }
                }
            }
        }
        let Some(address) = address.filter(|_| faults.is_empty()) else { return Err(faults) };
        let websocket = url
            .scheme
            .is_websocket()
            .then(|| WebSocketWay { host: url.host_header(), path: url.path.clone() });
        let is_plain = tls.is_none() && websocket.is_none();
        Ok(Broker {
            tls: tls.is_some().then(|| self.settings()),
            transport: (!is_plain).then(|| Arc::new(Transport { tls, websocket })),
            address,
            url,
            ca: self.ca.clone(),
        })
    }

    /// What does not go together.
    fn faults(&self, url: &BrokerUrl) -> Vec<String> {
        let mut faults = Vec::new();
        let given = [
            ("--tls-ca", self.ca.is_some()),
            ("--tls-cert", self.cert.is_some()),
            ("--tls-key", self.key.is_some()),
            ("--tls-insecure", self.insecure),
            ("--tls-version", self.version.is_some()),
            ("--tls-resume", self.resume.is_some()),
        ];
        if !url.scheme.is_tls() {
            for (flag, _) in given.iter().filter(|(_, is_given)| *is_given) {
                faults.push(format!(
                    "{flag}: --broker {url} has no TLS: expected mqtts:// or wss://"
                ));
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => faults.push("--tls-cert: needs its --tls-key".to_owned()),
            (None, Some(_)) => faults.push("--tls-key: needs its --tls-cert".to_owned()),
            (Some(cert), Some(_)) if cert.to_string_lossy().contains("%d") => faults.push(format!(
                "--tls-cert {}: expected one certificate for all devices, %d has no meaning",
                cert.display()
            )),
            _ => {}
        }
        faults
    }

    /// Whether devices keep sessions.
    pub(super) fn resumes(&self) -> bool {
        self.resume != Some(Resume::Off)
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            version: self.version.map(|version| match version {
                TlsVersion::V1_2 => "1.2".to_owned(),
                TlsVersion::V1_3 => "1.3".to_owned(),
            }),
            verified: !self.insecure,
            client_certificate: self.cert.is_some(),
            resume: self.resumes(),
        }
    }
}

impl Broker {
    /// What carries MQTT, as results name it.
    pub(crate) fn transport_name(&self) -> &'static str {
        use gateway::config::Scheme;
        match self.url.scheme {
            Scheme::Mqtt => "tcp",
            Scheme::Mqtts => "tls",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        }
    }
}
