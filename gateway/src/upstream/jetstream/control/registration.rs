//! What a gateway says of the ring, for whoever changes it: key `gateway.<id>.<boot>` of the ring's bucket.
//!
//! It is written before the gateway reads the ring for the first time. So whoever has written a ring and
//! then looks at these keys has every gateway that goes by an older one.

use super::fault::ControlFault;
use super::ring_key::RingKey;
use crate::proto::partition::PartitionId;
use async_nats::Client;
use async_nats::jetstream::kv::UpdateErrorKind;
use std::fmt::Write as _;

/// What a gateway says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GatewayState {
    /// The epoch of the ring that all its shards go by; 0 before they do.
    pub(super) seen: u64,
    /// The epoch of a ring with a change under way, of whose share nothing is on its way any more to who
    /// gives it; 0 for none.
    pub(super) drained: u64,
    /// The partitions that it can use.
    pub(super) partitions: Vec<PartitionId>,
}

impl GatewayState {
    fn encode(&self) -> String {
        let mut text = format!("seen {} drained {} partitions", self.seen, self.drained);
        for partition in &self.partitions {
            write!(text, " {}", partition.0).expect("writing to a string cannot fail");
        }
        text
    }

    fn decode(text: &str) -> Option<Self> {
        let (seen, rest) = text.strip_prefix("seen ")?.split_once(" drained ")?;
        let (drained, rest) = rest.split_once(" partitions")?;
        let partitions = rest.split_ascii_whitespace().map(|text| text.parse().map(PartitionId));
        Some(Self {
            seen: seen.parse().ok()?,
            drained: drained.parse().ok()?,
            partitions: partitions.collect::<Result<_, _>>().ok()?,
        })
    }
}

/// A gateway that has said something, and is not known to have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) key: String,
    /// `None` where it is not understood.
    pub(super) state: Option<GatewayState>,
    /// Of the value.
    revision: u64,
}

impl Registered {
    /// The gateway's id.
    pub(super) fn gateway(&self) -> &str {
        let name = self.key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.'));
        name.and_then(|name| name.split('.').next()).unwrap_or(&self.key)
    }
}

/// All that are registered, as the leader has them, which knows of the write of revision `since`: all that
/// were registered before.
///
/// # Errors
///
/// No answer, or one of a server that does not know of it.
pub(super) async fn registered(
    client: &Client,
    key: &RingKey,
    since: u64,
) -> Result<Vec<Registered>, ControlFault> {
    for _ in 0..LOOKS_MAX {
        if let Some(all) = look(client, key, since).await? {
            return Ok(all);
        }
    }
    Err(ControlFault::Behind { subject: PREFIX.to_owned() })
}

/// `None` where one was struck off meanwhile, or a server that is behind answers for another one.
async fn look(
    client: &Client,
    key: &RingKey,
    since: u64,
) -> Result<Option<Vec<Registered>>, ControlFault> {
    let mut all = Vec::new();
    for name in key.keys_below(client, PREFIX, since).await? {
        let Some((value, revision)) = key.last_value(&name).await? else { return Ok(None) };
        let state = std::str::from_utf8(&value).ok().and_then(GatewayState::decode);
        all.push(Registered { key: name, state, revision });
    }
    Ok(Some(all))
}

/// This gateway's.
#[derive(Debug)]
pub(super) struct Registration {
    name: String,
    /// All of its own id begin so.
    own: String,
    /// Of what was written last, and of what was written first.
    revision: u64,
    first: u64,
    written: GatewayState,
}

impl Registration {
    /// Says that there is a gateway.
    ///
    /// # Errors
    ///
    /// No answer, or the server refuses.
    pub(super) async fn begin(
        key: &RingKey,
        gateway_id: &str,
        boot: u64,
    ) -> Result<Self, ControlFault> {
        let own = format!("{PREFIX}.{gateway_id}.");
        let (name, written) = (format!("{own}{boot:016x}"), GatewayState::default());
        let revision = key.bucket().put(&name, written.encode().into()).await?;
        Ok(Self { name, own, revision, first: revision, written })
    }

    /// Says what is new, if anything is. False when somebody has struck this gateway off.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(super) async fn say(
        &mut self,
        key: &RingKey,
        state: &GatewayState,
    ) -> Result<bool, ControlFault> {
        if *state == self.written {
            return Ok(true);
        }
        match key.bucket().update(&self.name, state.encode().into(), self.revision).await {
            Ok(revision) => {
                (self.revision, self.written) = (revision, state.clone());
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                // Perhaps by itself, when an answer was lost.
                let Some((value, revision)) = key.last_value(&self.name).await? else {
                    return Ok(false);
                };
                self.revision = revision;
                if value.as_ref() == state.encode().as_bytes() {
                    self.written = state.clone();
                }
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Strikes off former processes of the same gateway, which are no more: this one has what they had.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(super) async fn replace_former(
        &self,
        client: &Client,
        key: &RingKey,
    ) -> Result<(), ControlFault> {
        for one in registered(client, key, self.first).await? {
            if one.key.starts_with(&self.own) && one.key != self.name && one.revision < self.first {
                key.remove(client, &one.key).await?;
            }
        }
        Ok(())
    }

    /// The gateway ends.
    ///
    /// # Errors
    ///
    /// No answer.
    pub(super) async fn end(&self, client: &Client, key: &RingKey) -> Result<(), ControlFault> {
        key.remove(client, &self.name).await
    }
}

/// Strikes off all processes of a gateway. How many there were.
///
/// # Errors
///
/// No answer.
pub(super) async fn forget(
    client: &Client,
    key: &RingKey,
    gateway: &str,
) -> Result<usize, ControlFault> {
    let mut count = 0;
    for one in registered(client, key, 0).await? {
        if one.gateway() == gateway {
            key.remove(client, &one.key).await?;
            count += 1;
        }
    }
    Ok(count)
}

const PREFIX: &str = "gateway";
/// Looks at all, while some are struck off.
const LOOKS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gateway_says_is_text_and_back() {
        let partitions = vec![PartitionId(0), PartitionId(12)];
        let state = GatewayState { seen: 7, drained: 6, partitions };
        assert_eq!(state.encode(), "seen 7 drained 6 partitions 0 12");
        for state in [state, GatewayState::default()] {
            assert_eq!(GatewayState::decode(&state.encode()), Some(state));
        }
        for text in ["", "seen 7", "seen x drained 0 partitions", "seen 1 drained 0 partitions x"] {
            assert_eq!(GatewayState::decode(text), None, "{text}");
        }
        let key = "gateway.g-1.00000000000000ff".to_owned();
        assert_eq!(Registered { key, state: None, revision: 1 }.gateway(), "g-1");
    }
}
