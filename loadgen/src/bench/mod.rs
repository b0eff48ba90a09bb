//! `loadgen bench`: publishers and subscribers, with a ledger.
//!
//! ```text
//! connect ─▶ warm-up ─▶ measured window ─▶ drain ─▶ settle
//! ```
//!
//! Rates and CPU are those of the measured window; latency is of the messages intended to be sent
//! in it; the ledger covers every message of the run.

mod control;
mod fleet;
mod load;
mod plan;
mod worker;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    args::BenchArguments,
    clock::{Clock, duration_ns},
    ledger::{Published, Settlement},
    progress::Progress,
    report::{BenchReport, ProcessReport, Verdict},
    result::{Distributions, Findings, LedgerRecord, Recorder, Run, RunResult, Totals},
    stats::Stats,
    watch::{Usage, Watch},
};
use control::{Control, Phase};
use plan::Plan;
use worker::Outcome;

/// From the decision to start until the load starts, so that every thread knows in time.
const HEAD_START: Duration = Duration::from_millis(50);
/// How often the counts of a draining run are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// After the last delivery that is owed, duplicates may still come for this long.
const DUPLICATES_WAIT: Duration = Duration::from_millis(300);

/// What a thread says to the one that started it.
enum News {
    Ready,
    Done(io::Result<Box<Outcome>>),
}

/// Usage of broker and generator at one moment.
struct Moment {
    broker: Option<Usage>,
    generator: Usage,
    /// How late it was taken.
    at_ns: u64,
}

/// Runs the benchmark.
///
/// # Errors
///
/// When there is nothing to report: arguments that make no sense, a broker that cannot be reached,
/// an operating system that refuses.
pub(crate) fn run(arguments: BenchArguments) -> anyhow::Result<(BenchReport, RunResult)> {
    if let Err(fault) = arguments.validate() {
        bail!(fault);
    }
    let epoch = std::process::id();
    let plan = Arc::new(Plan::new(arguments, epoch));
    let control = Arc::new(Control::new(plan.publishers));
    let clock = Clock::start();
    let watch = plan.arguments().target.watch.reach()?;

    let target = &plan.arguments().target;
    let recorder = Recorder::start(clock, watch.clone(), Progress::new(target.quiet))
        .context("cannot start a thread")?;
    recorder.phase("connect", clock.now_ns(), false);
    let news = start_threads(&plan, &control, clock, &recorder)?;
    let mut conductor = Conductor { plan, control, clock, watch, news, recorder };
    conductor.wait_until_ready()?;
    let (before, after) = conductor.measure()?;
    conductor.drain();
    let outcomes = conductor.stop()?;
    let (report, stats) = conductor.report(&before, &after, outcomes);
    let recorded = conductor.recorder.finish(clock);
    let plan = &conductor.plan;
    let run = Run::of_this_process(plan.scenario(), &plan.arguments().target, plan.groups());
    let result = RunResult::new(run, recorded, findings(&report, stats));
    Ok((report, result))
}

fn findings(report: &BenchReport, stats: Stats) -> Findings {
    Findings {
        verdict: report.verdict_record(),
        totals: Totals {
            measured_s: report.window_s,
            published: report.published,
            delivered: report.delivered,
            due: report.due,
            late: report.late,
            never_sent: report.held_at_the_end,
            connections_lost: report.connections_lost,
            faults: report.faults.clone(),
        },
        times: Distributions {
            latency: stats.latency,
            latency_uncorrected: stats.latency_uncorrected,
            acknowledgement: stats.acknowledgement,
            connect: stats.connect,
            lag: stats.lag,
            ..Distributions::default()
        },
        ledger: LedgerRecord::from(&report.ledger),
        storms: Vec::new(),
        fleet: None,
    }
}

fn start_threads(
    plan: &Arc<Plan>,
    control: &Arc<Control>,
    clock: Clock,
    recorder: &Recorder,
) -> anyhow::Result<Receiver<News>> {
    let (sender, news) = channel();
    for index in 0..plan.threads {
        let (plan, control, sender) = (Arc::clone(plan), Arc::clone(control), sender.clone());
        let tally = recorder.tally(clock);
        thread::Builder::new()
            .name(format!("loadgen-{index}"))
            .spawn(move || {
                let ready = sender.clone();
                // The receiver is gone only when the run was given up.
                let on_ready = move || drop(ready.send(News::Ready));
                let outcome = worker::run(&plan, index, &control, clock, tally, on_ready);
                drop(sender.send(News::Done(outcome.map(Box::new))));
            })
            .context("cannot start a thread")?;
    }
    Ok(news)
}

/// The main thread's part of a run.
struct Conductor {
    plan: Arc<Plan>,
    control: Arc<Control>,
    clock: Clock,
    watch: Option<Watch>,
    news: Receiver<News>,
    recorder: Recorder,
}

