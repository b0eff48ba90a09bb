//! What applications behind the gateway are told of clients: who connected, whose connection ended and
//! why, what was subscribed to. Nothing is noted of what nobody asked for.
//!
//! Noted in the order in which it happens, so what is told of one client is in order. More than
//! [`Limits::events_rate_max`](crate::proto::limits::Limits::events_rate_max) a second are counted and
//! not told: a storm of clients must not become one of events.

use super::{ConnectionStage, Context, ShardState};
use crate::proto::access::Identity;
use crate::proto::bucket::Bucket;
use crate::proto::mqtt::{QoS, ReasonCode};
use crate::proto::output::ConnectionId;
use crate::proto::session::{Connected, Session, Stage};
use crate::proto::time::Timestamp;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;

/// Of which kinds applications are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds {
    /// CONNECT was accepted.
    pub connect: bool,
    /// The connection of a client ended.
    pub disconnect: bool,
    /// Subscriptions were granted.
    pub subscribe: bool,
    /// Subscriptions were ended by UNSUBSCRIBE.
    pub unsubscribe: bool,
}

/// Something that happened to a client.
#[derive(Debug)]
pub struct Event {
    /// When, milliseconds of the wall clock since the Unix epoch.
    pub at_ms: u64,
    /// By which connection.
    pub connection: ConnectionId,
    /// Client Identifier.
    pub client_id: Rc<str>,
    /// Who the client is, where that is asked.
    pub identity: Option<Arc<Identity>>,
    /// What.
    pub what: What,
}

/// See [`Event`].
#[derive(Debug)]
pub enum What {
    /// CONNACK was sent.
    Connected {
        /// What was agreed.
        connected: Connected,
        /// Session Present of CONNACK.
        session_present: bool,
        /// There is a will.
        has_will: bool,
    },
    /// The connection ended after CONNACK.
    Disconnected {
        /// What was agreed; DISCONNECT may have changed the session's expiry.
        connected: Connected,
        /// By whom, and why.
        end: End,
        /// What becomes of the will.
        will: WillFate,
    },
    /// Filters, as the client wrote them, with the granted QoS.
    Subscribed(Vec<(Box<str>, QoS)>),
    /// Filters that were subscribed to.
    Unsubscribed(Vec<Box<str>>),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By the client's DISCONNECT; before 5.0 the reason is always Success.
    Client(ReasonCode),
    /// By us; clients of 5.0 got the code in DISCONNECT.
    Gateway(ReasonCode, Box<str>),
    /// The connection was lost, or closed without DISCONNECT.
    Network,
}

/// What becomes of the will of a client whose connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillFate {
    /// There is none, or it was discarded.
    None,
    /// It is published now.
    Published,
    /// It is published later, unless the client comes back.
    Delayed,
}

impl WillFate {
    fn of(session: &Session, is_ours: bool) -> Self {
        match &session.will {
            None => Self::None,
            Some(will) if session.is_persistent() && (will.delay_s > 0 || !is_ours) => {
                Self::Delayed
            }
            Some(_) => Self::Published,
        }
    }
}

/// What was noted since the last sweep.
#[derive(Debug, Default)]
pub(super) struct Events {
    noted: Vec<Event>,
    /// Made when the first is noted.
    bucket: Option<Bucket>,
    /// How the connection ends that is about to.
    ending: Option<(ConnectionId, End)>,
}

