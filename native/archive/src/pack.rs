//! Packing: one pass from the files to the compressed archive.
//!
//! The calling thread takes items, cuts them into groups of about 4 MiB, hands these to workers and
//! writes their frames in order. Invariant: at most three groups per worker are between item and
//! disk, so memory is bounded by workers, not by files: about 9 MiB for each of these groups and 16
//! MiB per worker, and the compressed manifest (about 80 bytes per entry).

use crate::error::{guarded, io_at, ArchiveError, Result};
use crate::group::{Done, Job, LargeFile, Worker};
use crate::head::{Head, HEAD, MANIFEST};
use crate::header::{self, EntryKind, Meta};
use crate::index::{GroupKind, Index};
use crate::item::{Item, PackOptions, Source, Tree};
use crate::manifest::{ManifestEntry, Remark, Totals};
use crate::plan::Plan;
use crate::slices::SLICE;
use crate::spool::Spool;
use crossbeam_channel::{Receiver, Sender};
use macula_core::{DiskFile, Progress, RelPath, Task};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Entries of each list that [`Packed::remarked`] names.
const REMARKED_MAX: usize = 1000;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Counts of the manifest.
    pub totals: Totals,
    /// Length of the tar, bytes.
    pub bytes_tar: u64,
    /// Length of the archive, bytes.
    pub bytes_out: u64,
    /// BLAKE3 of the manifest, which names everything else.
    pub manifest_blake3: [u8; 32],
    /// Entries that were left out, the first 1,000, then those that changed, vanished or are damaged,
    /// the first 1,000.
    pub remarked: Vec<ManifestEntry>,
}

/// Packs items into `out`, an empty file, from its start. On return the archive is not durable yet:
/// the last sync, and the rename to the archive's name, is the caller's.
///
/// Errors: the iterator's and the tree's own as `Io`, `Cancelled`, `Invalid` options. After an error
/// `out` holds no archive.
pub fn pack(
    items: &mut dyn Iterator<Item = io::Result<Item>>,
    tree: &dyn Tree,
    out: &dyn DiskFile,
    options: &PackOptions,
    task: &Task,
) -> Result<Packed> {
    if !(1..=64).contains(&options.workers) {
        return Err(ArchiveError::Invalid { what: "workers must be 1 to 64", got: options.workers.to_string() });
    }
    let head = head_item(options)?;
    let workers = options.workers;
    let (jobs, taken) = crossbeam_channel::bounded::<(u64, Job)>(workers * 3);
    let (answer, answers) = crossbeam_channel::bounded::<(u64, Result<Done>)>(workers * 3);
    let prefix = options.prefix.as_bytes();
    let shared = Shared { prefix, tree, task, keep_corrupt: options.keep_corrupt, spare: Mutex::default() };
    let shared = &shared;
    // the channels end with the closure, also by an error: then the workers end, and are joined
    std::thread::scope(move |scope| {
        for _ in 0..workers {
            let worker = Worker::new(shared, options.format, options.level)?;
            let (taken, answer) = (taken.clone(), answer.clone());
            let thread = std::thread::Builder::new().name("macula-pack".to_owned());
            let spawned = thread.spawn_scoped(scope, move || serve(worker, &taken, &answer));
            spawned.map_err(io_at("starting a thread", b""))?;
        }
        drop((taken, answer));
        let mut writer = Writer::new(out, options, shared)?;
        let window = workers as u64 * 3;
        let mut plan = Plan::new(head, items, tree);
        writer.drive(&jobs, &answers, window, &mut || plan.next())?;
        writer.remark(plan.left_out())?;
        let mut manifest = writer.manifest_jobs()?;
        writer.drive(&jobs, &answers, window, &mut || manifest.next().transpose())?;
        drop(jobs);
        writer.finish(options)
    })
}

fn serve(mut worker: Worker<'_>, taken: &Receiver<(u64, Job)>, answer: &Sender<(u64, Result<Done>)>) {
    for (number, job) in taken {
        let done = guarded(|| worker.run(job));
        if answer.send((number, done)).is_err() {
            return;
        }
    }
}

/// The head as the first item.
fn head_item(options: &PackOptions) -> Result<Item> {
    let text = Head::of(options)?.text()?;
    let len = text.len() as u64;
    let path = RelPath::new(HEAD).map_err(|error| ArchiveError::Invalid { what: error.reason, got: error.path })?;
    Ok(Item { path, source: Source::Bytes(text), mode: 0o644, mtime_ns: 0, len, token: 0 })
}

/// What workers and writer share.
pub(crate) struct Shared<'a> {
    pub(crate) prefix: &'a [u8],
    pub(crate) tree: &'a dyn Tree,
    pub(crate) task: &'a Task,
    pub(crate) keep_corrupt: bool,
    /// Buffers to be used again: their pages are costly to get anew.
    pub(crate) spare: Mutex<Vec<Vec<u8>>>,
}

struct Writer<'a> {
    out: &'a dyn DiskFile,
    shared: &'a Shared<'a>,
    index: Index,
    manifest: Spool,
    totals: Totals,
    remarked: Vec<ManifestEntry>,
    left_out: Vec<ManifestEntry>,
    bytes_tar: u64,
    bytes_total: u64,
    manifest_blake3: [u8; 32],
}

impl<'a> Writer<'a> {
    fn new(out: &'a dyn DiskFile, options: &PackOptions, shared: &'a Shared<'a>) -> Result<Self> {
        Ok(Self {
            out,
            shared,
            index: Index::default(),
            manifest: Spool::new()?,
            totals: Totals::default(),
            remarked: Vec::new(),
            left_out: Vec::new(),
            bytes_tar: 0,
            bytes_total: options.bytes_total,
            manifest_blake3: [0; 32],
        })
    }

