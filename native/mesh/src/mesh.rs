//! Replicated files, for callers who must not wait: a handle on threads of its own.
//!
//! Invariant: a call that was begun ends in one callback, also when the mesh is closed meanwhile. Callbacks run on
//! our threads.

use crate::care::Cared;
use crate::carrier::{Carrier, Links, MESSAGE_LEN_MAX};
use crate::events::{Listening, Wish};
use crate::local::{Page, Stat, Writing};
use crate::placement::Class;
use crate::reading::Reading;
use crate::record::{Dot, Record, Version};
use crate::refusals::Refusal;
use crate::rounds::{Rounds, Scrubbed};
use crate::scan::Scanned;
use crate::serve::Door;
use crate::shared::{Options, Seams, Shared};
use crate::short_writes::ShortWrite;
use crate::waiters::Waiter;
use crate::watch::Watched;
use crate::{care, fetch, peers, rounds, unsynced, watch, MeshError, Name, BLOCK_LEN};
use bytes::Bytes;
use macula_core::{AppName, Cancel, RelPath, Task};
use macula_net::Net;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// Threads for what waits for the disk.
const DISK_THREADS: usize = 32;
/// Calls that wait for one of them, at most.
const WORK_MAX: usize = 4096;
/// For what is under way when the mesh is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How many others must have a version, durably, before its writer hears `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// None.
    Local,
    /// So many.
    Others(usize),
    /// So many that with this one they are more than half of those that shall have it.
    Quorum,
    /// All that shall have it.
    All,
}

/// Replicated files.
pub struct Mesh {
    /// Nothing from the moment on when it is closed.
    runtime: Mutex<Option<Runtime>>,
    shared: Arc<Shared>,
    waiting: Arc<AtomicUsize>,
}

/// One of those that wait to be done.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The version that was made.
    pub dot: Dot,
    /// Others that have it.
    pub replicas: usize,
}

/// How the mesh is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This replica's number.
    pub replica: u64,
    /// Members that can be asked now, by name.
    pub peers: Vec<String>,
    /// Changes that wait to be told to others.
    pub untold: usize,
    /// Files of which content is on its way here, or waits for somebody who has it.
    pub fetching: usize,
    /// Of those, files that nobody who is there could be had from; they are tried again.
    pub failed: usize,
    /// Bytes of messages since it was opened.
    pub sent: u64,
    /// And that came.
    pub received: u64,
    /// What others sent or said and was refused.
    pub refused: Vec<Refusal>,
    /// As of the last look at all files.
    pub cared: Cared,
    /// What other programs do is found at once there.
    pub watched: Watched,
    /// Of scrubs that go by themselves.
    pub rounds: Rounds,
}

/// An answer that is owed: closed, when its task is dropped.
pub(crate) struct Owed<T>(Option<Answer<T>>);

type Answer<T> = Box<dyn FnOnce(Result<T, MeshError>) + Send>;

impl<T> Owed<T> {
    pub fn new(answer: impl FnOnce(Result<T, MeshError>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    pub fn pay(mut self, result: Result<T, MeshError>) {
        if let Some(reply) = self.0.take() {
            reply(result);
        }
    }
}

impl<T> Drop for Owed<T> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(MeshError::Closed));
        }
    }
}

impl Mesh {
    /// Open the replicated files of this node. Blocks: for threads that may wait.
    ///
    /// # Errors
    /// [`MeshError::NewerFormat`]; [`MeshError::Index`].
    pub fn open(seams: Seams, options: Options) -> Result<Self, MeshError> {
        let shared = Shared::open(seams, options)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(DISK_THREADS).thread_name("macula-mesh").enable_all();
        let runtime = builder.build().map_err(|error| MeshError::Internal(format!("no threads: {error}")))?;
        let of = shared.clone();
        runtime.spawn_blocking(move || of.finish_pending());
        let of = shared.clone();
        // a peer that comes would wait for them; of an index that fails it is told why
        runtime.spawn_blocking(move || drop(of.fingerprints.make(&of.index)));
        runtime.spawn(fetch::keep(shared.clone()));
        runtime.spawn(care::keep(shared.clone()));
        runtime.spawn(rounds::keep(shared.clone()));
        runtime.spawn(unsynced::keep(shared.clone()));
        if shared.options.watch {
            runtime.spawn(watch::keep(shared.clone()));
        }
        Ok(Self { runtime: Mutex::new(Some(runtime)), shared, waiting: Arc::default() })
    }

