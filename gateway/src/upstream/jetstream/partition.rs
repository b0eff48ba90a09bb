//! What a shard has of one partition: its link, what is on its way there, and how far its feed is.

use super::confirmed::Confirmed;
use super::control::{
    PartitionStatus, UPLINK_PREFIX, live_prefix, retained_prefix, retained_stream_name,
    stream_name, uplink_stream_name,
};
use super::direct_get::Start;
use super::former::FormerLinks;
use super::inbox::{Inbox, Token};
use super::interest::{FilterPlace, Interest};
use super::known::Known;
use super::lane::{Append, LaneLimits};
use super::lanes::Lanes;
use super::link::{Fence, Link, LinkSettings};
use super::lost_tail::Lives;
use super::place;
use super::publish::{MARK_SUBJECT, encode_append, encode_mark};
use super::refusals::Refusals;
use super::replay::Replays;
use super::requests::{Pending, Publish, Purpose, Requests, Scan};
use super::searches::{Search, Searches};
use super::shared::SharedLimits;
use super::stored::{StoreTime, Stored};
use super::tail::Tail;
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::nats::{Subject, encode_subscribe, encode_unsubscribe};
use crate::proto::output::ConnectionId;
use crate::proto::partition::{PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::time::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Before a server has said what time it is: it is not further behind.
const CLOCK_BEHIND_MAX_MS: i64 = -10_000;
/// The prefix of the subjects under which topics are stored.
pub(super) const STORED_PREFIX: &str = "mqtt";
/// A subject of the stream of what is for applications only that is no topic's.
pub(super) const UPLINK_MARK_SUBJECT: &[u8] = b"mqtt_uplink$.%mark";
/// Subscription ids of answers: to publishes, and to questions.
pub(super) const ACKS_SID: u64 = 1;
pub(super) const ANSWERS_SID: u64 = 2;
/// And of stored marks, where the stream has replicas.
pub(super) const MARKS_SID: u64 = 3;
/// After a server could not say what was asked for, when to ask again.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// So many times that at most, for publishes that are refused.
const REFUSED_WAITS_MAX: u32 = 20;

/// Where the feed is: every message below [`Feed::fed`] that this shard wants was given to it.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) stage: FeedStage,
    /// The next sequence; 0 before it is known where the feed begins.
    pub(super) fed: Sequence,
    /// What was told of `fed`.
    pub(super) told: Sequence,
    pub(super) confirmed: Confirmed,
    /// From here on everything that the shard subscribes to came by itself, if that is known.
    pub(super) whole_from: Option<Sequence>,
    /// What is given from before this place was missed, and may come behind later messages of its topic.
    pub(super) late_below: Sequence,
    /// The mark that tells `whole_from`.
    pub(super) whole_mark: u64,
    /// What keeps it back, from some place on.
    pub(super) gates: Vec<Gate>,
}

/// What keeps back the feed of a partition that takes topics over: a topic's messages here come after all
/// it has where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    /// Nothing is given to the shard from here on.
    pub(super) from: Sequence,
    /// Before it was fed everything of this partition …
    pub(super) giver: PartitionId,
    /// … before this.
    pub(super) end: Sequence,
}

impl Feed {
    /// What comes from here on waits for other partitions.
    pub(super) fn limit(&self) -> Option<Sequence> {
        self.gates.iter().map(|gate| gate.from).min()
    }

    /// What comes at `sequence` waits for other partitions.
    pub(super) fn is_shut_at(&self, sequence: Sequence) -> bool {
        self.limit().is_some_and(|limit| sequence >= limit)
    }

    /// Everything before `sequence` was given to the shard, and this comes now. Stops at the gate before it,
    /// if there is one.
    pub(super) fn stop_at(&mut self, sequence: Sequence) -> bool {
        let limit = self.limit().filter(|limit| sequence >= *limit);
        if let Some(limit) = limit {
            (self.fed, self.stage) = (limit.max(self.fed), FeedStage::Gated);
        }
        limit.is_some()
    }

