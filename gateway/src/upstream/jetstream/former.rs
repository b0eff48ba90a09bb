//! Former links of a partition, of which a server may still read what was written to them.
//!
//! ```text
//! link lost ─▶ a new one ─▶ Asking: does a server still have the former one? ── no, or not in time ──▶
//! Settling: a mark ─▶ Clear: what was not acknowledged is looked for, and sent if it is nowhere
//! ```
//! A publish whose name the server does not know is sent once a link. Where a link was lost before the
//! acknowledgement came, the next one looks for it. A server that stood still, or was slow, may come to the
//! copy on the former link only after that: it would be stored a second time, behind later messages of its
//! topic. So the new link asks for something to which only the former one subscribes. While a server has
//! that, it is delivered there and nobody answers; "no responders" says that the server has read the former
//! link to its end, and removed it. What it read then may still be in line for the stream, in front of a mark
//! that is asked for afterwards.
//!
//! In a cluster the former link may be one to another server: what that one read has come, by the same way, before
//! it says that nobody subscribes there any more. If it is gone, what it has not passed on is gone with it.
//!
//! Source: NATS documentation, "no responders"; nats-server 2.15.1, `client.go` and `stream.go`.

use super::inbox::{Inbox, Token};
use super::lanes::Lanes;
use super::partition::{Kept, Partition, RETRY, UPLINK_MARK_SUBJECT};
use super::publish::{NO_RESPONDERS, PublishAnswer, encode_mark, read_publish_answer};
use super::requests::Pending;
use crate::proto::nats::{Message as NatsMessage, Subject, encode_publish};
use crate::proto::time::Timestamp;
use std::time::Duration;

/// How long a server may take to read a former link to its end. It is not waited for longer: a machine that has
/// lost its network may hold one open for minutes. What comes even later may be stored a second time.
pub(super) const FORMER_LINK_WAIT_MAX: Duration = Duration::from_secs(10);
/// It is asked so often.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// So many former links are remembered; of those before, nobody hears for longer than that takes.
const COUNT_MAX: u64 = 64;
const _: () =
    assert!(COUNT_MAX <= Lanes::FIRST_TOKEN, "answers are told apart by tokens of no lane");

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FormerLinks {
    /// Of links with publishes that were not acknowledged: which attempt each was.
    numbers: Vec<u64>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Clear,
    Asking {
        ask_at: Timestamp,
        until: Timestamp,
    },
    Settling {
        /// Behind what was in line for the stream of messages, until it is answered.
        mark: Option<u64>,
        uplink: Uplink,
    },
}

/// The same for the stream of what is for applications only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uplink {
    Settled,
    Due(Timestamp),
    Asked,
}

impl FormerLinks {
    /// Link `number` is gone. Answers tell the last [`COUNT_MAX`] apart.
    fn note(&mut self, number: u64) {
        self.numbers.push(number);
        self.numbers.retain(|one| one + COUNT_MAX > number);
    }

    /// When [`Partition::drive_former`] has something to do.
    pub(super) fn next_timeout(&self) -> Timestamp {
        match self.stage {
            Stage::Asking { ask_at, until } => ask_at.min(until),
            Stage::Settling { uplink: Uplink::Due(at), .. } => at,
            Stage::Settling { .. } | Stage::Clear => Timestamp::NEVER,
        }
    }
}

impl Partition {
    /// A new link is there; with `has_doubts` the one before it, of this number, had publishes that are fenced.
    pub(super) fn begin_former(&mut self, number: u64, has_doubts: bool, now: Timestamp) {
        let Self { former, searches, .. } = self;
        if has_doubts {
            former.note(number);
        }
        if searches.has_fenced(Kept::Messages) || searches.has_fenced(Kept::Uplink) {
            former.stage = Stage::Asking { ask_at: now, until: now.after(FORMER_LINK_WAIT_MAX) };
        } else {
            *former = FormerLinks::default();
        }
    }

