//! JSON Web Tokens: the password of a CONNECT is a token that somebody else has signed.
//!
//! Keys come from a file with one key (PEM, or a secret for HS256 to HS512) or a JWKS file. A key counts
//! for one algorithm, which the configuration or the key's own `alg` names: what the token says of
//! itself is compared, never believed.
//!
//! | claim | |
//! |---|---|
//! | `sub`, or `jwt_user_claim` | the user name; a User Name in CONNECT has to be the same |
//! | as `jwt_client_id_claim` says | the client id that CONNECT has to have, where it is configured |
//! | `exp` | needed; the connection ends with it |
//! | `nbf` | not before |
//! | `iss`, `aud` | as configured, if they are |
//! | as `jwt_mountpoint_claim` says | the mountpoint of the client's tenant, or `null` for none, where it is configured |
//! | `acl` | `{"pub": [...], "sub": [...], "all": [...], "deny": [...]}`: topic filters, with `%c` and `%u`; instead of the rules of the ACL file |

use super::Fingerprints;
use super::fault::{self, Faults, FileFault};
use crate::config::{AuthConfig, Tenants, is_mountpoint};
use crate::proto::access::{
    Acl, AuthenticationRequest, Identity, Pattern, Permission, Proof, RuleSet,
};
use crate::proto::time::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use std::fmt;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::Arc;

/// What tokens are checked with.
pub(super) struct Tokens {
    keys: Vec<Key>,
    user_claim: String,
    client_id_claim: Option<String>,
    mountpoint_claim: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
}

struct Key {
    /// `kid`, where the file names one.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    /// A hash of all of it, by which it is known after a reload.
    tag: u64,
}

/// What a token says.
pub(super) enum Said {
    /// Who the client is, and its rules if the token has them.
    Known(Arc<Identity>),
    /// Nothing that counts.
    Wrong,
    /// It is none.
    NoToken,
}

impl Tokens {
    /// Reads the key files that the configuration names; `None` when it names none.
    pub(super) fn load(
        config: &AuthConfig,
        bytes_max: u64,
        random: &Fingerprints,
        found: &mut Vec<FileFault>,
    ) -> Option<Self> {
        let mut keys = Vec::new();
        if let Some(file) = &config.jwt_key_file
            && let Some(text) = fault::read(file, bytes_max, found)
        {
            let algorithm = config.jwt_algorithm;
            match single_key(&text, algorithm) {
                Ok(key) => {
                    let tag = random.hash_one((&text, format!("{algorithm:?}")));
                    keys.push(Key { id: None, algorithm, key, tag });
                }
                Err(expected) => Faults { file, found }.whole(expected),
            }
        }
        if let Some(file) = &config.jwt_jwks_file
            && let Some(text) = fault::read(file, bytes_max, found)
        {
            keys.extend(key_set(&text, file, random, found));
        }
        config.knows_tokens().then(|| Self {
            keys,
            user_claim: config.jwt_user_claim.clone(),
            client_id_claim: config.jwt_client_id_claim.clone(),
            mountpoint_claim: config.jwt_mountpoint_claim.clone(),
            issuer: config.jwt_issuer.clone(),
            audience: config.jwt_audience.clone(),
        })
    }

    /// Whether a key with this tag still counts.
    pub(super) fn has_key(&self, tag: u64) -> bool {
        self.keys.iter().any(|key| key.tag == tag)
    }

    /// What the token in the password of a CONNECT says; `tenants` has the mountpoints of users where no
    /// claim is configured, `rules_of` the rules of those whose token has none.
    pub(super) fn check(
        &self,
        request: &AuthenticationRequest,
        now: Timestamp,
        tenants: &Tenants,
        rules_of: impl Fn(&str) -> Option<Acl>,
    ) -> Said {
        let token = request.password.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
        let Some(token) = token.filter(|token| token.bytes().filter(|b| *b == b'.').count() == 2)
        else {
            return Said::NoToken;
        };
        let Ok(header) = jsonwebtoken::decode_header(token) else {
            return Said::NoToken;
        };
        let fits = |key: &&Key| {
            key.algorithm == header.alg
                && (key.id.is_none() || header.kid.is_none() || key.id == header.kid)
        };
        let verified = self.keys.iter().filter(fits).find_map(|key| {
            let claims =
                jsonwebtoken::decode::<Value>(token, &key.key, &self.validation(key.algorithm));
            claims.ok().map(|data| (key.tag, data.claims))
        });
        let identity = verified.and_then(|(tag, claims)| {
            let identity = self.identity(&claims, tag, now, tenants, rules_of)?;
            let is_same = request.user_name.is_none() || request.user_name == identity.user_name;
            let is_for_client = self.client_id_claim.as_ref().is_none_or(|claim| {
                claims.get(claim).and_then(Value::as_str) == Some(&*request.client_id)
            });
            (is_same && is_for_client).then_some(identity)
        });
        identity.map_or(Said::Wrong, |identity| Said::Known(Arc::new(identity)))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // Times are looked at here, by the clock everything else goes by.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["exp"]);
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            None => validation.validate_aud = false,
        }
        validation
    }

    fn identity(
        &self,
        claims: &Value,
        key: u64,
        now: Timestamp,
        tenants: &Tenants,
        rules_of: impl Fn(&str) -> Option<Acl>,
    ) -> Option<Identity> {
        let expires_at = time_of(claims.get("exp")?)?;
        let begins_at = match claims.get("nbf") {
            Some(seconds) => time_of(seconds)?,
            None => Timestamp::START,
        };
        if now >= expires_at || now < begins_at {
            return None;
        }
        let user_name = claims.get(&self.user_claim)?.as_str().filter(|name| !name.is_empty())?;
        let own_rules = claims.get("acl");
        let acl = match own_rules {
            Some(rules) => Some(rules_in(rules)?),
            None => rules_of(user_name),
        };
        // Without the claim the client would see all tenants: that has to be said, with `null`.
        let mountpoint = match &self.mountpoint_claim {
            None => tenants.mountpoint_of(user_name).map(Box::from),
            Some(claim) => mountpoint_in(claims.get(claim)?)?,
        };
        let (own_rules, own_mountpoint) = (own_rules.is_some(), self.mountpoint_claim.is_some());
        let proof = Proof::Token { key, own_rules, own_mountpoint };
        Some(Identity { user_name: Some(user_name.into()), mountpoint, acl, proof, expires_at })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} keys, ***)", self.keys.len())
    }
}