impl ShardState {
    /// Whether [`ShardState::take_events`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.noted.is_empty()
    }

    /// What happened to clients since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events.noted)
    }

    /// CONNACK was written.
    pub(super) fn note_connected(
        &mut self,
        index: u32,
        id: ConnectionId,
        session_present: bool,
        context: &Context<'_>,
    ) {
        if !self.limits.events.connect {
            return;
        }
        let Some(session) = self.session(index) else {
            return;
        };
        let (connected, has_will) = (session.connected, session.will.is_some());
        self.note(index, id, context, || What::Connected { connected, session_present, has_will });
    }

    /// The connection is about to be ended, by the client's DISCONNECT or by us.
    pub(super) fn note_ending(&mut self, id: ConnectionId, end: impl FnOnce() -> End) {
        if self.limits.events.disconnect {
            self.events.ending = Some((id, end()));
        }
    }

    /// The connection of a session ended; its will has not been looked after yet.
    pub(super) fn note_disconnected(
        &mut self,
        index: u32,
        id: ConnectionId,
        context: &Context<'_>,
    ) {
        if !self.limits.events.disconnect {
            return;
        }
        let ending = self.events.ending.take_if(|(of, _)| *of == id);
        let Some(session) = self.session(index).filter(|session| session.stage == Stage::Online)
        else {
            return;
        };
        let will = WillFate::of(session, context.upstream.may_publish_will(&session.client_id));
        let end = ending.map_or(End::Network, |(_, end)| end);
        self.note_end(index, id, end, will, context);
    }

    /// A session goes on without its connection, or ends before it; its will was looked after.
    pub(super) fn note_taken_over(
        &mut self,
        id: ConnectionId,
        will: WillFate,
        context: &Context<'_>,
    ) {
        let connection = self.connection(id);
        let connection = connection.filter(|one| one.stage == ConnectionStage::Connected);
        if let Some(connection) = connection.filter(|_| self.limits.events.disconnect) {
            let end = End::Gateway(ReasonCode::SessionTakenOver, "session taken over".into());
            self.note_end(connection.session, id, end, will, context);
        }
    }

    fn note_end(
        &mut self,
        index: u32,
        id: ConnectionId,
        end: End,
        will: WillFate,
        context: &Context<'_>,
    ) {
        let Some(connected) = self.session(index).map(|session| session.connected) else {
            return;
        };
        self.note(index, id, context, || What::Disconnected { connected, end, will });
    }

    /// These filters of a SUBSCRIBE were granted.
    pub(super) fn note_subscribed<'f>(
        &mut self,
        index: u32,
        id: ConnectionId,
        filters: impl Iterator<Item = (&'f str, QoS)>,
        context: &Context<'_>,
    ) {
        let mut filters = filters.peekable();
        if self.limits.events.subscribe && filters.peek().is_some() {
            self.note(index, id, context, || {
                What::Subscribed(filters.map(|(filter, qos)| (filter.into(), qos)).collect())
            });
        }
    }

    /// UNSUBSCRIBE ended these.
    pub(super) fn note_unsubscribed<'f>(
        &mut self,
        index: u32,
        id: ConnectionId,
        filters: impl Iterator<Item = &'f str>,
        context: &Context<'_>,
    ) {
        let mut filters = filters.peekable();
        if self.limits.events.unsubscribe && filters.peek().is_some() {
            self.note(index, id, context, || What::Unsubscribed(filters.map(Into::into).collect()));
        }
    }

    /// Notes what is within the rate, and counts the rest.
    fn note(
        &mut self,
        index: u32,
        id: ConnectionId,
        context: &Context<'_>,
        what: impl FnOnce() -> What,
    ) {
        let rate = self.limits.events_rate_max;
        let now = context.now;
        let bucket = self.events.bucket.get_or_insert_with(|| Bucket::full(rate, now));
        if !bucket.try_take(rate, now) {
            self.counters.events_over_rate += 1;
            return;
        }
        let Some(session) = self.session(index) else {
            return;
        };
        let (client_id, identity) = (Rc::clone(&session.client_id), session.identity.clone());
        let Timestamp(now_ms) = now;
        let at_ms = now_ms.saturating_add_signed(self.wall_ahead_ms);
        let event = Event { at_ms, connection: id, client_id, identity, what: what() };
        self.events.noted.push(event);
    }
}

impl End {
    /// By us, because of `why`.
    pub(super) fn by_us(code: ReasonCode, why: &dyn Display) -> Self {
        Self::Gateway(code, why.to_string().into())
    }
}
