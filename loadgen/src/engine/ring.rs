//! Sockets on an io_uring: the unsafe calls of the generator, behind safe ones.
//!
//! What makes it sound: the bytes of a send belong to the ring from [`Ring::send`] until the
//! completion is reaped, the slot of a connection is not reused while an operation of it is in
//! flight, and a ring dropped with operations in flight leaks its memory instead of freeing it.

use std::{
    io,
    mem::{ManuallyDrop, take},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::buffers::{BUFFER_GROUP, Buffers};

const SUBMISSION_ENTRIES: u32 = 4_096;
const COMPLETION_ENTRIES: u32 = 16_384;
/// Where the operation is in a completion's user data; the connection's index is below.
const OPERATION_SHIFT: u32 = 32;

/// Connections to one target.
pub(super) struct Ring {
    io: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<Buffers>,
    /// Boxed: the kernel reads it while a connect is in flight.
    target: ManuallyDrop<Box<SockAddr>>,
    slots: ManuallyDrop<Vec<Slot>>,
    in_flight: u64,
}

/// What the kernel works on for one connection.
#[derive(Default)]
struct Slot {
    socket: Option<Socket>,
    sending: Vec<u8>,
    sent: usize,
    /// Operations in flight.
    in_flight: u8,
    /// Which, a bit each: of no kind but [`Operation::Cancel`] is there more than one.
    kinds: u8,
}

/// What is done on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// The TCP handshake.
    Connect,
    /// A receive that goes on until it fails.
    Receive,
    /// Sending a buffer.
    Send,
    /// Ending the others.
    Cancel,
    /// Waiting for the peer to close.
    Poll,
}

impl Operation {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// An operation that made progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) index: u32,
    pub(super) operation: Operation,
    /// Bytes, or a negative errno.
    pub(super) result: i32,
    /// The receive buffer that holds the bytes.
    pub(super) buffer: Option<u16>,
    /// The operation is still in flight.
    pub(super) more: bool,
}

