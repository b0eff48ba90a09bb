//! Questions of a shard that a server has not answered yet.

use super::direct_get::{DirectGet, Start};
use super::inbox::Token;
use super::sessions::SessionRequest;
use crate::proto::nats::Subject;
use crate::proto::partition::Sequence;
use crate::proto::session::GroupId;
use crate::proto::time::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

/// What was asked.
#[derive(Debug)]
pub enum Pending {
    /// Where the stream ends, and the question's number: see [`super::publish::encode_mark`].
    Mark(u64),
    /// Whether what was on its way to the stream of what is for applications only is stored: see
    /// [`super::former`].
    UplinkMark,
    /// The same as a mark, of the leader, as the stream does not take that mark: see [`super::stream_end`].
    End(u64),
    /// Stored messages.
    Scan(Scan),
    /// Whether the leader has none where a server had none: see [`super::absent`].
    Absent(Scan),
    /// A retained message is being put, for this publish.
    RetainedPut(Token),
    /// The consumer of a shared subscription's group is being made.
    Consumer(GroupId),
    /// Something about a session.
    Session(SessionRequest),
}

/// A question for stored messages.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Who asked.
    pub purpose: Purpose,
    /// The first one wanted.
    pub from: Start,
    /// Only these; `None` for all.
    pub subject: Option<Box<[u8]>>,
    /// At most so many.
    pub batch: NonZeroU16,
    /// Only the last message of the subject, which has no wildcards then: costs a server least.
    pub last_only: bool,
}

/// Bytes of the messages that answer one question, but for one that is larger by itself.
const BYTES_MAX: u32 = 4 * 1_024 * 1_024;
/// The same where only their subjects are wanted.
const KNOWN_BYTES_MAX: u32 = 128 * 1_024;

/// Who asked for stored messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The shard, for what it missed while it had no link.
    Feed,
    /// Whoever knows only from when on messages are wanted, for the first of them.
    First {
        /// See [`super::replay::Replay`]; `None` for the shard's feed.
        replay: Option<u64>,
    },
    /// A session that is behind: its replay, and which of the subjects it reads.
    Subject {
        /// See [`super::replay::Replay`].
        replay: u64,
        /// Which of its subjects.
        place: u16,
    },
    /// All sessions that are behind here.
    Page(u64),
    /// A session that wants single messages.
    Fetch {
        /// See [`super::replay::Fetch`].
        fetch: u64,
        /// The message wanted.
        sequence: Sequence,
    },
    /// A new subscription that wants retained messages.
    Retained(u64),
    /// The shard, to know which retained messages there are: see [`super::known`].
    Known,
    /// The retained message that the one of this publish is to replace.
    RetainedLast(Token),
    /// The publish that is not to replace it, as it says that it was stored later: whether it is there still.
    RetainedPlace(Claim),
    /// Where the message of this publish is, if it was stored before a crash.
    Stored(Publish),
    /// The shard, for what is still there of what it knew: see [`super::lost_tail`].
    Lost,
    /// The same for a session that was stored.
    Check(u64),
    /// The shard, for a message to know that is not far behind its feed.
    Newest,
}

/// What a retained message says of its place, and of whose publish that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The publish that it is in the way of.
    pub token: Token,
    /// The place, in the stream of messages, or in that of those for applications only.
    pub sequence: Sequence,
    /// It is the latter.
    pub is_uplink: bool,
    /// Where it is itself, among the retained.
    pub retained_at: Sequence,
    /// Of its payload.
    pub hash: u64,
}

/// A publish that is looked for, here or where its topic was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// Place of the partition in whose lane it is.
    pub home: u16,
    /// Its own there.
    pub token: Token,
}

impl Scan {
    /// The request as it is sent, and against which answers are read.
    #[must_use]
    pub fn request(&self) -> DirectGet<'_> {
        let subject = self.subject.as_deref().map(Subject::from_checked);
        if let Some(subject) = subject.filter(|_| self.last_only) {
            return DirectGet::Last { subject };
        }
        let bytes_max = match self.purpose {
            // Their content is of no use.
            Purpose::Known => KNOWN_BYTES_MAX,
            _ => BYTES_MAX,
        };
        DirectGet::Scan { from: self.from, subject, batch: self.batch, bytes_max: Some(bytes_max) }
    }
}

/// The questions of one link. All are given the same time.
#[derive(Debug, Default)]
pub struct Requests {
    pending: HashMap<Token, Pending, ahash::RandomState>,
    /// In the order in which they were asked, those that are answered among them.
    due: VecDeque<(Timestamp, Token)>,
    next: u64,
    /// When something was answered last.
    answered_at: Timestamp,
}

impl Requests {
    /// Questions not answered above which further ones wait.
    pub const COUNT_MAX: usize = 256;
    /// How long a server may answer nothing.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Notes a question; its token goes into its reply subject.
    pub fn ask(&mut self, pending: Pending, now: Timestamp) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.pending.insert(token, pending);
        self.due.push_back((now.after(Self::TIMEOUT), token));
        token
    }

    /// The question that is answered; to be put back if more answers are to come.
    pub fn take(&mut self, token: Token, now: Timestamp) -> Option<Pending> {
        self.answered_at = now;
        self.pending.remove(&token)
    }

    /// So many are not answered that the next should wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending.len() >= Self::COUNT_MAX
    }

    /// More answers are to come.
    pub fn put_back(&mut self, token: Token, pending: Pending) {
        self.pending.insert(token, pending);
    }

    /// All are answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Forgets when the oldest are due that are answered.
    pub fn prune(&mut self) {
        while self.due.front().is_some_and(|(_, token)| !self.pending.contains_key(token)) {
            self.due.pop_front();
        }
    }

    /// When the oldest question has waited too long, and nothing else was answered; too early unless [`Requests::prune`] was called.
    pub fn next_timeout(&self) -> Timestamp {
        let quiet = self.answered_at.after(Self::TIMEOUT);
        self.due.front().map_or(Timestamp::NEVER, |(due, _)| quiet.max(*due))
    }

    /// The link is lost: nothing will be answered any more.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_not_answered_is_due_first() {
        let mut requests = Requests::default();
        let first = requests.ask(Pending::Mark(1), Timestamp(1_000));
        let second = requests.ask(Pending::Mark(1), Timestamp(2_000));
        assert_eq!(requests.next_timeout(), Timestamp(6_000));
        let pending = requests.take(first, Timestamp::START).unwrap();
        requests.put_back(first, pending);
        requests.prune();
        assert_eq!(requests.next_timeout(), Timestamp(6_000), "more of it is to come");
        requests.take(first, Timestamp::START).unwrap();
        requests.prune();
        assert_eq!(requests.next_timeout(), Timestamp(7_000));
        assert!(
            requests.take(second, Timestamp::START).is_some()
                && requests.take(second, Timestamp::START).is_none()
        );
        requests.clear();
        assert_eq!(requests.next_timeout(), Timestamp::NEVER);
        let third = requests.ask(Pending::Mark(1), Timestamp(3_000));
        assert!(third > second, "a token is never used again");
    }
}
