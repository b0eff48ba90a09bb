//! The admin server: where it listens, and what a client of it must know.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where it listens unless told otherwise.
pub(super) const ADDRESS_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18_083);

/// The shortest and the longest token, bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// The admin server, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens. Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Nobody gave the address: a gateway that finds it in use goes without.
    pub is_default: bool,
    /// What clients must send; always there where others than this machine reach the address.
    pub token: Option<AdminToken>,
}

/// A secret that clients of the admin server send as `Authorization: Bearer`.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// Where it was read from.
    pub file: PathBuf,
    token: String,
}

impl AdminToken {
    /// Reads the first line of a file.
    ///
    /// # Errors
    ///
    /// What the file should be, for a fault.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("a file that can be read, but: {error}"))?;
        let token = text.lines().next().unwrap_or_default().trim();
        let is_sound =
            TOKEN_BYTES.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_sound {
            return Err(
                "a file whose first line is a token of 16 to 512 visible characters, such as \
                        `openssl rand -hex 32` prints"
                    .to_owned(),
            );
        }
        Ok(Self { file: path.to_owned(), token: token.to_owned() })
    }

    /// The line of a request that shows it, with its end.
    #[must_use]
    pub fn header_line(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// Whether `given` is it. Takes as long wherever the first difference is.
    #[must_use]
    pub fn matches(&self, given: &str) -> bool {
        let difference = self.token.bytes().zip(given.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        self.token.len() == given.len() && difference == 0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminToken({})", self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TemporaryFile, request, running};
    use super::super::{Config, Request};

    #[track_caller]
    fn check_refused(flags: &[&str], expected: &str) {
        match request(flags) {
            Request::Refuse(text) => assert!(text.contains(expected), "{text}"),
            other => panic!("{flags:?}: {other:?}"),
        }
    }

    fn address(config: &Config) -> Option<String> {
        config.admin.as_ref().map(|admin| admin.address.to_string())
    }

    #[test]
    fn it_listens_on_loopback_unless_told_otherwise() {
        let config = running(&[]);
        assert!(config.admin.as_ref().is_some_and(|admin| admin.is_default));
        assert_eq!(address(&config).as_deref(), Some("127.0.0.1:18083"));
        assert_eq!(address(&running(&["--admin", "none"])), None);
        let config = running(&["--admin", "[::1]:0"]);
        assert_eq!(address(&config).as_deref(), Some("[::1]:0"));
        check_refused(&["--admin", "18083"], "admin = \"18083\" (flag): expected ADDRESS:PORT");
    }

    #[test]
    fn an_address_that_others_reach_needs_a_token() {
        check_refused(&["--admin", "0.0.0.0:1"], "admin_token_file");
        let file = TemporaryFile::new("token", "0123456789abcdef-secret\nnot this\n");
        let flags = ["--admin", "0.0.0.0:1", "--admin-token-file", &file.flag()];
        let config = running(&flags);
        let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref()).unwrap();
        assert!(token.matches("0123456789abcdef-secret"));
        for wrong in ["", "0123456789abcdef-secreT", "0123456789abcdef-secret2", "not this"] {
            assert!(!token.matches(wrong), "{wrong}");
        }
        assert!(!format!("{config:?}{}", config.to_toml()).contains("secret\n"));
        assert!(!config.to_toml().contains("0123456789"), "{}", config.to_toml());
        let short = TemporaryFile::new("short-token", "0123456789abcde\n");
        check_refused(&["--admin-token-file", &short.flag()], "a token of 16 to 512");
        check_refused(&["--admin-token-file", "/nowhere/at-all"], "a file that can be read");
        check_refused(&["--admin", "none", "--admin-token-file", &file.flag()], "an admin server");
    }
}