    /// Hands out jobs until there are no more, at most `window` at a time, and writes their results
    /// in order.
    fn drive(
        &mut self,
        jobs: &Sender<(u64, Job)>,
        answers: &Receiver<(u64, Result<Done>)>,
        window: u64,
        next: &mut dyn FnMut() -> Result<Option<Job>>,
    ) -> Result<()> {
        let (mut sent, mut written, mut more) = (0, 0, true);
        let mut early = BTreeMap::new();
        loop {
            while more && sent - written < window {
                self.check_cancelled()?;
                match next()? {
                    Some(job) => {
                        jobs.send((sent, job)).map_err(|_| workers_gone())?;
                        sent += 1;
                    }
                    None => more = false,
                }
                // what is ready is written before more is read
                while let Ok((number, done)) = answers.try_recv() {
                    early.insert(number, done?);
                }
                self.write_ready(&mut early, &mut written)?;
            }
            if written == sent {
                return Ok(());
            }
            let (number, done) = answers.recv().map_err(|_| workers_gone())?;
            self.check_cancelled()?;
            early.insert(number, done?);
            self.write_ready(&mut early, &mut written)?;
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.shared.task.cancel.is_cancelled() {
            Err(ArchiveError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn write_ready(&mut self, early: &mut BTreeMap<u64, Done>, written: &mut u64) -> Result<()> {
        while let Some(done) = early.remove(written) {
            self.write(done)?;
            *written += 1;
        }
        Ok(())
    }

    fn write(&mut self, mut done: Done) -> Result<()> {
        // a group whose files all vanished is empty
        if done.len > 0 {
            self.out.write_all_at(&done.packed, self.index.end()).map_err(io_at("writing the archive", b""))?;
            self.index.push(done.kind, done.packed.len(), done.len);
        }
        self.bytes_tar += done.len as u64;
        self.manifest.push(&done.lines)?;
        self.totals.add(&done.totals);
        self.remarked.append(&mut done.remarked);
        if let Some((large, index, value)) = done.slice {
            if let Some(entry) = large.add(self.shared, index, value, done.short)? {
                self.totals.count(entry.kind, entry.len, entry.remark);
                let mut line = Vec::new();
                entry.write_line(&mut line);
                self.manifest.push(&line)?;
                self.remarked.extend(entry.remark.is_some().then_some(entry));
            }
        }
        self.remarked.truncate(REMARKED_MAX);
        self.shared.spare.lock().push(done.packed);
        self.shared.task.report(Progress {
            entries_done: self.totals.entries,
            bytes_done: self.bytes_tar,
            bytes_total: self.bytes_total,
        });
        Ok(())
    }

    fn remark(&mut self, entries: Vec<ManifestEntry>) -> Result<()> {
        for entry in entries {
            self.totals.count(entry.kind, entry.len, entry.remark);
            let mut line = Vec::new();
            entry.write_line(&mut line);
            self.manifest.push(&line)?;
            let is_left_out = entry.remark.is_some_and(Remark::is_left_out);
            let list = if is_left_out { &mut self.left_out } else { &mut self.remarked };
            if list.len() < REMARKED_MAX {
                list.push(entry);
            }
        }
        Ok(())
    }

    /// The manifest as jobs: header and text in pieces, then the end of the tar.
    fn manifest_jobs(&mut self) -> Result<impl Iterator<Item = Result<Job>>> {
        let mut last = Vec::new();
        self.totals.write_line(&mut last);
        self.manifest.push(&last)?;
        let spool = std::mem::replace(&mut self.manifest, Spool::new()?);
        let (len, hash) = spool.len_and_hash();
        self.manifest_blake3 = *hash.as_bytes();
        let path = [self.shared.prefix, b"/", MANIFEST].concat();
        let meta = Meta { path, kind: EntryKind::File, len, mode: 0o644, mtime_ns: 0, target: Vec::new() };
        let mut start = Vec::new();
        header::write(&mut start, &meta);
        let end = vec![0; header::padding(len) + 2 * header::BLOCK];
        let pieces = std::iter::once(Ok(start)).chain(spool.pieces()?).chain(std::iter::once(Ok(end)));
        Ok(joined(pieces).map(|raw| raw.map(|raw| Job::Raw { kind: GroupKind::Manifest, raw })))
    }

    fn finish(mut self, options: &PackOptions) -> Result<Packed> {
        let index = self.index.encode(options.format);
        let end = self.index.end();
        self.out.write_all_at(&index, end).map_err(io_at("writing the archive", b""))?;
        self.left_out.append(&mut self.remarked);
        Ok(Packed {
            totals: self.totals,
            bytes_tar: self.bytes_tar,
            bytes_out: end + index.len() as u64,
            manifest_blake3: self.manifest_blake3,
            remarked: self.left_out,
        })
    }
}

/// Pieces put together as long as they fit into a slice.
fn joined(pieces: impl Iterator<Item = Result<Vec<u8>>>) -> impl Iterator<Item = Result<Vec<u8>>> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let mut group = match pieces.next()? {
            Ok(piece) => piece,
            error => return Some(error),
        };
        while let Some(Ok(piece)) = pieces.peek() {
            if group.len() + piece.len() > SLICE {
                break;
            }
            group.extend_from_slice(piece);
            pieces.next();
        }
        Some(Ok(group))
    })
}

fn workers_gone() -> ArchiveError {
    ArchiveError::Internal { message: "no worker is left".to_owned() }
}

/// A large file being packed, shared by the jobs of its slices.
pub(crate) type Large = Arc<LargeFile>;
