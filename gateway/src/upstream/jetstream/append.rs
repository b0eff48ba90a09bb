//! Publishes that are stored: into the lane, to the server, and looked for where it is not known
//! what became of them.

use super::direct_get::Start;
use super::held::HELD_PLACE;
use super::inbox::Token;
use super::lane::Append;
use super::lanes::LaneNumber;
use super::partition::{FeedStage, Kept, Search, message_of};
use super::place;
use super::publish::{MESSAGE_ID, PublishAnswer, read_publish_answer};
use super::requests::{Publish, Purpose, Scan};
use super::shard::JetStream;
use super::stored::Stored;
use crate::proto::nats::{Headers, Message as NatsMessage};
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, MessageId};
use crate::proto::session::StoredWill;
use crate::proto::shard_state::AppendToken;
use crate::proto::time::Timestamp;
use std::mem;
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
    /// Stores a message.
    pub(super) fn append(&mut self, message: &Message<'_>) -> AppendToken {
        let id = self.next_message_id();
        self.append_named(message, id)
    }

    /// Stores a message that has a name.
    pub(super) fn append_named(&mut self, message: &Message<'_>, id: MessageId) -> AppendToken {
        let (pushed, send) = self.push(message, id, 0, true, None);
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
        let (pushed, send) = self.push(message, will.id, 0, from.is_none(), from);
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
        let ((place, token), _) = self.push(message, id, number, false, None);
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
        let ((place, token), _) = self.push(message, id, number, false, Some(from));
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
        number: LaneNumber,
        ready: bool,
        from: Option<Sequence>,
    ) -> ((usize, Token), bool) {
        let mut body = Vec::with_capacity(message.encoded_bytes());
        message.encode(&mut body);
        let topic_hash = self.topic_hashes.hash_one(message.topic);
        let (sent, stored, pushed_at) = (None, None, self.now);
        let is_uplink = self.is_uplink(message.topic);
        let append = Append { body, id, topic_hash, is_uplink, ready, sent, stored, pushed_at };
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
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        partition.searches.push(Search { later: places, ..Search::new(publish, start) });
        true
    }

    /// Nobody looks for a publish any more.
    pub(super) fn forget_search(&mut self, home: usize, token: Token) {
        let is_it = |search: &Search| {
            usize::from(search.publish.home) == home && search.publish.token == token
        };
        for partition in &mut self.partitions {
            partition.searches.retain(|search| !is_it(search));
        }
    }

    pub(super) fn searched(&self, publish: Publish) -> Option<&Append> {
        self.partitions.get(usize::from(publish.home))?.lane.get(publish.token)
    }

    /// Looks for what may have been stored before a crash.
    pub(super) fn search(&mut self, place: usize) {
        let now = self.now;
        let Some(partition) = self.partitions.get_mut(place).filter(|one| one.ready) else {
            return;
        };
        let mut searches = mem::take(&mut partition.searches);
        for search in searches.iter_mut().filter(|one| !one.asked && one.retry_at <= now) {
            let Some(append) = self.searched(search.publish) else {
                continue;
            };
            let mut subject = Vec::new();
            let (prefix, stream) = match append.is_uplink {
                true => (&self.stored.uplink, Kept::Uplink),
                false => (&self.stored.messages, Kept::Messages),
            };
            if prefix.subject(message_of(&append.body).topic, &mut subject).is_ok()
                && let Some(partition) = self.partitions.get_mut(place)
            {
                search.asked = true;
                let (purpose, from) = (Purpose::Stored(search.publish), search.next);
                let batch = NonZeroU16::new(SEARCH_BATCH).expect("not 0");
                let subject = Some(subject.into_boxed_slice());
                let scan = Scan { purpose, from, subject, batch, last_only: false };
                partition.ask(scan, stream, now);
            }
        }
        if let Some(partition) = self.partitions.get_mut(place) {
            searches.append(&mut partition.searches);
            partition.searches = searches;
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
            headers.get(MESSAGE_ID) == Some(&append.id.text()[..])
                && (append.is_uplink
                    || !self.ring.is_void(message_of(&append.body).topic, id, stored.sequence))
        });
        let Some(partition) = self.partitions.get_mut(place) else {
            return false;
        };
        if !is_it {
            let search = partition.searches.iter_mut().find(|search| search.publish == publish);
            if let Some(search) = search {
                search.next = Start::At(stored.sequence.next());
            }
            return true;
        }
        partition.searches.retain(|search| search.publish != publish);
        self.handle_stored(usize::from(publish.home), publish.token, (id, stored.sequence));
        false
    }

    /// All there is of a topic was looked at, or with `more` not yet.
    pub(super) fn end_search(&mut self, place: usize, publish: Publish, more: bool) {
        let Some(partition) = self.partitions.get_mut(place) else {
            return;
        };
        let Some(at) = partition.searches.iter().position(|search| search.publish == publish)
        else {
            return;
        };
        if more {
            partition.searches.get_mut(at).into_iter().for_each(|search| search.asked = false);
            return;
        }
        let Search { later, .. } = partition.searches.remove(at);
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
                partition.lane.retry_at(token, again_at);
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
