//! CONNECT: which session, whose turn, what was agreed. Source: MQTT 5.0 §3.1, §3.2, §4.1.
//!
//! ```text
//! CONNECT ─┬─ no session in memory ──▶ ExpectState ──(stored state)──▶ Online
//!          ├─ none can be stored ────▶ Online at once
//!          ├─ clean start ───────────▶ Online at once; what is stored is deleted when found
//!          ├─ session online ────────▶ takeover: DISCONNECT 0x8E to the old connection ─┬──▶ Online
//!          │                           where other gateways may have it: still here? ───┘
//!          └─ session being saved ───▶ waits until that is committed, then ExpectState
//! ```

use super::events::WillFate;
use super::{
    ConnectionStage, Context, NO_SESSION, ProtocolError, Request, SessionUse, SessionUser,
    ShardState, StoredSession,
};
use crate::proto::access::{Identity, Names, SCRAM_SHA_256, SERVER_FINAL_BYTES};
use crate::proto::mqtt::{
    Connack, Connect, Packet, PacketType, Properties, Property, ProtocolVersion, ReasonCode, Will,
};
use crate::proto::output::{Action, ConnectionId, ShardIndex};
use crate::proto::session::record::owner_of;
use crate::proto::session::{Answers, Connected, NEVER_EXPIRES, Stage, StoredWill, Ticket};
use crate::proto::tenant::client_id_of;
use crate::proto::time::Timestamp;
use std::sync::Arc;

/// A CONNECT that was accepted and has no CONNACK yet.
#[derive(Debug)]
pub(super) struct PendingConnect {
    pub(super) connection: ConnectionId,
    connected: Connected,
    will: Option<Box<StoredWill>>,
    /// The client sent none.
    client_id_assigned: bool,
    /// Where it differs from what the client asked for.
    server_keep_alive_s: Option<u16>,
    session_expiry_lowered: bool,
    held: bool,
    /// Who the client is, where that is asked.
    identity: Option<Arc<Identity>>,
    /// Has the count of the session it ends by its clean start.
    counted: bool,
    /// It named SCRAM-SHA-256 as its Authentication Method.
    proves: bool,
    /// What proves to it, in CONNACK, that we know it.
    server_final: Option<Box<str>>,
}

impl PendingConnect {
    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }

    /// The connection is not read until it is online.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// The connection is read again.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    pub(super) fn identify(&mut self, identity: Arc<Identity>) {
        self.identity = Some(identity);
    }

    /// The client has said which.
    pub(super) fn has_own_client_id(&self) -> bool {
        !self.client_id_assigned
    }

    pub(super) fn proves(&self) -> bool {
        self.proves
    }

    /// The client has proven what it had to.
    pub(super) fn note_proven(&mut self, server_final: Box<str>) {
        self.server_final = Some(server_final);
    }

    pub(super) fn has_proven_all(&self) -> bool {
        !self.proves || self.server_final.is_some()
    }

    /// Bytes of the largest packet that the client takes.
    pub(super) fn packet_bytes_max(&self) -> usize {
        self.connected.maximum_packet_size as usize
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// The topic of the will, if the client may not have it published.
    pub(super) fn denied_will(&self, client_id: &str, identity: &Identity) -> Option<&str> {
        let (will, acl) = (self.will.as_ref()?, identity.acl.as_ref()?);
        let user_name = identity.user_name.as_deref();
        let taken = acl.takes(client_id, user_name);
        let is_allowed = acl.may_publish(&will.topic, Names { client_id, user_name, taken });
        (!is_allowed).then_some(&*will.topic)
    }

    /// What is behind the mountpoint of the client's tenant, as it is stored. `None` if the will is to go
    /// to a topic that begins with `$`, which is not the tenant's.
    pub(super) fn mount_will(&mut self, mountpoint: &str) -> Option<&str> {
        let Some(will) = &mut self.will else {
            return Some("");
        };
        if will.topic.starts_with('$') {
            return None;
        }
        will.topic = format!("{mountpoint}/{}", will.topic).into();
        Some(&will.topic)
    }

    fn user_name(&self) -> Option<&str> {
        self.identity.as_ref()?.user_name.as_deref()
    }
}

