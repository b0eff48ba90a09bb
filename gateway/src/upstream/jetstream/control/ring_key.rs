//! The ring in KV: key `ring` of bucket `gateway_ring`, on the sub-cluster whose name sorts first.

use super::api::{self, STREAM_NOT_FOUND};
use super::fault::ControlFault;
use super::settings::SubClusterSettings;
use crate::proto::bridge::ring_table::{Member, RingTable};
use crate::proto::partition::PartitionId;
use async_nats::Client;
use async_nats::jetstream::kv::{Config, CreateErrorKind, Operation, Store};

/// The key, in a bucket that is there.
#[derive(Debug)]
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
        api::check_jetstream(client).await?;
        match api::request(client, &format!("STREAM.INFO.KV_{BUCKET}"), None).await {
            Ok(_) => {}
            Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => return Ok(None),
            Err(fault) => return Err(fault),
        }
        let context = async_nats::jetstream::new(client.clone());
        Self { bucket: context.get_key_value(BUCKET).await? }.read().await
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
/// Rings kept, for people who look back.
const HISTORY: i64 = 16;
/// A ring of [`RingTable::WEIGHT_SUM_MAX`] members is 82 kB.
const VALUE_BYTES_MAX: usize = 131_072;
