//! Shared subscriptions, as the sessions of this shard see them. Source: MQTT 5.0 §4.8.2.
//!
//! ```text
//! SUBSCRIBE $share ─▶ GroupRequest::Join ─▶ (group) ─▶ handle_joined ─▶ session recorded ─▶ SUBACK
//! (group) ─▶ handle_shared ─▶ queue or PUBLISH ─▶ PUBACK; QoS 2: before PUBLISH, recorded ─▶ Settled
//! connection or session ends ─▶ Part: what was not settled goes to another member
//! ```
//! A QoS 1 message stays the group's until PUBACK. One of QoS 2 is the session's as soon as it may
//! have been sent: it is completed with this client or with nobody. Source: MQTT 5.0 [MQTT-4.8.2-4],
//! [MQTT-4.8.2-5].

use super::deliver::{Terms, Wanted};
use super::{Context, GroupRequest, Joined, ShardState, SharedMessage};
use crate::proto::mqtt::{PacketId, QoS, SHARE_PREFIX, SubscriptionOptions};
use crate::proto::output::ConnectionId;
use crate::proto::record::{Message, Record};
use crate::proto::routing::{PackedOptions, filter_matches};
use crate::proto::session::record::{SessionRecord, SubscriptionRecord};
use crate::proto::session::{
    GroupId, InFlight, InFlightStep, Origin, Outbound, Place, Queued, QueuedFor, Session,
    SharedSubscription, Stage, Ticket,
};
use ahash::AHashMap;

/// SUBSCRIBEs with shared subscriptions whose groups have not answered yet.
#[derive(Debug, Default)]
pub(super) struct SharedSubscribes {
    last_id: u64,
    open: AHashMap<u64, SharedSubscribe>,
}

impl SharedSubscribes {
    /// All are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct SharedSubscribe {
    pub(super) ticket: Ticket,
    pub(super) connection: ConnectionId,
    pub(super) packet_id: PacketId,
    /// The Reason Codes so far.
    pub(super) codes: Vec<u8>,
    /// The retained messages to ask for.
    pub(super) retained: Vec<u64>,
    /// Groups that have not answered, with the place of their Reason Code.
    pub(super) waits_for: Vec<(Box<str>, usize)>,
}

