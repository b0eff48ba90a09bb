//! CONNECT before anyone knows who is asking. Source: MQTT 5.0 §3.1.4, §5.4; MQTT 3.1.1 §3.1.4, §5.4.
//!
//! ```text
//! CONNECT ─▶ ExpectIdentity: nothing is read, AuthenticationRequest ─┬─ Identity ─▶ admit
//!                                                                    └─ Refusal ──▶ CONNACK, closed
//! ```
//! Until the answer is there a stranger costs its CONNECT, and may not send more; it waits no longer
//! than `connect_timeout_s`.

use super::connect::PendingConnect;
use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::access::{Authentication, AuthenticationRequest, Identity, Refusal};
use crate::proto::handler::Origin;
use crate::proto::mqtt::Connect;
use crate::proto::output::{Action, ConnectionId};
use ahash::AHashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Connections whose client is not known yet.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Where they come from, by index.
    origins: AHashMap<u32, Origin>,
    /// Those that are asked about, by index.
    waiting: AHashMap<u32, Box<Stranger>>,
    /// Questions nobody has taken.
    questions: Vec<AuthenticationRequest>,
}

/// A CONNECT that can be read, of nobody known.
#[derive(Debug)]
struct Stranger {
    connection: ConnectionId,
    client_id: Box<str>,
    pending: PendingConnect,
}

impl Strangers {
    /// Where a connection comes from whose client is not known yet.
    pub(super) fn address(&self, index: u32) -> Option<IpAddr> {
        self.origins.get(&index).map(|origin| origin.peer.ip())
    }
}

impl ShardState {
    /// Where a connection comes from: before [`ShardState::handle_opened`].
    pub fn note_origin(&mut self, id: ConnectionId, origin: Origin) {
        self.opening = origin.transport;
        if self.limits.wants_origin() {
            self.strangers.origins.insert(id.index, origin);
        }
    }

    /// The questions that came up since the last call. Each is answered by
    /// [`ShardState::handle_authenticated`], in any order, or never: then its client is told after a
    /// while that nobody can say.
    pub fn take_authentication_requests(&mut self) -> Vec<AuthenticationRequest> {
        std::mem::take(&mut self.strangers.questions)
    }

    /// The connection has gone, or is known.
    pub(super) fn forget_stranger(&mut self, index: u32) {
        if self.limits.wants_origin() {
            self.strangers.origins.remove(&index);
            self.strangers.waiting.remove(&index);
        }
    }

    /// Asks who sent this CONNECT; it goes on with the answer.
    pub(super) fn ask_identity(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        client_id: &str,
        mut pending: PendingConnect,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        if self.strangers.waiting.len() >= self.limits.authentications_waiting_max as usize {
            return Err(ProtocolError::NotAuthenticated(Refusal::Busy));
        }
        self.strangers.questions.push(AuthenticationRequest {
            connection: id,
            origin: self.strangers.origins.remove(&id.index),
            client_id: client_id.into(),
            user_name: connect.user_name.map(Box::from),
            password: connect.password.map(Box::from),
        });
        pending.hold();
        let stranger = Stranger { connection: id, client_id: client_id.into(), pending };
        self.strangers.waiting.insert(id.index, Box::new(stranger));
        self.set_stage(id.index, ConnectionStage::ExpectIdentity);
        let deadline = context.now.after_seconds(self.limits.connect_timeout_s);
        self.keep_alives.set(id.index, deadline);
        context.actions.push(Action::Adopt(id));
        context.actions.push(Action::Hold(id));
        Ok(())
    }

    /// The answer to an [`AuthenticationRequest`].
    pub fn handle_authenticated(
        &mut self,
        id: ConnectionId,
        answer: Authentication,
        context: &mut Context<'_>,
    ) {
        let waiting = self.strangers.waiting.get(&id.index);
        if waiting.is_none_or(|stranger| stranger.connection != id) {
            return;
        }
        let Some(stranger) = self.strangers.waiting.remove(&id.index) else {
            return;
        };
        let Stranger { client_id, mut pending, .. } = *stranger;
        let identity = match answer {
            Ok(identity) => identity,
            Err(refusal) => {
                self.refuse(id, ProtocolError::NotAuthenticated(refusal), context);
                return;
            }
        };
        if !pending.may_have_will(&client_id, &identity) {
            self.note_denied("will", &client_id, identity.user_name.as_deref(), "", context);
            self.refuse(id, ProtocolError::NotAuthorized, context);
            return;
        }
        pending.identify(identity);
        self.set_stage(id.index, ConnectionStage::ExpectSession);
        self.admit(&client_id, pending, context);
    }

    /// Whether the client of a CONNECT may have a session that `owner` made.
    ///
    /// A session belongs to the user that made it. One that nobody known has made is anybody's.
    pub(super) fn may_have_session(&self, owner: Option<&str>, user_name: Option<&str>) -> bool {
        !self.limits.sessions_bound || owner.is_none() || owner == user_name
    }

    /// A CONNECT wants the session of another user. Says so, and counts it.
    pub(super) fn refuse_stolen(
        &mut self,
        id: ConnectionId,
        client_id: &str,
        identity: Option<&Arc<Identity>>,
        context: &mut Context<'_>,
    ) {
        let user_name = identity.and_then(|identity| identity.user_name.as_deref());
        self.counters.sessions_denied += 1;
        self.note_denied("session of another user", client_id, user_name, "", context);
        self.refuse(id, ProtocolError::NotAuthorized, context);
    }
}
