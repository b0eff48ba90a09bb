//! One thread of a run: sweeps its engine, publishes what is due, follows the phases.

use std::{io, sync::Arc, time::Duration};

use super::{
    control::{Control, Phase},
    fleet::Fleet,
    load::Load,
    plan::Plan,
};
use crate::{
    clock::Clock,
    engine::Engine,
    ledger::{Ledger, Published},
    result::Tally,
    stats::Stats,
};

/// Handshakes of a thread under way at once.
const CONNECTING_MAX: u32 = 256;
/// How long a thread sleeps at most: the delay with which it sees a new phase.
const NAP: Duration = Duration::from_millis(5);
/// How long a thread sleeps at most while a closed loop waits for deliveries to other threads.
const CLOSED_LOOP_NAP: Duration = Duration::from_micros(200);
/// Sweeps after DISCONNECT, for the connections to close.
const GOODBYE_SWEEPS: u32 = 400;

/// What a thread brings home.
pub(super) struct Outcome {
    pub(super) thread: u32,
    /// By index of the publisher in the run.
    pub(super) published: Vec<(u32, Published)>,
    pub(super) ledger: Ledger,
    pub(super) stats: Stats,
    pub(super) delivered_in_window: u64,
    pub(super) sent_in_window: u64,
    pub(super) due_in_window: u64,
    pub(super) held: u64,
    pub(super) connections_lost: u64,
    pub(super) faults: Vec<String>,
}

/// Runs the devices of `thread` until the run stops. `on_ready` is called when all are ready.
///
/// # Errors
///
/// What io_uring says, and that no socket could be made.
pub(super) fn run(
    plan: &Plan,
    thread: u32,
    control: &Arc<Control>,
    clock: Clock,
    tally: Tally,
    on_ready: impl FnOnce(),
) -> io::Result<Outcome> {
    let mut fleet = Fleet::new(plan, thread, tally);
    // Publishers and subscribers are spread evenly, so this keeps the threads' sources apart.
    let first_source = thread * u32::try_from(fleet.members.len() + 1).unwrap_or(u32::MAX);
    let target = plan.arguments().target.target;
    let mut engine = Engine::new(target, fleet.members.len(), first_source, clock)?;

    connect(&mut engine, &mut fleet, control, clock)?;
    on_ready();
    while control.phase() == Phase::Connect {
        engine.sweep(NAP, &mut fleet)?;
        fleet.books.tally.tick(clock.now_ns());
    }

    let mut load = Load::new(plan, thread, control.load_from_ns());
    fleet.books.window = control.window();
    follow_load(plan, &mut load, &mut engine, &mut fleet, control, clock)?;
    disconnect(&mut engine, &mut fleet)?;
    Ok(outcome(plan, thread, &load, fleet))
}

/// Connects every device, [`CONNECTING_MAX`] at a time, until all are ready or the run stops.
fn connect(
    engine: &mut Engine,
    fleet: &mut Fleet,
    control: &Control,
    clock: Clock,
) -> io::Result<()> {
    let count = u32::try_from(fleet.members.len()).unwrap_or(u32::MAX);
    let mut started = 0;
    while !fleet.is_ready() && control.phase() == Phase::Connect {
        while started < count && started - fleet.books.ready.min(started) < CONNECTING_MAX {
            engine.connect(started)?;
            if let Some(member) = fleet.members.get_mut(started as usize) {
                member.connected = true;
                member.started_ns = clock.now_ns();
            }
            fleet.books.tally.point.connecting += 1;
            started += 1;
        }
        engine.sweep(NAP, fleet)?;
        fleet.books.tally.tick(clock.now_ns());
    }
    Ok(())
}

fn follow_load(
    plan: &Plan,
    load: &mut Load,
    engine: &mut Engine,
    fleet: &mut Fleet,
    control: &Control,
    clock: Clock,
) -> io::Result<()> {
    let tick = Duration::from_micros(plan.arguments().tick_us);
    fleet.books.tally.cut(clock.now_ns());
    // Where the measured window begins and ends, a phase of the run does.
    let window = fleet.books.window.clone();
    let mut edges = [window.start, window.end].into_iter().peekable();
    loop {
        match control.phase() {
            Phase::Stop => return Ok(()),
            Phase::Drain => load.share_unfinished(fleet, control),
            Phase::Connect | Phase::Load => {}
        }
        let now_ns = clock.now_ns();
        fleet.books.tally.tick(now_ns);
        while edges.next_if(|edge_ns| *edge_ns <= now_ns).is_some() {
            fleet.books.tally.cut(now_ns);
        }
        load.publish(now_ns, engine, fleet, control);
        // What is owed is told before anyone can have received it.
        load.share_sent(control);
        let wait = match load.next_due_ns() {
            None => CLOSED_LOOP_NAP,
            Some(due_ns) => Duration::from_nanos(due_ns.saturating_sub(now_ns)).max(tick).min(NAP),
        };
        engine.sweep(wait, fleet)?;
        fleet.books.share(control);
    }
}

/// Says DISCONNECT everywhere and waits until the connections are gone, or for two seconds.
fn disconnect(engine: &mut Engine, fleet: &mut Fleet) -> io::Result<()> {
    fleet.books.stopping = true;
    for (index, member) in (0..).zip(&mut fleet.members) {
        if let Some(outbox) = engine.outbox(index) {
            member.client.disconnect(false, outbox);
            engine.close(index);
        }
    }
    for _ in 0..GOODBYE_SWEEPS {
        if !fleet.members.iter().any(|member| member.connected) {
            break;
        }
        engine.sweep(NAP, fleet)?;
    }
    Ok(())
}

fn outcome(plan: &Plan, thread: u32, load: &Load, fleet: Fleet) -> Outcome {
    let published = plan
        .publishers_of(thread)
        .zip(&fleet.members)
        .map(|(publisher, member)| (publisher, member.published.clone()))
        .collect();
    let books = fleet.books;
    Outcome {
        thread,
        published,
        ledger: books.ledger,
        stats: books.stats,
        delivered_in_window: books.delivered_in_window,
        sent_in_window: load.sent_in_window,
        due_in_window: load.due_in_window,
        held: load.held(),
        connections_lost: books.connections_lost,
        faults: books.faults,
    }
}
