//! The names of what a partition has in JetStream. Shared with the shards: both sides derive them.

use crate::proto::partition::PartitionId;

/// The stream of a partition's messages: `MQTT_<number>`.
#[must_use]
pub fn stream_name(partition: PartitionId) -> String {
    format!("MQTT_{}", partition.0)
}

/// The stream of a partition's retained messages: `MQTT_RETAINED_<number>`.
#[must_use]
pub fn retained_stream_name(partition: PartitionId) -> String {
    format!("MQTT_RETAINED_{}", partition.0)
}

/// What stands in front of the subject S of a stored message when it is republished:
/// `live.<number>`, so that it becomes `live.<number>.S`.
#[must_use]
pub fn live_prefix(partition: PartitionId) -> String {
    format!("live.{}", partition.0)
}

/// The same for the retained message of subject S: it is at `retained.<number>.S`.
#[must_use]
pub fn retained_prefix(partition: PartitionId) -> String {
    format!("retained.{}", partition.0)
}

/// In front of the subjects of topics that are for applications only, in place of that of others.
pub const UPLINK_PREFIX: &str = "mqtt_uplink";

/// The stream of a partition's messages for applications only: `MQTT_UPLINK_<number>`.
#[must_use]
pub fn uplink_stream_name(partition: PartitionId) -> String {
    format!("MQTT_UPLINK_{}", partition.0)
}

/// The stream of the sessions at home in a partition's sub-cluster: `MQTT_SESSIONS_<number>`.
#[must_use]
pub fn sessions_stream_name(partition: PartitionId) -> String {
    format!("MQTT_SESSIONS_{}", partition.0)
}

/// In front of the subjects of that stream: `sessions.<number>`.
#[must_use]
pub fn sessions_prefix(partition: PartitionId) -> String {
    format!("sessions.{}", partition.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_number() {
        let partition = PartitionId(65_535);
        assert_eq!(stream_name(partition), "MQTT_65535");
        assert_eq!(retained_stream_name(partition), "MQTT_RETAINED_65535");
        assert_eq!(live_prefix(partition), "live.65535");
        assert_eq!(retained_prefix(partition), "retained.65535");
        assert_eq!(uplink_stream_name(partition), "MQTT_UPLINK_65535");
        assert_eq!(sessions_stream_name(partition), "MQTT_SESSIONS_65535");
        assert_eq!(sessions_prefix(partition), "sessions.65535");
    }
}
