//! Enhanced authentication: AUTH. Source: MQTT 5.0 §3.15, §4.12.
//!
//! ```text
//! CONNECT with SCRAM-SHA-256 ─▶ ExpectIdentity ─ Challenge ─▶ AUTH 0x18 ─▶ ExpectProof
//!                                                    AUTH 0x18 ─┬─ right ─▶ admit ─▶ CONNACK
//!                                                               └─ wrong ─▶ CONNACK 0x87, closed
//! Connected: AUTH 0x19 ─▶ Anew ─ Challenge ─▶ AUTH 0x18 ◀─▶ AUTH 0x18 ─┬─ right ─▶ AUTH 0x00
//!                                                                      └─ wrong ─▶ DISCONNECT 0x87
//! ```
//! A client that proves itself anew is served meanwhile as who it was, and must stay that user.

use super::connect::packet_bytes;
use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::access::{
    Authentication, AuthenticationRequest, Challenge, Proven, Refusal, SCRAM_SHA_256,
};
use crate::proto::mqtt::{Auth, Packet, PacketType, Properties, Property, ReasonCode};
use crate::proto::output::{Action, ConnectionId};
use crate::proto::time::Timestamp;

/// A client that proves anew who it is.
#[derive(Debug)]
pub(super) struct Anew {
    connection: ConnectionId,
    /// What it has to prove, once that is known.
    challenge: Option<Box<Challenge>>,
    /// Until when.
    until: Timestamp,
}

impl Anew {
    pub(super) fn challenge_mut(&mut self) -> Option<&mut Challenge> {
        self.challenge.as_deref_mut()
    }
}

impl ShardState {
    /// Another answer to an [`AuthenticationRequest`]: what the client has to prove.
    pub fn handle_challenged(
        &mut self,
        id: ConnectionId,
        challenge: Box<Challenge>,
        context: &mut Context<'_>,
    ) {
        let auth = auth_properties(challenge.server_first());
        if let Some(stranger) = self.stranger_mut(id) {
            if packet_bytes(AUTH_HEAD_BYTES, auth.len()) > stranger.pending.packet_bytes_max() {
                self.refuse(id, ProtocolError::ConnackTooLarge, context);
                return;
            }
            stranger.challenge = Some(challenge);
            stranger.pending.release();
            self.note_challenged(id);
            self.set_stage(id.index, ConnectionStage::ExpectProof);
            write_auth(id, ReasonCode::ContinueAuthentication, &auth, context);
            context.actions.push(Action::Resume(id));
        } else if let Some(anew) = self.anew_mut(id) {
            anew.challenge = Some(challenge);
            self.write_auth_online(id, ReasonCode::ContinueAuthentication, &auth, context);
        }
    }

    /// A packet of a client that has not proven yet who it is.
    pub(super) fn handle_before_proof(
        &mut self,
        id: ConnectionId,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        match packet {
            Packet::Auth(auth) => self.handle_proof(id, auth, context),
            Packet::Disconnect(_) => {
                self.end_connection(id, context);
                Ok(())
            }
            Packet::Connect(_) => Err(ProtocolError::SecondConnect),
            // MQTT 5.0 [MQTT-3.1.2-30].
            Packet::Publish(_)
            | Packet::Puback(_)
            | Packet::Pubrec(_)
            | Packet::Pubrel(_)
            | Packet::Pubcomp(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq => Err(ProtocolError::NotAllowedHere),
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                unreachable!("decoding as a server refuses packets that only a server sends")
            }
        }
    }

    fn handle_proof(
        &mut self,
        id: ConnectionId,
        auth: &Auth<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let (method, data) = method_and_data(auth);
        if auth.reason_code != ReasonCode::ContinueAuthentication || method != SCRAM_SHA_256 {
            return Err(ProtocolError::UnexpectedAuth);
        }
        let Some(stranger) = self.stranger_mut(id) else {
            unreachable!("who is to prove something waits");
        };
        let challenge = stranger.challenge.take().expect("a proof is expected for a challenge");
        let Proven { account, server_final } =
            finish(*challenge, data).map_err(ProtocolError::NotAuthenticated)?;
        let identity = account.map_err(ProtocolError::NotAuthenticated)?;
        stranger.pending.note_proven(server_final);
        self.let_in(id, identity, context);
        self.hold_until_online(id, context);
        Ok(())
    }

    /// AUTH of a client that is connected.
    pub(super) fn handle_auth(
        &mut self,
        session: u32,
        id: ConnectionId,
        auth: &Auth<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let proves = self.connection(id).is_some_and(|connection| connection.proves);
        let (method, data) = method_and_data(auth);
        // MQTT 5.0 [MQTT-4.12.1-1].
        if !proves || method != SCRAM_SHA_256 {
            return Err(ProtocolError::UnexpectedAuth);
        }
        if auth.reason_code == ReasonCode::Reauthenticate {
            return self.begin_anew(session, id, data, context);
        }
        let challenge = self.anew_mut(id).and_then(|anew| anew.challenge.take());
        let challenge = challenge.ok_or(ProtocolError::UnexpectedAuth)?;
        self.strangers.anew.remove(&id.index);
        let Proven { account, server_final } = match finish(*challenge, data) {
            Ok(proven) => proven,
            Err(refusal) => {
                self.refuse_anew(id, refusal, context);
                return Ok(());
            }
        };
        let identity = match account {
            Ok(identity) => identity,
            Err(refusal) => {
                self.refuse_anew(id, refusal, context);
                return Ok(());
            }
        };
        let Some(known) = self.session(session) else {
            return Ok(());
        };
        let persistent = known.is_persistent();
        if known.user_name() != identity.user_name.as_deref()
            || known.mountpoint() != identity.mountpoint.as_deref()
        {
            self.refuse_anew(id, Refusal::BadProof, context);
            return Ok(());
        }
        self.counters.reauthentications += 1;
        if self.identify(session, Some(identity), context) && persistent {
            self.record_session(session, context);
        }
        self.watch(session, id, context.now);
        let auth = auth_properties(&server_final);
        self.write_auth_online(id, ReasonCode::Success, &auth, context);
        Ok(())
    }

