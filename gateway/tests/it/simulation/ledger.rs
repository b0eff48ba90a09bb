//! What was promised, and what came of it.

use super::client::{Event, MessageId, Profile};
use gateway::proto::mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};

/// A message, from the moment it was first sent.
#[derive(Debug)]
struct Entry {
    publisher: usize,
    topic: &'static str,
    qos: QoS,
    acknowledged: bool,
    /// Its publisher's session ended before it was acknowledged.
    abandoned: bool,
    /// A server may have lost it: it is owed to nobody, and may come as often as it likes.
    lost: bool,
    /// Persistent subscribers that were subscribed before, and have not got it yet.
    due: BTreeSet<usize>,
    /// Groups that had a persistent member before, of which none has got it yet.
    due_groups: BTreeSet<Group>,
}

/// A tenant and a shared filter.
type Group = (&'static str, &'static str);

/// Within one stream messages come in order: same subscriber, publisher, topic, and QoS on both
/// ways. Source: MQTT 5.0 [MQTT-4.6.0-5], [MQTT-4.6.0-6].
type Stream = (usize, usize, &'static str, QoS, QoS);

/// All messages of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    /// Of those that belong to a tenant, which.
    tenants: BTreeMap<usize, &'static str>,
    /// By subscriber: what it has subscribed to since its session began.
    subscribed: BTreeMap<usize, Vec<(&'static str, QoS)>>,
    /// By subscriber: the first message sent after its SUBACK. An earlier one may come late, when
    /// its publisher repeats it.
    since: BTreeMap<usize, MessageId>,
    deliveries: BTreeMap<(usize, MessageId), u32>,
    /// The persistent members of each.
    groups: BTreeMap<Group, BTreeSet<usize>>,
    /// With which QoS a message came to the members of a group, the lowest, and how often.
    group_deliveries: BTreeMap<(Group, MessageId), (QoS, u32)>,
    newest: BTreeMap<Stream, MessageId>,
    /// Clients go from gateway to gateway. What one has not stored yet when a client has a new
    /// session at another may come behind what that session publishes, and so may what was published
    /// at QoS 0; and one whose feed is behind may give a message at QoS 0 that another gave before.
    pub(crate) clients_move: bool,
}

impl Ledger {
    /// Something happened to a client. Returns what is wrong with that.
    pub(crate) fn hear(&mut self, actor: usize, profile: &Profile, event: Event) -> Option<String> {
        match event {
            Event::Connected { session_present: false } => self.session_ended(actor),
            Event::Subscribed => {
                self.since.insert(actor, self.entries.len() as MessageId);
                if profile.persistent {
                    self.subscribed.insert(actor, profile.subscriptions.clone());
                    for (filter, _) in shared(profile) {
                        let group = (profile.tenant, filter);
                        self.groups.entry(group).or_default().insert(actor);
                    }
                }
            }
            Event::Acknowledged(message) => self.entry(message).acknowledged = true,
            Event::Retained(message) => {
                self.entry(message).due.remove(&actor);
                return self.strange(actor, message);
            }
            Event::Abandoned(message) => self.entry(message).abandoned = true,
            Event::Connected { session_present: true } | Event::Disconnected(_) => {}
            Event::Delivered { message, .. } if self.strange(actor, message).is_some() => {
                return self.strange(actor, message);
            }
            Event::Delivered { message, qos, .. } if shared(profile).next().is_some() => {
                return self.delivered_to_member(profile, message, qos);
            }
            Event::Delivered { message, qos, .. } => return self.delivered(actor, message, qos),
            Event::Broken(what) => return Some(what),
        }
        None
    }

    /// A client belongs to a tenant.
    pub(crate) fn belongs(&mut self, actor: usize, tenant: &'static str) {
        self.tenants.insert(actor, tenant);
    }

    /// What is wrong with a message that came from another tenant.
    fn strange(&self, subscriber: usize, message: MessageId) -> Option<String> {
        let entry = self.entries.get(usize::try_from(message).unwrap())?;
        let tenants = [subscriber, entry.publisher].map(|actor| self.tenants.get(&actor));
        (tenants[0] != tenants[1]).then(|| format!("message {message} is another tenant's"))
    }

    /// What a session that ends with its connection is owed as long as that lasts.
    pub(crate) fn owes(&mut self, actor: usize, profile: &Profile) {
        self.subscribed.insert(actor, profile.subscriptions.clone());
    }

    /// Whether PUBACK or PUBREC has come for a message.
    pub(crate) fn is_acknowledged(&self, message: MessageId) -> bool {
        self.entries[usize::try_from(message).unwrap()].acknowledged
    }

    /// Whether its publisher's session ended before a message was acknowledged.
    pub(crate) fn is_abandoned(&self, message: MessageId) -> bool {
        self.entries[usize::try_from(message).unwrap()].abandoned
    }

    /// A message is about to be sent for the first time.
    pub(crate) fn published(
        &mut self,
        publisher: usize,
        topic: &'static str,
        qos: QoS,
    ) -> MessageId {
        let tenant = self.tenants.get(&publisher);
        let own = self.subscribed.iter().filter(|(actor, _)| self.tenants.get(actor) == tenant);
        let takers = own.filter(|(_, filters)| {
            let wanted = granted(filters, topic);
            wanted.is_some_and(|wanted| wanted.min(qos) > QoS::AtMostOnce)
        });
        let due = takers.map(|(subscriber, _)| *subscriber).collect();
        let groups = self.groups.keys().copied();
        let due_groups = groups.filter(|(of, group)| {
            let is_own = *of == tenant.copied().unwrap_or_default();
            is_own && qos > QoS::AtMostOnce && matches(group, topic)
        });
        let due_groups = due_groups.collect();
        let (acknowledged, abandoned, lost) = (false, false, false);
        let entry = Entry { publisher, topic, qos, acknowledged, abandoned, lost, due, due_groups };
        self.entries.push(entry);
        self.entries.len() as MessageId - 1
    }

    /// A will goes to the server with a CONNECT. Those of one client have no order: whoever finds out
    /// that its gateway is dead publishes them.
    pub(crate) fn will(&mut self, client: usize, topic: &'static str) -> MessageId {
        let message = self.published(client, topic, QoS::ExactlyOnce);
        self.entry(message).abandoned = true;
        message
    }

    /// The connection is over that had this will: it has to arrive.
    pub(crate) fn owes_will(&mut self, message: MessageId) {
        self.entry(message).acknowledged = true;
    }

    /// The subscriber's session is over: nothing is owed to it any more.
    pub(crate) fn session_ended(&mut self, subscriber: usize) {
        self.subscribed.remove(&subscriber);
        self.since.remove(&subscriber);
        self.deliveries.retain(|(of, _), _| *of != subscriber);
        self.newest.retain(|(of, ..), _| *of != subscriber);
        for entry in &mut self.entries {
            entry.due.remove(&subscriber);
        }
        let Self { groups, entries, .. } = self;
        groups.retain(|group, members| {
            members.remove(&subscriber);
            if members.is_empty() {
                for entry in entries.iter_mut() {
                    entry.due_groups.remove(group);
                }
            }
            !members.is_empty()
        });
    }

    /// A member of groups, which has no other subscriptions, got a message.
    fn delivered_to_member(
        &mut self,
        profile: &Profile,
        message: MessageId,
        qos: QoS,
    ) -> Option<String> {
        let Some(entry) = self.entries.get_mut(usize::try_from(message).unwrap()) else {
            return Some(format!("message {message} was never sent"));
        };
        let mut mine = shared(profile).filter(|(group, _)| matches(group, entry.topic));
        let (group, granted) = mine.next()?;
        let group = (profile.tenant, group);
        if qos > granted {
            return Some(format!("message {message} came with {qos:?}, granted {granted:?}"));
        }
        entry.due_groups.remove(&group);
        let delivery = self.group_deliveries.entry((group, message)).or_insert((qos, 0));
        *delivery = (qos.min(delivery.0), delivery.1 + 1);
        let doubled = delivery.1 > 1 && delivery.0.min(entry.qos) == QoS::ExactlyOnce;
        doubled.then(|| format!("message {message} came {} times to {group:?}", delivery.1))
    }

    fn delivered(&mut self, subscriber: usize, message: MessageId, qos: QoS) -> Option<String> {
        let Some(entry) = self.entries.get_mut(usize::try_from(message).unwrap()) else {
            return Some(format!("message {message} was never sent"));
        };
        entry.due.remove(&subscriber);
        if entry.lost {
            return None;
        }
        let stream = (subscriber, entry.publisher, entry.topic, entry.qos, qos);
        let count = self.deliveries.entry((subscriber, message)).or_default();
        *count += 1;
        if *count > 1 {
            // QoS 1 on either way may repeat a message; anything else may not.
            let doubled = entry.qos != QoS::AtLeastOnce && qos != QoS::AtLeastOnce;
            let doubled = doubled && !(self.clients_move && qos == QoS::AtMostOnce);
            return doubled.then(|| format!("message {message} came {count} times with {qos:?}"));
        }
        // With QoS 0 a subscriber may miss a message and get its repetition later.
        if entry.qos == QoS::AtLeastOnce && qos == QoS::AtMostOnce {
            return None;
        }
        if self.since.get(&subscriber).is_none_or(|since| message < *since) {
            return None;
        }
        if self.clients_move && (entry.abandoned || entry.qos == QoS::AtMostOnce) {
            return None;
        }
        let newest = self.newest.entry(stream).or_insert(message);
        if *newest > message {
            return Some(format!("message {message} came after {newest} in {stream:?}"));
        }
        *newest = message;
        None
    }

    /// Acknowledged messages that did not arrive.
    pub(crate) fn missing(&self) -> Vec<MessageId> {
        let is_due = |entry: &Entry| !entry.due.is_empty() || !entry.due_groups.is_empty();
        let entries = self.entries.iter().enumerate();
        let lost = entries.filter(|(_, entry)| entry.acknowledged && is_due(entry));
        lost.map(|(id, _)| id as MessageId).collect()
    }

    /// Whether a message has not arrived everywhere yet.
    pub(crate) fn is_missing(&self, message: MessageId) -> bool {
        let entry = &self.entries[usize::try_from(message).unwrap()];
        !entry.due.is_empty() || !entry.due_groups.is_empty()
    }

    /// How many messages were published.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// A server may have lost those of these topics that were published from the `from`th on.
    pub(crate) fn lose(&mut self, from: usize, topics: &[&str]) {
        let published = self.entries.iter_mut().skip(from);
        for entry in published.filter(|entry| topics.contains(&entry.topic)) {
            entry.lost = true;
            entry.due.clear();
            entry.due_groups.clear();
        }
    }

    /// How many messages were acknowledged.
    pub(crate) fn acknowledged_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.acknowledged).count()
    }

    /// How many of these topics were acknowledged.
    pub(crate) fn acknowledged_on(&self, topics: &[&str]) -> usize {
        let entries = self.entries.iter().filter(|entry| topics.contains(&entry.topic));
        entries.filter(|entry| entry.acknowledged).count()
    }

    /// Whether one of those that a client published to these topics from the `from`th on is not acknowledged.
    pub(crate) fn waits_for(&self, publisher: usize, topics: &[&str], from: usize) -> bool {
        let mut own = self.entries.iter().skip(from).filter(|entry| entry.publisher == publisher);
        own.any(|entry| !entry.acknowledged && topics.contains(&entry.topic))
    }

    /// The message that was published last to a topic.
    pub(crate) fn newest_on(&self, topic: &str) -> Option<MessageId> {
        let place = self.entries.iter().rposition(|entry| entry.topic == topic)?;
        Some(place as MessageId)
    }

    /// Acknowledged messages of these topics that did not arrive.
    pub(crate) fn missing_on(&self, topics: &[&str]) -> Vec<MessageId> {
        let mut missing = self.missing();
        missing.retain(|id| topics.contains(&self.entries[usize::try_from(*id).unwrap()].topic));
        missing
    }

    /// What is known of a message, to print.
    pub(crate) fn describe(&self, message: MessageId) -> String {
        format!("{message}: {:?}", self.entries[usize::try_from(message).unwrap()])
    }

    fn entry(&mut self, message: MessageId) -> &mut Entry {
        &mut self.entries[usize::try_from(message).unwrap()]
    }
}

