//! Room for segments that were not begun: made ready, or taken over from released segments, by
//! whoever has time, so that the writer only writes.
//!
//! Invariant: every byte of a spare was written and synced, so that writing it again needs no room on
//! the disk and a sync of it moves data only; its name is durable, its number higher than that of
//! any segment before, also when another was made and begun while it was made.

use crate::segment;
use crate::WalError;
use macula_core::{Disk, DiskFile, Open, RelPath};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Zeros are written in pieces.
const PIECE: usize = 1 << 20;
/// Spares that released segments become; what is more is removed.
const LEN_MAX: usize = 2;
/// Nor do those become spares that are so many times longer than is wanted now.
const FACTOR_MAX: u64 = 8;

/// No segment is made shorter than this, however little room there is, bytes.
const BYTES_MIN: u64 = 16 << 10;

/// Shared by the log's writer and by who makes room for it.
#[derive(Debug)]
pub struct Spares {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By number.
    ready: VecDeque<Spare>,
    /// No file has a higher one.
    number_highest: u64,
    /// The highest that was given to the log: none below it may be begun any more.
    number_taken: u64,
    /// The next one is made this long, bytes.
    size: u64,
}

/// A file that can be begun, or taken over.
#[derive(Debug, Clone)]
pub(crate) struct Spare {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
}

/// Files of segments that a log let go of; see [`crate::Log::release_prefix`].
#[derive(Debug)]
#[must_use]
pub struct Released(pub(crate) Vec<Spare>);

impl Spares {
    pub(crate) fn new(disk: Arc<dyn Disk>, number_highest: u64, size: u64) -> Self {
        Self { disk, state: Mutex::new(State { number_highest, size, ..State::default() }) }
    }

    /// Have one spare ready. Writes and syncs as much as a segment holds: not for a thread that
    /// somebody waits for.
    ///
    /// # Errors
    /// [`WalError::DiskFull`], `Io`: there is no new spare, nothing else changed.
    pub fn refill(&self) -> Result<(), WalError> {
        let (number, size) = {
            let mut state = self.state.lock();
            if !state.ready.is_empty() {
                return Ok(());
            }
            state.number_highest += 1;
            (state.number_highest, state.size)
        };
        let mut spare = self.make(number, size)?;
        while let Some(late) = self.put(spare) {
            spare = self.renumber(late)?;
        }
        Ok(())
    }

    /// Into the row of those that are ready, or back, when its turn is over.
    fn put(&self, spare: Spare) -> Option<Spare> {
        let mut state = self.state.lock();
        if spare.number < state.number_taken {
            return Some(spare);
        }
        let at = state.ready.partition_point(|ready| ready.number < spare.number);
        state.ready.insert(at, spare);
        None
    }

    fn renumber(&self, late: Spare) -> Result<Spare, WalError> {
        let number = {
            let mut state = self.state.lock();
            state.number_highest += 1;
            state.number_highest
        };
        let (path_late, path) = (segment::path(late.number), segment::path(number));
        let renamed = self.disk.rename(&path_late, &path).and_then(|()| self.disk.sync_dir(&RelPath::root()));
        if renamed.is_err() {
            [path_late, path].iter().for_each(|path| self.remove(path));
        }
        renamed.map_err(WalError::io("make room for the log"))?;
        Ok(Spare { number, ..late })
    }

    /// The next spare that has room for `size_min` bytes, made now if none was ready.
    pub(crate) fn take(&self, size_min: u64) -> Result<Spare, WalError> {
        let (number, size) = {
            let mut state = self.state.lock();
            if state.ready.front().is_some_and(|spare| spare.size >= size_min) {
                if let Some(spare) = state.ready.pop_front() {
                    state.number_taken = spare.number;
                    return Ok(spare);
                }
            }
            // a higher number than the spares that are too short: those must not come later
            let short = std::mem::take(&mut state.ready);
            state.number_highest += 1;
            state.number_taken = state.number_highest;
            let made = (state.number_highest, state.size.max(size_min));
            drop(state);
            short.into_iter().for_each(|spare| self.remove(&segment::path(spare.number)));
            made
        };
        self.make_what_fits(number, size, size_min)
    }

