//! The link of one device: when bytes that are written arrive, and when the link is away.
//!
//! TCP hides losses: what is lost comes later. So a flight of bytes arrives after half a round trip,
//! its time on the air, and the retransmission time-outs of the tries that were lost; and never
//! before what was written earlier. While the link is away nothing arrives. When the network has
//! forgotten the connection (NAT) or the device has another address, nothing arrives any more, and
//! neither end is told.

use std::collections::VecDeque;

use crate::{
    profile::{Link, Loss, Profile},
    random::Random,
};

use super::{NANOS_PER_MILLI, NANOS_PER_SECOND};

/// TCP's longest retransmission time-out. Source: RFC 6298 section 2.5, 60 s at least.
const RETRANSMISSION_MAX_MS: f64 = 60_000.0;
/// Tries after which a packet counts as arrived; by then minutes have passed.
const TRIES_MAX: u32 = 8;
/// After a byte the device listens all the time for so long before it goes back to paging.
const LISTENING_MS: f64 = 10_000.0;

/// The state of a link.
#[derive(Debug)]
pub(super) struct Radio {
    uplink: Direction,
    downlink: Direction,
    /// When the link goes or comes back by itself; `u64::MAX` for never.
    change_ns: u64,
    /// When it went.
    away_since_ns: u64,
    /// Where the channel was last looked at.
    channel_ns: u64,
    /// The last byte in either direction.
    heard_ns: u64,
    paging_offset_ns: u32,
    channel_is_bad: bool,
    away: bool,
    calm: bool,
    /// Nothing of this connection arrives any more.
    severed: bool,
}

/// Bytes under way in one direction, in order.
#[derive(Debug, Default)]
struct Direction {
    flights: VecDeque<Flight>,
    /// When the last flight arrives.
    free_ns: u64,
}

#[derive(Debug)]
struct Flight {
    due_ns: u64,
    bytes: Vec<u8>,
}

/// What the return of a link means for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The link went.
    Went,
    /// It is back, and the connection goes on.
    Back,
    /// It is back with another address: the connection is gone, and the broker does not know.
    BackElsewhere,
}

impl Radio {
    /// A link that is there at `now_ns`.
    pub(super) fn new(profile: &Profile, now_ns: u64, random: &mut Random) -> Self {
        let mut radio = Self {
            uplink: Direction::default(),
            downlink: Direction::default(),
            change_ns: u64::MAX,
            away_since_ns: 0,
            channel_ns: now_ns,
            heard_ns: now_ns,
            paging_offset_ns: 0,
            channel_is_bad: false,
            away: false,
            calm: false,
            severed: false,
        };
        if profile.link.paging_ms > 0.0 {
            let offset = millis_ns(profile.link.paging_ms * random.unit());
            radio.paging_offset_ns = u32::try_from(offset).unwrap_or(u32::MAX);
        }
        radio.draw_outage(profile, now_ns, random);
        radio
    }

    /// How long the TCP handshake takes from now on: a round trip, and what is lost of it.
    pub(super) fn handshake_ns(
        &mut self,
        profile: &Profile,
        now_ns: u64,
        random: &mut Random,
    ) -> u64 {
        let there = self.travel_ns(&profile.link, &profile.loss, now_ns, random);
        there + self.travel_ns(&profile.link, &profile.loss, now_ns + there, random)
    }

    /// A new connection: nothing of the old one is left.
    pub(super) fn connected(&mut self, now_ns: u64) {
        (self.uplink, self.downlink) = (Direction::default(), Direction::default());
        self.severed = false;
        self.heard_ns = now_ns;
    }

    /// Whether bytes arrive as soon as they are written, as on a wire.
    pub(super) fn is_wire(&self, profile: &Profile) -> bool {
        profile.link == Link::NONE
            && profile.loss.lost_in_good == 0.0
            && profile.loss.lost_in_bad == 0.0
            && !self.away
            && !self.severed
            && self.downlink.flights.is_empty()
            && self.uplink.flights.is_empty()
    }

    /// Takes what the device writes, empties `bytes`. `piece` is given for a connection that
    /// trickles: bytes of a piece, and nanoseconds between pieces.
    pub(super) fn write(
        &mut self,
        profile: &Profile,
        now_ns: u64,
        bytes: &mut Vec<u8>,
        piece: Option<(usize, u64)>,
        random: &mut Random,
    ) {
        if bytes.is_empty() || !self.is_passed_on(profile, now_ns) {
            bytes.clear();
            return;
        }
        let link = &profile.link;
        let (piece_bytes, gap_ns) = piece.unwrap_or((usize::MAX, 0));
        let mut at_ns = now_ns;
        for piece in bytes.chunks(piece_bytes.max(1)) {
            let travel_ns = self.travel_ns(link, &profile.loss, at_ns, random);
            self.uplink.push(at_ns, travel_ns, link.uplink_bit_per_s, piece);
            at_ns += gap_ns;
        }
        bytes.clear();
    }

