//! A simulated device: an MQTT client behind a radio, with a power switch and bad habits.
//!
//! ```text
//!          ┌───────────── Away ◀── asleep, ignition off, booting ──┐
//!          ▼                                                       │
//! Off ─▶ Waiting ─▶ Dialing ─▶ Connecting ─▶ Securing ─▶ Online ─▶ Leaving
//!          ▲  retry law  round trip   │           │         │ lost, refused, vanished
//!          └─────────────────────────┴───────────┴─────────┘
//! ```
//!
//! Sans-IO: events and time in ([`Device::handle_timeout`] and its like), bytes and [`Action`]s out,
//! everything random from a seed. The same seed, the same events: the same actions, byte for byte.
//! Messages that are due while it cannot send wait in its store, with the time they were due.

mod layered;
mod radio;

use std::collections::VecDeque;

use crate::{
    client::{Client, ClientOptions, Event, Fault, Scratch},
    payload::Stamp,
    profile::{Leave, Profile, RetryLaw},
    random::Random,
    transport::{LayerFault, Layers, Secured},
};
use radio::{Change, Radio, millis_ns, seconds_ns};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
const NEVER: u64 = u64::MAX;
/// A CONNECT or SUBSCRIBE not answered for so long is given up.
const HANDSHAKE_NS: u64 = 60 * NANOS_PER_SECOND;
/// A DISCONNECT that does not get out for so long is given up.
const LEAVE_NS: u64 = 20 * NANOS_PER_SECOND;
/// A device with something under way stays awake for so long more, and that often.
const DOZE_NS: u64 = NANOS_PER_SECOND;
const DOZES_MAX: u8 = 30;
/// A connection with this much unsent takes no more messages: the broker reads slower than they come.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// When a run settles, nobody waits longer than this before the next try.
const CALM_WAIT_NS: u64 = 2 * NANOS_PER_SECOND;

/// A simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    client: Client,
    /// What is between its client and its radio; `None` on plain TCP.
    layers: Option<Box<Layers>>,
    radio: Radio,
    random: Random,
    /// Messages that wait to be sent.
    store: VecDeque<Held>,
    /// When what the state waits for is over.
    until_ns: u64,
    /// When it ends its connection by itself.
    life_end_ns: u64,
    /// When it goes to sleep.
    sleep_ns: u64,
    /// It wakes at this plus any multiple of its sleep cycle.
    wake_offset_ns: u64,
    /// How long it waited before the last try.
    waited_s: f32,
    attempts: u8,
    dozes: u8,
    addresses: u16,
    state: State,
    trickles: bool,
    /// The broker closed the connection while the link was away: the device does not know yet.
    closed_unheard: bool,
    /// Asleep with its connection left standing.
    dozing: bool,
    /// The run settles: no more impairments but the link's own.
    calm: bool,
}

/// Named for what the device waits for, or where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Without power, or not begun.
    Off,
    /// For its own good time to come back.
    Away,
    /// For the retry law, or (`until_ns` is [`NEVER`]) for the link.
    Waiting,
    /// For the TCP handshake over the radio.
    Dialing,
    /// For the real TCP handshake.
    Connecting,
    /// For the handshakes of TLS and WebSocket.
    Securing,
    /// The MQTT client has the connection.
    Online,
    /// For DISCONNECT to arrive; `until_ns` is when it comes back.
    Leaving { give_up_ns: u64 },
}

/// A message that waits.
#[derive(Clone, Copy, Debug)]
struct Held {
    intended_ns: u64,
    publisher: u32,
}

/// What to do with the device's one TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make it; `address` counts the addresses the device has had.
    Connect {
        /// 0 for the first.
        address: u16,
    },
    /// Close it once everything is sent.
    Finish,
    /// Reset it.
    Reset,
    /// Leave it half open: read nothing more, tell the broker nothing.
    Abandon,
}

/// What a device wants done: first `send` is sent, then the actions in order.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Bytes for the connection.
    pub(crate) send: Vec<u8>,
    /// What to do with the connection.
    pub(crate) actions: Vec<Action>,
}

