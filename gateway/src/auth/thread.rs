//! The threads that find out who clients are, so that no shard hashes or waits.
//!
//! A user is always asked about on the same thread, which keeps what it has proven to itself: threads
//! share only the [`Directory`].

use super::cache::Cache;
use super::directory::{Directory, Step};
use super::http::{CalloutQueue, CalloutSettings, CalloutThread, Question};
use crate::proto::access::{Authentication, AuthenticationRequest, Challenge, Refusal};
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::time::Timestamp;
use ahash::RandomState;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What an authentication thread is asked to do.
#[derive(Debug)]
pub enum AuthenticationJob {
    /// Find out who a client is.
    Ask {
        /// Who asks.
        shard: ShardIndex,
        /// About whom.
        request: AuthenticationRequest,
    },
    /// Nobody has known so far: ask the method of this number and those behind it.
    GoOn {
        /// Who asks.
        shard: ShardIndex,
        /// About whom.
        request: AuthenticationRequest,
        /// The number.
        next: usize,
    },
    /// From here on these files count. The last thread to hear of it tells the shards.
    Load(Arc<Directory>, Arc<AtomicUsize>),
    /// End.
    Stop,
}

/// Reads a clock.
pub type ReadClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clocks that count for who may be connected.
#[derive(Clone)]
pub struct Clocks {
    /// What shards go by: it never jumps.
    pub steady: ReadClock,
    /// What the operating system says. Proofs that end go by this one, as those who made them do.
    pub wall: ReadClock,
}

impl Clocks {
    /// How far the wall clock is ahead of what shards go by, milliseconds.
    fn wall_ahead_ms(&self) -> i64 {
        let (wall, steady) = ((self.wall)().0, (self.steady)().0);
        i64::try_from(wall.abs_diff(steady))
            .map_or(0, |apart| if wall < steady { -apart } else { apart })
    }
}

/// How the threads work.
#[derive(Clone)]
pub struct ThreadSettings {
    /// The time.
    pub clock: Clocks,
    /// Threads.
    pub threads: u16,
    /// Questions that wait at most, a thread.
    pub queue_max: usize,
    /// Users whose proof is remembered, all threads together.
    pub cache_max: usize,
}

/// Whom the threads answer: called on them, and must not block.
pub trait Shards: Send + Sync {
    /// Who the client of a connection is.
    fn answer(&self, shard: ShardIndex, connection: ConnectionId, answer: Authentication);

    /// What the client of a connection has to prove.
    fn challenge(&self, shard: ShardIndex, connection: ConnectionId, challenge: Box<Challenge>);

    /// The wall clock was set: it is so many milliseconds ahead of what shards go by.
    fn wall_clock(&self, ahead_ms: i64);

    /// Those who are connected are to be looked at again. Every answer from before was given before.
    fn recheck(&self, directory: &Arc<Directory>);
}

/// The running threads.
pub struct AuthenticationThreads {
    queues: AuthenticationQueues,
    threads: Vec<JoinHandle<()>>,
    callout: Option<CalloutThread>,
}

/// Where shards leave questions.
#[derive(Clone, Debug)]
pub struct AuthenticationQueues {
    queues: Arc<[flume::Sender<AuthenticationJob>]>,
    random: RandomState,
}

impl AuthenticationThreads {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread, or no randomness.
    pub fn spawn(
        directory: &Arc<Directory>,
        settings: &ThreadSettings,
        callout: Option<CalloutSettings>,
        shards: &Arc<dyn Shards>,
    ) -> io::Result<Self> {
        let callout = callout.map(|callout| {
            CalloutThread::spawn(callout, Arc::clone(directory), Arc::clone(shards))
        });
        let callout = callout.transpose()?;
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        let count = settings.threads.max(1);
        for number in 0..count {
            let (sender, receiver) = flume::bounded(settings.queue_max.max(1));
            let cache = Cache::new(settings.cache_max / usize::from(count));
            let cache = cache.map_err(|_| io::Error::other("no randomness"))?;
            let (directory, shards) = (Arc::clone(directory), Arc::clone(shards));
            let clock = settings.clock.clone();
            let watched =
                (number == 0).then(|| Watched { looked_at: (clock.steady)(), ahead_ms: 0 });
            let callout = callout.as_ref().map(CalloutThread::queue);
            let own = sender.clone();
            let mut worker = Worker { directory, cache, shards, clock, callout, own, watched };
            let thread = std::thread::Builder::new().name("authentication".to_owned());
            threads.push(thread.spawn(move || worker.run(&receiver))?);
            queues.push(sender);
        }
        let queues = AuthenticationQueues { queues: queues.into(), random: RandomState::new() };
        Ok(Self { queues, threads, callout })
    }

    /// Where shards leave questions.
    #[must_use]
    pub fn queues(&self) -> AuthenticationQueues {
        self.queues.clone()
    }

    /// Lets other files count. Blocks while queues are full.
    pub fn load(&self, directory: &Arc<Directory>) {
        let left = Arc::new(AtomicUsize::new(self.threads.len()));
        for queue in &*self.queues.queues {
            let job = AuthenticationJob::Load(Arc::clone(directory), Arc::clone(&left));
            // A closed queue means that the node ends.
            let _ = queue.send(job);
        }
    }