impl Conductor {
    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let timeout = self.plan.arguments().target.connect_timeout();
        let deadline_ns = self.clock.now_ns() + duration_ns(timeout);
        let mut ready = 0;
        while ready < self.plan.threads {
            let left_ns = deadline_ns.saturating_sub(self.clock.now_ns());
            match self.news.recv_timeout(Duration::from_nanos(left_ns)) {
                Ok(News::Ready) => ready += 1,
                Ok(News::Done(Err(error))) => return Err(error).context("a thread failed"),
                Ok(News::Done(Ok(outcome))) => bail!("a thread ended early: {:?}", outcome.faults),
                Err(_) => {
                    let faults = self.stop().map(|outcomes| {
                        outcomes.into_iter().flat_map(|o| o.faults).collect::<Vec<_>>()
                    });
                    bail!("not all connections were ready after {timeout:?}: {faults:?}");
                }
            }
        }
        Ok(())
    }

    /// Lets the load run and reads the usage at both ends of the window.
    fn measure(&mut self) -> anyhow::Result<(Moment, Moment)> {
        let arguments = self.plan.arguments();
        let from_ns = self.clock.now_ns() + duration_ns(HEAD_START);
        let measure_from_ns = from_ns + duration_ns(Duration::from_secs(arguments.warmup));
        let until_ns = measure_from_ns + duration_ns(Duration::from_secs(arguments.seconds));
        self.control.start_load(from_ns, measure_from_ns, until_ns);
        self.recorder.phase("warm-up", from_ns, false);
        self.wait_until(measure_from_ns)?;
        self.recorder.phase("measure", measure_from_ns, true);
        let before = self.moment()?;
        self.wait_until(until_ns)?;
        self.recorder.phase("drain", until_ns, false);
        let after = self.moment()?;
        self.control.enter(Phase::Drain);
        Ok((before, after))
    }

    fn moment(&self) -> anyhow::Result<Moment> {
        let broker = self.watch.as_ref().map(Watch::usage).transpose();
        let broker = broker.context("the watched process is gone")?;
        let generator = Watch::this_process().usage().context("cannot read my own usage")?;
        Ok(Moment { broker, generator, at_ns: self.clock.now_ns() })
    }

    /// Waits for a point in time, or for a thread that ends too early.
    fn wait_until(&self, until_ns: u64) -> anyhow::Result<()> {
        let left_ns = until_ns.saturating_sub(self.clock.now_ns());
        match self.news.recv_timeout(Duration::from_nanos(left_ns)) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(News::Done(Err(error))) => Err(error).context("a thread failed"),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => bail!("a thread ended early"),
        }
    }

    /// Waits until everything owed came, or nothing came for a while.
    fn drain(&self) {
        let quiet_ns = duration_ns(Duration::from_secs(self.plan.arguments().drain_quiet_s));
        let delivered = || self.control.delivered.load(std::sync::atomic::Ordering::Relaxed);
        let (mut last, mut last_ns) = (delivered(), self.clock.now_ns());
        loop {
            let waited = self.news.recv_timeout(DRAIN_LOOK);
            let now_ns = self.clock.now_ns();
            if delivered() != last {
                (last, last_ns) = (delivered(), now_ns);
            }
            let given_up = now_ns - last_ns > quiet_ns;
            if given_up
                || self.control.is_settled()
                || !matches!(waited, Err(RecvTimeoutError::Timeout))
            {
                break;
            }
        }
        // A thread that ended early is noticed by `stop`.
        let _ = self.news.recv_timeout(DUPLICATES_WAIT);
    }

    fn stop(&self) -> anyhow::Result<Vec<Outcome>> {
        self.control.enter(Phase::Stop);
        let mut outcomes = Vec::new();
        while let Ok(news) = self.news.recv() {
            if let News::Done(outcome) = news {
                outcomes.push(*outcome.context("a thread failed")?);
            }
        }
        let threads = usize::try_from(self.plan.threads).unwrap_or(usize::MAX);
        ensure!(outcomes.len() == threads, "a thread ended without a result");
        Ok(outcomes)
    }

    fn report(
        &self,
        before: &Moment,
        after: &Moment,
        outcomes: Vec<Outcome>,
    ) -> (BenchReport, Stats) {
        let arguments = self.plan.arguments();
        let mut published = vec![Published::default(); self.plan.publishers as usize];
        let mut stats = Stats::new();
        let mut report = BenchReport::new(arguments, self.plan.threads);
        for outcome in &outcomes {
            stats.merge(&outcome.stats);
            report.published += outcome.sent_in_window;
            report.delivered += outcome.delivered_in_window;
            report.due += outcome.due_in_window;
            report.held_at_the_end += outcome.held;
            report.connections_lost += outcome.connections_lost;
            report.faults.extend(outcome.faults.iter().cloned());
            for (publisher, record) in &outcome.published {
                if let Some(slot) = published.get_mut(*publisher as usize) {
                    slot.clone_from(record);
                }
            }
        }
        let mut ledger = Settlement::default();
        for outcome in outcomes {
            ledger.merge(outcome.ledger.settle(&published, self.plan.streams_of(outcome.thread)));
        }
        report.window_s = Duration::from_nanos(after.at_ns - before.at_ns).as_secs_f64();
        report.late = stats.lag.count_above(duration_ns(Duration::from_millis(arguments.late_ms)));
        report.latency = stats.latency.summary();
        report.latency_uncorrected = stats.latency_uncorrected.summary();
        report.lag = stats.lag.summary();
        report.verdict = Verdict::of(&report, &ledger, self.plan.qos(), arguments.late_share);
        report.ledger = ledger;
        report.generator =
            ProcessReport::between(&before.generator, &after.generator, report.delivered);
        report.broker = before
            .broker
            .zip(after.broker)
            .map(|(before, after)| ProcessReport::between(&before, &after, report.delivered));
        (report, stats)
    }
}
