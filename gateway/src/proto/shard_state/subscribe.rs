//! SUBSCRIBE and UNSUBSCRIBE. Source: MQTT 5.0 §3.8 to §3.11, §4.7, §4.8.

use super::shared::SharedSubscribe;
use super::waiting::{SubscribeAnswer, Waiting};
use super::{ConnectionStage, Context, ShardState};
use crate::proto::access::covers;
use crate::proto::mqtt::PacketType;
use crate::proto::mqtt::{
    PacketId, Properties, Property, QoS, ReasonCode, RetainHandling, SHARE_PREFIX, Subscribe,
    SubscribeAck, SubscriptionOptions, Unsubscribe, encode_suback, encode_unsuback,
    is_valid_filter, parse_shared,
};
use crate::proto::output::ConnectionId;
use crate::proto::partition::PartitionId;
use crate::proto::routing::{FilterId, PackedOptions, Subscriber, SubscriberKind};
use crate::proto::session::SubscriptionStart;

/// Of a subscription in a record, beside its filter and where it starts in each partition.
const SUBSCRIPTION_BYTES: u32 = 13;
const START_BYTES: u32 = 10;

impl ShardState {
    pub(super) fn handle_subscribe(
        &mut self,
        index: u32,
        id: ConnectionId,
        subscribe: &Subscribe<'_>,
        context: &mut Context<'_>,
    ) {
        let identifier = subscribe
            .properties
            .iter()
            .find_map(|property| match property {
                Property::SubscriptionIdentifier(identifier) => Some(identifier),
                _ => None,
            })
            .unwrap_or(0);
        let Some(ticket) = self.ticket(index) else {
            return;
        };
        let stored = self.stored_filters(index, subscribe.filters.iter().map(|(filter, _)| filter));
        let filters = || {
            let filters = subscribe.filters.iter().enumerate();
            filters.map(|(place, (own, options))| {
                (stored.get(place).map_or(own, String::as_str), options)
            })
        };
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut retained = Vec::new();
        let mut joins: Vec<(&str, SubscriptionOptions)> = Vec::new();
        let mut waits_for: Vec<(Box<str>, usize)> = Vec::new();
        for (filter, options) in filters() {
            let mut code = self.check_filter(index, filter, options.qos, joins.len());
            let inner = parse_shared(filter).ok().flatten();
            let (is_shared, inner) = (inner.is_some(), inner.map_or(filter, |(_, inner)| inner));
            if !code.is_failure() && self.is_subscribe_denied(index, inner, is_shared, context) {
                code = ReasonCode::NotAuthorized;
            }
            let is_granted = !code.is_failure();
            match filter.strip_prefix(SHARE_PREFIX) {
                _ if !is_granted => {}
                Some(name) => {
                    joins.push((name, options));
                    waits_for.push((name.into(), codes.len()));
                }
                None => {
                    retained.extend(self.subscribe(index, filter, options, identifier, context));
                }
            }
            codes.push(code as u8);
        }
        let granted = filters().zip(&codes);
        // Groups say for themselves whether they take a member.
        let granted = granted.filter(|((filter, _), code)| {
            **code < ReasonCode::UnspecifiedError as u8 && !filter.starts_with(SHARE_PREFIX)
        });
        let granted = granted.map(|((filter, options), _)| (filter, options.qos));
        self.note_subscribed(index, id, granted, context);
        let packet_id = subscribe.packet_id;
        if joins.is_empty() {
            self.subscribed(index, id, packet_id, &codes, retained, context);
            return;
        }
        let waiting =
            SharedSubscribe { ticket, connection: id, packet_id, codes, retained, waits_for };
        let waiting = self.shared_subscribes.insert(waiting);
        for (name, options) in joins {
            self.subscribe_shared(index, name, options, identifier, waiting, context);
        }
    }

