//! Who may connect and what they may touch, as configured. The files are read by others.

use std::path::PathBuf;

/// How clients prove who they are, and where the rules are for what they may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// Users and hashes of their passwords, in mosquitto's format. Default none.
    pub password_file: Option<PathBuf>,
    /// What users may publish and read, in mosquitto's format. Default none: everything.
    pub acl_file: Option<PathBuf>,
    /// Whether a session is for the user only that made it. Default yes.
    pub sessions_bound_to_user: bool,
}

impl AuthConfig {
    /// Whether anyone can prove who they are.
    #[must_use]
    pub fn knows_users(&self) -> bool {
        self.password_file.is_some()
    }

    /// Whether it has to be asked who a client is.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.knows_users() || self.acl_file.is_some()
    }
}

/// What `gateway passwd` is to do.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswdRequest {
    /// The password file.
    pub file: PathBuf,
    /// Whose line.
    pub user_name: String,
    /// The password, if it was given on the command line.
    pub password: Option<String>,
    /// Begin an empty file, whatever is there.
    pub create: bool,
    /// Delete the user.
    pub delete: bool,
    /// Iterations of PBKDF2.
    pub iterations: u32,
}

impl std::fmt::Debug for PasswdRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswdRequest {{ file: {:?}, user_name: {:?}, *** }}", self.file, self.user_name)
    }
}
