//! The C library's allocator, which SQLite and all of this library use and the VM hardly does.
//!
//! Invariant: on a thread that may wait only: all of its arenas are looked at, each locked for that time.

/// Bytes that it has given out; 0 where it does not count them.
#[cfg(target_env = "gnu")]
pub fn bytes() -> u64 {
    // SAFETY: takes nothing and only counts
    let counted = unsafe { libc::mallinfo2() };
    (counted.uordblks + counted.hblkhd) as u64
}

/// Give the system back what it keeps of what was let go of.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: changes nothing that was given out
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub fn bytes() -> u64 {
    0
}

#[cfg(not(target_env = "gnu"))]
pub fn trim() {}