    /// Takes what the broker sent.
    pub(super) fn hear(
        &mut self,
        profile: &Profile,
        now_ns: u64,
        bytes: &[u8],
        random: &mut Random,
    ) {
        let silent_ns = now_ns.saturating_sub(self.heard_ns);
        if !self.is_passed_on(profile, now_ns) {
            return;
        }
        let link = &profile.link;
        let mut travel_ns = self.travel_ns(link, &profile.loss, now_ns, random);
        if link.paging_ms > 0.0 && silent_ns > millis_ns(LISTENING_MS) {
            let cycle_ns = millis_ns(link.paging_ms).max(1);
            let into_ns =
                (now_ns + cycle_ns - u64::from(self.paging_offset_ns) % cycle_ns) % cycle_ns;
            travel_ns += cycle_ns - into_ns;
        }
        self.downlink.push(now_ns, travel_ns, link.downlink_bit_per_s, bytes);
    }

    /// Appends what arrives at the broker to `out`.
    pub(super) fn arrived_up(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        while let Some(flight) = self.uplink.arrived(now_ns, self.away) {
            out.extend_from_slice(&flight.bytes);
        }
    }

    /// The next bytes that arrive at the device.
    pub(super) fn arrived_down(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        self.downlink.arrived(now_ns, self.away).map(|flight| flight.bytes)
    }

    /// Whether everything written has arrived.
    pub(super) fn is_drained(&self) -> bool {
        self.uplink.flights.is_empty()
    }

    /// Whether nothing is under way in either direction.
    pub(super) fn is_silent(&self) -> bool {
        self.uplink.flights.is_empty() && self.downlink.flights.is_empty()
    }

    /// Whether nothing passes for the time being.
    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    /// Whether nothing of the connection will ever arrive.
    pub(super) fn is_severed(&self) -> bool {
        self.severed
    }

    /// When something arrives or changes, at the earliest.
    pub(super) fn next_timeout_ns(&self) -> u64 {
        let arrival = |direction: &Direction| match direction.flights.front() {
            Some(flight) if !self.away => flight.due_ns,
            _ => u64::MAX,
        };
        self.change_ns.min(arrival(&self.uplink)).min(arrival(&self.downlink))
    }

    /// Lets the link go or come back if it is time.
    pub(super) fn change(
        &mut self,
        profile: &Profile,
        now_ns: u64,
        random: &mut Random,
    ) -> Option<Change> {
        if now_ns < self.change_ns {
            return None;
        }
        if !self.away {
            let lasts_ns = seconds_ns(profile.outage.for_s.draw(random));
            self.go_away(now_ns, now_ns.saturating_add(lasts_ns.max(1)));
            return Some(Change::Went);
        }
        self.draw_outage(profile, now_ns, random);
        let elsewhere = random.happens(profile.outage.new_address);
        self.come_back(now_ns, random);
        Some(if elsewhere { Change::BackElsewhere } else { Change::Back })
    }

    /// The link goes until `until_ns`, `u64::MAX` for until [`Radio::come_back`].
    pub(super) fn go_away(&mut self, now_ns: u64, until_ns: u64) {
        if !self.away {
            self.away_since_ns = now_ns;
        }
        self.away = true;
        self.change_ns = until_ns;
    }

    /// The link is back. What waited arrives with the next retransmission, which may be as far off
    /// as the outage was long, since time-outs double.
    pub(super) fn come_back(&mut self, now_ns: u64, random: &mut Random) {
        self.away = false;
        let longest_ns =
            now_ns.saturating_sub(self.away_since_ns).min(millis_ns(RETRANSMISSION_MAX_MS));
        for direction in [&mut self.uplink, &mut self.downlink] {
            if !direction.flights.is_empty() {
                let wait_ns = scaled(longest_ns, random.unit());
                direction.hold_until(now_ns + wait_ns);
            }
        }
    }

    /// No more outages, and the network forgets nothing.
    pub(super) fn calm(&mut self) {
        self.change_ns = u64::MAX;
        self.calm = true;
    }

    /// No power: the radio is there when it is switched on again, and until then it is not asked.
    pub(super) fn power_off(&mut self) {
        self.change_ns = u64::MAX;
        self.away = false;
    }