/// What the books hear.
#[derive(Debug, PartialEq)]
pub(crate) enum Told<'a> {
    /// From the MQTT client.
    Event(Event<'a>),
    /// The TLS handshake is over.
    Secured(Secured),
    /// The WebSocket stands.
    Upgraded {
        /// Nanoseconds since its request was written.
        after_ns: u64,
    },
    /// CONNACK came, and took the client.
    Accepted {
        /// Nanoseconds since CONNECT was written.
        after_ns: u64,
    },
    /// TLS or WebSocket gave the connection up.
    LayerFault(LayerFault),
    /// The client gave the connection up.
    Fault(Fault),
    /// A handshake, CONNECT or SUBSCRIBE was not answered in time.
    Unanswered,
    /// The connection was refused before CONNECT.
    Refused,
    /// A connection on which CONNECT was written has ended.
    Ended {
        /// Which of the client's CONNECTs.
        connect: u32,
        /// How.
        ending: Ending,
    },
    /// The store was full: this publisher's oldest message is never sent.
    GivenUp {
        /// Whose.
        publisher: u32,
    },
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// DISCONNECT reached the broker.
    Graceful,
    /// Without DISCONNECT, after CONNACK: the broker must publish the will.
    Ungraceful,
    /// Closed by the broker while the device thought it was online.
    ByBroker,
    /// Before CONNACK, or with DISCONNECT under way: nobody can say what the broker knows.
    Unknown,
}

/// Where a device's messages get their numbers, and who hears what happens to it.
pub(crate) trait Books {
    /// The stamp of the next message of `publisher`.
    fn stamp(&mut self, publisher: u32, intended_ns: u64, now_ns: u64) -> Stamp;
    /// Something happened.
    fn hear(&mut self, told: Told<'_>);
}

/// What a device is lent for a call.
pub(crate) struct Context<'a> {
    /// The time.
    pub(crate) now_ns: u64,
    /// What kind of device it is.
    pub(crate) profile: &'a Profile,
    /// Bytes of its connection that the kernel has not taken yet.
    pub(crate) unsent_bytes: usize,
    /// The books.
    pub(crate) books: &'a mut dyn Books,
    /// Where packets are made.
    pub(crate) scratch: &'a mut Scratch,
    /// What it wants done.
    pub(crate) out: &'a mut Output,
}

impl Device {
    /// A device without power. `random` decides all that happens to it.
    pub(crate) fn new(options: ClientOptions, profile: &Profile, mut random: Random) -> Self {
        let radio = Radio::new(profile, 0, &mut random);
        let wake_offset_ns = profile.sleep.as_ref().map_or(0, |sleep| {
            if random.happens(sleep.aligned) {
                0
            } else {
                seconds_ns(sleep.every_s * random.unit())
            }
        });
        Self {
            client: Client::new(options),
            layers: None,
            radio,
            random,
            store: VecDeque::new(),
            until_ns: NEVER,
            life_end_ns: NEVER,
            sleep_ns: NEVER,
            wake_offset_ns,
            waited_s: 0.0,
            attempts: 0,
            dozes: 0,
            addresses: 0,
            state: State::Off,
            trickles: false,
            closed_unheard: false,
            dozing: false,
            calm: false,
        }
    }

    /// Power, or the beginning: dials after `wait_ns`.
    pub(crate) fn power_on(&mut self, wait_ns: u64, context: &mut Context<'_>) {
        if self.state == State::Off {
            self.radio.draw_outage(context.profile, context.now_ns, &mut self.random);
            self.stay_away(context.now_ns.saturating_add(wait_ns));
        }
    }

    /// Power is cut: the connection is left half open.
    pub(crate) fn power_off(&mut self, context: &mut Context<'_>) {
        self.drop_connection(Some(Action::Abandon), context);
        self.radio.power_off();
        self.dozing = false;
        self.state = State::Off;
        self.until_ns = NEVER;
    }

    /// How long it takes from power to the first CONNECT.
    pub(crate) fn boot_ns(&mut self, profile: &Profile) -> u64 {
        profile.site.as_ref().map_or(0, |site| seconds_ns(site.boot_s.draw(&mut self.random)))
    }

