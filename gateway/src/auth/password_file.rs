//! A file of users and hashes of their passwords, as `mosquitto_passwd` writes it.
//!
//! ```text
//! name:$7$ITERATIONS$SALT$HASH      PBKDF2 with HMAC-SHA-512, 64 bytes
//! name:$6$SALT$HASH                 SHA-512 of password and salt
//! ```
//! SALT and HASH are base64. Empty lines and lines that begin with `#` count for nothing.

use super::fault::{Faults, FileFault};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom as _;
use ring::{digest, pbkdf2};
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// Bytes of a hash of either kind.
const HASH_BYTES: usize = 64;
/// Bytes of the salts we make: as many as mosquitto 2.0.
const SALT_BYTES: usize = 12;
/// More could only be meant to keep the threads busy.
const ITERATIONS_MAX: u32 = 10_000_000;
/// The longest User Name. Source: MQTT 5.0 §1.5.4.
const NAME_BYTES_MAX: usize = 65_535;

/// The hash of one password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash {
    kind: Kind,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Sha512,
    Pbkdf2(NonZeroU32),
}

/// Users and their passwords' hashes.
#[derive(Debug, Default)]
pub struct PasswordFile {
    users: HashMap<Box<str>, PasswordHash>,
    /// What a password is compared with when nobody has the name, so that it takes as long.
    decoy: Option<PasswordHash>,
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

    /// Reads what stands behind the name and the colon.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = text.split('$');
        let before = fields.next();
        let (Some(""), Some(kind)) = (before, fields.next()) else {
            return Err("a hash of the password, $7$... or $6$..., not the password; \
                        `gateway passwd` writes one"
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
        }
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Sha512 => f.write_str("$6$")?,
            Kind::Pbkdf2(iterations) => write!(f, "$7${iterations}$")?,
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
        for (number, line) in (1..).zip(text.lines()) {
            let Some((name, rest)) = entry(line) else {
                if !is_ignored(line) {
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
        Self { users, decoy }
    }

    /// The hash of a user's password.
    #[must_use]
    pub fn get(&self, user_name: &str) -> Option<&PasswordHash> {
        self.users.get(user_name)
    }

    /// Does the work that comparing a password takes, for a name that nobody has.
    pub(super) fn compare_with_decoy(&self, password: &[u8]) {
        if let Some(decoy) = &self.decoy {
            let _ = std::hint::black_box(decoy.verify(password));
        }
    }
}

/// One hash of the kind that most are of.
fn usual<'h>(hashes: impl Iterator<Item = &'h PasswordHash>) -> Option<PasswordHash> {
    let mut kinds: HashMap<Kind, (usize, &PasswordHash)> = HashMap::new();
    for hash in hashes {
        kinds.entry(hash.kind).or_insert((0, hash)).0 += 1;
    }
    kinds.into_values().max_by_key(|(count, _)| *count).map(|(_, hash)| hash.clone())
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
mod tests {
    use super::*;

    /// Written by `mosquitto_passwd` 2.0.11.
    const FILE: &str = "\
        alice:$7$101$qKUVgiuj3qJMnJLK$ZRXClSPNF7r6ekjQ3Xi+ZISUYVwtxUgzgIbkW2pYFMSZAwtSA6ttH2tPAgP3vHiQtl0MQBNeEs166z7mNwwedA==\n\
        # a comment\n\
        \n\
        carol:$6$sZS2jguUVnTVMuHg$ekJRDdNIQxXq83ujh6fx3lpqhqDpGpJc1DRmA8HZ/A6HdVMCXpn6n9ewLGPKNGNqM9wxk5XSHDGKWLdwvG7r0A==\n";

    #[test]
    fn reads_both_kinds_of_hash() {
        let mut faults = Vec::new();
        let file = PasswordFile::parse(FILE, Path::new("users"), &mut faults);
        assert_eq!(faults, []);
        for (name, password) in [("alice", "secret"), ("carol", "pw3")] {
            let hash = file.get(name).unwrap();
            assert!(hash.verify(password.as_bytes()));
            assert!(!hash.verify(b"other") && !hash.verify(b""));
            assert!(FILE.contains(&format!("{name}:{hash}\n")), "written as it was read");
            assert!(!format!("{hash:?}").contains(&STANDARD.encode(&hash.hash)));
        }
        assert!(file.get("dave").is_none() && file.decoy.is_some());
    }

    #[test]
    fn a_new_hash_is_of_its_password_only() {
        let iterations = NonZeroU32::new(2).unwrap();
        let (one, other) =
            (PasswordHash::new(b"a", iterations), PasswordHash::new(b"a", iterations));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.verify(b"a") && other.verify(b"a") && !one.verify(b"b"));
        assert_ne!(one, other, "each has a salt of its own");
        assert_eq!(PasswordHash::parse(&one.to_string()), Ok(one));
    }

    #[test]
    fn says_what_is_wrong_with_each_line() {
        let text = "alice\nbob:secret\ncarol:$5$a$b\n:$6$YQ==$YQ==\ndave:$7$0$YQ==$YQ==\n\
                    eve:$6$YQ==$YQ==\n";
        let text = format!("{text}{}{}", FILE, FILE);
        let mut faults = Vec::new();
        let file = PasswordFile::parse(&text, Path::new("users"), &mut faults);
        assert!(file.get("alice").is_some());
        let lines: Vec<_> = faults.iter().map(|fault| fault.line.unwrap()).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 11, 14], "{faults:#?}");
        assert!(!faults.iter().any(|fault| fault.to_string().contains("secret")));
        assert_eq!(faults[6].to_string(), "users, line 11: expected each user once");
    }
}
