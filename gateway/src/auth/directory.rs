//! What the configured files say, as a whole.

use super::Fingerprints;
use super::acl_file::AclFile;
use super::cache::Cache;
use super::fault::{self, FileFault};
use super::http::CalloutSettings;
use super::jwt::{Said, Tokens};
use super::password_file::{PasswordFile, PasswordHash};
use super::thread::Clocks;
use crate::config::{AuthMethod, Config, Tenants};
use crate::proto::access::{
    Acl, Authentication, AuthenticationRequest, Challenge, ClientFirst, Identity, Proof, Recheck,
    Refusal,
};
use crate::proto::time::Timestamp;
use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Users, how they prove who they are, and their rules. Never changed: a reload makes another.
#[derive(Debug)]
pub struct Directory {
    methods: Vec<AuthMethod>,
    passwords: Option<PasswordFile>,
    tokens: Option<Tokens>,
    acl: Option<AclFile>,
    /// Who a client is that proves nothing, if that is enough.
    anonymous: Option<Arc<Identity>>,
    banned: HashSet<String>,
    tenants: Tenants,
    /// What asking over HTTP takes from files: a certificate authority and a token.
    callout: (Option<String>, Option<String>),
    random: Fingerprints,
}

/// How far a question has come.
pub(super) enum Step {
    /// Who the client is.
    Answer(Authentication),
    /// Ask over HTTP; if nobody knows there, go on with this method.
    Callout(usize),
}

/// What one method says of a client.
enum Verdict {
    Known(Arc<Identity>),
    /// It knows what the client claims to be, and that is not so.
    Wrong,
    /// Nothing: others may know.
    Nothing,
}

impl Directory {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn load(config: &Config) -> Result<Self, Vec<FileFault>> {
        Self::load_with(config, Fingerprints::default())
    }