impl SharedSubscribes {
    /// Keeps a SUBSCRIBE until its groups have answered; they say its number.
    pub(super) fn insert(&mut self, subscribe: SharedSubscribe) -> u64 {
        let id = self.next_id();
        self.open.insert(id, subscribe);
        id
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl ShardState {
    /// Adds or replaces a shared subscription, and asks its group; 0 for `subscribe` where nobody
    /// waits for the answer.
    pub(super) fn subscribe_shared(
        &mut self,
        index: u32,
        name: &str,
        options: SubscriptionOptions,
        identifier: u32,
        subscribe: u64,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let options = PackedOptions::from(options);
        if let Some(known) = session.shared.iter_mut().find(|one| *one.name == *name) {
            (known.options, known.identifier) = (options, identifier);
        } else {
            self.add_shared(index, name, options, identifier, false);
        }
        self.join_group(index, name, subscribe, context);
    }

    /// A shared subscription the session did not have, or with `is_stored` one it was stored with.
    fn add_shared(
        &mut self,
        index: u32,
        name: &str,
        options: PackedOptions,
        identifier: u32,
        is_stored: bool,
    ) {
        let number = self.shared_subscribes.next_id();
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let mut shared = std::mem::take(&mut session.shared).into_vec();
        shared.push(SharedSubscription {
            name: name.into(),
            options,
            identifier,
            number,
            group: None,
            granted: is_stored,
            returning: is_stored,
        });
        session.shared = shared.into_boxed_slice();
    }

    pub(super) fn has_shared(&self, index: u32, name: &str) -> bool {
        self.session(index)
            .is_some_and(|session| session.shared.iter().any(|one| *one.name == *name))
    }

    fn join_group(&mut self, index: u32, name: &str, subscribe: u64, context: &mut Context<'_>) {
        let Some(ticket) = self.ticket(index) else {
            return;
        };
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let persistent = session.is_persistent();
        // What its groups give it together must not be many times its window.
        let count = u16::try_from(session.shared.len()).unwrap_or(u16::MAX);
        let window = (session.connected.window / count.max(1)).max(1);
        let Some(shared) = session.shared.iter_mut().find(|one| *one.name == *name) else {
            return;
        };
        let returning = std::mem::take(&mut shared.returning);
        let (name, qos, number) = (shared.name.clone(), shared.options.qos(), shared.number);
        context.upstream.tell_group(GroupRequest::Join {
            name,
            ticket,
            subscribe,
            number,
            qos,
            window,
            persistent,
            returning,
        });
    }

    /// A session goes online with what it had: its groups hear of it.
    pub(super) fn rejoin_groups(&mut self, index: u32, context: &mut Context<'_>) {
        let Some(session) = self.session(index) else {
            return;
        };
        let names: Vec<Box<str>> = session.shared.iter().map(|one| one.name.clone()).collect();
        for name in names {
            self.join_group(index, &name, 0, context);
        }
    }

    /// The answer to [`GroupRequest::Join`]: the group, or why the session is no member.
    pub fn handle_joined(&mut self, ticket: Ticket, joined: Joined, context: &mut Context<'_>) {
        let Joined { subscribe, number, name, group, recorded } = joined;
        // An answer about one that was ended meanwhile says nothing of the next of the same name.
        if let Some(session) = self.session_of(ticket) {
            match group {
                Ok(group) => {
                    let mut shared = session.shared.iter_mut();
                    if let Some(shared) = shared.find(|one| one.number == number) {
                        shared.group = Some(group);
                        shared.granted |= recorded;
                    }
                }
                Err(_) => drop(take_shared(session, |one| one.number == number)),
            }
        }
        if !recorded {
            return;
        }
        let Some(mut waiting) = self.shared_subscribes.open.remove(&subscribe) else {
            return;
        };
        let Some(place) = waiting.waits_for.iter().position(|(of, _)| *of == name) else {
            return;
        };
        let (_, code_place) = waiting.waits_for.swap_remove(place);
        if let Err(reason) = group
            && let Some(code) = waiting.codes.get_mut(code_place)
        {
            *code = reason as u8;
        }
        if group.is_ok() {
            self.note_joined(&waiting, &name, number, context);
        }
        if !waiting.waits_for.is_empty() {
            self.shared_subscribes.open.insert(subscribe, waiting);
            return;
        }
        let SharedSubscribe { ticket, connection, packet_id, codes, retained, .. } = waiting;
        if self.session_of(ticket).is_some_and(|session| session.stage == Stage::Online) {
            self.subscribed(ticket.session, connection, packet_id, &codes, retained, context);
        } else {
            self.retained_requests.forget(&retained);
        }
    }

    /// What backends are told of a shared subscription that a client has just made.
    fn note_joined(
        &mut self,
        waiting: &SharedSubscribe,
        name: &str,
        number: u64,
        context: &Context<'_>,
    ) {
        let session = self.session_of(waiting.ticket).filter(|one| one.stage == Stage::Online);
        let shared = session.and_then(|one| one.shared.iter().find(|one| one.number == number));
        if let Some(qos) = shared.map(|shared| shared.options.qos())
            && self.limits.events.subscribe
        {
            let filter = format!("{SHARE_PREFIX}{name}");
            let granted = std::iter::once((&*filter, qos));
            self.note_subscribed(waiting.ticket.session, waiting.connection, granted, context);
        }
    }

    /// A group gives a message to a session. If that is not there any more, the group hears so by
    /// itself: [`GroupRequest::Part`] is on its way.
    pub fn handle_shared(
        &mut self,
        ticket: Ticket,
        message: SharedMessage,
        context: &mut Context<'_>,
    ) {
        let SharedMessage { group, place, record, body } = message;
        let index = ticket.session;
        let Some(session) = self.session_of(ticket).filter(|one| one.stage == Stage::Online) else {
            return;
        };
        if !session.shared.iter().any(|one| one.group == Some(group)) {
            return;
        }
        let outbound = session.outbound.as_ref();
        let Some((partition, sequence)) = place else {
            self.send_shared_unacknowledged(index, group, &body, context);
            return;
        };
        let is_waiting = outbound.is_some_and(|outbound| outbound.is_waiting(partition));
        let queued_for = QueuedFor::Group { group, record };
        if is_waiting || !self.has_room(index, context) {
            self.track_outbound(index);
            if let Some(session) = self.session_mut(index) {
                let body = Some(body.as_ref().into());
                let queued = Queued { partition, queued_for, sequence, body };
                session.outbound_mut().queue.push_back(queued);
            }
            return;
        }
        self.send_shared(index, (partition, sequence), group, record, &body, context);
    }

    /// Sends a QoS 1 or 2 message of a group, for which there is room.
    pub(super) fn send_shared(
        &mut self,
        index: u32,
        place: Place,
        group: GroupId,
        record: bool,
        body: &[u8],
        context: &mut Context<'_>,
    ) {
        let Some((options, identifier, message)) = self.shared_message(index, group, body) else {
            return;
        };
        if options.qos() == QoS::AtMostOnce {
            // Subscribed anew with QoS 0 since the message was given to it.
            self.send_shared_unacknowledged(index, group, body, context);
            self.settle_unsent(index, Origin::Group(group), place, context);
            return;
        }
        let terms = Terms {
            qos: options.qos().min(message.qos),
            retain: options.retain_as_published() && message.retain,
            identifiers: identifier.as_slice(),
            origin: Origin::Group(group),
            record,
        };
        self.send_acknowledged(index, place, &message, terms, false, context);
    }

    fn send_shared_unacknowledged(
        &mut self,
        index: u32,
        group: GroupId,
        body: &[u8],
        context: &mut Context<'_>,
    ) {
        let Some((options, identifier, message)) = self.shared_message(index, group, body) else {
            return;
        };
        let wanted = Wanted {
            qos: QoS::AtMostOnce,
            retain_as_published: options.retain_as_published(),
            identifiers: identifier.as_slice(),
        };
        self.send_unacknowledged(index, &message, wanted, false, context);
    }

    /// A message of a group, and what the session's subscription there says: its options, and its
    /// identifier if it has one.
    fn shared_message<'b>(
        &self,
        index: u32,
        group: GroupId,
        body: &'b [u8],
    ) -> Option<(PackedOptions, Option<u32>, Message<'b>)> {
        let shared = self.session(index)?.shared.iter().find(|one| one.group == Some(group))?;
        let Some(Record::Message(message)) = Record::decode(body) else {
            return None;
        };
        let identifier = Some(shared.identifier).filter(|identifier| *identifier != 0);
        Some((shared.options, identifier, message))
    }

    /// A message that must not be sent was not: it is done.
    pub(super) fn settle_unsent(
        &mut self,
        index: u32,
        origin: Origin,
        place: Place,
        context: &mut Context<'_>,
    ) {
        self.settle(index, origin, Some(place), true, context);
    }

    /// A QoS 2 message that nobody has to record is on its way: it is no longer the group's.
    pub(super) fn settle_sent(&mut self, index: u32, sent: &InFlight, context: &mut Context<'_>) {
        let place = (sent.partition, sent.sequence);
        self.settle(index, sent.origin, Some(place), false, context);
    }

    /// An exchange is over.
    pub(super) fn settle_finished(
        &mut self,
        index: u32,
        sent: &InFlight,
        context: &mut Context<'_>,
    ) {
        let place = Some((sent.partition, sent.sequence));
        let place = place.filter(|_| sent.qos() == QoS::AtLeastOnce);
        self.settle(index, sent.origin, place, true, context);
    }

    fn settle(
        &mut self,
        index: u32,
        origin: Origin,
        place: Option<Place>,
        finished: bool,
        context: &mut Context<'_>,
    ) {
        if let (Origin::Group(group), Some(ticket)) = (origin, self.ticket(index)) {
            let settled = GroupRequest::Settled { group, ticket, place, finished };
            context.upstream.tell_group(settled);
        }
    }

    /// The connection or the session ends: its groups take back what was not settled. With `stays`
    /// the subscriptions remain, and come back with the session.
    pub(super) fn part_groups(&mut self, index: u32, stays: bool, context: &mut Context<'_>) {
        let Some(ticket) = self.ticket(index) else {
            return;
        };
        let Some(session) = self.session_mut(index) else {
            return;
        };
        let mut returned: Vec<(GroupId, Vec<Place>)> = Vec::new();
        if let Some(outbound) = &mut session.outbound {
            outbound.queue.retain(|one| !matches!(one.queued_for, QueuedFor::Group { .. }));
            returned = take_unacknowledged(outbound);
        }
        for shared in &session.shared {
            let name = shared.name.clone();
            let kept = uncommitted(session.outbound.as_deref(), shared.group);
            // What was not granted is not recorded.
            let stays = stays && shared.granted;
            context.upstream.tell_group(GroupRequest::Part { name, ticket, stays, kept });
        }
        if !stays {
            session.shared = Box::default();
        }
        // Of groups the session has left before; the others know from `Part`.
        for (group, places) in returned {
            context.upstream.tell_group(GroupRequest::Return { group, places });
        }
    }

    /// Ends a shared subscription. What was sent is finished with this client: MQTT 5.0
    /// [MQTT-3.10.4-3]. Returns what the group must not give to another, `None` when there was no
    /// such subscription.
    pub(super) fn unsubscribe_shared(
        &mut self,
        index: u32,
        name: &str,
        context: &mut Context<'_>,
    ) -> Option<Vec<(GroupId, Place)>> {
        let ticket = self.ticket(index)?;
        let session = self.session_mut(index)?;
        let removed = take_shared(session, |one| *one.name == *name)?;
        let (mut kept, mut own) = (Vec::new(), Vec::new());
        let persistent = session.is_persistent();
        if let (Some(outbound), Some(group)) = (&mut session.outbound, removed.group) {
            outbound.queue.retain(
                |one| !matches!(one.queued_for, QueuedFor::Group { group: of, .. } if of == group),
            );
            for sent in outbound.in_flight.iter_mut() {
                if sent.origin == Origin::Group(group) {
                    let place = (sent.partition, sent.sequence);
                    kept.push(place);
                    if persistent && sent.step == InFlightStep::ExpectPuback {
                        sent.origin = Origin::Shared;
                        own.push((group, place));
                    }
                }
            }
        }
        let part = GroupRequest::Part { name: removed.name, ticket, stays: false, kept };
        context.upstream.tell_group(part);
        Some(own)
    }

    /// The messages are the session's own to finish, and that is recorded.
    pub(super) fn settle_own(&mut self, settled: Vec<(GroupId, Place)>, context: &mut Context<'_>) {
        let nobody = Ticket { session: u32::MAX, epoch: 0 };
        for (group, place) in settled {
            let (ticket, place, finished) = (nobody, Some(place), false);
            let settled = GroupRequest::Settled { group, ticket, place, finished };
            context.upstream.tell_group(settled);
        }
    }

    /// Takes over a stored shared subscription; its group hears of it when the session is online.
    pub(super) fn restore_shared(
        &mut self,
        index: u32,
        name: &str,
        options: SubscriptionOptions,
        identifier: u32,
    ) {
        self.add_shared(index, name, PackedOptions::from(options), identifier, true);
    }

    /// A session that was offline is over, and so are its shared subscriptions.
    pub(super) fn forget_shared(&mut self, record: &SessionRecord, context: &mut Context<'_>) {
        let filters = record.subscriptions.iter().map(|one| &*one.filter);
        for name in filters.filter_map(|filter| filter.strip_prefix(SHARE_PREFIX)) {
            context.upstream.tell_group(GroupRequest::Forget { name: name.into() });
        }
    }

    /// The identifier of the shared subscription that brought a message; after a restart of one that
    /// matches it.
    pub(super) fn shared_identifiers(
        &self,
        index: u32,
        origin: Origin,
        message: &Message<'_>,
    ) -> Vec<u32> {
        let Some(session) = self.session(index) else {
            return Vec::new();
        };
        let mut shared = session.shared.iter();
        let brought_it = match origin {
            Origin::Group(group) => shared.find(|one| one.group == Some(group)),
            Origin::Own | Origin::Shared => {
                shared.find(|one| filter_matches(one.filter(), message.topic))
            }
        };
        brought_it.map_or_else(Vec::new, |one| identifiers(one.identifier))
    }
}

/// Takes out a shared subscription.
fn take_shared(
    session: &mut Session,
    is_it: impl Fn(&SharedSubscription) -> bool,
) -> Option<SharedSubscription> {
    let place = session.shared.iter().position(is_it)?;
    let mut shared = std::mem::take(&mut session.shared).into_vec();
    let taken = shared.remove(place);
    session.shared = shared.into_boxed_slice();
    Some(taken)
}

/// The session's shared subscriptions as they are stored: not before the group is.
pub(super) fn shared_records(session: &Session) -> impl Iterator<Item = SubscriptionRecord> + '_ {
    session.shared.iter().filter(|shared| shared.granted).map(|shared| SubscriptionRecord {
        filter: [SHARE_PREFIX, &shared.name].concat().into(),
        options: SubscriptionOptions::from(shared.options).to_byte(),
        identifier: shared.identifier,
        starts: Vec::new(),
    })
}

