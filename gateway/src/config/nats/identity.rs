//! Who the gateway is to a sub-cluster: one kind of identity, from keys, URLs or a file.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::NatsIdentity;

/// The longest file of a seed or of credentials, bytes. A JWT is a few kilobytes.
const FILE_BYTES_MAX: u64 = 65_536;

/// Reads a file with the seed of a user's nkey, bare or between BEGIN and END lines.
///
/// # Errors
///
/// What the file should be, for a fault.
pub(super) fn nkey(path: &Path) -> Result<NatsIdentity, String> {
    let text = read(path)?;
    let seed = section(&text, "SEED")
        .or_else(|| text.lines().map(str::trim).find(|line| line.starts_with('S')))
        .ok_or("a file with the seed of an nkey")?;
    check_seed(seed)?;
    Ok(NatsIdentity::Nkey { file: PathBuf::from(path), seed: seed.to_owned() })
}

/// Reads a creds file: a user JWT and the seed of its nkey, each between BEGIN and END lines.
///
/// # Errors
///
/// What the file should be, for a fault.
pub(super) fn creds(path: &Path) -> Result<NatsIdentity, String> {
    let text = read(path)?;
    let jwt = section(&text, "JWT").ok_or("a creds file, with BEGIN NATS USER JWT")?;
    let seed = section(&text, "SEED").ok_or("a creds file, with BEGIN USER NKEY SEED")?;
    check_seed(seed)?;
    let (jwt, seed) = (jwt.to_owned(), seed.to_owned());
    Ok(NatsIdentity::Creds { file: PathBuf::from(path), jwt, seed })
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| {
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(())
    });
    match read {
        Err(error) => Err(format!("a file that can be read, but: {error}")),
        Ok(()) if text.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("a file of at most {FILE_BYTES_MAX} bytes"))
        }
        Ok(()) => Ok(text),
    }
}

/// The line between `-----BEGIN … <kind>-----` and its end.
fn section<'t>(text: &'t str, kind: &str) -> Option<&'t str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| {
        line.starts_with("---")
            && line.contains("BEGIN")
            && line.trim_end_matches('-').ends_with(kind)
    })?;
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
}

fn check_seed(seed: &str) -> Result<(), String> {
    match nkeys::KeyPair::from_seed(seed) {
        Ok(key) if key.key_pair_type() == nkeys::KeyPairType::User => Ok(()),
        Ok(_) => Err("the seed of a user's nkey (SU...)".to_owned()),
        // The error may quote the seed.
        Err(_) => Err("a file with the seed of an nkey, but it is damaged".to_owned()),
    }
}
