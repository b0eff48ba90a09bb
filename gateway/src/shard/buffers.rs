//! The receive buffers of a shard: a ring of free buffers the kernel takes from when bytes come.
//!
//! A connection with nothing to say holds none. The memory is asked for zeroed in one piece, so a
//! page costs nothing until the kernel first writes to it; the kernel takes buffers in the order
//! they were given back, so a shard touches as many as it ever needed at once.

use io_uring::{Submitter, types};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The group under which the ring is registered; there is one.
pub(super) const GROUP: u16 = 0;

/// The most buffers the kernel takes in one ring.
const COUNT_MAX: u16 = 32_768;

/// Registered receive buffers.
pub(super) struct Buffers {
    entries: NonNull<Page>,
    entries_pages: usize,
    memory: NonNull<u8>,
    buffer_bytes: u32,
    count: u16,
    tail: u16,
    registered: bool,
}

/// A buffer with received bytes, ours until it is given back.
#[derive(Debug)]
pub(super) struct Filled {
    id: u16,
    length: u32,
}

/// The kernel wants the ring of entries on a page of its own.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

const PAGE_BYTES: usize = 4_096;
const ENTRY_BYTES: usize = size_of::<types::BufRingEntry>();
const _: () = assert!(PAGE_BYTES.is_multiple_of(ENTRY_BYTES));

impl Buffers {
    /// Asks for the memory. `count` is rounded up to a power of two.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Self {
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let entries_pages = (usize::from(count) * ENTRY_BYTES).div_ceil(PAGE_BYTES);
        let entries = vec![Page([0; PAGE_BYTES]); entries_pages].into_boxed_slice();
        let memory = vec![0_u8; usize::from(count) * buffer_bytes as usize].into_boxed_slice();
        Self {
            entries: NonNull::from(Box::leak(entries)).cast(),
            entries_pages,
            memory: NonNull::from(Box::leak(memory)).cast(),
            buffer_bytes,
            count,
            tail: 0,
            registered: false,
        }
    }

    /// Registers the ring with `submitter`'s io_uring and puts every buffer in it.
    ///
    /// # Errors
    ///
    /// The kernel's: `EINVAL` before Linux 5.19, `ENOMEM` when memory cannot be locked.
    pub(super) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // JUSTIFICATION: the crate has no safe way to register a ring of buffers.
        // SAFETY: the entries are page-aligned, large enough for `count`, and live until `Drop`,
        // which runs after the io_uring was closed or leaks them (see `Ring::drop`).
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0) }?;
        self.registered = true;
        for id in 0..self.count {
            self.publish(id);
        }
        self.commit();
        Ok(())
    }

    /// The bytes of a buffer.
    pub(super) fn bytes(&self, filled: &Filled) -> &[u8] {
        let at = usize::from(filled.id) * self.buffer_bytes as usize;
        // JUSTIFICATION: the kernel wrote into memory that no Rust reference covers.
        // SAFETY: `Filled` is made by `filled` only, which checked its bounds, and while it exists
        // the kernel does not own the buffer, so nothing writes to it.
        unsafe {
            std::slice::from_raw_parts(
                self.memory.as_ptr().wrapping_add(at),
                filled.length as usize,
            )
        }
    }

    /// Takes note of a completion that used buffer `id` for `length` bytes.
    ///
    /// To be called once a completion, with what the kernel reported.
    ///
    /// # Panics
    ///
    /// When the kernel reports a buffer or a length it was never given.
    pub(super) fn filled(&self, id: u16, length: u32) -> Filled {
        assert!(id < self.count && length <= self.buffer_bytes, "the kernel knows its buffers");
        Filled { id, length }
    }

    /// Gives a buffer back; the kernel sees it after [`Buffers::commit`].
    pub(super) fn give_back(&mut self, filled: Filled) {
        self.publish(filled.id);
    }

    /// Shows the kernel the buffers given back since the last call.
    pub(super) fn commit(&mut self) {
        // JUSTIFICATION: the tail lives in memory shared with the kernel.
        // SAFETY: `entries` points to the start of a ring of at least one entry.
        let tail = unsafe { types::BufRingEntry::tail(self.entries.as_ptr().cast()) };
        // SAFETY: the tail is two aligned bytes inside the ring, only ever accessed as an atomic
        // on this side, and lives as long as `self`.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn publish(&mut self, id: u16) {
        let mask = self.count - 1;
        let address =
            self.memory.as_ptr().wrapping_add(usize::from(id) * self.buffer_bytes as usize);
        let entry: *mut types::BufRingEntry = self
            .entries
            .as_ptr()
            .cast::<types::BufRingEntry>()
            .wrapping_add(usize::from(self.tail & mask));
        // JUSTIFICATION: the ring is memory shared with the kernel.
        // SAFETY: masked to the ring's length; the kernel reads an entry only after the tail has
        // passed it, which `commit` does later, and every bit pattern is a valid entry.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let entries = std::ptr::slice_from_raw_parts_mut(self.entries.as_ptr(), self.entries_pages);
        let bytes = usize::from(self.count) * self.buffer_bytes as usize;
        let memory = std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), bytes);
        // JUSTIFICATION: made by `Box::leak` because the kernel writes behind Rust's back.
        // SAFETY: the pointer and length that `new` leaked; freed once, here.
        drop(unsafe { Box::from_raw(entries) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(memory) });
    }
}
