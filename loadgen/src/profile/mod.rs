//! What kind of device it is: how its radio, its power and its software behave.
//!
//! A profile is a TOML file. Those of the crate are in `loadgen/profiles/`, with the source of each
//! figure; users write their own. Reading is strict: no key is ignored, and a section that is not
//! there means that this does not happen to the device. Keys end in their unit. Times in
//! milliseconds are the link's; those in seconds are of what happens now and then, and
//! [`Profile::compressed`] makes that happen more often.

pub(crate) mod law;
mod read;

use std::{fs, path::Path};

pub(crate) use law::Law;
pub(crate) use read::{FileFault, Section};

/// The profiles of the crate, by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("meter-nbiot", include_str!("../../profiles/meter-nbiot.toml")),
    ("tracker-ltem", include_str!("../../profiles/tracker-ltem.toml")),
    ("car-lte", include_str!("../../profiles/car-lte.toml")),
    ("home-wifi", include_str!("../../profiles/home-wifi.toml")),
    ("lorawan-gateway", include_str!("../../profiles/lorawan-gateway.toml")),
    ("factory-wired", include_str!("../../profiles/factory-wired.toml")),
];

/// Compression leaves this much Keep Alive: with less, an ordinary loss would look like a dead link.
const KEEP_ALIVE_LEAST_S: f64 = 5.0;
const DAY_S: f64 = 86_400.0;
const YEAR_S: f64 = 31_536_000.0;
const HOUR_MS: f64 = 3_600_000.0;

/// What kind of device it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    /// Its name.
    pub(crate) name: String,
    /// What it stands for, a sentence.
    pub(crate) about: String,
    /// How bytes travel.
    pub(crate) link: Link,
    /// How packets are lost.
    pub(crate) loss: Loss,
    /// When the link is away.
    pub(crate) outage: Outage,
    /// Without a packet for so long, the network forgets the connection; 0: never.
    pub(crate) nat_idle_s: f64,
    /// Power saving.
    pub(crate) sleep: Option<Sleep>,
    /// MQTT sessions and how connections end.
    pub(crate) session: Session,
    /// When it tries again.
    pub(crate) retry: Retry,
    /// Bytes in small pieces.
    pub(crate) trickle: Trickle,
    /// An unanswered PUBLISH is sent again with DUP after so long; 0: never. Before MQTT 5.0 only.
    pub(crate) retransmit_after_ms: u32,
    /// Messages it keeps while it cannot send; beyond, the oldest is given up.
    pub(crate) store_messages: u32,
    /// What it shares power with.
    pub(crate) site: Option<Site>,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    /// Round trip of a small packet that is not lost.
    pub(crate) round_trip_ms: Law,
    /// Goodput to the broker, 0 for no limit.
    pub(crate) uplink_bit_per_s: f64,
    /// Goodput to the device, 0 for no limit.
    pub(crate) downlink_bit_per_s: f64,
    /// After silence the device is reached only once in this time (eDRX), 0 for always.
    pub(crate) paging_ms: f64,
}

/// Losses in bursts: the model of Gilbert and Elliott, in continuous time.
///
/// The channel is good and bad in turn, for exponential times of these means. A lost packet comes
/// again after TCP's retransmission time-out, which doubles with each loss in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Loss {
    /// Mean length of a good time.
    pub(crate) good_ms: f64,
    /// Mean length of a bad time.
    pub(crate) bad_ms: f64,
    /// Share of packets lost in a good time.
    pub(crate) lost_in_good: f64,
    /// Share of packets lost in a bad time.
    pub(crate) lost_in_bad: f64,
    /// The first retransmission time-out.
    pub(crate) retransmission_ms: f64,
}

/// When the link is away: an alternating renewal process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outage {
    /// From the end of one to the begin of the next; always 0: never.
    pub(crate) every_s: Law,
    /// How long.
    pub(crate) for_s: Law,
    /// Share of outages after which the device has another address, so that the connection is
    /// gone without FIN and the broker does not know.
    pub(crate) new_address: f64,
}

