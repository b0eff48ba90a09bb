//! CONNECT before anyone knows who is asking. Source: MQTT 5.0 §3.1.4, §5.4; MQTT 3.1.1 §3.1.4, §5.4.
//!
//! ```text
//! CONNECT ─▶ ExpectIdentity: nothing is read, AuthenticationRequest ─┬─ Identity ──▶ admit
//!                                                                    ├─ Challenge ─▶ prove.rs
//!                                                                    └─ Refusal ───▶ CONNACK, closed
//! ```
//! Until the answer is there a stranger costs its CONNECT, and may not send more; it waits no longer
//! than `connect_timeout_s`.

use super::connect::PendingConnect;
use super::prove::Anew;
use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::access::{Authentication, AuthenticationRequest, Challenge, Identity, Refusal};
use crate::proto::handler::Origin;
use crate::proto::mqtt::{Connect, Property};
use crate::proto::output::{Action, ConnectionId};
use crate::proto::tenant::session_name;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Connections whose client is not known yet.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Where they come from, by index.
    origins: AHashMap<u32, Origin>,
    /// Those that are asked about, or have to prove something, by index.
    pub(super) waiting: AHashMap<u32, Box<Stranger>>,
    /// Those of them that have to prove something, and some that had to; oldest first.
    pub(super) challenged: VecDeque<ConnectionId>,
    /// Clients that prove anew who they are while they are connected, by index.
    pub(super) anew: AHashMap<u32, Anew>,
    /// Questions nobody has taken.
    pub(super) questions: Vec<AuthenticationRequest>,
}

/// A CONNECT that can be read, of nobody known.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) connection: ConnectionId,
    pub(super) client_id: Box<str>,
    pub(super) pending: PendingConnect,
    /// What it has to prove.
    pub(super) challenge: Option<Box<Challenge>>,
    peer: Option<SocketAddr>,
}

impl Strangers {
    /// Where a connection comes from whose client is not known yet.
    pub(super) fn address(&self, index: u32) -> Option<IpAddr> {
        self.origins.get(&index).map(|origin| origin.peer.ip())
    }

    /// Nobody wants to know any more where connections come from.
    pub(super) fn forget_origins(&mut self) {
        self.origins = AHashMap::new();
    }

    /// Who it is, for the log: its client id as far as it has said one, and where it comes from.
    pub(super) fn describe(&self, index: u32) -> (Option<&str>, Option<SocketAddr>) {
        let stranger = self.waiting.get(&index);
        let peer = self.origins.get(&index).map(|origin| origin.peer);
        let peer = peer.or_else(|| stranger.and_then(|stranger| stranger.peer));
        (stranger.map(|stranger| &*stranger.client_id), peer)
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
            self.strangers.anew.remove(&index);
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
        if !self.has_room_for_stranger(context) {
            return Err(ProtocolError::NotAuthenticated(Refusal::Busy));
        }
        let data = connect.properties.iter().find_map(|property| match property {
            Property::AuthenticationData(data) => Some(data),
            _ => None,
        });
        // Without data it is an empty message, which is none of the method's.
        let client_first = pending.proves().then(|| data.unwrap_or_default().into());
        let origin = self.strangers.origins.remove(&id.index);
        let peer = origin.as_ref().map(|origin| origin.peer);
        self.strangers.questions.push(AuthenticationRequest {
            connection: id,
            origin,
            client_id: client_id.into(),
            user_name: connect.user_name.map(Box::from),
            password: connect.password.map(Box::from),
            client_first,
        });
        pending.hold();
        let (connection, client_id) = (id, client_id.into());
        let stranger = Stranger { connection, client_id, pending, challenge: None, peer };
        self.strangers.waiting.insert(id.index, Box::new(stranger));
        self.set_stage(id.index, ConnectionStage::ExpectIdentity);
        let deadline = context.now.after_seconds(self.limits.connect_timeout_s);
        self.keep_alives.set(id.index, deadline);
        context.actions.push(Action::Keep { connection: id, bytes: kept_bytes(connect) });
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
        if self.stranger_mut(id).is_none() {
            self.handle_answer_anew(id, answer, context);
            return;
        }
        match answer {
            Ok(identity) => self.let_in(id, identity, context),
            Err(refusal) => self.refuse(id, ProtocolError::NotAuthenticated(refusal), context),
        }
    }

