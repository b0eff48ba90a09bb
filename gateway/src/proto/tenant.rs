//! Tenants: customers who share gateways, each with topics and client ids of its own.
//!
//! A tenant is its *mountpoint*, one topic level. It is not said by a client but belongs to what that
//! has proven: [`Identity::mountpoint`](super::access::Identity::mountpoint).
//!
//! - *Topics and filters* are stored, and everywhere behind the packets of a client, with the mountpoint
//!   and a slash in front: `acme/a/b` for a client's `a/b`. [`Session`](super::session::Session) knows how
//!   to put it there and to take it away.
//! - *Client ids* are kept, sent around and recorded, with the mountpoint and U+0000 in front. No client id
//!   has that character (MQTT 5.0 [MQTT-1.5.4-2]; MQTT 3.1.1 [MQTT-1.5.3-2]), so no two are the same. What
//!   is called a client id is this name, except in packets and in what people and applications are shown,
//!   where the two are apart.

use std::borrow::Cow;

/// Between mountpoint and client id.
const SEPARATOR: char = '\0';

/// The name a client's session is kept by.
#[must_use]
pub fn session_name<'n>(mountpoint: Option<&str>, client_id: &'n str) -> Cow<'n, str> {
    match mountpoint {
        None => Cow::Borrowed(client_id),
        Some(mountpoint) => Cow::Owned(format!("{mountpoint}{SEPARATOR}{client_id}")),
    }
}

/// The mountpoint and the client id in a session's name.
#[must_use]
pub fn split_name(name: &str) -> (Option<&str>, &str) {
    match name.split_once(SEPARATOR) {
        None => (None, name),
        Some((mountpoint, client_id)) => (Some(mountpoint), client_id),
    }
}

/// The client id in a session's name, as the client says it.
#[must_use]
pub fn client_id_of(name: &str) -> &str {
    split_name(name).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_as_they_were() {
        for (mountpoint, client_id) in
            [(None, "c"), (None, ""), (Some("acme"), "c"), (Some("a"), "b/c")]
        {
            let name = session_name(mountpoint, client_id);
            assert_eq!(split_name(&name), (mountpoint, client_id));
            assert_eq!(client_id_of(&name), client_id);
        }
        assert_ne!(session_name(Some("a"), "bc"), session_name(Some("ab"), "c"));
    }
}
