//! A file of users and hashes of their passwords, as `mosquitto_passwd` writes it, and with lines of
//! RFC 5803 (those of PostgreSQL) for clients that do not send their password, but prove that they
//! know it.
//!
//! ```text
//! name:$7$ITERATIONS$SALT$HASH      PBKDF2 with HMAC-SHA-512, 64 bytes
//! name:$6$SALT$HASH                 SHA-512 of password and salt
//! name:SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY    PBKDF2 with HMAC-SHA-256, RFC 7677
//! #scram-decoy:KEY                  what the salts of users come from that there are not
//! ```
//! SALT, HASH and the keys are base64. Other lines that begin with `#`, and empty ones, count for
//! nothing.

use super::fault::{Faults, FileFault};
use crate::proto::access::{KEY_BYTES, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom as _;
use ring::{digest, hmac, pbkdf2};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// Bytes of a hash of either kind.
const HASH_BYTES: usize = 64;
/// Bytes of the salts we make: as many as mosquitto 2.0.
const SALT_BYTES: usize = 12;
/// Bytes of those for SCRAM: as many as PostgreSQL.
const SCRAM_SALT_BYTES: usize = 16;
/// Before what a SCRAM line has.
const SCRAM: &str = "SCRAM-SHA-256$";
/// Before the key of the decoys.
const DECOY: &str = "#scram-decoy:";
/// More could only be meant to keep the threads busy.
const ITERATIONS_MAX: u32 = 10_000_000;
/// The longest User Name. Source: MQTT 5.0 §1.5.4.
const NAME_BYTES_MAX: usize = 65_535;

/// The hash of one password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash {
    kind: Kind,
    salt: Box<[u8]>,
    /// Of SCRAM, StoredKey and ServerKey.
    hash: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Sha512,
    Pbkdf2(NonZeroU32),
    Scram(NonZeroU32),
}

/// Users and their passwords' hashes.
#[derive(Debug, Default)]
pub struct PasswordFile {
    users: HashMap<Box<str>, PasswordHash>,
    /// What a password is compared with when nobody has the name, so that it takes as long.
    decoy: Option<PasswordHash>,
    /// What a client is asked to prove that has a name which nobody has, so that it does not hear
    /// that.
    scram_decoy: Option<ScramDecoy>,
}

/// Makes up what users would have that there are not: always the same of the same name.
#[derive(Debug)]
struct ScramDecoy {
    key: hmac::Key,
    iterations: NonZeroU32,
    salt_bytes: usize,
}

impl PasswordHash {
    /// The hash of `password`, with a new salt.
    ///
    /// # Errors
    ///
    /// The machine has no randomness to give.
    pub fn new(password: &[u8], iterations: NonZeroU32) -> Result<Self, ring::error::Unspecified> {
        let mut salt = [0; SALT_BYTES];
        ring::rand::SystemRandom::new().fill(&mut salt)?;
        let mut hash = [0; HASH_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &mut hash);
        Ok(Self { kind: Kind::Pbkdf2(iterations), salt: salt.into(), hash: hash.into() })
    }

