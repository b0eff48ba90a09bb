//! What was proven a short while ago, so that a storm of clients that come back does not hash every
//! password again.
//!
//! Only what was accepted is kept, by user name, with a keyed hash of name and password; the key is
//! made at start and known to nobody. A wrong password costs what it costs without a cache.

use crate::proto::access::{AuthenticationRequest, Identity};
use ring::hmac;
use std::collections::HashMap;
use std::sync::Arc;

/// Proven credentials of users.
pub(super) struct Cache {
    key: hmac::Key,
    /// Those of the present half of the cache's time; then the earlier ones go.
    young: HashMap<Box<str>, Proven>,
    old: HashMap<Box<str>, Proven>,
    half_max: usize,
}

#[derive(Clone)]
struct Proven {
    tag: [u8; TAG_BYTES],
    identity: Arc<Identity>,
}

const TAG_BYTES: usize = 32;

impl Cache {
    /// A cache of at most `entries_max` users.
    ///
    /// # Errors
    ///
    /// The machine has no randomness to give.
    pub(super) fn new(entries_max: usize) -> Result<Self, ring::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())?;
        let (young, old) = (HashMap::new(), HashMap::new());
        Ok(Self { key, young, old, half_max: entries_max / 2 })
    }

    /// Who proved the same before.
    pub(super) fn get(&mut self, request: &AuthenticationRequest) -> Option<Arc<Identity>> {
        let user_name = request.user_name.as_deref()?;
        let is_young = self.young.contains_key(user_name);
        let proven = self.young.get(user_name).or_else(|| self.old.get(user_name))?;
        let message = message(user_name, request.password.as_deref()?);
        hmac::verify(&self.key, &message, &proven.tag).ok()?;
        let proven = proven.clone();
        let identity = Arc::clone(&proven.identity);
        if !is_young {
            self.insert(user_name, proven);
        }
        Some(identity)
    }

    /// Notes what a client has proven.
    pub(super) fn note(&mut self, request: &AuthenticationRequest, identity: &Arc<Identity>) {
        let (Some(user_name), Some(password)) = (&request.user_name, &request.password) else {
            return;
        };
        let signed = hmac::sign(&self.key, &message(user_name, password));
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(signed.as_ref());
        self.insert(user_name, Proven { tag, identity: Arc::clone(identity) });
    }

    fn insert(&mut self, user_name: &str, proven: Proven) {
        if self.half_max == 0 {
            return;
        }
        if self.young.len() >= self.half_max && !self.young.contains_key(user_name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(user_name.into(), proven);
    }

    /// Forgets everything: other files count now.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// Name and password, so that no other pair gives the same bytes.
fn message(user_name: &str, password: &[u8]) -> Vec<u8> {
    [&(user_name.len() as u64).to_le_bytes(), user_name.as_bytes(), password].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::access::Proof;
    use crate::proto::output::ConnectionId;
    use crate::proto::time::Timestamp;

    fn request(user_name: &str, password: &str) -> AuthenticationRequest {
        AuthenticationRequest {
            connection: ConnectionId { index: 0, generation: 0 },
            origin: None,
            client_id: "c".into(),
            user_name: Some(user_name.into()),
            password: Some(password.as_bytes().into()),
            client_first: None,
        }
    }

    fn identity(user_name: &str) -> Arc<Identity> {
        let user_name = Some(user_name.into());
        let (acl, proof, expires_at) = (None, Proof::None, Timestamp::NEVER);
        Arc::new(Identity { user_name, mountpoint: None, acl, proof, expires_at })
    }

    #[test]
    fn knows_the_same_credentials_only() {
        let mut cache = Cache::new(8).unwrap();
        cache.note(&request("anna", "pw"), &identity("anna"));
        assert!(cache.get(&request("anna", "pw")).is_some());
        for (user_name, password) in [("anna", "pw "), ("anna", ""), ("ann", "apw"), ("otto", "pw")]
        {
            assert!(cache.get(&request(user_name, password)).is_none(), "{user_name} {password}");
        }
        cache.clear();
        assert!(cache.get(&request("anna", "pw")).is_none());
    }

    #[test]
    fn holds_no_more_than_it_may_and_keeps_who_comes_often() {
        let mut cache = Cache::new(8).unwrap();
        for number in 0..100 {
            let name = format!("user{number}");
            cache.note(&request(&name, "pw"), &identity(&name));
            assert!(cache.young.len() + cache.old.len() <= 8);
            if number > 0 {
                assert!(cache.get(&request("user0", "pw")).is_some(), "{number}");
            }
        }
        let mut none = Cache::new(0).unwrap();
        none.note(&request("anna", "pw"), &identity("anna"));
        assert!(none.get(&request("anna", "pw")).is_none());
    }
}
