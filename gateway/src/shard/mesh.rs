//! How shards, and threads beside them, reach a shard: bounded queues of batches and a doorbell.
//!
//! Every pair of shards has a queue of its own, so order per sender holds and senders never meet.
//! A batch costs the sender one atomic exchange, and one system call only when the target sleeps.

use super::transport::Layers;
use crate::proto::output::ShardIndex;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// What travels between shards.
pub(super) enum Parcel<M> {
    /// Messages of the handlers, in order.
    Messages(Vec<M>),
    /// A connection that moves.
    Connection(Box<Moving>),
}

/// A connection between two shards.
pub(super) struct Moving {
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
    /// What is between the wire and the handler; nothing on plain TCP.
    pub(super) layers: Option<Box<Layers>>,
    /// Received and not consumed.
    pub(super) received: Vec<u8>,
    /// Written and not sent.
    pub(super) queued: Vec<u8>,
}

/// Wakes a shard, unless it is awake.
///
/// One atomic word decides: [`QUIET`], [`RUNG`] or [`WAITING`]. A sender puts its batch in the queue
/// and then exchanges the word for `RUNG`; the shard goes to sleep only by changing `QUIET` to
/// `WAITING`. Exchanges of one word have one order, so either the
/// sender comes first and the shard finds `RUNG` and looks again, or it comes second, finds a
/// sleeping state and writes the eventfd that ends that sleep. No batch is left behind, and no
/// fence beyond the exchange is needed: release by the sender, acquire by the shard.
pub(super) struct Doorbell {
    state: AtomicU32,
    /// Watched by the shard's ring.
    waiting: OwnedFd,
}

const QUIET: u32 = 0;
const RUNG: u32 = 1;
const WAITING: u32 = 2;

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            state: AtomicU32::new(QUIET),
            waiting: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Says that there is something; to be called after it was put where the shard looks.
    pub(super) fn ring(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == WAITING {
            // Fails only when the count is full, and then the eventfd is readable already.
            let _ = rustix::io::write(&self.waiting, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it was rung since the last call. The shard looks into its queues when it was.
    pub(super) fn answer(&self) -> bool {
        self.state.load(Ordering::Relaxed) != QUIET
            && self.state.swap(QUIET, Ordering::AcqRel) == RUNG
    }

    /// Announces a wait on the ring; false when it was rung: look first. [`Doorbell::answer`] ends
    /// it.
    pub(super) fn may_wait(&self) -> bool {
        self.state.compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The eventfd that ends a wait on the ring.
    pub(super) fn waiting(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

/// A shard's end of the mesh.
pub(super) struct Port<M> {
    doorbell: Arc<Doorbell>,
    /// By shard; `None` at its own place.
    to: Vec<Option<Line<M>>>,
    from: Vec<Option<Receiver<Parcel<M>>>>,
    threads: Receiver<M>,
}

/// The way to one shard.
struct Line<M> {
    queue: SyncSender<Parcel<M>>,
    doorbell: Arc<Doorbell>,
}

/// Sends messages to a shard from a thread that is none.
pub struct MeshSender<M> {
    queue: SyncSender<M>,
    doorbell: Arc<Doorbell>,
}

impl<M> Clone for MeshSender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), doorbell: Arc::clone(&self.doorbell) }
    }
}

impl<M> MeshSender<M> {
    /// Sends a message, waiting while the shard's queue is full. Never to be called on a shard.
    ///
    /// # Errors
    ///
    /// The message, when the shard has ended.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.queue.send(message).map_err(|refused| refused.0)?;
        self.doorbell.ring();
        Ok(())
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    ///
    /// The message, when the queue is full or the shard has ended.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        self.queue.try_send(message).map_err(|refused| match refused {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })?;
        self.doorbell.ring();
        Ok(())
    }
}