impl Ring {
    /// A ring for `slots` connections to `target`.
    ///
    /// # Errors
    ///
    /// What the kernel says; io_uring with provided buffers and multishot receives is Linux 6.0.
    pub(super) fn new(target: SocketAddr, slots: usize) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(SUBMISSION_ENTRIES)?;
        let buffers = Buffers::register(&io)?;
        let mut all = Vec::new();
        all.resize_with(slots, Slot::default);
        Ok(Self {
            io: ManuallyDrop::new(io),
            buffers: ManuallyDrop::new(buffers),
            target: ManuallyDrop::new(Box::new(target.into())),
            slots: ManuallyDrop::new(all),
            in_flight: 0,
        })
    }

    /// Starts the handshake of connection `index` from the address `source`.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` while an earlier connection of this index has operations in flight, else
    /// what `socket`, `bind` and io_uring say.
    pub(super) fn connect(&mut self, index: u32, source: Option<Ipv4Addr>) -> io::Result<()> {
        let slot = self.slots.get_mut(index as usize).ok_or(io::ErrorKind::NotFound)?;
        if slot.in_flight > 0 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let socket = Socket::new(self.target.domain(), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let (Some(source), Domain::IPV4) = (source, self.target.domain()) {
            choose_port_when_connecting(&socket)?;
            socket.bind(&SocketAddrV4::new(source, 0).into())?;
        }
        let connect = opcode::Connect::new(
            types::Fd(socket.as_raw_fd()),
            self.target.as_ptr().cast(),
            self.target.len(),
        );
        *slot = Slot { socket: Some(socket), ..Slot::default() };
        self.push(index, Operation::Connect, connect.build())
    }

    /// Starts receiving on connection `index`; each completion brings a buffer.
    ///
    /// # Errors
    ///
    /// `NotConnected` if there is no socket, else what io_uring says.
    pub(super) fn receive(&mut self, index: u32) -> io::Result<()> {
        let fd = self.fd(index)?;
        self.push(index, Operation::Receive, opcode::RecvMulti::new(fd, BUFFER_GROUP).build())
    }

    /// Sends all of `bytes` on connection `index`, which must not be sending.
    ///
    /// # Errors
    ///
    /// `NotConnected` if there is no socket, `AlreadyExists` while a send is in flight, else what
    /// io_uring says.
    pub(super) fn send(&mut self, index: u32, bytes: Vec<u8>) -> io::Result<()> {
        self.fd(index)?;
        let slot = self.slots.get_mut(index as usize).ok_or(io::ErrorKind::NotFound)?;
        if !slot.sending.is_empty() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        slot.sending = bytes;
        slot.sent = 0;
        self.send_rest(index)
    }

    /// Enters `bytes` sent, and sends what is left of the buffer; `true` when nothing is.
    ///
    /// # Errors
    ///
    /// As [`Ring::send`].
    pub(super) fn sent(&mut self, index: u32, bytes: usize) -> io::Result<bool> {
        let slot = self.slots.get_mut(index as usize).ok_or(io::ErrorKind::NotFound)?;
        slot.sent += bytes;
        if slot.sent < slot.sending.len() {
            self.send_rest(index)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The buffer of the send that ended, emptied, for use again.
    pub(super) fn take_sent(&mut self, index: u32) -> Vec<u8> {
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.sent >= slot.sending.len() => {
                let mut buffer = take(&mut slot.sending);
                buffer.clear();
                buffer
            }
            _ => Vec::new(),
        }
    }

    /// Whether the peer of connection `index` has closed it, though nobody may have noticed yet.
    pub(super) fn is_closed_by_peer(&self, index: u32) -> bool {
        let socket = self.slots.get(index as usize).and_then(|slot| slot.socket.as_ref());
        let Some(socket) = socket else { return true };
        let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
        let said = poll(&mut asked, Some(&Timespec::default()));
        said.map_or(true, |ready| ready > 0)
    }

    /// Ends both directions of connection `index`: every operation in flight then completes.
    pub(super) fn shut_down(&mut self, index: u32) {
        if let Some(socket) = self.slots.get(index as usize).and_then(|slot| slot.socket.as_ref()) {
            // Fails when the peer was faster; the operations end either way.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Ends the operations of connection `index` without a word to the peer.
    ///
    /// # Errors
    ///
    /// What io_uring says.
    pub(super) fn cancel(&mut self, index: u32) -> io::Result<()> {
        let kinds = match self.slots.get(index as usize) {
            // There is nothing to end, and the caller gets a completion all the same.
            Some(Slot { kinds: 0, .. }) | None => Operation::Receive.bit(),
            Some(slot) => slot.kinds,
        };
        // One by one, by what names each: told to cancel what a descriptor has in flight, the
        // kernel looks through all that the ring has, for each of thousands of connections.
        for kind in [Operation::Connect, Operation::Receive, Operation::Send, Operation::Poll] {
            if kinds & kind.bit() != 0 {
                let cancel = opcode::AsyncCancel::new(user_data(kind, index));
                self.push(index, Operation::Cancel, cancel.build())?;
            }
        }
        Ok(())
    }

    /// Waits until the peer of connection `index` closes it.
    ///
    /// # Errors
    ///
    /// What io_uring says.
    pub(super) fn poll(&mut self, index: u32) -> io::Result<()> {
        let fd = self.fd(index)?;
        let mask = u32::try_from(libc::POLLRDHUP | libc::POLLHUP).unwrap_or_default();
        self.push(index, Operation::Poll, opcode::PollAdd::new(fd, mask).build())
    }

    /// Whether connection `index` has no operation in flight.
    pub(super) fn is_quiet(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_none_or(|slot| slot.in_flight == 0)
    }

    /// Makes the close of connection `index` a reset.
    pub(super) fn reset_when_released(&mut self, index: u32) {
        if let Some(socket) = self.slots.get(index as usize).and_then(|slot| slot.socket.as_ref()) {
            // Without it the close is an ordinary one, which is all that could go wrong.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Frees connection `index` if nothing of it is in flight; `true` if it is free now.
    pub(super) fn release(&mut self, index: u32) -> bool {
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.in_flight == 0 => {
                *slot = Slot::default();
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// Submits what was started and waits for a completion, at most `wait`.
    ///
    /// # Errors
    ///
    /// What io_uring says, except that time was up, a signal came or completions pile up.
    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        let timespec = types::Timespec::from(wait);
        let arguments = types::SubmitArgs::new().timespec(&timespec);
        match self.io.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Appends what completed to `out`.
    pub(super) fn completions(&mut self, out: &mut Vec<Completion>) {
        for entry in self.io.completion() {
            let Some(completion) = Completion::of(&entry) else { continue };
            if !completion.more {
                self.in_flight -= 1;
                if let Some(slot) = self.slots.get_mut(completion.index as usize) {
                    slot.in_flight -= 1;
                    slot.kinds &= !completion.operation.bit();
                }
            }
            out.push(completion);
        }
    }

    /// The receive buffers.
    pub(super) fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn send_rest(&mut self, index: u32) -> io::Result<()> {
        let fd = self.fd(index)?;
        let slot = self.slots.get(index as usize).ok_or(io::ErrorKind::NotFound)?;
        let rest = slot.sending.get(slot.sent..).unwrap_or_default();
        let length = u32::try_from(rest.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let send = opcode::Send::new(fd, rest.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL);
        self.push(index, Operation::Send, send.build())
    }

    fn fd(&self, index: u32) -> io::Result<types::Fd> {
        self.slots
            .get(index as usize)
            .and_then(|slot| slot.socket.as_ref())
            .map(|socket| types::Fd(socket.as_raw_fd()))
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn push(&mut self, index: u32, operation: Operation, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data(user_data(operation, index));
        loop {
            // JUSTIFICATION: handing an operation to the kernel is what io_uring is; there is no
            // safe form of it.
            // SAFETY: the memory an entry points to lives until its completion: the target's
            // address is boxed, a send's bytes stay untouched in the slot's `sending` (`send` and
            // `take_sent` refuse while they are in flight), receives use the registered pool; all
            // of it is leaked, not freed, if the ring is dropped earlier. The descriptor stays
            // open because `release` and `connect` refuse while the slot has operations.
            let pushed = unsafe { self.io.submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            self.io.submit()?;
        }
        self.in_flight += 1;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.in_flight += 1;
            slot.kinds |= operation.bit();
        }
        Ok(())
    }
}

/// What a completion brings back: which operation of which connection.
const fn user_data(operation: Operation, index: u32) -> u64 {
    (operation as u64) << OPERATION_SHIFT | index as u64
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // The kernel may still write to the buffers. The process is about to end.
            return;
        }
        drop_in_order(&mut self.io);
        drop_in_order(&mut self.buffers);
        drop_in_order(&mut self.target);
        drop_in_order(&mut self.slots);
    }
}

/// Lets `connect` choose the port instead of `bind`.
///
/// `bind` looks for a port nobody has at this address, which takes milliseconds once thousands are
/// taken; `connect` only needs the four numbers together to be new. Source: ip(7),
/// IP_BIND_ADDRESS_NO_PORT, Linux 4.2.
fn choose_port_when_connecting(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let value = std::ptr::from_ref(&on).cast();
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    // JUSTIFICATION: socket2 has no function for this option.
    // SAFETY: the descriptor is open while `socket` is borrowed, and `value` points to `bytes`
    // bytes that live until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Drops a field of a [`Ring`] that is being dropped.
fn drop_in_order<T>(field: &mut ManuallyDrop<T>) {
    // JUSTIFICATION: whether these fields are freed is decided at run time (see `Ring`'s drop).
    // SAFETY: called once a field, from `Ring::drop` only, after which nothing uses the field.
    unsafe { ManuallyDrop::drop(field) }
}

impl Completion {
    /// `None` for user data this file did not write.
    fn of(entry: &cqueue::Entry) -> Option<Self> {
        let data = entry.user_data();
        let operation = match data >> OPERATION_SHIFT {
            0 => Operation::Connect,
            1 => Operation::Receive,
            2 => Operation::Send,
            3 => Operation::Cancel,
            4 => Operation::Poll,
            _ => return None,
        };
        let index = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(Self {
            index,
            operation,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        })
    }
}

const _: () = assert!(Operation::Connect as u64 == 0);
const _: () = assert!(Operation::Receive as u64 == 1);
const _: () = assert!(Operation::Send as u64 == 2);
const _: () = assert!(Operation::Cancel as u64 == 3);
const _: () = assert!(Operation::Poll as u64 == 4);
