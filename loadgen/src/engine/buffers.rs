//! The pool of receive buffers that the kernel picks from (a provided buffer ring).
//!
//! A connection with nothing to receive holds no memory: a buffer is taken when data arrives and
//! given back as soon as its bytes are handled.

use std::{
    cell::UnsafeCell,
    io,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use io_uring::IoUring;

/// Buffers in the pool: as many entries as fill a page, a power of two.
const BUFFER_COUNT: u16 = 256;
/// Bytes of each.
const BUFFER_BYTES: u32 = 8 << 10;
/// The group id the pool is registered under.
pub(super) const BUFFER_GROUP: u16 = 0;

/// An entry of the ring as the kernel reads it (`struct io_uring_buf`).
///
/// Source: io_uring_register_buf_ring(3). `tail` has a meaning only in the first entry, where it
/// counts the entries ever added, modulo 2^16.
#[repr(C)]
#[derive(Default)]
struct Entry {
    address: AtomicU64,
    length: AtomicU32,
    buffer: AtomicU16,
    tail: AtomicU16,
}

/// The ring of entries, aligned to a page as the kernel asks.
#[repr(C, align(4096))]
struct Entries([Entry; BUFFER_COUNT as usize]);

const _: () = assert!(size_of::<Entry>() == 16);
const _: () = assert!(BUFFER_COUNT.is_power_of_two());

/// The pool.
///
/// Both allocations must outlive the io_uring they are registered with: [`Ring`](super::ring::Ring)
/// frees them only when the kernel holds nothing.
pub(super) struct Buffers {
    entries: Box<Entries>,
    memory: Box<[UnsafeCell<u8>]>,
    tail: u16,
}

impl Buffers {
    /// Makes the pool and registers it with `ring`.
    ///
    /// # Errors
    ///
    /// What the kernel says; `InvalidInput` before Linux 5.19.
    pub(super) fn register(ring: &IoUring) -> io::Result<Self> {
        let bytes = usize::from(BUFFER_COUNT) * BUFFER_BYTES as usize;
        let mut pool = Self {
            entries: Box::new(Entries(std::array::from_fn(|_| Entry::default()))),
            memory: (0..bytes).map(|_| UnsafeCell::new(0)).collect(),
            tail: 0,
        };
        let address = std::ptr::from_ref(&*pool.entries) as u64;
        // JUSTIFICATION: the kernel is told an address to read entries from; there is no safe form.
        // SAFETY: `entries` is page-aligned, has BUFFER_COUNT entries of the kernel's layout
        // (asserted above), is only accessed atomically, and stays allocated until the io_uring is
        // gone (see the type's doc).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, BUFFER_COUNT, BUFFER_GROUP, 0)
        }?;
        for buffer in 0..BUFFER_COUNT {
            pool.give(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    /// The first `length` bytes of `buffer`, which a completion handed to us.
    ///
    /// `None` if the pool has no such buffer or it is shorter.
    ///
    /// Takes `&mut self` so that no buffer can be given back while its bytes are borrowed.
    pub(super) fn bytes(&mut self, buffer: u16, length: u32) -> Option<&[u8]> {
        if length > BUFFER_BYTES {
            return None;
        }
        let start = usize::from(buffer) * BUFFER_BYTES as usize;
        let cells = self.memory.get(start..start + length as usize)?;
        let pointer = cells.as_ptr().cast::<u8>();
        // JUSTIFICATION: the kernel wrote these bytes; copying them out would cost a copy of all
        // that is received.
        // SAFETY: `cells` is a live allocation of `length` initialised bytes (UnsafeCell<u8> has
        // u8's layout). The kernel writes only to buffers that were given to it; this one was
        // handed back by a completion and `give` needs `&mut self`, which the slice borrows.
        Some(unsafe { std::slice::from_raw_parts(pointer, length as usize) })
    }

    /// Adds `buffer` to what the kernel may fill, seen by it after [`Buffers::publish`].
    pub(super) fn give(&mut self, buffer: u16) {
        let start = usize::from(buffer) * BUFFER_BYTES as usize;
        let slot = usize::from(self.tail % BUFFER_COUNT);
        if let (Some(entry), Some(cell)) = (self.entries.0.get(slot), self.memory.get(start)) {
            entry.address.store(cell.get() as u64, Ordering::Relaxed);
            entry.length.store(BUFFER_BYTES, Ordering::Relaxed);
            entry.buffer.store(buffer, Ordering::Relaxed);
            self.tail = self.tail.wrapping_add(1);
        }
    }

    /// Lets the kernel see what was given since the last call.
    pub(super) fn publish(&self) {
        if let Some(first) = self.entries.0.first() {
            first.tail.store(self.tail, Ordering::Release);
        }
    }
}