/// Seconds since the epoch, whole or not.
fn time_of(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_f64().filter(|seconds| (0.0..1e15).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
    let millis = (seconds * 1_000.0) as u64;
    Some(Timestamp(millis))
}

/// The mountpoint that a token or an answer names, or that there is none; `None` for what can be none.
pub(super) fn mountpoint_in(value: &Value) -> Option<Option<Box<str>>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) if is_mountpoint(text) => Some(Some(text.as_str().into())),
        _ => None,
    }
}

/// The rules in a token; `None` if they are not what they should be, as a denial may be among them.
pub(super) fn rules_in(rules: &Value) -> Option<Acl> {
    let mut set = RuleSet::default();
    for (key, filters) in rules.as_object()? {
        let permission = match key.as_str() {
            "pub" => Permission::WRITE,
            "sub" => Permission::READ,
            "all" => Permission::READ_WRITE,
            "deny" => Permission::DENY,
            _ => return None,
        };
        for filter in filters.as_array()? {
            set.add(permission, Pattern::with_names(filter.as_str()?).ok()?);
        }
    }
    Some(Acl::new(Arc::default(), Arc::new(set)))
}

fn single_key(text: &str, algorithm: Algorithm) -> Result<DecodingKey, String> {
    let pem = text.as_bytes();
    let key = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let secret = text.trim();
            if secret.contains("-----BEGIN") {
                return Err("a secret, as jwt_algorithm is one of HS256 to HS512".to_owned());
            }
            if secret.is_empty() {
                return Err("a secret".to_owned());
            }
            return Ok(DecodingKey::from_secret(secret.as_bytes()));
        }
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => DecodingKey::from_rsa_pem(pem),
    };
    key.map_err(|_| format!("a public key for {algorithm:?} in PEM"))
}

/// The keys of a JWKS file.
fn key_set(text: &str, file: &Path, random: &Fingerprints, found: &mut Vec<FileFault>) -> Vec<Key> {
    let mut faults = Faults { file, found };
    let set: Value = match serde_json::from_str(text) {
        Ok(set) => set,
        Err(error) => {
            faults.at(error.line().max(1), "JSON");
            return Vec::new();
        }
    };
    let Some(items) = set.get("keys").and_then(Value::as_array) else {
        faults.whole("an object with an array of keys: {\"keys\": [...]}");
        return Vec::new();
    };
    let mut keys = Vec::new();
    for (number, item) in (1..).zip(items) {
        match read_jwk(item, random) {
            Ok(key) => keys.push(key),
            Err(expected) => faults.whole(format!("{expected} as key {number}")),
        }
    }
    if items.is_empty() {
        faults.whole("at least one key");
    }
    keys
}

fn read_jwk(item: &Value, random: &Fingerprints) -> Result<Key, String> {
    let jwk: Jwk = serde_json::from_value(item.clone())
        .map_err(|_| "a key of type RSA, EC, OKP or oct with what belongs to it".to_owned())?;
    let algorithm = match jwk.common.key_algorithm {
        Some(named) => signature_of(named),
        None => usual_algorithm(&jwk.algorithm),
    };
    let algorithm =
        algorithm.ok_or("an alg for signatures that is one of HS, RS, PS, ES or EdDSA")?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "a key that is sound".to_owned())?;
    let tag = random.hash_one(item.to_string());
    Ok(Key { id: jwk.common.key_id, algorithm, key, tag })
}

fn signature_of(named: KeyAlgorithm) -> Option<Algorithm> {
    format!("{named:?}").parse().ok()
}

fn usual_algorithm(parameters: &AlgorithmParameters) -> Option<Algorithm> {
    Some(match parameters {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            EllipticCurve::P521 | EllipticCurve::Ed25519 => return None,
        },
    })
}

#[cfg(test)]
mod tests;
