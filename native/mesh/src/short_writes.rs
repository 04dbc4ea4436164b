//! Callers' writes of whole short files: those of an app that wait at the same time are made together.
//!
//! Invariant: each that was taken is answered once. Few threads work for an app, so that what comes while they do makes
//! the next batch, and an app whose files wait keeps no other's waiting.

use crate::mesh::Owed;
use crate::placement::Place;
use crate::record::{Content, Dot};
use crate::shared::Shared;
use crate::together::{together, Step};
use crate::unsynced::SHORT_MAX;
use crate::{ContentId, Name};
use macula_core::AppName;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Threads that write for one app: one puts files in their places while the other waits for a sync.
const WORKERS_MAX: usize = 2;
/// Writes of one batch, and bytes.
const BATCH_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Contents that wait, bytes. More are written one by one, as their callers hold them.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// One that waits.
pub(crate) struct ShortWrite {
    pub name: Name,
    pub content: Vec<u8>,
    pub place: Option<Place>,
    pub is_cancelled: Box<dyn Fn() -> bool + Send>,
    pub owed: Owed<Dot>,
}

#[derive(Default)]
struct OfApp {
    waiting: VecDeque<ShortWrite>,
    workers: usize,
}

#[derive(Default)]
struct Waiting {
    apps: BTreeMap<AppName, OfApp>,
    bytes: usize,
}

/// All that wait.
#[derive(Default)]
pub(crate) struct ShortWrites(Mutex<Waiting>);

impl ShortWrites {
    /// Whether so many bytes may come.
    pub fn takes(&self, len: usize) -> bool {
        len <= SHORT_MAX && self.0.lock().bytes + len <= WAITING_BYTES_MAX
    }

    /// Whether one more is to work for its app.
    fn add(&self, write: ShortWrite) -> bool {
        let mut waiting = self.0.lock();
        waiting.bytes += write.content.len();
        let of_app = waiting.apps.entry(write.name.app.clone()).or_default();
        of_app.waiting.push_back(write);
        let is_more = of_app.workers < WORKERS_MAX;
        of_app.workers += usize::from(is_more);
        is_more
    }

    /// The next of an app; none: the worker who asks has ended.
    fn take(&self, app: &AppName) -> Vec<ShortWrite> {
        let mut waiting = self.0.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let Some(of_app) = waiting.apps.get_mut(app) else { return batch };
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(write) = of_app.waiting.pop_front() else { break };
            bytes += write.content.len();
            batch.push(write);
        }
        waiting.bytes -= bytes;
        if batch.is_empty() {
            waiting.end_worker(app);
        }
        batch
    }
}

impl Waiting {
    /// What is left when nobody works for the app any more.
    fn end_worker(&mut self, app: &AppName) -> VecDeque<ShortWrite> {
        let Some(of_app) = self.apps.get_mut(app) else { return VecDeque::new() };
        of_app.workers -= 1;
        if of_app.workers > 0 {
            return VecDeque::new();
        }
        let left = self.apps.remove(app).unwrap_or_default().waiting;
        self.bytes -= left.iter().map(|write| write.content.len()).sum::<usize>();
        left
    }
}

/// One who writes for an app until nothing waits.
struct Worker {
    shared: Arc<Shared>,
    app: AppName,
    is_over: bool,
}

impl Worker {
    fn work(mut self) {
        loop {
            let batch = self.shared.short_writes.take(&self.app);
            if batch.is_empty() {
                self.is_over = true;
                return;
            }
            self.shared.write_batch(batch);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_over {
            // the mesh was closed before it began: what waits is answered when it is dropped
            let left = self.shared.short_writes.0.lock().end_worker(&self.app);
            drop(left);
        }
    }
}

impl Shared {
    /// It is written soon, on a thread for that.
    pub fn write_short(self: &Arc<Self>, runtime: &Handle, write: ShortWrite) {
        let app = write.name.app.clone();
        if self.short_writes.add(write) {
            let worker = Worker { shared: self.clone(), app, is_over: false };
            runtime.spawn_blocking(move || worker.work());
        }
    }

    fn write_batch(self: &Arc<Self>, mut batch: Vec<ShortWrite>) {
        batch.retain(|write| !(write.is_cancelled)());
        let names: Vec<&Name> = batch.iter().map(|write| &write.name).collect();
        let of = |content: &Vec<u8>| Content { id: ContentId::of_block(content), len: content.len() as u64 };
        let contents: Vec<Content> = batch.iter().map(|write| of(&write.content)).collect();
        let (mut dots, mut in_making) = (vec![None; batch.len()], Vec::new());
        let done = together(self, &names, |at, turn| {
            let (dot, making) = self.make()?;
            let mut record = turn.row.record.clone();
            record.write(dot, Some(contents[at]));
            record.put_place(&dot, batch[at].place);
            dots[at] = Some(dot);
            in_making.push(making);
            Ok(Step::Short(record, &batch[at].content, true))
        });
        drop(in_making);
        for ((write, done), dot) in batch.into_iter().zip(done).zip(dots) {
            match (done, dot) {
                (Some(Ok(_)), Some(dot)) => write.owed.pay(Ok(dot)),
                (Some(Err(error)), _) => write.owed.pay(Err(error)),
                _ => self.write_alone(write),
            }
        }
    }

    /// Its turn may be somebody's for long: nobody else waits for that.
    fn write_alone(self: &Arc<Self>, write: ShortWrite) {
        let shared = self.clone();
        let work = move || {
            let ShortWrite { name, content, place, owed, .. } = write;
            owed.pay(shared.write_to(&name, &content, place));
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}
