//! Session tickets: what a client shows to take up its TLS session again without a full handshake.
//!
//! The session is in the ticket, sealed, so nothing of it is kept here and any shard, and any gateway
//! with the same keys, can open it. Sealing takes no lock: keys never change, new ones come with the
//! next [`TlsServer`](super::TlsServer).

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;

use super::load::{TlsFault, read};

/// Keys that seal tickets: the first of them; those behind it only open.
#[derive(Clone)]
pub struct TicketKeys(Vec<TicketKey>);

/// One key, as input to the derivation of what is used.
#[derive(Clone)]
struct TicketKey {
    name: [u8; NAME_BYTES],
    secret: Prk,
}

/// The most keys of a file: the one in use, and those of tickets not yet expired.
const KEYS_MAX: usize = 16;
/// The fewest and most bytes of a key; 48 and 80 are what nginx and HAProxy use.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
/// The longest file with keys, bytes.
const FILE_BYTES_MAX: u64 = 16_384;
const NAME_BYTES: usize = 8;
/// Each ticket has a key of its own, derived with this many random bytes: so there is no limit to how
/// many one key seals.
const SALT_BYTES: usize = 32;
/// The longest ticket that is opened: a session with a client's certificate chain.
const TICKET_BYTES_MAX: usize = 32_768;

impl TicketKeys {
    /// One random key.
    ///
    /// # Panics
    ///
    /// When the system has no random bytes to give.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 48];
        SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
        Self(vec![TicketKey::new(&bytes)])
    }

    /// A new random key; the newest before it still opens.
    #[must_use]
    pub fn rotated(&self) -> Self {
        let mut keys = Self::random();
        keys.0.extend(self.0.first().cloned());
        keys
    }

    /// Reads keys from a file: one a line, base64; empty lines and those with `#` in front are none.
    pub(super) fn read(path: &Path) -> Result<Self, TlsFault> {
        let expected = "one key a line, each 32 to 256 random bytes in base64, at most 16: \
                        openssl rand -base64 48";
        let fault = || TlsFault::new("tls_ticket_keys", path, expected);
        let bytes = read("tls_ticket_keys", path, FILE_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| fault())?;
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = lines.map(|line| {
            let bytes = STANDARD.decode(line).ok()?;
            KEY_BYTES.contains(&bytes.len()).then(|| TicketKey::new(&bytes))
        });
        let keys: Vec<_> = keys.collect::<Option<_>>().ok_or_else(fault)?;
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(fault());
        }
        Ok(Self(keys))
    }
}

impl TicketKey {
    fn new(bytes: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, b"gateway session tickets").extract(bytes);
        let mut name = [0; NAME_BYTES];
        derive(&secret, &[b"name"], &mut name);
        Self { name, secret }
    }

    /// The key of the one ticket with this salt. As it is used once, its nonce may be fixed.
    fn of_ticket(&self, salt: &[u8]) -> LessSafeKey {
        let mut bytes = [0; 32];
        derive(&self.secret, &[b"ticket", salt], &mut bytes);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("32 bytes are a key");
        LessSafeKey::new(key)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

/// What rustls seals and opens tickets with.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) keys: TicketKeys,
    pub(super) lifetime_s: u32,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.lifetime_s > 0
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, UnixTime::now().as_secs())
    }
}

impl Tickets {
    /// `key name ‖ salt ‖ sealed (seconds of the epoch, 8 bytes ‖ plain)`.
    fn seal(&self, plain: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let key = self.keys.0.first()?;
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + SALT_BYTES + 8 + plain.len() + 16);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&salt);
        let sealed_at = ticket.len();
        ticket.extend_from_slice(&now_s.to_be_bytes());
        ticket.extend_from_slice(plain);
        let sealed = ticket.get_mut(sealed_at..)?;
        let tag = key.of_ticket(&salt);
        let tag = tag.seal_in_place_separate_tag(nonce(), Aad::from(key.name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    fn open(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
        let key = self.keys.0.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let opened = key.of_ticket(salt);
        let opened = opened.open_in_place(nonce(), Aad::from(key.name), &mut sealed).ok()?;
        let (sealed_s, plain) = opened.split_first_chunk::<8>()?;
        let age_s = now_s.saturating_sub(u64::from_be_bytes(*sealed_s));
        (age_s <= self.lifetime_s.into()).then(|| plain.to_vec())
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn derive(secret: &Prk, info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let derived = secret.expand(info, Length(out.len()));
    let derived = derived.and_then(|derived| derived.fill(out));
    derived.expect("far fewer bytes than HKDF can give");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &TicketKeys) -> Tickets {
        Tickets { keys: keys.clone(), lifetime_s: 100 }
    }

    #[test]
    fn a_ticket_opens_for_as_long_as_it_lives_and_no_other_way() {
        let tickets = tickets(&TicketKeys::random());
        let ticket = tickets.seal(b"session", 1_000).unwrap();
        assert_eq!(tickets.open(&ticket, 1_100).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets.open(&ticket, 1_101), None, "too old");
        assert_ne!(tickets.seal(b"session", 1_000).unwrap(), ticket, "never the same twice");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(&changed, 1_000), None, "byte {at}");
            assert_eq!(tickets.open(&ticket[..at], 1_000), None, "{at} bytes");
        }
    }

    #[test]
    fn keys_are_shared_by_file_and_old_ones_still_open() {
        let directory = std::env::temp_dir().join(format!("tickets-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("keys");
        let (first, second) = (STANDARD.encode([1; 48]), STANDARD.encode([2; 80]));
        std::fs::write(&path, format!("# in use\n{first}\n")).unwrap();
        let before = TicketKeys::read(&path).unwrap();
        let ticket = tickets(&before).seal(b"session", 1).unwrap();
        std::fs::write(&path, format!("{second}\n\n{first}\n")).unwrap();
        let after = tickets(&TicketKeys::read(&path).unwrap());
        assert!(after.open(&ticket, 1).is_some());
        let newer = after.seal(b"session", 1).unwrap();
        assert_eq!(tickets(&before).open(&newer, 1), None, "it has another key");
        for wrong in ["", "#", "no base64!", &STANDARD.encode([1; 31]), &format!("{first} {first}")]
        {
            std::fs::write(&path, wrong).unwrap();
            let fault = TicketKeys::read(&path).unwrap_err().to_string();
            assert!(fault.contains("one key a line"), "{fault}");
            assert!(wrong.len() < 8 || !fault.contains(wrong), "a key is printed: {fault}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_rotated_key_opens_what_the_one_before_sealed_and_no_older() {
        let first = TicketKeys::random();
        let ticket = tickets(&first).seal(b"session", 1).unwrap();
        let second = first.rotated();
        assert!(tickets(&second).open(&ticket, 1).is_some());
        assert_eq!(tickets(&second.rotated()).open(&ticket, 1), None);
    }
}
