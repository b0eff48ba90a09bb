//! SCRAM-SHA-256, the server's side. Source: RFC 5802, RFC 7677; MQTT 5.0 §4.12.
//!
//! ```text
//! client-first  n,,n=anna,r=CLIENT ───▶ ClientFirst ─┐
//! server-first  r=CLIENT+SERVER,s=SALT,i=COUNT ◀──── Challenge ◀─ Verifier, Identity
//! client-final  c=biws,r=CLIENT+SERVER,p=PROOF ────▶ Challenge::finish ─┬─▶ Proven
//! server-final  v=SIGNATURE ◀──────────────────────────────────────────┘
//! ```
//! No password is sent, and none is hashed here: the client does that. What the server keeps proves
//! who a client is without being enough to be that client. Channel binding is not on offer.

use super::{Authentication, Identity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The Authentication Method. Source: MQTT 5.0 §3.1.2.11.9; RFC 7677.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// The longest message of a client. A user name takes 65,535 bytes at most by MQTT; here it has to
/// fit, as each client that has not proven anything yet costs its first message.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// Bytes of a key, a signature and a proof.
pub const KEY_BYTES: usize = 32;

/// Bytes of `v=SIGNATURE`.
pub(in crate::proto) const SERVER_FINAL_BYTES: usize = 46;

/// What is wrong with a client's message, or its proof. The client hears that it is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramFault {
    /// More than [`MESSAGE_BYTES_MAX`].
    #[error("message of {got_bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken")]
    TooLong {
        /// Bytes of the message.
        got_bytes: usize,
    },
    /// Not the attributes that RFC 5802 asks for, in its order.
    #[error("attributes are not those of RFC 5802")]
    Malformed,
    /// It asks for a channel binding.
    #[error("channel binding is not on offer")]
    ChannelBinding,
    /// It wants to act as another than who it is.
    #[error("authorization as another user is not on offer")]
    OtherUser,
    /// An extension that must be understood.
    #[error("a mandatory extension that is not known")]
    Extension,
    /// The nonce or the channel binding are not those of the exchange.
    #[error("it belongs to another exchange")]
    OtherExchange,
    /// The proof is not that of the user's password, or there is no such user.
    #[error("wrong proof")]
    WrongProof,
}

/// What a server keeps of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// For the password's hash.
    pub salt: Box<[u8]>,
    /// Iterations of that hash.
    pub iterations: NonZeroU32,
    /// What a client's proof is compared with.
    pub stored_key: [u8; KEY_BYTES],
    /// What the server proves with that it knows the user.
    pub server_key: [u8; KEY_BYTES],
}

/// The first message of a client.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Who it says it is.
    pub user_name: Cow<'a, str>,
    nonce: &'a str,
    /// What comes before the message proper, and comes back in its second message.
    header: &'a str,
    /// The message proper.
    bare: &'a str,
}

/// What a client has to prove, from the server's first message to the client's second.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Who it is when it has proven it, or why it may not connect then; `None` if nobody has the
    /// name, which no proof shows.
    account: Option<Authentication>,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
    header: Box<str>,
    /// The client's first message and the server's, as both sign them.
    messages: Box<str>,
    /// Bytes of `messages` before the server's.
    server_first_at: usize,
    /// Bytes of both nonces.
    nonce_bytes: usize,
}

/// A client that has proven who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who it is, or why it may not connect.
    pub account: Authentication,
    /// What proves to the client that the server knows the user.
    pub server_final: Box<str>,
}

impl Verifier {
    /// From what PBKDF2 with HMAC-SHA-256 makes of a password. Source: RFC 5802 §3.
    #[must_use]
    pub fn new(salt: &[u8], iterations: NonZeroU32, salted_password: &[u8; KEY_BYTES]) -> Self {
        let client_key = sign(salted_password, &[b"Client Key"]);
        let server_key = sign(salted_password, &[b"Server Key"]);
        Self { salt: salt.into(), iterations, stored_key: hash(&client_key), server_key }
    }
}

impl<'a> ClientFirst<'a> {
    /// Reads a client's first message.
    ///
    /// Shape: `n` or `y`, `,`, nothing or `a=USER`, `,`, then `n=USER,r=NONCE`, and extensions that
    /// count for nothing.
    ///
    /// # Errors
    ///
    /// - [`ScramFault::TooLong`], [`ScramFault::Malformed`]
    /// - [`ScramFault::ChannelBinding`], [`ScramFault::OtherUser`], [`ScramFault::Extension`]
    ///
    /// # Source
    ///
    /// RFC 5802 §5.1, §7.
    pub fn parse(message: &'a [u8]) -> Result<Self, ScramFault> {
        let message = text(message)?;
        let (binding, rest) = message.split_once(',').ok_or(ScramFault::Malformed)?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ScramFault::ChannelBinding),
            _ => return Err(ScramFault::Malformed),
        }
        let (as_whom, bare) = rest.split_once(',').ok_or(ScramFault::Malformed)?;
        let header = message.get(..message.len() - bare.len()).ok_or(ScramFault::Malformed)?;
        if bare.starts_with("m=") {
            return Err(ScramFault::Extension);
        }
        let mut attributes = bare.split(',');
        let user_name = attributes.next().and_then(|one| one.strip_prefix("n="));
        let nonce = attributes.next().and_then(|one| one.strip_prefix("r="));
        let (Some(user_name), Some(nonce)) = (user_name, nonce) else {
            return Err(ScramFault::Malformed);
        };
        let is_printable = |byte: u8| (0x21..=0x7E).contains(&byte);
        if nonce.is_empty() || !nonce.bytes().all(is_printable) {
            return Err(ScramFault::Malformed);
        }
        let user_name = plain_name(user_name)?;
        if !as_whom.is_empty() {
            let as_whom = as_whom.strip_prefix("a=").ok_or(ScramFault::Malformed)?;
            if plain_name(as_whom)? != user_name {
                return Err(ScramFault::OtherUser);
            }
        }
        Ok(Self { user_name, nonce, header, bare })
    }
}

