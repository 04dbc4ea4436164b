//! Backups: one instant of an app, as one verified archive.
//!
//! The instant is pinned in all engines under the closed gate, which takes milliseconds; copying and
//! compressing follow while the app goes on. The archive is written under a hidden name, synced,
//! read back and compared, and only then given its own name: what lists as a backup is one.
//! Invariant: a hidden name is one call's alone, so what is published is what that call wrote.

use crate::backup_name::BackupName;
use crate::dest::refuse_destination;
use crate::layout::BACKUPS;
use crate::pack::Pack;
use crate::restore::machine_dir;
use crate::swap::rubbish::set_aside;
use crate::tree::Scratch;
use crate::{App, Base, StoreError};
use macula_archive::UnpackOptions;
use macula_core::{remove_tree, AppName, Chance, Disk, Open, RelPath, Task};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.tar.zst`
    #[default]
    Zst,
    /// `.tar.gz`
    Gz,
}

impl Format {
    /// How file names of that format end.
    pub fn suffix(self) -> &'static str {
        self.of_archive().extension()
    }

    /// The format of a suffix.
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        [Format::Zst, Format::Gz].into_iter().find(|format| format.suffix() == suffix)
    }

    pub(crate) fn of_archive(self) -> macula_archive::Format {
        match self {
            Format::Zst => macula_archive::Format::Zst,
            Format::Gz => macula_archive::Format::Gz,
        }
    }
}

/// How a backup or archive is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupOptions {
    /// Compression.
    pub format: Format,
    /// Its level; `None`: the format's default.
    pub level: Option<i32>,
    /// `cache/` as well.
    pub cache: bool,
    /// Read the archive back and compare before it gets its name.
    pub verify: bool,
    /// Replace what is at the destination.
    pub overwrite: bool,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { format: Format::Zst, level: None, cache: false, verify: true, overwrite: false }
    }
}

/// A backup as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// File name.
    pub name: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Bytes of the archive.
    pub bytes: u64,
    /// When its instant was, microseconds since 1970.
    pub at_us: u64,
    /// Whether it was read back and compared; `None` when the disk keeps no such mark.
    pub verified: Option<bool>,
    /// Entries; 0 in listings, which open no archive.
    pub entries: u64,
    /// Bytes before compression; 0 in listings.
    pub bytes_in: u64,
    /// Entries that other programs changed while they were read.
    pub changed: u64,
    /// What could not be archived, and why.
    pub left_out: Vec<String>,
}

/// The extended attribute that says that an archive was read back: the length it had.
const VERIFIED: &str = "verified";

impl Base {
    /// Back the app up into `backups/`.
    pub fn backup(
        self: &Arc<Self>,
        name: &AppName,
        options: &BackupOptions,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        let dir = self.layout.absolute(&RelPath::literal(BACKUPS));
        let app = self.existing_app(name)?;
        let _turn = app.turns().archive(task)?;
        let mut at_us = self.seams.clock.wall_ms() * 1000;
        loop {
            let dest = dir.join(BackupName::new(name, at_us, options.format).to_string());
            match self.write_archive(&app, &dest, options, at_us, task) {
                // two backups in one instant of the clock: the next microsecond is free
                Err(StoreError::Exists(_)) => at_us += 1,
                result => return result,
            }
        }
    }

    /// Archive the app to `dest`, a path on the machine.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when something is there and `overwrite` was not asked for.
    pub fn archive(
        self: &Arc<Self>,
        name: &AppName,
        dest: &Path,
        options: &BackupOptions,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        refuse_destination(&self.layout, dest)?;
        let app = self.existing_app(name)?;
        let _turn = app.turns().archive(task)?;
        self.write_archive(&app, dest, options, self.seams.clock.wall_ms() * 1000, task)
    }

    fn write_archive(
        &self,
        app: &App,
        dest: &Path,
        options: &BackupOptions,
        at_us: u64,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        let (dir, file_name) = machine_dir(dest)?;
        if !options.overwrite && dir.stat(&file_name).is_ok() {
            return Err(StoreError::Exists(dest.to_owned()));
        }
        let scratch = self.scratch(app.name())?;
        let pack = Pack { app, scratch: &scratch, options, at_us, task };
        let result = write_archive(&pack, &dir, &file_name, dest, &*self.seams.chance);
        // scratch copies of a failed archive are set aside by the next one at the latest
        let _ = remove_tree(&*self.disk, &scratch_path(app.name())?);
        result
    }

    /// A fresh scratch directory. One archive of an app is made at a time.
    fn scratch(&self, name: &AppName) -> Result<Arc<Scratch>, StoreError> {
        self.set_backup_leftovers_aside(name)?;
        let path = scratch_path(name)?;
        let at = self.layout.absolute(&path);
        let failed = |e| StoreError::io("create", &at, e);
        self.disk.create_dir(&path).map_err(failed)?;
        let disk = self.disk.subtree(&path).map_err(failed)?;
        Ok(Arc::new(Scratch { disk, path: at.clone() }))
    }

    /// What interrupted backups of this app left behind becomes rubbish. Nothing of it is in use: one
    /// archive of an app is made at a time, by the process that owns it.
    pub(crate) fn set_backup_leftovers_aside(&self, name: &AppName) -> Result<(), StoreError> {
        let dir = RelPath::literal(BACKUPS);
        for entry in self.disk.list(&dir).unwrap_or_default() {
            let Some(of) = entry.name.to_str().and_then(PartialName::parse) else { continue };
            if BackupName::parse(name, of.stem).is_some() {
                set_aside(self, name, &dir.join(entry.name.as_bytes())?)?;
            }
        }
        set_aside(self, name, &scratch_path(name)?)
    }

    /// The app's backups, newest first.
    pub fn backups(&self, name: &AppName) -> Result<Vec<BackupInfo>, StoreError> {
        let dir = RelPath::literal(BACKUPS);
        let at = self.layout.absolute(&dir);
        let entries = self.disk.list(&dir).map_err(|e| StoreError::io("list", &at, e))?;
        let names = entries.iter().filter_map(|entry| BackupName::parse(name, entry.name.to_str()?));
        let mut names: Vec<_> = names.collect();
        names.sort_by(|a, b| b.cmp(a));
        Ok(names.iter().filter_map(|backup| self.backup_info(backup)).collect())
    }

    fn backup_info(&self, backup: &BackupName) -> Option<BackupInfo> {
        let path = RelPath::literal(BACKUPS).join(backup.to_string()).ok()?;
        let file = self.disk.open(&path, Open::Read).ok()?;
        let bytes = file.len().ok()?;
        let mark = file.tag(VERIFIED).ok().flatten();
        Some(BackupInfo {
            name: backup.to_string(),
            path: self.layout.absolute(&path),
            bytes,
            at_us: backup.at_us,
            verified: mark.map(|mark| mark == bytes.to_le_bytes()),
            entries: 0,
            bytes_in: 0,
            changed: 0,
            left_out: Vec::new(),
        })
    }
}

/// Pack under a hidden name, sync, read back, and give the archive its own name.
fn write_archive(
    pack: &Pack,
    dir: &dyn Disk,
    name: &RelPath,
    dest: &Path,
    chance: &dyn Chance,
) -> Result<BackupInfo, StoreError> {
    let failed = |verb| move |e: io::Error| StoreError::io(verb, dest, e);
    let partial = Partial::new(dir, name, chance)?;
    let file = dir.open(partial.path(), Open::CreateNew).map_err(failed("create"))?;
    let done = pack.run(&*file, name)?;
    file.set_mode(0o600).and_then(|()| file.sync_data()).map_err(failed("sync"))?;
    let bytes = file.len().map_err(failed("read"))?;
    if pack.options.verify {
        let archive = dir.open(partial.path(), Open::Read).map_err(failed("read back"))?;
        macula_archive::verify(&archive, &UnpackOptions::default(), pack.task)?;
        // a disk without extended attributes keeps no mark: the listing then says so
        if file.set_tag(VERIFIED, &bytes.to_le_bytes()).is_ok() {
            file.sync_data().map_err(failed("sync"))?;
        }
    }
    partial.publish(name, pack.options.overwrite).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Exists(dest.to_owned()),
        _ => failed("name")(error),
    })?;
    Ok(BackupInfo {
        name: name.to_string(),
        path: dest.to_owned(),
        bytes,
        at_us: pack.at_us,
        verified: Some(pack.options.verify),
        entries: done.totals.entries,
        bytes_in: done.totals.bytes,
        changed: done.totals.changed,
        left_out: done.left_out,
    })
}

fn scratch_path(name: &AppName) -> Result<RelPath, StoreError> {
    Ok(RelPath::literal(BACKUPS).join(format!(".scratch-{name}"))?)
}

/// A file that is written under a hidden name of its own until it is whole. Dropped, it leaves nothing
/// under that name.
pub(crate) struct Partial<'a> {
    dir: &'a dyn Disk,
    path: RelPath,
    number: u64,
}

/// The numbers of this process's own: a process id comes again, after a restart in a container always.
static IN_USE: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// `.<stem>.<pid>-<number>.partial`
struct PartialName<'a> {
    stem: &'a str,
    pid: i32,
    number: u64,
}

impl<'a> Partial<'a> {
    /// A name for what is to become `name` in `dir`; what dead processes left on the same way goes.
    pub fn new(dir: &'a dyn Disk, name: &RelPath, chance: &dyn Chance) -> Result<Self, StoreError> {
        // the longest name of a file, without what is put around it here
        const STEM_LEN_MAX: usize = 255 - ".".len() - ".4294967295-0123456789abcdef.partial".len();
        let mut stem = name.to_string();
        while stem.len() > STEM_LEN_MAX {
            stem.pop();
        }
        remove_dead(dir, &stem);
        let number = chance.next_u64();
        let path = RelPath::new(format!(".{stem}.{}-{number:016x}.partial", std::process::id()))?;
        IN_USE.lock().insert(number);
        Ok(Self { dir, path, number })
    }

    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Give the finished file its name, without ever replacing another unless asked to.
    pub fn publish(self, name: &RelPath, overwrite: bool) -> io::Result<()> {
        if overwrite {
            self.dir.rename(&self.path, name)?;
            return self.dir.sync_dir(&RelPath::root());
        }
        match self.dir.hard_link(&self.path, name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // a file system without hard links (vfat)
            Err(_) if self.dir.stat(name).is_err() => self.dir.rename(&self.path, name)?,
            Err(error) => return Err(error),
        }
        self.dir.sync_dir(&RelPath::root())
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        // also after it was published: a second name that stays is rubbish, no failure
        let _ = self.dir.remove_file(&self.path);
        IN_USE.lock().remove(&self.number);
    }
}

impl<'a> PartialName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (stem, who) = name.strip_prefix('.')?.strip_suffix(".partial")?.rsplit_once('.')?;
        let (pid, number) = who.split_once('-')?;
        let number = (number.len() == 16).then(|| u64::from_str_radix(number, 16).ok()).flatten()?;
        Some(Self { stem, pid: pid.parse().ok()?, number })
    }

    fn is_in_use(&self) -> bool {
        if self.pid as u32 == std::process::id() {
            return IN_USE.lock().contains(&self.number);
        }
        let alive = |pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
        rustix::process::Pid::from_raw(self.pid).is_some_and(alive)
    }
}

fn remove_dead(dir: &dyn Disk, stem: &str) {
    for entry in dir.list(&RelPath::root()).unwrap_or_default() {
        let partial = entry.name.to_str().and_then(PartialName::parse);
        if partial.is_some_and(|partial| partial.stem == stem && !partial.is_in_use()) {
            if let Ok(path) = RelPath::new(entry.name.as_bytes()) {
                let _ = dir.remove_file(&path);
            }
        }
    }
}
