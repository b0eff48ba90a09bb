//! Publishes that are stored: into the lane, to the server, and looked for where it is not known
//! what became of them.

use super::direct_get::Start;
use super::former::FORMER_LINK_WAIT_MAX;
use super::held::HELD_PLACE;
use super::inbox::Token;
use super::lane::Append;
use super::lanes::{LaneNumber, Lanes};
use super::partition::{FeedStage, Kept, message_of};
use super::place;
use super::publish::{PublishAnswer, message_id, read_publish_answer};
use super::requests::{Publish, Purpose, Scan};
use super::searches::Search;
use super::shard::JetStream;
use super::stored::Stored;
use crate::proto::mqtt::QoS;
use crate::proto::nats::{Headers, Message as NatsMessage};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, MessageId};
use crate::proto::session::StoredWill;
use crate::proto::shard_state::AppendToken;
use crate::proto::time::Timestamp;
use std::num::NonZeroU16;
use std::time::Duration;

/// Messages of a topic looked at at once for one that may have been stored before a crash.
const SEARCH_BATCH: u16 = 100;

/// So far back a will is looked for that another gateway may have published: its topic may be that of a whole
/// fleet, and all that is stored of it is read.
const WILLS_SEARCHED_MAX: Duration = Duration::from_secs(24 * 3_600);

/// So far clocks of gateways are apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(600);

impl JetStream {
    /// Stores a message. One of QoS 1 may be delivered twice, so the server need not be told its name.
    pub(super) fn append(&mut self, message: &Message<'_>) -> AppendToken {
        let id = self.next_message_id();
        let is_named = message.qos != QoS::AtLeastOnce;
        let (pushed, send) = self.push(message, id, is_named, 0, true, None);
        self.send_pushed(pushed, send)
    }

    /// Stores a message that has a name, and is stored once.
    pub(super) fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken {
        let (pushed, send) = self.push(message, id, true, 0, true, None);
        self.send_pushed(pushed, send)
    }

    /// Stores a will; the record of its client, if there is one, has it until then. One that was named
    /// elsewhere may be stored, longer ago than servers remember names, and is looked for.
    pub(super) fn append_will(
        &mut self,
        message: &Message<'_>,
        will: &StoredWill,
        named_at: Option<Timestamp>,
    ) -> AppendToken {
        let client_id = message.publisher;
        let now = self.now;
        let is_noted =
            self.sessions.as_mut().is_some_and(|sessions| sessions.note_will(client_id, will, now));
        let earliest = now.before(WILLS_SEARCHED_MAX);
        // Those of earlier versions say nothing.
        let named_at =
            named_at.map(|at| if at > now { earliest } else { at.before(CLOCKS_APART_MAX) });
        let from = named_at.map(|at| place::since(at.max(earliest)));
        let (pushed, send) = self.push(message, will.id, true, 0, from.is_none(), from);
        if is_noted {
            self.wills.insert(pushed, (client_id.into(), will.id));
        }
        self.send_pushed(pushed, send)
    }

    /// Stores a message once `recorded` is committed.
    pub(super) fn append_recorded(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        recorded: AppendToken,
    ) -> AppendToken {
        let number = self.recording_lane(message.publisher);
        let ((place, token), _) = self.push(message, id, true, number, false, None);
        self.intents.push(recorded, place, token);
        self.note_intent(message, place, token);
        self.append_token(place, token)
    }

    /// Stores a message unless it is there already, at `from` or later.
    pub(super) fn append_unless_stored(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        from: Sequence,
    ) -> AppendToken {
        let number = self.recording_lane(message.publisher);
        let ((place, token), _) = self.push(message, id, true, number, false, Some(from));
        self.note_intent(message, place, token);
        self.append_token(place, token)
    }

    /// The lane of what is stored once something is recorded of the session of `client_id`. The node's own
    /// log is never away.
    fn recording_lane(&self, client_id: &str) -> LaneNumber {
        if self.has_sessions() { 1 + self.home(client_id) as u64 } else { 0 }
    }

    /// Takes a message into the lane of its partition, or among those held while its topic moves. With
    /// `from` it is looked for first. Whether it is to be sent now.
    fn push(
        &mut self,
        message: &Message<'_>,
        id: MessageId,
        named: bool,
        number: LaneNumber,
        ready: bool,
        from: Option<Sequence>,
    ) -> ((usize, Token), bool) {
        let mut body = Vec::with_capacity(message.encoded_bytes());
        message.encode(&mut body);
        let topic_hash = self.topic_hashes.hash_one(message.topic);
        let (sent, stored, pushed_at) = (None, None, self.now);
        let is_uplink = self.is_uplink(message.topic);
        let append =
            Append { body, id, named, topic_hash, is_uplink, ready, sent, stored, pushed_at };
        if self.ring.is_held(message.topic) {
            return ((HELD_PLACE, self.held.push(append, number, from)), false);
        }
        self.push_owned(append, number, from)
    }

