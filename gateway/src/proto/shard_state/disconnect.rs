//! The end of a connection, of a session, and what its will and its timers then do.
//! Source: MQTT 5.0 §3.1.2.5, §3.14, §4.1.

use super::events::End;
use super::waiting::Waiting;
use super::{
    AppendToken, BACKGROUND, Context, Due, ProtocolError, Request, SessionUse, SessionUser,
    ShardState, StoredSession,
};
use crate::proto::mqtt::{Disconnect, Property, ReasonCode};
use crate::proto::output::ConnectionId;
use crate::proto::record::{Record, SessionPut};
use crate::proto::session::record::SessionRecord;
use crate::proto::session::{Connected, Stage, Ticket};
use crate::proto::time::Timestamp;

impl ShardState {
    pub(super) fn handle_disconnect(
        &mut self,
        id: ConnectionId,
        disconnect: &Disconnect<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        let expiry_max_s = self.limits.session_expiry_max_s;
        let Some(session) = self.session_mut(connection.session) else {
            return Ok(());
        };
        let asked_expiry_s = disconnect.properties.iter().find_map(|property| match property {
            Property::SessionExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        if let Some(seconds) = asked_expiry_s {
            // MQTT 5.0 [MQTT-3.14.2-2] binds the client; §3.14.2.2.2 names the answer.
            if session.connected.session_expiry_s == 0 && seconds > 0 {
                return Err(ProtocolError::SessionExpiryRaised);
            }
            session.connected.session_expiry_s = seconds.min(expiry_max_s);
        }
        // MQTT 5.0 [MQTT-3.14.4-3]; MQTT 3.1.1 [MQTT-3.14.4-3].
        if disconnect.reason_code == ReasonCode::Success {
            session.will = None;
        }
        self.note_going(id, format_args!("DISCONNECT: {:?}", disconnect.reason_code));
        self.note_ending(id, || End::Client(disconnect.reason_code));
        self.end_connection(id, context);
        Ok(())
    }

    /// The connection of a session, or of a CONNECT that waits for one, is gone.
    pub(super) fn connection_lost(
        &mut self,
        index: u32,
        id: ConnectionId,
        context: &mut Context<'_>,
    ) {
        let waits = self.pending_connects.get(&index).is_some_and(|one| one.connection == id);
        if waits {
            let pending = self.pending_connects.remove(&index);
            if pending.is_some_and(|pending| pending.is_counted()) {
                context.upstream.release_session();
            }
            match self.session(index).map(|session| session.stage) {
                Some(Stage::ExpectState) => drop(self.remove_session(index)),
                // It waited to hear whether the session is still this shard's.
                Some(Stage::Online) => self.leave(index, context),
                Some(Stage::ExpectSaved) | None => {}
            }
            return;
        }
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if session.connection != Some(id) {
            return;
        }
        session.connection = None;
        session.aliases = None;
        if let Some(inbound) = &mut session.inbound {
            inbound.disconnected();
        }
        self.note_disconnected(index, id, context);
        self.leave(index, context);
    }

    /// A session without connection: publishes its will now or lets it be published later, and ends
    /// or is saved.
    pub(super) fn leave(&mut self, index: u32, context: &mut Context<'_>) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let client_id = session.client_id.clone();
        let persistent = session.is_persistent();
        let expires_at = session.expires_at(context.now);
        let is_ours = context.upstream.may_publish_will(&client_id);
        let delayed = session.will.as_ref();
        let delayed = delayed.filter(|will| persistent && (will.delay_s > 0 || !is_ours));
        let will_at = delayed.map_or(Timestamp::NEVER, |will| {
            context.now.after_seconds(will.delay_s).min(expires_at)
        });
        let due = if will_at == Timestamp::NEVER { session.will.take() } else { None };
        if persistent {
            session.stage = Stage::ExpectSaved;
            let ticket = Ticket { session: index, epoch: session.epoch };
            self.part_groups(index, true, context);
            let token = self.record_session_until(index, expires_at, will_at, context);
            self.wait_for(token, Waiting::Saved { ticket });
            self.remove_subscriptions(index, context);
        }
        if let Some(will) = due {
            self.publish_will(&client_id, &will, context);
        }
        if !persistent {
            self.end_session(index, context);
        }
    }

    /// The session is over: nothing of it is kept, here or in the store.
    pub(super) fn end_session(&mut self, index: u32, context: &mut Context<'_>) {
        self.part_groups(index, false, context);
        self.remove_subscriptions(index, context);
        self.unfollow(index);
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if std::mem::take(&mut session.counted) {
            context.upstream.release_session();
        }
        if !session.stored && !session.asked {
            self.remove_session(index);
            return;
        }
        // Until this is committed, who asks the store would still find the old state.
        session.stage = Stage::ExpectSaved;
        session.outbound = None;
        session.inbound = None;
        let ticket = Ticket { session: index, epoch: session.epoch };
        if let Some(token) = self.record_end(index, context) {
            self.wait_for(token, Waiting::Saved { ticket });
        }
    }

    /// Appends that whatever is stored for the session's client id is over.
    pub(super) fn record_end(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Option<AppendToken> {
        let client_id = self.session(index)?.client_id.clone();
        Some(context.upstream.append(&Record::SessionDelete { client_id: &client_id }))
    }

    /// What was stored of a client's former session ends; its delayed will is due.
    pub(super) fn discard_stored(
        &mut self,
        client_id: &str,
        stored: &StoredSession,
        context: &mut Context<'_>,
    ) -> AppendToken {
        let token = context.upstream.append(&Record::SessionDelete { client_id });
        self.end_stored(client_id, stored, context);
        token
    }

    /// A stored session has ended: its delayed will is due, and its shared subscriptions are over.
    pub(super) fn end_stored(
        &mut self,
        client_id: &str,
        stored: &StoredSession,
        context: &mut Context<'_>,
    ) {
        let Some(record) = SessionRecord::decode(&stored.record) else {
            return;
        };
        self.forget_shared(&record, context);
        if let Some(will) = record.will {
            self.publish_will(client_id, &will, context);
        }
    }

    /// A timer of an offline session is due: looks at what is stored of it.
    pub fn handle_due(&mut self, client_id: &str, due: Due, context: &mut Context<'_>) {
        if self.find_client(client_id).is_some() && !self.is_being_saved(client_id) {
            return;
        }
        self.background_counter = self.background_counter.wrapping_add(1);
        let id = self.background_counter;
        self.background.insert(id, (client_id.into(), due));
        if self.is_paused {
            self.store_retry.background.push(id);
            self.schedule_store_retry(context.now);
            return;
        }
        self.ask_background(id, context);
    }

    pub(super) fn ask_background(&mut self, id: u32, context: &mut Context<'_>) {
        if let Some((client_id, _)) = self.background.get(&id) {
            let client_id = client_id.clone();
            let ticket = Ticket { session: BACKGROUND, epoch: id };
            let session_use = SessionUse::Looks;
            let user = SessionUser::default();
            let request = Request::Session { ticket, client_id, session_use, user };
            context.upstream.request(request);
        }
    }

    pub(super) fn handle_due_session(
        &mut self,
        id: u32,
        stored: Option<StoredSession>,
        context: &mut Context<'_>,
    ) {
        let Some((client_id, due)) = self.background.remove(&id) else {
            return;
        };
        if self.is_being_saved(&client_id) {
            // Its record is there, and the word of that is still in line.
            self.background.insert(id, (client_id, due));
            self.store_retry.background.push(id);
            self.schedule_store_retry(context.now);
            return;
        }
        let Some(stored) = stored.filter(|_| self.find_client(&client_id).is_none()) else {
            return;
        };
        let has_expired = stored.expires_at <= context.now;
        match due {
            Due::Expiry if has_expired => {
                let token = self.discard_stored(&client_id, &stored, context);
                context.upstream.release_session();
                let ticket = self.insert_ended(&client_id);
                self.wait_for(token, Waiting::Saved { ticket });
            }
            // The end of the session publishes the will too: with both due, only that one does.
            Due::Will if !has_expired && stored.will_at <= context.now => {
                self.publish_stored_will(&client_id, &stored, context);
            }
            Due::Expiry | Due::Will => {}
        }
    }

    /// Its session is about to leave memory, and no CONNECT waits for that.
    fn is_being_saved(&self, client_id: &str) -> bool {
        let index = self.find_client(client_id);
        let index = index.filter(|index| !self.pending_connects.contains_key(index));
        let session = index.and_then(|index| self.session(index));
        session.is_some_and(|session| session.stage == Stage::ExpectSaved)
    }

    /// A client's session that has ended, in memory until that is committed: who asks the store
    /// before would find it again, and it would end twice.
    fn insert_ended(&mut self, client_id: &str) -> Ticket {
        let index = self.insert_session(client_id, Connected::NOTHING);
        let session = self.session_mut(index).expect("just inserted");
        session.stage = Stage::ExpectSaved;
        Ticket { session: index, epoch: session.epoch }
    }

    /// A will was delayed long enough; the session goes on without it.
    fn publish_stored_will(
        &mut self,
        client_id: &str,
        stored: &StoredSession,
        context: &mut Context<'_>,
    ) {
        let Some(mut record) = SessionRecord::decode(&stored.record) else {
            self.counters.unreadable_sessions += 1;
            return;
        };
        let Some(will) = record.will.take() else {
            return;
        };
        for delta in &stored.steps {
            record.apply(*delta);
        }
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.publish_will(client_id, &will, context);
        let put = SessionPut {
            client_id,
            expires_at: stored.expires_at,
            will_at: Timestamp::NEVER,
            record: &bytes,
        };
        context.upstream.append(&Record::SessionPut(put));
    }
}
