//! The ring in KV: key `ring` of bucket `gateway_ring`, on the sub-cluster whose name sorts first.

use super::api::{self, STREAM_NOT_FOUND};
use super::fault::ControlFault;
use super::settings::SubClusterSettings;
use crate::proto::bridge::ring_table::{Member, RingTable};
use crate::proto::partition::PartitionId;
use async_nats::Client;
use async_nats::jetstream::kv::{Config, CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use serde_json::json;

/// The key, in a bucket that is there.
#[derive(Clone, Debug)]
pub(super) struct RingKey {
    bucket: Store,
}

impl RingKey {
    /// The ring, if there is one. Makes nothing.
    ///
    /// # Errors
    ///
    /// No answer, or a value that is no ring.
    pub(super) async fn find(client: &Client) -> Result<Option<RingTable>, ControlFault> {
        match Self::find_bucket(client).await? {
            Some(key) => key.read().await,
            None => Ok(None),
        }
    }

    /// The bucket, if there is one.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(super) async fn find_bucket(client: &Client) -> Result<Option<Self>, ControlFault> {
        api::check_jetstream(client).await?;
        match api::request(client, &format!("STREAM.INFO.KV_{BUCKET}"), None).await {
            Ok(_) => {}
            Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => return Ok(None),
            Err(fault) => return Err(fault),
        }
        let context = async_nats::jetstream::new(client.clone());
        Ok(Some(Self { bucket: context.get_key_value(BUCKET).await? }))
    }

    /// Finds the bucket, or makes it.
    ///
    /// # Errors
    ///
    /// No answer, or the server refuses.
    pub(super) async fn open(
        client: &Client,
        settings: &SubClusterSettings,
    ) -> Result<Self, ControlFault> {
        api::check_jetstream(client).await?;
        let context = async_nats::jetstream::new(client.clone());
        match api::request(client, &format!("STREAM.INFO.KV_{BUCKET}"), None).await {
            Ok(_) => return Ok(Self { bucket: context.get_key_value(BUCKET).await? }),
            Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => {}
            Err(fault) => return Err(fault),
        }
        let config = Config {
            bucket: BUCKET.to_owned(),
            description: "which partition owns which topics".to_owned(),
            history: HISTORY,
            num_replicas: settings.replicas.into(),
            ..Config::default()
        };
        Ok(Self { bucket: context.create_key_value(config).await? })
    }

    /// The ring as it is stored; `None` if there is none.
    ///
    /// Any replica may answer, also one that lags: an old value is replaced a second later, and
    /// "none" only leads to [`RingKey::create`], which the leader decides.
    ///
    /// # Errors
    ///
    /// No answer, or a value that is no ring.
    pub(super) async fn read(&self) -> Result<Option<RingTable>, ControlFault> {
        let entry = self.bucket.entry(KEY).await?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok(None);
        };
        let bytes = entry.value.len();
        let text = std::str::from_utf8(&entry.value).ok().filter(|_| bytes <= VALUE_BYTES_MAX);
        let text = text.ok_or(ControlFault::NotText { bytes })?;
        Ok(Some(RingTable::decode(text)?))
    }

    /// As [`RingKey::read`], by the leader: no value that was replaced before the question. With the
    /// revision, by which it can be replaced.
    ///
    /// # Errors
    ///
    /// No answer, or a value that is no ring.
    pub(super) async fn read_last(&self) -> Result<Option<(RingTable, u64)>, ControlFault> {
        let Some((value, revision)) = self.last_value(KEY).await? else {
            return Ok(None);
        };
        let bytes = value.len();
        let text = std::str::from_utf8(&value).ok().filter(|_| bytes <= VALUE_BYTES_MAX);
        let text = text.ok_or(ControlFault::NotText { bytes })?;
        Ok(Some((RingTable::decode(text)?, revision)))
    }

    /// Replaces the ring of `revision`, and returns its own; `None` if it was another one by then.
    ///
    /// # Errors
    ///
    /// No answer: the ring may be either.
    pub(super) async fn replace(
        &self,
        table: &RingTable,
        revision: u64,
    ) -> Result<Option<u64>, ControlFault> {
        match self.bucket.update(KEY, table.encode().into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the leader has under a key, and its revision.
    pub(super) async fn last_value(&self, key: &str) -> Result<Option<(Bytes, u64)>, ControlFault> {
        let subject = format!("{}{key}", self.bucket.prefix);
        match self.bucket.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) if message.headers.get(OPERATION).is_some() => Ok(None),
            Ok(message) => Ok(Some((message.payload, message.sequence))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The keys below `prefix` that the leader has, which knows of the write of `revision`.
    ///
    /// # Errors
    ///
    /// No answer, or one of a server that does not know of it.
    pub(super) async fn keys_below(
        &self,
        client: &Client,
        prefix: &str,
        revision: u64,
    ) -> Result<Vec<String>, ControlFault> {
        let bucket = &self.bucket.prefix;
        let filter = json!({ "subjects_filter": format!("{bucket}{prefix}.>") });
        let operation = format!("STREAM.INFO.KV_{BUCKET}");
        let info = api::request(client, &operation, Some(&filter)).await?;
        let last = info.get("state").and_then(|state| state.get("last_seq")?.as_u64());
        if last.is_none_or(|last| last < revision) {
            return Err(ControlFault::Behind { subject: operation });
        }
        let subjects = info.get("state").and_then(|state| state.get("subjects")?.as_object());
        let keys = subjects.into_iter().flat_map(|subjects| subjects.keys());
        Ok(keys.filter_map(|key| key.strip_prefix(bucket)).map(str::to_owned).collect())
    }

    /// Removes a key without a trace: those of gateways have other names each time.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(super) async fn remove(&self, client: &Client, key: &str) -> Result<(), ControlFault> {
        let filter = json!({ "filter": format!("{}{key}", self.bucket.prefix) });
        let operation = format!("STREAM.PURGE.KV_{BUCKET}");
        api::request(client, &operation, Some(&filter)).await.map(drop)
    }

    /// Where gateways say what they know of the ring.
    pub(super) fn bucket(&self) -> &Store {
        &self.bucket
    }

    /// Writes the first ring: one partition a sub-cluster, numbered in order of names, equal
    /// weights.
    ///
    /// If another gateway was faster, that is as good.
    ///
    /// # Errors
    ///
    /// No answer, or the server refuses.
    pub(super) async fn create<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), ControlFault> {
        let members = (0..).zip(names).map(|(number, name)| Member {
            partition: PartitionId(number),
            weight: 1,
            sub_cluster: name.to_owned(),
        });
        let table = RingTable::new(1, members.collect())?;
        match self.bucket.create(KEY, table.encode().into()).await {
            Ok(_) => tracing::info!(members = table.members().len(), "first ring made"),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Shared by all gateways.
const BUCKET: &str = "gateway_ring";
const KEY: &str = "ring";
/// The header of a marker that says that a key was deleted.
const OPERATION: &str = "KV-Operation";
/// Rings kept, for people who look back.
const HISTORY: i64 = 16;
/// A ring of [`RingTable::WEIGHT_SUM_MAX`] members is 82 kB.
const VALUE_BYTES_MAX: usize = 131_072;