    /// What the filters of a client that is mounted are stored as, in their order; nothing for others, whose
    /// filters are stored as they are.
    fn stored_filters<'f>(&self, index: u32, own: impl Iterator<Item = &'f str>) -> Vec<String> {
        let session = self.session(index).filter(|session| session.is_mounted());
        session.map_or_else(Vec::new, |session| {
            own.map(|filter| session.mount_filter(filter)).collect()
        })
    }

    /// SUBACK, once the session's record has what was subscribed.
    pub(super) fn subscribed(
        &mut self,
        index: u32,
        connection: ConnectionId,
        packet_id: PacketId,
        codes: &[u8],
        retained: Vec<u64>,
        context: &mut Context<'_>,
    ) {
        let Some(session) = self.session(index) else {
            return;
        };
        let ack = SubscribeAck { packet_id, properties: Properties::NONE, codes };
        let mut bytes = Vec::new();
        encode_suback(&ack, session.connected.version, &mut bytes);
        codes.iter().for_each(|code| context.outbox.sent.add_code(*code));
        let interest = context.upstream.interest_in_force();
        let settled = Vec::new();
        let answer = SubscribeAnswer { connection, interest, bytes, retained, settled };
        self.answer_when_recorded(index, answer, context);
    }

    /// The Reason Code for one filter, unless a group refuses it; `joining` shared subscriptions
    /// will be added before it.
    ///
    /// Shared subscriptions are part of 5.0; clients of earlier versions may have them too, as
    /// topics that begin with `$` are the server's to give a meaning.
    ///
    /// A filter of `subscribe_refused` is refused with Unspecified error, which in 5.0 says that the
    /// reason is not revealed, and in 3.1.1 is the one code there is. Only the very same filter is: another that matches the same topics is granted.
    ///
    /// One that matches topics of `uplink` only is refused with Topic Filter invalid: well formed, and not
    /// allowed. Others are granted, and bring nothing of these topics.
    ///
    /// Source: MQTT 5.0 §3.9.3, §4.8.2; MQTT 3.1.1 §3.9.3, §4.7.2.
    fn check_filter(&self, index: u32, filter: &str, qos: QoS, joining: usize) -> ReasonCode {
        let Some(session) = self.session(index) else {
            return ReasonCode::UnspecifiedError;
        };
        let Ok(shared) = parse_shared(filter) else {
            return ReasonCode::TopicFilterInvalid;
        };
        let inner = shared.map_or(filter, |(_, inner)| inner);
        if shared.is_some() && !self.limits.shared_subscriptions {
            return ReasonCode::SharedSubscriptionsNotSupported;
        }
        if inner.len() > usize::from(self.limits.topic_bytes_max)
            || !is_valid_filter(inner)
            || !self.has_accepted_depth(inner)
        {
            return ReasonCode::TopicFilterInvalid;
        }
        if self.limits.subscribe_refused.iter().any(|refused| refused == inner) {
            return ReasonCode::UnspecifiedError;
        }
        if self.limits.uplink.iter().any(|uplink| covers(uplink, inner)) {
            return ReasonCode::TopicFilterInvalid;
        }
        let count = session.subscriptions.len() + session.shared.len() + joining;
        if count >= self.limits.subscriptions_per_session_max as usize
            && !self.has_subscription(index, filter)
        {
            return ReasonCode::QuotaExceeded;
        }
        let room = self.limits.subscription_bytes_max.saturating_sub(session.subscription_bytes);
        if self.record_bytes(filter) > room && !self.has_subscription(index, filter) {
            return ReasonCode::QuotaExceeded;
        }
        if shared.is_some()
            && session.shared.len() + joining >= self.limits.shared_per_session_max as usize
            && !self.has_subscription(index, filter)
        {
            return ReasonCode::QuotaExceeded;
        }
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQos1,
            QoS::ExactlyOnce => ReasonCode::GrantedQos2,
        }
    }

    /// What a subscription takes in the record of its session, at most, bytes.
    fn record_bytes(&self, filter: &str) -> u32 {
        let partitions = u32::try_from(self.watermarks.len()).expect("partition ids are u16");
        let filter_bytes = u32::try_from(filter.len()).expect("a string of MQTT");
        filter_bytes + SUBSCRIPTION_BYTES + partitions * START_BYTES
    }

    /// Adds or replaces one subscription; returns the request for its retained messages.
    fn subscribe(
        &mut self,
        index: u32,
        filter: &str,
        options: SubscriptionOptions,
        identifier: u32,
        context: &mut Context<'_>,
    ) -> Option<u64> {
        self.note_coverage(index, filter);
        let is_new = self.add_to_tree(index, filter, options, identifier, context);
        let wants_retained = match options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if !wants_retained {
            return None;
        }
        self.want_retained(index, filter, options.qos, context)
    }

    pub(super) fn has_subscription(&self, index: u32, filter: &str) -> bool {
        if let Some(name) = filter.strip_prefix(SHARE_PREFIX) {
            return self.has_shared(index, name);
        }
        let filter = self.tree.find(filter);
        filter
            .and_then(|filter| self.tree.subscriber(filter, SubscriberKind::Session, index))
            .is_some()
    }

    fn has_accepted_depth(&self, filter: &str) -> bool {
        memchr::memchr_iter(b'/', filter.as_bytes()).count()
            < usize::from(self.limits.topic_levels_max)
    }

    /// Enters a filter of a session into the tree. Returns whether the session did not have it.
    pub(super) fn add_to_tree(
        &mut self,
        index: u32,
        filter: &str,
        options: SubscriptionOptions,
        identifier: u32,
        context: &mut Context<'_>,
    ) -> bool {
        let subscriber = Subscriber {
            session: index,
            kind: SubscriberKind::Session,
            options: PackedOptions::from(options),
            identifier,
        };
        let subscribed = self.tree.subscribe(filter, subscriber);
        if subscribed.first {
            context.upstream.add_interest(filter);
        }
        if let Some(outbound) = self.session_mut(index).and_then(|one| one.outbound.as_mut()) {
            outbound.widen();
        }
        if subscribed.replaced.is_some() {
            return false;
        }
        let starts = self.feed_starts(context);
        let record_bytes = self.record_bytes(filter);
        let Self { sessions, watermarks, .. } = self;
        let slot = sessions.get_mut(index as usize);
        let Some(session) = slot.and_then(|slot| slot.session.as_deref_mut()) else {
            return true;
        };
        session.subscriptions.push(subscribed.filter);
        session.subscription_bytes = session.subscription_bytes.saturating_add(record_bytes);
        session.may_overlap = session.subscriptions.len() > 1;
        if !session.is_persistent() && session.outbound.is_none() {
            return true;
        }
        // What was published before this subscription is not its, though the session may be behind
        // and the shard may not have seen all of the feed.
        for (place, (start, watermark)) in starts.into_iter().zip(watermarks.iter()).enumerate() {
            let partition = PartitionId(u16::try_from(place).expect("partition ids are u16"));
            let is_behind =
                session.outbound.as_ref().is_some_and(|out| out.cursor(partition).is_some());
            if is_behind || start > *watermark {
                let filter = subscribed.filter;
                let start = SubscriptionStart { filter, partition, start };
                session.outbound_mut().starts.push(start);
            }
        }
        self.with_outbound.push(index);
        self.schedule_floor(context.now);
        true
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        index: u32,
        id: ConnectionId,
        unsubscribe: &Unsubscribe<'_>,
        context: &mut Context<'_>,
    ) {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut settled = Vec::new();
        let stored = self.stored_filters(index, unsubscribe.filters.iter());
        let filters = || {
            let filters = unsubscribe.filters.iter().enumerate();
            filters.map(|(place, own)| stored.get(place).map_or(own, String::as_str))
        };
        for filter in filters() {
            let existed = if let Some(name) = filter.strip_prefix(SHARE_PREFIX) {
                let own = self.unsubscribe_shared(index, name, context);
                own.map(|own| settled.extend(own)).is_some()
            } else {
                self.unsubscribe(index, filter, context)
            };
            codes.push(match existed {
                true => ReasonCode::Success,
                false => ReasonCode::NoSubscriptionExisted,
            } as u8);
        }
        let Some(session) = self.session_mut(index) else {
            return;
        };
        session.may_overlap = session.subscriptions.len() > 1;
        let version = session.connected.version;
        let ack = SubscribeAck {
            packet_id: unsubscribe.packet_id,
            properties: Properties::NONE,
            codes: &codes,
        };
        let mut bytes = Vec::new();
        encode_unsuback(&ack, version, &mut bytes);
        codes.iter().for_each(|code| context.outbox.sent.add_code(*code));
        let ended = filters().zip(&codes);
        let ended = ended.filter(|(_, code)| **code == ReasonCode::Success as u8);
        self.note_unsubscribed(index, id, ended.map(|(filter, _)| filter), context);
        let (interest, retained) = (None, Vec::new());
        let answer = SubscribeAnswer { connection: id, interest, bytes, retained, settled };
        self.answer_when_recorded(index, answer, context);
    }

    /// Removes one subscription; returns whether there was one.
    pub(super) fn unsubscribe(
        &mut self,
        index: u32,
        filter: &str,
        context: &mut Context<'_>,
    ) -> bool {
        let Some(filter_id) = self.tree.find(filter) else {
            return false;
        };
        if !self.remove_from_tree(index, filter_id, context) {
            return false;
        }
        let record_bytes = self.record_bytes(filter);
        if let Some(session) = self.session_mut(index) {
            session.subscriptions.retain(|one| *one != filter_id);
            session.subscription_bytes = session.subscription_bytes.saturating_sub(record_bytes);
            if let Some(outbound) = &mut session.outbound {
                outbound.starts.retain(|start| start.filter != filter_id);
            }
        }
        true
    }

    /// Takes a filter of a session out of the tree.
    pub(super) fn remove_from_tree(
        &mut self,
        index: u32,
        filter: FilterId,
        context: &mut Context<'_>,
    ) -> bool {
        let mut text = String::new();
        self.tree.write_filter(filter, &mut text);
        let Some(removed) = self.tree.unsubscribe(filter, SubscriberKind::Session, index) else {
            return false;
        };
        if removed.last {
            context.upstream.remove_interest(&text);
        }
        true
    }

    /// Takes all filters of a session out of the tree.
    pub(super) fn remove_subscriptions(&mut self, index: u32, context: &mut Context<'_>) {
        let Some(session) = self.session_mut(index) else {
            return;
        };
        session.subscription_bytes = 0;
        let subscriptions = std::mem::take(&mut session.subscriptions);
        for filter in subscriptions {
            self.remove_from_tree(index, filter, context);
        }
    }

    /// Answers at once, or for a session that outlives its connection when the change is recorded.
    pub(super) fn answer_when_recorded(
        &mut self,
        index: u32,
        answer: SubscribeAnswer,
        context: &mut Context<'_>,
    ) {
        if self.session(index).is_some_and(|session| session.is_persistent()) {
            let token = self.record_session(index, context);
            self.wait_for(token, Waiting::SubscribeAck(Box::new(answer)));
        } else {
            self.answer_subscribe(answer, context);
        }
    }

    pub(super) fn answer_subscribe(
        &mut self,
        mut answer: SubscribeAnswer,
        context: &mut Context<'_>,
    ) {
        if let Some(token) = answer.interest.take_if(|token| !self.lanes.is_committed(*token)) {
            self.wait_for(token, Waiting::SubscribeAck(Box::new(answer)));
            return;
        }
        self.settle_own(answer.settled, context);
        let asked_on = self.connection(answer.connection);
        if asked_on.is_none_or(|connection| connection.stage != ConnectionStage::Connected) {
            self.retained_requests.forget(&answer.retained);
            return;
        }
        // SUBACK or UNSUBACK: both end with their Reason Codes, which are counted where they are made.
        let first = answer.bytes.first().copied().unwrap_or_default();
        if let Some(packet_type) = PacketType::from_first_byte(first) {
            let encode = |out: &mut Vec<u8>| out.extend_from_slice(&answer.bytes);
            context.outbox.write(answer.connection.index, packet_type, encode);
        }
        for request in answer.retained {
            self.request_retained(request, context);
        }
    }

    /// Whether the subscription `filter` of a session takes a message at this place.
    pub(super) fn has_started(
        &self,
        index: u32,
        filter: FilterId,
        partition: PartitionId,
        sequence: crate::proto::partition::Sequence,
    ) -> bool {
        let Some(outbound) = self.session(index).and_then(|session| session.outbound.as_ref())
        else {
            return true;
        };
        !outbound.starts.iter().any(|start| {
            start.filter == filter && start.partition == partition && sequence < start.start
        })
    }
}
