//! Tenants: who has topics and client ids of its own, as `[[tenant]]` tables say.

use std::fmt::{self, Write as _};

use super::error::ConfigError;
use super::given::{Given, Kind};
use super::show::quoted;

/// The longest mountpoint, bytes. It is part of each topic and key of its tenant, and counts in their
/// limits.
pub const MOUNTPOINT_BYTES_MAX: usize = 128;
/// The most `[[tenant]]` tables: each client that proves who it is is compared with all.
pub const TENANTS_MAX: usize = 1_024;

/// The keys of a table.
pub(super) const TENANT_KEYS: &[(&str, Kind)] = &[("user", Kind::Text), ("mountpoint", Kind::Text)];

/// Users whose topics and client ids are their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The user name, in which one `*` stands for any text, also none.
    pub user: String,
    /// The first level of all topics of these users, which they do not see.
    pub mountpoint: String,
}

/// All of them, in the order in which they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants(Vec<Tenant>);

impl Tenants {
    /// Those, the first that fits a user counts.
    #[must_use]
    pub fn new(tenants: Vec<Tenant>) -> Self {
        Self(tenants)
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mountpoint of a user, if it has one.
    #[must_use]
    pub fn mountpoint_of(&self, user_name: &str) -> Option<&str> {
        let tenant = self.0.iter().find(|tenant| tenant.has(user_name))?;
        Some(&tenant.mountpoint)
    }

    pub(super) fn write_tables(&self, out: &mut String) -> fmt::Result {
        for Tenant { user, mountpoint } in &self.0 {
            writeln!(out, "\n[[tenant]]")?;
            writeln!(out, "user = {}", quoted(user))?;
            writeln!(out, "mountpoint = {}", quoted(mountpoint))?;
        }
        Ok(())
    }
}

impl Tenant {
    fn has(&self, user_name: &str) -> bool {
        match self.user.split_once('*') {
            None => self.user == user_name,
            Some((front, end)) => {
                let behind = user_name.strip_prefix(front);
                behind.is_some_and(|behind| behind.ends_with(end))
            }
        }
    }
}

/// Whether a text can be a mountpoint: a topic level of 1 to [`MOUNTPOINT_BYTES_MAX`] bytes without
/// wildcards, that no topic of the server's own begins with.
#[must_use]
pub fn is_mountpoint(text: &str) -> bool {
    (1..=MOUNTPOINT_BYTES_MAX).contains(&text.len())
        && !text.contains(['/', '+', '#', '\0'])
        && !text.starts_with('$')
}

/// Decides. `knows_users`: somebody can prove who it is.
pub(super) fn resolve(given: &Given, knows_users: bool, faults: &mut Vec<ConfigError>) -> Tenants {
    let mut tenants: Vec<Tenant> = Vec::new();
    for table in given.tenants.iter().flatten() {
        let mut fault = |key: &str, value: &str, origin, expected: String| {
            let (key, value) = (format!("tenant{key}"), value.to_owned());
            faults.push(ConfigError { key, value, expected, origin });
        };
        let mut text = |key: &str, expected: &str, fits: &dyn Fn(&str) -> bool| {
            match table.values.get(key) {
                None => fault("", "", table.origin, format!("a {key}")),
                Some(written) if !fits(&written.text) => {
                    fault(
                        &format!(".{key}"),
                        &quoted(&written.text),
                        written.origin,
                        expected.to_owned(),
                    );
                }
                Some(written) => return Some(written.text.clone()),
            }
            None
        };
        let user = text("user", "a user name, with one * at most", &|text| {
            !text.is_empty() && text.matches('*').count() <= 1
        });
        let expected = format!(
            "a topic level of 1 to {MOUNTPOINT_BYTES_MAX} bytes without wildcards, that does not begin \
             with $"
        );
        let mountpoint = text("mountpoint", &expected, &is_mountpoint);
        if tenants.len() == TENANTS_MAX {
            fault("", "", table.origin, format!("at most {TENANTS_MAX} tables"));
            break;
        }
        if !knows_users {
            let expected = "clients that prove who they are: a password_file, jwt_key_file, \
                            jwt_jwks_file, http_auth_url or auth_methods";
            fault("", "", table.origin, expected.to_owned());
            break;
        }
        tenants.extend(user.zip(mountpoint).map(|(user, mountpoint)| Tenant { user, mountpoint }));
    }
    Tenants(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{check_file_refused, resolve_file};

    const PASSWORDS: &str = "password_file = \"users\"\n";

    #[test]
    fn tables_are_read_and_shown() {
        let text = format!(
            "{PASSWORDS}jwt_key_file = \"k\"\njwt_mountpoint_claim = \"org\"\n\
             [[tenant]]\nuser = \"acme-*\"\nmountpoint = \"acme\"\n\
             [[tenant]]\nuser = \"*\"\nmountpoint = \"others\"\n"
        );
        let config = resolve_file(&text).unwrap();
        assert_eq!(config.auth.jwt_mountpoint_claim.as_deref(), Some("org"));
        assert_eq!(config.auth.tenants.mountpoint_of("acme-1"), Some("acme"));
        assert_eq!(config.auth.tenants.mountpoint_of("zen"), Some("others"));
        assert_eq!(resolve_file(&config.to_toml()), Ok(config));
    }

    #[test]
    fn says_what_is_wrong_with_a_table() {
        let table = "[[tenant]]\nuser = \"a\"\nmountpoint = \"a\"\n";
        check_file_refused(
            table,
            &["tenant (file, line 1): expected clients that prove who they are"],
        );
        let text = format!(
            "{PASSWORDS}[[tenant]]\nuser = \"a*b*\"\nmountpoint = \"a/b\"\n[[tenant]]\nname = \"a\"\n"
        );
        check_file_refused(
            &text,
            &[
                "tenant.user = \"a*b*\" (file, line 3): expected a user name, with one * at most",
                "tenant.mountpoint = \"a/b\" (file, line 4): expected a topic level",
                "tenant (file, line 5): expected a user",
                "tenant (file, line 5): expected a mountpoint",
                "tenant.name (file, line 6): expected a key that exists",
            ],
        );
        let many = format!("{PASSWORDS}{}", table.repeat(TENANTS_MAX));
        assert!(resolve_file(&many).is_ok());
        check_file_refused(&format!("{many}{table}"), &["at most 1024 tables"]);
        check_file_refused("tenant = 1\n", &["an array of tables: [[tenant]]"]);
    }

    #[test]
    fn the_first_table_that_fits_counts() {
        let tenant = |user: &str, mountpoint: &str| Tenant {
            user: user.to_owned(),
            mountpoint: mountpoint.to_owned(),
        };
        let tenants = Tenants::new(vec![
            tenant("acme-admin", "acme-admin"),
            tenant("acme-*", "acme"),
            tenant("*@zen", "zen"),
            tenant("a*a", "a"),
        ]);
        for (user, mountpoint) in [
            ("acme-admin", Some("acme-admin")),
            ("acme-", Some("acme")),
            ("acme-7", Some("acme")),
            ("7@zen", Some("zen")),
            ("aa", Some("a")),
            ("aba", Some("a")),
            ("a", None),
            ("xacme-7", None),
            ("7@zen2", None),
            ("", None),
        ] {
            assert_eq!(tenants.mountpoint_of(user), mountpoint, "{user}");
        }
    }

    #[test]
    fn a_mountpoint_is_one_level() {
        for text in ["a", "acme", "Ä", "a b", "a$", &"x".repeat(MOUNTPOINT_BYTES_MAX)] {
            assert!(is_mountpoint(text), "{text}");
        }
        let long = "x".repeat(MOUNTPOINT_BYTES_MAX + 1);
        for text in ["", "a/b", "/", "+", "#", "a+", "$SYS", "a\0", &long] {
            assert!(!is_mountpoint(text), "{text:?}");
        }
    }
}
