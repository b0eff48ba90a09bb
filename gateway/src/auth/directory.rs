//! What the configured files say, as a whole.

use super::acl_file::AclFile;
use super::fault::{self, FileFault};
use super::password_file::{PasswordFile, PasswordHash};
use crate::config::Config;
use crate::proto::access::{
    Authentication, AuthenticationRequest, Identity, Proof, Recheck, Refusal,
};
use crate::proto::time::Timestamp;
use ahash::RandomState;
use std::sync::Arc;

/// Users, their passwords and their rules. Never changed: a reload makes another.
#[derive(Debug)]
pub struct Directory {
    passwords: Option<PasswordFile>,
    acl: Option<AclFile>,
    /// Who a client is that proves nothing, if that is enough.
    anonymous: Option<Arc<Identity>>,
    random: RandomState,
}

impl Directory {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn load(config: &Config) -> Result<Self, Vec<FileFault>> {
        Self::load_with(config, RandomState::new())
    }

    /// Reads the files again.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn reload(&self, config: &Config) -> Result<Self, Vec<FileFault>> {
        // Whether a password is still the same shows by its hash.
        Self::load_with(config, self.random.clone())
    }

    fn load_with(config: &Config, random: RandomState) -> Result<Self, Vec<FileFault>> {
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
        // Without a way to prove who one is, anybody may stay unknown: the configuration has seen to
        // it that this is meant.
        let may_be_unknown = config.allow_anonymous || !config.auth.knows_users();
        let anonymous = may_be_unknown.then(|| {
            Arc::new(Identity {
                user_name: None,
                acl: acl.as_ref().map(|acl| acl.rules_of(None)),
                proof: Proof::None,
                expires_at: Timestamp::NEVER,
            })
        });
        let directory = Self { passwords, acl, anonymous, random };
        if faults.is_empty() { Ok(directory) } else { Err(faults) }
    }

    /// Who sent this CONNECT. May take long: passwords are made to.
    ///
    /// A client that gives credentials is who they prove, or is refused: it does not become an unknown
    /// one.
    ///
    /// # Errors
    ///
    /// Why it may not connect.
    pub fn authenticate(&self, request: &AuthenticationRequest) -> Authentication {
        let Some(passwords) = &self.passwords else {
            return self.anonymous();
        };
        let (user_name, password) = match (&request.user_name, &request.password) {
            (None, None) => return self.anonymous(),
            (Some(user_name), Some(password)) => (user_name, password),
            (None, Some(_)) | (Some(_), None) => return Err(Refusal::BadCredentials),
        };
        let Some(hash) = passwords.get(user_name) else {
            passwords.compare_with_decoy(password);
            return Err(Refusal::BadCredentials);
        };
        if !hash.verify(password) {
            return Err(Refusal::BadCredentials);
        }
        Ok(self.known_by_password(user_name, hash))
    }

    fn known_by_password(&self, user_name: &str, hash: &PasswordHash) -> Arc<Identity> {
        Arc::new(Identity {
            user_name: Some(user_name.into()),
            acl: self.acl.as_ref().map(|acl| acl.rules_of(Some(user_name))),
            proof: Proof::Password(self.random.hash_one(hash)),
            expires_at: Timestamp::NEVER,
        })
    }

    fn anonymous(&self) -> Authentication {
        self.anonymous.clone().ok_or(Refusal::NoCredentials)
    }
}

impl Recheck for Directory {
    /// A client that has proven a password stays as long as the file has that password for its user.
    fn recheck(&self, former: &Identity) -> Option<Arc<Identity>> {
        match (former.proof, &former.user_name) {
            (Proof::None, _) => self.anonymous.clone(),
            (Proof::Password(tag), Some(user_name)) => {
                let hash = self.passwords.as_ref()?.get(user_name)?;
                (self.random.hash_one(hash) == tag).then(|| self.known_by_password(user_name, hash))
            }
            (Proof::Password(_), None) => None,
        }
    }
}
