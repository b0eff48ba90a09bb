//! Who a client is and what it may touch, as a shard applies it.
//!
//! Who is who is found out elsewhere, on threads that may read files, hash and wait: a shard leaves an
//! [`AuthenticationRequest`] and goes on; the answer is an [`Identity`] or a [`Refusal`]. What the
//! identity may do is decided here, from rules that are shared by all clients of a user.
//!
//! - `pattern.rs`: one topic filter of a rule, with `%c` and `%u`.
//! - `acl.rs`: rules in the order in which they count: [`Acl`].
//! - `scram.rs`: a password that is proven and not sent.

mod acl;
mod pattern;
mod scram;

pub use acl::{Acl, Coverage, Permission, RuleSet};
pub(in crate::proto) use pattern::covers;
pub use pattern::{Names, Pattern, PatternFault};
pub(in crate::proto) use scram::SERVER_FINAL_BYTES;
pub use scram::{
    Challenge, ClientFirst, KEY_BYTES, MESSAGE_BYTES_MAX, Proven, SCRAM_SHA_256, ScramFault,
    Verifier,
};

use super::handler::Origin;
use super::mqtt::ReasonCode;
use super::output::ConnectionId;
use super::time::Timestamp;
use std::fmt;
use std::sync::Arc;

/// Who has connected. Shared by all connections of which the same is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name, proven; `None` for a client that may stay unknown.
    pub user_name: Option<Box<str>>,
    /// The mountpoint of its tenant, see [`tenant`](super::tenant); `None` for who sees all topics.
    pub mountpoint: Option<Box<str>>,
    /// What it may publish and read, in its own words; `None` for everything.
    pub acl: Option<Acl>,
    /// Who said so, and by what: a client is let go when that is no more.
    pub proof: Proof,
    /// When the proof ends, and the connection with it.
    pub expires_at: Timestamp,
}

/// What an identity rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the client may stay unknown.
    None,
    /// A name in a certificate that was verified with the connection.
    Certificate,
    /// A password of the password file; a hash of what the file says of the user.
    Password(u64),
    /// Somebody else's word, asked for over HTTP.
    Http {
        /// Its rules came with it.
        own_rules: bool,
        /// Its mountpoint, too.
        own_mountpoint: bool,
    },
    /// A signed token.
    Token {
        /// A hash of the key that signed it.
        key: u64,
        /// Its rules are those of the token.
        own_rules: bool,
        /// So is its mountpoint.
        own_mountpoint: bool,
    },
}

/// Whoever knows, asked again about those who are connected.
pub trait Recheck: fmt::Debug + Send + Sync {
    /// Who the client is by now; `None` if it may not be connected any more.
    fn recheck(&self, former: &Identity) -> Option<Arc<Identity>>;
}

/// The question who a client is.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthenticationRequest {
    /// Whose CONNECT waits; comes back with the answer.
    pub connection: ConnectionId,
    /// Where it comes from.
    pub origin: Option<Origin>,
    /// Client Identifier, the assigned one if the client sent none.
    pub client_id: Box<str>,
    /// User Name.
    pub user_name: Option<Box<str>>,
    /// Password.
    pub password: Option<Box<[u8]>>,
    /// The first message of SCRAM-SHA-256, from a client that names that method: it is to be answered
    /// with a [`Challenge`] or a [`Refusal`].
    pub client_first: Option<Box<[u8]>>,
}

impl AuthenticationRequest {
    /// The name in the client's certificate, which was verified with the connection.
    #[must_use]
    pub fn certificate_name(&self) -> Option<&str> {
        let name = self.origin.as_ref()?.certificate_identity.as_deref();
        name.filter(|name| !name.is_empty())
    }
}

/// The answer: who the client is, or why it may not connect.
pub type Authentication = Result<Arc<Identity>, Refusal>;

/// Why a client may not connect, as far as it is told.
///
/// There is one answer to credentials that are not accepted, whatever is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The credentials are not accepted.
    BadCredentials,
    /// It said nothing of who it is, and must.
    NoCredentials,
    /// Whoever knows cannot be asked.
    Unavailable,
    /// Too many are being asked about.
    Busy,
    /// The user is not let in.
    Banned,
    /// What it proves is not so, or cannot be read.
    BadProof,
    /// The Authentication Method is not on offer.
    BadMethod,
}

impl Refusal {
    /// The Reason Code of CONNACK. Source: MQTT 5.0 §3.2.2.2.
    #[must_use]
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::BadCredentials => ReasonCode::BadUserNameOrPassword,
            Self::NoCredentials => ReasonCode::NotAuthorized,
            Self::Unavailable => ReasonCode::ServerUnavailable,
            Self::Busy => ReasonCode::ServerBusy,
            Self::Banned => ReasonCode::Banned,
            // DISCONNECT has it, too, for who authenticates again. Source: MQTT 5.0 §3.14.2.1.
            Self::BadProof => ReasonCode::NotAuthorized,
            Self::BadMethod => ReasonCode::BadAuthenticationMethod,
        }
    }
}

impl fmt::Debug for AuthenticationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticationRequest")
            .field("connection", &self.connection)
            .field("origin", &self.origin)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("client_first", &self.client_first.is_some())
            .finish()
    }
}
