//! Short files are durable by the index at first: their content is in the batch that says that they are to be there, so
//! that writers that come together share one sync. The files follow at once, and are synced all together a little later.
//!
//! Invariant: a content stays in the index until a sync of the whole tree began after its file was put in place, and
//! ended well. What is found there by the next process is put in place again, unless it is, or somebody wrote since.

use crate::record::Dot;
use crate::shared::Shared;
use crate::turn::Turn;
use crate::{MeshError, Name};
use macula_core::{AppName, Look};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Longest content that is durable by the index, bytes.
pub(crate) const SHORT_MAX: usize = 64 << 10;
/// How long the index has it at least, and how much of it at most, when it is synced as fast as it comes.
const EVERY: Duration = Duration::from_millis(250);
const BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(crate) struct Unsynced {
    put: Mutex<Put>,
    /// Of a former process.
    former: Mutex<HashMap<Name, Vec<Dot>>>,
    full: Notify,
}

#[derive(Default)]
struct Put {
    names: BTreeSet<(Name, Dot)>,
    bytes: usize,
}

impl Unsynced {
    pub fn of_former(found: Vec<(Name, Dot)>) -> Self {
        let mut former = HashMap::<Name, Vec<Dot>>::new();
        for (name, dot) in found {
            former.entry(name).or_default().push(dot);
        }
        Self { former: Mutex::new(former), ..Self::default() }
    }

    /// A content is in the index, and its file is in place, or will never be.
    pub fn add(&self, name: &Name, dot: Dot, len: usize) {
        let mut put = self.put.lock();
        put.names.insert((name.clone(), dot));
        put.bytes += len;
        if put.bytes > BYTES_MAX {
            self.full.notify_one();
        }
    }

    /// Whether a former process had contents of it in the index.
    pub fn is_former(&self, name: &Name) -> bool {
        let former = self.former.lock();
        !former.is_empty() && former.contains_key(name)
    }

    /// Names of which a former process had contents in the index.
    pub fn former(&self) -> Vec<Name> {
        self.former.lock().keys().cloned().collect()
    }

    fn take(&self) -> Vec<(Name, Dot)> {
        let taken = std::mem::take(&mut *self.put.lock());
        taken.names.into_iter().collect()
    }
}

/// Until the mesh is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        let _ = tokio::time::timeout(EVERY, shared.unsynced.full.notified()).await;
        let of = shared.clone();
        // after a failed sync the app's files take nothing more; the next process puts them again
        let _ = crate::peers::blocking(move || of.sync_short()).await;
    }
}

impl Shared {
    /// Make the short files durable that were put so far, and let the index forget their contents.
    pub fn sync_short(&self) -> Result<(), MeshError> {
        let mut of_apps = BTreeMap::<AppName, Vec<(Name, Dot)>>::new();
        for (name, dot) in self.unsynced.take() {
            of_apps.entry(name.app.clone()).or_default().push((name, dot));
        }
        let mut failed = Ok(());
        for (app, put) in of_apps {
            // an app that was closed is synced when somebody uses it again
            let files = self.opened(&app).ok_or(MeshError::Closed);
            let synced = files.and_then(|files| Ok(files.sync_all()?));
            match synced.and_then(|()| self.index.forget_short(&put)) {
                Ok(()) => {}
                Err(error) => {
                    put.iter().for_each(|(name, dot)| self.unsynced.add(name, *dot, 0));
                    failed = Err(error);
                }
            }
        }
        failed
    }
}

impl Turn<'_> {
    /// Put again what a former process put in place and did not sync, and a power loss took.
    pub(crate) fn put_again(&mut self, shared: &Shared) -> Result<(), MeshError> {
        let dots = shared.unsynced.former.lock().remove(self.name);
        for dot in dots.into_iter().flatten() {
            let placed = self.row.here.placed.filter(|placed| placed.dot == dot);
            let content = shared.index.short(self.name, &dot)?;
            // superseded, or on its way: then the turn goes on with it
            let (Some(placed), Some(content)) = (placed, content) else {
                if self.row.here.pending.is_none() {
                    shared.unsynced.add(self.name, dot, 0);
                }
                continue;
            };
            let look = self.files.look(&self.name.path)?;
            let is_it = |look: &Look| self.holds(look, &content);
            let is_later = |look: &Look| look.mtime_ns > placed.mtime_ns && !self.is_left_of(look, &content);
            if !look.is_some_and(|look| is_it(&look) || is_later(&look)) {
                self.place_again(placed.dot, placed.content, &content)?;
            }
            shared.unsynced.add(self.name, dot, content.len());
        }
        Ok(())
    }
}