/// Power saving: awake for a while, then not reachable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sleep {
    /// From waking up to waking up.
    pub(crate) every_s: f64,
    /// How long it stays awake.
    pub(crate) awake_s: Law,
    /// Share of devices that wake at the same moment, as if by the full hour; the others spread.
    pub(crate) aligned: f64,
    /// What becomes of the connection meanwhile.
    pub(crate) connection: Leave,
}

/// What becomes of a connection that a device does not use for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It stays, silent.
    Keep,
    /// DISCONNECT.
    Disconnect,
    /// The device forgets it and says nothing.
    Vanish,
}

/// MQTT sessions and how connections end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Session {
    /// Keep Alive.
    pub(crate) keep_alive_s: f64,
    /// Share of devices that start clean each time.
    pub(crate) clean_start: f64,
    /// Session Expiry Interval, 5.0.
    pub(crate) expiry_s: f64,
    /// How long a connection lasts before the device ends it; always 0: it does not.
    pub(crate) life_s: Law,
    /// How long the device then stays away.
    pub(crate) away_s: Law,
    /// Share of these endings that are a DISCONNECT.
    pub(crate) disconnect: f64,
    /// Share that are a TCP reset; the rest vanish without a word.
    pub(crate) reset: f64,
}

/// When a device tries again after a connection was refused or lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Retry {
    /// How the wait grows.
    pub(crate) law: RetryLaw,
    /// The first wait.
    pub(crate) base_s: f64,
    /// The longest wait.
    pub(crate) most_s: f64,
}

/// How the wait grows from attempt to attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryLaw {
    /// It does not.
    Fixed,
    /// Doubles.
    Exponential,
    /// Anything from 0 to what doubles.
    FullJitter,
    /// Anything from the base to three times the last one.
    Decorrelated,
    /// Meant to double, but starts over with each TCP connection: a refusing broker is hammered.
    Buggy,
}

/// Bytes in small pieces, as from a modem with a small buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Trickle {
    /// Share of connections that do this.
    pub(crate) share: f64,
    /// Bytes of a piece.
    pub(crate) piece_bytes: u32,
    /// From piece to piece.
    pub(crate) gap_ms: f64,
}

/// Devices that lose power together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Site {
    /// Devices of a site.
    pub(crate) devices: u32,
    /// From power cut to power cut; always 0: only when a scenario says so.
    pub(crate) every_s: Law,
    /// How long.
    pub(crate) for_s: Law,
    /// From power to the first CONNECT.
    pub(crate) boot_s: Law,
}

impl Profile {
    /// The names of the crate's profiles.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The text of a profile of the crate.
    pub(crate) fn text(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// A profile of the crate by its name, or one of the user by the name of its file.
    ///
    /// # Errors
    ///
    /// A line for each fault.
    pub(crate) fn load(name: &str) -> Result<Self, Vec<String>> {
        if let Some(text) = Self::text(name) {
            return Self::parse(text).map_err(|faults| said(name, &faults));
        }
        if Path::new(name).extension().is_none_or(|extension| extension != "toml") {
            let names: Vec<_> = Self::names().collect();
            return Err(vec![format!(
                "no profile {name}: give the name of a .toml file or one of {}",
                names.join(", ")
            )]);
        }
        let text = fs::read_to_string(name)
            .map_err(|error| vec![format!("cannot read the profile {name}: {error}")])?;
        Self::parse(&text).map_err(|faults| said(name, &faults))
    }

    /// Reads the text of a profile.
    ///
    /// # Errors
    ///
    /// Every fault in it.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<FileFault>> {
        let mut faults = Vec::new();
        let mut file = Section::file(text, &mut faults);
        let profile = Self {
            name: file.text("name", None),
            about: file.text("about", None),
            link: file.section("link").map_or(Link::NONE, read_link),
            loss: file.section("loss").map_or(Loss::NONE, read_loss),
            outage: file.section("outage").map_or(Outage::NONE, read_outage),
            nat_idle_s: file.number("nat_idle_s", 0.0..=YEAR_S, Some(0.0)),
            sleep: file.section("sleep").and_then(read_sleep),
            session: file.section("session").map_or(Session::STEADY, read_session),
            retry: file.section("retry").map_or(Retry::PROMPT, read_retry),
            trickle: file.section("trickle").map_or_else(Trickle::default, read_trickle),
            retransmit_after_ms: small(file.whole("retransmit_after_ms", 0..=3_600_000, Some(0))),
            store_messages: small(file.whole("store_messages", 1..=1_000_000, Some(1_000))),
            site: file.section("site").map(read_site),
        };
        file.finish();
        if faults.is_empty() { Ok(profile) } else { Err(faults) }
    }