    /// The link goes until [`Device::link_back`].
    pub(crate) fn link_away(&mut self, context: &mut Context<'_>) {
        self.radio.go_away(context.now_ns, NEVER);
    }

    /// The link is back.
    pub(crate) fn link_back(&mut self, context: &mut Context<'_>) {
        if self.radio.is_away() && !self.dozing {
            self.radio.draw_outage(context.profile, context.now_ns, &mut self.random);
            self.radio.come_back(context.now_ns, &mut self.random);
            self.after_outage(context);
        }
    }

    /// Ends the connection that it has, if it has one, and comes back by its retry law.
    pub(crate) fn break_connection(&mut self, action: Action, context: &mut Context<'_>) {
        if matches!(self.state, State::Online | State::Connecting | State::Securing) {
            match action {
                Action::Finish if self.state != State::Securing => {
                    self.leave(context.now_ns, false, context)
                }
                Action::Finish | Action::Reset | Action::Abandon | Action::Connect { .. } => {
                    self.drop_connection(Some(action), context);
                    self.retry(context);
                }
            }
        }
    }

    /// From now on nothing happens to it but the link's delays, and it comes back if it is away.
    pub(crate) fn settle(&mut self, context: &mut Context<'_>) {
        self.calm = true;
        let away = self.radio.is_away();
        self.radio.calm();
        (self.life_end_ns, self.sleep_ns) = (NEVER, NEVER);
        if away {
            self.dozing = false;
            self.radio.come_back(context.now_ns, &mut self.random);
            self.after_outage(context);
        }
        if matches!(self.state, State::Leaving { .. }) {
            // It would come back only after its time away.
            self.drop_connection(Some(Action::Abandon), context);
            self.stay_away(context.now_ns);
        }
        if self.radio.is_severed() && matches!(self.state, State::Securing | State::Online) {
            self.drop_connection(Some(Action::Abandon), context);
            self.retry(context);
        }
        if matches!(self.state, State::Waiting | State::Away) {
            let soon_ns = context.now_ns + self.part_of(CALM_WAIT_NS);
            self.until_ns = self.until_ns.min(soon_ns);
        }
    }

    /// Says DISCONNECT and ends its session where the protocol lets it. It does not come back.
    pub(crate) fn say_goodbye(&mut self, context: &mut Context<'_>) {
        if self.state == State::Online {
            self.leave(NEVER, true, context);
        } else {
            self.drop_connection(Some(Action::Abandon), context);
            self.stay_away(NEVER);
        }
    }

    /// Connects once more, clean, so that nothing of it stays at the broker.
    pub(crate) fn come_back_clean(&mut self, context: &mut Context<'_>) {
        self.client.forget_session();
        self.stay_away(context.now_ns);
    }

    /// A message of `publisher` is due.
    pub(crate) fn publish(&mut self, publisher: u32, intended_ns: u64, context: &mut Context<'_>) {
        self.store.push_back(Held { intended_ns, publisher });
        self.send_stored(context);
        if self.store.len() > context.profile.store_messages as usize
            && let Some(oldest) = self.store.pop_front()
        {
            context.books.hear(Told::GivenUp { publisher: oldest.publisher });
        }
    }

    /// The real TCP connection stands.
    pub(crate) fn handle_connected(&mut self, context: &mut Context<'_>) {
        if self.state != State::Connecting {
            return;
        }
        self.until_ns = context.now_ns + HANDSHAKE_NS;
        if context.profile.retry.law == RetryLaw::Buggy {
            self.attempts = 0;
        }
        self.trickles = self.random.happens(context.profile.trickle.share);
        if self.layers.is_some() {
            self.begin_layers(context);
        } else {
            self.go_online(context);
        }
    }

    /// Bytes came from the broker.
    pub(crate) fn handle_received(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        if !matches!(self.state, State::Securing | State::Online) {
            return;
        }
        if self.radio.is_wire(context.profile) {
            self.receive(bytes, context);
        } else {
            self.radio.hear(context.profile, context.now_ns, bytes, &mut self.random);
            self.receive_arrived(context);
        }
    }

