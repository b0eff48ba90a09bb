//! Counts what a piece of code allocates, so that "allocates nothing" is a test.
#![expect(unsafe_code, reason = "a global allocator can only be written with unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Allocations made by this thread while `work` ran.
///
/// A thread sees only its own, so tests that run beside it do not disturb the count.
pub(crate) fn count<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = work();
    (result, ALLOCATIONS.get() - before)
}

/// The system's allocator with a counter a thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts one allocation; a thread that is being torn down has no counter any more.
fn note() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// JUSTIFICATION: `GlobalAlloc` is an unsafe trait; nothing safe sees every allocation.
// SAFETY: every call is passed on unchanged to `System`, which upholds the contract; the counter
// is const-initialized and has no destructor, so counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // JUSTIFICATION: the call below is what this allocator wraps.
        // SAFETY: the caller promises a layout of non-zero size, which is all `System` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // JUSTIFICATION: the call below is what this allocator wraps.
        // SAFETY: the caller promises that `pointer` came from `alloc` or `realloc` of this
        // allocator, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note();
        // JUSTIFICATION: the call below is what this allocator wraps.
        // SAFETY: as for `dealloc`; the caller promises a `new_size` that fits a layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[test]
fn an_allocation_is_counted() {
    let (boxed, allocations) = count(|| Box::new(std::hint::black_box(7_u64)));
    assert_eq!((*boxed, allocations), (7, 1));
}
