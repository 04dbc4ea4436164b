//! Who waits for what becomes known of a file: for replicas to have it.
//!
//! Invariant: who enrolled before it looked hears of each change behind that look.

use crate::Name;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Waiters(Mutex<HashMap<Name, (usize, Arc<Notify>)>>);

/// One who waits, until dropped.
pub(crate) struct Waiter<'a> {
    waiters: &'a Waiters,
    name: Name,
    pub changed: Arc<Notify>,
}

impl Waiters {
    pub fn enroll(&self, name: &Name) -> Waiter<'_> {
        let mut all = self.0.lock();
        let (count, changed) = all.entry(name.clone()).or_default();
        *count += 1;
        Waiter { waiters: self, name: name.clone(), changed: changed.clone() }
    }

    pub fn wake(&self, name: &Name) {
        if let Some((_, changed)) = self.0.lock().get(name) {
            changed.notify_waiters();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut all = self.waiters.0.lock();
        if let Some((count, _)) = all.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.name);
            }
        }
    }
}