    /// Reads on up to `end`, or up to a gate.
    pub(super) fn read_to(&mut self, end: Sequence, again: u8) {
        let limit = self.limit().filter(|limit| *limit < end);
        let until = limit.map_or(end, |limit| limit.max(self.fed));
        self.stage = FeedStage::Reading { until, again, is_cut: limit.is_some() };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedStage {
    /// No link, or one whose subscriptions are not in force yet.
    Detached,
    /// Subscribed; where the stream ends is being asked, by this mark.
    ExpectMark(u64),
    /// What came before `until` is being read, for the last time or `again` so often. `is_cut`: there is
    /// more, behind a gate.
    Reading { until: Sequence, again: u8, is_cut: bool },
    /// Subscribed; what is still there of what was fed before is being asked.
    Checking { until: Sequence },
    /// Subscribed; the feed is at a gate, and nothing more is read or given to the shard until that opens.
    Gated,
    /// Everything comes by itself.
    Live,
}

/// Questions for the end of the stream: at most one is on its way.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The last one that somebody waits for.
    wanted: u64,
    sent: u64,
    /// The last one sent is not answered.
    is_under_way: bool,
    pub(super) answered: u64,
    /// The last one that the server could not answer.
    failed: u64,
    /// What the last answer said.
    pub(super) end: Sequence,
    retry_at: Timestamp,
}

impl Marks {
    /// Asks for one that is sent after this call; its number.
    pub(super) fn want(&mut self) -> u64 {
        self.wanted = self.sent + 1;
        self.wanted
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.wanted > self.sent && !self.is_under_way && now >= self.retry_at
    }

    fn next_timeout(&self) -> Timestamp {
        let waits = self.wanted > self.sent && !self.is_under_way;
        if waits { self.retry_at } else { Timestamp::NEVER }
    }

    /// The answer to mark `number`; false when it is none to the last.
    pub(super) fn answer(&mut self, number: u64, end: Sequence) -> bool {
        let is_last = number == self.sent && std::mem::take(&mut self.is_under_way);
        if is_last {
            (self.answered, self.end) = (number, end);
        }
        is_last
    }

    /// It was not answered: another is sent later, and serves who waits for this one.
    pub(super) fn fail(&mut self, retry_at: Timestamp) {
        if std::mem::take(&mut self.is_under_way) {
            self.failed = self.sent;
            self.wanted = self.wanted.max(self.sent + 1);
        }
        self.retry_at = retry_at;
    }

    /// The last one of which is known what the server says was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered > self.failed
    }

    /// The last one of which is known what the server says.
    fn settled(&self) -> u64 {
        self.answered.max(self.failed)
    }
}

/// Behind subscriptions that are not known to be in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFence {
    pub(super) fence: Fence,
    /// Before it is answered, the shard does not know what was stored before the subscriptions.
    pub(super) mark: u64,
    /// What is in force when both are passed.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    /// Whose it is.
    pub(super) sub_cluster: String,
    /// So far the servers' clock is ahead of the gateway's, at least.
    pub(super) clock_ahead_ms: i64,
    /// Taken out while it reads.
    pub(super) link: Option<Link>,
    pub(super) connection: Option<ConnectionId>,
    /// Where the link is, or is about to be.
    pub(super) address: Option<SocketAddr>,
    pub(super) ready: bool,
    /// Of how the link goes on in TLS, if it does.
    pub(super) tls_number: u16,
    /// Whose sub-cluster is configured here.
    pub(super) is_configured: bool,
    /// The number of the last attempt to connect.
    pub(super) dial: u64,
    /// The link is to a server that does not lead.
    pub(super) is_misled: bool,
    /// A message that should have come on the link did not.
    pub(super) has_gap: bool,
    /// The stream ends before where it ended.
    pub(super) has_lost_end: bool,
    /// It was lost since it was there last, or could not be made.
    was_lost: bool,
    /// Bytes that the link's socket has not taken.
    pub(super) pending_bytes: usize,
    /// Publishes refused since the last that was not.
    pub(super) refused: u32,
    /// What its servers have refused.
    pub(super) refusals: Refusals,
    pub(super) inbox_prefix: String,
    attempts: u64,
    pub(super) acks: Inbox,
    pub(super) answers: Inbox,
    /// Where the pulls of groups bring messages, but for the group's number.
    pub(super) group_prefix: Vec<u8>,
    /// Acknowledgements to consumers, for the next link.
    pub(super) pending_acks: Vec<u8>,
    /// For the link, in order.
    pub(super) out: Vec<u8>,
    pub(super) lane: Lanes,
    pub(super) feed: Feed,
    pub(super) tail: Tail,
    pub(super) marks: Marks,
    pub(super) requests: Requests,
    pub(super) replays: Replays,
    pub(super) searches: Searches,
    pub(super) former: FormerLinks,
    pub(super) known: Known,
    pub(super) lives: Lives,
    pub(super) status: Option<PartitionStatus>,
    /// In order.
    pub(super) fences: VecDeque<OpenFence>,
    /// The last fence of this connection that was passed.
    pub(super) passed: Fence,
    pub(super) has_new_interest: bool,
    /// The last message of QoS 0 of each source.
    pub(super) sources: HashMap<Box<[u8]>, u64, ahash::RandomState>,
    pub(super) live: TopicPrefix,
    /// Where messages of QoS 0 go that are for applications only.
    pub(super) live_uplink: TopicPrefix,
    pub(super) retained: TopicPrefix,
    /// Where the leader is asked how the stream is.
    pub(super) info: String,
    apis: [Apis; 3],
    pub(super) scratch: Vec<u8>,
    subject: Vec<u8>,
}