/// The ports of `count` shards, each queue holding `slots` batches, and the way in for threads.
///
/// # Errors
///
/// The operating system's, when there is no descriptor left for an eventfd.
pub(super) fn mesh<M>(count: u16, slots: usize) -> io::Result<Vec<(Port<M>, MeshSender<M>)>> {
    let mut ends = Vec::new();
    for _ in 0..count {
        let doorbell = Arc::new(Doorbell::new()?);
        let (queue, threads) = sync_channel(slots);
        let sender = MeshSender { queue, doorbell: Arc::clone(&doorbell) };
        let port = Port { doorbell, to: Vec::new(), from: Vec::new(), threads };
        ends.push((port, sender));
    }
    let doorbells: Vec<_> = ends.iter().map(|(port, _)| Arc::clone(&port.doorbell)).collect();
    for from in 0..usize::from(count) {
        for (to, doorbell) in doorbells.iter().enumerate() {
            let (line, receiver) = if from == to {
                (None, None)
            } else {
                let (queue, receiver) = sync_channel(slots);
                (Some(Line { queue, doorbell: Arc::clone(doorbell) }), Some(receiver))
            };
            if let Some((port, _)) = ends.get_mut(from) {
                port.to.push(line);
            }
            if let Some((port, _)) = ends.get_mut(to) {
                port.from.push(receiver);
            }
        }
    }
    Ok(ends)
}

impl<M> Port<M> {
    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    pub(super) fn doorbell_handle(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// Sends to `to`; gives the parcel back when its queue is full. What is sent to a shard that
    /// has ended is dropped: the node is stopping.
    pub(super) fn send(&self, to: ShardIndex, parcel: Parcel<M>) -> Option<Parcel<M>> {
        let line = self.to.get(usize::from(to.0)).and_then(Option::as_ref);
        let line = line.expect("a shard sends to other shards of its node only");
        match line.queue.try_send(parcel) {
            Ok(()) => {
                line.doorbell.ring();
                None
            }
            Err(TrySendError::Full(parcel)) => Some(parcel),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }

    /// The next parcel of another shard.
    pub(super) fn receive(&self, from: usize) -> Option<Parcel<M>> {
        let receiver = self.from.get(from).and_then(Option::as_ref)?;
        receiver.try_recv().ok()
    }

    /// The next message of a thread.
    pub(super) fn receive_from_threads(&self) -> Option<M> {
        self.threads.try_recv().ok()
    }

    /// Shards of the node.
    pub(super) fn shard_count(&self) -> usize {
        self.to.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_never_lost() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.answer());
        assert!(doorbell.may_wait());
        doorbell.ring();
        assert_eq!(rustix::io::read(doorbell.waiting(), &mut [0; 8]).unwrap(), 8);
        assert!(!doorbell.may_wait(), "rung and not answered");
        assert!(doorbell.answer());
        assert!(!doorbell.answer());
        doorbell.ring();
        let error = rustix::io::read(doorbell.waiting(), &mut [0; 8]).unwrap_err();
        assert_eq!(error, rustix::io::Errno::AGAIN, "awake: no system call");
        assert!(!doorbell.may_wait());
    }

    #[test]
    fn a_full_queue_gives_the_batch_back() {
        let ends = mesh::<u32>(2, 1).unwrap();
        let (first, second) = (&ends[0].0, &ends[1].0);
        assert!(first.send(ShardIndex(1), Parcel::Messages(vec![1])).is_none());
        let Some(Parcel::Messages(batch)) = first.send(ShardIndex(1), Parcel::Messages(vec![2]))
        else {
            panic!("the queue holds one batch");
        };
        assert_eq!(batch, [2]);
        assert!(second.doorbell().answer());
        assert!(matches!(second.receive(0), Some(Parcel::Messages(batch)) if batch == [1]));
        assert!(second.receive(0).is_none());
    }

    /// Threads that ring against a shard that sleeps whenever it may: every message arrives.
    #[test]
    fn no_message_waits_for_a_sleeping_shard() {
        const MESSAGES: u64 = 20_000;
        let (port, sender) = mesh::<u64>(1, 64).unwrap().remove(0);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for message in 1..=MESSAGES {
                        sender.send(message).unwrap();
                    }
                })
            })
            .collect();
        let mut sum = 0;
        while sum < MESSAGES * (MESSAGES + 1) {
            if port.doorbell().answer() {
                while let Some(message) = port.receive_from_threads() {
                    sum += message;
                }
            }
            if sum < MESSAGES * (MESSAGES + 1) && port.doorbell().may_wait() {
                let mut poll = [rustix::event::PollFd::from_borrowed_fd(
                    port.doorbell().waiting(),
                    rustix::event::PollFlags::IN,
                )];
                let wait = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
                assert_ne!(rustix::event::poll(&mut poll, Some(&wait)).unwrap(), 0, "never woken");
                let _ = rustix::io::read(port.doorbell().waiting(), &mut [0; 8]);
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
