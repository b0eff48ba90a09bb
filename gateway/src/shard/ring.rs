//! The shard's own io_uring, as safe calls.
//!
//! What the kernel reads or writes while a request is in flight (send buffers, file buffers, the
//! receive buffers) belongs to the ring until the request's completion was reaped, so no caller
//! can free it too early. Requests are gathered and submitted together by [`Ring::enter`].

use super::buffers::{Buffers, Filled, GROUP};
use crate::proto::handler::{FileDone, FileOp};
use crate::proto::output::ConnectionId;
use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// An io_uring with its receive buffers and everything in flight on it.
pub(super) struct Ring {
    uring: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<Buffers>,
    sends: ManuallyDrop<Places<Send>>,
    sends_started: usize,
    files: ManuallyDrop<Places<File>>,
    in_flight: usize,
    enters: u64,
}

/// What a completion says.
#[derive(Debug)]
pub(super) enum Event {
    /// Listener number `listener` has a connection, or failed. `more`: it goes on by itself.
    Accepted { listener: u32, result: io::Result<OwnedFd>, more: bool },
    /// Bytes, or `Ok(None)` at the end of the stream. `more`: the receive is still armed.
    Received { index: u32, generation: u32, result: io::Result<Option<Filled>>, more: bool },
    /// A send is over; the buffer comes back with how many of its bytes were sent in all.
    Sent { connection: ConnectionId, buffer: Vec<u8>, result: io::Result<usize> },
    /// A file operation is over.
    File { token: u64, result: io::Result<FileDone> },
    /// The socket in place `place` of those being connected is connected, or was refused.
    Connected { place: u32 },
    /// The doorbell was rung. `more`: it is still watched.
    Doorbell { more: bool },
    /// A request whose completion nobody waits for is over.
    Other,
}

/// How a connection's bytes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// One completion, then nothing is in flight.
    Once,
    /// Completions until the stream ends, buffers run out or it is cancelled.
    Many,
}

/// A send in flight.
struct Send {
    connection: ConnectionId,
    buffer: Vec<u8>,
    skip: usize,
}

/// A file operation in flight.
struct File {
    token: u64,
    fd: RawFd,
    offset: u64,
    work: FileWork,
}

enum FileWork {
    Write(Bytes),
    SyncData,
    Read { buffer: Vec<u8>, filled: usize },
}

const KIND_SHIFT: u32 = 60;
const KIND_OTHER: u64 = 0;
const KIND_ACCEPT: u64 = 1;
const KIND_RECEIVE: u64 = 2;
const KIND_SEND: u64 = 3;
const KIND_FILE: u64 = 4;
const KIND_DOORBELL: u64 = 5;
const KIND_CONNECT: u64 = 6;

/// Bits of a connection's generation that travel with a request.
const GENERATION_MASK: u32 = (1 << (KIND_SHIFT - 32)) - 1;

/// The most bytes asked of one file operation: larger ones are cut by the kernel anyway.
const FILE_BYTES_MAX: usize = 1 << 30;

