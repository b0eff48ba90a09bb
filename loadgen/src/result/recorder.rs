//! Puts together what the threads of a run see, second by second, and looks at processes meanwhile.
//!
//! ```text
//! thread ── Tally ──┐
//! thread ── Tally ──┼─▶ Recorder's thread ─▶ Recorded
//! conductor: phases ┘        │ once a second: /proc, a line of progress
//! ```
//!
//! A thread with a [`Tally`] pays for a second with one message; the histogram of a second has two
//! digits and its own memory.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    Host, HostPoint, Phase, Point, Process, ProcessPoint, Role, Series, series::SeriesBuilder,
};
use crate::{
    clock::{Clock, unix_ms},
    progress::Progress,
    report::as_f64,
    watch::Watch,
};

const SECOND_NS: u64 = 1_000_000_000;
/// After the end of a second, the threads get this long to report it.
const REPORTING_NS: u64 = 50_000_000;

/// Collects what happens in a run.
pub(crate) struct Recorder {
    sender: Sender<Message>,
    thread: JoinHandle<Recorded>,
}

/// What a run left behind.
pub(crate) struct Recorded {
    /// What happened when.
    pub(crate) series: Series,
    /// The broker if it was watched, and this process.
    pub(crate) processes: Vec<Process>,
    /// This machine.
    pub(crate) host: Host,
    /// The phases as they were announced.
    pub(crate) phases: Vec<Phase>,
    /// When the recorder started, milliseconds since 1970-01-01 UTC.
    pub(crate) started_unix_ms: u64,
    /// From the start of the clock to the end of the run, seconds.
    pub(crate) duration_s: f64,
}

enum Message {
    /// What a thread saw in a part of a second, whose middle is given; the last one `ends` it.
    Part {
        second: u32,
        middle_ns: u64,
        point: Box<Point>,
        ends: bool,
    },
    Phase {
        name: String,
        at_ns: u64,
        measured: bool,
    },
    End {
        at_ns: u64,
    },
}

impl Recorder {
    /// Starts to record, with `clock` as the origin of all times.
    ///
    /// # Errors
    ///
    /// When no thread can be made.
    pub(crate) fn start(
        clock: Clock,
        watch: Option<Watch>,
        progress: Progress,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = thread::Builder::new()
            .name("recorder".into())
            .spawn(move || Recording::new(clock, watch, progress).run(&receiver))?;
        Ok(Self { sender, thread })
    }

    /// The books of a thread.
    pub(crate) fn tally(&self, clock: Clock) -> Tally {
        let since_ns = clock.now_ns();
        Tally { sender: self.sender.clone(), since_ns, point: Box::default() }
    }

    /// Says that a phase begins, which ends the one before.
    pub(crate) fn phase(&self, name: &str, at_ns: u64, measured: bool) {
        self.send(Message::Phase { name: name.to_owned(), at_ns, measured });
    }

    /// Ends the run. Tallies that live on are not heard any more.
    ///
    /// # Panics
    ///
    /// Never by itself: the process ends with the first thread that panics.
    pub(crate) fn finish(self, clock: Clock) -> Recorded {
        self.send(Message::End { at_ns: clock.now_ns() });
        self.thread.join().expect("a panic would have ended the process")
    }

    fn send(&self, message: Message) {
        // The receiver lives until it was told the end.
        let _ = self.sender.send(message);
    }
}

/// The books of one thread for the second at hand: counts are added to its point, and
/// [`Tally::tick`] hands it over when the second is past.
pub(crate) struct Tally {
    sender: Sender<Message>,
    /// What was before is handed over.
    since_ns: u64,
    /// What happened in this second so far. `connected`, `connecting` and `connections_lost` are
    /// how things are, and stay from second to second.
    pub(crate) point: Box<Point>,
}

impl Tally {
    /// Hands over every second that is past at `now_ns`; to be called at least once a second.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        while second_of(self.since_ns) < second_of(now_ns) {
            self.hand_over((self.since_ns / SECOND_NS + 1) * SECOND_NS, true);
        }
    }

    /// Hands over what happened up to `now_ns`: where a phase ends, so that each has its own.
    pub(crate) fn cut(&mut self, now_ns: u64) {
        self.tick(now_ns);
        self.hand_over(now_ns, false);
    }

    fn hand_over(&mut self, until_ns: u64, ends: bool) {
        let next = Box::new(Point {
            connected: self.point.connected,
            connecting: self.point.connecting,
            connections_lost: self.point.connections_lost,
            ..Point::default()
        });
        let point = std::mem::replace(&mut self.point, next);
        // Nobody listens any more when the run was given up.
        let middle_ns = self.since_ns.midpoint(until_ns);
        let second = second_of(self.since_ns);
        let _ = self.sender.send(Message::Part { second, middle_ns, point, ends });
        self.since_ns = until_ns;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.hand_over(self.since_ns, true);
    }
}