    /// As long as there is room for, so that a log can be opened, and take what makes room, on a disk
    /// that is almost full.
    fn make_what_fits(&self, number: u64, mut size: u64, size_min: u64) -> Result<Spare, WalError> {
        loop {
            match self.make(number, size) {
                Err(WalError::DiskFull) if size / 2 >= size_min.max(BYTES_MIN) => size /= 2,
                made => return made,
            }
        }
    }

    /// How long the next one is made, bytes.
    pub(crate) fn set_size(&self, size: u64) {
        self.state.lock().size = size;
    }

    /// How long the next one is made, bytes.
    pub fn next_bytes(&self) -> u64 {
        self.state.lock().size
    }

    /// Take over files that nobody needs any more, under new numbers, or remove them.
    ///
    /// # Errors
    /// `Io`: some of them stay until the log is opened again.
    pub fn recycle(&self, Released(released): Released) -> Result<(), WalError> {
        if released.is_empty() {
            return Ok(());
        }
        let mut renamed = Vec::new();
        let mut last_error = None;
        for old in released {
            let number = {
                let mut state = self.state.lock();
                let fits = (state.size..=state.size.saturating_mul(FACTOR_MAX)).contains(&old.size);
                let wanted = state.ready.len() + renamed.len() < LEN_MAX && fits;
                state.number_highest += u64::from(wanted);
                wanted.then_some(state.number_highest)
            };
            let Some(number) = number else {
                self.remove(&segment::path(old.number));
                continue;
            };
            match self.disk.rename(&segment::path(old.number), &segment::path(number)) {
                Ok(()) => renamed.push(Spare { number, ..old }),
                Err(error) => last_error = Some(error),
            }
        }
        // a spare whose name is not durable could be lost with what was acknowledged in it
        self.disk.sync_dir(&RelPath::root()).map_err(WalError::io("sync the log's directory"))?;
        for mut spare in renamed {
            // numbers may have been taken meanwhile that are above it
            while let Some(late) = self.put(spare) {
                spare = self.renumber(late)?;
            }
        }
        last_error.map_or(Ok(()), |error| Err(WalError::io("recycle a segment of the log")(error)))
    }

    /// Give back the room of all spares.
    pub fn clear(&self) {
        let ready = std::mem::take(&mut self.state.lock().ready);
        ready.into_iter().for_each(|spare| self.remove(&segment::path(spare.number)));
    }

    /// Bytes of the files that wait.
    pub fn bytes(&self) -> u64 {
        self.state.lock().ready.iter().map(|spare| spare.size).sum()
    }

    /// Rubbish costs room only; it is found again when the log is opened.
    fn remove(&self, path: &RelPath) {
        let _ = self.disk.remove_file(path);
    }

    fn make(&self, number: u64, size: u64) -> Result<Spare, WalError> {
        let path = segment::path(number);
        let made = self.disk.open(&path, Open::CreateNew).and_then(|file| {
            let filled = fill(&*file, size).and_then(|()| self.disk.sync_dir(&RelPath::root()));
            if filled.is_err() {
                self.remove(&path);
            }
            filled.map(|()| Spare { number, file, size })
        });
        made.map_err(WalError::io("make room for the log"))
    }
}

/// Written, and not only reserved: the first write into reserved room changes metadata, which the
/// sync behind it would have to wait for.
fn fill(file: &dyn DiskFile, size: u64) -> io::Result<()> {
    file.allocate(size)?;
    let zeros = vec![0; PIECE.min(size as usize)];
    let mut offset = 0;
    while offset < size {
        let len = zeros.len().min((size - offset) as usize);
        file.write_all_at(&zeros[..len], offset)?;
        offset += len as u64;
    }
    file.sync_data()
}
