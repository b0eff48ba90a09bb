//! What the clients of a node said and heard, so that the same can be asked of a whole gateway.
//!
//! A conformance test plays with a simulated node, which has no transports. What it plays is noted,
//! up to the first thing that only a simulation can do, and at its end said again to a gateway with
//! two shards, over its transports: see `transports/replay.rs`.

use super::{SimClient, SimSettings};
use crate::transports::replay::replay;
use gateway::proto::mqtt::{DecodeContext, Packet, Property, ProtocolVersion, Role, decode};
use gateway::upstream::embedded::log::Durability;
use std::panic::Location;

/// What happened to a client, in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// It opened a connection.
    Opens(SimClient),
    /// It sent bytes. What follows from them comes before the next of its events.
    Sends(SimClient, Vec<u8>),
    /// Its connection broke.
    Breaks(SimClient),
    /// It was sent bytes.
    Hears(SimClient, Vec<u8>),
    /// Its connection was closed.
    Ends(SimClient),
}

/// Notes events until it cannot be played again any more, and plays them when it goes.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    events: Vec<Event>,
    is_noting: bool,
    place: String,
}

impl Transcript {
    /// For a node that a test at `place` makes: of the conformance tests those with the usual
    /// settings, and of those that play in several ways the simplest.
    pub(super) fn new(settings: &SimSettings, place: &Location<'_>) -> Self {
        let usual = SimSettings::default();
        let is_usual = settings.shards == 1
            && settings.durability == Durability::Memory
            && settings.limits == usual.limits
            && settings.log_limits == usual.log_limits
            && format!("{:?}", settings.groups) == format!("{:?}", usual.groups)
            && settings.quota_limits == usual.quota_limits
            && settings.seed == usual.seed
            && settings.authenticate.is_none()
            && settings.challenge.is_none()
            && settings.jetstream.is_none();
        let is_conformance = place.file().contains("/conformance/");
        let place = std::thread::current().name().unwrap_or("?").to_owned();
        Self { events: Vec::new(), is_noting: is_usual && is_conformance, place }
    }

    pub(super) fn note(&mut self, event: Event) {
        if !self.is_noting {
            return;
        }
        if let Event::Sends(_, bytes) = &event {
            let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
            // Which member of a group gets a message depends on the number of shards, and a client
            // id that the node made up is another each time.
            if has(b"$share/") || has(b"auto-") {
                self.stop();
                return;
            }
        }
        if let Event::Hears(_, bytes) = &event
            && has_expiry(bytes)
        {
            // What is left of it depends on how long it took.
            let is_action = |event: &Event| !matches!(event, Event::Hears(..) | Event::Ends(_));
            let last = self.events.iter().rposition(is_action);
            self.events.truncate(last.unwrap_or_default());
            self.stop();
            return;
        }
        self.events.push(event);
    }

    /// What comes now only a simulation can do: time, crashes, faults, clients that read nothing.
    pub(super) fn stop(&mut self) {
        self.is_noting = false;
    }
}

/// Whether there is a PUBLISH of 5.0 with a Message Expiry Interval.
fn has_expiry(mut bytes: &[u8]) -> bool {
    let (version, role) = (ProtocolVersion::V5, Role::Client);
    let context = DecodeContext { version, maximum_packet_size: u32::MAX, role };
    while let Ok(Some((packet, length))) = decode(bytes, context) {
        if let Packet::Publish(publish) = packet
            && publish
                .properties
                .iter()
                .any(|one| matches!(one, Property::MessageExpiryInterval(_)))
        {
            return true;
        }
        bytes = &bytes[length..];
    }
    false
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.events.is_empty() {
            replay(&self.place, &std::mem::take(&mut self.events));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::raw_client::connect;

    /// A client of 3.1.1 hears this.
    fn play(heard: &[u8]) {
        let client = SimClient(0);
        let connect = connect(4, "c", &[]);
        let events = [
            Event::Opens(client),
            Event::Sends(client, connect),
            Event::Hears(client, heard.to_vec()),
        ];
        replay("a test of the replay", &events);
    }

    #[test]
    fn what_is_heard_is_compared() {
        play(&[0x20, 2, 0, 0]);
        let played = std::panic::catch_unwind(|| play(&[0x20, 2, 1, 0]));
        assert!(played.is_err(), "there was no session");
    }
}
