//! The broker on the command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{Broker, BrokerKeys};

/// Where the broker is, and how devices speak to it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BrokerArguments {
    /// The broker: mqtt://HOST:PORT, mqtts:// (TLS), ws://HOST:PORT/PATH or wss:// (WebSocket)
    ///
    /// Ports are 1883, 8883, 80 and 443 where none is given, the path is /mqtt. In TLS the certificate
    /// has to have HOST among its names. [default: mqtt://127.0.0.1:1883]
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,

    /// Authorities the broker's certificate may be of, PEM; without it those of this system
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Certificate that all devices show, with its chain, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Take any certificate of the broker: whoever answers is believed
    ///
    /// Never meant unless it is said here: no file turns it on.
    #[arg(long, conflicts_with = "tls_ca")]
    pub(crate) tls_insecure: bool,

    /// Speak this version of TLS and no other [default: what the broker likes best]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub(crate) tls_version: Option<TlsVersion>,

    /// Whether devices keep the session of their last connection and resume it: a handshake without
    /// certificates [default: on]
    #[arg(long, value_enum, value_name = "ON|OFF")]
    pub(crate) tls_resume: Option<Resume>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum TlsVersion {
    /// TLS 1.2
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether sessions are resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resume {
    /// A device resumes the session of its last connection, across power cuts too
    On,
    /// Every handshake is a full one
    Off,
}

impl BrokerArguments {
    /// The broker they name, or the one at `target` without TLS.
    ///
    /// # Errors
    ///
    /// A line for each fault.
    pub(crate) fn or_at(&self, target: SocketAddr) -> Result<Broker, Vec<String>> {
        let url = Some(format!("mqtt://{target}"));
        self.over(&BrokerKeys { url, ..BrokerKeys::default() }).resolve()
    }

    /// What the flags say, and the file where they say nothing.
    pub(crate) fn over(&self, file: &BrokerKeys) -> BrokerKeys {
        BrokerKeys {
            url: self.broker.clone().or_else(|| file.url.clone()),
            ca: self.tls_ca.clone().or_else(|| file.ca.clone().filter(|_| !self.tls_insecure)),
            cert: self.tls_cert.clone().or_else(|| file.cert.clone()),
            key: self.tls_key.clone().or_else(|| file.key.clone()),
            insecure: self.tls_insecure,
            version: self.tls_version.or(file.version),
            resume: self.tls_resume.or(file.resume),
        }
    }
}