fn second_of(now_ns: u64) -> u32 {
    u32::try_from(now_ns / SECOND_NS).unwrap_or(u32::MAX)
}

/// What the recorder's thread holds.
struct Recording {
    clock: Clock,
    watches: Vec<Watch>,
    series: SeriesBuilder,
    recorded: Recorded,
    progress: Progress,
}

impl Recording {
    fn new(clock: Clock, watch: Option<Watch>, progress: Progress) -> Self {
        let host = Host::read();
        let own = (Role::Generator, Watch::this_process());
        let roles = watch.map(|watch| (Role::Broker, watch)).into_iter().chain([own]);
        let of = |(role, watch)| {
            let process = Process::new(role, &watch, &host.hostname);
            (watch, process)
        };
        let (watches, processes) = roles.map(of).unzip();
        let recorded = Recorded {
            series: Series::default(),
            processes,
            host,
            phases: Vec::new(),
            started_unix_ms: unix_ms(),
            duration_s: 0.0,
        };
        Self { clock, watches, series: SeriesBuilder::default(), recorded, progress }
    }

    fn run(mut self, receiver: &Receiver<Message>) -> Recorded {
        self.sample();
        let mut second = second_of(self.clock.now_ns());
        loop {
            let due_ns = (u64::from(second) + 1) * SECOND_NS + REPORTING_NS;
            let left_ns = due_ns.saturating_sub(self.clock.now_ns());
            match receiver.recv_timeout(Duration::from_nanos(left_ns)) {
                Ok(Message::Part { second, middle_ns, point, ends }) => {
                    self.series.add(second, &point, ends);
                    self.add_to_phase(middle_ns, &point);
                }
                Ok(Message::Phase { name, at_ns, measured }) => self.phase(name, at_ns, measured),
                Ok(Message::End { at_ns }) => return self.end(at_ns),
                Err(RecvTimeoutError::Timeout) => {
                    self.sample();
                    let phase = self.recorded.phases.last().map_or("-", |phase| &phase.name);
                    self.progress.show(second, phase, self.series.series());
                    second = second_of(self.clock.now_ns());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let now_ns = self.clock.now_ns();
                    return self.end(now_ns);
                }
            }
        }
    }

    fn phase(&mut self, name: String, at_ns: u64, measured: bool) {
        let at_s = seconds(at_ns);
        if let Some(last) = self.recorded.phases.last_mut() {
            last.end_s = at_s;
        }
        self.recorded.phases.push(Phase::new(&name, at_s, measured));
        self.sample();
    }

    /// What a thread saw belongs to the phase its middle is in, which was announced before.
    fn add_to_phase(&mut self, middle_ns: u64, point: &Point) {
        let at_s = seconds(middle_ns);
        let mut phases = self.recorded.phases.iter_mut().rev();
        if let Some(phase) = phases.find(|phase| phase.start_s <= at_s) {
            phase.connects += point.connects;
            phase.published += point.published;
            phase.delivered += point.delivered;
            phase.pings += point.pings;
        }
    }

    fn end(mut self, at_ns: u64) -> Recorded {
        self.sample();
        self.recorded.duration_s = seconds(at_ns);
        if let Some(last) = self.recorded.phases.last_mut() {
            last.end_s = self.recorded.duration_s;
        }
        self.recorded.series = self.series.finish();
        self.recorded
    }

    /// Looks at the processes and at the machine. A process that is gone has no more points.
    fn sample(&mut self) {
        for (watch, process) in self.watches.iter().zip(&mut self.recorded.processes) {
            let at_s = seconds(self.clock.now_ns());
            let Ok(usage) = watch.usage() else { continue };
            process.points.push(ProcessPoint {
                at_s,
                cpu_s: usage.cpu.as_secs_f64(),
                rss_bytes: usage.rss_bytes,
                rss_anonymous_bytes: usage.rss_anonymous_bytes,
                fds: usage.fds,
                context_switches: usage.context_switches,
                threads: usage.threads,
            });
        }
        self.recorded.host.points.push(HostPoint::read(seconds(self.clock.now_ns())));
    }
}

/// Nanoseconds of the run in seconds.
fn seconds(nanos: u64) -> f64 {
    as_f64(nanos) / 1e9
}
