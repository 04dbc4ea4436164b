//! Long work: how it hears that nobody waits any more, and how it tells how far it is.
//!
//! Invariant: a [`Cancel`] once set stays set; every loop of a long work looks at it at least once
//! per chunk or page.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A flag that the caller, or the caller's death, sets.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far a work is. Counts grow; a total of 0 means that it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries (files, rows, pages) done.
    pub entries_done: u64,
    /// Bytes of input done.
    pub bytes_done: u64,
    /// Bytes of input in all, 0 when unknown.
    pub bytes_total: u64,
}

/// What a long work carries with it.
#[derive(Clone)]
pub struct Task {
    /// Looked at between chunks.
    pub cancel: Cancel,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Task {
    /// A work that can be cancelled and reports to `progress`, which must be quick.
    pub fn new(cancel: Cancel, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self { cancel, progress: Arc::new(progress) }
    }

    /// A work that nobody watches.
    pub fn quiet() -> Self {
        Self::new(Cancel::new(), |_| {})
    }

    /// Tell how far it is.
    pub fn report(&self, progress: Progress) {
        (self.progress)(progress);
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}
