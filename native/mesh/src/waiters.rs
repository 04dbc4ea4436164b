//! Who waits for what becomes known of a file: for replicas to have it.
//!
//! Invariant: who enrolled before it looked hears of each change behind that look, of the last one at least.

use crate::shared::Shared;
use crate::{Name, Record};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

type Known = Option<Arc<Record>>;

#[derive(Default)]
pub(crate) struct Waiters(Mutex<HashMap<Name, watch::Sender<Known>>>);

/// One who waits, until dropped.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    pub name: Name,
    known: watch::Receiver<Known>,
}

impl Waiter {
    pub fn enroll(shared: &Arc<Shared>, name: &Name) -> Self {
        let mut all = shared.waiters.0.lock();
        let known = all.entry(name.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Self { shared: shared.clone(), name: name.clone(), known }
    }

    /// What is known after a change that was not heard of yet.
    pub async fn heard(&mut self) -> Arc<Record> {
        loop {
            // its sender is there as long as it is
            let _ = self.known.changed().await;
            if let Some(record) = &*self.known.borrow_and_update() {
                return record.clone();
            }
        }
    }
}

impl Waiters {
    /// This is known from now on.
    pub fn tell(&self, name: &Name, record: &Record) {
        if let Some(known) = self.0.lock().get(name) {
            known.send_replace(Some(Arc::new(record.clone())));
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.shared.waiters.0.lock();
        // this one is still counted
        if all.get(&self.name).is_some_and(|known| known.receiver_count() == 1) {
            all.remove(&self.name);
        }
    }
}
