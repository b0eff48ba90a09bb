//! What the client of a session may do, as far as anyone has said.
//!
//! Topics and filters are given as they are stored; rules are about a client's own words for them.

use super::Session;
use crate::proto::access::{Acl, Coverage, Identity, Names};
use std::sync::Arc;

impl Session {
    /// The client is this one now.
    pub fn set_identity(&mut self, identity: Option<Arc<Identity>>) {
        self.patterns_taken = identity.as_deref().is_some_and(|identity| {
            let user_name = identity.user_name.as_deref();
            identity.acl.as_ref().is_some_and(|acl| acl.takes(self.own_client_id(), user_name))
        });
        self.reads_checked = false;
        self.identity = identity;
    }

    /// The user who has this session.
    #[must_use]
    pub fn user_name(&self) -> Option<&str> {
        self.identity.as_ref()?.user_name.as_deref()
    }

    /// There are no rules for the client.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.rules().is_none()
    }

    /// Whether the client may publish to a topic name. What is under `$SYS/` only the gateway says; a tenant
    /// has no topics that start with `$`.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        let own = self.own_words(topic);
        !own.starts_with(if self.is_mounted() { "$" } else { "$SYS/" })
            && self.rules().is_none_or(|(acl, names)| acl.may_publish(own, names))
    }

    /// Whether a message of a topic name may be sent to the client.
    #[must_use]
    pub fn may_read(&self, topic: &str) -> bool {
        let allows = |(acl, names): (&Acl, Names<'_>)| acl.may_read(self.own_words(topic), names);
        !self.reads_checked || self.rules().is_none_or(allows)
    }

    /// How much of a filter the client may read.
    #[must_use]
    pub fn coverage(&self, filter: &str) -> Coverage {
        let own = self.own_words(filter);
        self.rules().map_or(Coverage::All, |(acl, names)| acl.coverage(own, names))
    }

    fn rules(&self) -> Option<(&Acl, Names<'_>)> {
        let identity = self.identity.as_deref()?;
        let names = Names {
            client_id: self.own_client_id(),
            user_name: identity.user_name.as_deref(),
            taken: self.patterns_taken,
        };
        Some((identity.acl.as_ref()?, names))
    }
}