    /// A device on a wire, to which nothing ever happens: what back ends and probes are.
    pub(crate) fn wire() -> Self {
        Self {
            name: "wire".to_owned(),
            about: "no impairment at all".to_owned(),
            link: Link::NONE,
            loss: Loss::NONE,
            outage: Outage::NONE,
            nat_idle_s: 0.0,
            sleep: None,
            session: Session::STEADY,
            retry: Retry::PROMPT,
            trickle: Trickle::default(),
            retransmit_after_ms: 0,
            store_messages: 100_000,
            site: None,
        }
    }

    /// The same device living `by` times as fast: times in seconds are divided by that, those of
    /// the link in milliseconds stay.
    pub(crate) fn compressed(mut self, by: f64) -> Self {
        for law in [
            &mut self.outage.every_s,
            &mut self.outage.for_s,
            &mut self.session.life_s,
            &mut self.session.away_s,
        ] {
            *law = law.divided(by);
        }
        self.nat_idle_s /= by;
        let keep_alive_s = self.session.keep_alive_s;
        self.session.keep_alive_s = (keep_alive_s / by).max(KEEP_ALIVE_LEAST_S).min(keep_alive_s);
        self.retry.base_s /= by;
        self.retry.most_s /= by;
        if let Some(sleep) = &mut self.sleep {
            sleep.every_s /= by;
            sleep.awake_s = sleep.awake_s.divided(by);
        }
        if let Some(site) = &mut self.site {
            for law in [&mut site.every_s, &mut site.for_s, &mut site.boot_s] {
                *law = law.divided(by);
            }
        }
        self
    }
}

impl Link {
    /// Bytes arrive at once.
    pub(crate) const NONE: Self = Self {
        round_trip_ms: Law::ZERO,
        uplink_bit_per_s: 0.0,
        downlink_bit_per_s: 0.0,
        paging_ms: 0.0,
    };
}

impl Loss {
    const NONE: Self = Self {
        good_ms: 1.0,
        bad_ms: 1.0,
        lost_in_good: 0.0,
        lost_in_bad: 0.0,
        retransmission_ms: 200.0,
    };
}

impl Outage {
    const NONE: Self = Self { every_s: Law::ZERO, for_s: Law::ZERO, new_address: 0.0 };
}

impl Session {
    const STEADY: Self = Self {
        keep_alive_s: 60.0,
        clean_start: 0.0,
        expiry_s: DAY_S,
        life_s: Law::ZERO,
        away_s: Law::ZERO,
        disconnect: 1.0,
        reset: 0.0,
    };
}

impl Retry {
    const PROMPT: Self = Self { law: RetryLaw::FullJitter, base_s: 0.2, most_s: 2.0 };
}

