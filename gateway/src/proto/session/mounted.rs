//! What the client of a tenant says and hears, and what is stored: see [`tenant`](crate::proto::tenant).

use super::Session;
use crate::proto::mqtt::parse_shared;

impl Session {
    /// Client Identifier, as the client says it.
    #[must_use]
    pub fn own_client_id(&self) -> &str {
        self.client_id.get(usize::from(self.mount_bytes)..).unwrap_or_default()
    }

    /// The mountpoint of the client's tenant.
    #[must_use]
    pub fn mountpoint(&self) -> Option<&str> {
        self.client_id.get(..usize::from(self.mount_bytes).checked_sub(1)?)
    }

    /// Whether what the client says and what is stored differ.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.mount_bytes > 0
    }

    /// Replaces `out` by what a topic name of a client that is mounted is stored as.
    pub fn mount_topic(&self, topic: &str, out: &mut String) {
        out.clear();
        out.push_str(self.mountpoint().unwrap_or_default());
        out.push('/');
        out.push_str(topic);
    }

    /// What a topic filter of a client that is mounted is stored as, with `$share/ShareName/` in front of
    /// a shared one; empty, which is no filter, where it is none or begins with `$`: what is there is not
    /// the tenant's.
    #[must_use]
    pub fn mount_filter(&self, filter: &str) -> String {
        let Ok(shared) = parse_shared(filter) else {
            return String::new();
        };
        let (share_name, inner) =
            shared.map_or((None, filter), |(name, inner)| (Some(name), inner));
        if inner.is_empty() || inner.starts_with('$') {
            return String::new();
        }
        let mountpoint = self.mountpoint().unwrap_or_default();
        match share_name {
            None => format!("{mountpoint}/{inner}"),
            Some(name) => format!("$share/{name}/{mountpoint}/{inner}"),
        }
    }

    /// A stored topic name in the client's own words, `None` if it has none for it: it is not the
    /// tenant's, or it is the mountpoint alone, or would begin with `$`.
    #[must_use]
    pub fn own_topic<'t>(&self, stored: &'t str) -> Option<&'t str> {
        if self.mount_bytes == 0 {
            return Some(stored);
        }
        let behind = stored.strip_prefix(self.mountpoint()?)?.strip_prefix('/')?;
        (!behind.is_empty() && !behind.starts_with('$')).then_some(behind)
    }

    /// A stored topic name or filter of the client's, without `$share/`, in its own words.
    pub(super) fn own_words<'t>(&self, stored: &'t str) -> &'t str {
        stored.get(usize::from(self.mount_bytes)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::Connected;

    fn session(name: &str) -> Session {
        Session::new(name.into(), Connected::NOTHING, 0)
    }

    #[test]
    fn a_tenant_has_words_for_what_is_its_own_only() {
        let acme = session("acme\0c");
        assert_eq!((acme.own_client_id(), acme.mountpoint()), ("c", Some("acme")));
        for (stored, own) in [
            ("acme/a/b", Some("a/b")),
            ("acme//", Some("/")),
            ("acme", None),
            ("acme/", None),
            ("acme/$SYS/x", None),
            ("acme2/a", None),
            ("zen/a", None),
            ("$SYS/x", None),
        ] {
            assert_eq!(acme.own_topic(stored), own, "{stored}");
        }
        let plain = session("c");
        assert_eq!((plain.own_client_id(), plain.mountpoint()), ("c", None));
        assert_eq!(plain.own_topic("acme/"), Some("acme/"));
    }

    #[test]
    fn filters_are_below_the_mountpoint() {
        let acme = session("acme\0c");
        for (own, stored) in [
            ("#", "acme/#"),
            ("+/b", "acme/+/b"),
            ("/", "acme//"),
            ("$share/g/a/#", "$share/g/acme/a/#"),
            ("$share/g/#", "$share/g/acme/#"),
            ("", ""),
            ("$SYS/#", ""),
            ("$share/g/$SYS/#", ""),
            ("$share/g/", ""),
            ("$share/g", ""),
            ("$share", ""),
            ("$share/+/a", ""),
            ("$shared/a", ""),
        ] {
            assert_eq!(acme.mount_filter(own), stored, "{own}");
        }
    }
}