    /// Goes on as far as it can. True if a former link is not waited for any longer.
    pub(super) fn drive_former(&mut self, now: Timestamp) -> bool {
        let mut is_given_up = false;
        if let Stage::Asking { ask_at, until } = self.former.stage {
            is_given_up = now >= until && !self.former.numbers.is_empty();
            if is_given_up {
                self.former.numbers.clear();
            }
            if !self.former.numbers.is_empty() {
                if now >= ask_at {
                    self.ask_former();
                    self.former.stage = Stage::Asking { ask_at: now.after(ASK_INTERVAL), until };
                }
                return false;
            }
            let has_uplink = self.searches.has_fenced(Kept::Uplink);
            let uplink = if has_uplink { Uplink::Due(now) } else { Uplink::Settled };
            self.former.stage = Stage::Settling { mark: Some(self.marks.want()), uplink };
        }
        self.settle(now);
        is_given_up
    }

    fn settle(&mut self, now: Timestamp) {
        let Stage::Settling { mut mark, mut uplink } = self.former.stage else {
            return;
        };
        if matches!(uplink, Uplink::Due(at) if at <= now) {
            let is_stored = self.is_replicated();
            self.ask_with(Pending::UplinkMark, now, |reply_to, out| {
                encode_mark(Subject::from_checked(UPLINK_MARK_SUBJECT), reply_to, is_stored, out);
            });
            uplink = Uplink::Asked;
        }
        if mark.is_some_and(|mark| self.marks.answered >= mark) {
            self.searches.unfence(Kept::Messages);
            mark = None;
        }
        self.former.stage = match (mark, uplink) {
            (None, Uplink::Settled) => Stage::Clear,
            (mark, uplink) => Stage::Settling { mark, uplink },
        };
    }

    /// What was in line for the stream of what is for applications only is stored, or that is not known yet.
    pub(super) fn handle_uplink_mark(&mut self, message: &NatsMessage<'_>, now: Timestamp) {
        let Stage::Settling { uplink, .. } = &mut self.former.stage else {
            return;
        };
        match read_publish_answer(message.headers, message.payload) {
            Ok(PublishAnswer::Stored(_) | PublishAnswer::Refused(_)) => {
                *uplink = Uplink::Settled;
                self.searches.unfence(Kept::Uplink);
            }
            answer @ (Ok(PublishAnswer::NoResponders) | Err(_)) => {
                tracing::debug!(
                    partition = self.id.0,
                    ?answer,
                    "mark of the uplink stream: no answer yet"
                );
                *uplink = Uplink::Due(now.after(RETRY));
            }
        }
    }

    /// Asks whether servers still have the former links.
    fn ask_former(&mut self) {
        let Self { former, acks, scratch, out, .. } = self;
        for number in &former.numbers {
            let inbox = Self::acks_of(&self.inbox_prefix, *number);
            let mut subject = Vec::new();
            let subject = inbox.reply_to(Token(0), &mut subject);
            let reply_to = acks.reply_to(Token(number % COUNT_MAX), scratch);
            encode_publish(subject, Some(reply_to), b"", out);
        }
    }

    /// An answer to that: nobody subscribes there.
    pub(super) fn handle_former(&mut self, token: Token, message: &NatsMessage<'_>) {
        if message.headers.status().is_some_and(|status| status.code == NO_RESPONDERS) {
            self.former.numbers.retain(|number| number % COUNT_MAX != token.0);
        }
    }

    /// Where the publishes of attempt `number` are acknowledged.
    pub(super) fn acks_of(inbox_prefix: &str, number: u64) -> Inbox {
        Inbox::new(&format!("{inbox_prefix}.{number}.a")).expect("made of letters and digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_former_links_are_told_apart_and_earlier_ones_forgotten() {
        let mut former = FormerLinks::default();
        for number in (1..=200).filter(|number| number % 3 > 0) {
            former.note(number);
        }
        assert_eq!((former.numbers.first(), former.numbers.last()), (Some(&137), Some(&200)));
        let mut tokens: Vec<_> = former.numbers.iter().map(|number| number % COUNT_MAX).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), former.numbers.len());
    }
}