/// The streams of a partition, by what they keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Messages,
    Retained,
    /// Messages for applications only.
    Uplink,
}

/// Where servers are asked for messages of a stream, and where its leader is.
#[derive(Debug)]
struct Apis {
    direct_get: String,
    message_get: String,
}

/// The subjects under which topics are stored.
#[derive(Debug)]
pub(super) struct Prefixes {
    pub(super) messages: TopicPrefix,
    /// Of topics for applications only.
    pub(super) uplink: TopicPrefix,
}

impl Prefixes {
    pub(super) fn new() -> Self {
        let prefix = |text| TopicPrefix::new(text).expect("made of letters");
        Self { messages: prefix(STORED_PREFIX), uplink: prefix(UPLINK_PREFIX) }
    }
}

/// What was not acknowledged in time and is not written again.
#[derive(Debug)]
pub(super) struct Overdue {
    /// It is stored, at this place, and to be retained.
    pub(super) to_retain: Vec<(Token, (PartitionId, Sequence))>,
    /// Something is sent once a link, and this one is to be given up.
    pub(super) is_silent: bool,
}

/// What the partitions of a shard have in common.
#[derive(Clone, Debug)]
pub struct PartitionLimits {
    /// Of the lane of each.
    pub lane: LaneLimits,
    /// Bytes of the last messages kept, each.
    pub tail_bytes_max: usize,
    /// Bytes of stored messages kept for sessions that are behind, each.
    pub page_bytes_max: usize,
    /// Of shared subscriptions.
    pub shared: SharedLimits,
    /// Bytes waiting for a link above which messages of QoS 0 are dropped.
    pub link_write_bytes_max: usize,
    /// Bytes of publishes held while their topics move, of all partitions together.
    pub held_bytes_max: usize,
}

/// Sources of QoS 0 remembered a link; when there are more all are forgotten, and a message whose
/// copies come just then may be delivered twice.
pub(super) const SOURCES_MAX: usize = 4_096;

impl Partition {
    pub(super) fn new(
        id: PartitionId,
        settings: Arc<LinkSettings>,
        servers: &[SocketAddr],
        inbox_prefix: String,
        limits: &PartitionLimits,
        seed: u64,
    ) -> Self {
        let answers = Inbox::new(&format!("{inbox_prefix}.0.q"));
        let prefix = |text: &str| TopicPrefix::new(text).expect("made of letters and digits");
        Self {
            id,
            sub_cluster: settings.name.clone(),
            clock_ahead_ms: CLOCK_BEHIND_MAX_MS,
            link: Some(Link::new(settings, servers, seed)),
            connection: None,
            address: None,
            ready: false,
            tls_number: 0,
            is_configured: true,
            dial: 0,
            is_misled: false,
            has_gap: false,
            has_lost_end: false,
            was_lost: false,
            pending_bytes: 0,
            refused: 0,
            refusals: Refusals::default(),
            attempts: 0,
            acks: Self::acks_of(&inbox_prefix, 0),
            answers: answers.expect("made of letters and digits"),
            inbox_prefix,
            group_prefix: Vec::new(),
            pending_acks: Vec::new(),
            out: Vec::new(),
            lane: Lanes::new(limits.lane),
            feed: Feed {
                stage: FeedStage::Detached,
                fed: Sequence::ZERO,
                told: Sequence::ZERO,
                confirmed: Confirmed::default(),
                whole_from: None,
                late_below: Sequence::ZERO,
                whole_mark: 0,
                gates: Vec::new(),
            },
            tail: Tail::new(limits.tail_bytes_max),
            marks: Marks::default(),
            requests: Requests::default(),
            replays: Replays::new(limits.page_bytes_max),
            searches: Searches::default(),
            former: FormerLinks::default(),
            known: Known::default(),
            lives: Lives::default(),
            status: None,
            fences: VecDeque::new(),
            passed: Fence::default(),
            has_new_interest: false,
            sources: HashMap::default(),
            live: prefix(&format!("{}.{STORED_PREFIX}", live_prefix(id))),
            live_uplink: prefix(&format!("{}.{UPLINK_PREFIX}", live_prefix(id))),
            retained: prefix(&format!("{}.{STORED_PREFIX}", retained_prefix(id))),
            info: format!("$JS.API.STREAM.INFO.{}", stream_name(id)),
            apis: [stream_name(id), retained_stream_name(id), uplink_stream_name(id)].map(
                |stream| {
                    let direct_get = format!("$JS.API.DIRECT.GET.{stream}");
                    Apis { direct_get, message_get: format!("$JS.API.STREAM.MSG.GET.{stream}") }
                },
            ),
            scratch: Vec::new(),
            subject: Vec::new(),
        }
    }

