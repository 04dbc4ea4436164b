//! Backups: one instant of an app, as one verified archive.
//!
//! The instant is pinned in all engines under the closed gate, which takes milliseconds; copying and
//! compressing follow while the app goes on. The archive is written under a hidden name, synced,
//! read back and compared, and only then given its own name: what lists as a backup is one.

use crate::backup_name::BackupName;
use crate::layout::BACKUPS;
use crate::pack::{Done, Pack};
use crate::restore::machine_dir;
use crate::tree::Scratch;
use crate::{App, Base, StoreError};
use macula_archive::UnpackOptions;
use macula_core::{create_dir_all, remove_tree, AppName, Disk, Open, RelPath, Task};
use serde::{Deserialize, Serialize};
use std::io;
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
        let result = write_archive(&pack, &dir, &file_name, dest);
        // scratch copies of a failed archive are removed by the next one at the latest
        let _ = remove_tree(&*self.disk, &scratch_path(app.name())?);
        result
    }

    /// A fresh scratch directory. One archive of an app is made at a time.
    fn scratch(&self, name: &AppName) -> Result<Arc<Scratch>, StoreError> {
        let path = scratch_path(name)?;
        let at = self.layout.absolute(&path);
        let failed = |e| StoreError::io("create", &at, e);
        remove_tree(&*self.disk, &path).map_err(failed)?;
        self.remove_partials(name);
        create_dir_all(&*self.disk, &path).map_err(failed)?;
        let disk = self.disk.subtree(&path).map_err(failed)?;
        Ok(Arc::new(Scratch { disk, path: at.clone() }))
    }

    /// What interrupted backups of this app left behind.
    fn remove_partials(&self, name: &AppName) {
        let dir = RelPath::literal(BACKUPS);
        for entry in self.disk.list(&dir).unwrap_or_default() {
            let partial = entry.name.to_str().and_then(|n| n.strip_prefix('.')?.strip_suffix(".partial"));
            if partial.is_some_and(|partial| BackupName::parse(name, partial).is_some()) {
                if let Ok(path) = dir.join(entry.name.to_str().unwrap_or_default()) {
                    let _ = self.disk.remove_file(&path);
                }
            }
        }
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
fn write_archive(pack: &Pack, dir: &dyn Disk, name: &RelPath, dest: &Path) -> Result<BackupInfo, StoreError> {
    let failed = |verb| move |e: io::Error| StoreError::io(verb, dest, e);
    let partial = RelPath::new(format!(".{name}.partial"))?;
    remove_leftover(dir, &partial).map_err(failed("clear the way for"))?;
    let write = || -> Result<(Done, u64), StoreError> {
        let file = dir.open(&partial, Open::CreateNew).map_err(failed("create"))?;
        let done = pack.run(&*file, name)?;
        file.set_mode(0o600).and_then(|()| file.sync_data()).map_err(failed("sync"))?;
        let bytes = file.len().map_err(failed("read"))?;
        if pack.options.verify {
            let archive = dir.open(&partial, Open::Read).map_err(failed("read back"))?;
            macula_archive::verify(&archive, &UnpackOptions::default(), pack.task)?;
            // a disk without extended attributes keeps no mark: the listing then says so
            if file.set_tag(VERIFIED, &bytes.to_le_bytes()).is_ok() {
                file.sync_data().map_err(failed("sync"))?;
            }
        }
        publish(dir, &partial, name, pack.options.overwrite).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(dest.to_owned()),
            _ => failed("name")(error),
        })?;
        Ok((done, bytes))
    };
    let (done, bytes) = write().inspect_err(|_| {
        let _ = dir.remove_file(&partial);
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

/// Give the finished archive its name, without ever replacing another unless asked to.
pub(crate) fn publish(dir: &dyn Disk, partial: &RelPath, name: &RelPath, overwrite: bool) -> io::Result<()> {
    if overwrite {
        dir.rename(partial, name)?;
        return dir.sync_dir(&RelPath::root());
    }
    match dir.hard_link(partial, name) {
        Ok(()) => {
            // published: a second name that stays is rubbish, no failure
            let _ = dir.remove_file(partial);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // a file system without hard links (vfat)
        Err(_) if dir.stat(name).is_err() => dir.rename(partial, name)?,
        Err(error) => return Err(error),
    }
    dir.sync_dir(&RelPath::root())
}

/// A file that an interrupted archive of the same name left behind.
pub(crate) fn remove_leftover(dir: &dyn Disk, partial: &RelPath) -> io::Result<()> {
    match dir.remove_file(partial) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
