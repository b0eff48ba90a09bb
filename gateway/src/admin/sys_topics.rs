//! The topics under `$SYS/broker/`, named as mosquitto names them, so that dashboards made for it work.
//!
//! Published at QoS 0 to the subscribers of this gateway each interval, and stored nowhere. A new
//! subscriber hears those of the last interval at once, with RETAIN, as they are retained in mosquitto. A
//! filter that begins with a wildcard does not match them. Source: MQTT 5.0 §4.7.2; mosquitto(8),
//! "BROKER STATUS".

use super::AdminState;
use crate::node::NodeReport;
use crate::proto::time::Timestamp;
use crate::upstream::inquiry::ShardReport;
use std::time::Duration;

/// Minutes of the moving averages, and what they are called.
const LOADS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// Counters of the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    messages_received: u64,
    messages_sent: u64,
    publish_received: u64,
    publish_sent: u64,
    publish_dropped: u64,
    publish_bytes_received: u64,
    publish_bytes_sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    connections: u64,
    sockets: u64,
    connected: u64,
    filters: u64,
    in_flight: u64,
}

impl Totals {
    pub(super) fn of(reports: &[Option<Box<ShardReport>>]) -> Self {
        let mut totals = Self::default();
        for report in reports.iter().flatten() {
            totals.add(report);
        }
        totals
    }

    fn add(&mut self, report: &ShardReport) {
        use crate::proto::mqtt::PacketType;
        let (counters, engine) = (&report.counters, &report.engine.counters);
        let publish_bytes = |counts: &crate::proto::packet_counts::PacketCounts| {
            let found = counts.of_each().find(|(packet, ..)| *packet == PacketType::Publish);
            found.map_or(0, |(_, _, bytes)| bytes)
        };
        self.messages_received += counters.received.total().0;
        self.messages_sent += report.sent.packets.total().0;
        self.publish_received += counters.publish_received.iter().sum::<u64>();
        self.publish_sent += counters.publish_sent.iter().sum::<u64>();
        self.publish_dropped += counters.dropped_slow + report.embedded.mesh_dropped;
        self.publish_bytes_received += publish_bytes(&counters.received);
        self.publish_bytes_sent += publish_bytes(&report.sent.packets);
        self.bytes_received += counters.received.total().1;
        self.bytes_sent += report.sent.packets.total().1;
        self.connections += counters.connects;
        self.sockets += engine.accepted;
        self.connected += report.gauges.connections.connected();
        self.filters += report.gauges.filters;
        self.in_flight += report.gauges.outbound.in_flight;
    }

    /// What is counted a minute, by the name of its topics.
    fn loads(&self) -> [(&'static str, u64); 9] {
        [
            ("messages/received", self.messages_received),
            ("messages/sent", self.messages_sent),
            ("publish/received", self.publish_received),
            ("publish/sent", self.publish_sent),
            ("publish/dropped", self.publish_dropped),
            ("bytes/received", self.bytes_received),
            ("bytes/sent", self.bytes_sent),
            ("connections", self.connections),
            ("sockets", self.sockets),
        ]
    }
}

/// What is to be remembered from one interval to the next.
pub(super) struct SysTopics {
    started: Timestamp,
    last: Option<(Timestamp, Totals)>,
    /// By load and by minutes.
    averages: [[f64; 3]; 9],
    connected_max: u64,
}

impl SysTopics {
    pub(super) fn new(started: Timestamp) -> Self {
        Self { started, last: None, averages: [[0.0; 3]; 9], connected_max: 0 }
    }

    /// Asks the shards and publishes, each interval, for ever.
    pub(super) async fn run(state: &AdminState, interval: Duration) {
        let Some(now) = state.node.load().as_ref().map(|node| node.now()) else { return };
        let mut topics = Self::new(now);
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            let Some(node) = state.node.load_full() else { continue };
            let totals = Totals::of(&node.reports().await);
            let messages = topics.messages(node.now(), totals, node.node_report());
            node.publish_status(&messages);
        }
    }