    /// The link can be written to: subscribes, sends what is not acknowledged, and asks where the
    /// stream ends.
    pub(super) fn attach(
        &mut self,
        home: u16,
        interest: &Interest,
        mut owns: impl FnMut(&str) -> bool,
        now: Timestamp,
    ) {
        (self.ready, self.was_lost) = (true, false);
        let has_fenced = self.doubt(home);
        self.begin_former(self.attempts, has_fenced, now);
        self.attempts += 1;
        let answers = Inbox::new(&format!("{}.{}.q", self.inbox_prefix, self.attempts));
        self.acks = Self::acks_of(&self.inbox_prefix, self.attempts);
        self.answers = answers.expect("made of letters and digits");
        self.group_prefix = format!("{}.{}.g.", self.inbox_prefix, self.attempts).into_bytes();
        encode_subscribe(self.acks.filter(), None, ACKS_SID, &mut self.out);
        encode_subscribe(self.answers.filter(), None, ANSWERS_SID, &mut self.out);
        if self.is_replicated() {
            // Those of others say how far the feed is, too.
            let marks = [live_prefix(self.id).as_bytes(), b".", MARK_SUBJECT.as_bytes()].concat();
            encode_subscribe(Subject::from_checked(&marks), None, MARKS_SID, &mut self.out);
        }
        for (place, filter) in interest.iter() {
            if owns(filter) {
                self.subscribe(place, filter);
            }
        }
        if self.is_replicated() {
            // From where on nothing was given before what a leader did not send: see `shows_gap`.
            let given_to = self.feed.confirmed.given_to();
            let whole_from = self.feed.whole_from.unwrap_or(given_to);
            self.feed.late_below = whole_from.min(given_to).max(self.feed.late_below);
            self.feed.fed = self.feed.confirmed.go_back(self.feed.fed);
        }
        self.expect_mark();
        self.expect_whole();
        self.tail.restart(Sequence::ZERO);
    }

    /// The server may have stored what it did not acknowledge, and forgotten its name since, or never have
    /// known it: it is looked for. Whether something of that may still be on its way.
    fn doubt(&mut self, home: u16) -> bool {
        let mut has_fenced = false;
        for (token, next) in self.lane.doubt() {
            let Some(append) = self.lane.get(token) else {
                continue;
            };
            // Of the stream of what is for applications only nothing was known but the time; and of one that
            // may have lost its end, it was sent when too much was believed to be there.
            let is_by_time = append.is_uplink || self.lives.is_due || next == Sequence::ZERO;
            let since = place::inside(place::since(append.pushed_at));
            let next = if is_by_time { since } else { Start::At(next) };
            let kept = if append.is_uplink { Kept::Uplink } else { Kept::Messages };
            let is_fenced = !append.named;
            has_fenced |= is_fenced;
            let search = Search { is_fenced, ..Search::new(next, kept) };
            self.searches.push(Publish { home, token }, search);
        }
        has_fenced
    }

