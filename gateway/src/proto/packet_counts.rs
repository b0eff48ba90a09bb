//! MQTT packets that came and went, for metrics. Counted since the start.

use super::mqtt::{PacketType, ReasonCode};

/// Packets of each type, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    packets: [u64; 16],
    bytes: [u64; 16],
}

impl PacketCounts {
    /// Counts a packet of `bytes` in all whose first byte is `first`.
    pub fn add_first_byte(&mut self, first: u8, bytes: usize) {
        let place = usize::from(first >> 4);
        if let (Some(packets), Some(sum)) = (self.packets.get_mut(place), self.bytes.get_mut(place))
        {
            *packets += 1;
            *sum += bytes as u64;
        }
    }

    /// Counts a packet of `bytes` in all.
    pub fn add(&mut self, packet_type: PacketType, bytes: usize) {
        self.add_first_byte((packet_type as u8) << 4, bytes);
    }

    /// Each type with its packets and their bytes.
    pub fn of_each(&self) -> impl Iterator<Item = (PacketType, u64, u64)> {
        let counts = self.packets.into_iter().zip(self.bytes).zip(0_u8..);
        counts.filter_map(|((packets, bytes), place)| {
            Some((PacketType::from_first_byte(place << 4)?, packets, bytes))
        })
    }

    /// All packets, and all their bytes.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        (self.packets.iter().sum(), self.bytes.iter().sum())
    }
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentCounts {
    /// Packets and bytes.
    pub packets: PacketCounts,
    /// By value, from [`FIRST_FAILURE`] on.
    failures: [u64; FAILURES],
    /// Return codes of CONNACK before 5.0, by value.
    return_codes: [u64; RETURN_CODES],
}

/// The lowest Reason Code that is a failure.
const FIRST_FAILURE: u8 = ReasonCode::UnspecifiedError as u8;
const FAILURES: usize =
    ReasonCode::WildcardSubscriptionsNotSupported as usize - FIRST_FAILURE as usize + 1;
/// 0 to 5. Source: MQTT 3.1.1 §3.2.2.3.
const RETURN_CODES: usize = 6;

impl Default for SentCounts {
    fn default() -> Self {
        let packets = PacketCounts::default();
        Self { packets, failures: [0; FAILURES], return_codes: [0; RETURN_CODES] }
    }
}

impl SentCounts {
    /// Counts a Reason Code if it is a failure.
    pub fn add_code(&mut self, code: u8) {
        let place = code.checked_sub(FIRST_FAILURE).map(usize::from);
        if let Some(count) = place.and_then(|place| self.failures.get_mut(place)) {
            *count += 1;
        }
    }

    /// Counts a return code of CONNACK before 5.0.
    pub fn add_return_code(&mut self, code: u8) {
        if let Some(count) = self.return_codes.get_mut(usize::from(code)) {
            *count += 1;
        }
    }

    /// Each Reason Code that is a failure, with how often it was sent.
    pub fn failures(&self) -> impl Iterator<Item = (ReasonCode, u64)> {
        let codes = self.failures.into_iter().zip(FIRST_FAILURE..);
        codes.filter_map(|(count, code)| Some((ReasonCode::from_byte(code)?, count)))
    }

    /// Each return code that is a refusal, with how often it was sent.
    pub fn refusals(&self) -> impl Iterator<Item = (usize, u64)> {
        self.return_codes.into_iter().enumerate().skip(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_counted_under_its_type() {
        let mut counts = PacketCounts::default();
        counts.add_first_byte(0x32, 10);
        counts.add(PacketType::Publish, 5);
        counts.add(PacketType::Pingreq, 2);
        assert_eq!(counts.total(), (3, 17));
        let publish = counts.of_each().find(|(packet, ..)| *packet == PacketType::Publish);
        assert_eq!(publish, Some((PacketType::Publish, 2, 15)));
        assert_eq!(counts.of_each().count(), 15);
    }

    #[test]
    fn only_failures_are_counted_by_code() {
        let mut sent = SentCounts::default();
        for code in [0, 1, 0x80, 0x97, 0x97, 0xA2, 0xff] {
            sent.add_code(code);
        }
        let counted: Vec<_> = sent.failures().filter(|(_, count)| *count > 0).collect();
        let last = ReasonCode::WildcardSubscriptionsNotSupported;
        let expected =
            [(ReasonCode::UnspecifiedError, 1), (ReasonCode::QuotaExceeded, 2), (last, 1)];
        assert_eq!(counted, expected);
        sent.add_return_code(3);
        sent.add_return_code(200);
        assert_eq!(sent.refusals().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(3, 1)]);
    }
}
