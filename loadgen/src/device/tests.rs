//! Devices against a broker that is a few lines of code: no sockets, no clock.

use gateway::proto::mqtt::{ProtocolVersion, QoS};

use super::*;
use crate::{
    client::{Publication, Topics},
    profile::law::{Law, Shape},
};

/// What the books heard, and numbers for messages.
#[derive(Default)]
struct Notes {
    next: u64,
    heard: Vec<String>,
    delivered: Vec<u64>,
}

impl Books for Notes {
    fn stamp(&mut self, publisher: u32, intended_ns: u64, now_ns: u64) -> Stamp {
        self.next += 1;
        Stamp { publisher, epoch: 1, sequence: self.next - 1, intended_ns, sent_ns: now_ns }
    }

    fn hear(&mut self, told: Told<'_>) {
        if let Told::Event(Event::Delivered { payload, .. }) = &told {
            self.delivered.push(Stamp::read(payload).unwrap().sequence);
        }
        self.heard.push(format!("{told:?}"));
    }
}

/// One device, its broker, and a log of all it did.
struct World {
    device: Device,
    profile: Profile,
    notes: Notes,
    scratch: Scratch,
    output: Output,
    now_ns: u64,
    connected: bool,
    /// A session is at the broker.
    session: bool,
    log: Vec<u8>,
    /// The beginning of a packet whose end has not come.
    partial: Vec<u8>,
    connects: usize,
    addresses: Vec<u16>,
}

impl World {
    fn new(profile: Profile, seed: u64) -> Self {
        let publication = Publication {
            topics: Topics::Numbered("t/".into()),
            qos: QoS::AtLeastOnce,
            retain: false,
            payload_bytes: 64,
            window: 10,
            retransmit_after_ms: profile.retransmit_after_ms,
        };
        let options = ClientOptions {
            version: ProtocolVersion::V3_1_1,
            client_id: "d".into(),
            clean_start: false,
            session_expiry_interval_s: 0,
            keep_alive_s: 60,
            subscription: None,
            publication: Some(publication),
            will: None,
        };
        let device = Device::new(options, &profile, Random::of(seed, 0, 0));
        let mut world = Self {
            device,
            profile,
            notes: Notes::default(),
            scratch: Scratch::default(),
            output: Output::default(),
            now_ns: 0,
            connected: false,
            session: false,
            log: Vec::new(),
            partial: Vec::new(),
            connects: 0,
            addresses: Vec::new(),
        };
        world.act(|device, context| device.power_on(0, context));
        world
    }