    /// Lets the threads end. Blocks.
    pub fn stop(self) {
        for queue in &*self.queues.queues {
            // A closed queue means that the thread has ended already.
            let _ = queue.send(AuthenticationJob::Stop);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        if let Some(callout) = self.callout {
            callout.stop();
        }
    }
}

impl AuthenticationQueues {
    /// Leaves a question with the thread that knows the user; gives it back if that has too many.
    pub(crate) fn try_ask(
        &self,
        shard: ShardIndex,
        request: AuthenticationRequest,
    ) -> Option<AuthenticationRequest> {
        let hash = match &request.client_first {
            // It needs no cache: any thread will do.
            Some(_) => self.random.hash_one(request.connection),
            None => self.random.hash_one(&request.user_name),
        };
        let place = hash % self.queues.len() as u64;
        let queue = usize::try_from(place).ok().and_then(|place| self.queues.get(place));
        let queue = queue.expect("a remainder of how many there are");
        match queue.try_send(AuthenticationJob::Ask { shard, request }) {
            // Where the thread has ended, so does the node: nobody waits for the answer.
            Ok(()) | Err(flume::TrySendError::Disconnected(_)) => None,
            Err(flume::TrySendError::Full(AuthenticationJob::Ask { request, .. })) => Some(request),
            Err(flume::TrySendError::Full(_)) => unreachable!("it was a question"),
        }
    }
}

/// Random bytes in a nonce of SCRAM: as many as PostgreSQL.
const NONCE_BYTES: usize = 18;

struct Worker {
    directory: Arc<Directory>,
    cache: Cache,
    shards: Arc<dyn Shards>,
    clock: Clocks,
    callout: Option<CalloutQueue>,
    /// Where this thread is asked.
    own: flume::Sender<AuthenticationJob>,
    /// One of the threads watches the wall clock.
    watched: Option<Watched>,
}

/// How often the wall clock is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What it may be off by, compared with what shards were told, until they are told anew: less than the
/// second in which tokens count.
const AHEAD_MS_MAX: u64 = 500;

/// The wall clock as it was last looked at.
struct Watched {
    looked_at: Timestamp,
    /// What the shards know of it.
    ahead_ms: i64,
}

impl Worker {
    fn run(&mut self, jobs: &flume::Receiver<AuthenticationJob>) {
        loop {
            let job = match &self.watched {
                Some(_) => jobs.recv_timeout(LOOK_INTERVAL),
                None => jobs.recv().map_err(|_| flume::RecvTimeoutError::Disconnected),
            };
            self.watch_clock();
            let job = match job {
                Ok(job) => job,
                Err(flume::RecvTimeoutError::Timeout) => continue,
                Err(flume::RecvTimeoutError::Disconnected) => return,
            };
            match job {
                AuthenticationJob::Ask { shard, request } => self.ask(shard, request),
                AuthenticationJob::GoOn { shard, request, next } => {
                    self.authenticate(shard, request, next);
                }
                AuthenticationJob::Load(directory, left) => {
                    self.directory = directory;
                    self.cache.clear();
                    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        match &self.callout {
                            // It answers, too, and so tells the shards behind its own answers.
                            Some(callout) => callout.load(&self.directory),
                            None => self.shards.recheck(&self.directory),
                        }
                    }
                }
                AuthenticationJob::Stop => return,
            }
        }
    }

    /// Tells the shards if the wall clock was set.
    fn watch_clock(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        let now = (self.clock.steady)();
        if now < watched.looked_at.after(LOOK_INTERVAL) {
            return;
        }
        watched.looked_at = now;
        let ahead_ms = self.clock.wall_ahead_ms();
        if ahead_ms.abs_diff(watched.ahead_ms) >= AHEAD_MS_MAX {
            watched.ahead_ms = ahead_ms;
            tracing::info!(ahead_ms, "the wall clock was set: tokens are judged by it");
            self.shards.wall_clock(ahead_ms);
        }
    }

    fn ask(&mut self, shard: ShardIndex, request: AuthenticationRequest) {
        let connection = request.connection;
        if let Some(client_first) = &request.client_first {
            match self.challenge(client_first, request.user_name.as_deref()) {
                Ok(challenge) => self.shards.challenge(shard, connection, Box::new(challenge)),
                Err(refusal) => self.shards.answer(shard, connection, Err(refusal)),
            }
        } else {
            self.authenticate(shard, request, 0);
        }
    }

    fn challenge(&self, first: &[u8], user_name: Option<&str>) -> Result<Challenge, Refusal> {
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Refusal::Unavailable)?;
        self.directory.challenge(first, user_name, &STANDARD.encode(nonce))
    }

    fn authenticate(&mut self, shard: ShardIndex, request: AuthenticationRequest, from: usize) {
        let connection = request.connection;
        let answer =
            match self.directory.authenticate(&request, (self.clock.wall)(), from, &mut self.cache)
            {
                Step::Answer(answer) => answer,
                Step::Callout(next) => {
                    let callout = self.callout.as_ref().expect("it is there if it is a method");
                    let question = Question { shard, request, next, asker: self.own.clone() };
                    if callout.ask(question).is_none() {
                        return;
                    }
                    self.shards.answer(shard, connection, Err(Refusal::Busy));
                    return;
                }
            };
        self.shards.answer(shard, connection, answer);
    }
}

#[cfg(test)]
mod tests;
