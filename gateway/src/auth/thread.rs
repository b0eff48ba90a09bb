//! The threads that find out who clients are, so that no shard hashes or waits.
//!
//! A user is always asked about on the same thread, which keeps what it has proven to itself: threads
//! share only the [`Directory`].

use super::cache::Cache;
use super::directory::Directory;
use crate::proto::access::{Authentication, AuthenticationRequest, Proof};
use crate::proto::output::{ConnectionId, ShardIndex};
use crate::proto::time::Timestamp;
use ahash::RandomState;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

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
    /// From here on these files count. The last thread to hear of it tells the shards.
    Load(Arc<Directory>, Arc<AtomicUsize>),
    /// End.
    Stop,
}

/// How the threads work.
#[derive(Clone)]
pub struct ThreadSettings {
    /// The time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
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

    /// Those who are connected are to be looked at again. Every answer from before was given before.
    fn recheck(&self, directory: &Arc<Directory>);
}

/// The running threads.
pub struct AuthenticationThreads {
    queues: AuthenticationQueues,
    threads: Vec<JoinHandle<()>>,
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
        shards: &Arc<dyn Shards>,
    ) -> io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        let count = settings.threads.max(1);
        for _ in 0..count {
            let (sender, receiver) = flume::bounded(settings.queue_max.max(1));
            let cache = Cache::new(settings.cache_max / usize::from(count));
            let cache = cache.map_err(|_| io::Error::other("no randomness"))?;
            let (directory, shards) = (Arc::clone(directory), Arc::clone(shards));
            let clock = Arc::clone(&settings.clock);
            let mut worker = Worker { directory, cache, shards, clock };
            let thread = std::thread::Builder::new().name("authentication".to_owned());
            threads.push(thread.spawn(move || worker.run(&receiver))?);
            queues.push(sender);
        }
        let queues = AuthenticationQueues { queues: queues.into(), random: RandomState::new() };
        Ok(Self { queues, threads })
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
    }
}

impl AuthenticationQueues {
    /// Leaves a question with the thread that knows the user; gives it back if that has too many.
    pub(crate) fn try_ask(
        &self,
        shard: ShardIndex,
        request: AuthenticationRequest,
    ) -> Option<AuthenticationRequest> {
        let hash = self.random.hash_one(&request.user_name);
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

struct Worker {
    directory: Arc<Directory>,
    cache: Cache,
    shards: Arc<dyn Shards>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Worker {
    fn run(&mut self, jobs: &flume::Receiver<AuthenticationJob>) {
        while let Ok(job) = jobs.recv() {
            match job {
                AuthenticationJob::Ask { shard, request } => {
                    let answer = self.authenticate(&request);
                    self.shards.answer(shard, request.connection, answer);
                }
                AuthenticationJob::Load(directory, left) => {
                    self.directory = directory;
                    self.cache.clear();
                    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        self.shards.recheck(&self.directory);
                    }
                }
                AuthenticationJob::Stop => return,
            }
        }
    }

    fn authenticate(&mut self, request: &AuthenticationRequest) -> Authentication {
        if let Some(identity) = self.cache.get(request) {
            return Ok(identity);
        }
        let identity = self.directory.authenticate(request, (self.clock)())?;
        // What other methods say is cheap to find out, and may not be true any more.
        if matches!(identity.proof, Proof::Password(_)) {
            self.cache.note(request, &identity);
        }
        Ok(identity)
    }
}
