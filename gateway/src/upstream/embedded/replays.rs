//! Reading back for sessions that are behind, of this shard or another.

use super::log::read::{ReadStep, Replay, ReplayRequest, ReplayTopics};
use super::log::{Log, LogIo, topic_hash};
use super::message::{Ask, Question};
use crate::proto::mqtt::QoS;
use crate::proto::output::ShardIndex;
use crate::proto::partition::{Chunk, PartitionId, Sequence};
use crate::proto::record::{Message, Record};
use crate::proto::routing::filter_matches;
use crate::proto::session::Ticket;
use crate::proto::shard_state::Replayed;

/// Bytes read for one answer before it goes out; bounds what a session holds while it catches up.
const ANSWER_BYTES: usize = 64 * 1024;
/// Steps one replay takes in a row before the next has its turn.
const STEPS_MAX: u32 = 8;

/// A reader at work for a session.
#[derive(Debug)]
pub(super) struct ActiveReplay {
    asker: ShardIndex,
    ticket: Ticket,
    partition: PartitionId,
    replay: Replay,
    wanted: Wanted,
    clamped: bool,
}

#[derive(Debug)]
enum Wanted {
    Messages { filters: Vec<Box<str>>, count_max: usize, found: Vec<(Sequence, Box<[u8]>)> },
    Records { bodies: Vec<(Sequence, Option<Box<[u8]>>)> },
}

/// An answer on its way to the session that asked.
#[derive(Debug)]
pub enum Answer {
    /// See [`Question::Replay`].
    Replayed(Replayed),
    /// See [`Question::Fetch`].
    Fetched(PartitionId, Vec<(Sequence, Option<Box<[u8]>>)>),
}

/// How far a replay came.
pub(super) enum Progress {
    /// It waits for a read.
    Waits,
    /// It has more to do and gives way to others.
    Yields,
    /// It is done.
    Answers(ShardIndex, Ticket, Answer),
}

impl ActiveReplay {
    pub(super) fn new(log: &Log, ask: Ask) -> Self {
        let Ask { asker, ticket, partition, question } = ask;
        let (replay, wanted) = match question {
            Question::Replay { from, filters, count_max } => {
                let request = ReplayRequest {
                    from,
                    to: None,
                    topics: topics_of(&filters),
                    max_bytes: ANSWER_BYTES,
                };
                let (count_max, found) = (count_max as usize, Vec::new());
                (log.replay(request), Wanted::Messages { filters, count_max, found })
            }
            Question::Fetch { sequences } => {
                let bodies = sequences.iter().map(|sequence| (*sequence, None)).collect();
                (log.fetch(sequences, ANSWER_BYTES), Wanted::Records { bodies })
            }
        };
        Self { asker, ticket, partition, replay, wanted, clamped: false }
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Reads on.
    pub(super) fn advance(&mut self, log: &mut Log, io: &mut Vec<LogIo>) -> Progress {
        for _ in 0..STEPS_MAX {
            let answer = match log.poll_replay(&mut self.replay, io) {
                ReadStep::Wait => return Progress::Waits,
                ReadStep::Ready(answer) => answer,
            };
            self.clamped |= answer.clamped;
            for chunk in &answer.chunks {
                self.take(chunk);
            }
            let is_full = match &self.wanted {
                Wanted::Messages { count_max, found, .. } => found.len() >= *count_max,
                Wanted::Records { .. } => false,
            };
            if answer.end || is_full {
                return self.finish(answer.next, answer.end);
            }
        }
        // What was found goes out, so that the session is not kept waiting by a long scan.
        Progress::Yields
    }

    fn take(&mut self, chunk: &Chunk) {
        for (sequence, body) in chunk.bodies() {
            match &mut self.wanted {
                Wanted::Messages { filters, found, .. } => {
                    if is_wanted(body, filters) {
                        found.push((sequence, body.into()));
                    }
                }
                Wanted::Records { bodies } => {
                    if let Some((_, place)) = bodies.iter_mut().find(|(of, _)| *of == sequence) {
                        *place = Some(body.into());
                    }
                }
            }
        }
    }

    fn finish(&mut self, next: Sequence, end: bool) -> Progress {
        let partition = self.partition;
        let answer = match &mut self.wanted {
            Wanted::Messages { found, .. } => Answer::Replayed(Replayed {
                partition,
                messages: std::mem::take(found),
                next,
                end,
                seen: next,
                read_to: None,
                clamped: self.clamped,
                alone: false,
            }),
            Wanted::Records { bodies } => Answer::Fetched(partition, std::mem::take(bodies)),
        };
        Progress::Answers(self.asker, self.ticket, answer)
    }
}

/// QoS 0 records are there for the retained value only.
fn is_wanted(body: &[u8], filters: &[Box<str>]) -> bool {
    match Record::decode(body) {
        Some(Record::Message(Message { qos, topic, .. })) => {
            qos > QoS::AtMostOnce && filters.iter().any(|filter| filter_matches(filter, topic))
        }
        _ => false,
    }
}

fn topics_of(filters: &[Box<str>]) -> ReplayTopics {
    let is_literal = |filter: &str| memchr::memchr2(b'+', b'#', filter.as_bytes()).is_none();
    if filters.iter().all(|filter| is_literal(filter)) {
        ReplayTopics::Literal(filters.iter().map(|filter| topic_hash(filter)).collect())
    } else {
        ReplayTopics::All
    }
}