/// The shard that owns the session of `client_id` on a node of `shard_count` shards. Of a tenant's it goes by
/// the client id alone, as a connection is handed over before it is known whose it is.
///
/// The hash is fixed over machines and versions.
#[must_use]
pub fn home_shard(client_id: &str, shard_count: u16) -> ShardIndex {
    let hash = xxhash_rust::xxh3::xxh3_64(client_id_of(client_id).as_bytes());
    let home = hash % u64::from(shard_count.max(1));
    ShardIndex(u16::try_from(home).expect("a remainder of a u16"))
}

impl ShardState {
    /// Hands the connection to the shard its CONNECT belongs to, when that is another.
    pub(super) fn is_handed_over(
        &mut self,
        id: ConnectionId,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> bool {
        let Packet::Connect(connect) = packet else {
            return false;
        };
        if connect.client_id.is_empty() {
            return false;
        }
        let shard = home_shard(connect.client_id, self.shard_count);
        if shard == self.shard {
            return false;
        }
        self.set_stage(id.index, ConnectionStage::Vacant);
        self.keep_alives.clear(id.index);
        self.forget_stranger(id.index);
        context.actions.push(Action::HandOver { connection: id, shard });
        true
    }

    pub(super) fn handle_connect(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ProtocolError> {
        if let Some(connection) = self.connection_mut(id) {
            connection.version = connect.version;
        }
        if let Some(refusal) = self.refusal() {
            self.set_stage(id.index, ConnectionStage::ExpectSession);
            return Err(refusal);
        }
        let mut pending = self.read_connect(id, connect, context.now)?;
        let assigned;
        let client_id = if connect.client_id.is_empty() {
            // MQTT 5.0 [MQTT-3.1.3-6]; MQTT 3.1.1 [MQTT-3.1.3-8]; 3.1 asks for 1 to 23 characters.
            if connect.version == ProtocolVersion::V3_1
                || (connect.version == ProtocolVersion::V3_1_1 && !connect.clean_start)
            {
                return Err(ProtocolError::ClientIdentifierNotValid);
            }
            pending.client_id_assigned = true;
            assigned = self.assign_client_id();
            &assigned
        } else if connect.client_id.len() > usize::from(self.limits.client_id_bytes_max) {
            // MQTT 5.0 [MQTT-3.1.3-8]; MQTT 3.1.1 [MQTT-3.1.3-9].
            return Err(ProtocolError::ClientIdentifierNotValid);
        } else {
            connect.client_id
        };
        if !self.connack_fits(&pending, client_id) {
            return Err(ProtocolError::ConnackTooLarge);
        }
        if self.limits.authenticate {
            return self.ask_identity(id, connect, client_id, pending, context);
        }
        self.forget_stranger(id.index);
        self.set_stage(id.index, ConnectionStage::ExpectSession);
        context.actions.push(Action::Adopt(id));
        self.admit(client_id, pending, context);
        self.hold_until_online(id, context);
        Ok(())
    }

    /// What is agreed with the client, from its CONNECT and our limits.
    fn read_connect(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        now: Timestamp,
    ) -> Result<PendingConnect, ProtocolError> {
        let will = match &connect.will {
            Some(will) => Some(Box::new(self.read_will(will, now)?)),
            None => None,
        };
        let limits = &self.limits;
        let is_v5 = connect.version == ProtocolVersion::V5;
        let mut asked_expiry_s = match (is_v5, connect.clean_start) {
            (true, _) | (false, true) => 0,
            (false, false) => NEVER_EXPIRES,
        };
        let mut connected = Connected {
            version: connect.version,
            clean_start: connect.clean_start,
            silence_max_ms: 0,
            session_expiry_s: 0,
            window: limits.inflight_max,
            maximum_packet_size: u32::MAX,
            topic_alias_maximum: 0,
            problem_information: true,
        };
        let mut proves = false;
        for property in connect.properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) => asked_expiry_s = seconds,
                Property::ReceiveMaximum(count) => connected.window = connected.window.min(count),
                Property::MaximumPacketSize(bytes) => connected.maximum_packet_size = bytes,
                Property::TopicAliasMaximum(count) => {
                    connected.topic_alias_maximum = count.min(limits.topic_alias_maximum_out);
                }
                Property::RequestProblemInformation(wanted) => {
                    connected.problem_information = wanted;
                }
                Property::AuthenticationMethod(method) => {
                    if method != SCRAM_SHA_256 || !limits.authenticate {
                        return Err(ProtocolError::BadAuthenticationMethod);
                    }
                    proves = true;
                }
                _ => {}
            }
        }
        connected.session_expiry_s = asked_expiry_s.min(limits.session_expiry_max_s);
        let keep_alive_s = match (is_v5, limits.keep_alive_max_s, connect.keep_alive_s) {
            (true, maximum, asked) if maximum > 0 && (asked == 0 || asked > maximum) => maximum,
            (_, _, asked) => asked,
        };
        connected.silence_max_ms = u32::from(keep_alive_s) * 1_500;
        Ok(PendingConnect {
            connection: id,
            connected,
            will,
            client_id_assigned: false,
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            session_expiry_lowered: is_v5 && connected.session_expiry_s != asked_expiry_s,
            held: false,
            identity: None,
            counted: false,
            proves,
            server_final: None,
        })
    }

    fn read_will(&mut self, will: &Will<'_>, now: Timestamp) -> Result<StoredWill, ProtocolError> {
        if !self.is_accepted_topic_name(will.topic) {
            return Err(ProtocolError::TopicNameInvalid);
        }
        let mut stored = StoredWill {
            id: self.will_names.next(now),
            qos: will.qos,
            retain: will.retain,
            delay_s: 0,
            expiry_interval_s: None,
            topic: will.topic.into(),
            properties: [].into(),
            payload: will.payload.into(),
        };
        let mut forwarded = Vec::new();
        for property in will.properties.iter() {
            match property {
                Property::WillDelayInterval(seconds) => stored.delay_s = seconds,
                Property::MessageExpiryInterval(seconds) => {
                    stored.expiry_interval_s = Some(seconds);
                }
                forward => forward.encode(&mut forwarded),
            }
        }
        stored.properties = forwarded.into();
        Ok(stored)
    }

    /// A client id nobody has, that belongs to this shard.
    fn assign_client_id(&mut self) -> String {
        loop {
            let (high, low) = (self.next_random(), self.next_random());
            let client_id = format!("auto-{high:016x}{low:016x}");
            let is_home = home_shard(&client_id, self.shard_count) == self.shard;
            if is_home && self.find_client(&client_id).is_none() {
                return client_id;
            }
        }
    }

    /// Gives the session of `client_id` to the connection, now or when it can be had.
    pub(super) fn admit(
        &mut self,
        client_id: &str,
        mut pending: PendingConnect,
        context: &mut Context<'_>,
    ) {
        let Some(index) = self.find_client(client_id) else {
            self.start_session(client_id, pending, context);
            return;
        };
        let Some(session) = self.session(index) else {
            unreachable!("the client table names sessions in the slab");
        };
        let is_owner = self.may_have_session(self.owner_in_memory(index), pending.user_name());
        match session.stage {
            Stage::Online if !is_owner => {
                let (id, identity) = (pending.connection, pending.identity.as_ref());
                self.refuse_stolen(id, client_id, identity, context);
            }
            Stage::Online => self.take_over(index, pending, context),
            // Whose session it is will be known when the answer to the other is there.
            Stage::ExpectState if !is_owner => {
                self.refuse(pending.connection, ProtocolError::StoreUnavailable, context);
            }
            Stage::ExpectState | Stage::ExpectSaved => {
                if let Some(earlier) = self.pending_connects.remove(&index) {
                    pending.counted |= earlier.counted;
                    self.drop_connection(earlier.connection, WillFate::None, context);
                }
                self.attach(index, &pending);
                let is_waiting_for_state =
                    self.session(index).is_some_and(|session| session.stage == Stage::ExpectState);
                let clean_start = pending.connected.clean_start;
                self.pending_connects.insert(index, Box::new(pending));
                let waits = self.asks_for_owner(index) || context.upstream.shares_sessions();
                if is_waiting_for_state && clean_start && !waits {
                    self.start_clean(index, context);
                }
            }
        }
    }

    /// Makes a session for a client that has none in memory, and asks for what is stored, if
    /// anything can be.
    pub(super) fn start_session(
        &mut self,
        client_id: &str,
        pending: PendingConnect,
        context: &mut Context<'_>,
    ) {
        let clean_start = pending.connected.clean_start;
        let expiry_s = pending.connected.session_expiry_s;
        let name = pending.user_name().map(Box::from);
        let user = SessionUser { name, is_bound: self.limits.sessions_bound };
        let index = self.insert_session(client_id, pending.connected);
        self.attach(index, &pending);
        self.pending_connects.insert(index, Box::new(pending));
        let may_be_stored = context.upstream.may_have_session(client_id);
        if !may_be_stored && self.count_session(index, false, context) {
            self.go_online(index, false, context);
            return;
        }
        // A node full of sessions asks too: the answer comes after those to the clean starts before
        // this one, whose former sessions count until then.
        if let Some(session) = self.session_mut(index) {
            session.asked = true;
        }
        if let Some(ticket) = self.ticket(index) {
            let session_use = match clean_start {
                true => SessionUse::StartsOver { expiry_s },
                false => SessionUse::GoesOn { expiry_s },
            };
            let client_id = client_id.into();
            let request = Request::Session { ticket, client_id, session_use, user };
            context.upstream.request(request);
        }
        let waits = self.asks_for_owner(index) || context.upstream.shares_sessions();
        if clean_start && may_be_stored && !waits {
            self.start_clean(index, context);
        }
    }

    /// Whose session it is while it is in memory: of a CONNECT that waits for what is stored, who
    /// sent it.
    fn owner_in_memory(&self, index: u32) -> Option<&str> {
        let session = self.session(index)?;
        if session.stage == Stage::ExpectState {
            return self.pending_connects.get(&index)?.user_name();
        }
        session.user_name()
    }

    /// A clean start would end what is stored, which may be another user's: it waits for the answer.
    fn asks_for_owner(&self, index: u32) -> bool {
        let pending = self.pending_connects.get(&index);
        self.limits.sessions_bound && pending.is_some_and(|pending| pending.identity.is_some())
    }

    /// A clean start does not wait for what is stored, unless the node is full of sessions: then it
    /// may go on only if it ends one.
    fn start_clean(&mut self, index: u32, context: &mut Context<'_>) {
        if self.count_session(index, false, context) {
            self.go_online(index, false, context);
        }
    }

    /// Counts the session of a CONNECT, or takes over the count of the one it continues or ends.
    /// Returns false, with nothing changed, when there is none and the node is full.
    fn count_session(&mut self, index: u32, was_stored: bool, context: &mut Context<'_>) -> bool {
        let pending = self.pending_connects.get_mut(&index);
        let was_counted = pending.is_some_and(|one| std::mem::take(&mut one.counted));
        if was_counted && was_stored {
            context.upstream.release_session();
        }
        let counted = was_counted || was_stored || context.upstream.reserve_session();
        if let Some(session) = self.session_mut(index) {
            session.counted = counted;
        }
        counted
    }

    /// The connection is the one this session talks to, or will talk to.
    fn attach(&mut self, index: u32, pending: &PendingConnect) {
        if let Some(connection) = self.connection_mut(pending.connection) {
            connection.session = index;
        }
        if let Some(session) = self.session_mut(index)
            && session.stage != Stage::ExpectSaved
        {
            session.connection = Some(pending.connection);
        }
    }

    /// The session is online elsewhere on this shard. Source: MQTT 5.0 [MQTT-3.1.4-3].
    fn take_over(&mut self, index: u32, mut pending: PendingConnect, context: &mut Context<'_>) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let ends = pending.connected.clean_start || !session.is_persistent();
        let client_id = session.client_id.clone();
        let former = session.connection.take();
        let will = session.will.take_if(|will| ends || will.delay_s == 0);
        pending.counted = ends && std::mem::take(&mut session.counted);
        session.will = None;
        if let Some(earlier) = self.pending_connects.remove(&index) {
            self.drop_connection(earlier.connection, WillFate::None, context);
        }
        if let Some(former) = former {
            self.write_disconnect(former, ReasonCode::SessionTakenOver, context);
            let fate = if will.is_some() { WillFate::Published } else { WillFate::None };
            self.drop_connection(former, fate, context);
        }
        if let Some(will) = will {
            self.publish_will(&client_id, &will, context);
        }
        if ends {
            self.end_session(index, context);
            self.admit(&client_id, pending, context);
            return;
        }
        if let Some(session) = self.session_mut(index) {
            session.aliases = None;
            if let Some(inbound) = &mut session.inbound {
                inbound.disconnected();
            }
        }
        if context.upstream.shares_sessions() {
            self.ask_whether_it_stays(index, pending, context);
            return;
        }
        self.attach(index, &pending);
        self.pending_connects.insert(index, Box::new(pending));
        self.go_online(index, true, context);
    }

    /// Another gateway may have had the client since this one heard of it last: the session stays as it
    /// is, without connection, until it is known that it is still this shard's.
    fn ask_whether_it_stays(
        &mut self,
        index: u32,
        pending: PendingConnect,
        context: &mut Context<'_>,
    ) {
        let name = pending.user_name().map(Box::from);
        let user = SessionUser { name, is_bound: self.limits.sessions_bound };
        if let Some(connection) = self.connection_mut(pending.connection) {
            connection.session = index;
        }
        self.pending_connects.insert(index, Box::new(pending));
        let Some(session) = self.session_mut(index) else {
            return;
        };
        session.asked = true;
        let ticket = Ticket { session: index, epoch: session.epoch };
        let (client_id, session_use) = ((&*session.client_id).into(), SessionUse::Stays);
        context.upstream.request(Request::Session { ticket, client_id, session_use, user });
    }

    /// A session in memory whose client waits for the word that it is still this shard's.
    fn is_staying(&self, index: u32) -> bool {
        let session = self.session(index);
        session.is_some_and(|session| session.stage == Stage::Online)
            && self.pending_connects.contains_key(&index)
    }

    /// Closes a connection that has lost its session, and `will`.
    pub(super) fn drop_connection(
        &mut self,
        id: ConnectionId,
        will: WillFate,
        context: &mut Context<'_>,
    ) {
        self.note_going(id, "its session is gone");
        self.note_taken_over(id, will, context);
        if let Some(connection) = self.connection_mut(id) {
            connection.session = NO_SESSION;
            self.end_connection(id, context);
        }
    }

    /// The answer to [`Request::Session`].
    pub fn handle_session(
        &mut self,
        ticket: Ticket,
        stored: Option<StoredSession>,
        context: &mut Context<'_>,
    ) {
        if ticket.session == super::BACKGROUND {
            self.handle_due_session(ticket.epoch, stored, context);
            return;
        }
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        session.asked = false;
        let (index, saved) = (ticket.session, session.saved);
        let client_id = session.client_id.clone();
        if self.is_staying(index) {
            self.go_online(index, true, context);
            return;
        }
        let Some(session) = self.session(index) else {
            return;
        };
        if session.stage != Stage::ExpectState {
            // Clean start: online already, or gone again; what is stored has ended.
            let is_discarded = session.stored || session.stage == Stage::ExpectSaved;
            match &stored {
                Some(stored) if is_discarded => self.end_stored(&client_id, stored, context),
                Some(stored) => {
                    self.discard_stored(&client_id, stored, context);
                    self.outlast_stored(index);
                }
                None => {}
            }
            if stored.is_some() {
                // The session that has ended; the one here has a count of its own.
                context.upstream.release_session();
            }
            if saved {
                self.handle_saved(ticket, context);
            }
            return;
        }
        let user_name = self.pending_connects.get(&index).and_then(|pending| pending.user_name());
        let owner = stored.as_ref().and_then(|stored| owner_of(&stored.record));
        if !self.may_have_session(owner.as_deref(), user_name) {
            if let Some(pending) = self.pending_connects.get(&index) {
                let (id, identity) = (pending.connection, pending.identity.clone());
                self.refuse_stolen(id, &client_id, identity.as_ref(), context);
            }
            return;
        }
        if !self.count_session(index, stored.is_some(), context) {
            self.counters.sessions_refused += 1;
            self.refuse_pending(index, ProtocolError::SessionQuotaExceeded, context);
            return;
        }
        let now = context.now;
        let pending = self.pending_connects.get(&index);
        let clean_start = pending.is_some_and(|pending| pending.connected.clean_start);
        let live = stored.as_ref().filter(|stored| stored.expires_at > now && !clean_start);
        let identity = pending.and_then(|pending| pending.identity.clone());
        if let Some(session) = self.session_mut(index) {
            session.set_identity(identity);
        }
        let restored = live.is_some_and(|stored| self.restore_session(index, stored, context));
        if let Some(stored) = live.filter(|stored| restored && stored.is_orphan) {
            self.publish_orphaned_will(&client_id, stored, context);
        }
        let discarded = stored.as_ref().filter(|_| !restored);
        if let Some(stored) = discarded {
            self.discard_stored(&client_id, stored, context);
        }
        self.go_online(index, restored, context);
        if discarded.is_some() {
            self.outlast_stored(index);
        }
    }

    /// The client's former session has ended just now. Until that is committed, who asks the store
    /// would find it, and it would end twice: this session stays in memory so long.
    fn outlast_stored(&mut self, index: u32) {
        if let Some(session) = self.session_mut(index) {
            session.stored = true;
        }
    }

    /// The store could not answer [`Request::Session`].
    pub fn handle_session_failed(&mut self, ticket: Ticket, context: &mut Context<'_>) {
        self.counters.store_failures += 1;
        if ticket.session == super::BACKGROUND {
            // Its timer is not told again: the question has to be.
            self.store_retry.background.push(ticket.epoch);
            self.schedule_store_retry(context.now);
            return;
        }
        let Some(session) = self.session_of(ticket) else {
            return;
        };
        session.asked = false;
        let (stage, stored, saved) = (session.stage, session.stored, session.saved);
        if stage == Stage::ExpectState || self.is_staying(ticket.session) {
            self.refuse_pending(ticket.session, ProtocolError::StoreUnavailable, context);
            return;
        }
        // A clean start that went on without the answer. Whatever was stored must not come back;
        // its will, if it had one, is not published, and if it was there it stays counted until
        // the next start.
        if !stored {
            self.record_end(ticket.session, context);
        }
        if saved {
            self.handle_saved(ticket, context);
        }
    }

    /// Refuses the CONNECT that waits for a session.
    fn refuse_pending(&mut self, index: u32, error: ProtocolError, context: &mut Context<'_>) {
        let connection = self.pending_connects.get(&index).map(|pending| pending.connection);
        if let Some(connection) = connection {
            self.refuse(connection, error, context);
        }
    }

    /// CONNACK: the connection may go on. Source: MQTT 5.0 §3.2.
    fn go_online(&mut self, index: u32, session_present: bool, context: &mut Context<'_>) {
        let Some(mut pending) = self.pending_connects.remove(&index) else {
            return;
        };
        let id = pending.connection;
        let was_stored = self.session(index).is_some_and(|session| session.stored);
        let Some(session) = self.session_mut(index) else {
            return;
        };
        (session.stage, session.connection) = (Stage::Online, Some(id));
        session.connected = pending.connected;
        session.will = pending.will.take();
        session.inbound_unacknowledged = 0;
        session.answers = Answers::default();
        self.identify(index, pending.identity.take(), context);
        let Some(session) = self.session(index) else {
            return;
        };
        let persistent = session.is_persistent();
        let now = context.now;
        if let Some(connection) = self.connection_mut(id) {
            // What it had to wait for was not its silence.
            connection.last_received = now;
            connection.proves = pending.proves;
            self.set_stage(id.index, ConnectionStage::Connected);
        }
        self.counters.connects += 1;
        if !self.traced.is_empty() {
            self.trace_again(index, context);
        }
        self.note_came(id, session_present);
        self.write_connack(index, &pending, session_present, context);
        self.note_connected(index, id, session_present, context);
        self.watch(index, id, context.now);
        if pending.held {
            context.actions.push(Action::Resume(id));
        }
        if persistent || was_stored {
            if pending.connected.clean_start && !session_present {
                // What an earlier session left, its QoS 2 ledger too, is not this one's.
                self.record_end(index, context);
            }
            self.record_session(index, context);
        }
        if session_present {
            self.rejoin_groups(index, context);
            self.resume_delivery(index, context);
        }
    }

    /// A CONNECT that has to wait keeps what the client sends behind it.
    pub(super) fn hold_until_online(&mut self, id: ConnectionId, context: &mut Context<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.stage == ConnectionStage::ExpectSession
            && let Some(pending) = self.pending_connects.get_mut(&connection.session)
        {
            pending.held = true;
            context.actions.push(Action::Hold(id));
        }
    }

    fn write_connack(
        &mut self,
        index: u32,
        pending: &PendingConnect,
        session_present: bool,
        context: &mut Context<'_>,
    ) {
        let Some(client_id) = self.session(index).map(|session| session.client_id.clone()) else {
            return;
        };
        let client_id = client_id_of(&client_id);
        let mut scratch = std::mem::take(&mut self.scratch);
        let version = pending.connected.version;
        self.put_connack_properties(pending, client_id, &mut scratch);
        // MQTT 3.1 has no Session Present flag: its byte is reserved.
        let connack = Connack {
            session_present: session_present && version != ProtocolVersion::V3_1,
            code: ReasonCode::Success as u8,
            properties: Properties::from_validated(&scratch),
        };
        let index = pending.connection.index;
        context.outbox.write(index, PacketType::Connack, |out| connack.encode(version, out));
        self.scratch = scratch;
    }

    /// Replaces `out` by what CONNACK announces; nothing before 5.0. Source: MQTT 5.0 §3.2.2.3.
    fn put_connack_properties(&self, pending: &PendingConnect, client_id: &str, out: &mut Vec<u8>) {
        out.clear();
        if pending.connected.version != ProtocolVersion::V5 {
            return;
        }
        let limits = &self.limits;
        if pending.session_expiry_lowered {
            Property::SessionExpiryInterval(pending.connected.session_expiry_s).encode(out);
        }
        Property::ReceiveMaximum(limits.receive_maximum).encode(out);
        Property::MaximumPacketSize(limits.maximum_packet_size_bytes).encode(out);
        Property::TopicAliasMaximum(limits.topic_alias_maximum_in).encode(out);
        if !limits.shared_subscriptions {
            Property::SharedSubscriptionAvailable(false).encode(out);
        }
        if let Some(seconds) = pending.server_keep_alive_s {
            Property::ServerKeepAlive(seconds).encode(out);
        }
        if pending.client_id_assigned {
            Property::AssignedClientIdentifier(client_id).encode(out);
        }
        if pending.proves {
            // MQTT 5.0 [MQTT-4.12.0-5]. Before the client has proven anything this is asked for the
            // length only.
            let unproven = [0; SERVER_FINAL_BYTES];
            let data = pending.server_final.as_ref().map_or(&unproven[..], |data| data.as_bytes());
            Property::AuthenticationMethod(SCRAM_SHA_256).encode(out);
            Property::AuthenticationData(data).encode(out);
        }
    }

    /// Whether CONNACK is no larger than the client takes. Source: MQTT 5.0 [MQTT-3.1.2-24].
    fn connack_fits(&mut self, pending: &PendingConnect, client_id: &str) -> bool {
        let bytes_max = pending.connected.maximum_packet_size as usize;
        if bytes_max >= CONNACK_BYTES_MAX {
            return true;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.put_connack_properties(pending, client_id, &mut scratch);
        let fits = packet_bytes(CONNACK_HEAD_BYTES, scratch.len()) <= bytes_max;
        self.scratch = scratch;
        fits
    }
}

/// Bytes of a packet with `head_bytes` between fixed header and Property Length, and with less than
/// 16 KB of properties.
pub(super) fn packet_bytes(head_bytes: usize, properties_bytes: usize) -> usize {
    let length_bytes = |value: usize| if value < 128 { 1 } else { 2 };
    let body_bytes = head_bytes + length_bytes(properties_bytes) + properties_bytes;
    1 + length_bytes(body_bytes) + body_bytes
}

/// Of a CONNACK: flags and Reason Code.
const CONNACK_HEAD_BYTES: usize = 2;

/// No CONNACK of ours is larger: 24 bytes of numbers, an assigned client id of 40, and 65 for SCRAM.
const CONNACK_BYTES_MAX: usize = 140;