    /// Do something that blocks, on a thread for that.
    ///
    /// # Errors
    /// [`MeshError::Busy`], [`MeshError::Closed`]: it is not done.
    pub fn work(&self, job: impl FnOnce() + Send + 'static) -> Result<(), MeshError> {
        let runtime = self.handle().ok_or(MeshError::Closed)?;
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel);
        let place = Place(self.waiting.clone());
        if waiting >= WORK_MAX {
            return Err(MeshError::Busy);
        }
        runtime.spawn_blocking(move || {
            let _place = place;
            job();
        });
        Ok(())
    }

    /// Where its tasks run.
    pub fn handle(&self) -> Option<Handle> {
        self.runtime.lock().as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Reach the others by this carrier from now on. Once.
    pub fn carry(&self, carrier: Arc<dyn Carrier>) {
        if let Some(runtime) = self.handle() {
            runtime.spawn(peers::keep(self.shared.clone(), carrier));
        }
    }

    /// Reach the others by links of this net.
    pub fn link(&self, net: Net) {
        if let Some(runtime) = self.handle() {
            self.carry(Arc::new(Links::new(Net { runtime, ..net })));
        }
    }

    /// Who answers other members on their links.
    pub fn door(&self) -> Option<Arc<Door>> {
        let runtime = self.handle()?;
        Some(Arc::new(Door { shared: self.shared.clone(), runtime }))
    }

    /// Answer a request of the member `from`, which came by a carrier.
    pub fn serve(&self, from: &str, request: Bytes, reply: impl FnOnce(Vec<u8>) + Send + 'static) {
        if let Some(runtime) = self.handle() {
            let (shared, from) = (self.shared.clone(), from.to_owned());
            runtime.spawn(async move { reply(shared.serve(&from, &request).await) });
        }
    }

    /// The same, of whoever `from` is by the word of an application that carries requests itself: an error is of one that
    /// is no other member, or of a request that is too long. `reply` is called once, or dropped when the mesh is closed
    /// meanwhile.
    pub fn answer(&self, from: &str, request: Bytes, reply: impl FnOnce(Result<Vec<u8>, MeshError>) + Send + 'static) {
        let members = &self.shared.members;
        if from == members.own() || !members.members().iter().any(|member| member.name == from) {
            return reply(Err(MeshError::Invalid(format!("{from} is no other member of this cluster"))));
        }
        if request.len() > MESSAGE_LEN_MAX {
            return reply(Err(MeshError::Invalid(format!("a request of {} bytes", request.len()))));
        }
        self.serve(from, request, move |answer| reply(Ok(answer)));
    }

    /// Hear of what is refused of other members, from now on: of each once a minute at most. On a thread of the mesh,
    /// which may not wait.
    pub fn hear_refusals(&self, listener: impl Fn(&Refusal) + Send + Sync + 'static) {
        self.shared.refusals.listen(listener);
    }

    /// Begin to write a file. Blocks.
    pub fn writing(&self, name: &Name) -> Result<Writing, MeshError> {
        self.shared.writing(name)
    }

    /// Write a whole file, durable here. Blocks.
    pub fn write(&self, name: &Name, bytes: &[u8]) -> Result<Dot, MeshError> {
        self.shared.write(name, bytes)
    }

    /// Whether so many bytes are short, and not too many wait: then [`Mesh::write_short`] has them written with less work.
    pub fn takes_short(&self, len: usize) -> bool {
        self.shared.short_writes.takes(len)
    }

    /// Write a whole short file, to lie at so many others, on such disks, together with others that come now. `reply` is
    /// called once: the version is durable here. One that `is_cancelled` before it is begun is not done.
    pub fn write_short(
        &self,
        (name, content): (Name, Vec<u8>),
        (copies, class): (Option<u8>, Option<Class>),
        is_cancelled: impl Fn() -> bool + Send + 'static,
        reply: impl FnOnce(Result<Dot, MeshError>) + Send + 'static,
    ) {
        let owed = Owed::new(reply);
        let Some(runtime) = self.handle() else { return owed.pay(Err(MeshError::Closed)) };
        let place = self.shared.place_for(&name, copies, class);
        let write = ShortWrite { name, content, place, is_cancelled: Box::new(is_cancelled), owed };
        self.shared.write_short(&runtime, write);
    }

    /// Delete a file, durably here. Blocks.
    pub fn delete(&self, name: &Name) -> Result<Dot, MeshError> {
        self.shared.delete(name)
    }

    /// Let a file have, instead of all its versions, the content of one of them that is here. Blocks.
    pub fn resolve(&self, name: &Name, chosen: Dot) -> Result<Dot, MeshError> {
        self.shared.resolve(name, chosen)
    }

    /// Give a file's content, which is here, to another name too. Blocks.
    pub fn copy(&self, from: &Name, to: &Name) -> Result<Dot, MeshError> {
        self.shared.copy(from, to)
    }

    /// Give a file another name; the versions that were made of the new one and of the former. Blocks.
    ///
    /// # Errors
    /// [`MeshError::Changed`]: it was written meanwhile, and has both names.
    pub fn rename(&self, from: &Name, to: &Name) -> Result<(Dot, Dot), MeshError> {
        self.shared.rename(from, to)
    }

    /// What is known of a file. Blocks.
    pub fn stat(&self, name: &Name) -> Result<Stat, MeshError> {
        self.shared.stat(name)
    }

    /// What is known of a file, as others are told it. Blocks.
    pub fn record(&self, name: &Name) -> Result<Record, MeshError> {
        self.shared.record(name)
    }

    /// The versions of a file that nothing replaced, the one it shows first. Blocks.
    pub fn versions(&self, name: &Name) -> Result<Vec<Version>, MeshError> {
        self.shared.versions(name)
    }

    /// Versions of a file that were replaced or deleted and are kept here, the last first: they are read, and resolved
    /// to, by their dots. Blocks.
    pub fn former(&self, name: &Name) -> Result<Vec<Version>, MeshError> {
        self.shared.former(name)
    }

    /// Whether all that a replica made up to a version was seen here, of all files.
    pub fn has_seen_all_to(&self, dot: &Dot) -> bool {
        self.shared.floor.lock().has(dot)
    }

    /// Files of an app at or below `prefix` whose names come after `after`, at most `limit`. Blocks.
    pub fn list(
        &self,
        app: &AppName,
        prefix: Option<&RelPath>,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Result<Page, MeshError> {
        let is_shown = |record: &Record| record.winner().is_some_and(|version| version.content.is_some());
        self.shared.list(app, (prefix, after), limit, is_shown)
    }

    /// As [`Mesh::list`], names of more than one version: contents that nothing replaced and the name does not show.
    /// Blocks.
    pub fn conflicts(
        &self,
        app: &AppName,
        prefix: Option<&RelPath>,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Result<Page, MeshError> {
        self.shared.list(app, (prefix, after), limit, |record| record.losers().next().is_some())
    }

    /// Read all files that this replica has, and compare, with a pause after each. `reply` is called once, also when the
    /// mesh is closed meanwhile.
    pub fn scrub(&self, pause: Duration, task: Task, reply: impl FnOnce(Result<Scrubbed, MeshError>) + Send + 'static) {
        let (shared, owed) = (self.shared.clone(), Owed::new(reply));
        match self.handle() {
            Some(runtime) => drop(runtime.spawn(async move { owed.pay(shared.scrub(pause, &task).await) })),
            None => owed.pay(Err(MeshError::Closed)),
        }
    }

    /// Look for what other programs did to the files of an app. With `deletions`, all that is missing was deleted. Blocks.
    pub fn scan(&self, app: &AppName, deletions: bool, cancel: &Cancel) -> Result<Scanned, MeshError> {
        self.shared.scan(app, deletions, cancel)
    }

    /// Hear of what happens to files without their doing; `wake` is called when there is something to read, and must be
    /// quick.
    pub fn listen(&self, wish: Wish, wake: impl Fn() + Send + Sync + 'static) -> Listening {
        self.shared.listeners.listen(wish, wake)
    }

    /// Wait until so many others have a version; not told: one other, where others shall have it. `reply` is called once.
    /// Reads the index before it waits.
    pub fn acknowledged(
        &self,
        name: &Name,
        dot: Dot,
        ack: Option<Ack>,
        deadline: Duration,
        reply: impl FnOnce(Result<Written, MeshError>) + Send + 'static,
    ) {
        if ack == Some(Ack::Local) {
            return reply(Ok(Written { dot, replicas: 0 }));
        }
        let Some(runtime) = self.handle() else { return reply(Err(MeshError::Closed)) };
        let (shared, waiter) = (self.shared.clone(), Waiter::enroll(&self.shared, name));
        let missing = match shared.record(name).map(|record| shared.replicated(name, &record, dot, ack)) {
            Ok(Err(missing)) => missing,
            Ok(Ok(written)) => return reply(Ok(written)),
            Err(error) => return reply(Err(error)),
        };
        runtime.spawn(async move { reply(shared.acknowledged(waiter, (dot, ack), deadline, missing).await) });
    }

    /// Open a version, or the one that the name shows, to be read by [`Mesh::read_part`]. Blocks.
    pub fn reading(&self, name: &Name, chosen: Option<Dot>) -> Result<Reading, MeshError> {
        self.shared.reading(name, chosen)
    }

    /// At most `len` bytes (a mebibyte at most) from an offset, from here or from whoever has it; none at its end.
    /// `reply` is called once.
    pub fn read_part(
        &self,
        reading: &Arc<Reading>,
        (offset, len): (u64, usize),
        reply: impl FnOnce(Result<Vec<u8>, MeshError>) + Send + 'static,
    ) {
        let (shared, reading) = (self.shared.clone(), reading.clone());
        match self.handle() {
            Some(runtime) => {
                let len = len.min(4 * BLOCK_LEN);
                drop(runtime.spawn(async move { reply(shared.read_part(&reading, offset, len).await) }));
            }
            None => reply(Err(MeshError::Closed)),
        }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let Shared { peers, fetches, .. } = &*self.shared;
        let names = peers.here().iter().map(|peer| peer.name.clone()).collect();
        let (untold, cared, rounds) = (peers.waiting(), *self.shared.cared.lock(), self.shared.rounds.lock().clone());
        let watched = *self.shared.watched.lock();
        let ((fetching, failed), (sent, received)) = (fetches.waiting(), self.shared.traffic.counts());
        Status {
            replica: self.shared.own(),
            peers: names,
            untold,
            fetching,
            failed,
            sent,
            received,
            refused: self.shared.refusals.all(),
            cared,
            watched,
            rounds,
        }
    }

    /// Stop, and make the index durable. Blocks.
    pub fn close(&self) {
        let taken = self.runtime.lock().take();
        let Some(runtime) = taken else { return };
        {
            let _entered = runtime.enter();
            self.shared.peers.close();
        }
        match Handle::try_current() {
            // the last who had it is a task, which must not wait for tasks
            Ok(_) => runtime.shutdown_background(),
            Err(_) => runtime.shutdown_timeout(CLOSE_WAIT),
        }
        self.shared.listeners.close();
        // what is not synced now is put again by the next process, if need be
        let _ = self.shared.sync_short();
        self.shared.index.close();
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.close();
    }
}
