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

/// Drop a value on the closer thread.
pub fn dispose(value: Box<dyn Any + Send>) {
    static CLOSER: OnceLock<Option<Sender<Box<dyn Any + Send>>>> = OnceLock::new();
    let closer = CLOSER.get_or_init(|| {
        let (queue, values) = unbounded::<Box<dyn Any + Send>>();
        let run = move || {
            for value in values {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
            }
        };
        std::thread::Builder::new().name("macula-closer".into()).spawn(run).ok().map(|_| queue)
    });
    match closer {
        Some(queue) => drop(queue.send(value)),
        // no thread could be had: better here than a leak
        None => drop(value),
    }
}
