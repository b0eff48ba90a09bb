//! Direct Get: reading a stream by sequence and subject, and what comes back.
//!
//! | request | answers |
//! |---|---|
//! | [`DirectGet::Next`], [`DirectGet::Last`] | one message, or [`Answer::NotFound`] |
//! | [`DirectGet::Scan`], [`DirectGet::LastOfEach`] | messages, then [`Answer::End`]; or [`Answer::NotFound`] |
//!
//! A server ignores members of a request that it does not know and answers as if they were not
//! there: with data that nobody asked for. So an answer is checked against its request, and one
//! that the request cannot have is an error. A stored message is known by the server's own
//! headers, whatever status or headers its publisher wrote.
//!
//! A server that is not the leader may answer and may lag: "not found" and "end" say nothing of
//! what the leader has.
//!
//! Source: ADR-31; nats-server 2.12.0 and 2.15.1.

use super::publish::NO_RESPONDERS;
use super::stored::{NotStored, StoreTime, Stored};
use crate::proto::nats::json::{decimal, put_string};
use crate::proto::nats::{Headers, Subject, encode_publish_with, put_decimal, subject_matches};
use crate::proto::partition::Sequence;
use std::num::NonZeroU16;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectGet<'a> {
    /// The first message from a sequence on that matches a subject.
    Next {
        /// May have wildcards.
        subject: Subject<'a>,
        /// At least 1.
        from: Sequence,
    },
    /// The last message of a subject.
    Last {
        /// Without wildcards.
        subject: Subject<'a>,
    },
    /// All messages from somewhere on, at most a batch of them.
    Scan {
        /// Where they begin.
        from: Start,
        /// Only those that match it; may have wildcards.
        subject: Option<Subject<'a>>,
        /// How many at most.
        batch: NonZeroU16,
        /// How many bytes at most, except that one message comes in any case; `None` leaves it to
        /// the server.
        bytes_max: Option<u32>,
    },
    /// The last message of each subject that matches; at most 1,024 subjects, else
    /// [`Answer::TooManyResults`].
    LastOfEach {
        /// At least one; may have wildcards.
        subjects: &'a [Subject<'a>],
        /// As the stream was at this sequence; `None` for now.
        up_to: Option<Sequence>,
        /// How many at most; `None` leaves it to the server.
        batch: Option<NonZeroU16>,
    },
}

/// Where a scan begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At a sequence, at least 1.
    At(Sequence),
    /// With what was stored then or later.
    Since(StoreTime),
}

/// One message that answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A stored message. Its headers still have those the server added.
    Message(Stored<'a>),
    /// The batch is complete (204 EOB).
    End {
        /// Messages that match and did not fit the batch.
        pending_count: u64,
        /// Of the last message sent.
        last_sequence: Sequence,
        /// Of [`DirectGet::LastOfEach`]: the `up_to` of the next request, so that both together
        /// show one moment.
        up_to: Option<Sequence>,
    },
    /// No message matches (404).
    NotFound,
    /// Too many subjects match (413).
    TooManyResults,
    /// No stream, none with `allow_direct`, or no server of it (503). Try again.
    NoResponders,
}

/// An answer that its request cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnswer {
    /// The server did not understand the request (408), or a status that does not belong here.
    #[error("answer with status {code}")]
    Status {
        /// In the first line of the headers.
        code: u16,
    },
    /// A message without the server's headers.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// A message of another subject, or before the sequence, that was asked for.
    #[error("a message that was not asked for")]
    NotAskedFor,
    /// A message of a batch that is not counted as one, or the other way round: the server took
    /// the request for another one.
    #[error("an answer to another kind of request")]
    OtherKind,
    /// The end of a batch without its counts.
    #[error("the end of a batch without {header}")]
    End {
        /// Its name.
        header: &'static str,
    },
}

