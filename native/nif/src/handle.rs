//! A handle that Elixir holds: open or closed, and dropped without work on a scheduler thread.
//!
//! A resource's `Drop` runs wherever the garbage collector runs; it hands the inner value to the
//! closer thread, which may sync and join.

use crate::error::Failure;
use crossbeam_channel::{unbounded, Sender};
use macula_core::Kind;
use parking_lot::RwLock;
use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe, RefUnwindSafe, UnwindSafe};
use std::sync::OnceLock;

/// Something that can be closed once, by anybody.
pub struct Handle<T: Clone + Send + Sync + 'static>(RwLock<Option<T>>);

impl<T: Clone + Send + Sync + 'static> RefUnwindSafe for Handle<T> {}
impl<T: Clone + Send + Sync + 'static> UnwindSafe for Handle<T> {}

impl<T: Clone + Send + Sync + 'static> Handle<T> {
    /// An open handle.
    pub fn new(inner: T) -> Self {
        Self(RwLock::new(Some(inner)))
    }

    /// What it holds, or `closed`.
    pub fn get(&self) -> Result<T, Failure> {
        self.0.read().clone().ok_or_else(|| Failure::outcome(Kind::Closed))
    }

    /// Close it; what it held, if it was open.
    pub fn take(&self) -> Option<T> {
        self.0.write().take()
    }
}

impl<T: Clone + Send + Sync + 'static> Drop for Handle<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.get_mut().take() {
            dispose(Box::new(inner));
        }
    }
}

type Disposed = Box<dyn Any + Send>;

static CLOSER: OnceLock<Sender<Disposed>> = OnceLock::new();

/// Start the closer thread. Called once, at load, which fails without it.
pub fn start_closer() -> bool {
    let (queue, values) = unbounded::<Disposed>();
    let run = move || {
        for value in values {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
        }
    };
    let started = std::thread::Builder::new().name("macula-closer".into()).spawn(run);
    started.is_ok() && CLOSER.set(queue).is_ok()
}

/// Drop a value on the closer thread.
pub fn dispose(value: Disposed) {
    match CLOSER.get() {
        Some(queue) => drop(queue.send(value)),
        // only where no VM loaded this: in tests of cargo's
        None => drop(value),
    }
}