    /// Keeps back what comes from some place on. A feed that is live learns of it by what comes.
    pub(super) fn close_gate(&mut self, gate: Gate) {
        self.feed.gates.push(gate);
        match self.feed.stage {
            // What is on its way is taken up to there; then it is seen whether the gate is open.
            FeedStage::Reading { until, again, is_cut } => {
                self.feed.read_to(until, again);
                if let FeedStage::Reading { is_cut: cut, .. } = &mut self.feed.stage {
                    *cut |= is_cut;
                }
            }
            FeedStage::ExpectMark(_) if self.feed.is_shut_at(self.feed.fed) => {
                self.feed.stage = FeedStage::Gated;
            }
            FeedStage::ExpectMark(_)
            | FeedStage::Checking { .. }
            | FeedStage::Detached
            | FeedStage::Gated
            | FeedStage::Live => {}
        }
    }

    /// Opens gates; what came meanwhile is read, and then what comes is given again.
    pub(super) fn open_gates(&mut self, is_open: impl Fn(&Gate) -> bool) {
        self.feed.gates.retain(|gate| !is_open(gate));
        if self.feed.stage == FeedStage::Gated {
            self.expect_mark();
        }
    }

    /// Asks where the stream ends, to read up to there, unless the feed is at a gate.
    pub(super) fn expect_mark(&mut self) {
        self.feed.stage = match self.feed.is_shut_at(self.feed.fed) {
            true => FeedStage::Gated,
            false => FeedStage::ExpectMark(self.marks.want()),
        };
    }

    /// Everything before this was given to the shard.
    pub(super) fn complete_below(&self) -> Sequence {
        if self.is_replicated() { self.feed.confirmed.below() } else { self.feed.fed }
    }

    /// Subscriptions were added: from which place on they bring everything, the next mark tells.
    pub(super) fn expect_whole(&mut self) {
        (self.feed.whole_from, self.feed.whole_mark) = (None, self.marks.want());
    }

    /// Whether a message, by the one before it of its subject, shows that this one never came,
    /// although it should have: nobody republishes what a leader had stored and not yet sent when
    /// another took over.
    pub(super) fn shows_gap(&self, stored: &Stored<'_>) -> bool {
        let (Some(before), Some(whole_from)) = (stored.last_sequence, self.feed.whole_from) else {
            return false;
        };
        self.is_replicated() && before >= whole_from && !self.feed.confirmed.was_given(before)
    }

    /// The link is lost, or given up.
    pub(super) fn detach(&mut self) {
        self.ready = false;
        self.was_lost = true;
        self.pending_bytes = 0;
        self.connection = None;
        self.out.clear();
        self.feed.stage = FeedStage::Detached;
        self.marks.fail(Timestamp::START);
        self.requests.clear();
        self.replays.lose_answers();
        self.searches.lose_answers();
        self.known.forget();
        self.sources.clear();
    }

    pub(super) fn subscribe(&mut self, place: FilterPlace, filter: &str) {
        let Ok(subjects) = self.live.filter_subjects(filter, &mut self.subject) else {
            // No message has so long a topic.
            return;
        };
        let [first, above] = place.sids();
        encode_subscribe(subjects.first, None, first, &mut self.out);
        if let Some(parent) = subjects.parent {
            encode_subscribe(parent, None, above, &mut self.out);
        }
    }

    pub(super) fn unsubscribe(&mut self, place: FilterPlace, filter: &str) {
        let [first, above] = place.sids();
        encode_unsubscribe(first, None, &mut self.out);
        if filter.ends_with("/#") {
            encode_unsubscribe(above, None, &mut self.out);
        }
    }

    /// When to send again what a server has refused: later each time in a row.
    pub(super) fn refused_until(&mut self, now: Timestamp) -> Timestamp {
        self.refused = self.refused.saturating_add(1);
        now.after(RETRY * self.refused.min(REFUSED_WAITS_MAX))
    }

    /// Writes a publish that is in the lane.
    pub(super) fn send(&mut self, token: Token, stored: &Prefixes, now: Timestamp) {
        let fed = self.known_end();
        let Some(append) = self.lane.sent(token, fed) else {
            return;
        };
        let reply_to = self.acks.reply_to(token, &mut self.scratch);
        put_append(append, stored, reply_to, &mut self.subject, now, &mut self.out);
    }