    /// Draws the time of the next outage.
    pub(super) fn draw_outage(&mut self, profile: &Profile, now_ns: u64, random: &mut Random) {
        self.change_ns = match profile.outage.every_s {
            law if law.is_never() || self.calm => u64::MAX,
            law => now_ns.saturating_add(seconds_ns(law.draw(random))),
        };
    }

    /// Whether the network still knows the connection; notes that it was used.
    fn is_passed_on(&mut self, profile: &Profile, now_ns: u64) -> bool {
        let silent_ns = now_ns.saturating_sub(self.heard_ns);
        if profile.nat_idle_s > 0.0 && !self.calm && silent_ns > seconds_ns(profile.nat_idle_s) {
            self.severed = true;
        }
        self.heard_ns = now_ns;
        !self.severed
    }

    /// Half a round trip, and the time-outs of the tries that are lost.
    fn travel_ns(&mut self, link: &Link, loss: &Loss, from_ns: u64, random: &mut Random) -> u64 {
        let round_trip_ms = link.round_trip_ms.draw(random);
        let mut travel_ms = round_trip_ms / 2.0;
        if loss.lost_in_good == 0.0 && loss.lost_in_bad == 0.0 {
            return millis_ns(travel_ms);
        }
        let mut time_out_ms = loss.retransmission_ms.max(round_trip_ms);
        for _ in 0..TRIES_MAX {
            let bad = self.channel_is_bad_at(loss, from_ns + millis_ns(travel_ms), random);
            if !random.happens(if bad { loss.lost_in_bad } else { loss.lost_in_good }) {
                break;
            }
            travel_ms += time_out_ms;
            time_out_ms = (time_out_ms * 2.0).min(RETRANSMISSION_MAX_MS);
        }
        millis_ns(travel_ms)
    }

    /// The two-state Markov chain, advanced to `at_ns` in one step.
    fn channel_is_bad_at(&mut self, loss: &Loss, at_ns: u64, random: &mut Random) -> bool {
        let passed_ms = as_f64(at_ns.saturating_sub(self.channel_ns)) / as_f64(NANOS_PER_MILLI);
        let bad_share = loss.bad_ms / (loss.good_ms + loss.bad_ms);
        let memory = (-passed_ms * (1.0 / loss.good_ms + 1.0 / loss.bad_ms)).exp();
        let was = if self.channel_is_bad { 1.0 } else { 0.0 };
        self.channel_is_bad = random.happens(bad_share + (was - bad_share) * memory);
        self.channel_ns = self.channel_ns.max(at_ns);
        self.channel_is_bad
    }
}

impl Direction {
    fn push(&mut self, now_ns: u64, travel_ns: u64, bit_per_s: f64, bytes: &[u8]) {
        let air_s = if bit_per_s > 0.0 { as_f64(bytes.len() as u64 * 8) / bit_per_s } else { 0.0 };
        let due_ns = (now_ns + travel_ns).max(self.free_ns) + seconds_ns(air_s);
        self.free_ns = due_ns;
        match self.flights.back_mut() {
            Some(last) if last.due_ns == due_ns => last.bytes.extend_from_slice(bytes),
            _ => self.flights.push_back(Flight { due_ns, bytes: bytes.to_vec() }),
        }
    }

    fn arrived(&mut self, now_ns: u64, away: bool) -> Option<Flight> {
        let arrives = !away && self.flights.front().is_some_and(|flight| flight.due_ns <= now_ns);
        if arrives { self.flights.pop_front() } else { None }
    }

    fn hold_until(&mut self, at_ns: u64) {
        for flight in &mut self.flights {
            flight.due_ns = flight.due_ns.max(at_ns);
        }
        self.free_ns = self.free_ns.max(at_ns);
    }
}

/// Milliseconds in nanoseconds.
pub(super) fn millis_ns(millis: f64) -> u64 {
    from_f64(millis * as_f64(NANOS_PER_MILLI))
}

/// Seconds in nanoseconds.
pub(super) fn seconds_ns(seconds: f64) -> u64 {
    from_f64(seconds * as_f64(NANOS_PER_SECOND))
}

/// A part of a time.
pub(super) fn scaled(nanos: u64, share: f64) -> u64 {
    from_f64(as_f64(nanos) * share)
}

