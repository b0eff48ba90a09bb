//! One request of the JetStream API: JSON there and back.
//!
//! Raw, because async-nats knows only the settings of a stream that it was made for: an update
//! through it would take from a stream whatever it does not know.
//!
//! Source: NATS documentation, "JetStream wire API reference"; nats-server 2.15.1.

use super::fault::ControlFault;
use async_nats::{Client, HeaderMap, RequestErrorKind};
use serde_json::Value;
use std::time::Duration;

/// No stream of that name. Source: nats-server 2.15.1, server/errors.json.
pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
/// A stream of that name with other settings.
pub(super) const STREAM_NAME_IN_USE: u64 = 10_058;

/// JetStream not enabled, for the account or at all.
const NOT_ENABLED: [u64; 2] = [10_039, 10_076];

/// Asks `$JS.API.<operation>`.
///
/// # Errors
///
/// No answer, or one that says no.
pub(super) async fn request(
    client: &Client,
    operation: &str,
    body: Option<&Value>,
) -> Result<Value, ControlFault> {
    let subject = format!("$JS.API.{operation}");
    let body = body.map(Value::to_string).unwrap_or_default();
    let answer = match client.request(subject.clone(), body.into()).await {
        Ok(answer) => answer,
        Err(error) => return Err(ControlFault::Request { subject, error }),
    };
    read(subject, &answer.payload)
}

/// Publishes to a stream, and returns what its acknowledgement says.
///
/// # Errors
///
/// No answer, or one that says no.
pub(super) async fn publish(
    client: &Client,
    subject: &str,
    headers: HeaderMap,
) -> Result<Value, ControlFault> {
    let request = async_nats::Request::new().headers(headers).timeout(Some(PUBLISH_TIMEOUT));
    let subject = subject.to_owned();
    match client.send_request(subject.clone(), request).await {
        Ok(answer) => read(subject, &answer.payload),
        Err(error) => Err(ControlFault::Request { subject, error }),
    }
}

fn read(subject: String, answer: &[u8]) -> Result<Value, ControlFault> {
    let Ok(value) = serde_json::from_slice::<Value>(answer) else {
        return Err(ControlFault::Answer { subject });
    };
    let Some(error) = value.get("error") else { return Ok(value) };
    let number = |key| error.get(key).and_then(Value::as_u64);
    let description = error.get("description").and_then(Value::as_str).unwrap_or("refused");
    Err(ControlFault::Refused {
        subject,
        code: number("err_code").or_else(|| number("code")).unwrap_or_default(),
        description: description.chars().take(DESCRIPTION_CHARS_MAX).collect(),
    })
}

/// Asks whether JetStream is there for this account at all.
///
/// # Errors
///
/// It is not, or nobody says.
pub(super) async fn check_jetstream(client: &Client) -> Result<(), ControlFault> {
    match request(client, "INFO", None).await {
        Ok(_) => Ok(()),
        Err(ControlFault::Request { error, .. })
            if error.kind() == RequestErrorKind::NoResponders =>
        {
            Err(ControlFault::NoJetStream)
        }
        Err(fault) if NOT_ENABLED.iter().any(|code| is_error(&fault, *code)) => {
            Err(ControlFault::NoJetStream)
        }
        Err(fault) => Err(fault),
    }
}

/// Whether the fault is this error of the API.
pub(super) fn is_error(fault: &ControlFault, wanted: u64) -> bool {
    matches!(fault, ControlFault::Refused { code, .. } if *code == wanted)
}

/// A stream that takes longer has no leader with a majority.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Of what a server says, for the log.
const DESCRIPTION_CHARS_MAX: usize = 200;
