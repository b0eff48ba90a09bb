//! Who came and who went, for the log at `debug`: nothing is noted while that is off.

use super::ShardState;
use crate::proto::output::ConnectionId;
use std::collections::HashMap;
use std::fmt::Display;

/// A client whose CONNECT was accepted.
#[derive(Debug)]
pub struct Came {
    /// By which connection.
    pub connection: ConnectionId,
    /// Client Identifier.
    pub client_id: Box<str>,
    /// The user name that was authenticated.
    pub user: Option<Box<str>>,
    /// Session Present of CONNACK.
    pub session_present: bool,
}

/// Whose connection it was, and why it ended.
#[derive(Debug, Default)]
pub struct Went {
    /// Client Identifier, `None` of one that has not said it.
    pub client_id: Option<Box<str>>,
    /// The user name that was authenticated.
    pub user: Option<Box<str>>,
    /// Why the connection was ended by a packet or by us, `None` if it just ended.
    pub why: Option<Box<str>>,
}

/// What was noted: `came` since the last sweep, `going` one a connection that is being closed.
#[derive(Debug, Default)]
pub(super) struct Comings {
    came: Vec<Came>,
    going: HashMap<ConnectionId, Went>,
}

impl ShardState {
    /// The clients whose CONNECT was accepted since the last call, while `debug` is logged.
    pub fn take_came(&mut self) -> Vec<Came> {
        std::mem::take(&mut self.comings.came)
    }

    /// Whose connection it is that closed: before [`ShardState::handle_closed`].
    pub fn take_gone(&mut self, id: ConnectionId) -> Went {
        self.comings.going.remove(&id).unwrap_or_else(|| self.who(id))
    }

    pub(super) fn note_came(&mut self, id: ConnectionId, session_present: bool) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Went { client_id, user, .. } = self.who(id);
        let client_id = client_id.unwrap_or_default();
        self.comings.came.push(Came { connection: id, client_id, user, session_present });
    }

    /// Remembers whose connection is about to be closed, and the first reason for it.
    pub(super) fn note_going(&mut self, id: ConnectionId, why: impl Display) {
        if tracing::enabled!(tracing::Level::DEBUG) && !self.comings.going.contains_key(&id) {
            let went = Went { why: Some(why.to_string().into()), ..self.who(id) };
            self.comings.going.insert(id, went);
        }
    }

    fn who(&self, id: ConnectionId) -> Went {
        let session = self.connection(id).and_then(|connection| self.session(connection.session));
        let Some(session) = session else {
            let client_id = self.strangers.describe(id.index).0.map(Into::into);
            return Went { client_id, ..Went::default() };
        };
        let identity = session.identity.as_ref();
        Went {
            client_id: Some((*session.client_id).into()),
            user: identity.and_then(|identity| identity.user_name.as_deref()).map(Into::into),
            why: None,
        }
    }
}