#[expect(clippy::cast_precision_loss, reason = "times that are drawn are not exact anyway")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and laws give no negative times"
)]
fn from_f64(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> Profile {
        Profile::load(name).unwrap()
    }

    #[test]
    fn bytes_arrive_whole_and_in_order_whatever_is_lost() {
        let profile = profile("car-lte");
        let mut random = Random::new(5);
        let mut radio = Radio::new(&profile, 0, &mut random);
        radio.calm();
        let mut written = Vec::new();
        let mut got = Vec::new();
        let mut now_ns = 0;
        for byte in 0..200_u8 {
            written.push(byte);
            radio.write(&profile, now_ns, &mut vec![byte], None, &mut random);
            now_ns += 10 * NANOS_PER_MILLI;
            radio.arrived_up(now_ns, &mut got);
        }
        assert!(got.len() < written.len(), "it takes time");
        while !radio.is_drained() {
            radio.arrived_up(radio.next_timeout_ns(), &mut got);
        }
        assert_eq!(got, written);
    }

    #[test]
    fn nothing_arrives_while_the_link_is_away() {
        let profile = profile("factory-wired");
        let mut random = Random::new(5);
        let mut radio = Radio::new(&profile, 0, &mut random);
        radio.calm();
        radio.write(&profile, 0, &mut vec![1], None, &mut random);
        radio.go_away(0, u64::MAX);
        let mut got = Vec::new();
        radio.arrived_up(3 * NANOS_PER_SECOND, &mut got);
        assert_eq!((got.len(), radio.next_timeout_ns()), (0, u64::MAX));
        radio.come_back(3 * NANOS_PER_SECOND, &mut random);
        let due_ns = radio.next_timeout_ns();
        assert!((3 * NANOS_PER_SECOND..6 * NANOS_PER_SECOND).contains(&due_ns), "{due_ns}");
        radio.arrived_up(due_ns, &mut got);
        assert_eq!(got, [1]);
    }

    #[test]
    fn a_forgetful_nat_severs_the_connection_and_tells_nobody() {
        let profile = profile("car-lte");
        let mut random = Random::new(5);
        let mut radio = Radio::new(&profile, 0, &mut random);
        let just_ns = seconds_ns(profile.nat_idle_s);
        radio.hear(&profile, just_ns, b"in time", &mut random);
        assert!(!radio.is_severed());
        radio.hear(&profile, 2 * just_ns + 1, b"too late", &mut random);
        assert!(radio.is_severed());
        radio.connected(2 * just_ns + 1);
        assert!(!radio.is_severed());
    }

    #[test]
    fn a_trickle_comes_in_pieces() {
        let profile = Profile::wire();
        let mut random = Random::new(5);
        let mut radio = Radio::new(&profile, 0, &mut random);
        let piece = Some((2, NANOS_PER_MILLI));
        radio.write(&profile, 0, &mut b"abcde".to_vec(), piece, &mut random);
        let mut got = Vec::new();
        radio.arrived_up(NANOS_PER_MILLI, &mut got);
        assert_eq!(got, b"abcd");
        assert_eq!(radio.next_timeout_ns(), 2 * NANOS_PER_MILLI);
    }

    #[test]
    fn a_sleeping_receiver_hears_only_when_it_is_paged() {
        let mut profile = Profile::wire();
        profile.link.paging_ms = 5_120.0;
        let mut random = Random::new(5);
        let mut radio = Radio::new(&profile, 0, &mut random);
        let late_ns = 100 * NANOS_PER_SECOND;
        radio.hear(&profile, late_ns, b"x", &mut random);
        let first_ns = radio.next_timeout_ns();
        assert!(first_ns > late_ns && first_ns <= late_ns + 5_120 * NANOS_PER_MILLI);
        let again_ns = first_ns + NANOS_PER_SECOND;
        assert!(radio.arrived_down(first_ns).is_some());
        radio.hear(&profile, again_ns, b"x", &mut random);
        assert_eq!(radio.next_timeout_ns(), again_ns, "it still listens");
    }

    #[test]
    fn losses_come_in_bursts_and_as_often_as_the_model_says() {
        let loss = Loss { good_ms: 900.0, bad_ms: 100.0, ..profile("car-lte").loss };
        let mut random = Random::new(9);
        let mut radio = Radio::new(&Profile::wire(), 0, &mut random);
        let states: Vec<bool> = (0..200_000_u64)
            .map(|n| radio.channel_is_bad_at(&loss, n * 10 * NANOS_PER_MILLI, &mut random))
            .collect();
        let bad = states.iter().filter(|bad| **bad).count();
        assert!((18_000..22_000).contains(&bad), "{bad} of 200,000 are bad, a tenth should be");
        let bursts = states.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        let mean_ms = bad as f64 * 10.0 / bursts as f64;
        assert!((90.0..120.0).contains(&mean_ms), "a burst lasts {mean_ms} ms, not 100");
    }
}