fn read_link(mut section: Section<'_>) -> Link {
    let link = Link {
        round_trip_ms: section.law("round_trip_ms", HOUR_MS),
        uplink_bit_per_s: section.number("uplink_bit_per_s", 0.0..=1e12, None),
        downlink_bit_per_s: section.number("downlink_bit_per_s", 0.0..=1e12, None),
        paging_ms: section.number("paging_ms", 0.0..=HOUR_MS, Some(0.0)),
    };
    section.finish();
    link
}

fn read_loss(mut section: Section<'_>) -> Loss {
    let loss = Loss {
        good_ms: section.number("good_ms", 1.0..=1e9, None),
        bad_ms: section.number("bad_ms", 1.0..=1e9, None),
        lost_in_good: section.share("lost_in_good"),
        lost_in_bad: section.share("lost_in_bad"),
        retransmission_ms: section.number("retransmission_ms", 1.0..=60_000.0, None),
    };
    section.finish();
    loss
}

fn read_outage(mut section: Section<'_>) -> Outage {
    let outage = Outage {
        every_s: section.law("every_s", YEAR_S),
        for_s: section.law("for_s", YEAR_S),
        new_address: section.share("new_address"),
    };
    section.finish();
    outage
}

fn read_sleep(mut section: Section<'_>) -> Option<Sleep> {
    let leaves =
        [("keep", Leave::Keep), ("disconnect", Leave::Disconnect), ("vanish", Leave::Vanish)];
    let sleep = Sleep {
        every_s: section.number("every_s", 0.1..=YEAR_S, None),
        awake_s: section.law("awake_s", DAY_S),
        aligned: section.share("aligned"),
        connection: section.choice("connection", &leaves, None)?,
    };
    section.finish();
    Some(sleep)
}

fn read_session(mut section: Section<'_>) -> Session {
    let session = Session {
        keep_alive_s: section.number("keep_alive_s", 0.0..=65_535.0, None),
        clean_start: section.share("clean_start"),
        expiry_s: section.number("expiry_s", 1.0..=4_294_967_295.0, None),
        life_s: section.law("life_s", YEAR_S),
        away_s: section.law("away_s", YEAR_S),
        disconnect: section.share("disconnect"),
        reset: section.share("reset"),
    };
    if session.disconnect + session.reset > 1.0 {
        let sum = toml::Value::Float(session.disconnect + session.reset);
        section.fault("disconnect + reset", &sum, "at most 1: the rest vanish");
    }
    section.finish();
    session
}

fn read_retry(mut section: Section<'_>) -> Retry {
    let laws = [
        ("fixed", RetryLaw::Fixed),
        ("exponential", RetryLaw::Exponential),
        ("full-jitter", RetryLaw::FullJitter),
        ("decorrelated", RetryLaw::Decorrelated),
        ("buggy", RetryLaw::Buggy),
    ];
    let law = section.choice("law", &laws, None).unwrap_or(RetryLaw::Fixed);
    let base_s = section.number("base_s", 0.001..=DAY_S, None);
    let most_s = section.number("most_s", base_s..=YEAR_S, None);
    section.finish();
    Retry { law, base_s, most_s }
}

fn read_trickle(mut section: Section<'_>) -> Trickle {
    let trickle = Trickle {
        share: section.share("share"),
        piece_bytes: small(section.whole("piece_bytes", 1..=65_536, None)),
        gap_ms: section.number("gap_ms", 0.0..=60_000.0, None),
    };
    section.finish();
    trickle
}

fn read_site(mut section: Section<'_>) -> Site {
    let site = Site {
        devices: small(section.whole("devices", 1..=1_000_000, None)),
        every_s: section.law("every_s", YEAR_S),
        for_s: section.law("for_s", YEAR_S),
        boot_s: section.law("boot_s", DAY_S),
    };
    section.finish();
    site
}

/// A number whose range was checked.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn said(name: &str, faults: &[FileFault]) -> Vec<String> {
    faults.iter().map(|fault| format!("profile {name}: {fault}")).collect()
}

#[cfg(test)]
mod tests;