    fn begin_anew(
        &mut self,
        session: u32,
        id: ConnectionId,
        client_first: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        if self.anew_mut(id).is_some() {
            return Err(ProtocolError::UnexpectedAuth);
        }
        let Some(client_id) = self.session(session).map(|one| Box::from(one.own_client_id()))
        else {
            return Ok(());
        };
        let strangers = &mut self.strangers;
        let count = strangers.waiting.len() + strangers.anew.len();
        if count >= self.limits.authentications_waiting_max as usize {
            self.refuse_anew(id, Refusal::Busy, context);
            return Ok(());
        }
        let until = context.now.after_seconds(self.limits.connect_timeout_s);
        strangers.anew.insert(id.index, Anew { connection: id, challenge: None, until });
        strangers.questions.push(AuthenticationRequest {
            connection: id,
            origin: None,
            client_id,
            user_name: None,
            password: None,
            client_first: Some(client_first.into()),
        });
        self.watch(session, id, context.now);
        Ok(())
    }

    /// The answer to a question about nobody new.
    pub(super) fn handle_answer_anew(
        &mut self,
        id: ConnectionId,
        answer: Authentication,
        context: &mut Context<'_>,
    ) {
        if self.anew_mut(id).is_some()
            && let Err(refusal) = answer
        {
            self.refuse_anew(id, refusal, context);
        }
    }

    /// A client has not proven anew who it is. Source: MQTT 5.0 [MQTT-4.12.1-2].
    pub(super) fn refuse_anew(
        &mut self,
        id: ConnectionId,
        refusal: Refusal,
        context: &mut Context<'_>,
    ) {
        // DISCONNECT knows fewer reasons than CONNACK. Source: MQTT 5.0 table 3-10.
        let error = match refusal {
            Refusal::Busy | Refusal::Unavailable => ProtocolError::NotAuthenticated(Refusal::Busy),
            Refusal::BadCredentials
            | Refusal::NoCredentials
            | Refusal::Banned
            | Refusal::BadProof
            | Refusal::BadMethod => ProtocolError::NotAuthorized,
        };
        self.counters.reauthentications_denied += 1;
        self.note_turned_away(id, ProtocolError::NotAuthenticated(refusal), context);
        self.refuse(id, error, context);
    }

    /// Until when a client has to have proven itself anew; [`Timestamp::NEVER`] if it does not.
    pub(super) fn anew_until(&self, id: ConnectionId) -> Timestamp {
        let anew = self.strangers.anew.get(&id.index).filter(|anew| anew.connection == id);
        anew.map_or(Timestamp::NEVER, |anew| anew.until)
    }

    fn anew_mut(&mut self, id: ConnectionId) -> Option<&mut Anew> {
        let anew = self.strangers.anew.get_mut(&id.index)?;
        (anew.connection == id).then_some(anew)
    }

    fn note_challenged(&mut self, id: ConnectionId) {
        let limit = 2 * self.limits.authentications_waiting_max as usize;
        let strangers = &mut self.strangers;
        if strangers.challenged.len() >= limit {
            let waiting = &strangers.waiting;
            strangers.challenged.retain(|id| {
                waiting.get(&id.index).is_some_and(|stranger| stranger.connection == *id)
            });
        }
        strangers.challenged.push_back(id);
    }

    /// AUTH to a client that is connected; it is let go if it takes no packets as large.
    fn write_auth_online(
        &mut self,
        id: ConnectionId,
        reason_code: ReasonCode,
        properties: &[u8],
        context: &mut Context<'_>,
    ) {
        let session = self.connection(id).and_then(|connection| self.session(connection.session));
        let bytes_max = session.map_or(0, |session| session.connected.maximum_packet_size as usize);
        if packet_bytes(AUTH_HEAD_BYTES, properties.len()) > bytes_max {
            self.refuse(id, ProtocolError::ConnackTooLarge, context);
            return;
        }
        write_auth(id, reason_code, properties, context);
    }
}

/// Of an AUTH: Reason Code.
const AUTH_HEAD_BYTES: usize = 1;

fn finish(challenge: Challenge, message: &[u8]) -> Result<Proven, Refusal> {
    challenge.finish(message).map_err(|fault| {
        tracing::debug!(%fault, "second message of SCRAM");
        Refusal::BadProof
    })
}

fn method_and_data<'a>(auth: &Auth<'a>) -> (&'a str, &'a [u8]) {
    let (mut method, mut data) = ("", &[][..]);
    for property in auth.properties.iter() {
        match property {
            Property::AuthenticationMethod(text) => method = text,
            Property::AuthenticationData(bytes) => data = bytes,
            _ => {}
        }
    }
    (method, data)
}

/// Authentication Method and Data. MQTT 5.0 [MQTT-4.12.0-5].
fn auth_properties(message: &str) -> Vec<u8> {
    let mut properties = Vec::new();
    Property::AuthenticationMethod(SCRAM_SHA_256).encode(&mut properties);
    Property::AuthenticationData(message.as_bytes()).encode(&mut properties);
    properties
}

fn write_auth(
    id: ConnectionId,
    reason_code: ReasonCode,
    properties: &[u8],
    context: &mut Context<'_>,
) {
    let auth = Auth { reason_code, properties: Properties::from_validated(properties) };
    context.outbox.write(id.index, PacketType::Auth, |out| auth.encode(out));
}
