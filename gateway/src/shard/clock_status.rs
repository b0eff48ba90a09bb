//! Whether anything keeps the machine's clock right. In no file: only the kernel's own call says it.

use std::mem::MaybeUninit;

/// Whether the kernel has been told of late, by whoever synchronises its clock, that it is right; `None`
/// where it does not say.
///
/// Source: adjtimex(2), `TIME_ERROR`: `STA_UNSYNC` is set.
#[must_use]
pub fn is_synchronised() -> Option<bool> {
    // No bit of `modes` is set: the call asks, and changes nothing.
    let mut asked = MaybeUninit::<libc::timex>::zeroed();
    // JUSTIFICATION: neither std nor rustix has this call, and what it says is in no file.
    // SAFETY: the pointer is to memory of a `timex` of our own, all zeros, which is a value of it; the
    // kernel keeps no pointer.
    let state = unsafe { libc::adjtimex(asked.as_mut_ptr()) };
    match state {
        -1 => None,
        libc::TIME_ERROR => Some(false),
        _ => Some(true),
    }
}