fn identifiers(identifier: u32) -> Vec<u32> {
    Some(identifier).filter(|identifier| *identifier != 0).into_iter().collect()
}

/// QoS 2 messages of a group whose record that they were sent is not committed yet: they are the
/// session's from then on.
fn uncommitted(outbound: Option<&Outbound>, group: Option<GroupId>) -> Vec<Place> {
    let (Some(outbound), Some(group)) = (outbound, group) else {
        return Vec::new();
    };
    let is_one = |sent: &&InFlight| {
        sent.step == InFlightStep::ExpectSentCommit && sent.origin == Origin::Group(group)
    };
    let in_flight = outbound.in_flight.iter().filter(is_one);
    in_flight.map(|sent| (sent.partition, sent.sequence)).collect()
}

/// Takes out the QoS 1 messages that are their groups', with their groups.
fn take_unacknowledged(outbound: &mut Outbound) -> Vec<(GroupId, Vec<Place>)> {
    let mut taken: Vec<(GroupId, Vec<Place>)> = Vec::new();
    let mut packet_ids = Vec::new();
    for sent in &outbound.in_flight {
        if let (Origin::Group(group), InFlightStep::ExpectPuback) = (sent.origin, sent.step) {
            let place = (sent.partition, sent.sequence);
            packet_ids.push(sent.packet_id);
            match taken.iter_mut().find(|(of, _)| *of == group) {
                Some((_, places)) => places.push(place),
                None => taken.push((group, vec![place])),
            }
        }
    }
    for packet_id in packet_ids {
        outbound.remove(packet_id);
    }
    taken
}