impl DirectGet<'_> {
    /// Appends the request for the stream behind `api_subject`, `$JS.API.DIRECT.GET.<stream>`.
    pub fn encode(&self, api_subject: Subject<'_>, reply_to: Subject<'_>, out: &mut Vec<u8>) {
        encode_publish_with(api_subject, Some(reply_to), out, |out| self.put_body(out));
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Next { subject, from } => {
                put_number("{\"seq\":", from.0, out);
                put_text(",\"next_by_subj\":", subject, out);
            }
            Self::Last { subject } => put_text("{\"last_by_subj\":", subject, out),
            Self::Scan { from, subject, batch, bytes_max } => {
                match from {
                    Start::At(from) => put_number("{\"seq\":", from.0, out),
                    Start::Since(time) => {
                        out.extend_from_slice(b"{\"start_time\":\"");
                        time.write(out);
                        out.push(b'"');
                    }
                }
                put_number(",\"batch\":", batch.get().into(), out);
                if let Some(subject) = subject {
                    put_text(",\"next_by_subj\":", subject, out);
                }
                if let Some(bytes_max) = bytes_max {
                    put_number(",\"max_bytes\":", bytes_max.into(), out);
                }
            }
            Self::LastOfEach { subjects, up_to, batch } => {
                let mut key = "{\"multi_last\":[";
                for subject in subjects {
                    put_text(key, *subject, out);
                    key = ",";
                }
                out.push(b']');
                if let Some(up_to) = up_to {
                    put_number(",\"up_to_seq\":", up_to.0, out);
                }
                if let Some(batch) = batch {
                    put_number(",\"batch\":", batch.get().into(), out);
                }
            }
        }
        out.push(b'}');
    }

    /// Reads one message sent to the reply subject of this request.
    ///
    /// # Errors
    ///
    /// [`InvalidAnswer`]: the request cannot be relied on, and is to be given up.
    pub fn read<'a>(
        &self,
        headers: Headers<'a>,
        payload: &[u8],
    ) -> Result<Answer<'a>, InvalidAnswer> {
        match (Stored::read(headers), headers.status()) {
            (Ok(stored), _) => self.check(&stored).map(|()| Answer::Message(stored)),
            (Err(NotStored::NoStream), Some(status)) if payload.is_empty() => {
                self.read_status(status.code, headers)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    fn read_status<'a>(
        &self,
        code: u16,
        headers: Headers<'a>,
    ) -> Result<Answer<'a>, InvalidAnswer> {
        match code {
            END_OF_BATCH if self.is_batch() => Ok(Answer::End {
                pending_count: end_number(headers, "Nats-Num-Pending")?,
                last_sequence: Sequence(end_number(headers, "Nats-Last-Sequence")?),
                up_to: match self {
                    Self::LastOfEach { .. } => {
                        Some(Sequence(end_number(headers, "Nats-UpTo-Sequence")?))
                    }
                    Self::Next { .. } | Self::Last { .. } | Self::Scan { .. } => None,
                },
            }),
            NOT_FOUND => Ok(Answer::NotFound),
            TOO_MANY_RESULTS if matches!(self, Self::LastOfEach { .. }) => {
                Ok(Answer::TooManyResults)
            }
            NO_RESPONDERS => Ok(Answer::NoResponders),
            code => Err(InvalidAnswer::Status { code }),
        }
    }

    /// Whether this request can have `stored` for an answer.
    fn check(&self, stored: &Stored<'_>) -> Result<(), InvalidAnswer> {
        if stored.pending_count.is_some() != self.is_batch() {
            return Err(InvalidAnswer::OtherKind);
        }
        let matches = |subject: &Subject<'_>| subject_matches(subject.as_bytes(), stored.subject);
        let is_asked_for = match *self {
            Self::Next { ref subject, from } => stored.sequence >= from && matches(subject),
            Self::Last { ref subject } => subject.as_bytes() == stored.subject,
            Self::Scan { from, ref subject, .. } => {
                let is_behind = match from {
                    Start::At(from) => stored.sequence >= from,
                    Start::Since(time) => stored.stored_at >= time,
                };
                is_behind && subject.as_ref().is_none_or(matches)
            }
            Self::LastOfEach { subjects, up_to, .. } => {
                up_to.is_none_or(|up_to| stored.sequence <= up_to) && subjects.iter().any(matches)
            }
        };
        if is_asked_for { Ok(()) } else { Err(InvalidAnswer::NotAskedFor) }
    }

    fn is_batch(&self) -> bool {
        match self {
            Self::Next { .. } | Self::Last { .. } => false,
            Self::Scan { .. } | Self::LastOfEach { .. } => true,
        }
    }
}

fn put_number(key: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    put_decimal(value, out);
}

fn put_text(key: &str, subject: Subject<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    put_string(subject.as_bytes(), out);
}

fn end_number(headers: Headers<'_>, header: &'static str) -> Result<u64, InvalidAnswer> {
    headers.get(header).and_then(decimal).ok_or(InvalidAnswer::End { header })
}

/// "EOB".
const END_OF_BATCH: u16 = 204;
/// "Message Not Found", "No Results".
const NOT_FOUND: u16 = 404;
/// "Too Many Results".
const TOO_MANY_RESULTS: u16 = 413;

#[cfg(test)]
mod tests;