    /// The client of a CONNECT is known: it goes on.
    pub(super) fn let_in(
        &mut self,
        id: ConnectionId,
        identity: Arc<Identity>,
        context: &mut Context<'_>,
    ) {
        let Some(stranger) = self.stranger_mut(id) else {
            return;
        };
        let (client_id, is_own) =
            (stranger.client_id.clone(), stranger.pending.has_own_client_id());
        if is_own && self.is_flapping(&client_id, &identity, context.now) {
            self.refuse(id, ProtocolError::Banned, context);
            return;
        }
        let Some(stranger) = self.strangers.waiting.remove(&id.index) else {
            return;
        };
        let Stranger { mut pending, .. } = *stranger;
        assert!(pending.has_proven_all(), "who has to prove something gets a challenge first");
        let user_name = identity.user_name.as_deref();
        if self.limits.client_id_is_user_name && user_name.is_some_and(|name| name != &*client_id) {
            self.counters.client_ids_denied += 1;
            self.note_denied("client id", &client_id, user_name, "", context);
            self.refuse(id, ProtocolError::ClientIdentifierNotValid, context);
            return;
        }
        if let Some(topic) = pending.denied_will(&client_id, &identity) {
            self.counters.will_denied += 1;
            self.note_denied("will", &client_id, identity.user_name.as_deref(), topic, context);
            self.refuse(id, ProtocolError::NotAuthorized, context);
            return;
        }
        let name = session_name(identity.mountpoint.as_deref(), &client_id);
        if let Some(mountpoint) = &identity.mountpoint {
            let error = if name.len() > usize::from(self.limits.client_id_bytes_max) {
                Some(ProtocolError::ClientIdentifierNotValid)
            } else {
                let topic = pending.mount_will(mountpoint);
                let is_accepted = topic
                    .is_some_and(|topic| topic.is_empty() || self.is_accepted_topic_name(topic));
                (!is_accepted).then_some(ProtocolError::TopicNameInvalid)
            };
            if let Some(error) = error {
                self.refuse(id, error, context);
                return;
            }
        }
        pending.identify(identity);
        self.set_stage(id.index, ConnectionStage::ExpectSession);
        context.actions.push(Action::Adopt(id));
        self.admit(&name, pending, context);
    }

    pub(super) fn stranger_mut(&mut self, id: ConnectionId) -> Option<&mut Stranger> {
        let stranger = self.strangers.waiting.get_mut(&id.index)?;
        (stranger.connection == id).then_some(stranger)
    }

    /// Whether one more may be asked about. Who was asked to prove something and has not yet makes
    /// room for others, the first first: a client that means it is gone again within a round trip.
    fn has_room_for_stranger(&mut self, context: &mut Context<'_>) -> bool {
        let waiting_max = self.limits.authentications_waiting_max as usize;
        while self.strangers.waiting.len() >= waiting_max {
            let Some(oldest) = self.strangers.challenged.pop_front() else {
                return false;
            };
            if self.stranger_mut(oldest).is_some_and(|stranger| stranger.challenge.is_some()) {
                self.refuse(oldest, ProtocolError::NotAuthenticated(Refusal::Busy), context);
            }
        }
        true
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

/// What waits of a CONNECT for the word of who has sent it, bytes, itself and what asks.
fn kept_bytes(connect: &Connect<'_>) -> u64 {
    let will = connect.will.as_ref();
    let will =
        will.map_or(0, |will| will.topic.len() + will.properties.raw().len() + will.payload.len());
    let credentials =
        connect.user_name.map_or(0, str::len) + connect.password.map_or(0, <[u8]>::len);
    // Authentication Data is in the properties.
    let said = 2 * connect.client_id.len() + credentials + connect.properties.raw().len() + will;
    (said + size_of::<Stranger>() + size_of::<AuthenticationRequest>()) as u64
}
