//! Who may connect and what they may touch, as configured. The files are read by others.

use super::tenant::Tenants;
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use std::net::IpAddr;
use std::path::PathBuf;

/// The most entries of each list of who is banned: each CONNECT is compared with all.
pub const BANNED_MAX: usize = 1_024;

/// How clients prove who they are, and where the rules are for what they may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// Users and hashes of their passwords, in mosquitto's format or that of RFC 5803. Default none.
    pub password_file: Option<PathBuf>,
    /// How clients prove who they are, in the order in which it is tried. Default: by password where
    /// there is a password file, by token where there are keys.
    pub methods: Vec<AuthMethod>,
    /// A key that signs tokens: a public key in PEM, or a secret.
    pub jwt_key_file: Option<PathBuf>,
    /// What that key is for. Default RS256.
    pub jwt_algorithm: Algorithm,
    /// Keys that sign tokens, as a JSON Web Key Set.
    pub jwt_jwks_file: Option<PathBuf>,
    /// The claim that has the user name. Default `sub`.
    pub jwt_user_claim: String,
    /// The claim that has the client id that CONNECT has to have. Default none: any will do.
    pub jwt_client_id_claim: Option<String>,
    /// The claim that has the mountpoint of the client's tenant, `null` for none; a token without it does
    /// not count. Default none: `tenants` says.
    pub jwt_mountpoint_claim: Option<String>,
    /// What the claim `iss` has to be. Default anything.
    pub jwt_issuer: Option<String>,
    /// What has to be among the claim `aud`. Default anything.
    pub jwt_audience: Option<String>,
    /// Whom to ask who clients are. Default nobody.
    pub http_auth_url: Option<String>,
    /// Certificate authorities to trust beside the usual ones, PEM.
    pub http_auth_ca_file: Option<PathBuf>,
    /// What is sent as `Authorization: Bearer`.
    pub http_auth_token_file: Option<PathBuf>,
    /// What users may publish and read, in mosquitto's format. Default none: everything.
    pub acl_file: Option<PathBuf>,
    /// Which users have topics and client ids of their own. Default none.
    pub tenants: Tenants,
    /// Whether a session is for the user only that made it. Default yes.
    pub sessions_bound_to_user: bool,
    /// Whether a client that is known has to have its user name as client id. Default no.
    pub client_id_is_user_name: bool,
    /// Client ids that are not let in, at most [`BANNED_MAX`].
    pub banned_client_ids: Vec<String>,
    /// Users that are not let in, at most [`BANNED_MAX`]. Whoever proves to be one hears that.
    pub banned_users: Vec<String>,
    /// Addresses from where nobody is let in, at most [`BANNED_MAX`].
    pub banned_addresses: Vec<IpNet>,
}

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// The name in the client's certificate is the user name.
    Certificate,
    /// User name and password are in the password file.
    Password,
    /// The password is a JSON Web Token.
    Jwt,
    /// Somebody is asked over HTTP.
    Http,
}

impl AuthMethod {
    pub(super) const NAMES: &[(&str, Self)] = &[
        ("certificate", Self::Certificate),
        ("password", Self::Password),
        ("jwt", Self::Jwt),
        ("http", Self::Http),
    ];
}

/// Whether passwords may be sent to this URL: over TLS, or to this machine.
pub(super) fn is_callout_url(text: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    let has_secret = !url.username().is_empty() || url.password().is_some();
    let is_local = url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    !has_secret && (url.scheme() == "https" || (url.scheme() == "http" && is_local))
}

impl AuthConfig {
    /// Whether anyone can prove who they are.
    #[must_use]
    pub fn knows_users(&self) -> bool {
        !self.methods.is_empty()
    }

    /// Whether there are keys for tokens.
    #[must_use]
    pub fn knows_tokens(&self) -> bool {
        self.jwt_key_file.is_some() || self.jwt_jwks_file.is_some()
    }

    /// Whether it has to be asked who a client is.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.knows_users() || self.acl_file.is_some()
    }
}

/// What `gateway passwd` is to do.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswdRequest {
    /// The password file.
    pub file: PathBuf,
    /// Whose line.
    pub user_name: String,
    /// The password, if it was given on the command line.
    pub password: Option<String>,
    /// Begin an empty file, whatever is there.
    pub create: bool,
    /// Delete the user.
    pub delete: bool,
    /// Iterations of PBKDF2.
    pub iterations: u32,
    /// Write what SCRAM-SHA-256 needs.
    pub scram: bool,
}

impl std::fmt::Debug for PasswdRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswdRequest {{ file: {:?}, user_name: {:?}, *** }}", self.file, self.user_name)
    }
}