    /// Writes again what was not acknowledged in time. What is stored and is to be retained is not
    /// written again, but returned.
    pub(super) fn send_due(&mut self, stored: &Prefixes, now: Timestamp) -> Overdue {
        let fed = self.known_end();
        let Self { lane, acks, scratch, subject, out, .. } = self;
        let mut to_retain = Vec::new();
        let is_silent = lane.take_due(now, fed, |token, append| {
            if let Some(at) = append.stored {
                to_retain.push((token, at));
                return;
            }
            let reply_to = acks.reply_to(token, scratch);
            put_append(append, stored, reply_to, subject, now, out);
        });
        Overdue { to_retain, is_silent }
    }

    /// Asks for messages of a stream.
    pub(super) fn ask(&mut self, scan: Scan, kept: Kept, now: Timestamp) {
        let from = match scan.purpose {
            // That is a time by the server's clock.
            Purpose::Lost | Purpose::Check(_) => scan.from,
            _ => place::by_clock(scan.from, self.clock_ahead_ms),
        };
        let scan = Scan { from, ..scan };
        let token = self.requests.ask(Pending::Scan(scan.clone()), now);
        let reply_to = self.answers.reply_to(token, &mut self.scratch);
        let [messages, retained, uplink] = &self.apis;
        let api = match kept {
            Kept::Messages => messages,
            Kept::Retained => retained,
            Kept::Uplink => uplink,
        };
        let api = Subject::from_checked(api.direct_get.as_bytes());
        scan.request().encode(api, reply_to, &mut self.out);
    }