    /// Reads the files again.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn reload(&self, config: &Config) -> Result<Self, Vec<FileFault>> {
        // Whether a password or a key is still the same shows by its hash.
        let mut new = Self::load_with(config, self.random.clone())?;
        if new.callout != self.callout {
            tracing::warn!(
                "what http_auth_ca_file or http_auth_token_file hold has changed, but only a restart \
                 puts it in force"
            );
        }
        // What the thread that asks has.
        new.callout.clone_from(&self.callout);
        Ok(new)
    }

    /// Whether one of the methods is to ask over HTTP.
    #[must_use]
    pub fn asks_over_http(&self) -> bool {
        self.methods.contains(&AuthMethod::Http)
    }

    fn load_with(config: &Config, random: Fingerprints) -> Result<Self, Vec<FileFault>> {
        let mut faults = Vec::new();
        let bytes_max = config.limits.access_file_bytes_max.into();
        let passwords = config.auth.password_file.as_deref().and_then(|path| {
            let text = fault::read(path, bytes_max, &mut faults)?;
            Some(PasswordFile::parse(&text, path, &mut faults))
        });
        let acl = config.auth.acl_file.as_deref().and_then(|path| {
            let text = fault::read(path, bytes_max, &mut faults)?;
            Some(AclFile::parse(&text, path, &mut faults))
        });
        let tokens = Tokens::load(&config.auth, bytes_max, &random, &mut faults);
        // Without a way to prove who one is, anybody may stay unknown: the configuration has seen to
        // it that this is meant.
        let may_be_unknown = config.allow_anonymous || !config.auth.knows_users();
        let anonymous = may_be_unknown.then(|| {
            Arc::new(Identity {
                user_name: None,
                mountpoint: None,
                acl: acl.as_ref().map(|acl| acl.rules_of(None)),
                proof: Proof::None,
                expires_at: Timestamp::NEVER,
            })
        });
        let banned = config.auth.banned_users.iter().cloned().collect();
        let (methods, tenants) = (config.auth.methods.clone(), config.auth.tenants.clone());
        let mut text_of = |path: &Option<PathBuf>| {
            path.as_deref().and_then(|path| fault::read(path, bytes_max, &mut faults))
        };
        let callout =
            (text_of(&config.auth.http_auth_ca_file), text_of(&config.auth.http_auth_token_file));
        let directory =
            Self { methods, passwords, tokens, acl, anonymous, banned, tenants, callout, random };
        if faults.is_empty() { Ok(directory) } else { Err(faults) }
    }

    /// Who sent this CONNECT. May take long: passwords are made to.
    ///
    /// The methods are asked in their order; the first that knows what the client claims decides. A
    /// client that gives credentials is who they prove, or is refused: it does not become an unknown
    /// one.
    ///
    /// `from` is the first method to ask: 0 at first. `proven` is looked at in the turn of passwords:
    /// what other methods say is cheap to find out, and may not be true any more.
    pub(super) fn authenticate(
        &self,
        request: &AuthenticationRequest,
        now: Timestamp,
        from: usize,
        proven: &mut Cache,
    ) -> Step {
        let says_something = request.user_name.is_some() || request.password.is_some();
        let shows_something = says_something || request.certificate_name().is_some();
        for (number, method) in self.methods.iter().enumerate().skip(from) {
            let said = match method {
                AuthMethod::Http if shows_something => return Step::Callout(number + 1),
                AuthMethod::Http => Verdict::Nothing,
                AuthMethod::Certificate => self.by_certificate(request),
                AuthMethod::Password => self.by_password(request, proven),
                AuthMethod::Jwt => self.by_token(request, now),
            };
            match said {
                Verdict::Known(identity) => return Step::Answer(self.unless_banned(identity)),
                Verdict::Wrong => return Step::Answer(Err(Refusal::BadCredentials)),
                Verdict::Nothing => {}
            }
        }
        if self.methods.is_empty() || !says_something {
            return Step::Answer(self.anonymous.clone().ok_or(Refusal::NoCredentials));
        }
        // A name that nobody has takes as long as a wrong password.
        if let (Some(passwords), Some(password)) = (&self.passwords, &request.password) {
            passwords.compare_with_decoy(password);
        }
        Step::Answer(Err(Refusal::BadCredentials))
    }

    /// What a client has to prove that begins SCRAM-SHA-256 with `client_first`.
    ///
    /// # Errors
    ///
    /// The method is not on offer, or the message cannot be read. That nobody has the name is no
    /// error: it gets a challenge that looks like any.
    pub(super) fn challenge(
        &self,
        client_first: &[u8],
        user_name: Option<&str>,
        server_nonce: &str,
    ) -> Result<Challenge, Refusal> {
        let passwords =
            self.passwords.as_ref().filter(|_| self.methods.contains(&AuthMethod::Password));
        let passwords = passwords.ok_or(Refusal::BadMethod)?;
        let first = ClientFirst::parse(client_first).map_err(|fault| {
            tracing::debug!(%fault, "first message of SCRAM");
            Refusal::BadProof
        });
        // Whether it is on offer is said first, whatever the message.
        let name = first.as_ref().map_or("", |first| &first.user_name);
        let (verifier, is_known) = passwords.verifier(name).ok_or(Refusal::BadMethod)?;
        let first = first?;
        if user_name.is_some_and(|user_name| *user_name != *first.user_name) {
            tracing::debug!("user name of CONNECT is not that of SCRAM");
            return Err(Refusal::BadProof);
        }
        let hash = passwords.get(&first.user_name).filter(|_| is_known);
        let account =
            hash.map(|hash| self.unless_banned(self.known(&first.user_name, self.proof_of(hash))));
        Ok(Challenge::new(&first, &verifier, account, server_nonce))
    }

    /// How to ask over HTTP, if that is one of the methods.
    #[must_use]
    pub fn callout_settings(&self, config: &Config, clock: &Clocks) -> Option<CalloutSettings> {
        let limits = &config.limits;
        let (authority, token) = &self.callout;
        self.methods.contains(&AuthMethod::Http).then(|| CalloutSettings {
            url: config.auth.http_auth_url.clone().unwrap_or_default(),
            authority: authority.as_ref().map(|text| text.as_bytes().to_vec()),
            token: token.as_ref().map(|text| text.trim().to_owned()),
            timeout: Duration::from_millis(limits.http_auth_timeout_ms.into()),
            concurrency_max: limits.http_auth_concurrency_max.into(),
            queue_max: limits.authentications_waiting_max as usize,
            cache: Duration::from_secs(limits.http_auth_cache_s.into()),
            cache_max: limits.authentication_cache_max as usize,
            clock: clock.clone(),
        })
    }

    fn unless_banned(&self, identity: Arc<Identity>) -> Authentication {
        // Only who has proven to be the user hears of it.
        let is_banned = identity.user_name.as_deref().is_some_and(|name| self.is_banned(name));
        if is_banned { Err(Refusal::Banned) } else { Ok(identity) }
    }

    pub(super) fn is_banned(&self, user_name: &str) -> bool {
        self.banned.contains(user_name)
    }

    fn by_certificate(&self, request: &AuthenticationRequest) -> Verdict {
        match request.certificate_name() {
            Some(user_name) => Verdict::Known(self.known(user_name, Proof::Certificate)),
            None => Verdict::Nothing,
        }
    }

    fn by_password(&self, request: &AuthenticationRequest, proven: &mut Cache) -> Verdict {
        let (Some(passwords), Some(user_name), Some(password)) =
            (&self.passwords, &request.user_name, &request.password)
        else {
            return Verdict::Nothing;
        };
        if let Some(identity) = proven.get(request) {
            return Verdict::Known(identity);
        }
        match passwords.get(user_name) {
            Some(hash) if hash.verify(password) => {
                let identity = self.known(user_name, self.proof_of(hash));
                proven.note(request, &identity);
                Verdict::Known(identity)
            }
            Some(_) => Verdict::Wrong,
            None => Verdict::Nothing,
        }
    }

    fn by_token(&self, request: &AuthenticationRequest, now: Timestamp) -> Verdict {
        let Some(tokens) = &self.tokens else {
            return Verdict::Nothing;
        };
        match tokens.check(request, now, &self.tenants, |user_name| self.rules_of(user_name)) {
            Said::Known(identity) => Verdict::Known(identity),
            Said::Wrong => Verdict::Wrong,
            Said::NoToken => Verdict::Nothing,
        }
    }

    fn known(&self, user_name: &str, proof: Proof) -> Arc<Identity> {
        let (acl, expires_at) = (self.rules_of(user_name), Timestamp::NEVER);
        let mountpoint = self.mountpoint_of(user_name);
        Arc::new(Identity { user_name: Some(user_name.into()), mountpoint, acl, proof, expires_at })
    }

    pub(super) fn rules_of(&self, user_name: &str) -> Option<Acl> {
        self.acl.as_ref().map(|acl| acl.rules_of(Some(user_name)))
    }

    pub(super) fn mountpoint_of(&self, user_name: &str) -> Option<Box<str>> {
        self.tenants.mountpoint_of(user_name).map(Box::from)
    }

    fn proof_of(&self, hash: &PasswordHash) -> Proof {
        Proof::Password(self.random.hash_one(hash))
    }
}

