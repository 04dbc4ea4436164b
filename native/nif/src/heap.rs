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

/// Longest piece that is the system's own mapping otherwise, and what an arena keeps of what was let go of, bytes.
#[cfg(target_env = "gnu")]
const MAPPED_MIN: libc::c_int = 4 << 20;
#[cfg(target_env = "gnu")]
const KEPT_MAX: libc::c_int = 8 << 20;

/// Messages of a mebibyte come and go all the time where large files travel. By itself the library gives each back to
/// the system, and each new page costs a fault and 4 KiB of zeros: a fifth of all processor time of such a transfer.
#[cfg(target_env = "gnu")]
pub fn keep_messages() {
    // SAFETY: two settings of the allocator, which it takes at any time
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_MAX);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn keep_messages() {}

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
