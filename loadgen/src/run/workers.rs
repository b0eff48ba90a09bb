//! `--workers N`: this program N times over, each a lane; their results become one.
//!
//! A worker is told its place, the number of the run and when to begin, and writes its result into a
//! folder. Nothing is averaged: see [`result::merge`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    clock::unix_ms,
    result::{self, RunResult},
};

/// Workers have this long to start, and this much longer for each of them.
const START_MS: u64 = 1_500;
const START_EACH_MS: u64 = 100;

/// What a worker is told by the process that started it.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArguments {
    /// Which worker this is
    #[arg(long, hide = true, requires_all = ["worker_run", "worker_begin", "worker_out"])]
    pub(super) worker: Option<u32>,

    /// The number of the run
    #[arg(long, hide = true)]
    pub(super) worker_run: Option<u32>,

    /// When to begin, milliseconds since 1970
    #[arg(long, hide = true)]
    pub(super) worker_begin: Option<u64>,

    /// Where to leave the result
    #[arg(long, hide = true)]
    pub(super) worker_out: Option<PathBuf>,
}

/// Runs this program's own command line `count` times as workers of `run`.
///
/// # Errors
///
/// When one cannot be started or fails; the others are ended.
pub(super) fn run(count: u32, run: u32) -> anyhow::Result<RunResult> {
    let folder = std::env::temp_dir().join(format!("loadgen-{run:08x}"));
    let begin_ms = unix_ms() + START_MS + START_EACH_MS * u64::from(count);
    let mut workers = Vec::new();
    for worker in 0..count {
        let out = folder.join(worker.to_string());
        workers.push(Worker(start(worker, run, begin_ms, &out)?));
    }
    for (number, worker) in workers.iter_mut().enumerate() {
        let status = worker.0.wait().context("cannot wait for a worker")?;
        // 1 is the only code that leaves no result.
        let code = status.code();
        ensure!(code.is_some_and(|code| code != 1), "worker {number} failed: {status}");
    }
    let parts = (0..count).map(|worker| result::read(&folder.join(worker.to_string())));
    let whole = result::merge(parts.collect::<anyhow::Result<_>>()?)?;
    // The whole is kept elsewhere; what cannot be removed is only in the way.
    let _ = fs::remove_dir_all(&folder);
    Ok(whole)
}

/// Waits until the wall clock shows `begin_ms`.
pub(super) fn wait_until(begin_ms: u64) {
    loop {
        let left_ms = begin_ms.saturating_sub(unix_ms());
        if left_ms == 0 {
            return;
        }
        thread::park_timeout(Duration::from_millis(left_ms));
    }
}

fn start(worker: u32, run: u32, begin_ms: u64, out: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .args(["--worker", &worker.to_string()])
        .args(["--worker-run", &run.to_string()])
        .args(["--worker-begin", &begin_ms.to_string()])
        .arg("--worker-out")
        .arg(out)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.spawn().context("cannot start a worker")
}

/// A worker that does not outlive the run.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