    /// What SCRAM-SHA-256 needs of `password`, with a new salt. Source: RFC 5802 §3, RFC 7677.
    ///
    /// # Errors
    ///
    /// What the password should be, or that the machine has no randomness to give.
    pub fn new_scram(password: &str, iterations: NonZeroU32) -> Result<Self, &'static str> {
        let prepared = stringprep::saslprep(password)
            .map_err(|_| "a password without control characters and the like (RFC 4013)")?;
        let mut salt = [0; SCRAM_SALT_BYTES];
        let filled = ring::rand::SystemRandom::new().fill(&mut salt);
        filled.map_err(|_| "a machine with randomness to give")?;
        let verifier = scram_verifier(&salt, iterations, prepared.as_bytes());
        let hash = [verifier.stored_key, verifier.server_key].concat();
        Ok(Self { kind: Kind::Scram(iterations), salt: salt.into(), hash: hash.into() })
    }

    /// Reads what stands behind the name and the colon.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(SCRAM) {
            return Self::parse_scram(rest).ok_or_else(|| {
                format!(
                    "{SCRAM}ITERATIONS:SALT$STOREDKEY:SERVERKEY, 1 to {ITERATIONS_MAX} iterations, \
                     the rest in base64 with keys of {KEY_BYTES} bytes"
                )
            });
        }
        let mut fields = text.split('$');
        let before = fields.next();
        let (Some(""), Some(kind)) = (before, fields.next()) else {
            return Err("a hash of the password, $7$..., $6$... or SCRAM-SHA-256$..., not the \
                        password; `gateway passwd` writes one"
                .to_owned());
        };
        let kind =
            match kind {
                "6" => Kind::Sha512,
                "7" => {
                    let iterations: Option<u32> = fields.next().and_then(|text| text.parse().ok());
                    let iterations = iterations.filter(|count| *count <= ITERATIONS_MAX);
                    Kind::Pbkdf2(iterations.and_then(NonZeroU32::new).ok_or_else(|| {
                        format!("iterations from 1 to {ITERATIONS_MAX} behind $7$")
                    })?)
                }
                _ => return Err("a hash that begins with $7$ (PBKDF2) or $6$ (SHA-512)".to_owned()),
            };
        let mut bytes = || fields.next().and_then(|text| STANDARD.decode(text).ok());
        let (salt, hash) = (bytes(), bytes());
        match (salt, hash, fields.next()) {
            (Some(salt), Some(hash), None) if !salt.is_empty() && hash.len() == HASH_BYTES => {
                Ok(Self { kind, salt: salt.into(), hash: hash.into() })
            }
            _ => Err(format!("$SALT$HASH in base64, with a hash of {HASH_BYTES} bytes")),
        }
    }

    fn parse_scram(text: &str) -> Option<Self> {
        let (first, keys) = text.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|count| *count <= ITERATIONS_MAX)?;
        let kind = Kind::Scram(NonZeroU32::new(iterations)?);
        let mut hash = STANDARD.decode(stored_key).ok()?;
        if hash.len() != KEY_BYTES {
            return None;
        }
        hash.extend(STANDARD.decode(server_key).ok()?);
        let salt = STANDARD.decode(salt).ok()?;
        let is_sound = !salt.is_empty() && hash.len() == HASH_BYTES;
        is_sound.then(|| Self { kind, salt: salt.into(), hash: hash.into() })
    }

    /// What SCRAM needs, if there is that.
    #[must_use]
    pub fn verifier(&self) -> Option<Verifier> {
        let Kind::Scram(iterations) = self.kind else {
            return None;
        };
        let (stored_key, server_key) = self.hash.split_first_chunk()?;
        let server_key = server_key.try_into().ok()?;
        let salt = self.salt.clone();
        Some(Verifier { salt, iterations, stored_key: *stored_key, server_key })
    }

    /// Whether `password` is the one. Takes as long whichever it is.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Pbkdf2(iterations) => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, iterations, &self.salt, password, &self.hash).is_ok()
            }
            Kind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                context.finish().as_ref().ct_eq(&self.hash).into()
            }
            Kind::Scram(iterations) => {
                let prepared = std::str::from_utf8(password).ok().map(stringprep::saslprep);
                let prepared = match prepared {
                    Some(Ok(Cow::Owned(prepared))) => Cow::Owned(prepared.into_bytes()),
                    _ => Cow::Borrowed(password),
                };
                let verifier = scram_verifier(&self.salt, iterations, &prepared);
                self.hash.get(..KEY_BYTES).is_some_and(|key| verifier.stored_key.ct_eq(key).into())
            }
        }
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Sha512 => f.write_str("$6$")?,
            Kind::Pbkdf2(iterations) => write!(f, "$7${iterations}$")?,
            Kind::Scram(iterations) => {
                let (stored_key, server_key) = self.hash.split_at(KEY_BYTES);
                let salt = STANDARD.encode(&self.salt);
                let keys = (STANDARD.encode(stored_key), STANDARD.encode(server_key));
                return write!(f, "{SCRAM}{iterations}:{salt}${}:{}", keys.0, keys.1);
            }
        }
        write!(f, "{}${}", STANDARD.encode(&self.salt), STANDARD.encode(&self.hash))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?}, ***)", self.kind)
    }
}

impl PasswordFile {
    /// Reads the text of `file`; what is wrong goes to `found`.
    pub(super) fn parse(text: &str, file: &Path, found: &mut Vec<FileFault>) -> Self {
        let mut faults = Faults { file, found };
        let mut users = HashMap::new();
        let mut decoy_key = None;
        for (number, line) in (1..).zip(text.lines()) {
            let Some((name, rest)) = entry(line) else {
                if let Some(text) = line.strip_prefix(DECOY) {
                    let key = STANDARD.decode(text.trim()).ok();
                    decoy_key = key.filter(|key| key.len() == KEY_BYTES);
                    if decoy_key.is_none() {
                        faults.at(
                            number,
                            "a key of 32 bytes in base64; without the line one is made up",
                        );
                    }
                } else if !is_ignored(line) {
                    faults.at(number, "NAME:HASH, an empty line or a comment that begins with #");
                }
                continue;
            };
            if let Err(expected) = check_name(name) {
                faults.at(number, expected);
                continue;
            }
            match PasswordHash::parse(rest.trim()) {
                Ok(hash) => {
                    if users.insert(name.into(), hash).is_some() {
                        faults.at(number, "each user once");
                    }
                }
                Err(expected) => faults.at(number, expected),
            }
        }
        let decoy = usual(users.values());
        let scram_decoy = ScramDecoy::new(decoy_key, &users);
        Self { users, decoy, scram_decoy }
    }