    /// Looks at the retained messages that are not known; `last` is the last question for some.
    pub(super) fn ask_known(&mut self, last: u64, now: Timestamp) {
        let (from, count) = self.known.look(last, now);
        let (purpose, from) = (Purpose::Known, Start::At(from));
        let batch = NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN);
        // All there are; a leader that is asked whether there are no more wants it in words.
        let all = || format!("{}.>", retained_prefix(self.id)).into_bytes().into_boxed_slice();
        let subject = self.is_replicated().then(all);
        let scan = Scan { purpose, from, subject, batch, last_only: false };
        self.ask(scan, Kept::Retained, now);
    }

    /// Notes a question, and calls `put` to write it.
    pub(super) fn ask_with(
        &mut self,
        pending: Pending,
        now: Timestamp,
        put: impl FnOnce(Subject<'_>, &mut Vec<u8>),
    ) {
        let token = self.requests.ask(pending, now);
        put(self.answers.reply_to(token, &mut self.scratch), &mut self.out);
    }

    /// Whether a server that has nothing more to say may be one that has not got everything yet.
    ///
    /// With replicas each mark is a message: who has it sends it, or something behind it, to whoever
    /// asks for all subjects.
    pub(super) fn may_lag(&self, purpose: Purpose) -> bool {
        self.is_replicated()
            && match purpose {
                Purpose::First { .. } | Purpose::Check(_) => true,
                Purpose::Lost => self.may_be_behind(),
                Purpose::Feed => {
                    matches!(self.feed.stage, FeedStage::Reading { until, .. } if self.feed.fed < until)
                }
                _ => self.replays.falls_short(purpose),
            }
    }

    /// What is stored from now on is here or later; 0 while nothing would show that places are used again.
    pub(super) fn known_end(&self) -> Sequence {
        if self.lives.knows_nothing() {
            return Sequence::ZERO;
        }
        let looked_at = || self.status.as_ref().map(|status| status.last.next());
        let fed = Some(self.feed.fed).filter(|fed| *fed > Sequence::ZERO);
        fed.or_else(looked_at).unwrap_or(Sequence(1))
    }

    /// A server has said what time it is, and that was before `now`.
    pub(super) fn note_clock(&mut self, server: Timestamp, now: Timestamp) {
        let ahead_ms = i128::from(server.0) - i128::from(now.0);
        let ahead_ms = i64::try_from(ahead_ms).unwrap_or(CLOCK_BEHIND_MAX_MS);
        self.clock_ahead_ms = ahead_ms;
    }

    /// How long ago something was stored, at least, by the clock of the servers.
    pub(super) fn age(&self, stored_at: Timestamp, now: Timestamp) -> Duration {
        let server_now = Timestamp(now.0.saturating_add_signed(self.clock_ahead_ms));
        Duration::from_millis(server_now.millis_since(stored_at))
    }

    /// Where the leader is asked for a message.
    pub(super) fn message_get(&self, kept: Kept) -> &str {
        let [messages, retained, uplink] = &self.apis;
        match kept {
            Kept::Messages => &messages.message_get,
            Kept::Retained => &retained.message_get,
            Kept::Uplink => &uplink.message_get,
        }
    }

    /// Asks for the first message stored at or after `time`.
    pub(super) fn ask_first(&mut self, time: StoreTime, replay: Option<u64>, now: Timestamp) {
        let (purpose, from) = (Purpose::First { replay }, Start::Since(time));
        let batch = NonZeroU16::MIN;
        let scan = Scan { purpose, from, subject: None, batch, last_only: false };
        self.ask(scan, Kept::Messages, now);
    }

    /// Asks where the stream ends, if anyone wants to know.
    pub(super) fn send_mark(&mut self, now: Timestamp) {
        if !self.ready || !self.marks.is_due(now) {
            return;
        }
        let Some(status) = &self.status else {
            return;
        };
        let stored = status.replicas > 1;
        self.marks.sent += 1;
        self.marks.is_under_way = true;
        self.ask_with(Pending::Mark(self.marks.sent), now, |reply_to, out| {
            encode_mark(Subject::from_checked(MARK_SUBJECT.as_bytes()), reply_to, stored, out);
        });
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        let link = self.link.as_ref().map_or(Timestamp::NEVER, Link::next_timeout);
        if !self.ready {
            return link;
        }
        let lane = self.lane.next_timeout();
        // What waits for room has it when something is answered.
        let searches = match self.requests.is_full() {
            true => Timestamp::NEVER,
            false => self.searches.next_timeout(),
        };
        let searches = searches.min(self.former.next_timeout());
        let replays = self
            .replays
            .next_timeout()
            .min(self.lives.next_timeout())
            .min(searches)
            .min(self.known.next_timeout());
        link.min(lane).min(replays).min(self.marks.next_timeout()).min(self.requests.next_timeout())
    }

    /// The stream has more servers than one, any of which may come to lead.
    pub(super) fn is_replicated(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.replicas > 1)
    }

    /// Whether a message that was read or came is to be given to the shard: it was not before.
    pub(super) fn is_new(&mut self, sequence: Sequence) -> bool {
        !self.is_replicated() || self.feed.confirmed.give(sequence)
    }

    /// The link is there, or is about to be for the first time: a leader is known.
    pub(super) fn is_expected(&self) -> bool {
        let has_leader = self.status.as_ref().is_some_and(|status| status.leader.is_some());
        self.ready || has_leader && !self.was_lost
    }

    /// Forgets the fences that are passed.
    pub(super) fn pass_fences(&mut self) {
        let (passed, settled) = (self.passed, self.marks.settled());
        let is_passed = |open: &OpenFence| open.fence <= passed && open.mark <= settled;
        while self.fences.front().is_some_and(is_passed) {
            self.fences.pop_front();
        }
    }

    /// Whether this copy of a message of QoS 0 is the first.
    pub(super) fn is_first_copy(&mut self, reply_to: Option<&[u8]>) -> bool {
        let source = reply_to.and_then(|source| {
            let dot = memchr::memrchr(b'.', source)?;
            let (source, number) = source.split_at_checked(dot)?;
            Some((source, crate::proto::nats::json::decimal(number.get(1..)?)?))
        });
        // Somebody else's message: taken as it comes.
        let Some((source, number)) = source else {
            return true;
        };
        if let Some(last) = self.sources.get_mut(source) {
            let is_later = number > *last;
            *last = number.max(*last);
            return is_later;
        }
        if self.sources.len() >= SOURCES_MAX {
            self.sources.clear();
        }
        self.sources.insert(source.into(), number);
        true
    }
}

fn put_append(
    append: &Append,
    stored: &Prefixes,
    reply_to: Subject<'_>,
    subject: &mut Vec<u8>,
    now: Timestamp,
    out: &mut Vec<u8>,
) {
    let message = message_of(&append.body);
    let prefix = if append.is_uplink { &stored.uplink } else { &stored.messages };
    let subject = prefix.subject(message.topic, subject);
    let subject = subject.expect("topics that are too long are refused");
    encode_append(subject, reply_to, &append.id.text(), append.named, &message, now, out)
        .expect("a message id has no line end");
}

/// The message in a record body that this gateway wrote.
pub(super) fn message_of(body: &[u8]) -> Message<'_> {
    match Record::decode(body) {
        Some(Record::Message(message)) => message,
        _ => unreachable!("a lane and a tail hold messages"),
    }
}