    /// The connection could not be made, or the broker closed it.
    pub(crate) fn handle_closed(&mut self, context: &mut Context<'_>) {
        match self.state {
            State::Connecting => {
                context.books.hear(Told::Refused);
                self.drop_connection(None, context);
                self.retry(context);
            }
            State::Securing | State::Online if self.is_out_of_reach() => {
                self.closed_unheard = true;
            }
            State::Securing | State::Online => self.lose_connection(context),
            State::Leaving { .. } => {
                let until_ns = self.until_ns;
                self.drop_connection(None, context);
                self.stay_away(until_ns);
            }
            State::Off | State::Away | State::Waiting | State::Dialing => {}
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, context: &mut Context<'_>) {
        let now_ns = context.now_ns;
        match self.radio.change(context.profile, now_ns, &mut self.random) {
            Some(Change::Back) => self.after_outage(context),
            Some(Change::BackElsewhere) => {
                self.addresses = self.addresses.wrapping_add(1);
                if matches!(self.state, State::Online | State::Connecting | State::Securing) {
                    self.drop_connection(Some(Action::Abandon), context);
                    self.dial(context);
                } else {
                    self.after_outage(context);
                }
            }
            Some(Change::Went) | None => {}
        }
        self.radio.arrived_up(now_ns, &mut context.out.send);
        self.receive_arrived(context);
        match self.state {
            State::Away | State::Waiting if self.until_ns <= now_ns => self.dial(context),
            State::Dialing if self.until_ns <= now_ns => {
                self.state = State::Connecting;
                self.until_ns = NEVER;
                context.out.actions.push(Action::Connect { address: self.addresses });
            }
            State::Online => self.handle_online_timeout(context),
            State::Securing if self.until_ns <= now_ns => self.give_up_unanswered(context),
            State::Leaving { give_up_ns } => self.handle_leaving(give_up_ns, context),
            State::Off
            | State::Away
            | State::Waiting
            | State::Dialing
            | State::Connecting
            | State::Securing => {}
        }
    }

    /// When [`Device::handle_timeout`] has something to do, [`u64::MAX`] for never.
    pub(crate) fn next_timeout_ns(&self) -> u64 {
        let own_ns = match self.state {
            State::Off | State::Connecting => NEVER,
            State::Away | State::Waiting | State::Dialing | State::Securing => self.until_ns,
            State::Online if self.dozing => self.until_ns,
            State::Online if self.client.is_ready() => {
                let client_ns = self.client.next_timeout_ns().unwrap_or(NEVER);
                client_ns.min(self.life_end_ns).min(self.sleep_ns)
            }
            State::Online => self.until_ns,
            State::Leaving { give_up_ns } => give_up_ns,
        };
        if self.state == State::Off { NEVER } else { own_ns.min(self.radio.next_timeout_ns()) }
    }

    /// Its MQTT client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is connected and has what it subscribed to.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Online && self.client.is_ready()
    }

    /// Whether nothing that it or the broker sent is still on the air.
    pub(crate) fn is_heard(&self) -> bool {
        self.state != State::Dialing && self.radio.is_silent()
    }

    /// Whether it waits for nothing: no connection, and no time at which to make one.
    pub(crate) fn is_gone(&self) -> bool {
        match self.state {
            State::Off => true,
            State::Away => self.until_ns == NEVER,
            _ => false,
        }
    }

