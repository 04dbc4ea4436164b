//! What the platter has of a directory of SQLite files, beside the real files that everybody sees.
//!
//! Invariant: the model changes together with the real files, under its lock. Names and contents are
//! apart: a deleted file's content can come back as long as no sync of the directory made it gone, and
//! a new file of the same name is another content.

use crate::content::{Change, CrashMode, FileData, PAGE};
use crate::machine::Fault;
use fastrand::Rng;
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{c_int, OsStr, OsString};

/// What a name stands for: durably, and by each change since, in order. `None`: nothing.
#[derive(Debug, Default)]
struct Name {
    durable: Option<u64>,
    pending: Vec<Option<u64>>,
}

impl Name {
    fn live(&self) -> Option<u64> {
        self.pending.last().copied().unwrap_or(self.durable)
    }

    fn after_crash(&self, mode: CrashMode, rng: &mut Rng) -> Option<u64> {
        match mode {
            CrashMode::LoseAll => self.durable,
            CrashMode::KeepAll => self.live(),
            CrashMode::Random(_) => match rng.usize(0..=self.pending.len()) {
                0 => self.durable,
                kept => self.pending[kept - 1],
            },
        }
    }
}

/// How far a write got, and SQLite's code for how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub len: usize,
    pub code: c_int,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    names: BTreeMap<OsString, Name>,
    files: BTreeMap<u64, FileData>,
    handles: BTreeMap<u64, u64>,
    last_file: u64,
    pub steps: Vec<(&'static str, OsString)>,
    pub syncs: BTreeMap<OsString, u64>,
    pub faults: BTreeMap<u64, Fault>,
    pub crashed: bool,
    pub full: bool,
    pub forgets: bool,
    pub capacity: Option<u64>,
}

impl Model {
    /// Count a step and let it meet its fault.
    pub fn step(&mut self, operation: &'static str, name: &OsStr) -> Result<(), Fault> {
        if self.crashed {
            return Err(Fault::Crash);
        }
        self.steps.push((operation, name.to_owned()));
        match self.faults.get(&(self.steps.len() as u64)) {
            Some(Fault::Crash) => {
                self.crashed = true;
                Err(Fault::Crash)
            }
            Some(Fault::Full) => {
                self.full = true;
                Ok(())
            }
            Some(fault) => Err(*fault),
            None => Ok(()),
        }
    }

    /// The content that a name stands for.
    pub fn find(&self, name: &OsStr) -> Option<u64> {
        self.names.get(name).and_then(Name::live)
    }

    /// A file that was there before anybody watched.
    pub fn adopt(&mut self, name: &OsStr, bytes: &[u8]) -> u64 {
        let mut data = FileData::default();
        data.change(Change::Write { offset: 0, bytes: bytes.to_vec() });
        data.sync();
        let file = self.add(data);
        self.names.insert(name.to_owned(), Name { durable: Some(file), pending: Vec::new() });
        file
    }

    /// A new empty file, whose name is not durable yet.
    pub fn create(&mut self, name: &OsStr) -> u64 {
        let file = self.add(FileData::default());
        self.names.entry(name.to_owned()).or_default().pending.push(Some(file));
        file
    }

    fn add(&mut self, data: FileData) -> u64 {
        self.last_file += 1;
        self.files.insert(self.last_file, data);
        self.last_file
    }

    /// The name is gone, not durably.
    pub fn delete(&mut self, name: &OsStr) {
        self.names.entry(name.to_owned()).or_default().pending.push(None);
    }

    /// A sync of the directory.
    pub fn sync_names(&mut self) {
        if self.forgets {
            return;
        }
        for name in self.names.values_mut() {
            name.durable = name.live();
            name.pending.clear();
        }
    }

    /// A handle was opened.
    pub fn hold(&mut self, file: u64) {
        *self.handles.entry(file).or_default() += 1;
    }

    /// A handle was closed.
    pub fn release(&mut self, file: u64) {
        if let Some(handles) = self.handles.get_mut(&file) {
            *handles -= 1;
        }
    }

    /// Bytes of the files that have a name or a handle.
    pub fn used(&self) -> u64 {
        let named: Vec<u64> = self.names.values().filter_map(Name::live).collect();
        let held = |file: &u64| self.handles.get(file).is_some_and(|handles| *handles > 0);
        let takes_room = self.files.iter().filter(|(file, _)| named.contains(file) || held(file));
        takes_room.map(|(_, data)| (data.live.pages.len() * PAGE) as u64).sum()
    }

    /// A write of a file with a name; `None` for one that no crash leaves.
    pub fn write(&mut self, file: Option<u64>, name: &OsStr, offset: u64, bytes: &[u8]) -> Written {
        let (mut len, mut code) = match self.step("write", name) {
            Ok(()) => (bytes.len(), ffi::SQLITE_OK),
            Err(Fault::Crash) => return Written { len: 0, code: ffi::SQLITE_IOERR_WRITE },
            Err(_) => (bytes.len() / 2, ffi::SQLITE_IOERR_WRITE),
        };
        let free = match (self.full, self.capacity) {
            (true, _) => 0,
            (false, None) => u64::MAX,
            (false, Some(capacity)) => capacity.saturating_sub(self.used()) / PAGE as u64,
        };
        let Some(data) = file.and_then(|file| self.files.get_mut(&file)) else {
            return Written { len, code };
        };
        let room = data.live.writable(offset, len, free);
        if room < len {
            (len, code) = (room, ffi::SQLITE_FULL);
        }
        if len > 0 {
            data.change(Change::Write { offset, bytes: bytes[..len].to_vec() });
        }
        Written { len, code }
    }

    /// A truncation of a file with a name. SQLite's code.
    pub fn truncate(&mut self, file: Option<u64>, name: &OsStr, len: u64) -> c_int {
        if self.step("truncate", name).is_err() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        if let Some(data) = file.and_then(|file| self.files.get_mut(&file)) {
            data.change(Change::Len(len));
        }
        ffi::SQLITE_OK
    }

    /// A sync of a file, and of the directory when it is the first of a log or journal. SQLite's code.
    pub fn sync(&mut self, file: Option<u64>, name: &OsStr, names_too: &mut bool) -> c_int {
        let fault = self.step("sync", name);
        let Some(data) = file.and_then(|file| self.files.get_mut(&file)) else {
            return if fault.is_ok() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_FSYNC };
        };
        match fault {
            Err(Fault::Crash) => return ffi::SQLITE_IOERR_FSYNC,
            Err(_) => {
                data.fail_sync();
                return ffi::SQLITE_IOERR_FSYNC;
            }
            Ok(()) if self.forgets => {}
            Ok(()) => data.sync(),
        }
        *self.syncs.entry(name.to_owned()).or_default() += 1;
        if std::mem::take(names_too) {
            self.sync_names();
        }
        ffi::SQLITE_OK
    }

    /// Names and contents that a power loss may leave.
    pub fn crashed_files(&self, mode: CrashMode) -> Vec<(OsString, Vec<u8>)> {
        let mut rng = Rng::with_seed(if let CrashMode::Random(seed) = mode { seed } else { 0 });
        let mut left = Vec::new();
        for (name, stands_for) in &self.names {
            let Some(data) = stands_for.after_crash(mode, &mut rng).and_then(|file| self.files.get(&file)) else {
                continue;
            };
            let content = data.crashed(mode, &mut rng);
            let mut bytes = vec![0; content.len as usize];
            content.read_at(&mut bytes, 0);
            left.push((name.clone(), bytes));
        }
        left
    }
}
