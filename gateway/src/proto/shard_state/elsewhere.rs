//! A session of this shard that another gateway has, or wants. Source: MQTT 5.0 [MQTT-3.1.4-3].

use super::events::WillFate;
use super::{Context, SessionUser, ShardState, StoredSession};
use crate::proto::mqtt::ReasonCode;
use crate::proto::session::record::SessionRecord;
use crate::proto::session::{Stage, StoredWill};

impl ShardState {
    /// The record of a session is another gateway's: nothing of it may be told to the client any
    /// more, or to anyone else. Its will is for the other to publish.
    pub fn handle_session_lost(&mut self, client_id: &str, context: &mut Context<'_>) {
        let Some(index) = self.find_client(client_id) else {
            return;
        };
        let Some(session) = self.session_mut(index) else {
            return;
        };
        if session.stage == Stage::ExpectState {
            return;
        }
        session.will = None;
        let former = session.connection.take();
        if let Some(former) = former {
            self.write_disconnect(former, ReasonCode::SessionTakenOver, context);
            self.drop_connection(former, WillFate::None, context);
        }
        self.part_groups(index, true, context);
        self.remove_subscriptions(index, context);
        self.unfollow(index);
        self.remove_session(index);
        if let Some(pending) = self.pending_connects.remove(&index) {
            self.start_session(client_id, *pending, context);
        }
    }

    /// Another gateway has a CONNECT of this client: the session is saved for it, or with `ends` ends,
    /// unless it is not `user`'s to have. Returns false when there is no such session here.
    pub fn handle_session_wanted(
        &mut self,
        client_id: &str,
        ends: bool,
        user: &SessionUser,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(index) = self.find_client(client_id) else {
            return false;
        };
        let Some(session) = self.session_mut(index) else {
            return false;
        };
        if session.stage != Stage::Online || !user.may_have(session.user_name()) {
            return true;
        }
        let ends = ends || !session.is_persistent();
        let client_id = session.client_id.clone();
        let former = session.connection.take();
        // It is published now, or by who can write the record below.
        let mut will = session.will.take().filter(|will| ends || will.delay_s == 0);
        if !ends && !context.upstream.may_publish_will(&client_id) {
            session.will = will.take();
        }
        session.aliases = None;
        if let Some(inbound) = &mut session.inbound {
            inbound.disconnected();
        }
        if let Some(former) = former {
            self.write_disconnect(former, ReasonCode::SessionTakenOver, context);
            let is_left = self.session(index).is_some_and(|session| session.will.is_some());
            let fate = match (&will, is_left) {
                (Some(_), _) => WillFate::Published,
                (None, true) => WillFate::Delayed,
                (None, false) => WillFate::None,
            };
            self.drop_connection(former, fate, context);
        }
        if let Some(will) = will {
            self.publish_will(&client_id, &will, context);
        }
        self.leave(index, context);
        true
    }

    /// A will that another gateway was about to publish when it died.
    pub fn handle_orphaned_will(
        &mut self,
        client_id: &str,
        will: &StoredWill,
        context: &mut Context<'_>,
    ) {
        self.publish_will(client_id, will, context);
    }

    /// The gateway of a session died with a will that nobody has published. One with a delay that is
    /// not over is not published, as the client is back. Source: MQTT 5.0 §3.1.3.2.2.
    pub(super) fn publish_orphaned_will(
        &mut self,
        client_id: &str,
        stored: &StoredSession,
        context: &mut Context<'_>,
    ) {
        let record = SessionRecord::decode(&stored.record);
        let will = record.and_then(|record| record.will);
        if let Some(will) = will.filter(|_| stored.will_at <= context.now) {
            self.publish_will(client_id, &will, context);
        }
    }
}