    /// Takes a message into the lane of its partition.
    pub(super) fn push_owned(
        &mut self,
        append: Append,
        number: LaneNumber,
        from: Option<Sequence>,
    ) -> ((usize, Token), bool) {
        let topic = message_of(&append.body).topic;
        let place = self.owner(topic);
        let searches = from.map(|from| self.searches_of(topic, from)).unwrap_or_default();
        let now = self.now;
        let partition = self.partitions.get_mut(place).expect("the owner is a partition");
        let (token, send) = partition.lane.push(number, append, now);
        let home = u16::try_from(place).expect("partition ids are u16");
        self.look_next(Publish { home, token }, searches);
        ((place, token), send)
    }

    fn send_pushed(&mut self, (place, token): (usize, Token), send: bool) -> AppendToken {
        let Self { partitions, stored, now, .. } = self;
        if let Some(partition) = partitions.get_mut(place).filter(|one| send && one.ready) {
            partition.send(token, stored, *now);
        }
        self.append_token(place, token)
    }

    /// Where a message of `topic` may be that was recorded when the feed was at `from`: where the topic
    /// was then, and where it came to since. Whose feed that was is not known.
    fn searches_of(&self, topic: &str, from: Sequence) -> Vec<(usize, Start)> {
        // Who is about to have the topic has nothing of it.
        let holders: Vec<_> = self.ring.former_holders(topic).collect();
        let count = holders.len();
        let owner = self.ring.owner(topic);
        let start = |(number, holder): (usize, &PartitionId)| {
            // Where the topic is back, it may be stored before the place of another feed.
            let is_known = count == 1 || (count == 2 && number == 0 && *holder != owner);
            let from = if is_known { place::inside(from) } else { Start::At(Sequence(1)) };
            let place = self.place(*holder)?;
            // What was stored where nobody looks any more is not found.
            self.partitions.get(place)?.is_configured.then_some((place, from))
        };
        holders.iter().enumerate().filter_map(start).collect()
    }

    /// Looks for a publish at the next place where it may be, if there is one.
    fn look_next(&mut self, publish: Publish, mut places: Vec<(usize, Start)>) -> bool {
        if places.is_empty() {
            return false;
        }
        let (place, start) = places.remove(0);
        let is_uplink = self.searched(publish).is_some_and(|append| append.is_uplink);
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        let kept = if is_uplink { Kept::Uplink } else { Kept::Messages };
        partition.searches.push(publish, Search { later: places, ..Search::new(start, kept) });
        true
    }

    /// Nobody looks for a publish any more.
    pub(super) fn forget_search(&mut self, home: usize, token: Token) {
        let home = u16::try_from(home).expect("partition ids are u16");
        for partition in &mut self.partitions {
            partition.searches.end(Publish { home, token });
        }
    }

    /// Waits for former links, as long as that may be.
    pub(super) fn drive_former(&mut self, place: usize) {
        let now = self.now;
        let partition = self.partitions.get_mut(place).filter(|partition| partition.ready);
        if let Some(partition) = partition
            && partition.drive_former(now)
        {
            self.counters.former_links_given_up += 1;
            let (partition, seconds) = (partition.id.0, FORMER_LINK_WAIT_MAX.as_secs());
            tracing::warn!(
                partition,
                seconds,
                "a server has not read a former link to its end: what it still reads may be stored twice"
            );
        }
    }

    pub(super) fn searched(&self, publish: Publish) -> Option<&Append> {
        self.partitions.get(usize::from(publish.home))?.lane.get(publish.token)
    }

    /// Looks for what may have been stored before a crash, or over a link that was lost.
    pub(super) fn search(&mut self, place: usize) {
        let now = self.now;
        let batch = NonZeroU16::new(SEARCH_BATCH).expect("not 0");
        let mut subject = Vec::new();
        while let Some(partition) = self.partitions.get_mut(place)
            && partition.ready
            && !partition.requests.is_full()
            && let Some((publish, from, kept)) = partition.searches.take_due(now)
        {
            let prefix = match kept {
                Kept::Uplink => &self.stored.uplink,
                Kept::Messages | Kept::Retained => &self.stored.messages,
            };
            let found = self.searched(publish).is_some_and(|append| {
                prefix.subject(message_of(&append.body).topic, &mut subject).is_ok()
            });
            let Some(partition) = self.partitions.get_mut(place) else {
                return;
            };
            if !found {
                // It has ended.
                partition.searches.end(publish);
                continue;
            }
            let (purpose, subject) = (Purpose::Stored(publish), Some(subject.as_slice().into()));
            let scan = Scan { purpose, from, subject, batch, last_only: false };
            partition.ask(scan, kept, now);
        }
    }

