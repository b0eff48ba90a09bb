//! Retained messages go with their topics: each is copied to where its topic goes.
//!
//! A copy says where it is from, and has place 0: whatever is published where it is now is later. Only who
//! changes the ring writes copies, and never over what somebody has published there.

use super::api;
use super::fault::ControlFault;
use super::names::{retained_prefix, retained_stream_name};
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::topic_subject::TopicPrefix;
use crate::proto::nats::json::decimal;
use crate::proto::partition::{PartitionId, Sequence};
use crate::upstream::jetstream::publish::{
    EXPECTED_LAST, RETAINED_FROM, RETAINED_SEQUENCE, TIME_TO_LIVE, TOMBSTONE_S,
};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

/// Copies what is retained, as often as it is asked to.
#[derive(Debug)]
pub(super) struct Copier {
    /// Of all who give or take.
    clients: BTreeMap<PartitionId, Client>,
    streams: BTreeMap<PartitionId, Stream>,
    /// Up to where each partition was looked through.
    looked_through: BTreeMap<PartitionId, u64>,
    count: u64,
}

/// What a partition has retained of a topic that is about to come to it: its topic, subject and sequence.
pub(super) type Stale = (String, String, u64);

impl Copier {
    pub(super) fn new(clients: BTreeMap<PartitionId, Client>) -> Self {
        Self { clients, streams: BTreeMap::new(), looked_through: BTreeMap::new(), count: 0 }
    }

    /// How many were copied.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What `taker` has retained of what comes to it, from when it had those topics, or of an attempt that
    /// was called off: what is retained by who has them is all there is.
    ///
    /// # Errors
    ///
    /// No answer, or an answer that is not understood.
    pub(super) async fn stale(
        &mut self,
        taker: PartitionId,
        ring: &Ring,
    ) -> Result<Vec<Stale>, ControlFault> {
        let mut stale = Vec::new();
        self.look_through(taker, 1, async |_, message, topic| {
            // Also that something was cleared here: a copy would not come in its place.
            let is_copy = message.headers.get(RETAINED_FROM).is_some();
            let is_there = !message.payload.is_empty() || !is_copy;
            if ring.coming_owner(topic) == Some(taker) && is_there {
                stale.push((topic.to_owned(), message.subject.to_string(), message.sequence));
            }
            Ok(())
        })
        .await?;
        Ok(stale)
    }