impl Ring {
    /// Sets up a ring of `entries` submissions and `completions` completions with receive buffers.
    ///
    /// # Errors
    ///
    /// The kernel's; `requirements` explains them.
    pub(super) fn new(
        entries: u32,
        completions: u32,
        buffer_count: u16,
        buffer_bytes: u32,
    ) -> io::Result<Self> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_clamp()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(completions)
            .build(entries)?;
        let mut buffers = Buffers::new(buffer_count, buffer_bytes);
        buffers.register(&uring.submitter())?;
        Ok(Self {
            uring: ManuallyDrop::new(uring),
            buffers: ManuallyDrop::new(buffers),
            sends: ManuallyDrop::new(Places::default()),
            sends_started: 0,
            files: ManuallyDrop::new(Places::default()),
            in_flight: 0,
            enters: 0,
        })
    }

    /// Accepts connections from `socket` until an error ends it.
    pub(super) fn accept(&mut self, socket: BorrowedFd<'_>, listener: u32) {
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(tag(KIND_ACCEPT, 0, listener));
        self.push(entry);
    }

    /// Asks for the connection's bytes.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, id: ConnectionId, how: Receive) {
        let fd = types::Fd(socket.as_raw_fd());
        let entry = match how {
            Receive::Many => opcode::RecvMulti::new(fd, GROUP).build(),
            Receive::Once => opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        self.push(entry.user_data(tag(KIND_RECEIVE, id.generation, id.index)));
    }

    /// Ends the connection's receive; its last completion says so.
    pub(super) fn cancel_receive(&mut self, id: ConnectionId) {
        let target = tag(KIND_RECEIVE, id.generation, id.index);
        self.push(opcode::AsyncCancel::new(target).build().user_data(tag(KIND_OTHER, 0, 0)));
    }

    /// Ends the connection's send; its completion says so.
    ///
    /// Looks through the sends in flight, of which only those stay that wait for a peer: what the
    /// kernel would look through for a descriptor's requests is every request of the ring.
    pub(super) fn cancel_send(&mut self, id: ConnectionId) {
        if let Some(place) = self.sends.place(|send| send.connection == id) {
            let target = tag(KIND_SEND, 0, place);
            self.push(opcode::AsyncCancel::new(target).build().user_data(tag(KIND_OTHER, 0, 0)));
        }
    }

    /// Ends [`Ring::watch_connecting`]; its completion says so.
    pub(super) fn cancel_connecting(&mut self, place: u32) {
        let target = tag(KIND_CONNECT, 0, place);
        self.push(opcode::AsyncCancel::new(target).build().user_data(tag(KIND_OTHER, 0, 0)));
    }

    /// Ends the multishot accept of listener number `listener`.
    pub(super) fn cancel_accept(&mut self, listener: u32) {
        let target = tag(KIND_ACCEPT, 0, listener);
        self.push(opcode::AsyncCancel::new(target).build().user_data(tag(KIND_OTHER, 0, 0)));
    }

    /// Sends all of `buffer`, of which `skip` bytes are sent already; one completion when all are
    /// sent or an error ended it.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        connection: ConnectionId,
        buffer: Vec<u8>,
        skip: usize,
    ) {
        let rest = buffer.get(skip..).unwrap_or_default();
        let (start, length) = (rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX));
        // The heap block stays where it is when the `Vec` moves into its place.
        self.sends_started += 1;
        let place = self.sends.insert(Send { connection, buffer, skip });
        let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), start, length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(tag(KIND_SEND, 0, place));
        self.push(entry);
    }

    /// Starts a file operation.
    pub(super) fn file(&mut self, operation: FileOp) {
        let file = match operation {
            FileOp::Write { token, fd, offset, bytes } => {
                File { token, fd, offset, work: FileWork::Write(bytes) }
            }
            FileOp::SyncData { token, fd } => {
                File { token, fd, offset: 0, work: FileWork::SyncData }
            }
            FileOp::Read { token, fd, offset, length } => {
                let buffer = vec![0; length as usize];
                File { token, fd, offset, work: FileWork::Read { buffer, filled: 0 } }
            }
        };
        let place = self.files.insert(file);
        self.start_file(place);
    }

    /// Watches the doorbell: every ring is an event. Its count is never read, so it costs no call.
    pub(super) fn watch_doorbell(&mut self, eventfd: BorrowedFd<'_>) {
        let events = u32::from(libc::POLLIN as u16);
        let entry = opcode::PollAdd::new(types::Fd(eventfd.as_raw_fd()), events)
            .multi(true)
            .build()
            .user_data(tag(KIND_DOORBELL, 0, 0));
        self.push(entry);
    }

    /// Watches a socket that connects: one event, when it has or when it failed.
    pub(super) fn watch_connecting(&mut self, socket: BorrowedFd<'_>, place: u32) {
        let events = u32::from(libc::POLLOUT as u16);
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), events)
            .build()
            .user_data(tag(KIND_CONNECT, 0, place));
        self.push(entry);
    }

    /// Submits what was gathered and waits until there are so many completions, but not longer than
    /// the duration; without `wait` it only takes what is there.
    ///
    /// # Errors
    ///
    /// The kernel's, except those that mean "nothing came" or "interrupted".
    pub(super) fn enter(&mut self, wait: Option<(usize, Duration)>) -> io::Result<()> {
        self.enters += 1;
        let submitter = self.uring.submitter();
        let result = match wait {
            None => submitter.submit(),
            Some((count, wait)) => {
                let timespec = types::Timespec::from(wait);
                submitter.submit_with_args(count, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // EBUSY: completions must be reaped first, which the caller does next.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// How many sends were started since the last call.
    pub(super) fn take_sends_started(&mut self) -> usize {
        std::mem::take(&mut self.sends_started)
    }

    /// Takes all completions there are, as events. Returns how many completions that were.
    pub(super) fn reap(
        &mut self,
        scratch: &mut Vec<cqueue::Entry>,
        events: &mut Vec<Event>,
    ) -> usize {
        scratch.clear();
        scratch.extend(self.uring.completion());
        for entry in scratch.iter() {
            if let Some(event) = self.event(entry) {
                events.push(event);
            }
        }
        scratch.len()
    }

    /// The bytes that came with an [`Event::Received`].
    pub(super) fn bytes(&self, filled: &Filled) -> &[u8] {
        self.buffers.bytes(filled)
    }

    /// Gives a receive buffer back to the kernel.
    pub(super) fn give_back(&mut self, filled: Filled) {
        self.buffers.give_back(filled);
    }

    /// Shows the kernel the buffers given back.
    pub(super) fn commit_buffers(&mut self) {
        self.buffers.commit();
    }

    /// File operations in flight.
    pub(super) fn files_in_flight(&self) -> usize {
        self.files.in_use()
    }

    /// `io_uring_enter` calls so far.
    pub(super) fn enters(&self) -> u64 {
        self.enters
    }

    fn event(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.in_flight -= 1;
        }
        let data = entry.user_data();
        let index = data as u32;
        let result = result_of(entry);
        Some(match data >> KIND_SHIFT {
            KIND_ACCEPT => Event::Accepted { listener: index, result: result.map(accepted), more },
            KIND_RECEIVE => {
                let generation = (data >> 32) as u32 & GENERATION_MASK;
                Event::Received { index, generation, result: self.received(entry, result), more }
            }
            KIND_SEND => {
                let Send { connection, buffer, skip } = self.sends.remove(index);
                let result = match result {
                    // Called back before it sent more.
                    Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(skip),
                    result => result.map(|sent| skip + sent as usize),
                };
                Event::Sent { connection, buffer, result }
            }
            KIND_FILE => {
                let (token, result) = self.file_progress(index, result)?;
                Event::File { token, result }
            }
            KIND_DOORBELL => Event::Doorbell { more },
            KIND_CONNECT => Event::Connected { place: index },
            _ => Event::Other,
        })
    }

    fn received(
        &mut self,
        entry: &cqueue::Entry,
        result: io::Result<u32>,
    ) -> io::Result<Option<Filled>> {
        let filled = cqueue::buffer_select(entry.flags())
            .map(|id| self.buffers.filled(id, *result.as_ref().unwrap_or(&0)));
        match (result, filled) {
            (Ok(length), Some(filled)) if length > 0 => Ok(Some(filled)),
            (result, filled) => {
                if let Some(filled) = filled {
                    self.buffers.give_back(filled);
                }
                result.map(|_| None)
            }
        }
    }

    /// Continues an operation that was done in part; the token and result of one that is over.
    fn file_progress(
        &mut self,
        place: u32,
        result: io::Result<u32>,
    ) -> Option<(u64, io::Result<FileDone>)> {
        let file = self.files.get_mut(place);
        let token = file.token;
        let result = match result {
            Err(error) => Err(error),
            Ok(count) => match file.advance(count as usize) {
                Progress::Unfinished => {
                    self.start_file(place);
                    return None;
                }
                Progress::Done(done) => Ok(done),
                Progress::Stuck => Err(io::ErrorKind::WriteZero.into()),
            },
        };
        self.files.remove(place);
        Some((token, result))
    }

    fn start_file(&mut self, place: u32) {
        let file = self.files.get_mut(place);
        let fd = types::Fd(file.fd);
        let entry = match &mut file.work {
            FileWork::Write(bytes) => {
                let length = bytes.len().min(FILE_BYTES_MAX) as u32;
                opcode::Write::new(fd, bytes.as_ptr(), length).offset(file.offset).build()
            }
            FileWork::SyncData => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            FileWork::Read { buffer, filled } => {
                let offset = file.offset + *filled as u64;
                let rest = buffer.get_mut(*filled..).unwrap_or_default();
                let length = rest.len().min(FILE_BYTES_MAX) as u32;
                opcode::Read::new(fd, rest.as_mut_ptr(), length).offset(offset).build()
            }
        };
        self.push(entry.user_data(tag(KIND_FILE, 0, place)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        loop {
            // JUSTIFICATION: the crate cannot know what a submission points to.
            // SAFETY: whatever `entry` points to is owned by `self.sends`, `self.files`,
            // or `self.buffers` until its completion is reaped; `drop` leaks them
            // when something is still in flight. Only methods of this file call `push`.
            let pushed = unsafe { self.uring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
            self.enters += 1;
            // A full queue is submitted as it is; what fails now fails in `enter` as well.
            if let Err(error) = self.uring.submitter().submit() {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)),
                    "io_uring takes no submissions: {error}"
                );
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // JUSTIFICATION: the order and the leak below cannot be said with plain fields.
        // SAFETY: `drop` runs once and nothing uses the field afterwards.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        if self.in_flight > 0 {
            // The kernel ends requests some time after the descriptor is closed and may write
            // until then: what they point to is never freed.
            return;
        }
        // SAFETY: as above; nothing is in flight, so the kernel uses none of it.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.sends) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.files) };
    }
}

enum Progress {
    Done(FileDone),
    Unfinished,
    Stuck,
}

impl File {
    fn advance(&mut self, count: usize) -> Progress {
        match &mut self.work {
            FileWork::SyncData => Progress::Done(FileDone::Synced),
            FileWork::Write(bytes) if count >= bytes.len() => Progress::Done(FileDone::Written),
            FileWork::Write(_) if count == 0 => Progress::Stuck,
            FileWork::Write(bytes) => {
                bytes::Buf::advance(bytes, count);
                self.offset += count as u64;
                Progress::Unfinished
            }
            FileWork::Read { buffer, filled } => {
                *filled += count;
                if count > 0 && *filled < buffer.len() {
                    return Progress::Unfinished;
                }
                buffer.truncate(*filled);
                Progress::Done(FileDone::Read(std::mem::take(buffer)))
            }
        }
    }
}

/// Values in numbered places that are used again.
struct Places<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    fn insert(&mut self, value: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("fewer requests than connections")
        });
        *self.places.get_mut(place as usize).expect("free or just made") = Some(value);
        place
    }

    fn get_mut(&mut self, place: u32) -> &mut T {
        let value = self.places.get_mut(place as usize).and_then(Option::as_mut);
        value.expect("a completion names a request in flight")
    }

    fn remove(&mut self, place: u32) -> T {
        let value = self.places.get_mut(place as usize).and_then(Option::take);
        self.free.push(place);
        value.expect("a completion names a request in flight")
    }

    fn place(&self, is_it: impl Fn(&T) -> bool) -> Option<u32> {
        let place = self.places.iter().position(|value| value.as_ref().is_some_and(&is_it))?;
        u32::try_from(place).ok()
    }

    fn in_use(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

fn tag(kind: u64, generation: u32, index: u32) -> u64 {
    kind << KIND_SHIFT | u64::from(generation & GENERATION_MASK) << 32 | u64::from(index)
}

/// Whether an event's generation, cut to what travels with a request, is that of `id`.
pub(super) fn same_generation(id: ConnectionId, generation: u32) -> bool {
    id.generation & GENERATION_MASK == generation
}

fn result_of(entry: &cqueue::Entry) -> io::Result<u32> {
    u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))
}

fn accepted(fd: u32) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("the kernel gives descriptors below 2^31");
    // JUSTIFICATION: an accepted descriptor arrives as a number.
    // SAFETY: the completion of an accept gives a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