    fn act(&mut self, mut act: impl FnMut(&mut Device, &mut Context<'_>)) {
        self.act_once(&mut act);
    }

    fn act_once(&mut self, act: &mut dyn FnMut(&mut Device, &mut Context<'_>)) {
        let mut context = Context {
            now_ns: self.now_ns,
            profile: &self.profile,
            unsent_bytes: 0,
            books: &mut self.notes,
            scratch: &mut self.scratch,
            out: &mut self.output,
        };
        act(&mut self.device, &mut context);
        let send = std::mem::take(&mut self.output.send);
        let actions = std::mem::take(&mut self.output.actions);
        self.log.extend_from_slice(&self.now_ns.to_be_bytes());
        self.log.extend_from_slice(&send);
        self.log.extend_from_slice(format!("{actions:?}").as_bytes());
        if self.connected && !send.is_empty() {
            let answer = self.answer(&send);
            if !answer.is_empty() {
                self.act(|device, context| device.handle_received(&answer, context));
            }
        }
        for action in actions {
            if let Action::Connect { address } = action {
                self.connects += 1;
                self.addresses.push(address);
                self.connected = true;
                self.partial.clear();
                self.act(Device::handle_connected);
            } else {
                self.connected = false;
            }
        }
    }

    /// What a broker says.
    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(bytes);
        let gathered = std::mem::take(&mut self.partial);
        let mut bytes = &gathered[..];
        let mut answer = Vec::new();
        while let [first, length, rest @ ..] = bytes {
            let length = usize::from(*length);
            assert!(length < 128, "the packets of these tests are short");
            let Some((body, after)) = rest.split_at_checked(length) else { break };
            match first >> 4 {
                1 => {
                    answer.extend_from_slice(&[0x20, 2, u8::from(self.session), 0]);
                    self.session = true;
                }
                3 => answer.extend_from_slice(&[0x40, 2, body[5], body[6]]),
                12 => answer.extend_from_slice(&[0xD0, 0]),
                _ => {}
            }
            bytes = after;
        }
        self.partial = bytes.to_vec();
        answer
    }

    /// Lets time pass, with a message now and then.
    fn run(&mut self, seconds: u64, message_every_s: u64) {
        let end_ns = self.now_ns + seconds * NANOS_PER_SECOND;
        let mut message_ns = self.now_ns;
        while self.now_ns < end_ns {
            let next_ns = self.device.next_timeout_ns().min(message_ns).min(end_ns);
            self.now_ns = next_ns.max(self.now_ns + 1);
            if message_ns <= self.now_ns {
                let due_ns = message_ns;
                message_ns += message_every_s * NANOS_PER_SECOND;
                self.act(|device, context| device.publish(0, due_ns, context));
            }
            self.act(Device::handle_timeout);
        }
    }

    fn count(&self, what: &str) -> usize {
        self.notes.heard.iter().filter(|heard| heard.contains(what)).count()
    }
}

fn profile(name: &str) -> Profile {
    Profile::load(name).unwrap()
}

#[test]
fn the_same_seed_does_the_same_byte_for_byte() {
    for name in Profile::names() {
        let life = |seed| {
            let mut world = World::new(profile(name), seed);
            world.run(200_000, 97);
            (world.log, world.notes.heard)
        };
        let (first, again, other) = (life(7), life(7), life(8));
        assert_eq!(first, again, "{name}");
        assert_ne!(first.0, other.0, "{name}: another seed is another life");
    }
}

#[test]
fn every_message_is_acknowledged_in_the_end_whatever_happens() {
    for name in Profile::names() {
        let mut world = World::new(profile(name), 3);
        world.run(300_000, 301);
        world.act(Device::settle);
        world.run(600, 1_000);
        assert_eq!(world.device.unfinished(), 0, "{name}");
        assert_eq!(world.count("Acknowledged"), world.count("Acknowledged").max(997), "{name}");
        assert!(world.device.is_ready(), "{name}");
    }
}

#[test]
fn profiles_do_to_a_device_what_they_say() {
    let mut car = World::new(profile("car-lte"), 1);
    car.run(200_000, 600);
    assert!(car.connects > 8, "tunnels and ignition: {} connects", car.connects);
    assert!(car.addresses.iter().any(|address| *address > 0), "re-attached elsewhere");
    assert!(car.count("Ungraceful") > car.count("Graceful"), "it mostly vanishes");

    let mut meter = World::new(profile("meter-nbiot"), 1);
    meter.run(200_000, 7_200);
    assert!((10..60).contains(&meter.connects), "{} connects in 55 h", meter.connects);

    let mut wired = World::new(profile("factory-wired"), 1);
    wired.run(80_000, 10);
    assert!(wired.connects < 5, "{} connects of a wired device", wired.connects);
}

#[test]
fn a_device_without_power_does_nothing_and_leaves_its_connection_half_open() {
    let mut world = World::new(Profile::wire(), 1);
    world.run(10, 1);
    assert!(world.device.is_ready());
    world.act(Device::power_off);
    assert!(world.log.ends_with(b"[Abandon]"));
    assert_eq!(world.device.next_timeout_ns(), NEVER);
    let sent = world.log.len();
    world.act(|device, context| device.publish(0, 0, context));
    assert_eq!(world.log[sent..], [&world.now_ns.to_be_bytes()[..], b"[]"].concat());
    world.act(|device, context| device.power_on(5 * NANOS_PER_SECOND, context));
    world.run(6, 100);
    assert!(world.device.is_ready());
    assert_eq!((world.connects, world.device.unfinished()), (2, 0));
}

#[test]
fn a_message_that_waits_keeps_the_time_it_was_due() {
    let mut world = World::new(Profile::wire(), 1);
    world.run(1, 100);
    world.act(Device::link_away);
    world.act(Device::power_off);
    let due_ns = world.now_ns;
    world.act(|device, context| device.publish(0, due_ns, context));
    world.act(|device, context| device.power_on(NANOS_PER_SECOND, context));
    world.run(10, 1_000);
    let kept = format!("intended_ns: {due_ns}, sent_ns: ");
    let heard = world.notes.heard.iter().find(|heard| heard.contains(&kept));
    assert!(!heard.unwrap().contains(&format!("sent_ns: {due_ns} ")), "{heard:?}");
}

#[test]
fn a_full_store_gives_up_its_oldest_message() {
    let mut world = World::new(Profile { store_messages: 3, ..Profile::wire() }, 1);
    world.act(Device::power_off);
    for _ in 0..5 {
        world.act(|device, context| device.publish(0, 0, context));
    }
    assert_eq!((world.count("GivenUp"), world.device.unfinished()), (2, 3));
}

/// The waits between tries when the broker refuses every connection.
fn waits(law: RetryLaw, tries: usize) -> Vec<f64> {
    let retry = crate::profile::Retry { law, base_s: 1.0, most_s: 30.0 };
    let mut world = World::new(Profile { retry, ..Profile::wire() }, 4);
    let mut dialed_ns = Vec::new();
    for _ in 0..1_000 {
        if dialed_ns.len() > tries {
            break;
        }
        let before = world.connects;
        world.now_ns = world.device.next_timeout_ns().max(world.now_ns + 1);
        // TCP stands, MQTT does not: the broker closes before CONNACK.
        world.connected = false;
        world.session = true;
        let mut context = Context {
            now_ns: world.now_ns,
            profile: &world.profile,
            unsent_bytes: 0,
            books: &mut world.notes,
            scratch: &mut world.scratch,
            out: &mut world.output,
        };
        world.device.handle_timeout(&mut context);
        if context.out.actions.drain(..).any(|action| matches!(action, Action::Connect { .. })) {
            world.device.handle_connected(&mut context);
            world.device.handle_closed(&mut context);
            dialed_ns.push(world.now_ns);
        }
        context.out.send.clear();
        assert_eq!(before, world.connects);
    }
    let gaps = dialed_ns.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.map(|gap_ns| gap_ns as f64 / 1e9).collect()
}

#[test]
fn each_retry_law_waits_as_it_says() {
    let near = |got: &[f64], expected: &[f64]| {
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    };
    near(&waits(RetryLaw::Fixed, 4), &[1.0, 1.0, 1.0, 1.0]);
    near(&waits(RetryLaw::Exponential, 7), &[1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    near(&waits(RetryLaw::Buggy, 4), &[1.0, 1.0, 1.0, 1.0]);
    let jittered = waits(RetryLaw::FullJitter, 7);
    let most = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0];
    assert!(jittered.iter().zip(most).all(|(wait, most)| *wait <= most), "{jittered:?}");
    let decorrelated = waits(RetryLaw::Decorrelated, 20);
    assert!(decorrelated.iter().all(|wait| (1.0..=30.0).contains(wait)), "{decorrelated:?}");
    assert!(decorrelated.iter().any(|wait| *wait > 10.0), "{decorrelated:?}");
}

#[test]
fn a_device_that_sleeps_is_away_most_of_the_time() {
    let mut meter = World::new(profile("meter-nbiot"), 2);
    let mut ready_s = 0;
    for _ in 0..20_000 {
        meter.run(1, 100_000);
        ready_s += u64::from(meter.device.is_ready());
    }
    assert!((20..2_000).contains(&ready_s), "ready for {ready_s} of 20,000 s");
}

#[test]
fn an_idle_device_is_small() {
    assert!(size_of::<Device>() <= 448, "{} bytes", size_of::<Device>());
}

#[test]
fn a_device_is_not_heard_while_bytes_are_on_the_air() {
    let mut profile = Profile::wire();
    profile.link.round_trip_ms = Law { shape: Shape::Fixed(4_000.0), most: 4_000.0 };
    let mut world = World::new(profile, 1);
    world.run(20, 500);
    assert!(world.device.is_ready() && world.device.is_heard());
    world.act(|device, context| device.publish(0, 0, context));
    assert!(!world.device.is_heard(), "the message is on its way up");
    let arrives_ns = world.device.next_timeout_ns();
    world.now_ns = arrives_ns;
    world.act(Device::handle_timeout);
    assert!(!world.device.is_heard(), "its acknowledgement is on its way down");
    world.now_ns += arrives_ns;
    world.act(Device::handle_timeout);
    assert!(world.device.is_heard());
}