/// The shared subscriptions of a client.
fn shared(profile: &Profile) -> impl Iterator<Item = (&'static str, QoS)> + '_ {
    let subscriptions = profile.subscriptions.iter().copied();
    subscriptions.filter(|(filter, _)| filter.starts_with("$share/"))
}

/// Whether the filter inside a shared one matches.
fn matches(shared: &str, topic: &str) -> bool {
    let filter = shared.splitn(3, '/').nth(2).unwrap();
    gateway::proto::routing::filter_matches(filter, topic)
}

/// The highest QoS that `filters` give a topic.
fn granted(filters: &[(&'static str, QoS)], topic: &str) -> Option<QoS> {
    let matching =
        filters.iter().filter(|(filter, _)| gateway::proto::routing::filter_matches(filter, topic));
    matching.map(|(_, qos)| *qos).max()
}

#[test]
fn a_ledger_notices_loss_doubling_and_disorder() {
    let mut ledger = Ledger::default();
    ledger.subscribed.insert(7, vec![("a/#", QoS::ExactlyOnce)]);
    ledger.since.insert(7, 0);
    let first = ledger.published(0, "a/b", QoS::ExactlyOnce);
    let second = ledger.published(0, "a/b", QoS::ExactlyOnce);
    let other = ledger.published(0, "b", QoS::ExactlyOnce);
    assert!(ledger.missing().is_empty());
    ledger.entry(first).acknowledged = true;
    ledger.entry(other).acknowledged = true;
    assert_eq!(ledger.missing(), [first], "lost");
    assert_eq!(ledger.delivered(7, second, QoS::ExactlyOnce), None);
    assert!(ledger.delivered(7, first, QoS::ExactlyOnce).is_some(), "out of order");
    assert!(ledger.delivered(7, second, QoS::ExactlyOnce).is_some(), "doubled");
    assert!(ledger.delivered(7, 99, QoS::ExactlyOnce).is_some(), "invented");
    assert!(ledger.missing().is_empty());
}

#[test]
fn a_ledger_notices_what_a_group_loses_and_doubles() {
    let mut ledger = Ledger::default();
    let group = "$share/g/a/#";
    let profile = |qos| Profile {
        name: String::new(),
        tenant: "",
        version: gateway::proto::mqtt::ProtocolVersion::V5,
        persistent: true,
        receive_maximum: 1,
        window: 1,
        subscriptions: vec![(group, qos)],
        wants_retained: false,
        may_be_refused: false,
    };
    for member in [7, 8] {
        assert_eq!(ledger.hear(member, &profile(QoS::ExactlyOnce), Event::Subscribed), None);
    }
    let first = ledger.published(0, "a/b", QoS::ExactlyOnce);
    let second = ledger.published(0, "a/b", QoS::ExactlyOnce);
    ledger.entry(first).acknowledged = true;
    assert_eq!(ledger.missing(), [first], "lost");
    let mut deliver = |message, qos, granted| {
        let event = Event::Delivered { message, qos, dup: false };
        ledger.hear(7, &profile(granted), event)
    };
    assert_eq!(deliver(first, QoS::ExactlyOnce, QoS::ExactlyOnce), None);
    assert!(deliver(first, QoS::ExactlyOnce, QoS::ExactlyOnce).is_some(), "doubled");
    assert!(deliver(second, QoS::ExactlyOnce, QoS::AtLeastOnce).is_some(), "not granted");
    assert_eq!(deliver(second, QoS::AtLeastOnce, QoS::AtLeastOnce), None);
    assert_eq!(deliver(second, QoS::AtLeastOnce, QoS::AtLeastOnce), None, "QoS 1 may repeat");
    assert!(ledger.missing().is_empty());
}
