//! Makes a stream, or makes one that is there what it should be.

use super::api::{self, STREAM_NAME_IN_USE, STREAM_NOT_FOUND};
use super::fault::ControlFault;
use super::stream_settings::{Difference, StreamSettings, listed};
use async_nats::Client;
use serde_json::{Map, Value};

/// Sees to it that `stream` is there with its settings; `sub_cluster` is for the log.
///
/// # Errors
///
/// The server refuses, or what is there cannot be changed.
pub(super) async fn ensure(
    client: &Client,
    sub_cluster: &str,
    stream: &StreamSettings,
) -> Result<(), ControlFault> {
    let name = &stream.name;
    let info = match api::request(client, &format!("STREAM.INFO.{name}"), None).await {
        Ok(info) => info,
        Err(fault) if api::is_error(&fault, STREAM_NOT_FOUND) => {
            let wanted = Value::Object(stream.wanted.clone());
            match api::request(client, &format!("STREAM.CREATE.{name}"), Some(&wanted)).await {
                Ok(_) => {
                    tracing::info!(sub_cluster, stream = name, "stream made");
                    return Ok(());
                }
                // Another gateway was faster, and is configured otherwise.
                Err(fault) if api::is_error(&fault, STREAM_NAME_IN_USE) => {
                    api::request(client, &format!("STREAM.INFO.{name}"), None).await?
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(fault) => return Err(fault),
    };
    let have = config_of(&info, name)?;
    let differences = stream.differences(have);
    if differences.is_empty() {
        return Ok(());
    }
    if differences.iter().any(Difference::is_permanent) {
        let differences = listed(differences.iter().filter(|one| one.is_permanent()));
        return Err(ControlFault::Unchangeable { stream: name.clone(), differences });
    }
    let wanted = stream.over(have);
    let answer = api::request(client, &format!("STREAM.UPDATE.{name}"), Some(&wanted)).await?;
    let changed = listed(&differences);
    tracing::info!(sub_cluster, stream = name, changed, "stream changed");
    let left = stream.differences(config_of(&answer, name)?);
    if !left.is_empty() {
        // The server has its own way to write it, or knows better: it did not refuse.
        let left = listed(&left);
        tracing::warn!(sub_cluster, stream = name, left, "stream changed, but not in all");
    }
    Ok(())
}

fn config_of<'a>(info: &'a Value, name: &str) -> Result<&'a Map<String, Value>, ControlFault> {
    info.get("config")
        .and_then(Value::as_object)
        .ok_or_else(|| ControlFault::Answer { subject: format!("stream {name}") })
}