    /// The hash of a user's password.
    #[must_use]
    pub fn get(&self, user_name: &str) -> Option<&PasswordHash> {
        self.users.get(user_name)
    }

    /// What a user has for SCRAM, and whether there is such a user; `None` if nobody has.
    ///
    /// A user without gets what looks the same. A name gets the same each time, from each gateway
    /// with the same file, so that asking twice shows nothing. Source: RFC 5802 §9.
    #[must_use]
    pub(super) fn verifier(&self, user_name: &str) -> Option<(Verifier, bool)> {
        let decoy = self.scram_decoy.as_ref()?.verifier(user_name);
        let known = self.users.get(user_name).and_then(PasswordHash::verifier);
        let is_known = known.is_some();
        Some((known.unwrap_or(decoy), is_known))
    }

    /// Does the work that comparing a password takes, for a name that nobody has.
    pub(super) fn compare_with_decoy(&self, password: &[u8]) {
        if let Some(decoy) = &self.decoy {
            let _ = std::hint::black_box(decoy.verify(password));
        }
    }
}

impl ScramDecoy {
    /// Without a key in the file, one comes from the keys of the users, so that it outlasts a restart.
    fn new(key: Option<Vec<u8>>, users: &HashMap<Box<str>, PasswordHash>) -> Option<Self> {
        let of_scram = |hash: &&PasswordHash| matches!(hash.kind, Kind::Scram(_));
        let usual = usual(users.values().filter(of_scram))?;
        let Kind::Scram(iterations) = usual.kind else {
            return None;
        };
        let salts = users.values().filter(|hash| hash.kind == usual.kind);
        let salt_bytes = salts.map(|hash| hash.salt.len()).max()?;
        let key = key.unwrap_or_else(|| {
            let mut all: Vec<&[u8]> =
                users.values().filter(of_scram).map(|one| &*one.hash).collect();
            all.sort_unstable();
            digest::digest(&digest::SHA256, &all.concat()).as_ref().to_vec()
        });
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Some(Self { key, iterations, salt_bytes })
    }

    fn verifier(&self, user_name: &str) -> Verifier {
        let part = |what: u8| -> [u8; KEY_BYTES] {
            let signed = hmac::sign(&self.key, &[&[what], user_name.as_bytes()].concat());
            signed.as_ref().try_into().expect("SHA-256 has 32 bytes")
        };
        let mut salt = [part(0), part(1)].concat();
        salt.truncate(self.salt_bytes);
        let (salt, iterations) = (salt.into(), self.iterations);
        Verifier { salt, iterations, stored_key: part(2), server_key: part(3) }
    }
}

/// A line with a new key for what users would have that there are not.
///
/// # Errors
///
/// The machine has no randomness to give.
pub(super) fn new_decoy_line() -> Result<String, ring::error::Unspecified> {
    let mut key = [0; KEY_BYTES];
    ring::rand::SystemRandom::new().fill(&mut key)?;
    Ok(format!("{DECOY}{}", STANDARD.encode(key)))
}

/// Whether the line has such a key.
pub(super) fn is_decoy_line(line: &str) -> bool {
    line.starts_with(DECOY)
}

fn scram_verifier(salt: &[u8], iterations: NonZeroU32, password: &[u8]) -> Verifier {
    let mut salted = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
    Verifier::new(salt, iterations, &salted)
}

/// One hash of the kind that most are of.
fn usual<'h>(hashes: impl Iterator<Item = &'h PasswordHash>) -> Option<PasswordHash> {
    let mut kinds: HashMap<Kind, (usize, &PasswordHash)> = HashMap::new();
    for hash in hashes {
        kinds.entry(hash.kind).or_insert((0, hash)).0 += 1;
    }
    // Of as many the same one each time: it must not tell a restart.
    let usual = kinds.into_iter().max_by_key(|(kind, (count, _))| (*count, *kind));
    usual.map(|(_, (_, hash))| hash.clone())
}

/// Name and hash of a line that has them.
pub(super) fn entry(line: &str) -> Option<(&str, &str)> {
    if is_ignored(line) {
        return None;
    }
    line.split_once(':').map(|(name, rest)| (name.trim(), rest))
}

fn is_ignored(line: &str) -> bool {
    line.starts_with('#') || line.trim().is_empty()
}

/// Whether a user can have this name in the file.
///
/// # Errors
///
/// What the name should be.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let is_sound = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.trim() == name
        && !name.starts_with('#')
        && !name.contains([':', '\n', '\r', '\0']);
    if is_sound {
        Ok(())
    } else {
        Err("a user name of 1 to 65535 bytes without colon, not behind #")
    }
}

#[cfg(test)]
mod tests;