    /// Messages that wait to be sent, and exchanges that are not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.store.len() + self.client.unfinished()
    }

    fn handle_online_timeout(&mut self, context: &mut Context<'_>) {
        let now_ns = context.now_ns;
        if self.dozing {
            if self.until_ns <= now_ns {
                self.wake(context);
            }
            return;
        }
        if !self.client.is_ready() {
            if self.until_ns <= now_ns {
                self.give_up_unanswered(context);
            }
            return;
        }
        if self.client.next_timeout_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            let mut packets = Vec::new();
            let outcome = self.client.handle_timeout(now_ns, context.scratch, &mut packets);
            self.write(&mut packets, context);
            if let Err(fault) = outcome {
                context.books.hear(Told::Fault(fault));
                self.give_up(context);
                return;
            }
        }
        if self.life_end_ns <= now_ns {
            self.end_life(context);
        } else if self.sleep_ns <= now_ns {
            self.fall_asleep(context);
        }
    }

    fn handle_leaving(&mut self, give_up_ns: u64, context: &mut Context<'_>) {
        let back_ns = self.until_ns;
        if self.radio.is_drained() && !self.radio.is_severed() {
            self.drop_connection(Some(Action::Finish), context);
            self.stay_away(back_ns);
        } else if give_up_ns <= context.now_ns {
            self.drop_connection(Some(Action::Abandon), context);
            self.stay_away(back_ns);
        }
    }

    /// What the link held back is heard, and what waited for it goes on.
    fn after_outage(&mut self, context: &mut Context<'_>) {
        match self.state {
            State::Securing | State::Online if self.closed_unheard => self.lose_connection(context),
            State::Waiting if self.until_ns == NEVER => self.dial(context),
            _ => {}
        }
    }

    fn dial(&mut self, context: &mut Context<'_>) {
        if self.radio.is_away() {
            self.state = State::Waiting;
            self.until_ns = NEVER;
            return;
        }
        let now_ns = context.now_ns;
        self.radio.connected(now_ns);
        let handshake_ns = self.radio.handshake_ns(context.profile, now_ns, &mut self.random);
        self.state = State::Dialing;
        self.until_ns = now_ns + handshake_ns;
        if handshake_ns == 0 {
            self.state = State::Connecting;
            self.until_ns = NEVER;
            context.out.actions.push(Action::Connect { address: self.addresses });
        }
    }

    fn receive_arrived(&mut self, context: &mut Context<'_>) {
        while matches!(self.state, State::Securing | State::Online) {
            let Some(bytes) = self.radio.arrived_down(context.now_ns) else { break };
            self.receive(&bytes, context);
        }
    }

    fn go_online(&mut self, context: &mut Context<'_>) {
        self.state = State::Online;
        self.until_ns = context.now_ns + HANDSHAKE_NS;
        let mut packets = Vec::new();
        self.client.handle_connected(context.now_ns, &mut packets);
        self.write(&mut packets, context);
    }

    fn receive(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        if self.layers.is_some() {
            self.receive_layered(bytes, context);
        } else {
            self.receive_packets(bytes, context);
        }
    }

    /// MQTT came from the broker.
    fn receive_packets(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        let was_ready = self.client.is_ready();
        let connect_ns = self.client.unanswered_connect_ns();
        let mut packets = Vec::new();
        let books = &mut *context.books;
        let mut on_event = |event: Event<'_>| books.hear(Told::Event(event));
        let outcome =
            self.client.handle_received(context.now_ns, bytes, &mut packets, &mut on_event);
        if let Some(connect_ns) = connect_ns
            && outcome.is_ok()
            && self.client.unanswered_connect_ns().is_none()
        {
            let after_ns = context.now_ns.saturating_sub(connect_ns);
            context.books.hear(Told::Accepted { after_ns });
        }
        self.write(&mut packets, context);
        match outcome {
            Err(fault) => {
                context.books.hear(Told::Fault(fault));
                self.give_up(context);
            }
            Ok(()) => {
                if !was_ready && self.client.is_ready() {
                    self.begin_life(context);
                }
                self.send_stored(context);
            }
        }
    }

    /// Ready: from here on the connection lasts as long as the profile says.
    fn begin_life(&mut self, context: &Context<'_>) {
        let now_ns = context.now_ns;
        (self.attempts, self.waited_s, self.dozes) = (0, 0.0, 0);
        self.until_ns = NEVER;
        if self.calm {
            return;
        }
        let life_s = context.profile.session.life_s;
        if !life_s.is_never() {
            self.life_end_ns = now_ns.saturating_add(seconds_ns(life_s.draw(&mut self.random)));
        }
        if let Some(sleep) = &context.profile.sleep {
            self.sleep_ns = now_ns + seconds_ns(sleep.awake_s.draw(&mut self.random));
        }
    }

    fn end_life(&mut self, context: &mut Context<'_>) {
        let session = &context.profile.session;
        let away_ns = seconds_ns(session.away_s.draw(&mut self.random));
        let back_ns = context.now_ns.saturating_add(away_ns);
        let which = self.random.unit();
        if which < session.disconnect {
            self.leave(back_ns, false, context);
        } else {
            let reset = which < session.disconnect + session.reset;
            let action = if reset { Action::Reset } else { Action::Abandon };
            self.drop_connection(Some(action), context);
            self.stay_away(back_ns);
        }
    }

    fn fall_asleep(&mut self, context: &mut Context<'_>) {
        let Some(sleep) = &context.profile.sleep else { return };
        let busy = self.unfinished() > 0 || !self.radio.is_drained();
        if busy && self.dozes < DOZES_MAX {
            self.dozes += 1;
            self.sleep_ns = context.now_ns + DOZE_NS;
            return;
        }
        self.sleep_ns = NEVER;
        let wake_ns = self.next_wake_ns(seconds_ns(sleep.every_s).max(1), context.now_ns);
        match sleep.connection {
            Leave::Keep => {
                self.radio.go_away(context.now_ns, NEVER);
                self.dozing = true;
                self.until_ns = wake_ns;
            }
            Leave::Disconnect => self.leave(wake_ns, false, context),
            Leave::Vanish => {
                self.drop_connection(Some(Action::Abandon), context);
                self.stay_away(wake_ns);
            }
        }
    }

    fn next_wake_ns(&self, cycle_ns: u64, now_ns: u64) -> u64 {
        let offset_ns = self.wake_offset_ns % cycle_ns;
        let cycles = (now_ns + cycle_ns - offset_ns) / cycle_ns;
        cycles * cycle_ns + offset_ns
    }

    /// Awake again with the connection it went to sleep with.
    fn wake(&mut self, context: &mut Context<'_>) {
        self.dozing = false;
        self.until_ns = NEVER;
        self.radio.draw_outage(context.profile, context.now_ns, &mut self.random);
        self.radio.come_back(context.now_ns, &mut self.random);
        self.begin_life(context);
        self.after_outage(context);
        self.send_stored(context);
    }

    /// Says DISCONNECT, to be away until `back_ns`.
    fn leave(&mut self, back_ns: u64, end_session: bool, context: &mut Context<'_>) {
        let mut packets = Vec::new();
        self.client.disconnect(end_session, &mut packets);
        self.write(&mut packets, context);
        self.end_layers(context);
        let give_up_ns = context.now_ns + LEAVE_NS;
        self.state = State::Leaving { give_up_ns };
        self.until_ns = back_ns;
        self.handle_leaving(give_up_ns, context);
    }

    fn stay_away(&mut self, until_ns: u64) {
        self.state = State::Away;
        self.until_ns = until_ns;
    }

    /// The broker closed the connection.
    fn lose_connection(&mut self, context: &mut Context<'_>) {
        if self.state == State::Securing {
            context.books.hear(Told::Refused);
        }
        self.drop_connection(None, context);
        self.retry(context);
    }

    /// The client makes no sense of the connection, or hears nothing: closes it, tries again.
    fn give_up(&mut self, context: &mut Context<'_>) {
        let action = if self.is_out_of_reach() { Action::Abandon } else { Action::Finish };
        if action == Action::Finish {
            self.end_layers(context);
        }
        self.drop_connection(Some(action), context);
        self.retry(context);
    }

    /// CONNECT, SUBSCRIBE or a handshake was not answered in time.
    fn give_up_unanswered(&mut self, context: &mut Context<'_>) {
        context.books.hear(Told::Unanswered);
        self.give_up(context);
    }

    /// Whether nothing of the connection passes.
    fn is_out_of_reach(&self) -> bool {
        self.radio.is_away() || self.radio.is_severed()
    }

    /// Ends the connection, if there is one, by `action`, or because the broker ended it.
    fn drop_connection(&mut self, action: Option<Action>, context: &mut Context<'_>) {
        let ending = match (self.state, action) {
            (State::Online, None) => Some(Ending::ByBroker),
            (State::Online, Some(_)) if self.client.is_ready() => Some(Ending::Ungraceful),
            (State::Leaving { .. }, Some(Action::Finish)) => Some(Ending::Graceful),
            (State::Online | State::Leaving { .. }, _) => Some(Ending::Unknown),
            (
                State::Off
                | State::Away
                | State::Waiting
                | State::Dialing
                | State::Connecting
                | State::Securing,
                _,
            ) => None,
        };
        if ending.is_some() || matches!(self.state, State::Connecting | State::Securing) {
            context.out.actions.extend(action);
        }
        if let Some(ending) = ending {
            let connect = self.client.connects().saturating_sub(1);
            context.books.hear(Told::Ended { connect, ending });
        }
        self.client.handle_closed(context.now_ns);
        if let Some(layers) = &mut self.layers {
            layers.closed();
        }
        self.radio.connected(context.now_ns);
        (self.life_end_ns, self.sleep_ns) = (NEVER, NEVER);
        self.closed_unheard = false;
    }

    /// Waits as the retry law says.
    fn retry(&mut self, context: &mut Context<'_>) {
        let retry = &context.profile.retry;
        let doubled_s = (retry.base_s * 2_f64.powi(i32::from(self.attempts))).min(retry.most_s);
        let wait_s = match retry.law {
            RetryLaw::Fixed => retry.base_s,
            RetryLaw::Exponential | RetryLaw::Buggy => doubled_s,
            RetryLaw::FullJitter => doubled_s * self.random.unit(),
            RetryLaw::Decorrelated => {
                let last_s = f64::from(self.waited_s).max(retry.base_s);
                let drawn_s = retry.base_s + (last_s * 3.0 - retry.base_s) * self.random.unit();
                drawn_s.min(retry.most_s)
            }
        };
        self.attempts = self.attempts.saturating_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "six digits of a wait are enough")]
        {
            self.waited_s = wait_s as f32;
        }
        let mut wait_ns = seconds_ns(wait_s);
        if self.calm {
            wait_ns = wait_ns.min(self.part_of(CALM_WAIT_NS));
        }
        self.state = State::Waiting;
        self.until_ns = context.now_ns.saturating_add(wait_ns);
    }

    /// Sends what is stored, as far as the client takes it.
    fn send_stored(&mut self, context: &mut Context<'_>) {
        let mut packets = Vec::new();
        while let Some(held) = self.store.front().copied() {
            let unsent_bytes = context.unsent_bytes + context.out.send.len() + packets.len();
            if self.state != State::Online
                || self.dozing
                || unsent_bytes > UNSENT_BYTES_MAX
                || !self.client.can_publish()
            {
                break;
            }
            let now_ns = context.now_ns;
            let stamp = context.books.stamp(held.publisher, held.intended_ns, now_ns);
            self.client.publish(stamp, now_ns, context.scratch, &mut packets);
            self.store.pop_front();
        }
        self.write(&mut packets, context);
    }

    /// Hands packets to the layers or the radio; empties `packets`.
    fn write(&mut self, packets: &mut Vec<u8>, context: &mut Context<'_>) {
        if packets.is_empty() {
            return;
        }
        if self.layers.is_some() {
            self.write_layered(packets, context);
        } else {
            self.transmit(packets, context);
        }
    }

    /// Hands what goes over the wire to the radio, and what of it has arrived to the connection.
    fn transmit(&mut self, packets: &mut Vec<u8>, context: &mut Context<'_>) {
        if packets.is_empty() {
            return;
        }
        if self.radio.is_wire(context.profile) && !self.trickles {
            context.out.send.append(packets);
            return;
        }
        let trickle = &context.profile.trickle;
        let piece =
            self.trickles.then(|| (trickle.piece_bytes as usize, millis_ns(trickle.gap_ms)));
        self.radio.write(context.profile, context.now_ns, packets, piece, &mut self.random);
        self.radio.arrived_up(context.now_ns, &mut context.out.send);
    }

    fn part_of(&mut self, nanos: u64) -> u64 {
        radio::scaled(nanos, self.random.unit())
    }
}

#[cfg(test)]
mod tests;