    /// A message with the topic of one that may have been stored before a crash. Whether it is not
    /// the one.
    pub(super) fn is_another(
        &mut self,
        place: usize,
        publish: Publish,
        stored: &Stored<'_>,
        headers: Headers<'_>,
    ) -> bool {
        let Some(id) = self.partitions.get(place).map(|partition| partition.id) else {
            return false;
        };
        let is_it = self.searched(publish).is_some_and(|append| {
            message_id(headers) == Some(&append.id.text()[..])
                && (append.is_uplink
                    || !self.ring.is_void(message_of(&append.body).topic, id, stored.sequence))
        });
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        if !is_it {
            partition.searches.reach(publish, stored.sequence.next());
            return true;
        }
        partition.searches.end(publish);
        self.handle_stored(usize::from(publish.home), publish.token, (id, stored.sequence));
        false
    }

    /// All there is of a topic was looked at, or with `more` not yet.
    pub(super) fn end_search(&mut self, place: usize, publish: Publish, more: bool) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        if more {
            partition.searches.ask_again(publish);
            return;
        }
        let Some(Search { later, .. }) = partition.searches.end(publish) else {
            return;
        };
        if self.look_next(publish, later) {
            return;
        }
        let Self { partitions, stored, now, .. } = self;
        if let Some(home) = partitions.get_mut(usize::from(publish.home))
            && home.lane.make_ready(publish.token, *now)
            && home.ready
        {
            home.send(publish.token, stored, *now);
        }
    }

    /// A name for a message that is new.
    pub(super) fn next_message_id(&mut self) -> MessageId {
        self.next_message += 1;
        MessageId { origin: self.origin, number: self.next_message }
    }

    pub(super) fn handle_acknowledged(&mut self, place: usize, message: &NatsMessage<'_>) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(token) = partition.acks.token(message.subject) else {
            return;
        };
        if token.0 < Lanes::FIRST_TOKEN {
            partition.handle_former(token, message);
            return;
        }
        match read_publish_answer(message.headers, message.payload) {
            Ok(PublishAnswer::Stored(ack)) => {
                partition.refused = 0;
                let is_uplink = || partition.lane.get(token).is_some_and(|one| one.is_uplink);
                if partition.feed.stage == FeedStage::Live && !ack.is_duplicate && !is_uplink() {
                    // Everything before it was republished before it was acknowledged.
                    partition.feed.fed = ack.sequence.next().max(partition.feed.fed);
                }
                let at = (partition.id, ack.sequence);
                self.handle_stored(place, token, at);
            }
            Ok(answer @ (PublishAnswer::Refused(_) | PublishAnswer::NoResponders)) => {
                self.counters.refused += 1;
                tracing::debug!(partition = partition.id.0, ?answer, "publish: refused for now");
                let again_at = partition.refused_until(now);
                partition.lane.refuse(token, again_at);
            }
            Err(fault) => {
                tracing::debug!(partition = partition.id.0, %fault, "publish: unreadable answer");
            }
        }
    }

    /// A message is stored; one with the RETAIN flag is to be retained, too.
    fn handle_stored(&mut self, place: usize, token: Token, at: (PartitionId, Sequence)) {
        let append = self.partitions.get(place).and_then(|partition| partition.lane.get(token));
        if append.is_some_and(|append| message_of(&append.body).retain) {
            self.put_retained(place, token, at);
        } else {
            self.end_append(place, token, at.1);
        }
    }

    /// A publish is done with: the next of its topic goes out.
    pub(super) fn end_append(&mut self, place: usize, token: Token, sequence: Sequence) {
        let Self { partitions, stored, now, .. } = self;
        let Some(partition) = partitions.get_mut(place) else {
            return;
        };
        let next = partition.lane.end(token, sequence, *now);
        if let Some(next) = next.filter(|_| partition.ready) {
            partition.send(next, stored, *now);
        }
        let released = partition.lane.release(token);
        // Where it was when it was taken in.
        let taken_in = self.held.end(place, token, &mut self.out.appended);
        if !self.wills.is_empty()
            && let Some((client_id, id)) = self.wills.remove(&taken_in)
            && let Some(sessions) = &mut self.sessions
        {
            sessions.forget_will(&client_id, id, self.now);
        }
        if let Some(last) = released {
            self.out.appended.push(self.append_token(place, last));
        }
    }
}
