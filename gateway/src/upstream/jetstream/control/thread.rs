//! The thread itself: from start to stop.

use super::{ControlNews, ControlSettings};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A running control thread. Dropped, it ends soon; [`ControlThread::stop`] waits for that.
#[derive(Debug)]
pub struct ControlThread {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _both_mean_stop = runtime.block_on(stopped);
            drop((settings, tell));
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread and waits until it has.
    pub fn stop(self) {
        drop(self.stop);
        // A panic in it has been printed, and ended the process where panics abort.
        let _ = self.thread.join();
    }
}
