//! The thread itself: from start to stop.

use super::ring_watch::{Farewell, RingWatch, RingWatchSettings};
use super::sub_cluster::SubCluster;
use super::{ControlNews, ControlSettings, SubClusterSettings};
use std::cell::RefCell;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

/// How the tasks of the thread say something.
pub(super) type Tell = Rc<dyn Fn(ControlNews)>;

/// A running control thread. Dropped, it ends soon; [`ControlThread::stop`] waits for that.
#[derive(Debug)]
pub struct ControlThread {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    additions: mpsc::UnboundedSender<SubClusterSettings>,
}

impl ControlThread {
    /// Starts it. `tell` is called on the thread and must not block it for long.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or its runtime no descriptors.
    pub fn spawn(
        settings: ControlSettings,
        tell: impl Fn(ControlNews) + Send + 'static,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Looking up a name is all that blocks.
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let (additions, added) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let tasks = LocalSet::new();
            let registered = Rc::new(RefCell::new(Farewell::default()));
            tasks.spawn_local(run(settings, Rc::new(tell), registered.clone(), added));
            // The sender that is gone means stop, too.
            let _ = tasks.block_on(&runtime, stopped);
            let farewell =
                async { tokio::time::timeout(FAREWELL_MAX, Farewell::say(registered)).await };
            // Where the ring is away, whoever changes it next asks for this gateway.
            let _ = tasks.block_on(&runtime, farewell);
            drop(tasks);
            // A look-up that hangs is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { thread, stop, additions })
    }

    /// A sub-cluster is configured now, too: it becomes a member of the ring, without topics. Its name is
    /// not known yet, and sorts behind that of the one with the ring. Shards have been told.
    pub fn add(&self, sub_cluster: SubClusterSettings) {
        // A thread that has ended needs none.
        let _ = self.additions.send(sub_cluster);
    }

    /// Ends the thread and waits until it has.
    pub fn stop(self) {
        drop(self.stop);
        // A panic in it has been printed, and ended the process where panics abort.
        let _ = self.thread.join();
    }
}

async fn run(
    settings: ControlSettings,
    tell: Tell,
    registered: Rc<RefCell<Farewell>>,
    added: mpsc::UnboundedReceiver<SubClusterSettings>,
) {
    let ControlSettings { gateway_id, sub_clusters, extras, reports, is_successor } = settings;
    let sub_clusters = sub_clusters
        .into_iter()
        .map(|settings| {
            let name = settings.name.clone();
            (name, Rc::new(SubCluster::new(&gateway_id, settings)))
        })
        .collect();
    let settings = RingWatchSettings {
        sub_clusters,
        extras,
        gateway_id,
        reports,
        is_successor,
        registered,
        tell,
    };
    RingWatch::new(settings).run(added).await;
}

/// How long the end of a gateway may wait for the ring.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
const BLOCKING_THREADS_MAX: usize = 4;