impl Recheck for Directory {
    /// A client stays as long as the files have its password, or the key that signed its token.
    fn recheck(&self, former: &Identity) -> Option<Arc<Identity>> {
        let Some(user_name) = &former.user_name else {
            return self.anonymous.clone();
        };
        if self.is_banned(user_name) {
            return None;
        }
        match former.proof {
            Proof::None => None,
            Proof::Certificate => Some(self.known(user_name, Proof::Certificate)),
            Proof::Password(_) => {
                let hash = self.passwords.as_ref()?.get(user_name)?;
                let is_same = self.proof_of(hash) == former.proof;
                is_same.then(|| self.known(user_name, former.proof))
            }
            Proof::Token { key, own_rules, own_mountpoint } => {
                self.tokens.as_ref().filter(|tokens| tokens.has_key(key))?;
                Some(self.anew(former, own_rules, own_mountpoint))
            }
            // Who said so is not asked again for everybody at once.
            Proof::Http { own_rules, own_mountpoint } => {
                Some(self.anew(former, own_rules, own_mountpoint))
            }
        }
    }
}

impl Directory {
    /// The same client with the rules of the ACL file and the mountpoint of the configuration, unless it
    /// has its own.
    fn anew(&self, former: &Identity, own_rules: bool, own_mountpoint: bool) -> Arc<Identity> {
        let (mut identity, user_name) = (former.clone(), former.user_name.as_deref());
        if !own_rules {
            identity.acl = user_name.and_then(|name| self.rules_of(name));
        }
        if !own_mountpoint {
            identity.mountpoint = user_name.and_then(|name| self.mountpoint_of(name));
        }
        Arc::new(identity)
    }
}