impl Challenge {
    /// The answer to `first`, from what is kept of the user and a nonce that nobody can guess
    /// (printable ASCII without comma).
    ///
    /// `account` is `None` for a name that nobody has: then no proof is the right one.
    #[must_use]
    pub fn new(
        first: &ClientFirst<'_>,
        verifier: &Verifier,
        account: Option<Authentication>,
        server_nonce: &str,
    ) -> Self {
        let (bare, nonce) = (first.bare, first.nonce);
        let (salt, iterations) = (STANDARD.encode(&verifier.salt), verifier.iterations);
        let messages = format!("{bare},r={nonce}{server_nonce},s={salt},i={iterations}");
        Self {
            account,
            stored_key: verifier.stored_key,
            server_key: verifier.server_key,
            header: first.header.into(),
            server_first_at: bare.len() + 1,
            nonce_bytes: nonce.len() + server_nonce.len(),
            messages: messages.into(),
        }
    }

    /// The server's first message.
    #[must_use]
    pub fn server_first(&self) -> &str {
        self.messages.get(self.server_first_at..).expect("both are in there")
    }

    /// Who the client is if it proves it.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.account.as_ref()?.as_ref().ok()
    }

    /// What is known of the client has changed; `None` if it may not connect any more.
    pub(in crate::proto) fn identify(&mut self, identity: Option<Arc<Identity>>) {
        self.account = identity.map(Ok);
    }

    /// Reads a client's second message, and looks at its proof.
    ///
    /// Shape: `c=HEADER,r=NONCES`, extensions that count for nothing, `,p=PROOF`; header and proof in
    /// base64.
    ///
    /// # Errors
    ///
    /// - [`ScramFault::TooLong`], [`ScramFault::Malformed`], [`ScramFault::OtherExchange`]
    /// - [`ScramFault::WrongProof`]: so is each of a name that nobody has.
    ///
    /// # Source
    ///
    /// RFC 5802 §3, §5.1, §7.
    pub fn finish(self, message: &[u8]) -> Result<Proven, ScramFault> {
        let message = text(message)?;
        let (signed, proof) = message.rsplit_once(",p=").ok_or(ScramFault::Malformed)?;
        let mut attributes = signed.split(',');
        let header = attributes.next().and_then(|one| one.strip_prefix("c="));
        let nonce = attributes.next().and_then(|one| one.strip_prefix("r="));
        let (Some(header), Some(nonce)) = (header, nonce) else {
            return Err(ScramFault::Malformed);
        };
        let header = STANDARD.decode(header).map_err(|_| ScramFault::Malformed)?;
        let proof = STANDARD.decode(proof).ok().and_then(|bytes| bytes.try_into().ok());
        let proof: [u8; KEY_BYTES] = proof.ok_or(ScramFault::Malformed)?;
        let expected = self.server_first().get(2..2 + self.nonce_bytes);
        if header != self.header.as_bytes() || Some(nonce) != expected {
            return Err(ScramFault::OtherExchange);
        }
        let exchange = [self.messages.as_bytes(), b",", signed.as_bytes()];
        let mut client_key = sign(&self.stored_key, &exchange);
        for (byte, proven) in client_key.iter_mut().zip(proof) {
            *byte ^= proven;
        }
        let is_right: bool = hash(&client_key).ct_eq(&self.stored_key).into();
        match self.account {
            Some(account) if is_right => {
                let signature = STANDARD.encode(sign(&self.server_key, &exchange));
                Ok(Proven { account, server_final: format!("v={signature}").into() })
            }
            _ => Err(ScramFault::WrongProof),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} iterations, ***)", self.iterations)
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({:?}, ***)", self.account)
    }
}

fn text(message: &[u8]) -> Result<&str, ScramFault> {
    let got_bytes = message.len();
    if got_bytes > MESSAGE_BYTES_MAX {
        return Err(ScramFault::TooLong { got_bytes });
    }
    std::str::from_utf8(message).map_err(|_| ScramFault::Malformed)
}

/// A name without the signs that stand for `,` and `=`. Source: RFC 5802 §5.1.
fn plain_name(name: &str) -> Result<Cow<'_, str>, ScramFault> {
    if name.is_empty() || name.contains('\0') {
        return Err(ScramFault::Malformed);
    }
    let mut pieces = name.split('=');
    let first = pieces.next().unwrap_or_default();
    if first.len() == name.len() {
        return Ok(Cow::Borrowed(name));
    }
    let mut plain = first.to_owned();
    for piece in pieces {
        let (sign, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return Err(ScramFault::Malformed),
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    Ok(Cow::Owned(plain))
}

fn sign(key: &[u8], pieces: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for piece in pieces {
        context.update(piece);
    }
    context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hash(bytes: &[u8]) -> [u8; KEY_BYTES] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
