//! Reads that must not wait for the disk: from memory, or not at all.
//!
//! Invariant: inside [`only`], a page that would have to come from the device ends the read with
//! [`crate::BlockError::Cold`], and nothing is changed by that. It leaves redb by unwinding to the fence,
//! because an error would make redb refuse everything that follows; redb holds no lock while it reads a page.

use std::cell::Cell;
use std::panic::resume_unwind;

/// Pages larger than this are cold, bytes.
const PAGE_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static ONLY: Cell<bool> = const { Cell::new(false) };
}

/// What unwinds.
struct Cold;

/// Run `read`, which is fenced, from memory, or end it with [`crate::BlockError::Cold`].
pub fn only<T>(read: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ONLY.set(false);
        }
    }
    ONLY.set(true);
    let _reset = Reset;
    read()
}

/// Whether this thread must not wait.
pub(crate) fn is_only() -> bool {
    ONLY.get()
}

/// Whether a page of `len` bytes may be read by who must not wait.
pub(crate) fn fits(len: usize) -> bool {
    len <= PAGE_BYTES_MAX
}

/// End the read. Called by the block device under redb.
pub(crate) fn end_cold() -> ! {
    // not `panic!`: that would tell the panic hook
    resume_unwind(Box::new(Cold))
}

/// Whether that is what was caught.
pub(crate) fn is_cold(panic: &(dyn std::any::Any + Send)) -> bool {
    panic.is::<Cold>()
}