    /// Every topic with what it says at `now`.
    #[expect(clippy::cast_precision_loss, reason = "averages")]
    pub(super) fn messages(
        &mut self,
        now: Timestamp,
        totals: Totals,
        node: NodeReport,
    ) -> Vec<(String, String)> {
        self.connected_max = self.connected_max.max(totals.connected);
        let offline = node.sessions.saturating_sub(totals.connected);
        let uptime_s = now.millis_since(self.started) / 1_000;
        let numbers = [
            ("clients/total", totals.connected + offline),
            ("clients/connected", totals.connected),
            ("clients/active", totals.connected),
            ("clients/disconnected", offline),
            ("clients/inactive", offline),
            ("clients/maximum", self.connected_max),
            ("messages/received", totals.messages_received),
            ("messages/sent", totals.messages_sent),
            ("messages/inflight", totals.in_flight),
            ("publish/messages/received", totals.publish_received),
            ("publish/messages/sent", totals.publish_sent),
            ("publish/messages/dropped", totals.publish_dropped),
            ("publish/bytes/received", totals.publish_bytes_received),
            ("publish/bytes/sent", totals.publish_bytes_sent),
            ("bytes/received", totals.bytes_received),
            ("bytes/sent", totals.bytes_sent),
            ("subscriptions/count", totals.filters),
            ("retained messages/count", node.retained.messages),
            ("store/messages/count", node.retained.messages),
            ("store/messages/bytes", node.retained.bytes),
        ];
        let topic = |name: &str| format!("$SYS/broker/{name}");
        let mut messages = vec![
            (topic("version"), format!("gateway version {}", env!("CARGO_PKG_VERSION"))),
            (topic("uptime"), format!("{uptime_s} seconds")),
        ];
        messages.extend(numbers.map(|(name, number)| (topic(name), number.to_string())));
        if let Some((before, old)) = self.last.replace((now, totals)) {
            let minutes = now.millis_since(before) as f64 / 60_000.0;
            self.average(&old, &totals, minutes);
        }
        for ((name, _), averages) in totals.loads().iter().zip(&self.averages) {
            for ((_, period), average) in LOADS.iter().zip(averages) {
                messages.push((topic(&format!("load/{name}/{period}")), format!("{average:.2}")));
            }
        }
        messages
    }

    /// Moves each average towards what was counted since, as mosquitto does: exponentially.
    #[expect(clippy::cast_precision_loss, reason = "averages")]
    fn average(&mut self, old: &Totals, new: &Totals, minutes: f64) {
        if minutes <= 0.0 {
            return;
        }
        let pairs = old.loads().into_iter().zip(new.loads());
        for (((_, old), (_, new)), averages) in pairs.zip(&mut self.averages) {
            let rate = new.saturating_sub(old) as f64 / minutes;
            for ((period, _), average) in LOADS.iter().zip(averages) {
                let weight = (-minutes / period).exp();
                *average = rate + weight * (*average - rate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::embedded::quota::Usage;

    fn said(messages: &[(String, String)], topic: &str) -> String {
        let topic = format!("$SYS/broker/{topic}");
        messages.iter().find(|(name, _)| *name == topic).map(|(_, text)| text.clone()).unwrap()
    }

    #[test]
    fn averages_follow_what_is_counted() {
        let mut topics = SysTopics::new(Timestamp(0));
        let retained = Usage { messages: 3, bytes: 30 };
        let node = NodeReport { sessions: 5, retained, storage_queue: 0 };
        let mut totals = Totals { connected: 2, ..Totals::default() };
        for minute in 0..=30_u64 {
            totals.publish_received = minute * 60;
            let messages = topics.messages(Timestamp(minute * 60_000), totals, node);
            match minute {
                0 => {
                    assert_eq!(said(&messages, "load/publish/received/1min"), "0.00");
                    assert_eq!(said(&messages, "clients/total"), "5");
                    assert_eq!(said(&messages, "clients/disconnected"), "3");
                    assert_eq!(said(&messages, "retained messages/count"), "3");
                }
                30 => {
                    assert_eq!(said(&messages, "load/publish/received/1min"), "60.00");
                    let slow: f64 = said(&messages, "load/publish/received/15min").parse().unwrap();
                    assert!((50.0..55.0).contains(&slow), "{slow}: 1 - e^-2 of 60");
                    assert_eq!(said(&messages, "uptime"), "1800 seconds");
                }
                _ => {}
            }
        }
    }
}