    /// Clears what is stale, each unless somebody has put another one there.
    ///
    /// # Errors
    ///
    /// No answer, or an answer that is not understood.
    pub(super) async fn clear(
        &self,
        taker: PartitionId,
        stale: &[Stale],
        ring: &Ring,
    ) -> Result<(), ControlFault> {
        for (topic, subject, sequence) in stale {
            let mut headers = HeaderMap::new();
            headers.insert(RETAINED_SEQUENCE, "0");
            // Before all that is copied from there.
            headers.insert(RETAINED_FROM, format!("{}.0", ring.owner(topic).0));
            headers.insert(TIME_TO_LIVE, TOMBSTONE_S.to_string());
            headers.insert(EXPECTED_LAST, sequence.to_string());
            self.publish(taker, subject, headers, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Copies what `from` has of the topics that are held by `ring` to where each goes, as far as that was
    /// not done.
    ///
    /// # Errors
    ///
    /// No answer, or an answer that is not understood.
    pub(super) async fn copy(
        &mut self,
        from: PartitionId,
        ring: &Ring,
    ) -> Result<(), ControlFault> {
        let next = self.looked_through.get(&from).map_or(1, |through| through + 1);
        let last = self
            .look_through(from, next, async |this, message, topic| {
                let Some(to) = ring.coming_owner(topic) else { return Ok(()) };
                let mut subject = Vec::new();
                if let Ok(subject) = prefix_of(to).subject(topic, &mut subject)
                    && let Ok(subject) = std::str::from_utf8(subject.as_bytes())
                {
                    let order = |place| ring.order(topic, place);
                    this.put(to, subject, from, message, order).await?;
                }
                Ok(())
            })
            .await?;
        self.looked_through.insert(from, last);
        Ok(())
    }

    /// Gives `take` each retained message of `partition` from `next` on, with its topic. Returns where its
    /// stream ended when that began.
    async fn look_through(
        &mut self,
        partition: PartitionId,
        mut next: u64,
        mut take: impl AsyncFnMut(&mut Self, &StreamMessage, &str) -> Result<(), ControlFault>,
    ) -> Result<u64, ControlFault> {
        let name = retained_stream_name(partition);
        let info =
            api::request(self.client(partition), &format!("STREAM.INFO.{name}"), None).await?;
        let last = info.get("state").and_then(|state| state.get("last_seq")?.as_u64());
        let last = last.ok_or_else(|| ControlFault::Answer { subject: name.clone() })?;
        let stream = self.stream(partition).await?;
        let prefix = prefix_of(partition);
        while next <= last {
            let found =
                stream.raw_message_builder().sequence(next).next_by_subject(ALL).send().await;
            let message = match found {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(error.into()),
            };
            next = message.sequence + 1;
            let mut topic = Vec::new();
            if let Ok(topic) = prefix.topic(message.subject.as_bytes(), &mut topic) {
                take(self, &message, topic).await?;
            }
        }
        Ok(last)
    }

    fn client(&self, partition: PartitionId) -> &Client {
        self.clients.get(&partition).expect("connected to when it was planned")
    }

    async fn stream(&mut self, partition: PartitionId) -> Result<Stream, ControlFault> {
        if let Some(stream) = self.streams.get(&partition) {
            return Ok(stream.clone());
        }
        let name = retained_stream_name(partition);
        let context = async_nats::jetstream::new(self.client(partition).clone());
        let stream = context.get_stream(&name).await;
        let stream = stream.map_err(|_| ControlFault::Answer { subject: name })?;
        self.streams.insert(partition, stream.clone());
        Ok(stream)
    }

    /// Publishes a retained message; false where another one was the last.
    async fn publish(
        &self,
        to: PartitionId,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<bool, ControlFault> {
        let request = async_nats::Request::new().headers(headers).payload(payload);
        let answer = self.client(to).send_request(subject.to_owned(), request).await;
        let answer =
            answer.map_err(|error| ControlFault::Request { subject: subject.to_owned(), error })?;
        let answer: Option<Value> = serde_json::from_slice(&answer.payload).ok();
        let error = answer.as_ref().map(|answer| answer.get("error"));
        match error {
            Some(None) => Ok(true),
            Some(Some(error))
                if error.get("err_code").and_then(Value::as_u64) == Some(WRONG_LAST) =>
            {
                Ok(false)
            }
            _ => Err(ControlFault::Answer { subject: subject.to_owned() }),
        }
    }

    /// Writes a copy, unless what is there is as late or later.
    async fn put(
        &mut self,
        to: PartitionId,
        subject: &str,
        from: PartitionId,
        message: &StreamMessage,
        order: impl Fn(Place) -> (usize, Sequence),
    ) -> Result<(), ControlFault> {
        let Some((headers, place)) = copied_headers(from, message) else { return Ok(()) };
        let target = self.stream(to).await?;
        loop {
            let there = match target.get_last_raw_message_by_subject(subject).await {
                Ok(there) => Some(there),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                Err(error) => return Err(error.into()),
            };
            if there.as_ref().is_some_and(|there| !is_older(&there.headers, place, &order)) {
                return Ok(());
            }
            let mut headers = headers.clone();
            headers.insert(EXPECTED_LAST, there.map_or(0, |there| there.sequence).to_string());
            if self.publish(to, subject, headers, message.payload.clone()).await? {
                self.count += 1;
                return Ok(());
            }
        }
    }
}

/// The headers of a copy, and the place of the message in its partition; `None` for what no gateway has
/// retained.
fn copied_headers(from: PartitionId, message: &StreamMessage) -> Option<(HeaderMap, Place)> {
    let place = place_of(from, &message.headers)?;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        if !name.starts_with("Nats-") && ![RETAINED_FROM, RETAINED_SEQUENCE].contains(&name) {
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
    headers.insert(RETAINED_SEQUENCE, "0");
    headers.insert(RETAINED_FROM, format!("{}.{}", place.0.0, place.1.0));
    if message.payload.is_empty() {
        headers.insert(TIME_TO_LIVE, TOMBSTONE_S.to_string());
    }
    Some((headers, place))
}

type Place = (PartitionId, Sequence);

/// Where a retained message was stored, itself a copy or not.
fn place_of(partition: PartitionId, headers: &HeaderMap) -> Option<Place> {
    if let Some(from) = headers.get(RETAINED_FROM) {
        let (partition, sequence) = from.as_str().split_once('.')?;
        return Some((PartitionId(partition.parse().ok()?), Sequence(sequence.parse().ok()?)));
    }
    let sequence = decimal(headers.get(RETAINED_SEQUENCE)?.as_str().as_bytes())?;
    Some((partition, Sequence(sequence)))
}

/// Whether what is there is an earlier copy; `order` is [`Ring::order`] of its topic.
fn is_older(there: &HeaderMap, place: Place, order: impl Fn(Place) -> (usize, Sequence)) -> bool {
    there.get(RETAINED_FROM).is_some()
        && place_of(place.0, there).is_some_and(|there| order(there) < order(place))
}

fn prefix_of(partition: PartitionId) -> TopicPrefix {
    let prefix = format!("{}.{STORED}", retained_prefix(partition));
    TopicPrefix::new(&prefix).expect("made of letters and digits")
}

const STORED: &str = "mqtt";
const ALL: &str = ">";
/// The server's API: another message was the last of the subject.
const WRONG_LAST: u64 = 10_071;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        pairs.iter().for_each(|(name, value)| headers.append(*name, *value));
        headers
    }

    #[test]
    fn a_copy_is_older_than_what_is_published_and_newer_than_an_earlier_one() {
        let place = (PartitionId(3), Sequence(8));
        // The topic went from 4 to 3, and goes to 5 now.
        let order = |(partition, sequence): Place| {
            let place = [4, 3].iter().position(|one| *one == partition.0);
            (place.map_or(0, |place| place + 1), sequence)
        };
        let is_older = |there: &HeaderMap| is_older(there, place, order);
        let published = headers(&[(RETAINED_SEQUENCE, "1")]);
        assert!(!is_older(&published), "it was published where it is");
        let copy = |from| headers(&[(RETAINED_SEQUENCE, "0"), (RETAINED_FROM, from)]);
        assert!(is_older(&copy("3.7")) && is_older(&copy("4.90")));
        assert!(!is_older(&copy("3.8")) && !is_older(&copy("3.9")));
        assert_eq!(place_of(PartitionId(5), &published), Some((PartitionId(5), Sequence(1))));
        assert_eq!(place_of(PartitionId(5), &copy("3.7")), Some((PartitionId(3), Sequence(7))));
        assert_eq!(place_of(PartitionId(5), &headers(&[])), None);
    }
}
